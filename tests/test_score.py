"""The commands score and embed: their input and output files, resuming after a stop, invalid input."""

import dataclasses
import io
import json
import sys

import numpy as np
import pyarrow.parquet
import pyBigWig
import pytest

import gener_jax
from data_pipeline.errors import FileError, FormatError, MismatchError
from data_pipeline.formats import fasta
from gener_jax import embed, sample, score
from gener_jax.cli import command
from gener_jax.inference.lm import LM
from gener_jax.inference.variants.scoring import Scorer, default_context
from gener_jax.model import decoder
from gener_jax.runtime.errors import ConfigError
from gener_jax.storage import run_folder
from tests.raised import raises
from tests.test_generate import make_lm
from tests.test_vcf import HEAD

pytestmark = pytest.mark.usefixtures("one_device")

CHROMOSOME = "".join(np.random.default_rng(0).choice(list("ACGT"), 300))
SEQUENCES = {"first": "ACGTAC", "second|x": "GATTACA", "third": "NNACGTACNN", "long": CHROMOSOME[:90]}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run's folder with the parameters of a random model over 3-mers."""
    folder = tmp_path_factory.mktemp("score") / "run"
    lm = make_lm(3)
    run_folder.write_params(folder, lm.spec, decoder.stack(lm.params))
    return folder


@pytest.fixture(scope="module")
def lm(run):
    return gener_jax.load(run)


@pytest.fixture
def files(tmp_path):
    (tmp_path / "g.fa").write_text(f">chr1 a chromosome\n{CHROMOSOME}\n")
    (tmp_path / "s.fa").write_text("".join(f">{n}\n{s}\n" for n, s in SEQUENCES.items()))
    lines = []
    for start in range(30, 250, 10):
        ref = CHROMOSOME[start]
        alts = [b for b in "ACGT" if b != ref]
        lines.append(f"1\t{start + 1}\trs{start}\t{ref}\t{','.join(alts[: 1 + start % 3])}\t.\tPASS\tX=1")
    lines += [
        f"1\t101\t.\t{CHROMOSOME[100]}\tGATTA\t.\t.\t.",
        "2\t5\t.\tA\tC\t.\t.\t.",
        f"1\t201\t.\t{CHROMOSOME[200]}\t.",
        f"1\t61\t.\t{CHROMOSOME[60:63]}\t{CHROMOSOME[60]},<INS>\t.\t.\t.",
    ]
    (tmp_path / "v.vcf").write_text(HEAD + "\n".join(lines) + "\n")
    return tmp_path


def table(path):
    header, *rows = [line.split("\t") for line in path.read_text().splitlines()]
    return [dict(zip(header, row, strict=True)) for row in rows]


def variants(run, files, output, *more):
    score.main(["--checkpoint", str(run), "--vcf", str(files / "v.vcf"), "--fasta", str(files / "g.fa"), "--output",
                str(files / output), "--context", "24", *more])  # fmt: skip
    return files / output


def test_variants_as_a_table(run, files, lm, capsys):
    rows = table(variants(run, files, "t.tsv"))
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    records = [line.split("\t") for line in (files / "v.vcf").read_text().splitlines() if line[0] != "#"]
    expected = [(r[0], r[1], r[2], r[3], alt) for r in records for alt in r[4].split(",")]
    assert [tuple(row[c] for c in ("contig", "pos", "id", "ref", "alt")) for row in rows] == expected
    assert (last["records"], last["scored"] + last["flagged"]) == (len(records), len(rows))
    requested = [("chr1" if c == "1" else c, int(p) - 1, ref, alt) for c, p, _, ref, alt in expected]
    for row, scored in zip(rows, lm.score_variants(requested, {"chr1": CHROMOSOME}, context=24), strict=True):
        assert row["protocol"] == scored.protocol
        assert row["flag"] == scored.flag
        assert row["llr"] == score.number(scored.llr)
        assert row["strand"] == "+"
    assert {row["protocol"] for row in rows} == {"next_kmer", "next_kmer_sequence", ""}
    flags = [row["flag"] for row in rows if row["flag"]]
    assert flags == ["contig 2 is not in the FASTA", "ALT . is not a sequence", "ALT <INS> is not a sequence"]
    described = json.loads((files / "t.tsv.json").read_text())
    assert described["context"] == 24
    assert described["spec"]["model"]["hidden_size"] == lm.spec.model.hidden_size
    assert described["environment"]["versions"]["jax"]
    assert "does not record its training data" in described["overlap"]
    assert sorted(p.name for p in files.iterdir()) == ["g.fa", "s.fa", "t.tsv", "t.tsv.json", "v.vcf"]


def test_variants_as_a_vcf(run, files):
    rows = iter(table(variants(run, files, "t.tsv", "--phases", "3")))
    lines = variants(run, files, "t.vcf", "--phases", "3").read_text().splitlines()
    before = (files / "v.vcf").read_text().splitlines()
    assert [line for line in lines if line[0] == "#" and "GENER_" not in line and "##gener_jax=" not in line] == [
        x for x in before if x[0] == "#"
    ]
    for old, new in zip((x for x in before if x[0] != "#"), (x for x in lines if x[0] != "#"), strict=True):
        old, new = old.split("\t"), new.split("\t")
        assert new[:7] == (old + ["."] * 8)[:7]
        info = dict(x.split("=") for x in new[7].split(";"))
        assert ("X" in info) == (old[7:8] == ["X=1"])
        for i, _alt in enumerate(old[4].split(",")):
            row = next(rows)
            for name, column in (("GENER_LLR", "llr"), ("GENER_PROTOCOL", "protocol"), ("GENER_SPREAD", "spread")):
                assert info.get(name, "." + ",." * 9).split(",")[i] == (row[column] or ".")
            assert ("GENER_FLAG" in info and info["GENER_FLAG"].split(",")[i] != ".") == bool(row["flag"])


def test_annotations_of_an_earlier_run_are_replaced(run, files):
    """An input with five columns gets the missing columns in its header."""
    first = variants(run, files, "t.vcf")
    lines = [x if x[:2] == "##" else "\t".join(x.split("\t")[:5]) for x in (files / "v.vcf").read_text().splitlines()]
    (files / "v.vcf").write_text("\n".join(lines) + "\n")
    five = variants(run, files, "five.vcf").read_text().splitlines()
    assert {len(line.split("\t")) for line in five if line[:2] != "##"} == {8}
    first.replace(files / "v.vcf")
    again = variants(run, files, "again.vcf", "--protocol", "window").read_text()
    assert again.count("##INFO=<ID=GENER_LLR,") == 1
    assert all(line.count("GENER_LLR=") <= 1 for line in again.splitlines()[10:])
    assert "next_kmer" not in again
    made_of = [line for line in again.splitlines() if line.startswith("##gener_jax=")]
    assert [line.split()[-5:] for line in made_of] == [
        ["protocol=window", "score=token", "strand=+", "context=24", "phases=1"]
    ]


def test_the_default_context_is_what_the_model_has_room_for(run, files, lm, capsys):
    """So that every allele is scored that the options allow."""
    arguments = ["--checkpoint", str(run), "--vcf", str(files / "v.vcf"), "--fasta", str(files / "g.fa")]
    score.main([*arguments, "--output", str(files / "t.tsv")])
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    context = default_context(lm.spec)
    assert last["context"] == context == json.loads((files / "t.tsv.json").read_text())["context"]
    k, longest = lm.tokenizer.k, lm.spec.model.max_length
    assert context % k == 0
    assert longest * k * 2 // 3 < context < longest * k
    ref = CHROMOSOME[100 : 100 + context // 4]
    (whole,) = lm.score_variants([("chr1", 100, ref, "A")], {"chr1": CHROMOSOME})
    assert (whole.flag, np.isfinite(whole.llr)) == ("", True)
    (more,) = lm.score_variants([("chr1", 100, ref + CHROMOSOME[100 + len(ref)], "A")], {"chr1": CHROMOSOME})
    assert "an allele has" in more.flag
    (same,) = lm.score_variants([("chr1", 100, ref, "A")], {"chr1": CHROMOSOME}, context=context)
    assert same == whole
    model = dataclasses.replace(lm.spec.model, max_position_embeddings=16384)
    assert default_context(dataclasses.replace(lm.spec, model=model)) == 8192


def test_names_of_contigs(run, files, capsys):
    """Every name of a contig is scored; a file whose contigs are all unknown is an error that names --aliases."""
    (files / "g.fa").write_text(f">gi|49175990|ref|NC_000013.11| x\n{CHROMOSOME}\n>chrM\n{CHROMOSOME}\n")
    names = ("gi|49175990|ref|NC_000013.11|", "NC_000013.11", "13", "Chr13", "MT", "chrM")
    row = f"\t101\t.\t{CHROMOSOME[100]}\tGATTA\n"
    (files / "v.vcf").write_text(HEAD + "".join(name + row for name in names))
    rows = table(variants(run, files, "t.tsv"))
    assert [(row["contig"], row["flag"]) for row in rows] == [(name, "") for name in names]
    assert len({row["llr"] for row in rows}) == 1
    (files / "v.vcf").write_text(HEAD + "chrQ" + row + "NC_000013.10" + row)
    with raises(MismatchError, file="v.vcf") as caught:
        variants(run, files, "none.tsv")
    assert "--aliases" in caught.value.remedy
    (files / "names").write_text("chrQ chrM\n")  # no tab
    with raises(MismatchError, file="v.vcf") as caught:
        variants(run, files, "none.tsv", "--aliases", str(files / "names"))
    assert "of the 1 names" in str(caught.value)
    (files / "names").write_text("chrQ\tchrM\n")
    flags = [row["flag"] for row in table(variants(run, files, "some.tsv", "--aliases", str(files / "names")))]
    assert flags == ["", "contig NC_000013.10 is not in the FASTA; it has NC_000013.11"]


def test_resumes_after_a_stop(run, files, monkeypatch):
    monkeypatch.setattr(score, "_RECORDS", 4)
    whole = variants(run, files, "whole.tsv").read_bytes()
    real, calls = score.Output.write, []

    def stop(self, *rows):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        real(self, *rows)

    monkeypatch.setattr(score.Output, "write", stop)
    with pytest.raises(KeyboardInterrupt, match=r"^record 8 and those before it are kept"):
        variants(run, files, "t.tsv")
    assert not (files / "t.tsv").exists()
    partial = files / "t.tsv.partial"
    assert 0 < partial.stat().st_size < len(whole)
    with partial.open("ab") as file:
        file.write(b"half a ro")  # what a kill leaves
    with pytest.raises(ConfigError, match=r"t\.tsv\.partial: was started with another protocol"):
        variants(run, files, "t.tsv", "--protocol", "window")
    monkeypatch.setattr(score.Output, "write", real)
    scored = []
    first = Scorer.__call__
    monkeypatch.setattr(Scorer, "__call__", lambda self, v, *a: first(self, (scored.append(x) or x for x in v), *a))
    assert variants(run, files, "t.tsv").read_bytes() == whole
    assert 0 < len(scored) < len(table(files / "t.tsv"))
    last = json.loads((files / "t.tsv.json").read_text())
    assert last["scored"] + last["flagged"] == len(table(files / "t.tsv"))  # those before the stop are counted
    with raises(ConfigError, field="--output", value=str(files / "t.tsv")):
        variants(run, files, "t.tsv")


def test_variants_by_name(run, files, lm, capsys, monkeypatch):
    ref, arguments = CHROMOSOME[100], ["--checkpoint", str(run), "--fasta", str(files / "g.fa"), "--context", "24"]
    alt = "ACGT"["ACGT".index(ref) - 1]
    named = ["--variant", f"1:101:{ref}:{alt}", "--variant", f"chr1:g.101{ref}>{alt}"]
    assert score.main([*arguments, *named]) == 0
    assert capsys.readouterr().out.splitlines()[0].split("\t") == list(score.VARIANT_COLUMNS)  # of a pipe, all of them
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert score.main([*arguments, *named]) == 0
    header, *rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert header == ["contig", "pos", "ref", "alt", "protocol", "strand", "llr", "log_p_ref", "log_p_alt"]
    (expected,) = lm.score_variants([("chr1", 100, ref, alt)], {"chr1": CHROMOSOME}, context=24)
    assert [row[0] for row in rows] == ["1", "chr1"]
    assert {tuple(row[1:7]) for row in rows} == {("101", ref, alt, "next_kmer", "+", score.number(expected.llr))}
    bad = [*named, "--variant", f"1:101:{alt}:{ref}", "--output", str(files / "t.tsv")]
    assert score.main([*arguments, *bad]) == command.FLAGGED
    assert [bool(row["flag"]) for row in table(files / "t.tsv")] == [False, False, True]


def test_bases_of_a_region_and_tracks(run, files, lm, capsys, monkeypatch):
    arguments = ["--checkpoint", str(run), "--fasta", str(files / "g.fa"), "--context", "24", "--region", "1:41-140"]
    assert score.main(arguments) == 0
    header, *rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    expected = lm.score_region("1:41-140", {"chr1": CHROMOSOME}, context=24)
    assert header == ["contig", "pos", "ref", "log_p", "A", "C", "G", "T"]
    assert [(row[0], int(row[1]), row[2]) for row in rows] == [tuple(row[:3]) for row in expected.rows()]
    np.testing.assert_allclose([float(row[3]) for row in rows], expected.log_p, atol=1e-4)
    more = ["--batch_tokens", "1", "--output"]  # several parts
    assert score.main([*arguments, *more, str(files / "t.bedgraph"), "--logo", str(files / "logo.svg")]) == 0
    lines = [line.split("\t") for line in (files / "t.bedgraph").read_text().splitlines()]
    assert [(c, int(start), int(end)) for c, start, end, _ in lines] == [
        ("1", i, i + 1) for i in range(40, 140)
    ]  # as typed
    np.testing.assert_allclose([float(line[3]) for line in lines], expected.log_p, atol=1e-4)
    assert (files / "logo.svg").read_text().startswith("<?xml")
    real, calls = score.Output.write, []

    def stop(self, *rows):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        real(self, *rows)

    whole = [*arguments[:-2], *more, str(files / "t.bw")]
    monkeypatch.setattr(score, "_BATCHES", 1)
    monkeypatch.setattr(score.Output, "write", stop)
    with pytest.raises(KeyboardInterrupt):
        score.main(whole)
    monkeypatch.setattr(score.Output, "write", real)
    assert score.main(whole) == 0
    every = lm.score_region("chr1:1-300", {"chr1": CHROMOSOME}, context=24).log_p
    with pyBigWig.open(str(files / "t.bw")) as file:
        assert file.chroms() == {"chr1": 300}
        np.testing.assert_allclose(file.values("chr1", 0, 300), every, atol=1e-4)
    facts = json.loads((files / "t.bw.json").read_text())
    assert (facts["bases"], facts["unknown"], facts["context"]) == (300, 0, 24)


def test_saturation(run, files, lm, monkeypatch):
    monkeypatch.setattr(score, "_BASES", 7)
    arguments = ["--checkpoint", str(run), "--fasta", str(files / "g.fa"), "--context", "24", "--region", "1:41-60",
                 "--saturation", "--phases", "3"]  # fmt: skip
    assert score.main([*arguments, "--output", str(files / "t.tsv"), "--plot", str(files / "t.png")]) == 0
    rows = table(files / "t.tsv")
    expected = list(lm.saturation("1:41-60", {"chr1": CHROMOSOME}, context=24, phases=3).rows())
    assert [(row["contig"], int(row["pos"]), row["ref"], row["alt"]) for row in rows] == [
        tuple(x[:4]) for x in expected
    ]
    np.testing.assert_allclose([float(row["llr"]) for row in rows], [x.llr for x in expected], atol=1e-4)
    np.testing.assert_allclose([float(row["spread"]) for row in rows], [x.spread for x in expected], atol=1e-4)
    assert (files / "t.png").read_bytes().startswith(b"\x89PNG")


def test_sequences(run, files, lm, capsys, monkeypatch):
    arguments = ["--checkpoint", str(run), "--fasta", str(files / "s.fa")]
    for options in ({"score": "token", "strand": "+"}, {"score": "base", "strand": "both"}):
        more = [x for name, value in options.items() for x in (f"--{name}", value)]
        score.main([*arguments, "--output", str(files / f"{options['score']}.tsv"), "--prefix", "<mam>", *more])
        rows = table(files / f"{options['score']}.tsv")
        expected = lm.log_likelihood(["<mam>" + s for s in SEQUENCES.values()], **options)
        assert [row["name"] for row in rows] == list(SEQUENCES)
        for row, s in zip(rows, expected, strict=True):
            assert (row["score"], row["strand"]) == (s.score, s.strand)
            assert float(row["value"]) == pytest.approx(s.value, rel=1e-4)
            assert [int(row[c]) for c in ("bases", "unknown", "tokens", "oov")] == [s.bases, s.unknown, s.tokens, s.oov]
    (files / "n.fa").write_text(">unknown\nNNNNNN\n>known\nACGTAC\n")
    score.main(["--checkpoint", str(run), "--fasta", str(files / "n.fa"), "--output", str(files / "n.tsv")])
    assert [row["flag"] for row in table(files / "n.tsv")] == ["no known base", ""]
    counts = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (counts["scored"], counts["flagged"]) == (1, 1)
    monkeypatch.setattr(
        sys, "stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(b">a\nACGT\n>b\n\n>c\n" + b"ACGT" * 999)))
    )
    score.main(["--checkpoint", str(run), "--fasta", "-"])
    _, *rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [row[0] for row in rows] == ["a", "b", "c"]
    assert [row[-1] for row in rows][:2] == ["", "empty"]
    assert rows[2][-1].startswith("needs 1332 tokens of context, but the model was made for")


def test_embeddings(run, files, lm, monkeypatch):
    arguments = ["--checkpoint", str(run), "--fasta", str(files / "s.fa"), "--prompt_convention", "v2"]
    two = LM(dataclasses.replace(lm.spec, prompt_convention="v2"), lm.params, lm.mesh)
    texts = [s.replace("|x", "") for s in SEQUENCES.values()]
    monkeypatch.setattr(embed, "_SEQUENCES", 2)
    monkeypatch.setattr(embed, "_ROWS", 2)
    for name, options in {
        "last": {"pooling": "separator"}, "two": {"chunks": 2, "pooling": "mean", "layer": 1},
    }.items():  # fmt: skip
        more = [str(x) for key, value in options.items() for x in (f"--{key}", value)]
        embed.main([*arguments, "--output", str(files / f"{name}.npz"), *more])
        with np.load(files / f"{name}.npz", allow_pickle=False) as data:
            assert data["names"].tolist() == list(SEQUENCES)
            np.testing.assert_allclose(data["embeddings"], two.embed(texts, **options), atol=1e-5)
    every = ["--pooling", "tokens"]
    embed.main([*arguments, "--output", str(files / "t.npz"), *every])
    embed.main([*arguments, "--output", str(files / "t.parquet"), *every])
    expected = two.embed(texts, pooling="tokens")
    with np.load(files / "t.npz") as data:
        assert data["tokens"].tolist() == [len(x) for x in expected]
        np.testing.assert_allclose(data["embeddings"], np.concatenate(expected), atol=1e-5)
    rows = pyarrow.parquet.read_table(files / "t.parquet").to_pydict()
    assert rows["name"] == list(SEQUENCES)
    for row, states in zip(rows["embedding"], expected, strict=True):
        np.testing.assert_allclose(np.reshape(row, states.shape), states, atol=1e-5)
    real, calls = LM.embed, []

    def stop(self, sequences, **options):
        calls.extend([1] * bool(sequences))  # without sequences the options are checked
        if sequences and len(calls) == 2:
            raise KeyboardInterrupt
        return real(self, sequences, **options)

    monkeypatch.setattr(LM, "embed", stop)
    with pytest.raises(KeyboardInterrupt):
        embed.main([*arguments, "--output", str(files / "again.npz")])
    embed.main([*arguments, "--output", str(files / "again.npz")])
    assert len(calls) == 3
    with np.load(files / "again.npz") as again, np.load(files / "last.npz") as last:
        assert np.array_equal(again["embeddings"], last["embeddings"])
    assert not list(files.glob("*.partial*"))


@pytest.mark.parametrize(
    ("program", "fasta", "arguments", "kind", "attributes"),
    [
        (score, "", [], FileError, {"file": "s.fa"}),
        (score, ">a\nAC\n", ["--vcf", "{}/none.vcf"], FileError, {"file": "none.vcf"}),
        (score, ">a\nAC\n", ["--vcf", "{}/s.fa", "--context", "24"], FormatError, {"file": "s.fa", "line": 1}),
        (score, ">a\nAC\n", ["--phases", "2", "--vcf", "{}/v.vcf", "--context", "24"], ConfigError, "phases is 2: "),
        (score, ">a\nAC\n", ["--vcf", "{}/v.vcf", "--context", "8192"], ConfigError, "context is 8192: "),
        (score, ">a\nAC\n", ["--vcf", "{}/v.vcf", "--score", "base"], ConfigError, {"field": "--score"}),
        (score, ">a\nAC\n", ["--vcf", "{}/v.vcf", "--prefix", "<mam>"], ConfigError, {"field": "--prefix"}),
        (score, ">a\nAC\n", ["--region", "b:1-2"], ConfigError, "region is 'b:1-2': "),
        (score, ">a\nAC\n", ["--region", "a:1-2", "--prefix", "<mam>"], ConfigError, {"field": "--prefix"}),
        (score, ">a\nAC\n", ["--variant", "a:1:A"], ConfigError, "variant is 'a:1:A': "),
        (score, ">a\nAC\n", ["--saturation"], ConfigError, "--saturation needs --region"),
        (score, ">a\nAC\n", ["--region", "a:1-2", "--plot", "p.png"], ConfigError, "--plot needs --region and"),
        (score, ">a\nAC\n", ["--region", "a:1-2", "--logo", "p.txt"], ConfigError, {"field": "--logo"}),
        (score, ">a\nAC\n", ["--region", "a:1-9999", "--logo", "p.png"], ConfigError, {"field": "--region"}),
        (score, ">a\nAC\n", ["--vcf", "{}/v.vcf", "--output", "{}/o.bw"], ConfigError, {"field": "--output"}),
        (score, ">a\nAC\n", ["--prefix", "<x>"], ConfigError, {"field": "--prefix", "value": "<x>"}),
        (score, ">a\nAC\n", ["--prefix", "<mam>AC"], ConfigError, {"field": "--prefix", "value": "<mam>AC"}),
        (score, ">a\nAC\n", ["--vcf", "-"], ConfigError, {"field": "--vcf", "value": "-"}),
        (score, ">a\nAC\n", ["--output", "{}/o.vcf.gz"], ConfigError, {"field": "--output", "value": "{}/o.vcf.gz"}),
        (score, ">a\nAC\n", ["--output", "{}/o.csv"], ConfigError, {"field": "--output", "value": "{}/o.csv"}),
        (score, ">a\nAC\n", ["--output", "{}/o.vcf"], ConfigError, {"field": "--output", "value": "{}/o.vcf"}),
        (score, ">a\nAC\n", ["--output", "{}"], ConfigError, {"field": "--output", "value": "{}"}),
        (sample, ">a\nAC\n", ["--output", "{}"], ConfigError, {"field": "--output", "value": "{}"}),
        (sample, ">a\nAC\n", ["--prefix", "AC"], ConfigError, {"field": "--prefix", "value": "AC"}),
        (embed, ">a\nAC\n", ["--prefix", "AC"], ConfigError, {"field": "--prefix", "value": "AC"}),
        (embed, ">a\nAC\n", ["--layer", "9", "--prompt_convention", "v1"], ConfigError, "layer is 9: "),
        (embed, ">a\nAC\n", ["--output", "{}/x.txt"], ConfigError, {"field": "--output", "value": "{}/x.txt"}),
        (embed, ">a\nAC\n", ["--output", "{}/s.npz"], ConfigError, {"field": "--output", "value": "{}/s.npz"}),
    ],
)  # fmt: skip
def test_bad_input_is_one_line(program, fasta, arguments, kind, attributes, run, files):
    """A ConfigError made from an InputError of the model has no field: there its text is compared."""
    (files / "s.fa").write_text(fasta)
    (files / "s.npz").touch()
    output = files / ("o.tsv" if program is score else "o.npz")
    given = ["--checkpoint", str(run), "--fasta", str(files / "s.fa"), "--output", str(output), *arguments]
    text = attributes if isinstance(attributes, str) else ""
    expected = {} if text else attributes
    expected = {name: value.format(files) if isinstance(value, str) else value for name, value in expected.items()}
    with pytest.raises(kind, match=text) if text else raises(kind, **expected):
        program.main([argument.format(files) for argument in given])
    assert not output.exists()


def test_a_bad_row_of_a_vcf_is_one_flagged_row(run, files):
    """The others are scored, and the exit status says that there are flags."""
    ref = CHROMOSOME[100]
    bad = [f"1\t101\t.\t-\t{ref}", f"1\tx\t.\t{ref}\tGG", f"1\t101\t.\t{ref}", "1 101 . A T", f"1\t101\t.\t\t{ref}"]
    good = f"1\t101\ta\t{ref}\tGATTA\t.\t.\t."
    (files / "v.vcf").write_text(HEAD + "\n".join([good, *bad, good]) + "\n")
    arguments = [
        "--checkpoint",
        str(run),
        "--vcf",
        str(files / "v.vcf"),
        "--fasta",
        str(files / "g.fa"),
        "--context",
        "24",
    ]
    assert score.main([*arguments, "--output", str(files / "t.tsv")]) == command.FLAGGED
    assert score.main([*arguments, "--output", str(files / "t.vcf")]) == command.FLAGGED
    first, *rows, last = table(files / "t.tsv")
    assert (first["flag"], first) == ("", last)
    assert float(first["llr"])
    assert all(row["flag"] and not row["llr"] for row in rows)
    assert [row["pos"] for row in rows] == ["101", "x", "101", ".", "101"]
    assert "is not a position" in rows[1]["flag"]
    assert rows[2]["flag"].startswith("the number of columns is 4")
    lines = [line for line in (files / "t.vcf").read_text().splitlines() if line[0] != "#"]
    assert ["GENER_FLAG=" in line for line in lines] == [False, *[True] * len(bad), False]
    for line, written in zip(lines, [good, *bad, good], strict=True):
        assert line.startswith(written.rstrip("."))
    (files / "v.vcf").write_text(HEAD + good + "\n")
    assert score.main([*arguments, "--output", str(files / "good.tsv")]) == 0


def test_a_bad_record_of_a_fasta_is_one_flagged_row(run, files):
    text = CHROMOSOME[:60]
    records = {"good": text, "empty": "", "long": "ACG" * 9999, "protein": "ACGT\nMKVLAAGIV", "": text, "same": text}
    (files / "s.fa").write_text("".join(f">{name}\n{text}\n" for name, text in records.items()))
    arguments = ["--checkpoint", str(run), "--fasta", str(files / "s.fa"), "--output"]
    assert score.main([*arguments, str(files / "s.tsv")]) == command.FLAGGED
    rows = table(files / "s.tsv")
    expected = [(row["name"], bool(row["flag"])) for row in rows]
    flagged = [("empty", True), ("long", True), ("protein", True), ("", True)]
    assert expected == [("good", False), *flagged, ("same", False)]
    assert rows[3]["flag"].startswith("line 9: 'L' is not a nucleotide letter")
    assert rows[0]["value"] == rows[5]["value"]
    for options in (["--pooling", "mean"], ["--pooling", "tokens"], ["--chunks", "20"]):
        output = files / f"{options[1]}.npz"
        assert embed.main([*arguments, str(output), "--prompt_convention", "v1", *options]) == command.FLAGGED
        with np.load(output, allow_pickle=False) as data:
            assert [(name, bool(flag)) for name, flag in zip(data["names"], data["flags"], strict=True)] == expected
            if options[1] == "tokens":
                assert data["tokens"].tolist() == [21, 0, 0, 0, 0, 21]
                assert np.isfinite(data["embeddings"]).all()
            else:
                assert np.isnan(data["embeddings"]).all(1).tolist() == [flag for _, flag in expected]
                np.testing.assert_allclose(data["embeddings"][0], data["embeddings"][5], atol=1e-5)
    embed.main([*arguments, str(files / "e.parquet"), "--prompt_convention", "v1"])
    column = pyarrow.parquet.read_table(files / "e.parquet").to_pydict()["flag"]
    assert [bool(flag) for flag in column] == [flag for _, flag in expected]
    (files / "s.fa").write_text(f">a\n{CHROMOSOME[:60]}\n>short\nACG\n")
    embed.main([*arguments, str(files / "short.npz"), "--prompt_convention", "v1", "--chunks", "20"])
    with np.load(files / "short.npz", allow_pickle=False) as data:
        assert data["flags"].tolist() == ["", "has 1 tokens, fewer than chunks (20)"]


def test_a_bad_prompt_of_a_fasta_costs_its_own_samples(run, files, capsys):
    text = CHROMOSOME[:60]
    records = {
        "good": text,
        "long": "ACG" * 9999,
        "protein": "MKVLAAGIV",
        "": text,
        "good twice": text,
        "end": text[:7],
    }
    (files / "p.fa").write_text("".join(f">{name}\n{text}\n" for name, text in records.items()))
    arguments = ["--checkpoint", str(run), "--fasta", str(files / "p.fa"), "--num_bases", "6", "--output"]
    assert sample.main([*arguments, str(files / "o.fa")]) == command.FLAGGED
    captured = capsys.readouterr()
    facts = json.loads(captured.out)
    assert (facts["samples"], facts["flagged"]) == (2, 4)
    assert [r.name for r in fasta.read(files / "o.fa")] == ["good_sample_1", "end_sample_1"]
    named = [line.split(": ")[0] for line in captured.err.splitlines() if line.startswith("no sample")]
    assert named == [f"no sample of record {name}" for name in ("protein", "", "good", "long")]
    (files / "p.fa").write_text(f">good\n{text}\n")
    assert sample.main([*arguments, str(files / "all.fa")]) == 0


def test_a_line_of_ten_megabytes(run, files, capsys):
    (files / "s.fa").write_text(f">a\n{'ACGT' * 2_500_000}\n>b\nACGT\n")
    score.main(["--checkpoint", str(run), "--fasta", str(files / "s.fa")])
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert rows[1][:2] == ["a", "10000000"]
    assert "tokens of context" in rows[1][-1]
    assert rows[2][-1] == ""


def test_an_output_is_replaced_only_when_told(run, files, capsys):
    """Also if it was begun with other options; one begun with the same goes on."""
    output = files / "n.tsv"
    arguments = ["--checkpoint", str(run), "--fasta", str(files / "s.fa"), "--output", str(output)]
    output.write_text("of someone")
    with raises(ConfigError, field="--output", value=str(output)):
        score.main(arguments)
    assert output.read_text() == "of someone"
    assert score.main([*arguments, "--overwrite"]) == 0
    first = output.read_text()
    output.unlink()
    partial, state = (output.with_name(f"n.tsv.partial{end}") for end in ("", ".json"))
    partial.write_text("of other options")
    state.write_text(json.dumps({"fingerprint": {"score": "base"}, "done": 1, "facts": {}, "bytes": 3}))
    with raises(ConfigError, field=None):
        score.main(arguments)
    assert score.main([*arguments, "--overwrite"]) == 0
    assert output.read_text() == first
