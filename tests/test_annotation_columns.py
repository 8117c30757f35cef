"""Values of bigWig files at variants: substitutions, insertions, deletions; files by base; what is not there."""

import numpy as np
import pytest

from gener_jax.inference.variants.variant import Variant
from gener_jax.storage import tracks
from gener_jax.tasks import annotation_columns
from gener_jax.tasks.annotation_columns import Track
from gener_jax.tasks.base import NotRun, Options

PLACE = Track("place", "tracks/place.bw", "https://example.org/place.bw")
BASE = Track("base", "tracks/base_{alt}.bw", "https://example.org/{alt}.bw")
VARIANTS = [
    Variant("17", 101, "C", "T"),  # 0-based; the contig is chr17 in the file
    Variant("17", 100, "AC", "AT"),  # the same, written longer
    Variant("chr17", 102, "GTA", "G"),  # deletes 103 and 104
    Variant("chr17", 102, "G", "GCC"),  # inserts between 102 and 103
    Variant("chr17", 101, "CG", "TA"),  # replaces 101 and 102
    Variant("chr17", 150, "A", "G"),  # no value there
    Variant("chr2", 101, "C", "T"),  # not in the file
]


def write(path, values):
    """A bigWig of chr17 with these values from base 100 on, 0-based."""
    path.parent.mkdir(exist_ok=True)
    path.with_suffix(".bedgraph").write_text(tracks.bedgraph("chr17", 100, np.array(values)))
    tracks.write_bigwig(path.with_suffix(".bedgraph"), path, {"chr17": 1000})


def test_the_value_at_a_variant_is_that_of_its_bases(tmp_path):
    write(tmp_path / PLACE.file, [0.5, 1.0, 3.0, -2.0, 6.0])
    found = annotation_columns.at(PLACE, VARIANTS, Options(tmp_path))
    np.testing.assert_array_equal(found, [1.0, 1.0, 2.0, 0.5, 2.0, np.nan, np.nan])


def test_a_track_by_base_has_values_of_substitutions_of_one_base_only(tmp_path):
    for number, base in enumerate("acgt"):
        write(tmp_path / BASE.file.format(alt=base), np.arange(60) + 100 * number)
    found = annotation_columns.at(BASE, VARIANTS, Options(tmp_path))
    np.testing.assert_array_equal(found, [301, 301, *[np.nan] * 3, 250, np.nan])
    (tmp_path / BASE.file.format(alt="g")).unlink()
    with pytest.raises(NotRun, match=r"https://example.org/g.bw"):
        annotation_columns.at(BASE, VARIANTS, Options(tmp_path))


def test_what_is_not_there_is_not_run_with_its_address(tmp_path, monkeypatch):
    monkeypatch.setattr(annotation_columns, "TRACKS", (PLACE, BASE, Track("own", "x.bw", "")))
    write(tmp_path / PLACE.file, [0.5, 1.0, 3.0, -2.0, 6.0])
    found, missing = annotation_columns.scores(VARIANTS, Options(tmp_path), known=("own",))
    assert list(found) == ["place"]
    assert list(missing) == ["base"]
    assert missing["base"].startswith("not run here: ")
    assert missing["base"].endswith("from https://example.org/a.bw")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    found, missing = annotation_columns.scores(VARIANTS, Options(tmp_path), known=("own",))
    assert (found, list(missing)) == ({}, ["place", "base"])
    assert "[tracks]" in missing["place"]
