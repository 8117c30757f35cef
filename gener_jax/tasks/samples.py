"""What a model generates at the end of a run: how open the reading frames of its samples are, and the first one."""

import numpy as np

from data_pipeline.sequence import bases
from gener_jax.config import Config
from gener_jax.inference.lm import LM
from gener_jax.tasks import markov, reading_frames
from gener_jax.tasks.held_out import held_out_regions


def show(config: Config, lm: LM) -> dict:
    """Prints how open the samples' reading frames are, and the first sample; returns the means in codons."""
    sample = config.sample
    prompts = [p for p in sample.prompts for _ in range(sample.num_samples)]
    samples = lm.generate(
        prompts, sample.num_bases, temperature=sample.temperature, top_k=sample.top_k, top_p=sample.top_p,
        seed=sample.seed,
    )  # fmt: skip
    texts = [p[p.rfind(">") + 1 :] + s for p, s in zip(prompts, samples, strict=True)]
    codes, source = [bases.encode(text) for text in texts], held_out_regions(config)
    is_gene = (source.index["kind"] == source.kinds.index("cds")) & (source.index["length"] >= sample.num_bases)
    genes = [markov.region_bases(source, lm.tokenizer, i) for i in np.flatnonzero(is_gene)[:64].tolist()]
    groups = {
        "generated": codes,
        "the same bases shuffled": reading_frames.shuffled(codes),
        "held-out genes": [gene[: sample.num_bases] for gene in genes],
    }
    frames = {name: reading_frames.mean_open_frame(group, sample.stop_codons) for name, group in groups.items()}
    lengths = [f"{name} {codons:.0f}" for name, codons in frames.items() if codons is not None]
    print(f"Longest open reading frame in {sample.num_bases} bases, in codons: {', '.join(lengths)}")
    if samples:
        print("Generated DNA" + (f", after the prompt {prompts[0]}" if prompts[0] else ""))
        for i in range(0, min(len(samples[0]), 240), 60):
            print("  " + samples[0][i : i + 60])
    return frames
