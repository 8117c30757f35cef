"""Runs the notebooks from top to bottom, and their install cell in the folders where a user may start them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("folder", ["above", "above/gener_jax", "above/gener_jax/notebooks"])
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_install_cell_finds_the_clone(path, folder, tmp_path):
    """In a Python without the package, the cell installs the clone, and the running kernel can import it."""
    clone = tmp_path / "above" / "gener_jax"
    (clone / "notebooks").mkdir(parents=True)
    for name in ("gener_jax", "data_pipeline", "pyproject.toml"):
        (clone / name).symlink_to(ROOT / name)
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    install = "".join(cells[0]["source"])
    assert install.count("%pip install") == 1
    code = install.replace('%pip install -q -e "{clone}[notebook]"', 'print("installs", clone)') + "\n"
    code += (
        "import gener_jax, data_pipeline\nprint(gener_jax.load.__name__, gener_jax.__file__, data_pipeline.__file__)"
    )
    options = {"capture_output": True, "text": True, "cwd": tmp_path / folder}
    done = subprocess.run([sys.executable, "-S", "-E", "-c", code], check=False, **options)  # -S: no site-packages
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        f"installs {clone}",
        f"load {clone}/gener_jax/__init__.py {clone}/data_pipeline/__init__.py",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_runs(path, tmp_path):
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    notebook = nbformat.read(path, as_version=4)
    nbclient.NotebookClient(notebook, timeout=500, resources={"metadata": {"path": tmp_path}}).execute()
    outputs = [o for cell in notebook.cells if cell.cell_type == "code" for o in cell.outputs]
    assert any("image/png" in o.get("data", {}) for o in outputs), "no plot"
    assert (tmp_path / "runs").is_dir()
