"""Sequence recovery: the fraction of a held-out gene's next 30 bases that the model generates correctly.

The protocol of GENERator and Carbon: <s> and the rightmost whole k-mers of the context, special tokens suppressed,
greedy, 30 bases; the fraction of equal bases. Here the prompts come from held-out regions, and each token takes a full
pass without a cache: five passes per batch, on any mesh and any number of hosts, with the parameters as training has
them.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from data_pipeline.dataset.reader import RegionSource
from data_pipeline.sequence.tokenizer import BOS, NUM_SPECIAL, PAD, Tokenizer, kmer_codes
from gener_jax.config import Config
from gener_jax.data.loader import to_devices
from gener_jax.data.permutation import permute
from gener_jax.model import kernels, parallel
from gener_jax.model.decoder import Decoder
from gener_jax.model.sharding import TOKENS, batch_sharding
from gener_jax.runtime.transfer import fetch
from gener_jax.tasks.held_out import region_ids

NUM_BASES = 30
CONTEXT_BASES = 6144  # at most


class Recovery:
    """An evaluation on `eval.recovery_genes` prompts, compiled once and run any number of times."""

    def __init__(self, config: Config, source: RegionSource, tokenizer: Tokenizer, mesh):
        """Chooses regions with at least as much context as they must recover, in an order that depends on nothing else.
        A region gives one prompt: as much of its beginning as the context holds.

        Raises:
          ValueError: for a tokenizer whose tokens are not k-mers with k a divisor of 30.
        """
        if tokenizer.kind != "kmer" or NUM_BASES % tokenizer.k:
            raise ValueError(
                f"eval.recovery_genes: {NUM_BASES} bases must be whole k-mers, and the tokenizer is {tokenizer.name}"
            )
        k, self.mesh = tokenizer.k, mesh
        self.new = NUM_BASES // k
        self.length = config.data.context_length
        context = min(self.length - 1 - self.new, CONTEXT_BASES // k)
        rows_apart = mesh.shape["data"] * mesh.shape["fsdp"]
        self.batch_size = -(-config.eval.batch_size // rows_apart) * rows_apart
        self.rows = []  # (<s> and the prompt's ids, the true ids that follow)
        for region in permute(np.arange(len(source)), len(source), key=1).tolist():
            if len(self.rows) == config.eval.recovery_genes or context < self.new:
                break
            if source.index["length"][region] < 2 * NUM_BASES:
                continue
            ids = region_ids(source, tokenizer, region)
            end = min(len(ids) - self.new, context)
            if end >= self.new and (ids[: end + self.new] >= NUM_SPECIAL).all():
                self.rows.append((np.concatenate([[BOS], ids[:end]]), ids[end : end + self.new]))
        self._bases = kmer_codes(k)
        model = Decoder(kernels.for_any_mask(config.model))

        def predict(params, batch, starts):
            """Greedy ids [rows, new] after the first `starts` tokens of each row."""
            rows = jnp.arange(len(starts))

            def one(ids, j):
                part = parallel.balance({**batch, "inputs": ids}, dict.fromkeys(batch, TOKENS))
                hidden, _ = model.apply({"params": params}, part["inputs"], positions_BT=part["positions"])
                last = parallel.restore(hidden)[rows, starts + j - 1]
                logits = model.apply({"params": params}, last, method="logits")
                new = jnp.argmax(logits.at[:, :NUM_SPECIAL].set(-jnp.inf), -1).astype(ids.dtype)
                return ids.at[rows, starts + j].set(new), new

            return jnp.moveaxis(jax.lax.scan(one, batch["inputs"], jnp.arange(self.new))[1], 0, 1)

        self._whole = NamedSharding(mesh, PartitionSpec())  # every process reads the result
        self._predict = jax.jit(predict, out_shardings=self._whole)

    def __call__(self, params, progress=lambda done, total: None) -> dict:
        """`recovery`, the fraction of equal bases (NaN without genes), and the number of `genes`."""
        equal = []
        for first in range(0, len(self.rows), self.batch_size):
            rows = self.rows[first : first + self.batch_size]
            ids = np.full((self.batch_size, self.length), PAD, np.int32)
            starts = np.ones(self.batch_size, np.int32)
            for i, (prompt, _) in enumerate(rows):
                ids[i, : len(prompt)], starts[i] = prompt, len(prompt)
            positions = np.broadcast_to(np.arange(self.length, dtype=np.int32), ids.shape)
            put = to_devices({"inputs": ids, "positions": positions}, batch_sharding(self.mesh))
            with jax.set_mesh(self.mesh):
                made = fetch(self._predict(params, put, to_devices({"starts": starts}, self._whole)["starts"]))
            for (_, truth), new in zip(rows, made, strict=False):
                equal.append((self._bases[new - NUM_SPECIAL] == self._bases[truth - NUM_SPECIAL]).mean())
            progress(first + len(rows), len(self.rows))
        return {"recovery": float(np.mean(equal)) if equal else float("nan"), "genes": len(equal)}
