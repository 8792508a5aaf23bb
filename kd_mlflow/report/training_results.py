"""What teachers, distill and main return, and their closing tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from kd_mlflow.distillation.menu import Trial
from kd_mlflow.distillation.teachers import Ensemble
from kd_mlflow.evaluation.comparison import Comparison
from kd_mlflow.evaluation.scores import Metrics
from kd_mlflow.report import leaderboard, words
from kd_mlflow.report.closing import Page, Row, Shown, html_text, next_steps, table_text, wrapped
from kd_mlflow.report.decision import (
    Decision,
    decision_html,
    decision_line,
    gate_text,
    outcome_text,
)
from kd_mlflow.report.leaderboard import TeacherResult

RAREST_CLASSES = 10
"""Classes whose recall stands in the closing table of an imbalanced table."""

VERDICT_LENGTH = 2000
"""Characters of a verdict, which is a tag."""


@dataclass(frozen=True, kw_only=True, repr=False)
class TeachersResult(Shown):
    """An ensemble of teachers and what it is worth on the test rows.

    Fields:
        run_id: the run that trained it
        reused: whether an earlier command trained it
        ensemble: the trained models, which score raw rows
        teachers: each teacher, in the order of their runs
        metrics: those of the run, by their names there
        imbalanced: whether one class has so many rows that accuracy says little
        together: how the table is split by its own columns, as rows of the closing table
    """

    run_id: str
    reused: bool
    ensemble: Ensemble
    teachers: tuple[TeacherResult, ...]
    metrics: Metrics
    imbalanced: bool = False
    together: Sequence[tuple[str, str]] = ()

    @property
    def teacher_accuracies(self) -> tuple[float, ...]:
        """Each teacher's accuracy on the test rows."""
        return tuple(teacher.accuracy for teacher in self.teachers)

    def __repr__(self) -> str:
        """Each teacher and the ensemble."""
        run = ("ensemble run", self.run_id + (" (reused)" if self.reused else ""))
        balanced = words.percent(self.metrics["ensemble_test_balanced_accuracy"])
        first = ("ensemble, balanced accuracy", balanced if self.imbalanced else "")
        return table_text([first, *self.together, *teachers_rows(self), run])


def teachers_rows(result: TeachersResult) -> list[Row]:
    """Each teacher, what the ensemble is made of, and the ensemble."""
    each = [
        (teacher.name, f"{words.percent(teacher.accuracy)}, weight {words.percent(teacher.weight)}")
        for teacher in result.teachers
    ]
    name = "ensemble (reused)" if result.reused else "ensemble"
    counted = result.metrics.get("ensemble_parameters")
    return [
        ("", "test accuracy"),
        *each,
        ("made of", words.composition(result.ensemble.parts)),
        (name, words.percent(result.metrics["ensemble_test_accuracy"])),
        ("ensemble parameters", f"{counted:,.0f}" if counted else ""),
    ]


@dataclass(frozen=True, kw_only=True, repr=False)
class DistillResult(Shown):
    """A comparison, and the version that its registered student became.

    Fields:
        run_id: the run of the comparison
        taught_by: the teachers in words
        teachers_run_id: the run of the ensemble, None where other models teach
        comparison: students, baselines and ensemble on the test rows
        model_name: the registered model
        version: the number of its new version
        test_rows: how many rows were compared on
        trials: the students that were tried before, the kept one last
        note: the description of the run
        page: where its run is shown
        together: how the table is split by its own columns, as rows of the closing table
        beside: what the comparison has not, by its metrics' names: the majority class, times, sizes
        never: which classes the registered student never predicts, empty where there is none
    """

    run_id: str
    taught_by: str
    teachers_run_id: str | None
    comparison: Comparison
    model_name: str
    version: str
    test_rows: int
    trials: Sequence[Trial] = ()
    note: str = ""
    page: Page | None = None
    together: Sequence[tuple[str, str]] = ()
    beside: Metrics = field(default_factory=dict)
    never: str = ""

    def __repr__(self) -> str:
        """The comparison in detail, then what was registered, what it is worth beside what."""
        runs = [("distill run", self.run_id), ("teachers", self.taught_by)]
        details = table_text(imbalance_rows(self) + distill_rows(self) + runs)
        others = leaderboard.other_metrics_text(self.comparison)
        links = next_steps(self.page, f"models:/{self.model_name}@candidate")
        return "\n".join([details, others, "", _title(self), answer_text(self)]) + links

    def _repr_html_(self) -> str:
        """What was registered, what it is worth, every model beside each other."""
        return html_text(_title(self)) + answer_html(self)


def _title(result: DistillResult) -> str:
    return f"REGISTERED  {result.model_name} version {result.version} waits for promotion"


def answer_html(result: DistillResult) -> str:
    """What ``answer_text`` says, as HTML."""
    worth = leaderboard.worth_text(result.comparison, result.beside)
    said = html_text(f"{result.test_rows:,} test rows", worth, *_warnings(result))
    return said + leaderboard.leaderboard_html(result.comparison, result.beside)


def answer_text(result: DistillResult) -> str:
    """What the students are worth: a sentence, and every model beside each other."""
    comparison = result.comparison
    seeds = len(comparison.students["distilled"])
    means = f"; means of {seeds} seeds ± standard error" if seeds > 1 else ""
    said = [leaderboard.worth_text(comparison, result.beside), *_warnings(result), ""]
    lines = [line for text in said for line in wrapped(text)]
    table = leaderboard.leaderboard_text(comparison, result.beside)
    return "\n".join([*lines, f"{result.test_rows:,} test rows{means}", table])


def _warnings(result: DistillResult) -> list[str]:
    said = (words.warning_text(result.comparison), result.never)
    return [f"warning: {text}" for text in said if text]


def distill_rows(result: DistillResult) -> list[Row]:
    """What the students gain, and what else there is to know beside the table of models."""
    metrics, comparison = result.comparison.summary, result.comparison
    gains = [
        (f"gain over {leaderboard.name_of(kind)}", words.both_gains_text(*both))
        for kind, both in comparison.over.items()
    ]
    named = f"{result.model_name} version {result.version}"
    return [
        *result.together,
        ("decided", words.threshold_text(comparison)),
        *gains,
        ("beside the ensemble", words.both_gaps_text(comparison.gap, comparison.loss_gap)),
        ("knowledge recovered", words.recovered_text(comparison)),
        ("registered, McNemar's p", words.p_values(comparison)),
        ("agreement", words.percent(metrics["test_agreement"])),
        ("student chosen", words.trial_text(result.trials[-1]) if result.trials else ""),
        ("student parameters", f"{metrics['student_parameters']:,.0f}"),
        ("compression ratio", _compression_text(metrics, result.beside)),
        ("registered", f"{named}, {words.percent(metrics['registered_test_accuracy'])}"),
    ]


def _compression_text(metrics: Metrics, beside: Metrics) -> str:
    ratio = metrics.get("compression_ratio")
    numbers = (
        "unknown: the teachers' parameters cannot be counted" if ratio is None else f"{ratio:.1f}x"
    )
    if "registered_latency_ms" not in beside:
        return numbers
    one = beside["ensemble_latency_ms"] / beside["registered_latency_ms"]
    many = beside["ensemble_bulk_us"] / beside["registered_bulk_us"]
    return f"{numbers}; one row {one:.1f}, many {many:.1f} times faster"


def imbalance_rows(result: DistillResult) -> list[Row]:
    """Balanced accuracy and the rarest classes' recall; nothing of a table without a majority."""
    comparison = result.comparison
    if not comparison.imbalanced:
        return []
    classes, places = list(comparison.class_rows.items()), words.rarest_classes(comparison)
    metrics, each = comparison.summary, comparison.recalls.values()
    balanced = [
        (words.kind_text(who), words.percent(metrics[f"{who}_test_balanced_accuracy"]))
        for who in comparison.recalls
    ]
    recalls = [
        (
            f"{words.one_line(classes[place][0], 30)}, {classes[place][1]:,} rows",
            " / ".join(words.recall_text(recalls[place]) for recalls in each),
        )
        for place in places[:RAREST_CLASSES]
    ]
    more = len(places) - RAREST_CLASSES
    return [
        ("", f"balanced accuracy on test rows: {words.majority_text(comparison)}"),
        *balanced,
        ("", f"recall by class: {' / '.join(map(words.kind_text, comparison.recalls))}"),
        *recalls,
        ("", f"and {more:,} more, in class_recall.json" if more > 0 else ""),
    ]


@dataclass(frozen=True, kw_only=True, repr=False)
class MainResult(Shown):
    """What the three steps of ``main`` found.

    Fields:
        taught: the ensemble
        distill: the students
        decision: the promotion
    """

    taught: TeachersResult
    distill: DistillResult
    decision: Decision

    def refuse(self) -> None:
        """Raise RegistryError where the gate rejected the student."""
        self.decision.refuse()

    @property
    def verdict(self) -> str:
        """Approved or rejected, and why, in a sentence."""
        decision = self.decision
        why = "" if decision.passed else f"; because {decision.reason}"
        worth = leaderboard.worth_text(self.distill.comparison, self.distill.beside)
        return words.one_line(f"{decision_line(decision)}{why}; {worth}", VERDICT_LENGTH)

    def _repr_html_(self) -> str:
        """The decision, every check, every model beside each other."""
        return decision_html(self.decision) + answer_html(self.distill)

    def __repr__(self) -> str:
        """Everything that ``main`` found; the last lines are the answer."""
        details = table_text(
            imbalance_rows(self.distill) + teachers_rows(self.taught) + distill_rows(self.distill)
        )
        decision = self.decision
        uri = f"models:/{self.distill.model_name}@production" if decision.promoted else None
        answer = [outcome_text(decision), answer_text(self.distill), "", gate_text(decision)]
        others = leaderboard.other_metrics_text(self.distill.comparison)
        links = next_steps(self.distill.page, uri).removeprefix("\n")  # the gate's column goes on
        return "\n".join([details, others, "", *answer]) + links
