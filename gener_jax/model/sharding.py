"""The sharding policy: mesh axes, and one table from the model's logical axes to them.

data     batches apart, parameters whole
fsdp     batches apart, parameters and optimizer state cut along `embed`
context  sequences cut, parameters and optimizer state as by fsdp; attention is `gener_jax.model.parallel`'s
tensor   heads, MLP and vocabulary cut
"""

import math
from collections.abc import Mapping

import jax
from flax import linen as nn
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gener_jax.config import Config

AXES = ("data", "fsdp", "context", "tensor")  # the last lies on the nearest devices
LOGICAL_TO_MESH = {
    "batch": ("data", "fsdp"),
    "length": "context",
    "vocab": "tensor",
    "embed": ("fsdp", "context"),
    "hidden": None,  # the residual stream: `embed` of an activation, whole on every device
    "heads": "tensor",
    "kv_heads": "tensor",  # replicated where the tensor axis does not divide them
    "head_dim": None,
    "mlp": "tensor",
    "layers": None,
}


def axis_sizes(num_devices: int, data: int, fsdp: int, tensor: int, context: int = 1) -> dict[str, int]:
    """The size of each axis of a mesh of so many devices; one may be −1 and takes the rest.

    Raises:
      ValueError: if the product of the axes is not the number of devices.
    """
    sizes = {"data": data, "fsdp": fsdp, "context": context, "tensor": tensor}
    named = f"mesh ({', '.join(sizes)}) = {tuple(sizes.values())}"
    given = math.prod(s for s in sizes.values() if s != -1)
    open_ = [name for name, size in sizes.items() if size == -1]
    if len(open_) > 1 or any(s < 1 and s != -1 for s in sizes.values()):
        raise ValueError(f"{named}: sizes are positive, at most one is -1")
    if num_devices % given or (not open_ and given != num_devices):
        raise ValueError(
            f"{named} does not fit {num_devices} device(s): "
            "the product of the axes has to be their number; -1 takes the rest"
        )
    return {name: num_devices // given if size == -1 else size for name, size in sizes.items()}


def make_mesh(data: int, fsdp: int, tensor: int, devices=None, *, context: int = 1) -> Mesh:
    """A mesh over `devices` (default: all, of all hosts); one axis may be −1 and takes the rest.

    Raises:
      ValueError: if the product of the axes is not the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = axis_sizes(len(devices), data, fsdp, tensor, context)
    # Auto: the compiler places what the table leaves open (make_mesh alone would make every axis Explicit).
    return jax.make_mesh(
        tuple(sizes.values()), AXES, axis_types=(jax.sharding.AxisType.Auto,) * len(AXES), devices=devices
    )


def mesh_of(config: Config, devices=None) -> Mesh:
    """The mesh that a configuration asks for.

    Raises:
      ValueError: if it does not fit the devices, or the batch or the context do not fit it.
    """
    m = config.mesh
    mesh = make_mesh(m.data, m.fsdp, m.tensor, devices, context=m.context)
    check_divides(config, mesh.shape)
    return mesh


def check_divides(config: Config, sizes: Mapping[str, int]) -> None:
    """Checks that a mesh of these sizes cuts the batch and the context of a configuration evenly.

    Raises:
      ValueError: if it does not.
    """
    rows, parts = sizes["data"] * sizes["fsdp"], config.train.accumulate
    if config.train.batch_size % (rows * parts):
        raise ValueError(
            f"train.batch_size {config.train.batch_size} is not divisible by mesh data·fsdp = {rows}"
            + (f" times train.accumulate {parts}" if parts > 1 else "")
            + ": change one of them"
        )
    pieces = 2 * sizes["context"]  # in the balanced order each device has two
    if sizes["context"] > 1 and config.data.context_length % pieces:
        raise ValueError(
            f"data.context_length {config.data.context_length} is not divisible by twice mesh context = {pieces}: "
            "change one of them"
        )


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
        targets = tuple(t for t in ((target,) if isinstance(target, str) else target or ()) if mesh.shape[t] > 1)
        ways = math.prod(mesh.shape[t] for t in targets)
        if shape is not None and shape[i] % ways:
            if name != "kv_heads" and not activation:
                raise ValueError(f"{name} = {shape[i]} is not divisible by mesh {'·'.join(targets)} = {ways}")
            targets = ()
        if used & set(targets):
            raise ValueError(f"logical axes {logical} use a mesh axis twice")
        used |= set(targets)
        axes.append(targets if len(targets) > 1 else targets[0] if targets else None)
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
    """Of a batch [rows, length]: rows over data and fsdp, length over context."""
    return NamedSharding(mesh, spec(("batch", "length"), mesh))
