"""GenBank to ArrayRecord: speed beside Biopython's parser, growth with workers, peak memory.

    python -m gener_jax.benchmarks.build FILE.gbk.gz [FILE …]
    python -m gener_jax.benchmarks.build --workers 1 2 4 8 --copies 16 FILE.gbk.gz
    python -m gener_jax.benchmarks.build --synthetic 250

Every run is a process of its own. The first form pins each to one core and takes turns: a whole build (all of it, from
the file to dataset.json), the same with the leakage report, which compares the dataset with itself, our reader alone,
and `Bio.SeqIO.parse` alone, which makes no regions and writes nothing; the seconds are measured inside, at the second
of two calls. The second builds copies of one genome with more and more workers. The third makes a chromosome of so many
Mbp with a gene every 25 kb, as GenBank and as FASTA + GFF3, and says the build's peak memory. One JSON line each.
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


def _ours(inputs: list[str], output: str, workers: int, leakage: bool) -> tuple[float, int]:
    import contextlib

    from data_pipeline.build import build

    with open(os.devnull, "w") as silent, contextlib.redirect_stderr(silent):
        began = time.perf_counter()
        info = build(inputs, output, workers=workers, taxon="bct", duplicates="keep", measure_leakage=leakage)
        seconds = time.perf_counter() - began
    return seconds, info["ledger"]["records"]["read"]["bases"]


def _reader(inputs: list[str]) -> tuple[float, int]:
    from data_pipeline import genbank, regions

    began, bases = time.perf_counter(), 0
    for path in inputs:
        wanted = regions.feature_kinds(regions.GENE), None, regions.qualifiers(regions.GENE)
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
    result = function(*arguments)  # the first time also pays for what is imported late
    if core is not None:
        result = function(*again)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    pipe.send((*result, peak))


def run(function: Callable, *arguments, one_core: bool = False) -> tuple[float, int, int]:
    """Seconds, bases and peak bytes of a function in a process of its own; on one core of the second of two calls."""
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
    """A chromosome with a gene of 10 kb every 25 kb, on either strand: as GenBank, as FASTA, and its GFF3."""
    letters = np.frombuffer(b"acgt", np.uint8)[np.random.default_rng(0).integers(0, 4, length, np.uint8)]
    places = [(start, min(start + 10_000, length)) for start in range(5000, length - 12_000, 25_000)]
    genbank, fasta, gff = folder / "chromosome.gbk", folder / "pair.fa", folder / "pair.gff3"
    with open(genbank, "wb") as stream:
        stream.write(b"LOCUS       CHR1 %d bp    DNA     linear   BCT 01-JAN-2000\nVERSION     CHR1.1\n" % length)
        stream.write(b"FEATURES             Location/Qualifiers\n")
        for number, (start, end) in enumerate(places):
            place = b"%d..%d" % (start + 1, end)
            place = b"complement(%s)" % place if number % 2 else place
            for kind in (b"gene", b"CDS"):
                stream.write(b'     %-16s%s\n                     /locus_tag="g%d"\n' % (kind, place, number))
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
        for number, (start, end) in enumerate(places):
            sign = "-" if number % 2 else "+"
            for kind, phase, ids in (("gene", ".", f"ID=g{number}"), ("CDS", "0", f"ID=c{number};Parent=g{number}")):
                stream.write(f"CHR1.1\tx\t{kind}\t{start + 1}\t{end}\t.\t{sign}\t{phase}\t{ids}\n")
    return genbank, fasta, gff


def copies_of(path: str, count: int, folder: Path) -> list[str]:
    """The file itself, or so many copies of it, compressed as it is, whose records have names of their own."""
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
    """Our build and Biopython's parser on one core, in turns."""
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
        for row, value in zip(seconds.values(), (ours, report, reader, theirs), strict=True):
            row.append(value)
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
    """Prints one JSON line a measurement."""
    parse = argparse.ArgumentParser(
        prog=cli.program(),
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parse.add_argument("files", nargs="*", metavar="FILE", help="GenBank files, plain or gzip")
    parse.add_argument("--repeats", type=int, default=5, help="of each, in turns (default 5)")
    parse.add_argument("--workers", type=int, nargs="+", help="build copies of the first file with so many workers")
    parse.add_argument("--copies", type=int, default=1, help="build so many copies of a file at once (default 1)")
    parse.add_argument("--synthetic", type=int, metavar="MBP", help="the peak memory of a chromosome of this size")
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
                row = {"synthetic": what, "bases": bases, "seconds": round(seconds, 2), "peak_mib": peak >> 20}
                print(json.dumps(row), flush=True)
        if options.workers:
            copies = copies_of(options.files[0], options.copies, folder)
            base = None
            for workers in options.workers:
                output = str(folder / f"set{workers}")
                seconds, bases, _ = run(_ours, copies, output, workers, True)
                base = base or seconds * workers
                row = {"workers": workers, "copies": options.copies, "seconds": round(seconds, 2)}
                row |= {"mbp_per_s": round(bases / seconds / 1e6, 2), "times": round(base / seconds, 2)}
                print(json.dumps(row), flush=True)
        else:
            for path in options.files:
                print(json.dumps(compare(path, options.repeats, options.copies, folder)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
