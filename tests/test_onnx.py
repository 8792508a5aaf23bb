"""A student exported as ONNX says what the served one says, whoever asks it."""

import importlib.util
import json
import re
from functools import cache

import mlflow
import numpy as np
import onnx
import onnxruntime
import pandas as pd
import pytest
import torch
from conftest import ROOT, TINY
from mlflow.models import Model

from kd_mlflow import pipeline
from kd_mlflow.config.entry_points import DistillConfig, MainConfig
from kd_mlflow.config.groups import DataOptions
from kd_mlflow.distillation import onnx_graph
from kd_mlflow.distillation.student_module import StudentModule
from kd_mlflow.errors import ConfigError, TrainingError
from kd_mlflow.models.own_models import save_student
from kd_mlflow.population.network import Population
from kd_mlflow.table.dataset import read_dataset
from kd_mlflow.table.encoding import Scaler, fit_encoding, piecewise_linear

N = 300


def mixed():
    """A table with gaps, dates, truth values, categories and far numbers."""
    rng = np.random.default_rng(3)
    return pd.DataFrame(
        {
            "amount": np.where(rng.random(N) < 0.2, np.nan, rng.lognormal(3, 2, N)),
            "stamp": 1_700_000_000 + rng.integers(0, 10**6, N),
            "day": pd.Timestamp("2024-01-01") + pd.to_timedelta(rng.integers(900, size=N), "D"),
            "member": rng.random(N) < 0.5,
            "city": rng.choice(["Bern", "Rome", None], N),
            "label": rng.choice(["a", "b", "c"], N),
        }
    )


TABLES = {"synthetic": ("synthetic", ""), "wine": ("wine", ""), "mixed": (mixed(), "label")}


def student_of(name, bins):
    """A student of random weights for a table, and the table's raw columns."""
    data, target = TABLES[name]
    table = read_dataset(DataOptions(data=data, target=target)).table
    plain = fit_encoding(table.features, target="y", classes=table.classes, max_categories=9)
    encoding = piecewise_linear(plain, plain.encode(table.features), bins)
    sizes = (Scaler(encoding).width, 16, 8, len(table.classes))
    network = Population.initialised(sizes, seeds=[5]).member(0)
    return StudentModule(encoding, network).eval(), table.features


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Save a student of a table, once, with its graph; its folder, its module, its rows."""

    @cache
    def save(name, bins):
        module, rows = student_of(name, bins)
        folder = tmp_path_factory.mktemp(name) / "student"
        save_student(folder, module, example=rows.head(2), onnx=onnx_graph.graph_of(module))
        return folder, module, rows

    return save


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "bins"), [("synthetic", 0), ("wine", 16), ("mixed", 0), ("mixed", 16)]
)
def test_all_flavours_of_a_student_agree_on_a_whole_table(saved, name, bins):
    """Pyfunc of raw rows; torch and ONNX, as MLflow loads them, of encoded rows: within 1e-6."""
    folder, module, rows = saved(name, bins)
    answer = mlflow.pyfunc.load_model(path := str(folder)).predict(rows)
    shares = answer[[f"probability_{c}" for c in module.encoding.classes]].to_numpy()
    encoded = module.encoding.encode(rows)
    with torch.inference_mode():
        logits = mlflow.pytorch.load_model(path, device="cpu")(torch.from_numpy(encoded))
    session = onnxruntime.InferenceSession(mlflow.onnx.load_model(path).SerializeToString())
    (from_onnx,) = session.run(["probabilities"], {"columns": encoded})
    np.testing.assert_allclose(logits.softmax(dim=1).numpy(), shares, rtol=0, atol=1e-6)
    np.testing.assert_allclose(from_onnx, shares, rtol=0, atol=1e-6)


def test_the_file_says_what_goes_in_and_what_comes_out():
    """Names of columns and classes stand in the file, for whoever has nothing else."""
    module, rows = student_of("mixed", 0)
    properties = onnx.load_from_string(onnx_graph.graph_of(module)).metadata_props
    said = {entry.key: json.loads(entry.value) for entry in properties}
    assert said == {"columns": list(rows), "classes": ["a", "b", "c"]}


@pytest.mark.slow
def test_the_example_without_mlflow_gives_the_models_answers(saved, monkeypatch):
    """The page's own lines, run beside a model's files on a table of numbers."""
    path, _, rows = saved("wine", 16)
    expected = mlflow.pyfunc.load_model(str(path)).predict(rows)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/serving.md").read_text(), re.S)
    (block,) = [block for block in blocks if "onnxruntime" in block]
    monkeypatch.chdir(path)
    exec(block, found := {"frame": rows})
    np.testing.assert_array_equal(found["predictions"], expected["prediction"])
    np.testing.assert_allclose(found["probabilities"], expected.iloc[:, 1:], rtol=0, atol=1e-6)


def test_a_graph_that_says_something_else_is_no_export(monkeypatch):
    """What is off by more than the tolerance is an error, not a file."""
    module, rows = student_of("wine", 0)
    encoded, exported = module.encoding.encode(rows), onnx_graph.graph_of(module)
    with torch.no_grad():
        next(iter(module.parameters())).mul_(1.01)
    monkeypatch.setattr(onnx_graph, "graph_of", lambda module: exported)
    with pytest.raises(TrainingError, match=r"off by .* 1e-06 being allowed"):
        onnx_graph.onnx_student(module, encoded)


@pytest.mark.slow
def test_an_exported_student_is_registered_with_its_graph(store):
    """The run and the version have model.onnx, the version its flavour; its figures are logged."""
    result = pipeline.run_main(MainConfig(data="wine", export="onnx", **TINY)).distill
    folder = mlflow.artifacts.download_artifacts("models:/kd-student@production")
    run = mlflow.artifacts.download_artifacts(f"runs:/{result.run_id}/model.onnx")
    model = Model.load(folder)
    with open(f"{folder}/model.onnx", "rb") as own, open(run, "rb") as logged:
        assert own.read() == logged.read()
    assert {"onnx", "pytorch", "python_function"} <= model.flavors.keys()
    assert [line.split("==")[0] for line in model.metadata["extras"]["onnx"]] == [
        "onnx",
        "onnxruntime",
    ]
    metrics = store.get_run(result.run_id).data.metrics
    assert metrics["onnx_max_difference"] <= 1e-6
    assert 0 < metrics["onnx_latency_ms"] < 1000


@pytest.mark.parametrize(
    ("run", "config"),
    [(pipeline.run_main, MainConfig), (pipeline.run_distill, DistillConfig)],
    ids=["main", "distill"],
)
def test_an_export_without_its_extra_is_refused_before_training(store, monkeypatch, run, config):
    """The error says what to install; no run is made."""
    there = importlib.util.find_spec
    monkeypatch.setattr(
        onnx_graph, "find_spec", lambda name: None if name == "onnxruntime" else there(name)
    )
    with pytest.raises(ConfigError, match=r"needs onnxruntime.*pip install 'kd-mlflow\[onnx\]'"):
        run(config(data="wine", export="onnx"))
    experiments = [experiment.experiment_id for experiment in store.search_experiments()]
    assert store.search_runs(experiments) == []
