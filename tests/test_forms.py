"""Numbers and dates in their clothes: found, read, kept with the model, told where unknown."""

import json
import logging
import re

import numpy as np
import pandas as pd
import pytest

from kd_mlflow.config.groups import DataOptions
from kd_mlflow.errors import ConfigError, DataError
from kd_mlflow.serving import scoring
from kd_mlflow.table.dataset import read_dataset
from kd_mlflow.table.encoding import Encoding, fit_encoding
from kd_mlflow.table.forms import find_form
from kd_mlflow.table.kinds import typed
from kd_mlflow.table.loading import load_table
from kd_mlflow.table.sources import Reading

ROWS = 240
NUMBERS = np.random.default_rng(5).uniform(1000, 90_000, ROWS).round(1)
DAYS = pd.to_datetime("2020-02-27") + pd.to_timedelta(np.arange(ROWS) * 3, "D")


def swapped(text):
    """A number with commas for points and points for commas."""
    return text.translate(str.maketrans(",.", ".,"))


WRITTEN = {
    "percent": [f"{x} %" for x in NUMBERS],
    "pounds before": [f"£{x:,}" for x in NUMBERS],
    "euros behind": [f"{swapped(f'{x:,.2f}')} €" for x in NUMBERS],
    "a code before": [f"SEK {x:,}".replace(",", " ") for x in NUMBERS],
    "tonnes": [f"{x}t" for x in NUMBERS],
    "cubic metres": [f"{x} m³" for x in NUMBERS],
    "thousands commas": [f"{x:,}" for x in NUMBERS],
    "thin spaces": [f"{x:,}".replace(",", "\u2009") for x in NUMBERS],
    "no-break spaces": [f"{x:,}".replace(",", "\u00a0").replace(".", ",") for x in NUMBERS],
    "Swiss quotes": [f"{x:,}".replace(",", "\u2019") for x in NUMBERS],
    "decimal commas": [swapped(f"{x}") for x in NUMBERS],
    "blanks about": [f"  {x} kWh " for x in NUMBERS],
    "a short word": [f"{swapped(f'{x}')} Mio." for x in NUMBERS],
    "exponents with commas": [f"{x:.6e}".replace(".", ",") for x in NUMBERS],
}


@pytest.mark.parametrize("case", WRITTEN)
def test_numbers_in_their_clothes_are_numbers(case):
    """Signs, units and marks between thousands are taken off, each number exact."""
    found = typed(pd.Series(WRITTEN[case], name="a"))
    assert found.kind == "numeric"
    assert found.values.tolist() == NUMBERS.tolist()


@pytest.mark.parametrize("unit", ["", "₹"])
def test_thousands_of_india_are_numbers(unit, tmp_path):
    """12,34,567.5 is twelve lakh and more: in a file, in a frame, and in rows that are asked."""
    cells = [f"{unit}{lakh},{i:02d},{500 + i}.5" for i, lakh in enumerate([1, 12, 34] * 20)]
    values = [lakh * 100_000 + i * 1000 + 500.5 + i for i, lakh in enumerate([1, 12, 34] * 20)]
    raw = pd.DataFrame({"p": cells, "y": [0, 1] * 30})
    raw.to_csv(tmp_path / "t.csv", index=False)
    for data in (raw, str(tmp_path / "t.csv")):
        table = load_table(data, "y")
        assert table.features["p"].tolist() == values
        encoding = encoded(table)
        np.testing.assert_array_equal(encoding.encode(raw), encoding.encode(table.features))


def test_parentheses_and_signs_are_below_zero():
    """Accountants' parentheses, a sign before or behind a currency, and the long minus."""
    cells = ["(1,200)", "-$5", "$-6", "\u22127", "($8.50)", "9", "$10"] * 5
    values = typed(pd.Series(cells, name="a")).values[:7]
    assert values.tolist() == [-1200, -5, -6, -7, -8.5, 9, 10]


@pytest.mark.parametrize(
    "cells",
    [
        ["Q1", "Q2", "Q3"],
        ["007 kg", "008 kg", "011 kg"],
        ["10x20", "30x40", "50x60"],
        ["0-9", "10-19", "20+"],
        ["SKU12", "SKU13", "SKU14"],
        ["$5", "€6", "£7"],
        ["10.0.0.1", "10.0.0.2", "10.0.1.1"],
        ["12:30", "13:45", "23:59"],
        ["1/2", "3/4", "5/8"],
    ],
)
def test_what_only_looks_like_numbers_stays_a_category(cells):
    """Codes, ranges, sizes, addresses, times and amounts of several currencies are names."""
    assert typed(pd.Series(cells * 20, name="a")).kind == "category"


def test_entries_of_a_list_are_no_numbers():
    """2. Married is a category without a word about numbers, however many say the same."""
    found = typed(pd.Series(["2. Married", "1. Single", "2. Married"] * 20, name="a"))
    assert (found.kind, found.notes) == ("category", ())


LAYOUTS = ["%Y/%m/%d", "%d.%m.%Y", "%m/%d/%Y", "%d/%m/%Y", "%d-%b-%Y", "%B %d, %Y"]
LAYOUTS += ["%d.%m.%Y %H:%M"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_dates_in_other_layouts_are_dates(layout):
    """The column decides between day and month; its dates are those of ISO 8601."""
    found = typed(pd.Series(DAYS.strftime(layout), name="a"))
    assert (found.kind, found.form.layout) == ("date", layout)
    assert found.values.tolist() == DAYS.tolist()


def test_dates_that_do_not_decide_are_a_category_and_say_how_to_decide():
    """Without a day above twelve the layout cannot be known, and one line says so."""
    found = typed(pd.Series(["03/04/2021", "05/04/2021", "07/11/2021"] * 9, name="seen"))
    assert found.kind == "category"
    assert "%m/%d/%Y or %d/%m/%Y" in found.notes[0].text
    assert "--column seen=date:%m/%d/%Y" in found.notes[0].text


def test_zero_dates_are_gaps():
    """What databases write for no date is none, however often."""
    cells = ["0000-00-00 00:00:00" if i % 3 else str(day) for i, day in enumerate(DAYS)]
    found = typed(pd.Series(cells, name="a"))
    assert found.kind == "date"
    assert found.values.isna().sum() == sum(i % 3 > 0 for i in range(ROWS))


def test_from_nearly_all_on_the_rest_are_gaps_and_counted():
    """97 % with a unit are numbers, the others gaps that a line counts."""
    cells = [f"{x} EUR" if i % 30 else f"on request {i}" for i, x in enumerate(NUMBERS)]
    found = typed(pd.Series(cells, name="price"))
    assert (found.kind, int(found.values.isna().sum())) == ("numeric", 8)
    assert any("8 cells do not fit and are gaps: 'on request 0' (1)" in n.text for n in found.notes)


def test_below_nearly_all_a_line_names_the_option():
    """90 % with a unit stay a category, and the line says what would make numbers of them."""
    cells = [f"{x} EUR" if i % 10 else f"on request {i}" for i, x in enumerate(NUMBERS)]
    found = typed(pd.Series(cells, name="price"))
    assert found.kind == "category"
    assert found.notes[0].text == (
        "90% of its texts are numbers with 'EUR', and it is taken as categories; "
        "--column price=number"
    )


def frame(**columns):
    """A table of ROWS rows with a label."""
    return pd.DataFrame({**columns, "y": ["no", "yes"] * (ROWS // 2)})


def test_clothes_move_no_row_and_are_another_table():
    """Prices with a sign split as those without, since they say the same; read so, they are not."""
    plain, dressed = (
        load_table(frame(p=cells, x=NUMBERS[::-1]), "y")
        for cells in (NUMBERS, [f"${x}" for x in NUMBERS])
    )
    assert plain.row_hashes.tolist() == dressed.row_hashes.tolist()
    assert plain.digest != dressed.digest


def encoded(table):
    """The encoding of a whole table, as it comes back from its file."""
    fitted = fit_encoding(
        table.features,
        target="y",
        classes=table.classes,
        max_categories=64,
        kinds=table.kinds,
        gap_texts=table.gap_texts,
        forms=table.forms,
    )
    return Encoding.from_dict(json.loads(json.dumps(fitted.to_dict())))


def test_the_model_reads_as_training_did():
    """Texts in their clothes, bare numbers and timestamps are encoded alike."""
    raw = frame(
        p=[f"€{x:,}" for x in NUMBERS],
        d=DAYS.strftime("%d.%m.%Y"),
        c=[f"t{i % 5}" for i in range(ROWS)],
    )
    table = load_table(raw, "y")
    encoding = encoded(table)
    expected = encoding.encode(table.features)
    assert {c.kind for c in encoding.columns} == {"numeric", "date", "category"}
    np.testing.assert_array_equal(encoding.encode(raw), expected)
    iso = raw.assign(d=DAYS.strftime("%Y-%m-%d"), p=[str(x) for x in NUMBERS])
    np.testing.assert_array_equal(encoding.encode(iso), expected)
    assert not np.isnan(expected).any()


@pytest.mark.parametrize("lenient", [False, True])
def test_bare_numbers_are_read_whatever_the_marks_of_training(lenient):
    """12.5 is no number of Germany, and is 12.5; 1.299 is one, and is a thousand and more."""
    cells = [f"{x:,}".replace(",", ".") + ",25 EUR" for x in NUMBERS]
    cells = [*cells[:-3], "k.A.", "k.A.", "?"] if lenient else cells
    encoding = encoded(load_table(frame(p=cells, x=NUMBERS[::-1]), "y"))
    rows = pd.DataFrame({"p": ["12.5", "1299.00", "2e4", "1.299"], "x": [1, 2, 3, 4]})
    expected = rows.assign(p=[12.5, 1299.0, 20000.0, 1299.0])
    assert not np.isnan(encoding.encode(rows)).any()
    np.testing.assert_array_equal(encoding.encode(rows), encoding.encode(expected))


def test_a_column_is_shown_by_a_text_that_is_read():
    """The line on a column's form has one of its numbers, not the word that is more frequent."""
    cells = ["k.A."] * 6 + [f"{x} EUR" for x in NUMBERS[6:]]
    (note, *_) = typed(pd.Series(cells, name="price")).notes
    assert re.search(r"such as '[\d.]+ EUR'$", note.text)


def test_what_does_not_fit_is_refused_unless_training_took_it_for_a_gap():
    """A column all of whose cells fitted refuses words; a lenient one has gaps for them."""
    whole = [f"${x}" for x in NUMBERS]
    for cells, lenient in ((whole, False), ([*whole[:-3], "?", "-", "call us"], True)):
        encoding = encoded(load_table(frame(p=cells, x=NUMBERS[::-1]), "y"))
        rows = pd.DataFrame({"p": ["$7", "words"], "x": [1, 2]})
        if lenient:
            assert np.isnan(encoding.encode(rows)[1, 0])
        else:
            with pytest.raises(DataError, match="row 1 has 'words'"):
                encoding.encode(rows)


@pytest.mark.parametrize("gap", ["NA", "None", "null", "n/a", ""])
def test_a_gap_in_a_csv_file_is_one_in_every_row_that_is_asked(gap):
    """A row means the same as text of JSON or Parquet and as a cell of a CSV file."""
    raw = frame(
        c=[None if i % 7 == 0 else f"t{i % 5}" for i in range(ROWS)],
        x=[None if i % 9 == 0 else v for i, v in enumerate(NUMBERS)],
        d=[None if i % 8 == 0 else str(v.date()) for i, v in enumerate(DAYS)],
    )
    encoding = encoded(load_table(raw, "y"))
    texts = raw.astype(object).where(raw.notna(), gap)
    np.testing.assert_array_equal(encoding.encode(texts), encoding.encode(raw))
    assert load_table(texts, "y").digest == load_table(raw, "y").digest


def test_whole_numbers_name_one_category_however_they_are_written():
    """3 of a DataFrame, 3.0 beside gaps and "3.0" of a CSV file are one category."""
    column = {"kind": "category", "categories": ["3", "7.0"], "form": {"literal": False}}
    rows = [[3, 7], [3.0, 7.0], ["3.0", "7"]]
    codes = [scoring.encode_column(pd.Series(each), column) for each in rows]
    assert [each.tolist() for each in codes] == [[2, 3]] * 3


# What a column is told to hold


def told(cells, what):
    """A column named a, told what it holds."""
    return typed(pd.Series(cells, name="a"), what)


def test_a_column_told_number_has_gaps_for_what_does_not_fit():
    """Half of the cells may be no numbers; they are counted."""
    found = told(["5 kg", "much", "7 kg", "NA"] * 10, "number")
    assert found.values[:4].isna().tolist() == [False, True, False, True]
    assert "10 cells do not fit and are gaps: 'much' (10)" in found.notes[0].text


@pytest.mark.parametrize(
    ("what", "cells", "values"),
    [
        ("date:%d/%m/%Y", ["03/04/2021", "05/04/2021"], ["2021-04-03", "2021-04-05"]),
        ("date:%Y%m%d", [20210403, 20210405], ["2021-04-03", "2021-04-05"]),
        ("date", ["2021-04-03", "soon"], ["2021-04-03", "NaT"]),
    ],
)
def test_a_column_told_date_is_read_by_its_layout(what, cells, values):
    """A layout settles what the column does not decide, of numbers too."""
    found = told(cells * 9, what)
    assert [str(v)[:10] for v in found.values[:2]] == values


def test_a_column_told_truth_takes_yes_and_no():
    """Words of truth in any case; what is none is a gap."""
    found = told(["Yes", "no", "Y", "0", "perhaps"] * 3, "truth")
    assert (found.kind, found.values[:4].tolist()) == ("boolean", [True, False, True, False])
    assert found.values[4:5].isna().all()


def test_texts_are_texts_where_that_is_told(tmp_path):
    """Of a CSV file NA stays a category, 007 keeps its zeros, a class may be called None."""
    path = tmp_path / "t.csv"
    regions, zips = ["NA", "EU", "AP"], ["007", "011", "100", "012"]
    pd.DataFrame(
        {
            "region": [regions[i % 3] for i in range(ROWS)],
            "zip": [zips[i % 4] for i in range(ROWS)],
            "x": NUMBERS,
            "y": ["None", "some"] * (ROWS // 2),
        }
    ).to_csv(path, index=False)
    column = ["region=category", "zip=text", "y=category", "x=leave_out"]
    table = read_dataset(DataOptions(data=path, target="y", column=column)).table
    assert set(table.features["region"]) == set(regions)
    assert set(table.features["zip"]) == set(zips)
    assert (table.classes, list(table.features)) == (("None", "some"), ["region", "zip"])
    codes = encoded(table).encode(pd.DataFrame({"region": ["NA", None], "zip": ["007", "7"]}))
    assert codes[0].tolist() == [4, 2]
    assert codes[1, 1] == scoring.OTHER


def test_labels_that_read_as_gaps_name_the_way_out(tmp_path):
    """A class called None is refused by a line that says what keeps it."""
    frame(x=NUMBERS).replace({"y": {"no": "None"}}).to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(DataError, match=r"120 labels written as 'None'.*--column y=cat"):
        load_table(tmp_path / "t.csv", "y")


def test_zeros_ahead_of_numbers_are_said(tmp_path, caplog):
    """007 of a CSV file is 7, as it always was, and a line says what keeps it."""
    codes = [f"{i % 50:03d}" for i in range(ROWS)]
    frame(code=codes, x=NUMBERS).to_csv(tmp_path / "t.csv", index=False)
    with caplog.at_level(logging.WARNING):
        assert load_table(tmp_path / "t.csv", "y").features["code"].dtype == np.int64
    assert "column 'code': written with zeros ahead" in caplog.text
    assert "--column code=text" in caplog.text


def test_a_word_for_many_gaps_is_said(tmp_path, caplog):
    """Where a third of the cells say NA a line names what keeps them; empty cells are silent."""
    regions, empty = ["NA", "EU", "AP"], ["", "a", "b"]
    texts = {"region": regions, "other": empty}
    cells = {name: [words[i % 3] for i in range(ROWS)] for name, words in texts.items()}
    frame(**cells, x=NUMBERS).to_csv(tmp_path / "t.csv", index=False)
    with caplog.at_level(logging.WARNING):
        load_table(tmp_path / "t.csv", "y")
    assert f"{ROWS // 3} of its cells say 'NA' and are gaps; --column region=cat" in caplog.text
    assert "'other'" not in caplog.text


@pytest.mark.parametrize("column", ["a", "a=any", "a=date:", "a=number;a=text", ["a=text", "b"]])
def test_what_no_column_can_be_told_is_refused(column):
    """The rule says what may be told, of all columns in one line."""
    with pytest.raises(ConfigError, match="column must be columns and what each holds"):
        DataOptions(column=column)


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ({"z": "text"}, "tells of 'z'; the DataFrame has|tells of 'z'; DataFrame has"),
        ({"y": "number"}, "target 'y' holds classes"),
        ({"x": "date:%d/%m/%Y"}, None),
        ({"x": "leave_out"}, "no column is left"),
    ],
)
def test_what_a_table_cannot_be_told_is_refused(what, words):
    """Columns that are not there, targets that are no classes; or nothing is left."""
    if words is None:
        with pytest.raises(DataError, match="no column is left"):  # each cell is a gap
            load_table(frame(x=NUMBERS), "y", Reading(told=what))
    else:
        with pytest.raises(DataError, match=words):
            load_table(frame(x=NUMBERS), "y", Reading(told=what))


def test_a_form_is_found_in_the_first_texts_of_many():
    """A column of as many texts as rows is read once its first texts say what they are."""
    counts = pd.Series([f"{i / 8} kg" for i in range(5000)]).value_counts()
    found = find_form(counts)
    assert (found.kind, found.form.unit, found.share) == ("numeric", "kg", 1.0)
