"""Links the rows of GFF3 and GTF files into features with GenBank's kinds and qualifiers.

Rows that share an ID are one feature of several segments. A feature belongs to the gene found by following its Parents;
a feature with several such genes is returned once for each. Rows of GTF get an ID and Parents of their gene_id and
transcript_id. There, a gene without a row is a cluster of overlapping transcripts.

An ID may be unique only within its source (column 2), or occur at several loci. So the rows of a gene's ID are one gene
only if they have one source and overlap, are numbered (`part`), trans-spliced, or meet at the origin of a circle; a row
below such genes belongs to the nearest one, of its own source if there is one.
"""

import bisect
import collections
import itertools
from collections.abc import Collection, Iterable, Iterator

from data_pipeline.formats.gff_rows import (
    BIOTYPES,
    CODED,
    EXONS,
    FLAGS,
    LANDMARKS,
    REGULATORY,
    RNA,
    Row,
    flag,
    is_gene,
    is_pseudo,
    listed,
    part_number,
    trans_spliced,
)
from data_pipeline.sequence.record import Feature, Segment

_UNLINKED = LANDMARKS | REGULATORY.keys()  # of no gene
_MAX_LEVELS = 50
_CODON_START = {"0": "1", "1": "2", "2": "3", ".": "1"}  # GenBank's, by phase
# What a record's notes count.
SHARED_ID = "genes whose ID other loci or sources have too"
NO_ID = "rows without gene_id and transcript_id"
CYCLE = "Parents that lead back to themselves, or too far"


def features(
    rows: list[Row], length: int, circular: bool, kinds: Collection[str] | None, notes: collections.Counter
) -> tuple[Feature, ...]:
    """The features of one sequence of `length` bases from its rows, in row order; counts in `notes` what is unusual."""
    parents = _linked(rows, notes)
    by_id = _separated(rows, parents, length if circular else None, notes)
    return _Builder(rows, parents, by_id, length, circular, notes).features(kinds)


def _linked(rows: list[Row], notes: collections.Counter) -> dict[int, tuple[str, ...]]:
    """The Parents of each row by its line. GTF rows get an ID too; missing rows of genes and transcripts are added."""
    parents, loose, gene_of = {}, [], {}
    for row in rows:
        values = row.attributes
        if "gene_id" not in values or "ID" in values or "Parent" in values or row.kind in _UNLINKED:
            parents[row.line] = listed(values, "Parent")
            continue
        loose.append(row)
        if values["gene_id"]:
            gene_of.setdefault(values.get("transcript_id"), values["gene_id"])
    if not loose:
        return parents
    named = {row.attributes.get("ID") for row in rows}
    for row in loose:
        values = row.attributes
        transcript = values.get("transcript_id", "")
        gene = values["gene_id"] = values["gene_id"] or gene_of.get(transcript, "")
        # Not the name alone: genes may share a transcript's name, and a gene may have that of its transcript.
        name = transcript if transcript in named else f"{gene}\t{transcript}"
        if is_gene(row.kind):
            values["ID"], parents[row.line] = gene, ()
        elif not gene and not transcript:
            notes[NO_ID] += 1
        elif row.kind in RNA:
            values["ID"], parents[row.line] = name if transcript else "", (gene,) if gene else ()
        else:
            parents[row.line] = (name,)
    rows[:] = [row for row in rows if row.line in parents]
    _supply(rows, parents, [row for row in loose if row.line in parents])
    return parents


def _supply(rows: list[Row], parents: dict[int, tuple[str, ...]], loose: list[Row]) -> None:
    """Adds the transcripts and genes that GTF rows name and that have no row."""
    present = {row.attributes.get("ID") for row in rows}
    line = max(parents, default=0)  # those of the new rows are not lines of the file

    def add(kind: str, name: str, above: tuple[str, ...], group: list[Row]) -> None:
        kept = {key: value for key, value in group[0].attributes.items() if key not in ("product", "protein_id")}
        readable = all(row.start < row.end for row in group)
        start, end = (min(row.start for row in group), max(row.end for row in group)) if readable else (0, -1)
        rows.append(
            Row(line + len(rows), group[0].source, kind, start, end, group[0].strand, ".", {**kept, "ID": name})
        )
        parents[rows[-1].line] = above

    transcripts, genes = collections.defaultdict(list), collections.defaultdict(list)
    for row in loose:
        for name in parents[row.line]:
            if row.kind not in RNA and name not in present:
                transcripts[name, row.strand, row.source].append(row)
    first = len(rows)
    for (name, *_), group in transcripts.items():
        gene = group[0].attributes["gene_id"]
        add("transcript", name, (gene,) if gene else (), group)
    for row in (*loose, *rows[first:]):
        for name in parents[row.line]:
            if row.kind in RNA and name not in present:
                genes[name, row.strand].append(row)
    for (name, _), group in genes.items():
        for locus in _overlapping(group):
            add("gene", name, (), locus)


def _separated(
    rows: list[Row], parents: dict[int, tuple[str, ...]], circle: int | None, notes: collections.Counter
) -> dict[str, list[Row]]:
    """The rows of each ID. An ID that several loci or sources share gets a suffix, in their rows and in `parents`."""
    by_id = _by_id(rows)
    loci: dict[str, dict[tuple, list[tuple[int, int, str]]]] = collections.defaultdict(dict)
    for name, found in by_id.items():
        if len(found) > 1:
            genes = [row for row in found if is_gene(row.kind)]
            groups = _loci(genes or [row for row in found if not parents[row.line]], circle)
            if len(groups) > 1:
                notes[SHARED_ID] += len(groups)
                for number, group in enumerate(groups):
                    place = (
                        min(row.start for row in group),
                        max(row.end for row in group),
                        f"\n{number}" if number else "",
                    )
                    loci[name].setdefault((group[0].source, group[0].strand), []).append(place)
    if not loci:
        return by_id

    def suffix(name: str, row: Row) -> str:
        """That of the locus, nearest to the row, of the gene that `name` is or belongs to."""
        for _ in range(_MAX_LEVELS):
            if name in loci:
                own = min(loci[name], key=lambda group: (group[0] != row.source, group[1] != row.strand))
                places = loci[name][own]
                at = bisect.bisect(places, row.start, key=lambda place: place[0])
                near = places[max(0, at - 1) : at + 1]
                return min(near, key=lambda place: max(0, place[0] - row.end, row.start - place[1]))[2]
            if name not in by_id or not parents[by_id[name][0].line]:
                break
            name = parents[by_id[name][0].line][0]
        return ""

    renamed = {row.line: tuple(name + suffix(name, row) for name in parents[row.line]) for row in rows}
    for row in rows:
        if name := row.attributes.get("ID"):
            row.attributes["ID"] = name + suffix(name, row)
    parents.update(renamed)
    return _by_id(rows)


def _by_id(rows: list[Row]) -> dict[str, list[Row]]:
    by_id: dict[str, list[Row]] = collections.defaultdict(list)
    for row in rows:
        if name := row.attributes.get("ID"):
            by_id[name].append(row)
    return by_id


def _loci(rows: list[Row], circle: int | None) -> list[list[Row]]:
    """The rows of one ID by source, and those of a gene by locus."""
    sources, found = collections.defaultdict(list), []
    for row in rows:
        sources[row.source].append(row)
    for group in sources.values():
        joined = any("part" in row.attributes or trans_spliced(row) for row in group)
        over_origin = any(row.start == 0 for row in group) and any(row.end == circle for row in group)
        if joined or over_origin or not is_gene(group[0].kind):
            found.append(group)
        else:
            for strand in (1, -1):
                found += _overlapping(row for row in group if row.strand == strand)
    return found


def _overlapping(rows: Iterable[Row]) -> list[list[Row]]:
    """The rows in groups that overlap, by position."""
    found, end = [], 0
    for row in sorted(rows, key=lambda row: row.start):
        if found and row.start < end:
            found[-1].append(row)
            end = max(end, row.end)
        else:
            found.append([row])
            end = row.end
    return found


class _Builder:
    """Builds the features of one sequence from its rows, linked by their IDs."""

    def __init__(
        self, rows: list[Row], parents: dict, by_id: dict, length: int, circular: bool, notes: collections.Counter
    ):
        self.rows, self.parents, self.by_id, self.notes = rows, parents, by_id, notes
        self.length, self.circular = length, circular
        self.children: dict[str, list[Row]] = collections.defaultdict(list)
        for row in rows:
            if row.kind in CODED or row.kind in EXONS:
                for parent in parents[row.line]:
                    self.children[parent].append(row)
        self._genes_of: dict[str, tuple[str, ...]] = {}
        self.pseudo = {gene for row in rows if is_gene(row.kind) and is_pseudo(row) for gene in self._pseudo_genes(row)}

    def features(self, kinds: Collection[str] | None) -> tuple[Feature, ...]:
        """All features of the kinds wanted."""
        found = sorted(self._groups(kinds), key=lambda group: group[1][0].line)
        return tuple(
            Feature(kind, self._segments(kind, rows), self._qualifiers(kind, rows, gene), gene)
            for kind, rows, genes in found
            for gene in genes or (None,)
        )

    def _groups(self, kinds: Collection[str] | None) -> Iterator[tuple[str, list[Row], Iterable[str]]]:
        """Yields the GenBank kind, the rows and the genes of each feature."""
        groups: dict[object, list[Row]] = collections.defaultdict(list)
        named: dict[str, list[Row]] = collections.defaultdict(list)
        coded: dict[str | None, dict] = collections.defaultdict(lambda: collections.defaultdict(list))
        for row in self.rows:
            if row.kind in LANDMARKS or row.kind in EXONS or row.kind == "stop_codon":
                continue
            kind = self._kind(row)
            if kind is None or not (kinds is None or kind in kinds):
                continue
            name = row.attributes.get("ID")
            if kind != "CDS":
                groups[kind, row.kind, name or row.line].append(row)
            elif name:
                named[name].append(row)
            else:
                for parent in self.parents[row.line] or (None,):
                    coded[parent][row.line if parent is None else row.source].append(row)
        for (kind, *_), rows in groups.items():
            genes = (self._gene_id(rows[0]),) if kind == "gene" else self._genes(rows[0])
            yield kind, rows, genes
        for name, rows in named.items():
            above = dict.fromkeys(parent for row in rows for parent in self.parents[row.line])
            known = [parent for parent in above if parent in self.by_id]
            for parent in known or list(above)[:1] or [None]:
                coded[parent][name] = rows if len(known) < 2 else self._below(parent, known, rows)
        coding: dict[tuple, tuple[list[Row], dict[str, None]]] = {}
        for parent, found in coded.items():
            for rows in self._joined(parent, list(found.values())):
                rows = self._with_stop_codons(rows, parent)
                places = tuple((row.line, row.start, row.end) for row in rows)
                genes = dict.fromkeys(self._ancestor_genes(parent, ()))
                coding.setdefault(places, (rows, {}))[1].update(genes)  # once if several transcripts have it
        for rows, genes in coding.values():
            yield "CDS", rows, genes

    def _below(self, parent: str, known: list[str], rows: list[Row]) -> list[Row]:
        """The rows of a parent among those of a CDS, and those of no known parent."""
        return [
            row
            for row in rows
            if parent in self.parents[row.line] or not any(name in known for name in self.parents[row.line])
        ]

    def _joined(self, parent: str | None, groups: list[list[Row]]) -> list[list[Row]]:
        """The CDS rows of a parent by ID; joined if the IDs number the exons of one CDS: one row each, no overlap."""
        single = len(groups) > 1 and all(len(rows) == 1 for rows in groups)
        above = self.by_id.get(parent, ())
        if not single or not above or any(is_gene(row.kind) for row in above):
            return groups
        rows = [row for [row] in groups]
        return [rows] if len(_overlapping(rows)) == len(rows) else groups

    def _kind(self, row: Row) -> str | None:
        """A row's GenBank kind; None if it has none that is used here."""
        if row.kind == "CDS":
            return "CDS"
        if row.kind in REGULATORY:
            return "regulatory"
        if is_gene(row.kind):
            return None if row.kind.endswith("pseudogene") and self._genes(row) else "gene"
        kind = RNA.get(row.kind)
        if kind != "misc_RNA" or row.kind == "misc_RNA":
            return kind
        if any(child.kind == "CDS" for child in self.children.get(row.attributes.get("ID", ""), ())):
            return "mRNA"
        biotype = next((row.attributes[key] for key in BIOTYPES if row.attributes.get(key)), "")
        if biotype.endswith("pseudogene"):
            return None
        kind = RNA.get(biotype, "misc_RNA")
        return "misc_RNA" if kind == "mRNA" else kind  # a transcript of a coding gene that has no CDS itself

    def _genes(self, row: Row) -> tuple[str, ...]:
        """The IDs of the genes found by following a row's Parents."""
        parents = self.parents[row.line]
        if len(parents) == 1:
            return self._ancestor_genes(parents[0], ())
        return tuple(dict.fromkeys(gene for parent in parents for gene in self._ancestor_genes(parent, ())))

    def _ancestor_genes(self, name: str | None, below: tuple[str, ...]) -> tuple[str, ...]:
        """The genes that the feature `name` is or belongs to; `below` are the features followed to reach it."""
        if name not in self._genes_of:
            row = next(iter(self.by_id.get(name, ())), None)
            if name in below or len(below) > _MAX_LEVELS:
                self.notes[CYCLE] += 1
                return ()
            if row is None:
                genes = ()
            elif is_gene(row.kind) and not (row.kind.endswith("pseudogene") and self.parents[row.line]):
                genes = (name,)
            else:
                higher = (self._ancestor_genes(parent, (*below, name)) for parent in self.parents[row.line])
                genes = tuple(dict.fromkeys(itertools.chain.from_iterable(higher)))
            self._genes_of[name] = genes
        return self._genes_of[name]

    def _gene_id(self, row: Row) -> str:
        return row.attributes.get("ID") or f"line {row.line}"

    def _pseudo_genes(self, row: Row) -> tuple[str, ...]:
        """The genes that a pseudogene row marks: its ancestors, else itself."""
        return self._genes(row) or (self._gene_id(row),)

    def _segments(self, kind: str, rows: list[Row]) -> tuple[Segment, ...]:
        rows = self._exons(rows) if kind == "mRNA" else rows
        return tuple(segment for row in self._ordered(rows) for segment in self._unrolled(row))

    def _exons(self, rows: list[Row]) -> list[Row]:
        """The exon rows of a transcript; without those its CDS and UTR rows, merged; without those its own rows."""
        children = self.children.get(rows[0].attributes.get("ID", ""), ())
        return [row for row in children if row.kind == "exon"] or _merged(children) or rows

    def _with_stop_codons(self, rows: list[Row], parent: str | None) -> list[Row]:
        """A CDS with its stop codon, which GTF gives in a separate row."""
        whole = list(rows)
        for stop in self.children.get(parent, ()):
            if stop.kind != "stop_codon" or any(row.start <= stop.start and stop.end <= row.end for row in rows):
                continue
            for at, row in enumerate(whole):
                if stop.start <= row.end and row.start <= stop.end:
                    whole[at] = row._replace(start=min(row.start, stop.start), end=max(row.end, stop.end))
                    break
            else:
                whole.append(stop)  # on the other side of an intron
        return whole

    def _ordered(self, rows: list[Row]) -> list[Row]:
        """The rows of one feature, 5' to 3'."""
        if len(rows) == 1:
            return rows
        if len({row.strand for row in rows}) > 1 or any(trans_spliced(row) for row in rows):
            numbers = [part_number(row) for row in rows]
            return sorted(rows, key=part_number) if all(numbers) else rows  # in file order
        rows = sorted(rows, key=lambda row: (row.start, row.end))
        over = any(row.end > self.length for row in rows)
        if over or (rows[0].start == 0 and rows[-1].end == self.length and self.circular):
            # Across the origin of a circle: start after the widest gap.
            gaps = [after.start - before.end for before, after in itertools.pairwise(rows)]
            turn = max(range(len(gaps)), key=gaps.__getitem__) + 1
            rows = rows[turn:] + rows[:turn]
        return rows if rows[0].strand > 0 else rows[::-1]

    def _unrolled(self, row: Row) -> Iterable[Segment]:
        """A row's segment, or two segments if it crosses the origin."""
        if row.end <= self.length:
            return (Segment(row.start, row.end, row.strand),)
        segments = (Segment(row.start, self.length, row.strand), Segment(0, row.end - self.length, row.strand))
        return segments[:: row.strand]

    def _qualifiers(self, kind: str, rows: list[Row], gene: str | None) -> dict[str, tuple[str, ...]]:
        own, values = rows[0].attributes, {}
        if len(rows) > 1:
            own = {key: value for row in reversed(rows) for key, value in row.attributes.items()}
        of_gene = own if kind == "gene" else next((r.attributes for r in self.by_id.get(gene or "", ())[:1]), {})
        names = [x.get(key) for x in (own, of_gene) for key in ("gene", "gene_name")]
        names.append(of_gene.get("locus"))
        if of_gene.get("Name") != of_gene.get("locus_tag"):
            names.append(of_gene.get("Name"))
        if name := next(filter(None, names), None):
            values["gene"] = (name,)
        if tag := own.get("locus_tag") or of_gene.get("locus_tag") or of_gene.get("gene_id"):
            values["locus_tag"] = (tag,)
        for key in ("product", "transl_table", "protein_id"):
            if own.get(key):
                values[key] = (own[key],)
        if own.get("transl_except"):
            values["transl_except"] = listed(own, "transl_except")
        for value in listed(own, "exception"):
            if value in ("trans-splicing", "ribosomal slippage"):  # GenBank has a qualifier for each
                values[value.replace("-", "_").replace(" ", "_")] = ("",)
            else:
                values["exception"] = (*values.get("exception", ()), value)
        for key in FLAGS:
            if flag(own, key):
                values[key] = ("",)
        if flag(own, "pseudogene") or (kind == "gene" and gene in self.pseudo):
            values["pseudo"] = ("",)
        if kind == "CDS":
            values["codon_start"] = (_CODON_START.get(self._ordered(rows)[0].phase, "invalid"),)
        if kind == "regulatory":
            values["regulatory_class"] = (own.get("regulatory_class") or REGULATORY[rows[0].kind],)
        return values


def _merged(rows: Iterable[Row]) -> list[Row]:
    """Merges rows that touch or overlap, strand by strand, by position."""
    whole: list[Row] = []
    for row in sorted(rows, key=lambda row: (row.strand, row.start, row.end)):
        if whole and whole[-1].strand == row.strand and row.start <= whole[-1].end:
            whole[-1] = whole[-1]._replace(end=max(whole[-1].end, row.end))
        else:
            whole.append(row)
    return whole
