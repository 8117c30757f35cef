"""Speed of the 6-mer tokenizer on a FASTA file, compared with a plain Python loop over the same sequences.

    python -m gener_jax.benchmarks.tokenizer FILE.fa[.gz]

Prints one JSON line: million bases per second from str to ids and back (medians), those of the loop in the same run,
the ratio of tokenizer to loop, and the sha256 of the ids as little-endian uint16. Bases left over at the end of a
record are encoded as one <oov>.
"""

import argparse
import gzip
import hashlib
import itertools
import json
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from data_pipeline import cli
from data_pipeline.sequence.tokenizer import NUM_SPECIAL, OOV, KmerTokenizer

K = 6


def read_fasta(path: Path) -> list[str]:
    """The sequences of a FASTA file, plain or gzip, in the order and case of the file."""
    with gzip.open(path, "rt") if path.suffix == ".gz" else open(path) as stream:
        records = stream.read().split(">")
    if records[0].strip() or len(records) < 2:
        raise ValueError(f"{path}: is not FASTA, as it does not begin with '>'")
    return ["".join(record.split("\n")[1:]) for record in records[1:]]


def timed(function, repeats: int) -> tuple[float, list]:
    """The median seconds of a call, and the result of the last call."""
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        result = function()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds), result


def measure(sequences: list[str], repeats: int) -> dict:
    """The object that the command prints. Raises ValueError if the ids of the loop differ from the tokenizer's."""
    tokenizer = KmerTokenizer(K)
    vocabulary = {"".join(p): i for i, p in enumerate(itertools.product("ATCG", repeat=K), NUM_SPECIAL)}
    capitals = [s.upper() for s in sequences]
    num_bases = sum(map(len, sequences))
    print(f"{num_bases} bases in {len(sequences)} records, {repeats} repeats", file=sys.stderr)
    encode_s, ids = timed(lambda: [tokenizer.encode(s, remainder="oov") for s in sequences], repeats)
    decode_s, _ = timed(lambda: [tokenizer.decode(i) for i in ids], repeats)
    loop_s, loop_ids = timed(
        lambda: [[vocabulary.get(s[i : i + K], OOV) for i in range(0, len(s), K)] for s in capitals], 1
    )
    if loop_ids != [i.tolist() for i in ids]:
        raise ValueError("the tokenizer's ids differ from those of the plain loop")
    return {
        "benchmark": "tokenizer",
        "tokenizer": tokenizer.name,
        "bases": num_bases,
        "repeats": repeats,
        "mbp_per_s": num_bases / encode_s / 1e6,
        "decode_mbp_per_s": num_bases / decode_s / 1e6,
        "loop_mbp_per_s": num_bases / loop_s / 1e6,
        "ratio": loop_s / encode_s,
        "sha256": hashlib.sha256(b"".join(i.astype("<u2").tobytes() for i in ids)).hexdigest(),
    }


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parse = argparse.ArgumentParser(
        prog=cli.program(),
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parse.add_argument("fasta", type=Path, metavar="FILE", help="FASTA, plain or gzip")
    parse.add_argument(
        "--repeats", type=int, default=5, help="runs of encoding and decoding; the loop runs once (default 5)"
    )
    return parse


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    options = parser().parse_args(arguments)
    try:
        if options.repeats < 1:
            raise ValueError(f"--repeats is {options.repeats}: must be at least 1")
        print(json.dumps(measure(read_fasta(options.fasta), options.repeats)))
    except (ValueError, OSError, EOFError) as error:
        print(f"benchmarks.tokenizer: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
