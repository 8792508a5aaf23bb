"""What teachers and students are worth on the test rows: numbers as data, logged elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from kd_mlflow.evaluation.answers import Answers, Metrics, metrics_of_test_rows, probabilities
from kd_mlflow.evaluation.intervals import (
    Interval,
    knowledge_recovered,
    mcnemar_p,
    standard_error,
)
from kd_mlflow.evaluation.metrics import agreements, class_recalls, probability_metrics
from kd_mlflow.evaluation.thresholds import Counts, predicted

CRITERION = "calibrated_val_loss"
"""What a sweep chooses by: the loss after calibration, so that T's effect on confidence is removed;
less noisy than accuracy."""

IMBALANCED_SHARE = 0.9
"""A model that always answers a class of more than this share looks good by accuracy alone."""


@dataclass(frozen=True, kw_only=True)
class EnsembleMetrics:
    """Test metrics of each teacher and of their average."""

    members: tuple[Metrics, ...]
    ensemble: Metrics


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Students by kind, distilled and baselines, of the same seeds, and the ensemble.

    ``recovery`` is None where ensemble and baseline tie. ``gap`` is the ensemble's accuracy minus
    the distilled students' mean; ``gains`` are theirs minus each kind of baseline's. The same of
    log losses, better being positive too: ``loss_gap``, the students' minus the ensemble's, and
    ``loss_gains``, each kind's minus theirs. ``over_boosting`` are both gains over boosted trees
    alone, which are in the summary too.
    ``recalls`` are shares of each class's test rows, by model; shape (classes,), NaN for a class
    without a test row. ``class_rows`` are the whole table's rows by class, in the same order.
    """

    students: Mapping[str, tuple[Metrics, ...]]
    summary: Metrics
    recovery: Interval | None
    gap: Interval
    gains: Mapping[str, Interval]
    loss_gap: Interval
    loss_gains: Mapping[str, Interval]
    class_rows: Mapping[str, int]
    recalls: Mapping[str, NDArray[np.float64]] = field(compare=False)  # arrays: == is no bool
    over_boosting: tuple[Interval, Interval] | None = None

    @property
    def worse_than(self) -> tuple[str, ...]:
        """Kinds of baselines that beat the distilled students beyond noise, by either measure."""
        return tuple(
            kind
            for kind, gain in self.gains.items()
            if gain.high < 0 or self.loss_gains[kind].high < 0
        )

    @property
    def imbalanced(self) -> bool:
        """Whether one class has so many of the table's rows that accuracy says little."""
        return majority_share(self.class_rows) > IMBALANCED_SHARE

    def recall_by_class(self) -> dict[str, dict[str, float | None]]:
        """Recalls by model and class as a JSON document; None for a class without a test row."""
        return {
            model: {
                name: None if np.isnan(value) else float(value)
                for name, value in zip(self.class_rows, values, strict=True)
            }
            for model, values in self.recalls.items()
        }


@dataclass(frozen=True, kw_only=True)
class Logits:
    """The logits of ensemble and students on the test rows, and these rows' labels.

    ``boosting`` are those of boosted trees alone; ``threshold`` is the probability from which on
    all of them predict the second of two classes, None where they predict the likeliest.
    Shape: labels (n,), ensemble and boosting (n, classes), students (seeds, n, classes) of each
    kind.
    """

    labels: NDArray[np.int64]
    ensemble: Tensor
    students: Mapping[str, Tensor]
    boosting: Tensor | None = None
    threshold: float | None = None

    @property
    def ensemble_classes(self) -> Counts:
        """The classes that the ensemble predicts.  Shape: (n,)."""
        return predicted(self.ensemble, self.threshold)

    def classes(self, kind: str) -> Counts:
        """The classes that students of a kind predict.  Shape: (seeds, n)."""
        return predicted(self.students[kind], self.threshold)


def majority_share(class_rows: Mapping[str, int]) -> float:
    """Share of the rows that the largest class has.

    >>> majority_share({"no": 95, "yes": 5})
    0.95
    """
    return max(class_rows.values()) / sum(class_rows.values())


def validation_metrics(logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Log loss and accuracy of each member.  Shape: (k, n, classes), (n,) -> (k,) each.

    >>> import torch
    >>> found = validation_metrics(torch.zeros(3, 4, 2), torch.tensor([0, 0, 1, 1]))
    >>> found["val_accuracy"].tolist()
    [0.5, 0.5, 0.5]
    """
    every = labels.expand(logits.shape[0], -1)
    loss = F.cross_entropy(logits.mT, every, reduction="none").mean(dim=1)
    return {"val_loss": loss, "val_accuracy": agreements(logits, labels)}


def evaluate_ensemble(
    member_logits: Tensor,
    averages: Mapping[str, Tensor],
    labels: NDArray[np.int64],
    *,
    parameters: Sequence[int],
    ensemble_parameters: int,
    averaging: str,
) -> EnsembleMetrics:
    """Score each teacher and their averages on the same rows; ``averaging`` names the one in use.

    ``parameters`` are each teacher's. Shape: member_logits (k, n, classes), averages (n, classes)
    each, labels (n,).
    """
    members = tuple(
        metrics_of_test_rows(probability_metrics(probabilities(logits), labels), own)
        for logits, own in zip(member_logits, parameters, strict=True)
    )
    by_average = {
        name: probability_metrics(probabilities(logits), labels)
        for name, logits in averages.items()
    }
    both = {
        f"ensemble_test_{metric}_averaged_{name}": found[metric]
        for name, found in by_average.items()
        for metric in ("accuracy", "log_loss", "ece")
    }
    accuracies = [member["test_accuracy"] for member in members]
    return EnsembleMetrics(
        members=members,
        ensemble={
            **{f"ensemble_test_{name}": value for name, value in by_average[averaging].items()},
            **both,
            "mean_teacher_test_accuracy": float(np.mean(accuracies)),
            "best_teacher_test_accuracy": max(accuracies),
            "teacher_parameters": float(np.mean(parameters)),
            "ensemble_parameters": ensemble_parameters,
        },
    )


def evaluate_students(
    students: Mapping[str, Tensor],
    ensemble: Tensor,
    labels: NDArray[np.int64],
    *,
    student_parameters: int,
    ensemble_parameters: int | None,
    class_rows: Mapping[str, int] | None = None,
    boosting: Tensor | None = None,
    threshold: float | None = None,
) -> Comparison:
    """Compare on the same rows; without ``ensemble_parameters`` there is no compression ratio.

    ``class_rows`` are the whole table's by class; those of ``labels`` where none are given.
    ``threshold`` is the probability from which on all models predict the second of two classes:
    right answers, recall and agreement are of what they predict.
    Shape: students (seeds, n, classes) of each kind, ensemble and boosting (n, classes), labels
    (n,).
    """
    if class_rows is None:
        counts = np.bincount(labels, minlength=ensemble.shape[-1]).tolist()
        class_rows = {str(place): count for place, count in enumerate(counts)}
    kinds = {
        kind: Answers.of(logits, labels, threshold=threshold) for kind, logits in students.items()
    }
    teacher = Answers.of(ensemble[None], labels, threshold=threshold)
    by_kind = {
        kind: tuple(own.metrics(teacher, parameters=student_parameters))
        for kind, own in kinds.items()
    }
    distilled, baseline = kinds["distilled"], kinds["baseline"]
    gap, loss_gap = teacher.over(distilled)
    gains = {kind: distilled.over(own) for kind, own in kinds.items() if kind != "distilled"}
    recovery = knowledge_recovered(distilled.hits, baseline.hits, teacher.hits[0])
    summary = _means(by_kind, teacher.probability_metrics(0)) | {
        **_with_bounds("accuracy_gap", gap),
        **_with_bounds("log_loss_gap", loss_gap),
        **(_with_bounds("knowledge_recovered", recovery) if recovery else {}),
        "test_agreement": float(np.mean([f["test_agreement"] for f in by_kind["distilled"]])),
        "student_parameters": student_parameters,
        "mcnemar_p_ensemble": mcnemar_p(distilled.hits[0], teacher.hits[0]),
    }
    if ensemble_parameters is not None:
        summary["ensemble_parameters"] = ensemble_parameters
        summary["compression_ratio"] = ensemble_parameters / student_parameters
    for kind, gain in gains.items():
        summary |= _gains(kind, gain)
        summary[f"mcnemar_p_{kind}"] = mcnemar_p(distilled.hits[0], kinds[kind].hits[0])
    over_boosting = None
    if boosting is not None:
        alone = Answers.of(boosting[None], labels, threshold=threshold)
        over_boosting = distilled.over(alone)
        found = alone.probability_metrics(0)
        summary |= {f"boosting_test_{name}": value for name, value in found.items()}
        summary |= _gains("boosting", over_boosting)
    if threshold is not None:
        summary["registered_threshold"] = threshold
    answers = {kind: own.predicted for kind, own in kinds.items()}
    return Comparison(
        students=by_kind,
        summary=summary,
        recovery=recovery,
        gap=gap,
        gains={kind: accuracy for kind, (accuracy, _) in gains.items()},
        loss_gap=loss_gap,
        loss_gains={kind: loss for kind, (_, loss) in gains.items()},
        over_boosting=over_boosting,
        class_rows=class_rows,
        recalls=_recalls(answers, teacher.predicted[0], labels, classes=ensemble.shape[-1]),
    )


def _recalls(
    students: Mapping[str, Counts], ensemble: Counts, labels: Counts, *, classes: int
) -> dict[str, NDArray[np.float64]]:
    """Recalls of the ensemble, of each kind of student over its seeds, of the registered one.

    Shape: students (seeds, n) of each kind, ensemble and labels (n,), classes all.
    """
    by_seed = {kind: class_recalls(own, labels, classes) for kind, own in students.items()}
    return {
        "ensemble": class_recalls(ensemble[None], labels, classes)[0],
        **{kind: each.mean(axis=0) for kind, each in by_seed.items()},
        "registered": by_seed["distilled"][0],
    }


def _means(students: Mapping[str, tuple[Metrics, ...]], ensemble: Mapping[str, float]) -> Metrics:
    """Test metrics of the ensemble, of each kind of student over its seeds, of the first one."""
    summary: Metrics = {}
    for name, value in ensemble.items():
        summary[f"ensemble_test_{name}"] = value
        for kind, each in students.items():
            values = np.array([found[f"test_{name}"] for found in each])
            summary[f"{kind}_test_{name}"] = float(values.mean())
            summary[f"{kind}_test_{name}_sem"] = standard_error(values)
        summary[f"registered_test_{name}"] = students["distilled"][0][f"test_{name}"]
    return summary


def _with_bounds(name: str, interval: Interval) -> Metrics:
    return {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}


def _gains(kind: str, gains: tuple[Interval, Interval]) -> Metrics:
    accuracy, loss = gains
    return {
        **_with_bounds(f"gain_over_{kind}", accuracy),
        **_with_bounds(f"log_loss_gain_over_{kind}", loss),
    }
