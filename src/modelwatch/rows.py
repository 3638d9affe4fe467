"""Rows in all the shapes in which users have them, brought into one: tuples or columns in the order of the features."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from typing import Any

import numpy as np

from ._types import ABSENT
from .exceptions import RowsError

_SCALARS = (str, bytes, int, float, bool, type(None))
_PLAIN = frozenset(_SCALARS)


Rows = tuple[int, list[tuple[Any, ...]] | None, list[Any] | None]
"""How many rows, and either a tuple for each of them or a column for each feature."""


class Reader:
    """Reads rows for one order of features.

    Parameters
    ----------
    names
        Of the features, in the order wanted.
    optional
        How many of the last ones an array may lack.

    Notes
    -----
    Threads: any number; never modified. Processes: each has its own.

    >>> Reader(("a", "b")).read({"b": 2, "a": 1, "c": 3})
    (1, [(1, 2)], None)
    """

    def __init__(self, names: tuple[str, ...], optional: int = 0) -> None:
        self.names = names
        self._optional = optional
        self.row: Callable[[Mapping[str, Any]], tuple[Any, ...]] = _getter(names)

    def read(self, features: Any) -> Rows:
        """Rows from a dict (one row), a list of dicts, a 2-d array, a dict of columns or a data frame. Copied.

        Raises
        ------
        RowsError
            It is none of these, or an array has another number of columns than there are features.
        """
        if type(features) is dict or isinstance(features, Mapping):
            try:
                row = self.row(features)
            except KeyError:
                row = self._tuple(features)
            if (row and type(row[0]) in _PLAIN) or _is_one_row(features):
                return 1, [row], None
            return self._from_columns(features, lambda name: features.get(name, ABSENT))
        if hasattr(features, "columns") or hasattr(features, "column_names"):
            there = set(getattr(features, "column_names", None) or features.columns)
            return self._from_columns(dict.fromkeys(there), lambda name: features[name] if name in there else ABSENT)
        if isinstance(features, np.ndarray):
            return self._from_array(features)
        if isinstance(features, list | tuple):
            if {dict}.issuperset(map(type, features)) or all(isinstance(row, Mapping) for row in features):
                return len(features), [self._tuple(row) for row in features], None
            if all(isinstance(row, Sequence | np.ndarray) and not isinstance(row, str | bytes) for row in features):
                rows = [(*row, *self._fill(len(row))) if self.names else () for row in features]
                return len(features), rows, None
        raise RowsError(
            "Expected features to be a dict, a list of dicts, a 2-d array, a dict of columns or a data frame, got "
            f"{type(features).__name__}. Convert them."
        )

    def _tuple(self, row: Mapping[str, Any]) -> tuple[Any, ...]:
        try:
            return self.row(row)
        except KeyError:
            return tuple([row.get(name, ABSENT) for name in self.names])

    def _from_array(self, array: np.ndarray[Any, Any]) -> Rows:
        if array.ndim != 2:
            raise RowsError(f"Expected a 2-d array of rows and features, got shape {array.shape}. Reshape it.")
        if not self.names:  # nothing is compared: only how many rows there are is of interest
            return len(array), None, []
        filled = [[value] * len(array) for value in self._fill(array.shape[1])]
        masked = isinstance(array, np.ma.MaskedArray)
        columns = [_column(column) for column in array.T] if masked else np.array(array).T
        return len(array), None, [*columns, *filled]

    def _from_columns(self, columns: Mapping[str, Any], get: Callable[[str], Any]) -> Rows:
        chosen = [get(name) for name in self.names]
        sizes = {len(column) for column in chosen if column is not ABSENT}
        if len(sizes) > 1:
            raise RowsError(f"Expected columns of one length, got {sorted(sizes)}. Cut or fill those that differ.")
        if not sizes:
            raise RowsError(
                f"Expected some of the features {list(self.names)[:10]}, got {sorted(map(str, columns))[:10]}. "
                "Name the columns as in the reference."
            )
        size = sizes.pop()
        return size, None, [[ABSENT] * size if c is ABSENT else _column(c) for c in chosen]

    def _fill(self, width: int) -> list[Any]:
        """What is absent from a row of an array that has `width` values."""
        absent = len(self.names) - width
        if absent not in {0, self._optional}:
            raise RowsError(
                f"Expected {len(self.names) - self._optional} features a row, in the reference's order, got {width}. "
                f"The order is {list(self.names)[:20]}; a dict is safer."
            )
        return [ABSENT] * absent


def names_of(features: Any) -> tuple[str, ...]:
    """Names of the features of rows in any shape; none of an array.

    >>> names_of([{"a": 1}, {"a": 2, "b": 3}])
    ('a',)
    """
    if isinstance(features, Mapping):
        return tuple(map(str, features))
    if hasattr(features, "columns") or hasattr(features, "column_names"):
        return tuple(map(str, getattr(features, "column_names", None) or features.columns))
    if isinstance(features, list | tuple) and features and isinstance(features[0], Mapping):
        return tuple(map(str, features[0]))
    return ()


def values_of(values: Any, size: int, what: str) -> Any:
    """One value a row: of a scalar for one row, or a sequence. Copied.

    Raises
    ------
    RowsError
        There are more or fewer of them than rows.
    """
    if type(values) in _PLAIN and size == 1:
        return [values]
    if isinstance(values, _SCALARS) or not hasattr(values, "__len__") or getattr(values, "shape", None) == ():
        values = [values]
    if len(values) != size:
        raise RowsError(f"Expected as many {what} as rows, {size}, got {len(values)}. Pass one for each row.")
    return _column(values)


def size_of(features: Any) -> int:
    """How many rows were in what could not be read, as near as can be told: they are lost, and counted.

    >>> size_of([{"a": 1}, None]), size_of({"a": [1, 2], "b": [1]}), size_of(7)
    (2, 2, 1)
    """
    try:
        if isinstance(features, Mapping):
            return 1 if _is_one_row(features) else max(map(len, features.values()))
        return 1 if isinstance(features, str | bytes) or getattr(features, "ndim", 2) < 2 else len(features)
    except Exception:  # noqa: BLE001 - a user's object may raise anything
        return 1


def _column(values: Any) -> Any:
    if isinstance(values, np.ndarray) and not isinstance(values, np.ma.MaskedArray):
        array = np.array(values)
        if array.ndim == 1:
            return array
        # Many models return one column of shape (rows, 1); wider ones are no values, and counted as such.
        return array.ravel() if array.size == len(array) else list(array)
    for method in ("to_pylist", "to_list", "tolist"):
        if hasattr(values, method):
            return list(getattr(values, method)())
    return list(values)


def _is_one_row(features: Mapping[str, Any]) -> bool:
    """Whether a dict is a row rather than columns: of columns every value is a list, an array or a series."""
    for value in features.values():
        if isinstance(value, (*_SCALARS, Mapping)) or getattr(value, "shape", None) == ():
            return True
        if not (isinstance(value, list | tuple) or (hasattr(value, "__len__") and hasattr(value, "__getitem__"))):
            return True
    return not features


def _getter(names: tuple[str, ...]) -> Callable[[Mapping[str, Any]], tuple[Any, ...]]:
    if not names:
        return lambda _: ()
    if len(names) == 1:
        only = names[0]
        return lambda row: (row[only],)
    return itemgetter(*names)
