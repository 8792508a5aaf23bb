"""One look for all figures: fixed colours that colour-blind readers tell apart, a bare canvas.

Nothing is set globally: any thread may draw.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from io import BytesIO
from math import isfinite
from typing import Any, NamedTuple, cast

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from matplotlib.layout_engine import ConstrainedLayoutEngine

INK, GREY, PALE = "#1A1A1A", "#6E6E6E", "#D9D9D9"
MARK = "#D55E00"
"""What is chosen or missed; no model has this colour."""

WIDTH_IN = 7.6
DPI = 144
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


def label(axes: Axes, *, x: str = "", y: str = "", title: str = "") -> None:
    """Write what an axes shows, units included."""
    axes.set_xlabel(x, fontsize=9.5, color=INK)
    axes.set_ylabel(y, fontsize=9.5, color=INK)
    axes.set_title(title, fontsize=10, color=INK, loc="left")


def headline(figure: Figure, text: str) -> None:
    """Write what the whole figure shows and on how many rows."""
    figure.suptitle(text, fontsize=11, color=INK, x=0.01, ha="left", parse_math=False)


def legend_below(figure: Figure, axes: Axes, columns: int = 4) -> None:
    """Put one legend for all axes below them, where it covers nothing."""
    handles, names = axes.get_legend_handles_labels()
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


def png(figure: Figure) -> bytes:
    """Draw a figure, once: ``savefig`` would draw twice; equal figures give equal bytes."""
    buffer, agg = BytesIO(), cast(Any, FigureCanvasAgg(figure))
    agg.print_png(buffer, metadata={"Software": None}, pil_kwargs={"compress_level": 4})
    return buffer.getvalue()


def class_names(classes: tuple[Any, ...]) -> list[str]:
    """Names that fit an axis: on one line, shortened, numbered where the font cannot write them."""
    return short_names([str(label) for label in classes], "class")


def short_names(names: Sequence[str], word: str, length: int = NAME_LENGTH) -> list[str]:
    """The same of anything that ``word`` is a word for, such as column."""
    return [_short_name(name, f"{word} {i}", length) for i, name in enumerate(names)]


def _short_name(name: str, otherwise: str, length: int) -> str:
    line = " ".join(name.split())
    if not line or any(ord(character) not in _glyphs() for character in line):
        return otherwise
    return line if len(line) <= length else line[: length - 1] + "…"


@cache
def _glyphs() -> frozenset[int]:
    """Code points of the font that matplotlib brings along."""
    return frozenset(get_font(findfont("DejaVu Sans")).get_charmap())
