"""GENERator-prokaryote-3b: 2 998 262 784 parameters, 16 384 tokens (98 304 bases) of context.

    python -m gener_jax.train --config=experiments/prok_3b.py

Data: RefSeq bacteria and archaea, 515 Gbp, only their gene regions.
Download the annotated GenBank files of the release, then run

    python -m data_pipeline.build --input FILES.genomic.gbff.gz --output datasets/refseq_prokaryote

The cost is that of euk_3b. We have not trained it; the tests check the number of parameters.
"""

from gener_jax.config import base


def get_config():
    config = base()
    config.model.update(hidden_size=3072, intermediate_size=8448, num_hidden_layers=30, dtype="bfloat16", remat="dots")
    config.eval.max_regions = 2000  # there are millions
    config.data.path = "datasets/refseq_prokaryote"
    return config
