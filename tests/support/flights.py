"""A small classifier of late flights.

It has what the example does not have: classes and confidences, a streamed response, work after a response, a websocket.
"""

from __future__ import annotations

import csv
import gzip
import random
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import BackgroundTasks, FastAPI, WebSocket
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

import modelwatch

DATA = Path(__file__).parents[1] / "data" / "nyc_flights.csv.gz"
CATEGORIES = ("origin", "carrier")
NUMBERS = ("hour", "weekday", "distance", "temp", "humid", "wind_speed", "precip", "visib")
FEATURES = (*CATEGORIES, *NUMBERS)
CLASSES = ("on time", "late")
_TRAINED, _SERVED = 6000, 3000
_state: dict[str, Any] = {}


class Flight(BaseModel):
    """What is known of a flight before it leaves."""

    ts: datetime
    origin: str
    carrier: str
    hour: float
    weekday: int
    distance: float
    temp: float | None = None
    humid: float | None = None
    wind_speed: float | None = None
    precip: float | None = None
    visib: float | None = None


class Answer(BaseModel):
    """What is answered."""

    predicted_class: list[str]
    confidence: list[float]


def train(directory: Path) -> None:
    """Fit the model and its reference; both stay in this process, for those that are forked from it."""
    from sklearn.linear_model import LogisticRegression

    rows = _read(_TRAINED + _SERVED)
    random.Random(7).shuffle(rows)  # so that what is served is like what was trained on
    learnt, served = rows[:_TRAINED], rows[_TRAINED:]
    x, y = _matrix(learnt), np.array([int(row["late"]) for row in learnt])
    model = LogisticRegression(max_iter=200, class_weight={0: 1.0, 1: 1.6}).fit(x, y)
    late = model.predict_proba(x)[:, 1]
    table: dict[str, list[Any]] = {name: [row[name] for row in learnt] for name in FEATURES}
    table["predicted_class"] = [CLASSES[int(share >= 0.5)] for share in late]
    table["confidence"] = np.maximum(late, 1 - late).tolist()
    _state["reference"] = modelwatch.ReferenceProfile.fit(
        table, features=list(FEATURES), prediction="predicted_class", confidence="confidence"
    )
    _state["model"], _state["served"] = model, served


def served() -> list[dict[str, Any]]:
    """Rows of requests, as the service takes them."""
    return [{name: row[name] for name in FEATURES} for row in _state["served"]]


def make(directory: Path, version: str, chance: random.Random) -> FastAPI:
    """The service, watched."""
    app, model = FastAPI(title="Late flights"), _state["model"]
    least = 0.5 if version == "7" else 0.45  # a newer version says sooner that a flight will be late

    @app.post("/classify")
    def classify(flights: list[Flight]) -> Answer:
        time.sleep(min(chance.lognormvariate(-4.6, 0.6), 0.3))
        late = model.predict_proba(_matrix([flight.model_dump() for flight in flights]))[:, 1]
        sure = np.maximum(late, 1 - late)
        return Answer(predicted_class=[CLASSES[int(share >= least)] for share in late], confidence=sure.tolist())

    @app.get("/export")
    def export() -> StreamingResponse:
        def lines() -> Iterator[str]:
            for number in range(20):
                yield f"{number},{chance.random():.3f}\n"

        return StreamingResponse(lines(), media_type="text/csv")

    @app.post("/refresh")
    def refresh(tasks: BackgroundTasks) -> dict[str, str]:
        tasks.add_task(time.sleep, 0.01)
        return {"refresh": "later"}

    @app.websocket("/departures")
    async def departures(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.receive_text()

    modelwatch.instrument(
        app,
        model_name="late-flights",
        model_version=version,
        reference=_state["reference"],
        routes=["/classify"],
        settings=modelwatch.Settings(low_confidence=0.6),
    )
    return app


def _read(rows: int) -> list[dict[str, Any]]:
    with gzip.open(DATA, "rt", newline="") as file:
        found = [row for row, _ in zip(csv.DictReader(file), range(rows), strict=False)]
    return [
        {name: row[name] for name in (*CATEGORIES, "late")}
        | {name: float(row[name]) if row[name] else None for name in NUMBERS}
        for row in found
    ]


def _matrix(rows: list[dict[str, Any]]) -> Any:
    scale = {
        "hour": 24,
        "weekday": 7,
        "distance": 3000,
        "temp": 100,
        "humid": 100,
        "wind_speed": 30,
        "precip": 1,
        "visib": 10,
    }
    numbers = [[(row[name] or 0.0) / scale[name] for name in NUMBERS] for row in rows]
    origins = [[row["origin"] == name for name in ("EWR", "JFK", "LGA")] for row in rows]
    carriers = [
        [row["carrier"] == name for name in ("UA", "B6", "EV", "DL", "AA", "MQ", "US", "9E", "WN")] for row in rows
    ]
    return np.hstack([np.array(numbers, float), np.array(origins, float), np.array(carriers, float)])
