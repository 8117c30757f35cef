"""Perturbations that a model should find less likely than the genome: repeats, other codons, the other strand.

A pair is a stretch of a genome, in the direction of a gene, and the same with some bases replaced; its length, and the
bases around them, stay. The original should have the higher log-likelihood per base. Both scores of Carbon's
suite are measured: the log-likelihood of the tokens, and the mean log-probability of each base in its own marginal.

The metric is the fraction of pairs with a strictly higher original: a tie is a loss, so equal scores get 0, a guess
0.5. That is no floor: a model that knows only which codons are frequent prefers the frequent ones, and gets about 0 on
synonymous codons. There is no positive class: each pair is one comparison.
"""

import abc
import collections
import dataclasses
from collections.abc import Callable, Sequence
from typing import ClassVar

import numpy as np

from data_pipeline.sequence import bases
from gener_jax.data.permutation import permute
from gener_jax.labelled import table
from gener_jax.plotting import evaluation
from gener_jax.statistics import intervals
from gener_jax.statistics.metrics import means_by
from gener_jax.tasks import coding_sequences, published
from gener_jax.tasks.base import Entry, Metric, ModelTask, NotRun, Options, Paired, Progress, Result, silent
from gener_jax.tasks.coding_sequences import CodingSequence

WINDOW = 8192  # bases of a pair, around an exon; Carbon's rows have about as many
PER_SPECIES = 200  # pairs at most
TRIPLETS = bases.encode("CAG" * 10)
AFTER = 60  # bases from the first complete codon of the exon to the triplets
PROMOTER = 600  # bases before the start codon
ORDERS = (0, coding_sequences.ORDER)  # of the Markov baselines
_SIZES = (300, 600, 1200, 2400)  # bases that divide the breakdown by length of exon, or by bases changed
_AT_ONCE = 32  # pairs scored by one call
_SCORES = {"accuracy": "token", "accuracy_base": "base"}


@dataclasses.dataclass(frozen=True, eq=False)
class Pair:
    """An original and its perturbed form: codes uint8 [bases], of one length.

    `name` is its own; `group`, a gene, is drawn as one by a resample; `exon` is the length in bases of the exon whose
    bases were replaced, None where it is not an exon's or not known.
    """

    species: str
    name: str
    group: str
    original: np.ndarray
    perturbed: np.ndarray
    exon: int | None = None

    @property
    def changed(self) -> int:
        """The bases that differ."""
        return int((self.original != self.perturbed).sum())


@dataclasses.dataclass(frozen=True)
class Perturbation:
    """How a pair is made of a gene.

    Attributes:
      name: of the task.
      place: (start, end) of its window, of a given length, or why the gene has none.
      perturb: of the gene, the window's start, its bases and the preferred codons of the species: other bases.
      of_exon: whether it replaces bases of the longest exon.
    """

    name: str
    place: Callable[[CodingSequence, int], tuple[int, int] | str]
    perturb: Callable[[CodingSequence, int, np.ndarray, np.ndarray], np.ndarray]
    of_exon: bool = True


def _triplets_at(gene: CodingSequence) -> int:
    """Where the triplets begin in the longest exon: `AFTER` bases after the start of its first complete codon."""
    exon = gene.longest_exon()
    before = sum(end - start for start, end in gene.exons[:exon])
    return gene.exons[exon][0] + (gene.frame - before) % 3 + AFTER


def _around_triplets(gene: CodingSequence, window: int) -> tuple[int, int] | str:
    at = _triplets_at(gene)
    if at + len(TRIPLETS) > gene.exons[gene.longest_exon()][1]:
        return "exon too short for the triplets"
    return gene.window(at + len(TRIPLETS) // 2, window)


def _with_triplets(gene: CodingSequence, start: int, codes: np.ndarray, preferred: np.ndarray) -> np.ndarray:
    at, found = _triplets_at(gene) - start, codes.copy()
    found[at : at + len(TRIPLETS)] = TRIPLETS
    return found


def _around_exon(gene: CodingSequence, window: int) -> tuple[int, int] | str:
    return gene.window(sum(gene.exons[gene.longest_exon()]) // 2, window)


def _with_preferred(gene: CodingSequence, start: int, codes: np.ndarray, preferred: np.ndarray) -> np.ndarray:
    """Every complete codon of the CDS in the window but the first of the CDS, which starts the protein in its own way.

    A codon may be divided by an intron.
    """
    positions, found = gene.codons()[1:] - start, codes.copy()
    inside = positions[((positions >= 0) & (positions < len(codes))).all(1)]
    found[inside] = preferred[codes[inside] @ np.array([25, 5, 1])]
    return found


def _promoter(gene: CodingSequence, window: int) -> tuple[int, int] | str:
    if not coding_sequences.starts_protein(gene):
        return "no start codon"
    if gene.start < PROMOTER:
        return f"fewer than {PROMOTER} bases before the start"
    return gene.start - PROMOTER, gene.start


def _other_strand(gene: CodingSequence, start: int, codes: np.ndarray, preferred: np.ndarray) -> np.ndarray:
    return bases.reverse_complement(codes)


TRIPLET_EXPANSION = Perturbation("triplet_expansion", _around_triplets, _with_triplets)
SYNONYMOUS_CODONS = Perturbation("synonymous_codons", _around_exon, _with_preferred)
PROMOTER_STRAND = Perturbation("promoter_reverse_complement", _promoter, _other_strand, of_exon=False)
PERTURBATIONS = (TRIPLET_EXPANSION, SYNONYMOUS_CODONS, PROMOTER_STRAND)
_PUBLISHED = {TRIPLET_EXPANSION.name: "triplet_expansion", SYNONYMOUS_CODONS.name: "synonymous"}


def pairs_of(
    genes: Sequence[CodingSequence], perturbation: Perturbation, window: int, per_species: int, seed: int
) -> tuple[list[Pair], list[dict[int, float]], collections.Counter[str]]:
    """The pairs of annotated genes, those of each species in turn.

    Codon usage is counted on the genes of the species that are not tested, and so are the Markov models, without the
    replaced bases. A window with an unknown base is left out.

    Returns:
      the pairs; for each, what `_markov_gains` finds; and the number of genes left out, by reason.
    """
    left_out: collections.Counter[str] = collections.Counter()

    def place(gene):
        if gene.outcome not in coding_sequences.TRANSLATED:
            return f"translation {gene.outcome}"
        found = perturbation.place(gene, window)
        if not isinstance(found, str) and (gene.cut(*found) >= bases.N).any():
            return "unknown bases in the window"
        return found

    places = {id(gene): place(gene) for gene in genes}
    left_out.update(reason for reason in places.values() if isinstance(reason, str))
    tested = coding_sequences.chosen(genes, lambda gene: not isinstance(places[id(gene)], str), per_species, seed)
    left_out["not drawn"] = len(genes) - left_out.total() - len(tested)
    others = coding_sequences.by_species(coding_sequences.untested(genes, tested))
    preferred, made, asked = {}, [], []
    for gene in tested:
        table_of = (gene.species, gene.genetic_code)
        if table_of not in preferred:
            preferred[table_of] = coding_sequences.preferred_codons(others[gene.species], gene.genetic_code)
        start, end = places[id(gene)]
        original = gene.cut(start, end)
        perturbed = perturbation.perturb(gene, start, original, preferred[table_of])
        differs = np.flatnonzero(original != perturbed)
        if not len(differs):
            left_out["nothing to replace"] += 1
            continue
        first, last = gene.exons[gene.longest_exon()]
        exon = last - first if perturbation.of_exon else None
        made.append(Pair(gene.species, gene.key, gene.key, original, perturbed, exon))
        asked.append((gene, start + int(differs[0]), start + int(differs[-1]) + 1))
    models = coding_sequences.markov_models(genes, asked, window, seed)
    return made, [_markov_gains(models[pair.species], pair) for pair in made], left_out


def _markov_gains(model, pair: Pair) -> dict[int, float]:
    """How much higher a Markov model scores the original, in bits per base, by its order."""
    gains = {}
    for order in ORDERS:
        original, perturbed = (model.bits(codes, order).sum() for codes in (pair.original, pair.perturbed))
        gains[order] = (perturbed - original) / len(pair.original)
    return gains


class _Pairwise(ModelTask):
    """The fraction of pairs whose original has the higher score: of tokens (`accuracy`) and of bases (`accuracy_base`).

    The model needs `log_likelihood`, `max_bases` and `k`.
    """

    metric = "accuracy"
    metrics: ClassVar = {name: Metric("fraction of pairs", higher_is_better=True) for name in _SCORES}

    @abc.abstractmethod
    def pairs(self, window: int, k: int) -> tuple[list[Pair], list[dict[int, float]], collections.Counter[str]]:
        """What `pairs_of` returns, for windows whose whole tokens, of k bases, have at most so many bases."""

    @abc.abstractmethod
    def reported(self) -> tuple[tuple, str]:
        """The published figures, and which of them compare."""

    def __init__(self, options: Options):
        self.options = options

    def __call__(self, model, progress: Progress = silent) -> Result:
        """See `base.ModelTask`."""
        window = WINDOW if model.max_bases is None else min(WINDOW, model.max_bases)
        window -= window % model.k
        pairs, gains, left_out = self.pairs(window, model.k)
        pairs, gains = pairs[: self.options.rows], gains[: self.options.rows]
        if not pairs:
            raise NotRun(f"has no pairs of at most {window} bases: {dict(left_out)}")
        texts = []
        for pair in pairs:  # whole tokens, as Carbon's script trims both
            whole = len(pair.original) - len(pair.original) % model.k
            texts.append([bases.decode(codes[:whole]) for codes in (pair.original, pair.perturbed)])
        scores = {name: np.zeros((len(pairs), 2)) for name in _SCORES}
        for first in range(0, len(pairs), _AT_ONCE):
            chosen = [text for both in texts[first : first + _AT_ONCE] for text in both]
            for name, score in _SCORES.items():
                found = model.log_likelihood(chosen, score=score)
                per_base = [x.value / x.bases if score == "token" else x.value for x in found]
                scores[name][first : first + _AT_ONCE] = np.reshape(per_base, (-1, 2))
            progress(min(first + _AT_ONCE, len(pairs)), len(pairs))
        won = {name: x[:, 0] > x[:, 1] for name, x in scores.items()}
        groups = [pair.group for pair in pairs]
        found = {name: intervals.of_mean(name, x, groups) for name, x in won.items()}
        baselines = {f"markov_{order}": [gain[order] > 0 for gain in gains] for order in ORDERS}
        gc = np.array([[(codes >= bases.C).mean() for codes in (p.original, p.perturbed)] for p in pairs])
        baselines |= {"higher_gc": gc[:, 0] > gc[:, 1], "lower_gc": gc[:, 0] < gc[:, 1]}
        species, changed, exons = zip(*((pair.species, pair.changed, pair.exon) for pair in pairs), strict=True)
        sizes = {"changed_bases": changed} if None in exons else {"changed_bases": changed, "exon_length": exons}
        size, of_size = list(sizes.items())[-1]
        by_size = means_by([_size_class(each) for each in of_size], won, "pairs")
        breakdown = {
            "species": means_by(species, won, "pairs"),
            size: {name: by_size[name] for name in sorted(by_size, key=lambda name: int(name.split("-")[0]))},
        }
        reported, note = self.reported()
        accuracy = float(won["accuracy"].mean())
        compared = {name: float(np.mean(x)) for name, x in baselines.items()}
        return Result(
            {name: row[name] for name, row in found.items()},
            counts={
                "pairs": len(pairs), "window": window, **{f"left out: {why}": n for why, n in left_out.items() if n},
            },
            intervals={name: intervals.ends(row, name) for name, row in found.items()},
            baselines={
                name: intervals.of_mean("accuracy", x, groups, than=won["accuracy"]) for name, x in baselines.items()
            },
            breakdown=breakdown,
            published=reported,
            note=note,
            predictions={
                "pair": [pair.name for pair in pairs],
                "species": species,
                "gene": groups,
                **sizes,
                **{name: x.tolist() for name, x in won.items()},
                **{f"{form}_{_SCORES[name]}": x[:, i].tolist() for name, x in scores.items()
                   for i, form in enumerate(("original", "perturbed"))},
            },
            paired=Paired("mean", "accuracy", scores=("accuracy",), groups="gene", rows="pair"),
            figures={
                self.name: lambda: evaluation.groups(
                    self.name.replace("_", " "), "fraction of pairs (higher is better)",
                    {"model": accuracy, **{name.replace("_", " "): value for name, value in compared.items()}},
                    {column: {name: row["accuracy"] for name, row in rows.items()}
                     for column, rows in breakdown.items()}, 0.5,
                )
            },
        )  # fmt: skip


def _size_class(size: int) -> str:
    """Such as "600-1199"."""
    edges = (0, *_SIZES)
    at = max(i for i, edge in enumerate(edges) if size >= edge)
    return f"{edges[at]}-{edges[at + 1] - 1}" if at < len(_SIZES) else f"{edges[at]}-"


class OwnPairs(_Pairwise):
    """A perturbation of the annotated genomes of `coding_sequences.SOURCES`, or of others."""

    def __init__(
        self,
        options: Options,
        perturbation: Perturbation,
        sources: Sequence[coding_sequences.Source] = coding_sequences.SOURCES,
        per_species: int = PER_SPECIES,
    ):
        super().__init__(options)
        self.name, self.perturbation = perturbation.name, perturbation
        self.sources, self.per_species = sources, per_species
        coding_sequences.files(options, sources)

    def pairs(self, window: int, k: int):
        """See `_Pairwise`."""
        genes, left_out = coding_sequences.read(self.options, self.sources)
        made, gains, others = pairs_of(genes, self.perturbation, window, self.per_species, self.options.seed)
        return made, gains, left_out + others

    def reported(self):
        """See `_Pairwise`."""
        if self.name not in _PUBLISHED:
            return (), "No figure is published for this perturbation."
        return _reported(_PUBLISHED[self.name], comparable=False), (
            "The published figures are of other pairs (20,000 human or mouse exons each, which are not here): they "
            "show what large models reach, not a rank."
        )


class CarbonPairs(_Pairwise):
    """A subset of Carbon's perturbation set: columns original_sequence and sequence, 20 000 rows.

    Its rows name genes (gene_id), which a resample draws, and species; both may be missing. The Markov models are
    fitted to the originals of the other half of the genes.
    """

    def __init__(self, options: Options, subset: str, figure: str | None, comparable: bool):
        super().__init__(options)
        self.name, self.figure, self.comparable = f"carbon_{subset}", figure, comparable
        self.path = options.file(
            f"perturbation/{subset}.parquet",
            "hf download HuggingFaceBio/carbon-perturbation-bench --repo-type dataset --local-dir carbon, of which the "
            f"subset {subset}, split test, is to be one Parquet file with the columns original_sequence and sequence",
        )

    def pairs(self, window: int, k: int):
        """See `_Pairwise`; rows longer than the window are left out."""
        rows = table.read(self.path)
        texts = zip(rows.values("original_sequence", "column"), rows.values("sequence", "column"), strict=True)
        species, genes = rows.columns.get("species"), rows.columns.get("gene_id")
        made, left_out = [], collections.Counter()
        for i, both in enumerate(texts):
            original, perturbed = map(bases.encode, both)
            if len(original) != len(perturbed):
                rows.refuse(i, "sequence", f"must have the {len(original)} bases of original_sequence")
            if len(original) - len(original) % k > window:
                left_out["longer than the model's context"] += 1
            else:
                own, gene = species[i] if species else "all", genes[i] if genes else str(i)
                made.append(Pair(own, str(i), gene, original, perturbed))
        made = [made[i] for i in permute(np.arange(len(made)), len(made), key=self.options.seed).tolist()]
        models = coding_sequences.crossed_models(
            [pair.original for pair in made], [pair.species for pair in made], [pair.group for pair in made]
        )
        return made, [_markov_gains(model, pair) for model, pair in zip(models, made, strict=True)], left_out

    def reported(self):
        """See `_Pairwise`."""
        note = "Rows, scores and metric are those of the published figures."
        if self.figure is None:
            note = "No figure is published for this set."
        elif not self.comparable:
            note = "The published figure is of synonymous codons; its source does not say of which of the two species."
        return _reported(self.figure, self.comparable), note


def _reported(task: str | None, comparable: bool) -> tuple:
    if task is None:
        return ()
    return tuple(
        row
        for name, score in _SCORES.items()
        for row in published.of("carbon_suite", f"{task}_{score}", "percent", as_metric=name, comparable=comparable)
    )


def _entry(perturbation: Perturbation) -> Entry:
    return Entry(
        perturbation.name, lambda config: OwnPairs(Options.of(config), perturbation), quick=24, group="perturbation"
    )


def _carbon(subset: str, figure: str | None, comparable: bool = False) -> Entry:
    return Entry(
        f"carbon_{subset}", lambda config: CarbonPairs(Options.of(config), subset, figure, comparable),
        group="perturbation",
    )  # fmt: skip


ENTRIES = (
    *map(_entry, PERTURBATIONS),
    _carbon("motif_human", "triplet_expansion", comparable=True),
    _carbon("syn_human", "synonymous"),
    _carbon("syn_mouse", "synonymous"),
    _carbon("promoter_revcomp", None),
)
