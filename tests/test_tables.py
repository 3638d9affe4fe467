"""Tables: the same column is the same column, whoever holds it; what is none is refused in a sentence."""

from __future__ import annotations

import datetime
import decimal
import subprocess
import sys

import numpy as np
import pytest

from modelwatch.exceptions import TableError
from modelwatch.tables import check_names, check_texts, column_names, column_of, order_of, rows_of

pandas = pytest.importorskip("pandas")
polars = pytest.importorskip("polars")
pyarrow = pytest.importorskip("pyarrow")

MAKERS = {"dict": dict, "pandas": pandas.DataFrame, "polars": polars.DataFrame, "pyarrow": pyarrow.table}
every_table = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


def plain(column):
    """Values as Python has them, missing ones as None."""
    values = column.values.tolist() if isinstance(column.values, np.ndarray) else list(column.values)
    return [None if pandas.isna(value) else value for value in values]


@every_table
@pytest.mark.parametrize(
    ("values", "kind", "dtype"),
    [
        ([1.5, 2.5, -1.0], "numeric", "float64"),
        ([1, 2, 3], "numeric", "int64"),
        ([1.5, None, 2.5], "numeric", "float64"),
        ([1, None, 3], "numeric", "float64"),
        (["a", "b", None], "categorical", ""),
        ([True, False, True], "categorical", ""),
        ([True, None, False], "categorical", ""),
        ([decimal.Decimal("1.5"), None, decimal.Decimal("2.5")], "numeric", "float64"),
        (np.array([1.5, 2.5], dtype=np.float32), "numeric", "float32"),
        (np.array([1, 2], dtype=np.int8), "numeric", "int8"),
        (np.array([1, 2**63], dtype=np.uint64), "numeric", "uint64"),
    ],
)
def test_every_table_gives_the_same_column(make, values, kind, dtype):
    """The kind and the dtype of a column, and its values, do not depend on the library that holds it."""
    column = column_of(make({"x": values}), "x")
    assert (column.kind, column.dtype) == (kind, dtype)
    assert plain(column) == (values.tolist() if isinstance(values, np.ndarray) else values)


@pytest.mark.parametrize(
    ("table", "kind", "dtype"),
    [
        (pandas.DataFrame({"x": pandas.array([1, 2, None], dtype="Int64")}), "numeric", "float64"),
        (pandas.DataFrame({"x": pandas.array([1, 2, 3], dtype="Int64")}), "numeric", "int64"),
        (pandas.DataFrame({"x": pandas.array([1.5, None], dtype="Float32")}), "numeric", "float32"),
        (pandas.DataFrame({"x": pandas.array([True, None], dtype="boolean")}), "categorical", ""),
        (pandas.DataFrame({"x": pandas.array(["a", None], dtype="string")}), "categorical", ""),
        (pandas.DataFrame({"x": pandas.Categorical([3, 1, None])}), "categorical", ""),
        (pandas.DataFrame({"x": pandas.array([1, None], dtype="int64[pyarrow]")}), "numeric", "float64"),
        (pandas.DataFrame({"x": pandas.array(["a", None], dtype="string[pyarrow]")}), "categorical", ""),
        (pandas.DataFrame({"x": pandas.arrays.SparseArray([0.0, 1.0])}), "numeric", "float64"),
        (polars.DataFrame({"x": polars.Series(["a", "b"], dtype=polars.Categorical)}), "categorical", ""),
        (polars.DataFrame({"x": polars.Series(["a", "b"], dtype=polars.Enum(["a", "b"]))}), "categorical", ""),
        (pyarrow.table({"x": pyarrow.array(["a", "b", None]).dictionary_encode()}), "categorical", ""),
        (pyarrow.table({"x": pyarrow.array([1.5, None], pyarrow.float32())}), "numeric", "float32"),
        (pyarrow.table({"x": pyarrow.chunked_array([[1, 2], [3]])}), "numeric", "int64"),
        ({"x": np.array(["a", "b"])}, "categorical", ""),
        ({"x": np.array([b"a", b"\xff"])}, "categorical", ""),
        ({"x": np.array([1, None, 2.5], dtype=object)}, "numeric", "float64"),
        ({"x": [1, 10**400]}, "numeric", "int64"),
        ({"x": (1.0, 2.0)}, "numeric", "float64"),
        ({"x": [1, "a", None]}, "categorical", ""),
        ({"x": [1, True]}, "categorical", ""),
    ],
)  # fmt: skip
def test_the_kind_follows_from_the_dtype(table, kind, dtype):
    """Each library's types for numbers with gaps, texts and categories are known; mixed objects are categories."""
    column = column_of(table, "x")
    assert (column.kind, column.dtype) == (kind, dtype)


def test_masked_values_are_missing():
    """What a masked array hides is missing, not the number below the mask."""
    mask = [False, True, False]
    assert plain(column_of({"x": np.ma.array([1.5, 999.0, 2.5], mask=mask)}, "x")) == [1.5, None, 2.5]
    assert plain(column_of({"x": np.ma.array([1, 999, 2], mask=mask)}, "x")) == [1, None, 2]
    for kind in (np.float32, np.float64, np.int64):
        column = column_of({"x": np.ma.array([1, 999, 2], mask=mask, dtype=kind)}, "x")
        assert np.isnan(np.array(column.values, dtype=float)).tolist() == mask
        assert column.dtype == ("float32" if kind is np.float32 else "float64")


DAY = datetime.datetime(2020, 1, 1)


@every_table
@pytest.mark.parametrize(
    "values",
    [
        [DAY, DAY],
        [DAY.date(), DAY.date()],
        [datetime.time(1), datetime.time(2)],
        [datetime.timedelta(1), datetime.timedelta(2)],
        [DAY.replace(tzinfo=datetime.UTC)] * 2,
        [[1], [2]],
        [[1.5, 2.5], []],
        [{"a": 1}, {"a": 2}],
    ],
    ids=["datetime", "date", "time", "timedelta", "zoned", "list", "lists", "dict"],
)
def test_times_and_lists_are_refused(make, values):
    """No feature is made of times or of nested values; the message names the column and the way out."""
    with pytest.raises(TableError, match=r"^Expected .* column 'x', got .*`features=`\.$"):
        column_of(make({"x": values}), "x")


@pytest.mark.parametrize(
    "values",
    [
        np.ones((3, 2)),
        np.array([1j]),
        np.array(["2020-01-01"], dtype="datetime64[D]"),
        np.array(["NaT"], "timedelta64[s]"),
    ],
    ids=["2-d", "complex", "datetime64", "timedelta64"],
)
def test_arrays_that_are_no_column_are_refused(values):
    """Arrays of two dimensions, of complex numbers or of times make no feature."""
    with pytest.raises(TableError, match=r"^Expected .* column 'x', got .*\.$"):
        column_of({"x": values}, "x")


@pytest.mark.parametrize("values", [5, np.array(5.0), "text", {1, 2}, (x for x in range(3)), None, object()])
def test_what_is_no_column_is_refused(values):
    """A number, a text, a set or a generator is no column."""
    with pytest.raises(TableError, match=r"^Expected column 'x' to be an array or a list, got .*Convert it\.$"):
        rows_of({"x": values}, ["x"]), column_of({"x": values}, "x")


@pytest.mark.parametrize("table", [None, 5, "x.csv", np.zeros((3, 2)), [{"x": 1}], [[1]], object()])
def test_what_is_no_table_is_refused(table):
    """What has no named columns is no table."""
    with pytest.raises(TableError, match=r"^Expected a table: a dict of arrays, .*Convert it to one of them\.$"):
        column_names(table)


def test_names_of_columns():
    """Names come in order; they must be text, and each only once."""
    for make in MAKERS.values():
        assert column_names(make({"b": [1], "a": [2]})) == ["b", "a"]
    with pytest.raises(TableError, match="Expected names of columns to be text, got 1"):
        column_names({1: [1]})
    with pytest.raises(TableError, match=r"Expected every column once, got \['a', 'a'\]"):
        column_names(pandas.DataFrame([[1, 2]], columns=["a", "a"]))


def test_a_missing_column_has_a_nearest_name():
    """A name that is not there is refused with the nearest one that is."""
    check_names(["temperature", "hour"], ["hour", None])
    with pytest.raises(TableError, match=r"Expected a column 'temprature', got .*Did you mean 'temperature'\?"):
        check_names(["temperature", "hour"], ["temprature"])
    with pytest.raises(TableError, match="Check its name"):
        check_names(["temperature"], ["zzz"])


@pytest.mark.parametrize("name", ["", "x" * 301, "\ud800"])
def test_names_that_no_file_could_hold_are_refused(name):
    """A name that is empty, endless or no valid text is refused before it makes a file that cannot be read."""
    with pytest.raises(TableError, match="Expected a column's name to be valid text"):
        check_texts([name])
    check_texts(["x" * 300, "Größe 🌡", "a b\n"])


def test_columns_have_one_length():
    """Ragged columns are refused, with their lengths."""
    assert rows_of({"a": [1, 2], "b": np.ones(2)}, ["a", "b"]) == 2
    assert rows_of({}, []) == 0
    with pytest.raises(TableError, match=r"Expected columns of one length, got \{'a': 2, 'b': 3\}"):
        rows_of({"a": [1, 2], "b": [1, 2, 3]}, ["a", "b"])


@every_table
@pytest.mark.parametrize(
    "times",
    [[3, 1, 2], [3.5, 1.5, 2.5], ["2020-03", "2020-01", "2020-02"], [DAY + datetime.timedelta(d) for d in (9, 1, 4)]],
    ids=["int", "float", "text", "datetime"],
)
def test_rows_in_the_order_of_time(make, times):
    """Numbers, texts and times put rows in order, whoever holds them."""
    assert order_of(make({"t": times}), "t", 3).tolist() == [1, 2, 0]


@pytest.mark.parametrize(
    "times", [[1, 2], [1, 2, 3, 4], [1, None, 2], np.ones((3, 2)), 5], ids=["short", "long", "None", "2-d", "none"]
)
def test_times_that_order_nothing_are_refused(times):
    """Times must be one for each row, and comparable: else the floors would be those of other rows."""
    with pytest.raises(TableError, match=r"^Expected 3 times, .* column 't', to order the rows by, got .*\.$"):
        order_of({"t": times}, "t", 3)


def test_no_library_is_imported():
    """Fitting imports no library of data frames that the user has not imported."""
    code = (
        "import sys; from modelwatch.files import ReferenceProfile; ReferenceProfile.fit({'a': [1.0, 2.0] * 200});"
        "print([name for name in ('pandas', 'polars', 'pyarrow') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
