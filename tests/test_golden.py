"""One scripted scenario, and the whole /metrics page of it, compared with the one that was looked at and committed."""

from __future__ import annotations

import asyncio
import json
import os
import re
from pathlib import Path

import numpy as np
from fastapi import FastAPI, HTTPException
from pydantic import BaseModel

import modelwatch

GOLDEN = Path(__file__).parent / "golden" / "metrics.txt"
# Whatever the clock says: the sample is there, its value is not compared. The infra layer depends on the machine.
VOLATILE = re.compile(
    r"^(?P<name>(?:\w*_seconds_(?:bucket|sum)|\w*timestamp_seconds|model_drift_window_seconds)(?:\{.*\})?) \S+$",
    re.MULTILINE,
)


class Ride(BaseModel):
    distance: float | None
    weather: str


def make_app():
    app = FastAPI()

    @app.post("/predict")
    async def predict(ride: Ride):
        if ride.weather == "closed":
            raise HTTPException(409)
        return {"label": "long" if (ride.distance or 0) > 5 else "short", "confidence": 0.75}

    @app.get("/rides/{ride_id}")
    async def ride(ride_id: int):
        return ride_id

    rng = np.random.default_rng(1)
    table = {
        "distance": rng.exponential(4.0, 3_000).round(1),
        "weather": rng.choice(["dry", "rain"], 3_000, p=[0.8, 0.2]),
        "label": rng.choice(["long", "short"], 3_000),
        "confidence": rng.uniform(0.5, 1.0, 3_000),
    }
    reference = modelwatch.ReferenceProfile.fit(table, prediction="label", confidence="confidence")
    modelwatch.instrument(
        app,
        model_name="rides",
        model_version="3",
        reference=reference,
        settings=modelwatch.Settings(labels={"team": "maps"}, metrics={"gpu": False, "infra": False}),
    )
    return app


async def ask(app, method, path, body=None):
    content = b"" if body is None else json.dumps(body).encode()
    scope = {
        "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1", "scheme": "http",
        "method": method, "path": path, "raw_path": path.encode(), "query_string": b"", "root_path": "",
        "headers": [(b"content-type", b"application/json")], "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80), "state": {},
    }  # fmt: skip
    messages = []

    async def receive():
        return {"type": "http.request", "body": content, "more_body": False}

    async def send(message):
        messages.append(message)

    await app(scope, receive, send)
    return messages[0]["status"], b"".join(message.get("body", b"") for message in messages[1:])


async def scenario(app):
    for i in range(220):
        body = {"distance": None if i % 40 == 0 else (i % 60) / 2, "weather": "snow" if i % 11 == 0 else "dry"}
        assert (await ask(app, "POST", "/predict", body))[0] == 200
    statuses = [
        (await ask(app, *request))[0]
        for request in (
            ("POST", "/predict", {"distance": 1, "weather": "closed"}),
            ("POST", "/predict", {"distance": "far", "weather": "dry"}),
            ("GET", "/rides/7"),
            ("GET", "/nowhere"),
            ("BREW", "/rides/7"),
        )
    ]
    assert statuses == [409, 422, 200, 404, 405]
    status, page = await ask(app, "GET", "/metrics")
    assert status == 200
    return page.decode()


def test_the_whole_page():
    """Names, labels, help, order and every value that does not depend on time or machine are those committed.

    After a change that is meant: `UPDATE_GOLDEN=1 make test ARGS="-k golden"`, and look at the difference.
    """
    page = asyncio.run(scenario(make_app()))
    page = VOLATILE.sub(r"\g<name> …", page)
    page = re.sub(r"^modelwatch_build_info\{.*\}", "modelwatch_build_info{…}", page, flags=re.MULTILINE)
    # A request is said to have gone on after its last byte only if it did for 10 ms, as on a busy machine it may.
    page = re.sub(r"^(# \w+ )?http_server_background_seconds.*\n", "", page, flags=re.MULTILINE)
    page = re.sub(r"(\d\.\d{9})\d+", r"\1", page)  # the last digits are the processor's
    if os.environ.get("UPDATE_GOLDEN"):
        GOLDEN.write_text(page, "utf-8")
    assert page == GOLDEN.read_text("utf-8")
