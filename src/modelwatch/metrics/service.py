"""The service layer's own cells: what the middleware counts of all routes.

Requests only look up dictionaries and add: every name, label and bound is resolved once per label set. Those of a usual
response do not even search bounds: they are counted many at a time, by `count_all`.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TypeVar

from ..series import Series, observe, observe_all
from ..settings import Settings
from .catalogue import CATALOGUE
from .families import bounds_of, enabled

DURATION, FIRST_BYTE = "http_server_request_duration_seconds", "http_server_first_byte_seconds"
ACTIVE, WEBSOCKETS = "http_server_active_requests", "http_server_active_websockets"
RECEIVED, SENT = "http_server_request_body_size_bytes", "http_server_response_body_size_bytes"
BACKGROUND, OVERHEAD = "http_server_background_seconds", "modelwatch_request_overhead_seconds"

OTHER_METHOD = "_OTHER"
Ending = tuple[str, str, int, str]
"""Method, route, status and error of a request that has ended."""

_METHODS = {
    name: name
    for name in ("CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE", OTHER_METHOD)
}
_MOST_BOUND = 4096
Places = tuple[int, int, int]
"""Where a request is counted: first buckets of its duration and of the sizes of its two bodies."""

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


class _Histogram:
    """One histogram's cells by label values."""

    def __init__(self, name: str, series: Series, settings: Settings) -> None:
        self.bounds = bounds_of(name, settings)
        self.on = enabled(CATALOGUE[name], settings)
        self._name, self._most, self._series = name, CATALOGUE[name].most, series
        self._places: dict[tuple[str, ...], int] = {}

    def place(self, *labels: str) -> int:
        """Where the label set's buckets begin. All label sets of a metric that is off share one, which nobody sees."""
        if not self.on:
            labels = ("",) * len(labels)
        return self._series.histogram(self._name, labels, self.bounds, self._most)

    def observe(self, x: float, *labels: str) -> None:
        """Count `x`."""
        if self.on:
            place = self._places.get(labels)
            if place is None:
                place = _bind(self._places, labels, self.place(*labels))
            observe(self._series.values, place, self.bounds, x)


class _Active(dict[str, int]):
    """Places of the gauges of active requests by method, made when first asked for."""

    def __init__(self, series: Series, on: bool) -> None:
        super().__init__()
        self._series, self._on = series, on

    def __missing__(self, method: str) -> int:
        name = _METHODS.get(method, OTHER_METHOD) if self._on else ""
        place = self._series.counter(ACTIVE, (name,))
        if method in _METHODS:  # of the others there is no end
            self[method] = place
        return place


class ServiceMetrics:
    """Counts requests, bytes, times and websockets of all routes.

    Parameters
    ----------
    series
        Where the cells are.
    settings
        Switches and bucket bounds. A metric that is off is nowhere seen, and does not grow.

    Notes
    -----
    Routes and statuses are bounded by the app, methods by a list, exceptions by the catalogue; `series` folds what is
    beyond its limit.

    Threads: the event loop's. Two loops may share it: then a cell may be bound twice, at the same place.
    Processes: as `series`.

    >>> series = Series()
    >>> metrics = ServiceMetrics(series, Settings())
    >>> metrics.count(metrics.bind("GET", "/", 200, ""), 0.1, 0, 12)
    >>> [(cell.labels, cell.values[-1]) for cell in series.cells()]
    [(('GET', '/', '200', ''), 0.1), (('GET', '/'), 0.0), (('GET', '/'), 12.0)]
    """

    def __init__(self, series: Series, settings: Settings) -> None:
        self.series = series
        self._duration = _Histogram(DURATION, series, settings)
        self._received = _Histogram(RECEIVED, series, settings)
        self._sent = _Histogram(SENT, series, settings)
        self._bounds = self._duration.bounds, self._received.bounds, self._sent.bounds
        self._first = _Histogram(FIRST_BYTE, series, settings)
        self._background = _Histogram(BACKGROUND, series, settings)
        self._overhead = _Histogram(OVERHEAD, series, settings)
        self._websockets_on = enabled(CATALOGUE[WEBSOCKETS], settings)
        self.active: dict[str, int] = _Active(series, enabled(CATALOGUE[ACTIVE], settings))
        self._websockets: dict[str, int] = {}
        self._bound: dict[Ending, Places] = {}

    def bind(self, method: str, route: str, status: int, error: str) -> Places:
        """Where requests that end in this way are counted.

        Parameters
        ----------
        method
            As the client sent it.
        route
            Template, or one of the constants that stand for it.
        status
            Of the response, 0 if none was begun.
        error
            Value of the label `error_type`, empty if all went well.
        """
        labels = (method, route, status, error)
        places = self._bound.get(labels)
        if places is None:
            method = _METHODS.get(method, OTHER_METHOD)
            duration = self._duration.place(method, route, str(status) if status else "", error)
            places = duration, self._received.place(method, route), self._sent.place(method, route)
            _bind(self._bound, labels, places)
        return places

    def count(self, places: Places, seconds: float, received: int, sent: int) -> None:
        """Count a request that has ended.

        Parameters
        ----------
        places
            As `bind` returned them.
        seconds
            From arrival to the last byte or the failure.
        received, sent
            Bytes of the two bodies.
        """
        for place, bounds, x in zip(places, self._bounds, (seconds, received, sent), strict=True):
            observe(self.series.values, place, bounds, x)

    def count_all(
        self, places: Places, seconds: Collection[float], received: Collection[float], sent: Collection[float]
    ) -> None:
        """Count several requests that have ended alike."""
        for place, bounds, numbers in zip(places, self._bounds, (seconds, received, sent), strict=True):
            observe_all(self.series.values, place, bounds, numbers)

    def first_byte(self, method: str, route: str, seconds: float) -> None:
        """Count when the first byte of a streamed response was sent, from the request's arrival."""
        self._first.observe(seconds, _METHODS.get(method, OTHER_METHOD), route)

    def background(self, route: str, seconds: float) -> None:
        """Count for how long the app went on after the last byte."""
        self._background.observe(seconds, route)

    def overhead(self, seconds: float) -> None:
        """Count what the library itself took of one request."""
        self._overhead.observe(seconds)

    def connect(self, route: str) -> None:
        """A websocket was accepted."""
        self._websocket(route, 1)

    def disconnect(self, route: str) -> None:
        """A websocket that was accepted has ended."""
        self._websocket(route, -1)

    def _websocket(self, route: str, step: int) -> None:
        if self._websockets_on:
            place = self._websockets.get(route)
            if place is None:
                place = _bind(self._websockets, route, self.series.counter(WEBSOCKETS, (route,)))
            self.series.values[place] += step


def _bind(places: dict[_Key, _Value], key: _Key, place: _Value) -> _Value:
    """Remember a place. Exceptions can have any number of names: when too many are known, all are asked for again."""
    if len(places) >= _MOST_BOUND:
        places.clear()
    places[key] = place
    return place
