"""DNA as small integers: all conversion between letters and codes is here.

Codes follow the published vocabulary's order A, T, C, G, so that a k-mer's rank is its codes read as a number in base
4, and the complement of a base is its code XOR 1. N, and every other IUPAC letter, is 4.
"""

import numpy as np

LETTERS = "ATCGN"
A, T, C, G, N = range(5)
IUPAC = {  # the bases that a letter stands for
    "A": "A", "C": "C", "G": "G", "T": "T", "U": "T", "N": "ACGT", "R": "AG", "Y": "CT", "S": "CG", "W": "AT",
    "K": "GT", "M": "AC", "B": "CGT", "D": "AGT", "H": "ACT", "V": "ACG",
}  # fmt: skip

_CODE_TABLE = bytearray([N]) * 256
for _code, _letter in ((A, "A"), (T, "T"), (C, "C"), (G, "G"), (T, "U")):
    _CODE_TABLE[ord(_letter)] = _CODE_TABLE[ord(_letter.lower())] = _code
_LETTER_TABLE = LETTERS.encode() + b"?" * (256 - len(LETTERS))
_COMPLEMENT = np.array([T, A, G, C, N], np.uint8)
NO_RUNS = np.zeros((0, 2), np.int64)


def encode(sequence: str | bytes) -> np.ndarray:
    """Bases as codes, uint8 [length]: A 0, T (and U) 1, C 2, G 3, anything else 4. Case is ignored."""
    if isinstance(sequence, str):
        sequence = sequence.encode("ascii", "replace")
    return np.frombuffer(sequence.translate(_CODE_TABLE), np.uint8)


def decode(codes: np.ndarray) -> str:
    """The letters of codes, as `encode` gives them: upper-case A, C, G, T, N."""
    return np.asarray(codes, np.uint8).tobytes().translate(_LETTER_TABLE).decode("ascii")


def reverse_complement(codes: np.ndarray) -> np.ndarray:
    """The opposite strand, read 5' to 3'; uint8 [length]."""
    return _COMPLEMENT[codes[::-1]]


def runs(mask: np.ndarray) -> np.ndarray:
    """Maximal runs of True in a boolean array as int64 [runs, 2] rows of (start, end), half-open."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(np.int8)))
    return edges.reshape(-1, 2).astype(np.int64)
