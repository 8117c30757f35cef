"""What is in a dataset, as lines of text: a table of its regions, and how they were found."""

import collections
import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from data_pipeline.dataset.reader import COMPOSITION, RegionSource, read_info
from data_pipeline.errors import counted
from data_pipeline.regions import schemes
from data_pipeline.regions.ledger import NO_TAXON
from data_pipeline.sequence import record
from data_pipeline.splitting import split

COLUMNS = ["num_seqs", "sum_len", "min_len", "avg_len", "max_len", "N50", "GC(%)", "N", "soft-masked"]
LISTED = 20  # inputs from which excluded bases were cut out; dataset.json lists all


def whole(folder: str | Path) -> list[str]:
    """The lines about a whole dataset."""
    sources = [RegionSource(folder, name) for name in read_info(folder)["splits"]]
    return lines(folder, ((source, np.arange(len(source))) for source in sources))


def lines(folder: str | Path, regions: Iterable[tuple[RegionSource, np.ndarray]]) -> list[str]:
    """A title, the table of some regions, and how the dataset's regions were found."""
    info = read_info(folder)
    scheme, digest = info["parameters"]["scheme"]["name"], info["digest"][:12]
    sequences = counted(len(info["accessions"]), "sequence")
    title = f"{folder}: {info['storage']}, scheme {scheme}, digest {digest}, {sequences}"
    return [title, *totals(regions), *build_report(info)]


def totals(regions: Iterable[tuple[RegionSource, np.ndarray]]) -> list[str]:
    """A table of regions by split, taxon and kind, with a row for all; `regions` are their numbers, int64 [n]."""
    found: dict[tuple[str, str, str], list[np.ndarray]] = collections.defaultdict(list)
    for source, chosen in regions:
        taxa, kinds = (source.index[name][chosen].astype(int) for name in ("taxon", "kind"))
        groups = taxa * len(source.kinds) + kinds
        measured = _measured(source, chosen)
        for group in np.flatnonzero(np.bincount(groups)).tolist():
            taxon, kind = divmod(group, len(source.kinds))
            found[source.split, source.taxa[taxon], source.kinds[kind]].append(measured[groups == group])
    if not found:
        return ["no region matches"]
    names = (split.SPLITS, (*record.TAXA, record.UNKNOWN), schemes.KINDS)
    order = sorted(found, key=lambda key: [all_.index(name) for all_, name in zip(names, key, strict=True)])
    rows = [[*key, *_row(np.concatenate(found[key]))] for key in order]
    if len(rows) > 1:
        rows.append(["all", "", "", *_row(np.concatenate([*itertools.chain.from_iterable(found.values())]))])
    table = [["split", "taxon", "kind", *COLUMNS], *rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return [
        "  ".join(
            text.ljust(width) if i < 3 else text.rjust(width)
            for i, (text, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in table
    ]


def _measured(source: RegionSource, chosen: np.ndarray) -> np.ndarray:
    """The length of each region and its numbers of G and C, of N and of soft-masked bases, int64 [regions, 4].

    Those of a dataset that does not have the numbers are -1.
    """
    counts = source.composition()
    missing = np.full((len(chosen), len(COMPOSITION)), -1)
    return np.column_stack([source.index["length"][chosen], missing if counts is None else counts[chosen]])


def _row(regions: np.ndarray) -> list[str]:
    """The values of COLUMNS for some regions, int64 [regions, 4] as `_measured`."""
    lengths = np.sort(regions[:, 0])
    total, gc, unknown, masked = regions.sum(0).tolist()
    half = lengths[np.searchsorted(np.cumsum(lengths), total / 2)]  # N50
    return [
        f"{len(lengths):,}", f"{total:,}", f"{lengths[0]:,}", f"{total / len(lengths):,.1f}", f"{lengths[-1]:,}",
        f"{half:,}", f"{100 * gc / (total - unknown):.2f}" if gc >= 0 and total > unknown else "-",
        f"{unknown:,}" if unknown >= 0 else "-", f"{masked:,}" if masked >= 0 else "-",
    ]  # fmt: skip


def build_report(info: dict) -> Iterator[str]:
    """Yields the counts of regions found, kept and dropped, and how much of the held-out ones occurs in training."""
    ledger, leakage = info["ledger"], info["leakage"]

    def listed(title: str, rows: dict) -> Iterator[str]:
        for name, row in rows.items():
            remedy = "; give a tag with --taxon" if name == NO_TAXON else ""
            bases = f" ({counted(row['bases'], 'base')})" if row["bases"] else ""
            yield f"{title}{name}: {row['count']:,}{bases}{remedy}"

    if skipped := info["skipped_files"]:
        yield f"skipped: {counted(len(skipped), 'input')} ({skipped[0]}{'; …' if len(skipped) > 1 else ''})"
    read, found = ledger["records"]["read"], ledger["regions"]["found"]
    yield f"records read: {read['count']:,} ({counted(read['bases'], 'base')})"
    yield from listed("  skipped, ", ledger["records"]["skipped"])
    yield f"regions found: {found['count']:,} ({counted(found['bases'], 'base')})"
    if ledger["regions"]["cut"]:
        yield f"  added by cutting: {ledger['regions']['cut']:,}"
    yield from listed("  dropped, ", ledger["regions"]["dropped"])
    excluded = info.get("excluded", ())  # earlier builds had none
    for row in (row for row in excluded if not row["cut"]):
        shared = f"{100 * row['fraction']:.2f} % of its bases ({counted(row['bases'], 'base')})"
        yield f"  kept whole, {row['file']}: {shared} in the excluded sequences"
    for row in sorted((row for row in excluded if row["cut"]), key=lambda row: -row["bases"])[:LISTED]:
        yield f"  cut out of {row['file']}: {counted(row['bases'], 'base')} ({100 * row['fraction']:.2f} %)"
    regions, kept = (sum(facts[name] for facts in info["splits"].values()) for name in ("regions", "bases"))
    yield f"regions kept: {regions:,} ({counted(kept, 'base')})"
    yield from listed("noted, ", ledger["notes"])
    for row in info["damaged"]:
        yield f"damaged, skipped: {row['error']}"
    for name in filter(leakage.get, split.SPLITS):
        row, near = leakage[name], leakage[name]["near_copies"]
        sampled = f", of a sample of one in {leakage['sampled_one_in']}" if leakage["sampled_one_in"] > 1 else ""
        yield (
            f"{name}: {100 * row['fraction_in_training']:.3f} % of its {leakage['kmer_length']}-mers occur in training"
            f"{sampled}; near copies: {near['regions']:,} of {counted(row['regions'], 'region')} "
            f"({counted(near['bases'], 'base')})"
        )
