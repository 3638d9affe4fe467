"""What FastAPI and Starlette leave in the scope about routing, and how FastAPI's routes are listed.

From 0.137 on FastAPI keeps included routers as a tree, and the full path of a route stands in objects of its own. Here
is all that knows them. Whatever is not as expected reads as "unknown", and `routes.py` finds out by other means.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import fastapi.routing
from starlette.routing import BaseRoute


def leaf_of(scope: Mapping[str, Any], endpoint: Any) -> str | None:
    """Template of the route that was taken, without what mounts put before it; None if the scope does not say.

    `endpoint` is that of the scope. A route that does not lead there is a left-over of an outer router.
    """
    route = scope.get("route")
    try:
        own = scope.get("fastapi")
        effective = None if own is None else own.get("effective_route_context")
        if effective is not None:
            if effective.original_route is route:
                return _text(effective.path_format)
            starlette_route = effective.starlette_route  # one without FastAPI's parameters, or a mount
            if starlette_route is not None and getattr(starlette_route, "endpoint", None) is endpoint:
                return _text(starlette_route.path_format)
    except AttributeError:
        return None
    if route is not None and getattr(route, "endpoint", None) is endpoint:
        return _text(getattr(route, "path_format", None))
    return None


def serves_frontend(scope: Mapping[str, Any]) -> bool:
    """Whether the request went to the files of `app.frontend()`, which is no route with an endpoint."""
    own = scope.get("fastapi")
    return own is not None and "frontend_path" in own


def contexts(routes: Iterable[BaseRoute]) -> Iterator[Any]:
    """All routes below, those of included routers with their full paths.

    Each has `path_format`, `endpoint`, `methods` and, where FastAPI made it, `dependant`, `body_field` and so on;
    `original_route` where it is not the route itself. Any of them may be absent.
    """
    listed = getattr(fastapi.routing, "iter_route_contexts", None)
    if listed is not None:  # 0.137.2 and later
        yield from listed(list(routes))
        return
    for route in routes:
        included = getattr(route, "effective_route_contexts", None)
        if included is None:
            yield route
        else:  # 0.137.0 and 0.137.1
            yield from included()


def _text(template: Any) -> str | None:
    return template if isinstance(template, str) else None
