"""Calls a package's commands by name: python -m data_pipeline build …, gener-jax train …

A command is a module whose `main()` reads sys.argv. It is imported only when it is called.
"""

import argparse
import contextlib
import importlib
import io
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

_typed: str | None = None  # "gener-jax data build", once `call` has read it


def program() -> str:
    """The command that the user typed, without arguments, for usage lines."""
    if _typed is not None:
        return _typed
    spec = getattr(sys.modules["__main__"], "__spec__", None)  # set by python -m
    return f"python -m {spec.name.removesuffix('.__main__')}" if spec else Path(sys.argv[0]).name


def escape_unencodable() -> None:
    """Lets standard output and standard error take any text: what their encoding lacks is escaped (\\u2212)."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # not another object in its place, as in a notebook
            stream.reconfigure(errors="backslashreplace")


def run(name: str, work: Callable[[], object]) -> int:
    """Does the work of a command; returns its exit status: 0, 1 after an error of one line, 130 if interrupted.

    SIGTERM interrupts too, so that a job that is terminated leaves no incomplete file.
    """
    handler = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        work()
        sys.stdout.flush()
    except BrokenPipeError:  # the reader closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (ValueError, OSError, MemoryError) as error:
        print(f"{name}: error: {' '.join((str(error) or type(error).__name__).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as interrupt:
        print(f"{name}: interrupted; {str(interrupt) or 'nothing was written'}", file=sys.stderr)
        return 130
    finally:
        signal.signal(signal.SIGTERM, handler)
    return 0


def add_json(parser: argparse.ArgumentParser) -> None:
    """Adds --json, which `text` and `finish` heed."""
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object instead of text [its last line, if not a terminal]"
    )


def text(as_json: bool) -> contextlib.AbstractContextManager:
    """Inside, what is printed on standard output is for people: nothing of it appears with --json."""
    return contextlib.redirect_stdout(io.StringIO()) if as_json else contextlib.nullcontext()


def finish(facts: dict, as_json: bool, shown: str | None = None) -> None:
    """Prints the result of a command, its last output: one line of JSON with --json or if no terminal reads it.

    On a terminal, `shown` instead; by default the facts that are not None, each on a line.
    """
    if as_json or not sys.stdout.isatty():
        print(json.dumps(facts, allow_nan=False), flush=True)
    elif shown is None:
        width = max(map(len, facts), default=0) + 2
        for name, value in facts.items():
            if value is None:
                continue
            number = isinstance(value, int | float) and not isinstance(value, bool)
            print(f"{name.replace('_', ' '):{width}}{f'{value:,}' if number else value}")
    elif shown:
        print(shown)


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
        print(f"{name}: error: {verb!r} is not a command; give one of {', '.join(verbs)}", file=sys.stderr)
        sys.exit(2)
    else:
        _typed = f"{name} {verb}"
        sys.argv = [_typed, *rest]
        module = verbs[verb][0]
        main = importlib.import_module(module).main
        main() if module.endswith(".__main__") else run(main)
