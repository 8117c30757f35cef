"""Scores of variants that know nothing of a language: what a model's score must beat, on the same rows.

All are larger for what is likelier to do harm. The substitution's kind and the Markov model see the bases alone; the
consequence and the place in an exon or element predict what they did in the other exons, elements or chromosomes, so
that no row takes part in its own prediction; a column of the table (CADD, phyloP) predicts as it is.
"""

import numpy as np

from data_pipeline.sequence import bases
from gener_jax.inference.variants.genome import Genome
from gener_jax.inference.variants.interval import Interval
from gener_jax.inference.variants.variant import Variant
from gener_jax.tasks.markov import Markov
from gener_jax.tasks.variant_tables import Rows, VariantSet, numbers

_PURINES = frozenset("AG")
_MAX_ORDER = 8
_MAX_BASES = 2**26  # of the genome, that a Markov model is fitted on
_EDGE = 30  # bases from an end of an exon or element, beyond which a place counts as inside


def fixed(spec: VariantSet, rows: Rows) -> dict[str, np.ndarray]:
    """Those that learn nothing from the labels: name → float64 [rows], NaN where a row has none."""
    order = markov_order(rows.genome)
    return {
        **{name: score.sign * numbers(rows.table, score.column) for name, score in spec.scores.items()},
        "substitution": np.array([substitution(v, rows.genome) for v in rows.variants]),
        f"markov_{order}": markov(rows.variants, rows.genome, order),
    }


def fitted(spec: VariantSet, rows: Rows, target: np.ndarray) -> dict[str, np.ndarray]:
    """Those that learn a target's rates in the other folds; `target` float64 [rows], NaN where a row has none."""
    if not spec.folds:
        return {}
    folds, found = np.array(rows.table.values(spec.folds, "folds")), {}
    if spec.consequence:
        categories = np.array(rows.table.values(spec.consequence, "consequence"))
        found["consequence"] = held_out_rates(categories, target, folds)
    if spec.regions:
        found["position"] = held_out_rates(places(rows.variants, folds), target, folds)
    return found


def substitution(variant: Variant, genome: Genome) -> float:
    """0 for a transition in a CpG, the commonest mutation, 1 for another transition, 2 for a transversion.

    NaN for what is no substitution of one base.
    """
    if len(variant.ref) != 1 or len(variant.alt) != 1:
        return np.nan
    if (variant.ref in _PURINES) != (variant.alt in _PURINES):
        return 2.0
    around = _around(variant, genome, 1)
    pair = around[1:] if variant.ref == "C" else around[:2]
    return 0.0 if pair == "CG" else 1.0


def held_out_rates(categories: np.ndarray, target: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """How much more harm each row's category does in all other folds than the mean of these, float64 [rows].

    That mean counts as one further row of each category, so what only a row's own fold has gets 0. Without it the
    scores of a fold would contradict its own rate: where it is high, that of the other folds is low.
    """
    known = np.isfinite(target)
    category = np.unique(categories, return_inverse=True)[1].reshape(-1)
    size, found = category.max(initial=-1) + 1, np.full(len(target), np.nan)
    for fold in np.unique(folds):
        others = known & (folds != fold)
        if others.any():
            sums = np.bincount(category[others], target[others], size)
            counts = np.bincount(category[others], minlength=size)
            excess = (sums - counts * target[others].mean()) / (counts + 1)
            found[folds == fold] = excess[category[folds == fold]]
    return found


def places(variants: tuple[Variant, ...], folds: np.ndarray) -> np.ndarray:
    """Where each variant is in its fold: the end that is nearer, and how far, in tens of bases, up to 30."""
    starts, found = np.array([v.start for v in variants]), np.zeros(len(variants), np.int64)
    for fold in np.unique(folds):
        rows = folds == fold
        left, right = starts[rows] - starts[rows].min(), starts[rows].max() - starts[rows]
        near = np.minimum(np.minimum(left, right), _EDGE) // 10
        found[rows] = np.where(left <= right, near, -near - 1)
    return found


def markov_order(genome: Genome) -> int:
    """The largest order up to 8 whose contexts are each seen eight times on average, on both strands of a genome."""
    size, order = sum(len(s.codes) for stretches in genome.stretches.values() for s in stretches), 0
    while order < _MAX_ORDER and 4 ** (order + 2) * 8 <= 2 * size:
        order += 1
    return order


def markov(variants: tuple[Variant, ...], genome: Genome, order: int) -> np.ndarray:
    """Bits that the alternate allele costs more than the reference, the mean over strands, float64 [variants].

    The model is fitted on both strands of the first 67 million bases of the genome, the variants' places included, as
    a language model may have seen them too. NaN for a variant outside of the genome.
    """
    model, left = Markov(order), _MAX_BASES
    for stretches in genome.stretches.values():
        for stretch in stretches:
            codes = np.asarray(stretch.codes[: max(left, 0)])
            left -= len(codes)
            model.add(codes)
            model.add(bases.reverse_complement(codes))
    texts, ends = [], []  # all alleles with what is around them, so that one call scores them
    for variant in variants:
        around = _around(variant, genome, order)
        left_of, right_of = around[:order], around[order + len(variant.ref) :]
        for allele in (variant.ref, variant.alt):
            text = bases.encode(left_of + allele + right_of if around else "")
            texts += [text, bases.encode("N"), bases.reverse_complement(text), bases.encode("N")]
            ends.append(sum(map(len, texts[-4:])))
    bits = model.bits(np.concatenate(texts))
    sums = np.add.reduceat(bits, np.concatenate([[0], np.cumsum(ends)[:-1]]))
    outside = np.array([not _around(v, genome, 0) for v in variants])
    return np.where(outside, np.nan, (sums[1::2] - sums[::2]) / 2)


def _around(variant: Variant, genome: Genome, flank: int) -> str:
    """The bases of a variant's reference allele and `flank` on both sides, N beyond the ends; "" outside the genome."""
    contig = genome.contig(variant.contig)
    where = None if contig is None else genome.stretch(Interval(contig, *variant.interval[1:3]))
    if where is None:
        return ""
    first, last = variant.start - where.start - flank, variant.start - where.start + len(variant.ref) + flank
    text = bases.decode(np.asarray(where.codes[max(first, 0) : last]))
    return "N" * max(-first, 0) + text + "N" * max(last - len(where.codes), 0)
