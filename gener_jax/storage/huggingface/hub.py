"""Names such as `GenerTeam/GENERator-v2-eukaryote-1.2b-base`: found in the local cache, fetched only on request."""

import difflib
import os
import re
from pathlib import Path

from gener_jax.runtime.errors import CheckpointError

_NAME = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")  # owner/name, @ a commit or branch
_FILES = [
    "config.json",
    "*.safetensors",
    "model.safetensors.index.json",
    "vocab.txt",
    "tokenizer.json",
    "provenance.json",
    "adapter_config.json",
    "head.json",
]  # no code


def cache() -> Path:
    """The folder in which `huggingface_hub` caches downloads, by the same environment variables."""
    home = Path(os.environ.get("HF_HOME", Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "huggingface"))
    named = os.environ.get("HF_HUB_CACHE", os.environ.get("HUGGINGFACE_HUB_CACHE"))
    return Path(named or home / "hub").expanduser()


def find(name: str | Path, *, download: bool = False) -> Path:
    """The folder of a model: the path itself if it exists, else that name in the cache.

    Args:
      name: a folder, or `owner/name`, or `owner/name@revision`, a commit or a branch (default: main).
      download: fetch what is missing in the cache; needs `pip install -e '.[hub]'`. Weights,
        configuration and vocabulary are fetched, no code.

    Raises:
      CheckpointError: if it is a file, if there is neither such a folder nor such a name in the cache, or if it cannot
        be fetched.
    """
    if Path(name).is_file():
        raise CheckpointError(Path(name), "is a file; give the folder of a model")
    if Path(name).exists():
        return Path(name)
    if not _NAME.fullmatch(str(name)):
        remedy = _beside(Path(name)) or "; give the folder of a run or of a Hugging Face model, OWNER/NAME, or tiny"
        raise CheckpointError(Path(name), f"does not exist{remedy}")
    repository, _, revision = str(name).partition("@")
    if not download:
        if (folder := _cached(repository, revision or "main")) is not None:
            return folder
        if meant := _beside(Path(name)):
            raise CheckpointError(name, f"does not exist{meant}")
        raise CheckpointError(
            name,
            f"is neither a folder nor in the Hugging Face cache {cache()}: fetch it with --download "
            "(download=True), or give its folder",
        )
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise CheckpointError(name, "fetching it needs pip install -e '.[hub]'") from None
    try:
        return Path(snapshot_download(repository, revision=revision or None, allow_patterns=_FILES))
    except Exception as error:  # of the network, of the hub, of the disk
        raise CheckpointError(name, f"cannot be fetched: {str(error).splitlines()[0]}") from error


def _beside(path: Path) -> str:
    """ "; did you mean FOLDER?" with the folder beside `path` whose name is closest; empty if none is close."""
    folders = [each.name for each in path.parent.iterdir() if each.is_dir()] if path.parent.is_dir() else []
    meant = difflib.get_close_matches(path.name, folders, 1, 0.7)
    return f"; did you mean {path.parent / meant[0]}?" if meant else ""


def _cached(repository: str, revision: str) -> Path | None:
    """The snapshot of a revision, if it holds a configuration; reading finds out whether other files are missing."""
    base = cache() / f"models--{repository.replace('/', '--')}"
    ref = base / "refs" / revision
    commit = ref.read_text().strip() if ".." not in revision and ref.is_file() else revision
    folder = base / "snapshots" / Path(commit).name
    return folder if any((folder / name).exists() for name in ("config.json", "adapter_config.json")) else None
