"""Within MLflow's scoring server the model answers each failure by whose it is."""

import importlib
import json
import logging
import sys

import mlflow
import pytest
from mlflow.exceptions import MlflowException
from mlflow.pyfunc import scoring_server

from kd_mlflow import pipeline

JSON = "application/json"

HANDLE = scoring_server.invocations


@pytest.fixture(scope="module")
def rows(finished_main):
    """Three test rows of raw columns."""
    return pipeline.read_dataset(finished_main.config).features("test").head(3)


@pytest.fixture
def student(finished, monkeypatch):
    """Load the student in production, or another model, as the scoring server does; return it."""
    monkeypatch.setattr(scoring_server, "invocations", HANDLE)

    def load(uri="models:/kd-student@production"):
        folder = mlflow.artifacts.download_artifacts(uri)
        monkeypatch.setenv("__pyfunc_model_path__", folder)
        name = "mlflow.pyfunc.scoring_server.app"
        monkeypatch.delitem(sys.modules, name, raising=False)
        loaded, load_model = [], scoring_server.load_model

        def kept(*given, **more):
            loaded.append(load_model(*given, **more))
            return loaded[-1]

        monkeypatch.setattr(scoring_server, "load_model", kept)
        importlib.import_module(name)
        sys.modules.pop(name)
        return loaded[-1]

    return load


def ask(model, body, kind=JSON):
    """Ask as the server's route does; return the status and what was answered."""
    schema = model.metadata.get_input_schema()
    try:
        answer = scoring_server.invocations(body, kind, model, schema)
    except MlflowException as error:
        return error.get_http_status_code(), error.message
    return answer.status, answer.response


def split(frame):
    """The request dataframe_split of a table."""
    return json.dumps({"dataframe_split": frame.to_dict("split", index=False)}).encode()


def test_each_form_of_the_same_rows_is_answered_alike(student, rows):
    """JSON in all of MLflow's layouts, and CSV."""
    model = student()
    bodies = [
        json.dumps({key: rows.to_dict("records")}).encode()
        for key in ("dataframe_records", "inputs", "instances")
    ]
    bodies.append(json.dumps({"inputs": rows.to_dict("list")}).encode())
    expected = ask(model, split(rows))
    assert expected[0] == 200
    assert [ask(model, body) for body in bodies] == [expected] * 4
    assert ask(model, rows.to_csv(index=False).encode(), "text/csv") == expected


def test_what_the_server_answers_is_what_the_model_says(student, rows):
    """The records over HTTP are the rows of the DataFrame in process."""
    model = student()
    answer = json.loads(ask(model, split(rows))[1])["predictions"]
    assert answer == model.predict(rows).to_dict("records")


def test_an_ensemble_is_served_as_a_student_is(student, rows, finished):
    """JSON and CSV are answered alike; what is the caller's fault is 400 and names the column."""
    model = student(f"runs:/{finished.result.taught.run_id}/ensemble")
    answer = json.loads(ask(model, split(rows))[1])["predictions"]
    assert answer == model.predict(rows).to_dict("records")
    assert json.loads(ask(model, rows.to_csv(index=False).encode(), "text/csv")[1]) == {
        "predictions": answer
    }
    status, text = ask(model, split(rows.assign(feature_07="tall")))
    assert (status, "feature_07" in text) == (400, True)


def test_a_request_beyond_the_limit_is_413(student, rows, monkeypatch):
    """The answer names the limit and what was sent; a request within it is scored."""
    body = split(rows)
    monkeypatch.setenv("KD_MAX_REQUEST_BYTES", str(len(body)))
    model = student()
    assert ask(model, body)[0] == 200
    status, text = ask(model, body + b" ")
    assert status == 413
    assert f"may have {len(body):,} bytes, this one has {len(body) + 1:,}" in text


@pytest.mark.parametrize("failure", [MemoryError, RuntimeError, TypeError, OSError])
def test_a_failure_of_the_model_is_500_and_logged(student, rows, monkeypatch, caplog, failure):
    """A good request that the model fails on is no fault of its caller's."""
    model = student()

    def fails(encoded):
        raise failure("no more of it")

    inner = model.unwrap_python_model()
    monkeypatch.setattr(inner.network, "probabilities", fails)
    with caplog.at_level(logging.ERROR):
        status, text = ask(model, split(rows))
    assert (status, failure.__name__ in text) == (500, True)
    assert "no more of it" in caplog.text


@pytest.mark.parametrize("reader", ["_parse_json_data", "parse_csv_input"])
def test_memory_that_ends_while_reading_is_500(student, rows, monkeypatch, reader):
    """MLflow's own readers may fail as well."""
    model = student()

    def fails(*given, **more):
        raise MemoryError("no more of it")

    monkeypatch.setattr(scoring_server, reader, fails)
    kind = JSON if "json" in reader else "text/csv"
    status, text = ask(model, split(rows), kind)
    assert status == 500
    assert "MemoryError" in text


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"{}", None, 415),
        (b"[" * 100_000, JSON, 400),
        (b'{"inputs": "text"}', JSON, 400),
        (b'{"inputs": [[1, [2]], [3]]}', JSON, 400),
        (b'{"dataframe_split": {"data": 3}}', JSON, 400),
        (b"\xff", "text/csv", 400),
    ],
    ids=["no content type", "nesting", "text", "ragged", "no rows", "no text"],
)
def test_what_cannot_be_read_is_the_callers(student, body, kind, status):
    """MLflow alone answers some of these with 500."""
    assert ask(student(), body, kind)[0] == status


def test_parquet_is_read_where_pyarrow_is(student, rows, monkeypatch):
    """The model's requirements do without it: then it is 415, as any format that is not taken."""
    model, body = student(), rows.to_parquet()
    kind = "application/vnd.apache.parquet"
    assert ask(model, body, kind) == ask(model, split(rows))
    assert ask(model, body[:-9], kind)[0] == 400
    code = sys.modules[type(model.unwrap_python_model()).__module__]
    monkeypatch.setattr(code, "find_spec", lambda name: None)
    assert ask(model, body, kind)[0] == 415


def test_another_model_of_the_process_is_served_as_before(student, rows):
    """The handler that a student left behind answers for that student alone."""
    student()
    other = mlflow.pyfunc.load_model("models:/kd-student@production")
    status, text = ask(other, b"", "text/csv")
    assert (status, "Failed to parse input" in text) == (400, True)
    with pytest.raises(AttributeError):
        ask(other, split(rows), None)


def with_headers(data, content_type, model, input_schema, *, headers):
    """A handler that takes more than MLflow's does."""
    return HANDLE(data, content_type, model, input_schema)


def by_name_alone(data, content_type, model, input_schema):
    """A handler that gives no CSV reader a schema."""
    return HANDLE(data, content_type, model, None)


def with_more(data, content_type, model, input_schema):
    """A handler that says more than what the model said."""
    answer = HANDLE(data, content_type, model, input_schema)
    return answer._replace(response=json.dumps({**json.loads(answer.response), "model": "m"}))


def as_pair(data, content_type, model, input_schema):
    """A handler whose answer has two parts."""
    return HANDLE(data, content_type, model, input_schema)[:2]


@pytest.mark.parametrize("other", [None, with_headers, by_name_alone, with_more, as_pair])
def test_another_scoring_server_is_left_alone_with_one_warning(student, rows, monkeypatch, other):
    """A handler that is not there, or not as expected, stays in its place and scores JSON."""
    if other is None:
        monkeypatch.delattr(scoring_server, "invocations")
    else:
        monkeypatch.setattr(scoring_server, "invocations", other)
    with pytest.warns(UserWarning, match="does not know the scoring server of MLflow 3") as caught:
        model = student()
    assert len(caught) == 1
    assert vars(scoring_server).get("invocations") is other
    answer = HANDLE(split(rows), JSON, model, model.metadata.get_input_schema())
    assert answer.status == 200
    assert len(json.loads(answer.response)["predictions"]) == 3
