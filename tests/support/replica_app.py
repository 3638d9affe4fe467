"""A service for tests of a fleet: one feature of every kind of bins, and rows of which numpy can tell what they are.

`age` is a number with many values, `visits` one with few, `plan` a category; ages are missing at times.
"""

from __future__ import annotations

import os

import numpy as np
from fastapi import FastAPI
from pydantic import BaseModel

import modelwatch

PLANS = ("basic", "plus", "pro")
MODEL = {"model_name": "m", "model_version": "1"}


class Customer(BaseModel):
    """One row."""

    age: float | None
    visits: int
    plan: str


def customers(rows: int, seed: int, shift: float = 0.0) -> list[dict]:
    """So many rows, the same for a seed; the further they are shifted, the less they are like those of training."""
    rng = np.random.default_rng(seed)
    ages = np.round(rng.normal(40 + 10 * shift, 10, rows), 2)
    visits = rng.poisson(2 + shift, rows)
    plans = rng.choice([*PLANS, "trial"], rows, p=(0.6 - 0.4 * shift, 0.3, 0.1 + 0.3 * shift, 0.1 * shift))
    missing = rng.random(rows) < 0.02 + 0.1 * shift
    return [
        {"age": None if gone else float(age), "visits": int(visited), "plan": str(plan)}
        for age, visited, plan, gone in zip(ages, visits, plans, missing, strict=True)
    ]


def profile(rows: list[dict]) -> modelwatch.ReferenceProfile:
    """The reference of these rows."""
    columns = {name: [row[name] for row in rows] for name in Customer.model_fields}
    columns["age"] = [np.nan if age is None else age for age in columns["age"]]
    return modelwatch.ReferenceProfile.fit(columns)


def make() -> FastAPI:
    """The service, watched."""
    service = FastAPI()
    modelwatch.instrument(service, **MODEL, reference=os.environ["SERVICE_REFERENCE"])

    @service.post("/predict")
    async def predict(rows: list[Customer]) -> list[float]:
        return [0.5 if row.age is None else row.age / 100 for row in rows]

    return service


if "SERVICE_REFERENCE" in os.environ:
    app = make()
