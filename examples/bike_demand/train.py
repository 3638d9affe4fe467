"""Trains the model on the first quarter of 2011; writes model.joblib and reference.json into the current directory."""

import csv
import gzip
from pathlib import Path

import joblib
import numpy as np
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OrdinalEncoder

import modelwatch

DATA = Path(__file__).with_name("bike_demand.csv.gz")
CATEGORIES = ["season", "weather"]
NUMBERS = ["hour", "weekday", "holiday", "workingday", "temp", "atemp", "humidity", "windspeed"]
FEATURES = CATEGORIES + NUMBERS

with gzip.open(DATA, "rt", newline="") as file:
    rows = [row for row in csv.DictReader(file) if row["ts"] < "2011-04-01"]
table = {"ts": [row["ts"] for row in rows]}
table |= {name: [row[name] or None for row in rows] for name in CATEGORIES}
table |= {name: [float(row[name]) for row in rows] for name in [*NUMBERS, "count"]}

model = make_pipeline(
    make_column_transformer(
        (OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1), [FEATURES.index(n) for n in CATEGORIES]),
        remainder="passthrough",
    ),
    HistGradientBoostingRegressor(random_state=0),
)
x = np.array([table[name] for name in FEATURES], dtype=object).T
y = np.array(table["count"])

# What the model says of rows that it was trained on is too good: the reference takes what it says of others.
table["prediction"] = cross_val_predict(model, x, y, cv=5)
joblib.dump((model.fit(x, y), FEATURES), "model.joblib")

reference = modelwatch.ReferenceProfile.fit(
    table, features=FEATURES, prediction="prediction", target="count", time="ts"
)
reference.save("reference.json")

error = np.abs(table["prediction"] - y).mean()
print(f"Trained on {len(rows):,} rows of 2011-01-01 to 2011-03-31; it is off by {error:.1f} rentals on average.")
