"""What teachers and students are worth on the test rows: numbers as data, logged elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from kd_mlflow.evaluation.intervals import (
    Interval,
    knowledge_recovered,
    loss_difference,
    row_worth,
    standard_error,
)
from kd_mlflow.evaluation.metrics import Floats, class_recalls, probability_metrics
from kd_mlflow.evaluation.scores import Metrics, SeedScores, metrics_of_test_rows
from kd_mlflow.evaluation.thresholds import Cutoff, by_rule, logged_as

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

    A positive gain is in favour of the distilled students, a positive gap of the ensemble.

    Fields:
        students: each seed's metrics, by kind
        summary: metrics of all models; those of students are means over seeds, with ``_sem``
            their standard errors
        recovery: the share of the gap between baseline and ensemble that is recovered, None where
            these tie
        gap: the ensemble's accuracy minus the distilled students' mean
        gains: that mean minus each kind of baseline's
        loss_gap: the students' log loss minus the ensemble's
        loss_gains: each kind of baseline's log loss minus the students'
        class_rows: the whole table's rows by class
        recalls: shares of each class's test rows, by model, classes as in ``class_rows``; NaN for
            a class without a test row
        over_boosting: gains over boosted trees alone, in accuracy and log loss
        row_worth: how much a row says of an accuracy beside one that is in no group
        registered: the place of the registered student's seed
        constant: the class that the registered student answers for every row, None if it does not
        learnt: by how much the distilled students' log loss is below that of the classes' shares
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
    row_worth: float = 1.0
    registered: int = 0
    constant: str | None = None
    learnt: Interval | None = None

    @property
    def worse_than(self) -> tuple[str, ...]:
        """What beats the distilled students beyond noise without a teacher, by either measure."""
        ruled = by_rule(self.summary)  # at the price of accuracy
        return tuple(
            kind
            for kind, (accuracy, loss) in self.over.items()
            if loss.high < 0 or (accuracy.high < 0 and not ruled)
        )

    @property
    def over(self) -> dict[str, tuple[Interval, Interval]]:
        """Gains in accuracy and log loss over each kind of baseline, and over boosted trees."""
        over = {kind: (gain, self.loss_gains[kind]) for kind, gain in self.gains.items()}
        return over | ({"boosting": self.over_boosting} if self.over_boosting else {})

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


def majority_share(class_rows: Mapping[str, int]) -> float:
    """Share of the rows that the largest class has.

    >>> majority_share({"no": 95, "yes": 5})
    0.95
    """
    return max(class_rows.values()) / sum(class_rows.values())


def evaluate_ensemble(
    members: Iterable[Floats],
    averages: Mapping[str, Floats],
    labels: NDArray[np.int64],
    *,
    parameters: Sequence[int | None],
    ensemble_parameters: int | None,
    averaging: str,
) -> EnsembleMetrics:
    """Score each teacher and their averages on the same rows; ``averaging`` names the one in use.

    ``members`` and ``averages`` are probabilities, ``parameters`` each teacher's, None where they
    cannot be counted.
    Shape: members and averages (n, classes) each, labels (n,).
    """
    by_member = tuple(
        metrics_of_test_rows(probability_metrics(probabilities, labels), own)
        for probabilities, own in zip(members, parameters, strict=True)
    )
    by_average = {
        name: probability_metrics(probabilities, labels) for name, probabilities in averages.items()
    }
    ensemble = {f"ensemble_test_{name}": value for name, value in by_average[averaging].items()}
    for name, found in by_average.items():
        for metric in ("accuracy", "log_loss", "ece"):
            ensemble[f"ensemble_test_{metric}_averaged_{name}"] = found[metric]
    accuracies = [member["test_accuracy"] for member in by_member]
    ensemble["mean_teacher_test_accuracy"] = float(np.mean(accuracies))
    ensemble["best_teacher_test_accuracy"] = max(accuracies)
    if known := [own for own in parameters if own is not None]:
        ensemble["teacher_parameters"] = float(np.mean(known))
    if ensemble_parameters is not None:
        ensemble["ensemble_parameters"] = ensemble_parameters
    return EnsembleMetrics(members=by_member, ensemble=ensemble)


def evaluate_students(
    students: Mapping[str, SeedScores],
    ensemble: SeedScores,
    *,
    student_parameters: int,
    ensemble_parameters: int | None,
    class_rows: Mapping[str, int],
    boosting: SeedScores | None = None,
    threshold: Cutoff | None = None,
    registered: int = 0,
) -> Comparison:
    """Compare on the same rows; without ``ensemble_parameters`` there is no compression ratio.

    ``class_rows`` are the whole table's by class, in the order of their numbers.
    ``threshold`` is by what all models predict a class; None: the likeliest one.
    Ensemble and ``boosting`` are a single model each; ``registered`` is the place of a seed.
    """
    by_kind = {
        kind: own.test_metrics(ensemble, parameters=student_parameters)
        for kind, own in students.items()
    }
    distilled, baseline = students["distilled"], students["baseline"]
    gap, loss_gap = ensemble.over(distilled)
    over, gains = _gains(students, boosting, registered)
    over_boosting = over.pop("boosting", None)
    shares = np.maximum(list(class_rows.values()), 1) / sum(class_rows.values())
    chance = -np.log(shares)[distilled.labels][None]
    learnt = loss_difference(chance, distilled.losses, distilled.groups)
    answers = distilled.predicted[registered]
    recovery = knowledge_recovered(
        distilled.hits, baseline.hits, ensemble.hits[0], groups=distilled.groups
    )
    summary = _means(by_kind, ensemble.metrics[0], registered) | {
        **gap.named("accuracy_gap"),
        **loss_gap.named("log_loss_gap"),
        **learnt.named("log_loss_gain_over_majority"),
        **(recovery.named("knowledge_recovered") if recovery else {}),
        "test_agreement": float(np.mean([f["test_agreement"] for f in by_kind["distilled"]])),
        "student_parameters": student_parameters,
        "mcnemar_p_ensemble": distilled.mcnemar_p(ensemble, registered),
        **gains,
    }
    if ensemble_parameters is not None:
        summary["ensemble_parameters"] = ensemble_parameters
        summary["compression_ratio"] = ensemble_parameters / student_parameters
    if threshold is not None:
        summary |= logged_as(threshold)
    return Comparison(
        students=by_kind,
        summary=summary,
        recovery=recovery,
        gap=gap,
        gains={kind: accuracy for kind, (accuracy, _) in over.items()},
        loss_gap=loss_gap,
        loss_gains={kind: loss for kind, (_, loss) in over.items()},
        over_boosting=over_boosting,
        class_rows=class_rows,
        row_worth=row_worth(distilled.hits[0], distilled.groups),
        recalls=_recalls(students, ensemble, classes=len(class_rows), registered=registered),
        registered=registered,
        learnt=learnt,
        constant=list(class_rows)[answers[0]] if (answers == answers[0]).all() else None,
    )


def _recalls(
    students: Mapping[str, SeedScores], ensemble: SeedScores, *, classes: int, registered: int
) -> dict[str, NDArray[np.float64]]:
    """Of the ensemble, of each kind of student over its seeds, of the registered one."""
    by_seed = {
        kind: class_recalls(own.predicted, own.labels, classes) for kind, own in students.items()
    }
    return {
        "ensemble": class_recalls(ensemble.predicted, ensemble.labels, classes)[0],
        **{kind: each.mean(axis=0) for kind, each in by_seed.items()},
        "registered": by_seed["distilled"][registered],
    }


def _means(
    students: Mapping[str, tuple[Metrics, ...]], ensemble: Mapping[str, float], registered: int
) -> Metrics:
    """Test metrics of the ensemble, of each kind of student over its seeds, of the registered."""
    summary: Metrics = {}
    for name, value in ensemble.items():
        summary[f"ensemble_test_{name}"] = value
        for kind, each in students.items():
            values = np.array([found[f"test_{name}"] for found in each])
            summary[f"{kind}_test_{name}"] = float(values.mean())
            summary[f"{kind}_test_{name}_sem"] = standard_error(values)
        summary[f"registered_test_{name}"] = students["distilled"][registered][f"test_{name}"]
    return summary


def _gains(
    students: Mapping[str, SeedScores], boosting: SeedScores | None, registered: int
) -> tuple[dict[str, tuple[Interval, Interval]], Metrics]:
    """Gains of the distilled students over each kind of baseline and boosted trees; as metrics."""
    distilled = students["distilled"]
    over = {kind: distilled.over(own) for kind, own in students.items() if kind != "distilled"}
    found = {f"mcnemar_p_{kind}": distilled.mcnemar_p(students[kind], registered) for kind in over}
    if boosting:
        over["boosting"] = distilled.over(boosting)
        found |= {f"boosting_test_{name}": v for name, v in boosting.metrics[0].items()}
    for kind, (accuracy, loss) in over.items():
        found |= accuracy.named(f"gain_over_{kind}") | loss.named(f"log_loss_gain_over_{kind}")
    return over, found
