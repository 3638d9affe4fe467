"""The service layer's own cells."""

from __future__ import annotations

import pytest

from modelwatch.guard import Guard
from modelwatch.metrics.families import Collected
from modelwatch.metrics.service import ServiceMetrics
from modelwatch.series import Series
from modelwatch.settings import Settings

DURATION = "http_server_request_duration_seconds"


def cells(series):
    """(metric, labels) -> values, of all cells that are not 0."""
    return {(cell.metric, cell.labels): cell.values for cell in series.cells() if any(cell.values)}


def shown(series, settings):
    """Names of the families that a page shows."""
    collected = Collected(settings, Guard())
    collected.sources.append(series.cells)
    return {family.name for family in collected.collect()}


def test_a_request_is_counted_in_three_histograms():
    """Its duration with status and error, its two sizes by method and route."""
    series = Series()
    metrics = ServiceMetrics(series, Settings(buckets={DURATION: (0.1, 1.0)}))
    metrics.count(metrics.bind("POST", "/p", 200, ""), 0.5, 100, 101)
    assert cells(series) == {
        (DURATION, ("POST", "/p", "200", "")): [0, 1, 0, 0.5],
        ("http_server_request_body_size_bytes", ("POST", "/p")): [1, 0, 0, 0, 0, 0, 0, 0, 100],
        ("http_server_response_body_size_bytes", ("POST", "/p")): [0, 1, 0, 0, 0, 0, 0, 0, 101],
    }


def test_no_status_is_an_empty_label():
    """A request that was cancelled before its response has no status."""
    series = Series()
    metrics = ServiceMetrics(series, Settings())
    metrics.count(metrics.bind("GET", "/", 0, "cancelled"), 0.1, 0, 0)
    assert (DURATION, ("GET", "/", "", "cancelled")) in cells(series)


def test_unknown_methods_are_one():
    """What is no method of HTTP is counted as _OTHER, however many there are."""
    series = Series()
    metrics = ServiceMetrics(series, Settings())
    for method in ["BREW", "get", *(f"M{n}" for n in range(40))]:
        series.values[metrics.active[method]] += 1
        metrics.count(metrics.bind(method, "/", 405, ""), 0.1, 0, 0)
        metrics.first_byte(method, "/", 0.1)
    assert {labels[0] for _, labels in cells(series)} == {"_OTHER"}
    assert cells(series)["http_server_active_requests", ("_OTHER",)] == [42]
    assert len(metrics.active) <= 10


def test_many_exceptions_fold():
    """After 20 classes of exceptions of a route the others are one."""
    series = Series()
    metrics = ServiceMetrics(series, Settings())
    for n in range(60):
        metrics.count(metrics.bind("GET", "/", 500, f"Error{n}"), 0.1, 0, 0)
    names = [labels[3] for metric, labels in cells(series) if metric == DURATION]
    assert len(names) == 21
    assert sum(cells(series)[DURATION, ("GET", "/", "500", "_other")][:-1]) == 40


def test_what_is_known_stays_bounded():
    """Ten thousand different requests leave a bounded memory behind, and none is lost."""
    series = Series(limit=300)
    metrics = ServiceMetrics(series, Settings())
    for n in range(10_000):
        metrics.count(metrics.bind("GET", f"/{n}", 200, f"E{n}"), 0.0, 0, 0)
        metrics.background(f"/{n}", 1.0)
    assert len(metrics._bound) <= 4096
    assert len(metrics._background._places) <= 4096
    assert len(list(series.cells())) <= 5 * 301
    assert sum(sum(cell.values[:-1]) for cell in series.cells() if cell.metric == DURATION) == 10_000


def test_websockets_go_up_and_down():
    """The gauge of a route is the number of its open websockets."""
    series = Series()
    metrics = ServiceMetrics(series, Settings())
    for _ in range(3):
        metrics.connect("/ws")
    metrics.disconnect("/ws")
    assert cells(series) == {("http_server_active_websockets", ("/ws",)): [2]}


def test_times_of_streams_background_tasks_and_the_library():
    """Each has its own histogram, with its own labels."""
    series = Series()
    metrics = ServiceMetrics(series, Settings())
    metrics.first_byte("GET", "/s", 0.25)
    metrics.background("/s", 0.5)
    metrics.overhead(1e-5)
    assert {key: values[-1] for key, values in cells(series).items()} == {
        ("http_server_first_byte_seconds", ("GET", "/s")): 0.25,
        ("http_server_background_seconds", ("/s",)): 0.5,
        ("modelwatch_request_overhead_seconds", ()): 1e-5,
    }


@pytest.mark.parametrize(
    ("switches", "expected"),
    [
        ({}, {DURATION, "http_server_active_requests", "http_server_request_body_size_bytes"}),
        ({"http": False}, set()),
        ({"http_server_request_body_size_bytes": False}, {DURATION, "http_server_active_requests"}),
        ({"http": False, DURATION: True}, {DURATION}),
    ],
)
def test_what_is_switched_off_is_not_shown_and_does_not_grow(switches, expected):
    """A metric that is off is on no page, and its cells are one label set however many routes there are."""
    series, settings = Series(), Settings(metrics=switches)
    metrics = ServiceMetrics(series, settings)
    for n in range(20):
        series.values[metrics.active["GET"]] += 1
        metrics.count(metrics.bind("GET", f"/{n}", 200, ""), 0.1, 0, 0)
        metrics.connect("/ws") if n == -1 else metrics.background(f"/{n}", 0.1)
    families = shown(series, settings)
    assert families & (expected | {DURATION, "http_server_active_requests", "http_server_request_body_size_bytes"}) == (
        expected
    )
    sets = {}
    for cell in series.cells():
        sets[cell.metric] = sets.get(cell.metric, 0) + 1
    assert all(
        sets[metric] == 1 for metric in sets if metric not in families and metric != "http_server_background_seconds"
    )
