"""One rendering at a time, in a thread of its own, for any number of clients that wait for it.

::

    event loop ─ rendered ─┐                 ┌─► one thread, while there is something to render
                           ├─► _join(wish) ──┤
    thread ───── waited ───┘                 └─► future ◄── all who wish the same and came before it began

Those that come while one is rendered and want the same wait for the next one together: N clients at once cost two
renderings, and each sees all that had happened before it asked.
"""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Hashable
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

from .guard import Guard
from .metrics.pace import NoPace, Pace

Wish = TypeVar("Wish", bound=Hashable)
Page = TypeVar("Page")
_ALL: weakref.WeakSet[Flight[Any, Any]] = weakref.WeakSet()


class Flight(ABC, Generic[Wish, Page]):
    """Renders pages for those who wait.

    Parameters
    ----------
    guard, stage
        Counts what goes wrong in the thread, at that stage.

    Notes
    -----
    The thread is a daemon that starts with a wish and ends when nobody waits: no pool of the service's can keep it
    waiting, and nothing is left of it when an app is dropped.

    Threads: event loops and threads, any number. Processes: after a fork the child starts a thread of its own.
    """

    def __init__(self, guard: Guard, stage: str) -> None:
        self._guard, self._stage = guard, stage
        self.forked()
        _ALL.add(self)

    def forked(self) -> None:
        """Begin anew in a child, which has only the thread that forked: nobody waits here, and no lock is held."""
        self._lock = threading.Lock()
        self._waiting: dict[Wish, Future[Page | None]] = {}
        self._thread: threading.Thread | None = None

    @abstractmethod
    def _render(self, wish: Wish, pace: Pace) -> Page | None:
        """The page; None if it cannot be made, which is counted already."""

    async def rendered(self, wish: Wish) -> Page | None:
        """The page, for a coroutine."""
        try:
            asyncio.get_running_loop()
            future = self._join(wish)
        except RuntimeError:
            # Another event loop than asyncio's, or no thread to be had: late telemetry is better than none.
            return self._render(wish, NoPace())
        # Shielded by its running state: a client that is cancelled takes the page from nobody else.
        return await asyncio.wrap_future(future)

    def waited(self, wish: Wish) -> Page | None:
        """The page, for a thread, which waits for it. Not for an event loop."""
        try:
            future = self._join(wish)
        except RuntimeError:  # no thread to be had
            return self._render(wish, Pace())
        return future.result()

    def _join(self, wish: Wish) -> Future[Page | None]:
        """The next rendering of a wish, which has not begun, so that it shows all that has happened until now."""
        with self._lock:
            future = self._waiting.get(wish)
            if future is None:
                future = Future()
                future.set_running_or_notify_cancel()
                # After a fork the parent's thread is there, but dead.
                if self._thread is None or not self._thread.is_alive():
                    thread = threading.Thread(target=self._work, name=f"modelwatch-{self._stage}", daemon=True)
                    thread.start()
                    self._thread = thread
                self._waiting[wish] = future
            return future

    def _work(self) -> None:
        """Render until nobody waits."""
        while True:
            with self._lock:
                if not self._waiting:
                    self._thread = None
                    return
                wish = next(iter(self._waiting))
                future = self._waiting.pop(wish)
            page = None
            try:
                page = self._render(wish, Pace())
            except BaseException as error:  # noqa: BLE001 - a collector's SystemExit must not leave others waiting
                self._guard.swallow(self._stage, error)
            finally:
                future.set_result(page)


def _forked() -> None:
    for flight in list(_ALL):
        flight.forked()


os.register_at_fork(after_in_child=_forked)
