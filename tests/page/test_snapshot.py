"""Snapshots, and what happened between two of them."""

from __future__ import annotations

import json

import numpy as np
import pytest

import modelwatch
from modelwatch.page.snapshot import LATENCY, MOST_FEATURES, Span, snapshot_of
from modelwatch.series import Cell, Sample
from modelwatch.sharing import Sight

MODEL = ("m", "1")


def sight(*, requests=10, errors=0, latency=(2, 3, 1), total=0.9, rows=100, version="1", monitor=None, found=None):
    """What a scrape reads of one model."""
    model = ("m", version)
    items = [
        Sample("model_request_total", (*model, "success"), requests - errors),
        Sample("model_request_total", (*model, "error"), errors),
        Cell(LATENCY, model, (0.1, 0.2), [*latency, total]),
        Sample("model_rows_total", model, rows),
    ]
    return Sight([(monitor or modelwatch.Monitor("m", version), found)], items)


def span(before, after, seconds=10.0):
    return Span(snapshot_of(before, 100.0), snapshot_of(after, 100.0 + seconds), "m")


def test_a_span_tells_rates():
    """Requests, errors, rows and latency between two snapshots are differences of counters over the time."""
    found = span(sight(), sight(requests=60, errors=5, latency=(2, 53, 1), total=8.4, rows=250))
    assert found.rate == 5.0
    assert found.error_share == 0.1
    assert found.row_rate == 15.0
    assert (found.latency.size, found.latency.mean) == (50, 0.15)


def test_clients_mistakes_are_no_errors():
    """What clients did wrong is neither an error nor a request that the share is of."""
    before, after = sight(), sight(requests=20, errors=5)
    after.items.append(Sample("model_request_total", (*MODEL, "invalid"), 90))
    assert span(before, after).error_share == 0.5


def test_without_requests_there_is_no_share():
    """Where nothing came the rate is 0, and of errors and latency nothing is known."""
    found = span(sight(), sight())
    assert found.rate == 0.0
    assert found.error_share is None
    assert found.latency.mean is None


@pytest.mark.parametrize(
    ("before", "after", "seconds"),
    [
        (sight(requests=20, latency=(9, 9, 9), rows=999), sight(), 10.0),
        (sight(version="0"), sight(), 10.0),
        (sight(), sight(requests=60), 0.0),
        (sight(), sight(requests=60), -5.0),
    ],
    ids=["counters fell", "another version", "no time", "time went back"],
)
def test_what_cannot_be_compared_is_unknown(before, after, seconds):
    """After a restart, for another version, or when the clock was set, nothing is said instead of something wrong."""
    found = span(before, after, seconds)
    assert (found.rate, found.error_share, found.row_rate) == (None, None, None)
    assert found.latency is None


def test_a_model_that_was_not_there_is_unknown():
    """A snapshot that does not know the model is nothing to count from."""
    assert Span({"t": 1.0, "models": {}}, snapshot_of(sight(), 9.0), "m").rate is None


def test_the_worst_features_are_kept():
    """Of many features a snapshot keeps the PSI of the worst, and it can be written as JSON."""
    rng = np.random.default_rng(0)
    table = {f"f{i}": rng.normal(0, 1, 1_000) for i in range(MOST_FEATURES + 20)}
    monitor = modelwatch.Monitor("m", "1", reference=modelwatch.ReferenceProfile.fit(table))
    monitor.record({name: rng.normal(2.0 * (name == "f63"), 1, 500) for name in table})
    model = snapshot_of(sight(monitor=monitor, found=monitor.evaluate()), 1.0)["models"]["m"]
    assert len(model["smoothed"]) == MOST_FEATURES
    assert next(iter(model["smoothed"])) == "f63"
    assert model["drifted"] == 1
    json.dumps(model, allow_nan=False)


def test_many_models_share_what_is_kept():
    """An hour of an app with a hundred models stays small: each keeps the PSI of a few features."""
    rng = np.random.default_rng(1)
    reference = modelwatch.ReferenceProfile.fit({f"f{i}": rng.normal(0, 1, 500) for i in range(30)})
    monitors = [modelwatch.Monitor(f"m{i}", reference=reference) for i in range(100)]
    monitors[0].record({name: rng.normal(0, 1, 300) for name in reference.names})
    found = monitors[0].evaluate()
    kept = snapshot_of(Sight([(monitor, found) for monitor in monitors], []), 1.0)
    assert {len(model["smoothed"]) for model in kept["models"].values()} == {5}
    assert len(json.dumps(kept)) < 70_000  # 240 of them in 16 MiB, which is what a worker reads


def test_too_few_rows_are_no_zero():
    """Before there are rows enough the number of drifted features is unknown, and so is every PSI."""
    monitor = modelwatch.Monitor("m", "1", reference=modelwatch.ReferenceProfile.fit({"x": [1.0, 2.0] * 300}))
    monitor.record({"x": [1.0] * 5})
    model = snapshot_of(sight(monitor=monitor, found=monitor.evaluate()), 1.0)["models"]["m"]
    assert (model["drifted"], model["smoothed"]) == (None, {})
