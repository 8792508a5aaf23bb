"""Generated tables: the packaged model answers as evaluation did, or the refusal is a KDError."""

from __future__ import annotations

import shutil

import mlflow
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from random_tables import tables, written

from kd_mlflow.config.entry_points import TeachersConfig
from kd_mlflow.distillation.logits import agreements
from kd_mlflow.distillation.student_module import StudentModule
from kd_mlflow.errors import KDError
from kd_mlflow.models.own_models import save_student
from kd_mlflow.population.losses import LabelLoss
from kd_mlflow.population.network import Population
from kd_mlflow.population.sampling import Inputs, Sampling
from kd_mlflow.population.training import Rows, Schedule, Task
from kd_mlflow.serving.scoring import Network
from kd_mlflow.table.dataset import Dataset, read_dataset
from kd_mlflow.table.encoding import fit_encoding
from kd_mlflow.table.example_rows import made_rows


def _trained(dataset: Dataset) -> StudentModule:
    table = dataset.table
    encoding = fit_encoding(
        dataset.features("train"),
        target=table.target,
        classes=table.classes,
        max_categories=4,
        kinds=table.kinds,
        gap_texts=table.gap_texts,
    )
    train, val = (encoding.inputs(dataset.features(side)) for side in ("train", "val"))
    labels, val_labels = (torch.from_numpy(dataset.labels(side)) for side in ("train", "val"))
    population = Population.initialised((train.shape[1], 8, len(table.classes)), seeds=[1])
    Task(
        population=population,
        rows=Rows(train=Inputs(train), val=Inputs(val)),
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
    path = written(table, tmp_path, suffix)
    assume(path is not None)
    try:
        dataset = read_dataset(TeachersConfig(data=str(path), target="label"))
        module = _trained(dataset)
    except KDError:
        return
    encoding = module.scaler.encoding
    features = dataset.features("test")
    encoded = encoding.encode(features)
    expected = Network(module.arrays).probabilities(encoded)
    with torch.no_grad():
        exported = torch.softmax(module(torch.from_numpy(encoded)), 1).numpy()
    np.testing.assert_allclose(expected, exported, atol=1e-6)
    folder = tmp_path / "model"
    shutil.rmtree(folder, ignore_errors=True)
    example = made_rows(dataset.table.features, encoding.columns)
    assert list(example.dtypes) == list(dataset.table.features.dtypes)
    save_student(folder, module, example=example)
    model = mlflow.pyfunc.load_model(str(folder))
    assert len(model.predict(model.metadata.load_input_example(str(folder)))) == len(example) == 2
    shuffled = features[list(reversed(features.columns))]
    answers = model.predict(shuffled)
    np.testing.assert_array_equal(answers.iloc[:, 1:].to_numpy(), expected)
    labels = [encoding.classes[i] for i in expected.argmax(axis=1)]
    assert answers["prediction"].tolist() == labels
