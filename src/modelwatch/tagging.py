"""`@monitor.predict`: a tag on the function; where FastAPI's functions cannot be replaced, a wrapper around it."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, TypeVar

from . import _fastapi
from ._fastapi_endpoints import is_generator
from .exceptions import ConfigurationError
from .exchange import KEY, Exchange, Parts
from .fields import Field, Shape, read

_F = TypeVar("_F", bound=Callable[..., Any])

current: ContextVar[Exchange | None] = ContextVar("modelwatch_exchange", default=None)
"""The request that is being answered; set only where FastAPI's functions are not replaced."""


def tag(function: _F, parts: Parts, *, hooked: bool | None = None) -> _F:
    """Put what `@monitor.predict` says on a function, and give it back; wrapped if nothing else can call us.

    Parameters
    ----------
    hooked
        Whether FastAPI's functions are or can be replaced; default: it is looked up.

    Raises
    ------
    ConfigurationError
        It is no function that can carry an attribute.
    """
    try:
        function.__modelwatch__ = parts  # type: ignore[attr-defined]  # any function takes an attribute
    except (AttributeError, TypeError) as error:
        raise ConfigurationError(
            f"Expected @monitor.predict on a function or a callable object, got {type(function).__name__}, which takes "
            "no attribute. Decorate the function itself, below @app.post."
        ) from error
    if _fastapi.hooks.problem() is None if hooked is None else hooked:
        return function
    wrapped: _F = _wrapped(function, parts)
    return wrapped


def _wrapped(function: Any, parts: Parts) -> Any:
    if is_generator(function):
        return function  # features alone would come from it; record() is the way
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def endpoint(*args: Any, **given: Any) -> Any:
            passage = _enter(endpoint, parts, given)
            if passage is None:
                return await function(*args, **given)
            try:
                result = await function(*args, **given)
            except Exception as error:
                _fastapi.told_failed(passage, error, left=True)
                raise
            _leave(passage, result)
            return result
    else:

        @functools.wraps(function)
        def endpoint(*args: Any, **given: Any) -> Any:
            passage = _enter(endpoint, parts, given)
            if passage is None:
                return function(*args, **given)
            try:
                result = function(*args, **given)
            except Exception as error:
                _fastapi.told_failed(passage, error, left=True)
                raise
            _leave(passage, result)
            return result

    try:  # FastAPI resolves annotations in the globals of what it is given, and those of a wrapper are ours
        endpoint.__signature__ = inspect.signature(function, eval_str=True)  # type: ignore[attr-defined]
    except Exception:  # noqa: BLE001 - a name that exists for type checkers only; newer FastAPI unwraps by itself
        return endpoint
    return endpoint


def _enter(endpoint: Any, parts: Parts, given: dict[str, Any]) -> _fastapi.Passage | None:
    exchange = current.get()
    if exchange is None or exchange.capture is None or exchange.endpoint is not None or exchange.outcome:
        return None  # called outside a request, after it, or by another watched endpoint
    capture = exchange.capture
    passage: _fastapi.Passage | None = None
    try:
        watch = capture.watch_for(endpoint, parts)
        if watch is not None:
            passage = watch.begin(exchange)
            passage.solved(given)
            passage.entered()
    except Exception as error:  # noqa: BLE001 - whatever our fault is, the endpoint is called
        capture.swallow(error)
    return passage


def noting(app: Any) -> Any:
    """An app around `app` that notes which request is being answered; for when FastAPI's functions are not replaced."""

    async def noted(scope: Any, receive: Any, send: Any) -> None:
        current.set(scope.get(KEY))
        await app(scope, receive, send)

    noted.app = app  # type: ignore[attr-defined]  # by this name other tools find what is below
    return noted


def _leave(passage: _fastapi.Passage, result: Any) -> None:
    try:
        passage.returned(result, True)
    except Exception as error:  # noqa: BLE001 - as above
        passage.swallow(error)


def shape_of(call: Any) -> Shape:
    """What the parameters of a function tell, without FastAPI."""
    try:
        parameters = inspect.signature(call, eval_str=True).parameters
    except Exception:  # noqa: BLE001 - annotations that cannot be evaluated
        parameters = inspect.signature(call).parameters
    return read(Field(name, (), one.annotation) for name, one in parameters.items())
