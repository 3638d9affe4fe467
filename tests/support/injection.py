"""Fail the Nth call: whatever the library calls while it serves is made to fail in turn, and the answers are compared.

Run as a script, in a process of its own: `injection.py --share 0.3`. It prints what was done, and what was wrong, as
JSON. See faults.py for where faults are injected, and traffic.py for the service and its requests.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import logging
import random
import re
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parent.parent))

from support.faults import ERRORS, Point, Points, install

POINTS = Points()
install(POINTS)

import modelwatch.asgi  # noqa: E402 - only now it gets its points
import modelwatch.request  # noqa: E402 - as above
from modelwatch.metrics.runtime import LoopProbe  # noqa: E402 - as above
from modelwatch.pulse import PULSE  # noqa: E402 - as above
from support import traffic  # noqa: E402 - as above

Step = int | str
"""The number of a request, or what else is done: "beat", "collect", "tick", "scrape"."""

_LOG = logging.getLogger("modelwatch")
ASKS = range(len(traffic.REQUESTS))
BESIDE = ("beat", "collect", "tick", "scrape")
_CANARIES = (0, 1)
_MOST_STEPS = 4
_MOST_USES = 20
_PATIENCE = 1.0

# A point that fails here fails for the app or the server, or there is nobody left to catch it. By module and function,
# and what is called (None: whatever it is).
DOORS: dict[tuple[str, str, str | None], str] = {
    ("asgi", "install.build_middleware_stack", None): "Starlette's own, and what guards itself",
    ("asgi", "Middleware.__call__", ""): "the server calls it",
    ("asgi", "Middleware.__call__", "self.app"): "the app",
    ("asgi", "Middleware.__call__", "aside"): "the app, or what answers in its place",
    ("asgi", "Middleware.__call__", "service.close"): "it guards itself",
    ("asgi", "Middleware.__call__.receive_noted", "service.heard"): "it guards itself",
    ("_fastapi", "_solve", "told_failed"): "it guards itself",
    ("_fastapi", "_run", "told_failed"): "it guards itself",
    ("asgi", "Middleware.__call__.receive_noted", ""): "the app calls it",
    ("asgi", "Middleware.__call__.receive_noted", "receive"): "the server's",
    ("asgi", "Middleware.__call__.send_noted", ""): "the app calls it",
    ("asgi", "Middleware.__call__.send_noted", "send"): "the server's",
    ("asgi", "Middleware._serve_lifespan", ""): "it calls the app",
    ("asgi", "Middleware._serve_lifespan", "self.app"): "the app",
    ("asgi", "Middleware._serve_lifespan.send_noticed", ""): "the app calls it",
    ("asgi", "Middleware._serve_lifespan.send_noticed", "send"): "the server's",
    ("asgi", "Middleware._serve_websocket", ""): "it calls the app",
    ("asgi", "Middleware._serve_websocket", "self.app"): "the app",
    ("asgi", "Middleware._serve_websocket.send_noticed", ""): "the app calls it",
    ("asgi", "Middleware._serve_websocket.send_noticed", "send"): "the server's",
    ("_fastapi", "_solving.solve_dependencies", ""): "FastAPI calls it",
    ("_fastapi", "_solving.solve_dependencies", "scope.get"): "a lookup that makes nothing",
    ("_fastapi", "_solving.solve_dependencies", "_solve"): "it awaits the app's dependencies",
    ("_fastapi", "_solve", ""): "it awaits the app's dependencies",
    ("_fastapi", "_running.run_endpoint_function", ""): "FastAPI calls it",
    ("_fastapi", "_running.run_endpoint_function", "_current.get"): "a lookup that makes nothing",
    ("_fastapi", "_running.run_endpoint_function", "_run"): "it awaits the endpoint",
    ("_fastapi", "_run", ""): "it awaits the endpoint",
    ("_fastapi", "_called_like.function", None): "FastAPI calls it; it only chooses whom to call",
    ("_fastapi", "timed.endpoint", ""): "FastAPI calls it",
    ("_fastapi", "timed.endpoint", "_current.get"): "a lookup that makes nothing",
    ("_fastapi", "timed.endpoint", "call"): "the endpoint",
    ("monitor", "Monitor.record", ""): "the user calls it",
    ("tally", "numbers", "isinstance"): "a value that raises is no number, and its feature's cells say so",
    ("tally", "numbers", "float"): "as above",
    ("flight", "Flight._work", None): "the one scrape waits until it gives up; the next one starts a thread",
}
# FastAPI's own functions, which ours stand in for.
_ORIGINAL = "functools.partial(original, **more) if more else original"


class Fault(NamedTuple):
    """What is to fail, with which error, at which call, and whether at all later ones too."""

    number: int
    error: str
    nth: int
    stuck: bool

    @property
    def point(self) -> Point:
        """Where."""
        return POINTS.known[self.number]

    def __str__(self) -> str:
        module, function, line, what = self.point
        where = f"{what}() in {function}" if what else function
        return f"{module}:{line} {where}: {self.error} at call {self.nth}{' and on' if self.stuck else ''}"


class Bench:
    """An app with the library around it that faults are tried on, and what came out beside its answers.

    Attributes
    ----------
    leaks
        Exceptions that ended up in a thread, in the event loop's handler, or nowhere.
    uses
        How many faults it has seen.
    said
        How often somebody could notice one beside the counter: errors in the log, scrapes without an answer.
    """

    def __init__(self, reference: Any) -> None:
        self.raised, self.leaks, self.uses, self.said = traffic.Raised(), [], 0, 0
        _LOG.filters[:] = [self._hear]
        self.app = traffic.FastAPI()
        settings = modelwatch.Settings(metrics={"infra": False, "gpu": False})
        self.monitor = modelwatch.instrument(
            self.app, **traffic.NAME, reference=reference, routes=traffic.WATCHED, settings=settings
        )
        traffic.service(self.app, self.monitor, self.raised)
        threading.excepthook = lambda told: self._leak("thread", told.exc_value)
        sys.unraisablehook = lambda told: self._leak("unraisable", told.exc_value)
        asyncio.get_running_loop().set_exception_handler(
            lambda _, told: self._leak("event loop", told.get("exception") or told["message"])
        )

    def _leak(self, where: str, error: object) -> None:
        self.leaks.append(f"{where}: {error!r}")

    def _hear(self, record: logging.LogRecord) -> bool:
        self.said += record.levelno >= logging.ERROR
        return False

    async def take(self, steps: list[Step], fault: Fault | None = None) -> list[Any]:
        """Take steps, of which one has the fault. What each one came to."""
        self.uses += 1
        if fault is not None:
            POINTS.arm(fault.number, ERRORS[fault.error], fault.nth, stuck=fault.stuck)
        try:
            return [await self._step(step) for step in steps]
        finally:
            POINTS.disarm()

    async def _step(self, step: Step) -> Any:
        if isinstance(step, int):
            return await traffic.tell(self.app, traffic.REQUESTS[step], self.raised)
        try:
            if step == "beat":
                await asyncio.sleep(0.002)
            elif step == "collect":
                gc.collect(0)
            elif step == "tick":
                self.monitor.engine.tick()
            elif step == "scrape":
                await self._scraped()
        except Exception as error:  # noqa: BLE001 - it is what is looked for
            return repr(error)
        return step

    async def _scraped(self) -> None:
        """Scrape: what comes of it is the scrape's own affair, as long as it comes to an end."""
        try:
            status, _ = await asyncio.wait_for(traffic.scrape(self.app), _PATIENCE)
            self.said += status != 200
        except TimeoutError:
            raise
        except Exception:  # noqa: BLE001 - the server answers 500
            self.said += 1

    def watched(self) -> bool:
        """Whether the library came to stand around the app at all."""
        return isinstance(self.app.middleware_stack, modelwatch.asgi.Middleware)

    def errors(self) -> int:
        """How many errors were swallowed so far."""
        return sum(self.monitor.guard.errors.values())

    async def shown(self) -> tuple[int, float, str]:
        """Status of a scrape, the internal errors that it shows, and its text."""
        status, text = await traffic.scrape(self.app)
        found = re.findall(r"^modelwatch_internal_errors_total\{.*\} (.*)$", text, re.MULTILINE)
        return status, sum(map(float, found)), text


@dataclass
class Survey:
    """Where requests and all else pass, found in a run without faults.

    Attributes
    ----------
    bare
        What the app without the library does with each request.
    first, later
        By number of a point: how often each step passes it, with a new app and with one that has seen every request.
    """

    bare: list[Any]
    reference: Any
    first: dict[int, dict[Step, int]] = field(default_factory=dict)
    later: dict[int, dict[Step, int]] = field(default_factory=dict)

    async def run(self) -> None:
        """Look."""
        bench = Bench(self.reference)
        for found, steps in ((self.first, ASKS), (self.later, (*ASKS, *BESIDE))):
            for step in steps:
                POINTS.passed.clear()
                told = await bench.take([step])
                assert told == self.expected([step]), f"{step}: {told}, without any fault"
                for number, times in POINTS.passed.items():
                    found.setdefault(number, {})[step] = times
        assert not bench.leaks + [bench.errors()] * bool(bench.errors())

    def expected(self, steps: list[Step]) -> list[Any]:
        """What steps come to if nothing of a fault is seen outside."""
        return [self.bare[step] if isinstance(step, int) else step for step in steps]

    def reached(self) -> list[int]:
        """The points that are passed, in the order of the source."""
        return sorted(self.first.keys() | self.later.keys())

    def steps(self, number: int, nth: int, rng: random.Random) -> list[Step] | None:
        """Some steps that pass a point at least so often; None if there are none."""
        times = self.later.get(number) or self.first[number]
        chosen = rng.sample(list(times), min(len(times), _MOST_STEPS))
        if sum(times[step] for step in chosen) < nth:
            chosen = list(times)
        # What waits to be counted must be there for the tick and the scrape.
        before: list[Step] = [] if any(isinstance(step, int) for step in chosen) else [0, 2, 7]
        return [*before, *chosen] if sum(times[step] for step in chosen) >= nth else None


@dataclass
class Result:
    """What came out."""

    injections: int = 0
    swallowed: int = 0
    missed: int = 0
    bad: list[str] = field(default_factory=list)


class Trial:
    """Tries faults one after the other, on benches that are used until one of them is worn or wrong."""

    def __init__(self, survey: Survey) -> None:
        self._survey = survey
        self._bench: Bench | None = None
        self._tried: list[str] = []  # on this bench
        self.result = Result()

    async def try_one(self, fault: Fault, steps: list[Step]) -> None:
        """Try one, and look at everything that may be wrong afterwards."""
        warm = fault.number in self._survey.later
        if not warm:
            await self.close()
        bench = self._bench or await self._new(warm=warm)
        self._tried.append(str(fault))
        before, said = bench.errors(), bench.said
        told = await bench.take(steps, fault)
        if not POINTS.fired:
            self.result.missed += 1
            return
        after = await bench.take(list(_CANARIES))
        wrong = self._differences(steps, told) + self._differences(list(_CANARIES), after, "afterwards ") + bench.leaks
        if (
            (bench.errors(), bench.said) == (before, said)
            and not wrong
            and not await self._nothing_lost(fault, steps, warm=warm)
        ):
            wrong.append("something is not counted, and nothing says so")
        self.result.injections += 1
        self.result.swallowed += bench.errors() > before
        self.result.bad += [f"{fault}: {one}" for one in wrong]
        if wrong or bench.uses > _MOST_USES or not warm:
            await self.close()

    def _differences(self, steps: list[Step], told: list[Any], when: str = "") -> list[str]:
        """What differs from what was expected."""
        return [
            f"{when}{traffic.REQUESTS[step].path if isinstance(step, int) else step}: {got}, not {expected}"[:1500]
            for step, got, expected in zip(steps, told, self._survey.expected(steps), strict=True)
            if got != expected
        ]

    async def close(self) -> None:
        """Look at what a bench shows in the end, and put it away."""
        bench, self._bench = self._bench, None
        tried, self._tried = self._tried, []
        if bench is not None and not bench.leaks:
            for _ in range(2):  # what goes wrong while one is made is on the next
                known = bench.errors()
                status, shown, _ = await bench.shown()
                if (status, shown) == (200, known) or not bench.watched():
                    return
            self.result.bad.append(f"the last scrape: {status}, {shown} errors of {known}, after {tried}")

    async def _new(self, *, warm: bool) -> Bench:
        self._bench = Bench(self._survey.reference)
        if warm:
            await self._bench.take(list(ASKS))
        return self._bench

    async def _nothing_lost(self, fault: Fault, steps: list[Step], *, warm: bool) -> bool:
        """Whether the metrics are those of a run without the fault, but for times; or tell of what is lost."""
        shown = []
        for one in (None, fault):
            bench = await self._new(warm=warm)
            await bench.take(steps, one)
            shown.append(without_times((await bench.shown())[2]))
        self._bench = None
        return shown[0] == shown[1] or confessed(shown[0]) < confessed(shown[1])


def without_times(text: str) -> list[str]:
    """The lines of a page that are the same for the same requests."""
    timed = re.compile(
        r"\w*(_seconds_(sum|bucket)|_timestamp_seconds|drift_window_seconds|http_server_background\w*|modelwatch_\w*seconds\w*)\b"
    )
    return [line for line in text.splitlines() if not line.startswith("#") and not timed.match(line)]


def confessed(lines: list[str]) -> float:
    """Values that were counted as none of their type, and rows that were dropped."""
    own = re.compile(
        r'(model_feature_violations_total\{.*reason="type"|modelwatch_rows_total\{.*outcome="dropped").*\}'
    )
    return sum(float(line.rpartition(" ")[2]) for line in lines if own.match(line))


def door(point: Point) -> bool:
    """Whether nobody could catch what fails here."""
    module, function, _, what = point
    return what == _ORIGINAL or (module, function, what) in DOORS or (module, function, None) in DOORS


def faults_of(number: int, times: int, *, errors: int, calls: int, rng: random.Random) -> Iterator[Fault]:
    """Of a point that many errors at that many calls, once and stuck; one of all these, drawn by lot, if both are 0."""
    for error in rng.sample(sorted(ERRORS), errors or 1):
        for nth in range(1, min(calls, times) + 1) if calls else (rng.randint(1, min(times, 12)),):
            for stuck in (False, True) if calls else (rng.random() < 0.5,):
                yield Fault(number, error, nth, stuck)


async def main(*, share: float, errors: int, calls: int, seed: int) -> dict[str, Any]:
    """Try the faults of a share of all points; tell what was done, and what was wrong."""
    rng = random.Random(seed)
    raised = traffic.Raised()
    bare = await traffic.tell_all(traffic.service(traffic.FastAPI(), traffic.Unwatched(), raised), raised)
    survey = Survey(bare, traffic.reference())
    await survey.run()
    trial = Trial(survey)
    reached = survey.reached()
    open_to_faults = [number for number in reached if not door(POINTS.known[number])]
    for number in sorted(rng.sample(open_to_faults, round(share * len(open_to_faults)))):
        times = sum((survey.later.get(number) or survey.first[number]).values())
        for fault in faults_of(number, times, errors=errors, calls=calls, rng=rng):
            steps = survey.steps(number, fault.nth, rng)
            if steps is not None:
                await trial.try_one(fault, steps)
    await trial.close()
    there = {(point.module, point.function, what) for point in POINTS.known for what in (point.what, None)}
    return {
        "points": len(POINTS.known),
        "reached": len(reached),
        "doors": len(reached) - len(open_to_faults),
        "no such door": [".".join(filter(None, door)) for door in DOORS.keys() - there],
        **vars(trial.result),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--share", type=float, default=1.0, help="of the points that are tried")
    parser.add_argument("--errors", type=int, default=0, help="so many of each point")
    parser.add_argument("--calls", type=int, default=0, help="the first so many calls of each point")
    parser.add_argument("--seed", type=int, default=0)
    assert "_seconds" in vars(PULSE)
    vars(PULSE)["_seconds"] = 3_600.0  # the background thread would work for the apps that were before
    # Nothing is to wait here.
    LoopProbe.__init__.__kwdefaults__["interval"] = 0.001
    modelwatch.asgi.LINGERING = modelwatch.request.LINGERING = 0.001
    traffic.LATER_SECONDS = 0.0015
    gc.collect()
    gc.freeze()
    gc.disable()  # a collection at any time would be counted, and a fault in it belongs to no request
    sys.stdout.write(json.dumps(asyncio.run(main(**vars(parser.parse_args()))), indent=1))
