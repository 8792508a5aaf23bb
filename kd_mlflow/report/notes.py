"""Descriptions of runs, which MLflow's UI shows on a run's page, in Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from kd_mlflow.config.options import text_value
from kd_mlflow.distillation.menu import Trial
from kd_mlflow.distillation.students import StudentSetting
from kd_mlflow.distillation.teachers import Part
from kd_mlflow.evaluation.comparison import Comparison
from kd_mlflow.report import words
from kd_mlflow.report.sweep_result import SweepResult
from kd_mlflow.report.words import safe
from kd_mlflow.table.dataset import Dataset

NOTE_LENGTH = 8000
"""Characters of a description: MLflow stores it as a tag (MAX_TAG_VAL_LENGTH) and cuts the rest."""

REASON_LENGTH = 600


def teachers_note(
    dataset: Dataset,
    metrics: Mapping[str, float],
    *,
    parts: Sequence[Part],
    hidden: Sequence[int],
    imbalanced: bool,
) -> str:
    """Describe an ensemble's run; of ``imbalanced`` tables balanced accuracy comes first."""
    shares = {name: words.percent(share) for name, share in metrics.items() if "accuracy" in name}
    balanced = f"balanced accuracy **{shares['ensemble_test_balanced_accuracy']}**, "
    return (
        f"An ensemble on **{safe(dataset.table.name)}** ({words.sides(dataset.split)}): "
        f"{words.composition(parts)}; networks of {', '.join(map(str, hidden))}.\n\n"
        f"Ensemble {balanced if imbalanced else ''}accuracy "
        f"**{shares['ensemble_test_accuracy']}** on test rows; teachers "
        f"{shares['mean_teacher_test_accuracy']} on average, "
        f"{shares['best_teacher_test_accuracy']} at best.\n"
    )


def reused_note(run_id: str) -> str:
    """Describe a run that found its ensemble trained already."""
    return f"Reused: run {run_id} trained the same ensemble."


def teacher_note(table: str, kind: str, *, teachers: int, seed: int) -> str:
    """Describe one teacher's run; ``kind`` is what its like are called."""
    return f"One of {teachers} teachers on **{safe(table)}**, of the {kind}; seed {seed}.\n"


def student_note(table: str, student: StudentSetting, *, epochs: int) -> str:
    """Describe the run of one student; a baseline's alpha is 0."""
    taught = "trained on the labels alone,"
    if student.taught:
        setting = f"T {student.temperature:g}, alpha {student.alpha:g}"
        taught = f"distilled from the ensemble at {setting},"
    elif student.mixup:
        taught = f"{taught} with mixup (Beta {student.mixup:g}),"
    return f"Student {taught} on **{safe(table)}**: {epochs} epochs, seed {student.seed}.\n"


def cell_note(table: str, *, seeds: int, hidden: str, temperature: float, alpha: float) -> str:
    """Describe the run of one cell of a sweep."""
    return (
        f"{seeds} students ({hidden}) distilled on **{safe(table)}** at "
        f"T {temperature:g}, alpha {alpha:g}; metrics and curves are their means.\n"
    )


def sweep_note(table: str, result: SweepResult, *, seeds: int, tolerance: float) -> str:
    """Describe a sweep's run: the setting chosen, and the smallest good student."""
    chosen, small = result.chosen, ""
    if result.smallest:
        small = (
            f"The smallest student within {100 * tolerance:g} points of the ensemble on "
            f"validation rows has hidden layers {text_value(result.smallest.hidden)}.\n"
        )
    return (
        f"{len(result.cells)} settings x {seeds} seeds on **{safe(table)}**; least calibrated "
        f"validation log loss: T {chosen.temperature:g}, alpha {chosen.alpha:g}.\n\n{small}"
    )


def distill_note(
    table: str,
    comparison: Comparison,
    *,
    temperature: float,
    alpha: float,
    trials: Sequence[Trial] = (),
) -> str:
    """Describe a comparison's run; a baseline that is better comes first."""
    seeds = len(comparison.students["distilled"])
    warning, decided = words.warning_text(comparison), words.threshold_text(comparison)
    blocks = [
        f"**Warning:** {warning}." if warning else "",
        f"{seeds} students distilled on **{safe(table)}** at T {temperature:g}, "
        f"alpha {alpha:g}, against {seeds} baselines of the same seeds"
        f"{decided and f'; {decided}'}.",
        f"{words.metrics_table(comparison)}\n\n{words.size_text(comparison)}",
        f"Chosen of {len(trials)} sizes: {words.trial_text(trials[-1])}." if trials else "",
    ]
    return words.whole_blocks(blocks, NOTE_LENGTH)


def promotion_note(
    model_name: str, version: str, *, passed: bool, reason: str, standing: str | None
) -> str:
    """Describe a decision of the gate; ``standing`` is the version that was in production."""
    answer = "promoted" if passed else "rejected"
    before = f"Version {standing} was in production." if standing else "Nothing was in production."
    return (
        f"Version {version} of **{safe(model_name)}** was {answer}: "
        f"{safe(reason, REASON_LENGTH)}.\n\n{before}\n"
    )


def pipeline_note(distilled: str, promoted: str) -> str:
    """Describe a whole line by the descriptions of its last two steps, the decision first."""
    return words.whole_blocks([promoted.rstrip(), distilled.rstrip()], NOTE_LENGTH)


def rollback_note(model_name: str, *, restored: str, replaced: str, reason: str) -> str:
    """Describe a rollback."""
    why = f": {safe(reason, REASON_LENGTH)}" if reason else ""
    return f"**{safe(model_name)}**: production moved back from {replaced} to {restored}{why}."
