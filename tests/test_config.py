"""Options: each holds its rule, reads its text, and reaches the step it belongs to."""

import re
from dataclasses import FrozenInstanceError, fields, replace

import numpy as np
import pytest

from kd_mlflow.config.entry_points import (
    DistillConfig,
    EvaluateConfig,
    HistoryConfig,
    MainConfig,
    PromoteConfig,
    RollbackConfig,
    SweepConfig,
    TeachersConfig,
)
from kd_mlflow.config.groups import DataOptions, EnsembleOptions, GateOptions, StudentRecipe
from kd_mlflow.config.options import recipe_text, text_value
from kd_mlflow.config.recipes import BEST, FROM_ROWS, HUGE, TABLE, Falling, recipe_value
from kd_mlflow.errors import ConfigError

CONFIGS = [TeachersConfig, DistillConfig, SweepConfig, PromoteConfig, RollbackConfig, MainConfig]

REFUSED = [
    ("alpha", 1.5, "1.5"),
    ("alpha", -0.1, "-0.1"),
    ("alpha", float("nan"), "nan"),
    ("temperature", 0, "0"),
    ("temperature", -1.0, "-1.0"),
    ("temperature", float("inf"), "inf"),
    ("learning_rate", 0, "0"),
    ("learning_rate", float("nan"), "nan"),
    ("teacher_epochs", 0, "0"),
    ("student_epochs", 0, "0"),
    ("batch_size", 0, "0"),
    ("seed", -1, "-1"),
    ("n_teachers", 0, "0"),
    ("n_students", 0, "0"),
    ("student_hidden", "64,,32", "'64,,32'"),
    ("student_hidden", "0", r"\(0,\)"),
    ("student_hidden", "64,-1", r"\(64, -1\)"),
    ("student_hidden", "a", "'a'"),
    ("student_hidden", "", "''"),
    ("student_hidden", (), r"\(\)"),
    ("val_fraction", 0, "0"),
    ("val_fraction", 1, "1"),
    ("separator", "::", "'::'"),
    ("separator", "§", "'§'"),
    ("separator", '"', "'\"'"),
    ("separator", None, "None"),
    ("decimal", "point", "'point'"),
    ("decimal", None, "None"),
    ("dropout", 1, "1"),
    ("dropout", -0.1, "-0.1"),
    ("teacher_weight_decay", -1e-4, "-0.0001"),
    ("schedule", "linear", "'linear'"),
    ("model_name", "a/b", "'a/b'"),
    ("model_name", "a:b", "'a:b'"),
    ("model_name", "", "''"),
    ("max_accuracy_gap", 2.0, "2.0"),
    ("recipe", "fast", "'fast'"),
    ("augment", "noise", "'noise'"),
    ("augment_factor", 0, "0"),
    ("student_mixup", -0.1, "-0.1"),
    ("averaging", "votes", "'votes'"),
    ("min_compression", 0.0, "0.0"),
    ("target", ["y"], r"\['y'\]"),
    ("val_fraction", np.array([0.1, 0.2]), r"\[0.1, 0.2\]"),
]


@pytest.mark.parametrize(("name", "value", "shown"), REFUSED)
def test_a_value_against_its_rule_is_refused(name, value, shown):
    """A value no run could use raises ConfigError that names the option and the value."""
    with pytest.raises(ConfigError, match=rf"^{name} must be .+; received {shown}$"):
        MainConfig(**{name: value})


def test_numpys_values_are_taken_as_pythons():
    """Whoever loops over an array gets the run that the same numbers give."""
    given = {"n_teachers": 3, "learning_rate": 0.25, "strict": True, "teacher_hidden": (8, 4)}
    found = MainConfig(
        n_teachers=np.int64(3),
        learning_rate=np.float32(0.25),
        strict=np.bool_(True),
        teacher_hidden=np.array([8, 4]),
    )
    assert found.as_text() == MainConfig(**given).as_text()
    assert {name: type(getattr(found, name)) for name in given} == {
        name: type(value) for name, value in given.items()
    }
    assert MainConfig(group=["a", "b"]).group == "a,b"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperatures", ""),
        ("temperatures", "1,x"),
        ("temperatures", "0,1"),
        ("alphas", "0.5,1.5"),
        ("sizes", "8,;4"),
        ("sizes", "8,0"),
        ("tolerance", -0.1),
    ],
)
def test_a_sweeps_value_against_its_rule_is_refused(name, value):
    """A list that no sweep could use raises ConfigError that names the option."""
    with pytest.raises(ConfigError, match=rf"^{name} must be .+; received "):
        SweepConfig(**{name: value})


def test_lists_of_a_sweep_are_read_from_text():
    """Numbers come with commas, sizes with semicolons between them."""
    config = SweepConfig(temperatures="1,2.5", alphas="0.5", sizes="8,4;16")
    assert (config.temperatures, config.alphas) == ((1.0, 2.5), (0.5,))
    assert config.size_list() == [(8, 4), (16,)]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("alpha", 0.0),
        ("alpha", 1.0),
        ("dropout", 0.0),
        ("n_teachers", 1),
        ("seed", 0),
        ("max_accuracy_gap", 0.0),
        ("student_weight_decay", 0.0),
        ("schedule", "cosine"),
        ("separator", "tab"),
        ("separator", r"\t"),
        ("separator", "\t"),
        ("separator", ";"),
        ("separator", ""),
        ("decimal", ","),
    ],
)
def test_a_value_on_its_bound_is_taken(name, value):
    """Bounds that belong to the range are taken as they are."""
    assert getattr(MainConfig(**{name: value}), name) == value


@pytest.mark.parametrize(("text", "sizes"), [("64,32", (64, 32)), ("8", (8,)), ("5, 4", (5, 4))])
def test_hidden_sizes_are_read_from_text(text, sizes):
    """Hidden sizes come as text with commas and are kept as whole numbers."""
    assert StudentRecipe(student_hidden=text).student_hidden == sizes


@pytest.mark.parametrize("config", CONFIGS)
def test_defaults_hold_their_own_rules(config):
    """Every configuration can be made from defaults alone, and each option has its help."""
    options = config()
    assert all(field.metadata["help"] for field in fields(options))


@pytest.mark.parametrize(
    ("recipe", "values"),
    [
        ("reference", ("constant", 1e-3, 30, 0.3, 0.0, 0.0, 50, "none", 0.0, "logits", False)),
        ("best", ("cosine", 3e-3, 120, 0.1, 3e-4, 0.4, 150, "auto", 0.4, "probabilities", False)),
    ],
)
def test_a_recipe_sets_what_is_left_to_it(recipe, values):
    """``resolved`` fills every option that follows the recipe, but for what is on a menu."""
    config = MainConfig(recipe=recipe).resolved(3600)
    names = (
        "schedule learning_rate teacher_epochs dropout teacher_weight_decay teacher_mixup "
        "student_epochs augment student_mixup averaging calibrate"
    )
    assert tuple(getattr(config, name) for name in names.split()) == values
    left = {name for name, value in vars(config).items() if value is None}
    on_menu = {"temperature", "student_hidden", "student_bins"}
    assert left == (on_menu if recipe == "best" else set())
    assert all(len(config.menu(name, 3600)) > 1 for name in left)


@pytest.mark.parametrize("recipe", ["reference", "best"])
def test_a_given_option_wins_over_the_recipe(recipe):
    """What is given stays as given, values that count as false too."""
    given = {"dropout": 0.0, "student_epochs": 7, "calibrate": False, "augment": "neighbours"}
    config = MainConfig(recipe=recipe, **given).resolved(3600)
    assert {name: getattr(config, name) for name in given} == given


def test_epochs_of_best_fall_as_rows_grow():
    """Work stays level above 1,500 rows, and 20,000, down to the least number of epochs."""
    sizes = (100, 2_000, 4_999, 20_000, 40_000, 10**6)
    epochs = [MainConfig().resolved(rows).student_epochs for rows in sizes]
    assert epochs == [240, 180, 150, 120, 60, 8]


@pytest.mark.parametrize(
    ("rows", "augment", "factor"),
    [
        (4_999, "auto", 16),
        (5_000, "mixup", 4),
        (20_000, "mixup", 2),
        (HUGE, "none", 1),
    ],
)
def test_best_makes_new_rows_by_the_rows_there_are(rows, augment, factor):
    """Fewer a row where rows are many, none where scoring them would take minutes."""
    config = MainConfig().resolved(rows)
    assert (config.augment, config.augment_factor) == (augment, factor)


def test_configurations_are_frozen():
    """An option cannot be changed once its rule has been checked."""
    with pytest.raises(FrozenInstanceError):
        MainConfig().alpha = 2.0


def test_part_of_takes_its_own_values():
    """A group taken from a configuration has that configuration's values, and those alone."""
    main = MainConfig(n_teachers=3, teacher_hidden="9,8", alpha=0.2)
    part = EnsembleOptions.part_of(main)
    assert part == EnsembleOptions(n_teachers=3, teacher_hidden=(9, 8))


def test_main_hands_the_distill_step_its_values():
    """for_distill carries every shared option over and sets the ensemble given."""
    main = MainConfig(
        data="wine", val_fraction=0.2, alpha=0.4, temperature=5.0, seed=7, model_name="m"
    )
    step = main.for_distill("abc")
    assert step.teachers == "abc"
    shared = {f.name for f in fields(DistillConfig)} - {"teachers", "from_sweep"}
    assert {n: getattr(step, n) for n in shared} == {n: getattr(main, n) for n in shared}
    assert (step.data, step.alpha, step.model_name) == ("wine", 0.4, "m")


def test_main_hands_the_promote_step_its_values():
    """for_promote carries the gate and the model's name over and sets the version given."""
    main = MainConfig(max_accuracy_gap=0.1, min_compression=3.0, strict=True, model_name="m")
    assert main.for_promote("4") == PromoteConfig(
        max_accuracy_gap=0.1, min_compression=3.0, strict=True, model_name="m", version="4"
    )


def test_main_has_every_option_of_its_steps():
    """No option of a step is missing from main, but for those that main decides itself."""
    names = {f.name for f in fields(MainConfig)}
    steps = [TeachersConfig, DistillConfig, PromoteConfig]
    wanted = {f.name for step in steps for f in fields(step)} - {
        "teachers",
        "version",
        "from_sweep",
        "to",
        "to_uri",
        "dry_run",
    }
    assert wanted == names


@pytest.mark.parametrize(
    ("value", "text"),
    [((256, 128), "256,128"), (True, "true"), (False, "false"), (0.001, "0.001"), ("x", "x")],
)
def test_values_are_written_as_the_command_line_takes_them(value, text):
    """Tuples have commas, booleans are lower case, the rest is Python's own text."""
    assert text_value(value) == text


def test_text_reads_back():
    """Hidden sizes written as text give the same configuration when read."""
    options = StudentRecipe(student_hidden=(7, 6, 5))
    assert StudentRecipe(student_hidden=options.as_text()["student_hidden"]) == options


def test_as_text_names_every_option():
    """as_text has each option of the group once, by name."""
    assert DataOptions(data="wine").as_text() == {
        "data": "wine",
        "target": "",
        "group": "",
        "time": "",
        "separator": "",
        "decimal": "",
        "column": "",
        "val_fraction": "0.1",
        "drop_rare_classes": "false",
    }
    assert GateOptions(strict=True).as_text()["strict"] == "true"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("alpha", "reference 0.7; best 1.0"),
        ("n_boosted", "reference 6; best 6, from 20,000 rows 4, from 60,000 rows 2"),
        (
            "student_hidden",
            "reference 64,32; best chosen: 64,32 or 128,64, "
            "from 5,000 rows chosen: 64,32 or 128,64 or 192,96 or 256,128",
        ),
        (
            "student_epochs",
            "reference 50; best 240, above 1,500 rows fewer, at least 150, from 5,000 rows 120, "
            "above 20,000 rows fewer, at least 8",
        ),
        (
            "temperature",
            "reference 3.0; best chosen: 1.0 or 2.0 or 3.0, from 5,000 rows 2.0",
        ),
    ],
)
def test_a_default_by_recipe_is_told_in_words(name, text):
    """Help, docstrings and the options page say each recipe's value, and from which rows on."""
    assert recipe_text(name) == text
    assert f"\n    {name} (default: by recipe: {text})\n" in MainConfig.__doc__


@pytest.mark.parametrize("rows", FROM_ROWS[1:])
def test_a_column_of_the_table_holds_from_its_rows_on(rows):
    """One row fewer has what the column before says."""
    for name, (_, *best) in TABLE.items():
        if len(best) > 1 and not any(isinstance(value, Falling) for value in best):
            column = FROM_ROWS.index(rows)
            assert recipe_value(name, BEST, rows - 1) == best[column - 1]
            assert recipe_value(name, BEST, rows) == best[column]


@pytest.mark.parametrize("name", TABLE)
def test_each_cell_of_the_table_is_a_value_of_its_option(name):
    """Every value that a recipe may set is of its option's type and keeps its rule."""
    reference, *best = TABLE[name]
    assert len(best) in (1, len(FROM_ROWS))
    for cell in (reference, *best):
        ends = [cell.most, cell.least] if isinstance(cell, Falling) else [cell]
        for value in cell if isinstance(cell, list) else ends:
            assert type(value) is type(reference)
            assert getattr(MainConfig(**{name: value}), name) == value


def test_the_table_has_a_row_for_each_option_left_to_the_recipe():
    """No row without an option, no such option without its row."""
    assert {field.name for field in fields(MainConfig) if field.default is None} == TABLE.keys()


@pytest.mark.parametrize("config", [*CONFIGS, EvaluateConfig, HistoryConfig])
def test_a_configurations_docstring_explains_each_option_by_name(config):
    """``help`` of a configuration has each option's default and what it does."""
    for field in fields(config):
        explained = (
            rf"^    {field.name} \(default: .+\)\n        {re.escape(field.metadata['help'])}$"
        )
        assert re.search(explained, config.__doc__, re.M)


@pytest.mark.parametrize(
    ("rows", "epochs", "chosen"),
    [(640, 200, "muon"), (641, 182, "muon"), (640, 199, "adam"), (4_000, 10, "adam")],
)
def test_few_steps_are_adams(rows, epochs, chosen):
    """Auto is Muon from 2,000 steps of batch_size rows on; what is named stays."""
    recipe = StudentRecipe(student_optimizer="auto", student_epochs=epochs, batch_size=64)
    assert recipe.optimizer_for(rows) == chosen
    for name in ("adam", "muon"):
        named = StudentRecipe(student_optimizer=name, student_epochs=epochs, batch_size=64)
        assert named.optimizer_for(rows) == name


@pytest.mark.parametrize(
    ("rows", "epochs", "bins", "chosen"),
    [
        (3_200, 40, True, "muon"),
        (3_200, 40, False, "adam"),
        (3_200, 39, True, "adam"),
        (3_264, 39, True, "adam"),
        (3_265, 39, True, "muon"),
    ],
)
def test_teachers_with_bins_take_muon_where_they_have_many_steps(rows, epochs, bins, chosen):
    """Auto is Muon from 2,000 steps of batch_size rows on; what is named stays."""
    config = TeachersConfig(teacher_optimizer="auto", teacher_epochs=epochs, batch_size=64)
    assert config.teacher_optimizer_for(rows, bins=bins) == chosen
    for name in ("adam", "muon"):
        named = replace(config, teacher_optimizer=name)
        assert named.teacher_optimizer_for(rows, bins=bins) == name


def test_a_step_of_muon_has_four_times_the_rows_and_twice_the_rate():
    """From labels two thirds of the rate. Of adam it has those of the options."""
    given = {"batch_size": 32, "learning_rate": 0.01}
    adam = StudentRecipe(student_optimizer="adam", baseline_optimizer="adam", **given)
    muon = StudentRecipe(student_optimizer="muon", baseline_optimizer="muon", **given)
    assert adam.student_step == adam.baseline_step == (32, 0.01)
    assert muon.student_step == (128, 0.02)
    assert muon.baseline_step == (128, pytest.approx(0.02 / 3))
