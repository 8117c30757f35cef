"""Tests how files are found and paired, by name or from a manifest, and read."""

import gzip
import json
import os
import re

import numpy as np
import pytest

from data_pipeline.dataset import inputs
from data_pipeline.dataset import reader as dataset
from data_pipeline.dataset.inputs import Input
from data_pipeline.errors import DamagedFileError, FileError, FormatError, MismatchError, PairingError
from data_pipeline.formats import file_names, genbank
from data_pipeline.sequence import bases
from data_pipeline.sequence.record import LONGER
from tests.data import FIXTURES, data_path
from tests.raised import raises

GFF = "##gff-version 3\ns\tx\tgene\t1\t4\t.\t+\t.\tID=g\n"
FASTA = ">s\nACGTAC\n"
CONTENT = {"gff": GFF, "gff3": GFF, "gtf": 's\tx\tCDS\t1\t3\t.\t+\t0\tgene_id "g";\n'}


def make(folder, *names):
    """Creates files with these names, with content of their formats as far as it matters."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        text = CONTENT.get(name.removesuffix(".gz").rsplit(".")[-1], FASTA).encode()
        path.write_bytes(gzip.compress(text, mtime=0) if name.endswith(".gz") else text)


def pairs(folder, *paths, annotated=True):
    """The (annotation, sequence) names of the inputs found, and the names of the skipped files with the reasons."""
    found, skipped = inputs.discover(paths or [folder], annotated=annotated)
    named = [tuple(path and os.path.relpath(path, folder) for path in (x.annotation, x.sequence)) for x in found]
    return named, [os.path.relpath(line.split(": ")[0], folder) + ": " + line.split(": ", 1)[1] for line in skipped]


@pytest.mark.parametrize(
    ("names", "found", "skipped"),
    [
        (["b.gb", "a.gbff.gz", "c.seq"], [("a.gbff.gz", None), ("b.gb", None), ("c.seq", None)], []),
        (["x.gff", "x.fa"], [("x.gff", "x.fa")], []),
        (["x.gff3.gz", "x.fna.gz"], [("x.gff3.gz", "x.fna.gz")], []),
        (["x.gtf", "x.gff", "x.fa"], [("x.gff", "x.fa")], ["x.gtf: x.gff has the same annotation"]),
        (["x.gbff", "x.gff"], [("x.gbff", None)], ["x.gff: x.gbff has the same annotation and its bases"]),
        (["x.gbk", "x.fa"], [("x.gbk", "x.fa")], []),
        (["x.gbk", "y.fa"], [("x.gbk", None)], ["y.fa: no annotation in its folder"]),
        (["annotation.gff", "assembly.fasta"], [("annotation.gff", "assembly.fasta")], []),
        (["x.gff", "x.fa", "y.gff", "y.fa"], [("x.gff", "x.fa"), ("y.gff", "y.fa")], []),
        (
            ["a/x.gff", "b/x.fa", "c.gb"],
            [("c.gb", None)],
            ["a/x.gff: no FASTA in its folder", "b/x.fa: no annotation in its folder"],
        ),
        (["x.gb", "x.gb.gz"], [("x.gb", None)], ["x.gb.gz: x.gb is the same file, decompressed"]),
        (["x.gb", "README", "md5", ".hidden.gb", ".folder/y.gb"], [("x.gb", None)], []),
        (
            ["x.gb", "a.partial/y.gb", "b.partial-7/lock", "b.partial-7/z.gb", "c/dataset.json", "c/d/z.gb"],
            [("x.gb", None), ("a.partial/y.gb", None), ("b.partial-7/z.gb", None), ("c/d/z.gb", None)],
            [],
        ),
        (["x.gb", "a.partial/lock", "a.partial/y.gb"], [("x.gb", None)], ["a.partial: an unfinished build"]),
        (
            [
                "vertebrate_mammalian.12.genomic.gbff.gz",
                "vertebrate_mammalian.12.1.genomic.fna.gz",
                "fungi.1.rna.gbff.gz",
            ],
            [("vertebrate_mammalian.12.genomic.gbff.gz", "vertebrate_mammalian.12.1.genomic.fna.gz")],
            ["fungi.1.rna.gbff.gz: derived from another file"],
        ),
        (
            [f"GCF_1_{end}" for end in ("genomic.gff", "genomic.fna", "cds_from_genomic.fna", "protein.faa")],
            [("GCF_1_genomic.gff", "GCF_1_genomic.fna")],
            ["GCF_1_cds_from_genomic.fna: derived from another file", "GCF_1_protein.faa: derived from another file"],
        ),
        (
            [f"GCF_000005845.2_ASM584v2_genomic.{end}.gz" for end in ("gbff", "fna", "gff", "gtf")],
            [("GCF_000005845.2_ASM584v2_genomic.gbff.gz", "GCF_000005845.2_ASM584v2_genomic.fna.gz")],
            [
                f"GCF_000005845.2_ASM584v2_genomic.{end}.gz: GCF_000005845.2_ASM584v2_genomic.gbff.gz has the same "
                "annotation and its bases"
                for end in ("gff", "gtf")
            ],
        ),
        (
            [
                *(
                    f"data/GCF_000005845.2/{x}"
                    for x in ("GCF_000005845.2_ASM584v2_genomic.fna", "genomic.gff", "rna.fna")
                ),
                *(f"data/GCF_000008865.2/{x}" for x in ("GCF_000008865.2_ASM886v2_genomic.fna", "genomic.gbff")),
            ],
            [
                ("data/GCF_000005845.2/genomic.gff", "data/GCF_000005845.2/GCF_000005845.2_ASM584v2_genomic.fna"),
                ("data/GCF_000008865.2/genomic.gbff", "data/GCF_000008865.2/GCF_000008865.2_ASM886v2_genomic.fna"),
            ],
            ["data/GCF_000005845.2/rna.fna: derived from another file"],
        ),
        (
            [
                *(f"Homo_sapiens.GRCh38.{kind}.toplevel.fa.gz" for kind in ("dna", "dna_rm", "dna_sm")),
                "Homo_sapiens.GRCh38.110.gff3.gz",
                "Homo_sapiens.GRCh38.110.chr.gff3.gz",
                "Homo_sapiens.GRCh38.110.gtf.gz",
            ],
            [("Homo_sapiens.GRCh38.110.gff3.gz", "Homo_sapiens.GRCh38.dna_sm.toplevel.fa.gz")],
            [
                "Homo_sapiens.GRCh38.dna_rm.toplevel.fa.gz: derived from another file",
                "Homo_sapiens.GRCh38.110.chr.gff3.gz: Homo_sapiens.GRCh38.110.gff3.gz has the same annotation",
                "Homo_sapiens.GRCh38.110.gtf.gz: Homo_sapiens.GRCh38.110.gff3.gz has the same annotation",
                "Homo_sapiens.GRCh38.dna.toplevel.fa.gz: Homo_sapiens.GRCh38.dna_sm.toplevel.fa.gz has the same "
                "sequences",
            ],
        ),
        (
            [
                *(f"Mus_musculus.GRCm39.dna.chromosome.{x}.fa.gz" for x in "12"),
                *(f"Mus_musculus.GRCm39.110.chromosome.{x}.gff3.gz" for x in "12"),
            ],
            [
                (f"Mus_musculus.GRCm39.110.chromosome.{x}.gff3.gz", f"Mus_musculus.GRCm39.dna.chromosome.{x}.fa.gz")
                for x in "12"
            ],
            [],
        ),
    ],
)
def test_folders(names, found, skipped, tmp_path):
    make(tmp_path, *names)
    assert pairs(tmp_path) == (found, skipped)


def test_fasta_alone_is_an_input_without_annotated(tmp_path):
    make(tmp_path, "x.gff", "x.fa", "y.fa", "z.gb", "rna.fna")
    found, skipped = pairs(tmp_path, annotated=False)
    assert found == [("x.gff", "x.fa"), (None, "y.fa"), ("z.gb", None)]
    assert skipped == ["rna.fna: derived from another file"]


def test_gff_with_its_own_sequences(tmp_path):
    make(tmp_path, "x.gff", "y.gff")
    (tmp_path / "x.gff").write_text(GFF + "##FASTA\n" + FASTA)
    assert pairs(tmp_path) == ([("x.gff", None)], ["y.gff: no FASTA in its folder"])


def test_taxon_and_assembly_come_from_the_names(tmp_path):
    make(tmp_path, "fungi.3.genomic.gbff.gz", "GCF_000005845.2/genomic.gff", "GCF_000005845.2/my.fna", "a/b.gbk.gz")
    found, _ = inputs.discover([tmp_path], annotated=True)
    assert [(x.assembly, x.taxon) for x in found] == [("fungi.3", "fng"), ("GCF_000005845.2", None), ("a/b", None)]
    assert all(x.split is None for x in found)


def test_assembly_does_not_depend_on_other_files(tmp_path):
    make(tmp_path, "a/genome.gff", "a/genome.fa", "b/genome.gff", "b/genome.fa")
    found, _ = inputs.discover([tmp_path], annotated=True)
    assert [x.assembly for x in found] == ["a/genome", "b/genome"]
    assert inputs.discover([tmp_path / "b"], annotated=True)[0] == found[1:]
    assert inputs.discover([tmp_path / "b" / "genome.fa"], annotated=True)[0] == found[1:]
    assert manifest(tmp_path, "sequence\tannotation\nb/genome.fa\tb/genome.gff\n") == found[1:]


def test_datasets_are_skipped(tmp_path):
    make(tmp_path, "x.gb", "set/y.gb", "set/deep/z.gb", "other/y.gb")
    (tmp_path / "set" / "dataset.json").write_text(json.dumps({"format": dataset.FORMAT, "splits": {}}))
    for text in ("{}", "[]", "not JSON", '{"format": "another"}'):
        (tmp_path / "other" / "dataset.json").write_text(text)
        assert pairs(tmp_path) == ([("x.gb", None), ("other/y.gb", None)], ["set: a dataset"])
    with raises(PairingError, file=tmp_path / "set"):
        inputs.discover([tmp_path / "set"], annotated=True)


def test_links(tmp_path):
    make(tmp_path, "in/a/x.gb", "in/b/y.gb", "elsewhere/deep/z.gb")
    for link, target in (
        ("in/c", "elsewhere"),
        ("in/a/loop", "in"),
        ("elsewhere/deep/other", "in/b"),
        ("in/b/broken.gb", "in/absent"),
        ("in/b/y2.gb", "in/b/y.gb"),
        ("in/d.gb", "in/a/x.gb"),
        ("in/b/README", "in/absent"),
    ):
        (tmp_path / link).symlink_to(tmp_path / target)
    found, skipped = pairs(tmp_path / "in")
    assert found == [("d.gb", None), ("b/y.gb", None), ("c/deep/z.gb", None)]
    folder = tmp_path / "in"
    assert skipped == [
        f"a/loop: the same folder as {folder}/",
        "b/broken.gb: a broken link",
        f"b/y2.gb: the same file as {folder}/b/y.gb",
        f"c/deep/other: the same folder as {folder}/b/",
        f"a/x.gb: the same file as {folder}/d.gb",
    ]
    assert pairs(folder, folder / "b", folder, folder / "b", folder / "c")[0] == [found[1], found[0], found[2]]


def test_each_file_of_a_large_folder_is_examined_once(tmp_path, monkeypatch):
    make(tmp_path, *(f"{number}.{end}" for number in range(300) for end in ("gff", "fa")))
    calls = []
    equal = file_names.GenomeFile.__eq__
    keys = file_names.annotation_keys
    monkeypatch.setattr(file_names.GenomeFile, "__eq__", lambda one, other: calls.append(1) or equal(one, other))
    monkeypatch.setattr(file_names, "annotation_keys", lambda file: calls.append(1) or keys(file))
    found, skipped = pairs(tmp_path)
    assert (len(found), skipped) == (300, [])
    assert all(sequence == annotation.replace("gff", "fa") for annotation, sequence in found)
    assert len(calls) == 300


@pytest.mark.parametrize(
    "names",
    [
        ["x.gff", "y.gff", "z.fa"],
        ["x.gff", "y.fa", "z.fa"],
        ["x.gff", "x.gff3", "x.fa"],
        ["x.gb", "x.gbk"],
        ["x.gff", "x.fa", "x.fna"],
        ["Mus_musculus.GRCm39.110.gff3", *(f"Mus_musculus.GRCm39.dna.chromosome.{x}.fa" for x in "12")],
        ["x.gff", "y.gff", "x.fa", "z.fa"],
    ],
)
def test_ambiguous_folder_is_rejected(names, tmp_path):
    make(tmp_path, *names)
    with raises(PairingError, file=tmp_path, remedy="give a manifest"):
        inputs.discover([tmp_path], annotated=True)


def test_named_files(tmp_path):
    make(tmp_path, "x.gff", "x.fa", "y.gff", "y.fa", "z.fa", "x.gbff", "a/only.gff", "b/only.fa", "rna.fna")

    def named(*names, **options):
        return pairs(tmp_path, *(tmp_path / name for name in names), **options)

    assert named("x.gff") == ([("x.gff", "x.fa")], [])  # the FASTA in its folder; the GenBank file was not named
    assert named("x.fa") == ([("x.gbff", "x.fa")], [])  # the best annotation in its folder
    assert named("y.fa", "y.gff") == ([("y.gff", "y.fa")], [])
    assert named("y.fa", "x.gff", "y.gff", "x.fa", "y.gff") == ([("x.gff", "x.fa"), ("y.gff", "y.fa")], [])
    assert named("b/only.fa", "a/only.gff") == ([("a/only.gff", "b/only.fa")], [])
    assert named("z.fa", annotated=False) == ([(None, "z.fa")], [])
    assert named("rna.fna", annotated=False) == ([(None, "rna.fna")], [])  # derived from another file, but named
    assert named("x.gff", "x.gbff")[1] == ["x.gff: x.gbff has the same annotation and its bases"]
    assert named("x.gff", "a", "b", "x.gff")[0] == [("x.gff", "x.fa")]
    with raises(PairingError, file=tmp_path / "z.fa"):
        named("z.fa")
    with raises(PairingError, file=tmp_path / "a/only.gff"):
        named("a/only.gff")
    with raises(FileError, file=tmp_path / "absent.gb"):
        named("absent.gb")
    make(tmp_path, "notes.txt")
    with raises(FormatError, file=tmp_path / "notes.txt", remedy="rename it"):
        named("notes.txt")


def test_no_input_found(tmp_path):
    with raises(PairingError, file=tmp_path):
        inputs.discover([tmp_path], annotated=True)
    with raises(PairingError):
        inputs.discover([], annotated=True)
    make(tmp_path, "x.fa")
    with raises(PairingError, file=tmp_path) as error:
        inputs.discover([tmp_path], annotated=True)
    assert str(tmp_path / "x.fa") in str(error.value)  # the first skipped file, with the reason


def test_same_file_under_two_names_is_read_once(tmp_path):
    make(tmp_path, "a/x.gb", "b/y.gb")
    (tmp_path / "b" / "x.gb").symlink_to(tmp_path / "a" / "x.gb")
    assert pairs(tmp_path)[0] == [("a/x.gb", None), ("b/y.gb", None)]
    assert pairs(tmp_path, tmp_path, tmp_path / "a" / "x.gb", tmp_path / "a")[0] == [("a/x.gb", None), ("b/y.gb", None)]


def manifest(tmp_path, text):
    (tmp_path / "m.tsv").write_text(text)
    return inputs.manifest(tmp_path / "m.tsv")


def test_manifest(tmp_path):
    make(tmp_path, "a/x.fa", "a/x.gff", "y.gb.gz", "GCF_000005845.2_q.fna", "fungi.1.genomic.gbff")
    text = (
        "\ufeff# mine\n\nsequence\tannotation\ttaxon\tsplit\na/x.fa\ta/x.gff\tFungi\ttest\n\ty.gb.gz\n"
        f"{tmp_path}/GCF_000005845.2_q.fna\t\t\tvalidation\r\n# end\n\tfungi.1.genomic.gbff\tpln\n"
    )
    assert manifest(tmp_path, text) == [
        Input(tmp_path / "a/x.fa", tmp_path / "a/x.gff", "fng", "test", "a/x"),
        Input(None, tmp_path / "y.gb.gz", None, None, f"{tmp_path.name}/y"),
        Input(tmp_path / "GCF_000005845.2_q.fna", None, None, "validation", "GCF_000005845.2"),
        Input(None, tmp_path / "fungi.1.genomic.gbff", "pln", None, "fungi.1"),
    ]
    assert [len(x.files) for x in manifest(tmp_path, text)] == [2, 1, 1, 1]


@pytest.mark.parametrize(
    ("text", "kind", "attributes"),
    [
        ("", FormatError, {"line": 1, "field": "column", "value": ""}),
        ("annotation\n", FormatError, {"line": None}),
        ("y.gb\n", FormatError, {"line": 1, "field": "column", "value": "y.gb"}),
        ("taxon\n", FormatError, {"line": 1, "field": "column", "value": "taxon"}),
        ("annotation\tannotation\n", FormatError, {"line": 1, "field": "column", "value": "annotation"}),
        ("annotation\n#\ny.gb\tfng\n", FormatError, {"line": 3, "field": "number of cells", "value": 2}),
        ("annotation\nabsent.gb\n", FileError, {"line": 2, "field": "annotation"}),
        ("annotation\ttaxon\n\tfng\n", FormatError, {"line": 2, "remedy": "name a file"}),
        ("annotation\ttaxon\ny.gb\tfungus\n", FormatError, {"line": 2, "field": "taxon", "value": "fungus"}),
        ("annotation\tsplit\ny.gb\tdev\n", FormatError, {"line": 2, "field": "split", "value": "dev"}),
        ("annotation\ny.fa\n", FormatError, {"line": 2, "field": "annotation"}),
        ("annotation\ny.gff\n", FormatError, {"line": 2, "field": "annotation"}),
        ("annotation\tsequence\n\ny.gtf.gz\t\n", FormatError, {"line": 3, "field": "annotation"}),
        ("annotation\tGFF\n", FormatError, {"line": 1, "field": "column", "value": "annotation"}),
        ("file\ny.gb\n", FormatError, {"line": 1, "field": "column", "value": "file"}),
        ("annotation\tsequence\ny.gff\ty.gff\n", FormatError, {"line": 2, "field": "annotation"}),
        ("annotation\tsequence\ny.gff\ty.gb\n", FormatError, {"line": 2, "field": "sequence"}),
        ("annotation\ny.gb\n./y.gb\n", FormatError, {"line": 3, "field": None}),
    ],
)
def test_bad_manifest(text, kind, attributes, tmp_path):
    make(tmp_path, "y.gb", "y.fa", "y.gff", "y.gtf.gz")
    with raises(kind, file=tmp_path / "m.tsv", **attributes):
        manifest(tmp_path, text)


@pytest.mark.parametrize(
    "text",
    ["sequence\ny.gb\n", "annotation\ny.gb\n", "sequence\tannotation\ny.gb\ty.gb\n", "Fasta\tGenBank\n\ty.gb\n"],
)
def test_genbank_stands_in_either_column_of_a_manifest(text, tmp_path):
    make(tmp_path, "y.gb")
    assert manifest(tmp_path, text) == [Input(None, tmp_path / "y.gb", assembly=f"{tmp_path.name}/y")]


def test_manifest_of_annotations_with_their_own_bases(tmp_path):
    make(tmp_path, "x.gff", "y.gff.gz")
    (tmp_path / "x.gff").write_text(GFF + "##FASTA\n" + FASTA)
    whole = (tmp_path / "y.gff.gz").read_bytes()
    (tmp_path / "y.gff.gz").write_bytes(whole[:-6])  # the error is raised when it is read
    first, second = manifest(tmp_path, "annotation\nx.gff\ny.gff.gz\n")
    assert len(records(tmp_path, first)) == 1
    with raises(DamagedFileError, file="y.gff.gz"):
        records(tmp_path, second)


def test_missing_manifest(tmp_path):
    with raises(FileError, file="absent.tsv"):
        inputs.manifest(tmp_path / "absent.tsv")
    (tmp_path / "m.tsv").write_bytes(b"\xff\xfe\x00")
    with raises(FileError, file="m.tsv"):
        inputs.manifest(tmp_path / "m.tsv")


def records(tmp_path, found, kinds=None, aliases=()):
    scratch = tmp_path / "scratch"
    scratch.mkdir(exist_ok=True)
    for file in scratch.iterdir():
        file.unlink()
    seen = []
    result = list(inputs.records(found, kinds, scratch, seen.append, aliases=aliases))
    assert sum(seen) == sum(path.stat().st_size for path in found.files)
    return result


def test_records_of_every_format(tmp_path):
    make(tmp_path, "x.fa", "x.gff.gz")
    [alone] = records(tmp_path, Input(tmp_path / "x.fa", None))
    [paired] = records(tmp_path, Input(tmp_path / "x.fa", tmp_path / "x.gff.gz", taxon="fng"))
    [flat] = records(tmp_path, Input(None, FIXTURES / "phiX174_NC_001422.1.gbk.gz"), {"CDS"})
    [other] = records(tmp_path, Input(None, FIXTURES / "phiX174_NC_001422.1.gbk.gz", taxon="bct"), frozenset())
    assert (alone.accession, alone.declared_length, alone.taxon, alone.features) == ("s", 6, None, ())
    assert bases.decode(alone.codes) == bases.decode(paired.codes) == "ACGTAC"
    assert (paired.taxon, [f.kind for f in paired.features]) == ("fng", ["gene"])
    assert (flat.taxon, {f.kind for f in flat.features}) == ("vir", {"CDS"})
    assert (other.taxon, other.features) == ("bct", ())


RECORD = """LOCUS       {name}  {length} bp    DNA     linear   BCT 01-JAN-2000
DEFINITION  x
ACCESSION   {name}
VERSION     {name}.1
FEATURES             Location/Qualifiers
     source          1..{length}
     gene            1..3
{bases}//
"""
CONTIG = "CONTIG      join(AB1.1:1..4)\n"


def test_genbank_record_without_bases_reads_the_fasta(tmp_path):
    flat, sequence = tmp_path / "x.gbff", tmp_path / "x.fna.gz"
    flat.write_text(
        RECORD.format(name="A", length=8, bases=CONTIG)
        + RECORD.format(name="B", length=4, bases="ORIGIN\n        1 acgt\n")
        + RECORD.format(name="C", length=6, bases=CONTIG)
        + RECORD.format(name="D", length=6, bases=CONTIG)
    )
    sequence.write_bytes(gzip.compress(b">D.1\nACGTac\n>A.1 x\nACGT\nttNN\n>B.1\nTTTT\n", mtime=0))
    first, second, third, fourth = records(tmp_path, Input(sequence, flat))
    assert [bases.decode(x.codes) for x in (first, second, third, fourth)] == ["ACGTTTNN", "ACGT", "", "ACGTAC"]
    assert first.lower_case.tolist() == [[4, 6]]
    assert fourth.lower_case.tolist() == [[4, 6]]
    assert (third.declared_length, len(first.features)) == (6, 2)
    without = records(tmp_path, Input(None, flat))
    assert [len(x.codes) for x in without] == [0, 4, 0, 0]
    sequence.write_bytes(gzip.compress(b">A.1\nACGTACGTAC\n", mtime=0))
    longer = records(tmp_path, Input(sequence, flat))[0]
    assert (len(longer.codes), longer.declared_length, longer.notes) == (10, 10, {LONGER: 1})
    sequence.write_bytes(gzip.compress(b">A.1\nACGT\n", mtime=0))
    with raises(MismatchError, file="x.gbff", record="A.1"):
        records(tmp_path, Input(sequence, flat))
    sequence.write_bytes(gzip.compress(b">A.1\nACGTACGT\n", mtime=0)[:-6])
    with raises(DamagedFileError, file="x.fna.gz"):
        records(tmp_path, Input(sequence, flat))


def test_genbank_records_find_their_bases_by_the_names_of_contigs(tmp_path):
    (tmp_path / "x.gbff").write_text(RECORD.format(name="NC_000013", length=4, bases=CONTIG))
    both = Input(tmp_path / "x.fna", tmp_path / "x.gbff")
    for name, aliases in (("chr13", ()), ("gi|1|ref|NC_000013.1|", ()), ("q", [["Q", "NC_000013.1"]])):
        (tmp_path / "x.fna").write_text(f">{name}\nACGT\n>other\nACGT\n")
        assert [len(x.codes) for x in records(tmp_path, both, aliases=aliases)] == [4], name
    with raises(MismatchError, file="x.gbff") as caught:
        records(tmp_path, both)
    assert "--aliases" in caught.value.remedy


def test_genbank_record_with_bases_does_not_read_the_fasta(tmp_path):
    flat = FIXTURES / "phage_NC_000902.gbk.gz"
    sequence = tmp_path / "x.fa"
    sequence.write_text("not read\n")
    [record], [expected] = records(tmp_path, Input(sequence, flat)), genbank.read(flat)
    assert np.array_equal(record.codes, expected.codes)


def test_real_draft_genome_with_its_bases_removed(tmp_path):
    path = data_path("genomes", "prokaryote", "malvi_ATCC29626_draft.gbff.gz")
    expected = list(genbank.read(path))
    with gzip.open(path, "rt") as lines:
        text = lines.read()
    (tmp_path / "x.gbff").write_text(re.sub(r"ORIGIN.*?\n//", "//", text, flags=re.DOTALL))
    (tmp_path / "x.fna").write_text("".join(f">{x.accession}\n{bases.decode(x.codes)}\n" for x in expected[::-1]))
    found = records(tmp_path, Input(tmp_path / "x.fna", tmp_path / "x.gbff"))
    assert len(found) == 7
    for one, other in zip(found, expected, strict=True):
        assert np.array_equal(one.codes, other.codes)
        assert one.features == other.features


def test_every_real_file_is_paired():
    found, skipped = inputs.discover([data_path("genomes")], annotated=True)
    assert sum(x.annotation is not None and x.sequence is not None for x in found) == 4  # the three GFF3 and the GTF
    assert [line.split(": ")[1] for line in skipped] == [
        "no annotation in its folder",
        "ecoli_K12_MG1655_NC_000913.3.gbk.gz has the same annotation and its bases",
        "no annotation in its folder",
    ]
    files = [path for path in data_path("genomes").rglob("*") if path.is_file()]
    assert len(files) == sum(len(x.files) for x in found) + len(skipped)
