"""Gene completion: prompts, an oracle, what stops too soon, random DNA, genes that are not run, the real genes."""

import gzip
import shutil

import numpy as np
import pytest

from data_pipeline.errors import FormatError
from data_pipeline.sequence import bases
from gener_jax.tasks import gene_completion, pairs
from gener_jax.tasks.base import NotRun, Options
from gener_jax.tasks.gene_completion import GeneCompletion
from tests.data import data_path
from tests.raised import raises
from tests.test_protein_alignment import CODONS, program

GENES = ("abc", "def", "ghi", "jkl")


def write(folder, panel, rows, more=""):
    path = folder / "downstream" / "gene_completion" / f"{panel}_genes.csv.gz"
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [",".join(row) for row in rows]
    path.write_bytes(gzip.compress("\n".join([f"gene,genomic_sequence,reference_protein{more}", *lines]).encode()))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Four genes of 40 to 43 codons and a stop, each after 1,200 bases."""
    folder, rng, rows = tmp_path_factory.mktemp("data"), np.random.default_rng(0), []
    for number, gene in enumerate(GENES):
        protein = "M" + "".join(rng.choice(list(CODONS), 39 + number))
        upstream = "".join(rng.choice(list("ACGT"), 1200))
        rows.append((gene, upstream + "".join(CODONS[x] for x in protein) + "TAA", f"{protein}*", "1200"))
    write(folder, "prokaryote", rows, ",cds_start")
    write(folder, "eukaryote", [("euk", "ACGT" * 100, "MKV*")])
    return folder


class Model:
    """Continues a prompt as a function says, of the question and the number of the sample."""

    def __init__(self, task, complete, max_bases=None):
        self.questions = {x.prompt: x for x in task.questions("prokaryote")}
        self.complete, self.max_bases, self.asked = complete, max_bases, []

    def generate(self, prompts, num_bases, *, num_samples, **options):
        self.asked.append((num_bases, num_samples, options))
        [question] = [self.questions[prompt] for prompt in prompts]
        filler = "".join(np.random.default_rng(0).choice(list("ACGT"), num_bases))
        return [(self.complete(question, i) + filler)[:num_bases] for i in range(num_samples)]


def evaluated(data, complete, rows=3, **options):
    task = GeneCompletion(Options(data, rows), exonerate="no-such-exonerate")
    model = Model(task, complete, **options)
    return task(model), model


def test_the_prompt_is_the_upstream_and_a_third_of_the_codons(data):
    question = GeneCompletion(Options(data)).questions("prokaryote")[0]
    assert len(question.prompt) == 1000 + 3 * 12  # 30 % of 41
    assert question.prompt[1000:1003] == "ATG"
    assert (question.first, question.end, question.expected) == (12, 41, 28)
    assert question.num_bases == 3 * (41 - 12) + 150
    assert question.truth.endswith("TAA")


def test_an_oracle_recovers_all_and_its_shuffled_codons_little(data):
    result, model = evaluated(data, lambda question, i: question.truth)
    assert (result.metrics["prokaryote_recovery"], result.metrics["prokaryote_identity"]) == (1, 1)
    assert np.isnan([result.metrics[name] for name in ("eukaryote_recovery", "eukaryote_identity", "identity")]).all()
    assert [options["temperature"] for _, _, options in model.asked] == [0.7] * 4
    assert {options["top_k"] for _, _, options in model.asked} == {4}
    assert result.counts == {"genes": 4, "completions": 12}
    assert list(result.breakdown["gene"]) == list(GENES)
    assert result.breakdown["gene"]["abc"]["standard_error"] == 0
    for baseline in result.baselines.values():
        assert baseline["prokaryote_recovery"] < 0.5
    assert len(result.predictions["completion"]) == len(result.predictions["gene"]) == 12
    assert "exonerate" in result.note
    assert not any(x.comparable for x in result.published)  # three completions, not fifty
    assert result.figures["by_gene"]().axes


def test_a_completion_that_stops_at_once_is_identical_but_recovers_nothing(data):
    result, _ = evaluated(data, lambda question, i: question.truth[:3] + "TAA")
    assert result.metrics["prokaryote_identity"] == 1
    assert result.metrics["prokaryote_recovery"] == pytest.approx(
        np.mean([1 / (28 + n) for n in (0, 0, 1, 2)]), abs=2e-3
    )
    result, _ = evaluated(data, lambda question, i: "TAA" if question.gene == "abc" else question.truth)
    assert np.isnan(result.metrics["prokaryote_identity"])
    assert result.metrics["prokaryote_recovery"] == 3 / 4
    assert result.breakdown["gene"]["abc"]["not_aligned"] == 3


def test_a_figure_is_the_mean_over_genes_of_means_over_completions(data):
    result, _ = evaluated(
        data, lambda question, i: question.truth if question.gene == "abc" or i == 0 else "TAA", rows=10
    )
    assert result.metrics["prokaryote_recovery"] == pytest.approx((1 + 3 * 0.1) / 4)
    low, high = result.intervals["prokaryote_recovery"]
    assert low < result.metrics["prokaryote_recovery"] < high < 1
    assert result.intervals["prokaryote_identity"] is None  # 19 completions have one
    assert result.breakdown["gene"]["def"]["standard_error"] == pytest.approx(0.1)


def test_published_identities_compare_with_all_genes_and_completions(data):
    result, _ = evaluated(data, lambda question, i: "TAA", rows=50)
    found = {x.model: x.value for x in result.published if x.comparable}
    assert found == {"Evo2-1B": 0.6485, "Evo2-7B": 0.7867, "Evo2-20B": 0.9089, "Evo2-40B": 0.9195}
    assert {x.metric for x in result.published if x.comparable} == {"prokaryote_identity"}


def test_two_models_are_compared_on_the_genes_that_both_complete(data):
    whole, _ = evaluated(data, lambda question, i: question.truth, rows=10)
    half, _ = evaluated(data, lambda question, i: question.truth if i % 2 else "TAA", rows=10)
    question = GeneCompletion(Options(data)).questions("prokaryote")[2]
    few, _ = evaluated(data, lambda question, i: "TAA", rows=10, max_bases=len(question.prompt) + question.num_bases)
    tables = [pairs.table_of(x.predictions) for x in (whole, half, few)]
    for result, table in zip((whole, half, few), tables, strict=True):
        pairs.check(result.paired, table)
    gain, rows = pairs.gain(whole.paired, *tables[:2])
    assert (gain.gain, rows) == (0.5, 40)
    assert gain.low < 0.5 < gain.high
    assert pairs.gain(whole.paired, tables[0], tables[2])[1] == few.counts["completions"] < 40


def test_random_dna_recovers_little_and_its_identity_is_larger(data):
    def complete(question, i):
        return "".join(np.random.default_rng(i).choice(list("ACGT"), question.num_bases))

    result, _ = evaluated(data, complete, rows=20)
    assert result.metrics["prokaryote_recovery"] < 0.15
    assert result.metrics["prokaryote_identity"] > result.metrics["prokaryote_recovery"] + 0.05


def test_genes_that_exceed_the_context_are_named(data):
    lengths = [len(x.prompt) + x.num_bases for x in GeneCompletion(Options(data)).questions("prokaryote")]
    assert lengths == sorted(lengths)
    result, model = evaluated(data, lambda question, i: question.truth, max_bases=lengths[1])
    assert list(result.breakdown["gene"]) == [g for g, n in zip(GENES, lengths, strict=True) if n <= lengths[1]]
    assert "jkl" in result.note
    assert not any(x.comparable for x in result.published)
    assert len(model.asked) == result.counts["genes"] < 4
    with raises(NotRun):
        evaluated(data, lambda question, i: "", max_bases=lengths[0] - 1)
    with raises(NotRun):
        GeneCompletion(Options(data / "downstream"))


def test_what_is_wrong_with_the_file_is_named(data, tmp_path):
    write(tmp_path, "eukaryote", [("euk", "ACGT" * 100, "MKV*")])
    for rows, more, where in (
        ([("abc", "ACGT" * 10, "MKV*", "40")], ",cds_start", {"line": 2, "field": "cds_start", "value": "40"}),
        ([("abc", "ACGT" * 10, "MKV*", "1")], ",start", {"value": "cds_start"}),
    ):
        write(tmp_path, "prokaryote", rows, more)
        with raises(FormatError, file="prokaryote_genes.csv.gz", **where):
            GeneCompletion(Options(tmp_path)).questions("prokaryote")


EXONS = "ATG" + "GCA" * 30, "TGG" + "CCA" * 20  # 31 and 21 codons
INTRON = "GTAAGT" + "T" * 50 + "CAG"
WINDOW = "ACGTTGCATC" * 20 + EXONS[0] + INTRON + EXONS[1]
SPLICED = f"vulgar: p 0 52 . d 200 {len(WINDOW)} + 250 M 31 93 5 0 2 I 0 {len(INTRON) - 4} 3 0 2 M 21 63"


@pytest.mark.parametrize(("prompt", "length", "first"), [("gene", 200 + 48, 16), ("window", int(0.3 * len(WINDOW)), 0)])
def test_the_prompt_of_a_eukaryote(tmp_path, prompt, length, first):
    """Its window holds 52 amino acids, whose 16th ends after 48 bases of the gene."""
    exonerate = program(tmp_path / "exonerate", f'echo "{SPLICED}"')
    protein = "M" + "A" * 30 + "W" + "P" * 20 + "KKKKKKKK*"
    question = gene_completion.eukaryote("abc", WINDOW, protein, exonerate, prompt)
    assert (len(question.prompt), question.prompt + question.truth) == (length, WINDOW)
    assert (question.first, question.end, question.expected) == (first, 52, 52 - first)
    assert question.num_bases == len(question.truth) + 50
    assert question.judged(question.truth) == (1, 1)
    wrong = question.truth.replace("TGGCCA", "TGTCCA")
    assert question.judged(wrong) == pytest.approx((1 - 1 / (52 - first),) * 2)


def test_a_markov_model_continues_as_it_counted():
    model = gene_completion.Markov(2)
    model.add(bases.encode("ACG" * 2000))
    drawn = model.drawn(bases.encode("NAC"), 30, 4, np.random.default_rng(0))
    assert {bases.decode(row) for row in drawn} == {"GAC" * 10}
    model = gene_completion.Markov(1)
    model.counts[1][0] = (1, 2, 3, 4)  # after A
    drawn = model.drawn(bases.encode("A"), 1, 20_000, np.random.default_rng(0))
    np.testing.assert_allclose(np.bincount(drawn[:, 0]) / 20_000, [0.1, 0.2, 0.3, 0.4], atol=0.02)
    assert model.drawn(bases.encode(""), 3, 2, np.random.default_rng(0)).shape == (2, 3)


def test_an_oracle_on_the_real_genes():
    data = data_path("downstream", "gene_completion", "prokaryote_genes.csv.gz").parents[2]
    result, _ = evaluated(data, lambda question, i: question.truth, rows=1)
    assert list(result.breakdown["gene"]) == ["ftsZ", "secY", "dnaK", "gyrA"]
    assert (result.metrics["prokaryote_recovery"], result.metrics["prokaryote_identity"]) == (1, 1)
    assert result.baselines["shuffled_codons"]["prokaryote_recovery"] < 0.3
    assert result.baselines["markov_3"]["prokaryote_recovery"] < 0.2


@pytest.mark.skipif(not shutil.which("exonerate"), reason="needs exonerate")
def test_exonerate_on_the_real_genes():
    data = data_path("downstream", "gene_completion", "eukaryote_genes.csv.gz").parents[2]
    questions = GeneCompletion(Options(data)).questions("eukaryote")
    assert [x.expected for x in questions] == [146, 122, 39, 228, 67, 163, 192, 103]
    for question in questions:
        assert question.judged(question.truth) == (1, 1)
        assert len(question.prompt) > 5000
        shuffled = gene_completion.by_shuffling(question, 1, np.random.default_rng(0))
        assert question.judged(shuffled[0])[0] < 0.3
