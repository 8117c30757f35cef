"""Builds a dataset: reads the inputs in parallel into spills, which are merged into shards."""

import contextlib
import dataclasses
import fcntl
import functools
import hashlib
import json
import multiprocessing
import multiprocessing.connection
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from pathlib import Path

from tqdm import tqdm

from data_pipeline.dataset import merge, spill
from data_pipeline.dataset.inputs import Input, discover, is_dataset
from data_pipeline.dataset.writer import DatasetWriter
from data_pipeline.errors import ArgumentError, DataError, FileError, PairingError, counted
from data_pipeline.files import made_parents
from data_pipeline.formats.contigs import Aliases, read_aliases
from data_pipeline.ranges import SEED, Whole
from data_pipeline.regions import exclusion
from data_pipeline.regions.schemes import GENE, Scheme
from data_pipeline.sequence.record import TAXA
from data_pipeline.sequence.tokenizer import Tokenizer
from data_pipeline.splitting import split

WORKERS = Whole(1)
SMALL_BYTES = 8 << 20  # of input files: reading them takes about two seconds


def build(
    inputs: Sequence[str | Path | Input],
    output: str | Path,
    *,
    scheme: Scheme = GENE,
    taxon: str | None = None,
    force_taxon: str | None = None,
    aliases: Aliases = (),
    exclude: Sequence[str | Path] = (),
    exclude_at_most: float = 1.0,
    validation_fraction: float = 0.05,
    test_fraction: float = 0.0,
    split_by: str = "group",
    duplicates: str = "inputs",
    seed: int = 0,
    tokenizer: Tokenizer | None = None,
    skip_damaged: bool = False,
    measure_leakage: bool = True,
    workers: int | None = 1,
    overwrite: bool = False,
) -> dict:
    """Builds the dataset `output` from annotated genomes and returns the content of its dataset.json.

    Args:
      inputs: files and folders, as for `inputs.discover`, or objects of `Input`.
      output: the folder to create; it must not exist, or with `overwrite` be a dataset. During the build,
        OUTPUT.partial contains the finished inputs.
      scheme: which intervals become regions.
      taxon: the tag of regions, one of record.TAXA, where neither the manifest, the file's name nor the record gives
        one; without it they have the tag "unknown".
      force_taxon: the tag of every region, instead.
      aliases: other names of sequences: groups of names for the same one, or a file of them; FASTA and annotation are
        matched by `formats.contigs`, as in scoring.
      exclude: FASTA files and tables (CSV or TSV, gzip too) of sequences, such as the test rows of tasks: the bases of
        the regions that occur in them, on either strand, are cut out (see `regions.exclusion`).
      exclude_at_most: if more than this fraction of an input's region bases occurs in them, 0 to 1, the input is kept
        whole instead, and listed.
      validation_fraction: fraction of the groups defined by `split_by`, 0 to 1, that goes to validation.
      test_fraction: the same for test.
      split_by: which regions are kept in one split, one of split.BY.
      duplicates: drop regions with the same bases, on either strand, as an earlier region of another input ("inputs")
        or of any input ("all"), or drop none ("keep").
      seed: the seed of the split.
      tokenizer: store its token ids; None stores bases.
      skip_damaged: skip inputs that cannot be read, and list them in dataset.json; otherwise they are an error.
      measure_leakage: look up the held-out 32-mers in the training set; without it the index column `train_overlap` is
        NaN.
      workers: number of processes, which does not affect the result; None: one per core, or one for few small inputs.
        A script that uses several needs `if __name__ == "__main__":`.
      overwrite: replace a dataset that exists, when the new one is complete.

    A record whose accession.version occurred before, in any input, is skipped and counted; it is an error if the bases
    differ.

    Raises:
      DataError: bad input, an existing output, a full disk, or no region. Inputs that are finished by then are kept.
    """
    output = Path(output)
    split.check_fractions(validation_fraction, test_fraction)
    for name, value, choices in (
        ("taxon", taxon, (None, *TAXA)),
        ("force_taxon", force_taxon, (None, *TAXA)),
        ("split_by", split_by, split.BY),
        ("duplicates", duplicates, merge.DUPLICATES),
    ):
        if value not in choices:
            raise ArgumentError(f"must be one of {' '.join(filter(None, choices))}", field=name, value=value)
    workers, seed = None if workers is None else WORKERS.check(workers, "workers"), SEED.check(seed, "seed")
    for name, value in (("inputs", inputs), ("exclude", exclude)):
        if isinstance(value, str | Path):
            raise ArgumentError("must be a list of files", field=name, value=str(value))
    exclusion.AT_MOST.check(exclude_at_most, "exclude_at_most")
    skipped, sources = [], [source for source in inputs if isinstance(source, Input)]
    if len(sources) < len(inputs) or not inputs:
        found, skipped = discover(
            [path for path in inputs if not isinstance(path, Input)], annotated=scheme.name != "whole"
        )
        sources += found
    sources = list(dict.fromkeys(sources))
    for source in sources:
        if source.annotation is None and scheme.name != "whole":
            raise PairingError(
                "has no annotation",
                file=source.sequence,
                remedy="name one in a manifest, or build whole records, which need none (--scheme whole)",
            )
    for line in skipped:
        print(f"skipped: {line}", file=sys.stderr)
    if os.path.lexists(output):
        if not overwrite:
            raise FileError("exists already", file=output, remedy="choose another output, or replace it (--overwrite)")
        if not is_dataset(output):
            raise FileError(
                "is not a dataset, and only those are replaced", file=output, remedy="choose another output"
            )
    workers = workers or _default_workers(sources)
    compared = duplicates == "all" or (duplicates == "inputs" and len(sources) > 1)
    names = tuple(map(tuple, read_aliases(aliases)))
    settings = spill.Settings(scheme, taxon, force_taxon, split_by, seed, tokenizer, names, compared)
    with _partial_folder(output) as partial, _Progress(sources) as progress:
        if exclude:
            excluded = exclusion.read(exclude, partial / "excluded.npy", exclude_at_most)
            settings = dataclasses.replace(settings, exclusion=excluded)
        folders = [partial / spill.key(source, settings) for source in sources]
        with _pool(min(workers, len(sources)), progress.counts) as pool:
            damaged = _spill(sources, folders, settings, pool, skip_damaged, progress)
            done = [folder for source, folder in zip(sources, folders, strict=True) if source not in damaged]
            if not done:
                raise DataError(
                    f"could be read; the first error is: {damaged[sources[0]]}",
                    field=f"none of {counted(len(sources), 'input')}",
                )
            merged = merge.Merge(done, settings)
            merged.drop_records()
            merged.drop_duplicates(duplicates)
            merged.assign_splits(validation_fraction, test_fraction)
            if measure_leakage:
                progress.stage("comparing", merged.kept_bases())
                merged.measure_leakage(partial, pool.map if pool else map, progress.bar.update)
        new = partial / "dataset"
        new.mkdir()
        progress.stage("writing", merged.kept_bases())
        dataset = merged.write(
            DatasetWriter(new, tokenizer),
            progress.bar.update,
            parameters={
                "scheme": dataclasses.asdict(scheme),
                "taxon": taxon,
                "force_taxon": force_taxon,
                "aliases": hashlib.sha256(json.dumps(names).encode()).hexdigest() if names else None,
                "exclude": settings.exclusion and settings.exclusion.facts(),
                "validation_fraction": validation_fraction,
                "test_fraction": test_fraction,
                "split_by": split_by,
                "duplicates": duplicates,
                "seed": seed,
            },
            damaged=[
                {"files": [path.name for path in source.files], "error": line} for source, line in damaged.items()
            ],
            skipped_files=skipped,
        )
        if os.path.lexists(output):
            output.rename(partial / "replaced")  # removed with the folder
        new.rename(output)
        if not dataset["splits"]["train"]["regions"]:
            progress.log(
                f"warning: all regions are held out, none is left to train on: split_by {split_by} gave one group"
            )
        by_chance = not all(source.split for source in sources)  # not all fixed by a manifest
        for name, fraction in (("validation", validation_fraction), ("test", test_fraction)):
            if by_chance and fraction and not dataset["splits"][name]["regions"]:
                progress.log(_nothing_held_out(name, fraction, merged.num_groups(), scheme, split_by))
    return dataset


def _nothing_held_out(name: str, fraction: float, groups: int, scheme: Scheme, split_by: str) -> str:
    """A warning of a requested split that has no region."""
    remedies = [f"a larger --{name}_fraction", "another --seed"]
    if scheme.name == "whole":  # of the other schemes, the pieces of a region stay together
        remedies.insert(0, "a smaller --max_length")
    if split_by != "group":
        remedies.append("--split_by group")
    return (
        f"warning: no region is held out for {name}: none of {counted(groups, 'group')} (split_by {split_by}) fell "
        f"into its fraction of {fraction:g}; give more genomes, {', '.join(remedies[:-1])} or {remedies[-1]}"
    )


def _default_workers(sources: Sequence[Input]) -> int:
    """One per core, or one if the inputs are read faster than a second process starts."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    size = sum(path.stat().st_size for source in sources for path in source.files)
    return 1 if size < SMALL_BYTES else cores


@contextlib.contextmanager
def _partial_folder(output: Path) -> Iterator[Path]:
    """OUTPUT.partial, locked while in use; removed when the dataset is complete, or no input in it is finished."""
    folder = output.with_name(f"{output.name}.partial")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / "lock").exists():
        raise FileError("is not from a build, but a build needs this name", file=folder, remedy="move it away")
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(made_parents(folder))
            folder.mkdir(exist_ok=True)
            lock = stack.enter_context(open(folder / "lock", "w"))
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FileError("another build is writing there", file=folder, remedy="wait for it") from None
        except OSError as error:
            raise FileError(f"cannot be created ({error.strerror})", file=folder) from None
        kept = []
        try:
            yield folder
        except BaseException as error:
            if not isinstance(error, merge.NoRegion):
                kept = [path for path in folder.glob("*/spill.json") if "." not in path.parent.name]
            resume = (
                f"kept in {folder}: {counted(len(kept), 'finished input')}; run it again to resume" if kept else None
            )
            if isinstance(error, OSError):
                file = error.filename or folder
                raise FileError(error.strerror or str(error), file=file, remedy=resume) from None
            if isinstance(error, KeyboardInterrupt) and resume:
                error.args = (resume,)
            if isinstance(error, DataError) and resume:
                error.remedy = f"{error.remedy}; {resume}" if error.remedy else resume
            raise
        finally:
            if not kept:
                shutil.rmtree(folder, ignore_errors=True)


def _spill(
    sources: list[Input],
    folders: list[Path],
    settings: spill.Settings,
    pool: futures.ProcessPoolExecutor | None,
    skip_damaged: bool,
    progress: "_Progress",
) -> dict[Input, str]:
    """Writes the missing spills; returns the error of each input that could not be read."""
    for other in set(folders[0].parent.iterdir()) - set(folders):  # from a killed build, or with other settings
        if other.is_dir():
            shutil.rmtree(other, ignore_errors=True)
    damaged: dict[Input, str] = {}

    def finish(number: int, result: Callable[[], None]) -> None:
        try:
            result()
        except DataError as error:
            if not skip_damaged:
                raise
            damaged[sources[number]] = str(error)
            progress.log(f"skipped: {error}")
        else:
            progress.done(number, spill.Spill(folders[number]).facts)

    waiting = {}
    for number, (source, folder) in enumerate(zip(sources, folders, strict=True)):
        if folder.is_dir():
            finish(number, lambda: None)
        elif pool is None:
            finish(
                number, functools.partial(_work, source, folder, settings, number, progress.counts, progress.refresh)
            )
        else:
            waiting[pool.submit(_work, source, folder, settings, number)] = number
    while waiting:
        ended, _ = futures.wait(waiting, timeout=0.2, return_when=futures.FIRST_COMPLETED)
        progress.refresh()
        for future in ended:
            finish(waiting.pop(future), future.result)
    return damaged


_counts = None  # in a worker: file bytes read, a number per input


def _start(counts) -> None:
    global _counts
    _counts = counts
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent terminates its workers
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    multiprocessing.connection.wait([multiprocessing.parent_process().sentinel])
    os._exit(1)  # the build was killed; nobody needs this process


def _work(
    source: Input,
    folder: Path,
    settings: spill.Settings,
    number: int,
    counts=None,
    refresh: Callable[[], None] = lambda: None,
) -> None:
    """Writes one spill, in a worker, or with `counts` in this process."""
    counts = _counts if counts is None else counts

    def advance(read: int) -> None:
        counts[number] += read
        refresh()

    spill.write(source, folder, settings, advance)


@contextlib.contextmanager
def _pool(workers: int, counts) -> Iterator[futures.ProcessPoolExecutor | None]:
    """A pool of processes, terminated at the end of the block; None for one worker."""
    if workers <= 1:
        yield None
        return
    # Not forked: the caller may have threads (JAX's, for example), and a lock held by one would never be released.
    context = multiprocessing.get_context("spawn")
    executor = futures.ProcessPoolExecutor(workers, context, _start, (counts,))
    try:
        yield executor
    except futures.process.BrokenProcessPool:
        raise DataError("a worker was killed, most likely for lack of memory", remedy="give fewer --workers") from None
    finally:
        for process in list((executor._processes or {}).values()):
            process.terminate()
        executor.shutdown(wait=True, cancel_futures=True)


class _Progress(contextlib.AbstractContextManager):
    """A progress bar on a terminal, in bytes read and then in bases; else a line per input; on standard error."""

    def __init__(self, sources: list[Input]):
        self.sources = sources
        self.bytes = [sum(path.stat().st_size for path in source.files) for source in sources]
        self.counts = multiprocessing.get_context("spawn").Array("q", len(sources), lock=False)
        self.bar = tqdm(
            desc="reading", total=sum(self.bytes), unit="B", unit_scale=True, miniters=1, disable=None, leave=False
        )

    def __exit__(self, *error):
        self.bar.close()

    def refresh(self) -> None:
        """Updates the bar while files are read."""
        if not self.bar.disable:
            self.bar.update(sum(self.counts) - self.bar.n)

    def done(self, number: int, facts: dict) -> None:
        """Marks an input as finished."""
        bases = sum(record["bases"] for record in facts["records"])
        self.counts[number] = self.bytes[number]
        self.refresh()
        file, regions = self.sources[number].files[-1], facts["ledger"]["regions"]
        if self.bar.disable:
            print(f"{file}: {counted(len(facts['records']), 'record')}, {counted(bases, 'base')}", file=sys.stderr)
        kept = regions["found"]["bases"] - sum(row["bases"] for row in regions["dropped"].values())
        if kept > 2 * bases:
            self.log(f"warning: {file}: its regions have {kept} bases, more than twice its sequences' {bases}")

    def stage(self, name: str, total: int) -> None:
        """Starts the bar of a stage after reading; `total` is in bases."""
        self.bar.set_description(name, refresh=False)
        self.bar.unit = " bases"
        self.bar.reset(total)

    def log(self, line: str) -> None:
        """Prints a line without breaking the bar."""
        self.bar.write(line, file=sys.stderr)
