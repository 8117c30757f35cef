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


def chosen(words: Sequence[str], field: str = "--tasks", rows: int | None = None) -> list[tuple[Entry, int | None]]:
    """The tasks that words choose, in the order of `ENTRIES`, and the rows to which each is limited (None: as
    configured): names of tasks and groups, "all", and "quick". With ":N" a word limits what it chooses to N rows. Of
    several words that choose a task a name counts more than a group, a group more than "all", "all" more than "quick".

    Args:
      words: of which none is empty.
      field: where they come from.
      rows: limits what has no limit of its own, and replaces those of "quick".

    Raises:
      ConfigError: of `field`, if a word is none of these.
    """
    known = dict.fromkeys(["quick", "all", *(x for entry in ENTRIES for x in (entry.group, entry.name) if x)])
    limits = {}
    for word in words:
        name, colon, number = word.partition(":")
        if name not in known:
            problem = f"no such task or group; --list lists them{did_you_mean(name, known)}"
            raise ConfigError(problem, field, word)
        if colon and not (number.isascii() and number.isdigit() and int(number) > 0):
            raise ConfigError("the number of rows behind the colon must be a positive whole number", field, word)
        limits[name] = int(number) if colon else None
    found = []
    for entry in ENTRIES:
        if names := [x for x in (entry.name, entry.group, "all") if x in limits]:
            found.append((entry, limits[names[0]] or rows))
        elif "quick" in limits and entry.quick is not None:
            found.append((entry, limits["quick"] or rows or entry.quick))
    return found
