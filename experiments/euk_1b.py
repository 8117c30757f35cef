"""GENERator-eukaryote-1.2b: 1 162 061 824 parameters, 16 384 tokens (98 304 bases) of context.

    python -m gener_jax.train --config=experiments/euk_1b.py

Data: RefSeq eukaryotes, 386 Gbp, only their gene regions.
Download the annotated GenBank files of the release, then run

    python -m data_pipeline.build --input FILES.genomic.gbff.gz --output datasets/refseq_eukaryote

The run has 185 000 steps of 2.1 million tokens (388 billion, 6 epochs), about 2.7e21 FLOPs. The authors report 368
hours on 32 A100s for this recipe. We have not trained it; the tests check the number of parameters. Peak learning
rate, warm-up, final rate, beta2 and clipping are unpublished, so they are our choice.

By formula it needs 69 GiB per device on 32 GPUs, and 37 GiB on eight with `--config.train.accumulate=8`. For other
machines run `python -m gener_jax.plan`.
"""

from gener_jax.config import base


def get_config():
    config = base()
    config.model.update(dtype="bfloat16", remat="dots")  # the shape is that of base()
    config.eval.max_regions = 2000  # there are millions
    config.data.path = "datasets/refseq_eukaryote"
    return config
