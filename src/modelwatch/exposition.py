"""`/metrics`: who may read it, in which format, and how it is rendered without the event loop and without failing.

::

    __call__ (ASGI) ─┐                                                       ┌─► one thread (see flight.py):
                     ├─ token? ─ GET or HEAD? ─ format, gzip, name[] ────────┤   collect, filter, encode, gzip
    answer (port) ───┘                                                       │
    response ◄───────────────────────────────────────────────────────────────┘
"""

from __future__ import annotations

import gzip
import time
from collections.abc import Iterable
from typing import NamedTuple
from urllib.parse import parse_qs

from prometheus_client.registry import CollectorRegistry

from ._types import Clock
from .answering import Answer, Headers, Receive, Scope, Send, header, made, qualities, refused, takes_gzip
from .door import BEARER, Door
from .flight import Flight
from .guard import Guard
from .metrics.families import bounds_of
from .metrics.pace import Pace
from .metrics.registry import Registry, render
from .series import Series, observe
from .settings import Settings

# Fixed here: what prometheus_client calls its latest format changes with its version.
_TEXT = b"text/plain; version=0.0.4; charset=utf-8"
_OPENMETRICS = b"application/openmetrics-text; version=1.0.0; charset=utf-8"
_OPENMETRICS_KINDS = {"application/openmetrics-text", "application/openmetrics-text;version=1.0.0"}
_WORTH_COMPRESSING = 1024
_DURATION = "modelwatch_scrape_duration_seconds"


class _Wish(NamedTuple):
    """What a scrape asks for. Equal wishes share a rendering."""

    openmetrics: bool
    gzip: bool
    names: frozenset[str]  # of samples or families; empty for all


class _Page(NamedTuple):
    body: bytes
    compressed: bool


class Exposition(Flight[_Wish, _Page]):
    """Answers requests for `/metrics`: as an ASGI application, and for a port of its own by `answer`.

    Parameters
    ----------
    registry
        What is shown; best a `metrics.registry.Registry`, which outlives collectors that fail or hang one by one. Any
        other is asked as one collector.
    settings
        `metrics_token` is read once, here.
    guard
        Swallows errors of rendering, at stage "scrape".
    series
        Where the time of every rendering is counted, so that the next one shows it. Default: one of its own.
    clock
        Seconds, for that time.

    Raises
    ------
    ConfigurationError
        The token is empty or has white space or control characters, so that no header can bring it.

    Notes
    -----
    A scrape sees all that happened before it was asked for, and never less than the scrape before.

    Threads: event loops and threads, any number, may call it at once. Processes: each renders what it has; after a fork
    the child starts a thread of its own.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        settings: Settings,
        guard: Guard,
        *,
        series: Series | None = None,
        clock: Clock = time.perf_counter,
    ) -> None:
        super().__init__(guard, "scrape")
        self.series = Series() if series is None else series
        self._registry = registry
        if not isinstance(registry, Registry):
            self._registry = Registry(guard, settings.collect_seconds)
            self._registry.register(registry)
        self._clock = clock
        self._door = Door(settings.metrics_token)
        self._bounds = bounds_of(_DURATION, settings)
        self._place = self.series.histogram(_DURATION, (), self._bounds)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one HTTP request. The body of the request is not read; a client that has gone is no error."""
        wish = self._asked(scope["method"], scope.get("headers", ()), scope.get("query_string", b""))
        if isinstance(wish, Answer):
            answer = wish
        else:
            answer = _answer(scope["method"], wish, await self.rendered(wish))
        await answer.send(send)

    def answer(self, method: str, headers: Iterable[tuple[bytes, bytes]], query: bytes) -> Answer:
        """Answer one HTTP request of a thread's, which waits for the rendering. Not for an event loop.

        Parameters
        ----------
        method
            As the client sent it.
        headers
            Names in lower case.
        query
            What follows the question mark, not decoded.
        """
        wish = self._asked(method, headers, query)
        return wish if isinstance(wish, Answer) else _answer(method, wish, self.waited(wish))

    def _asked(self, method: str, headers: Iterable[tuple[bytes, bytes]], query: bytes) -> _Wish | Answer:
        """What is asked for, or why it is not answered."""
        headers = list(headers)
        if not self._door.opens(headers):
            return refused(method, 401, b"A bearer token is needed.\n", BEARER)
        if method not in {"GET", "HEAD"}:
            return refused(method, 405, b"Use GET or HEAD.\n", (b"allow", b"GET, HEAD"))
        return _wish(headers, query)

    def _render(self, wish: _Wish, pace: Pace) -> _Page | None:
        started = self._clock()
        try:
            body = render(self._registry, self._guard, openmetrics=wish.openmetrics, names=wish.names, pace=pace)
            compressed = wish.gzip and len(body) > _WORTH_COMPRESSING
            if compressed:
                body = gzip.compress(body, compresslevel=1, mtime=0)
            observe(self.series.values, self._place, self._bounds, self._clock() - started)
        except Exception as error:  # noqa: BLE001 - the one who waits must be answered
            self._guard.swallow("scrape", error)
            return None
        return _Page(body, compressed)


def _wish(headers: Headers, query: bytes) -> _Wish:
    accepted = qualities(header(headers, b"accept"))
    text = max((q for kind, q in accepted if kind.partition(";")[0] == "text/plain"), default=0.0)
    # Who can read only another version of OpenMetrics gets text.
    openmetrics = max((q for kind, q in accepted if kind in _OPENMETRICS_KINDS), default=0.0)
    return _Wish(
        openmetrics=openmetrics > 0 and openmetrics >= text,
        gzip=takes_gzip(headers),
        # Latin-1 never fails, and what is not ASCII in a query is percent-encoded, which parse_qs reads as UTF-8.
        names=frozenset(parse_qs(query.decode("latin-1")).get("name[]", ())),
    )


def _answer(method: str, wish: _Wish, page: _Page | None) -> Answer:
    if page is None:
        return refused(method, 500, b"The metrics could not be rendered; the log of the service says why.\n")
    more = [(b"content-encoding", b"gzip")] if page.compressed else []
    return made(method, 200, _OPENMETRICS if wish.openmetrics else _TEXT, page.body, more)
