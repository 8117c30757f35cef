"""Tests the GFF3 and GTF reader and its errors, also against an oracle and GenBank files of the same genome."""

import collections
import dataclasses
import gzip
import hashlib
import re
from urllib.parse import unquote

import numpy as np
import pytest

from data_pipeline.errors import DamagedFileError, FileError, FormatError, MismatchError, PairingError
from data_pipeline.formats import genbank, gff, gff_features, gff_rows, stream
from data_pipeline.regions import extraction, schemes
from data_pipeline.regions.ledger import MALFORMED, Ledger
from data_pipeline.sequence import bases
from data_pipeline.sequence.record import LONGER
from tests import oracle
from tests.data import data_path
from tests.raised import raises

HEAD = "##gff-version 3\n"
GENE = "s\tx\tgene\t11\t40\t.\t+\t.\tID=g\ns\tx\tCDS\t11\t40\t.\t+\t0\tID=c;Parent=g\n"
SEQUENCE = ">s\n" + "ACGTACGTAC" * 10 + "\n"


def read(tmp_path, annotation, sequence=SEQUENCE, kinds=None, progress=None, aliases=()):
    """Writes the annotation and the sequence, text or bytes, to files and reads the records."""
    paths = []
    for name, text in (("x.gff", annotation), ("x.fa", sequence)):
        paths.append(None if text is None else tmp_path / name)
        if text is not None:
            paths[-1].write_bytes(text if isinstance(text, bytes) else text.encode())
    scratch = tmp_path / "scratch"
    scratch.mkdir(exist_ok=True)
    for file in scratch.iterdir():
        file.unlink()
    return list(gff.read(*paths, kinds, scratch, progress, aliases))


def locations(record):
    return [(f.kind, [(p.start, p.end, p.strand) for p in f.segments]) for f in record.features]


def test_annotation_with_fasta(tmp_path):
    [record] = read(tmp_path, HEAD + GENE)
    assert locations(record) == [("gene", [(10, 40, 1)]), ("CDS", [(10, 40, 1)])]
    assert (record.accession, record.declared_length, len(record.codes)) == ("s", 100, 100)
    assert (record.circular, record.taxon, record.taxon_id, record.organism) == (False, None, None, "")


def test_compression_line_ends_and_comments_do_not_matter(tmp_path):
    expected = locations(read(tmp_path, HEAD + GENE)[0])
    for text in (
        (HEAD + GENE).replace("\n", "\r\n").encode(),
        (HEAD + GENE).rstrip("\n").encode(),
        gzip.compress((HEAD + GENE).encode(), mtime=0),
        (
            "\n#!x\n# comment\nbrowser position s:1-9\ntrack name=x\n" + GENE.replace("ID=c", "ID=c;;") + "###\n"
        ).encode(),
    ):
        assert locations(read(tmp_path, text)[0]) == expected


def test_sequences_in_another_order_and_interleaved(tmp_path, monkeypatch):
    lines = [f"{name}\tx\tgene\t{at}\t{at + 5}\t.\t-\t.\tID={name}{at}\n" for at in range(1, 90, 7) for name in "abc"]
    sequences = "".join(f">{name}\n{'ACGT' * 25}\n" for name in "cab")
    whole = read(tmp_path, "".join(sorted(lines)), sequences)
    assert [record.accession for record in whole] == ["c", "a", "b"]
    assert [len(record.features) for record in whole] == [13, 13, 13]
    for size in (5, 64, 1 << 20):
        monkeypatch.setattr(stream, "CHUNK_BYTES", size)
        crossed = read(tmp_path, "".join(lines), sequences)
        assert [sorted(locations(record)) for record in crossed] == [sorted(locations(record)) for record in whole]


def test_region_row_gives_topology_and_taxon(tmp_path):
    region = "s\tx\tregion\t1\t100\t.\t+\t.\tID=r;Dbxref=GenBank:x,taxon:4932;Is_circular=true;genome=mitochondrion\n"
    [record] = read(tmp_path, region + GENE.replace("\t40\t", "\t105\t"))
    assert (record.circular, record.taxon, record.taxon_id) == (True, "mit", "4932")
    assert locations(record)[0] == ("gene", [(10, 100, 1), (0, 5, 1)])
    for genome, taxon in (
        ("chloroplast", "plt"),
        ("plasmid", "plm"),
        ("chromosome", None),
        ("plastid:apicoplast", "plt"),
    ):
        [record] = read(tmp_path, region.replace("mitochondrion", genome) + GENE)
        assert record.taxon == taxon
    with raises(MismatchError, file="x.gff", line=1, value="s"):
        read(tmp_path, region + GENE, ">s\n" + "ACGT" * 20 + "\n")


@pytest.mark.parametrize(
    ("annotated", "sequence"),
    [
        ("1", "chr1"),
        ("chr1", "1"),
        ("chrM", "MT"),
        ("MT", "chrM"),
        ("chrX", "X"),
        ("Chr1", "1"),
        ("13", "NC_000013.11"),
        ("NC_1.1", "gi|5|ref|NC_1.1|"),
        ("a%7Cb", "a|b"),
    ],
)
def test_equivalent_sequence_names(annotated, sequence, tmp_path):
    [record] = read(tmp_path, GENE.replace("s\t", f"{annotated}\t"), SEQUENCE.replace(">s", f">{sequence}"))[:1]
    assert len(record.features) == 2


def test_exact_name_wins_over_an_alias(tmp_path):
    rows = "chrMT\tx\tgene\t1\t2\t.\t+\t.\tID=g\n"
    found = read(tmp_path, rows, ">chrM\nACGT\n>chrMT\nACGT\n>MT\nACGT\n")
    assert [(record.accession, len(record.features)) for record in found] == [("chrM", 0), ("chrMT", 1), ("MT", 0)]
    with raises(MismatchError, file="x.fa", value="MT"):
        read(tmp_path, rows, ">chrM\nACGT\n>MT\nACGT\n")


def test_aliases_match_what_no_rule_does(tmp_path):
    sequence = SEQUENCE.replace(">s", ">scaffold_1")
    [record] = read(tmp_path, HEAD + GENE, sequence, aliases=[["chrS", "S", "Scaffold_1"]])
    assert (record.accession, len(record.features)) == ("scaffold_1", 2)
    with raises(MismatchError, file="x.gff") as caught:
        read(tmp_path, HEAD + GENE, sequence, aliases=[["chrS", "s"]])
    assert "--aliases" in caught.value.remedy


def test_sequences_in_only_one_of_the_files(tmp_path):
    other = GENE.replace("s\t", "t\t").replace("ID=g", "ID=h") + "##sequence-region u 1 70\n"
    known, bare, missing, declared = read(tmp_path, HEAD + GENE + other, SEQUENCE + ">v\nACGT\n")
    assert len(known.features) == 2
    assert (bare.accession, len(bare.codes), bare.features) == ("v", 4, ())
    assert (missing.accession, missing.declared_length, len(missing.codes), missing.features) == ("t", 40, 0, ())
    assert (declared.accession, declared.declared_length, len(declared.codes)) == ("u", 70, 0)


def test_fasta_section_of_the_annotation(tmp_path):
    for mark in ("##FASTA\n", ""):
        [record] = read(tmp_path, HEAD + GENE + mark + SEQUENCE, None)
        assert (len(record.codes), len(record.features)) == (100, 2)
        assert gff.has_sequences(tmp_path / "x.gff")
    [record] = read(tmp_path, HEAD + GENE + "##FASTA\n>s\nNNNN\n", SEQUENCE)  # the given FASTA has priority
    assert len(record.codes) == 100
    with raises(FormatError, file="x.gff", section="##FASTA section", line=2, record="s", value="!"):
        read(tmp_path, HEAD + GENE + "##FASTA\n>s\nAC!T\n", None)
    with raises(PairingError, file="x.gff"):
        read(tmp_path, HEAD + GENE, None)
    assert not gff.has_sequences(tmp_path / "x.gff")


def test_progress_counts_the_bytes_of_both_files(tmp_path):
    seen = []
    read(tmp_path, gzip.compress((HEAD + GENE).encode(), mtime=0), SEQUENCE, progress=seen.append)
    assert sum(seen) == sum((tmp_path / name).stat().st_size for name in ("x.gff", "x.fa"))


@pytest.mark.parametrize(
    ("line", "field", "value"),
    [
        ("s\tx\tgene\t11\t40\t.\t+\tID=g", "number of columns", 8),
        ("s x gene 11 40 . + . ID=g", "number of columns", 1),
        ("s\tx\texon\t11\t40\t.\t+\t.\tID=g\tmore", "number of columns", 10),
        ("\tx\tgene\t11\t40\t.\t+\t.\tID=h", "sequence name", None),
    ],
)
def test_bad_rows(line, field, value, tmp_path):
    with raises(FormatError, file=tmp_path / "x.gff", line=4, field=field, value=value):
        read(tmp_path, HEAD + GENE + line + "\n" + GENE)


@pytest.mark.parametrize(
    ("start", "end", "strand"),
    [
        ("40", "11", "+"),
        ("0", "11", "+"),
        ("-5", "11", "+"),
        ("1", "1e2", "+"),
        ("1", "11", "?"),
        ("1", "9" * 5000, "+"),
    ],
)
def test_row_without_a_valid_location_costs_its_feature(start, end, strand, tmp_path):
    ledger = Ledger()
    [record] = read(tmp_path, HEAD + GENE + f"s\tx\tgene\t{start}\t{end}\t.\t{strand}\t.\tID=h\n")
    assert [region.kind for region in extraction.regions(record, ledger=ledger)] == ["cds"]
    assert (ledger.dropped[MALFORMED], ledger.notes[gff_rows.INVALID_ROWS]) == ([1, 0], [1, 0])


def test_invalid_phase_costs_the_reading_frame(tmp_path):
    ledger = Ledger()
    [record] = read(tmp_path, HEAD + GENE.replace("\t0\t", "\t3\t"))
    [region] = extraction.regions(record, schemes.Scheme("cds"), ledger)
    assert (region.reading_frame, ledger.notes[gff_rows.INVALID_PHASES]) == (-1, [1, 0])


def test_declared_length(tmp_path):
    """A sequence is never shorter than declared, and a circular one is not longer either."""
    region = "s\tx\tregion\t1\t{}\t.\t+\t.\tID=r\n"
    for text in ("##sequence-region s 1 {}\n", region, region.replace("ID=r", "ID=r;Is_circular=true")):
        for end in (99, 100, 101):
            annotation = text.format(end) + GENE
            if end == 101 or (end == 99 and "circular" in text):
                with raises(MismatchError, file="x.gff", line=1, field="sequence", value="s"):
                    read(tmp_path, annotation)
            else:
                [record] = read(tmp_path, annotation)
                assert record.notes == ({LONGER: 1} if end == 99 else {})


def test_directive_that_cannot_be_read_is_counted(tmp_path):
    for directive in ("##sequence-region", "##sequence-region s 1", "##sequence-region s 1 1e3"):
        records = read(tmp_path, f"{directive}\n{GENE}", SEQUENCE + ">t\nACGT\n")
        assert [record.notes for record in records] == [{gff.DIRECTIVES: 1}, {}]


def test_row_exceeds_the_sequence(tmp_path):
    with raises(MismatchError, file=tmp_path / "x.gff", line=4, field="end", value=101):
        read(tmp_path, HEAD + GENE + "s\tx\tgene\t91\t101\t.\t+\t.\tID=h\n" + GENE)


WHOLE_GZIP = gzip.compress((HEAD + GENE).encode(), mtime=0)


@pytest.mark.parametrize(
    ("annotation", "sequence", "kind", "attributes"),
    [
        (b"", SEQUENCE, FileError, {"file": "x.gff"}),
        (HEAD, SEQUENCE, FormatError, {"file": "x.gff"}),
        (WHOLE_GZIP[:-9], SEQUENCE, DamagedFileError, {"file": "x.gff"}),
        (WHOLE_GZIP[:-8] + bytes(8), SEQUENCE, DamagedFileError, {"file": "x.gff"}),
        (HEAD + GENE, gzip.compress(SEQUENCE.encode(), mtime=0)[:-9], DamagedFileError, {"file": "x.fa"}),
        (
            gzip.compress((HEAD + GENE + SEQUENCE).encode(), mtime=0)[:-8] + bytes(8),
            None,
            DamagedFileError,
            {"file": "x.gff"},
        ),
        (HEAD + GENE, SEQUENCE.replace(">s", ">other"), MismatchError, {"file": "x.gff"}),
        ("LOCUS       X\n", SEQUENCE, FormatError, {"file": "x.gff", "line": 1, "value": 1}),
    ],
)
def test_bad_files(annotation, sequence, kind, attributes, tmp_path):
    with raises(kind, **attributes):
        read(tmp_path, annotation, sequence)


# The oracle applies the rules of the GenBank oracle to features that simple, slow code builds from the rows.


ORACLE_KINDS = {
    **{kind: kind for kind in ("CDS", "tRNA", "rRNA", "tmRNA", "misc_RNA")},
    **dict.fromkeys(
        ("ncRNA", "snoRNA", "snRNA", "miRNA", "piRNA", "circular_ncRNA", "antisense_RNA", "telomerase_RNA"), "ncRNA"
    ),
    **dict.fromkeys(("SRP_RNA", "RNase_P_RNA"), "ncRNA"),
    **dict.fromkeys(("transcript", "nc_primary_transcript"), "misc_RNA"),
}
ORACLE_GENES = ("gene", "pseudogene", "ncRNA_gene")


def oracle_records(annotation, sequence):
    """Biopython records whose features have the ID of their gene as /locus_tag, by which the oracle groups them."""
    from Bio import SeqIO
    from Bio.SeqFeature import CompoundLocation, SeqFeature, SimpleLocation

    with gzip.open(sequence, "rt") as lines:
        records = {record.id: record for record in SeqIO.parse(lines, "fasta")}
    rows = collections.defaultdict(list)
    by_id = {}
    with gzip.open(annotation, "rt") as lines:
        for line in lines:
            if line.startswith("#"):
                continue
            name, _, kind, start, end, _, strand, _, text = line.rstrip("\n").split("\t")
            values = collections.defaultdict(list)
            for pair in text.split(";"):
                if "=" in pair:
                    key, value = pair.split("=", 1)
                    values[key] = [unquote(item) for item in value.split(",")]
            rows[name].append((kind, int(start) - 1, int(end), {"+": 1, "-": -1}.get(strand, 1), values))
            for identity in values["ID"]:
                by_id[name, identity] = (kind, values)

    def gene_of(name, values):
        for parent in values["Parent"]:
            if (name, parent) in by_id:
                kind, above = by_id[name, parent]
                found = [parent] if kind in ORACLE_GENES else gene_of(name, above)
                if found:
                    return found
        return []

    def is_pseudo(values):
        return any(key in values and values[key] != ["false"] for key in ("pseudo", "pseudogene"))

    for name, record in records.items():
        record.annotations["topology"] = "linear"
        groups = collections.defaultdict(list)
        for number, (kind, start, end, strand, values) in enumerate(rows[name]):
            if kind == "region" and values["Is_circular"] == ["true"]:
                record.annotations["topology"] = "circular"
            if kind in ORACLE_GENES:
                words = [*values["gene_biotype"], *values["biotype"], kind]
                pseudo = is_pseudo(values) or any(word.endswith("pseudogene") for word in words)
                qualifiers = {"locus_tag": values["ID"]} | ({"pseudo": [""]} if pseudo else {})
                groups["gene", values["ID"][0]].append((start, end, strand, qualifiers))
            elif kind in ORACLE_KINDS:
                qualifiers = {"locus_tag": gene_of(name, values)} | ({"pseudo": [""]} if is_pseudo(values) else {})
                for identity in values["ID"] or values["Parent"] or [number]:
                    groups[ORACLE_KINDS[kind], identity].append((start, end, strand, qualifiers))
        for (kind, _), found in groups.items():
            ranges = []
            for start, end, strand, _ in sorted(found, key=lambda row: row[:2]):
                over = end > len(record.seq)
                both = [(start, len(record.seq)), (0, end - len(record.seq))] if over else [(start, end)]
                ranges += [SimpleLocation(*at, strand) for at in both]
            ranges = ranges if ranges[0].strand > 0 else ranges[::-1]
            location = ranges[0] if len(ranges) == 1 else CompoundLocation(ranges)
            record.features.append(SeqFeature(location, type=kind, qualifiers=found[0][3]))
    return records.values()


def table(records):
    """The rows that the oracle would print for our records, sorted."""
    return sorted(
        (
            region.accession,
            region.start,
            region.end,
            "+" if region.strand > 0 else "-",
            region.kind,
            len(region.codes),
            hashlib.md5(bases.decode(region.codes).encode()).hexdigest(),
        )
        for record in records
        for region in extraction.regions(record)
    )


@pytest.mark.parametrize(
    ("name", "sequence", "count"),
    [
        ("yeast_S288C_R64_chrI-XII_MT.gff.gz", "yeast_S288C_R64_chrI-XII_MT.fna.gz", 4465),
        ("celegans_1pct.gff3.gz", "celegans_1pct.fa.gz", 271),
        ("dmelanogaster_1pct.gff3.gz", "dmelanogaster_1pct.fa.gz", 110),
    ],
)
@pytest.mark.filterwarnings("ignore::Bio.BiopythonWarning")
def test_regions_equal_the_oracle(name, sequence, count, tmp_path):
    paths = data_path("genomes", "eukaryote", name), data_path("genomes", "eukaryote", sequence)
    expected = [row for record in oracle_records(*paths) for row in oracle.regions(record, collections.Counter())]
    found = table(gff.read(*paths, None, tmp_path))
    assert found == sorted(expected)
    assert len(found) == count
    assert table(gff.read(*paths, schemes.feature_kinds(schemes.GENE), tmp_path)) == found


def test_real_gtf(tmp_path):
    folder = "genomes", "eukaryote"
    path = data_path(*folder, "chicken_Galgal4_chr1_piece.gtf.gz")
    sequence = data_path(*folder, "chicken_Galgal4_chr1_piece.fa.gz")
    exons, coded = collections.defaultdict(list), collections.defaultdict(int)
    with gzip.open(path, "rt") as lines:
        for line in lines:
            columns = line.split("\t")
            gene = re.search('gene_id "([^"]+)"', line)[1]
            exons[gene, columns[6]].append((int(columns[3]) - 1, int(columns[4])))
            coded[gene] += (int(columns[4]) - int(columns[3]) + 1) * (columns[2] in ("CDS", "stop_codon"))
    [record] = gff.read(path, sequence, None, tmp_path)
    expected = {(min(a for a, _ in at), max(b for _, b in at), strand, "cds") for (_, strand), at in exons.items()}
    assert {(row[1], row[2], row[3], row[4]) for row in table([record])} == expected
    assert len(expected) == 5
    for feature in record.features:
        if feature.kind == "CDS":
            assert sum(segment.end - segment.start for segment in feature.segments) == coded[feature.gene_id]
    # The coordinates in this file are one base too low: moved by one, each CDS begins and ends with the right codons.
    moved = dataclasses.replace(record, codes=np.roll(record.codes, -1))
    found = [bases.decode(region.codes) for region in extraction.regions(moved, schemes.Scheme("cds"))]
    assert [letters[:3] for letters in found] == ["ATG"] * 5
    assert {letters[-3:] for letters in found} <= {"TAA", "TAG", "TGA"}
    assert [len(letters) % 3 for letters in found] == [0] * 5


def test_ecoli_from_genbank_and_gff3_differ_only_where_the_files_do(tmp_path):
    """The two annotations are from different years; simple code lists the rows that only one of them has."""
    folder = "genomes", "prokaryote"
    flat, rows = (data_path(*folder, f"ecoli_K12_MG1655_NC_000913.3.{end}.gz") for end in ("gbk", "gff"))
    [record] = genbank.read(flat)
    sequence = tmp_path / "ecoli.fna"
    sequence.write_text(f">{record.accession} E. coli\n{bases.decode(record.codes)}\n")
    [paired] = gff.read(rows, sequence, None, tmp_path)
    assert (paired.circular, paired.taxon_id) == (record.circular, record.taxon_id)

    with gzip.open(flat, "rt") as lines:
        by_genbank = set()
        for line in lines:
            if line.startswith("     gene            "):
                numbers = [int(number) for number in re.findall(r"\d+", line)]
                by_genbank.add((min(numbers) - 1, max(numbers), "-" if "complement" in line else "+"))
    with gzip.open(rows, "rt") as lines:
        columns = [line.split("\t") for line in lines if not line.startswith("#")]
        by_gff = {(int(c[3]) - 1, int(c[4]), c[6]) for c in columns if c[2] in ("gene", "pseudogene")}
    ours, theirs = ({row[1:4]: row for row in table([x])} for x in (record, paired))
    assert set(ours) == by_genbank
    assert set(theirs) == by_gff
    assert (len(by_genbank - by_gff), len(by_gff - by_genbank), len(by_genbank & by_gff)) == (140, 281, 4358)
    other = [(ours[place], theirs[place]) for place in sorted(by_genbank & by_gff) if ours[place] != theirs[place]]
    # In the newer file the pseudogene ymjD is a coding gene, and the gene ralA has an ncRNA.
    kinds = [(a[4], b[4], a[:4] == b[:4], a[5:] == b[5:]) for a, b in other]
    assert kinds == [("pseudo", "cds", True, True), ("other", "ncRNA", True, True)]


@pytest.mark.parametrize("scheme", ["gene", "cds", "mrna"])
def test_yeast_from_genbank_and_gff3_differ_only_where_the_files_do(scheme, tmp_path):
    """Chromosome VII in two releases of the annotation; the newer one has one more gene."""
    folder = "genomes", "eukaryote"
    [record] = genbank.read(data_path(*folder, "yeast_S288C_chrVII_NC_001139.9.gb.gz"))
    files = [data_path(*folder, f"yeast_S288C_R64_chrI-XII_MT.{end}.gz") for end in ("gff", "fna")]
    [paired] = [x for x in gff.read(*files, None, tmp_path) if x.accession == record.accession]
    assert np.array_equal(record.codes, paired.codes)
    assert (paired.circular, paired.taxon_id) == (record.circular, record.taxon_id)

    def rows(one):
        return {
            (x.start, x.end, x.strand, x.segments): (
                x.kind,
                x.gene,
                x.locus_tag,
                x.reading_frame,
                x.genetic_code,
                x.exceptions,
            )
            for x in extraction.regions(one, schemes.Scheme(scheme))
        }

    ours, theirs = rows(record), rows(paired)
    [added] = ours.keys() - theirs.keys()
    assert added[:3] == (523245, 523353, -1)
    del ours[added]
    assert ours == theirs
    assert len(theirs) == {"gene": 589, "cds": 540, "mrna": 540}[scheme]


# What gene finders write, against a reading of the same files by a few lines.


def read_by_hand(annotation, sequence):
    """The gene regions and the spliced CDS of a GTF whose gene and transcript rows may have a bare ID."""
    with gzip.open(sequence, "rt") as lines:
        records = [text.split("\n") for text in lines.read().split(">")[1:]]
    letters = {header.split()[0]: "".join(rest).upper() for header, *rest in records}
    genes, transcripts, parts = set(), collections.defaultdict(list), collections.defaultdict(list)
    with gzip.open(annotation, "rt") as lines:
        for line in lines:
            if line.startswith("#"):
                continue
            name, _, kind, start, end, _, strand, _, text = line.rstrip("\n").split("\t")
            gene, transcript = (re.search(f'{key} "([^"]+)"', text) for key in ("gene_id", "transcript_id"))
            place = [int(start) - 1, int(end)]
            if kind == "gene":
                genes.add((name, *place, strand, "cds"))
            if transcript:
                transcripts[name, gene[1], strand, transcript[1]].append(place)
            if transcript and kind in ("CDS", "stop_codon"):  # some tools exclude the stop codon from the CDS
                parts[name, transcript[1], strand].append(place)
    if not genes:
        clusters, coding = collections.defaultdict(list), set()
        for (name, gene, strand, transcript), places in transcripts.items():
            clusters[name, gene, strand].append([min(places)[0], max(end for _, end in places)])
            coding |= {gene} if (name, transcript, strand) in parts else set()
        for (name, gene, strand), spans in clusters.items():
            kind = "cds" if gene in coding else "miscRNA"
            genes |= {(name, *span, strand, kind) for span in union(spans, gap=-1)}
    spliced = set()
    for (name, _, strand), places in parts.items():
        places = tuple(map(tuple, union(places)))
        joined = "".join(letters[name][start:end] for start, end in places)
        spliced.add((name, places, joined if strand == "+" else joined[::-1].translate(COMPLEMENT)))
    return genes, spliced


def union(intervals, gap=0):
    """The union of (start, end) intervals; those at most `gap` apart are joined."""
    found = []
    for start, end in sorted(intervals):
        if found and start <= found[-1][1] + gap:
            found[-1][1] = max(found[-1][1], end)
        else:
            found.append([start, end])
    return found


COMPLEMENT = str.maketrans("ACGT", "TGCA")


@pytest.mark.parametrize(
    ("folder", "annotation", "sequence", "genes", "coding"),
    [
        ("tool_outputs/braker", "test1_braker.gtf.gz", "genome.fa.gz", 266, 290),
        ("tool_outputs/braker", "test1_augustus.hints.gtf.gz", "genome.fa.gz", 266, 269),
        ("tool_outputs/braker", "test5_augustus.ab_initio.gtf.gz", "genome.fa.gz", 248, 248),
        ("tool_outputs/braker", "test1_genemark.gtf.gz", "genome.fa.gz", 264, 264),
        ("tool_outputs/braker", "reference.gtf.gz", "genome.fa.gz", 288, 333),
        ("human", "human_hg38_chr16_186964_397118.augustus_cgp.gff.gz", "human_hg38_chr16_186964_397118.fa.gz", 10, 10),
        ("human", "human_hg38_chr16_186964_397118.refseq.gtf.gz", "human_hg38_chr16_186964_397118.fa.gz", 12, 13),
    ],
)
def test_output_of_gene_finders_equals_a_reading_by_hand(folder, annotation, sequence, genes, coding, tmp_path):
    paths = data_path(*folder.split("/"), annotation), data_path(*folder.split("/"), sequence)
    expected, spliced = read_by_hand(*paths)
    records = list(gff.read(*paths, None, tmp_path))
    assert {row[:5] for row in table(records)} == expected
    assert len(expected) == genes
    found = set()
    for record in records:
        for region in extraction.regions(record, schemes.Scheme("cds")):
            places = tuple(sorted(segment[:2] for segment in region.segments or [(region.start, region.end)]))
            found.add((region.accession, places, bases.decode(region.codes)))
    assert found == spliced
    assert len(found) == coding


@pytest.mark.parametrize("source", ["other", "AUGUSTUS"])
def test_two_gene_finders_in_one_file(source, tmp_path):
    """Their IDs are unique only within a source, or, if they name the same one, only at a locus."""
    folder = "tool_outputs", "braker"
    sequence = data_path(*folder, "genome.fa.gz")

    def as_gff3(name, source):
        with gzip.open(data_path(*folder, name), "rt") as lines:
            for columns in (line.rstrip("\n").split("\t") for line in lines):
                kind, ids = columns[2], columns[8]
                transcript = re.search('transcript_id "([^"]+)"', ids)
                if kind == "gene":
                    columns[8] = f"ID={ids}"
                elif kind == "transcript":
                    columns[2], columns[8] = "mRNA", f"ID={ids};Parent={ids.rsplit('.', 1)[0]}"
                elif kind == "CDS":
                    columns[8] = f"ID={transcript[1]}.cds;Parent={transcript[1]}"
                else:
                    continue
                yield "\t".join([columns[0], source, *columns[2:]]) + "\n"

    texts = [
        "".join(as_gff3("test1_augustus.hints.gtf.gz", "AUGUSTUS")),
        "".join(as_gff3("test5_augustus.ab_initio.gtf.gz", source)),
    ]
    for scheme in ("gene", "cds"):
        found = []
        for text in (*texts, "".join(texts)):
            (tmp_path / "x.gff3").write_text(text)
            records = list(gff.read(tmp_path / "x.gff3", sequence, None, tmp_path))
            regions = [x for record in records for x in extraction.regions(record, schemes.Scheme(scheme))]
            found.append({(x.accession, x.start, x.end, x.strand, x.segments, x.kind) for x in regions})
        first, second, both = found
        assert both == first | second
    assert sum(record.notes.get(gff_features.SHARED_ID, 0) for record in records) > 0


@pytest.mark.parametrize(
    ("tool", "flat", "rows", "sequence"),
    [
        ("bakta", "assembly.gbff.gz", "assembly.gff3.gz", "assembly.fna.gz"),
        ("prokka", "PROKKA_02192026.gbk.gz", "PROKKA_02192026.gff.gz", "PROKKA_02192026.fna.gz"),
    ],
)
@pytest.mark.filterwarnings("ignore::Bio.BiopythonWarning")
def test_genbank_and_gff3_of_one_tool_equal_biopython(tool, flat, rows, sequence, tmp_path):
    from Bio import SeqIO

    flat, rows, sequence = (data_path("tool_outputs", tool, name) for name in (flat, rows, sequence))
    with gzip.open(flat, "rt") as stream:
        records = list(SeqIO.parse(stream, "genbank"))
    expected = sorted(row for record in records for row in oracle.regions(record, collections.Counter()))
    coding = sorted(
        str(feature.extract(record.seq)) for record in records for feature in record.features if feature.type == "CDS"
    )
    for read in (genbank.read(flat), gff.read(rows, sequence, None, tmp_path), gff.read(rows, None, None, tmp_path)):
        found = list(read)
        assert table(found) == expected
        regions = (region for record in found for region in extraction.regions(record, schemes.Scheme("cds")))
        assert sorted(bases.decode(region.codes) for region in regions) == coding
    assert (
        collections.Counter(row[4] for row in expected)
        == {"bakta": {"cds": 90, "pseudo": 3}, "prokka": {"cds": 91}}[tool]
    )
