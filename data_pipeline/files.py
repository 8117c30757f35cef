"""Files and folders that appear under their name only when they are complete."""

import contextlib
import math
import os
import shutil
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary path for a file or folder, which is renamed to `path` at the end of the block; removed on failure."""
    partial = path.with_name(f"{path.name}.partial-{os.getpid()}")
    try:
        yield partial
        os.replace(partial, path)
    except BaseException:
        if partial.is_dir():
            shutil.rmtree(partial, ignore_errors=True)
        else:
            partial.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Writes a file atomically, in UTF-8."""
    with atomic(path) as partial:
        partial.write_text(text, encoding="utf-8")


def finite(value):
    """A JSON value in which numbers that are not finite are null, since JSON has no others."""
    if isinstance(value, dict):
        return {name: finite(x) for name, x in value.items()}
    if isinstance(value, list | tuple):
        return [finite(x) for x in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@contextlib.contextmanager
def made_parents(path: Path) -> Iterator[None]:
    """Creates the folders above `path`; on failure, removes those that it created and that are empty."""
    made = [folder for folder in path.absolute().parents if not folder.exists()]
    try:
        path.absolute().parent.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        for folder in made:
            with contextlib.suppress(OSError):  # not empty, or in use by another program
                folder.rmdir()
        raise
