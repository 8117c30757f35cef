"""From annotated genomes to a dataset of gene regions.

    python -m data_pipeline.build --input genomes/ --output datasets/mine

Takes GenBank files, FASTA with GFF3 or GTF, FASTA alone (--scheme whole), folders of them, or a manifest. As many
inputs are read at once as there are cores; then duplicates are dropped, train, validation and test decided, and
ArrayRecord shards written with an index and dataset.json. The folder appears when it is whole. A build that was
stopped, even killed, goes on when the same command is run again; finished inputs are kept in OUTPUT.partial. The last
line on standard output is a JSON object with the totals.
"""

import argparse
import contextlib
import dataclasses
import fcntl
import json
import multiprocessing
import multiprocessing.connection
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from pathlib import Path

from tqdm import tqdm

from data_pipeline import cli, genome, merge, regions, spill, split
from data_pipeline.errors import DataError
from data_pipeline.inputs import Input, discover, manifest
from data_pipeline.regions import GENE, Scheme
from data_pipeline.writer import SHARD_BYTES, DatasetWriter, Tokenizer

SMALL_BYTES = 8 << 20  # of input files, which take about two seconds


def build(
    inputs: Sequence[str | Path | Input],
    output: str | Path,
    *,
    scheme: Scheme = GENE,
    taxon: str | None = None,
    validation_share: float = 0.05,
    test_share: float = 0.0,
    split_by: str = "group",
    duplicates: str = "inputs",
    seed: int = 0,
    tokenizer: Tokenizer | None = None,
    piece_length: int | None = None,
    shard_bytes: int = SHARD_BYTES,
    skip_damaged: bool = False,
    measure_leakage: bool = True,
    workers: int | None = 1,
) -> dict:
    """Builds the dataset `output` from annotated genomes and returns what its dataset.json holds.

    Args:
      inputs: files and folders, as `inputs.discover` takes them, or `Input`s.
      output: the folder to make; it must not exist. While it grows, `output`.partial holds the inputs that are done.
      scheme: which stretches become regions.
      taxon: the tag of every region, one of genome.TAXA; None takes it from each file's name or record.
      validation_share: share of what `split_by` keeps together, 0 to 1, that goes to validation.
      test_share: the same for test.
      split_by: what is kept on one side of the split, one of split.BY.
      duplicates: which regions are dropped that have the bases of an earlier one, on either strand: of another input
        ("inputs"), of any ("all"), or none ("keep").
      seed: of the split.
      tokenizer: stores its token ids; None stores bases.
      piece_length: longest piece of a region in one record, in bases or tokens; None is what 64 KiB hold.
      shard_bytes: a new shard begins after so many bytes.
      skip_damaged: leaves out inputs that cannot be read, and names them in dataset.json; otherwise they are an error.
      measure_leakage: looks up the held-out 32-mers in training; without, the index's column `seen` is 0.
      workers: processes, whose number changes nothing of the result; None is one a core, or only one for a few small
        inputs. A program that asks for several needs the usual `if __name__ == "__main__"`.

    A record with an accession.version seen before, in any input, is left out whole and counted; where it has other
    bases than before, that is an error.

    Raises:
      DataError: bad input, an existing output, a full disk, no region at all. Inputs that were done by then are kept.
    """
    output = Path(output)
    split.check_shares(validation_share, test_share)
    _one_of("taxon", taxon, (None, *genome.TAXA))
    _one_of("split_by", split_by, split.BY)
    _one_of("duplicates", duplicates, merge.DUPLICATES)
    if workers is not None and workers < 1:
        raise DataError(f"workers is {workers}: give 1 or more")
    if isinstance(inputs, str | Path):
        raise DataError(f"inputs is {str(inputs)!r}: give a list of files and folders")
    aside, sources = [], [source for source in inputs if isinstance(source, Input)]
    if len(sources) < len(inputs) or not inputs:
        found, aside = discover(
            [path for path in inputs if not isinstance(path, Input)], annotated=scheme.name != "whole"
        )
        sources += found
    sources = list(dict.fromkeys(sources))
    for source in sources:
        if source.annotation is None and scheme.name != "whole":
            raise DataError(f"{source.sequence}: no annotation; name one in the manifest, or give --scheme whole")
    for line in aside:
        print(f"left aside: {line}", file=sys.stderr)
    if os.path.lexists(output):
        raise DataError(f"{output}: exists already; remove it or choose another output")
    parameters = {
        "scheme": dataclasses.asdict(scheme), "taxon": taxon, "validation_share": validation_share,
        "test_share": test_share, "split_by": split_by, "duplicates": duplicates, "seed": seed,
        "shard_bytes": shard_bytes,
    }  # fmt: skip
    if workers is None:
        workers = _default_workers(sources)
    compared = duplicates == "all" or (duplicates == "inputs" and len(sources) > 1)
    settings = spill.Settings(scheme, taxon, split_by, seed, tokenizer, compared)
    with _Workplace(output) as partial, _Progress(sources) as progress:
        folders = [partial / spill.key(source, settings) for source in sources]
        with _pool(min(workers, len(sources)), progress.counts) as pool:
            damaged = _spill(sources, folders, settings, pool, skip_damaged, progress)
            done = [folder for source, folder in zip(sources, folders, strict=True) if source not in damaged]
            if not done:
                raise DataError(f"none of {len(sources)} inputs could be read; the first: {damaged[sources[0]]}")
            merged = merge.Merge(done, settings)
            merged.drop_records()
            merged.drop_duplicates(duplicates)
            merged.decide_parts(validation_share, test_share)
            if measure_leakage:
                progress.stage("comparing", merged.kept_bases())
                merged.measure_leakage(partial, pool.map if pool else map, progress.advance)
        new = partial / "dataset"
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir()
        progress.stage("writing", merged.kept_bases())
        dataset = merged.write(
            DatasetWriter(new, tokenizer, piece_length, shard_bytes),
            progress.advance,
            parameters=parameters,
            damaged=[
                {"files": [path.name for path in source.files], "error": line} for source, line in damaged.items()
            ],
            left_aside=aside,
        )
        new.rename(output)
        if not dataset["splits"]["train"]["regions"]:
            progress.say(
                f"warning: all regions are held out, none is left to train on: split_by {split_by} found one part"
            )
    return dataset


def _default_workers(sources: Sequence[Input]) -> int:
    """One a core; but only one for what is read sooner than a second process starts."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    size = sum(path.stat().st_size for source in sources for path in source.files)
    return 1 if size < SMALL_BYTES else cores


def _one_of(name: str, value: object, choices: tuple) -> None:
    if value not in choices:
        raise DataError(f"{name} {value!r} is not one of {' '.join(str(choice) for choice in choices if choice)}")


class _Workplace(contextlib.AbstractContextManager):
    """OUTPUT.partial, locked while in use; removed when the dataset is there, or nothing in it is worth keeping."""

    def __init__(self, output: Path):
        self.folder = output.with_name(f"{output.name}.partial")
        self.made = [folder for folder in self.folder.parents if not folder.exists()]

    def __enter__(self) -> Path:
        if self.folder.is_dir() and any(self.folder.iterdir()) and not (self.folder / "lock").exists():
            raise DataError(f"{self.folder}: holds what is not a build's; a build needs that name: move it away")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.lock = open(self.folder / "lock", "w")
        except OSError as error:
            raise DataError(f"{self.folder}: cannot be made ({error.strerror})") from None
        try:
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self.lock.close()
            raise DataError(f"{self.folder}: another build is writing there; wait for it") from None
        return self.folder

    def __exit__(self, kind, error, traceback) -> None:
        kept = [path for path in self.folder.glob("*/spill.json") if "." not in path.parent.name]
        if error is None or not kept or isinstance(error, merge.NoRegion):
            shutil.rmtree(self.folder, ignore_errors=True)
            for folder in self.made:
                with contextlib.suppress(OSError):  # not empty, or another program's by now
                    folder.rmdir()
            kept = []
        self.lock.close()
        told = f"; {len(kept)} finished inputs are kept in {self.folder}: run it again to go on" if kept else ""
        if isinstance(error, OSError):
            raise DataError(f"{error.filename or self.folder}: {error.strerror or error}{told}") from None
        if isinstance(error, DataError) and told:
            raise DataError(f"{error}{told}") from None


def _spill(
    sources: list[Input],
    folders: list[Path],
    settings: spill.Settings,
    pool: futures.ProcessPoolExecutor | None,
    skip_damaged: bool,
    progress: "_Progress",
) -> dict[Input, str]:
    """Makes the spills that are missing; returns the error of each input that could not be read."""
    known = set(folders)
    for other in folders[0].parent.iterdir():  # of a build that was killed, or of other settings
        if other.is_dir() and other not in known:
            shutil.rmtree(other, ignore_errors=True)
    damaged: dict[Input, str] = {}
    missing = [number for number, folder in enumerate(folders) if not folder.is_dir()]
    for number in set(range(len(sources))) - set(missing):
        progress.done(number, spill.Spill(folders[number]).facts)
    jobs = [(sources[number], folders[number], settings) for number in missing]

    def finish(number: int, result: Callable[[], None]) -> None:
        try:
            result()
        except DataError as error:
            if not skip_damaged:
                raise
            damaged[sources[number]] = str(error)
            progress.say(f"left out: {error}")
        else:
            progress.done(number, spill.Spill(folders[number]).facts)

    if pool is None:
        for number, job in zip(missing, jobs, strict=True):
            finish(number, lambda job=job, number=number: spill.write(*job, progress.of(number)))
        return damaged
    waiting = {pool.submit(_work, *job, number): number for number, job in zip(missing, jobs, strict=True)}
    while waiting:
        ended, _ = futures.wait(waiting, timeout=0.2, return_when=futures.FIRST_COMPLETED)
        progress.refresh()
        for future in ended:
            finish(waiting.pop(future), future.result)
    return damaged


_counts = None  # in a worker: file bytes and bases done, two numbers an input


def _start(counts) -> None:
    global _counts
    _counts = counts
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its workers
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    multiprocessing.connection.wait([multiprocessing.parent_process().sentinel])
    os._exit(1)  # the build was killed; whoever runs it again has no use for this process


def _work(source: Input, folder: Path, settings: spill.Settings, number: int) -> None:
    def advance(read: int, bases: int) -> None:
        _counts[2 * number] += read
        _counts[2 * number + 1] += bases

    spill.write(source, folder, settings, advance)


@contextlib.contextmanager
def _pool(workers: int, counts) -> Iterator[futures.ProcessPoolExecutor | None]:
    """Processes, ended with the block; None where one is enough."""
    if workers <= 1:
        yield None
        return
    # Not forked: the caller may hold threads (JAX's, say), and a lock one of them holds would never open.
    context = multiprocessing.get_context("spawn")
    executor = futures.ProcessPoolExecutor(workers, context, _start, (counts,))
    try:
        yield executor
    except futures.process.BrokenProcessPool:
        raise DataError("a worker was killed, most likely for want of memory; give fewer --workers") from None
    finally:
        for process in list((executor._processes or {}).values()):
            process.terminate()
        executor.shutdown(wait=True, cancel_futures=True)


class _Progress(contextlib.AbstractContextManager):
    """A bar in bases on a terminal, otherwise a line an input; on standard error."""

    def __init__(self, sources: list[Input]):
        self.sources = sources
        self.bytes = [sum(path.stat().st_size for path in source.files) for source in sources]
        self.counts = multiprocessing.get_context("spawn").Array("q", 2 * len(sources), lock=False)
        self.bar = tqdm(desc="reading", unit="b", unit_scale=True, miniters=1, disable=None, leave=False)

    def __exit__(self, *error):
        self.bar.close()

    def of(self, number: int) -> Callable[[int, int], None]:
        """The progress of one input that this process reads."""

        def advance(read: int, bases: int) -> None:
            self.counts[2 * number] += read
            self.counts[2 * number + 1] += bases
            self.refresh()

        return advance

    def refresh(self) -> None:
        """Shows the counts; the bases to come are told from the bytes to come."""
        if self.bar.disable:
            return
        read, bases = sum(self.counts[::2]), sum(self.counts[1::2])
        self.bar.total = round(bases / read * sum(self.bytes)) if read and bases else None
        self.bar.update(bases - self.bar.n)

    def done(self, number: int, facts: dict) -> None:
        """An input is finished."""
        bases = sum(record["bases"] for record in facts["records"])
        self.counts[2 * number], self.counts[2 * number + 1] = self.bytes[number], bases
        self.refresh()
        if self.bar.disable:
            print(f"{self.sources[number].files[-1]}: {len(facts['records'])} records, {bases} bases", file=sys.stderr)

    def stage(self, name: str, total: int) -> None:
        """What follows the reading, in bases."""
        self.bar.set_description(name, refresh=False)
        self.bar.reset(total)

    def say(self, line: str) -> None:
        """A line that does not break the bar."""
        self.bar.write(line, file=sys.stderr)

    def advance(self, bases: int) -> None:
        """So many more bases of this stage are done."""
        self.bar.update(bases)


def summary(dataset: dict, output: str | Path, seconds: float) -> dict:
    """The totals of a dataset that the command prints."""
    splits = {
        name: {key: part[key] for key in ("regions", "bases", "tokens", "remainder", "records")}
        | {"shards": len(part["shards"]), "bytes": sum(shard["bytes"] for shard in part["shards"])}
        for name, part in dataset["splits"].items()
    }
    return {
        "output": str(output),
        "digest": dataset["digest"],
        "inputs": 1 + max(file["input"] for file in dataset["inputs"]),
        "damaged": len(dataset["damaged"]),
        "regions": sum(part["regions"] for part in splits.values()),
        "region_bases": sum(part["bases"] for part in splits.values()),
        "splits": splits,
        **dataset["ledger"],
        "leakage": dataset["leakage"],
        "seconds": round(seconds, 2),
    }


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parse = argparse.ArgumentParser(
        prog=cli.program(), description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parse.add_argument
    add(
        "--input",
        nargs="+",
        default=[],
        metavar="PATH",
        help="files and folders: GenBank, FASTA, GFF3, GTF; plain, gzip or bgzip",
    )
    add(
        "--manifest",
        metavar="FILE",
        help="a table (TSV) with columns sequence, annotation, taxon, split, instead of --input",
    )
    add("--output", required=True, metavar="DIR", help="the folder to make; it must not exist")
    add("--taxon", choices=genome.TAXA, help="the tag of all regions, instead of each file's or record's own")

    what = parse.add_argument_group("regions (lengths in bases)").add_argument
    what(
        "--scheme",
        choices=regions.SCHEMES,
        default="gene",
        help="gene regions with introns (default), whole records, spliced mRNA or CDS",
    )
    what("--flank", type=int, default=0, help="bases added at both ends")
    what("--min_length", type=int, default=1, help="drop shorter regions")
    what(
        "--max_length", type=int, help=f"cut longer regions into pieces (default: never; whole: {regions.WHOLE_LENGTH})"
    )
    what("--cut_n", type=int, metavar="RUN", help="cut runs of at least so many N out (default: keep them)")
    what("--regulatory", action="store_true", help="regulatory features are regions too")
    what(
        "--kinds",
        nargs="+",
        default=[],
        choices=regions.KINDS,
        metavar="KIND",
        help=f"only these: {' '.join(regions.KINDS)}",
    )
    what("--gene", metavar="REGEX", help="only where the gene's name or locus tag matches")
    what("--product", metavar="REGEX", help="only where the product matches")
    what(
        "--duplicates",
        choices=merge.DUPLICATES,
        default="inputs",
        help="drop regions with the bases of one in an earlier input (default), of any earlier one, or none",
    )
    what("--skip_damaged", action="store_true", help="leave out, and name, inputs that cannot be read")

    parts = parse.add_argument_group("split").add_argument
    parts("--validation_share", type=float, default=0.05, help="default 0.05")
    parts("--test_share", type=float, default=0.0, help="default 0")
    parts(
        "--split_by",
        choices=split.BY,
        default="group",
        help="what stays together: overlapping regions (group, the default), contig, assembly, taxon (the organism), "
        "or cluster (regions that share 32-mers)",
    )
    parts("--skip_leakage", action="store_true", help="do not look held-out 32-mers up in training")
    parts("--seed", type=int, default=0, help="of the split (default 0)")

    store = parse.add_argument_group("storage").add_argument
    store("--records", choices=("bases", "tokens"), default="bases", help="what to store (default bases)")
    store("--tokenizer", choices=("kmer", "bpe"), help="for --records tokens (default kmer)")
    store("--k", type=int, help="bases a k-mer, for --records tokens (default 6)")
    store("--model_file", metavar="FILE", help="the model of --tokenizer bpe")
    store("--workers", type=int, help="processes (default: as many as cores, one for a few small inputs)")
    return parse


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    options = parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a job that is ended keeps what is done
    began = time.perf_counter()
    try:
        tokenizer = None
        if options.records == "tokens":
            from data_pipeline import tokenizer as tokenizers

            tokenizer = tokenizers.make(
                options.tokenizer or "kmer", 6 if options.k is None else options.k, options.model_file
            )
        elif options.tokenizer or options.k is not None or options.model_file:
            raise DataError("--tokenizer, --k and --model_file are for --records tokens; records of bases need none")
        if bool(options.input) == bool(options.manifest):
            raise DataError("give either --input or --manifest")
        scheme = Scheme(
            options.scheme, options.flank, options.min_length, options.max_length, options.cut_n, options.regulatory,
            tuple(options.kinds), options.gene, options.product,
        )  # fmt: skip
        dataset = build(
            manifest(options.manifest) if options.manifest else options.input,
            options.output,
            scheme=scheme,
            tokenizer=tokenizer,
            measure_leakage=not options.skip_leakage,
            **{
                name: getattr(options, name)
                for name in (
                    "taxon", "validation_share", "test_share", "split_by", "duplicates", "seed", "skip_damaged",
                    "workers",
                )
            },
        )  # fmt: skip
    except (ValueError, OSError, MemoryError) as error:
        print(f"build: error: {' '.join((str(error) or type(error).__name__).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        partial = Path(f"{options.output}.partial")
        kept = (
            f"what is done is kept in {partial}: run it again to go on" if partial.exists() else "nothing was written"
        )
        print(f"build: interrupted; {kept}", file=sys.stderr)
        return 130
    print(json.dumps(summary(dataset, options.output, time.perf_counter() - began)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
