"""What an option is: declared once, held to its rule, written as text; declares none itself."""

from __future__ import annotations

import dataclasses
import math
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, fields
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Self

from kd_mlflow.errors import ConfigError

Rule = tuple[str, Callable[[Any], bool]]

POSITIVE: Rule = ("a number above 0", lambda v: math.isfinite(v) and v > 0)
NOT_NEGATIVE: Rule = ("a number, 0 or above", lambda v: math.isfinite(v) and v >= 0)
AT_LEAST_ONE: Rule = ("1 or more", lambda v: v >= 1)
AT_LEAST_TWO: Rule = ("2 or more", lambda v: v >= 2)
NATURAL: Rule = ("0 or more", lambda v: v >= 0)
SHARE: Rule = ("between 0 and 1", lambda v: 0 <= v <= 1)
OPEN_SHARE: Rule = ("above 0 and below 1", lambda v: 0 < v < 1)
RATE: Rule = ("0 or above and below 1", lambda v: 0 <= v < 1)
NAME: Rule = (
    "a name of 1 to 256 characters, without / : ? @ ' and line breaks, not . or beginning with ..",
    lambda v: nameable(v),
)
STORED_TEXT: Rule = ("text of at most 6,000 characters", lambda v: len(v) <= 6000)
"""A run's parameters are read again, and MLflow cuts longer ones (MAX_PARAM_VAL_LENGTH)."""
REASON: Rule = ("text of at most 500 characters", lambda v: len(v) <= 500)
SIZES: Rule = ("whole numbers above 0 with commas, such as 64,32", lambda v: bool(v) and min(v) > 0)
TEMPERATURES: Rule = (
    "numbers above 0 with commas, such as 1,3,5",
    lambda v: bool(v) and all(math.isfinite(t) and t > 0 for t in v),
)
SHARES: Rule = (
    "numbers from 0 to 1 with commas, such as 0.5,0.7",
    lambda v: bool(v) and all(0 <= a <= 1 for a in v),
)
SIZE_LISTS: Rule = (
    "hidden layer widths with commas and semicolons, such as 64,32;16,8",
    lambda v: all(min(widths) > 0 for widths in size_lists(v)),
)
ANY: Rule = ("anything", lambda v: True)


NUMBERS_AND_TRUTH: dict[type, tuple[str, type]] = {
    int: ("a whole number", Integral),
    float: ("a number", Real),
    bool: ("true or false", bool),
}
"""Types that a caller from Python may mistake; the command line reads them from text."""


MOST_CHARACTERS = 256
"""Characters of a registered model's name, at most: MLflow's databases hold so many."""


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


def one_of(*values: str) -> Rule:
    """The rule of an option with a few values."""
    return (f"one of {', '.join(values)}", lambda v: v in values)


def option(default: Any, text: str, rule: Rule = ANY) -> Any:
    """Declare one option: a dataclass field that carries its rule and its help."""
    return dataclasses.field(default=default, metadata={"help": text, "rule": rule})


RECIPE = "recipe"
"""How the command line and MLproject write an option that is left to the recipe."""

FULL_ROWS = 4000


@dataclass(frozen=True)
class Shrinking:
    """A whole number that falls as training rows grow beyond some, so that work stays level."""

    most: int
    least: int
    rows: int = FULL_ROWS

    def for_rows(self, rows: int) -> int:
        """The number for so many training rows."""
        return max(self.least, round(self.most * self.rows / max(rows, self.rows)))

    def __str__(self) -> str:
        return f"{self.most}, fewer above {self.rows:,} rows"


@dataclass(frozen=True)
class ByRows:
    """A value for small tables, and others from so many training rows on."""

    small: Any
    larger: tuple[tuple[int, Any], ...]

    def for_rows(self, rows: int) -> Any:
        """The value for so many training rows."""
        value = [self.small, *(value for least, value in self.larger if rows >= least)][-1]
        return value.for_rows(rows) if isinstance(value, Shrinking) else value

    def __str__(self) -> str:
        larger = "".join(f", from {least:,} rows {value}" for least, value in self.larger)
        return f"{self.small}{larger}"


@dataclass(frozen=True)
class Menu:
    """Values of which one is chosen for a table, by its validation rows: None until then."""

    values: tuple[Any, ...]

    def __str__(self) -> str:
        return f"chosen: {' or '.join(map(text_value, self.values))}"


def by_recipe(reference: Any, best: Any, text: str, rule: Rule = ANY) -> Any:
    """Declare an option whose default is the recipe's: None until ``resolved``."""
    return dataclasses.field(
        default=None,
        metadata={
            "help": text,
            "rule": rule,
            "recipes": {"reference": reference, "best": best},
            "type": type(reference),
        },
    )


@dataclass(frozen=True, kw_only=True)
class Options:
    """Base of all option groups: reads hidden sizes from text and holds each value to its rule."""

    def __post_init__(self) -> None:
        for field in fields(self):
            rule, holds = field.metadata["rule"]
            value = getattr(self, field.name)
            kind = field.metadata.get("type", type(field.default))
            if value is None and "recipes" in field.metadata:
                continue
            try:
                if issubclass(kind, tuple) and isinstance(value, str | list):
                    known: Any = field.default or field.metadata["recipes"]["reference"]
                    entry = type(known[0])
                    parts = value.split(",") if isinstance(value, str) else value
                    value = tuple(entry(part) for part in parts)
                    object.__setattr__(self, field.name, value)
                valid = holds(value)
            except (TypeError, ValueError):
                valid = False
            if not valid:
                raise ConfigError(f"{field.name} must be {rule}; received {value!r}")
            words, types = NUMBERS_AND_TRUTH.get(kind, ("", object))
            if not isinstance(value, types):
                raise ConfigError(f"{field.name} must be {words}; received {value!r}")

    @classmethod
    def part_of(cls, other: Options) -> Self:
        """Take this group's values from a configuration that has them among others."""
        return cls(**{field.name: getattr(other, field.name) for field in fields(cls)})

    def resolved(self, rows: int) -> Self:
        """Fill what is left to the recipe, for so many training rows, but for menus."""
        values = {}
        for field in fields(self):
            if getattr(self, field.name) is None:
                default = self._default(field.name, rows)
                values[field.name] = None if isinstance(default, Menu) else default
        return dataclasses.replace(self, **values)

    def menu(self, name: str, rows: int) -> tuple[Any, ...]:
        """The values that an option may take: the one that was given, or the recipe's menu."""
        if (given := getattr(self, name)) is not None:
            return (given,)
        default = self._default(name, rows)
        return default.values if isinstance(default, Menu) else (default,)

    def _default(self, name: str, rows: int) -> Any:
        """The recipe's value of an option for so many training rows."""
        default = self.__dataclass_fields__[name].metadata["recipes"][getattr(self, RECIPE)]
        return default.for_rows(rows) if isinstance(default, Shrinking | ByRows) else default

    @classmethod
    def read(cls, name: str, text: str) -> Any:
        """Take one of this group's values back from how ``as_text`` writes it."""
        default: Any = cls.__dataclass_fields__[name].default
        return text == "true" if isinstance(default, bool) else type(default)(text)

    def as_text(self) -> dict[str, str]:
        """Values by name, written as the command line takes them."""
        return {field.name: text_value(getattr(self, field.name)) for field in fields(self)}


def text_value(value: Any) -> str:
    """Write a value as the command line and MLproject do: 256,128,64 and true."""
    if value is None:
        return RECIPE
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    if isinstance(value, bool):
        return str(value).lower()
    written = isinstance(value, str | Path | Real | Shrinking | ByRows | Menu)
    return str(value) if written else type(value).__name__  # a DataFrame by its type


def size_lists(text: str) -> list[tuple[int, ...]]:
    """Read widths such as 64,32;16,8."""
    return [tuple(map(int, widths.split(","))) for widths in text.split(";") if text]
