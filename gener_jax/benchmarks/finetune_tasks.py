"""The tasks of the fine-tuning matrix: sets of labelled sequences that the test data has, and labels per base.

Of the published results that this project knows (`assets/published.tsv`), none has the split and the metric of a task
here, so none stands beside one.
"""

from pathlib import Path

from data_pipeline.formats import fasta
from data_pipeline.sequence import bases
from gener_jax.labelled import table
from gener_jax.tasks.labelled_sets import SETS, Made, place
from gener_jax.tasks.labelled_sets import LabelledSet as Task

WHOLE_MODEL = ("prom_300_tata", "mouse_0", "emp_h3", "crx")  # the tasks that the arms full and lora are run on
_SETS = (
    "prom_300_tata", "prom_core_tata", "prom_core_all", "prom_core_notata", "tf_0", "tf_2", "tf_3", "mouse_0",
    "mouse_3", "emp_h3", "emp_h4", "splice_reconstructed", "human_nontata_promoters", "human_ocr_ensembl",
    "human_ensembl_regulatory", "ienhancer", "regulondb_promoters", "hs3d_splice", "deepstarr_sample",
    "yeast_promoters", "crx", "drosophila_enhancers", "coding_or_intergenic", "gene_type",
)  # fmt: skip


def _celegans(data: Path, folder: Path, fold: int) -> Made:
    files = [str(data / "genomes/eukaryote" / f"celegans_1pct.{suffix}.gz") for suffix in ("fa", "gff3")]
    return Made({"train": tuple(files), "validation": ("III",), "test": ("V",)})


def _yeast(data: Path, folder: Path, fold: int) -> Made:
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
    held_out = {"validation": (full["NC_001135"],), "test": (full["NC_001141"],)}
    return Made({"train": tuple(map(str, files)), **held_out})


EXON_CONTEXT = 3072  # bases on both sides


def _exons(data: Path, folder: Path, fold: int) -> Made:
    """A contig for each gene, in which only the base at the position has a label: both sequences end with it."""
    rows = table.read(place(data, "exon_classifier/samplePositions.tsv.gz")).columns
    files, names = [folder / "genes.fa", folder / "genes.bed"], []
    with open(files[0], "w") as sequences, open(files[1], "w") as labels:
        for gene, label, left, right in zip(
            *(rows[x] for x in ("gene_name", "label", "forward_seq", "reverse_seq")), strict=True
        ):
            right = bases.decode(bases.reverse_complement(bases.encode(right)))
            dna = left[-EXON_CONTEXT:].upper() + right[1:EXON_CONTEXT]
            sequences.write(f">{gene}\n{dna}\n")
            labels.write(f"{gene}\t0\t{len(dna)}\t.\n")
            labels.write(f"{gene}\t{EXON_CONTEXT - 1}\t{EXON_CONTEXT}\t{'exon' if float(label) else 'not_exon'}\n")
            names.append(gene)
    test = [name for i, name in enumerate(names) if i % 3 == fold]
    validation = [name for i, name in enumerate(names) if i % 3 == (fold + 1) % 3][::3]
    return Made({"train": tuple(map(str, files)), "validation": tuple(validation), "test": tuple(test)})


TASKS = (
    *(SETS[name] for name in _SETS),
    Task("celegans_bases", "token", make=_celegans, note="coding, intron, other; contigs held out"),
    Task("yeast_bases", "token", make=_yeast, note="coding, intron, other; chromosomes held out"),
    Task("exon_positions", "token", make=_exons, folds=3, note="one base per gene has a label; genes held out"),
)
