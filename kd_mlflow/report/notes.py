"""Descriptions in Markdown: of runs, on their pages; of registered versions, their model cards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from kd_mlflow.config.options import text_value
from kd_mlflow.distillation.evidence import Evidence
from kd_mlflow.distillation.footprint import Footprint
from kd_mlflow.distillation.review import STUDENT
from kd_mlflow.distillation.students import StudentSetting
from kd_mlflow.distillation.teachers import Part
from kd_mlflow.evaluation.comparison import Comparison
from kd_mlflow.evaluation.intervals import wilson
from kd_mlflow.report import asking, review, words
from kd_mlflow.report.command_results import SweepResult
from kd_mlflow.report.markdown import one_line, percent, safe, whole_blocks
from kd_mlflow.table.columns import left_out_text
from kd_mlflow.table.dataset import Dataset, Split
from kd_mlflow.table.loading import Table

NOTE_LENGTH = 8000
"""Characters of a description: MLflow stores it as a tag (MAX_TAG_VAL_LENGTH) and cuts the rest."""

CARD_LENGTH = 4900
"""Characters, fewer than the 5,000 of MLflow's column, ``SqlModelVersion.description``: SQLite
takes more, PostgreSQL refuses them."""

REJECTED = "**Rejected by the gate:**"
"""How the card of a rejected version begins."""

REASON_LENGTH, MOVE_LENGTH = 400, 600
FEW_TEST_ROWS = 30
NAMED_CLASSES = 6
TAUGHT_BY_LENGTH, PARTS_LENGTH, LEFT_OUT_LENGTH = 90, 160, 300
UNKNOWN_ROWS = (
    " Which rows these models were trained on is not known here: if test rows were among them, the "
    "ensemble's metrics are too good, and its students' may be."
)

OUT_OF_SCOPE = (
    "Rows of other populations, other places or other times than the table's, until evaluate has "
    "been asked about them with labels.",
    "Values far outside the ranges of training, which are cut, and categories that training did "
    "not list, which all count as one.",
    "Questions of cause: what a column counts for here is not what changing it would do.",
    "Decisions about people that nobody reviews: no comparison here was made by groups of people "
    "beyond the segments that are named.",
)
"""Uses that the comparison says nothing about."""

OUT_OF_SCOPE_IN_SHORT = (
    "**Out of scope.** Other populations or later times; values far outside the training's; "
    "questions of cause; decisions about people that nobody reviews."
)


def teachers_note(
    dataset: Dataset,
    metrics: Mapping[str, float],
    *,
    parts: Sequence[Part],
    hidden: Sequence[tuple[int, ...]],
    imbalanced: bool,
) -> str:
    """Describe an ensemble's run; of ``imbalanced`` tables balanced accuracy comes first.

    ``hidden`` are the widths of its networks' layers.
    """
    sizes = " or ".join(dict.fromkeys("-".join(map(str, widths)) for widths in hidden))
    layers = f"; hidden layers of networks {sizes}" if sizes else ""
    shares = {name: percent(share) for name, share in metrics.items() if "accuracy" in name}
    balanced = f"balanced accuracy **{shares['ensemble_test_balanced_accuracy']}**, "
    return (
        f"An ensemble on **{safe(dataset.table.name)}** ({words.sides(dataset.split)}): "
        f"{words.composition(parts)}{layers}.\n\n"
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


def distill_note(evidence: Evidence) -> str:
    """Describe a comparison's run; a baseline that is better comes first."""
    config, comparison, seeds = evidence.config, evidence.comparison, evidence.seeds
    table, trials = evidence.dataset.table.name, evidence.trials
    warning, decided = words.warning_text(comparison), words.threshold_text(comparison)
    blocks = [
        f"**Warning:** {warning}." if warning else "",
        f"{seeds} students distilled on **{safe(table)}** at T {config.temperature:g}, "
        f"alpha {config.alpha:g}, against {seeds} baselines of the same seeds"
        f"{decided and f'; {decided}'}.",
        f"{words.metrics_table(comparison)}\n\n{words.size_text(comparison)}",
        f"Chosen, {len(trials)} tried: {words.trial_text(trials[-1])}." if trials else "",
    ]
    return whole_blocks(blocks, NOTE_LENGTH)


def promotion_note(
    model_name: str, version: str, *, passed: bool, reason: str, standing: str | None
) -> str:
    """Describe a decision of the gate; ``standing`` is the version that was in production."""
    answer = "promoted" if passed else "rejected"
    before = f"Version {standing} was in production." if standing else "Nothing was in production."
    return (
        f"Version {version} of **{safe(model_name)}** was {answer}: "
        f"{safe(reason, MOVE_LENGTH)}.\n\n{before}\n"
    )


def pipeline_note(distilled: str, promoted: str) -> str:
    """Describe a whole line by the descriptions of its last two steps, the decision first."""
    return whole_blocks([promoted.rstrip(), distilled.rstrip()], NOTE_LENGTH)


def rollback_note(model_name: str, *, restored: str, replaced: str, reason: str) -> str:
    """Describe a rollback."""
    why = f": {safe(reason, MOVE_LENGTH)}" if reason else ""
    return f"**{safe(model_name)}**: production moved back from {replaced} to {restored}{why}."


def limits(table: Table, split: Split, comparison: Comparison) -> list[str]:
    """Say what the metrics of a comparison do not show, a sentence each, as plain text."""
    rows = len(split.test)
    low, high = wilson(comparison.summary["ensemble_test_accuracy"], rows * comparison.row_worth)
    few = [label for label, n in split.balance(table)["test"].items() if n < FEW_TEST_ROWS]
    more = f" and {len(few) - NAMED_CLASSES:,} more" if len(few) > NAMED_CLASSES else ""
    named = ", ".join(one_line(label, 30) for label in few[:NAMED_CLASSES])
    rare = (
        f"Classes with fewer than {FEW_TEST_ROWS} test rows, whose own metrics are guesses: "
        f"{named}{more}."
    )
    return [
        f"For rows like those of {one_line(table.name)}; not validated on other populations, "
        "nor on later data.",
        f"{rows:,} test rows: the 95 % interval of any one model's accuracy is about "
        f"{100 * (high - low):.2f} points wide. Differences are measured on the same rows, "
        "and their intervals are narrower.",
        "Intervals and standard errors cover test rows and the students' seeds. "
        "The ensemble was trained once; another one would give other metrics.",
        *([rare] if few else []),
    ]


def model_card(
    evidence: Evidence, *, taught_by: str, ours: bool, costs: Footprint | None = None
) -> str:
    """The description of a registered version; ``ours`` are teachers that were trained here.

    Names are cut, and of many classes, gains or teachers a few are shown: it is shorter than
    CARD_LENGTH whatever the table.
    """
    config, comparison = evidence.config, evidence.comparison
    table, split = evidence.dataset.table, evidence.dataset.split
    metrics, name = comparison.summary, safe(table.name)
    registered = comparison.students["distilled"][comparison.registered]
    together = "".join(f"; {n}: {safe(t, 200)}" for n, t in words.together(evidence.dataset))
    decides = review.decides(evidence)
    about_limits = " ".join(limits(table, split, comparison))
    warning, commands = words.warning_text(comparison), asking.ways_to_ask(evidence)
    sent = (
        "**What to send.** Every column by its name, in any order; a value may be empty.\n\n"
        f"{review.sent_table(evidence.schema)}"
    )
    details = _details(evidence)
    warned = f"**Warning:** {warning}." if warning else ""
    unseen = _said("**Warning:**", review.never_text(evidence.class_scores[STUDENT]), 120)
    blocks = [
        f"# {safe(config.model_name)}: a student distilled from an ensemble",
        warned,
        f"**Verdict.** Students against their ensemble: "
        f"{words.both_gaps_text(comparison.gap, comparison.loss_gap)}.",
        unseen,
        f"**Intended use.** Predicts {safe(table.target)} for rows like those of {name}. "
        f"{safe(decides, len(decides))}.{_said(' Owner:', config.owner, 100)}"
        f"{_said(' Licence:', config.licence, 100)}",
        f"**Metrics** on {len(split.test):,} test rows that nothing was fitted, chosen or "
        "stopped on:",
        words.metrics_table(comparison),
        f"The registered student, {words.registered_text(comparison, config.registered_seed)}, "
        f"scores {percent(metrics['registered_test_accuracy'])}; p values of McNemar's exact "
        "test: "
        f"{words.p_values(comparison)}; it agrees with the ensemble on "
        f"{percent(registered['test_agreement'])} of the test rows.",
        sent,
        *commands,
        f"**Costs.** {review.footprint_text(costs)}." if costs else "",
        f"**Limits.** {safe(about_limits, len(about_limits))}",
        OUT_OF_SCOPE_IN_SHORT,
        *details,
        f"**Data.** {name}, {len(table.labels):,} rows ({words.sides(split)}), "
        f"{table.features.shape[1]:,} columns{together}."
        f"{_said('', left_out_text(table.columns), LEFT_OUT_LENGTH)} "
        f"{words.counts_text(comparison.class_rows)} Digest `{table.digest[:12]}`.",
        f"**Teachers.** {safe(taught_by, TAUGHT_BY_LENGTH)}: "
        f"{safe(words.composition(evidence.parts), PARTS_LENGTH)}. {words.size_text(comparison)}"
        f"{'' if ours else UNKNOWN_ROWS}",
        _recipe(evidence),
    ]
    spare = [*reversed(details), sent, OUT_OF_SCOPE_IN_SHORT, unseen, *reversed(commands)]
    if not comparison.worse_than:  # whose warning is the last to go
        spare.insert(-len(commands), warned)
    return whole_blocks(blocks, CARD_LENGTH, spare=spare)


def decided_card(card: str, decision: str) -> str:
    """A card that begins with the gate's answer, in place of an earlier one; "" for none."""
    blocks = [block for block in card.strip().split("\n\n") if not block.startswith(REJECTED)]
    if not decision and not card.startswith(REJECTED):
        return card
    return whole_blocks([decision, *blocks], CARD_LENGTH)


def rejection_text(reason: str, run: str) -> str:
    """The first line of a rejected version's card; ``run`` is the address of the decision."""
    return f"{REJECTED} {safe(reason, REASON_LENGTH)}. [The decision]({run})"


def _said(title: str, text: str, length: int) -> str:
    """A text behind its title, as a sentence of Markdown; nothing of an empty one."""
    return f"{title} {safe(text, length)}." if text else ""


def _details(evidence: Evidence) -> list[str]:
    """What a reviewer reads after the rest, as far as there is room for it."""
    classes = review.class_table(evidence.class_scores[STUDENT])
    importance = review.importance_text(evidence.importances) if evidence.importances else ""
    return [
        f"**Classes**, the registered student's.\n\n{classes}",
        _said("**Columns that count.**", importance, 400),
        _said("**Where it is weakest.**", review.weakest_text(evidence.weakest), 400),
    ]


def _recipe(evidence: Evidence) -> str:
    config = evidence.config
    widths = one_line(", ".join(map(str, config.student_hidden)))
    _, rate = config.student_step
    other = config.strong_baseline_optimizer
    differs = config.student_mixup and other != config.baseline_optimizer
    strong = f", strong ones {other.capitalize()}" if differs else ""
    chosen = (
        f"Chosen, {len(evidence.trials)} tried, by its divergence from the ensemble on validation "
        f"rows, {evidence.trials[-1].divergence:.4f} nats. "
        if evidence.trials
        else ""
    )
    return (
        f"**Recipe.** `{config.recipe}`: {words.inputs_text(config.student_bins)}, "
        f"hidden layers {widths}; "
        f"T {config.temperature:g}, alpha {config.alpha:g}, averaged {config.averaging}, "
        f"{config.student_epochs} epochs of {config.student_optimizer.capitalize()}, "
        f"{config.schedule} learning rate {rate:g}, "
        f"{words.augmentation(config.augment, config.augment_factor)}, seed {config.seed}. {chosen}"
        f"Baselines have the same layers, epochs and seeds, and "
        f"{config.baseline_optimizer.capitalize()}{strong}."
    )
