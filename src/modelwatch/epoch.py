"""One reference and what is counted against it: window, totals, and which features ever came. Swapped as one object."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ._types import ABSENT, Counts, Flags, Floats
from .files import ReferenceProfile
from .reference import CONFIDENCE, PREDICTION
from .settings import Settings
from .shares import EpochShare
from .slots import State
from .window import Content, RowsWindow, TimeWindow, Window

Column = npt.NDArray[Any] | Sequence[Any]


class Epoch:
    """Counts rows against a reference, as long as that is in force.

    Parameters
    ----------
    profile
        The reference.
    settings
        Which window, how long.
    version
        Of the model whose rows are counted.
    carried
        Totals of an earlier epoch of the same cells and version, which these go on from; copied.

    Attributes
    ----------
    wanted
        What to take from a row: `profile.inputs`, and with event time its time.
    totals
        Counts of all rows: int64, flat. Only grows.
    seen
        Which features any row brought, shape (features,).

    Notes
    -----
    Threads: one at a time; the caller holds a lock. Processes: each has its own.
    """

    def __init__(
        self, profile: ReferenceProfile, settings: Settings, version: str = "", carried: Counts | None = None
    ) -> None:
        self.profile = profile
        self.version = version
        self.key = (version, profile.hash)
        timed = settings.event_time and profile.time is not None and profile.time not in profile.inputs
        self.wanted = (*profile.inputs, profile.time) if timed and profile.time else profile.inputs
        self.min_rows = settings.min_rows
        self._settings = settings
        self._arrival = not settings.event_time
        self._bins = sum(len(cells.bins) for cells in profile.layout.cells)
        self._carried: Counts = np.zeros(profile.layout.size, dtype=np.int64) if carried is None else carried.copy()
        self._begin()

    def _begin(self) -> None:
        layout, settings = self.profile.layout, self._settings
        self.window: Window
        if settings.window_rows is not None:
            self.window = RowsWindow(layout, rows=settings.window_rows, max_age=settings.max_age_seconds)
        else:
            self.window = TimeWindow(
                layout,
                seconds=settings.window_seconds,
                slots=settings.window_slots,
                max_seconds=max(settings.max_window_seconds, settings.window_seconds),
                min_rows=settings.min_rows,
                times="event" if settings.event_time else "arrival",
            )
        self.totals: Counts = self._carried.copy()
        self.rows = 0
        self.seen: Flags = np.zeros(len(self.profile.names), dtype=bool)

    def forked(self) -> None:
        """Count from zero, in a process that has just been forked: what is counted is the parent's."""
        self._carried[:] = 0
        self._begin()

    def add(
        self, columns: Sequence[Column], predictions: Column | None, confidences: Column | None, times: Floats
    ) -> int:
        """Count rows: a column for each of `profile.inputs`, and per row its time. Returns how many came too late."""
        special = {PREDICTION: predictions, CONFIDENCE: confidences}
        inputs = iter(columns)
        found = [special[name] if name in special else next(inputs) for name in self.profile.names]
        for i in np.flatnonzero(~self.seen).tolist():
            column = found[i]
            if column is not None:
                self.seen[i] = isinstance(column, np.ndarray) or any(value is not ABSENT for value in column)
        layout, size, late = self.profile.layout, len(times), 0
        if isinstance(self.window, TimeWindow) and self._arrival:
            # All have one time, so nobody needs to know which row was in which cell.
            counts = layout.tally_columns(found)
            counts[layout.missing[[column is None for column in found]]] = size
            self.window.count(counts, size, float(times[0]))
        else:
            cells = zip(layout.index(found), layout.missing.tolist(), strict=True)
            counts, late = self.window.add(
                [np.full(size, missing) if index is None else index for index, missing in cells], times
            )
        self.totals += counts
        self.rows += size - late
        return late

    def violations(self) -> dict[tuple[str, str], int]:
        """Values of this epoch's rows that break the profile, by (feature, reason)."""
        found = self.profile.layout.violations(self.totals - self._carried)
        names = self.profile.names
        return {(names[i], reason): rows for (i, reason), rows in found.items()}

    def share(self, now: float | None = None) -> EpochShare:
        """What this worker has counted; with the window as it is at `now`, if that is given. It is not copied."""
        layout = self.profile.layout
        return EpochShare(
            self.version,
            self.profile.hash,
            self.rows,
            self.seen.copy(),
            layout.binned(self.totals),
            layout.missing_rows(self.totals),
            None if now is None else self.window.state(now),
        )

    def fits(self, share: EpochShare) -> bool:
        """Whether a share counts against the same reference and version."""
        sizes, features = (len(share.seen), len(share.binned), len(share.missing)), len(self.profile.names)
        return (share.version, share.hash) == self.key and sizes == (features, self._bins, features)

    def content(self, now: float, others: Iterable[EpochShare] = ()) -> Content:
        """What is in the window at `now`, with what other workers have counted."""
        return self.window.content(now, self.windows(others))

    def windows(self, shares: Iterable[EpochShare]) -> list[State]:
        """The windows of shares that can be added to this one: settings may have changed while the service lives."""
        found = [share.window for share in shares if share.window is not None]
        return [window for window in found if window.shape == self.window.shape]
