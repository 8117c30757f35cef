"""Which amino acids of a reference protein a DNA sequence encodes: translated in frame, or spliced by exonerate."""

import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_pipeline.sequence import bases, translation
from data_pipeline.splitting import proteins
from gener_jax.runtime.errors import ConfigError

STANDARD_CODE = 1  # NCBI's number of the genetic code
_SECONDS = 300  # for one alignment of exonerate, which takes less than one


class Aligned(NamedTuple):
    """The amino acids of a reference that have a codon opposite, in their order.

    Attributes:
      index: of each in the reference, int64 [aligned].
      equal: whether its codon encodes it, bool [aligned].
      ends: where its codon ends in the DNA, in bases, int64 [aligned].
    """

    index: np.ndarray
    equal: np.ndarray
    ends: np.ndarray


def translated(reference: str, sequence: str) -> Aligned:
    """The translation of DNA from its first base to its first stop, aligned to a reference from end to end.

    BLOSUM62; a gap costs 11 and 1 more for each further amino acid, at the ends too.
    """
    protein = translation.translate(bases.encode(sequence), STANDARD_CODE).partition("*")[0]
    if not protein:
        return _aligned([], reference, protein, [])
    rows = proteins.aligner("global").align(reference, protein)[0].indices
    index, query = rows[:, (rows >= 0).all(0)]
    return _aligned(index, reference, [protein[i] for i in query], 3 * (query + 1))


def spliced(reference: str, sequence: str, exonerate: str) -> Aligned:
    """The codons of DNA, introns left out, that exonerate aligns to a reference (its model protein2genome).

    None are aligned where it finds nothing above its usual threshold, or on the other strand only.

    Args:
      exonerate: the program, by name or path.

    Raises:
      ConfigError: the program fails, or needs more than five minutes.
    """
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder, name) for name in ("protein.fa", "dna.fa")]
        for file, text in zip(files, (reference, sequence), strict=True):
            file.write_text(f">{file.stem}\n{text}\n")
        options = ["--model", "protein2genome", "--bestn", "1", "--showalignment", "no", "--showvulgar", "yes"]
        command = [exonerate, *options, *map(str, files)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=True)
        except subprocess.TimeoutExpired:
            raise ConfigError(f"{exonerate} needs more than {_SECONDS} seconds for one alignment") from None
        except subprocess.CalledProcessError as error:
            problem = (error.stderr.strip() or "no message").splitlines()[-1]
            raise ConfigError(f"{exonerate} failed with status {error.returncode}: {problem}") from None
    return of_vulgar(next((x for x in done.stdout.splitlines() if x.startswith("vulgar:")), ""), reference, sequence)


def of_vulgar(line: str, reference: str, sequence: str) -> Aligned:
    """What exonerate's line `vulgar: protein START END . dna START END + SCORE (LABEL AMINO_ACIDS BASES)…` aligns."""
    index, codons, ends = [], [], []
    fields = line.split()[1:]
    if fields and fields[7] == "+":
        amino_acid, base, split = int(fields[1]), int(fields[5]), ""
        for label, rows, length in zip(fields[9::3], map(int, fields[10::3]), map(int, fields[11::3]), strict=True):
            if label == "M":
                index += range(amino_acid, amino_acid + rows)
                ends += range(base + 3, base + length + 1, 3)
                codons += [sequence[end - 3 : end] for end in ends[-rows:]]
            elif label == "S":  # a part of a codon; the other one follows the intron
                split += sequence[base : base + length]
                if len(split) == 3:
                    index.append(amino_acid)
                    ends.append(base + length)
                    codons.append(split)
                    split = ""
            amino_acid, base = amino_acid + rows, base + length
    return _aligned(index, reference, translation.translate(bases.encode("".join(codons)), STANDARD_CODE), ends)


def _aligned(index, reference: str, found, ends) -> Aligned:
    equal = [reference[i] == x for i, x in zip(index, found, strict=True)]
    return Aligned(np.array(index, np.int64), np.array(equal, bool), np.array(ends, np.int64))
