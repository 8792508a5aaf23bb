"""The straight line: data -> teachers -> soft targets -> students -> evaluation -> registry.

One function per entry point. Each takes its configuration, those that train a listener too, and
returns what it found as data; printing is the command line's. Each makes its tracker first, so that
no table is read for a store that is not there, and raises StoreError where MLflow's store fails.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from kd_mlflow.config import entry_points as configs
from kd_mlflow.config.recipes import BEST
from kd_mlflow.distillation.identity import fingerprint
from kd_mlflow.distillation.inputs import teachers_encoding
from kd_mlflow.distillation.onnx_graph import require_onnx
from kd_mlflow.distillation.review import check_decision, check_gate_metric
from kd_mlflow.distillation.teachers import Teacher
from kd_mlflow.errors import StoreError
from kd_mlflow.models.model_teachers import load_models
from kd_mlflow.models.processes import CleanProcess
from kd_mlflow.registry import copies, moves, versions
from kd_mlflow.report import notes
from kd_mlflow.report.command_results import (
    ColumnsResult,
    History,
    PredictResult,
    Rollback,
    SweepResult,
)
from kd_mlflow.report.decision import Decision
from kd_mlflow.report.evaluation_result import EvaluationResult
from kd_mlflow.report.leaderboard import headline_metrics, leaderboard_csv, leaderboard_rows
from kd_mlflow.report.training_results import DistillResult, MainResult, TeachersResult
from kd_mlflow.steps.decisions import history_step, promote_step, rollback_step, settle_step
from kd_mlflow.steps.distill import check_student_memory, distill_step
from kd_mlflow.steps.examine import Submitted, dataset_of
from kd_mlflow.steps.train_teachers import teachers_step
from kd_mlflow.steps.transfer import transfer_step
from kd_mlflow.steps.work import Listener, Session, begun
from kd_mlflow.table.dataset import read_dataset
from kd_mlflow.table.loading import describe_columns
from kd_mlflow.table.sources import Reading
from kd_mlflow.tracking import lookup
from kd_mlflow.tracking.failures import store_errors
from kd_mlflow.tracking.runs import Tracker
from kd_mlflow.tracking.store import check_stores

R = TypeVar("R", configs.PromoteConfig, configs.RollbackConfig, configs.PredictConfig)
C = TypeVar(
    "C", configs.TeachersConfig, configs.DistillConfig, configs.SweepConfig, configs.MainConfig
)


def _opened(config: C, listener: Listener) -> tuple[Session, C]:
    """Find the store, read the table, and fill what a configuration leaves to the recipe."""
    tracker, dataset = Tracker(config.store_patience_s), read_dataset(config)
    session = Session(dataset=dataset, tracker=tracker, listener=listener)
    return session, config.resolved(len(dataset.split.train))


@store_errors()
def run_teachers(config: configs.TeachersConfig, listener: Listener = Listener()) -> TeachersResult:
    """Entry point ``teachers``: train and log the ensemble, or reuse the same one."""
    session, config = _opened(config, listener)
    return teachers_step(config, session)


T = TypeVar("T", configs.DistillConfig, configs.SweepConfig)


def _with_new_rows(config: T) -> T:
    """New rows at any size for models of one's own: they may know the table's rows by heart."""
    own = "/" in config.teachers and config.recipe == BEST and config.augment is None
    return replace(config, augment="mixup") if own else config


def _teacher(config: T, session: Session) -> Teacher:
    """Resolve the option ``teachers``: model URIs have a slash, run ids have none."""
    teachers, dataset, tracker = config.teachers, session.dataset, session.tracker
    if "/" not in teachers and "," not in teachers:
        run = lookup.choose_ensemble(tracker, teachers, dataset.identity)
        return lookup.load_ensemble(tracker, run.info.run_id)
    encoding = teachers_encoding(configs.TeachersConfig(), dataset)
    models = load_models(tracker, teachers, encoding, dataset).compared(dataset)
    if models.memorised:
        session.listener.say(f"teachers may know the training rows: {models.memorised}")
    return models.weighed(dataset, config.averaging) if config.weighting == "greedy" else models


@store_errors()
def run_distill(config: configs.DistillConfig, listener: Listener = Listener()) -> DistillResult:
    """Entry point ``distill``: train students against an ensemble and register one of them."""
    from kd_mlflow.steps.sweep import take_sweep

    if config.export == "onnx":
        require_onnx()
    tracker, dataset = Tracker(config.store_patience_s), read_dataset(config)
    check_decision(config, dataset.table)
    config = take_sweep(_with_new_rows(config), tracker, dataset.identity)
    config = config.resolved(len(dataset.split.train))
    session = Session(dataset=dataset, tracker=tracker, listener=listener)
    teacher = _teacher(config, session)
    runs = tracker.children_of(teacher.run_id) if teacher.run_id else ()
    accuracies = [run.data.metrics["test_accuracy"] for run in runs]
    return distill_step(config, session, teacher, teacher_accuracies=accuracies)


@store_errors()
def run_sweep(config: configs.SweepConfig, listener: Listener = Listener()) -> SweepResult:
    """Entry point ``sweep``: choose temperature and alpha, and see how small a student can be."""
    from kd_mlflow.steps.sweep import sweep_step

    session, config = _opened(_with_new_rows(config), listener)
    return sweep_step(config, session, _teacher(config, session))


def _of_model(config: R, tracker: Tracker) -> R:
    """A configuration with the registered model that it means."""
    name = versions.resolve_name(tracker.client, config.model_name)
    return replace(config, model_name=name)


@store_errors()
def run_promote(config: configs.PromoteConfig) -> Decision:
    """Entry point ``promote``: gate a version; move ``production`` to it where it passes."""
    tracker = Tracker()
    config = _of_model(config, tracker)
    if config.to_uri:
        return transfer_step(config, tracker)
    name, to = config.model_name, config.to or config.model_name
    find = versions.find_version if to == name else copies.find_original
    if not config.dry_run:
        settle_step(name, tracker)
    version = find(tracker.client, name, config.version)
    if to != name:
        config = replace(config, model_name=to)
        if not config.dry_run:
            version = copies.copied(tracker.client, version, to)
            settle_step(to, tracker)
    run = versions.distill_run_of(tracker, version)
    with CleanProcess() as clean:
        submitted = Submitted(version, run, dataset_of(run, config.data))
        return promote_step(config, submitted, tracker, clean=clean)


@store_errors()
def run_rollback(config: configs.RollbackConfig) -> Rollback:
    """Entry point ``rollback``: return the version restored and the one it replaced."""
    tracker = Tracker()
    return rollback_step(_of_model(config, tracker), tracker)


@store_errors()
def run_history(config: configs.HistoryConfig) -> History:
    """Command ``history``: who was in production, when, for how long, and why."""
    tracker = Tracker()
    return history_step(versions.resolve_name(tracker.client, config.model_name), tracker)


def run_columns(config: configs.ColumnsConfig) -> ColumnsResult:
    """Command ``columns``: how each column of a table is read, without any store."""
    how = Reading.of(config)
    origin, rows, label, columns = describe_columns(config.data, config.target, how)
    named = {"table": origin.name, "target": origin.target, "label": label}
    return ColumnsResult(**named, rows=rows, columns=columns)


@store_errors()
def run_evaluate(config: configs.EvaluateConfig) -> EvaluationResult:
    """Entry point ``evaluate``: score any table with any model and compare it with training."""
    from kd_mlflow.steps.evaluate import evaluate_step

    return evaluate_step(config, Tracker())


@store_errors()
def run_predict(config: configs.PredictConfig, listener: Listener = Listener()) -> PredictResult:
    """Entry point ``predict``: score a table's rows with a registered version, into a file."""
    from kd_mlflow.steps.predict import predict_step

    tracker = Tracker()
    return predict_step(_of_model(config, tracker), tracker, listener)


@store_errors()
def load_production(model_name: str) -> Any:
    """Load the version in production as a pyfunc model."""
    client = Tracker().client
    return versions.load_production(client, versions.resolve_name(client, model_name))


def _check_before_gate() -> None:
    """Raise StoreError, at once, where a store is away: MLflow would ask it for minutes."""
    try:
        check_stores()
    except StoreError as error:
        said = f"nothing was promoted: {error}; kd-mlflow promote goes on from here"
        raise StoreError(said, unreachable=True) from None


@store_errors()
def run_main(config: configs.MainConfig, listener: Listener = Listener()) -> MainResult:
    """Entry point ``main``: the three steps in one process, as children of one run."""
    if config.export == "onnx":
        require_onnx()
    with CleanProcess() as clean:  # it imports what takes seconds while the table is read
        return _all_steps(config, listener, clean)


def _all_steps(config: configs.MainConfig, listener: Listener, clean: CleanProcess) -> MainResult:
    session, config = _opened(config, listener)
    dataset, tracker = session.dataset, session.tracker
    check_decision(config, dataset.table)
    check_gate_metric(config, dataset.table)
    mark = fingerprint(dataset.identity, config.as_text())
    with begun("pipeline", config, session, mark) as work:
        work.describe()
        tracker.introduce()
        students = partial(check_student_memory, config.for_distill(""), dataset)
        taught = teachers_step(configs.TeachersConfig.part_of(config), work.below, students)
        distilled = distill_step(
            config.for_distill(taught.run_id),
            work.below,
            taught.ensemble,
            teacher_accuracies=taught.teacher_accuracies,
            rehearsed=not taught.reused,
        )
        number = distilled.version
        _check_before_gate()
        moves.settle(tracker.client, config.model_name)
        version = versions.find_version(tracker.client, config.model_name, number)
        decision = promote_step(
            config.for_promote(number),
            Submitted(version, tracker.get(distilled.run_id), dataset),
            tracker,
            work.run,
            clean=clean,
        )
        if distilled.page:
            page = distilled.page._replace(runs=tracker.pipelines_page)
            distilled = replace(distilled, page=page)
        rows = leaderboard_rows(distilled.comparison, distilled.beside, taught.teachers)
        work.run.files({"leaderboard.csv": leaderboard_csv(rows).encode()})
        result = MainResult(taught=taught, distill=distilled, decision=decision)
        work.run.log(
            metrics=headline_metrics(distilled.comparison, distilled.beside),
            tags={
                "kd.teachers_run_id": taught.run_id,
                "kd.distill_run_id": distilled.run_id,
                "kd.model_version": number,
                "kd.decision": "promoted" if decision.promoted else "rejected",
                "kd.verdict": result.verdict,
            },
            note=notes.pipeline_note(distilled.note, decision.note),
        )
    return result
