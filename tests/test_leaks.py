"""Nothing that is fitted, chosen or registered depends on a test row."""

from dataclasses import is_dataclass, replace

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import TINY, part_of
from test_split import customers

from kd_mlflow import pipeline
from kd_mlflow.config.entry_points import DistillConfig, MainConfig, SweepConfig, TeachersConfig
from kd_mlflow.config.groups import DataOptions, StudentRecipe
from kd_mlflow.distillation.boosting import boosting_alone
from kd_mlflow.distillation.evidence import compare
from kd_mlflow.distillation.inputs import TeacherInputs
from kd_mlflow.distillation.menu import chosen, fit_here
from kd_mlflow.distillation.students import (
    calibrated,
    student_groups,
    student_task,
    transfer_set,
)
from kd_mlflow.distillation.teachers import assembled, teacher_trainings
from kd_mlflow.distillation.trained import TrainedStudents
from kd_mlflow.population.history import ignore_epoch
from kd_mlflow.population.workers import HERE
from kd_mlflow.table.dataset import read_dataset


@pytest.fixture(scope="module")
def dataset():
    """Columns of each kind, two classes that one of them nearly tells, with a split."""
    frame = customers(300).drop(columns=["same", "customer_id"])
    frame["since"] = pd.to_datetime(frame["since"])
    noise = np.random.default_rng(1).normal(0, 0.3, len(frame))
    frame["y"] = (frame["number"] + noise > 0).astype(int)
    return read_dataset(DataOptions(data=frame, target="y"))


def tampered(dataset):
    """The same rows on the same sides, whose test rows have other values of the same types.

    Numbers and dates are far from what they were, texts are new, gaps are where there may be some,
    every label is the other one.
    """
    table, rows = dataset.table, dataset.split.test
    features, labels = table.features.copy(), table.labels.copy()
    for name in features:
        column = features[name].copy()
        if column.dtype.kind in "if":
            column.iloc[rows] = 9_999
        elif column.dtype.kind == "b":
            column.iloc[rows] = ~column.iloc[rows]
        elif column.dtype.kind == "M":
            column.iloc[rows] = pd.Timestamp("1999-01-01")
        else:
            column.iloc[rows] = "elsewhere"
        if column.isna().any():
            column.iloc[rows[::2]] = None
        features[name] = column
    labels[rows] = 1 - labels[rows]
    table = replace(table, features=features, labels=labels, digest="tampered")
    return replace(dataset, table=table)


def plain(found):
    """Whatever was fitted as what can be compared: documents, and the bytes of numbers."""
    if isinstance(found, torch.Tensor):
        return plain(found.detach().numpy())
    if isinstance(found, np.ndarray):
        return found.dtype.str, found.shape, found.tobytes()
    if isinstance(found, pd.DataFrame):
        return found.to_csv()
    if is_dataclass(found) or isinstance(found, dict):
        items = found if isinstance(found, dict) else vars(found)
        return {name: plain(value) for name, value in items.items()}
    if isinstance(found, list | tuple):
        return [plain(each) for each in found]
    return found


def fitted(dataset):
    """All that is decided before test rows are scored, by name, and the comparison on them."""
    config = TeachersConfig(n_teachers=2, teacher_epochs=3, teacher_hidden=(8,), n_boosted=2)
    n = len(dataset.split.train)
    config = replace(config, boosting_rounds=5).resolved(n)
    given = TeacherInputs(config=config, dataset=dataset)
    trained = [each.fit(HERE, ignore_epoch) for each in teacher_trainings(given)]
    ensemble = assembled(given, trained)
    options = {"student_bins": None, "student_hidden": (4,), "temperature": None}
    recipe = DistillConfig(
        decision_threshold="f1", n_students=1, student_epochs=3, augment_factor=2, **options
    ).resolved(n)
    lessons = transfer_set(recipe, dataset, ensemble)
    recipe, trials = chosen(recipe, lessons, seed=1, fit=fit_here)
    groups = student_groups(recipe, [1])
    encoding = lessons.binned(recipe.student_bins)
    members = [member for group in groups.values() for member in group]
    task = student_task(recipe, lessons, members, encoding, recipe.student_hidden)
    history = task.fit(HERE)
    students = TrainedStudents(
        population=calibrated(recipe, task, lessons),
        encoding=encoding,
        kinds=list(groups),
        history=history,
        lessons=lessons,
        trials=trials,
    )
    alone = boosting_alone(dataset, ensemble.encoding, 0)
    boosting = replace(alone, epochs=5).fit(HERE, ignore_epoch)
    evidence = compare(recipe, dataset, ensemble, students, boosting=boosting.family)
    return {
        "encoding of teachers": plain(ensemble.encoding.to_dict()),
        "networks": [plain(list(each.family.population.parameters())) for each in trained[:2]],
        "trees": [booster.model_to_string() for t in trained[2:] for booster in t.family.boosters],
        "curves of teachers": [plain(each.history) for each in trained],
        "mixture": plain(ensemble.mixture),
        "lessons": [plain(each) for each in (lessons.encoded, lessons.logits, lessons.labels)],
        "menu": plain(trials),
        "encoding, bins and threshold": plain(evidence.encoding.to_dict()),
        "students": plain(list(students.population.parameters())),
        "curves of students": plain(history),
        "boosted trees alone": [each.model_to_string() for each in boosting.family.boosters],
        "thresholds to compare": plain([row for row, _ in evidence.thresholds]),
        "columns that count": plain(evidence.importances),
        "profile": evidence.profile.to_dict(),
        "example": plain(evidence.example),
    }, evidence.comparison.summary


def test_no_test_row_decides_anything(dataset):
    """Other values and labels of test rows change no bit of what is fitted, chosen or drawn.

    They change the comparison, and other labels of validation rows change what those decide.
    """
    found, scored = fitted(dataset)
    same, scored_otherwise = fitted(tampered(dataset))
    assert [name for name in found if same[name] != found[name]] == []
    assert scored != scored_otherwise
    table = dataset.table
    labels = table.labels.copy()
    labels[dataset.split.val] = 1 - labels[dataset.split.val]
    other, _ = fitted(replace(dataset, table=replace(table, labels=labels)))
    decided = {"mixture", "menu", "encoding, bins and threshold", "columns that count"}
    assert decided <= {name for name in found if other[name] != found[name]}


def written(folder):
    """The bytes of every file below a folder, but for what says when and where it was made."""
    dated = ("MLmodel", "registered_model_meta", "model.pt2")
    files = [path for path in folder.rglob("*") if path.is_file() and path.name not in dated]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.mark.slow
def test_commands_keep_the_same_models_whatever_test_rows_hold(
    dataset, store, monkeypatch, tmp_path
):
    """``main`` registers the same student and ensemble, and ``sweep`` chooses the same setting."""
    found = []
    options = TINY | {"n_boosted": 2, "boosting_rounds": 20, "student_epochs": 40}
    options["student_hidden"] = (8,)
    sweep = SweepConfig(
        **{name: options[name] for name in part_of(StudentRecipe)},
        temperatures=(1.0, 4.0),
        alphas=(0.0, 1.0),
        sizes="6;3",
        tolerance=0.1,
        augment="mixup",
    )
    for i, rows in enumerate((dataset, tampered(dataset))):
        monkeypatch.setattr(pipeline, "read_dataset", lambda config, rows=rows: rows)
        result = pipeline.run_main(MainConfig(**options, decision_threshold="f1"))
        for uri in (f"models:/kd-student/{i + 1}", f"runs:/{result.taught.run_id}/ensemble"):
            folder = tmp_path / f"{i}{uri[:4]}"
            mlflow.artifacts.download_artifacts(uri, dst_path=str(folder))
            found.append(written(folder))
        swept = pipeline.run_sweep(sweep)
        found.append((swept.chosen.temperature, swept.chosen.alpha, swept.smallest.hidden))
    student, ensemble, choice, *same = found
    assert {"weights.npz", "encoding.json", "training_profile.json"} <= student.keys()
    assert {"ensemble/ensemble.json", "ensemble/family-2/trees-01.txt"} <= ensemble.keys()
    assert same == [student, ensemble, choice]
