"""Where compiled programs are kept, so that the same command compiles them once."""

import os
from pathlib import Path

import jax

from gener_jax.config import Config
from gener_jax.storage import pretrained


def keep_programs(config: Config, folder: Path) -> None:
    """Keeps what is compiled from now on, and takes it from there where it was kept before.

    In `train.compilation_cache`; where that is none and the platform a GPU or TPU: where JAX was told to
    (JAX_COMPILATION_CACHE_DIR), else in `compiled` in the run's folder, or, of a model that is no run's, of the user's
    cache.
    """
    kept = config.train.compilation_cache
    if kept is None and jax.default_backend() != "cpu" and not jax.config.jax_compilation_cache_dir:
        if pretrained.is_published(folder):
            folder = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "gener_jax"
        kept = str((folder / "compiled").absolute())
    if kept is not None:
        jax.config.update("jax_compilation_cache_dir", kept)
