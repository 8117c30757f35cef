"""Installing a clone: by its path (pip install -e), and as a wheel in another folder."""

import email
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from gener_jax import __version__

ROOT = Path(__file__).parents[1]
SMALL = """
    config.model.update(hidden_size=16, intermediate_size=32, num_hidden_layers=1)
    config.optimizer.warmup_steps = 1
    config.train.num_steps = 2
    config.eval.max_regions = 2
    config.sample.update(num_samples=1, num_bases=12)
    config.data.context_length = 64
    config.mesh.data = 1
"""


def run(*arguments, cwd, **environment):
    done = subprocess.run(
        [*map(str, arguments)],
        cwd=cwd, capture_output=True, text=True, check=False,
        env={**os.environ, "JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "true", **environment},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A folder with a clone called gener_jax, its wheel, and the wheel that pip makes for an editable install."""
    folder = tmp_path_factory.mktemp("packaging")
    clone = folder / "gener_jax"
    for package in ("gener_jax", "data_pipeline"):
        shutil.copytree(ROOT / package, clone / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, clone)
    pytest.importorskip("setuptools")
    build = "from setuptools import build_meta as b; b.build_editable('../editable'); b.build_wheel('../wheel')"
    (folder / "editable").mkdir()
    (folder / "wheel").mkdir()
    run(sys.executable, "-c", build, cwd=clone)
    return folder


def installed(built, kind, folder):
    """Unpacks the wheel into a folder, as an installer does."""
    [wheel] = (built / kind).glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def test_a_program_in_the_folder_above_finds_the_package(built, tmp_path):
    """From there the clone is an empty namespace package, which Python finds unless the install is on its path."""
    site = installed(built, "editable", tmp_path)
    program = "import site, sys; site.addsitedir(sys.argv[1]); import gener_jax, data_pipeline as d; "
    program += "print('load' in dir(gener_jax), gener_jax.__file__, d.__file__)"
    above = run(sys.executable, "-S", "-c", program, site, cwd=built, PYTHONPATH="")
    clone = (built / "gener_jax").resolve()
    assert above.split() == ["True", f"{clone}/gener_jax/__init__.py", f"{clone}/data_pipeline/__init__.py"]


def test_what_the_wheel_holds(built, tmp_path):
    site = installed(built, "wheel", tmp_path)
    there = {
        str(path.relative_to(site)) for path in site.rglob("*") if path.is_file() and ".dist-info" not in str(path)
    }
    kept = {
        str(path.relative_to(ROOT))
        for package in ("gener_jax", "data_pipeline")
        for path in (ROOT / package).rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    assert there == kept
    assert {"gener_jax/py.typed", "data_pipeline/py.typed"} < there
    [facts] = site.glob("*.dist-info/METADATA")
    assert email.message_from_string(facts.read_text())["Version"] == __version__


@pytest.mark.slow
def test_the_wheel_trains_a_copied_experiment(built, tmp_path):
    """Builds a dataset of the packaged chromosome and trains two steps, without any file of the clone."""
    pytest.importorskip("pip")
    [wheel] = (built / "wheel").glob("*.whl")
    site, work = tmp_path / "site", tmp_path / "work"
    run(sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", site, wheel, cwd=tmp_path)
    work.mkdir()
    experiment = (ROOT / "experiments" / "quickstart.py").read_text()
    (work / "mine.py").write_text(experiment.replace("    return config", f"{SMALL}\n    return config"))
    out = run(site / "bin" / "gener-jax", "train", "--config=mine.py", cwd=work, PYTHONPATH=str(site))
    assert '"step": 2' in out.splitlines()[-1]
    assert (work / "runs" / "mine" / "config.json").exists()
    where = run(sys.executable, "-c", "import gener_jax; print(gener_jax.__file__)", cwd=work, PYTHONPATH=str(site))
    assert where.strip() == str(site / "gener_jax" / "__init__.py")
