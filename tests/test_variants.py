"""Variant scores: the protocols against their definitions, indels, phases, strands, and flags."""

import numpy as np
import pyfaidx
import pytest

from data_pipeline.formats import faidx
from data_pipeline.sequence import bases
from gener_jax.inference.variants.genome import Genome
from gener_jax.inference.variants.next_kmer import FLANK
from gener_jax.inference.variants.normalize import trimmed
from gener_jax.inference.variants.variant import Variant
from gener_jax.runtime.errors import InputError
from tests.raised import raises
from tests.test_generate import make_lm

K = 3
CONTEXT = 24
rng = np.random.default_rng(0)
CHROMOSOME = "".join(rng.choice(list("ACGT"), 200))


@pytest.fixture(scope="module")
def lm():
    return make_lm(K)


def variant(start, length=1, alt=None):
    ref = CHROMOSOME[start : start + length]
    return Variant("chr1", start, ref, "ACGT"["ACGT".index(ref[0]) - 1] if alt is None else alt)


def scored(lm, *variants, genome=None, **options):
    return list(lm.score_variants(variants, genome or {"chr1": CHROMOSOME}, context=CONTEXT, **options))


def ll(lm, text):
    return lm.log_likelihood([text])[0].value if text else 0.0


def continuations(lm, v, phase=0, chromosome=CHROMOSOME):
    """log p of each allele after the bases before it, by the chain rule over whole sequences."""
    cut = v.start - phase
    upstream = chromosome[max(cut - CONTEXT, 0) : cut].lstrip("N")
    upstream = upstream[len(upstream) % K :]
    given = upstream + chromosome[cut : v.start]
    flank = "" if len(v.ref) == len(v.alt) else chromosome[v.start + len(v.ref) :][:FLANK]
    return [ll(lm, given + allele + flank) - ll(lm, given) for allele in (v.ref, v.alt)]


@pytest.mark.parametrize("start", [0, 2, 30, 31, 32, 150, 199])
def test_next_kmer_is_the_definition(start, lm):
    v = variant(start)
    (found,) = scored(lm, v)
    ref, alt = continuations(lm, v)
    assert found.protocol == "next_kmer"
    assert found.flag == ""
    assert found.log_p_ref == pytest.approx(ref, abs=2e-5)
    assert found.log_p_alt == pytest.approx(alt, abs=2e-5)
    assert found.llr == pytest.approx(np.log(np.exp(ref) / (np.exp(alt) + 1e-10)), abs=5e-5)


@pytest.mark.parametrize(("length", "alt"), [(2, None), (4, None), (1, "GATTA"), (5, "A"), (2, "CCGA")])
def test_next_kmer_of_more_than_one_base(length, alt, lm):
    ref = CHROMOSOME[60 : 60 + length]
    alt = alt or bases.decode(bases.encode(ref) ^ 1)
    v = Variant("chr1", 60, ref, alt)
    start, ref, alt = trimmed(*v[1:])
    (found,) = scored(lm, v)
    expected = continuations(lm, Variant("chr1", start, ref, alt))
    assert found.protocol == "next_kmer_sequence"
    assert found.llr == pytest.approx(expected[0] - expected[1], abs=1e-4)


def windows(v, phase=0):
    first = max(v.start - CONTEXT // 2 + phase, 0)
    after = CHROMOSOME[v.start + len(v.ref) : first + CONTEXT]
    return [CHROMOSOME[first : v.start] + allele + after for allele in (v.ref, v.alt)]


@pytest.mark.parametrize("start", [0, 5, 60, 61, 62, 195])
def test_window_is_the_definition(start, lm):
    v = variant(start)
    (found,) = scored(lm, v, protocol="window")
    whole = [w[: len(w) // K * K] for w in windows(v)]
    ref, alt = (ll(lm, w) for w in whole)
    assert found.protocol == "window"
    assert found.llr == pytest.approx((ref - alt) / (len(whole[0]) // K), abs=2e-5)
    assert found.log_p_ref == pytest.approx(ref, abs=1e-4)
    if 12 < start < 180:
        assert len(whole[0]) == CONTEXT


@pytest.mark.parametrize("phases", [1, K])
@pytest.mark.parametrize("strand", ["+", "-", "both"])
def test_a_window_contains_the_variant_up_to_the_ends_of_a_contig(strand, phases, lm):
    """Whole k-mers may end before the last k - 1 bases (the first ones, on the minus strand): there one is partial."""
    back = bases.decode(bases.reverse_complement(bases.encode(CHROMOSOME)))

    def of(text, at, ref, alt, phase):
        first = max(at - CONTEXT // 2, 0) + phase
        pair = [text[first:at] + allele + text[at + len(ref) : first + CONTEXT] for allele in (ref, alt)]
        if len(pair[0]) // K * K >= at - first + len(ref):
            pair = [w[: len(w) // K * K] for w in pair]
        return (ll(lm, pair[0]) - ll(lm, pair[1])) / -(-len(pair[0]) // K)

    last = len(CHROMOSOME)
    sites = [(0, 1), (1, 1), (2, 1), (4, 1), (0, 4), (1, 2), *((last - n, 1) for n in (1, 2, 3, 6)), (last - 5, 4),
             (last - 2, 2)]  # fmt: skip
    for start, length in sites:
        ref = CHROMOSOME[start : start + length]
        flip = bases.decode(bases.encode(ref) ^ 1)
        alt, single = flip, {"+": [], "-": []}
        for phase in range(phases):
            if phase <= start:
                single["+"].append(of(CHROMOSOME, start, ref, alt, phase))
            if phase <= last - start - length:
                rc = [bases.decode(bases.reverse_complement(bases.encode(a))) for a in (ref, alt)]
                single["-"].append(of(back, last - start - length, *rc, phase))
        (found,) = scored(lm, Variant("chr1", start, ref, alt), protocol="window", strand=strand, phases=phases)
        expected = np.mean([np.mean(single[s]) for s in "+-" if strand in (s, "both")])
        assert found.flag == ""
        assert found.llr == pytest.approx(expected, abs=5e-5)
        assert found.log_p_ref != found.log_p_alt
    (by_base,) = scored(lm, variant(last - 1), protocol="window", marginals=True, phases=phases, strand="+")
    assert abs(by_base.llr) > 1e-5


def test_windows_of_an_indel_hold_the_same_other_bases(lm):
    for v in (Variant("chr1", 60, CHROMOSOME[60:65], CHROMOSOME[60]), Variant("chr1", 60, CHROMOSOME[60], "GATTAC")):
        (found,) = scored(lm, v, protocol="window")
        start, ref, alt = trimmed(*v[1:])
        with_ref, with_alt = windows(Variant("chr1", start, ref, alt))
        assert len(with_alt) - len(with_ref) == len(alt) - len(ref)
        assert with_ref in CHROMOSOME
        assert found.llr == pytest.approx((ll(lm, with_ref) - ll(lm, with_alt)) / (CONTEXT // K), abs=1e-4)


@pytest.mark.parametrize("phases", [1, K])
@pytest.mark.parametrize("strand", ["+", "-"])
@pytest.mark.parametrize(("length", "alt"), [(1, "GATTA"), (6, "C"), (2, "GATCA"), (1, None)])
def test_equal_windows_have_the_same_length(length, alt, strand, phases, lm):
    v = variant(90, length, alt)
    (found,) = scored(lm, v, protocol="equal_window", strand=strand, phases=phases)
    start, ref, alt = trimmed(*v[1:])
    text, pair = CHROMOSOME, (ref, alt)
    if strand == "-":
        text, *pair = (bases.decode(bases.reverse_complement(bases.encode(x))) for x in (text, *pair))
        start = len(text) - start - len(ref)
    while "" in pair and text[start - 1] == "".join(pair)[-1]:  # to the left, as far as the sequences stay the same
        start, pair = start - 1, [text[start - 1] + allele[:-1] if allele else "" for allele in pair]
    expected = []
    for phase in range(phases):
        first = start - CONTEXT // 2 + phase
        both = [(text[first:start] + allele + text[start + len(pair[0]) :])[:CONTEXT] for allele in pair]
        expected.append((ll(lm, both[0]) - ll(lm, both[1])) / (CONTEXT // K))
    assert found.llr == pytest.approx(np.mean(expected), abs=1e-4)
    if v.alt and length == len(v.alt):
        assert found == scored(lm, v, protocol="window", strand=strand, phases=phases)[0]
    else:
        assert found.protocol == "equal_window"


def test_length_alone_decides_the_score_of_a_window_but_not_of_equal_windows(lm):
    longer = [
        Variant("chr1", i, CHROMOSOME[i], CHROMOSOME[i] + "".join(rng.choice(list("ACGT"), 6))) for i in range(50, 80)
    ]
    shorter = [Variant("chr1", i, CHROMOSOME[i : i + 7], CHROMOSOME[i]) for i in range(50, 80)]
    for protocol, overlap in (("window", False), ("equal_window", True)):
        added, removed = (np.array([x.llr for x in scored(lm, *v, protocol=protocol)]) for v in (longer, shorter))
        assert (added.min() < removed.max()) == overlap
        assert (abs(added.mean() - removed.mean()) < 2 * added.std()) == overlap


def test_equal_windows_at_the_end_of_a_contig(lm):
    end = len(CHROMOSOME)
    (near,) = scored(lm, variant(end - 10, 4, CHROMOSOME[end - 10]), protocol="equal_window")
    first = end - 9 - CONTEXT // 2
    size = (CONTEXT // 2 + 6) // K * K  # of the window with the deletion: it has no more bases
    both = [(CHROMOSOME[first : end - 9] + x)[:size] for x in (CHROMOSOME[end - 9 :], CHROMOSOME[end - 6 :])]
    assert near.flag == ""
    assert near.llr == pytest.approx((ll(lm, both[0]) - ll(lm, both[1])) / (size // K), abs=1e-4)
    (last, fine) = scored(lm, variant(end - 5, 4, CHROMOSOME[end - 5]), variant(end - 5), protocol="equal_window")
    assert last.flag.startswith(f"fewer than {K} bases after the variant")
    assert np.isnan(last.llr)
    assert fine.flag == ""


def test_phases_and_their_spread(lm):
    v = variant(60)
    for protocol in ("next_kmer", "window"):
        (found,) = scored(lm, v, protocol=protocol, phases=K)
        if protocol == "window":
            single = []
            for phase in range(K):
                ref, alt = (ll(lm, w) for w in windows(v, phase))
                single.append((ref - alt) / (CONTEXT // K))
        else:
            pairs = [continuations(lm, v, phase) for phase in range(K)]
            single = [np.log(np.exp(r) / (np.exp(a) + 1e-10)) for r, a in pairs]
        assert found.llr == pytest.approx(np.mean(single), abs=5e-5)
        assert found.spread == pytest.approx(np.std(single), abs=5e-5)
        assert found.spread > 1e-4
        assert scored(lm, v, protocol=protocol)[0].llr == pytest.approx(single[0], abs=5e-5)
        assert scored(lm, v, protocol=protocol)[0].spread is None
    v = Variant("chr1", 60, CHROMOSOME[60:62], bases.decode(bases.encode(CHROMOSOME[60:62]) ^ 1))
    pairs = [continuations(lm, v, phase) for phase in range(K)]
    (found,) = scored(lm, v, phases=K)
    assert found.llr == pytest.approx(np.mean([r - a for r, a in pairs]), abs=1e-4)


def test_strands(lm):
    v = variant(60)
    back = bases.decode(bases.reverse_complement(bases.encode(CHROMOSOME)))
    opposite = Variant("chr1", len(CHROMOSOME) - 61, *(bases.decode(bases.encode(a) ^ 1) for a in v[2:]))
    for protocol in ("next_kmer", "window"):
        plus, minus, both = (scored(lm, v, protocol=protocol, strand=s)[0].llr for s in ("+", "-", "both"))
        if protocol == "next_kmer":
            assert minus == pytest.approx(scored(lm, opposite, genome={"chr1": back})[0].llr, abs=1e-5)
        else:  # the end of the window is cut on the scored strand
            first = opposite.start - CONTEXT // 2
            ref = back[first : first + CONTEXT]
            alt = ref[: CONTEXT // 2] + opposite.alt + ref[CONTEXT // 2 + 1 :]
            assert minus == pytest.approx((ll(lm, ref) - ll(lm, alt)) / (CONTEXT // K), abs=2e-5)
        assert both == pytest.approx((plus + minus) / 2, abs=1e-6)
        assert abs(plus - minus) > 1e-5


def test_marginals(lm):
    v = variant(60)
    (found,) = scored(lm, v, protocol="window", marginals=True)
    ref, alt = (lm.log_likelihood([w], score="base")[0].value for w in windows(v))
    assert found.protocol == "window_base"
    assert found.llr == pytest.approx(ref - alt, abs=1e-5)


def test_order_batches_and_nearby_variants_change_nothing(lm):
    variants = [variant(i) for i in range(20, 120, 3)] + [Variant("chr1", 60, CHROMOSOME[60], "TT")]
    variants += [Variant("chr1", 50, CHROMOSOME[50], a) for a in "ACGT" if a != CHROMOSOME[50]]
    for protocol in ("next_kmer", "window"):
        expected = [s.llr for s in scored(lm, *variants, protocol=protocol)]
        alone = [scored(lm, v, protocol=protocol)[0].llr for v in variants[-4:]]
        np.testing.assert_allclose(expected[-4:], alone, atol=2e-5)
        few = [s.llr for s in scored(lm, *variants[::-1], protocol=protocol, batch_tokens=16)]
        np.testing.assert_allclose(few[::-1], expected, atol=2e-5)


def test_a_positive_ratio_favors_the_reference(lm):
    """For both protocols, and with the alleles exchanged the ratio changes its sign."""
    for protocol in ("next_kmer", "window"):
        v, swapped = variant(60), CHROMOSOME[:60] + variant(60).alt + CHROMOSOME[61:]
        (forward,) = scored(lm, v, protocol=protocol)
        (back,) = scored(lm, v._replace(ref=v.alt, alt=v.ref), protocol=protocol, genome={"chr1": swapped})
        assert (forward.llr > 0) == (forward.log_p_ref > forward.log_p_alt)
        assert back.llr == pytest.approx(-forward.llr, abs=1e-4)
        assert abs(forward.llr) > 1e-3


def test_old_names_of_the_protocols(lm):
    v = variant(60)
    assert scored(lm, v, protocol="right_edge") == scored(lm, v, protocol="next_kmer")
    assert scored(lm, v, protocol="centred") == scored(lm, v, protocol="window")
    assert scored(lm, v, protocol="right_edge") != scored(lm, v, protocol="centred")


def test_a_variant_that_cannot_be_scored_is_flagged(lm):
    other = "ACGT"["ACGT".index(CHROMOSOME[60]) - 1]
    bad = {
        Variant("chr2", 60, "A", "C"): "contig chr2 is not in the FASTA",
        Variant("chr1", 60, other, CHROMOSOME[60]): f"REF is {other}, but the FASTA has {CHROMOSOME[60]}",
        Variant("chr1", 500, "A", "C"): "position 501 is outside the bases of chr1 in the FASTA (up to 200)",
        Variant("chr1", 199, CHROMOSOME[199] + "A", "C"): "position 200 is outside",
        Variant("chr1", -1, "A", "C"): "position 0 is before the first base",
        Variant("chr1", 60.0, "A", "C"): "start must be a whole number",
        Variant("chr1", 60, None, "C"): "contig, REF and ALT must be text",
        Variant("chr1", 60, "-", "C"): "REF - has letters other than A, C, G and T",
        Variant("chr1", 60, "R", "C"): "REF R has letters other than A, C, G and T",
        Variant("chr1", 60, CHROMOSOME[60], "<DEL>"): "ALT <DEL> is not a sequence",
        Variant("chr1", 60, CHROMOSOME[60], "*"): "ALT * is not a sequence",
        Variant("chr1", 60, CHROMOSOME[60], CHROMOSOME[60]): "ALT equals REF",
        Variant("chr1", 60, CHROMOSOME[60], "ACGTACGTAC"): "an allele has 10 bases; this context allows at most 6",
    }
    good = variant(60)
    found = scored(lm, *(v for b in bad for v in (b, good)))
    value = scored(lm, good)[0].llr
    for i, message in enumerate(bad.values()):
        assert message in found[2 * i].flag
        assert np.isnan(found[2 * i].llr)
        assert found[2 * i + 1].llr == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize("protocol", ["next_kmer", "window"])
def test_phases_at_the_ends_of_a_contig(protocol, lm):
    """There are fewer phases; the mean is over those that exist, on both strands."""
    for start in (0, 1, 2, 5, 9, 197, 198, 199):
        for strand in ("+", "-", "both"):
            (found,) = scored(lm, variant(start), protocol=protocol, phases=K, strand=strand)
            assert found.flag == ""
            assert np.isfinite(found.llr)
            one_phase = (start == 0 and strand != "-") or (start == 199 and strand != "+")
            assert (found.spread is None) == one_phase
            assert found.spread is None or found.spread > 1e-4


@pytest.mark.parametrize("protocol", ["next_kmer", "window"])
def test_an_indel_has_the_same_score_wherever_it_is_written(protocol, lm):
    text = CHROMOSOME[:60] + "CAAAAAAG" + CHROMOSOME[60:]
    for strand in ("+", "-"):
        for length, written in ((1, lambda i: ("A" * 2, "A")), (2, lambda i: ("A" * 3, "A"))):
            values = {
                round(scored(lm, Variant("chr1", i, *written(i)), genome={"chr1": text}, protocol=protocol,
                             strand=strand)[0].llr, 4)
                for i in range(61, 67 - length)
            }  # fmt: skip
            assert len(values) == 1
        inserted = {
            round(scored(lm, Variant("chr1", i, text[i], text[i] + "AA"), genome={"chr1": text}, protocol=protocol,
                         strand=strand)[0].llr, 4)
            for i in range(60, 67)
        }  # fmt: skip
        assert len(inserted) == 1


@pytest.mark.parametrize("strand", ["+", "-"])
def test_an_indel_in_a_repeat_longer_than_the_context_keeps_its_context(strand, lm):
    """The context is what precedes the repeat, however far the record writes the change from there."""
    before, after = CHROMOSOME[:60] + "C", "C" + CHROMOSOME[60:120]
    text = before + "AG" * 600 + after  # more than is read at first
    written = [Variant("chr1", 60 + 2 * i, text[60 + 2 * i :][:3], text[60 + 2 * i]) for i in (0, 1, 70, 350, 599)]
    found = [s.llr for s in scored(lm, *written, genome={"chr1": text}, strand=strand)]
    np.testing.assert_allclose(found, found[0], atol=1e-5)
    if strand == "+":
        ref, alt = continuations(lm, Variant("chr1", 61, "AG", ""), chromosome=text)
        assert found[0] == pytest.approx(ref - alt, abs=1e-4)


def test_indels_at_the_end_of_a_contig(lm):
    found = scored(lm, Variant("chr1", 190, CHROMOSOME[190], "GATTA"), Variant("chr1", 9, CHROMOSOME[9:11], "C"))
    assert found[0].flag == f"fewer than {FLANK} bases after the variant"
    assert scored(lm, Variant("chr1", 9, CHROMOSOME[9:11], CHROMOSOME[9]), strand="-")[0].flag


def test_n_before_the_variant(lm):
    text = "N" * 50 + CHROMOSOME[50:59] + "N" + CHROMOSOME[60:]
    v = variant(70)
    (found,) = scored(lm, v, genome={"chr1": text})
    ref, alt = continuations(lm, v, chromosome=text)
    assert found.log_p_ref == pytest.approx(ref, abs=2e-5)
    assert found.log_p_alt == pytest.approx(alt, abs=2e-5)


def test_nothing_known_before_the_variant(lm):
    text = "N" * 40 + CHROMOSOME[40:]
    found = scored(lm, variant(40), variant(41), genome={"chr1": text})
    assert [s.flag for s in found] == ["no known base in the context before the variant", ""]
    assert scored(lm, variant(40), genome={"chr1": text}, protocol="window")[0].flag == ""


def test_errors(lm):
    for argument, value in [("protocol", "left"), ("phases", 2), ("phases", 1.0), ("strand", "x"), ("marginals", True)]:
        with raises(InputError, argument=argument, value=value):
            scored(lm, variant(60), **{argument: value})
    for context in (5, 8192, 24.0, "24", 2**40):  # less than two k-mers; more than the model's positions; no int
        with raises(InputError, argument="context", value=context):
            lm.score_variants([variant(60)], {"chr1": CHROMOSOME}, context=context)


@pytest.mark.parametrize("strand", ["+", "-", "both"])
def test_an_indexed_genome_gives_the_same_scores(strand, lm, tmp_path):
    """Among them an insertion in a repeat that is longer than what is read at first."""
    text = CHROMOSOME + "C" + "AG" * 1500 + "C" + CHROMOSOME
    path = tmp_path / "g.fa"
    path.write_text(f">chr0\n{CHROMOSOME}\n>chr1\n{text}\n")
    variants = [Variant("chr1", i, text[i], "T") for i in (0, 1, 150, 3302, len(text) - 1) if text[i] != "T"]
    variants += [Variant("chr1", 1501, text[1501], text[1501] + "GA"), Variant("chr2", 1, "A", "C")]
    variants += [Variant("chr1", len(text), "A", "C")]
    expected = scored(lm, *variants, genome={"chr0": CHROMOSOME, "chr1": text}, strand=strand)
    assert [bool(s.flag) for s in expected[-3:]] == [False, True, True]
    pyfaidx.Faidx(str(path)).close()
    genome = Genome.of(path)
    assert isinstance(genome.stretches["chr1"][0].codes, faidx.Contig)
    assert [s.flag for s in scored(lm, *variants, genome=genome, strand=strand)] == [s.flag for s in expected]
    found = [s.llr for s in scored(lm, *variants, genome=str(path), strand=strand)]
    np.testing.assert_array_equal(found, [s.llr for s in expected])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("chr17:43045705:T:A", Variant("chr17", 43045704, "T", "A")),
        ("17-43045705-T-A", Variant("17", 43045704, "T", "A")),
        ("HLA-A*01:43,045,705:T:A", Variant("HLA-A*01", 43045704, "T", "A")),
        ("NC_000017.11:g.43045705T>A", Variant("NC_000017.11", 43045704, "T", "A")),
        ("HLA:A*01:1:ac:A", Variant("HLA:A*01", 0, "AC", "A")),
    ],
)
def test_a_variant_by_name(text, expected):
    assert Variant.parse(text) == Variant.of(text) == Variant.of(tuple(expected)) == expected
    assert Variant.parse(str(expected)) == expected


@pytest.mark.parametrize(
    "text", ["rs123", "chr1:5:A", "chr1:x:A:C", "chr1:5:A:<DEL>", "NC_1.1:g.5del", "1:5:-:C", "1:0:A:C"]
)
def test_other_text_is_no_variant(text):
    with raises(InputError, argument="variant", value=text):
        Variant.parse(text)


def test_a_name_without_what_follows_a_redirect_says_so():
    with raises(InputError, argument="variant", value="NC_1.1:g.5A") as caught:
        Variant.parse("NC_1.1:g.5A")
    assert "quote it" in caught.value.problem


def test_variants_by_name_are_scored(lm):
    v = variant(60)
    assert scored(lm, str(v), f"1:g.61{v.ref}>{v.alt}") == scored(lm, v, tuple(v))
    with raises(InputError, argument="variants", value=str(v)):
        lm.score_variants(str(v), {"chr1": CHROMOSOME}, context=CONTEXT)
    with raises(InputError, argument="variant", value=("chr1", 60)):
        scored(lm, ("chr1", 60))
    assert scored(lm, ("x", 60, v.ref, v.alt), genome={"chr1": CHROMOSOME})[0].flag
    (named,) = lm.score_variants([v._replace(contig="x")], {"chr1": CHROMOSOME}, context=24, aliases=[["x", "chr1"]])
    assert named == scored(lm, v)[0]
