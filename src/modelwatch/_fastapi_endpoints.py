"""What FastAPI knows of an endpoint: its parameters, what it returns, and which one a request was routed to."""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Iterator, Mapping
from typing import Any, get_args

from .fields import Field


def dependant_in(scope: Mapping[str, Any]) -> Any:
    """The dependant of the route that the router chose, by what it left in the scope; None if it does not say."""
    route = scope.get("route")
    methods = getattr(route, "methods", None)
    if methods is not None and scope.get("method") not in methods:
        return None  # answered with 405
    effective = (scope.get("fastapi") or {}).get("effective_route_context")
    if effective is not None and getattr(effective, "original_route", None) is route:
        return getattr(effective, "dependant", None)
    return getattr(route, "dependant", None)


def parameters_of(dependant: Any, *, dependencies: bool = False, queries: bool = False) -> list[Field]:
    """What an endpoint is called with and may hold features: what is in the body, also by way of a dependency.

    Parameters
    ----------
    dependencies
        What other dependencies say they return, too: features may come from a store.
    queries
        Path, query, header and cookie parameters, too.
    """
    sources = ["body_params", *(("path_params", "query_params", "header_params", "cookie_params") if queries else ())]
    found = []
    for source in sources:
        for parameter in getattr(dependant, source, ()):
            info = getattr(parameter, "field_info", None)
            aliases = (getattr(parameter, "alias", None), getattr(info, "alias", None))
            texts = tuple(alias for alias in dict.fromkeys(aliases) if isinstance(alias, str))
            found.append(Field(parameter.name, texts, getattr(info, "annotation", Any)))
    for inner in getattr(dependant, "dependencies", ()):
        name, call = getattr(inner, "name", None), getattr(inner, "call", None)
        if name is not None and (dependencies or _has_body(inner)):
            found.append(Field(name, (), call if isinstance(call, type) else returns_of(call)))
    return found


def returns_of(call: Any) -> Any:
    """The annotation of what a function returns; of a generator's, what it yields; Any if it has none."""
    function = inspect.unwrap(call) if callable(call) else call
    if callable(call) and not inspect.isroutine(function) and not isinstance(function, functools.partial):
        function = type(function).__call__
    try:
        annotation = typing.get_type_hints(function, include_extras=True).get("return", Any)
    except Exception:  # noqa: BLE001 - partials, builtins, names that exist for type checkers only
        annotation = getattr(function, "__annotations__", {}).get("return", Any)
    if is_generator(call):
        return next(iter(get_args(annotation)), Any)
    return Any if isinstance(annotation, str) or annotation is None else annotation


def result_of(route: Any) -> Any:
    """The type that a route says it answers with: its response model, else what its function returns."""
    model = getattr(route, "response_model", None)
    return returns_of(getattr(route, "endpoint", None)) if model is None else model


def is_generator(call: Any) -> bool:
    """Whether an endpoint yields what it answers."""
    for function in _inside(call):
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            return True
    return False


def tag_of(call: Any) -> Any:
    """What `@monitor.predict` left on a function, also if it is bound, partial, wrapped, or a callable object."""
    for function in _inside(call):
        parts = getattr(function, "__modelwatch__", None)
        if parts is not None:
            return parts
    return None


def _inside(call: Any) -> Iterator[Any]:
    for _ in range(8):
        yield call
        inner = (
            getattr(call, "func", None) if isinstance(call, functools.partial) else getattr(call, "__wrapped__", None)
        )
        if inner is None:
            break
        call = inner
    if callable(call) and not inspect.isroutine(call) and not isinstance(call, type):
        yield type(call).__call__


def _has_body(dependant: Any) -> bool:
    inner = getattr(dependant, "dependencies", ())
    return bool(getattr(dependant, "body_params", ())) or any(map(_has_body, inner))
