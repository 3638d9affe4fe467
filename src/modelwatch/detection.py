"""The detectors of one model: one for each signal, carried on over references, and over the death of a worker."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from .buffer import Group
from .epoch import Epoch
from .files import ReferenceProfile
from .reference import CONFIDENCE, PREDICTION
from .shares import EpochShare
from .signals import Signal
from .tally import numbers


class Detection:
    """The signals that are watched against the reference in force.

    Attributes
    ----------
    signals
        Streams of means under a detector.

    Notes
    -----
    Threads: one at a time; the caller holds a lock. Processes: all add up their rows; one lets the detectors see them.
    """

    def __init__(self) -> None:
        self.signals: list[Signal] = []
        self._key: tuple[str, str] | None = None
        self._past: dict[tuple[str, str], Signal] = {}

    def turn(self, profile: ReferenceProfile, version: str, before: Epoch | None, kept: Iterable[str]) -> None:
        """Watch against another reference; alarms are counted on. `kept`: versions of which something is known."""
        self._key = (version, profile.hash)
        if before is not None:
            self._past |= {(before.version, signal.name): signal for signal in self.signals}
        self.signals = [
            Signal(name, feature.mean, feature.sd)
            for name in (PREDICTION, CONFIDENCE)
            if name in profile.names and (feature := profile.feature(name)).sd > 0
        ]
        for signal in self.signals:
            signal.go_on(self._past.get((version, signal.name), signal))
        self._past = {key: signal for key, signal in self._past.items() if key[0] in {version, *kept}}

    def add(self, group: Group, confidences: Any) -> None:
        """Take the predictions and confidences of some rows."""
        for signal in self.signals:
            if signal.name == CONFIDENCE and confidences is not None:
                signal.add(confidences)
            elif signal.name == PREDICTION and group.predictions is not None:
                signal.add(numbers(group.predictions))

    def tick(self, others: Iterable[EpochShare], wall: Callable[[], float]) -> None:
        """Let the detectors see what has come since they last did, with what other workers have counted."""
        streams = [share.streams for share in others]
        for signal in self.signals:
            sums = [stream[signal.name] for stream in streams if signal.name in stream]
            if signal.tick(sum(rows for rows, _ in sums), sum(total for _, total in sums)):
                signal.last_alarm = wall()

    def sums(self) -> dict[str, tuple[int, float]]:
        """What this worker has added up, by signal."""
        return {signal.name: (signal.rows, signal.total) for signal in self.signals}

    def to_state(self) -> dict[str, Any]:
        """Where the detectors stand, and what they watch, as JSON takes it."""
        signals = {signal.name: signal.to_state() for signal in self.signals}
        return {"against": None if self._key is None else list(self._key), "signals": signals}

    def adopt(self, state: Mapping[str, Any]) -> None:
        """Let the detectors stand where those of another worker do, if they watch the same.

        Raises
        ------
        ConfigurationError, LookupError, OverflowError, TypeError, ValueError
            It is not what `to_state` returned.
        """
        if self._key is not None and state["against"] == list(self._key):
            for signal in self.signals:
                if signal.name in state["signals"]:
                    signal.adopt(state["signals"][signal.name])

    def forked(self) -> None:
        """Begin anew, in a process that has just been forked: what was seen is the parent's."""
        self._past.clear()
        for signal in self.signals:
            signal.forked()
