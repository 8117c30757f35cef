"""Tests builds of datasets: content, reproducibility, errors, interruption and options."""

import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from data_pipeline import build, cli
from data_pipeline.dataset import builder, merge, report, spill
from data_pipeline.dataset.inputs import Input
from data_pipeline.dataset.reader import RegionSource
from data_pipeline.errors import ArgumentError, DataError, FileError, FormatError, MismatchError, PairingError
from data_pipeline.formats import genbank
from data_pipeline.regions import extraction, ledger
from data_pipeline.regions.schemes import Scheme
from data_pipeline.sequence import bases
from tests.data import FIXTURES, data_path
from tests.raised import raises
from tests.test_genbank import record_text, write
from tests.test_reader import StubTokenizer

ROOT = Path(__file__).parents[1]
INPUTS = sorted(FIXTURES.glob("*.gz"))


def command(*arguments, prefix=""):
    """Runs the command in another process; `prefix` is Python code to run before it."""
    code = f"import sys\n{prefix}\nfrom data_pipeline import build\nsys.exit(build.main(sys.argv[1:]))"
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, check=False
    )


def region_bases(source):
    """Maps the (accession, start, end, strand) of each region to its bases."""
    return {
        (source.accessions[row["accession"]], row["start"], row["end"], row["strand"]): source.read(
            number, 0, int(row["length"])
        )
        for number, row in enumerate(
            {name: column[number].item() for name, column in source.index.items()} for number in range(len(source))
        )
    }


def test_every_region_is_in_one_split_and_reads_back(tmp_path):
    info = builder.build(INPUTS, tmp_path / "set", validation_fraction=0.2, test_fraction=0.2)
    assert not list(tmp_path.glob("*.partial*"))
    found = {}
    for split in ("train", "validation", "test"):
        source = RegionSource(tmp_path / "set", split)
        assert source.info == info
        assert len(source) > 0
        here = region_bases(source)
        assert not here.keys() & found.keys()
        found |= here
    expected = {
        (region.accession, region.start, region.end, region.strand): region.codes
        for path in INPUTS
        for record in genbank.read(path)
        for region in extraction.regions(record)
    }
    assert found.keys() == expected.keys()
    assert all((found[key] == expected[key]).all() for key in found)
    assert sum(facts["bases"] for facts in info["splits"].values()) == sum(map(len, expected.values()))
    assert [(file["file"], file["records"]) for file in info["inputs"]] == [(path.name, 1) for path in INPUTS]
    assert sum(file["bases"] for file in info["inputs"]) == 154478 + 60942 + 5386 + 9609
    assert info["ledger"]["regions"] == {
        "found": {"count": 238, "bases": 179853 + 114},
        "cut": 0,
        "dropped": {ledger.DUPLICATE: {"count": 1, "bases": 114}},
    }
    assert info["ledger"]["records"]["read"] == {"count": 4, "bases": 230415}
    kinds = [facts["kinds"] for facts in info["splits"].values()]
    assert sum(row["regions"] for facts in kinds for row in facts.values()) == 130 + 86 + 11 + 10
    assert {taxon for facts in info["splits"].values() for taxon in facts["taxa"]} == {"plt", "vir", "plm"}


def test_same_inputs_give_same_bytes(tmp_path):
    for folder in ("one", "two"):
        builder.build(INPUTS, tmp_path / folder, validation_fraction=0.2)
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert files == sorted(path.name for path in (tmp_path / "two").iterdir())
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes(), file
    other = builder.build(INPUTS, tmp_path / "seed", validation_fraction=0.2, seed=1)
    assert other["digest"] != json.loads((tmp_path / "one" / "dataset.json").read_text())["digest"]


def test_more_inputs_move_no_region(tmp_path):
    builder.build(INPUTS[:2], tmp_path / "few", validation_fraction=0.3)
    builder.build(INPUTS[::-1], tmp_path / "more", validation_fraction=0.3)
    for split in ("train", "validation"):
        few, more = (region_bases(RegionSource(tmp_path / name, split)) for name in ("few", "more"))
        assert few.keys() < more.keys()


def test_taxon_fills_gaps_and_force_taxon_overrides(tmp_path):
    """A FASTA with its GFF3 has no taxon, a GenBank record of a bacterium has its own."""
    known = write(tmp_path / "a.gb", record_text([("gene", "1..6", {})]))
    (tmp_path / "b.fa").write_text(">s\nACGTACGT\n")
    (tmp_path / "b.gff").write_text("s\tx\tgene\t1\t8\t.\t+\t.\tID=g\n")

    def taxa(**options):
        info = builder.build(
            [known, tmp_path / "b.fa", tmp_path / "b.gff"], tmp_path / "set", validation_fraction=0, **options
        )
        assert info["parameters"].items() >= options.items()
        source = RegionSource(tmp_path / "set", "train")
        assert {source.taxa[i] for i in source.index["taxon"]} == set(info["splits"]["train"]["taxa"])
        notes = info["ledger"]["notes"].get(ledger.NO_TAXON)
        shutil.rmtree(tmp_path / "set")
        return info["splits"]["train"]["taxa"].keys(), notes and notes["count"]

    assert taxa() == ({"bct", "unknown"}, 1)
    assert taxa(taxon="fng") == ({"bct", "fng"}, None)
    assert taxa(force_taxon="fng") == ({"fng"}, None)
    for option in ("taxon", "force_taxon"):
        with raises(ArgumentError, field=option, value="cat"):
            builder.build([known], tmp_path / "other", **{option: "cat"})


def test_repeated_record_is_used_once(tmp_path):
    gene = [("gene", "1..6", {})]
    same = write(tmp_path / "same.gb", record_text(gene) * 2)
    again = write(tmp_path / "again.gb", record_text(gene))
    info = builder.build([same, again], tmp_path / "set", validation_fraction=0)
    assert info["splits"]["train"]["regions"] == 1
    # The copy in the same file is skipped when it is read, the one in the other file when the inputs are merged.
    assert info["ledger"]["records"]["skipped"] == {ledger.DUPLICATE_RECORD: {"count": 1, "bases": 10}}
    other = write(tmp_path / "other.gb", record_text(gene, "ttttttttttt"))
    with raises(MismatchError, record="TEST.1"):
        builder.build([same, other], tmp_path / "both")
    assert info["ledger"]["regions"]["dropped"] == {ledger.DUPLICATE_RECORD: {"count": 1, "bases": 6}}
    assert info["ledger"]["regions"]["found"] == {"count": 2, "bases": 12}


def test_records_without_sequence_are_counted(tmp_path):
    empty = write(tmp_path / "a.gb", record_text([], length=777, origin=False, name="EMPTY"))
    info = builder.build([empty, *INPUTS], tmp_path / "set")
    assert info["ledger"]["records"]["skipped"][ledger.NO_SEQUENCE] == {"count": 1, "bases": 777}


def test_tokens(tmp_path):
    info = builder.build(INPUTS, tmp_path / "set", tokenizer=StubTokenizer())
    assert info["storage"] == "token_ids"
    plain = builder.build(INPUTS, tmp_path / "plain")
    for split in ("train", "validation"):
        tokens, codes = RegionSource(tmp_path / "set", split), RegionSource(tmp_path / "plain", split)
        for column in ("length", "start", "end", "strand", "kind", "taxon", "accession"):
            np.testing.assert_array_equal(tokens.index[column], codes.index[column])
        for number, length in enumerate(codes.index["length"].tolist()):
            ids = StubTokenizer().encode_bases(codes.read(number, 0, length))
            np.testing.assert_array_equal(tokens.read(number, 0, len(ids)), ids)
        facts = info["splits"][split]
        assert facts["bases"] == 3 * facts["tokens"] + facts["remainder"] == plain["splits"][split]["bases"]


def test_command_with_kmers(tmp_path):
    tokenizers = pytest.importorskip("data_pipeline.sequence.tokenizer")
    done = command("--input", *INPUTS, "--output", tmp_path / "set", "--storage", "token_ids", "--k", 6)
    assert done.returncode == 0, done.stderr
    source = RegionSource(tmp_path / "set", "train")
    tokenizer = tokenizers.make("kmer", 6, None)
    assert source.info["tokenizer"]["name"] == tokenizer.name == "kmer-6"
    assert source.info["tokenizer"]["digest"] == tokenizer.digest
    builder.build(INPUTS, tmp_path / "plain")
    plain = RegionSource(tmp_path / "plain", "train")
    for number, length in enumerate(plain.index["length"].tolist()):
        ids = tokenizer.encode_bases(plain.read(number, 0, length))
        np.testing.assert_array_equal(source.read(number, 0, length // 6), ids)


def test_command(tmp_path):
    done = command("--input", *INPUTS, "--output", tmp_path / "new" / "set")
    assert done.returncode == 0, done.stderr
    *table, line = done.stdout.splitlines()
    assert table == report.whole(tmp_path / "new" / "set")
    totals = json.loads(line)
    assert (totals["inputs"], totals["records"]["read"]["count"], totals["damaged"]) == (4, 4, 0)
    assert sum(totals["splits"][split]["regions"] for split in ("train", "validation")) == 237
    assert sum(totals["splits"][split]["bases"] for split in ("train", "validation")) == 179853
    assert totals["regions"]["dropped"] == {ledger.DUPLICATE: {"count": 1, "bases": 114}}
    assert len(done.stderr.splitlines()) == len(INPUTS)
    assert RegionSource(tmp_path / "new" / "set", "train").digest == totals["digest"]


def test_help():
    done = command("--help")
    assert done.returncode == 0
    assert "--validation_fraction" in done.stdout


TEXT = record_text([("gene", "1..6", {})])


@pytest.mark.parametrize(
    ("content", "empty"),
    [
        (b"", False),
        (gzip.compress(TEXT.encode() * 400, mtime=0)[:-30], False),
        (record_text([("gene", "1..6", {})], origin=False), True),
        (record_text([]), True),
        (TEXT + "more", False),
        ("@SQ rubbish\n", False),
        (TEXT[:-3], False),
        (None, False),
    ],
)
def test_bad_input_leaves_nothing(tmp_path, capsys, content, empty):
    path = tmp_path / "bad.gb"
    if content is not None:
        write(path, content)
    before = sorted(tmp_path.iterdir())
    # A good file comes first: its regions are already written when the bad one is read.
    good = [] if empty else [str(INPUTS[0])]
    assert build.main(["--input", *good, str(path), "--output", str(tmp_path / "new" / "set"), "--workers", "1"]) == 1
    out, err = capsys.readouterr()
    progress = (f"{INPUTS[0]}: ", f"{path}: 1 rec", f"{path}: 0 rec")
    lines = [line for line in err.splitlines() if not line.startswith(progress)]
    assert out == ""
    assert len(lines) == 1
    assert lines[0].startswith(f"{cli.program()}: error: ")
    assert "bad.gb: " in lines[0]
    if good and content is not None:
        partial = tmp_path / "new" / "set.partial"
        assert lines[0].endswith(f"; kept in {partial}: 1 finished input; run it again to resume")
        shutil.rmtree(tmp_path / "new")
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--validation_fraction", "0.6", "--test_fraction", "0.6"], "leave nothing to train on"),
        (["--tokenizer", "kmer"], "--storage token_ids"),
        (["--manifest", "absent.tsv"], "either --input or --manifest"),
    ],
)
def test_bad_arguments(tmp_path, capsys, arguments, words):
    assert build.main(["--input", str(INPUTS[0]), "--output", str(tmp_path / "new" / "set"), *arguments]) == 1
    err = capsys.readouterr().err
    assert words in err
    assert len(err.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_existing_output_is_not_changed(tmp_path, capsys):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "mine").write_text("x")
    assert build.main(["--input", str(INPUTS[0]), "--output", str(tmp_path / "set")]) == 1
    assert f"{tmp_path / 'set'}: exists already" in capsys.readouterr().err
    assert [path.name for path in tmp_path.rglob("*")] == ["set", "mine"]
    with raises(FileError, file=tmp_path / "set"):
        builder.build(INPUTS[:1], tmp_path / "set", overwrite=True)
    assert [path.name for path in tmp_path.rglob("*")] == ["set", "mine"]


def test_overwrite_replaces_a_dataset(tmp_path):
    old = builder.build(INPUTS[:1], tmp_path / "set")
    with raises(FileError, file=tmp_path / "set") as caught:
        builder.build(INPUTS[1:], tmp_path / "set")
    assert "--overwrite" in caught.value.remedy
    with raises(FormatError):
        builder.build([write(tmp_path / "bad.gb", "x")], tmp_path / "set", overwrite=True)
    assert RegionSource(tmp_path / "set", "train").digest == old["digest"]  # until the new one is complete
    new = builder.build(INPUTS[1:], tmp_path / "set", overwrite=True)
    assert RegionSource(tmp_path / "set", "train").digest == new["digest"] != old["digest"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.gb", "set"]


@pytest.mark.parametrize("limit", [2000, 40_000, 132_000])
def test_full_disk(tmp_path, limit):
    # So many bases that the shard exceeds the last limit, but not the index or dataset.json.
    rng = np.random.default_rng(0)
    sequence = bases.decode(rng.integers(0, 4, 900_000).astype(np.uint8))
    path = write(tmp_path / "a.gb", record_text([("gene", "1..900000", {})], sequence))
    prefix = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))"
    done = command("--input", path, "--output", tmp_path / "set", "--validation_fraction", 0, prefix=prefix)
    assert done.returncode == 1
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len([line for line in lines if "-c: error: " in line]) == 1, lines
    assert "File too large" in lines[-1]
    assert len(lines) <= 2  # the other one reports progress
    assert not (tmp_path / "set").exists()
    # With free space, the same command gives the same dataset as an uninterrupted one.
    done = command("--input", path, "--output", tmp_path / "set", "--validation_fraction", 0)
    assert done.returncode == 0, done.stderr
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.gb", "set"]
    assert json.loads(done.stdout.splitlines()[-1])["region_bases"] == 900_000


def test_full_disk_at_the_index(tmp_path):
    genes = [("gene", f"{at}..{at + 5}", {}) for at in range(1, 3000)]
    path = write(tmp_path / "a.gb", record_text(genes, "acgt" * 1000))
    prefix = (
        "import resource, numpy as np\nsave = np.savez\n"
        "def limited(*a, **k):\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))\n    save(*a, **k)\n"
        "np.savez = limited"
    )
    done = command("--input", path, "--output", tmp_path / "set", "--validation_fraction", 0, prefix=prefix)
    assert done.returncode == 1
    assert "File too large" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert [file.name for file in tmp_path.iterdir()] == ["a.gb"]


SLOW = (  # reading the last input never ends
    "import signal, sys, time\n"
    "signal.signal(signal.SIGTERM, signal.default_int_handler)\n"
    "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # shells start background jobs with SIGINT ignored
    "from data_pipeline import build\n"
    "from data_pipeline.dataset import inputs\n"
    "read = inputs.records\n"
    "def slow(source, *arguments):\n"
    "    yield from read(source, *arguments)\n"
    "    if source.files[0].name == sys.argv[1]:\n"
    "        print('waiting', flush=True)\n"
    "        time.sleep(600)\n"
    "inputs.records = slow\n"
    "sys.exit(build.main(sys.argv[2:]))"
)


def stopped_build(number, inputs, output):
    """Runs a build, sends it a signal while it reads its last input, and returns its exit code and standard error."""
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, inputs[-1].name, "--input", *inputs, "--output", output, "--workers", "1"],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout.readline() == "waiting\n"
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    return process.returncode, err


def files(folder):
    """Maps the relative path of every file in a folder to its bytes."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_before_any_input_is_finished(tmp_path, number):
    code, err = stopped_build(number, INPUTS[:1], tmp_path / "set")
    assert code == 130
    assert err.splitlines()[-1] == "-c: interrupted; nothing was written"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_resumed_build_equals_uninterrupted_build(tmp_path, number):
    builder.build(INPUTS, tmp_path / "whole")
    code, err = stopped_build(number, INPUTS, tmp_path / "set")
    if number == signal.SIGINT:
        assert code == 130
        kept = f"kept in {tmp_path / 'set.partial'}: {len(INPUTS) - 1} finished inputs; run it again to resume"
        assert err.splitlines()[-1] == f"-c: interrupted; {kept}"
    assert not (tmp_path / "set").exists()
    done = {path: path.stat().st_mtime_ns for path in (tmp_path / "set.partial").glob("*/spill.json")}
    assert len([path for path in done if "." not in path.parent.name]) == len(INPUTS) - 1
    # Finished inputs are not read again: reading any input but the last fails.
    code = (
        "import sys\nfrom data_pipeline import build\nfrom data_pipeline.dataset import inputs\nread = inputs.records\n"
        "def last(source, *arguments):\n"
        f"    assert source.files[0].name == {INPUTS[-1].name!r}, source\n"
        "    return read(source, *arguments)\n"
        "inputs.records = last\nsys.exit(build.main(sys.argv[1:]))"
    )
    again = subprocess.run(
        [sys.executable, "-c", code, "--input", *INPUTS, "--output", tmp_path / "set", "--workers", "1"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert again.returncode == 0, again.stderr
    assert files(tmp_path / "set") == files(tmp_path / "whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["set", "whole"]


def test_other_settings_do_not_reuse_finished_inputs(tmp_path):
    stopped_build(signal.SIGKILL, INPUTS, tmp_path / "set")
    info = builder.build(INPUTS, tmp_path / "set", scheme=Scheme("cds"))
    builder.build(INPUTS, tmp_path / "whole", scheme=Scheme("cds"))
    assert files(tmp_path / "set") == files(tmp_path / "whole")
    assert set(info["splits"]["train"]["kinds"]) <= {"cds", "pseudo"}


def test_aliases(tmp_path):
    (tmp_path / "a.fa").write_text(">NC_000013.11\nACGTAC\n>scaffold_2\nACGTTT\n")
    (tmp_path / "a.gff").write_text("chr13\tx\tgene\t1\t4\t.\t+\t.\tID=g\nII\tx\tgene\t1\t5\t.\t+\t.\tID=h\n")
    (tmp_path / "names.tsv").write_text("scaffold_2\tII\n")
    options = {"taxon": "mam", "validation_fraction": 0}
    plain = builder.build([tmp_path / "a.fa"], tmp_path / "plain", **options)
    assert (plain["splits"]["train"]["regions"], plain["parameters"]["aliases"]) == (1, None)
    info = builder.build([tmp_path / "a.fa"], tmp_path / "set", aliases=tmp_path / "names.tsv", **options)
    assert info["accessions"] == ["NC_000013.11", "scaffold_2"]
    again = builder.build([tmp_path / "a.fa"], tmp_path / "again", aliases=[("scaffold_2", "II")], **options)
    assert again == info
    assert info["parameters"]["aliases"]
    source = Input(tmp_path / "a.fa", tmp_path / "a.gff")
    keys = {spill.key(source, spill.Settings(Scheme(), aliases=names)) for names in ((), (("a", "b"),), (("a", "c"),))}
    assert len(keys) == 3  # a build that was interrupted does not resume with other aliases


@pytest.mark.parametrize("split_by", ["group", "cluster"])
def test_result_does_not_depend_on_workers(tmp_path, split_by):
    for workers in (1, 2, 4):
        builder.build(INPUTS, tmp_path / str(workers), workers=workers, split_by=split_by, validation_fraction=0.3)
    assert files(tmp_path / "1") == files(tmp_path / "2") == files(tmp_path / "4")


def test_error_in_a_worker_is_one_line(tmp_path):
    bad = write(tmp_path / "bad.gb", TEXT[:-3])
    done = command("--input", *INPUTS, bad, "--output", tmp_path / "set", "--workers", 2)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert f"-c: error: {bad}: record TEST: " in done.stderr.splitlines()[-1]


def test_killed_worker_is_reported_in_one_line(tmp_path):
    prefix = (
        "import os, signal\nfrom data_pipeline.dataset import spill\n"
        "if __name__ == '__mp_main__':\n    spill.write = lambda *a: os.kill(os.getpid(), signal.SIGKILL)"
    )
    script = tmp_path / "script.py"
    script.write_text(
        f"{prefix}\nimport sys\nfrom data_pipeline import build\n"
        "if __name__ == '__main__':\n    sys.exit(build.main(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, script, "--input", *INPUTS, "--output", tmp_path / "set", "--workers", "2"],
        cwd=ROOT, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("script.py: error: a worker was killed")


def test_two_builds_cannot_write_to_one_folder(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, INPUTS[0].name, "--input", INPUTS[0], "--output", tmp_path / "set"],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout.readline() == "waiting\n"
        with raises(FileError, file="set.partial", remedy="wait for it"):
            builder.build(INPUTS, tmp_path / "set")
    finally:
        process.kill()
        process.communicate()
    builder.build(INPUTS, tmp_path / "set")


def test_totals_repeat_the_skipped_inputs(tmp_path, capsys):
    """Bases without annotation beside a GenBank file."""
    shutil.copy(INPUTS[0], tmp_path)
    write(tmp_path / "x.fa", ">x\nACGT\n")
    assert build.main(["--input", str(tmp_path), "--output", str(tmp_path / "set"), "--workers", "1"]) == 0
    table, facts = capsys.readouterr().out.rsplit("\n", 2)[:2]
    assert "skipped: 1 input (" in table
    assert json.loads(facts)["skipped_files"] == 1


def test_damaged_inputs_can_be_skipped(tmp_path, capsys):
    bad = write(tmp_path / "bad.gb", TEXT[:-3])
    info = builder.build([bad, *INPUTS], tmp_path / "set", skip_damaged=True)
    [row] = info["damaged"]
    assert row["files"] == ["bad.gb"]
    assert row["error"].startswith(f"{bad}: ")
    assert f"skipped: {bad}" in capsys.readouterr().err
    assert sum(facts["regions"] for facts in info["splits"].values()) == 237
    with raises(DataError, field="none of 1 input") as caught:
        builder.build([bad], tmp_path / "other", skip_damaged=True)
    assert str(bad) in str(caught.value)


def test_duplicates_on_either_strand(tmp_path):
    sequence = "acgttgcaacggttaacctgaacttgg"
    reverse = bases.decode(bases.reverse_complement(bases.encode(sequence)))
    twice = [("gene", "1..12", {}), ("gene", "complement(28..39)", {})]
    one = write(tmp_path / "one.gb", record_text(twice, sequence + sequence[:12]).replace("TEST", "ONE"))
    # The same gene on the other strand of another record, and a gene that only this record has.
    other = write(
        tmp_path / "other.gb",
        record_text([("gene", "complement(16..27)", {}), ("gene", "1..9", {})], reverse).replace("TEST", "OTHER"),
    )
    kept = {}
    for duplicates in merge.DUPLICATES:
        info = builder.build([one, other], tmp_path / duplicates, duplicates=duplicates, validation_fraction=0)
        kept[duplicates] = sorted(region_bases(RegionSource(tmp_path / duplicates, "train")))
        dropped = info["ledger"]["regions"]["dropped"]
        assert info["ledger"]["regions"]["found"] == {"count": 4, "bases": 45}
        assert sum(row["count"] for row in dropped.values()) == 4 - len(kept[duplicates])
    everything = [("ONE.1", 0, 12, 1), ("ONE.1", 27, 39, -1), ("OTHER.1", 0, 9, 1), ("OTHER.1", 15, 27, -1)]
    assert kept == {"keep": everything, "inputs": everything[:3], "all": [everything[0], everything[2]]}


def test_manifest_fixes_taxon_and_split(tmp_path):
    table = tmp_path / "manifest.tsv"
    rows = [("sequence", "annotation", "taxon", "split")]
    rows += [("", str(path), "arc" if number == 0 else "", ("test", "validation", "", "train")[number])
             for number, path in enumerate(INPUTS)]  # fmt: skip
    table.write_text("".join("\t".join(row) + "\n" for row in rows))
    done = command("--manifest", table, "--output", tmp_path / "set")
    assert done.returncode == 0, done.stderr
    source = RegionSource(tmp_path / "set", "test")
    assert len(source) == 130
    assert {source.taxa[taxon] for taxon in source.index["taxon"]} == {"arc"}
    validation = RegionSource(tmp_path / "set", "validation")
    assert (validation.index["accession"] == validation.accessions.index("NC_000902.1")).sum() == 86


def test_split_by_assembly_and_leakage(tmp_path):
    info = builder.build(INPUTS, tmp_path / "set", split_by="assembly", validation_fraction=0.5, seed=1)
    where = {}
    for split in ("train", "validation"):
        source = RegionSource(tmp_path / "set", split)
        for assembly in source.index["assembly"].tolist():
            where.setdefault(source.assemblies[assembly], set()).add(split)
        if split == "train":
            assert not source.index["train_overlap"].any()
    assert len(where) == 4
    assert all(len(splits) == 1 for splits in where.values())
    assert set().union(*where.values()) == {"train", "validation"}
    assert info["leakage"]["validation"]["kmers"] > 0


def test_train_overlap_is_the_fraction_found_in_training(tmp_path):
    rng = np.random.default_rng(0)
    gene = bases.decode(rng.integers(0, 4, 300).astype(np.uint8))
    other = bases.decode(rng.integers(0, 4, 300).astype(np.uint8))
    one = write(tmp_path / "one.gb", record_text([("gene", "1..300", {})], gene).replace("TEST", "ONE"))
    held = record_text([("gene", "1..200", {}), ("gene", "201..400", {})], gene[:200] + other[:200])
    two = write(tmp_path / "two.gb", held.replace("TEST", "TWO"))
    inputs = [Input(None, one, split="train"), Input(None, two, split="validation")]
    info = builder.build(inputs, tmp_path / "set")
    assert RegionSource(tmp_path / "set", "validation").index["train_overlap"].tolist() == [1.0, 0.0]
    assert info["leakage"]["validation"]["near_copies"] == {"regions": 1, "bases": 200}
    assert info["leakage"]["validation"]["fraction_in_training"] == 0.5
    # By cluster, the held-out copy of a training gene is dropped.
    info = builder.build(inputs, tmp_path / "clusters", split_by="cluster")
    assert RegionSource(tmp_path / "clusters", "validation").index["length"].tolist() == [200]
    assert info["ledger"]["regions"]["dropped"] == {merge.LINK: {"count": 1, "bases": 200}}
    assert info["leakage"]["validation"]["fraction_in_training"] == 0


@pytest.mark.slow
def test_e_coli(tmp_path):
    path = data_path("genomes", "prokaryote", "ecoli_K12_MG1655_NC_000913.3.gbk.gz")
    info = builder.build([path], tmp_path / "set")
    assert sum(facts["regions"] for facts in info["splits"].values()) == 4498
    assert sum(facts["bases"] for facts in info["splits"].values()) == 4_179_571
    fraction = info["splits"]["validation"]["bases"] / 4_179_571
    assert 0.03 < fraction < 0.07


def test_folder_of_another_program_is_not_changed(tmp_path):
    (tmp_path / "set.partial").mkdir()
    (tmp_path / "set.partial" / "mine").write_text("x")
    with raises(FileError, file="set.partial", remedy="move it away"):
        builder.build(INPUTS[:1], tmp_path / "set")
    assert [path.name for path in tmp_path.rglob("*")] == ["set.partial", "mine"]


def test_finished_inputs_are_kept_after_a_contradiction(tmp_path):
    gene = [("gene", "1..6", {})]
    one = write(tmp_path / "one.gb", record_text(gene))
    other = write(tmp_path / "other.gb", record_text(gene, "ttttttttttt"))
    with raises(MismatchError, record="TEST.1") as caught:
        builder.build([one, other], tmp_path / "set")
    assert ": 2 finished inputs; run it again" in caught.value.remedy
    builder.build([one], tmp_path / "set")
    assert not (tmp_path / "set.partial").exists()


def test_warns_if_nothing_is_left_to_train_on(tmp_path, capsys):
    info = builder.build(INPUTS[:1], tmp_path / "set", validation_fraction=0.9, split_by="contig", seed=3)
    assert info["splits"]["train"]["regions"] == 0
    assert info["leakage"] == {}
    assert "warning: all regions are held out, none is left to train on" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "remedies"),
    [
        ([], ["--max_length", "--seed"]),
        (["--max_length", "1000"], []),
        (["--seed", "2"], []),
        (["--max_length", "1000", "--split_by", "contig"], ["--split_by group"]),
        (["--validation_fraction", "0"], []),
    ],
)
def test_warns_if_a_requested_split_is_empty(options, remedies, tmp_path, capsys):
    """Each remedy alone helps: the whole records of one genome in few chunks are all in training."""
    arguments = ["--scheme", "whole", "--validation_fraction", "0.2", "--workers", "1", "--json", *options]
    assert build.main(["--input", str(INPUTS[0]), "--output", str(tmp_path / "set"), *arguments]) == 0
    out, err = capsys.readouterr()
    regions = json.loads(out)["splits"]["validation"]["regions"]
    warned = [line for line in err.splitlines() if line.startswith("warning: no region is held out for validation")]
    assert bool(warned) == bool(remedies)
    assert (regions == 0) == (bool(remedies) or "0" in options)
    assert all(remedy in warned[0] for remedy in remedies)


@pytest.mark.parametrize(("last", "warns"), [(9, False), (10, True)])
def test_warns_if_the_regions_exceed_the_genome_twice(last, warns, tmp_path, capsys):
    """As when IDs that several loci share become one region over everything between."""
    genes = [("gene", location, {}) for location in ("1..9", "complement(3..4)", f"2..{last}", "1..1")]
    builder.build([write(tmp_path / "a.gb", record_text(genes))], tmp_path / "set", validation_fraction=0)
    expected = f"warning: {tmp_path / 'a.gb'}: its regions have 21 bases, more than twice its sequences' 10\n"
    assert (expected in capsys.readouterr().err) == warns


def test_train_overlap_is_nan_if_not_measured(tmp_path):
    builder.build(INPUTS, tmp_path / "set", validation_fraction=0.3, measure_leakage=False)
    assert np.isnan(RegionSource(tmp_path / "set", "validation").index["train_overlap"]).all()
    builder.build(INPUTS, tmp_path / "other", validation_fraction=0.3)
    for split in ("train", "validation"):
        assert not np.isnan(RegionSource(tmp_path / "other", split).index["train_overlap"]).any()


def test_wrong_inputs(tmp_path):
    with raises(ArgumentError, field="inputs"):
        builder.build(str(INPUTS[0]), tmp_path / "set")
    fasta = write(tmp_path / "a.fa", ">A.1\nACGT\n")
    with raises(PairingError, file=fasta):
        builder.build([Input(fasta, None)], tmp_path / "set")
    twice = builder.build([Input(None, INPUTS[0])] * 2, tmp_path / "set")
    assert len(twice["inputs"]) == 1


def test_workers_exit_when_the_build_is_killed(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import sys, time\nfrom data_pipeline import build\nfrom data_pipeline.dataset import spill\n"
        "if __name__ == '__mp_main__':\n    spill.write = lambda *a: (print('working', flush=True), time.sleep(600))\n"
        "if __name__ == '__main__':\n    sys.exit(build.main(sys.argv[1:]))"
    )
    process = subprocess.Popen(
        [sys.executable, script, "--input", *INPUTS, "--output", tmp_path / "set", "--workers", "2"],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert process.stdout.readline() == b"working\n"
    process.kill()
    # The workers hold the pipe too, so it ends when the last of them exits.
    reader = threading.Thread(target=process.stdout.read, daemon=True)
    reader.start()
    reader.join(30)
    assert not reader.is_alive()
    process.wait()


@pytest.mark.slow
def test_killed_at_any_moment(tmp_path):
    """Kills a build, its whole process group or its parent alone, at random moments, GENER_JAX_KILLS times."""
    rng = np.random.default_rng(0)
    inputs = []
    for number in range(12):  # the records of the fixtures under other names
        path = INPUTS[number % len(INPUTS)]
        text = gzip.decompress(path.read_bytes())
        accession = text.split(b"VERSION", 1)[1].split()[0]
        inputs.append(write(tmp_path / f"{number}.gbk", text.replace(accession, b"R%d.1" % number)))
    options = ["--workers", "2", "--split_by", "cluster", "--duplicates", "keep", "--validation_fraction", "0.2"]
    began = time.perf_counter()
    done = command("--input", *inputs, "--output", tmp_path / "whole", *options)
    took = time.perf_counter() - began
    assert done.returncode == 0, done.stderr
    kills, finished = int(os.environ.get("GENER_JAX_KILLS", "4")), 0
    for number in range(kills):
        process = subprocess.Popen(
            [sys.executable, "-m", "data_pipeline.build", "--input", *inputs, "--output", tmp_path / "set", *options],
            cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        time.sleep(rng.uniform(0.2, 1) * took)
        if process.poll() is not None:
            assert process.returncode == 0
            assert files(tmp_path / "set") == files(tmp_path / "whole")
            shutil.rmtree(tmp_path / "set")
            finished += 1
        elif number % 2:
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
        process.wait()
    done = command("--input", *inputs, "--output", tmp_path / "set", *options)
    assert done.returncode == 0, done.stderr
    assert files(tmp_path / "set") == files(tmp_path / "whole")
    assert finished < kills
    assert not (tmp_path / "set.partial").exists()


@pytest.mark.slow
def test_protein_family_is_selected_by_product(tmp_path):
    folder = data_path("genomes", "prokaryote")
    family = gzip.decompress(data_path("protein_families", "ribosomal_protein_prok_cds.fa.gz").read_bytes()).decode()
    expected = {"".join(entry.split("\n")[1:]).upper() for entry in family.split(">")[1:]}
    scheme = Scheme("cds", product="ribosomal (subunit )?protein")
    builder.build([folder], tmp_path / "set", scheme=scheme, duplicates="all", validation_fraction=0, taxon="bct")
    source = RegionSource(tmp_path / "set", "train")
    found = {bases.decode(source.read(i, 0, int(length))) for i, length in enumerate(source.index["length"])}
    assert len(expected) == 264
    assert expected <= found
    assert len(found) < 300
