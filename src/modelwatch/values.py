"""Values as they come, any objects at all: as numbers, as the texts of categories, or as missing. Nothing raises."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Sequence
from numbers import Number
from typing import Any

import numpy as np
import numpy.typing as npt

from ._types import ABSENT, Floats

RARE, OTHER = "_rare", "_other"
"""Names of the bins of known categories with too few rows, and of those never seen."""
_RESERVED = {RARE, OTHER, "_missing"}  # names of bins that a category may not take
_LONGEST_NAME = 200
_NO_NUMBERS = (str, bytes, bytearray, complex, np.complexfloating, np.datetime64)
_PLAIN = {float, int, bool, type(None), np.float64, np.float32, np.int64, np.int32, np.bool_}


def category(value: Any) -> str | None:
    """The one text of a category; None if the value is missing or no category.

    >>> category(True), category(3.0), category("a"), category([1])
    ('true', '3', 'a', None)
    """
    try:
        text = _text(value)
    except Exception:  # noqa: BLE001 - a user's object may raise anything, and 10**5000 has too many digits
        return None
    if text is None:
        return None
    if text in _RESERVED:  # no two bins may have one name
        return repr(text)
    shown = text if text.isprintable() else text.encode("unicode_escape").decode()
    if len(shown) > _LONGEST_NAME:  # two long ones must not become one
        mark = hidden(text)
        shown = shown[: _LONGEST_NAME - len(mark)] + mark
    return shown


def _text(value: Any) -> str | None:
    """The text of a category, however long; None if the value is missing or no category. May raise."""
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, bool | np.bool_):
        return "true" if value else "false"
    if isinstance(value, bytes):  # numpy's arrays of text may hold them
        return value.decode("utf-8", "backslashreplace")
    if is_missing(value) or isinstance(value, dict | list | tuple | set | np.ndarray) or callable(value):
        return None
    plain = float(value) if isinstance(value, np.floating) else value  # numpy's own warn of what is infinite
    whole = isinstance(plain, Number) and plain == plain // 1  # type: ignore[operator]
    return str(int(value)) if whole else str(value)


_SPELLINGS = {
    "true": ("1", "True"), "false": ("0", "False"), "1": ("true", "True"), "0": ("false", "False"),
    "True": ("true", "1"), "False": ("false", "0"),
}  # fmt: skip


def spellings(text: str) -> tuple[str, ...]:
    """Other texts that may stand for the same category: a flag is 0 or 1 in a table, and a bool in a request.

    >>> spellings("true"), spellings("a")
    (('1', 'True'), ())
    """
    return _SPELLINGS.get(text, ())


def hidden(text: str) -> str:
    """What stands for a category whose name must not be told: "#" and 16 hex digits of its SHA-256.

    >>> hidden("a")
    '#ca978112ca1bbdca'
    """
    return "#" + hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def is_missing(value: Any) -> bool:
    """Whether it is None, absent, or not equal to itself, as NaN, NaT and NA are."""
    if value is None or value is ABSENT:
        return True
    try:
        return bool(value != value)  # noqa: PLR0124 - NaN and NaT differ from themselves
    except Exception:  # noqa: BLE001 - pandas.NA will not say; of an array nobody can
        return type(value).__name__ == "NAType"


def numbers_of(column: npt.NDArray[Any] | Sequence[Any]) -> tuple[Floats, npt.NDArray[np.bool_] | None]:
    """Every value as a number, NaN where it is missing; and which ones are no numbers, None for none. Never raises.

    The numbers are the column itself if it is an array of them.
    """
    if not isinstance(column, np.ndarray):
        try:
            # It refuses None and text, as np.array does not, and is quicker than looking at every type first.
            return np.frombuffer(array("d", column)) if len(column) else np.empty(0), None
        except Exception:  # noqa: BLE001 - a user's object may raise anything
            if not _PLAIN.issuperset(map(type, column)):
                return _one_by_one(column)
        try:
            return np.array(column, dtype=np.float64), None
        except OverflowError:
            return _one_by_one(column)
    if isinstance(column, np.ndarray) and column.dtype.kind in "fiub" and column.dtype.itemsize <= 8:
        return column.astype(np.float64, copy=False), None
    return _one_by_one(column)


def _one_by_one(column: npt.NDArray[Any] | Sequence[Any]) -> tuple[Floats, npt.NDArray[np.bool_]]:
    numbers = np.full(len(column), np.nan)
    wrong = np.zeros(len(column), dtype=bool)
    for row, value in enumerate(column):
        try:
            number = _number(value)
        except Exception:  # noqa: BLE001 - a user's object may raise anything
            number = None
        if number is None:
            wrong[row] = True
        else:
            numbers[row] = number
    return numbers, wrong


def _number(value: Any) -> float | None:
    """As a float, NaN if missing, None if it is no number. May raise."""
    if is_missing(value):
        return np.nan
    if isinstance(value, _NO_NUMBERS) or (isinstance(value, np.ndarray) and value.ndim):
        return None
    to_float: Callable[[], float] | None = getattr(value, "__float__", None)
    return None if to_float is None else float(to_float())
