"""Markov models of bases: baselines for a language model, fitted on the training split of the same dataset."""

import numpy as np

from data_pipeline.dataset.reader import RegionSource
from data_pipeline.sequence import bases
from data_pipeline.sequence.tokenizer import Tokenizer
from gener_jax.data.permutation import permute


def _contexts(codes: np.ndarray, order: int) -> np.ndarray:
    """The `order` bases before each base, as a number in base 4; −1 where they cross the start or contain an N."""
    n = len(codes)
    context, known = np.zeros(n, np.int64), np.ones(n, bool)
    for back in range(order, 0, -1):
        before = np.concatenate([np.full(min(back, n), 4, np.uint8), codes[: max(n - back, 0)]])
        known &= before < 4
        context = context * 4 + before % 4
    return np.where(known, context, -1)


class Markov:
    """P(base | preceding bases) by counts plus one; contexts are shorter at a start and after an N."""

    def __init__(self, order: int):
        self.order = order
        self.counts = [np.ones((4**o, 4)) for o in range(order + 1)]

    def add(self, codes: np.ndarray) -> None:
        """Counts one region's bases (codes uint8 [bases], 4 for N)."""
        known = codes < 4
        for order, counts in enumerate(self.counts):
            context = _contexts(codes, order)
            at = known & (context >= 0)
            counts += np.bincount(context[at] * 4 + codes[at], minlength=counts.size).reshape(counts.shape)

    def drawn(self, codes: np.ndarray, number: int, rows: int, rng: np.random.Generator) -> np.ndarray:
        """Draws `rows` continuations of `number` bases after some, uint8 [rows, number]."""
        found = np.zeros((rows, number), np.uint8)
        limits = [np.cumsum(counts / counts.sum(-1, keepdims=True), -1)[:, :3] for counts in self.counts]
        before = codes[len(codes) - self.order :] if len(codes) > self.order else codes
        before = before[np.flatnonzero(np.append(4, before) >= 4)[-1] :]  # after the last N
        context = np.full(rows, int("".join(map(str, before)) or "0", 4))
        for i, uniform in enumerate(rng.random((number, rows))):
            order = min(self.order, len(before) + i)
            found[:, i] = (uniform[:, None] > limits[order][context]).sum(-1)
            context = (context * 4 + found[:, i]) % 4 ** min(self.order, order + 1)
        return found

    def bits(self, codes: np.ndarray, order: int | None = None) -> np.ndarray:
        """−log₂ p of each base, float64 [bases]; 0 at N. `order` limits that of the model."""
        bits = np.zeros(len(codes))
        for length, counts in enumerate(self.counts[: None if order is None else order + 1]):
            context = _contexts(codes, length)  # longer ones overwrite shorter ones
            at = (codes < 4) & (context >= 0)
            bits[at] = -np.log2(counts / counts.sum(-1, keepdims=True))[context[at], codes[at]]
        return bits

    def continued(self, codes: np.ndarray, number: int, order: int | None = None) -> np.ndarray:
        """The most likely `number` bases after some, each given those before it, uint8 [number].

        `order` limits that of the model; of equally likely bases it takes the first.
        """
        order = self.order if order is None else order
        best = [counts.argmax(-1).tolist() for counts in self.counts[: order + 1]]
        context = codes[-order:].tolist() if order else []
        found = []
        for _ in range(number):
            known = len(context) - next((i for i, code in enumerate(reversed(context)) if code > 3), len(context))
            at = 0
            for code in context[known:]:
                at = at * 4 + code
            found.append(best[len(context) - known][at])
            context = [*context, found[-1]][-order:] if order else []
        return np.array(found, np.uint8)


def fit(source: RegionSource, tokenizer: Tokenizer, order: int, max_bases: int = 2**28) -> Markov:
    """Fits a model to the regions of a source, each on its own strand, up to `max_bases` in a fixed random order."""
    model, num_bases = Markov(order), 0
    for region in permute(np.arange(len(source)), len(source), key=0):
        if num_bases >= max_bases:
            break
        codes = region_bases(source, tokenizer, int(region))
        model.add(codes)
        num_bases += len(codes)
    return model


def region_bases(source: RegionSource, tokenizer: Tokenizer, region: int) -> np.ndarray:
    """All bases of a region as codes uint8 [bases], from a dataset of bases or of tokens."""
    if source.storage == "token_ids":
        return bases.encode(tokenizer.decode(source.read(region, 0, int(source.index["tokens"][region]))))
    return source.read(region, 0, int(source.index["length"][region]))


def scored_bases(codes: np.ndarray, tokenizer: Tokenizer) -> np.ndarray:
    """Which bases of a region the language model is scored on, bool [bases]: those in whole k-mers without N."""
    k = tokenizer.k if tokenizer.kind == "kmer" else 1
    known = (codes[: len(codes) // k * k].reshape(-1, k) < 4).all(1)
    return np.pad(np.repeat(known, k), (0, len(codes) % k))


def bits_per_base(model: Markov, source: RegionSource, tokenizer: Tokenizer, regions: np.ndarray) -> tuple[float, int]:
    """Mean bits over exactly the bases that `held_out` scores in these regions, and their number."""
    total, number = 0.0, 0
    for region in regions:
        codes = region_bases(source, tokenizer, int(region))
        scored = scored_bases(codes, tokenizer)
        total += float(model.bits(codes)[scored].sum())
        number += int(scored.sum())
    return (total / number if number else float("nan")), number
