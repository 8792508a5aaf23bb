"""The report of a comparison: one self-contained page."""

from __future__ import annotations

import json
import shlex
from base64 import b64encode
from collections import Counter
from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from kd_mlflow.distillation.evidence import Evidence, Footprint
from kd_mlflow.distillation.importance import MOST_ROWS
from kd_mlflow.evaluation.comparison import Comparison
from kd_mlflow.figures.style import LOOKS
from kd_mlflow.report import review_words, words
from kd_mlflow.report.model_card import OUT_OF_SCOPE, limits
from kd_mlflow.table.schema import CallerSchema

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

LISTED_CLASSES = 40
OPEN_IMPORTANCES = 10
OPEN_COLUMNS, LISTED_COLUMNS = 20, 200
"""Columns of the table of what to send that are seen at once, and those that unfold."""

JSON_COLUMNS = 30
"""With more columns than these an example of a request would be too long to read."""


def page(
    evidence: Evidence,
    pictures: Mapping[str, bytes],
    *,
    model_id: str,
    costs: Footprint | None = None,
) -> str:
    """Write the report as HTML that needs no network and no script.

    ``pictures``: PNG files by the names that ``gallery.draw`` gives them; ``costs`` are what the
    registered student costs to run.
    """
    summary = evidence.comparison.summary | (costs.metrics if costs else {})
    template = environment().get_template("report.html")
    return template.render(
        words=words,
        review=review_words,
        config=evidence.config,
        table=evidence.dataset.table,
        comparison=evidence.comparison,
        seeds=evidence.seeds,
        test_rows=evidence.test_rows,
        teachers=evidence.teacher_accuracies,
        metrics=summary,
        models=[name for name in MODELS if f"{name}_test_accuracy" in summary],
        model_names=MODELS,
        metric_rows=_metric_rows(evidence.comparison),
        colours={name: look.colour for name, look in LOOKS.items()},
        data=_data_rows(evidence),
        balance=_balance(evidence),
        recall=_recall(evidence.comparison),
        first_metric="balanced_accuracy" if evidence.comparison.imbalanced else "accuracy",
        facts=_facts(evidence, costs),
        decides=_decides(evidence),
        classes=_classes(evidence),
        importances=_importances(evidence),
        weakest=evidence.weakest,
        thresholds=evidence.thresholds,
        parts=evidence.parts,
        sent=_sent(evidence.schema),
        recipe=_recipe_rows(evidence),
        limits=limits(evidence.dataset.table, evidence.dataset.split, evidence.comparison),
        out_of_scope=OUT_OF_SCOPE,
        pictures={name: b64encode(picture).decode() for name, picture in pictures.items()},
        commands=_commands(evidence, model_id),
    )


def environment() -> Environment:
    """Where templates are found; what users wrote is escaped, what is missing is an error."""
    return Environment(
        loader=PackageLoader("kd_mlflow.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _data_rows(evidence: Evidence) -> list[tuple[str, str]]:
    table, split = evidence.dataset.table, evidence.dataset.split
    kinds = Counter(column.kind for column in evidence.encoding.columns)
    return [
        ("table", table.name),
        ("label", f"{table.target}, {len(table.classes)} classes"),
        ("rows", f"{len(table.labels):,}: {words.sides(split)}"),
        ("columns", ", ".join(f"{count} {kind}" for kind, count in kinds.items())),
        ("digest", table.digest),
    ]


def _balance(evidence: Evidence) -> dict[str, Any]:
    """Rows per class on each side; of many classes the most frequent, and how many are left out."""
    by_side = evidence.dataset.split.balance(evidence.dataset.table)
    labels = list(by_side["train"])
    if len(labels) > LISTED_CLASSES:
        labels.sort(key=lambda label: -sum(side[label] for side in by_side.values()))
    total = len(evidence.dataset.table.labels)
    rows = []
    for label in labels[:LISTED_CLASSES]:
        counts = [by_side[side][label] for side in ("train", "val", "test")]
        rows.append((label, counts, sum(counts) / total))
    return {"rows": rows, "more": max(0, len(labels) - LISTED_CLASSES)}


def _metric_rows(comparison: Comparison) -> dict[str, tuple[str, str]]:
    """Rows of the table of metrics; of an imbalanced table balanced accuracy comes first."""
    first = "balanced_accuracy" if comparison.imbalanced else "accuracy"
    return {first: METRIC_ROWS[first], **METRIC_ROWS}


def _facts(evidence: Evidence, costs: Footprint | None) -> list[tuple[str, str]]:
    """What a reader wants to know at once, beside the figures; nothing of what is not known."""
    config = evidence.config
    return [
        *([("owner", words.one_line(config.owner, 200))] if config.owner else []),
        *([("licence", words.one_line(config.licence, 200))] if config.licence else []),
        ("decides", _decides(evidence)),
        *([("costs", review_words.footprint_text(costs))] if costs else []),
    ]


def _decides(evidence: Evidence) -> str:
    """Which class the student predicts."""
    rule = str(evidence.config.decision_threshold)
    classes = evidence.dataset.table.classes
    return review_words.decision_text(evidence.encoding.threshold, classes, rule)


def _classes(evidence: Evidence) -> dict[str, Any]:
    """Rows, recall and precision of each class, of student and ensemble."""
    scores = evidence.class_scores
    rows = [
        (
            each[0].name,
            each[0].rows,
            [review_words.share_parts(s) for one in each for s in (one.recall, one.precision)],
        )
        for each in zip(*scores.values(), strict=True)
    ]
    if len(rows) > LISTED_CLASSES:
        rows.sort(key=lambda row: -row[1])
    more = max(0, len(rows) - LISTED_CLASSES)
    return {"models": list(scores), "rows": rows[:LISTED_CLASSES], "more": more}


def _importances(evidence: Evidence) -> dict[str, Any]:
    """What shuffling each column costs each model, and how long its bar is."""
    found = evidence.importances
    models = list(found[0].rise) if found else []
    most = max((each.rise[who].value for each in found for who in models), default=0.0)
    rows = [
        (
            each.column,
            [
                (
                    review_words.bounded_loss(each.rise[who]),
                    max(0.0, 100 * each.rise[who].value / (most or 1.0)),
                )
                for who in models
            ],
        )
        for each in found
    ]
    columns = len(evidence.encoding.columns)
    return {
        "models": models,
        "rows": rows[:OPEN_IMPORTANCES],
        "folded": rows[OPEN_IMPORTANCES:],
        "left_out": columns - len(rows),
        "val_rows": min(MOST_ROWS, len(evidence.dataset.split.val)),
    }


def _sent(schema: CallerSchema) -> dict[str, Any]:
    """What a caller must send: a line per column, the first ones of many unfolded."""
    rows = [
        (
            column.name,
            review_words.KINDS[column.kind],
            review_words.range_text(column),
            review_words.gaps_text(column),
            column.filled,
        )
        for column in schema.columns[:LISTED_COLUMNS]
    ]
    return {
        "rows": rows[:OPEN_COLUMNS],
        "folded": rows[OPEN_COLUMNS:],
        "more": max(0, len(schema.columns) - LISTED_COLUMNS),
    }


def _recall(comparison: Comparison) -> dict[str, Any]:
    """Each class's recall by model, of many classes of the most frequent."""
    names, rows = list(comparison.class_rows), list(comparison.class_rows.values())
    places = list(range(len(names)))
    if len(names) > LISTED_CLASSES:
        places.sort(key=lambda place: -rows[place])
    shown = [
        (
            names[place],
            rows[place],
            [words.recall_text(recalls[place]) for recalls in comparison.recalls.values()],
        )
        for place in places[:LISTED_CLASSES]
    ]
    return {
        "models": [MODELS.get(who, words.kind_text(who)) for who in comparison.recalls],
        "rows": shown,
        "more": max(0, len(names) - LISTED_CLASSES),
    }


def _recipe_rows(evidence: Evidence) -> list[tuple[str, str]]:
    config, summary = evidence.config, evidence.comparison.summary
    widths = ", ".join(map(str, config.student_hidden))
    mixup = f"mixup on labels, Beta {config.student_mixup:g}" if config.student_mixup else "none"
    return [
        *_teachers_rows(evidence),
        ("recipe", config.recipe),
        ("inputs", words.inputs_text(config.student_bins)),
        *([("chosen", _menu_text(evidence))] if evidence.trials else []),
        ("student", f"hidden layers {widths}: {summary['student_parameters']:,} parameters"),
        ("distillation", f"T {config.temperature:g}, alpha {config.alpha:g} (soft loss's weight)"),
        ("ensemble averages", config.averaging),
        ("new rows", words.augmentation(config.augment, config.augment_factor)),
        ("strong baselines", mixup),
        (
            "training",
            f"{config.student_epochs} epochs, batches of {config.batch_size}, {config.schedule} "
            f"learning rate {config.learning_rate:g}, "
            f"weight decay {config.student_weight_decay:g}",
        ),
        ("calibration", "one temperature per student" if config.calibrate else "none"),
        ("seed", f"{config.seed}: {evidence.seeds} of each kind of student"),
    ]


def _menu_text(evidence: Evidence) -> str:
    """What was tried before a student was kept."""
    tried = "; ".join(words.trial_text(trial) for trial in evidence.trials[:-1])
    kept = words.trial_text(evidence.trials[-1])
    return f"{kept}{f'; larger than needed, or too far from it: {tried}' if tried else ''}"


def _teachers_rows(evidence: Evidence) -> list[tuple[str, str]]:
    """Where the ensemble comes from; size and range of teachers that are known one by one."""
    teachers = evidence.teacher_accuracies
    whole = evidence.comparison.summary.get("ensemble_parameters")
    if not teachers or not whole:
        return [("teachers", evidence.config.teachers)]
    text = (
        f"{len(teachers)}, {whole:,.0f} parameters together where they count; "
        f"test accuracy {words.percent(min(teachers))} to {words.percent(max(teachers))}"
    )
    return [("teachers", text)]


def _commands(evidence: Evidence, model_id: str) -> dict[str, str]:
    """What to type to load, serve and ask the student."""
    uri = f"models:/{evidence.config.model_name}@production"
    serve = f"mlflow models serve --env-manager local -m {shlex.quote(uri)} -p 5001"
    python = f"""\
import mlflow
import pandas as pd

student = mlflow.pyfunc.load_model({json.dumps(uri, ensure_ascii=False)})
student.predict(pd.read_csv("rows.csv"))  # prediction, probability_<class>"""
    file = f"mlflow models predict --env-manager local -m {shlex.quote(uri)} -t csv -i rows.csv"
    return {
        "python": python,
        "serve": serve,
        "csv": "curl -s localhost:5001/invocations -H 'Content-Type: text/csv' "
        "--data-binary @rows.csv",
        "json": _json_request(evidence),
        "file": file,
        "this": f"models:/{model_id}",
    }


def _json_request(evidence: Evidence) -> str:
    """A request with an example row; empty where it would be too wide to read."""
    features = evidence.example.head(1)
    if features.shape[1] > JSON_COLUMNS:
        return ""
    rows = json.loads(features.to_json(orient="records", date_format="iso"))
    body = shlex.quote(json.dumps({"dataframe_records": rows}, ensure_ascii=False))
    return f"curl -s localhost:5001/invocations -H 'Content-Type: application/json' -d {body}"
