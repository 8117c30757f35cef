"""Tests names of published models: the local cache, and downloads only on request. The tests use no network."""

import sys
import types
from pathlib import Path

import pytest

from gener_jax.runtime.errors import CheckpointError
from gener_jax.storage.huggingface import hub
from tests.raised import raises

NAME = "GenerTeam/GENERator-v2-eukaryote-1.2b-base"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache that contains the model at two commits; `main` is the second."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    base = tmp_path / f"models--{NAME.replace('/', '--')}"
    for commit in (COMMIT, "f" * 40):
        (base / "snapshots" / commit).mkdir(parents=True)
        (base / "snapshots" / commit / "config.json").write_text("{}")
    (base / "refs").mkdir()
    (base / "refs" / "main").write_text("f" * 40)
    (base / "refs" / "v2").write_text(COMMIT)
    return base / "snapshots"


def test_folder_is_found_as_given(tmp_path, cache, monkeypatch):
    assert hub.find(tmp_path) == tmp_path
    monkeypatch.chdir(tmp_path)
    (tmp_path / NAME).mkdir(parents=True)
    assert str(hub.find(NAME)) == NAME  # an existing path has priority over the cache
    for no_name in ("absent", "a/b/c", "/absent/x", "../x/y/z"):
        with raises(CheckpointError, path=Path(no_name)):
            hub.find(no_name)


def test_finds_models_in_the_cache(cache):
    assert hub.find(NAME) == cache / ("f" * 40)
    assert hub.find(f"{NAME}@v2") == cache / COMMIT
    assert hub.find(f"{NAME}@{COMMIT}") == cache / COMMIT


def test_cache_folder_by_environment_variables(monkeypatch, tmp_path):
    for name in ("HF_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert hub.cache() == tmp_path / ".cache/huggingface/hub"
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert str(hub.cache()) == "/x/huggingface/hub"
    monkeypatch.setenv("HF_HOME", "/y")
    assert str(hub.cache()) == "/y/hub"
    monkeypatch.setenv("HF_HUB_CACHE", "/z")
    assert str(hub.cache()) == "/z"


@pytest.mark.parametrize("name", ["GenerTeam/absent", f"{NAME}@other", f"{NAME}@..", "GenerTeam/.."])
def test_missing_model_is_not_fetched_without_download(name, cache, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)  # importing it would fail
    with raises(CheckpointError, path=name) as caught:
        hub.find(name)
    assert "--download" in str(caught.value)
    with raises(CheckpointError, path=name) as caught:
        hub.find(name, download=True)
    assert ".[hub]" in str(caught.value)


def test_a_misspelt_folder_names_the_one_beside_it(cache, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "quickstart").mkdir(parents=True)
    for wrong in ("runs/quikstart", tmp_path / "runs" / "quikstart"):
        with raises(CheckpointError, path=wrong) as caught:
            hub.find(wrong)
        assert f"{Path(wrong).parent / 'quickstart'}?" in str(caught.value)
    with raises(CheckpointError) as caught:
        hub.find("runs/other")
    assert "quickstart" not in str(caught.value)


def test_download_fetches_weights_but_no_code(cache, tmp_path, monkeypatch):
    requested = {}

    def snapshot_download(repository, **options):
        requested.update(options, repository=repository)
        if repository == "GenerTeam/gone":
            raise OSError("404 Client Error\nfor url")
        return str(tmp_path)

    monkeypatch.setitem(sys.modules, "huggingface_hub", types.SimpleNamespace(snapshot_download=snapshot_download))
    assert hub.find(NAME) == cache / ("f" * 40)
    assert not requested
    hub.find(NAME, download=True)  # huggingface_hub knows which files the cache lacks
    assert (requested["repository"], requested["revision"]) == (NAME, None)
    assert hub.find("GenerTeam/new@v1", download=True) == tmp_path
    assert (requested["repository"], requested["revision"]) == ("GenerTeam/new", "v1")
    assert not [pattern for pattern in requested["allow_patterns"] if pattern.endswith((".py", ".bin", "*"))]
    with raises(CheckpointError, path="GenerTeam/gone") as caught:
        hub.find("GenerTeam/gone", download=True)
    assert str(caught.value).endswith("404 Client Error")
