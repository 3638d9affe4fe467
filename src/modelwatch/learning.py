"""A reference from live traffic: the first rows, thinned so that they span the whole time, become what is normal."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence
from numbers import Number
from typing import Any

import numpy as np

from ._types import ABSENT
from .exceptions import TableError
from .files import ReferenceProfile
from .reference import CONFIDENCE, PREDICTION

_LOG = logging.getLogger("modelwatch")
_NEARLY_ALL = 0.9


class Learner:
    """Keeps rows until there are enough, over enough time.

    Parameters
    ----------
    rows
        How many to learn from; at most as many are kept.
    seconds
        Least time between the first and the last of them. If more rows come in that time, every second one kept so far
        is forgotten and from then on only every second one taken, and so on: what is kept spans it evenly.

    Notes
    -----
    Threads: one at a time; the caller holds a lock. Processes: one learns for all.
    """

    def __init__(self, rows: int, seconds: float) -> None:
        self._most = rows
        self._seconds = seconds
        self._names: tuple[str, ...] = ()
        self._kept: list[tuple[Any, ...]] = []
        self._stride = 1
        self._count = 0
        self._first: float | None = None
        self._last = 0.0

    def add(
        self,
        names: tuple[str, ...],
        columns: Sequence[Sequence[Any]],
        predictions: Iterable[Any],
        confidences: Iterable[Any],
        now: float,
    ) -> None:
        """Take rows, column by column. Rows of other features than the first ones are passed over."""
        self._names = self._names or names
        if not names or names != self._names:
            return
        if self._first is None:
            self._first = now
        self._last = now
        for row in zip(*columns, predictions, confidences, strict=True):
            if self._count % self._stride == 0:
                if len(self._kept) >= self._most and not self.ready:
                    self._kept = self._kept[::2]
                    self._stride *= 2
                if len(self._kept) < self._most:
                    self._kept.append(row)
            self._count += 1

    @property
    def ready(self) -> bool:
        """Whether there are enough rows, over enough time."""
        spanned = self._first is not None and self._last - self._first >= self._seconds
        return spanned and len(self._kept) >= self._most

    def fit(self) -> ReferenceProfile:
        """The reference of the rows kept. Columns that cannot be profiled are left out, and the log says why.

        Raises
        ------
        TableError
            No column can be profiled.
        """
        columns = dict(zip([*self._names, PREDICTION, CONFIDENCE], zip(*self._kept, strict=True), strict=True))
        table = {name: _cleaned(column) for name, column in columns.items()}
        for name in list(table):
            try:
                special = name in {PREDICTION, CONFIDENCE}
                ReferenceProfile.fit({"x" if special else name: table[name]})
            except TableError as error:
                if any(value is not None for value in table[name]):
                    _LOG.warning("modelwatch learns without column %r: %s", name, error)
                del table[name]
        prediction, confidence = (name if name in table else None for name in (PREDICTION, CONFIDENCE))
        return ReferenceProfile.fit(table, prediction=prediction, confidence=confidence)


def _cleaned(column: Sequence[Any]) -> list[Any]:
    """None for what is absent, and for odd values of another kind than nearly all: one bad row costs no feature."""
    values = [None if value is ABSENT else value for value in column]
    kinds = [_kind(value) for value in values]
    there = len(kinds) - kinds.count("missing")
    if kinds.count("number") >= _NEARLY_ALL * there:
        kept = {"number"}
    elif there - kinds.count("other") >= _NEARLY_ALL * there:
        kept = {"number", "text"}
    else:
        return values
    return [value if kind in kept else None for value, kind in zip(values, kinds, strict=True)]


def _kind(value: Any) -> str:
    if value is None:
        return "missing"
    if isinstance(value, str | bool | np.bool_):
        return "text"
    if isinstance(value, Number):
        try:
            return "number" if -math.inf <= float(value) <= math.inf else "missing"  # type: ignore[arg-type]
        except Exception:  # noqa: BLE001 - 10**400 is none, nor is what a user's own class refuses
            return "other"
    return "other"
