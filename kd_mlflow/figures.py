"""Figures: data in, a matplotlib Figure out; never shows, never saves."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#666666"
"""Of the palette of Okabe & Ito (2008), which colour-blind readers tell apart."""


def heat_map(
    losses: NDArray[np.float64],
    *,
    temperatures: Sequence[float],
    alphas: Sequence[float],
    chosen: tuple[float, float],
    seeds: int,
    rows: int,
) -> Figure:
    """Validation log loss of a grid; a frame marks the chosen cell.

    Shape: (temperatures, alphas), nats.
    """
    figure = Figure(figsize=(1.6 + 1.1 * len(alphas), 1.8 + 0.7 * len(temperatures)))
    figure.set_layout_engine("constrained")
    axes = figure.subplots()
    image = axes.imshow(losses, cmap="cividis_r", aspect="auto")
    middle = (losses.min() + losses.max()) / 2
    for (i, j), value in np.ndenumerate(losses):
        colour = "white" if value > middle else "black"
        axes.text(j, i, f"{value:.3f}", ha="center", va="center", color=colour)
    i, j = temperatures.index(chosen[0]), alphas.index(chosen[1])
    axes.add_patch(Rectangle((j - 0.5, i - 0.5), 1, 1, fill=False, edgecolor=ORANGE, linewidth=3))
    axes.set_xticks(range(len(alphas)), [f"{alpha:g}" for alpha in alphas])
    axes.set_yticks(range(len(temperatures)), [f"{t:g}" for t in temperatures])
    axes.set_xlabel("alpha, weight of the soft loss")
    axes.set_ylabel("temperature T")
    axes.set_title(
        f"Calibrated validation log loss, nats, less is better\n{rows:,} rows, seeds: {seeds}",
        fontsize=11,
    )
    figure.colorbar(image)
    return figure


def size_curve(
    parameters: Sequence[int],
    accuracies: Sequence[float],
    errors: Sequence[float],
    *,
    ensemble: float,
    smallest: int | None,
    seeds: int,
    rows: int,
) -> Figure:
    """Test accuracy (a share) against the parameters of one student, with standard errors."""
    figure = Figure(figsize=(7, 4.5))
    figure.set_layout_engine("constrained")
    axes = figure.subplots()
    order = np.argsort(parameters)
    x, y, e = (
        np.asarray(values, dtype=float)[order] for values in (parameters, accuracies, errors)
    )
    axes.axhline(100 * ensemble, color=GREY, linestyle="--", label="ensemble")
    axes.errorbar(x, 100 * y, yerr=100 * e, color=BLUE, marker="o", capsize=3, label="students")
    if smallest is not None:
        place = list(x).index(smallest)
        axes.plot(
            x[place],
            100 * y[place],
            "o",
            markersize=14,
            fillstyle="none",
            color=ORANGE,
            label="smallest within tolerance (on validation rows)",
        )
    axes.set_xscale("log")
    axes.set_xticks(x, [f"{value:,.0f}" for value in x])
    axes.minorticks_off()
    axes.set_xlabel("parameters of one student")
    axes.set_ylabel("test accuracy, %")
    axes.set_title(f"{rows:,} test rows, mean ± standard error, seeds: {seeds}", fontsize=11)
    axes.legend()
    return figure
