"""Clusters of embeddings: the windows of a genome, an oracle, noise, shuffled labels, copies, what is too small."""

import sys

import numpy as np
import pytest

from data_pipeline.dataset import inputs
from data_pipeline.sequence import bases
from gener_jax.tasks import annotated_genomes, embedding_clusters
from gener_jax.tasks.base import NotRun, Options
from gener_jax.tasks.embedding_clusters import EmbeddingClusters, Row, classes, rows_of, windows
from tests.data import FIXTURES
from tests.raised import raises

KINDS, SPECIES = ("coding", "intergenic", "tRNA"), ("ant", "bee")


def made(seed=0):
    """Rows of two species, 16 contigs each, which have two rows of every kind."""
    rng = np.random.default_rng(seed)
    rows = [
        Row("".join(rng.choice(list("ACGT"), 60)), species, kind, f"{species} {contig}")
        for species in SPECIES
        for contig in range(16)
        for kind in KINDS
        for _ in range(2)
    ]
    return [rows[i] for i in rng.permutation(len(rows))]


class Model:
    """Embeds a row as a function of it says, in the last layer; before that, as noise."""

    num_layers = 1

    def __init__(self, rows, vector):
        self.vectors = {row.sequence: vector(row) for row in rows}

    def embed(self, sequences, *, pooling, layer):
        assert pooling == "mean"
        found = np.array([self.vectors[x] for x in sequences], np.float32)
        return found if layer is None else np.random.default_rng(layer).normal(size=found.shape).astype(np.float32)


def evaluated(rows, vector):
    task = EmbeddingClusters(Options(), files=())
    task.rows = rows
    return task(Model(rows, vector))


@pytest.fixture(autouse=True)
def no_umap(monkeypatch):
    """No test looks at the map's points, and importing UMAP compiles for half a minute."""
    monkeypatch.setitem(sys.modules, "umap", None)


def by_labels(row):
    return [KINDS.index(row.kind) == i for i in range(3)] + [SPECIES.index(row.species)]


def test_an_oracle_is_right_in_its_layer_only():
    rows = made()
    result = evaluated(rows, by_labels)
    assert (result.metrics["kind_knn"], result.metrics["species_knn"]) == (1, 1)
    assert list(result.breakdown["layer"]) == ["0", "1", "final"]
    assert result.breakdown["layer"]["final"]["kind_knn"] == 1
    assert result.breakdown["layer"]["0"]["kind_knn"] == pytest.approx(1 / 3, abs=0.15)
    assert result.breakdown["layer"]["1"]["species_knn"] == pytest.approx(1 / 2, abs=0.15)
    assert set(result.baselines) == {"kmer_4", "gc_content"}
    for baseline in result.baselines.values():
        assert baseline["kind_knn"] == pytest.approx(1 / 3, abs=0.15)
        assert baseline["kind_knn_low"] < 1 / 3 < baseline["kind_knn_high"]
    assert result.predictions["predicted_kind"] == [row.kind for row in rows] == result.predictions["kind"]
    assert {name: x["rows"] for name, x in result.breakdown["kind"].items()} == dict.fromkeys(KINDS, 64)
    assert result.counts == {"rows": 192, "contigs": 32, "classes_of_species": 2, "classes_of_kind": 3}
    for figure in result.figures.values():
        assert figure().axes


def test_shuffled_labels_are_chance():
    rows = made()
    kinds = np.random.default_rng(1).permutation([row.kind for row in rows])
    shuffled = [row._replace(kind=str(kind)) for row, kind in zip(rows, kinds, strict=True)]
    original = {row.sequence: by_labels(row) for row in rows}
    result = evaluated(shuffled, lambda row: original[row.sequence])
    assert result.metrics["kind_knn"] == pytest.approx(1 / 3, abs=0.15)
    low, high = result.intervals["kind_knn"]
    assert low < result.metrics["kind_knn"] < high
    assert abs(result.metrics["kind_ari"]) < 0.05
    assert result.metrics["species_knn"] == 1


def test_copies_on_a_contig_are_not_found():
    """Each contig has one kind, and its rows are the same point: a neighbour on it would always be right."""
    rng = np.random.default_rng(0)
    of_contig = {row.contig: str(rng.choice(KINDS)) for row in made()}
    rows = [row._replace(kind=of_contig[row.contig]) for row in made()]
    points = {contig: rng.normal(size=8) for contig in of_contig}
    result = evaluated(rows, lambda row: points[row.contig])
    assert result.metrics["kind_knn"] < 0.6


def test_a_class_needs_contigs_and_rows():
    rows = made()
    assert classes(rows, "kind") == sorted(KINDS)
    one = [row._replace(contig="ant 0") if row.kind == "tRNA" else row for row in rows]
    assert classes(one, "kind") == ["coding", "intergenic"]
    few, enough = ([row for row in rows if row.species == "ant" or row.contig <= last] for last in ("bee 0", "bee 3"))
    assert classes(few, "species") == ["ant"]
    assert classes(enough, "species") == ["ant", "bee"]
    with raises(NotRun):
        evaluated([row for row in rows if row.species == "ant"], by_labels)


def test_the_windows_of_a_genome():
    [source] = inputs.discover([FIXTURES / "athaliana_chloroplast_NC_000932.1.gb.gz"], annotated=True)[0]
    [(record, _)] = annotated_genomes.records([source])
    found = list(windows(record))
    assert {kind for kind, _ in found} == {"coding", "intergenic", "tRNA", "rRNA"}
    assert {len(codes) for _, codes in found} == {300}
    genome = bases.decode(record.codes)
    both = genome + "|" + bases.decode(bases.reverse_complement(record.codes))
    for kind, codes in found:
        assert kind == "coding" or bases.decode(codes) in both
    rows = rows_of([source], per_class=20)
    assert max(sum(row.kind == kind for row in rows) for kind in {row.kind for row in rows}) == 20
    canonical = {min(row.sequence, bases.decode(bases.reverse_complement(bases.encode(row.sequence)))) for row in rows}
    assert len(canonical) == len(rows)  # the inverted repeat of a chloroplast has every gene twice
    assert {row.species for row in rows} == {record.organism}


@pytest.mark.parametrize("method", ["PCA", pytest.param("UMAP", marks=pytest.mark.slow)])
def test_the_map_is_of_principal_components_without_umap(method, monkeypatch):
    if method == "UMAP":
        monkeypatch.undo()
        pytest.importorskip("umap")
    found, points = embedding_clusters._in_plane(np.random.default_rng(0).normal(size=(30, 5)), 0)
    assert (found, points.shape) == (method, (30, 2))


def test_without_the_genomes_it_is_not_run(tmp_path):
    with raises(NotRun):
        EmbeddingClusters(Options(tmp_path))
