"""Variants as sites: their alleles found in the genome, trimmed and leftmost, with the bases around them, by strand.

An insertion or deletion is placed at the leftmost position, on the scored strand, that gives the same sequence.
"""

import numpy as np

from data_pipeline.sequence import bases
from gener_jax.inference.variants.genome import Genome, Stretch
from gener_jax.inference.variants.interval import POSITION
from gener_jax.inference.variants.variant import Site, Variant

_KNOWN = frozenset("ACGT")
_MORE = 256  # bases on either side in addition to the context: more than any protocol uses


def trimmed(start: int, ref: str, alt: str) -> tuple[int, str, str]:
    """Start and alleles without the bases that the alleles share at their ends; the right end is trimmed first."""
    while ref and alt and ref[-1] == alt[-1]:
        ref, alt = ref[:-1], alt[:-1]
    shared = next((i for i, (a, b) in enumerate(zip(ref, alt, strict=False)) if a != b), min(len(ref), len(alt)))
    return start + shared, ref[shared:], alt[shared:]


def leftmost(codes: np.ndarray, at: int, ref: np.ndarray, alt: np.ndarray) -> tuple[int, np.ndarray, np.ndarray]:
    """Index and alleles of an insertion or deletion at the first index of `codes` that gives the same sequence.

    Other trimmed alleles have no other index. All arrays are codes, uint8 [bases].
    """
    if len(ref) and len(alt):
        return at, ref, alt
    allele = ref if len(ref) else alt
    n = len(allele)
    shift = next((i for i in range(at) if codes[at - 1 - i] != allele[(n - 1 - i) % n]), at)
    allele = np.concatenate([codes[at - shift : at], allele])[:n]
    return (at - shift, allele, alt) if len(ref) else (at - shift, ref, allele)


def site(codes: np.ndarray, at: int, ref: np.ndarray, alt: np.ndarray, context: int, strand: str) -> Site:
    """The site on a strand of trimmed alleles at index `at` of a stretch's codes, with a little more than `context`."""
    if strand == "-":  # the same in reverse, by a view of the stretch; only the few bases of the site are complemented
        reverse = site(codes[::-1], len(codes) - at - len(ref), ref[::-1], alt[::-1], context, "+")
        return Site(*(bases.reverse_complement(part[::-1]) for part in reverse))
    at, ref, alt = leftmost(codes, at, ref, alt)
    end = at + len(ref)
    return Site(codes[max(at - context - _MORE, 0) : at], ref, alt, codes[end : end + context + _MORE])


def sites_of(variant: Variant, genome: Genome, context: int, largest: int, strands: str) -> list[Site] | str:
    """The site of a variant on each of the strands, or one line with the reason why it cannot be scored.

    `context`: bases of context; `largest`: the most bases that an allele may have, single bases excepted.
    """
    texts = (variant.contig, variant.ref, variant.alt)
    if variant.start not in POSITION or not all(isinstance(text, str) for text in texts):
        return "start must be a whole number; contig, REF and ALT must be text"
    contig, position = genome.contig(variant.contig), variant.start + 1
    if contig is None:
        return genome.missing(variant.contig)
    if variant.start < 0:
        return f"position {position} is before the first base"
    stretch = genome.stretch(variant.interval._replace(contig=contig))
    if stretch is None:
        last = max(s.end for s in genome.stretches[contig])
        return f"position {position} is outside the bases of {contig} in the FASTA (up to {last})"
    first, margin = variant.start - stretch.start, context + 2 * _MORE
    codes, before = _around(stretch, first, len(variant.ref), margin)
    found = bases.decode(codes[before : before + len(variant.ref)])
    offset, ref, alt = trimmed(0, variant.ref, variant.alt)
    longer = max(len(ref), len(alt))
    problems = (
        (set(variant.ref) - _KNOWN, f"REF {_short(variant.ref)} has letters other than A, C, G and T"),
        (found != variant.ref, f"REF is {_short(variant.ref)}, but the FASTA has {_short(found)}"),
        (not variant.alt or set(variant.alt) - _KNOWN, f"ALT {_short(variant.alt)} is not a sequence"),
        (variant.ref == variant.alt, "ALT equals REF"),
        (
            longer > largest and not len(ref) == len(alt) == 1,
            f"an allele has {longer} bases; this context allows at most {max(largest, 0)}",
        ),
    )
    for wrong, problem in problems:
        if wrong:
            return problem
    ref, alt, need = bases.encode(ref), bases.encode(alt), context + _MORE
    while True:
        sites = [site(codes, before + offset, ref, alt, context, strand) for strand in strands]
        both = zip(sites, strands, strict=True)
        sides = [(s.before, s.after)[:: 1 if strand == "+" else -1] for s, strand in both]
        left, right = (min(map(len, side)) for side in zip(*sides, strict=True))
        at_start, at_end = before == first, first - before + len(codes) == len(stretch.codes)
        if (at_start or left >= need) and (at_end or right >= need):
            return sites
        margin *= 2  # an insertion or deletion in a repeat, far from where it is written
        codes, before = _around(stretch, first, len(variant.ref), margin)


def _around(stretch: Stretch, first: int, length: int, margin: int) -> tuple[np.ndarray, int]:
    """The codes from `margin` bases before an index of a stretch to as many after `length` bases; the index in them."""
    start = max(first - margin, 0)
    return stretch.codes[start : first + length + margin], first - start


def _short(allele: str) -> str:
    return allele if len(allele) <= 20 else f"{allele[:20]}… ({len(allele)} bases)"
