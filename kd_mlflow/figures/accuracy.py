"""Figures of accuracy: ladder, sizes, a sweep. Data in, a Figure out; never saved here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import LogLocator, NullLocator

from kd_mlflow.evaluation.intervals import Interval, standard_error, wilson
from kd_mlflow.evaluation.metrics import Floats
from kd_mlflow.figures import style
from kd_mlflow.figures.style import LOOKS


def ladder(
    accuracies: Mapping[str, Sequence[float]],
    differences: Mapping[str, Interval],
    *,
    rows: int,
    worth: float = 1.0,
) -> Figure:
    """Test accuracy of each kind of model, one value per seed, and what students gain, paired.

    ``accuracies``: shares by kind, the lowest step first; ``differences``: of shares, by the name
    of what the distilled students are compared with.
    """
    heights = [len(accuracies) + 0.6, len(differences) + 0.6]
    figure, axes = style.canvas(1.9 + 0.42 * sum(heights), rows=2, height_ratios=heights)
    steps, gains = axes[:, 0]
    for place, (kind, values) in enumerate(accuracies.items()):
        _step(steps, place, kind, 100 * np.asarray(values), rows * worth)
    names = [LOOKS[kind].name for kind in accuracies]
    _named_rows(steps, names)
    seeds = max(map(len, accuracies.values()))
    style.label(
        steps,
        x="test accuracy, %; thin: 95 % interval of these rows, thick: ± standard error of seeds",
        title=f"Test accuracy on {rows:,} rows, seeds: {seeds}",
    )
    gains.axvline(0, color=style.GREY, linewidth=1)
    for place, interval in enumerate(differences.values()):
        value, low, high = (100 * v for v in (interval.value, interval.low, interval.high))
        colour = LOOKS["distilled"].colour if interval.decided else style.GREY
        gains.plot([low, high], [place, place], color=colour, linewidth=2)
        gains.plot(value, place, "o", color=colour, markersize=7)
        style.beside(gains, place, f"{value:+.2f} ({low:+.2f} to {high:+.2f})")
    _named_rows(gains, list(differences))
    style.label(
        gains,
        x="points of test accuracy, with 95 % interval; grey where it holds 0",
        title="Difference on the same rows, bootstrapped over rows and seeds",
    )
    return figure


def sizes(models: Mapping[str, tuple[float, Sequence[float]]], *, rows: int, seeds: int) -> Figure:
    """Test accuracy against parameters.

    ``models``: parameters of one model and each one's accuracy (a share), by kind.
    """
    figure, each = style.single(4.2)
    taught = [kind for kind in models if kind not in ("teacher", "ensemble")]
    for kind, (parameters, shares) in models.items():
        look, values = LOOKS[kind], 100 * np.asarray(shares)
        each.plot(
            np.full(len(values), parameters),
            values,
            look.marker,
            color=look.colour,
            markersize=9 if kind == "ensemble" else 6,
            markerfacecolor="none" if kind in taught else look.colour,
            label=f"{look.name}, {parameters:,.0f} parameters",
        )
        if kind in taught:
            each.plot(parameters, values.mean(), "_", ms=24, mew=2, color=look.colour)
    _parameter_axis(each, [float(parameters) for parameters, _ in models.values()])
    shown = 100 * np.concatenate([shares for _, shares in models.values()])
    margin = max(0.1 * float(np.ptp(shown)), 0.05)
    each.set_ylim(shown.min() - margin, shown.max() + margin)
    style.label(each, x="parameters of one model", y="test accuracy, %")
    text = f"Test accuracy on {rows:,} rows; bars: means over seeds: {seeds}"
    style.headline(figure, text, each, columns=2)
    return figure


def heat_map(
    losses: Mapping[tuple[float, float], float],
    *,
    chosen: tuple[float, float],
    seeds: int,
    rows: int,
) -> Figure:
    """Validation log loss, in nats, by temperature and alpha; a frame marks the chosen cell."""
    temperatures, alphas = (list(dict.fromkeys(axis)) for axis in zip(*losses, strict=True))
    cells = np.array([[losses[t, alpha] for alpha in alphas] for t in temperatures])
    figure, each = style.single(1.8 + 0.6 * len(temperatures))
    each.grid(visible=False)
    image = each.imshow(cells, cmap="cividis_r", aspect="auto")
    middle = (cells.min() + cells.max()) / 2
    for (i, j), value in np.ndenumerate(cells):
        colour = "white" if value > middle else "black"
        each.text(j, i, f"{value:.3f}", ha="center", va="center", color=colour)
    i, j = temperatures.index(chosen[0]), alphas.index(chosen[1])
    each.add_patch(
        Rectangle((j - 0.5, i - 0.5), 1, 1, fill=False, edgecolor=style.MARK, linewidth=3)
    )
    each.set_xticks(range(len(alphas)), [f"{alpha:g}" for alpha in alphas])
    each.set_yticks(range(len(temperatures)), [f"{t:g}" for t in temperatures])
    style.label(each, x="alpha, weight of the soft loss", y="temperature T")
    bar = figure.colorbar(image)
    bar.ax.tick_params(labelsize=9)
    bar.set_label("log loss, nats", fontsize=9.5)
    style.headline(
        figure, f"Calibrated validation log loss, less is better: {rows:,} rows, seeds: {seeds}"
    )
    return figure


def size_curve(
    sizes: Sequence[tuple[int, float, float]],
    *,
    ensemble: float,
    smallest: int | None,
    seeds: int,
    rows: int,
) -> Figure:
    """Test accuracy against the parameters of one student.

    ``sizes``: parameters, accuracy (a share) and its standard error.
    """
    figure, each = style.single(4.2)
    x, y, e = np.array(sorted(sizes, key=lambda size: size[0])).T
    look = LOOKS["distilled"]
    style.ensemble_level(each, 100 * ensemble)
    each.errorbar(
        x, 100 * y, yerr=100 * e, color=look.colour, marker="o", capsize=3, label=look.name
    )
    if smallest is not None:
        place = list(x).index(smallest)
        text = "smallest within tolerance (on validation rows)"
        each.plot(x[place], 100 * y[place], "o", ms=14, mfc="none", color=style.MARK, label=text)
    _parameter_axis(each, list(x))
    style.label(each, x="parameters of one student", y="test accuracy, %")
    text = f"Test accuracy on {rows:,} rows: mean ± standard error, seeds: {seeds}"
    style.headline(figure, text, each)
    return figure


def _step(axes: Axes, place: int, kind: str, values: Floats, rows: float) -> None:
    """One rung: seeds as small rings, their mean, standard error and the rows' interval."""
    look, mean, error = LOOKS[kind], float(values.mean()), standard_error(values)
    low, high = wilson(mean / 100, rows)
    axes.plot([100 * low, 100 * high], [place, place], color=look.colour, linewidth=1)
    if len(values) > 1:
        axes.plot([mean - error, mean + error], [place, place], color=look.colour, linewidth=5)
        equal = np.array([(values[:i] == value).sum() for i, value in enumerate(values)])
        below = 0.25 + min(0.1, 0.5 / len(values)) * equal
        axes.plot(values, place - below, look.marker, ms=4, mfc="none", color=look.colour)
    axes.plot(mean, place, look.marker, color=look.colour, markersize=8)
    style.beside(axes, place, f"{mean:.2f}" + (f" ± {error:.2f}" if len(values) > 1 else ""))


def _named_rows(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(-0.8, len(names) - 0.5)
    axes.grid(visible=False, axis="y")


def _parameter_axis(axes: Axes, parameters: Sequence[float]) -> None:
    low, high = min(parameters) / 2, max(parameters) * 2
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    subs = (1.0,) if high / low > 200 else (1.0, 2.0, 5.0)
    axes.xaxis.set_major_locator(LogLocator(subs=subs))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter("{x:,.0f}")
