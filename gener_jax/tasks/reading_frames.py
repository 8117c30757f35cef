"""Open reading frames: stretches of codons without a stop, in the three forward frames."""

import numpy as np

from data_pipeline.sequence import bases


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


def mean_open_frame(sequences: list[np.ndarray], stop_codons: tuple[str, ...]) -> float | None:
    """The mean of their longest open frames, in codons; None without sequences."""
    return float(np.mean([longest_open_frame(s, stop_codons) for s in sequences])) if sequences else None


def shuffled(sequences: list[np.ndarray], times: int = 20, seed: int = 0) -> list[np.ndarray]:
    """Controls: the bases of each sequence in random order, `times` times."""
    generator = np.random.default_rng(seed)
    return [generator.permutation(s) for s in sequences for _ in range(times)]


def cut_like(sequences: list[np.ndarray], others: list[np.ndarray]) -> list[np.ndarray]:
    """The beginnings of sequences, with the lengths of `others` in turn: each equally often if the numbers allow it."""
    return [s[: len(others[i * len(others) // len(sequences)])] for i, s in enumerate(sequences)]
