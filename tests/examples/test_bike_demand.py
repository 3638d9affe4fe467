"""The example does what its README says: it trains, serves, is watched, and a real Prometheus scrapes it."""

from __future__ import annotations

import asyncio
import http.server
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest

from modelwatch import ReferenceProfile
from modelwatch.demo.stage import free_port, prometheus_program, stage
from modelwatch.demo.story import Page

EXAMPLE = Path(__file__).parents[2] / "examples" / "bike_demand"
FEATURES = ("season", "weather", "hour", "weekday", "holiday", "workingday", "temp", "atemp", "humidity", "windspeed")
TWO_WEEKS = {
    "MODELWATCH_EVENT_TIME": "true",
    "MODELWATCH_WINDOW_SECONDS": "1209600",
    "MODELWATCH_WINDOW_SLOTS": "14",
}


def script(path):
    """A script of the example as a module."""
    spec = importlib.util.spec_from_file_location(f"bike_demand_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A directory with a copy of the example, in which train.py has run, and what that printed."""
    directory = tmp_path_factory.mktemp("bike") / "example"
    shutil.copytree(EXAMPLE, directory, ignore=shutil.ignore_patterns("__pycache__"))
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    if "PYTHONPATH" in environment:
        environment["PYTHONPATH"] = str(Path(environment["PYTHONPATH"]).absolute())
    done = subprocess.run(
        [sys.executable, "-W", "error", "train.py"],
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return directory, done.stdout


@pytest.fixture
def service(trained, monkeypatch):
    """The service's app, new, with the settings of the example."""
    directory, _ = trained
    monkeypatch.chdir(directory)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    for name, value in TWO_WEEKS.items():
        monkeypatch.setenv(name, value)
    return script(directory / "service.py").app


@pytest.fixture(scope="module")
def replay():
    """The module replay.py."""
    return script(EXAMPLE / "replay.py")


def test_training_freezes_the_first_quarter(trained):
    """The reference has every feature and the prediction, of 2,067 rows, and knows which column is the time."""
    directory, printed = trained
    reference = ReferenceProfile.load(directory / "reference.json")
    assert reference.names == (*FEATURES, "prediction")
    assert (reference.rows, reference.target, reference.time) == (2067, "count", "ts")
    assert {f.name for f in reference.features if f.cells.kind == "categorical"} == {"season", "weather"}
    assert "2,067 rows" in printed


def test_reference_holds_predictions_of_rows_not_trained_on(trained):
    """The prediction's part of the reference is that of cross-validation: off by as much as on rows never seen."""
    _, printed = trained
    assert 15 < float(printed.split("off by ")[1].split()[0]) < 20


def test_one_line_is_added(trained):
    """service.py calls modelwatch once, and would be the same service without."""
    text = (EXAMPLE / "service.py").read_text("utf-8")
    lines = [line for line in text.splitlines() if "modelwatch" in line.replace("MODELWATCH", "")]
    assert len(lines) == 2  # import and call
    assert lines[0] == "import modelwatch"
    assert lines[1].startswith('modelwatch.instrument(app, model_name="bike-demand", model_version="2011.1", ')


def test_service_answers_and_is_watched(service, replay):
    """Two weeks of plans are answered hour by hour, and /metrics tells rows, requests and drift of each feature."""

    async def fortnight():
        transport = httpx.ASGITransport(app=service)
        async with httpx.AsyncClient(transport=transport, base_url="http://bike") as client:
            counts = []
            for _, hours in list(replay.days())[:14]:
                answer = await client.post("/predict", json=hours)
                counts.append((answer.status_code, len(answer.json()), len(hours)))
            return counts, Page((await client.get("/metrics")).text)

    counts, page = asyncio.run(fortnight())
    assert all(status == 200 and answered == sent for status, answered, sent in counts)
    sent = sum(sent for _, _, sent in counts)
    assert page.total("model_rows_total") == sent
    assert page.total("model_request_total", status="success") == 14
    assert set(page.by("model_feature_drift_psi", "feature")) == {*FEATURES, "prediction"}
    assert page.total("model_drift_window_rows") == sent  # by the rows' own time: all of 2011, all within two weeks
    assert set(page.by("model_feature_captured", "feature").values()) == {1.0}


def test_service_refuses_what_is_no_hour(service, replay):
    """A plan with an hour without temperature gets 422, and no row of it is counted."""
    _, hours = next(replay.days())
    del hours[3]["temp"]

    async def refused():
        transport = httpx.ASGITransport(app=service)
        async with httpx.AsyncClient(transport=transport, base_url="http://bike") as client:
            answer = await client.post("/predict", json=hours)
            return answer.status_code, Page((await client.get("/metrics")).text)

    status, page = asyncio.run(refused())
    assert status == 422
    assert page.total("model_request_total", status="invalid") == 1
    assert page.total("model_rows_total") == 0


class Stub(http.server.BaseHTTPRequestHandler):
    """Takes plans, and answers each hour with 1."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body go out apart

    def do_POST(self):
        plan = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.plans.append((self.path, plan))
        body = json.dumps([1] * len(plan)).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def stub():
    """A server that keeps in `plans` what it was sent."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Stub) as server:
        server.plans = []
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_replay_sends_every_row_once(stub, replay):
    """All 15,312 rows of the serving period go out, in order, a request for each of the 641 days, without the label."""
    sent = list(replay.replay(f"http://127.0.0.1:{stub.server_port}"))
    hours = [hour for _, plan in stub.plans for hour in plan]
    assert len(sent) == len(stub.plans) == 641
    assert len(hours) == 15_312
    assert {path for path, _ in stub.plans} == {"/predict"}
    assert [hour["ts"] for hour in hours] == sorted({hour["ts"] for hour in hours})
    assert (hours[0]["ts"], hours[-1]["ts"]) == ("2011-04-01T00:00:00", "2012-12-31T23:00:00")
    assert set(hours[0]) == {*FEATURES, "ts"}
    assert {hour["weather"] for hour in hours} == {"clear", "mist", "light_rain", "heavy_rain", None}
    assert [(date, len(predictions)) for date, predictions in sent] == [
        (plan[0]["ts"][:10], len(plan)) for _, plan in stub.plans
    ]


def test_replay_is_a_script(stub):
    """`python replay.py URL` sends the same and says how many rows."""
    url = f"http://127.0.0.1:{stub.server_port}"
    done = subprocess.run(
        [sys.executable, str(EXAMPLE / "replay.py"), url], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip().endswith("2012-12-31  15,312 rows")
    assert len(stub.plans) == 641


@pytest.mark.skipif(prometheus_program() is None, reason="needs the program prometheus; `make test` sees to it")
def test_prometheus_scrapes_the_drift_gauges(replay):
    """A real Prometheus scrapes the served example, and its API returns the drift gauges as /metrics shows them."""
    with stage() as staged:
        staged.train()
        service = staged.serve(free_port())
        prometheus = staged.prometheus(prometheus_program(), free_port(), service.url)
        days = replay.replay(service.url)
        for _ in range(30):
            next(days)
        shown = Page(service.get("/metrics").text).by("model_feature_drift_psi", "feature")
        asked = 'model_feature_drift_psi{feature="temp",model_name="bike-demand"}'
        found, deadline = [], time.monotonic() + 60
        while [one["value"][1] for one in found] != [str(shown["temp"])] and time.monotonic() < deadline:
            answer = prometheus.get("/api/v1/query", query=asked)
            found = answer.raise_for_status().json()["data"]["result"]
        detected = prometheus.get("/api/v1/query", query="model_feature_drift_detected == 1").json()["data"]["result"]
        days.close()
    assert len(found) == 1
    assert float(found[0]["value"][1]) == shown["temp"] > 1
    assert found[0]["metric"]["model_version"] == "2011.1"
    assert {one["metric"]["feature"] for one in detected} >= {"temp"}
    assert {one["metric"]["feature"] for one in detected}.isdisjoint({"hour", "weekday", "workingday"})
