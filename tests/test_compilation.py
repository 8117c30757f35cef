"""Where compiled programs are kept."""

import jax
import pytest

from gener_jax import embed, sample, score
from gener_jax.assets import TINY
from gener_jax.config import Config, Train
from gener_jax.inference import lm
from gener_jax.storage import compilation
from gener_jax.training import run


@pytest.fixture
def cache(monkeypatch):
    """Captures the configuration of jax instead of changing this process's cache."""
    given = {}
    monkeypatch.setattr(jax.config, "update", given.__setitem__)
    monkeypatch.setenv("XDG_CACHE_HOME", "/home/me/cache")

    def kept(platform, folder, named=None, env=None):
        given.clear()
        monkeypatch.setattr(jax, "default_backend", lambda: platform)
        monkeypatch.setattr(type(jax.config), "jax_compilation_cache_dir", env, raising=False)
        compilation.keep_programs(Config(train=Train(compilation_cache=named)), folder)
        return given.get("jax_compilation_cache_dir")

    return kept


def test_where_programs_are_kept(cache, tmp_path):
    assert cache("cpu", tmp_path) is None
    assert cache("gpu", tmp_path) == str(tmp_path / "compiled")
    assert cache("gpu", TINY) == "/home/me/cache/gener_jax/compiled"  # nothing is written to a published model's folder
    assert cache("gpu", tmp_path, env="/elsewhere") is None  # jax uses that
    for platform in ("cpu", "gpu"):
        assert cache(platform, tmp_path, "/named", env="/elsewhere") == "/named"


@pytest.mark.parametrize("command", [score, embed, sample])
def test_commands_keep_programs_before_they_compile_any(command, tmp_path, monkeypatch):
    class Asked(Exception):
        pass

    def keep(config, folder):
        raise Asked(config.train.compilation_cache, folder)

    monkeypatch.setattr(compilation, "keep_programs", keep)
    monkeypatch.setattr(lm, "from_spec", None)
    (tmp_path / "g.fa").write_text(">a\nACGTACGT\n")
    given = {
        score: ["--fasta", str(tmp_path / "g.fa")],
        embed: ["--fasta", str(tmp_path / "g.fa"), "--output", str(tmp_path / "e.npz")],
        sample: ["--prompt", "ACG"],
    }[command]
    with pytest.raises(Asked) as asked:
        command.main(["--checkpoint", "tiny", "--config.train.compilation_cache=/kept", *given])
    assert asked.value.args == ("/kept", TINY)


def test_training_keeps_programs():
    assert run.keep_programs is compilation.keep_programs
