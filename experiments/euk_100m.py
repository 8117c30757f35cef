"""A GENERator of 107 million parameters: one GPU, one day.

    python -m gener_jax.train --config=experiments/euk_100m.py

4096 tokens (24 576 bases) of context, 524 288 tokens a step, 60 000 steps: 31 billion tokens, about 3e19 operations,
which an H100 does in a day at 40 % of its peak. The data are those of `euk_1b.py`, or your own: a smaller genome
set makes more epochs. Shape and rates are our choice. Not trained here.
"""

from gener_jax.config import base


def get_config():
    config = base()
    config.model.update(
        hidden_size=768,
        intermediate_size=2048,
        num_hidden_layers=16,
        num_attention_heads=12,
        num_key_value_heads=4,
        max_position_embeddings=4096,
        dtype="bfloat16",
        remat="dots",
    )
    config.data.update(path="datasets/refseq_eukaryote", context_length=4096)
    config.optimizer.update(peak_learning_rate=1e-3, warmup_steps=1000)
    config.train.update(num_steps=60_000, batch_size=128, accumulate=4)
    config.eval.update(max_regions=2000, recovery_genes=256)
    return config
