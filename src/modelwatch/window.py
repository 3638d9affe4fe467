"""Sliding windows of counts: the rows of the last hour in slots, or exactly the last N rows. Old ones leave.

A window never keeps a value, only how often each cell was hit. Time is an argument. What several workers have counted
is one window: `content` takes what the others hold beside its own, and whoever is asked gives the same answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from ._types import Counts, Floats
from .cells import Indices
from .exceptions import SegmentError
from .layout import Layout
from .slots import RowsState, Slot, State, TimeState


class Content(NamedTuple):
    """What a window holds: counts (int64, flat, copied), rows, and the age of the oldest one (None without rows)."""

    counts: Counts
    rows: int
    seconds: float | None


class Window(Protocol):
    """What both kinds of window can do. The states of others that it is given are of its `shape`."""

    shape: str

    def add(self, indices: Sequence[Indices], times: Floats) -> tuple[Counts, int]:
        """Count rows: per feature the flat cells, per row its time. Returns their counts, and how many were late."""

    def content(self, now: float, others: Iterable[State] = ()) -> Content:
        """What is in the window at `now`; at -inf, as long as no row has told the time."""

    def state(self, now: float) -> State:
        """What it holds at `now`. Not copied: neither may change before the other is read."""

    def together(self, states: Iterable[State]) -> State:
        """What several windows hold, as if one had counted it all; new."""


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
    times
        Whose clock: numbers of slots of different ones mean different times.

    Notes
    -----
    Memory: 4 bytes for each cell of a slot that has rows. A wide slot goes as soon as what is newer than its whole span
    holds `min_rows`, since no window will ever reach it again.

    Threads: one at a time; the caller holds a lock. Processes: each has its own.
    """

    def __init__(
        self, layout: Layout, *, seconds: float, slots: int, max_seconds: float, min_rows: int, times: str = "arrival"
    ) -> None:
        self.shape = f"{times} {seconds!r} {slots}"
        self._layout = layout
        self._length = seconds / slots
        self._slots = slots
        self._wide = max(int(max_seconds // seconds) - 1, 0)  # wide slots beside the window itself
        self._min_rows = min_rows
        self._own = TimeState(self.shape, -(2**63), {}, {})

    def add(self, indices: Sequence[Indices], times: Floats) -> tuple[Counts, int]:
        """Count rows in the slots of their times. Those older than the window is when they come are late: only told."""
        numbers = np.floor(times / self._length).astype(np.int64)
        # Row by row: how many are late must not depend on how many happened to wait for the same fold.
        ends = np.maximum.accumulate(np.maximum(numbers, self._own.end))
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

    def _slot(self, number: int) -> Slot:
        slot = self._own.fine.get(number)
        if slot is None:
            slot = self._own.fine[number] = Slot(self._layout.size)
        return slot

    def content(self, now: float, others: Iterable[State] = ()) -> Content:
        """The sum of the slots that the window reaches at `now`."""
        states = [self._own, *(state for state in others if isinstance(state, TimeState))]
        end = max(state.end for state in states)
        if now > -np.inf:
            end = max(end, int(now // self._length))
        self._advance(end)
        counts = np.zeros(self._layout.size, dtype=np.int64)
        rows, first = 0, np.inf
        for slot in self._within(states, end):
            if _added(counts, slot):
                rows, first = rows + slot.rows, min(first, slot.first)
        if rows < self._min_rows:
            before = self._before(states, end)
            for number in sorted(before, reverse=True):
                if rows >= self._min_rows:
                    break
                for slot in before[number]:
                    if _added(counts, slot):
                        rows, first = rows + slot.rows, min(first, slot.first)
        return Content(counts, rows, max(now - first, 0.0) if rows else None)

    def _within(self, states: Iterable[TimeState], end: int) -> Iterator[Slot]:
        """The slots of the window that ends with slot `end`; one for all where somebody has added them up."""
        for state in states:
            if state.whole is not None and state.end == end:
                yield state.whole
            else:
                yield from (slot for number, slot in state.fine.items() if number > end - self._slots)

    def _before(self, states: Iterable[TimeState], end: int) -> dict[int, list[Slot]]:
        """The slots before the window, by the number of the wide one that they are, or are going to be, part of."""
        found: dict[int, list[Slot]] = {}
        oldest = (end - self._slots) // self._slots - self._wide
        for state in states:
            left = [(n // self._slots, slot) for n, slot in state.fine.items() if n <= end - self._slots]
            for number, slot in [*state.coarse.items(), *left]:
                if number > oldest:
                    found.setdefault(number, []).append(slot)
        return found

    def state(self, now: float) -> TimeState:
        """What it holds at `now`, with the sum of the window's slots. Not copied."""
        own = self._own
        if now > -np.inf:
            self._advance(int(now // self._length))
        whole = Slot(self._layout.size)
        for slot in own.fine.values():
            whole.add(slot.counts, slot.rows, slot.first)
        return TimeState(self.shape, own.end, own.fine, own.coarse, whole)

    def together(self, states: Iterable[State]) -> TimeState:
        """What several windows hold, without what no window will reach again."""
        window = TimeWindow(
            self._layout,
            seconds=self._length * self._slots,
            slots=self._slots,
            max_seconds=self._length * self._slots * (self._wide + 1),
            min_rows=self._min_rows,
        )
        found = [state for state in states if isinstance(state, TimeState)]
        end = max((state.end for state in found), default=-(2**63))
        own = window._own
        own.end = end
        for state in found:
            for number, slot in state.fine.items():
                if number > end - self._slots:
                    self._take(own.fine, number, slot)
        for number, slots in self._before(found, end).items():
            for slot in slots:
                self._take(own.coarse, number, slot)
        window.shape = self.shape
        return window.state(-np.inf)

    def _take(self, slots: dict[int, Slot], number: int, slot: Slot) -> None:
        counts = np.zeros(self._layout.size, dtype=np.int64)
        if _added(counts, slot):
            slots.setdefault(number, Slot(self._layout.size)).add(counts, slot.rows, slot.first)

    def _advance(self, newest: int) -> None:
        """Let slots leave: from the window to the wide ones, from there for good."""
        own = self._own
        if newest <= own.end:
            return
        own.end = newest
        for number in [n for n in own.fine if n <= newest - self._slots]:
            slot = own.fine.pop(number)
            if self._wide:
                wide = own.coarse.get(number // self._slots)
                if wide is None:
                    own.coarse[number // self._slots] = slot
                else:
                    wide.add(slot.counts, slot.rows, slot.first)
        filling = (newest - self._slots) // self._slots  # the wide slot that rows of the window will still join
        rows = sum(slot.rows for number, slot in own.fine.items() if number // self._slots > filling)
        for number in sorted(own.coarse, reverse=True):
            if number <= filling - self._wide or rows >= self._min_rows:
                del own.coarse[number]
            else:
                rows += own.coarse[number].rows


def _added(counts: Counts, slot: Slot) -> bool:
    """Add a slot's counts; False if they are another worker's and cannot be read, which is counted where they are."""
    try:
        own = slot.counts
    except SegmentError:
        return False
    if own.shape != counts.shape:
        return False
    counts += own
    return True


class RowsWindow:
    """Exactly the last `rows` rows, none older than `max_age` seconds.

    Notes
    -----
    Memory: 4 bytes for each feature of a row, and 8 for each cell.

    Threads: one at a time; the caller holds a lock. Processes: each has its own.
    """

    def __init__(self, layout: Layout, *, rows: int, max_age: float) -> None:
        self.shape = f"rows {rows}"
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

    def content(self, now: float, others: Iterable[State] = ()) -> Content:
        """The counts of the rows that are not too old at `now`; with others, of the newest of all."""
        self._leave(int((self._times[self._order()] < now - self._max_age).sum()))
        found = [state for state in others if isinstance(state, RowsState)]
        if not found:
            first = self._times[(self._next - self._rows) % len(self._times)]
            return Content(self._counts.copy(), self._rows, max(now - float(first), 0.0) if self._rows else None)
        state = self.together([self.state(now), *found])
        young = state.times >= now - self._max_age
        rows = int(young.sum())
        counts = np.bincount(state.cells[young].ravel(), minlength=self._layout.size)
        return Content(counts, rows, max(now - float(np.min(state.times[young])), 0.0) if rows else None)

    def state(self, now: float) -> RowsState:
        """What it holds, in order; copied."""
        order = self._order()
        return RowsState(self.shape, self._times[order], self._cells[order])

    def together(self, states: Iterable[State]) -> RowsState:
        """The newest rows of several windows, in the order of their times."""
        found = [RowsState(self.shape, self._times[:0], self._cells[:0])]
        found += [state for state in states if isinstance(state, RowsState)]
        times = np.concatenate([state.times for state in found])
        newest = np.argsort(times, kind="stable")[-len(self._times) :]
        return RowsState(self.shape, times[newest], np.concatenate([state.cells for state in found])[newest])

    def _order(self) -> npt.NDArray[np.intp]:
        return (self._next - self._rows + np.arange(self._rows)) % len(self._times)

    def _leave(self, rows: int) -> None:
        at = (self._next - self._rows + np.arange(rows)) % len(self._times)
        self._counts -= np.bincount(self._cells[at].ravel(), minlength=self._layout.size)
        self._rows -= rows
