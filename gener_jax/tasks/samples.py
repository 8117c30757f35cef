"""What a model generates at the end of a run: how open the reading frames of its samples are, and the first one."""

import time
from typing import ClassVar

import numpy as np

from data_pipeline.sequence import bases
from gener_jax.config import Config
from gener_jax.inference.lm import LM
from gener_jax.tasks import markov, reading_frames
from gener_jax.tasks.base import Metric, Result
from gener_jax.tasks.held_out import dataset_of, held_out_regions

_SHOWN = 240  # bases of the first sample


class Samples:
    """The task; it needs a model as `LM`, on one host.

    Its baselines are the bases of the samples in random order, and real genes. All have the samples' lengths, since a
    longer sequence has longer open frames: the DNA of the prompt, which counts, and `sample.num_bases`.
    """

    name, metric = "samples", "open_frame_codons"
    metrics: ClassVar = {"open_frame_codons": Metric("codons", higher_is_better=None)}  # more is not better

    def __init__(self, config: Config):
        """As `config.sample` says; genes of `config.eval.split`."""
        self.config, self.source = config, held_out_regions(config)

    def __call__(self, lm: LM) -> Result:
        """Draws the samples; the metric is the mean of their longest open reading frames."""
        sample, source, began = self.config.sample, self.source, time.perf_counter()
        prompts = [p for p in sample.prompts for _ in range(sample.num_samples)]
        samples = lm.generate(
            prompts, sample.num_bases, temperature=sample.temperature, top_k=sample.top_k, top_p=sample.top_p,
            seed=sample.seed,
        )  # fmt: skip
        seconds = time.perf_counter() - began
        codes = [bases.encode(p[p.rfind(">") + 1 :] + s) for p, s in zip(prompts, samples, strict=True)]
        longest = max(map(len, codes))
        is_gene = (source.index["kind"] == source.kinds.index("cds")) & (source.index["length"] >= longest)
        genes = [markov.region_bases(source, lm.tokenizer, i) for i in np.flatnonzero(is_gene)[:64].tolist()]
        groups = {"shuffled": reading_frames.shuffled(codes), "genes": reading_frames.cut_like(genes, codes)}
        means = {name: reading_frames.mean_open_frame(group, sample.stop_codons) for name, group in groups.items()}
        first = [samples[0][i : i + 60] for i in range(0, min(len(samples[0]), _SHOWN), 60)]
        cut = f", {_SHOWN} of {len(samples[0]):,} bases" if len(samples[0]) > _SHOWN else ""
        after = f", after the prompt {prompts[0]}" if prompts[0] else ""
        frames = (
            f"Open frames: the longest stretch without a stop codon ({', '.join(sample.stop_codons)}), at most "
            f"{longest // 3:,} codons in {longest:,} bases"
        )
        return Result(
            {self.metric: reading_frames.mean_open_frame(codes, sample.stop_codons)},
            counts={"samples": len(samples), "bases": sum(map(len, samples))},
            baselines={name: {self.metric: mean} for name, mean in means.items() if mean is not None},
            dataset=dataset_of(source),
            text="\n  ".join([f"{frames}\nGenerated DNA{after}{cut}", *first]) + ("…" if cut else ""),
            seconds=seconds,
        )
