"""Where rows wait for the fold: an append on the request's way, everything else later and elsewhere."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from itertools import chain, groupby
from typing import Any, NamedTuple

from ._types import ABSENT
from .exceptions import RowsError

Values = Sequence[Any]


class Batch(NamedTuple):
    """Rows that came together. Either `rows` holds a tuple for each row, or `columns` a sequence for each feature.

    `names` are the features' names, in the order of the tuples or columns; the other fields have one item a row or are
    None. `ignored` rows are only counted.
    """

    size: int
    names: tuple[str, ...]
    rows: Sequence[tuple[Any, ...]] | None
    columns: Sequence[Values] | None
    predictions: Values | None
    confidences: Values | None
    timestamps: Values | None
    version: str
    ignored: bool


new_batch: Callable[[tuple[Any, ...]], Batch] = partial(tuple.__new__, Batch)
"""A Batch of its nine fields, in a third of the time that calling the class takes."""


class Buffer:
    """A bounded queue of batches.

    Parameters
    ----------
    limit
        Rows that may wait. A batch that would exceed it is dropped and counted.

    Attributes
    ----------
    added, taken, dropped
        Rows so far: put in, taken out, refused. `added - taken` wait.

    Notes
    -----
    Threads: any number append, and `deque` is safe for that; the counts are whole numbers that CPython adds to without
    interruption. One at a time takes. Processes: each has its own.

    >>> buffer = Buffer(limit=2)
    >>> buffer.append(Batch(1, ("a",), [(1.0,)], None, None, None, None, "1", False))
    True
    >>> buffer.append(Batch(2, ("a",), [(1.0,), (2.0,)], None, None, None, None, "1", False)), buffer.dropped
    (False, 2)
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._batches: deque[Batch] = deque()
        self.added = 0
        self.taken = 0
        self.dropped = 0

    @property
    def waiting(self) -> int:
        """Rows that wait for the fold."""
        return self.added - self.taken

    def append(self, batch: Batch) -> bool:
        """Put a batch in; False if there is no room: its rows are lost, and counted."""
        size = batch[0]
        if self.added - self.taken + size > self._limit:
            self.dropped += size
            return False
        self.added += size
        try:
            self._batches.append(batch)
        except BaseException:
            self.added -= size  # else its room would be taken for ever
            raise
        return True

    def take(self) -> list[Batch]:
        """Everything that waits, in order. What comes meanwhile waits for the next time."""
        batches: list[Batch] = []
        with suppress(IndexError):  # a signal handler or a finalizer has taken the rest
            batches.extend(self._batches.popleft() for _ in range(len(self._batches)))
        self.taken += sum(batch[0] for batch in batches)
        return batches


class Group(NamedTuple):
    """Batches of one kind laid together: a column for each of `names`, and one item a row in the others, or None."""

    size: int
    names: tuple[str, ...]
    columns: Sequence[Values]
    predictions: Values | None
    confidences: Values | None
    timestamps: Values | None
    version: str
    ignored: bool


def runs(batches: Sequence[Batch]) -> Iterator[Sequence[Batch]]:
    """Batches of rows that follow one another and have the same features, version and fate; of columns, one by one."""
    if _alike(batches):
        yield batches
        return
    for (*_, by_row), members in groupby(batches, key=_kind):
        if by_row:
            yield list(members)
        else:
            yield from ([batch] for batch in members)


def _alike(batches: Sequence[Batch]) -> bool:
    """Whether all are one run, as they nearly always are."""
    if not batches or batches[0].rows is None:
        return False
    kind = _kind(batches[0])
    names, version, ignored = kind[:3]
    return all(
        batch[1] is names and batch[7] == version and batch[8] is ignored and batch[2] is not None for batch in batches
    ) and all((batch[6] is None) is kind[3] for batch in batches)


def gather(run: Sequence[Batch]) -> Group:
    """Lay the batches of a run together.

    Raises
    ------
    RowsError
        Rows are of different widths, or the values of a batch are not one for each row.

    >>> batch = Batch(1, ("a",), [(1.0,)], None, [0], None, None, "1", False)
    >>> group = gather([batch, batch])
    >>> group.size, list(group.columns), group.predictions
    (2, [[1.0, 1.0]], [0, 0])
    """
    first = run[0]
    names = first.names
    if first.rows is None:
        columns: Sequence[Values] = first.columns or ()
        predictions, confidences, timestamps = first.predictions, first.confidences, first.timestamps
        return Group(first.size, names, columns, predictions, confidences, timestamps, first.version, first.ignored)
    rows = [row for batch in run for row in batch[2] or ()]
    columns = _columns(rows, len(names))
    predictions = _laid_together(run, 4)
    confidences = _laid_together(run, 5)
    timestamps = _laid_together(run, 6)
    for values in (predictions, confidences, timestamps):
        if values is not None and len(values) != len(rows):
            raise RowsError(f"Expected one value for each of {len(rows)} rows, got {len(values)}. Drop that batch.")
    return Group(len(rows), names, columns, predictions, confidences, timestamps, first.version, first.ignored)


def ordered(group: Group, names: tuple[str, ...]) -> list[Values]:
    """The group's columns in the order of `names`: rows may have been captured before a reload."""
    if group.names == names:
        return list(group.columns)
    there = dict(zip(group.names, group.columns, strict=True))
    return [there.get(name, [ABSENT] * group.size) for name in names]


def _columns(rows: list[tuple[Any, ...]], width: int) -> list[list[Any]]:
    if {width}.issuperset(map(len, rows)):
        flat = list(chain.from_iterable(rows))  # slices of it take a third of what zip(*rows) does
        return [flat[i::width] for i in range(width)]
    raise RowsError(f"Expected {width} values in every row, got {sorted(set(map(len, rows)))}. Drop that batch.")


def _kind(batch: Batch) -> tuple[tuple[str, ...], str, bool, bool, bool]:
    return batch.names, batch.version, batch.ignored, batch.timestamps is None, batch.rows is not None


def _laid_together(run: Sequence[Batch], field: int) -> list[Any] | None:
    parts: list[Any] = [batch[field] for batch in run]
    if all(values is None for values in parts):
        return None
    found: list[Any] = []
    for batch, values in zip(run, parts, strict=True):
        found.extend([ABSENT] * batch[0] if values is None else values)
    return found
