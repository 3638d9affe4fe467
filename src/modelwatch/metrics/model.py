"""Requests to the endpoints of one model: how many, how they ended, how long they waited and took, how many rows.

A request that succeeded leaves five numbers behind. All arithmetic is done with those of many at a time, when the cells
are read and with one request in 128: done at once it would cost a request more than all else of this layer.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from operator import sub
from typing import Any

from .._types import Clock
from ..exchange import CANCELLED, DISCONNECTED, FAILED, Exchange
from ..guard import Guard
from ..series import Series, observe, observe_all
from ..settings import Settings
from .catalogue import CATALOGUE
from .families import bounds_of

STATUSES = ("success", "invalid", "rejected", "timeout", "error", "client_disconnect", "cancelled")
"""How a request to a model can end; the values of the label `status`."""


@dataclass(frozen=True, eq=False, slots=True)
class _Places:
    """Where requests to one version of the model are counted.

    Attributes
    ----------
    over
        What is not yet counted: of each request when it came, when its endpoint began and ended, when it was over, and
        its rows or None. All in one list, for it is cut apart by slices.
    """

    statuses: dict[str, int]
    latency: int
    inference: int
    queue: int
    over: list[Any] = field(default_factory=list)


class ModelRequests:
    """The cells of one model that its requests write.

    Parameters
    ----------
    series
        The app's cells.
    settings
        Bucket bounds.
    model_name, model_version
        The labels.
    guard
        Swallows what goes wrong while requests are counted, at stage "capture".
    clock, timer
        Seconds since 1970, and those that times of requests are told in.

    Attributes
    ----------
    values, in_progress, depth
        The cells, and places of two gauges among them, for `watch.py`, where `arrived` and `begun` are written out: a
        call costs as much as all that a request does here.

    Notes
    -----
    Threads: the event loop's; `begun` may be called from an endpoint's thread. Processes: each has its own.
    """

    def __init__(
        self,
        series: Series,
        settings: Settings,
        model_name: str,
        model_version: str,
        guard: Guard,
        *,
        clock: Clock = time.time,
        timer: Clock = time.perf_counter,
    ) -> None:
        self._series = series
        self._guard = guard
        self._clock, self._timer = clock, timer
        self._name = model_name
        self._latency_bounds = bounds_of("model_request_latency_seconds", settings)
        self._inference_bounds = bounds_of("model_inference_duration_seconds", settings)
        self._queue_bounds = bounds_of("model_queue_duration_seconds", settings)
        self._batch_bounds = bounds_of("model_batch_size", settings)
        self._batch = series.histogram("model_batch_size", (model_name,), self._batch_bounds)
        self.in_progress = series.counter("model_requests_in_progress", (model_name,))
        self.depth = series.counter("model_queue_depth", (model_name,))
        self.values = series.values
        self._last: int | None = None
        self._ended = 0.0
        self.turn(model_version)
        series.settlers.append(self._settle)

    def turn(self, model_version: str) -> None:
        """Count for another version from now on: after a reload. The cells of the old one stay as they are."""
        series, of = self._series, (self._name, model_version)
        series.settle()
        self.model_version = model_version
        self._places = _Places(
            {status: series.counter("model_request_total", (*of, status)) for status in STATUSES},
            series.histogram("model_request_latency_seconds", of, self._latency_bounds),
            series.histogram("model_inference_duration_seconds", of, self._inference_bounds),
            series.histogram("model_queue_duration_seconds", of, self._queue_bounds),
        )

    def arrived(self) -> None:
        """A request came to an endpoint; `begun` follows if its function begins, and then `count` or `dropped`."""
        values = self.values
        values[self.in_progress] += 1
        values[self.depth] += 1

    def begun(self) -> None:
        """Its endpoint function begins."""
        self.values[self.depth] -= 1

    def dropped(self, *, queued: bool) -> None:
        """It is not to be counted after all. `queued`: its endpoint function never began."""
        values = self.values
        values[self.in_progress] -= 1
        if queued:
            values[self.depth] -= 1

    def count(self, exchange: Exchange, status: str, rows: int | None, queued: bool) -> None:
        """Count a request that is over, with its times, and its rows if they are known. `queued`: as for `dropped`."""
        if status == "success" and exchange.left and not queued:
            self._places.over.extend((exchange.started, exchange.entered, exchange.left, exchange.ended, rows))
            return
        places, values = self._places, self.values
        values[self.in_progress] -= 1
        if queued:
            values[self.depth] -= 1
        values[places.statuses[status]] += 1
        observe(values, places.latency, self._latency_bounds, exchange.ended - exchange.started)
        if exchange.entered:
            observe(values, places.queue, self._queue_bounds, exchange.entered - exchange.started)
            if exchange.left:
                observe(values, places.inference, self._inference_bounds, exchange.left - exchange.entered)
        if rows is not None:
            observe(values, self._batch, self._batch_bounds, rows)
        self._seen(exchange.ended)

    def _settle(self) -> None:
        """Count the requests that are over. Called by the series, from any thread, one at a time."""
        places = self._places
        size = len(places.over)
        if not size:
            return
        try:
            over = places.over[:size]
            del places.over[:size]  # more may have come since
            started, entered, left, ended, rows = (over[i::5] for i in range(5))
            values = self.values
            values[self.in_progress] -= len(rows)
            values[places.statuses["success"]] += len(rows)
            observe_all(values, places.latency, self._latency_bounds, list(map(sub, ended, started)))
            observe_all(values, places.queue, self._queue_bounds, list(map(sub, entered, started)))
            observe_all(values, places.inference, self._inference_bounds, list(map(sub, left, entered)))
            observe_all(values, self._batch, self._batch_bounds, [count for count in rows if count is not None])
            self._seen(ended[-1])
        except Exception as error:  # noqa: BLE001 - whoever reads or serves goes on
            self._guard.swallow("capture", error)

    def _seen(self, ended: float) -> None:
        """Say when the last request was over, in the time of the world."""
        if ended < self._ended:  # those that wait may be older than one that did not
            return
        self._ended = ended
        if self._last is None:  # only now: before the first request nothing is known, and nothing is said
            self._last = self._series.counter("model_last_request_timestamp_seconds", (self._name,))
        self.values[self._last] = self._clock() - (self._timer() - ended)

    def failed(self, exception_type: str) -> None:
        """Count an exception that came out of an endpoint, by the name of its class."""
        name = "model_exceptions_total"
        self.values[self._series.counter(name, (self._name, exception_type), CATALOGUE[name].most)] += 1

    def refused(self, field: str, error_type: str) -> None:
        """Count a validation error. `field` must come from the schema, not from the request."""
        name = "model_input_validation_errors_total"
        self.values[self._series.counter(name, (self._name, field, error_type), CATALOGUE[name].most)] += 1


def status_of(exchange: Exchange, *, timed_out: bool = False) -> str:
    """How a request ended, one of STATUSES.

    Parameters
    ----------
    exchange
        A request that is over.
    timed_out
        Whether a TimeoutError came out of the endpoint.

    >>> exchange = Exchange()
    >>> exchange.status, exchange.outcome = 422, "complete"
    >>> status_of(exchange)
    'invalid'
    """
    gone = _GONE.get(exchange.outcome)
    if gone is not None:
        return gone
    status = exchange.status
    if exchange.outcome == FAILED or status >= 500 or status == 0:
        late = status == 504 or timed_out or exchange.error == "TimeoutError"
        return "timeout" if late else "error"
    return "success" if status < 400 else _REFUSED.get(status, "rejected")


_GONE = {CANCELLED: "cancelled", DISCONNECTED: "client_disconnect"}
_REFUSED = {408: "timeout", 422: "invalid"}
