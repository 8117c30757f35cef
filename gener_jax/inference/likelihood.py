"""Log-likelihoods and base probabilities of DNA.

A target of a k-mer model holds the codes of its k bases; `bases.N` marks a base that is unknown or lies after the end
of the sequence. Its probability is the sum over all k-mers that agree with its known bases; if all are known, that is a
single k-mer. A target of another model is a token id. The head is applied to a few positions at a time, so memory is
linear in the length.

Dimension key: B rows, T tokens, M partly known targets per row, V vocabulary, D hidden, k bases per token.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int

from data_pipeline.sequence import bases
from data_pipeline.sequence.tokenizer import BOS, Tokenizer
from gener_jax.data.loader import to_devices
from gener_jax.inference.batches import accelerated, by_row
from gener_jax.inference.options import SCORES, STRANDS
from gener_jax.inference.prompt import Prompt, as_prompts
from gener_jax.model import kmers, parallel
from gener_jax.model.decoder import Decoder, variables
from gener_jax.model.losses import token_nll
from gener_jax.model.sharding import TOKENS, batch_sharding, constrain
from gener_jax.runtime.errors import InputError, whole

GIVEN = ("tokens", "bases")
_POSITIONS = 2048  # to which the head is applied at a time


@dataclasses.dataclass(frozen=True)
class Score:
    """The score of a sequence; `pandas.DataFrame` makes a table of several.

    Attributes:
      score: the name of the score. "token": the exact log-likelihood of all known bases, in nats. "base": the mean over
        the known bases of the log-probability of each in its own marginal, given the tokens before its own (as Carbon
        prints it); this is not a likelihood.
      strand: "+", "-", or "both", the mean of the two.
      value: the value of the score.
      bases, unknown: the number of known bases, which are scored, and of unknown ones (N), which are marginalized over.
      tokens, oov: the number of tokens with a known base, and of those with an unknown base, which later tokens see as
        <oov>.
      per_base: if requested, the term of each base, float32 [bases of the sequence], in the order of the + strand; NaN
        for unknown bases. A term of "token" is conditioned on all earlier tokens and on the earlier bases of its own
        token; these terms add up to the value.
    """

    score: str
    strand: str
    value: float
    bases: int
    unknown: int
    tokens: int
    oov: int
    per_base: np.ndarray | None = None


class Framed(NamedTuple):
    """A sequence framed for scoring: ids [tokens], and the codes [tokens, k] of the target that follows each of them.

    The targets that are special tokens of the prefix have no known base, so they score 0. For a tokenizer without
    k-mers `codes` are the targets' ids [tokens].
    """

    ids: np.ndarray
    codes: np.ndarray
    prefix: int = 0  # special tokens between <s> and the DNA
    length: int = 0  # bases of DNA

    @property
    def dna(self) -> np.ndarray:
        """The codes of the DNA, uint8 [length]."""
        return self.codes[self.prefix :].reshape(-1)[: self.length]


def frame(tokenizer: Tokenizer, special: Sequence[int], codes: np.ndarray, phase: int = 0) -> Framed:
    """Frames a sequence: <s>, the ids of special tokens, and DNA codes uint8 [bases] from base `phase` on."""
    k = tokenizer.k
    dna = codes[phase:]
    targets = np.full((-(-len(dna) // k), k), bases.N, np.uint8)
    targets.ravel()[: len(dna)] = dna
    ids = np.concatenate([[BOS], special, tokenizer.encode_bases(dna)])[: len(special) + len(targets)]
    return Framed(
        ids.astype(np.int32), np.concatenate([np.full((len(special), k), bases.N, np.uint8), targets]),
        len(special), len(dna),
    )  # fmt: skip


def _over_positions(function, hidden_BTD, *others):
    """Computes `function(hidden_BTD, *others)` for a few positions at a time and concatenates the results along T.

    A context axis already divides the positions, and the others the rows.
    """
    B, T = hidden_BTD.shape[:2]
    mesh = jax.sharding.get_abstract_mesh().shape
    size = min(max(_POSITIONS * mesh.get("data", 1) * mesh.get("fsdp", 1) // B, 1), T)
    chunks = -(-T // size) if mesh.get("context", 1) == 1 else 1

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
    codes: Int[Array, "B T k"] | Int[Array, "B T"],
    partly_known: Int[Array, "B M"],
    *,
    score: str = "token",
    per_base: bool = False,
    full: bool = True,
) -> Float[Array, "B T ..."]:
    """Log-probabilities of the target that follows each token, float32 [B, T], or of its bases, [B, T, k].

    Unknown bases and targets without a known base get 0. Every device gets the whole result.

    Args:
      model: the decoder.
      params: its parameters, stacked or by layer.
      ids: the tokens.
      codes: the bases of each target; or its id, with which the options do not apply.
      partly_known: the positions of the targets with known and unknown bases; T fills rows that have fewer.
      score: "token" or "base"; see `Score`.
      per_base: return a term per base.
      full: take the softmax over the full vocabulary, else over the k-mers alone.
    """
    k = codes.shape[-1]
    batch = parallel.balance({"inputs": ids, "targets": codes}, {"inputs": TOKENS, "targets": TOKENS})
    hidden, _ = model.apply(variables(params), batch["inputs"], positions_BT=batch.get("positions"))
    codes = batch["targets"].astype(jnp.int32)

    def head(hidden):
        logits = model.apply(variables(params), hidden, method="logits")
        return logits if full else kmers.of(logits, k)

    def terms(of_bases_k, codes):
        """The terms of the known bases, or their sum."""
        found = jnp.where(codes < bases.N, kmers.picked(of_bases_k, jnp.minimum(codes, 3)), 0)
        return found if per_base else found.sum(-1)

    def one_token(hidden, ids):
        return -token_nll(head(hidden), ids)

    def one_kmer(hidden, codes):
        logits = head(hidden)
        whole = (codes < bases.N).all(-1)
        targets = jnp.where(whole, kmers.ranks(codes), 0) + kmers.num_special(logits.shape[-1], k)
        if per_base:
            return jnp.where(whole[..., None], -kmers.base_nll(logits, targets, k), 0)
        return jnp.where(whole, -token_nll(logits, targets), 0)

    def by_marginals(hidden, codes):
        marginals = kmers.marginals(jax.nn.softmax(head(hidden), axis=-1), k)
        return terms(jnp.log(jnp.maximum(marginals, jnp.finfo(jnp.float32).tiny)), codes)

    def several_kmers(hidden, codes):
        masses = kmers.log_masses(kmers.of(jax.nn.log_softmax(head(hidden), axis=-1), k), codes)
        known = codes < bases.N
        # The first known base also pays for the mass of special tokens, so that the terms add up to the log-probability
        # of the k-mers that agree with the target.
        first = jnp.cumsum(known, axis=-1) - known == 0
        before = jnp.where(first, 0, jax.nn.logsumexp(masses, axis=-1))
        return terms(masses - before[..., None], codes)

    function = one_token if codes.ndim == 2 else by_marginals if score == "base" else one_kmer
    found = parallel.restore(_over_positions(function, hidden, codes))
    if partly_known.shape[1]:
        at = jnp.minimum(partly_known, ids.shape[1] - 1)[..., None]
        parts = (jnp.take_along_axis(parallel.restore(x), at, 1) for x in (hidden, codes))
        some = _over_positions(several_kmers, *parts)
        found = found.at[jnp.arange(len(ids))[:, None], partly_known].set(some, mode="drop")
    return constrain(found)


@functools.partial(jax.jit, static_argnames=("model", "given"))
def probability_rows(model: Decoder, params, ids: Int[Array, "B T"], codes: Int[Array, "B T k"], *, given: str):
    """Probabilities of A, T, C, G at each base of the target that follows each token, float32 [B, T, k, 4].

    The four add up to 1. `given` "tokens": the marginals given the earlier tokens; "bases": conditioned also on the
    earlier bases of the k-mer.
    """
    k = codes.shape[-1]
    hidden, _ = model.apply({"params": params}, ids)

    def probabilities(hidden, codes):
        logits = kmers.of(model.apply({"params": params}, hidden, method="logits"), k)
        if given == "tokens":
            return kmers.marginals(jax.nn.softmax(logits, axis=-1), k)
        return jax.nn.softmax(kmers.log_masses(jax.nn.log_softmax(logits, axis=-1), codes), axis=-1)

    return _over_positions(probabilities, hidden, codes.astype(jnp.int32))


def partly_known_targets(rows: list[Framed], number: int, length: int) -> np.ndarray:
    """The argument `partly_known` of `score_rows`, int32 [number, M], for at most as many rows.

    M is 0 if there are none, else a power of two; on an accelerator at least 64, so that fewer programs are compiled.
    """
    found = []
    for row in rows:
        unknown = (row.codes >= bases.N).sum(1)
        found.append(np.flatnonzero((unknown > 0) & (unknown < row.codes.shape[1])))
    longest = max(map(len, found))
    least = 64 if accelerated() else 1
    size = max(1 << (longest - 1).bit_length(), least) if longest else 0
    positions = np.full((number, size), length, np.int32)
    for i, at in enumerate(found):
        positions[i, : len(at)] = at
    return positions


def pad_rows(rows: list[Framed], number: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    """ids int32 [number, length] and codes uint8 [number, length, k]; the padding has no known bases."""
    like = rows[0].codes
    ids = np.full((number, length), BOS, np.int32)
    codes = np.full((number, length, *like.shape[1:]), bases.N, like.dtype)
    for i, row in enumerate(rows):
        ids[i, : len(row.ids)], codes[i, : len(row.ids)] = row.ids, row.codes
    return ids, codes


def kmer_size(lm, what: str) -> int:
    """The k of the model's tokenizer.

    Raises:
      InputError: if it is not a k-mer tokenizer, which `what` needs.
    """
    if lm.tokenizer.kind != "kmer":
        raise InputError(f"{what} needs a k-mer tokenizer", "tokenizer", lm.tokenizer.name)
    return lm.tokenizer.k


def _framed(lm, prompt: Prompt, index: int, strand: str) -> Framed:
    """A sequence framed for scoring; `index` is that among the sequences, for errors."""
    kmer_size(lm, "scoring")
    argument = f"sequences[{index}]"
    if not len(prompt.codes):
        raise InputError("has no DNA to score", argument, str(prompt))
    codes = bases.reverse_complement(prompt.codes) if strand == "-" else prompt.codes
    row = frame(lm.tokenizer, prompt.special, codes)
    lm.check_length(len(row.ids), argument, str(prompt))
    return row


def scorer(model: Decoder, params, mesh: jax.sharding.Mesh, row: Callable[[int], Framed], *, score="token", **options):
    """`compute` of `batches.batched`: `score_rows` of rows that `row` makes, just before they are needed.

    Every process of the mesh must call it, and gets all results. The options are those of `score_rows`.
    """
    rows_and_length, whole = batch_sharding(mesh), NamedSharding(mesh, PartitionSpec())

    def compute(chosen, number, length):
        batch = [row(i) for i in chosen]
        ids, codes = pad_rows(batch, number, length)
        partly_known = np.full((number, 0), length, np.int32)
        if score == "token" and codes.ndim == 3:
            partly_known = partly_known_targets(batch, number, length)
        put = to_devices({"ids": ids, "codes": codes}, rows_and_length)
        some = to_devices({"partly_known": partly_known}, whole)
        return score_rows(model, params, **put, **some, score=score, **options)

    return compute


def score_all(lm, rows: list[Framed], *, batch_tokens: int, usual: int = 0, **options) -> list[np.ndarray]:
    """Log-probabilities of the targets of each framed sequence, float32 [tokens] or [tokens, k], in order.

    `usual`: see `by_length`. The options are those of `score_rows`.
    """
    compute, lengths = scorer(lm.model, lm.params, lm.mesh, rows.__getitem__, **options), [len(row.ids) for row in rows]
    found = dict(by_row(compute, lm.mesh, lengths, batch_tokens, usual))
    return [found[i][:number] for i, number in enumerate(lengths)]


def log_likelihood(
    lm,
    sequences: Iterable[str | Prompt],
    *,
    score: str,
    strand: str,
    per_base: bool,
    special_tokens: bool,
    batch_tokens: int,
) -> list[Score]:
    """See `LM.log_likelihood`."""
    for name, value, choice in (("score", score, SCORES), ("strand", strand, STRANDS)):
        if value not in choice:
            raise InputError(f"must be one of {', '.join(choice)}", name, value)
    strands = ("+", "-") if strand == "both" else (strand,)
    prompts = as_prompts(sequences, "sequences")
    rows = [_framed(lm, prompt, i, s) for i, prompt in enumerate(prompts) for s in strands]
    lm.warn_unseen(row.ids for row in rows)
    values = score_all(lm, rows, score=score, per_base=per_base, full=special_tokens, batch_tokens=batch_tokens)
    found, scored = [], list(zip(rows, values, strict=True))
    for first in range(0, len(rows), len(strands)):
        own = scored[first : first + len(strands)]
        row, unknown = own[0][0], own[0][0].dna >= bases.N
        known = int((~unknown).sum())  # as on the other strand
        total = float(np.mean([np.sum(value, dtype=np.float64) for _, value in own]))
        if score == "base":
            total = total / known if known else math.nan
        terms = per_base and [
            np.where(x.dna < bases.N, value[x.prefix :].reshape(-1)[: x.length], np.nan)[:: -1 if s == "-" else 1]
            for s, (x, value) in zip(strands, own, strict=True)
        ]
        padded = np.concatenate([unknown, np.zeros(-len(unknown) % lm.tokenizer.k, bool)])
        found.append(Score(
            score, strand, total, known, int(unknown.sum()), int((row.codes < bases.N).any(1).sum()),
            int(padded.reshape(-1, lm.tokenizer.k).any(1).sum()), np.mean(terms, axis=0) if per_base else None,
        ))  # fmt: skip
    return found


def base_probabilities(
    lm, sequences: Iterable[str | Prompt], *, given: str, phases: int, batch_tokens: int
) -> list[np.ndarray]:
    """See `LM.base_probabilities`."""
    if given not in GIVEN:
        raise InputError(f"must be one of {', '.join(GIVEN)}", "given", given)
    k = kmer_size(lm, "base_probabilities")
    if whole(phases, "phases", 1) not in (1, k):
        raise InputError(f"must be 1 or {k}", "phases", phases)
    rows, origins, prompts = [], [], as_prompts(sequences, "sequences")
    for i, prompt in enumerate(prompts):
        row = _framed(lm, prompt, i, "+")
        for phase in range(min(phases, len(prompt.codes))):
            rows.append(frame(lm.tokenizer, prompt.special, prompt.codes, phase) if phase else row)
            origins.append((i, phase))
    lm.warn_unseen(row.ids for row in rows)
    sums = [np.zeros((len(prompt.codes), 4), np.float32) for prompt in prompts]
    counts = [np.zeros((len(x), 1), np.float32) for x in sums]

    def compute(chosen, number, length):
        ids, codes = pad_rows([rows[i] for i in chosen], number, length)
        return probability_rows(lm.model, lm.params, ids, codes, given=given)

    for i, probabilities in by_row(compute, lm.mesh, [len(row.ids) for row in rows], batch_tokens):
        row, (sequence, phase) = rows[i], origins[i]
        sums[sequence][phase:] += probabilities[row.prefix : len(row.ids)].reshape(-1, 4)[: row.length]
        counts[sequence][phase:] += 1
    order = ["ATCG".index(letter) for letter in "ACGT"]
    return [(total / n)[:, order] for total, n in zip(sums, counts, strict=True)]
