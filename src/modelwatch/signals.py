"""Means of what the model returns, tick by tick, under Page-Hinkley: the stream that needs no labels."""

from __future__ import annotations

import math

import numpy as np

from ._types import Floats
from .detectors import PageHinkley


class Signal:
    """One stream of numbers, watched as its mean since the last tick, in standard errors from the reference's mean.

    Parameters
    ----------
    name
        "prediction" or "confidence".
    mean, sd
        Of the reference; `sd` > 0.

    Notes
    -----
    Threads: one at a time; the caller holds a lock. Processes: one sees the whole stream.

    >>> signal = Signal("confidence", mean=0.8, sd=0.1)
    >>> signal.add(np.array([0.7, 0.9, float("nan")]))
    >>> signal.tick()
    False
    """

    def __init__(self, name: str, mean: float, sd: float) -> None:
        self.name = name
        self.detector = PageHinkley.standardised()
        self.last_alarm: float | None = None
        self._mean, self._sd = mean, sd
        self._sum, self._rows = 0.0, 0

    def go_on(self, before: Signal) -> None:
        """Count alarms from where an earlier stream of the same labels stopped: a counter never falls."""
        self.detector.alarms, self.last_alarm = before.detector.alarms, before.last_alarm

    def add(self, values: Floats) -> None:
        """Take the values of some rows, shape (rows,); what is not finite is left out."""
        finite = values[np.isfinite(values)]
        with np.errstate(over="ignore"):  # the detector skips a mean that is infinite
            self._sum += float(finite.sum())
        self._rows += finite.size

    def tick(self) -> bool:
        """Hand the mean since the last tick to the detector; True if it alarms. Without rows nothing happens."""
        rows, total = self._rows, self._sum
        self._rows, self._sum = 0, 0.0
        if not rows:
            return False
        self.detector.update((total / rows - self._mean) * math.sqrt(rows) / self._sd)
        return self.detector.drift_detected
