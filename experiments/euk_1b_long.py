"""GENERator-eukaryote-1.2b at 32 768 tokens (196 608 bases): the second stage of long-context training.

    python -m gener_jax.train --config=experiments/euk_1b_long.py

It starts from the parameters of a run of `euk_1b.py` (`train.init_from`) and raises the RoPE base from 5e5 to 5e6, as
Carbon did to extend its context. It has 10 000 steps of 2.1 million tokens at a tenth of the peak learning rate; steps,
batch size and rate are our choice. We have not trained it. If a sequence does not fit one device, shard it with
`--config.mesh.context=4`. YaRN allows even longer inputs: `gener_jax.load(folder, yarn_factor=4)`.
"""

from gener_jax.config import base


def get_config():
    config = base()
    config.model.update(dtype="bfloat16", remat="dots", max_position_embeddings=32768, rope_theta=5e6)
    config.data.update(path="datasets/refseq_eukaryote", context_length=32768)
    config.optimizer.update(peak_learning_rate=4e-5, warmup_steps=200)
    config.train.update(init_from="runs/euk_1b", num_steps=10_000, batch_size=64)
    config.eval.update(max_regions=2000, batch_size=4, tasks=("held_out", "recovery"))
    return config
