"""The sharding policy: mesh axes, and one table from the model's logical axes to them.

data     shards batches; parameters are replicated
fsdp     shards batches, and parameters and optimizer state along `embed`
context  shards sequences, and parameters and optimizer state as fsdp does; attention is in `gener_jax.model.parallel`
tensor   shards heads, MLP and vocabulary
"""

import contextlib
import dataclasses
import math
from collections.abc import Mapping

import jax
from flax import linen as nn
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gener_jax.config import Config
from gener_jax.runtime.errors import ConfigError

AXES = ("data", "fsdp", "context", "tensor")  # devices along the last axis are the closest to each other
LOGICAL_TO_MESH = {
    "batch": ("data", "fsdp"),
    "length": "context",
    "vocab": "tensor",
    "embed": ("fsdp", "context"),
    "hidden": None,  # the residual stream: the `embed` dimension of activations, replicated
    "heads": "tensor",
    "kv_heads": "tensor",  # replicated if not divisible by the tensor axis
    "head_dim": None,
    "mlp": "tensor",
    "layers": None,
    "rank": None,  # of an adapter
    "outputs": None,  # of a head
}
ROWS, TOKENS = ("batch",), ("batch", "length")  # logical axes of a batch's arrays with a value per row, or per token


def axis_sizes(
    num_devices: int, data: int, fsdp: int, tensor: int, context: int = 1, remedy: str = "change one of them"
) -> dict[str, int]:
    """The size of each axis of a mesh of `num_devices` devices; one may be −1 and is inferred.

    `remedy`: what the error says to do.

    Raises:
      ConfigError: if the product of the axes is not the number of devices.
    """
    sizes = {"data": data, "fsdp": fsdp, "context": context, "tensor": tensor}
    given = math.prod(s for s in sizes.values() if s != -1)
    open_ = [name for name, size in sizes.items() if size == -1]
    if len(open_) > 1 or any(s < 1 and s != -1 for s in sizes.values()):
        raise ConfigError("sizes must be positive, and at most one may be -1", "mesh", sizes)
    if num_devices % given or (not open_ and given != num_devices):
        raise ConfigError(
            f"does not fit {num_devices} device(s): the product of the axes must be their number, and an axis of -1 is "
            f"inferred; {remedy}", "mesh", sizes,
        )  # fmt: skip
    return {name: num_devices // given if size == -1 else size for name, size in sizes.items()}


def make_mesh(data: int, fsdp: int, tensor: int, devices=None, *, context: int = 1) -> Mesh:
    """A mesh over `devices` (default: all devices of all hosts); one axis may be −1 and is inferred.

    Raises:
      ConfigError: if the product of the axes is not the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = axis_sizes(len(devices), data, fsdp, tensor, context)
    # Auto: the compiler chooses what the table leaves open (make_mesh's default makes every axis Explicit).
    return jax.make_mesh(
        tuple(sizes.values()), AXES, axis_types=(jax.sharding.AxisType.Auto,) * len(AXES), devices=devices
    )


@contextlib.contextmanager
def on(mesh: Mesh):
    """What runs inside is computed on a mesh; a context manager.

    Types are those of the configuration: 64-bit types, which a program may have enabled (JAX_ENABLE_X64), are off.
    """
    with jax.set_mesh(mesh), jax.enable_x64(False):
        yield


def mesh_of(config: Config, devices=None) -> Mesh:
    """The mesh of a configuration.

    Raises:
      ConfigError: with values that fit, if it does not fit the devices, or does not divide the batch or the context.
    """
    devices = jax.devices() if devices is None else devices
    sizes = axis_sizes(len(devices), **dataclasses.asdict(config.mesh), remedy=remedy(config, len(devices)))
    check_divides(config, sizes)
    return make_mesh(**sizes, devices=devices)


def remedy(config: Config, num_devices: int) -> str:
    """What to set so that a configuration fits `num_devices` devices, for an error.

    Each axis keeps what divides the devices and the model; an axis of −1, else fsdp, then data, take the rest. The
    batch grows to the next size that these divide.
    """
    m, mesh, length = config.model, dataclasses.asdict(config.mesh), config.data.context_length
    open_ = next((name for name, size in mesh.items() if size == -1), "fsdp")
    sizes, left, embed = {}, num_devices, m.hidden_size
    for name in sorted(("tensor", "context", "fsdp", "data"), key=lambda name: name == open_):  # the open one last
        limit = {
            "tensor": math.gcd(m.num_attention_heads, m.intermediate_size, m.vocab_size),
            "context": math.gcd(embed, 1 if length % 2 else length // 2),
            "fsdp": embed,
            "data": left,
        }[name]
        sizes[name] = math.gcd(left, limit, left if name == open_ else mesh[name])
        left //= sizes[name]
        embed //= sizes[name] if name in LOGICAL_TO_MESH["embed"] else 1
    sizes["data"] *= left
    rows = sizes["data"] * sizes["fsdp"] * config.train.accumulate
    batch_size = -(-config.train.batch_size // rows) * rows
    fields = {f"mesh.{name}": size for name, size in sizes.items() if mesh[name] not in (size, -1)}
    fields |= {"train.batch_size": batch_size} if batch_size != config.train.batch_size else {}
    return "set " + " ".join(f"--config.{name}={value}" for name, value in fields.items())


def check_divides(config: Config, sizes: Mapping[str, int]) -> None:
    """Checks that a mesh of these sizes divides the batch and the context of a configuration evenly.

    Raises:
      ConfigError: if it does not.
    """
    shards, microbatches = sizes["data"] * sizes["fsdp"], config.train.accumulate
    if config.train.batch_size % (shards * microbatches):
        accumulate = f" times train.accumulate {microbatches}" if microbatches > 1 else ""
        raise ConfigError(
            f"not divisible by mesh data·fsdp = {shards}{accumulate}; {remedy(config, math.prod(sizes.values()))}",
            "train.batch_size", config.train.batch_size,
        )  # fmt: skip
    chunks = 2 * sizes["context"]  # in the balanced order each device has two
    if sizes["context"] > 1 and config.data.context_length % chunks:
        raise ConfigError(
            f"not divisible by twice mesh context = {chunks}; {remedy(config, math.prod(sizes.values()))}",
            "data.context_length", config.data.context_length,
        )  # fmt: skip


def spec(
    logical: tuple[str | None, ...], mesh: Mesh, shape: tuple[int, ...] | None = None, *, activation: bool = False
) -> PartitionSpec:
    """The mesh axes of an array with these logical axes.

    A dimension that its mesh axes do not divide is replicated if it is `kv_heads` or of an activation.

    Raises:
      ValueError: if two dimensions would be sharded over one mesh axis, or a size is not divisible.
    """
    axes, used = [], set()
    for i, name in enumerate(logical):
        target = None if name is None else LOGICAL_TO_MESH[name]
        targets = tuple(t for t in ((target,) if isinstance(target, str) else target or ()) if mesh.shape[t] > 1)
        shards = math.prod(mesh.shape[t] for t in targets)
        if shape is not None and shape[i] % shards:
            if name != "kv_heads" and not activation:
                raise ValueError(f"{name} = {shape[i]} is not divisible by mesh {'·'.join(targets)} = {shards}")
            targets = ()
        if used & set(targets):
            raise ValueError(f"logical axes {logical} use a mesh axis twice")
        used |= set(targets)
        axes.append(targets if len(targets) > 1 else targets[0] if targets else None)
    return PartitionSpec(*axes)


def constrain(x: jax.Array, *logical: str | None) -> jax.Array:
    """`x` sharded by its logical axes on the current mesh (see `on`); unchanged if none is set."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return x
    return jax.lax.with_sharding_constraint(x, spec(logical, mesh, x.shape, activation=True))


def tree_shardings(abstract_boxed, mesh: Mesh):
    """Shardings of a tree of `nn.LogicallyPartitioned` boxes (of shapes), as made by `Decoder.init`."""

    def one(leaf):
        if isinstance(leaf, nn.LogicallyPartitioned):
            return NamedSharding(mesh, spec(leaf.names, mesh, leaf.value.shape))
        return NamedSharding(mesh, PartitionSpec())

    return jax.tree.map(one, abstract_boxed, is_leaf=lambda x: isinstance(x, nn.LogicallyPartitioned))


def batch_sharding(mesh: Mesh, axes: tuple[str | None, ...] = TOKENS) -> NamedSharding:
    """The sharding of an array of a batch with these logical axes: rows over data and fsdp, length over context.

    Raises:
      ValueError: if the first axis is not `batch`, or `length` is another than the second.
    """
    if axes[:1] != ROWS or "length" in axes[2:]:
        raise ValueError(f"logical axes {axes} of a batch: the first must be batch, and length may only be the second")
    return NamedSharding(mesh, spec(axes, mesh))
