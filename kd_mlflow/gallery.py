"""What one comparison found, and the figures that show it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from kd_mlflow import curves, diagrams, figures
from kd_mlflow.config import DistillConfig
from kd_mlflow.dataset import Dataset
from kd_mlflow.diagnosis import Counts, Floats, agreement_by_confidence, confusion, reliability
from kd_mlflow.diagrams import Calibration
from kd_mlflow.encoding import Encoding
from kd_mlflow.evaluation import Answers, Comparison, validation_figures
from kd_mlflow.losses import soft_targets
from kd_mlflow.metrics import Interval
from kd_mlflow.students import TransferSet
from kd_mlflow.style import class_names
from kd_mlflow.training import History

TEMPERATURES = (1.0, 2.0, 3.0, 5.0, 10.0)
SHOWN_VALUES = 100_000
"""Most soft targets that are drawn at one temperature: rows times classes."""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Everything that figures and report show of a comparison.

    ``history`` has the members of each kind of ``answers.students`` side by side;
    ``teacher_accuracies`` on test rows is empty where teachers are unknown one by one.
    """

    config: DistillConfig
    dataset: Dataset
    encoding: Encoding
    comparison: Comparison
    answers: Answers
    history: History
    lessons: TransferSet
    teacher_accuracies: Sequence[float] = ()

    @property
    def seeds(self) -> int:
        """How many students of each kind there are."""
        return len(self.comparison.students["distilled"])

    @property
    def test_rows(self) -> int:
        """How many rows every model was compared on."""
        return len(self.answers.labels)


def draw(evidence: Evidence) -> dict[str, Figure]:
    """Every figure of a comparison, by name."""
    return {
        "ladder": _ladder(evidence),
        "sizes": _sizes(evidence),
        "student_curves": _curves(evidence),
        "temperature": _temperature(evidence),
        "reliability": _reliability(evidence),
        "agreement": _agreement(evidence),
        "confusion": _confusion(evidence),
    }


def _accuracies(evidence: Evidence) -> dict[str, list[float]]:
    """Test accuracies of each kind's seeds, distilled students last."""
    students = evidence.comparison.students
    return {kind: [each["test_accuracy"] for each in students[kind]] for kind in _steps(students)}


def _steps(kinds: Iterable[str]) -> list[str]:
    """Kinds of students in the order of every figure: baselines first, distilled last."""
    return [*(kind for kind in kinds if kind != "distilled"), "distilled"]


def _ladder(evidence: Evidence) -> Figure:
    comparison = evidence.comparison
    to_ensemble = _turned(comparison.gap)
    gains = {f"distilled - {k.replace('_', ' ')}": gain for k, gain in comparison.gains.items()}
    return figures.ladder(
        {**_accuracies(evidence), "ensemble": [comparison.summary["ensemble_test_accuracy"]]},
        {**gains, "distilled - ensemble": to_ensemble},
        rows=evidence.test_rows,
    )


def _turned(difference: Interval) -> Interval:
    """The same difference seen from the other side."""
    return Interval(
        value=0.0 - difference.value, low=0.0 - difference.high, high=0.0 - difference.low
    )


def _sizes(evidence: Evidence) -> Figure:
    summary, teachers = evidence.comparison.summary, evidence.teacher_accuracies
    students = summary["student_parameters"]
    models = {kind: (students, shares) for kind, shares in _accuracies(evidence).items()}
    if whole := summary.get("ensemble_parameters"):
        if teachers:
            models["teacher"] = (whole / len(teachers), list(teachers))
        models["ensemble"] = (whole, [summary["ensemble_test_accuracy"]])
    return figures.sizes(models, rows=evidence.test_rows, seeds=evidence.seeds)


def _curves(evidence: Evidence) -> Figure:
    kinds, lessons = list(evidence.answers.students), evidence.lessons
    split = {name: np.split(v, len(kinds), axis=1) for name, v in evidence.history.items()}
    histories = {
        kind: {name: parts[kinds.index(kind)] for name, parts in split.items()}
        for kind in _steps(kinds)
    }
    level = validation_figures(lessons.val_logits[None], lessons.val_labels)
    return curves.student_curves(
        histories,
        ensemble={name: float(value) for name, value in level.items()},
        rows=len(lessons.val_labels),
    )


def _temperature(evidence: Evidence) -> Figure:
    lessons, chosen = evidence.lessons, evidence.config.temperature
    rows = min(lessons.labelled, max(1, SHOWN_VALUES // lessons.logits.shape[1]))
    logits = lessons.logits[:rows].double().cpu()
    return diagrams.temperature_effect(
        {t: soft_targets(logits, t).numpy() for t in sorted({*TEMPERATURES, chosen})},
        class_names(evidence.dataset.table.classes),
        chosen=chosen,
    )


def _reliability(evidence: Evidence) -> Figure:
    answers, comparison = evidence.answers, evidence.comparison
    classes, summary = answers.ensemble.shape[1], comparison.summary
    shown = [
        ("ensemble", "ensemble", answers.ensemble, summary["ensemble_test_ece"]),
        (
            "distilled",
            "registered student",
            answers.students["distilled"][0],
            summary["registered_test_ece"],
        ),
        (
            "baseline",
            "baseline, same seed",
            answers.students["baseline"][0],
            comparison.students["baseline"][0]["test_ece"],
        ),
    ]
    models = [
        Calibration(kind, name, reliability(_probabilities(logits), answers.labels), ece)
        for kind, name, logits, ece in shown
    ]
    return diagrams.reliability_diagram(models, classes=classes, rows=evidence.test_rows)


def _agreement(evidence: Evidence) -> Figure:
    answers = evidence.answers
    kinds = _steps(answers.students)
    predicted = [answers.students[kind].argmax(dim=2).numpy() for kind in kinds]
    return diagrams.agreement_diagram(
        kinds,
        agreement_by_confidence(_probabilities(answers.ensemble), predicted),
        rows=evidence.test_rows,
        seeds=evidence.seeds,
    )


def _confusion(evidence: Evidence) -> Figure:
    answers, classes = evidence.answers, evidence.dataset.table.classes

    def counts(logits: Tensor) -> Counts:
        return confusion(answers.labels, logits.argmax(dim=1).numpy(), len(classes))

    return diagrams.confusion_matrices(
        {
            "ensemble": counts(answers.ensemble),
            "registered student": counts(answers.students["distilled"][0]),
        },
        class_names(classes),
    )


def _probabilities(logits: Tensor) -> Floats:
    found: Floats = torch.softmax(logits.double(), dim=1).numpy()
    return found
