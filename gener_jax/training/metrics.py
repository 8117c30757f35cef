"""What leaves the device and where it goes: one fetch, a log of JSON lines, a pausable clock, a progress bar."""

import contextlib
import json
import os
import time
from pathlib import Path

import jax

num_fetches = 0  # how often anything was read back; the tests count it


def fetch(tree):
    """The only place where training reads arrays back to the host; waits for them."""
    global num_fetches
    num_fetches += 1
    return jax.device_get(tree)


class Clock:
    """Seconds of training, evaluation and saving left out."""

    def __init__(self):
        self._seconds, self._since = 0.0, time.perf_counter()

    @property
    def seconds(self) -> float:
        """Seconds counted so far."""
        return self._seconds + (0.0 if self._since is None else time.perf_counter() - self._since)

    @contextlib.contextmanager
    def paused(self):
        """Time spent inside does not count."""
        self._seconds, self._since = self.seconds, None
        try:
            yield
        finally:
            self._since = time.perf_counter()


class Log:
    """`log.jsonl` in the run's folder: one JSON object a line, cut back to the restored step when a run resumes."""

    def __init__(self, path: Path, step: int):
        """Opens the log and drops what lies after `step`: those steps are run again, to the same numbers."""
        if path.exists():
            kept = []
            for line in path.read_text().splitlines():
                with contextlib.suppress(json.JSONDecodeError):  # the line that a kill cut in two
                    if json.loads(line)["step"] <= step:
                        kept.append(line)
            beside = path.with_suffix(".partial")
            beside.write_text("".join(line + "\n" for line in kept))
            os.replace(beside, path)
        self._file = path.open("a")

    def write(self, **values) -> None:
        """Appends one line, flushed."""
        self._file.write(json.dumps(values) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def logged(path: Path, step: int) -> dict:
    """What a log says of a step's training; empty where the step was not logged."""
    for line in path.read_text().splitlines() if path.exists() else ():
        with contextlib.suppress(json.JSONDecodeError):
            values = json.loads(line)
            if values["step"] == step and "loss" in values:
                return values
    return {}
