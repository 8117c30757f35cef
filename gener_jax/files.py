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
            raise CheckpointError(path, "no such file")
        with path.open("rb") as file:
            data = file.read(max_bytes + 1)
        if len(data) > max_bytes:
            raise CheckpointError(path, f"has more than the {max_bytes:,} bytes that are read")
        return data.decode()
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(path, f"cannot be read: {error}") from None


def read_json(path: Path, max_bytes: int = 1 << 20) -> dict:
    """The object in a JSON file; raises CheckpointError like `read_text`, and where it holds none."""
    try:
        fields = json.loads(read_text(path, max_bytes))
    except CheckpointError:
        raise
    except (ValueError, RecursionError) as error:
        raise CheckpointError(path, f"cannot be read as JSON: {error}") from None
    if not isinstance(fields, dict):
        raise CheckpointError(path, "holds no JSON object")
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


class Growing:
    """A file that is written piece by piece beside its place, gone on with after a stop, and whole once it is there.

    What it is made of is kept in `<path>.partial.json`, so that it is not gone on with from something else.
    """

    def __init__(self, path: Path, made_of: dict, *, resume: bool = True):
        """`made_of`: plain values that settle every byte; without `resume`, what was begun is begun again.

        Raises:
          ConfigError: if the file exists, or was begun from something else.
        """
        if not path.name or path.is_dir():
            raise ConfigError(f"{path}: is a folder; give the name of a file")
        self.path, self._made_of = path, json.loads(json.dumps(made_of))
        self.partial = path.with_name(path.name + ".partial")
        self._state = path.with_name(path.name + ".partial.json")
        if os.path.lexists(path):
            raise ConfigError(f"{path}: exists already; remove it or give another name")
        path.absolute().parent.mkdir(parents=True, exist_ok=True)
        self.done, self.facts, size = 0, {}, 0
        state = read_json(self._state, 64 << 20) if resume and self._state.exists() and self.partial.exists() else {}
        if state.get("done"):
            before = state.get("made_of")
            if before != self._made_of:
                names = [n for n in self._made_of if not isinstance(before, dict) or before.get(n) != self._made_of[n]]
                raise ConfigError(
                    f"{self.partial}: was begun with another {', '.join(names) or 'setting'}; give what it was begun "
                    "with, or remove it to begin again"
                )
            self.done, self.facts, size = state["done"], state["facts"], state["bytes"]
        self._file = self.partial.open("r+b" if size else "wb")
        self._file.truncate(size)
        self._file.seek(size)

    def append(self, data: bytes, done: int, **facts) -> None:
        """Adds bytes with which `done` pieces are in it; a stop after this loses nothing. `facts` are kept as well."""
        self._file.write(data)
        self._file.flush()
        os.fsync(self._file.fileno())
        self.done, self.facts = done, {**self.facts, **facts}
        state = {"made_of": self._made_of, "done": done, "facts": self.facts, "bytes": self._file.tell()}
        beside = self._state.with_suffix(".tmp")
        beside.write_text(json.dumps(state))
        os.replace(beside, self._state)

    def discard(self) -> None:
        """Removes it: what it holds is somewhere else now."""
        self._file.close()
        self.partial.unlink()
        self._state.unlink(missing_ok=True)

    def finish(self, described: dict) -> None:
        """Puts it in its place, with `described` as JSON in `<path>.json` beside it."""
        self._file.close()
        self.path.with_name(self.path.name + ".json").write_text(json.dumps(described, indent=2) + "\n")
        os.replace(self.partial, self.path)
        self._state.unlink(missing_ok=True)
