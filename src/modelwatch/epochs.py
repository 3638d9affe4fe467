"""The reference in force and those before it: whatever is swapped, no counter ever falls."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from ._types import Counts
from .epoch import Epoch
from .files import ReferenceProfile
from .settings import Settings
from .shares import EpochShare, totals_of

_MOST_LEFT = 8  # epochs whose bin counters go on if they come back


class Epochs:
    """The epochs of one model.

    Attributes
    ----------
    current, previous
        The reference in force with its window, and the one before it, if any.

    Notes
    -----
    Threads: one at a time; the caller holds a lock. Processes: each has its own.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.current: Epoch | None = None
        self.previous: Epoch | None = None
        self._violations: dict[tuple[str, str, str], int] = {}
        self._left: dict[tuple[str, str], tuple[Counts, EpochShare]] = {}  # totals, by version and cells

    def turn(self, profile: ReferenceProfile, version: str) -> Epoch:
        """Begin a new epoch. Counters go on where those of the same labels stood."""
        current = self.current
        if current is not None:
            for (feature, reason), rows in current.violations().items():
                key = (current.version, feature, reason)
                self._violations[key] = self._violations.get(key, 0) + rows
            self._left = dict([*self._left.items(), (current.key, (current.totals, current.share()))][-_MOST_LEFT:])
        now = (version, profile.hash)
        if current is not None and current.key != now:
            self.previous = current
        carried, _ = self._left.pop(now, (None, None))
        self.current = Epoch(profile, self._settings, version, carried)
        kept = self.versions()
        self._violations = {key: rows for key, rows in self._violations.items() if key[0] in kept}
        return self.current

    def versions(self) -> set[str]:
        """Versions of the model of which something is still known."""
        current = set() if self.current is None else {self.current.version}
        return current | {version for version, _ in self._left}

    def violations(self) -> dict[tuple[str, str, str], int]:
        """Values that broke the reference, by (model version, feature, reason), since the start."""
        found = dict(self._violations)
        if self.current is not None:
            for (feature, reason), rows in self.current.violations().items():
                key = (self.current.version, feature, reason)
                found[key] = found.get(key, 0) + rows
        shown = {old.version for old in (self.current, self.previous) if old is not None}
        return {key: rows for key, rows in found.items() if key[0] in shown}

    def forked(self) -> None:
        """Count from zero, in a process that has just been forked: what is counted is the parent's."""
        self.previous = None
        self._violations.clear()
        self._left.clear()
        if self.current is not None:
            self.current.forked()

    def shares(self, now: float) -> list[EpochShare]:
        """What is counted, for other workers to read: the one with the window first, as it is at `now`; not copied.

        Those that were left are among them: they may come back, when this worker is dead.
        """
        if self.current is None:
            return []
        return [self.current.share(now), *(share for key, (_, share) in self._left.items() if key != self.current.key)]

    def together(self, shares: Iterable[EpochShare]) -> list[EpochShare]:
        """Shares of workers that are dead as one for each reference and version; windows of the one in force only."""
        found: dict[tuple[str, str, int], list[EpochShare]] = {}
        for share in shares:
            found.setdefault((share.version, share.hash, len(share.binned)), []).append(share)
        epochs = [epoch for epoch in (self.current, self.previous) if epoch is not None]
        groups = list(found.values())
        kept = [
            group
            for number, group in enumerate(groups)
            if number >= len(groups) - _MOST_LEFT or any(epoch.fits(group[0]) for epoch in epochs)
        ]
        return [self._together(group) for group in kept]

    def _together(self, group: Sequence[EpochShare]) -> EpochShare:
        one, current = group[0], self.current
        window = None
        if current is not None and current.fits(one):
            window = current.window.together(current.windows(group))
        streams: dict[str, tuple[int, float]] = {}
        for share in group:
            for name, (rows, total) in share.streams.items():
                before = streams.get(name, (0, 0.0))
                streams[name] = (before[0] + rows, before[1] + total)
        return EpochShare(
            one.version,
            one.hash,
            sum(share.rows for share in group),
            np.any([share.seen for share in group], axis=0),
            *totals_of(group),
            window,
            streams,
            max(share.latest for share in group),
        )
