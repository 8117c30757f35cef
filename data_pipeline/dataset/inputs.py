"""Finds the files that belong together, an annotation and its bases, by their names or from a manifest; reads them.

Known names are RefSeq release files (`fungi.12.genomic.gbff.gz`), NCBI assemblies (`GCF_000005845.2_ASM584v2_genomic.*`
and the folders of NCBI datasets, whose annotation is `genomic.*`) and Ensembl's. Any other annotation belongs to the
FASTA of the same name, or to the only FASTA in its folder.
"""

import dataclasses
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from data_pipeline.errors import DataError, FileError, FormatError, MismatchError, PairingError, located, one_line
from data_pipeline.formats import contigs, fasta, file_names, genbank, gff
from data_pipeline.formats.file_names import FASTA, FORMATS, GENBANK, GFF3, GenomeFile
from data_pipeline.sequence.record import LONGER, TAXA, Record, tag
from data_pipeline.splitting.split import SPLITS

# The columns of a manifest, and the names that can only mean one of them.
_MANIFEST = {
    "sequence": ("sequences", "fasta", "fna", "fa", "bases"),
    "annotation": ("annotations", "gff", "gff3", "gtf", "genbank", "gbk", "gbff"),
    "taxon": ("taxa", "division"),
    "split": ("splits",),
}
_COLUMN = {other: name for name, others in _MANIFEST.items() for other in (name, *others)}
# If several files annotate the same sequences, the one whose format comes first here is read.
_PREFERENCE = tuple(dict.fromkeys(FORMATS.values()))
_DATASET = b'"gener_jax regions"'  # reader.FORMAT; importing `reader`, which needs array_record, is slow


@dataclasses.dataclass(frozen=True)
class Input:
    """An annotation and its bases; either may be None if the other file contains both.

    `taxon`, from a manifest or the name of a file, is a tag of `record.TAXA` that overrides the records' own. `split`
    is one of `split.SPLITS` if the manifest fixes it. `assembly` is defined in `file_names.GenomeFile`; it is the
    annotation's, unless only the FASTA's is an NCBI accession.
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
    """Finds the inputs among files and folders; returns them and a line for each file or folder that is skipped.

    The inputs are in the order of `paths`, then by name. Folders are searched recursively, links included. Datasets,
    unfinished builds and files already found under another name are skipped. Hidden files and files of other formats
    are ignored silently. With `annotated`, an input needs an annotation; without it, a FASTA file alone is an input. A
    file named in `paths` may be paired with another file of its folder.

    Raises:
      FileError: a path does not exist, or a folder cannot be read.
      FormatError: a named file has an unknown suffix.
      PairingError: it is ambiguous which files belong together, a named file has no partner, or no input is found.
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
                raise FormatError(
                    f"its suffix must be one of {' '.join(FORMATS)}, plain, .gz or .bgz", file=path, remedy="rename it"
                )
            folders.setdefault(path.parent, _Folder(path.parent)).name(path)
        else:
            raise FileError("no such file or folder", file=path)
    inputs: dict[tuple[str, ...], Input] = {}
    spare: list[GenomeFile] = []
    for folder in folders.values():
        for found in folder.inputs(annotated, skipped, spare):
            first = inputs.setdefault(_identity(found), found)
            if first.files != found.files:
                skipped.append(_duplicate(found.files[0], first.files[0]))
    if sorted(file.annotates for file in spare) == [False, True]:  # two named files from different folders
        found = _input(*sorted(spare, key=lambda file: not file.annotates))
        inputs.setdefault(_identity(found), found)
    elif spare:
        raise _unpaired(spare[0])
    if not inputs:
        kinds = "GenBank, or GFF3 or GTF with FASTA" if annotated else "GenBank or FASTA"
        because = f"; skipped: {skipped[0]}" if skipped else ""
        raise PairingError(
            f"nothing to read ({kinds}, plain, .gz or .bgz){because}", file=", ".join(map(str, paths)) or "no input"
        )
    return list(inputs.values()), skipped


def manifest(path: str | Path) -> list[Input]:
    """Reads the inputs from a table with tab-separated columns sequence, annotation, taxon and split.

    The first line names the columns, in either case; `fasta`, `gff`, `genbank` and the like name them too. Columns may
    be missing and cells empty, but each row must name a sequence or an annotation, relative to the table's folder. A
    file that contains both, such as GenBank, may be in either column, or in both. Lines that start with `#` are
    comments.

    Raises:
      FileError: the table, or a file that it names, does not exist or cannot be read.
      FormatError: with the line and the column: an unknown column, taxon, split or file format, two columns of one
        meaning, an annotation without bases, a row that occurs twice.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise FileError("no such file", file=path) from None
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(f"cannot be read ({one_line(error)})", file=path) from None
    rows = [
        (number, [cell.strip() for cell in line.split("\t")])
        for number, line in enumerate(lines, 1)
        if line.strip() and not line.startswith("#")
    ]
    (number, header), *rows = rows or [(1, [""])]
    columns = [_COLUMN.get(name.lower()) for name in header]
    wrong = [name for name, column in zip(header, columns, strict=True) if not column or columns.count(column) > 1]
    if wrong or not {"sequence", "annotation"} & set(columns):
        raise FormatError(
            f"the first line must name the columns, each once and separated by tabs: {' '.join(_MANIFEST)}",
            file=path, line=number, field="column", value=(wrong or header)[0],
        )  # fmt: skip
    if not rows:
        raise FormatError("contains no rows", file=path, remedy="give one row for each annotation with its sequence")
    inputs: dict[tuple[str, ...], tuple[int, Input]] = {}
    for number, cells in rows:
        if len(cells) > len(header):
            raise FormatError(
                f"exceeds the {len(header)} columns of the first line",
                file=path, line=number, field="number of cells", value=len(cells),
            )  # fmt: skip
        with located(file=path, line=number):
            found = _manifest_row(path.parent, dict(zip(columns, cells, strict=False)))
        line, _ = inputs.setdefault(_identity(found), (number, found))
        if line != number:
            raise FormatError(
                f"names the same files as line {line}", file=path, line=number, remedy="remove one of the lines"
            )
    return [found for _, found in inputs.values()]


def records(
    input: Input,
    kinds: Collection[str] | None,
    scratch: str | Path,
    progress: Callable[[int], None],
    qualifiers: Collection[str] | None = None,
    aliases: Iterable[Iterable[str]] = (),
) -> Iterator[Record]:
    """Yields the records of an input of any format, with the input's taxon if it has one.

    `kinds` limits the features by their GenBank kind, `qualifiers` those read from a GenBank file. `scratch` is an
    empty folder on disk for temporary files. `progress` is called with the number of bytes of the files read since
    the last call; these add up to the files' sizes. `aliases` are groups of names for the same sequence, by which the
    sequences of two files are matched (see `contigs`).

    Raises DataError as `genbank.read`, `gff.read` and `fasta.read` do.
    """
    if input.annotation is None:
        found = (_bare(sequence) for sequence in fasta.read(input.sequence, progress))
    elif file_names.format_of(input.annotation) == GENBANK:
        found = genbank.read(input.annotation, kinds, progress, qualifiers)
        if input.sequence is not None:
            found = _filled(input, found, Path(scratch), progress, aliases)
    else:
        found = gff.read(input.annotation, input.sequence, kinds, scratch, progress, aliases)
    for record in found:
        yield record if input.taxon is None else dataclasses.replace(record, taxon=input.taxon)


def is_dataset(folder: Path) -> bool:
    """Whether a folder is a dataset, of any version."""
    file = folder / "dataset.json"
    return file.is_file() and _DATASET in file.read_bytes()


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


def _filled(
    input: Input,
    found: Iterator[Record],
    scratch: Path,
    progress: Callable[[int], None],
    aliases: Iterable[Iterable[str]],
) -> Iterator[Record]:
    """Adds bases from the FASTA to GenBank records without bases; reads the FASTA only when the first one occurs.

    Raises MismatchError if then no record has bases, neither its own nor of the FASTA.
    """
    offsets: dict[str, tuple[int, int, np.ndarray]] | None = None
    name, bare = None, True
    for record in found:
        if not len(record.codes) and record.declared_length:
            if offsets is None:
                offsets, at = {}, 0
                with open(scratch / "codes", "wb") as codes:
                    for sequence in fasta.read(input.sequence, progress):
                        offsets[sequence.name] = at, len(sequence.codes), sequence.lower_case
                        codes.write(sequence.codes)
                        at += len(sequence.codes)
                known = contigs.Contigs(offsets, aliases)
            if found_at := offsets.get(known.find(record.accession)):
                start, length, lower_case = found_at
                if length < record.declared_length or (record.circular and length > record.declared_length):
                    raise MismatchError(
                        f"has {record.declared_length} bases by its LOCUS line and {length} in {input.sequence}",
                        file=input.annotation, record=record.accession, remedy="give the FASTA of the same version",
                    )  # fmt: skip
                codes = np.fromfile(scratch / "codes", np.uint8, length, offset=start)
                notes = {**record.notes, LONGER: 1} if length > record.declared_length else record.notes
                record = dataclasses.replace(
                    record, codes=codes, lower_case=lower_case, declared_length=length, notes=notes
                )
            name = name or record.accession
        bare = bare and not len(record.codes)
        yield record
    if offsets and name and bare:
        raise MismatchError(
            f"none of its records without bases ({name}, …) is in {input.sequence} ({next(iter(offsets))}, …)",
            file=input.annotation,
            remedy="give its own FASTA, or the names of each record in both files (gener-jax data build --aliases)",
        )
    if offsets is None:
        progress(input.sequence.stat().st_size)  # the FASTA was not needed


def _walk(folder: Path, walked: dict[tuple[int, int], Path], skipped: list[str]) -> Iterator[tuple[Path, list[str]]]:
    """Yields a folder and its subfolders with their files; `walked` records each by device and inode, to end loops."""

    def fail(error: OSError) -> None:
        raise FileError(f"cannot be read ({error.strerror})", file=error.filename)

    for root, folders, names in os.walk(folder, onerror=fail, followlinks=True):
        path, status = Path(root), os.stat(root)
        first = walked.get((status.st_dev, status.st_ino))
        if first is not None:
            what = f"the same folder as {first}/" if first != path else ""
        elif "dataset.json" in names and is_dataset(path):
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


class _Folder:
    """The files of a folder: all of them if it was searched, else the named ones and their possible partners."""

    def __init__(self, path: Path):
        self.path = path
        self.named: dict[str, Path] = {}
        self.walked: dict[str, Path] = {}

    def name(self, path: Path) -> None:
        """Adds a file that the user named."""
        self.named.setdefault(os.path.realpath(path), path)

    def walk(self, names: Sequence[str], skipped: list[str]) -> None:
        """Adds all files of the folder."""
        for path in (self.path / name for name in names):
            is_file = path.is_file()
            first = self.walked.setdefault(os.path.realpath(path), path) if is_file else path
            if file_names.format_of(path) is None:
                continue
            if not is_file:
                skipped.append(f"{path}: {'a broken link' if path.is_symlink() else 'not a plain file'}")
            elif first != path:
                skipped.append(_duplicate(path, first))

    def inputs(self, annotated: bool, skipped: list[str], spare: list[GenomeFile]) -> list[Input]:
        """Pairs the files; adds a line for each skipped file to `skipped` and unpaired named files to `spare`."""
        paths = [path for real, path in self.walked.items() if real not in self.named]
        mine = [file_names.describe(path) for path in (*self.named.values(), *_originals(paths, skipped))]
        partners = self._possible_partners()
        annotations = _preferred([file for file in mine if file.annotates], skipped)
        sequences = _preferred([file for file in mine if not file.annotates], skipped)
        others = _preferred([file for file in partners if not file.annotates])
        if annotated and not annotations:
            annotations = _preferred([file for file in partners if file.annotates])
        last_first = reversed([*sequences, *others])  # the first one with a key is kept
        bases = {key: file for file in last_first for key in file_names.annotation_keys(file)}
        found = [_input(x, bases.get(x.key)) for x in annotations if x.key in bases or x.format == GENBANK]
        taken = {path for x in found for path in x.files}
        alone = [file for file in annotations if file.path not in taken]
        free = [file for file in sequences if file.path not in taken]
        if len(alone) == len(annotations) == len(sequences or others) == 1:  # the only ones here
            found.append(_input(alone.pop(), (sequences or others)[0]))
            free = []
        whole = [file for file in alone if file.format == GFF3 and _has_sequences(file.path)]
        found += [_input(file, None) for file in whole]
        taken = {path for x in found for path in x.files}
        alone = [file for file in alone if file.path not in taken]
        if annotated and alone and free:
            raise _ambiguous([*alone, *free])
        if not annotated:
            found += [_input(None, file) for file in free]
            free = []
        own = {file.path for file in mine}
        for file in (*alone, *free):
            if os.path.realpath(file.path) in self.named:
                spare.append(file)
            elif file.path in own:
                skipped.append(f"{file.path}: no {'FASTA' if file.annotates else 'annotation'} in its folder")
        return sorted((x for x in found if own.intersection(x.files)), key=lambda x: x.files[0].name)

    def _possible_partners(self) -> list[GenomeFile]:
        """The files of a folder that was not searched, except the named ones."""
        if self.walked:
            return []
        paths = [path for path in sorted(self.path.iterdir()) if path.is_file() and not path.name.startswith(".")]
        others = [path for path in paths if os.path.realpath(path) not in self.named]
        return [file_names.describe(path) for path in _originals(others, [])]


def _originals(paths: Sequence[Path], skipped: list[str]) -> list[Path]:
    """The files of a known format, except extracts of other files and compressed copies of files that are present."""
    names = {path.name for path in paths}
    kept = []
    for path in paths:
        plain = file_names.unpacked(path.name)
        if file_names.is_derived(path):
            skipped.append(f"{path}: derived from another file")
        elif file_names.format_of(path) and plain != path.name and plain in names:
            skipped.append(f"{path}: {plain} is the same file, decompressed")
        elif file_names.format_of(path):
            kept.append(path)
    return kept


def _preferred(files: Sequence[GenomeFile], skipped: list[str] | None = None) -> list[GenomeFile]:
    """The best file of each key. Two equally good files are an error; without `skipped`, neither is returned."""
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
            raise _ambiguous(group[:2])
        kept.append(best)
        if skipped is not None:
            what = "sequences" if best.format == FASTA else "annotation"
            what += " and its bases" if best.format == GENBANK else ""
            skipped += [f"{other.path}: {best.path.name} has the same {what}" for other in group[1:]]
    return kept


def _has_sequences(annotation: Path) -> bool:
    """Whether the file contains its own bases; True for a damaged file, whose error is raised when it is read."""
    try:
        return gff.has_sequences(annotation)
    except DataError:
        return True


def _duplicate(path: Path, first: Path) -> str:
    return f"{path}: the same file as {first}"


def _identity(found: Input) -> tuple[str, ...]:
    return tuple(os.path.realpath(path) for path in found.files)


def _input(annotation: GenomeFile | None, sequence: GenomeFile | None) -> Input:
    both = [file for file in (annotation, sequence) if file]
    return Input(
        sequence=sequence and sequence.path,
        annotation=annotation and annotation.path,
        taxon=next((file.taxon for file in both if file.taxon), None),
        assembly=next((file for file in both if file.has_ncbi_accession), both[0]).assembly,
    )


def _manifest_row(folder: Path, row: dict[str, str]) -> Input:
    files: dict[str, Path | None] = {"sequence": None, "annotation": None}
    for name in files:
        if row.get(name):
            files[name] = folder / row[name]
            if not files[name].is_file():
                raise FileError("no such file", field=name, value=files[name])
    if not any(files.values()):
        raise FormatError("names neither a sequence nor an annotation", remedy="name a file")
    annotation, sequence = files["annotation"], files["sequence"]
    if sequence is not None and file_names.format_of(sequence) not in (None, FASTA):
        if annotation not in (None, sequence):
            raise FormatError(
                f"is an annotation by its suffix, like {annotation}",
                field="sequence", value=sequence, remedy="name one annotation, and a FASTA if it has no bases",
            )  # fmt: skip
        annotation, sequence = sequence, None
    if annotation is not None and file_names.format_of(annotation) in (None, FASTA):
        known = " ".join(suffix for suffix, kind in FORMATS.items() if kind != FASTA)
        raise FormatError(
            f"must have one of the suffixes {known}", field="annotation", value=annotation, remedy="rename it"
        )
    if sequence is None and file_names.format_of(annotation) != GENBANK and not _has_sequences(annotation):
        raise FormatError(
            "has no `##FASTA` section",
            field="annotation", value=annotation, remedy="name its FASTA in the column sequence",
        )  # fmt: skip
    row["taxon"] = tag(row.get("taxon", ""))
    for name, allowed in (("taxon", TAXA), ("split", SPLITS)):
        if row.get(name) and row[name] not in allowed:
            raise FormatError(f"must be one of {' '.join(allowed)}", field=name, value=row[name])
    named = _input(annotation and file_names.describe(annotation), sequence and file_names.describe(sequence))
    return dataclasses.replace(named, taxon=row["taxon"] or named.taxon, split=row.get("split") or None)


def _unpaired(file: GenomeFile) -> PairingError:
    if file.annotates:
        return PairingError(
            "has no FASTA in its folder", file=file.path, remedy="name its FASTA too, or give a manifest"
        )
    return PairingError(
        "has no annotation in its folder",
        file=file.path,
        remedy="name its annotation too, give a manifest, or build whole records, which need none (--scheme whole)",
    )


def _ambiguous(files: Sequence[GenomeFile]) -> PairingError:
    names = ", ".join(file.path.name for file in files[:6]) + (", …" if len(files) > 6 else "")
    return PairingError(
        f"it is ambiguous which of {names} belong together", file=files[0].path.parent, remedy="give a manifest"
    )
