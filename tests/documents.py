"""Code blocks of the documents: found by Sybil, marked by invisible comments, run, and compared with the output shown.

A `python` block shares the namespace of its page; an `output` block after it is what it prints. A `console` block has
lines that begin with `$ ` and, after each, what the command prints. `gener-jax …` runs in this process, everything else
in bash. A comment right above a block marks it:

    <!-- slow --> or <!-- slow: --flag … -->    runs with -m slow
    <!-- soak -->                               runs by hand
    <!-- shortened: --flag … -->                runs with these arguments added
    <!-- not run: REASON -->                    never runs here
    <!-- status 3 -->                           its last command ends so; others with 0

The output of a block with arguments added was made without them; the page gives its date.

Outputs are compared word by word: `...` stands for anything, numbers with a decimal point may differ by 2 %, and one
run of twelve or more bases is as good as another, as are the length and the end of a sample.
"""

import contextlib
import dataclasses
import io
import os
import re
import shlex
import subprocess
import sys
import warnings
from pathlib import Path

from sybil import Document
from sybil.parsers.markdown.lexers import FencedCodeBlockLexer

import gener_jax.__main__ as top
from data_pipeline import cli

ROOT = Path(__file__).parents[1]
WRITTEN = [path for path in (ROOT / "docs").rglob("*.md") if "_generated" not in path.parts]  # by hand
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *WRITTEN])
RUNS = ("python", "console", "bash")  # languages of blocks that run, or say why not
SHOWN = ("output", "text")  # and of those that are only read
_MARK = re.compile(r"<!-- (slow|soak|not run|shortened|status \d)(?:: ([^>]+?))? -->\n\Z")
# Lines of `suite.run` and `Rate`, which appear every ten seconds: on a fast machine never.
_PROGRESS = re.compile(r"^(([\w./-]+, )?\w+: [\d,]+ of [\d,]+|[\d,]+ (of [\d,]+ )?\w+  .*/s  .*)\n", re.MULTILINE)
_NUMBER = re.compile(r"-?\d[\d,]*\.\d+(?:e[-+]?\d+)?|-?\d+e[-+]?\d+")
_BASES = re.compile(r"[ACGTN]{12,}|(?<=^bases=)\d+|(?<=^end=)\w+")


@dataclasses.dataclass(frozen=True)
class Block:
    """A code block; `mark` is run, slow, soak, not run or shortened, and `detail` its reason or arguments."""

    page: Path
    line: int
    language: str
    source: str
    mark: str
    detail: str
    status: str  # the exit status of its last command, if it is not 0
    around: str  # the text after it, for the date of its figures

    def __str__(self):
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path) -> list[Block]:
    """The fenced code blocks of a page, MyST's directives left out."""
    lexer = FencedCodeBlockLexer(r"[^\n{}`]*", mapping={"language": "language", "source": "source"})
    document, found = Document.parse(str(page), lexer), []
    for example in document:
        region = example.region
        mark = _MARK.search(document.text[: region.start])
        kind, detail = (mark[1], mark[2] or "") if mark else ("run", "")
        status = kind.removeprefix("status ") if kind.startswith("status ") else ""
        around = document.text[max(region.start - 600, 0) : region.end + 600]
        found.append(
            Block(
                page,
                example.line,
                region.lexemes["language"],
                region.lexemes["source"],
                "run" if status else kind,
                detail,
                status,
                around,
            )
        )
    return found


class _Terminal(io.TextIOWrapper):
    """Standard output as a command sees it on a terminal."""

    def __init__(self, buffer: io.BytesIO, terminal: bool):
        super().__init__(buffer, encoding="utf-8", write_through=True)
        self._terminal = terminal

    def isatty(self):
        return self._terminal


def call(arguments: list[str], given: bytes | None, piped: bool) -> tuple[bytes, str]:
    """Runs `gener-jax ARGUMENTS` in this process: standard output, and standard error with a failure's exit status."""
    out, errors = _Terminal(io.BytesIO(), terminal=not piped), io.StringIO()
    before = sys.argv, sys.stdin, cli._typed
    sys.argv, cli._typed = ["gener-jax", *arguments], None
    if given is not None:
        sys.stdin = io.TextIOWrapper(io.BytesIO(given))
    status = 0
    try:
        with (
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(errors),
            warnings.catch_warnings(),
        ):
            top.main()
    except SystemExit as end:
        status = end.code or 0
    finally:
        sys.argv, sys.stdin, cli._typed = before
    out.flush()
    text = errors.getvalue()
    return out.buffer.getvalue(), text if not status else f"{text}exit status {status}\n"


def shell(line: str, added: str = "") -> str:
    """What a line prints; `added` are arguments for its first `gener-jax`."""
    if line.startswith("gener-jax ") and added:
        line = f"{line} {added}"
    line, _, file = line.partition(" > ")
    stages, given, errors = line.split(" | "), None, ""
    for i, stage in enumerate(stages):
        piped = i + 1 < len(stages) or bool(file)
        if stage.startswith("gener-jax "):
            given, text = call(shlex.split(stage)[1:], given, piped)
            errors += text
        else:
            environment = {
                **os.environ,
                "PYTHONPATH": str(ROOT),
                "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            }
            done = subprocess.run(["bash", "-c", stage], input=given, capture_output=True, env=environment, timeout=300)
            given, errors = done.stdout, errors + done.stderr.decode()
            if done.returncode:
                errors += f"exit status {done.returncode}\n"
    if file:
        Path(file).write_bytes(given)
        given = b""
    return errors + given.decode()


def commands(source: str) -> list[tuple[str, str]]:
    """The commands of a console block with the output shown after each; a backslash continues a line."""
    found, lines = [], iter(source.splitlines())
    for line in lines:
        if line.startswith("$ "):
            command = line[2:]
            while command.endswith("\\"):
                command = command[:-1] + next(lines).strip()
            found.append((command, ""))
        elif found:
            found[-1] = (found[-1][0], found[-1][1] + line + "\n")
        else:
            raise AssertionError(f"a console block begins with a line without '$ ': {line}")
    return found


def _same(expected: str, actual: str) -> bool:
    if expected == actual:
        return True
    numbers = [[float(x.replace(",", "")) for x in _NUMBER.findall(word)] for word in (expected, actual)]
    shapes = [_BASES.sub("DNA", _NUMBER.sub("#", word)) for word in (expected, actual)]
    return shapes[0] == shapes[1] and all(abs(a - b) <= 0.02 * abs(a) + 0.005 for a, b in zip(*numbers, strict=True))


def progress_removed(output: str) -> str:
    """An output without the lines that depend on how fast the machine is."""
    return _PROGRESS.sub("", output)


def matches(expected: str, actual: str) -> bool:
    """Whether an output is the one shown."""
    words, place = actual.split(), 0
    parts = [[]]
    for word in expected.split():
        if word in ("...", "…"):
            parts.append([])
        else:
            parts[-1].append(word)

    def at(part, start):
        found = words[start : start + len(part)]
        return len(found) == len(part) and all(map(_same, part, found))

    for i, part in enumerate(parts):
        first, last = i == 0, i + 1 == len(parts)
        if last and not first:
            places = [len(words) - len(part)] if len(words) - len(part) >= place else []
        elif first:
            places = [0]
        else:
            places = range(place, len(words) - len(part) + 1)
        place = next((start + len(part) for start in places if at(part, start)), None)
        if place is None or (first and last and place != len(words)):
            return False
    return True


def run(page: Path, marks: tuple[str, ...]) -> None:
    """Runs the blocks of a page that have one of the marks, in its order and in the current folder.

    Raises:
      AssertionError: with the place and the real output, if a block prints something else than is shown.
    """
    namespace, printed = {"__name__": "__main__"}, None
    for block in blocks(page):
        if block.language == "output":
            if printed is not None and block.mark == "run":
                _check(block, "its output", block.source, printed)
            continue
        printed = None
        if block.mark not in marks:
            continue
        if block.language == "python":
            out = io.StringIO()
            with contextlib.redirect_stdout(out), warnings.catch_warnings():
                exec(compile("\n" * block.line + block.source, str(block), "exec"), namespace)
            printed = out.getvalue()
        elif block.language == "console":
            for command, shown in commands(block.source):
                output = shell(command, block.detail)
                if block.status:
                    output = output.replace(f"exit status {block.status}\n", "")
                if block.detail:
                    assert "exit status" not in output, f"{block}: {command}\n{output}"
                else:
                    _check(block, command, shown, output)


def _check(block: Block, what: str, shown: str, output: str) -> None:
    output = progress_removed(output)
    if "exit status" in output:
        raise AssertionError(f"{block}: {what} failed\n{output}")
    if not matches(shown, output):
        raise AssertionError(f"{block}: {what}\n--- shown\n{shown}\n--- printed\n{output}")
