"""The object that users hold: rows in, reports out, and no call of it ever harms the service."""

from __future__ import annotations

import asyncio
import contextvars
import json
import threading
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest

import modelwatch.engine
from modelwatch._types import ABSENT
from modelwatch.exceptions import ConfigurationError, ReferenceFileError, RowsError
from modelwatch.files import ReferenceProfile
from modelwatch.monitor import Monitor
from modelwatch.settings import FeatureRule, Settings


class Still:
    """A pulse that never beats: nothing happens in these tests but what they do."""

    generation = 1

    def know(self, ticked):
        pass

    add = know

    def wake(self):
        pass


@pytest.fixture(autouse=True)
def still(monkeypatch):
    """No background thread."""
    monkeypatch.setattr(modelwatch.engine, "PULSE", Still())


def table_of(seed=0, *, rows=1000, shift=0.0):
    random = np.random.default_rng(seed)
    return {
        "age": random.normal(shift, 1.0, rows),
        "plan": [f"k{i}" for i in random.integers(0, 4, rows)],
        "p": random.normal(size=rows),
        "q": random.random(rows),
    }


@pytest.fixture(scope="module")
def reference():
    """A numeric and a categorical feature, a prediction and a confidence."""
    return ReferenceProfile.fit(table_of(), prediction="p", confidence="q")


@pytest.fixture(scope="module")
def other():
    """Another reference of the same features, in another order."""
    table = table_of(1, shift=1.0)
    return ReferenceProfile.fit({name: table[name] for name in ("plan", "age", "p")}, prediction="p")


def watch(reference=None, version="1", **options):
    clock = options.pop("clock", lambda: 1e6)
    return Monitor("m", version, reference=reference, settings=Settings(**options), clock=clock, wall=clock)


def outcomes(monitor):
    """{outcome: rows} of what is not 0."""
    cells = [c for c in monitor.series.cells() if c.metric == "modelwatch_rows_total"]
    return {cell.labels[0]: cell.values[0] for cell in cells if cell.values[0]}


def counter(monitor, metric):
    return {cell.labels: cell.values[0] for cell in monitor.series.cells() if cell.metric == metric}


def record_table(monitor, table):
    features = {name: table[name] for name in ("age", "plan")}
    monitor.record(features, table["p"], table["q"])


# Rows.


@pytest.mark.parametrize(
    ("value", "age", "plan"),
    [
        (None, "missing", "missing"),
        (float("nan"), "missing", "missing"),
        (np.float32("nan"), "missing", "missing"),
        (pd.NA, "missing", "missing"),
        (pd.NaT, "missing", "missing"),
        (Decimal("NaN"), "missing", "missing"),
        (ABSENT, "missing", "missing"),
        (float("inf"), "non_finite", "unseen_category"),
        (-np.inf, "non_finite", "unseen_category"),
        ("1.5", "type", "unseen_category"),
        ("", "type", "unseen_category"),
        (b"bytes", "type", "unseen_category"),
        (10**400, "type", "unseen_category"),
        (-(10**5000), "type", "type"),
        ([1.0], "type", "type"),
        ({"x": 1.0}, "type", "type"),
        ((), "type", "type"),
        (np.array([1.0, 2.0]), "type", "type"),
        (object, "type", "type"),
        (np.datetime64("2020-01-01"), "type", "unseen_category"),
        (1e9, "out_of_range", "unseen_category"),
        (True, None, "unseen_category"),
        (np.bool_(1), None, "unseen_category"),
        (np.int8(1), None, "unseen_category"),
        (np.float16(0.5), None, "unseen_category"),
        (Decimal("0.5"), None, "unseen_category"),
        ("k1", "type", None),
        (np.str_("k1"), "type", None),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("shape", ["dict", "list", "columns", "array"])
def test_bad_values_cost_only_themselves(reference, value, age, plan, shape):
    """A bad value is counted by its reason; the row's other features, and the other rows, count as ever."""
    monitor = watch(reference)
    rows = [{"age": value, "plan": "k1"}, {"age": 0.5, "plan": value}, {"age": 0.5, "plan": "k1"}]
    if shape == "dict":
        for row in rows:
            monitor.record(row, predictions=0.1, confidences=0.5)
    else:
        features = rows
        if shape == "columns":
            features = {name: [row[name] for row in rows] for name in ("age", "plan")}
        elif shape == "array":
            features = np.empty((3, 2), dtype=object)
            for i, row in enumerate(rows):
                features[i, 0], features[i, 1] = row["age"], row["plan"]
        monitor.record(features, predictions=[0.1] * 3, confidences=[0.5] * 3)
    monitor.flush()
    expected = {("1", name, reason): 1 for name, reason in (("age", age), ("plan", plan)) if reason}
    assert {key: rows for key, rows in monitor.engine.epochs.violations().items() if rows} == expected
    assert outcomes(monitor) == {"recorded": 3}
    assert monitor.report().rows == 3


@pytest.mark.parametrize(
    "value", [None, float("nan"), "high", 10**400, [1], True, np.float32(0.5), Decimal("0.5"), np.array([0.1, 0.9])],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_bad_predictions_cost_only_themselves(reference, value):
    """Whatever a model returns, the features of its rows are counted."""
    monitor = watch(reference)
    monitor.record([{"age": 0.5, "plan": "k1"}] * 2, predictions=[value, 0.1], confidences=[value, 0.5])
    monitor.flush()
    assert outcomes(monitor) == {"recorded": 2}
    assert monitor.engine.epoch.rows == 2


def test_text_is_no_confidence(reference):
    """A confidence that is no number is counted by its reason, as in every other feature."""
    monitor = watch(reference)
    monitor.record([{"age": 0.5, "plan": "k1"}] * 3, [0.1] * 3, ["high", None, 2.0])
    monitor.flush()
    found = {key: rows for key, rows in monitor.engine.epochs.violations().items() if rows}
    assert found == {("1", "confidence", reason): 1 for reason in ("type", "missing", "out_of_range")}


def test_a_model_of_one_column(reference):
    """Predictions of shape (rows, 1), as many libraries return them, are counted as numbers."""
    monitor = watch(reference)
    monitor.record(np.array([[0.5, 1.0]] * 3, dtype=object), np.full((3, 1), 0.1), np.full((3, 1), 0.5))
    monitor.flush()
    assert counter(monitor, "model_rows_total") == {("m", "1"): 3}
    assert not any(rows for (_, name, _), rows in monitor.engine.epochs.violations().items() if name != "plan")


@pytest.mark.swallows
@pytest.mark.parametrize(
    ("features", "predictions", "rows"),
    [
        (np.zeros((7, 3)), None, 7),
        ([[0.5, "k1"], [0.5]], None, 2),
        ({"age": [0.5, 0.5], "plan": ["k1"]}, None, 2),
        ([{"age": 0.5}, None, "text"], None, 3),
        (None, None, 1),
        (7, None, 1),
        ([{"age": 0.5}] * 5, [0.1] * 4, 5),
        (np.zeros((5, 2)), [0.1] * 6, 5),
        ({"age": 0.5}, [0.1, 0.2], 1),
    ],
    ids=["wide", "ragged", "uneven", "no rows", "nothing", "number", "few predictions", "many", "one row"],
)
def test_what_cannot_be_read_is_dropped(reference, swallowed_errors, features, predictions, rows):
    """It never raises; the rows are lost, counted, and the loss is told as an error at stage "record"."""
    monitor = watch(reference)
    monitor.record(features, predictions)
    monitor.flush()
    assert outcomes(monitor) == {"dropped": rows}
    assert [(stage, type(error)) for stage, error in swallowed_errors] == [("record", RowsError)]
    assert monitor.guard.errors["record"] == 1
    monitor.record({"age": 0.5})
    monitor.flush()
    assert outcomes(monitor) == {"dropped": rows, "recorded": 1}


class Broken:
    """Raises at whatever is asked of it."""

    def __getattr__(self, name):
        raise RuntimeError("broken")

    def __len__(self):
        raise RuntimeError("broken")


@pytest.mark.swallows
def test_objects_that_raise(reference):
    """Objects that raise at every touch cannot get an error out of record."""
    monitor = watch(reference)
    monitor.record(Broken())
    monitor.record({"age": 0.5}, predictions=Broken())
    monitor.record([{"age": 0.5}], timestamps=Broken(), ids=Broken())
    monitor.flush()
    assert outcomes(monitor) == {"dropped": 3}


@pytest.mark.parametrize("features", [[], (), np.empty((0, 2)), {"age": [], "plan": []}])
@pytest.mark.parametrize("with_reference", [True, False])
def test_an_empty_batch_is_nothing(reference, features, with_reference):
    """No rows are no error, and no row; neither before there is a reference nor after."""
    if not with_reference and isinstance(features, np.ndarray):
        features = []
    monitor = watch(reference if with_reference else None)
    monitor.record(features, predictions=[], confidences=[])
    monitor.flush()
    assert outcomes(monitor) == {}
    monitor.record({"age": 0.5, "plan": "k1"})
    monitor.flush()
    assert outcomes(monitor) == {"recorded": 1}


def test_nothing_of_the_users_is_touched(reference):
    """Recording does not change what was handed in."""
    row, rows, array = {"age": 0.5}, [{"plan": "k1"}], np.array([[0.5, 1.0]])
    monitor = watch(reference)
    for features in (row, rows, array):
        monitor.record(features)
    monitor.flush()
    assert (row, rows, array.tolist()) == ({"age": 0.5}, [{"plan": "k1"}], [[0.5, 1.0]])


def test_more_rows_than_may_wait(reference):
    """Beyond the buffer's limit rows are dropped and counted; what waited is not lost."""
    monitor = watch(reference, buffer_rows=256)
    for _ in range(400):
        monitor.record({"age": 0.5, "plan": "k1"})
    assert monitor.engine.buffer.waiting == 256
    monitor.record([{"age": 0.5}] * 1000)
    monitor.flush()
    assert outcomes(monitor) == {"recorded": 256, "dropped": 1144}


def test_the_version_of_rows(reference):
    """Rows may say of which version they are; else they are of the monitor's."""
    monitor = watch(reference)
    monitor.record([{"age": 0.5}] * 2, model_version="7")
    monitor.record({"age": 0.5})
    monitor.flush()
    assert counter(monitor, "model_rows_total") == {("m", "1"): 1, ("m", "7"): 2}


def test_ids_are_checked(reference):
    """Ids that are one for each row do no harm."""
    monitor = watch(reference)
    monitor.record([{"age": 0.5}] * 2, ids=["a", "b"])
    monitor.flush()
    assert outcomes(monitor) == {"recorded": 2}


# Reports.


def test_the_report(reference):
    """Rows like the reference's drift nowhere; rows that moved, and a category never seen, are found."""
    monitor = watch(reference)
    record_table(monitor, table_of(5))
    report = monitor.report()
    assert (report.rows, report.drifted, report.seconds) == (1000, [], 0.0)
    assert (report.model_name, report.model_version, report.reference) == ("m", "1", reference.id)
    moved = table_of(6, shift=1.0)
    moved["plan"] = ["new"] * 1000
    record_table(monitor, moved)
    assert sorted(monitor.report().drifted) == ["age", "plan"]


def test_below_the_least_rows_nothing_is_said(reference):
    """With one row less than needed there is no verdict, with that row there is."""
    monitor = watch(reference)
    record_table(monitor, table_of(5, rows=199, shift=2.0))
    assert {feature.verdict for feature in monitor.report().features.values()} == {"waiting"}
    monitor.record({"age": 2.0, "plan": "k1"}, 0.1, 0.5)
    assert monitor.report().features["age"].drifted


def test_without_a_reference():
    """There is a report, without features."""
    monitor = watch()
    monitor.record([{"age": 0.5}] * 300)
    report = monitor.report()
    assert (report.rows, report.drifted, dict(report.features)) == (0, [], {})
    assert monitor.inputs is None
    assert monitor.prediction_column is None


def test_the_window_forgets(reference, clock):
    """After the longest window nothing is left of the rows."""
    monitor = watch(reference, clock=clock)
    record_table(monitor, table_of(5, shift=2.0))
    assert "age" in monitor.report().drifted
    clock.advance(90_000.0)
    assert monitor.report().rows == 0
    assert monitor.report().drifted == []


def test_a_feature_that_never_comes(reference):
    """A feature that no row brought has no verdict, and is not "100 % missing"; when it comes it has one."""
    monitor = watch(reference)
    table = table_of(5)
    monitor.record({"age": table["age"]}, table["p"], table["q"])
    report = monitor.report()
    plan = report.features["plan"]
    assert (plan.captured, plan.verdict, plan.drifted) == (False, "not captured", None)
    assert report.drifted == []
    monitor.record({"age": 0.5, "plan": "k1"})
    assert monitor.report().features["plan"].captured


def test_rules(reference):
    """Rules of single features come from the settings; one for a feature that does not exist is refused by name."""
    monitor = watch(reference, features={"age": FeatureRule(alert=False)})
    record_table(monitor, table_of(5, shift=2.0))
    assert monitor.report().features["age"].verdict == "muted"
    with pytest.raises(ConfigurationError, match=r"'agee'.*Did you mean 'age'"):
        watch(reference, features={"agee": FeatureRule(alert=False)})


def test_flush_counts_what_was_recorded(reference):
    """Every row recorded before is counted when it returns, by whichever thread it was."""
    monitor = watch(reference)
    threads = [threading.Thread(target=monitor.record, args=({"age": 0.5},)) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    monitor.flush()
    assert monitor.engine.epoch.rows == 20


def test_areport(reference):
    """A coroutine gets the same report, and the loop goes on meanwhile: it is computed in another thread."""
    monitor = watch(reference)
    record_table(monitor, table_of(5, shift=2.0))
    computing = []
    read = monitor.engine.read

    def spy(others):
        computing.append(threading.current_thread())
        return read(others)

    monitor.engine.read = spy
    report = asyncio.run(monitor.areport())
    assert report.drifted == monitor.report().drifted
    assert computing[0] is not threading.current_thread()


def test_reports_while_eight_threads_record(reference):
    """Counts are exact in the end, and never more in a report than were recorded."""
    monitor = watch(reference)

    def work():
        for i in range(100):
            monitor.record([{"age": 0.5, "plan": "k1"}] * (i % 3))
            monitor.record({"age": None, "plan": "new"}, 0.1, 0.5)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    seen = [0]
    while any(thread.is_alive() for thread in threads):
        seen.append(monitor.report().rows)
        assert seen[-1] <= 8 * 199
    for thread in threads:
        thread.join()
    assert seen == sorted(seen)
    assert monitor.report().rows == 8 * 199
    assert outcomes(monitor) == {"recorded": 8 * 199}
    violations = monitor.engine.epochs.violations()
    assert violations["1", "age", "missing"] == violations["1", "plan", "unseen_category"] == 800


def test_errors_of_threads_are_not_lost(reference):
    """Rows that several threads lose at once are all counted as lost."""
    monitor = watch(reference)

    def lose():
        for _ in range(20_000):
            monitor.engine.lose(1)

    threads = [threading.Thread(target=lose) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    monitor.flush()
    assert outcomes(monitor) == {"dropped": 160_000}


# Reload.


def test_reload(reference, other, tmp_path):
    """Another reference and version are in force at once, from an object or a file; the window begins anew."""
    path = tmp_path / "other.json"
    other.save(path)
    monitor = watch(reference)
    record_table(monitor, table_of(5))
    assert (monitor.engine.source, monitor.inputs) == ("object", ("age", "plan"))
    monitor.reload(path, model_version="2")
    assert (monitor.engine.source, monitor.inputs, monitor.model_version) == ("file", ("plan", "age"), "2")
    report = monitor.report()
    assert (report.rows, report.reference, report.model_version) == (0, other.id, "2")
    monitor.record(np.array([["k1", 0.5]], dtype=object), 0.1)
    monitor.flush()
    violations = {key: rows for key, rows in monitor.engine.epochs.violations().items() if key[0] == "2"}
    assert violations == dict.fromkeys(violations, 0)
    assert (monitor.prediction_column, monitor.confidence_column) == ("p", None)


@pytest.mark.parametrize("bad", ["missing.json", "garbage.json", "rules"])
def test_a_failed_reload_changes_nothing(reference, other, tmp_path, bad):
    """The old reference, its source, version and window stay; the failure is kept until a reload succeeds."""
    (tmp_path / "garbage.json").write_text(json.dumps({"format": "modelwatch reference"}))
    monitor = watch(reference, features={"confidence": FeatureRule(floor=0.2)})
    record_table(monitor, table_of(5))
    before = monitor.report()
    given, error = (other, ConfigurationError) if bad == "rules" else (tmp_path / bad, ReferenceFileError)
    with pytest.raises(error):
        monitor.reload(given, model_version="2")
    after = monitor.report()
    assert monitor.reload_failed
    assert (monitor.engine.source, monitor.model_version, monitor.inputs) == ("object", "1", ("age", "plan"))
    assert (after.rows, after.reference) == (before.rows, before.reference)
    monitor.reload(reference)
    assert not monitor.reload_failed


def test_a_failed_reload_does_not_stop_learning(tmp_path):
    """Who learns goes on learning when a file that was to replace it cannot be read."""
    monitor = watch("learn", learn_rows=200, learn_seconds=0)
    with pytest.raises(ReferenceFileError):
        monitor.reload(tmp_path / "missing.json")
    monitor.record({"age": np.arange(200.0) % 7})
    monitor.engine.tick()
    assert monitor.inputs == ("age",)


def test_a_reload_ends_learning(reference):
    """Who is given a reference learns none."""
    monitor = watch("learn", learn_rows=200, learn_seconds=0)
    monitor.record({"age": np.arange(200.0) % 7})
    monitor.reload(reference)
    assert monitor.engine.learner is None
    monitor.engine.tick()
    assert (monitor.engine.epoch.profile, monitor.engine.source, monitor.engine.learner) == (reference, "object", None)


def test_the_buckets_of_predictions_survive(reference):
    """A reload to a reference with other values of the prediction touches no other metric's cells."""
    few = ReferenceProfile.fit({"age": [1.0, 2.0] * 50, "p": [1.5, 2.5] * 50}, prediction="p")
    monitor = watch(few)
    monitor.record({"age": [0.5] * 10}, [1.5] * 10)
    monitor.flush()
    beside = monitor.series.counter("beside")
    monitor.reload(reference)
    monitor.record({"age": np.zeros(1000)}, np.linspace(-3, 3, 1000))
    monitor.flush()
    assert outcomes(monitor) == {"recorded": 1010}
    assert monitor.series.values[beside] == 0


def test_the_window_becomes_the_reference(reference):
    """A profile of the window has its rows and the reference's cells, and what drifted before is normal after."""
    monitor = watch(reference)
    record_table(monitor, table_of(5, shift=2.0))
    assert monitor.report().drifted == ["age"]
    profile = monitor.reference_from_window()
    assert (profile.hash, profile.rows) == (reference.hash, 1000)
    monitor.reload(profile)
    record_table(monitor, table_of(5, shift=2.0))
    report = monitor.report()
    assert report.drifted == []
    assert [report.features[name].psi for name in report.features] == [pytest.approx(0.0)] * 4
    assert [report.features[name].ks_statistic for name in ("age", "prediction")] == [0.0, 0.0]
    assert profile.feature("age").mean == pytest.approx(2.0, abs=0.5)
    assert (profile + reference).rows == 2000


def test_an_empty_window_is_no_reference(reference):
    """Without rows, or without a reference, there is none to make."""
    for monitor in (watch(reference), watch()):
        with pytest.raises(RowsError, match="Record some first"):
            monitor.reference_from_window()


# Learning.


def test_learn(tmp_path, clock):
    """The first rows become the reference after their time, are written, and loaded by the next monitor."""
    path = tmp_path / "learnt.json"
    options = {"learn_rows": 500, "learn_seconds": 60, "learn_path": str(path)}
    monitor = watch("learn", clock=clock, **options)
    table = table_of(5, rows=600)
    record_table(monitor, table)
    monitor.engine.tick()
    assert (monitor.inputs, outcomes(monitor), path.exists()) == (None, {"learning": 600}, False)
    clock.advance(60.0)
    record_table(monitor, table)
    monitor.engine.tick()
    assert (monitor.inputs, monitor.engine.source) == (("age", "plan"), "learned")
    assert outcomes(monitor) == {"learning": 1200}
    record_table(monitor, table_of(6, rows=600, shift=2.0))
    assert monitor.report().drifted == ["age"]
    after = watch("learn", clock=clock, **options)
    assert (after.engine.source, after.engine.learner, after.inputs) == ("file", None, ("age", "plan"))
    assert after.engine.epoch.profile == monitor.engine.epoch.profile


def test_a_damaged_learnt_file_is_refused(tmp_path):
    """A path that exists is loaded, not learnt again over whatever is there."""
    path = tmp_path / "learnt.json"
    path.write_text("{")
    with pytest.raises(ReferenceFileError, match=r"learnt\.json"):
        watch("learn", learn_path=str(path))
    assert path.read_text() == "{"


# The rest.


def test_ignored_rows(reference):
    """Rows within `ignore` are counted as ignored, and are in no window, class or sum; of this monitor alone."""
    monitor, beside = watch(reference), watch(reference)
    with monitor.ignore():
        assert monitor.ignoring()
        with monitor.ignore():
            monitor.record([{"age": 0.5}] * 2, predictions=[0.1] * 2)
        beside.record({"age": 0.5})
        monitor.record({"age": 0.5})
    assert not monitor.ignoring()
    monitor.record({"age": 0.5})
    monitor.flush()
    beside.flush()
    assert outcomes(monitor) == {"ignored": 3, "recorded": 1}
    assert outcomes(beside) == {"recorded": 1}
    assert counter(monitor, "model_rows_total") == {("m", "1"): 1}


def test_ignoring_ends_with_an_error(reference):
    """An error within passes through, and the next rows count."""
    monitor = watch(reference)
    with pytest.raises(KeyError), monitor.ignore():
        raise KeyError
    assert not monitor.ignoring()


def test_ignoring_is_of_one_task(reference):
    """A warm-up in one task does not hide the rows of another."""
    monitor = watch(reference)

    async def warm_up(started, done):
        with monitor.ignore():
            started.set()
            await done.wait()
            monitor.record({"age": 0.5})

    async def main():
        started, done = asyncio.Event(), asyncio.Event()
        task = asyncio.create_task(warm_up(started, done))
        await started.wait()
        monitor.record({"age": 0.5})
        done.set()
        await task

    asyncio.run(main())
    monitor.flush()
    assert outcomes(monitor) == {"ignored": 1, "recorded": 1}


def test_committed_rows(reference):
    """Rows captured from a request count like recorded ones; ignored if they were."""
    monitor = watch(reference)
    monitor.commit(("age", "plan"), [(0.5, "k1"), (None, ABSENT)], [0.1, 0.2], [0.5, 0.5])
    monitor.commit(("age", "plan"), [(0.5, "k1")], None, None, ignored=True)
    monitor.flush()
    assert outcomes(monitor) == {"recorded": 2, "ignored": 1}
    assert monitor.engine.epochs.violations()["1", "age", "missing"] == 1


def test_predict_only_marks(reference):
    """The function itself comes back, with its parts beside it."""
    monitor = watch(reference)

    def endpoint(payload):
        return payload

    marked = monitor.predict(features="payload.rows", prediction="score")(endpoint)
    assert marked is endpoint
    parts = endpoint.__modelwatch__
    assert (parts.monitor, parts.features, parts.prediction, parts.confidence) == (
        monitor,
        "payload.rows",
        "score",
        None,
    )


def test_loaded_and_unloaded(reference, clock):
    """What is loaded, since when, and what no longer is; another version counts apart."""
    monitor = watch(reference, clock=clock)
    assert (monitor.loads.states, monitor.loads.time) == ({}, None)
    monitor.loaded()
    clock.advance(5.0)
    monitor.loaded("2")
    assert (monitor.model_version, monitor.loads.states, monitor.loads.time) == ("2", {"1": False, "2": True}, clock())
    monitor.record({"age": 0.5})
    assert monitor.report().model_version == "2"
    monitor.unloaded()
    assert monitor.loads.states == {"1": False, "2": False}
    monitor.reload(reference, "3")
    assert monitor.loads.states == {"2": False, "3": True}


def test_loaded_without_a_reference():
    """The version changes, and its series are there from the start."""
    monitor = watch()
    monitor.loaded("2")
    assert monitor.model_version == "2"
    assert ("m", "2") in counter(monitor, "model_rows_total")


def test_disabled(tmp_path):
    """Every method does nothing: no file is read, no row kept, no series made; a report is empty."""
    monitor = watch(tmp_path / "missing.json", disabled=True)
    monitor.record([{"age": 0.5}] * 3, predictions=[1, 2, 3])
    monitor.record(object())
    monitor.commit(("age",), [(0.5,)], None, None)
    monitor.flush()
    monitor.reload(tmp_path / "missing.json", "2")
    monitor.loaded("2")
    monitor.unloaded()
    with monitor.ignore():
        monitor.record({"age": 0.5})

    def endpoint():
        """A predicting endpoint."""

    assert monitor.predict(features="payload")(endpoint) is endpoint
    assert asyncio.run(monitor.areport()).rows == monitor.report().rows == 0
    assert (monitor.model_version, monitor.loads.states, monitor.inputs) == ("1", {}, None)
    assert (monitor.engine.buffer.added, outcomes(monitor), monitor.reload_failed) == (0, {}, False)
    with pytest.raises(RowsError):
        monitor.reference_from_window()


def test_a_reference_that_cannot_be_read(tmp_path):
    """It is refused when the monitor is made."""
    with pytest.raises(ReferenceFileError, match=r"missing\.json"):
        watch(tmp_path / "missing.json")


@pytest.mark.parametrize("given", [pd.DataFrame({"age": [1.0]}), np.zeros((2, 1)), {"age": [1.0]}, 5, b"r.json"])
def test_a_reference_of_the_wrong_type(given):
    """A table, or anything else that is no profile and no path, is refused with the remedy."""
    with pytest.raises(ConfigurationError, match=r"Expected a ReferenceProfile.*ReferenceProfile\.fit"):
        Monitor("m", reference=given)
    monitor = Monitor("m")
    with pytest.raises(ConfigurationError, match="Expected a ReferenceProfile"):
        monitor.reload(given)
    assert monitor.reload_failed


def test_ignore_left_in_another_context(reference):
    """A sync dependency enters and leaves in different contexts: that ends the ignoring, and raises nothing."""
    monitor = watch(reference)
    entered = monitor.ignore()
    contextvars.copy_context().run(entered.__enter__)
    entered.__exit__(None, None, None)
    assert not monitor.ignoring()


def test_arrays_without_a_reference(swallowed_errors):
    """Without a reference the rows of an array are counted; to learn from they need names, and that is said."""
    monitor = Monitor("m")
    monitor.record(np.zeros((3, 2)), predictions=[1, 2, 3])
    monitor.record([[1.0, 2.0]])
    monitor.flush()
    assert [cell.values for cell in monitor.series.cells() if cell.metric == "model_rows_total"] == [[4]]


@pytest.mark.swallows
def test_arrays_cannot_be_learnt_from(swallowed_errors):
    """An array has no names: the rows are lost, and the error says what to pass."""
    monitor = Monitor("m", reference="learn")
    monitor.record(np.zeros((3, 2)))
    assert [stage for stage, _ in swallowed_errors] == ["record"]
    assert "Pass a dict" in str(swallowed_errors[0][1])


def test_a_learn_path_that_cannot_be_written_is_refused(tmp_path):
    """Where the learnt reference could not be saved is said at the start, not an hour later."""
    with pytest.raises(ConfigurationError, match="`learn_path`"):
        Monitor("m", reference="learn", settings=Settings(learn_path=str(tmp_path / "none" / "r.json")))


@pytest.mark.swallows
def test_a_buffer_that_fails_raises_nothing(reference, monkeypatch):
    """When rows cannot even be put away, `record` counts an error and returns."""
    monitor = watch(reference)
    monkeypatch.setattr(monitor.engine.buffer, "append", lambda batch: 1 / 0)
    monitor.record(table_of(5))
    assert monitor.guard.errors["record"] == 1
