"""The scoring server reads no more of a request than its limits allow."""

import asyncio
import io
import json
import time

import fastapi
import pandas as pd
import pytest

from kd_mlflow.serving.bounds import PARQUET, Limits, bound_next, bounded, values_of

LIMITS = Limits(size=1000, values=100, seconds=0.3)


class Echo:
    """An application that answers with the size of the body."""

    async def __call__(self, scope, receive, send):
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        await asyncio.sleep(scope.get("busy_s", 0))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": str(len(body)).encode()})


async def asked(app, chunks, *, pause_s=0.0, headers=(), busy_s=0.0):
    """Send a body in chunks; the status, the text, and how many chunks were read."""
    waiting, sent = list(chunks), []

    async def receive():
        await asyncio.sleep(pause_s)
        chunk = waiting.pop(0)
        return {"type": "http.request", "body": chunk, "more_body": bool(waiting)}

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "POST", "headers": list(headers), "busy_s": busy_s}
    await app(scope, receive, send)
    return sent[0]["status"], sent[1]["body"].decode(), len(chunks) - len(waiting)


def ask(chunks, **more):
    """Ask an application of its own."""
    return asyncio.run(asked(bounded(Echo, LIMITS)(), chunks, **more))


def test_a_request_within_the_limits_is_answered():
    """Its body comes whole, however it was cut."""
    assert ask([b"a" * 400, b"b" * 600]) == (200, "1000", 2)
    assert ask([b""]) == (200, "0", 1)


def test_a_body_that_is_too_long_is_not_read_on():
    """It ends with the chunk that is too many; a declared length is enough."""
    status, said, read = ask([b"a" * 400] * 1000)
    assert (status, read) == (413, 3)
    assert "may have 1,000 bytes" in said
    length = [(b"content-length", b"1001")]
    assert ask([b"a"], headers=length)[::2] == (413, 0)


def test_a_body_that_takes_too_long_is_given_up():
    """A chunk now and then does not keep a connection open."""
    start = time.monotonic()
    status, said, _ = ask([b"a"] * 100, pause_s=0.05)
    assert status == 408
    assert "0.3 seconds" in said
    assert time.monotonic() - start < 2


@pytest.mark.slow
def test_all_requests_together_have_the_room_of_one():
    """While one is answered there is no room for another large one; a small one is answered."""

    async def both():
        app = bounded(Echo, LIMITS)()
        large = asyncio.create_task(asked(app, [b"a" * 900], busy_s=1))
        await asyncio.sleep(0.01)
        small = await asked(app, [b"a" * 50])
        other = await asked(app, [b"a" * 900])
        return [one[0] for one in (small, other, await large, await asked(app, [b"a" * 900]))]

    assert asyncio.run(both()) == [200, 503, 200, 200]


def test_a_request_that_breaks_off_is_not_scored():
    """Its room is free again."""

    async def broken():
        app, sent = bounded(Echo, LIMITS)(), []

        async def receive():
            return {"type": "http.disconnect"}

        async def send(message):
            sent.append(message)

        await app({"type": "http", "method": "POST", "headers": []}, receive, send)
        return sent[0]["status"], app.held

    assert asyncio.run(broken()) == (400, 0)


def parquet(rows, columns=1):
    """A table of zeros in Parquet."""
    table = pd.DataFrame({f"c{i}": [0] * rows for i in range(columns)})
    return table.to_parquet(compression="zstd")


def test_values_are_counted_before_they_are_parsed():
    """Of Parquet by its metadata, of texts by what stands between values."""
    assert values_of(parquet(30, 4), PARQUET)[0] == 120
    assert values_of(b"a,b\n1,2\n", "text/csv")[0] == 4
    body = json.dumps({"dataframe_split": {"columns": ["a"], "data": [[1]] * 50}}).encode()
    assert 100 <= values_of(body, "application/json")[0] <= 110
    assert values_of(b"PAR1 nothing", PARQUET) == (0, 0)


@pytest.mark.slow
def test_a_small_file_of_many_values_is_refused():
    """Four million zeros in some bytes are four million values."""
    body = parquet(4_000_000)
    assert len(body) < 200_000
    values, unpacked = values_of(body, PARQUET)
    assert "4,000,000" in Limits.read().too_many(values, unpacked)


def test_a_file_that_unpacks_to_much_is_refused():
    """Few values may be long: what the metadata says of their size counts too."""
    column = ["a" * 100_000 + str(i) for i in range(30)]
    written = io.BytesIO()
    pd.DataFrame({"a": column}).to_parquet(written, compression="zstd")
    assert "may unpack to" in LIMITS.too_many(*values_of(written.getvalue(), PARQUET))


def test_values_are_counted_before_the_application_is_asked():
    """Of a body that is short enough, but has too many of them."""
    status, said, _ = ask([b"[1,2,3]"] * 60)
    assert (status, "may have 100 values" in said) == (413, True)


def test_limits_are_of_the_environment(monkeypatch):
    """Each has a variable and a default."""
    assert Limits.read() == (64 * 2**20, 2**21, 20)
    for name in ("BYTES", "VALUES", "SECONDS"):
        monkeypatch.setenv(f"KD_MAX_REQUEST_{name}", "7")
    assert Limits.read() == (7, 7, 7)


def test_the_next_application_is_bounded_and_no_other():
    """Within the scoring server that is its own; FastAPI is as it was after it."""
    plain = fastapi.FastAPI
    bound_next(LIMITS)
    app = fastapi.FastAPI()
    assert isinstance(app, plain)
    assert app.held == 0
    assert fastapi.FastAPI is plain
    assert not hasattr(fastapi.FastAPI(), "held")
