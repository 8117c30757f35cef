"""Builds a dataset of gene regions from annotated genomes.

    python -m data_pipeline.build --input genomes/ --output datasets/mine

Accepts GenBank files, FASTA with GFF3 or GTF, FASTA alone (--scheme whole), folders of these, or a manifest. Inputs are
read in parallel, one per core. Then duplicates are dropped, regions are assigned to train, validation and test, and
ArrayRecord shards are written with an index and dataset.json. The output folder appears only when it is complete. A
build that was interrupted, even killed, resumes when the same command is run again; finished inputs are kept in
OUTPUT.partial. The last line on standard output is a JSON object with the totals.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from data_pipeline import cli
from data_pipeline.dataset import merge, report
from data_pipeline.dataset.builder import WORKERS, build
from data_pipeline.dataset.inputs import manifest
from data_pipeline.errors import ArgumentError
from data_pipeline.ranges import SEED, Whole
from data_pipeline.regions import ledger, schemes
from data_pipeline.regions.schemes import Scheme
from data_pipeline.sequence.record import TAXA
from data_pipeline.sequence.tokenizer import K, make
from data_pipeline.splitting import split


def summary(dataset: dict, output: str | Path, seconds: float) -> dict:
    """The totals of a dataset, which the command prints."""
    splits = {
        name: {key: facts[key] for key in ("regions", "bases", "tokens", "remainder", "entries")}
        | {"shards": len(facts["shards"]), "bytes": sum(shard["bytes"] for shard in facts["shards"])}
        for name, facts in dataset["splits"].items()
    }
    return {
        "output": str(output),
        "digest": dataset["digest"],
        "inputs": 1 + max(file["input"] for file in dataset["inputs"]),
        "damaged": len(dataset["damaged"]),
        "regions": sum(facts["regions"] for facts in splits.values()),
        "region_bases": sum(facts["bases"] for facts in splits.values()),
        "splits": splits,
        **dataset["ledger"],
        "leakage": dataset["leakage"],
        "seconds": round(seconds, 2),
    }


def _build(options: argparse.Namespace) -> None:
    began, tokenizer = time.perf_counter(), None
    if options.storage == "token_ids":
        tokenizer = make(options.tokenizer or "kmer", 6 if options.k is None else options.k, options.model_file)
    elif options.tokenizer or options.k is not None or options.model_file:
        raise ArgumentError("--tokenizer, --k and --model_file are only for --storage token_ids")
    if bool(options.input) == bool(options.manifest):
        raise ArgumentError("give either --input or --manifest")
    scheme = Scheme(
        options.scheme, options.flank, options.min_length, options.max_length, options.cut_n, options.regulatory,
        tuple(options.kinds), options.gene, options.product,
    )  # fmt: skip
    dataset = build(
        manifest(options.manifest) if options.manifest else options.input, options.output,
        scheme=scheme, tokenizer=tokenizer, measure_leakage=not options.skip_leakage, taxon=options.taxon,
        force_taxon=options.force_taxon,
        aliases=options.aliases or (),
        validation_fraction=options.validation_fraction, test_fraction=options.test_fraction,
        split_by=options.split_by, duplicates=options.duplicates, seed=options.seed,
        skip_damaged=options.skip_damaged, workers=options.workers, overwrite=options.overwrite,
    )  # fmt: skip
    print(*report.whole(options.output), sep="\n")
    if unknown := dataset["ledger"]["notes"].get(ledger.NO_TAXON):
        print(f"note: {unknown['count']:,} records of unknown taxon; --taxon gives them a tag", file=sys.stderr)
    if not sys.stdout.isatty():
        print(json.dumps(summary(dataset, options.output, time.perf_counter() - began)))


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    cli.escape_unencodable()
    parse = cli.Parser(__doc__)
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
    add("--output", required=True, metavar="DIR", help="the folder to create")
    add("--overwrite", action="store_true", help="replace the dataset that is there")
    add("--taxon", choices=TAXA, help="the tag of records without one")
    add("--force_taxon", choices=TAXA, help="the tag of all records")
    add(
        "--aliases",
        metavar="FILE",
        help="other names of contigs: the names of each one per line, separated by tabs, or NCBI's assembly report",
    )

    what = parse.add_argument_group("regions (lengths in bases)").add_argument
    what(
        "--scheme",
        choices=schemes.SCHEMES,
        default="gene",
        help="gene regions with introns (default), whole records, spliced mRNA or CDS",
    )
    what("--flank", type=Whole(), default=0, help="bases added at both ends")
    what("--min_length", type=Whole(1), default=1, help="drop shorter regions")
    what("--max_length", type=Whole(1), help=f"cut longer regions (default: never; whole: {schemes.WHOLE_LENGTH})")
    what("--cut_n", type=Whole(1), metavar="RUN", help="cut out runs of at least this many N (default: keep them)")
    what("--regulatory", action="store_true", help="also make regions of regulatory features")
    what(
        "--kinds",
        nargs="+",
        default=[],
        choices=schemes.KINDS,
        metavar="KIND",
        help=f"keep only these: {' '.join(schemes.KINDS)}",
    )
    what("--gene", metavar="REGEX", help="keep only regions whose gene name or locus tag matches")
    what("--product", metavar="REGEX", help="keep only regions whose product matches")
    what(
        "--duplicates",
        choices=merge.DUPLICATES,
        default="inputs",
        help="drop regions with the same bases as one of an earlier input (default), as any earlier region, or none",
    )
    what("--skip_damaged", action="store_true", help="skip inputs that cannot be read, and list them in dataset.json")

    splits = parse.add_argument_group("split").add_argument
    splits(
        "--validation_fraction",
        "--validation_share",
        type=split.SHARE,
        default=0.05,
        help="fraction of the groups for validation (default 0.05)",
    )
    splits(
        "--test_fraction",
        "--test_share",
        type=split.SHARE,
        default=0.0,
        help="fraction of the groups for test (default 0)",
    )
    splits(
        "--split_by",
        choices=split.BY,
        default="group",
        help="what is kept in one split: overlapping regions (group, the default), contig, assembly, taxon (the "
        "organism), or cluster (regions that share 32-mers)",
    )
    splits("--skip_leakage", action="store_true", help="do not measure which held-out 32-mers occur in training")
    splits("--seed", type=SEED, default=0, help="seed of the split (default 0)")

    store = parse.add_argument_group("storage").add_argument
    store("--storage", choices=("bases", "token_ids"), default="bases", help="what to store (default: bases)")
    store("--tokenizer", choices=("kmer", "bpe"), help="tokenizer for --storage token_ids (default: kmer)")
    store("--k", type=K, help="bases per k-mer, for --storage token_ids (default 6)")
    store("--model_file", metavar="FILE", help="the model of --tokenizer bpe")
    store("--workers", type=WORKERS, help="number of processes (default: one per core, or one for few small inputs)")
    options = parse.parse_args(arguments)
    return cli.run("build", lambda: _build(options))


if __name__ == "__main__":
    sys.exit(main())
