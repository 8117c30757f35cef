"""The configuration of a run.

An experiment file starts from `base()`, a locked `ml_collections.ConfigDict` with the published recipe, and changes
what differs. `resolve` turns it into a `Config`. `gener_jax.cli.command` reads files and command lines.
"""

from gener_jax.config.head import Head
from gener_jax.config.resolution import base, dumps, override, resolve, to_config_dict, with_model
from gener_jax.config.schema import (
    ATTENTION,
    LONG,
    PROBLEMS,
    REMAT,
    Checkpoint,
    Config,
    Data,
    Eval,
    Finetune,
    Mesh,
    Model,
    ModelSpec,
    Objective,
    Optimizer,
    Sample,
    Tokenizer,
    Train,
    flatten,
)

__all__ = [
    "ATTENTION",
    "LONG",
    "PROBLEMS",
    "REMAT",
    "Checkpoint",
    "Config",
    "Data",
    "Eval",
    "Finetune",
    "Head",
    "Mesh",
    "Model",
    "ModelSpec",
    "Objective",
    "Optimizer",
    "Sample",
    "Tokenizer",
    "Train",
    "base",
    "dumps",
    "flatten",
    "override",
    "resolve",
    "to_config_dict",
    "with_model",
]
