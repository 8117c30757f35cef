"""A small model of your own genomes: copy this file, and change what its comments say.

    python -m gener_jax.train --config=experiments/my_genome.py --config.data.build_from=YOUR.gbff.gz

builds a dataset of the gene regions of one annotated genome (GenBank, as NCBI offers it: "Genomic GenBank format"),
trains on it and reports held-out bits per base beside those of Markov models: what the model should be below. For
several genomes, for FASTA with GFF3, or for other options, build the dataset first, look at it, and train on it:

    python -m data_pipeline.build --input genomes/ --output datasets/mine
    python -m data_pipeline.inspect datasets/mine
    python -m gener_jax.train --config=experiments/my_genome.py --config.data.path=datasets/mine

As it is, it takes a quarter of an hour on two cores, and suits a bacterial genome. The run is in runs/my_genome; the
same command resumes it. Any field can also be set on the command line: --config.train.num_steps=2000.
"""

from gener_jax.config import base


def get_config():
    config = base()
    # The model: 1.8 million parameters. More data deserve a larger one; a GPU trains hidden_size=512 with 12 layers.
    config.model.update(
        hidden_size=128,
        intermediate_size=352,  # about 8/3 of hidden_size
        num_hidden_layers=4,
        num_attention_heads=4,  # must divide hidden_size
        num_key_value_heads=2,  # must divide num_attention_heads
        max_position_embeddings=1024,  # the longest input that the model will ever get, in tokens of 6 bases
    )
    config.data.update(
        path="datasets/my_genome",  # where the dataset is, or is built; a second genome needs another path
        validation_fraction=0.1,  # of the gene regions, held out from training to measure the model
        context_length=256,  # tokens per sequence: 1536 bases, about one and a half bacterial genes
        reverse_complement=True,  # read each region on a random strand: worthwhile for small data
    )
    config.optimizer.update(
        peak_learning_rate=3e-3,  # for a small model; 1e-3 for 100 million parameters, 4e-4 for a billion
        warmup_steps=50,  # a few per cent of num_steps
    )
    # One step reads batch_size × context_length tokens: 12 288 bases. A genome of 4 million bases is read three times
    # in 1000 steps; stop when the held-out bits per base no longer fall.
    config.train.update(num_steps=1000, batch_size=8)
    config.checkpoint.every_steps = 100  # the best and the two newest are kept
    config.eval.every_steps = 100
    # What is generated at the end: 16 samples that begin with a start codon. For Mycoplasma, where TGA encodes
    # tryptophan, set stop_codons=("TAA", "TAG").
    config.sample.update(prompts=("ATG",), num_samples=16, temperature=0.8)
    return config
