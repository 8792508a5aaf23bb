"""Tables: what is read, how it is split, what is refused."""

import logging

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import make_classification
from sklearn.model_selection import train_test_split

from kd_mlflow.errors import DataError
from kd_mlflow.table.dataset import split_rows
from kd_mlflow.table.hashing import row_hashes
from kd_mlflow.table.kinds import kind_of
from kd_mlflow.table.loading import load_table
from kd_mlflow.table.sources import BUILT_IN

N = 400
CSV = "a,b,y\n" + "".join(f"{i % 7}.5,{i * i % 11},{i % 2}\n" for i in range(60))


def numbers(n=N, seed=0):
    """Two feature columns and a label, each row unique."""
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {"a": rng.normal(size=n), "b": rng.integers(5, size=n), "y": rng.integers(3, size=n)}
    )


@pytest.fixture
def write(tmp_path):
    """Write text or bytes under a name; return the path as text."""

    def writer(content, name="table.csv"):
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return str(path)

    return writer


@pytest.fixture
def load(tmp_path):
    """Write a frame as CSV and load it with target y."""

    def loader(frame):
        path = tmp_path / "frame.csv"
        frame.to_csv(path, index=False)
        return load_table(str(path), "y")

    return loader


def test_synthetic_is_the_reference_table():
    """The built-in synthetic table is make_classification's with the reference arguments."""
    x, y = make_classification(
        5000, n_features=20, n_informative=10, n_redundant=5, random_state=42
    )
    table = load_table("synthetic")
    np.testing.assert_array_equal(table.features.to_numpy(), x)
    np.testing.assert_array_equal(table.labels, y)
    assert table.classes == (0, 1)


def test_synthetic_test_rows_are_the_reference_rows():
    """The synthetic test side is train_test_split's with test_size 0.2 and random_state 42."""
    table = load_table("synthetic")
    _, test = train_test_split(np.arange(5000), test_size=0.2, random_state=42)
    np.testing.assert_array_equal(split_rows(table, 0.1).test, np.sort(test))


@pytest.mark.parametrize("fraction", [0.1, 0.25])
def test_val_fraction_is_a_share_of_the_rest(fraction):
    """Validation takes its share of the rows that are not test rows."""
    split = split_rows(load_table("synthetic"), fraction)
    assert len(split.val) == round(4000 * fraction)


@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in_sides_are_disjoint_and_complete(name):
    """Each row of a built-in table is on exactly one side, in ascending order."""
    table = load_table(name)
    split = split_rows(table, 0.1)
    rows = np.concatenate([split.train, split.val, split.test])
    np.testing.assert_array_equal(np.sort(rows), np.arange(len(table.labels)))
    assert all((np.diff(side) > 0).all() for side in (split.train, split.val, split.test))


def test_file_sides_are_disjoint_complete_and_of_the_asked_size(load):
    """Each row of a file is on exactly one side; sizes are the asked ones to sampling error."""
    table = load(numbers(5000))
    split = split_rows(table, 0.25)
    rows = np.concatenate([split.train, split.val, split.test])
    np.testing.assert_array_equal(np.sort(rows), np.arange(5000))
    assert len(split.test) / 5000 == pytest.approx(0.2, abs=0.03)
    assert len(split.val) / 5000 == pytest.approx(0.2, abs=0.03)


def test_a_larger_val_fraction_moves_no_test_row(load):
    """The test side of a file does not depend on val_fraction."""
    table = load(numbers())
    np.testing.assert_array_equal(split_rows(table, 0.1).test, split_rows(table, 0.5).test)


def test_row_hashes_see_values_not_types():
    """3 and 3.0, and 0.0 and -0.0, hash alike; swapping two columns' values does not."""
    whole = pd.DataFrame({"a": [3, 0], "b": [1, 2]})
    same = pd.DataFrame({"b": [1.0, 2.0], "a": [3.0, -0.0]})
    swapped = whole.rename(columns={"a": "b", "b": "a"})
    np.testing.assert_array_equal(row_hashes(whole), row_hashes(same))
    assert (row_hashes(whole) != row_hashes(swapped)).all()


def test_digest_is_of_content(load, tmp_path):
    """The same values under another file name, format and column order have the same digest."""
    frame = numbers()
    frame[["y", "b", "a"]].to_parquet(tmp_path / "other.parquet")
    other = load_table(str(tmp_path / "other.parquet"), "y")
    assert load(frame).digest == other.digest


@pytest.mark.parametrize("row", [0, N // 2, N - 1])
@pytest.mark.parametrize("column", ["a", "b", "y"])
def test_digest_sees_every_value(load, column, row):
    """Changing any single value, late rows and labels included, changes the digest."""
    frame = numbers()
    changed = frame.copy()
    changed.loc[row, column] = (changed.loc[row, column] + 1) % 3
    assert load(frame).digest != load(changed).digest


def test_digest_sees_names(load):
    """Renaming a column changes the digest."""
    frame = numbers()
    assert load(frame).digest != load(frame.rename(columns={"a": "c"})).digest


def test_parquet_is_read(tmp_path):
    """A Parquet file gives its columns, labels and classes."""
    frame = numbers()
    frame.to_parquet(tmp_path / "t.parquet")
    table = load_table(str(tmp_path / "t.parquet"), "y")
    pd.testing.assert_frame_equal(table.features, frame[["a", "b"]])
    np.testing.assert_array_equal(table.labels, frame["y"])


@pytest.mark.parametrize(
    ("values", "classes"),
    [
        (["no", "yes"], ("no", "yes")),
        ([7.0, 3.0], (3, 7)),
        (["True", "False"], (False, True)),
        ([10, 9], (9, 10)),
    ],
)
def test_classes_are_sorted_and_keep_their_type(write, values, classes):
    """Texts, whole floats, booleans and integers become sorted classes that labels index."""
    rows = [(i % 5, values[i % 2]) for i in range(40)]
    table = load_table(write("a,y\n" + "".join(f"{a},{y}\n" for a, y in rows)), "y")
    assert table.classes == classes
    assert [type(c) for c in table.classes] == [type(c) for c in classes]
    assert [str(table.classes[i]) for i in table.labels] == [
        str(y).removesuffix(".0") for _, y in rows
    ]


def test_an_identifier_is_left_out(load, caplog):
    """A column that numbers the rows is left out, and a warning names it."""
    frame = numbers().assign(row_id=np.arange(1, N + 1))
    with caplog.at_level(logging.WARNING):
        table = load(frame)
    assert list(table.features) == ["a", "b"]
    assert "row_id" in caplog.text


def test_a_constant_column_is_left_out(load, caplog):
    """A column with one value in every row is left out, and a warning names it."""
    with caplog.at_level(logging.WARNING):
        table = load(numbers().assign(same=4, void=np.nan))
    assert list(table.features) == ["a", "b"]
    assert "same, void" in caplog.text


def test_a_table_of_constants_is_refused(load):
    """A table in which nothing varies has nothing to learn from."""
    with pytest.raises(DataError, match="no column is left to learn from"):
        load(numbers()[["y"]].assign(same=4))


def test_gaps_are_allowed(load):
    """Missing values in feature columns are no mistake."""
    frame = numbers()
    frame.loc[3, "a"] = np.nan
    assert load(frame).features["a"].isna().sum() == 1


REFUSALS = {
    "missing target": (CSV, "t.csv", "", "needs target.*'a', 'b', 'y'"),
    "target no column": (CSV, "t.csv", "z", "'z' is not a column.*'a', 'b', 'y'"),
    "infinite value": ("a,y\n1,0\n2,1\ninf,1\n", "t.csv", "y", "'a' is infinite.*row 2"),
    "missing label": ("a,y\n1,0\n2,1\n3,\n", "t.csv", "y", "'y' has 1 missing label.*row 2"),
    "one class": ("a,y\n1,5\n2,5\n", "t.csv", "y", "one class only, 5"),
    "fractional": ("a,y\n1,0.5\n2,1\n", "t.csv", "y", "no classes, such as 0.5"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_an_unusable_file_is_refused(write, case):
    """What is wrong with a file is a DataError that says what, and where."""
    content, name, target, words = REFUSALS[case]
    with pytest.raises(DataError, match=words):
        load_table(write(content, name), target)


def test_validation_has_a_row_of_each_class_whatever_its_share(load):
    """The smallest validation side has a row of each class: curves are never not-a-number."""
    table = load(numbers())
    split = split_rows(table, 1e-9)
    assert sorted(table.labels[split.val]) == [0, 1, 2]


def test_every_kind_of_column_is_read(load):
    """Text, dates, booleans, numbers and gaps need no preparation."""
    frame = numbers()
    n = len(frame)
    frame["city"] = ["Ulm", "Köln", None][0:3] * (n // 3) + ["Ulm"] * (n % 3)
    frame["since"] = pd.date_range("2020-01-01", periods=n).strftime("%Y-%m-%d")
    frame["member"] = [True, False] * (n // 2) + [True] * (n % 2)
    table = load(frame)
    kinds = {name: kind_of(table.features[name]) for name in ("city", "since", "member")}
    assert kinds == {"city": "category", "since": "date", "member": "boolean"}


def test_a_text_column_unique_in_every_row_is_left_out(load, caplog):
    """An identifier teaches nothing: it is left out and named."""
    frame = numbers()
    frame["name"] = [f"customer {i}" for i in range(len(frame))]
    assert "name" not in load(frame).features
    assert "name" in caplog.text


def test_balance_counts_each_side(load):
    """Rows a class add up, side by side, to the table's."""
    table = load(numbers())
    balance = split_rows(table, 0.1).balance(table)
    totals = [sum(side[str(label)] for side in balance.values()) for label in table.classes]
    assert totals == np.bincount(table.labels).tolist()
