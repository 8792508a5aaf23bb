"""The pages of a comparison and of an evaluation, each one self-contained file."""

from __future__ import annotations

import re
from base64 import b64encode
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from kd_mlflow.distillation.evidence import Evidence
from kd_mlflow.distillation.footprint import Footprint
from kd_mlflow.distillation.menu import Trial
from kd_mlflow.distillation.review import MOST_ROWS, STUDENT
from kd_mlflow.evaluation.drift import LARGE, MODERATE
from kd_mlflow.evaluation.findings import Findings, predicted_shares
from kd_mlflow.figures.style import LOOKS, Picture
from kd_mlflow.report import asking, leaderboard, review, words
from kd_mlflow.report import evaluation_result as says
from kd_mlflow.report.decision import MARKS, Decision
from kd_mlflow.report.markdown import percent
from kd_mlflow.report.notes import OUT_OF_SCOPE, limits
from kd_mlflow.table.columns import left_out_text

MODELS = {
    "ensemble": "ensemble",
    "distilled": "distilled, mean",
    "baseline": "baseline, mean",
    "strong_baseline": "strong baseline, mean",
    "registered": "registered student",
    "boosting": "boosted trees alone",
}
"""Columns of the table of metrics."""

METRIC_ROWS = {
    "accuracy": ("accuracy", "↑"),
    "balanced_accuracy": ("balanced accuracy", "↑"),
    "roc_auc": ("ROC AUC", "↑"),
    "average_precision": ("average precision", "↑"),
    "log_loss": ("log loss, nats", "↓"),
    "ece": ("ECE", "↓"),
}
"""Its rows: what they are called, and which way is better."""

DRIFTED, EVALUATED = 10, 60
"""Columns whose drift is shown, the most shifted ones: of test rows, of a table that is scored."""


def page(
    evidence: Evidence, said: dict[str, Any], pictures: Mapping[str, Picture], *, model_id: str
) -> str:
    """Write the report as HTML that needs nothing else.

    ``said`` is its ``document``, ``pictures`` are those of ``gallery``.
    """
    comparison, metrics, table = evidence.comparison, said["metrics"], evidence.dataset.table
    first = "balanced_accuracy" if comparison.imbalanced else "accuracy"
    by_class = zip(*comparison.recalls.values(), strict=True)
    recalls = zip(comparison.class_rows.items(), by_class, strict=True)
    scored = zip(*evidence.class_scores.values(), strict=True)
    weights = sorted(evidence.weights, key=lambda each: -each.rows)
    rises = [rise for each in evidence.importances for rise in each.rise.values()]
    template = environment().get_template("report.html")
    return template.render(
        said | vars(evidence),
        words=words,
        review=review,
        table=table,
        seeds=evidence.seeds,
        test_rows=evidence.test_rows,
        models=[name for name in MODELS if f"{name}_test_accuracy" in metrics],
        model_names=MODELS,
        metric_rows={first: METRIC_ROWS[first], **METRIC_ROWS},
        colours={name: look.colour for name, look in LOOKS.items()},
        balance=_balance(evidence),
        drift=evidence.drift[:DRIFTED] if table.times is not None else (),
        recall=review.most_frequent(recalls, lambda row: row[0][1]),
        never=review.never_text(evidence.class_scores[STUDENT]),
        board=leaderboard.models(comparison, metrics),
        third=leaderboard.third_metric(comparison),
        heads=leaderboard.HEADS,
        ms_text=leaderboard.ms_text,
        decides=review.decides(evidence),
        class_scores=evidence.class_scores,
        classes=review.most_frequent(scored, lambda each: each[0].rows),
        weights=review.most_frequent(weights, lambda each: each.rows),
        most_rise=max((rise.value for rise in rises), default=0.0) or 1.0,
        val_rows=min(MOST_ROWS, len(evidence.dataset.split.val)),
        sent=evidence.schema.columns[: review.LISTED_COLUMNS],
        columns_not_listed=len(evidence.schema.columns) - review.LISTED_COLUMNS,
        pictures=pictures,
        commands=asking.commands(evidence, model_id),
        written=asking.written_text(evidence),
    )


def document(
    evidence: Evidence,
    costs: Footprint | None,
    beside: Mapping[str, float],
    *,
    made: Sequence[tuple[str, str]] = (),
    run_id: str = "",
) -> dict[str, Any]:
    """All that the report says as a JSON document.

    ``beside`` are metrics that the comparison has not, ``made`` says when, of what and by whom.
    """
    comparison, warning = evidence.comparison, words.warning_text(evidence.comparison)
    metrics = {**comparison.summary, **beside}
    return {
        "approve": not warning,
        "because": warning or leaderboard.worth_text(comparison, metrics),
        "run_id": run_id,
        "never_predicted": [e.name for e in evidence.class_scores[STUDENT] if not e.predicted],
        "facts": review.facts(evidence, costs) | dict(made),
        "leaderboard": leaderboard.leaderboard_rows(comparison, metrics),
        "metrics": metrics,
        "recall": comparison.recall_by_class(),
        **evidence.review(),
        "data": _data_rows(evidence),
        "recipe": _recipe_rows(evidence),
        "limits": limits(evidence.dataset.table, evidence.dataset.split, comparison),
        "out_of_scope": OUT_OF_SCOPE,
    }


def evaluation_page(findings: Findings, pictures: Mapping[str, Picture], *, uri: str) -> str:
    """Write the page of an evaluation of the model ``uri``; ``pictures`` of ``figures.drift``."""
    predicted = predicted_shares(findings.scores)
    trained = findings.class_shares or (None,) * len(predicted)
    classes = list(zip(findings.classes, trained, predicted, strict=True))
    template = environment().get_template("evaluation.html")
    return template.render(
        words=words,
        says=says,
        found=findings,
        uri=uri,
        metrics=findings.logged(),
        metric_rows={name: METRIC_ROWS[name] for name in findings.metrics},
        levels=(MODERATE, LARGE),
        drift=findings.drift[:EVALUATED],
        classes={
            "rows": classes[: review.LISTED_CLASSES],
            "more": len(classes) - review.LISTED_CLASSES,
        },
        pictures=pictures,
    )


def with_decision(report: str, decision: Decision) -> str:
    """A report whose first screen says what the gate has answered, in place of what stood there."""
    template = environment().get_template("decision.html")
    block = template.render(decision=decision, marks=MARKS)
    return re.sub(
        "<!--decision-->.*?<!--/decision-->", lambda _: block.strip(), report, count=1, flags=re.S
    )


@cache  # a page's template takes a quarter of a second to compile
def environment() -> Environment:
    """Where templates are found; what users wrote is escaped, what is missing is an error."""
    found = Environment(
        loader=PackageLoader("kd_mlflow.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters["base64"] = lambda content: b64encode(content).decode()
    return found


def _data_rows(evidence: Evidence) -> dict[str, str]:
    table, split = evidence.dataset.table, evidence.dataset.split
    kinds = Counter(column.kind for column in evidence.encoding.columns)
    counted = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
    return {
        "table": table.name,
        "label": f"{table.target}, {len(table.classes)} classes",
        "rows": f"{len(table.labels):,}: {words.sides(split)}",
        "columns": "; ".join(filter(None, [counted, left_out_text(table.columns)])),
        **dict(words.together(evidence.dataset)),
        "digest": table.digest,
    }


def _balance(evidence: Evidence) -> dict[str, Any]:
    """Rows per class on each side; of many classes the most frequent, and how many are left out."""
    by_side = evidence.dataset.split.balance(evidence.dataset.table)
    total, rows = len(evidence.dataset.table.labels), []
    for label in by_side["train"]:
        counts = [by_side[side][label] for side in ("train", "val", "test")]
        rows.append((label, counts, sum(counts) / total))
    return review.most_frequent(rows, lambda row: row[2])


def _recipe_rows(evidence: Evidence) -> dict[str, str]:
    config, summary = evidence.config, evidence.comparison.summary
    widths = ", ".join(map(str, config.student_hidden))
    rows, rate = config.student_step
    baseline_rows, baseline_rate = config.baseline_step
    strong = config.strong_baseline_optimizer.capitalize()
    mixup = f"mixup on labels, Beta {config.student_mixup:g}, {strong}"
    return {
        "teachers": _teachers_text(evidence),
        "recipe": config.recipe,
        "inputs": words.inputs_text(config.student_bins),
        **({"chosen": _menu_text(evidence.trials)} if evidence.trials else {}),
        "student": f"hidden layers {widths}: {summary['student_parameters']:,} parameters",
        "distillation": f"T {config.temperature:g}, alpha {config.alpha:g} (soft loss's weight)",
        "ensemble averages": config.averaging,
        "new rows": words.augmentation(config.augment, config.augment_factor),
        "strong baselines": mixup if config.student_mixup else "none",
        "training": f"{config.student_epochs} epochs of {config.student_optimizer.capitalize()}, "
        f"batches of {rows}, {config.schedule} learning rate {rate:g}, "
        f"weight decay {config.student_weight_decay:g}; baselines' of "
        f"{config.baseline_optimizer.capitalize()}, {baseline_rows}, {baseline_rate:g}, "
        f"{config.baseline_weight_decay:g}",
        "calibration": "one temperature per student" if config.calibrate else "none",
        "seed": f"{config.seed}: {evidence.seeds} of each kind of student",
    }


def _menu_text(trials: Sequence[Trial]) -> str:
    *others, kept = map(words.trial_text, trials)
    tried = "; ".join(others)
    return f"{kept}{f'; larger than needed, or too far from it: {tried}' if tried else ''}"


def _teachers_text(evidence: Evidence) -> str:
    """Where the ensemble comes from; size and range of teachers that are known one by one."""
    teachers = evidence.teacher_accuracies
    whole = evidence.comparison.summary.get("ensemble_parameters")
    if not teachers or not whole:
        return evidence.config.teachers
    return (
        f"{len(teachers)}, {whole:,.0f} parameters together where they count; "
        f"test accuracy {percent(min(teachers))} to {percent(max(teachers))}"
    )
