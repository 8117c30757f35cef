"""The sharding policy: mesh axes, and one table from the model's logical axes to them.

data    batches apart, parameters whole
fsdp    batches apart, parameters and optimizer state cut along `embed`
tensor  heads, MLP and vocabulary cut
"""

import jax
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh, NamedSharding, PartitionSpec

AXES = ("data", "fsdp", "tensor")
LOGICAL_TO_MESH = {
    "batch": ("data", "fsdp"),
    "length": None,
    "vocab": "tensor",
    "embed": "fsdp",
    "hidden": None,  # the residual stream: `embed` of an activation, whole on every device
    "heads": "tensor",
    "kv_heads": "tensor",  # replicated where the tensor axis does not divide them
    "head_dim": None,
    "mlp": "tensor",
    "layers": None,
}


def make_mesh(data: int, fsdp: int, tensor: int, devices=None) -> Mesh:
    """A (data, fsdp, tensor) mesh over `devices` (default: all); one axis may be −1 and takes the rest.

    Raises:
      ValueError: if the product of the axes is not the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = [data, fsdp, tensor]
    given = int(np.prod([s for s in sizes if s != -1]))
    if sizes.count(-1) > 1 or any(s < 1 and s != -1 for s in sizes):
        raise ValueError(f"mesh (data, fsdp, tensor) = {tuple(sizes)}: sizes are positive, at most one is -1")
    if len(devices) % given or (-1 not in sizes and given != len(devices)):
        raise ValueError(
            f"mesh (data, fsdp, tensor) = {tuple(sizes)} does not fit {len(devices)} device(s): "
            "the product of the axes has to be their number; -1 takes the rest"
        )
    sizes = [len(devices) // given if s == -1 else s for s in sizes]
    # Auto: the compiler places what the table leaves open (make_mesh alone would make every axis Explicit).
    return jax.make_mesh(sizes, AXES, axis_types=(jax.sharding.AxisType.Auto,) * 3, devices=devices)


def spec(
    logical: tuple[str | None, ...], mesh: Mesh, shape: tuple[int, ...] | None = None, *, activation: bool = False
) -> PartitionSpec:
    """The mesh axes of an array with these logical axes; an activation stays whole along a size that does not divide.

    Raises:
      ValueError: if two dimensions would be cut along one mesh axis, or a size does not divide.
    """
    axes, used = [], set()
    for i, name in enumerate(logical):
        target = None if name is None else LOGICAL_TO_MESH[name]
        targets = (target,) if isinstance(target, str) else (target or ())
        ways = int(np.prod([mesh.shape[t] for t in targets]))
        if shape is not None and shape[i] % ways:
            if name != "kv_heads" and not activation:
                raise ValueError(f"{name} = {shape[i]} is not divisible by mesh {'·'.join(targets)} = {ways}")
            target, targets = None, ()
        if used & set(targets):
            raise ValueError(f"logical axes {logical} use a mesh axis twice")
        used |= set(targets)
        axes.append(target)
    return PartitionSpec(*axes)


def constrain(x: jax.Array, *logical: str | None) -> jax.Array:
    """`x`, placed by its logical axes on the mesh that is set (`jax.set_mesh`); unchanged where none is."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return x
    return jax.lax.with_sharding_constraint(x, spec(logical, mesh, x.shape, activation=True))


def tree_shardings(abstract_boxed, mesh: Mesh):
    """Shardings of a tree of `nn.LogicallyPartitioned` boxes (of shapes), as `Decoder.init` makes them."""

    def one(leaf):
        if isinstance(leaf, nn.LogicallyPartitioned):
            return NamedSharding(mesh, spec(leaf.names, mesh, leaf.value.shape))
        return NamedSharding(mesh, PartitionSpec())

    return jax.tree.map(one, abstract_boxed, is_leaf=lambda x: isinstance(x, nn.LogicallyPartitioned))


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows of a batch over data and fsdp."""
    return NamedSharding(mesh, spec(("batch",), mesh))
