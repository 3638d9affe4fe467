"""The traffic of the stack: days of the data that go to the replicas by turns, as fast as it shows them."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import httpx

from .stage import DemoError, Service

_FIRST_DAY, _SERVED_FROM = "2011-01-01", "2011-04-01"
_DAYS_A_SECOND = 12
_STEP = 11

Day = tuple[str, list[dict[str, Any]]]
"""The date, and its hours as the service takes them."""


class Traffic:
    """Sends days to replicas.

    Parameters
    ----------
    replicas
        Those whose turn it is, one after the other. Kept.
    days
        As `replay.days` of the example.

    Attributes
    ----------
    rows
        How many rows were sent.
    date
        Of the day that was sent last.

    Notes
    -----
    Threads: one. Processes: one.
    """

    def __init__(self, replicas: Sequence[Service], days: Callable[..., Iterator[Day]]) -> None:
        self.rows, self.date = 0, ""
        self._turns = itertools.cycle(replicas)
        self._summers = itertools.chain.from_iterable(days(since=_SERVED_FROM) for _ in itertools.count())
        winter = [day for day in days(since=_FIRST_DAY) if day[0] < _SERVED_FROM]
        # January is colder than the winter as a whole, and Monday is no Sunday: what is to be like the training data
        # must be mixed like them from the beginning. Of 90 days every 11th, round and round, comes to each once.
        self._winter = [winter[number * _STEP % len(winter)] for number in range(len(winter))]
        self._due = 0.0

    def winter(self) -> int:
        """Send what the model was trained on, at once; returns how many days that were."""
        for day in self._winter:
            self._send(day)
        return len(self._winter)

    def go_on(self, seconds: float) -> None:
        """Send what comes after, for so long, over and over again."""
        end = time.monotonic() + seconds
        while (now := time.monotonic()) < end:
            if now < self._due:
                time.sleep(min(self._due, end) - now)
                continue
            self._due = max(self._due, now - 1) + 1 / _DAYS_A_SECOND  # what was missed is made up for, but not for long
            self._send(next(self._summers))

    def _send(self, day: Day) -> None:
        replica = next(self._turns)
        try:
            replica.post("/predict", day[1]).raise_for_status()
        except httpx.HTTPError as error:
            raise DemoError(replica.report(f"stopped answering ({error})")) from error
        self.date = day[0]
        self.rows += len(day[1])
