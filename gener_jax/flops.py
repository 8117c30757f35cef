"""Floating-point operations by formula, and what devices can do at most.

By formula because a compiler counts the layers of a scan once, and what is computed again (remat) is no useful work.
"""

import jax

from gener_jax.config import Model
from gener_jax.model import decoder

# Dense bfloat16 multiply-adds, in TFLOP/s, by a part of jax's device kind; makers' data sheets, without sparsity.
PEAK_BF16 = {
    "H200": 989.0,
    "H100": 989.0,  # SXM
    "A100": 312.0,
    "L40S": 362.0,
    "L4": 121.0,
    "B200": 2250.0,
    "TPU v4": 275.0,
    "TPU v5 lite": 197.0,
    "TPU v5e": 197.0,
    "TPU v5p": 459.0,
    "TPU v5": 459.0,
    "TPU v6 lite": 918.0,
    "TPU v6e": 918.0,
}


def matrix_parameters(model: Model) -> int:
    """The parameters that a token is multiplied with: all but the embedding, which is looked up, and the norms."""
    norms = (2 * model.num_hidden_layers + 1) * model.hidden_size
    return decoder.num_parameters(model) - model.vocab_size * model.hidden_size - norms


def mean_keys(length: int, window: int | None = None) -> float:
    """Keys that a query of a causal sequence sees in the mean, itself included."""
    window = length if window is None else min(window, length)
    return (window * (window + 1) / 2 + (length - window) * window) / length


def forward(model: Model, length: int) -> float:
    """Operations of a token in a sequence of `length` tokens, forward: 2 a parameter and token, and of attention 4 a
    head dimension and key, the keys that the causal mask hides left out (Chowdhery et al. 2022, appendix B, halved).
    """
    width = model.num_attention_heads * model.head_dim
    attention = 4 * model.num_hidden_layers * width * mean_keys(length, model.sliding_window)
    return 2 * matrix_parameters(model) + attention


def training(model: Model, length: int) -> float:
    """Operations of a token in training: the backward pass takes twice the forward's; recomputation is not counted."""
    return 3 * forward(model, length)


def peak(device: jax.Device | None = None, dtype: str = "bfloat16") -> float | None:
    """TFLOP/s that a device does at most in bfloat16, None where the table does not know it, or in another type."""
    kind = (jax.devices()[0] if device is None else device).device_kind
    if dtype != "bfloat16":
        return None
    return next((value for name, value in PEAK_BF16.items() if name.lower() in kind.lower()), None)
