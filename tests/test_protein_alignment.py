"""Which amino acids DNA encodes: translation, gaps and stops; exonerate's output with introns; a program that fails."""

import stat

import pytest

from gener_jax.runtime.errors import ConfigError
from gener_jax.tasks import protein_alignment
from gener_jax.tasks.protein_alignment import of_vulgar, spliced, translated
from tests.raised import raises

PROTEIN = "MKVLHWYPEDRNQCGATSIFKWYLHVMRDE"
CODONS = {
    "M": "ATG", "K": "AAA", "V": "GTG", "L": "CTG", "H": "CAT", "W": "TGG", "Y": "TAT", "P": "CCG", "E": "GAA",
    "D": "GAT", "R": "CGT", "N": "AAC", "Q": "CAG", "C": "TGC", "G": "GGC", "A": "GCG", "T": "ACC", "S": "AGC",
    "I": "ATT", "F": "TTC",
}  # fmt: skip


def coding(protein):
    return "".join(CODONS[x] for x in protein)


def test_a_true_translation_is_aligned_whole():
    found = translated(PROTEIN + "*", coding(PROTEIN) + "TAA" + coding("MMM"))
    assert found.index.tolist() == list(range(30))
    assert found.equal.all()
    assert found.ends.tolist() == list(range(3, 93, 3))


def test_changes_insertions_and_deletions_stay_where_they_are():
    found = translated(PROTEIN, coding(PROTEIN[:10] + "G" + PROTEIN[11:]))
    assert (found.index[~found.equal].tolist(), len(found.index)) == ([10], 30)
    found = translated(PROTEIN, coding(PROTEIN[:10] + "GG" + PROTEIN[10:]))
    assert found.equal.all()
    assert (len(found.index), found.ends[10]) == (30, 39)
    found = translated(PROTEIN, coding(PROTEIN[:10] + PROTEIN[13:]))
    assert found.equal.all()
    assert sorted(set(range(30)) - set(found.index.tolist())) == [10, 11, 12]


def test_nothing_is_read_after_a_stop():
    found = translated(PROTEIN, coding(PROTEIN[:12]) + "TGA" + coding(PROTEIN[12:]))
    assert found.index.tolist() == list(range(12))
    assert not len(translated(PROTEIN, "TAA" + coding(PROTEIN)).index)
    assert not len(translated(PROTEIN, "AT").index)


INTRON = "GTAAGT" + "TTTTTTTTTT" * 6 + "TACTAACTTTTTTTTTTCAG"
DNA = "CCCC" + coding(PROTEIN)[:31] + INTRON + coding(PROTEIN)[31:] + "TAA"
# One base of the eleventh codon is before the intron.
VULGAR = "vulgar: protein 0 30 . dna 4 180 + 150 M 10 30 S 0 1 5 0 2 I 0 82 3 0 2 S 1 2 M 19 57"


def test_codons_are_read_across_introns():
    found = of_vulgar(VULGAR, PROTEIN, DNA)
    assert found.index.tolist() == list(range(30))
    assert found.equal.all()
    assert found.ends[[0, 9, 10, 11]].tolist() == [7, 34, 4 + 33 + len(INTRON), 4 + 36 + len(INTRON)]
    wrong = DNA[:10] + "TGG" + DNA[13:]
    assert of_vulgar(VULGAR, PROTEIN, wrong).equal.tolist() == [i != 2 for i in range(30)]


def test_a_gap_moves_no_other_amino_acid():
    found = of_vulgar("vulgar: protein 0 30 . dna 0 87 + 99 M 9 27 G 1 0 M 10 30 G 0 3 M 10 30", PROTEIN,
                      coding(PROTEIN[:9] + PROTEIN[10:20] + "W" + PROTEIN[20:]))  # fmt: skip
    assert found.index.tolist() == [i for i in range(30) if i != 9]
    assert found.equal.all()


@pytest.mark.parametrize("line", ["", VULGAR.replace(" + ", " - ")])
def test_what_is_not_found_on_the_strand_aligns_nothing(line):
    assert not len(of_vulgar(line, PROTEIN, DNA).index)


def program(path, text):
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def test_exonerate_gets_both_sequences(tmp_path):
    name = program(tmp_path / "exonerate", f'for file; do :; done\ngrep -q {DNA} "$file" || exit 3\necho "{VULGAR}"')
    assert spliced(PROTEIN, DNA, name).equal.all()


def test_a_program_that_fails_is_named(tmp_path, monkeypatch):
    name = program(tmp_path / "exonerate", "echo cannot >&2; exit 2")
    with raises(ConfigError) as caught:
        spliced(PROTEIN, DNA, name)
    assert name in str(caught.value)
    assert "cannot" in str(caught.value)
    monkeypatch.setattr(protein_alignment, "_SECONDS", 0.05)
    with raises(ConfigError):
        spliced(PROTEIN, DNA, program(tmp_path / "slow", "exec sleep 9"))
