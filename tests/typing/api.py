"""What users write, as a type checker sees it. Nothing here runs: `make check` reads it.

Each wrong use is ignored with its code. If it were accepted, the ignore would be unused, and that is an error.
"""

from __future__ import annotations

from pathlib import Path
from typing import assert_type

import numpy as np
from fastapi import FastAPI

import modelwatch

app = FastAPI()
reference = modelwatch.ReferenceProfile.fit({"age": [1.0, 2.0]}, categorical=["age"])
assert_type(reference, modelwatch.ReferenceProfile)
assert_type(reference + reference, modelwatch.ReferenceProfile)
assert_type(modelwatch.ReferenceProfile.load(Path("reference.json")), modelwatch.ReferenceProfile)

monitor = modelwatch.instrument(app, model_name="m", reference="reference.json", routes=["/predict"])
assert_type(monitor, modelwatch.Monitor)
assert_type(monitor.report(), modelwatch.DriftReport)
assert_type(monitor.report()["age"].psi, float | None)
assert_type(monitor.report().drifted, list[str])
assert_type(modelwatch.compare(reference, reference.count({"age": [1.0]})), modelwatch.DriftReport)
assert_type(modelwatch.psi(np.array([1, 2]), np.array([2, 1])), float)


@app.post("/predict")
@monitor.predict(features="age", prediction=lambda result: result["y"])
async def predict(age: float) -> dict[str, float]:
    return {"y": age}


modelwatch.Settings(alpha=0.01, window_rows=500)
modelwatch.FeatureRule(alert=False)

modelwatch.instrument(app)  # type: ignore[call-arg]
modelwatch.instrument(app, "m")  # type: ignore[call-arg]
modelwatch.instrument("app", model_name="m")  # type: ignore[arg-type]
modelwatch.instrument(app, model_name="m", reference=7)  # type: ignore[arg-type]
modelwatch.Settings(alfa=0.01)  # type: ignore[call-arg]
modelwatch.Settings(window_rows="many")  # type: ignore[arg-type]
modelwatch.FeatureRule(floor="high")  # type: ignore[arg-type]
modelwatch.PageHinkley(0.005)  # type: ignore[call-arg]
modelwatch.ADWIN().update("x")  # type: ignore[arg-type]
monitor.record({"age": 1.0}, ids=None, model_version=2)  # type: ignore[arg-type]
modelwatch.compare(reference)  # type: ignore[call-arg]
reference.save()  # type: ignore[call-arg]
monitor.model_version = "2"  # type: ignore[misc]
