"""The middleware: what every request was, how it ended, how long it took and how many bytes it moved.

::

    server ── Middleware ── the app's own stack ── router ── endpoint
                 │ our own paths     answered here, before routing, not counted
                 │ http              one Request: notes messages as they pass, ends with one `count` and one `finish`
                 │ websocket         counted while it is open
                 └ all else          passed on

It changes nothing: the same messages in the same order, and the app's own exceptions as the same objects. What goes
wrong in here is swallowed, counted by the guard, and costs telemetry only.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import TYPE_CHECKING, Any

from .ending import UNRECORDED, Request
from .exchange import KEY
from .guard import Guard
from .request import LINGERING, UNMATCHED, Service
from .routes import path_below

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

WEBSOCKET_KEY = KEY + ".websocket"
"""Where the root path of a websocket stands. It also stops nested instrumented apps from counting one twice."""


def install(app: Starlette, make: Callable[[ASGIApp], Middleware], guard: Guard | None = None) -> None:
    """Put a Middleware around all others of an app, now and whenever its stack is built anew.

    Done twice, or with other tools that replace `build_middleware_stack`, it still stands there once. If it cannot be
    made, the app goes without, and `guard` says so.
    """
    guard = guard or Guard()

    def wrapped(stack: ASGIApp) -> ASGIApp:
        try:
            return stack if _is_inside(stack) else make(stack)
        except Exception as error:  # noqa: BLE001 - an app that starts, and is not watched
            guard.swallow("request", error)
            return stack

    build = app.build_middleware_stack

    def build_middleware_stack() -> ASGIApp:
        return wrapped(build())

    vars(app)["build_middleware_stack"] = build_middleware_stack
    if app.middleware_stack is not None:  # the app has started: the builder will not be asked again
        app.middleware_stack = wrapped(app.middleware_stack)


def _is_inside(stack: Any) -> bool:
    for _ in range(100):
        if stack is None or isinstance(stack, Middleware):
            return stack is not None
        stack = getattr(stack, "app", None)
    return False


class Middleware:
    """Pure ASGI middleware that belongs around all others.

    Attributes
    ----------
    app
        What it wraps; by this name other tools find their own middleware below.

    Notes
    -----
    Threads: event loops may share it; it holds nothing of a connection. Processes: each has its own.
    """

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self.app = app
        self.service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a connection."""
        service, request, aside, received = self.service, None, self.app, 0
        try:
            if scope["type"] == "http" and KEY not in scope:
                root, path = scope.get("root_path"), scope["path"]
                if root:
                    path = path_below(scope)
                if path not in service.apart:
                    opened = Request()
                    opened.started, opened.capture = perf_counter(), service.capture
                    opened.place = place = service.active[scope["method"]]
                    opened.endpoint, opened.usual = None, True
                    if root:
                        opened.root = root
                    scope[KEY] = opened
                    service.values[place] += 1
                    request = opened  # last: what is counted as begun will be counted as ended
                    if next(service.turns):
                        service.time(request)
            if request is None:
                aside = self._aside(scope)
        except Exception as error:  # noqa: BLE001 - whatever our fault is, the app answers
            service.guard.swallow("request", error)
        if request is None:
            await aside(scope, receive, send)
            return

        async def receive_noted() -> Message:
            nonlocal received
            message = await receive()
            try:
                received += len(message["body"])
            except Exception as error:  # noqa: BLE001 - the message goes on
                service.heard(request, message, error)
            return message

        def send_noted(message: Message) -> Awaitable[None]:
            try:
                if message["type"] == "http.response.start":
                    request.begun = message
                else:
                    service.sent(request, scope, message, received)
            except Exception as error:  # noqa: BLE001 - the message goes on
                service.guard.swallow("request", error)
            return send(message)

        try:
            await self.app(scope, receive_noted, send_noted)
        except BaseException as error:
            service.close(request, scope, received, error, send)
            raise
        try:
            if perf_counter() - request.ended > LINGERING:
                service.close(request, scope, received, None, send)
        except Exception as error:  # noqa: BLE001 - the request was answered
            service.guard.swallow("request", error)

    def _aside(self, scope: Scope) -> ASGIApp:
        """Who serves what is not recorded as a request: the metrics, websockets, all that is excluded or nested."""
        service = self.service
        try:
            kind = scope["type"]
            outer = scope.get(KEY)
            own = service.own(path_below(scope)) if kind == "http" else None
            if own is not None:
                if outer is not None:
                    outer.outcome, outer.usual = UNRECORDED, False
                return own
            if kind == "http" and outer is not None:
                outer.capture = service.capture  # the routes that come now are those of this app
                if next(service.turns):  # and here are its models' cells
                    service.series.settle()
            if kind == "websocket" and WEBSOCKET_KEY not in scope:
                scope[WEBSOCKET_KEY] = scope.get("root_path", "")  # mounts write theirs over it
                return self._serve_websocket
            if kind == "lifespan":
                service.begins()
                return self._serve_lifespan
        except Exception as error:  # noqa: BLE001 - whatever our fault is, the app answers
            service.guard.swallow("request", error)
        return self.app

    async def _serve_lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_noticed(message: Message) -> None:
            try:
                if message["type"] in {"lifespan.shutdown.complete", "lifespan.shutdown.failed"}:
                    self.service.ends()
            except Exception as error:  # noqa: BLE001 - the app ends all the same
                self.service.guard.swallow("request", error)
            await send(message)

        await self.app(scope, receive, send_noticed)

    async def _serve_websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        service, route = self.service, None

        async def send_noticed(message: Message) -> None:
            nonlocal route
            await send(message)
            try:
                if message["type"] == "websocket.accept" and route is None:
                    template = service.templates.of(scope, scope[WEBSOCKET_KEY]) or UNMATCHED
                    if template not in service.excluded and path_below(scope) not in service.excluded:
                        service.metrics.connect(template)
                        route = template
            except Exception as error:  # noqa: BLE001 - the websocket goes on, uncounted
                service.guard.swallow("request", error)

        try:
            await self.app(scope, receive, send_noticed)
        finally:
            try:
                if route is not None:
                    service.metrics.disconnect(route)
            except Exception as error:  # noqa: BLE001 - the app's own outcome stands
                service.guard.swallow("request", error)
