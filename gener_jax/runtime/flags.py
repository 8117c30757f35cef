"""XLA's flags for training on GPUs and TPUs, each with its reason.

The commands that train call `apply` first of all, since XLA reads its flags once, when jax first uses a device.
`train.xla_flags` turns it off; a flag that the user has set keeps its value.
"""

import importlib.util
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path

from gener_jax.runtime import distributed

# Platform → the variable that XLA reads there; flag → its value, and what it is for. XLA ends a process at a flag that
# it does not know: tests/test_flags.py sets each of them. Their effect on speed has not been measured.
VARIABLES = {"gpu": "XLA_FLAGS", "tpu": "LIBTPU_INIT_ARGS"}
FLAGS = {
    "gpu": {
        # The pass proves of each stack that the loop writes all of it before anything reads it (openxla/xla #42808).
        "xla_gpu_enable_dus_accumulator_zero_init_elimination": ("true", "no zeros where the loop over layers writes"),
        "xla_gpu_enable_latency_hiding_scheduler": ("true", "orders a program so that transfers run beside products"),
        "xla_gpu_enable_pipelined_all_gather": ("true", "gathers the next layer's weights during this layer"),
        "xla_gpu_enable_pipelined_reduce_scatter": ("true", "scatters a layer's gradients during the next layer"),
        "xla_gpu_enable_pipelined_all_reduce": ("true", "the same for gradients that are summed over mesh.data"),
        # 128 MiB: the matrices of a layer of the 1.2b shape have 84 in bfloat16.
        "xla_gpu_all_gather_combine_threshold_bytes": ("134217728", "one gather per layer, not one per few matrices"),
        "xla_gpu_reduce_scatter_combine_threshold_bytes": ("134217728", "the same for its gradients"),
    },
    "tpu": {  # fusing all-gathers is left to libtpu, which decides by the kind of TPU
        "xla_tpu_enable_async_collective_fusion": ("true", "joins transfers with the products that run beside them"),
        "xla_tpu_overlap_compute_collective_tc": ("true", "does so on TPUs with a single core per chip too"),
    },
}
ALONE = {"xla_gpu_enable_dus_accumulator_zero_init_elimination"}  # for one device too; others are about transfers


def platform(environment: Mapping[str, str] = os.environ, root: Path = Path("/")) -> tuple[str, int]:
    """The platform that jax will use, "cpu", "gpu" or "tpu", and this machine's devices of it; starts nothing.

    JAX_PLATFORMS names it. Else it is the first of TPU and GPU that there are a device file and a package for. `root`:
    of the file system.
    """
    gpus = [x for x in root.glob("dev/nvidia*") if re.fullmatch(r"nvidia\d+", x.name)] or [*root.glob("dev/dxg")]  # WSL
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    num_gpus = len(gpus) if visible is None else len([x for x in visible.split(",") if x.strip() not in ("", "-1")])
    num_tpus = len([*root.glob("dev/accel[0-9]*")] or [*root.glob("dev/vfio/[0-9]*")])
    named = environment.get("JAX_PLATFORMS", "").split(",")[0].strip().lower()
    if named:
        found = {"cuda": "gpu", "rocm": "gpu"}.get(named, named)
    elif num_tpus and importlib.util.find_spec("libtpu"):
        found = "tpu"
    elif num_gpus and any(importlib.util.find_spec(f"jax_cuda{version}_plugin") for version in (12, 13)):
        found = "gpu"
    else:
        found = "cpu"
    return found, {"gpu": num_gpus, "tpu": num_tpus}.get(found, 1)


def apply(wanted: bool = True, num_processes: int | None = None) -> str | None:
    """`add` for this machine's platform and as many devices as train; returns its line, or None.

    Args:
      wanted: `train.xla_flags`.
      num_processes: of the run, if given on the command line.
    """
    name, number = platform()
    several = number > 1 or (num_processes or 1) > 1 or distributed.surrounding(os.environ) is not None
    return add(name, several) if wanted and name in FLAGS else None


def add(name: str, several: bool = True) -> str | None:
    """Adds the flags of a platform, "gpu" or "tpu", to the environment; returns a line that says so, None if it has
    them. Not `several`: those of `ALONE`.

    Must come before jax is imported; later it adds none, and the line says that.
    """
    variable = VARIABLES[name]
    text = os.environ.get(variable, "").strip()
    flags = missing(name, text, several)
    if not flags:
        return None
    if text and not text.startswith("-"):
        return f"train.xla_flags adds none: {variable} names a file, {text}"
    if "jax" in sys.modules:
        return f"train.xla_flags adds none: jax was imported before {variable} could be set"
    os.environ[variable] = " ".join([*text.split(), *flags])
    return f"train.xla_flags adds to {variable}: {' '.join(flags)}"


def missing(name: str, text: str, several: bool = True) -> list[str]:
    """The flags of a platform that `text`, the value of its variable, does not set to anything; see `add`."""
    given = {word.lstrip("-").partition("=")[0] for word in text.split()}
    return [
        f"--{flag}={value}"
        for flag, (value, _) in FLAGS[name].items()
        if (several or flag in ALONE) and not {flag, f"no{flag}"} & given
    ]


def current() -> dict[str, str]:
    """The variables with XLA's flags that are set in this process, by `apply` or the user."""
    return {name: os.environ[name] for name in VARIABLES.values() if os.environ.get(name)}
