"""GENERator-eukaryote-1.2b with v2's objective: cross-entropy, then FNS (factorised nucleotide supervision).

    python -m gener_jax.train --config=experiments/euk_1b_fns.py

Data and model size are those of `euk_1b.py`. After a tenth of the steps FNS replaces cross-entropy, at a sixth of the
learning rate, with a warm-up–stable–decay schedule. This follows Carbon's recipe (100 of 1000 billion tokens at 3e-4,
then 5e-5; never FNS from the start). GENERator v2's recipe is not published in such detail. We have not trained it.
"""

from gener_jax.config import base


def get_config():
    config = base()
    config.model.update(dtype="bfloat16", remat="dots")
    config.objective.update(fns_from_step=18_500, fns_learning_rate=4e-4 / 6)
    config.optimizer.schedule = "wsd"
    config.eval.update(max_regions=2000, tasks=("held_out", "recovery"))
    config.data.path = "datasets/refseq_eukaryote"
    return config
