"""The command line of both packages: commands called by name (gener-jax train …), and the parser of each.

A command is a module whose `main()` reads sys.argv. It is imported only when it is called, and imports what it runs
only when its command line is parsed, so that --help and errors of the command line are immediate.
"""

import argparse
import contextlib
import importlib
import io
import itertools
import json
import os
import signal
import sys
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path

from data_pipeline.errors import did_you_mean
from data_pipeline.files import finite

WIDTH = 80  # columns of a help text
_METAVARS = {int: "N", float: "X", Path: "FILE"}
_typed: str | None = None  # "gener-jax data build", once `call` has read it


def program() -> str:
    """The command that the user typed, without arguments, for usage lines and errors."""
    if _typed is not None:
        return _typed
    spec = getattr(sys.modules["__main__"], "__spec__", None)  # set by python -m
    return f"python -m {spec.name.removesuffix('.__main__')}" if spec else Path(sys.argv[0]).name


def escape_unencodable() -> None:
    """Lets standard output and standard error take any text: what their encoding lacks is escaped (\\u2212)."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # not another object in its place, as in a notebook
            stream.reconfigure(errors="backslashreplace")


class Parser(argparse.ArgumentParser):
    """The parser of a command.

    Usage lines show the command as it was typed and its required arguments. Help fits 80 columns and shows the default
    of each option in brackets; options without one say in their text what applies then. A wrong command line is one
    line, which proposes the option or value that was probably meant, and exit status 2.
    """

    def __init__(self, description: str):
        """`description`: what the command does, with indented examples, whose line breaks are kept."""
        super().__init__(
            prog=program(), description=description, formatter_class=_Help, allow_abbrev=False, add_help=False
        )
        self.add_argument("-h", "--help", action="help", help=argparse.SUPPRESS)  # who reads it knows it

    def parse_known_args(self, args: Sequence[str] | None = None, namespace=None):
        """As argparse, but options that do not exist are reported before anything that is missing."""
        args = sys.argv[1:] if args is None else list(args)
        for argument in args[: args.index("--")] if "--" in args else args:
            name = argument.partition("=")[0]
            if name.startswith("--") and name not in self._option_string_actions and " " not in argument:
                meant = did_you_mean(name, self._option_string_actions)
                self.error(f"there is no option {name}{meant or '; --help lists all'}")
        return super().parse_known_args(args, namespace)

    def _check_value(self, action, value):
        if action.choices is not None and value not in action.choices:
            choices = [str(choice) for choice in action.choices]
            problem = f"invalid choice: {value!r}; give one of {', '.join(choices)}{did_you_mean(str(value), choices)}"
            raise argparse.ArgumentError(action, problem)

    def error(self, message: str):
        """Ends the program with one line and exit status 2."""
        self.exit(2, f"{self.prog}: error: {message}\n")


class _Help(argparse.HelpFormatter):
    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=24, width=WIDTH)

    def _fill_text(self, text, width, indent):
        lines = []
        for verbatim, block in itertools.groupby(text.strip().splitlines(), lambda line: line[:1] in ("", " ")):
            block = list(block)
            lines += block if verbatim else textwrap.wrap(" ".join(block), width)
        return "\n".join(indent + line for line in lines) + "\n"

    def _format_usage(self, usage, actions, groups, prefix):
        required = [action for action in actions if action.required]
        return super()._format_usage(usage, required, [], prefix).rstrip() + " [options]\n\n"

    def _format_args(self, action, default_metavar):
        if action.nargs == "+" and action.metavar is not None and action.default == []:  # repeatable: the text says so
            return action.metavar
        return super()._format_args(action, default_metavar)

    def _get_default_metavar_for_optional(self, action):
        of = getattr(action.type, "type", action.type)  # of a range of numbers, what it converts to
        return _METAVARS.get(of) or super()._get_default_metavar_for_optional(action)

    def _get_help_string(self, action):
        default, text = action.default, action.help or ""
        if not action.option_strings or action.nargs == 0 or default in (None, "", []) or text.endswith("]"):
            return text
        shown = " ".join(map(str, default)) if isinstance(default, list | tuple) else str(default)
        return f"{text} [{shown.replace('%', '%%')}]".lstrip()


def run(work: Callable[[], object]) -> int:
    """Does the work of a command; returns its exit status: 0, 1 after an error of one line, 130 if interrupted.

    SIGTERM interrupts too, so that a job that is terminated leaves no incomplete file.
    """
    handler = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        work()
        sys.stdout.flush()
    except BrokenPipeError:
        nobody_reads()
    except (ValueError, OSError, MemoryError) as error:
        print(f"{program()}: error: {' '.join((str(error) or type(error).__name__).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as interrupt:
        print(f"{program()}: interrupted; {str(interrupt) or 'nothing was written'}", file=sys.stderr)
        return 130
    finally:
        signal.signal(signal.SIGTERM, handler)
    return 0


def nobody_reads() -> None:
    """After the reader of standard output has closed its pipe, as `head` does: what is left to write is dropped."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def add_json(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Adds --json, which `text` and `finish` heed."""
    parser.add_argument("--json", action="store_true", help="the result as JSON [its last line, off a terminal]")


def text(as_json: bool) -> contextlib.AbstractContextManager:
    """Inside, what is printed on standard output is for people: nothing of it appears with --json."""
    return contextlib.redirect_stdout(io.StringIO()) if as_json else contextlib.nullcontext()


def finish(facts: dict, as_json: bool, *, listed: bool = True) -> None:
    """Prints the result of a command, its last output: one line of JSON with --json or if no terminal reads it.

    On a terminal the facts that are not None, each on a line; nothing if they need not be `listed`.
    """
    if as_json or not sys.stdout.isatty():
        print(json.dumps(finite(facts)), flush=True)
    elif listed:
        width = max(map(len, facts), default=0) + 2
        for name, value in facts.items():
            if value is None:
                continue
            number = isinstance(value, int | float) and not isinstance(value, bool)
            print(f"{name.replace('_', ' '):{width}}{f'{value:,}' if number else value}")


def call(verbs: dict[str, tuple[str, str]], run: Callable = lambda main: sys.exit(main()), version: str = "") -> None:
    """Runs the command that the first argument names; without one, or with --help, lists all commands.

    Args:
      verbs: name → (module, one-line description); a module called __main__ has further commands.
      run: a function that runs the `main` of a command.
      version: the text that --version prints.

    Raises:
      SystemExit: with status 2, after one line, if there is no such command; else with the status of the command.
    """
    global _typed
    escape_unencodable()
    name, (verb, *rest) = program(), sys.argv[1:] or ["--help"]
    if verb in ("-h", "--help"):
        width = max(map(len, verbs)) + 2
        lines = [f"  {verb:{width}}{line}" for verb, (_, line) in verbs.items()]
        print("\n".join([f"usage: {name} COMMAND …, {name} COMMAND --help", "", *lines]))
    elif verb == "--version" and version:
        print(version)
    elif verb not in verbs:
        problem = f"{verb!r} is not a command; give one of {', '.join(verbs)}{did_you_mean(verb, verbs)}"
        print(f"{name}: error: {problem}", file=sys.stderr)
        sys.exit(2)
    else:
        _typed = f"{name} {verb}"
        sys.argv = [_typed, *rest]
        module = verbs[verb][0]
        main = importlib.import_module(module).main
        main() if module.endswith(".__main__") else run(main)
