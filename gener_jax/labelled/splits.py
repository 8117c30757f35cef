"""The training, validation and test rows of a configuration: the files they are in, and what their labels mean."""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import numpy as np

from data_pipeline.errors import ArgumentError, FileError, FormatError, MismatchError, counted, located
from data_pipeline.files import write_text
from data_pipeline.sequence import bases
from data_pipeline.splitting import clusters, proteins
from gener_jax.config.schema import Finetune
from gener_jax.labelled import coordinates, folds, problem, table
from gener_jax.labelled.examples import Examples
from gener_jax.labelled.problem import Problem
from gener_jax.labelled.table import Table

TRAIN, VALIDATION, TEST = NAMES = "train", "validation", "test"
KINDS = "single_label", "multi_label", "regression", "causal"  # whose labels are columns of a table, or none
_SPLIT_OF = {"train": TRAIN, **dict.fromkeys(("validation", "valid", "val", "dev"), VALIDATION), "test": TEST}
_SHARD = re.compile(r"(.+)-(\d{5})-of-(\d{5})(?:-[0-9a-f]+)?")  # the Hub may append a hash


@dataclasses.dataclass(frozen=True)
class Splits:
    """The rows of each split, and what their targets mean.

    Attributes:
      train, validation, test: the rows. Where no file is, `validation` is a fold of train, of sequences without labels
        by clusters of similar ones, and `test` None.
      problem: what the targets mean.
      notes: a line for each thing that a user should know: rows left out, the fold, groups in two splits.
    """

    train: Examples
    validation: Examples
    test: Examples | None
    problem: Problem
    notes: tuple[str, ...] = ()


def read(finetune: Finetune, seed: int = 0) -> Splits:
    """The splits that a configuration names; `seed` is that of the folds.

    Raises:
      DataError: of its family. A file or folder cannot be read, or a file is in two splits; a column is missing or
        cannot be chosen; with file and line or record: a sequence, label or condition cannot be used, or its class is
        none of training's; sequences without labels are too similar to hold any out.
    """
    kind, notes = finetune.problem, []
    if kind not in KINDS:
        raise ArgumentError(f"must be one of {', '.join(KINDS)}", field="finetune.problem", value=kind)
    paths = files(finetune)
    tables = {name: [_read(path) for path in found] for name, found in paths.items()}
    first = tables[TRAIN][0]
    if genome := _genome(finetune):
        tables = {name: list(map(genome.cut, found)) for name, found in tables.items()}
        sequence = coordinates.SEQUENCE
    else:
        sequence = problem.sequence_column(first, finetune.sequence)
    labels = () if kind == "causal" else problem.label_columns(kind, first, finetune.label)
    for name, found in tables.items():
        for i, one in enumerate(found):
            for column in (sequence, *labels):
                one.values(column, "column")
            lacking = problem.empty(kind, one, labels)
            if lacking.any():
                dropped = counted(int(lacking.sum()), "row")
                notes.append(f"{one.path}: {dropped} with an empty {' or '.join(labels)} left out")
                found[i] = one.take(np.flatnonzero(~lacking))
        tables[name] = [one for one in found if len(one)]
        if not tables[name]:
            raise FileError("has no row with a label", file=paths[name][0], field=" or ".join(labels))
    means = Problem(kind, problem.names(kind, tables[TRAIN], labels) if labels else ())
    groups = _groups(tables, finetune.group, notes)
    splits = {name: _examples(name, found, sequence, labels, means, groups.get(name)) for name, found in tables.items()}
    if finetune.condition is not None:
        for name, found in tables.items():
            conditions = [text for one in found for text in problem.conditions(one, finetune.condition)]
            splits[name] = dataclasses.replace(splits[name], conditions=conditions)
    if VALIDATION not in splits:
        rows = splits[TRAIN]
        if similar := kind == "causal" and rows.groups is None:
            rows = dataclasses.replace(rows, groups=_clusters(rows, finetune, notes))
        held_out = folds.assign(rows, finetune.folds, seed, kind == "single_label") == finetune.fold
        if similar and 2 * held_out.sum() > len(rows):
            most = f"{held_out.sum():,} of {len(rows):,} sequences into fold {finetune.fold}"
            _too_similar(finetune, f"puts {most}, since a cluster has {np.bincount(rows.groups).max():,}")
        splits |= {TRAIN: rows.take(~held_out), VALIDATION: rows.take(held_out, VALIDATION)}
        fold = f"fold {finetune.fold} of {finetune.folds} of the training rows"
        notes.append(f"validation: {fold}, {counted(len(splits[VALIDATION]), 'row')}")
    if kind == "single_label":
        _check_classes(splits, means)
    for name in (VALIDATION, TEST) if finetune.condition else ():
        if name in splits and (unseen := set(splits[name].conditions) - set(splits[TRAIN].conditions)):
            notes.append(f"{name}: no training row has {', '.join(sorted(unseen))} in {finetune.condition}")
    if kind == "regression":
        with located(file=paths[TRAIN][0]):
            means = problem.standardized(means, splits[TRAIN].targets)
    return Splits(splits[TRAIN], splits[VALIDATION], splits.get(TEST), means, tuple(notes))


def write(splits: Splits, folder: Path) -> dict:
    """Writes a table for each split; returns the fields of `config.Finetune` that read the same rows back."""
    kind, names = splits.problem.kind, splits.problem.names
    labels = ("label",) if kind == "single_label" else names
    folder.mkdir(parents=True, exist_ok=True)
    fields = {"problem": kind, "sequence": "sequence", "label": list(labels)}
    for each in (x for x in (splits.train, splits.validation, splits.test) if x is not None):
        targets = [[names[i]] for i in each.targets] if each.targets.ndim == 1 else each.targets.tolist()
        groups = [[]] * len(each) if each.groups is None else each.groups[:, None].tolist()
        lines = [["sequence", *labels, *["group"] * (each.groups is not None)]]
        lines += [[dna, *target, *group] for dna, target, group in zip(each.sequences, targets, groups, strict=True)]
        path = folder / f"{each.name}.tsv"
        write_text(path, "".join("\t".join(map(str, line)) + "\n" for line in lines))
        fields[each.name] = [str(path)]
    return fields | ({"group": "group"} if splits.train.groups is not None else {})


def _read(path: Path) -> Table:
    """The table in a file; of one in a folder named after a split, the name of the file is the label without others."""
    one = table.read(path)
    if path.parent.name.lower() not in _SPLIT_OF or any(name.lower() in problem.LABEL for name in one.columns):
        return one
    return dataclasses.replace(one, columns=one.columns | {"label": [table.stem(path)] * len(one)})


def _genome(finetune: Finetune) -> coordinates.Genome | None:
    path, assembly = finetune.genome, finetune.assembly
    if path is None and assembly is None:
        return None
    for field, value, other in (("genome", path, assembly), ("assembly", assembly, path)):
        if value is None:
            raise ArgumentError(f"must be given for {other}", field=f"finetune.{field}")
    return coordinates.Genome(path, assembly)


def _examples(
    name: str, tables: Sequence[Table], sequence: str, labels: Sequence[str], means: Problem, groups
) -> Examples:
    return Examples(
        name,
        [dna for one in tables for dna in problem.sequences(one, sequence)],
        np.concatenate([problem.targets(means, one, labels) for one in tables]),
        [one.where(row) for one in tables for row in range(len(one))],
        groups,
    )


def coding(examples: Examples) -> list[str]:
    """The protein of each row.

    Raises:
      FormatError: with its place, a row is no coding sequence.
    """
    found = [proteins.protein_of(bases.encode(sequence)) for sequence in examples.sequences]
    for row, protein in enumerate(found):
        if "*" in protein:
            problem = f"is not coding from its first base on: codon {protein.index('*') + 1} is a stop"
            remedy = "remove it, or, if sequences need not be coding, set finetune.max_identity=none"
            raise FormatError(problem, file=examples.where(row), field="sequence", remedy=remedy)
    return found


def _clusters(rows: Examples, finetune: Finetune, notes: list[str]) -> np.ndarray:
    """The cluster of each row, int32 [N]: rows of two clusters have no similar proteins, and share no 32-mer."""
    links, most = proteins.NO_LINKS, finetune.max_identity
    if most is not None:
        links = proteins.links(coding(rows), most)
    found = clusters.of_sequences(map(bases.encode, rows.sequences), links)
    sizes = np.bincount(found)
    shared = "a 32-mer" if most is None else f"a 32-mer, or more than {most:.0%} of a protein"
    notes.append(
        f"{counted(len(rows), 'sequence')} in {counted(len(sizes), 'cluster')} that share {shared}; "
        f"the largest has {sizes.max():,}"
    )
    if len(sizes) < finetune.folds:
        many = f"{counted(len(sizes), 'cluster')} of {len(rows):,} sequences"
        _too_similar(finetune, f"makes {many}, fewer than finetune.folds {finetune.folds}")
    return found


def _too_similar(finetune: Finetune, problem: str) -> NoReturn:
    most, remedy = finetune.max_identity, "give another finetune.fold, fewer folds, or finetune.group or validation"
    value, remedy = ("none", remedy) if most is None else (most, f"raise it, {remedy}")
    raise ArgumentError(problem, field="finetune.max_identity", value=value, remedy=remedy)


def _groups(tables: dict[str, list[Table]], group: str | None, notes: list[str]) -> dict[str, np.ndarray]:
    """The group of each row by split, int32 [N]; `group` is COLUMN, or COLUMN:SEPARATOR for the text before one."""
    if group is None:
        return {}
    found, numbers = {}, {}
    for name, several in tables.items():
        texts = []
        for one in several:
            column, separator = group, ""
            if group not in one.columns and ":" in group:
                column, _, separator = group.partition(":")
            for row, text in enumerate(one.values(column, "finetune.group")):
                text = text.partition(separator)[0] if separator else text
                if not text.strip():
                    one.refuse(row, column, "names no group", "give each row one")
                texts.append(text.strip())
        found[name] = np.array([numbers.setdefault(text, len(numbers)) for text in texts], np.int32)
    for name in (VALIDATION, TEST):
        if name in found and (shared := len(np.intersect1d(found[TRAIN], found[name]))):
            notes.append(f"{name}: {counted(shared, 'group')} of {group} also in training")
    return found


def _check_classes(splits: dict[str, Examples], means: Problem) -> None:
    known = np.bincount(splits[TRAIN].targets, minlength=len(means.names)) > 0
    for name in (VALIDATION, TEST):
        if name in splits and len(other := np.flatnonzero(~known[splits[name].targets])):
            row = int(other[0])
            raise MismatchError(
                f"is a class of {name} that no training row has ({splits[name].where(row)})", field="label",
                value=means.names[splits[name].targets[row]], remedy="give other folds or groups, or remove the class",
            )  # fmt: skip


def files(finetune: Finetune) -> dict[str, list[Path]]:
    """The files of each split that has any, by its name.

    Raises:
      FileError, ArgumentError, MismatchError: there are no training rows, a file is missing or of two splits, or a
        folder has two forms of a split.
    """
    given = {name: [Path(path) for path in getattr(finetune, name)] for name in NAMES}
    if not given[TRAIN]:
        raise ArgumentError("must name files, or a folder", field="finetune.train")
    found = {}
    for name, paths in given.items():
        for path in paths:
            inside = of_folder(path) if path.is_dir() else {name: [path]}
            if name not in inside:
                raise FileError(f"has no file of {name}", file=path, remedy=f"name files: finetune.{name}=FILE")
            for split, some in inside.items():
                if split == name or (name == TRAIN and not given[split]):
                    found.setdefault(split, []).extend(some)
    seen = {}
    for name, paths in found.items():
        for path in paths:
            if (other := seen.setdefault(path.resolve(), name)) != name:
                raise MismatchError(f"is given for both {other} and {name}", file=path, remedy="give each file once")
            if paths.count(path) > 1:
                raise MismatchError(f"is given twice for {name}", file=path, remedy="give each file once")
    return {name: found[name] for name in NAMES if name in found}


def of_folder(folder: Path) -> dict[str, list[Path]]:
    """The files of each split in a folder, or in its folder data, by the name of the split.

    A split is a file, shards SPLIT-00000-of-00002, or a folder of files.

    Raises:
      FileError, MismatchError: there is no such file, a split has files of two names or formats, or a shard is missing.
    """
    for place in (folder, folder / "data"):
        found: dict[str, dict[str, list[Path]]] = {}
        for path in sorted(place.iterdir()) if place.is_dir() else ():
            if path.is_dir():
                inside = [
                    one for one in sorted(path.iterdir()) if table.format_of(one) and not one.name.startswith(".")
                ]
                split, form = _SPLIT_OF.get(path.name.lower()), path.name
            else:
                stem, inside, form = table.stem(path), [path], path.name
                if shard := _SHARD.fullmatch(stem):
                    stem, form = shard[1], f"{shard[1]}-*-of-{shard[3]}{path.name.removeprefix(stem)}"
                split = _SPLIT_OF.get(stem.lower()) if table.format_of(path) else None
            if split and inside:
                found.setdefault(split, {}).setdefault(form, []).extend(inside)
        for split, forms in found.items():
            if len(forms) > 1:
                raise MismatchError(
                    f"has {' and '.join(forms)} for {split}", file=place, remedy="name the files of each split"
                )
            (form, paths), *_ = forms.items()
            if (shard := _SHARD.fullmatch(table.stem(paths[0]))) and len(paths) != int(shard[3]):
                raise FileError(
                    f"has {len(paths)} of the {int(shard[3])} files {form}", file=place, remedy="download them all"
                )
        if found:
            return {split: paths for split, forms in found.items() for paths in forms.values()}
    remedy = "name files train, validation (valid, val, dev) and test: train.csv"
    raise FileError("has no file of a split", file=folder, remedy=remedy)
