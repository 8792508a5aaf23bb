"""A label column as class numbers, and how classes are named."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd

from kd_mlflow.errors import DataError
from kd_mlflow.table.kinds import Ints, Label, alike

_log = logging.getLogger(__name__)

NAMED_CLASSES, SHOWN_CLASSES = 50, 5

ROWS_PER_CLASS = 3
"""Different rows that a class needs: one to train, one to validate and one to test on."""


def numbered_labels(column: pd.Series) -> tuple[Ints, tuple[Label, ...]]:
    """Number the classes in sorted order.  Whole floats are integers; mixed types become text.

    Raises DataError for gaps, fractions, bytes, lists and fewer than two classes.
    """
    name = column.name
    if column.isna().any():
        rows = np.flatnonzero(column.isna())
        raise DataError(
            f"target {name!r} has {len(rows)} missing labels, the first in row {rows[0]}; "
            "remove those rows"
        )
    try:
        codes, uniques = pd.factorize(column.astype(object))
    except TypeError:
        raise DataError(
            f"target {name!r} holds lists or objects; choose a column of labels"
        ) from None
    classes = _classes(list(uniques), name)
    if len(classes) < 2:
        raise DataError(f"target {name!r} has one class only, {classes[0]!r}; two are needed")
    places = {label: i for i, label in enumerate(sorted(classes))}
    return np.array([places[label] for label in classes])[codes], tuple(places)


def _classes(values: list[Any], name: Any) -> list[Label]:
    if all(isinstance(v, (bool, np.bool_)) for v in values):
        return [bool(v) for v in values]
    if any(isinstance(v, bytes) for v in values):
        raise DataError(f"target {name!r} holds bytes; make texts of them")
    numbers = (int, float, np.number, Decimal)
    if all(isinstance(v, numbers) and not isinstance(v, bool) for v in values):
        if fractional := [v for v in values if not float(v).is_integer()]:
            raise DataError(
                f"target {name!r} holds numbers that are no classes, such as {fractional[0]!r}; "
                "this is classification: choose a column of labels or bin the numbers"
            )
        return [int(v) for v in values]
    texts = [str(v) for v in values]
    if len(set(texts)) < len(texts):
        raise DataError(f"target {name!r} mixes numbers and texts that read alike; make it text")
    return list(texts)


def label_text(column: pd.Series) -> str:
    """What a label column holds in a phrase: classes with their rows, or why it is none.

    >>> label_text(pd.Series(["no", "yes", "no", "no"], name="churned"))
    "label; 2 classes: 'no' (3), 'yes' (1); too few rows to train, validate and test on: 'yes' (1)"
    """
    try:
        labels, classes = numbered_labels(column)
    except DataError as error:
        return f"no label: {error}"
    rows = dict(zip(classes, np.bincount(labels).tolist(), strict=True))
    text = f"label; {len(classes):,} classes: {named_classes(rows, SHOWN_CLASSES)}"
    if rare := {label: n for label, n in rows.items() if n < ROWS_PER_CLASS}:
        named = named_classes(rare, SHOWN_CLASSES)
        text += f"; too few rows to train, validate and test on: {named}"
    doubled = ", ".join(alike(classes)[:SHOWN_CLASSES])
    return f"{text}; {doubled} differ in case or blanks alone" if doubled else text


def tell_alike(classes: tuple[Label, ...], target: str) -> None:
    """Warn of classes that differ in case or blanks alone."""
    if doubled := alike(classes):
        _log.warning(
            "target %r has classes that differ in case or blanks alone: %s; make one of them where "
            "they mean one",
            target,
            ", ".join(doubled[:NAMED_CLASSES]),
        )


def named_classes(classes: Mapping[Label, int], most: int = NAMED_CLASSES) -> str:
    """Write classes with their counts, some of them where there are many."""
    named = [f"{label!r} ({count})" for label, count in classes.items()]
    more = f" and {len(named) - most} more" if len(named) > most else ""
    return ", ".join(named[:most]) + more
