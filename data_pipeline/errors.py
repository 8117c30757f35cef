"""The errors that bad input, a bad argument or a damaged dataset raises.

Each error holds its facts as attributes, and its text is one line made from them: where the problem is, what it is, and
what to do about it. A program reads the attributes; the wording may change.
"""

import contextlib
import difflib
from collections.abc import Iterable, Iterator
from pathlib import Path

DOWNLOAD_AGAIN = "download it again"  # the remedy for a damaged input
MAX_VALUE = 80  # characters of a value that a message shows


class DataError(ValueError):
    """A problem in a file or an argument.

    Attributes:
      problem: what is wrong. Where `field` is given it follows the field and its value ("strand '?' must be ...").
      file: the file or folder, None where no file is to blame.
      section: the part of that file in which `line` is counted; None for the whole file.
      line: the line of that file, counted from 1.
      record: the sequence record: its name, or its number in the file where it has none.
      field: the column, key, feature, option or argument.
      value: the value found there.
      remedy: what the user can do.
    """

    def __init__(
        self,
        problem: str,
        *,
        file: str | Path | None = None,
        line: int | None = None,
        record: str | None = None,
        field: str | None = None,
        value: object = None,
        remedy: str | None = None,
    ):
        super().__init__(problem)  # as the only argument, so that the error can be pickled with its attributes
        self.problem, self.file, self.section, self.line, self.record = problem, file, None, line, record
        self.field, self.value, self.remedy = field, value, remedy

    def __str__(self) -> str:
        line = None if self.line is None else f"line {self.line}"
        record = None if self.record is None else f"record {self.record}"
        where = [None if self.file is None else str(self.file), self.section, line, record]
        what = [self.field, None if self.value is None else shown(self.value), self.problem]
        text = ": ".join([*filter(None, where), " ".join(filter(None, what))])
        return f"{text}; {self.remedy}" if self.remedy else text


class ArgumentError(DataError):
    """An option or argument has a value that cannot be used; `field` names it."""


class FileError(DataError):
    """A file or folder is missing, is empty, exists already, or cannot be read or written."""


class DamagedFileError(FileError):
    """A file is truncated or damaged."""


class FormatError(DataError):
    """A file does not follow its format, or is of another format."""


class MismatchError(DataError):
    """Two files, or two records, contradict each other."""


class PairingError(DataError):
    """It cannot be decided which files belong together, or a file lacks the one that it needs."""


class DatasetError(DataError):
    """A dataset is missing, damaged, of another version, or lacks the requested data."""


class TokenizerError(ValueError):
    """Text or ids that a tokenizer cannot encode or decode. It names no file: the caller knows where they come from.

    Attributes:
      value: the character, special token, id or number of bases.
      position: its 0-based position in the text or among the ids; None where there is none.
    """

    def __init__(self, problem: str, *, value: object = None, position: int | None = None):
        super().__init__(problem)
        self.value, self.position = value, position


@contextlib.contextmanager
def located(**where: object) -> Iterator[None]:
    """Adds the attributes `where` to a DataError raised inside, unless it has them already."""
    try:
        yield
    except DataError as error:
        for name, value in where.items():
            if getattr(error, name) is None:
                setattr(error, name, value)
        raise


def one_line(error: object) -> str:
    """The text of an error, or of any other object, on one printable line of at most 200 characters."""
    text = " ".join(str(error).split())[:200]
    return text if text.isprintable() else "".join(x if x.isprintable() else "�" for x in text)


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """A number and its noun, whose plural is formed with s unless it is given: "1 record", "1,200 records"."""
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"


def did_you_mean(word: str, words: Iterable[str], prefix: str = "") -> str:
    """ "; did you mean X?" with `prefix` and the one of `words` that is closest to a misspelt one; empty if none is."""
    found = difflib.get_close_matches(word, list(words), 1, 0.7)
    return f"; did you mean {prefix}{found[0]}?" if found else ""


def shown(value: object) -> str:
    """A value as a message shows it: quoted text (shortened), or a number or path as it is."""
    if not isinstance(value, str):
        return one_line(value)
    return repr(value if len(value) <= MAX_VALUE else value[:MAX_VALUE] + "…")
