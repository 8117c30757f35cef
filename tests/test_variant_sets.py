"""The sets of variants: the real tables as they are, and what the files of those look like that are not here."""

import numpy as np
import pytest

from gener_jax.tasks import variant_sets as sets
from gener_jax.tasks.base import NotRun, Options
from gener_jax.tasks.variant_tables import OUTSIDE
from tests.data import DATA, data_path

# The rows of each real set, those with a target, those outside of the reference, and the positives of its first class.
REAL = {
    "brca1": (2989, 2989, 0, 583),
    "brca1_clinvar": (2989, 275, 0, 155),
    "brca2_sge": (7329, 7159, 0, None),
    "brca2_clinvar": (15709, 6596, 0, None),
    "bard1": (8818, 8818, 62, 1128),
    "mpra": (38556, 38556, 0, None),
    "mpra_deletions": (3168, 3168, 0, None),
}


@pytest.mark.parametrize("name", REAL)
def test_the_real_tables(name):
    spec = next(s for s in sets.SETS if s.name == name)
    data_path(spec.file)
    rows = spec.read(Options(DATA))
    of_set, with_target, outside, positives = REAL[name]
    assert rows.counts["rows_of_set"] == of_set
    assert rows.counts["rows_with_target"] == len(rows.variants) == with_target
    assert rows.counts["reference_mismatches"] == 0
    assert rows.problems.count(OUTSIDE) <= outside
    targets = [spec.target(rows.table, each) for each in (*spec.classes, *spec.values)]
    assert not np.isnan(targets).all(0).any()
    if positives is not None:
        assert (targets[0] == 1).sum() == positives
    for column in (spec.consequence, spec.folds, *spec.groups, *(s.column for s in spec.scores.values())):
        assert not column or len(rows.table.values(column, "column")) == with_target


def test_measured_values_point_the_way_of_their_classes():
    """Loss of function has a higher turned value than what is not."""
    for name, value in (("brca1", 0), ("bard1", 0), ("brca2_sge", 0)):
        spec = next(s for s in sets.SETS if s.name == name)
        data_path(spec.file)
        table = spec.read(Options(DATA, 500)).table
        truth, values = spec.target(table, spec.classes[0]), spec.target(table, spec.values[value])
        assert np.nanmean(values[truth == 1]) > np.nanmean(values[truth == 0])


def test_a_table_of_traitgym_from_its_columns(tmp_path):
    """The loader of what is not here: TraitGym's Parquet, and ClinVar's as GENERator publishes it."""
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    (tmp_path / "human").mkdir()
    (tmp_path / "human/GRCh38.fa").write_text(">1 dna\nACGTACGG\n")
    (tmp_path / "variants").mkdir()
    rows = {
        "chrom": ["1"] * 4,
        "pos": [1, 2, 3, 4],
        "ref": list("ACGT"),
        "alt": ["G", "G", "A", "A"],
        "label": [True, False, False, True],
        "consequence": ["5_prime_UTR_variant"] * 4,
        "match_group": ["5_prime_UTR_variant_0"] * 4,
    }
    parquet.write_table(pa.table(rows), tmp_path / sets.TRAITGYM_MENDELIAN.file)
    parquet.write_table(pa.table({**rows, "label": [1, 0, 0, 1]}), tmp_path / sets.CLINVAR.file)
    for spec in (sets.TRAITGYM_MENDELIAN, sets.CLINVAR):
        found = spec.read(Options(tmp_path))
        assert spec.target(found.table, spec.classes[0]).tolist() == [1, 0, 0, 1]
        assert found.problems == ("",) * 4
        assert [v.start for v in found.variants] == [0, 1, 2, 3]


def test_a_set_without_data_says_how_to_get_them(tmp_path):
    for spec in sets.SETS:
        with pytest.raises(NotRun, match=r"curl|SOURCES"):
            spec.files(Options(tmp_path))


def test_blocks_of_brca2_are_the_same_whatever_rows_are_taken():
    data_path(sets.BRCA2_CLINVAR.file)
    whole, some = (sets.BRCA2_CLINVAR.read(Options(DATA, rows)) for rows in (None, 300))
    of = dict(zip(whole.variants, whole.table.columns["block"], strict=True))
    assert len({*of.values()}) == 21
    assert [of[v] for v in some.variants] == some.table.columns["block"]
