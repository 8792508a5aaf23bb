"""Equal rows have equal answers, and no metric depends on the order of the rows."""

import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ROOT, SMALL, TINY, part_of

from kd_mlflow.config.entry_points import DistillConfig, TeachersConfig
from kd_mlflow.config.options import text_value
from kd_mlflow.distillation.evidence import compare
from kd_mlflow.distillation.students import transfer_set
from kd_mlflow.distillation.teachers import evaluated, train_ensemble
from kd_mlflow.distillation.trained import TrainedStudents
from kd_mlflow.population.network import Population
from kd_mlflow.serving.scoring import Network
from kd_mlflow.table.dataset import read_dataset
from kd_mlflow.table.encoding import Scaler
from kd_mlflow.table.hashing import distinct_rows

KINDS = ["distilled", "baseline", "strong_baseline"]


@pytest.fixture(scope="module")
def dataset():
    """A table of 60 different rows among 900, in no order."""
    rng = np.random.default_rng(0)
    rows = pd.DataFrame({"a": rng.normal(size=60).round(2), "b": rng.choice(["x", "y"], 60)})
    frame = rows.iloc[rng.integers(60, size=900)].reset_index(drop=True)
    frame["label"] = np.where(frame["a"] + rng.normal(size=900) > 0, "yes", "no")
    return read_dataset(TeachersConfig(data=frame, target="label"))


@pytest.fixture(scope="module")
def ensemble(dataset):
    """A small ensemble of networks and trees."""
    config = TeachersConfig(data="wine", **part_of(TeachersConfig, TINY))
    return train_ensemble(config.resolved(len(dataset.split.train)), dataset)


@pytest.fixture
def rough(monkeypatch):
    """Networks that round a row by where it stands, as matrix products of some processors do."""
    served, taught = Network._logits, Population.logits

    def noise(shape):
        return np.random.default_rng(3).uniform(-1e-6, 1e-6, shape).astype(np.float32)

    def of_numpy(self, x):
        logits = served(self, x)
        return logits + noise(logits.shape)

    def of_torch(self, inputs):
        logits = taught(self, inputs)
        return logits + torch.from_numpy(noise(tuple(logits.shape)))

    monkeypatch.setattr(Network, "_logits", of_numpy)
    monkeypatch.setattr(Population, "logits", of_torch)


def shuffled(dataset):
    """The same table, its test rows in another order."""
    test = np.random.default_rng(1).permutation(dataset.split.test)
    return replace(dataset, split=replace(dataset.split, test=test))


def answers_apart(logits, places):
    """By how much answers to equal rows differ.  Shape: (..., n, classes), (n,)."""
    each = torch.as_tensor(logits)
    return max(
        float((each[..., places == i, :] - each[..., places == i, :][..., :1, :]).abs().max())
        for i in np.unique(places)
    )


def test_distinct_rows_are_those_that_say_the_same_in_the_same_type():
    """Each different row stands once, gaps and dates too; what a model may tell apart differs."""
    table = pd.DataFrame(
        {
            "n": [1.0, 1.0, np.nan, np.nan, 1.0, 1.0],
            "t": ["01", "01", None, None, "1", "1 "],
            "d": pd.to_datetime(["2024-01-01"] * 4 + ["2024-01-02"] * 2),
        }
    )
    first, places = distinct_rows(table)
    assert len(first) == 4
    assert places[0] == places[1] != places[2] == places[3]
    assert sorted(table.index[first][places].tolist()) == [0, 0, 2, 2, 4, 5]
    mixed = pd.DataFrame({"m": np.array([1, True, 1.0, "1", "1.0", None, 1], dtype=object)})
    assert len(distinct_rows(mixed)[0]) == 6


def test_the_order_of_the_table_is_not_that_of_its_distinct_rows(dataset):
    """Shuffled rows are asked about in the same order, so that they are rounded alike."""
    one, two = (each.features("test") for each in (dataset, shuffled(dataset)))
    asked, again = (rows.iloc[distinct_rows(rows)[0]].reset_index(drop=True) for rows in (one, two))
    pd.testing.assert_frame_equal(asked, again)
    assert len(asked) < 20 < len(one)


def test_a_comparison_does_not_depend_on_the_order_of_the_rows(rough, dataset, ensemble):
    """Areas, ECE, agreement and all else: to rounding of sums, however models round rows."""
    config = DistillConfig(data="wine", teachers="latest", **part_of(DistillConfig, TINY))
    config = replace(config, decision_threshold="f1").resolved(len(dataset.split.train))
    lessons = transfer_set(config, dataset, ensemble)
    encoding = lessons.binned(0)
    trained = TrainedStudents(
        population=Population.initialised((Scaler(encoding).width, 16, 2), seeds=[1, 2, 3]),
        encoding=encoding,
        kinds=KINDS,
        history={},
        lessons=lessons,
    )
    found, again = (
        compare(config, each, ensemble, trained) for each in (dataset, shuffled(dataset))
    )
    _, places = distinct_rows(dataset.features("test"))
    for logits in (*found.logits.students.values(), found.logits.ensemble):
        assert answers_apart(logits, places) == 0
    summary = found.comparison.summary
    assert {"registered_test_average_precision", "ensemble_test_roc_auc"} <= summary.keys()
    assert summary == pytest.approx(again.comparison.summary, abs=1e-12)
    assert answers_apart(trained.score(encoding.encode(dataset.features("test"))), places) > 0


def test_an_ensemble_does_not_depend_on_the_order_of_the_rows(rough, dataset, ensemble):
    """Each teacher's metrics and their average's too."""
    found, again = (evaluated(ensemble, each, "logits") for each in (dataset, shuffled(dataset)))
    assert found.ensemble == pytest.approx(again.ensemble, abs=1e-12)
    for one, two in zip(found.members, again.members, strict=True):
        assert one == pytest.approx(two, abs=1e-12)


SHORTER = """
import gc; gc.disable()
import pytest, shorter
parts = ("drawing", "rehearsal", "timing", "export", "boosting alone")
shorter.leave_out(pytest.MonkeyPatch(), *parts)
from kd_mlflow.cli import main
main()
"""
"""The command line of this package, as ``-c`` runs it."""


@pytest.mark.slow
def test_few_different_rows_are_promoted_on_a_processor_without_avx512(store, tmp_path, dataset):
    """Where matrix products round equal rows apart, a good student is still the one logged."""
    table = dataset.table
    path, labels = tmp_path / "few.csv", np.array(table.classes)[table.labels]
    table.features.assign(label=labels).to_csv(path, index=False)
    options = [f"--{name}={text_value(value)}" for name, value in SMALL.items()]
    paths = (str(ROOT), str(ROOT / "tests"))
    done = subprocess.run(
        [sys.executable, "-c", SHORTER, "main", "--data", path, "--target=label", *options],
        env=os.environ | {"OPENBLAS_CORETYPE": "Haswell", "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    tags = store.get_model_version("kd-student", "1").tags
    assert tags["kd.promotion"] == "promoted"
    rows = len(dataset.split.test)
    assert f"each of {rows} test rows gets the probabilities" in tags["kd.promotion_reason"]
