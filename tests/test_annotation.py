"""Labels per base from genome annotations, their windows, and predicted labels as GFF3."""

import collections
import gzip

import numpy as np
import pytest

from data_pipeline.errors import FormatError, MismatchError, PairingError
from data_pipeline.formats import gff
from data_pipeline.sequence import bases
from data_pipeline.sequence.tokenizer import BOS, OOV, KmerTokenizer
from gener_jax.benchmarks import exons
from gener_jax.config import Finetune
from gener_jax.labelled import annotation, windows
from gener_jax.runtime.errors import ConfigError
from tests.raised import raises

LETTERS = np.array(list("CIO?"))  # coding, intron, other, no label


def genome(folder, name="genome.fa", **contigs):
    path = folder / name
    path.write_text("".join(f">{contig}\n{dna}\n" for contig, dna in contigs.items()))
    return str(path)


def gff3(folder, *rows, name="genome.gff3"):
    """Rows "contig type start end strand attributes", 1-based."""
    path, lines = folder / name, ["##gff-version 3"]
    for row in rows:
        contig, kind, start, end, strand, values = row.split(" ", 5)
        lines.append("\t".join([contig, "x", kind, start, end, ".", strand, "0" if kind == "CDS" else ".", values]))
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def letters(split):
    return {contig.name: "".join(LETTERS[contig.labels]) for contig in split.contigs}


GENES = (
    "a gene 3 20 + ID=g1",
    "a mRNA 3 20 + ID=t1;Parent=g1",
    "a exon 3 6 + Parent=t1",
    "a exon 11 20 + Parent=t1",
    "a CDS 5 6 + ID=c1;Parent=t1",
    "a CDS 11 14 + ID=c1;Parent=t1",
    "a mRNA 3 20 + ID=t2;Parent=g1",  # another transcript, which codes within the first one's intron
    "a exon 3 8 + Parent=t2",
    "a exon 17 20 + Parent=t2",
    "a CDS 5 8 + ID=c2;Parent=t2",
    "b gene 2 19 - ID=g2",
    "b mRNA 2 19 - ID=t3;Parent=g2",
    "b CDS 15 19 - ID=c3;Parent=t3",
    "b CDS 2 5 - ID=c3;Parent=t3",
    "b intron 21 24 + Parent=reads",
    "b pseudogene 22 24 + ID=p",
    "b CDS 22 24 + Parent=p;pseudo=true",
)
EXPECTED = {
    "a": "OOOOCCCCIICCCCIIOOOO" + "O" * 4,
    "b": "OCCCCIIIIIIIIICCCCCO?OOO",
}


def dna(length, seed=0):
    return "".join(np.random.default_rng(seed).choice(list("ACGT"), length))


def contigs_ab():
    b = dna(24, 1)
    return {"a": dna(24), "b": b[:20] + "N" + b[21:], "c": dna(30, 2)}


def test_labels_of_genes_by_hand(tmp_path):
    files = genome(tmp_path, **contigs_ab()), gff3(tmp_path, *GENES)
    splits = annotation.read(Finetune(problem="token", train=files, validation=("b",)))
    assert splits.train.classes == ("coding", "intron", "other")
    assert {**letters(splits.train), **letters(splits.validation)} == EXPECTED
    assert splits.train.counts.tolist() == [8, 4, 12]
    assert splits.notes == (f"1 {annotation.UNANNOTATED}",)
    again = annotation.read(Finetune(problem="token", train=files, validation=("b",)))
    assert again.train.digest == splits.train.digest != splits.validation.digest
    by_fold = [annotation.read(Finetune(problem="token", train=files, fold=i)).validation for i in range(2)]
    assert sorted(contig.name for split in by_fold for contig in split.contigs) == ["a", "b"]


def test_the_same_genes_as_gtf(tmp_path):
    rows = [
        ("a", "transcript", 3, 20),
        ("a", "exon", 3, 6),
        ("a", "exon", 11, 20),
        ("a", "CDS", 5, 6),
        ("a", "CDS", 11, 11),
    ]
    rows += [("a", "stop_codon", 12, 14)]
    lines = [
        f'a\tx\t{kind}\t{start}\t{end}\t.\t+\t{"0" if kind == "CDS" else "."}\tgene_id "g"; transcript_id "t";\n'
        for kind, start, end in rows
    ]
    for contig in "de":
        lines += [line.replace("a\t", f"{contig}\t", 1) for line in lines[: len(rows)]]
    with gzip.open(tmp_path / "genome.gtf.gz", "wt") as out:
        out.writelines(lines)
    path = genome(tmp_path, **{name: dna(24) for name in "ade"})
    found = annotation.read(Finetune(problem="token", train=(path, str(tmp_path / "genome.gtf.gz")), test=("e",)))
    assert letters(found.test) == {"e": "OOOOCCIIIICCCCOOOOOOOOOO"}


def bed(folder, *rows, name="labels.bed"):
    (folder / name).write_text("track name=x\n" + "".join("\t".join(row.split()) + "\n" for row in rows))
    return str(folder / name)


def test_classes_of_bed(tmp_path):
    path = genome(tmp_path, a="ACGTACGT", b="ACGTACNT")
    files = path, bed(tmp_path, "a 0 3 peak 5", "a 6 8 dip", "b 0 8 .", "b 5 8 peak", "c 1 2 peak")
    found = annotation.read(Finetune(problem="token", train=files, validation=("b",)))
    assert found.train.classes == ("dip", "peak", "other")
    assert found.train.contigs[0].labels.tolist() == [1, 1, 1, 2, 2, 2, 0, 0]
    assert found.validation.contigs[0].labels.tolist() == [-1, -1, -1, -1, -1, 1, -1, 1]
    assert found.notes == (f"1 {annotation.UNKNOWN_CONTIGS}",)
    separate = genome(tmp_path, name="held.fa", d="ACGTAC"), bed(tmp_path, "d 1 3 dip", name="held.bed")
    found = annotation.read(Finetune(problem="token", train=files, validation=separate, test=("b",)))
    assert found.validation.contigs[0].labels.tolist() == [2, 0, 0, 2, 2, 2]
    whole = path, bed(tmp_path, "a 0 4 x", "a 4 8 y", "b 0 8 x", name="whole.bed")
    assert annotation.read(Finetune(problem="token", train=whole, validation=("b",))).train.classes == ("x", "y")
    with raises(FormatError, file=separate[1], line=2, field="class", value="dip"):
        annotation.read(Finetune(problem="token", train=whole, validation=separate))
    partly = separate[0], bed(tmp_path, "d 1 3 x", name="partly.bed")
    with raises(MismatchError, file=partly[1]):
        annotation.read(Finetune(problem="token", train=whole, validation=partly))


@pytest.mark.parametrize(
    ("rows", "kind", "facts"),
    [
        (["a 0 3 x", "a 2 4 y"], FormatError, {"line": 3, "field": "class", "value": "y"}),
        (["a 0 9 x"], MismatchError, {"line": 2, "field": "end", "value": 9}),
        (["a 3 3 x"], FormatError, {"line": 2, "field": "start and end"}),
        (["a 0 3"], FormatError, {"line": 2}),
        (["z 0 3 x"], MismatchError, {"file": "labels.bed"}),
    ],
)
def test_a_bed_that_cannot_be_used(tmp_path, rows, kind, facts):
    files = genome(tmp_path, a="ACGTACGT", b="ACGTACGT"), bed(tmp_path, *rows)
    with raises(kind, **facts):
        annotation.read(Finetune(problem="token", train=files, validation=("b",)))


def test_files_that_do_not_belong_together(tmp_path):
    files = genome(tmp_path, **contigs_ab()), gff3(tmp_path, *GENES)
    with raises(ConfigError, field="finetune.train"):
        annotation.read(Finetune(problem="token"))
    with raises(ConfigError, field="finetune.test", value="chrX"):
        annotation.read(Finetune(problem="token", train=files, test=("chrX",)))
    with raises(ConfigError, field="finetune.fold", value=2):
        annotation.read(Finetune(problem="token", train=files, fold=2))
    with raises(ConfigError, field="finetune.validation"):
        annotation.read(Finetune(problem="token", train=files, test=("a",)))
    with raises(PairingError, file=files[1]):
        annotation.read(Finetune(problem="token", train=(files[1], bed(tmp_path, "a 0 3 x"))))
    with raises(MismatchError, remedy="give BED files, as for finetune.train"):
        peaks = genome(tmp_path, name="p.fa", a="ACGT", b="ACGT"), bed(tmp_path, "a 0 3 x")
        annotation.read(Finetune(problem="token", train=peaks, validation=files))


@pytest.mark.parametrize("length", [2, 3, 10, 11, 12, 13, 40, 77, 100])
@pytest.mark.parametrize("shift", [0, 2])
def test_each_base_is_labelled_once(length, shift):
    k, tokens = 3, 8
    count = max(windows.number(length + extra, tokens, k) for extra in range(3))
    found = [windows.cut(shift, shift + length, tokens, k, count, i) for i in range(count)]
    if length < k:
        assert windows.number(length, tokens, k) == 0
        return
    at = shift
    for window in found:
        assert window.first == at
        assert window.start <= window.first <= window.last <= window.stop
        assert window.stop - window.start == min(tokens, length // k) * k
        at = window.last
    assert (found[0].start, at, found[-1].stop) == (shift, shift + length, shift + length)
    if length > 2 * tokens * k:  # context on both sides
        assert all(inner.first - inner.start >= 3 for inner in found[1:])
        assert all(inner.stop - inner.last >= 3 for inner in found[:-1])


def test_the_tokens_of_both_strands_mirror():
    codes, tokenizer = bases.encode("ACGTTTGGNCAT"), KmerTokenizer(3)
    forward, reverse = windows.tokens_of_strands(codes, tokenizer)
    assert forward[0] == reverse[0] == BOS
    assert forward[3] == reverse[5 - 3] == OOV
    for i in (1, 2, 4):
        one, other = (bases.encode(tokenizer.token(int(x))) for x in (forward[i], reverse[5 - i]))
        np.testing.assert_array_equal(one, bases.reverse_complement(other))


def test_predictions_as_gff3(tmp_path):
    classes = ("coding", "intron", "other", "my class;")
    labels = [2, 0, 0, 1, 3, 3, 2, 0]
    probabilities = np.full((8, 4), 0.1, np.float32)
    probabilities[np.arange(8), labels] = [0.7, 0.7, 0.5, 0.7, 0.7, 0.7, 0.7, 0.7]
    probabilities[7] = np.nan
    path = tmp_path / "out.gff3"
    text = (
        "##gff-version 3\n"
        + annotation.gff3("chr 1", probabilities, classes)
        + annotation.gff3("e", probabilities[:0], classes)
    )
    path.write_text(text)
    rows = [line.split("\t") for line in text.splitlines() if not line.startswith("#")]
    assert [(*row[2:6], row[8]) for row in rows] == [
        ("coding_region_of_exon", "2", "3", "0.6000", "Name=coding"),
        ("intron", "4", "4", "0.7000", "Name=intron"),
        ("my_class%3B", "5", "6", "0.7000", "Name=my class%3B"),
    ]
    (tmp_path / "scratch").mkdir()
    fasta = genome(tmp_path, **{"chr1": "ACGTACGT"})
    (record,) = gff.read(path, fasta, None, tmp_path / "scratch", aliases=[("chr1", "chr 1")])
    assert record.notes == collections.Counter()
    assert record.declared_length == 8


def test_the_exon_table_has_a_label_for_one_base_of_each_gene(tmp_path):
    rows = [
        "organism\tgene_name\tlabel\tforward_seq\treverse_seq",
        "h\tg1\t1.0\tacgta\tccggt",
        "h\tg2\t0.0\ttttc\taaag",
    ]
    (tmp_path / "t.tsv").write_text("\n".join(rows))
    files = tuple(map(str, exons.convert(tmp_path / "t.tsv", tmp_path)))
    found = annotation.read(Finetune(problem="token", train=files, validation=("h:g2",)))
    (one,), (two,) = found.train.contigs, found.validation.contigs
    assert (bases.decode(one.codes), one.labels.tolist()) == ("ACGTACCGG", [-1] * 4 + [0] + [-1] * 4)
    assert (bases.decode(two.codes), two.labels.tolist()) == ("TTTCTTT", [-1] * 3 + [1] + [-1] * 3)
    assert found.train.classes == ("exon", "other")
    (tmp_path / "t.tsv").write_text("\n".join([*rows, "h\tg3\t1.0\tacgtg\tccggt"]))
    with raises(MismatchError, file="t.tsv", line=4, field="reverse_seq"):
        exons.convert(tmp_path / "t.tsv", tmp_path)
