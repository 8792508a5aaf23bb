"""Payloads for a scoring server: good rows, and rows, columns, nesting and bytes gone wrong."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

ODD_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 3, 2.5, 1e300, -1e300, float("inf"), float("nan"), 10**40, "", " ",
    "3", "text", "007", "2024-03-31", "9999-99-99", "\ud800", "é\n\"'", "x" * 5000, [], [1, [2]],
    {}, {"a": 1}, "NaN", "None", "true",
)  # fmt: skip

CONTENT_TYPES = (
    "application/json", "application/json; charset=utf-8", "application/json; charset=utf-16",
    "text/csv", "text/csv; header=absent", "application/vnd.apache.parquet", "text/plain", "",
    ";;;", "application/json; charset", "APPLICATION/JSON",
)  # fmt: skip

Payload = tuple[bytes, str | None]


def payload(rng: random.Random, rows: list[dict[str, Any]]) -> Payload:
    """Draw one request: its body and its content type, None for no header at all."""
    make: Callable[[random.Random, list[dict[str, Any]]], Payload] = rng.choice(
        [_records, _records, _split, _csv, _other_layout, _any_bytes, _deep]
    )
    body, kind = make(rng, rows)
    return body, rng.choice([*CONTENT_TYPES, None]) if rng.random() < 0.05 else kind


def _damaged(rng: random.Random, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Copy a few rows and change values, drop columns, add columns."""
    chosen = [dict(row) for row in rng.choices(rows, k=rng.randint(0, 4))]
    for row in chosen:
        for name in rng.sample(list(row), k=rng.choice([0, 0, 1, 2, len(row)])):
            row[name] = rng.choice(ODD_VALUES)
        if rng.random() < 0.15:
            del row[rng.choice(list(row))]
        if rng.random() < 0.1:
            row[str(rng.choice(ODD_VALUES))[:50]] = rng.choice(ODD_VALUES)
    return chosen


def _json(value: Any) -> Payload:
    return json.dumps(value).encode(), "application/json"


def _records(rng: random.Random, rows: list[dict[str, Any]]) -> Payload:
    return _json({"dataframe_records": _damaged(rng, rows)})


def _split(rng: random.Random, rows: list[dict[str, Any]]) -> Payload:
    columns = list(rows[0])
    rng.shuffle(columns)
    data = [[row.get(name) for name in columns] for row in _damaged(rng, rows)]
    document: dict[str, Any] = {"columns": columns, "data": data}
    if rng.random() < 0.2:
        document["columns"] = rng.choice([columns[:-1], [*columns, columns[0]], "abc", 3, None, []])
    if rng.random() < 0.2:
        document["index"] = rng.choice([[], ["a"] * len(data), 3, "abc", [None] * len(data)])
    if rng.random() < 0.1:
        document["data"] = rng.choice(ODD_VALUES)
    return _json({"dataframe_split": document})


def _csv(rng: random.Random, rows: list[dict[str, Any]]) -> Payload:
    damaged = _damaged(rng, rows)
    lines = [",".join(rows[0])]
    lines += [",".join(str(value) for value in row.values()) for row in damaged]
    text = "\n".join(lines)
    if rng.random() < 0.2:
        text = text.replace(",", rng.choice([";", '"', "\0"]), rng.randint(1, 5))
    return text.encode("utf-8", "replace"), "text/csv"


def _other_layout(rng: random.Random, rows: list[dict[str, Any]]) -> Payload:
    damaged = _damaged(rng, rows) or rows[:1]
    layouts = [
        {"inputs": damaged},
        {"inputs": {name: [row.get(name) for row in damaged] for name in rows[0]}},
        {"instances": damaged},
        {"inputs": rng.choice(ODD_VALUES)},
        {"instances": rng.choice(ODD_VALUES)},
        {"dataframe_records": rng.choice(ODD_VALUES)},
        {"dataframe_split": rng.choice(ODD_VALUES)},
        {"dataframe_records": damaged, "params": rng.choice(ODD_VALUES)},
        {"dataframe_records": damaged, "inputs": damaged},
        {"messages": damaged},
        damaged,
        rng.choice(ODD_VALUES),
    ]
    return _json(rng.choice(layouts))


def _any_bytes(rng: random.Random, rows: list[dict[str, Any]]) -> Payload:
    body = bytearray(_json({"dataframe_records": rows[:2]})[0])
    for _ in range(rng.randint(1, 8)):
        body[rng.randrange(len(body))] = rng.randrange(256)
    return bytes(body[: rng.randint(0, len(body))]), rng.choice(CONTENT_TYPES[:6])


def _deep(rng: random.Random, rows: list[dict[str, Any]]) -> Payload:
    depth = rng.choice([10, 500, 5000, 100_000])
    return b'{"dataframe_records":' + b"[" * depth + b"]" * depth + b"}", "application/json"
