"""GENERator-eukaryote-1.2b: 1 162 061 824 parameters, 16 384 tokens (98 304 bases) of context.

    python -m gener_jax.train --config=experiments/euk_1b.py

The data: RefSeq eukaryotes, 386 Gbp, the gene regions alone.
Fetch the annotated GenBank files of the release, then

    python -m data_pipeline.build --input FILES.genomic.gbff.gz --output datasets/refseq_eukaryote

Expect 185 000 steps of 2.1 million tokens (388 billion, 6 epochs): about 2.7e21 FLOPs. The authors took 368 hours on 32
A100s for the recipe; its parameters are counted by the tests; it was not trained here. Peak rate, warm-up, floor,
beta2 and clipping are unpublished and our choice.

By formula 69 GiB a device on 32 GPUs; eight need `--config.train.accumulate=8` (37 GiB). `python -m gener_jax.plan`
tells what other machines need.
"""

from gener_jax.config import base


def get_config():
    config = base()
    config.model.update(dtype="bfloat16", remat="dots")  # the shape is the base's
    config.eval.max_regions = 2000  # of millions
    config.data.path = "datasets/refseq_eukaryote"
    return config
