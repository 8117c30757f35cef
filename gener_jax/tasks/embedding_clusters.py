"""Embedding clusters: whether mean embeddings lie together by species and by kind of sequence, at each layer.

Rows are windows of 300 bases of annotated genomes, each centred on its feature and read on its strand, so that length
tells nothing: the middle of coding sequences, introns left out; genes of tRNA, rRNA and ncRNA, with the bases around
the shorter ones; the middle of stretches between genes, on either strand. No two are the same bases on either strand.

The main numbers are of the 10 nearest neighbours that are not from the row's own contig, where repeats and overlapping
windows would be found again: how often their commonest label is right, the mean over classes. A class needs two contigs
and 20 rows; a species with one contig has none, but its rows have a kind. Three more numbers are of all rows: ARI and
NMI between labels and the clusters of k-means, and the silhouette of the labels.
"""

import functools
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import ClassVar, NamedTuple

import numpy as np

from data_pipeline.dataset.inputs import Input
from data_pipeline.regions import extraction
from data_pipeline.regions.ledger import Ledger
from data_pipeline.regions.schemes import Scheme
from data_pipeline.sequence import bases
from data_pipeline.sequence.record import Record
from data_pipeline.splitting import split
from gener_jax.baselines import kmer
from gener_jax.plotting import embedding, evaluation
from gener_jax.statistics import neighbours
from gener_jax.statistics.intervals import interval
from gener_jax.statistics.metrics import Metric, mean
from gener_jax.tasks import annotated_genomes, gene_labels
from gener_jax.tasks.base import Entry, ModelTask, NotRun, Options, Progress, Result, installed, silent

LABELS = ("species", "kind")
WINDOW = 300  # bases
PER_CLASS = 60  # rows of a species and kind
LEAST_ROWS, LEAST_CONTIGS = 20, 2  # of a class
FINAL = "final"  # after the last layer's norm
RNA = ("tRNA", "rRNA", "ncRNA")
SOURCE = "the annotated genomes of RefSeq that tasks.gene_labels.GENOMES names"


class Row(NamedTuple):
    """A window with its labels."""

    sequence: str
    species: str
    kind: str
    contig: str


def windows(record: Record, length: int = WINDOW) -> Iterator[tuple[str, np.ndarray]]:
    """Yields the kind and the bases, uint8 [length], of the windows of a record; those that cross its ends are none."""
    yield from (("coding", codes) for codes in annotated_genomes.coding_windows(record, length))
    for span in extraction.find(record, Scheme(), Ledger()):
        start = (span.start + span.end - length) // 2
        if span.kind in RNA and span.start < span.end and 0 <= start <= len(record.codes) - length:
            codes = record.codes[start : start + length]
            yield span.kind, codes if span.strand > 0 else bases.reverse_complement(codes)
    yield from (("intergenic", codes) for codes in annotated_genomes.intergenic_windows(record, length))


def rows_of(sources: Iterable[Input], *, length: int = WINDOW, per_class: int = PER_CLASS, seed: int = 0) -> list[Row]:
    """The rows of genomes in a random order: at most `per_class` of a species and kind."""
    found, seen = [], set()
    for record, source in annotated_genomes.records(sources):
        species, contig = record.organism or source.assembly, split.full_name(record.accession, source.assembly)
        for kind, codes in windows(record, length):
            either = min(codes.tobytes(), bases.reverse_complement(codes).tobytes())
            if either not in seen and (codes == bases.N).mean() <= gene_labels.MAX_UNKNOWN:
                seen.add(either)
                found.append(Row(bases.decode(codes), species, kind, contig))
    taken, kept = Counter(), []
    for i in np.random.default_rng(seed).permutation(len(found)):
        row = found[i]
        taken[row[1:3]] += 1
        if taken[row[1:3]] <= per_class:
            kept.append(row)
    return kept


def classes(rows: list[Row], label: str) -> list[str]:
    """The values of a label that are on enough contigs and rows, in order."""
    values = Counter(getattr(row, label) for row in rows)
    contigs = Counter(value for value, _ in {(getattr(row, label), row.contig) for row in rows})
    return sorted(x for x in values if values[x] >= LEAST_ROWS and contigs[x] >= LEAST_CONTIGS)


class EmbeddingClusters(ModelTask):
    """The task, of a model with `embed` and `num_layers`; its metrics are of the last layer after its norm.

    The layer with the best number, of the breakdown, is chosen on the rows that it is measured on.
    """

    name, metric = "embedding_clusters", "kind_knn"
    metrics: ClassVar = {
        **{f"{label}_knn": Metric("balanced accuracy", higher_is_better=True) for label in LABELS},
        **{f"{label}_{name}": Metric("", True) for label in LABELS for name in ("ari", "nmi", "silhouette")},
    }

    def __init__(self, options: Options, *, files: Iterable[str] = gene_labels.GENOMES):
        """`files`: annotated genomes below the folder of data."""
        for file in annotated_genomes.needed(files := tuple(files)):
            options.file(file, SOURCE)
        self.options, self.files = options, files

    @functools.cached_property
    def rows(self) -> list[Row]:
        """The windows of the genomes."""
        sources = annotated_genomes.inputs_of(self.options.data, self.files)
        return rows_of(sources, seed=self.options.seed)[: self.options.rows]

    def __call__(self, model, progress: Progress = silent) -> Result:
        """See `ModelTask`."""
        rows = self.rows
        names = {label: classes(rows, label) for label in LABELS}
        if few := [label for label, several in names.items() if len(several) < 2]:
            raise NotRun(f"needs two classes of {few[0]} with {LEAST_ROWS} rows on {LEAST_CONTIGS} contigs")
        sequences, layers = [row.sequence for row in rows], [*range(model.num_layers + 1), None]
        by_layer, predicted = {}, {}
        for number, layer in enumerate(layers):
            features = neighbours.standardized(model.embed(sequences, pooling="mean", layer=layer))
            measured, predicted = _measured(features, rows, names, self.options.seed, intervals=layer is None)
            by_layer[FINAL if layer is None else str(layer)] = measured
            progress(number + 1, len(layers))
        gc = np.array([[x.count("G") + x.count("C")] for x in sequences])
        counted = {"kmer_4": kmer.features(sequences, 4, canonical=False).toarray(), "gc_content": gc}
        baselines = {
            name: _measured(neighbours.standardized(x), rows, names, self.options.seed, intervals=True)[0]
            for name, x in counted.items()
        }
        final = by_layer[FINAL]
        plane, points = _in_plane(features, self.options.seed)
        return Result(
            {name: final[name] for name in self.metrics},
            counts={"rows": len(rows), "contigs": len({row.contig for row in rows})}
            | {f"classes_of_{label}": len(several) for label, several in names.items()},
            intervals={name: (final[f"{name}_low"], final[f"{name}_high"]) for name in self.metrics
                       if f"{name}_low" in final},
            baselines=baselines,
            breakdown={"layer": {x: {n: row[n] for n in self.metrics} for x, row in by_layer.items()}}
            | {label: _by_class(rows, label, predicted[label], names[label]) for label in LABELS},
            note=f"No published figures are of these genomes. Chance is {1 / len(names['species']):.3f} by species and "
            f"{1 / len(names['kind']):.3f} by kind; kmer_4 and gc_content are what composition alone gives.",
            predictions={
                **{name: [getattr(row, name) for row in rows] for name in ("species", "kind", "contig")},
                **{f"predicted_{label}": predicted[label] for label in LABELS},
                "x": points[:, 0].tolist(),
                "y": points[:, 1].tolist(),
            },
            figures={
                "by_layer": lambda: evaluation.by_layer(
                    "Nearest neighbours on other contigs", "balanced accuracy",
                    {label: {x: row[f"{label}_knn"] for x, row in by_layer.items()} for label in LABELS},
                    {f"kmer 4, {label}": baselines["kmer_4"][f"{label}_knn"] for label in LABELS},
                ),
                "map": lambda: embedding.in_plane(
                    plane, points,
                    {x: [getattr(r, x) if getattr(r, x) in names[x] else "" for r in rows] for x in LABELS},
                ),
            },
        )  # fmt: skip


def _measured(features: np.ndarray, rows: list[Row], names: dict[str, list[str]], seed: int, *, intervals: bool):
    """The metrics of features, and by label the predicted class of each row, "" of a row without a class."""
    metrics, predicted = {}, {}
    for label, several in names.items():
        at = [i for i, row in enumerate(rows) if getattr(row, label) in several]
        labels = np.array([several.index(getattr(rows[i], label)) for i in at])
        contigs, mine = np.array([rows[i].contig for i in at]), features[at]
        votes = neighbours.voted(labels, neighbours.nearest(mine, contigs))
        recall = mean(votes == labels, labels)
        name = f"{label}_knn"
        metrics[name] = float(recall(np.ones((1, len(at))))[0])
        if intervals and (found := interval(recall, (len(at),), contigs, seed=seed)):
            metrics |= {f"{name}_low": found[0], f"{name}_high": found[1]}
        metrics |= {f"{label}_{x}": value for x, value in neighbours.agreement(mine, labels, seed).items()}
        predicted[label] = [""] * len(rows)
        for i, vote in zip(at, votes, strict=True):
            predicted[label][i] = several[vote]
    return metrics, predicted


def _by_class(rows: list[Row], label: str, predicted: list[str], several: list[str]) -> dict[str, dict[str, float]]:
    found = {}
    for name in several:
        at = [i for i, row in enumerate(rows) if getattr(row, label) == name]
        right = [predicted[i] == name for i in at]
        found[name] = {
            f"{label}_knn": float(np.mean(right)),
            "rows": len(at),
            "contigs": len({rows[i].contig for i in at}),
        }
    return found


def _in_plane(features: np.ndarray, seed: int) -> tuple[str, np.ndarray]:
    """The name of the method, UMAP where it is installed and else PCA, and its points, float [N, 2]."""
    if installed("package umap"):
        from umap import UMAP

        return "UMAP", UMAP(random_state=seed).fit_transform(features)
    from sklearn.decomposition import PCA

    return "PCA", PCA(2, random_state=seed).fit_transform(features)


ENTRIES = (Entry("embedding_clusters", lambda config: EmbeddingClusters(Options.of(config)), quick=400),)
