"""Encoding: columns to numbers, the same in training and in a served model."""

import json
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest
from sklearn.preprocessing import StandardScaler

from kd_mlflow.errors import DataError
from kd_mlflow.serving import scoring
from kd_mlflow.table.encoding import Encoding, Scaler, fit_encoding
from kd_mlflow.table.kinds import kind_of


def fitted(features, **options):
    """Learn an encoding for two classes."""
    return fit_encoding(
        features, **{"target": "y", "classes": (0, 1), "max_categories": 64, **options}
    )


def inputs(encoding, features):
    """What the network receives.  Shape: (n, d_in)."""
    return encoding.inputs(features).numpy()


def mixed():
    """One column of each kind, gaps included."""
    return pd.DataFrame(
        {
            "number": [1.0, 2.0, np.nan, 10.0, 3.5],
            "whole": [5, 3, 1, 2, 9],
            "flag": [True, False, True, True, False],
            "day": ["2024-01-05", "2024-01-01", "2024-02-01", "2024-01-02", "2024-03-01"],
            "colour": ["red", "blue", None, "red", "green"],
        }
    )


def deviations(*scales):
    """A table of normal columns with these deviations."""
    rng = np.random.default_rng(1)
    return pd.DataFrame({f"x{i}": rng.normal(5, scale, 300) for i, scale in enumerate(scales)})


@pytest.mark.parametrize(
    ("scales", "scaling", "common"),
    [
        ((1, 3, 8), "auto", True),
        ((1, 3, 30), "auto", False),
        ((1, 3, 30), "common", True),
        ((1, 3, 8), "each", False),
    ],
)
def test_numbers_of_like_spread_share_a_scale(scales, scaling, common):
    """Columns keep their relative spread where it is within ten or where that is asked for."""
    table = deviations(*scales)
    encoding = fit_encoding(table, target="y", classes=(0, 1), max_categories=4, scaling=scaling)
    each = table.std(ddof=0).to_numpy()
    expected = np.full(3, np.sqrt(np.mean(each**2))) if common else each
    np.testing.assert_allclose([column.scale for column in encoding.columns], expected)


def test_a_shared_scale_is_of_numbers_alone():
    """Booleans keep their own deviation beside numbers that share theirs."""
    table = deviations(1, 3).assign(flag=[True, False] * 150)
    *numbers, flag = fitted(table).columns
    assert len({column.scale for column in numbers}) == 1
    assert flag.scale == 0.5


def test_numbers_are_scaled_as_sklearn_scales_them():
    """Numeric columns reach the network as StandardScaler gives them, on unseen rows too."""
    rng = np.random.default_rng(0)
    train = pd.DataFrame(rng.normal(5, [1, 3, 9, 27], size=(200, 4)), columns=list("abcd"))
    new = pd.DataFrame(rng.normal(0, 9, size=(50, 4)), columns=list("abcd"))
    expected = StandardScaler().fit(train).transform(new)
    np.testing.assert_allclose(inputs(fitted(train), new), expected, atol=1e-5)


def test_gaps_take_the_median_and_set_the_indicator():
    """A gap is scaled as the training median is, and its indicator is 1 there alone."""
    train = pd.DataFrame({"a": [1.0, 2.0, np.nan, 10.0]})
    encoding = fitted(train)
    given = inputs(encoding, pd.DataFrame({"a": [np.nan, 2.0]}))
    assert given.shape == (2, 2)
    assert given[0, 0] == given[1, 0]
    assert given[:, 1].tolist() == [1.0, 0.0]


def test_a_gap_where_training_had_none_takes_the_median():
    """Without gaps in training there is no indicator, and a later gap is the median."""
    encoding = fitted(pd.DataFrame({"a": [1.0, 2.0, 10.0]}))
    given = inputs(encoding, pd.DataFrame({"a": [np.nan, 2.0]}))
    assert given.shape == (2, 1)
    assert given[0, 0] == given[1, 0]


def test_categories_are_one_hot():
    """Each category sets one input of its own."""
    given = inputs(
        fitted(pd.DataFrame({"c": ["b", "a", "c", "a"]})), pd.DataFrame({"c": list("abc")})
    )
    np.testing.assert_array_equal(given, np.eye(3))


def test_an_unseen_category_is_all_zeros():
    """A category that training never saw sets no input and raises nothing."""
    encoding = fitted(pd.DataFrame({"c": ["b", "a"]}))
    np.testing.assert_array_equal(inputs(encoding, pd.DataFrame({"c": ["new"]})), [[0, 0]])


def test_a_missing_category_has_its_own_input():
    """A gap in training is a category of its own, apart from all others."""
    encoding = fitted(pd.DataFrame({"c": ["b", None, "a"]}))
    given = inputs(encoding, pd.DataFrame({"c": ["a", "b", None, "new"]}))
    np.testing.assert_array_equal(given.sum(axis=1), [1, 1, 1, 0])
    assert len({tuple(row) for row in given.tolist()}) == 4


def test_max_categories_keeps_the_most_frequent():
    """Beyond max_categories the rarest share one input, which unseen ones share too."""
    train = pd.DataFrame({"c": ["rare"] + ["often"] * 3 + ["more"] * 2 + ["other"]})
    encoding = fitted(train, max_categories=2)
    assert encoding.columns[0].categories == ("more", "often")
    given = inputs(encoding, pd.DataFrame({"c": ["often", "more", "rare", "other", "new"]}))
    assert given.shape == (5, 3)
    np.testing.assert_array_equal(given.sum(axis=1), np.ones(5))
    assert (given[2] == given[3]).all()
    assert (given[2] == given[4]).all()


def test_dates_are_days_since_the_middle_one():
    """A date, as text or as a timestamp, is the number of days since the training median."""
    encoding = fitted(pd.DataFrame({"d": ["2024-03-01", "2024-02-28", "2025-01-01"]}))
    texts = pd.DataFrame(
        {"d": ["2024-02-28", "2024-03-01", "2024-02-28T12:00", None, "2024-02-27"]}
    )
    expected = np.array([[-2, 0, -1.5, np.nan, -3]]).T
    np.testing.assert_array_equal(encoding.encode(texts), expected)
    stamps = pd.DataFrame({"d": pd.to_datetime(texts["d"], format="ISO8601")})
    np.testing.assert_array_equal(encoding.encode(stamps), expected)


@pytest.mark.parametrize(
    "values",
    [
        [True, False, True],
        ["true", "false", "true"],
        ["True", "False", "True"],
        [1, 0, 1],
        [1.0, 0.0, 1.0],
    ],
)
def test_booleans_are_known_however_written(values):
    """True and False, their texts, and 1 and 0 all encode as 1 and 0."""
    encoding = fitted(pd.DataFrame({"f": [True, False, True]}))
    assert encoding.columns[0].kind == "boolean"
    given = encoding.encode(pd.DataFrame({"f": values}))
    np.testing.assert_array_equal(given, [[1], [0], [1]])


def test_a_category_is_one_however_its_number_is_typed():
    """3, 3.0 and "3" are the same category."""
    encoding = fitted(pd.DataFrame({"c": pd.Series([3, "a", 3.0, "3"], dtype=object)}))
    assert encoding.columns[0].categories == ("3", "a")
    codes = [encoding.encode(pd.DataFrame({"c": [value]})).item() for value in (3, 3.0, "3")]
    assert len(set(codes)) == 1


def test_a_json_round_trip_gives_the_same_encoding():
    """Written as JSON and read back, an encoding is equal and encodes alike."""
    encoding = fitted(mixed())
    again = Encoding.from_dict(json.loads(json.dumps(encoding.to_dict())))
    assert again == encoding
    np.testing.assert_array_equal(again.encode(mixed()), encoding.encode(mixed()))
    np.testing.assert_array_equal(inputs(again, mixed()), inputs(encoding, mixed()))


def test_kinds_of_a_mixed_table():
    """Each column of a mixed table is taken for what it holds."""
    kinds = [kind_of(mixed()[name]) for name in mixed()]
    assert kinds == ["numeric", "numeric", "boolean", "date", "category"]


def test_column_order_does_not_matter():
    """Columns are found by name: another order and columns beside change nothing."""
    encoding = fitted(mixed())
    other = mixed()[mixed().columns[::-1]].assign(beside=1)
    np.testing.assert_array_equal(encoding.encode(other), encoding.encode(mixed()))


def test_one_row_is_encoded_as_it_is_among_others():
    """A row alone, as a served model gets it, has the inputs that it has in the table."""
    encoding = fitted(mixed())
    whole = inputs(encoding, mixed())
    for i in range(len(whole)):
        np.testing.assert_array_equal(inputs(encoding, mixed().iloc[[i]]), whole[[i]])


ODD_COLUMNS = {
    "number": [
        pd.array([1, None, 7], dtype="Int64"),
        np.array([1.5, np.nan, 1e29], dtype=np.float32),
        np.array([True, False, True]),
        [3, 2**60 + 1, 10**22],
        [Decimal("2.50"), np.int8(3), None],
        ["4", " 5 ", "NA"],
        [np.float64(2), "", np.nan],
        pd.Categorical([2.0, 3.5, None]),
    ],
    "flag": [
        ["Yes", "no", None],
        [1, 0.0, np.nan],
        [np.True_, "TRUE", pd.NA],
        ["NA", True, 0],
        pd.array([True, None, False], dtype="boolean"),
    ],
    "colour": [
        ["red", "violet", None],
        ["NA", "<NA>", "red"],
        pd.Categorical(["green", None, "red"]),
        [3, "3.0", 3.0],
        [pd.NA, np.nan, "blue"],
        [np.str_("red"), True, ("red", "blue")],
        [4.5, np.float32(4.5), Decimal(3)],
    ],
}
"""Values of many types that the columns of ``mixed`` may come as."""


@pytest.mark.parametrize(
    ("name", "cells"), [(n, c) for n, kinds in ODD_COLUMNS.items() for c in kinds]
)
def test_few_rows_are_encoded_as_many(name, cells):
    """However few or many rows come, and whatever the types of their cells, each has its codes."""
    trained = mixed().assign(colour=["red", "3", None, "4.5", "green"])
    columns = fitted(trained).to_dict()["columns"]
    rows = trained.head(3).drop(columns=name).assign(**{name: cells})
    many = pd.concat([rows] * scoring.FEW_ROWS, ignore_index=True)
    together = scoring.encode(many, columns)[:3]
    np.testing.assert_array_equal(scoring.encode(rows, columns), together)
    for i in range(3):
        np.testing.assert_array_equal(scoring.encode(rows.iloc[[i]], columns), together[[i]])


def test_width_is_what_forward_gives():
    """The network's input width is the number of columns the scaler gives."""
    encoding = fitted(mixed())
    assert Scaler(encoding).width == inputs(encoding, mixed()).shape[1]


def test_the_scaler_trains_nothing():
    """Scaling is learnt once from the rows: the module has buffers and no parameter."""
    assert list(Scaler(fitted(mixed())).parameters()) == []


BAD_FRAMES = {
    "missing": (mixed().drop(columns="number"), "missing columns: 'number'"),
    "doubled": (
        pd.concat([mixed(), mixed()[["number"]]], axis=1),
        "'number' stands twice",
    ),
    "text": (
        mixed().astype({"number": object}).replace({"number": {2.0: "two"}}),
        "'number' holds numbers; row 1 has 'two'",
    ),
    "infinite": (
        mixed().replace({"number": {2.0: np.inf}}),
        "'number' takes finite numbers.*row 1 has inf$",
    ),
    "no truth": (
        mixed().astype({"flag": object}).assign(flag=["maybe", True, True, True, False]),
        "'flag' holds true and false; row 0 has 'maybe'",
    ),
    "no date": (mixed().replace({"day": {"2024-02-01": "soon"}}), "'day' holds dates.*row 2"),
}


@pytest.mark.parametrize("case", BAD_FRAMES)
def test_what_a_column_cannot_hold_is_refused(case):
    """Served, the column and its first bad row are named in a ColumnError, trained, a DataError."""
    (frame, words), encoding = BAD_FRAMES[case], fitted(mixed())
    with pytest.raises(scoring.ColumnError, match=words):
        scoring.encode(frame, encoding.to_dict()["columns"])
    with pytest.raises(DataError, match=words):
        encoding.encode(frame)


def test_a_column_constant_in_training_is_centred_and_not_scaled():
    """One value in all training rows becomes 0, and a later one keeps its distance to it."""
    encoding = fitted(pd.DataFrame({"same": [0.1] * 77}))
    given = inputs(encoding, pd.DataFrame({"same": [0.1, 0.6]}))
    np.testing.assert_allclose(given, [[0.0], [0.5]], atol=1e-6)


def test_a_column_of_gaps_alone_is_finite():
    """A column without any value in the training rows gives finite inputs."""
    encoding = fitted(pd.DataFrame({"none": [np.nan, np.nan]}))
    assert np.isfinite(inputs(encoding, pd.DataFrame({"none": [np.nan, 3.0]}))).all()


@pytest.mark.parametrize(
    "values", [pd.to_timedelta([1, 2], unit="D"), np.array([1j, 2j]), [b"x", b"y"]]
)
def test_types_that_no_model_takes_are_refused(values):
    """Durations, complex numbers and bytes are refused by the column's name."""
    with pytest.raises(DataError, match="column 'odd' holds"):
        fitted(pd.DataFrame({"odd": values}))


def test_lists_are_refused():
    """A column of lists is refused by its name, not by a traceback from pandas."""
    with pytest.raises(DataError, match="column 'odd' holds lists"):
        fitted(pd.DataFrame({"odd": [[1], [2]]}))


def test_numbers_far_from_zero_keep_what_tells_them_apart():
    """Sixty seconds of 2023 are sixty values, in training and in a served model alike."""
    seconds = pd.DataFrame({"at": np.arange(1_700_000_000, 1_700_000_060)})
    encoding = fitted(seconds)
    assert len(np.unique(inputs(encoding, seconds))) == 60
    np.testing.assert_allclose(
        inputs(encoding, seconds)[:, 0], StandardScaler().fit_transform(seconds)[:, 0], atol=1e-5
    )


def test_numbers_near_zero_are_encoded_as_they_are():
    """A column that float32 holds reaches the exported module unchanged."""
    frame = deviations(1, 30)
    np.testing.assert_array_equal(fitted(frame).encode(frame), frame.to_numpy(np.float32))


@pytest.mark.parametrize("share", [0.01, 0.3])
@pytest.mark.parametrize("sentinel", [-999.0, 1e12, -1e30])
def test_a_sentinel_does_not_flatten_the_others(sentinel, share):
    """However far a sentinel and however often, other values keep their spread and it its place."""
    rng = np.random.default_rng(0)
    values = rng.uniform(0, 5, 1000)
    odd = rng.random(1000) < share
    frame = pd.DataFrame({"a": np.where(odd, sentinel, values)})
    given = inputs(fitted(frame), frame)[:, 0]
    assert given[~odd].std() > 0.3
    assert np.abs(given).max() < 20
    assert (np.abs(given[odd]) > np.abs(given[~odd]).max() + 1).all()


def test_values_beyond_all_that_was_trained_on_are_cut():
    """A served model answers for 1e30 as for a value just as far outside, not with infinities."""
    frame = deviations(1)
    encoding = fitted(frame)
    far = inputs(encoding, pd.DataFrame({"x0": [1e30, 1e20, -1e30]}))[:, 0]
    assert far[0] == far[1] < 200
    assert far[2] > -200


def test_constants_take_no_part_in_a_common_scale():
    """A column that does not vary in training leaves the common scale to those that do."""
    frame = deviations(3, 4)
    with_constant = fitted(frame.assign(same=7.0), scaling="common")
    assert with_constant.columns[0].scale == fitted(frame, scaling="common").columns[0].scale


def test_texts_taken_for_gaps_are_gaps_when_served():
    """What training took for a gap in a column of numbers or dates, the served model does too."""
    frame = pd.DataFrame({"n": [1.0, 2.0, 4.0], "d": ["2024-01-01", "2024-01-02", "2024-01-04"]})
    encoding = fit_encoding(
        frame,
        target="y",
        classes=(0, 1),
        max_categories=4,
        kinds={"n": "numeric", "d": "date"},
        gap_texts={"n": ("?",), "d": ("unknown",)},
    )
    served = encoding.encode(pd.DataFrame({"n": ["1", "?"], "d": ["2024-01-02", "unknown"]}))
    assert np.isnan(served).tolist() == [[False, False], [True, True]]
    with pytest.raises(DataError, match="'n' holds numbers; row 0 has 'x'"):
        encoding.encode(pd.DataFrame({"n": ["x"], "d": ["2024-01-02"]}))


def test_dates_of_any_year_are_encoded():
    """The years 1 and 9999 are dates, in text and as timestamps."""
    days = ["0001-01-01", "2024-01-01", "2024-06-01", "9999-12-31"]
    texts = pd.DataFrame({"d": days})
    stamps = pd.DataFrame({"d": pd.to_datetime(texts["d"], format="ISO8601").astype("M8[us]")})
    assert kind_of(texts["d"]) == "date"
    encoding = fitted(texts)
    np.testing.assert_array_equal(encoding.encode(texts), encoding.encode(stamps))
    assert len(np.unique(encoding.encode(texts))) == 4


def test_columns_named_by_numbers_are_found():
    """A DataFrame whose columns are 0, 1 is encoded as one whose columns are "0", "1"."""
    frame = deviations(1, 3)
    named = frame.set_axis(["0", "1"], axis=1)
    numbered = frame.set_axis([0, 1], axis=1)
    encoding = fitted(named)
    np.testing.assert_array_equal(encoding.encode(numbered), encoding.encode(named))
