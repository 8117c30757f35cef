"""Fine-tunes a loaded model on rows that are given, and predicts the test rows: for tasks, which cannot import this."""

import contextlib
import dataclasses
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from gener_jax.config import resolve
from gener_jax.finetuning import labels
from gener_jax.finetuning.run import finetune
from gener_jax.inference.lm import LM
from gener_jax.labelled import splits as labelled
from gener_jax.labelled.splits import Splits
from gener_jax.model import decoder
from gener_jax.runtime.errors import ConfigError
from gener_jax.storage import run_folder

RATES = {"lora": 1e-3, "full": 1e-4}
LORA_TARGETS = ("q", "k", "v", "o", "gate", "up", "down")


@dataclasses.dataclass(frozen=True)
class FineTuning:
    """Fine-tunes by LoRA or in full, as `tasks.understanding.Adapt`.

    Attributes:
      method: "lora" or "full".
      fields: of a configuration, by section, instead of those chosen here, such as {"finetune": {"epochs": 6.0}}.
    """

    method: str
    fields: Mapping[str, Mapping] = dataclasses.field(default_factory=dict)

    def __call__(self, model: LM, splits: Splits, folder: Path, seed: int = 0) -> np.ndarray:
        """What the model predicts for the test rows, [N, C], by the checkpoint that is best on validation rows.

        The run, its rows and its predictions stay in `folder`, where the same call resumes it; what is fine-tuned is
        copied there only as long as it takes. What the run prints goes to stderr.

        Raises:
          ConfigError, DataError: as `finetuning.run.finetune`; or if the model was loaded with `weights`.
        """
        if (weights := getattr(model, "weights", None)) is not None:
            raise ConfigError("is for inference; load a model that is to be fine-tuned without it", "weights", weights)
        base = folder / "base"
        if not (base / "checkpoints").exists():
            shutil.rmtree(base, ignore_errors=True)
            run_folder.write_params(base, model.spec, decoder.stack(model.params))
        fields = labelled.write(splits, folder / "rows")
        chosen = {
            "name": self.method,
            "model": {"dtype": model.spec.model.dtype},
            "optimizer": {"peak_learning_rate": RATES[self.method], "weight_decay": 0.01, "beta2": 0.999},
            "train": {"init_from": str(base), "batch_size": 32, "seed": seed},
            "finetune": {
                "method": self.method, "targets": LORA_TARGETS, "pooling": "mean", "baselines": False, "epochs": 3.0,
                **fields,
            },
        }  # fmt: skip
        for section, values in self.fields.items():
            chosen[section] = chosen.get(section, {}) | dict(values)
        rows, batch = len(splits.train), chosen["train"]["batch_size"]
        steps = -(-chosen["finetune"]["epochs"] * rows // batch)
        chosen["optimizer"].setdefault("warmup_steps", int(max(steps // 20, 1)))
        with contextlib.redirect_stdout(sys.stderr):
            finetune(resolve(chosen), folder / "run")
        shutil.rmtree(base)
        return labels.read_predictions(folder / "run" / labels.PREDICTIONS, splits.problem.names)
