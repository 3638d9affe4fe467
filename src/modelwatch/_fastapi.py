"""FastAPI's internals: the two of its functions that are replaced.

Every request of a FastAPI route passes `fastapi.routing.solve_dependencies`, which gives the validated arguments or the
validation errors, and, unless the endpoint is a generator, `fastapi.routing.run_endpoint_function`, which calls the
endpoint and gives what it returned, before `response_model` takes anything away. Both are looked up by name at each
request, so a replacement works for apps, routers and mounts of any age. Logfire replaces the same two; replacements
call what they found, so that any number of them may stand on each other.

Nothing here is promised by FastAPI. `Hooks.install` compares both functions with what is expected, and leaves them
alone if they differ.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import os
import threading
import types
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from typing import Any, Protocol

import fastapi.routing
from starlette.exceptions import HTTPException
from starlette.responses import Response

from ._fastapi_expected import EXPECTED, RUN, SOLVE, difference, is_fastapis, looked_up
from .exchange import KEY

_LOG = logging.getLogger("modelwatch")

_Function = Callable[..., Coroutine[Any, Any, Any]]


class Watching(Protocol):
    """An endpoint that is watched."""

    call: Any
    generator: bool


class Passage(Protocol):
    """One request on its way through a watched endpoint. Whatever a method raises is given to `swallow`."""

    due: bool
    """Whether its endpoint is to be called next: from `_solve` until `_run`."""

    @property
    def watch(self) -> Watching:
        """What it goes through."""

    def solved(self, values: dict[str, Any]) -> None:
        """The arguments are valid; the endpoint is called next."""

    def refused(self, errors: list[Any]) -> None:
        """The arguments are not valid; the endpoint will not be called."""

    def entered(self) -> None:
        """The endpoint function begins: on the loop, or in a thread."""

    def left(self) -> None:
        """The endpoint function has ended, in a thread or with an exception; else `returned` says so."""

    def returned(self, result: Any, on_loop: bool) -> None:
        """What the endpoint returned; on the loop. `on_loop`: where its function has just ended, too."""

    def failed(self, error: Exception) -> None:
        """A dependency or the endpoint raised; on the loop."""

    def in_thread(self, dependant: Any) -> Any:
        """What is given in place of the dependant of a sync endpoint, so that its thread tells when it begins."""

    def swallow(self, error: Exception) -> None:
        """Count and log an error of ours."""


_current: ContextVar[Passage | None] = ContextVar("modelwatch_passage", default=None)


_STANDS_FOR = "__modelwatch_stands_for__"


class Hooks:
    """The two replacements, for the whole process.

    Parameters
    ----------
    routing
        The module whose functions are replaced.

    Notes
    -----
    Threads: `install` may be called from any. Processes: each has its own; a forked one has what its parent had.
    """

    def __init__(self, routing: Any = fastapi.routing) -> None:
        self._routing = routing
        self.forked()
        self._found: dict[str, Any] = {}
        self._said = False

    def forked(self) -> None:
        """Renew the lock: in this process, just forked, no other thread can hold it."""
        self._lock = threading.RLock()

    def problem(self) -> str | None:
        """In what the functions differ from what is expected; None if in nothing. Looks only."""
        for name, parameters in EXPECTED.items():
            if name in self._found:
                continue  # ours is in place, and fitted when it was put there
            wrong = difference(_original(getattr(self._routing, name, None)), name, parameters)
            if wrong is not None:
                return wrong
        return looked_up(getattr(self._routing, "get_request_handler", None))

    def install(self) -> bool:
        """Put the replacements in place, once, and again if somebody put the originals back. Says once if it cannot."""
        with self._lock:
            problem = self.problem()
            if problem is not None:
                if not self._said:
                    self._said = True
                    _LOG.error(
                        "modelwatch cannot look into the endpoints of FastAPI %s: %s. The service is not affected and "
                        "requests are measured; rows come from record() and endpoints with @monitor.predict only.",
                        fastapi.__version__,
                        problem,
                    )
                return False
            for name, make in ((SOLVE, _solving), (RUN, _running)):
                now = _original(getattr(self._routing, name))
                if name not in self._found:
                    self._found[name] = (now, make(now))
                elif now is not self._found[name][0]:
                    continue  # someone's who calls ours
                setattr(self._routing, name, self._found[name][1])
            return True


def _original(function: Any) -> Any:
    """What a replacement of ours stands for, also one of a copy of this module that was loaded before."""
    original, ours = getattr(function, _STANDS_FOR, (None, None))
    return original if ours is function else function  # another tool's wrapper has the attributes of what it wraps


hooks = Hooks()
os.register_at_fork(after_in_child=hooks.forked)


# Both replacements name what they are given, and pass it on by name: a dict of it, made and taken apart again, would
# cost more than most of what is done with it.
def _solving(original: _Function) -> _Function:
    @functools.wraps(original)
    def solve_dependencies(
        *,
        request: Any,
        dependant: Any,
        body: Any,
        dependency_overrides_provider: Any,
        async_exit_stack: Any,
        embed_body_fields: Any,
        **more: Any,
    ) -> Coroutine[Any, Any, Any]:
        passage, scope = None, request.scope
        exchange = scope.get(KEY)
        if exchange is not None and exchange.capture is not None:
            capture = exchange.capture
            try:
                exchange.scope = scope
                if exchange.endpoint is not None:
                    capture.again(exchange)
                try:
                    watch = capture.watching[id(dependant)]
                except KeyError:
                    watch = capture.decided(dependant)
                if watch is not None:
                    passage = watch.begin(exchange)
            except Exception as error:  # noqa: BLE001 - whatever our fault is, the endpoint is called
                capture.swallow(error)
        solving = (functools.partial(original, **more) if more else original)(
            request=request,
            dependant=dependant,
            body=body,
            dependency_overrides_provider=dependency_overrides_provider,
            async_exit_stack=async_exit_stack,
            embed_body_fields=embed_body_fields,
        )
        return solving if passage is None else _solve(solving, passage)

    return _called_like(original, solve_dependencies, EXPECTED[SOLVE])


def _running(original: _Function) -> _Function:
    @functools.wraps(original)
    def run_endpoint_function(
        *, dependant: Any, values: Any, is_coroutine: Any, **more: Any
    ) -> Coroutine[Any, Any, Any]:
        passage = _current.get()
        # In one task (a test client's) an earlier request leaves its passage.
        if passage is not None and (not passage.due or passage.watch.call is not dependant.call):
            passage = None
        if passage is not None:
            passage.due = False
            try:
                if is_coroutine:
                    passage.entered()
                else:
                    dependant = passage.in_thread(dependant)
            except Exception as error:  # noqa: BLE001 - whatever our fault is, the endpoint is called
                passage.swallow(error)
        running = (functools.partial(original, **more) if more else original)(
            dependant=dependant, values=values, is_coroutine=is_coroutine
        )
        return running if passage is None else _run(running, passage, is_coroutine)

    return _called_like(original, run_endpoint_function, EXPECTED[RUN])


def _called_like(original: _Function, ours: Any, names: tuple[str, ...]) -> _Function:
    """Our replacement, for whoever calls it like the original: what has a default there may be left out here, too."""

    @functools.wraps(original)
    def function(*args: Any, **given: Any) -> Any:
        return (original if args or not given.keys() >= set(names) else ours)(*args, **given)

    replacement: Any = function
    if is_fastapis(original):  # else of another tool, which may be called in other ways
        defaults = getattr(original, "__kwdefaults__", None) or {}
        ours.__kwdefaults__ = {name: defaults[name] for name in names if name in defaults}
        replacement = ours
    setattr(replacement, _STANDS_FOR, (original, replacement))
    found: _Function = replacement
    return found


async def _solve(solving: Coroutine[Any, Any, Any], passage: Passage) -> Any:
    try:
        solved = await solving
    except Exception as error:
        told_failed(passage, error)
        raise
    try:
        errors = solved.errors
        if errors:
            passage.refused(errors)
            return solved
        passage.solved(solved.values)
        if passage.watch.generator:
            passage.entered()
        else:
            _current.set(passage)
    except Exception as error:  # noqa: BLE001 - as above
        passage.swallow(error)
    return solved


async def _run(running: Coroutine[Any, Any, Any], passage: Passage, on_loop: bool) -> Any:
    try:
        result = await running
    except Exception as error:
        told_failed(passage, error, left=on_loop)
        raise
    finally:
        if not on_loop:
            try:
                _current.set(None)
            except Exception as error:  # noqa: BLE001 - as above
                passage.swallow(error)
    try:
        passage.returned(result, on_loop)
    except Exception as error:  # noqa: BLE001 - as above
        passage.swallow(error)
    return result


def timed(call: Any) -> Callable[..., Any]:
    """A sync endpoint that tells its passage, from its thread, when it begins and ends. Made once per endpoint."""

    @functools.wraps(call)
    def endpoint(*args: Any, **given: Any) -> Any:
        passage = _current.get()
        if passage is None or passage.watch.call is not call:
            return call(*args, **given)
        try:
            passage.entered()
        except Exception as error:  # noqa: BLE001 - as above
            passage.swallow(error)
        try:
            return call(*args, **given)
        finally:
            try:
                passage.left()
            except Exception as error:  # noqa: BLE001 - as above
                passage.swallow(error)

    return endpoint


def told_failed(passage: Passage, failure: Exception, *, left: bool = False) -> None:
    """Tell a passage that its endpoint, or a dependency, raised. `left`: that its function has ended, too."""
    try:
        if left:
            passage.left()
        passage.failed(failure)
    except Exception as error:  # noqa: BLE001 - the app's own exception goes on
        passage.swallow(error)


def with_call(dependant: Any, call: Callable[..., Any]) -> Any:
    """A dependant that differs in what is called. The one given is left alone: FastAPI looks at it later."""
    return dataclasses.replace(dependant, call=call)


def is_response(result: Any) -> bool:
    """Whether an endpoint returned a response of its own, or a stream: nothing to read predictions from."""
    return isinstance(result, Response | types.GeneratorType | types.AsyncGeneratorType)


def is_answer(error: BaseException) -> bool:
    """Whether an exception is a way of answering, such as a 404, and no failure."""
    return isinstance(error, HTTPException)
