"""The service that fuzz cases are sent to: watched if FUZZ_WATCHED is in the environment, else without the library."""

from __future__ import annotations

import asyncio
import hashlib
import os
import sys
from typing import Annotated, Any

from fastapi import Body, FastAPI, Form, Request, WebSocket
from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse
from pydantic import BaseModel

WATCHED = ["/row", "/async", "/rows", "/any", "/dict", "/arrays", "/told", "/echo"]


class Row(BaseModel):
    """One row."""

    age: float | None = None
    income: float = 1.0
    plan: str | None = "pro"


class Unwatched:
    """Stands for the monitor where there is none."""

    def predict(self, **parts: Any) -> Any:
        """Nothing."""
        return lambda function: function


def _shown(value: Any) -> str:
    """Everything of a value, in a text that is not too long; a length for what is."""
    text = ascii(value)
    return text if len(text) < 5_000 else f"{len(text)} {hashlib.sha256(text.encode()).hexdigest()}"


def _model_endpoints(app: FastAPI, monitor: Any) -> None:
    @app.post("/row")
    @app.put("/row")
    def row(row: Row):
        return {"prediction": 0.5, "was": _shown(row)}

    @app.post("/async")
    async def coroutine(row: Row):
        if row.plan == "broken":
            raise LookupError(row.plan)
        return {"prediction": row.age, "confidence": row.income, "was": _shown(row)}

    @app.post("/rows")
    async def rows(rows: list[Row]):
        return {"predictions": [0.5] * len(rows), "was": _shown(rows)}

    @app.post("/any")
    async def anything(body: Annotated[Any, Body()]):
        return {"prediction": 0.5, "was": _shown(body)}

    @app.post("/dict")
    async def mapping(body: dict):
        return {"prediction": body.get("age"), "was": _shown(body)}

    @app.post("/arrays")
    async def arrays(body: list[list[float]]):
        return {"prediction": [0.5] * len(body), "was": _shown(body)}

    @app.post("/told")
    @monitor.predict(features="body.rows", prediction="was", confidence=len, id="id.of.it")
    async def told(body: dict):
        return {"was": body.get("was")}

    @app.post("/echo")
    async def echo(row: Row):
        async def parts():
            for part in _shown(row)[:3_000].split(","):
                yield part.encode()

        return StreamingResponse(parts(), media_type="text/plain")


def _other_endpoints(app: FastAPI) -> None:
    @app.post("/raw")
    async def raw(request: Request):
        body = await request.body()
        return PlainTextResponse(f"{len(body)} {hashlib.sha256(body).hexdigest()} {_shown(request.headers.items())}")

    @app.post("/form")
    async def form(name: Annotated[str, Form()], size: Annotated[int, Form()] = 1):
        return {"name": name, "size": size}

    @app.get("/items/{number}")
    async def item(number: int, q: str | None = None):
        return JSONResponse({"number": number, "q": _shown(q)}, headers={"x-item": "yes"})

    @app.get("/sleep/{milliseconds}")
    async def sleep(milliseconds: int):
        await asyncio.sleep(milliseconds / 1000)
        return milliseconds

    @app.get("/flood/{parts}")
    async def flood(parts: int):
        async def flow():
            for _ in range(parts):
                yield bytes(65_536)

        return StreamingResponse(flow())

    @app.get("/drip")
    async def drip():
        async def flow():
            for _ in range(10_000):
                yield bytes(100)
                await asyncio.sleep(0.01)

        return StreamingResponse(flow())

    @app.post("/drain")
    async def drain(request: Request):
        size = 0
        async for part in request.stream():
            size += len(part)
        return size

    @app.websocket("/chat")
    async def chat(websocket: WebSocket):
        await websocket.accept()
        await websocket.send_text(await websocket.receive_text())


class Counting:
    """Around everything: says how many requests came, how many are still there, and whether the library is."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self.requests = self.running = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            if scope["path"] == "/counted":
                known = "modelwatch" in sys.modules
                said = {"requests": self.requests, "running": self.running, "watched": known}
                await JSONResponse(said)(scope, receive, send)
                return
            self.requests += scope["path"] != "/metrics"
        counted = scope["type"] != "lifespan" and scope["path"] != "/metrics"
        self.running += counted
        try:
            await self.app(scope, receive, send)
        finally:
            self.running -= counted


def make() -> Counting:
    """The service."""
    app, monitor = FastAPI(), Unwatched()
    if "FUZZ_WATCHED" in os.environ:
        import numpy as np

        import modelwatch

        rng = np.random.default_rng(3)
        table = {
            "age": rng.normal(40, 10, 500),
            "income": rng.lognormal(3, 0.5, 500),
            "plan": rng.choice(["basic", "pro"], 500),
            "prediction": rng.random(500),
        }
        reference = modelwatch.ReferenceProfile.fit(table, prediction="prediction")
        monitor = modelwatch.instrument(app, model_name="fuzz", reference=reference, routes=WATCHED)
    _model_endpoints(app, monitor)
    _other_endpoints(app)
    return Counting(app)


if os.environ.get("FUZZ_SERVED"):
    app = make()
