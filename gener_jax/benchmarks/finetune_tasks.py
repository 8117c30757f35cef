"""The tasks of the fine-tuning matrix as data: their files, columns, splits and what to know about them.

Files are below `downstream` of a folder of test data, unless they begin with `genomes`. A task without test files is
tested on outer folds of its rows, whole groups each, with validation rows inside the others. Of the published results
that this project knows (`published/results.tsv`), none has the split and the metric of a task here, so none stands
beside one.
"""

import dataclasses
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from data_pipeline.dataset import inputs
from data_pipeline.formats import fasta
from data_pipeline.regions import extraction, schemes
from data_pipeline.regions.ledger import Ledger
from data_pipeline.regions.schemes import Scheme
from data_pipeline.sequence import bases, locations
from data_pipeline.sequence.record import Record
from data_pipeline.splitting import split
from gener_jax.labelled import table

WHOLE_MODEL = ("prom_300_tata", "mouse_0", "emp_h3", "crx")  # the tasks that the arms full and lora are run on
NOT_PUBLISHED = "not the published split: fitted on dev"


@dataclasses.dataclass(frozen=True)
class Task:
    """A task of the matrix.

    Attributes:
      name: of its row.
      problem: as `config.Finetune.problem`.
      train, validation, test: files of each split.
      sequence, label, group: columns, as in `config.Finetune`.
      folds: outer folds that give the test rows, if no file does.
      note: what a reader of the row must know.
      make: writes the splits of fold k of the task, made from genomes, into a folder; returns their files, or names of
        contigs, by split. The folder of test data, the folder and k are its arguments.
      fields: other fields of `config.Finetune`.
    """

    name: str
    problem: str = "single_label"
    train: tuple[str, ...] = ()
    validation: tuple[str, ...] = ()
    test: tuple[str, ...] = ()
    sequence: str | None = None
    label: tuple[str, ...] = ()
    group: str | None = None
    folds: int = 1
    note: str = ""
    make: Callable[[Path, Path, int], dict[str, tuple[str, ...]]] | None = None
    fields: dict[str, str] = dataclasses.field(default_factory=dict)

    def files(self, data: Path, folder: Path, fold: int) -> dict[str, tuple[str, ...]]:
        """The files of each split, or names of contigs, by the fields of `config.Finetune`."""
        if self.make is not None:
            folder.mkdir(parents=True, exist_ok=True)
            return self.make(data, folder, fold)
        return {name: tuple(str(place(data, file)) for file in getattr(self, name)) for name in SPLITS}

    def settings(self, data: Path) -> dict[str, str]:
        """Other fields of `config.Finetune`, files with their path."""
        return {name: str(place(data, x)) if name == "genome" else x for name, x in self.fields.items()}


SPLITS = ("train", "validation", "test")


def place(data: Path, file: str) -> Path:
    """A file of the folder of test data."""
    return data / file if file.startswith("genomes/") else data / "downstream" / file


def _gue(name: str, folder: str, note: str = "", splits: tuple[str, ...] = ("train", "dev", "test")) -> Task:
    files = [(f"gue/{folder}/{split}.csv.gz",) for split in splits]
    return Task(name, train=files[0], validation=files[1] if len(files) == 3 else (), test=files[-1], note=note)


def _on_dev(name: str, folder: str) -> Task:
    return _gue(name, folder, NOT_PUBLISHED, ("dev", "test"))


def contigs(data: Path, *files: str) -> Iterator[tuple[Record, str]]:
    """Yields the records of annotated genomes with the name of their assembly."""
    kinds, qualifiers = schemes.feature_kinds(Scheme()), schemes.qualifiers(Scheme("cds"))
    found, _ = inputs.discover([data / "genomes" / file for file in files], annotated=True)
    for source in found:
        with tempfile.TemporaryDirectory() as scratch:
            for record in inputs.records(source, kinds, scratch, lambda read: None, qualifiers):
                yield record, source.assembly


GENOMES = (
    "eukaryote/yeast_S288C_R64_chrI-XII_MT.gff.gz",
    "prokaryote/ecoli_K12_MG1655_NC_000913.3.gbk.gz",
    "prokaryote/mgallisepticum_Rlow_NC_004829.2.gbk.gz",
    "prokaryote/malvi_ATCC29626_draft.gbff.gz",
    "prokaryote/lkirschneri_H1_draft.gbk.gz",
    "prokaryote/ctrachomatis_1998_CG0037.gbk.gz",
    "prokaryote/mmycoides_GM12_NZ_CP001668.gbff.gz",
)
WINDOW, LONGEST = 300, 600  # bases of coding and intergenic rows; of genes, longer ones are cut
PER_CONTIG = 100  # rows of a class and contig


def _by_contig(data: Path, folder: Path, rows_of: Callable[[Record], Iterator[tuple[str, np.ndarray]]]) -> dict:
    """Writes tables of (label, codes) rows of contigs, whole contigs in a split, as `data build --split_by contig`."""
    found: dict[str, list[str]] = {name: [] for name in SPLITS}
    rng = np.random.default_rng(0)
    for record, assembly in contigs(data, *GENOMES):
        whole = extraction.Region(0, len(record.codes), 1, "whole")
        [place] = split.split_hashes(record, [whole], by="contig", seed=0, assembly=assembly)
        name = SPLITS[split.splits_of(np.array([place], np.uint64), 0.15, 0.25)[0]]
        by_label: dict[str, list[np.ndarray]] = {}
        for label, codes in rows_of(record):
            by_label.setdefault(label, []).append(codes)
        for label, several in by_label.items():
            for i in rng.permutation(len(several))[:PER_CONTIG]:
                found[name].append(f"{bases.decode(several[i])}\t{label}\t{record.accession}\n")
    for name, lines in found.items():
        (folder / f"{name}.tsv").write_text("sequence\tlabel\tcontig\n" + "".join(lines))
    return {name: (str(folder / f"{name}.tsv"),) for name in SPLITS}


def _middle(codes: np.ndarray) -> np.ndarray:
    start = (len(codes) - WINDOW) // 2
    return codes[start : start + WINDOW]


def _coding(record: Record) -> Iterator[tuple[str, np.ndarray]]:
    """The middle of coding sequences, and of stretches without a gene on any strand (every other one reversed)."""
    for span in extraction.find(record, Scheme("cds", min_length=WINDOW), Ledger()):
        yield "coding", _middle(extraction.extract(record, span).codes)
    length = len(record.codes)
    genes = [x for span in extraction.find(record, Scheme(), Ledger()) for x in span.intervals(length)]
    edges = np.concatenate([[0], np.ravel(locations.union(genes)), [length]]).astype(int).reshape(-1, 2)
    for number, (start, end) in enumerate(edges.tolist() if genes else ()):
        if end - start >= WINDOW:
            codes = _middle(record.codes[start:end])
            yield "intergenic", bases.reverse_complement(codes) if number % 2 else codes


def _gene_types(record: Record) -> Iterator[tuple[str, np.ndarray]]:
    """Gene regions with their kind, as the scheme gene of `data build` gives them, the first 600 bases.

    rRNA and ncRNA are one class: rRNA genes are few.
    """
    names = {"cds": "cds", "tRNA": "tRNA", "rRNA": "other RNA", "ncRNA": "other RNA", "pseudo": "pseudo"}
    for span in extraction.find(record, Scheme(min_length=50), Ledger()):
        if span.kind in names:
            yield names[span.kind], extraction.extract(record, span).codes[:LONGEST]


def _coding_table(data: Path, folder: Path, fold: int) -> dict:
    return _by_contig(data, folder, _coding)


def _gene_type_table(data: Path, folder: Path, fold: int) -> dict:
    return _by_contig(data, folder, _gene_types)


def _celegans(data: Path, folder: Path, fold: int) -> dict:
    files = [str(data / "genomes/eukaryote" / f"celegans_1pct.{suffix}.gz") for suffix in ("fa", "gff3")]
    return {"train": tuple(files), "validation": ("III",), "test": ("V",)}


def _yeast(data: Path, folder: Path, fold: int) -> dict:
    """Four chromosomes: the others would take hours."""
    names = {f"NC_00{1132 + number}" for number in (1, 3, 6, 9)}  # I, III, VI, IX
    source = data / "genomes/eukaryote/yeast_S288C_R64_chrI-XII_MT"
    files = [folder / "yeast.fa", folder / "yeast.gff"]
    sequences = [x for x in fasta.read(f"{source}.fna.gz") if x.name.partition(".")[0] in names]
    files[0].write_text("".join(f">{x.name}\n{bases.decode(x.codes)}\n" for x in sequences))
    rows = table.stream.chunks(Path(f"{source}.gff.gz"), lambda read: None)
    lines = b"".join(rows).decode().splitlines()
    kept = [line for line in lines if line.partition(".")[0] in names]
    files[1].write_text("##gff-version 3\n" + "".join(f"{line}\n" for line in kept))
    full = {x.name.partition(".")[0]: x.name for x in sequences}
    return {"train": tuple(map(str, files)), "validation": (full["NC_001135"],), "test": (full["NC_001141"],)}


EXON_CONTEXT = 3072  # bases on both sides


def _exons(data: Path, folder: Path, fold: int) -> dict:
    """A contig for each gene, in which only the base at the position has a label."""
    rows = table.read(place(data, "exon_classifier/samplePositions.tsv.gz")).columns
    files, names = [folder / "genes.fa", folder / "genes.bed"], []
    with open(files[0], "w") as sequences, open(files[1], "w") as labels:
        for gene, label, left, right in zip(
            *(rows[x] for x in ("gene_name", "label", "forward_seq", "reverse_seq")), strict=True
        ):
            right = bases.decode(bases.reverse_complement(bases.encode(right)))
            dna = left[-EXON_CONTEXT:].upper() + right[:EXON_CONTEXT]
            sequences.write(f">{gene}\n{dna}\n")
            labels.write(f"{gene}\t0\t{len(dna)}\t.\n")
            labels.write(f"{gene}\t{EXON_CONTEXT - 1}\t{EXON_CONTEXT}\t{'exon' if float(label) else 'not_exon'}\n")
            names.append(gene)
    test = [name for i, name in enumerate(names) if i % 3 == fold]
    validation = [name for i, name in enumerate(names) if i % 3 == (fold + 1) % 3][::3]
    return {"train": tuple(map(str, files)), "validation": tuple(validation), "test": tuple(test)}


_DROSOPHILA = "genomic_benchmarks/coordinates/drosophila_enhancers_stark"
TASKS = (
    _gue("prom_300_tata", "prom/prom_300_tata"),
    _gue("prom_core_tata", "prom/prom_core_tata"),
    _gue("prom_core_all", "prom/prom_core_all"),
    _gue("prom_core_notata", "prom/prom_core_notata"),
    _gue("tf_0", "tf/0"),
    _gue("tf_2", "tf/2"),
    _gue("tf_3", "tf/3"),
    _gue("mouse_0", "mouse/0"),
    _gue("mouse_3", "mouse/3"),
    _on_dev("emp_h3", "EMP/H3"),
    _on_dev("emp_h4", "EMP/H4"),
    _on_dev("splice_reconstructed", "splice/reconstructed"),
    Task("human_nontata_promoters", train=("genomic_benchmarks/human_nontata_promoters_test.tsv.gz",), folds=5,
         note="not the published split: its test rows only"),
    Task("human_ocr_ensembl", train=("genomic_benchmarks/human_ocr_ensembl_train1000.tsv.gz",), folds=5,
         note="not the published split: 1,000 training rows only"),
    Task("human_ensembl_regulatory", train=("genomic_benchmarks/human_ensembl_regulatory_train1500.tsv.gz",), folds=5,
         note="not the published split: 1,500 training rows only"),
    Task("ienhancer", train=("enhancers_ienhancer/bert_enhancer_dataset.csv.gz",), folds=5),
    Task("regulondb_promoters", train=("promoters_ecoli_regulondb/v9d3.csv.gz",), sequence="seqs", label=("labels",),
         folds=5),
    Task("hs3d_splice", train=("splice_hs3d/train.csv.gz",), validation=("splice_hs3d/dev.csv.gz",),
         test=("splice_hs3d/test.csv.gz",), sequence="sequence", label=("label",), group="genbank",
         note="split by GenBank entry"),
    Task("deepstarr_sample", "regression", ("deepstarr_sample/train.tsv.gz",), ("deepstarr_sample/val.tsv.gz",),
         ("deepstarr_sample/test.tsv.gz",), "sequence", ("Dev_log2_enrichment", "Hk_log2_enrichment"),
         note="not the published split: a sample of chrX"),
    Task("yeast_promoters", "regression", ("yeast_promoters_dream2022/train.tsv.gz",),
         ("yeast_promoters_dream2022/val.tsv.gz",), ("yeast_promoters_dream2022/test.tsv.gz",), "sequence",
         ("expression",), note="not the published split: DREAM's demonstration file"),
    Task("crx", "regression", ("mpra_crx/crx_mpra_library1.tsv.gz",), sequence="sequence", label=("expression_log2",),
         group="label:_", folds=5, note="folds by element: its wild type and mutants together"),
    Task("drosophila_enhancers", train=tuple(f"{_DROSOPHILA}/train/{x}.csv.gz" for x in ("negative", "positive")),
         fields={"genome": "genomes/eukaryote/dmel_dm3_chr2R_2M-7M.fa.gz", "assembly": "dm3"},
         note="its coordinates are of another assembly than the genome that is there"),
    Task("coding_or_intergenic", make=_coding_table, group="contig", note="positive control; contigs held out"),
    Task("gene_type", make=_gene_type_table, group="contig", note="positive control; contigs held out"),
    Task("celegans_bases", "token", make=_celegans, note="coding, intron, other; contigs held out"),
    Task("yeast_bases", "token", make=_yeast, note="coding, intron, other; chromosomes held out"),
    Task("exon_positions", "token", make=_exons, folds=3, note="one base per gene has a label; genes held out"),
)  # fmt: skip
