"""Sequence recovery can be passed and failed; prompts are the protocol's; continuations are those of a plain loop."""

import dataclasses

import numpy as np
import pytest

import gener_jax
from data_pipeline.sequence import bases
from gener_jax.assets import TINY
from gener_jax.tasks import coding_sequences
from gener_jax.tasks.base import NotRun, Options
from gener_jax.tasks.sequence_recovery import OwnRows, PublishedRows, equal_by_length, rightmost, rows_of
from tests import planted_genome
from tests.planted_genome import reverse_complement
from tests.raised import raises

BOTH = ("accuracy", "accuracy_base")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("planted")


@pytest.fixture(scope="module")
def planted(folder):
    found = [planted_genome.write(folder, name, contigs=8, genes=4, seed=i) for i, name in enumerate(("one", "two"))]
    sources = [source._replace(division=group) for (source, *_), group in zip(found, ("fungi", "plant"), strict=True)]
    return sources, "|".join(text for _, contigs, _ in found for own in contigs.values()
                             for text in (own, reverse_complement(own)))  # fmt: skip


class Continues:
    """A model that continues a prompt by a function of it, the number of bases and the mode."""

    k = 6

    def __init__(self, of, max_bases=None):
        self.of, self.max_bases, self.seen = of, max_bases, []

    def generate(self, prompts, num_bases, *, temperature, mode):
        assert temperature == 0
        self.seen += prompts
        return [self.of(prompt, num_bases, mode) for prompt in prompts]


def true(text):
    def of(prompt, number, mode="token"):
        at = text.index(prompt) + len(prompt)
        return text[at : at + number]

    return of


def wrong(text):
    return text.translate(str.maketrans("ACGT", "CGTA"))


def test_the_metric_can_be_passed_and_failed(folder, planted):
    sources, text = planted
    follows, rng = true(text), np.random.default_rng(0)

    def run(of):
        return OwnRows(Options(folder), sources=sources)(Continues(of, 2000))

    oracle = run(follows)
    assert set(oracle.metrics) == {*BOTH, "group_accuracy", "group_accuracy_base", "accuracy_fungi", "accuracy_plant"}
    assert set(oracle.metrics.values()) == {1}
    assert oracle.counts["prompts"] == len(oracle.predictions["gene"]) == 32
    assert sum(n for name, n in oracle.counts.items() if name.startswith("left out")) == 32
    assert oracle.intervals["accuracy"] == (1, 1)
    assert oracle.intervals["accuracy_fungi"] is None  # 16 genes
    adversary = run(lambda *arguments: wrong(follows(*arguments)))
    assert set(adversary.metrics.values()) == {0}
    one_mode = run(lambda *x: follows(*x) if x[-1] == "base" else wrong(follows(*x)))
    assert [one_mode.metrics[name] for name in BOTH] == [0, 1]
    random = run(lambda prompt, number, mode: "".join(rng.choice(list("ACGT"), number)))
    assert abs(random.metrics["accuracy"] - 0.25) < 0.06  # four standard errors of 960 bases
    assert random.breakdown["group"]["fungi"]["prompts"] == random.breakdown["species"]["two"]["prompts"] == 16
    groups = [row["accuracy"] for row in random.breakdown["group"].values()]
    assert random.metrics["group_accuracy"] == pytest.approx(np.mean(groups))
    gains = random.baselines["markov_5"]
    assert gains["accuracy_gain"] == pytest.approx(random.metrics["accuracy"] - gains["accuracy"])


def test_prompts_are_the_rightmost_whole_tokens(folder, planted):
    sources, text = planted
    for most, longest in ((None, 6144), (1000, 970)):
        model = Continues(true(text), most)
        found = OwnRows(Options(folder, rows=20), sources=sources)(model)
        assert len(model.seen) == 2 * 20
        assert {len(prompt) % 6 for prompt in model.seen} == {0}
        assert max(map(len, model.seen)) <= longest == found.counts["context"]
        assert min(map(len, model.seen)) >= 600
        for prompt, truth in zip(model.seen, found.predictions["truth"], strict=False):
            assert prompt + truth in text
    assert rightmost(np.arange(20), 15, 6).tolist() == list(range(8, 20))
    assert len(rightmost(np.arange(5), 15, 6)) == 0
    with raises(NotRun):
        OwnRows(Options(folder), sources=sources)(Continues(true(text), 59))
    with raises(NotRun):
        OwnRows(Options(None))


def test_accuracy_by_length(folder, planted):
    """A model that knows the first 60 bases; the longest continuation takes at most half of what it can hold."""
    sources, text = planted
    follows = true(text)

    def forgets(prompt, number, mode):
        whole = follows(prompt, number)
        return whole[:60] + wrong(whole[60:])

    task = OwnRows(Options(folder), "recovery_by_length", (240, 30, 60, 120, 480), sources, per_species=4)
    found = task(Continues(forgets, 500))
    by_length = {length: row["accuracy"] for length, row in found.breakdown["bases generated"].items()}
    assert by_length == {"30": 1, "60": 1, "120": 0.5, "240": 0.25}
    assert found.metrics["accuracy"] == 1
    assert found.counts["context"] == 260
    # A continuation that is too short is wrong where it has no bases.
    assert equal_by_length([np.zeros(3, int)], [np.zeros(6, int)], [3, 6]).tolist() == [[1, 0.5]]


def test_baselines_know_what_was_planted(tmp_path):
    """A genome that repeats: a Markov model continues it, and so does a copy of a whole period."""
    source, sequences, _ = planted_genome.write(tmp_path, contigs=2, genes=4)
    period = "TCGCCTGATACGAGTCGGTTATCTTCGGAT"
    strands = (period * 2, reverse_complement(period * 2))
    assert len({text[i : i + 5] for text in strands for i in range(30)}) == 60  # so five bases tell the next one
    fasta = tmp_path / source.files[0][1]
    fasta.write_text("".join(f">{name}\n{period * (len(text) // 30)}\n" for name, text in sequences.items()))
    found = OwnRows(Options(tmp_path), sources=[source])(Continues(lambda prompt, number, mode: "A" * number))
    assert found.baselines["markov_5"]["accuracy"] == found.baselines["copy_of_preceding"]["accuracy"] == 1
    assert found.baselines["markov_1"]["accuracy"] < 0.7
    assert 0.1 < found.baselines["most_frequent_base"]["accuracy"] < 0.5


def test_unknown_bases_bound_prompt_and_truth(folder, planted):
    sources, _ = planted
    genes, _ = coding_sequences.read(Options(folder), sources)
    whole, _, _ = rows_of(genes, 30, 100, seed=0)
    masked = []
    for gene in genes:
        contig = gene.contig.copy()
        contig[::1000] = bases.N
        masked.append(dataclasses.replace(gene, contig=contig))
    rows, _, left_out = rows_of(masked, 30, 100, seed=0)
    assert left_out["fewer than 600 known bases before"] > 10
    assert 0 < len(rows) < len(whole) == 32
    for row in rows:
        assert 600 <= len(row.context) < 1000
        assert len(row.truth) == 30
        assert (row.context < 4).all()
        assert (row.truth < 4).all()


def test_the_public_file_is_read(tmp_path):
    """Columns of GENERator's set; beyond the label the end of the sequence is asked for."""
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow

    rng = np.random.default_rng(0)
    texts = ["".join(rng.choice(list("ACGT"), 7000)) for _ in range(40)]
    columns = {
        "sequence": [text[:6500] for text in texts],
        "label": [text[6500:6628] for text in texts],
        "type": ["fungi", "vertebrate_mammalian"] * 20,
    }
    with raises(NotRun):
        PublishedRows(Options(tmp_path), "eukaryote")
    place = tmp_path / "sequence-recovery" / "eukaryote"
    place.mkdir(parents=True)
    parquet.write_table(pyarrow.table(columns), place / "test.parquet")
    model = Continues(true("|".join(texts)))
    found = PublishedRows(Options(tmp_path), "eukaryote")(model)
    assert set(found.metrics.values()) == {1}
    assert {len(prompt) for prompt in model.seen} == {6144}
    assert all(row.comparable for row in found.published)
    assert {row.metric for row in found.published} == {*BOTH, "accuracy_fungi", "accuracy_vertebrate_mammalian"}
    longer = Continues(true("|".join(texts)))
    found = PublishedRows(Options(tmp_path), "eukaryote", (30, 240))(longer)
    assert found.metrics["accuracy"] == 1
    assert all("|".join(texts).index(prompt) % 7001 + len(prompt) == 6260 for prompt in longer.seen)
    assert not any(row.comparable for row in found.published)


@pytest.mark.slow  # a program of tiny, and a loop without a cache
@pytest.mark.filterwarnings("ignore")  # of transformers
def test_continuations_are_those_of_a_plain_loop(folder, planted):
    for package in ("torch", "transformers"):
        pytest.importorskip(package)
    from tests import torch_evaluation as peer

    sources, text = planted
    found = OwnRows(Options(folder, rows=3), sources=sources)(gener_jax.load("tiny")).predictions
    model = peer.load(TINY)
    for row, truth in enumerate(found["truth"]):
        assert text.count(truth) == 1
        before = text[: text.index(truth)].rpartition("|")[2][-3030:]  # all that the model can hold with 30 bases
        assert found["generated_token"][row] == peer.recovery(model, before, 5)
        assert found["generated_base"][row] == peer.recovery_of_bases(model, before, 5)
