"""Floating-point operations by formula.

By formula, since a compiler counts a scan's layers once, and recomputation (remat) is not useful work.
"""

from gener_jax.config import Model
from gener_jax.model import decoder


def matrix_parameters(model: Model) -> int:
    """Parameters that multiply each token: all but the embedding, which is looked up, and the norms."""
    norms = (2 * model.num_hidden_layers + 1) * model.hidden_size
    return decoder.num_parameters(model) - model.vocab_size * model.hidden_size - norms


def mean_keys(length: int, window: int | None = None) -> float:
    """The mean number of keys that a query of a causal sequence sees, its own included."""
    window = length if window is None else min(window, length)
    return (window * (window + 1) / 2 + (length - window) * window) / length


def forward(model: Model, length: int) -> float:
    """Operations per token of the forward pass, in a sequence of `length` tokens: 2 per parameter, and for attention 4
    per head dimension and visible key (Chowdhery et al. 2022, appendix B, halved by the causal mask).
    """
    width = model.num_attention_heads * model.head_dim
    attention = 4 * model.num_hidden_layers * width * mean_keys(length, model.sliding_window)
    return 2 * matrix_parameters(model) + attention


def training(model: Model, length: int) -> float:
    """Operations per token in training: the backward pass takes twice the forward's; recomputation is not counted."""
    return 3 * forward(model, length)
