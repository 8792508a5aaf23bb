"""What an option is: declared once, held to its rule, explained, written as text."""

from __future__ import annotations

import dataclasses
from dataclasses import Field, fields
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Self, TypeVar, dataclass_transform

from kd_mlflow.config.recipes import BEST, FROM_ROWS, REFERENCE, TABLE, Falling, recipe_value
from kd_mlflow.config.rules import ANY, Rule
from kd_mlflow.errors import ConfigError

RECIPE = "recipe"
"""The option that names the recipe, and how an option that is left to it is written."""

TYPES: dict[type, tuple[str, type]] = {
    int: ("a whole number", Integral),
    float: ("a number", Real),
    bool: ("true or false", bool),
}
"""Types that a caller from Python may mistake; the command line reads them from text."""

C = TypeVar("C")


def option(default: Any, text: str, rule: Rule = ANY, *, several: str = "") -> Any:
    """Declare one option: a dataclass field that carries its rule and its help.

    ``several`` stands between values that may come one by one and are kept as one text.
    """
    metadata = {"help": text, "rule": rule, "several": several}
    return dataclasses.field(default=default, metadata=metadata)


def by_recipe(text: str, rule: Rule = ANY) -> Any:
    """Declare an option with a row in the recipes' table: None until ``resolved``."""
    return option(None, text, rule)


def value_type(field: Field[Any]) -> type:
    """The type of an option's values."""
    return type(_example(field))


def _example(field: Field[Any]) -> Any:
    return TABLE[field.name][0] if field.default is None else field.default


@dataclass_transform(kw_only_default=True, frozen_default=True)
def option_group(cls: type[C]) -> type[C]:
    """Make a frozen dataclass of a class of options; its docstring explains each by name."""
    group = dataclasses.dataclass(frozen=True, kw_only=True)(cls)
    group.__doc__ = f"{cls.__doc__}\n\n{options_text(group)}"
    return group


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Base of all option groups: reads hidden sizes from text and holds each value to its rule."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None or field.default is not None:
                object.__setattr__(self, field.name, _checked(field, value))

    @classmethod
    def part_of(cls, other: Options, **own: Any) -> Self:
        """Take this group's values, but for those given, from a configuration that has them."""
        names = {field.name for field in fields(cls)} - own.keys()
        return cls(**{name: getattr(other, name) for name in names}, **own)

    def resolved(self, rows: int) -> Self:
        """Fill what is left to the recipe, for so many training rows, but for menus."""
        menus = {field.name: self.menu(field.name, rows) for field in fields(self)}
        only = {name: values[0] for name, values in menus.items() if len(values) == 1}
        return dataclasses.replace(self, **only)

    def menu(self, name: str, rows: int) -> tuple[Any, ...]:
        """The values that an option may take: the one that was given, or the recipe's menu."""
        if (given := getattr(self, name)) is not None:
            return (given,)
        value = recipe_value(name, getattr(self, RECIPE), rows)
        return tuple(value) if isinstance(value, list) else (value,)

    @classmethod
    def read(cls, name: str, text: str) -> Any:
        """Take one of this group's values back from how ``as_text`` writes it."""
        default: Any = cls.__dataclass_fields__[name].default
        return text == "true" if isinstance(default, bool) else type(default)(text)

    def as_text(self) -> dict[str, str]:
        """Values by name, written as the command line takes them."""
        return {field.name: text_value(getattr(self, field.name)) for field in fields(self)}

    def given(self) -> dict[str, Any]:
        """Values by name, of those that are not the defaults."""
        texts, defaults = self.as_text(), {f.name: text_value(f.default) for f in fields(self)}
        return {n: getattr(self, n) for n, text in texts.items() if text != defaults[n]}


def _checked(field: Field[Any], value: Any) -> Any:
    """A value as its option keeps it; ConfigError where it is against the option's rule."""
    (rule, holds), example = field.metadata["rule"], _example(field)
    if isinstance(example, Real | tuple) and hasattr(value, "tolist"):
        value = value.tolist()  # numpy's numbers and arrays
    try:
        if (between := field.metadata["several"]) and isinstance(value, tuple | list):
            value = between.join(filter(None, value))
        if isinstance(example, tuple) and isinstance(value, str | list):
            parts = value.split(",") if isinstance(value, str) else value
            value = tuple(map(type(example[0]), parts))
        valid = holds(value)
    except (TypeError, ValueError):
        valid = False
    if not valid:
        raise ConfigError(f"{field.name} must be {rule}; received {value!r}")
    words, types = TYPES.get(type(example), ("", object))
    if field.type == "str":  # a table has a text as default too
        words, types = "a text", str
    if not isinstance(value, types):
        raise ConfigError(f"{field.name} must be {words}; received {value!r}")
    return value


def text_value(value: Any) -> str:
    """Write a value as the command line and MLproject do: 256,128,64 and true."""
    if value is None:
        return RECIPE
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    if isinstance(value, bool):
        return str(value).lower()
    written = isinstance(value, str | Path | Real)
    return str(value) if written else type(value).__name__  # a DataFrame by its type


def recipe_text(name: str) -> str:
    """What each recipe makes of an option, in words."""
    reference, *best = map(cell_text, TABLE[name])
    steps = zip(FROM_ROWS[1:], best[1:], best, strict=False)
    larger = [f", from {rows:,} rows {value}" for rows, value, before in steps if value != before]
    return f"{REFERENCE} {reference}; {BEST} {best[0]}{''.join(larger)}"


def cell_text(value: Any) -> str:
    """A cell of the recipes' table in words."""
    if isinstance(value, list):
        return f"chosen: {' or '.join(map(text_value, value))}"
    return str(value) if isinstance(value, Falling) else text_value(value)


def options_text(group: Any) -> str:
    """Each option of a group by name, with its default and its help, for docstrings."""
    lines = ["Options:"]
    for field in fields(group):
        by = f"by {RECIPE}: {recipe_text(field.name)}" if field.default is None else ""
        lines.append(f"    {field.name} (default: {by or repr(field.default)})")
        lines.append(f"        {field.metadata['help']}")
    return "\n".join(lines)
