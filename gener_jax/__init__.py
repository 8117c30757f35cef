"""GENERator-style DNA language models in JAX: train, evaluate, sample, score, embed.

`gener_jax.load(folder)` returns an `LM`. The names of the Python API are imported when they are first used, so that
`import gener_jax` does not import jax.
"""

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from gener_jax.inference.constraints import Constraints
    from gener_jax.inference.generate import Continuation
    from gener_jax.inference.likelihood import Score
    from gener_jax.inference.lm import LM, load
    from gener_jax.inference.prompt import Prompt
    from gener_jax.inference.region import RegionScores, Saturation
    from gener_jax.inference.variants.genome import Genome
    from gener_jax.inference.variants.interval import Interval
    from gener_jax.inference.variants.variant import Scored, Variant

__all__ = [
    "LM",
    "Constraints",
    "Continuation",
    "Genome",
    "Interval",
    "Prompt",
    "RegionScores",
    "Saturation",
    "Score",
    "Scored",
    "Variant",
    "load",
]

# The same modules as above, for `__getattr__`.
_MODULES = {
    "constraints": ("Constraints",),
    "generate": ("Continuation",),
    "likelihood": ("Score",),
    "lm": ("LM", "load"),
    "prompt": ("Prompt",),
    "region": ("RegionScores", "Saturation"),
    "variants.genome": ("Genome",),
    "variants.interval": ("Interval",),
    "variants.variant": ("Scored", "Variant"),
}


def __getattr__(name: str):
    for module, names in _MODULES.items():
        if name in names:
            value = getattr(importlib.import_module(f"gener_jax.inference.{module}"), name)
            globals()[name] = value
            return value
    raise AttributeError(f"module 'gener_jax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
