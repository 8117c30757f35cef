"""What one row of a GFF3 or GTF file says: its type in GenBank's words, its place, its attributes.

In GTF, gene_id and transcript_id replace ID and Parent, decided row by row, as a file may have rows of several tools.
`gff_features` links the rows.
"""

import collections
import re
from collections.abc import Callable, Collection
from typing import NamedTuple
from urllib.parse import unquote

DROP, KEEP, LINK, ORPHAN = range(4)  # LINK: kept for its ID and Parent, if it has both; ORPHAN: kept without a Parent
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
CODED = frozenset(("CDS", "stop_codon"))
_UTRS = ("five_prime_UTR", "three_prime_UTR", "five_prime_utr", "three_prime_utr", "UTR", "5UTR", "3UTR")
EXONS = frozenset(("exon", *_UTRS))
_NEVER = frozenset(("intron", "start_codon", "Selenocysteine", "transcript_region", "match_part", "exon_junction"))
BIOTYPES = ("transcript_biotype", "transcript_type", "biotype", "gene_biotype", "gene_type")
# Qualifiers that have the same name in both formats.
_SAME = ("locus_tag", "product", "transl_table", "protein_id", "pseudogene")
FLAGS = ("pseudo", "trans_splicing", "ribosomal_slippage")  # the same, without a value
LISTS = frozenset(("Parent", "Dbxref", "exception", "transl_except"))  # separated by commas, decoded by `listed`
_OWN = "ID Name gene gene_name gene_id transcript_id locus part exon_number Is_circular genome regulatory_class"
ATTRIBUTES = frozenset((*_OWN.split(), *LISTS, *_SAME, *FLAGS, *BIOTYPES))
_GTF_KEYS = ATTRIBUTES - {"ID", "Parent"}
_GTF_ATTRIBUTES = re.compile(r"\s*\w+\s+[^=\s]")
_GTF_PAIR = re.compile(r'([^\s;"]+)\s+(?:"([^"]*)"|([^\s;"]+))')
_DIGITS = 30  # at most, of a start and an end together: Python refuses to parse thousands of digits
_STRANDS = {b"+": 1, b"-": -1, b".": 1}  # without a strand: read as the forward strand
_PHASES = (b"0", b"1", b"2", b".")
# What a record's notes count.
INVALID_ROWS = "rows without a valid start, end and strand"
INVALID_PHASES = "CDS rows with an invalid phase"


class Row(NamedTuple):
    """A row: 0-based half-open on its sequence. `end` beyond the length is across the origin, `end` below 0 unreadable.

    The values of `attributes` are decoded, except LISTS. Those of a GTF row have a gene_id, but neither ID nor Parent.
    """

    line: int
    source: bytes
    kind: str
    start: int
    end: int
    strand: int
    phase: str
    attributes: dict[str, str]


def parse(line: bytes, notes: collections.Counter) -> Row:
    """A row from the number of its line and its nine columns; counts in `notes` what cannot be read of it."""
    number, _, source, kind, first, last, _, strand, phase, values = line.split(b"\t")
    kind = as_text(kind)
    whole = first.isdigit() and last.isdigit() and len(first + last) <= _DIGITS
    start, end = (int(first) - 1, int(last)) if whole else (0, -1)
    if not 0 <= start < end or (strand not in _STRANDS and kind not in LANDMARKS):
        notes[INVALID_ROWS] += 1
        start, end = 0, -1
    if kind == "CDS" and phase not in _PHASES:
        notes[INVALID_PHASES] += 1
    strand, phase = _STRANDS.get(strand, 1), phase.decode("latin-1")
    return Row(int(number), source, kind, start, end, strand, phase, _attributes(as_text(values), kind))


def as_text(value: bytes) -> str:
    """The text of a column, in UTF-8; what is not becomes U+FFFD."""
    return value.decode("utf-8", "replace")


def _attributes(text: str, kind: str) -> dict[str, str]:
    """The attributes of a row of GFF3 or GTF, or a bare ID, as AUGUSTUS writes it for genes and transcripts."""
    values = {}
    if _GTF_ATTRIBUTES.match(text):
        values["gene_id"] = ""
        for pair in _GTF_PAIR.finditer(text):
            if pair[1] in _GTF_KEYS:
                values[pair[1]] = (pair[2] or pair[3] or "").strip()
    elif "=" in text:
        for pair in text.split(";"):
            key, _, value = pair.partition("=")
            key = key.strip()
            if key in ATTRIBUTES:
                values[key] = value.strip()
    elif (name := text.strip(" ;")) not in ("", "."):
        values = {"gene_id": name} if is_gene(kind) else {"gene_id": "", "transcript_id": name}
    if "%" in text:
        for key in values.keys() - LISTS:
            values[key] = decoded(values[key])
    return values


def is_gene(kind: str) -> bool:
    """Whether rows of this type are genes: gene, pseudogene, ncRNA_gene, transposable_element_gene …"""
    return kind == "gene" or kind.endswith(("_gene", "pseudogene"))


def flag(values: dict[str, str], key: str) -> bool:
    """Whether an attribute is set: `pseudo=true`, but also `pseudo=`, `pseudo` and `pseudo=_no_value`."""
    return key in values and values[key].lower() not in ("false", "no", "0")


def listed(values: dict[str, str], key: str) -> tuple[str, ...]:
    """The values of one of LISTS."""
    text = values.get(key)
    return tuple(map(decoded, filter(None, text.split(",")))) if text else ()


def decoded(value: str) -> str:
    """A value without percent-encoding."""
    return unquote(value) if "%" in value else value


def wanted_types(kinds: Collection[str] | None) -> Callable[[str], int]:
    """Returns a function that maps a row's type to an action, for the GenBank `kinds` wanted (None: all)."""
    every = kinds is None
    genes = every or any(kind != "regulatory" for kind in kinds)
    coded = every or bool({"gene", "CDS", "mRNA", "misc_RNA"} & set(kinds))
    exons = every or "mRNA" in kinds

    def action(kind: str) -> int:
        if kind in LANDMARKS:
            return KEEP
        if kind in REGULATORY:
            return KEEP if every or "regulatory" in kinds else DROP
        if kind in _NEVER or not genes:
            return DROP
        if kind in CODED:
            return KEEP if coded else DROP
        if kind in EXONS:
            return KEEP if exons else ORPHAN  # a GTF may describe a gene by its exons alone
        return KEEP if is_gene(kind) or kind in RNA else LINK

    return action


def is_pseudo(row: Row) -> bool:
    """Whether the type or the attributes of a row say that it is a pseudogene."""
    values = row.attributes
    return (
        row.kind.endswith("pseudogene")
        or flag(values, "pseudo")
        or flag(values, "pseudogene")
        or any(values.get(key, "").endswith("pseudogene") for key in ("biotype", "gene_biotype", "gene_type"))
    )


def trans_spliced(row: Row) -> bool:
    """Whether a row belongs to a trans-spliced feature."""
    return "trans-splicing" in listed(row.attributes, "exception") or flag(row.attributes, "trans_splicing")


def part_number(row: Row) -> int:
    """The number of a row in its feature, from 1; 0 if it has none."""
    digits = (row.attributes.get("part") or row.attributes.get("exon_number", "")).split("/")[0]
    return int(digits) if digits.isdecimal() and len(digits) < 10 else 0
