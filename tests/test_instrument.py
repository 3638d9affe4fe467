"""`instrument`, from end to end: an app is watched, its answers stay what they were, and nothing is left behind."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import threading

import numpy as np
import psutil
import pytest
from fastapi import FastAPI, HTTPException
from prometheus_client import CollectorRegistry, make_asgi_app
from prometheus_client.parser import text_string_to_metric_families
from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

import modelwatch
from modelwatch.exceptions import ConfigurationError, ReferenceFileError

RNG = np.random.default_rng(0)
TABLE = {"age": RNG.normal(40, 10, 2_000), "plan": RNG.choice(["basic", "pro"], 2_000), "score": RNG.random(2_000)}
REFERENCE = modelwatch.ReferenceProfile.fit(TABLE, prediction="score")
UNREADABLE = b"{"
NAME = {"model_name": "churn", "model_version": "1"}


class Customer(BaseModel):
    age: float | None = None
    plan: str = "pro"


class Parcel(BaseModel):
    weight: float
    width: float


def make_app(kind=FastAPI):
    app = kind()

    @app.post("/predict")
    def predict(customer: Customer):
        if customer.plan == "refused":
            raise HTTPException(409)
        if customer.plan == "broken":
            raise LookupError("no such plan")
        return {"score": 0.25}

    @app.post("/batch")
    async def batch(customers: list[Customer]):
        return {"scores": [0.25] * len(customers)}

    return app


async def ask(app, path, body=None, method=None, headers=()):
    """(status, headers, body, exception) of one request."""
    content = b"" if body is None else body if body is UNREADABLE else json.dumps(body).encode()
    scope = {
        "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1", "scheme": "http",
        "method": method or ("GET" if body is None else "POST"), "path": path, "raw_path": path.encode(),
        "query_string": b"", "root_path": "", "headers": [(b"content-type", b"application/json"), *headers],
        "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80), "state": {},
    }  # fmt: skip
    messages = []

    async def receive():
        return {"type": "http.request", "body": content, "more_body": False}

    async def send(message):
        messages.append(message)

    failure = None
    try:
        await app(scope, receive, send)
    except Exception as error:  # noqa: BLE001 - whatever the app lets out is compared
        failure = error
    answer = b"".join(message.get("body", b"") for message in messages[1:])
    return messages[0]["status"], messages[0]["headers"], answer, failure


def call(app, *args, **given):
    return asyncio.run(ask(app, *args, **given))


def scrape(app, path="/metrics"):
    """{(sample name, frozen labels): value} of what a scrape shows."""
    status, _, text, _ = call(app, path)
    assert status == 200
    families = text_string_to_metric_families(text.decode())
    return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}


def value(samples, name, **labels):
    """Sum of the samples of a name that have these labels; None if there are none."""
    found = [v for (n, own), v in samples.items() if n == name and labels.items() <= dict(own).items()]
    return sum(found) if found else None


def test_one_line_watches_requests_rows_and_drift():
    """Requests, rows, predictions, drift and violations of an ordinary app are on /metrics after one added line."""
    app = make_app()
    monitor = modelwatch.instrument(app, **NAME, reference=REFERENCE)
    for _ in range(250):
        assert call(app, "/predict", {"age": 70.0})[0] == 200
    assert call(app, "/predict", {"age": None})[0] == 200
    assert call(app, "/predict", {"age": "x"})[0] == 422
    assert call(app, "/predict", {"plan": "refused"})[0] == 409
    samples = scrape(app)
    assert value(samples, "model_request_total", status="success") == 251
    assert value(samples, "model_request_total", status="invalid") == 1
    assert value(samples, "model_request_total", status="rejected") == 1
    assert value(samples, "model_rows_total", model_name="churn", model_version="1") == 251
    assert value(samples, "model_feature_drift_detected", feature="age") == 1
    assert value(samples, "model_feature_drift_psi", feature="age") == pytest.approx(monitor.report()["age"].psi)
    assert value(samples, "model_feature_violations_total", feature="age", reason="missing") == 1
    assert value(samples, "model_feature_bin_total", feature="prediction") == 251
    assert value(samples, "http_server_request_duration_seconds_count", http_route="/predict") == 253
    assert value(samples, "http_server_request_duration_seconds_count", http_route="/metrics") is None
    assert monitor.registry is not None


def test_everything_handed_in_is_accounted_for():
    """What one scrape shows is of one moment: the window, the bins and the row counters agree."""
    app = make_app()
    monitor = modelwatch.instrument(app, **NAME, reference=REFERENCE, routes=["/predict", "/batch"])
    call(app, "/batch", [{"age": 1.0 * i} for i in range(30)])
    monitor.record({"age": [1.0] * 20, "plan": ["pro"] * 20})
    samples = scrape(app)
    assert value(samples, "modelwatch_rows_total", outcome="recorded") == 50
    assert value(samples, "model_rows_total") == value(samples, "model_drift_window_rows") == 50
    assert value(samples, "modelwatch_buffer_rows") == 0


def test_an_app_without_fastapi_is_watched_too():
    """A plain Starlette app has service metrics, and its rows come through record()."""

    async def predict(request):
        monitor.record({"age": 41.0, "plan": "pro"}, predictions=0.5)
        return PlainTextResponse("0.5")

    app = Starlette(routes=[Mount("/v1", routes=[Route("/predict/{id}", predict, methods=["POST"])])])
    monitor = modelwatch.instrument(app, **NAME, reference=REFERENCE)
    assert call(app, "/v1/predict/7", {})[0] == 200
    samples = scrape(app)
    assert value(samples, "http_server_request_duration_seconds_count", http_route="/v1/predict/{id}") == 1
    assert value(samples, "model_rows_total") == 1


def test_same_app_and_model_give_the_same_monitor():
    """Instrumenting twice is once; other arguments for the same model are refused."""
    app = make_app()
    monitor = modelwatch.instrument(app, **NAME, reference=REFERENCE)
    assert modelwatch.instrument(app, **NAME, reference=REFERENCE) is monitor
    with pytest.raises(ConfigurationError, match=r"Expected the same `model_version` for model 'churn'"):
        modelwatch.instrument(app, model_name="churn", model_version="2", reference=REFERENCE)
    call(app, "/predict", {"age": 1.0})
    assert value(scrape(app), "http_server_request_duration_seconds_count") == 1


def test_several_models_share_one_page():
    """A second model needs routes; each counts its own requests, on the same /metrics."""
    app = make_app()
    first = modelwatch.instrument(app, model_name="one", reference=REFERENCE, routes=["/predict"])
    with pytest.raises(ConfigurationError, match=r"Expected `routes` for model 'two'"):
        modelwatch.instrument(app, model_name="two", reference=REFERENCE)
    second = modelwatch.instrument(app, model_name="two", reference=REFERENCE, routes=["/batch"])
    assert first is not second
    assert first.registry is second.registry
    call(app, "/predict", {"age": 1.0})
    call(app, "/batch", [{"age": 1.0}, {"age": 2.0}])
    samples = scrape(app)
    assert value(samples, "model_rows_total", model_name="one") == 1
    assert value(samples, "model_rows_total", model_name="two") == 2
    assert value(samples, "model_request_total", model_name="two", status="success") == 1


def test_settings_of_the_app_are_those_of_its_first_model():
    """What belongs to the app cannot differ between its models; what belongs to a model can."""
    app = make_app()
    modelwatch.instrument(app, model_name="one", routes=["/predict"])
    with pytest.raises(ConfigurationError, match="Expected `metrics_path` to be the same"):
        modelwatch.instrument(
            app, model_name="two", routes=["/batch"], settings=modelwatch.Settings(metrics_path="/other")
        )
    modelwatch.instrument(app, model_name="two", routes=["/batch"], settings=modelwatch.Settings(min_rows=500))


def test_disabled_leaves_the_app_untouched(monkeypatch):
    """MODELWATCH_DISABLED=1: no middleware, no /metrics, and a monitor whose methods do nothing."""
    monkeypatch.setenv("MODELWATCH_DISABLED", "1")
    app = make_app()
    before = dict(vars(app))
    monitor = modelwatch.instrument(app, **NAME, reference="no such file")
    assert vars(app) == before
    assert call(app, "/metrics")[0] == 404
    monitor.record({"age": 1.0})
    monitor.loaded()
    with monitor.ignore():
        monitor.flush()
    assert monitor.report().names == ()


def test_an_existing_metrics_route_is_kept(caplog):
    """The app's own /metrics answers on, and a warning names the setting."""
    app = make_app()

    @app.get("/metrics")
    def own():
        return "own"

    modelwatch.instrument(app, **NAME)
    with caplog.at_level(logging.WARNING, "modelwatch"):
        assert call(app, "/metrics")[2] == b'"own"'
    assert "metrics_path" in caplog.text
    other = make_app()
    modelwatch.instrument(other, **NAME, settings=modelwatch.Settings(metrics_path="/internal/metrics"))
    assert value(scrape(other, "/internal/metrics"), "modelwatch_build_info") == 1


def test_instrumenting_a_started_app_and_rebuilding_its_stack():
    """An app that has answered already is watched from then on; a stack that is built anew counts once."""
    app = make_app()
    assert call(app, "/predict", {"age": 1.0})[0] == 200
    modelwatch.instrument(app, **NAME, reference=REFERENCE)
    call(app, "/predict", {"age": 1.0})
    app.middleware_stack = None
    call(app, "/predict", {"age": 1.0})
    assert value(scrape(app), "http_server_request_duration_seconds_count", http_route="/predict") == 2


def test_a_mounted_app_of_its_own_is_counted_once():
    """Requests to an instrumented app within an instrumented app count in the outer one only."""
    inner, outer = make_app(), make_app()
    modelwatch.instrument(inner, model_name="inner", reference=REFERENCE)
    outer.mount("/inner", inner)
    modelwatch.instrument(outer, model_name="outer", reference=REFERENCE, routes=["/predict"])
    call(outer, "/inner/predict", {"age": 1.0})
    samples = scrape(outer)
    assert value(samples, "http_server_request_duration_seconds_count", http_route="/inner/predict") == 1
    inside = scrape(outer, "/inner/metrics")
    assert value(inside, "http_server_request_duration_seconds_count") is None
    assert value(inside, "model_rows_total", model_name="inner") == 1


def test_a_middleware_that_copies_the_scope_hides_no_route():
    """Requests behind a middleware that hands a copy of the scope on are counted with their template."""
    app = make_app()

    class Copying:
        def __init__(self, app):
            self.app = app

        async def __call__(self, scope, receive, send):
            await self.app(dict(scope), receive, send)

    app.add_middleware(Copying)
    app.get("/items/{uid}")(lambda uid: uid)
    modelwatch.instrument(app, **NAME, reference=REFERENCE)
    for _ in range(3):
        call(app, "/items/7")
        call(app, "/predict", {"age": 1.0})
    samples = scrape(app)
    for route in ("/items/{uid}", "/predict"):
        assert value(samples, "http_server_request_duration_seconds_count", http_route=route) == 3
    assert value(samples, "model_request_total", status="success") == 3


def test_a_scrape_shows_every_request_that_was_answered():
    """What a request counts is on the very next page, and only once."""
    app = make_app()
    modelwatch.instrument(app, **NAME, reference=REFERENCE, routes=["/predict"])
    for n in range(1, 20):
        call(app, "/predict", {"age": 1.0})
        call(app, "/predict", UNREADABLE)
        samples = scrape(app)
        assert value(samples, "model_request_total", status="success") == n
        assert value(samples, "model_request_total", status="invalid") == n
        assert value(samples, "model_request_latency_seconds_count") == 2 * n
        assert value(samples, "model_batch_size_count") == n
        assert value(samples, "http_server_request_duration_seconds_count") == 2 * n
        assert value(samples, "http_server_active_requests") == value(samples, "model_requests_in_progress") == 0


def test_a_request_that_is_cancelled_while_its_body_is_read_is_one_to_the_model():
    """It never came to the endpoint, and counts as cancelled all the same."""
    app = make_app()
    modelwatch.instrument(app, **NAME, reference=REFERENCE, routes=["/predict"])
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "scheme": "http", "method": "POST",
        "path": "/predict", "raw_path": b"/predict", "query_string": b"", "root_path": "", "state": {},
        "headers": [(b"content-type", b"application/json")], "client": ("c", 1), "server": ("s", 80),
    }  # fmt: skip

    async def go():
        asked = asyncio.Event()

        async def receive():
            asked.set()
            await asyncio.Event().wait()

        task = asyncio.ensure_future(app(scope, receive, None))
        await asked.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(go())
    samples = scrape(app)
    assert value(samples, "model_request_total", status="cancelled") == 1
    assert value(samples, "model_requests_in_progress") == 0


def test_counts_agree_while_scrapes_come():
    """Scrapes from another thread, in the middle of requests, lose nothing and count nothing twice."""
    app, over, seen = make_app(), threading.Event(), []
    monitor = modelwatch.instrument(app, **NAME, reference=REFERENCE, routes=["/predict"])

    def read():
        while not over.is_set():
            seen.append(monitor.registry.get_sample_value("model_batch_size_count", {"model_name": "churn"}))

    async def requests():
        for _ in range(600):
            await ask(app, "/predict", {"age": 1.0})

    thread = threading.Thread(target=read)
    thread.start()
    try:
        asyncio.run(requests())
    finally:
        over.set()
        thread.join()
    assert seen == sorted(seen)
    samples = scrape(app)
    assert value(samples, "model_request_total", status="success") == 600
    assert value(samples, "model_request_latency_seconds_count") == 600
    assert value(samples, "http_server_request_duration_seconds_count") == 600
    assert value(samples, "model_requests_in_progress") == 0


def test_requests_leave_no_garbage_behind():
    """What is made for a watched request is freed with it, not by the collector."""
    app = make_app()
    modelwatch.instrument(app, **NAME, reference=REFERENCE)

    async def collected():
        for _ in range(3):
            await ask(app, "/batch", [{"age": 1.0}])
        gc.collect()
        gc.disable()
        for _ in range(50):
            await ask(app, "/batch", [{"age": 1.0}])
        return gc.collect()

    try:
        assert asyncio.run(collected()) < 10
    finally:
        gc.enable()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"app": object()}, ConfigurationError, "a FastAPI or Starlette app, got object"),
        ({"model_name": " "}, ConfigurationError, "`model_name`"),
        ({"model_name": None}, ConfigurationError, "`model_name`"),
        ({"model_version": 2}, ConfigurationError, "`model_version`"),
        ({"reference": "no/such/file.json"}, ReferenceFileError, "no/such/file.json"),
        ({"routes": ["predict"]}, ConfigurationError, "routes"),
        ({"settings": {"metrics": {"no_such_metric": True}}}, ConfigurationError, "no_such_metric"),
        ({"settings": {"features": {"agee": {}}}, "reference": REFERENCE}, ConfigurationError, "'age'"),
    ],
)
def test_configuration_fails_at_the_start(arguments, error, message):
    """What cannot be used is refused by instrument() itself, in a sentence that names it."""
    given = {"app": make_app(), **NAME, **arguments}
    if "settings" in given:
        given["settings"] = modelwatch.Settings(**given["settings"])
    with pytest.raises(error, match=message):
        modelwatch.instrument(**given)


@pytest.mark.swallows
@pytest.mark.parametrize(
    "broken",
    [
        "modelwatch.metrics.service.ServiceMetrics.count",
        "modelwatch.metrics.service.ServiceMetrics.bind",
        "modelwatch.routes.Templates.of",
        "modelwatch.request.Service.sent",
        "modelwatch.capture.Capture.unreached",
        "modelwatch.capture.Capture.decided",
        "modelwatch.watch.Watch.begin",
        "modelwatch.watch.Passage.returned",
        "modelwatch.watch.Passage.entered",
        "modelwatch.watch.Watch.finish",
        "modelwatch.watch.Watch.unreached",
        "modelwatch.watch.Passage.solved",
        "modelwatch.request.Service.time",
        "modelwatch.metrics.service.ServiceMetrics.count_all",
        "modelwatch.metrics.model.ModelRequests.count",
        "modelwatch.predictions.Reader.__call__",
        "modelwatch.metrics.model.observe_all",
        "modelwatch.monitor.Monitor.commit",
        "modelwatch.engine.Engine.append",
        "modelwatch.metrics.runtime.LoopProbe.ensure",
    ],
)
def test_a_fault_of_the_library_never_changes_an_answer(broken, monkeypatch):
    """Whichever own function raises, answers and exceptions are those of the bare app, and the error is counted."""
    bodies = [{"age": 1.0}] * 4 + [{"age": "x"}, {"plan": "refused"}, {"plan": "broken"}, UNREADABLE]
    bare = [call(make_app(), "/predict", body) for body in bodies]

    def fail(*args, **given):
        raise RuntimeError("planted")

    monkeypatch.setattr(broken, fail)
    app = make_app()
    modelwatch.instrument(app, **NAME, reference=REFERENCE)
    watched = [call(app, "/predict", body) for body in bodies]
    assert [answer[:3] for answer in watched] == [answer[:3] for answer in bare]
    for ours, theirs in zip(watched, bare, strict=True):
        assert type(ours[3]) is type(theirs[3])
        assert ours[3] is None or ours[3].__context__ is None
    assert value(scrape(app), "modelwatch_internal_errors_total") > 0


@pytest.mark.parametrize("rounds", [150, pytest.param(1_000, marks=pytest.mark.soak)])
def test_a_new_app_for_each_test_leaves_nothing(rounds, tmp_path):
    """Apps that are instrumented, asked and dropped, as users' tests do, leave no thread, file, object or memory."""
    path = tmp_path / "reference.json"
    REFERENCE.save(path)

    def one_round():
        app = make_app()
        modelwatch.instrument(app, **NAME, reference=str(path))
        call(app, "/predict", {"age": 1.0})
        call(app, "/metrics")

    def state():
        gc.collect()
        own = [thing for thing in gc.get_objects() if str(type(thing).__module__).startswith("modelwatch.")]
        return len(os.listdir("/proc/self/fd")), len(own), psutil.Process().memory_info().rss

    for _ in range(30):
        one_round()
    files, objects, memory = state()
    for _ in range(rounds):
        one_round()
    files_after, objects_after, memory_after = state()
    assert files_after <= files
    assert objects_after < objects + rounds  # an app has some 80 of them, and the last one may not be collected yet
    assert memory_after - memory < 15e6 + rounds * 40e3  # an app that stayed would hold some 150 kB
    assert len([t for t in threading.enumerate() if t.name.startswith("modelwatch")]) <= 1


@pytest.mark.parametrize("late", [False, True])
def test_a_mount_at_the_metrics_path_is_kept(late, caplog):
    """prometheus_client's own recipe is a mount; it may also be added after instrument(): it stays the app's."""
    app = make_app()
    if not late:
        app.mount("/metrics", make_asgi_app(registry=CollectorRegistry()))
    modelwatch.instrument(app, **NAME)
    call(app, "/predict", {"age": 1.0})
    if late:
        app.mount("/metrics", make_asgi_app(registry=CollectorRegistry()))
    with caplog.at_level(logging.WARNING, "modelwatch"):
        assert b"modelwatch" not in call(app, "/metrics/")[2]
        assert b"modelwatch" not in call(app, "/metrics")[2]
    assert caplog.text.count("metrics_path") == 1


def test_routes_are_looked_at_again_after_a_reload():
    """An endpoint that carries the features of the new reference only is watched after the reload."""
    app = make_app()

    @app.post("/parcel")
    async def parcel(parcel: Parcel):
        return {"score": 0.5}

    monitor = modelwatch.instrument(app, **NAME, reference=REFERENCE)
    call(app, "/parcel", {"weight": 1.0, "width": 2.0})
    assert value(scrape(app), "model_rows_total") == 0
    monitor.reload(modelwatch.ReferenceProfile.fit({"weight": RNG.random(500), "width": RNG.random(500)}))
    call(app, "/parcel", {"weight": 1.0, "width": 2.0})
    assert value(scrape(app), "model_rows_total") == 1


def test_what_clients_make_of_one_metric_leaves_the_others_alone():
    """However many methods, paths and versions there were, the model's own series keep their names."""
    app = make_app()
    settings = modelwatch.Settings(max_series=256)
    monitor = modelwatch.instrument(app, **NAME, reference=REFERENCE, settings=settings)
    for i in range(100):
        app.get(f"/route{i}")(make_app)
    for i in range(100):
        for method in ("PUT", "PATCH", "DELETE"):
            call(app, f"/route{i}", method=method)
    monitor.reload(REFERENCE, model_version="2")
    call(app, "/predict", {"age": 1.0})
    samples = scrape(app)
    assert value(samples, "model_request_total", model_version="2", status="success") == 1
    assert value(samples, "http_server_request_duration_seconds_count", http_route="_other") > 0
    assert value(samples, "modelwatch_label_overflow_total") > 0
