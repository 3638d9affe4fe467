"""What the middleware notes of requests, and where it goes: cells of the service layer, and the endpoints of models.

Every step here is paid by every request, and among the work of a real app each bytecode costs some 18 ns, whatever it
does. So what is usual (a response in one piece, below 500, of a route that was seen before) has a short way of its own,
`Service.sent`, which keeps three numbers that are counted later, many at a time. All else goes round it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from time import perf_counter
from typing import TYPE_CHECKING, Any

from .ending import Request, announced, in_vain, judge
from .exchange import COMPLETE, Capturer
from .guard import Guard
from .metrics.service import Places, ServiceMetrics
from .routes import USUALLY_EXCLUDED, Patterns, Templates

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Scope, Send

UNMATCHED, REDIRECT = "_unmatched", "_redirect"
"""Values of the label `http_route` where no route was reached: by redirects, and by all else."""

LINGERING = 0.01
"""Seconds after the last byte from which on an app's further work is counted as that of background tasks."""

_BODY, _PATH = "http.response.body", "http.response.pathsend"
_PLAIN_METHODS = {"DELETE", "GET", "OPTIONS", "PATCH", "POST", "PUT"}
_TIMED = 128
_UNSETTLED = 4  # so many times as many wait at most to be counted: the more, the less each costs
_MOST_KNOWN = 4096
_REFUSED = 400


@dataclass(frozen=True, eq=False, slots=True)
class _Known:
    """A way of answering that was seen before.

    Attributes
    ----------
    places, route
        Where it is counted, and the template of its route.
    over
        What is not yet counted: of each request its seconds and the bytes of its two bodies. All in one list, for it is
        cut apart by slices.
    """

    places: Places
    route: str
    over: list[float] = field(default_factory=list)


class Service:
    """What the middleware works with.

    Parameters
    ----------
    metrics, templates, guard
        Those of the instrumented app.
    metrics_path
        Where `exposition` answers, below the root path.
    exposition
        The ASGI app that shows the metrics; None leaves the path to the app.
    pages
        ASGI apps that answer at further paths below the root path.
    excluded
        Paths and templates of requests that are not recorded at all.
    on_loop
        Called on the event loop when the app starts, with the first request, and with one in 128.
    on_end
        Called when the app has ended, where its server tells it so: nothing may rely on that.
    capture
        That of the app.

    Notes
    -----
    Threads: event loops may share it. Processes: each has its own.
    """

    def __init__(
        self,
        *,
        metrics: ServiceMetrics,
        templates: Templates,
        guard: Guard,
        metrics_path: str = "/metrics",
        exposition: ASGIApp | None = None,
        pages: Mapping[str, ASGIApp] | None = None,
        excluded: Patterns = USUALLY_EXCLUDED,
        on_loop: Sequence[Callable[[], None]] = (),
        on_end: Callable[[], object] = int,
        capture: Capturer | None = None,
    ) -> None:
        self.metrics, self.templates, self.guard = metrics, templates, guard
        self.excluded = excluded
        self.metrics_path = metrics_path
        self._exposition, self._pages = exposition, dict(pages or {})
        self._set_apart()
        self._on_loop = on_loop
        self.ends = on_end
        self.capture = capture
        self.series, self.active = metrics.series, metrics.active
        self.values = metrics.series.values
        self._timed = 0
        self.turns = cycle([True] + [False] * (_TIMED - 1))
        self._known: dict[tuple[Any, str, int], _Known] = {}
        self.series.settlers.append(self._settle)
        # The status from which on a request that came to no endpoint of a model may have been meant for one. Without
        # the hooks none of them comes there by itself.
        self._missing = 0 if capture is not None and not capture.available else _REFUSED

    @property
    def exposition(self) -> ASGIApp | None:
        """The ASGI app that shows the metrics; None leaves the path to the app."""
        return self._exposition

    @exposition.setter
    def exposition(self, exposition: ASGIApp | None) -> None:
        self._exposition = exposition
        self._set_apart()

    @property
    def pages(self) -> Mapping[str, ASGIApp]:
        """What answers at further paths."""
        return self._pages

    @pages.setter
    def pages(self, pages: Mapping[str, ASGIApp]) -> None:
        self._pages = dict(pages)
        self._set_apart()

    def _set_apart(self) -> None:
        own = self._pages.keys() if self._exposition is None else {self.metrics_path, *self._pages}
        self.apart = self.excluded.and_exactly(own)

    def own(self, path: str) -> ASGIApp | None:
        """What of the library's answers at a path below the root path; None leaves it to the app."""
        return self._exposition if path == self.metrics_path else self._pages.get(path)

    def begins(self) -> None:
        """The app starts, on this event loop."""
        self.on_loop()
        if self.capture is not None:
            self.capture.start()

    def on_loop(self) -> None:
        """Do what is to be done on the running event loop."""
        for call in self._on_loop:
            try:
                call()
            except Exception as error:  # noqa: BLE001 - the loop goes on, unmeasured
                self.guard.swallow("request", error)

    def time(self, request: Request) -> None:
        """Do what is too dear for every request: measure the library, count what waits, look at the loop."""
        request.usual = False
        self._timed += 1
        settling = 0.0
        if self._timed % _UNSETTLED == 0:
            since = perf_counter()
            self.series.settle()
            settling = perf_counter() - since
        self.on_loop()
        # What was counted is that of many requests, so this one answers for its share.
        request.own = perf_counter() - request.started - settling + settling / (_TIMED * _UNSETTLED)

    def sent(self, request: Request, scope: Scope, message: Message, received: int) -> None:
        """The app sends another message than the start of its response; `received`: bytes so far."""
        try:
            body, status = message["body"], request.begun["status"]
            known = self._known[scope["endpoint"], scope["method"], status]
        except Exception:  # noqa: BLE001 - nothing is known, or the endpoint is an object that cannot be hashed
            known = None
        # Who sends more than these two, such as `more_body`, takes the long way.
        if known is None or not body or not request.usual or len(message) > 2:
            self._note(request, scope, message, received)
            return
        request.ended = now = perf_counter()
        request.usual = False
        request.route = known.route
        request.scope = None  # a cycle: no request waits for the garbage collector
        self.values[request.place] -= 1
        known.over.extend((now - request.started, received, len(body)))
        if request.endpoint is not None:
            request.status, request.outcome = status, COMPLETE
            request.endpoint.finish(request)
        elif status >= self._missing and request.capture is not None:
            request.status, request.outcome = status, COMPLETE
            request.capture.unreached(request, scope)

    def _settle(self) -> None:
        """Count the requests that are over. Called by the series, from any thread, one at a time."""
        for known in list(self._known.values()):
            over = known.over
            count = len(over)
            if count:
                try:
                    numbers = over[:count]
                    del over[:count]  # more may have come since
                    self.metrics.count_all(known.places, numbers[::3], numbers[1::3], numbers[2::3])
                except Exception as error:  # noqa: BLE001 - whoever reads or serves goes on
                    self.guard.swallow("request", error)

    def heard(self, request: Request, message: Message, error: Exception) -> None:
        """The client sent a message without a body: `error` came of reading it."""
        try:
            kind = message["type"]
            if kind == "http.disconnect" and not request.ended and not request.stopped:
                request.gone, request.usual = True, False
            elif not isinstance(error, KeyError):
                self.guard.swallow("request", error)
        except Exception as failure:  # noqa: BLE001 - the message goes on, unnoted
            self.guard.swallow("request", failure)

    def close(
        self,
        request: Request,
        scope: Scope,
        received: int,
        error: BaseException | None,
        send: Send,
    ) -> None:
        """The app has returned, or raised `error`, and was not done with the last byte. `send`: the server's."""
        try:
            now, last = perf_counter(), request.stopped or request.ended
            if not last:
                self.series.values[request.place] -= 1
                request.gone = request.gone or in_vain(error, send)
            self._conclude(request, scope, received, error)
            if last and request.route is not None and now - last > LINGERING:
                self.metrics.background(request.route, now - last)
        except Exception as failure:  # noqa: BLE001 - the app's own outcome stands
            self.guard.swallow("request", failure)

    def _note(self, request: Request, scope: Scope, message: Message, received: int) -> None:
        kind, now = message["type"], perf_counter()
        if request.ended or request.stopped or kind not in {_BODY, _PATH}:
            return
        request.usual = False
        request.size += len(message.get("body", b"")) if kind == _BODY else announced(request.begun) or 0
        if kind == _BODY and message.get("more_body", False):
            request.first = request.first or now
            return
        request.stopped = now
        self.series.values[request.place] -= 1
        whole = (request.size and not request.first) or announced(request.begun) == request.size
        if whole and request.begun["status"] < 500:
            self._conclude(request, scope, received, None)

    def _conclude(self, request: Request, scope: Scope, received: int, error: BaseException | None) -> None:
        """Count the request and hand it to its endpoint, once."""
        if request.outcome or request.ended:
            return
        since = perf_counter()
        request.ended = request.stopped or since
        kind = judge(request, error)
        if "endpoint" not in scope:  # no route was reached, or a middleware below has made a copy
            scope = scope if request.scope is None else request.scope
        try:
            self._count(request, scope, received, kind)
        except Exception as failure:  # noqa: BLE001 - the endpoint gets the request all the same
            self.guard.swallow("request", failure)
        if request.endpoint is not None:
            request.endpoint.finish(request)
        elif request.capture is not None and (request.status >= self._missing or request.outcome != COMPLETE):
            request.capture.unreached(request, scope)
        request.scope = None  # as above
        if request.own is not None:
            self.metrics.overhead(request.own + perf_counter() - since)

    def _count(self, request: Request, scope: Scope, received: int, kind: str) -> None:
        template, method, status = self.templates.of(scope, request.root), scope["method"], request.status
        route = template or (REDIRECT if 300 <= status < 400 else UNMATCHED)
        if route in self.excluded:
            return
        places = self.metrics.bind(method, route, status, kind)
        size = 0 if method == "HEAD" else request.size  # servers leave out its body
        self.metrics.count(places, request.ended - request.started, received, size)
        request.route = route
        if request.first:
            self.metrics.first_byte(method, route, request.first - request.started)
        endpoint = scope.get("endpoint")
        hashed: object = type(endpoint).__hash__
        if hashed is not object.__hash__:  # equal ones may stand at different places
            return
        key = (endpoint, method, status)
        known = self._known.get(key)
        if known is not None and known.route != route:  # the same function now stands at two places
            self._forget()
        elif known is None and not kind and template is not None and method in _PLAIN_METHODS:
            if len(self._known) >= _MOST_KNOWN:
                self._forget()
            if self.templates.stands_once(endpoint, template):
                self._known[key] = _Known(places, route)

    def _forget(self) -> None:
        self.series.settle()  # they know what is not yet counted
        self._known.clear()
