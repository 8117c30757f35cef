"""The command `evaluate`, and the suite behind it: cells, resuming, failures, random weights, models side by side."""

import contextlib
import dataclasses
import functools
import json
import os
import re
import shutil
import signal
import time

import numpy as np
import pytest

from data_pipeline.errors import DatasetError, FileError
from gener_jax import assets, convert, evaluate, train
from gener_jax.config import Config
from gener_jax.plotting.figure import new_figure
from gener_jax.runtime.errors import ConfigError
from gener_jax.statistics.metrics import Metric
from gener_jax.storage import pretrained, results
from gener_jax.storage.results import Model
from gener_jax.tasks import catalogue, page, suite, understanding
from gener_jax.tasks.base import Entry, ModelTask, NotRun, Options, Paired, Result, installed
from gener_jax.tasks.suite import Candidate
from tests import tiny
from tests.raised import raises
from tests.test_train import log_of

pytestmark = pytest.mark.usefixtures("one_device")


class Guess(ModelTask):
    """Tells GC-rich sequences from others by the model's score; the positive class is GC-rich."""

    name, metric = "guess", "accuracy"
    metrics = {"accuracy": Metric("", higher_is_better=True)}  # noqa: RUF012

    def __init__(self, options):
        path = options.file("sequences.txt", source="the test")
        self.sequences = path.read_text().split()[: options.rows]

    def __call__(self, model, progress=lambda done, total: None):
        scores = [score.value for score in model.log_likelihood(self.sequences)]
        progress(1, 1)
        truth = [sequence.count("G") > 2 for sequence in self.sequences]
        right = [(score > -5) == true for score, true in zip(scores, truth, strict=True)]
        return Result(
            {"accuracy": float(np.mean(right))}, {"sequences": len(truth), "positive": sum(truth)},
            baselines={"always": {"accuracy": 0.5}}, note="No figure of others compares.",
            predictions={"sequence": self.sequences, "score": scores, "right": right},
            paired=Paired("mean", "accuracy", ("right",), rows="sequence"), figures={"scores": self.draw},
        )  # fmt: skip

    def draw(self):
        with new_figure(2, 1) as figure:
            figure.add_subplot().plot([0, 1])
        return figure


class Liking(Guess):
    """The mean score of the sequences."""

    name, metric = "liking", "mean"
    metrics = {"mean": Metric("nats", higher_is_better=True)}  # noqa: RUF012

    def __call__(self, model, progress=lambda done, total: None):
        return Result({"mean": float(np.mean([score.value for score in model.log_likelihood(self.sequences)]))})


class Stopped(Guess):
    """Ends its own process as a scheduler does."""

    name = "stopped"

    def __call__(self, model, progress=None):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)


class Broken(Guess):
    name = "broken"

    def __call__(self, model, progress=None):
        raise TypeError("a defect")


class TooLong(Guess):
    name = "too_long"

    def __call__(self, model, progress=None):
        raise NotRun("needs 10 Mb of context")


def entry(kind, **fields):
    return Entry(kind.name, lambda config: kind(Options.of(config)), **fields)


ALL = [(entry(kind), None) for kind in (Guess, Broken, TooLong)]


@dataclasses.dataclass
class Score:
    value: float


class Oracle:
    """A model that knows the answer to a share of the sequences."""

    def __init__(self, share=1.0):
        self.share = share

    def log_likelihood(self, sequences):
        known = len(sequences) * self.share
        return [Score(0.0 if (s.count("G") > 2) == (i < known) else -10.0) for i, s in enumerate(sequences)]


@pytest.fixture
def config(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    rng = np.random.default_rng(0)
    rows = {"".join(row) for row in rng.choice(list("ACGT"), (60, 12))}
    (data / "sequences.txt").write_text("\n".join(sorted(rows)))
    return dataclasses.replace(Config(), eval=dataclasses.replace(Config().eval, data=str(data)))


def candidate(config, name, share, loads=None, shape="one", random=False, step=1):
    def load(seed):
        if loads is not None:
            loads.append(name)
        return Oracle(share - 0.1 * seed)

    return Candidate(Model(name, 7, name, step), config, {"weights": name, "step": step}, load, shape, random)


def three(config, loads=None):
    return [
        candidate(config, "a", 1.0, loads), candidate(config, "random_weights-x", 0.5, loads, random=True),
        candidate(config, "b", 0.75, loads),
    ]  # fmt: skip


def files(folder):
    """Name → content of all files of a suite, without dates and seconds."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            content = path.read_bytes()
            if path.suffix in (".json", ".html"):
                text = re.sub(r'"seconds": [0-9.]+|"date": "[^"]+"|20..-..-..T[0-9:+]+', "", content.decode())
                content = text.replace(str(folder), "")
            found[str(path.relative_to(folder))] = content
    return found


def finished(cells, folder):
    made = dataclasses.replace(suite.results_of(cells), environment={})
    made.write(folder)
    page.write(made, cells, folder)
    return made


def test_several_models_by_several_tasks(config, tmp_path):
    loads = []
    cells = suite.run(three(config, loads), ALL, tmp_path / "out")
    made = finished(cells, tmp_path / "out")
    assert results.read(tmp_path / "out") == made
    assert loads == ["a", "random_weights-x", "b"]  # once each
    assert [(x.model.name, x["accuracy"]) for x in made.evaluations] == [("a", 1.0), ("b", 0.75)]
    for each in made.evaluations:
        assert list(each.baselines) == ["random_weights", "always"]
        assert each.baselines["random_weights"]["accuracy"] == 0.5
        assert each.baselines["random_weights"]["accuracy_gain"] == each["accuracy"] - 0.5
        assert each.baselines["random_weights"]["accuracy_gain_low"] > 0
    reasons = {"broken": ("failed", "TypeError: a defect"), "too_long": ("not run", "needs 10 Mb of context")}
    skipped = {(x.task, x.model): (x.status, x.reason) for x in made.skipped}
    assert skipped == {(task, model): reason for task, reason in reasons.items() for model in "ab"}
    [gain] = made.gains
    assert (gain.task, gain.metric, gain.model, gain.over, gain.rows) == ("guess", "accuracy", "b", "a", 60)
    assert gain.gain == -0.25
    assert gain.low < gain.gain < gain.high < 0
    rows = (tmp_path / "out/predictions/a/guess.tsv").read_text().splitlines()
    assert (rows[0], len(rows)) == ("sequence\tscore\tright", 61)
    assert (tmp_path / "out/plots/a/guess/scores.png").stat().st_size
    assert not (tmp_path / "out/plots/random_weights-x").exists()


def test_a_failure_of_random_weights_alone_is_in_the_results(config, tmp_path):
    class Fragile(Guess):
        name = "fragile"

        def __call__(self, model, progress=None):
            if model.share == 0.5:
                raise ValueError("random weights give no number")
            return super().__call__(model)

    cells = suite.run(three(config), [(entry(Guess), None), (entry(Fragile), None), (entry(Broken), None)])
    made = finished(cells, tmp_path)
    assert results.read(tmp_path) == made
    of_random = [x for x in made.skipped if suite.is_random(x.model)]
    [found] = of_random  # not of the task that fails with all models
    assert (found.task, found.model, found.status) == ("fragile", "random_weights (a, b)", "failed")
    overview = page.overview(made)
    assert overview.columns[2:5] == ("a", "b", "random weights")
    assert [row[4] for row in overview.rows] == ["0.5000", "failed", ""]
    for file in ("table.md", "index.html"):
        text = (tmp_path / file).read_text()
        assert "random weights (a, b)" in text
        assert text.count("random weights give no number") == 1


def test_killed_and_resumed_it_writes_the_same_files(config, tmp_path):
    def models(loads, dies):
        made = three(config, loads)

        def load(seed):
            raise KeyboardInterrupt if dies else AssertionError

        return [*made[:2], dataclasses.replace(made[2], load=load)] if dies else made

    chosen = ALL[:1]
    with pytest.raises(KeyboardInterrupt) as caught:
        suite.run(models([], True), chosen, tmp_path / "killed")
    assert str(caught.value) == f"2 of 3 results are kept in {tmp_path / 'killed'}; the same command resumes there"
    loads = []
    finished(suite.run(models(loads, False), chosen, tmp_path / "killed"), tmp_path / "killed")
    assert loads == ["b"]
    finished(suite.run(three(config), chosen, tmp_path / "whole"), tmp_path / "whole")
    expected = files(tmp_path / "whole")
    assert {"cells/b.guess.json", "index.html", "plots/guess.png", "results.json", "table.md"} < set(expected)
    assert files(tmp_path / "killed") == expected


def test_only_what_has_changed_is_measured_again(config, tmp_path):
    def measured(config, chosen=ALL[:1], **fields):
        loads = []
        cells = suite.run([candidate(config, "a", 1.0, loads, **fields)], chosen, tmp_path / "out")
        assert cells[0].evaluation is not None
        return bool(loads)

    assert measured(config)
    assert not measured(config)
    assert measured(config, [(ALL[0][0], 10)])
    assert measured(config)
    assert measured(config, step=2)
    assert not measured(config, step=2)
    unread = dataclasses.replace(config.eval, every_steps=7)
    assert not measured(dataclasses.replace(config, eval=unread), step=2)
    with (tmp_path / "data" / "sequences.txt").open("a") as file:
        file.write("\nACGT")
    assert measured(config, step=2)
    assert not measured(config, step=2)
    path = tmp_path / "out/cells/a.guess.json"
    fields = json.loads(path.read_text())
    for damage in ("{", json.dumps({**fields, "evaluation": {}}), json.dumps({"fingerprint": fields["fingerprint"]})):
        path.write_text(damage)
        assert measured(config, step=2)
    (tmp_path / "out/predictions/a/guess.tsv").unlink()
    assert measured(config, step=2)
    assert not measured(config, step=2)


def test_a_cell_is_measured_again_when_what_it_lacked_is_there(config, tmp_path, monkeypatch):
    class Extra(Guess):
        def __call__(self, model, progress=None):
            with contextlib.suppress(NotRun):
                self.options.file("extra.bw", source="the test")
            installed("program gener-jax-aligner")
            assert not installed("package gener_jax_extra")
            assert installed("package numpy")
            return super().__call__(model)

        def __init__(self, options):
            super().__init__(options)
            self.options = options

    def measured():
        loads = []
        suite.run([candidate(config, "a", 1.0, loads)], [(entry(Extra), None)], tmp_path / "out")
        return bool(loads)

    extra, program = tmp_path / "data" / "extra.bw", tmp_path / "bin" / "gener-jax-aligner"
    assert measured()
    assert json.loads((tmp_path / "out/cells/a.guess.json").read_text())["missing"] == [
        f"file {extra}", "program gener-jax-aligner", "package gener_jax_extra",
    ]  # fmt: skip
    assert not measured()
    extra.write_text("")
    assert measured()
    assert not measured()
    program.parent.mkdir()
    program.write_text("")
    program.chmod(0o755)
    assert not measured()
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    assert measured()
    assert not measured()


def test_several_seeds_show_how_much_they_matter(config, tmp_path):
    class Rows(Guess):
        """A value that the seed alone decides."""

        name = "rows"

        def __init__(self, options):
            super().__init__(options)
            self.seed = options.seed

        def __call__(self, model, progress=None):
            return dataclasses.replace(super().__call__(model), metrics={"accuracy": self.seed / 10})

    later = dataclasses.replace(config, eval=dataclasses.replace(config.eval, seed=4))
    [cell] = suite.run([candidate(later, "a", 1.0)], [(entry(Rows), None)], seeds=3)
    assert cell.evaluation["accuracy"] == 0.4
    by_seed = {seed: row["accuracy"] for seed, row in cell.evaluation.breakdown["seed"].items()}
    assert by_seed == pytest.approx({"4": 0.4, "5": 0.5, "6": 0.6, "mean": 0.5, "standard deviation": 0.1})

    loads = []
    made = finished(suite.run(three(config, loads), ALL[:1], tmp_path / "out", seeds=3), tmp_path / "out")
    assert loads == ["a", *3 * ["random_weights-x"], "b"]
    assert made["guess"].baselines["random_weights"]["accuracy"] == 0.5
    by_seed = {seed: row["accuracy"] for seed, row in made["guess"].breakdown["seed"].items()}
    of_random = {str(seed): 0.5 - seed / 10 for seed in range(3)} | {"mean": 0.4, "standard deviation": 0.1}
    alike = {"0": 1, "1": 1, "2": 1, "mean": 1, "standard deviation": 0}
    assert by_seed == pytest.approx(alike | {f"random_weights, {seed}": x for seed, x in of_random.items()})
    assert "| random_weights, mean | 0.4" in (tmp_path / "out" / "table.md").read_text()
    again = suite.run(three(config, loads), ALL[:1], tmp_path / "out", seeds=2)
    assert len(again[0].evaluation.breakdown["seed"]) == 4


def test_a_model_that_cannot_be_loaded_fails_alone(config):
    def load(seed):
        raise MemoryError("needs 10 TB")

    broken = dataclasses.replace(candidate(config, "b", 1.0), load=load)
    cells = suite.run([broken, candidate(config, "a", 1.0)], ALL[:1])
    assert [cell.evaluation is None for cell in cells] == [True, False]
    assert (cells[0].skipped.status, cells[0].skipped.reason) == ("failed", "needs 10 TB")


def test_missing_data_are_no_failure_and_load_no_model(config):
    nowhere = dataclasses.replace(config, eval=dataclasses.replace(config.eval, data=None))
    loads = []
    [cell] = suite.run([candidate(nowhere, "a", 1.0, loads)], ALL[:1])
    assert cell.skipped.status == "not run"
    assert "sequences.txt" in cell.skipped.reason
    assert not loads


def test_wrong_declarations_of_a_task_fail(config):
    class Wrong(Guess):
        def __call__(self, model, progress=None):
            found = super().__call__(model)
            return dataclasses.replace(found, paired=Paired("mean", "accuracy", ("absent",)))

    [cell] = suite.run([candidate(config, "a", 1.0)], [(entry(Wrong), None)])
    assert cell.skipped.status == "failed"
    assert "absent" in cell.skipped.reason


def test_the_names_of_all_tasks_differ():
    names = [each.name for each in catalogue.ENTRIES]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch("[A-Za-z0-9_]+", name) and name not in ("quick", "all") for name in names)
    assert not {each.group for each in catalogue.ENTRIES if each.name != each.group} & set(names)


def test_names_of_models_are_names_of_files():
    for name, expected in {"a/b c": "a_b_c", "..": "_.", ".x": "_x", "v1.5+": "v1.5+", "": "model"}.items():
        assert suite.file_name(name) == expected


def test_tasks_on_labelled_sequences_are_named_after_how_models_are_fitted(tmp_path):
    labelled, other = understanding.ENTRIES[0], catalogue.ENTRIES[0]
    assert evaluate.adapted(labelled, "lora").name == f"{labelled.name}_lora"
    assert evaluate.adapted(labelled, "frozen") is labelled
    assert evaluate.adapted(other, "lora") is other
    with raises(ConfigError, field="--adapt", value="full"):
        evaluate.fine_tuning("full", None)
    task = object()
    assert evaluate.fine_tuning("full", tmp_path)(task, None) is task


@pytest.fixture
def registered(monkeypatch):
    """Tasks of this file instead of all that there are."""
    entries = (entry(Guess, quick=20, group="toys"), entry(Broken, group="toys"), Entry("recovery", None, regions=True))
    monkeypatch.setattr(catalogue, "ENTRIES", entries)
    monkeypatch.setattr(catalogue, "TASKS", {each.name: each for each in entries})
    return entries


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["quick"], {"guess": 20}),
        (["quick", "broken"], {"guess": 20, "broken": None}),
        (["quick", "toys"], {"guess": None, "broken": None}),
        (["all"], {"guess": None, "broken": None, "recovery": None}),
        (["recovery", "guess"], {"guess": None, "recovery": None}),
        (["guess:7", "toys:5", "all:3"], {"guess": 7, "broken": 5, "recovery": 3}),
        (["all:3", "toys"], {"guess": None, "broken": None, "recovery": 3}),
        (["quick:4"], {"guess": 4}),
    ],
)
def test_tasks_are_chosen_by_names_and_groups(registered, words, expected):
    assert {each.name: rows for each, rows in catalogue.chosen(words)} == expected
    limited = {each.name: rows for each, rows in catalogue.chosen(words, rows=9)}
    assert limited == {name: 9 if rows in (None, 20) else rows for name, rows in expected.items()}


def test_what_is_no_task_or_group_is_one_line(registered):
    for word in ("geuss", ""):
        with raises(ConfigError, field="--tasks", value=word):
            catalogue.chosen(["guess", word])
    for number in ("", "0", "-1", "1.5", "x"):
        with raises(ConfigError, field="--tasks", value=f"toys:{number}"):
            catalogue.chosen([f"toys:{number}"])


def register(*entries):
    """Registers tasks in place of all that there are."""
    catalogue.ENTRIES, catalogue.TASKS = entries, {each.name: each for each in entries}


def test_sigterm_keeps_what_is_measured(config, tmp_path):
    before = "from tests.test_evaluate import *; register(entry(Guess), entry(Stopped))"
    options = ["--checkpoint", "tiny", "--tasks", "all", "--data", "data", "--output", "out", "--no_random"]
    process = tiny.command(*options, module="gener_jax.evaluate", cwd=tmp_path, before=before)
    status, _, err = tiny.finished(process)
    assert status == 143, err
    assert err.splitlines()[-1] == "stopped by SIGTERM; 1 of 2 results are kept in out; the same command resumes there"
    assert sorted(path.name for path in (tmp_path / "out").rglob("*.json")) == ["tiny.guess.json"]
    assert not (tmp_path / "out/evaluate.lock").exists()


def test_a_task_of_a_model_chooses_the_best_checkpoint_of_a_run(config, tmp_path, monkeypatch):
    """The same object measures during training and a checkpoint afterwards."""
    monkeypatch.setattr(catalogue, "ENTRIES", (entry(Liking),))
    monkeypatch.setattr(catalogue, "TASKS", {"liking": entry(Liking)})
    changes = {
        "eval__tasks": "liking", "eval__data": config.eval.data, "eval__rows": 8, "checkpoint__best": "liking.mean",
        "train__num_steps": 4, "checkpoint__every_steps": 2, "eval__every_steps": 2,
    }  # fmt: skip
    run = tmp_path / "run"
    trained = train.train(tiny.config(tiny.genomes(tmp_path / "genomes"), **changes), run)
    logged = {line["step"]: line["liking"]["mean"] for line in log_of(run) if "liking" in line}
    assert set(logged) == {2, 4}
    assert trained["liking"]["mean"] == logged[4]
    evaluate.main(["--checkpoint", str(run), "--step", "best", "--output", str(tmp_path / "out"), "--no_random"])
    [found] = results.read(tmp_path / "out").evaluations
    assert found.model.step == max(logged, key=logged.get)
    assert found["mean"] == pytest.approx(max(logged.values()), abs=1e-4)


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_two_checkpoints_by_one_command(registered, config, elsewhere, capsys):
    """Real models on few rows: shared names, random weights of one shape, a task that fails, and what resumes."""
    options = ["--checkpoint", "tiny", "--checkpoint", "tiny", "--tasks", "quick,broken", "--output", "out"]
    assert evaluate.main([*options, "--data", "data"]) == 3
    made = results.read(elsewhere / "out")
    assert [(x.task, x.model.name, x.counts["sequences"]) for x in made.evaluations] == [
        ("guess", "tiny", 20), ("guess", "tiny-2", 20),
    ]  # fmt: skip
    first, second = made.evaluations
    assert first.metrics == second.metrics
    assert "random_weights" in first.baselines
    assert [(x.gain, x.rows) for x in made.gains] == [(0.0, 20)]
    assert {x.status for x in made.skipped} == {"failed"}
    cells = sorted(path.name for path in (elsewhere / "out/cells").iterdir())
    assert len(cells) == 3
    times = [(elsewhere / "out/cells" / name).stat().st_mtime_ns for name in cells]
    capsys.readouterr()
    assert evaluate.main([*options, "--data", "data", "--json"]) == 3
    assert json.loads(capsys.readouterr().out)["evaluations"] == made.json()["evaluations"]
    assert [(elsewhere / "out/cells" / name).stat().st_mtime_ns for name in cells] == times
    with evaluate.lock.held(elsewhere / "out/evaluate.lock"), raises(FileError, file="evaluate.lock"):
        evaluate.main([*options, "--data", "data"])


def test_random_weights_can_be_left_out(registered, config, elsewhere, capsys):
    assert (
        evaluate.main(["--checkpoint", "tiny", "--tasks", "guess", "--data", "data", "--rows", "5", "--no_random"])
        is None
    )
    assert "random weights" not in capsys.readouterr().out
    assert not (elsewhere / "out").exists()


def test_a_task_that_fails_with_random_weights_alone_is_a_failure(config, elsewhere, monkeypatch):
    calls = []

    class Second(Guess):
        def __call__(self, model, progress=None):
            calls.append(model)
            if len(calls) == 2:
                raise TypeError("a defect")
            return super().__call__(model)

    monkeypatch.setattr(catalogue, "ENTRIES", (entry(Second),))
    assert evaluate.main(["--checkpoint", "tiny", "--tasks", "guess", "--data", "data", "--rows", "5"]) == 3
    assert len(calls) == 2


def test_without_any_result_the_reason_is_the_error(registered, elsewhere):
    with pytest.raises(NotRun):
        evaluate.main(["--checkpoint", "tiny", "--tasks", "guess"])


def test_the_list_says_what_is_missing(registered, config, elsewhere, capsys):
    evaluate.main(["--list", "--json"])
    before = {x["task"]: x for x in json.loads(capsys.readouterr().out)["tasks"]}
    assert "sequences.txt" in before["guess"]["data"]
    assert (before["guess"]["group"], before["guess"]["quick"]) == ("toys", "20")
    evaluate.main(["--list", "--data", "data"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:4]] == ["guess", "broken", "recovery"]
    assert lines[1].endswith("ready")


def test_steps_of_several_runs(elsewhere):
    convert.main(["--checkpoint", "tiny", "--output", "run", "--format", "run", "--config.name=run"])
    named = [(name, *find(name)) for name in ("run", "tiny", "run")]
    found = evaluate.candidates_of(named, [0])
    assert [(x.model.name, x.model.step) for x in found] == [("run", 0), ("tiny", None), ("run-step0", 0)]
    assert [x.made_of["step"] for x in evaluate.candidates_of(named, [])] == [0, None, 0]
    assert evaluate.candidates_of(named, [0, 0])[2].model.step == 0
    with raises(ConfigError, field="--step", value=3):
        evaluate.candidates_of(named, [0, 0, 0])
    with raises(ConfigError, field="--step", value=1):
        evaluate.candidates_of([named[1], named[1]], [0])
    shutil.rmtree("run/checkpoints/0/params")
    assert found[0].made_of["files"] != evaluate.candidates_of(named, [])[0].made_of["files"]


@functools.cache
def find(name):
    folder = pretrained.find(name)
    return pretrained.read_config(folder), folder


def test_results_of_another_command_are_not_replaced(elsewhere):
    (elsewhere / "run").mkdir()
    (elsewhere / "run/results.json").write_text("{}")
    with raises(ConfigError, field="--output"):
        evaluate.main(["--checkpoint", "tiny", "--output", "run"])


def test_tiny_is_evaluated_on_what_it_was_not_trained_on(elsewhere, capsys):
    """The validation split of the chromosome that ships, whose dataset is built."""
    evaluate.main(["--checkpoint", "tiny", "--config.eval.max_regions=2", "--output", "out"])
    printed = capsys.readouterr()
    assert "warning" not in printed.err
    assert "step None" not in printed.err
    [found] = results.read(elsewhere / "out").evaluations
    assert (found.model.checkpoint, found.model.step, found.dataset.split) == ("tiny", None, "validation")
    assert found.dataset.path == pretrained.read_config(assets.TINY).data.path
    assert found["bits_per_base"] < found.baselines["markov_0"]["bits_per_base"]
    assert "random_weights" not in found.baselines
    plots = {str(path.relative_to(elsewhere / "out/plots")) for path in (elsewhere / "out/plots").rglob("*.png")}
    assert plots == {"held_out.png", "tiny/held_out/by_group.png"}


def test_other_regions_are_evaluated_with_a_warning(elsewhere, capsys):
    dataset = tiny.genomes(elsewhere / "genomes")
    evaluate.main(["--checkpoint", "tiny", "--json", f"--config.data.path={dataset}", "--config.eval.max_regions=2"])
    printed = capsys.readouterr()
    assert json.loads(printed.out)["evaluations"][0]["dataset"]["path"] == str(dataset)
    assert "warning: tiny may have been trained on these regions: its training data are 12 records" in printed.err


def test_a_model_without_a_dataset_needs_one(elsewhere):
    convert.main(["--checkpoint", "tiny", "--output", "hf", "--format", "hf"])
    with raises(DatasetError, file="datasets/refseq"):
        evaluate.main(["--checkpoint", "hf"])
