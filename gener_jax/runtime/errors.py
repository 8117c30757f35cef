"""Errors that a user can fix: one line of text, the facts as attributes."""

import contextlib
import signal
from collections.abc import Collection, Sequence
from pathlib import Path

from data_pipeline.errors import DataError, one_line
from data_pipeline.ranges import LARGEST, Range, Real, Whole


class InputError(ValueError):
    """An argument of the Python API that cannot be used; its text is one line for the user.

    Attributes:
      argument: the name of the argument ("top_p"), or of an item of it ("prompts[3]").
      value: the value it has; None if the text names none.
      problem: what is wrong with it.
      settings: (field of the configuration, value) pairs, any one of which removes the problem. The text names them as
        arguments of `load`, and that of `user_errors` as flags.
    """

    def __init__(self, problem: str, argument: str, value=None, *, settings: Sequence[tuple[str, object]] = ()):
        """The text is "ARGUMENT is VALUE: problem", or "ARGUMENT problem" without a value; long values are cut."""
        self.argument, self.value, self.problem, self.settings = argument, value, problem, settings
        arguments = [f"{name.rpartition('.')[2]}={x!r}" for name, x in settings]
        super().__init__(self.place + _with_remedy(problem, "load the model with", arguments))

    @property
    def place(self) -> str:
        """The beginning of the text."""
        return f"{self.argument} " if self.value is None else f"{self.argument} is {one_line(repr(self.value))}: "


def _with_remedy(problem: str, verb: str, choices: list[str]) -> str:
    return f"{problem}; {verb} {' or '.join(choices)}" if choices else problem


def within(value, argument: str, accepted: Range):
    """An argument's value as a number of Python: an int of a range `Whole`, a float of a range `Real`.

    Raises:
      InputError: of `argument`, if the range does not accept it.
    """
    if value not in accepted:
        raise InputError(f"must be {accepted}", argument, value)
    return accepted.type(value)


def whole(value, argument: str, least: int = 0, most: int = LARGEST) -> int:
    """A whole number from `least` to `most`, 2^31 - 1 unless given; NumPy's numbers are accepted.

    Raises:
      InputError: of `argument`, if it is no such number, or a truth value.
    """
    return within(value, argument, Whole(least, most))


def real(value, argument: str, **bounds: float) -> float:
    """A finite number within `bounds`, those of `ranges.Real`: `least`, `most`, `above`, `below`, `zero`.

    Raises:
      InputError: of `argument`, if it is no such number, or a truth value.
    """
    return within(value, argument, Real(**bounds))


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
        """`problem` is the whole line without a field; else it follows "FIELD is VALUE: ", or the name alone of a flag
        without a value (None or True).
        """
        bare = field is not None and field.startswith("--") and (value is None or value is True)
        where = "" if field is None else f"{field} " if bare else f"{field} is {one_line(repr(value))}: "
        super().__init__(where + problem)
        self.field, self.value = field, value


class Terminated(Exception):
    """A run that stopped on a signal, its state saved.

    Attributes:
      signal: SIGTERM, or SIGINT (Ctrl-C).
      step: the step that is saved; None until it is.
    """

    def __init__(self, number: signal.Signals, step: int | None = None):
        name = "Ctrl-C" if number == signal.SIGINT else number.name
        super().__init__(f"by {name} after step {step}, which is saved; the same command resumes there")
        self.signal, self.step = number, step


@contextlib.contextmanager
def user_errors(what: str = "", flags: Collection[str] = ()):
    """Turns a ValueError of the user's input into a ConfigError, whose text starts with `what`; a context manager.

    Its `field` is `what`, or the argument of an InputError, whose `value` it keeps. `flags` are the names of the
    command's arguments: an InputError of one of them is named after its flag. Settings that remove the problem are
    named as flags too.
    """
    try:
        yield
    except (ConfigError, DataError, CheckpointError, TrainingError):
        raise
    except InputError as error:
        choices = [f"--{name} {x}" if name in flags else f"--config.{name}={x}" for name, x in error.settings]
        problem = _with_remedy(error.problem, "give", choices)
        flag, text = "--" * (error.argument in flags), error.place + problem
        raised = ConfigError(f"{what}: {text}" if what and not flag else flag + text)
        raised.field, raised.value = flag + error.argument if flag else what or error.argument, error.value
        raise raised from error
    except ValueError as error:
        raised = ConfigError(f"{what}: {error}" if what else str(error))
        raised.field = what or None
        raise raised from error
