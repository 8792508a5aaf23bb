"""Every figure of a comparison, by name."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from matplotlib.figure import Figure

from kd_mlflow.distillation.evidence import Evidence
from kd_mlflow.distillation.logits import class_probabilities, validation_metrics
from kd_mlflow.evaluation import metrics
from kd_mlflow.evaluation.intervals import reverse
from kd_mlflow.figures import accuracy, probabilities, training_curves
from kd_mlflow.figures.probabilities import Answers, Calibration
from kd_mlflow.figures.style import class_names
from kd_mlflow.population.losses import soft_targets

TEMPERATURES = (1.0, 2.0, 3.0, 5.0, 10.0)
STUDENTS = {"distilled": "registered student", "baseline": "baseline, same seed"}
SHOWN_VALUES = 100_000
"""Most soft targets that are drawn at one temperature: rows times classes."""


def draw(evidence: Evidence) -> dict[str, Figure]:
    """Every figure of a comparison, by name."""
    two = "ensemble_test_roc_auc" in evidence.comparison.summary  # classes, both with test rows
    areas = {"roc_pr": _roc_pr(evidence)} if two else {}
    return {
        "ladder": _ladder(evidence),
        "sizes": _sizes(evidence),
        "student_curves": _curves(evidence),
        "temperature": _temperature(evidence),
        "reliability": _reliability(evidence),
        "agreement": _agreement(evidence),
        "confusion": _confusion(evidence),
        **areas,
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
    summary, others = comparison.summary, {"boosting": "boosted trees"}
    gains = {
        f"distilled - {others.get(kind, kind.replace('_', ' '))}": gain
        for kind, (gain, _) in comparison.over.items()
    }
    alone = {"boosting": [summary["boosting_test_accuracy"]]} if comparison.over_boosting else {}
    return accuracy.ladder(
        {**alone, **_accuracies(evidence), "ensemble": [summary["ensemble_test_accuracy"]]},
        {**gains, "distilled - ensemble": reverse(comparison.gap)},
        rows=evidence.test_rows,
        worth=comparison.row_worth,
    )


def _sizes(evidence: Evidence) -> Figure:
    summary, teachers = evidence.comparison.summary, evidence.teacher_accuracies
    students = summary["student_parameters"]
    models = {kind: (students, shares) for kind, shares in _accuracies(evidence).items()}
    if whole := summary.get("ensemble_parameters"):
        if teachers:
            models["teacher"] = (whole / len(teachers), list(teachers))
        models["ensemble"] = (whole, [summary["ensemble_test_accuracy"]])
    return accuracy.sizes(models, rows=evidence.test_rows, seeds=evidence.seeds)


def _curves(evidence: Evidence) -> Figure:
    kinds, lessons = list(evidence.logits.students), evidence.lessons
    split = {name: np.split(v, len(kinds), axis=1) for name, v in evidence.history.items()}
    histories = {
        kind: {name: parts[kinds.index(kind)] for name, parts in split.items()}
        for kind in _steps(kinds)
    }
    level = validation_metrics(lessons.val_logits[None], lessons.val_labels)
    return training_curves.student_curves(
        histories,
        ensemble={name: float(value) for name, value in level.items()},
        rows=len(lessons.val_labels),
    )


def _temperature(evidence: Evidence) -> Figure:
    lessons, chosen = evidence.lessons, evidence.config.temperature
    rows = min(lessons.labelled_rows, max(1, SHOWN_VALUES // lessons.logits.shape[1]))
    logits = lessons.logits[:rows].double().cpu()
    return probabilities.temperature_effect(
        {t: soft_targets(logits, t).numpy() for t in sorted({*TEMPERATURES, chosen})},
        class_names(evidence.dataset.table.classes),
        chosen=chosen,
    )


def _answers(evidence: Evidence) -> dict[str, Answers]:
    """What ensemble, registered student and its baseline say of the test rows, by kind."""
    scored, seed = evidence.logits, evidence.logits.registered
    asked = {"ensemble": ("ensemble", scored.ensemble, scored.ensemble_classes)} | {
        kind: (name, scored.students[kind][seed], scored.classes(kind)[seed])
        for kind, name in STUDENTS.items()
    }
    return {
        kind: Answers(name, class_probabilities(logits), predicted)
        for kind, (name, logits, predicted) in asked.items()
    }


def _reliability(evidence: Evidence) -> Figure:
    scored, comparison = evidence.logits, evidence.comparison
    eces = {
        "ensemble": comparison.summary["ensemble_test_ece"],
        "distilled": comparison.summary["registered_test_ece"],
        "baseline": comparison.students["baseline"][scored.registered]["test_ece"],
    }
    models = []
    for kind, (name, shares, predicted) in _answers(evidence).items():
        confidence = shares[np.arange(len(shares)), predicted]
        bins = metrics.reliability(confidence, predicted == scored.labels)
        bins = bins._replace(worth=comparison.row_worth)
        models.append(Calibration(kind, name, bins, eces[kind]))
    classes = scored.ensemble.shape[1]
    return probabilities.reliability_diagram(models, classes=classes, rows=evidence.test_rows)


def _agreement(evidence: Evidence) -> Figure:
    scored = evidence.logits
    kinds = _steps(scored.students)
    predicted = [scored.classes(kind) for kind in kinds]
    shares = class_probabilities(scored.ensemble)
    bins = metrics.agreement_by_confidence(shares, predicted, scored.ensemble_classes)
    bins = bins._replace(worth=evidence.comparison.row_worth)
    rows, seeds = evidence.test_rows, evidence.seeds
    return probabilities.agreement_diagram(kinds, bins, rows=rows, seeds=seeds)


def _confusion(evidence: Evidence) -> Figure:
    classes, answers = evidence.dataset.table.classes, _answers(evidence)
    models = {
        name: metrics.confusion(evidence.logits.labels, predicted, len(classes))
        for name, _, predicted in (answers["ensemble"], answers["distilled"])
    }
    return probabilities.confusion_matrices(models, class_names(classes))


def _roc_pr(evidence: Evidence) -> Figure:
    answers, labels = _answers(evidence), evidence.logits.labels
    models = {kind: answers[kind] for kind in ("baseline", "distilled", "ensemble")}
    positive = class_names(evidence.dataset.table.classes)[1]
    return probabilities.roc_and_precision_recall(models, labels, positive=positive)
