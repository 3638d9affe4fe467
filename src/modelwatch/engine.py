"""From rows to counts, off the request's way: buffer, fold, epochs, signals and learning of one model."""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable, Iterable, Mapping
from itertools import compress
from typing import Any

import numpy as np

from ._types import ABSENT, Clock, Floats
from .buffer import Batch, Buffer, Group, gather, ordered, runs
from .detection import Detection
from .epoch import Epoch
from .epochs import Epochs
from .exceptions import ReferenceFileError, TableError
from .files import ReferenceProfile
from .guard import Guard
from .learning import Learner
from .pulse import PULSE, TICK_SECONDS
from .reading import Reading, read
from .reentry import counting, forget, interrupted
from .series import Series
from .settings import Settings
from .shares import EpochShare
from .tally import Tally, numbers
from .times import seconds_of

_LOG = logging.getLogger("modelwatch")
FOLD_ROWS = 1024
"""So many rows do not wait for the tick."""
_AHEAD_SECONDS = 3600.0  # timestamps further in the future are taken for this
_AGO_SECONDS = -1e12  # and those before this for this: far from where numbers of slots would overflow


class Engine:
    """Counts the rows of one model.

    Parameters
    ----------
    model_name, version
        Of the model.
    settings, series, guard
        The app's. Kept.
    bounds
        Bucket bounds by name of a histogram.
    clock, wall
        Seconds, monotonic and since 1970.

    Attributes
    ----------
    version
        Of the model, from now on.
    source
        Where the reference comes from: "none", "file", "object" or "learned".
    epochs
        The reference in force with its window, and the one before it, if any.
    wanted
        What to take from a row: the reference's features, and with event time its time. The same tuple until a swap;
        None while there is no reference.
    detection
        Streams of means under detectors.
    learner
        Collects rows for a reference, while there is none and one is wanted.
    reference_time
        When the reference was taken, in seconds since 1970.
    swapped
        Called after every swap.
    ticked
        Called once a second by the background thread.
    alone
        Whether this process sees all rows, and so runs what depends on their order.
    others
        Tells what other workers have counted of this model, when a report is asked for.

    Notes
    -----
    Threads: any number; a lock guards all but `append`. Processes: each has its own.
    """

    def __init__(
        self,
        model_name: str,
        version: str,
        settings: Settings,
        series: Series,
        guard: Guard,
        *,
        bounds: Mapping[str, tuple[float, ...]],
        clock: Clock,
        wall: Clock,
    ) -> None:
        self._settings, self._guard = settings, guard
        self._clock, self._wall = clock, wall
        self._tally = Tally(series, model_name, settings, bounds)
        self._random = random.Random(0)
        self._latest = -np.inf  # the largest timestamp seen
        self._last_tick = clock()
        self._generation = -1
        self._woken = False
        self._counted_dropped = 0
        self.lost = 0
        self.version = version
        self.source = "none"
        self.buffer = Buffer(settings.buffer_rows)
        self.epochs = Epochs(settings)
        self.wanted: tuple[str, ...] | None = None
        self.detection = Detection()
        self.learner: Learner | None = None
        self.reference_time: float | None = None
        self.swapped: Callable[[], object] = int  # does nothing, until somebody wants to know
        self.ticked: Callable[[], object] = int
        self.alone = True
        self.others: Callable[[], Iterable[EpochShare]] = tuple
        self.lock = threading.RLock()
        PULSE.know(self)

    def forked(self) -> None:
        """Begin at zero, with a new lock: in this process, just forked, no other thread can hold the old one."""
        self.lock = threading.RLock()
        forget()
        self.alone, self.others = True, tuple
        self.buffer = Buffer(self._settings.buffer_rows)
        self.lost = self._counted_dropped = 0
        self.epochs.forked()
        self.detection.forked()
        if self.learner is not None:
            self.learner = Learner(self._settings.learn_rows, self._settings.learn_seconds)

    @property
    def epoch(self) -> Epoch | None:
        """The reference in force with its window; None without one."""
        return self.epochs.current

    def announce(self) -> None:
        """Make the series that every scrape shows from the start."""
        self._tally.announce(self.version)

    def evaluated(self, seconds: float) -> None:
        """Say that window and reference were compared, and how long it took."""
        try:
            self._tally.evaluated(self.version, seconds, self._wall())
        except RuntimeError as error:  # within a signal handler; the report is there all the same
            self._guard.swallow("tick", error)

    def append(self, batch: Batch) -> None:
        """Take rows; an append, and now and then a word to the background thread."""
        buffer = self.buffer
        buffer.append(batch)
        if self._generation != PULSE.generation:
            self._generation = PULSE.generation
            try:
                PULSE.add(self)
            except RuntimeError as error:  # no thread: reports and scrapes still fold
                self._guard.swallow("record", error)
        if not self._woken and buffer.added - buffer.taken >= FOLD_ROWS:
            self._woken = True
            PULSE.wake()

    def tick(self) -> None:
        """Fold what waits, and once a second hand the means to the detectors. Called by the background thread."""
        try:
            with self.lock:
                self.fold()
                now = self._clock()
                due = now - self._last_tick >= 0.9 * TICK_SECONDS
                if due:
                    self._last_tick = now
                    if self.alone:
                        self.detect()
            if due:
                self.ticked()
            if self.alone:
                self.learn()
        except Exception as error:  # noqa: BLE001 - the guard counts and logs it
            self._guard.swallow("tick", error)

    def detect(self, others: Iterable[EpochShare] = ()) -> None:
        """Let the detectors see what has come since they last did, with what other workers have counted."""
        with self.lock:
            epoch = self.epoch
            if epoch is not None:
                self.detection.tick([share for share in others if epoch.fits(share)], self._wall)

    def fold(self) -> None:
        """Count everything that waits."""
        if not interrupted():  # else whom we have interrupted goes on with it
            with self.lock, counting():
                self._fold()

    def _fold(self) -> None:
        self._woken = False
        for run in runs(self.buffer.take()):
            try:
                self._count(gather(run))
            except Exception as error:  # noqa: BLE001 - the guard counts and logs it
                self.lose(sum(batch.size for batch in run))
                self._guard.swallow("fold", error)
        dropped = self.buffer.dropped + self.lost
        self._tally.count("dropped", dropped - self._counted_dropped)
        self._counted_dropped = dropped

    def lose(self, rows: int) -> None:
        """Say that rows could not be counted."""
        self.lost += rows

    def _count(self, group: Group) -> None:
        """Count a group's rows, and last of all where they ended: whatever fails before that has not ended at all."""
        if group.ignored:
            self._tally.count("ignored", group.size)
            return
        confidences = None if group.confidences is None else numbers(group.confidences)
        self._tally.rows(group.version, group.size, group.predictions, confidences)
        epoch = self.epoch  # once: a signal handler may reload in the middle of this
        if epoch is None:
            self._without_reference(group)
            return
        self.detection.add(group, confidences)
        columns: list[Any] = ordered(group, epoch.profile.inputs)
        special: list[Any] = [group.predictions, group.confidences]
        times = self._times(group, epoch.profile.time)
        if self._settings.sample_rate < 1:
            kept = [self._random.random() < self._settings.sample_rate for _ in range(group.size)]
            columns = [list(compress(column, kept)) for column in columns]
            special = [None if column is None else list(compress(column, kept)) for column in special]
            times = times[kept]
        late = epoch.add(columns, special[0], special[1], times) if len(times) else 0
        self._tally.count("sampled_out", group.size - len(times))
        self._tally.count("late", late)
        self._tally.count("recorded", len(times) - late)

    def _without_reference(self, group: Group) -> None:
        if self.learner is None:
            self._tally.count("recorded", group.size)
            return
        absent = [ABSENT] * group.size
        specials = [absent if column is None else column for column in (group.predictions, group.confidences)]
        self.learner.add(group.names, group.columns, specials[0], specials[1], self._clock())
        self._tally.count("learning", group.size)

    def _times(self, group: Group, column: str | None) -> Floats:
        """Times of rows: of their arrival, or their own, as given or from the column that the reference names."""
        if not self._settings.event_time:
            return np.full(group.size, self._clock())
        wall = self._wall()
        own = group.timestamps
        if own is None and column in group.names:
            own = group.columns[group.names.index(column)]
        times = np.full(group.size, wall) if own is None else seconds_of(own, default=wall)
        times = np.clip(times, _AGO_SECONDS, wall + _AHEAD_SECONDS)
        self._latest = max(self._latest, max(times.tolist(), default=-np.inf))
        return times

    def learn(self) -> bool:
        """Make the reference of the rows learnt from, if there are enough; True if it is new."""
        learner = self.learner
        if learner is None or not learner.ready:
            return False
        try:
            profile = learner.fit()
        except TableError as error:
            self.learner = Learner(self._settings.learn_rows, self._settings.learn_seconds)  # other rows may do
            self._guard.swallow("reference", error)
            return False
        with self.lock:
            if self.epoch is not None:  # somebody reloaded meanwhile, and knew better
                return False
            self.swap(profile, "learned")
        _LOG.info("modelwatch learnt the reference %s from %d rows", profile.id, profile.rows)
        if self._settings.learn_path is not None:
            try:
                profile.save(self._settings.learn_path)
            except ReferenceFileError as error:
                self._guard.swallow("reference", error)
        return True

    def swap(self, profile: ReferenceProfile, source: str, version: str | None = None) -> None:
        """Take another reference, and version: window, totals, signals and tally at one go.

        What waits still goes to the old one.
        """
        with self.lock:
            self.fold()
            before = self.epoch
            self.learner = None
            self.source = source
            if version is not None:
                self.version = version
            self.wanted = self.epochs.turn(profile, self.version).wanted
            self._latest = -np.inf
            self._tally.adopt(profile)
            self._tally.announce(self.version)
            self.detection.turn(profile, self.version, before, self.epochs.versions())
            self.reference_time = self._wall()
        self.swapped()

    def rename(self, version: str) -> None:
        """Count under another version of the model, against the same reference if there is one."""
        with self.lock:
            if self.epoch is not None:
                self.swap(self.epoch.profile, self.source, version)
            else:
                self.fold()
                self.version = version
                self.announce()

    def read(self, others: Iterable[EpochShare] | None = None) -> Reading | None:
        """Fold what waits, and read the window of all workers; None without a reference.

        Parameters
        ----------
        others
            What other workers have counted of this model. By default they are asked.
        """
        if interrupted():
            return None
        others = list(self.others() if others is None else others)  # before the lock: it may take a while
        with self.lock:
            self.fold()
            now = self._clock()
            if self._settings.event_time:
                # -inf before the first row: the wall clock would make rows of the past late.
                epoch = self.epoch
                fitting = [share.latest for share in others if epoch is not None and epoch.fits(share)]
                now = max([self._latest, *fitting])
            return read(self.epochs, others, now)

    def shares(self) -> list[EpochShare]:
        """What this worker has counted, for the others to read. The window is not copied."""
        with self.lock:
            found = self.epochs.shares(self._latest if self._settings.event_time else self._clock())
            if found:
                found[0].streams = self.detection.sums()
                found[0].latest = float(self._latest)
            return found
