"""From rows to counts, off the request's way: buffer, fold, epochs, signals and learning of one model."""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable, Mapping
from itertools import compress
from typing import Any, NamedTuple

import numpy as np

from ._types import ABSENT, Clock, Counts, Floats
from .buffer import Batch, Buffer, Group, gather, runs
from .epoch import Epoch
from .exceptions import ReferenceFileError, TableError
from .files import ReferenceProfile
from .guard import Guard
from .learning import Learner
from .pulse import PULSE, TICK_SECONDS
from .reference import CONFIDENCE, PREDICTION
from .series import Series
from .settings import Settings
from .signals import Signal
from .tally import Tally, numbers
from .times import seconds_of
from .window import Content

_LOG = logging.getLogger("modelwatch")
_MOST_LEFT = 8  # epochs whose bin counters go on if they come back
FOLD_ROWS = 1024
"""So many rows do not wait for the tick."""
_AHEAD_SECONDS = 3600.0  # timestamps further in the future are taken for this
_AGO_SECONDS = -1e12  # and those before this for this: far from where numbers of slots would overflow


class Reading(NamedTuple):
    """What a scrape or a report begins with: the epoch, what is in its window, and a copy of its totals."""

    epoch: Epoch
    content: Content
    totals: Counts


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
    epoch, previous
        The reference in force with its window, and the one before it, if any.
    wanted
        What to take from a row: the reference's features, and with event time its time. The same tuple until a swap;
        None while there is no reference.
    signals
        Streams of means under a detector.
    learner
        Collects rows for a reference, while there is none and one is wanted.
    reference_time
        When the reference was taken, in seconds since 1970.
    swapped
        Called after every swap.

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
        self._past: dict[tuple[str, str, str], int] = {}
        self._totals: dict[tuple[str, str], Counts] = {}  # of epochs that were left, by version and cells
        self._past_signals: dict[tuple[str, str], Signal] = {}
        self._latest = -np.inf  # the largest timestamp seen
        self._last_tick = clock()
        self._generation = -1
        self._woken = False
        self._counted_dropped = 0
        self.lost = 0
        self.version = version
        self.source = "none"
        self.buffer = Buffer(settings.buffer_rows)
        self.epoch: Epoch | None = None
        self.wanted: tuple[str, ...] | None = None
        self.previous: Epoch | None = None
        self.signals: list[Signal] = []
        self.learner: Learner | None = None
        self.reference_time: float | None = None
        self.swapped: Callable[[], object] = int  # does nothing, until somebody wants to know
        self.forked()
        PULSE.know(self)

    def forked(self) -> None:
        """Renew the lock: in this process, just forked, no other thread can hold it."""
        self.lock = threading.RLock()

    def announce(self) -> None:
        """Make the series that every scrape shows from the start."""
        self._tally.announce(self.version)

    def evaluated(self, seconds: float) -> None:
        """Say that window and reference were compared, and how long it took."""
        self._tally.evaluated(self.version, seconds, self._wall())

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
                if now - self._last_tick >= 0.9 * TICK_SECONDS:
                    self._last_tick = now
                    for signal in self.signals:
                        if signal.tick():
                            signal.last_alarm = self._wall()
            self.learn()
        except Exception as error:  # noqa: BLE001 - the guard counts and logs it
            self._guard.swallow("tick", error)

    def fold(self) -> None:
        """Count everything that waits."""
        with self.lock:
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
        if self.epoch is None:
            self._without_reference(group)
            return
        for signal in self.signals:
            if signal.name == CONFIDENCE and confidences is not None:
                signal.add(confidences)
            elif signal.name == PREDICTION and group.predictions is not None:
                signal.add(numbers(group.predictions))
        columns: list[Any] = _ordered(group, self.epoch.profile.inputs)
        special: list[Any] = [group.predictions, group.confidences]
        times = self._times(group, self.epoch.profile.time)
        if self._settings.sample_rate < 1:
            kept = [self._random.random() < self._settings.sample_rate for _ in range(group.size)]
            columns = [list(compress(column, kept)) for column in columns]
            special = [None if column is None else list(compress(column, kept)) for column in special]
            times = times[kept]
        late = self.epoch.add(columns, special[0], special[1], times) if len(times) else 0
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

    def learn(self) -> None:
        """Make the reference of the rows learnt from, if there are enough."""
        learner = self.learner
        if learner is None or not learner.ready:
            return
        try:
            profile = learner.fit()
        except TableError as error:
            self.learner = Learner(self._settings.learn_rows, self._settings.learn_seconds)  # other rows may do
            self._guard.swallow("reference", error)
            return
        with self.lock:
            if self.epoch is not None:  # somebody reloaded meanwhile, and knew better
                return
            self.swap(profile, "learned")
        _LOG.info("modelwatch learnt the reference %s from %d rows", profile.id, profile.rows)
        if self._settings.learn_path is not None:
            try:
                profile.save(self._settings.learn_path)
            except ReferenceFileError as error:
                self._guard.swallow("reference", error)

    def swap(self, profile: ReferenceProfile, source: str, version: str | None = None) -> None:
        """Take another reference, and version: window, totals, signals and tally at one go.

        What waits still goes to the old one.
        """
        with self.lock:
            self.fold()
            if self.epoch is not None:
                self._past_signals |= {(self.epoch.version, signal.name): signal for signal in self.signals}
            self.learner = None
            self.source = source
            if version is not None:
                self.version = version
            self._turn(profile)
            self._latest = -np.inf
            self._tally.adopt(profile)
            self._tally.announce(self.version)
            self.signals = [
                Signal(name, feature.mean, feature.sd)
                for name in (PREDICTION, CONFIDENCE)
                if name in profile.names and (feature := profile.feature(name)).sd > 0
            ]
            for signal in self.signals:
                signal.go_on(self._past_signals.get((self.version, signal.name), signal))
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

    def _turn(self, profile: ReferenceProfile) -> None:
        """Begin a new epoch. Counters go on where those of the same labels stood: none may ever fall."""
        current = self.epoch
        if current is not None:
            for (feature, reason), rows in current.violations().items():
                key = (current.version, feature, reason)
                self._past[key] = self._past.get(key, 0) + rows
            left = (current.version, current.profile.hash)
            self._totals = dict([*self._totals.items(), (left, current.totals)][-_MOST_LEFT:])
        now = (self.version, profile.hash)
        if current is not None and (current.version, current.profile.hash) != now:
            self.previous = current
        self.epoch = Epoch(profile, self._settings, self.version, self._totals.pop(now, None))
        self.wanted = self.epoch.wanted
        kept = {self.version, *(version for version, _ in self._totals)}
        self._past = {key: rows for key, rows in self._past.items() if key[0] in kept}
        self._past_signals = {key: signal for key, signal in self._past_signals.items() if key[0] in kept}

    def violations(self) -> dict[tuple[str, str, str], int]:
        """Values that broke the reference, by (model version, feature, reason), since the start."""
        with self.lock:
            found = dict(self._past)
            if self.epoch is not None:
                for (feature, reason), rows in self.epoch.violations().items():
                    key = (self.epoch.version, feature, reason)
                    found[key] = found.get(key, 0) + rows
        shown = {old.version for old in (self.epoch, self.previous) if old is not None}
        return {key: rows for key, rows in found.items() if key[0] in shown}

    def read(self) -> Reading | None:
        """Fold what waits, and read the window; None without a reference."""
        with self.lock:
            self.fold()
            epoch = self.epoch
            if epoch is None:
                return None
            now = self._clock()
            if self._settings.event_time:
                now = self._latest  # -inf before the first row: the wall clock would make rows of the past late
            return Reading(epoch, epoch.content(now), epoch.totals.copy())


def _ordered(group: Group, names: tuple[str, ...]) -> list[Any]:
    """The group's columns in the order of `names`: rows may have been captured before a reload."""
    if group.names == names:
        return list(group.columns)
    there = dict(zip(group.names, group.columns, strict=True))
    return [there.get(name, [ABSENT] * group.size) for name in names]
