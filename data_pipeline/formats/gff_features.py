"""Translates the rows of GFF3 and GTF files into features with GenBank's kinds and qualifiers.

Rows that share an ID are one feature of several segments. A feature belongs to the gene found by following its Parents;
a feature with several such genes is returned once for each. In GTF, gene_id and transcript_id replace ID and Parent.
"""

import collections
import itertools
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

from data_pipeline.errors import FormatError
from data_pipeline.sequence.record import Feature, Segment

DROP, KEEP, LINK = range(3)  # LINK: kept for its ID and Parent, if it has both
_LANDMARKS = """
    region chromosome supercontig scaffold contig plasmid mitochondrial_chromosome chloroplast_chromosome
    nuclear_chromosome linear_chromosome circular_chromosome primary_assembly databank_entry
"""
_NCRNA = """
    ncRNA lnc_RNA lncRNA lincRNA snoRNA snRNA scaRNA miRNA piRNA siRNA sRNA asRNA antisense antisense_RNA
    antisense_lncRNA SRP_RNA RNase_P_RNA RNase_MRP_RNA telomerase_RNA guide_RNA Y_RNA vault_RNA vaultRNA scRNA
    hammerhead_ribozyme autocatalytically_spliced_intron ribozyme rasiRNA stRNA class_I_RNA class_II_RNA enhancerRNA
    eRNA circular_ncRNA sense_intronic sense_overlapping bidirectional_promoter_lncRNA macro_lncRNA
    3prime_overlapping_ncrna sbRNA C_D_box_snoRNA H_ACA_box_snoRNA small_regulatory_ncRNA 7SK_RNA CRISPR_RNA tracrRNA
"""
_REGULATORY = """
    promoter enhancer silencer terminator attenuator riboswitch TATA_box CAAT_signal insulator polyA_signal_sequence
    ribosome_binding_site response_element locus_control_region enhancer_blocking_element imprinting_control_region
    replication_regulatory_region recoding_stimulatory_region DNase_I_hypersensitive_site minus_10_signal
    minus_35_signal
"""
LANDMARKS = frozenset(_LANDMARKS.split())
# GenBank's kinds by the row's type, or by a biotype if the type is `transcript`.
RNA = {
    **dict.fromkeys(("mRNA", "protein_coding", "NMD_transcript_variant"), "mRNA"),
    **dict.fromkeys(("tRNA", "Mt_tRNA"), "tRNA"),
    **dict.fromkeys(("rRNA", "Mt_rRNA", "cytosolic_rRNA", "mt_rRNA"), "rRNA"),
    **{f"rRNA_{size}": "rRNA" for size in ("5S", "5_8S", "16S", "18S", "23S", "25S", "28S")},
    "tmRNA": "tmRNA",
    **dict.fromkeys(_NCRNA.split(), "ncRNA"),
    **dict.fromkeys(("misc_RNA", "transcript", "processed_transcript", "nc_primary_transcript"), "misc_RNA"),
}
# GenBank's /regulatory_class by the row's type.
REGULATORY = {
    **{name: name for name in _REGULATORY.split()},
    "Shine_Dalgarno_sequence": "ribosome_binding_site",
    "ribosome_entry_site": "ribosome_binding_site",
    "GC_rich_promoter_region": "GC_signal",
    "matrix_attachment_site": "matrix_attachment_region",
    "regulatory_region": "other",
    "regulatory": "other",
    "transcriptional_cis_regulatory_region": "other",
}
_CODED = frozenset(("CDS", "stop_codon"))
_UTRS = ("five_prime_UTR", "three_prime_UTR", "five_prime_utr", "three_prime_utr", "UTR", "5UTR", "3UTR")
_EXONS = frozenset(("exon", *_UTRS))
_MAX_LEVELS = 50
_NEVER = frozenset(("intron", "start_codon", "Selenocysteine", "transcript_region", "match_part", "exon_junction"))
_BIOTYPES = ("transcript_biotype", "transcript_type", "biotype", "gene_biotype", "gene_type")
# Qualifiers that have the same name in both formats.
_SAME = ("locus_tag", "product", "transl_table", "protein_id", "pseudogene")
ATTRIBUTES = frozenset(
    ("ID", "Parent", "Name", "gene", "gene_name", "gene_id", "transcript_id", "locus", "part", "Is_circular", "genome")
) | {"Dbxref", "exception", "transl_except", "pseudo", "regulatory_class", *_SAME, *_BIOTYPES}


class Row(NamedTuple):
    """A row: 0-based half-open on its sequence (`end` beyond the length: across the origin); attributes as written."""

    line: int
    kind: str
    start: int
    end: int
    strand: int
    phase: str
    attributes: dict[str, str]


def is_gene(kind: str) -> bool:
    """Whether rows of this type are genes: gene, pseudogene, ncRNA_gene, transposable_element_gene …"""
    return kind == "gene" or kind.endswith(("_gene", "pseudogene"))


def wanted_types(kinds: Collection[str] | None, gtf: bool) -> Callable[[str], int]:
    """Returns a function that maps a row's type to an action, for the GenBank `kinds` wanted (None: all)."""
    every = kinds is None
    genes = every or any(kind != "regulatory" for kind in kinds)
    coded = every or bool({"gene", "CDS", "mRNA", "misc_RNA"} & set(kinds))
    exons = every or gtf or "mRNA" in kinds  # a GTF may describe a gene by its exons alone

    def action(kind: str) -> int:
        if kind in LANDMARKS:
            return KEEP
        if kind in REGULATORY:
            return KEEP if every or "regulatory" in kinds else DROP
        if kind in _NEVER or not genes:
            return DROP
        if kind in _CODED:
            return KEEP if coded else DROP
        if kind in _EXONS:
            return KEEP if exons else DROP
        return KEEP if is_gene(kind) or kind in RNA else LINK

    return action


def from_gff(path: Path, rows: list[Row], length: int, kinds: Collection[str] | None) -> tuple[Feature, ...]:
    """The features of one sequence of `length` bases from its GFF3 rows, in row order; `path` is for error messages."""
    parents = {row.line: _parents(row) for row in rows}
    return _Builder(path, rows, parents, length, kinds).features()


def from_gtf(path: Path, rows: list[Row], length: int, kinds: Collection[str] | None) -> tuple[Feature, ...]:
    """The features of one sequence from its GTF rows; adds rows for genes and transcripts that have none."""
    parents = {}
    for row in rows:
        gene, transcript = row.attributes.get("gene_id", ""), row.attributes.get("transcript_id", "")
        if row.kind in LANDMARKS or row.kind in REGULATORY:
            parents[row.line] = ()
        elif is_gene(row.kind):
            row.attributes["ID"] = gene
            parents[row.line] = ()
        elif not gene:
            raise FormatError(
                f"is missing in this {row.kind} row", file=path, line=row.line, field="gene_id",
                remedy="give every row of a GTF file a gene_id",
            )  # fmt: skip
        elif row.kind in RNA and transcript:
            row.attributes["ID"] = "\t" + transcript  # genes and transcripts may have the same name
            parents[row.line] = (gene,)
        else:
            parents[row.line] = ("\t" + transcript,) if transcript else (gene,)
    _supply(rows, parents, lambda row: row.attributes.get("gene_id"), "gene", is_gene)
    _supply(rows, parents, lambda row: row.attributes.get("transcript_id"), "transcript", RNA.__contains__)
    return _Builder(path, rows, parents, length, kinds).features()


def _supply(rows: list[Row], parents: dict, key: Callable[[Row], str | None], kind: str, has_row: Callable) -> None:
    """Adds a row of type `kind`, the outer span on each strand, for every key without a row of that type."""
    present = {key(row) for row in rows if has_row(row.kind)}
    groups = collections.defaultdict(list)
    for row in rows:
        if key(row) and key(row) not in present and row.kind not in LANDMARKS and not is_gene(row.kind):
            groups[key(row), row.strand].append(row)
    for number, ((name, strand), group) in enumerate(groups.items(), 1):
        first = group[0]
        gene = kind == "gene"
        kept = {k: v for k, v in first.attributes.items() if k not in ("product", "protein_id", "ID")}
        line = min(parents) - number if parents else -number  # not a line of the file
        start, end = min(row.start for row in group), max(row.end for row in group)
        rows.append(Row(line, kind, start, end, strand, ".", {**kept, "ID": name if gene else "\t" + name}))
        parents[line] = () if gene else (first.attributes["gene_id"],)


class _Builder:
    """Builds the features of one sequence from its rows, linked by their IDs."""

    def __init__(self, path: Path, rows: list[Row], parents: dict, length: int, kinds: Collection[str] | None):
        self.path, self.rows, self.parents, self.length, self.kinds = path, rows, parents, length, kinds
        self.by_id: dict[str, list[Row]] = collections.defaultdict(list)
        self.children: dict[str, list[Row]] = collections.defaultdict(list)
        for row in rows:
            if name := row.attributes.get("ID"):
                self.by_id[name].append(row)
            if row.kind in _CODED or row.kind in _EXONS:
                for parent in parents[row.line]:
                    self.children[parent].append(row)
        self._genes_of: dict[str, tuple[str, ...]] = {}
        self.pseudo = {
            gene for row in rows if is_gene(row.kind) and _is_pseudo(row) for gene in self._pseudo_genes(row)
        }

    def features(self) -> tuple[Feature, ...]:
        """All features of the kinds wanted."""
        found = []
        for kind, rows in self._groups():
            if self.kinds is None or kind in self.kinds:
                genes = (self._gene_id(rows[0]),) if kind == "gene" else self._genes(rows[0]) or (None,)
                segments = self._segments(kind, rows)
                found += [Feature(kind, segments, self._qualifiers(kind, rows, gene), gene) for gene in genes]
        return tuple(found)

    def _groups(self) -> Iterator[tuple[str, list[Row]]]:
        """Yields the GenBank kind and the rows of each feature."""
        groups: dict[object, list[Row]] = collections.defaultdict(list)
        coded: dict[str, list[object]] = collections.defaultdict(list)
        for row in self.rows:
            if row.kind in LANDMARKS or row.kind in _EXONS or row.kind == "stop_codon":
                continue
            kind = self._kind(row)
            if kind is None:
                continue
            name = row.attributes.get("ID")
            if kind != "CDS":
                groups[(kind, row.kind, name or row.line)].append(row)
            elif name:
                key = (kind, name)
                if key not in groups:
                    for parent in self.parents[row.line]:
                        coded[parent].append(key)
                groups[key].append(row)
            else:
                for parent in self.parents[row.line] or (row.line,):
                    groups[kind, None, parent].append(row)
        for parent, keys in coded.items():
            self._join_numbered(parent, keys, groups)
        for key, rows in groups.items():
            yield key[0], rows

    def _join_numbered(self, parent: str, keys: list[object], groups: dict) -> None:
        """Joins a transcript's CDS rows if each has its own ID and none overlap: the IDs then number its exons."""
        if len(keys) < 2 or any(is_gene(row.kind) for row in self.by_id[parent]) or parent not in self.by_id:
            return
        rows = [row for key in keys for row in groups.get(key, ())]
        if len(rows) != len(keys) or any(self.parents[row.line] != (parent,) for row in rows):
            return
        along = sorted(rows, key=lambda row: row.start)
        if any(before.end > after.start for before, after in itertools.pairwise(along)):
            return
        groups[keys[0]] = rows
        for key in keys[1:]:
            del groups[key]

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
        biotype = next((row.attributes[key] for key in _BIOTYPES if row.attributes.get(key)), "")
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

    def _ancestor_genes(self, name: str, below: tuple[str, ...]) -> tuple[str, ...]:
        """The genes that the feature `name` is or belongs to; `below` are the features followed to reach it."""
        if name not in self._genes_of:
            row = next(iter(self.by_id.get(name, ())), None)
            if name in below or len(below) > _MAX_LEVELS:
                fault = "is its own ancestor" if name in below else f"is nested more than {_MAX_LEVELS} levels deep"
                raise FormatError(f"{fault} by Parent", file=self.path, line=row.line, field="ID", value=name)
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
        if kind == "mRNA":
            rows = self._exons(rows)
        elif kind == "CDS":
            rows = self._with_stop_codons(rows)
        return tuple(segment for row in self._ordered(rows) for segment in self._unrolled(row))

    def _exons(self, rows: list[Row]) -> list[Row]:
        """The exon rows of a transcript; without those its CDS and UTR rows, merged; without those its own rows."""
        children = self.children.get(rows[0].attributes.get("ID", ""), ())
        return [row for row in children if row.kind == "exon"] or _merged(children) or rows

    def _with_stop_codons(self, rows: list[Row]) -> list[Row]:
        """A CDS with its stop codon, which GTF gives in a separate row."""
        whole = list(rows)
        for stop in (row for name in self.parents[rows[0].line] for row in self.children[name]):
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
        if len({row.strand for row in rows}) > 1 or _trans_spliced(rows[0]):
            if all("part" in row.attributes for row in rows):
                return sorted(rows, key=lambda row: _part_number(row.attributes["part"]))
            return rows  # in file order
        rows = sorted(rows, key=lambda row: (row.start, row.end))
        over = any(row.end > self.length for row in rows)
        if over or (rows[0].start == 0 and rows[-1].end == self.length and self._circular()):
            # Across the origin of a circle: start after the widest gap.
            gaps = [after.start - before.end for before, after in itertools.pairwise(rows)]
            turn = max(range(len(gaps)), key=gaps.__getitem__) + 1
            rows = rows[turn:] + rows[:turn]
        return rows if rows[0].strand > 0 else rows[::-1]

    def _circular(self) -> bool:
        return any(row.kind in LANDMARKS and row.attributes.get("Is_circular") == "true" for row in self.rows)

    def _unrolled(self, row: Row) -> Iterable[Segment]:
        """A row's segment, or two segments if it crosses the origin."""
        if row.end <= self.length:
            return (Segment(row.start, row.end, row.strand),)
        segments = (Segment(row.start, self.length, row.strand), Segment(0, row.end - self.length, row.strand))
        return segments[:: row.strand]

    def _qualifiers(self, kind: str, rows: list[Row], gene: str | None) -> dict[str, tuple[str, ...]]:
        own, values = rows[0].attributes, {}
        of_gene = own if kind == "gene" else next((r.attributes for r in self.by_id.get(gene or "", ())[:1]), {})
        names = [x.get(key) for x in (own, of_gene) for key in ("gene", "gene_name")]
        names.append(of_gene.get("locus"))
        if of_gene.get("Name") != of_gene.get("locus_tag"):
            names.append(of_gene.get("Name"))
        if name := next(filter(None, names), None):
            values["gene"] = (_decoded(name),)
        if tag := own.get("locus_tag") or of_gene.get("locus_tag") or of_gene.get("gene_id"):
            values["locus_tag"] = (_decoded(tag),)
        for key in ("product", "transl_table", "protein_id", "pseudogene"):
            value = next((row.attributes[key] for row in rows if row.attributes.get(key)), None)
            if value:
                values[key] = (_decoded(value),)
        if own.get("transl_except"):
            values["transl_except"] = tuple(_decoded(value) for value in own["transl_except"].split(","))
        for value in filter(None, own.get("exception", "").split(",")):
            value = _decoded(value)
            if value in ("trans-splicing", "ribosomal slippage"):  # GenBank has a qualifier for each
                values[value.replace("-", "_").replace(" ", "_")] = ("",)
            else:
                values["exception"] = (*values.get("exception", ()), value)
        if own.get("pseudo") == "true" or (kind == "gene" and gene in self.pseudo):
            values["pseudo"] = ("",)
        if kind == "CDS":
            first = self._ordered(rows)[0]
            values["codon_start"] = (str(int(first.phase) + 1),) if first.phase in ("0", "1", "2") else ("1",)
        if kind == "regulatory":
            values["regulatory_class"] = (_decoded(own.get("regulatory_class") or REGULATORY[rows[0].kind]),)
        return values


def _parents(row: Row) -> tuple[str, ...]:
    return tuple(parent for parent in row.attributes.get("Parent", "").split(",") if parent)


def _is_pseudo(row: Row) -> bool:
    values = row.attributes
    biotypes = (values.get(key, "") for key in ("biotype", "gene_biotype", "gene_type"))
    return (
        row.kind.endswith("pseudogene")
        or values.get("pseudo") == "true"
        or "pseudogene" in values
        or any(biotype.endswith("pseudogene") for biotype in biotypes)
    )


def _trans_spliced(row: Row) -> bool:
    return "trans-splicing" in row.attributes.get("exception", "")


def _part_number(text: str) -> int:
    number = text.split("/")[0]
    return int(number) if number.isdecimal() and len(number) < 10 else 0


def _merged(rows: Iterable[Row]) -> list[Row]:
    """Merges rows that touch or overlap, strand by strand, by position."""
    whole: list[Row] = []
    for row in sorted(rows, key=lambda row: (row.strand, row.start, row.end)):
        if whole and whole[-1].strand == row.strand and row.start <= whole[-1].end:
            whole[-1] = whole[-1]._replace(end=max(whole[-1].end, row.end))
        else:
            whole.append(row)
    return whole


def _decoded(value: str) -> str:
    return unquote(value) if "%" in value else value
