"""Promoters with a TATA box against other DNA (GUE, prom_300_tata): 300 bases, two classes, fine-tuned from `tiny`.

    python -m gener_jax.finetune --config=experiments/finetune_promoter.py --config.finetune.train=FOLDER

FOLDER has train.csv, dev.csv and test.csv of the task GUE/prom/prom_300_tata. Any other table will do: a column of
sequences and one of labels. The model that ships has seen bacteria and viruses only, so it shows the command and not
what GENERator can do; for that give --config.train.init_from=GenerTeam/GENERator-v2-eukaryote-1.2b-base and
--config.optimizer.peak_learning_rate=1e-5.
"""

from gener_jax.config import base


def get_config():
    config = base()
    config.finetune.update(
        problem="single_label",
        train=("data/gue/prom/prom_300_tata",),
        method="full",
        epochs=3.0,
        patience=5,
    )
    config.train.update(init_from="tiny", batch_size=32, log_every_steps=20)
    config.optimizer.update(peak_learning_rate=1e-3, warmup_steps=20, beta2=0.999, weight_decay=0.01)
    return config
