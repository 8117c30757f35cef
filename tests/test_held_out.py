import dataclasses
import math
import types

import jax
import numpy as np
import pytest

from data_pipeline.dataset.reader import RegionSource
from data_pipeline.sequence.tokenizer import BOS
from gener_jax.model import decoder
from gener_jax.model.sharding import make_mesh
from gener_jax.tasks.held_out import HeldOut, chosen_regions, region_ids, region_tokens
from tests import tiny
from tests.conftest import random_params
from tests.data import random_codes

LENGTH = 32  # tokens of context
KINDS = ("cds", "tRNA", "pseudo")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Regions below one token, of exactly one context, slightly longer, and several contexts long; some contain N."""
    lengths = [2, 3, 96, 99, 97, 700, 40, 333, 12, 100, 5, 61]
    sequences = {"train": random_codes([900, 300], 1), "validation": random_codes(lengths, 2)}
    return tiny.synthetic(tmp_path_factory.mktemp("data") / "set", sequences, kinds=KINDS, soft_masked=True)


@pytest.fixture(scope="module")
def setting(dataset):
    config = tiny.config(dataset, eval__max_regions="none", eval__batch_size="3")
    tokenizer = config.tokenizer.make()
    mesh = make_mesh(1, -1, 1)
    params = jax.tree.map(lambda x: np.asarray(x) * 5, random_params(config.model))  # far from uniform
    return config, tokenizer, mesh, jax.device_put(params, jax.NamedSharding(mesh, jax.P()))


def with_eval(config, **options):
    return dataclasses.replace(config, eval=dataclasses.replace(config.eval, **options))


def whole(source, tokenizer, region):
    """All tokens of a region."""
    return region_ids(source, tokenizer, region, 0, region_tokens(source, tokenizer)[region])


@pytest.fixture(scope="module")
def evaluate(setting):
    """The result of evaluating a source, without Markov models."""
    config, _, mesh, params = setting
    config = with_eval(config, baselines=False)
    return lambda source: HeldOut(config, source).prepare(config, mesh)(params)


@pytest.fixture(scope="module")
def result(evaluate, dataset):
    return evaluate(RegionSource(dataset, "validation"))


def summary(found):
    """The metrics and counts of all regions, as of a group."""
    whole = {**found.metrics, **found.counts}
    whole.pop("bits_per_base_without_near_copies", None)
    return whole


@pytest.fixture(scope="module")
def plain(setting, dataset):
    """(region, token index, id, log p of the vocabulary) of every token, computed for one chunk at a time."""
    config, tokenizer, _, params = setting
    params = jax.device_get(params)
    model = decoder.Decoder(config.model)

    @jax.jit
    def log_p(params, ids):
        hidden, _ = model.apply({"params": params}, ids)
        return jax.nn.log_softmax(model.apply({"params": params}, hidden, method="logits"))

    source, rows = RegionSource(dataset, "validation"), []
    for region in range(len(source)):
        ids = whole(source, tokenizer, region)
        for start in range(0, len(ids), LENGTH):
            chunk = ids[start : start + LENGTH]
            inputs = np.zeros((1, LENGTH), np.int32)  # what follows the chunk does not affect it
            inputs[0, : len(chunk)] = [BOS, *chunk[:-1]]
            found = np.asarray(log_p(params, inputs))[0]
            for i, token in enumerate(chunk.tolist()):
                rows.append((region, start + i, token, found[i].astype(np.float64)))
    return rows


def test_sums_equal_those_of_one_chunk_at_a_time(setting, dataset, result, plain):
    config, tokenizer, _, _ = setting
    source = RegionSource(dataset, "validation")
    assert config.data.context_length == LENGTH

    def summed(chosen):
        rows = [(token, p[token]) for region, _, token, p in plain if chosen(region) and tokenizer.token_bases[token]]
        nats, bases = -sum(p for _, p in rows), sum(int(tokenizer.token_bases[token]) for token, _ in rows)
        return {
            "loss": nats / len(rows),
            "bits_per_base": nats / bases / math.log(2),
            "tokens": len(rows),
            "bases": bases,
        }

    def agree(found, expected):
        assert (found["tokens"], found["bases"]) == (expected["tokens"], expected["bases"])
        for name in ("loss", "bits_per_base"):
            assert found[name] == pytest.approx(expected[name], abs=1e-5)
        assert found["perplexity"] == pytest.approx(math.exp(expected["loss"]), rel=1e-4)

    agree(summary(result), summed(lambda region: True))
    assert result.counts["regions"] == 11  # one contains no whole token
    assert set(result.breakdown["kind"]) == set(KINDS)
    for kind, found in result.breakdown["kind"].items():
        agree(found, summed(lambda r, kind=kind: source.kinds[source.index["kind"][r]] == kind))
    for taxon, found in result.breakdown["taxon"].items():
        agree(found, summed(lambda r, taxon=taxon: source.taxa[source.index["taxon"][r]] == taxon))
    assert len({round(row["loss"], 4) for row in result.breakdown["kind"].values()}) == 3


@pytest.mark.parametrize("group", ["kind", "taxon"])
def test_groups_add_up(result, group):
    rows, whole = result.breakdown[group].values(), summary(result)
    for name in ("regions", "tokens", "bases"):
        assert sum(row[name] for row in rows) == whole[name]
    for metric, count in (("loss", "tokens"), ("bits_per_base", "bases")):
        assert sum(row[metric] * row[count] for row in rows) == pytest.approx(whole[metric] * whole[count])


def test_bits_by_codon_position(setting, dataset, result, plain):
    """Sums p over the 3-mers with the same first bases, in coding regions; the three average to the bits per base."""
    _, tokenizer, _, _ = setting
    source = RegionSource(dataset, "validation")
    bits, number = [0.0, 0.0, 0.0], 0
    for region, _, token, log_p in plain:
        if source.kinds[source.index["kind"][region]] != "cds" or not tokenizer.token_bases[token]:
            continue
        p, before = np.exp(log_p), 1.0
        for j in range(3):
            same_start = [
                i
                for i, text in enumerate(tokenizer.tokens)
                if i >= 32 and text[: j + 1] == tokenizer.tokens[token][: j + 1]
            ]
            now = p[same_start].sum()
            bits[j] -= math.log2(now / before)
            before = now
        number += 1
    found = [row["bits_per_base"] for row in result.breakdown["codon_position"].values()]
    assert list(result.breakdown["codon_position"]) == ["1", "2", "3"]
    assert found == pytest.approx([b / number for b in bits], abs=1e-4)
    assert np.mean(found) == pytest.approx(result.breakdown["kind"]["cds"]["bits_per_base"], abs=1e-5)


def test_bits_by_case(dataset, result, plain, setting):
    """Uses the chain rule for each base, with the case from the whole region; the two cases average to the total."""
    _, tokenizer, _, _ = setting
    source = RegionSource(dataset, "validation")
    lower = [source.lower_case(r, 0, n) for r, n in enumerate(source.index["length"].tolist())]
    texts = np.array([text if i >= 32 else "" for i, text in enumerate(tokenizer.tokens)])
    bits, number = {False: 0.0, True: 0.0}, {False: 0, True: 0}
    for region, at, token, log_p in plain:
        if not tokenizer.token_bases[token]:
            continue
        before = 1.0
        for j in range(3):
            now = np.exp(log_p)[np.char.startswith(texts, texts[token][: j + 1])].sum()
            masked = bool(lower[region][3 * at + j])
            bits[masked] -= math.log2(now / before)
            number[masked] += 1
            before = now
    assert number[False] > 100 < number[True]
    found = result.breakdown["case"]
    for name, masked in (("soft-masked", True), ("not soft-masked", False)):
        assert found[name]["bases"] == number[masked]
        assert found[name]["bits_per_base"] == pytest.approx(bits[masked] / number[masked], abs=1e-4)
    assert abs(found["soft-masked"]["bits_per_base"] - found["not soft-masked"]["bits_per_base"]) > 1e-3


def test_regions_without_near_copies(setting, dataset, evaluate, result, plain):
    _, tokenizer, _, _ = setting
    source = RegionSource(dataset, "validation")
    bits = result.metrics["bits_per_base"]
    assert result.metrics["bits_per_base_without_near_copies"] == bits
    assert "near_copies" not in result.breakdown
    source.index["train_overlap"] = np.linspace(0, 0.2, len(source), dtype=np.float32)
    new = {i for i in range(len(source)) if source.index["train_overlap"][i] < 0.1}
    assert len(new) == 6
    found = evaluate(source)
    assert summary(found) == summary(result)
    assert {name: found.breakdown[name] for name in result.breakdown} == result.breakdown
    rows = [p[token] for region, _, token, p in plain if region in new and tokenizer.token_bases[token]]
    row = found.breakdown["near_copies"]["none in training"]
    assert (row["tokens"], row["bases"]) == (len(rows), 3 * len(rows))
    assert row["loss"] == pytest.approx(-np.mean(rows), abs=1e-5)
    assert found.metrics["bits_per_base_without_near_copies"] == row["bits_per_base"] != bits
    source.index["train_overlap"][:] = 1
    found = evaluate(source)
    assert found.breakdown["near_copies"]["none in training"]["bases"] == 0
    assert math.isnan(found.metrics["bits_per_base_without_near_copies"])
    assert "bits_per_base_without_near_copies" not in evaluate(RegionSource(dataset, "train")).metrics


def test_some_regions(setting, dataset):
    config, tokenizer, mesh, params = setting
    source = RegionSource(dataset, "validation")
    assert chosen_regions(source, None).tolist() == list(range(12)) == chosen_regions(source, 12).tolist()
    assert chosen_regions(source, 99).tolist() == list(range(12))
    few, more = (set(chosen_regions(source, n).tolist()) for n in (4, 7))
    assert len(few) == 4
    assert few < more
    run, calls = HeldOut(with_eval(config, max_regions=4)).prepare(config, mesh), []
    found = run(params, lambda done, total: calls.append((done, total)))
    expected = np.concatenate([whole(source, tokenizer, region) for region in sorted(few)])
    assert found.counts["bases"] == tokenizer.token_bases[expected].sum()
    assert calls[-1] == (len(expected), len(expected))
    assert summary(run(params)) == summary(found)


def test_any_tokenizer_scores_what_its_tokens_hold(setting, dataset, result):
    """By ids, as for BPE, the sums are those by bases; there is nothing by base."""
    config, tokenizer, mesh, params = setting
    by_id = types.SimpleNamespace(
        kind="ids", k=tokenizer.k, token_bases=tokenizer.token_bases, encode_bases=tokenizer.encode_bases
    )
    spec = types.SimpleNamespace(name="ids", model=config.model, tokenizer=types.SimpleNamespace(make=lambda: by_id))
    found = HeldOut(with_eval(config, baselines=False)).prepare(spec, mesh)(params)
    assert found.breakdown.keys() == result.breakdown.keys() - {"case", "codon_position"}
    assert found.counts == result.counts
    assert found.metrics == pytest.approx(result.metrics, abs=1e-5)


def test_baselines_score_the_same_bases(setting, dataset):
    config, _, mesh, params = setting
    found = HeldOut(config).prepare(config, mesh)(params)
    assert found.baselines.keys() == {"markov_0", "markov_5"}
    assert found.baselines["markov_0"]["bits_per_base"] == pytest.approx(2, abs=0.05)
    assert (found.dataset.path, found.dataset.split) == (str(dataset), "validation")
    assert found.dataset.digest == RegionSource(dataset, "validation").digest
