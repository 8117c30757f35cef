"""Pictures of a region of a genome: substitutions as a heat map, bases as a sequence logo, a dependency map."""

import contextlib
from collections.abc import Iterator

import numpy as np

from gener_jax.plotting.figure import GREY, new_figure

LONGEST = 2000  # bases of a picture
LETTERS = "ACGT"
# Of Okabe and Ito's colours, those near the usual ones of the bases: green, blue, orange, vermilion.
_COLOURS = dict(zip(LETTERS, ("#009E73", "#0072B2", "#E69F00", "#D55E00"), strict=True))
_PER_ROW = 100  # bases side by side
_WIDTH = 12.0  # inches of a full row


def heat_map(llr: np.ndarray, reference: str, contig: str, start: int, unit: str):
    """A figure of the log-likelihood ratios of all substitutions, a row of cells per alternate base.

    Args:
      llr: float [bases, 4] for A, C, G and T, reference minus alternate, in `unit`; NaN is left grey.
      reference: the bases; each is a dot in its cell, and a letter below the row.
      contig, start: where the first base is, 0-based; positions are shown 1-based.
    """
    import matplotlib

    limit = float(np.nanmax(np.abs(llr), initial=0)) or 1.0
    colours = matplotlib.colormaps["PuOr_r"].with_extremes(bad="#c8c8c8")
    with _rows(len(reference), 1.6) as (figure, axes):
        for axis, first, last in axes:
            image = axis.imshow(
                llr[first:last].T, cmap=colours, vmin=-limit, vmax=limit, aspect="auto", interpolation="none",
                extent=(first - 0.5, last - 0.5, 3.5, -0.5),
            )  # fmt: skip
            at = [(i, LETTERS.index(x)) for i, x in enumerate(reference[first:last], first) if x in LETTERS]
            axis.plot(*zip(*at, strict=True) if at else ([], []), "o", color="black", markersize=2.5)
            axis.set_yticks(range(4), list(LETTERS))
            axis.set_ylabel("alternate")
            axis.grid(False)
            _positions(axis, start, first, last)
            for i in range(first, last):
                _letter(axis, i, reference[i])
        _label(axes, f"Substitutions in {contig}", f"reference (dot), position on {contig}")
        figure.colorbar(
            image, ax=[axis for axis, *_ in axes], pad=0.01, aspect=12,
            label=f"llr ({unit})\norange: reference preferred\nviolet: alternate preferred",
        )  # fmt: skip
    return figure


def logo(probabilities: np.ndarray, reference: str, contig: str, start: int):
    """A figure of the probabilities of bases: a letter's height is its probability times the column's information.

    The information of a column is 2 bits minus its entropy. The reference is written below; in bold where it is the
    most likely base.

    Args:
      probabilities: float [bases, 4] of A, C, G and T; NaN leaves a gap.
      reference: the bases.
      contig, start: where the first base is, 0-based; positions are shown 1-based.
    """
    import logomaker
    import pandas

    p = np.nan_to_num(probabilities.astype(np.float64))
    known = p.sum(1, keepdims=True) > 0
    bits = known * (2 + np.sum(p * np.log2(np.maximum(p, 1e-30)), axis=1, keepdims=True))
    top = min(max(1.1 * float(bits.max(initial=0)), 0.02), 2)
    heights = pandas.DataFrame(p * bits, columns=list(LETTERS))
    with _rows(len(reference), 1.7) as (figure, axes):
        for axis, first, last in axes:
            logomaker.Logo(heights[first:last], ax=axis, color_scheme=_COLOURS, show_spines=None)
            axis.set_ylim(0, top)
            axis.grid(False)
            axis.set_ylabel("bits")
            _positions(axis, start, first, last)
            for i in range(first, last):
                _letter(axis, i, reference[i], bold=reference[i] == LETTERS[int(p[i].argmax())])
        _label(axes, f"Bases in {contig}", f"reference (bold: most likely), position on {contig}")
    return figure


def dependencies(values: np.ndarray, reference: str, contig: str = "the sequence", start: int = 0):
    """A figure of a dependency map, as `LM.dependency_map` gives it: rows are replaced bases, columns predicted ones.

    Args:
      values: float [bases, bases], in bits; NaN is left grey.
      reference: the bases, written along both sides if they are at most 100.
      contig, start: where the first base is, 0-based; positions are shown 1-based.
    """
    import matplotlib

    number = len(reference)
    width = min(max(3.0 + 0.09 * number, 4.5), _WIDTH)
    colours = matplotlib.colormaps["viridis"].with_extremes(bad="#c8c8c8")
    with new_figure(width, width - 0.8) as figure:
        axis = figure.subplots()
        # A few pairs far above all others are in the brightest colour, else the rest would be dark.
        known = values[np.isfinite(values) & (values > 0)]
        highest = float(np.quantile(known, 0.995)) if known.size else 1.0
        image = axis.imshow(values, cmap=colours, vmin=0, vmax=highest, interpolation="none")
        axis.grid(False)
        _positions(axis, start, 0, number)
        axis.set_yticks(axis.get_xticks(), [label.get_text() for label in axis.get_xticklabels()])
        axis.tick_params(length=0, pad=12)
        if number <= _PER_ROW:
            axis.xaxis.remove_overlapping_locs = axis.yaxis.remove_overlapping_locs = False
            axis.set_xticks(range(number), list(reference), minor=True)
            axis.set_yticks(range(number), list(reference), minor=True)
            axis.tick_params(which="minor", length=0, pad=2, labelsize=6, labelcolor=GREY)
        axis.set_title("Nucleotide dependencies")
        axis.set_xlabel(f"predicted base, position on {contig}")
        axis.set_ylabel("replaced base")
        figure.colorbar(image, ax=axis, extend="max", label="largest change of log2 odds (bits)")
    return figure


@contextlib.contextmanager
def _rows(number: int, height: float) -> Iterator[tuple]:
    """Yields a figure and its axes, each with the first and last base that it shows, `height` inches each."""
    rows = -(-number // _PER_ROW)
    per_row = -(-number // rows)
    width = 1.5 + max(_WIDTH * per_row / _PER_ROW, 3.5)
    with new_figure(width, 0.9 + height * rows) as figure:
        axes = figure.subplots(rows, squeeze=False)[:, 0]
        for i, axis in enumerate(axes):
            axis.set_xlim(i * per_row - 0.5, (i + 1) * per_row - 0.5)
        yield figure, [(axis, i * per_row, min((i + 1) * per_row, number)) for i, axis in enumerate(axes)]


def _label(axes: list, title: str, below: str) -> None:
    axes[0][0].set_title(title)
    axes[-1][0].set_xlabel(below)


def _positions(axis, start: int, first: int, last: int) -> None:
    """Labels every tenth position, 1-based, below the letters."""
    step = 10 if last - first > 20 else 5
    at = [i for i in range(first, last) if (start + i + 1) % step == 0]
    axis.set_xticks(at, [f"{start + i + 1:,}" for i in at])
    axis.tick_params(axis="x", length=0, pad=12)


def _letter(axis, i: int, letter: str, bold: bool = False) -> None:
    """Writes a base of the reference below its column."""
    axis.text(
        i, -0.03, letter, transform=axis.get_xaxis_transform(), ha="center", va="top", fontsize=7,
        weight="bold" if bold else "normal", color="black" if bold else GREY,
    )  # fmt: skip
