"""The table of a dataset's regions, against direct counting of bases."""

import collections
import json
import re

import numpy as np
import pytest

from data_pipeline.dataset import builder, report
from data_pipeline.dataset.reader import COMPOSITION, RegionSource
from tests.data import FIXTURES
from tests.test_inspect import directly
from tests.test_reader import StubTokenizer


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report") / "set"
    builder.build(sorted(FIXTURES.glob("*.gb*.gz")), folder, validation_fraction=0.2, test_fraction=0.1)
    return folder


def test_totals_equal_direct_counting(dataset):
    lines = report.whole(dataset)
    assert re.fullmatch(rf"{dataset}: bases, scheme gene, digest [0-9a-f]{{12}}, 4 sequences", lines[0])
    table = [re.split(r" {2,}", line.strip()) for line in lines[1 : lines.index(next(x for x in lines if "all" in x))]]
    assert table[0] == ["split", "taxon", "kind", *report.COLUMNS]
    expected = collections.defaultdict(list)
    for region in directly():
        expected[region.taxon, region.kind].append(region)
    found = collections.defaultdict(lambda: [0, 0, []])
    for _, taxon, kind, *values in table[1:]:
        count, total, least, mean, most, n50, gc, unknown, masked = (float(x.replace(",", "")) for x in values)
        assert abs(total / count - mean) < 0.06
        assert least <= n50 <= most
        row = found[taxon, kind]
        row[0], row[1] = row[0] + count, row[1] + total
        row[2].append((least, most, gc * total / 100))
        assert (unknown, masked) == (0, 0)
    assert found.keys() == expected.keys()
    for key, mine in expected.items():
        lengths = [len(region.codes) for region in mine]
        count, total, rows_ = found[key]
        assert (count, total) == (len(mine), sum(lengths))
        assert (min(row[0] for row in rows_), max(row[1] for row in rows_)) == (min(lengths), max(lengths))
        gc = sum(int(np.isin(region.codes, (2, 3)).sum()) for region in mine)
        assert abs(sum(row[2] for row in rows_) - gc) < 0.0001 * total
    [whole] = [line.split() for line in lines if line.startswith("all ")]
    lengths = sorted((len(region.codes) for region in directly()), reverse=True)
    half = next(length for at, length in enumerate(lengths) if 2 * sum(lengths[: at + 1]) >= sum(lengths))
    assert whole[1:3] == [f"{len(lengths):,}", f"{sum(lengths):,}"]
    assert whole[6] == f"{half:,}"
    assert "records read: 4 (230,415 bases)" in lines
    assert "regions found: 238 (179,967 bases)" in lines
    assert "  dropped, duplicate locations: 1 (114 bases)" in lines
    assert "regions kept: 237 (179,853 bases)" in lines
    assert sum(line.startswith(("validation: ", "test: ")) for line in lines) == 2


@pytest.mark.parametrize("tokenizer", [None, StubTokenizer()])
def test_composition_of_each_region(tmp_path, tokenizer):
    text = "ACGTNNNNacgtnAAACCCGGGTTTgg" * 40
    (tmp_path / "a.fa").write_text(f">s\n{text}\n")
    places = [(1, 1), (2, 8), (5, 7), (9, 40), (30, 1000), (1000, 1078)]
    rows = (f"s\tx\tgene\t{start}\t{end}\t.\t-\t.\tID=g{start}\n" for start, end in places)
    (tmp_path / "a.gff").write_text("".join(rows))
    builder.build([tmp_path / "a.fa"], tmp_path / "set", tokenizer=tokenizer, validation_fraction=0)
    source = RegionSource(tmp_path / "set", "train")
    expected = []
    for start, end in places:
        piece = text[start - 1 : end]
        gc, unknown = (sum(map(piece.upper().count, letters)) for letters in ("GC", "N"))
        expected.append([gc, unknown, sum(map(str.islower, piece))])
    assert source.composition().tolist() == expected


def test_dataset_without_composition_has_dashes(dataset, tmp_path):
    """As one built before it was stored."""
    for path in dataset.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    whole = report.totals([(source := RegionSource(dataset, "train"), np.arange(len(source)))])
    path = tmp_path / "train.index.npz"
    with np.load(path) as arrays:
        kept = {name: arrays[name] for name in arrays if name not in COMPOSITION}
    np.savez(path, **kept)
    source.info["splits"]["train"]["index"]["bytes"] = path.stat().st_size
    (tmp_path / "dataset.json").write_text(json.dumps(source.info))
    table = report.totals([(source := RegionSource(tmp_path, "train"), np.arange(len(source)))])
    assert [line.split()[:-3] for line in table] == [line.split()[:-3] for line in whole]
    assert all(line.split()[-3:] == ["-"] * 3 for line in table[1:])
