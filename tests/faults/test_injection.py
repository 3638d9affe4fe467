"""Whatever fails in the library, the service does not: faults at every call, in primitives and in users' hooks."""

from __future__ import annotations

import asyncio
import errno
import itertools
import json
import logging
import re
import subprocess
import sys
from pathlib import Path

import prometheus_client
import prometheus_client.exposition
import prometheus_client.metrics_core
import prometheus_client.openmetrics.exposition
import prometheus_client.registry
import prometheus_client.values
import pytest
from fastapi import FastAPI
from support import traffic

import modelwatch

SCRIPT = Path(traffic.__file__).with_name("injection.py")
REFERENCE = traffic.reference()
ERRORS = [
    RuntimeError("injected"), MemoryError(), OSError(errno.ENOSPC, "full"), RecursionError(), ValueError("injected"),
]  # fmt: skip


def watched(raised):
    """The service with the library around it, and its monitor."""
    app = FastAPI()
    monitor = modelwatch.instrument(app, **traffic.NAME, reference=REFERENCE, routes=traffic.WATCHED)
    return traffic.service(app, monitor, raised), monitor


def bare(raised):
    return traffic.service(FastAPI(), traffic.Unwatched(), raised)


def internal_errors(text):
    """What a page of metrics says of internal errors."""
    return sum(map(float, re.findall(r"^modelwatch_internal_errors_total\{.*\} (.*)$", text, re.MULTILINE)))


def families_of(text):
    """The names of what a page shows."""
    return set(re.findall(r"^# TYPE (\w+)", text, re.MULTILINE))


@pytest.mark.parametrize(
    ("options", "least"),
    [
        (["--share", "0.25", "--seed", "3"], 300),
        pytest.param(["--errors", "5", "--calls", "1"], 10_000, marks=pytest.mark.soak),
        pytest.param(["--errors", "1", "--calls", "12"], 10_000, marks=pytest.mark.soak),
    ],
)
def test_no_call_that_fails_changes_an_answer(options, least, capsys):
    """Each call that the library makes while it serves fails, once or from then on: answers stay, a number tells."""
    run = subprocess.run(
        [sys.executable, "-W", "error", SCRIPT, *options], capture_output=True, text=True, check=False, timeout=3_600
    )
    assert run.returncode == 0, run.stderr
    result = json.loads(run.stdout)
    with capsys.disabled():
        sys.stdout.write(f"\n{ {key: value for key, value in result.items() if key != 'bad'} }\n")
    assert result["bad"] == []
    assert result["no such door"] == []
    assert result["injections"] >= least
    assert result["swallowed"] > 0.8 * result["injections"]
    assert result["reached"] > 1_000


PRIMITIVES = [
    (prometheus_client.values, ["MutexValue"]),
    (prometheus_client.Counter, ["inc", "labels", "collect"]),
    (prometheus_client.Gauge, ["set", "inc", "dec", "collect"]),
    (prometheus_client.Histogram, ["observe", "collect"]),
    (prometheus_client.metrics_core.Metric, ["__init__", "add_sample"]),
    (prometheus_client.metrics_core.CounterMetricFamily, ["__init__", "add_metric"]),
    (prometheus_client.metrics_core.GaugeMetricFamily, ["__init__", "add_metric"]),
    (prometheus_client.metrics_core.HistogramMetricFamily, ["__init__", "add_metric"]),
    (prometheus_client.registry.CollectorRegistry, ["collect", "get_target_info", "register"]),
    (prometheus_client.exposition, ["floatToGoString", "generate_latest"]),
    (prometheus_client.openmetrics.exposition, ["floatToGoString", "generate_latest"]),
]


@pytest.mark.swallows
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_a_primitive_of_prometheus_that_fails_costs_a_scrape_at_most(error, monkeypatch):
    """With each of prometheus_client's primitives failing in turn, requests are answered as by the bare app."""
    asks = [traffic.REQUESTS[number] for number in (0, 1, 2, 4, 8, 9, 14, 17, 7)]

    def fail(*args, **given):
        raise error

    async def scenario():
        raised = traffic.Raised()
        expected = await traffic.tell_all(bare(raised), raised, asks)
        app, monitor = watched(raised)
        await traffic.tell_all(app, raised, asks)
        families = families_of((await traffic.scrape(app))[1])
        told = []
        for owner, name in [(owner, name) for owner, names in PRIMITIVES for name in names]:
            before = sum(monitor.guard.errors.values())
            with monkeypatch.context() as patch:
                patch.setattr(owner, name, fail)
                assert await traffic.tell_all(app, raised, asks) == expected, name
                status, text = await traffic.scrape(app)
            told.append(status == 500 or sum(monitor.guard.errors.values()) > before)
            assert told[-1] or families <= families_of(text), name
        status, text = await traffic.scrape(app)
        assert status == 200
        assert families <= families_of(text)
        assert internal_errors(text) == sum(monitor.guard.errors.values())
        return told

    assert sum(asyncio.run(scenario())) >= 4  # of what the library uses at all


class Awkward:
    """An object that raises whatever is done with it."""

    def __getattribute__(self, name):
        raise LookupError(name)

    def __len__(self):
        raise LookupError("len")

    def __iter__(self):
        raise LookupError("iter")

    def __eq__(self, other):
        raise LookupError("eq")

    def __hash__(self):
        raise LookupError("hash")


async def coroutine():
    """Something that ought to be awaited."""


def unawaited(*args):
    COROUTINES.append(coroutine())
    return COROUTINES[-1]


COROUTINES = []  # closed by the test: collected somewhere else they would warn there


def failing(*args):
    raise ZeroDivisionError("a hook")


HOOKS = {
    "raises": failing,
    "None": lambda *args: None,
    "bytes": lambda *args: b"\xff" * 9,
    "long text": lambda *args: "x" * 2**20,
    "number": lambda *args: 5,
    "awkward": lambda *args: Awkward(),
    "list of awkward": lambda *args: [Awkward()],
    "deep": lambda *args: [[[[]]]],
    "itself": lambda *args: args,
    "type": lambda *args: dict,
    "generator": lambda *args: iter([1]),
    "method": lambda *args: "abc".__add__,
    "endless": lambda *args: itertools.count(),
    "coroutine": unawaited,
}


NO_ROWS = {"None", "bytes", "long text", "number", "endless", "coroutine"}


@pytest.mark.swallows
@pytest.mark.parametrize("part", ["features", "prediction", "confidence", "id"])
def test_a_hook_that_fails_or_returns_rubbish_changes_no_answer(part, caplog):
    """Whatever a function given to `predict` does: the answer is the endpoint's, each error counts, one is logged."""

    async def scenario():
        for name, hook in HOOKS.items():
            app = FastAPI()
            monitor = modelwatch.instrument(app, **traffic.NAME, reference=REFERENCE)
            parts = {"features": "payload", "prediction": "out", part: hook}

            @app.post("/told")
            @monitor.predict(**parts)
            async def told(payload: dict):
                return {"out": payload["age"]}

            answers = [
                await traffic.tell(app, traffic.Ask("/told", "POST", (b'{"age": 41.5}',)), traffic.Raised())
                for _ in range(5)
            ]
            assert {answer.raised for answer in answers} == {None}, name
            bodies = {dict(answer.messages[1])["body"] for answer in answers}
            assert bodies == {b'{"out":41.5}'}, name
            monitor.flush()
            _, text = await traffic.scrape(app)
            assert internal_errors(text) == sum(monitor.guard.errors.values())
            if name == "raises" or (part == "features" and name in NO_ROWS):
                assert monitor.guard.errors["capture"] == 5, name
            assert float(re.search(r'model_request_total\{.*status="success"\} (.*)', text)[1]) == 5

    caplog.set_level(logging.WARNING, "modelwatch")
    asyncio.run(scenario())
    assert COROUTINES
    while COROUTINES:
        COROUTINES.pop().close()
    lines = [record.getMessage() for record in caplog.records if "failed at stage" in record.getMessage()]
    assert 1 <= len(lines) <= 2 * len(HOOKS)  # of five requests of a kind, one line at each stage
    assert all("\n" not in line and len(line) < 1_200 for line in lines)
