"""The recipes as one table: what options that are left to them are, by training rows."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from typing import Any

REFERENCE, BEST = RECIPES = ("reference", "best")

HUGE = 60_000
"""Training rows from which on the last column holds."""

FROM_ROWS = (0, 3_000, 5_000, 20_000, HUGE)
"""Training rows from which on each column of ``best`` holds."""


@dataclass(frozen=True)
class Falling:
    """A whole number that falls above some training rows, so that the work stays level."""

    most: int
    least: int
    above: int

    def for_rows(self, rows: int) -> int:
        """The number for so many training rows."""
        return max(self.least, round(self.most * self.above / max(rows, self.above)))

    def __str__(self) -> str:
        return f"{self.most}, above {self.above:,} rows fewer, at least {self.least}"


FROM_40 = Falling(40, least=6, above=30_000)
FROM_240 = Falling(240, least=150, above=1_500)
FROM_120 = Falling(120, least=8, above=20_000)
T_1_TO_3 = [1.0, 2.0, 3.0]
SMALL = [(64, 32), (128, 64)]
WIDER = [*SMALL, (192, 96), (256, 128)]

# An option's row: `reference`, then `best` at each size, or one value of `best` for all sizes.
# A list is a menu: students are tried with its values, and validation rows choose one.
# fmt: off  # a table is read by its columns
TABLE: dict[str, tuple[Any, ...]] = {
    #                        reference   best: below 3,000, from 3,000, 5,000, 20,000, 60,000 rows
    "learning_rate": (1e-3, 3e-3, 3e-3, 6e-3, 8e-3, 8e-3),
    "schedule": ("constant", "cosine"),
    "batch_size": (64, 64, 64, 128, 256, 1_024),
    "averaging": ("logits", "probabilities"),
    "weighting": ("equal", "greedy"),
    "teacher_families": ("mlp", "mlp,boosting"),
    "n_teachers": (12, 12, 8, 4, 4, 4),
    "n_compact": (0, 0, 0, 10, 10, 10),
    "teacher_epochs": (30, 120, 120, FROM_40, FROM_40, FROM_40),
    "teacher_patience": (0, 40, 40, 15, 8, 8),
    "teacher_bins": (0, 8, 16, 16, 16, 16),
    "n_boosted": (6, 6, 6, 6, 4, 2),
    "boosting_rounds": (400, 400),
    "boosting_rate": (0.06, 0.06, 0.06, 0.06, 0.1, 0.1),
    "boosting_leaves": (15, 15, 15, 15, 31, 31),
    "dropout": (0.3, 0.1, 0.1, 0.1, 0.1, 0.0),
    "teacher_mixup": (0.0, 0.4, 0.4, 0.0, 0.0, 0.0),
    "teacher_weight_decay": (0.0, 3e-4, 3e-4, 1e-5, 1e-5, 1e-5),
    "teacher_optimizer": ("adam", "adam", "auto", "adam", "adam", "adam"),
    "temperature": (3.0, T_1_TO_3, T_1_TO_3, 2.0, 2.0, 2.0),
    "alpha": (0.7, 1.0),
    "student_hidden": ((64, 32), SMALL, SMALL, WIDER, WIDER, WIDER),
    "student_bins": (0, [0, 24], [0, 16, 64], [0, 16, 64], [0, 16, 64], [0, 64]),
    "student_epochs": (50, FROM_240, FROM_240, FROM_120, FROM_120, FROM_120),
    "student_patience": (0, 80, 80, 25, 25, 25),
    "n_students": (5, 5, 5, 3, 2, 2),
    "registered_seed": ("first", "nearest"),
    "student_optimizer": ("adam", "auto"),
    "baseline_optimizer": ("adam", "auto"),
    "strong_baseline_optimizer": ("adam", "auto"),
    "student_weight_decay": (1e-4, 5e-5, 5e-5, 1e-5, 1e-6, 1e-6),
    "baseline_weight_decay": (1e-4, 3e-4),
    "augment": ("none", "auto", "auto", "mixup", "mixup", "none"),
    "augment_factor": (20, 20, Falling(20, least=16, above=4_000), 4, 2, 1),
    "student_mixup": (0.0, 0.4, 0.4, 0.0, 0.0, 0.0),
}
# fmt: on


def recipe_value(name: str, recipe: str, rows: int) -> Any:
    """What a recipe makes of an option, for so many training rows: a value, or a list as menu."""
    reference, *best = TABLE[name]
    if recipe == REFERENCE:
        return reference
    value = best[bisect_right(FROM_ROWS, rows) - 1] if len(best) > 1 else best[0]
    return value.for_rows(rows) if isinstance(value, Falling) else value
