"""Measures the throughput of the data loader, beside what a GPU consumes.

    gener-jax benchmark loader datasets/mine --workers 0 2

One JSON line per number of workers: the median over --repeats intervals, in
tokens and million bases per second, and how many GPUs it can feed at 40 000
tokens per second each (a 1b model). Batches are made on the host and discarded.
"""

import dataclasses
import json
import statistics
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from data_pipeline import cli
from data_pipeline.dataset.reader import RegionSource
from data_pipeline.ranges import Real, Whole
from data_pipeline.sequence.tokenizer import KmerTokenizer
from gener_jax.config import Data

if TYPE_CHECKING:
    from gener_jax.data.loader import TokenStream

GPU_TOKENS_PER_SECOND = 40_000


def measure(stream: "TokenStream", batch_size: int, repeats: int, seconds: float) -> dict:
    """Tokens and million bases per second of one loader, the median over `repeats` intervals of `seconds`."""
    tokens = batch_size * stream.data.context_length
    batches = stream.batches(0, batch_size, range(batch_size))
    for _ in range(4):  # warm-up: the order of the first epoch, and starting the workers
        next(batches)
    rates = []
    for _ in range(repeats):
        began, count = time.perf_counter(), 0
        while (took := time.perf_counter() - began) < seconds:
            next(batches)
            count += 1
        rates.append(count * tokens / took)
    rate = statistics.median(rates)
    return {
        "workers": stream.data.num_workers,
        "tokens_per_s": round(rate),
        "mbp_per_s": round(rate * stream.tokenizer.k / 1e6, 2),
        "gpus_fed": round(rate / GPU_TOKENS_PER_SECOND, 1),
        "all_tokens_per_s": [round(value) for value in rates],
    }


def main() -> int:
    """Prints one JSON line per number of workers."""
    parse = cli.Parser(__doc__)
    add = parse.add_argument
    add("dataset", metavar="DATASET", help="a folder that gener-jax data build wrote")
    add("--context_length", type=Whole(1), default=16384, help="tokens per sequence")
    add("--batch_size", type=Whole(1), default=8, help="sequences per batch")
    add("--workers", type=Whole(), nargs="+", default=[0], metavar="N", help="reader processes; 0: threads")
    add("--reverse_complement", action="store_true", help="read each region on a random strand")
    add("--repeats", type=Whole(1), default=5, help="measured intervals")
    add("--seconds", type=Real(above=0), default=2.0, help="length of each interval")
    options = parse.parse_args()

    from gener_jax.data.loader import TokenStream

    data = Data(
        path=str(Path(options.dataset)),
        context_length=options.context_length,
        reverse_complement=options.reverse_complement,
    )
    source, tokenizer = RegionSource(options.dataset, "train"), KmerTokenizer(6)
    for workers in options.workers:
        stream = TokenStream(source, tokenizer, dataclasses.replace(data, num_workers=workers), seed=0)
        dataset = {"regions": len(source), "bases": int(source.index["length"].sum())}
        rates = measure(stream, options.batch_size, options.repeats, options.seconds)
        print(json.dumps(dataset | rates), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
