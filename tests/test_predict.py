"""A file of scored rows: what the served model says, in parts, and which columns moved it."""

import json
import os
import shutil
import weakref

import mlflow
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from forks import Forked
from mixed_tables import COLUMN, mixed_table, with_gap_texts
from mlflow.models import Model
from pyarrow import parquet

import kd_mlflow as kd
from kd_mlflow.config.entry_points import TeachersConfig
from kd_mlflow.config.groups import DataOptions
from kd_mlflow.distillation.inputs import teachers_encoding
from kd_mlflow.distillation.student_module import StudentModule
from kd_mlflow.errors import ConfigError, DataError, KDError, RegistryError, RunError
from kd_mlflow.models.any_model import named_model
from kd_mlflow.models.own_models import PROFILE, _add_pyfunc
from kd_mlflow.population.network import Population
from kd_mlflow.serving.scoring import encode, reads_texts
from kd_mlflow.steps import predict as asked_again
from kd_mlflow.table import scored
from kd_mlflow.table.dataset import read_dataset
from kd_mlflow.table.delimited import delimited_parts, read_delimited
from kd_mlflow.table.encoding import Scaler
from kd_mlflow.table.example_rows import made_rows
from kd_mlflow.table.profile import fit_profile
from kd_mlflow.table.scored import scored_file, table_parts
from kd_mlflow.table.sources import BUILT_IN
from kd_mlflow.tracking.runs import Tracker

ANSWERS = ["prediction", "probability_0", "probability_1"]


@pytest.fixture
def short_parts(monkeypatch):
    """Parts of 2,048 rows, the fewest there are."""
    monkeypatch.setattr(scored, "PART_ROWS", 1)


def synthetic(rows=5000):
    """Rows of the table that ``main`` was run on, and a column to keep."""
    features, _ = BUILT_IN["synthetic"]()
    return features.head(rows).assign(customer=[f"{i:05d}" for i in range(rows)])


def written(table, path):
    """A table as a file of the format that the path's suffix says."""
    if path.suffix == ".csv":
        table.to_csv(path, index=False)
    else:
        table.to_parquet(path, row_group_size=999)
    return path


def read(path):
    """A scored file as it was written: probabilities of 32 bits, texts as they are."""
    if path.suffix != ".csv":
        return parquet.read_table(path).to_pandas()
    frame = pd.read_csv(path, dtype={"customer": str, "model_version": str})
    shares = {n: np.float32 for n in frame if n.startswith("probability_")}
    return frame.astype(shares)


@pytest.mark.slow_cases
@pytest.mark.parametrize(
    ("data", "out"),
    [("rows.csv", "scored.csv"), ("rows.parquet", "scored.parquet"), (None, "scored.csv")],
)
def test_answers_are_those_of_production(finished, tmp_path, short_parts, data, out):
    """To the last bit what the loaded model says of the whole table, whatever the formats."""
    table = synthetic()
    source = table if data is None else written(table, tmp_path / data)
    found = kd.predict(data=source, out=str(tmp_path / out), keep="customer")
    scored = read(tmp_path / out)
    expected = kd.load_production().predict(table)
    for name in ANSWERS:
        assert (scored[name].to_numpy() == expected[name].to_numpy()).all()
    assert scored["customer"].tolist() == table["customer"].tolist()
    assert set(scored["model_name"] + "/" + scored["model_version"]) == {"kd-student/1"}
    assert (found.rows, found.resolved) == (5000, "models:/kd-student/1")
    counts = expected["prediction"].value_counts()
    assert found.predicted == {str(c): counts[c] for c in (0, 1)}


@pytest.mark.parametrize("model", ["", "kd-student", "models:/kd-student/1"])
def test_the_model_is_named_as_for_evaluate(finished, tmp_path, model):
    """By nothing, a name, a version: each is production here."""
    out = tmp_path / "scored.csv"
    assert kd.predict(data=synthetic(9), out=str(out), model=model).rows == 9


def packaged(folder, table):
    """A student of random weights of a table, in a folder of its own; its dataset."""
    dataset = read_dataset(DataOptions(data=table, target="y", column=COLUMN))
    encoding = teachers_encoding(TeachersConfig(), dataset)
    sizes = (Scaler(encoding).width, 8, len(encoding.classes))
    module = StudentModule(encoding, Population.initialised(sizes, seeds=[0]).member(0))
    folder.mkdir()
    _add_pyfunc(folder, Model(), module, made_rows(dataset.features("train"), encoding.columns))
    profile = fit_profile(dataset.features("train"), dataset.labels("train"), encoding)
    (folder / PROFILE).write_text(json.dumps(profile.to_dict()))
    return dataset, encoding


@pytest.fixture(scope="module")
def mixed_student(tmp_path_factory):
    """A student of a table of mixed columns, its folder and the table's rows."""
    table, folder = mixed_table(1), tmp_path_factory.mktemp("mixed") / "model"
    dataset, _ = packaged(folder, table)
    return folder, table.drop(columns="y"), dataset


@pytest.fixture
def student(mixed_student, store):
    """That student beside a store of the test's own; tests write nothing into its folder."""
    return mixed_student


@pytest.mark.slow_cases
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("marks", [{}, {"sep": ";"}, {"sep": ";", "decimal": ","}])
def test_parts_are_read_as_the_whole_is(tmp_path, seed, marks):
    """Seven rows at a time a CSV file has the codes that it has at once, foreign numbers too."""
    table = mixed_table(seed)
    table["count"] = table["count"].astype(float)
    if "sep" in marks:
        table["amount"] = [f"{v:,.2f}".translate({44: ".", 46: ","}) for v in range(900, 1020)]
        table["late"] = ["12"] * 119 + ["1.234,5"]
    dataset_path, path = tmp_path / "train.csv", tmp_path / "rows.csv"
    table.to_csv(dataset_path, index=False, **marks)
    options = DataOptions(data=str(dataset_path), target="y", column=COLUMN)
    columns = teachers_encoding(TeachersConfig(), read_dataset(options)).to_dict()["columns"]
    rows = table if "decimal" in marks else with_gap_texts(table)
    rows.to_csv(path, index=False, **marks)
    written = [c for c in columns if reads_texts(c) or c["form"]["literal"]]
    texts = {column["name"]: column["form"]["literal"] for column in written}
    whole = encode(read_delimited(path, texts), columns)
    names = [column["name"] for column in columns]
    cut = delimited_parts(path, 7, separator="", decimal="")
    each = [encode(part, columns) for part in cut.read(names, texts)]
    assert cut.rows == len(table)
    assert max(map(len, each)) == 7
    assert np.array_equal(np.concatenate(each), whole, equal_nan=True)


def test_kept_cells_are_as_they_are_written(student, tmp_path):
    """Codes keep their zeros, NA stays NA, an empty cell is empty, formulas are data."""
    model, rows, _ = student
    kept = (["007", "NA", "=1+1", 'a "b", c', None] * 24)[: len(rows)]
    rows.assign(id=kept).to_csv(tmp_path / "rows.csv", index=False)
    kd.predict(data=str(tmp_path / "rows.csv"), model=str(model), out="scored.csv", keep="id,count")
    scored = pd.read_csv("scored.csv", dtype=str, keep_default_na=False)
    assert scored["id"].tolist() == [cell or "" for cell in kept]
    raw = pd.read_csv(tmp_path / "rows.csv", dtype=str, keep_default_na=False)
    assert scored["count"].tolist() == raw["count"].tolist()


def odds(answer, predicted):
    """Log odds of each row's predicted class, of the probabilities that a model answers with."""
    chosen = [f"probability_{p}" for p in predicted]
    share = np.array([answer[name].iloc[i] for i, name in enumerate(chosen)], np.float64)
    return np.log(share / (1 - share))


def usual(column):
    """A raw column's median or most frequent value, by pandas alone."""
    plain = column.dropna()
    if column.name in ("count", "size"):
        return np.median(plain.astype(float))
    return plain.value_counts().sort_index().idxmax()


@pytest.mark.slow
def test_reasons_are_the_student_asked_again(student, tmp_path, monkeypatch):
    """The columns whose usual value changes the log odds most, and by how much, as by hand."""
    monkeypatch.setattr(asked_again, "VALUES_AT_ONCE", 50)
    model, rows, dataset = student
    rows, train = rows[["region", "code", "flag", "count", "size"]], dataset.features("train")
    table = dataset.table.features.assign(**rows)
    found = kd.predict(data=table, model=str(model), out="scored.parquet", reasons=3)
    scored, asked = pd.read_parquet("scored.parquet"), mlflow.pyfunc.load_model(str(model))
    before = odds(asked.predict(table), scored["prediction"])
    moved = {}
    for name in rows:
        again = asked.predict(table.assign(**{name: usual(train[name])}))
        moved[name] = before - odds(again, scored["prediction"])
    for i, row in scored.iterrows():
        for n in (1, 2, 3):
            if (column := row[f"reason_{n}"]) in moved:
                assert row[f"reason_{n}_log_odds"] == pytest.approx(moved[column][i], abs=1e-4)
        least = np.nan_to_num(abs(row["reason_3_log_odds"]))  # none: nothing else moved it
        named = {row[f"reason_{n}"] for n in (1, 2, 3)}
        assert all(abs(moved[name][i]) <= least + 1e-4 for name in set(moved) - named)
    assert found.reasons == 3
    strength = scored[[f"reason_{n}_log_odds" for n in (1, 2, 3)]].abs().to_numpy()
    assert not (np.diff(strength, axis=1) > 0).any()


def encoding_of(model="kd-student"):
    """What a registered student was taught of its columns."""
    return named_model(Tracker(), model).encoding


def test_what_is_usual_is_no_reason(finished, tmp_path):
    """A row of medians has no reason; with one column elsewhere that column is the only one."""
    medians = {column.name: column.median for column in encoding_of().columns}
    rows = pd.DataFrame([medians, medians])
    rows.iloc[1, 3] += 1.5
    kd.predict(data=rows, out="scored.csv", reasons=2)
    scored = pd.read_csv("scored.csv")
    assert scored["reason_1"].fillna("").tolist() == ["", rows.columns[3]]
    assert scored[["reason_2", "reason_2_log_odds"]].isna().all(axis=None)


ERRORS = {
    "no out": ({"out": ""}, ConfigError, "out is needed"),
    "unknown format": ({"out": "scored.xlsx"}, ConfigError, "ends in .csv, .parquet or .pq"),
    "no folder": ({"out": "nowhere/scored.csv"}, ConfigError, "folder that is not there"),
    "no file": ({"data": "absent.csv"}, DataError, "no such file"),
    "wrong file": ({"data": "broken.parquet"}, DataError, "not a Parquet file"),
    "missing column": ({"data": "short.csv"}, DataError, "lacks columns that the model takes: 'm"),
    "no row": ({"data": "empty.csv"}, DataError, "has a header and no rows"),
    "text among numbers": ({"data": "text.csv"}, RunError, "row 3 has 'many'"),
    "no such column to keep": ({"keep": "id"}, DataError, "keep 'id' is not a column"),
    "too many reasons": ({"reasons": 9}, ConfigError, "at most 8"),
    "itself": ({"out": "rows.csv"}, ConfigError, "out is the table itself"),
    "no model": ({"model": "nobody"}, RegistryError, "no models:/nobody"),
    "a name of its own": (
        {"data": "named.csv", "keep": "prediction"},
        ConfigError,
        "keep names 'prediction'",
    ),
}


@pytest.mark.slow_cases
@pytest.mark.parametrize("name", ERRORS)
def test_what_a_caller_can_mend_is_one_line(student, tmp_path, name):
    """The message names what is wrong; nothing is written."""
    model, rows, _ = student
    rows.to_csv("rows.csv", index=False)
    rows.drop(columns="money").to_csv("short.csv", index=False)
    rows.head(0).to_csv("empty.csv", index=False)
    rows.assign(prediction=1).to_csv("named.csv", index=False)
    text = rows.astype({"count": object})
    text.loc[3, "count"] = "many"
    text.to_csv("text.csv", index=False)
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 no")
    before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    given, kind, said = ERRORS[name]
    options = {"data": "rows.csv", "model": str(model), "out": "scored.csv"} | given
    with pytest.raises(kind, match=said) as error:
        kd.predict(**options)
    assert "\n" not in str(error.value)
    files = {path for path in tmp_path.iterdir() if path.is_file()}
    assert files == set(before)
    assert (tmp_path / "rows.csv").read_bytes() == before[tmp_path / "rows.csv"]


def test_of_several_models_one_must_be_named(store):
    """Without a name none of them is meant; the error lists them."""
    for name in ("churn", "fraud"):
        store.create_registered_model(name)
    with pytest.raises(RegistryError, match="the models there are: 'churn', 'fraud'"):
        kd.predict(data=synthetic(9), out="scored.csv")


@pytest.mark.slow
def test_without_a_profile_reasons_are_refused(student, tmp_path):
    """An early student answers; why it did is not known, which one line says."""
    model, rows, _ = student
    leave_out = shutil.ignore_patterns(PROFILE)
    model = shutil.copytree(model, tmp_path / "early", ignore=leave_out)
    assert kd.predict(data=rows, model=str(model), out="scored.csv").rows == len(rows)
    with pytest.raises(RunError, match="reasons need a profile of the training rows"):
        kd.predict(data=rows, model=str(model), out="scored.csv", reasons=1)


def test_an_ensemble_answers_without_reasons(finished, tmp_path):
    """It is scored as a student is; reasons are a student's."""
    model = f"runs:/{finished.result.taught.run_id}/ensemble"
    options = {"data": synthetic(50), "model": model, "out": "scored.csv"}
    assert kd.predict(**options).rows == 50
    with pytest.raises(RunError, match="reasons are asked of students"):
        kd.predict(**options, reasons=1)


def test_a_failure_leaves_the_file_that_was_there(
    finished, tmp_path, tmp_path_factory, monkeypatch, short_parts
):
    """A row that cannot be scored, in the last part, replaces nothing."""
    monkeypatch.setenv("KD_MLFLOW_STATE", str(tmp_path_factory.mktemp("state")))
    table = synthetic()
    table.iloc[4900, 0] = np.inf
    out = tmp_path / "scored.csv"
    out.write_text("before")
    with pytest.raises(KDError, match="4900"):
        kd.predict(data=written(table, tmp_path / "rows.parquet"), out=str(out))
    assert out.read_text() == "before"
    assert {path.name for path in tmp_path.iterdir()} == {"rows.parquet", "scored.csv"}


@pytest.mark.slow
def test_a_killed_process_leaves_no_half_file(tmp_path):
    """Under the name stands what was there, until all of the new file is."""
    (tmp_path / "killed.py").write_text(
        "import os, pathlib, pyarrow as pa\n"
        "from kd_mlflow.table.scored import scored_file\n"
        "with scored_file(pathlib.Path('scored.csv')) as write:\n"
        "    write(pa.table({'a': [1]}))\n"
        "    os._exit(9)\n"
    )
    out = tmp_path / "scored.csv"
    out.write_text("before")
    killed = Forked("killed", folder=tmp_path, env=os.environ, log=tmp_path / "log")
    assert (killed.wait(60), out.read_text()) == (9, "before")
    with scored_file(out) as write:
        write(pa.table({"a": [2]}))
    assert out.read_text() == '"a"\n2\n'


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_no_more_than_a_part_is_in_memory(finished, tmp_path, short_parts, suffix):
    """Parts come one by one, none is kept: memory does not grow with the table."""
    path = written(synthetic(), tmp_path / f"rows{suffix}")
    table = table_parts(str(path), encoding_of(), "customer", separator="", decimal="")
    sizes, seen = [], []
    for features, kept in table.read():
        sizes.append((len(features), kept.num_rows))
        seen.append(weakref.ref(features))
        assert sum(each() is not None for each in seen) == 1
    assert sizes == [(2048, 2048), (2048, 2048), (904, 904)]
    assert table.rows == 5000
