"""Coding sequences as planted; what is tested is not counted; codon usage and the choice of genes."""

import collections
import dataclasses

import numpy as np
import pytest

from data_pipeline.sequence import bases
from gener_jax.tasks import coding_sequences
from gener_jax.tasks.base import NotRun, Options
from tests import planted_genome
from tests.data import data_path
from tests.raised import raises


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("planted")
    source, sequences, genes = planted_genome.write(folder)
    read, left_out = coding_sequences.read(Options(folder), [source])
    assert not left_out
    return read, sequences, genes


def test_genes_are_those_planted(planted):
    read, sequences, genes = planted
    assert [gene.name for gene in read] == list(genes)
    for gene in read:
        true, contig = genes[gene.name], sequences[gene.accession]
        assert "".join(bases.decode(gene.cut(*exon)) for exon in gene.exons) == true.cds
        assert [gene.on_contig(*exon) for exon in gene.exons] == true.exons
        assert coding_sequences.starts_protein(gene)
        in_direction = contig if true.strand == "+" else planted_genome.reverse_complement(contig)
        assert bases.decode(gene.cut(gene.start - 50, gene.end + 9)) == in_direction[gene.start - 50 : gene.end + 9]
        codons = [true.cds[i : i + 3] for i in range(0, len(true.cds), 3)]
        assert ["".join(in_direction[p] for p in row) for row in gene.codons()] == codons
        assert gene.codon_numbers().tolist() == [int(bases.encode(codon) @ [25, 5, 1]) for codon in codons]


def test_windows_stay_inside_the_contig(planted):
    gene = planted[0][0]
    length = len(gene.contig)
    assert gene.window(1000, 400) == (800, 1200)
    assert gene.window(100, 400) == (0, 400)
    assert gene.window(length - 3, 400) == (length - 400, length)
    assert gene.window(500, 10 * length) == (0, length)


def test_one_transcript_per_gene_and_reasons_for_the_rest(tmp_path):
    source, sequences, genes = planted_genome.write(tmp_path, contigs=1, genes=3)
    [(annotation, fasta)] = source.files
    contig, gene = next(iter(sequences)), genes["planted_0_g0"]
    [(start, end)] = gene.exons
    with open(tmp_path / annotation, "a") as file:
        for name, first, last in (("other;", start, end - 30), ("gone;pseudo=true", start + 1, end - 9)):
            file.write(f"{contig}\t.\tCDS\t{first + 1}\t{last}\t.\t+\t0\tID=cds-{name[:4]};gene={name}\n")
    read, left_out = coding_sequences.read(Options(tmp_path), [source])
    assert [x.name for x in read] == list(genes)
    assert left_out == {"another transcript of the gene": 1, "pseudogenes": 1}
    (tmp_path / fasta).unlink()
    with raises(NotRun):
        coding_sequences.read(Options(tmp_path), [source])


def test_preferred_codons_are_counted_on_the_genes_given(planted):
    read, _, genes = planted
    some = read[:5]
    counts = collections.Counter(
        codon for gene in some for i in range(0, len(genes[gene.name].cds), 3)
        for codon in [genes[gene.name].cds[i : i + 3]]
    )  # fmt: skip
    best = coding_sequences.preferred_codons(some, 1)
    for codon in planted_genome.CODONS:
        found = bases.decode(best[bases.encode(codon) @ np.array([25, 5, 1])])
        letter = planted_genome.PROTEIN[codon]
        synonyms = [x for x in planted_genome.CODONS if planted_genome.PROTEIN[x] == letter]
        expected = codon if letter == "*" else min(synonyms, key=lambda x: (-counts[x], x))
        assert found == expected, codon
    assert bases.decode(best[bases.encode("ANA") @ np.array([25, 5, 1])]) == "ANA"
    other = coding_sequences.preferred_codons(some, 4)  # of another genetic code there are none
    assert bases.decode(other.ravel()) == bases.decode(
        np.stack(np.unravel_index(np.arange(125), (5, 5, 5)), 1).astype(np.uint8).ravel()
    )


def test_at_most_half_of_a_species_is_tested_and_species_alternate(tmp_path):
    read = []
    for number, species in enumerate(("one", "two")):
        source, _, _ = planted_genome.write(tmp_path, species, contigs=1, genes=5 + number, seed=number)
        read += coding_sequences.read(Options(tmp_path), [source])[0]
    chosen = coding_sequences.chosen(read, lambda gene: True, 10, seed=0)
    assert [gene.species for gene in chosen] == ["one", "two", "one", "two", "two"]
    assert coding_sequences.chosen(read, lambda gene: True, 1, seed=0) == chosen[:2]
    assert coding_sequences.chosen(read, lambda gene: True, 10, seed=1) != chosen
    suited = coding_sequences.chosen(read, lambda gene: gene is not chosen[0], 10, seed=0)
    assert chosen[0] not in suited
    others = coding_sequences.untested(read, chosen)
    assert len(others) + len(chosen) == len(read)
    assert not {id(gene) for gene in others} & {id(gene) for gene in chosen}


def test_what_is_asked_for_is_not_counted(planted):
    """On neither strand: other bases there give the same models."""
    read, _, _ = planted
    gene = read[0]
    neighbours = [other for other in read if other.accession == gene.accession]
    asked = [(gene, gene.start, gene.end + 2500)]  # into the next gene, of the other strand
    models = []
    for code in (None, bases.A):
        contig = gene.contig.copy()
        if code is not None:
            contig[slice(*gene.on_contig(*asked[0][1:]))] = code
        changed = [dataclasses.replace(other, contig=contig) for other in neighbours]
        of = coding_sequences.markov_models(changed, [(changed[0], *asked[0][1:])], 3000, seed=0)
        models.append(of["planted"])
    np.testing.assert_array_equal(models[0].counts[5], models[1].counts[5])
    free = coding_sequences.markov_models(neighbours, [(gene, 0, 0)], 3000, seed=0)["planted"]
    assert free.counts[0].sum() > models[0].counts[0].sum() > 4


def test_models_of_a_table_are_of_the_other_half():
    sequences = [np.full(50, code, np.uint8) for code in (0, 0, 1, 0, 2)]
    models = coding_sequences.crossed_models(sequences, ["a", "a", "a", "a", "b"], ["x", "x", "y", "z", "x"])
    likely = [int(model.counts[0].argmax()) for model in models]
    assert likely[:4] == [1, 1, 0, 1]
    assert models[4].counts[0].sum() == 4  # nothing of its stratum is left


def test_genomes_of_the_field():
    """The human piece with RefSeq's GTF: every kept CDS begins with ATG and ends with a stop."""
    data_path("human", "human_hg38_chr16_186964_397118.refseq.gtf.gz")
    human = next(source for source in coding_sequences.SOURCES if source.species == "Homo sapiens")
    read, left_out = coding_sequences.read(Options(data_path("human").parent), [human._replace(files=human.files[:1])])
    assert len(read) > 5
    assert len(read) + left_out["another transcript of the gene"] == 13
    for gene in read:
        coding = "".join(bases.decode(gene.cut(*exon)) for exon in gene.exons)
        assert coding[:3] == "ATG"
        assert planted_genome.PROTEIN[coding[-3:]] == "*"
