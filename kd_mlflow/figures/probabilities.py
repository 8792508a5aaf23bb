"""Figures of probabilities and answers: calibration, confusion, temperature, disagreement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator
from sklearn.metrics import precision_recall_curve, roc_curve

from kd_mlflow.evaluation.intervals import wilson
from kd_mlflow.evaluation.metrics import CONFIDENCE_EDGES, ECE_BINS, Bins, Counts, Floats, confusion
from kd_mlflow.figures import style
from kd_mlflow.figures.style import LOOKS

MATRIX_CLASSES = 20
"""More classes than these have no legible matrix: their most frequent confusions are listed."""

NUMBERED_CLASSES = 12
"""Most classes whose cells hold their numbers."""

LISTED = 12
FEW_ROWS = 10
EXAMPLE_CLASSES = 5


class Calibration(NamedTuple):
    """One model's reliability diagram: its kind, what to call it, its bins, its ECE."""

    kind: str
    name: str
    bins: Bins
    ece: float


class Answers(NamedTuple):
    """What one model says of the rows.  Shape: probabilities (n, classes), predicted (n,)."""

    name: str
    probabilities: Floats
    predicted: Counts


def reliability_diagram(
    models: Sequence[Calibration], *, classes: int, rows: int, side: str = "test rows"
) -> Figure:
    """Accuracy by confidence in the bins of the ECE, 95 % intervals, rows per bin below.

    ``side`` is what the rows are called.
    """
    figure, axes = style.canvas(
        4.3, rows=2, columns=len(models), sharex=True, sharey="row", height_ratios=[3, 1]
    )
    least = min(float(model.bins.confidence.min()) for model in models)
    for place, model in enumerate(models):
        upper, lower = axes[:, place]
        look, bins = LOOKS[model.kind], model.bins
        x, y = 100 * bins.confidence, 100 * bins.shares[0]
        low, high = wilson(bins.shares[0], bins.rows * bins.worth)
        upper.plot([0, 100], [0, 100], color=style.GREY, linestyle=":", linewidth=1)
        upper.vlines(x, 100 * low, 100 * high, color=look.colour, linewidth=1)
        for few, fill in ((True, "white"), (False, look.colour)):
            held = (bins.rows < FEW_ROWS) == few
            upper.plot(x[held], y[held], look.marker, color=look.colour, markerfacecolor=fill, ms=6)
        edges = 100 * (bins.places + 0.5) / ECE_BINS
        lower.bar(edges, bins.rows, 0.9 * 100 / ECE_BINS, color=look.colour)
        lower.set_yscale("log")
        lower.set_ylim(0.7, 2.0 * rows)
        lower.yaxis.set_major_formatter("{x:,.0f}")
        lower.yaxis.set_minor_locator(NullLocator())
        upper.set_xlim(min(100 / classes, 100 * least) - 2, 102)
        style.label(upper, title=f"{model.name}\nECE {100 * model.ece:.1f} %")
        style.label(lower, x="confidence, %")
    axes[0, 0].set_ylim(-4, 104)
    axes[0, 0].set_ylabel("accuracy, %", fontsize=9.5)
    axes[1, 0].set_ylabel(side, fontsize=9.5)
    style.headline(
        figure,
        f"Confidence against accuracy on {rows:,} {side}, 95 % intervals; "
        f"hollow: below {FEW_ROWS} rows",
    )
    return figure


def roc_and_precision_recall(
    models: Mapping[str, Answers], labels: Counts, *, positive: str
) -> Figure:
    """Both curves of the second of two classes, by kind of model; a mark where each decides.

    ``positive`` is what that class is called.  Shape: labels (n,).
    """
    figure, axes = style.canvas(4.2, columns=2)
    roc, precision = axes[0]
    share = float(labels.mean())
    for kind, model in models.items():
        look = LOOKS[kind]
        line: dict[str, Any] = {"color": look.colour, "linewidth": 1.5}
        second = model.probabilities[:, 1]
        false, true, _ = roc_curve(labels, second)
        caught_precision, caught, _ = precision_recall_curve(labels, second)
        roc.plot(100 * false, 100 * true, label=model.name, **line)
        precision.plot(100 * caught[:-1], 100 * caught_precision[:-1], **line)
        mark: dict[str, Any] = {"color": look.colour, "markersize": 6}
        (other, wrong), (missed, right) = confusion(labels, model.predicted, 2)
        recall = 100 * right / (right + missed)
        roc.plot(100 * wrong / (wrong + other), recall, look.marker, **mark)
        if right + wrong:
            precision.plot(recall, 100 * right / (right + wrong), look.marker, **mark)
    roc.plot([0, 100], [0, 100], color=style.GREY, linestyle=":", linewidth=1)
    precision.axhline(100 * share, color=style.GREY, linestyle=":", linewidth=1)
    for each in (roc, precision):
        each.set_xlim(-2, 102)
        each.set_ylim(-2, 104)
    style.label(roc, x="false positives, % of other rows", y="recall, %", title="ROC")
    style.label(precision, x="recall, %", y="precision, %", title="precision and recall")
    style.headline(
        figure,
        f"The class {positive}: {100 * share:.1f} % of {len(labels):,} test rows; marks: where "
        "a model decides",
        roc,
    )
    return figure


def confusion_matrices(
    models: Mapping[str, Counts], names: Sequence[str], *, side: str = "test rows"
) -> Figure:
    """Rows by true and predicted class, a matrix per model; of many classes the confusions.

    ``side`` is what the rows are called.  Shape of each: (classes, classes).
    """
    rows = int(next(iter(models.values())).sum())
    if len(names) > MATRIX_CLASSES:
        return _listed_confusions(models, names, rows, side)
    figure, axes = style.canvas(4.6, columns=len(models), sharey=True)
    for each, (model, counts) in zip(axes.flat, models.items(), strict=True):
        wrong = int(counts.sum() - np.trace(counts))
        _matrix(each, counts, names)
        style.label(each, x="predicted class", title=f"{model}:\n{wrong:,} of {rows:,} rows wrong")
    axes[0, 0].set_ylabel("true class", fontsize=9.5)
    style.headline(figure, f"{rows:,} {side}; colour: share of the true class's rows")
    return figure


def temperature_effect(
    by_temperature: Mapping[float, Floats], names: Sequence[str], *, chosen: float
) -> Figure:
    """Soft targets at each temperature: how sure they are, and one row's in full.

    ``by_temperature``: soft targets of the same rows.  Shape of each: (n, classes).
    """
    figure, axes = style.canvas(3.8, columns=2)
    spread, example = axes[0]
    temperatures = list(by_temperature)
    tops = [100 * targets.max(axis=1) for targets in by_temperature.values()]
    look = LOOKS["ensemble"]
    for width, middle in ((1.5, (5, 95)), (7.0, (25, 75))):
        for place, top in enumerate(tops):
            colour = style.MARK if temperatures[place] == chosen else look.colour
            spread.plot([place, place], np.percentile(top, middle), color=colour, linewidth=width)
    medians = [float(np.median(top)) for top in tops]
    spread.plot(medians, "o", color="white", markeredgecolor=style.INK, markersize=6)
    spread.set_xticks(range(len(temperatures)), [f"{t:g}" for t in temperatures])
    spread.set_xlim(-0.5, len(temperatures) - 0.5)
    rows = len(tops[0])
    style.label(
        spread,
        x=f"temperature T (orange: used, T {chosen:g})",
        y="highest probability, %",
        title=f"{rows:,} training rows:\nmedian, middle 50 % and 90 %",
    )
    _one_row(example, by_temperature, names, chosen=chosen)
    style.headline(figure, "What temperature does to the ensemble's soft targets")
    return figure


def agreement_diagram(kinds: Sequence[str], bins: Bins, *, rows: int, seeds: int) -> Figure:
    """Share of rows on which each kind of student answers as the ensemble does, by confidence.

    Shape: bins.shares (kinds, bins).
    """
    figure, axes = style.canvas(4.4, rows=2, sharex=True, height_ratios=[3, 1])
    upper, lower = axes[:, 0]
    places = np.arange(len(bins.rows), dtype=float)
    for i, (kind, shares) in enumerate(zip(kinds, bins.shares, strict=True)):
        look = LOOKS[kind]
        x = places + 0.16 * (i - (len(kinds) - 1) / 2)
        low, high = wilson(shares, bins.rows * bins.worth)
        upper.vlines(x, 100 * low, 100 * high, color=look.colour, linewidth=1.2)
        upper.plot(x, 100 * shares, look.marker, color=look.colour, label=look.name)
    lower.bar(places, bins.rows, 0.7, color=LOOKS["ensemble"].colour)
    for place, count in zip(places, bins.rows, strict=True):
        lower.annotate(
            f"{count:,}", (place, count), (0, 2), textcoords="offset points", ha="center", size=8.5
        )
    lower.set_ylim(0, 1.35 * bins.rows.max())
    lower.set_xlim(-0.6, max(len(places), 3) - 0.4)
    edges = [100 * edge for edge in CONFIDENCE_EDGES]
    lower.set_xticks(places, [f"{edges[b]:g} to {edges[b + 1]:g}" for b in bins.places])
    style.label(upper, y="same class as the ensemble, %")
    style.label(lower, x="ensemble's confidence, %", y="test rows")
    text = f"Agreement on {rows:,} test rows: mean over seeds: {seeds}, the rows' 95 % interval"
    style.headline(figure, text, upper)
    return figure


def _matrix(axes: Axes, counts: Counts, names: Sequence[str]) -> None:
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    axes.grid(visible=False)
    places = range(len(names))
    size: dict[str, Any] = {"fontsize": 9 if len(names) <= NUMBERED_CLASSES else 7}
    turned = max(map(len, names)) * len(names) > 24
    axes.set_xticks(places, names, rotation=90 if turned else 0, parse_math=False, **size)
    axes.set_yticks(places, names, parse_math=False, **size)
    for (i, j), count in np.ndenumerate(counts):
        if count and (len(names) <= NUMBERED_CLASSES or i != j):
            colour = "white" if shares[i, j] > 0.5 else style.INK
            weight = "normal" if i == j else "bold"
            axes.text(
                j, i, f"{count:,}", ha="center", va="center", color=colour, weight=weight, **size
            )


def _listed_confusions(
    models: Mapping[str, Counts], names: Sequence[str], rows: int, side: str
) -> Figure:
    """The most frequent confusions of all models together, a bar per model."""
    wrong = {model: counts - np.diag(np.diag(counts)) for model, counts in models.items()}
    total = np.sum(list(wrong.values()), axis=0)
    order = np.argsort(total, axis=None, kind="stable")[::-1][:LISTED]
    pairs = [divmod(int(flat), len(names)) for flat in order if total.flat[flat]]
    figure, each = style.single(1.9 + 0.33 * max(len(pairs), 2))
    for place, (model, counts) in enumerate(wrong.items()):
        kind = "ensemble" if place == 0 else "distilled"
        y = np.arange(len(pairs)) + 0.38 * (place - (len(wrong) - 1) / 2)
        values = [int(counts[pair]) for pair in pairs]
        text = f"{model}: {int(counts.sum()):,} rows wrong"
        each.barh(y, values, 0.36, color=LOOKS[kind].colour, label=text)
    shown = [f"{names[i]} taken for {names[j]}" for i, j in pairs]
    each.set_yticks(range(len(pairs)), shown, parse_math=False)
    each.invert_yaxis()
    each.xaxis.set_major_locator(MaxNLocator(integer=True))
    style.label(each, x=side)
    text = f"Most frequent confusions of {len(names)} classes, {rows:,} {side}"
    style.headline(figure, text, each)
    return figure


def _one_row(
    axes: Axes, by_temperature: Mapping[float, Floats], names: Sequence[str], *, chosen: float
) -> None:
    """Soft targets of the row at the tenth percentile of confidence, at three temperatures."""
    temperatures = sorted({min(by_temperature), chosen, max(by_temperature)})
    sure = by_temperature[temperatures[0]]
    row = int(np.argsort(sure.max(axis=1), kind="stable")[len(sure) // 10])
    order = np.argsort(-sure[row], kind="stable")[:EXAMPLE_CLASSES]
    colours = dict.fromkeys(temperatures, style.PALE)
    colours |= {temperatures[0]: LOOKS["ensemble"].colour, chosen: style.MARK}
    for i, temperature in enumerate(temperatures):
        x = np.arange(len(order)) + 0.27 * (i - (len(temperatures) - 1) / 2)
        values = 100 * by_temperature[temperature][row][order]
        text = f"T {temperature:g}"
        axes.bar(x, values, 0.25, color=colours[temperature], edgecolor=style.GREY, label=text)
    axes.set_xticks(range(len(order)), [names[i] for i in order], parse_math=False)
    axes.tick_params(axis="x", labelrotation=30 if max(len(names[i]) for i in order) > 6 else 0)
    axes.set_ylim(0, 105)
    axes.legend(fontsize=9, frameon=False, loc="upper right")
    most = "" if len(names) <= EXAMPLE_CLASSES else f",\nits {EXAMPLE_CLASSES} likeliest classes"
    style.label(axes, y="soft target, %", title=f"One of the less certain rows{most}")
