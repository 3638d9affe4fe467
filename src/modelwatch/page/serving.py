"""Who gets the page and its JSON, and how the JSON is made: in a thread, once for all who watch.

::

    GET /modelwatch ───────────► token? ─► the document, made once
    GET /modelwatch/data.json ─► token? ─► not older than a second? ── yes ─► the same bytes
                                             └ no ─► sight of all workers ─► state ─► JSON, gzip
"""

from __future__ import annotations

import gzip
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from .._types import Clock
from ..answering import Answer, Headers, Receive, Scope, Send, made, refused, takes_gzip
from ..door import BASIC, BEARER, Door
from ..flight import Flight
from ..guard import Guard
from ..metrics.pace import Pace
from ..settings import Settings
from ..sharing import Sharing, Sight
from .document import data_headers, document
from .history import History
from .snapshot import Snapshot, snapshot_of
from .state import state_of

_HTML, _JSON = b"text/html; charset=utf-8", b"application/json"
_DEPTH = 5  # so deep lies a feature
FRESH_SECONDS = 1.0
"""So long the JSON is given to whoever asks: however many watch, and however often, it is made once a second."""


class LivePage:
    """The live page of an app.

    Parameters
    ----------
    sharing
        What all workers have counted.
    settings
        `page_path`, and `metrics_token`, which is read once, here.
    guard
        Counts what goes wrong, at stage "page".
    version
        Of modelwatch.
    clock, wall
        Seconds, rising, and since 1970.

    Attributes
    ----------
    pages
        What answers, by path: each is an ASGI application, and answers threads.
    history
        The last hour.

    Notes
    -----
    Threads: any number. Processes: each has its own; whichever is asked answers for all.
    """

    def __init__(
        self,
        sharing: Sharing,
        settings: Settings,
        guard: Guard,
        version: str,
        *,
        clock: Clock = time.monotonic,
        wall: Clock = time.time,
    ) -> None:
        door = Door(settings.metrics_token)

        def take() -> Snapshot:
            return snapshot_of(sharing.sight(asks=False), wall())

        self.history = History(take, lambda: sharing.publisher.workers, guard, clock)

        def state(pace: Pace) -> object:
            self.history.ensure()
            sight: Sight = sharing.sight()
            points: Sequence[Snapshot] = self.history.points()
            return state_of(sight, points, wall(), version=version, pace=pace)

        data = Data(state, door, guard, clock)
        self.pages: Mapping[str, Page | Data] = {
            settings.page_path: Page(door),
            f"{settings.page_path}/data.json": data,
        }


class _Body(NamedTuple):
    plain: bytes
    packed: bytes
    at: float = 0.0


class Page:
    """Answers with the document.

    Notes
    -----
    Threads and processes: never changes, so any number.
    """

    def __init__(self, door: Door) -> None:
        self._door = door
        html, self._headers = document()
        self._body = _Body(html, gzip.compress(html, mtime=0))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one HTTP request; its body is not read."""
        await self.answer(scope["method"], scope.get("headers", ()), b"").send(send)

    def answer(self, method: str, headers: Iterable[tuple[bytes, bytes]], query: bytes) -> Answer:
        """Answer one HTTP request of a thread's. The query is passed over."""
        headers = list(headers)
        refusal = _refusal(self._door, method, headers)
        return refusal or _answer(method, headers, self._body, [(b"content-type", _HTML), *self._headers])


class Data(Flight[bool, _Body]):
    """Answers with the JSON.

    Parameters
    ----------
    state
        Makes what it holds.
    door, guard, clock
        Those of the page.

    Notes
    -----
    Threads: event loops and threads, any number. Processes: each renders what all have counted.
    """

    def __init__(self, state: Callable[[Pace], object], door: Door, guard: Guard, clock: Clock) -> None:
        super().__init__(guard, "page")
        self._state, self._door, self._clock = state, door, clock

    def forked(self) -> None:
        """Begin anew in a child: what was made is the parent's."""
        super().forked()
        self._last: _Body | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one HTTP request; its body is not read."""
        method, headers = scope["method"], list(scope.get("headers", ()))
        answer = _refusal(self._door, method, headers)
        if answer is None:
            answer = self._answered(method, headers, self._fresh() or await self.rendered(True))
        await answer.send(send)

    def answer(self, method: str, headers: Iterable[tuple[bytes, bytes]], query: bytes) -> Answer:
        """Answer one HTTP request of a thread's, which waits for the rendering. The query is passed over."""
        headers = list(headers)
        answer = _refusal(self._door, method, headers)
        return answer or self._answered(method, headers, self._fresh() or self.waited(True))

    def _answered(self, method: str, headers: Headers, found: _Body | None) -> Answer:
        if found is None:
            return refused(
                method, 500, b"The page's data could not be made; the log of the service says why.\n", *data_headers()
            )
        return _answer(method, headers, found, [(b"content-type", _JSON), *data_headers()])

    def _fresh(self) -> _Body | None:
        last = self._last
        return last if last is not None and 0 <= self._clock() - last.at < FRESH_SECONDS else None

    def _render(self, wish: bool, pace: Pace) -> _Body | None:
        try:
            last = self._fresh()  # others have waited for the same, and it was made meanwhile
            if last is None:
                plain = "".join(_pieces(self._state(pace), _DEPTH, pace)).encode()
                self._last = last = _Body(plain, gzip.compress(plain, compresslevel=1, mtime=0), self._clock())
            return last
        except Exception as error:  # noqa: BLE001 - the one who waits must be answered
            self._guard.swallow("page", error)
            return None


def _pieces(value: Any, depth: int, pace: Pace) -> Iterator[str]:
    """JSON piece by piece: as one, that of 500 features would keep the interpreter from all others for 10 ms."""
    if depth and isinstance(value, dict) and value:
        for i, (key, part) in enumerate(value.items()):
            yield f"{',' if i else '{'}{json.dumps(key)}:"
            yield from _pieces(part, depth - 1, pace)
        yield "}"
    elif depth and isinstance(value, list) and value:
        for i, part in enumerate(value):
            yield "," if i else "["
            yield from _pieces(part, depth - 1, pace)
        yield "]"
    else:
        yield json.dumps(value, allow_nan=False, separators=(",", ":"))
        pace.look()


def _refusal(door: Door, method: str, headers: Headers) -> Answer | None:
    """Why a request is not answered; None if it is."""
    if not door.opens(headers, basic=True):
        return refused(
            method, 401, b"The token of the metrics is needed, as the password.\n", BASIC, BEARER, *data_headers()
        )
    if method not in {"GET", "HEAD"}:
        return refused(method, 405, b"Use GET or HEAD.\n", (b"allow", b"GET, HEAD"), *data_headers())
    return None


def _answer(method: str, headers: Headers, body: _Body, more: Headers) -> Answer:
    [(_, kind), *rest] = more
    if takes_gzip(headers):
        return made(method, 200, kind, body.packed, [*rest, (b"content-encoding", b"gzip")])
    return made(method, 200, kind, body.plain, rest)
