"""Variants, and where one is read: trimmed, leftmost, on either strand."""

from typing import NamedTuple

import numpy as np

from data_pipeline.sequence import bases
from gener_jax.inference.variants.genome import Genome

FLANK = 24  # bases


class Variant(NamedTuple):
    """One alternate allele: `start` is 0-based, of the first base of `ref`."""

    contig: str
    start: int
    ref: str
    alt: str


def trimmed(start: int, ref: str, alt: str) -> tuple[int, str, str]:
    """The alleles without the bases that they share at their ends, those at the right first."""
    while ref and alt and ref[-1] == alt[-1]:
        ref, alt = ref[:-1], alt[:-1]
    shared = next((i for i, (a, b) in enumerate(zip(ref, alt, strict=False)) if a != b), min(len(ref), len(alt)))
    return start + shared, ref[shared:], alt[shared:]


class Site(NamedTuple):
    """A variant in the bases around it, on the strand that is read: alleles as codes, what is before and behind."""

    before: np.ndarray
    ref: np.ndarray
    alt: np.ndarray
    behind: np.ndarray


def sites_of(variant: Variant, genome: Genome, context: int, largest: int, strands: str) -> list[Site] | str:
    """The variant on each of the strands, or a line that says why it has no score; `largest`: bases of an allele."""
    contig = genome.contig(variant.contig)
    if contig is None:
        return genome.missing(variant.contig)
    if variant.start < 0:
        return f"position {variant.start + 1} is before the first base"
    piece = genome.piece(contig, variant.start, variant.start + len(variant.ref))
    if piece is None:
        ends = max(p.start + len(p.codes) for p in genome.pieces[contig])
        return f"position {variant.start + 1} is outside of the bases of {contig} that the FASTA has (to {ends})"
    at = variant.start - piece.start
    if set(variant.ref) - set("ACGT"):
        return f"REF {_short(variant.ref)} is not of A, C, G and T"
    there = bases.decode(piece.codes[at : at + len(variant.ref)])
    if there != variant.ref:
        return f"REF is {_short(variant.ref)}, the FASTA has {_short(there)}"
    if not variant.alt or set(variant.alt) - set("ACGT"):
        return f"ALT {_short(variant.alt)} is no sequence"
    if variant.ref == variant.alt:
        return "ALT is REF"
    at, ref, alt = trimmed(at, variant.ref, variant.alt)
    if max(len(ref), len(alt)) > largest and not len(ref) == len(alt) == 1:
        return f"an allele of {max(len(ref), len(alt))} bases, up to {max(largest, 0)} are compared in this context"
    return [_placed(piece.codes, at, bases.encode(ref), bases.encode(alt), context, strand) for strand in strands]


def _placed(codes: np.ndarray, at: int, ref: np.ndarray, alt: np.ndarray, context: int, strand: str) -> Site:
    """The alleles at `at` of a piece's codes, on the strand: an insertion or deletion at the first, on that strand, of
    the places that give the same sequence; others where they are.
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
    # A little more than any protocol takes, on either side and either strand.
    site = Site(codes[max(at - context - 256, 0) : at], ref, alt, codes[end : end + context + 256])
    rc = bases.reverse_complement
    return site if strand == "+" else Site(rc(site.behind), rc(ref), rc(alt), rc(site.before))


def _short(allele: str) -> str:
    return allele if len(allele) <= 20 else f"{allele[:20]}… ({len(allele)} bases)"
