"""Which files belong together: an annotation and its bases, by their names or by a manifest, and their records.

Known names are RefSeq release files (`fungi.12.genomic.gbff.gz`), NCBI assemblies (`GCF_000005845.2_ASM584v2_genomic.*`
and the folders of NCBI datasets, whose annotation is `genomic.*`) and Ensembl's; any other annotation belongs to the
FASTA of its own name, or to the only one in its folder.
"""

import dataclasses
import json
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path

import numpy as np

from data_pipeline import fasta, file_names, genbank, gff, stream
from data_pipeline.errors import DataError
from data_pipeline.file_names import FASTA, FORMATS, GENBANK, GFF3, GenomeFile
from data_pipeline.genome import TAXA, Record
from data_pipeline.split import SPLITS

_MANIFEST = ("sequence", "annotation", "taxon", "split")
# Where several annotate the same sequences, the first of these formats that is there is read.
_PREFERENCE = tuple(dict.fromkeys(FORMATS.values()))
_DATASET = "gener_jax regions"  # records.FORMAT; that module loads far more than a list of files needs


@dataclasses.dataclass(frozen=True)
class Input:
    """An annotation and its bases; either may be None, where the other says all.

    `taxon` is a tag of `genome.TAXA` that replaces what the records say; `split` one of `split.SPLITS` where it is
    fixed; `assembly` as `file_names.GenomeFile` has it: the FASTA's where only that is NCBI's, else the annotation's.
    """

    sequence: Path | None
    annotation: Path | None
    taxon: str | None = None
    split: str | None = None
    assembly: str = ""

    @property
    def files(self) -> tuple[Path, ...]:
        """The files to read."""
        return tuple(path for path in (self.annotation, self.sequence) if path is not None)


def discover(paths: Sequence[str | Path], *, annotated: bool) -> tuple[list[Input], list[str]]:
    """The inputs among files and folders, in the order of `paths` and then by name, and a line for what is left out.

    Folders are walked, through links too. Datasets, unfinished builds and what has been met by another name are left
    out; what is hidden and files of other formats are not even mentioned. With `annotated`, only inputs with an
    annotation count; without it, FASTA files alone do too. A file that `paths` names may take its partner from its
    folder. Raises DataError for a missing path, a named file that cannot be used, files of which it cannot be said
    which belong together, and where nothing is found.
    """
    folders: dict[Path, _Folder] = {}
    skipped: list[str] = []
    walked: dict[tuple[int, int], Path] = {}
    for path in map(Path, paths):
        if path.is_dir():
            for folder, names in _walk(path, walked, skipped):
                folders.setdefault(folder, _Folder(folder)).walk(names, skipped)
        elif path.exists():
            if file_names.format_of(path) is None:
                raise DataError(f"{path}: not known by its name ({' '.join(FORMATS)}, plain, .gz or .bgz); rename it")
            folders.setdefault(path.parent, _Folder(path.parent)).name(path)
        else:
            raise DataError(f"{path}: no such file or folder")
    inputs: dict[tuple[str, ...], Input] = {}
    spare: list[GenomeFile] = []
    for folder in folders.values():
        for found in folder.inputs(annotated, skipped, spare):
            first = inputs.setdefault(_identity(found), found)
            if first.files != found.files:
                skipped.append(_again(found.files[0], first.files[0]))
    if sorted(file.annotates for file in spare) == [False, True]:  # two named files, from different folders
        found = _input(*sorted(spare, key=lambda file: not file.annotates))
        inputs.setdefault(_identity(found), found)
    elif spare:
        _refuse(spare[0])
    if not inputs:
        kinds = "GenBank, or GFF3 or GTF with FASTA" if annotated else "GenBank or FASTA"
        shown = ", ".join(map(str, paths)) or "no input"
        because = f"; left out: {skipped[0]}" if skipped else ""
        raise DataError(f"{shown}: nothing to read there ({kinds}, plain, .gz or .bgz){because}")
    return list(inputs.values()), skipped


def manifest(path: str | Path) -> list[Input]:
    """The inputs of a table: tab-separated columns sequence, annotation, taxon and split, named in its first line.

    Columns may be left out and cells empty, but each row names a sequence or an annotation, relative to the table's
    folder. Lines that begin with `#` are comments. Raises DataError with the line for a missing file, an unknown
    column, taxon or split, a file of the wrong format, an annotation without bases, and a row that stands twice.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({stream.one_line(error)})") from None
    header, inputs, seen = None, [], {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        where = f"{path}: line {number}"
        cells = [cell.strip() for cell in line.split("\t")]
        if header is None:
            header = cells
            wrong = [name for name in header if name not in _MANIFEST or header.count(name) > 1]
            if wrong or not {"sequence", "annotation"} & set(header):
                raise DataError(
                    f"{where}: column {(wrong or header)[0]!r}: the first line names the columns, tab-separated: "
                    f"{' '.join(_MANIFEST)}"
                )
            continue
        if len(cells) > len(header):
            raise DataError(f"{where}: {len(cells)} cells under {len(header)} columns")
        found = _manifest_row(where, path.parent, dict(zip(header, cells, strict=False)))
        key = _identity(found)
        if key in seen:
            raise DataError(f"{where}: the same files as line {seen[key]}; leave one out")
        seen[key] = number
        inputs.append(found)
    if not inputs:
        raise DataError(f"{path}: no row in it; give one for each annotation with its sequence")
    return inputs


def records(
    input: Input,
    kinds: Collection[str] | None,
    scratch: str | Path,
    progress: Callable[[int], None],
    qualifiers: Collection[str] | None = None,
) -> Iterator[Record]:
    """The records of an input, whatever its formats, with the input's taxon where it has one.

    `kinds` limits the features by their GenBank kind, `qualifiers` what is read of a GenBank file's; `scratch` is an
    empty folder on disk for files in between; `progress` is called with the number of file bytes read since the last
    call, which add up to the files' sizes.
    Raises DataError as `genbank.read`, `gff.read` and `fasta.read` do.
    """
    if input.annotation is None:
        found = (_bare(sequence) for sequence in fasta.read(input.sequence, progress))
    elif file_names.format_of(input.annotation) == GENBANK:
        found = genbank.read(input.annotation, kinds, progress, qualifiers)
        if input.sequence is not None:
            found = _filled(input, found, Path(scratch), progress)
    else:
        found = gff.read(input.annotation, input.sequence, kinds, scratch, progress)
    for record in found:
        yield record if input.taxon is None else dataclasses.replace(record, taxon=input.taxon)


def _bare(sequence: fasta.Sequence) -> Record:
    return Record(
        accession=sequence.name,
        declared_length=len(sequence.codes),
        codes=sequence.codes,
        lower_case=sequence.lower_case,
        circular=False,
        division="",
        organism="",
        lineage=(),
        taxon=None,
        features=(),
    )


def _filled(input: Input, found: Iterator[Record], scratch: Path, progress: Callable[[int], None]) -> Iterator[Record]:
    """GenBank records; those without bases take them from the FASTA, which is read when the first of them comes."""
    offsets: dict[str, tuple[int, int, np.ndarray]] | None = None
    for record in found:
        if not len(record.codes) and record.declared_length:
            if offsets is None:
                offsets, at = {}, 0
                with open(scratch / "codes", "wb") as codes:
                    for sequence in fasta.read(input.sequence, progress):
                        offsets[sequence.name] = at, len(sequence.codes), sequence.lower_case
                        codes.write(sequence.codes)
                        at += len(sequence.codes)
            if found_at := offsets.get(record.accession):
                start, length, lower_case = found_at
                if length != record.declared_length:
                    raise DataError(
                        f"{input.annotation}: record {record.accession}: {record.declared_length} bases by its LOCUS "
                        f"line, {length} in {input.sequence}; give the FASTA of the same version"
                    )
                codes = np.fromfile(scratch / "codes", np.uint8, length, offset=start)
                record = dataclasses.replace(record, codes=codes, lower_case=lower_case)
        yield record
    if offsets is None:
        progress(input.sequence.stat().st_size)  # not needed


def _walk(folder: Path, walked: dict[tuple[int, int], Path], skipped: list[str]) -> Iterator[tuple[Path, list[str]]]:
    """A folder and those below it, with their files; `walked` gets each by device and inode, so that no link loops."""

    def fail(error: OSError) -> None:
        raise DataError(f"{error.filename}: cannot be read ({error.strerror})")

    for root, folders, names in os.walk(folder, onerror=fail, followlinks=True):
        path, status = Path(root), os.stat(root)
        first = walked.get((status.st_dev, status.st_ino))
        if first is not None:
            what = f"the same folder as {first}/" if first != path else ""
        elif "dataset.json" in names and _is_dataset(path):
            what = "a dataset"
        elif path.name.endswith(".partial") and "lock" in names:
            what = "an unfinished build"
        else:
            walked[status.st_dev, status.st_ino] = path
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            yield path, [name for name in sorted(names) if not name.startswith(".")]
            continue
        folders.clear()
        if what:
            skipped.append(f"{path}/: {what}")


def _is_dataset(folder: Path) -> bool:
    try:
        facts = json.loads((folder / "dataset.json").read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(facts, dict) and facts.get("format") == _DATASET


class _Folder:
    """The files of a folder: all of them where it is walked, else those that were named and what may go with them."""

    def __init__(self, path: Path):
        self.path = path
        self.named: dict[str, Path] = {}
        self.walked: dict[str, Path] = {}

    def name(self, path: Path) -> None:
        """Takes in a file that was named."""
        self.named.setdefault(os.path.realpath(path), path)

    def walk(self, names: Sequence[str], skipped: list[str]) -> None:
        """Takes in all files of the folder."""
        for path in (self.path / name for name in names):
            is_file = path.is_file()
            first = self.walked.setdefault(os.path.realpath(path), path) if is_file else path
            if file_names.format_of(path) is None:
                continue
            if not is_file:
                skipped.append(f"{path}: {'a broken link' if path.is_symlink() else 'not a plain file'}")
            elif first != path:
                skipped.append(_again(path, first))

    def inputs(self, annotated: bool, skipped: list[str], spare: list[GenomeFile]) -> list[Input]:
        """The files paired; `skipped` gets a line for each one left out, `spare` the named ones without a partner."""
        paths = [path for real, path in self.walked.items() if real not in self.named]
        mine = [file_names.describe(path) for path in (*self.named.values(), *_originals(paths, skipped))]
        beside = self._beside()
        annotations = _preferred([file for file in mine if file.annotates], skipped)
        sequences = _preferred([file for file in mine if not file.annotates], skipped)
        others = _preferred([file for file in beside if not file.annotates])
        if annotated and not annotations:
            annotations = _preferred([file for file in beside if file.annotates])
        found: list[Input] = []
        partners: dict[str, GenomeFile] = {}
        for file in (*sequences, *others):
            for key in file_names.annotation_keys(file):
                partners.setdefault(key, file)
        for file in annotations:
            if file.key in partners or file.format == GENBANK:
                found.append(_input(file, partners.get(file.key)))
        taken = {path for x in found for path in x.files}
        alone = [file for file in annotations if file.path not in taken]
        free = [file for file in sequences if file.path not in taken]
        if len(alone) == len(annotations) == len(sequences or others) == 1:  # of other names, but the only ones here
            found.append(_input(alone.pop(), (sequences or others)[0]))
            free = []
        whole = [file for file in alone if file.format == GFF3 and _has_sequences(file.path)]
        found += [_input(file, None) for file in whole]
        taken = {path for x in found for path in x.files}
        alone = [file for file in alone if file.path not in taken]
        if annotated and alone and free:
            raise DataError(_ambiguous([*alone, *free]))
        if not annotated:
            found += [_input(None, file) for file in free]
            free = []
        own = {file.path for file in mine}
        for file in (*alone, *free):
            if os.path.realpath(file.path) in self.named:
                spare.append(file)
            elif file.path in own:
                skipped.append(f"{file.path}: no {'FASTA' if file.annotates else 'annotation'} beside it")
        return sorted((x for x in found if own.intersection(x.files)), key=lambda x: x.files[0].name)

    def _beside(self) -> list[GenomeFile]:
        """The files of a folder that is not walked, other than those named."""
        if self.walked:
            return []
        paths = [path for path in sorted(self.path.iterdir()) if path.is_file() and not path.name.startswith(".")]
        others = [path for path in paths if os.path.realpath(path) not in self.named]
        return [file_names.describe(path) for path in _originals(others, [])]


def _originals(paths: Sequence[Path], skipped: list[str]) -> list[Path]:
    """Those of a known format that are no extract of another, nor the packed form of one that is there unpacked."""
    names = {path.name for path in paths}
    kept = []
    for path in paths:
        plain = file_names.unpacked(path.name)
        if file_names.is_derived(path):
            skipped.append(f"{path}: derived from another file")
        elif file_names.format_of(path) and plain != path.name and plain in names:
            skipped.append(f"{path}: {plain} is the same, unpacked")
        elif file_names.format_of(path):
            kept.append(path)
    return kept


def _preferred(files: Sequence[GenomeFile], skipped: list[str] | None = None) -> list[GenomeFile]:
    """One file of each key. Two of the same standing are an error, or without `skipped` neither."""
    groups: dict[str, list[GenomeFile]] = {}
    for file in files:
        groups.setdefault(file.key, []).append(file)
    kept = []
    for group in groups.values():
        group.sort(key=lambda file: (_PREFERENCE.index(file.format), file.rank, file.path.name))
        best = group[0]
        if len(group) > 1 and (best.format, best.rank) == (group[1].format, group[1].rank):
            if skipped is None:
                continue
            raise DataError(_ambiguous(group[:2]))
        kept.append(best)
        for other in group[1:]:
            what = "sequences" if other.format == FASTA else "annotation"
            bases = " and its bases" if best.format == GENBANK else ""
            if skipped is not None:
                skipped.append(f"{other.path}: {best.path.name} has the same {what}{bases}")
    return kept


def _has_sequences(annotation: Path) -> bool:
    """Whether the file holds its own bases; of a damaged one, which is told when it is read, yes."""
    try:
        return gff.has_sequences(annotation)
    except DataError:
        return True


def _again(path: Path, first: Path) -> str:
    return f"{path}: the same file as {first}"


def _identity(found: Input) -> tuple[str, ...]:
    return tuple(os.path.realpath(path) for path in found.files)


def _input(annotation: GenomeFile | None, sequence: GenomeFile | None) -> Input:
    both = [file for file in (annotation, sequence) if file]
    return Input(
        sequence=sequence and sequence.path,
        annotation=annotation and annotation.path,
        taxon=next((file.taxon for file in both if file.taxon), None),
        assembly=next((file for file in both if file.of_ncbi), both[0]).assembly,
    )


def _manifest_row(where: str, folder: Path, row: dict[str, str]) -> Input:
    files: dict[str, Path | None] = {"sequence": None, "annotation": None}
    for name in files:
        if row.get(name):
            files[name] = folder / row[name]
            if not files[name].is_file():
                raise DataError(f"{where}: {name} {files[name]}: no such file")
    if not any(files.values()):
        raise DataError(f"{where}: neither a sequence nor an annotation; name a file")
    annotation, sequence = files["annotation"], files["sequence"]
    if sequence is not None and file_names.format_of(sequence) not in (None, FASTA):
        raise DataError(f"{where}: sequence {sequence}: an annotation by its name; name it in the column annotation")
    if annotation is not None and file_names.format_of(annotation) in (None, FASTA):
        known = " ".join(suffix for suffix, kind in FORMATS.items() if kind != FASTA)
        raise DataError(f"{where}: annotation {annotation}: not known by its name ({known}); rename it")
    if sequence is None and file_names.format_of(annotation) != GENBANK and not _has_sequences(annotation):
        raise DataError(f"{where}: annotation {annotation}: no `##FASTA` section in it; name its FASTA as its sequence")
    for name, allowed in (("taxon", TAXA), ("split", SPLITS)):
        if row.get(name) and row[name] not in allowed:
            raise DataError(f"{where}: {name} {row[name]!r} is not one of {' '.join(allowed)}")
    named = _input(annotation and file_names.describe(annotation), sequence and file_names.describe(sequence))
    return dataclasses.replace(named, taxon=row.get("taxon") or named.taxon, split=row.get("split") or None)


def _refuse(file: GenomeFile) -> None:
    if file.annotates:
        raise DataError(f"{file.path}: no FASTA beside it; name its FASTA too, or give a manifest")
    raise DataError(
        f"{file.path}: no annotation beside it; name it too, give a manifest, or take whole sequences (--scheme whole)"
    )


def _ambiguous(files: Sequence[GenomeFile]) -> str:
    names = ", ".join(file.path.name for file in files[:6]) + (", …" if len(files) > 6 else "")
    return f"{files[0].path.parent}: which of {names} belong together? say it in a manifest"
