"""The watched app is the bare app: the same messages and exceptions, the same objects, in the same order and time."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc

import pytest
import uvloop
from fastapi import Depends, FastAPI, Request
from fastapi.responses import StreamingResponse
from starlette.applications import Starlette
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.gzip import GZipMiddleware
from support import traffic

import modelwatch
from modelwatch.asgi import Middleware, install
from modelwatch.guard import Guard
from modelwatch.metrics.service import ServiceMetrics
from modelwatch.request import Service
from modelwatch.routes import Templates
from modelwatch.series import Series
from modelwatch.settings import Settings

REFERENCE = traffic.reference()
DURATION = "http_server_request_duration_seconds"


def watched_service():
    """The library's middleware around anything, with all that it counts."""
    series = Series()
    metrics = ServiceMetrics(series, Settings())
    return Service(metrics=metrics, templates=Templates(Starlette()), guard=Guard())


def counts(service, metric=DURATION):
    """Label values -> how often something was counted with them."""
    cells = [cell for cell in service.series.cells() if cell.metric == metric and any(cell.values)]
    return {cell.labels: cell.values[0] if cell.bounds is None else sum(cell.values[:-1]) for cell in cells}


def scope_of(path="/", kind="http", **more):
    return traffic.scope_of(traffic.Ask(path, kind=kind)) | more


async def nothing():
    """A receive that never has anything."""
    await asyncio.Event().wait()


def run_both(make, scenario, runner=asyncio.run):
    """What a scenario says of the bare app and of the watched one, each made anew."""
    told = []
    for watching in (False, True):
        app, raised = FastAPI(), traffic.Raised()
        monitor = traffic.Unwatched()
        if watching:
            monitor = modelwatch.instrument(app, **traffic.NAME, reference=REFERENCE, routes=traffic.WATCHED)
        make(app, monitor, raised)
        told.append(runner(scenario(app, raised)))
    return told


def plain(app, monitor, raised):
    traffic.service(app, monitor, raised)


def behind_middleware(app, monitor, raised):
    traffic.service(app, monitor, raised)
    app.add_middleware(BaseHTTPMiddleware, dispatch=lambda request, call_next: call_next(request))
    app.add_middleware(GZipMiddleware, minimum_size=5)


def in_uvloop(coroutine):
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(coroutine)


@pytest.mark.parametrize("make", [plain, behind_middleware])
@pytest.mark.parametrize("runner", [asyncio.run, in_uvloop])
def test_a_watched_app_does_what_the_bare_one_does(make, runner):
    """Messages, exceptions with what they came of, and calls of `receive` are equal, for each kind of request."""

    async def scenario(app, raised):
        return [await traffic.tell_all(app, raised) for _ in range(3)]  # routes that are known go another way

    bare, watched = run_both(make, scenario, runner)
    for told, expected in zip(watched, bare, strict=True):
        for ask, one, other in zip(traffic.REQUESTS, told, expected, strict=True):
            assert one == other, ask


class Stop(BaseException):
    """What nobody but its raiser knows."""


OUTCOMES = [
    KeyboardInterrupt(), SystemExit(3), GeneratorExit(), Stop(), asyncio.CancelledError("why"),
    ExceptionGroup("g", [ValueError(), OSError()]), BaseExceptionGroup("b", [Stop(), ValueError()]),
    RuntimeError("one"), StopAsyncIteration(),
]  # fmt: skip


@pytest.mark.parametrize("error", OUTCOMES, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("where", ["endpoint", "dependency"])
def test_what_an_endpoint_raises_comes_out_of_the_app(error, where):
    """From a watched endpoint, or a dependency of one: the same object, which has come of nothing of ours."""
    cause = LookupError("cause")
    error.__cause__, error.__context__, error.__notes__ = cause, None, ["a note"]

    def make(app, monitor, raised):
        async def failing():
            if where == "dependency":
                raise error

        @app.post("/sync")
        async def endpoint(row: traffic.Row, needed: None = Depends(failing)):
            raise error

    async def scenario(app, raised):
        ask = traffic.Ask("/sync", "POST", (b"{}",))
        waiting, sent = traffic.incoming(ask), []

        async def receive():
            return waiting.pop(0)

        async def send(message):
            sent.append(message["type"])

        try:
            await app(traffic.scope_of(ask), receive, send)
        except BaseException as caught:  # noqa: BLE001 - it is what the test looks at
            return caught, caught.__cause__, caught.__context__, list(caught.__notes__), sent

    def by_hand(coroutine):  # asyncio.run would stop with some of them
        with pytest.raises(StopIteration) as stop:
            coroutine.send(None)
        return stop.value.value

    bare, watched = run_both(make, scenario, by_hand)
    assert watched == bare
    assert watched[0] is error


def test_an_exception_of_a_thread_comes_out_of_the_app():
    """What a sync endpoint raises is the same object too, whether it is an Exception or not."""

    def make(app, monitor, raised):
        @app.post("/sync")
        def endpoint(row: traffic.Row):
            raise raised.stop

    async def scenario(app, raised):
        raised.stop = Stop("thread")
        told = await traffic.tell(app, traffic.Ask("/sync", "POST", (b"{}",)), raised)
        return told, raised.stop.__context__, raised.stop.__cause__

    bare, watched = run_both(make, scenario)
    assert watched == bare
    assert watched[0].raised == "stop"


@pytest.mark.parametrize("where", ["/wait", "/stream", "/read", "/watched"])
def test_a_cancellation_comes_as_soon_as_without_us(where):
    """It reaches the app after as many turns of the loop, with its message, and comes out as the same object."""
    turns = []

    def make(app, monitor, raised):
        async def wait():
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError as error:
                turns.append((len(turns), error.args))
                raised.cancelled = error
                raise

        @app.get("/wait")
        async def endpoint():
            await wait()

        @app.post("/watched")
        async def watched(row: traffic.Row):
            await wait()

        @app.get("/stream")
        async def stream():
            async def parts():
                yield b"one"
                await wait()

            return StreamingResponse(parts())

        @app.post("/read")
        async def read(request: Request):
            await request.body()

    async def scenario(app, raised):
        turns.clear()
        body = where != "/read"

        async def receive():
            if body:
                return {"type": "http.request", "body": b"{}"}
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError as error:
                turns.append((len(turns), error.args))
                raised.cancelled = error
                raise

        async def send(message):
            pass

        method = "POST" if where in {"/read", "/watched"} else "GET"
        scope = traffic.scope_of(traffic.Ask(where, method)) | {"asgi": {"version": "3.0", "spec_version": "2.4"}}
        task = asyncio.ensure_future(app(scope, receive, send))
        for _ in range(30):
            await asyncio.sleep(0)
        task.cancel("enough")
        while not task.done():
            turns.append(None)
            await asyncio.sleep(0)
        try:
            await task
        except asyncio.CancelledError as error:
            same = error is raised.cancelled
            return turns.copy(), same, error.args, error.__context__, error.__cause__

    bare, watched = run_both(make, scenario)
    assert any(turn is not None for turn in bare[0])
    assert watched == bare


def test_a_request_takes_no_more_turns_of_the_loop():
    """From its first to its last message each request takes as many turns as without us: we wait for nothing."""

    async def scenario(app, raised):
        turns = []
        for _ in range(2):
            for ask in traffic.REQUESTS:
                if ask.path in {"/sync", "/dependent", "/later", "/mounted/file"}:  # those wait for a thread or a timer
                    continue
                task = asyncio.ensure_future(traffic.tell(app, ask, raised))
                count = 0
                while not task.done():
                    count += 1
                    await asyncio.sleep(0)
                turns.append((ask.path, count))
        return turns

    bare, watched = run_both(plain, scenario)
    assert watched == bare


def test_cancelled_requests_are_counted_and_no_longer_in_progress():
    """Of requests and of the model: each is cancelled, and none stays in progress or waiting."""

    async def scenario():
        app = FastAPI()
        modelwatch.instrument(app, **traffic.NAME, reference=REFERENCE, routes=["/slow"])

        @app.post("/slow")
        async def slow(row: traffic.Row):
            await asyncio.Event().wait()

        asks = [traffic.Ask("/slow", "POST", (b"{}",), cancelled=True)] * 20
        told = await asyncio.gather(*(traffic.tell(app, ask, traffic.Raised()) for ask in asks))
        assert {one.raised for one in told} == {"CancelledError()"}
        return (await traffic.scrape(app))[1]

    text = asyncio.run(scenario())
    assert 'model_request_total{model_name="traffic",model_version="1",status="cancelled"} 20.0' in text
    assert 'error_type="cancelled",http_request_method="POST"' in text
    assert 'http_server_active_requests{http_request_method="POST"} 0.0' in text
    assert 'model_requests_in_progress{model_name="traffic"} 0.0' in text
    assert 'model_queue_depth{model_name="traffic"} 0.0' in text


def start(**more):
    return {"type": "http.response.start", "status": 200} | more


def body(content=b"all", **more):
    return {"type": "http.response.body", "body": content} | more


SCRIPTS = {
    "plain": lambda: [start(headers=[(b"a", b"b")]), body()],
    "no headers": lambda: [start(), body()],
    "no body": lambda: [start(headers=[]), {"type": "http.response.body"}],
    "header iterator": lambda: [start(headers=iter([(b"content-length", b"3")])), body()],
    "header generator, in parts": lambda: [
        start(headers=((b"x-%d" % n, b"y") for n in range(3))),
        body(b"a", more_body=True),
        body(b""),
    ],
    "header iterator, an empty body": lambda: [start(headers=iter([(b"content-length", b"0")])), body(b"")],
    "header lists": lambda: [start(headers=[[b"Content-Length", b"3"]]), body()],
    "memoryview": lambda: [start(headers=[]), body(memoryview(b"abc"))],
    "memoryview of numbers": lambda: [start(headers=[]), body(memoryview(b"abcdefgh").cast("I"))],
    "bytearray": lambda: [start(headers=[]), body(bytearray(b"abc"))],
    "parts": lambda: [start(headers=[]), *[body(b"x", more_body=True) for _ in range(5)], body(b"")],
    "early hints": lambda: [
        {"type": "http.response.early_hint", "links": [b"</a.css>"]},
        start(headers=[]),
        body(),
    ],
    "push": lambda: [{"type": "http.response.push", "path": "/a", "headers": []}, start(headers=[]), body()],
    "debug": lambda: [start(headers=[]), {"type": "http.response.debug", "info": {}}, body()],
    "file": lambda: [start(headers=[]), {"type": "http.response.pathsend", "path": "/etc/hostname"}],
    "descriptor": lambda: [start(headers=[]), {"type": "http.response.zerocopysend", "file": 0, "count": 3}],
    "trailers": lambda: [
        start(headers=[], trailers=True),
        body(),
        {"type": "http.response.trailers", "headers": [(b"x", b"y")], "more_trailers": True},
        {"type": "http.response.trailers", "headers": iter([(b"z", b"y")])},
    ],
    "odd status": lambda: [start(status="200"), body()],
    "no status": lambda: [{"type": "http.response.start"}, body()],
    "text for a body": lambda: [start(headers=[]), body("text")],
    "None for a body": lambda: [start(headers=[]), body(None)],
    "odd length": lambda: [start(headers=[(b"content-length", b"three")]), body(b"", more_body=False)],
    "text headers": lambda: [start(headers=[("Content-Length", "3")]), body(b"")],
    "None for headers": lambda: [start(headers=None), body(b"")],
    "unknown": lambda: [{"type": "http.response.telepathy"}, {}],
    "twice": lambda: [start(headers=[]), body(), start(status=500, headers=[]), body()],
}


@pytest.mark.swallows
@pytest.mark.parametrize("script", SCRIPTS)
def test_messages_pass_as_they_are(script):
    """Whatever an app sends, a server that looks at it only in the end gets the same objects, whole and in order."""
    untouched = list(map(whole, SCRIPTS[script]()))
    service = watched_service()

    async def scenario():
        messages = SCRIPTS[script]()
        got = []

        async def app(scope, receive, send):
            for message in messages:
                await send(message)

        async def send(message):
            got.append(message)

        await Middleware(app, service)(scope_of(), nothing, send)
        return messages, got

    for _ in range(3):
        messages, got = asyncio.run(scenario())
        assert [one is other for one, other in zip(messages, got, strict=True)] == [True] * len(messages)
        assert list(map(whole, got)) == untouched
    assert counts(service, "http_server_active_requests") == {}


def whole(message):
    """A message with its headers drawn out of their iterator."""
    headers = message.get("headers")
    return message if headers is None else {**message, "headers": list(headers)}


@pytest.mark.parametrize("calls", [0, 1, 5])
def test_receive_is_only_called_by_the_app(calls):
    """As often as the app calls it, and it gets the very messages, also those of no known kind."""
    heard, given = [], [{"type": "http.request", "body": b"a", "more_body": True}, {"type": "http.request"}, {}]
    given += [{"type": "http.disconnect"}, {"type": "http.telepathy", "body": memoryview(b"x")}]
    asked = []

    async def app(scope, receive, send):
        heard.extend([await receive() for _ in range(calls)])

    async def receive():
        asked.append(None)
        return given[len(asked) - 1]

    service = watched_service()
    service.guard.swallow = lambda stage, error: None  # an empty message is worth an error, which others test
    asyncio.run(Middleware(app, service)(scope_of(), receive, nothing))
    assert len(asked) == calls
    assert [one is other for one, other in zip(heard, given, strict=False)] == [True] * calls


def test_the_first_byte_is_not_held_back():
    """A part of a stream is with the server before the app makes the next one, and the app waits while it is sent."""
    events, ready = [], asyncio.Event()

    async def app(scope, receive, send):
        await send(start(headers=[]))
        for n in range(3):
            events.append(f"made {n}")
            await send(body(b"%d" % n, more_body=True))
            events.append(f"sent {n}")
        await send(body(b""))

    async def send(message):
        if message["type"] == "http.response.body" and message["body"]:
            events.append(f"got {message['body'].decode()}")
            if message["body"] == b"1":
                await ready.wait()

    async def scenario():
        task = asyncio.ensure_future(Middleware(app, watched_service())(scope_of(), nothing, send))
        for _ in range(50):
            await asyncio.sleep(0)
        assert events == ["made 0", "got 0", "sent 0", "made 1", "got 1"]
        ready.set()
        await task

    asyncio.run(scenario())
    assert events[-3:] == ["made 2", "got 2", "sent 2"]


def test_what_the_servers_send_does_is_the_apps_business():
    """What it returns or raises reaches the app as it is; a failed send is tried once, and the request counts once."""
    gone, service = OSError("gone"), watched_service()
    tries, caught = [], []

    async def app(scope, receive, send):
        assert await send(start(headers=[])) == "started"
        try:
            await send(body())
        except OSError as error:
            caught.append(error)
            raise

    async def send(message):
        tries.append(message["type"])
        if message["type"] == "http.response.body":
            raise gone
        return "started"

    async def scenario():
        with pytest.raises(OSError) as out:  # noqa: PT011 - which one is looked at below
            await Middleware(app, service)(scope_of(), nothing, send)
        assert out.value is gone

    for n in range(3):
        asyncio.run(scenario())
        assert len(tries) == 2 * (n + 1)
        assert sum(counts(service).values()) == n + 1
    assert caught == [gone] * 3
    assert (gone.__context__, gone.__cause__) == (None, None)


def test_messages_may_be_sent_from_tasks():
    """An app may hand what `send` returns to a task, or gather several."""
    got, service = [], watched_service()

    async def app(scope, receive, send):
        await asyncio.create_task(send(start(headers=[])))
        await asyncio.gather(send(body(b"a", more_body=True)), send(body(b"b")))

    async def send(message):
        got.append(message.get("body"))

    asyncio.run(Middleware(app, service)(scope_of(), nothing, send))
    assert got == [None, b"a", b"b"]
    assert sum(counts(service).values()) == 1


DENIAL = [
    {"type": "websocket.http.response.start", "status": 403, "headers": iter([(b"a", b"b")])},
    {"type": "websocket.http.response.body", "body": b"no"},
]
ACCEPT, CLOSE = {"type": "websocket.accept"}, {"type": "websocket.close", "code": 1000}


@pytest.mark.parametrize(
    ("messages", "error"),
    [
        ([ACCEPT, {"type": "websocket.send", "bytes": memoryview(b"x")}, CLOSE], None),
        ([ACCEPT], None),
        ([CLOSE], None),
        (DENIAL, None),
        ([ACCEPT], RuntimeError("in the middle")),
        ([], RuntimeError("at once")),
        ([ACCEPT], asyncio.CancelledError()),
        ([ACCEPT], Stop()),
        ([ACCEPT, ACCEPT, {"type": "websocket.telepathy"}], None),
    ],
)
def test_websockets_are_passed_on_and_are_no_requests(messages, error):
    """Accepted, refused, denied, dropped or broken: all passes, the gauge is down again, and no request is counted."""
    got, heard, service = [], [], watched_service()

    async def app(scope, receive, send):
        heard.append(await receive())
        for message in messages:
            await send(message)
        if error is not None:
            raise error

    dropped = {"type": "websocket.disconnect", "code": 1006}

    async def receive():
        return dropped

    async def send(message):
        got.append(message)

    outcome = None
    try:
        with pytest.raises(StopIteration):
            Middleware(app, service)(scope_of("/ws", "websocket"), receive, send).send(None)
    except BaseException as caught:  # noqa: BLE001 - it is what the test looks at
        outcome = caught
    assert outcome is error
    assert error is None or (error.__context__, error.__cause__) == (None, None)
    assert heard == [dropped]
    assert [one is other for one, other in zip(messages, got, strict=True)] == [True] * len(messages)
    assert counts(service) == {}
    assert counts(service, "http_server_active_websockets") == {}
    assert counts(service, "http_server_active_requests") == {}


@pytest.mark.parametrize("kind", ["lifespan", "telepathy"])
def test_other_scopes_belong_to_the_app(kind):
    """A lifespan that fails, or a kind of scope that nobody knows: what the app does with it is what happens."""
    failure, seen, service = RuntimeError("no start"), [], watched_service()

    async def app(scope, receive, send):
        seen.append(scope)
        await send({"type": f"{kind}.startup.failed", "message": "no"})
        raise failure

    scope = {"type": kind, "asgi": {"version": "3.0"}}
    sent = []

    async def send(message):
        sent.append(message["type"])

    with pytest.raises(RuntimeError) as out:
        asyncio.run(Middleware(app, service)(scope, nothing, send))
    assert out.value is failure
    assert seen[0] is scope
    assert sent == [f"{kind}.startup.failed"]
    assert counts(service) == {}


@pytest.mark.swallows
def test_an_app_that_cannot_be_watched_is_served_bare(swallowed_errors):
    """If our layer cannot be put around an app, it serves without, and the error is told."""
    app, guard = FastAPI(), Guard()

    @app.get("/")
    async def endpoint():
        return "served"

    def make(stack):
        raise MemoryError

    install(app, make, guard)
    told = asyncio.run(traffic.tell(app, traffic.Ask("/"), traffic.Raised()))
    assert dict(told.messages[1])["body"] == b'"served"'
    assert guard.errors["request"] == len(swallowed_errors) == 1


@pytest.mark.parametrize("direction", ["up", "down"])
def test_large_bodies_are_not_kept(direction):
    """Of 64 MiB that pass in parts, in either direction, nothing is held: the most memory is that of a few parts."""
    part, parts = 2**18, 256

    async def app(scope, receive, send):
        await send(start(headers=[]))
        if direction == "up":
            while (await receive()).get("more_body"):
                pass
        else:
            for _ in range(parts):
                await send(body(bytes(part), more_body=True))
        await send(body(b""))

    async def scenario(asgi):
        left = parts

        async def receive():
            nonlocal left
            left -= 1
            return {"type": "http.request", "body": bytes(part), "more_body": left > 0}

        async def send(message):
            pass

        gc.collect()
        tracemalloc.start()
        try:
            await asgi(scope_of(), receive, send)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    service = watched_service()
    asyncio.run(scenario(Middleware(app, service)))  # what is made with the first request
    bare, watched = asyncio.run(scenario(app)), asyncio.run(scenario(Middleware(app, service)))
    assert watched < bare + part
    which = "request" if direction == "up" else "response"
    sizes = [
        cell.values[-1] for cell in service.series.cells() if cell.metric == f"http_server_{which}_body_size_bytes"
    ]
    assert sizes == [2 * part * parts]


def test_many_large_rows_at_once_leave_little():
    """Of 20 uploads of 1 MiB of text at once to a watched endpoint no more is kept than the first 1,000 characters."""
    app = FastAPI()
    monitor = modelwatch.instrument(app, **traffic.NAME, reference=REFERENCE, routes=["/predict"])

    @app.post("/predict")
    async def predict(row: traffic.Row):
        return {"prediction": 0.5}

    async def scenario():
        def ask(n):
            return traffic.Ask("/predict", "POST", (b'{"age": 1, "plan": "' + b"%d" % (n % 10) * 2**20 + b'"}',))

        await traffic.tell(app, ask(0), traffic.Raised())
        gc.collect()
        tracemalloc.start()
        try:
            await asyncio.gather(*(traffic.tell(app, ask(n), traffic.Raised()) for n in range(20)))
            gc.collect()
            return tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()

    assert asyncio.run(scenario()) < 2**18
    monitor.flush()
    assert monitor.report().features["plan"].n == 21
