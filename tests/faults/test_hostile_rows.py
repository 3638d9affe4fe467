"""Rows that nobody expected: each value in its place, nothing raised, and neither time nor memory lost over them."""

from __future__ import annotations

import asyncio
import decimal
import gc
import json
import locale
import random
import re
import sys
import time
import tracemalloc
import warnings
from decimal import Decimal
from typing import Annotated, Any

import numpy as np
import pytest
from fastapi import Body, FastAPI
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import traffic

import modelwatch
from modelwatch import ReferenceProfile
from modelwatch.exceptions import ConfigurationError
from modelwatch.routes import Patterns

REFERENCE = traffic.reference()
COLLIDING = 2**61 - 1
"""All its multiples have the hash 0."""
RNG = np.random.default_rng(7)


def watch(reference=REFERENCE, **options):
    return modelwatch.Monitor("hostile", "1", reference=reference, settings=modelwatch.Settings(**options))


def counted(monitor, metric):
    """Last label -> value of a metric's cells that are not 0."""
    monitor.flush()
    return {
        cell.labels[-1]: cell.values[0] for cell in monitor.series.cells() if cell.metric == metric and cell.values[0]
    }


def outcomes(monitor):
    return counted(monitor, "modelwatch_rows_total")


def violations(monitor, feature):
    """Reason -> values of a feature that broke the reference."""
    monitor.flush()
    found = monitor.engine.epochs.violations()
    return {reason: rows for (_, name, reason), rows in found.items() if name == feature and rows}


def cpu_of(work, *args):
    """Least seconds of processor time of three runs, without the garbage collector's."""
    gc.collect()
    gc.disable()
    try:
        found = []
        for _ in range(3):
            started = time.process_time()
            work(*args)
            found.append(time.process_time() - started)
        return min(found)
    finally:
        gc.enable()


MISSING = {
    "NaN": float("nan"),
    "None": None,
    "absent": ...,
    "NaN of numpy": np.float32("nan"),
    "Decimal": Decimal("NaN"),
}
WRONG = {
    "text": "1e5", "bytes": b"40", "huge": 10**400, "list": [40.0], "dict": {"is": {"it": 40}}, "type": int,
    "complex": 40j, "date": np.datetime64("2020-01-01"), "array": np.ones((1, 1)),
}  # fmt: skip


@pytest.mark.parametrize("name", [*MISSING, *WRONG])
def test_what_is_no_number_is_in_no_bin(name):
    """It counts as missing, or as of a wrong type, and every statistic is that of the other rows alone."""
    ages = RNG.normal(42, 12, 400).tolist()
    rows = [{"age": age, "income": 20.0, "plan": "pro"} for age in ages]
    odd = {"income": 20.0, "plan": "pro"} | ({} if name == "absent" else {"age": (MISSING | WRONG)[name]})
    clean, dirty = watch(), watch()
    clean.record(rows)
    for n, row in enumerate(rows):
        dirty.record(row)
        if n % 4 == 0:
            dirty.record(dict(odd))
    expected, found = clean.report().features["age"], dirty.report().features["age"]
    assert found.n == expected.n == 400
    for statistic in ("psi", "psi_debiased", "ks_statistic", "js_divergence", "wasserstein"):
        assert abs(getattr(found, statistic) - getattr(expected, statistic)) <= 1e-12
    reason = "missing" if name in MISSING else "type"
    assert violations(dirty, "age")[reason] == violations(clean, "age").get(reason, 0) + 100
    assert {key: rows for key, rows in violations(dirty, "age").items() if key != reason} == violations(clean, "age")
    assert outcomes(dirty) == {"recorded": 500}
    others = [one.report().features["income"] for one in (clean, dirty)]
    assert [other.n for other in others] == [400, 500]


@pytest.mark.parametrize("sign", [1, -1])
def test_what_is_infinite_is_told_and_spoils_nothing(sign):
    """It counts as not finite, lies beyond the outermost edge, and no mean or distance becomes infinite by it."""
    monitor = watch()
    monitor.record([{"age": sign * np.inf, "income": 20.0, "plan": "pro"}] * 50, predictions=[sign * np.inf] * 50)
    monitor.record({"age": RNG.normal(40, 10, 400), "income": np.full(400, 20.0), "plan": ["pro"] * 400})
    assert violations(monitor, "age") == {"non_finite": 50} | violations(monitor, "age")
    age = monitor.report().features["age"]
    assert age.n == 450
    assert all(np.isfinite(getattr(age, name)) for name in ("psi", "ks_statistic", "wasserstein", "js_divergence"))
    sums = [cell.values[-1] for cell in monitor.series.cells() if cell.bounds is not None]
    assert all(map(np.isfinite, sums))


def test_without_any_number_nothing_is_said_of_the_numbers():
    """Of 1,000 rows without one value no drift statistic is shown, and no verdict is made of the bins."""
    app = FastAPI()
    monitor = modelwatch.instrument(app, **traffic.NAME, reference=REFERENCE)
    ages = [float("nan")] * 1_000
    monitor.record({"age": ages, "income": RNG.lognormal(3, 0.5, 1_000), "plan": ["pro"] * 1_000})
    _, text = asyncio.run(traffic.scrape(app))
    shown = {name for name in re.findall(r'^(model_\w+)\{.*feature="age"', text, re.MULTILINE) if "drift" in name}
    of_income = {
        name for name in re.findall(r'^(model_\w+)\{.*feature="income"', text, re.MULTILINE) if "drift" in name
    }
    told_anyway = {name for name in of_income if re.search(r"missing|detected|severity|captured", name)}
    assert shown <= told_anyway
    assert of_income - told_anyway  # which the other feature does have
    feature = monitor.report().features["age"]
    assert feature.n == 0
    assert [getattr(feature, name) for name in ("psi", "ks_statistic", "ks_pvalue")] == [None] * 3
    assert feature.reasons == ("missing",)


SHAPES = {
    "ragged": [[1.0, 2.0, "pro"], [1.0]],
    "3-d": np.zeros((4, 3, 2)),
    "1-d": np.zeros(5),
    "0-d": np.array(5.0),
    "objects": np.array([[1, 2, "pro"], [None, {}, b""]], dtype=object),
    "structured": np.zeros(3, dtype=[("age", "f8"), ("plan", "U3")]),
    "masked": np.ma.masked_invalid([[1.0, np.nan, 2.0]]),
    "no columns": np.zeros((3, 0)),
    "no rows": np.zeros((0, 3)),
    "empty list": [],
    "empty dict": {},
    "empty columns": {"age": [], "income": [], "plan": []},
    "nested": {"age": [[1.0, 2.0]], "income": [{"a": 1}], "plan": [["pro"]]},
    "a dict of dicts": {"age": {"a": 1}, "income": {"a": 1}},
    "mixed": [{"age": 1.0}, [1.0, 2.0, "pro"]],
    "texts": ["age", "income"],
    "text": "age",
    "bytes": b"age",
    "a set": {1, 2, 3},
    "a generator": (row for row in [{"age": 1.0}]),
    "a range": range(3),
    "names that are no texts": {1: 2, None: 3, (): 4},
    "dates": np.zeros((2, 3), dtype="datetime64[s]"),
    "complex": np.zeros((2, 3), dtype=complex),
    "longdouble": np.full((2, 3), np.longdouble("1e4000")),
    "texts in an array": np.array([["1", "a"], ["2", "b"]]),
}


@pytest.mark.swallows
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("reference", [REFERENCE, None], ids=["watched", "no reference"])
def test_any_shape_is_taken_or_dropped(shape, reference):
    """Whatever comes as features: nothing is raised, what was dropped is told, and the next rows count as ever."""
    monitor = watch(reference)
    monitor.record(SHAPES[shape])
    first = outcomes(monitor)
    assert first.keys() <= {"recorded", "dropped"}
    assert (monitor.guard.errors["record"] > 0) == ("dropped" in first)
    assert monitor.guard.errors["fold"] == 0
    monitor.record([{"age": 40.0, "income": 20.0, "plan": "pro"}] * 3)
    assert outcomes(monitor).get("recorded", 0) == first.get("recorded", 0) + 3
    assert sum(map(monitor.guard.errors.get, monitor.guard.errors)) == monitor.guard.errors["record"]


def of_numbers(features, rows):
    """A reference of so many numeric features, and a table of so many rows of them."""
    names = [f"f{n:02}" for n in range(features)]
    fitted = ReferenceProfile.fit({name: RNG.normal(size=2_000) for name in names})
    return fitted, RNG.normal(size=(rows, features))


@pytest.mark.parametrize("rows", [20_000, pytest.param(1_000_000, marks=pytest.mark.soak)])
def test_a_large_batch_costs_what_histograms_cost(rows):
    """Many rows of 50 features cost at most twice the processor time of numpy's histogram of each column."""
    fitted, table = of_numbers(50, rows)
    monitor = watch(fitted, buffer_rows=4_000_000)

    def recorded():
        monitor.record(table)
        monitor.flush()

    def histograms():
        edges = np.sort(RNG.normal(size=1_000))  # as many bins as there are cells
        for column in table.T:
            np.histogram(column, edges)

    recorded()
    ours, numpys = cpu_of(recorded), cpu_of(histograms)
    assert outcomes(monitor) == {"recorded": 4 * rows}
    assert ours <= 2 * numpys + 0.01


def test_a_batch_beyond_the_buffer_is_told():
    """More rows at once than may wait are dropped and counted, and cost no fold."""
    fitted, table = of_numbers(3, 1_000_000)
    monitor = watch(fitted)
    monitor.record(table)
    assert outcomes(monitor) == {"dropped": 1_000_000}
    monitor.record(table[:10])
    assert outcomes(monitor) == {"dropped": 1_000_000, "recorded": 10}


@pytest.mark.parametrize("count", [100_000, pytest.param(1_000_000, marks=pytest.mark.soak)])
def test_categories_without_end_leave_no_memory(count):
    """Each row brings a category never seen: all are in `_other`, and less than 1 MiB more is held than before."""
    monitor = watch()

    def record(start, stop):
        for first in range(start, stop, 1_000):
            plans = [f"plan-{n}" for n in range(first, first + 1_000)]
            monitor.record({"age": [40.0] * 1_000, "income": [20.0] * 1_000, "plan": plans}, predictions=plans)
            monitor.flush()

    record(0, 5_000)
    gc.collect()
    tracemalloc.start()
    try:
        record(5_000, count)
        gc.collect()
        held = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert held < 2**20
    assert violations(monitor, "plan") == {"unseen_category": count}
    plan = monitor.report().features["plan"]
    assert plan.n == count
    series = {cell.labels for cell in monitor.series.cells() if cell.metric == "model_predictions_total"}
    assert len(series) < 100


def ask_of(path, body):
    return traffic.Ask(path, "POST", (json.dumps(body).encode(),))


def test_ten_thousand_unknown_features_cost_less_than_their_json():
    """What nobody knows is passed over: a request with 10,000 such names takes the library less than reading it."""
    body = {"age": 40.0, "income": 20.0, "plan": "pro"} | {f"unknown {n}": n for n in range(10_000)}
    monitor = watch()

    def record():
        for _ in range(20):
            monitor.record(body)
        monitor.flush()

    text = json.dumps(body)

    def read():
        for _ in range(20):
            json.loads(text)

    assert cpu_of(record) < cpu_of(read)
    assert outcomes(monitor) == {"recorded": 60}
    assert set(monitor.report().features) == set(watch().report().features)


def test_unknown_features_of_a_request_are_passed_over():
    """A watched endpoint is sent 10,000 names that nobody knows: one row, no series more, hardly any time."""
    known = {"age": 40.0, "income": 20.0, "plan": "pro"}
    asks = [ask_of("/anything", known | {f"u{n}-{k}": n for n in range(10_000)}) for k in range(10)]

    async def scenario(app):
        return [await traffic.tell(app, ask, traffic.Raised()) for ask in asks]

    bare, app = FastAPI(), FastAPI()
    monitor = modelwatch.instrument(app, **traffic.NAME, reference=REFERENCE, routes=traffic.WATCHED)
    for one, watching in ((bare, traffic.Unwatched()), (app, monitor)):
        traffic.service(one, watching, traffic.Raised())
    assert asyncio.run(scenario(app)) == asyncio.run(scenario(bare))
    alone, ours = (cpu_of(lambda app=app: asyncio.run(scenario(app))) for app in (bare, app))
    assert ours < 2 * alone
    assert outcomes(monitor) == {"recorded": 40}


@pytest.mark.parametrize("kind", ["int", "float", "wrapped"])
def test_numbers_that_share_a_hash_cost_no_more_than_others(kind):
    """10,000 values that a client chose to have one hash cost at most five times what random ones cost."""
    draw = random.Random(1)
    chosen = {
        "int": [COLLIDING * n for n in range(1, 10_001)],
        "float": [float(COLLIDING) * 2.0 ** (n % 900) for n in range(10_000)],
        "wrapped": [Decimal(COLLIDING * n) for n in range(1, 10_001)],
    }[kind]
    usual = [type(chosen[0])(draw.randrange(2**74)) for _ in range(10_000)]
    monitor = watch()

    def record(values):
        features = {"age": values, "income": values, "plan": values}
        monitor.record(features, predictions=values, confidences=values)
        monitor.record([{"age": value, "income": value, "plan": value} for value in values[:1_000]])
        monitor.flush()

    record(usual)
    assert cpu_of(record, chosen) < 5 * cpu_of(record, usual)


@pytest.mark.parametrize("pattern", ["(a+)+$", "(a|a)*", "a" * 100, "", "^/a", "\\A/", "[a", None, 5])
def test_expressions_are_refused_as_patterns(pattern):
    """What does not begin like a path is refused at the start: no regular expression of a user's meets a path."""
    for name in ("routes", "exclude"):
        with pytest.raises(ConfigurationError, match="begin with / or"):
            modelwatch.instrument(FastAPI(), **traffic.NAME, **{name: [pattern]})


@pytest.mark.parametrize(
    "pattern", ["/(a+)+$", "*(a+)+$", "*a*a*a*a*a*a*a*a*b", "/[a]*[a]*[a]*[a]*b", "*" * 50 + "b", "/" + "?" * 30]
)
def test_no_pattern_is_slow_on_a_long_path(pattern):
    """A path of 4 KiB takes, against one of 256 bytes, at most the square of their proportion: nothing explodes."""
    patterns = Patterns([pattern])
    short, long = "/" + "a" * 255, "/" + "a" * 4_095

    def match(path, times):
        for _ in range(times):
            assert path not in patterns

    assert cpu_of(match, long, 10) < 16 * 16 * cpu_of(match, short, 10) + 0.01


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from([10**400, "\ud800", "1e999", "\x00", COLLIDING, -0.0, 5e-324]),
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.dictionaries(st.text(max_size=8) | st.sampled_from(["age", "income", "plan"]), inner, max_size=5)
    ),
    max_leaves=12,
)


def state():
    """What no library may change behind its user's back."""
    return (
        sys.getrecursionlimit(), gc.isenabled(), np.geterr(), repr(decimal.getcontext()), sys.getswitchinterval(),
        locale.setlocale(locale.LC_ALL), random.getstate(), repr(np.random.get_state()), list(warnings.filters),
    )  # fmt: skip


class Watched:
    """Monitors that are told anything at all, and an app with an endpoint that is sent it."""

    def __init__(self):
        self.monitors = [watch(), watch(None)]
        self.app = FastAPI()
        self.captured = modelwatch.instrument(self.app, **traffic.NAME, reference=REFERENCE, routes=["/any"])
        self.bare = FastAPI()
        for app in (self.app, self.bare):

            @app.post("/any")
            async def endpoint(body: Annotated[Any, Body()]):
                return {"prediction": 0.5, "was": repr(body)[:100]}

    def check(self, value):
        """Tell them; and look whether all is accounted for."""
        before = state()
        for monitor in self.monitors:
            known = sum(outcomes(monitor).values())
            monitor.record(value, predictions=value, confidences=value)
            found = outcomes(monitor)
            assert found.keys() <= {"recorded", "dropped"}
            assert sum(found.values()) >= known
            assert monitor.engine.buffer.waiting == 0
            assert not any(monitor.guard.errors[stage] for stage in ("fold", "tick", "request", "scrape"))
        assert state() == before

    async def ask(self, value):
        """Send it to the endpoint, and to that of the bare app."""
        raised = traffic.Raised()
        ask = traffic.Ask("/any", "POST", (json.dumps(value).encode(),))
        assert await traffic.tell(self.app, ask, raised) == await traffic.tell(self.bare, ask, raised)


@pytest.mark.swallows
@pytest.mark.parametrize("examples", [200, pytest.param(20_000, marks=pytest.mark.soak)])
def test_any_json_value_may_come_as_features(examples):
    """Whatever JSON can say: `record` raises nothing and changes only counts, and an endpoint answers as if bare."""
    watched = Watched()

    @settings(
        max_examples=examples, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck)
    )
    @given(JSON)
    def check(value):
        watched.check(value)
        for one in (value, {"age": value, "income": value, "plan": value}):
            asyncio.run(watched.ask(one))

    check()
    assert outcomes(watched.captured)["recorded"] >= examples
