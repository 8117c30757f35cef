"""From annotated genomes to a dataset of gene regions.

    python -m data_pipeline.build --input genomes/*.gbff.gz --output data/genomes

Reads GenBank files one record at a time, finds the gene regions, keeps overlapping ones in one part of train,
validation and test, and writes ArrayRecord shards with an index and dataset.json. The folder appears when it is whole.
The last line on standard output is a JSON object with the totals.
"""

import argparse
import contextlib
import hashlib
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from data_pipeline import genbank, genome, regions, split
from data_pipeline.errors import DataError
from data_pipeline.writer import SHARD_BYTES, DatasetWriter, Tokenizer

DUPLICATE_RECORD = "duplicate records"


def build(
    inputs: Sequence[str | Path],
    output: str | Path,
    *,
    taxon: str | None = None,
    validation_share: float = 0.05,
    test_share: float = 0.0,
    seed: int = 0,
    tokenizer: Tokenizer | None = None,
    piece_length: int | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> dict:
    """Builds the dataset `output` from GenBank files and returns what its dataset.json holds.

    Args:
      inputs: GenBank files, plain or gzip.
      output: the folder to make; it must not exist.
      taxon: the tag of every region, one of genome.TAXA; None takes it from each record.
      validation_share: share of overlap groups, 0 to 1, that goes to validation.
      test_share: the same for test.
      seed: of the split.
      tokenizer: stores its token ids; None stores bases.
      piece_length: longest piece of a region in one record, in bases or tokens; None is what 64 KiB hold.
      shard_bytes: a new shard begins after so many bytes.

    A record with an accession.version seen before, in any input, is skipped whole and counted.

    Raises:
      DataError: bad input, an existing output, a full disk, no region at all; nothing is left behind.
    """
    inputs, output = [Path(path) for path in inputs], Path(output)
    split.check_shares(validation_share, test_share)
    if taxon is not None and taxon not in genome.TAXA:
        raise DataError(f"taxon {taxon!r} is not one of {' '.join(genome.TAXA)}")
    if not inputs:
        raise DataError("no input files; name at least one GenBank file")
    for path in inputs:
        if not path.is_file():
            raise DataError(f"{path}: no such file" if not path.exists() else f"{path}: not a file")
    if os.path.lexists(output):
        raise DataError(f"{output}: exists already; remove it or choose another output")
    partial = output.with_name(f"{output.name}.partial-{os.getpid()}")
    made = [folder for folder in partial.parents if not folder.exists()]
    try:
        partial.mkdir(parents=True)
    except OSError as error:
        raise DataError(f"{partial}: cannot be made ({error.strerror})") from None
    writer = None
    try:
        writer = DatasetWriter(partial, tokenizer, piece_length, shard_bytes)
        dataset = _fill(writer, inputs, taxon, seed, validation_share, test_share)
        partial.rename(output)
    except BaseException as error:
        if writer is not None:
            writer.abandon()
        shutil.rmtree(partial, ignore_errors=True)
        for folder in made:
            with contextlib.suppress(OSError):  # another program may be using it by now
                folder.rmdir()
        if isinstance(error, OSError):
            raise DataError(f"{error.filename or output}: {error.strerror or error}; nothing was written") from None
        raise
    return dataset


def _fill(
    writer: DatasetWriter,
    inputs: list[Path],
    taxon: str | None,
    seed: int,
    validation_share: float,
    test_share: float,
) -> dict:
    shares = {"seed": seed, "validation_share": validation_share, "test_share": test_share}
    skipped = regions.Skipped()
    skipped.add(DUPLICATE_RECORD, 0, 0)
    seen: dict[str, bytes] = {}
    files, region_bases = [], 0
    with _Progress(inputs) as progress:
        for path in inputs:
            file = {"file": path.name, "sha256": _sha256(path), "bytes": path.stat().st_size, "records": 0, "bases": 0}
            for record in genbank.read(path, regions.FEATURE_KINDS, progress.advance):
                file["records"] += 1
                file["bases"] += len(record.codes)
                if not _is_new(path, record, seen, skipped):
                    continue
                spans = regions.spans(record, skipped)
                if spans and taxon is None and record.taxon is None:
                    raise DataError(
                        f"{path}: record {record.accession}: neither its lineage nor its division tells a taxon; "
                        f"give --taxon, one of {' '.join(genome.TAXA)}"
                    )
                parts = split.parts(record.accession, spans, len(record.codes), **shares)
                for span, part in zip(spans, parts, strict=True):
                    region = regions.extract(record, span, taxon)
                    region_bases += len(region.codes)
                    writer.add(part, region)
            files.append(file)
            progress.done(path, file)
    if not any(len(part.columns["length"]) for part in writer.splits.values()):
        reasons = ", ".join(f"{row['count']} {reason}" for reason, row in skipped.items() if row["count"])
        names = ", ".join(path.name for path in inputs[:3]) + (" …" if len(inputs) > 3 else "")
        raise DataError(f"no gene region in {names}; skipped: {reasons or 'nothing'}; give annotated records")
    dataset = writer.close(
        parameters={**shares, "taxon": taxon, "shard_bytes": writer.splits["train"].shard_bytes},
        inputs=files,
        skipped=skipped,
    )
    written = sum(part["bases"] for part in dataset["splits"].values())
    if written != region_bases:
        raise DataError(f"{region_bases} bases in regions but {written} written: a fault of this program, report it")
    return dataset


def _is_new(path: Path, record: genome.Record, seen: dict[str, bytes], skipped: regions.Skipped) -> bool:
    """Whether the record's accession.version comes for the first time; a second one is counted as skipped."""
    content = hashlib.blake2b(record.codes, digest_size=16).digest()
    before = seen.setdefault(record.accession, content)
    if before is content:
        return True
    if before != content:
        raise DataError(
            f"{path}: record {record.accession}: it came before with other bases (another part of the same sequence?); "
            "rename one or build the two apart"
        )
    skipped.add(DUPLICATE_RECORD, 1, len(record.codes))
    return False


def _sha256(path: Path) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


class _Progress(contextlib.AbstractContextManager):
    """A bar over the input's bytes on a terminal, otherwise a line a file; on standard error."""

    def __init__(self, inputs: list[Path]):
        total = sum(path.stat().st_size for path in inputs)
        # tqdm's own `disable=None` asks the same of its stream, and then keeps silent.
        self.bar = tqdm(total=total, unit="B", unit_scale=True, disable=None, leave=False)

    def __exit__(self, *error):
        self.bar.close()

    def advance(self, count: int) -> None:
        self.bar.update(count)

    def done(self, path: Path, file: dict) -> None:
        if self.bar.disable:
            print(f"{path}: {file['records']} records, {file['bases']} bases", file=sys.stderr)


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
        "files": len(dataset["inputs"]),
        "input_records": sum(file["records"] for file in dataset["inputs"]),
        "input_bases": sum(file["bases"] for file in dataset["inputs"]),
        "regions": sum(part["regions"] for part in splits.values()),
        "region_bases": sum(part["bases"] for part in splits.values()),
        "splits": splits,
        "skipped": {reason: row for reason, row in dataset["skipped"].items() if row["count"]},
        "seconds": round(seconds, 2),
    }


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parse = argparse.ArgumentParser(
        prog="python -m data_pipeline.build", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parse.add_argument("--input", nargs="+", required=True, metavar="FILE", help="GenBank files, plain or gzip")
    parse.add_argument("--output", required=True, metavar="DIR", help="the folder to make; it must not exist")
    parse.add_argument("--taxon", choices=genome.TAXA, help="the tag of all regions, instead of each record's own")
    parse.add_argument("--validation_share", type=float, default=0.05, help="share of overlap groups (default 0.05)")
    parse.add_argument("--test_share", type=float, default=0.0, help="share of overlap groups (default 0)")
    parse.add_argument("--seed", type=int, default=0, help="of the split (default 0)")
    parse.add_argument("--records", choices=("bases", "tokens"), default="bases", help="what to store (default bases)")
    parse.add_argument("--tokenizer", choices=("kmer", "bpe"), help="for --records tokens (default kmer)")
    parse.add_argument("--k", type=int, help="bases a k-mer, for --records tokens (default 6)")
    parse.add_argument("--model_file", metavar="FILE", help="the model of --tokenizer bpe")
    return parse


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    options = parser().parse_args(arguments)
    began = time.perf_counter()
    try:
        tokenizer = None
        if options.records == "tokens":
            from data_pipeline import tokenizer as tokenizers

            tokenizer = tokenizers.make(options.tokenizer or "kmer", options.k or 6, options.model_file)
        elif options.tokenizer or options.k or options.model_file:
            raise DataError("--tokenizer, --k and --model_file are for --records tokens; records of bases need none")
        dataset = build(
            options.input,
            options.output,
            taxon=options.taxon,
            validation_share=options.validation_share,
            test_share=options.test_share,
            seed=options.seed,
            tokenizer=tokenizer,
        )
    except (ValueError, OSError, MemoryError) as error:
        print(f"build: error: {' '.join((str(error) or type(error).__name__).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("build: interrupted; nothing was written", file=sys.stderr)
        return 130
    print(json.dumps(summary(dataset, options.output, time.perf_counter() - began)))
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a job that is ended leaves nothing half-written
    sys.exit(main())
