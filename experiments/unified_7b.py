"""A 7b model of all of RefSeq: 7 013 404 672 parameters, 16 384 tokens (98 304 bases) of context.

    python -m gener_jax.train --config=experiments/unified_7b.py --config.mesh.fsdp=-1 --config.mesh.tensor=4

Data: RefSeq eukaryotes and prokaryotes, 937 Gbp, only their gene regions.
Download the annotated GenBank files of the release, then run

    python -m data_pipeline.build --input FILES.genomic.gbff.gz --output datasets/refseq_all

The authors have not released this model, so its shape is our choice. We have not trained it; the tests check the number
of parameters. By formula it needs 76 GiB per device on 128 GPUs; 64 GPUs need `--config.train.accumulate=2` (77 GiB) or
more.
"""

from gener_jax.config import base


def get_config():
    config = base()
    config.model.update(
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=32,
        num_key_value_heads=8,
        dtype="bfloat16",
        remat="dots",
    )
    config.eval.max_regions = 2000  # there are millions
    config.data.path = "datasets/refseq_all"
    config.optimizer.peak_learning_rate = 3e-4
    return config
