"""Can a small decoder learn the needle? Two layers over 2-mers, trained to copy, and then measured by `tasks/needle`.

    python experiments/needle.py

This trains three runs one after another, in runs/needle, each from the parameters of the one before: on rows of 64, 256
and 768 tokens. A row holds random sequences that occur twice, and the loss is that of their second occurrence. Short
rows come first, since finding a copy among 700 tokens is not learned from nothing: in them the circuit that copies what
followed last time (an induction head) pays at once. At the end the results of the task are printed and written.
"""

import dataclasses
from pathlib import Path

import numpy as np

from data_pipeline.sequence.tokenizer import BOS
from gener_jax import train
from gener_jax.assets import EXAMPLE_GENOME
from gener_jax.config import Config, base, resolve
from gener_jax.data.loader import read_batches
from gener_jax.model.decoder import num_parameters
from gener_jax.model.sharding import TOKENS
from gener_jax.storage.results import Evaluation, Model, Results
from gener_jax.tasks.base import Options, silent
from gener_jax.tasks.needle import Needle, known_bases

STAGES = ((64, 32, 1200), (256, 8, 350), (768, 3, 150))  # tokens of a row, rows of a step, steps
COPIED = 48  # bases of a sequence that occurs twice: a key and a value
FREE = 8  # bases of its second occurrence that nothing announces, and that have no loss


def get_config():
    config = base()
    config.name = "needle"
    config.model.update(
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=8,
        num_key_value_heads=8,
        head_dim=32,
        max_position_embeddings=768,
        rope_theta=10_000.0,
        initializer_range=0.05,
        remat="none",
    )
    config.tokenizer.k = 2
    config.data.context_length = 768
    config.optimizer.update(
        peak_learning_rate=3e-3, warmup_steps=50, schedule="wsd", final_learning_rate_ratio=0.1, weight_decay=0.01
    )
    config.eval.tasks = ()
    config.checkpoint.best = None
    return config


class Copies:
    """Rows with sequences that occur twice, each a function of its number; see `data.loader.DataSource`."""

    axes = dict.fromkeys(("inputs", "targets", "weights"), TOKENS)

    def __init__(self, config: Config):
        self.tokenizer, self.tokens, self.seed = config.tokenizer.make(), config.data.context_length, config.train.seed
        self.haystack = known_bases(EXAMPLE_GENOME)
        self.dataset = self.digest = f"copies of {COPIED} bases in rows of {self.tokens} tokens"
        total = config.train.num_steps * config.train.batch_size * self.tokens
        self.stats = {"tokens": total, "kept": total * self.tokenizer.k}

    def batches(self, position, batch_size, rows):
        """See `data.loader.DataSource`."""
        return read_batches(self.example, position, batch_size, rows)

    def example(self, number: int) -> dict[str, np.ndarray]:
        """`inputs` and `targets`, int32 [tokens], and `weights`, float32 [tokens]: 1 where a copy tells the target."""
        k, rng = self.tokenizer.k, np.random.default_rng([self.seed, self.tokens, number])
        codes, known = (tiled if self.tokens < 2 * COPIED else planted)(rng, self.tokens * k, self.haystack)
        ids = np.concatenate([[BOS], self.tokenizer.encode_bases(codes)]).astype(np.int32)
        weights = known.reshape(-1, k).all(1).astype(np.float32)
        return {"inputs": ids[:-1], "targets": ids[1:], "weights": weights}


def tiled(rng: np.random.Generator, size: int, haystack: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One sequence again and again, uint8 [size], and which bases that tells, bool [size]."""
    period = 2 * int(rng.integers(size // 16, size // 4 + 1))
    codes = np.resize(rng.integers(4, size=period, dtype=np.uint8), size)
    return codes, np.arange(size) >= period + FREE


def planted(rng: np.random.Generator, size: int, haystack: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sequences in a stretch of a genome, first each once and then each again, in another order; as `tiled`."""
    number = int(rng.integers(1, size * 2 // 5 // COPIED + 1))
    copied = rng.integers(4, size=(number, COPIED), dtype=np.uint8)
    blocks = [*range(number), *rng.permutation(number)]
    gaps = np.sort(2 * rng.integers((size - len(blocks) * COPIED) // 2 + 1, size=len(blocks)))
    start = int(rng.integers(len(haystack) - size))
    codes, known = haystack[start : start + size].copy(), np.zeros(size, bool)
    for i, (block, gap) in enumerate(zip(blocks, gaps.tolist(), strict=True)):
        at = i * COPIED + gap
        codes[at : at + COPIED] = copied[block]
        known[at + FREE : at + COPIED] = i >= number
    return codes, known


def measured(config: Config, workdir: Path, n: int):
    """The report of a run that measures the needle with `n` examples a cell, for `training.run.train`."""

    def report(run, params, now, began):
        found, model = [], Model(config.name, num_parameters(config.model), str(workdir), now.step)
        for name, lengths, forms in (
            ("needle", (64, 128, 256), ("niah",)),
            ("needle_near", (256,), ("neardup_d4", "neardup_d2", "neardup_d1")),
        ):
            task = Needle(Options(), name=name, lengths=lengths, forms=forms, n=n)
            found.append(Evaluation.of(task, task.prepare(config.spec, run.mesh)(params, silent), model))
        results = Results(tuple(found))
        results.write(workdir)
        print(results.table())
        return results

    return report


def main() -> None:
    """All stages, resuming those that were interrupted."""
    config, folder, before = resolve(get_config()), Path("runs/needle"), None
    for tokens, rows, steps in STAGES:
        config = dataclasses.replace(
            config,
            data=dataclasses.replace(config.data, context_length=tokens),
            train=dataclasses.replace(config.train, batch_size=rows, num_steps=steps, init_from=before),
            checkpoint=dataclasses.replace(config.checkpoint, every_steps=steps),
        )
        workdir = folder / str(tokens)
        train.train(
            config, workdir, source=Copies(config), report=measured(config, workdir, 60 if tokens == 768 else 10)
        )
        before = str(workdir)


if __name__ == "__main__":
    main()
