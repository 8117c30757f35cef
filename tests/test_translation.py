"""Tests the comparison of coding sequences with their annotated proteins."""

import itertools
import random

import numpy as np
import pytest
from Bio.Data import CodonTable
from Bio.Seq import Seq

from data_pipeline.formats import genbank
from data_pipeline.regions import extraction, schemes
from data_pipeline.regions.ledger import Ledger
from data_pipeline.sequence import bases, translation
from tests.data import FIXTURES, data_path

CODES = sorted(CodonTable.unambiguous_dna_by_id)


def translate(codes, genetic_code=1):
    return translation._table(genetic_code)[0][translation._numbers(codes)].tobytes().decode()


@pytest.mark.filterwarnings("ignore::Bio.BiopythonWarning")  # codons that are stops in some positions only
@pytest.mark.parametrize("genetic_code", CODES)
def test_every_codon_of_every_code_equals_biopython(genetic_code):
    codons = ["".join(letters) for letters in itertools.product("ACGTN", repeat=3)]
    for codon in codons:
        readings = itertools.product(*("ACGT" if letter == "N" else letter for letter in codon))
        proteins = {str(Seq("".join(reading)).translate(table=genetic_code)) for reading in readings}
        expected = proteins.pop() if len(proteins) == 1 else "X"
        assert translate(bases.encode(codon), genetic_code) == expected, codon
    together = translate(bases.encode("".join(codons) + "AC"), genetic_code)
    assert together == "".join(translate(bases.encode(codon), genetic_code) for codon in codons)


def test_no_codons_and_unknown_codes():
    assert translate(bases.encode("AC")) == translate(np.zeros(0, np.uint8)) == ""
    assert translation.known_code(1)
    assert not translation.known_code(7)
    with pytest.raises(KeyError):
        translate(bases.encode("ACG"), 7)


def check(sequence, annotated=None, *, reading_frame=0, genetic_code=1, segments=None, **qualifiers):
    """The outcome for a CDS at the start of its record, unless `segments` are given."""
    values = {key: (value,) for key, value in qualifiers.items()}
    if annotated is not None:
        values["translation"] = (annotated,)
    segments = segments or [(0, len(sequence), 1)]
    return translation.check(bases.encode(sequence), segments, values, reading_frame, genetic_code)


@pytest.mark.parametrize(
    ("arguments", "outcome"),
    [
        (("ATGGCCTAA", "MA"), "equal"),
        (("ATGGCCTAA", "M A"), "equal"),  # wrapped across lines
        (("ATGGCCTAA", "MG"), "different"),
        (("ATGGCCTAA", "MAA"), "different"),
        (("ATGGCCTAA", ""), "different"),
        (("GTGGCCTAA", "MA"), "equal but for the first codon"),  # GTG is not a start codon in code 1
        (("TTGGCCTAA", "MA"), "equal"),
        (("TTGGCCTAA", "LA"), "equal"),  # the start codon may be outside the record
        (("ATGTTGGCC", "MMA"), "different"),
        (("ATGGCC", "MA"), "equal"),  # the stop codon may be outside the record
        (("ATGGCCGC", "MAA"), "equal"),  # GCN is alanine
        (("ATGGCCGC", "MA"), "equal"),
        (("ATGGCCTA", "MA"), "equal"),
        (("ATGGCCG", "MAA"), "different"),
        (("ATGGCCG", "MA"), "equal"),
        (("ATGGNCTAA", "MX"), "equal"),
        (("ATGGNCTAA", "MA"), "equal where the bases are known"),
        (("ATGGCNTAA", "MA"), "equal"),
        (("ATGGNCGCC", "MAG"), "different"),
        (("ATGTAAGCC",), "no /translation, and inner stop codons"),
        (("ATGGCCTAA",), "no /translation"),
        (("ATGGCC",), "no /translation"),
        (("",), "no /translation"),
        (("", ""), "equal"),
        (("", "M"), "different"),
    ],
)
def test_outcomes(arguments, outcome):
    assert check(*arguments) == outcome
    assert outcome in translation.OUTCOMES


def test_outcomes_by_frame_code_and_qualifier():
    assert check("GATGGCCTAA", "MA", reading_frame=1) == "equal"
    assert check("GATGGCCTAA", "MA", reading_frame=0) == "different"
    assert check("GTGGCCTAA", "MA", genetic_code=11) == "equal"
    assert check("ATGTGATAA", "MW", genetic_code=4) == "equal"
    assert check("ATGTGATAA", "M*", genetic_code=1) == "equal"
    assert check("ATGTGATGA", "MW", genetic_code=31) == "different"
    assert check("ATGTAATAA", "ME", genetic_code=31) == "equal"  # TAA is an amino acid inside and a stop at the end
    assert check("ATGGCC", "MA", genetic_code=0) == "unreadable frame or genetic code"
    assert check("ATGGCC", "MA", reading_frame=-1) == "unreadable frame or genetic code"
    assert check("ATGGCC", "MG", pseudo="") == check("ATGGCC", pseudogene="unknown") == "pseudo"
    for key in translation.EXCEPTIONS:
        assert check("ATGGCC", "MG", **{key: "some"}) == "different, with an exception annotated"
        assert check("ATGGCC", "MA", **{key: "some"}) == "equal"


@pytest.mark.parametrize(
    ("text", "segments", "reading_frame", "sequence", "annotated"),
    [
        ("(pos:4..6,aa:Sec)", [(0, 9, 1)], 0, "ATGTGATAA", "MU"),
        ("(pos:104..106, aa:Pyl)", [(100, 109, 1)], 0, "ATGTAGTAA", "MO"),
        ("(pos:complement(104..106),aa:Sec)", [(100, 109, -1)], 0, "ATGTGATAA", "MU"),
        ("(pos:5..7,aa:OTHER)", [(0, 10, 1)], 1, "CATGTGATAA", "MX"),
        ("(pos:join(5,11..12),aa:Sec)", [(0, 5, 1), (10, 14, 1)], 1, "CATGTGATA", "MU"),
        ("(pos:1..3,aa:Met)", [(0, 6, 1)], 0, "CCCGCC", "MA"),
        ("(pos:complement(join(5,11..12)),aa:Sec)", [(10, 15, -1), (0, 5, -1)], 0, "ATGTGAAAAA", "MUK"),
        ("(pos:7,aa:Sec)", [(0, 10, 1)], 1, "CATGTGATAA", "MU"),  # any base identifies its codon
        ("(pos:complement(4),aa:Sec)", [(0, 9, -1)], 0, "ATGTGATAA", "MU"),
        ("(pos:7..8,aa:TERM)", [(0, 8, 1)], 0, "ATGGCCTA", "MA"),
        ("(pos:7,aa:TERM)", [(0, 7, 1)], 0, "ATGGCCT", "MA"),
    ],
)
def test_translation_exceptions(text, segments, reading_frame, sequence, annotated):
    assert check(sequence, annotated, segments=segments, reading_frame=reading_frame, transl_except=text) == "equal"


@pytest.mark.parametrize("text", ["(pos:900..902,aa:Sec)", "(pos:1..3,aa:Sec)", "nonsense", ""])
def test_translation_exceptions_outside_the_segments(text):
    assert check("ATGTGATAA", "MU", transl_except=text) == "different, with an exception annotated"


def test_changed_random_proteins_are_detected():
    random.seed(1)
    for _ in range(200):
        sequence = "ATG" + "".join(random.choices("ACGT", k=3 * random.randint(1, 30)))
        protein = str(Seq(sequence).translate())
        assert check(sequence, protein) == "equal"
        at = random.randrange(1, len(protein))
        if protein[at] not in "*W":
            assert check(sequence, protein[:at] + "W" + protein[at + 1 :]) == "different"


def outcomes(path):
    ledger = Ledger()
    for record in genbank.read(path, {"CDS"}):
        extraction.find(record, schemes.Scheme("cds"), ledger)
    return {name.removeprefix("translation: "): row[0] for name, row in ledger.notes.items()}


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("athaliana_chloroplast_NC_000932.1.gb.gz", {"equal": 84, "equal but for the first codon": 1}),
        ("phiX174_NC_001422.1.gbk.gz", {"equal": 11}),
        ("ypestis_plasmid_pPCP1_NC_005816.1.gb.gz", {"equal": 10}),
        ("phage_NC_000902.gbk.gz", {"equal": 83}),
    ],
)
def test_fixtures(file, expected):
    assert outcomes(FIXTURES / file) == expected  # the chloroplast's ndhD: its ACG is edited to AUG


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        # The selenocysteine of three formate dehydrogenases and the frameshift of prfB are translated as annotated.
        ("prokaryote/ecoli_K12_MG1655_NC_000913.3.gbk.gz", {"equal": 4140, "pseudo": 179}),
        ("prokaryote/mmycoides_GM12_NZ_CP001668.gbff.gz", {"equal": 857, "pseudo": 4}),
        ("eukaryote/yeast_S288C_chrVII_NC_001139.9.gb.gz", {"equal": 541}),
        # Proteins derived from transcripts differ from the genome in one to three amino acids.
        (
            "eukaryote/human_NC_000023.11_DMD_region.gb.gz",
            {"equal": 14, "different, with an exception annotated": 12},
        ),
        # Codons such as GTG are starts in code 11, which a file of 1998 does not give; CT875 is two features, cut at
        # the origin, each with the whole protein.
        (
            "prokaryote/ctrachomatis_1998_CG0037.gbk.gz",
            {"equal": 820, "equal but for the first codon": 73, "different": 2},
        ),
        ("eukaryote/human_gbpri1_18records.seq.gz", {"equal": 120, "pseudo": 65}),
    ],
)
def test_genomes(file, expected):
    assert outcomes(data_path("genomes", *file.split("/"))) == expected


@pytest.mark.parametrize("genetic_code", [1, 4, 11])
def test_codons_that_can_start_a_protein(genetic_code):
    found = translation.start_codons(genetic_code)
    starts = {
        codon for codon in map("".join, itertools.product("ACGT", repeat=3))
        if found[bases.encode(codon) @ np.array([25, 5, 1])]
    }  # fmt: skip
    assert starts == set(CodonTable.unambiguous_dna_by_id[genetic_code].start_codons)
