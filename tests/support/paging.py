"""An app with a live page, and a look at it without a server."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json

import numpy as np
from fastapi import FastAPI
from pydantic import BaseModel

import modelwatch

RNG = np.random.default_rng(0)
TABLE = {
    "age": RNG.normal(40, 10, 4_000),
    "plan": RNG.choice(["basic", "pro"], 4_000),
    "stars": RNG.integers(1, 6, 4_000).astype(float),
    "score": RNG.random(4_000),
}
REFERENCE = modelwatch.ReferenceProfile.fit(TABLE, prediction="score")


class Customer(BaseModel):
    """One row."""

    age: float | None = None
    plan: str = "pro"
    stars: float = 3


class Answer:
    """What an application sent."""

    def __init__(self, messages):
        self.status = messages[0]["status"]
        self.headers = {name.decode(): value.decode() for name, value in messages[0]["headers"]}
        self.all = [(name.decode(), value.decode()) for name, value in messages[0]["headers"]]
        self.raw = b"".join(message.get("body", b"") for message in messages[1:])

    @property
    def text(self):
        packed = self.headers.get("content-encoding") == "gzip"
        return (gzip.decompress(self.raw) if packed else self.raw).decode()

    @property
    def json(self):
        return json.loads(self.text)


async def ask(app, path, method="GET", body=None, **headers):
    """One request to an ASGI application."""
    content = b"" if body is None else json.dumps(body).encode()
    listed = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "scheme": "http",
        "method": "POST" if body is not None else method, "path": path, "raw_path": path.encode(),
        "query_string": b"", "root_path": "", "headers": [(b"content-type", b"application/json"), *listed],
        "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80), "state": {},
    }  # fmt: skip
    messages = []

    async def receive():
        return {"type": "http.request", "body": content, "more_body": False}

    async def send(message):
        messages.append(message)

    await app(scope, receive, send)
    return Answer(messages)


def get(app, path="/modelwatch/data.json", **given):
    """One request, in an event loop of its own."""
    return asyncio.run(ask(app, path, **given))


def basic(password, user="anybody"):
    """The header that a browser sends."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def make_app(reference=REFERENCE, **settings):
    """An app with one model, and its monitor."""
    app = FastAPI()

    @app.post("/predict")
    def predict(customer: Customer):
        return {"score": 0.25}

    settings = {"page": True, **settings}
    return app, modelwatch.instrument(
        app, model_name="churn", model_version="1", reference=reference, settings=modelwatch.Settings(**settings)
    )
