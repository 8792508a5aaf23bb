"""One row has one answer: of a file, a DataFrame, JSON in any layout, and CSV over HTTP."""

import importlib
import json
import sys

import numpy as np
import pandas as pd
import pytest
from mixed_tables import COLUMN, mixed_table, with_gap_texts
from mlflow.models import Model
from mlflow.pyfunc import scoring_server

from kd_mlflow.config.entry_points import TeachersConfig
from kd_mlflow.config.groups import DataOptions, TableOptions
from kd_mlflow.distillation.inputs import teachers_encoding
from kd_mlflow.distillation.student_module import StudentModule
from kd_mlflow.models.own_models import _add_pyfunc
from kd_mlflow.population.network import Population
from kd_mlflow.table.dataset import read_dataset
from kd_mlflow.table.encoding import Scaler
from kd_mlflow.table.example_rows import made_rows
from kd_mlflow.table.scored import read_rows

HANDLE = scoring_server.invocations

JSON, CSV = "application/json", "text/csv"


@pytest.fixture
def packaged(tmp_path, monkeypatch):
    """Package a student of random weights of a table; load it as the scoring server does."""
    monkeypatch.setattr(scoring_server, "invocations", HANDLE)
    load_model = scoring_server.load_model

    def package(data, column):
        dataset = read_dataset(DataOptions(data=data, target="y", column=column))
        encoding = teachers_encoding(TeachersConfig(), dataset)
        sizes = (Scaler(encoding).width, 8, len(encoding.classes))
        module = StudentModule(encoding, Population.initialised(sizes, seeds=[0]).member(0))
        folder = tmp_path / "model"
        folder.mkdir()
        example = made_rows(dataset.features("train"), encoding.columns)
        _add_pyfunc(folder, Model(), module, example)
        loaded = []

        def kept(*given, **more):
            loaded.append(load_model(*given, **more))
            return loaded[-1]

        monkeypatch.setenv("__pyfunc_model_path__", str(folder))
        monkeypatch.setattr(scoring_server, "load_model", kept)
        name = "mlflow.pyfunc.scoring_server.app"
        monkeypatch.delitem(sys.modules, name, raising=False)
        importlib.import_module(name)
        sys.modules.pop(name)
        return folder, loaded[-1], encoding

    return package


def asked(model, body, kind=JSON):
    """Ask as the server's route does.  Shape: (rows,), the probability of the first class."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = scoring_server.invocations(content, kind, model, model.metadata.get_input_schema())
    assert answer.status == 200, answer.response
    return first(pd.DataFrame(json.loads(answer.response)["predictions"]))


def first(answer):
    """The probability of the first class.  Shape: (rows,)."""
    return answer.iloc[:, 1].to_numpy(np.float64)


def ways(model, encoding, rows, folder):
    """The answers to rows, by the way in which they came."""
    cells = rows.astype(object).where(rows.notna(), None)
    plain = json.loads(cells.to_json(orient="split", index=False))
    records = [dict(zip(plain["columns"], row, strict=True)) for row in plain["data"]]
    columns = {name: [row[name] for row in records] for name in plain["columns"]}
    rows.to_csv(folder / "rows.csv", index=False)
    cells.astype(str).where(rows.notna(), None).to_parquet(folder / "rows.parquet")
    files = {
        suffix: read_rows(TableOptions(data=folder / f"rows{suffix}"), encoding).features
        for suffix in (".csv", ".parquet")
    }
    return {
        "a DataFrame": first(model.predict(rows)),
        "a CSV file": first(model.predict(files[".csv"])),
        "a Parquet file of texts": first(model.predict(files[".parquet"])),
        "dataframe_split": asked(model, {"dataframe_split": plain}),
        "dataframe_records": asked(model, {"dataframe_records": records}),
        "inputs by row": asked(model, {"inputs": records}),
        "inputs by column": asked(model, {"inputs": columns}),
        "instances": asked(model, {"instances": records}),
        "CSV over HTTP": asked(model, (folder / "rows.csv").read_bytes(), CSV),
    }


@pytest.mark.slow_cases
@pytest.mark.parametrize("seed", range(5))
def test_a_row_has_one_answer_however_it_comes(packaged, tmp_path, seed):
    """Money, units, dates, codes, categories and gaps, as cells and as words, by nine ways."""
    table = mixed_table(seed)
    path = tmp_path / "table.csv"
    table.to_csv(path, index=False)
    folder, model, encoding = packaged(path, COLUMN)
    assert [c.kind for c in encoding.columns[:3]] == ["numeric", "numeric", "date"]
    rows = table.drop(columns="y")
    answers = ways(model, encoding, rows, tmp_path)
    words = ways(model, encoding, with_gap_texts(rows), tmp_path)
    expected = answers["a DataFrame"]
    assert np.unique(expected).size > len(rows) / 2
    differing = {
        f"{way}{told}": int((~np.isclose(found, expected, rtol=0, atol=1e-6)).sum())
        for told, by_way in (("", answers), (", gaps as words", words))
        for way, found in by_way.items()
    }
    assert not any(differing.values()), differing
    example = json.loads((folder / "serving_input_example.json").read_text())
    assert len(asked(model, example)) == len(example["dataframe_split"]["data"])


def test_a_category_called_na_is_one_over_http_too(packaged, tmp_path):
    """Where texts are texts, NA of a CSV and of JSON is the category, and an empty cell the gap."""
    rows = pd.DataFrame({"region": ["NA", "EU", None, "AP"] * 30, "x": np.arange(120) / 7})
    rows.assign(y=["a", "b"] * 60).to_csv(tmp_path / "table.csv", index=False)
    _, model, encoding = packaged(tmp_path / "table.csv", "region=category")
    assert encoding.columns[0].categories == ("AP", "EU", "NA")
    answers = ways(model, encoding, rows, tmp_path)
    for way, found in answers.items():
        np.testing.assert_allclose(found, answers["a DataFrame"], rtol=0, atol=1e-6, err_msg=way)
    ask = pd.DataFrame({"region": ["NA", None], "x": [1.0, 1.0]})
    assert abs(np.diff(first(model.predict(ask)))[0]) > 1e-6
