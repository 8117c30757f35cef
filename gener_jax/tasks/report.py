"""The final evaluation of a run, for a person to read: held-out bits per base beside the baselines, and by group."""

from data_pipeline.errors import DataError
from data_pipeline.records import RegionSource
from gener_jax.config import Config
from gener_jax.tasks import markov
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
    if "bits_by_codon_position" in result:
        bits = result["bits_by_codon_position"]
        lines.append("Bits by codon position in coding regions (nothing told the model where codons begin)")
        lines.append("  " + "   ".join(f"{name} {b:.4f}" for name, b in zip(("1st", "2nd", "3rd"), bits, strict=True)))
    for group in ("by_kind", "by_taxon"):
        if len(result[group]) > 1:
            lines.append(f"Bits per base {group.replace('_', ' ')}")
            lines += [
                f"  {name:10} {row['bits_per_base']:.4f}  ({row['regions']} regions, {row['bases']} bases)"
                for name, row in result[group].items()
            ]
    return "\n".join(lines)
