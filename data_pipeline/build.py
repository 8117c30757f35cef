"""Builds a dataset of gene regions:
    gener-jax data build --input genomes/ --output datasets/mine
A build that was interrupted resumes.
"""

import argparse
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
from data_pipeline.regions import exclusion, schemes
from data_pipeline.regions.schemes import Scheme
from data_pipeline.sequence.record import TAXA, tag
from data_pipeline.sequence.tokenizer import K, make
from data_pipeline.splitting import split


def summary(dataset: dict, output: str | Path, seconds: float) -> dict:
    """The totals of a dataset, which the command prints."""
    counts = ["regions", "bases", "entries"]
    counts += ["tokens", "remainder"] if dataset["storage"] == "token_ids" else []
    splits = {
        name: {key: facts[key] for key in counts}
        | {"shards": len(facts["shards"]), "bytes": sum(shard["bytes"] for shard in facts["shards"])}
        for name, facts in dataset["splits"].items()
    }
    return {
        "output": str(output),
        "digest": dataset["digest"],
        "inputs": 1 + max(file["input"] for file in dataset["inputs"]),
        "damaged": len(dataset["damaged"]),
        "skipped_files": len(dataset["skipped_files"]),
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
        aliases=options.aliases or (), exclude=options.exclude, exclude_at_most=options.exclude_at_most,
        validation_fraction=options.validation_fraction, test_fraction=options.test_fraction,
        split_by=options.split_by, duplicates=options.duplicates, seed=options.seed,
        skip_damaged=options.skip_damaged, workers=options.workers, overwrite=options.overwrite,
    )  # fmt: skip
    with cli.text(options.json):
        print(*report.whole(options.output), sep="\n")
    cli.finish(summary(dataset, options.output, time.perf_counter() - began), options.json, listed=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    cli.escape_unencodable()
    parse = cli.Parser(__doc__)
    group = parse.add_argument_group("input and output")
    files = group.add_argument
    files(
        "--input", nargs="*", default=[], metavar="PATH", help="GenBank; FASTA with GFF3 or GTF; plain or gzip; folders"
    )
    files("--manifest", metavar="FILE", help="instead: table with sequence, annotation, taxon, split")
    files("--aliases", metavar="FILE", help="each contig's names in a line, or NCBI's report")
    files("--taxon", type=tag, choices=TAXA, metavar="TAXON", help="tag where the files give none: mam, bct, fng, …")
    files("--force_taxon", type=tag, choices=TAXA, metavar="TAXON", help="tag of every region, whatever the files say")
    files("--skip_damaged", action="store_true", help="skip and list inputs that cannot be read")
    files("--output", required=True, metavar="DIR", help="the dataset, which appears when it is complete")
    files("--overwrite", action="store_true", help="replace the dataset that is there")
    cli.add_json(group)
    files("--workers", type=WORKERS, metavar="N", help="processes [one per core; 1 if inputs are small]")

    regions = parse.add_argument_group("regions, with lengths in bases").add_argument
    regions("--scheme", choices=schemes.SCHEMES, default="gene", metavar="NAME", help=" | ".join(schemes.SCHEMES))
    regions("--flank", type=Whole(), default=0, metavar="N", help="added at both ends")
    regions("--min_length", type=Whole(1), default=1, metavar="N", help="drop shorter regions")
    regions(
        "--max_length", type=Whole(1), metavar="N", help=f"cut longer regions [never; whole: {schemes.WHOLE_LENGTH}]"
    )
    regions("--cut_n", type=Whole(1), metavar="N", help="cut out runs of at least N unknown bases [keep them]")
    regions("--exclude", nargs="*", default=[], metavar="FILE", help="cut out what occurs in these: FASTA, CSV, TSV")
    regions(
        "--exclude_at_most", type=exclusion.AT_MOST, default=1.0, metavar="X",
        help="keep inputs whole of which more would go",
    )  # fmt: skip
    regions("--regulatory", action="store_true", help="regulatory features too")
    regions(
        "--kinds",
        nargs="*",
        type=schemes.kind,
        default=[],
        choices=schemes.KINDS,
        metavar="KIND",
        help="only cds, tRNA, pseudo, … [all]",
    )
    regions("--gene", metavar="REGEX", help="only genes whose name or locus tag matches")
    regions("--product", metavar="REGEX", help="only genes whose product matches")
    regions(
        "--duplicates", choices=merge.DUPLICATES, default="inputs", metavar="WHICH",
        help="equal ones to drop: inputs | all | keep",
    )  # fmt: skip

    splits = parse.add_argument_group("splits and storage").add_argument
    splits(
        "--validation_fraction",
        type=split.SHARE,
        default=0.05,
        metavar="X",
        help="fraction of the groups for validation",
    )
    splits("--test_fraction", type=split.SHARE, default=0.0, metavar="X", help="fraction of the groups for test")
    for name in ("validation", "test"):  # as they were called
        splits(
            f"--{name}_share",
            dest=f"{name}_fraction",
            type=split.SHARE,
            help=argparse.SUPPRESS,
            default=argparse.SUPPRESS,
        )
    splits("--split_by", choices=split.BY, default="group", metavar="WHAT", help=f"groups: {' '.join(split.BY)}")
    splits("--seed", type=SEED, default=0, metavar="N", help="seed of the splits")
    splits("--skip_leakage", action="store_true", help="do not search held-out 32-mers in training")
    splits("--storage", choices=("bases", "token_ids"), default="bases", metavar="WHAT", help="bases | token_ids")
    splits("--tokenizer", choices=("kmer", "bpe"), metavar="NAME", help="for token_ids: kmer | bpe [kmer]")
    splits("--k", type=K, metavar="N", help="bases per k-mer [6]")
    splits("--model_file", metavar="FILE", help="model of the tokenizer bpe")
    options = parse.parse_args(arguments)
    return cli.run(lambda: _build(options))


if __name__ == "__main__":
    sys.exit(main())
