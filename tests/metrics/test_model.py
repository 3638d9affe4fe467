"""The cells that requests to a model write: statuses, times, rows, what is in progress."""

from __future__ import annotations

import pytest

from modelwatch.exchange import CANCELLED, COMPLETE, DISCONNECTED, FAILED, Exchange
from modelwatch.guard import Guard
from modelwatch.metrics.catalogue import CATALOGUE
from modelwatch.metrics.model import STATUSES, ModelRequests, status_of
from modelwatch.series import OTHER, Series
from modelwatch.settings import Settings

M = ("bike", "1")


@pytest.fixture
def series():
    """The cells of an app."""
    return Series()


@pytest.fixture
def requests(series, clock):
    """The requests of one model."""
    settings = Settings(buckets={"model_batch_size": (1, 10)})
    return ModelRequests(series, settings, *M, Guard(), clock=clock, timer=lambda: 103.0)


def cells(series):
    """{(metric, label values): values} of all that is there."""
    return {(cell.metric, *cell.labels): cell.values for cell in series.cells()}


def exchange(status=200, *, outcome=COMPLETE, error="", entered=0.0, left=0.0, ended=0.0):
    """A request that is over."""
    made = Exchange()
    made.started = 100.0
    made.status, made.outcome, made.error = status, outcome, error
    made.entered, made.left, made.ended = entered, left, ended
    return made


@pytest.mark.parametrize(
    ("status", "how", "counted"),
    [
        (200, {}, "success"),
        (307, {}, "success"),
        (404, {}, "rejected"),
        (408, {}, "timeout"),
        (422, {}, "invalid"),
        (500, {}, "error"),
        (504, {}, "timeout"),
        (500, {"outcome": FAILED, "error": "ValueError"}, "error"),
        (500, {"outcome": FAILED, "error": "TimeoutError"}, "timeout"),
        (200, {"outcome": FAILED, "error": "ValueError"}, "error"),  # a stream that broke off
        (200, {"error": "ValueError"}, "success"),  # of a background task
        (0, {}, "error"),
        (200, {"outcome": DISCONNECTED}, "client_disconnect"),
        (500, {"outcome": DISCONNECTED, "error": "ClientDisconnect"}, "client_disconnect"),
        (0, {"outcome": CANCELLED, "error": "CancelledError"}, "cancelled"),
    ],
)
def test_status_of_a_request(status, how, counted):
    """How a request ended is one of the closed set."""
    assert status_of(exchange(status, **how)) == counted
    assert counted in STATUSES


def test_a_timeout_that_became_a_500_is_a_timeout():
    """A TimeoutError that came out of the endpoint counts as such, whatever made a response of it."""
    assert status_of(exchange(500), timed_out=True) == "timeout"
    assert status_of(exchange(200), timed_out=True) == "success"


def test_all_statuses_are_there_from_the_start(series, requests):
    """Every status is shown at 0 before the first request; the time of the last request is not."""
    shown = cells(series)
    assert {key[-1] for key in shown if key[0] == "model_request_total"} == set(STATUSES)
    assert all(not any(values) for values in shown.values())
    assert ("model_last_request_timestamp_seconds", "bike") not in shown


def test_cells_are_those_of_the_catalogue(series, requests):
    """Every metric is written with as many labels as the catalogue says."""
    requests.failed("ValueError")
    requests.refused("a", "missing")
    requests.count(exchange(), "success", 1, queued=False)
    for name, *labels in cells(series):
        assert len(labels) == len(CATALOGUE[name].labels)


def test_times_and_rows_of_a_request(series, requests, clock):
    """Latency, waiting, inference and rows go where they belong, to the last byte, the start and the end."""
    requests.arrived()
    requests.begun()
    requests.count(exchange(entered=100.25, left=100.75, ended=102.0), "success", 10, queued=False)
    shown = cells(series)
    assert shown["model_request_total", *M, "success"] == [1]
    assert shown["model_request_latency_seconds", *M][-1] == 2.0
    assert shown["model_queue_duration_seconds", *M][-1] == 0.25
    assert shown["model_inference_duration_seconds", *M][-1] == 0.5
    assert shown["model_batch_size", "bike"] == [0, 1, 0, 10]
    assert shown["model_last_request_timestamp_seconds", "bike"] == [clock() - 1.0]


def test_what_never_began_has_no_times(series, requests):
    """A request that was refused, or whose endpoint raised, says nothing of what it did not reach."""
    requests.count(exchange(422, ended=101.0), "invalid", None, queued=True)
    requests.count(exchange(500, entered=100.5, ended=101.0), "error", None, queued=False)
    shown = cells(series)
    assert sum(shown["model_queue_duration_seconds", *M][:-1]) == 1
    assert sum(shown["model_inference_duration_seconds", *M][:-1]) == 0
    assert sum(shown["model_batch_size", "bike"][:-1]) == 0
    assert sum(shown["model_request_latency_seconds", *M][:-1]) == 2


def test_what_is_in_progress(series, requests):
    """A request is in the queue until its endpoint begins, and in progress until it is over."""

    def now():
        shown = cells(series)
        return shown["model_requests_in_progress", "bike"], shown["model_queue_depth", "bike"]

    requests.arrived()
    requests.arrived()
    assert now() == ([2], [2])
    requests.begun()
    assert now() == ([2], [1])
    requests.arrived()
    requests.dropped(queued=True)
    assert now() == ([2], [1])
    requests.dropped(queued=False)
    requests.count(exchange(), "error", None, queued=True)
    assert now() == ([0], [0])


def test_another_version_has_its_own_cells(series, requests):
    """After a reload the new version counts from 0, and the old one keeps what it has."""
    requests.count(exchange(), "success", None, queued=False)
    requests.turn("2")
    requests.count(exchange(), "success", None, queued=False)
    shown = cells(series)
    assert shown["model_request_total", "bike", "1", "success"] == [1]
    assert shown["model_request_total", "bike", "2", "success"] == [1]
    assert requests.model_version == "2"


def test_exceptions_are_bounded(series, requests):
    """Twenty classes of exceptions have a label of their own; the rest is counted together."""
    for i in range(30):
        requests.failed(f"Error{i}")
    shown = {key[-1]: values[0] for key, values in cells(series).items() if key[0] == "model_exceptions_total"}
    assert shown.pop(OTHER) == 10
    assert len(shown) == 20


def successes(requests, *ends, rows=2):
    """Requests that succeeded, at these times."""
    for end in ends:
        requests.arrived()
        requests.dropped(queued=True)
        requests.arrived()
        requests.begun()
        requests.count(exchange(entered=100.25, left=100.5, ended=end), "success", rows, queued=False)


def test_what_is_put_off_is_counted_when_it_is_read(series, requests, clock):
    """Successes wait until somebody reads; then each is in every cell, also in the gauges, and once."""
    successes(requests, 101.0, 102.0, 102.5)
    successes(requests, 103.0, rows=None)
    for _ in range(2):
        shown = cells(series)
        assert shown["model_request_total", *M, "success"] == [4]
        *latencies, seconds = shown["model_request_latency_seconds", *M]
        assert (sum(latencies), seconds) == (4, 8.5)
        assert shown["model_queue_duration_seconds", *M][-1] == 1.0
        assert shown["model_inference_duration_seconds", *M][-1] == 1.0
        assert shown["model_batch_size", "bike"] == [0, 3, 0, 6]
        assert shown["model_requests_in_progress", "bike"] == shown["model_queue_depth", "bike"] == [0]
        assert shown["model_last_request_timestamp_seconds", "bike"] == [clock()]


def test_a_version_ends_with_all_that_was_put_off(series, requests):
    """Requests that wait when the version changes are those of the old one."""
    successes(requests, 101.0)
    requests.turn("2")
    successes(requests, 102.0, 102.0)
    shown = cells(series)
    assert [shown["model_request_total", "bike", version, "success"] for version in "12"] == [[1], [2]]


def test_the_last_request_is_the_latest(series, requests, clock):
    """A failure that is counted at once stays the last one, though an earlier success is counted after it."""
    successes(requests, 101.0)
    requests.arrived()
    requests.count(exchange(500, ended=102.0), "error", None, queued=True)
    assert cells(series)["model_last_request_timestamp_seconds", "bike"] == [clock() - 1.0]


@pytest.mark.swallows
def test_a_failure_while_settling_costs_what_waited(series, requests, monkeypatch, swallowed_errors):
    """If what waits cannot be counted it is gone, the error is counted, and all goes on."""
    successes(requests, 101.0)
    with monkeypatch.context() as patch:
        patch.setattr("modelwatch.metrics.model.observe_all", None)
        cells(series)
    successes(requests, 102.0)
    assert cells(series)["model_batch_size", "bike"] == [0, 1, 0, 2]
    assert [stage for stage, _ in swallowed_errors] == ["capture"]
