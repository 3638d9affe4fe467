"""What FastAPI's two functions are expected to be, that ours take the place of: their names, parameters and callers."""

from __future__ import annotations

import inspect
import types
from typing import Any

import fastapi.routing

SOLVE, RUN = "solve_dependencies", "run_endpoint_function"
# All are given by name, in all versions from 0.115 on.
EXPECTED = {
    SOLVE: (
        "request", "dependant", "body", "dependency_overrides_provider", "async_exit_stack", "embed_body_fields",
    ),
    RUN: ("dependant", "values", "is_coroutine"),
}  # fmt: skip


def difference(function: Any, name: str, parameters: tuple[str, ...]) -> str | None:
    """In what a function is not as expected; None if in nothing."""
    if not callable(function):
        return f"fastapi.routing has no function {name}"
    try:
        inspect.signature(function, follow_wrapped=False).bind(**dict.fromkeys(parameters))
    except (TypeError, ValueError) as error:
        return f"fastapi.routing.{name} does not take the arguments {', '.join(parameters)} ({error})"
    if is_fastapis(function) and not inspect.iscoroutinefunction(function):
        return f"fastapi.routing.{name} is not a coroutine function"
    return None


def looked_up(handler: Any) -> str | None:
    """Whether the request handler calls both functions by their names in its module, so that replacing them works."""
    if not isinstance(handler, types.FunctionType) or not is_fastapis(handler):
        return None  # replaced by someone else, such as Sentry; what it calls cannot be seen
    names: set[str] = set()
    codes = [handler.__code__]
    for code in codes:
        names.update(code.co_names)
        codes += [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]
    missing = EXPECTED.keys() - names
    return f"its request handler does not call {' and '.join(sorted(missing))}" if missing else None


def is_fastapis(function: Any) -> bool:
    """Whether it is FastAPI's own, and not of another tool that has replaced it."""
    code = getattr(function, "__code__", None)
    return code is not None and str(getattr(code, "co_filename", "")).startswith(_PLACE)


_PLACE = str(fastapi.routing.__file__).removesuffix("routing.py")
