"""The field's sets of labelled sequences as data: files, columns, splits, the metric, and what others report.

Files are below `downstream` of the folder of the data (`eval.data`), unless they begin with `genomes` or `human`. A set
without test rows is tested on outer folds of its rows, whole groups each, with validation rows inside the others. A
set that the test data of this project lacks has the command that brings its files; none of these commands was run
where this is developed, so such a set was tested on made-up rows of the same form alone.
"""

import csv
import dataclasses
import functools
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from data_pipeline.errors import DOWNLOAD_AGAIN, FileError, FormatError
from data_pipeline.files import atomic, write_text
from gener_jax.config import Finetune
from gener_jax.labelled import coordinates, folds, splits, table
from gener_jax.labelled.examples import Examples
from gener_jax.labelled.splits import NAMES as SPLITS
from gener_jax.labelled.splits import TEST, TRAIN, VALIDATION, Splits
from gener_jax.storage.results import Published
from gener_jax.tasks import annotated_genomes, gene_labels, published

HERE = "part of this project's test data; see its SOURCES.md"


class Made(NamedTuple):
    """Files of each split, or names of contigs, as `config.Finetune` has them; and lines that a user should know."""

    files: dict[str, tuple[str, ...]]
    notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class LabelledSet:
    """Labelled sequences with their splits.

    Attributes:
      name: of its row in tables, and of its task.
      problem: as `config.Finetune.problem`.
      train, validation, test: files of each split; a folder is `train`, with files or folders of all splits.
      sequence, label, group: columns, as in `config.Finetune`.
      folds: outer folds that give the test rows, if no file does.
      note: what a reader of its figures must know.
      make: writes the splits of outer fold k into a folder, for a set that is no table as `config.Finetune` reads it;
        its arguments are the folder of the data, the folder and k.
      fields: other fields of `config.Finetune`.
      suite: the set of sets that it belongs to.
      metric: the main one, as published; None: the problem's first.
      reported: suite, task and metric of what others report for it, as `published.of` takes them.
      reported_outputs: the same for single outputs: the output → the task.
      as_published: whether rows and split, in whole, are those of the published figures.
      source: how its files are brought.
      needs: files that `make` reads, or a folder with the splits.
      within: a folder in that one which, where it exists, has the splits instead.
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
    make: Callable[[Path, Path, int], Made] | None = None
    fields: dict[str, str] = dataclasses.field(default_factory=dict)
    suite: str = ""
    metric: str | None = None
    reported: tuple[str, str, str] | None = None
    reported_outputs: dict[str, str] = dataclasses.field(default_factory=dict)
    as_published: bool = False
    source: str = HERE
    needs: tuple[str, ...] = ()
    within: str = ""

    def required(self) -> list[str]:
        """The files that must be there, from the folder of the data."""
        genome = [self.fields["genome"]] if "genome" in self.fields else []
        return [_relative(file) for file in (*self.needs, *self.train, *self.validation, *self.test, *genome)]

    def check(self, data: Path) -> None:
        """Checks that folders have the splits that are needed, and that coordinates are of the genome that is there.

        Raises:
          FileError: if a folder has no training rows, or no test rows and no outer folds give any.
          MismatchError: if a split is there in two forms, or the genome is of another assembly.
        """
        for folder in filter(Path.is_dir, (place(data, file) for file in (*self.needs, *self.train))):
            folder = folder / self.within if (folder / self.within).is_dir() else folder
            found = splits.of_folder(folder)
            if lacking := [name for name in (TRAIN, TEST)[: 1 + (self.folds == 1)] if name not in found]:
                raise FileError(f"has no file of {' or '.join(lacking)}", file=folder)
        if self.fields:
            genome = coordinates.Genome(place(data, self.fields["genome"]), self.fields["assembly"])
            for file in (*self.train, *self.validation, *self.test):
                genome.check_assembly(table.read(place(data, file)))

    def files(self, data: Path, folder: Path, fold: int) -> Made:
        """The files of each split; those that are made are in the folder."""
        if self.make is not None:
            folder.mkdir(parents=True, exist_ok=True)
            return self.make(data, folder, fold)
        return Made({name: tuple(str(place(data, file)) for file in getattr(self, name)) for name in SPLITS})

    def settings(self, data: Path) -> dict[str, str]:
        """Other fields of `config.Finetune`, files with their path."""
        return {name: str(place(data, x)) if name == "genome" else x for name, x in self.fields.items()}

    def outer_fold(self, data: Path, folder: Path, fold: int) -> Splits:
        """Training, validation and test rows of an outer fold; without test files, that fold is tested.

        Raises:
          DataError: as `labelled.splits.read`.
        """
        files, notes = self.files(data, folder, fold)
        outer = {"folds": self.folds, "fold": fold} if self.folds > 1 and not files[TEST] else {}
        found = splits.read(
            Finetune(
                problem=self.problem, sequence=self.sequence, label=self.label, group=self.group, **files, **outer,
                **self.settings(data),
            )
        )  # fmt: skip
        train, validation, test = found.train, found.validation, found.test
        if test is None:  # the fold is tested
            units = len(train) if train.groups is None else len(set(train.groups))
            held_out = folds.assign(train, min(units, 10), 1, self.problem == "single_label") == 0
            train, validation, test = train.take(~held_out), train.take(held_out, VALIDATION), validation
            test = dataclasses.replace(test, name=TEST)
        return Splits(train, validation, test, found.problem, (*notes, *found.notes))

    def figures(self, comparable: bool) -> tuple[Published, ...]:
        """What others report for the main metric; `comparable` if the rows are all of them."""
        if self.reported is None:
            return ()
        suite, task, metric = self.reported
        of = {self.metric: task} | {self.of_output(name): task for name, task in self.reported_outputs.items()}
        comparable = comparable and self.as_published
        found = (published.of(suite, task, metric, as_metric=name, comparable=comparable) for name, task in of.items())
        return tuple(figure for figures in found for figure in figures)

    def of_output(self, name: str) -> str:
        """What the main metric of one output of several is called."""
        return f"{self.metric}_{name}"


def _relative(file: str) -> str:
    return file if file.startswith(("genomes/", "human/")) else f"downstream/{file}"


def place(data: Path, file: str) -> Path:
    """A file of the folder of the data."""
    return data / _relative(file)


def _made(data: Path, folder: Path, fold: int, *, write: Callable[[Path, Path], object]) -> Made:
    """One table for all folds, written once; a note for each line of what `write` returns."""
    rows, notes = folder / "rows.tsv", folder / "notes.txt"
    if not rows.exists():
        write_text(notes, str(write(data, rows) or ""))
    return Made({TRAIN: (str(rows),), VALIDATION: (), TEST: ()}, tuple(notes.read_text().splitlines()))


def _write_rows(path: Path, columns: dict[str, Sequence[str]]) -> None:
    """A TSV file; a value with a tab or a line break, as Parquet may hold, is quoted."""
    with atomic(path) as partial, open(partial, "w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file, delimiter="\t", lineterminator="\r\n")
        rows.writerow(columns)
        rows.writerows(zip(*columns.values(), strict=True))


def _classes(data: Path, rows: Path, files: dict[str, str]) -> None:
    """A table of FASTA files, one for each class."""
    found = {label: table.read(place(data, file)).columns["sequence"] for label, file in files.items()}
    labels = [label for label, several in found.items() for _ in several]
    _write_rows(rows, {"sequence": [dna for several in found.values() for dna in several], "label": labels})


def _uci(data: Path, rows: Path) -> None:
    """UCI's file of splice junctions: class, name and sequence in a line, with a comma and blanks between them."""
    path, found = place(data, "splice_uci/splice.txt.gz"), []
    for number, line in enumerate(table.text_lines(path), 1):
        if line.strip():
            found.append([part.strip() for part in line.split(",")])
            if len(found[-1]) != 3:
                problem = f"the row has {len(found[-1])} values; a row is class, name and sequence"
                raise FormatError(problem, file=path, line=number, remedy=DOWNLOAD_AGAIN)
    _write_rows(rows, {"sequence": [row[2] for row in found], "label": [row[0] for row in found]})


def of_column(data: Path, folder: Path, fold: int, *, file: str, column: str, values: dict[str, Sequence[str]]) -> Made:
    """The rows of each split by a column of one table: those of `values`, and of training all others.

    It is how MPRA tables such as Malinois' are split, by chromosome.
    """
    whole = table.read(place(data, file))
    held_out = {value: name for name, several in values.items() for value in several}
    names = [held_out.get(value.removeprefix("chr"), TRAIN) for value in whole.values(column, "column")]
    paths = {name: folder / f"{name}.tsv" for name in SPLITS}
    for name, path in paths.items():
        part = whole.take(i for i, each in enumerate(names) if each == name)
        _write_rows(path, part.columns)
    return Made({name: (str(path),) for name, path in paths.items()})


def of_task(data: Path, folder: Path, fold: int, *, suite: str, task: str) -> Made:
    """The rows of a task of a suite: the files in its folder, or in those of the suite the rows that its column names.

    The Nucleotide Transformer tasks are one table with a column `task`, and folders in other copies.
    """
    own = place(data, suite) / task
    if own.is_dir():
        return Made({TRAIN: (str(own),), VALIDATION: (), TEST: ()})
    found: dict[str, tuple[str, ...]] = dict.fromkeys(SPLITS, ())
    for name, files in splits.of_folder(place(data, suite)).items():
        tables = [table.read(file) for file in files]
        parts = [one.take(i for i, x in enumerate(one.values("task", "column")) if x.strip() == task) for one in tables]
        path = folder / f"{name}.tsv"
        columns = {column: [x for part in parts for x in part.columns[column]] for column in ("sequence", "label")}
        if not columns["label"]:
            raise FileError(f"has no row of the task {task}", file=files[0])
        _write_rows(path, columns)
        found[name] = (str(path),)
    return Made(found)


NOT_PUBLISHED = "not the published split: fitted on dev"
_GUE_NOTE = "the published rows and split, of which the table of published figures has none"
_GUE_SOURCE = "the archive that https://github.com/MAGICS-LAB/DNABERT_2 links, unpacked so that this folder is there"
_HUB = "hf download {} --repo-type dataset --local-dir FOLDER/downstream/{}"
_PUBLISHED = "the published figures are means over 10 folds of whole models fine-tuned by a search of rates"


def _gue(name: str, folder: str, note: str = _GUE_NOTE, splits: tuple[str, ...] = ("train", "dev", "test")):
    files = [(f"gue/{folder}/{split}.csv.gz",) for split in splits]
    validation = files[1] if len(files) == 3 else ()
    return LabelledSet(
        name, train=files[0], validation=validation, test=files[-1], note=note, suite="gue", metric="mcc",
        as_published=len(files) == 3, source=_GUE_SOURCE,
    )  # fmt: skip


def _gue_absent(name: str, folder: str):
    return LabelledSet(name, train=(f"gue/{folder}",), note=_GUE_NOTE, suite="gue", metric="mcc", as_published=True,
                       source=_GUE_SOURCE)  # fmt: skip


def _on_dev(name: str, folder: str):
    return _gue(name, folder, NOT_PUBLISHED, ("dev", "test"))


def _genomic_benchmark(name: str):
    hub = f"katarinagresova/Genomic_Benchmarks_{name}"
    return LabelledSet(
        f"gb_{name}", train=(f"genomic_benchmarks/{name}",), suite="genomic_benchmarks", metric="accuracy",
        reported=("genomic_benchmarks", name, "accuracy"), as_published=True, note=_PUBLISHED,
        source=_HUB.format(hub, f"genomic_benchmarks/{name}"),
    )  # fmt: skip


def _nucleotide_transformer(suite: str, task: str):
    hub = "InstaDeepAI/nucleotide_transformer_downstream_tasks" + "_revised" * (suite == "nt_revised")
    return LabelledSet(
        f"{suite}_{task}", make=functools.partial(of_task, suite=suite, task=task), suite=suite, metric="mcc",
        reported=(suite, task, "mcc"), as_published=True, note=_PUBLISHED, needs=(suite,), within=task,
        source=_HUB.format(hub, suite),
    )  # fmt: skip


def _gener(name: str, hub: str, subset: str, **more):
    suite = hub.replace("-", "_")
    return LabelledSet(
        name, train=(f"{suite}/{subset}",), suite=suite, source=_HUB.format(f"GenerTeam/{hub}", suite), **more
    )


def _mpra(name: str, outputs: tuple[str, ...], note: str = "", **more):
    """Sequences with measured activities: a table, or files of splits, of outputs in the unit of the assay."""
    return LabelledSet(name, "regression", sequence="sequence", label=outputs, note=note, suite="mpra_sequences",
                       metric="pearson", **more)  # fmt: skip


def _files(folder: str) -> dict[str, tuple[str, ...]]:
    return {TRAIN: (f"{folder}/train.tsv.gz",), VALIDATION: (f"{folder}/val.tsv.gz",), TEST: (f"{folder}/test.tsv.gz",)}


_DROSOPHILA = "genomic_benchmarks/coordinates/drosophila_enhancers_stark"
_DEEPSTARR = {"Dev_log2_enrichment": "developmental", "Hk_log2_enrichment": "housekeeping"}  # column → of the figures
_GENOMES = annotated_genomes.needed((*gene_labels.YEAST, *gene_labels.PROKARYOTES))
_BUILT = "built here from annotated genomes; the published rows, of six groups of eukaryotes in RefSeq, are others"
_EMP = ("H3", "H3K14ac", "H3K36me3", "H3K4me1", "H3K4me2", "H3K4me3", "H3K79me3", "H3K9ac", "H4", "H4ac")
GENOMIC_BENCHMARKS = (
    "demo_coding_vs_intergenomic_seqs", "demo_human_or_worm", "drosophila_enhancers_stark",
    "dummy_mouse_enhancers_ensembl", "human_enhancers_cohn", "human_enhancers_ensembl", "human_ensembl_regulatory",
    "human_nontata_promoters", "human_ocr_ensembl",
)  # fmt: skip
_NT = ("enhancers", "enhancers_types", "promoter_all", "promoter_no_tata", "promoter_tata", "splice_sites_acceptors",
       "splice_sites_all", "splice_sites_donors")  # fmt: skip
NT_REVISED = ("H2AFZ", "H3K27ac", "H3K27me3", "H3K36me3", "H3K4me1", "H3K4me2", "H3K4me3", "H3K9ac", "H3K9me3",
              "H4K20me1", *_NT)  # fmt: skip
NT_ORIGINAL = (*_EMP, *_NT)
_FITNESS = (  # eight of thirteen: the names of the others are not known here
    "Ammonium-chloride_N", "Cisplatin_stress", "D-Alanine_N", "L-Arabinose_C", "L-Histidine_nutrient",
    "Min-media-glucose", "Pyruvate_C", "perchlorate_stress",
)  # fmt: skip


def _genome_set(name: str, write: Callable, group: str, note: str, files: tuple[str, ...], **more):
    return LabelledSet(
        name, group=group, folds=5, note=note, make=functools.partial(_made, write=write), needs=files,
        suite="gener_tasks", metric="f1", **more,
    )  # fmt: skip


def _sets() -> Iterator[LabelledSet]:
    """First those that the test data of this project has, whole or in part; then those that it lacks."""
    yield _gue("prom_300_tata", "prom/prom_300_tata")
    for name in ("tata", "all", "notata"):
        yield _gue(f"prom_core_{name}", f"prom/prom_core_{name}")
    for name in ("tf_0", "tf_2", "tf_3", "mouse_0", "mouse_3"):
        yield _gue(name, name.replace("_", "/"))
    yield from (_on_dev(f"emp_{name.lower()}", f"EMP/{name}") for name in ("H3", "H4", "H3K4me3"))
    yield _on_dev("splice_reconstructed", "splice/reconstructed")
    for name, file, note in (
        ("human_nontata_promoters", "human_nontata_promoters_test", "its test rows only"),
        ("human_ocr_ensembl", "human_ocr_ensembl_train1000", "1,000 training rows only"),
        ("human_ensembl_regulatory", "human_ensembl_regulatory_train1500", "1,500 training rows only"),
    ):
        yield LabelledSet(
            name, train=(f"genomic_benchmarks/{file}.tsv.gz",), folds=5, note=f"not the published split: {note}",
            suite="genomic_benchmarks", metric="accuracy", reported=("genomic_benchmarks", name, "accuracy"),
        )  # fmt: skip
    yield LabelledSet(
        "drosophila_enhancers", train=tuple(f"{_DROSOPHILA}/train/{x}.csv.gz" for x in ("negative", "positive")),
        test=tuple(f"{_DROSOPHILA}/test/{x}.csv.gz" for x in ("negative", "positive")),
        fields={"genome": "genomes/eukaryote/dmel_dm3_chr2R_2M-7M.fa.gz", "assembly": "dm3"},
        note="its coordinates are of another assembly than the genome that is there", suite="genomic_benchmarks",
    )  # fmt: skip
    yield LabelledSet(
        "nt_revised_sample", train=("nucleotide_transformer/train_subset.tsv.gz",), sequence="sequence",
        label=("label",), folds=5, suite="others", metric="mcc",
        note="a smoke test, no figure: 1,500 rows of all 18 tasks together, whose labels mean different things",
    )  # fmt: skip
    yield LabelledSet("ienhancer", train=("enhancers_ienhancer/bert_enhancer_dataset.csv.gz",), folds=5, suite="others")
    yield LabelledSet("regulondb_promoters", train=("promoters_ecoli_regulondb/v9d3.csv.gz",), sequence="seqs",
                      label=("labels",), folds=5, suite="others")  # fmt: skip
    yield LabelledSet(
        "hs3d_splice", train=("splice_hs3d/train.csv.gz",), validation=("splice_hs3d/dev.csv.gz",),
        test=("splice_hs3d/test.csv.gz",), sequence="sequence", label=("label",), group="genbank",
        note="split by GenBank entry", suite="others",
    )  # fmt: skip
    uci = functools.partial(_made, write=_uci)
    yield LabelledSet("uci_splice", folds=5, make=uci, needs=("splice_uci/splice.txt.gz",), suite="others")
    for name, positive in (("Ecoli", "prom"), ("Bacillus", "prom"), ("Arabidopsis", "tata")):
        files = {"other": f"{name}_non_prom.fa.gz", "promoter": f"{name}_{positive}.fa.gz"}
        files = {label: f"promoters_umarov/{file}" for label, file in files.items()}
        make = functools.partial(_made, write=functools.partial(_classes, files=files))
        yield LabelledSet(f"umarov_{name.lower()}", folds=5, make=make, needs=tuple(files.values()), suite="others")
    yield _mpra(
        "deepstarr_sample", tuple(_DEEPSTARR), "not the published split: a sample of chrX",
        reported=("deepstarr", "mean", "pearson"), reported_outputs=_DEEPSTARR,
        **_files("deepstarr_sample"),
    )  # fmt: skip
    yield _mpra(
        "yeast_promoters", ("expression",), "not the published split: DREAM's demonstration file",
        **_files("yeast_promoters_dream2022"),
    )  # fmt: skip
    yield _mpra("crx", ("expression_log2",), "folds by element: its wild type and mutants together", group="label:_",
                folds=5, train=("mpra_crx/crx_mpra_library1.tsv.gz",))  # fmt: skip
    for name, rows_of in (("coding_or_intergenic", gene_labels.coding), ("gene_type", gene_labels.first_bases)):
        yield LabelledSet(
            name, make=functools.partial(_control, rows_of=rows_of), group="contig", needs=_GENOMES, suite="controls",
            note="positive control; contigs held out",
        )  # fmt: skip
    reported = {"reported": ("gener_tasks", "gene_classification", "weighted_f1")}
    types, genomes = gene_labels.types_of_test_data, annotated_genomes.needed(gene_labels.GENOMES)
    yield _genome_set("gener_gene_type", types, "contig", f"{_BUILT}; contigs held out", genomes, **reported)
    yield _genome_set("gener_gene_type_species", types, "species", f"{_BUILT}; species held out", genomes, **reported)
    bacterial = functools.partial(types, files=gene_labels.PROKARYOTES, least=50)
    note = "built here from six bacterial genomes, from 50 bases on, so that there are tRNA genes; contigs held out"
    yield _genome_set("gener_bacterial_gene", bacterial, "contig", note, genomes)
    yield _genome_set(
        "gener_taxon", gene_labels.taxa_of_test_data, "contig", f"{_BUILT}; contigs held out",
        (*genomes, *gene_labels.BARE), reported=("gener_tasks", "taxonomic_classification", "weighted_f1"),
    )  # fmt: skip

    yield from map(_genomic_benchmark, GENOMIC_BENCHMARKS)
    yield from (_nucleotide_transformer("nt_revised", task) for task in NT_REVISED)
    yield from (_nucleotide_transformer("nt_original", task) for task in NT_ORIGINAL)
    yield from (_gue_absent(f"gue_emp_{name.lower()}", f"EMP/{name}") for name in _EMP)
    yield _gue_absent("gue_splice_reconstructed", "splice/reconstructed")
    for name in ("prom_300_all", "prom_300_notata"):
        yield _gue_absent(name, f"prom/{name}")
    for name in ("tf_1", "tf_4", "mouse_1", "mouse_2", "mouse_4", "virus_covid"):
        yield _gue_absent(name, name.replace("_", "/"))
    for name in ("gene_classification", "taxonomic_classification"):
        yield _gener(f"gener_{name}", "gener-tasks", name, metric="f1", as_published=True, note=_PUBLISHED,
                     reported=("gener_tasks", name, "weighted_f1"))  # fmt: skip
    hub = "prokaryotic-gener-tasks"
    yield _gener("prok_gene_classification", hub, "gene_classification_bacteria", metric="f1")
    yield _gener("prok_drug_resistance", hub, "drug_resistence_prediction", metric="f1")  # spelled so
    for name in _FITNESS:
        yield _gener(f"prok_fitness_{name.lower().replace('-', '_')}", hub, f"fitness_{name}", problem="regression",
                     metric="pearson")  # fmt: skip
    yield _mpra(
        "deepstarr", tuple(_DEEPSTARR), "the published figures are of whole models fine-tuned; split by chromosome",
        train=("deepstarr",), reported=("deepstarr", "mean", "pearson"), reported_outputs=_DEEPSTARR, as_published=True,
        source=_HUB.format("GenerTeam/DeepSTARR-enhancer-activity", "deepstarr"),
    )  # fmt: skip
    dream = "https://github.com/de-Boer-Lab/random-promoter-dream-challenge-2022, train.tsv and test.tsv of its files"
    yield _mpra("dream2022", ("expression",), "the challenge's score weighs kinds of promoters; this does not",
                train=("dream2022",), source=f"{dream}, each with a first line: sequence<tab>expression")  # fmt: skip
    file = "malinois/Table_S2__MPRA_dataset.tsv"
    make = functools.partial(
        of_column, file=file, column="chr", values={VALIDATION: ("19", "21", "X"), TEST: ("7", "13")}
    )
    yield _mpra(
        "malinois", ("K562_log2FC", "HepG2_log2FC", "SKNSH_log2FC"), "test rows of chromosomes 7 and 13", make=make,
        needs=(file,), source=f"gs://tewhey-public-data/CODA_resources/Table_S2__MPRA_dataset.txt, saved as {file}",
    )  # fmt: skip


def _control(data: Path, folder: Path, fold: int, *, rows_of: Callable) -> Made:
    return Made(gene_labels.by_contig(data, folder, rows_of))


SETS: dict[str, LabelledSet] = {each.name: each for each in _sets()}


def outer_folds(labelled: LabelledSet, data: Path) -> list[Splits]:
    """The splits of all outer folds of a set; what is made is removed. Rows are named by their files' places in `data`,
    or by what was made, so that they have the same names everywhere.
    """
    with tempfile.TemporaryDirectory() as folder:
        found = [labelled.outer_fold(data, Path(folder), fold) for fold in range(labelled.folds)]

    def named(each: Examples) -> Examples:
        places = [where.replace(f"{folder}/", "").replace(f"{data}/", "") for where in each.places]
        return dataclasses.replace(each, places=places)

    return [
        dataclasses.replace(each, train=named(each.train), validation=named(each.validation), test=named(each.test))
        for each in found
    ]
