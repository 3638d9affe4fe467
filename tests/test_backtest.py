"""Backtesting: the verdict over the past, window by window."""

from __future__ import annotations

import datetime
import json
from pathlib import Path

import numpy as np
import pandas
import polars
import pyarrow
import pytest

import modelwatch
from modelwatch.backtest import DAY, backtest
from modelwatch.exceptions import TableError
from modelwatch.files import ReferenceProfile, read_table

BIKE = Path(__file__).parents[1] / "examples" / "bike_demand" / "bike_demand.csv.gz"
TRAINED = 2067  # rows of the first quarter of 2011
START = datetime.datetime(2024, 1, 1)


def part(table, rows):
    return {name: [column[row] for row in rows] for name, column in table.items()}


@pytest.fixture(scope="module")
def bike():
    """(reference of the first quarter, table of what came then)."""
    table = read_table(BIKE)
    features = ["season", "hour", "weekday", "holiday", "workingday", "weather", "temp", "atemp", "humidity",
                "windspeed"]  # fmt: skip
    training = part(table, range(TRAINED))
    reference = ReferenceProfile.fit(training, features=features, target="count", time="ts")
    return reference, part(table, range(TRAINED, len(table["ts"])))


@pytest.fixture(scope="module")
def reference():
    """Of two features, a prediction, and nothing that has a rhythm."""
    random = np.random.default_rng(1)
    table = {
        "size": random.normal(size=5000),
        "colour": random.choice(["red", "green"], 5000),
        "answer": random.choice(["yes", "no"], 5000),
    }
    return ReferenceProfile.fit(table, prediction="answer")


def hourly(rows, seed=2, shift_from=None):
    """A table with a row an hour; `size` moves by two standard deviations at `shift_from`."""
    random = np.random.default_rng(seed)
    size = random.normal(size=rows)
    if shift_from is not None:
        size[shift_from:] += 2
    return {
        "size": size.tolist(),
        "colour": random.choice(["red", "green"], rows).tolist(),
        "answer": random.choice(["yes", "no"], rows).tolist(),
        "ts": [START + datetime.timedelta(hours=i) for i in range(rows)],
    }


def test_bike_demand_tells_weather_from_rhythm(bike):
    """Over two-week windows, day by day, the temperature alarms; hour, weekday and workingday never do."""
    reference, table = bike
    found = backtest(reference, table, time="ts", window_seconds=14 * DAY, step_seconds=DAY)
    assert found.windows == found.evaluations == 628
    assert found["temp"].alarms > 100
    assert found["temp"].first < datetime.datetime(2011, 7, 1, tzinfo=datetime.UTC).timestamp()
    assert found["temp"].worst.psi_smoothed > 3
    assert {found[name].alarms for name in ("hour", "weekday", "workingday")} == {0}
    assert {found[name].evaluations for name in ("hour", "weekday", "workingday")} == {628}


def test_it_says_what_compare_says(bike):
    """Each alarm is the verdict of `compare` on the counts of the rows of that window."""
    reference, table = bike
    times = np.array(table["ts"], dtype="datetime64[s]").astype(np.float64)
    alarms = dict.fromkeys(reference.names, 0)
    windows = 0
    for end in np.arange(times[0] + 7 * DAY, times[-1] + 30 * DAY, 30 * DAY):
        rows = np.flatnonzero((times >= end - 7 * DAY) & (times < end)).tolist()
        report = modelwatch.compare(reference, reference.count(part(table, rows)), min_rows=100)
        windows += any(feature.drifted is not None for feature in report)
        for name in report.drifted:
            alarms[name] += 1
    found = backtest(reference, table, time="ts", window_seconds=7 * DAY, step_seconds=30 * DAY, min_rows=100)
    assert {feature.name: feature.alarms for feature in found.features} == alarms
    assert found.evaluations == windows
    assert any(alarms.values())


def test_first_alarm_and_worst(reference):
    """The first alarm comes soon after the change, and only the feature that changed has any."""
    found = backtest(reference, hourly(2400, shift_from=1200), time="ts", window_seconds=20 * DAY, step_seconds=DAY)
    changed = START.replace(tzinfo=datetime.UTC).timestamp() + 1200 * 3600
    assert changed < found["size"].first < changed + 5 * DAY
    assert found["size"].first <= found["size"].worst.at
    assert found["size"].worst.distance > 0.5
    assert found["size"].reasons == {"distribution": found["size"].alarms, "missing": 0, "other": 0}
    assert found.alarms == found["size"].alarms
    assert found["colour"].alarms == 0
    assert found["colour"].first is None
    assert found["colour"].share == 0


def test_the_order_of_the_rows_does_not_matter(reference):
    """Rows come in the order of their times, however the table has them."""
    table = hourly(1000, shift_from=500)
    shuffled = part(table, np.random.default_rng(3).permutation(1000).tolist())
    options = {"time": "ts", "window_seconds": 10 * DAY}
    assert backtest(reference, shuffled, **options) == backtest(reference, table, **options)


@pytest.mark.parametrize(
    "as_given",
    [
        pytest.param(pandas.DataFrame, id="pandas"),
        pytest.param(polars.DataFrame, id="polars"),
        pytest.param(pyarrow.table, id="pyarrow"),
        pytest.param(lambda table: {**table, "ts": [moment.isoformat() for moment in table["ts"]]}, id="text"),
        pytest.param(
            lambda table: {**table, "ts": [moment.replace(tzinfo=datetime.UTC).timestamp() for moment in table["ts"]]},
            id="seconds",
        ),
    ],
)
def test_tables_of_all_kinds(reference, as_given):
    """A data frame, and times as text or as seconds, give what a dict of datetimes gives."""
    table = hourly(1000, shift_from=500)
    expected = backtest(reference, table, time="ts", window_rows=300, step_rows=100)
    assert backtest(reference, as_given(table), time="ts", window_rows=300, step_rows=100) == expected
    assert expected.alarms


def test_rows_without_a_time_are_left_out_and_counted(reference):
    """A time that cannot be read costs its row, and the result says how many."""
    table = hourly(500)
    table["ts"][7], table["ts"][8], table["ts"][9] = None, "yesterday", 1e300
    found = backtest(reference, table, time="ts", window_rows=400)
    assert (found.rows, found.untimed) == (497, 3)
    assert "3 more have no time" in str(found)


def test_windows_with_too_few_rows_are_counted_apart(reference):
    """A window below `min_rows` is no evaluation, and no share is made of it."""
    table = hourly(1000)
    table["ts"] = [moment + datetime.timedelta(days=300 * (i >= 500)) for i, moment in enumerate(table["ts"])]
    found = backtest(reference, table, time="ts", window_seconds=10 * DAY, step_seconds=10 * DAY)
    assert found.too_few >= 28
    assert found.evaluations == found.windows - found.too_few >= 3
    assert {feature.evaluations for feature in found.features} == {found.evaluations}
    nothing = backtest(reference, table, time="ts", window_seconds=DAY)
    assert nothing.evaluations == 0
    assert nothing["size"].share is nothing["size"].worst is nothing["size"].first is None
    assert "0 of 0 windows" in str(nothing)


def test_a_prediction_may_be_absent(reference):
    """A table without the model's answers is watched in its features, and nothing is said of the answers."""
    table = hourly(1000)
    del table["answer"]
    found = backtest(reference, table, time="ts", window_rows=300)
    assert found["prediction"].evaluations == 0
    assert found["size"].evaluations == found.windows
    only = ReferenceProfile.fit({"answer": ["yes", "no"] * 200}, features=[], prediction="answer")
    assert backtest(only, table, time="ts", window_rows=300).evaluations == 0


def test_it_tells_itself(reference):
    """It prints as a table, most alarms first, and goes into JSON with times that can be read."""
    found = backtest(reference, hourly(1000, shift_from=500), time="ts", window_rows=300)
    lines = str(found).splitlines()
    assert lines[0].startswith("1000 rows from 2024-01-01 to 2024-02-11 15:00; reference ")
    assert [line.split()[0] for line in lines[3:5]] == ["feature", "size"]
    content = json.loads(found.to_json())
    assert content["begin"] == "2024-01-01T00:00:00"
    assert content["features"]["size"]["alarms"] == found["size"].alarms
    assert datetime.datetime.fromisoformat(content["features"]["size"]["first"]) > START
    assert content["windows"] == content["evaluations"] + content["too_few"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table | {"ts": ["noon"] * 300}, "Expected times in column 'ts'.* got 'noon'"),
        (lambda table: table | {"ts": [1.7e12 * 1e3] * 300}, "Expected times in column 'ts'"),
        (lambda table: {name: [] for name in table}, "got no rows"),
        (lambda table: {name: column for name, column in table.items() if name != "ts"}, "Expected a column 'ts'"),
        (lambda table: {name: column for name, column in table.items() if name != "size"}, "Expected a column 'size'"),
        (lambda table: table | {"ts": table["ts"][:-1]}, "columns of one length"),
        (lambda table: table | {"ts": [*table["ts"], START]}, "columns of one length"),
        (lambda table: table | {"ts": [0.0, *table["ts"][1:]]}, "mend the times"),
    ],
)
def test_bad_tables_are_refused(reference, change, message):
    """A table that cannot be used is an error of the library that says what came."""
    with pytest.raises(TableError, match=message):
        backtest(reference, change(hourly(300)), time="ts", window_seconds=60.0, step_seconds=60.0)
