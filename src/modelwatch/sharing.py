"""One answer from several workers: what this one publishes, what a scrape adds up, and what only one of them does.

::

    tick, or asked ─► fold, settle ─► this worker's share ─► its file
    scrape ─► ask the others, read their files ─► drift of all ─► own share, published ─► series and samples of all
    elected worker, each tick ─► detectors over the sums of all, learning, folding the dead together

In a single process there is one share, which goes nowhere; all else is the same.
"""

from __future__ import annotations

import math
import os
import select
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple, Protocol

from .adding import Adder
from .guard import Guard
from .leading import Leading, epochs_of
from .lodging import service_key
from .metrics.drift import DriftSource
from .metrics.families import Source
from .monitor import Monitor
from .notices import Notices
from .publishing import Publisher
from .pulse import PULSE, TICK_SECONDS
from .reading import Reading
from .report import DriftReport
from .segments import Segments
from .series import Cell, Sample, Series, cells_of
from .settings import Settings
from .shares import EpochShare, Share
from .telling import Telling
from .workers import Workers

_SCRAPE_PATIENCE = 0.5  # a busy machine; who does not answer at all is not waited for twice
_REPORT_PATIENCE = 0.02
_RETRY_SECONDS = 10.0
_ALL: weakref.WeakSet[Sharing] = weakref.WeakSet()
_APPS: Counter[str] = Counter()


class Port(Protocol):
    """What serves the metrics by itself, besides the app."""

    def open(self) -> None:
        """Begin. Raises OSError if it cannot."""


class Sight(NamedTuple):
    """What all workers have counted: each model with its report and what that was made of, None without a reference."""

    models: list[tuple[Monitor, tuple[DriftReport, Reading] | None]]
    items: list[Sample | Cell]


class Sharing:
    """The share of this process in what a service has counted, and how it is added to those of the others.

    Parameters
    ----------
    settings, series, guard
        The app's.
    monitors
        Gives the monitors of the app.

    Attributes
    ----------
    publisher
        Takes the share of this process.
    port
        Opened by one of the workers, if there is one.

    Notes
    -----
    Threads: any number. A thread of its own publishes once a second and whenever another worker asks; it starts when
    the app does, or with the first request or scrape, and only in a worker.
    Processes: a forked child begins anew. Nothing is left to the end of a process.
    """

    def __init__(self, settings: Settings, series: Series, guard: Guard, monitors: Callable[[], list[Monitor]]) -> None:
        self._segments = Segments()
        self.publisher = Publisher(series, guard, self._segments, monitors)
        self.port: Port | None = None
        self._settings, self._guard, self._monitors = settings, guard, monitors
        self._app = ""
        self._begin()
        _ALL.add(self)

    def _begin(self) -> None:
        self._lock = threading.RLock()
        self._pid = 0
        self._joining = False
        self._next_try = math.inf
        self._thread: threading.Thread | None = None
        self._adder = Adder(self._settings.max_series)
        self._leading: Leading | None = None
        self._telling: Telling | None = None
        self._next_tick = 0.0
        self._port_is_open = False

    def forked(self) -> None:
        """Begin anew, in a process that has just been forked."""
        workers = self.publisher.workers
        self.publisher.forked()
        self._begin()
        for monitor in self._monitors():
            monitor.references.forked()
        if workers is not None:
            workers.leave()
        self._guard.forget()

    def name(self, model_name: str) -> None:
        """Say how the app's first model is called: by that the workers know that they serve the same app."""
        if not self._app:
            self._app = f"{Notices.key(model_name)}-{_APPS[model_name]}"
            _APPS[model_name] += 1

    def ensure(self) -> None:
        """See to it that this process knows whose worker it is, and does what is to be done in the background."""
        if self._is_to_join():
            with self._lock:
                if self._is_to_join() and not self._joining:
                    self._joining = True  # a signal handler may ask for the same in the middle of it
                    try:
                        self._join()
                    finally:
                        self._pid, self._joining = os.getpid(), False
        elif self.publisher.workers is None:
            self._open_port()
        elif self._thread is None or not self._thread.is_alive():
            self._start()

    def _is_to_join(self) -> bool:
        return self._pid != os.getpid() or time.monotonic() >= self._next_try

    def _join(self) -> None:
        service = service_key()
        self._next_try = math.inf
        if service is not None and self._app:
            try:
                workers = self.publisher.workers = Workers.join(self._settings.dir, service, self._app)
                self._telling = Telling(workers, self._guard)
                self._leading = Leading(
                    workers,
                    self._segments,
                    guard=self._guard,
                    limit=self._settings.max_series,
                    monitors=self._monitors,
                    tell=self._telling.tell,
                )
            except OSError as error:
                self.publisher.degraded.begin(
                    "directory",
                    "the workers cannot share what they count, so that each shows its own only: %s (%s). Name a "
                    "directory that can be written with Settings(dir=…) or MODELWATCH_DIR.",
                    error.strerror,
                    error.filename,
                )
                self._next_try = time.monotonic() + _RETRY_SECONDS
        for monitor in self._monitors():
            self._adopt(monitor)
        if self.publisher.workers is not None:
            self._start()
        else:
            self._open_port()

    def _adopt(self, monitor: Monitor) -> None:
        """Take a monitor in."""
        if self.publisher.workers is not None:
            monitor.engine.alone = False
            monitor.engine.others = partial(self._asked, monitor)
            if self._telling is not None:
                monitor.references.told = partial(self._telling.tell, monitor)
                self._telling.hear(monitor)
        elif monitor.references.watched is not None:
            try:
                PULSE.add(monitor.engine)
            except RuntimeError as error:
                self._guard.swallow("tick", error)

    def _start(self) -> None:
        workers = self.publisher.workers
        if workers is not None:
            thread = threading.Thread(
                target=_serve, args=(weakref.ref(self), workers), name="modelwatch-share", daemon=True
            )
            try:
                thread.start()
                self._thread = thread
            except RuntimeError as error:  # no thread to be had: scrapes still publish
                self._guard.swallow("tick", error)

    # What a scrape shows

    def sources(self) -> Iterator[Source]:
        """What a scrape reads, in this order: the drift layer first, for it folds what waits."""
        self.ensure()
        others = self._gather(_SCRAPE_PATIENCE)
        if self._leading is not None:
            self._leading.follow()
        for monitor in self._monitors():
            yield partial(DriftSource(monitor), epochs_of(others, monitor))
        own, elsewhere = self.publisher.publish(fold=False)
        yield partial(self._cells, [own, *others])
        yield partial(iter, elsewhere)

    def sight(self, *, asks: bool = True) -> Sight:
        """The same as one object, for the live page. `asks`: the others publish first what they have counted."""
        self.ensure()
        others = self._gather(_SCRAPE_PATIENCE if asks else 0.0)
        if self._leading is not None:
            self._leading.follow()
        models = [(monitor, monitor.evaluate(epochs_of(others, monitor))) for monitor in self._monitors()]
        own, elsewhere = self.publisher.publish(fold=False)
        return Sight(models, [*self._cells([own, *others]), *elsewhere])

    def _cells(self, shares: Sequence[Share]) -> Iterator[Cell]:
        if len(shares) == 1:
            return cells_of(shares[0].keys, shares[0].values.tolist())
        with self._lock:
            keys, values = self._adder.add(shares)
        return cells_of(keys, values.tolist())

    def _gather(self, patience: float) -> list[Share]:
        """The shares of all others, the dead too."""
        workers = self.publisher.workers
        if workers is None:
            return []
        try:
            published = workers.others(patience)
        except OSError as error:
            self.publisher.fails(error)
            return []
        return [share for one in published if (share := workers.unpacked(self._segments, one)) is not None]

    def _asked(self, monitor: Monitor) -> list[EpochShare]:
        return epochs_of(self._gather(_REPORT_PATIENCE), monitor)

    # What happens in the background

    def turn(self) -> None:
        """Publish; once a second also whatever else there is to do. Called by the thread; never raises."""
        if self.publisher.workers is None:
            return
        try:
            now = time.monotonic()
            due = now >= self._next_tick
            if due:  # first of all: whatever fails below, the thread rests until then
                self._next_tick = now + TICK_SECONDS
            for monitor in self._monitors():
                if monitor.engine.alone:  # it came later
                    self._adopt(monitor)
                if self._telling is not None:
                    self._telling.hear(monitor)
                if due:
                    monitor.references.look()
            if due:
                self._open_port()
            self.publisher.publish()
            if due and self._leading is not None:
                self._leading.tick(partial(self._gather, 0.0))
        except OSError as error:
            self.publisher.fails(error)
        except Exception as error:  # noqa: BLE001 - the guard counts and logs it
            self._guard.swallow("tick", error)

    def until_tick(self) -> float:
        """Seconds until the next turn is due, if nobody asks before."""
        return min(max(self._next_tick - time.monotonic(), 0.0), TICK_SECONDS)

    def _open_port(self) -> None:
        workers = self.publisher.workers
        if self.port is None or self._port_is_open or (workers is not None and not workers.lock("port")):
            return
        try:
            self.port.open()
            self._port_is_open = True
            self.publisher.degraded.end("port")
        except OSError as error:
            self.publisher.degraded.begin(
                "port",
                "port %s cannot be opened, so that the metrics are nowhere; it is tried again and again: %s.",
                self._settings.metrics_port,
                error,
            )


def _serve(reference: weakref.ref[Sharing], workers: Workers) -> None:
    """The thread: until the process ends, or nobody knows the app any more."""
    bell = select.poll()  # not `select`, which knows no descriptor above 1,023
    bell.register(workers.bell, select.POLLIN)
    pause = 0.0
    while True:
        if bell.poll(pause * 1000):
            workers.rung()
        sharing = reference()
        if sharing is None:
            workers.leave()
            return
        sharing.turn()
        pause = sharing.until_tick()
        del sharing  # until then nothing here keeps the app alive


def _forked() -> None:
    for sharing in list(_ALL):
        sharing.forked()


os.register_at_fork(after_in_child=_forked)
