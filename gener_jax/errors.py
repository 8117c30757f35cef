"""Errors that a user can fix: one line of text, the facts as attributes."""

from pathlib import Path


class CheckpointError(ValueError):
    """A model's folder, a checkpoint or an output file that cannot be used.

    Attributes:
      path: the file or folder; None where there is none yet.
      name: what is wrong in it: a field, a tensor, a token; None where it is the whole.
      value: what stands there instead.
    """

    def __init__(self, path: str | Path | None, problem: str, *, name: str | None = None, value=None):
        """`problem` says what is wrong and what to do; the text is "PATH: problem"."""
        super().__init__(problem if path is None else f"{path}: {problem}")
        self.path, self.name, self.value = path, name, value


class DamagedError(CheckpointError):
    """A checkpoint whose files cannot be read, or hold other numbers than were written."""


class TrainingError(ValueError):
    """A run that cannot sensibly continue: one line for the user."""
