"""The one background thread of a process: once a second, and whenever rows pile up, it lets the monitors work.

It starts with the first row of a process, so neither import nor `instrument` starts a thread and a server may fork
after them. It holds monitors weakly and ends when none is left.
"""

from __future__ import annotations

import os
import threading
import weakref
from typing import Protocol

TICK_SECONDS = 1.0


class Ticked(Protocol):
    """What wants to be called in the background."""

    def tick(self) -> None:
        """Fold what waits. Called once a second, or sooner; must not raise."""

    def forked(self) -> None:
        """Renew the locks: in this process, just forked, nobody else can hold one."""


class Pulse:
    """The thread and whom it calls.

    Attributes
    ----------
    generation
        Changes with a fork: whoever was added before is no longer called.

    Notes
    -----
    Threads: `add` and `wake` from any. Processes: after a fork the child has none until its first row.
    """

    def __init__(self, seconds: float = TICK_SECONDS) -> None:
        self._seconds = seconds
        self.generation = 0
        self._known: weakref.WeakSet[Ticked] = weakref.WeakSet()
        self._reset()

    def after_fork(self) -> None:
        """Begin anew in a child, which has only the thread that forked: a lock of another one stays locked for ever."""
        for one in list(self._known):
            one.forked()
        self._reset()

    def _reset(self) -> None:
        self.generation += 1
        self._lock = threading.Lock()
        self._ticked: weakref.WeakSet[Ticked] = weakref.WeakSet()
        self._event = threading.Event()
        self._thread: threading.Thread | None = None

    def know(self, ticked: Ticked) -> None:
        """Renew its locks after a fork, also before its first row: a scrape may hold them."""
        self._known.add(ticked)

    def add(self, ticked: Ticked) -> None:
        """Call it from now on, as long as it lives.

        Raises
        ------
        RuntimeError
            No thread can be started: there are too many, or the process ends.
        """
        with self._lock:
            self._ticked.add(ticked)
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="modelwatch", daemon=True)
                thread.start()
                self._thread = thread

    def wake(self) -> None:
        """Do not wait for the next second."""
        self._event.set()

    def _run(self) -> None:
        while True:
            self._event.wait(self._seconds)
            self._event.clear()
            with self._lock:
                ticked = list(self._ticked)
                if not ticked:
                    self._thread = None
                    return
            for one in ticked:
                one.tick()
            del ticked, one  # until the next second, nothing here keeps a monitor alive


PULSE = Pulse()
os.register_at_fork(after_in_child=PULSE.after_fork)
