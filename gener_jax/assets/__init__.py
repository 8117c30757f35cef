"""Files that ship with the package.

`EXAMPLE_GENOME` is RefSeq record NZ_CP001668.1, Mycoplasma mycoides subsp. capri str. GM12, whole chromosome, 1 084 586
bases, 900 genes: an NCBI public record, on which NCBI claims no copyright. Its genetic code is table 4: TGA is read as
tryptophan, so the stop codons are TAA and TAG.

`TINY` is a small trained model, a Hugging Face folder that `gener_jax.load("tiny")` opens; its README.md is the model
card.

`PUBLISHED` are tables of figures that others report of tasks, with the source of each; see `tasks.published`. The
second has those of the two panels of gene completion, of which the first has the mean over all genes.
"""

from pathlib import Path

TINY = Path(__file__).parent / "tiny"
EXAMPLE_GENOME = Path(__file__).parent / "NZ_CP001668.1.gbff.gz"
PUBLISHED = tuple(Path(__file__).parent / name for name in ("published.tsv", "published_by_panel.tsv"))
