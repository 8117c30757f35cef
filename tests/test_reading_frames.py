import numpy as np
import pytest

from data_pipeline.sequence import bases
from gener_jax.tasks.reading_frames import cut_like, longest_open_frame, mean_open_frame, shuffled

STANDARD = ("TAA", "TAG", "TGA")


def plain(sequence, stops):
    longest = 0
    for frame in range(3):
        run = 0
        for i in range(frame, len(sequence) - 2, 3):
            run = 0 if sequence[i : i + 3] in stops else run + 1
            longest = max(longest, run)
    return longest


@pytest.mark.parametrize("stops", [STANDARD, ("TAA", "TAG"), ()])
def test_as_a_plain_loop(stops):
    generator = np.random.default_rng(0)
    for length in [*range(12), 50, 301, 1000]:
        for letters in ("ACGT", "ACGTN", "TAG", "TA"):
            sequence = "".join(generator.choice(list(letters), length))
            assert longest_open_frame(bases.encode(sequence), stops) == plain(sequence, stops), sequence


def test_known_frames():
    assert longest_open_frame(bases.encode("ATGAAATAA"), STANDARD) == 2  # 0: ATG AAA, stop; 1: TGA AAT; 2: GAA ATA
    assert longest_open_frame(bases.encode("TAATAATAA"), STANDARD) == 2  # 1 and 2: AAT AAT, ATA ATA
    assert longest_open_frame(bases.encode("TGATGA"), ("TAA", "TAG")) == 2  # TGA is tryptophan in code 4
    assert longest_open_frame(bases.encode("TANTAA"), STANDARD) == 1  # an unknown codon is not a stop


def test_means_and_controls():
    gene, stops_everywhere = (bases.encode(s) for s in ("ATG" + "GCT" * 200 + "TAA", "TAGATAGATAG" * 50))
    assert mean_open_frame([gene], STANDARD) == 201.0
    expected = (201 + plain(bases.decode(stops_everywhere), STANDARD)) / 2
    assert mean_open_frame([gene, stops_everywhere], STANDARD) == expected
    assert mean_open_frame([], STANDARD) is None
    assert mean_open_frame([bases.encode("AC")], STANDARD) == 0.0
    controls = shuffled([gene, stops_everywhere], times=5)
    assert len(controls) == 10
    for i, control in enumerate(controls):
        original = gene if i < 5 else stops_everywhere
        assert np.array_equal(np.bincount(control), np.bincount(original))
        assert not np.array_equal(control, original)
    assert all(np.array_equal(a, b) for a, b in zip(controls, shuffled([gene, stops_everywhere], times=5), strict=True))
    assert not np.array_equal(controls[0], shuffled([gene], seed=1)[0])
    assert mean_open_frame(shuffled([bases.encode("A" * 30)]), STANDARD) == 10.0


def test_sequences_are_cut_to_the_lengths_of_others():
    """Genes beside samples after the prompts ATG, and none, whose samples are adjacent."""
    genes, samples = [np.zeros(100, np.uint8)] * 4, [np.zeros(n, np.uint8) for n in (33, 33, 30, 30)]
    assert [len(gene) for gene in cut_like(genes, samples)] == [33, 33, 30, 30]
    assert [len(gene) for gene in cut_like(genes[:2], samples)] == [33, 30]
    assert cut_like([], samples) == []
