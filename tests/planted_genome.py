"""Annotated genomes with known genes, for the tests of tasks that are made of coding sequences."""

import itertools
from dataclasses import dataclass, field

import numpy as np
from Bio.Seq import Seq

from gener_jax.tasks.coding_sequences import Source

CODONS = ["".join(x) for x in itertools.product("ACGT", repeat=3)]
PROTEIN = {codon: str(Seq(codon).translate()) for codon in CODONS}
SENSE = [codon for codon in CODONS if PROTEIN[codon] != "*"]


@dataclass
class Gene:
    """A gene as planted: its CDS, and its exons on the forward strand (0-based), in the gene's direction."""

    name: str
    strand: str
    cds: str
    exons: list = field(default_factory=list)


def reverse_complement(text):
    return str(Seq(text).reverse_complement())


def write(folder, species="planted", contigs=2, genes=6, slot=4000, codons=SENSE, letters="ACGT", seed=0):
    """Writes FASTA and GFF3 of genes in slots of a length, on either strand by turns; each third one has an intron.

    Codons and the letters between genes are drawn from those given.

    Returns:
      the source, the contigs by name and the genes by name.
    """
    rng = np.random.default_rng(seed)
    name = species.replace(" ", "_")
    place = folder / "genomes" / "eukaryote"
    place.mkdir(parents=True, exist_ok=True)
    sequences, found, rows = {}, {}, ["##gff-version 3"]
    for number in range(contigs):
        contig = f"{name}_{number}"
        text = "".join(rng.choice(list(letters), genes * slot))
        for i in range(genes):
            cds = "ATG" + "".join(rng.choice(codons, 150 + 10 * i)) + "TAA"
            intron = "GT" + "".join(rng.choice(list(letters), 97)) + "AG" if i % 3 == 1 else ""
            cut = 200 if intron else len(cds)  # in the second base of a codon
            spliced = cds[:cut] + intron + cds[cut:]
            start = i * slot + slot // 2 - len(spliced) // 2
            end, strand = start + len(spliced), "+-"[i % 2]
            text = text[:start] + (spliced if strand == "+" else reverse_complement(spliced)) + text[end:]
            exons = [(0, cut), *([(cut + len(intron), len(spliced))] if intron else [])]
            if strand == "+":
                exons = [(start + a, start + b) for a, b in exons]
            else:
                exons = [(end - b, end - a) for a, b in exons]
            gene = Gene(f"{contig}_g{i}", strand, cds, exons)
            found[gene.name] = gene
            before = 0
            for a, b in exons:
                attributes = f"ID=cds-{gene.name};gene={gene.name}"
                columns = (contig, ".", "CDS", a + 1, b, ".", strand, -before % 3, attributes)
                rows.append("\t".join(map(str, columns)))
                before += b - a
        sequences[contig] = text
    (place / f"{name}.fa").write_text("".join(f">{key}\n{text}\n" for key, text in sequences.items()))
    (place / f"{name}.gff3").write_text("\n".join(rows) + "\n")
    files = tuple(f"genomes/eukaryote/{name}.{suffix}" for suffix in ("gff3", "fa"))
    return Source(species, "fungi", (files,)), sequences, found
