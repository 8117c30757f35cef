import json
import os
import subprocess
import sys
from pathlib import Path
from signal import SIGINT, SIGTERM

import pytest

from data_pipeline.errors import DataError
from gener_jax import convert, embed, evaluate, sample, score
from gener_jax.cli import command
from gener_jax.config import dumps, resolve
from gener_jax.runtime import errors
from gener_jax.runtime.errors import CheckpointError, ConfigError, InputError, Terminated
from gener_jax.storage import run_folder
from tests import tiny
from tests.raised import raises

ROOT = Path(__file__).parents[1]
EXPERIMENT = """
from gener_jax.config import base

def get_config():
    config = base()
    config.model.update(hidden_size=32, num_attention_heads=2, num_key_value_heads=1)
    config.train.num_steps = 5000
    return config
"""


def program(*arguments, module="gener_jax.train", cwd=ROOT):
    """Runs a command in a new process."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    return subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)],
        cwd=cwd, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.fixture
def experiment(tmp_path):
    path = tmp_path / "small.py"
    path.write_text(EXPERIMENT)
    return path


def parse(*arguments, checkpoint=False):
    return command.Command("A program.", checkpoint=checkpoint).parse([str(a) for a in arguments])


def test_an_experiment_file_names_the_run(experiment):
    _, config, folder = parse("--config", experiment)
    assert (config.name, config.model.hidden_size, config.model.head_dim) == ("small", 32, 16)
    assert folder == Path("runs/small")
    _, config, folder = parse(f"--config={experiment}", "--workdir=/x/y")
    assert (config.name, folder) == ("y", Path("/x/y"))
    _, config, folder = parse(f"--config={experiment}", "--workdir=/x/y", "--config.name=other")
    assert (config.name, folder) == ("other", Path("/x/y"))
    _, config, folder = parse("--config", experiment, "--config.name=other")
    assert (config.name, folder) == ("other", Path("runs/other"))


def test_overrides_may_be_anywhere_in_both_forms(experiment):
    before, after = ["--config.train.seed=7", "--config.eval.max_regions", "9"], ["--config.data.path", "a b"]
    for arguments in (
        [*before, *after, "--config", experiment],
        ["--config", experiment, *before, *after],
        [*before, f"--config={experiment}", *after],
    ):
        _, config, _ = parse(*arguments)
        assert (config.train.seed, config.eval.max_regions, config.data.path) == (7, 9, "a b")
        assert config.train.num_steps == 5000
    assert parse("--config", experiment, "--config.train.seed=1", "--config.train.seed=2")[1].train.seed == 2
    _, config, _ = parse("--config", experiment, "--config.eval.max_regions=9", "--config.eval.max_regions=none")
    assert config.eval.max_regions is None
    _, config, _ = parse(
        "--config", experiment, "--config.sample.prompts=ATG,<s><cds>=", "--config.optimizer.clip_norm=2"
    )
    assert config.sample.prompts == ("ATG", "<s><cds>=")
    assert config.optimizer.clip_norm == 2.0


def test_an_override_changes_what_follows_from_it(experiment):
    assert parse("--config", experiment, "--config.model.hidden_size=64")[1].model.head_dim == 32


@pytest.mark.parametrize(
    ("arguments", "field", "value"),
    [
        ([], None, None),
        (["--config.train.seed=1"], None, None),
        (["--config", "absent.py"], "--config", "absent.py"),
        (["--config", "{tmp}"], "--config", "{tmp}"),
        (["--config", "{small}", "--config.train.seed"], None, None),
        (["--config.data.path", "--config", "{small}"], None, None),
        (["--config", "{small}", "--config.train.sead=1"], "train.sead", "1"),
        (["--config", "{small}", "--config.seed=1"], "seed", "1"),
        (["--config", "{small}", "--config.train.seed=x"], "train.seed", "x"),
        (["--config", "{small}", "--config.model.num_attention_heads=3"], "model.hidden_size", 32),
    ],
)
def test_a_wrong_command_line_is_one_line(experiment, arguments, field, value):
    names = {"small": experiment, "tmp": experiment.parent}
    value = value.format(**names) if isinstance(value, str) else value
    with raises(ConfigError, field=field, value=value):
        parse(*[a.format(**names) for a in arguments])


@pytest.mark.parametrize(
    ("field", "meant"),
    [("train.sead", "seed"), ("seed", "train.seed or eval.seed or sample.seed"), ("trian.seed", "train")],
)
def test_a_misspelt_field_names_the_one_that_was_meant(experiment, field, meant):
    with raises(ConfigError) as caught:
        parse("--config", experiment, f"--config.{field}=1")
    assert f"did you mean {meant}?" in str(caught.value)


def test_a_reader_that_leaves_early_is_no_error(tmp_path):
    process = tiny.command("--list", module="gener_jax.evaluate", cwd=tmp_path)
    assert process.stdout.readline().startswith("task ")
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait() == 0


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.txt", EXPERIMENT, "not a Python file"),
        ("a.py", "", "AttributeError: module 'experiment_a' has no attribute 'get_config'"),
        ("a.py", "def get_config(:\n", "line 1: SyntaxError"),
        ("a.py", "\0\1", ": "),
        ("a.py", "x = 1\nimport absent_module\n", "line 2: ModuleNotFoundError: No module named 'absent_module'"),
        ("a.py", "def get_config():\n    return {}\n", "AttributeError: 'dict' object has no attribute 'to_dict'"),
        ("a.py", "def get_config():\n    raise ValueError\n", "line 2: ValueError: "),
        ("a.py", EXPERIMENT.replace("num_steps", "num_stebs"), "line 7: AttributeError: "),
        ("a.py", EXPERIMENT.replace("5000", "'many'"), "line 7: TypeError: "),
    ],
)
def test_a_wrong_experiment_file_is_one_line_with_its_line_number(tmp_path, name, content, words):
    path = tmp_path / name
    path.write_text(content)
    with raises(ConfigError, field="--config", value=str(path)) as caught:
        parse("--config", path)
    assert words in str(caught.value)


def test_a_run_folder_gives_its_configuration(tmp_path):
    run_folder.describe(tmp_path, resolve({"name": "saved", "train": {"seed": 5}}))
    _, config, folder = parse("--checkpoint", tmp_path, "--config.eval.split=test", checkpoint=True)
    assert (config.name, config.train.seed, config.eval.split, folder) == ("saved", 5, "test", tmp_path)
    with raises(ConfigError, field="--checkpoint", value=str(tmp_path)):
        parse("--checkpoint", tmp_path, "--workdir", tmp_path, checkpoint=True)
    with raises(ConfigError, field=None) as caught:
        parse(checkpoint=True)
    assert "--checkpoint=DIR" in str(caught.value)
    with raises(CheckpointError, path=tmp_path / "absent"):
        parse("--checkpoint", tmp_path / "absent", checkpoint=True)
    for damaged in ('{"name"', "[1]", '{"format": 2, "modle": {}}', '{"format": 2, "train": {"seed": "x"}}'):
        (tmp_path / "config.json").write_text(damaged)
        with raises(CheckpointError, path=tmp_path / "config.json"):
            parse("--checkpoint", tmp_path, checkpoint=True)
    (tmp_path / "config.json").write_text('{"data": {"records": "bases"}}')  # as earlier versions named it
    with raises(CheckpointError, path=tmp_path / "config.json", name="format", value=1):
        parse("--checkpoint", tmp_path, checkpoint=True)


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (ConfigError("wrong"), 2, "error: wrong\n"),
        (ConfigError("needs --output", "--json", True), 2, "error: --json needs --output\n"),
        (DataError("damaged"), 1, "error: damaged\n"),
        (CheckpointError("runs/x", "absent"), 1, "error: runs/x: absent\n"),
        (
            FileNotFoundError(2, "No such file or directory", "x"),
            1,
            "error: [Errno 2] No such file or directory: 'x'\n",
        ),
        (MemoryError(), 1, "error: out of memory\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (KeyboardInterrupt("3 inputs are kept"), 130, "interrupted; 3 inputs are kept\n"),
        (
            Terminated(SIGTERM, 3),
            143,
            "stopped by SIGTERM after step 3, which is saved; the same command resumes there\n",
        ),
        (
            Terminated(SIGINT, 3),
            130,
            "stopped by Ctrl-C after step 3, which is saved; the same command resumes there\n",
        ),
    ],
)
def test_exit_status_and_line(capsys, monkeypatch, error, status, line):
    ends = []  # what would end this process
    monkeypatch.setattr("atexit.register", lambda *what: ends.append(what))

    def main():
        raise error

    with pytest.raises(SystemExit) as caught:
        command.run(main)
    assert caught.value.code == status
    assert capsys.readouterr() == ("", line)
    assert [number for _, number in ends] == [130] * isinstance(error, KeyboardInterrupt)


@pytest.mark.parametrize(
    "error", [ValueError("shapes do not match"), TypeError("x"), AssertionError("y"), KeyError("z")]
)
def test_an_error_of_the_program_passes_unchanged(error):
    def main():
        raise error

    with pytest.raises(type(error)) as caught:
        command.run(main)
    assert caught.value is error


def test_user_errors_turns_a_value_error_into_one_line():
    with raises(ConfigError, field="--prompt", value=None), errors.user_errors("--prompt"):
        raise ValueError("no base")
    for error in (DataError("damaged"), CheckpointError("runs/x", "absent")):
        with pytest.raises(type(error)) as caught, errors.user_errors("x"):
            raise error
        assert caught.value is error


@pytest.mark.parametrize(
    ("what", "flags", "field"),
    [("", (), "top_p"), ("", ("top_p",), "--top_p"), ("x", ("top_p",), "--top_p"), ("x", ("top_k",), "x")],
)
@pytest.mark.parametrize("value", [2, None])
def test_user_errors_keeps_the_argument_and_its_value(what, flags, field, value):
    with raises(ConfigError, field=field, value=value), errors.user_errors(what, flags=flags):
        raise errors.InputError("must be at most 1", "top_p", value)


@pytest.mark.parametrize(("flags", "field", "start"), [(["context"], "--context", "--"), ([], "context", "")])
def test_remedies_are_in_the_callers_language(flags, field, start):
    """A setting is an argument of `load` in Python and a flag on the command line."""
    error = InputError("is long", "context", 9, settings=[("model.sliding_window", 512), ("prompt_convention", "v1")])
    assert str(error) == "context is 9: is long; load the model with sliding_window=512 or prompt_convention='v1'"
    with raises(ConfigError, field=field) as caught, errors.user_errors(flags=flags):
        raise error
    remedy = "give --config.model.sliding_window=512 or --config.prompt_convention=v1"
    assert str(caught.value) == f"{start}context is 9: is long; {remedy}"


@pytest.mark.parametrize("module", ["gener_jax.train", "data_pipeline.build", "data_pipeline.train_bpe"])
def test_help(module, tmp_path):
    done = program("--help", module=module, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert module in done.stdout
    assert done.stderr == ""
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("module", [evaluate, sample, convert, score, embed])
def test_help_of_what_reads_a_run(module, capsys):
    with pytest.raises(SystemExit) as caught:
        module.main(["--help"])
    assert caught.value.code == 0
    assert "--checkpoint" in capsys.readouterr().out


def test_from_another_folder(tmp_path, experiment):
    """Finds and checks the experiment file; its dataset does not exist, which ends the program with one line."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    done = program("--config", "../small.py", "--config.data.path=none/here", "--config.train.check_memory=false",
                   cwd=elsewhere)  # fmt: skip
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert line.startswith("error: none/here: does not exist")
    assert "gener-jax data build" in line
    assert not list(elsewhere.iterdir())


@pytest.mark.parametrize("path", sorted((ROOT / "experiments").glob("*.py")), ids=lambda path: path.stem)
def test_every_experiment_file_resolves(path):
    _, config, _ = parse("--config", path)
    assert config.name == path.stem
    assert resolve(json.loads(dumps(config))) == config


def test_the_configuration_is_printed(experiment, capsys):
    with pytest.raises(SystemExit) as caught:
        parse("--config", experiment, "--config.train.seed=7", "--print_config")
    assert caught.value.code == 0
    assert resolve(json.loads(capsys.readouterr().out)) == parse("--config", experiment, "--config.train.seed=7")[1]
