"""Shows the content of a dataset.

    python -m data_pipeline.inspect datasets/mine
    python -m data_pipeline.inspect datasets/mine --head 5 --product ribosomal
    python -m data_pipeline.inspect datasets/mine --split validation --fasta held_out.fa

Prints totals by taxon and kind, the numbers of regions found, kept and dropped, and how much of the held-out regions
occurs in training. With --head it prints the first regions, one per line. With --fasta it writes the regions as FASTA
(soft-masked bases in lower case), named accession:start-end(strand) with 0-based, half-open coordinates, as bedtools
does; an end before the start means across the origin.
"""

import argparse
import collections
import itertools
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from data_pipeline import cli
from data_pipeline.dataset.reader import RegionSource, read_info
from data_pipeline.errors import ArgumentError, FileError
from data_pipeline.files import atomic
from data_pipeline.regions import schemes
from data_pipeline.sequence import bases, record
from data_pipeline.splitting import split

LINE = 80  # bases per line of FASTA


def chosen(
    source: RegionSource,
    *,
    kinds: Sequence[str] = (),
    taxa: Sequence[str] = (),
    gene: str | None = None,
    product: str | None = None,
) -> Iterator[int]:
    """Yields the numbers of the regions of a split with one of `kinds` and `taxa`, and names that match the patterns.

    `gene` is matched against the gene's name and locus tag. Raises ArgumentError for an invalid regular expression.
    """
    try:
        gene_pattern, product_pattern = re.compile(gene or ""), re.compile(product or "")
    except re.error as error:
        raise ArgumentError(f"is not a regular expression ({error})", field="pattern", value=error.pattern) from None
    index = source.index
    mask = np.ones(len(source), bool)
    for column, names, wanted in (("kind", source.kinds, kinds), ("taxon", source.taxa, taxa)):
        if wanted:
            mask &= np.isin(index[column], [names.index(name) for name in wanted if name in names])
    for region in np.flatnonzero(mask).tolist():
        named = not gene or any(gene_pattern.search(source.name(name, region)) for name in ("gene", "locus_tag"))
        if named and (not product or product_pattern.search(source.name("product", region))):
            yield region


def coordinates(source: RegionSource, region: int) -> str:
    """The coordinates of a region: accession:start-end(strand)."""
    accession, start, end, strand = (source.index[name][region] for name in ("accession", "start", "end", "strand"))
    return f"{source.accessions[accession]}:{start}-{end}({'+' if strand > 0 else '-'})"


def fasta(source: RegionSource, region: int) -> str:
    """A region as FASTA, on its own strand. Only for a dataset of bases."""
    length = int(source.index["length"][region])
    lower_case = source.lower_case(region, 0, length)
    letters = np.frombuffer(bases.decode(source.read(region, 0, length)).encode(), np.uint8)
    text = (letters | 0x20 * lower_case).astype(np.uint8).tobytes().decode()
    named = ((name, source.name(name, region)) for name in ("gene", "locus_tag", "product", "segments"))
    described = [source.kinds[source.index["kind"][region]], source.taxa[source.index["taxon"][region]]]
    described += [f"{name}={value}" for name, value in named if value]
    lines = [text[start : start + LINE] for start in range(0, length, LINE)]
    return "\n".join([f">{coordinates(source, region)} {' '.join(described)}", *lines, ""])


def line(source: RegionSource, region: int) -> str:
    """A tab-separated line about a region."""
    length, start = int(source.index["length"][region]), ""
    if source.storage == "bases":
        start = bases.decode(source.read(region, 0, min(length, 30))) + ("…" if length > 30 else "")
    values = (
        source.split, coordinates(source, region), source.taxa[source.index["taxon"][region]],
        source.kinds[source.index["kind"][region]], str(length), source.name("gene", region) or "-",
        source.name("product", region) or "-", start,
    )  # fmt: skip
    return "\t".join(values) + "\n"


COLUMNS = ["num_seqs", "sum_len", "min_len", "avg_len", "max_len", "N50", "GC(%)", "N", "soft-masked"]


def measured(source: RegionSource, region: int) -> list[int]:
    """A region's length, its numbers of A, T, C, G and N, and of soft-masked bases: 0 in a dataset of token ids."""
    length = int(source.index["length"][region])
    if source.storage != "bases":
        return [length, 0, 0, 0, 0, 0, 0]
    counts = np.bincount(source.read(region, 0, length), minlength=5).tolist()
    return [length, *counts, int(source.lower_case(region, 0, length).sum())]


def row_of(regions: np.ndarray) -> list[str]:
    """The values of COLUMNS for some regions, int64 [regions, 7] as `measured`."""
    lengths = np.sort(regions[:, 0])
    total, *counts, masked = regions.sum(0).tolist()
    half = lengths[np.searchsorted(np.cumsum(lengths), total / 2)]  # N50
    known = sum(counts[: bases.N])
    return [
        f"{len(lengths):,}", f"{total:,}", f"{lengths[0]:,}", f"{total / len(lengths):,.1f}", f"{lengths[-1]:,}",
        f"{half:,}", f"{100 * (counts[bases.C] + counts[bases.G]) / known:.2f}" if known else "-",
        f"{counts[bases.N]:,}" if any(counts) else "-", f"{masked:,}" if any(counts) else "-",
    ]  # fmt: skip


def totals(regions: Iterable[tuple[RegionSource, int]]) -> list[str]:
    """A table of regions by split, taxon and kind, with a row for all."""
    found: dict[tuple[str, str, str], list[list[int]]] = collections.defaultdict(list)
    for source, region in regions:
        taxon, kind = (source.index[name][region] for name in ("taxon", "kind"))
        found[source.split, source.taxa[taxon], source.kinds[kind]].append(measured(source, region))
    if not found:
        return ["no region matches"]
    names = (split.SPLITS, record.TAXA, schemes.KINDS)
    order = sorted(found, key=lambda key: [all_.index(name) for all_, name in zip(names, key, strict=True)])
    rows = [[*key, *row_of(np.array(found[key]))] for key in order]
    if len(rows) > 1:
        rows.append(["all", "", "", *row_of(np.concatenate(list(found.values())))])
    table = [["split", "taxon", "kind", *COLUMNS], *rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return [
        "  ".join(
            text.ljust(width) if i < 3 else text.rjust(width)
            for i, (text, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in table
    ]


def build_report(info: dict) -> Iterator[str]:
    """Yields the counts of regions found, kept and dropped, and how much of the held-out ones occurs in training."""
    ledger, leakage = info["ledger"], info["leakage"]

    def listed(title: str, rows: dict) -> Iterator[str]:
        for name, row in rows.items():
            yield f"{title}{name}: {row['count']:,}" + (f" ({row['bases']:,} bases)" if row["bases"] else "")

    read, found = ledger["records"]["read"], ledger["regions"]["found"]
    yield f"records read: {read['count']:,} ({read['bases']:,} bases)"
    yield from listed("  skipped, ", ledger["records"]["skipped"])
    yield f"regions found: {found['count']:,} ({found['bases']:,} bases)"
    if ledger["regions"]["cut"]:
        yield f"  added by cutting: {ledger['regions']['cut']:,}"
    yield from listed("  dropped, ", ledger["regions"]["dropped"])
    regions, kept = (sum(facts[name] for facts in info["splits"].values()) for name in ("regions", "bases"))
    yield f"regions kept: {regions:,} ({kept:,} bases)"
    yield from listed("noted, ", ledger["notes"])
    for row in info["damaged"]:
        yield f"damaged, skipped: {row['error']}"
    for name in filter(leakage.get, split.SPLITS):
        row, near = leakage[name], leakage[name]["near_copies"]
        sampled = f", of a sample of one in {leakage['sampled_one_in']}" if leakage["sampled_one_in"] > 1 else ""
        yield (
            f"{name}: {100 * row['fraction_in_training']:.3f} % of its {leakage['kmer_length']}-mers occur in training"
            f"{sampled}; near copies: {near['regions']:,} of {row['regions']:,} regions ({near['bases']:,} bases)"
        )


def inspect(options: argparse.Namespace) -> None:
    """Prints the totals, or what --head and --fasta select.

    Raises:
      DataError: the folder is not a dataset, the output exists, or --head is below 1.
    """
    if options.head is not None and options.head < 1:
        raise ArgumentError("must be at least 1", field="--head", value=options.head)
    info = read_info(options.dataset)
    sources = [RegionSource(options.dataset, name) for name in options.split or info["splits"]]
    filters = {"kinds": options.kinds, "taxa": options.taxa, "gene": options.gene, "product": options.product}
    regions = ((source, region) for source in sources for region in chosen(source, **filters))
    if options.fasta == "-":
        sys.stdout.writelines(itertools.starmap(fasta, regions))
    elif options.fasta:
        path, count = Path(options.fasta), 0
        if path.exists():
            raise FileError("exists already", file=path, remedy="remove it or choose another file")
        try:
            with atomic(path) as partial, open(partial, "w") as stream:
                for source, region in regions:
                    stream.write(fasta(source, region))
                    count += 1
        except OSError as error:
            raise FileError(f"cannot be written ({error.strerror})", file=path) from None
        print(f"{path}: {count} regions", file=sys.stderr)
    elif options.head is not None:
        sys.stdout.writelines(itertools.starmap(line, itertools.islice(regions, options.head)))
    else:
        scheme = info["parameters"]["scheme"]["name"]
        sequences = f"{len(info['accessions']):,} sequences"
        title = f"{options.dataset}: {info['storage']}, scheme {scheme}, digest {info['digest'][:12]}, {sequences}"
        print(title, *totals(regions), *build_report(info), sep="\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    parse = cli.Parser(__doc__)
    add = parse.add_argument
    add("dataset", metavar="DIR", help="a folder that data_pipeline.build created")
    add("--split", nargs="+", metavar="SPLIT", help="only these: train, validation, test (default: all)")
    add("--kinds", nargs="+", default=[], choices=schemes.KINDS, metavar="KIND", help="only these kinds")
    add("--taxa", nargs="+", default=[], choices=record.TAXA, metavar="TAXON", help="only these tags")
    add("--gene", metavar="REGEX", help="only regions whose gene name or locus tag matches")
    add("--product", metavar="REGEX", help="only regions whose product matches")
    add("--head", type=int, metavar="N", help="print the first N regions, one per line")
    add("--fasta", metavar="FILE", help="write the regions as FASTA; - is standard output")
    options = parse.parse_args(arguments)
    return cli.run("inspect", lambda: inspect(options))


if __name__ == "__main__":
    sys.exit(main())
