"""What teachers and students are worth on the test rows: figures as data, logged elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from kd_mlflow import metrics
from kd_mlflow.losses import AVERAGES
from kd_mlflow.metrics import Interval

Figures = dict[str, float]

CRITERION = "calibrated_val_loss"
"""What a sweep chooses by: less noisy than accuracy, and blind to what T does to certainty."""


@dataclass(frozen=True, kw_only=True)
class EnsembleFigures:
    """Test figures of each teacher and of their average."""

    members: tuple[Figures, ...]
    ensemble: Figures


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Students by kind, distilled and baselines, of the same seeds, and the ensemble.

    ``recovery`` is None where ensemble and baseline tie. ``gains`` are what distilled students
    have over each kind of baseline.
    """

    students: Mapping[str, tuple[Figures, ...]]
    summary: Figures
    recovery: Interval | None
    gap: Interval
    gains: Mapping[str, Interval]


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What each model answers on the test rows: logits.

    Shape: labels (n,), ensemble (n, classes), students (seeds, n, classes) of each kind.
    """

    labels: NDArray[np.int64]
    ensemble: Tensor
    students: Mapping[str, Tensor]


def validation_figures(logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Log loss and accuracy of each member.  Shape: (k, n, classes), (n,) -> (k,) each."""
    every = labels.expand(logits.shape[0], -1)
    loss = F.cross_entropy(logits.mT, every, reduction="none").mean(dim=1)
    return {"val_loss": loss, "val_accuracy": metrics.agreements(logits, labels)}


def evaluate_ensemble(
    member_logits: Tensor, labels: NDArray[np.int64], *, parameters: int, averaging: str
) -> EnsembleFigures:
    """Shape: member_logits (k, n, classes), labels (n,); ``parameters`` of one member."""
    members = tuple(_test_figures(logits, labels, parameters) for logits in member_logits)
    by_average = {
        name: metrics.probability_figures(_probabilities(average(member_logits)), labels)
        for name, average in AVERAGES.items()
    }
    both = {
        f"ensemble_test_{figure}_averaged_{name}": figures[figure]
        for name, figures in by_average.items()
        for figure in ("accuracy", "log_loss", "ece")
    }
    accuracies = [figures["test_accuracy"] for figures in members]
    return EnsembleFigures(
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
) -> Comparison:
    """Compare on the same rows; without ``ensemble_parameters`` there is no compression ratio.

    Shape: students (seeds, n, classes) of each kind, ensemble (n, classes), labels (n,).
    """
    figures = {
        kind: tuple(_student_figures(x, ensemble, labels, student_parameters) for x in logits)
        for kind, logits in students.items()
    }
    hits = {kind: logits.argmax(dim=-1).numpy() == labels for kind, logits in students.items()}
    ensemble_hits = ensemble.argmax(dim=-1).numpy() == labels
    distilled, baseline = hits["distilled"], hits["baseline"]
    recovery = metrics.knowledge_recovered(distilled, baseline, ensemble_hits)
    gap = metrics.accuracy_difference(ensemble_hits[None], distilled)
    gains = {
        kind: metrics.accuracy_difference(distilled, hits[kind])
        for kind in students
        if kind != "distilled"
    }
    summary = _means(figures, metrics.probability_figures(_probabilities(ensemble), labels)) | {
        **_with_bounds("accuracy_gap", gap),
        **(_with_bounds("knowledge_recovered", recovery) if recovery else {}),
        "test_agreement": float(np.mean([f["test_agreement"] for f in figures["distilled"]])),
        "student_parameters": student_parameters,
        "mcnemar_p_ensemble": metrics.mcnemar_p(distilled[0], ensemble_hits),
    }
    if ensemble_parameters is not None:
        summary["ensemble_parameters"] = ensemble_parameters
        summary["compression_ratio"] = ensemble_parameters / student_parameters
    for kind, gain in gains.items():
        summary |= _with_bounds(f"gain_over_{kind}", gain)
        summary[f"mcnemar_p_{kind}"] = metrics.mcnemar_p(distilled[0], hits[kind][0])
    return Comparison(students=figures, summary=summary, recovery=recovery, gap=gap, gains=gains)


def _means(students: Mapping[str, tuple[Figures, ...]], ensemble: Mapping[str, float]) -> Figures:
    """Test figures of the ensemble, of each kind of student over its seeds, of the first one."""
    summary: Figures = {}
    for name, value in ensemble.items():
        summary[f"ensemble_test_{name}"] = value
        for kind, each in students.items():
            values = np.array([figures[f"test_{name}"] for figures in each])
            summary[f"{kind}_test_{name}"] = float(values.mean())
            summary[f"{kind}_test_{name}_sem"] = metrics.standard_error(values)
        summary[f"registered_test_{name}"] = students["distilled"][0][f"test_{name}"]
    return summary


def _with_bounds(name: str, interval: Interval) -> Figures:
    return {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}


def _probabilities(logits: Tensor) -> NDArray[np.float64]:
    return torch.softmax(logits.double(), dim=-1).numpy()


def _test_figures(logits: Tensor, labels: NDArray[np.int64], parameters: int) -> Figures:
    figures = metrics.probability_figures(_probabilities(logits), labels)
    named = {f"test_{name}": value for name, value in figures.items()}
    return {**named, "parameters": parameters}


def _student_figures(
    logits: Tensor, ensemble: Tensor, labels: NDArray[np.int64], parameters: int
) -> Figures:
    agreement = float(metrics.agreements(logits[None], ensemble.argmax(dim=1))[0])
    return {**_test_figures(logits, labels, parameters), "test_agreement": agreement}
