"""The schemes that select regions: the kinds of region they produce, and the features and qualifiers they need."""

import dataclasses
import re

from data_pipeline.errors import ArgumentError
from data_pipeline.ranges import Whole
from data_pipeline.sequence import translation

KINDS = ("cds", "tRNA", "rRNA", "ncRNA", "miscRNA", "pseudo", "other", "mRNA", "regulatory", "whole")
PRODUCTS = {"CDS": "cds", "tRNA": "tRNA", "rRNA": "rRNA", "ncRNA": "ncRNA", "tmRNA": "ncRNA", "misc_RNA": "miscRNA"}
# The feature key `regulatory`, and the keys that it replaced in 2014.
REGULATORY = frozenset(
    """regulatory promoter enhancer terminator attenuator RBS TATA_signal CAAT_signal GC_signal -10_signal -35_signal
    polyA_signal misc_signal""".split()  # noqa: SIM905
)
WHOLE_LENGTH = 98_304  # bases: the published context of 16 384 6-mers
# The kinds of region that each scheme can produce.
SCHEMES = {"gene": (*KINDS[:7], "regulatory"), "whole": ("whole",), "mrna": ("mRNA",), "cds": ("cds", "pseudo")}


def kind(text: str) -> str:
    """The kind of KINDS that a text names in any case; text that names none is returned as it is."""
    return next((name for name in KINDS if name.lower() == text.lower()), text)


@dataclasses.dataclass(frozen=True)
class Scheme:
    """Which intervals of a record become regions, and how they are cut. Lengths are in bases.

    `gene`: the rules in `extraction`. `whole`: the whole record, in windows. `mrna`, `cds`: those features, spliced.
    """

    name: str = "gene"
    flank: int = 0  # bases added at both outer ends, as far as the record has them
    min_length: int = 1  # shorter regions are dropped
    max_length: int | None = None  # longer regions are cut; None: never, except `whole` at WHOLE_LENGTH
    cut_n: int | None = None  # runs of at least this many N are cut out; None keeps them
    regulatory: bool = False  # regulatory features are regions too
    kinds: tuple[str, ...] = ()  # keep only these of KINDS; empty: all
    gene: str | None = None  # keep only regions where this regular expression matches /gene or /locus_tag
    product: str | None = None  # keep only regions where this one matches /product

    def __post_init__(self):
        if self.name not in SCHEMES:
            raise ArgumentError(f"must be one of {' '.join(SCHEMES)}", field="scheme", value=self.name)
        for name, least in (("flank", 0), ("min_length", 1), ("max_length", 1), ("cut_n", 1)):
            value = getattr(self, name)
            if value is not None or name in ("flank", "min_length"):
                object.__setattr__(self, name, Whole(least).check(value, name))
        if self.max_length is not None:
            Whole(self.min_length).check(self.max_length, "max_length")
        if self.regulatory and self.name != "gene":
            raise ArgumentError(f"is only for the scheme gene, not {self.name}", field="regulatory", remedy="remove it")
        if self.name == "whole" and (self.flank or self.kinds or self.gene or self.product):
            given = next(name for name in ("flank", "kinds", "gene", "product") if getattr(self, name))
            raise ArgumentError("is not for the scheme whole", field=given, remedy="remove it")
        possible = [kind for kind in SCHEMES[self.name] if kind != "regulatory" or self.regulatory]
        for kind in self.kinds:
            if kind not in possible:
                raise ArgumentError(
                    f"must be one that the scheme {self.name} produces: {' '.join(possible)}", field="kind", value=kind
                )
        for name in ("gene", "product"):
            try:
                re.compile(getattr(self, name) or "")
            except re.error as error:
                raise ArgumentError(
                    f"is not a regular expression: {error}", field=name, value=getattr(self, name)
                ) from None


GENE = Scheme()


def feature_kinds(scheme: Scheme) -> frozenset[str]:
    """The GenBank feature kinds that a scheme needs."""
    return {
        "gene": frozenset(("gene", *PRODUCTS)) | (REGULATORY if scheme.regulatory else frozenset()),
        "whole": frozenset(),
        "mrna": frozenset(("mRNA",)),
        "cds": frozenset(("CDS",)),
    }[scheme.name]


def qualifiers(scheme: Scheme) -> frozenset[str]:
    """The qualifiers of those features that a scheme needs."""
    wanted = {"gene", "locus_tag", "product", "pseudo", "pseudogene", "trans_splicing", "regulatory_class"}
    if scheme.name == "cds":
        wanted |= {"codon_start", "transl_table", "translation", *translation.EXCEPTIONS}
    return frozenset(wanted)
