"""The service that tests start under real servers; without SERVICE_REFERENCE in the environment only its model.

The model is a formula and its rows are drawn with a seed, so that a test can compute what the service must say.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time

import numpy as np
from fastapi import FastAPI, Response
from prometheus_client import Counter
from pydantic import BaseModel

import modelwatch

PLANS = ("basic", "plus", "pro")
MODEL = {"model_name": "m", "model_version": "1"}


class Customer(BaseModel):
    """One row."""

    age: float | None
    income: float
    plan: str


class Score(BaseModel):
    """What the model says about it."""

    prediction: float
    confidence: float


def customers(rows: int, seed: int, shift: float = 0.0) -> list[dict]:
    """So many rows, the same for a seed; with a shift, and a few missing ages, they have drifted."""
    rng = np.random.default_rng(seed)
    ages = np.round(rng.normal(40 + 10 * shift, 10, rows), 2)
    incomes = np.round(rng.lognormal(3 + 0.5 * shift, 0.5, rows), 3)
    plans = rng.choice(PLANS, rows, p=(0.6, 0.3, 0.1))
    missing = rng.random(rows) < 0.02
    return [
        {"age": None if gone else float(age), "income": float(income), "plan": str(plan)}
        for age, income, plan, gone in zip(ages, incomes, plans, missing, strict=True)
    ]


def score(customer: dict) -> tuple[float, float]:
    """Prediction and confidence for a row."""
    age = 40.0 if customer["age"] is None else customer["age"]
    prediction = 100 + age + 2 * customer["income"] + 5 * PLANS.index(customer["plan"])
    return prediction, 0.5 + 0.5 * abs(np.tanh((prediction - 190) / 40)).item()


def table(rows: list[dict]) -> dict[str, list]:
    """The rows as columns, with what the model says about them."""
    columns = {name: [row[name] for row in rows] for name in Customer.model_fields}
    columns["age"] = [np.nan if age is None else age for age in columns["age"]]
    scores = [score(row) for row in rows]
    return columns | {"prediction": [p for p, _ in scores], "confidence": [c for _, c in scores]}


def profile(seed: int = 1, rows: int = 4000, shift: float = 0.0) -> modelwatch.ReferenceProfile:
    """The reference of so many rows."""
    fitted = table(customers(rows, seed, shift))
    return modelwatch.ReferenceProfile.fit(fitted, prediction="prediction", confidence="confidence")


class Stamped:
    """Around everything: says in a header of every response, that of `/metrics` too, which process gave it."""

    def __init__(self, app) -> None:
        self.app = app

    async def __call__(self, scope, receive, send) -> None:
        async def stamped(message):
            if message["type"] == "http.response.start":
                stamp = (b"x-worker", b"%d" % os.getpid())
                message = {**message, "headers": [*message.get("headers", ()), stamp]}
            await send(message)

        await self.app(scope, receive, stamped if scope["type"] == "http" else send)


def make() -> Stamped:
    """The service, watched. SERVICE_TICK shortens the second after which modelwatch does what is to be done."""
    for name, module in sys.modules.items():
        if name.startswith("modelwatch.") and hasattr(module, "TICK_SECONDS"):
            module.TICK_SECONDS = float(os.environ.get("SERVICE_TICK", "1"))
    service = FastAPI()
    monitor = modelwatch.instrument(service, **MODEL, reference=os.environ["SERVICE_REFERENCE"])
    orders = Counter("shop_orders", "Requests that the service itself counts, in the default registry.")

    @service.post("/predict")
    async def predict(rows: list[Customer], wait: float = 0) -> list[Score]:
        if wait:
            await asyncio.sleep(wait)
        orders.inc()
        scores = [score(row.model_dump()) for row in rows]
        return [Score(prediction=prediction, confidence=confidence) for prediction, confidence in scores]

    @service.get("/pid")
    async def pid() -> int:
        return os.getpid()

    @service.get("/slow")
    async def slow(seconds: float) -> int:
        await asyncio.sleep(seconds)
        return os.getpid()

    @service.get("/block")
    async def block(seconds: float) -> int:
        time.sleep(seconds)  # noqa: ASYNC251 - an event loop that hangs is what is to be tested
        return os.getpid()

    @service.post("/reload")
    def reload(path: str, version: str | None = None) -> Response:
        try:
            monitor.reload(path, version)
        except modelwatch.ModelWatchError as error:
            return Response(str(error), 409)
        return Response(status_code=204)

    return Stamped(service)


if "SERVICE_REFERENCE" in os.environ:
    app = make()
