"""Sequence recovery by group of species: the fraction of the bases after a prompt that greedy generation recovers.

The protocol of GENERator's and Carbon's scripts: <s> and the rightmost whole tokens of at most 6144 bases, special
tokens suppressed, greedy, 30 bases; in token mode and in base mode. The longer a continuation, the less of it is
recovered, which `lengths` shows. `tasks.recovery` is the same measure during training, on regions of a dataset.
"""

import abc
import collections
from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import numpy as np

from data_pipeline.sequence import bases
from data_pipeline.sequence.record import DIVISIONS
from gener_jax.data.permutation import permute
from gener_jax.labelled import table
from gener_jax.plotting import evaluation
from gener_jax.statistics import intervals
from gener_jax.statistics.metrics import means_by
from gener_jax.tasks import coding_sequences, published
from gener_jax.tasks.base import Entry, Metric, ModelTask, NotRun, Options, Paired, Progress, Result, silent
from gener_jax.tasks.markov import Markov
from gener_jax.tasks.recovery import CONTEXT_BASES, NUM_BASES, equal_bases

LENGTHS = tuple(NUM_BASES * 2**i for i in range(10))  # bases: 5 to 2560 6-mers, as in Carbon's sweep
LEAST_CONTEXT = 600  # bases before those that are asked for
PER_SPECIES = 200  # prompts at most
ORDERS = (1, coding_sequences.ORDER)  # of the Markov baselines
_AT_ONCE = 64  # prompts of one call
_MODES = {"accuracy": "token", "accuracy_base": "base"}


class Row(NamedTuple):
    """A prompt: codes uint8 of the bases before those asked for, and of these; its group; what a resample draws."""

    division: str
    species: str
    gene: str
    context: np.ndarray
    truth: np.ndarray


def rows_of(
    genes: Sequence[coding_sequences.CodingSequence], longest: int, per_species: int, seed: int
) -> tuple[list[Row], list[Markov], collections.Counter[str]]:
    """One row per gene: the bases from a random place between its first and last coding base, at most `longest`.

    The context is that of the genome in the gene's direction, beyond the gene too. Both end at an unknown base.

    Returns:
      the rows; a Markov model for each, fitted to genes of its species that are not tested; and the number of genes
      left out, by reason.
    """
    left_out: collections.Counter[str] = collections.Counter()
    places = {}
    rng = np.random.default_rng(seed)
    for gene in genes:
        at = int(rng.integers(gene.start, gene.end))
        context, truth = gene.cut(max(0, at - CONTEXT_BASES), at), gene.cut(at, min(at + longest, len(gene.contig)))
        known_from = int(np.flatnonzero(context == bases.N).max(initial=-1)) + 1
        known_to = int(np.flatnonzero(truth == bases.N).min(initial=len(truth)))
        places[id(gene)] = at, context[known_from:], truth[:known_to]
        if len(context) - known_from < LEAST_CONTEXT:
            left_out[f"fewer than {LEAST_CONTEXT} known bases before"] += 1
        elif known_to < longest:
            left_out[f"fewer than {longest} known bases to recover"] += 1
        else:
            continue
        places[id(gene)] = None
    chosen = coding_sequences.chosen(genes, lambda gene: places[id(gene)] is not None, per_species, seed)
    left_out["not drawn"] = len(genes) - left_out.total() - len(chosen)
    asked = [(gene, places[id(gene)][0], places[id(gene)][0] + longest) for gene in chosen]
    models = coding_sequences.markov_models(genes, asked, CONTEXT_BASES, seed)
    made = [Row(gene.division, gene.species, gene.key, *places[id(gene)][1:]) for gene in chosen]
    return made, [models[row.species] for row in made], left_out


class _Recovery(ModelTask):
    """The fraction of equal bases in token mode (`accuracy`) and in base mode (`accuracy_base`): over all prompts, as
    the mean over groups of species (`group_accuracy`), and of each group.

    The model needs `generate`, `max_bases` and `k`. The breakdown has both modes by group, species and length
    (and there the baselines).
    """

    metric = "accuracy"
    metrics: ClassVar = {
        name: Metric("fraction of bases", higher_is_better=True)
        for name in (*_MODES, *(f"group_{mode}" for mode in _MODES), *(f"accuracy_{group}" for group in DIVISIONS))
    }

    def __init__(self, options: Options, lengths: Sequence[int] = (NUM_BASES,)):
        """`lengths` in bases, the shortest being that of the metrics."""
        self.options, self.lengths = options, tuple(sorted(lengths))

    @abc.abstractmethod
    def rows(self, longest: int) -> tuple[list[Row], list[Markov], collections.Counter[str]]:
        """What `rows_of` returns."""

    @abc.abstractmethod
    def reported(self) -> tuple[tuple, str]:
        """The published figures, and which of them compare."""

    def __call__(self, model, progress: Progress = silent) -> Result:
        """See `base.ModelTask`."""
        most = model.max_bases
        # The prompt has at least half of what the model can hold, and is the same for all lengths.
        lengths = [n for n in self.lengths if most is None or 2 * -(-n // model.k) * model.k <= most]
        if not lengths:
            raise NotRun(f"needs room for {2 * self.lengths[0]} bases; the model has {most}")
        longest = lengths[-1]
        context = CONTEXT_BASES if most is None else min(CONTEXT_BASES, most - -(-longest // model.k) * model.k)
        rows, models, left_out = self.rows(longest)
        rows, models = rows[: self.options.rows], models[: self.options.rows]
        if not rows:
            raise NotRun(f"has no prompts: {dict(left_out)}")
        prompts = [bases.decode(rightmost(row.context, context, model.k)) for row in rows]
        made = {}
        for number, (name, mode) in enumerate(_MODES.items()):
            made[name] = []
            for start in range(0, len(prompts), _AT_ONCE):
                texts = model.generate(prompts[start : start + _AT_ONCE], longest, temperature=0, mode=mode)
                made[name] += map(bases.encode, texts)
                progress(number * len(prompts) + len(made[name]), len(_MODES) * len(prompts))
        guesses = _guesses(rows, models, longest)
        truths = [row.truth for row in rows]
        equal = {name: equal_by_length(of, truths, lengths) for name, of in (made | guesses).items()}
        columns = {"group": [row.division for row in rows], "species": [row.species for row in rows]}
        groups, genes = columns["group"], [row.gene for row in rows]

        def summary(name, metric, than=None):
            values = equal[name][:, 0]
            than = None if than is None else equal[than][:, 0]
            found = intervals.of_mean(metric, values, genes, than=than)
            return found | intervals.of_mean(f"group_{metric}", values, genes, strata=groups, than=than)

        found = {key: value for name in _MODES for key, value in summary(name, name).items()}
        for group in dict.fromkeys(groups):
            rows_in = np.array([name == group for name in groups])
            own = [gene for gene, here in zip(genes, rows_in, strict=True) if here]
            found |= intervals.of_mean(f"accuracy_{group}", equal["accuracy"][rows_in, 0], own)
        fractions = {name: equal[name][:, 0] for name in _MODES}
        breakdown = {column: means_by(of, fractions, "prompts") for column, of in columns.items()}
        if len(lengths) > 1:
            breakdown["bases generated"] = {
                str(length): {name: float(of[:, i].mean()) for name, of in equal.items()} | {"prompts": len(rows)}
                for i, length in enumerate(lengths)
            }
        reported, note = self.reported()
        metrics = {name: found[name] for name in self.metrics if name in found}
        baselines = {name: summary(name, "accuracy", than="accuracy") for name in guesses}
        return Result(
            metrics,
            counts={"prompts": len(rows), "bases": lengths[0] * len(rows), "context": context,
                    **{f"left out: {why}": n for why, n in left_out.items() if n}},
            intervals={name: intervals.ends(found, name) for name in metrics},
            baselines=baselines,
            breakdown=breakdown,
            published=tuple(row for row in reported if row.metric in metrics),
            note=note,
            predictions={
                **columns, "gene": genes, **{name: of.tolist() for name, of in fractions.items()},
                "truth": [bases.decode(x) for x in truths],
                **{f"generated_{mode}": [bases.decode(x) for x in made[name]] for name, mode in _MODES.items()},
            },
            paired=Paired("mean", "accuracy", scores=("accuracy",), groups="gene", rows="gene"),
            figures={
                self.name: lambda: evaluation.groups(
                    self.name.replace("_", " "), "fraction of equal bases (higher is better)",
                    {"model": metrics["accuracy"],
                     **{name.replace("_", " "): row["accuracy"] for name, row in baselines.items()}},
                    {column: {name: row["accuracy"] for name, row in rows.items()}
                     for column, rows in breakdown.items()}, 0.25,
                )
            },
        )  # fmt: skip


def _guesses(rows: Sequence[Row], models: Sequence[Markov], number: int) -> dict[str, list[np.ndarray]]:
    """What each baseline continues the contexts with, codes uint8 [number] per row."""
    both = list(zip(models, rows, strict=True))
    return {
        "most_frequent_base": [model.continued(row.context, number, 0) for model, row in both],
        "copy_of_preceding": [np.resize(row.context[-number:], number) for row in rows],
        **{f"markov_{x}": [model.continued(row.context, number, x) for model, row in both] for x in ORDERS},
    }


def rightmost(context: np.ndarray, most: int, k: int) -> np.ndarray:
    """The rightmost whole tokens of k bases of a context, at most `most` bases."""
    number = min(len(context), most) // k * k
    return context[len(context) - number :]


def equal_by_length(made: Sequence[np.ndarray], truths: Sequence[np.ndarray], lengths: Sequence[int]) -> np.ndarray:
    """The fraction of equal bases among the first of each row, by how many of them, float64 [rows, lengths].

    A continuation that is too short counts as wrong where it has no bases.
    """
    found = np.zeros((len(made), len(lengths)))
    for row, (own, truth) in enumerate(zip(made, truths, strict=True)):
        padded = np.full(len(truth), bases.N, np.uint8)
        padded[: len(own)] = own[: len(truth)]
        found[row] = [equal_bases(padded[:length], truth[:length]) for length in lengths]
    return found


class OwnRows(_Recovery):
    """Recovery on the annotated genomes of `coding_sequences.SOURCES`, or of others; one prompt per gene."""

    def __init__(
        self,
        options: Options,
        name: str = "sequence_recovery",
        lengths: Sequence[int] = (NUM_BASES,),
        sources: Sequence[coding_sequences.Source] = coding_sequences.SOURCES,
        per_species: int = PER_SPECIES,
    ):
        super().__init__(options, lengths)
        self.name, self.sources, self.per_species = name, sources, per_species
        coding_sequences.files(options, sources)

    def rows(self, longest: int):
        """See `_Recovery`."""
        genes, left_out = coding_sequences.read(self.options, self.sources)
        made, models, others = rows_of(genes, longest, self.per_species, self.options.seed)
        return made, models, left_out + others

    def reported(self):
        """See `_Recovery`."""
        return (*_overall(comparable=False), *_by_group(comparable=False)), (
            "The protocol is that of the published figures; the prompts (30,000 of other genomes, which are not here) "
            "and the species of each group are not."
        )


class PublishedRows(_Recovery):
    """A part of GENERator's set: eukaryote, bacteria or others; columns sequence, label (128 bases) and type.

    Beyond the label, the end of the sequence is asked for, as in Carbon's sweep. Its rows name no genes, so that a
    resample draws rows. The Markov models are fitted to the prompts of the other half of a group.
    """

    def __init__(self, options: Options, part: str, lengths: Sequence[int] = (NUM_BASES,)):
        super().__init__(options, lengths)
        self.name, self.part = f"sequence_recovery_{part}", part
        self.path = options.file(
            f"sequence-recovery/{part}/test.parquet",
            "hf download GenerTeam/sequence-recovery --repo-type dataset --local-dir FOLDER/sequence-recovery",
        )

    def rows(self, longest: int):
        """See `_Recovery`."""
        read = table.read(self.path)
        made, left_out = [], collections.Counter()
        columns = (read.values(name, "column") for name in ("sequence", "label", "type"))
        for i, (sequence, label, group) in enumerate(zip(*columns, strict=True)):
            if longest > len(label):
                sequence, label = sequence[:-longest], sequence[-longest:]
            if not sequence or len(label) < longest:
                left_out[f"fewer than {longest} bases to recover"] += 1
            else:
                context = bases.encode(sequence[-CONTEXT_BASES:])
                made.append(Row(group, group, str(i), context, bases.encode(label[:longest])))
        made = [made[i] for i in permute(np.arange(len(made)), len(made), key=self.options.seed).tolist()]
        models = coding_sequences.crossed_models(
            [row.context for row in made], [row.division for row in made], [row.gene for row in made]
        )
        return made, list(models), left_out

    def reported(self):
        """See `_Recovery`."""
        comparable = len(self.lengths) == 1  # else the prompts are shorter
        note = "Rows, prompts and metric are those of the published figures, which state a noise of about 0.2 points."
        if not comparable:
            note = "The published figures are of prompts that end at the label, these of shorter ones."
        if self.part == "eukaryote":
            overall = _of("eukaryote_overall", "accuracy", comparable)
            return (*_overall(comparable), *overall, *_by_group(comparable)), note
        if self.part == "bacteria":
            return _of("prokaryote_overall", "accuracy", comparable), note
        return (), "No figure is published for this part."


def _of(task: str, as_metric: str, comparable: bool, suite="sequence_recovery_groups", metric="accuracy") -> tuple:
    return published.of(suite, task, metric, as_metric=as_metric, comparable=comparable)


def _overall(comparable: bool) -> tuple:
    return tuple(
        row
        for name, mode in _MODES.items()
        for row in _of(f"sequence_recovery_{mode}", name, comparable, "carbon_suite", "percent")
    )


def _by_group(comparable: bool) -> tuple:
    tasks = {group: group for group in list(DIVISIONS)[:6]} | {"prokaryote_overall": "bacteria"}
    return tuple(row for task, group in tasks.items() for row in _of(task, f"accuracy_{group}", comparable))


def _by_length(config):
    return OwnRows(Options.of(config), "recovery_by_length", LENGTHS, per_species=8)


def _published(part: str) -> Entry:
    return Entry(f"sequence_recovery_{part}", lambda config: PublishedRows(Options.of(config), part))


ENTRIES = (
    Entry("sequence_recovery", lambda config: OwnRows(Options.of(config)), quick=48),
    Entry("recovery_by_length", _by_length),
    *map(_published, ("eukaryote", "bacteria", "others")),
)
