"""A causal fine-tuning run: its plan, and the results of its best checkpoint."""

import dataclasses
from pathlib import Path

from data_pipeline.errors import counted
from data_pipeline.splitting import proteins
from gener_jax.config import Config, Finetune, ModelSpec
from gener_jax.finetuning import method
from gener_jax.finetuning.causal import HeldOutSequences, Rows
from gener_jax.finetuning.generated import Generated
from gener_jax.finetuning.plan import Plan, resolved
from gener_jax.inference.lm import LM
from gener_jax.labelled import splits as labelled
from gener_jax.labelled.examples import Examples
from gener_jax.model import lora
from gener_jax.runtime.errors import ConfigError
from gener_jax.runtime.progress import log
from gener_jax.tasks.base import measure, silent
from gener_jax.training import objectives


def plan(config: Config, base: ModelSpec, workdir: Path) -> Plan:
    """The plan of a run on the sequences of `config.finetune`.

    Raises:
      ConfigError: if an option has no meaning here.
      DataError: as `labelled.splits.read` and `Rows`; a sequence exceeds the context of the base.
    """
    f, fns = config.finetune, config.objective.fns_from_step
    for field, wrong, problem in (
        ("finetune.long", f.long not in ("refuse", "truncate"), "must be refuse or truncate"),
        ("finetune.metric", f.metric not in (None, *HeldOutSequences.metrics),
         f"must be one of {', '.join(HeldOutSequences.metrics)}"),
        ("finetune.layer", f.layer != "last", "must be last"),
        ("objective.fns_from_step", fns not in (None, 0), "must be 0 or none"),
    ):  # fmt: skip
        if wrong:
            section, name = field.split(".")
            raise ConfigError(f"{problem} for finetune.problem causal", field, getattr(getattr(config, section), name))
    if f.max_identity is not None:
        log("comparing the proteins of the sequences (finetune.max_identity)")
    splits = labelled.read(f, config.train.seed)
    for note in splits.notes:
        log(note)
    rows, metric = len(splits.train), f.metric or next(iter(HeldOutSequences.metrics))
    config = resolved(config, base, rows=rows, context_length=_context(base, splits.train, f), metric=metric)
    longest = max(len(row.ids) - 1 for row in Rows(splits.train, config).rows)
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, context_length=longest))

    def held_out(examples):
        """The task for a split, whose sequences may be longer than those of training."""
        data, closest = dataclasses.replace(config.data, context_length=_context(base, examples, f)), None
        if f.max_identity is not None:
            closest = proteins.closest(labelled.coding(splits.train), labelled.coding(examples))
            found = counted(int((closest > 0).sum()), "sequence")
            log(f"{examples.name}: {found} related to training, with at most {closest.max():.0%} of a protein")
        return HeldOutSequences(Rows(examples, dataclasses.replace(config, data=data)), metric, closest)

    task = held_out(splits.validation)
    tasks = [task] if splits.test is None else [held_out(splits.test), task]
    generated = Generated(config, splits.train, splits.validation if splits.test is None else splits.test)

    def results(params, mesh):
        return [measure(each.prepare(config.spec, mesh), params, silent) for each in tasks], None

    def of_generated(params, mesh):
        if adapters := params.get("adapters"):
            params = lora.merge({name: x for name, x in params.items() if name != "adapters"}, adapters)
        return generated, generated(LM(config.spec, params, mesh))

    objective = objectives.of_config(config, config.tokenizer.make())(0)
    source, init = Rows(splits.train, config), method.init(config, None)
    test = None if splits.test is None else splits.test.digest
    return Plan(config, None, source, objective, init, task, results, of_generated, test=test)


def _context(base: ModelSpec, examples: Examples, finetune: Finetune) -> int:
    """The most tokens of a row."""
    special = max(map(len, examples.conditions or [finetune.prefix]))
    return base.model.max_length or 1 + max(map(len, examples.sequences)) + special
