"""Tests user errors through the commands: one clear line, an exit status, and no incomplete output.

The tests of `data_pipeline` cover unreadable genomes and datasets, `test_config` covers configurations.
"""

import json
import shutil
import signal
from pathlib import Path

import pytest

from data_pipeline import cli
from gener_jax import evaluate, sample, train
from gener_jax.cli import command
from gener_jax.model import memory
from gener_jax.storage import run_folder
from tests import tiny

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return tiny.genomes(tmp_path_factory.mktemp("data") / "genomes")


@pytest.fixture
def error_line(capsys):
    """Runs a command in this process, which has 8 devices, checks its exit status and returns its error line."""

    def run(main, arguments, status):
        with pytest.raises(SystemExit) as caught:
            command.run(lambda: main([str(a) for a in arguments]))
        out, err = capsys.readouterr()
        assert (caught.value.code, out) == (status, "")
        [line] = [line for line in err.splitlines() if not line.startswith("building ")]
        assert line.startswith("error: ") or f"{cli.program()}: error: argument " in line
        assert len(line) < 500
        return line

    return run


@pytest.mark.parametrize(
    ("changes", "status", "words"),
    [
        ({"data__path": "absent/set"}, 1, "gener-jax data build --input GENOMES --output absent/set"),
        ({"data__path": "absent/set", "data__build_from": "absent.gb"}, 1, "absent.gb: no such file"),
        ({"sample__prompts": "ATGA<cds>ATG"}, 2, "sample.prompts: special token at position 4"),
        ({"data__validation_fraction": "0.4", "data__build_from": "absent.gb"}, 1, "use another --config.data.path"),
        ({"data__path": "."}, 1, "is not a dataset"),
        ({"mesh__fsdp": "3"}, 2, "does not fit 8 device(s)"),
        ({"mesh__fsdp": "5", "mesh__data": "-1"}, 2, "set --config.mesh.fsdp=1"),
        ({"train__batch_size": "12"}, 2, "not divisible by mesh data·fsdp = 8; set --config.train.batch_size=16"),
        ({"model__hidden_size": "20"}, 2, "= 20 is not divisible by mesh fsdp = 8; set --config.mesh.data=2"),
        ({"model__vocab_size": "100"}, 2, "model.vocab_size is 100: kmer-3 has 96 tokens"),
        ({"sample__prompts": "ATX"}, 2, "sample.prompts: character 'X' at position 2"),
        ({"eval__split": "test"}, 1, "split 'test' has no regions"),
        ({"tokenizer__kind": "bpe", "tokenizer__model_file": "absent.model", "data__storage": "token_ids"}, 2,
         "absent.model: cannot be read"),
    ],
)  # fmt: skip
def test_train(dataset, tmp_path, monkeypatch, error_line, changes, status, words):
    experiment = tiny.experiment(tmp_path / "tiny.py", dataset)
    before = sorted(tmp_path.iterdir())
    monkeypatch.chdir(tmp_path)
    overrides = [f"--config.{name.replace('__', '.')}={value}" for name, value in changes.items()]
    assert words in error_line(train.main, ["--config", experiment, "--workdir", tmp_path / "run", *overrides], status)
    assert sorted(tmp_path.iterdir()) == before


def test_large_run_without_data_and_memory_and_with_a_batch_that_does_not_divide(tmp_path, monkeypatch, capsys):
    """All problems are reported at once, with remedies that keep the flags of the command line."""
    monkeypatch.setattr(memory, "available", lambda: 3.0)
    flags = [f"--config={ROOT / 'experiments' / 'euk_1b.py'}", "--config.train.batch_size=100"]
    with pytest.raises(SystemExit) as caught:
        command.run(lambda: train.main([*flags, f"--workdir={tmp_path / 'run'}"]))
    assert caught.value.code == 1
    data, batch, gib = capsys.readouterr().err.splitlines()
    assert data.startswith("error: datasets/refseq_eukaryote: does not exist")
    assert "gener-jax data build" in data
    assert batch.startswith("error: train.batch_size is 100: ")
    assert "set --config.train.batch_size=104" in batch
    assert f"gener-jax plan {' '.join(flags)} --devices 8 --device_memory_gib 3." in gib
    assert gib.startswith("error: run needs about ")
    assert "GiB per device" in gib
    assert "there are 3 GiB on each of 8 cpu device(s)" in gib
    assert not list(tmp_path.iterdir())


def test_truncated_shard(dataset, tmp_path, error_line):
    damaged = tmp_path / "set"
    shutil.copytree(dataset, damaged)
    [shard] = damaged.glob("train-*.array_record")
    shard.write_bytes(shard.read_bytes()[:-1000])
    experiment = tiny.experiment(tmp_path / "tiny.py", damaged)
    line = error_line(train.main, ["--config", experiment, "--workdir", tmp_path / "run"], 1)
    assert f"{shard}: " in line
    assert "build the dataset again" in line
    assert not (tmp_path / "run").exists()


def test_folder_that_cannot_be_created(dataset, tmp_path, error_line):
    experiment = tiny.experiment(tmp_path / "tiny.py", dataset)
    (tmp_path / "file").write_text("x")
    line = error_line(train.main, ["--config", experiment, "--workdir", tmp_path / "file" / "run"], 1)
    assert str(tmp_path / "file") in line
    assert (tmp_path / "file").read_text() == "x"


@pytest.fixture(scope="module")
def empty_run(dataset, tmp_path_factory):
    """A folder with a config but no checkpoint."""
    folder = tmp_path_factory.mktemp("run")
    run_folder.describe(folder, tiny.config(dataset))
    return folder


@pytest.mark.parametrize(
    ("main", "arguments", "status", "words"),
    [
        (evaluate.main, ["--checkpoint", "absent"], 1, "absent: does not exist"),
        (evaluate.main, ["--checkpoint", "{run}"], 1, "holds no checkpoints; train one with"),
        (evaluate.main, ["--checkpoint", "{run}", "--config.tokenizer.k=9"], 2, "tokenizer.k is 9"),
        (evaluate.main, [], 2, "give --config=FILE.py or --checkpoint=DIR"),
        (
            sample.main,
            ["--checkpoint", "{run}", "--prompt", "ACGT<cds>ATG"],
            2,
            "--prompt: special token at position 4",
        ),
        (sample.main, ["--checkpoint", "{run}", "--seed", "4294967296"], 2, "argument --seed: "),
        (sample.main, ["--checkpoint", "{run}", "--prompt", "AC GT"], 2, "--prompt: character ' ' at position 2"),
        (sample.main, ["--checkpoint", "{run}", "--prompt", "<x>"], 2, "--prompt: unknown special token '<x>'"),
        (sample.main, ["--checkpoint", "{run}", "--temperature", "-1"], 2, "argument --temperature: "),
        (sample.main, ["--checkpoint", "{run}", "--num_bases", "-5"], 2, "argument --num_bases: "),
        (
            sample.main,
            ["--checkpoint", "{run}", "--gc", "30", "60"],
            2,
            "argument --gc: must be a fraction from 0 to 1 (30 % is 0.3), not '30'",
        ),
        (
            sample.main,
            ["--checkpoint", "{run}", "--forbidden_motifs", "GAATTC", "EcoRI", "--prompt", "ATG"],
            2,
            "motif 'EcoRI' must",
        ),
        (sample.main, ["--checkpoint", "{run}", "--prompt", "ACGT"], 1, "holds no checkpoints"),
    ],
)
def test_evaluate_and_sample(empty_run, tmp_path, monkeypatch, error_line, main, arguments, status, words):
    monkeypatch.chdir(tmp_path)
    assert words in error_line(main, [a.format(run=empty_run) for a in arguments], status)
    assert not list(tmp_path.iterdir())


def test_stop_that_is_not_a_token(empty_run, capsys):
    with pytest.raises(SystemExit) as caught:
        sample.main(["--checkpoint", str(empty_run), "--stop", "TAA"])
    assert caught.value.code == 2
    assert "invalid choice: 'TAA'" in capsys.readouterr().err


FULL_DISK = """
import resource
from gener_jax.training import checkpoint

save = checkpoint.Checkpoints.save

def save_on_a_full_disk(self, step, *arguments):
    if step == 12:
        self._manager.wait_until_finished()
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    save(self, step, *arguments)

checkpoint.Checkpoints.save = save_on_a_full_disk
"""


@pytest.mark.slow
def test_full_disk(dataset, tmp_path):
    experiment = tiny.experiment(tmp_path / "tiny.py", dataset, mesh__fsdp="1")
    run = [f"--config={experiment}", f"--workdir={tmp_path / 'run'}"]
    status, out, err = tiny.finished(tiny.command(*run, module="gener_jax.train", cwd=tmp_path, before=FULL_DISK))
    assert status == 1
    assert out == ""
    lines = [line for line in err.splitlines() if line != "run" and not line.startswith(("  ", "step "))]
    assert len(lines) == 1, err
    assert lines[0].startswith(f"error: {tmp_path / 'run' / 'checkpoints'}: a checkpoint cannot be written (")
    assert len(lines[0]) < 600
    status, out, err = tiny.finished(tiny.command(*run, module="gener_jax.train", cwd=tmp_path))
    assert status == 0, err
    assert f"resuming {tmp_path / 'run'} at step 9" in err
    assert "WARNING" not in err
    assert json.loads(out.splitlines()[-1])["evaluations"][0]["model"]["step"] == 12
    assert sorted(p.name for p in (tmp_path / "run" / "checkpoints").iterdir()) == ["12", "9"]
    # The other two print their own lines and nothing else.
    for module, arguments in (("gener_jax.evaluate", []), ("gener_jax.sample", ["--num_bases", "12"])):
        read = tiny.command("--checkpoint", tmp_path / "run", *arguments, module=module, cwd=tmp_path)
        status, out, err = tiny.finished(read)
        assert status == 0, err
        assert out
        own = (f"evaluating {tmp_path / 'run'}, step 12, ", "run, held_out: bits per base ", "1 of 1 sample")
        assert [line for line in err.splitlines() if not line.startswith(own)] == []


@pytest.mark.slow
def test_control_c(dataset, tmp_path):
    experiment = tiny.experiment(tmp_path / "tiny.py", dataset, mesh__fsdp="1", train__num_steps="100000",
                                 checkpoint__every_steps="20", eval__every_steps="100000")  # fmt: skip
    process = tiny.command(
        f"--config={experiment}", f"--workdir={tmp_path / 'run'}", module="gener_jax.train", cwd=tmp_path
    )
    lines = []
    for line in process.stderr:
        lines.append(line)
        if line.startswith("step 45/"):
            process.send_signal(signal.SIGINT)
            break
    status, out, err = tiny.finished(process)
    assert status == 130, err
    assert out == ""
    lines = [line for line in err.splitlines() if line and not line.startswith("step ")]
    assert [line.split()[0] for line in lines] == ["stopping", "stopped"]
    step = int(lines[1].split("step ")[1].split(",")[0])
    assert step >= 45
    names = {p.name for p in (tmp_path / "run" / "checkpoints").iterdir()}
    assert str(step) in names
    assert all(name.isdigit() for name in names)
    assert run_folder.read(tmp_path / "run").name == "run"
