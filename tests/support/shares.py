"""Workers of one service within one process, and what they share: what the tests of the sharing modules are made of."""

from __future__ import annotations

import json
import os
import signal
import struct
import time
import traceback
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from modelwatch.buffer import Batch
from modelwatch.container import Container
from modelwatch.files import ReferenceProfile
from modelwatch.guard import Guard
from modelwatch.leading import Leading
from modelwatch.monitor import Monitor
from modelwatch.segments import Segments
from modelwatch.series import Key, Series, width
from modelwatch.settings import Settings
from modelwatch.shares import EpochShare, Share
from modelwatch.slots import RowsState, Slot, State, TimeState
from modelwatch.telling import Telling
from modelwatch.workers import Workers

PATIENCE = 30  # seconds after which what has to come is given up
SERVICE, APP = "1-1-here", "app"
START = struct.Struct("<8sIIQ")


class Still:
    """A pulse that never beats: nothing happens in a test but what it does."""

    generation = 1

    def know(self, ticked: object) -> None:
        """Nobody forks."""

    def add(self, ticked: object) -> None:
        """Nobody ticks."""

    def wake(self) -> None:
        """Nobody is woken."""


def until(is_so: Callable[[], Any], what: str) -> Any:
    """Wait until something is so; what it gives then."""
    deadline = time.monotonic() + PATIENCE
    while not (found := is_so()):
        assert time.monotonic() < deadline, f"in vain waited until {what}"
        time.sleep(0.002)
    return found


def descriptors() -> int:
    """How many files this process has open."""
    return len(os.listdir("/proc/self/fd"))


def child(function: Callable[[], object]) -> int:
    """Pid of a fork that calls a function and is gone: 0 if all went well, SIGALRM if it hung."""
    pid = os.fork()
    if pid:
        return pid
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, PATIENCE)
    try:
        function()
    except BaseException:  # noqa: BLE001 - a child must never go on as a second test run
        traceback.print_exc()
        os._exit(3)
    os._exit(0)


def ended(pid: int) -> int:
    """How a child ended: 0 well, below zero by a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


# Files


def forged(head: Any, pieces: Sequence[bytes] = (), **other: Any) -> bytes:
    """A file whose checksums are right whatever stands in its head; `head` as text, or as what JSON makes of it."""
    text = head if isinstance(head, bytes) else json.dumps(head).encode()
    fields = {"magic": b"mwcounts", "layout": 1, "crc": zlib.crc32(text), "length": len(text)} | other
    return START.pack(*fields.values()) + text + b"".join(pieces)


def told(pieces: Sequence[bytes]) -> list[list[int]]:
    """What a head says of its pieces, if it is right."""
    return [[len(data), zlib.crc32(data)] for data in pieces]


def head_of(path: Path) -> Any:
    """The head of a file."""
    data = path.read_bytes()
    return json.loads(data[START.size : START.size + START.unpack_from(data)[3]])


def spoil(path: Path, number: int) -> None:
    """Turn a bit in a piece of a file, in place."""
    data = bytearray(path.read_bytes())
    sizes = [size for size, _ in head_of(path)["pieces"]]
    data[START.size + START.unpack_from(data)[3] + sum(sizes[:number])] ^= 1
    assert sizes[number]
    path.write_bytes(data)


# Shares


def share_of(
    series: Mapping[Key, Sequence[float] | float],
    *,
    name: str = "w",
    alive: bool = True,
    models: Mapping[str, list[EpochShare]] | None = None,
) -> Share:
    """A share of a worker: numbers by key, lists for histograms."""
    parts = [np.atleast_1d(np.array(numbers, dtype=np.float64)) for numbers in series.values()]
    assert [len(part) for part in parts] == [width(key[2]) for key in series]
    values = np.concatenate(parts) if parts else np.empty(0)
    return Share(name, alive, tuple(series), values, dict(models or {}))


def series_of(keys: Iterable[Key], values: Any) -> dict[Key, list[float]]:
    """Numbers by key."""
    found, start = {}, 0
    for key in keys:
        found[key] = list(values[start : start + width(key[2])])
        start += width(key[2])
    assert start == len(values)
    return found


def plain(thing: Any) -> Any:
    """What is in a share, in a form that can be compared, and that does not change with it."""
    found: Any = None
    if isinstance(thing, Share):
        models = {model: plain(epochs) for model, epochs in thing.models.items()}
        found = thing.name, thing.alive, series_of(thing.keys, thing.values.tolist()), models
    elif isinstance(thing, list):
        found = [plain(item) for item in thing]
    elif isinstance(thing, EpochShare):
        arrays = [(array.dtype.str, array.tolist()) for array in (thing.seen, thing.binned, thing.missing)]
        found = thing.version, thing.hash, thing.rows, arrays, plain(thing.window), dict(thing.streams), thing.latest
    elif isinstance(thing, TimeState):
        slots = [{number: plain(slot) for number, slot in part.items()} for part in (thing.fine, thing.coarse)]
        found = thing.shape, thing.end, slots, plain(thing.whole)
    elif isinstance(thing, RowsState):
        found = thing.shape, thing.times.tolist(), thing.cells.tolist()
    elif isinstance(thing, Slot):
        found = thing.rows, thing.first, thing.counts.dtype.str, thing.counts.tolist()
    else:
        assert thing is None
    return found


def through_file(share: Share, path: Path, segments: Segments | None = None, *, alive: bool | None = None) -> Share:
    """A share as another worker reads it."""
    segments = segments or Segments()
    path.write_bytes(b"".join(segments.pack(share, began=0)))
    return Segments().unpack(Container(path), share.name, alive=share.alive if alive is None else alive)


# Engines


def reference_of(seed: int = 0, rows: int = 400, *, shift: float = 0.0, prediction: bool = True) -> ReferenceProfile:
    """A numeric feature, a categorical one, a prediction and a confidence."""
    random = np.random.default_rng(seed)
    table: dict[str, Any] = {
        "a": random.normal(shift, 1.0, rows),
        "c": [f"k{i}" for i in random.integers(0, 4, rows)],
    }
    if not prediction:
        return ReferenceProfile.fit(table)
    table |= {"p": random.normal(size=rows), "q": random.random(rows)}
    return ReferenceProfile.fit(table, prediction="p", confidence="q")


def batch_of(
    rows: Sequence[tuple[Any, ...]],
    names: tuple[str, ...] = ("a", "c"),
    *,
    predictions: Any = None,
    confidences: Any = None,
    timestamps: Any = None,
) -> Batch:
    """Rows that came together."""
    return Batch(len(rows), names, list(rows), None, predictions, confidences, timestamps, "1", False)


class Worker:
    """One worker of a service, without the threads that it has in a process of its own."""

    def __init__(
        self, base: Path, *, reference: Any = None, clock: Any = None, app: str = APP, name: str = "m", **options: Any
    ) -> None:
        settings = Settings(**options)
        self.guard = Guard()
        self.series = Series(settings.max_series)
        clocks = {} if clock is None else {"clock": clock, "wall": clock}
        self.monitor = Monitor(
            name, "1", reference=reference, settings=settings, series=self.series, guard=self.guard, **clocks
        )
        self.engine = self.monitor.engine
        self.engine.alone = False
        self.segments = Segments()
        self.workers = Workers.join(str(base), SERVICE, app)
        self.telling = Telling(self.workers, self.guard)
        self.leading = Leading(
            self.workers,
            self.segments,
            guard=self.guard,
            limit=settings.max_series,
            monitors=lambda: [self.monitor],
            tell=self.telling.tell,
        )

    @property
    def home(self) -> Path:
        """Where all workers are."""
        return self.workers.home

    @property
    def file(self) -> Path:
        """What it has published."""
        return self.home / f"{self.workers.name}.counts"

    def add(self, rows: Sequence[tuple[Any, ...]], **more: Any) -> None:
        """Take rows."""
        self.engine.append(batch_of(rows, **more))

    def share(self) -> Share:
        """What it has counted."""
        self.engine.fold()
        keys, values = self.series.taken()
        models = {self.monitor.model_name: self.engine.shares()}
        return Share(self.workers.name, True, keys, values, models)

    def publish(self) -> None:
        """Leave for the others what it has counted."""
        began = time.monotonic_ns()
        self.workers.publish(self.segments.pack(self.share(), began=began))

    def gather(self) -> list[Share]:
        """What the others have left."""
        found = [self.workers.unpacked(self.segments, one) for one in self.workers.others()]
        return [share for share in found if share is not None]

    def tick(self) -> None:
        """Lead, if it is its turn."""
        self.leading.tick(self.gather)

    def die(self) -> None:
        """As the kernel does it: what it had open is closed, and nothing else happens."""
        self.workers.leave()


def state(engine: Any) -> State:
    """The window of an engine."""
    window: State = engine.shares()[0].window
    return window
