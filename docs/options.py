"""Write what the declarations in ``kd_mlflow.config`` say to wherever else it stands.

That is all of ``options.md`` and ``MLproject``, and the table in ``recipes.md``. ``--check`` writes
nothing and fails where one of them differs.
"""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

from kd_mlflow.config.entry_points import ENTRY_POINTS
from kd_mlflow.config.options import Options, recipe_text, text_value, value_type
from kd_mlflow.config.recipes import BEST, FROM_ROWS, REFERENCE, TABLE, recipe_value
from kd_mlflow.config.rules import ANY

DOCS = Path(__file__).parent
OPTIONS, RECIPES, PROJECT = DOCS / "options.md", DOCS / "recipes.md", DOCS.parent / "MLproject"

OPTIONS_HEAD = """\
# Options

Every option of every entry point, from `kd_mlflow/config/`. With `mlflow run` write
`-P option=value`, with `kd-mlflow` write `--option value`; from Python they are keyword arguments.
On the command line an option that is true or false may stand alone: `--force` is `--force true`.
Where the default is the recipe's, the word `recipe` stands for it, and [one
table](recipes.md#by-training-rows) shows all of them. The last columns say which entry points take
an option.
"""

PROJECT_HEAD = """\
# Written by docs/options.py from kd_mlflow/config/.
name: kd_mlflow

conda_env: conda.yaml

entry_points:
"""

MANY_ROWS = 10**9
"""More than any table has: what falls with the rows has reached its least."""


def options_page() -> str:
    """The whole of options.md."""
    found: dict[str, tuple[dataclasses.Field[object], list[str]]] = {}
    for command, config in ENTRY_POINTS.items():
        for field in dataclasses.fields(config):
            # one name, two defaults or meanings: two rows
            key = f"{field.name} {default(field)} {field.metadata['help']}"
            found.setdefault(key, (field, []))[1].append(command)
    lines = [OPTIONS_HEAD, *table_head("option", "default", "takes", "what it does", *ENTRY_POINTS)]
    for field, commands in found.values():
        marks = ["x" if name in commands else "" for name in ENTRY_POINTS]
        lines.append(
            row(f"`{field.name}`", default(field), takes(field), field.metadata["help"], *marks)
        )
    return "\n".join(lines) + "\n"


def takes(field: dataclasses.Field[object]) -> str:
    """What an option may be."""
    rule = field.metadata["rule"]
    if rule is not ANY:
        return str(rule[0])
    return "true or false" if value_type(field) is bool else "text"


def default(field: dataclasses.Field[object]) -> str:
    """An option's default, of both recipes where it is left to them."""
    if field.default is None:
        return f"recipe: {recipe_text(field.name)}"
    text = text_value(field.default)
    return f"`{text}`" if text else "none"


def recipes_page() -> str:
    """The whole of recipes.md: as it is, but for its table of the recipes."""
    larger = [f"from {rows:,}" for rows in FROM_ROWS[2:]]
    best = f"`{BEST}` below {FROM_ROWS[1]:,} training rows", f"from {FROM_ROWS[1]:,}", *larger
    lines = table_head("option", f"`{REFERENCE}`", *best)
    for name in TABLE:
        cells = [between(name, *rows) for rows in pairwise((*FROM_ROWS, MANY_ROWS))]
        lines.append(row(f"`{name}`", text_value(TABLE[name][0]), *cells))
    page = RECIPES.read_text(encoding="utf-8")
    return re.sub(r"\| option \|(.*\n)+?(?=\n)", lambda _: "\n".join(lines) + "\n", page, count=1)


def between(name: str, least: int, below: int) -> str:
    """What ``best`` makes of an option for tables of so many training rows."""
    first, last = (recipe_value(name, BEST, rows) for rows in (least, below - 1))
    if isinstance(first, list):
        return " or ".join(map(text_value, first))
    return text_value(first) if first == last else f"{first} to {last}"


def project() -> str:
    """The whole of MLproject."""
    return PROJECT_HEAD + "".join(entry_point(*item) for item in ENTRY_POINTS.items())


def entry_point(name: str, config: type[Options]) -> str:
    """One entry point: its parameters, and the command that hands each over."""
    options = dataclasses.fields(config)
    lines = [f"  {name}:", "    parameters:"]
    lines += [f"      {option.name}: {parameter(option.default)}" for option in options]
    lines += ["    command: >-", f"      python -m kd_mlflow {name}"]
    lines += [f"      --{option.name} {{{option.name}}}" for option in options]
    return "\n".join(lines) + "\n"


def parameter(default: Any) -> str:
    """A parameter's type and default; what is no number is text."""
    if isinstance(default, int | float) and not isinstance(default, bool):
        return f"{{type: float, default: {default}}}"
    return f"{{type: string, default: {json.dumps(text_value(default))}}}"


def table_head(*names: str) -> list[str]:
    """The first two lines of a table."""
    return [row(*names), "|" + "---|" * len(names)]


def row(*cells: str) -> str:
    """One line of a table."""
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    for page, text in ((OPTIONS, options_page()), (RECIPES, recipes_page()), (PROJECT, project())):
        if "--check" not in sys.argv:
            page.write_text(text, encoding="utf-8")
        elif page.read_text(encoding="utf-8") != text:
            sys.exit(f"{page.name} differs from kd_mlflow/config/: run python docs/options.py")
