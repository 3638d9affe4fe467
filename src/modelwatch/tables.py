"""Tables as users have them: a dict of arrays, pandas, polars or pyarrow, none of them imported."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .exceptions import TableError

LONGEST_NAME = 300
"""Characters of a column's name at most."""
_NUMBERS = (int, float, np.integer, np.floating)
_CATEGORIES = ("category", "dictionary", "enum", "categorical")  # so the names of their types begin
_NESTED = (list, tuple, dict, set, np.ndarray)


class Column(NamedTuple):
    """A column: its values (kept, not copied, where they are an array) and what kind of feature it makes."""

    values: npt.NDArray[Any] | Sequence[Any]
    kind: str  # "numeric" or "categorical"
    dtype: str  # of the numbers: "float64", "float32", "int64", …


def column_names(table: Any) -> list[str]:
    """Names of the columns, in order.

    Raises
    ------
    TableError
        It is no table, or a name is no text.
    """
    if isinstance(table, Mapping):
        names = list(table)
    else:
        # pyarrow's `columns` are the columns themselves; its `column_names` are what others call `columns`.
        named = getattr(table, "column_names", None)
        named = getattr(table, "columns", None) if named is None else named
        if named is None or not hasattr(table, "__getitem__"):
            raise TableError(
                f"Expected a table: a dict of arrays, or something with .columns and [name] such as pandas, polars or "
                f"pyarrow, got {type(table).__name__}. Convert it to one of them."
            )
        names = list(named)
    for name in names:
        if not isinstance(name, str):
            raise TableError(f"Expected names of columns to be text, got {name!r}. Rename that column.")
    if len(set(names)) < len(names):
        raise TableError(f"Expected every column once, got {names}. Rename or drop those that come twice.")
    return names


def column_of(table: Any, name: str) -> Column:
    """One column of a table.

    The kind follows from the dtype: text, booleans and categories are categorical, numbers numeric. A column of Python
    objects is numeric if all that is not missing are numbers.

    Raises
    ------
    TableError
        The column holds lists, times, or nothing that is known.
    """
    values = values_of(table, name)
    if _dtype_of(table[name]).startswith(_CATEGORIES):
        return Column(values, "categorical", "")
    if isinstance(values, np.ndarray) and values.dtype.kind in "fiu":
        return Column(values, "numeric", str(values.dtype))
    if isinstance(values, np.ndarray) and values.dtype.kind in "bUS":
        return Column(values, "categorical", "")
    if isinstance(values, np.ndarray) and values.dtype.kind != "O":
        raise _unusable(name, str(values.dtype))
    return _from_objects(values, name)


def values_of(table: Any, name: str) -> npt.NDArray[Any] | list[Any]:
    """The values of a column, whatever they are: an array (kept, not copied) or a list, one for each row.

    Raises
    ------
    TableError
        It is no column.
    """
    raw = table[name]
    array = None if _dtype_of(raw).startswith(_CATEGORIES) else _as_array(raw)
    if array is None:
        return _as_list(raw, name)
    if array.ndim != 1:
        raise TableError(f"Expected one value a row in column {name!r}, got shape {array.shape}. Split it in columns.")
    return array


def rows_of(table: Any, names: list[str]) -> int:
    """Number of rows of the columns `names`, which must agree; 0 without columns.

    Raises
    ------
    TableError
        The columns are not of one length.
    """
    lengths = {}
    for name in names:
        try:
            lengths[name] = len(table[name])
        except TypeError as error:
            raise _no_column(name, table[name]) from error
    if len(set(lengths.values())) > 1:
        raise TableError(f"Expected columns of one length, got {lengths}. Cut or fill those that differ.")
    return next(iter(lengths.values()), 0)


def check_names(there: list[str], asked: Iterable[str | None]) -> None:
    """Raise TableError, with the nearest name, if one of `asked` is not `there`."""
    for name in asked:
        if name is not None and name not in there:
            near = difflib.get_close_matches(name, there, n=1)
            hint = f"Did you mean {near[0]!r}?" if near else "Check its name."
            raise TableError(f"Expected a column {name!r}, got {there}. {hint}")


def check_texts(names: Iterable[str]) -> None:
    """Raise TableError for a name that a reference file could not hold."""
    for name in names:
        if not 1 <= len(name) <= LONGEST_NAME or name != name.encode("utf-8", "ignore").decode():
            raise TableError(
                f"Expected a column's name to be valid text of 1 to {LONGEST_NAME} characters, got {name!r:.80}. "
                "Rename it."
            )


def order_of(table: Any, name: str, rows: int) -> npt.NDArray[np.intp]:
    """Row numbers in the order of the column `name`: numbers, times or text, one for each row.

    Raises
    ------
    TableError
        The column has another length, or its values cannot be put in order.
    """
    raw = table[name]
    try:
        times = np.asarray(raw.to_numpy() if hasattr(raw, "to_numpy") else raw)
        if times.shape == (rows,):
            return np.argsort(times, kind="stable")
        problem = f"shape {times.shape}"
    except (TypeError, ValueError) as error:
        problem = f"values that have no order ({error!s:.100})"
    raise TableError(
        f"Expected {rows} times, numbers or texts in column {name!r}, to order the rows by, got {problem}. "
        "Fill what is missing, or leave `time=` out if the rows are in order."
    )


def _dtype_of(raw: Any) -> str:
    """Name of a column's type, in small letters; "" for lists. Of arrow's `float` it means 32 bits."""
    return str(getattr(raw, "dtype", getattr(raw, "type", ""))).lower()


def _as_array(raw: Any) -> npt.NDArray[Any] | None:
    """The column as an array if it has one; None for what is better read value by value."""
    dtype = _dtype_of(raw)
    if isinstance(raw, np.ma.MaskedArray):
        return raw.filled(np.nan) if raw.dtype.kind == "f" else None
    if isinstance(raw, np.ndarray):
        return raw
    if dtype.startswith(("bool", "string", "object", "str", "large_string")):
        return None
    if dtype.startswith(("float", "int", "uint", "double", "halffloat", "decimal")):
        return _numbers_of(raw)
    if dtype:
        return np.asarray(raw)
    return None


def _numbers_of(raw: Any) -> npt.NDArray[Any] | None:
    # As it is, if it can be: a column of whole numbers stays one. Else with what pandas and pyarrow need for gaps.
    for arguments in ({}, {"zero_copy_only": False}, {"dtype": np.float64, "na_value": np.nan}):
        try:
            array = np.asarray(raw.to_numpy(**arguments)) if hasattr(raw, "to_numpy") else np.asarray(raw)
        except (TypeError, ValueError):
            continue
        if array.dtype.kind in "fiu":
            return array.astype(np.float32) if _dtype_of(raw) in {"float32", "float"} else array
    return None


def _as_list(raw: Any, name: str) -> list[Any]:
    for method in ("to_pylist", "to_list", "tolist"):
        if hasattr(raw, method):
            return list(getattr(raw, method)())
    if isinstance(raw, Sequence) and not isinstance(raw, str | bytes):
        return list(raw)
    raise _no_column(name, raw)


def _from_objects(values: npt.NDArray[Any] | list[Any], name: str) -> Column:
    numbers = True
    for value in values:
        if isinstance(value, _NESTED):
            raise TableError(
                f"Expected one value a row in column {name!r}, got a {type(value).__name__} ({value!r:.60}). "
                "Split it in columns, or leave it out with `features=`."
            )
        if value is None or (isinstance(value, _NUMBERS) and not isinstance(value, bool)):
            continue
        numbers = numbers and type(value).__name__ in {"NAType", "Decimal"}
        if hasattr(value, "isoformat") or hasattr(value, "total_seconds"):
            raise _unusable(name, type(value).__name__)
    if not numbers:
        return Column(values, "categorical", "")
    whole = all(isinstance(value, int | np.integer) for value in values)
    return Column(values, "numeric", "int64" if whole and len(values) else "float64")


def _no_column(name: str, raw: Any) -> TableError:
    return TableError(f"Expected column {name!r} to be an array or a list, got {type(raw).__name__}. Convert it.")


def _unusable(name: str, dtype: str) -> TableError:
    return TableError(
        f"Expected numbers, text, booleans or categories in column {name!r}, got {dtype}. "
        "Derive a number from it (an hour, an age), or leave it out with `features=`."
    )
