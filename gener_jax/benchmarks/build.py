"""Measures a build: seconds and peak memory, optionally beside Biopython.

    gener-jax benchmark build genome.gbk.gz --workers 1 2

One JSON line per number of workers: the median seconds of --repeats builds of
all files, each in its own process, without its start and without the leakage
report; and the peak memory of that process, without its workers (at least that
of this program, about 0.2 GiB). --biopython alternates with its parser alone,
which extracts no regions and writes nothing.
"""

import json
import statistics
import tempfile

from data_pipeline import cli
from data_pipeline.ranges import Whole
from gener_jax.benchmarks.measuring import child
from gener_jax.cli import command

BIOPYTHON = """
import gzip, json, sys, time, warnings
from Bio import SeqIO
warnings.simplefilter("ignore")
began = time.perf_counter()
for path in sys.argv[1:]:
    with gzip.open(path, "rt") if path.endswith(".gz") else open(path) as stream:
        for record in SeqIO.parse(stream, "genbank"):
            pass
print(json.dumps({"seconds": time.perf_counter() - began}))
"""


def main() -> None:
    """Prints one JSON line per number of workers."""
    parse = cli.Parser(__doc__)
    add = parse.add_argument
    add("files", nargs="+", metavar="FILE", help="GenBank files, plain or gzip")
    add("--workers", type=Whole(1), nargs="+", default=[1], metavar="N", help="numbers of processes")
    add("--repeats", type=Whole(1), default=5, help="repeats of each measurement, alternating")
    add("--biopython", action="store_true", help="measure Biopython's parser too")
    options = parse.parse_args()
    ours = ["-m", "data_pipeline.build", "--skip_leakage", "--duplicates", "keep", "--input", *options.files]
    for workers in options.workers:
        found = {"build": []} | ({"biopython": []} if options.biopython else {})
        for _ in range(options.repeats):
            with tempfile.TemporaryDirectory() as folder:
                found["build"].append(child([*ours, "--workers", str(workers), "--output", f"{folder}/set"]))
            if options.biopython:
                found["biopython"].append(child(["-c", BIOPYTHON, *options.files]))
        line = {"files": len(options.files), "workers": workers}
        for name, results in found.items():
            line[f"{name}_seconds"] = round(statistics.median(facts["seconds"] for facts, _ in results), 3)
            line[f"{name}_peak_gib"] = round(max(gib for _, gib in results), 3)
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    command.run(main)
