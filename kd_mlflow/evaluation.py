"""What teachers and students are worth on the test rows: figures as data, logged elsewhere."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kd_mlflow import metrics
from kd_mlflow.losses import average_logits
from kd_mlflow.metrics import Recovery

Figures = dict[str, float]


@dataclass(frozen=True, kw_only=True)
class EnsembleFigures:
    """Test figures of each teacher and of their average."""

    members: tuple[Figures, ...]
    ensemble: Figures


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Distilled students against baselines of the same seeds and against the ensemble.

    ``recovery`` is None where ensemble and baseline tie.
    """

    distilled: tuple[Figures, ...]
    baseline: tuple[Figures, ...]
    summary: Figures
    recovery: Recovery | None


def evaluate_ensemble(
    member_logits: Tensor, labels: NDArray[np.int64], *, parameters: int
) -> EnsembleFigures:
    """Shape: member_logits (k, n, classes), labels (n,); ``parameters`` of one member."""
    members = tuple(_test_figures(logits, labels, parameters) for logits in member_logits)
    ensemble = metrics.probability_figures(_probabilities(average_logits(member_logits)), labels)
    accuracies = [figures["test_accuracy"] for figures in members]
    return EnsembleFigures(
        members=members,
        ensemble={
            **{f"ensemble_test_{name}": value for name, value in ensemble.items()},
            "mean_teacher_test_accuracy": float(np.mean(accuracies)),
            "best_teacher_test_accuracy": max(accuracies),
            "teacher_parameters": parameters,
            "ensemble_parameters": parameters * len(members),
        },
    )


def evaluate_students(
    distilled: Tensor,
    baseline: Tensor,
    ensemble: Tensor,
    labels: NDArray[np.int64],
    *,
    student_parameters: int,
    ensemble_parameters: int,
) -> Comparison:
    """Compare on the same rows.

    Shape: distilled and baseline (seeds, n, classes), ensemble (n, classes), labels (n,).
    """
    students = tuple(_student_figures(x, ensemble, labels, student_parameters) for x in distilled)
    baselines = tuple(_student_figures(x, ensemble, labels, student_parameters) for x in baseline)
    recovery = metrics.knowledge_recovered(
        *(logits.argmax(dim=-1).numpy() == labels for logits in (distilled, baseline, ensemble))
    )
    reference = metrics.probability_figures(_probabilities(ensemble), labels)
    summary: Figures = {}
    for name, value in reference.items():
        of_distilled = np.array([figures[f"test_{name}"] for figures in students])
        of_baseline = np.array([figures[f"test_{name}"] for figures in baselines])
        summary |= {
            f"ensemble_test_{name}": value,
            f"distilled_test_{name}": float(of_distilled.mean()),
            f"distilled_test_{name}_sem": metrics.standard_error(of_distilled),
            f"baseline_test_{name}": float(of_baseline.mean()),
            f"baseline_test_{name}_sem": metrics.standard_error(of_baseline),
            f"registered_test_{name}": float(of_distilled[0]),
        }
    summary |= {
        "accuracy_gap": reference["accuracy"] - summary["distilled_test_accuracy"],
        "test_agreement": float(np.mean([figures["test_agreement"] for figures in students])),
        "student_parameters": student_parameters,
        "ensemble_parameters": ensemble_parameters,
        "compression_ratio": ensemble_parameters / student_parameters,
    }
    if recovery:
        summary |= {
            "knowledge_recovered": recovery.recovered,
            "knowledge_recovered_low": recovery.low,
            "knowledge_recovered_high": recovery.high,
        }
    return Comparison(distilled=students, baseline=baselines, summary=summary, recovery=recovery)


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
