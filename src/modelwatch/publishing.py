"""What this worker has counted, taken together, and published for the others to read."""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial

import numpy as np

from .adding import exact
from .degraded import Degraded
from .guard import Guard
from .metrics.catalogue import CATALOGUE
from .metrics.drift import violations
from .metrics.families import Source
from .monitor import Monitor
from .reentry import interrupted
from .segments import Segments
from .series import Sample, Series
from .shares import Joiner, Share
from .workers import SKIPPED, Workers

_NOTHING = Share("", True, (), np.empty(0), {})


class Publisher:
    """Takes the share of this process.

    Parameters
    ----------
    series, guard, segments
        The app's.
    monitors
        Gives the monitors of the app.

    Attributes
    ----------
    local
        Sources that read this process alone, besides the series.
    workers
        Where to publish; None in a process that is no worker.
    degraded
        What does not work.

    Notes
    -----
    Threads: any number; one at a time publishes. Processes: each has its own; a forked child must call `forked`.
    """

    def __init__(self, series: Series, guard: Guard, segments: Segments, monitors: Callable[[], list[Monitor]]) -> None:
        self.local: list[Source] = []
        self._series, self._guard, self._segments, self._monitors = series, guard, segments, monitors
        self.forked()

    def forked(self) -> None:
        """Begin anew, in a process that has just been forked."""
        self.workers: Workers | None = None
        self.degraded = Degraded()
        self._lock = threading.RLock()
        self._joiner = Joiner()
        self._last: tuple[Share, list[Sample]] = (_NOTHING, [])

    def publish(self, *, fold: bool = True) -> tuple[Share, list[Sample]]:
        """Take the share, and publish it if there is anybody to read it.

        Parameters
        ----------
        fold
            Count first what waits.

        Returns
        -------
        The share, and what any worker may say for all.
        """
        if not self._lock.acquire(blocking=not interrupted()):
            return self._last
        try:
            self._last = self._published(fold=fold)
            return self._last
        finally:
            self._lock.release()

    def _published(self, *, fold: bool) -> tuple[Share, list[Sample]]:
        workers, monitors = self.workers, self._monitors()
        began = time.monotonic_ns()
        if fold:
            for monitor in monitors:
                monitor.engine.fold()
        self._series.settle()  # before the samples: what goes wrong there is among them
        sources: list[Source] = [*self.local, self._own, *(partial(violations, monitor) for monitor in monitors)]
        samples = [sample for source in sources for sample in self._read(source)]
        if workers is None:
            return Share("", True, *self._series.taken(), {}), samples
        elsewhere = [sample for sample in samples if CATALOGUE[sample.metric].merge == "one"]
        samples = [sample for sample in samples if CATALOGUE[sample.metric].merge != "one"]
        with ExitStack() as stack:
            for monitor in monitors:
                stack.enter_context(monitor.engine.lock)
            keys, values = self._joiner.join(*self._series.taken(), samples)
            models = {monitor.model_name: monitor.engine.shares() for monitor in monitors}
            share = Share(workers.name, True, keys, exact(keys, values), models)
            parts = self._segments.pack(share, began=began)
        try:
            workers.publish(parts)
            self.degraded.end("directory", "space")
        except OSError as error:
            self.fails(error)
        return share, elsewhere

    def _read(self, source: Source) -> list[Sample]:
        try:
            return [item for item in source() if isinstance(item, Sample)]
        except Exception as error:  # noqa: BLE001 - whatever a layer's fault is, the others are shown
            self._guard.swallow("scrape", error)
            return []

    def fails(self, error: OSError) -> None:
        """Say that what the workers share cannot be written or read."""
        reason = "space" if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG} else "directory"
        self.degraded.begin(reason, "this worker cannot share what it counts, and goes on by itself: %s.", error)

    def _own(self) -> Iterator[Sample]:
        """About the sharing itself."""
        skipped = dict.fromkeys(SKIPPED, 0) if self.workers is None else self.workers.skipped
        for reason, files in skipped.items():
            yield Sample("modelwatch_segments_skipped_total", (reason,), files)
        for reason, on in self.degraded.flags.items():
            yield Sample("modelwatch_degraded", (reason,), on)
        yield Sample("model_workers", (), 1)
