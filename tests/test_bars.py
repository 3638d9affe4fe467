"""Statistical bars, with fixed seeds: how often the verdict is wrong without drift, and how soon it is right with it.

The full sizes run in `make soak`; `make test` runs what fits into some seconds.
"""

from __future__ import annotations

import collections
from pathlib import Path

import numpy as np
import pytest

from modelwatch.files import ReferenceProfile, read_table
from modelwatch.monitor import Monitor
from modelwatch.settings import FeatureRule, Settings
from modelwatch.verdict import compare

HERE = Path(__file__).parent
REFERENCE_ROWS = 10_000
CATEGORIES = {
    "coin": [0.5, 0.5],
    "plan": [0.6, 0.3, 0.1],
    "even": [0.1] * 10,
    "steep": [0.9, 0.05, 0.03, 0.02],
    "zipf": (1 / np.arange(1, 51) / (1 / np.arange(1, 51)).sum()).tolist(),
}
MISSING = {"x01": 0.001, "x04": 0.002, "x07": 0.003, "x10": 0.004, "x13": 0.005, "zipf": 0.002}
NAMES = [f"x{i:02}" for i in range(20)] + list(CATEGORIES)


def rows_of(rng, rows):
    """Rows of 20 numeric features of five shapes and five categorical ones, some of them missing at times."""
    shapes = [
        lambda: rng.normal(size=rows),
        lambda: np.exp(rng.normal(size=rows)),
        lambda: np.where(rng.random(rows) < 0.3, 0.0, rng.gamma(2, size=rows)),
        lambda: rng.poisson(3, rows).astype(float),
        lambda: rng.standard_t(3, rows),
    ]
    columns = {f"x{i:02}": shapes[i % 5]() for i in range(20)}
    for name, share in MISSING.items():
        if name in columns:
            columns[name][rng.random(rows) < share] = np.nan
    for name, shares in CATEGORIES.items():
        codes = rng.choice(len(shares), rows, p=shares)
        columns[name] = np.where(rng.random(rows) < MISSING.get(name, 0), -1, codes)
    return columns


def texts(columns):
    """The same with texts instead of the numbers of categories."""
    return {
        name: [None if code < 0 else f"c{code}" for code in column.tolist()] if name in CATEGORIES else column
        for name, column in columns.items()
    }


class Engine:
    """A reference, and the cells of rows without making texts of millions of categories."""

    def __init__(self, rng):
        self.profile = ReferenceProfile.fit(texts(rows_of(rng, REFERENCE_ROWS)))
        self.layout = self.profile.layout
        self.codes = {}
        for i, name in enumerate(NAMES):
            if name in CATEGORIES:
                known = [f"c{code}" for code in range(len(CATEGORIES[name]))]
                self.codes[name] = self.layout.cells[i].index([*known, None]) + self.layout.starts[i]

    def index(self, columns):
        return np.stack(
            [
                self.codes[name][columns[name]] if name in CATEGORIES else cells.index(columns[name]) + start
                for name, cells, start in zip(NAMES, self.layout.cells, self.layout.starts, strict=True)
            ]
        )

    def report(self, index):
        return compare(self.profile, np.bincount(index.ravel(), minlength=self.layout.size))


def false_alarms(n, windows, seed, references=10):
    """How many of drift-free windows report any drifted feature, over several references."""
    rng = np.random.default_rng(seed)
    alarms = collections.Counter()
    for _ in range(references):
        engine = Engine(rng)
        left = windows // references
        while left:
            batch = min(left, max(20_000 // n, 1))  # many windows are drawn at once
            left -= batch
            index = engine.index(rows_of(rng, batch * n))
            alarms.update(bool(engine.report(index[:, i * n : (i + 1) * n]).drifted) for i in range(batch))
    assert alarms.total() == windows
    return alarms[True]


def test_the_engine_of_the_bars_counts_as_a_profile_does():
    """The short cut of this file gives the counts that `count` gives of the same rows."""
    rng = np.random.default_rng(0)
    engine, columns = Engine(rng), rows_of(rng, 500)
    counts = np.bincount(engine.index(columns).ravel(), minlength=engine.layout.size)
    assert counts.tolist() == engine.profile.count(texts(columns)).tolist()


class TestFalseAlarms:
    @pytest.mark.parametrize(("n", "windows", "references"), [(200, 600, 3), (1_000, 300, 3), (10_000, 40, 2)])
    def test_without_drift_hardly_any_window_alarms(self, n, windows, references):
        """Of drift-free windows of 25 features at most 1 % report any drifted feature."""
        assert false_alarms(n, windows, n, references) <= windows / 100

    @pytest.mark.soak
    @pytest.mark.parametrize("n", [200, 1_000, 10_000])
    def test_without_drift_in_full(self, n):
        """Of 1,000 drift-free windows of 25 features, over ten references, at most 1 % report any drifted feature."""
        assert false_alarms(n, 1_000, n + 1) <= 10


def shifted(columns):
    """Half a standard deviation more in three features."""
    return columns | {name: columns[name] + 0.5 * np.nanstd(columns[name]) for name in ("x00", "x05", "x06")}


def gaps(columns, rng):
    """Five per cent of a feature are missing."""
    return columns | {"x02": np.where(rng.random(columns["x02"].size) < 0.05, np.nan, columns["x02"])}


def delays(n, change, found, runs, seed):
    """Windows until the change is found, run by run: a window of n rows slides over it, evaluated every n/10 rows."""
    rng = np.random.default_rng(seed)
    engine = Engine(rng)
    waited = []
    for _ in range(runs):
        index = np.concatenate([engine.index(rows_of(rng, n)), engine.index(change(rows_of(rng, 2 * n), rng))], axis=1)
        for after in range(n // 10, 2 * n + 1, n // 10):
            if found & set(engine.report(index[:, after : after + n]).drifted):
                waited.append(after / n)
                break
        else:
            waited.append(np.inf)
    return float(np.median(waited))


class TestPower:
    @pytest.mark.parametrize(("n", "most", "runs"), [(200, 1.0, 40), (1_000, 0.5, 40), (10_000, 0.5, 8)])
    def test_half_a_standard_deviation_is_found(self, n, most, runs):
        """+0.5 sd on three of 25 features is found within half a window at 1,000 and 10,000 rows, within one at 200."""
        assert delays(n, lambda columns, _rng: shifted(columns), {"x00", "x05", "x06"}, runs, n) <= most

    @pytest.mark.parametrize(("n", "runs"), [(1_000, 40), (10_000, 8)])
    def test_missing_values_are_found(self, n, runs):
        """5 % missing values in one of 25 features are found within 0.35 windows."""
        assert delays(n, gaps, {"x02"}, runs, n) <= 0.35

    @pytest.mark.soak
    @pytest.mark.parametrize(
        ("change", "found", "most"), [(lambda c, _: shifted(c), {"x00", "x05", "x06"}, 0.5), (gaps, {"x02"}, 0.35)]
    )
    def test_in_full(self, change, found, most):
        """The medians at 10,000 rows over 40 runs."""
        assert delays(10_000, change, found, 40, 0) <= most


@pytest.fixture(scope="module")
def flights():
    """The features of the flights of the first quarter, and the number of the week of each."""
    table = read_table(HERE / "data" / "nyc_flights.csv.gz")
    days = (np.array(table.pop("ts"), dtype="datetime64[D]") - np.datetime64("2013-01-01")).astype(int)
    quarter = days < 90
    names = [name for name in table if name not in {"id", "label_ts", "late"}]
    return {name: np.array(table[name], dtype=object)[quarter] for name in names}, days[quarter] // 7


class TestEightWorkers:
    """A window of 1,000 rows without drift, dealt to eight workers."""

    @pytest.mark.parametrize("settings", [Settings(window_rows=1_000), Settings()], ids=["rows", "time"])
    @pytest.mark.parametrize("seed", range(2))
    def test_no_false_alarm_of_the_merged_window(self, settings, seed, clock):
        """In at most 1 % of 200 windows is the PSI of some of ten features over 0.1; of one worker's rows, in most."""
        rng = np.random.default_rng(seed)
        names = [f"x{i}" for i in range(10)]
        reference = ReferenceProfile.fit({name: rng.normal(size=REFERENCE_ROWS) for name in names})
        merged, alone = [], []
        for _ in range(100):
            workers = [Monitor("m", reference=reference, settings=settings, clock=clock) for _ in range(8)]
            dealt = rng.integers(0, 8, 1_000)
            rows = rng.normal(size=(1_000, 10))
            for i, worker in enumerate(workers):
                clock.advance(0.1)
                worker.record(dict(zip(names, rows[dealt == i].T, strict=True)))
                worker.flush()
            asked = workers[int(rng.integers(8))]
            others = [share for one in workers if one is not asked for share in one.engine.shares()]
            report, reading = asked.evaluate(others)
            assert reading.content.rows == 1_000
            merged.append(max(report[name].psi for name in names) > 0.1)
            own = compare(reference, asked.engine.read(()).content.counts, min_rows=1)
            alone.append(max(own[name].psi for name in names) > 0.1)
        assert sum(merged) <= 1
        assert sum(alone) > 50


class TestFlights:
    @pytest.mark.parametrize("parity", [0, 1])
    @pytest.mark.parametrize("n", [200, 1_000])
    def test_a_real_stream_in_its_own_order(self, flights, n, parity):
        """Against every second week of a quarter at most 15 % of the windows of the other weeks alarm, in time order.

        Without calibrated floors all of them do; and half a standard deviation on `distance` is found in all.
        """
        columns, weeks = flights
        reference = ReferenceProfile.fit(
            {name: column[weeks % 2 == parity].tolist() for name, column in columns.items()}
        )
        other = np.flatnonzero(weeks % 2 != parity)
        rules = {name: FeatureRule(floor=0.05, share_floor=0.01) for name in reference.names}
        sd = reference.feature("distance").sd
        alarms, uncalibrated, found = [], [], []
        for start in range(0, other.size - n + 1, n):
            window = {name: column[other[start : start + n]].tolist() for name, column in columns.items()}
            counts = reference.count(window)
            alarms.append(bool(compare(reference, counts).drifted))
            uncalibrated.append(bool(compare(reference, counts, features=rules).drifted))
            window["distance"] = [miles + 0.5 * sd for miles in window["distance"]]
            found.append("distance" in compare(reference, reference.count(window)).drifted)
        assert len(alarms) >= 6_000 // n
        assert np.mean(alarms) <= 0.15
        assert all(uncalibrated)
        assert all(found)


class TestBikes:
    def test_two_years_of_bikes(self):
        """Against the first quarter of 2011, `temp` has drifted in the first month served, its PSI about 5.

        In none of the windows of two weeks, one a day until the end of 2012, did `hour`, `weekday` or `workingday`.
        """
        table = read_table(HERE.parent / "examples" / "bike_demand" / "bike_demand.csv.gz")
        times = np.array(table.pop("ts"), dtype="datetime64[h]")
        columns = {name: values for name, values in table.items() if name not in {"id", "label_ts", "count"}}
        start = np.datetime64("2011-04-01T00")
        before = int(np.searchsorted(times, start))
        reference = ReferenceProfile.fit({name: values[:before] for name, values in columns.items()})
        index = reference.layout.index([columns[name] for name in reference.names])

        def report(begin, end):
            first, last = np.searchsorted(times, [max(begin, start), end])
            return compare(reference, reference.layout.tally([each[first:last] for each in index]))

        month = report(start, np.datetime64("2011-05-01"))
        assert 4.5 < month["temp"].psi < 5.5
        drifted, first = collections.Counter(), {}
        hour = np.timedelta64(1, "h")
        ends = np.arange(start + 24 * hour, np.datetime64("2013-01-01T00") + hour, 24 * hour)
        for end in ends:
            for name in report(end - 14 * 24 * hour, end).drifted:
                drifted[name] += 1
                first.setdefault(name, end)
        assert len(ends) == 641
        assert first["temp"] <= np.datetime64("2011-05-01")
        assert drifted["temp"] > 300
        assert not drifted.keys() & {"hour", "weekday", "workingday"}
