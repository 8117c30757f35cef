"""Tasks: what a model is measured by; and their baselines."""

from collections.abc import Sequence

from gener_jax.config import Config
from gener_jax.runtime.errors import ConfigError
from gener_jax.tasks import needle, recall
from gener_jax.tasks.base import Entry, Task
from gener_jax.tasks.held_out import HeldOut
from gener_jax.tasks.recovery import Recovery

ENTRIES: tuple[Entry, ...] = (
    Entry("held_out", HeldOut, quick=16, regions=True),
    *needle.ENTRIES,
    *recall.ENTRIES,
    Entry("recovery", Recovery, quick=64, regions=True),
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
