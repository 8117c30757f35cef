"""Held-out loss and bits per base: each region at phase 0, on its own strand, in windows of one context length.

The tokens of a region are split into chunks of at most one context length. The input of a chunk is <s> and its tokens
but the last, so every token is a target once. Chunks of similar length are scored together.

bits_per_base is the sum of −log₂ p(target) over targets that are DNA, divided by their number of bases; `loss` is the
same in nats per token. <s>, <oov> and <pad> are not targets. (The training loss includes <s>, which ends a region.)

A region with near copies in the training split shows less of what the model has learnt, so the result also has the
sums over regions without near copies. With k-mers of whole codons it has bits by codon position, for coding regions
without introns, and by case. At the end of a run it is compared with Markov models, fitted on the training split.
"""

import functools
from typing import ClassVar

import jax
import numpy as np

from data_pipeline.dataset.reader import RegionSource
from data_pipeline.errors import DatasetError
from data_pipeline.sequence import bases
from data_pipeline.sequence.tokenizer import BOS, NUM_SPECIAL, Tokenizer, kmer_codes
from data_pipeline.splitting.leakage import NEAR_COPY
from gener_jax.config import Config, ModelSpec
from gener_jax.data.permutation import permute
from gener_jax.inference.batches import batched
from gener_jax.inference.likelihood import Framed, scorer
from gener_jax.model import kernels
from gener_jax.model.decoder import Decoder
from gener_jax.storage.results import Dataset, Evaluation, Model
from gener_jax.tasks import markov, plots
from gener_jax.tasks.base import Metric, Progress, Result, silent

ORDERS = (0, 5)  # of the Markov models
_COUNTS = ("regions", "tokens", "bases")


def region_ids(source: RegionSource, tokenizer: Tokenizer, region: int, start: int, stop: int) -> np.ndarray:
    """Tokens [start, stop) of a region at phase 0, int32."""
    if source.storage == "token_ids":
        return source.read(region, start, stop)
    return tokenizer.encode_bases(source.read(region, start * tokenizer.k, stop * tokenizer.k))


def region_tokens(source: RegionSource, tokenizer: Tokenizer) -> np.ndarray:
    """The number of whole tokens of each region at phase 0, int64 [regions]."""
    return source.index["tokens"] if source.storage == "token_ids" else source.index["length"] // tokenizer.k


def chosen_regions(source: RegionSource, max_regions: int | None) -> np.ndarray:
    """The sorted indices of the regions to evaluate: all, or the first `max_regions` in a fixed random order."""
    number = len(source) if max_regions is None else min(max_regions, len(source))
    return np.sort(permute(np.arange(number), len(source), key=0)) if number < len(source) else np.arange(number)


def held_out_regions(config: Config) -> RegionSource:
    """The split of `eval.split`.

    Raises:
      DatasetError: if it has no regions.
    """
    source = RegionSource(config.data.path, config.eval.split)
    if len(source) == 0:
        remedy = "build with a larger fraction for it"
        raise DatasetError("has no regions", file=source.folder, field="split", value=source.split, remedy=remedy)
    return source


def dataset_of(source: RegionSource) -> Dataset:
    """The dataset of a source, as results name it."""
    return Dataset(str(source.folder), source.digest, source.split)


class HeldOut:
    """The task."""

    name, metric = "held_out", "bits_per_base"
    metrics: ClassVar = {
        "bits_per_base": Metric("bits per base", higher_is_better=False),
        "loss": Metric("nats per token", higher_is_better=False),
        "perplexity": Metric("", higher_is_better=False),
        "bits_per_base_without_near_copies": Metric("bits per base", higher_is_better=False),
    }

    def __init__(self, config: Config, source: RegionSource | None = None):
        """As `config.eval` says, in windows of `data.context_length`; on other regions if there is a `source`."""
        self.config, self.source = config, held_out_regions(config) if source is None else source

    def prepare(self, spec: ModelSpec, mesh: jax.sharding.Mesh):
        """See `base.Task`; the result is a `HeldOutResult`."""
        source, tokenizer, length = self.source, spec.tokenizer.make(), self.config.data.context_length
        model, options = Decoder(kernels.for_any_mask(spec.model)), self.config.eval
        regions = chosen_regions(source, options.max_regions)
        number = region_tokens(source, tokenizer).tolist()
        chunks = [(i, at, min(at + length, number[i])) for i in regions.tolist() for at in range(0, number[i], length)]
        lengths = [stop - start for _, start, stop in chunks]
        kmers, total = tokenizer.kind == "kmer", sum(lengths)
        if kmers:  # of a special token all bases are unknown, so it is not scored
            codes = np.full((tokenizer.vocab_size, tokenizer.k), bases.N, np.uint8)
            codes[NUM_SPECIAL:] = kmer_codes(tokenizer.k)

        def run(params, progress: Progress = silent) -> HeldOutResult:
            found, done, in_flight = HeldOutResult(self, regions, spec.name, tokenizer), 0, {}

            def row(i):
                ids = in_flight[i] = region_ids(source, tokenizer, *chunks[i])
                return Framed(np.concatenate([[BOS], ids[:-1]]), codes[ids] if kmers else ids)

            compute = scorer(model, params, mesh, row, per_base=kmers)
            for chosen, values in batched(compute, mesh, lengths, options.batch_size * length, length):
                for i, value in zip(chosen, values, strict=False):
                    found.add(*chunks[i][:2], in_flight.pop(i), -value[: lengths[i]].astype(np.float64))
                    done += lengths[i]
                progress(done, total)
            return found

        return run


class HeldOutResult(Result):
    """Sums of −log p by region, by codon position and by case, and what follows from them."""

    def __init__(self, task: HeldOut, regions: np.ndarray, model: str, tokenizer: Tokenizer):
        """The result before any chunk is added; `regions` will be evaluated, and `model` is the model's name."""
        self._task, self._regions, self._model, self._tokenizer = task, regions, model, tokenizer
        self._sums = np.zeros((3, len(task.source)))  # nats, tokens and bases, by region
        self._by_codon = np.zeros((2, 3))  # nats and bases, by position
        self._by_case = np.zeros((2, 2))  # nats and bases, upper and lower
        self.predictions, self.figures = {}, {"by_group": self._draw}
        # Genes of these taxa rarely have introns, so the position of a base in its region gives that in its codon.
        unspliced = [i for i, taxon in enumerate(task.source.taxa) if taxon in ("arc", "bct", "plm", "vir")]
        coding = [i for i, kind in enumerate(task.source.kinds) if kind == "cds"]
        self._in_frame = np.isin(task.source.index["taxon"], unspliced) & np.isin(task.source.index["kind"], coding)

    def add(self, region: int, start: int, ids: np.ndarray, nll: np.ndarray) -> None:
        """Adds a chunk, from token `start` of its region: float64 [tokens], or [tokens, k] by base."""
        source, held = self._task.source, self._tokenizer.token_bases[ids]
        dna = held > 0
        nll = nll[dna]
        self._sums[:, region] += nll.sum(), dna.sum(), held.sum()
        if nll.ndim == 2:
            k = nll.shape[1]
            if source.storage == "bases":
                lower = source.lower_case(region, start * k, (start + len(ids)) * k).reshape(-1, k)[dna].ravel()
                self._by_case += np.bincount(lower, nll.ravel(), 2), np.bincount(lower, minlength=2)
            if self._in_frame[region] and k % 3 == 0:
                self._by_codon += nll.sum(0).reshape(-1, 3).sum(0), np.full(3, nll.size // 3)

    def _summary(self, chosen=...) -> dict[str, float]:
        """The metrics and counts over the chosen regions."""
        nats, tokens, number = self._sums[:, chosen].sum(1).tolist()
        loss = nats / tokens if tokens else float("nan")
        return {
            "bits_per_base": nats / number / np.log(2) if number else float("nan"),
            "loss": loss,
            "perplexity": float(np.exp(loss)),
            "regions": int((self._sums[1, chosen] > 0).sum()),
            "tokens": int(tokens),
            "bases": int(number),
        }

    def _without_near_copies(self) -> dict | None:
        """The summary of the regions without near copies in training; None if that is not known, or makes no sense."""
        overlap = self._task.source.index["train_overlap"]
        measured = self._task.source.split != "train" and not np.isnan(overlap).any()
        return self._summary(overlap < NEAR_COPY) if measured else None

    @property
    def metrics(self) -> dict[str, float]:
        """Those of `HeldOut.metrics`; bits per base without near copies only where these are known."""
        total, new = self._summary(), self._without_near_copies()
        found = {name: value for name, value in total.items() if name not in _COUNTS}
        return found if new is None else {**found, "bits_per_base_without_near_copies": new["bits_per_base"]}

    @property
    def counts(self) -> dict[str, int]:
        """The numbers of regions with a target, of targets, and of their bases."""
        return {name: value for name, value in self._summary().items() if name in _COUNTS}

    @property
    def dataset(self) -> Dataset:
        """What the task read."""
        return dataset_of(self._task.source)

    def _draw(self):
        """Bits per base by group."""
        return plots.groups(Evaluation.of(self._task, self, Model(self._model, 0, "", None)))

    @functools.cached_property
    def baselines(self) -> dict[str, dict[str, float]]:
        """The Markov models, which are fitted here."""
        found, source = {}, self._task.source
        for order in ORDERS if self._task.config.eval.baselines else ():
            model = markov.fit(RegionSource(source.folder, "train"), self._tokenizer, order)
            bits, scored = markov.bits_per_base(model, source, self._tokenizer, self._regions)
            if scored != self.counts["bases"]:
                raise AssertionError(f"the baseline saw {scored} bases, the model {self.counts['bases']}")
            found[f"markov_{order}"] = {"bits_per_base": bits}
        return found

    @property
    def breakdown(self) -> dict[str, dict[str, dict[str, float]]]:
        """The summary by kind and taxon, and where they are known, of regions without near copies in training, of
        codon positions in coding regions (each read in frame from its first base), and by case.
        """
        source, found, new = self._task.source, {}, self._without_near_copies()
        for column, names in (("kind", source.kinds), ("taxon", source.taxa)):
            groups = {name: self._summary(source.index[column] == i) for i, name in enumerate(names)}
            found[column] = {name: group for name, group in groups.items() if group["bases"]}
        if new is not None and new["regions"] < self.counts["regions"]:
            found["near_copies"] = {"none in training": new}
        if self._by_codon[1].any():
            found["codon_position"] = _by(("1", "2", "3"), *self._by_codon)
        if self._by_case[1].all():
            found["case"] = _by(("not soft-masked", "soft-masked"), *self._by_case)
        return found


def _by(names, nats: np.ndarray, number: np.ndarray) -> dict[str, dict[str, float]]:
    rows = zip(names, nats.tolist(), number.tolist(), strict=True)
    return {name: {"bits_per_base": nats / number / np.log(2), "bases": int(number)} for name, nats, number in rows}
