"""The last hour in a few numbers: a snapshot every 15 seconds, taken by one worker for all.

::

    pulse, once a second ─► due? ─► holds page.lock? ─► snapshot ─► the last 240 ─► page.jsonl (several workers only)
    render, any worker ─► page.jsonl, if another one holds the lock ─► the same points, whoever answers

No request adds anything here, and nothing is kept unless the page is on.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from .._types import Clock
from ..guard import Guard
from ..notices import Notices
from ..pulse import PULSE
from ..workers import Workers
from .snapshot import Snapshot

STEP_SECONDS = 15.0
MOST_POINTS = 240
_NAME, _FILE = "page", "page.jsonl"


class History:
    """Snapshots of the last hour.

    Parameters
    ----------
    take
        Takes a snapshot of what all workers have counted.
    workers
        Tells who shares; None in a single process.
    guard
        Counts what goes wrong, at stage "page".
    clock
        Seconds, rising; any origin.

    Notes
    -----
    Threads: any number read; one, the pulse, takes snapshots. Processes: one of them takes them and leaves them in a
    file for the others; when it dies another one goes on with that. A forked child begins anew.
    """

    def __init__(
        self,
        take: Callable[[], Snapshot],
        workers: Callable[[], Workers | None],
        guard: Guard,
        clock: Clock = time.monotonic,
    ) -> None:
        self._take, self._workers, self._guard, self._clock = take, workers, guard, clock
        self.forked()
        PULSE.know(self)

    def forked(self) -> None:
        """Begin anew, in a process that has just been forked."""
        self._lock = threading.Lock()
        self._points: list[Snapshot] = []
        self._notices = Notices()
        self._generation, self._due = -1, -1e300
        self._leads = False

    def ensure(self) -> None:
        """See to it that the pulse calls `tick`; on the event loop, so it must not take long."""
        if self._generation != PULSE.generation:
            self._generation = PULSE.generation
            try:
                PULSE.add(self)
            except RuntimeError as error:  # no thread: the page goes without a history
                self._guard.swallow("page", error)

    def tick(self) -> None:
        """Take a snapshot if it is time to, and if it is on this worker. Called by the pulse; never raises."""
        try:
            now = self._clock()
            if now < self._due:
                return
            self._due = now + STEP_SECONDS
            workers = self._workers()
            if workers is not None and not self._lead(workers):
                return
            point = self._take()
            with self._lock:
                if self._points and float(self._points[-1]["t"]) >= float(point["t"]):
                    self._points = []  # the clock was set back: no time since then can be told
                self._points = [*self._points, point][-MOST_POINTS:]
                if workers is not None:
                    workers.write(_FILE, [_written(self._points)])
        except Exception as error:  # noqa: BLE001 - the guard counts and logs it
            self._guard.swallow("page", error)

    def points(self) -> list[Snapshot]:
        """The snapshots, oldest first; those that another worker has taken, if that is who takes them."""
        workers = self._workers()
        with self._lock:
            if workers is not None and not self._leads:
                self._follow(workers)
            return list(self._points)

    def _lead(self, workers: Workers) -> bool:
        """Whether this worker takes the snapshots: as long as it lives, once it has the lock."""
        if not self._leads and workers.lock(_NAME):
            with self._lock:
                self._follow(workers)  # whoever took them before has died
                self._leads = True
        return self._leads

    def _follow(self, workers: Workers) -> None:
        told = self._notices.changed(workers.home / _FILE)
        if told is None:
            return
        try:
            self._points = [_checked(json.loads(line)) for line in told.split(b"\n")][-MOST_POINTS:]
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            self._guard.swallow("page", error)


def _written(points: Sequence[Snapshot]) -> bytes:
    """A line for each point: written as one, those of many models would keep the interpreter from all others."""
    return b"\n".join([json.dumps(point, allow_nan=False).encode() for point in points])


def _checked(point: Any) -> Snapshot:
    """A point as it was written; by another version of the library, or somebody else, it may be anything.

    Raises
    ------
    AttributeError, LookupError, TypeError, ValueError
        It is not what `snapshot_of` made.
    """
    models = {
        str(name): {
            "version": str(model["version"]),
            "reference": None if model["reference"] is None else str(model["reference"]),
            "statuses": {str(status): float(count) for status, count in model["statuses"].items()},
            "latency": _checked_buckets(model["latency"]),
            "rows": None if model["rows"] is None else float(model["rows"]),
            "drifted": None if model["drifted"] is None else int(model["drifted"]),
            "smoothed": {str(feature): float(psi) for feature, psi in model["smoothed"].items()},
        }
        for name, model in dict(point["models"]).items()
    }
    return {"t": float(point["t"]), "models": models}


def _checked_buckets(kept: Any) -> list[Any] | None:
    if kept is None:
        return None
    bounds, counts, total = kept
    if len(counts) != len(bounds) + 1:
        raise ValueError(f"expected one bucket more than bounds, got {len(counts)} and {len(bounds)}")
    return [list(map(float, bounds)), list(map(float, counts)), float(total)]
