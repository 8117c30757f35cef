"""Names of published models: the local cache, and downloading on request only. No network is touched."""

import sys
import types

import pytest

from gener_jax.runtime.errors import CheckpointError
from gener_jax.storage.huggingface import hub

NAME = "GenerTeam/GENERator-v2-eukaryote-1.2b-base"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache that holds the model at two commits; `main` is the second."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    base = tmp_path / f"models--{NAME.replace('/', '--')}"
    for commit in (COMMIT, "f" * 40):
        (base / "snapshots" / commit).mkdir(parents=True)
        (base / "snapshots" / commit / "config.json").write_text("{}")
    (base / "refs").mkdir()
    (base / "refs" / "main").write_text("f" * 40)
    (base / "refs" / "v2").write_text(COMMIT)
    return base / "snapshots"


def test_a_folder_is_itself(tmp_path, cache, monkeypatch):
    assert hub.find(tmp_path) == tmp_path
    monkeypatch.chdir(tmp_path)
    (tmp_path / NAME).mkdir(parents=True)
    assert str(hub.find(NAME)) == NAME  # what is here goes before the cache
    for no_name in ("absent", "a/b/c", "/absent/x", "../x/y/z"):
        assert str(hub.find(no_name)) == no_name


def test_the_cache_is_looked_up(cache):
    assert hub.find(NAME) == cache / ("f" * 40)
    assert hub.find(f"{NAME}@v2") == cache / COMMIT
    assert hub.find(f"{NAME}@{COMMIT}") == cache / COMMIT


def test_where_the_cache_is(monkeypatch, tmp_path):
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
def test_what_is_not_there_is_not_fetched(name, cache, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)  # importing it would fail
    with pytest.raises(CheckpointError, match=r"--download") as error:
        hub.find(name)
    assert error.value.path == name
    assert "\n" not in str(error.value)
    with pytest.raises(CheckpointError, match=r"fetching it needs pip install 'gener_jax\[hub\]'"):
        hub.find(name, download=True)


def test_download_takes_weights_and_no_code(cache, tmp_path, monkeypatch):
    asked = {}

    def snapshot_download(repository, **options):
        asked.update(options, repository=repository)
        if repository == "GenerTeam/gone":
            raise OSError("404 Client Error\nfor url")
        return str(tmp_path)

    monkeypatch.setitem(sys.modules, "huggingface_hub", types.SimpleNamespace(snapshot_download=snapshot_download))
    assert hub.find(NAME) == cache / ("f" * 40)
    assert not asked
    hub.find(NAME, download=True)  # which knows what of it the cache lacks
    assert (asked["repository"], asked["revision"]) == (NAME, None)
    assert hub.find("GenerTeam/new@v1", download=True) == tmp_path
    assert (asked["repository"], asked["revision"]) == ("GenerTeam/new", "v1")
    assert not [pattern for pattern in asked["allow_patterns"] if pattern.endswith((".py", ".bin", "*"))]
    with pytest.raises(CheckpointError, match=r"GenerTeam/gone: cannot be fetched: 404 Client Error$"):
        hub.find("GenerTeam/gone", download=True)
