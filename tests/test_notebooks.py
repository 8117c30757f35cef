"""Runs the notebooks from top to bottom, shortened, and their first cell in the folders where a user may start it.

The stored outputs are those of the full notebooks, made in `notebooks/` of a clone by

    jupyter nbconvert --to notebook --execute --inplace --ClearMetadataPreprocessor.enabled=True NOTEBOOK
"""

import base64
import json
import os
import re
import struct
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from tests.data import data_path

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
REPOSITORY = "https://github.com/gener-jax/gener_jax"
# What replaces values of the cell with the tag "parameters".
SHORT = {
    "quickstart": "NUM_STEPS = 2; NUM_SAMPLES = 4",
    "pretrain_tpu": "NUM_STEPS = 4",
    "variants": "ROWS = 200",
    "design": "NUM_BASES = 357",
    "finetune": "NUM_TRAIN = 64; NUM_TEST = 80; EPOCHS = 1.0",
}
LARGEST = 400_000  # bytes of a notebook
# Run after `variants` in its kernel: AUROC and average precision of its scores, by scikit-learn.
BY_SCIKIT_LEARN = """
import json
from sklearn.metrics import average_precision_score, roc_auc_score
settings = {"context": CONTEXT, "strand": variants.strand}
llr = {p: [x.llr for x in lm.score_variants(rows.variants, rows.genome, protocol=p, **settings)] for p in tasks}
print(json.dumps({p: [f(truth, x) for f in (roc_auc_score, average_precision_score)] for p, x in llr.items()}))
"""


def cells(path: Path, kind: str = "code") -> list[dict]:
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == kind]


def outputs(path: Path) -> list[dict]:
    return [output for cell in cells(path) for output in cell["outputs"]]


def pictures(found: list[dict]) -> list[tuple[int, int]]:
    """Width and height of all PNG outputs."""
    pngs = [base64.b64decode(x["data"]["image/png"]) for x in found if "image/png" in x.get("data", {})]
    assert all(png.startswith(b"\x89PNG") for png in pngs)
    return [struct.unpack(">II", png[16:24]) for png in pngs]


@pytest.fixture(scope="module")
def bare_python(tmp_path_factory):
    """A Python without the package's dependencies."""
    folder = tmp_path_factory.mktemp("bare")
    venv.create(folder, with_pip=False, symlinks=True)
    return folder / "bin" / "python"


def clone_at(folder: Path, *names: str) -> Path:
    (folder / "notebooks").mkdir(parents=True)
    for name in ("gener_jax", "data_pipeline", "pyproject.toml", *names):
        (folder / name).symlink_to(ROOT / name)
    return folder


def test_all_notebooks_are_here():
    assert {path.stem for path in NOTEBOOKS} == SHORT.keys()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_stored_notebook(path):
    """It opens in Colab, its first cell is that of all, and its outputs are those of a whole run without errors."""
    title = "".join(cells(path, "markdown")[0]["source"])
    address = REPOSITORY.replace("https://github.com", "https://colab.research.google.com/github")
    assert f"]({address}/blob/main/notebooks/{path.name})" in title
    assert REPOSITORY in (ROOT / "docs/install.md").read_text()
    assert cells(path)[0]["source"] == cells(NOTEBOOKS[0])[0]["source"]
    assert [cell["execution_count"] for cell in cells(path)] == list(range(1, len(cells(path)) + 1))
    assert sum("parameters" in cell["metadata"].get("tags", []) for cell in cells(path)) == 1
    assert not any(output["output_type"] == "error" for output in outputs(path))
    assert min(map(min, pictures(outputs(path)))) >= 150
    text = json.dumps([{**x, "data": {**x.get("data", {}), "image/png": ""}} for x in outputs(path)])
    assert not re.search(r"(?<![\w.)])/(home|root|tmp|work|usr|opt|Users|content|mnt)/", text)
    assert path.stat().st_size < LARGEST


@pytest.mark.parametrize("folder", ["above", "above/gener_jax", "above/gener_jax/notebooks", "elsewhere"])
def test_first_cell_finds_or_clones_the_repository(folder, bare_python, tmp_path):
    """Without the package it installs the clone, which the running kernel can import."""
    clone = clone_at(tmp_path / "above" / "gener_jax")
    (tmp_path / "elsewhere").mkdir()
    expected = clone if folder.startswith("above") else tmp_path / "elsewhere" / "gener_jax"
    code = "".join(cells(NOTEBOOKS[0])[0]["source"])
    assert code.count("!git clone -q {REPOSITORY} gener_jax") == code.count("%pip install -q -e") == 1
    code = re.sub(r"!git clone .*", f"Path('gener_jax').symlink_to({str(clone)!r})", code)
    code = re.sub(r"%pip install .*", "print('installs', Path.cwd())", code)
    code = "import sys\nsys.path.insert(0, '')  # as IPython does\n" + code  # the folder `gener_jax` is found there
    code += (
        "\nimport gener_jax, data_pipeline\nprint(gener_jax.__version__, gener_jax.__file__, data_pipeline.__file__)"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    options = {"capture_output": True, "text": True, "cwd": tmp_path / folder, "env": environment}
    done = subprocess.run([bare_python, "-c", code], check=False, **options)
    assert done.returncode == 0, done.stderr
    installs, imported = done.stdout.splitlines()
    assert installs == f"installs {clone}"
    assert imported.split()[1:] == [f"{expected}/gener_jax/__init__.py", f"{expected}/data_pipeline/__init__.py"]


def test_first_cell_does_not_install_again(tmp_path):
    code = "".join(cells(NOTEBOOKS[0])[0]["source"])
    code = re.sub(r"!git clone .*", "raise SystemExit('clones')", code)
    code = re.sub(r"%pip install .*", "raise SystemExit('installs')", code)
    options = {"capture_output": True, "text": True, "cwd": clone_at(tmp_path / "gener_jax") / "notebooks"}
    done = subprocess.run([sys.executable, "-c", f"{code}\nprint(root)"], check=False, **options)
    assert (done.stdout.strip(), done.returncode) == (str(tmp_path / "gener_jax"), 0), done.stderr


def test_the_text_of_variants_quotes_its_stored_outputs():
    path = ROOT / "notebooks/variants.ipynb"
    numbers = re.compile(r"(?<![\d.])0\.\d{3}(?!\d)")
    quoted = set(numbers.findall("".join(line for cell in cells(path, "markdown") for line in cell["source"])))
    assert quoted
    assert quoted <= set(numbers.findall(tables(outputs(path))))


def tables(found: list[dict]) -> str:
    return "".join("".join(x["data"].get("text/html", "")) for x in found if "data" in x)


def execute(path: Path, folder: Path, after: str = "") -> tuple[list[dict], str]:
    """The outputs of a notebook, shortened and run in a clone, and what code after it prints."""
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    clone = clone_at(folder / "gener_jax", "experiments", "tests")
    notebook = nbformat.read(path, as_version=4)
    at = next(i for i, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", []))
    given = {line.split(" = ")[0] for line in notebook.cells[at].source.splitlines()}
    assert {each.split(" = ")[0] for each in SHORT[path.stem].split("; ")} <= given
    notebook.cells.insert(at + 1, nbformat.v4.new_code_cell(SHORT[path.stem]))
    notebook.cells.append(nbformat.v4.new_code_cell(after))
    nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": clone / "notebooks"}}).execute()
    printed = "".join(output.text for output in notebook.cells.pop().outputs)
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs], printed


@pytest.mark.slow
@pytest.mark.parametrize("path", [p for p in NOTEBOOKS if p.stem != "variants"], ids=lambda p: p.stem)
def test_notebook_runs(path, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)
    made, _ = execute(path, tmp_path)
    assert len(pictures(made)) == len(pictures(outputs(path)))


@pytest.mark.slow
@pytest.mark.parametrize("measured", [True, False])
def test_variants_prints_what_scikit_learn_finds(measured, tmp_path, monkeypatch):
    """Of BRCA1, and without its files of the example that it makes; the probe's zero-shot row is the same again."""
    path = ROOT / "notebooks/variants.ipynb"
    monkeypatch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)
    monkeypatch.setenv("GENER_JAX_TEST_DATA", str(data_path("variants").parent if measured else tmp_path))
    made, found = execute(path, tmp_path, BY_SCIKIT_LEARN)
    assert ("AN EXAMPLE" not in json.dumps(made)) == measured
    row = r"<th>{}</th>\s*<td>([\d.]+)[^<]*</td>\s*<td>([\d.]+)"

    def printed(name):
        return [float(x) for x in re.search(row.format(name), tables(made)).groups()]

    for protocol, expected in json.loads(found).items():
        assert printed(f"tiny, {protocol}") == pytest.approx(expected, abs=0.00051)
    assert printed("zero_shot") == printed("tiny, window")
    assert len(pictures(made)) == len(pictures(outputs(path)))
