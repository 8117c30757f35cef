"""Files that others made, read within bounds; folders of ours, written whole or not at all."""

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from gener_jax.config import ConfigError
from gener_jax.errors import CheckpointError


def read_text(path: Path, max_bytes: int) -> str:
    """The text of a regular file in UTF-8.

    Raises:
      CheckpointError: if it is absent, no regular file, larger than that, or no text.
    """
    try:
        if not path.is_file():  # a pipe would wait, a device never end
            raise CheckpointError(f"{path}: no such file")
        with path.open("rb") as file:
            data = file.read(max_bytes + 1)
        if len(data) > max_bytes:
            raise CheckpointError(f"{path}: has more than the {max_bytes:,} bytes that are read")
        return data.decode()
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from None


def read_json(path: Path, max_bytes: int = 1 << 20) -> dict:
    """The object in a JSON file; raises CheckpointError like `read_text`, and where it holds none."""
    try:
        fields = json.loads(read_text(path, max_bytes))
    except CheckpointError:
        raise
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: cannot be read as JSON: {error}") from None
    if not isinstance(fields, dict):
        raise CheckpointError(f"{path}: holds no JSON object")
    return fields


@contextlib.contextmanager
def whole_folder(output: Path) -> Iterator[Path]:
    """A new folder beside `output` that becomes it if all goes well, and is removed, with what held it, if not.

    Raises:
      ConfigError: if `output` exists.
    """
    if os.path.lexists(output):
        raise ConfigError(f"{output}: exists already; give a folder that does not")
    made = [parent for parent in output.absolute().parents if not parent.exists()]
    output.absolute().parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{output.name}.", dir=output.absolute().parent))
    try:
        yield partial
        partial.chmod(0o777 & ~_umask())  # mkdtemp's is for its owner alone
        os.rename(partial, output)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        for parent in made:
            with contextlib.suppress(OSError):
                parent.rmdir()
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
