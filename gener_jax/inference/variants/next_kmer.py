"""The protocol "next_kmer": how likely is each allele as the continuation of the bases before the variant?

GENERator's protocol for ClinVar (old name "right_edge"), published for substitutions of one base and extended here to
other variants. The context is `<s>` and up to `context` bases that end just before the variant, without N at their
beginning and cut at the left to a whole number of k-mers.

A substitution of one base: the ratio is log(p_ref / (p_alt + 1e-10)) in nats, where p of a base is the sum over all
k-mers that begin with it. Other variants may need more than one k-mer: there p is the exact likelihood of the allele,
without the 1e-10. If the alleles differ in length, the `FLANK` bases after them, the same for both, are scored too.

The contexts of the other phases end up to k - 1 bases before the variant; p is then conditioned on the bases in
between. Near the start of a contig, on the scored strand, there are fewer phases.
"""

import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from data_pipeline.sequence import bases
from data_pipeline.sequence.tokenizer import BOS
from gener_jax.inference.batches import by_row, right_pad
from gener_jax.inference.likelihood import Framed, frame, score_all
from gener_jax.inference.variants.variant import Ratios, Site
from gener_jax.model import kmers
from gener_jax.model.decoder import Decoder

FLANK = 24  # bases after an insertion or deletion that are scored with both alleles
_EPSILON = 1e-10  # of the published formula


def ratios(lm, sites: list[Site], context: int, phases: int, batch_tokens: int) -> list[Ratios]:
    """The log-likelihood ratios of each site; `context` in bases, `phases` at most, `batch_tokens` with padding."""
    found = [Ratios(_name(site), np.zeros((0, 3)), _flag(site, context)) for site in sites]
    for name, score in (("next_kmer", _score_bases), ("next_kmer_sequence", _score_sequences)):
        chosen = [i for i, x in enumerate(found) if x.protocol == name and not x.flag]
        contexts = [list(_contexts(sites[i], context, phases, lm.tokenizer.k)) for i in chosen]
        scored = score(lm, [sites[i] for i in chosen], contexts, batch_tokens, context // lm.tokenizer.k + 1)
        for i, values in zip(chosen, scored, strict=True):
            found[i] = Ratios(name, np.stack(values, axis=1))
    return found


def _name(site: Site) -> str:
    return "next_kmer" if len(site.ref) == len(site.alt) == 1 else "next_kmer_sequence"


def _flag(site: Site, context: int) -> str:
    if len(site.ref) != len(site.alt) and len(site.after) < FLANK:
        return f"fewer than {FLANK} bases after the variant"
    before = site.before[max(len(site.before) - context, 0) :]
    return "no known base in the context before the variant" if len(before) and (before >= bases.N).all() else ""


def _contexts(site: Site, context: int, phases: int, k: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields for each phase the context, whole k-mers, and the bases between it and the variant, one per phase."""
    for phase in range(min(phases, len(site.before) + 1)):
        end = len(site.before) - phase
        upstream = site.before[max(end - context, 0) : end]
        known = np.flatnonzero(upstream < bases.N)
        upstream = upstream[known[0] if len(known) else len(upstream) :]
        yield upstream[len(upstream) % k :], site.before[end:]


def _score_bases(lm, sites: list[Site], contexts: list, batch_tokens: int, usual: int) -> Iterator[tuple]:
    """Yields for each substitution of one base llr, log_p_ref and log_p_alt, float64 [phases] each."""
    rows, wanted = {}, []  # each distinct row once: nearby variants share contexts
    for phases in contexts:
        wanted.append([])
        for upstream, given in phases:
            codes = np.full(lm.tokenizer.k, bases.N, np.uint8)
            codes[: len(given)] = given
            ids = np.concatenate([[BOS], lm.tokenizer.encode_bases(upstream)]).astype(np.int32)
            wanted[-1].append((upstream.tobytes(), codes.tobytes()))
            rows[wanted[-1][-1]] = ids, codes
    masses = dict(zip(rows, _masses(lm, list(rows.values()), batch_tokens, usual), strict=True))
    for site, keys in zip(sites, wanted, strict=True):
        by_base = np.array([masses[key][phase] for phase, key in enumerate(keys)], np.float64)
        # Conditioned on the given bases, if any: only then is the mass of special tokens excluded.
        by_base[1:] -= np.logaddexp.reduce(by_base[1:], axis=1, keepdims=True)
        ref, alt = by_base[:, site.ref[0]], by_base[:, site.alt[0]]
        yield ref - np.logaddexp(alt, np.log(_EPSILON)), ref, alt


def _score_sequences(lm, sites: list[Site], contexts: list, batch_tokens: int, usual: int) -> Iterator[tuple]:
    """Yields for each other variant the same, by the log-likelihood of each allele minus that of the given bases."""
    rows, wanted = {}, []
    for site, phases in zip(sites, contexts, strict=True):
        flank = site.after[: 0 if len(site.ref) == len(site.alt) else FLANK]
        wanted.append([])
        for upstream, given in phases:
            texts = [given, *(np.concatenate([given, allele, flank]) for allele in (site.ref, site.alt))]
            keys = [(upstream.tobytes(), text.tobytes()) for text in texts]
            rows |= {key: _after(lm, upstream, text) for key, text in zip(keys, texts, strict=True) if len(text)}
            wanted[-1].append(keys)
    scores = score_all(lm, list(rows.values()), batch_tokens=batch_tokens, usual=usual)
    sums = {key: x.sum(dtype=np.float64) for key, x in zip(rows, scores, strict=True)}
    for phases in wanted:
        given, ref, alt = np.array([[sums.get(key, 0.0) for key in keys] for keys in phases]).T
        ref, alt = ref - given, alt - given
        yield ref - alt, ref, alt


def _after(lm, upstream: np.ndarray, text: np.ndarray) -> Framed:
    """Frames `upstream` (whole k-mers) and `text` so that only the bases of `text` are scored."""
    row = frame(lm.tokenizer, (), np.concatenate([upstream, text]))
    row.codes[: len(upstream) // lm.tokenizer.k] = bases.N
    return row


def _masses(lm, rows: list[tuple[np.ndarray, np.ndarray]], batch_tokens: int, usual: int) -> list[np.ndarray]:
    """`next_kmer_masses` of each row (ids of the context, codes of the next token), float32 [k, 4]."""

    def compute(chosen, number, length):
        empty = (np.array([BOS]), np.zeros(lm.tokenizer.k, np.uint8))
        batch = [rows[i] for i in chosen] + [empty] * (number - len(chosen))
        ids, codes = right_pad([ids for ids, _ in batch], length), np.stack([codes for _, codes in batch])
        lengths = np.array([len(ids) for ids, _ in batch], np.int32)
        return next_kmer_masses(lm.model, lm.params, ids, lengths, codes)

    found = dict(by_row(compute, lm.mesh, [len(ids) for ids, _ in rows], batch_tokens, usual))
    return [found[i] for i in range(len(rows))]


@functools.partial(jax.jit, static_argnames="model")
def next_kmer_masses(
    model: Decoder, params, ids: Int[Array, "B T"], lengths: Int[Array, " B"], codes: Int[Array, "B k"]
) -> Float[Array, "B k 4"]:
    """`log_masses` of the token after the last of each row, by a softmax over the full vocabulary."""
    hidden, _ = model.apply({"params": params}, ids)
    last = jnp.take_along_axis(hidden, lengths[:, None, None] - 1, axis=1)[:, 0]
    logits = model.apply({"params": params}, last, method="logits")
    log_p = kmers.of(jax.nn.log_softmax(logits, axis=-1), codes.shape[-1])
    return kmers.log_masses(log_p, codes.astype(jnp.int32))
