"""Where and by what a result was made."""

import importlib.metadata
import platform
import subprocess
import sys
from pathlib import Path

from gener_jax import __version__
from gener_jax.runtime import flags


def environment() -> dict:
    """The command, commit, versions, devices and XLA flags that made a result."""
    import jax

    versions = {"gener_jax": __version__}
    for package in (
        "jax",
        "jaxlib",
        "flax",
        "optax",
        "orbax-checkpoint",
        "grain",
        "array_record",
        "numpy",
    ):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed as a package"
    return {
        "command": [sys.executable, *sys.orig_argv[1:]],
        "commit": _commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "devices": [f"{d.platform} {d.device_kind}" for d in jax.devices()],
        "versions": versions,
        "xla_flags": flags.current(),
    }


def _commit() -> str | None:
    """The commit of the checkout that this package runs from; None outside a checkout."""
    try:
        command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40"]
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
