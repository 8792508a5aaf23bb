"""``mlflow models serve`` answers good requests and explains bad ones."""

import json
import urllib.error
import urllib.request

import pytest
from served import served

from kd_mlflow import pipeline

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(finished_main, tmp_path_factory):
    """The address of a server of the model in production, started once."""
    with served(finished_main.uri, tmp_path_factory.mktemp("serve")) as address:
        yield address


def ask(address, body):
    """Post a body to /invocations; return status and text."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(
        f"{address}/invocations", content, {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


@pytest.fixture(scope="module")
def rows(finished_main):
    """Three test rows of raw columns."""
    return pipeline.read_dataset(finished_main.config).features("test").head(3)


def split(frame):
    """The request dataframe_split of a table."""
    return {"dataframe_split": frame.to_dict("split", index=False)}


@pytest.mark.parametrize(
    "body",
    [
        split,
        lambda frame: {"dataframe_records": frame.to_dict("records")},
        lambda frame: split(frame[frame.columns[::-1]]),
    ],
    ids=["split", "records", "shuffled columns"],
)
def test_good_requests_are_answered_alike(server, rows, body):
    """Each form of the same rows gets 200, a prediction and the same probabilities."""
    status, text = ask(server, body(rows))
    assert status == 200, text
    predictions = json.loads(text)["predictions"]
    assert [set(p) for p in predictions] == [{"prediction", "probability_0", "probability_1"}] * 3
    expected = json.loads(ask(server, split(rows))[1])["predictions"]
    assert [p["probability_1"] for p in predictions] == [p["probability_1"] for p in expected]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (lambda frame: split(frame.drop(columns="feature_07")), "feature_07"),
        (lambda frame: split(frame.assign(feature_07="tall")), "feature_07"),
        (lambda frame: split(frame.head(0)), "no rows to score"),
        (lambda frame: {"rows": frame.to_dict("records")}, "dataframe_split"),
        (lambda frame: {"dataframe_split": [1, 2, 3]}, "must be a dictionary"),
        (lambda frame: b"{not json", "JSON"),
    ],
    ids=["missing column", "text", "no rows", "wrong key", "wrong nesting", "invalid JSON"],
)
def test_bad_requests_are_explained(server, rows, body, words):
    """A request that cannot be scored gets 400, words that name the problem, and no crash."""
    status, text = ask(server, body(rows))
    assert status == 400, text
    assert words in json.loads(text)["message"]
    assert ask(server, split(rows))[0] == 200
