"""A small GENERator on Escherichia coli K-12 MG1655 (4.6 Mbp), for comparison with Markov models.

    from="https://eutils.ncbi.nlm.nih.gov/entrez/eutils/efetch.fcgi?db=nuccore&rettype=gbwithparts&retmode=text"
    curl -o NC_000913.3.gb "$from&id=NC_000913.3"
    python -m data_pipeline.build --input NC_000913.3.gb --output datasets/ecoli
    python -m gener_jax.train --config=experiments/ecoli.py

It reached 1.8585 held-out bits per base after 3000 steps (Markov models: 1.9985 for order 0, 1.9220 for order 5), in 68
minutes on two cores that were also doing other work. With byte pairs instead of 6-mers (1.9611 after 1000 steps):

    python -m data_pipeline.train_bpe datasets/ecoli --vocab_size 1024 --output ecoli-bpe.model
    python -m data_pipeline.build --input NC_000913.3.gb --output datasets/ecoli-bpe \\
        --storage token_ids --tokenizer bpe --model_file ecoli-bpe.model
    python -m gener_jax.train --config=experiments/ecoli.py --workdir=runs/ecoli-bpe --config.tokenizer.kind=bpe \\
        --config.tokenizer.model_file=ecoli-bpe.model --config.data.storage=token_ids \\
        --config.data.path=datasets/ecoli-bpe
"""

from gener_jax.config import base


def get_config():
    config = base()
    config.model.update(
        hidden_size=128,
        intermediate_size=352,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=1024,
    )
    config.data.update(path="datasets/ecoli", context_length=256)
    config.optimizer.update(peak_learning_rate=3e-3, warmup_steps=100)
    config.train.update(num_steps=3000, batch_size=8, log_every_steps=50)
    config.checkpoint.every_steps = 250
    config.eval.update(every_steps=250, batch_size=16)
    config.sample.update(prompts=("ATG",), num_samples=16, temperature=0.8)
    return config
