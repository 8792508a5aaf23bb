"""Every option once: its default, its rule and its help. The command line is made from these."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from kd_mlflow.options import (
    AT_LEAST_ONE,
    AT_LEAST_TWO,
    MODELS,
    NAME,
    NATURAL,
    NOT_NEGATIVE,
    OPEN_SHARE,
    POSITIVE,
    RATE,
    REASON,
    SHARE,
    SHARES,
    SHORT_TEXT,
    SIZE_LISTS,
    SIZES,
    STORED_TEXT,
    TEMPERATURES,
    ByRows,
    Menu,
    Options,
    Rule,
    Shrinking,
    by_recipe,
    one_of,
    option,
    size_lists,
)

if TYPE_CHECKING:
    import pandas as pd

Source: TypeAlias = "str | Path | pd.DataFrame"
"""Where a table comes from."""

LARGE, VERY_LARGE, HUGE = 5_000, 20_000, 60_000
"""Training rows from which the recipe trains fewer models, in larger batches, for fewer epochs."""

SEPARATORS = {r"\t": "\t", "tab": "\t", "comma": ",", "semicolon": ";", "pipe": "|"}
"""Words for separators that a shell or a reader would not see."""

SEPARATOR: Rule = (
    "one ASCII character or one of tab, comma, semicolon, pipe",
    lambda v: v in ("", *SEPARATORS) or (len(v) == 1 and v.isascii() and v not in '"\r\n\0'),
)
DECIMAL: Rule = ("the character . or ,", lambda v: v in ("", ".", ","))

MLP, BOOSTING = "mlp", "boosting"
"""The families of teachers that are trained here."""

FAMILIES: Rule = (
    f"{MLP}, {BOOSTING} or both with a comma",
    lambda v: sorted(v.split(",")) in ([MLP], [BOOSTING], [BOOSTING, MLP]),
)

THRESHOLD: Rule = (
    "none, balanced_accuracy, f1 or a number above 0 and below 1",
    lambda v: v in ("none", "balanced_accuracy", "f1") or 0 < float(v) < 1,
)

GATE_METRICS = ("accuracy", "balanced_accuracy", "log_loss", "roc_auc", "average_precision")
"""Of log loss, in nats, less is better, of the others more; the last two need two classes."""

POLICIES = ("non_inferior", "better", "any")
"""What a candidate must be, compared with what is in production."""


@dataclass(frozen=True, kw_only=True)
class TableOptions(Options):
    """Which table, which label."""

    data: Source = option(  # noqa: RUF009  # option makes a field
        "synthetic",
        "Built-in table (synthetic, digits, breast_cancer, wine) or path of a CSV or Parquet file; "
        "from Python also a DataFrame.",
    )
    target: str = option(
        "", "Name of the label column; needed for all but a built-in table.", STORED_TEXT
    )
    separator: str = option(
        "", "Separator of a CSV file's cells; found in the file where none is given.", SEPARATOR
    )
    decimal: str = option(
        "", "Decimal mark of a CSV file; found in its columns where none is given.", DECIMAL
    )


@dataclass(frozen=True, kw_only=True)
class DataOptions(TableOptions):
    """Which table, which label, which rows."""

    val_fraction: float = option(
        0.1, "Share of the rows that are not test rows kept for curves and choices.", OPEN_SHARE
    )
    drop_rare_classes: bool = option(
        False, "Leave out the rows of classes with fewer than 3 different rows, not refuse them."
    )


@dataclass(frozen=True, kw_only=True)
class TrainingOptions(Options):
    """How every model is trained."""

    recipe: str = option(
        "best",
        "Where options left to the recipe come from: reference (constant rate, no augmentation) "
        "or best; an option that is given wins.",
        one_of("reference", "best"),
    )
    learning_rate: float = by_recipe(
        1e-3,
        ByRows(3e-3, ((VERY_LARGE, 4e-3), (HUGE, 6e-3))),
        "Adam's learning rate.",
        POSITIVE,
    )
    schedule: str = by_recipe(
        "constant",
        "cosine",
        "Course of the learning rate: constant, or cosine (falls to 0 at the end).",
        one_of("constant", "cosine"),
    )
    batch_size: int = by_recipe(
        64,
        ByRows(64, ((LARGE, 128), (VERY_LARGE, 256), (HUGE, 1_024))),
        "Rows per training step of networks.",
        AT_LEAST_ONE,
    )
    seed: int = option(42, "Seed of initialisation, shuffling and dropout.", NATURAL)
    averaging: str = by_recipe(
        "logits",
        "probabilities",
        "What the ensemble averages over its members: logits or probabilities.",
        one_of("logits", "probabilities"),
    )
    weighting: str = by_recipe(
        "equal",
        "greedy",
        "How much each family of teachers, or each of your own models, counts: equal, or greedy: "
        "chosen by log loss on rows that it was not trained on.",
        one_of("equal", "greedy"),
    )


@dataclass(frozen=True, kw_only=True)
class WorkerOptions(Options):
    """Where models are trained, how often that is kept, how long stores are waited for.

    No metric depends on it.
    """

    workers: int = option(
        0, "Models trained side by side, on one core each; 0 for as many as usable cores.", NATURAL
    )
    dask_scheduler: str = option(
        "", "Address of a Dask scheduler, such as tcp://host:8786, whose workers are to train."
    )
    checkpoint_seconds: float = option(
        30.0,
        "Seconds between checkpoints, from which the next run of the same data and options goes on "
        "where one was interrupted; 0 for none.",
        NOT_NEGATIVE,
    )
    store_patience_s: float = option(
        900.0,
        "Seconds that a write waits for a tracking server that does not answer, while training "
        "goes on; after them the command ends, and the next of the same data and options goes on.",
        NOT_NEGATIVE,
    )


@dataclass(frozen=True, kw_only=True)
class EnsembleOptions(Options):
    """The teachers."""

    teacher_families: str = by_recipe(
        MLP,
        f"{MLP},{BOOSTING}",
        "What the teachers are: mlp (networks), boosting (boosted trees) or both.",
        FAMILIES,
    )
    n_teachers: int = by_recipe(
        12, ByRows(12, ((LARGE, 4),)), "Number of networks in the ensemble.", MODELS
    )
    teacher_epochs: int = by_recipe(
        30,
        ByRows(120, ((LARGE, Shrinking(40, 6, 30_000)),)),
        "Epochs each network is trained, at most.",
        AT_LEAST_ONE,
    )
    teacher_patience: int = by_recipe(
        0,
        ByRows(40, ((LARGE, 15), (VERY_LARGE, 8))),
        "Each network leaves out a fold of the training rows, keeps the weights of its best epoch "
        "on it and ends after so many epochs without a better one; 0: no rows are left out.",
        NATURAL,
    )
    teacher_bins: int = by_recipe(
        0,
        ByRows(8, ((3_000, 16),)),
        "Bins of the numbers in the inputs of every second network, piecewise linear; 0 for none.",
        NATURAL,
    )
    n_boosted: int = by_recipe(
        6,
        ByRows(6, ((LARGE, 4), (HUGE, 2))),
        "Number of boosted models in the ensemble.",
        MODELS,
    )
    boosting_rounds: int = by_recipe(
        400,
        400,
        "Rounds of each boosted model, at most; it stops by the fold that it leaves out.",
        AT_LEAST_ONE,
    )
    boosting_rate: float = by_recipe(
        0.06, ByRows(0.06, ((LARGE, 0.1),)), "Learning rate of the boosted models.", POSITIVE
    )
    boosting_leaves: int = by_recipe(
        15, ByRows(15, ((LARGE, 31),)), "Leaves of each tree of a boosted model.", AT_LEAST_TWO
    )
    teacher_hidden: tuple[int, ...] = option(
        (256, 128, 64), "Hidden layer widths of a network that teaches, with commas.", SIZES
    )
    dropout: float = by_recipe(0.3, 0.1, "Dropout rate of their hidden layers.", RATE)
    teacher_mixup: float = by_recipe(
        0.0,
        ByRows(0.4, ((LARGE, 0.0),)),
        "Beta parameter of the networks' mixup on labels; 0 for none.",
        NOT_NEGATIVE,
    )
    max_categories: int = option(
        64, "Categories kept of a text column, the most frequent; the rest share one.", AT_LEAST_ONE
    )
    scaling: str = option(
        "auto",
        "Scale of numbers: each column's own, one common to all, or auto: common where the "
        "columns' deviations are within a factor of ten.",
        one_of("auto", "each", "common"),
    )
    teacher_weight_decay: float = by_recipe(
        0.0,
        ByRows(3e-4, ((LARGE, 1e-5),)),
        "L2 weight decay of the networks that teach.",
        NOT_NEGATIVE,
    )


@dataclass(frozen=True, kw_only=True)
class StudentOptions(Options):
    """The students, distilled and baseline."""

    temperature: float = by_recipe(
        3.0,
        ByRows(Menu((1.0, 2.0, 3.0)), ((LARGE, 2.0),)),
        "Temperature T of both sides' logits.",
        POSITIVE,
    )
    alpha: float = by_recipe(
        0.7, 1.0, "Weight of the soft loss; the hard loss has the rest.", SHARE
    )
    student_hidden: tuple[int, ...] = by_recipe(
        (64, 32),
        Menu(((64, 32), (128, 64))),
        "Hidden layer widths of a student, with commas.",
        SIZES,
    )
    student_bins: int = by_recipe(
        0,
        ByRows(
            Menu((0, 8)),
            ((3_000, Menu((0, 16))), (LARGE, Menu((0, 16, 64))), (HUGE, Menu((0, 64)))),
        ),
        "Bins of the numbers in a student's inputs, piecewise linear; 0 for none.",
        NATURAL,
    )
    menu_tolerance: float = option(
        0.0005,
        "Where several students may be chosen, the smallest is whose divergence from the ensemble "
        "on validation rows is so much above the least, in nats.",
        NOT_NEGATIVE,
    )
    student_epochs: int = by_recipe(
        50,
        Shrinking(120, 8, 20_000),
        "Epochs each student is trained, counted in training rows of the table.",
        AT_LEAST_ONE,
    )
    student_patience: int = by_recipe(
        0,
        ByRows(40, ((LARGE, 25),)),
        "Each student keeps the weights of its best epoch on validation rows and ends after so "
        "many epochs without a better one; 0: it keeps the last.",
        NATURAL,
    )
    n_students: int = by_recipe(
        5,
        ByRows(5, ((LARGE, 3), (VERY_LARGE, 2))),
        "Seeds: so many distilled students and so many of each baseline.",
        MODELS,
    )
    student_weight_decay: float = by_recipe(
        1e-4,
        ByRows(3e-4, ((LARGE, 1e-5),)),
        "L2 weight decay of the students, baselines included.",
        NOT_NEGATIVE,
    )

    augment: str = by_recipe(
        "none",
        ByRows("mixup", ((LARGE, "none"),)),
        "New rows that the ensemble labels for the distilled students: none, mixup (between any "
        "two rows) or neighbours (between near rows).",
        one_of("none", "mixup", "neighbours"),
    )
    augment_factor: int = by_recipe(
        20,
        Shrinking(20, 1),
        "New rows per training row, where there is augmentation.",
        AT_LEAST_ONE,
    )
    student_mixup: float = by_recipe(
        0.0,
        ByRows(0.4, ((LARGE, 0.0),)),
        "Beta parameter of the strong baselines' mixup on labels; 0 for no strong baselines.",
        NOT_NEGATIVE,
    )
    calibrate: bool = option(
        False, "Scale each student's logits by one temperature fitted on validation rows."
    )


@dataclass(frozen=True, kw_only=True)
class StudentRecipe(StudentOptions, TrainingOptions):
    """All that a student's training depends on."""


@dataclass(frozen=True, kw_only=True)
class ExampleOptions(Options):
    """What the registered model and the report show of the table."""

    example_rows: str = option(
        "made",
        "Example rows in the registered model and in report.html: made from medians and "
        "categories, or real: the first training rows.",
        one_of("made", "real"),
    )


@dataclass(frozen=True, kw_only=True)
class ExportOptions(Options):
    """In which other forms the registered model comes."""

    export: str = option(
        "none",
        "A form of the student besides MLflow's own: none, or onnx: model.onnx, which needs the "
        "package's extra onnx.",
        one_of("none", "onnx"),
    )


@dataclass(frozen=True, kw_only=True)
class RegistryOptions(Options):
    """Which registered model."""

    model_name: str = option("kd-student", "Name of the registered model.", NAME)


@dataclass(frozen=True, kw_only=True)
class DecisionOptions(Options):
    """How the student decides between two classes."""

    decision_threshold: str = option(
        "none",
        "From which probability on the second of two classes is predicted: none (the likelier one "
        "is), the registered student's best on validation rows by balanced_accuracy or f1, or a "
        "number. All models of the comparison are asked at it.",
        THRESHOLD,
    )


@dataclass(frozen=True, kw_only=True)
class PageOptions(Options):
    """What the model's card and the report say besides."""

    owner: str = option("", "Who answers for the model, for its card and the report.", SHORT_TEXT)
    licence: str = option("", "The model's licence, for its card and the report.", SHORT_TEXT)


@dataclass(frozen=True, kw_only=True)
class GateOptions(Options):
    """What a candidate must reach."""

    gate_metric: str = option(
        "accuracy",
        "Test metric that the gate compares with the ensemble's; production is compared in log "
        "loss where this is log_loss, else in accuracy.",
        one_of(*GATE_METRICS),
    )
    max_accuracy_gap: float = option(
        0.02, "How much of that metric the student may lose to the ensemble.", SHARE
    )
    min_compression: float = option(
        10.0, "Smallest ratio of ensemble parameters to student parameters.", POSITIVE
    )
    allow_worse_than_baseline: bool = option(
        False, "Promote a student even where a baseline, trained without teachers, beats it."
    )
    policy: str = option(
        "non_inferior",
        "What the student must be on its own test rows, compared with production: non_inferior "
        "(the difference's lower bound is above -margin), better (above 0) or any (not compared).",
        one_of(*POLICIES),
    )
    margin: float = option(
        0.005,
        "How much worse than production a non-inferior student may be: a share of the rows, with "
        "log_loss nats.",
        NOT_NEGATIVE,
    )
    allow_schema_change: bool = option(
        False, "Promote a student that reads columns which production does not read."
    )
    max_ece: float = option(
        0.0, "Largest expected calibration error on the test rows; 0 for no such check.", SHARE
    )
    max_latency_ms: float = option(
        0.0,
        "Longest median time to score one row in process, in milliseconds; 0 for no such check.",
        NOT_NEGATIVE,
    )
    min_class_recall: float = option(
        0.0, "Least recall of any class on the test rows; 0 for no such check.", SHARE
    )
    strict: bool = option(False, "Exit with 1 when the candidate is rejected.")


@dataclass(frozen=True, kw_only=True)
class TeacherChoice(Options):
    """Who teaches."""

    teachers: str = option(
        "latest",
        "The run id of an ensemble; latest: the newest finished one trained on this data; or your "
        "own models as MLflow URIs with commas, such as models:/forest@champion,models:/boost/2; "
        "one ensemble may stand among them.",
    )


@dataclass(frozen=True, kw_only=True)
class TeachersConfig(EnsembleOptions, TrainingOptions, WorkerOptions, DataOptions):
    """Options of the entry point ``teachers``."""

    force: bool = option(False, "Train anew even where the same ensemble is finished.")


@dataclass(frozen=True, kw_only=True)
class DistillConfig(
    ExampleOptions,
    PageOptions,
    DecisionOptions,
    ExportOptions,
    RegistryOptions,
    TeacherChoice,
    StudentRecipe,
    WorkerOptions,
    DataOptions,
):
    """Options of the entry point ``distill``."""

    from_sweep: str = option(
        "", "Run id of a sweep, or latest, whose chosen temperature and alpha to take."
    )


@dataclass(frozen=True, kw_only=True)
class SweepConfig(TeacherChoice, StudentRecipe, WorkerOptions, DataOptions):
    """Options of the entry point ``sweep``."""

    temperatures: tuple[float, ...] = option(
        (1.0, 2.0, 3.0, 5.0, 10.0), "Temperatures of the grid, with commas.", TEMPERATURES
    )
    alphas: tuple[float, ...] = option(
        (0.3, 0.5, 0.7, 0.9, 1.0), "Alphas of the grid, with commas.", SHARES
    )
    sizes: str = option(
        "64,32;32,16;24,12;16,8;8,4",
        "Hidden layer widths to compare at the chosen setting, with commas and semicolons; "
        "empty for none.",
        SIZE_LISTS,
    )
    tolerance: float = option(
        0.005, "How much validation accuracy the smallest student may lose to the ensemble.", SHARE
    )

    def size_list(self) -> list[tuple[int, ...]]:
        """The widths of each size to compare."""
        return size_lists(self.sizes)


@dataclass(frozen=True, kw_only=True)
class PromoteConfig(GateOptions, RegistryOptions):
    """Options of the entry point ``promote``."""

    version: str = option(
        "candidate",
        "What to promote: a version's number, an alias such as candidate, or the id of the run "
        "that distilled it.",
    )
    data: Source = option(  # noqa: RUF009  # option makes a field
        "", "Where the version's table lies now, if no longer where it was; it must be the same."
    )
    dry_run: bool = option(False, "Say what the gate answers; record and move nothing.")


@dataclass(frozen=True, kw_only=True)
class RollbackConfig(RegistryOptions):
    """Options of the entry point ``rollback``."""

    version: str = option(
        "previous", "Where to go back to: previous, or a version's number that was in production."
    )
    reason: str = option("", "Why, for the record.", REASON)


@dataclass(frozen=True, kw_only=True)
class HistoryConfig(RegistryOptions):
    """Options of the command ``history``, which only reads."""


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(TableOptions):
    """Options of the entry point ``evaluate``."""

    target: str = option(
        "", "Name of the label column; none: the table has no labels to compare with.", STORED_TEXT
    )
    model: str = option(
        "models:/kd-student@production",
        "The model: a version models:/name/3, an alias models:/name@candidate, any other URI of an "
        "MLflow model, or the bare name of a registered model, whose production is meant.",
        STORED_TEXT,
    )
    against: str = option(
        "auto",
        "A model to compare it with on the same rows; auto: the version in production, or for "
        "that one the candidate, where there is one; none: no other.",
        STORED_TEXT,
    )
    max_psi: float = option(
        0.0,
        "Largest population stability index that a column may have, unless chance alone makes as "
        "much of so few rows; 0 for no limit.",
        NOT_NEGATIVE,
    )
    min_accuracy: float = option(
        0.0, "Least accuracy on the table's labels; 0 for no limit.", SHARE
    )
    strict: bool = option(False, "Exit with 1 when max_psi or min_accuracy is not kept.")


@dataclass(frozen=True, kw_only=True)
class MainConfig(
    GateOptions,
    ExampleOptions,
    PageOptions,
    DecisionOptions,
    ExportOptions,
    RegistryOptions,
    StudentRecipe,
    TeachersConfig,
):
    """Options of the entry point ``main``: those of its three steps."""

    def for_distill(self, teachers: str) -> DistillConfig:
        """The options of its second step, against a given ensemble."""
        own: dict[str, Any] = {"teachers": teachers, "from_sweep": ""}
        shared = {f.name for f in fields(DistillConfig)} - own.keys()
        return DistillConfig(**{name: getattr(self, name) for name in shared}, **own)

    def for_promote(self, version: str) -> PromoteConfig:
        """The options of its last step, for a given version."""
        gate = {f.name: getattr(self, f.name) for f in fields(GateOptions)}
        return PromoteConfig(**gate, model_name=self.model_name, version=version)


ENTRY_POINTS: dict[str, type[Options]] = {
    "main": MainConfig,
    "teachers": TeachersConfig,
    "distill": DistillConfig,
    "sweep": SweepConfig,
    "promote": PromoteConfig,
    "rollback": RollbackConfig,
    "evaluate": EvaluateConfig,
}
"""What each command, entry point of MLproject and function of the API takes."""

READERS: dict[str, type[Options]] = {"history": HistoryConfig}
"""Commands that only read: functions of the API too, but no entry points of MLproject."""
