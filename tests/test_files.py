"""Files: what is found in a CSV file, what its cells become, what is refused."""

import gzip
import logging
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pandas._libs.parsers import STR_NA_VALUES

from kd_mlflow.errors import DataError
from kd_mlflow.table.delimited import ROWS_AT_ONCE
from kd_mlflow.table.layout import SAMPLE_CHARACTERS
from kd_mlflow.table.loading import load_table
from kd_mlflow.table.sources import Reading, is_csv, read_source

CSV = "a,b,y\n" + "".join(f"{i % 7}.5,{i * i % 11},{i % 2}\n" for i in range(60))


@pytest.fixture
def write(tmp_path):
    """Write text or bytes under a name; return the path."""

    def writer(content, name="table.csv"):
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return writer


@pytest.fixture
def read(write):
    """Write a file and read it with target y."""

    def reader(content, name="table.csv", **options):
        return read_source(write(content, name), "y", Reading(**options))[1]

    return reader


def lines(*each, times=20):
    """A header and rows, the rows repeated."""
    header, *rows = each
    return "\n".join([header, *rows * times]) + "\n"


# What separates cells


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_separators_are_found(read, separator):
    """Comma, semicolon, tab and bar are found in the file."""
    pd.testing.assert_frame_equal(read(CSV.replace(",", separator)), read(CSV))


HIDDEN = {
    "semicolons in quoted cells": (",", 'a,b,y\n1.5,"x;y;z;w",0\n2.5,"p;q;r;s",1\n'),
    "quotes in quoted cells": (",", 'b,y\n"say ""a;b"";c",1\n"k;""l"";m",0\n'),
    "lists in quoted cells": (",", "b,y\n\"['a'; 'b'; 'c']\",1\n\"['d'; 'e'; 'f']\",0\n"),
    "lists between semicolons": (";", "b;y\n['a', 'b'];1\n['c', 'd'];0\n"),
    "lists between tabs": ("\t", "b\ty\n['a', 'b']\t1\n['c', 'd']\t0\n"),
    "line breaks in quoted cells": (",", 'b,y\n"k;\nl; m\nn",1\n"o\np;q",0\n'),
    "commas in every cell": (";", "a;b;y\n1,5;2,5;0\n3,5;4,5;1\n"),
    "sentences between tabs": ("\t", "b\ty\nwell, yes; no, a, b\t1\nno, this; that\t0\n"),
    "nothing but gaps": (";", "a;b;y\n;;0\n1;;1\n"),
    "a quote behind a semicolon": ("|", '"a ""b""; c;"|b|y\n1|"a;";"|0\n2|x|1\n'),
    "quotes that end before a cell": (",", '"a"b,c,y\n1,2,0\n'),
    "fewer cells in some rows": (";", "a;b;y\n1;2;0\n" + "3;4;1\n" * 20 + "5;6\n"),
    "a comma in one name": (";", "a, in m;b;y\n1,5;2;0\n2,5;1;1\n"),
}


@pytest.mark.parametrize("case", HIDDEN)
def test_a_separator_is_found_by_the_cells_that_it_makes(read, case):
    """What stands in cells is no separator, however often it stands there."""
    separator, text = HIDDEN[case]
    header, _, rows = text.partition("\n")
    text = f"{header}\n{rows * 10}"
    pd.testing.assert_frame_equal(read(text), read(text, separator=separator))


def test_a_record_that_the_sample_cuts_does_not_count(read):
    """A quoted cell that goes on beyond the part looked at hides no separator."""
    long = f'"{"x;" * (SAMPLE_CHARACTERS // 2)}\n"'
    frame = read(f"a,b,y\n1,{long},0\n2,short,1\n")
    assert frame.shape == (2, 3)


@pytest.mark.parametrize(
    ("word", "separator"),
    [("tab", "\t"), (r"\t", "\t"), ("comma", ","), ("semicolon", ";"), ("pipe", "|"), (":", ":")],
)
def test_a_separator_may_be_given(read, word, separator):
    """A word, or any character by itself, is taken for the separator."""
    text = CSV.replace(",", separator)
    pd.testing.assert_frame_equal(read(text, separator=word), read(CSV))


# What is a number


def test_commas_before_three_digits_are_thousands(read):
    """1,234 between tabs is a thousand and more, where every comma has three digits behind it."""
    frame = read(lines("a\tb\ty", "1,234\t1,234,567\t0", "56\t7,000\t1"))
    assert frame["a"].tolist() == [1234, 56] * 20
    assert frame["b"].tolist() == [1_234_567, 7_000] * 20
    assert frame["a"].dtype == np.int64


def test_a_decimal_comma_is_one_wherever_it_first_appears(read):
    """One cell such as 3,5 at the end of a long file makes its column one of decimal commas."""
    rows = "".join(f"{i};{i % 3};{i % 2}\n" for i in range(200_000))
    frame = read(f"a;b;y\n{rows}3,5;1;1\n1,234;1;0\n")
    assert frame["a"].dtype == np.float64
    assert frame["a"].tolist()[-3:] == [199_999.0, 3.5, 1.234]
    assert frame["b"].dtype == np.int64


def test_a_text_with_a_comma_makes_no_number_of_other_columns(read):
    """The text 10,20 leaves its column text, and the points of others decimal marks."""
    frame = read(lines("a;b;y", "1.5;10,20;0", "2.5;small;1"))
    assert frame["a"].tolist() == [1.5, 2.5] * 20
    assert frame["b"].tolist() == ["10,20", "small"] * 20


NUMBERS = {
    "decimal comma": (["3,14", "2", "-0,5", ",25", "1,5e-05", "inf"],
                      [3.14, 2, -0.5, 0.25, 1.5e-05, math.inf]),
    "european thousands": (["1.234,56", "1.234.567,8", "3"], [1234.56, 1234567.8, 3]),
    "american thousands": (["1,234.56", "1,234,567", "-3.5"], [1234.56, 1234567, -3.5]),
    "leading zero": (["0,125", "0,500"], [0.125, 0.5]),
    "four digits before": (["1234,567", "1,234"], [1234.567, 1.234]),
    "one decimal and gaps": (["3,1", "", "1,234"], [3.1, None, 1.234]),
    "thousands and gaps": (["3,000", "", "1,234"], [3000, None, 1234]),
    "spaces and signs": ([" 3,1 ", "+1,5"], [3.1, 1.5]),
}  # fmt: skip


@pytest.mark.parametrize("case", NUMBERS)
def test_numbers_with_commas_are_read_as_they_are_meant(read, case):
    """A column of numbers in one notation is read in it."""
    cells, values = NUMBERS[case]
    frame = read(lines("a\ty", *(f"{cell}\t{i % 2}" for i, cell in enumerate(cells))))
    expected = np.array([math.nan if value is None else value for value in values] * 20)
    np.testing.assert_array_equal(frame["a"].to_numpy(np.float64), expected)


TEXTS = {
    "two notations": ["1,5", "2.5"],
    "pairs": ["1,2,3", "4,5,6"],
    "dates": ["01,02,2020", "03,04,2021"],
    "words": ["1,5", "x"],
    "leading zero before thousands": ["0,125,000", "1,000"],
}


@pytest.mark.parametrize("case", TEXTS)
def test_what_is_not_a_number_in_every_row_stays_text(read, case):
    """A column is of numbers in one notation, or it is as it was written."""
    cells = TEXTS[case]
    frame = read(lines("a;y", *(f"{cell};{i % 2}" for i, cell in enumerate(cells))))
    assert frame["a"].tolist() == cells * 20


def test_one_file_has_one_decimal_mark(read):
    """Beside 3,14 a column of 1,234 is 1.234, and one of 1.234 is 1234."""
    frame = read(lines("a;b;c;y", "3,14;1,234;1.234;0", "2,71;5,678;12.000;1"))
    assert frame["b"].tolist() == [1.234, 5.678] * 20
    assert frame["c"].tolist() == [1234, 12000] * 20


def test_points_stay_decimal_marks_in_a_column_of_their_own(read):
    """In a file of decimal commas a column of 0.5 and 2.25 has the numbers that it shows."""
    frame = read(lines("a;b;y", "3,14;0.5;0", "2,71;2.25;1"))
    assert frame["b"].tolist() == [0.5, 2.25] * 20


def test_a_guess_from_the_first_rows_is_taken_back(read):
    """Where later texts show that a column is none of decimal commas, no other column is."""
    late = "".join(f"{i % 9},5;1,{i % 900 + 100};{i % 2}\n" for i in range(5000))
    frame = read(f"a;b;y\n{late}" + "text;1,100;0\n" * 500)
    assert frame["a"].tolist()[-501:-499] == ["4,5", "text"]
    assert frame["b"].tolist()[-1] == 1100


def test_a_stray_text_takes_no_decimal_comma_away(read):
    """Beside one text the numbers of a column keep what they say, written with a point."""
    frame = read(lines("a;b;y", "3,14;1,5;0", "2,5;2;1") + "?;2,5;0\n")
    assert frame["a"].tolist()[-3:] == ["3.14", "2.5", "?"]
    assert frame["b"].tolist()[-1] == 2.5


@pytest.mark.parametrize(
    ("decimal", "values"), [(",", [1.234, 5.0]), (".", [1234, 5]), ("", [1234, 5])]
)
def test_a_decimal_mark_may_be_given(read, decimal, values):
    """The mark that is given decides where a column could be read both ways."""
    frame = read(lines("a;y", "1,234;0", "5;1"), decimal=decimal)
    assert frame["a"].tolist() == values * 20


def test_a_given_decimal_comma_is_read_between_commas(read):
    """Quoted numbers with commas are numbers where decimal says so."""
    frame = read(lines("a,y", '"3,14",0', '"2,5",1'), decimal=",")
    assert frame["a"].tolist() == [3.14, 2.5] * 20


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (lines("a;b;y", "3,14;1;0", "2,5;2;1"), ["separator semicolon", "decimal comma in 'a';"]),
        (lines("a\ty", "1,234\t0", "5\t1"), ["separator tab", "thousands comma in 'a'"]),
        (lines("a|y", "1.234,5|0"), ["separator pipe", "decimal comma in 'a'", "point in 'a'"]),
        (lines("a\ty", "1,500\t0", "2,500\t1") + "no\t1\n", ["'a' stays text", "'no' is none"]),
    ],
)  # fmt: skip
def test_what_was_found_is_said(read, caplog, text, words):
    """A line of the log says what a file was taken for, and names the columns."""
    with caplog.at_level(logging.WARNING):
        read(text)
    assert [word for word in words if word not in caplog.text] == []


def test_nothing_is_said_of_commas_and_points(read, caplog):
    """A plain file, and one whose separator was given, are worth no line."""
    with caplog.at_level(logging.WARNING):
        read(CSV)
        read(CSV.replace(",", ";"), separator=";")
    assert caplog.text == ""


# Numbers as exact as they are written


def bits(values):
    """Floats as the 64 bits that they are."""
    return np.asarray(values, dtype=np.float64).view(np.uint64)


@pytest.mark.slow
@pytest.mark.parametrize(("separator", "decimal"), [(",", "."), (";", ",")])
def test_floats_are_read_to_the_last_bit(tmp_path, separator, decimal):
    """A CSV and a Parquet file of one DataFrame give the same float64 bits."""
    rng = np.random.default_rng(1)
    drawn = rng.integers(0, 2**64, size=200_000, dtype=np.uint64).view(np.float64)
    subnormal = rng.integers(1, 2**52, size=20_000, dtype=np.uint64).view(np.float64)
    ends = [5e-324, 2.2250738585072014e-308, 1e308, 1.7976931348623157e308, -0.0, 0.1, 1e23]
    values = np.concatenate([drawn[np.isfinite(drawn)], subnormal, rng.normal(size=200_000), ends])
    frame = pd.DataFrame({"a": values, "y": np.arange(len(values)) % 2})
    frame.to_csv(tmp_path / "t.csv", index=False, sep=separator, decimal=decimal)
    frame.to_parquet(tmp_path / "t.parquet")
    found = [read_source(tmp_path / name, "y")[1]["a"] for name in ("t.csv", "t.parquet")]
    np.testing.assert_array_equal(bits(found[0]), bits(found[1]))
    np.testing.assert_array_equal(bits(found[0]), bits(values))


@pytest.mark.parametrize(
    ("cells", "dtype"),
    [
        (["9007199254740993", "", "-3"], "Int64"),
        (["9223372036854775807", "", "-9223372036854775808"], "Int64"),
        (["18446744073709551615", "", "3"], "UInt64"),
        (["9007199254740991", "", "3"], "float64"),
        (["9007199254740993", "5", "-3"], "int64"),
    ],
)
@pytest.mark.parametrize("separator", [",", ";"])
def test_large_whole_numbers_are_not_rounded(read, separator, cells, dtype):
    """Whole numbers beside gaps keep their last digit, from 2**53 on as nullable ones."""
    rows = [f"{cell}{separator}{i % 2}" for i, cell in enumerate(cells)]
    column = read(lines(f"a{separator}y", *rows))["a"]
    assert column.dtype == dtype
    found = [None if pd.isna(value) else int(value) for value in column]
    assert found == [int(cell) if cell else None for cell in cells] * 20


def test_large_numbers_with_fractions_stay_floats(read):
    """A column with a fraction is of float64, however large its numbers are."""
    column = read(lines("a,y", "1e300,0", ",1", "9007199254740993,0", "0.5,1"))["a"]
    assert column.dtype == np.float64
    assert column.tolist()[2] == 2.0**53


@pytest.mark.slow
def test_columns_read_again_keep_their_rows(write):
    """What is read a second time in parts lies where it lay, over the bounds of parts."""
    n = ROWS_AT_ONCE + 3
    rows = "".join(f"{2**53 + 1 + 2 * i},{i % 2}\n" for i in range(n))
    column = read_source(write(f"a,y\n{rows},1\n"), "y")[1]["a"]
    assert column.iloc[[0, n - 1]].tolist() == [2**53 + 1, 2**53 + 2 * n - 1]
    assert column.isna().tolist() == [False] * n + [True]


def test_large_whole_numbers_are_a_tables_features(write):
    """A column of nullable whole numbers goes through loading like any other."""
    rows = [f"{2**53 + 1 + 2 * (i % 7)},{i % 5},{i % 2}" for i in range(60)]
    table = load_table(str(write(lines("a,b,y", *rows, ",1,0", times=1))), "y")
    assert table.features["a"].isna().sum() == 1
    assert table.features["a"].dtype == "Int64"


# Any table, any notation

WORDS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)
COLUMNS = {
    "whole": st.integers(-(2**63), 2**63 - 1),
    "small": st.integers(-5, 5),
    "floats": st.floats(allow_nan=False, allow_infinity=False),
    "texts": WORDS.filter(lambda text: text not in STR_NA_VALUES),
    "cells": st.sampled_from(['a,b;c\td|e', '"', '""', "'x', 'y'", "1,5", "1.234,5", "l\nm", "\r"]),
}  # fmt: skip


@st.composite
def frames(draw):
    """A table of whole numbers, floats and texts with gaps; a column of halves and the label."""
    n = draw(st.integers(1, 30))
    frame = pd.DataFrame({"half": [0.5] * n})
    for i, kind in enumerate(draw(st.lists(st.sampled_from(sorted(COLUMNS)), max_size=4))):
        values = draw(st.lists(st.none() | COLUMNS[kind], min_size=n, max_size=n))
        if kind in ("texts", "cells"):
            values[0] = "a word, so that no column is of numbers by chance"
        kinds = {"whole": "Int64", "small": "Int64", "floats": "float64"}
        frame[f'{i} "{kind}", {i};'] = pd.Series(values, dtype=kinds.get(kind, "str"))
    return frame.assign(y=np.arange(n) % 2)


def plain(series):
    """Cells as Python values: gaps None, whole numbers int, floats by their repr."""
    return [
        None if pd.isna(v) else v if isinstance(v, str) else int(v) if v == int(v) else repr(v)
        for v in series.tolist()
    ]


@pytest.mark.slow
@given(frame=frames(), separator=st.sampled_from(",;\t|"), decimal=st.sampled_from(".,"))
@settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_what_pandas_writes_is_read_back(tmp_path, frame, separator, decimal):
    """Whole numbers, floats, texts and gaps come back equal, whatever separates and marks them."""
    path = tmp_path / "table.csv"
    frame.to_csv(path, index=False, sep=separator, decimal=decimal, lineterminator="\r\n")
    given = {"decimal": ","} if (separator, decimal) == (",", ",") else {}
    found = read_source(path, "y", Reading(**given))[1]
    assert list(found.columns) == list(frame.columns)
    for name in frame.columns:
        assert plain(found[name]) == plain(frame[name])


# Encodings, line ends, formats


def test_a_byte_order_mark_is_no_part_of_a_name(read):
    """A file with a byte order mark has the columns of one without."""
    assert list(read(b"\xef\xbb\xbf" + CSV.encode()).columns) == ["a", "b", "y"]


@pytest.mark.parametrize(
    "encoding", ["utf-8", "latin-1", "cp1252", "utf-16", "utf-16-le", "utf-16-be"]
)
def test_encodings_are_found(read, encoding):
    """UTF-8, Latin-1, and UTF-16 with its mark or without are read, late letters as early ones."""
    text = CSV.replace("a,b,y", "größe,b,y") + "1,é,0\n"
    frame = read(text.encode(encoding))
    assert list(frame.columns) == ["größe", "b", "y"]
    assert frame["b"].iloc[-1] == "é"


GUESSED = {
    "Windows-1252": ("“5 €”".encode("cp1252"), "“5 €”", "was guessed: Windows-1252 (cp1252); save"),
    "Latin-1": ("é".encode("latin-1") + b"\x8d", "é\x8d", "Latin-1; 1 of its characters are lost"),
    "UTF-8 with mistakes": ("äöü".encode() + b"\xff", "äöü\ufffd", "mistakes in it; 1 of its"),
}


@pytest.mark.parametrize("case", GUESSED)
def test_a_guessed_encoding_is_said_with_what_it_loses(read, caplog, case):
    """Bytes that are no UTF-8 are what they most likely are, and the log says so and counts."""
    cell, text, words = GUESSED[case]
    with caplog.at_level(logging.WARNING):
        frame = read(CSV.encode() + b"1.5," + cell + b",1\n")
    assert frame["b"].iloc[-1] == text
    assert words in caplog.text


@pytest.mark.parametrize("end", ["\r\n", "\r"])
def test_line_ends_are_those_of_any_system(read, end):
    """Lines may end as Windows and old Macs end them."""
    pd.testing.assert_frame_equal(read(CSV.replace("\n", end)), read(CSV))


@pytest.mark.parametrize("separator", [",", ";"])
def test_gzip_is_read(read, separator):
    """A compressed file gives the table of its content."""
    text = CSV.replace(",", separator)
    packed = read(gzip.compress(text.encode()), "table.csv.gz")
    pd.testing.assert_frame_equal(packed, read(CSV))


def test_quoted_newlines_stay_in_their_cell(read):
    """A cell with a line break and a separator in quotes is one cell."""
    frame = read("a,y\n" + '1.5,"one,\ntwo"\n2.5,three\n' * 20)
    assert frame["y"].tolist() == ["one,\ntwo", "three"] * 20


@pytest.mark.parametrize("header", ["a,b,y,", "a,b,y", "a,b,y,,"])
@pytest.mark.parametrize("cells", ["9007199254740993", "1"])
def test_separators_that_end_a_line_are_no_column(read, header, cells):
    """A separator at each line's end adds no column, whether the header has it or not."""
    frame = read(lines(header, f"{cells},2,0,", ",4,1,"))
    assert list(frame.columns) == ["a", "b", "y"]
    assert frame["b"].tolist() == [2, 4] * 20
    assert frame["a"].dropna().astype(int).tolist() == [int(cells)] * 20


def test_a_column_without_a_name_is_kept_where_it_has_values(read):
    """Row names as pandas and R write them are a column."""
    assert list(read(lines(",b,y", "1,2,0", "2,3,1")).columns) == ["Unnamed: 0", "b", "y"]


def test_cells_that_a_row_lacks_are_gaps(read):
    """A row shorter than the header has gaps at its end."""
    frame = read(lines("y,a,b", "0,1,2", "1,3"))
    assert frame["b"].isna().tolist() == [False, True] * 20


def test_a_late_float_does_not_split_a_columns_type(read):
    """A column is read whole before its type is decided: no row of it turns to text."""
    text = "a,y\n" + "".join(f"{i % 97},{i % 2}\n" for i in range(300_000)) + "0.5,1\n"
    assert read(text)["a"].dtype == np.float64


# What is refused


def broken_gzip():
    """A compressed file whose header is whole and whose body is not."""
    packed = bytearray(gzip.compress(CSV.encode()))
    packed[20:60] = bytes(255 - b for b in packed[20:60])
    return bytes(packed)


COLONS = "a:b:y\n1:2:0\n3:4:1\n"
REFUSALS = {
    "header only": ("a,b,y\n", "t.csv", {}, "a header and no rows"),
    "blank lines": ("\n \n\n", "t.csv", {}, "not a readable CSV.*blank lines"),
    "nothing compressed": (gzip.compress(b""), "t.csv.gz", {}, "not a readable CSV.*blank lines"),
    "wrong suffix": ("a", "t.xlsx", {}, r"unknown format '\.xlsx'.*\.csv"),
    "no suffix": ("a", "table", {}, r"no suffix"),
    "text as parquet": ("a,b\n1,2\n", "t.parquet", {}, "not a Parquet file"),
    "duplicate columns": ("a,a,y\n1,2,0\n3,4,1\n", "t.csv", {}, "duplicate columns.*'a'"),
    "one column": ("y\n0\n1\n", "t.csv", {}, "one column, 'y': .*give separator="),
    "colons": (COLONS, "t.csv", {}, "one column, 'a:b:y': .*give separator="),
    "a comment": (f"# by hand\n{CSV}", "t.csv", {}, "one column, '# by hand': its first line"),
    "wrong separator": (CSV, "t.csv", {"separator": ";"}, "'a,b,y', with the given separator ';'"),
    "header of another kind": ("a;b;y\n1,2,0\n", "t.csv", {}, "one cell .*separator ';'.*'1,2,0'"),
    "binary": (b"a,y\n\0\0,1\n", "t.csv", {}, "binary"),
    "half a letter": (CSV.encode("utf-16")[:-1], "t.csv", {}, "not a text file in UTF-8 or UTF-16"),
    "ragged": ("a,y\n1,0\n1,2,3,4\n", "t.csv", {}, "not a readable CSV.*line 3.*separator="),
    "long rows": ("a,y\n1,0,5\n2,1,6\n", "t.csv", {}, "not a readable CSV.*header.*separator="),
    "no gzip": ("a,y\n1,0\n", "t.csv.gz", {}, "not a readable CSV"),
    "truncated gzip": (gzip.compress(CSV.encode())[:-30], "t.csv.gz", {}, "not a readable CSV"),
    "corrupt gzip": (broken_gzip(), "t.csv.gz", {}, "not a readable CSV"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_an_unusable_file_is_refused(read, case):
    """What is wrong with a file is a DataError of one line that says what, and where."""
    content, name, options, words = REFUSALS[case]
    with pytest.raises(DataError, match=words) as refused:
        read(content, name, **options)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("options", [{"separator": ";"}, {"decimal": ","}])
@pytest.mark.parametrize("source", ["frame", "wine", "parquet"])
def test_options_of_csv_files_are_refused_elsewhere(tmp_path, source, options):
    """A separator or a decimal mark is not ignored where there is no CSV file to read."""
    frame = pd.DataFrame({"a": [0.5, 1.5] * 20, "y": [0, 1] * 20})
    frame.to_parquet(tmp_path / "t.parquet")
    data = {"frame": frame, "wine": "wine", "parquet": tmp_path / "t.parquet"}[source]
    (name,) = options
    with pytest.raises(DataError, match=f"^{name} is for CSV files; received '[;,]' with .*leave"):
        load_table(data, "y", Reading(**options))


@pytest.mark.parametrize(
    ("data", "known"),
    [("t.csv", True), ("t.CSV.GZ", True), ("t.tsv", True), ("t.parquet", False), ("wine", False)],
)
def test_csv_files_are_known_by_their_names(data, known):
    """What takes a separator is told without reading it."""
    assert is_csv(data) is known


def test_a_missing_file_is_refused_by_its_full_path(tmp_path):
    """The path that was looked for stands in full, since mlflow run changes directories."""
    path = tmp_path / "none.csv"
    with pytest.raises(DataError, match=f"no such file: {path}"):
        load_table(str(path), "y")


def test_a_directory_is_refused(tmp_path):
    """A directory is no table."""
    with pytest.raises(DataError, match="is a directory"):
        load_table(str(tmp_path), "y")


def test_an_empty_file_is_refused(write):
    """A file of no bytes is called empty."""
    with pytest.raises(DataError, match="the file is empty"):
        load_table(str(write("")), "y")


def test_a_misspelt_built_in_name_is_suggested():
    """A name near a built-in one gets that one as a suggestion."""
    with pytest.raises(DataError, match="'sintetic'; did you mean 'synthetic'"):
        load_table("sintetic")
