"""Shows the content of a dataset.

    gener-jax data inspect datasets/mine
    gener-jax data inspect datasets/mine --head 5 --product ribosomal
    gener-jax data inspect datasets/mine --split validation --output held_out.fa

Prints totals by taxon and kind, the numbers of regions found, kept and dropped, and how much of the held-out regions
occurs in training. With --head it prints the first regions, one per line. With --output it writes the regions as FASTA
(soft-masked bases in lower case), named accession:start-end(strand) with 1-based coordinates, as samtools does and
`score --region` takes; an end before the start means across the origin.
"""

import argparse
import itertools
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from data_pipeline import cli
from data_pipeline.dataset import report
from data_pipeline.dataset.reader import RegionSource, read_info
from data_pipeline.errors import ArgumentError, FileError, counted
from data_pipeline.files import atomic
from data_pipeline.ranges import Whole
from data_pipeline.regions import schemes
from data_pipeline.sequence import bases, record

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
    """The coordinates of a region, 1-based and with its end, as of samtools: accession:start-end(strand)."""
    accession, start, end, strand = (source.index[name][region] for name in ("accession", "start", "end", "strand"))
    return f"{source.accessions[accession]}:{start + 1}-{end}({'+' if strand > 0 else '-'})"


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


def inspect(options: argparse.Namespace) -> None:
    """Prints the totals, or what --head and --output select.

    Raises:
      DataError: the folder is not a dataset, or the output exists.
    """
    sources = [RegionSource(options.dataset, name) for name in options.split or read_info(options.dataset)["splits"]]
    filters = {"kinds": options.kinds, "taxa": options.taxa, "gene": options.gene, "product": options.product}
    regions = ((source, region) for source in sources for region in chosen(source, **filters))
    if options.output == "-":
        sys.stdout.writelines(itertools.starmap(fasta, regions))
    elif options.output:
        path, count = Path(options.output), 0
        if path.exists():
            raise FileError("exists already", file=path, remedy="remove it or choose another file")
        try:
            with atomic(path) as partial, open(partial, "w", encoding="utf-8") as stream:
                for source, region in regions:
                    stream.write(fasta(source, region))
                    count += 1
        except OSError as error:
            raise FileError(f"cannot be written ({error.strerror})", file=path) from None
        print(f"{path}: {counted(count, 'region')}", file=sys.stderr)
    elif options.head is not None:
        sys.stdout.writelines(itertools.starmap(line, itertools.islice(regions, options.head)))
    else:
        found = ((source, np.fromiter(chosen(source, **filters), np.int64)) for source in sources)
        print(*report.lines(options.dataset, found), sep="\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    cli.escape_unencodable()
    parse = cli.Parser(__doc__)
    add = parse.add_argument
    add("dataset", metavar="DIR", help="a folder that `data build` created")
    add("--split", nargs="*", metavar="SPLIT", help="only these: train, validation, test [all]")
    add(
        "--kinds",
        nargs="*",
        type=schemes.kind,
        default=[],
        choices=schemes.KINDS,
        metavar="KIND",
        help="only these kinds [all]",
    )
    add(
        "--taxa",
        nargs="*",
        type=record.tag,
        default=[],
        choices=(*record.TAXA, record.UNKNOWN),
        metavar="TAXON",
        help="only these tags [all]",
    )
    add("--gene", metavar="REGEX", help="only regions whose gene name or locus tag matches")
    add("--product", metavar="REGEX", help="only regions whose product matches")
    add("--head", type=Whole(1), metavar="N", help="print the first N regions, one per line")
    add("--output", metavar="FILE", help="write the regions as FASTA; - is standard output")
    options = parse.parse_args(arguments)
    return cli.run(lambda: inspect(options))


if __name__ == "__main__":
    sys.exit(main())
