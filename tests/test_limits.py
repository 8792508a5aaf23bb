"""What MLflow's databases would refuse or cut: no run of ours is so long, whatever the table."""

import json
import logging
import sqlite3
from contextlib import closing

import numpy as np
import pandas as pd
import pytest

from kd_mlflow import pipeline
from kd_mlflow.config.entry_points import MainConfig
from kd_mlflow.distillation import boosting
from kd_mlflow.models.any_model import AnyModel
from kd_mlflow.models.model_teachers import TAG_LENGTH, ModelTeachers
from kd_mlflow.table.dataset import split_rows
from kd_mlflow.table.loading import load_table

CLASSES, COLUMNS = 1000, 2000
ROWS = 20 * CLASSES // 3
LONG = "a long name with | and ` in it " * 6
QUICK = {
    "n_teachers": 1,
    "teacher_epochs": 1,
    "teacher_hidden": (2,),
    "n_boosted": 1,
    "boosting_rounds": 2,
    "n_students": 1,
    "student_epochs": 1,
    "student_hidden": (2,),
    "student_bins": 0,
    "temperature": 3.0,
    "augment": "none",
    "student_mixup": 0.0,
    "batch_size": 4096,
    "max_accuracy_gap": 1.0,
    "max_log_loss_gap": 0.0,
    "min_compression": 0.01,
}


def many_classes():
    """Two columns and 1,000 classes, each on every side of the split, which values decide."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.normal(size=(ROWS, 2)), columns=["x", "y"])
    split = split_rows(load_table(frame.assign(**{LONG: np.arange(ROWS) % 2}), LONG), 0.1)
    labels = np.empty(len(frame), dtype=object)
    for rows in vars(split).values():
        labels[rows] = [f"class {i % CLASSES} {LONG}" for i in range(len(rows))]
    return frame.assign(**{LONG: labels})


def many_columns():
    """2,000 columns with long names and two classes."""
    rng = np.random.default_rng(0)
    names = [f"{LONG} {i}" for i in range(COLUMNS)]
    frame = pd.DataFrame(rng.normal(size=(60, COLUMNS)), columns=names)
    return frame.assign(**{LONG: np.arange(60) % 2})


def too_long(path):
    """Columns of a database that declare a length, and hold longer texts; SQLite lets them."""
    with closing(sqlite3.connect(path)) as database:
        tables = [name for (name,) in database.execute("select name from sqlite_master")]
        found = {}
        for table in tables:
            for _, column, kind, *_ in database.execute(f"pragma table_info('{table}')"):
                if not kind.startswith("VARCHAR("):
                    continue
                (most,) = database.execute(f"select max(length({column})) from {table}").fetchone()
                if most and most > int(kind[8:-1]):
                    found[f"{table}.{column}"] = (most, kind)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("make", [many_classes, many_columns])
def test_no_text_is_longer_than_its_database_column(store, tmp_path, caplog, monkeypatch, make):
    """A main on 1,000 classes or 2,000 columns ends, and no text is cut or too long to be kept.

    The table's file may have 255 characters; the names of its runs have at most 250.
    """
    monkeypatch.setattr(boosting, "MOST_TREES_ALONE", CLASSES)  # a round of them, not fifteen
    caplog.set_level(logging.WARNING, "mlflow")
    path = tmp_path / ("t" * 247 + ".parquet")
    make().to_parquet(path)
    options = {"data": str(path), "target": LONG, "model_name": "m" * 256}
    options["allow_worse_than_baseline"] = True  # the labels are chance's
    result = pipeline.run_main(MainConfig(**options, **QUICK))
    assert result.decision.promoted
    assert too_long(tmp_path / "mlflow.db") == {}
    assert "truncated" not in caplog.text


@pytest.mark.parametrize("count", [2, 3, 200])
def test_many_teachers_fit_a_tag(count, tmp_path):
    """The tag kd.teachers is JSON within MLflow's length, and counts the models it leaves out."""
    members = tuple(
        AnyModel(
            uri=f"models:/teacher-{i}@champion",
            resolved=f"models:/teacher-{i}/1",
            folder=tmp_path,
            model_id=f"m-{i:032d}",
            respondent=None,
        )
        for i in range(count)
    )
    teachers = ModelTeachers(encoding=None, members=members)
    (tag,) = teachers.tags.values()
    assert len(tag) <= TAG_LENGTH
    *shown, last = json.loads(tag)
    left_out = last.get("left_out", 0)
    assert len(shown) + (left_out or 1) == count
    assert shown[0]["uri"] == "models:/teacher-0@champion"
    assert len(teachers.source) < 150
    assert (f"and {count - 3} more models" in teachers.source) == (count > 3)
