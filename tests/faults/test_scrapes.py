"""Huge pages, many scrapers, collectors that hang, labels that forge lines: the service and its page go on."""

from __future__ import annotations

import asyncio
import logging
import math
import subprocess
import sys
import threading
import time
from decimal import Decimal
from statistics import median
from typing import Literal

import httpx
import numpy as np
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from prometheus_client import Counter, Gauge, generate_latest
from prometheus_client.metrics_core import GaugeMetricFamily
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from pydantic import BaseModel
from support import traffic
from support.serving import Connection, until
from support.single import Probe, quantile, uvicorn

import modelwatch
from modelwatch.demo.stage import free_port, prometheus_program, stage
from modelwatch.exposition import Exposition
from modelwatch.guard import Guard
from modelwatch.metrics.registry import Registry
from modelwatch.port import Port
from modelwatch.settings import Settings

MANY = 20_000
WAIT = 2  # seconds that a scrape waits for a collector that hangs; 5 by default
DURATION = "modelwatch_scrape_duration_seconds_count"


@pytest.fixture
def guard():
    return Guard()


@pytest.fixture(scope="module")
def many():
    """A registry of very many series of a user's."""
    registry = Registry(Guard())
    gauge = Gauge("foreign", "Of the service.", ["user", "place"], registry=registry)
    for number in range(MANY):
        gauge.labels(f"user{number}", f"place{number % 7}").set(number + 0.5)
    return registry


def lateness(work):
    """How late an event loop wakes from short sleeps while a thread works: the median, in seconds."""
    done, late = threading.Event(), []

    def working():
        work()
        done.set()

    async def scenario():
        thread = threading.Thread(target=working)
        thread.start()
        while not done.is_set():
            begun = time.perf_counter()
            await asyncio.sleep(0.001)
            late.append(time.perf_counter() - begun - 0.001)
        thread.join()

    asyncio.run(scenario())
    return median(late)


def test_the_event_loop_goes_on_while_a_large_page_is_made(many, guard):
    """While 20,000 series are rendered, an event loop wakes far more in time than while prometheus_client does it."""
    app = Exposition(many, Settings(), guard)
    ours = median(lateness(lambda: app.answer("GET", [], b"")) for _ in range(3))
    theirs = median(lateness(lambda: generate_latest(many)) for _ in range(3))
    assert theirs > 3 * ours


def test_a_large_page_is_whole(many, guard):
    """What is made with pauses holds every series once, and is what prometheus_client makes."""
    body = Exposition(many, Settings(), guard).answer("GET", [], b"").body
    assert body == generate_latest(many)
    assert body.count(b"\nforeign{") == MANY


def scrape_closed_loop(server, over, counts):
    """Scrape as fast as the answers come, and count them by status."""
    connection = Connection(server.port)
    while not over.is_set():
        answer = connection.get("/metrics", {"accept-encoding": "gzip"})
        counts[answer.status] = counts.get(answer.status, 0) + 1
    connection.close()


def with_scrapers(server, number, work):
    """What many scrapers get while `work` is done, by status."""
    over, counts = threading.Event(), [{} for _ in range(number)]
    threads = [threading.Thread(target=scrape_closed_loop, args=(server, over, count)) for count in counts]
    for thread in threads:
        thread.start()
    try:
        work()
    finally:
        over.set()
        for thread in threads:
            thread.join()
    return counts


def test_eight_scrapers_share_renderings(tmp_path):
    """Eight scrapers in closed loop are all answered with 200, from few renderings, while probes are answered too."""
    with uvicorn("foreign_app:app", tmp_path, env={"FOREIGN_SERIES": "5000"}) as server, Probe(server.port) as probe:
        before = server.scrape().total(DURATION)

        def work():
            begun = len(probe.seconds)
            until(lambda: server.scrape().total(DURATION) >= before + 20, "twenty renderings", pause=0.5)
            assert len(probe.seconds) - begun >= 20

        counts = with_scrapers(server, 8, work)
        renderings = server.scrape().total(DURATION) - before
    assert {status for count in counts for status in count} == {200}
    answered = sum(count[200] for count in counts)
    assert answered > 3 * renderings
    assert min(count[200] for count in counts) > 0.3 * answered / 8  # none is left behind


def test_a_collector_that_hangs_leaves_the_service_alone(tmp_path):
    """A user's collector that hangs costs its own families, and the first scrape some seconds; no request waits."""
    environment = {"FOREIGN_HANGS": "1", "MODELWATCH_COLLECT_SECONDS": str(WAIT)}
    with uvicorn("foreign_app:app", tmp_path, env=environment) as server, Probe(server.port) as probe:
        first = []
        scraper = threading.Thread(target=lambda: first.append(server.scrape()))
        scraper.start()
        until(lambda: server.get("/asked").json == 1, "the collector is asked")
        begun = len(probe.seconds)
        until(lambda: len(probe.seconds) >= begun + 10, "probes are answered")
        assert not first  # the scrape still waits, and no probe did
        scraper.join()
        later = [server.scrape() for _ in range(10)]
        asked = server.get("/asked").json
    for scrape in [*first, *later]:
        assert scrape.total("foreign") == 0.5
        assert scrape.where("modelwatch_build_info")
        assert not scrape.where("late")
        assert not scrape.where("half")
    assert asked == 1
    assert max(scrape.seconds for scrape in later) < first[0].seconds < 2 * WAIT
    errors = [scrape.total("modelwatch_internal_errors_total", stage="scrape") for scrape in [*first, *later]]
    assert errors == [0, *range(2, 21, 2)]  # what the scrapes before have lost: one that hangs, and one that raises


@pytest.mark.soak
def test_probes_do_not_notice_scrapes_of_large_pages(tmp_path, capsys):
    """With 20,000 series scraped once a second the 99 % quantile of a probe stays under three times its base.

    Eight scrapers in closed loop are answered with 200 only, and memory does not grow with them.
    """
    with uvicorn("foreign_app:app", tmp_path, env={"FOREIGN_SERIES": str(MANY)}) as server:
        server.scrape()
        ratios, loaded = [], []
        for _ in range(7):
            base, once_a_second = probed(server, 0, 5), probed(server, 1, 5)
            ratios.append(once_a_second / base)
        before = server.resident
        for _ in range(3):
            base, loop = probed(server, 0, 5), probed(server, 8, 5)
            loaded.append(loop / base)
        grown = server.resident - before
    with capsys.disabled():
        shown = (
            ", ".join(f"{ratio:.2f}" for ratio in sorted(ratios)),
            ", ".join(f"{ratio:.2f}" for ratio in sorted(loaded)),
        )
        sys.stdout.write(
            f"\nprobe p99 / its base: {shown[0]} at 1 Hz; {shown[1]} with 8 scrapers, {grown} bytes more\n"
        )
    assert sorted(ratios)[3] < 3
    assert sorted(loaded)[1] < 20
    assert grown < 16 * 2**20


def probed(server, scrapers, seconds):
    """The 99 % quantile of a probe's times while so many scrape: one once a second, more as fast as they can."""
    with Probe(server.port) as probe:
        if scrapers > 1:
            counts = with_scrapers(server, scrapers, lambda: time.sleep(seconds))
            assert {status for count in counts for status in count} == {200}
        else:
            end = time.monotonic() + seconds
            while (left := end - time.monotonic()) > 0:
                if scrapers:
                    assert server.get("/metrics", {"accept-encoding": "gzip"}).status == 200
                time.sleep(min(1, left))
    return quantile(probe.seconds, 0.99)


HOSTILE = [
    "half \ud800 of a pair", "NUL \x00", "CR LF \r\nforged_total 1\r\n", "LF \nforged_total 1\n", "back\\",
    '"} 1\nforged_total{a="', '\\"', "\x0b\x0c\x1c\x85\u2028\u2029", "x" * 2**20,
    "\x1b[31m\x07", "\ufeff\ufffe\uffff", "", " ", "\t",
]  # fmt: skip


@pytest.fixture
def hostile(guard):
    """A port that shows a user's labels which hold anything."""
    registry = Registry(guard)
    family = GaugeMetricFamily("hostile", "Bad \ud800\r\nforged_total 1", labels=["text"])
    for number, text in enumerate(HOSTILE):
        family.add_metric([text], number)
    registry.register(type("Collector", (), {"collect": lambda self: [family]})())
    Counter("jobs", "Jobs.", ["kind"], registry=registry).labels("\udfff\r\n").inc(2)
    registry.set_target_info({"env": "\ud800\r\n"})
    port = Port(Exposition(registry, Settings(), guard), "127.0.0.1", 0, "/metrics", guard)
    port.open()
    yield port
    port.close()


def test_no_label_of_a_user_forges_a_line(hostile):
    """Hostile labels in metrics of a user's, read by two parsers and checked by Prometheus' tool, stay labels."""
    for accept, parse in (("text/plain", parse_text), ("application/openmetrics-text", parse_openmetrics)):
        page = httpx.get(f"http://127.0.0.1:{hostile.port}/metrics", headers={"accept": accept}).content.decode()
        families = {family.name: family.samples for family in parse(page)}
        target = "target" if parse is parse_openmetrics else "target_info"
        assert families.keys() - {"jobs_created"} == {"hostile", "jobs", target}
        assert [sample.value for sample in families["hostile"]] == list(range(len(HOSTILE)))
        assert not any(line.startswith("forged") for line in page.splitlines())
        assert len(page) < 10_000
        if parse is parse_text:
            command = ["promtool", "check", "metrics"]
            checked = subprocess.run(command, input=page.encode(), capture_output=True, check=False)
            assert checked.returncode in {0, 3}, checked.stderr  # 3: it can be read, and there is advice


def test_prometheus_reads_labels_that_hold_anything(hostile):
    """A real Prometheus scrapes a page with hostile labels and stores each series once."""
    program = prometheus_program()
    assert program, "the tests need the `prometheus` program, see tools/ensure_programs.sh"
    with stage() as theatre:
        prometheus = theatre.prometheus(program, free_port(), f"http://127.0.0.1:{hostile.port}")

        def series(query):
            return prometheus.get("/api/v1/query", query=query).json()["data"]["result"]

        until(lambda: series("hostile"), "Prometheus has scraped")
        assert [one["value"][1] for one in series("up")] == ["1"]
        found = series("hostile")
        jobs = series("jobs_total")
        assert series("forged_total") == []
    assert sorted(int(one["value"][1]) for one in found) == list(range(len(HOSTILE)))
    assert [one["metric"]["kind"] for one in jobs] == ["??\n"]


ODD = [
    math.nan, math.inf, -math.inf, 10**400, None, "nan", "inf", "1e999", True, b"x", object(),
    np.float64("nan"), np.float32("inf"), np.float64("-inf"), np.int64(3), Decimal("NaN"), Decimal("sNaN"),
    Decimal("Infinity"), complex(0, math.nan), np.array(math.nan),
]  # fmt: skip


@pytest.mark.parametrize("known", [False, True], ids=["without reference", "with reference"])
def test_no_number_of_a_caller_spoils_a_sum(known):
    """NaN, infinity and what is no number, in all that `record` takes, leave every counter and sum finite."""
    reference = traffic.reference() if known else None
    monitor = modelwatch.instrument(FastAPI(), model_name="m", reference=reference)
    row = {"age": 40.0, "income": 2.0, "plan": "pro"}
    monitor.record(row, predictions=0.5, confidences=0.75)
    before = numbers_of(page_of(monitor))
    for odd in ODD:
        monitor.record(dict.fromkeys(row, odd), predictions=0.5, confidences=0.75)
        monitor.record(row, predictions=odd, confidences=0.75)
        monitor.record(row, predictions=0.5, confidences=odd)
        monitor.record([row, row], predictions=[odd, 0.5], confidences=[odd, 0.75])
        monitor.record({name: [odd, value] for name, value in row.items()}, predictions=np.array([np.nan, np.inf]))
        monitor.record(row, predictions=0.5, timestamps=odd, ids=odd)
    monitor.record(np.array([[np.nan, np.inf, 3.0]]), predictions=np.array([np.nan]), confidences=np.array([np.inf]))
    after = numbers_of(page_of(monitor))
    assert {key: value for key, value in after.items() if not math.isfinite(value)} == {}
    assert {key for key, value in before.items() if after[key] < value and not key[0].endswith("_value_sum")} == set()
    if known:
        told = sum(value for (name, _), value in after.items() if name == "model_feature_violations_total")
        assert told > 3 * len(ODD)


def test_finite_numbers_whose_sum_is_not_spoil_nothing():
    """Numbers so large that their sum overflows are counted in their bucket; the histogram stays on the page."""
    monitor = modelwatch.instrument(FastAPI(), model_name="m", reference=traffic.reference())
    for number in (1e308, 1e308, -1e308, -1e308, -1e308):
        monitor.record({"age": 1.0}, predictions=number)
    numbers = numbers_of(page_of(monitor))
    assert sum(value for (found, _), value in numbers.items() if found == "model_prediction_value_count") == 5
    assert [math.isfinite(value) for (found, _), value in numbers.items() if found == "model_prediction_value_sum"] == [
        True
    ]


def test_what_is_no_confidence_makes_no_sum_fall():
    """A number outside 0 to 1 is no confidence: a histogram whose sum falls would be taken for one that began anew."""
    monitor = modelwatch.instrument(FastAPI(), model_name="m", reference=traffic.reference())
    monitor.record([{"age": 1.0}] * 4, confidences=[-5.0, 85.0, 0.25, 1.0])
    numbers = numbers_of(page_of(monitor))
    for end, expected in (("_count", 2), ("_sum", 1.25)):
        found = [value for (name, _), value in numbers.items() if name == f"model_prediction_confidence{end}"]
        assert found == [expected]


def page_of(monitor):
    monitor.flush()
    return generate_latest(monitor.registry).decode()


def numbers_of(page):
    """All numbers of counters and histograms, and the sums of these, by name and labels."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in parse_text(page)
        if family.type in {"counter", "histogram"}
        for sample in family.samples
    }


CANARY = "canary-8f2d"


class Strict(BaseModel, extra="forbid"):
    """A row that says of which field it knows nothing."""

    age: float
    plan: Literal["basic", "pro"] = "pro"
    more: dict[str, float] = {}


def service_of_secrets():
    app = FastAPI()
    monitor = modelwatch.instrument(
        app, model_name="m", reference=traffic.reference(), settings=Settings(metrics_token=CANARY)
    )

    @app.post("/predict")
    async def predict(row: traffic.Row):
        return {"prediction": 0.5, "confidence": 0.75}

    @app.post("/strict")
    async def strict(row: Strict):
        return {"prediction": 0.5}

    @app.post("/parts")
    @monitor.predict(features=lambda arguments: arguments["body"]["rows"][0], prediction="score")
    async def parts(body: dict):
        return {"score": body["score"]}

    @app.post("/raises")
    async def raises(body: dict):
        raise LookupError(body)

    @app.post("/by-hand")
    async def by_hand(body: dict):
        monitor.record(body, predictions=body.get("p"), confidences=body.get("c"), ids=body.get("i"))
        return {}

    @app.get("/things/{thing}")
    async def things(thing: str):
        return {}

    return app, monitor


@pytest.mark.swallows
@pytest.mark.parametrize("level", ["DEBUG", "INFO", "WARNING"])
def test_what_clients_send_is_nowhere_told(caplog, level, monkeypatch):
    """Headers, cookies, queries, paths, bodies, names of fields and values are neither on the page nor in the log."""
    caplog.set_level(level, "modelwatch")
    monkeypatch.setattr("modelwatch.guard._QUIET_SECONDS", 0)  # every error is logged, not one a minute
    app, monitor = service_of_secrets()
    bodies = [
        {"age": 1.0, "plan": CANARY}, {"age": CANARY}, {CANARY: 1.0, "age": 2.0}, {"age": {CANARY: [CANARY]}},
        {"age": 1.0, "more": {CANARY: CANARY}}, {"rows": [{"age": CANARY}], "score": CANARY}, {"rows": CANARY},
        {"age": CANARY, "p": CANARY, "c": CANARY, "i": CANARY}, {"age": 1.0, "p": [CANARY], "c": {CANARY: 1}},
        [CANARY], CANARY,
    ]  # fmt: skip
    with TestClient(app, raise_server_exceptions=False) as client:
        client.cookies.set("session", CANARY)
        for path in ("/predict", "/strict", "/parts", "/raises", "/by-hand"):
            for body in bodies:
                client.post(f"{path}?q={CANARY}", json=body, headers={"x-secret": CANARY, f"x-{CANARY}": "1"})
            client.post(path, content=f'{{"{CANARY}'.encode(), headers={"content-type": f"application/{CANARY}"})
        for path in (f"/{CANARY}", f"/things/{CANARY}", f"/docs?{CANARY}={CANARY}"):
            client.get(path, headers={"authorization": f"Basic {CANARY}", "user-agent": CANARY, "host": CANARY})
        client.request(
            "GET", "/metrics", params={"name[]": CANARY, CANARY: "1"}, headers={"authorization": f"Bearer {CANARY}"}
        )
        monitor.flush()
        right = {"authorization": f"Bearer {CANARY}"}
        pages = [
            client.get("/metrics", headers={**right, "accept": accept})
            for accept in ("text/plain", "application/openmetrics-text")
        ]
    assert [page.status_code for page in pages] == [200, 200]
    assert not any(CANARY in page.text for page in pages)
    assert "model_rows_total" in pages[0].text
    own = [record for record in caplog.records if record.name.startswith("modelwatch")]
    formatter = logging.Formatter()
    assert [line for line in map(formatter.format, own) if CANARY in line] == []
    assert CANARY not in f"{monitor!r} {monitor.settings!r} {monitor.report()!s}"
