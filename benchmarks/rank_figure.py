"""The critical-difference picture of benchmarks/tables.py: mean ranks in, a figure out."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from standings import cliques, critical_difference

from kd_mlflow.figures.style import GREY, INK, LOOKS, canvas, headline


def critical_difference_figure(ranks: Mapping[str, float], tables: int) -> Figure:
    """Mean ranks in log loss on a line; a bar joins models that may differ by chance alone.

    Demsar (2006), figure 1.
    """
    names = sorted(ranks, key=lambda name: ranks[name])
    values, k = [ranks[name] for name in names], len(names)
    least = critical_difference(k, tables)
    half, bars = (k + 1) // 2, cliques(values, least)
    figure, axes = canvas(1.5 + 0.24 * half + 0.14 * len(bars))
    each: Axes = axes[0, 0]
    each.axis("off")
    each.set(xlim=(-0.1 * k, 1.1 * k + 1), ylim=(-0.34 * len(bars) - 0.6 * half - 0.5, 1.5))
    each.plot([1, k], [0, 0], color=INK, linewidth=1)
    for rank in range(1, k + 1):
        each.plot([rank, rank], [0, 0.15], color=INK, linewidth=1)
        each.text(rank, 0.25, str(rank), ha="center", fontsize=9, color=INK)
    end = 1 + min(least, k - 1)
    each.plot([1, end], [1.0, 1.0], "|-", color=GREY, linewidth=1.5)
    each.text(end + 0.1, 1.0, f"critical difference {least:.2f}", va="center", fontsize=9)
    for place, (first, last) in enumerate(bars, 1):
        ends = [values[first] - 0.04, values[last] + 0.04]
        each.plot(ends, [-0.34 * place] * 2, color=GREY, linewidth=4, solid_capstyle="butt")
    for place, (name, rank) in enumerate(zip(names, values, strict=True)):
        left = place < half
        level = -0.34 * len(bars) - 0.6 * (place + 1 if left else k - place)
        _named_rank(each, name, rank, level, end=0.8 if left else k + 0.2)
    headline(figure, f"Mean rank in log loss over {tables} tables, 1 is best")
    return figure


def _named_rank(axes: Axes, name: str, rank: float, level: float, *, end: float) -> None:
    """Draw a line from a rank down to its level and out to its name."""
    kind = name.partition(",")[0].replace("student", "distilled")
    colour = LOOKS[kind].colour if kind in LOOKS else INK
    axes.plot([rank, rank, end], [0, level, level], color=colour, linewidth=1)
    side = "right" if end < rank else "left"
    text = f" {name}  {rank:.2f} "
    axes.text(end, level, text, ha=side, va="center", fontsize=9, color=colour)
