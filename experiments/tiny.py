"""The small model of the package, `gener_jax.load("tiny")`, trained on 12 public NCBI records: bacteria, phages, yeast,
a chloroplast and human gene regions.

    export GENER_JAX_GENOMES=genomes
    python -m gener_jax.train --config=experiments/tiny.py

It reaches 1.87 held-out bits per base after 40 minutes on two cores (Markov models: 1.989 for order 0, 1.944 for order
5); for details see `gener_jax/assets/tiny/README.md`. One record is part of the package. The other eleven must be
GenBank files in the folder GENER_JAX_GENOMES (default: genomes/), named as in `RECORDS`. Download them from
https://www.ncbi.nlm.nih.gov/nuccore/ACCESSION with "Send to: Complete Record, File, GenBank (full)", or by script:

    mkdir -p genomes
    from="https://eutils.ncbi.nlm.nih.gov/entrez/eutils/efetch.fcgi?db=nuccore&rettype=gbwithparts&retmode=text"
    get() { curl -o genomes/$1.gb "$from&id=$2"; }
    for id in NC_000913.3 NC_004829.2 NC_001139.9 NC_000932.1 NC_019724.1 NC_049491.1 BA000025.2 AL449423.14 NG_008939.1
    do get $id $id; done
    get NC_000001.10_MARK1 "NC_000001.10&seq_start=220696568&seq_stop=220839800"
    get NC_000006.12_CDKN1A "NC_000006.12&seq_start=36671460&seq_stop=36689339"

The bases of an accession with its version never change, but NCBI's annotation does, which changes the regions slightly.
Human chromosome 17 is left out, so that the training data do not contain BRCA1, whose measured variants serve as a
benchmark.
"""

import os
from pathlib import Path

from gener_jax.assets import EXAMPLE_GENOME
from gener_jax.config import base

RECORDS = (
    "NC_000913.3",  # Escherichia coli K-12 MG1655
    "NC_004829.2",  # Mycoplasma gallisepticum R(low)
    "NC_001139.9",  # Saccharomyces cerevisiae S288C, chromosome VII
    "NC_000932.1",  # Arabidopsis thaliana, chloroplast
    "BA000025.2",  # human, HLA class I region on chromosome 6
    "AL449423.14",  # human, clone RP11-149I2 on chromosome 9, with CDKN2A
    "NG_008939.1",  # human, PCCB
    "NC_000001.10_MARK1",  # human, GRCh37 chr1:220696568-220839800
    "NC_000006.12_CDKN1A",  # human, GRCh38 chr6:36671460-36689339
    "NC_019724.1",  # Escherichia phage HK578
    "NC_049491.1",  # Acinetobacter phage Apostate
)


def get_config():
    genomes = Path(os.environ.get("GENER_JAX_GENOMES", "genomes"))
    config = base()
    config.model.update(
        hidden_size=128,
        intermediate_size=352,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
    )
    config.data.update(
        path="datasets/tiny",
        # The twelfth, NZ_CP001668.1 (Mycoplasma mycoides GM12), is part of the package.
        build_from=(str(EXAMPLE_GENOME), *(str(genomes / f"{record}.gb") for record in RECORDS)),
        context_length=512,  # tokens, 3072 bases
        reverse_complement=True,
    )
    config.optimizer.update(
        peak_learning_rate=3e-3, warmup_steps=60, schedule="wsd", decay_fraction=0.58, final_learning_rate_ratio=0.01
    )
    config.train.update(num_steps=2300, batch_size=4)
    config.checkpoint.every_steps = 250
    config.eval.every_steps = 250
    config.sample.update(prompts=("ATG",), num_samples=16, temperature=0.8)
    return config
