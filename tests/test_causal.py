import dataclasses
import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gener_jax
from data_pipeline.errors import DataError
from data_pipeline.sequence import bases
from data_pipeline.sequence.tokenizer import BOS, EOS, NUM_SPECIAL, OOV, PAD, SPECIAL_IDS, KmerTokenizer, kmer_codes
from gener_jax.finetuning import causal_run, run
from gener_jax.finetuning.causal import HeldOutSequences, Rows
from gener_jax.finetuning.generated import Generated
from gener_jax.finetuning.run import finetune
from gener_jax.inference.lm import LM
from gener_jax.labelled.examples import Examples
from gener_jax.labelled.splits import read as read_splits
from gener_jax.model import decoder
from gener_jax.model.sharding import make_mesh
from gener_jax.runtime.errors import ConfigError
from gener_jax.storage import provenance
from gener_jax.training.objectives import FNS, Apply, CrossEntropy
from gener_jax.training.step import abstract_state, make_train_step
from tests import labelled_rows, tiny
from tests.conftest import random_params
from tests.raised import raises
from tests.test_finetune import state_of
from tests.test_seams import Recorded, same

pytestmark = pytest.mark.usefixtures("one_device")
SEQUENCES = ["ACGTTG", "ACGTTGCATT", "ACGTNNCA"]
SPECIAL = SPECIAL_IDS["<bct>"]


def examples(sequences, name="train"):
    places = [f"FILE: line {i + 1}" for i in range(len(sequences))]
    return Examples(name, list(sequences), np.zeros((len(sequences), 0), np.float32), places)


def config(**changes):
    return tiny.config("absent", **{"finetune__problem": "causal", "finetune__prefix": "<bct>", **changes})


def kmer(text):
    return KmerTokenizer(3).encode(text).tolist()


def batch_of(sequences, number=None, **changes):
    source = Rows(examples(sequences), config(**changes))
    number = len(sequences) if number is None else number
    return next(source.batches(0, number, range(number)))


def by_row(batch, sequences):
    """The rows of a batch in the order of the sequences."""
    order = Rows(examples(sequences), config()).order(np.arange(len(sequences)))
    return {name: x[np.argsort(order)] for name, x in batch.items()}


def test_rows_by_hand():
    padded = by_row(batch_of(SEQUENCES), SEQUENCES)
    ids = [
        [BOS, SPECIAL, *kmer("ACGTTG"), EOS],
        [BOS, SPECIAL, *kmer("ACGTTGCATTAA"), EOS],
        [BOS, SPECIAL, *kmer("ACG"), OOV, *kmer("CAA"), EOS],
    ]
    known = [[0, 3, 3, 0], [0, 3, 3, 3, 1, 0], [0, 3, 0, 2, 0]]
    assert padded.keys() == {"inputs", "targets", "known_bases"}
    for i, row in enumerate(ids):
        rest = [PAD] * (8 - len(row) + 1)
        assert padded["inputs"][i].tolist() == row[:-1] + rest
        assert padded["targets"][i].tolist() == row[1:] + rest
        assert padded["known_bases"][i].tolist() == known[i] + [0] * len(rest)

    trimmed = by_row(batch_of(SEQUENCES, finetune__remainder="trim"), SEQUENCES)
    assert trimmed.keys() == {"inputs", "targets"}
    assert trimmed["targets"][1].tolist() == [SPECIAL, *kmer("ACGTTGCAT"), EOS, PAD, PAD, PAD]
    assert batch_of(SEQUENCES, finetune__padded_loss="true").keys() == {"inputs", "targets"}


def conditioned(sequences, conditions):
    return dataclasses.replace(examples(sequences), conditions=conditions)


def test_each_row_has_its_own_condition():
    rows = Rows(conditioned(SEQUENCES[:2], ["<mam><cds>", "<bct>"]), config(finetune__prefix="")).rows
    special = [SPECIAL_IDS[token] for token in ("<mam>", "<cds>", "<bct>")]
    assert [row.ids[1 : row.first].tolist() for row in rows] == [special[:2], special[2:]]
    with raises(ConfigError, field="data.context_length", value=3):
        Rows(conditioned(SEQUENCES[:2], ["<bct>", "<mam><cds>"]), config(data__context_length="3"))


def test_what_was_padded_trimmed_and_truncated_is_counted():
    padded, trimmed = (Rows(examples(SEQUENCES), config(finetune__remainder=how)) for how in ("pad", "trim"))
    assert padded.stats == {
        "sequences": 3, "bases": 24, "kept": 24, "trimmed": 0, "truncated": 0, "padded": 3, "tokens": 3 * 32,
    }  # fmt: skip
    assert trimmed.stats["kept"] == 24 - 3
    assert trimmed.stats["trimmed"] == 3
    assert padded.provenance["special_tokens"] == ["<oov>", "<s>", "</s>", "<bct>"]
    assert padded.provenance["padded"] == 3
    assert padded.digest != trimmed.digest


def test_a_long_sequence_is_refused_or_truncated_before_its_end():
    long = ["ACG" * 28 + "TT", "ACG" * 30 + "TT"]  # with <s> and <bct>, 31 and 33 inputs
    with raises(DataError, file="FILE: line 2", field="sequence"):
        Rows(examples(long), config())
    cut, published = (
        Rows(examples(long), config(finetune__long="truncate", finetune__untrimmed=how)) for how in ("false", "true")
    )
    assert cut.rows[1].ids.tolist() == [BOS, SPECIAL, *kmer("ACG" * 30), EOS]
    assert cut.stats["truncated"] == 2
    assert published.rows[1].ids.tolist() == [BOS, SPECIAL, *kmer("ACG" * 30 + "TTA")]
    assert published.stats["truncated"] == 0
    assert [row.ends for row in (*cut.rows, *published.rows)] == [True, False, True, False]
    longer = Rows(examples(["ACG" * 40]), config(finetune__long="truncate", finetune__untrimmed="true"))
    assert longer.rows[0].ids.tolist() == [BOS, SPECIAL, *kmer("ACG" * 31)]
    assert longer.stats["truncated"] == 3 * 9
    for source in (cut, published, longer):
        batch = next(source.batches(0, 2, range(2)))
        assert batch["inputs"].shape == (2, 32)
        assert batch["known_bases"].sum() == 2 * source.stats["kept"] // len(source) or source is not longer


def test_what_cannot_be_a_row():
    with raises(DataError, file="FILE: line 1", field="sequence"):
        Rows(examples(["AC"]), config(finetune__remainder="trim"))
    for field, value in (("prefix", "ACG"), ("prefix", "<cow>"), ("long", "chunks")):
        with raises(ConfigError, field=f"finetune.{field}", value=value):
            Rows(examples(SEQUENCES), config(**{f"finetune__{field}": value}))
    with raises(ConfigError, field="data.context_length", value=3):
        Rows(examples(SEQUENCES), config(finetune__prefix="<bct><cds>", data__context_length="3"))


def test_batches_are_a_function_of_their_number():
    sequences = ["ACG" * n for n in range(1, 8)]
    source = Rows(examples(sequences), config())
    straight = list(itertools.islice(source.batches(0, 4, range(4)), 7))
    assert sorted(row.tobytes() for x in straight for row in _unpadded(x)) == sorted(
        row.ids[:-1].tobytes() for row in source.rows * 4
    )
    later = next(source.batches(20, 4, [1, 3]))
    for name, x in later.items():
        assert np.array_equal(x, straight[5][name][[1, 3]])
    epochs = source.order(np.arange(14)).reshape(2, 7)
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(7))
    assert epochs[0].tolist() != epochs[1].tolist()


def _unpadded(batch):
    return [row[row != PAD] for row in batch["inputs"]]


# The loss.


MODEL = config().model
PARAMS = random_params(MODEL, seed=1)
APPLY = Apply(decoder.Decoder(MODEL))
OBJECTIVES = [CrossEntropy(KmerTokenizer(3)), FNS(KmerTokenizer(3))]


@functools.partial(jax.jit, static_argnums=0)
def sums_of(objective, params, batch):
    return objective.sums(APPLY, params, batch)


def sums(objective, batch):
    return sums_of(objective, PARAMS, batch)


def probabilities(batch):
    """p of every next token, float64 [B, T, V]."""
    logits = APPLY.logits(PARAMS, APPLY.hidden(PARAMS, batch))
    return np.float64(jax.nn.softmax(logits, axis=-1))


def test_the_loss_is_that_of_the_known_bases():
    batch = by_row(batch_of(SEQUENCES), SEQUENCES)
    p, codes = probabilities(batch), kmer_codes(3)
    nll = {"exact": 0.0, "by_base": 0.0}
    for row, text in enumerate(SEQUENCES):
        for t, (target, known) in enumerate(zip(batch["targets"][row], batch["known_bases"][row], strict=True)):
            if target in (PAD, OOV):
                continue
            if target < NUM_SPECIAL:
                nll["exact"] -= math.log(p[row, t, target])
                nll["by_base"] -= math.log(p[row, t, target]) / 3
                continue
            own = bases.encode(text)[3 * (t - 1) :][:3]
            assert len(own) == known
            agree = (codes[:, :known] == own).all(1)
            nll["exact"] -= math.log(p[row, t, NUM_SPECIAL:][agree].sum())
            for j, base in enumerate(own):
                nll["by_base"] -= math.log(p[row, t, NUM_SPECIAL:][codes[:, j] == base].sum()) / 3
    for objective, expected in zip(OBJECTIVES, nll.values(), strict=True):
        found = sums(objective, batch)
        assert float(found["objective"]) == pytest.approx(expected, rel=1e-5)
        assert int(found["bases"]) == 24 - 3  # those of <oov> have no loss
        assert float(objective.weight(batch)) == 3 * 2 + 2 + 4 + 2


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_padded_bases_have_no_loss_unless_they_should(objective):
    batch = by_row(batch_of(SEQUENCES[:2]), SEQUENCES[:2])
    other = {**batch, "targets": np.where(batch["known_bases"] == 1, kmer("TGC")[0], batch["targets"])}
    gradient = jax.jit(jax.grad(lambda params, batch: objective.sums(APPLY, params, batch)["objective"]))
    one, two = (gradient(PARAMS, x) for x in (batch, other))
    jax.tree.map(np.testing.assert_array_equal, one, two)

    def plain(batch):
        return {name: x for name, x in batch.items() if name != "known_bases"}

    published = batch_of(SEQUENCES[:2], finetune__padded_loss="true")
    found = [float(sums(objective, x)["objective"]) for x in (batch, plain(batch), plain(other), published)]
    assert len({round(x, 3) for x in found}) == 3
    assert found[1] == pytest.approx(found[3], rel=1e-6)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_known_bases_of_whole_kmers_change_nothing(objective):
    batch = batch_of(["ACGTTG", "ACGTTGCAT"])
    plain = {name: batch[name] for name in ("inputs", "targets")}
    for name, x in sums(objective, plain).items():
        assert float(x) == pytest.approx(float(sums(objective, batch)[name]), rel=1e-6), name


# A model that learns.


def trained(config, source, steps, objective, sizes=(1, 1, 1)):
    mesh = make_mesh(*sizes, jax.devices()[: math.prod(sizes)])
    shapes = abstract_state(config, mesh)
    state = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
    state = dataclasses.replace(state, params=jax.device_get(random_params(config.model)), rate_scale=np.float32(1))
    with jax.sharding.set_mesh(mesh):
        state = jax.device_put(state, jax.tree.map(lambda x: x.sharding, shapes))
        step = make_train_step(config, mesh, objective, source.axes)
        for batch in itertools.islice(
            source.batches(0, config.train.batch_size, range(config.train.batch_size)), steps
        ):
            state, metrics = step(state, {}, {name: jnp.asarray(x) for name, x in batch.items()})
    return state.params, mesh, {name: float(x) for name, x in metrics.items()}


@pytest.mark.parametrize("fns", [False, True])
def test_two_sequences_are_learned_with_their_ends(fns):
    texts = ["ATGGCATTCGACTAA", "ATCGCATTCGACCCGTTGAGACAATGA"]  # FNS cannot choose between k-mers
    options = {"optimizer__warmup_steps": "0", "train__num_steps": "400", "finetune__prefix": "<cds>"}
    overfit = config(model__hidden_size="32", model__num_hidden_layers="2", **options)
    source = Rows(examples(texts), overfit)
    tokenizer = overfit.tokenizer.make()
    params, mesh, _ = trained(overfit, source, 400, (FNS if fns else CrossEntropy)(tokenizer))
    lm = LM(overfit.spec, params, mesh)
    found = lm.generate(["<cds>ATG", "<cds>ATC"], 60, num_samples=4, stop=["</s>"], details=True, seed=1)
    assert [(x.text, x.end) for x in found] == [(text[3:], "</s>") for text in texts for _ in range(4)]
    task = HeldOutSequences(source)
    result = task.prepare(lm.spec, mesh)(lm.params, lambda done, total: None)
    assert result.metrics["end_auroc"] == 1
    assert result.metrics["end_log_p"] > -0.1
    assert result.counts == {"sequences": 2, "bases": 42, "ends": 2, "inner_positions": 4 + 8}
    generated = Generated(overfit_with(overfit, 16), examples(texts), examples(["ATGTAA"], "validation"))(lm)
    assert generated.metrics["ended"] == 1
    assert generated.counts["samples"] == 16
    assert generated.baselines["train"]["median_bases"] == 21
    assert generated.baselines["train"]["length_distance"] == 0
    assert generated.metrics["copies"] == 1
    assert generated.baselines["validation"]["copies"] == 0


def test_steps_and_measures_on_a_mesh_are_those_of_one_device(eight_devices):
    texts = ["ACG" * n + "TT" for n in range(1, 9)]
    settings = config()
    source, objective = Rows(examples(texts), settings), FNS(KmerTokenizer(3))
    found = []
    for sizes in ((1, 1, 1), (2, 2, 2)):
        params, mesh, metrics = trained(settings, source, 2, objective, sizes)
        result = HeldOutSequences(source).prepare(settings.spec, mesh)(params)
        values = result.metrics["bits_per_base"], result.metrics["end_log_p"], metrics["loss"]
        found.append(values)
    assert found[0] == pytest.approx(found[1], rel=1e-3)


def overfit_with(config, samples):
    return dataclasses.replace(config, sample=dataclasses.replace(config.sample, num_samples=samples))


def test_a_held_out_sequence_is_measured_exactly():
    lm = LM(config().spec, PARAMS, make_mesh(1, 1, 1, jax.devices()[:1]))
    source = Rows(examples(SEQUENCES[:2]), config())
    result = HeldOutSequences(source).prepare(lm.spec, lm.mesh)(lm.params)
    scores = lm.log_likelihood(["<bct>" + text for text in SEQUENCES[:2]])
    assert result.metrics["bits_per_base"] == pytest.approx(-sum(x.value for x in scores) / 16 / math.log(2), rel=1e-5)
    log_p = [jax.nn.log_softmax(lm.logits(row.ids[None, :-1])[0, -1])[EOS] for row in source.rows]
    assert result.metrics["end_log_p"] == pytest.approx(float(np.mean(log_p)), rel=1e-5)


def test_copies_are_found_on_either_strand():
    rng = np.random.default_rng(0)
    texts = [bases.decode(rng.integers(0, 4, 300).astype(np.uint8)) for _ in range(3)]
    turned = bases.decode(bases.reverse_complement(bases.encode(texts[0])))
    made = [turned, texts[1][:60] + texts[2][:60][::-1] * 3, texts[2][::-1]]
    task = Generated(config(), examples(texts[:2]), examples(texts[2:], "test"))
    found = task.beside(examples(made, "generated"), KmerTokenizer(3))
    assert found["copies"] == pytest.approx(2 / 3)
    assert found["length_distance"] == pytest.approx(1 / 3)
    assert found["kmers_in_training"] == pytest.approx((1 + 29 / 209) / 3)


# A run.


def fasta(texts, conditions):
    return "".join(f">{i} tokens={conditions[i % len(conditions)]}\n{text}\n" for i, text in enumerate(texts))


def of_family(folder, conditions, method, **options):
    """The configuration of a run of seconds, and two sequences of its family that share 32-mers."""
    rng = np.random.default_rng(0)
    texts = ["ATG" + "".join(rng.choice(["ACG", "GTC", "CTT", "GAA"], n)) + "TA" for n in range(12, 32, 2)]
    copies = {texts[0], texts[0] + "A"}
    (folder / "family.fa").write_text(fasta([*texts, texts[0] + "A"], conditions))
    options |= {"finetune__problem": "causal", "finetune__folds": "4", "finetune__epochs": "6"}
    options |= {"finetune__method": method, "objective__fns_from_step": "0"}
    base = labelled_rows.base(folder / "base")
    return labelled_rows.config(base, folder / "family.fa", **options), copies


def bits_per_base(lm, texts, before):
    scores = lm.log_likelihood([tokens + text for tokens, text in zip(before, texts, strict=True)])
    return -sum(x.value for x in scores) / sum(map(len, texts)) / math.log(2)


def test_a_run_ends_in_a_model_measured_by_condition_and_relatives(tmp_path):
    conditions = ["<mam><cds>", "<bct><cds>"]
    config, copies = of_family(tmp_path, conditions, "full", finetune__condition="tokens")
    found = finetune(config, tmp_path / "run")
    assert {x.task for x in found.evaluations} == {"finetune", "generated"}
    assert found["generated"].counts["samples"] == 2
    assert found["finetune"].dataset.split == "validation"
    assert found["finetune"].counts["related_to_training"] == 0
    data = provenance.read(tmp_path / "run").data[-1]
    assert sorted(data["special_tokens"]) == ["</s>", "<bct>", "<cds>", "<mam>", "<s>"]
    lm = gener_jax.load(tmp_path / "run", step=found["finetune"].model.step)
    splits = read_splits(config.finetune, config.train.seed)
    assert len(copies & set(splits.validation.sequences)) in (0, 2)
    expected = bits_per_base(lm, splits.validation.sequences, splits.validation.conditions)
    assert found["finetune"]["bits_per_base"] == pytest.approx(expected, rel=1e-4)

    longest = max(splits.train.sequences, key=len)  # a relative, and one that is not, in files named after the end
    texts = [longest + "A", "ATGGCC" * 3]
    (tmp_path / "test.fa").write_text(fasta(texts, conditions))
    tested = dataclasses.replace(config.finetune, test=(str(tmp_path / "test.fa"),))
    measured = finetune(dataclasses.replace(config, finetune=tested), tmp_path / "run")
    assert [x.dataset.split for x in measured.evaluations if x.dataset] == ["test", "validation"]
    assert measured.evaluations[1].metrics == found["finetune"].metrics
    assert measured["finetune"].counts["related_to_training"] == 1
    groups = measured["finetune"].breakdown
    alone = [bits_per_base(lm, [text], [tokens]) for text, tokens in zip(texts, conditions, strict=True)]
    for column, names in (("condition", conditions), ("closest_training_protein", ["up to 100 %", "not related"])):
        assert groups[column].keys() == set(names)
        assert [groups[column][name]["bits_per_base"] for name in names] == pytest.approx(alone, rel=1e-4)
    generated = measured["generated"].breakdown["condition"]
    assert generated.keys() == set(conditions)
    assert [row["samples"] for row in generated.values()] == [1, 1]
    assert measured["generated"]["ended"] == np.mean([row["ended"] for row in generated.values()])


@pytest.mark.slow
def test_a_killed_run_of_adapters_resumes_to_the_same_bits(tmp_path, monkeypatch):
    options = {"finetune__prefix": "<cds>", "finetune__max_identity": "none"}
    config, copies = of_family(tmp_path, [""], "lora", **options)
    found = finetune(config, tmp_path / "run")
    assert found["generated"].counts["samples"] == 1
    assert not found["finetune"].breakdown
    assert provenance.read(tmp_path / "run").data[-1]["special_tokens"] == ["<s>", "</s>", "<cds>"]
    held_out = read_splits(config.finetune, config.train.seed).validation.sequences
    assert len(copies & set(held_out)) in (0, 2)
    lm = gener_jax.load(tmp_path / "run", step=found["finetune"].model.step)
    expected = bits_per_base(lm, held_out, ["<cds>"] * len(held_out))
    assert found["finetune"]["bits_per_base"] == pytest.approx(expected, rel=1e-4)

    def interrupted(*arguments):
        plan = causal_run.plan(*arguments)
        return dataclasses.replace(plan, source=Recorded(plan.source, 4))

    with monkeypatch.context() as patch:
        patch.setitem(run._PLANS, "causal", interrupted)
        with pytest.raises(KeyboardInterrupt):
            finetune(config, tmp_path / "other")
    assert finetune(config, tmp_path / "other")["finetune"].metrics == found["finetune"].metrics
    one, two = (state_of(tmp_path / name) for name in ("run", "other"))
    same(one, two)
    assert all("adapters" in name or "optimizer" in name for name in one)
