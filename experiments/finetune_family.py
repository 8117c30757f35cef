"""Coding sequences of a family, learned whole from <s> to </s> (causal), so that the model generates new ones.

    python -m gener_jax.finetune --config=experiments/finetune_family.py --config.finetune.train=FAMILY.fa.gz

FAMILY is FASTA, or a table with a column of sequences. A fifth is held out: whole clusters, so that no held-out
protein is more than 30 % identical to one of training (finetune.max_identity: raise it for a family of close relatives;
"none" is for sequences that are not coding). The results name the share of 100 generated sequences that end by </s>,
their lengths beside the family's, the share that copies training, and how well p(</s>) tells ends of held-out sequences
from positions before them. Then

    python -m gener_jax.sample --checkpoint runs/finetune_family --prompt "<cds>ATG" --stop "</s>" --num_bases 1500

generates more. For FNS set --config.objective.fns_from_step=0. The model that ships is small, and a family of a few
hundred sequences overfits it in ten epochs: the best checkpoint is that of the lowest held-out bits per base.
"""

from gener_jax.config import base


def get_config():
    config = base()
    config.finetune.update(
        problem="causal",
        train=("data/family.fa.gz",),
        prefix="<cds>",
        epochs=6.0,
        folds=5,
    )
    config.train.update(init_from="tiny", batch_size=16, log_every_steps=10)
    config.optimizer.update(peak_learning_rate=1e-3, warmup_steps=10, beta2=0.999, weight_decay=0.01)
    config.sample.num_samples = 100
    return config
