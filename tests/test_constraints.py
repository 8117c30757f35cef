"""Generated sequences satisfy the constraints; the automata agree with a search of the whole text."""

import re
import warnings

import numpy as np
import pytest

from data_pipeline.sequence import translation
from gener_jax.inference.constraints import GC, Constraints, Motifs, ReadingFrame
from gener_jax.inference.generate import Continuation
from gener_jax.inference.prompt import Prompt
from gener_jax.runtime.errors import InputError
from tests.raised import raises
from tests.test_generate import PROMPTS, make_lm

STOPS = ("TAA", "TAG", "TGA")


@pytest.fixture(scope="module")
def lm():
    return make_lm(3)


def first_stop(text, frame=0):
    return next((i for i in range(frame, len(text) - 2, 3) if text[i : i + 3] in STOPS), None)


def longest_run(text):
    return max((len(m[0]) for m in re.finditer(r"(.)\1*", text)), default=0)


def gc_of(text):
    return np.isin(list(text), ["G", "C"]).mean()


# All tests generate this many bases for up to 16 rows: one program with constraints and one without.
BASES = 60


def drawn(lm, prompts, constraints, **options):
    return lm.generate(prompts, BASES, constraints=constraints, seed=2, details=True, **options)


@pytest.mark.parametrize("mode", ["token", pytest.param("base", marks=pytest.mark.slow)])
def test_all_together(mode, lm):
    prompts = ["", "A", "GGG", "GAATT", "<cds>ATGGC"] * 3
    c = Constraints(max_homopolymer=3, forbidden_motifs=("GAATTC", "RGCY", "TTTN"), gc=(0.45, 0.55), min_orf_length=24)
    free = lm.generate(prompts, BASES, seed=2, mode=mode)
    kept = drawn(lm, prompts, c, mode=mode)
    motifs = re.compile("GAATTC|[AG]GC[CT]|TTT[ACGT]|[ACGT]AAA")  # the last is the reverse complement of TTTN

    def faults(prompt, text):
        dna = prompt[prompt.rfind(">") + 1 :]
        whole = dna + text
        stop = first_stop(whole)
        return [
            longest_run(whole[max(len(dna) - 2, 0) :]) > 3,
            any(m.end() > len(dna) for m in motifs.finditer(whole)),
            not 0.45 <= gc_of(text) <= 0.55,
            stop is not None and stop < 24,
        ]

    found = np.array([faults(p, t.text) for p, t in zip(prompts, kept, strict=True)])
    assert not found.any()
    assert {len(t.text) for t in kept} == {BASES}
    assert (
        np.array([faults(p, t) for p, t in zip(prompts, free, strict=True)]).any(0).all()
    )  # without constraints each fault occurs


def test_a_row_ends_after_the_first_stop_codon_in_frame(lm):
    prompts = (["", "A", "AT", "ATG", "<cds>ATGC", "GATGCAT"] * 3)[:16]
    found = drawn(lm, prompts, Constraints(stop_codon=True))
    plain = lm.generate(prompts, BASES, seed=2)
    ends = set()
    for prompt, c, unconstrained in zip(prompts, found, plain, strict=True):
        whole = prompt[prompt.rfind(">") + 1 :] + c.text
        stop = first_stop(whole)
        ends.add(c.end)
        assert unconstrained.startswith(c.text)
        if c.end == "stop_codon":
            assert stop == len(whole) - 3
        else:
            assert len(c.text) == BASES
            assert stop is None
    assert ends == {"length", "stop_codon"}
    for c in drawn(lm, ["ATG"] * 16, Constraints(stop_codon=True, min_orf_length=30)):
        stop = first_stop("ATG" + c.text)
        assert stop is None or stop >= 30


def test_another_genetic_code(lm):
    for c in drawn(lm, ["ATG"] * 16, Constraints(stop_codon=True, genetic_code=4)):  # TGA is tryptophan
        text = "ATG" + c.text
        codons = [text[i : i + 3] for i in range(0, len(text), 3)]
        assert (codons[-1] in ("TAA", "TAG")) == (c.end == "stop_codon")
        assert not {"TAA", "TAG"} & set(codons[:-1])


def test_the_gc_content_holds_wherever_a_row_ends(lm):
    low, high = 0.45, 0.55
    for options in ({"stop_codon": True}, {"require_stop_codon": True, "max_homopolymer": 4}):
        free, kept = (drawn(lm, ["ATG"] * 16, Constraints(gc=gc, **options)) for gc in (None, (low, high)))
        assert not all(low <= gc_of(c.text) <= high for c in free if c.end == "stop_codon")
        assert all(low <= gc_of(c.text) <= high for c in kept)
        assert "stop_codon" in {c.end for c in kept}


@pytest.mark.parametrize("k", [1, 3])
def test_a_required_stop_codon_is_the_only_one_and_in_time(k):
    """Also where the last codon is the only one that is late enough; with one base fewer it is refused."""
    lm, c = make_lm(k), Constraints(require_stop_codon=True, min_orf_length=38)
    for prompt in ("", "A", "ATGT", "GATGCAT"):
        for wanted in (42 - len(prompt), 47):  # with one program
            for found in lm.generate([prompt], wanted, num_samples=16, constraints=c, seed=2, details=True):
                whole = prompt + found.text
                assert (found.end, len(whole) % 3) == ("stop_codon", 0)
                assert first_stop(whole) == len(whole) - 3 >= 39
                assert len(found.text) <= wanted
        with raises(InputError, argument="num_bases", value=41 - len(prompt)):
            lm.generate([prompt], 41 - len(prompt), constraints=c)
    (found,) = lm.generate(["ATGTA"], 1, constraints=Constraints(require_stop_codon=True))
    assert found in "AG"


def test_stop_tokens_end_no_row_that_breaks_a_constraint(lm):
    prompts, stop = ["ATG"] * 16, ["</s>"]
    free = lm.generate(prompts, BASES, seed=2, stop=stop, details=True)
    assert not all(0.45 <= gc_of(c.text) <= 0.55 for c in free if c.text and c.end == "</s>")
    assert all(0.45 <= gc_of(c.text) <= 0.55 for c in drawn(lm, prompts, Constraints(gc=(0.45, 0.55)), stop=stop))
    assert {c.end for c in drawn(lm, prompts, Constraints(require_stop_codon=True), stop=stop)} == {"stop_codon"}


def test_motifs_and_stop_codons_of_the_prompt_do_not_count(lm):
    """Whether its last bases are a whole token or left over; they are a warning."""
    with pytest.warns(UserWarning, match=r"prompts\[0\], TAA, has the stop codon TAA .*at base 1; .*15 more"):
        found = drawn(lm, ["TAA", "ATGTAA", "ATGTAAT", "ATGTAACC"] * 4, Constraints(stop_codon=True, min_orf_length=99))
    for c in found:
        assert (c.end, len(c.text)) == ("length", BASES)
    with pytest.warns(UserWarning, match="more than 4 bases"):
        found = drawn(lm, ["AAAAAA", "AAAAAAA", "CAAAAAAA"] * 5, Constraints(max_homopolymer=4))
    for c in found:
        assert c.text[0] != "A"
    with pytest.warns(UserWarning, match=r"prompts\[1\], <cds>CGGAATTCC, has the motif GAATTC; .*after it$"):
        lm.generate(["ATGTGA", "<cds>CGGAATTCC"], 3, constraints=Constraints(4, ["GAATTC", "CCC"], min_orf_length=3))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lm.generate(["ATGTGA", "GAATT"], 3, constraints=Constraints(4, ["GAATTC"], min_orf_length=3))
    for options in ({"constraints": Constraints(max_homopolymer=3)}, {"log_probs": True}):
        with raises(InputError, argument="prompts[1]", value="ACGNA"):
            lm.generate(["A", "ACGNA"], 6, **options)


def test_no_constraint_changes_nothing(lm):
    expected = lm.generate(PROMPTS * 2, BASES, seed=3)
    loose = Constraints(max_homopolymer=100, gc=(0, 1), forbidden_motifs=("ACGTTGCAACGTTGCATTTT",))
    assert lm.generate(PROMPTS * 2, BASES, seed=3, constraints=loose) == expected
    assert list(Constraints(genetic_code=11)) == []
    assert list(Constraints(gc=(0.1, 0.2), stop_codon=True)) == [GC((0.1, 0.2)), ReadingFrame(0, True)]


def test_constraints_that_nothing_satisfies_are_refused(lm):
    with raises(InputError, argument="constraints", value=Constraints(forbidden_motifs=("NNNN",))) as caught:
        drawn(lm, ["ACG"] * 16, Constraints(forbidden_motifs=("NNNN",)))
    assert "prompts[0], sample 1" in str(caught.value)
    with raises(InputError, argument="gc", value=(0.45, 0.55)):
        lm.generate(["ACG"], 1, constraints=Constraints(gc=(0.45, 0.55)))


@pytest.mark.parametrize("k", [1, 2, 3])
def test_tables_follow_the_text(k):
    """At every token the automata agree with a search of the whole text."""
    tokenizer = make_lm(k).tokenizer
    rng = np.random.default_rng(k)
    motifs = re.compile("(?=(GAATTC|GA[ACGT]TC|A{5}|C{5}|G{5}|T{5}))")
    prompts = ["".join(rng.choice(list("ACGT"), n, p=[0.5, 0.1, 0.3, 0.1])) for n in [*range(12), *range(30, 42)]]
    encoded = [Prompt.parse(p).encode(tokenizer) for p in prompts]
    (motif_next, bad), motifs_at = Motifs(4, ("GAATTC", "GANTC")).prepare(tokenizer, 100, encoded)
    (frame_next, stop, *_), (frames_at, prompt_bases) = ReadingFrame(9).prepare(tokenizer, 100, encoded)
    assert prompt_bases.tolist() == [len(p) for p in prompts]
    for prompt, (_, whole, _), motif, frame in zip(prompts, encoded, motifs_at, frames_at, strict=True):
        n = len(whole)
        text = prompt + "".join(rng.choice(list("ACGT"), 13 * k - len(prompt) % k, p=[0.5, 0.1, 0.3, 0.1]))
        done = len(prompt)  # motifs and stop codons within the prompt do not count
        for i in range(n, len(text), k):
            token = tokenizer.encode(text[i : i + k])[0]
            after = text[: i + k]
            ends = [m.start() + len(m[1]) for m in motifs.finditer(after)]
            assert bool(bad[motif, token]) == any(e > done for e in ends)
            stops = [s + 3 for s in range(0, len(after) - 2, 3) if after[s : s + 3] in STOPS and s + 3 > done]
            assert stop[frame, token] == (stops[0] - i if stops else 0)
            motif, frame = motif_next[motif, token], frame_next[frame, token]
            done = len(after)
    assert translation.stop_codons(1).sum() >= 3


def test_errors():
    for argument, value in [
        ("max_homopolymer", 0), ("forbidden_motifs", "GAATTC"), ("forbidden_motifs", ("GAXTC",)), ("gc", (0.6, 0.4)),
        ("min_orf_length", -1),
        ("genetic_code", 99),
    ]:  # fmt: skip
        with raises(InputError, argument=argument, value=value):
            Constraints(**{argument: value})
    assert Continuation("A", "length").log_probs is None
