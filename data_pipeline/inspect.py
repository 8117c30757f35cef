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
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TextIO

import numpy as np

from data_pipeline import cli
from data_pipeline.dataset.reader import RegionSource, read_info
from data_pipeline.errors import ArgumentError, DatasetError, FileError
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
        if gene and not any(gene_pattern.search(source.name(name, region)) for name in ("gene", "locus_tag")):
            continue
        if product and not product_pattern.search(source.name("product", region)):
            continue
        yield region


def coordinates(source: RegionSource, region: int) -> str:
    """The coordinates of a region: accession:start-end(strand)."""
    row = {name: column[region].item() for name, column in source.index.items()}
    sign = "+" if row["strand"] > 0 else "-"
    return f"{source.accessions[row['accession']]}:{row['start']}-{row['end']}({sign})"


def fasta(source: RegionSource, numbers: Iterator[int], stream: TextIO) -> int:
    """Writes regions as FASTA, on their own strand; returns their number. Only for a dataset of bases."""
    count = 0
    for region in numbers:
        length = int(source.index["length"][region])
        letters = np.frombuffer(bases.decode(source.read(region, 0, length)).encode(), np.uint8).copy()
        letters[source.lower_case(region, 0, length)] |= 0x20
        text = letters.tobytes().decode()
        described = [f"{source.kinds[source.index['kind'][region]]} {source.taxa[source.index['taxon'][region]]}"]
        for name in ("gene", "locus_tag", "product", "segments"):
            if value := source.name(name, region):
                described.append(f"{name}={value}")
        stream.write(f">{coordinates(source, region)} {' '.join(described)}\n")
        stream.writelines(f"{text[start : start + LINE]}\n" for start in range(0, length, LINE))
        count += 1
    return count


def head(source: RegionSource, numbers: Iterator[int], count: int) -> list[str]:
    """One tab-separated line for each of the first `count` regions."""
    lines = []
    for region in numbers:
        if len(lines) == count:
            break
        length = int(source.index["length"][region])
        start = ""
        if source.storage == "bases":
            start = bases.decode(source.read(region, 0, min(length, 30))) + ("…" if length > 30 else "")
        row = (
            source.split, coordinates(source, region), source.taxa[source.index["taxon"][region]],
            source.kinds[source.index["kind"][region]], str(length), source.name("gene", region) or "-",
            source.name("product", region) or "-", start,
        )  # fmt: skip
        lines.append("\t".join(row))
    return lines


class Totals:
    """Totals of a set of regions."""

    def __init__(self):
        self.lengths: list[int] = []
        self.counts = np.zeros(5, np.int64)  # of A, T, C, G, N
        self.masked = 0

    def add(self, source: RegionSource, region: int) -> None:
        """Adds one region, with its bases if the dataset contains bases."""
        length = int(source.index["length"][region])
        self.lengths.append(length)
        if source.storage == "bases":
            self.counts += np.bincount(source.read(region, 0, length), minlength=5)
            self.masked += int(source.lower_case(region, 0, length).sum())

    def row(self) -> list[str]:
        """The values of COLUMNS."""
        lengths = np.sort(np.array(self.lengths, np.int64))
        total = int(lengths.sum())
        half = lengths[np.searchsorted(np.cumsum(lengths), total / 2)]  # N50
        known = int(self.counts[:4].sum())
        gc = f"{100 * int(self.counts[bases.C] + self.counts[bases.G]) / known:.2f}" if known else "-"
        counted = bool(self.counts.sum())
        return [
            f"{len(lengths):,}", f"{total:,}", f"{lengths[0]:,}", f"{total / len(lengths):,.1f}", f"{lengths[-1]:,}",
            f"{half:,}", gc, f"{int(self.counts[bases.N]):,}" if counted else "-",
            f"{self.masked:,}" if counted else "-",
        ]  # fmt: skip


COLUMNS = ["num_seqs", "sum_len", "min_len", "avg_len", "max_len", "N50", "GC(%)", "N", "soft-masked"]


def totals(sources: Sequence[RegionSource], numbers: Sequence[Sequence[int]]) -> list[str]:
    """A table of the regions `numbers` of each source by split, taxon and kind, with a row for all."""
    found: dict[tuple[str, str, str], Totals] = collections.defaultdict(Totals)
    whole = Totals()
    for source, mine in zip(sources, numbers, strict=True):
        for region in mine:
            taxon, kind = (source.index[name][region] for name in ("taxon", "kind"))
            found[source.split, source.taxa[taxon], source.kinds[kind]].add(source, region)
            whole.add(source, region)
    names = (split.SPLITS, record.TAXA, schemes.KINDS)
    order = sorted(found, key=lambda key: [all_.index(name) for all_, name in zip(names, key, strict=True)])
    rows = [[*key, *found[key].row()] for key in order]
    if len(rows) > 1:
        rows.append(["all", "", "", *whole.row()])
    table = [["split", "taxon", "kind", *COLUMNS], *rows]
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    return [
        "  ".join(
            text.ljust(width) if i < 3 else text.rjust(width)
            for i, (text, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in table
    ]


def build_report(info: dict) -> list[str]:
    """The numbers of regions found, kept and dropped, and how much of the held-out regions occurs in training."""
    lines = []
    ledger = info["ledger"]

    def listed(title: str, rows: dict) -> None:
        lines.extend(
            f"{title}{name}: {row['count']:,}" + (f" ({row['bases']:,} bases)" if row["bases"] else "")
            for name, row in rows.items()
        )

    read, found = ledger["records"]["read"], ledger["regions"]["found"]
    lines.append(f"records read: {read['count']:,} ({read['bases']:,} bases)")
    listed("  skipped, ", ledger["records"]["skipped"])
    lines.append(f"regions found: {found['count']:,} ({found['bases']:,} bases)")
    if ledger["regions"]["cut"]:
        lines.append(f"  added by cutting: {ledger['regions']['cut']:,}")
    listed("  dropped, ", ledger["regions"]["dropped"])
    kept = [sum(facts[name] for facts in info["splits"].values()) for name in ("regions", "bases")]
    lines.append(f"regions kept: {kept[0]:,} ({kept[1]:,} bases)")
    listed("noted, ", ledger["notes"])
    lines.extend(f"damaged, skipped: {row['error']}" for row in info["damaged"])
    leakage = info["leakage"]
    for name, row in leakage.items():
        if isinstance(row, dict):
            sampled = f", of a sample of one in {leakage['sampled_one_in']}" if leakage["sampled_one_in"] > 1 else ""
            near = row["near_copies"]
            lines.append(
                f"{name}: {100 * row['fraction_in_training']:.3f} % of its {leakage['kmer_length']}-mers occur in "
                "training"
                f"{sampled}; near copies: {near['regions']:,} of {row['regions']:,} regions ({near['bases']:,} bases)"
            )
    return lines


def parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    parse = argparse.ArgumentParser(
        prog=cli.program(),
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parse.add_argument
    add("dataset", metavar="DIR", help="a folder that data_pipeline.build created")
    add("--split", nargs="+", metavar="SPLIT", help="only these: train, validation, test (default: all)")
    add("--kinds", nargs="+", default=[], choices=schemes.KINDS, metavar="KIND", help="only these kinds")
    add("--taxa", nargs="+", default=[], choices=record.TAXA, metavar="TAXON", help="only these tags")
    add("--gene", metavar="REGEX", help="only regions whose gene name or locus tag matches")
    add("--product", metavar="REGEX", help="only regions whose product matches")
    add("--head", type=int, metavar="N", help="print the first N regions, one per line")
    add("--fasta", metavar="FILE", help="write the regions as FASTA; - is standard output")
    return parse


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
    if options.fasta:
        if info["storage"] != "bases":
            raise DatasetError(
                "contains token ids, not bases",
                file=options.dataset, remedy="build it with --storage bases to write FASTA",
            )  # fmt: skip
        if options.fasta == "-":
            for source in sources:
                fasta(source, chosen(source, **filters), sys.stdout)
            return
        path = Path(options.fasta)
        if path.exists():
            raise FileError("exists already", file=path, remedy="remove it or choose another file")
        try:
            with atomic(path) as partial, open(partial, "w") as stream:
                count = sum(fasta(source, chosen(source, **filters), stream) for source in sources)
        except OSError as error:
            raise FileError(f"cannot be written ({error.strerror})", file=path) from None
        print(f"{path}: {count} regions", file=sys.stderr)
        return
    if options.head is not None:
        left = options.head
        for source in sources:
            lines = head(source, chosen(source, **filters), left)
            left -= len(lines)
            print(*lines, sep="\n", end="\n" if lines else "")
        return
    numbers = [list(chosen(source, **filters)) for source in sources]
    scheme = info["parameters"]["scheme"]["name"]
    sequences = f"{len(info['accessions']):,} sequences"
    print(f"{options.dataset}: {info['storage']}, scheme {scheme}, digest {info['digest'][:12]}, {sequences}")
    if any(numbers):
        print(*totals(sources, numbers), sep="\n")
    else:
        print("no region matches")
    print(*build_report(info), sep="\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    options = parser().parse_args(arguments)
    return cli.run("inspect", lambda: inspect(options))


if __name__ == "__main__":
    sys.exit(main())
