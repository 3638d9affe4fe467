"""One reference and what is counted against it: window, totals, and which features ever came. Swapped as one object."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ._types import ABSENT, Counts, Flags, Floats
from .files import ReferenceProfile
from .reference import CONFIDENCE, PREDICTION
from .settings import Settings
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
        timed = settings.event_time and profile.time is not None and profile.time not in profile.inputs
        self.wanted = (*profile.inputs, profile.time) if timed and profile.time else profile.inputs
        layout = profile.layout
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
            )
        self._carried: Counts = np.zeros(layout.size, dtype=np.int64) if carried is None else carried.copy()
        self.totals: Counts = self._carried.copy()
        self.rows = 0
        self.seen: Flags = np.zeros(len(profile.names), dtype=bool)
        self._min_rows = settings.min_rows
        self._arrival = not settings.event_time

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
        return {(self.profile.names[i], reason): rows for (i, reason), rows in found.items()}

    @property
    def captured(self) -> Flags:
        """False for a feature that none of the first `min_rows` rows brought, shape (features,)."""
        return self.seen | (self.rows < self._min_rows)

    def content(self, now: float) -> Content:
        """What is in the window at `now`."""
        return self.window.content(now)
