"""The help of every command, without jax: one screen, defaults, an example; and wrong command lines, one line each."""

import functools
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import data_pipeline.__main__ as data
import gener_jax.__main__ as top
from gener_jax.benchmarks import __main__ as benchmark

ROOT = Path(__file__).parents[1]
LISTS = {"gener-jax": top, "gener-jax data": data, "gener-jax benchmark": benchmark}
COMMANDS = {
    f"{name} {verb}": module
    for name, listed in LISTS.items()
    for verb, (module, _) in listed.VERBS.items()
    if not module.endswith("__main__")
}
NOT_YET = {  # command → who rewrites its help
    "gener-jax data build": "with its new options",
    "gener-jax data inspect": "with its new options",
    "gener-jax data train_bpe": "with its new options",
}
ALL = """
import contextlib, importlib, io, json, sys
from data_pipeline import cli
heavy, found = {"jax", "jaxlib", "flax", "orbax", "grain", "optax", "torch"}, {}
for name, module in json.loads(sys.argv[1]).items():
    out, err, codes = io.StringIO(), io.StringIO(), []
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        cli._typed = name
        for arguments in (["--help"], ["--nothing"]):
            sys.argv = [name, *arguments]
            try:
                importlib.import_module(module).main()
            except SystemExit as end:
                codes.append(end.code)
    modules = {imported.partition(".")[0] for imported in sys.modules}
    found[name] = [codes, out.getvalue(), err.getvalue(), sorted(modules & heavy)]
print(json.dumps(found))
"""


@functools.cache
def helps() -> dict[str, list]:
    """Command → exit statuses of --help and of a wrong option, both texts, and the libraries imported by then."""
    done = subprocess.run(
        [sys.executable, "-c", ALL, json.dumps(COMMANDS)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


def unfinished(name: str, text: str) -> list[str]:
    """What a help lacks: one screen, an example, defaults in brackets."""
    lines = text.splitlines()
    found = [f"{len(lines)} lines"] if len(lines) > 40 else []
    found += [f"more than 80 columns: {line}" for line in lines if len(line) > 80]
    found += [] if re.search(rf"^    .*{name} ", text, re.MULTILINE) else ["no example"]
    return found + (["a default in parentheses"] if "(default" in text else [])


@pytest.mark.parametrize("name", COMMANDS)
def test_a_help_is_one_screen_with_an_example(name):
    codes, text, error, imported = helps()[name]
    assert codes == [0, 2]
    assert error == f"{name}: error: there is no option --nothing; --help lists all\n"
    assert imported == []
    assert text.startswith(f"usage: {name} ")
    faults = unfinished(name, text)
    assert bool(faults) == (name in NOT_YET), faults
