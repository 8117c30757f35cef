import dataclasses
import math

import jax
import numpy as np
import pytest

from data_pipeline.dataset.reader import RegionSource
from data_pipeline.sequence.tokenizer import BOS
from gener_jax.model import decoder
from gener_jax.model.sharding import make_mesh
from gener_jax.tasks import report
from gener_jax.tasks.held_out import HeldOut, chosen_regions, region_ids
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


@pytest.fixture(scope="module")
def result(setting, dataset):
    config, tokenizer, mesh, params = setting
    return HeldOut(config, RegionSource(dataset, "validation"), tokenizer, mesh, by_base=True)(params)


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
        ids = region_ids(source, tokenizer, region)
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

    agree(result, summed(lambda region: True))
    assert result["regions"] == 11  # one contains no whole token
    assert set(result["by_kind"]) == set(KINDS)
    for kind, found in result["by_kind"].items():
        agree(found, summed(lambda r, kind=kind: source.kinds[source.index["kind"][r]] == kind))
    for taxon, found in result["by_taxon"].items():
        agree(found, summed(lambda r, taxon=taxon: source.taxa[source.index["taxon"][r]] == taxon))
    assert len({round(row["loss"], 4) for row in result["by_kind"].values()}) == 3


@pytest.mark.parametrize("group", ["by_kind", "by_taxon"])
def test_groups_add_up(result, group):
    rows = result[group].values()
    for name in ("regions", "tokens", "bases"):
        assert sum(row[name] for row in rows) == result[name]
    assert sum(row["loss"] * row["tokens"] for row in rows) == pytest.approx(result["loss"] * result["tokens"])
    assert sum(row["bits_per_base"] * row["bases"] for row in rows) == pytest.approx(
        result["bits_per_base"] * result["bases"]
    )


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
    assert result["bits_by_codon_position"] == pytest.approx([b / number for b in bits], abs=1e-4)
    assert np.mean(result["bits_by_codon_position"]) == pytest.approx(
        result["by_kind"]["cds"]["bits_per_base"], abs=1e-5
    )


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
    found = result["by_case"]
    for name, masked in (("soft-masked", True), ("not soft-masked", False)):
        assert found[name]["bases"] == number[masked]
        assert found[name]["bits_per_base"] == pytest.approx(bits[masked] / number[masked], abs=1e-4)
    assert abs(found["soft-masked"]["bits_per_base"] - found["not soft-masked"]["bits_per_base"]) > 1e-3


def test_regions_without_near_copies(setting, dataset, result, plain):
    config, tokenizer, mesh, params = setting
    source = RegionSource(dataset, "validation")
    assert result["without_near_copies"] == {name: result[name] for name in result["without_near_copies"]}
    source.index["train_overlap"] = np.linspace(0, 0.2, len(source), dtype=np.float32)
    new = {i for i in range(len(source)) if source.index["train_overlap"][i] < 0.1}
    assert len(new) == 6
    found = HeldOut(config, source, tokenizer, mesh)(params)
    assert {name: found[name] for name in ("loss", "bits_per_base")} == {
        name: pytest.approx(result[name], abs=1e-6) for name in ("loss", "bits_per_base")
    }
    rows = [p[token] for region, _, token, p in plain if region in new and tokenizer.token_bases[token]]
    row = found["without_near_copies"]
    assert (row["tokens"], row["bases"]) == (len(rows), 3 * len(rows))
    assert row["loss"] == pytest.approx(-np.mean(rows), abs=1e-5)
    assert "by_case" not in found
    text = report.as_text(config, {**found, "markov_0": 2.0})
    assert f"\n  without near copies in training (train_overlap < 10 %)  {row['bits_per_base']:.4f}  (" in text
    assert f"({row['regions']} regions, {row['bases']:,} bases)" in text
    assert "near copies" not in report.as_text(config, result)
    source.index["train_overlap"][:] = 1
    found = HeldOut(config, source, tokenizer, mesh)(params)
    assert found["without_near_copies"] == {"regions": 0, "tokens": 0, "bases": 0}
    assert "(train_overlap < 10 %)  none  (0 regions, 0 bases)" in report.as_text(config, found)
    train = RegionSource(dataset, "train")
    assert "without_near_copies" not in HeldOut(config, train, tokenizer, mesh)(params)


def test_some_regions(setting, dataset):
    config, tokenizer, mesh, params = setting
    source = RegionSource(dataset, "validation")
    assert chosen_regions(source, None).tolist() == list(range(12)) == chosen_regions(source, 12).tolist()
    assert chosen_regions(source, 99).tolist() == list(range(12))
    few, more = (set(chosen_regions(source, n).tolist()) for n in (4, 7))
    assert len(few) == 4
    assert few < more
    config = dataclasses.replace(config, eval=dataclasses.replace(config.eval, max_regions=4))
    held_out, calls = HeldOut(config, source, tokenizer, mesh), []
    found = held_out(params, lambda done, total: calls.append((done, total)))
    expected = np.concatenate([region_ids(source, tokenizer, region) for region in sorted(few)])
    assert found["bases"] == tokenizer.token_bases[expected].sum()
    assert calls[-1] == (len(expected), len(expected))
    assert held_out(params) == found
    assert held_out._nll._cache_size() == 1


def test_report(setting, dataset):
    config, tokenizer, mesh, params = setting
    result = report.evaluate(config, params, tokenizer, mesh)
    text = report.as_text(config, result)
    for name in ("bits_per_base", "markov_0", "markov_5"):
        assert f"{result[name]:.4f}" in text
    assert text.count("← lowest") == 1
    for name, row in result["by_case"].items():
        assert f"{name:15} {row['bits_per_base']:.4f}" in text
    assert f"cds        {result['by_kind']['cds']['bits_per_base']:.4f}" in text
    assert result["markov_0"] == pytest.approx(2, abs=0.05)
    without = dataclasses.replace(config, eval=dataclasses.replace(config.eval, baselines=False))
    assert "markov_0" not in report.evaluate(without, params, tokenizer, mesh)
