"""What clients choose (methods, paths, hosts, queries, categories, classes, errors) makes no series of its own."""

from __future__ import annotations

import asyncio
import random
import string
import subprocess
import sys
from contextlib import contextmanager
from urllib.parse import quote_from_bytes

import pytest
from fastapi import FastAPI
from prometheus_client.parser import text_string_to_metric_families
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route, WebSocketRoute
from support import serving, traffic
from support.single import Single, uvicorn

import modelwatch

METHODS = {"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE", "_OTHER"}
REQUESTS = "http_server_request_duration_seconds_count"
TOKEN = string.ascii_letters + string.digits + "!#$%&'*+-.^_`|~"
MANY = 3_000
STARTS = ("/", "/items/", "/raise/", "/mounted/", "/mounted/things/", "/ping/")
TIMED = ("http_server_background_seconds", "model_gc_pause_seconds")  # they are there once something took long
ENDS = ("x", "x/", "x/x", "", "things", "things/", "inner", "inner/")
ROUTES = {"/items/{item}", "/raise/{name}", "/mounted/{path}", "/mounted/things/{thing}", "_unmatched", "_redirect"}
"""Where requests go, and all routes that may be seen of it."""


class Page:
    """What a page shows."""

    def __init__(self, text):
        self.samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]

    @property
    def series(self):
        """What identifies each sample."""
        return {(sample.name, tuple(sorted(sample.labels.items()))) for sample in self.samples}

    def values(self, label):
        """All values of a label."""
        return {sample.labels[label] for sample in self.samples if label in sample.labels}

    def total(self, name, **labels):
        """The sum of the samples of that name with these labels."""
        return sum(s.value for s in self.samples if s.name == name and labels.items() <= s.labels.items())

    @property
    def longest(self):
        """Length of the longest value of a label."""
        return max(len(value) for sample in self.samples for value in sample.labels.values())


class Client:
    """Draws what a hostile client sends."""

    def __init__(self, seed):
        self._rng = random.Random(seed)

    def word(self, letters=string.printable, most=30):
        return "".join(self._rng.choices(letters, k=self._rng.randint(1, most)))

    def method(self):
        known = self._rng.random() < 0.3
        return self._rng.choice(sorted(METHODS - {"CONNECT", "_OTHER"})) if known else self.word(TOKEN)

    def path(self):
        return self._rng.choice(STARTS) + quote_from_bytes(self._rng.randbytes(self._rng.choice([3, 10, 300])), safe="")

    def request(self):
        """A request of HTTP/1.1, the last one on its connection."""
        lines = [
            f"{self.method()} {self.path()}?{self.word(TOKEN, 300)} HTTP/1.1",
            f"host: {self.word(string.ascii_lowercase + '.-')}",
            f"user-agent: {self.word(string.ascii_letters + ' /().', 500)}",
            f"x-{self.word(string.ascii_lowercase)}: {self.word(string.ascii_letters, 200)}",
            f"x-forwarded-for: {self.word(string.digits + '.')}",
            "content-length: 0",
            "connection: close",
        ]
        return "\r\n".join([*lines, "", ""]).encode()


def assert_flat(half, whole):
    """The second half of the same kind of requests has not brought a single series."""
    assert {key for key in whole.series - half.series if not key[0].startswith(TIMED)} == set()
    assert whole.longest <= 256


def assert_bounded(half, whole):
    """Nothing has become a series that a client can choose freely."""
    assert_flat(half, whole)
    assert whole.values("http_request_method") <= METHODS


def hammer(server, client, count):
    """Send so many requests; how many of them came to the app."""
    counted = 0
    for _ in range(count):
        answer = server.raw(client.request())
        assert answer[:9] == b"HTTP/1.1 ", answer[:100]
        counted += b"Invalid HTTP request received." not in answer and b" 400 " not in answer[:13]
    return counted


def assert_service_is_bounded(server, count):
    """Twice as many requests, of which each is counted once, make not one series more."""
    for start in STARTS:  # so that the first half has all that there can be
        for method in [*sorted(METHODS - {"CONNECT", "_OTHER"}), "BREW"]:
            for end in ENDS:
                server.raw(f"{method} {start}{end} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode())
    for number in range(25):
        server.raw(f"POST /raise/E{number} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode())
    client = Client(seed=1)
    before = page_over(server).total(REQUESTS)
    counted = hammer(server, client, count)
    half = page_over(server)
    counted += hammer(server, client, count)
    whole = page_over(server)
    assert whole.total(REQUESTS) - before == counted
    assert_bounded(half, whole)
    assert len(whole.series) < MANY
    assert whole.values("http_route") == ROUTES
    return counted


def page_over(server):
    return Page(server.get("/metrics").body.decode())


@pytest.mark.parametrize("http", ["h11", "httptools"])
def test_what_comes_over_the_wire_is_bounded(tmp_path, http):
    """Random methods, paths, hosts, agents and queries over real connections leave the number of series as it is."""
    with uvicorn("foreign_app:app", tmp_path, http=http) as server:
        assert assert_service_is_bounded(server, 150) > 60


@pytest.mark.soak
@pytest.mark.parametrize("http", ["h11", "httptools", "granian"])
def test_thousands_over_the_wire_are_bounded(tmp_path, http):
    """The same with thousands, with granian too; they leave no memory behind."""
    with granian(tmp_path) if http == "granian" else uvicorn("foreign_app:app", tmp_path, http=http) as server:
        hammer(server, Client(seed=2), 300)
        before = server.resident
        assert assert_service_is_bounded(server, MANY // 2) > MANY / 5
        assert server.resident - before < 16 * 2**20


@contextmanager
def granian(directory):
    """A granian with one worker, which is the process that is looked at."""
    port, log = serving.free_port(), directory / "granian.log"
    command = ["granian", "--interface", "asgi", "--workers", "1", "--host", serving.HOST, "--port", str(port)]
    with open(log, "wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", *command, "foreign_app:app"],
            cwd=directory,
            env=serving.environment(directory, "", {}),
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    server = Single(port, process, log)
    try:

        def answers():
            try:
                return server.get("/ping").status == 200
            except OSError:
                return False

        serving.until(answers, "granian answers", serving.START_SECONDS)
        yield server
    finally:
        serving.end_group(process.pid)
        process.wait()


async def ask(app, method, path, headers=(), query=b""):
    scope = {
        "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1", "scheme": "http",
        "method": method, "path": path, "raw_path": path.encode("utf-8", "replace"), "query_string": query,
        "root_path": "", "headers": list(headers), "client": ("c", 1), "server": ("s", 80), "state": {},
    }  # fmt: skip
    messages = []

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message):
        messages.append(message)

    try:
        await app(scope, receive, send)
    except Exception:  # noqa: BLE001 - as a server would
        return 500, ""
    return messages[0]["status"], b"".join(message.get("body", b"") for message in messages[1:]).decode()


async def page_of(app):
    return Page((await ask(app, "GET", "/metrics"))[1])


def make_app(**settings):
    """A watched app with templates, mounts within mounts, an endpoint that raises any class, and one that is nested."""
    app = FastAPI()
    monitor = modelwatch.instrument(
        app, model_name="m", reference=traffic.reference(), settings=modelwatch.Settings(**settings)
    )

    @app.get("/items/{item}")
    async def item(item: str):
        return item

    @app.get("/raise/{name}")
    async def raises(name: str):
        raise type(name, (Exception,), {})

    async def below(request):
        return PlainTextResponse("below")

    inner = Starlette(routes=[Route("/things/{thing}", below), WebSocketRoute("/chat/{room}", below)])
    app.mount("/mounted", Starlette(routes=[Mount("/inner", inner), Route("/things/{thing}", below)]))
    nested = FastAPI()
    modelwatch.instrument(nested, model_name="nested")
    nested.get("/things/{thing}")(lambda thing: thing)
    app.mount("/nested", nested)
    return app, monitor


DEEP = ("/", "/items/", "/mounted/", "/mounted/things/", "/mounted/inner/things/", "/nested/", "/nested/things/")
TEMPLATES = {
    "/items/{item}", "/mounted/{path}", "/mounted/things/{thing}", "/mounted/inner/{path}",
    "/mounted/inner/things/{thing}", "/nested/{path}", "/nested/things/{thing}", "_unmatched", "_redirect",
}  # fmt: skip
"""Where requests go, mounts within mounts too, and all routes that may be seen of it."""


def test_thousands_of_anything_are_bounded():
    """3,000 requests with random methods, paths, hosts, agents and queries bring no series after the first half."""
    app, _ = make_app()
    client, rng = Client(seed=3), random.Random(4)

    async def half():
        for _ in range(MANY // 2):
            headers = [(name, client.word().encode()) for name in (b"host", b"user-agent", b"cookie")]
            headers.append((client.word(TOKEN).lower().encode(), b"x"))
            path = rng.choice(DEEP) + client.word(most=300)
            await ask(app, client.method(), path, headers, client.word().encode())
        return await page_of(app)

    async def scenario():
        for start in DEEP:
            for method in METHODS - {"CONNECT", "_OTHER"} | {"BREW"}:  # so that the first half has them all
                for end in ENDS:
                    await ask(app, method, start + end)
        return await page_of(app), await half(), await half()

    before, first, both = asyncio.run(scenario())
    assert_bounded(first, both)
    assert both.total(REQUESTS) - before.total(REQUESTS) == MANY
    assert both.values("http_route") == TEMPLATES


def test_thousands_of_categories_and_classes_are_bounded():
    """3,000 unseen categories and class names fold into `_other`, each row counts once, and the folding is counted."""
    app, monitor = make_app(task="classification")
    rng = random.Random(5)
    client = Client(seed=6)

    def half():
        for _ in range(MANY // 2 // 50):
            names = [client.word(most=1000) + str(rng.random()) for _ in range(50)]
            rows = [{"age": 40.0, "income": 1.0, "plan": name} for name in names]
            monitor.record(rows, predictions=names, confidences=[0.5] * 50)
        monitor.flush()
        return asyncio.run(page_of(app))

    first, both = half(), half()
    assert_flat(first, both)
    classes = both.values("predicted_class")
    assert len(classes) <= modelwatch.Settings().max_classes + 2
    assert both.total("model_rows_total") == both.total("model_predictions_total") == MANY
    assert both.total("model_predictions_total", predicted_class="_other") >= MANY - 50
    assert both.total("model_prediction_confidence_count") == MANY
    assert both.total("model_feature_bin_total", feature="plan", bin="_other") == MANY
    assert both.total("model_feature_bin_total", feature="plan") == MANY
    assert both.total("modelwatch_label_overflow_total", metric="model_predictions_total") > 0
    assert both.total("modelwatch_label_overflow_total") > first.total("modelwatch_label_overflow_total")


def test_thousands_of_exceptions_are_bounded():
    """Classes of exceptions that a client can name fold into `_other` after twenty, and none is lost."""
    app, _ = make_app()

    async def half(start):
        for number in range(start, start + 300):
            assert (await ask(app, "GET", f"/raise/Error{number}{'x' * 300}"))[0] == 500
        return await page_of(app)

    async def scenario():
        return await half(0), await half(300)

    first, both = asyncio.run(scenario())
    assert_flat(first, both)
    assert len(both.values("error_type")) <= 22
    assert both.total(REQUESTS, http_route="/raise/{name}") == 600
    assert both.total(REQUESTS, http_route="/raise/{name}", error_type="_other") == 580
    assert both.total("modelwatch_label_overflow_total", metric="http_server_request_duration_seconds") > 0


def test_a_full_metric_folds_and_loses_nothing():
    """Of an app with more routes than series are allowed the rest is `_other`; totals are exact, others whole."""
    app, monitor = make_app(max_series=256)
    for number in range(300):
        app.get(f"/route{number}")(lambda: 1)

    async def half():
        for number in range(300):
            assert (await ask(app, "GET", f"/route{number}"))[0] == 200
        return await page_of(app)

    async def scenario():
        return await half(), await half()

    first, both = asyncio.run(scenario())
    assert_flat(first, both)
    assert both.total(REQUESTS) == 600
    assert both.total(REQUESTS, http_route="_other") == 2 * (300 - 256)
    assert both.total("modelwatch_label_overflow_total", metric="http_server_request_duration_seconds") >= 300 - 256
    monitor.record({"age": 1.0}, predictions=0.5)
    monitor.flush()
    assert asyncio.run(page_of(app)).total("model_rows_total") == 1


def test_no_label_comes_from_a_request():
    """Whatever headers, queries and bodies say of models, versions and tenants, these labels are those of the code."""
    app, _ = make_app(labels={"tenant": "acme"})
    client = Client(seed=7)

    async def scenario():
        for name in ("x-model-name", "x-model-version", "x-tenant", "x-forwarded-host", "host", "model_version"):
            for _ in range(20):
                value = client.word().encode()
                await ask(app, "GET", "/items/1", [(name.encode(), value)], b"tenant=" + value)
        return await page_of(app)

    page = asyncio.run(scenario())
    assert page.values("tenant") == {"acme"}
    assert page.values("model_name") <= {"m"}
    assert page.values("model_version") <= {""}
