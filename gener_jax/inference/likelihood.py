"""Log-likelihoods and base probabilities of DNA under a model over k-mers.

A target is the codes of its k bases, where `bases.N` stands for a base that is unknown, or that the sequence does not
reach any more. Its probability is the sum over all k-mers that agree with the bases that are known: of one k-mer where
all are. The head runs over a few positions at a time, so memory is linear in the length.

Dimension key: B rows, T tokens, M odd targets a row, V vocabulary, D hidden, k bases a token.
"""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from data_pipeline.sequence import bases
from data_pipeline.sequence.tokenizer import BOS, Tokenizer
from gener_jax.inference.batches import accelerated, by_length, listed, results
from gener_jax.inference.prompt import split_prefix
from gener_jax.model.decoder import Decoder
from gener_jax.model.losses import base_nll

SCORES = ("token", "base")
STRANDS = ("+", "-", "both")
GIVEN = ("tokens", "bases")
_POSITIONS = 2048  # of the head at a time
_NEVER = -jnp.inf


class Score(NamedTuple):
    """What a sequence scores.

    Attributes:
      score: its name. "token": the log-likelihood in nats of all known bases, exact. "base": the mean over the known
        bases of the log-probability of each in its own marginal, given the tokens before its own (as Carbon prints it):
        no likelihood.
      strand: "+", "-", or "both", the mean of the two.
      value: the score.
      bases, unknown: known bases, which are scored, and others (N), which are summed over.
      tokens, oov: tokens with any known base; and those with an unknown one, which later tokens see as <oov>.
      per_base: float32 [bases of the sequence] on the + strand, where asked for: each base's term, NaN where unknown.
        Those of "token" are given all tokens before and the bases before in its own, and add up to the value.
    """

    score: str
    strand: str
    value: float
    bases: int
    unknown: int
    tokens: int
    oov: int
    per_base: np.ndarray | None = None


class Row(NamedTuple):
    """A sequence as the model reads it: ids [tokens], and the codes [tokens, k] of the target behind each of them.

    Targets that are no DNA (special tokens of the prefix) have nothing known: they score 0.
    """

    ids: np.ndarray
    codes: np.ndarray
    prefix: int  # special tokens between <s> and the DNA
    length: int  # bases of DNA

    @property
    def dna(self) -> np.ndarray:
        """The codes of its DNA, uint8 [length]."""
        return self.codes[self.prefix :].reshape(-1)[: self.length]


def frame(tokenizer: Tokenizer, prefix: str, codes: np.ndarray, phase: int = 0) -> Row:
    """<s>, the prefix and DNA codes uint8 [bases] from base `phase` on, as the model reads it and as targets."""
    k = tokenizer.k
    dna = codes[phase:]
    special = tokenizer.encode(prefix)
    targets = np.full((-(-len(dna) // k), k), bases.N, np.uint8)
    targets.ravel()[: len(dna)] = dna
    ids = np.concatenate([[BOS], special, tokenizer.encode_bases(dna)])[: len(special) + len(targets)]
    return Row(
        ids.astype(np.int32), np.concatenate([np.full((len(special), k), bases.N, np.uint8), targets]),
        len(special), len(dna),
    )  # fmt: skip


def log_masses(log_p: Float[Array, "... kmers"], codes: Int[Array, "... k"]) -> Float[Array, "... k 4"]:
    """log Σ p over the k-mers that agree with the known bases before the j-th and have each of the four there."""
    k = codes.shape[-1]
    tables = [log_p]  # of the first k, k-1, …, 1 bases
    for _ in range(k - 1):
        tables.append(jax.nn.logsumexp(tables[-1].reshape(*log_p.shape[:-1], -1, 4), axis=-1))
    agree = jnp.ones((*log_p.shape[:-1], 1), bool)
    found = []
    for j, table in enumerate(reversed(tables)):
        by_base = table.reshape(*table.shape[:-1], -1, 4)
        found.append(jax.nn.logsumexp(jnp.where(agree[..., None], by_base, _NEVER), axis=-2))
        code = codes[..., j, None, None]
        agree = (agree[..., None] & ((jnp.arange(4) == code) | (code >= bases.N))).reshape(*agree.shape[:-1], -1)
    return jnp.stack(found, axis=-2)


def _marginals(log_p, k: int):
    """log p of each base at each place of the k-mer, [..., k, 4]."""
    shares = jnp.exp(log_p).reshape(*log_p.shape[:-1], *(4,) * k)
    first = log_p.ndim - 1
    sums = [shares.sum([first + i for i in range(k) if i != j]) for j in range(k)]
    return jnp.log(jnp.maximum(jnp.stack(sums, axis=-2), jnp.finfo(jnp.float32).tiny))


def _log_softmax(logits, k: int, full: bool):
    """log p of the k-mers, [..., 4^k], the softmax over the whole vocabulary or over them alone."""
    kmers = logits[..., -(4**k) :]
    return kmers - jax.nn.logsumexp(logits if full else kmers, axis=-1, keepdims=True)


def _over_positions(function, hidden_BTD, *others):
    """`function(hidden, *others)` of a few positions at a time, along the length, and its results along it again."""
    B, T = hidden_BTD.shape[:2]
    size = min(max(_POSITIONS // B, 1), T)
    chunks = -(-T // size)

    def cut(x):
        x = jnp.pad(x, [(0, 0), (0, chunks * size - T), *[(0, 0)] * (x.ndim - 2)])
        return x.reshape(B, chunks, size, *x.shape[2:]).swapaxes(0, 1)

    if chunks == 1:
        return function(hidden_BTD, *others)
    found = jax.lax.map(lambda xs: function(*xs), tuple(map(cut, (hidden_BTD, *others))))
    return found.swapaxes(0, 1).reshape(B, chunks * size, *found.shape[3:])[:, :T]


@functools.partial(jax.jit, static_argnames=("model", "score", "per_base", "full"))
def score_rows(
    model: Decoder,
    params,
    ids: Int[Array, "B T"],
    codes: Int[Array, "B T k"],
    odd: Int[Array, "B M"],
    *,
    score: str,
    per_base: bool,
    full: bool,
) -> Float[Array, "B T ..."]:
    """Log-probabilities of the targets behind each token, float32 [B, T] or, by base, [B, T, k]; 0 of what is unknown.

    Args:
      odd: the positions of the targets that have known and unknown bases; T where a row has fewer.
      score: "token" or "base"; see `Score`.
      full: the softmax over the full vocabulary, else over the k-mers alone.
    """
    k = codes.shape[-1]
    hidden, _ = model.apply({"params": params}, ids)
    codes = codes.astype(jnp.int32)
    known = codes < bases.N

    def head(hidden):
        return model.apply({"params": params}, hidden, method="logits")

    def one_kmer(hidden, codes):
        logits = head(hidden)
        whole = (codes < bases.N).all(-1)
        rank = jnp.where(whole, (codes * 4 ** jnp.arange(k)[::-1]).sum(-1), 0)
        kmers = logits[..., -(4**k) :]
        if per_base:
            if not full:
                logits = kmers
            return jnp.where(whole[..., None], -base_nll(logits, rank + logits.shape[-1] - 4**k, k), 0)
        picked = jnp.take_along_axis(kmers, rank[..., None], axis=-1)[..., 0]
        return jnp.where(whole, picked - jax.nn.logsumexp(logits if full else kmers, axis=-1), 0)

    def by_marginals(hidden, codes):
        marginals = _marginals(_log_softmax(head(hidden), k, full), k)
        found = jnp.take_along_axis(marginals, jnp.minimum(codes, 3)[..., None], axis=-1)[..., 0]
        found = jnp.where(codes < bases.N, found, 0)
        return found if per_base else found.sum(-1)

    def several_kmers(hidden, codes):
        masses = log_masses(_log_softmax(head(hidden), k, full), codes)
        known = codes < bases.N
        # Of the first known base, that of special tokens is a share too: the terms add up to the mass of what agrees.
        first = jnp.cumsum(known, axis=-1) - known == 0
        before = jnp.where(first, 0, jax.nn.logsumexp(masses, axis=-1))
        found = jnp.take_along_axis(masses, jnp.minimum(codes, 3)[..., None], axis=-1)[..., 0] - before
        found = jnp.where(known, found, 0)
        return found if per_base else found.sum(-1)

    if score == "base":
        return _over_positions(by_marginals, hidden, codes)
    found = _over_positions(one_kmer, hidden, codes)
    if odd.shape[1]:
        at = jnp.minimum(odd, ids.shape[1] - 1)[..., None]
        some = _over_positions(several_kmers, jnp.take_along_axis(hidden, at, 1), jnp.take_along_axis(codes, at, 1))
        found = found.at[jnp.arange(len(ids))[:, None], odd].set(some, mode="drop")
    return jnp.where(known, found, 0) if per_base else found


@functools.partial(jax.jit, static_argnames=("model", "given"))
def base_shares(model: Decoder, params, ids: Int[Array, "B T"], codes: Int[Array, "B T k"], *, given: str):
    """Probabilities of A, T, C, G at each base of the targets behind each token, float32 [B, T, k, 4], of sum 1.

    `given` "tokens": the marginals, given the tokens before; "bases": given the bases before in the k-mer as well.
    """
    k = codes.shape[-1]
    hidden, _ = model.apply({"params": params}, ids)

    def shares(hidden, codes):
        log_p = _log_softmax(model.apply({"params": params}, hidden, method="logits"), k, False)
        return jax.nn.softmax(log_masses(log_p, codes) if given == "bases" else _marginals(log_p, k), axis=-1)

    return _over_positions(shares, hidden, codes.astype(jnp.int32))


def odd_targets(rows: list[Row], length: int) -> np.ndarray:
    """`odd` of `score_rows`, int32 [rows, M]: M is 0 where there are none, else a power of two (an accelerator's: of
    64 at least, for fewer programs).
    """
    found = []
    for row in rows:
        unknown = (row.codes >= bases.N).sum(1)
        found.append(np.flatnonzero((unknown > 0) & (unknown < row.codes.shape[1])))
    longest = max(map(len, found))
    least = 64 if accelerated() else 1
    odd = np.full((len(rows), max(1 << (longest - 1).bit_length(), least) if longest else 0), length, np.int32)
    for i, at in enumerate(found):
        odd[i, : len(at)] = at
    return odd


def pad_rows(rows: list[Row], number: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    """ids int32 [number, length] and codes uint8 [number, length, k]; what is added has nothing known."""
    k = rows[0].codes.shape[1]
    ids = np.full((number, length), BOS, np.int32)
    codes = np.full((number, length, k), bases.N, np.uint8)
    for i, row in enumerate(rows):
        ids[i, : len(row.ids)], codes[i, : len(row.ids)] = row.ids, row.codes
    return ids, codes


def kmers(lm, what: str) -> int:
    """The k of the model's tokenizer; raises ValueError where it has none: `what` needs one."""
    if lm.tokenizer.kind != "kmer":
        raise ValueError(f"{what} needs a k-mer tokenizer, not {lm.tokenizer.name}")
    return lm.tokenizer.k


def _row(lm, text: str, number: int, strand: str) -> Row:
    """A sequence as it is scored; `number` names it in messages."""
    kmers(lm, "scoring")
    prefix, dna = split_prefix(text)
    if not dna:
        raise ValueError(f"sequence {number} is empty: there is nothing to score")
    lm.tokenizer.encode(dna, remainder="oov")  # refuses what is no base, and says where
    codes = bases.encode(dna)
    row = frame(lm.tokenizer, prefix, bases.reverse_complement(codes) if strand == "-" else codes)
    lm.check_length(len(row.ids), f"sequence {number}")
    return row


def score_all(
    lm,
    rows: list[Row],
    *,
    score: str = "token",
    per_base: bool = False,
    special_tokens: bool = True,
    batch_tokens: int,
    usual: int = 0,
) -> list[np.ndarray]:
    """Log-probabilities of the targets of framed rows, float32 [tokens] or [tokens, k], in their order.

    `usual`: see `by_length`.
    """

    def dispatched():
        for chosen, number, length in by_length([len(row.ids) for row in rows], batch_tokens, usual):
            batch = [rows[i] for i in chosen]
            ids, codes = pad_rows(batch, number, length)
            odd = np.full((number, 0), length, np.int32)
            if score == "token":
                some = odd_targets(batch, length)
                odd = np.full((number, some.shape[1]), length, np.int32)
                odd[: len(batch)] = some
            with jax.set_mesh(lm.mesh):
                values = score_rows(
                    lm.model, lm.params, ids, codes, odd, score=score, per_base=per_base, full=special_tokens
                )
            yield chosen, values

    found = [None] * len(rows)
    for i, value in results(dispatched()):
        found[i] = value[: len(rows[i].ids)]
    return found


def log_likelihood(
    lm, sequences: Sequence[str], *, score: str, strand: str, per_base: bool, special_tokens: bool, batch_tokens: int
) -> list[Score]:
    """See `LM.log_likelihood`."""
    for name, value, choice in (("score", score, SCORES), ("strand", strand, STRANDS)):
        if value not in choice:
            raise ValueError(f"{name} {value!r} is none of {', '.join(choice)}")
    strands = ("+", "-") if strand == "both" else (strand,)
    rows = [_row(lm, text, number, s) for number, text in enumerate(listed(sequences)) for s in strands]
    values = score_all(lm, rows, score=score, per_base=per_base, special_tokens=special_tokens,
                             batch_tokens=batch_tokens)  # fmt: skip
    found = []
    for first in range(0, len(rows), len(strands)):
        totals, terms = [], []
        own = rows[first : first + len(strands)]
        for row, value in zip(own, values[first : first + len(strands)], strict=True):
            unknown = row.dna >= bases.N
            known = int((~unknown).sum())
            total = float(np.sum(value, dtype=np.float64))
            totals.append(total if score == "token" else total / known if known else math.nan)
            if per_base:
                terms.append(np.where(unknown, np.nan, value[row.prefix :].reshape(-1)[: row.length]))
        if per_base and strands[-1] == "-":
            terms[-1] = terms[-1][::-1]
        row, unknown = own[0], own[0].dna >= bases.N
        words = np.concatenate([unknown, np.zeros(-len(unknown) % lm.tokenizer.k, bool)])
        found.append(Score(
            score, strand, float(np.mean(totals)), known, int(unknown.sum()),
            int((row.codes < bases.N).any(1).sum()), int(words.reshape(-1, lm.tokenizer.k).any(1).sum()),
            np.mean(terms, axis=0) if per_base else None,
        ))  # fmt: skip
    return found


def base_probabilities(lm, sequences: Sequence[str], *, given: str, phases: int, batch_tokens: int) -> list[np.ndarray]:
    """See `LM.base_probabilities`."""
    if given not in GIVEN:
        raise ValueError(f"given {given!r} is none of {', '.join(GIVEN)}")
    k = kmers(lm, "base_probabilities")
    if phases not in (1, k):
        raise ValueError(f"phases is {phases}: it is 1 or {k}")
    rows, of, sequences = [], [], listed(sequences)
    for number, text in enumerate(sequences):
        row = _row(lm, text, number, "+")
        prefix, dna = split_prefix(text)
        codes = bases.encode(dna)
        for phase in range(min(phases, len(codes))):
            rows.append(frame(lm.tokenizer, prefix, codes, phase) if phase else row)
            of.append((number, phase))
    sums = [np.zeros((len(split_prefix(text)[1]), 4), np.float32) for text in sequences]
    times = [np.zeros((len(x), 1), np.float32) for x in sums]

    def dispatched():
        for chosen, number, length in by_length([len(row.ids) for row in rows], batch_tokens):
            ids, codes = pad_rows([rows[i] for i in chosen], number, length)
            with jax.set_mesh(lm.mesh):
                shares = base_shares(lm.model, lm.params, ids, codes, given=given)
            yield chosen, shares

    for i, share in results(dispatched()):
        row, (sequence, phase) = rows[i], of[i]
        sums[sequence][phase:] += share[row.prefix : len(row.ids)].reshape(-1, 4)[: row.length]
        times[sequence][phase:] += 1
    order = ["ATCG".index(letter) for letter in "ACGT"]
    return [(total / n)[:, order] for total, n in zip(sums, times, strict=True)]
