"""The middleware: what is recorded of every kind of request, and that the app is not changed by it."""

from __future__ import annotations

import asyncio
import gc
import json

import pytest
from fastapi import APIRouter, BackgroundTasks, FastAPI, HTTPException, Request, WebSocket
from fastapi.responses import StreamingResponse
from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

import modelwatch.asgi
import modelwatch.request
from modelwatch.asgi import Middleware, install
from modelwatch.exchange import CANCELLED, COMPLETE, DISCONNECTED, FAILED, KEY
from modelwatch.guard import Guard
from modelwatch.metrics.service import ServiceMetrics
from modelwatch.request import Service
from modelwatch.routes import Patterns, Templates
from modelwatch.series import Series
from modelwatch.settings import Settings

DURATION = "http_server_request_duration_seconds"


class Item(BaseModel):
    a: float


class Watch:
    """An app's service layer, and what it counted."""

    def __init__(self, app, **options):
        self.series, self.guard = Series(), Guard()
        metrics = ServiceMetrics(self.series, Settings())
        self.service = Service(metrics=metrics, templates=Templates(app), guard=self.guard, **options)
        install(app, lambda stack: Middleware(stack, self.service))

    def cells(self, metric):
        """Label values -> values of a metric's cells that are not 0."""
        return {cell.labels: cell.values for cell in self.series.cells() if cell.metric == metric and any(cell.values)}

    def counts(self, metric=DURATION):
        """Label values -> number of observations."""
        return {labels: sum(values[:-1]) for labels, values in self.cells(metric).items()}

    def sums(self, metric=DURATION):
        """Label values -> sum of the observations."""
        return {labels: values[-1] for labels, values in self.cells(metric).items()}


class Finishing:
    """An endpoint of a model that remembers what it was given."""

    def __init__(self):
        self.finished = []

    def finish(self, exchange):
        self.finished.append((exchange.outcome, exchange.status, exchange.error, exchange.ended >= exchange.started))


@pytest.fixture
def time(clock, monkeypatch):
    """The middleware's clock, turned by hand."""
    for module in (modelwatch.asgi, modelwatch.request):
        monkeypatch.setattr(module, "perf_counter", clock)
    return clock


def scope_of(path="/", *, method="GET", kind="http", headers=(), **more):
    """As uvicorn makes it."""
    scope = {
        "type": kind, "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1", "scheme": "http",
        "path": path, "raw_path": path.encode(), "query_string": b"", "root_path": "", "client": ("c", 1),
        "server": ("s", 80), "state": {}, "headers": [(b"host", b"t.local"), *headers],
    }  # fmt: skip
    return scope | ({"method": method} if kind == "http" else {"subprotocols": []}) | more


async def call(app, path="/", *, body=(b"",), send=None, ends=(), **request):
    """Messages that an app sends, and its exception. `ends`: what the client sends after its body."""
    messages, scope = [], scope_of(path, **request)
    if any(body):
        scope["headers"].append((b"content-type", b"application/json"))
    incoming = [{"type": "http.request", "body": part, "more_body": True} for part in body]
    incoming[-1]["more_body"] = False
    incoming += ends

    async def receive():
        return incoming.pop(0) if incoming else await asyncio.Event().wait()

    async def keep(message):
        messages.append(message)

    try:
        await app(scope, receive, send or keep)
    except BaseException as error:  # noqa: BLE001 - it is what the tests look at
        return messages, error
    return messages, None


def run(app, path="/", **request):
    return asyncio.run(call(app, path, **request))


def predicting(**options):
    """An app with a route that takes JSON, and its watch."""
    app = FastAPI()

    @app.post("/predict")
    async def predict(item: Item):
        return {"y": item.a}

    return app, Watch(app, **options)


def test_a_request_is_counted_with_method_template_status_and_sizes():
    """A usual request: once in each histogram, with the bytes of both bodies."""
    app, watch = predicting()
    for n in range(5):
        messages, error = run(app, "/predict", method="POST", body=(b'{"a": 2}',))
        assert error is None
        assert json.loads(messages[1]["body"]) == {"y": 2.0}
        assert watch.counts() == {("POST", "/predict", "200", ""): n + 1}
        assert watch.sums("http_server_request_body_size_bytes") == {("POST", "/predict"): 8 * (n + 1)}
        assert watch.sums("http_server_response_body_size_bytes") == {("POST", "/predict"): 9 * (n + 1)}
        assert watch.counts("http_server_response_body_size_bytes") == {("POST", "/predict"): n + 1}
    assert watch.cells("http_server_active_requests") == {}


def test_a_route_that_is_known_is_counted_like_one_that_is_new(time):
    """Three equal requests count three times what the first one counts, in each bucket and sum."""
    app = FastAPI()

    @app.post("/{size}")
    async def endpoint(size: int, item: Item):
        time.advance(0.25)
        return Response(b"x" * size)

    watch = Watch(app)
    watch.service.turns = iter([False] * 9)
    for size in (5, 500, 50_000):
        watch.service._known.clear()
        run(app, f"/{size}", method="POST", body=(b'{"a": 2' + b" " * size + b"}",))
    first = {(cell.metric, cell.labels): cell.values for cell in watch.series.cells()}
    for size in (5, 500, 50_000) * 2:
        run(app, f"/{size}", method="POST", body=(b'{"a": 2' + b" " * size + b"}",))
    assert {(cell.metric, cell.labels): cell.values for cell in watch.series.cells()} == {
        key: [3 * value for value in values] for key, values in first.items()
    }


@pytest.mark.parametrize(
    ("path", "method", "labels"),
    [
        ("/api/v1/users/5", "GET", ("GET", "/api/v1/users/{uid}", "200", "")),
        ("/api/v1/users/5", "DELETE", ("DELETE", "/api/v1/users/{uid}", "405", "")),
        ("/sub/api/v1/users/5", "GET", ("GET", "/sub/api/v1/users/{uid}", "200", "")),
        ("/ten/t42/api/v1/users/5", "GET", ("GET", "/ten/{tid}/api/v1/users/{uid}", "200", "")),
        ("/nowhere/5", "GET", ("GET", "_unmatched", "404", "")),
        ("/api/v1/users/5/", "GET", ("GET", "_redirect", "307", "")),
    ],
)
def test_routes_are_templates(path, method, labels):
    """Routers, mounts, templated mounts, 404, 405 and redirects: 40 different paths make one label set."""

    def make():
        app, router = FastAPI(), APIRouter(prefix="/users")
        router.get("/{uid}")(plain)
        app.include_router(router, prefix="/api/v1")
        return app

    app = make()
    app.mount("/sub", make())
    app.mount("/ten/{tid}", make())
    watch = Watch(app)
    for n in range(40):
        run(app, path.replace("5", str(n)).replace("t42", f"t{n}"), method=method)
    assert watch.counts() == {labels: 40}


async def plain(uid: str = ""):
    return {"uid": uid}


def test_odd_methods_are_one_and_hosts_are_none():
    """40 invented methods are one label value, and 40 hosts none."""
    app, watch = predicting()
    for n in range(40):
        run(app, "/predict", method=f"BREW{n}")
        run(app, "/predict", method="POST", body=(b'{"a": 2}',), headers=[(b"host", b"h%d" % n)])
    assert watch.counts() == {("_OTHER", "/predict", "405", ""): 40, ("POST", "/predict", "200", ""): 40}
    assert watch.cells("http_server_active_requests") == {}


def test_requests_that_are_answered_now():
    """The gauge is up while the app works, by method, and down after the last byte, before background tasks."""
    app, seen = FastAPI(), []

    def look():
        seen.append(watch.cells("http_server_active_requests"))

    @app.get("/")
    async def endpoint(tasks: BackgroundTasks):
        tasks.add_task(look)
        look()
        return {}

    watch = Watch(app)
    for _ in range(2):
        run(app)
    assert seen == [{("GET",): [1]}, {}] * 2


def test_time_ends_with_the_last_byte_and_background_tasks_are_apart(time):
    """A background task of 0.3 s is not part of the request's duration."""
    app = FastAPI()

    @app.get("/")
    async def endpoint(tasks: BackgroundTasks):
        time.advance(0.5)
        tasks.add_task(time.advance, 0.25)
        return {}

    watch = Watch(app)
    for _ in range(3):
        run(app)
    labels = ("GET", "/", "200", "")
    assert watch.sums() == {labels: 1.5}
    assert watch.sums("http_server_background_seconds") == {("/",): 0.75}
    assert watch.counts("http_server_background_seconds") == {("/",): 3}


def test_without_background_tasks_nothing_is_counted_of_them(time):
    """An app that returns after the last byte, or raises, has done nothing in the background."""
    app, watch = predicting()
    app.get("/stream")(parts)
    app.get("/explode")(explode)
    for _ in range(3):
        run(app, "/predict", method="POST", body=(b'{"a": 2}',))
        run(app, "/stream")
        run(app, "/explode")
    assert watch.cells("http_server_background_seconds") == {}


def test_streams_have_a_first_and_a_last_byte(time):
    """Both times of a streamed response are known; a usual response has no first byte of its own."""
    app = FastAPI()

    @app.get("/stream")
    async def stream():
        async def parts():
            time.advance(0.25)
            yield b"one"
            time.advance(0.5)
            yield b"three"

        return StreamingResponse(parts())

    app.get("/plain")(plain)
    watch = Watch(app)
    for _ in range(2):
        run(app, "/stream")
        run(app, "/plain")
    assert watch.sums("http_server_first_byte_seconds") == {("GET", "/stream"): 0.5}
    assert watch.sums()["GET", "/stream", "200", ""] == 1.5
    assert watch.sums("http_server_response_body_size_bytes")["GET", "/stream"] == 16


def test_a_stream_with_a_background_task(time):
    """Its duration ends with its last byte too, though it is judged when the app returns."""
    app = FastAPI()

    @app.get("/")
    async def endpoint(tasks: BackgroundTasks):
        async def inner():
            time.advance(0.5)
            yield b"one"

        tasks.add_task(time.advance, 0.25)
        return StreamingResponse(inner(), background=tasks)

    watch = Watch(app)
    run(app)
    assert watch.sums() == {("GET", "/", "200", ""): 0.5}
    assert watch.sums("http_server_background_seconds") == {("/",): 0.25}


def test_request_bodies_are_counted_without_a_length():
    """A body in parts, without Content-Length, is counted by its bytes."""
    app, watch = predicting()
    for n in range(2):
        run(app, "/predict", method="POST", body=(b'{"a"', b": 1.", b"5}"))
        assert watch.sums("http_server_request_body_size_bytes") == {("POST", "/predict"): 10 * (n + 1)}


def test_the_size_is_that_of_the_wire():
    """A compressed response counts as compressed, a HEAD response as nothing."""
    app = FastAPI()
    app.add_middleware(GZipMiddleware, minimum_size=10)
    app.router.routes.append(Route("/", lambda request: PlainTextResponse("a" * 5000)))
    watch = Watch(app)
    messages, _ = run(app, headers=[(b"accept-encoding", b"gzip")])
    sent = sum(len(message.get("body", b"")) for message in messages)
    assert sent < 200
    run(app, method="HEAD")
    assert watch.sums("http_server_response_body_size_bytes") == {("GET", "/"): sent, ("HEAD", "/"): 0}


def test_an_exception_before_the_response():
    """It is a 500 with the name of its class, and comes out as the same object."""
    app, raised = FastAPI(), ZeroDivisionError("no")

    @app.get("/")
    async def endpoint():
        raise raised

    watch = Watch(app)
    for n in range(2):
        messages, error = run(app)
        assert error is raised
        assert (error.__cause__, error.__context__) == (None, None)
        assert messages[0]["status"] == 500
        assert watch.counts() == {("GET", "/", "500", "ZeroDivisionError"): n + 1}


def test_a_response_with_5xx_that_is_no_exception():
    """Its error is its status; one below 500 is none."""
    app = FastAPI()

    @app.get("/{status}")
    async def endpoint(status: int):
        raise HTTPException(status)

    watch = Watch(app)
    for status in (503, 418, 503):
        run(app, f"/{status}")
    assert watch.counts() == {("GET", "/{status}", "503", "503"): 2, ("GET", "/{status}", "418", ""): 1}


def failing_stream():
    app, raised = FastAPI(), ValueError("mid")

    @app.get("/")
    async def endpoint():
        async def parts():
            yield b"one"
            raise raised

        return StreamingResponse(parts())

    return app, raised


def test_an_exception_in_the_middle_of_a_stream():
    """The status that was sent, with the exception's class."""
    app, raised = failing_stream()
    watch = Watch(app)
    _, error = run(app)
    assert error is raised or raised in error.exceptions
    assert watch.counts() == {("GET", "/", "200", "ValueError"): 1}


def test_an_exception_in_a_stream_whose_end_a_middleware_makes_up():
    """BaseHTTPMiddleware closes a failed stream as if it were whole; it is counted as failed all the same."""
    app, _ = failing_stream()
    app.add_middleware(BaseHTTPMiddleware, dispatch=lambda request, call_next: call_next(request))
    watch = Watch(app)
    _, error = run(app)
    assert error is not None
    assert watch.counts() == {("GET", "/", "200", "ValueError"): 1}


def test_a_background_task_that_fails_leaves_the_request_complete():
    """Its exception comes out of the app, and the request was answered."""
    app, raised = FastAPI(), ValueError("later")

    def fail():
        raise raised

    @app.get("/")
    async def endpoint(tasks: BackgroundTasks):
        tasks.add_task(fail)
        return {}

    for behind in (False, True):
        if behind:  # the response comes in two messages, and its length is known
            app = FastAPI()
            app.get("/")(endpoint)
            app.add_middleware(BaseHTTPMiddleware, dispatch=lambda request, call_next: call_next(request))
        watch = Watch(app)
        for n in range(3):
            _, error = run(app)
            assert behind or error is raised  # older versions of BaseHTTPMiddleware keep it to themselves
            assert watch.counts() == {("GET", "/", "200", ""): n + 1}


async def cancelled(app, when):
    """Cancel a request when it says so."""
    task = asyncio.ensure_future(call(app))
    await when.wait()
    task.cancel()
    _, error = await task
    assert isinstance(error, asyncio.CancelledError)


@pytest.mark.parametrize("streaming", [False, True])
def test_a_cancelled_request(streaming):
    """It is counted as cancelled, with the status if one was sent, and the cancellation goes on."""
    app, when = FastAPI(), asyncio.Event()

    @app.get("/")
    async def endpoint():
        async def parts():
            yield b"one"
            when.set()
            await asyncio.Event().wait()

        if streaming:
            return StreamingResponse(parts())
        when.set()
        return await asyncio.Event().wait()

    watch = Watch(app)
    asyncio.run(cancelled(app, when))
    assert watch.counts() == {("GET", "/", "200" if streaming else "", "cancelled"): 1}
    assert watch.cells("http_server_active_requests") == {}


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), SystemExit(1), GeneratorExit(), ExceptionGroup("g", [OSError()])]
)
def test_every_exception_goes_on_as_it_is(error):
    """Whatever comes out of the app comes out of the middleware: the same object, without a context of ours."""

    async def app(scope, receive, send):
        raise error

    service = Watch(Starlette()).service

    async def go():
        with pytest.raises(BaseException) as caught:  # noqa: PT011 - any
            await Middleware(app, service)(scope_of(), None, None)
        assert caught.value is error
        assert (error.__cause__, error.__context__) == (None, None)

    with pytest.raises(StopIteration):  # by hand: asyncio.run would stop with some of them
        go().send(None)


def endless():
    """A stream that goes on until the client is gone."""
    app = FastAPI()

    @app.get("/")
    async def endpoint():
        async def parts():
            while True:
                yield b"one"
                await asyncio.sleep(0)

        return StreamingResponse(parts())

    return app


def test_a_client_that_goes_in_the_middle_of_a_stream():
    """Told by http.disconnect, with the app returning quietly."""
    app = endless()
    watch = Watch(app)
    run(app, ends=[{"type": "http.disconnect"}])
    assert watch.counts() == {("GET", "/", "200", "client_disconnect"): 1}


@pytest.mark.parametrize("at", ["http.response.start", "http.response.body"])
def test_a_client_that_goes_where_send_raises(at):
    """Told by the server's send, in any stage of the response; an OSError of the app's own is none of it."""
    app = endless()
    app.get("/one")(plain)
    watch = Watch(app)

    async def send(message):
        if message["type"] == at:
            raise OSError("gone")

    for path in ("/", "/one"):
        run(app, path, send=send, asgi={"version": "3.0", "spec_version": "2.4"})
    expected = {("GET", "/", "200", "client_disconnect"): 1}
    if at == "http.response.start":
        expected |= {("GET", "/one", "200", "client_disconnect"): 1}
    else:  # its last byte was on its way
        expected |= {("GET", "/one", "200", ""): 1}
    assert watch.counts() == expected


def test_an_oserror_of_the_app_is_no_disconnect():
    """A file that is missing says nothing about the client."""
    app = FastAPI()

    @app.get("/")
    async def endpoint():
        raise FileNotFoundError

    watch = Watch(app)
    run(app)
    assert watch.counts() == {("GET", "/", "500", "FileNotFoundError"): 1}


def test_a_client_that_goes_before_its_body_is_whole():
    """The app answers 4xx or 5xx to nobody; the client was gone."""
    app, watch = predicting()

    @app.post("/raw")
    async def raw(request: Request):
        return len(await request.body())

    gone = [{"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"}]

    async def go(path):
        messages = list(gone)

        async def receive():
            return messages.pop(0)

        async def send(message):
            pass

        await app(scope_of(path, method="POST"), receive, send)

    asyncio.run(go("/predict"))
    with pytest.raises(Exception):  # noqa: B017, PT011 - Starlette's ClientDisconnect
        asyncio.run(go("/raw"))
    assert watch.counts() == {
        ("POST", "/predict", "400", "client_disconnect"): 1,
        ("POST", "/raw", "500", "client_disconnect"): 1,
    }


@pytest.mark.parametrize("more", [{}, {"more_body": True}])
def test_a_client_that_goes_after_the_last_byte_is_none(more):
    """Servers say http.disconnect also when all is over, of streams as well."""

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"all"} | more)
        await send({"type": "http.response.body", "body": b""})
        await receive()
        assert (await receive())["type"] == "http.disconnect"

    watch = Watch(Starlette())
    run(Middleware(app, watch.service), ends=[{"type": "http.disconnect"}])
    assert watch.counts() == {("GET", "_unmatched", "200", ""): 1}


@pytest.mark.parametrize(
    ("error", "more", "labels"),
    [
        (ValueError(), False, ("200", "")),  # no length was announced, but it came in one piece
        (ValueError(), True, ("200", "ValueError")),
        (asyncio.CancelledError(), True, ("200", "")),
        (ExceptionGroup("g", [ExceptionGroup("h", [KeyError()])]), True, ("200", "KeyError")),
        (ExceptionGroup("g", [KeyError(), ValueError()]), True, ("200", "ExceptionGroup")),
        (SystemExit(), True, ("200", "SystemExit")),
    ],
)
def test_what_comes_out_of_an_app_after_the_last_byte(error, more, labels):
    """Of a response in one piece nothing matters any more; of a stream an exception does, a cancellation does not."""

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        if more:
            await send({"type": "http.response.body", "body": b"a", "more_body": True})
        await send({"type": "http.response.body", "body": b"" if more else b"all"})
        raise error

    watch = Watch(Starlette())
    middleware = Middleware(app, watch.service)
    with pytest.raises(StopIteration) as stop:  # by hand: asyncio.run does not bring SystemExit back
        call(middleware).send(None)
    assert stop.value.value[1] is error
    assert watch.counts() == {("GET", "_unmatched", *labels): 1}


class Sending:
    """A send that is no function."""

    async def __call__(self, message):
        raise OSError


async def vanishing(message):
    raise OSError


@pytest.mark.parametrize(
    ("send", "raises", "error"),
    [(vanishing, RuntimeError, "client_disconnect"), (Sending(), RuntimeError, "RuntimeError")],
)
def test_a_client_that_goes_and_an_app_that_raises_something_else(send, raises, error):
    """It is seen in what the app's exception came of, as far as the server's send can be recognised."""

    async def app(scope, receive, send):
        try:
            await send({"type": "http.response.start", "status": 200, "headers": []})
        except OSError:
            raise raises from None

    watch = Watch(Starlette())
    run(Middleware(app, watch.service), send=send)
    assert watch.counts() == {("GET", "_unmatched", "200", error): 1}


def test_a_client_disconnect_of_starlette_is_known_by_its_name():
    """Also where the server's send cannot be recognised."""
    app = endless()
    watch = Watch(app)
    run(app, send=Sending(), asgi={"version": "3.0", "spec_version": "2.4"})
    assert {labels[2:] for labels in watch.counts()} == {("200", "client_disconnect")} or watch.counts() == {
        ("GET", "/", "200", "OSError"): 1
    }


def test_a_last_message_that_comes_twice_counts_once():
    """An app that sends its last message again is wrong, and is counted once, also on a route that is known."""
    app = FastAPI()

    async def twice(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(2):
            await send({"type": "http.response.body", "body": b"all"})

    app.mount("/twice", twice)
    watch = Watch(app)
    for n in range(3):
        run(app, "/twice/")
        assert watch.counts() == {("GET", "/twice/{path}", "200", ""): n + 1}
    assert watch.cells("http_server_active_requests") == {}


@pytest.mark.parametrize(
    ("messages", "status"),
    [
        ([], "500"),
        ([{"type": "http.response.start", "status": 201}], "201"),
        ([{"type": "http.response.start", "status": 200}, {"type": "http.response.body", "more_body": True}], "200"),
    ],
)
def test_an_app_that_does_not_finish(messages, status):
    """An app that returns before the last byte has failed, with 500 if it sent nothing."""

    async def app(scope, receive, send):
        for message in messages:
            await send(message)

    watch = Watch(Starlette())
    run(Middleware(app, watch.service))
    assert watch.counts() == {("GET", "_unmatched", status, "incomplete_response"): 1}
    assert watch.cells("http_server_active_requests") == {}


def test_a_file_that_the_server_sends():
    """With http.response.pathsend the size is the announced one; what comes after the last byte changes nothing."""

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": [(b"Content-Length", b"77")]})
        await send({"type": "http.response.pathsend", "path": "/f"})
        await send({"type": "http.response.trailers", "headers": []})
        await send({"type": "http.response.body", "body": b"too late"})

    watch = Watch(Starlette())
    run(Middleware(app, watch.service))
    assert watch.counts() == {("GET", "_unmatched", "200", ""): 1}
    assert watch.sums("http_server_response_body_size_bytes") == {("GET", "_unmatched"): 77}
    assert watch.cells("http_server_active_requests") == {}


def test_an_empty_response_is_complete():
    """204 without a body, and without a length."""
    app = FastAPI()
    app.router.routes.append(Route("/", lambda request: Response(status_code=204)))
    watch = Watch(app)
    run(app)
    assert watch.counts() == {("GET", "/", "204", ""): 1}


def test_messages_pass_unchanged():
    """The same objects in the same order, in both directions."""
    sent = [
        {"type": "http.response.start", "status": 200, "headers": [(b"x", b"y")], "more": 1},
        {"type": "http.response.debug", "info": {}},
        {"type": "http.response.body", "body": b"1", "more_body": True},
        {"type": "http.response.body"},
    ]
    heard = []

    async def app(scope, receive, send):
        heard.append(await receive())
        for message in sent:
            await send(message)

    message = {"type": "http.request", "body": b"in"}
    got = []

    async def receive():
        return message

    async def send(message):
        got.append(message)

    copies = json.dumps(sent, default=repr)
    asyncio.run(Middleware(app, Watch(Starlette()).service)(scope_of(), receive, send))
    assert heard[0] is message
    assert [a is b for a, b in zip(sent, got, strict=True)] == [True] * 4
    assert json.dumps(sent, default=repr) == copies


@pytest.mark.parametrize("fails", [False, True])
def test_websockets_that_are_open(fails):
    """Up when accepted, down when it ends, by template; also when the endpoint fails."""
    app, seen = FastAPI(), []

    @app.websocket("/ws/{room}")
    async def chat(websocket: WebSocket):
        await websocket.accept()
        seen.append(watch.cells("http_server_active_websockets"))
        if fails:
            raise ValueError
        await websocket.close()

    watch = Watch(app)

    async def go(path):
        incoming = [{"type": "websocket.connect"}, {"type": "websocket.disconnect", "code": 1000}]
        sent = []

        async def receive():
            return incoming.pop(0)

        async def send(message):
            sent.append(message["type"])

        try:
            await app(scope_of(path, kind="websocket"), receive, send)
        except ValueError:
            sent.append("raised")
        return sent

    assert asyncio.run(go("/ws/r1")) == ["websocket.accept", "raised" if fails else "websocket.close"]
    assert asyncio.run(go("/nowhere"))[0] in {"websocket.close", "websocket.http.response.start"}
    assert seen == [{("/ws/{room}",): [1]}]
    assert watch.cells("http_server_active_websockets") == {}
    assert watch.counts() == {}
    for excluded in (["/ws/{room}"], ["/ws/r1"]):
        watch.service.excluded = Patterns(excluded)
        asyncio.run(go("/ws/r1"))
        assert seen.pop() == {}


def test_what_is_not_http_passes():
    """Lifespan and unknown kinds of scopes go to the app; the loop is looked at when the app starts."""
    seen, loops = [], []

    async def app(scope, receive, send):
        seen.append(scope["type"])

    middleware = Middleware(app, Watch(Starlette(), on_loop=[lambda: loops.append(1)]).service)
    for kind in ("lifespan", "telepathy"):
        asyncio.run(middleware({"type": kind}, None, None))
    assert seen == ["lifespan", "telepathy"]
    assert loops == [1]


async def page(scope, receive, send):
    """An exposition."""
    await PlainTextResponse("metrics")(scope, receive, send)


def body_of(messages):
    return b"".join(message.get("body", b"") for message in messages)


@pytest.mark.parametrize("root", ["", "/api"])
def test_the_metrics_are_not_traffic(root):
    """Their exact path, also below a root path, is answered before routing and counted nowhere."""
    app, watch = predicting(exposition=page)
    messages, _ = run(app, f"{root}/metrics", root_path=root)
    assert body_of(messages) == b"metrics"
    assert watch.counts() == {}
    messages, _ = run(app, f"{root}/metrics/", root_path=root)
    assert messages[0]["status"] == 404
    assert watch.counts() == {("GET", "_unmatched", "404", ""): 1}


def test_a_metrics_path_that_belongs_to_the_app():
    """Without an exposition, also where it is taken away later, the path is the app's and is counted."""
    app, watch = predicting(exposition=page)
    app.get("/metrics")(plain)
    watch.service.exposition = None
    messages, _ = run(app, "/metrics")
    assert json.loads(body_of(messages)) == {"uid": ""}
    assert watch.counts() == {("GET", "/metrics", "200", ""): 1}


@pytest.mark.parametrize(
    ("options", "counted"),
    [
        ({}, {"/items/{uid}", "/health/risk"}),
        ({"excluded": Patterns(["/items/{uid}"])}, {"/health", "/docs", "/health/risk"}),
        ({"excluded": Patterns(["/health"])}, {"/items/{uid}", "/docs"}),
        ({"excluded": Patterns(["/items/5", "*alth"])}, {"/docs", "/health/risk"}),
        ({"excluded": Patterns(["*"])}, set()),
    ],
)
def test_what_is_excluded_is_not_recorded_at_all(options, counted):
    """By path or by template; by default probes and documentation, exactly."""
    app = FastAPI()
    for path in ("/items/{uid}", "/health", "/health/risk"):
        app.get(path)(plain)
    watch = Watch(app, **options)
    for _ in range(2):
        for path in ("/items/5", "/health", "/health/risk", "/docs"):
            messages, _ = run(app, path)
            assert messages[0]["status"] == 200
    assert {labels[1] for labels in watch.counts()} == counted
    assert {labels[1] for labels in watch.counts("http_server_response_body_size_bytes")} == counted
    assert watch.cells("http_server_active_requests") == {}


def nested_apps():
    inner, outer = FastAPI(), FastAPI()
    inner.get("/x")(plain)
    inner_watch = Watch(inner, exposition=page)
    outer.mount("/sub", inner)
    return outer, Watch(outer, exposition=page), inner_watch


def test_nested_apps_count_a_request_once():
    """The outermost instrumented app counts; the inner one answers its metrics, which no one counts."""
    outer, watch, inner_watch = nested_apps()
    for n in range(3):
        run(outer, "/sub/x")
        run(outer, "/sub/nowhere")
        messages, _ = run(outer, "/sub/metrics")
        assert body_of(messages) == b"metrics"
        assert watch.counts() == {("GET", "/sub/x", "200", ""): n + 1, ("GET", "/sub/{path}", "404", ""): n + 1}
    assert inner_watch.counts() == {}
    assert watch.cells("http_server_active_requests") == {}


def test_nested_apps_whose_mounts_answer_are_not_counted_for_metrics():
    """A mounted app that answers 200 to anything is a known route of the outer one; its metrics are not counted."""

    async def anything(scope, receive, send):
        await PlainTextResponse("any")(scope, receive, send)

    outer, inner_watch = FastAPI(), Watch(Starlette(), exposition=page)
    outer.mount("/sub", Middleware(anything, inner_watch.service))
    watch = Watch(outer)
    for n in range(3):
        run(outer, "/sub/x")
        run(outer, "/sub/metrics")
        assert watch.counts() == {("GET", "/sub/{path}", "200", ""): n + 1}
    assert inner_watch.counts() == {}


def test_nested_apps_count_a_websocket_once():
    """Only the outer app's gauge goes up."""
    inner, outer, seen = FastAPI(), FastAPI(), []

    @inner.websocket("/ws")
    async def chat(websocket: WebSocket):
        await websocket.accept()
        seen.append([w.cells("http_server_active_websockets") for w in (watch, inner_watch)])

    inner_watch = Watch(inner)
    outer.mount("/sub", inner)
    watch = Watch(outer)
    incoming = [{"type": "websocket.connect"}]

    async def receive():
        return incoming.pop()

    async def send(message):
        pass

    asyncio.run(outer(scope_of("/sub/ws", kind="websocket"), receive, send))
    assert seen == [[{("/sub/ws",): [1]}, {}]]


def test_a_root_path_is_no_part_of_the_template():
    """Neither of a route nor of one behind a mount."""
    app, sub = FastAPI(), FastAPI()
    sub.get("/x/{n}")(plain)
    app.mount("/sub/{t}", sub)
    watch = Watch(app)
    for _ in range(2):
        run(app, "/api/sub/1/x/5", root_path="/api")
    assert watch.counts() == {("GET", "/sub/{t}/x/{n}", "200", ""): 2}


def chain(app):
    found, layer = [], app.middleware_stack
    while layer is not None:
        found.append(type(layer).__name__)
        layer = getattr(layer, "app", None)
    return found


def test_installing_twice_wraps_once():
    """Twice, before and after the start, with middleware added between, with another tool's patch, and a new stack."""
    app = FastAPI()
    app.get("/")(plain)
    watch = Watch(app)
    build = app.build_middleware_stack
    vars(app)["build_middleware_stack"] = lambda: GZipMiddleware(build())  # as OpenTelemetry does it
    install(app, lambda stack: Middleware(stack, watch.service))
    app.add_middleware(GZipMiddleware)
    run(app)
    install(app, lambda stack: Middleware(stack, watch.service))
    assert chain(app).count("Middleware") == 1
    app.middleware_stack = None
    run(app)
    assert chain(app).count("Middleware") == 1
    assert watch.counts() == {("GET", "/", "200", ""): 2}


def test_an_app_that_has_started_is_wrapped_too():
    """Its stack is there already, and the builder will not be asked again."""
    app = FastAPI()
    app.get("/")(plain)
    run(app)
    watch = Watch(app)
    run(app)
    assert watch.counts() == {("GET", "/", "200", ""): 1}


def watched_endpoint(make_response, **options):
    """An app with an endpoint that writes itself into the exchange, as capture does."""
    app, finishing = FastAPI(), Finishing()

    @app.get("/")
    async def endpoint(request: Request):
        request.scope[KEY].endpoint = finishing
        return await make_response()

    return app, finishing, Watch(app, **options)


async def answer():
    return {}


async def explode():
    raise RuntimeError


async def refuse():
    raise HTTPException(422)


async def hang():
    return await asyncio.sleep(3600)


async def parts():
    async def inner():
        yield b"one"
        yield b"two"

    return StreamingResponse(inner())


@pytest.mark.parametrize(
    ("response", "finished"),
    [
        (answer, (COMPLETE, 200, "")),
        (parts, (COMPLETE, 200, "")),
        (refuse, (COMPLETE, 422, "")),
        (explode, (FAILED, 500, "RuntimeError")),
    ],
)
def test_an_endpoint_is_told_how_its_request_ended(response, finished):
    """Once for each request, with outcome, status, exception and time."""
    app, finishing, _ = watched_endpoint(response)
    for _ in range(3):
        run(app)
    assert finishing.finished == [(*finished, True)] * 3


def test_an_endpoint_is_told_of_cancelled_and_disconnected_requests():
    """Those end too."""
    when = asyncio.Event()

    async def wait():
        when.set()
        await asyncio.Event().wait()

    app, finishing, _ = watched_endpoint(wait)
    asyncio.run(cancelled(app, when))
    assert finishing.finished == [(CANCELLED, 0, "CancelledError", True)]

    app, finishing, _ = watched_endpoint(parts)
    run(app, send=vanishing, asgi={"version": "3.0", "spec_version": "2.4"})
    assert finishing.finished[0][0] == DISCONNECTED


def test_an_endpoint_that_is_excluded_for_the_service_layer_is_told_all_the_same():
    """Who has opened something for the request must be able to close it."""
    app, finishing, watch = watched_endpoint(answer, excluded=Patterns(["/"]))
    watch.service.excluded, watch.service.apart = Patterns(["/"]), frozenset()
    run(app)
    assert finishing.finished == [(COMPLETE, 200, "", True)]
    assert watch.counts() == {}


def test_an_endpoint_is_told_before_background_tasks():
    """Rows are committed when the response is complete, however long the app goes on."""
    app, finishing, seen = FastAPI(), Finishing(), []

    @app.get("/")
    async def endpoint(request: Request, tasks: BackgroundTasks):
        request.scope[KEY].endpoint = finishing
        tasks.add_task(lambda: seen.append(len(finishing.finished)))
        return {}

    Watch(app)
    for _ in range(3):
        run(app)
    assert seen == [1, 2, 3]


def test_a_scope_that_a_middleware_copied_is_found_by_capture():
    """Where capture says which scope the endpoint saw, the template is told from that."""
    app = FastAPI()

    class Copying:
        def __init__(self, app):
            self.app = app

        async def __call__(self, scope, receive, send):
            await self.app(dict(scope), receive, send)

    app.add_middleware(Copying)
    exchanges = []

    @app.get("/items/{uid}")
    async def endpoint(request: Request, known: bool = False):
        exchanges.append(request.scope[KEY])
        if known:
            request.scope[KEY].scope = request.scope
        return {}

    watch = Watch(app)
    run(app, "/items/5")
    run(app, "/items/5", query_string=b"known=1")
    assert watch.counts() == {("GET", "_unmatched", "200", ""): 1, ("GET", "/items/{uid}", "200", ""): 1}
    assert [exchange.scope for exchange in exchanges] == [None, None]  # nothing that only the collector could free


def test_a_function_that_comes_to_a_second_place_is_told_apart(clock):
    """After at most 128 requests each of its places is counted by itself."""
    app = FastAPI()
    app.get("/a")(plain)
    watch = Watch(app)
    watch.service.templates = Templates(app, clock)
    for _ in range(3):
        run(app, "/a")
    app.get("/b")(plain)
    clock.advance(10)
    for _ in range(128):
        run(app, "/b")
    before = watch.counts().get(("GET", "/b", "200", ""), 0)
    for _ in range(10):
        run(app, "/a")
        run(app, "/b")
    assert watch.counts()["GET", "/b", "200", ""] == before + 10


def test_one_request_in_128_is_timed(time):
    """The library's own time is measured of the first request and of every 128th after it."""
    app, watch = predicting()
    for _ in range(129):
        run(app, "/predict", method="POST", body=(b'{"a": 2}',))
    values = {cell.metric: sum(cell.values[:-1]) for cell in watch.series.cells() if cell.bounds}
    assert values["modelwatch_request_overhead_seconds"] == 2
    assert watch.counts() == {("POST", "/predict", "200", ""): 129}


def test_requests_leave_no_garbage_behind():
    """What is made for a request is freed with it: the collector finds no more than with the bare app."""

    def collected(watched):
        app = FastAPI()
        app.get("/")(plain)
        if watched:
            Watch(app)

        async def go():
            await call(app)
            await call(app, "/nowhere")
            gc.collect()
            gc.disable()
            for _ in range(50):
                await call(app)
                await call(app, "/nowhere")
            return gc.collect()

        try:
            return asyncio.run(go())
        finally:
            gc.enable()

    assert collected(True) <= collected(False)


class Odd:
    """An endpoint that cannot be hashed, or is equal to another one."""

    def __init__(self, hashable):
        self.hashable = hashable

    def __call__(self):
        return {}

    def __eq__(self, other):
        return isinstance(other, Odd)

    def __hash__(self):
        if self.hashable:
            return 1
        raise TypeError("unhashable")


@pytest.mark.parametrize("hashable", [True, False])
def test_endpoints_that_are_odd_objects(hashable):
    """They are told apart by where they stand, not by what they are equal to."""
    app = FastAPI()
    for path in ("/a", "/b"):
        app.get(path)(Odd(hashable))
    watch = Watch(app)
    for _ in range(3):
        for path in ("/a", "/b"):
            run(app, path)
    assert watch.counts() == {("GET", "/a", "200", ""): 3, ("GET", "/b", "200", ""): 3}


def test_what_is_known_of_routes_stays_bounded(monkeypatch):
    """Statuses without end do not grow the memory."""
    monkeypatch.setattr(modelwatch.request, "_MOST_KNOWN", 20)
    app = FastAPI()

    @app.get("/{status}")
    async def endpoint(status: int):
        return Response(b"x", status_code=status)

    watch = Watch(app)
    for status in range(200, 300):
        run(app, f"/{status}")
    assert len(watch.service._known) <= 20
    assert sum(watch.counts().values()) == 100


class Broken:
    """Whatever is done with it fails."""

    def __getattr__(self, name):
        raise LookupError(name)

    def __getitem__(self, key):
        raise LookupError(key)

    def __call__(self, *arguments):
        raise LookupError

    def __contains__(self, item):
        raise LookupError

    def __next__(self):
        raise LookupError


OWN = [
    ("service", "apart"), ("service", "active"), ("service", "_on_loop"), ("service", "_known"),
    ("service", "excluded"), ("service", "_note"), ("service", "_conclude"), ("service", "sent"), ("service", "turns"),
    ("service", "series"), ("service", "time"), ("service", "metrics"), ("service", "templates"),
    ("service", "on_loop"), ("service", "_count"),
    ("metrics", "bind"), ("metrics", "count"), ("metrics", "first_byte"), ("metrics", "background"),
    ("metrics", "overhead"), ("metrics", "connect"), ("metrics", "disconnect"),
    ("templates", "of"), ("templates", "stands_once"), ("templates", "_find"), ("templates", "_app"),
    ("series", "values"), ("service", "values"), ("service", "_forget"),
    ("module", "judge"), ("module", "announced"), ("module", "in_vain"), ("asgi", "Request"),
    ("asgi", "path_below"), ("finishing", "finish"), ("nothing", "at_all"),
]  # fmt: skip


def everything():
    """An app with every kind of response."""
    app, finishing = FastAPI(), Finishing()

    @app.middleware("http")
    async def watch_all(request, call_next):
        if KEY in request.scope:
            request.scope[KEY].endpoint = finishing
        return await call_next(request)

    @app.get("/stream")
    async def stream():
        return await parts()

    @app.get("/explode")
    async def exploding():
        await explode()

    @app.post("/predict")
    async def predict(item: Item, tasks: BackgroundTasks):
        tasks.add_task(asyncio.sleep, 0.02)
        return {"y": item.a}

    app.get("/plain")(plain)
    failing, _ = failing_stream()
    app.mount("/failing", failing)
    return app, finishing


REQUESTS = [
    ("/plain", {}), ("/plain", {}), ("/stream", {}), ("/explode", {}), ("/nowhere", {}), ("/plain/", {}),
    ("/failing/", {}), ("/predict", {"method": "POST", "body": (b'{"a"', b":1}")}),
    ("/predict", {"method": "POST", "body": (b"{",)}), ("/r/plain", {"root_path": "/r"}),
    ("/plain", {"method": "BREW"}), ("/stream", {"send": vanishing}), ("/metrics", {}),
]  # fmt: skip


def comparable(answer):
    messages, error = answer
    return [(m["type"], m.get("status"), m.get("headers"), m.get("body"), m.get("more_body")) for m in messages], repr(
        error
    )


@pytest.mark.swallows
@pytest.mark.parametrize(("part", "name"), OWN)
def test_whatever_fails_in_here_the_response_is_that_of_the_bare_app(part, name, monkeypatch, swallowed_errors):
    """Status, headers, body, order of messages and exceptions are the bare app's, with each own call broken in turn."""
    bare, _ = everything()
    app, finishing = everything()
    watch = Watch(app, on_loop=[lambda: None])
    parts_ = {
        "service": watch.service, "metrics": watch.service.metrics, "templates": watch.service.templates,
        "series": watch.series, "module": modelwatch.request, "asgi": modelwatch.asgi,
        "finishing": finishing, "nothing": Finishing(),
    }  # fmt: skip
    expected = [comparable(run(bare, path, **request)) for path, request in REQUESTS]
    for warm in (False, True):
        if warm:
            for path, request in REQUESTS:
                run(app, path, **request)
        with monkeypatch.context() as patch:
            patch.setattr(parts_[part], name, Broken(), raising=False)
            answers = [comparable(run(app, path, **request)) for path, request in REQUESTS]
        assert answers == expected
    broken = [error for _, error in swallowed_errors if isinstance(error, LookupError)]
    rarely = name in {"at_all", "connect", "disconnect", "_find", "_app", "path_below", "in_vain", "_forget"}
    assert broken or rarely
    assert watch.guard.errors["request"] == len(swallowed_errors)


@pytest.mark.swallows
@pytest.mark.parametrize("name", ["connect", "disconnect"])
def test_whatever_fails_in_here_a_websocket_goes_on(name, monkeypatch, swallowed_errors):
    """The messages of a websocket are those of the bare app."""
    app = FastAPI()

    @app.websocket("/ws")
    async def chat(websocket: WebSocket):
        await websocket.accept()
        await websocket.close()

    watch = Watch(app)
    monkeypatch.setattr(watch.service.metrics, name, Broken())
    incoming, sent = [{"type": "websocket.connect"}], []

    async def receive():
        return incoming.pop(0)

    async def send(message):
        sent.append(message["type"])

    asyncio.run(app(scope_of("/ws", kind="websocket"), receive, send))
    assert sent == ["websocket.accept", "websocket.close"]
    assert len(swallowed_errors) == 1


@pytest.mark.swallows
def test_messages_that_make_no_sense_pass(swallowed_errors):
    """What a broken app or server sends goes on to the one that has to complain about it."""
    sent = [{"kind": "nothing"}, {"type": "http.response.body", "body": 5}, {"type": "http.response.start"}]
    got = []

    async def app(scope, receive, send):
        got.append(await receive())
        got.append(await receive())
        for message in sent:
            await send(message)

    heard = [{"type": "http.request", "body": 7}, {}]

    async def receive():
        return heard.pop()

    async def send(message):
        got.append(message)

    watch = Watch(Starlette())
    asyncio.run(Middleware(app, watch.service)(scope_of(), receive, send))
    assert got == [{}, {"type": "http.request", "body": 7}, *sent]
    assert swallowed_errors


class Capturing:
    """A capture that remembers what it was called for."""

    def __init__(self, available=True):
        self.available, self.watching, self.calls = available, {}, []

    def start(self):
        self.calls.append("start")

    def decided(self, dependant):
        return self.watching.setdefault(id(dependant), None)

    def unreached(self, exchange, scope):
        self.calls.append((exchange.status, exchange.outcome, scope["path"]))


@pytest.mark.parametrize(
    ("available", "called"),
    [
        (True, [(422, COMPLETE, "/predict"), (404, COMPLETE, "/nowhere")]),
        (False, [(200, COMPLETE, "/predict"), (422, COMPLETE, "/predict"), (404, COMPLETE, "/nowhere")]),
    ],
)
def test_what_came_to_no_endpoint_of_a_model_is_looked_at(available, called):
    """The capture is told of requests that were refused; of all of them if nothing else tells it of any."""
    app = FastAPI()

    @app.post("/predict")
    async def predict(item: Item):
        return {"y": item.a}

    capture = Capturing(available)
    Watch(app, capture=capture)
    for _ in range(3):  # the first of a kind goes another way than those that are known
        for path, body in (("/predict", b'{"a": 2}'), ("/predict", b"{"), ("/nowhere", b"{}")):
            run(app, path, method="POST", body=(body,))
    assert capture.calls == called * 3


def test_an_endpoint_that_is_reached_is_not_unreached():
    """Of a request that came to an endpoint of a model, only that one is told, whatever the status."""
    capture = Capturing()
    app, finishing, _ = watched_endpoint(lambda: Response(b"x", status_code=422), capture=capture)
    for _ in range(3):
        run(app)
    assert len(finishing.finished) == 3
    assert capture.calls == []


def test_the_capture_starts_with_the_app():
    """What is watched is decided when the app starts, not with its first request."""
    app, capture = FastAPI(), Capturing()
    Watch(app, capture=capture)
    incoming = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]

    async def receive():
        return incoming.pop(0)

    async def send(message):
        assert message["type"].endswith("complete")

    asyncio.run(app({"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}, receive, send))
    assert capture.calls == ["start"]


def test_what_waits_to_be_counted_stays_bounded():
    """Requests that nobody reads the counts of do not grow the memory, nor do those that an outer app counts."""
    app, watch = predicting()
    outer = FastAPI()
    outer.mount("/inner", app)
    around, settled, most = Watch(outer), [], 0
    watch.series.settlers.append(lambda: settled.append(1))

    async def go():
        nonlocal most
        for _ in range(1500):
            await call(app, "/predict", method="POST", body=(b'{"a": 2}',))
            most = max(most, *(len(known.over) for known in watch.service._known.values()), 0)
        before = len(settled)
        for _ in range(600):
            await call(outer, "/inner/predict", method="POST", body=(b'{"a": 2}',))
        return before

    before = asyncio.run(go())
    assert before == 3
    assert len(settled) > before
    assert 0 < most <= 3 * 512
    assert watch.counts() == {("POST", "/predict", "200", ""): 1500}
    assert around.counts() == {("POST", "/inner/predict", "200", ""): 600}


def test_what_waits_is_counted_before_it_is_forgotten(monkeypatch):
    """When so many routes are known that all are looked up again, nothing that waits is lost."""
    monkeypatch.setattr(modelwatch.request, "_MOST_KNOWN", 4)
    app = FastAPI()

    @app.get("/{status}")
    async def endpoint(status: int):
        return Response(b"x", status_code=status)

    watch = Watch(app)
    for status in range(200, 220):
        for _ in range(5):
            run(app, f"/{status}")
    assert sum(watch.counts().values()) == 100


@pytest.mark.swallows
def test_a_failure_while_counting_what_waits_costs_only_that(monkeypatch, swallowed_errors):
    """If what waits cannot be counted it is gone, the error is counted, and all goes on."""
    app, watch = predicting()
    watch.service.turns = iter([False] * 9)
    for _ in range(3):  # the first one does not wait
        run(app, "/predict", method="POST", body=(b'{"a": 2}',))
    with monkeypatch.context() as patch:
        patch.setattr(watch.service.metrics, "count_all", Broken())
        watch.counts()
    run(app, "/predict", method="POST", body=(b'{"a": 2}',))
    assert watch.counts() == {("POST", "/predict", "200", ""): 2}
    assert watch.cells("http_server_active_requests") == {}
    assert len(swallowed_errors) == 1
