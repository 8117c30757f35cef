"""A GENERator of 107 million parameters, for one GPU and one day.

    python -m gener_jax.train --config=experiments/euk_100m.py

The context is 4096 tokens (24 576 bases). The run has 60 000 steps of 524 288 tokens: 31 billion tokens and about 3e19
operations, which take an H100 a day at 40 % of its peak. Use the data of `euk_1b.py` or your own; a smaller set of
genomes means more epochs. Shape and learning rates are our choice. We have not trained it.
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
    config.eval.update(max_regions=2000, tasks=("held_out", "recovery"))
    return config
