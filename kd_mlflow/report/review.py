"""What a reviewer asks: as phrases for the card, as the page's template takes it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from kd_mlflow.distillation.evidence import Evidence
from kd_mlflow.distillation.footprint import Footprint
from kd_mlflow.distillation.review import Importance
from kd_mlflow.distillation.segments import Weakest
from kd_mlflow.evaluation.intervals import Interval
from kd_mlflow.evaluation.scores import ClassScores
from kd_mlflow.evaluation.thresholds import RULE_WORDS, RULES
from kd_mlflow.report.markdown import first_of, markdown_table, one_line, percent, safe
from kd_mlflow.table.columns import left_out_text
from kd_mlflow.table.forms import PLAIN, words
from kd_mlflow.table.profile import CallerSchema, SentColumn

KINDS = {
    "numeric": "number",
    "boolean": "true or false",
    "date": "date, ISO 8601, UTC",
    "category": "category",
}

MOST = 5
"""Classes that are named of those that are never predicted."""

LISTED_CATEGORIES = 8
CARD_COLUMNS, CARD_CATEGORIES = 8, 3
CARD_CLASSES, CARD_SEGMENTS, CARD_IMPORTANCES = 4, 2, 5
CARD_TABLE = 900
"""Characters of the card's table of columns, at most: the rest of the card must fit beside it."""

LISTED_CLASSES = 40
OPEN_IMPORTANCES = 10
OPEN_COLUMNS, LISTED_COLUMNS = 20, 200
"""Columns of the report's table of what to send that are seen at once, and those that unfold."""


def bounded_share(share: Interval | None, of: str = "") -> str:
    """Write a share with its interval in percent, which ``of`` may name; - where there is none.

    >>> bounded_share(Interval(value=0.9, low=0.88, high=0.92))
    '90.00 % (88.00 to 92.00)'
    """
    if share is None:
        return "-"
    return f"{percent(share.value)} ({of}{100 * share.low:.2f} to {100 * share.high:.2f})"


def share_parts(share: Interval | None) -> tuple[str, str]:
    """Write a share and, apart and shorter, its interval; - where there is none.

    >>> share_parts(Interval(value=0.9, low=0.88, high=0.92))
    ('90.00 %', '88.0 to 92.0')
    """
    if share is None:
        return "-", ""
    return percent(share.value), f"{100 * share.low:.1f} to {100 * share.high:.1f}"


def bounded_loss(loss: Interval, of: str = "") -> str:
    """Write a log loss, or how much one rises, with its interval, which ``of`` may name.

    >>> bounded_loss(Interval(value=0.1234567, low=0.1, high=0.15))
    '0.1235 (0.1000 to 0.1500)'
    """
    return f"{loss.value:.4f} ({of}{loss.low:.4f} to {loss.high:.4f})"


def weakest_text(weakest: Weakest | None) -> str:
    """Say which rows a student is measurably worst on; empty where none were looked at."""
    if weakest is None or not weakest.looked_at:
        return ""
    beyond = [each for each in weakest.segments if each.beyond_chance]
    if not beyond:
        return (
            f"Of {weakest.looked_at:,} segments of one column with {weakest.least_rows} test rows "
            "or more, none is worse than chance allows"
        )
    named = "; ".join(
        f"{one_line(each.column, 30)} {one_line(each.values, 30)} ({each.rows:,} rows): log loss "
        f"{each.loss.value:.3f}, accuracy {percent(each.accuracy)}"
        for each in beyond[:CARD_SEGMENTS]
    )
    return f"Weakest, against a log loss of {weakest.loss:.3f} on all test rows: {named}"


def importance_text(importances: Sequence[Importance]) -> str:
    """Name the columns that count most for the student."""
    who = next(iter(importances[0].rise))
    named = ", ".join(
        f"{one_line(each.column, 30)} {each.rise[who].value:+.3f}"
        for each in importances[:CARD_IMPORTANCES]
    )
    return (
        "Rise of the student's log loss on validation rows where one column's values are "
        f"shuffled: {named}"
    )


def bytes_text(size: float) -> str:
    """Write a number of bytes with a unit.

    >>> bytes_text(96_123), bytes_text(1_378_741_536)
    ('96 kB', '1.4 GB')
    """
    for unit, one in (("GB", 1e9), ("MB", 1e6)):
        if size >= one:
            return f"{size / one:.1f} {unit}"
    return f"{size / 1e3:.0f} kB"


def footprint_text(costs: Footprint) -> str:
    """Say what a student costs to run."""
    return (
        f"{costs.speed.latency_ms:.2f} ms to encode and score one row where it was trained, "
        f"without MLflow, {costs.latency_ratio:.1f} times faster than the ensemble; of many "
        f"encoded rows {costs.speed.bulk_us:.2f} µs for each, {costs.bulk_ratio:.1f} times faster; "
        f"files of {bytes_text(costs.model_bytes)}; the packages that it requires take "
        f"{bytes_text(costs.environment_bytes)} installed, before Python compiles them"
    )


def never_text(scores: Sequence[ClassScores]) -> str:
    """Name the classes that a model never predicts, or never rightly; empty where there is none.

    >>> given = {"rows": 3, "recall": None, "precision": None}
    >>> never_text([ClassScores(name="a", predicted=0, **given)])
    'never predicted: a (3 test rows)'
    """
    never = [e for e in scores if not e.predicted or (e.recall and not e.recall.value)]
    how = "never rightly predicted" if any(e.predicted for e in never) else "never predicted"
    named = [f"{one_line(each.name, 30)} ({each.rows:,} test rows)" for each in never]
    return f"{how}: {first_of(named, MOST)}" if never else ""


def class_table(scores: Sequence[ClassScores]) -> str:
    """Recall, precision and rows of each class as a Markdown table; of many the worst, in words."""
    if len(scores) > CARD_CLASSES:
        known = [(each.recall.value, each) for each in scores if each.recall is not None]
        least = sorted(known, key=lambda pair: pair[0])[:CARD_CLASSES]
        named = (f"{safe(e.name, 30)} {percent(recall)} of {e.rows:,} rows" for recall, e in least)
        return f"Least recall of {len(scores):,} classes: {', '.join(named)}."
    rows = [[safe(each.name, 30), *class_cells(each)] for each in scores]
    return markdown_table(["class", "test rows", "recall, 95 %", "precision, 95 %"], rows)


def class_cells(each: ClassScores) -> list[str]:
    """A class's rows, recall and precision; - for what has no rows."""
    return [f"{each.rows:,}", bounded_share(each.recall), bounded_share(each.precision)]


def range_text(sent: SentColumn, categories: int = LISTED_CATEGORIES, length: int = 30) -> str:
    """Say what training rows held of a column: its range, or so many categories, each cut."""
    column = sent.column
    if column.kind == "boolean":
        return "true, false"
    if column.kind == "category":
        names = [one_line(name, length) for name in column.categories[:categories]]
        more = len(column.categories) - len(names)
        return ", ".join([*names, *([f"and {more:,} more"] if more else [])]) or "no value"
    ends = " to ".join(dict.fromkeys(sent.texts)) or "no value"
    written, always = (words(column.kind, form) for form in (column.form, PLAIN))
    return ends if written == always else f"{ends}; also as {written}"


def gaps_text(column: SentColumn) -> str:
    """Say how many training rows had no value; - where it is not known any more."""
    if column.gaps is None:
        return "-"
    if not column.gaps:
        return "none"
    return "below 0.01 %" if column.gaps < 1e-4 else percent(column.gaps)


def sent_table(schema: CallerSchema) -> str:
    """The columns that a caller sends as a Markdown table, the first ones of many."""
    lines = ["| column | takes | in training | empty |", "|---|---|---|---|"]
    for sent in schema.columns[:CARD_COLUMNS]:
        held = safe(range_text(sent, CARD_CATEGORIES, 16), 70)
        cells = [safe(sent.column.name, 30), KINDS[sent.column.kind], held, gaps_text(sent)]
        line = f"| {' | '.join(cells)} |"
        if sum(map(len, lines)) + len(line) > CARD_TABLE:
            break
        lines.append(line)
    more = len(schema.columns) - len(lines) + 2
    rest = f"| and {more:,} more of {len(schema.columns):,} | see `schema.json` | | |"
    return "\n".join([*lines, *([rest] if more else [])])


def facts(evidence: Evidence, costs: Footprint | None) -> dict[str, str]:
    """What a reader wants to know at once, beside the figures; nothing of what is not known."""
    config, left_out = evidence.config, left_out_text(evidence.dataset.table.columns)
    found = {
        "owner": config.owner and one_line(config.owner, 200),
        "licence": config.licence and one_line(config.licence, 200),
        "decides": decides(evidence),
        "left out": left_out.removeprefix("left out: "),
        "costs": footprint_text(costs) if costs else "",
    }
    return {name: text for name, text in found.items() if text}


def decides(evidence: Evidence) -> str:
    """Say which class the student predicts."""
    threshold, classes = evidence.encoding.threshold, evidence.dataset.table.classes
    if threshold is None:
        return f"The {'likelier' if len(classes) == 2 else 'likeliest'} class is predicted"
    rule = str(evidence.config.decision_threshold)
    how = f"best {RULE_WORDS[rule]} on validation rows" if rule in RULES else "as asked for"
    if isinstance(threshold, tuple):
        return f"The class of the greatest probability times weight is predicted ({how})"
    positive = one_line(str(classes[1]), 30)
    return f"The class {positive} is predicted from a probability of {threshold:.4f} on ({how})"


def most_frequent(rows: Iterable[Any], rows_of: Callable[[Any], float]) -> dict[str, Any]:
    """Lines about classes; of many those of the most frequent ones, and how many are left out."""
    every = list(rows)
    if len(every) > LISTED_CLASSES:
        every.sort(key=lambda row: -rows_of(row))
    return {"rows": every[:LISTED_CLASSES], "more": max(0, len(every) - LISTED_CLASSES)}
