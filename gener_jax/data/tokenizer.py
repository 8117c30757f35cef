"""The tokenizers, for users of the model; the data pipeline, which can store their ids, defines them."""

import dataclasses

from data_pipeline.sequence.tokenizer import SPECIAL_TOKENS, BpeTokenizer, KmerTokenizer, Tokenizer, make
from gener_jax.config import Config
from gener_jax.runtime.errors import ConfigError

__all__ = ["SPECIAL_TOKENS", "BpeTokenizer", "KmerTokenizer", "Tokenizer", "for_config", "make"]


def for_config(config: Config) -> tuple[Tokenizer, Config]:
    """The tokenizer of a configuration, and the configuration with `model.vocab_size` filled in.

    Raises:
      ConfigError: if `model.vocab_size` is set and is not the tokenizer's.
    """
    try:
        tokenizer = make(config.tokenizer.kind, config.tokenizer.k, config.tokenizer.model_file)
    except ValueError as error:
        raise ConfigError(str(error), "tokenizer", config.tokenizer.model_file or config.tokenizer.kind) from None
    size = config.model.vocab_size
    if size not in (None, tokenizer.vocab_size):
        raise ConfigError(
            f"{tokenizer.name} has {tokenizer.vocab_size} tokens; leave it unset to use the tokenizer's",
            "model.vocab_size", size,
        )  # fmt: skip
    model = dataclasses.replace(config.model, vocab_size=tokenizer.vocab_size)
    return tokenizer, dataclasses.replace(config, model=model)
