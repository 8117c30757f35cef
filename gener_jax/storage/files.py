"""Files from elsewhere, read within size limits; our folders, written atomically, and files, written resumably."""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

from data_pipeline import lock
from data_pipeline.errors import DataError
from data_pipeline.files import atomic, made_parents, write_text
from gener_jax.runtime.errors import CheckpointError, ConfigError


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


@contextlib.contextmanager
def whole_folder(output: Path) -> Iterator[Path]:
    """A temporary folder that is renamed to `output` on success and removed on failure, with the parents it needed.

    Raises:
      ConfigError: if `output` exists.
    """
    if os.path.lexists(output):
        raise ConfigError(f"{output}: already exists; give a new folder")
    with made_parents(output), atomic(output) as partial:
        partial.mkdir()
        yield partial


class ResumableFile(contextlib.AbstractContextManager):
    """An output file written in chunks to `<path>.partial`, resumed after a stop, and renamed when it is complete.

    `<path>.partial.json` records what it is made of, so that it is never resumed from other input. A context manager:
    at the end of the block the file is closed, and another process may resume it.
    """

    def __init__(self, path: Path, fingerprint: dict, *, resume: bool = True):
        """`fingerprint`: plain values that determine every byte; without `resume`, a partial file is started again.

        Raises:
          ConfigError: if the file exists, or the partial file was made of something else.
          FileError: if another process is writing it.
        """
        if not path.name or path.is_dir():
            raise ConfigError(f"{path}: is a folder; give the name of a file")
        self.path, self._fingerprint = path, json.loads(json.dumps(fingerprint))
        self.partial = path.with_name(path.name + ".partial")
        self._state = path.with_name(path.name + ".partial.json")
        self.done, self.facts = 0, {}
        with contextlib.ExitStack() as stack:  # releases the lock if this file cannot be opened
            stack.enter_context(lock.held(path.with_name(path.name + ".partial.lock")))
            if os.path.lexists(path):
                raise ConfigError(f"{path}: already exists; remove it or give another name")
            size = self._read_state() if resume and self._state.exists() and self.partial.exists() else 0
            self._file = stack.enter_context(self.partial.open("r+b" if size else "wb"))
            self._file.truncate(size)
            self._file.seek(size)
            self._stack = stack.pop_all()

    def __exit__(self, *_):
        self._stack.close()

    def _read_state(self) -> int:
        """Sets `done` and `facts` to those of the partial file, and returns its bytes."""
        state = read_json(self._state, 64 << 20)
        if not state.get("done"):
            return 0
        before = state.get("fingerprint")
        if before != self._fingerprint:
            same = before if isinstance(before, dict) else {}
            names = [name for name, value in self._fingerprint.items() if same.get(name) != value]
            raise ConfigError(
                f"{self.partial}: was started with another {', '.join(names) or 'setting'}; give the same again, "
                "or remove it to start over"
            )
        self.done, self.facts = state["done"], state["facts"]
        return state["bytes"]

    def append(self, data: bytes, done: int, **facts) -> None:
        """Appends bytes that make `done` items complete; a stop after this loses nothing. `facts` are stored too."""
        self._file.write(data)
        self._file.flush()
        os.fsync(self._file.fileno())
        self.done, self.facts = done, {**self.facts, **facts}
        state = {"fingerprint": self._fingerprint, "done": done, "facts": self.facts, "bytes": self._file.tell()}
        write_text(self._state, json.dumps(state))

    def discard(self) -> None:
        """Removes the partial file, whose content is elsewhere now."""
        self._file.close()
        self.partial.unlink()
        self._state.unlink(missing_ok=True)

    def finish(self, described: dict) -> None:
        """Renames it to its path, and writes `described` as JSON to `<path>.json`."""
        self._file.close()
        self.path.with_name(self.path.name + ".json").write_text(json.dumps(described, indent=2) + "\n")
        os.replace(self.partial, self.path)
        self._state.unlink(missing_ok=True)


def of_file(path: Path | None) -> dict | None:
    """What tells a file from another one of its name."""
    if path is None or str(path) == "-":
        return None if path is None else {"path": "-"}
    try:
        facts = path.stat()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    return {"path": str(path), "bytes": facts.st_size, "modified": facts.st_mtime_ns}
