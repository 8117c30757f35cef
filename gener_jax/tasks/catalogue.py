"""The tasks that `eval.tasks` and `evaluate --tasks` know, by name."""

from collections.abc import Sequence

from data_pipeline.errors import did_you_mean
from gener_jax.config import Config
from gener_jax.runtime.errors import ConfigError
from gener_jax.tasks import (
    embedding_clusters,
    gene_completion,
    indels,
    needle,
    perturbation,
    recall,
    sequence_recovery,
    understanding,
    variant_effect,
    variant_probe,
)
from gener_jax.tasks.base import Entry, Task
from gener_jax.tasks.held_out import HeldOut
from gener_jax.tasks.recovery import Recovery

ENTRIES: tuple[Entry, ...] = (
    *embedding_clusters.ENTRIES,
    *gene_completion.ENTRIES,
    Entry("held_out", HeldOut, quick=16, regions=True),
    *needle.ENTRIES,
    *recall.ENTRIES,
    Entry("recovery", Recovery, quick=64, regions=True),
    *indels.ENTRIES,
    *perturbation.ENTRIES,
    *sequence_recovery.ENTRIES,
    *understanding.ENTRIES,
    *variant_effect.ENTRIES,
    *variant_probe.ENTRIES,
)
TASKS = {entry.name: entry for entry in ENTRIES}


def of_config(config: Config, names: Sequence[str]) -> list[Task]:
    """The tasks of these names, with the options of a configuration.

    Raises:
      ConfigError: if there is no such task, or its data are missing (`base.NotRun`).
      DataError: if the dataset cannot be read.
    """
    if unknown := [name for name in names if name not in TASKS]:
        raise ConfigError(f"no such task; there are {', '.join(TASKS)}", "eval.tasks", unknown[0])
    return [TASKS[name].make(config) for name in names]


def chosen(words: Sequence[str], field: str = "--tasks") -> list[tuple[Entry, int | None]]:
    """The tasks that words choose, in the order of `ENTRIES`, and the rows to which each is limited (None: as
    configured): names of tasks and groups, "all", and "quick", which limits what no other word chooses.

    Raises:
      ConfigError: of `field`, if a word is none of these.
    """
    known = dict.fromkeys(["quick", "all", *(x for entry in ENTRIES for x in (entry.group, entry.name) if x)])
    if unknown := [word for word in words if word not in known]:
        problem = f"no such task or group; --list lists them{did_you_mean(unknown[0], known)}"
        raise ConfigError(problem, field, unknown[0])
    whole = [entry for entry in ENTRIES if {"all", entry.name, entry.group} & set(words)]
    quick = [entry for entry in ENTRIES if "quick" in words and entry.quick is not None]
    return [(each, None if each in whole else each.quick) for each in ENTRIES if each in whole or each in quick]
