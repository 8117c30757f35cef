"""Tracks of values per base: bedGraph text, and the bigWig made of it."""

import numpy as np
import pyBigWig

from data_pipeline.errors import FormatError
from gener_jax.storage import tracks
from tests.raised import raises


def test_a_bedgraph_has_no_line_for_a_base_without_a_value():
    text = tracks.bedgraph("chr1", 9, np.array([-1.5, np.nan, -np.inf, 0.25], np.float32))
    assert text == "chr1\t9\t10\t-1.5\nchr1\t12\t13\t0.25\n"
    assert tracks.bedgraph("chr1", 9, np.zeros(0)) == ""


def test_a_bigwig_has_the_values_of_its_bedgraph(tmp_path, monkeypatch):
    monkeypatch.setattr(tracks, "_LINES", 7)
    values = np.random.default_rng(0).normal(size=40).astype(np.float32)
    values[3] = np.nan
    parts = [("b", 5, values[:20]), ("a", 0, values[20:30]), ("a", 30, values[30:])]
    (tmp_path / "t.bedgraph").write_text("".join(tracks.bedgraph(*part) for part in parts))
    tracks.write_bigwig(tmp_path / "t.bedgraph", tmp_path / "t.bw", {"b": 25, "a": 50, "none": 9})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["t.bedgraph", "t.bw"]
    with pyBigWig.open(str(tmp_path / "t.bw")) as file:
        assert file.chroms() == {"b": 25, "a": 50, "none": 9}
        for contig, start, expected in parts:
            found = file.values(contig, start, start + len(expected), numpy=True)
            np.testing.assert_allclose(found, expected, rtol=1e-5)
        assert np.isnan(file.values("a", 10, 30)).all()


def test_the_values_of_a_bigwig_are_found_by_any_name_of_a_contig(tmp_path):
    (tmp_path / "t.bedgraph").write_text(tracks.bedgraph("chr17", 5, np.array([1.5, np.nan, -2.0])))
    tracks.write_bigwig(tmp_path / "t.bedgraph", tmp_path / "t.bw", {"chr17": 10})
    wanted = [("17", 4, 9), ("NC_000017.11", 7, 8), ("chr17", 8, 12), ("chr17", -2, 2), ("chr1", 5, 7), ("chr17", 6, 6)]
    expected = [[np.nan, 1.5, np.nan, -2, np.nan], [-2], [np.nan] * 4, [np.nan] * 4, [np.nan] * 2, []]
    for found, values in zip(tracks.read_bigwig(tmp_path / "t.bw", wanted), expected, strict=True):
        np.testing.assert_array_equal(found, values)
    with raises(FormatError, file=tmp_path / "t.bedgraph"):
        tracks.read_bigwig(tmp_path / "t.bedgraph", wanted)
