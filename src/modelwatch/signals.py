"""Means of what the model returns, tick by tick, under Page-Hinkley: the stream that needs no labels."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ._types import Floats
from .detectors import PageHinkley

_PATIENCE_TICKS = 5
_FARTHEST = 1e6  # standard deviations: one wild value must not drown the sum of all that follow


class Signal:
    """One stream of numbers, watched as its mean since the last tick, in standard errors from the reference's mean.

    Sums are those of the whole stream so far, so that those of several workers can be added; the detector sees what
    they have grown by.

    Parameters
    ----------
    name
        "prediction" or "confidence".
    mean, sd
        Of the reference; `sd` > 0.

    Attributes
    ----------
    rows, total
        Rows that this worker has seen, and the sum of their distances from the reference's mean.

    Notes
    -----
    Threads: one at a time; the caller holds a lock. Processes: each adds up its own rows; one sees the sums of all.

    >>> signal = Signal("confidence", mean=0.8, sd=0.1)
    >>> signal.add(np.array([0.7, 0.9, float("nan")]))
    >>> signal.tick()
    False
    """

    def __init__(self, name: str, mean: float, sd: float) -> None:
        self.name = name
        self.detector = PageHinkley.standardised()
        self.last_alarm: float | None = None
        self.rows, self.total = 0, 0.0
        self._mean, self._sd = mean, sd
        self._lower = 0  # ticks in which the sums were lower than that
        self._taken: tuple[int, float] | None = None  # how far the detector has come; None: it has seen nothing

    def go_on(self, before: Signal) -> None:
        """Count alarms from where an earlier stream of the same labels stopped: a counter never falls."""
        self.detector.alarms, self.last_alarm = before.detector.alarms, before.last_alarm

    def add(self, values: Floats) -> None:
        """Take the values of some rows, shape (rows,); what is not finite, or absurdly far, is left out."""
        with np.errstate(over="ignore", invalid="ignore"):
            distances = values - self._mean
            near = distances[np.abs(distances) <= _FARTHEST * self._sd]  # NaN is not
        self.total += float(near.sum())
        self.rows += near.size

    def tick(self, rows: int = 0, total: float = 0.0) -> bool:
        """Hand the mean since the last tick to the detector; True if it alarms. Without rows nothing happens.

        Parameters
        ----------
        rows, total
            Those of all other workers together.
        """
        # What others had counted before this stream began is not new.
        before = (rows, total) if self._taken is None else self._taken
        now = (rows + self.rows, total + self.total)
        new, distance = now[0] - before[0], now[1] - before[1]
        if new < 0:  # others have begun anew, or cannot be read for a while
            self._lower += 1
            if self._lower < _PATIENCE_TICKS:
                return False
        self._taken, self._lower = now, 0
        if new <= 0:
            return False
        self.detector.update(distance / math.sqrt(new) / self._sd)
        return self.detector.drift_detected

    def forked(self) -> None:
        """Begin anew in a child: what was seen is the parent's."""
        self.detector = PageHinkley.standardised()
        self.last_alarm = None
        self.rows, self.total, self._taken = 0, 0.0, None

    def to_state(self) -> dict[str, Any]:
        """Where the detector stands in the stream of all workers, as JSON takes it."""
        return {
            "detector": self.detector.to_state(),
            "taken": None if self._taken is None else list(self._taken),
            "last_alarm": self.last_alarm,
        }

    def adopt(self, state: Mapping[str, Any]) -> None:
        """Stand where the detector of another worker stood.

        Raises
        ------
        ConfigurationError, LookupError, OverflowError, TypeError, ValueError
            It is not what `to_state` returned; nothing has changed.
        """
        detector = PageHinkley.from_state(state["detector"])
        taken, last_alarm = state["taken"], state["last_alarm"]
        if taken is not None:
            taken = int(taken[0]), float(taken[1])
        self.last_alarm = None if last_alarm is None else float(last_alarm)
        self.detector, self._taken = detector, taken
