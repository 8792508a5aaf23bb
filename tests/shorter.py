"""What takes long in any training and is what few tests are about: the others leave it out."""

from __future__ import annotations

import pkgutil
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pytest


class Undrawn:
    """Takes the place of a figure's canvas: rendering takes a second."""

    def __init__(self, figure: Any) -> None:
        """Take what a canvas takes."""

    def draw(self) -> None:
        """Draw nothing."""

    def buffer_rgba(self) -> Any:
        """One white pixel."""
        return [[[255] * 4]]


class OwnProcess:
    """Answers as ``CleanProcess`` does, in this process: another one imports for three seconds."""

    def __enter__(self) -> OwnProcess:
        return self

    def __exit__(self, *error: object) -> None:
        """End nothing: nothing was started."""

    def ask_version(self, *asked: Any) -> Any:
        """Ask a model in production as the process for it does."""
        from kd_mlflow.models.processes import ask_here

        return ask_here(*asked)

    def ask(self, model: Path, rows: Any, *, timed: bool) -> Any:
        """Load a model and score rows with the code that the clean process runs."""
        from kd_mlflow.errors import Unavailable, first_line
        from kd_mlflow.models import pulled
        from kd_mlflow.models.processes import read_answers, written_rows

        try:
            return read_answers(pulled.answer(model, written_rows(rows), timed=timed))
        except Exception as error:
            return Unavailable(f"does not load and score: {first_line(error)}")


def unrehearsed(module: Any, *, example: Any, rows: Any) -> Any:
    """Package no student before training."""
    return rows


@cache
def any_graph(*_: object) -> Any:
    """The graph of some network, made once: torch takes longer for one than a tiny ``main``."""
    import torch

    return _original("torch.export.export")(torch.nn.Linear(1, 1), (torch.ones(2, 1),))


PARTS = {
    "drawing": {"kd_mlflow.figures.style.FigureCanvasAgg": Undrawn},
    "rehearsal": {"kd_mlflow.steps.rehearsal.rehearse": unrehearsed},
    "timing": {
        "kd_mlflow.distillation.footprint.CALLS": 2,
        "kd_mlflow.distillation.footprint.CALLS_OF_MANY": 2,
    },
    "export": {"torch.export.export": lambda *_, **__: any_graph()},
    "clean process": {
        "kd_mlflow.pipeline.CleanProcess": OwnProcess,
        "kd_mlflow.steps.transfer.CleanProcess": OwnProcess,
        "kd_mlflow.models.processes.StandingProcess": OwnProcess,
    },
    "boosting alone": {"kd_mlflow.distillation.boosting.ALONE_ROUNDS": 20},
}
"""What takes the place of what, by name."""

ABOUT = {
    "drawing": {"test_accessible", "test_figures", "test_report"},
    "rehearsal": {"test_random_tables", "test_rehearsal", "test_tables"},
    "timing": {"test_closing", "test_footprint"},
    "export": {
        *("test_hostile", "test_interrupted", "test_onnx", "test_packaging", "test_properties"),
        *("test_random_tables", "test_rehearsal", "test_tables"),
    },
    "clean process": {"test_clean_process"},
    "boosting alone": {"test_importance", "test_tables"},
}
"""Test modules that leave a part as it is."""


@cache
def _original(target: str) -> Any:
    return pkgutil.resolve_name(target)


def leave_out(patch: pytest.MonkeyPatch, *parts: str) -> None:
    """Put something quick in the place of parts."""
    for target, instead in ((t, i) for part in parts for t, i in PARTS[part].items()):
        _original(target)
        patch.setattr(target, instead)


def put_back(patch: pytest.MonkeyPatch, *parts: str) -> None:
    """Have parts as they are, whatever was left out before."""
    for target in (target for part in parts for target in PARTS[part]):
        patch.setattr(target, _original(target))
