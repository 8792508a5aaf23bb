"""What the gate judges: all that is known of a candidate, of production, and the limits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from kd_mlflow.evaluation.checks import Check, GateLimits
from kd_mlflow.evaluation.reproduction import Reproduced
from kd_mlflow.evaluation.succession import Incumbent, PredictionTask


@dataclass(frozen=True, kw_only=True)
class Examined:
    """All that the gate knows of a candidate.

    ``logged`` are the metrics of its distill run, ``measured`` those of its artifact, by the names
    of ``probability_metrics`` and empty where it does not score; ``latency_ms`` is the median time
    of one row; ``constant`` the class that it answers for every row, if it does.
    """

    logged: Mapping[str, float]
    reproduced: Reproduced
    task: PredictionTask
    measured: Mapping[str, float] = field(default_factory=dict)
    latency_ms: float | None = None
    least_recall: float | None = None
    constant: str | None = None


@dataclass(frozen=True, kw_only=True)
class Case:
    """What every check is asked about; ``incumbent`` is None where nothing is in production."""

    findings: Examined
    incumbent: Incumbent | None
    limits: GateLimits

    @cached_property
    def metrics(self) -> Mapping[str, float]:
        """Metrics of the run; what the artifact was measured to be worth instead, where it was."""
        measured = {f"registered_test_{n}": v for n, v in self.findings.measured.items()}
        return {**self.findings.logged, **measured}


@dataclass(frozen=True)
class Asked:
    """A check as it is registered: its name, what it asks, and what answers.

    ``answer`` gives None where nobody asks, as with a limit that is not set.
    """

    name: str
    question: str
    answer: Callable[[Case], Check | None]
