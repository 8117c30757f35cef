"""Open reading frames: stretches of codons without a stop, in the three forward frames."""

import numpy as np

from data_pipeline import bases


def longest_open_frame(codes: np.ndarray, stop_codons: tuple[str, ...]) -> int:
    """Codons in the longest stop-free stretch of any forward frame; codes uint8 [bases], 4 for N."""
    stops = [int(np.dot(bases.encode(codon), (25, 5, 1))) for codon in stop_codons]
    longest = 0
    for frame in range(3):
        codons = codes[frame:]
        codons = codons[: len(codons) // 3 * 3].reshape(-1, 3).astype(np.int64) @ (25, 5, 1)
        at = np.concatenate([[-1], np.flatnonzero(np.isin(codons, stops)), [len(codons)]])
        longest = max(longest, int(np.diff(at).max()) - 1)
    return longest


def compare(sequences: list[str], stop_codons: tuple[str, ...], *, shuffles: int = 20, seed: int = 0) -> dict:
    """Mean longest open frame in codons: `sequences`, and `shuffled` with the same bases in random order."""
    codes = [bases.encode(s) for s in sequences if len(s) >= 3]
    generator = np.random.default_rng(seed)
    shuffled = [generator.permutation(c) for c in codes for _ in range(shuffles)]
    mean = {}
    for name, group in (("sequences", codes), ("shuffled", shuffled)):
        mean[name] = float(np.mean([longest_open_frame(c, stop_codons) for c in group])) if group else float("nan")
    return mean
