"""The tokenizers, for users of the model; they live with the data pipeline, which can store their ids."""

import dataclasses

from data_pipeline.tokenizer import SPECIAL_TOKENS, BpeTokenizer, KmerTokenizer, Tokenizer, make
from gener_jax.config import Config, ConfigError

__all__ = ["SPECIAL_TOKENS", "BpeTokenizer", "KmerTokenizer", "Tokenizer", "for_config", "make"]


def for_config(config: Config) -> tuple[Tokenizer, Config]:
    """The tokenizer a configuration names, and the configuration with `model.vocab_size` filled in.

    Raises:
      ConfigError: if `model.vocab_size` is set and is not the tokenizer's.
    """
    try:
        tokenizer = make(config.tokenizer.kind, config.tokenizer.k, config.tokenizer.model_file)
    except ValueError as error:
        raise ConfigError(f"tokenizer: {error}") from None
    size = config.model.vocab_size
    if size not in (None, tokenizer.vocab_size):
        raise ConfigError(
            f"model.vocab_size is {size} but {tokenizer.name} has {tokenizer.vocab_size} tokens; "
            "leave it unset to take the tokenizer's"
        )
    model = dataclasses.replace(config.model, vocab_size=tokenizer.vocab_size)
    return tokenizer, dataclasses.replace(config, model=model)
