"""What each entry point takes: groups of options, and a few of its own."""

from __future__ import annotations

from kd_mlflow.config import groups, rules
from kd_mlflow.config.options import Options, option, option_group


@option_group
class TeachersConfig(
    groups.EnsembleOptions, groups.TrainingOptions, groups.WorkerOptions, groups.DataOptions
):
    """Options of the entry point ``teachers``."""

    force: bool = option(False, "Train anew even where the same ensemble is finished.")

    def teacher_optimizer_for(self, rows: int, *, bins: bool) -> str:
        """The optimizer of networks that learn from so many rows, their numbers in bins or not."""
        if self.teacher_optimizer != "auto":
            return self.teacher_optimizer
        return self.best_optimizer(rows, self.teacher_epochs) if bins else "adam"


@option_group
class DistillConfig(
    groups.ModelOptions,
    groups.TeacherChoice,
    groups.StudentRecipe,
    groups.WorkerOptions,
    groups.DataOptions,
):
    """Options of the entry point ``distill``."""

    from_sweep: str = option(
        "",
        "Run id of a sweep, or latest, whose chosen temperature and alpha to take, and whose "
        "teachers where none are named.",
    )


@option_group
class SweepConfig(
    groups.TeacherChoice, groups.StudentRecipe, groups.WorkerOptions, groups.DataOptions
):
    """Options of the entry point ``sweep``."""

    temperatures: tuple[float, ...] = option(
        (1.0, 2.0, 3.0, 5.0, 10.0), "Temperatures of the grid, with commas.", rules.TEMPERATURES
    )
    alphas: tuple[float, ...] = option(
        (0.3, 0.5, 0.7, 0.9, 1.0), "Alphas of the grid, with commas.", rules.SHARES
    )
    sizes: str = option(
        "64,32;32,16;24,12;16,8;8,4",
        "Hidden layer widths to compare at the chosen setting, with commas and semicolons; "
        "empty for none.",
        rules.SIZE_LISTS,
    )
    tolerance: float = option(
        0.005,
        "How much validation accuracy the smallest student may lose to the ensemble.",
        rules.SHARE,
    )

    def size_list(self) -> list[tuple[int, ...]]:
        """The widths of each size to compare."""
        return rules.size_lists(self.sizes)


@option_group
class PromoteConfig(groups.GateOptions, groups.RegistryOptions):
    """Options of the entry point ``promote``."""

    version: str = option(
        "candidate",
        "What to promote: a version's number, an alias such as candidate, or the id of the run "
        "that distilled it; with to, what is in production where none is named.",
    )
    to: str = option(
        "",
        "Another registered model, such as prod.churn: the version is copied there, gated against "
        "what is in production there, and promoted there.",
        rules.OTHER_NAME,
    )
    to_uri: str = option(
        "",
        "Address of another tracking server with a registry: the version is copied there, gated "
        "and promoted there, under the name in to, or the same; here nothing is written.",
        rules.ADDRESS,
    )
    data: groups.Source = option(
        "", "Where the version's table lies now, if no longer where it was; it must be the same."
    )
    dry_run: bool = option(False, "Say what the gate answers; record and move nothing.")


@option_group
class RollbackConfig(groups.RegistryOptions):
    """Options of the entry point ``rollback``."""

    version: str = option(
        "previous", "Where to go back to: previous, or a version's number that was in production."
    )
    reason: str = option("", "Why, for the record.", rules.REASON)


@option_group
class HistoryConfig(groups.RegistryOptions):
    """Options of the command ``history``, which only reads."""


@option_group
class ColumnsConfig(groups.TableOptions, groups.ColumnOptions):
    """Options of the command ``columns``, which only reads."""

    max_categories: int = option(
        64,
        "Categories kept of a text column, the most frequent; the rest share one.",
        rules.AT_LEAST_ONE,
    )


@option_group
class EvaluateConfig(groups.TableOptions):
    """Options of the entry point ``evaluate``."""

    target: str = option(
        "",
        "Name of the label column; none: the table has no labels to compare with.",
        rules.STORED_TEXT,
    )
    model: str = option(
        "models:/kd-student@production",
        "The model: a version models:/name/3, an alias models:/name@candidate, any other URI of an "
        "MLflow model, or the bare name of a registered model, whose production is meant.",
        rules.STORED_TEXT,
    )
    against: str = option(
        "auto",
        "A model to compare it with on the same rows; auto: the version in production, or for "
        "that one the candidate, where there is one; none: no other.",
        rules.STORED_TEXT,
    )
    max_psi: float = option(
        0.0,
        "Largest population stability index that a column may have, unless chance alone makes as "
        "much of so few rows; 0 for no limit.",
        rules.NOT_NEGATIVE,
    )
    min_accuracy: float = option(
        0.0, "Least accuracy on the table's labels; 0 for no limit.", rules.SHARE
    )
    strict: bool = option(False, "Exit with 1 when max_psi or min_accuracy is not kept.")


@option_group
class PredictConfig(groups.RegistryOptions, groups.DelimitedOptions, groups.SourceOptions):
    """Options of the entry point ``predict``."""

    model: str = option(
        "",
        "The model, as evaluate takes it: the name of a registered model, whose production is "
        "meant, or models:/name/3, models:/name@candidate; empty: production of model_name.",
        rules.STORED_TEXT,
    )
    out: str = option(
        "",
        "The file to write: .csv, .parquet or .pq; one that is there is replaced at the end.",
        rules.SCORED_FILE,
    )
    keep: str = option(
        "",
        "Columns of the table that the file has too, with commas.",
        rules.STORED_TEXT,
        several=",",
    )
    reasons: int = option(
        0,
        "So many columns per row that moved its answer most: the student is asked again with each "
        "at its training median or most frequent category.",
        rules.NATURAL,
    )


@option_group
class MainConfig(groups.GateOptions, groups.ModelOptions, groups.StudentRecipe, TeachersConfig):
    """Options of the entry point ``main``: those of its three steps."""

    def for_distill(self, teachers: str) -> DistillConfig:
        """The options of its second step, against a given ensemble."""
        return DistillConfig.part_of(self, teachers=teachers, from_sweep="")

    def for_promote(self, version: str) -> PromoteConfig:
        """The options of its last step, for a given version."""
        return PromoteConfig.part_of(
            self, version=version, to="", to_uri="", data="", dry_run=False
        )


ENTRY_POINTS: dict[str, type[Options]] = {
    "main": MainConfig,
    "teachers": TeachersConfig,
    "distill": DistillConfig,
    "sweep": SweepConfig,
    "promote": PromoteConfig,
    "rollback": RollbackConfig,
    "evaluate": EvaluateConfig,
    "predict": PredictConfig,
}
"""What each command, entry point of MLproject and function of the API takes."""

READERS: dict[str, type[Options]] = {"history": HistoryConfig, "columns": ColumnsConfig}
"""Commands that only read: functions of the API too, but no entry points of MLproject."""
