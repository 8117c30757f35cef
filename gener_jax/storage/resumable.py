"""An output file, written in chunks and resumed after a stop; its fingerprint decides whether it may be resumed."""

import contextlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

from data_pipeline import lock
from data_pipeline.errors import FileError
from data_pipeline.files import write_text
from gener_jax.runtime.environment import environment
from gener_jax.runtime.errors import ConfigError
from gener_jax.runtime.progress import log
from gener_jax.storage.files import read_json, refuse_existing


class ResumableFile(contextlib.AbstractContextManager):
    """An output file written in chunks to `<path>.partial`, resumed after a stop, and renamed when it is complete.

    `<path>.partial.json` records what it is made of, so that it is never resumed from other input. A context manager:
    at the end of the block the file is closed, and another process may resume it; a KeyboardInterrupt then says where.
    """

    def __init__(self, path: Path, fingerprint: dict, unit: str, *, overwrite: bool = False):
        """`fingerprint`: plain values that determine every byte; `unit`: what is counted, for a line if it resumes.

        A file made from standard input is started again, since another run gets other data from there. With `overwrite`
        a complete file is replaced when the new one is complete, and a partial file that was made of something else is
        started again.

        Raises:
          ConfigError: if the file exists, or the partial file was made of something else, without `overwrite`.
          FileError: if another process is writing it.
        """
        if not path.name or path.is_dir():
            raise ConfigError("is a folder; give the name of a file", "--output", str(path))
        self.path, self._fingerprint, self._began = path, json.loads(json.dumps(fingerprint)), time.perf_counter()
        self.partial = path.with_name(path.name + ".partial")
        self._state = path.with_name(path.name + ".partial.json")
        self.done, self.facts = 0, {}
        self._unit, self._piped = unit, {"path": "-"} in fingerprint.values()
        with contextlib.ExitStack() as stack:  # releases the lock if this file cannot be opened
            stack.enter_context(lock.held(path.with_name(path.name + ".partial.lock")))
            refuse_existing(path, overwrite)
            size = (
                0
                if self._piped or not self._state.exists() or not self.partial.exists()
                else self._read_state(overwrite)
            )
            if self.done:
                log(f"resuming after {unit} {self.done:,}")
            self._file = stack.enter_context(self.partial.open("r+b" if size else "wb"))
            self._file.truncate(size)
            self._file.seek(size)
            self._stack = stack.pop_all()

    def __exit__(self, kind, error, _):
        self._stack.close()
        if isinstance(error, KeyboardInterrupt):
            kept = f"{self._unit} {self.done:,} and those before it are kept; the same command resumes there"
            error.args = (kept if self.done and not self._piped else "nothing is kept yet",)

    def _read_state(self, overwrite: bool) -> int:
        """Sets `done` and `facts` to those of the partial file, and returns its bytes: 0 if it is started again."""
        state = read_json(self._state, 64 << 20)
        if not state.get("done"):
            return 0
        before, now = state["fingerprint"], self._fingerprint
        if names := [name for name in {**before, **now} if before.get(name) != now.get(name)]:
            if overwrite:
                return 0
            raise ConfigError(
                f"{self.partial}: was started with another {', '.join(names)}; give the same again, or --overwrite to "
                "start over"
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

    def finish(self, facts: dict, make: Callable[[Path, Path], None] = os.replace) -> dict:
        """Makes the file of the partial one, and writes fingerprint, facts and environment to `<path>.json`.

        `make(partial, path)`: by default it is renamed. Returns the path, facts and seconds of this run.
        """
        self._file.close()
        described = {**self._fingerprint, **facts, "environment": environment()}
        write_text(self.path.with_name(self.path.name + ".json"), json.dumps(described, indent=2) + "\n")
        make(self.partial, self.path)
        self.partial.unlink(missing_ok=True)
        self._state.unlink(missing_ok=True)
        return {"output": str(self.path), **facts, "seconds": round(time.perf_counter() - self._began, 1)}


def of_file(path: Path) -> dict:
    """What tells a file from another one of its name, for a fingerprint.

    Raises:
      FileError: if it cannot be read.
    """
    if str(path) == "-":
        return {"path": "-"}
    try:
        facts = path.stat()
    except OSError as error:
        raise FileError(f"cannot be read ({error.strerror})", file=path) from None
    return {"path": str(path), "bytes": facts.st_size, "modified": facts.st_mtime_ns}
