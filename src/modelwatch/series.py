"""The integers that requests write: one flat store of cells, found by metric and label values.

A writer asks once for the place of its cell and then writes `series.values[place] += 1`: no lock, no call, no label on
the request's way. What costs more, such as finding buckets, it puts off: it keeps the numbers, adds a settler, and
counts them at one go (`observe_all`) when it is called, which every scrape does first. A scrape copies all cells at one
go. Metrics are only names here; what they mean stands in `metrics/catalogue.py`.
"""

from __future__ import annotations

import os
import threading
import weakref
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Collection, Iterator, MutableSequence
from math import inf
from typing import NamedTuple

OTHER = "_other"
_LONGEST = 200
_ALL: weakref.WeakSet[Series] = weakref.WeakSet()


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
    is not interrupted either, so that a second one does no harm); settlers are called by one at a time. Processes: each
    has its own.

    >>> series = Series()
    >>> place = series.counter("model_request_total", ("bike", "1", "success"))
    >>> series.values[place] += 1
    >>> [(cell.metric, cell.values) for cell in series.cells()]
    [('model_request_total', [1])]
    """

    def __init__(self, limit: int = 4096) -> None:
        self._limit = limit
        self.settlers: list[Callable[[], None]] = []
        self.forked()
        _ALL.add(self)
        self._places: dict[tuple[str, tuple[str, ...]], tuple[int, tuple[float, ...] | None]] = {}
        self._sets: dict[str, int] = {}
        self._last_labels: dict[tuple[str, tuple[str, ...]], int] = {}
        self.values: MutableSequence[float] = []
        self.overflows: dict[str, int] = {}

    def forked(self) -> None:
        """Renew the locks: in this process, just forked, no other thread can hold one."""
        self._lock = threading.Lock()
        self._settling = threading.Lock()

    def settle(self) -> None:
        """Let everybody count what was put off. When this returns it is in the cells."""
        with self._settling:
            for settle in self.settlers:
                settle()

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
            if (metric, labels) not in self._places and labels:
                labels = self._admitted(metric, labels, most)
            if (metric, labels) not in self._places:
                self._sets[metric] = self._sets.get(metric, 0) + 1
                start = len(self.values)
                self.values.extend([0] * (1 if bounds is None else len(bounds) + 2))
                self._places[metric, labels] = (start, bounds)
            return self._places[metric, labels][0]

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
            self.overflows[metric] = self.overflows.get(metric, 0) + 1
        return labels

    def cells(self) -> Iterator[Cell]:
        """All cells, settled, in the order in which they were made. The values are copied."""
        self.settle()
        with self._lock:
            places = list(self._places.items())
        values = list(self.values)
        for (metric, labels), (start, bounds) in places:
            size = 1 if bounds is None else len(bounds) + 2
            yield Cell(metric, labels, bounds, values[start : start + size])


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
        values[place + len(bounds) + 1] += x
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
    values[place + len(bounds) + 1] += total


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
