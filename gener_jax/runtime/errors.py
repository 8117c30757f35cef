"""Errors that a user can fix: one line of text, the facts as attributes."""

from pathlib import Path


class InputError(ValueError):
    """An argument of the Python API that cannot be used; its text is one line for the user.

    Attributes:
      argument: the name of the argument ("top_p"), or of an item of it ("prompts[3]").
      value: the value it has; None if the text names none.
    """

    def __init__(self, problem: str, argument: str, value=None):
        """The text is "ARGUMENT is VALUE: problem", or "ARGUMENT problem" without a value; long values are cut."""
        super().__init__(f"{argument} {problem}" if value is None else f"{argument} is {repr(value)[:200]}: {problem}")
        self.argument, self.value = argument, value


class CheckpointError(ValueError):
    """A model's folder, a checkpoint or an output file that cannot be used.

    Attributes:
      path: the file or folder; None if it does not exist yet.
      name: the field, tensor or token in it that is wrong; None if the file or folder as a whole is.
      value: the value found there.
    """

    def __init__(self, path: str | Path | None, problem: str, *, name: str | None = None, value=None):
        """`problem` says what is wrong and what to do; the text is "PATH: problem"."""
        super().__init__(problem if path is None else f"{path}: {problem}")
        self.path, self.name, self.value = path, name, value


class DamagedError(CheckpointError):
    """A checkpoint whose files cannot be read, or hold other numbers than were written."""


class TrainingError(ValueError):
    """A run that cannot sensibly continue: one line for the user."""
