"""Collectors of the user's are asked here: in threads of their own, for a bounded time, each at its own expense.

::

    scrape ─► Foreign.ask ─ round ─► thread: collector 1, 2, 3 hangs
                   │ waits           thread: 4, 5                        begun when 3 took long
                   └─ at the deadline: the answers of 1, 2, 4, 5; 3 is counted, and not asked again while it hangs
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Generic, TypeVar

from prometheus_client.registry import Collector

from .._types import Clock
from ..guard import Guard

MOST_THREADS = 8
_PATIENCE_SECONDS = 0.2

_Answer = TypeVar("_Answer")
Question = Callable[[Collector], _Answer]
"""What is done with a collector, in a thread that nobody else needs."""


class _Round(Generic[_Answer]):
    """What one scrape asks: who waits to be asked, and what those who were have brought, by their position."""

    def __init__(self, collectors: Sequence[Collector], question: Question[_Answer]) -> None:
        self.question = question
        self.waiting = deque(enumerate(collectors))
        self.asked: dict[int, tuple[Collector, threading.Thread]] = {}
        self.answers: dict[int, _Answer] = {}
        self.errors: dict[int, BaseException] = {}
        self.threads: list[threading.Thread] = []
        self.over = False

    @property
    def complete(self) -> bool:
        return not self.waiting and not self.late()

    def late(self) -> list[tuple[Collector, threading.Thread]]:
        """Those who have been asked, each with its thread, and have not brought anything yet, not even an error."""
        return [asked for place, asked in self.asked.items() if place not in self.answers and place not in self.errors]


class Foreign:
    """Asks collectors that may raise, hang, or end their thread.

    Parameters
    ----------
    guard
        Counts, at stage "scrape", each collector that brings nothing.
    seconds
        How long all of them together may keep a scrape waiting.
    clock
        Seconds, rising; any origin.

    Notes
    -----
    A collector that is late is absent: what it brought before is not repeated, for nobody knows whether it still
    holds. As long as it hangs it is absent, is counted at every scrape, and keeps one thread, which ends with it. There
    are at most eight threads, those that hang among them: when eight hang, no collector is asked.

    Threads: any number may ask. Processes: each has its own; a forked child has nobody who hangs.
    """

    def __init__(self, guard: Guard, seconds: float, clock: Clock = time.monotonic) -> None:
        self._guard, self._seconds, self._clock = guard, seconds, clock
        self.forked()

    def forked(self) -> None:
        """Begin anew in a child, which has only the thread that forked."""
        self._changed = threading.Condition()  # with a lock that a signal handler of the same thread may take again
        self._hanging: dict[int, tuple[Collector, threading.Thread]] = {}  # by id: users' may call themselves equal
        self._threads: list[threading.Thread] = []

    def ask(self, collectors: Sequence[Collector], question: Question[_Answer]) -> list[_Answer]:
        """What those bring who answer in time, in the order of the collectors."""
        if not collectors:
            return []
        with self._changed:
            self._hanging = {key: (one, thread) for key, (one, thread) in self._hanging.items() if thread.is_alive()}
            hanging = [one for one in collectors if id(one) in self._hanging]
            current = _Round([one for one in collectors if id(one) not in self._hanging], question)
        for one in hanging:
            self._guard.swallow("scrape", TimeoutError(f"{_name(one)} has not answered an earlier scrape yet"))
        return self._wait(current) if current.waiting else []

    def _wait(self, current: _Round[_Answer]) -> list[_Answer]:
        """Have the round's collectors asked; what they bring when this has returned is brought in vain."""
        deadline = self._clock() + self._seconds
        patience = min(_PATIENCE_SECONDS, self._seconds / 4)
        asked = 0
        with self._changed:
            while not current.complete and (left := deadline - self._clock()) > 0:
                if current.waiting and len(current.asked) <= asked:  # nobody has got on
                    self._begin(current)
                asked = len(current.asked)
                if not any(thread.is_alive() for thread in current.threads):
                    break
                self._changed.wait(min(left, patience))
            current.over = True
            late, never = current.late(), [one for _, one in current.waiting]
            self._hanging.update({id(one): (one, thread) for one, thread in late})
            errors = list(current.errors.values())
            answers = [answer for _, answer in sorted(current.answers.items(), key=itemgetter(0))]
        for error in errors:
            self._guard.swallow("scrape", error)
        for one, _ in late:
            self._guard.swallow("scrape", TimeoutError(f"{_name(one)} did not answer within {self._seconds:g} s"))
        for one in never:
            self._guard.swallow("scrape", TimeoutError(f"no thread was free to ask {_name(one)}"))
        return answers

    def _begin(self, current: _Round[_Answer]) -> None:
        """Start a thread that asks, if there may be one more."""
        self._threads = [thread for thread in self._threads if thread.is_alive()]
        if len(self._threads) >= MOST_THREADS:
            return
        arguments = (current, self._changed)
        thread = threading.Thread(target=_work, args=arguments, name="modelwatch-collect", daemon=True)
        with contextlib.suppress(RuntimeError):  # there are too many, or the process ends
            thread.start()
            self._threads.append(thread)
            current.threads.append(thread)


def _work(current: _Round[_Answer], changed: threading.Condition) -> None:
    """Ask as long as somebody waits to be asked."""
    while True:
        with changed:
            if current.over or not current.waiting:
                return
            place, one = current.waiting.popleft()
            current.asked[place] = one, threading.current_thread()
        found: dict[int, _Answer] = {}
        failed: dict[int, BaseException] = {}
        try:
            found[place] = current.question(one)
        except BaseException as error:  # noqa: BLE001 - a user's collector may raise anything, SystemExit too
            failed[place] = error
        with changed:
            current.answers.update(found)
            current.errors.update(failed)
            if not current.waiting:
                changed.notify_all()


def _name(collector: Collector) -> str:
    """Which one it is; its own repr may hang or raise as well."""
    kind = type(collector)
    return f"the collector {kind.__module__}.{kind.__qualname__}"
