"""Features of a frozen model: computed once per row and kept in the run's folder; and the layer that predicts best."""

import dataclasses
import functools
import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from data_pipeline.files import atomic, write_text
from gener_jax.config import Config, Head
from gener_jax.finetuning import evaluation, method, objectives
from gener_jax.finetuning.source import Features
from gener_jax.inference.batches import tokens_per_batch
from gener_jax.inference.features import all_layers, features
from gener_jax.inference.framing import Framing
from gener_jax.inference.lm import LM, from_spec
from gener_jax.labelled.examples import Examples
from gener_jax.labelled.splits import Splits
from gener_jax.model import sharding
from gener_jax.runtime.progress import log
from gener_jax.statistics.metrics import METRICS, evaluate
from gener_jax.storage import pretrained
from gener_jax.training.step import init_state, make_train_step

_SWEEP = "sweep.json"


class Cache:
    """Features of rows by the model of `train.init_from`, in `features/` of the run's folder.

    The name of a file has a digest of what decides its content: the rows, the framing, the layer, the model's files.
    """

    def __init__(self, config: Config, workdir: Path, framing: Framing, mesh: jax.sharding.Mesh):
        """`framing`: with the run's model, and a head for everything but the layer."""
        self._config, self._folder, self._framing, self._mesh = config, workdir / "features", framing, mesh
        self._base = pretrained.find(config.train.init_from)
        f = config.finetune
        self._strands = 2 if f.reverse_complement or f.average_strands else 1

    @functools.cached_property
    def _lm(self) -> LM:
        return from_spec(self._config.spec, self._base, mesh=self._mesh, check_memory=self._config.train.check_memory)

    def close(self) -> None:
        """Frees the model."""
        self.__dict__.pop("_lm", None)

    def of(self, examples: Examples, head: Head) -> np.ndarray:
        """float32 [strands, rows, inputs of the head]: of both strands where either is trained or predicted on."""
        return self._kept(examples, head, features, 1)

    def of_all_layers(self, examples: Examples, head: Head) -> np.ndarray:
        """float32 [layers + 1, strands, rows, inputs]; the last one follows the final norm."""
        return self._kept(examples, head, all_layers, self._config.model.num_hidden_layers + 1)

    def _kept(self, examples: Examples, head: Head, compute: Callable, layers: int) -> np.ndarray:
        files = sorted(path for path in self._base.rglob("*") if path.is_file())
        settings = {
            "rows": examples.digest,
            "head": [head.pooling, head.layer, head.long, head.chunks, head.untrimmed, head.pool_at_end, layers],
            "strands": self._strands,
            "model": dataclasses.asdict(self._config.spec),
            "longest": self._framing.longest,
            "files": [[str(path), path.stat().st_size, path.stat().st_mtime_ns] for path in files],
        }
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
        path = self._folder / f"{examples.name}-{digest}.npy"
        if not path.exists():
            log(f"computing the features of {len(examples):,} {examples.name} rows")
            by_strand = zip(*(evaluation.strands(x, self._strands == 2) for x in examples.sequences), strict=True)
            framing = Framing(self._framing.spec, head, self._framing.longest)
            rows = [row for strand in by_strand for codes in strand for row in framing.rows(codes)]
            found = compute(self._lm, rows, head, tokens_per_batch())
            self._folder.mkdir(parents=True, exist_ok=True)
            with atomic(path) as partial, partial.open("wb") as file:
                np.save(file, found.reshape(*[layers] * (layers > 1), self._strands, len(examples), -1))
        return np.load(path, mmap_mode="r")


def sweep(config: Config, workdir: Path, splits: Splits, head: Head, cache: Cache, mesh) -> tuple[Head, dict]:
    """The head on the layer that predicts validation rows best, and the metric of each layer by its name.

    A head of each layer is trained with the run's own steps. The result is kept in the folder.
    """
    train, validation = (cache.of_all_layers(each, head) for each in (splits.train, splits.validation))
    names = [str(layer) for layer in range(1, len(train))] + ["last"]
    objective, metric = objectives.of_config(config, head), config.finetune.metric
    source = Features(config, splits.problem, train[-1], splits.train, splits.validation)
    digest, path = source.digest, workdir / _SWEEP
    known = json.loads(path.read_text()) if path.exists() else {}
    if known.get("digest") != digest or known.get("metric") != metric:
        init = method.head_alone(config, head)
        rows = np.array([source.place(n) for n in range(config.train.num_steps * config.train.batch_size)], np.int32)
        rows = rows.reshape(config.train.num_steps, config.train.batch_size, 2)
        targets = {"labels": jnp.asarray(source.labels), "weights": jnp.asarray(source.weights)}
        with sharding.on(mesh):
            step = make_train_step(config, mesh, objective, source.axes, init=init)

            @jax.jit  # one program for all layers, and one call for all steps of one: a step is short
            def trained(state, features):
                def one(state, at):
                    batch = {"features": features[at[:, 1], at[:, 0]]}
                    return step(state, {}, batch | {name: x[at[:, 0]] for name, x in targets.items()})[0], None

                return jax.lax.scan(one, state, rows)[0]

            values, new = {}, init_state(config, mesh, init=init)
            for name, of_train, of_validation in zip(names, train, validation, strict=True):
                params = new.params["head"] | method.placed(new.params["head"], method.standardize(of_train))
                state = trained(dataclasses.replace(new, params={"head": params}), of_train)
                outputs = evaluation.of_features(of_validation[: 1 + head.average_strands], mesh)(state.params)
                found = evaluate(head.problem, splits.validation.targets, evaluation.numbers(head, outputs))
                values[name] = found[metric] if math.isfinite(found[metric]) else None
                log(f"layer {name}: validation {metric} {found[metric]:.4f}")
        known = {"digest": digest, "metric": metric, "values": values}
        write_text(path, json.dumps(known, indent=2) + "\n")
    sign = 1 if METRICS[head.problem][metric].higher_is_better else -1
    values = {name: value for name, value in known["values"].items() if value is not None}
    best = max(values, key=lambda name: sign * values[name], default="last")
    layers = {f"layer {name}": {metric: value} for name, value in known["values"].items()}
    return dataclasses.replace(head, layer=None if best == "last" else int(best)), layers
