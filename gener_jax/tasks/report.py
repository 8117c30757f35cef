"""The report at the end of a run: held-out bits per base, in all and by group, baselines, and samples."""

import numpy as np

from data_pipeline.dataset.reader import RegionSource
from data_pipeline.errors import DataError
from data_pipeline.sequence import bases
from data_pipeline.sequence.tokenizer import Tokenizer
from data_pipeline.splitting.leakage import NEAR_COPY
from gener_jax.config import Config
from gener_jax.inference.lm import LM
from gener_jax.inference.prompt import Prompt
from gener_jax.tasks import markov, reading_frames
from gener_jax.tasks.held_out import HeldOut

ORDERS = (0, 5)


def evaluate(config: Config, params, tokenizer, mesh, progress=lambda done, total: None) -> dict:
    """Held-out sums by kind and taxon, by codon position for k-mers of whole codons, and the Markov baselines."""
    source = RegionSource(config.data.path, config.eval.split)
    if len(source) == 0:
        raise DataError(f"{config.data.path}: the {config.eval.split} split holds no region; build with a larger share")
    by_base = tokenizer.kind == "kmer" and tokenizer.k % 3 == 0
    held_out = HeldOut(config, source, tokenizer, mesh, by_base=by_base)
    result = held_out(params, progress)
    if config.eval.baselines:
        train = RegionSource(config.data.path, "train")
        for order in ORDERS:
            model = markov.fit(train, tokenizer, order)
            bits, scored = markov.bits_per_base(model, source, tokenizer, held_out.regions)
            if scored != result["bases"]:
                raise AssertionError(f"the baseline saw {scored} bases, the model {result['bases']}")
            result[f"markov_{order}"] = bits
    return result


def as_text(config: Config, result: dict) -> str:
    """The result as lines of text."""
    rows = [(f"{config.name} (this model)", result["bits_per_base"])]
    rows += [(f"Markov order {order}", result[f"markov_{order}"]) for order in ORDERS if f"markov_{order}" in result]
    lines = [
        f"Bits per base of held-out genes ({config.eval.split}: {result['regions']} regions, {result['bases']:,} "
        "bases; 2 is chance, lower is better)"
    ]
    best = min(bits for _, bits in rows)
    lines += [f"  {name:24} {bits:.4f}{'  ← lowest' if bits == best else ''}" for name, bits in rows]
    new = result.get("without_near_copies")
    if new is not None and new["regions"] < result["regions"]:
        bits = f"{new['bits_per_base']:.4f}" if new["bases"] else "none"
        lines.append(
            f"  without near copies in training (train_overlap < {100 * NEAR_COPY:.0f} %)  {bits}  "
            f"({new['regions']} regions, {new['bases']:,} bases)"
        )
    if "bits_by_codon_position" in result:
        bits = result["bits_by_codon_position"]
        lines.append("Bits by codon position in coding regions (each read in frame from its first base)")
        lines.append("  " + "   ".join(f"{name} {b:.4f}" for name, b in zip(("1st", "2nd", "3rd"), bits, strict=True)))
    if "by_case" in result:
        lines.append("Bits per base by case")
        lines += [
            f"  {name:15} {row['bits_per_base']:.4f}  ({row['bases']:,} bases)"
            for name, row in result["by_case"].items()
        ]
    for group in ("by_kind", "by_taxon"):
        if len(result[group]) > 1:
            lines.append(f"Bits per base {group.replace('_', ' ')}")
            lines += [
                f"  {name:10} {row['bits_per_base']:.4f}  ({row['regions']} regions, {row['bases']} bases)"
                for name, row in result[group].items()
            ]
    return "\n".join(lines)


def show_samples(config: Config, lm: LM) -> dict:
    """Prints how open the samples' reading frames are, and the first sample; returns the means in codons."""
    sample = config.sample
    prompts = [Prompt.parse(text) for text in sample.prompts]
    samples = lm.generate(
        prompts, sample.num_bases, num_samples=sample.num_samples, temperature=sample.temperature, top_k=sample.top_k,
        top_p=sample.top_p, seed=sample.seed,
    )  # fmt: skip
    codes = [np.append(prompts[i // sample.num_samples].codes, bases.encode(s)) for i, s in enumerate(samples)]
    groups = {
        "generated": codes,
        "the same bases shuffled": reading_frames.shuffled(codes),
        "held-out genes": held_out_genes(config, lm.tokenizer, sample.num_bases, number=64),
    }
    frames = {name: reading_frames.mean_open_frame(group, sample.stop_codons) for name, group in groups.items()}
    lengths = [f"{name} {codons:.0f}" for name, codons in frames.items() if codons is not None]
    print(f"Longest open reading frame in {sample.num_bases} bases, in codons: {', '.join(lengths)}")
    if samples:
        print("Generated DNA" + (f", after the prompt {sample.prompts[0]}" if sample.prompts[0] else ""))
        for i in range(0, min(len(samples[0]), 240), 60):
            print("  " + samples[0][i : i + 60])
    return frames


def held_out_genes(config: Config, tokenizer: Tokenizer, num_bases: int, number: int) -> list:
    """The first `num_bases` bases, as codes, of up to `number` held-out coding regions that are that long."""
    source = RegionSource(config.data.path, config.eval.split)
    is_gene = (source.index["kind"] == source.kinds.index("cds")) & (source.index["length"] >= num_bases)
    return [markov.region_bases(source, tokenizer, int(i))[:num_bases] for i in np.flatnonzero(is_gene)[:number]]
