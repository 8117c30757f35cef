"""Checks coding sequences against their annotation: genetic codes, NCBI's exceptions, and the outcome.

The segments of a CDS are joined, translated in its reading frame with its genetic code, and compared with /translation.
This verifies that locations, strands, the order of segments, the frame and the code were all interpreted correctly.
"""

import functools
import re
from collections.abc import Mapping, Sequence

import numpy as np

from data_pipeline.sequence import bases

EQUAL = "equal"
EQUAL_BUT_START = "equal but for the first codon"
EQUAL_BUT_UNKNOWN = "equal where the bases are known"
EXCEPTION = "different, with an exception annotated"
DIFFERENT = "different"
NONE_GIVEN = "no /translation"
INNER_STOP = "no /translation, and inner stop codons"
PSEUDO = "pseudo"
UNREADABLE = "unreadable frame or genetic code"
OUTCOMES = (EQUAL, EQUAL_BUT_START, EQUAL_BUT_UNKNOWN, EXCEPTION, DIFFERENT, NONE_GIVEN, INNER_STOP, PSEUDO, UNREADABLE)

EXCEPTIONS = ("transl_except", "exception", "ribosomal_slippage", "artificial_location")

_RADIX = 5  # bases and N
_NAMES = """Ala Arg Asn Asp Cys Gln Glu Gly His Ile Leu Lys Met Phe Pro Ser Thr Trp Tyr Val Sec Pyl Asx Glx Xle
    TERM OTHER"""
_AMINO_ACIDS = dict(zip(_NAMES.split(), "ARNDCQEGHILKMFPSTWYVUOBZJ*X", strict=True))
_EXCEPT = re.compile(r"\(pos:(.*),aa:(\w+)\)")


@functools.cache
def _table(genetic_code: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The amino acid (ASCII, uint8 [125]) of each codon, indexed in base 5; whether it may start or stop (bool).

    A codon with N has the amino acid that all its possible codons share, else X. Raises KeyError for an unknown code.
    """
    from Bio.Data import CodonTable  # the import takes 0.05 s, and most builds translate nothing

    table = CodonTable.unambiguous_dna_by_id[genetic_code]
    letters = np.full(_RADIX**3, ord("X"), np.uint8)
    starts, stops = np.zeros((2, _RADIX**3), bool)
    forward = {codon: table.forward_table.get(codon, "*") for codon in _codons(bases.LETTERS[:4])}
    for number, codon in enumerate(_codons(bases.LETTERS)):
        readings = {forward[known] for known in _readings(codon)}
        if len(readings) == 1:
            letters[number] = ord(readings.pop())
        starts[number] = all(known in table.start_codons for known in _readings(codon))
        stops[number] = all(known in table.stop_codons for known in _readings(codon))
    return letters, starts, stops


def start_codons(genetic_code: int) -> np.ndarray:
    """Whether each codon, indexed in base 5, can start a protein, bool [125]; one with N, if all its codons can."""
    return _table(genetic_code)[1]


def stop_codons(genetic_code: int) -> np.ndarray:
    """Whether each codon, indexed in base 5, is a stop, bool [125]; a codon with N is one if all its codons are."""
    return _table(genetic_code)[2]


def _codons(letters: str) -> list[str]:
    return [a + b + c for a in letters for b in letters for c in letters]


def _readings(codon: str) -> list[str]:
    """The codons of A, T, C and G that a codon with N can stand for."""
    a, b, c = (bases.LETTERS[:4] if letter == "N" else letter for letter in codon)
    return [x + y + z for x in a for y in b for z in c]


def known_code(genetic_code: int) -> bool:
    """Whether NCBI defines a genetic code with this number."""
    from Bio.Data import CodonTable  # as above

    return genetic_code in CodonTable.unambiguous_dna_by_id


def _numbers(codes: np.ndarray) -> np.ndarray:
    """The complete codons as numbers in base 5, uint8 [codons]."""
    codons = codes[: len(codes) // 3 * 3].reshape(-1, 3)
    return codons[:, 0] * np.uint8(_RADIX**2) + codons[:, 1] * np.uint8(_RADIX) + codons[:, 2]


def translate(codes: np.ndarray, genetic_code: int) -> str:
    """The amino acids of the complete codons of base codes, uint8 [length]: X where unknown, * where one stops."""
    return _table(genetic_code)[0][_numbers(codes)].tobytes().decode("ascii")


def check(
    codes: np.ndarray,
    segments: Sequence[tuple[int, int, int]],
    qualifiers: Mapping[str, tuple[str, ...]],
    reading_frame: int,
    genetic_code: int,
) -> str:
    """Compares a CDS with its annotation; returns one of OUTCOMES.

    `codes` are its joined bases, uint8 [length]. `segments` are their (start, end, strand) on the record, 5' to 3',
    which locate /transl_except. `reading_frame` is the number of bases before the first codon. `qualifiers` have
    GenBank's names. The first amino acid may be M if the codon can start a protein; an incomplete last codon counts if
    its amino acid is certain; the final stop is not an amino acid.
    """
    if "pseudo" in qualifiers or "pseudogene" in qualifiers:
        return PSEUDO
    if reading_frame < 0 or not known_code(genetic_code):
        return UNREADABLE
    letters, starts, stops = _table(genetic_code)
    coding = codes[reading_frame:]
    tail = -len(coding) % 3
    if tail:
        coding = np.concatenate([coding, np.full(tail, bases.N, np.uint8)])
    numbers = _numbers(coding)
    protein = letters[numbers]
    for codon, letter in _excepted(segments, qualifiers, reading_frame):
        if 0 <= codon < len(protein):
            protein[codon] = ord(letter)
    if tail and protein[-1] == ord("X"):
        protein, tail = protein[:-1], 0
    if len(protein) and protein[-1] == ord("*"):
        protein, tail = protein[:-1], 0
    annotated = qualifiers.get("translation")
    if annotated is None:
        return INNER_STOP if (protein == ord("*")).any() else NONE_GIVEN
    expected = np.frombuffer(annotated[0].replace(" ", "").rstrip("*").encode("ascii", "replace"), np.uint8)
    # The amino acid of an incomplete last codon may be omitted, and in some codes a codon is a stop only at the end.
    if len(expected) == len(protein) - 1 and (tail or stops[numbers[len(protein) - 1]]):
        protein = protein[:-1]
    if len(expected) == len(protein):
        differs = expected != protein
        if len(differs) and differs[0] and expected[0] == ord("M") and starts[numbers[0]]:
            differs[0] = False
        if not differs.any():
            return EQUAL
        if expected[0] == ord("M") and not differs[1:].any():
            return EQUAL_BUT_START
        if (protein[differs] == ord("X")).all():
            return EQUAL_BUT_UNKNOWN
    return EXCEPTION if any(key in qualifiers for key in EXCEPTIONS) else DIFFERENT


def _excepted(
    segments: Sequence[tuple[int, int, int]], qualifiers: Mapping, reading_frame: int
) -> list[tuple[int, str]]:
    """The codons (numbered in the reading frame) and the amino acids that /transl_except assigns to them."""
    found = []
    for text in qualifiers.get("transl_except", ()):
        if match := _EXCEPT.fullmatch(text.replace(" ", "")):
            positions = [int(number) - 1 for number in re.findall("[0-9]{1,12}", match[1])]
            offsets = [
                offset
                for offset in (_offset_in_cds(position, segments) for position in positions)
                if offset is not None
            ]
            if offsets:
                found.append(((min(offsets) - reading_frame) // 3, _AMINO_ACIDS.get(match[2], "X")))
    return found


def _offset_in_cds(position: int, segments: Sequence[tuple[int, int, int]]) -> int | None:
    """The offset of a base of the record in the joined segments; None if it is outside them."""
    before = 0
    for start, end, strand in segments:
        if start <= position < end:
            return before + (position - start if strand > 0 else end - 1 - position)
        before += end - start
    return None
