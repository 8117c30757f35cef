"""Errors that a user can fix: one line of text, the facts as attributes."""

import argparse
import contextlib
import numbers
from pathlib import Path

from data_pipeline.errors import DataError


class InputError(ValueError):
    """An argument of the Python API that cannot be used; its text is one line for the user.

    Attributes:
      argument: the name of the argument ("top_p"), or of an item of it ("prompts[3]").
      value: the value it has; None if the text names none.
      problem: what is wrong with it.
    """

    def __init__(self, problem: str, argument: str, value=None):
        """The text is "ARGUMENT is VALUE: problem", or "ARGUMENT problem" without a value; long values are cut."""
        super().__init__(f"{argument} {problem}" if value is None else f"{argument} is {repr(value)[:200]}: {problem}")
        self.argument, self.value, self.problem = argument, value, problem


def whole(value, argument: str, least: int = 0) -> int:
    """A whole number from `least` to 2^31 - 1, as an int.

    Raises:
      InputError: of `argument`, if it is no such number.
    """
    if not isinstance(value, numbers.Integral) or not least <= value < 2**31:
        raise InputError(f"must be a whole number from {least} to {2**31 - 1}", argument, value)
    return int(value)


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


class ConfigError(ValueError):
    """A configuration or command line that cannot be used; its text is one line for the user.

    Attributes:
      field: the dotted name of the field ("model.hidden_size") or the flag ("--step") that is wrong; None where no
        single one is.
      value: its value; None if it has none.
    """

    def __init__(self, problem: str, field: str | None = None, value=None):
        """`problem` follows "FIELD is VALUE: " where a field is given, else it is the whole line."""
        super().__init__(problem if field is None else f"{field} is {repr(value)[:200]}: {problem}")
        self.field, self.value = field, value


class Terminated(Exception):
    """A run that stopped on SIGTERM, its state saved."""


@contextlib.contextmanager
def user_errors(what: str = "", *, args: argparse.Namespace | None = None):
    """Turns a ValueError of the user's input into a ConfigError, whose text starts with `what`; a context manager.

    An InputError keeps its argument and value as `field` and `value`; an argument that is one of `args`, the options of
    a command line, is named as the flag.
    """
    try:
        yield
    except (ConfigError, DataError, CheckpointError, TrainingError):
        raise
    except InputError as error:
        flag = f"--{error.argument}" if error.argument in vars(args or argparse.Namespace()) else error.argument
        field = what or flag
        if error.value is not None:
            raise ConfigError(error.problem, field, error.value) from error
        raised = ConfigError(f"{field} {error.problem}")
        raised.field = field
        raise raised from error
    except ValueError as error:
        raise ConfigError(f"{what}: {error}" if what else str(error)) from error
