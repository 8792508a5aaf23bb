"""Generated tables: the packaged model answers as evaluation did, or the refusal is a KDError."""

from __future__ import annotations

import datetime
import shutil
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from mlflow.models import Model

from kd_mlflow.config import TeachersConfig
from kd_mlflow.errors import KDError
from kd_mlflow.evaluation.metrics import agreements
from kd_mlflow.population.losses import LabelLoss
from kd_mlflow.population.network import Population
from kd_mlflow.population.sampling import Sampling
from kd_mlflow.population.training import Rows, Schedule, Task
from kd_mlflow.table.dataset import Dataset, read_dataset
from kd_mlflow.table.encoding import fit_encoding
from kd_mlflow.table.example_rows import made_rows
from kd_mlflow.tracking.packaging import StudentModule, save_model

VALUES: dict[str, st.SearchStrategy[Any]] = {
    "integers": st.integers(-(2**40), 2**40),
    "small integers": st.integers(0, 5),
    "floats": st.floats(-1e30, 1e30),
    "any floats": st.floats(),
    "booleans": st.booleans(),
    "letters": st.sampled_from(["a", "b", "B", "é", " ", "007", "7", "True", "2024-01-01"]),
    "texts": st.text(st.characters(exclude_categories=["Cs"]), max_size=6),
    "days": st.dates(datetime.date(1990, 1, 1), datetime.date(2040, 1, 1)).map(str),
    "times": st.datetimes(datetime.datetime(1900, 1, 1), datetime.datetime(2100, 1, 1)),
    "mixed": st.one_of(st.integers(0, 3), st.sampled_from(["x", "3"]), st.booleans()),
    "one value": st.just("same"),
    "durations": st.timedeltas(datetime.timedelta(0), datetime.timedelta(9)),
    "lists": st.lists(st.integers(0, 2), max_size=2),
}
NAMES = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=8)
LABELS = st.sampled_from([["no", "yes"], [0, 1], [False, True], [3.0, 4.0, 5.0], ["a", "b", "c"]])


@st.composite
def tables(draw: st.DrawFn) -> pd.DataFrame:
    """A table of 40 to 80 rows with a column ``label`` and one to five others, with gaps."""
    n = draw(st.integers(40, 80))
    names = draw(st.lists(NAMES, min_size=1, max_size=5, unique=True))
    classes = draw(LABELS)
    columns: dict[str, Any] = {}
    for name in names:
        values = VALUES[draw(st.sampled_from(sorted(VALUES)))]
        pool = draw(st.lists(values, min_size=1, max_size=n))
        if draw(st.booleans()):
            pool.append(None)
        columns[name] = [pool[i % len(pool)] for i in range(n)]
    columns["label"] = [classes[i % len(classes)] for i in range(n)]
    return pd.DataFrame(columns)


def _write(table: pd.DataFrame, folder: Path, suffix: str) -> Path | None:
    """Write a table as a user's own tools would; None where that format cannot hold it."""
    path = folder / f"table{suffix}"
    try:
        if suffix == ".parquet":
            table.to_parquet(path)
        else:
            table.to_csv(path, index=False)
    except (ValueError, TypeError, OverflowError, ArithmeticError):
        return None
    return path


def _trained(dataset: Dataset) -> StudentModule:
    table = dataset.table
    encoding = fit_encoding(
        dataset.features("train"), target=table.target, classes=table.classes, max_categories=4
    )
    train, val = (encoding.inputs(dataset.features(side)) for side in ("train", "val"))
    labels, val_labels = (torch.from_numpy(dataset.labels(side)) for side in ("train", "val"))
    population = Population.initialised((train.shape[1], 8, len(table.classes)), seeds=[1])
    Task(
        population=population,
        rows=Rows(train=train, val=val),
        loss=LabelLoss(labels),
        schedule=Schedule(epochs=2, batch_size=16, learning_rate=1e-2),
        seeds=[1],
        sampling=Sampling.whole(len(train), 1),
        evaluate=lambda logits: {"val_accuracy": agreements(logits, val_labels)},
    ).fit()
    return StudentModule(encoding, population.member(0))


@pytest.mark.slow
@given(table=tables(), suffix=st.sampled_from([".csv", ".parquet"]))
@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_packaged_model_reproduces_the_evaluation_or_the_table_is_refused(table, suffix, tmp_path):
    """Whatever the mixture of types, gaps and names, the pulled model answers as training did.

    It answers its own example rows too, which have the table's types.
    """
    path = _write(table, tmp_path, suffix)
    assume(path is not None)
    try:
        dataset = read_dataset(TeachersConfig(data=str(path), target="label"))
        module = _trained(dataset)
    except KDError:
        return
    encoding = module.scaler.encoding
    features = dataset.features("test")
    with torch.no_grad():
        expected = torch.softmax(module(torch.from_numpy(encoding.encode(features))), 1).numpy()
    folder = tmp_path / "model"
    shutil.rmtree(folder, ignore_errors=True)
    example = made_rows(dataset.table.features, encoding.columns)
    assert list(example.dtypes) == list(dataset.table.features.dtypes)
    save_model(str(folder), Model(), module=module, example=example)
    model = mlflow.pyfunc.load_model(str(folder))
    assert len(model.predict(model.metadata.load_input_example(str(folder)))) == len(example) == 2
    shuffled = features[list(reversed(features.columns))]
    answers = model.predict(shuffled)
    np.testing.assert_array_equal(answers.iloc[:, 1:].to_numpy(), expected)
    labels = [encoding.classes[i] for i in expected.argmax(axis=1)]
    assert answers["prediction"].tolist() == labels
