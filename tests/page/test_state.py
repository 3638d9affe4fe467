"""The JSON: what the report and /metrics say, no more and no less, whatever the service is like."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest
from support.paging import REFERENCE, RNG, TABLE, get, make_app

import modelwatch
from modelwatch.metrics.pace import Pace
from modelwatch.page import state_of
from modelwatch.page.state import MOST_FEATURES
from modelwatch.sharing import Sight


def state(app):
    """What the page is told, through the app."""
    answer = get(app)
    assert answer.status == 200
    return answer.json


def model(app):
    [one] = state(app)["models"]
    return one


def drifted_rows(rows=500):
    return {
        "age": RNG.normal(60, 10, rows),
        "plan": RNG.choice(["basic", "pro"], rows),
        "stars": RNG.integers(1, 6, rows),
    }


def test_features_are_those_of_the_report():
    """Every number of a feature is that of the report, worst first, to four digits."""
    app, monitor = make_app()
    monitor.record(drifted_rows(), RNG.random(500))
    drift, report = model(app)["drift"], monitor.report()
    assert [one["name"] for one in drift["features"]] == [feature.name for feature in report.worst_first()]
    assert drift["features"][0]["name"] == "age"
    for one in drift["features"]:
        feature = report[one["name"]]
        assert (one["verdict"], one["n"], one["m"]) == (feature.verdict, feature.n, feature.m)
        assert one["psi"] == pytest.approx(feature.psi, rel=1e-3)
        assert one["noise"] == pytest.approx(feature.psi_critical, rel=1e-3)
        assert one["distance"] == pytest.approx(feature.distance, rel=1e-3)
        assert one["floor"] == pytest.approx(feature.floor, rel=1e-3)
    assert (drift["drifted"], drift["judged"], drift["rows"]) == (1, 4, 500)


def test_requests_are_those_of_the_metrics():
    """Requests by status, rows and latency are what /metrics counts; nothing is said of the last minute at first."""
    app, _ = make_app()
    for _ in range(30):
        assert get(app, "/predict", body={"age": 1.0}).status == 200
    assert get(app, "/predict", body={"age": "old"}).status == 422
    service = model(app)["service"]
    assert service["requests"] == 31
    assert (service["statuses"]["success"], service["statuses"]["invalid"]) == (30, 1)
    assert service["latency_so_far"]["count"] == 31
    assert service["rate"] is service["error_share"] is service["latency"] is None


def test_rates_come_from_the_history():
    """Rate, errors and latency are those since the newest snapshot that is a minute old."""
    app, monitor = make_app()
    sharing = app.state.modelwatch._sharing
    get(app, "/predict", body={"age": 1.0})
    sight, now = sharing.sight(), time.time()
    before = state_of(sight, [], now, version="x")["models"][0]["service"]["statuses"]
    points = [
        {"t": now - age, "models": {"churn": {"version": "1", "statuses": dict.fromkeys(before, 0.0), "latency": None,
                                              "rows": rows, "drifted": None, "smoothed": {}}}}
        for age, rows in ((200, -99.0), (80, 1.0 - 40), (65, 1.0 - 26), (20, 1.0 - 3))
    ]  # fmt: skip
    service = state_of(sight, points, now, version="x")["models"][0]["service"]
    assert service["seconds"] == pytest.approx(65, abs=0.1)
    assert service["row_rate"] == pytest.approx(26 / 65, rel=1e-3)
    assert service["rate"] == pytest.approx(1 / 65, rel=1e-3)
    assert monitor.model_name == "churn"


def test_history_is_said_between_snapshots():
    """The history has a rate for each time but the first, and none where the counters began anew."""
    app, _ = make_app()
    sharing = app.state.modelwatch._sharing

    def point(t, requests):
        return {"t": t, "models": {"churn": {"version": "1", "statuses": {"success": requests}, "latency": None,
                                             "rows": None, "drifted": 2, "smoothed": {"age": 0.5}}}}  # fmt: skip

    points = [point(0.0, 0.0), point(15.0, 30.0), point(30.0, 3.0), point(45.0, 18.0)]
    shown = state_of(sharing.sight(), points, 46.0, version="x")["models"][0]
    assert shown["history"]["rate"] == [2.0, None, 1.0]
    assert shown["history"]["drifted"] == [2, 2, 2]
    assert shown["history"]["t"] == [15.0, 30.0, 45.0]


def test_trends_are_of_the_features_that_have_one():
    """A feature's PSI over the last hour has at most 60 values, the last that of now, and gaps where none is known.

    It is the smoothed one, for the noise floor, which is drawn beside it, is a bound of that and not of the other.
    """
    app, monitor = make_app()
    rows = drifted_rows()
    monitor.record({**rows, "plan": np.where(np.arange(500) < 40, "never seen", rows["plan"])}, RNG.random(500))
    sharing = app.state.modelwatch._sharing
    kept = {"version": "1", "reference": REFERENCE.id, "statuses": {}, "latency": None, "rows": None, "drifted": None}
    points = [{"t": float(i), "models": {"churn": {**kept, "smoothed": {"age": 0.1}}}} for i in range(239)]
    [shown] = state_of(sharing.sight(), points, 300.0, version="x")["models"]
    trends = {one["name"]: one["trend"] for one in shown["drift"]["features"]}
    assert len(trends["age"]) == 60
    assert trends["age"][:-1] == [0.1] * 59
    report = monitor.report()
    assert trends["age"][-1] == pytest.approx(report["age"].psi_smoothed, rel=1e-2)
    assert trends["plan"] == [None] * 59 + [pytest.approx(report["plan"].psi_smoothed, rel=1e-2)]
    assert report["plan"].psi > 1.5 * report["plan"].psi_smoothed


def test_a_trend_is_of_one_reference():
    """After a reload the trends begin anew: no line joins what was measured against two references."""
    app, monitor = make_app(min_rows=100)
    history = app.state.modelwatch.page.history
    monitor.record(drifted_rows(), RNG.random(500))
    history.tick()
    other = {name: values[:2_000] for name, values in TABLE.items()}
    monitor.reload(modelwatch.ReferenceProfile.fit(other, prediction="score"))
    monitor.record(drifted_rows(), RNG.random(500))
    trends = {one["name"]: one["trend"] for one in model(app)["drift"]["features"]}
    assert trends["age"][0] is None
    assert trends["age"][-1] > 0.5


def test_too_few_rows_say_nothing():
    """Below the least number of rows there is no statistic, no window and no verdict, but how many rows there are."""
    app, monitor = make_app()
    monitor.record({name: values[:87] for name, values in drifted_rows().items()}, RNG.random(87))
    drift = model(app)["drift"]
    assert (drift["rows"], drift["min_rows"], drift["judged"], drift["drifted"]) == (87, 200, 0, None)
    assert drift["waiting"] == 4
    for one in drift["features"]:
        assert one["verdict"] == "waiting"
        assert one["psi"] is one["noise"] is one["distance"] is one["missing"] is None
        assert one["bins"]["window"] is None
        assert one["bins"]["reference"] is not None


def test_without_a_reference_there_is_no_drift():
    """Without a reference the page says so, and has what the service counts."""
    app, monitor = make_app(reference=None)
    monitor.record({"age": [1.0] * 300}, predictions=["yes"] * 200 + ["no"] * 100)
    one = model(app)
    assert one["reference"] is one["drift"] is one["learning"] is None
    assert one["rows"] == 300
    assert one["predictions"]["classes"] == [["yes", 200.0], ["no", 100.0]]


def test_learning_is_told():
    """While the reference is learnt, the page says how many rows there are of how many."""
    app, monitor = make_app(reference="learn", learn_rows=400)
    monitor.record({"age": [1.0, 2.0] * 60})
    assert model(app)["learning"] == {"rows": 120.0, "wanted": 400, "seconds": 3600.0}


def test_what_is_not_captured_is_told():
    """A feature that no row has brought has that verdict, and nothing else."""
    app, monitor = make_app()
    monitor.record({"age": RNG.normal(40, 10, 300)}, RNG.random(300))
    features = {one["name"]: one for one in model(app)["drift"]["features"]}
    assert features["plan"]["verdict"] == "not captured"
    assert features["plan"]["bins"]["window"] is features["plan"]["psi"] is features["plan"]["drifted"] is None


def test_a_muted_feature_is_shown_without_a_verdict():
    """A feature that a rule mutes has its numbers, and no verdict."""
    app, monitor = make_app(features={"age": modelwatch.FeatureRule(alert=False)})
    monitor.record(drifted_rows(), RNG.random(500))
    [age] = [one for one in model(app)["drift"]["features"] if one["name"] == "age"]
    assert (age["verdict"], age["drifted"]) == ("muted", None)
    assert age["psi"] > 0.5


def test_confidence_and_detectors():
    """Confidence has a histogram, its mean and the share below the threshold; detectors say where they stand."""
    table = {"age": RNG.normal(40, 10, 1_000), "sure": RNG.uniform(0.6, 1.0, 1_000), "score": RNG.random(1_000)}
    app, monitor = make_app(
        reference=modelwatch.ReferenceProfile.fit(table, prediction="score", confidence="sure"), low_confidence=0.7
    )
    monitor.record({"age": [40.0] * 400}, [0.5] * 400, [0.65] * 100 + [0.9] * 300)
    one = model(app)
    assert one["confidence"]["low_share"] == 0.25
    assert one["confidence"]["mean"] == pytest.approx(0.8375, rel=1e-3)
    assert [(detector["signal"], detector["state"]) for detector in one["detectors"]] == [
        ("prediction", 0),
        ("confidence", 0),
    ]


@pytest.mark.swallows
def test_what_is_wrong_with_the_library_is_told():
    """Errors of modelwatch itself, rows that were dropped and what is degraded are on the page."""
    app, monitor = make_app()
    monitor.guard.swallow("scrape", ValueError())
    monitor.engine.lose(7)
    app.state.modelwatch._sharing.publisher.degraded.begin("port", "closed")
    library = state(app)["library"]
    assert library["errors"] == {"scrape": 1}
    assert library["dropped"] == 7
    assert library["degraded"] == ["port"]
    assert library["workers"] == 1


def test_a_new_version_is_what_is_shown():
    """After a reload the page shows the new version and reference, and counts from there."""
    app, monitor = make_app()
    get(app, "/predict", body={"age": 1.0})
    monitor.reload(REFERENCE, model_version="2")
    one = model(app)
    assert (one["version"], one["reference"]["id"], one["drift"]["rows"]) == ("2", REFERENCE.id, 0)
    assert one["rows"] == 0
    monitor.unloaded()
    assert model(app)["loaded"] is False


def test_all_models_of_the_app_are_shown():
    """Each model of an app has its part, in the order in which they were added."""
    app, _ = make_app()
    settings = modelwatch.Settings(page=True)
    modelwatch.instrument(app, model_name="other", routes=["/other"], settings=settings)
    assert [(one["name"], one["drift"] is None) for one in state(app)["models"]] == [("churn", False), ("other", True)]


def test_names_are_text_on_one_line():
    """A name that holds markup or a line break comes as text that is short and on one line."""
    hostile = "<script>alert(1)</script>\n" + "x" * 250
    table = {hostile: RNG.normal(0, 1, 500), "plan": RNG.choice(["<img src=x onerror=alert(1)>", "b"], 500)}
    app, _ = make_app(reference=modelwatch.ReferenceProfile.fit(table))
    names = [one["name"] for one in model(app)["drift"]["features"]]
    assert max(map(len, names)) <= 200
    assert any(name.startswith("<script>alert(1)</script>?") for name in names)


def test_five_hundred_features_are_a_bounded_page():
    """The page of 500 features has under 600 kB, 140 kB compressed; of more, the worst are shown, the rest counted."""
    rng = np.random.default_rng(5)
    table = {f"feature_{i:03}": rng.normal(i, 1 + i, 1_000) for i in range(MOST_FEATURES + 20)}
    app, monitor = make_app(reference=modelwatch.ReferenceProfile.fit(table))
    monitor.record({name: values[:400] + 3 * (name == "feature_007") * (1 + 7) for name, values in table.items()})
    answer, packed = get(app), get(app, accept_encoding="gzip")
    drift = answer.json["models"][0]["drift"]
    assert len(drift["features"]) == MOST_FEATURES
    assert drift["left_out"] == 20
    assert drift["features"][0]["name"] == "feature_007"
    assert len(answer.raw) < 600_000
    assert len(packed.raw) < 140_000


def test_a_page_is_made_with_pauses():
    """Between features the thread that makes the page lets others go first."""
    app, monitor = make_app()
    monitor.record(drifted_rows())
    looks = []

    class Watched(Pace):
        def look(self):
            looks.append(1)

    state_of(app.state.modelwatch._sharing.sight(), [], 1.0, version="x", pace=Watched())
    assert len(looks) >= len(REFERENCE.names)


def test_it_is_json():
    """No NaN and no infinity is in it, not even with values that are huge or nothing."""
    table = {"x": [1e308, -1e308, 1.0, 2.0] * 200, "y": [np.nan] * 799 + [1.0]}
    app, monitor = make_app(reference=modelwatch.ReferenceProfile.fit(table))
    monitor.record({"x": [1e308, -1e308, np.inf, np.nan] * 100, "y": [np.nan] * 400}, predictions=[1e308] * 400)
    json.loads(get(app).text, parse_constant=pytest.fail)


def test_a_sight_without_models():
    """An app in which nothing is watched has a page without models."""
    assert state_of(Sight([], []), [], 1.0, version="x")["models"] == []
