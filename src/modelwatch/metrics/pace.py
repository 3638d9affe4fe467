"""Long work in the background leaves the interpreter to the event loop again and again.

A thread that computes keeps the interpreter for 5 ms each time, and a request needs it several times: a page of 20,000
samples, rendered in one go, makes probes fail. So whoever works through many samples stands still for a moment after
every half millisecond, in which all others go first.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from .._types import Clock

_WORK_SECONDS = 0.0005
_PAUSE_SECONDS = 0.0005
_BETWEEN_LOOKS = 25

_Item = TypeVar("_Item")


class Pace:
    """Lets a thread of the library's own pause. Never to be used in an event loop's thread.

    Parameters
    ----------
    clock
        Seconds, rising; any origin.
    sleep
        Stands still for so many seconds and lets other threads run.

    Notes
    -----
    Short work is not paused at all; long work takes about twice as long.

    Threads: one, that works. Processes: each makes its own.

    >>> list(Pace().through(range(3)))
    [0, 1, 2]
    """

    def __init__(self, clock: Clock = time.perf_counter, sleep: Callable[[float], object] = time.sleep) -> None:
        self._clock, self._sleep = clock, sleep
        self._since = clock()

    def look(self) -> None:
        """Pause, if it is time to."""
        if self._clock() - self._since >= _WORK_SECONDS:
            self._sleep(_PAUSE_SECONDS)
            self._since = self._clock()

    def through(self, items: Iterable[_Item]) -> Iterator[_Item]:
        """The same items, with a look now and then."""
        left = _BETWEEN_LOOKS
        for item in items:
            left -= 1
            if not left:
                left = _BETWEEN_LOOKS
                self.look()
            yield item


class NoPace(Pace):
    """Never pauses: for an event loop's thread, where that would keep everybody waiting."""

    def look(self) -> None:
        """Go on."""
