"""Checks this installation: versions, devices, attention kernels, a short benchmark.

    gener-jax doctor

Start here when a run is slower than expected or does not start.
"""

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import textwrap
import time
from pathlib import Path

from data_pipeline import cli
from gener_jax import __version__
from gener_jax.cli import command
from gener_jax.runtime.devices import device_of

_VERSIONS = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "array_record", "numpy")
_PLUGINS = ("jax-cuda13-plugin", "jax-cuda12-plugin", "nvidia-cudnn-cu13", "nvidia-cudnn-cu12", "libtpu")
# Extra → a module that it brings, and what needs it.
_EXTRAS = {
    "hub": ("huggingface_hub", "--download"),
    "parquet": ("pyarrow", "embed --output X.parquet"),
    "parity": ("transformers", "convert --verify"),
    "tpu": ("libtpu", "TPUs, and plan --compile for them"),
    "tensorboard": ("tensorboardX", "config.train.writers=tensorboard"),
    "wandb": ("wandb", "config.train.writers=wandb"),
    "tracks": ("pyBigWig", "bigWig files and sequence logos"),
}
_HEAD_DIMS, _LENGTH = (64, 96, 128), 2048  # of the attention calls that are asked about, in tokens
SECONDS = 5  # of the benchmark, compilation not counted


def versions() -> dict[str, str]:
    """The version of each package that matters and is installed."""
    found = {"gener_jax": __version__, "python": platform.python_version()}
    for name in (*_VERSIONS, *_PLUGINS):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def devices() -> dict:
    """The devices that jax finds: platform, number, kind, GiB of each, and the peak of their kind in TFLOP/s."""
    import jax

    from gener_jax.model import memory

    first = jax.devices()[0]
    known = device_of(first.device_kind)
    return {
        "platform": first.platform,
        "number": jax.device_count(),
        "kind": first.device_kind,
        "gib_each": round(memory.available(), 1),
        "peak_bfloat16_tflops": known and known.tflops,
    }


def attention() -> dict[str, dict]:
    """What each kernel computes here: by name, the calls that it `runs`, and the others by the `refused` reason.

    A call is one of training, on 2048 tokens: "bfloat16 64" has heads of size 64. Whatever no kernel runs is computed
    without one, in blocks.
    """
    import jax.numpy as jnp

    from gener_jax.model import kernels

    calls = {
        f"{dtype} {head_dim}": (dtype, head_dim, False, None)
        for dtype in ("bfloat16", "float32")
        for head_dim in _HEAD_DIMS
    }
    calls |= {"document masks": ("bfloat16", 64, True, None), "sliding windows": ("bfloat16", 64, False, 512)}
    found = {name: {"runs": [], "refused": {}} for name in kernels.KERNELS}
    for name, row in found.items():
        if kernels.KERNELS[name] != kernels.platform():  # said once, not after what else it refuses
            row["refused"][f"runs on a {kernels.KERNELS[name].upper()}, not on {kernels.platform()}"] = list(calls)
            continue
        for call, (dtype, head_dim, segments, window) in calls.items():
            array = jnp.zeros((1, _LENGTH, 1, head_dim), dtype)
            if reason := kernels.refusal(name, kernels.Case(array, array, 0, segments, window)):
                row["refused"].setdefault(reason, []).append(call)
            else:
                row["runs"].append(call)
    return found


def folders() -> dict[str, str | int]:
    """Where compiled programs and published models are kept, and the free space here, in GiB."""
    import jax

    from gener_jax.storage.huggingface import hub

    on_cpu = jax.default_backend() == "cpu"
    programs = os.environ.get("JAX_COMPILATION_CACHE_DIR") or ("no folder (CPU)" if on_cpu else "each run's folder")
    return {
        "compiled_programs": programs,
        "hugging_face": str(hub.cache()),
        "free_gib_here": round(shutil.disk_usage(Path.cwd()).free / 2**30),
    }


def benchmark(seconds: float = SECONDS) -> dict:
    """The speed of a matrix product and of training a tiny model, in about `seconds` in all without compilation."""
    import jax
    import jax.numpy as jnp

    from gener_jax.config import Config, Data, Mesh, Model, Optimizer, Train
    from gener_jax.training.speed import measure

    size, dtype, steps = (1024, "float32", 8) if jax.default_backend() == "cpu" else (8192, "bfloat16", 100)
    matrix, product = jnp.ones((size, size), dtype), jax.jit(jnp.matmul)
    product(matrix, matrix).block_until_ready()
    began, number = time.perf_counter(), 0
    while (took := time.perf_counter() - began) < seconds / 2:
        product(matrix, matrix).block_until_ready()
        number += 1
    model = Model(
        hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2,
        dtype=dtype,
    )  # fmt: skip
    config = Config(
        name="doctor", model=model, data=Data(context_length=128), train=Train(batch_size=4, num_steps=1000),
        optimizer=Optimizer(warmup_steps=0), mesh=Mesh(1, 1),
    )  # fmt: skip
    found = measure(config, steps, jax.devices()[:1])
    return {
        "dtype": dtype,
        "matmul_size": size,
        "matmul_tflops": float(f"{2 * size**3 * number / took / 1e12:.3g}"),
        "train_parameters": found["parameters"],
        "train_tokens_per_s": round(found["tokens_per_s"]),
    }


def hints(facts: dict) -> list[str]:
    """What to do about what was found, a line each."""
    platform_, found = facts["devices"]["platform"], []
    if platform_ == "cpu" and shutil.which("nvidia-smi"):
        found.append("there is an NVIDIA driver, but jax uses no GPU: pip install -e '.[cuda]', unset JAX_PLATFORMS")
    if platform_ == "cpu" and Path("/dev/accel0").exists():
        found.append("there is a TPU, but jax does not use it: pip install -e '.[tpu]', unset JAX_PLATFORMS")
    if platform_ == "cpu" and not found:
        found.append("a CPU trains small models: experiments/quickstart.py; plan large ones with gener-jax plan")
    if platform_ != "cpu" and facts["devices"]["peak_bfloat16_tflops"] is None:
        found.append(f"{facts['devices']['kind']} is not in the table of devices, so there is no MFU")
    if facts["folders"]["free_gib_here"] < 20:
        found.append("little free space here: checkpoints and datasets may fill it")
    return found


def report(facts: dict) -> str:
    """The facts as text, one screen."""
    device, own = facts["devices"], facts["folders"]
    versions_ = facts["versions"]
    first = [f"{name} {versions_[name]}" for name in ("gener_jax", "python", "jax", "jaxlib")]
    others = [f"{name} {version}" for name, version in versions_.items() if f"{name} {version}" not in first]
    peak = device["peak_bfloat16_tflops"]
    absent = [f"{name} ({what})" for name, (module, what) in _EXTRAS.items() if name not in facts["extras"]]
    rows = [
        ("versions", ", ".join(first)),
        ("", ", ".join(others)),
        ("devices", f"{device['number']} × {device['kind']} ({device['platform']}), {device['gib_each']:g} GiB each"
                    + (f", peak {peak:g} TFLOP/s in bfloat16" if peak else "")),
    ]  # fmt: skip
    for i, (name, row) in enumerate(facts["attention"].items()):
        parts = [", ".join(row["runs"])] if row["runs"] else []
        parts += [
            f"not {', '.join(calls)}: {reason}" if row["runs"] else reason for reason, calls in row["refused"].items()
        ]
        rows.append(("" if i else "attention", f"{name}: {'; '.join(parts)}"))
    rows += [
        ("", "all else without a kernel, in blocks"),
        ("programs", f"compiled ones are kept in {own['compiled_programs']}"),
        ("models", f"published ones are looked up in {own['hugging_face']}"),
        ("disk", f"{own['free_gib_here']:,} GiB free here"),
        ("extras", ", ".join(facts["extras"]) or "none"),
        ("", f"absent: {', '.join(absent)}" if absent else ""),
    ]
    if speed := facts.get("benchmark"):
        of_peak = f", {speed['matmul_tflops'] / peak:.0%} of the peak" if peak and speed["dtype"] == "bfloat16" else ""
        rows += [
            ("speed", f"matrix product of {speed['matmul_size']} × {speed['matmul_size']} in {speed['dtype']}: "
                      f"{speed['matmul_tflops']:g} TFLOP/s{of_peak}"),
            ("", f"training a tiny model of {speed['train_parameters']:,} parameters: "
                 f"{speed['train_tokens_per_s']:,} tokens/s (not the speed of a run: gener-jax benchmark train)"),
        ]  # fmt: skip
    rows += [("" if i else "hints", hint) for i, hint in enumerate(hints(facts))]
    lines = []
    for name, text in rows:
        wrapped = textwrap.wrap(text, cli.WIDTH - 11)
        lines += [f"{name if not i else '':11}{line}".rstrip() for i, line in enumerate(wrapped)]
    return "\n".join(lines)


def main(argv=None) -> None:
    """The command."""
    parser = cli.Parser(__doc__)
    parser.add_argument("--skip_benchmark", action="store_true", help="facts alone, without the five seconds of speed")
    cli.add_json(parser)
    args = parser.parse_args(argv)
    facts = {"versions": versions(), "devices": devices(), "attention": attention(), "folders": folders()}
    facts["extras"] = [name for name, (module, _) in _EXTRAS.items() if importlib.util.find_spec(module)]
    if not args.skip_benchmark:
        facts["benchmark"] = benchmark()
    with cli.text(args.json):
        print(report(facts))
    cli.finish(facts, args.json, listed=False)


if __name__ == "__main__":
    command.run(main)
