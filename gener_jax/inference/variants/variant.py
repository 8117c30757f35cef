"""Variants, and their alleles in context: trimmed, leftmost, on either strand."""

from typing import NamedTuple

import numpy as np

from data_pipeline.sequence import bases
from gener_jax.inference.variants.genome import Genome

FLANK = 24  # bases after an insertion or deletion that "next_kmer" scores with both alleles


class Variant(NamedTuple):
    """One alternate allele; `start` is the 0-based position of the first base of `ref`."""

    contig: str
    start: int
    ref: str
    alt: str


def trimmed(start: int, ref: str, alt: str) -> tuple[int, str, str]:
    """Start and alleles without the bases that the alleles share at their ends; the right end is trimmed first."""
    while ref and alt and ref[-1] == alt[-1]:
        ref, alt = ref[:-1], alt[:-1]
    shared = next((i for i, (a, b) in enumerate(zip(ref, alt, strict=False)) if a != b), min(len(ref), len(alt)))
    return start + shared, ref[shared:], alt[shared:]


class Site(NamedTuple):
    """The alleles of a variant and the bases before and after them on the scored strand, as codes uint8 [bases]."""

    before: np.ndarray
    ref: np.ndarray
    alt: np.ndarray
    after: np.ndarray


def sites_of(variant: Variant, genome: Genome, context: int, largest: int, strands: str) -> list[Site] | str:
    """The site of a variant on each of the strands, or one line with the reason why it cannot be scored.

    `context`: bases of context; `largest`: the most bases that an allele may have, single bases excepted.
    """
    contig = genome.contig(variant.contig)
    if contig is None:
        return genome.missing(variant.contig)
    if variant.start < 0:
        return f"position {variant.start + 1} is before the first base"
    stretch = genome.stretch(contig, variant.start, variant.start + len(variant.ref))
    if stretch is None:
        last = max(s.start + len(s.codes) for s in genome.stretches[contig])
        return f"position {variant.start + 1} is outside the bases of {contig} in the FASTA (up to {last})"
    at = variant.start - stretch.start
    if set(variant.ref) - set("ACGT"):
        return f"REF {_short(variant.ref)} has letters other than A, C, G and T"
    found = bases.decode(stretch.codes[at : at + len(variant.ref)])
    if found != variant.ref:
        return f"REF is {_short(variant.ref)}, but the FASTA has {_short(found)}"
    if not variant.alt or set(variant.alt) - set("ACGT"):
        return f"ALT {_short(variant.alt)} is not a sequence"
    if variant.ref == variant.alt:
        return "ALT equals REF"
    at, ref, alt = trimmed(at, variant.ref, variant.alt)
    if max(len(ref), len(alt)) > largest and not len(ref) == len(alt) == 1:
        return f"an allele has {max(len(ref), len(alt))} bases; this context allows at most {max(largest, 0)}"
    return [_site(stretch.codes, at, bases.encode(ref), bases.encode(alt), context, strand) for strand in strands]


def _site(codes: np.ndarray, at: int, ref: np.ndarray, alt: np.ndarray, context: int, strand: str) -> Site:
    """The site of the alleles at index `at` of a stretch's codes, on a strand.

    An insertion or deletion is shifted to the first position on that strand that gives the same sequence.
    """
    end = at + len(ref)
    if not len(ref) or not len(alt):
        allele = ref if len(ref) else alt
        n = len(allele)
        if strand == "+":
            shift = next((i for i in range(at) if codes[at - 1 - i] != allele[(n - 1 - i) % n]), at)
            allele = np.concatenate([codes[at - shift : at], allele])[:n]
            at, end = at - shift, end - shift
        else:
            most = len(codes) - end
            shift = next((i for i in range(most) if codes[end + i] != allele[i % n]), most)
            allele = np.concatenate([allele, codes[end : end + shift]])[-n:]
            at, end = at + shift, end + shift
        ref, alt = (allele, alt) if len(ref) else (ref, allele)
    # A little more than any protocol uses, on either side and either strand.
    site = Site(codes[max(at - context - 256, 0) : at], ref, alt, codes[end : end + context + 256])
    rc = bases.reverse_complement
    return site if strand == "+" else Site(rc(site.after), rc(ref), rc(alt), rc(site.before))


def _short(allele: str) -> str:
    return allele if len(allele) <= 20 else f"{allele[:20]}… ({len(allele)} bases)"
