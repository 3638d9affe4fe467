"""Many requests, one after the other and at once: neither memory nor time grows, and every one is counted."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import random
import re
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import psutil
import pytest
from fastapi import FastAPI
from support import traffic

import modelwatch

REFERENCE = traffic.reference()
WARM = 10_000
POST, GET = (traffic.scope_of(traffic.Ask("/predict", method)) for method in ("POST", "GET"))


def make_app():
    """A watched app and its monitor."""
    app = FastAPI()
    monitor = modelwatch.instrument(app, **traffic.NAME, reference=REFERENCE, routes=["/predict"])
    add_endpoints(app)
    return app, monitor


def add_endpoints(app):
    """One that answers, and one that waits until `released` is set; with the last one expected, `all_held` is."""

    @app.post("/predict")
    async def predict(row: traffic.Row):
        if row.plan == "broken":
            raise LookupError(row.age)
        return {"prediction": row.income}

    @app.post("/hold")
    async def hold(row: traffic.Row):
        app.state.held += 1
        if app.state.held == app.state.expected:
            app.state.all_held.set()
        await app.state.released.wait()
        return {"prediction": row.income}


async def nobody(message):
    """A send that throws everything away."""


def requests(draw):
    """Endless: a scope and a body, with values that were never there before; every 50th is no usual one."""
    number = 0
    while True:
        number += 1
        scope = dict(POST, state={})
        body = b'{"age":%f,"income":%f,"plan":"plan %d"}' % (draw.random() * 80, draw.random(), number)
        if number % 50 == 0:
            path = f"/nowhere/{number}"
            scope, body = [
                (scope, b'{"age": "no. %d"}' % number),
                (scope, b'{"plan": "broken", "age": %d}' % number),
                (dict(GET, path=path, raw_path=path.encode(), state={}), b""),
                (dict(GET, method=f"BREW{number}", state={}), b""),
                (dict(GET, state={}, headers=[(b"host", b"h%d" % number)]), b""),
            ][number // 50 % 5]
        yield scope, body


async def send_all(app, source, count):
    """Send so many requests, one after the other; processor seconds that they took."""
    started = time.process_time()
    for number in range(count):
        scope, body = next(source)
        message = {"type": "http.request", "body": body, "more_body": False}

        async def receive(message=message):
            return message

        try:
            await app(scope, receive, nobody)
        except LookupError:
            assert b"broken" in body
        if number % 500 == 0:
            await asyncio.sleep(0)  # a server's loop turns, and so do its timers
    return time.process_time() - started


def now_held():
    """Memory of the process, and objects that the collector knows."""
    gc.collect()
    return psutil.Process().memory_info().rss, len(gc.get_objects())


def measured(count):
    """What so many requests leave behind, after a warm-up, and how long a tenth of them takes."""
    app, monitor = make_app()
    source, part = requests(random.Random(1)), count // 10

    async def scenario():
        await send_all(app, source, WARM)
        await traffic.scrape(app)
        before = now_held()
        seconds = []
        for _ in range(10):
            seconds.append(await send_all(app, source, part))
            await traffic.scrape(app)
        return before, now_held(), seconds, (await traffic.scrape(app))[1]

    before, after, seconds, text = asyncio.run(scenario())
    return {
        "bytes": after[0] - before[0],
        "objects": after[1] - before[1],
        "objects_before": before[1],
        "seconds": seconds,
        "requests": totals(text, "http_server_request_duration_seconds_count"),
        "successes": totals(text, "model_request_total", 'status="success"'),
        "errors": sum(monitor.guard.errors.values()),
    }


@pytest.mark.parametrize("count", [100_000, pytest.param(1_000_000, marks=pytest.mark.soak)])
def test_memory_and_time_do_not_grow_with_requests(count, capsys):
    """After a warm-up, requests with ever new values leave under 4 MiB, hardly an object, and do not get slower."""
    # In a process of its own: one that has run a thousand tests takes and gives back memory for other reasons.
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    program = (
        f"import sys; sys.path[:0] = {paths}; import json, test_load; print(json.dumps(test_load.measured({count})))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    seconds, part = found["seconds"], count // 10
    with capsys.disabled():
        sys.stdout.write(
            f"\n{count} requests: {found['bytes'] / 2**10:.0f} KiB and {found['objects']} objects more, "
            f"{seconds[0] / part * 1e6:.0f} µs each at first, {seconds[-1] / part * 1e6:.0f} µs at last\n"
        )
    assert found["bytes"] < 4 * 2**20
    assert found["objects"] < 0.02 * found["objects_before"]
    assert min(seconds[-3:]) < 1.5 * min(seconds[:3])
    assert found["requests"] == WARM + count
    assert found["successes"] == (WARM + count) // 50 * 49
    assert found["errors"] == 0


def totals(text, name, label=""):
    """Sum of a metric's samples that have a label."""
    found = re.findall(rf"^{name}\{{(.*)\}} (.*)$", text, re.MULTILINE)
    return sum(float(value) for labels, value in found if label in labels)


@pytest.mark.parametrize("count", [200, 1_000])
def test_requests_in_flight_are_counted_exactly(count):
    """While so many wait, so many are in progress; when all are answered, so many are counted, and none is left."""

    async def scenario(app):
        app.state.held, app.state.expected = 0, count
        app.state.all_held, app.state.released = asyncio.Event(), asyncio.Event()
        ask = traffic.Ask("/hold", "POST", (b'{"age": 40, "plan": "pro"}',))
        gc.collect()
        tracemalloc.start()
        try:
            tasks = [asyncio.ensure_future(traffic.tell(app, ask, traffic.Raised())) for _ in range(count)]
            await app.state.all_held.wait()
            held = tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()
        during, files = (await traffic.scrape(app))[1], len(os.listdir("/proc/self/fd"))
        app.state.released.set()
        told = await asyncio.gather(*tasks)
        assert {one.messages[0][1] for one in told} == {("status", 200)}
        return held, during, files, (await traffic.scrape(app))[1]

    bare, app = FastAPI(), FastAPI()
    modelwatch.instrument(app, **traffic.NAME, reference=REFERENCE, routes=["/hold"])
    for one in (bare, app):
        add_endpoints(one)
    files = len(os.listdir("/proc/self/fd"))
    expected = asyncio.run(scenario(bare))[0]
    held, during, files_during, after = asyncio.run(scenario(app))
    assert held < expected + 8 * 2**10 * count
    assert files_during <= files + 3  # those of the event loop
    for name in ("http_server_active_requests", "model_requests_in_progress"):
        assert totals(during, name) == count
        assert totals(after, name) == 0
    assert totals(after, "http_server_request_duration_seconds_count") == count
    assert totals(after, "model_request_total") == totals(after, "model_request_total", "success") == count
    assert totals(after, "modelwatch_rows_total", "recorded") == count
