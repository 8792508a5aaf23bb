"""Write api.md from the docstrings of the Python API; ``--check`` compares it."""

from __future__ import annotations

import dataclasses
import doctest
import inspect
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kd_mlflow as kd
from kd_mlflow import api, errors
from kd_mlflow.config.entry_points import ENTRY_POINTS
from kd_mlflow.distillation.fitted import FittedEnsemble, FittedStudent
from kd_mlflow.evaluation.checks import Check
from kd_mlflow.evaluation.comparison import Comparison
from kd_mlflow.evaluation.drift import ColumnDrift
from kd_mlflow.evaluation.findings import Findings
from kd_mlflow.evaluation.intervals import Interval
from kd_mlflow.evaluation.scores import ClassScores, Paired
from kd_mlflow.registry.moves import Period
from kd_mlflow.report.command_results import (
    Cell,
    ColumnsResult,
    History,
    PredictResult,
    Rollback,
    SweepResult,
)
from kd_mlflow.report.decision import Decision
from kd_mlflow.report.evaluation_result import EvaluationResult
from kd_mlflow.report.training_results import DistillResult, MainResult, TeachersResult
from kd_mlflow.table.columns import ColumnReport
from kd_mlflow.table.dataset import Sides
from kd_mlflow.table.kinds import Note

PAGE = Path(__file__).with_name("api.md")

FUNCTIONS = sorted(set(kd.__all__) - {"KDError"}, key=list(vars(api)).index)
"""What the package hands out, in the order of the source, which is that of the work."""

RESULTS: tuple[type, ...] = (
    Sides,
    TeachersResult,
    FittedEnsemble,
    FittedStudent,
    DistillResult,
    SweepResult,
    Decision,
    Rollback,
    EvaluationResult,
    PredictResult,
    History,
    ColumnsResult,
    MainResult,
    Comparison,
    Findings,
    Interval,
    Check,
    Period,
    Cell,
    ColumnDrift,
    ColumnReport,
    Note,
    ClassScores,
    Paired,
)
"""What functions return, and then what that is made of."""

HEAD = """\
# The Python API

`import kd_mlflow as kd` gives the functions below. Those that belong to an entry point do what it
does and take its options as keywords: [Options](options.md) says what each one is, and so does
`help(kd.distill)`. A result shows its own closing table. What you can cause and mend is a
`kd.KDError`. The [glossary](glossary.md) explains the words.
"""

ERRORS = """\
## Errors

Each message says the rule, the value received and the way out. `kd.KDError` is the root of all; the
others are in `kd_mlflow.errors`.
"""

TYPES = """\
## Results

What functions return, then what these results are made of. `Metrics` is a `dict[str, float]` by the
names that runs log; shares, such as accuracies, go from 0 to 1. An `Ensemble` is the trained
networks with the encoding of the tables that they score. `MainResult` is what the entry point
`main` finds; `kd_mlflow.pipeline.run_main` returns it.
"""


def page() -> str:
    """The whole page."""
    parts = [HEAD, "## Functions\n"]
    parts += [function_text(name, getattr(kd, name)) for name in FUNCTIONS]
    parts += [ERRORS, errors_table(), TYPES, *map(type_text, RESULTS)]
    return "\n".join(parts)


def function_text(name: str, function: Callable[..., Any]) -> str:
    """A function: what it takes and returns, its docstring and its examples."""
    signature = inspect.signature(function)
    about, _, _ = str(inspect.getdoc(function)).partition("\n\nOptions:\n")
    facts = [f"Takes {takes(function)}."]
    if result := returned(signature):
        facts.append(f"Returns {result}.")
    return f"### kd.{name}\n\n{prose(about)}\n\n{' '.join(facts)}\n"


def takes(function: Callable[..., Any]) -> str:
    """The entry point whose options a function takes, or the names of what it takes."""
    names = list(inspect.signature(function).parameters)
    listed = ", ".join(f"`{name}`" for name in names)
    if not hasattr(function, "__signature__"):  # not made of a configuration
        return listed
    for command, config in ENTRY_POINTS.items():
        if names == [field.name for field in dataclasses.fields(config)]:
            return f"the [options](options.md) of `{command}`"
    return f"the [options](options.md) {listed}"


def returned(signature: inspect.Signature) -> str:
    """A link to what a function returns; empty where it is no type of this package."""
    name = str(signature.return_annotation)
    known = {each.__name__ for each in RESULTS}
    return f"[`{name}`](#{name.lower()})" if name in known else ""


def errors_table() -> str:
    """KDError and its subclasses, a line each."""
    kinds = [k for k in vars(errors).values() if isinstance(k, type) and issubclass(k, kd.KDError)]
    lines = [f"| `{kind.__name__}` | {prose(str(kind.__doc__))} |" for kind in kinds]
    return "\n".join(["| error | when |", "|---|---|", *lines, ""])


def type_text(kind: type) -> str:
    """A result: its docstring, its fields and its properties."""
    about, _, listed = str(inspect.getdoc(kind)).partition("\n\nFields:\n")
    said = dict(re.findall(r"^    (\w+): (.+(?:\n {8}.+)*)", listed, re.M))
    lines = [  # a NamedTuple's annotations are references
        f"- `{name}` (`{getattr(annotation, '__forward_arg__', annotation)}`): "
        f"{prose(' '.join(said[name].split()))}"
        for name, annotation in kind.__annotations__.items()
    ]
    for name, value in vars(kind).items():
        if isinstance(value, property):
            lines.append(f"- `{name}`: {prose(str(inspect.getdoc(value)))}")
    fields = "\n".join(lines)
    return f"### {kind.__name__}\n\n{prose(about)}\n\n{fields}\n"


def prose(docstring: str) -> str:
    """A docstring as Markdown, its examples as blocks of Python."""
    parts: list[str] = []
    code: list[str] = []
    for piece in doctest.DocTestParser().parse(docstring):
        if isinstance(piece, doctest.Example):
            code.append(example(piece))
        elif piece.strip():
            parts += [*block(code), re.sub("``(.*?)``", r"`\1`", piece.strip())]
            code = []
    return "\n\n".join(parts + block(code))


def block(examples: list[str]) -> list[str]:
    """The examples since the last sentence as one block; none where there were none."""
    return ["```python\n" + "\n".join(examples).rstrip() + "\n```"] if examples else []


def example(piece: doctest.Example) -> str:
    """An example's lines, and what they give as a comment; an import has a blank line below it."""
    gives = [f"# {line}" for line in (piece.exc_msg or piece.want).splitlines()]
    after = [""] if piece.source.startswith(("import ", "from ")) else gives
    return "\n".join([piece.source.rstrip(), *after])


if __name__ == "__main__":
    if "--check" not in sys.argv:
        PAGE.write_text(page(), encoding="utf-8")
    elif PAGE.read_text(encoding="utf-8") != page():
        sys.exit("docs/api.md differs from the docstrings: run python docs/api.py")
