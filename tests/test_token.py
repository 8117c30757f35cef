"""Fine-tuning on labels per base: both strands, the source, the objective, the evaluation."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gener_jax
from data_pipeline.sequence import bases
from data_pipeline.sequence.tokenizer import BOS, PAD
from gener_jax import predict
from gener_jax.config import Head
from gener_jax.data.loader import to_devices
from gener_jax.finetuning.run import finetune
from gener_jax.finetuning.token import NEIGHBOURS, PREDICTIONS, Annotation, Labelled, Token, Windows, interval_of
from gener_jax.inference.lm import LM
from gener_jax.labelled import annotation, windows
from gener_jax.labelled.annotation import UNLABELLED, Annotated, AnnotatedSplits, Contig
from gener_jax.model import decoder, heads
from gener_jax.model.sharding import batch_sharding, make_mesh, on
from gener_jax.runtime.errors import ConfigError, InputError
from gener_jax.statistics import metrics
from gener_jax.statistics.intervals import bootstrap
from gener_jax.training.step import abstract_state, make_train_step
from tests import labelled_rows, tiny
from tests.conftest import random_params
from tests.raised import raises
from tests.test_finetune import interrupt, state_of
from tests.test_seams import same

pytestmark = pytest.mark.usefixtures("one_device")
CLASSES = ("yes", "no", "other")
K = 3


def settings(**changes):
    model = {"model__num_hidden_layers": 2, "model__initializer_range": 0.3, "data__context_length": 12}
    model |= {"prompt_convention": "v1"}  # of `embed`, with which predictions are compared
    return tiny.config("absent", **{**model, "finetune__problem": "token", "finetune__metric": "mcc", **changes})


def contigs(*lengths, seed=0):
    rng = np.random.default_rng(seed)
    found = []
    for i, length in enumerate(lengths):
        codes = rng.choice(5, length, p=[0.24] * 4 + [0.04]).astype(np.uint8)
        labels = rng.integers(-1, len(CLASSES), length).astype(np.int8)
        found.append(Contig(f"c{i}", codes, np.where(codes < bases.N, labels, UNLABELLED).astype(np.int8)))
    return Annotated("train", tuple(found), CLASSES)


def of(train):
    return AnnotatedSplits(train, train, None, ())


def model_of(config, head, seed=0):
    """Random parameters of the decoder and the head."""
    params = random_params(config.model, seed)
    rng = np.random.default_rng(seed)
    size = head.num_inputs(config.model.hidden_size), head.num_outputs(K)
    return {
        **params,
        "head": {"kernel": rng.normal(size=size).astype(np.float32), "bias": np.zeros(size[1], np.float32)},
    }


def lm_of(config, params, head):
    mesh = make_mesh(1, 1, 1, jax.devices()[:1])
    params = jax.device_put(params)
    return LM(
        config.spec, {n: x for n, x in params.items() if n != "head"}, mesh, head=head, head_params=params["head"]
    )


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
    setting = settings(**({"model__num_hidden_layers": layer} if layer else {}))
    sequences = ["".join(np.random.default_rng(n).choice(list("ACGT"), n)) for n in (33, 18)]
    params = model_of(setting, head)
    lm = lm_of(setting, params, head)
    found = lm.annotate(sequences)
    for dna, probabilities in zip(sequences, found, strict=True):
        for token in range(len(dna) // K):
            to, since = dna[: (token + 1) * K], dna[token * K :]
            since = bases.decode(bases.reverse_complement(bases.encode(since)))
            states = lm.embed([to, since], pooling="last", layer=layer)
            logits = (np.concatenate(states) @ params["head"]["kernel"]).reshape(K, len(CLASSES))
            expected = jax.nn.softmax(logits, axis=-1)
            np.testing.assert_allclose(probabilities[token * K : (token + 1) * K], expected, atol=2e-5)


def test_a_base_changes_labels_on_both_sides_of_it():
    setting = settings()
    params = model_of(setting, HEAD)
    dna = "ACGTTGCATTAGCCATGACGGATACCATTAGCA"
    changed = dna[:16] + "T" + dna[17:]

    def difference(params):
        one, other = lm_of(setting, params, HEAD).annotate([dna, changed])
        return np.abs(one - other).max(1)

    assert (difference(params) > 1e-6).all()
    params["head"]["kernel"][setting.model.hidden_size :] = 0  # a head that reads one strand
    assert not difference(params)[:15].any()
    assert (difference(params)[15:] > 1e-6).all()


def test_the_reverse_complement_has_the_mirrored_predictions():
    setting = settings()
    params = model_of(setting, HEAD)
    kernel = params["head"]["kernel"].reshape(2, -1, K, len(CLASSES))
    params["head"]["kernel"] = (kernel + kernel[::-1, :, ::-1]).reshape(2 * setting.model.hidden_size, -1)
    dna = "ACGTTGCATTAGNCATGACGGATACCATTA"
    mirrored = bases.decode(bases.reverse_complement(bases.encode(dna)))
    one, other = lm_of(setting, params, HEAD).annotate([dna, mirrored])
    np.testing.assert_allclose(one, other[::-1], atol=1e-5)
    assert np.ptp(one, axis=0).min() > 0.01


def test_long_and_short_sequences():
    setting = settings()
    lm = lm_of(setting, model_of(setting, HEAD), HEAD)
    dna = "".join(np.random.default_rng(0).choice(list("ACGT"), 100))
    whole, two, one, none = lm.annotate([dna, dna[:2], dna[:5], ""])
    assert (whole.shape, one.shape, none.shape) == ((100, 3), (5, 3), (0, 3))
    np.testing.assert_allclose(whole.sum(1), 1, atol=1e-5)
    np.testing.assert_allclose(one.sum(1), 1, atol=1e-5)
    assert np.isnan(two).all()
    start, stop, first, last = windows.cut(0, 100, 11, K, windows.number(100, 11, K), 1)
    alone = lm.annotate([dna[start:stop]])[0]
    np.testing.assert_allclose(whole[first:last], alone[first - start : last - start], atol=1e-5)
    with raises(InputError, argument="sequences[0]"):
        lm.annotate(["<mam>ACGTAC"])
    for other in (None, Head("single_label", CLASSES)):
        lm.head = other
        with raises(InputError, argument="head"):
            lm.annotate(["ACGTAC"])


@pytest.mark.parametrize("phase", [False, True])
def test_an_epoch_labels_each_base_once(phase):
    split = contigs(100, 40, 12, 7, 2)
    source = Windows(of(split), settings(data__random_phase=phase))
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
    split, setting = contigs(100, 40), settings()
    source = Windows(of(split), setting)
    first = list(itertools.islice(source.batches(0, 4, range(4)), 5))
    later = next(source.batches(12, 4, [1, 3]))
    for name, x in later.items():
        np.testing.assert_array_equal(x, first[3][name][[1, 3]])
    assert source.digest == Windows(of(split), setting).digest
    assert source.digest != Windows(of(split), settings(data__context_length=16)).digest
    assert source.digest != Windows(of(contigs(100, 40, seed=1)), setting).digest


def trained(setting, batches, num_steps, sizes=(1, 1, 1), objective=None):
    """The metrics of the steps, and the parameters after them."""
    head = Head("token", CLASSES, context=setting.data.context_length)
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
    setting, split = settings(finetune__class_weights="true"), contigs(100, 40)
    batch = next(Windows(of(split), setting).batches(0, 4, range(4)))
    counts = np.array([8, 2, 0])
    objective = Token.of(setting, HEAD, counts)
    np.testing.assert_allclose(objective.weights, [10 / 8 / 2, 10 / 2 / 2, 0])
    logits = np.random.default_rng(0).normal(size=(*batch["labels"].shape, 3)).astype(np.float32)

    class Apply:
        def hidden(self, params, batch, *, final_norm):
            assert final_norm
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


def test_steps_and_evaluation_on_a_mesh_and_in_microbatches(eight_devices):
    setting = settings(model__num_hidden_layers=1)
    split = contigs(300)
    source = Windows(of(split), setting)
    batches = list(itertools.islice(source.batches(0, 8, range(8)), 3))
    expected, params = trained(setting, iter(batches), 3)
    accumulating = dataclasses.replace(setting, train=dataclasses.replace(setting.train, accumulate=2))
    found, other = trained(accumulating, iter(batches), 3, (1, 2, 2))
    for one, two in zip(found, expected, strict=True):
        assert one == pytest.approx(two, rel=1e-3)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-3), params, other)
    task, meshes = Annotation(split, setting, HEAD), (make_mesh(1, 1, 1, jax.devices()[:1]), make_mesh(2, 2, 2))
    one, many = (task.prepare(setting.spec, mesh)(jax.device_put(params)).metrics for mesh in meshes)
    assert one == pytest.approx(many, rel=1e-3, nan_ok=True)


def planted(length, seed):
    """The class of each base is whether the base k to its right is C or G."""
    codes = np.random.default_rng(seed).integers(0, 4, length).astype(np.uint8)
    labels = np.append(codes[K:] >= bases.C, [UNLABELLED] * K).astype(np.int8)
    return Annotated("train", (Contig("c", codes, labels),), CLASSES)


def test_what_is_right_of_a_base_is_learned_and_only_from_both_strands():
    model = {"model__num_hidden_layers": 1, "model__hidden_size": 32, "model__initializer_range": 0.1}
    optimizer = {"train__num_steps": 80, "optimizer__peak_learning_rate": "2e-2"}
    setting = settings(data__context_length=32, **model, **optimizer)
    source, test = Windows(of(planted(40000, 0)), setting), planted(1000, 1)

    def one_strand(batches):
        for batch in batches:
            yield {**batch, "reverse": np.where(batch["inputs"] == PAD, PAD, BOS).astype(np.int32)}

    found, _ = trained(setting, one_strand(source.batches(0, 8, range(8))), 80)
    assert np.mean([step["accuracy"] for step in found[-20:]]) < 0.56
    found, params = trained(setting, source.batches(0, 8, range(8)), 80)
    head = dataclasses.replace(HEAD, context=32)
    task, lm = Annotation(test, setting, head), lm_of(setting, params, head)
    tree = {**lm.params, "head": lm.head_params}
    result = task.prepare(setting.spec, lm.mesh)(tree)
    assert result.metrics["accuracy"] > 0.99
    assert result.counts == {"contigs": 1, "windows": len(task.rows), "bases": 1000 - K}
    (contig,), (probabilities,) = test.contigs, lm.annotate([bases.decode(test.contigs[0].codes)])
    expected = metrics.evaluate("token", contig.labels[:-K].astype(np.int32), probabilities[:-K])
    assert result.metrics == pytest.approx(expected, nan_ok=True)
    predicted = task.predict(setting.spec, lm.mesh, tree)
    np.testing.assert_array_equal(predicted.targets, contig.labels[:-K])
    np.testing.assert_allclose(predicted.probabilities, probabilities[:-K], atol=1e-5)
    assert predicted.windows.tolist() == sorted(predicted.windows.tolist())
    assert predicted.windows[-1] == len(task.rows) - 1


def test_an_interval_by_counts_is_that_of_all_bases():
    rng = np.random.default_rng(0)
    targets, probabilities = rng.integers(0, 3, 900).astype(np.int32), rng.dirichlet([1] * 3, 900)
    probabilities[np.arange(900), targets] += 0.3
    found = Labelled(targets, probabilities / 1.3, np.repeat(np.arange(45, dtype=np.int32), 20))
    for metric in ("mcc", "f1_macro", "auroc"):
        expected = bootstrap("token", metric, found.targets, found.probabilities, found.windows)
        assert interval_of(metric, found) == pytest.approx(expected, rel=1e-2)
    assert interval_of("mcc", found.take(found.windows < 20)) is None
    assert interval_of("mcc", found.take(found.targets < 2)) is None


# A run.


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return labelled_rows.base(tmp_path_factory.mktemp("base") / "model")


@pytest.fixture(scope="module")
def genome(tmp_path_factory):
    """Three contigs, in which the bases of two motifs have a class each; and a copy of the end of one in another."""
    folder, rng, fasta, rows = tmp_path_factory.mktemp("genome"), np.random.default_rng(0), "", ""
    copied = None
    for name, length in (("a", 1500), ("b", 500), ("c", 400)):
        letters = rng.choice(list("ACGT"), length)
        if name == "c":
            letters[-150:] = copied
        for at in range(4, length - 170, 30):
            motif, label = (("TTAGGCATT", "x"), ("GGCCGGCCG", "y"))[int(rng.integers(2))]
            letters[at : at + 9] = list(motif)
            rows += f"{name}\t{at}\t{at + 9}\t{label}\n"
        copied = letters[-150:].copy() if name == "a" else copied
        fasta += f">{name}\n{''.join(letters)}\n"
    (folder / "genome.fa").write_text(fasta)
    (folder / "labels.bed").write_text(rows)
    return folder


def run_config(base, genome, **changes):
    files = f"{genome / 'genome.fa'},{genome / 'labels.bed'}"
    options = {"finetune__problem": "token", "finetune__validation": "b", "finetune__test": "c"}
    options |= {"finetune__epochs": "12", "data__context_length": "17"}
    return labelled_rows.config(base, files, **{**options, **changes})


METHODS = {
    "full": {},
    "lora": {"finetune__epochs": "2"},
    "frozen": {"finetune__layer": "1", "finetune__class_weights": "True"},
}


@pytest.fixture(scope="module")
def straight(base, genome, tmp_path_factory):
    """A run of a method that was not interrupted, once for all tests: its configuration, folder and results."""

    @functools.cache
    def run(method):
        folder = tmp_path_factory.mktemp(method) / "run"
        options = {"finetune__method": method, "optimizer__peak_learning_rate": "3e-2", **METHODS[method]}
        config = run_config(base, genome, **options)
        return config, folder, finetune(config, folder)

    return run


@pytest.mark.parametrize("method", ["full", *(pytest.param(x, marks=pytest.mark.slow) for x in ("lora", "frozen"))])
def test_a_run_from_a_genome_to_gff3(straight, genome, tmp_path, method):
    _, folder, found = straight(method)
    test, validation = found.evaluations
    assert (test.dataset.split, validation.dataset.split) == ("test", "validation")
    assert test.metrics["mcc"].value > {"full": 0.1, "lora": -1, "frozen": 0}[method]  # of random weights
    assert test.breakdown["class"].keys() == {"x", "y", "other"}
    assert test.baselines["majority"]["mcc"] == 0
    assert 0 < test.counts["copied_windows"] < test.counts["windows"]
    assert "without copies of training" in test.breakdown["windows"]
    lm = gener_jax.load(folder)
    assert lm.spec.model.num_hidden_layers == (1 if method == "frozen" else 2)
    assert lm.head.context == 17
    dna = (genome / "genome.fa").read_text().split("\n")[5]
    text = annotation.GFF3 + annotation.gff3("c", lm.annotate([dna])[0], lm.head.names)
    lines = [[*line.split("\t")[2:5]] for line in (folder / PREDICTIONS).read_text().splitlines()[2:]]
    assert lines == [[*line.split("\t")[2:5]] for line in text.splitlines()[2:]]
    assert {kind for kind, *_ in lines} <= {"x", "y"}
    if method == "full":  # the command, which resumes
        output = tmp_path / "found.gff3"
        command = ["--checkpoint", str(folder), "--input", str(genome / "genome.fa"), "--output", str(output)]
        assert predict.main(command) == 0
        rows = [line.split("\t") for line in output.read_text().splitlines()]
        assert rows[0] == [annotation.GFF3.strip()]
        assert [row[2:5] for row in rows if row[0] == "c"] == lines
        assert {row[0] for row in rows if len(row) == 9} == {"a", "b", "c"}
        with raises(ConfigError, field="--checkpoint"):
            predict.main([*command[:-1], str(tmp_path / "found.tsv")])


@pytest.mark.parametrize("method", ["full", pytest.param("frozen", marks=pytest.mark.slow)])
def test_a_run_killed_twice_resumes_to_the_same_bits(straight, tmp_path, method, monkeypatch):
    config, folder, expected = straight(method)
    for number in (11, 21):  # batches until Ctrl-C; two are read ahead
        with monkeypatch.context() as patch:
            interrupt(patch, Windows, number)
            with pytest.raises(KeyboardInterrupt):
                finetune(config, tmp_path / "run")
        assert any((tmp_path / "run" / "checkpoints").iterdir())
    assert finetune(config, tmp_path / "run").evaluations[0].metrics == expected.evaluations[0].metrics
    moved = state_of(folder)
    same(state_of(tmp_path / "run"), moved)
    assert any("head" in name for name in moved)
    assert any("embed" in name for name in moved) == (method == "full")


def test_what_a_token_problem_cannot_have(base, genome, tmp_path):
    wrong = {"finetune.metric": "loss", "finetune.layer": "sweep", "finetune.test": ("z",)}
    for field, value in wrong.items():
        changes = {field.replace(".", "__"): value[0] if isinstance(value, tuple) else value}
        config = run_config(base, genome, finetune__method="frozen", **changes)
        with raises(ConfigError, field=field, value="z" if field == "finetune.test" else value):
            finetune(config, tmp_path / "run")
    with raises(ConfigError, field="finetune.train"):
        Windows(of(contigs(2)), settings())


def test_baselines_see_the_neighbours_of_the_bases_they_predict():
    split = contigs(100, 40)
    task = Annotation(split, settings(), HEAD)
    found, chosen = task.sample(50)
    everything, _ = task.sample(1000)
    targets = np.concatenate([contig.labels[contig.labels >= 0] for contig in split.contigs])
    np.testing.assert_array_equal(everything.targets, targets)
    np.testing.assert_array_equal(found.targets, targets[chosen])
    assert len(set(chosen.tolist())) == 50
    assert {len(sequence) for sequence in found.sequences} == {2 * NEIGHBOURS + 1}
    middle = "".join(sequence[NEIGHBOURS] for sequence in everything.sequences)
    known = "".join(bases.decode(contig.codes[contig.labels >= 0]) for contig in split.contigs)
    assert middle == known
    assert everything.sequences[-1].rstrip("N")[-40:] == bases.decode(split.contigs[1].codes).rstrip("N")[-40:]
