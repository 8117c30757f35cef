"""Tests how rows of GFF3 and GTF files become features."""

import itertools

import pytest

from data_pipeline.formats import gff, gff_features
from data_pipeline.regions import extraction, schemes
from data_pipeline.sequence.record import Segment


def read_record(tmp_path, rows, *, length=1000, circular=False, kinds=None):
    """The record of one sequence from rows of (type, start, end, strand, attributes) or (…, phase), 1-based.

    A type may have its source before it: `augustus gene`.
    """
    text = f"s\tx\tregion\t1\t{length}\t.\t+\t.\tID=s;Is_circular=true\n" if circular else ""
    for kind, start, end, strand, attributes, *phase in rows:
        *source, kind = kind.split()
        phase = phase[0] if phase else "."
        text += f"s\t{source[0] if source else 'x'}\t{kind}\t{start}\t{end}\t.\t{strand}\t{phase}\t{attributes}\n"
    (tmp_path / "x.gff").write_text(text)
    (tmp_path / "x.fa").write_text(f">s\n{'ACGT' * (length // 4)}\n")
    scratch = tmp_path / "scratch"
    scratch.mkdir(exist_ok=True)
    [record] = gff.read(tmp_path / "x.gff", tmp_path / "x.fa", kinds, scratch)
    return record


def read(tmp_path, rows, **options):
    return read_record(tmp_path, rows, **options).features


def regions(record, scheme="gene"):
    """(start, end, strand, kind) of each region, or (segments, kind) of each spliced one."""
    found = extraction.regions(record, schemes.Scheme(scheme))
    return [(x.segments, x.kind) if x.segments else (x.start, x.end, x.strand, x.kind) for x in found]


def segments(feature):
    return [(segment.start, segment.end, segment.strand) for segment in feature.segments]


GENE = [
    ("gene", 101, 400, "-", "ID=g1;Name=abc;locus_tag=T1"),
    ("mRNA", 101, 400, "-", "ID=t1;Parent=g1;product=a%2C b"),
    ("exon", 101, 200, "-", "Parent=t1,t2"),
    ("exon", 301, 400, "-", "Parent=t1"),
    ("CDS", 151, 200, "-", "ID=c1;Parent=t1;protein_id=P1;transl_table=4", "0"),
    ("CDS", 301, 362, "-", "ID=c1;Parent=t1;protein_id=P1;transl_table=4", "2"),
    ("ncRNA", 101, 200, "-", "ID=t2;Parent=g1"),
]


def test_gene_with_its_children(tmp_path):
    gene, mrna, cds, ncrna = read(tmp_path, GENE)
    assert segments(gene) == [(100, 400, -1)]
    assert segments(mrna) == [(300, 400, -1), (100, 200, -1)]
    assert segments(cds) == [(300, 362, -1), (150, 200, -1)]
    assert segments(ncrna) == [(100, 200, -1)]
    assert [f.gene_id for f in (gene, mrna, cds, ncrna)] == ["g1"] * 4
    names = {"gene": ("abc",), "locus_tag": ("T1",)}
    assert gene.qualifiers == ncrna.qualifiers == names
    assert mrna.qualifiers == {**names, "product": ("a, b",)}
    assert cds.qualifiers == {**names, "protein_id": ("P1",), "transl_table": ("4",), "codon_start": ("3",)}


def test_order_of_rows_does_not_matter(tmp_path):
    expected = sorted(map(str, read(tmp_path, GENE)))
    for order in (GENE[::-1], GENE[3:] + GENE[:3], GENE[1::2] + GENE[::2]):
        assert sorted(map(str, read(tmp_path, order))) == expected


@pytest.mark.parametrize("kinds", [{"gene"}, {"CDS"}, {"mRNA"}, {"ncRNA", "tRNA"}, {"gene", "CDS", "misc_RNA"}])
def test_selecting_kinds_does_not_change_the_features(kinds, tmp_path):
    assert read(tmp_path, GENE, kinds=kinds) == tuple(f for f in read(tmp_path, GENE) if f.kind in kinds)


def test_mrna_without_exons_is_built_from_cds_and_utrs(tmp_path):
    rows = [
        ("mRNA", 101, 400, "+", "ID=t1"),
        ("five_prime_UTR", 101, 150, "+", "Parent=t1"),
        ("CDS", 151, 200, "+", "Parent=t1", "0"),
        ("CDS", 301, 350, "+", "Parent=t1", "1"),
        ("three_prime_UTR", 351, 400, "+", "Parent=t1"),
        ("mRNA", 501, 600, "+", "ID=t2"),
    ]
    first, second = [f for f in read(tmp_path, rows) if f.kind == "mRNA"]
    assert segments(first) == [(100, 200, 1), (300, 400, 1)]
    assert segments(second) == [(500, 600, 1)]
    assert first.gene_id is None


def test_cds_rows_without_id_belong_to_each_parent(tmp_path):
    rows = [
        ("gene", 1, 90, "+", "ID=g"),
        ("mRNA", 1, 90, "+", "ID=a;Parent=g"),
        ("mRNA", 1, 90, "+", "ID=b;Parent=g"),
        ("CDS", 1, 30, "+", "Parent=a,b", "0"),
        ("CDS", 61, 90, "+", "Parent=a", "0"),
        ("CDS", 71, 90, "+", "Parent=b", "0"),
    ]
    found = [f for f in read(tmp_path, rows) if f.kind == "CDS"]
    assert [segments(f) for f in found] == [[(0, 30, 1), (60, 90, 1)], [(0, 30, 1), (70, 90, 1)]]
    assert [f.gene_id for f in found] == ["g", "g"]


def test_numbered_cds_rows_are_joined_unless_they_overlap_or_are_bacterial(tmp_path):
    def cds(parent, second_start):
        return [
            ("CDS", 1, 30, "+", f"ID=a;Parent={parent}", "0"),
            ("CDS", second_start, 90, "+", f"ID=b;Parent={parent}", "0"),
        ]

    rows = [("gene", 1, 90, "+", "ID=g"), ("mRNA", 1, 90, "+", "ID=t;Parent=g")]
    assert [segments(f) for f in read(tmp_path, rows + cds("t", 61), kinds={"CDS"})] == [[(0, 30, 1), (60, 90, 1)]]
    assert len(read(tmp_path, rows + cds("t", 25), kinds={"CDS"})) == 2
    assert len(read(tmp_path, rows + cds("g", 61), kinds={"CDS"})) == 2


def test_chain_of_parents(tmp_path):
    rows = [
        ("gene", 1, 90, "+", "ID=g"),
        ("gene", 1, 90, "+", "ID=h"),
        ("primary_transcript", 1, 90, "+", "ID=p;Parent=g,h"),
        ("miRNA", 1, 20, "+", "ID=m;Parent=p"),
        ("tRNA", 31, 40, "+", "ID=t;Parent=absent"),
    ]
    mirna, also, trna = read(tmp_path, rows)[2:]
    assert (mirna.gene_id, also.gene_id, trna.gene_id) == ("g", "h", None)
    assert mirna.segments == also.segments


@pytest.mark.parametrize("cycle", [("a", "a"), ("a", "b", "a"), ("a", "b", "c", "b")])
def test_cycle_of_parents_costs_the_gene(cycle, tmp_path):
    rows = [("CDS", 1, 9, "+", "ID=x;Parent=a", "0"), *GENE]
    rows += [("mRNA", 1, 9, "+", f"ID={name};Parent={above}") for name, above in itertools.pairwise(cycle)]
    record = read_record(tmp_path, rows)
    assert record.notes == {gff_features.CYCLE: 1}
    assert regions(record) == [(0, 9, 1, "cds"), (100, 400, -1, "cds")]


@pytest.mark.parametrize(
    ("kind", "attributes", "pseudo"),
    [
        ("gene", "ID=g", False),
        *(("gene", f"ID=g;{pseudo}", True) for pseudo in ("pseudo=true", "pseudo=True", "pseudo=", "pseudo")),
        *(("gene", f"ID=g;pseudo={value}", True) for value in ("_no_value", "%74rue")),
        *(("gene", f"ID=g;pseudo={value}", False) for value in ("false", "False", "0")),
        ("gene", "ID=g;pseudogene=unitary", True),
        ("gene", "ID=g;gene_biotype=transcribed_unprocessed_pseudogene", True),
        ("gene", "ID=g;biotype=protein_coding", False),
        ("pseudogene", "ID=g", True),
    ],
)
def test_pseudo(kind, attributes, pseudo, tmp_path):
    [gene] = read(tmp_path, [(kind, 1, 9, "+", attributes)])
    assert ("pseudo" in gene.qualifiers) == pseudo


@pytest.mark.parametrize("pseudo", ["pseudo=True", "pseudo=", "pseudo", "pseudogene=unitary", "pseudo=false"])
def test_pseudo_without_a_gene(pseudo, tmp_path):
    """As Bakta writes it: CDS rows alone."""
    record = read_record(tmp_path, [(kind, 1, 90, "+", f"ID=a;{pseudo}", "0") for kind in ("CDS", "tRNA")])
    expected = "cds" if pseudo == "pseudo=false" else "pseudo"
    assert regions(record) == [(0, 90, 1, expected)]
    assert regions(record, "cds") == [(0, 90, 1, expected)]


def test_child_pseudogene_marks_its_gene(tmp_path):
    [gene] = read(tmp_path, [("gene", 1, 9, "+", "ID=g"), ("pseudogene", 1, 9, "+", "ID=t;Parent=g")])
    assert "pseudo" in gene.qualifiers


@pytest.mark.parametrize(
    ("biotype", "kind"),
    [
        ("biotype=lncRNA", "ncRNA"),
        ("biotype=Mt_tRNA", "tRNA"),
        ("biotype=retained_intron", "misc_RNA"),
        ("biotype=protein_coding", "misc_RNA"),
        ("biotype=processed_pseudogene", None),
        ("x=y", "misc_RNA"),
    ],
)
def test_transcript_rows(biotype, kind, tmp_path):
    rows = [("gene", 1, 90, "+", "ID=g"), ("transcript", 1, 90, "+", f"ID=t;Parent=g;{biotype}")]
    assert [f.kind for f in read(tmp_path, rows)[1:]] == ([kind] if kind else [])
    coding = [*rows, ("CDS", 1, 90, "+", "ID=c;Parent=t", "0")]
    assert [f.kind for f in read(tmp_path, coding)[1:]] == ["mRNA", "CDS"]


def test_exceptions_have_genbank_names(tmp_path):
    rows = [
        ("CDS", 1, 9, "+", "ID=a;exception=ribosomal slippage", "0"),
        ("CDS", 9, 20, "+", "ID=a;exception=ribosomal slippage", "0"),
        ("CDS", 31, 60, "+", "ID=b;transl_except=(pos:34..36%2Caa:Sec),(pos:40..42%2Caa:Sec)", "0"),
        ("CDS", 61, 90, "+", "ID=c;exception=RNA editing,trans-splicing;pseudo=true", "."),
    ]
    slipped, selenium, edited = read(tmp_path, rows)
    assert segments(slipped) == [(0, 9, 1), (8, 20, 1)]
    assert slipped.qualifiers == {"ribosomal_slippage": ("",), "codon_start": ("1",)}
    assert selenium.qualifiers["transl_except"] == ("(pos:34..36,aa:Sec)", "(pos:40..42,aa:Sec)")
    assert edited.qualifiers == {
        "exception": ("RNA editing",),
        "trans_splicing": ("",),
        "pseudo": ("",),
        "codon_start": ("1",),
    }


def test_regulatory_class(tmp_path):
    rows = [
        ("TATA_box", 1, 9, "+", "ID=a"),
        ("ribosome_entry_site", 11, 19, "+", "ID=b"),
        ("regulatory_region", 21, 29, ".", "ID=c;regulatory_class=response_element"),
    ]
    found = read(tmp_path, rows, kinds={"regulatory"})
    classes = [f.qualifiers["regulatory_class"] for f in found]
    assert classes == [("TATA_box",), ("ribosome_binding_site",), ("response_element",)]
    assert segments(found[2]) == [(20, 29, 1)]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([(901, 1100, "+")], [(900, 1000, 1), (0, 100, 1)]),
        ([(901, 1100, "-")], [(0, 100, -1), (900, 1000, -1)]),
        ([(801, 850, "+"), (901, 1100, "+"), (151, 200, "+")], None),
        ([(801, 850, "-"), (901, 1100, "-"), (151, 200, "-")], None),
        ([(901, 1000, "+"), (1, 100, "+")], [(900, 1000, 1), (0, 100, 1)]),
        ([(1, 100, "-"), (901, 1000, "-")], [(0, 100, -1), (900, 1000, -1)]),
    ],
)
def test_features_across_the_origin(rows, expected, tmp_path):
    four = [(800, 850), (900, 1000), (0, 100), (150, 200)]
    found = read(tmp_path, [("CDS", *row, "ID=c", "0") for row in rows], circular=True)
    if expected is None:
        expected = [(*at, 1) for at in four] if rows[0][2] == "+" else [(*at, -1) for at in four[::-1]]
    assert [segments(f) for f in found] == [expected]


def test_trans_spliced_segments_are_ordered_by_part(tmp_path):
    rows = [
        ("gene", 701, 800, "-", "ID=g;exception=trans-splicing;part=2"),
        ("gene", 101, 200, "-", "ID=g;exception=trans-splicing;part=3/3"),
        ("gene", 901, 950, "+", "ID=g;exception=trans-splicing;part=1"),
    ]
    [gene] = read(tmp_path, rows)
    assert segments(gene) == [(900, 950, 1), (700, 800, -1), (100, 200, -1)]
    assert "trans_splicing" in gene.qualifiers


def gtf(*rows):
    """Rows of a GTF: (type, start, end, strand, phase, attributes)."""
    return [(kind, start, end, strand, attributes, phase) for kind, start, end, strand, phase, attributes in rows]


CODING = 'gene_id "g"; transcript_id "t"; gene_name "abc"; gene_biotype "protein_coding";'


def test_gtf_without_genes_and_transcripts(tmp_path):
    rows = gtf(
        ("exon", 101, 200, "+", ".", CODING),
        ("CDS", 151, 200, "+", "0", CODING + ' protein_id "P";'),
        ("exon", 301, 400, "+", ".", CODING),
        ("CDS", 301, 350, "+", "1", CODING + ' protein_id "P";'),
        ("stop_codon", 351, 353, "+", "0", CODING),
        ("start_codon", 151, 153, "+", "0", CODING),
        ("exon", 501, 600, "-", ".", 'gene_id "n"; transcript_id "n"; gene_biotype "lncRNA"; note "a; b";'),
    )
    found = {(f.kind, f.gene_id): f for f in read(tmp_path, rows)}
    assert set(found) == {("gene", "g"), ("CDS", "g"), ("mRNA", "g"), ("gene", "n"), ("ncRNA", "n")}
    assert segments(found["gene", "g"]) == [(100, 400, 1)]
    assert segments(found["mRNA", "g"]) == [(100, 200, 1), (300, 400, 1)]
    assert segments(found["CDS", "g"]) == [(150, 200, 1), (300, 353, 1)]
    assert segments(found["gene", "n"]) == segments(found["ncRNA", "n"]) == [(500, 600, -1)]
    names = {"gene": ("abc",), "locus_tag": ("g",)}
    assert found["gene", "g"].qualifiers == names
    assert found["CDS", "g"].qualifiers == {**names, "protein_id": ("P",), "codon_start": ("1",)}


@pytest.mark.parametrize(
    ("strand", "stops", "expected"),
    [
        ("+", [(351, 353)], [(100, 200, 1), (300, 353, 1)]),
        ("+", [(348, 350)], [(100, 200, 1), (300, 350, 1)]),  # already in the CDS
        ("+", [(351, 351), (401, 402)], [(100, 200, 1), (300, 351, 1), (400, 402, 1)]),
        ("-", [(98, 100)], [(300, 350, -1), (97, 200, -1)]),
    ],
)
def test_gtf_stop_codons(strand, stops, expected, tmp_path):
    rows = [("CDS", 101, 200, strand, "0", CODING), ("CDS", 301, 350, strand, "0", CODING)]
    rows += [("stop_codon", *stop, strand, "0", CODING) for stop in stops]
    [cds] = read(tmp_path, gtf(*rows), kinds={"CDS"})
    assert segments(cds) == expected


def test_gtf_genes_on_both_strands_and_pseudogenes(tmp_path):
    rows = gtf(
        ("exon", 101, 200, "+", ".", 'gene_id "g"; transcript_id "t";'),
        ("exon", 301, 400, "-", ".", 'gene_id "g"; transcript_id "t";'),
        ("gene", 501, 600, "+", ".", 'gene_id "p"; transcript_id ""; gene_type "processed_pseudogene";'),
        ("transcript", 501, 600, "+", ".", 'gene_id "p"; transcript_id "u"; transcript_type "processed_pseudogene";'),
    )
    found = read(tmp_path, rows, kinds={"gene"})
    assert sorted(p for f in found for p in segments(f)) == [(100, 200, 1), (300, 400, -1), (500, 600, 1)]
    assert ["pseudo" in f.qualifiers for f in found if f.gene_id == "p"] == [True]
    assert "misc_RNA" not in {f.kind for f in read(tmp_path, rows) if f.gene_id == "p"}


def test_gtf_rows_without_transcript(tmp_path):
    rows = gtf(
        ("gene", 101, 200, "+", ".", 'gene_id "b1"; transcript_id ""; gene "thrL"; locus_tag "b0001";'),
        ("CDS", 101, 197, "+", "0", 'gene_id "b1"; transcript_id "unassigned_transcript_1"; transl_table "11";'),
        ("stop_codon", 198, 200, "+", "0", 'gene_id "b1"; transcript_id "unassigned_transcript_1";'),
        ("CDS", 301, 350, "+", "0", 'gene_id "b2"; transcript_id "";'),
    )
    found = {(f.kind, f.gene_id): f for f in read(tmp_path, rows, kinds={"gene", "CDS"})}
    assert set(found) == {("gene", "b1"), ("CDS", "b1"), ("gene", "b2"), ("CDS", "b2")}
    assert segments(found["CDS", "b1"]) == [(100, 200, 1)]
    assert found["CDS", "b1"].qualifiers["locus_tag"] == ("b0001",)
    assert found["CDS", "b1"].qualifiers["gene"] == ("thrL",)


def test_gtf_row_without_any_id_costs_itself(tmp_path):
    rows = gtf(("CDS", 1, 90, "+", "0", 'name "x";'), ("CDS", 101, 190, "+", "0", 'transcript_id "t";'))
    record = read_record(tmp_path, rows)
    assert record.notes == {gff_features.NO_ID: 1}
    assert regions(record) == [(100, 190, 1, "cds")]


def test_rows_of_several_tools_in_one_file(tmp_path):
    """As AUGUSTUS and BRAKER write a GTF, with bare IDs for genes and transcripts; and GFF3 rows among them."""
    rows = [
        ("gene", 101, 400, "+", "g1"),
        ("transcript", 101, 400, "+", "g1.t1"),
        ("CDS", 101, 200, "+", 'transcript_id "g1.t1"; gene_id "g1";', "0"),
        ("CDS", 301, 400, "+", 'transcript_id "g1.t1"; gene_id "g1";', "2"),
        ("gene", 501, 600, "-", "ID=g2"),
        ("mRNA", 501, 600, "-", "ID=t2;Parent=g2"),
        ("CDS", 501, 600, "-", "ID=c2;Parent=t2", "0"),
        ("gene", 701, 800, "-", "ID=g3"),
        ("CDS", 701, 800, "-", 'gene_id "g3"; transcript_id "t3";', "0"),
        ("transcript", 901, 990, "-", "g4.t1"),
        ("CDS", 901, 990, "-", 'gene_id "g4"; transcript_id "g4.t1"', "0"),
    ]
    for order in (rows, rows[::-1], rows[4:] + rows[:4]):
        record = read_record(tmp_path, order)
        assert regions(record) == [(100, 400, 1, "cds"), *((at, end, -1, "cds") for at, end in OTHERS)]
        assert [f.qualifiers["locus_tag"] for f in record.features if f.gene_id == "g1"] == [("g1",)] * 3
        assert regions(record, "cds")[0] == (((100, 200, 1), (300, 400, 1)), "cds")
        assert len(regions(record, "cds")) == 4
        assert not record.notes


OTHERS = [(500, 600), (700, 800), (900, 990)]


@pytest.mark.parametrize(
    ("rows", "kind"),
    [
        ([("exon", 'gene_id "a"; transcript_id "{}";')], "miscRNA"),  # UCSC's, with a transcript for each locus
        ([(row, 'gene_id "a"; transcript_id "t";') for row in ("transcript", "exon")], "miscRNA"),
        ([("gene", "ID=a"), ("tRNA", "ID=t;Parent=a")], "tRNA"),
        ([("{} gene", "ID=a"), ("{} tRNA", "ID=t;Parent=a")], "tRNA"),
    ],
)
def test_one_id_at_two_loci_is_two_genes(rows, kind, tmp_path):
    both = [(row.format(at), at, at + 89, "-", ids.format(at)) for at in (1, 801) for row, ids in rows]
    record = read_record(tmp_path, [*both, ("gene", 301, 400, "-", "ID=between")])
    assert regions(record) == [(0, 90, -1, kind), (300, 400, -1, "other"), (800, 890, -1, kind)]
    assert record.notes == {gff_features.SHARED_ID: 2}


def test_one_id_in_two_sources_is_two_genes(tmp_path):
    """Gene models of two predictors in one file, as funannotate writes them; they may overlap."""
    rows = []
    for source, start, end in (("augustus", 1, 300), ("glimmerhmm", 201, 600)):
        rows += [
            (f"{source} gene", start, end, "+", "ID=g"),
            (f"{source} mRNA", start, end, "+", "ID=t;Parent=g"),
            (f"{source} CDS", start, start + 89, "+", "ID=c;Parent=t", "0"),
            (f"{source} CDS", end - 89, end, "+", "ID=c;Parent=t", "0"),
        ]
    for order in (rows, rows[::-1]):
        record = read_record(tmp_path, order)
        assert regions(record) == [(0, 300, 1, "cds"), (200, 600, 1, "cds")]
        assert regions(record, "cds") == [(((0, 90, 1), (210, 300, 1)), "cds"), (((200, 290, 1), (510, 600, 1)), "cds")]
        assert record.notes == {gff_features.SHARED_ID: 2}
    bare = [
        (kind, start, end, "+", 'gene_id "g"; transcript_id "t"', "0") for kind, start, end, *_ in rows if "CDS" in kind
    ]
    assert regions(read_record(tmp_path, bare), "cds") == regions(record, "cds")
    orphans = [("p CDS", 1, 90, "+", "ID=1_1", "0"), ("q CDS", 801, 890, "+", "ID=1_1", "0")]
    assert regions(read_record(tmp_path, orphans)) == [(0, 90, 1, "cds"), (800, 890, 1, "cds")]


def test_children_may_have_another_source_than_their_gene(tmp_path):
    rows = [
        ("a gene", 1, 90, "+", "ID=g"),
        ("b mRNA", 1, 90, "+", "ID=t;Parent=g"),
        ("c CDS", 1, 90, "+", "ID=c;Parent=t", "0"),
    ]
    record = read_record(tmp_path, rows)
    assert [feature.gene_id for feature in record.features] == ["g"] * 3
    assert not record.notes


def test_rows_of_one_gene_stay_together(tmp_path):
    for attributes in ("ID=g;part=1", "ID=g;exception=trans-splicing", "ID=g;trans_splicing="):
        record = read_record(tmp_path, [("gene", 1, 90, "+", attributes), ("gene", 801, 890, "+", attributes)])
        [gene] = record.features
        assert (len(gene.segments), "trans_splicing" in gene.qualifiers) == (2, "part" not in attributes)
        assert not record.notes
    over_origin = [("gene", 901, 1000, "+", "ID=g"), ("gene", 1, 90, "+", "ID=g")]
    assert regions(read_record(tmp_path, over_origin, circular=True)) == [(900, 90, 1, "other")]


def test_transcript_id_that_all_genes_share(tmp_path):
    """As NCBI wrote GTF for bacteria."""
    rows = []
    for start in (1, 201):
        ids = f'gene_id "b{start}"; transcript_id "unknown_transcript_1";'
        rows += [
            ("gene", start, start + 89, "+", f'gene_id "b{start}"; transcript_id "";'),
            ("CDS", start, start + 86, "+", ids, "0"),
            ("stop_codon", start + 87, start + 89, "+", ids, "0"),
        ]
    record = read_record(tmp_path, rows)
    assert regions(record) == regions(record, "cds") == [(0, 90, 1, "cds"), (200, 290, 1, "cds")]


def test_cds_rows_with_an_id_belong_to_each_parent(tmp_path):
    rows = [
        ("gene", 1, 90, "+", "ID=g"),
        ("mRNA", 1, 90, "+", "ID=a;Parent=g"),
        ("mRNA", 1, 90, "+", "ID=b;Parent=g"),
        ("CDS", 1, 30, "+", "ID=c;Parent=a,b", "0"),
        ("CDS", 61, 90, "+", "ID=c;Parent=a", "0"),
        ("CDS", 71, 90, "+", "ID=c;Parent=b", "0"),
    ]
    expected = [[(0, 30, 1), (60, 90, 1)], [(0, 30, 1), (70, 90, 1)]]
    assert [segments(f) for f in read(tmp_path, rows, kinds={"CDS"})] == expected
    numbered = [(*row[:4], row[4].replace("ID=c", f"ID=c{row[1]}"), *row[5:]) for row in rows]  # an ID for each exon
    assert [segments(f) for f in read(tmp_path, numbered, kinds={"CDS"})] == expected
    shared = [*rows[:4], ("CDS", 61, 90, "+", "ID=c;Parent=a,b", "0")]
    assert [segments(f) for f in read(tmp_path, shared, kinds={"CDS"})] == expected[:1]  # once for both


def test_values_are_decoded(tmp_path):
    rows = [
        ("gene", 1, 90, "+", "ID=a%3Bb;gene=x%2Cy"),
        ("mRNA", 1, 90, "+", "ID=t;Parent=a%3bb"),
        ("CDS", 1, 30, "+", "ID=c%2C1;Parent=t;exception=trans%2Dsplicing", "0"),
        ("CDS", 61, 90, "-", "ID=c,1;Parent=t;exception=trans-splicing", "0"),
    ]
    gene, _, cds = read(tmp_path, rows)
    assert (gene.gene_id, cds.gene_id, gene.qualifiers["gene"]) == ("a;b", "a;b", ("x,y",))
    assert (segments(cds), "trans_splicing" in cds.qualifiers) == ([(0, 30, 1), (60, 90, -1)], True)


@pytest.mark.parametrize(
    ("starts", "strand", "circular", "attributes"),
    [
        ([101, 301, 501, 701], "+", False, "ID=c"),
        ([701, 501, 301, 101], "-", False, "ID=c"),
        ([901, 951, 1, 101], "+", True, "ID=c"),
        ([101, 1, 951, 901], "-", True, "ID=c"),
        ([701, 101, 301, 501], "+", False, "ID=c;exception=trans-splicing;part={}"),
        ([701, 101, 301, 501], "+", False, "ID=c;exception=trans-splicing;exon_number={}"),
    ],
)
def test_rows_of_a_joined_feature_in_any_order(starts, strand, circular, attributes, tmp_path):
    rows = [
        ("CDS", start, start + 49, strand, attributes.format(number), "0" if number == 1 else "1")
        for number, start in enumerate(starts, 1)
    ]
    for order in itertools.permutations(rows):
        [cds] = read(tmp_path, order, circular=circular)
        assert [segment.start + 1 for segment in cds.segments] == starts
        assert cds.qualifiers["codon_start"] == ("1",)


def test_segments_are_record_segments(tmp_path):
    assert read(tmp_path, GENE)[0].segments == (Segment(100, 400, -1),)
