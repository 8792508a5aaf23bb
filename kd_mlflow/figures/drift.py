"""Figures of an evaluation: which columns moved, how they moved, how sure the model is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from kd_mlflow.evaluation.drift import LARGE, MODERATE, ColumnDrift
from kd_mlflow.evaluation.findings import Findings, Histogram
from kd_mlflow.evaluation.intervals import row_worth
from kd_mlflow.evaluation.metrics import Floats, confusion, reliability
from kd_mlflow.figures import style
from kd_mlflow.figures.probabilities import Calibration, confusion_matrices, reliability_diagram
from kd_mlflow.figures.style import LOOKS

SHOWN_COLUMNS = 20
SHOWN_HISTOGRAMS = 6
SHOWN_BINS = 14
"""Most bins of one column's figure: of more categories those whose share changed most."""

BIN_LENGTH = 26
"""Characters of a bin's name: two dates fit."""

CONFIDENCE_BINS = 25

LEAST_PSI = 1e-3
"""Where the axis of indexes starts: nobody looks at smaller ones."""


def draw(findings: Findings) -> dict[str, Figure]:
    """Every figure of an evaluation, by name; those of labels only where there are any."""
    scores = findings.scores
    found = {"confidence": confidence_histogram(scores.confidence, scores.classes)}
    if findings.profiled:
        most = [column.name for column in findings.drift[:SHOWN_HISTOGRAMS]]
        found["drift"] = drift_bars(findings.drift)
        found["columns"] = column_histograms({name: findings.histograms[name] for name in most})
    return found | (_of_labels(findings) if findings.metrics else {})


def _of_labels(findings: Findings) -> dict[str, Figure]:
    """Calibration and confusions on the rows with labels."""
    classes, side = findings.scores.classes, "labelled rows"
    labelled, known = findings.scores.labelled, findings.scores.known
    bins = reliability(labelled.confidence, labelled.hits)
    bins = bins._replace(worth=row_worth(labelled.hits, labelled.groups))
    model = Calibration("distilled", "the model", bins, findings.metrics["ece"].value)
    counts = confusion(known.labels, known.predicted, classes)
    names = style.class_names(tuple(each.name for each in findings.classes))
    return {
        "reliability": reliability_diagram([model], classes=classes, rows=len(labelled), side=side),
        "confusion": confusion_matrices({"the model": counts}, names, side=side),
    }


def drift_bars(columns: Sequence[ColumnDrift]) -> Figure:
    """Population stability index by column, the largest on top, with what chance stays below."""
    shown = [column for column in columns if column.psi is not None][:SHOWN_COLUMNS][::-1]
    figure, each = style.single(1.7 + 0.27 * max(len(shown), 3))
    places = np.arange(len(shown))
    colours = [style.MARK if column.shifted else style.GREY for column in shown]
    each.set_xscale("log")
    indexes = [max(column.psi or 0.0, LEAST_PSI) for column in shown]
    each.barh(places, [index - LEAST_PSI for index in indexes], 0.62, LEAST_PSI, color=colours)
    chances = [column.chance or 0.0 for column in shown]
    each.plot(
        chances, places, "|", color=style.INK, ms=11, mew=1.6, label="chance alone stays below"
    )
    for level, dashes, says in ((MODERATE, ":", "moderate"), (LARGE, "--", "large")):
        each.axvline(
            level, color=style.GREY, linestyle=dashes, linewidth=1.1, label=f"{says} ({level})"
        )
    for place, column in zip(places, shown, strict=True):
        style.beside(each, float(place), f"{column.psi:.3f}")
    names = style.short_names([column.name for column in shown], "column")
    each.set_yticks(places, names, parse_math=False)
    each.grid(visible=False, axis="y")
    each.set_ylim(-0.7, len(shown) - 0.3)
    each.set_xlim(LEAST_PSI, 1.3 * max(*indexes, LARGE))
    each.xaxis.set_major_formatter("{x:g}")
    style.label(
        each, x="population stability index, logarithmic; orange: shifted by more than chance"
    )
    more = len(columns) - len(shown)
    left_out = f"; {more:,} more columns moved less" if more > 0 else ""
    style.headline(figure, f"How far columns moved from the training rows{left_out}", each)
    return figure


def column_histograms(histograms: Mapping[str, Histogram]) -> Figure:
    """Shares of each bin in the training rows and in the table, a panel per column."""
    columns = 2
    rows = -(-len(histograms) // columns)
    figure, axes = style.canvas(0.9 + 2.5 * rows, rows=rows, columns=columns)
    names = style.short_names(list(histograms), "column")
    for each, name, histogram in zip(axes.flat, names, histograms.values(), strict=False):
        _panel(each, name, histogram)
    for each in axes.flat[len(histograms) :]:
        each.set_axis_off()
    style.headline(figure, "The most shifted columns, bin by bin", axes[0, 0])
    return figure


def confidence_histogram(confidence: Floats, classes: int) -> Figure:
    """How many rows the model is how sure of."""
    figure, each = style.single(2.9)
    low, mean = 100 / classes, 100 * float(confidence.mean())
    edges: list[float] = np.linspace(low, 100, CONFIDENCE_BINS + 1).tolist()
    each.hist(100 * confidence, bins=edges, color=LOOKS["distilled"].colour)
    each.axvline(mean, color=style.MARK, linewidth=1.8, label=f"mean {mean:.2f} %")
    each.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
    each.yaxis.set_major_formatter("{x:,.0f}")
    style.label(each, x="confidence, the highest probability, %", y="rows")
    style.headline(figure, f"How sure the model is on {len(confidence):,} rows", each)
    return figure


def _panel(axes: Axes, name: str, histogram: Histogram) -> None:
    before = histogram.before / max(int(histogram.before.sum()), 1)
    now = histogram.now / histogram.now.sum()
    held = np.flatnonzero((histogram.before + histogram.now) > 0)
    if len(held) > SHOWN_BINS:
        held = np.sort(held[np.argsort(-np.abs(now - before)[held], kind="stable")[:SHOWN_BINS]])
    places, names = np.arange(len(held)), list(histogram.names)
    old, new = 100 * before[held], 100 * now[held]
    axes.bar(places - 0.2, old, 0.4, color=style.PALE, edgecolor=style.GREY, label="training rows")
    axes.bar(places + 0.2, new, 0.4, color=LOOKS["distilled"].colour, label="this table")
    shown = style.short_names([names[i] for i in held.tolist()], "bin", BIN_LENGTH)
    axes.set_xticks(places, shown, rotation=90, fontsize=7.5, parse_math=False)
    axes.grid(visible=False, axis="x")
    style.label(axes, y="rows, %")
    axes.set_title(name, fontsize=10, color=style.INK, loc="left", parse_math=False)
