"""What teachers, distill and main return, and their closing tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from kd_mlflow.distillation.menu import Trial
from kd_mlflow.distillation.teachers import Ensemble
from kd_mlflow.evaluation.comparison import Comparison
from kd_mlflow.evaluation.scores import Metrics
from kd_mlflow.report import closing, words
from kd_mlflow.report.closing import Page, Row, Shown, numbers_text, table_text
from kd_mlflow.report.decision import Decision
from kd_mlflow.report.leaderboard import (
    TeacherResult,
    leaderboard,
    name_of,
    other_metrics,
    worth_text,
)
from kd_mlflow.report.markdown import one_line, percent

RAREST_CLASSES = 10
"""Classes whose recall stands in the closing table of an imbalanced table."""


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
        balanced = percent(self.metrics["ensemble_test_balanced_accuracy"])
        first = ("ensemble, balanced accuracy", balanced if self.imbalanced else "")
        return table_text([first, *self.together, *self.rows(), run])

    def rows(self) -> list[Row]:
        """Each teacher, what the ensemble is made of, and the ensemble."""
        each = [
            (t.name, f"{percent(t.accuracy)}, weight {percent(t.weight)}") for t in self.teachers
        ]
        counted = self.metrics.get("ensemble_parameters")
        ensemble = "ensemble (reused)" if self.reused else "ensemble"
        return [
            ("", "test accuracy"),
            *each,
            ("made of", words.composition(self.ensemble.parts)),
            (ensemble, percent(self.metrics["ensemble_test_accuracy"])),
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
        details = table_text(self.imbalance_rows() + self.rows() + runs)
        links = closing.next_steps(self.page, f"models:/{self.model_name}@candidate")
        others = numbers_text(other_metrics(self.comparison))
        return "\n".join([details, others, "", self._title(), self.answer_text()]) + links

    def html(self) -> str:
        """What was registered, what it is worth, every model beside each other."""
        return closing.html_text(self._title()) + self.answer_html()

    def _title(self) -> str:
        return f"REGISTERED  {self.model_name} version {self.version} waits for promotion"

    def _answer(self) -> list[str]:
        """What the students are worth, in a sentence, and warnings."""
        said = (words.warning_text(self.comparison), self.never)
        worth = worth_text(self.comparison, self.beside)
        return [worth, *(f"warning: {text}" for text in said if text)]

    def answer_html(self) -> str:
        """What ``answer_text`` says, as HTML."""
        said = closing.html_text(f"{self.test_rows:,} test rows", *self._answer())
        return said + closing.html_table(leaderboard(self.comparison, self.beside))

    def answer_text(self) -> str:
        """What the students are worth: a sentence, and every model beside each other."""
        seeds = len(self.comparison.students["distilled"])
        means = f"; means of {seeds} seeds ± standard error" if seeds > 1 else ""
        if words.threshold_text(self.comparison):
            means += "; decided as the student is"
        lines = [line for text in self._answer() for line in closing.wrapped(text)]
        table = numbers_text(leaderboard(self.comparison, self.beside))
        return "\n".join([*lines, "", f"{self.test_rows:,} test rows{means}", table])

    def rows(self) -> list[Row]:
        """What the students gain, and what else there is to know beside the table of models."""
        metrics, comparison = self.comparison.summary, self.comparison
        gains = [
            (f"gain over {name_of(kind)}", words.both_gains_text(*both))
            for kind, both in comparison.over.items()
        ]
        named = f"{self.model_name} version {self.version}"
        return [
            *self.together,
            ("decided", words.threshold_text(comparison)),
            *gains,
            ("beside the ensemble", words.both_gaps_text(comparison.gap, comparison.loss_gap)),
            ("knowledge recovered", words.recovered_text(comparison)),
            ("registered, McNemar's p", words.p_values(comparison)),
            ("agreement", percent(metrics["test_agreement"])),
            ("student chosen", words.trial_text(self.trials[-1]) if self.trials else ""),
            ("student parameters", f"{metrics['student_parameters']:,.0f}"),
            ("compression ratio", _compression_text(metrics, self.beside)),
            ("registered", f"{named}, {percent(metrics['registered_test_accuracy'])}"),
        ]

    def imbalance_rows(self) -> list[Row]:
        """Balanced accuracy, the rarest classes' recall; nothing of a table without a majority."""
        comparison = self.comparison
        if not comparison.imbalanced:
            return []
        classes = words.rare_recalls(comparison, comparison.recalls)
        balanced = [
            (words.kind_text(who), percent(comparison.summary[f"{who}_test_balanced_accuracy"]))
            for who in comparison.recalls
        ]
        recalls = [
            (f"{one_line(name, 30)}, {rows:,} rows", " / ".join(recalls))
            for name, rows, recalls in classes[:RAREST_CLASSES]
        ]
        more = len(classes) - RAREST_CLASSES
        who = " / ".join(map(words.kind_text, comparison.recalls))
        return [
            ("", f"balanced accuracy on test rows: {words.majority_text(comparison)}"),
            *balanced,
            ("", f"recall by class, beside its size in the whole table: {who}"),
            *recalls,
            ("", f"and {more:,} more, in class_recall.json" if more > 0 else ""),
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
        why = "" if self.decision.passed else f"; because {self.decision.reason}"
        worth = worth_text(self.distill.comparison, self.distill.beside)
        return one_line(f"{self.decision.line()}{why}; {worth}", 2000)  # it is a tag

    def html(self) -> str:
        """The decision, every check, every model beside each other."""
        return self.decision.html() + self.distill.answer_html()

    def __repr__(self) -> str:
        """Everything that ``main`` found; the last lines are the answer."""
        taught, distill, decision = self.taught, self.distill, self.decision
        details = table_text(distill.imbalance_rows() + taught.rows() + distill.rows())
        uri = f"models:/{distill.model_name}@production" if decision.promoted else None
        answer = [decision.outcome_text(), distill.answer_text(), "", decision.gate_text()]
        others = numbers_text(other_metrics(distill.comparison))
        links = closing.next_steps(distill.page, uri)
        links = links.removeprefix("\n")  # the gate's column goes on
        return "\n".join([details, others, "", *answer]) + links
