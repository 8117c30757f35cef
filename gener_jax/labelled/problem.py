"""What labels mean: finds the columns of sequences and labels in tables, and turns their text into targets."""

import dataclasses
import json
import re
from collections.abc import Sequence

import numpy as np

from data_pipeline.errors import ArgumentError, FormatError, counted, one_line
from data_pipeline.sequence import bases
from data_pipeline.sequence.tokenizer import MASK, SPECIAL_TOKENS
from gener_jax.labelled import coordinates
from gener_jax.labelled.table import Table

SEQUENCE = ("sequence", "sequences", "seq", "seqs", "dna_sequence", "dna_seq", "text")
LABEL = ("label", "labels", "target", "targets", "class")
_NUCLEOTIDES = "".join(bases.IUPAC).encode() + "".join(bases.IUPAC).lower().encode()
_WHOLE = re.compile(r"(0|-?[1-9][0-9]*)\.0+")
_LARGEST = float(np.finfo(np.float32).max)
_CONDITIONS = SPECIAL_TOKENS[MASK + 1 :]  # the others have a place of their own in a row
_EMPTY_REMEDY = "leave it empty to leave the row out"


@dataclasses.dataclass(frozen=True)
class Problem:
    """What targets mean.

    Attributes:
      kind: "single_label", "multi_label", "regression", "token" or "causal".
      names: of the classes, labels or outputs, in the order of the targets; classes that are numbers by value.
      mean, scale: (regression) mean and standard deviation of each output over the training rows.
    """

    kind: str
    names: tuple[str, ...] = ()
    mean: tuple[float, ...] = ()
    scale: tuple[float, ...] = ()


def sequence_column(table: Table, named: str | None, field: str = "finetune.sequence") -> str:
    """The column of sequences: the one that the argument `field` names, or the only one with a name of SEQUENCE.

    Raises:
      FormatError: there is none, or there are several whose values are DNA.
    """
    if named is not None:
        return (table.values(named, field), named)[1]
    found = [name for name in table.columns if name.lower() in SEQUENCE]
    if len(found) > 1:
        found = [name for name in found if not any(map(_outside, table.columns[name]))] or found
    if not found and {"chrom", "start", "end"} <= coordinates.found(table).keys():
        remedy = "give finetune.genome and finetune.assembly"
        raise FormatError("has coordinates instead of sequences", file=table.path, remedy=remedy)
    return _only(found, table, "sequences", SEQUENCE, field)


def label_columns(kind: str, table: Table, named: Sequence[str], field: str = "finetune.label") -> tuple[str, ...]:
    """The columns of labels: those that the argument `field` names, or the only one with a name of LABEL.

    Raises:
      ArgumentError: several are named for a single label, or one twice.
      FormatError: there is none, or there are several whose values are labels of the problem `kind`.
    """
    for name in named:
        table.values(name, field)
    if len(set(named)) < len(named) or (kind == "single_label" and len(named) > 1):
        problem = (
            "must be one column in finetune.problem single_label" if kind == "single_label" else "repeats a column"
        )
        raise ArgumentError(problem, field=field, value=", ".join(named))
    if named:
        return tuple(named)
    found = [name for name in table.columns if name.lower() in LABEL]
    if len(found) > 1:
        found = [name for name in found if _fits(kind, table.columns[name])] or found
    return (_only(found, table, "labels", LABEL, field),)


def _only(found: list[str], table: Table, what: str, names: Sequence[str], field: str) -> str:
    if len(found) == 1:
        return found[0]
    several = f"{', '.join(found)} are all columns of {what}"
    none = f"no column of {what} ({', '.join(names)}) among {one_line(', '.join(table.columns))}"
    raise FormatError(several if found else none, file=table.path, remedy=f"name it: {field}=COLUMN")


def _fits(kind: str, values: list[str]) -> bool:
    values = [value for value in values if value.strip()]
    if kind == "regression":
        return all(_number(part) is not None for value in values for part in _parts(value))
    return kind != "single_label" or len(set(values)) <= max(2, len(values) // 10)


def sequences(table: Table, column: str) -> list[str]:
    """The sequences of a column: A, C, G, T in upper case; U is T, and any other IUPAC letter N.

    Raises:
      FormatError: one is empty, or contains another letter; with its line or record.
    """
    found = []
    for row, text in enumerate(table.columns[column]):
        text = text.strip()
        if not text:
            table.refuse(row, column, "is empty", "remove the row")
        if letter := _outside(text):
            problem = f"is not DNA: its letter {text.index(letter) + 1} is {letter!r}"
            table.refuse(row, column, problem, "give DNA without gaps")
        found.append(bases.decode(bases.encode(text)))
    return found


def conditions(table: Table, column: str) -> list[str]:
    """The special tokens of a column, such as "<mam><cds>".

    Raises:
      FormatError: there is no such column; with its line or record: a value is anything else, or a token is unknown.
    """
    found = []
    for row, text in enumerate(table.values(column, "finetune.condition")):
        tokens = re.findall("<[^<>]*>", text)
        if not tokens or "".join(tokens) != text.strip():
            table.refuse(row, column, "must be special tokens", "write them as <mam><cds>")
        for token in tokens:
            if token not in _CONDITIONS:
                table.refuse(row, column, "is no special token", f"choose from {' '.join(_CONDITIONS)}", token)
        found.append("".join(tokens))
    return found


def _outside(text: str) -> str:
    """The first letter that is no nucleotide; empty if there is none."""
    rest = text.encode().translate(None, _NUCLEOTIDES)
    return rest.decode()[0] if rest else ""


def empty(kind: str, table: Table, columns: Sequence[str]) -> np.ndarray:
    """Whether each row lacks a label, bool [N]; one label of names may be empty, since it means none of them."""
    values = [table.columns[name] for name in columns] or [["."] * len(table)]
    if kind == "multi_label" and len(values) == 1 and not _vectors(values[0]):
        return np.zeros(len(table), bool)
    return np.array([not all(x.strip() for x in row) for row in zip(*values, strict=True)], bool)


def names(kind: str, tables: Sequence[Table], columns: Sequence[str]) -> tuple[str, ...]:
    """The names of the classes, labels or outputs in training rows, none of which lacks a label.

    Raises:
      FormatError: there is one class only, or more than a tenth of the rows.
    """
    values = [value.strip() for table in tables for value in table.columns[columns[0]]]
    if kind == "single_label":
        found = _ordered(set(map(_class, values)))
        if not 2 <= len(found) <= max(2, len(values) // 10):
            several = f"has {len(found)} classes in {counted(len(values), 'row')}"
            problem = several if len(found) > 1 else f"has only the class {_some(found)}"
            remedy = "give finetune.problem=regression, or another column" if len(found) > 1 else "give rows of another"
            raise FormatError(problem, file=tables[0].path, field=columns[0], remedy=remedy)
        return found
    if len(columns) > 1:
        return tuple(columns)
    if kind == "multi_label" and not _vectors(values):
        return _ordered({part for value in values for part in _parts(value)})
    width = len(_parts(values[0]))
    return tuple(columns) if width == 1 else tuple(f"{columns[0]}_{i}" for i in range(width))


def targets(problem: Problem, table: Table, columns: Sequence[str]) -> np.ndarray:
    """The targets of rows, none of which lacks a label, as in `Examples`.

    Raises:
      FormatError: with its line or record: a label is no number, not 0 or 1, a class or label that training lacks; or a
        row has another number of labels than the first.
    """
    kind, labels = problem.kind, problem.names
    if not columns:
        return np.zeros((len(table), 0), np.float32)
    values = list(zip(*(table.columns[name] for name in columns), strict=True))
    if kind == "single_label":
        number = {name: i for i, name in enumerate(labels)}
        for row, (value,) in enumerate(values):
            if value.strip().lower() == "nan":
                table.refuse(row, columns[0], "is no class", _EMPTY_REMEDY)
            if _class(value) not in number:
                table.refuse(row, columns[0], "is a class that no training row has", f"the classes are {_some(labels)}")
        return np.array([number[_class(value)] for (value,) in values], np.int32)
    found = np.zeros((len(values), len(labels)), np.float32)
    by_name = kind == "multi_label" and len(columns) == 1 and not _are_outputs(labels, columns)
    number = {name: i for i, name in enumerate(labels)}
    for row, texts in enumerate(values):
        if by_name:
            for part in _parts(texts[0]):
                if part not in number:
                    problem = "is a label that no training row has"
                    table.refuse(row, columns[0], problem, f"the labels are {_some(labels)}", part)
                found[row, number[part]] = 1
            continue
        parts = _parts(texts[0]) if len(columns) == 1 else texts
        if len(parts) != len(labels):
            table.refuse(row, columns[0], f"has {counted(len(parts), 'label')} instead of {len(labels)}")
        for i, part in enumerate(parts):
            column, value = columns[i] if len(columns) > 1 else columns[0], _number(part)
            if value is None:
                table.refuse(row, column, "must be a finite number", _EMPTY_REMEDY, part)
            if kind == "multi_label" and value not in (0, 1):
                table.refuse(row, column, "must be 0 or 1", None, part)
            found[row, i] = value
    return found


def _are_outputs(labels: Sequence[str], columns: Sequence[str]) -> bool:
    return tuple(labels) in (tuple(columns), tuple(f"{columns[0]}_{i}" for i in range(len(labels))))


def standardized(problem: Problem, targets: np.ndarray) -> Problem:
    """The problem with mean and standard deviation of training targets, float32 [N, outputs].

    Raises:
      FormatError: all values of an output are the same.
    """
    for name, values in zip(problem.names, targets.T, strict=True):
        if values.min() == values.max():
            raise FormatError("is the same in all training rows", field=name, value=float(values[0]))
    mean, scale = (f(targets, axis=0, dtype=np.float64) for f in (np.mean, np.std))
    return dataclasses.replace(problem, mean=tuple(mean.tolist()), scale=tuple(scale.tolist()))


def _some(names: Sequence[str]) -> str:
    return one_line(", ".join(names[:12])) + ", …" * (len(names) > 12)


def _number(text: str) -> float | None:
    """A finite number of float32; None if the text is none."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if "_" not in text and abs(value) <= _LARGEST else None


def _class(text: str) -> str:
    """The name of a class: as it is written, but 1.0, as tables of numbers are often saved, is 1 (and 01 is not)."""
    text = text.strip()
    whole = _WHOLE.fullmatch(text)
    return whole[1] if whole else text


def _ordered(names: set[str]) -> tuple[str, ...]:
    """Numbers by value, and before text, whose numbers are ordered by value too; what is equal, such as 1 and 01, by
    its letters.
    """

    def key(name):
        value = _number(name)
        if value is not None:
            return 0, value, [], name
        return 1, 0.0, [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)], name

    return tuple(sorted(names, key=key))


def _parts(text: str) -> list[str]:
    """The labels of a list: [1, 0, 1], 1,0,1, 1 0 1, a;b or JSON."""
    text = text.strip()
    if text[:1] == "[" and text[-1:] == "]":
        try:
            return [str(int(x) if isinstance(x, bool) else x).strip() for x in json.loads(text)]
        except ValueError:
            text = text[1:-1]
    separator = next((x for x in ";,|" if x in text), None)  # None: blanks, of numbers only
    parts = [part.strip(" '\"") for part in text.split(separator) if part.strip()]
    return parts if separator or all(_number(part) is not None for part in parts) else [text]


def _vectors(values: Sequence[str]) -> bool:
    """Whether a column holds a number for each label rather than names of labels, by its first row with any."""
    first = next((value for value in values if value.strip()), "")
    return all(_number(part) is not None for part in _parts(first))
