"""Figures of training: curves by epoch. Data in, a Figure out; never saved here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from kd_mlflow.evaluation.metrics import Floats
from kd_mlflow.figures import style
from kd_mlflow.figures.style import LOOKS
from kd_mlflow.population.history import HELD_OUT, best_epochs

CURVES = {
    "val_accuracy": ("accuracy, %", 100.0),
    "val_loss": ("log loss, nats", 1.0),
    "val_agreement": ("agreement with ensemble, %", 100.0),
}
"""Curves that are drawn: their axis and its scale."""


def teacher_curves(
    histories: Mapping[str, Mapping[str, Floats]], *, ensemble: Mapping[str, float], rows: int
) -> Figure:
    """Validation accuracy and log loss of each teacher by epoch, and the ensemble's level.

    A dot marks the epoch that a teacher was taken from.
    ``histories``: curves by kind of teacher.  Shape of each curve: (epochs, teachers).
    """
    figure, axes = style.canvas(0.8 + 2.8 * len(histories), rows=len(histories), columns=2)
    look = LOOKS["teacher"]
    for row, (kind, history) in zip(axes, histories.items(), strict=True):
        for each, name in zip(row, ("val_accuracy", "val_loss"), strict=True):
            text, scale = CURVES[name]
            values = scale * np.ma.masked_invalid(history[name])
            marker = "x" if len(values) == 1 else ""  # a line would have no length
            thin: dict[str, Any] = {"color": look.colour, "linewidth": 0.9, "alpha": 0.8}
            lines = each.plot(np.arange(1, len(values) + 1), values, marker=marker, **thin)
            lines[0].set_label("one teacher each")
            if HELD_OUT in history:
                best = best_epochs(history)
                heights = values[best - 1, np.arange(values.shape[1])]
                dot: dict[str, Any] = {"color": style.INK, "markersize": 3}
                each.plot(best, heights, "o", label="epoch taken, by left-out rows", **dot)
            style.ensemble_level(each, scale * ensemble[name])
            _zoom(each, [values], scale * ensemble[name], least=0.005 * scale)
            x = "epoch" if row is axes[-1] else ""
            style.label(each, x=x, y=text, title=f"{values.shape[1]} {kind}")
    style.headline(figure, f"Teachers on {rows:,} validation rows", axes[0, 0])
    return figure


def student_curves(
    histories: Mapping[str, Mapping[str, Floats]], *, ensemble: Mapping[str, float], rows: int
) -> Figure:
    """Validation curves of each kind of student: mean over its seeds, and their range as a band.

    ``histories``: curves by kind.  Shape of each curve: (epochs, seeds).
    """
    figure, axes = style.canvas(3.6, columns=len(CURVES))
    seeds = 1
    for each, (name, (text, scale)) in zip(axes.flat, CURVES.items(), strict=True):
        shown = []
        for kind, history in histories.items():
            values = scale * np.ma.masked_invalid(history[name])
            x, look, seeds = np.arange(1, len(values) + 1), LOOKS[kind], values.shape[1]
            low, high = values.min(axis=1), values.max(axis=1)
            each.fill_between(x, low, high, color=look.colour, alpha=0.2, linewidth=0)
            marker = look.marker if len(x) == 1 else ""
            mean = values.mean(axis=1)
            each.plot(x, mean, color=look.colour, linewidth=1.3, marker=marker, label=look.name)
            shown.append(values)
        level = scale * ensemble.get(name, np.nan)
        style.ensemble_level(each, level)
        _zoom(each, shown, level, least=0.005 * scale)
        style.label(each, x="epoch", y=text)
    text = f"Students on {rows:,} validation rows: mean and range over seeds: {seeds}"
    style.headline(figure, text, axes[0, 0])
    return figure


def _zoom(axes: Axes, groups: Sequence[Any], level: float, *, least: float) -> None:
    """Leave the first tenth of the epochs out of the axis's range: it would flatten the rest.

    ``groups``: masked curves; ``least``: the least margin, in the axis's units.
    Shape of each group: (epochs, models).
    """
    epochs = len(groups[0])
    axes.set_xlim(0, 1.02 * epochs + 0.5 * (epochs == 1))
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    late = [group[epochs // 10 :].compressed() for group in groups]
    shown = np.concatenate([*late, [level] if np.isfinite(level) else []])
    if len(shown):
        margin = max(0.08 * float(np.ptp(shown)), least)
        axes.set_ylim(shown.min() - margin, shown.max() + margin)
