"""Speed and memory, each figure beside its yardstick, all in one run: `make bench`.

Times are CPU times (the machine is shared), medians of interleaved rounds. Figures inform; the tests compare counts,
orders and ratios. `python benchmarks/run.py NAME…` runs some of: requests, rows, evaluation, sharing, imports,
rules.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections import deque
from collections.abc import Callable
from operator import itemgetter

import fleet_rules
import numpy as np
from requests_app import APPS, drive, make_app
from scipy import stats

import modelwatch
from modelwatch.leading import epochs_of
from modelwatch.sharing import Sharing

ROWS = 10_000
MEMORY = "/dev/shm" if os.path.isdir("/dev/shm") else None  # where workers share by default


def table(rows: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """20 numeric and 5 categorical columns."""
    makers = [rng.standard_normal, rng.standard_exponential, lambda n: rng.lognormal(size=n), rng.random]
    columns = {f"number_{i:02}": makers[i % 4](rows) for i in range(20)}
    return columns | {f"text_{i}": rng.choice([f"v{j}" for j in range(4 + 10 * i)], rows) for i in range(5)}


def line(what: str, value: float, unit: str, yardstick: str) -> None:
    print(f"{what:<58} {value:>10.3f} {unit:<8} {yardstick}", flush=True)


def cpu(call: Callable[[], object], rounds: int = 30) -> float:
    """Median CPU seconds of this thread in `call`."""
    times = []
    for _ in range(rounds):
        started = time.thread_time()
        call()
        times.append(time.thread_time() - started)
    return statistics.median(times)


def requests() -> None:
    """What a single-row request costs more than that of the bare app."""
    for routes in (1, 50):
        apps = {name: make_app(name, routes) for name in APPS}
        times: dict[str, list[float]] = {name: [] for name in apps}
        with asyncio.Runner() as runner:
            for _ in range(60):
                for name, app in apps.items():
                    times[name].append(drive(runner, app, 200))
        bare = statistics.median(times["bare"])
        line(f"bare request, {routes} routes", bare * 1e6, "us", "")
        for name, yardstick in APPS.items():
            if name != "bare":
                paired = statistics.median(a - b for a, b in zip(times[name], times["bare"], strict=True))
                line(f"  + {name}", paired * 1e6, "us", yardstick)


def rows() -> None:
    """What recording and folding a row of 25 features costs, and how long a call may take."""
    rng = np.random.default_rng(1)
    reference = modelwatch.ReferenceProfile.fit(table(ROWS, rng))
    live = table(20_000, rng)
    as_dicts = [dict(zip(live, row, strict=True)) for row in zip(*(c.tolist() for c in live.values()), strict=True)]
    batches = [as_dicts[i : i + 256] for i in range(0, len(as_dicts), 256)]
    monitor = modelwatch.Monitor("bench", reference=reference)

    def single() -> None:
        for i, row in enumerate(as_dicts):
            monitor.record(row)
            if i % 1000 == 999:  # in this thread: what it costs, not how two threads get in each other's way
                monitor.flush()

    def in_batches() -> None:
        for batch in batches:
            monitor.record(batch)
        monitor.flush()

    itself = itemgetter(*reference.inputs)
    line("  (taking 25 values out of a dict)", process(lambda: [itself(row) for row in as_dicts]) / len(as_dicts) * 1e6,
         "us", "")  # fmt: skip
    line("recorded row of 25 features, one by one", process(single) / len(as_dicts) * 1e6, "us", "<= 2.5")
    line("recorded row of 25 features, 256 at a time", process(in_batches) / len(as_dicts) * 1e6, "us", "<= 2.5")
    calls = []
    for row in as_dicts:
        started = time.perf_counter()
        monitor.record(row)
        calls.append(time.perf_counter() - started)
    line("a recording call, 99.9 % quantile, wall", float(np.quantile(calls, 0.999)) * 1e3, "ms", "<= 0.1")


def process(call: Callable[[], object], rounds: int = 9) -> float:
    """Median CPU seconds of the whole process, background fold included."""
    times = []
    for _ in range(rounds):
        started = time.process_time()
        call()
        times.append(time.process_time() - started)
    return statistics.median(times)


def evaluation() -> None:
    """A report of 25 features over a window of 10,000 rows, against keeping rows and calling scipy."""
    rng = np.random.default_rng(2)
    training, live = table(ROWS, rng), table(ROWS, rng)
    reference = modelwatch.ReferenceProfile.fit(training)
    monitor = modelwatch.Monitor("bench", reference=reference)
    tracemalloc.start()
    monitor.record(live)
    monitor.flush()
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    kept = {name: deque(column.tolist(), maxlen=ROWS) for name, column in live.items()}

    def with_scipy() -> None:
        for name, column in kept.items():
            if name.startswith("number"):
                stats.ks_2samp(training[name], np.fromiter(column, float))
            else:
                values, index = np.unique([*training[name], *column], return_inverse=True)
                counts = [np.bincount(index[:ROWS], minlength=len(values)), np.bincount(index[ROWS:])]
                stats.chi2_contingency([np.resize(c, len(values)) for c in counts])

    ours, theirs = cpu(monitor.report, 200), cpu(with_scipy, 5)
    line("evaluation of 25 features, window of 10,000 rows", ours * 1e3, "ms", "<= 0.7")
    line("  the same with deque and scipy (KS and chi-square only)", theirs * 1e3, "ms", "")
    line("  times faster", theirs / ours, "", ">= 50")
    line("memory of that window", held / 1e6, "MB", "<= 2")


def sharing() -> None:
    """What it costs that several workers give one answer: at full speed, and what is done once a second."""
    rng = np.random.default_rng(3)
    many = {f"number_{i:02}": rng.standard_normal(ROWS) for i in range(50)}
    reference = modelwatch.ReferenceProfile.fit(many)
    os.environ["SERVER_SOFTWARE"] = "gunicorn/benchmark"  # so this process is a worker, if it asks
    with tempfile.TemporaryDirectory(dir=MEMORY) as place:
        settings = modelwatch.Settings(dir=place)
        live = {name: rng.standard_normal(256) for name in many}
        monitors = {on: modelwatch.Monitor("bench", reference=reference) for on in (False, True)}
        shared = share(monitors[True], settings)
        shared.ensure()
        turn = shared.turn

        def rest() -> None:
            shared._next_tick = time.monotonic() + 1.0

        times: dict[bool, list[float]] = {on: [] for on in monitors}
        for number in range(5):  # more than a second each, so that every round has its publications
            for on, monitor in monitors.items():
                shared.turn = turn if on else rest  # the thread rests while the other one is timed
                started = time.process_time()
                for _ in range(2000):
                    monitor.record(live)
                    monitor.flush()
                if number:  # the first one warms up
                    times[on].append((time.process_time() - started) / 2000 / 256)
        shared.turn = rest
        paired = statistics.median(b - a for a, b in zip(times[False], times[True], strict=True))
        line("a row of 50 features, alone", statistics.median(times[False]) * 1e6, "us", "")
        line("  + shared, at full speed", paired * 1e6, "us", "<= 2.5")
    with tempfile.TemporaryDirectory(dir=MEMORY) as place:
        settings, clock = modelwatch.Settings(dir=place), Turned()
        eight = [modelwatch.Monitor("bench", reference=reference, clock=clock) for _ in range(8)]
        shares = [share(monitor, settings) for monitor in eight]
        for one in shares:
            one._start = lambda: None  # no thread: what it would do is timed here
            one.ensure()
        for _ in range(12):  # all slots of the window
            for monitor, one in zip(eight, shares, strict=True):
                monitor.record(live)
                one.publisher.publish()
            clock.now += 300.0
        for one in shares:
            one.publisher.publish()  # as all have once a second: in the slot of now
        publishing = cpu(shares[0].publisher.publish, 100)
        line("publishing 50 features, 12 slots, once a second", publishing * 1e3, "ms", "")
        line("  for each of 5,000 requests in that second", publishing / 5000 * 1e6, "us", "<= 0.5")
        first, monitor = shares[0], eight[0]
        rows = [one.engine.read(()).content.rows for one in eight]

        def merge() -> object:
            return monitor.engine.read(epochs_of(first._gather(0.0), monitor))

        assert merge().content.rows == sum(rows)
        own = cpu(lambda: monitor.engine.read(()))
        line("adding up 8 workers, 50 features", (cpu(merge) - own) * 1e3, "ms", "<= 10")


def share(monitor: modelwatch.Monitor, settings: modelwatch.Settings) -> Sharing:
    """This process as one worker more: eight of them stand for eight processes."""
    made = Sharing(settings, monitor.series, monitor.guard, lambda: [monitor])
    made._app = "bench"
    return made


class Turned:
    """A clock that the benchmark turns."""

    now = 1e6

    def __call__(self) -> float:
        return self.now


def imports() -> None:
    """Import time over that of FastAPI, fresh processes in turn."""
    codes = {"fastapi": "import fastapi", "modelwatch": "import fastapi, modelwatch"}
    times: dict[str, list[float]] = {name: [] for name in codes}
    for _ in range(7):
        for name, code in codes.items():
            timed = f"import time; t = time.process_time(); {code}; print(time.process_time() - t)"
            done = subprocess.run([sys.executable, "-c", timed], capture_output=True, text=True, check=True)
            times[name].append(float(done.stdout))
    fastapi, ours = (statistics.median(times[name]) for name in codes)
    line("import fastapi", fastapi, "s", "")
    line("  + import modelwatch", ours - fastapi, "s", "<= 0.35")


def rules() -> None:
    """What Prometheus needs for an evaluation of the recording rules of one window, all statistics."""
    size = f"{fleet_rules.FEATURES} features x {fleet_rules.BINS} bins x {fleet_rules.REPLICAS} replicas"
    found = fleet_rules.measure()
    if found is None:
        print("rules: no prometheus and promtool on PATH, so not measured")
        return
    line(f"rules, {size}", sum(found.values()), "s", "bar: 2; a real Prometheus, elapsed time")


if __name__ == "__main__":
    parts = {f.__name__: f for f in (requests, rows, evaluation, sharing, imports, rules)}
    for name in sys.argv[1:] or parts:
        parts[name]()
