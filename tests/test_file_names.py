"""Tests what is derived from the names of genome files."""

from pathlib import Path

import pytest

from data_pipeline.formats import file_names
from data_pipeline.formats.file_names import FASTA, GENBANK, GFF3, GTF


@pytest.mark.parametrize(
    ("name", "format"),
    [
        *((f"x{end}", GENBANK) for end in (".gb", ".gbk", ".gbff", ".genbank", ".seq", ".gbff.gz", ".GBK.bgz")),
        *((f"x{end}", FASTA) for end in (".fa", ".fasta", ".fna", ".fna.gz", ".FA", ".fa.bgz")),
        *((f"x{end}", GFF3) for end in (".gff", ".gff3", ".gff.gz")),
        *((f"x{end}", GTF) for end in (".gtf", ".gtf.gz")),
        *(
            (name, None)
            for name in ("README", "md5sums.txt", "x.gz", "x.faa", "x.fa.zip", "x.fai", "x.fa.gz.part", "gb")
        ),
    ],
)
def test_formats(name, format):
    assert file_names.format_of(Path(name)) == format


@pytest.mark.parametrize(
    ("name", "derived"),
    [
        ("GCF_000005845.2_ASM584v2_cds_from_genomic.fna.gz", True),
        ("GCF_000005845.2_ASM584v2_rna_from_genomic.fna.gz", True),
        ("GCF_000001405.40_GRCh38.p14_rna.fna.gz", True),
        ("GCF_000001405.40_GRCh38.p14_rna.gbff.gz", True),
        ("GCF_000005845.2_ASM584v2_protein.faa.gz", True),
        ("GCF_000005845.2_ASM584v2_protein.gpff.gz", True),
        ("GCF_000005845.2_ASM584v2_translated_cds.faa.gz", True),
        ("cds_from_genomic.fna", True),
        ("rna.fna", True),
        ("protein.faa", True),
        ("fungi.12.rna.gbff.gz", True),
        ("Homo_sapiens.GRCh38.cds.all.fa.gz", True),
        ("Homo_sapiens.GRCh38.cdna.abinitio.fa.gz", True),
        ("Homo_sapiens.GRCh38.ncrna.fa.gz", True),
        ("Homo_sapiens.GRCh38.pep.all.fa.gz", True),
        ("Homo_sapiens.GRCh38.110.abinitio.gff3.gz", True),
        ("Homo_sapiens.GRCh38.dna_rm.toplevel.fa.gz", True),
        ("GCF_000005845.2_ASM584v2_genomic.fna.gz", False),
        ("Homo_sapiens.GRCh38.dna_sm.toplevel.fa.gz", False),
        ("histone_cds.fa.gz", False),
        ("my_rna_virus.gb", False),
        ("proteins_of_x.gb", False),
    ],
)
def test_derived_files(name, derived):
    assert file_names.is_derived(Path(name)) == derived


@pytest.mark.parametrize(
    ("name", "key", "taxon", "assembly"),
    [
        ("vertebrate_mammalian.12.genomic.gbff.gz", "vertebrate_mammalian.12", "mam", "vertebrate_mammalian.12"),
        ("vertebrate_mammalian.12.1.genomic.fna.gz", "vertebrate_mammalian.12", "mam", "vertebrate_mammalian.12"),
        ("vertebrate_mammalian.12.2.genomic.fna.gz", "vertebrate_mammalian.12.2", "mam", "vertebrate_mammalian.12"),
        ("plastid.1.genomic.gbff.gz", "plastid.1", "plt", "plastid.1"),
        ("GCF_000005845.2_ASM584v2_genomic.gff.gz", "GCF_000005845.2", None, "GCF_000005845.2"),
        ("GCA_000005845.2_genomic.fna", "GCA_000005845.2", None, "GCA_000005845.2"),
        ("GCF_000005845.2/genomic.gff", "GCF_000005845.2", None, "GCF_000005845.2"),
        ("GCF_000005845.2.mine.gff", "GCF_000005845.2.mine", None, "GCF_000005845.2"),
        ("Homo_sapiens.GRCh38.dna.toplevel.fa.gz", "Homo_sapiens.GRCh38", None, "Homo_sapiens.GRCh38"),
        ("Homo_sapiens.GRCh38.110.gff3.gz", "Homo_sapiens.GRCh38", None, "Homo_sapiens.GRCh38"),
        ("Homo_sapiens.GRCh38.110.chromosome.X.gtf", "Homo_sapiens.GRCh38.chromosome.X", None, "Homo_sapiens.GRCh38"),
        ("Homo_sapiens.GRCh38.dna_sm.chromosome.X.fa", "Homo_sapiens.GRCh38.chromosome.X", None, "Homo_sapiens.GRCh38"),
        ("Oryza_sativa.IRGSP-1.0.57.gff3", "Oryza_sativa.IRGSP-1.0", None, "Oryza_sativa.IRGSP-1.0"),
        ("Oryza_sativa.IRGSP-1.0.dna.toplevel.fa", "Oryza_sativa.IRGSP-1.0", None, "Oryza_sativa.IRGSP-1.0"),
        ("Ecoli.NC_000913.3.gff", "Ecoli.NC_000913.3", None, "worms/Ecoli.NC_000913.3"),
        ("celegans_1pct.fa.gz", "celegans_1pct", None, "worms/celegans_1pct"),
        ("a/genome.fa", "genome", None, "a/genome"),
        ("a/../b/genome.fa", "genome", None, "b/genome"),
        ("a/GCF_000005845.2/../genomic.gff", "a/genomic", None, "a/genomic"),
    ],
)
def test_key_taxon_and_assembly_of_names(name, key, taxon, assembly):
    found = file_names.describe(Path("/data/worms", name))
    assert (found.key, found.taxon, found.assembly) == (key, taxon, assembly)
    assert found.has_ncbi_accession == assembly.startswith("GC")


def test_key_of_a_relative_path_includes_its_folder(tmp_path, monkeypatch):
    (tmp_path / "worms").mkdir()
    monkeypatch.chdir(tmp_path / "worms")
    for name in ("x.fa", "./x.fa", "../worms/x.fa"):
        assert file_names.describe(Path(name)).assembly == "worms/x"


def test_better_of_several_files_sorts_first():
    names = ["dna_sm.primary_assembly", "dna_sm.toplevel", "dna.primary_assembly", "dna.toplevel"]
    ranks = [file_names.describe(Path(f"Homo_sapiens.GRCh38.{name}.fa")).rank for name in names]
    assert ranks == sorted(set(ranks))


def test_old_ensembl_names_have_the_release_in_both_files():
    annotation = file_names.describe(Path("Homo_sapiens.GRCh37.75.gtf.gz"))
    for name, same in (("GRCh37.75.dna", True), ("GRCh37.dna", True), ("GRCh38.dna", False), ("GRCh37.p13.dna", False)):
        sequence = file_names.describe(Path(f"Homo_sapiens.{name}.toplevel.fa.gz"))
        assert (annotation.key in file_names.annotation_keys(sequence)) == same
