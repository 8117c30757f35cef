import collections
import functools
import re

import jax
import numpy as np
import pytest
from scipy import special, stats

from data_pipeline.sequence.tokenizer import BOS, EOS, NUM_SPECIAL, PAD
from gener_jax import config
from gener_jax.inference.batches import round_up
from gener_jax.inference.generate import cache_size, programs
from gener_jax.inference.lm import LM
from gener_jax.inference.samplers import Bases, Greedy, Tokens, filter_logits, of_options
from gener_jax.model.sharding import make_mesh
from gener_jax.runtime.errors import InputError
from tests.conftest import random_params
from tests.raised import raises

PROMPTS = ["", "A", "AC", "ACG", "TTGAC", "<cds>ATGGC", "acguNA", "GGTTAACCG"]


def make_lm(k, loud=1.0):
    """A random model; `loud` scales the logits of special tokens."""
    model = config.Model(
        vocab_size=NUM_SPECIAL + 4**k, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=64, initializer_range=0.3,
    )  # fmt: skip
    params = random_params(model, seed=k)
    params["lm_head"] = params["lm_head"] * np.where(np.arange(model.vocab_size) < NUM_SPECIAL, np.float32(loud), 1)
    spec = config.ModelSpec(model=model, tokenizer=config.Tokenizer(k=k))
    return LM(spec, params, make_mesh(1, 1, 1, jax.devices()[:1]))


@pytest.fixture(scope="module")
def lm():
    return make_lm(2)


@pytest.fixture(scope="module")
def lm3():
    return make_lm(3)


@pytest.fixture(scope="module")
def loud():
    """A model whose most likely token is nearly always a special one."""
    return make_lm(2, loud=20.0)


filtered = jax.jit(filter_logits)


@functools.partial(jax.jit, static_argnums=0)
def full_pass(model, params, ids):
    hidden, _ = model.apply({"params": params}, ids)
    return model.apply({"params": params}, hidden, method="logits")


def next_logits(lm, rows):
    """Logits after each row of ids by the full pass, [rows, V]; the rows are right-padded to one shape."""
    padded = np.full((8, 16), PAD)
    for i, row in enumerate(rows):
        padded[i, : len(row)] = row
    logits = np.asarray(full_pass(lm.model, lm.params, padded))
    return np.stack([logits[i, len(row) - 1] for i, row in enumerate(rows)])


def naive_greedy(lm, prompt, num_bases, stop=()):
    """Greedy generation without a cache: the whole sequence is read again for every token."""
    dna = prompt[prompt.rfind(">") + 1 :].upper().replace("U", "T")
    left_over = dna[len(dna) - len(dna) % lm.tokenizer.k :]
    ids = list(lm.tokenizer.encode(prompt[: len(prompt) - len(left_over)], add_bos=True))
    text, first = "", True
    while len(text) - len(left_over) < num_bases:
        logits = next_logits(lm, [ids])[0]
        for i, token in enumerate(lm.tokenizer.tokens):
            fits = not first or all(a in ("N", b) for a, b in zip(left_over, token, strict=False))
            if i in stop:
                fits = not (first and left_over)
            elif i < NUM_SPECIAL:
                fits = False
            if not fits:
                logits[i] = -np.inf
        ids.append(int(logits.argmax()))
        if ids[-1] in stop:
            break
        text += lm.tokenizer.tokens[ids[-1]]
        first = False
    return text[len(left_over) : len(left_over) + num_bases]


@pytest.mark.parametrize("num_bases", [0, 1, 2, 3, 7, 12])
def test_any_prompt_is_continued_by_exactly_num_bases(num_bases, lm):
    for text in lm.generate(PROMPTS, num_bases, seed=1):
        assert re.fullmatch("[ACGT]*", text)
        assert len(text) == num_bases


def test_no_prompts(lm):
    assert lm.generate([], 5) == []


@pytest.mark.parametrize("k", [2, 3])
def test_greedy_equals_the_uncached_loop(k, lm, lm3):
    lm = lm if k == 2 else lm3
    prompts = ["", "A", "AC", "ACG", "TTGAC", "<cds>ATGGC", "CATTAGA", "ACGTN"]
    texts = lm.generate(prompts, 9, temperature=0)
    assert texts == [naive_greedy(lm, p, 9) for p in prompts]
    assert len(set(texts)) > 3  # the model reads its prompt


def test_left_over_bases_fix_the_first_token(lm3):
    """The first token is the best of those that begin with the left-over bases, not the best of all."""
    tokens = lm3.tokenizer.tokens
    logits = next_logits(lm3, [[BOS]])[0]
    best = 0
    prompts = ["A", "T", "C", "G", "AC", "TG"]
    for prompt, text in zip(prompts, lm3.generate([*prompts, "", ""], 9, temperature=0), strict=False):
        agree = [i for i, token in enumerate(tokens) if i >= NUM_SPECIAL and token.startswith(prompt)]
        token = max(agree, key=lambda i: logits[i])
        best += token == NUM_SPECIAL + int(logits[NUM_SPECIAL:].argmax())
        assert (prompt + text)[:3] == tokens[token]
    assert best < 3


def test_rows_do_not_depend_on_their_batch(lm):
    seeds = list(range(len(PROMPTS)))
    together = lm.generate(PROMPTS, 12, seed=seeds)
    assert together == [lm.generate([p], 12, seed=[s])[0] for p, s in zip(PROMPTS, seeds, strict=True)]
    assert lm.generate(PROMPTS, 12, seed=seeds, batch_size=5) == together
    order = np.random.default_rng(0).permutation(len(PROMPTS))
    shuffled = lm.generate([PROMPTS[i] for i in order], 12, seed=[seeds[i] for i in order])
    assert shuffled == [together[i] for i in order]


def test_seeds(lm):
    prompts = ["ACG"] * 4
    one, again, other = (lm.generate(prompts, 12, seed=s) for s in (3, 3, 4))
    assert one == again
    assert len({*one, *other}) == 8  # each row and each seed has its own stream
    rows = lm.generate(prompts, 12, seed=[5, 6, 5, 7])
    assert rows[0] == rows[2]
    assert len(set(rows)) == 3
    assert lm.generate(prompts[:1], 12, seed=3) == one[:1]
    assert lm.generate(prompts[:1], 12, seed=np.int64(3)) == one[:1]


def test_a_longer_draw_begins_with_the_shorter(lm):
    short, long = (lm.generate(["ACG", ""], n, seed=2) for n in (5, 12))
    assert [text[:5] for text in long] == short


def test_special_tokens_never_appear(loud):
    assert (
        next_logits(loud, [[BOS], [BOS, 40], [BOS, 33, 41]]).argmax(-1) < NUM_SPECIAL
    ).all()  # they are the most likely
    for temperature in (0, 1):
        for text in loud.generate(PROMPTS, 12, temperature=temperature):
            assert re.fullmatch("[ACGT]{12}", text)


def test_stop_tokens_end_a_row(loud):
    stopped = loud.generate(PROMPTS, 12, temperature=0, stop=["</s>"])
    assert stopped == [naive_greedy(loud, p, 12, stop=(EOS,)) for p in PROMPTS]
    lengths = [len(text) for text in stopped]
    assert min(lengths) < 12  # some end early
    assert stopped != loud.generate(PROMPTS, 12, temperature=0)
    several = loud.generate(PROMPTS, 12, temperature=0, stop=["</s>", "<bog>", "<cds>"])
    assert several == [naive_greedy(loud, p, 12, stop=(EOS, 5, 11)) for p in PROMPTS]


def test_top_k_1_and_a_tiny_top_p_are_greedy(lm):
    greedy = lm.generate(PROMPTS, 12, temperature=0)
    assert lm.generate(PROMPTS, 12, top_k=1, seed=9) == greedy
    assert lm.generate(PROMPTS, 12, top_p=1e-6, seed=9) == greedy
    assert lm.generate(PROMPTS, 12, top_p=1e-6, top_k=3, seed=9) == greedy
    assert lm.generate(PROMPTS, 12, seed=9) != greedy


def test_a_filter_of_nothing_changes_nothing(lm):
    drawn = lm.generate(PROMPTS, 12, seed=9)
    for top_k in (16, lm.tokenizer.vocab_size, 10**6):
        assert lm.generate(PROMPTS, 12, seed=9, top_k=top_k) == drawn


def naive_filter(logits, top_k, top_p):
    """One row: sort, keep the top k, keep the fewest with mass p, and all that tie with the last of these."""
    order = np.argsort(-logits, kind="stable")
    order = order[np.isfinite(logits[order])]
    if top_k:
        order = order[logits[order] >= logits[order[min(top_k, len(order)) - 1]]]
    p = np.exp(logits[order].astype(np.float64) - logits.max())
    before = np.cumsum(p / p.sum()) - p / p.sum()
    last = order[before < top_p][-1]
    return np.where(logits >= (logits[last] if top_p < 1 else logits[order[-1]]), logits, -np.inf)


@pytest.mark.parametrize("top_k", [0, 1, 5, 20, 95, 96, 200])
def test_filter_equals_its_definition(top_k):
    rng = np.random.default_rng(top_k)
    logits = rng.normal(scale=2, size=(200, 96)).astype(np.float32)
    logits[:, :32] = -np.inf  # special tokens
    logits[100:] = np.round(logits[100:] * 2) / 2  # ties
    for top_p in (0.1, 0.5, 0.937, 1.0):
        actual = np.asarray(filtered(logits, np.int32(top_k), np.float32(top_p)))
        expected = np.stack([naive_filter(row, top_k, top_p) for row in logits])
        differ = (np.isfinite(actual) != np.isfinite(expected)).any(-1)
        assert differ.mean() < 0.03 if top_p < 1 else not differ.any()  # a sum may round across top_p
        assert np.array_equal(actual[~differ], expected[~differ])


def test_frequencies_match_the_distribution(lm):
    """Three bases after a prompt with one left over: the rest of its token, and one whole token."""
    draws, temperature = 2048, 0.7
    texts = lm.generate(["CATGA"] * draws, 3, seed=0, temperature=temperature, batch_size=1024)
    tokens = lm.tokenizer.tokens
    ids = list(lm.tokenizer.encode("CATG", add_bos=True))
    first = [i for i, token in enumerate(tokens) if i >= NUM_SPECIAL and token[0] == "A"]

    def probabilities(rows, among, temperature):
        return special.softmax(next_logits(lm, rows)[:, among].astype(np.float64) / temperature, axis=-1)

    def p_value(temperature):
        dna = np.arange(NUM_SPECIAL, len(tokens))
        begin = probabilities([ids], first, temperature)[0][:, None]
        joint = begin * probabilities([[*ids, i] for i in first], dna, temperature)
        names = [tokens[i][1] + tokens[j] for i in first for j in dna]
        counts = np.array([texts.count(name) for name in names])
        assert counts.sum() == draws
        expected = joint.ravel() / joint.sum() * draws
        rare = expected < 5
        counts, expected = (np.append(x[~rare], x[rare].sum()) for x in (counts, expected))
        return stats.chisquare(counts, expected).pvalue

    assert p_value(temperature) > 0.001
    assert p_value(1.0) < 1e-6  # the test detects another temperature


def test_logits_equal_the_full_pass(lm):
    rows = [[BOS, 40, 41], [BOS, 36, 47]]
    np.testing.assert_allclose(lm.logits(rows)[:, -1], next_logits(lm, rows), atol=1e-5)
    for shape in ((0, 4), (2, 0), (0, 0)):
        assert lm.logits(np.zeros(shape, int)).shape == (*shape, lm.tokenizer.vocab_size)


@pytest.mark.slow
def test_any_mesh_gives_the_same(lm):
    wide = make_mesh(2, 2, 2)
    sharded = LM(lm.spec, jax.device_put(lm.params, jax.sharding.NamedSharding(wide, jax.P())), wide)
    np.testing.assert_allclose(sharded.logits([[BOS, 40, 41]]), lm.logits([[BOS, 40, 41]]), atol=1e-5)
    assert sharded.generate(PROMPTS[:3], 12, temperature=0) == lm.generate(PROMPTS[:3], 12, temperature=0)
    texts = ["ACGTTGACC", "GAT", "<cds>ATGGCN", "TTGACCATGAC"]
    for found, score in zip(sharded.log_likelihood(texts, batch_tokens=32), lm.log_likelihood(texts), strict=True):
        assert found.value == pytest.approx(score.value, abs=1e-5)
    for found, expected in zip(sharded.base_probabilities(texts), lm.base_probabilities(texts), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)
    variants = [("1", 30, "A", "GTT"), ("1", 31, "C", "T")]
    values = [[v.llr for v in model.score_variants(variants, {"1": "CGTTA" * 6 + "AC" * 30}, context=24)]
              for model in (sharded, lm)]  # fmt: skip
    np.testing.assert_allclose(*values, atol=1e-4)


def test_errors(lm):
    generate = functools.partial(lm.generate, num_bases=4)
    for prompts, options, argument, value in [
        ("ACGT", {}, "prompts", "ACGT"),
        (["ACGT", "ACXT"], {}, "prompts[1]", "ACXT"),
        (["<gene>AC"], {}, "prompts[0]", "<gene>AC"),
        (["ACG<cds>AC"], {}, "prompts[0]", "ACG<cds>AC"),
        (["AC", "A" * 125], {}, "prompts[1]", "A" * 125),  # 65 tokens in all; the model was made for 64
        *((["AC"], {name: value}, name, value) for name, value in [
            ("seed", [1, 2]), ("seed", -1), ("num_bases", -1), ("num_samples", 0), ("batch_size", 0),
            ("temperature", -0.5), ("top_k", -1), ("top_k", 3 * 10**9), ("top_k", 2.5), ("top_p", 0.0), ("top_p", 1.5),
            ("mode", "kmer"), ("remainder", "x"),
        ]),
        (["AC"], {"stop": ["<end>"]}, "stop", "<end>"),
    ]:  # fmt: skip
        with raises(InputError, argument=argument, value=value) as caught:
            generate(prompts, **options)
        assert str(caught.value).startswith(f"{argument} is {value!r}: ")
    with raises(InputError, argument="prompt", value="ACX"):
        list(lm.stream("ACX", 4))
    for ids in ([1, 2], [[1.0]], [[48]], [[-1]], [[1, 2], [3]], np.zeros((0, 4)), None):
        with raises(InputError, argument="ids"):
            lm.logits(ids)
    for options in ({"temperature": 0.5}, {"top_k": 2}, {"top_p": 0.5}, {"mode": "base"}):
        with raises(InputError, argument="sampler", value=Greedy()):
            generate(["AC"], sampler=Greedy(), **options)


def test_the_ends_of_the_ranges(lm):
    prompts = ["", "ACG"] * 4
    hot = lm.generate(prompts, 12, temperature=1000)
    assert set("".join(hot)) == set("ACGT")
    assert len(set(hot)) == len(hot)
    greedy = lm.generate(prompts, 12, temperature=0)
    for options in ({"temperature": 0.001}, {"top_p": 1e-30}, {"top_k": 1}):
        assert lm.generate(prompts, 12, seed=3, **options) == greedy
    assert lm.generate(prompts, 12, temperature=1000, top_k=2**31 - 1) == hot


def test_numbers_of_numpy(lm):
    options = {"num_samples": 2, "temperature": 0.5, "top_k": 9, "top_p": 0.5, "seed": 7, "batch_size": 3}
    as_numpy = {name: (np.float32 if type(value) is float else np.uint8)(value) for name, value in options.items()}
    expected = lm.generate(["AC", "G"], 6, **options)
    assert lm.generate(["AC", "G"], np.int64(6), **as_numpy) == expected
    assert lm.generate(["AC"], 6, seed=np.array([3])) == lm.generate(["AC"], 6, seed=[3])


def test_shapes_are_rounded_up():
    assert [round_up(n) for n in (0, 1, 8, 9, 16, 17)] == [8, 8, 8, 16, 16, 32]
    assert [round_up(n, least=1) for n in (0, 1, 2, 3, 5)] == [1, 1, 2, 4, 8]
    assert [round_up(n, steps=4) for n in (1, 9, 17, 20, 33, 100, 1000, 1025)] == [8, 10, 20, 20, 40, 112, 1024, 1280]


def test_samples_of_a_prompt(lm):
    prompts = ["ACG", "", "TTGACCA", "A"]
    several = lm.generate(prompts, 12, num_samples=2, seed=4)
    assert len(set(several)) == 8
    assert several == lm.generate([p for p in prompts for _ in range(2)], 12, seed=4)
    seeds = list(range(8))
    assert lm.generate(prompts, 12, num_samples=2, seed=seeds, batch_size=5) == [
        lm.generate([prompts[i // 2]], 12, seed=[i])[0] for i in seeds
    ]


def test_streaming_gives_the_same_text(lm):
    whole = lm.generate(["ACGTTGA"], 15, seed=3)[0]
    for every in (1, 4, 60):
        texts = list(lm.stream("ACGTTGA", 15, seed=3, every=every))
        assert "".join(texts) == whole
        assert all(texts)
        assert len(texts) > 3 or every > 4


def test_streaming_ends_at_a_stop(loud):
    lengths = []
    for seed in range(3):
        whole = loud.generate([""], 16, seed=seed, stop=["</s>", "<bog>"])[0]
        assert "".join(loud.stream("", 16, seed=seed, stop=["</s>", "<bog>"], every=2)) == whole
        lengths.append(len(whole))
    assert min(lengths) < 16


def test_remainders(lm3):
    for prompt, trimmed, padded in [("ACGTA", "GTA", "AACGTA"), ("<cds>ACGT", "<cds>CGT", "<cds>AAACGT")]:
        for remainder, same in (("trim_left", trimmed), ("pad_left", padded)):
            options = {"temperature": 0, "remainder": remainder}
            assert lm3.generate([prompt] * 8, 9, **options) == lm3.generate([same] * 8, 9, temperature=0)
        assert lm3.generate([prompt] * 8, 9, temperature=0) != lm3.generate([trimmed] * 8, 9, temperature=0)


@pytest.mark.parametrize("mode", ["token", pytest.param("base", marks=pytest.mark.slow)])
def test_log_probs_are_those_of_the_likelihood(mode, lm):
    """However the bases were sampled, also after left-over bases and with a truncated last token."""
    prompts = [p for p in PROMPTS if "N" not in p] + ["<cds>ATGGCCA"]
    options = {"seed": 1, "mode": mode, "temperature": 2.0, "top_k": 5}
    found = lm.generate(prompts, 11, log_probs=True, **options)
    scores = lm.log_likelihood([p + c.text for p, c in zip(prompts, found, strict=True)], per_base=True)
    for c, prompt, score in zip(found, prompts, scores, strict=True):
        dna = prompt[prompt.rfind(">") + 1 :]
        np.testing.assert_allclose(c.log_probs, score.per_base[len(dna) :], atol=2e-5)
        assert len(c.log_probs) == len(c.text) == 11
    assert lm.generate(prompts, 11, **options) == [c.text for c in found]


def marginals(lm, ids, left_over, temperature):
    """The tempered distribution of each base of the next token given the left-over bases, [k, 4] over A, T, C, G."""
    logits = next_logits(lm, [ids])[0][NUM_SPECIAL:].astype(np.float64)
    tokens = lm.tokenizer.tokens[NUM_SPECIAL:]
    p = np.exp(logits - logits.max()) * np.array([t.startswith(left_over) for t in tokens])
    by_base = np.array([[sum(p[i] for i, t in enumerate(tokens) if t[j] == b) for b in "ATCG"]
                        for j in range(lm.tokenizer.k)])  # fmt: skip
    by_base = (by_base / by_base.sum(1, keepdims=True)) ** (1 / temperature)
    return by_base / by_base.sum(1, keepdims=True)


def test_base_mode_takes_each_base_from_its_marginal(lm):
    """The most likely base; a slow test compares the frequencies of samples."""
    ids = list(lm.tokenizer.encode("CATG", add_bos=True))
    greedy = lm.generate(["CATGA"] * 8, 12, temperature=0, mode="base")
    assert greedy[0][0] == "ATCG"[marginals(lm, ids, "A", 1.0)[1].argmax()]
    assert lm.generate(["CATGA"] * 8, 12, top_k=1, mode="base", seed=5) == greedy


def test_base_mode_stops(loud):
    found = loud.generate(PROMPTS, 12, mode="base", temperature=0, stop=["</s>"], details=True)
    assert {c.end for c in found} <= {"</s>", "length"}
    assert any(c.end == "</s>" for c in found)


@pytest.mark.slow
@pytest.mark.usefixtures("compiled_in_full")
@pytest.mark.parametrize("mode", ["token", "base"])
def test_a_hundred_thousand_draws_match_the_exact_distribution(mode, lm):
    """Chi-squared over all strings of three bases after a prompt with one left over."""
    draws = 100_000
    ids = list(lm.tokenizer.encode("CATG", add_bos=True))
    texts = lm.generate(["CATGA"], 3, num_samples=draws, seed=7, mode=mode, batch_size=8192)
    tokens = lm.tokenizer.tokens
    names, joint = [], []
    for a in "ATCG":
        after = [*ids, int(lm.tokenizer.encode("A" + a)[0])]
        if mode == "token":
            p = special.softmax(next_logits(lm, [ids])[0, NUM_SPECIAL:].astype(np.float64))
            agree = np.array([t[0] == "A" for t in tokens[NUM_SPECIAL:]])
            first = p[tokens.index("A" + a) - NUM_SPECIAL] / p[agree].sum()
            then = special.softmax(next_logits(lm, [after])[0, NUM_SPECIAL:].astype(np.float64))
            pairs = {t: then[i] / then.sum() for i, t in enumerate(tokens[NUM_SPECIAL:])}
        else:
            first = marginals(lm, ids, "A", 1.0)[1]["ATCG".index(a)]
            own = marginals(lm, after, "", 1.0)
            pairs = {b + c: own[0, i] * own[1, j] for i, b in enumerate("ATCG") for j, c in enumerate("ATCG")}
        names += [a + pair for pair in pairs]
        joint += [first * p for p in pairs.values()]
    counts = collections.Counter(texts)
    observed, expected = np.array([counts[n] for n in names]), np.array(joint) * draws
    assert observed.sum() == draws
    assert expected.min() > 5
    assert stats.chisquare(observed, expected / expected.sum() * draws).pvalue > 0.001
    flat = np.full(len(names), draws / len(names))
    assert stats.chisquare(observed, flat).pvalue < 1e-6


def test_options_are_samplers(lm):
    for sampler, options in [
        (Greedy(), {"temperature": 0}), (Tokens(0.5), {"temperature": 0.5}), (Tokens(top_k=3), {"top_k": 3}),
        (Tokens(0.9, 5, 0.7), {"temperature": 0.9, "top_k": 5, "top_p": 0.7}),
        (Bases(Tokens(top_p=0.8)), {"top_p": 0.8, "mode": "base"}),
    ]:  # fmt: skip
        assert lm.generate(PROMPTS, 6, seed=2, sampler=sampler) == lm.generate(PROMPTS, 6, seed=2, **options)
    assert of_options() == Tokens(1)
    assert of_options(0, 5, 0.5, "base") == Bases(Greedy(), Greedy())


def test_padding_of_prompts():
    tokenizer = config.Tokenizer(k=6).make()
    sizes = [cache_size(4, tokens, 6, tokenizer)[1] - 8 for tokens in (1, 9, 1000, 1024, 1025, 8200, 12289)]
    assert sizes == [8, 16, 1024, 1024, 1280, 10240, 14336]


@pytest.mark.slow
def test_few_programs_for_many_prompts(lm):
    rng = np.random.default_rng(0)
    prompts = ["".join(rng.choice(list("ACGT"), n)) for n in rng.integers(1, 100, 200)]
    before = [program._cache_size() for program in programs()]
    lm.generate(prompts, 4, seed=1)
    assert all(program._cache_size() - n <= 6 for program, n in zip(programs(), before, strict=True))
