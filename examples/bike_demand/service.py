"""Predicts the rentals of a day's hours. Serve it where train.py has left its files, with two weeks of event time:

MODELWATCH_EVENT_TIME=true MODELWATCH_WINDOW_SECONDS=1209600 MODELWATCH_WINDOW_SLOTS=14 uvicorn service:app
"""

from datetime import datetime

import joblib
import numpy as np
from fastapi import FastAPI
from pydantic import BaseModel

import modelwatch


class Hour(BaseModel):
    """What is known of an hour before it comes."""

    ts: datetime
    season: str
    hour: int
    weekday: int
    holiday: int
    workingday: int
    weather: str | None = None
    temp: float
    atemp: float
    humidity: float
    windspeed: float


app = FastAPI(title="Bike demand")
model, features = joblib.load("model.joblib")  # our own file: never load one that you do not trust

modelwatch.instrument(app, model_name="bike-demand", model_version="2011.1", reference="reference.json")


@app.post("/predict")
def predict(plan: list[Hour]) -> list[float]:
    """Rentals in each of the hours."""
    x = np.array([[getattr(hour, name) for name in features] for hour in plan], dtype=object)
    return model.predict(x).tolist()
