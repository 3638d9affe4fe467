"""Windows over rows in the order of time: which rows are in each, and what these count.

Unlike the windows of `window.py`, which live on, these lie over a table that is all there.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ._types import Counts, Floats
from .exceptions import TableError

MOST_WINDOWS = 100_000
PARTS = 7
"""A window moves on by so great a part of it, if nothing else is said: a week by days."""


class Spans(NamedTuple):
    """Windows over rows in the order of time, one entry each; `begins` and `ends` never fall.

    Attributes
    ----------
    begins, ends
        First row, and the one after the last: int64.
    at
        When it is looked at, in seconds since 1970.
    """

    begins: Counts
    ends: Counts
    at: Floats


def spans_of_time(times: Floats, seconds: float, step: float) -> Spans:
    """Windows of `seconds`, each `step` seconds after the one before.

    The first begins with the first row, the last holds the last one. A row at the very end of a window is not in it.

    Parameters
    ----------
    times
        Seconds since 1970, rising, at least one. Not modified.

    Raises
    ------
    TableError
        There would be more than `MOST_WINDOWS`.

    >>> spans_of_time(np.array([0.0, 1.0, 2.0, 3.0]), seconds=2.0, step=1.0)[:2]
    (array([0, 1, 2]), array([2, 3, 4]))
    """
    last = max((times[-1] - times[0] - seconds) // step + 1, 0)
    _check_number(times, last + 1)
    at = times[0] + seconds + step * np.arange(int(last) + 1)
    return Spans(times.searchsorted(at - seconds), times.searchsorted(at), at)


def spans_of_rows(times: Floats, rows: int, *, step_rows: int | None = None, step: float | None = None) -> Spans:
    """Windows of the last `rows` rows, each `step_rows` rows, or `step` seconds, after the one before.

    The first is the first whole one, the last ends with the last row. Where no row came in `step` seconds, there is no
    new window.

    Raises
    ------
    TableError
        There would be more than `MOST_WINDOWS`.

    >>> spans_of_rows(np.array([0.0, 1.0, 2.0, 3.0]), rows=2, step_rows=1)[:2]
    (array([0, 1, 2]), array([2, 3, 4]))
    """
    size = len(times)
    whole = min(rows, size)
    if step is None:
        by = step_rows or max(rows // PARTS, 1)
        _check_number(times, (size - whole) / by + 2)
        ends = np.append(np.arange(whole, size, by), size)
    else:
        _check_number(times, (times[-1] - times[whole - 1]) / step + 2)
        ticks = np.arange(times[whole - 1], times[-1], step)
        ends = np.unique(np.append(times.searchsorted(ticks, side="right"), size))
    return Spans(np.maximum(ends - rows, 0), ends, times[ends - 1])


def contents(cells: npt.NDArray[np.uint32], size: int, spans: Spans) -> Iterator[Counts]:
    """Counts of each window: int64, shape (size,); one vector, which the next turn changes.

    Each row is added once and taken off once, however many windows it is in.

    Parameters
    ----------
    cells
        Flat cell of each feature of each row: shape (rows, features). Not modified.
    size
        Number of cells.
    """
    counts = np.zeros(size, dtype=np.int64)
    begin = end = 0
    for next_begin, next_end in zip(spans.begins.tolist(), spans.ends.tolist(), strict=True):
        counts += np.bincount(cells[end:next_end].ravel(), minlength=size)
        counts -= np.bincount(cells[begin:next_begin].ravel(), minlength=size)
        begin, end = next_begin, next_end
        yield counts


def _check_number(times: Floats, number: float) -> None:
    if number > MOST_WINDOWS:
        raise TableError(
            f"Expected at most {MOST_WINDOWS} windows, got {number:.3g} between second {times[0]:.0f} and "
            f"{times[-1]:.0f} since 1970. Choose a longer step, or mend the times if the table is shorter."
        )
