"""The persistent compilation cache: the same command compiles its programs only once."""

import os
from pathlib import Path

import jax

from gener_jax.config import Config
from gener_jax.storage import pretrained


def keep_programs(config: Config, folder: Path) -> None:
    """Sets the folder in which JAX saves compiled programs and finds those of earlier runs.

    The folder is `train.compilation_cache` if that is set. Otherwise there is none on CPU; on a GPU or TPU it is the
    one that JAX is configured with (JAX_COMPILATION_CACHE_DIR), else `compiled` in `folder`, the run's folder. For a
    published model it is `gener_jax/compiled` in the user's cache (XDG_CACHE_HOME, or ~/.cache).
    """
    cache = config.train.compilation_cache
    if cache is None and jax.default_backend() != "cpu" and not jax.config.jax_compilation_cache_dir:
        if pretrained.is_published(folder):
            folder = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "gener_jax"
        cache = str((folder / "compiled").absolute())
    if cache is not None:
        jax.config.update("jax_compilation_cache_dir", cache)
