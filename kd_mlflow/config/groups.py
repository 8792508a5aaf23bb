"""The options by subject: each has its default, its help and its rule.

What is ``by_recipe`` has its values in the table of ``recipes``.
"""

from __future__ import annotations

import math
from typing import Any, TypeAlias

from kd_mlflow.config import rules
from kd_mlflow.config.options import Options, by_recipe, option, option_group
from kd_mlflow.config.recipes import RECIPES

KINDS = ", ".join(f"{name} ({address.words})" for name, address in rules.FAMILIES.items())

Source: TypeAlias = Any
"""Where a table comes from: a name, a path, or a DataFrame or another table in memory."""

MUON_ROWS, MUON_RATE, MUON_RATE_OF_LABELS = 4, 2.0, 2 / 3
"""So many times the rows a step has with Muon, which costs more. Its rate rises by the root of it:
Malladi and others (2022), arXiv 2205.10287, for steps whose length is the rate's. A label says less
of a row than an ensemble does: what learns from labels takes shorter steps.
"""

MUON_STEPS = 2_000
"""Steps of Adam from which on Muon's are enough: Adam's first ones are longer."""


@option_group
class SourceOptions(Options):
    """Which table."""

    data: Source = option(
        "synthetic",
        "Built-in table (synthetic, digits, breast_cancer, wine) or path of a CSV or Parquet file; "
        "from Python also a DataFrame of pandas or polars, or an Arrow table.",
    )


@option_group
class LabelOptions(Options):
    """Which label, which rows belong together."""

    target: str = option(
        "", "Name of the label column; needed for all but a built-in table.", rules.STORED_TEXT
    )
    group: str = option(
        "",
        "Column that says who or what a row is about, or several with commas whose values together "
        "do: rows of one group stay on one side of the split, intervals are by groups, and it is "
        "no input.",
        rules.STORED_TEXT,
        several=",",
    )


@option_group
class DelimitedOptions(Options):
    """How a CSV file is written."""

    separator: str = option(
        "",
        "Separator of a CSV file's cells; found in the file where none is given.",
        rules.SEPARATOR,
    )
    decimal: str = option(
        "", "Decimal mark of a CSV file; found in its columns where none is given.", rules.DECIMAL
    )


@option_group
class TableOptions(DelimitedOptions, LabelOptions, SourceOptions):
    """Which table, which label."""


@option_group
class ColumnOptions(Options):
    """What columns hold."""

    column: str = option(
        "",
        "What a column holds, whatever it looks like: name=number, category (NA is a text), date "
        "(or date:%d.%m.%Y), truth, text (keeps 007) or leave_out; several with semicolons, or "
        "the option again. What does not fit is a gap.",
        rules.COLUMNS,
        several=";",
    )


@option_group
class DataOptions(ColumnOptions, TableOptions):
    """Which table, which label, which rows."""

    time: str = option(
        "",
        "Column of dates or numbers that says when a row was: the latest rows are test rows, those "
        "before them validation rows, and it is no input.",
        rules.STORED_TEXT,
    )
    val_fraction: float = option(
        0.1,
        "Share of the rows that are not test rows kept for curves and choices.",
        rules.OPEN_SHARE,
    )
    drop_rare_classes: bool = option(
        False, "Leave out the rows of classes with fewer than 3 different rows, not refuse them."
    )


@option_group
class TrainingOptions(Options):
    """How every model is trained."""

    recipe: str = option(
        "best",
        "Where options left to the recipe come from: reference (constant rate, no augmentation) "
        "or best; an option that is given wins.",
        rules.one_of(*RECIPES),
    )
    learning_rate: float = by_recipe("Adam's learning rate.", rules.POSITIVE)
    schedule: str = by_recipe(
        "Course of the learning rate: constant, or cosine (falls to 0 at the end).",
        rules.one_of("constant", "cosine"),
    )
    batch_size: int = by_recipe("Rows per training step of networks.", rules.AT_LEAST_ONE)
    seed: int = option(42, "Seed of initialisation, shuffling and dropout.", rules.NATURAL)
    averaging: str = by_recipe(
        "What the ensemble averages over its members: logits or probabilities.",
        rules.one_of("logits", "probabilities"),
    )
    weighting: str = by_recipe(
        "How much teachers count: equal (each model as much as another), or greedy (each family, "
        "or each of your own models, by log loss on rows that it was not trained on).",
        rules.one_of("equal", "greedy"),
    )

    def best_optimizer(self, rows: int, epochs: int) -> str:
        """Muon where so many epochs of so many rows are steps enough for it, else Adam."""
        return "muon" if epochs * math.ceil(rows / self.batch_size) >= MUON_STEPS else "adam"

    def step_of(self, optimizer: str, muon_rate: float) -> tuple[int, float]:
        """Rows and learning rate of a step; Muon's rate is so many times Adam's."""
        if optimizer == "muon":
            return MUON_ROWS * self.batch_size, muon_rate * self.learning_rate
        return self.batch_size, self.learning_rate


@option_group
class WorkerOptions(Options):
    """Where models are trained, how often that is kept, how long stores are waited for.

    No metric depends on it.
    """

    workers: int = option(
        0,
        "Models trained side by side, on one core each; 0 for as many as usable cores.",
        rules.NATURAL,
    )
    dask_scheduler: str = option(
        "", "Address of a Dask scheduler, such as tcp://host:8786, whose workers are to train."
    )
    checkpoint_seconds: float = option(
        30.0,
        "Seconds between checkpoints, from which the next run of the same data and options goes on "
        "where one was interrupted; 0 for none.",
        rules.NOT_NEGATIVE,
    )
    store_patience_s: float = option(
        900.0,
        "Seconds that a write waits for a tracking server that does not answer, while training "
        "goes on; after them the command ends, and the next of the same data and options goes on.",
        rules.NOT_NEGATIVE,
    )


@option_group
class EnsembleOptions(Options):
    """The teachers."""

    teacher_families: str = by_recipe(
        f"What the teachers are, with commas: {KINDS}, module:function (a function of "
        "yours that returns an unfitted scikit-learn classifier).",
        rules.TEACHER_FAMILIES,
    )
    n_teachers: int = by_recipe("Number of networks in the ensemble.", rules.MODELS)
    n_compact: int = by_recipe(
        "Number of compact networks beside them, of the family mlp, which learn with Muon; each is "
        "as small as a student: where they alone count, fewer than ten are not ten times as large "
        "as one.",
        rules.MODELS_OR_NONE,
    )
    teacher_epochs: int = by_recipe("Epochs each network is trained, at most.", rules.AT_LEAST_ONE)
    teacher_patience: int = by_recipe(
        "Each network leaves out a fold of the training rows, keeps the weights of its best epoch "
        "on it and ends after so many epochs without a better one; 0: no rows are left out.",
        rules.NATURAL,
    )
    teacher_bins: int = by_recipe(
        "Bins of the numbers in the inputs of every second network, piecewise linear; 0 for none.",
        rules.NATURAL,
    )
    n_boosted: int = by_recipe("Number of boosted models in the ensemble.", rules.MODELS)
    n_own: int = option(
        5,
        "Models of each family that is neither mlp nor boosting; each leaves out a fold of the "
        "training rows, a fifth at most.",
        rules.MODELS,
    )
    own_pickle: bool = option(
        False, "Store models of your functions as pickles where MLflow has no other form for them."
    )
    boosting_rounds: int = by_recipe(
        "Rounds of each boosted model, at most; it stops by the fold that it leaves out.",
        rules.AT_LEAST_ONE,
    )
    boosting_rate: float = by_recipe("Learning rate of the boosted models.", rules.POSITIVE)
    boosting_leaves: int = by_recipe("Leaves of each tree of a boosted model.", rules.AT_LEAST_TWO)
    teacher_hidden: tuple[int, ...] = option(
        (256, 128, 64), "Hidden layer widths of a network that teaches, with commas.", rules.SIZES
    )
    dropout: float = by_recipe("Dropout rate of their hidden layers.", rules.RATE)
    teacher_mixup: float = by_recipe(
        "Beta parameter of the networks' mixup on labels; 0 for none.", rules.NOT_NEGATIVE
    )
    max_categories: int = option(
        64,
        "Categories kept of a text column, the most frequent; the rest share one.",
        rules.AT_LEAST_ONE,
    )
    scaling: str = option(
        "auto",
        "Scale of numbers: each column's own, one common to all, or auto: common where the "
        "columns' deviations are within a factor of ten.",
        rules.one_of("auto", "each", "common"),
    )
    teacher_weight_decay: float = by_recipe(
        "L2 weight decay of the networks that teach.", rules.NOT_NEGATIVE
    )
    teacher_optimizer: str = by_recipe(
        "Optimizer of the networks that teach: adam, muon (see student_optimizer; two thirds of "
        "the rate), or auto (muon for those with numbers in bins, where there are steps enough).",
        rules.OPTIMIZER,
    )


@option_group
class StudentRecipe(TrainingOptions):
    """All that a student's training depends on, distilled and baseline."""

    temperature: float = by_recipe("Temperature T of both sides' logits.", rules.POSITIVE)
    alpha: float = by_recipe("Weight of the soft loss; the hard loss has the rest.", rules.SHARE)
    student_hidden: tuple[int, ...] = by_recipe(
        "Hidden layer widths of a student, with commas.", rules.SIZES
    )
    student_bins: int = by_recipe(
        "Bins of the numbers in a student's inputs, piecewise linear; 0 for none.", rules.NATURAL
    )
    menu_tolerance: float = option(
        0.0005,
        "Where several students may be chosen, the smallest is whose divergence from the ensemble "
        "on validation rows is so much above the least, in nats.",
        rules.NOT_NEGATIVE,
    )
    student_epochs: int = by_recipe(
        "Epochs each student is trained, counted in training rows of the table.", rules.AT_LEAST_ONE
    )
    student_patience: int = by_recipe(
        "Each student keeps the weights of its best epoch on validation rows and ends after so "
        "many epochs without a better one; 0: it keeps the last.",
        rules.NATURAL,
    )
    n_students: int = by_recipe(
        "Seeds: so many distilled students and so many of each baseline.", rules.MODELS
    )
    student_optimizer: str = by_recipe(
        "Optimizer of the distilled students: adam, muon (Muon for the weights of hidden layers, "
        "Adam for the others; a step has four times the rows and twice the rate), or auto (muon "
        "where there are 2,000 steps or more of batch_size rows).",
        rules.OPTIMIZER,
    )
    baseline_optimizer: str = by_recipe(
        "Optimizer of the baselines: adam, muon (two thirds of the rate), or auto (as the "
        "students', unless a baseline with adam has the lower log loss on validation rows).",
        rules.OPTIMIZER,
    )
    strong_baseline_optimizer: str = by_recipe(
        "Optimizer of the strong baselines, as baseline_optimizer of the others.", rules.OPTIMIZER
    )
    student_weight_decay: float = by_recipe(
        "L2 weight decay of the distilled students.", rules.NOT_NEGATIVE
    )
    baseline_weight_decay: float = by_recipe(
        "L2 weight decay of the baselines.", rules.NOT_NEGATIVE
    )
    augment: str = by_recipe(
        "New rows that the ensemble labels for the distilled students: none, mixup (between any "
        "two rows), neighbours (between near rows), or auto (mixup where networks on plain inputs "
        "have a fifth of the ensemble's weight, else neighbours).",
        rules.one_of("none", "auto", "mixup", "neighbours"),
    )
    augment_factor: int = by_recipe(
        "New rows per training row, where there is augmentation.", rules.AT_LEAST_ONE
    )
    student_mixup: float = by_recipe(
        "Beta parameter of the strong baselines' mixup on labels; 0 for no strong baselines.",
        rules.NOT_NEGATIVE,
    )
    calibrate: bool = option(
        False, "Scale each student's logits by one temperature fitted on validation rows."
    )

    def optimizer_for(self, rows: int) -> str:
        """The optimizer of students of so many training rows."""
        if self.student_optimizer != "auto":
            return self.student_optimizer
        return self.best_optimizer(rows, self.student_epochs)

    def baseline_optimizer_for(self, rows: int, *, strong: bool) -> str:
        """The optimizer of baselines where none was tried: as the students'."""
        own = self.strong_baseline_optimizer if strong else self.baseline_optimizer
        return self.optimizer_for(rows) if own == "auto" else own

    @property
    def student_step(self) -> tuple[int, float]:
        """Rows and learning rate of a student's step, by its optimizer."""
        return self.step_of(self.student_optimizer, MUON_RATE)

    @property
    def baseline_step(self) -> tuple[int, float]:
        """Rows and learning rate of a baseline's step, by its optimizer."""
        return self.step_of(self.baseline_optimizer, MUON_RATE_OF_LABELS)


@option_group
class StudentFit(StudentRecipe, WorkerOptions):
    """A student that is trained in memory, on the table of its ensemble."""


@option_group
class RegistryOptions(Options):
    """Which registered model."""

    model_name: str = option("kd-student", "Name of the registered model.", rules.NAME)


@option_group
class ModelOptions(RegistryOptions):
    """What the registered model is, and what its card and the report say besides."""

    export: str = option(
        "none",
        "A form of the student besides MLflow's own: none, or onnx: model.onnx, which needs the "
        "package's extra onnx.",
        rules.one_of("none", "onnx"),
    )
    decision_threshold: str = option(
        "none",
        "From which probability on the second of two classes is predicted: none (the likelier one "
        "is), the registered student's best on validation rows by balanced_accuracy or f1, or a "
        "number. Of more classes the rules choose one weight per class, f1 by its mean over "
        "classes. All models of the comparison are asked so.",
        rules.THRESHOLD,
    )
    owner: str = option(
        "", "Who answers for the model, for its card and the report.", rules.SHORT_TEXT
    )
    licence: str = option("", "The model's licence, for its card and the report.", rules.SHORT_TEXT)
    registered_seed: str = by_recipe(
        "Which of the distilled students is registered: first, or nearest: that of least "
        "divergence from the ensemble on validation rows.",
        rules.one_of("first", "nearest"),
    )
    example_rows: str = option(
        "made",
        "Example rows in the registered model and in report.html: made from medians and "
        "categories, or real: the first training rows.",
        rules.one_of("made", "real"),
    )


@option_group
class GateOptions(Options):
    """What a candidate must reach."""

    gate_metric: str = option(
        "accuracy",
        "Test metric that the gate compares with the ensemble's; production is compared in "
        "accuracy where this is accuracy and neither has a decision_threshold, else in log loss.",
        rules.one_of("accuracy", "balanced_accuracy", "log_loss", "roc_auc", "average_precision"),
    )
    max_accuracy_gap: float = option(
        0.02, "How much of that metric the student may lose to the ensemble.", rules.SHARE
    )
    max_log_loss_gap: float = option(
        0.005,
        "How much log loss students may lose to the ensemble, in parts of that of a guess among "
        "the classes, the logarithm of their number; more than that with its whole interval is "
        "refused. 0 for no such check.",
        rules.NOT_NEGATIVE,
    )
    min_compression: float = option(
        10.0,
        "Smallest ratio of ensemble parameters to student parameters, of the times that one row "
        "takes them, or of their times for a thousand: one is enough.",
        rules.POSITIVE,
    )
    allow_worse_than_baseline: bool = option(
        False, "Promote a student even where a baseline, trained without teachers, beats it."
    )
    policy: str = option(
        "non_inferior",
        "What the student must be on its own test rows, compared with production: non_inferior "
        "(the difference's lower bound is above -margin), better (above 0) or any (not compared).",
        rules.one_of("non_inferior", "better", "any"),
    )
    margin: float = option(
        0.005,
        "How much worse than production a non-inferior student may be: a share of the rows, in log "
        "loss nats.",
        rules.NOT_NEGATIVE,
    )
    allow_schema_change: bool = option(
        False, "Promote a student that reads columns which production does not read."
    )
    max_ece: float = option(
        0.0,
        "Largest expected calibration error on the test rows; 0 for no such check.",
        rules.SHARE,
    )
    max_latency_ms: float = option(
        0.0,
        "Longest median time to score one row in process, in milliseconds; 0 for no such check.",
        rules.NOT_NEGATIVE,
    )
    min_class_recall: float = option(
        0.0, "Least recall of any class on the test rows; 0 for no such check.", rules.SHARE
    )
    strict: bool = option(False, "Exit with 1 when the candidate is rejected.")


@option_group
class TeacherChoice(Options):
    """Who teaches."""

    teachers: str = option(
        "latest",
        "The run id of an ensemble; latest: the newest finished one trained on this data; or your "
        "own models as MLflow URIs with commas, such as models:/forest@champion,models:/boost/2; "
        "one ensemble may stand among them.",
    )
