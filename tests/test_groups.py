"""Rows that belong together: which side a group is on, which folds; and splits by time."""

from itertools import pairwise

import numpy as np
import pandas as pd
import pytest

from kd_mlflow.distillation.inputs import ALWAYS_TRAINED, folds, held_out_rows
from kd_mlflow.errors import DataError
from kd_mlflow.table.dataset import Dataset, split_rows
from kd_mlflow.table.groups import GroupSizes
from kd_mlflow.table.loading import load_table
from kd_mlflow.table.sources import Reading
from kd_mlflow.table.suspects import suspects


def visits(customers=60, each=5, seed=0):
    """A table of customers' visits, shuffled, with a day of each."""
    rng = np.random.default_rng(seed)
    n = customers * each
    frame = pd.DataFrame(
        {
            "who": np.repeat([f"c{i}" for i in range(customers)], each),
            "a": rng.normal(size=n),
            "b": rng.integers(0, 50, n),
            "day": pd.Timestamp("2024-01-01") + pd.to_timedelta(rng.integers(0, 90, n), "D"),
            "y": rng.integers(0, 2, n),
        }
    )
    return frame.sample(frac=1, random_state=seed, ignore_index=True)


def read(frame, *, target="y", val_fraction=0.2, **options):
    """A table and its split."""
    table = load_table(frame, target, Reading(**options))
    return Dataset(table=table, split=split_rows(table, val_fraction))


def sides(dataset):
    """The side of each row.  Shape: (n,)."""
    found = np.empty(len(dataset.table.labels), dtype=object)
    for name, rows in vars(dataset.split).items():
        found[rows] = name
    return found


def test_a_group_is_on_one_side_and_no_input():
    """All rows of a customer are on one side, and no model sees who it is."""
    frame = visits()
    dataset = read(frame, group="who")
    of = pd.Series(sides(dataset)).groupby(frame["who"]).nunique()
    assert (of == 1).all()
    assert list(dataset.table.features) == ["a", "b", "day"]
    assert set(sides(dataset)) == {"train", "val", "test"}
    assert len(dataset.split.test) == pytest.approx(0.2 * len(frame), rel=0.5)


def test_a_group_stays_on_its_side_by_its_value_alone():
    """Other cells, other rows, another order, another name or type of the column move no group."""
    frame = visits().assign(who=lambda f: f["who"].str[1:].astype(int))
    side = dict(zip(frame["who"], sides(read(frame, group="who")), strict=True))
    more = pd.concat([visits(90, seed=1).assign(who=lambda f: f["who"].str[1:].astype(float))])
    other = more.rename(columns={"who": "client", "a": "z"}).assign(b=0.5)
    for who, found in zip(other["client"], sides(read(other, group="client")), strict=True):
        assert side.get(int(who), found) == found


def test_several_columns_make_one_group():
    """House and person together are one group, in any order; person alone is another one."""
    frame = visits(200).assign(house=lambda f: f["who"].str[-1])
    frame["person"] = frame["who"].str[:-1] + "x"
    both, turned = (sides(read(frame, group=names)) for names in ("house,person", "person, house"))
    assert (both == turned).all()
    assert (pd.Series(both).groupby(frame["who"]).nunique() == 1).all()
    assert (both != sides(read(frame, group="person"))).any()


def test_a_row_without_a_group_is_one_by_itself():
    """Gaps in the group column are no group of all of them."""
    frame = visits()
    frame.loc[:149, "who"] = None
    dataset = read(frame, group="who")
    assert GroupSizes.of(dataset.table.groups).groups > 150
    assert set(sides(dataset)[:150]) == {"train", "val", "test"}


def test_a_group_is_in_one_fold():
    """Teachers leave out whole groups, and all of them leave some out."""
    frame = visits()
    dataset = read(frame, group="who")
    fold = folds(dataset, 5, seed=0)
    who = frame["who"].to_numpy()[dataset.split.train]
    assert (pd.Series(fold).groupby(who).nunique() == 1).all()
    assert set(fold) - {ALWAYS_TRAINED} == set(range(5))
    few = read(visits(10, 30), group="who")
    assert all(len(rows) for rows in held_out_rows(few, 12, seed=0))


def test_a_group_of_most_rows_is_left_out_by_nobody():
    """What a teacher would hardly learn without trains every one of them."""
    frame = visits(60)
    side = dict(zip(frame["who"], sides(read(frame, group="who")), strict=True))
    large = next(who for who, where in side.items() if where == "train")
    rest = frame["who"].ne(large) & (frame["who"].map(side) == "train")
    frame.loc[rest & (frame.index % 4 > 0), "who"] = large
    dataset = read(frame, group="who")
    fold = folds(dataset, 5, seed=0)
    assert (fold[frame["who"].to_numpy()[dataset.split.train] == large] == ALWAYS_TRAINED).all()


def test_the_latest_rows_are_test_rows():
    """Test rows are later than validation rows, these later than training rows; ties together."""
    frame = visits(200)
    dataset = read(frame, time="day")
    day = frame["day"]
    train, val, test = (day.iloc[rows] for rows in vars(dataset.split).values())
    assert train.max() < val.min() <= val.max() < test.min()
    shares = [len(rows) / len(frame) for rows in (train, val, test)]
    assert shares == pytest.approx([0.64, 0.16, 0.2], abs=0.02)
    assert list(dataset.table.features) == ["who", "a", "b"]


@pytest.mark.parametrize("form", ["texts", "numbers", "stamps"])
def test_times_are_dates_or_numbers(form):
    """A day as text, as a number and as a timestamp split alike."""
    frame = visits(200)
    made = {
        "texts": frame["day"].dt.strftime("%Y-%m-%d"),
        "numbers": (frame["day"] - pd.Timestamp("2020-01-01")).dt.days,
        "stamps": frame["day"].dt.tz_localize("UTC"),
    }
    found = sides(read(frame.assign(day=made[form]), time="day"))
    assert (found == sides(read(frame, time="day"))).all()


def test_later_rows_move_the_split_to_the_end_alone():
    """As a file grows test rows become validation or training rows, and none goes back."""
    frame = visits(200)
    later = visits(50, seed=1).assign(day=lambda f: f["day"] + pd.Timedelta(90, "D"))
    before = sides(read(frame, time="day"))
    after = sides(read(pd.concat([frame, later], ignore_index=True), time="day"))[: len(frame)]
    order = ["train", "val", "test"]
    assert all(order.index(new) <= order.index(old) for old, new in zip(before, after, strict=True))
    assert (before != after).any()


def test_a_group_is_where_its_latest_row_is():
    """With both, a customer's rows are on the side of the latest of them."""
    frame = visits(200)
    dataset = read(frame, time="day", group="who")
    found = pd.Series(sides(dataset))
    assert (found.groupby(frame["who"]).nunique() == 1).all()
    latest = frame.groupby("who")["day"].max()
    of = found.groupby(frame["who"]).first()
    train, val, test = (latest[of == side] for side in ("train", "val", "test"))
    assert train.max() < val.min() <= val.max() < test.min()


def test_folds_of_times_are_consecutive():
    """A teacher leaves out a stretch of time, of about as many rows as any other."""
    frame = visits(200)
    dataset = read(frame, time="day")
    day = frame["day"].to_numpy()[dataset.split.train]
    fold = folds(dataset, 6, seed=0)
    ends = [(day[fold == i].min(), day[fold == i].max()) for i in range(6)]
    assert all(before[1] < after[0] for before, after in pairwise(ends))
    assert np.bincount(fold).min() > 0.7 * len(day) / 6


def test_few_times_make_no_stretches():
    """Of two years nobody is left a fifth of the rows: folds are those of rows."""
    frame = visits(200).assign(day=lambda f: np.repeat([1, 2, 3, 4], len(f) // 4))
    dataset = read(frame, time="day")
    sizes = np.bincount(folds(dataset, 5, seed=0))
    assert len(sizes) == 5
    assert sizes.max() - sizes.min() <= 2


def test_groups_and_times_are_part_of_the_identity():
    """The same sides with other groups are another split; without either it is as ever."""
    frame = visits(200)
    plain, by_time, both = (
        read(frame, **options).identity
        for options in ({}, {"time": "day"}, {"time": "day", "group": "who"})
    )
    assert len({plain.split, by_time.split, both.split}) == 3
    assert plain.split == read(frame).split.digest
    again = read(frame, time="day", group="who").identity
    assert again == both
    same = load_table(frame, "y", Reading(time="day"))
    moved = split_rows(same, 0.2)
    assert Dataset(table=same, split=moved).identity == by_time


def refused(frame, **options):
    """What is said of a table that cannot be read so."""
    with pytest.raises(DataError) as refusal:
        read(frame, **options)
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"group": "nobody"}, "group 'nobody' is not a column"),
        ({"group": "who,y"}, "group 'y' is the target"),
        ({"time": "never"}, "time 'never' is not a column"),
        ({"time": "y"}, "time 'y' is the target"),
        ({"time": "who"}, "time 'who' cannot be read as dates or numbers, such as 'c"),
        ({"time": "who", "group": "who"}, "time 'who' is a group too"),
    ],
)
def test_columns_that_cannot_say_it_are_refused(options, said):
    """One line names the column and what is wrong with it."""
    assert said in refused(visits(), **options)


def test_groups_and_times_that_divide_nothing_are_refused():
    """One group, few groups, one time, gaps among times, a class that came later alone."""
    frame = visits()
    assert "the same in every row" in refused(frame.assign(who="all"), group="who")
    few = frame.assign(who=frame["b"] % 7)
    assert "has 7 groups, too few" in refused(few, group="who")
    assert "the same in every row" in refused(frame.assign(day="2024-01-01"), time="day")
    assert "has 2 different values" in refused(frame.assign(day=frame["b"] % 2), time="day")
    last = frame["day"].where(frame["who"].duplicated(), pd.Timestamp("2030-01-01"))
    last = frame.assign(day=last)
    assert "or of every group" in refused(last, time="day", group="who")
    gaps = frame.assign(day=frame["day"].where(frame.index != 7))
    assert "not known in 1 rows, the first is row 7" in refused(gaps, time="day")
    late = frame.assign(y=np.where(frame["day"] > frame["day"].quantile(0.9), "c", frame["y"]))
    assert "the train rows have no row of class 'c'" in refused(late, time="day")
    alone = frame.assign(y=np.where(frame["day"] > frame["day"].quantile(0.7), 0, frame["y"]))
    assert "rows have no row of class '1'" in refused(alone, time="day")
    assert "no column is left" in refused(frame[["who", "y"]], group="who")
    rare = frame.assign(y=np.where(frame["who"] == "c1", "rare", "common"))
    assert "fewer than 3 groups" in refused(rare, group="who")


def test_built_in_tables_have_groups_too():
    """A group makes the reference split of a built-in table a split by groups."""
    dataset = read("wine", target="", group="magnesium")
    values = load_table("wine").features["magnesium"]
    assert (pd.Series(sides(dataset)).groupby(values).nunique() == 1).all()
    assert "magnesium" not in dataset.table.features


def warned(frame, **options):
    """The lines that a table is read with."""
    dataset = read(frame, **options)
    return list(suspects(dataset.table, dataset.split.train, dataset.split.test))


def with_effects(frame, seed=0):
    """The label of each customer's visits is mostly the same."""
    rng = np.random.default_rng(seed)
    likely = frame["who"].map(dict(zip(frame["who"].unique(), rng.random(9999), strict=False)))
    return frame.assign(y=(rng.random(len(frame)) < likely).astype(int))


@pytest.mark.parametrize("name", ["customer_id", "Patient", "user_no", "who"])
@pytest.mark.parametrize("numbers", [False, True])
def test_a_column_that_says_whom_a_row_is_about_is_told(name, numbers):
    """By its name; or by its values, where rows of one are alike as no neighbours are."""
    frame = with_effects(visits(200, 6)).rename(columns={"who": name})
    if numbers:
        frame[name] = frame[name].str[1:].astype(int)
    (line,) = warned(frame)
    assert line == (
        f"{name}: 200 values of 6 rows each, on both sides of the split; if rows of one value "
        f"belong together, test on others: group={name}"
    )
    assert warned(frame, group=name) == []


def test_a_measure_is_no_suspect():
    """Whole numbers that repeat, and that the label follows smoothly, say nothing of whom."""
    rng = np.random.default_rng(0)
    cents = rng.integers(0, 300, 3000)
    frame = pd.DataFrame({"cents": cents, "x": rng.normal(size=3000)})
    frame["y"] = (rng.random(3000) < cents / 300).astype(int)
    assert warned(frame) == []
    assert warned(visits(200, 6).drop(columns="who")) == []


def test_a_label_that_moves_with_a_date_is_told():
    """One line names the column; none of a date that says nothing, or that the split is by."""
    frame = visits(400).drop(columns="who")
    late = (frame["day"] - frame["day"].min()).dt.days / 90
    moving = frame.assign(y=(np.random.default_rng(0).random(len(frame)) < late).astype(int))
    (line,) = warned(moving)
    assert line.startswith("day: the share of the classes moves along it beyond chance")
    assert line.endswith("time=day")
    assert warned(frame) == warned(moving, time="day") == []


@pytest.mark.parametrize(
    "told",
    [
        lambda y, rng: np.array(["paid", "left", "late"])[y],
        lambda y, rng: np.where(rng.random(len(y)) < 0.002, "?", np.array(["A", "B", "C"])[y]),
        lambda y, rng: 10 * y + rng.random(len(y)),
        lambda y, rng: np.where(y == 0, np.nan, 10 * y + rng.random(len(y))),
        lambda y, rng: (
            pd.Timestamp("2024-01-01") + pd.to_timedelta(100 * y + rng.random(len(y)), "D")
        ),
    ],
    ids=["texts", "nearly", "numbers", "gaps", "dates"],
)
def test_a_column_that_is_the_label_is_told(told):
    """In other words, as ranges of numbers or dates, or by its gaps; with the option that helps."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 2000)
    frame = pd.DataFrame({"x": y + rng.normal(size=2000), "t t": told(y, rng), "y": y})
    line = warned(frame)[0]
    assert line.startswith("t t: by itself it tells the label of nearly every row")
    assert line.endswith("--column 't t=leave_out'")
    assert not any("tells" in line for line in warned(frame.drop(columns="t t")))
    many = pd.concat([frame.assign(x=frame["x"] + i) for i in range(8)]).sort_values("y")
    assert warned(many.reset_index(drop=True))[0].startswith("t t: by itself")


def test_copies_are_told_unless_they_are_grouped():
    """A table whose rows stand there eight times is no table of eight times the rows."""
    frame = visits(200, 2)
    (line, *_) = warned(pd.concat([frame] * 8, ignore_index=True))
    assert line.startswith(f"{7 * len(frame):,} of {8 * len(frame):,} rows are equal to others")
    assert not any("equal" in line for line in warned(frame))
    grouped = warned(pd.concat([frame] * 8, ignore_index=True), group="who")
    assert not any("equal" in line for line in grouped)
    rng = np.random.default_rng(0)  # strangers of the same age
    few = pd.DataFrame({"age": rng.integers(20, 60, 2000), "y": rng.integers(0, 2, 2000)})
    assert not any("equal" in line for line in warned(few))


def test_a_column_that_says_much_is_not_the_label():
    """Neither is one with an error in twenty rows, nor a text that hardly occurs twice."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 2000)
    wrong = rng.random(2000) < 0.05
    frame = pd.DataFrame({"often": np.array(["a", "b"])[y ^ wrong], "level": 10 * (y ^ wrong)})
    frame["name"] = [f"n{own}-{i // 4}" for i, own in enumerate(y)]
    assert not any("tells" in line for line in warned(frame.assign(y=y)))


@pytest.mark.parametrize("name", ["synthetic", "digits", "breast_cancer", "wine"])
def test_built_in_tables_have_no_suspects(name):
    """Nothing is said where there is nothing to say."""
    assert warned(name, target="") == []
