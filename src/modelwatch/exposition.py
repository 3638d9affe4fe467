"""`/metrics`: who may read it, in which format, and how it is rendered without the event loop and without failing.

::

    __call__ (ASGI) ─┐                                                               ┌─► one thread, while there is
                     ├─ token? ─ GET or HEAD? ─ format, gzip, name[] ─► _join ───────┤   something to render: collect,
    answer (port) ───┘                                                               │   filter, encode, gzip
    response ◄──────────────────────────────────────────────────────────── future ◄──┘

One rendering at a time. Scrapes that come while one is rendered and want the same wait for the next one together: N
scrapes at once cost two renderings, and each shows all that had happened before it was asked for.
"""

from __future__ import annotations

import asyncio
import gzip
import hmac
import os
import threading
import time
import weakref
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from concurrent.futures import Future
from typing import Any, NamedTuple
from urllib.parse import parse_qs

from prometheus_client.registry import CollectorRegistry
from pydantic import SecretStr

from ._types import Clock
from .exceptions import ConfigurationError
from .guard import Guard
from .metrics.families import bounds_of
from .metrics.pace import NoPace, Pace
from .metrics.registry import Registry, render
from .series import Series, observe
from .settings import Settings

_Scope = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
_Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

# Fixed here: what prometheus_client calls its latest format changes with its version.
_PLAIN = b"text/plain; charset=utf-8"
_TEXT = b"text/plain; version=0.0.4; charset=utf-8"
_OPENMETRICS = b"application/openmetrics-text; version=1.0.0; charset=utf-8"
_OPENMETRICS_KINDS = {"application/openmetrics-text", "application/openmetrics-text;version=1.0.0"}
_WORTH_COMPRESSING = 1024
_DURATION = "modelwatch_scrape_duration_seconds"
_ALL: weakref.WeakSet[Exposition] = weakref.WeakSet()


class _Wish(NamedTuple):
    """What a scrape asks for. Equal wishes share a rendering."""

    openmetrics: bool
    gzip: bool
    names: frozenset[str]  # of samples or families; empty for all


class _Page(NamedTuple):
    body: bytes
    compressed: bool


class Answer(NamedTuple):
    """What goes back to a client. The names of the headers are in lower case."""

    status: int
    headers: Headers
    body: bytes  # empty for HEAD, whose `content-length` is that of GET


class Exposition:
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
    A scrape sees all that happened before it was asked for, and never less than the scrape before. The rendering thread
    is a daemon that starts with a scrape and ends when no scrape waits: no pool of the service's can keep it waiting,
    and nothing is left of it when an app is dropped.

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
        self.series = Series() if series is None else series
        self._registry = registry
        if not isinstance(registry, Registry):
            self._registry = Registry(guard, settings.collect_seconds)
            self._registry.register(registry)
        self._guard = guard
        self._clock = clock
        self._token = _usable(settings.metrics_token)
        self._bounds = bounds_of(_DURATION, settings)
        self._place = self.series.histogram(_DURATION, (), self._bounds)
        self.forked()
        _ALL.add(self)

    def forked(self) -> None:
        """Begin anew in a child, which has only the thread that forked: nobody waits here, and no lock is held."""
        self._lock = threading.Lock()
        self._waiting: dict[_Wish, Future[_Page | None]] = {}
        self._thread: threading.Thread | None = None

    async def __call__(self, scope: _Scope, receive: _Receive, send: _Send) -> None:
        """Answer one HTTP request. The body of the request is not read; a client that has gone is no error."""
        wish = self._asked(scope["method"], scope.get("headers", ()), scope.get("query_string", b""))
        if isinstance(wish, Answer):
            answer = wish
        else:
            answer = _answer(scope["method"], wish, await self._rendered(wish))
        try:
            await send({"type": "http.response.start", "status": answer.status, "headers": answer.headers})
            await send({"type": "http.response.body", "body": answer.body})
        except OSError:
            # So a server says that the client has gone (ASGI 2.4): nobody is left to answer.
            return

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
        if isinstance(wish, Answer):
            return wish
        try:
            future = self._join(wish)
        except RuntimeError:  # no thread to be had
            return _answer(method, wish, self._render(wish, Pace()))
        return _answer(method, wish, future.result())

    def _asked(self, method: str, headers: Iterable[tuple[bytes, bytes]], query: bytes) -> _Wish | Answer:
        """What is asked for, or why it is not answered."""
        headers = list(headers)
        if not self._may_read(headers):
            return _refusal(method, 401, b"A bearer token is needed.\n", (b"www-authenticate", b"Bearer"))
        if method not in {"GET", "HEAD"}:
            return _refusal(method, 405, b"Use GET or HEAD.\n", (b"allow", b"GET, HEAD"))
        return _wish(headers, query)

    def _may_read(self, headers: Headers) -> bool:
        if self._token is None:
            return True
        scheme, _, credentials = _header(headers, b"authorization").strip().partition(b" ")
        # Both are bytes: compare_digest refuses text that is not ASCII, and its time says nothing of the token.
        token = self._token.get_secret_value().encode()
        return hmac.compare_digest(credentials.strip(), token) and scheme.lower() == b"bearer"

    async def _rendered(self, wish: _Wish) -> _Page | None:
        try:
            asyncio.get_running_loop()
            future = self._join(wish)
        except RuntimeError:
            # Another event loop than asyncio's, or no thread to be had: late telemetry is better than none.
            return self._render(wish, NoPace())
        # Shielded by its running state: a scrape that is cancelled takes the page from nobody else.
        return await asyncio.wrap_future(future)

    def _join(self, wish: _Wish) -> Future[_Page | None]:
        """The next rendering of a wish, which has not begun, so that it shows all that has happened until now."""
        with self._lock:
            future = self._waiting.get(wish)
            if future is None:
                future = Future()
                future.set_running_or_notify_cancel()
                # After a fork the parent's thread is there, but dead.
                if self._thread is None or not self._thread.is_alive():
                    thread = threading.Thread(target=self._work, name="modelwatch-scrape", daemon=True)
                    thread.start()
                    self._thread = thread
                self._waiting[wish] = future
            return future

    def _work(self) -> None:
        """Render until nobody waits."""
        while True:
            with self._lock:
                if not self._waiting:
                    self._thread = None
                    return
                wish = next(iter(self._waiting))
                future = self._waiting.pop(wish)
            page = None
            try:
                page = self._render(wish, Pace())
            except BaseException as error:  # noqa: BLE001 - a collector's SystemExit must not leave others waiting
                self._guard.swallow("scrape", error)
            finally:
                future.set_result(page)

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


def _usable(token: SecretStr | None) -> SecretStr | None:
    """The token, still wrapped up: so neither `vars` nor the frames of a traceback show it."""
    if token is not None and not _is_word(token):
        raise ConfigurationError(
            "Expected `metrics_token` to be a word without white space, as an Authorization header brings it, got one "
            "that is empty or has other characters. Change it, or leave it out for open metrics."
        )
    return token


def _is_word(token: SecretStr) -> bool:
    text = token.get_secret_value()
    return bool(text) and text.isprintable() and " " not in text


def _wish(headers: Headers, query: bytes) -> _Wish:
    accepted = _qualities(_header(headers, b"accept"))
    text = max((q for kind, q in accepted if kind.partition(";")[0] == "text/plain"), default=0.0)
    # Who can read only another version of OpenMetrics gets text.
    openmetrics = max((q for kind, q in accepted if kind in _OPENMETRICS_KINDS), default=0.0)
    return _Wish(
        openmetrics=openmetrics > 0 and openmetrics >= text,
        gzip=any(coding == "gzip" and q > 0 for coding, q in _qualities(_header(headers, b"accept-encoding"))),
        # Latin-1 never fails, and what is not ASCII in a query is percent-encoded, which parse_qs reads as UTF-8.
        names=frozenset(parse_qs(query.decode("latin-1")).get("name[]", ())),
    )


def _qualities(header: bytes) -> list[tuple[str, float]]:
    """The choices of an Accept or Accept-Encoding header with their weights.

    Of the parameters only the version is kept: the others change nothing that is shown.
    """
    found = []
    for choice in header.decode("latin-1").lower().split(","):
        kind, *parameters = ("".join(part.replace('"', "").split()) for part in choice.split(";"))
        values = dict(parameter.partition("=")[::2] for parameter in parameters)
        version = f";version={values['version']}" if "version" in values else ""
        try:
            quality = float(values.get("q", "1"))
        except ValueError:
            quality = 0.0
        found.append((kind + version, quality))
    return found


def _header(headers: Headers, name: bytes) -> bytes:
    """All values of a header, with commas between them; empty without one."""
    return b",".join(value for key, value in headers if key == name)


def _answer(method: str, wish: _Wish, page: _Page | None) -> Answer:
    if page is None:
        return _refusal(method, 500, b"The metrics could not be rendered; the log of the service says why.\n")
    more = [(b"content-encoding", b"gzip")] if page.compressed else []
    return _made(method, 200, _OPENMETRICS if wish.openmetrics else _TEXT, page.body, more)


def _refusal(method: str, status: int, message: bytes, *more: tuple[bytes, bytes]) -> Answer:
    return _made(method, status, _PLAIN, message, more)


def _made(method: str, status: int, kind: bytes, body: bytes, more: Iterable[tuple[bytes, bytes]]) -> Answer:
    headers = [(b"content-type", kind), (b"content-length", b"%d" % len(body)), *more]
    return Answer(status, headers, b"" if method == "HEAD" else body)


def _forked() -> None:
    for exposition in list(_ALL):
        exposition.forked()


os.register_at_fork(after_in_child=_forked)
