"""Which versions of a model are loaded, and since when."""

from __future__ import annotations

from ._types import Clock


class Loads:
    """The version of now, and the one before it.

    Parameters
    ----------
    clock
        Seconds since 1970.

    Attributes
    ----------
    states
        Whether a version is loaded. Older ones than that before the last are not known.
    time
        When the last one was loaded; None before.

    Notes
    -----
    Threads: one at a time changes it; the dict is replaced, so that any number read it. Processes: each has its own.

    >>> loads = Loads(lambda: 0.0)
    >>> loads.turn("1", "2")
    >>> loads.states
    {'1': False, '2': True}
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.states: dict[str, bool] = {}
        self.time: float | None = None

    def turn(self, before: str, now: str) -> None:
        """The version `now` is loaded; the one before it, if another, no longer."""
        self.states = {now: True} if before == now else {before: False, now: True}
        self.time = self._clock()
