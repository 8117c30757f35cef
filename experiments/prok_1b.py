"""GENERator-prokaryote-1.2b: 1 162 061 824 parameters, 16 384 tokens (98 304 bases) of context.

    python -m gener_jax.train --config=experiments/prok_1b.py

Data: RefSeq bacteria and archaea, 515 Gbp, only their gene regions.
Download the annotated GenBank files of the release, then run

    python -m data_pipeline.build --input FILES.genomic.gbff.gz --output datasets/refseq_prokaryote

The cost is that of euk_1b. We have not trained it; the tests check the number of parameters.
"""

from gener_jax.config import base


def get_config():
    config = base()
    config.model.update(dtype="bfloat16", remat="dots")  # the shape is that of base()
    config.eval.max_regions = 2000  # there are millions
    config.data.path = "datasets/refseq_prokaryote"
    return config
