import importlib.util
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

import data_pipeline.__main__ as data
import gener_jax.__main__ as top
from data_pipeline import cli
from gener_jax import __version__
from gener_jax.benchmarks import __main__ as benchmark

ROOT = Path(__file__).parents[1]
LISTS = {"python -m gener_jax": top, "python -m data_pipeline": data, "python -m gener_jax.benchmarks": benchmark}


@pytest.fixture
def call(monkeypatch, capsys):
    """Runs `main` of a list; returns its status, standard output and error, and the command that was typed."""

    def run(module, *arguments, program="/somewhere/bin/gener-jax"):
        monkeypatch.setattr(sys, "argv", [program, *arguments])
        monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)
        monkeypatch.setattr(cli, "_typed", None)
        try:
            status = module.main()
        except SystemExit as end:
            status = end.code
        return (status or 0, *capsys.readouterr(), cli.program())

    return run


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
@pytest.mark.parametrize("module", LISTS.values(), ids=LISTS)
def test_lists_its_commands(call, module, arguments):
    status, out, err, _ = call(module, *arguments)
    usage, empty, *lines = out.splitlines()
    assert (status, usage[:16], empty, err) == (0, "usage: gener-jax", "", "")
    assert [line.split()[0] for line in lines] == list(module.VERBS)
    for line, (_, description) in zip(lines, module.VERBS.values(), strict=True):
        assert len(line) < 120
        assert line.endswith(f" {description}")


def test_every_command_is_listed():
    """Every file that can be run as a module is listed, and every listed module exists."""
    listed = {name for module in LISTS.values() for name, _ in module.VERBS.values()}
    assert all(importlib.util.find_spec(name) for name in listed)
    runnable = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for package in (Path(data.__file__).parent, Path(top.__file__).parent)
        for path in package.rglob("*.py")
        if '\nif __name__ == "__main__":' in path.read_text()
    }
    assert runnable == listed | {"gener_jax.__main__"}


@pytest.mark.parametrize("module", ["gener_jax", "data_pipeline", "gener_jax.embed"])
def test_standard_output_that_is_not_utf_8(module):
    """What ASCII lacks is escaped: an ellipsis, or a dot."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", module, "--help"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "\\u2026" in done.stdout or "\\xb7" in done.stdout


def test_usage_shows_the_command_that_was_typed(call):
    for arguments in (["data", "build"], ["benchmark", "tokenizer"], ["plan"]):
        status, out, err, typed = call(top, *arguments, "--help")
        assert (status, err, typed) == (0, "", " ".join(["gener-jax", *arguments]))
        assert out.startswith(f"usage: {typed} ")
    status, _, err, _ = call(top, "benchmark", "tokenizer", "--nothing")
    assert status == 2
    assert err == "gener-jax benchmark tokenizer: error: there is no option --nothing; --help lists all\n"


def test_status_and_last_line_are_those_of_the_command(call, tmp_path):
    status, out, err, _ = call(top, "train", "--config", f"{ROOT}/experiments/quickstart.py", "--print_config")
    assert (status, out[:24], err) == (0, '{\n  "name": "quickstart"', "")
    status, out, err, _ = call(top, "data", "inspect", str(tmp_path / "absent"))
    assert (status, out) == (1, "")
    assert err.startswith("gener-jax data inspect: error: ")
    status, _, err, _ = call(top, "benchmark", "tokenizer", str(tmp_path / "absent"))
    assert (status, err[:7]) == (1, "error: ")
    status, _, err, _ = call(top, "train")  # a ConfigError, which command.run turns into one line
    assert (status, err) == (2, "error: give --config=FILE.py\n")


def test_a_verb_that_does_not_exist_is_one_line(call):
    status, out, err, _ = call(top, "trian", "--config", "x")
    assert (status, out) == (2, "")
    assert (
        err == f"gener-jax: error: 'trian' is not a command; give one of {', '.join(top.VERBS)}; did you mean train?\n"
    )
    assert "gener-jax data: error: 'bulid'" in call(top, "data", "bulid")[2]


def test_version(call):
    assert call(top, "--version")[1].startswith(f"gener_jax {__version__}, jax ")
    assert call(data, "--version")[0] == 2


@pytest.mark.parametrize(("name", "module"), LISTS.items(), ids=LISTS)
def test_as_a_module(name, module):
    """In a new process; the listed modules are not imported."""
    program = f"import runpy, sys; runpy.run_module({name.split()[-1]!r}, run_name='__main__', alter_sys=True); " + (
        f"assert not {{'jax', 'numpy', *{[m for m, _ in module.VERBS.values()]}}} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"usage: {name} COMMAND")


@pytest.mark.parametrize(
    ("as_json", "terminal", "expected"),
    [
        (False, True, "for people\noutput  x\nrows    1,200\nequal   True\n"),
        (False, False, 'for people\n{"output": "x", "rows": 1200, "step": null, "equal": true}\n'),
        (True, True, '{"output": "x", "rows": 1200, "step": null, "equal": true}\n'),
        (True, False, '{"output": "x", "rows": 1200, "step": null, "equal": true}\n'),
    ],
)
def test_a_result_is_text_on_a_terminal_and_json_elsewhere(monkeypatch, as_json, terminal, expected):
    out = type("Out", (io.StringIO,), {"isatty": lambda self: terminal})()
    monkeypatch.setattr(sys, "stdout", out)
    with cli.text(as_json):
        print("for people")
    cli.finish({"output": "x", "rows": 1200, "step": None, "equal": True}, as_json)
    assert out.getvalue() == expected
