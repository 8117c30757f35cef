"""The sets of variants with labels or measured effects that ship as tasks, as data."""

import dataclasses

from gener_jax.tasks.variant_tables import Classes, Reported, Score, Values, VariantSet

_GENOME = "human/GRCh38.fa"
_HUMAN = (
    f"FOLDER/{_GENOME}: curl -L https://ftp.ensembl.org/pub/release-107/fasta/homo_sapiens/dna/"
    f"Homo_sapiens.GRCh38.dna_sm.primary_assembly.fa.gz | gunzip > FOLDER/{_GENOME} && "
    f"samtools faidx FOLDER/{_GENOME}"
)
_HUB = "https://huggingface.co/datasets"
_SHARED = "the shared data of this project, whose SOURCES.md names repository, commit and checksum"
_TRUE, _FALSE = ("1", "1.0", "True", "true"), ("0", "0.0", "False", "false")
BRCA1 = VariantSet(
    name="brca1",
    file="variants/brca1_sge.tsv.gz",
    genome="variants/human_NC_000017.11_42425000-43600000.fa.gz",
    source=_SHARED,
    note=(
        "BRCA1 saturation genome editing (Findlay et al. 2018, hg38): single-base changes in 13 exons, by survival of "
        "cells that need the gene. 2,989 of the 3,893 published variants, so not the rows of the published figures."
    ),
    classes=(
        Classes(
            "",
            ("func.class",),
            ("LOF",),
            ("FUNC", "INT"),
            "loss of function (positive) against functional and intermediate",
        ),
        Classes(
            "without_int",
            ("func.class",),
            ("LOF",),
            ("FUNC",),
            "loss of function (positive) against functional, without intermediate",
        ),
    ),
    values=(Values("", "function.score.mean", -1, "loss of function (minus the function score)"),),
    columns=("chromosome", "pos_hg38", "reference", "alt"),
    groups=("consequence", "experiment"),
    consequence="consequence",
    folds="experiment",
    regions=True,
    scores={"CADD": Score("CADD.score"), "phyloP": Score("phyloP (mammalian)")},
    reported=(Reported("brca1", "all", "auroc", "auroc"),),
)
BRCA1_CLINVAR = dataclasses.replace(
    BRCA1,
    name="brca1_clinvar",
    note=(
        "The ClinVar classes of the BRCA1 table, by GENERator's ClinVar protocol (next k-mer). One gene and a few "
        "hundred rows: the published ClinVar figures are of tens of thousands in all genes and do not compare."
    ),
    classes=(
        Classes(
            "",
            ("clinvar_simple",),
            ("Pathogenic", "Likely pathogenic"),
            ("Benign", "Likely benign"),
            "(likely) pathogenic (positive) against (likely) benign",
        ),
    ),
    values=(),
    protocol="next_kmer",
    reported=(
        Reported("clinvar", "clinvar_overall", "auroc", "auroc"),
        Reported("clinvar", "clinvar_overall", "auprc", "auprc_trapezoid"),
    ),
)
_BRCA2_GENOME = "variants/human_chr13_BRCA2_hg38_32310480-32401672.fa.gz"
BRCA2_SGE = VariantSet(
    name="brca2_sge",
    file="variants/brca2_sge_mayo_nci.tsv.gz",
    genome=_BRCA2_GENOME,
    source=_SHARED,
    note=(
        "BRCA2 exons 15-26 saturation genome editing by two laboratories (Huang et al., Sahu et al. 2025, hg38). Their "
        "published classes are not public in a repository: scores derived from the read counts are used, scaled to "
        "synonymous 0 and stop gained -1, and half way is the limit of the classes. The laboratories agree at Spearman "
        "0.36 only, which the baseline other_laboratory shows: no model can be seen to be much better. Carbon's BRCA2 "
        "figures are of 6,836 SNVs with the published classes and do not compare."
    ),
    classes=(
        Classes("", ("mayo_score_derived",), -0.5, (), "Mayo score at most -0.5 (positive) against above"),
        Classes("nci", ("nci_score_derived",), -0.5, (), "NCI score at most -0.5 (positive) against above"),
        Classes(
            "both",
            ("mayo_score_derived", "nci_score_derived"),
            -0.5,
            (),
            "both scores at most -0.5 (positive) against both above",
        ),
        Classes("clinvar", ("clinvar_pb_mayo",), ("P",), ("B",), "ClinVar pathogenic (positive) against benign"),
    ),
    values=(
        Values("mayo", "mayo_score_derived", -1, "loss of function by the Mayo screen"),
        Values("nci", "nci_score_derived", -1, "loss of function by the NCI screen"),
    ),
    groups=("consequence", "exon"),
    consequence="consequence",
    folds="exon",
    regions=True,
    scores={
        "other_laboratory": Score("nci_score_derived", -1, ("", "mayo")),
        "other_laboratory_mayo": Score("mayo_score_derived", -1, ("nci",)),
    },
    reported=(Reported("carbon_suite", "brca2_auroc", "percent", "auroc"),),
)
BRCA2_CLINVAR = VariantSet(
    name="brca2_clinvar",
    file="variants/brca2_clinvar_hg38.tsv.gz",
    genome=_BRCA2_GENOME,
    source=_SHARED,
    note=(
        "Single-base changes of BRCA2 with ClinVar labels (hg38). Most pathogenic ones stop the protein or change a "
        "splice site. The consequences are gnomAD's and are empty for variants that gnomAD has not seen, which alone "
        "predicts much. No published figure is of these rows."
    ),
    classes=(Classes("", ("label_PB",), ("P",), ("B",), "(likely) pathogenic (positive) against (likely) benign"),),
    keep={"kind": ("SNV",)},
    groups=("consequence_gnomad", "review_status"),
    consequence="consequence_gnomad",
    folds="block",
    block=500,  # divides exons; windows of the probe on both sides of a border share about half of their bases at most
)
BARD1 = VariantSet(
    name="bard1",
    file="variants/bard1_sge.tsv.gz",
    genome="variants/bard1_sge_windows_hg38.fa.gz",
    source=_SHARED,
    note=(
        "BARD1 saturation genome editing (hg38): single-base changes in 11 exons. The reference is only the edited "
        "stretches of 56 to 548 bases without what surrounds them, and a variant's window is its whole stretch: much "
        "less context than a model uses elsewhere, so compare with no figure of a full genome."
    ),
    classes=(
        Classes(
            "",
            ("functional_consequence",),
            ("functionally_abnormal",),
            ("functionally_normal", "indeterminate"),
            "functionally abnormal (positive) against normal and indeterminate",
        ),
        Classes(
            "without_indeterminate",
            ("functional_consequence",),
            ("functionally_abnormal",),
            ("functionally_normal",),
            "functionally abnormal (positive) against normal",
        ),
        Classes("clinvar", ("label_PB",), ("P",), ("B",), "ClinVar pathogenic (positive) against benign"),
    ),
    values=(Values("", "score", -1, "loss of function (minus the function score)"),),
    keep={"var_type": ("snv",)},
    groups=("consequence", "exon"),
    consequence="consequence",
    folds="exon",
    regions=True,
    scores={
        "CADD": Score("cadd_score"),
        "phyloP": Score("phyloP"),
        "SpliceAI": Score("max_SpliceAI"),
        "AlphaMissense": Score("am_score"),
        "REVEL": Score("revel_score"),
    },
    context=1200,  # twice the longest stretch: a window is always a whole stretch
)
MPRA = VariantSet(
    name="mpra",
    file="variants/satmut_mpra_kircher2019.tsv.gz",
    genome="variants/satmut_mpra_elements_hg38.fa.gz",
    source=_SHARED,
    note=(
        "Saturation mutagenesis of 21 promoters and enhancers in 29 reporter assays (Kircher et al. 2019, hg38): "
        "single-base changes with at least 10 barcodes. The reference is the elements alone, 187 to 601 bases, and a "
        "window is a whole element. A score against an effect of either sign (absolute) is the usual question to a "
        "language model; loss of activity is the other. Replicates correlate at 0.67 to 0.94. The CAGI5 split is in "
        "the breakdown; the challenge's figures are of trained models and do not compare."
    ),
    classes=(Classes("", ("p_value",), 1e-5, (), "an effect with p at most 1e-5 (positive) against any other"),),
    values=(
        Values("absolute", "log2_effect", 0, "the size of the log2 effect"),
        Values("loss", "log2_effect", -1, "loss of activity (minus the log2 effect)"),
    ),
    keep={"barcodes": 10.0, "alt": ("A", "C", "G", "T")},
    groups=("element", "cagi5_set"),
    macro={"element": ("element", "equal")},
    metric="spearman_absolute_by_element",
    folds="element",
    regions=True,
    context=1200,
)
MPRA_DELETIONS = dataclasses.replace(
    MPRA,
    name="mpra_deletions",
    note=MPRA.note.replace("single-base changes", "deletions of one base"),
    keep={"barcodes": 10.0, "alt": ("-",)},
    groups=("element",),
)
TRAITGYM_MENDELIAN = VariantSet(
    name="traitgym_mendelian",
    file="variants/traitgym_mendelian_traits_matched_9.parquet",
    genome=_GENOME,
    source=(
        f"curl -L {_HUB}/songlab/TraitGym/resolve/main/mendelian_traits_matched_9/test.parquet "
        "-o FOLDER/variants/traitgym_mendelian_traits_matched_9.parquet "
        f"(columns chrom, pos, ref, alt, label, consequence, match_group; 3,380 rows); {_HUMAN}"
    ),
    note=(
        "TraitGym: causal variants of Mendelian traits outside of coding sequence (positive), each with nine matched "
        "controls. The main metric is the average precision by chromosome, weighted by rows, from the mean of both "
        "strands."
    ),
    classes=(Classes("", ("label",), _TRUE, _FALSE, "causal (positive) against nine matched controls each"),),
    columns=("chrom", "pos", "ref", "alt"),
    groups=("consequence", "chrom"),
    macro={"chromosome": ("chrom", "size"), "consequence": ("consequence", "equal")},
    metric="auprc_by_chromosome",
    consequence="consequence",
    folds="chrom",
    match="match_group",
    strand="both",
    reported=(Reported("carbon_suite", "traitgym_mendelian_auprc_token", "percent", "auprc_by_chromosome"),),
    reported_base=(Reported("carbon_suite", "traitgym_mendelian_auprc_base", "percent", "auprc_by_chromosome"),),
    same_rows=True,
)
TRAITGYM_COMPLEX = dataclasses.replace(
    TRAITGYM_MENDELIAN,
    name="traitgym_complex",
    file="variants/traitgym_complex_traits_matched_9.parquet",
    source=TRAITGYM_MENDELIAN.source.replace("mendelian_traits", "complex_traits").replace("3,380", "11,400"),
    note=TRAITGYM_MENDELIAN.note.replace(
        "causal variants of Mendelian traits", "fine-mapped variants of complex traits"
    ),
    reported=(),
    reported_base=(),
)
CLINVAR = VariantSet(
    name="clinvar",
    file="variants/ClinVar_VEP_results.parquet",
    genome=_GENOME,
    source=(
        f"curl -L {_HUB}/GenerTeam/variant-effect-prediction/resolve/main/ClinVar_VEP_results.parquet "
        "-o FOLDER/variants/ClinVar_VEP_results.parquet "
        f"(columns chrom, pos, ref, alt, label); {_HUMAN}"
    ),
    note=(
        "ClinVar in all genes by GENERator's protocol (next k-mer, 8192 bases before the variant). The published "
        "figures are older than this context, which was 6144 bases until June 2026."
    ),
    classes=(Classes("", ("label",), _TRUE, _FALSE, "pathogenic (positive) against benign"),),
    columns=("chrom", "pos", "ref", "alt"),
    groups=("chrom",),
    macro={"chromosome": ("chrom", "size")},
    folds="chrom",
    protocol="next_kmer",
    reported=BRCA1_CLINVAR.reported,
    same_rows=True,
)
CLINVAR_EXAMPLE = dataclasses.replace(
    CLINVAR,
    name="clinvar_example",
    file="variants/clinvar_example_750_b38.tsv.gz",
    source=f"the table from {_SHARED}; {_HUMAN}",
    note=(
        "The first 749 ClinVar alleles of chromosome 1 (2017), by GENERator's ClinVar protocol: an example of the file "
        "format, not a benchmark."
    ),
    classes=(
        Classes(
            "",
            ("clinical_significance",),
            ("Pathogenic", "Likely pathogenic", "Pathogenic/Likely pathogenic"),
            ("Benign", "Likely benign", "Benign/Likely benign"),
            "(likely) pathogenic (positive) against (likely) benign",
        ),
    ),
    groups=("gold_stars",),
    macro={},
    folds="symbol",
    same_rows=False,
)
BRCA2_INDELS = dataclasses.replace(
    BRCA2_CLINVAR,
    name="brca2_indels",
    keep={"kind": ("insertion", "deletion")},
    note=(
        "Insertions and deletions of BRCA2 with ClinVar labels (hg38). Nearly all that shift the reading frame are "
        "pathogenic, and nearly all benign ones are in introns, so whatever tells exons from introns does well; of "
        "those whose length is divisible by three, 31 are pathogenic and 25 benign, which is too few for an interval."
    ),
)
BARD1_DELETIONS = dataclasses.replace(
    BARD1,
    name="bard1_deletions",
    keep={"var_type": ("3bp_del",)},
    values=(),
    scores={},
    classes=BARD1.classes[:2],
    note=BARD1.note.replace("single-base changes", "deletions of three bases, which keep the frame,"),
)
SETS: tuple[VariantSet, ...] = (
    BRCA1,
    BRCA1_CLINVAR,
    BRCA2_SGE,
    BRCA2_CLINVAR,
    BARD1,
    MPRA,
    MPRA_DELETIONS,
    BRCA2_INDELS,
    BARD1_DELETIONS,
    TRAITGYM_MENDELIAN,
    TRAITGYM_COMPLEX,
    CLINVAR,
    CLINVAR_EXAMPLE,
)
