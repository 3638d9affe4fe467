"""Sliding windows of counts: the rows of the last hour in slots, or exactly the last N rows. Old ones leave.

A window never keeps a value, only how often each cell was hit. Time is an argument.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from ._types import Counts, Floats
from .cells import Indices
from .layout import Layout


class Content(NamedTuple):
    """What a window holds: counts (int64, flat, copied), rows, and the age of the oldest one (None without rows)."""

    counts: Counts
    rows: int
    seconds: float | None


class Window(Protocol):
    """What both kinds of window can do."""

    def add(self, indices: Sequence[Indices], times: Floats) -> tuple[Counts, int]:
        """Count rows: per feature the flat cells, per row its time. Returns their counts, and how many were late."""

    def content(self, now: float) -> Content:
        """What is in the window at `now`; at -inf, as long as no row has told the time."""


class _Slot:
    """Counts of one span of time."""

    __slots__ = ("counts", "first", "rows")

    def __init__(self, size: int) -> None:
        self.counts: npt.NDArray[np.uint32] = np.zeros(size, dtype=np.uint32)
        self.rows = 0
        self.first = np.inf

    def add(self, counts: npt.NDArray[np.integer], rows: int, first: float) -> None:
        self.counts += counts.astype(np.uint32, copy=False)
        self.rows += rows
        self.first = min(self.first, first)


class TimeWindow:
    """The last `seconds` in slots, widened by slots of that length to at most `max_seconds` until `min_rows` are there.

    Parameters
    ----------
    layout
        Of the features.
    seconds, slots
        Length of the window, and in how many parts it moves on.
    max_seconds
        How far it may widen.
    min_rows
        Rows that it widens for.

    Notes
    -----
    Memory: 4 bytes for each cell of a slot that has rows. A wide slot goes as soon as what is newer than its whole span
    holds `min_rows`, since no window will ever reach it again.

    Threads: one at a time; the caller holds a lock. Processes: each has its own.
    """

    def __init__(self, layout: Layout, *, seconds: float, slots: int, max_seconds: float, min_rows: int) -> None:
        self._layout = layout
        self._length = seconds / slots
        self._slots = slots
        self._wide = max(int(max_seconds // seconds) - 1, 0)  # wide slots beside the window itself
        self._min_rows = min_rows
        self._fine: dict[int, _Slot] = {}
        self._coarse: dict[int, _Slot] = {}
        self._end = -(2**63)  # number of the newest slot

    def add(self, indices: Sequence[Indices], times: Floats) -> tuple[Counts, int]:
        """Count rows in the slots of their times. Those older than the window is when they come are late: only told."""
        numbers = np.floor(times / self._length).astype(np.int64)
        # Row by row: how many are late must not depend on how many happened to wait for the same fold.
        ends = np.maximum.accumulate(np.maximum(numbers, self._end))
        late = numbers <= ends - self._slots
        counts = np.zeros(self._layout.size, dtype=np.int64)
        for number in np.unique(numbers[~late]).tolist():
            self._advance(number)
            own = (numbers == number) & ~late
            rows = int(own.sum())
            part = indices if rows == len(times) else [index[own] for index in indices]
            tally = self._layout.tally(part)
            counts += tally
            self._slot(number).add(tally, rows, float(times[own].min()))
        return counts, int(late.sum())

    def count(self, counts: Counts, rows: int, time: float) -> None:
        """Count rows that came at one time, the latest so far, from their counts (read only)."""
        number = int(time // self._length)
        self._advance(number)
        self._slot(number).add(counts, rows, time)

    def _slot(self, number: int) -> _Slot:
        slot = self._fine.get(number)
        if slot is None:
            slot = self._fine[number] = _Slot(self._layout.size)
        return slot

    def content(self, now: float) -> Content:
        """The sum of the slots that the window reaches at `now`."""
        if now > -np.inf:
            self._advance(int(now // self._length))
        counts = np.zeros(self._layout.size, dtype=np.int64)
        rows, first = 0, np.inf
        for slot in self._fine.values():
            counts += slot.counts
            rows, first = rows + slot.rows, min(first, slot.first)
        for number in sorted(self._coarse, reverse=True):
            if rows >= self._min_rows:
                break
            slot = self._coarse[number]
            counts += slot.counts
            rows, first = rows + slot.rows, min(first, slot.first)
        return Content(counts, rows, max(now - first, 0.0) if rows else None)

    def _advance(self, newest: int) -> None:
        """Let slots leave: from the window to the wide ones, from there for good."""
        if newest <= self._end:
            return
        self._end = newest
        for number in [n for n in self._fine if n <= newest - self._slots]:
            slot = self._fine.pop(number)
            if self._wide:
                wide = self._coarse.get(number // self._slots)
                if wide is None:
                    self._coarse[number // self._slots] = slot
                else:
                    wide.add(slot.counts, slot.rows, slot.first)
        filling = (newest - self._slots) // self._slots  # the wide slot that rows of the window will still join
        rows = sum(slot.rows for number, slot in self._fine.items() if number // self._slots > filling)
        for number in sorted(self._coarse, reverse=True):
            if number <= filling - self._wide or rows >= self._min_rows:
                del self._coarse[number]
            else:
                rows += self._coarse[number].rows


class RowsWindow:
    """Exactly the last `rows` rows, none older than `max_age` seconds.

    Notes
    -----
    Memory: 4 bytes for each feature of a row, and 8 for each cell.

    Threads: one at a time; the caller holds a lock. Processes: each has its own.
    """

    def __init__(self, layout: Layout, *, rows: int, max_age: float) -> None:
        self._layout = layout
        self._max_age = max_age
        self._cells = np.zeros((rows, len(layout.cells)), dtype=np.uint32)
        self._times = np.zeros(rows)
        self._counts: Counts = np.zeros(layout.size, dtype=np.int64)
        self._next = 0
        self._rows = 0

    def add(self, indices: Sequence[Indices], times: Floats) -> tuple[Counts, int]:
        """Count rows, in their order; as many of the oldest leave as there is no room for. None is ever late."""
        size = len(self._times)
        tally = self._layout.tally(indices)
        table = np.stack(indices, axis=1)[-size:]
        added = len(table)
        self._leave(max(self._rows + added - size, 0))
        at = (self._next + np.arange(added)) % size
        self._cells[at] = table
        self._times[at] = times[-size:]
        self._counts += tally if added == len(times) else np.bincount(table.ravel(), minlength=self._layout.size)
        self._next = (self._next + added) % size
        self._rows += added
        return tally, 0

    def content(self, now: float) -> Content:
        """The counts of the rows that are not too old at `now`."""
        oldest = (self._next - self._rows + np.arange(self._rows)) % len(self._times)
        self._leave(int((self._times[oldest] < now - self._max_age).sum()))
        first = self._times[(self._next - self._rows) % len(self._times)]
        return Content(self._counts.copy(), self._rows, max(now - float(first), 0.0) if self._rows else None)

    def _leave(self, rows: int) -> None:
        at = (self._next - self._rows + np.arange(rows)) % len(self._times)
        self._counts -= np.bincount(self._cells[at].ravel(), minlength=self._layout.size)
        self._rows -= rows
