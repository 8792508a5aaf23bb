"""Write options.md from the declarations in ``kd_mlflow.config``; ``--check`` compares it."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

from kd_mlflow.config import ENTRY_POINTS
from kd_mlflow.options import ANY, text_value

PAGE = Path(__file__).with_name("options.md")

HEAD = """\
# Options

Every option of every entry point, from `kd_mlflow/config.py`. With `mlflow run` write
`-P option=value`, with `kd-mlflow` write `--option value`; from Python they are keyword arguments.
On the command line an option that is true or false may stand alone: `--force` is `--force true`.
`recipe` stands for the default of the chosen recipe, in the order *reference* / *best*. The last
columns say which entry points take an option.
"""


def page() -> str:
    """The whole page."""
    found: dict[str, tuple[dataclasses.Field[object], list[str]]] = {}
    for command, config in ENTRY_POINTS.items():
        for field in dataclasses.fields(config):
            # one name, two defaults or meanings: two rows
            key = f"{field.name} {default(field)} {field.metadata['help']}"
            found.setdefault(key, (field, []))[1].append(command)
    names = list(ENTRY_POINTS)
    lines = [
        HEAD,
        f"| option | default | takes | what it does | {' | '.join(names)} |",
        f"|---|---|---|---|{'---|' * len(names)}",
    ]
    for field, commands in found.values():
        marks = " | ".join("x" if name in commands else "" for name in names)
        text = field.metadata["help"]
        lines.append(f"| `{field.name}` | {default(field)} | {takes(field)} | {text} | {marks} |")
    return "\n".join(lines) + "\n"


def takes(field: dataclasses.Field[object]) -> str:
    """What an option may be."""
    rule = field.metadata["rule"]
    if rule is not ANY:
        return str(rule[0])
    kind = field.metadata.get("type", type(field.default))
    return "true or false" if kind is bool else "text"


def default(field: dataclasses.Field[object]) -> str:
    """An option's default, of both recipes where it is left to them."""
    recipes = field.metadata.get("recipes")
    if recipes:
        shown = [text_value(recipes[name]) for name in ("reference", "best")]
        return f"recipe: {shown[0]} / {shown[1]}"
    text = text_value(field.default)
    return f"`{text}`" if text else "none"


if __name__ == "__main__":
    if "--check" not in sys.argv:
        PAGE.write_text(page(), encoding="utf-8")
    elif PAGE.read_text(encoding="utf-8") != page():
        sys.exit("docs/options.md differs from kd_mlflow/config.py: run python docs/options.py")
