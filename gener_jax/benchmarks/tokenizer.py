"""Measures the 6-mer tokenizer on a FASTA file, beside a plain Python loop.

    gener-jax benchmark tokenizer genome.fa.gz

One JSON line: million bases per second from str to ids and back (medians), those
of the loop, their ratio, and the sha256 of the ids as little-endian uint16. Bases
left over at the end of a record are encoded as one <oov>.
"""

import gzip
import hashlib
import itertools
import json
from collections.abc import Sequence
from pathlib import Path

from data_pipeline import cli
from data_pipeline.ranges import Whole
from data_pipeline.sequence.tokenizer import NUM_SPECIAL, OOV, KmerTokenizer
from gener_jax.benchmarks.measuring import median, seconds
from gener_jax.cli import command

K = 6


def measure(sequences: list[str], repeats: int) -> dict:
    """The object that the command prints."""
    tokenizer = KmerTokenizer(K)
    vocabulary = {"".join(p): i for i, p in enumerate(itertools.product("ATCG", repeat=K), NUM_SPECIAL)}
    capitals = [s.upper() for s in sequences]
    ids = [tokenizer.encode(s, remainder="oov") for s in sequences]
    mbp = sum(map(len, sequences)) / 1e6

    def loop():
        return [[vocabulary.get(s[i : i + K], OOV) for i in range(0, len(s), K)] for s in capitals]

    assert loop() == [i.tolist() for i in ids]
    encode_s = median(seconds(lambda: [tokenizer.encode(s, remainder="oov") for s in sequences], repeats))
    decode_s = median(seconds(lambda: [tokenizer.decode(i) for i in ids], repeats))
    loop_s = median(seconds(loop, 1))
    return {
        "tokenizer": tokenizer.name,
        "bases": round(mbp * 1e6),
        "mbp_per_s": mbp / encode_s,
        "decode_mbp_per_s": mbp / decode_s,
        "loop_mbp_per_s": mbp / loop_s,
        "ratio": loop_s / encode_s,
        "sha256": hashlib.sha256(b"".join(i.astype("<u2").tobytes() for i in ids)).hexdigest(),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints one JSON line."""
    parse = cli.Parser(__doc__)
    parse.add_argument("fasta", type=Path, metavar="FASTA", help="plain or gzip")
    parse.add_argument("--repeats", type=Whole(1), default=5, help="runs of encoding and decoding")
    options = parse.parse_args(arguments)
    with (gzip.open if options.fasta.suffix == ".gz" else open)(options.fasta, "rt") as stream:
        records = stream.read().split(">")[1:]
    print(json.dumps(measure(["".join(record.split("\n")[1:]) for record in records], options.repeats)))


if __name__ == "__main__":
    command.run(main)
