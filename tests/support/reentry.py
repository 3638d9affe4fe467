"""What a signal handler, a collection of garbage or a finalizer can do: to come in the middle of the library's work.

Run as a script, in a process of its own: `reentry.py lines --tries 100`. It prints what was done, and what was wrong,
as JSON. A thread that waits for a lock that it holds itself is woken by an alarm, and told.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import logging
import random
import signal
import sys
import traceback
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
from fastapi import FastAPI
from prometheus_client import generate_latest
from pydantic import BaseModel

import modelwatch
import modelwatch.guard
import modelwatch.pulse

PATIENCE = 2.0
"""Seconds after which who waits for a lock has waited too long."""
MOST_ROWS = 70_000  # more than the buffer takes
INTERRUPTED = ("modelwatch", "prometheus_client/registry", "threading.py", "weakref.py", "queue.py")
# A finalizer that sets a context variable in the middle of setting one crashes CPython 3.11, whoever does it: `set`
# works on what the context has lent it. Here they are set, by numpy and by ours.
SETTING_CONTEXT = ("numpy/_core/_ufunc_config.py", "modelwatch/_fastapi.py", "modelwatch/ignoring.py")
RNG = np.random.default_rng(0)
REFERENCE = modelwatch.ReferenceProfile.fit({"a": RNG.normal(size=300), "p": RNG.random(300)}, prediction="p")
OTHER = modelwatch.ReferenceProfile.fit({"b": RNG.normal(size=300), "a": RNG.normal(size=300)})


class StuckError(BaseException):
    """The alarm: nobody swallows it."""


class Row(BaseModel):
    """A row of either model."""

    a: float


class Bench:
    """A service with two models, what can be done with it, and how many rows it was given.

    Attributes
    ----------
    rows
        That were recorded, by hand or with a request.
    swallowed
        Errors that the guard was given.
    """

    def __init__(self) -> None:
        self.rows = self.versions = 0
        self.swallowed: list[str] = []
        app = self.app = FastAPI()

        @app.post("/one")
        async def one(row: Row) -> dict[str, float]:
            return {"p": 0.5}

        @app.post("/two")
        async def two(row: Row) -> dict[str, float]:
            return {"p": 0.5}

        given = {"settings": modelwatch.Settings(metrics={"gpu": False}), "reference": REFERENCE}
        self.one = modelwatch.instrument(app, model_name="one", routes=["/one"], **given)
        self.two = modelwatch.instrument(app, model_name="two", routes=["/two"], **given)
        for _ in range(2):
            self.request()
        self.collect()

    def record(self) -> None:
        """Rows of both models, by hand."""
        self.rows += 2
        self.one.record({"a": 1.0}, 0.3)
        self.two.record({"a": 1.0}, 0.3)

    def wake(self) -> None:
        """So many rows that the background thread is woken."""
        self.rows += 4_000
        self.one.record({"a": [1.0] * 2_000})
        self.two.record({"a": [1.0] * 2_000})

    def begin(self) -> None:
        """The first row of a process: it starts the background thread."""
        modelwatch.pulse.PULSE.generation += 1
        self.record()

    def lose(self) -> None:
        """More rows than have room."""
        self.rows += MOST_ROWS
        self.one.record({"a": [1.0] * MOST_ROWS})
        self.one.flush()

    def label(self) -> None:
        """A row of a version that was never seen: it makes series."""
        self.versions += 1
        self.rows += 1
        self.one.record({"a": 1.0}, 0.3, model_version=str(self.versions))
        self.one.flush()

    def flush(self) -> None:
        """Fold what waits."""
        self.record()
        self.one.flush()
        self.two.flush()

    def tick(self) -> None:
        """What the background thread does."""
        self.record()
        self.one.engine.tick()

    def report(self) -> None:
        """Window and reference are compared."""
        self.one.report()

    def reload(self) -> None:
        """Another reference comes into force, and goes."""
        self.one.reload(OTHER)
        self.one.reload(REFERENCE)

    def settle(self) -> None:
        """Count what requests have put off."""
        self.request()
        self.one.series.settle()

    def collect(self) -> None:
        """A scrape by prometheus_client's own means."""
        generate_latest(self.one.registry)

    def request(self) -> None:
        """A request from its beginning to its end, without an event loop: nothing in it waits."""
        body = {"type": "http.request", "body": b'{"a": 1.0}', "more_body": False}

        async def receive() -> dict[str, Any]:
            return body

        async def send(message: Any) -> None:
            pass

        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "scheme": "http", "method": "POST",
            "path": "/two", "raw_path": b"/two", "query_string": b"", "root_path": "", "state": {},
            "headers": [(b"content-type", b"application/json")], "client": ("c", 1), "server": ("s", 80),
        }  # fmt: skip
        self.rows += 1
        try:
            self.app(scope, receive, send).send(None)
        except StopIteration:
            return
        raise RuntimeError("the request waits for something")

    def counted(self) -> float:
        """Rows that ended somewhere, wherever that is; none of the service's may be missing."""
        self.one.flush()
        self.two.flush()
        waiting = self.one.engine.buffer.waiting + self.two.engine.buffer.waiting
        cells = self.one.series.cells()
        return waiting + sum(cell.values[0] for cell in cells if cell.metric == "modelwatch_rows_total")


INNER = ("record", "wake", "label", "flush", "tick", "report", "reload", "settle", "collect", "request")
OUTER = (*INNER, "begin", "begin", "lose")


def within(seconds: float, function: Callable[[], object]) -> str | None:
    """Call it; where it stood if it took too long, else None. Only in the main thread."""

    def ring(number: int, frame: Any) -> None:
        raise StuckError

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        function()
    except StuckError as stuck:
        frames = traceback.extract_tb(stuck.__traceback__)[-6:]
        return " < ".join(f"{frame.filename.rpartition('/')[2]}:{frame.lineno} {frame.name}" for frame in frames[::-1])
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    return None


Place = tuple[str, int]
"""A line: its file and number."""


class Interruption:
    """Calls something at one line of what is done, in the same thread, as a handler would.

    Parameters
    ----------
    at
        The line, and which of the times that it is passed; None only looks.
    inner
        What is called.

    Attributes
    ----------
    passed
        How often each line was passed, until then.
    where
        It was, if it came to that.
    stuck, raised
        What came of it.
    """

    def __init__(self, at: tuple[Place, int] | None = None, inner: Callable[[], object] = int) -> None:
        self._at, self._inner = at, inner
        self.passed: Counter[Place] = Counter()
        self.where = self.stuck = self.raised = ""

    def __call__(self, outer: Callable[[], object]) -> None:
        """Do something, with the interruption."""
        sys.settrace(self._entered)
        try:
            outer()
        except Exception as error:  # noqa: BLE001 - it is what is looked for
            self.raised = f"the one that was interrupted raised {error!r}"
        finally:
            sys.settrace(None)

    def _entered(self, frame: Any, event: str, argument: Any) -> Any:
        return self._passing if any(part in frame.f_code.co_filename for part in INTERRUPTED) else None

    def _passing(self, frame: Any, event: str, argument: Any) -> Any:
        place = (frame.f_code.co_filename, frame.f_lineno)
        self.passed[place] += 1
        if self._at == (place, self.passed[place]) and not self.where:
            self.where = f"{place[0].rpartition('/')[2]}:{place[1]} {frame.f_code.co_name}"
            sys.settrace(None)
            try:
                self.stuck = within(PATIENCE, self._inner) or ""
            except Exception as error:  # noqa: BLE001 - it is what is looked for
                self.raised = repr(error)
        return self._passing


def lines(bench: Bench, tries: int, draw: random.Random) -> dict[str, Any]:
    """Interrupt everything with everything, each time at a line that is drawn: rare ones as often as those of loops."""
    passed: dict[str, Counter[Place]] = {}
    problems: list[str] = []
    came, places = 0, set()
    pairs = [(outer, inner) for outer in OUTER for inner in INNER]
    draw.shuffle(pairs)
    for number in range(tries):
        outer, inner = pairs[number % len(pairs)]
        if outer not in passed:
            looking = Interruption()
            looking(getattr(bench, outer))
            passed[outer] = looking.passed
        place = draw.choice(sorted(passed[outer]))
        interruption = Interruption((place, draw.randint(1, passed[outer][place])), getattr(bench, inner))
        interruption(getattr(bench, outer))
        came += bool(interruption.where)
        places.add(interruption.where)
        told = f"{inner} in the middle of {outer} at {interruption.where}"
        if interruption.stuck:
            problems.append(f"{told} is stuck: {interruption.stuck}")
            bench = Bench()  # a lock may be held for ever
        elif interruption.raised:
            problems.append(f"{told}: {interruption.raised}")
        check(bench, told, problems)
    return {"tries": came, "pairs": min(tries, len(pairs)), "places": len(places), "problems": problems, "bench": bench}


def signals(bench: Bench, tries: int, draw: random.Random) -> dict[str, Any]:
    """Let real signals come at any time, each of them does something."""
    come, problems, active = [0], [], [False]
    inner = [getattr(bench, name) for name in INNER]

    def handle(number: int, frame: Any) -> None:
        if active[0]:
            return
        active[0] = True
        come[0] += 1
        try:
            inner[draw.randrange(len(inner))]()
        except Exception as error:  # noqa: BLE001 - it is what is looked for
            problems.append(f"the handler raised {error!r} at {frame.f_code.co_name}:{frame.f_lineno}")
        finally:
            active[0] = False
            if come[0] < tries:
                signal.setitimer(signal.ITIMER_VIRTUAL, draw.uniform(1e-4, 2e-3))

    signal.signal(signal.SIGVTALRM, handle)
    signal.setitimer(signal.ITIMER_VIRTUAL, 1e-3)
    steps = 0
    while come[0] < tries:
        name = OUTER[steps % len(OUTER)]
        steps += 1
        stuck = within(10 * PATIENCE, getattr(bench, name))
        if stuck:
            problems.append(f"{name} is stuck: {stuck}")
            break
    signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    check(bench, "signals", problems)
    return {"tries": come[0], "steps": steps, "problems": problems, "bench": bench}


def garbage(bench: Bench, tries: int, draw: random.Random) -> dict[str, Any]:
    """Let finalizers and callbacks of the garbage collector touch the metrics, in whatever thread that happens."""
    come, problems, active = [0], [], [False]
    inner = [getattr(bench, name) for name in INNER]

    def touch(why: str) -> None:
        if active[0] or come[0] >= tries or sys._getframe(2).f_code.co_filename.endswith(SETTING_CONTEXT):
            return
        active[0] = True
        come[0] += 1
        try:
            inner[draw.randrange(len(inner))]()
        except Exception as error:  # noqa: BLE001 - it is what is looked for
            problems.append(f"{why} raised {error!r}")
        finally:
            active[0] = False

    class Finalized:
        def __init__(self) -> None:
            self.itself = self

        def __del__(self) -> None:
            touch("a finalizer")

    def called(phase: str, info: Any) -> None:
        if phase == "start":
            touch("a callback")
        else:
            Finalized()

    gc.callbacks.append(called)
    before = gc.get_threshold()
    gc.set_threshold(20, 5, 5)
    steps = 0
    try:
        while come[0] < tries:
            name = OUTER[steps % len(OUTER)]
            steps += 1
            stuck = within(10 * PATIENCE, getattr(bench, name))
            if stuck:
                problems.append(f"{name} is stuck: {stuck}")
                break
    finally:
        gc.set_threshold(*before)
        gc.callbacks.remove(called)
    check(bench, "garbage", problems)
    return {"tries": come[0], "steps": steps, "problems": problems, "bench": bench}


def check(bench: Bench, told: str, problems: list[str]) -> None:
    """No row has gone without a trace."""
    found: list[float] = []
    stuck = within(PATIENCE, lambda: found.append(bench.counted()))
    if stuck:
        problems.append(f"after {told} a lock is held: {stuck}")
    elif found[0] != bench.rows:
        problems.append(f"after {told} {found[0]:.0f} rows are counted of {bench.rows}")
        bench.rows = int(found[0])


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser()
    parser.add_argument("how", choices=["lines", "signals", "garbage"])
    parser.add_argument("--tries", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    logging.getLogger("modelwatch").addFilter(lambda record: False)
    swallowed: list[str] = []
    modelwatch.guard.observers.append(lambda stage, error: swallowed.append(f"{stage}: {error!r}"))
    bench = Bench()
    how = {"lines": lines, "signals": signals, "garbage": garbage}[arguments.how]
    found = how(bench, arguments.tries, random.Random(arguments.seed))
    bench = found.pop("bench")
    status = asyncio.run(scraped(bench.app))
    sys.stdout.write(json.dumps({**found, "swallowed": sorted(set(swallowed)), "status": status}))


async def scraped(app: Any) -> int:
    """Status of a scrape through the app."""
    statuses: list[int] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        if "status" in message:
            statuses.append(message["status"])

    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "scheme": "http", "method": "GET",
        "path": "/metrics", "raw_path": b"/metrics", "query_string": b"", "root_path": "", "state": {},
        "headers": [], "client": ("c", 1), "server": ("s", 80),
    }  # fmt: skip
    await asyncio.wait_for(app(scope, receive, send), 30)
    return statuses[0]


if __name__ == "__main__":
    main()
