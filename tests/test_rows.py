"""Rows in every shape that users have, and in shapes that they should not have."""

from __future__ import annotations

from collections import OrderedDict
from types import MappingProxyType

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from modelwatch._types import ABSENT
from modelwatch.exceptions import RowsError
from modelwatch.rows import Reader, names_of, size_of, values_of

NAMES = ("a", "b")
COLUMNS = {"b": [4, 5, 6], "a": [1, 2, 3], "other": ["x", "y", "z"]}
ROWS = [{"a": 1, "b": 4}, {"a": 2, "b": 5}, {"a": 3, "b": 6}]


def table_of(rows):
    """Rows as a list of tuples, whichever way the reader laid them."""
    size, by_row, columns = rows
    assert (by_row is None) != (columns is None)
    found = by_row if by_row is not None else list(zip(*columns, strict=True))
    assert len(found) == size
    return found


@pytest.mark.parametrize(
    "features",
    [
        ROWS,
        tuple(ROWS),
        [OrderedDict(row) for row in ROWS],
        [MappingProxyType(row) for row in ROWS],
        [(1, 4), [2, 5], np.array([3, 6])],
        np.array([[1, 4], [2, 5], [3, 6]]),
        np.array([[1, 4], [2, 5], [3, 6]], dtype=object),
        np.asfortranarray([[1, 4], [2, 5], [3, 6]]),
        np.ma.masked_array([[1, 4], [2, 5], [3, 6]], mask=False),
        COLUMNS,
        {"a": np.array([1, 2, 3]), "b": (4, 5, 6)},
        {"a": pd.Series([1, 2, 3], index=[7, 8, 9]), "b": pl.Series([4, 5, 6])},
        pd.DataFrame(COLUMNS, index=[5, 5, 5]),
        pl.DataFrame(COLUMNS),
        pa.table(COLUMNS),
    ],
    ids=lambda features: type(features).__name__,
)
def test_every_shape_brings_the_same_rows(features):
    """The same rows come out of every shape, in the reader's order of features."""
    assert table_of(Reader(NAMES).read(features)) == [(1, 4), (2, 5), (3, 6)]


@pytest.mark.parametrize(
    ("features", "row"),
    [
        ({"a": 1, "b": 2}, (1, 2)),
        (MappingProxyType({"b": 2, "a": 1, "c": 3}), (1, 2)),
        ({"b": 2}, (ABSENT, 2)),
        ({}, (ABSENT, ABSENT)),
        ({"unknown": 1}, (ABSENT, ABSENT)),
        ({"a": [1, 2, 3], "b": 2}, ([1, 2, 3], 2)),
        ({"a": None, "b": [1, 2, 3]}, (None, [1, 2, 3])),
        ({"a": {"x": 1, "y": 2}, "b": {"x": 1, "y": 2}}, ({"x": 1, "y": 2}, {"x": 1, "y": 2})),
        ({"a": {1, 2}, "b": {3}}, ({1, 2}, {3})),
        ({"a": "text", "b": b"bytes"}, ("text", b"bytes")),
        ({"a": np.float32(1), "b": np.int8(2)}, (1, 2)),
        ({"a": np.array(1.0), "b": np.array(2.0)}, (1, 2)),
    ],
    ids=repr,
)
def test_a_dict_is_one_row(features, row):
    """A dict is a row as soon as one of its values is none that a column could be."""
    assert table_of(Reader(NAMES).read(features)) == [row]


def test_one_feature():
    """A single feature makes rows of one value, not of the letters of a text."""
    assert table_of(Reader(("a",)).read({"a": "text"})) == [("text",)]
    assert table_of(Reader(("a",)).read([{"a": "text"}, {}])) == [("text",), (ABSENT,)]


def test_no_feature():
    """Where no feature is known, rows are only counted."""
    assert table_of(Reader(()).read([{"a": 1}, {"b": 2}])) == [(), ()]
    assert Reader(()).read({"a": 1})[0] == 1
    assert Reader(()).read([])[0] == 0


@pytest.mark.parametrize("features", [[], (), np.empty((0, 2)), {"a": [], "b": []}, pd.DataFrame({"a": [], "b": []})])
def test_no_rows(features):
    """An empty batch of any shape is no rows, and no error."""
    assert table_of(Reader(NAMES).read(features)) == []


def test_missing_and_unknown_features():
    """Features that are not there are absent, those that nobody knows are passed over: row by row, and in columns."""
    assert table_of(Reader(NAMES).read([{"a": 1}, {"b": 2, "z": 3}])) == [(1, ABSENT), (ABSENT, 2)]
    assert table_of(Reader(NAMES).read({"b": [1, 2], "z": [3]})) == [(ABSENT, 1), (ABSENT, 2)]
    assert table_of(Reader(NAMES).read(pd.DataFrame({"b": [1, 2]}))) == [(ABSENT, 1), (ABSENT, 2)]


def test_arrays_may_lack_the_last_ones():
    """Of an array the optional features at the end may be absent: all of them or none."""
    reader = Reader(("a", "b", "time"), 1)
    assert table_of(reader.read(np.array([[1, 2]]))) == [(1, 2, ABSENT)]
    assert table_of(reader.read([[1, 2], [3, 4, 5]])) == [(1, 2, ABSENT), (3, 4, 5)]
    with pytest.raises(RowsError, match="Expected 2 features a row"):
        reader.read([[1]])


def test_masked_values_are_missing():
    """What a masked array hides is not counted as a value."""
    masked = np.ma.masked_array([[1.0, 9.0]], mask=[[False, True]])
    assert table_of(Reader(NAMES).read(masked)) == [(1.0, None)]
    assert list(values_of(np.ma.masked_array([1.0, 9.0], mask=[False, True]), 2, "predictions")) == [1.0, None]


def test_nothing_of_the_users_is_kept():
    """What the user changes afterwards does not change what was recorded."""
    array, column, rows = np.array([[1.0, 2.0]]), [1.0], [{"a": 1.0, "b": 2.0}]
    predictions = np.array([1.0])
    found = [Reader(NAMES).read(features) for features in (array, {"a": column, "b": [2.0]}, rows)]
    kept = values_of(predictions, 1, "predictions")
    array[:], column[0], rows[0]["a"], predictions[:] = 9.0, 9.0, 9.0, 9.0
    assert [table_of(one) for one in found] == [[(1.0, 2.0)]] * 3
    assert kept.tolist() == [1.0]


@pytest.mark.parametrize(
    ("features", "rows"),
    [
        (7, 1),
        (None, 1),
        ("text", 1),
        (iter(ROWS), 1),
        (np.array([1.0, 2.0]), 1),
        (np.zeros((5, 3)), 5),
        (np.zeros((5, 2, 2)), 5),
        ([{"a": 1, "b": 2}, None], 2),
        ([[1, 2], [1]], 2),
        ([{"a": 1}, [1, 2]], 2),
        ({"a": [1, 2, 3], "b": [1]}, 3),
        ({"z": [1, 2, 3]}, 3),
        (pd.DataFrame({"z": [1, 2, 3]}), 3),
        (pa.table({"z": [1, 2, 3]}), 3),
        (pd.Series([1, 2]), 1),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_cannot_be_read(features, rows):
    """It raises an error that says what was expected, and the rows that get lost by it can be counted."""
    with pytest.raises(RowsError, match=r"^Expected "):
        Reader(NAMES).read(features)
    assert size_of(features) == rows


class Rude:
    ndim = 2

    def __len__(self):
        raise RuntimeError("no")


def test_the_size_of_anything():
    """Whatever a user's object does when it is asked for its size, it is one row."""
    assert size_of(Rude()) == 1
    assert size_of({"a": Rude()}) == 1


@pytest.mark.parametrize(
    ("values", "size", "found"),
    [
        (1.5, 1, [1.5]),
        ("yes", 1, ["yes"]),
        (None, 1, [None]),
        (np.float32(1.5), 1, [1.5]),
        (np.array(1.5), 1, [1.5]),
        ([1, 2], 2, [1, 2]),
        (("a", "b"), 2, ["a", "b"]),
        (np.array([1, 2]), 2, [1, 2]),
        (np.array([[1.0], [2.0]]), 2, [1.0, 2.0]),
        (np.array([["a"], ["b"]], dtype=object), 2, ["a", "b"]),
        (np.empty((0, 1)), 0, []),
        (pd.Series([1, 2], index=[3, 3]), 2, [1, 2]),
        (pl.Series(["a", None]), 2, ["a", None]),
        (pa.array([1, None]), 2, [1, None]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_one_value_a_row(values, size, found):
    """A scalar is the value of one row; a sequence has one for each; a column of one is one each."""
    column = values_of(values, size, "predictions")
    assert list(column) == found
    assert all(np.ndim(value) == 0 for value in column)


def test_vectors_are_one_value_each():
    """Predictions of several numbers a row stay one value a row, whatever that will count as."""
    found = values_of(np.zeros((3, 4)), 3, "predictions")
    assert len(found) == 3
    assert all(value.shape == (4,) for value in found)


@pytest.mark.parametrize(("values", "size"), [(1.5, 2), ([1], 2), ([], 1), (np.zeros(3), 2), ("ab", 2), ({}, 1)])
def test_too_few_or_too_many_values(values, size):
    """Another number of values than rows is refused by name."""
    with pytest.raises(RowsError, match=rf"as many predictions as rows, {size}, got"):
        values_of(values, size, "predictions")


def test_names():
    """The names of features are found in every shape that has some."""
    for features in (ROWS, ROWS[0], COLUMNS, pd.DataFrame(COLUMNS), pl.DataFrame(COLUMNS), pa.table(COLUMNS)):
        assert {"a", "b"} <= set(names_of(features))
    assert names_of(np.zeros((2, 2))) == names_of([]) == names_of(5) == ()
