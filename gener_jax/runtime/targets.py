"""Devices that this machine does not have, to compile programs for: the compiler needs a description, not a device."""

import importlib.util
import math
import os

from data_pipeline.errors import one_line
from gener_jax.runtime.errors import ConfigError

# What XLA's compiler asks of a GPU, by the names of `DEVICES`: those numbers that differ. From XLA's own descriptions
# h100_sxm, h200 and a100_sxm_80 (openxla/xla, xla/backends/gpu/target_config/specs). Those of the H200's memory are
# round there, as of a data sheet: 4.8 TB/s, 141 GiB, of which a card has 140.
_GPUS = {
    "h100": {
        "name": "NVIDIA H100 80GB HBM3", "capability": "major: 9 feature_extension: ACCELERATED_FEATURES",
        "cores": 132, "units": 128, "clock": 1.98, "bandwidth": 3352320000000, "memory": 84942979072,
        "cache": 52428800, "shared": 233472, "shared_by_block": 232448,
    },
    "h200": {
        "name": "NVIDIA H200", "capability": "major: 9 feature_extension: ACCELERATED_FEATURES",
        "cores": 132, "units": 128, "clock": 1.98, "bandwidth": 4800000000000, "memory": 151397597184,
        "cache": 52428800, "shared": 233472, "shared_by_block": 232448,
    },
    "a100": {
        "name": "NVIDIA A100-SXM4-80GB", "capability": "major: 8",
        "cores": 108, "units": 64, "clock": 1.41, "bandwidth": 2039040000000, "memory": 85100068864,
        "cache": 41943040, "shared": 167936, "shared_by_block": 166912,
    },
}  # fmt: skip
GPUS = tuple(_GPUS)
_HOST = 8  # GPUs of a host


def _description(name: str) -> str:
    """A GPU as XLA's `GpuTargetConfigProto` (xla/stream_executor/device_description.proto), in text."""
    gpu = _GPUS[name]
    return f"""
gpu_device_info {{
  name: "{gpu["name"]}"
  device_vendor: "NVIDIA Corporation"
  cuda_compute_capability {{ {gpu["capability"]} }}
  core_count: {gpu["cores"]}
  fpus_per_core: {gpu["units"]}
  clock_rate_ghz: {gpu["clock"]}
  memory_bandwidth: {gpu["bandwidth"]}
  device_memory_size: {gpu["memory"]}
  l2_cache_size: {gpu["cache"]}
  shared_memory_per_core: {gpu["shared"]}
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: {gpu["shared_by_block"]}
  threads_per_warp: 32
  threads_per_block_limit: 1024
  threads_per_core_limit: 2048
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  thread_dim_limit_x: 1024
  thread_dim_limit_y: 1024
  thread_dim_limit_z: 64
  device_address_bits: 64
  pcie_bandwidth: 34359738368
  ecc_enabled: true
  driver_version: "13.0.0"
  runtime_version: "13.0.0"
  compile_time_toolkit_version: "13.0.0"
  dnn_version: "9.12.0"
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 12 patch: 0 }}
device_description_str: "{gpu["name"]}"
"""


def has_cuda() -> bool:
    """Whether there is what compiles for GPUs: JAX's CUDA plugin, and cuDNN, which JAX asks for its version."""
    return _exists("jax_cuda13_plugin") and _exists("nvidia.cudnn")


def gpus(name: str, number: int) -> list:
    """So many GPUs of `GPUS`, up to eight of them in a host.

    Raises:
      ConfigError: without JAX's CUDA plugin and cuDNN, or if the compiler rejects the description.
    """
    import jax
    from jax.experimental import topologies

    install = "pip install -e '.[cuda]'"
    if not has_cuda():
        raise ConfigError(
            f"needs JAX's CUDA plugin and cuDNN to compile for it, though no GPU; {install}", "--device", name
        )
    # Else the plugin looks for a GPU when JAX starts, and rejects a machine without one.
    jax.config.update("jax_platforms", "cpu")
    hosts = number // math.gcd(number, _HOST) if number > _HOST else 1
    shape = f"1x{hosts}x{number // hosts}"
    try:
        return topologies.get_topology_desc(
            platform="cuda", topology_name=shape, topology=shape, target_config=_description(name)
        ).devices
    except Exception as error:  # of many kinds, some of them the plugin's own
        raise ConfigError(f"--compile {name}: {one_line(error)}; {install}") from error


def _exists(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # not even the package above
        return False


def tpus(topology: str) -> list:
    """The chips of a TPU slice such as v5p:4x4x4.

    Raises:
      ConfigError: without libtpu, or for a topology that it does not know.
    """
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # do not query a metadata server
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    from jax.experimental import topologies

    try:
        return topologies.get_topology_desc(platform="tpu", topology_name=topology).devices
    except Exception as error:  # of many kinds: the library is absent, or does not know the topology
        raise ConfigError(f"--compile {topology}: {one_line(error)}; pip install -e '.[tpu]'") from error
