"""Files from elsewhere, read within size limits; our folders, written atomically."""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from data_pipeline.files import atomic, made_parents
from gener_jax.runtime.errors import CheckpointError, ConfigError


def from_here(path: str) -> str:
    """A path in or below the working directory as seen from there; any other as it is."""
    inside = Path(path).is_absolute() and Path(path).is_relative_to(Path.cwd())
    return str(Path(path).relative_to(Path.cwd())) if inside else path


def read_text(path: Path, max_bytes: int) -> str:
    """The text of a regular file in UTF-8.

    Raises:
      CheckpointError: if it is absent, not a regular file, larger than `max_bytes`, or not text.
    """
    try:
        if not path.is_file():  # reading a pipe would block, and a device may never end
            raise CheckpointError(path, "no such file")
        with path.open("rb") as file:
            data = file.read(max_bytes + 1)
        if len(data) > max_bytes:
            raise CheckpointError(path, f"is larger than the {max_bytes:,} bytes allowed")
        return data.decode()
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(path, f"cannot be read: {error}") from None


def read_json(path: Path, max_bytes: int = 1 << 20) -> dict:
    """The object in a JSON file; raises CheckpointError like `read_text`, and if the file holds no JSON object."""
    try:
        fields = json.loads(read_text(path, max_bytes))
    except CheckpointError:
        raise
    except (ValueError, RecursionError) as error:
        raise CheckpointError(path, f"cannot be read as JSON: {error}") from None
    if not isinstance(fields, dict):
        raise CheckpointError(path, "holds no JSON object")
    return fields


def refuse_existing(output: Path, overwrite: bool = False, flag: str = "--output") -> None:
    """Checks that an output does not exist yet, or may be replaced: a file, a link, or a folder with a model.

    Raises:
      ConfigError: of `flag`, if it exists without `overwrite`, or is a folder with something else.
    """
    if os.path.lexists(output) and not overwrite:
        raise ConfigError("already exists; give another name, or --overwrite to replace it", flag, str(output))
    described = any((output / name).is_file() for name in ("config.json", "adapter_config.json"))
    if output.is_dir() and not output.is_symlink() and not described:
        raise ConfigError("is a folder without a model, which is not replaced; give another name", flag, str(output))


@contextlib.contextmanager
def whole_folder(output: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """A temporary folder that is renamed to `output` on success and removed on failure, with the parents it needed.

    With `overwrite`, what has that name is removed once the new folder is complete.

    Raises:
      ConfigError: if `output` exists and may not be replaced.
    """
    refuse_existing(output, overwrite)
    with made_parents(output), atomic(output) as partial:
        partial.mkdir()
        yield partial
        if output.is_symlink() or output.is_file():
            output.unlink()
        elif output.exists():
            shutil.rmtree(output)
