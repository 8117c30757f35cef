"""Labels per base, from FASTA with GFF3, GTF, GenBank or BED; contigs held out whole; predicted labels as GFF3.

The labels of a genome annotation are `coding` (in a CDS), `intron` (between two exons of an mRNA, or two segments of a
CDS) and `other`, on either strand. A base with several is coding, else intron, if any transcript says so. Pseudogenes
and rows of the type intron, which may be those of single reads, say nothing. The labels of a BED file are the names in
its column 4, and `other` outside all rows; the bases of rows named `.` have no label unless another row labels them.
An unknown base has no label.
"""

import collections
import dataclasses
import functools
import hashlib
import itertools
import tempfile
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

import numpy as np

from data_pipeline.dataset import inputs
from data_pipeline.errors import FormatError, MismatchError, PairingError
from data_pipeline.formats import bed, fasta, file_names
from data_pipeline.formats.contigs import Contigs
from data_pipeline.sequence import bases, locations
from data_pipeline.sequence.record import Feature, Record
from gener_jax.config import Finetune
from gener_jax.runtime.errors import ConfigError

OTHER, UNLABELLED = "other", -1
GFF3 = "##gff-version 3\n"  # the first line of a file
CLASSES = ("coding", "intron", OTHER)
_CODING, _INTRON, _OTHER = range(3)
_KINDS = ("gene", "mRNA", "CDS")
_CUT = ("trans_splicing", "ribosomal_slippage")  # qualifiers of features whose segments do not enclose introns
_NO_LABEL = "."
_TYPES = {"coding": "coding_region_of_exon"}  # class → type of the Sequence Ontology; a CDS row would need a phase
_ITS_FASTA = "give its FASTA"
_MAX_CLASSES = 100  # labels are int8; and names of genes are no classes
# What the notes count.
UNANNOTATED = "contigs without a gene, left out"
OUTSIDE = "features that exceed their contig, left out"
UNKNOWN_CONTIGS = "rows of contigs that no FASTA has, left out"


@dataclasses.dataclass(frozen=True)
class Contig:
    """A contig: `codes`, uint8 [bases] as in `bases`, and `labels`, int8 [bases], the number of a class, or -1."""

    name: str
    codes: np.ndarray
    labels: np.ndarray


@dataclasses.dataclass(frozen=True)
class Annotated:
    """The contigs of a split, and the names of the classes."""

    name: str
    contigs: tuple[Contig, ...]
    classes: tuple[str, ...]

    def __str__(self) -> str:
        """The labelled bases of each class, in words."""
        return ", ".join(f"{number:,} bases {name}" for name, number in zip(self.classes, self.counts, strict=True))

    @functools.cached_property
    def counts(self) -> np.ndarray:
        """Labelled bases of each class, int64 [classes]."""
        return sum(
            (np.bincount(x.labels[x.labels >= 0], minlength=len(self.classes)) for x in self.contigs),
            np.zeros(len(self.classes), np.int64),
        )

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of names, bases, labels and classes, in their order."""
        found = hashlib.sha256("\n".join(self.classes).encode())
        for contig in self.contigs:
            found.update(f"\n{contig.name}\n{len(contig.codes)}\n".encode())
            found.update(contig.codes.tobytes() + contig.labels.tobytes())
        return found.hexdigest()


@dataclasses.dataclass(frozen=True)
class AnnotatedSplits:
    """The splits; `notes` are a line for each thing that was left out."""

    train: Annotated
    validation: Annotated
    test: Annotated | None
    notes: tuple[str, ...]


def read(finetune: Finetune) -> AnnotatedSplits:
    """The splits of a token problem.

    `finetune.train` names files that belong together as those of a dataset (see `data_pipeline.dataset.inputs`):
    FASTA with GFF3 or GTF, or GenBank; or FASTA and BED. `finetune.validation` and `finetune.test` are such files, or
    names of contigs of the training files, which are held out. Without validation it is fold `finetune.fold` of
    `finetune.folds`, or of as many as there are contigs: whole contigs, in folds of about equal length.

    Raises:
      ConfigError: with the field: no files, or a name that is neither a file nor a contig.
      DataError: as the readers of the formats; a class that the training files lack; two contigs of one name; a BED row
        beyond its contig, or on bases that another row gives another class.
    """
    if not finetune.train:
        raise ConfigError("name a FASTA and its annotation (GFF3, GTF or BED)", "finetune.train", finetune.train)
    contigs, classes, notes = _files(list(map(Path, finetune.train)), None)
    held: dict[str, list[Contig]] = {}
    for field in ("validation", "test"):
        named = getattr(finetune, field)
        if named and not are_files(named):
            contigs, held[field] = _held_out(contigs, named, f"finetune.{field}")
        elif named:
            held[field], _, more = _files(list(map(Path, named)), classes)
            notes += more
    if "validation" not in held:
        held["validation"] = _fold(contigs, finetune)
        contigs = [contig for contig in contigs if contig not in held["validation"]]
    splits = {name: Annotated(name, tuple(x), classes) for name, x in (("train", contigs), *held.items())}
    for name, split in splits.items():
        if not split.counts.sum():
            raise ConfigError("leaves no labelled base for this split", f"finetune.{name}", getattr(finetune, name))
    lines = tuple(f"{number:,} {what}" for what, number in notes.items() if number)
    return AnnotatedSplits(**{"test": None, **splits}, notes=lines)


def are_files(names: Sequence[str]) -> bool:
    """Whether `finetune.validation` or `test` are files, not contigs."""
    return any(Path(name).exists() for name in names)


def _files(paths: Sequence[Path], classes: tuple[str, ...] | None):
    """The contigs of files, their classes (those given, unless None) and notes."""
    beds = [path for path in paths if file_names.unpacked(path.name).lower().endswith(".bed")]
    if beds:
        return _of_bed([path for path in paths if path not in beds], beds, classes)
    found = _of_genes(paths, classes)
    _check_unique(found[0], paths)
    return found


def _joined(paths: Sequence[Path]) -> str:
    return ", ".join(map(str, paths))


def _check_unique(contigs: Sequence, paths: Sequence[Path]) -> None:
    names = collections.Counter(contig.name for contig in contigs)
    if twice := next((name for name, number in names.items() if number > 1), None):
        raise MismatchError("occurs twice", file=_joined(paths), field="contig", value=twice, remedy="rename one")


def _of_genes(paths: Sequence[Path], classes):
    if classes not in (None, CLASSES):
        remedy = "give BED files, as for finetune.train"
        raise MismatchError(f"has the classes {', '.join(CLASSES)}", file=_joined(paths), remedy=remedy)
    contigs, notes = [], collections.Counter()
    for found in inputs.discover(paths, annotated=True)[0]:
        with tempfile.TemporaryDirectory() as scratch:
            for record in inputs.records(found, _KINDS, scratch, lambda count: None):
                if not record.features or not len(record.codes):
                    notes[UNANNOTATED] += bool(len(record.codes))
                    continue
                contigs.append(Contig(record.accession, record.codes, gene_labels(record, notes)))
    if not contigs:
        raise FormatError("annotates no gene", file=_joined(paths), remedy="give a GFF3, GTF or GenBank of genes")
    return contigs, CLASSES, notes


def gene_labels(record: Record, notes: collections.Counter) -> np.ndarray:
    """The class of each base of an annotated record, of `CLASSES`, int8 [bases]; `notes` count what is left out."""
    labels = np.full(len(record.codes), _OTHER, np.int8)
    coding = []
    for feature in record.features:
        if feature.kind == "gene" or "pseudo" in feature.qualifiers:
            continue
        if any(x.accession for x in feature.segments) or not locations.inside(feature.segments, len(record.codes)):
            notes[OUTSIDE] += 1
            continue
        for start, end in _introns(feature):
            labels[start:end] = _INTRON
        coding += feature.segments if feature.kind == "CDS" else []
    for segment in coding:
        labels[segment.start : segment.end] = _CODING
    labels[record.codes >= bases.N] = UNLABELLED
    return labels


def _introns(feature: Feature):
    """The intervals between the segments of a feature; those across the origin of a circle are not known."""
    if any(name in feature.qualifiers for name in _CUT):
        return
    for one, other in itertools.pairwise(feature.segments):
        left, right = (one, other) if one.strand > 0 else (other, one)
        if one.strand == other.strand and left.end < right.start:
            yield left.end, right.start


def _of_bed(sequences: Sequence[Path], beds: Sequence[Path], classes):
    wrong = next((path for path in sequences if file_names.format_of(path) != file_names.FASTA), None)
    if wrong or not sequences:
        remedy = "name the FASTA files and their BED files, nothing else"
        raise PairingError("with BED, bases are read from FASTA", file=wrong or beds[0], remedy=remedy)
    records = [x for path in sequences for x in fasta.read(path)]
    _check_unique(records, sequences)
    codes = {x.name: x.codes for x in records}
    matches, rows, notes = Contigs(codes), [], collections.Counter()
    for path in beds:
        for row in bed.read(path):
            contig = matches.find(row.contig)
            if contig is None:
                notes[UNKNOWN_CONTIGS] += 1
            elif row.end > len(codes[contig]):
                problem = f"exceeds the {len(codes[contig])} bases of {contig}"
                raise MismatchError(problem, file=path, line=row.line, field="end", value=row.end, remedy=_ITS_FASTA)
            else:
                rows.append((path, row._replace(contig=contig)))
    if not rows:
        raise MismatchError("none of its rows is on a contig of the FASTA", file=beds[0], remedy=_ITS_FASTA)
    known = classes or (*sorted({row.name for _, row in rows} - {OTHER, _NO_LABEL}), OTHER)
    if len(known) > _MAX_CLASSES:
        problem, remedy = f"has {len(known):,} names in column 4, which are the classes", f"use up to {_MAX_CLASSES}"
        raise FormatError(problem, file=beds[0], remedy=remedy)
    labels = _painted(codes, rows, known)
    outside = any((x == len(known)).any() for x in labels.values())
    if classes is None and not (outside or any(row.name == OTHER for _, row in rows)):
        known = known[:-1]
    elif outside and OTHER not in known:
        problem = f"leaves bases without a class, and all of finetune.train have one of {', '.join(classes)}"
        raise MismatchError(problem, file=beds[0], remedy="name the class of these bases, or . for none")
    for name, x in labels.items():
        x[x == len(known)] = len(known) - 1  # other, the last
        x[codes[name] >= bases.N] = UNLABELLED
    return [Contig(name, x, labels[name]) for name, x in codes.items()], tuple(known), notes


def _painted(codes: dict[str, np.ndarray], rows, classes: Sequence[str]) -> dict[str, np.ndarray]:
    """The labels of each contig by the rows of BED files; outside all rows the number of classes."""
    labels = {name: np.full(len(x), len(classes), np.int8) for name, x in codes.items()}
    for _, row in rows:
        if row.name == _NO_LABEL:
            labels[row.contig][row.start : row.end] = UNLABELLED
    for path, row in rows:
        here, where = labels[row.contig][row.start : row.end], {"file": path, "line": row.line, "field": "class"}
        if row.name == _NO_LABEL:
            continue
        if row.name not in classes:
            problem, remedy = f"is none of the classes of finetune.train, {', '.join(classes)}", "correct the name"
            raise FormatError(problem, value=row.name, remedy=remedy, **where)
        number = classes.index(row.name)
        if (~np.isin(here, (number, len(classes), UNLABELLED))).any():
            problem, remedy = "is on bases that another row gives another class", "give each base one class"
            raise FormatError(problem, value=row.name, remedy=remedy, **where)
        here[:] = number
    return labels


def _held_out(contigs: list[Contig], named: Sequence[str], field: str) -> tuple[list[Contig], list[Contig]]:
    """The contigs without those that are named, and these."""
    found = Contigs(contig.name for contig in contigs)
    chosen = {found.find(name): name for name in named}
    if None in chosen:
        raise ConfigError("is neither a file nor a contig of finetune.train", field, chosen[None])
    parts = [[x for x in contigs if (x.name in chosen) == held] for held in (False, True)]
    return parts[0], parts[1]


def _fold(contigs: list[Contig], finetune: Finetune) -> list[Contig]:
    """The contigs of a fold: from the longest on, each goes to the fold that has the fewest bases so far."""
    folds = min(finetune.folds, len(contigs))
    if folds < 2:
        problem = f"finetune.train has {len(contigs)} contig left; name files of others"
        raise ConfigError(problem, "finetune.validation", finetune.validation)
    if finetune.fold >= folds:
        raise ConfigError(f"there are {folds} folds, of a contig each", "finetune.fold", finetune.fold)
    parts, sizes = [[] for _ in range(folds)], [0] * folds
    for contig in sorted(contigs, key=lambda x: (-len(x.codes), hashlib.sha256(x.name.encode()).digest())):
        emptiest = sizes.index(min(sizes))
        parts[emptiest].append(contig)
        sizes[emptiest] += len(contig.codes)
    return parts[finetune.fold]


def gff3(contig: str, probabilities: np.ndarray, classes: Sequence[str]) -> str:
    """The lines of GFF3 of a contig's predictions: a feature per run of bases with the same most probable class.

    The type of a feature is its class, of `coding` the ontology's coding_region_of_exon; its score the mean
    probability of that class. Runs of `other`, and bases without a prediction (NaN), are no features. Predictions are
    of both strands, so the strand is `.`.

    Args:
      contig: its name.
      probabilities: float32 [bases, classes].
      classes: their names.
    """
    name, lines = quote(contig, safe=".:^*$@!+_?-|"), []
    if len(probabilities):
        lines.append(f"##sequence-region {name} 1 {len(probabilities)}\n")
    best = np.where(np.isnan(probabilities).any(1), len(classes), probabilities.argmax(1))
    edges = np.concatenate([[0], 1 + np.flatnonzero(np.diff(best)), [len(best)]]) if len(best) else [0]
    for start, end in itertools.pairwise(np.asarray(edges).tolist()):
        if best[start] == len(classes) or classes[best[start]] == OTHER:
            continue
        label = classes[best[start]]
        score, value = probabilities[start:end, best[start]].mean(), quote(label, safe=" _-.:+()'/")
        kind = _TYPES.get(label, value.replace(" ", "_"))
        lines.append(f"{name}\tgener_jax\t{kind}\t{start + 1}\t{end}\t{score:.4f}\t.\t.\tName={value}\n")
    return "".join(lines)
