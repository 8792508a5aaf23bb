"""Every option once: its default, its rule and its help. The command line is made from these."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Self

from kd_mlflow.errors import ConfigError

Rule = tuple[str, Callable[[Any], bool]]

POSITIVE: Rule = ("a number above 0", lambda v: math.isfinite(v) and v > 0)
NOT_NEGATIVE: Rule = ("a number, 0 or above", lambda v: math.isfinite(v) and v >= 0)
AT_LEAST_ONE: Rule = ("1 or more", lambda v: v >= 1)
NATURAL: Rule = ("0 or more", lambda v: v >= 0)
SHARE: Rule = ("between 0 and 1", lambda v: 0 <= v <= 1)
OPEN_SHARE: Rule = ("above 0 and below 1", lambda v: 0 < v < 1)
RATE: Rule = ("0 or above and below 1", lambda v: 0 <= v < 1)
NAME: Rule = ("a name without / and :", lambda v: bool(v) and not set(v) & set("/:"))
SIZES: Rule = ("whole numbers above 0 with commas, such as 64,32", lambda v: bool(v) and min(v) > 0)
ANY: Rule = ("anything", lambda v: True)


GATE_METRICS = ("accuracy", "balanced_accuracy", "roc_auc", "average_precision")
"""Figures of which more is better; the last two need two classes."""


def one_of(*values: str) -> Rule:
    """The rule of an option with a few values."""
    return (f"one of {', '.join(values)}", lambda v: v in values)


def option(default: Any, text: str, rule: Rule = ANY) -> Any:
    """Declare one option: a dataclass field that carries its rule and its help."""
    return dataclasses.field(default=default, metadata={"help": text, "rule": rule})


@dataclass(frozen=True, kw_only=True)
class Options:
    """Base of all option groups: reads hidden sizes from text and holds each value to its rule."""

    def __post_init__(self) -> None:
        for field in fields(self):
            rule, holds = field.metadata["rule"]
            value = getattr(self, field.name)
            try:
                if isinstance(field.default, tuple) and isinstance(value, str):
                    value = tuple(int(part) for part in value.split(","))
                    object.__setattr__(self, field.name, value)
                valid = holds(value)
            except (TypeError, ValueError):
                valid = False
            if not valid:
                raise ConfigError(f"{field.name} must be {rule}; received {value!r}")

    @classmethod
    def part_of(cls, other: Options) -> Self:
        """Take this group's values from a configuration that has them among others."""
        return cls(**{field.name: getattr(other, field.name) for field in fields(cls)})

    def as_text(self) -> dict[str, str]:
        """Values by name, written as the command line takes them."""
        return {field.name: text_value(getattr(self, field.name)) for field in fields(self)}


def text_value(value: Any) -> str:
    """Write a value as the command line and MLproject do: 256,128,64 and true."""
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


@dataclass(frozen=True, kw_only=True)
class DataOptions(Options):
    """Which table, which label, which rows."""

    data: str = option(
        "synthetic",
        "Built-in table (synthetic, digits, breast_cancer, wine) or path of a CSV or Parquet file.",
    )
    target: str = option("", "Name of the label column; needed for a file.")
    val_fraction: float = option(
        0.1, "Share of the rows that are not test rows kept for curves and choices.", OPEN_SHARE
    )


@dataclass(frozen=True, kw_only=True)
class TrainingOptions(Options):
    """How every model is trained."""

    learning_rate: float = option(1e-3, "Adam's learning rate.", POSITIVE)
    schedule: str = option(
        "constant",
        "Course of the learning rate: constant, or cosine (falls to 0 at the end).",
        one_of("constant", "cosine"),
    )
    batch_size: int = option(64, "Rows a training step.", AT_LEAST_ONE)
    seed: int = option(42, "Seed of initialisation, shuffling and dropout.", NATURAL)


@dataclass(frozen=True, kw_only=True)
class EnsembleOptions(Options):
    """The teachers."""

    n_teachers: int = option(12, "Number of teachers in the ensemble.", AT_LEAST_ONE)
    teacher_epochs: int = option(30, "Epochs each teacher is trained.", AT_LEAST_ONE)
    teacher_hidden: tuple[int, ...] = option(
        (256, 128, 64), "Hidden layer widths of a teacher, with commas.", SIZES
    )
    dropout: float = option(0.3, "Dropout rate of the teachers' hidden layers.", RATE)
    max_categories: int = option(
        64, "Categories kept of a text column, the most frequent; the rest share one.", AT_LEAST_ONE
    )
    teacher_weight_decay: float = option(0.0, "L2 weight decay of the teachers.", NOT_NEGATIVE)


@dataclass(frozen=True, kw_only=True)
class StudentOptions(Options):
    """The students, distilled and baseline."""

    temperature: float = option(3.0, "Temperature T of both sides' logits.", POSITIVE)
    alpha: float = option(0.7, "Weight of the soft loss; the hard loss has the rest.", SHARE)
    student_hidden: tuple[int, ...] = option(
        (64, 32), "Hidden layer widths of a student, with commas.", SIZES
    )
    student_epochs: int = option(50, "Epochs each student is trained.", AT_LEAST_ONE)
    n_students: int = option(5, "Seeds: so many distilled students and baselines.", AT_LEAST_ONE)
    student_weight_decay: float = option(1e-4, "L2 weight decay of the students.", NOT_NEGATIVE)


@dataclass(frozen=True, kw_only=True)
class RegistryOptions(Options):
    """Which registered model."""

    model_name: str = option("kd-student", "Name of the registered model.", NAME)


@dataclass(frozen=True, kw_only=True)
class GateOptions(Options):
    """What a candidate must reach."""

    gate_metric: str = option(
        "accuracy", "Test figure that the gate compares.", one_of(*GATE_METRICS)
    )
    max_accuracy_gap: float = option(
        0.02, "How much of that figure the student may lose to the ensemble.", SHARE
    )
    min_compression: float = option(
        10.0, "Smallest ratio of ensemble parameters to student parameters.", POSITIVE
    )
    strict: bool = option(False, "Exit with 1 when the candidate is rejected.")


@dataclass(frozen=True, kw_only=True)
class TeachersConfig(EnsembleOptions, TrainingOptions, DataOptions):
    """Options of the entry point ``teachers``."""

    force: bool = option(False, "Train anew even where the same ensemble is finished.")


@dataclass(frozen=True, kw_only=True)
class DistillConfig(RegistryOptions, StudentOptions, TrainingOptions, DataOptions):
    """Options of the entry point ``distill``."""

    teachers: str = option(
        "latest", "Run id of an ensemble, or latest: the newest finished one trained on this data."
    )


@dataclass(frozen=True, kw_only=True)
class PromoteConfig(GateOptions, RegistryOptions):
    """Options of the entry point ``promote``."""

    version: str = option("candidate", "Version number to promote, or candidate: the newest.")


@dataclass(frozen=True, kw_only=True)
class RollbackConfig(RegistryOptions):
    """Options of the entry point ``rollback``."""


@dataclass(frozen=True, kw_only=True)
class MainConfig(GateOptions, RegistryOptions, StudentOptions, TeachersConfig):
    """Options of the entry point ``main``: those of its three steps."""

    def for_distill(self, teachers: str) -> DistillConfig:
        """The options of its second step, against a given ensemble."""
        values = {
            f.name: getattr(self, f.name) for f in fields(DistillConfig) if f.name != "teachers"
        }
        return DistillConfig(**values, teachers=teachers)

    def for_promote(self, version: str) -> PromoteConfig:
        """The options of its last step, for a given version."""
        gate = {f.name: getattr(self, f.name) for f in fields(GateOptions)}
        return PromoteConfig(**gate, model_name=self.model_name, version=version)
