"""Sequence recovery: the fraction of a held-out gene's next 30 bases that the model generates correctly.

The protocol of GENERator and Carbon: <s> and the rightmost whole k-mers of the context, special tokens suppressed,
greedy, 30 bases; the fraction of equal bases. Here the prompts come from held-out regions, and each token takes a full
pass without a cache: five passes per batch, on any mesh and any number of hosts, with the parameters as training has
them.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from data_pipeline.dataset.reader import RegionSource
from data_pipeline.sequence.tokenizer import BOS, NUM_SPECIAL, PAD, Tokenizer, kmer_codes
from gener_jax.config import Config, ModelSpec
from gener_jax.data.loader import to_devices
from gener_jax.data.permutation import permute
from gener_jax.model import kernels, parallel
from gener_jax.model.decoder import Decoder, variables
from gener_jax.model.sharding import TOKENS, batch_sharding
from gener_jax.runtime.errors import ConfigError
from gener_jax.runtime.transfer import fetch
from gener_jax.tasks.base import Progress, Result, silent
from gener_jax.tasks.held_out import region_ids, region_tokens

NUM_BASES = 30
CONTEXT_BASES = 6144  # at most


@dataclasses.dataclass(frozen=True)
class Recovery:
    """The task, on prompts from at most as many regions as `genes`."""

    source: RegionSource
    genes: int
    context_length: int  # tokens, of prompt and answer
    batch_size: int
    name, metric, higher_is_better = "recovery", "accuracy", True

    def prompts(self, tokenizer: Tokenizer) -> list[tuple[np.ndarray, np.ndarray]]:
        """<s> and the prompt's ids, and the true ids that follow.

        The regions have at least as much context as they must recover, in an order that depends on nothing else. A
        region gives one prompt: as much of its beginning as the context holds.
        """
        new, found, number = NUM_BASES // tokenizer.k, [], region_tokens(self.source, tokenizer)
        context = min(self.context_length - 1 - new, CONTEXT_BASES // tokenizer.k)
        for region in permute(np.arange(len(self.source)), len(self.source), key=1).tolist():
            if len(found) == self.genes or context < new:
                break
            ids = region_ids(self.source, tokenizer, region, 0, min(int(number[region]), context + new))
            if len(ids) >= 2 * new and (ids >= NUM_SPECIAL).all():
                found.append((np.concatenate([[BOS], ids[:-new]]), ids[-new:]))
        return found

    def prepare(self, spec: ModelSpec, mesh: jax.sharding.Mesh):
        """See `base.Task`; the metrics are `accuracy`, the fraction of equal bases, and the number of `genes`."""
        tokenizer, length = spec.tokenizer.make(), self.context_length
        if tokenizer.kind != "kmer" or NUM_BASES % tokenizer.k:
            problem = f"{NUM_BASES} bases must be whole k-mers, and the tokenizer is {tokenizer.name}"
            raise ConfigError(problem, "eval.tasks", self.name)
        prompts, bases = self.prompts(tokenizer), kmer_codes(tokenizer.k)
        row_shards = mesh.shape["data"] * mesh.shape["fsdp"]
        batch_size = -(-self.batch_size // row_shards) * row_shards
        model = Decoder(kernels.for_any_mask(spec.model))

        def predict(params, batch, starts):
            """Greedy ids [rows, new] after the first `starts` tokens of each row."""
            rows = jnp.arange(len(starts))

            def one(ids, j):
                part = parallel.balance({**batch, "inputs": ids}, dict.fromkeys(batch, TOKENS))
                hidden, _ = model.apply(variables(params), part["inputs"], positions_BT=part["positions"])
                last = parallel.restore(hidden)[rows, starts + j - 1]
                logits = model.apply(variables(params), last, method="logits")
                new = jnp.argmax(logits.at[:, :NUM_SPECIAL].set(-jnp.inf), -1).astype(ids.dtype)
                return ids.at[rows, starts + j].set(new), new

            return jnp.moveaxis(jax.lax.scan(one, batch["inputs"], jnp.arange(NUM_BASES // tokenizer.k))[1], 0, 1)

        whole = NamedSharding(mesh, PartitionSpec())  # every process reads the result
        predict = jax.jit(predict, out_shardings=whole)

        def run(params, progress: Progress = silent) -> Result:
            equal = []
            for first in range(0, len(prompts), batch_size):
                rows = prompts[first : first + batch_size]
                ids = np.full((batch_size, length), PAD, np.int32)
                starts = np.ones(batch_size, np.int32)
                for i, (prompt, _) in enumerate(rows):
                    ids[i, : len(prompt)], starts[i] = prompt, len(prompt)
                positions = np.broadcast_to(np.arange(length, dtype=np.int32), ids.shape)
                put = to_devices({"inputs": ids, "positions": positions}, batch_sharding(mesh))
                with jax.set_mesh(mesh):
                    made = fetch(predict(params, put, to_devices({"starts": starts}, whole)["starts"]))
                for (_, truth), new in zip(rows, made, strict=False):
                    equal.append((bases[new - NUM_SPECIAL] == bases[truth - NUM_SPECIAL]).mean())
                progress(first + len(rows), len(prompts))
            found = {"accuracy": float(np.mean(equal)) if equal else float("nan"), "genes": len(equal)}
            text = f"Sequence recovery: {found['accuracy']:.3f} of the next {NUM_BASES} bases of {len(equal)} genes"
            return Result(found, text, found)

        return run


def of_config(config: Config) -> Recovery:
    """The task as a configuration describes it."""
    source, options = RegionSource(config.data.path, config.eval.split), config.eval
    return Recovery(source, options.recovery_genes, config.data.context_length, options.batch_size)
