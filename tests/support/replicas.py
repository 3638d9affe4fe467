"""Replicas of real services that live through compressed time, and what a Prometheus would have scraped of them.

Run as a script it reads a plan (JSON), forks one process for each life of a replica, and writes what each one showed at
`/metrics`, scrape by scrape, as OpenMetrics text with times of the plan. The services are the example of this project,
from its own `train.py` and `service.py`, and a classifier of late flights (see `flights.py`). Requests come in process,
through ASGI; all else is as it is served: endpoints in the pool of threads, scrapes while requests are being answered.

A row says the plan's time as its own (`ts`), so windows of event time follow it. What a service says of its own clock,
`…_timestamp_seconds`, is moved to when it happened in the plan.
"""

from __future__ import annotations

import asyncio
import bisect
import csv
import datetime
import functools
import gzip
import importlib.util
import json
import math
import os
import random
import re
import sys
import time
import traceback
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

OPEN_METRICS = b"application/openmetrics-text; version=1.0.0"
SAMPLE = re.compile(r"([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)$")
_CLIENTS = 3
_LEVEL_MONTHS = ("2011-04", "2011-05", "2011-06", "2011-07")  # how warm it gets
_BASE_MONTHS = ("2011-01", "2011-02", "2011-03")  # what the model was trained on


class Faulty:
    """A model that at times fails, or is slow, as told.

    Attributes
    ----------
    slow
        Median seconds that a prediction waits for what a real service would ask elsewhere.
    errors, timeouts
        Shares of the predictions that fail.
    scale
        What predictions are multiplied by: another version of a model says something else.
    """

    def __init__(self, model: Any, chance: random.Random, scale: float = 1.0) -> None:
        self._model, self._chance, self._scale = model, chance, scale
        self.slow, self.errors, self.timeouts = 0.004, 0.0, 0.0

    def predict(self, x: Any) -> Any:
        """As of the model."""
        time.sleep(min(self._chance.lognormvariate(math.log(self.slow), 0.9), 0.6))
        luck = self._chance.random()
        if luck < self.errors:
            raise ConnectionError("the feature store is gone")
        if luck < self.errors + self.timeouts:
            raise TimeoutError("the feature store does not answer")
        return self._model.predict(x) * self._scale


class Times:
    """Where instants of the real clock lie in the plan."""

    def __init__(self) -> None:
        self._real: list[float] = []
        self._told: list[float] = []

    def mark(self, told: float) -> None:
        """Now it is `told`."""
        self._real.append(time.time())
        self._told.append(told)

    def __call__(self, real: float) -> float:
        """The plan's time of an instant; before the first mark it is that."""
        at = max(bisect.bisect_right(self._real, real) - 1, 0)
        return self._told[at]


class Scraped:
    """Writes scrapes with times and the labels that Prometheus adds."""

    def __init__(self, file: Any, job: str, instance: str, times: Times) -> None:
        self._file, self._times = file, times
        self._own = f'job="{job}",instance="{instance}"'
        self._series: set[str] = set()
        self._before: dict[str, float] = {}

    def add(self, text: str, at: float, seconds: float) -> None:
        """A scrape that worked, of so many seconds."""
        series: set[str] = set()
        for line in text.splitlines():
            if line.startswith("#"):
                continue
            found = SAMPLE.match(line)
            assert found is not None, line
            name, labels, value = found.groups()
            if name.endswith("_timestamp_seconds") and float(value) > 0:
                value = repr(self._times(float(value)))
            if name.startswith("model_network_"):  # a container that is new has seen nothing; this machine has
                value = repr(float(value) - self._before.setdefault(name, float(value)))
            labels = f"{labels},{self._own}" if labels else self._own
            series.add(one := f"{name}{{{labels}}}")
            self._file.write(f"{one} {value} {at:.3f}\n")
        added, self._series = len(series - self._series), series
        samples = len(series)
        self._meta(at, up=1, scrape_duration_seconds=seconds, scrape_samples_scraped=samples, scrape_series_added=added)

    def failed(self, at: float) -> None:
        """A scrape that nobody answered."""
        self._meta(at, up=0, scrape_duration_seconds=0.001, scrape_samples_scraped=0)

    def _meta(self, at: float, **values: float) -> None:
        values["scrape_samples_post_metric_relabeling"] = values["scrape_samples_scraped"]
        for name, value in values.items():
            self._file.write(f"{name}{{{self._own}}} {value!r} {at:.3f}\n")


class App:
    """An ASGI app, asked in process."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def ask(self, method: str, path: str, body: bytes = b"", accept: bytes = b"*/*") -> tuple[int, bytes]:
        """Status and body of a request; 500 if the app raises, as a server would answer."""
        waiting = [{"type": "http.request", "body": body, "more_body": False}]
        sent: list[Any] = []

        async def receive() -> Any:
            return waiting.pop() if waiting else await asyncio.Event().wait()

        async def send(message: Any) -> None:
            sent.append(message)

        with suppress(Exception):  # it is the service's own, which its metrics tell
            await self.app(self._scope(method, path, accept), receive, send)
        status = sent[0]["status"] if sent else 500
        return status, b"".join(message.get("body", b"") for message in sent[1:])

    def _scope(self, method: str, path: str, accept: bytes = b"*/*") -> dict[str, Any]:
        return {
            "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1",
            "scheme": "http", "method": method, "path": path, "raw_path": path.encode(), "query_string": b"",
            "root_path": "", "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80), "state": {},
            "headers": [(b"host", b"service"), (b"content-type", b"application/json"), (b"accept", accept)],
        }  # fmt: skip

    async def open_websocket(self, path: str) -> asyncio.Task[None]:
        """A websocket that stays open; the task is the app's."""
        opened = asyncio.Event()
        waiting: list[Any] = [{"type": "websocket.connect"}]

        async def receive() -> Any:
            return waiting.pop() if waiting else await asyncio.Event().wait()

        async def send(message: Any) -> None:
            opened.set()

        scope = self._scope("GET", path) | {"type": "websocket", "scheme": "ws", "subprotocols": []}
        del scope["method"]
        task = asyncio.ensure_future(self.app(scope, receive, send))
        await opened.wait()
        return task

    async def start(self) -> None:
        """What happens in an app before its first request."""
        started = asyncio.Event()
        waiting: list[Any] = [{"type": "lifespan.startup"}]

        async def receive() -> Any:
            return waiting.pop() if waiting else await asyncio.Event().wait()

        async def send(message: Any) -> None:
            started.set()

        self._life = asyncio.ensure_future(self.app({"type": "lifespan", "asgi": {"version": "3.0"}}, receive, send))
        await started.wait()

    async def scrape(self) -> tuple[str, float]:
        """The metrics as OpenMetrics text, and how long that took."""
        began = time.perf_counter()
        status, body = await self.ask("GET", "/metrics", accept=OPEN_METRICS)
        assert status == 200, (status, body[:500])
        return body.decode(), time.perf_counter() - began


class Bike:
    """The service of the example, and its requests."""

    def __init__(self, directory: Path, life: Mapping[str, Any], chance: random.Random) -> None:
        source = (directory / "service.py").read_text("utf-8")
        version = life["version"]
        assert "2011.1" in source
        self._module = _module("bike_service", source.replace("2011.1", version))  # as the release changed it
        self.app = self._module.app
        self._module.model = self._model = Faulty(
            self._module.model, chance, scale=0.85 if version != "2011.1" else 1.0
        )
        self._chance = chance
        self._life = life
        self._months = _months(directory / "bike_demand.csv.gz")

    def told(self, moment: Mapping[str, float]) -> None:
        """How the service fares at a moment of the plan."""
        self._model.errors, self._model.timeouts = moment["errors"], moment["timeouts"]
        self._model.slow = moment["slow"]

    def requests(self, moment: Mapping[str, float], at: float, step: float) -> list[tuple[str, str, bytes]]:
        """The requests of a step of the plan."""
        chance, found = self._chance, []
        for _ in range(_around(chance, moment["requests"])):
            size = 1 if chance.random() < 0.35 else chance.choice((4, 8, 16, 40, 64))
            rows = [self._row(moment, at + chance.random() * step) for _ in range(size)]
            if chance.random() < moment["invalid"]:
                rows[0]["temp"] = chance.choice((None, "warm"))
            found.append(("POST", "/predict", json.dumps(rows).encode()))
        if chance.random() < 0.3:
            found.append(("GET", chance.choice(("/predictions", "/status")), b""))
        return found

    def _row(self, moment: Mapping[str, float], at: float) -> dict[str, Any]:
        chance = self._chance
        warm = moment["warm"]
        months = _BASE_MONTHS
        if chance.random() < warm:
            months = (_LEVEL_MONTHS[min(int(warm * chance.uniform(0.6, 1.0) * 4), 3)],)
        row = dict(chance.choice(self._months[chance.choice(months)]))
        row["ts"] = datetime.datetime.fromtimestamp(at, datetime.UTC).isoformat()
        if chance.random() < moment["gaps"]:
            row["weather"] = None
        return row


class Flights:
    """The classifier of late flights, and its requests."""

    def __init__(self, directory: Path, life: Mapping[str, Any], chance: random.Random) -> None:
        import driver
        import flights  # with the model that it was forked with

        self._driver = driver.Driver(chance)
        driver.install(self._driver)
        self.app = flights.make(directory, life["version"], chance)
        self._chance = chance
        self._rows = flights.served()

    def told(self, moment: Mapping[str, float]) -> None:
        """How the service fares: always well; its GPUs have the more to do, the more is asked."""
        self._driver.advance(moment["load"], moment["lived"], moment["worked"])

    def requests(self, moment: Mapping[str, float], at: float, step: float) -> list[tuple[str, str, bytes]]:
        """The requests of a step of the plan."""
        chance, found = self._chance, []
        for _ in range(_around(chance, 0.6 * moment["requests"])):
            rows = [dict(chance.choice(self._rows)) for _ in range(chance.choice((1, 1, 4, 12, 32)))]
            for row in rows:
                row["ts"] = datetime.datetime.fromtimestamp(at + chance.random() * step, datetime.UTC).isoformat()
            if chance.random() < 0.02:
                rows[0]["distance"] = "far"
            found.append(("POST", "/classify", json.dumps(rows).encode()))
        found += [("GET", "/export", b""), ("POST", "/refresh", b"")]
        return found


def main(directory: Path) -> None:
    """Let every life of the plan happen, each in a process of its own, forked from here so that imports are shared."""
    plan = json.loads((directory / "plan.json").read_text("utf-8"))
    os.chdir(directory)
    _import_all(directory, plan)
    left, running, worst = list(enumerate(plan["lives"])), set(), 0
    while left or running:
        if not left or len(running) > (os.cpu_count() or 1):  # more at once would only wait for each other
            pid, status = os.wait()
            running.discard(pid)
            worst = max(worst, abs(os.waitstatus_to_exitcode(status)))
            continue
        number, life = left.pop(0)
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                os.environ["MODELWATCH_DIR"] = str(directory / f"state{number}")
                _live(directory, plan, life, directory / f"life{number:02d}.om")
                code = 0
            except BaseException:  # noqa: BLE001 - this process must not go on with what its parent does
                traceback.print_exc()
                sys.stderr.flush()
            os._exit(code)
        running.add(pid)
    sys.exit(worst)


def _import_all(directory: Path, plan: Mapping[str, Any]) -> None:
    import joblib
    import sklearn.ensemble  # noqa: F401 - the lives that are forked have it then

    import modelwatch  # noqa: F401

    joblib.load(directory / "model.joblib")
    _months(directory / "bike_demand.csv.gz")
    if any(life["service"] == "flights" for life in plan["lives"]):
        import driver  # noqa: F401
        import flights

        flights.train(directory)


def _live(directory: Path, plan: Mapping[str, Any], life: Mapping[str, Any], path: Path) -> None:
    with open(path, "w", encoding="utf-8") as file:
        asyncio.run(_life(directory, plan, life, file))


async def _life(directory: Path, plan: Mapping[str, Any], life: Mapping[str, Any], file: Any) -> None:
    chance = random.Random(f"{plan['seed']} {life['instance']} {life['first']}")
    start, step = plan["start"], plan["step"]
    times = Times()
    times.mark(start + life["first"] * step)
    service: Any = {"bike": Bike, "flights": Flights}[life["service"]](directory, life, chance)
    app, scraped = App(service.app), Scraped(file, life["job"], life["instance"], times)
    await app.start()
    socket = await app.open_websocket("/departures") if life["service"] == "flights" else None
    monitor = _monitor_of(service.app)
    for number in range(life["first"], life["last"]):
        at = start + number * step
        times.mark(at)
        moment = life["moments"][number - life["first"]]
        if moment.get("down"):
            scraped.failed(at)
            continue
        service.told(moment)
        waiting = service.requests(moment, at - step, step)
        clients = [asyncio.ensure_future(_client(app, waiting)) for _ in range(_CLIENTS)]
        if waiting:  # whoever answers while it is scraped is seen in progress
            await asyncio.wait(clients, timeout=chance.uniform(0.005, 0.03))
        text, seconds = await app.scrape()
        scraped.add(text, at, seconds)
        await asyncio.gather(*clients)
        monitor.flush()
        monitor.engine.detect()  # a second of the service's is a step of the plan
    if socket is not None:
        socket.cancel()


async def _client(app: App, waiting: list[tuple[str, str, bytes]]) -> None:
    """Send one request after the other, as long as there are any."""
    while waiting:
        await app.ask(*waiting.pop(0))


def _monitor_of(app: Any) -> Any:
    from modelwatch.instrument import monitors_of

    return monitors_of(app)[0]


def _around(chance: random.Random, mean: float) -> int:
    """A number of requests of about that mean."""
    return int(mean) + (chance.random() < mean % 1)


@functools.cache  # read before the forks
def _months(path: Path) -> dict[str, list[dict[str, Any]]]:
    """The rows of the example's data by month, as the service takes them."""
    wanted, found = {*_BASE_MONTHS, *_LEVEL_MONTHS}, {}
    with gzip.open(path, "rt", newline="") as file:
        for row in csv.DictReader(file):
            if (month := row["ts"][:7]) in wanted:
                found.setdefault(month, []).append(
                    {name: value or None for name, value in row.items() if name not in {"id", "label_ts", "count"}}
                )
    return found


def _module(name: str, source: str) -> Any:
    spec = importlib.util.spec_from_loader(name, loader=None)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where pydantic looks for the names in annotations
    exec(compile(source, f"{name}.py", "exec", dont_inherit=True), vars(module))
    return module


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
