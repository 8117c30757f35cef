"""GENERator-eukaryote-1.2b with v2's objective: cross-entropy, then FNS (factorised nucleotide supervision).

    python -m gener_jax.train --config=experiments/euk_1b_fns.py

The data and the size are those of `euk_1b.py`. FNS takes over after a tenth of the steps at a sixth of the rate, with a
warm-up–stable–decay schedule, as in Carbon's recipe (100 of 1000 billion tokens at 3e-4, then 5e-5; never FNS from the
start). What GENERator v2 did is not published in such detail. Not trained here.
"""

from gener_jax.config import base


def get_config():
    config = base()
    config.model.update(dtype="bfloat16", remat="dots")
    config.objective.update(fns_from_step=18_500, fns_learning_rate=4e-4 / 6)
    config.optimizer.schedule = "wsd"
    config.eval.update(max_regions=2000, recovery_genes=256)
    config.data.path = "datasets/refseq_eukaryote"
    return config
