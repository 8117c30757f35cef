"""The training loop with a model of a few thousand parameters: resumed runs, written files, transfers."""

import contextlib
import dataclasses
import hashlib
import importlib
import io
import json
import re
import shlex
import shutil
import sys
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipeline import train_bpe
from data_pipeline.dataset.builder import build
from data_pipeline.errors import DatasetError
from data_pipeline.sequence.tokenizer import make
from gener_jax import evaluate, sample, train
from gener_jax.assets import EXAMPLE_GENOME
from gener_jax.cli import command
from gener_jax.config import Config, dumps
from gener_jax.inference import batches
from gener_jax.inference.lm import load
from gener_jax.model.sharding import make_mesh
from gener_jax.model.trainable import everything
from gener_jax.runtime import transfer
from gener_jax.runtime.errors import ConfigError
from gener_jax.storage import results, run_folder
from gener_jax.training import checkpoint, hooks, loop
from gener_jax.training import run as training_run
from gener_jax.training.step import abstract_state
from tests import tiny
from tests.data import random_codes
from tests.raised import raises

pytestmark = pytest.mark.usefixtures("two_devices")

SPEEDS = ("tokens_per_s", "bases_per_s")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return tiny.genomes(tmp_path_factory.mktemp("data") / "genomes")


def state_of(folder, step=None, devices=8, trains=everything):
    """The parameters and optimizer state of a checkpoint as numpy arrays by name, and the loader's state."""
    config = run_folder.read(folder)
    target = abstract_state(config, make_mesh(1, -1, 1, devices=jax.devices()[:devices]), trains)
    checkpoints = checkpoint.Checkpoints(folder, 2)
    state, loader = checkpoints.restore(checkpoints.latest_step if step is None else step, target)
    checkpoints.close()
    return {jax.tree_util.keystr(p): np.asarray(x) for p, x in jax.tree_util.tree_leaves_with_path(state)}, loader


def same_state(one, other):
    (one, loader), (other, other_loader) = one, other
    return loader == other_loader and one.keys() == other.keys() and all(np.array_equal(one[n], other[n]) for n in one)


def log_of(folder):
    """The log without speeds."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in SPEEDS} for line in lines]


class Watch:
    """Records what a run in this process does: its batches, its programs, and its reads from the device."""

    def __init__(self, patch, stop_at=None):
        self.batches, self.fetches, self.guarded, self.steps = {}, {"train": 0, "held_out": 0, "checksum": 0}, [], []
        for module, name in ((hooks, "train"), (batches, "held_out"), (run_folder, "checksum")):
            patch.setattr(module, "fetch", self.counting(transfer.fetch, name))
        make_step, device_batches = loop.make_train_step, loop.device_batches

        def watched_step(*arguments):
            step = make_step(*arguments)
            self.steps.append(step)

            def run(state, frozen, batch):
                if stop_at is not None and int(np.asarray(jax.device_get(state.step))) == stop_at:
                    raise KeyboardInterrupt
                with contextlib.suppress(jax.errors.JaxRuntimeError):
                    jnp.zeros(3) + np.ones(3)
                    self.guarded.append("an implicit transfer was possible")
                return step(state, frozen, batch)

            return run

        def watched_batches(source, batch_size, position, *arguments):
            batches = device_batches(source, batch_size, position, *arguments)
            for number, batch in enumerate(batches, position // batch_size + 1):
                arrays = jax.device_get((batch["inputs"], batch["targets"]))
                self.batches[number] = hashlib.sha256(b"".join(x.tobytes() for x in arrays)).hexdigest()
                yield batch

        patch.setattr(loop, "make_train_step", watched_step)
        patch.setattr(loop, "device_batches", watched_batches)

    def counting(self, function, name):
        def counted(tree):
            self.fetches[name] += 1
            return function(tree)

        return counted


@pytest.fixture(scope="module")
def straight(dataset, tmp_path_factory):
    """Twelve uninterrupted steps, run by the command."""
    folder = tmp_path_factory.mktemp("straight")
    experiment = tiny.experiment(folder / "tiny.py", dataset)
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out):
        watch, before = Watch(patch), transfer.num_fetches
        train.main([f"--config={experiment}", f"--workdir={folder / 'run'}"])
        watch.total = transfer.num_fetches - before
    watch.folder, watch.experiment, watch.out = folder / "run", experiment, out.getvalue()
    watch.result = results.read(watch.folder)
    return watch


def test_what_a_run_prints_and_writes(straight, dataset):
    last = json.loads(straight.out.splitlines()[-1])
    result = straight.result
    assert last == result.json()
    assert [each.task for each in result.evaluations] == ["held_out", "samples"]
    assert {each.model.step for each in result.evaluations} == {12}
    for name in ("loss", "bits_per_base", "tokens_per_s", "bases_per_s", "seconds"):
        assert result.training[name] > 0, name
    assert result["held_out"].seconds > 0
    assert result["held_out"].baselines.keys() == {"markov_0", "markov_5"}
    assert {path.name for path in (straight.folder / "plots").iterdir()} == {"loss.png", "held_out.png", "by_group.png"}
    log = log_of(straight.folder)
    steps = [line for line in log if "loss" in line]
    assert [line["step"] for line in steps] == list(range(1, 13))
    assert steps[-1]["loss"] == result.training["loss"] < steps[0]["loss"]
    evaluations = [line for line in log if "held_out" in line]
    assert [line["step"] for line in evaluations] == [3, 4, 6, 8, 9, 12]  # each checkpoint too
    assert evaluations[-1]["held_out"]["loss"] == result["held_out"]["loss"]  # the last evaluation is not done again
    assert sorted(p.name for p in straight.folder.iterdir()) == [
        "checkpoints", "config.json", "environment.json", "log.jsonl", "plots", "provenance.json", "results.json",
    ]  # fmt: skip
    environment = json.loads((straight.folder / "environment.json").read_text())[0]
    assert environment["versions"]["jax"] == jax.__version__
    config = run_folder.read(straight.folder)
    assert (config.name, config.model.vocab_size, config.model.head_dim) == ("run", 96, 8)  # as its folder
    assert config == tiny.config(dataset, name="run")
    assert sorted(int(p.name) for p in (straight.folder / "checkpoints").iterdir()) == [9, 12]


def test_metrics_are_read_once_per_step_without_implicit_transfers(straight):
    assert straight.fetches["train"] == 12
    assert straight.fetches["held_out"] > 0
    assert straight.total == sum(straight.fetches.values())
    assert straight.guarded == []
    assert [step._cache_size() for step in straight.steps] == [1]


def test_the_transfer_guard_of_that_test_works():
    with jax.transfer_guard("disallow"), pytest.raises(jax.errors.JaxRuntimeError):
        jnp.zeros(3) + np.ones(3)


def test_a_run_stopped_twice_equals_an_uninterrupted_one(straight, dataset, tmp_path, monkeypatch):
    """By an error after steps 5 and 11, so that the run resumes from 3 and 9; the results are equal to the bit."""
    config, batches = tiny.config(dataset), {}
    for stop, saved in ((5, 3), (11, 9), (None, None)):
        with monkeypatch.context() as patch:
            watch = Watch(patch, stop)
            if stop is not None:
                with pytest.raises(KeyboardInterrupt):
                    train.train(config, tmp_path / "run")
                assert log_of(tmp_path / "run")[-1]["step"] > saved  # the next run truncates this
            else:
                result = train.train(config, tmp_path / "run")
            for number, digest in watch.batches.items():
                assert batches.setdefault(number, digest) == digest
    assert batches == straight.batches
    assert watch.batches.keys() == {10, 11, 12}
    assert len(json.loads((tmp_path / "run" / "environment.json").read_text())) == 3  # one per start
    assert same_state(state_of(tmp_path / "run"), state_of(straight.folder))
    assert log_of(tmp_path / "run") == log_of(straight.folder)
    assert result["held_out"].metrics == straight.result["held_out"].metrics


def test_what_a_run_says_to_try_next_works(straight, dataset, capsys, monkeypatch):
    lines = [shlex.split(line) for line in straight.out.split("Try next\n")[1].splitlines() if "gener-jax" in line]
    assert [line[:2] for line in lines] == [["gener-jax", "sample"], ["gener-jax", "evaluate"]]
    for _, verb, *arguments in lines:
        importlib.import_module(f"gener_jax.{verb}").main(arguments)
    config = tiny.config(dataset, checkpoint__best="none", data__build_from=str(EXAMPLE_GENOME), sample__prompts="<s>A")
    monkeypatch.chdir(tiny.ROOT)
    *both, mine = training_run.commands(config, Path("a b"), "best")
    assert all("--step best" in line for line in both)
    command.Command("", checkpoint=False).parse(shlex.split(mine)[2:])


@pytest.mark.slow
def test_64_bit_types_change_nothing(straight, dataset, tmp_path, x64):
    """Neither parameters, optimizer state and log, to the bit, nor their types."""
    train.train(tiny.config(dataset, eval__tasks="held_out"), tmp_path / "run")
    found, expected = state_of(tmp_path / "run"), state_of(straight.folder)
    assert same_state(found, expected)
    assert {n: x.dtype for n, x in found[0].items()} == {n: x.dtype for n, x in expected[0].items()}
    assert log_of(tmp_path / "run") == log_of(straight.folder)


def test_a_finished_run_prints_its_result_again(straight, dataset, tmp_path, capsys, monkeypatch):
    """In any encoding of standard output; nothing changes, unless it is to be evaluated otherwise."""
    shutil.copytree(straight.folder, folder := tmp_path / "run")
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*") if path.is_file()}
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", out)
    assert train.train(tiny.config(dataset), folder) == straight.result
    out.flush()
    assert "\\u2190" in out.buffer.getvalue().decode("ascii")
    assert f"finished at step 12; results in {folder / 'results.json'}" in capsys.readouterr().err
    after = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*") if path.is_file()}
    assert {path: found for path, found in after.items() if path.name != "lock"} == before

    other = train.train(tiny.config(dataset, eval__max_regions="2"), folder)
    assert other["held_out"].counts["regions"] == 2
    (folder / "results.json").unlink()
    found, expected = (x["held_out"] for x in (train.train(tiny.config(dataset), folder), straight.result))
    assert (found.model.step, found.metrics) == (12, expected.metrics)
    assert same_state(state_of(folder), state_of(straight.folder))
    assert log_of(folder) == log_of(straight.folder)


def test_lines_that_are_not_of_a_log_are_reported_and_ignored(straight, dataset, tmp_path, capsys):
    shutil.copytree(straight.folder, folder := tmp_path / "run")
    path, expected = folder / "log.jsonl", log_of(straight.folder)
    first, *rest = path.read_bytes().splitlines(keepends=True)
    bad = [b"null\n", b'{"loss": 1}\n', b'{"step": "1"}\n', b"\xff\xfe\n", b"\n", b"[" * 99_999 + b"\n"]
    path.write_bytes(b"".join([first, *bad, *rest, b'{"step": 1']))  # the last was cut off by a kill
    evaluate.main(["--checkpoint", str(folder)])
    found = capsys.readouterr()
    training = json.loads(found.out.splitlines()[-1])["training"]
    assert training["loss"] == [x["loss"] for x in expected if "loss" in x][-1]
    assert [line.split(": ")[1] for line in found.err.splitlines() if line.startswith("warning")] == [
        f"{path}, line {number}" for number in range(2, 8)
    ]
    (folder / "results.json").unlink()  # else nothing in the folder changes
    train.train(tiny.config(dataset), folder)
    assert log_of(folder) == expected


def test_a_folder_cannot_be_resumed_by_another_run(straight, dataset, tmp_path):
    before = {path: path.read_bytes() for path in straight.folder.glob("*.json*")}
    with raises(ConfigError) as caught:
        train.train(tiny.config(dataset, model__hidden_size="32", train__seed="1"), straight.folder)
    assert re.search(r"model.hidden_size: 16 → 32.*train.seed: 0 → 1", str(caught.value))
    other = tiny.genomes(tmp_path / "other", validation_fraction=0.3)
    with raises(DatasetError, file=tmp_path / "other"):
        train.train(tiny.config(other), straight.folder)
    assert before == {path: path.read_bytes() for path in straight.folder.glob("*.json*")}


@pytest.mark.slow
def test_a_longer_run_on_another_mesh_if_allowed(straight, dataset, tmp_path):
    shutil.copytree(straight.folder, tmp_path / "run")
    changed = {"train__num_steps": "14", "mesh__data": "2", "mesh__fsdp": "1"}
    with pytest.raises(ConfigError, match=r"--config.train.allow_changes=train.num_steps$"):
        train.train(tiny.config(dataset, **changed), tmp_path / "run")
    result = train.train(tiny.config(dataset, **changed, train__allow_changes="train.num_steps"), tmp_path / "run")
    assert result["held_out"].model.step == 14
    assert log_of(tmp_path / "run")[: len(log_of(straight.folder))] == log_of(straight.folder)
    assert run_folder.read(tmp_path / "run").train.num_steps == 14


def test_evaluate_and_sample_read_the_run(straight, capsys, tmp_path):
    evaluate.main(["--checkpoint", str(straight.folder), "--output", str(tmp_path / "evaluated")])
    out, found = capsys.readouterr().out, results.read(tmp_path / "evaluated")
    assert json.loads(out.splitlines()[-1]) == found.json()
    assert out.startswith(found.table())
    plots = tmp_path / "evaluated" / "plots"
    assert {str(path.relative_to(plots)) for path in plots.rglob("*.png")} == {
        "held_out.png",
        "run/held_out/by_group.png",
    }
    assert found.training.items() <= straight.result.training.items()
    [found] = found.evaluations
    assert dataclasses.replace(found, seconds=0) == dataclasses.replace(straight.result["held_out"], seconds=0)
    with raises(ConfigError, field="--output", value=str(straight.folder / "results.json")):  # the run's own
        evaluate.main(["--checkpoint", str(straight.folder), "--output", str(straight.folder)])
    evaluate.main(["--checkpoint", str(straight.folder), "--config.eval.split=train", "--step", "9", "--json"])
    [other] = json.loads(capsys.readouterr().out)["evaluations"]
    assert (other["model"]["step"], other["dataset"]["split"]) == (9, "train")
    assert other["metrics"]["loss"]["value"] != found["loss"]

    sample.main(["--checkpoint", str(straight.folder), "--prompt", "ATGA", "--num_bases", "30", "--temperature", "0"])
    fasta = capsys.readouterr().out
    sample.main(["--checkpoint", str(straight.folder), "--prompt", "ATGA", "--num_bases", "30", "--temperature", "0",
                 "--output", str(tmp_path / "a.fa")])  # fmt: skip
    facts = json.loads(capsys.readouterr().out)
    assert facts == {"output": str(tmp_path / "a.fa"), "samples": 1, "bases": 30}
    assert (tmp_path / "a.fa").read_text() == fasta
    sample.main(["--checkpoint", str(straight.folder), "--num_bases", "30"])
    assert capsys.readouterr().out.startswith(">sample_1 prompt_bases=0 bases=30")  # not as config.sample.prompts
    with raises(ConfigError, field="--config.sample.num_bases", value="9"):
        sample.main(["--checkpoint", str(straight.folder), "--config.sample.num_bases=9"])
    header, *lines = fasta.splitlines()
    assert header.startswith(">sample_1 prompt_bases=4 bases=30")
    assert re.fullmatch("ATGA[ACGT]{30}", "".join(lines))
    assert {path.name for path in tmp_path.iterdir()} == {"a.fa", "evaluated"}


def test_evaluate_warns_of_data_that_the_run_was_not_trained_on(straight, capsys, tmp_path):
    arguments = ["--checkpoint", str(straight.folder), "--config.eval.max_regions=2"]
    evaluate.main(arguments)
    assert "warning" not in capsys.readouterr().err
    build(tiny.GENOMES, tmp_path / "other", validation_fraction=0.2, seed=1)
    capsys.readouterr()
    evaluate.main([*arguments, f"--config.data.path={tmp_path / 'other'}"])
    assert "other is not the dataset of run, which may have been" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.usefixtures("compiled_in_full")
def test_a_sequence_is_memorised_and_generated(tmp_path):
    """Every 6-mer of 2 kb occurs once, so that a trained model knows the next one."""
    [codes] = random_codes([1998], 3, unknown=False)
    dataset = tiny.synthetic(tmp_path / "set", {"train": [codes], "validation": [codes]})
    config = tiny.config(
        dataset, tokenizer__k="6", data__random_phase="false", model__hidden_size="64", model__intermediate_size="128",
        model__num_attention_heads="4", model__num_key_value_heads="2", data__context_length="64",
        train__num_steps="200", train__log_every_steps="50", optimizer__peak_learning_rate="5e-3",
        optimizer__weight_decay="0", checkpoint__every_steps="200", eval__every_steps="200",
        model__max_position_embeddings="512",
    )  # fmt: skip
    result = train.train(config, tmp_path / "run")
    assert result.training["loss"] < 0.01
    text = make("kmer").decode(make("kmer").encode_bases(codes))
    [generated] = load(tmp_path / "run").generate([text[:60]], 600, temperature=0)
    assert generated == text[60:660]


@pytest.mark.slow
def test_bpe_trains_resumes_evaluates_and_samples(tmp_path, monkeypatch, capsys):
    plain = tiny.genomes(tmp_path / "plain")
    model = train_bpe.build(plain, 64, tmp_path / "bpe.model")["output"]
    config = tiny.config(
        tmp_path / "set", tokenizer__kind="bpe", tokenizer__model_file=model, data__storage="token_ids",
        data__build_from=",".join(map(str, tiny.GENOMES)), data__validation_fraction="0.2",
    )  # fmt: skip
    first = train.train(config, tmp_path / "straight")
    assert 1.8 < first["held_out"]["bits_per_base"] < 3
    assert first["held_out"].baselines["markov_0"]["bits_per_base"] < 2.05
    assert "codon_position" not in first["held_out"].breakdown
    with monkeypatch.context() as patch:
        Watch(patch, 7)
        with pytest.raises(KeyboardInterrupt):
            train.train(config, tmp_path / "run")
    assert train.train(config, tmp_path / "run")["held_out"].metrics == first["held_out"].metrics
    assert same_state(state_of(tmp_path / "run"), state_of(tmp_path / "straight"))
    capsys.readouterr()
    evaluate.main(["--checkpoint", str(tmp_path / "run"), "--output", str(tmp_path / "evaluated")])
    assert results.read(tmp_path / "evaluated")["held_out"].metrics == first["held_out"].metrics
    capsys.readouterr()
    sample.main(["--checkpoint", str(tmp_path / "run"), "--prompt", "ATGACCA", "--num_bases", "50"])
    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch("ATGACCA[ACGT]{50}", "".join(lines[1:]))


def test_repeats_weigh_less_in_training_and_alike_in_evaluation(tmp_path, capsys):
    codes = random_codes([900, 700, 400], 1)
    dataset = tiny.synthetic(tmp_path / "set", {"train": codes, "validation": codes[:2]}, soft_masked=True)
    short = {"checkpoint__every_steps": "12", "eval__every_steps": "12"}  # shares the other runs' compiled step
    config = tiny.config(dataset, data__repeat_weight="0.1", **short)
    result, log = train.train(config, tmp_path / "run"), log_of(tmp_path / "run")
    plain, plain_log = train.train(tiny.config(dataset, **short), tmp_path / "plain"), log_of(tmp_path / "plain")
    assert log[0]["bits_per_base"] == plain_log[0]["bits_per_base"]  # same parameters and batch
    assert log[0]["loss"] != plain_log[0]["loss"]
    result = result["held_out"]
    assert result["bits_per_base"] != plain["held_out"]["bits_per_base"]
    assert set(result.breakdown["case"]) == {"soft-masked", "not soft-masked"}
    assert result.counts["bases"] == sum(row["bases"] for row in result.breakdown["case"].values())
    [evaluation] = [line["held_out"] for line in log if "held_out" in line]
    assert evaluation["bits_per_base_without_near_copies"] == evaluation["bits_per_base"]
    assert "warning" not in capsys.readouterr().err
    upper = tiny.synthetic(tmp_path / "upper", {"train": codes, "validation": codes[:2]})
    with pytest.raises(ConfigError, match=r"data.repeat_weight: 1.0 → 0.1"):
        train.train(tiny.config(upper, data__repeat_weight="0.1", **short), tmp_path / "plain")
    assert capsys.readouterr().err.count("warning: no lower case in ") == 1


def test_the_config_of_the_helper_is_that_of_the_experiment_file(dataset, tmp_path):
    """So that tests of one also apply to the other."""
    _, read, _ = command.Command("", checkpoint=False).parse(
        ["--config", str(tiny.experiment(tmp_path / "tiny.py", dataset))]
    )
    assert read == tiny.config(dataset)
    assert isinstance(read, Config)
    assert dumps(read) == dumps(tiny.config(dataset))


def test_the_speed_is_of_the_last_steps_without_compilation():
    config = tiny.config("none", train__log_every_steps="3", train__num_steps="20")
    clock, programs, lines = types.SimpleNamespace(seconds=0.0), [0], {}
    run = types.SimpleNamespace(
        config=config, now=hooks.Moment(0, None), stream=types.SimpleNamespace(stats={"kept": 12, "tokens": 4}),
        tokens_per_step=100, log=types.SimpleNamespace(write=lambda step, **values: lines.update({step: values})),
    )  # fmt: skip
    read = hooks.Reading(run, types.SimpleNamespace(beat=lambda _: None), lambda: programs[0])
    read.clock = clock
    metrics = {"loss": np.float32(1), "consecutive_skips": np.int32(0)}
    # A compilation at the first step and one at the twelfth; all steps from the seventh take 4 s instead of 2 s.
    seconds = {1: 50, 12: 30} | dict.fromkeys(range(2, 7), 2)
    for step in range(1, 13):
        programs[0] = 1 + (step >= 12)
        clock.seconds += seconds.get(step, 4)
        read.pending = step, metrics
        read()
    read.progress.close()
    assert {step: line["tokens_per_s"] for step, line in lines.items()} == {3: 50, 6: 50, 9: 25, 12: 25}
    assert lines[12]["bases_per_s"] == 75
