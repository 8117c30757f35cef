"""The rows of a task of the fine-tuning matrix in files, and which of them the base has seen in pre-training."""

import dataclasses
import functools
import json
from pathlib import Path

import numpy as np

from data_pipeline.errors import DataError
from data_pipeline.files import write_text
from gener_jax.benchmarks.finetune_tasks import Task
from gener_jax.config import Finetune, resolve
from gener_jax.runtime.errors import CheckpointError, ConfigError
from gener_jax.runtime.progress import log


@dataclasses.dataclass(frozen=True)
class Rows:
    """The rows of an outer fold of a task, in files, and facts about them.

    Attributes:
      fields: of `config.Finetune`: problem, files, columns.
      facts: `rows` of each split, `tokens` of all of them, `notes`, `copies` (see `audit.Leaks.counts`).
      refused: why the task cannot be done; None if it can.
    """

    folder: Path
    fields: dict
    facts: dict
    refused: str | None = None

    @functools.cached_property
    def splits(self):
        """Those of `labelled.splits.read`."""
        from gener_jax.labelled import splits

        return splits.read(resolve(self.fields, Finetune))

    @property
    def bases(self) -> Path:
        """Of a problem token, where the class and window of each labelled test base are kept (`token.BASES`)."""
        return self.folder / "test_bases.npz"

    @property
    def masks(self) -> dict[str, np.ndarray]:
        """Of the test rows, bool [N]: `copy` of any training row; and `overlap` with pre-training, float32 [N]."""
        with np.load(self.folder / "test_rows.npz") as found:
            return dict(found)


def rows_of(task: Task, data: Path, folder: Path, fold: int, most: int) -> Rows:
    """Writes the rows of an outer fold, at most `most` for training and half as many for validation; or reads them."""
    facts = folder / "facts.json"
    if not facts.exists():
        try:
            found = _write_rows(task, data, folder, fold, most)
        except (DataError, ConfigError) as error:
            found = {"fields": {}, "facts": {}, "refused": str(error)}
        folder.mkdir(parents=True, exist_ok=True)
        write_text(facts, json.dumps(found, indent=1))
    return Rows(folder, **json.loads(facts.read_text()))


def _write_rows(task: Task, data: Path, folder: Path, fold: int, most: int) -> dict:
    from gener_jax.labelled import audit, splits

    if task.problem == "token":
        files = task.files(data, folder, fold).files
        return {"fields": {"problem": "token"} | files, "facts": {"rows": {}, "tokens": 0, "notes": []}}
    found = task.outer_fold(data, folder, fold)
    leaks = audit.leaks(found.train, found.test)
    rng, rows = np.random.default_rng(0), {}
    for name, limit in (("train", most), ("validation", most // 2), ("test", None)):
        each = getattr(found, name)
        rows[name] = each.take(np.sort(rng.permutation(len(each))[:limit]), name)
    fields = splits.write(dataclasses.replace(found, **rows), folder)
    np.savez(folder / "test_rows.npz", copy=~leaks.clean)
    counts = {name: len(each) for name, each in rows.items()}
    tokens = sum(len(x) // 6 + 2 for each in rows.values() for x in each.sequences)
    copies = leaks.counts
    facts = {"rows": counts, "all_train": len(found.train), "tokens": tokens, "notes": found.notes, "copies": copies}
    return {"fields": fields, "facts": facts}


def seen(base_: str, dataset: str | None, tests: list[list[str]]) -> list[np.ndarray]:
    """The fraction of the 32-mers of each sequence, float32 [N] per list, that occur in the training data of a model.

    These are `dataset`, or what the run names. NaN if it names none, being a published model, or its dataset is gone.

    Raises:
      DatasetError: `dataset` cannot be read.
    """
    from data_pipeline.dataset.reader import RegionSource
    from data_pipeline.sequence import bases, shared_kmers
    from data_pipeline.splitting import leakage
    from gener_jax.storage import pretrained

    sequences = [sequence for rows in tests for sequence in rows]
    edges = np.cumsum([len(rows) for rows in tests])[:-1]
    try:
        source = RegionSource(dataset or pretrained.read_config(pretrained.find(base_)).data.path, "train")
    except (DataError, ConfigError, CheckpointError) as error:
        if dataset:
            raise
        log(f"the test rows are not compared with the training data: {error}; give that as --dataset")
        return np.split(np.full(len(sequences), np.nan, np.float32), edges)
    hashes, sizes = leakage.hash_regions(map(bases.encode, sequences), 1)
    unique, members = np.unique(hashes, return_inverse=True)
    lengths = source.index["length"].tolist()
    regions = ((source.read(i, 0, n), np.zeros(1, np.int64), np.array([n])) for i, n in enumerate(lengths))
    occurs = leakage.occurring(shared_kmers.Index(unique), regions, 1)
    return np.split(leakage.train_overlaps(occurs, members, sizes), edges)
