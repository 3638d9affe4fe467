"""The doctor: what would be watched of an app, without serving it."""

from __future__ import annotations

import logging
import sys

import pytest
from fastapi import FastAPI
from pydantic import BaseModel
from starlette.applications import Starlette

import modelwatch
from modelwatch.cli import main
from modelwatch.doctor import examine
from modelwatch.exceptions import ConfigurationError, ReferenceFileError


class Trip(BaseModel):
    distance: float
    passengers: int
    pay_ment: str


class Near(BaseModel):
    distance: float


class Price(BaseModel):
    fare: float
    probability: float


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A directory with reference.json of three features, and a module `served` whose `app` a test fills."""
    monkeypatch.chdir(tmp_path)
    table = {
        "distance": [1.0, 2.0, 3.0] * 200,
        "passengers": [1, 2, 3] * 200,
        "payment": ["cash", "card", "card"] * 200,
    }
    table |= {"fare": [3.0, 4.0, 5.0] * 200}
    modelwatch.ReferenceProfile.fit(table, prediction="fare").save(tmp_path / "reference.json")
    module = type(sys)("served")
    module.app = FastAPI()
    monkeypatch.setitem(sys.modules, "served", module)
    return module


def predicting(app, path="/predict", model=Trip):
    def predict(trip):
        return {"fare": 1.0, "probability": 0.5}

    predict.__annotations__ = {"trip": model, "return": Price}
    app.post(path)(predict)


def test_an_app_that_is_not_instrumented(here):
    """The doctor instruments it, and tells rows, features, the nearest name, and where the answer is."""
    predicting(here.app)
    found = examine("served:app", reference="reference.json", model_name="taxi")
    [endpoint] = found.endpoints
    assert (endpoint.template, endpoint.feeds) == ("/predict", True)
    assert endpoint.matched == ("distance", "passengers")
    assert endpoint.unmatched == {"payment": "pay_ment"}
    assert (endpoint.prediction, endpoint.confidence) == ("fare", "probability")
    assert found.feeding
    assert found.passed_over == ()
    text = str(found)
    assert "does not call modelwatch.instrument" in text
    assert "model    taxi, reference " in text
    assert "2 of 3: distance, passengers" in text
    assert "payment (nearest: pay_ment)" in text
    assert "metrics  /metrics" in text
    assert text.endswith("Rows of /predict are watched.")


def test_an_app_that_is(here):
    """What its own call says is told: model, version, reference; and another reference may be tried."""
    predicting(here.app)
    monitor = modelwatch.instrument(here.app, model_name="taxi", model_version="7")
    found = examine("served:app")
    assert found.instrumented
    assert found.models == (("model", "taxi 7, no reference: no drift is watched"),)
    assert found.endpoints[0].matched == ("distance", "passengers", "pay_ment")
    tried = examine("served:app", reference="reference.json")
    assert tried.endpoints[0].unmatched == {"payment": "pay_ment"}
    assert monitor.inputs == ("distance", "passengers", "payment")


def test_no_endpoint_feeds_the_window(here):
    """Endpoints with too few of the features are told apart, with what they lack: names often differ."""
    predicting(here.app, model=Near)
    found = examine("served:app", reference="reference.json")
    assert not found.feeding
    assert found.endpoints == ()
    [line] = found.passed_over
    assert line.startswith("POST /predict: 1 of 3 features of model; not found: passengers, payment")
    assert "No endpoint of model 'model' was found" in str(found)


def test_only_requests_will_show(here):
    """An endpoint that takes a dict is not known to feed the window, and no more is claimed."""

    @here.app.post("/predict")
    def predict(body: dict):
        return 1.0

    found = examine("served:app", reference="reference.json")
    assert not found.feeding
    assert "requests will show" in str(found)


def test_a_chosen_endpoint_without_rows(here):
    """An endpoint that was chosen and shows no rows feeds nothing; its remedy is told once, not again as a note."""

    @here.app.post("/predict")
    def predict():
        return 1.0

    modelwatch.instrument(here.app, model_name="taxi", reference="reference.json", routes=["/predict"])
    found = examine("served:app")
    assert not found.feeding
    assert found.notes == ()
    assert str(found).count("@monitor.predict") == 1


def test_an_app_of_starlette(here):
    """Of a Starlette app no endpoint can be known; it is told to record."""
    here.app = Starlette()
    found = examine("served:app", reference="reference.json")
    assert not found.feeding
    assert "monitor.record()" in str(found)


def test_several_models(here):
    """Every model and its endpoints are told, and a reference is for the one that is named."""
    predicting(here.app, "/a")
    predicting(here.app, "/b")
    modelwatch.instrument(here.app, model_name="a", routes=["/a"])
    modelwatch.instrument(here.app, model_name="b", routes=["/b"])
    found = examine("served:app", reference="reference.json", model_name="b")
    assert [(one.template, one.model_name) for one in found.endpoints] == [("/a", "a"), ("/b", "b")]
    assert [line.partition(",")[0] for _, line in found.models] == ["a", "b"]
    assert ["no reference" in line for _, line in found.models] == [True, False]
    assert "Rows of /a and /b are watched." in str(found)
    with pytest.raises(ConfigurationError, match=r"\['a', 'b'\]. Name one with --model-name"):
        examine("served:app", reference="reference.json")
    with pytest.raises(ConfigurationError, match=r"one of the app's models, \['a', 'b'\], got 'c'"):
        examine("served:app", model_name="c")


def test_a_metrics_route_of_the_app(here):
    """A route that the app has at the metrics' path is kept, and the remedy is told."""
    predicting(here.app)
    here.app.get("/metrics")(lambda: "own")
    assert "choose another with Settings(metrics_path=…)" in examine("served:app").metrics


def test_the_environment(here, monkeypatch):
    """Settings that the environment changes are told, a token is not, and what the code made of them is."""
    monkeypatch.setenv("MODELWATCH_MIN_ROWS", "50")
    monkeypatch.setenv("MODELWATCH_ALPHA", "0.001")  # the default
    monkeypatch.setenv("MODELWATCH_METRICS_TOKEN", "swordfish")
    predicting(here.app)
    modelwatch.instrument(here.app, model_name="taxi", settings=modelwatch.Settings(min_rows=300))
    found = examine("served:app")
    assert [(name, own) for name, _, own in found.environment] == [
        ("MODELWATCH_MIN_ROWS", "300"),
        ("MODELWATCH_METRICS_TOKEN", ""),
    ]
    assert "MODELWATCH_MIN_ROWS=50  (the code says 300)" in str(found)
    assert "swordfish" not in str(found)
    assert "bearer token" in found.metrics


def test_disabled(here, monkeypatch):
    """With MODELWATCH_DISABLED nothing is watched, and that is what is said."""
    monkeypatch.setenv("MODELWATCH_DISABLED", "1")
    predicting(here.app)
    found = examine("served:app", reference="reference.json")
    assert not found.feeding
    assert str(found).endswith("MODELWATCH_DISABLED is set: nothing is watched.")


def test_warnings_are_told_once(here, caplog):
    """What the library warns of is in the diagnosis, and not in the log too; afterwards the log is as it was."""
    predicting(here.app, "/a")
    predicting(here.app, "/b")
    with caplog.at_level(logging.WARNING):
        found = examine("served:app", reference="reference.json")
    assert [note[:12] for note in found.notes] == ["2 endpoints "]
    assert caplog.records == []
    logger = logging.getLogger("modelwatch")
    assert logger.propagate
    assert logger.handlers == []


def test_a_reference_that_cannot_be_read(here):
    """A missing reference is the error that a start would bring."""
    with pytest.raises(ReferenceFileError, match="missing"):
        examine("served:app", reference="missing.json")


@pytest.mark.parametrize(("model", "code"), [(Trip, 0), (Near, 1)])
def test_the_verb(here, capsys, model, code):
    """`modelwatch doctor` exits with 0 if an endpoint feeds the window, with 1 if none does."""
    predicting(here.app, model=model)
    with pytest.raises(SystemExit) as exit_:
        main(["doctor", "served:app", "--reference", "reference.json", "--model-name", "taxi"])
    assert exit_.value.code == code
    assert "app      served:app" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["nowhere:app"], ["served"], ["served:app", "--reference", "missing.json"]])
def test_the_verb_cannot_look(here, capsys, arguments):
    """What cannot be examined is exit code 2 and a sentence on stderr."""
    with pytest.raises(SystemExit) as exit_:
        main(["doctor", *arguments])
    assert exit_.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("modelwatch: Expected ")
