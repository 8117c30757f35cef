"""What a model generates at the end of a run: how open the reading frames of its samples are, and the first one."""

import numpy as np

from data_pipeline.dataset.reader import RegionSource
from data_pipeline.sequence import bases
from data_pipeline.sequence.tokenizer import Tokenizer
from gener_jax.config import Config
from gener_jax.inference.lm import LM
from gener_jax.tasks import markov, reading_frames


def show(config: Config, lm: LM) -> dict:
    """Prints how open the samples' reading frames are, and the first sample; returns the means in codons."""
    sample = config.sample
    prompts = [p for p in sample.prompts for _ in range(sample.num_samples)]
    samples = lm.generate(
        prompts, sample.num_bases, temperature=sample.temperature, top_k=sample.top_k, top_p=sample.top_p,
        seed=sample.seed,
    )  # fmt: skip
    texts = [p[p.rfind(">") + 1 :] + s for p, s in zip(prompts, samples, strict=True)]
    codes = [bases.encode(text) for text in texts]
    groups = {
        "generated": codes,
        "the same bases shuffled": reading_frames.shuffled(codes),
        "held-out genes": held_out_genes(config, lm.tokenizer, sample.num_bases, number=64),
    }
    frames = {name: reading_frames.mean_open_frame(group, sample.stop_codons) for name, group in groups.items()}
    lengths = [f"{name} {codons:.0f}" for name, codons in frames.items() if codons is not None]
    print(f"Longest open reading frame in {sample.num_bases} bases, in codons: {', '.join(lengths)}")
    if samples:
        print("Generated DNA" + (f", after the prompt {prompts[0]}" if prompts[0] else ""))
        for i in range(0, min(len(samples[0]), 240), 60):
            print("  " + samples[0][i : i + 60])
    return frames


def held_out_genes(config: Config, tokenizer: Tokenizer, num_bases: int, number: int) -> list:
    """The first `num_bases` bases, as codes, of up to `number` held-out coding regions that are that long."""
    source = RegionSource(config.data.path, config.eval.split)
    is_gene = (source.index["kind"] == source.kinds.index("cds")) & (source.index["length"] >= num_bases)
    return [markov.region_bases(source, tokenizer, int(i))[:num_bases] for i in np.flatnonzero(is_gene)[:number]]
