"""One look for all figures: fixed colours that colour-blind readers tell apart, a bare canvas.

Nothing is set globally: any thread may draw.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from io import BytesIO
from math import isfinite
from textwrap import fill
from typing import Any, NamedTuple, cast

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from matplotlib.gridspec import GridSpec
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FixedLocator
from PIL import Image

INK, GREY, PALE = "#1A1A1A", "#6E6E6E", "#D9D9D9"
MARK = "#D55E00"
"""What is chosen or missed; no model has this colour."""

WIDTH_IN, NARROW_IN = 7.6, 4.2
"""As wide as a page's text, and so that text of nine points can be read on 360 pixels."""

DPI = 144
COLOURS = 256
"""Most colours of a picture, so many that none is seen to be another than the figure's."""

NAME_LENGTH = 16


class Look(NamedTuple):
    """How one kind of model is drawn in every figure."""

    name: str
    colour: str
    marker: str


LOOKS = {
    "ensemble": Look("ensemble", INK, "D"),
    "teacher": Look("teachers", "#8C8C8C", "x"),
    "distilled": Look("distilled students", "#0072B2", "o"),
    "baseline": Look("baseline students", "#E69F00", "s"),
    "strong_baseline": Look("strong baseline students", "#009E73", "^"),
    "boosting": Look("boosted trees alone", "#CC79A7", "v"),
}
"""Colours of Okabe & Ito (2008); no two kinds differ by colour alone."""


def canvas(height_in: float, *, rows: int = 1, columns: int = 1, **grid: Any) -> tuple[Figure, Any]:
    """An empty figure as wide as a page's text and its axes.  Shape of the axes: (rows, columns).

    ``grid`` goes to matplotlib's ``subplots``.
    """
    layout = ConstrainedLayoutEngine(h_pad=0.07, w_pad=0.07)
    figure = Figure(figsize=(WIDTH_IN, height_in), layout=layout, dpi=DPI)
    axes = figure.subplots(rows, columns, squeeze=False, **grid)
    for each in axes.flat:
        each.spines[["top", "right"]].set_visible(False)
        each.spines[["bottom", "left"]].set_color(GREY)
        each.tick_params(labelsize=9, color=GREY, labelcolor=INK)
        each.grid(visible=True, color=PALE, linewidth=0.6)
        each.set_axisbelow(True)
    return figure, axes


def single(height_in: float) -> tuple[Figure, Axes]:
    """The same with one axes."""
    figure, axes = canvas(height_in)
    return figure, axes[0, 0]


def label(axes: Axes, *, x: str = "", y: str = "", title: str = "") -> None:
    """Write what an axes shows, units included."""
    axes.set_xlabel(x, fontsize=9.5, color=INK)
    axes.set_ylabel(y, fontsize=9.5, color=INK)
    axes.set_title(title, fontsize=10, color=INK, loc="left")


def beside(axes: Axes, place: float, text: str) -> None:
    """Write a row's numbers right of the axes, where they cover nothing."""
    axes.annotate(text, (1.01, place), xycoords=axes.get_yaxis_transform(), va="center", fontsize=9)


def headline(figure: Figure, text: str, legend: Axes | None = None, columns: int = 4) -> None:
    """Write what the whole figure shows and on how many rows.

    The ``legend`` of one axes is put below all of them, where it covers nothing.
    """
    figure.suptitle(text, fontsize=11, color=INK, x=0.01, ha="left", parse_math=False)
    if legend:
        _legend(figure, *legend.get_legend_handles_labels(), columns)


def _legend(figure: Figure, handles: Sequence[Any], names: Sequence[str], columns: int) -> None:
    figure.legend(
        handles,
        names,
        loc="outside lower center",
        ncols=min(columns, len(names)),
        fontsize=9,
        frameon=False,
    )


def ensemble_level(axes: Axes, value: float) -> None:
    """Draw the ensemble's level as a line; none where it is no number."""
    look = LOOKS["ensemble"]
    if isfinite(value):
        axes.axhline(value, color=look.colour, linestyle="--", linewidth=1.4, label=look.name)


class Picture(NamedTuple):
    """A figure as PNG files: as wide as a page's text, and for a phone."""

    wide: bytes
    narrow: bytes


def picture(figure: Figure) -> Picture:
    """Draw a figure in both widths; it is narrow afterwards."""
    wide = png(figure)
    narrow(figure)
    return Picture(wide, png(figure))


def png(figure: Figure) -> bytes:
    """Draw a figure, once: ``savefig`` would draw twice; equal figures give equal bytes.

    Few colours are enough for lines and text, in half of the bytes.
    """
    buffer, agg = BytesIO(), cast(Any, FigureCanvasAgg(figure))
    agg.draw()
    drawn = Image.fromarray(np.asarray(agg.buffer_rgba(), dtype=np.uint8)).convert("RGB")
    few = drawn.quantize(COLOURS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    few.save(buffer, "png", dpi=(DPI, DPI))
    return buffer.getvalue()


def narrow(figure: Figure) -> None:
    """Make a figure fit a phone: its axes below each other, its texts on more lines."""
    specs = {each: spec for each in figure.axes if (spec := each.get_subplotspec())}
    grid = next(iter(specs.values())).get_gridspec()
    stacked = sorted(specs, key=lambda each: (specs[each].colspan.start, specs[each].rowspan.start))
    ratios = np.tile(np.asarray(grid.get_height_ratios()), grid.ncols)
    height = figure.get_figheight() * (1 + 0.75 * (grid.ncols - 1))
    figure.set_size_inches(NARROW_IN, height)
    below = GridSpec(len(stacked), 1, figure=figure, height_ratios=ratios)
    for place, each in enumerate(stacked):
        each.set_subplotspec(below[place])
        _narrow_texts(each, stacked[place % grid.nrows])
    if title := figure.get_suptitle():
        headline(figure, _lines(title, 48))
    for legend in figure.legends:
        names = [text.get_text() for text in legend.get_texts()]
        legend.remove()
        _legend(figure, legend.legend_handles, names, 1 if len(max(names, key=len)) > 20 else 2)


def _narrow_texts(axes: Axes, first: Axes) -> None:
    """Break an axes' texts, and write those that it shared with the first one beside it."""
    axes.tick_params(labelleft=True)
    if axes.get_xscale() == "log":
        axes.tick_params(axis="x", labelrotation=30)
    label(
        axes,
        x=_lines(axes.get_xlabel(), 40),
        y=_lines(axes.get_ylabel() or first.get_ylabel(), 18),
        title=_lines(axes.get_title(loc="left"), 34),
    )
    for axis, most in ((axes.xaxis, 6), (axes.yaxis, 16)):
        if isinstance(axis.get_major_locator(), FixedLocator):
            names = [_lines(each.get_text(), most) for each in axis.get_ticklabels()]
            if any(names):  # another axes that shares the axis writes them
                axis.set_ticks(axis.get_majorticklocs(), names)
    for text in axes.texts:
        text.set_text(_lines(text.get_text(), 14))


def _lines(text: str, most: int) -> str:
    """Break each line of a text that is longer than it may be, between words."""
    return "\n".join(fill(line, most, break_long_words=False) for line in text.split("\n"))


def class_names(classes: tuple[Any, ...]) -> list[str]:
    """Names that fit an axis: on one line, shortened, numbered where the font cannot write them."""
    return short_names([str(label) for label in classes], "class")


def short_names(names: Sequence[str], word: str, length: int = NAME_LENGTH) -> list[str]:
    """The same of anything that ``word`` is a word for, such as column."""
    lines = [" ".join(name.split()) for name in names]
    short = [line if len(line) <= length else line[: length - 1] + "…" for line in lines]
    writable = [line and _glyphs().issuperset(map(ord, line)) for line in lines]
    return [short[i] if writable[i] else f"{word} {i}" for i in range(len(lines))]


@cache
def _glyphs() -> frozenset[int]:
    """Code points of the font that matplotlib brings along."""
    return frozenset(get_font(findfont("DejaVu Sans")).get_charmap())
