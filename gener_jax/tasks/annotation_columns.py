"""Conservation and other scores of a genome browser as baselines of variants: the value of a bigWig at each of them.

A table may have such columns itself (`VariantSet.scores`). For those that have not, the files of `TRACKS` are read
where they are in the folder of the data; they are public, and large: the values of GRCh38.
"""

import dataclasses
from collections.abc import Container, Sequence

import numpy as np

from gener_jax.inference.variants.normalize import trimmed
from gener_jax.inference.variants.variant import Variant
from gener_jax.storage import tracks
from gener_jax.tasks.base import NotRun, Options, installed

_UCSC = "https://hgdownload.soe.ucsc.edu"


@dataclasses.dataclass(frozen=True)
class Track:
    """A score for each base of GRCh38, larger where a change does more harm.

    Attributes:
      name: of the baseline.
      file: its bigWig below the folder of the data; with {alt}, one for each alternate base, a, c, g and t.
      source: its address.
    """

    name: str
    file: str
    source: str

    @property
    def by_base(self) -> bool:
        """Whether the score is of a substitution, not of a place."""
        return "{alt}" in self.file


TRACKS = (
    Track("phyloP", "tracks/hg38.phyloP100way.bw", f"{_UCSC}/goldenPath/hg38/phyloP100way/hg38.phyloP100way.bw"),
    Track(
        "phyloP_241", "tracks/cactus241way.phyloP.bw", f"{_UCSC}/goldenPath/hg38/cactus241way/cactus241way.phyloP.bw"
    ),
    Track("CADD", "tracks/cadd1.7_{alt}.bw", f"{_UCSC}/gbdb/hg38/cadd1.7/{{alt}}.bw"),
)


def at(track: Track, variants: Sequence[Variant], options: Options) -> np.ndarray:
    """The value of a track at each variant of GRCh38, float64 [variants]; NaN where it has none.

    That of a substitution of one base is the base's. That of other alleles is the mean of the bases that they replace
    or delete, or of the two between which they insert; a track by alternate base has none for them.

    Raises:
      NotRun: if a file is missing, or the package that reads it.
      FormatError: if one is not bigWig.
    """
    if not installed("package pyBigWig"):
        raise NotRun(f"needs pip install -e '.[tracks]', to read {track.file}")
    found, rows = np.full(len(variants), np.nan), {}
    for i, variant in enumerate(variants):
        start, ref, alt = trimmed(*variant[1:])
        if not track.by_base:
            rows.setdefault("", []).append((i, variant.contig, start - (not ref), start + max(len(ref), 1)))
        elif len(ref) == len(alt) == 1:
            rows.setdefault(alt, []).append((i, variant.contig, start, start + 1))
    for base in "ACGT" if track.by_base else [""]:
        name, source = (text.format(alt=base.lower()) for text in (track.file, track.source))
        path, wanted = options.file(name, source), rows.get(base, [])
        values = tracks.read_bigwig(path, [where for _, *where in wanted])
        for (i, *_), each in zip(wanted, values, strict=True):
            found[i] = each.mean()
    return found


def scores(
    variants: Sequence[Variant], options: Options, known: Container[str] = ()
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """What the tracks say of variants of GRCh38, by the track's name, and why others are not run, likewise.

    `known`: names that the variants' table has itself, which are left out.
    """
    found, missing = {}, {}
    for track in TRACKS:
        if track.name not in known:
            try:
                found[track.name] = at(track, variants, options)
            except NotRun as error:
                missing[track.name] = f"not run here: {error}"
    return found, missing
