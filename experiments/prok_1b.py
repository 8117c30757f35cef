"""GENERator-prokaryote-1.2b: 1 162 061 824 parameters, 16 384 tokens (98 304 bases) of context.

    python -m gener_jax.train --config=experiments/prok_1b.py

The data: RefSeq bacteria and archaea, 515 Gbp, the gene regions alone.
Fetch the annotated GenBank files of the release, then

    python -m data_pipeline.build --input FILES.genomic.gbff.gz --output datasets/refseq_prokaryote

Expect the cost of euk_1b; its parameters are counted by the tests; it was not trained here.
"""

from gener_jax.config import base


def get_config():
    config = base()
    config.model.update(dtype="bfloat16", remat="dots")  # the shape is the base's
    config.eval.max_regions = 2000  # of millions
    config.data.path = "datasets/refseq_prokaryote"
    return config
