"""Genomic needle in a haystack: whether a model finds a key again in a long context, and copies what follows it.

The protocol of Carbon: in a stretch of a real genome, a key of 24 bases with its value of 24 bases is planted at a
depth of 10 to 90 %, and the key stands again at the end; the model continues it greedily. In the harder forms there are
eight distractors too: keys that differ from the true one in 4, 2 or 1 bases, each with a value of its own.

A length is in tokens of 6 bases, whatever those of the model are: prompt and value are that many but two, which leaves
a model of so many positions room for <s> before and after. If plants are aligned, each begins at a multiple of 6, so
that the planted key has the 6-mers of the key at the end. If they are not, each is 1 to 5 bases off, and a model of
6-mers must find a key in other tokens than those at the end.

The likelihood variant (the value against another one) is left out: its authors find it above 0.95 where the model
generates under a tenth of the values, since any other 24 bases are easily distinguished from it.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np

from data_pipeline.formats import fasta, file_names, genbank
from data_pipeline.sequence import bases
from gener_jax.assets import EXAMPLE_GENOME
from gener_jax.plotting import evaluation
from gener_jax.runtime.errors import InputError
from gener_jax.statistics import intervals
from gener_jax.statistics.metrics import Metric
from gener_jax.storage.results import Published
from gener_jax.tasks import published
from gener_jax.tasks.base import Entry, ModelTask, NotRun, Options, Paired, Progress, Result, silent

LENGTHS = (4096, 8192, 16384, 32768, 65536, 131072)  # tokens of 6 bases
SHORT = (256, 512, 1024, 2048)
DEPTHS = (0.10, 0.25, 0.50, 0.75, 0.90)
FORMS = {"niah": 0, "neardup_d4": 4, "neardup_d2": 2, "neardup_d1": 1}  # bases of a distractor's key that differ
ALIGNMENTS = ("aligned", "not_aligned")
SIZE = 24  # bases of a key, and of a value
_PUBLISHED = {16384: "98kbp", 32768: "196kbp", 65536: "393kbp", 131072: "786kbp"}
_K, _DISTRACTORS = 6, 8
_ROOM = 2 * SIZE + _K  # bases of a key and its value, at any offset
_BATCH = 65536  # tokens of prompts that are generated from together


class Example(NamedTuple):
    """A prompt with a planted key.

    Attributes:
      prompt: base codes, uint8 [bases]; the last 24 are the key.
      value: the answer, uint8 [24].
      distractors: the values of the distractors, uint8 [distractors, 24].
      starts: where the key and then the distractors' keys are planted, 0-based.
    """

    prompt: np.ndarray
    value: np.ndarray
    distractors: np.ndarray
    starts: tuple[int, ...]


def known_bases(path: str | Path) -> np.ndarray:
    """The bases of all records of a FASTA or GenBank file, without unknown ones, as codes uint8 [bases].

    Raises:
      DataError: if the file cannot be read.
    """
    is_genbank = file_names.format_of(Path(path)) == file_names.GENBANK
    records = genbank.read(path, kinds=()) if is_genbank else fasta.read(path)
    codes = np.concatenate([record.codes for record in records])
    return codes[codes < bases.N]


def prompt_bases(length: int) -> int:
    """The bases of a prompt of a length: a whole number of 6-mers."""
    return (length - 2) * _K - SIZE


def plant(
    haystack: np.ndarray, number: int, length: int, depth: float, form: str, aligned: bool, seed: int = 0
) -> Example:
    """The `number`-th example of a length; its stretch, key and value do not depend on depth, form and alignment.

    Plants replace bases of the stretch and never overlap. The key occurs exactly twice in the prompt, as planted and at
    its end, and each distractor's key and each value once.
    """
    rng = np.random.default_rng([seed, length, number])
    size, changed = prompt_bases(length) - SIZE, FORMS[form]
    start = int(rng.integers(len(haystack) - size + 1))
    while True:  # until no key or value occurs elsewhere, which it hardly ever does
        key, value = rng.integers(4, size=(2, SIZE), dtype=np.uint8)
        pairs = [(key, value)]
        if changed:
            values = rng.integers(4, size=(_DISTRACTORS, SIZE), dtype=np.uint8)
            pairs += zip(_near_copies(rng, key, changed), values, strict=True)
        starts = _starts(rng, size, depth, len(pairs), aligned)
        prompt = np.concatenate([haystack[start : start + size], key])
        for at, pair in zip(starts, pairs, strict=True):
            prompt[at : at + 2 * SIZE] = np.concatenate(pair)
        text, expected = prompt.tobytes(), [[at] for start in starts for at in (start, start + SIZE)]
        expected[0].append(size)  # the key at the end
        if [_occurrences(text, part.tobytes()) for pair in pairs for part in pair] == expected:
            return Example(prompt, value, np.array([value for _, value in pairs[1:]]).reshape(-1, SIZE), starts)


def _near_copies(rng: np.random.Generator, key: np.ndarray, changed: int) -> list[np.ndarray]:
    """Different keys, each with `changed` bases of the key changed."""
    found: dict[bytes, np.ndarray] = {}
    while len(found) < _DISTRACTORS:
        copy, at = key.copy(), rng.choice(SIZE, changed, replace=False)
        copy[at] = (copy[at] + rng.integers(1, 4, changed)) % 4
        found[copy.tobytes()] = copy
    return list(found.values())


def _starts(rng: np.random.Generator, size: int, depth: float, plants: int, aligned: bool) -> tuple[int, ...]:
    """Where plants start: the first one at its depth, the others anywhere without an overlap."""
    last = (size - _ROOM) // _K
    found = [min(int(depth * size) // _K, last)]
    while len(found) < plants:
        at = int(rng.integers(last + 1))
        if all(abs(at - other) * _K >= _ROOM for other in found):
            found.append(at)
    offsets = [0] * plants if aligned else rng.integers(1, _K, plants).tolist()
    return tuple(at * _K + offset for at, offset in zip(found, offsets, strict=True))


def _occurrences(text: bytes, part: bytes) -> list[int]:
    found = [text.find(part)]
    while found[-1] >= 0:
        found.append(text.find(part, found[-1] + 1))
    return found[:-1]


class Needle(ModelTask):
    """The task. It needs `model.generate(prompts, num_bases, temperature=0.0)` and `model.max_bases`.

    A hit, the positive class, is an answer all of whose 24 bases equal those of the value. Lengths that exceed the
    model's context are not run. All forms and alignments share stretches, keys and values, so intervals are by
    resampling these.
    """

    metric = "exact_match"
    metrics: ClassVar = {
        "exact_match": Metric("fraction of values generated", higher_is_better=True),
        "equal_bases": Metric("fraction of bases", higher_is_better=True),
        "distractor": Metric("fraction of answers that are a distractor's value", higher_is_better=False),
    }

    def __init__(
        self,
        options: Options,
        *,
        name: str = "needle",
        haystack: str | Path = EXAMPLE_GENOME,
        lengths: Sequence[int] = LENGTHS,
        depths: Sequence[float] = DEPTHS,
        forms: Sequence[str] = tuple(FORMS),
        n: int = 500,
    ):
        """The published protocol, in the chromosome of the package.

        Args:
          options: `rows`, if given and fewer, are instead of `n`.
          haystack: a FASTA or GenBank file.
          lengths: tokens of 6 bases.
          n: examples of each length, form and alignment, which share out the depths.

        Raises:
          InputError: if a form is unknown, or a length is too short for its plants.
        """
        for form in forms:
            if form not in FORMS:
                raise InputError(f"must be of {', '.join(FORMS)}", "forms", form)
        plants = 1 + _DISTRACTORS * any(FORMS[form] for form in forms)
        least = -(-(2 * _ROOM * plants + 2 * SIZE) // _K) + 2  # so that there is always room for one more
        if min(lengths) < least:
            raise InputError(f"must be at least {least} tokens, for {plants} plants", "lengths", min(lengths))
        self.name, self.haystack, self.lengths = name, Path(haystack), tuple(lengths)
        self.depths, self.forms, self.seed = tuple(depths), tuple(forms), options.seed
        self.n = n if options.rows is None else min(n, options.rows)

    def __call__(self, model, progress: Progress = silent) -> Result:
        """See `base.ModelTask`.

        Raises:
          NotRun: if no length fits the model's context, or one exceeds the haystack.
        """
        longest = model.max_bases
        lengths = [x for x in self.lengths if longest is None or prompt_bases(x) + SIZE <= longest]
        if not lengths:
            least = min(self.lengths)
            raise NotRun(f"{least:,} tokens of {_K} bases exceed the context of the model, {longest:,} bases")
        haystack, most = known_bases(self.haystack), prompt_bases(max(lengths)) - SIZE
        if len(haystack) < most:
            raise NotRun(f"needs a haystack of {most:,} known bases; {self.haystack} has {len(haystack):,}")
        rows, total = [], self.n * len(lengths) * len(self.forms) * len(ALIGNMENTS)
        for length in lengths:
            examples, size = self._examples(haystack, length), max(_BATCH // length, 1)
            while batch := list(itertools.islice(examples, size)):
                prompts = [bases.decode(example.prompt) for _, example in batch]
                answers = model.generate(prompts, SIZE, temperature=0.0)
                for (row, example), answer in zip(batch, answers, strict=True):
                    rows.append(row | {"answer": answer} | _judged(example, bases.encode(answer)))
                progress(len(rows), total)
        columns = {name: np.array([row[name] for row in rows]) for name in rows[0]}
        return self._result(columns, lengths)

    def _examples(self, haystack: np.ndarray, length: int) -> Iterator[tuple[dict, Example]]:
        for number in range(self.n):
            depth = self.depths[number % len(self.depths)]
            for form in self.forms:
                for alignment in ALIGNMENTS:
                    aligned = alignment == "aligned"
                    example = plant(haystack, number, length, depth, form, aligned, self.seed)
                    row = {"row": f"{length}, {number}, {form}, {alignment}", "example": f"{length}, {number}"}
                    row |= {"length": length, "depth": depth, "form": form, "alignment": alignment}
                    yield row | {"start": example.starts[0], "value": bases.decode(example.value)}, example

    def _result(self, columns: dict[str, np.ndarray], lengths: Sequence[int]) -> Result:
        labels = {
            "length": [f"{x:,} tokens" for x in columns["length"]],
            "depth": [f"{x:.0%}" for x in columns["depth"]],
            "form": columns["form"].tolist(),
            "alignment": [x.replace("_", " ") for x in columns["alignment"]],
        }
        cell = (labels[name] for name in ("length", "form", "alignment"))
        labels["cell"] = [", ".join(x) for x in zip(*cell, strict=True)]  # by depth too in the figure
        breakdown = {
            column: {name: self._summary(columns, np.array(names) == name) for name in dict.fromkeys(names)}
            for column, names in labels.items()
        }
        skipped = [f"{x:,} tokens" for x in self.lengths if x not in lengths]
        breakdown["length"] |= {name: {"examples": 0} for name in skipped}
        summary = self._summary(columns, np.ones(len(columns["length"]), bool))
        metrics = {name: x for name, x in summary.items() if name in self.metrics}
        ends = [summary[name] for name in ("exact_match_low", "exact_match_high") if name in summary]
        chance = {"exact_match": 0.0, "equal_bases": 0.25, "distractor": 0.0}  # 4^-24 is 0 to every digit shown
        return Result(
            metrics=metrics,
            counts={"hits": int(columns["exact_match"].sum()), "examples": summary["examples"]},
            intervals={"exact_match": tuple(ends) or None},
            baselines={"chance": {name: chance[name] for name in metrics}},
            breakdown=breakdown,
            published=tuple(x for length in lengths for x in _published(length)),
            note=self._note(skipped),
            predictions=columns,
            paired=Paired("mean", "exact_match", scores=("exact_match",), groups="example", rows="row"),
            figures={self.name: lambda: self._figure(columns)},
        )

    def _summary(self, columns: dict[str, np.ndarray], chosen: np.ndarray) -> dict[str, float]:
        hits, harder = columns["exact_match"][chosen], chosen & (columns["form"] != "niah")
        found = {"exact_match": float(hits.mean()), "equal_bases": float(columns["equal_bases"][chosen].mean())}
        if harder.any():
            found["distractor"] = float(columns["distractor"][harder].mean())
        if ends := intervals.mean_interval(hits, columns["example"][chosen], seed=self.seed):
            found["exact_match_low"], found["exact_match_high"] = ends
        return found | {"examples": len(hits)}

    def _note(self, skipped: Sequence[str]) -> str:
        note = (
            f"Stretches of {self.haystack.name}; the published figures are of another haystack (OpenGenome2), so they "
            "compare in kind only, each with the cells of its length."
        )
        return note + (f" Not run, since it exceeds the context: {', '.join(skipped)}." if skipped else "")

    def _figure(self, columns: dict[str, np.ndarray]):
        def cell(form, alignment, depth, length):
            where = {"form": form, "alignment": alignment, "depth": depth, "length": length}
            hits = columns["exact_match"][np.logical_and.reduce([columns[name] == x for name, x in where.items()])]
            return hits.mean() if len(hits) else np.nan

        panels = {
            f"{form}, {alignment.replace('_', ' ')}": np.array(
                [[cell(form, alignment, depth, length) for length in self.lengths] for depth in self.depths]
            )
            for form in self.forms
            for alignment in ALIGNMENTS
        }
        title = f"{self.name.replace('_', ' ')}: fraction of values generated"
        rows, across = [f"{x:.0%}" for x in self.depths], [f"{x:,}" for x in self.lengths]
        return evaluation.heat_maps(title, panels, ("depth", rows), ("tokens of 6 bases", across))


def _published(length: int) -> tuple[Published, ...]:
    """The figures of a length, whose models' names tell it."""
    if length not in _PUBLISHED:
        return ()
    name = _PUBLISHED[length]
    found = published.of("needle", name, "exact_match", as_metric="exact_match", comparable=False)
    return tuple(dataclasses.replace(x, model=f"{x.model}, {name}") for x in found)


def _judged(example: Example, answer: np.ndarray) -> dict:
    """What an answer is worth: whether it is the value, its fraction of equal bases, whether a distractor's value."""
    equal = np.zeros(SIZE, bool)
    equal[: len(answer)] = answer[:SIZE] == example.value[: len(answer)]
    distractor = len(answer) == SIZE and bool((example.distractors == answer).all(1).any())
    return {"exact_match": bool(equal.all()), "equal_bases": float(equal.mean()), "distractor": distractor}


ENTRIES = (
    Entry("needle", lambda config: Needle(Options.of(config))),
    Entry("needle_short", lambda config: Needle(Options.of(config), name="needle_short", lengths=SHORT), quick=15),
)
