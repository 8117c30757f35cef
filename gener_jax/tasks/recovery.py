"""Sequence recovery: the fraction of a held-out gene's next 30 bases that the model generates correctly.

The protocol of GENERator and Carbon: <s> and the rightmost whole k-mers of the context, special tokens suppressed,
greedy, 30 bases; the fraction of equal bases. Here the prompts come from held-out regions, and each token takes a full
pass without a cache: five passes per batch, on any mesh and any number of hosts, with the parameters as training has
them.
"""

import functools
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from data_pipeline.sequence.tokenizer import BOS, NUM_SPECIAL, Tokenizer, kmer_codes
from gener_jax.config import Config, ModelSpec
from gener_jax.data.loader import to_devices
from gener_jax.data.permutation import permute
from gener_jax.inference.batches import batched, right_pad
from gener_jax.model import kernels, parallel
from gener_jax.model.decoder import Decoder, variables
from gener_jax.model.sharding import TOKENS, batch_sharding
from gener_jax.tasks.base import Metric, NotRun, Paired, Progress, Result, silent
from gener_jax.tasks.held_out import dataset_of, held_out_regions, region_ids, region_tokens

NUM_BASES = 30
CONTEXT_BASES = 6144  # at most


def equal_bases(made: np.ndarray, truth: np.ndarray) -> float:
    """The fraction of bases that are equal, of codes of one shape."""
    return float((made == truth).mean())


class Recovery:
    """The task, on prompts from at most `eval.recovery_genes` regions."""

    name, metric = "recovery", "accuracy"
    metrics: ClassVar = {"accuracy": Metric("fraction of bases", higher_is_better=True)}

    def __init__(self, config: Config):
        """As `config.eval` says; prompt and answer have at most `data.context_length` tokens."""
        self.config, self.source = config, held_out_regions(config)

    def prompts(self, tokenizer: Tokenizer) -> list[tuple[np.ndarray, np.ndarray]]:
        """<s> and the prompt's ids, and the true ids that follow.

        The regions have at least as much context as they must recover, in an order that depends on nothing else. A
        region gives one prompt: as much of its beginning as the context holds.
        """
        new, found, number = NUM_BASES // tokenizer.k, [], region_tokens(self.source, tokenizer)
        context = min(self.config.data.context_length - 1 - new, CONTEXT_BASES // tokenizer.k)
        for region in permute(np.arange(len(self.source)), len(self.source), key=1).tolist():
            if len(found) == self.config.eval.recovery_genes or context < new:
                break
            ids = region_ids(self.source, tokenizer, region, 0, min(int(number[region]), context + new))
            if len(ids) >= 2 * new and (ids >= NUM_SPECIAL).all():
                found.append((np.concatenate([[BOS], ids[:-new]]), ids[-new:]))
        return found

    def prepare(self, spec: ModelSpec, mesh: jax.sharding.Mesh):
        """See `base.Task`; `accuracy` is the fraction of equal bases."""
        tokenizer = spec.tokenizer.make()
        if tokenizer.kind != "kmer" or NUM_BASES % tokenizer.k:
            problem = f"{NUM_BASES} bases must be whole k-mers, and the tokenizer is {tokenizer.name}"
            raise NotRun(problem, "eval.tasks", self.name)
        prompts, codes = self.prompts(tokenizer), kmer_codes(tokenizer.k)
        lengths = [len(prompt) + len(truth) for prompt, truth in prompts]
        model, whole = Decoder(kernels.for_any_mask(spec.model)), NamedSharding(mesh, PartitionSpec())

        @functools.partial(jax.jit, out_shardings=whole)  # every process reads the result
        def predict(params, inputs, starts):
            """Greedy ids [rows, new] after the first `starts` tokens of each row."""
            rows = jnp.arange(len(starts))

            def one(ids, j):
                batch = parallel.balance({"inputs": ids}, {"inputs": TOKENS})
                hidden, _ = model.apply(variables(params), batch["inputs"], positions_BT=batch.get("positions"))
                last = parallel.restore(hidden)[rows, starts + j - 1]
                logits = model.apply(variables(params), last, method="logits")
                new = jnp.argmax(logits.at[:, :NUM_SPECIAL].set(-jnp.inf), -1).astype(ids.dtype)
                return ids.at[rows, starts + j].set(new), new

            return jnp.moveaxis(jax.lax.scan(one, inputs, jnp.arange(NUM_BASES // tokenizer.k))[1], 0, 1)

        def run(params, progress: Progress = silent) -> Result:
            def compute(chosen, number, length):
                starts = np.ones(number, np.int32)
                starts[: len(chosen)] = [len(prompts[i][0]) for i in chosen]
                inputs = right_pad([prompts[i][0] for i in chosen], length, number)
                put = to_devices({"inputs": inputs}, batch_sharding(mesh))
                return predict(params, **put, **to_devices({"starts": starts}, whole))

            equal, context = [], self.config.data.context_length
            for chosen, made in batched(compute, mesh, lengths, self.config.eval.batch_size * context, context):
                truths = [prompts[i][1] for i in chosen]
                equal += [
                    equal_bases(codes[new - NUM_SPECIAL], codes[truth - NUM_SPECIAL])
                    for new, truth in zip(made, truths, strict=False)
                ]
                progress(len(equal), len(prompts))
            accuracy = float(np.mean(equal)) if equal else float("nan")
            counts = {"genes": len(equal), "bases": NUM_BASES * len(equal)}
            paired = Paired("mean", "accuracy", scores=("recovered",))
            return Result(
                {"accuracy": accuracy}, counts, dataset=dataset_of(self.source), predictions={"recovered": equal},
                paired=paired,
            )  # fmt: skip

        return run
