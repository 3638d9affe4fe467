"""The one background thread of a process: once a second, and whenever rows pile up, it lets the monitors work.

It starts with the first row of a process, so neither import nor `instrument` starts a thread and a server may fork
after them. It holds monitors weakly and ends when none is left.
"""

from __future__ import annotations

import os
import queue
import threading
import weakref
from contextlib import suppress
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
        # Both may be asked for again in the middle of it, in the same thread, by a signal handler or a finalizer.
        self._lock = threading.RLock()
        self._bell: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._ticked: weakref.WeakSet[Ticked] = weakref.WeakSet()
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
                self._thread = thread = threading.Thread(target=self._run, name="modelwatch", daemon=True)
                try:
                    thread.start()
                except RuntimeError:
                    self._thread = None
                    raise

    def wake(self) -> None:
        """Do not wait for the next second."""
        self._bell.put(None)

    def _run(self) -> None:
        while True:
            with suppress(queue.Empty):
                self._bell.get(timeout=self._seconds)
                while True:
                    self._bell.get_nowait()
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
