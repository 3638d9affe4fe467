"""Counters that never go backwards, from readings that may."""

from __future__ import annotations

from collections.abc import Mapping


class Rising:
    """The sum of what several readings rose by.

    The first reading of each counts in full. One that falls (a device was reset, a network interface made anew) adds
    nothing and is followed from there: what was counted in between is lost, never counted twice.

    Notes
    -----
    Threads: one at a time. Processes: each has its own.

    >>> received = Rising()
    >>> received.add({"eth0": 100, "eth1": 5})
    105.0
    >>> received.add({"eth0": 20})
    105.0
    >>> received.add({"eth0": 25})
    110.0
    """

    def __init__(self) -> None:
        self._last: Mapping[str, float] = {}
        self._total = 0.0

    def add(self, readings: Mapping[str, float]) -> float:
        """Follow the readings, by name; returns the sum so far. Only the names of the last call are kept."""
        self._total += sum(max(0.0, value - self._last.get(name, 0.0)) for name, value in readings.items())
        self._last = dict(readings)
        return self._total
