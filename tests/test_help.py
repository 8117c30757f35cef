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
from data_pipeline import cli
from gener_jax.benchmarks import __main__ as benchmark

ROOT = Path(__file__).parents[1]
LISTS = {"gener-jax": top, "gener-jax data": data, "gener-jax benchmark": benchmark}
COMMANDS = {
    f"{name} {verb}": module
    for name, listed in LISTS.items()
    for verb, (module, _) in listed.VERBS.items()
    if not module.endswith("__main__")
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
    found = [f"{len(lines)} lines"] if len(lines) > 43 else []
    found += [f"more than 80 columns: {line}" for line in lines if len(line) > 80]
    found += [] if re.search(rf"^    .*{name}\b", text, re.MULTILINE) else ["no example"]
    return found + (["a default in parentheses"] if "(default" in text else [])


@pytest.mark.parametrize("name", COMMANDS)
def test_a_help_is_one_screen_with_an_example(name):
    codes, text, error, imported = helps()[name]
    assert codes == [0, 2]
    assert error == f"{name}: error: there is no option --nothing; --help lists all\n"
    assert imported == []
    assert text.startswith(f"usage: {name} ")
    faults = unfinished(name, text)
    assert not faults


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--fsta", "x"], "there is no option --fsta; did you mean --fasta?"),
        (["--fsta=x"], "there is no option --fsta; did you mean --fasta?"),
        (["--fast", "x"], "there is no option --fast; did you mean --fasta?"),  # no prefix is taken for the whole
        (["--q"], "there is no option --q; --help lists all"),
        (
            ["--fasta", "x", "--mode", "meen"],
            "argument --mode: invalid choice: 'meen'; give one of mean, last; did you mean mean?",
        ),
        (["--fasta", "x", "--rows", "x"], "argument --rows: invalid int value: 'x'"),
        (["--rows", "2"], "the following arguments are required: --fasta"),
        (["--fasta", "x", "y"], "unrecognized arguments: y"),
    ],
)
def test_a_wrong_command_line_is_one_line(parser, capsys, arguments, words):
    with pytest.raises(SystemExit) as caught:
        parser.parse_args(arguments)
    assert caught.value.code == 2
    assert capsys.readouterr() == ("", f"{parser.prog}: error: {words}\n")


def test_the_help_of_an_option_ends_with_its_default(parser):
    lines = parser.format_help().splitlines()
    assert lines[0].endswith(" --fasta FILE [options]")
    texts = {
        line.split()[0]: line.partition("  ")[2].strip() for line in (x.strip() for x in lines) if line[:2] == "--"
    }
    assert texts == {
        "--fasta": "what is read",
        "--mode": "how [mean]",
        "--rows": "100% of them [4]",
        "--sizes": "all [1 2]",
        "--most": "at most [no limit]",
        "--quick": "skip the rest",
    }
    assert lines[-1].endswith("skip the rest")
    assert "first paragraph is filled to the width of a screen of 80 columns, whatever" in " ".join(lines)
    assert "    command --with   its line" in lines


@pytest.fixture
def parser():
    parser = cli.Parser(
        "The first paragraph is filled to the width of a screen of 80 columns, whatever its lines are\nin the source."
        "\n\n    command --with   its line\n"
    )
    parser.add_argument("--fasta", type=Path, required=True, help="what is read")
    parser.add_argument("--mode", choices=("mean", "last"), default="mean", metavar="X", help="how")
    parser.add_argument("--rows", type=int, default=4, help="100%% of them")
    parser.add_argument("--sizes", type=int, nargs=2, default=[1, 2], metavar=("A", "B"), help="all")
    parser.add_argument("--most", type=float, help="at most [no limit]")
    parser.add_argument("--quick", action="store_true", help="skip the rest")
    return parser
