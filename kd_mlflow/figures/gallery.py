"""Every figure of a comparison, by name."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from kd_mlflow.distillation.evidence import Evidence
from kd_mlflow.distillation.logits import class_probabilities, validation_metrics
from kd_mlflow.evaluation.bins import Bins, agreement_by_confidence, confusion, reliability
from kd_mlflow.evaluation.intervals import Interval
from kd_mlflow.evaluation.metrics import Counts
from kd_mlflow.figures import accuracy, probabilities, training_curves
from kd_mlflow.figures.probabilities import Calibration, TwoClasses
from kd_mlflow.figures.style import class_names
from kd_mlflow.population.losses import soft_targets

TEMPERATURES = (1.0, 2.0, 3.0, 5.0, 10.0)
AREA_NAMES = {
    "baseline": "baseline, same seed",
    "distilled": "registered student",
    "ensemble": "ensemble",
}
SHOWN_VALUES = 100_000
"""Most soft targets that are drawn at one temperature: rows times classes."""


def draw(evidence: Evidence) -> dict[str, Figure]:
    """Every figure of a comparison, by name."""
    areas = {"roc_pr": _roc_pr(evidence)} if _areas_known(evidence) else {}
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
    to_ensemble = _turned(comparison.gap)
    gains = {f"distilled - {k.replace('_', ' ')}": gain for k, gain in comparison.gains.items()}
    boosting = {}
    if comparison.over_boosting:
        boosting = {"boosting": [comparison.summary["boosting_test_accuracy"]]}
        gains["distilled - boosted trees"] = comparison.over_boosting[0]
    ensemble = {"ensemble": [comparison.summary["ensemble_test_accuracy"]]}
    return accuracy.ladder(
        {**boosting, **_accuracies(evidence), **ensemble},
        {**gains, "distilled - ensemble": to_ensemble},
        rows=evidence.test_rows,
        worth=comparison.row_worth,
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


def _reliability(evidence: Evidence) -> Figure:
    scored, comparison = evidence.logits, evidence.comparison
    classes, summary, seed = scored.ensemble.shape[1], comparison.summary, scored.registered
    eces = {
        "distilled": summary["registered_test_ece"],
        "baseline": comparison.students["baseline"][seed]["test_ece"],
    }
    names = {"distilled": "registered student", "baseline": "baseline, same seed"}

    def bins(logits: Tensor, predicted: Counts) -> Bins:
        found = reliability(class_probabilities(logits), scored.labels, predicted)
        return found._replace(worth=comparison.row_worth)

    of_ensemble = bins(scored.ensemble, scored.ensemble_classes)
    models = [Calibration("ensemble", "ensemble", of_ensemble, summary["ensemble_test_ece"])]
    models += [
        Calibration(
            kind, name, bins(scored.students[kind][seed], scored.classes(kind)[seed]), eces[kind]
        )
        for kind, name in names.items()
    ]
    return probabilities.reliability_diagram(models, classes=classes, rows=evidence.test_rows)


def _agreement(evidence: Evidence) -> Figure:
    scored = evidence.logits
    kinds = _steps(scored.students)
    predicted = [scored.classes(kind) for kind in kinds]
    return probabilities.agreement_diagram(
        kinds,
        agreement_by_confidence(
            class_probabilities(scored.ensemble), predicted, scored.ensemble_classes
        )._replace(worth=evidence.comparison.row_worth),
        rows=evidence.test_rows,
        seeds=evidence.seeds,
    )


def _confusion(evidence: Evidence) -> Figure:
    scored, classes = evidence.logits, evidence.dataset.table.classes

    def counts(predicted: Counts) -> Counts:
        return confusion(scored.labels, predicted, len(classes))

    return probabilities.confusion_matrices(
        {
            "ensemble": counts(scored.ensemble_classes),
            "registered student": counts(scored.classes("distilled")[scored.registered]),
        },
        class_names(classes),
    )


def _areas_known(evidence: Evidence) -> bool:
    """Whether there are two classes, both with test rows."""
    return "ensemble_test_roc_auc" in evidence.comparison.summary


def _roc_pr(evidence: Evidence) -> Figure:
    scored, names = evidence.logits, evidence.dataset.table.classes
    seed = scored.registered
    shown = {kind: scored.students[kind][seed] for kind in AREA_NAMES if kind != "ensemble"}
    classes = {kind: scored.classes(kind)[seed] for kind in shown}
    shown["ensemble"], classes["ensemble"] = scored.ensemble, scored.ensemble_classes
    return probabilities.roc_and_precision_recall(
        {
            kind: TwoClasses(AREA_NAMES[kind], class_probabilities(logits)[:, 1], classes[kind])
            for kind, logits in shown.items()
        },
        scored.labels,
        positive=class_names(names)[1],
    )
