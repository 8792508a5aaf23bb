"""What a value may be: each rule is a sentence, and whether a value keeps it."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable
from typing import Any, NamedTuple

Rule = tuple[str, Callable[[Any], bool]]

MOST_CHARACTERS = 256
"""Characters of a registered model's name, at most: MLflow's databases hold so many."""

SEPARATORS = {r"\t": "\t", "tab": "\t", "comma": ",", "semicolon": ";", "pipe": "|"}
"""Words for separators that a shell or a reader would not see."""


class Address(NamedTuple):
    """What a family of teachers is, for people, and the module whose ``FAMILY`` it is."""

    words: str
    module: str


FAMILIES = {
    "mlp": Address("networks", "kd_mlflow.distillation.networks"),
    "boosting": Address("boosted trees", "kd_mlflow.distillation.boosting"),
    "catboost": Address("CatBoost's trees", "kd_mlflow.distillation.catboost_models"),
}
"""The families of teachers that are trained here, by name: each new one has its line here."""

OWN_FAMILIES = "kd_mlflow.models.estimators"
"""The module that makes a family of module:function, a user's function."""


def one_of(*values: str) -> Rule:
    """The rule of an option with a few values."""
    return (f"one of {', '.join(values)}", lambda v: v in values)


OPTIMIZER = one_of("adam", "muon", "auto")


def nameable(name: str) -> bool:
    """Whether MLflow can address a registered model of a name.

    ``models:/name/1`` ends a name at / and ? and @ and drops line breaks, searches end it at a
    quote, databases refuse control characters, and . and .. are folders in an address.
    """
    kinds = {unicodedata.category(character) for character in name}
    return (
        bool(name.strip())
        and len(name) <= MOST_CHARACTERS
        and name != "."
        and not name.startswith("..")
        and not set(name) & set("/:?@'")
        and not kinds & {"Cc", "Cs", "Zl", "Zp"}
    )


def size_lists(text: str) -> list[tuple[int, ...]]:
    """Read widths such as 64,32;16,8."""
    return [tuple(map(int, widths.split(","))) for widths in text.split(";") if text]


TOLD = re.compile(r"(.+?)=(number|category|date(?::[^;]+)?|truth|text|leave_out)(?:;|$)", re.DOTALL)


def told_columns(text: str) -> dict[str, str]:
    """Read what columns are told to hold: price=number;day=date:%d.%m.%Y.

    Raises ValueError for anything else.

    >>> told_columns("price=number;a;b=leave_out")
    {'price': 'number', 'a;b': 'leave_out'}
    """
    found = [(match[1], match[2]) for match in TOLD.finditer(text)]
    told = dict(found)
    if ";".join(map("=".join, found)) != text.removesuffix(";") or len(told) < len(found):
        raise ValueError(text)
    return told


def families(text: str) -> bool:
    """Whether a text names families of teachers, each once."""
    names = text.split(",")
    known = [name in FAMILIES or re.fullmatch(r"[\w.]+:\w+", name) for name in names]
    return len(set(names)) == len(names) and all(known)


ANY: Rule = ("anything", lambda v: True)
POSITIVE: Rule = ("a number above 0", lambda v: math.isfinite(v) and v > 0)
NOT_NEGATIVE: Rule = ("a number, 0 or above", lambda v: math.isfinite(v) and v >= 0)
AT_LEAST_ONE: Rule = ("1 or more", lambda v: v >= 1)
AT_LEAST_TWO: Rule = ("2 or more", lambda v: v >= 2)
MODELS: Rule = ("from 1 to 10,000", lambda v: 1 <= v <= 10_000)
MODELS_OR_NONE: Rule = ("from 0 to 10,000", lambda v: 0 <= v <= 10_000)
NATURAL: Rule = ("0 or more", lambda v: v >= 0)
SHARE: Rule = ("between 0 and 1", lambda v: 0 <= v <= 1)
OPEN_SHARE: Rule = ("above 0 and below 1", lambda v: 0 < v < 1)
RATE: Rule = ("0 or above and below 1", lambda v: 0 <= v < 1)
NAME: Rule = (
    "a name of 1 to 256 characters, without / : ? @ ' and line breaks, not . or beginning with ..",
    nameable,
)
OTHER_NAME: Rule = (f"none, or {NAME[0]}", lambda v: v == "" or nameable(v))
ADDRESS: Rule = (
    "none, or an address such as https://mlflow.prod or sqlite:////data/mlflow.db",
    lambda v: v == "" or ("://" in v and not set(v) & {"\n", "\r"}),
)
STORED_TEXT: Rule = ("text of at most 6,000 characters", lambda v: len(v) <= 6000)
"""A run's parameters are read again, and MLflow cuts longer ones (MAX_PARAM_VAL_LENGTH)."""
SHORT_TEXT: Rule = ("text of at most 200 characters", lambda v: len(v) <= 200)
REASON: Rule = ("text of at most 500 characters", lambda v: len(v) <= 500)
SIZES: Rule = ("whole numbers above 0 with commas, such as 64,32", lambda v: bool(v) and min(v) > 0)
SIZE_LISTS: Rule = (
    "hidden layer widths with commas and semicolons, such as 64,32;16,8",
    lambda v: all(min(widths) > 0 for widths in size_lists(v)),
)
TEMPERATURES: Rule = (
    "numbers above 0 with commas, such as 1,3,5",
    lambda v: bool(v) and all(math.isfinite(t) and t > 0 for t in v),
)
SHARES: Rule = (
    "numbers from 0 to 1 with commas, such as 0.5,0.7",
    lambda v: bool(v) and all(0 <= a <= 1 for a in v),
)
SEPARATOR: Rule = (
    "one ASCII character or one of tab, comma, semicolon, pipe",
    lambda v: v in ("", *SEPARATORS) or (len(v) == 1 and v.isascii() and v not in '"\r\n\0'),
)
DECIMAL: Rule = ("the character . or ,", lambda v: v in ("", ".", ","))
SCORED_FILE: Rule = (
    "none, or a file that ends in .csv, .parquet or .pq",
    lambda v: v == "" or str(v).lower().endswith((".csv", ".parquet", ".pq")),
)
COLUMNS: Rule = (
    "columns and what each holds, such as price=number;day=date:%d.%m.%Y: number, category, date, "
    "truth, text or leave_out",
    lambda v: len(v) <= 6000 and told_columns(v) is not None,
)
TEACHER_FAMILIES: Rule = (
    f"one or more of {', '.join(FAMILIES)} and module:function, with commas, each once",
    families,
)
THRESHOLD: Rule = (
    "none, balanced_accuracy, f1 or a number above 0 and below 1",
    lambda v: v in ("none", "balanced_accuracy", "f1") or 0 < float(v) < 1,
)
