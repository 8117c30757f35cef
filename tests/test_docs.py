"""The documents: their code runs and prints what they show, their links lead somewhere, their lists are complete."""

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import jax
import pytest

from tests import documents
from tests.documents import PAGES, ROOT, RUNS, SHOWN, blocks

ALL = [block for page in PAGES for block in blocks(page)]
NAMES = {page: str(page.relative_to(ROOT)) for page in PAGES}


def pages_with(*marks):
    return [page for page in PAGES if any(b.mark in marks and b.language in RUNS for b in blocks(page))]


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A folder with what a clone has that the documents name, and nothing else."""
    for name in ("experiments", "gener_jax", "data_pipeline", "tests", "docs", "README.md", "pyproject.toml"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    devices = jax.devices
    monkeypatch.setattr(jax, "devices", lambda *backend: devices(*backend)[:1])  # as a reader's machine, not eight
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.setenv("COLUMNS", "100")
    return tmp_path


@pytest.mark.parametrize("page", pages_with("run", "shortened"), ids=NAMES.get)
def test_code_runs(page, clone):
    documents.run(page, ("run", "shortened"))


@pytest.mark.slow
@pytest.mark.parametrize("page", pages_with("slow"), ids=NAMES.get)
def test_slow_code_runs(page, clone):
    documents.run(page, ("run", "shortened", "slow"))


def test_every_block_runs_or_says_why_not():
    assert sorted({block.language for block in ALL} - {*RUNS, *SHOWN}) == []
    runs = [block for block in ALL if block.language in RUNS]
    assert [str(b) for b in runs if b.mark == "not run" and not b.detail] == []
    assert [str(b) for b in runs if b.mark == "run" and b.language == "bash"] == []  # write $ and console instead
    shortened = [b for b in runs if b.mark in ("slow", "shortened") and b.detail]
    assert [str(b) for b in shortened if not re.search(r"20\d\d-\d\d-\d\d", b.around)] == []
    counts = Counter(block.mark for block in runs)
    stated = re.search(r"Of (\d+) blocks, (.+?)\n\n", (ROOT / "docs/testing.md").read_text(), re.DOTALL)
    listed = {mark: int(n) for n, mark in re.findall(r"(\d+)(?: are)? `([a-z ]+)`", stated[2])}
    assert (int(stated[1]), listed) == (len(runs), dict(counts))


@pytest.mark.parametrize(
    ("expected", "actual", "same"),
    [
        ("a 1.500 b", "a 1.510\nb", True),
        ("a 1.5 b", "a 1.7 b", False),
        ("a 2 b", "a 3 b", False),
        ("a ... d", "a b c d", True),
        ("a ... d", "a b c", False),
        ("... c ...", "a b c d", True),
        ("a", "a b", False),
        ("", "a", False),
        (">x=1.0 ACGTACGTACGTACGT", ">x=1.0 TTTTTTTTTTTTTT", True),
    ],
)
def test_outputs_are_compared(expected, actual, same):
    assert documents.matches(expected, actual) is same


def test_progress_is_no_output():
    """Only slow machines print it."""
    kept = "tiny, held_out: bits per base 1.6316 (10 s)\n12 regions: 3 of 4 kept\n"
    progress = (
        "tiny, held_out: 3,214 of 3,214\nheld_out: 1 of 2\n1,024 of 6,428 rows  3.1/s  18.6 kb/s  29.0 min left\n"
    )
    assert documents.progress_removed(progress + kept) == kept


def test_the_readme_is_short():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 150
    assert len(text.encode()) <= 9 * 1024


def test_links_between_documents_lead_somewhere():
    broken = []
    for page in PAGES:
        text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
        for target in re.findall(r"(?:\]\(|src=\")([^)\s\"#]+)", text):
            if not target.startswith(("http", "mailto:")) and not (page.parent / target).exists():
                broken.append(f"{NAMES[page]}: {target}")
    assert broken == []


def test_the_map_of_the_code_lists_every_file():
    listed, folder = set(), None
    for line in (ROOT / "docs/architecture.md").read_text().splitlines():
        if heading := re.match(r"\*\*`([\w/]+/)`\*\*$", line):
            folder = heading[1]
        elif folder and (row := re.match(r"\| `([\w.]+)` \|", line)):
            listed.add(folder + row[1])
        elif line.startswith("## "):
            folder = None
    packages = ("data_pipeline", "gener_jax")
    assert listed == {str(path.relative_to(ROOT)) for package in packages for path in (ROOT / package).rglob("*.py")}


@pytest.mark.slow
def test_the_site_builds_without_warnings(tmp_path):
    pytest.importorskip("furo")
    pytest.importorskip("myst_parser")
    command = [sys.executable, "-m", "sphinx", "-W", "-q", "-b", "html", str(ROOT / "docs"), str(tmp_path / "html")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert (done.returncode, done.stderr) == (0, "")
    assert all((tmp_path / "html" / Path(NAMES[page]).relative_to("docs").with_suffix(".html")).exists()
               for page in PAGES if NAMES[page].startswith("docs/"))  # fmt: skip
