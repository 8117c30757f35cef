"""GenBank to ArrayRecord: speed compared with Biopython's parser, scaling with workers, peak memory.

    python -m gener_jax.benchmarks.build FILE.gbk.gz [FILE …]
    python -m gener_jax.benchmarks.build --workers 1 2 4 8 --copies 16 FILE.gbk.gz
    python -m gener_jax.benchmarks.build --synthetic 250

Every measurement runs in its own process. The first form pins each process to one core and alternates between: a whole
build (from the file to dataset.json); the same with the leakage report, which compares the dataset with itself; our
reader alone; and `Bio.SeqIO.parse` alone, which extracts no regions and writes nothing. The time is that of the second
of two calls, measured inside the process. The second form builds copies of one genome with increasing numbers of
workers. The third makes a chromosome of the given size in Mbp with a gene every 25 kb, as GenBank and as FASTA + GFF3,
and reports the build's peak memory. Each measurement prints one JSON line.
"""

import argparse
import gzip
import json
import multiprocessing
import os
import re
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from data_pipeline import cli
from data_pipeline.regions import schemes


def _ours(inputs: list[str], output: str, workers: int, leakage: bool) -> tuple[float, int]:
    import contextlib

    from data_pipeline.dataset.builder import build

    with open(os.devnull, "w") as silent, contextlib.redirect_stderr(silent):
        began = time.perf_counter()
        info = build(inputs, output, workers=workers, taxon="bct", duplicates="keep", measure_leakage=leakage)
        seconds = time.perf_counter() - began
    return seconds, info["ledger"]["records"]["read"]["bases"]


def _reader(inputs: list[str]) -> tuple[float, int]:
    from data_pipeline.formats import genbank

    began, bases = time.perf_counter(), 0
    for path in inputs:
        wanted = schemes.feature_kinds(schemes.GENE), None, schemes.qualifiers(schemes.GENE)
        bases += sum(len(record.codes) for record in genbank.read(path, *wanted))
    return time.perf_counter() - began, bases


def _biopython(inputs: list[str]) -> tuple[float, int]:
    import warnings

    from Bio import SeqIO

    warnings.simplefilter("ignore")
    began, bases = time.perf_counter(), 0
    for path in inputs:
        with gzip.open(path, "rt") if path.endswith(".gz") else open(path) as stream:
            bases += sum(len(record.seq) for record in SeqIO.parse(stream, "genbank"))
    return time.perf_counter() - began, bases


def _child(pipe, function: Callable, arguments: tuple, again: tuple, core: int | None) -> None:
    if core is not None and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {core})
    result = function(*arguments)  # the first call also includes late imports
    if core is not None:
        result = function(*again)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    pipe.send((*result, peak))


def run(function: Callable, *arguments, one_core: bool = False) -> tuple[float, int, int]:
    """Runs a function in its own process; returns seconds, bases and peak memory in bytes.

    With `one_core` the process is pinned to one core, and the function is called twice and the second call measured.
    """
    again = (arguments[0], f"{arguments[1]}-again", *arguments[2:]) if len(arguments) > 1 else arguments
    core = min(os.sched_getaffinity(0)) if one_core and hasattr(os, "sched_getaffinity") else None
    context = multiprocessing.get_context("spawn")
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(send, function, arguments, again, core))
    process.start()
    send.close()
    try:
        return receive.recv()
    finally:
        process.join()


def synthetic(folder: Path, length: int) -> tuple[Path, Path, Path]:
    """Writes a chromosome with a gene of 10 kb every 25 kb, on alternating strands, as GenBank and as FASTA + GFF3."""
    letters = np.frombuffer(b"acgt", np.uint8)[np.random.default_rng(0).integers(0, 4, length, np.uint8)]
    genes = [(start, min(start + 10_000, length)) for start in range(5000, length - 12_000, 25_000)]
    genbank, fasta, gff = folder / "chromosome.gbk", folder / "pair.fa", folder / "pair.gff3"
    with open(genbank, "wb") as stream:
        stream.write(b"LOCUS       CHR1 %d bp    DNA     linear   BCT 01-JAN-2000\nVERSION     CHR1.1\n" % length)
        stream.write(b"FEATURES             Location/Qualifiers\n")
        for number, (start, end) in enumerate(genes):
            location = b"%d..%d" % (start + 1, end)
            location = b"complement(%s)" % location if number % 2 else location
            for kind in (b"gene", b"CDS"):
                stream.write(b'     %-16s%s\n                     /locus_tag="g%d"\n' % (kind, location, number))
        stream.write(b"ORIGIN\n")
        for start in range(0, length, 60):
            line = letters[start : start + 60].tobytes()
            stream.write(b"%9d %s\n" % (start + 1, b" ".join(line[i : i + 10] for i in range(0, len(line), 10))))
        stream.write(b"//\n")
    with open(fasta, "wb") as stream:
        stream.write(b">CHR1.1\n")
        for start in range(0, length, 80):
            stream.write(letters[start : start + 80].tobytes().upper() + b"\n")
    with open(gff, "w") as stream:
        stream.write("##gff-version 3\n")
        for number, (start, end) in enumerate(genes):
            sign = "-" if number % 2 else "+"
            for kind, phase, ids in (("gene", ".", f"ID=g{number}"), ("CDS", "0", f"ID=c{number};Parent=g{number}")):
                stream.write(f"CHR1.1\tx\t{kind}\t{start + 1}\t{end}\t.\t{sign}\t{phase}\t{ids}\n")
    return genbank, fasta, gff


def copies_of(path: str, count: int, folder: Path) -> list[str]:
    """The file itself if `count` is 1, else copies of it, compressed if it is, whose records have distinct names."""
    if count == 1:
        return [path]
    raw = Path(path).read_bytes()
    text = gzip.decompress(raw) if path.endswith(".gz") else raw
    accession = re.search(rb"^VERSION +(\S+?)(?:\.\d+)?\s", text, re.MULTILINE)[1]
    found = []
    for number in range(count):
        name = folder / f"{number}-{Path(path).name}"
        copy = text.replace(accession, b"%s%d" % (accession, number))
        name.write_bytes(gzip.compress(copy, 6) if path.endswith(".gz") else copy)
        found.append(str(name))
    return found


def compare(path: str, repeats: int, copies: int, folder: Path) -> dict:
    """Measures our build and Biopython's parser on one core, alternating between them."""
    paths = copies_of(path, copies, folder)
    names = ("build", "build with the leakage report", "our reader alone", "biopython")
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(repeats):
        name = Path(path).name
        ours, bases, peak = run(_ours, paths, str(folder / f"set-{name}-{number}"), 1, False, one_core=True)
        report, _, _ = run(_ours, paths, str(folder / f"set-{name}-{number}-report"), 1, True, one_core=True)
        reader, _, _ = run(_reader, paths, one_core=True)
        theirs, their_bases, their_peak = run(_biopython, paths, one_core=True)
        assert bases == their_bases, (bases, their_bases)
        for measured, value in zip(seconds.values(), (ours, report, reader, theirs), strict=True):
            measured.append(value)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "file": Path(path).name,
        "copies": copies,
        "bases": bases,
        "median_s": {name: round(value, 3) for name, value in medians.items()},
        "times_faster": {
            name: round(medians["biopython"] / value, 2) for name, value in medians.items() if name != "biopython"
        },
        "all_s": {name: [round(value, 3) for value in values] for name, values in seconds.items()},
        "ours_mbp_per_s": round(bases / medians["build"] / 1e6, 2),
        "peak_mib": {"ours": peak >> 20, "biopython": their_peak >> 20},
    }


def main() -> int:
    """Prints one JSON line per measurement."""
    parse = argparse.ArgumentParser(
        prog=cli.program(),
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parse.add_argument("files", nargs="*", metavar="FILE", help="GenBank files, plain or gzip")
    parse.add_argument("--repeats", type=int, default=5, help="repeats of each measurement, alternating (default 5)")
    parse.add_argument(
        "--workers", type=int, nargs="+", help="build copies of the first file with these numbers of workers"
    )
    parse.add_argument("--copies", type=int, default=1, help="copies of a file to build at once (default 1)")
    parse.add_argument("--synthetic", type=int, metavar="MBP", help="measure peak memory for a chromosome of this size")
    options = parse.parse_args()
    if not options.files and not options.synthetic:
        parse.error("give files, or --synthetic")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.synthetic:
            genbank, fasta, gff = synthetic(folder, options.synthetic * 1_000_000)
            for what, inputs in (("genbank", [genbank]), ("fasta + gff3", [fasta, gff])):
                output = str(folder / f"set-{what.split()[0]}")
                seconds, bases, peak = run(_ours, [str(path) for path in inputs], output, 1, True)
                line = {"synthetic": what, "bases": bases, "seconds": round(seconds, 2), "peak_mib": peak >> 20}
                print(json.dumps(line), flush=True)
        if options.workers:
            copies = copies_of(options.files[0], options.copies, folder)
            base = None
            for workers in options.workers:
                output = str(folder / f"set{workers}")
                seconds, bases, _ = run(_ours, copies, output, workers, True)
                base = base or seconds * workers
                line = {"workers": workers, "copies": options.copies, "seconds": round(seconds, 2)}
                line |= {"mbp_per_s": round(bases / seconds / 1e6, 2), "times": round(base / seconds, 2)}
                print(json.dumps(line), flush=True)
        else:
            for path in options.files:
                print(json.dumps(compare(path, options.repeats, options.copies, folder)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
