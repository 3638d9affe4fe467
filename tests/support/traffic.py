"""A service with an endpoint of every kind, bare or watched, and requests of every kind to it, without a server.

What an app did with a request is told by `Told`, which two apps can be compared by.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from fastapi import APIRouter, BackgroundTasks, Depends, FastAPI, HTTPException, Request, WebSocket
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

import modelwatch

NAME = {"model_name": "traffic", "model_version": "1"}
LATER_SECONDS = 0.011
"""So long a background task takes: long enough to be counted as one."""
WATCHED = ["/sync", "/async", "/batch", "/response", "/stream", "/dependent", "/anything", "/told"]
"""Routes of the endpoints of the model."""
_PLANS = ("basic", "plus", "pro")


class Row(BaseModel):
    """One row."""

    age: float | None = None
    income: float = 1.0
    plan: str | None = "pro"


def reference(rows: int = 600) -> modelwatch.ReferenceProfile:
    """The reference of such rows."""
    rng = np.random.default_rng(5)
    table = {
        "age": rng.normal(40, 10, rows),
        "income": rng.lognormal(3, 0.5, rows),
        "plan": rng.choice(_PLANS, rows),
        "prediction": rng.random(rows),
        "confidence": rng.uniform(0.5, 1, rows),
    }
    return modelwatch.ReferenceProfile.fit(table, prediction="prediction", confidence="confidence")


class Unwatched:
    """Stands for the monitor where there is none."""

    def record(self, *args: Any, **given: Any) -> None:
        """Nothing."""

    def predict(self, **parts: Any) -> Callable[[Any], Any]:
        """Nothing."""
        return lambda function: function


class Raised:
    """The exceptions that endpoints raise: each the same object every time, so that it can be recognised."""

    def __init__(self) -> None:
        self.sync, self.coroutine = LookupError("sync"), ZeroDivisionError("async")
        self.dependency, self.stream = OSError("dependency"), ValueError("stream")
        self.group = ExceptionGroup("several", [KeyError("one"), TimeoutError()])

    def name_of(self, error: BaseException | None) -> str | None:
        """Its name here; of any other its type and text."""
        for name, known in vars(self).items():
            if error is known:
                return name
        return None if error is None else f"{type(error).__name__}({error})"


def service(app: FastAPI, monitor: Any, raised: Raised) -> FastAPI:
    """Add the endpoints to an app."""
    _model_endpoints(app, monitor, raised)
    _other_endpoints(app, raised)
    return app


def _model_endpoints(app: FastAPI, monitor: Any, raised: Raised) -> None:
    def checked() -> str:
        return "checked"

    def refusing() -> None:
        raise raised.dependency

    @app.post("/sync")
    def sync(row: Row, checked: str = Depends(checked)):
        if row.plan == "refused":
            raise HTTPException(409, detail=checked, headers={"x-why": "plan"})
        if row.plan == "broken":
            raise raised.sync
        return {"prediction": 0.25, "confidence": 0.75}

    @app.post("/async")
    async def coroutine(row: Row):
        if row.plan == "broken":
            raise raised.coroutine
        if row.plan == "group":
            raise raised.group
        return {"prediction": 0.5, "confidence": [0.25, 0.75]}

    @app.post("/batch")
    async def batch(rows: list[Row]):
        return {"prediction": [0.5] * len(rows)}

    @app.post("/response")
    async def response(row: Row):
        return JSONResponse({"prediction": row.income}, 201, {"x-made": "by hand"})

    @app.post("/stream")
    async def stream(row: Row):
        async def parts():
            yield b"one,"
            if row.plan == "broken":
                raise raised.stream
            yield b"two"

        return StreamingResponse(parts(), media_type="text/csv")

    @app.post("/dependent")
    async def dependent(row: Row, refusing: None = Depends(refusing)):
        return {"prediction": 1.0}

    @app.post("/anything")
    async def anything(body: dict):
        return {"prediction": 0.5, "was": sorted(body)}

    @app.post("/told")
    @monitor.predict(
        features=lambda arguments: arguments["payload"]["rows"],
        prediction="out.scores",
        confidence=lambda result: result["out"]["sure"],
        id="ids",
    )
    async def told(payload: dict):
        size = len(payload["rows"])
        return {"out": {"scores": [0.5] * size, "sure": [0.9] * size}, "ids": list(range(size))}

    @app.post("/by-hand")
    async def by_hand(request: Request):
        values = await request.json()
        monitor.record(values, predictions=[0.5] * len(values["age"]), timestamps=[None] * len(values["age"]))
        return PlainTextResponse("recorded")


def _other_endpoints(app: FastAPI, raised: Raised) -> None:
    @app.get("/later")
    async def later(tasks: BackgroundTasks):
        tasks.add_task(asyncio.sleep, LATER_SECONDS)
        return {}

    @app.get("/endless")
    async def endless():
        async def parts():
            while True:
                yield b"and so on, "
                await asyncio.sleep(0)

        return StreamingResponse(parts())

    @app.get("/never")
    async def never():
        await asyncio.Event().wait()

    @app.websocket("/chat/{room}")
    async def chat(websocket: WebSocket, room: str):
        if room == "closed":
            await websocket.close(1008)
            return
        await websocket.accept()
        await websocket.send_text(await websocket.receive_text() + room)
        await websocket.close()

    router = APIRouter(prefix="/inner")

    @router.get("/{number}")
    async def numbered(number: int):
        return {"number": number}

    app.include_router(router)
    plain = Route("/{name}", lambda request: PlainTextResponse(request.path_params["name"]))
    app.router.routes.append(Mount("/mounted", routes=[plain]))


class Ask(NamedTuple):
    """A request. `gone`: the client goes after its body; `deaf`: the server's send raises; `cancelled`: its task is."""

    path: str
    method: str = "GET"
    body: Sequence[bytes] = (b"",)
    kind: str = "http"
    root: str = ""
    gone: bool = False
    deaf: bool = False
    cancelled: bool = False


def _json(path: str, body: Any) -> Ask:
    return Ask(path, "POST", (json.dumps(body).encode(),))


_ROW = {"age": 41.0, "income": 20.5, "plan": "plus"}
REQUESTS = (
    _json("/sync", _ROW),
    _json("/async", _ROW),
    _json("/batch", [_ROW, {"age": None}, {}]),
    _json("/response", _ROW),
    _json("/stream", _ROW),
    _json("/anything", _ROW),
    _json("/told", {"rows": [_ROW, _ROW]}),
    _json("/by-hand", {"age": [41.0, None], "income": [1, 2.5], "plan": ["pro", "none"]}),
    *(_json("/sync", {**_ROW, "plan": plan}) for plan in ("refused", "broken")),
    *(_json("/async", {**_ROW, "plan": plan}) for plan in ("broken", "group")),
    _json("/stream", {**_ROW, "plan": "broken"}),
    _json("/dependent", _ROW),
    _json("/sync", {"age": "old"}),
    Ask("/async", "POST", (b'{"age"', b": 4")),
    Ask("/sync", "POST", (b'{"income": 2', b"}")),
    Ask("/nowhere"),
    Ask("/inner/5"),
    Ask("/inner/5/"),
    Ask("/sync", "PATCH"),
    Ask("/inner/5", "BREW"),
    Ask("/mounted/file"),
    Ask("/prefix/inner/7", root="/prefix"),
    Ask("/docs"),
    Ask("/later"),
    Ask("/endless", gone=True),
    Ask("/endless", deaf=True),
    Ask("/never", cancelled=True),
    Ask("/chat/one", kind="websocket"),
    Ask("/chat/closed", kind="websocket"),
    Ask("/", kind="lifespan"),
)
"""One of each kind."""


class Told(NamedTuple):
    """What an app did: the messages that it sent, what it raised, and what that came of."""

    messages: tuple[Any, ...]
    raised: str | None
    context: tuple[str | None, str | None]
    received: int


def scope_of(ask: Ask) -> dict[str, Any]:
    """As uvicorn makes it."""
    if ask.kind == "lifespan":
        return {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": {}}
    scope = {
        "type": ask.kind, "asgi": {"version": "3.0", "spec_version": "2.4" if ask.deaf else "2.3"},
        "http_version": "1.1", "scheme": "http", "path": ask.path, "raw_path": ask.path.encode(), "query_string": b"",
        "root_path": ask.root, "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80), "state": {},
        "headers": [(b"host", b"t.local"), (b"content-type", b"application/json")],
    }  # fmt: skip
    return scope | ({"subprotocols": []} if ask.kind == "websocket" else {"method": ask.method})


_INCOMING = {
    "websocket": ({"type": "websocket.connect"}, {"type": "websocket.receive", "text": "hello "}),
    "lifespan": ({"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}),
}


def incoming(ask: Ask) -> list[dict[str, Any]]:
    """The messages of the client."""
    if ask.kind != "http":
        return [dict(message) for message in _INCOMING[ask.kind]]
    parts = [{"type": "http.request", "body": part, "more_body": True} for part in ask.body]
    parts[-1]["more_body"] = False
    return [*parts, {"type": "http.disconnect"}] if ask.gone else parts


async def tell(app: Any, ask: Ask, raised: Raised) -> Told:
    """Send a request, and tell what the app did."""
    sent: list[Any] = []
    waiting, received = incoming(ask), 0

    async def receive() -> Any:
        nonlocal received
        received += 1
        return waiting.pop(0) if waiting else await asyncio.Event().wait()

    async def send(message: Any) -> None:
        if ask.deaf:
            raise OSError("nobody there")
        sent.append(message)

    error = await _outcome(app(scope_of(ask), receive, send), cancelled=ask.cancelled)
    names = (None, None) if error is None else (raised.name_of(error.__cause__), raised.name_of(error.__context__))
    # How long a stream goes on until it hears that the client is gone is a matter of turns of the loop.
    messages = sent[:2] if ask.gone else sent
    return Told(tuple(map(_frozen, messages)), raised.name_of(error), names, received)


async def _outcome(running: Awaitable[Any], *, cancelled: bool) -> BaseException | None:
    task = asyncio.ensure_future(running)
    if cancelled:
        for _ in range(20):  # into the endpoint
            await asyncio.sleep(0)
        task.cancel()
    await asyncio.wait([task])
    return asyncio.CancelledError() if task.cancelled() else task.exception()


def _frozen(message: dict[str, Any]) -> Any:
    return tuple((key, list(value) if key == "headers" else value) for key, value in message.items())


async def tell_all(app: Any, raised: Raised, asks: Iterable[Ask] = REQUESTS) -> list[Told]:
    """Send requests one after the other."""
    return [await tell(app, ask, raised) for ask in asks]


async def scrape(app: Any) -> tuple[int, str]:
    """Status and text of /metrics."""
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    await app(scope_of(Ask("/metrics")), receive, send)
    return sent[0]["status"], b"".join(message["body"] for message in sent[1:]).decode()
