"""What a causally fine-tuned model generates: whether it ends, how long it is, and whether it is new."""

import time
from typing import ClassVar

import numpy as np
from scipy.stats import ks_2samp

from data_pipeline.sequence.tokenizer import EOS, SPECIAL_TOKENS, Tokenizer
from gener_jax.config import Config
from gener_jax.inference.lm import LM
from gener_jax.inference.prompt import Prompt
from gener_jax.labelled.audit import leaks
from gener_jax.labelled.examples import Examples
from gener_jax.tasks.base import Metric, Result

_QUANTILES = {"shortest_bases": 0.05, "median_bases": 0.5, "longest_bases": 0.95}
_SHOWN = 240  # bases of the first sample
_LONGEST = 2  # a sample ends at the latest at this many lengths of the longest training sequence


class Generated:
    """The task; it needs a model as `LM`, on one host.

    `sample.num_samples` sequences are generated after `finetune.prefix`, with the sampler of `sample`; with conditions,
    as many after each that training has. The breakdown compares those with the training sequences of their condition.

    `ended` is the share that ends by </s>; the others reach twice the length of the longest training sequence, or the
    context. `length_distance` is the largest difference between the cumulative distributions of their lengths and of
    training's (Kolmogorov-Smirnov), both in whole k-mers, since rows are padded. `copies` is the share of samples that
    copy training, exactly or nearly (`labelled.audit`), and `kmers_in_training` the mean share of a sample's 32-mers
    that occur there. `shortest_bases` and `longest_bases` are the 5th and 95th percentiles of lengths. The baselines
    are the held-out and the training sequences, measured alike.
    """

    name, metric = "generated", "ended"
    metrics: ClassVar = {
        "ended": Metric("", higher_is_better=True),
        "length_distance": Metric("", higher_is_better=False),
        "copies": Metric("", higher_is_better=False),
        "kmers_in_training": Metric("", higher_is_better=None),
        **dict.fromkeys(_QUANTILES, Metric("bases", higher_is_better=None)),
    }

    def __init__(self, config: Config, train: Examples, held_out: Examples):
        """The sequences that the model was trained on, and others of the kind."""
        self.config, self.train, self.held_out = config, train, held_out

    def __call__(self, lm: LM) -> Result:
        """Draws the samples and compares them."""
        sample, began = self.config.sample, time.perf_counter()
        conditions = sorted(set(self.train.conditions or [self.config.finetune.prefix]))
        prompts = list(map(Prompt.parse, conditions))
        most = _LONGEST * max(map(len, self.train.sequences))
        if (context := lm.spec.model.max_length) is not None:
            smallest = int(lm.tokenizer.token_bases[lm.tokenizer.token_bases > 0].min())
            most = min(most, (context - 1 - max(len(x.special) for x in prompts)) * smallest)
        made = lm.generate(
            prompts, most, num_samples=sample.num_samples, temperature=sample.temperature, top_k=sample.top_k,
            top_p=sample.top_p, seed=sample.seed, stop=[SPECIAL_TOKENS[EOS]], details=True,
        )  # fmt: skip
        seconds = time.perf_counter() - began
        texts = [x.text for x in made]
        places = [f"sample {i + 1}" for i in range(len(texts))]
        generated = Examples("generated", texts, np.zeros((len(texts), 0), np.float32), places)
        ended = np.array([x.end == SPECIAL_TOKENS[EOS] for x in made])
        by_condition = {}
        for i, condition in enumerate(conditions if self.train.conditions else ()):
            own = np.arange(len(made)) // sample.num_samples == i
            train = self.train.take(np.array(self.train.conditions) == condition)
            found = {"ended": float(ended[own].mean()), **self.beside(generated.take(own), lm.tokenizer, train)}
            by_condition[condition] = {**found, "samples": int(own.sum())}
        first = [texts[0][i : i + 60] for i in range(0, min(len(texts[0]), _SHOWN), 60)]
        cut = f", {_SHOWN} of {len(texts[0]):,} bases" if len(texts[0]) > _SHOWN else ""
        return Result(
            {"ended": float(ended.mean()), **self.beside(generated, lm.tokenizer)},
            counts={"bases": sum(map(len, texts)), "samples": len(made)},
            baselines={each.name: self.beside(each, lm.tokenizer) for each in (self.held_out, self.train)},
            breakdown={"condition": by_condition} if by_condition else {},
            text="\n  ".join([f"Generated DNA{cut}", *first]) + ("…" if cut else ""),
            seconds=seconds,
        )

    def beside(self, examples: Examples, tokenizer: Tokenizer, train: Examples | None = None) -> dict[str, float]:
        """The metrics but `ended` of any sequences, whose lengths are compared with all of training, or with some."""
        k = tokenizer.k if tokenizer.kind == "kmer" else 1
        lengths, of_training = (
            -(-np.array(list(map(len, x.sequences))) // k) * k for x in (examples, train or self.train)
        )
        found = leaks(self.train, examples)
        return {
            "length_distance": float(ks_2samp(lengths, of_training).statistic),
            "copies": float(np.mean(~found.clean)),
            "kmers_in_training": float(np.mean(found.overlap)),
            **{name: float(np.quantile(lengths, q)) for name, q in _QUANTILES.items()},
        }
