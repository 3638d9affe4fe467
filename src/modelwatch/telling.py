"""How all workers of a service come to have the same reference: whoever takes another one leaves it for the others."""

from __future__ import annotations

from itertools import count
from pathlib import Path

from .exceptions import SegmentError
from .guard import Guard
from .monitor import Monitor
from .notices import Notice, Notices
from .pulse import TICK_SECONDS
from .workers import Workers


class Telling:
    """What one worker tells the others of, and hears of.

    Notes
    -----
    Threads: any number. Processes: each has its own.
    """

    def __init__(self, workers: Workers, guard: Guard) -> None:
        self._workers, self._guard = workers, guard
        self._notices = Notices()
        self._numbers = count(1)
        self._told: dict[Path, str] = {}  # who told the reference in force, as `Notice.by` says it

    def tell(self, monitor: Monitor) -> None:
        """Let all workers take the reference that this one has, and wait until they have, for a second at most."""
        epoch = monitor.engine.epoch
        if epoch is None:
            return
        try:
            path = self._path(monitor)
            source, watched = monitor.engine.source, monitor.references.watched
            by = self._told[path] = f"{self._workers.name} {next(self._numbers)}"
            # What is in the file in the end counts for all, for this worker too: others may tell in this moment.
            self._workers.write(path.name, Notices.pack(Notice(epoch.profile, epoch.version, source, watched, by)))
            self._workers.others(TICK_SECONDS)
        except OSError as error:
            self._guard.swallow("reference", error)

    def hear(self, monitor: Monitor) -> None:
        """Take the reference that another worker has told of."""
        path = self._path(monitor)
        try:
            notice = self._notices.read(path)
            if notice is not None and notice.by != self._told.get(path):
                self._told[path] = notice.by
                monitor.references.take(notice)
        except SegmentError as error:
            self._workers.skip(path, error)
        except Exception as error:  # noqa: BLE001 - the old reference stays
            self._guard.swallow("reference", error)

    def _path(self, monitor: Monitor) -> Path:
        return self._workers.home / f"{Notices.key(monitor.model_name)}.reference"
