"""The clock on the wall jumps, by a year or back by a month, in the middle of a request: nobody waits for it."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys

import pytest
from prometheus_client.parser import text_string_to_metric_families

from modelwatch import Monitor, ReferenceProfile, Settings

# A service in which every reading of the wall clock is that of ours, which jumps while an endpoint runs. It is in place
# before anything is imported that might keep the system's.
SERVICE = """
import sys, time
real = time.time
jumped = 0.0
time.time = lambda: real() + jumped
import asyncio, json
import numpy as np
from fastapi import FastAPI
from pydantic import BaseModel
import modelwatch

rng = np.random.default_rng(0)
table = {"a": rng.normal(size=2_000), "score": rng.random(2_000)}
reference = modelwatch.ReferenceProfile.fit(table, prediction="score")
options = json.loads(sys.argv[1])
app = FastAPI()

class Row(BaseModel):
    a: float
    jump: float = 0.0

@app.post("/predict")
async def predict(row: Row):
    global jumped
    jumped += row.jump
    await asyncio.sleep(0.001)
    return {"score": 0.5}

@app.post("/sync")
def sync(row: Row):
    global jumped
    jumped += row.jump
    return {"score": 0.5}

monitor = modelwatch.instrument(app, model_name="m", reference=reference, routes=["/predict", "/sync"],
                                settings=modelwatch.Settings(min_rows=10, **options))

async def ask(method, path, content=None):
    body, messages = b"" if content is None else json.dumps(content).encode(), []
    async def receive():
        return {"type": "http.request", "body": body, "more_body": False}
    async def send(message):
        messages.append(message)
    await app({"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "scheme": "http", "method": method,
               "path": path, "raw_path": path.encode(), "query_string": b"", "root_path": "", "state": {},
               "headers": [(b"content-type", b"application/json")], "client": ("c", 1), "server": ("s", 80)},
              receive, send)
    assert messages[0]["status"] == 200, messages
    return b"".join(message.get("body", b"") for message in messages[1:]).decode()

async def main():
    pages, reports = [], []
    for jump in [0.0, *json.loads(sys.argv[2])]:
        for path in ("/predict", "/sync"):
            for number in range(20):
                now = number == 10 and path == "/predict"
                await ask("POST", path, {"a": 0.1 * number, "jump": jump if now else 0.0})
        await asyncio.sleep(0.15)  # until the loop has been looked at
        pages.append([await ask("GET", "/metrics"), time.time()])
        report = monitor.report()
        reports.append([report.rows, report.seconds, report["a"].n])
    print(json.dumps({"pages": pages, "reports": reports, "errors": monitor.guard.errors}))

asyncio.run(main())
"""
DAY = 86_400.0
JUMPS = [365 * DAY, -3_600.0, -30 * DAY, -335 * DAY]
DURATIONS = ("_seconds_sum", "_seconds_bucket", "_seconds_count")


def serve(options, jumps):
    """What the service showed after each jump: pages as {(name, labels): value}, the times of the wall, reports."""
    done = subprocess.run(
        [sys.executable, "-c", SERVICE, json.dumps(options), json.dumps(jumps)],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, ""), done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert set(found["errors"].values()) == {0}
    pages = []
    for text, now in found["pages"]:
        samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
        pages.append(({(s.name, frozenset(s.labels.items())): s.value for s in samples}, now))
    return pages, found["reports"]


@pytest.mark.parametrize("options", [{}, {"window_rows": 500}], ids=["time", "rows"])
def test_the_wall_clock_jumps_in_a_request(options):
    """No duration is negative or beyond a minute, every row stays in the window, and timestamps are those of now."""
    pages, reports = serve(options, JUMPS)
    assert len(pages) == 1 + len(JUMPS)
    assert [report[0] for report in reports] == [40 * (i + 1) for i in range(len(pages))]
    assert all(0 <= seconds < 60 and n == rows for rows, seconds, n in reports)
    for page, now in pages:
        histograms = [(key, value) for key, value in page.items() if key[0].endswith(DURATIONS)]
        assert {name for (name, _), _ in histograms} >= {
            "model_request_latency_seconds_sum", "model_queue_duration_seconds_sum",
            "model_inference_duration_seconds_sum", "http_server_request_duration_seconds_sum",
            "modelwatch_scrape_duration_seconds_sum", "model_event_loop_lag_seconds_sum",
        }  # fmt: skip
        for (name, labels), value in histograms:
            assert value >= 0, name
            if name.endswith("_sum"):
                count = page[name.removesuffix("_sum") + "_count", labels]
                assert value <= 60 * count, name
        assert page["model_drift_window_seconds", frozenset({("model_name", "m"), ("model_version", "")})] < 60
        last = page["model_last_request_timestamp_seconds", frozenset({("model_name", "m")})]
        assert abs(last - now) < 60
        late = [value for (name, labels), value in page.items() if name == "modelwatch_rows_total"
                and dict(labels)["outcome"] != "recorded"]  # fmt: skip
        assert set(late) == {0}
    for (before, _), (after, _) in itertools.pairwise(pages):
        fallen = [key for key, value in before.items() if key[0].endswith(("_total", "_count", "_sum", "_bucket"))
                  and after[key] < value]  # fmt: skip
        assert fallen == []


def test_the_rows_own_times_hold():
    """With `event_time` a jump of the wall clock ahead moves no row that brings its own time."""
    wall = [1_700_000_000.0]
    profile = ReferenceProfile.fit({"a": [float(i % 50) for i in range(500)]})
    monitor = Monitor(
        "m", reference=profile, settings=Settings(event_time=True, min_rows=10), wall=lambda: wall[0], clock=lambda: 0.0
    )
    for jump in (0.0, 365 * DAY, -3_600.0, -364 * DAY):
        start = 1_700_000_000.0
        wall[0] += jump
        monitor.record({"a": [1.0] * 50}, timestamps=[start + i for i in range(50)])
    report = monitor.report()
    assert report.rows == 200
    assert report.seconds == 49.0
