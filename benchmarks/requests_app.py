"""The app whose requests are timed: bare, watched, and with the most used instrumentation library."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import numpy as np
from fastapi import FastAPI
from pydantic import create_model

import modelwatch

FEATURES = {f"x{i:02}": (float, ...) for i in range(20)}
Row = create_model("Row", **FEATURES)
BODY = ("{" + ",".join(f'"{name}": {i / 3}' for i, name in enumerate(FEATURES)) + "}").encode()
APPS = {
    "bare": "",
    "modelwatch, service metrics alone": "<= 6",
    "modelwatch, everything": "<= 15",
    "prometheus-fastapi-instrumentator": "",
}


def make_app(kind: str, routes: int) -> FastAPI:
    """An app with `routes` routes, of which the last one predicts."""
    app = FastAPI()
    for i in range(routes - 1):
        app.get(f"/route_{i}/{{item}}")(_other)
    app.post("/predict")(_predict)
    if kind.startswith("modelwatch"):
        rng = np.random.default_rng(0)
        reference = modelwatch.ReferenceProfile.fit(
            {name: rng.normal(size=5_000) for name in FEATURES} | {"score": rng.random(5_000)}, prediction="score"
        )
        alone = "alone" in kind  # no endpoint is the model's: nothing but the middleware is at work
        modelwatch.instrument(
            app, model_name="bench", reference=None if alone else reference, routes=["/none"] if alone else None
        )
    elif kind != "bare":
        from prometheus_client import CollectorRegistry
        from prometheus_fastapi_instrumentator import Instrumentator

        Instrumentator(registry=CollectorRegistry()).instrument(app)
    return app


async def _other(item: str) -> str:
    return item


async def _predict(row: Row) -> dict[str, float]:  # type: ignore[valid-type]
    return {"score": row.x00 / 7}


SCOPE: dict[str, Any] = {
    "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1", "method": "POST",
    "scheme": "http", "path": "/predict", "raw_path": b"/predict", "query_string": b"", "root_path": "",
    "headers": [(b"content-type", b"application/json"), (b"content-length", str(len(BODY)).encode())],
    "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80), "state": {},
}  # fmt: skip


def drive(runner: asyncio.Runner, app: Any, count: int) -> float:
    """CPU seconds of one of `count` requests, of this thread. One loop for all: a service has one, too."""

    async def run() -> float:
        for _ in range(3):
            await _request(app)
        started = time.thread_time()
        for _ in range(count):
            await _request(app)
        return (time.thread_time() - started) / count

    return runner.run(run())


async def _request(app: Any) -> None:
    statuses = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": BODY, "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    await app(dict(SCOPE), receive, send)
    if statuses != [200]:
        raise RuntimeError(f"The app answered {statuses}: nothing to time.")
