"""A small convolutional network over bases, trained from nothing."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from data_pipeline.sequence import bases
from gener_jax.baselines.base import Baseline, worth
from gener_jax.labelled.examples import Examples
from gener_jax.labelled.problem import Problem

LEAST_ROWS = 1000  # of training, below which a network from nothing says little
RATES = (3e-4, 1e-3, 3e-3)
EPOCHS = 12
BATCH = 16  # with 64 a thousand rows give too few steps to find a motif
_WIDTH, _POOL, _FILTERS = 11, 4, 48


class Network(nn.Module):
    """Two convolutions, the first pooled by 4, and the largest value of each filter over the sequence."""

    outputs: int

    @nn.compact
    def __call__(self, codes, lengths):
        """Outputs, float32 [B, outputs], of bases as codes [B, T], T divisible by 4, and lengths [B] in bases.

        What is beyond a sequence's length has no effect on its outputs.
        """
        inside = jnp.arange(codes.shape[1]) < lengths[:, None]
        x = jax.nn.one_hot(codes, 4) * inside[..., None]  # N is none of the four: zeros
        x = nn.relu(nn.Conv(_FILTERS, (_WIDTH,))(x)) * inside[..., None]
        x = nn.max_pool(x, (_POOL,), (_POOL,))
        x = nn.relu(nn.Conv(_FILTERS, (_WIDTH // 2,))(x)) * inside[:, ::_POOL, None]
        return nn.Dense(self.outputs)(x.max(1))


def fit(
    train: Examples, validation: Examples, problem: Problem, *, metric: str | None = None, seed: int = 0
) -> Baseline:
    """The best epoch of the best of three rates, by Adam; the same for the same seed on the same processor."""
    network = Network(len(problem.names))
    codes, lengths = encoded(train.sequences)
    targets = train.targets
    if problem.kind == "regression":
        targets = (targets - np.asarray(problem.mean, np.float32)) / np.asarray(problem.scale, np.float32)
    best = -np.inf, {}, None
    for rate in RATES:
        optimizer = optax.adam(rate)
        params = network.init(jax.random.key(seed), codes[:1], lengths[:1])
        state, order = optimizer.init(params), np.random.default_rng(seed)
        for epoch in range(1, EPOCHS + 1):
            for rows in _batches(order.permutation(len(codes))):
                batch = codes[rows], lengths[rows], targets[rows]
                params, state = _step(network, optimizer, problem.kind, params, state, batch)
            predictions = _predict(network, params, problem, validation.sequences)
            value = worth(problem, metric, validation.targets, predictions)
            if value > best[0] or best[2] is None:
                best = value, {"rate": rate, "epoch": epoch}, params
    _, choices, params = best
    return Baseline("CNN", choices, functools.partial(_predict, network, params, problem))


def encoded(sequences: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Codes, uint8 [N, T] padded with N to the longest rounded up to 64 bases, and lengths, int32 [N]."""
    lengths = np.array([len(sequence) for sequence in sequences], np.int32)
    width = max(64, -(-int(lengths.max(initial=1)) // 64) * 64)
    codes = np.full((len(sequences), width), bases.N, np.uint8)
    for row, sequence in zip(codes, sequences, strict=True):
        row[: len(sequence)] = bases.encode(sequence)
    return codes, lengths


def _batches(order: np.ndarray) -> list[np.ndarray]:
    """Rows of whole batches; those left over are in another epoch's, since each has its own order."""
    size = min(BATCH, len(order))
    return list(order[: len(order) // size * size].reshape(-1, size))


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _step(network, optimizer, kind, params, state, batch):
    codes, lengths, targets = batch

    def loss(params):
        outputs = network.apply(params, codes, lengths)
        if kind == "regression":
            return ((outputs - targets) ** 2).mean()
        if kind == "multi_label":
            return optax.sigmoid_binary_cross_entropy(outputs, targets).mean()
        return optax.softmax_cross_entropy_with_integer_labels(outputs, targets).mean()

    updates, state = optimizer.update(jax.grad(loss)(params), state, params)
    return optax.apply_updates(params, updates), state


@functools.partial(jax.jit, static_argnums=0)
def _outputs(network, params, codes, lengths):
    return network.apply(params, codes, lengths)


def _predict(network: Network, params, problem: Problem, sequences: Sequence[str]) -> np.ndarray:
    """Probabilities or values, float64 [N, outputs]; rows of similar length are padded to the same one."""
    size, found = 256, np.zeros((len(sequences), network.outputs))
    order = np.argsort([len(sequence) for sequence in sequences], kind="stable")
    for start in range(0, len(order), size):
        rows = order[start : start + size]
        codes, lengths = encoded([sequences[i] for i in rows] + [""] * (size - len(rows)))
        found[rows] = np.asarray(_outputs(network, params, codes, lengths))[: len(rows)]
    if problem.kind == "regression":
        return found * problem.scale + problem.mean
    of_outputs = jax.nn.sigmoid if problem.kind == "multi_label" else jax.nn.softmax
    return np.asarray(of_outputs(found), np.float64)
