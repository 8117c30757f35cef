import gzip
import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from data_pipeline import bases, build, genbank, regions
from data_pipeline.errors import DataError
from data_pipeline.records import RegionSource
from tests.data import FIXTURES, data_path
from tests.test_genbank import record_text, write
from tests.test_records import StubTokenizer

ROOT = Path(__file__).parents[1]
INPUTS = sorted(FIXTURES.glob("*.gz"))


def command(*arguments, prefix=""):
    """Runs the command in a process of its own; `prefix` is Python to run before it."""
    code = f"import sys\n{prefix}\nfrom data_pipeline import build\nsys.exit(build.main(sys.argv[1:]))"
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, check=False
    )


def region_bases(source):
    """The bases of each region by its place."""
    return {
        (source.accessions[row["accession"]], row["start"], row["end"], row["strand"]): source.read(
            number, 0, int(row["length"])
        )
        for number, row in enumerate(
            {name: column[number].item() for name, column in source.index.items()} for number in range(len(source))
        )
    }


def test_every_region_is_in_one_split_and_reads_back(tmp_path):
    info = build.build(INPUTS, tmp_path / "set", validation_share=0.2, test_share=0.2)
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
        for region in regions.regions(record)
    }
    assert found.keys() == expected.keys()
    assert all((found[key] == expected[key]).all() for key in found)
    assert sum(part["bases"] for part in info["splits"].values()) == sum(map(len, expected.values()))
    assert [(file["file"], file["records"]) for file in info["inputs"]] == [(path.name, 1) for path in INPUTS]
    assert sum(file["bases"] for file in info["inputs"]) == 154478 + 60942 + 5386 + 9609
    assert info["skipped"][regions.DUPLICATE] == {"count": 1, "bases": 114}
    kinds = [part["kinds"] for part in info["splits"].values()]
    assert sum(row["regions"] for part in kinds for row in part.values()) == 130 + 86 + 11 + 10
    assert {taxon for part in info["splits"].values() for taxon in part["taxa"]} == {"plt", "vir", "plm"}


def test_equal_inputs_give_equal_bytes(tmp_path):
    for folder in ("one", "two"):
        build.build(INPUTS, tmp_path / folder, validation_share=0.2)
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert files == sorted(path.name for path in (tmp_path / "two").iterdir())
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes(), file
    other = build.build(INPUTS, tmp_path / "seed", validation_share=0.2, seed=1)
    assert other["digest"] != json.loads((tmp_path / "one" / "dataset.json").read_text())["digest"]


def test_more_input_moves_no_region(tmp_path):
    build.build(INPUTS[:2], tmp_path / "few", validation_share=0.3)
    build.build(INPUTS[::-1], tmp_path / "more", validation_share=0.3)
    for split in ("train", "validation"):
        few, more = (region_bases(RegionSource(tmp_path / name, split)) for name in ("few", "more"))
        assert few.keys() < more.keys()


def test_taxon_override_and_taxon_unknown(tmp_path):
    text = record_text([("gene", "1..6", {})]).replace("Bacteria; Somephylum", "unclassified").replace("BCT", "SYN")
    path = write(tmp_path / "a.gb", text)
    with pytest.raises(DataError, match=r"record TEST\.1: neither its lineage nor its division tells a taxon"):
        build.build([path], tmp_path / "set")
    info = build.build([path], tmp_path / "set", taxon="arc", validation_share=0)
    assert info["splits"]["train"]["taxa"] == {"arc": {"regions": 1, "bases": 6}}
    with pytest.raises(DataError, match="taxon 'cat' is not one of mam vrt"):
        build.build([path], tmp_path / "other", taxon="cat")


def test_a_record_given_twice_counts_once(tmp_path):
    gene = [("gene", "1..6", {})]
    same = write(tmp_path / "same.gb", record_text(gene) * 2)
    info = build.build([same, same], tmp_path / "set", validation_share=0)
    assert info["splits"]["train"]["regions"] == 1
    assert info["skipped"][build.DUPLICATE_RECORD] == {"count": 3, "bases": 30}
    other = write(tmp_path / "other.gb", record_text(gene, "ttttttttttt"))
    with pytest.raises(DataError, match=r"other\.gb: record TEST\.1: it came before with other bases"):
        build.build([same, other], tmp_path / "both")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other.gb", "same.gb", "set"]


def test_records_without_sequence_are_reported_beside_others(tmp_path):
    empty = write(tmp_path / "a.gb", record_text([], length=777, origin=False, name="EMPTY"))
    info = build.build([empty, *INPUTS], tmp_path / "set")
    assert info["skipped"][regions.NO_SEQUENCE] == {"count": 1, "bases": 777}


def test_tokens(tmp_path):
    info = build.build(INPUTS, tmp_path / "set", tokenizer=StubTokenizer())
    assert info["records"] == "tokens"
    plain = build.build(INPUTS, tmp_path / "plain")
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
    tokenizers = pytest.importorskip("data_pipeline.tokenizer")
    done = command("--input", *INPUTS, "--output", tmp_path / "set", "--records", "tokens", "--k", 6)
    assert done.returncode == 0, done.stderr
    source = RegionSource(tmp_path / "set", "train")
    tokenizer = tokenizers.make("kmer", 6, None)
    assert source.info["tokenizer"]["name"] == tokenizer.name == "kmer-6"
    assert source.info["tokenizer"]["digest"] == tokenizer.digest
    build.build(INPUTS, tmp_path / "plain")
    plain = RegionSource(tmp_path / "plain", "train")
    for number, length in enumerate(plain.index["length"].tolist()):
        ids = tokenizer.encode_bases(plain.read(number, 0, length))
        np.testing.assert_array_equal(source.read(number, 0, length // 6), ids)


def test_command(tmp_path):
    done = command("--input", *INPUTS, "--output", tmp_path / "new" / "set")
    assert done.returncode == 0, done.stderr
    [line] = done.stdout.splitlines()
    totals = json.loads(line)
    assert (totals["files"], totals["input_records"], totals["regions"], totals["region_bases"]) == (4, 4, 237, 179853)
    assert totals["skipped"] == {"duplicate regions": {"count": 1, "bases": 114}}
    assert totals["splits"]["train"]["regions"] + totals["splits"]["validation"]["regions"] == 237
    assert len(done.stderr.splitlines()) == len(INPUTS)
    assert RegionSource(tmp_path / "new" / "set", "train").digest == totals["digest"]


def test_help():
    done = command("--help")
    assert done.returncode == 0
    assert "--validation_share" in done.stdout


TEXT = record_text([("gene", "1..6", {})])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty file"),
        (gzip.compress(TEXT.encode() * 400)[:-30], "truncated gzip"),
        (record_text([("gene", "1..6", {})], origin=False), "no gene region in bad.gb; skipped: 1 records without seq"),
        (record_text([]), "no gene region in bad.gb; skipped: nothing"),
        (TEXT + "more", "not a GenBank flat file"),
        ("@SQ rubbish\n", "not a GenBank flat file"),
        (TEXT[:-3], "the file ends before the record's `//`"),
        (None, "no such file"),
    ],
)
def test_bad_input_leaves_nothing(tmp_path, capsys, content, words):
    path = tmp_path / "bad.gb"
    if content is not None:
        write(path, content)
    before = sorted(tmp_path.iterdir())
    # A good file first: its regions are already written when the bad one is met.
    good = [] if "no gene region" in words else [str(INPUTS[0])]
    assert build.main(["--input", *good, str(path), "--output", str(tmp_path / "new" / "set")]) == 1
    out, err = capsys.readouterr()
    lines = [line for line in err.splitlines() if not line.startswith((str(INPUTS[0]), f"{path}: 1 records"))]
    assert out == ""
    assert len(lines) == 1
    assert lines[0].startswith("build: error: ")
    assert words in lines[0]
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--validation_share", "1.5"], "validation_share 1.5 is not a share"),
        (["--validation_share", "0.6", "--test_share", "0.6"], "leave nothing to train on"),
        (["--records", "tokens", "--tokenizer", "kmer", "--k", "99"], "k is 99"),
    ],
)
def test_bad_arguments(tmp_path, capsys, arguments, words):
    pytest.importorskip("data_pipeline.tokenizer")
    assert build.main(["--input", str(INPUTS[0]), "--output", str(tmp_path / "new" / "set"), *arguments]) == 1
    err = capsys.readouterr().err
    assert words in err
    assert len(err.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_an_existing_output_is_left_alone(tmp_path, capsys):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "mine").write_text("x")
    assert build.main(["--input", str(INPUTS[0]), "--output", str(tmp_path / "set")]) == 1
    assert "exists already; remove it or choose another output" in capsys.readouterr().err
    assert [path.name for path in tmp_path.rglob("*")] == ["set", "mine"]


@pytest.mark.parametrize("limit", [2000, 40_000, 132_000])
def test_full_disk(tmp_path, limit):
    # Enough bases that a shard passes the last limit, which its index and dataset.json do not reach.
    rng = np.random.default_rng(0)
    sequence = bases.decode(rng.integers(0, 4, 900_000).astype(np.uint8))
    path = write(tmp_path / "a.gb", record_text([("gene", "1..900000", {})], sequence))
    prefix = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))"
    done = command("--input", path, "--output", tmp_path / "set", "--validation_share", 0, prefix=prefix)
    assert done.returncode == 1
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len([line for line in lines if "build: error: " in line]) == 1, lines
    assert "File too large" in lines[-1]
    assert len(lines) <= 2  # the other is the line of progress
    assert [file.name for file in tmp_path.iterdir()] == ["a.gb"]


def test_full_disk_at_the_index(tmp_path):
    genes = [("gene", f"{at}..{at + 5}", {}) for at in range(1, 3000)]
    path = write(tmp_path / "a.gb", record_text(genes, "acgt" * 1000))
    prefix = (
        "import resource, numpy as np\nsave = np.savez\n"
        "def limited(*a, **k):\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))\n    save(*a, **k)\n"
        "np.savez = limited"
    )
    done = command("--input", path, "--output", tmp_path / "set", "--validation_share", 0, prefix=prefix)
    assert done.returncode == 1
    assert "File too large" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert [file.name for file in tmp_path.iterdir()] == ["a.gb"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interruption_leaves_nothing(tmp_path, number):
    code = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, signal.default_int_handler)\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's background job ignores it
        "from data_pipeline import build, genbank\n"
        "read = genbank.read\n"
        "def slow(*arguments):\n"
        "    yield from read(*arguments)\n"
        "    print('waiting', flush=True)\n"
        "    time.sleep(600)\n"
        "genbank.read = slow\n"
        f"sys.exit(build.main(['--input', '{INPUTS[0]}', '--output', '{tmp_path / 'set'}']))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "waiting\n"
    assert len(list(tmp_path.glob("set.partial-*"))) == 1
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.splitlines()[-1] == "build: interrupted; nothing was written"
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_e_coli(tmp_path):
    path = data_path("genomes", "prokaryote", "ecoli_K12_MG1655_NC_000913.3.gbk.gz")
    info = build.build([path], tmp_path / "set")
    assert sum(part["regions"] for part in info["splits"].values()) == 4498
    assert sum(part["bases"] for part in info["splits"].values()) == 4_179_571
    share = info["splits"]["validation"]["bases"] / 4_179_571
    assert 0.03 < share < 0.07
