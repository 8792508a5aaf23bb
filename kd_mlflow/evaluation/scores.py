"""What one model's answers on a table are worth, each number with its 95 % interval.

A table may be large: of each row is kept what metrics need, never its probabilities of every class.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from kd_mlflow.evaluation import intervals
from kd_mlflow.evaluation.grouped import Z, deviate, group_sums
from kd_mlflow.evaluation.intervals import Interval
from kd_mlflow.evaluation.metrics import Counts, Floats, Hits, class_recalls

Metrics = dict[str, float]

NO_LABEL, UNKNOWN = -1, -2
"""In the place of a class number: a row without a label, and one of a class that is not known."""

EACH = ("predicted", "confidence", "labels", "of_label", "second")
"""What is kept of each row."""


@dataclass(frozen=True, kw_only=True)
class RowScores:
    """A model's answers to the rows of a table.

    ``predicted`` and ``labels`` are class numbers, a label may be ``NO_LABEL`` or ``UNKNOWN``;
    ``confidence`` is the predicted class's probability, ``of_label`` that of the label (NaN where
    there is none or it is unknown), ``second`` that of the second of two classes, empty where there
    are more. ``groups`` number what each row is about, None where each row is alone.
    Shape of each: (n,).
    """

    classes: int
    predicted: Counts
    confidence: Floats
    labels: Counts
    of_label: Floats
    second: Floats
    groups: Counts | None = None

    @classmethod
    def of(
        cls, probabilities: Floats, labels: Counts, predicted: Counts | None = None
    ) -> RowScores:
        """Keep what metrics need of some rows.  Shape: (n, classes), (n,).

        ``predicted`` are the classes that are answered, the likeliest ones where none are given.
        """
        wide = probabilities.astype(np.float64)
        wide /= wide.sum(axis=1, keepdims=True)
        rows = np.arange(len(wide))
        if predicted is None:
            predicted = wide.argmax(axis=1)
        return cls(
            classes=wide.shape[1],
            predicted=predicted,
            confidence=wide[rows, predicted],
            labels=labels,
            of_label=np.where(labels >= 0, wide[rows, np.maximum(labels, 0)], np.nan),
            second=wide[:, 1] if wide.shape[1] == 2 else np.empty(0),
        )

    @classmethod
    def joined(cls, parts: Sequence[RowScores]) -> RowScores:
        """Put the rows of several parts, scored one after the other, together."""
        whole = {name: np.concatenate([getattr(part, name) for part in parts]) for name in EACH}
        return cls(classes=parts[0].classes, **whole)

    @property
    def labelled(self) -> RowScores:
        """The rows that have a label, of a class that is known or not."""
        return self.some(self.labels != NO_LABEL)

    @property
    def known(self) -> RowScores:
        """The rows whose label is one of the model's classes."""
        return self.some(self.labels >= 0)

    @property
    def hits(self) -> Hits:
        """Whether each row's label is predicted; an unknown one never is.  Shape: (n,)."""
        return np.asarray(self.predicted == self.labels)

    @property
    def losses(self) -> Floats:
        """Minus the logarithm of the label's probability; 0 counts as the least float64 above it.

        Shape: (n,), nats.
        """
        return -np.log(np.maximum(self.of_label, np.finfo(np.float64).eps))

    def __len__(self) -> int:
        return len(self.predicted)

    def alike(self, first: Counts) -> RowScores:
        """Each row with the answer of another one, the first of those that are equal.  Shape: (n,).

        What it says of the label stays its own, for their labels may differ.
        """
        return replace(self, **self._taken(("predicted", "confidence", "second"), first))

    def some(self, rows: Hits) -> RowScores:
        """Some of the rows.  Shape: (n,), true for those that stay."""
        groups = None if self.groups is None else self.groups[rows]
        return replace(self, groups=groups, **self._taken(EACH, rows))

    def _taken(self, names: Sequence[str], rows: Counts | Hits) -> dict[str, Any]:
        """Some rows of what is kept of each; of more than two classes there is no ``second``."""
        return {name: kept[rows] for name in names if len(kept := getattr(self, name))}


@dataclass(frozen=True, kw_only=True)
class SeedScores:
    """The answers of models of one kind, a seed each, to the same rows.

    ``metrics`` are each seed's; ``losses`` are in nats; ``groups`` number what each row is about,
    None where each row is alone.
    Shape: labels and groups (n,), predicted and losses (seeds, n).
    """

    labels: Counts
    predicted: Counts
    losses: Floats
    metrics: tuple[Metrics, ...]
    groups: Counts | None = None

    @property
    def hits(self) -> Hits:
        """Whether each row's label is predicted.  Shape: (seeds, n)."""
        return np.asarray(self.predicted == self.labels)

    def over(self, others: SeedScores) -> tuple[Interval, Interval]:
        """By how much these models are better than others, in accuracy and in log loss."""
        return (
            intervals.accuracy_difference(self.hits, others.hits, self.groups),
            intervals.loss_difference(others.losses, self.losses, self.groups),
        )

    def mcnemar_p(self, others: SeedScores, seed: int = 0) -> float:
        """McNemar's p value of one of these models against that of the same seed, or a single one.

        ``seed`` is its place.
        """
        theirs = others.hits[seed if len(others.hits) > 1 else 0]
        return intervals.mcnemar_p(self.hits[seed], theirs, self.groups)

    def test_metrics(self, teacher: SeedScores, *, parameters: int) -> tuple[Metrics, ...]:
        """Each seed's as its run logs them, and how often it agrees with the teacher."""
        agreements = (self.predicted == teacher.predicted[0]).mean(axis=1)
        return tuple(
            {**metrics_of_test_rows(own, parameters), "test_agreement": float(agreement)}
            for own, agreement in zip(self.metrics, agreements, strict=True)
        )


@dataclass(frozen=True, kw_only=True)
class ClassScores:
    """One class: its rows, and shares of them with their intervals.

    Fields:
        name: what the class is called
        rows: rows with its label
        predicted: rows predicted as it
        recall: None without a row of the class
        precision: None where it is never predicted
    """

    name: str
    rows: int
    predicted: int
    recall: Interval | None
    precision: Interval | None


@dataclass(frozen=True, kw_only=True)
class Paired:
    """A model against another on the same rows; a positive gain is in favour of the first.

    Fields:
        agreement: share of the rows on which both predict the same
        accuracy: the other's, None where no row has a label that both know; so are the next
        balanced_accuracy: the other's
        accuracy_gain: the first's accuracy minus the other's
        loss_gain: the other's log loss minus the first's
        mcnemar_p: of McNemar's exact test
    """

    agreement: float
    accuracy: float | None = None
    balanced_accuracy: float | None = None
    accuracy_gain: Interval | None = None
    loss_gain: Interval | None = None
    mcnemar_p: float | None = None


def expected_accuracy(scores: RowScores) -> Interval:
    """The mean confidence: the share of right answers of a model that is calibrated on these rows.

    The interval is that of the number of right answers, each as likely as the model says; as if all
    of a group were right or wrong together, since without labels nobody knows.
    """
    share, n = float(scores.confidence.mean()), len(scores)
    z, variance = Z, scores.confidence * (1 - scores.confidence)
    if scores.groups is not None:
        variance = np.asarray(group_sums(np.sqrt(variance), scores.groups) ** 2)
        z = deviate(len(variance))
    spread = float(np.sqrt(variance.sum()))
    return Interval(
        value=share, low=max(0.0, share - z * spread / n), high=min(1.0, share + z * spread / n)
    )


def class_scores(scores: RowScores, names: Sequence[str]) -> tuple[ClassScores, ...]:
    """Recall and precision of each class, by the rows whose label is known."""
    known = scores.known
    hits, groups = known.hits, known.groups

    def right(of: Hits) -> Interval | None:
        own = None if groups is None else groups[of]
        return intervals.mean_share(hits[of], own) if of.any() else None

    return tuple(
        ClassScores(
            name=name,
            rows=int((known.labels == i).sum()),
            predicted=int((scores.predicted == i).sum()),
            recall=right(known.labels == i),
            precision=right(known.predicted == i),
        )
        for i, name in enumerate(names)
    )


def paired(first: RowScores, second: RowScores) -> Paired:
    """Compare two models of the same classes on the same rows, whose groups are the first one's."""
    agreement = float((first.predicted == second.predicted).mean())
    one, two, known = first.labelled, second.labelled, first.known
    if not len(one):
        return Paired(agreement=agreement)
    losses = known.losses[None], second.known.losses[None]
    recalls = class_recalls(second.known.predicted[None], known.labels, second.classes)
    return Paired(
        agreement=agreement,
        accuracy=float(two.hits.mean()),
        balanced_accuracy=float(np.nanmean(recalls)),
        accuracy_gain=intervals.accuracy_difference(one.hits[None], two.hits[None], one.groups),
        loss_gain=intervals.loss_difference(losses[1], losses[0], known.groups),
        mcnemar_p=intervals.mcnemar_p(one.hits, two.hits, one.groups),
    )


def metrics_of_test_rows(found: Mapping[str, float], parameters: int | None) -> Metrics:
    """A model's metrics on the test rows as its run logs them, and its parameters where counted."""
    counted = {} if parameters is None else {"parameters": parameters}
    return {**{f"test_{name}": value for name, value in found.items()}, **counted}
