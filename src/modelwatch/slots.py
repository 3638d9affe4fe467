"""What windows are made of, and what one worker shows the others of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ._types import Floats

Cells = npt.NDArray[np.uint32]
"""Counts of cells, or numbers of cells."""


class Slot:
    """Counts of one span of time.

    Attributes
    ----------
    rows, first
        How many, and the time of the oldest.
    sealed
        The counts with their checksum, as they were last shared; None as soon as there are others.

    Notes
    -----
    Threads: one at a time. Processes: each has its own; one of another worker is read when its counts are asked for.
    """

    __slots__ = ("_counts", "_load", "first", "rows", "sealed")

    def __init__(
        self, size: int = 0, rows: int = 0, first: float = np.inf, load: Callable[[], Cells] | None = None
    ) -> None:
        self._load = load
        self._counts: Cells | None = np.zeros(size, dtype=np.uint32) if load is None else None
        self.rows = rows
        self.first = first
        self.sealed: tuple[bytes, int] | None = None

    @property
    def counts(self) -> Cells:
        """Shape (cells,); read only."""
        if self._counts is None and self._load is not None:
            self._counts, self._load = self._load(), None
        return np.empty(0, dtype=np.uint32) if self._counts is None else self._counts

    def add(self, counts: npt.NDArray[np.integer], rows: int, first: float) -> None:
        """Count more rows."""
        self.sealed = None
        own = self.counts
        if not own.flags.writeable:  # read from a file
            own = own.copy()
        own += counts.astype(np.uint32, copy=False)
        self._counts = own
        self.rows += rows
        self.first = min(self.first, first)


@dataclass
class TimeState:
    """What a time window holds, of one worker.

    Attributes
    ----------
    shape
        What kind of window it is: only those of the same one can be added.
    end
        Number of the newest slot.
    fine, coarse
        Slots by number: those of the window, and the wide ones before it.
    whole
        The sum of the fine slots, if somebody has added it up already.
    """

    shape: str
    end: int
    fine: dict[int, Slot]
    coarse: dict[int, Slot]
    whole: Slot | None = None


@dataclass
class RowsState:
    """What a window of rows holds, of one worker: the newest last.

    Attributes
    ----------
    shape
        As of a time window.
    times
        Of the rows, shape (rows,).
    cells
        Flat cell of each feature of each row, shape (rows, features).
    """

    shape: str
    times: Floats
    cells: Cells


State = TimeState | RowsState
