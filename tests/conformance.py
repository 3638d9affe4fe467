"""Does the capture see what it should, with the FastAPI that is installed? A script: run by tests for several versions.

It prints one line of JSON: the version, and for each way of mounting and each kind of endpoint what was seen.
"""

import asyncio
import json
import sys
import time
from typing import Annotated, Any, List  # noqa: UP035 - as a user of the oldest version writes it

import fastapi
from fastapi import APIRouter, Body, Depends, FastAPI, File, Form, HTTPException, Request, UploadFile
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel, Field

from modelwatch.capture import Capture
from modelwatch.exchange import COMPLETE, FAILED, KEY, Exchange
from modelwatch.guard import Guard
from modelwatch.series import Series
from modelwatch.settings import Settings

ROW = {"a": 1.0, "b": 2.0}


class FakeMonitor:
    """What the capture needs of a Monitor, and no more: it keeps what is committed."""

    model_name, model_version = "fake", "1"
    prediction_column = confidence_column = None

    def __init__(self, inputs=("a", "b"), **settings):
        self.settings = Settings(**settings)
        self.guard = Guard()
        self.series = Series()
        self.inputs = inputs
        self.ignores = False
        self.committed = []

    def ignoring(self):
        return self.ignores

    def commit(self, names, rows, predictions, confidences, ids, *, ignored=False):
        self.committed.append((names, rows, predictions, confidences, ids, ignored))

    def counts(self, metric):
        """{label values: number, or sum of the buckets} of a metric."""
        cells = [cell for cell in self.series.cells() if cell.metric == metric]
        return {cell.labels: sum(cell.values[: None if cell.bounds is None else -1]) for cell in cells}

    def statuses(self):
        return {labels[-1]: int(n) for labels, n in self.counts("model_request_total").items() if n}


class Outermost:
    """Stands in for asgi.Middleware: opens an Exchange, and ends it."""

    def __init__(self, app, capture, series):
        self.app, self.capture, self.series = app, capture, series

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http" or KEY in scope:
            if KEY in scope:
                scope[KEY].capture = self.capture
            await self.app(scope, receive, send)
            return
        exchange = scope[KEY] = Exchange()
        exchange.started, exchange.capture = time.perf_counter(), self.capture

        async def noticed(message):
            if message["type"] == "http.response.start":
                exchange.status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, noticed)
            exchange.outcome = COMPLETE
        except Exception as error:
            exchange.outcome, exchange.error, exchange.status = FAILED, type(error).__name__, exchange.status or 500
            raise
        finally:
            exchange.ended = time.perf_counter()
            if exchange.endpoint is not None:
                exchange.endpoint.finish(exchange)
            elif exchange.status >= 400:
                try:
                    exchange.capture.unreached(exchange, scope)
                except Exception as failure:  # noqa: BLE001 - as the middleware does
                    exchange.capture.swallow(failure)
            exchange.scope = None
            self.series.settle()


def watch(app, monitor, *, hooked=None, **claim):
    """Put a capture on an app, as `instrument` does."""
    capture = Capture(app, hooked=hooked)
    capture.add(monitor, **claim)
    build = app.build_middleware_stack
    app.build_middleware_stack = lambda: Outermost(capture.around(build()), capture, monitor.series)
    return capture


async def call(app, path, body=b"", *, content_type="application/json", method="POST", query=""):
    """(status, body, exception) of one request, without a server."""
    if not isinstance(body, bytes):
        body = json.dumps(body).encode()
    scope: dict[str, Any] = {
        "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1", "scheme": "http",
        "method": method, "path": path, "raw_path": path.encode(), "query_string": query.encode(), "root_path": "",
        "headers": [(b"host", b"test"), (b"content-type", content_type.encode())], "client": ("test", 1),
        "server": ("test", 80), "state": {},
    }  # fmt: skip
    sent, messages, error = False, [], None

    async def receive():
        nonlocal sent
        if sent:
            await asyncio.sleep(30)  # a client that stays
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message):
        messages.append(message)

    try:
        await app(scope, receive, send)
    except Exception as raised:  # noqa: BLE001 - what the app raised is the answer
        error = raised
    status = next((m["status"] for m in messages if m["type"] == "http.response.start"), 0)
    return status, b"".join(m.get("body", b"") for m in messages), error


class Point(BaseModel):
    a: float
    b: float


class Aliased(BaseModel):
    first: float = Field(alias="a")
    second: float = Field(alias="b")


class Nested(BaseModel):
    name: str
    point: Point


class Wrapped(BaseModel):
    points: List[Point]  # noqa: UP006


class Shown(BaseModel):
    ok: bool


class Model:
    """A callable object as an endpoint."""

    def __call__(self, point: Point):
        return point.a + point.b


def stored(point: Point) -> Point:
    return point


def endpoints(router):
    """One endpoint of each kind."""

    @router.post("/async")
    async def asynchronous(point: Point):
        return {"prediction": point.a + point.b, "confidence": 0.5}

    @router.post("/sync")
    def synchronous(point: Point):
        return {"prediction": point.a + point.b}

    @router.post("/batch")
    async def batch(points: List[Point]):  # noqa: UP006
        return [point.a + point.b for point in points]

    @router.post("/wrapped")
    def wrapped(body: Wrapped):
        return {"predictions": [point.a + point.b for point in body.points]}

    @router.post("/nested")
    async def nested(body: Nested):
        return body.point.a + body.point.b

    @router.post("/embed")
    async def embedded(point: Annotated[Point, Body(embed=True)]):
        return point.a + point.b

    @router.post("/alias")
    async def aliased(point: Aliased):
        return point.first + point.second

    @router.post("/form")
    async def form(a: Annotated[float, Form()], b: Annotated[float, Form()], file: Annotated[UploadFile, File()]):
        return a + b

    @router.post("/filtered", response_model=Shown)
    async def filtered(point: Point):
        return {"ok": True, "prediction": point.a + point.b}

    @router.post("/json")
    async def as_response(point: Point):
        return JSONResponse({"prediction": 3.0})

    @router.post("/stream")
    async def stream(point: Point):
        return StreamingResponse(iter([b"x", b"y"]))

    @router.post("/generator", response_class=StreamingResponse)
    def generator(point: Point):
        yield "x"

    @router.post("/raw")
    async def raw(request: Request):
        return await request.json()

    @router.post("/refused")
    async def refused(point: Point):
        raise HTTPException(418)

    @router.post("/broken")
    def broken(point: Point):
        raise ZeroDivisionError

    @router.post("/dependency")
    async def dependency(point: Annotated[Point, Depends(stored)]):
        return point.a + point.b

    @router.post("/scalars/{a}")
    async def scalars(a: float, b: float):
        return a + b

    @router.post("/dict")
    async def plain(row: dict):
        return row["a"] + row["b"]

    router.add_api_route("/callable", Model(), methods=["POST"])


FORM = (
    b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n'
    b'--x\r\nContent-Disposition: form-data; name="b"\r\n\r\n2\r\n'
    b'--x\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\nabc\r\n--x--\r\n'
)
ONE, SUM = [[1.0, 2.0]], [3.0]
# Kind -> (path, body, status of the response, status counted, rows, predictions); no rows: nothing is committed.
KINDS = {
    "async": ("/async", ROW, 200, "success", ONE, SUM),
    "sync": ("/sync", ROW, 200, "success", ONE, SUM),
    "batch": ("/batch", [ROW, {"a": 3, "b": 4}], 200, "success", [[1.0, 2.0], [3.0, 4.0]], [3.0, 7.0]),
    "wrapped": ("/wrapped", {"points": [ROW, ROW]}, 200, "success", ONE * 2, SUM * 2),
    "empty": ("/batch", [], 200, "success", None, None),
    "nested": ("/nested", {"name": "n", "point": ROW}, 200, "success", ONE, SUM),
    "embed": ("/embed", {"point": ROW}, 200, "success", ONE, SUM),
    "alias": ("/alias", ROW, 200, "success", ONE, SUM),
    "form": ("/form", FORM, 200, "success", ONE, SUM),
    "filtered": ("/filtered", ROW, 200, "success", ONE, SUM),
    "json": ("/json", ROW, 200, "success", ONE, None),
    "stream": ("/stream", ROW, 200, "success", ONE, None),
    "generator": ("/generator", ROW, 200, "success", ONE, None),
    "raw": ("/raw", ROW, 200, "success", None, None),
    "refused": ("/refused", ROW, 418, "rejected", None, None),
    "broken": ("/broken", ROW, 500, "error", None, None),
    "dependency": ("/dependency", ROW, 200, "success", ONE, SUM),
    "scalars": ("/scalars/1", b"", 200, "success", ONE, SUM),
    "dict": ("/dict", ROW, 200, "success", ONE, SUM),
    "callable": ("/callable", ROW, 200, "success", ONE, SUM),
    "invalid": ("/async", {"a": "x", "b": 2}, 422, "invalid", None, None),
    "malformed": ("/async", b'{"a":', 422, "invalid", None, None),
}


def on_app(app):
    endpoints(app)
    return ""


def included(app):
    router = APIRouter()
    endpoints(router)
    app.include_router(router, prefix="/v1")
    return "/v1"


def nested_prefix(app):
    inner, outer = APIRouter(prefix="/in"), APIRouter(prefix="/out")
    endpoints(inner)
    outer.include_router(inner)
    app.include_router(outer, prefix="/v1")
    return "/v1/out/in"


def mounted(app):
    inner = FastAPI()
    endpoints(inner)
    app.mount("/sub", inner)
    return "/sub"


def mounted_router(app):
    inner = FastAPI()
    included(inner)
    app.mount("/sub", inner)
    return "/sub/v1"


STYLES = {f.__name__: f for f in (on_app, included, nested_prefix, mounted, mounted_router)}
TIMES = ("before", "after", "late")
"""When the app is watched: before its routes are there, after, or with routes that come after the first request."""


async def see(style, when):
    """{kind: [status, statuses counted, rows, predictions]} of one app."""
    app, monitor, seen = FastAPI(), FakeMonitor(), {}
    prefix = STYLES[style](app) if when == "after" else ""
    watch(app, monitor, routes=["*"])
    if when == "late":

        @app.post("/first")
        async def first(point: Point):
            return 0

        await call(app, "/first", ROW)
    if when != "after":
        prefix = STYLES[style](app)
    for kind, (path, body, *_) in KINDS.items():
        monitor.committed.clear()
        before = monitor.statuses()
        form = "multipart/form-data; boundary=x" if body is FORM else "application/json"
        query = "b=2" if kind == "scalars" else ""
        status, _, _ = await call(app, prefix + path, body, content_type=form, query=query)
        counted = [name for name, n in monitor.statuses().items() for _ in range(n - before.get(name, 0))]
        rows = [list(row) for _, rows, *_ in monitor.committed for row in rows] or None
        predictions = next((list(p) for _, _, p, *_ in monitor.committed if p is not None), None)
        seen[kind] = [status, *counted, rows, predictions]
    left = monitor.counts("model_requests_in_progress") | monitor.counts("model_queue_depth")
    seen["left in progress"] = [sum(left.values())]
    seen["swallowed"] = [sum(monitor.guard.errors.values())]
    return seen


def expected():
    """What `see` gives if all is well."""
    return {kind: list(wanted) for kind, (_, _, *wanted) in KINDS.items()} | {"left in progress": [0], "swallowed": [0]}


async def main():
    seen = {f"{style} {when}": await see(style, when) for style in STYLES for when in TIMES}
    sys.stdout.write(json.dumps({"version": fastapi.__version__, "seen": seen}) + "\n")


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
