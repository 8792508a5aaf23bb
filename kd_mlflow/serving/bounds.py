"""What a request to MLflow's scoring server may cost, known before memory is spent on it.

This file is copied into every registered model beside ``student.py``, which loads it within that
server alone. MLflow reads any body to its end, however long it is or takes.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from io import BytesIO
from threading import Lock
from typing import Any, NamedTuple

CSV, PARQUET = "text/csv", "application/vnd.apache.parquet"

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


SMALL = 2**16
"""Bytes that are looked at at once."""

LARGE = Lock()
"""Held by who scores many values: one after the other, while small requests go on."""


class Limits(NamedTuple):
    """What one request may have; bytes are also what all may have that are in work at once."""

    size: int
    values: int
    seconds: float

    @classmethod
    def read(cls) -> Limits:
        """The limits of this process's environment."""
        return cls(
            size=int(os.environ.get("KD_MAX_REQUEST_BYTES", 64 * 2**20)),
            values=int(os.environ.get("KD_MAX_REQUEST_VALUES", 2**21)),
            seconds=float(os.environ.get("KD_MAX_REQUEST_SECONDS", 20)),
        )

    def too_large(self, size: int) -> str:
        """What is said of a body of too many bytes; nothing of another."""
        said = f"a request may have {self.size:,} bytes, this one has {size:,}; send fewer rows"
        return said if size > self.size else ""

    def too_many(self, values: int, unpacked: int) -> str:
        """What is said of a body of too many values; nothing of another."""
        if unpacked > self.size:
            return f"a request may unpack to {self.size:,} bytes, this one to {unpacked:,}"
        said = (
            f"a request may have {self.values:,} values, this one has {values:,}; send fewer rows"
        )
        return said if values > self.values else ""

    def turn(self, values: int) -> AbstractContextManager[Any]:
        """What to hold while so many values are scored."""
        return LARGE if values > self.values // 8 else nullcontext()


def values_of(data: bytes, kind: str) -> tuple[int, int]:
    """About how many values a body has, and how many bytes it unpacks to; nothing is parsed."""
    if kind != PARQUET:
        between = b"\n" if kind == CSV else b"["
        return data.count(b",") + data.count(between), len(data)
    try:
        from pyarrow.parquet import ParquetFile

        about = ParquetFile(BytesIO(data)).metadata
    except Exception:  # whatever is wrong with it, its reader says
        return 0, 0
    groups = [about.row_group(i) for i in range(about.num_row_groups)]
    rows = max(about.num_rows, sum(group.num_rows for group in groups))
    return rows * about.num_columns, sum(group.total_byte_size for group in groups)


class Refused(Exception):  # noqa: N818  # an answer, not an error
    """A request that is answered before it was read: a status, and what is said."""

    def __init__(self, status: int, said: str) -> None:
        super().__init__(said)
        self.status = status


def bound_next(limits: Limits) -> None:
    """Let the application that this process makes next be a bounded one: the scoring server's.

    MLflow makes it right after it has loaded the model, of what it imports by this name.
    """
    fastapi: Any = import_module("fastapi")  # MLflow's server has it
    plain = fastapi.FastAPI

    class Next(bounded(plain, limits)):  # type: ignore[misc]
        def __init__(self, *given: Any, **named: Any) -> None:
            fastapi.FastAPI = plain
            super().__init__(*given, **named)

    fastapi.FastAPI = Next


def bounded(base: Any, limits: Limits) -> Any:
    """An application that reads of a request what the limits allow, then asks ``base``."""

    class Bounded(base):  # type: ignore[misc]  # whatever MLflow serves with
        held = 0
        """Bytes of all requests that are read or answered now."""

        async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
            if scope["type"] != "http" or scope["method"] == "GET":
                await super().__call__(scope, receive, send)
                return
            taken = BytesIO()
            try:
                headers = dict(scope["headers"])
                await self._read(headers, receive, taken)
                body = taken.getvalue()
                kind = headers.get(b"content-type", b"").decode("latin-1").split(";")[0].strip()
                look = values_of(body, kind) if len(body) < SMALL else await _aside(body, kind)
                if said := limits.too_many(*look):
                    raise Refused(413, said)
                await super().__call__(scope, _again(body, receive), send)
            except Refused as refused:
                await _answer(send, refused.status, str(refused))
            finally:
                self.held -= taken.tell()

        async def _read(
            self, headers: dict[bytes, bytes], receive: Receive, taken: BytesIO
        ) -> None:
            """Read a body.  Raises Refused where it is too long, too slow, or there is no room."""
            declared = headers.get(b"content-length", b"0")
            _check(int(declared) if declared.isdigit() else 0)
            waits = False
            try:
                async with asyncio.timeout(limits.seconds):
                    more = True
                    while more:
                        message = await receive()
                        if message["type"] == "http.disconnect":
                            raise Refused(400, "the request broke off")
                        more = message.get("more_body", False)
                        chunk = message.get("body", b"")
                        _check(taken.tell() + len(chunk))
                        while waits := self.held + len(chunk) > limits.size:
                            await asyncio.sleep(0.01)
                        taken.write(chunk)
                        self.held += len(chunk)
            except TimeoutError:
                if waits:
                    raise Refused(503, "the server is busy with large requests") from None
                said = f"a request may take {limits.seconds:g} seconds to arrive"
                raise Refused(408, said) from None

    def _check(size: int) -> None:
        if said := limits.too_large(size):
            raise Refused(413, said)

    return Bounded


async def _aside(body: bytes, kind: str) -> tuple[int, int]:
    """Look at a large body in a thread, while others are read."""
    return await asyncio.to_thread(values_of, body, kind)


def _again(body: bytes, receive: Receive) -> Receive:
    """What gives a body that was read already, then what comes after it."""
    waiting = [body]

    async def next_message() -> Message:
        if waiting:
            return {"type": "http.request", "body": waiting.pop(), "more_body": False}
        return await receive()

    return next_message


async def _answer(send: Send, status: int, said: str) -> None:
    """Answer, and end the connection: the rest of the request is never read."""
    text = said.encode()
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", str(len(text)).encode()),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": text})
