"""The integers that requests write: one flat store of cells, found by metric and label values.

A writer asks once for the place of its cell and then writes `series.values[place] += 1`: no lock, no call, no label on
the request's way. What costs more, such as finding buckets, it puts off: it keeps the numbers, adds a settler, and
counts them at one go (`observe_all`) when it is called, which every scrape does first. A scrape copies all cells at one
go. Metrics are only names here; what they mean stands in `metrics/catalogue.py`.
"""

from __future__ import annotations

import logging
import os
import threading
import weakref
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Collection, Iterable, Iterator, MutableSequence
from math import inf
from typing import NamedTuple

import numpy as np

from ._types import Floats

_LOG = logging.getLogger("modelwatch")
OTHER = "_other"
_LONGEST = 200
_ALL: weakref.WeakSet[Series] = weakref.WeakSet()


Key = tuple[str, tuple[str, ...], tuple[float, ...] | None]
"""What a series is known by: metric, label values, and the bounds of a histogram."""


class Sample(NamedTuple):
    """One number of a metric that is read at the scrape. NaN says that nothing is known, and is left out.

    The label values are in the order of the catalogue.
    """

    metric: str
    labels: tuple[str, ...]
    value: float


class Cell(NamedTuple):
    """What a scrape reads: a metric's name, its label values, and one number, or buckets (not cumulated) and a sum."""

    metric: str
    labels: tuple[str, ...]
    bounds: tuple[float, ...] | None
    values: list[float]


class Series:
    """Cells of this process by metric and label values.

    Parameters
    ----------
    limit
        Label sets of one metric: what clients make of one cannot fold away another. Beyond it a new set becomes the
        set whose values are all `_other` (one more), and is counted in `overflows`.

    Attributes
    ----------
    values
        The cells. Writers add to them in place and must not keep a slice.
    overflows
        How often a place was asked for a label set that had to be folded away, by metric.
    settlers
        Called by `settle`, in this order: each counts what its owner has put off. They must not raise.

    Notes
    -----
    Threads: places may be asked for from any; each cell has one writing thread (CPython's `values[i] += 1` on a list
    is not interrupted either, so that a second one does no harm); settlers are called by one at a time. A signal
    handler or a finalizer may come in the middle of all this, in the same thread: what it asks for is refused, not
    waited for. Processes: each has its own; a forked child begins at zero.

    >>> series = Series()
    >>> place = series.counter("model_request_total", ("bike", "1", "success"))
    >>> series.values[place] += 1
    >>> [(cell.metric, cell.values) for cell in series.cells()]
    [('model_request_total', [1.0])]
    """

    def __init__(self, limit: int = 4096) -> None:
        self._limit = limit
        self._places: dict[tuple[str, tuple[str, ...]], tuple[int, tuple[float, ...] | None]] = {}
        self._sets: dict[str, int] = {}
        self._full: list[str] = []
        self._last_labels: dict[tuple[str, tuple[str, ...]], int] = {}
        self._keys: tuple[Key, ...] = ()
        self._size = 0  # of their cells
        self._end = 0  # of the cells of all places
        self.settlers: list[Callable[[], None]] = []
        self.values: MutableSequence[float] = []
        self.overflows: dict[str, int] = {}
        self.forked()
        _ALL.add(self)

    def forked(self) -> None:
        """Begin at zero with new locks: in this process, just forked, no other thread can hold one."""
        self._lock = threading.RLock()
        self._settling = threading.RLock()
        self._placing = self._at_it = False
        self.settle()  # what the parent has put off is the parent's
        self.values[:] = [0] * len(self.values)
        self.overflows.clear()

    def settle(self) -> None:
        """Let everybody count what was put off. When this returns it is in the cells."""
        with self._settling:
            if self._at_it:  # whom we have interrupted is about to do it
                return
            self._at_it = True
            try:
                for settle in self.settlers:
                    settle()
            finally:
                self._at_it = False

    def counter(self, metric: str, labels: tuple[str, ...] = (), most: int | None = None) -> int:
        """Place of a single number, made at 0 if it is new. `most`: values that the last label may take."""
        return self._place(metric, labels, None, most)

    def histogram(
        self, metric: str, labels: tuple[str, ...], bounds: tuple[float, ...], most: int | None = None
    ) -> int:
        """Place of the first of `len(bounds)` + 1 buckets, the last one open; the sum of the values follows them."""
        return self._place(metric, labels, bounds, most)

    def _place(self, metric: str, labels: tuple[str, ...], bounds: tuple[float, ...] | None, most: int | None) -> int:
        found = self._places.get((metric, labels))
        if found is not None:
            return found[0]
        labels = tuple(map(clean, labels))
        with self._lock:
            if self._placing:
                raise RuntimeError("a series was asked for in the middle of making one, by a signal or a finalizer")
            self._placing = True
            try:
                if (metric, labels) not in self._places and labels:
                    labels = self._admitted(metric, labels, most)
                if (metric, labels) not in self._places:
                    self._sets[metric] = self._sets.get(metric, 0) + 1
                    start, end = self._end, self._end + width(bounds)
                    # Whoever was broken off in here, by Ctrl-C or a fork, may have left cells that are nobody's.
                    self.values.extend([0] * (end - len(self.values)))
                    self._places[metric, labels] = (start, bounds)
                    self._end = end
                place = self._places[metric, labels][0]
            finally:
                self._placing = False
        self._warn()
        return place

    def _warn(self) -> None:
        """Say once that a metric has as many label sets as it may have."""
        while self._full:
            _LOG.warning(
                "modelwatch: %s has as many label sets as it may have; further ones are counted as %r, and in "
                "modelwatch_label_overflow_total.",
                self._full.pop(),
                OTHER,
            )

    def _admitted(self, metric: str, labels: tuple[str, ...], most: int | None) -> tuple[str, ...]:
        """A new label set, or what it is folded into. Nothing is kept of a set that is folded away."""
        siblings = (metric, labels[:-1])
        wanted = labels
        if most is not None and self._last_labels.get(siblings, 0) >= most:
            labels = (*labels[:-1], OTHER)
        if (metric, labels) not in self._places and self._sets.get(metric, 0) >= self._limit:
            labels = (OTHER,) * len(labels)
        if labels == wanted:
            self._last_labels[siblings] = self._last_labels.get(siblings, 0) + 1
        else:
            if metric not in self.overflows:
                self._full.append(metric)
            self.overflows[metric] = self.overflows.get(metric, 0) + 1
        return labels

    def taken(self) -> tuple[tuple[Key, ...], Floats]:
        """All series, settled, in the order in which they were made, and their cells, end to end; copied.

        The same series are the same tuple.
        """
        self.settle()
        with self._lock:
            if len(self._keys) != len(self._places):
                places = list(self._places.items())  # in one step: a signal handler may add one in the middle
                self._keys = tuple((metric, labels, bounds) for (metric, labels), (_, bounds) in places)
                self._size = sum(width(bounds) for _, _, bounds in self._keys)
            keys, size = self._keys, self._size
        return keys, np.array(self.values[:size], dtype=np.float64)

    def cells(self) -> Iterator[Cell]:
        """All cells, settled, in the order in which they were made. The values are copied."""
        keys, values = self.taken()
        return cells_of(keys, values.tolist())


def width(bounds: tuple[float, ...] | None) -> int:
    """How many cells a series of these bounds has."""
    return 1 if bounds is None else len(bounds) + 2


def cells_of(keys: Iterable[Key], values: list[float]) -> Iterator[Cell]:
    """The cells of series that lie end to end in `values`."""
    start = 0
    for metric, labels, bounds in keys:
        end = start + width(bounds)
        yield Cell(metric, labels, bounds, values[start:end])
        start = end


def observe(values: MutableSequence[float], place: int, bounds: tuple[float, ...], x: float) -> None:
    """Count `x` in the histogram at `place`.

    NaN is not counted, and an infinite `x` is not added to the sum: either would spoil the sum for good.

    >>> series = Series()
    >>> place = series.histogram("seconds", (), (0.1, 1.0))
    >>> observe(series.values, place, (0.1, 1.0), 0.5)
    >>> series.values
    [0, 1, 0, 0.5]
    """
    if x - x == 0:
        values[place + bisect_left(bounds, x)] += 1
        add(values, place + len(bounds) + 1, x)
    elif x in (inf, -inf):
        values[place + bisect_left(bounds, x)] += 1


def observe_all(
    values: MutableSequence[float], place: int, bounds: tuple[float, ...], numbers: Collection[float]
) -> None:
    """Count many numbers in the histogram at `place`, as `observe` does each of them.

    To sort them and to look up each bound costs a tenth of looking up each number.

    >>> series = Series()
    >>> place = series.histogram("seconds", (), (0.1, 1.0))
    >>> observe_all(series.values, place, (0.1, 1.0), [0.5, 2.0, 0.75])
    >>> series.values
    [0, 2, 1, 3.25]
    """
    total = sum(numbers)
    if len(numbers) < 4 or total - total != 0:  # too few; or NaN, which cannot be sorted, or something infinite
        for x in numbers:
            observe(values, place, bounds, x)
        return
    ordered = sorted(numbers)
    below, count = 0, len(ordered)
    for i, bound in enumerate(bounds):
        if below == count:
            break
        upto = bisect_right(ordered, bound, below)
        if upto > below:
            values[place + i] += upto - below
            below = upto
    if below < count:
        values[place + len(bounds)] += count - below
    add(values, place + len(bounds) + 1, total)


def add(values: MutableSequence[float], place: int, x: float) -> None:
    """Add to a sum, unless that would make it infinite for good."""
    total = values[place] + x
    if total - total == 0:
        values[place] = total


def clean(text: str) -> str:
    """Text fit for a label: short, valid UTF-8, on one line.

    >>> clean("a" * 300)[-3:], clean("bad" + chr(0xD800) + chr(10))
    ('aa…', 'bad??')
    """
    if text.isascii() and text.isprintable() and len(text) <= _LONGEST:
        return text
    if len(text) > _LONGEST:
        text = text[: _LONGEST - 1] + "…"
    return "".join(c if c.isprintable() else "?" for c in text)


def _forked() -> None:
    for series in list(_ALL):
        series.forked()


os.register_at_fork(after_in_child=_forked)
