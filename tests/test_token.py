"""Fine-tuning on labels per base: both strands, the source, the objective, the evaluation."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipeline.sequence import bases
from data_pipeline.sequence.tokenizer import BOS, PAD
from gener_jax.config import Head
from gener_jax.data.loader import to_devices
from gener_jax.finetuning.token import Annotation, Token, Windows, head_of
from gener_jax.inference.annotation import annotate
from gener_jax.inference.lm import LM
from gener_jax.labelled import windows
from gener_jax.labelled.annotation import UNLABELLED, Annotated, AnnotatedSplits, Contig
from gener_jax.model import decoder, heads
from gener_jax.model.sharding import batch_sharding, make_mesh, on
from gener_jax.runtime.errors import ConfigError, InputError
from gener_jax.statistics import metrics
from gener_jax.training.step import abstract_state, make_train_step
from tests import tiny
from tests.conftest import random_params
from tests.raised import raises

CLASSES = ("yes", "no", "other")
K = 3


def config(**changes):
    model = {"model__num_hidden_layers": 2, "model__initializer_range": 0.3, "data__context_length": 12}
    model |= {"prompt_convention": "v1"}  # of `embed`, with which predictions are compared
    return tiny.config("absent", **{**model, "finetune__problem": "token", **changes})


def contigs(*lengths, seed=0):
    rng = np.random.default_rng(seed)
    found = []
    for i, length in enumerate(lengths):
        codes = rng.choice(5, length, p=[0.24] * 4 + [0.04]).astype(np.uint8)
        labels = rng.integers(-1, len(CLASSES), length).astype(np.int8)
        found.append(Contig(f"c{i}", codes, np.where(codes < bases.N, labels, UNLABELLED).astype(np.int8)))
    return Annotated("train", tuple(found), CLASSES)


def model_of(config, head, seed=0):
    """Random parameters of the decoder and the head."""
    params = random_params(config.model, seed)
    rng = np.random.default_rng(seed)
    size = head.num_inputs(config.model.hidden_size), head.num_outputs(K)
    return {**params, "head": {"kernel": rng.normal(size=size).astype(np.float32), "bias": np.zeros(size[1], np.float32)}}


def lm_of(config, params):
    mesh = make_mesh(1, 1, 1, jax.devices()[:1])
    return LM(config.spec, jax.device_put(params), mesh)


HEAD = Head("token", CLASSES, context=12)


def test_hidden_states_of_both_strands_are_those_of_the_same_bases():
    forward, reverse = np.random.default_rng(0).normal(size=(2, 2, 6, 4)).astype(np.float32)
    lengths = np.array([6, 4], np.int32)
    found = np.asarray(heads.both_strands(forward, reverse, lengths))
    for row, length in enumerate(lengths):
        for token in range(1, length):
            expected = np.concatenate([forward[row, token], reverse[row, length - token]])
            np.testing.assert_array_equal(found[row, token], expected)


@pytest.mark.parametrize("layer", [None, 1])
def test_each_base_sees_its_token_and_all_bases_of_the_window(layer):
    """Each output is that of the bases up to its token, and of those from its token on, each read alone."""
    head = dataclasses.replace(HEAD, layer=layer)
    setting, sequences = config(), ["".join(np.random.default_rng(n).choice(list("ACGT"), n)) for n in (33, 18)]
    params = model_of(setting, head)
    lm = lm_of(setting, params)
    found = annotate(lm, head, sequences)
    for dna, probabilities in zip(sequences, found, strict=True):
        for token in range(len(dna) // K):
            to, since = dna[: (token + 1) * K], dna[token * K :]
            since = bases.decode(bases.reverse_complement(bases.encode(since)))
            states = lm.embed([to, since], pooling="last", layer=layer)
            logits = (np.concatenate(states) @ params["head"]["kernel"]).reshape(K, len(CLASSES))
            expected = jax.nn.softmax(logits, axis=-1)
            np.testing.assert_allclose(probabilities[token * K : (token + 1) * K], expected, atol=2e-5)


def test_a_base_changes_labels_on_both_sides_of_it():
    setting = config()
    params = model_of(setting, HEAD)
    dna = "ACGTTGCATTAGCCATGACGGATACCATTAGCA"
    changed = dna[:16] + "T" + dna[17:]

    def difference(params):
        one, other = annotate(lm_of(setting, params), HEAD, [dna, changed])
        return np.abs(one - other).max(1)

    assert (difference(params) > 1e-6).all()
    params["head"]["kernel"][setting.model.hidden_size :] = 0  # a head that reads one strand
    assert not difference(params)[:15].any()
    assert (difference(params)[15:] > 1e-6).all()


def test_the_reverse_complement_has_the_mirrored_predictions():
    setting = config()
    params = model_of(setting, HEAD)
    kernel = params["head"]["kernel"].reshape(2, -1, K, len(CLASSES))
    params["head"]["kernel"] = (kernel + kernel[::-1, :, ::-1]).reshape(2 * setting.model.hidden_size, -1)
    dna = "ACGTTGCATTAGNCATGACGGATACCATTA"
    mirrored = bases.decode(bases.reverse_complement(bases.encode(dna)))
    one, other = annotate(lm_of(setting, params), HEAD, [dna, mirrored])
    np.testing.assert_allclose(one, other[::-1], atol=1e-5)
    assert np.ptp(one, axis=0).min() > 0.01


def test_long_and_short_sequences():
    setting = config()
    lm = lm_of(setting, model_of(setting, HEAD))
    dna = "".join(np.random.default_rng(0).choice(list("ACGT"), 100))
    whole, two, one, none = annotate(lm, HEAD, [dna, dna[:2], dna[:5], ""])
    assert (whole.shape, one.shape, none.shape) == ((100, 3), (5, 3), (0, 3))
    np.testing.assert_allclose(whole.sum(1), 1, atol=1e-5)
    np.testing.assert_allclose(one.sum(1), 1, atol=1e-5)
    assert np.isnan(two).all()
    start, stop, first, last = windows.cut(0, 100, 11, K, windows.number(100, 11, K), 1)
    alone = annotate(lm, HEAD, [dna[start:stop]])[0]
    np.testing.assert_allclose(whole[first:last], alone[first - start : last - start], atol=1e-5)
    with raises(InputError, argument="sequences[0]"):
        annotate(lm, HEAD, ["<mam>ACGTAC"])
    with raises(InputError, argument="sequences"):
        annotate(lm, None, ["ACGTAC"])


@pytest.mark.parametrize("phase", [False, True])
def test_an_epoch_labels_each_base_once(phase):
    split = contigs(100, 40, 12, 7, 2)
    source = Windows(split, config(data__random_phase=phase))
    for epoch in range(3):
        seen = [np.full(len(contig.codes), -2, np.int64) for contig in split.contigs]
        for number in range(epoch * len(source), (epoch + 1) * len(source)):
            (contig, window), example = source.window(number), source.example(number)
            codes = split.contigs[contig].codes[window.start : window.stop]
            n = example["lengths"]
            assert (example["inputs"][0], example["reverse"][0]) == (BOS, BOS)
            assert (example["inputs"][n:] == PAD).all()
            assert (example["reverse"][n:] == PAD).all()
            tokenizer = source.tokenizer
            np.testing.assert_array_equal(example["inputs"][1:n], tokenizer.encode_bases(codes))
            np.testing.assert_array_equal(
                example["reverse"][1:n], tokenizer.encode_bases(bases.reverse_complement(codes))
            )
            labels = example["labels"][1:n].reshape(-1)[window.first - window.start : window.last - window.start]
            assert (example["labels"] != UNLABELLED).sum() == (labels != UNLABELLED).sum()
            assert (seen[contig][window.first : window.last] == -2).all()
            seen[contig][window.first : window.last] = labels
        left_out = [np.flatnonzero(x == -2) for x in seen]
        for contig, labels, missing in zip(split.contigs, seen, left_out, strict=True):
            known = labels != -2
            np.testing.assert_array_equal(labels[known], contig.labels[known])
            assert len(missing) <= (2 * (K - 1) if phase else 0) or len(contig.codes) < K
        assert phase or not left_out[0].size


def test_batches_are_a_function_of_their_position():
    split, setting = contigs(100, 40), config()
    source = Windows(split, setting)
    first = list(itertools.islice(source.batches(0, 4, range(4)), 5))
    later = next(source.batches(12, 4, [1, 3]))
    for name, x in later.items():
        np.testing.assert_array_equal(x, first[3][name][[1, 3]])
    assert source.digest == Windows(split, setting).digest
    assert source.digest != Windows(split, config(data__context_length=16)).digest
    assert source.digest != Windows(contigs(100, 40, seed=1), setting).digest


def trained(setting, batches, num_steps, sizes=(1, 1, 1), objective=None):
    """The metrics of the steps, and the parameters after them."""
    head = head_of(setting, AnnotatedSplits(contigs(9), contigs(9), None, ()))
    objective = objective or Token.of(setting, head, np.ones(len(CLASSES)))

    def init(key):
        return {
            **decoder.init(decoder.Decoder(setting.model), key),
            "head": heads.init(key, head, setting.model.hidden_size, K, deviation=0.02),
        }

    mesh = make_mesh(*sizes, jax.devices()[: np.prod(sizes)])
    shapes = abstract_state(setting, mesh, init=init)
    state = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
    params = {**random_params(setting.model), "head": state.params["head"]}
    state = dataclasses.replace(state, params=params, rate_scale=np.float32(1))
    found = []
    with on(mesh):
        state = jax.device_put(state, jax.tree.map(lambda x: x.sharding, shapes))
        step = make_train_step(setting, mesh, objective, Windows.axes, init=init)
        for batch in itertools.islice(batches, num_steps):
            placed = to_devices(batch, {name: batch_sharding(mesh, axes) for name, axes in Windows.axes.items()})
            state, values = step(state, {}, placed)
            found.append({name: float(x) for name, x in values.items()})
    return found, jax.device_get(state.params)


def test_the_loss_is_the_mean_over_labelled_bases():
    setting, split = config(finetune__class_weights="true"), contigs(100, 40)
    batch = next(Windows(split, setting).batches(0, 4, range(4)))
    counts = np.array([8, 2, 0])
    objective = Token.of(setting, HEAD, counts)
    np.testing.assert_allclose(objective.weights, [10 / 8 / 2, 10 / 2 / 2, 0])
    logits = np.random.default_rng(0).normal(size=(*batch["labels"].shape, 3)).astype(np.float32)

    class Apply:
        def hidden(self, params, batch):
            assert batch["inputs"].shape == (8, 12)
            return jnp.zeros((8, 12, 1))

    params = {"head": {"kernel": np.zeros((2, 9), np.float32), "bias": logits[0, 0].ravel()}}
    sums = objective.sums(Apply(), params, batch)
    log_p = np.asarray(jax.nn.log_softmax(logits[0, 0], axis=-1))
    expected, weight, number = 0.0, 0.0, 0
    for at in np.ndindex(batch["labels"].shape):
        label = batch["labels"][at]
        if label >= 0:
            expected -= objective.weights[label] * log_p[at[-1], label]
            weight, number = weight + objective.weights[label], number + 1
    np.testing.assert_allclose(sums["objective"], expected, rtol=1e-5)
    np.testing.assert_allclose(objective.weight(batch), weight, rtol=1e-5)
    assert int(sums["bases"]) == number > 50
    nothing = {**batch, "labels": np.full_like(batch["labels"], UNLABELLED)}
    assert float(objective.sums(Apply(), params, nothing)["objective"] / objective.weight(nothing)) == 0


def test_steps_on_a_mesh_and_in_microbatches():
    setting = config(model__num_hidden_layers=1)
    source = Windows(contigs(300), setting)
    batches = list(itertools.islice(source.batches(0, 8, range(8)), 3))
    expected, params = trained(setting, iter(batches), 3)
    accumulating = dataclasses.replace(setting, train=dataclasses.replace(setting.train, accumulate=2))
    found, other = trained(accumulating, iter(batches), 3, (1, 2, 2))
    for one, two in zip(found, expected, strict=True):
        assert one == pytest.approx(two, rel=1e-3)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-3), params, other)


def planted(length, seed):
    """The class of each base is whether the base k to its right is C or G."""
    codes = np.random.default_rng(seed).integers(0, 4, length).astype(np.uint8)
    labels = np.append(codes[K:] >= bases.C, [UNLABELLED] * K).astype(np.int8)
    return Annotated("train", (Contig("c", codes, labels),), CLASSES)


def test_what_is_right_of_a_base_is_learned_and_only_from_both_strands():
    model = {"model__num_hidden_layers": 1, "model__hidden_size": 32, "model__initializer_range": 0.1}
    optimizer = {"train__num_steps": 80, "optimizer__peak_learning_rate": "2e-2"}
    setting = config(data__context_length=32, **model, **optimizer)
    source, test, head = Windows(planted(40000, 0), setting), planted(1000, 1), dataclasses.replace(HEAD, context=32)

    def one_strand(batches):
        for batch in batches:
            yield {**batch, "reverse": np.where(batch["inputs"] == PAD, PAD, BOS).astype(np.int32)}

    found, _ = trained(setting, one_strand(source.batches(0, 8, range(8))), 80)
    assert np.mean([step["accuracy"] for step in found[-20:]]) < 0.56
    found, params = trained(setting, source.batches(0, 8, range(8)), 80)
    task, lm = Annotation(test, setting, head), lm_of(setting, params)
    result = task.prepare(setting.spec, lm.mesh)(lm.params)
    assert result.metrics["accuracy"] > 0.99
    assert result.counts == {"contigs": 1, "windows": len(task._rows), "bases": 1000 - K}
    (contig,), (probabilities,) = test.contigs, annotate(lm, head, [bases.decode(test.contigs[0].codes)])
    expected = metrics.evaluate("token", contig.labels[:-K].astype(np.int32), probabilities[:-K])
    assert result.metrics == pytest.approx(expected, nan_ok=True)
    predicted = task.predict(setting.spec, lm.mesh, lm.params)
    np.testing.assert_array_equal(predicted.targets, contig.labels[:-K])
    np.testing.assert_allclose(predicted.probabilities, probabilities[:-K], atol=1e-5)
    assert (np.diff(predicted.groups) >= 0).all()
    assert predicted.contigs.tolist() == [0] * (predicted.groups[-1] + 1)


def test_what_a_token_problem_cannot_have():
    split = contigs(9)
    setting = config()
    on_context = dataclasses.replace(setting, mesh=dataclasses.replace(setting.mesh, fsdp=1, context=2))
    with raises(ConfigError, field="mesh.context", value=2):
        head_of(on_context, AnnotatedSplits(split, split, None, ()))
    with raises(ConfigError, field="finetune.metric", value="loss"):
        Annotation(split, config(finetune__metric="loss"), HEAD)
    with raises(ConfigError, field="finetune.train"):
        Windows(contigs(2), config())
