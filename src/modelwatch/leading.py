"""What depends on order, or must be done once: by the elected worker for all. The others follow."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

from .adding import Adder, counted
from .guard import Guard
from .monitor import Monitor
from .notices import Notices
from .segments import Segments
from .shares import EpochShare, Share
from .workers import PAST, Published, Workers

_ELECTED = "elected"


class Leading:
    """The part of one worker in what only one of them does.

    Parameters
    ----------
    workers, segments, guard
        Of this worker and its app.
    limit
        Label sets of one metric.
    monitors
        Gives the monitors of the app.
    tell
        Lets all workers take the reference of a monitor.

    Notes
    -----
    The state of the detectors is a file that the elected worker replaces as a whole, with how far they have come in it:
    whoever is elected next goes on from there, so that no row is seen twice and no alarm counted twice.

    Threads: one at a time ticks, any number follow. Processes: each has its own; a lock that the kernel opens when its
    holder dies elects one.
    """

    def __init__(
        self,
        workers: Workers,
        segments: Segments,
        *,
        guard: Guard,
        limit: int,
        monitors: Callable[[], list[Monitor]],
        tell: Callable[[Monitor], None],
    ) -> None:
        self._workers, self._segments, self._guard, self._limit = workers, segments, guard, limit
        self._monitors, self._tell = monitors, tell
        self._notices = Notices()
        self._elected = False
        self._told = b""

    def tick(self, gather: Callable[[], Sequence[Share]]) -> None:
        """Lead, if this worker is the elected one or can become it. `gather` gives the shares of the others.

        Raises
        ------
        OSError
            The directory cannot be written: what has been found stays in this worker.
        """
        if not self._elected:
            self.follow()
            if not self._workers.lock(_ELECTED):
                return
            self.follow()  # once more: whoever led before may have gone on until it died
            self._elected = True
        others = gather()
        for monitor in self._monitors():
            monitor.engine.detect(epochs_of(others, monitor))
            if monitor.engine.learn():
                self._tell(monitor)
        self._workers.fold(self._together)
        told = json.dumps({monitor.model_name: _detectors(monitor) for monitor in self._monitors()}).encode()
        if told != self._told:
            self._workers.write(f"{_ELECTED}.json", [told])
            self._told = told

    def follow(self) -> None:
        """Let the detectors stand where those of the elected worker do."""
        told = None if self._elected else self._notices.changed(self._workers.home / f"{_ELECTED}.json")
        if told is None:
            return
        try:
            states = json.loads(told)
            for monitor in self._monitors():
                if monitor.model_name in states:
                    with monitor.engine.lock:
                        monitor.engine.detection.adopt(states[monitor.model_name])
        except Exception as error:  # noqa: BLE001 - whatever the file says, each goes on by itself
            self._guard.swallow("tick", error)

    def _together(self, dead: Sequence[Published], left: Sequence[str]) -> list[bytes] | None:
        """The shares of the dead as one; None if there is none that is not in the past yet."""
        shares = [share for one in dead if (share := self._workers.unpacked(self._segments, one)) is not None]
        within = [share.name for share in shares if share.name != PAST]
        if not within:
            return None
        kept = list(map(counted, shares))
        models: dict[str, list[EpochShare]] = {}
        for monitor in self._monitors():
            with monitor.engine.lock:
                models[monitor.model_name] = monitor.engine.epochs.together(epochs_of(kept, monitor))
        share = Share(PAST, False, *Adder(self._limit).add(kept), models)
        return self._segments.pack(share, began=0, folded=[*left, *within])


def _detectors(monitor: Monitor) -> object:
    with monitor.engine.lock:
        return monitor.engine.detection.to_state()


def epochs_of(shares: Sequence[Share], monitor: Monitor) -> list[EpochShare]:
    """What is counted of a model in shares."""
    return [epoch for share in shares for epoch in share.models.get(monitor.model_name, ())]
