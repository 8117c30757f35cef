"""Log-likelihoods and base probabilities: exact by brute force, and independent of batch, order and padding."""

import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipeline.sequence import bases
from data_pipeline.sequence.tokenizer import BOS, NUM_SPECIAL, OOV
from gener_jax import config
from gener_jax.inference import batches, likelihood
from gener_jax.inference.batches import by_length, round_up
from gener_jax.inference.lm import LM
from gener_jax.model import decoder
from gener_jax.model.decoder import Decoder
from gener_jax.model.sharding import make_mesh
from gener_jax.runtime.errors import InputError
from gener_jax.storage.pretrained import abstract_params
from tests.conftest import random_params
from tests.raised import raises
from tests.test_generate import make_lm, next_logits

DNA = ["A", "ACG", "TTGACCGTA", "<cds>ATGGCC", "ACGTNACGTACC", "<mam><cds>GATTACA", "CATCATCAT" * 5, "NNACG", "ACGN"]


@pytest.fixture(scope="module")
def lm():
    return make_lm(2)


@pytest.fixture(scope="module")
def lm3():
    return make_lm(3)


def naive(lm, text, full=True):
    """Term by term in float64: the mass of all k-mers that agree with one more base, divided by the mass before it."""
    k = lm.tokenizer.k
    start = text.rfind(">") + 1
    ids, dna = [BOS, *lm.tokenizer.encode(text[:start])], text[start:]
    terms = []
    for at in range(0, len(dna), k):
        logits = next_logits(lm, [ids])[0].astype(np.float64)
        if not full:
            logits[:NUM_SPECIAL] = -np.inf
        p = np.exp(logits - logits.max())
        p /= p.sum()
        before, agree = 1.0, np.arange(len(p)) >= NUM_SPECIAL
        for j, letter in enumerate(dna[at : at + k]):
            if letter == "N":
                terms.append(np.nan)
                continue
            agree &= np.array([token[j : j + 1] == letter for token in lm.tokenizer.tokens])
            terms.append(np.log(p[agree].sum() / before))
            before = p[agree].sum()
        kmer = dna[at : at + k]
        ids.append(OOV if "N" in kmer or len(kmer) < k else int(lm.tokenizer.encode(kmer)[0]))
    return np.array(terms)


@pytest.mark.parametrize(("k", "full"), [(2, False), (3, True)])
def test_token_score_is_the_definition(k, full, lm, lm3):
    lm = lm if k == 2 else lm3
    texts = [*DNA[:6], "CATCATCATCAT", *DNA[7:]]
    found = lm.log_likelihood(texts, per_base=True, special_tokens=full)
    for text, score, plain in zip(texts, found, lm.log_likelihood(texts, special_tokens=full), strict=True):
        expected = naive(lm, text, full)
        assert score.score == "token"
        assert score.strand == "+"
        np.testing.assert_allclose(score.per_base, expected, atol=2e-5)
        assert score.value == pytest.approx(np.nansum(expected), abs=5e-5)
        assert plain.value == pytest.approx(score.value, abs=5e-5)
        dna = text[text.rfind(">") + 1 :]
        assert (score.bases, score.unknown) == (len(dna) - dna.count("N"), dna.count("N"))
        kmers = [dna[i : i + k] for i in range(0, len(dna), k)]
        assert score.oov == sum("N" in kmer for kmer in kmers)
        assert score.tokens == sum(set(kmer) != {"N"} for kmer in kmers)


@pytest.mark.parametrize("length", [1, 2, 5])  # half a token, one token, two and a half
def test_likelihoods_of_all_strings_add_up_to_1(length, lm):
    texts = ["".join(letters) for letters in itertools.product("ACGT", repeat=length)]
    values = np.array([s.value for s in lm.log_likelihood(texts, special_tokens=False)])
    assert np.exp(values).sum() == pytest.approx(1, abs=1e-5)
    assert np.exp(values).std() > 1e-3 / 4**length  # the distribution is not uniform
    assert np.exp([s.value for s in lm.log_likelihood(texts)]).sum() < 0.9  # by default, special tokens have some mass


def test_an_unknown_base_is_summed_over(lm3):
    for text in ("ANC", "NAC", "ACN", "NNC", "ACGTNC", "ACGN"):
        number = text.count("N")
        filled = [text]
        for _ in range(number):
            filled = [t.replace("N", b, 1) for t in filled for b in "ACGT"]
        full = text != "ACGN"  # a token without a known base scores 0, so the mass of special tokens is not subtracted
        (score,) = lm3.log_likelihood([text], special_tokens=full)
        assert np.logaddexp.reduce([s.value for s in lm3.log_likelihood(filled, special_tokens=full)]) == pytest.approx(
            score.value, abs=1e-5
        )


def naive_marginals(lm, text):
    """The marginals at phase 0, [bases, 4] in the order A, C, G, T, not normalized."""
    k, out, ids = lm.tokenizer.k, [], [BOS]
    for at in range(0, len(text), k):
        p = np.asarray(jax.nn.softmax(next_logits(lm, [ids])[0]), np.float64)
        for j in range(len(text[at : at + k])):
            out.append([sum(p[i] for i, t in enumerate(lm.tokenizer.tokens) if i >= NUM_SPECIAL and t[j] == b)
                        for b in "ACGT"])  # fmt: skip
        ids.append(int(lm.tokenizer.encode(text[at : at + k], remainder="oov")[0]))
    return np.array(out)


def test_base_score_and_probabilities(lm3):
    text = "TTGACCGTAC"
    marginals = naive_marginals(lm3, text)
    picked = [row["ACGT".index(b)] for row, b in zip(marginals, text, strict=True)]
    (score,) = lm3.log_likelihood([text], score="base", per_base=True)
    np.testing.assert_allclose(score.per_base, np.log(picked), atol=1e-5)
    assert score.value == pytest.approx(np.log(picked).mean(), abs=1e-5)
    assert lm3.log_likelihood([text], score="base")[0].value == pytest.approx(score.value, abs=1e-6)
    (shares,) = lm3.base_probabilities([text])
    np.testing.assert_allclose(shares, marginals / marginals.sum(1, keepdims=True), atol=1e-6)
    (conditional,) = lm3.base_probabilities([text], given="bases")
    chain = naive(lm3, text, full=False)
    own = np.array([row["ACGT".index(b)] for row, b in zip(conditional, text, strict=True)])
    np.testing.assert_allclose(np.log(own), chain, atol=1e-5)
    np.testing.assert_allclose(conditional.sum(1), 1, atol=1e-6)
    np.testing.assert_allclose(conditional[::3], shares[::3], atol=1e-6)  # equal for the first base of a token


def test_probabilities_over_all_phases(lm3):
    text = "TTGACCGTACGA"
    (found,) = lm3.base_probabilities([text], phases=3)
    singles = [lm3.base_probabilities([text[p:]])[0] for p in range(3)]
    expected = [np.mean([s[i - p] for p, s in enumerate(singles) if i >= p], axis=0) for i in range(len(text))]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    with raises(InputError, argument="phases", value=2):
        lm3.base_probabilities([text], phases=2)


@pytest.mark.parametrize("score", ["token", "base"])
def test_strands(score, lm3):
    text = "<cds>TTGACCGTNACA"
    back = "<cds>" + bases.decode(bases.reverse_complement(bases.encode("TTGACCGTNACA")))
    plus, minus, both = (
        lm3.log_likelihood([text], score=score, strand=s, per_base=True)[0] for s in ("+", "-", "both")
    )
    (other,) = lm3.log_likelihood([back], score=score, per_base=True)
    assert minus.value == pytest.approx(other.value, abs=1e-6)
    np.testing.assert_allclose(minus.per_base, other.per_base[::-1], atol=1e-6)
    assert both.value == pytest.approx((plus.value + minus.value) / 2, abs=1e-6)
    np.testing.assert_allclose(both.per_base, (plus.per_base + minus.per_base) / 2, atol=1e-6)
    assert (plus.strand, minus.strand, both.strand) == ("+", "-", "both")
    assert abs(plus.value - minus.value) > 1e-4


def test_batch_order_and_padding_change_nothing(lm):
    alone = [lm.log_likelihood([text])[0].value for text in DNA]
    for tokens in (8, 64, 4096):
        values = [s.value for s in lm.log_likelihood(DNA, batch_tokens=tokens)]
        np.testing.assert_allclose(values, alone, atol=1e-5)
    order = np.random.default_rng(0).permutation(len(DNA))
    values = [s.value for s in lm.log_likelihood([DNA[i] for i in order])]
    np.testing.assert_allclose(values, np.array(alone)[order], atol=1e-5)


def test_applying_the_head_to_few_positions_at_a_time_changes_nothing(lm, monkeypatch):
    expected = lm.log_likelihood(DNA, per_base=True)
    likelihood.score_rows.clear_cache()
    monkeypatch.setattr(likelihood, "_POSITIONS", 12)
    for found, score in zip(lm.log_likelihood(DNA, per_base=True), expected, strict=True):
        np.testing.assert_allclose(found.per_base, score.per_base, atol=1e-5)
    likelihood.score_rows.clear_cache()


def test_scores_on_a_mesh_are_those_of_one_device(lm):
    """Rows over fsdp, length over context, in the balanced order, also where a base is unknown."""
    mesh = make_mesh(1, 2, 2, context=2)
    placed = jax.tree.map(
        lambda x, target: jax.device_put(np.asarray(x), target.sharding),
        decoder.stack(lm.params), abstract_params(lm.spec.model, mesh),
    )  # fmt: skip
    on_mesh = LM(lm.spec, placed, mesh)
    for one, other in zip(
        lm.log_likelihood(DNA, per_base=True), on_mesh.log_likelihood(DNA, per_base=True), strict=True
    ):
        np.testing.assert_allclose(one.per_base, other.per_base, atol=1e-5)


@pytest.mark.parametrize("head_dim", [64, 96, 128])
@pytest.mark.parametrize("by_layer", [False, True])
def test_scoring_uses_the_platforms_kernel(gpu, head_dim, by_layer):
    """One call in the scan over stacked layers; the bases of targets need no mask."""
    model = Decoder(
        config.Model(
            vocab_size=96,
            hidden_size=64,
            intermediate_size=64,
            num_hidden_layers=3,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=head_dim,
            dtype="bfloat16",
        )
    )
    params = random_params(model.config)
    ids, codes = (jax.ShapeDtypeStruct(shape, jnp.int32) for shape in ((4, 512), (4, 512, 3)))
    rows = jax.jit(likelihood.score_rows.__wrapped__, static_argnums=0, static_argnames=("score", "per_base", "full"))
    traced = rows.trace(
        model,
        decoder.unstack(params) if by_layer else params,
        ids,
        codes,
        jax.ShapeDtypeStruct((4, 0), jnp.int32),
        score="token",
        per_base=True,
        full=True,
    )
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert len(re.findall(r"custom_call @__cudnn\$fmhaSoftmax\(", text)) == (3 if by_layer else 1)


@pytest.mark.slow
def test_few_programs_for_many_lengths(lm):
    rng = np.random.default_rng(0)
    texts = ["".join(rng.choice(list("ACGTN"), n, p=[0.24] * 4 + [0.04])) for n in rng.integers(1, 100, 200)]
    likelihood.score_rows.clear_cache()
    lm.log_likelihood(texts, batch_tokens=256)
    assert likelihood.score_rows._cache_size() <= 16
    lm.log_likelihood(texts[::-1], batch_tokens=256)
    assert likelihood.score_rows._cache_size() <= 16


def test_batches_by_length():
    lengths = np.random.default_rng(0).integers(1, 500, 300).tolist()
    seen, shapes = [], set()
    for chosen, rows, length in by_length(lengths, 2048):
        assert 0 < len(chosen) <= rows
        assert max(lengths[i] for i in chosen) <= length
        assert rows * length <= 2048 or rows == 1
        seen += chosen
        shapes.add((rows, length))
    assert sorted(seen) == list(range(300))
    assert len(shapes) <= 30
    assert round_up(300, least=1) == 512


def test_batches_of_about_the_usual_length():
    """The usual length gets little padding; shorter contexts, near the end of a contig, get one of few shapes."""
    lengths = [1366] * 200 + np.random.default_rng(0).integers(2, 1366, 200).tolist()
    found = list(by_length(lengths, 16384, usual=1366))
    assert found[0][1:] == (8, 1376)
    assert [len(chosen) for chosen, _, _ in found[:25]] == [8] * 25
    assert sorted(i for chosen, _, _ in found for i in chosen) == list(range(400))
    assert len({length for n in range(1, 1367) for _, _, length in by_length([n], 16384, usual=1366)}) <= 31
    assert [(rows, length) for _, rows, length in by_length([1380], 16384, usual=1366)] == [(1, 1536)]


def test_an_accelerator_gets_larger_batches_and_fewer_shapes(monkeypatch):
    assert batches.tokens_per_batch() == 16384
    last = {rows for n in range(1, 33) for _, rows, _ in by_length([2048] * n, 65536)}
    assert last == {1, 2, 4, 8, 16, 32}
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert batches.tokens_per_batch() == 65536
    assert batches.tokens_per_batch(100) == 100
    last = {rows for n in range(1, 33) for _, rows, _ in by_length([2048] * n, 65536)}
    assert last == {1, 2, 8, 32}


@pytest.mark.parametrize(("platform", "ahead"), [("cpu", 0), ("gpu", 4)])
def test_batches_are_dispatched_to_an_accelerator_before_the_first_is_read(platform, ahead, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    events = []

    class Values:
        def __init__(self, number):
            self.number = number
            events.append(("made", number))

        def copy_to_host_async(self):
            pass

        def __array__(self, dtype=None, copy=None):
            events.append(("read", self.number))
            return np.array([10 * self.number, 10 * self.number + 1, -1])

    mesh = make_mesh(1, 1, 1, jax.devices()[:1])
    found = dict(batches.by_row(lambda chosen, number, length: Values(chosen[0] // 2), mesh, [8] * 40, 16))
    assert {i: int(value) for i, value in found.items()} == {2 * i + j: 10 * i + j for i in range(20) for j in (0, 1)}
    pending = np.cumsum([1 if event == "made" else -1 for event, _ in events])
    assert pending.max() == ahead + 1
    assert events.index(("read", 0)) == ahead + 1


def test_errors(lm):
    for texts, options, argument, value in [
        ("ACGT", {}, "sequences", "ACGT"),
        ([""], {}, "sequences[0]", ""),
        (["AC", "<cds>"], {}, "sequences[1]", "<cds>"),
        (["ACXT"], {}, "sequences[0]", "ACXT"),
        (["GT", "AC<cds>GT"], {}, "sequences[1]", "AC<cds>GT"),
        (["A" * 130], {}, "sequences[0]", "A" * 130),  # 65 tokens, the model was made for 64
        (["AC"], {"score": "bp"}, "score", "bp"),
        (["AC"], {"strand": "?"}, "strand", "?"),
        *((["AC"], {"batch_tokens": value}, "batch_tokens", value) for value in (0, 6.5, "64", 2**31)),
    ]:
        with raises(InputError, argument=argument, value=value):
            lm.log_likelihood(texts, **options)
    with raises(InputError, argument="given", value="x"):
        lm.base_probabilities(["AC"], given="x")
    with raises(InputError, argument="sequences[1]", value="ACX") as caught:
        lm.base_probabilities(["AC", "ACX"])
    assert caught.value.__cause__.position == 2
