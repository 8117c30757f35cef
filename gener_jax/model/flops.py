"""Floating-point operations by formula.

By formula, since a compiler counts a scan's layers once, and recomputation (remat) is not useful work.
"""

from flax import traverse_util

from gener_jax.config import Config, Model
from gener_jax.model import decoder
from gener_jax.model.projection import Matrix
from gener_jax.model.trainable import everything, split


def matrix_parameters(model: Model) -> int:
    """Parameters that multiply each token: all but the embedding, which is looked up, and the norms."""
    return _multiplying(decoder.abstract(model))


def _multiplying(boxed, others: tuple[str, ...] = ()) -> int:
    """Elements of the matrices that multiply each token: those of a tree but the embedding, `others` and its head."""
    leaves = traverse_util.flatten_dict(boxed, sep="/").items()
    matrices = {path: box.value.size for path, box in leaves if isinstance(box, Matrix)}
    return sum(size for path, size in matrices.items() if path not in ("embed_tokens", "head/kernel", *others))


def mean_keys(length: int, window: int | None = None) -> float:
    """The mean number of keys that a query of a causal sequence sees, its own included."""
    window = length if window is None else min(window, length)
    return (window * (window + 1) / 2 + (length - window) * window) / length


def _attention(model: Model, length: int) -> float:
    """Operations per token of attention: 4 per head dimension and visible key (Chowdhery et al. 2022, appendix B,
    halved by the causal mask).
    """
    width = model.num_attention_heads * model.head_dim
    return 4 * model.num_hidden_layers * width * mean_keys(length, model.sliding_window)


def forward(model: Model, length: int) -> float:
    """Operations per token of the forward pass, in a sequence of `length` tokens: 2 per parameter, and attention's."""
    return 2 * matrix_parameters(model) + _attention(model, length)


def training(config: Config, trains=everything, init=None) -> float:
    """Operations per token of a training step; recomputation is not counted.

    The backward pass takes 2 per parameter and twice attention's for the gradients of activations, and 2 per parameter
    that trains; none if nothing of the decoder trains. Rows with labels have no logits of tokens; those with labels of
    bases are read on both strands. `trains` and `init` are those of `training.step.abstract_state`.
    """
    m, f = config.model, config.finetune
    tree = decoder.abstract(m, init)
    part = split(tree, trains)[0]
    unused = ("lm_head",) if f.has_head else ()
    matrices, trained = (_multiplying(each, unused) for each in (tree, part))
    attention = _attention(m, config.data.context_length)
    operations = 2 * matrices + attention
    if part.keys() - {"head"}:
        operations += 2 * matrices + 2 * attention + 2 * trained
    return operations * (2 if f.problem == "token" else 1)
