"""The Python runtime: how late the event loop is, how long garbage collections pause, how busy the thread pool is."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from .._types import Clock
from ..guard import Guard
from ..series import Sample, Series, observe

LAG, PAUSE = "model_event_loop_lag_seconds", "model_gc_pause_seconds"

_GENERATIONS = 3


class LoopProbe:
    """Measures how late event loops call back, and finds their thread pools.

    A timer on each loop that `ensure` is called from counts by how much it came too late. The timers end when the
    probe or the loop is gone: they know the probe only weakly, and the probe knows them only weakly.

    Parameters
    ----------
    series, bounds
        Where the lag is counted, and the bounds of its buckets, in seconds.
    guard
        Gets what goes wrong within a timer.
    interval
        Seconds from one callback to the next. A block that is shorter is seen in proportion to its length.
    clock
        Seconds, rising; any origin. Not the loop's own: uvloop's stands still while a callback runs.

    Notes
    -----
    Threads: `ensure` on any number of event loops, `samples` anywhere. Processes: each has its own.
    """

    def __init__(
        self,
        series: Series,
        bounds: tuple[float, ...],
        guard: Guard,
        *,
        interval: float = 0.1,
        clock: Clock = time.monotonic,
    ) -> None:
        self._place = series.histogram(LAG, (), bounds)
        self._series, self._bounds = series, bounds
        self.guard, self.interval, self.clock = guard, interval, clock
        # Changed in single steps only, without a lock, which a signal handler or a child just forked would wait for.
        self._beats: list[weakref.ref[_Beat]] = []
        self._last: Callable[[], _Beat | None] = _nothing

    def ensure(self) -> None:
        """See to it that the running event loop is measured; nothing if it is, or if none runs (as under trio)."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return
        beat = self._last()
        if beat is None or beat.loop is not loop:
            self._start(loop)

    def count(self, lag: float) -> None:
        """Count one callback that came `lag` seconds too late."""
        observe(self._series.values, self._place, self._bounds, max(0.0, lag))

    def samples(self) -> list[Sample]:
        """The thread pools of all live loops, together: a source for `Collected`. Empty if none is known."""
        pools = [beat.limiter.statistics() for beat in self._live() if beat.limiter is not None]
        if not pools:
            return []
        return [
            Sample("model_threadpool_busy_threads", (), sum(pool.borrowed_tokens for pool in pools)),
            Sample("model_threadpool_limit_threads", (), sum(pool.total_tokens for pool in pools)),
            Sample("model_threadpool_waiting_tasks", (), sum(pool.tasks_waiting for pool in pools)),
        ]

    def _live(self) -> list[_Beat]:
        beats = [reference() for reference in list(self._beats)]
        return [beat for beat in beats if beat is not None and not beat.loop.is_closed()]

    def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        beat = next((beat for beat in self._live() if beat.loop is loop), None)
        if beat is None:  # and nobody else adds it: a loop has one thread
            beat = _Beat(self, loop)
            for reference in list(self._beats):
                other = reference()
                if other is None or other.loop.is_closed():
                    with suppress(ValueError):  # another thread was faster
                        self._beats.remove(reference)
            self._beats.append(weakref.ref(beat))
        self._last = weakref.ref(beat)


class _Beat:
    """The timer on one loop. The loop alone keeps it, as its own callback, so that both end together.

    Notes
    -----
    Threads: that of its loop. Processes: each has its own.
    """

    __slots__ = ("__weakref__", "_context", "_due", "_probe", "limiter", "loop")

    def __init__(self, probe: LoopProbe, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.limiter = _thread_limiter()
        self._probe = weakref.ref(probe)
        # An empty one: the timer would else keep the context of the request that happened to start it.
        self._context = contextvars.Context()
        self._schedule(probe)

    def __call__(self) -> None:
        probe = self._probe()
        if probe is None:
            return  # unscheduled, so that nothing keeps this object
        try:
            probe.count(probe.clock() - self._due)
        except Exception as error:  # noqa: BLE001 - whatever the fault is, the loop must not hear of it
            probe.guard.swallow("tick", error)
        self._schedule(probe)

    def _schedule(self, probe: LoopProbe) -> None:
        self._due = probe.clock() + probe.interval
        self.loop.call_later(probe.interval, self, context=self._context)


class GcPauses:
    """Counts how long garbage collections took, by generation, for as long as this object lives.

    Parameters
    ----------
    series, bounds
        Where the pauses are counted, and the bounds of their buckets, in seconds.

    Notes
    -----
    Threads: a collection may happen in any thread at any point, so that counting takes no lock and logs nothing; an
    error (a store that was closed, say) is counted in `guard.errors`. Processes: each has its own.
    """

    def __init__(self, series: Series, bounds: tuple[float, ...], guard: Guard) -> None:
        # Made before the first collection is counted: no cell is made within one.
        self._places = [series.histogram(PAUSE, (str(number),), bounds) for number in range(_GENERATIONS)]
        self._series, self._bounds, self._guard = series, bounds, guard
        _hook.add(self)

    def count(self, generation: int, seconds: float) -> None:
        """Count one collection. Never raises."""
        try:
            observe(self._series.values, self._places[generation], self._bounds, seconds)
        except Exception:  # noqa: BLE001 - a collection may interrupt anything, and nobody could catch it
            self._guard.errors["tick"] += 1  # not `swallow`: whoever was interrupted may hold the lock of the log


class _Hook:
    """The one entry of `gc.callbacks` of a process: there while a GcPauses lives, gone with the last one.

    Notes
    -----
    Threads: collections never nest, so that one start time is enough, and the list is changed and read in single
    steps. Processes: a forked child goes on with its own copy.
    """

    def __init__(self) -> None:
        self._watchers: list[weakref.ref[GcPauses]] = []
        self._started = 0.0

    def __call__(self, phase: str, info: dict[str, Any]) -> None:
        now = time.perf_counter()
        if phase == "start":
            self._started = now
            return
        started, self._started = self._started, 0.0
        if started:  # else it was installed within this collection
            for reference in self._watchers:
                pauses = reference()
                if pauses is not None:
                    pauses.count(info["generation"], now - started)

    def add(self, pauses: GcPauses) -> None:
        """Watch for one more."""
        self._watchers.append(weakref.ref(pauses, self._remove))
        self._install()

    def _install(self) -> None:
        # No lock: `_remove` may come in the middle of this, in the same thread. Installed twice by two threads at once,
        # the second of two calls finds no start time and does nothing.
        if self not in gc.callbacks:
            gc.callbacks.append(self)

    def _remove(self, reference: weakref.ref[GcPauses]) -> None:
        self._watchers.remove(reference)
        if not self._watchers:
            while self in gc.callbacks:
                gc.callbacks.remove(self)
            self._started = 0.0
            if self._watchers:  # another thread added one meanwhile, and may have found the entry still there
                self._install()


_hook = _Hook()


def _nothing() -> None:
    """What a reference to a timer that never was returns."""


def _thread_limiter() -> Any:
    """AnyIO's limiter of threads of the running loop, None if it cannot be had (no AnyIO, not within a task)."""
    try:
        from anyio import to_thread

        return to_thread.current_default_thread_limiter()
    except (ImportError, AttributeError, LookupError, RuntimeError):
        return None
