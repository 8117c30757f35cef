"""Perturbed sequences are the protocol's; the metric can be passed and failed; scores are those of a plain loop."""

from types import SimpleNamespace

import numpy as np
import pytest
from Bio.Seq import Seq

import gener_jax
from data_pipeline.errors import FormatError
from data_pipeline.sequence import bases
from gener_jax.assets import TINY
from gener_jax.tasks import coding_sequences, perturbation
from gener_jax.tasks.base import NotRun, Options
from gener_jax.tasks.perturbation import CarbonPairs, OwnPairs
from tests import planted_genome
from tests.planted_genome import PROTEIN, reverse_complement
from tests.raised import raises

pytestmark = pytest.mark.usefixtures("one_device")

AT_RICH = [codon for codon in planted_genome.SENSE if not set(codon) & set("CG")]
NAMES = [each.name for each in perturbation.PERTURBATIONS]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("planted")


@pytest.fixture(scope="module")
def planted(folder):
    return planted_genome.write(folder, contigs=14, genes=6)


class Scores:
    """A model whose score of a sequence is a function of it, and of the kind of score."""

    k = 6

    def __init__(self, of, max_bases=None):
        self.of, self.max_bases, self.seen = of, max_bases, []

    def log_likelihood(self, sequences, *, score):
        self.seen += sequences
        values = [self.of(text, score) for text in sequences]
        length = [len(text) if score == "token" else 1 for text in sequences]
        return [SimpleNamespace(value=v * n, bases=len(s)) for v, n, s in zip(values, length, sequences, strict=True)]


def task(folder, source, name, **options):
    [kind] = [each for each in perturbation.PERTURBATIONS if each.name == name]
    return OwnPairs(Options(folder, **options), kind, [source])


def genomic(sequences):
    """All that the genomes hold, on both strands."""
    return "|".join([*sequences.values(), *map(reverse_complement, sequences.values())])


@pytest.mark.parametrize("name", NAMES)
def test_the_metric_can_be_passed_and_failed(folder, planted, name):
    source, sequences, _ = planted
    text, rng = genomic(sequences), np.random.default_rng(0)
    if name == "promoter_reverse_complement":  # both strands are of the genome
        genes, _ = coding_sequences.read(Options(folder), [source])
        text = "|".join(bases.decode(gene.cut(gene.start - 600, gene.start)) for gene in genes)

    def run(of):
        return task(folder, source, name)(Scores(of, 1200))

    oracle = run(lambda sequence, score: float(sequence in text))
    assert oracle.metrics == {"accuracy": 1, "accuracy_base": 1}
    assert oracle.intervals["accuracy"] == (pytest.approx(0.025 ** (1 / 42)), 1)  # of 42 genes, none lost
    assert oracle.counts["pairs"] == len(oracle.predictions["gene"]) == 42
    equal = run(lambda sequence, score: -1.3)  # ties are losses
    assert equal.metrics == {"accuracy": 0, "accuracy_base": 0}
    only_base = run(lambda sequence, score: float(score == "base" and sequence in text))
    assert only_base.metrics == {"accuracy": 0, "accuracy_base": 1}
    random = run(lambda sequence, score: rng.random())
    for metric in ("accuracy", "accuracy_base"):
        assert abs(random.metrics[metric] - 0.5) < 0.31  # four standard errors of 42 pairs
    assert set(random.breakdown) == {"species", "changed_bases" if name.startswith("promoter") else "exon_length"}
    for rows in random.breakdown.values():
        assert sum(row["pairs"] for row in rows.values()) == 42
    gains = random.baselines["markov_5"]
    assert gains["accuracy_gain"] == pytest.approx(random.metrics["accuracy"] - gains["accuracy"])


def pairs_by_gene(folder, source, name, window=1200):
    made, _, _ = task(folder, source, name).pairs(window, 6)
    genes = {gene.key: gene for gene in coding_sequences.read(Options(folder), [source])[0]}
    return [(genes[pair.group], bases.decode(pair.original), bases.decode(pair.perturbed)) for pair in made], genes


def test_triplets_replace_thirty_bases_in_frame(folder, planted):
    source, _, true = planted
    pairs, _ = pairs_by_gene(folder, source, "triplet_expansion")
    introns = 0
    for gene, original, perturbed in pairs:
        codon = 201 if len(gene.exons) > 1 else 0  # the longer exon is the second, and begins with the end of a codon
        introns += codon > 0
        at = original.index(true[gene.name].cds[codon : codon + 150]) + 60
        assert perturbed == original[:at] + "CAG" * 10 + original[at + 30 :]
    assert introns


def test_synonyms_keep_protein_and_flanks(folder, planted):
    source, _, true = planted
    pairs, genes = pairs_by_gene(folder, source, "synonymous_codons", window=2400)
    tested = {gene.name for gene, _, _ in pairs}
    counts = dict.fromkeys(planted_genome.CODONS, 0)
    for gene in genes.values():
        if gene.name not in tested:
            cds = true[gene.name].cds
            for i in range(0, len(cds), 3):
                counts[cds[i : i + 3]] += 1
    for gene, original, perturbed in pairs:
        cds = true[gene.name].cds
        pieces, at = [], 0
        for start, end in gene.exons:
            pieces.append(cds[at : at + end - start])
            at += end - start
        places = [original.index(piece) for piece in pieces]
        changed = "".join(perturbed[p : p + len(piece)] for p, piece in zip(places, pieces, strict=True))
        assert str(Seq(changed).translate()) == str(Seq(cds).translate())
        assert (changed[:3], changed[-3:]) == ("ATG", cds[-3:])
        for i in range(3, len(cds) - 3, 3):
            synonyms = [codon for codon in PROTEIN if PROTEIN[codon] == PROTEIN[cds[i : i + 3]]]
            assert changed[i : i + 3] == min(synonyms, key=lambda x: (-counts[x], x))
        rest = [original, perturbed]
        for p, piece in reversed(list(zip(places, pieces, strict=True))):
            rest = [text[:p] + text[p + len(piece) :] for text in rest]
        assert rest[0] == rest[1]


def test_promoters_are_turned_around(folder, planted):
    source, _, true = planted
    pairs, _ = pairs_by_gene(folder, source, "promoter_reverse_complement")
    for gene, original, perturbed in pairs:
        assert perturbed == reverse_complement(original)
        assert len(original) == 600
        assert bases.decode(gene.cut(gene.start - 600, gene.start + 30)) == original + true[gene.name].cds[:30]


def test_baselines_know_what_was_planted(tmp_path):
    """Genes without C and G: triplets are strange to a Markov model, and raise GC."""
    source, _, _ = planted_genome.write(tmp_path, contigs=4, codons=AT_RICH, letters="AAATTTCG")
    found = task(tmp_path, source, "triplet_expansion")(Scores(lambda sequence, score: 0, 1200)).baselines
    assert found["markov_5"]["accuracy"] == found["markov_0"]["accuracy"] == found["lower_gc"]["accuracy"] == 1
    assert found["higher_gc"]["accuracy"] == 0
    found = task(tmp_path, source, "promoter_reverse_complement")(Scores(lambda sequence, score: 0)).baselines
    assert found["higher_gc"]["accuracy"] == found["lower_gc"]["accuracy"] == 0  # equal: ties


def test_windows_rows_and_choices(folder, planted):
    source, _, _ = planted
    model = Scores(lambda sequence, score: 0.0, 1000)
    found = task(folder, source, "triplet_expansion", rows=5)(model)
    assert found.counts["pairs"] == 5
    assert found.counts["window"] == 996  # whole 6-mers
    assert {len(text) for text in model.seen} == {996}
    kinds = [key for key in found.counts if key.startswith("left out")]
    assert sum(found.counts[key] for key in kinds) + 42 == 84
    more = task(folder, source, "triplet_expansion", rows=6)(model)
    assert more.predictions["gene"][:5] == found.predictions["gene"]
    assert (
        task(folder, source, "triplet_expansion", rows=5, seed=1)(model).predictions["gene"]
        != (found.predictions["gene"])
    )
    with raises(NotRun):  # no gene has the bases before it
        short, _, _ = planted_genome.write(folder, "short", contigs=1, genes=2, slot=700)
        task(folder, short, "promoter_reverse_complement")(model)
    with raises(NotRun):
        OwnPairs(Options(None), perturbation.TRIPLET_EXPANSION)


def test_the_public_file_is_read(tmp_path):
    """Carbon's columns, as its data set has them."""
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow

    rng = np.random.default_rng(0)
    original = ["".join(rng.choice(list("ACGT"), 8192 if i else 9000)) for i in range(60)]
    perturbed = [text[:4000] + "CAG" * 10 + text[4030:] for text in original]
    columns = {
        "species": ["human"] * 60, "gene_id": [f"ENSG{i // 2}" for i in range(60)],
        "original_sequence": original, "sequence": perturbed,
    }  # fmt: skip
    with raises(NotRun):
        CarbonPairs(Options(tmp_path), "motif_human", "triplet_expansion", comparable=True)
    (tmp_path / "perturbation").mkdir()
    parquet.write_table(pyarrow.table(columns), tmp_path / "perturbation" / "motif_human.parquet")
    made = CarbonPairs(Options(tmp_path), "motif_human", "triplet_expansion", comparable=True)
    found = made(Scores(lambda sequence, score: float("CAG" * 10 not in sequence)))
    assert found.metrics == {"accuracy": 1, "accuracy_base": 1}
    assert found.counts["pairs"] == 59
    assert found.counts["left out: longer than the model's context"] == 1
    assert set(found.breakdown) == {"species", "changed_bases"}
    assert set(found.predictions["changed_bases"]) <= set(range(10, 31))
    few = made.pairs(9000, 6)[2], made.pairs(8992, 8)[2], made.pairs(8192, 8)[2]  # 1,125 and 1,024 tokens of 8 bases
    assert [sum(left_out.values()) for left_out in few] == [0, 1, 1]
    assert found.intervals["accuracy"] == (pytest.approx(0.025 ** (1 / 30)), 1)  # of 30 genes
    assert all(row.comparable for row in found.published)
    assert {row.metric for row in found.published} == {"accuracy", "accuracy_base"}
    columns["sequence"][3] = "ACGT"
    parquet.write_table(pyarrow.table(columns), tmp_path / "perturbation" / "motif_human.parquet")
    with raises(FormatError, record="4", field="sequence"):
        made(Scores(lambda sequence, score: 0.0))


@pytest.mark.slow  # a program of tiny, and a loop without a cache
@pytest.mark.filterwarnings("ignore")  # of transformers
def test_scores_are_those_of_a_plain_loop(folder, planted):
    for package in ("torch", "transformers"):
        pytest.importorskip(package)
    from tests import torch_evaluation as peer

    source, _, _ = planted
    found = task(folder, source, "promoter_reverse_complement", rows=3)(gener_jax.load("tiny")).predictions
    pairs, _ = pairs_by_gene(folder, source, "promoter_reverse_complement")
    model = peer.load(TINY)
    for row, (_, *both) in enumerate(pairs[:3]):
        for form, text in zip(("original", "perturbed"), both, strict=True):
            assert found[f"{form}_token"][row] == pytest.approx(peer.mean_log_likelihood(model, text) / 6, abs=2e-5)
            assert found[f"{form}_base"][row] == pytest.approx(peer.mean_base_marginal(model, text), abs=2e-5)
