"""How the columns of a table differ from a model's training rows, as far as these are known."""

from __future__ import annotations

import numpy as np

from kd_mlflow.evaluation.drift import ColumnDrift, column_drift, most_moved_first
from kd_mlflow.evaluation.findings import Histogram
from kd_mlflow.models.any_model import AnyModel
from kd_mlflow.table.profile import bin_names, column_counts, unknown_profile
from kd_mlflow.table.scored_rows import ScoredRows


def table_drift(
    model: AnyModel, rows: ScoredRows
) -> tuple[tuple[ColumnDrift, ...], dict[str, Histogram]]:
    """Compare each column that the model takes, the most shifted first; counts by column.

    Of a model of another origin gaps alone are known, and no counts.
    """
    if model.encoding is None:
        return _gaps_alone(model, rows), {}
    profile = model.profile or unknown_profile(model.encoding)
    found, histograms = [], {}
    for column, trained in zip(model.encoding.columns, profile.columns, strict=True):
        series = rows.features[column.name]
        now = column_counts(series, column, trained.edges)
        before = np.array(trained.counts or [0] * len(now), dtype=np.int64)
        found.append(
            column_drift(column.name, column.kind, before, now, binned=bool(trained.edges))
        )
        names = bin_names(column, trained.edges)
        histograms[column.name] = Histogram(names, before, now)
    return most_moved_first(found), histograms


def _gaps_alone(model: AnyModel, rows: ScoredRows) -> tuple[ColumnDrift, ...]:
    """The share of gaps in each column that a model of another origin takes."""
    return most_moved_first(
        ColumnDrift(name=name, kind="unknown", gaps=float(rows.features[name].isna().mean()))
        for name in model.respondent.columns
    )
