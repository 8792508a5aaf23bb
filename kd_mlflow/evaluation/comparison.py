"""What teachers and students are worth on the test rows: numbers as data, logged elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from kd_mlflow.evaluation.intervals import (
    Interval,
    accuracy_difference,
    knowledge_recovered,
    mcnemar_p,
    standard_error,
)
from kd_mlflow.evaluation.metrics import agreements, class_recalls, probability_metrics
from kd_mlflow.population.losses import AVERAGES

Metrics = dict[str, float]

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
    the distilled students' mean; ``gains`` are theirs minus each kind of baseline's.
    ``recalls`` are shares of each class's test rows, by model; shape (classes,), NaN for a class
    without a test row. ``class_rows`` are the whole table's rows by class, in the same order.
    """

    students: Mapping[str, tuple[Metrics, ...]]
    summary: Metrics
    recovery: Interval | None
    gap: Interval
    gains: Mapping[str, Interval]
    class_rows: Mapping[str, int]
    recalls: Mapping[str, NDArray[np.float64]] = field(compare=False)  # arrays: == is no bool

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

    Shape: labels (n,), ensemble (n, classes), students (seeds, n, classes) of each kind.
    """

    labels: NDArray[np.int64]
    ensemble: Tensor
    students: Mapping[str, Tensor]


def majority_share(class_rows: Mapping[str, int]) -> float:
    """Share of the rows that the largest class has.

    >>> majority_share({"no": 95, "yes": 5})
    0.95
    """
    return max(class_rows.values()) / sum(class_rows.values())


def validation_metrics(logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Log loss and accuracy of each member.  Shape: (k, n, classes), (n,) -> (k,) each.

    >>> found = validation_metrics(torch.zeros(3, 4, 2), torch.tensor([0, 0, 1, 1]))
    >>> found["val_accuracy"].tolist()
    [0.5, 0.5, 0.5]
    """
    every = labels.expand(logits.shape[0], -1)
    loss = F.cross_entropy(logits.mT, every, reduction="none").mean(dim=1)
    return {"val_loss": loss, "val_accuracy": agreements(logits, labels)}


def evaluate_ensemble(
    member_logits: Tensor, labels: NDArray[np.int64], *, parameters: int, averaging: str
) -> EnsembleMetrics:
    """Score each teacher and their average on the same rows; ``parameters`` are one teacher's.

    Shape: member_logits (k, n, classes), labels (n,).
    """
    members = tuple(_test_metrics(logits, labels, parameters) for logits in member_logits)
    by_average = {
        name: probability_metrics(_probabilities(average(member_logits)), labels)
        for name, average in AVERAGES.items()
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
            "teacher_parameters": parameters,
            "ensemble_parameters": parameters * len(members),
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
) -> Comparison:
    """Compare on the same rows; without ``ensemble_parameters`` there is no compression ratio.

    ``class_rows`` are the whole table's by class; those of ``labels`` where none are given.
    Shape: students (seeds, n, classes) of each kind, ensemble (n, classes), labels (n,).
    """
    if class_rows is None:
        counts = np.bincount(labels, minlength=ensemble.shape[-1]).tolist()
        class_rows = {str(place): count for place, count in enumerate(counts)}
    by_kind = {
        kind: tuple(_student_metrics(x, ensemble, labels, student_parameters) for x in logits)
        for kind, logits in students.items()
    }
    hits = {kind: logits.argmax(dim=-1).numpy() == labels for kind, logits in students.items()}
    ensemble_hits = ensemble.argmax(dim=-1).numpy() == labels
    distilled, baseline = hits["distilled"], hits["baseline"]
    recovery = knowledge_recovered(distilled, baseline, ensemble_hits)
    gap = accuracy_difference(ensemble_hits[None], distilled)
    gains = {
        kind: accuracy_difference(distilled, hits[kind]) for kind in students if kind != "distilled"
    }
    summary = _means(by_kind, probability_metrics(_probabilities(ensemble), labels)) | {
        **_with_bounds("accuracy_gap", gap),
        **(_with_bounds("knowledge_recovered", recovery) if recovery else {}),
        "test_agreement": float(np.mean([f["test_agreement"] for f in by_kind["distilled"]])),
        "student_parameters": student_parameters,
        "mcnemar_p_ensemble": mcnemar_p(distilled[0], ensemble_hits),
    }
    if ensemble_parameters is not None:
        summary["ensemble_parameters"] = ensemble_parameters
        summary["compression_ratio"] = ensemble_parameters / student_parameters
    for kind, gain in gains.items():
        summary |= _with_bounds(f"gain_over_{kind}", gain)
        summary[f"mcnemar_p_{kind}"] = mcnemar_p(distilled[0], hits[kind][0])
    return Comparison(
        students=by_kind,
        summary=summary,
        recovery=recovery,
        gap=gap,
        gains=gains,
        class_rows=class_rows,
        recalls=_recalls(students, ensemble, labels),
    )


def _recalls(
    students: Mapping[str, Tensor], ensemble: Tensor, labels: NDArray[np.int64]
) -> dict[str, NDArray[np.float64]]:
    """Recalls of the ensemble, of each kind of student over its seeds, of the registered one."""
    by_seed = {
        kind: class_recalls(logits.argmax(dim=-1).numpy(), labels, logits.shape[-1])
        for kind, logits in students.items()
    }
    (of_ensemble,) = class_recalls(ensemble.argmax(dim=-1).numpy()[None], labels, ensemble.shape[1])
    return {
        "ensemble": of_ensemble,
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


def _probabilities(logits: Tensor) -> NDArray[np.float64]:
    return torch.softmax(logits.double(), dim=-1).numpy()


def _test_metrics(logits: Tensor, labels: NDArray[np.int64], parameters: int) -> Metrics:
    found = probability_metrics(_probabilities(logits), labels)
    named = {f"test_{name}": value for name, value in found.items()}
    return {**named, "parameters": parameters}


def _student_metrics(
    logits: Tensor, ensemble: Tensor, labels: NDArray[np.int64], parameters: int
) -> Metrics:
    agreement = float(agreements(logits[None], ensemble.argmax(dim=1))[0])
    return {**_test_metrics(logits, labels, parameters), "test_agreement": agreement}
