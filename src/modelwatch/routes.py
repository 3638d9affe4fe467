"""Which route a request took: its template, by the router's own decision, and all routes that an app has.

::

    scope after the call ── endpoint, route ──► Templates ──► "/models/{name}/predict", or None: no route
                            root_path            └ index: one walk over all routes, looked up where the scope is silent
"""

from __future__ import annotations

import re
import time
from collections.abc import Container, Iterable, Iterator, Mapping
from fnmatch import translate
from itertools import islice
from typing import Any, NamedTuple

from starlette.routing import Host, Mount

from ._fastapi_routes import contexts, leaf_of, serves_frontend
from ._types import Clock
from .exceptions import ConfigurationError

FRONTEND = "_frontend"
"""Template of all that `FastAPI.frontend()` serves."""

_LEAST_WAIT, _LONGEST_WAIT = 1.0, 64.0
_MOST_ROUTES = 10_000
_DEEPEST = 16
_GROUP_NAME = re.compile(r"\?P<[^>]+>")
_GLOB = re.compile(r"[*?\[]")


class Routed(NamedTuple):
    """One place that requests can be routed to.

    Attributes
    ----------
    template
        Path as it was declared, with everything that routers and mounts put before it: "/v1/{city}/predict".
    methods
        Of HTTP, in capitals; None if it takes all or is no HTTP route.
    endpoint
        The function as the user declared it, or the app behind a mount.
    route
        The route, or FastAPI's description of it within its included routers; both have `path_format` and the like.
    prefix, leaf
        The two parts of the template: what mounts bring, and what the innermost router knows.
    prefix_pattern
        Regular expression of the prefix, as text without anchors and group names.
    pattern
        Regular expression of the leaf; None for a mount, which takes all.
    """

    template: str
    methods: frozenset[str] | None
    endpoint: Any
    route: Any
    prefix: str
    leaf: str
    prefix_pattern: str
    pattern: re.Pattern[str] | None


def walk(app: Any) -> Iterator[Routed]:
    """All places that requests to an app can be routed to, in the order in which they are tried.

    It goes through included routers, mounts, hosts, and middleware around mounted apps. A mount comes before what is
    in it, as a place of its own: so a file of StaticFiles, or a request that nothing in it takes, is found.

    Parameters
    ----------
    app
        A FastAPI or Starlette app, a router, or anything with `routes`; around it anything with `app`.
    """
    yield from _walk(app, "", "", ())


def _walk(app: Any, prefix: str, prefix_pattern: str, above: tuple[int, ...]) -> Iterator[Routed]:
    if id(app) in above or len(above) > _DEEPEST:
        return
    above = (*above, id(app))
    for node in contexts(_routes_of(app)):
        original = getattr(node, "original_route", node)
        template, endpoint = getattr(node, "path_format", None), getattr(node, "endpoint", None)
        if isinstance(original, Mount) and template is not None:
            inner = prefix + template.removesuffix("/{path}")
            pattern = prefix_pattern + _mounted(node.path_regex.pattern)
            yield Routed(inner + "/{path}", None, node.app, node, inner, "/{path}", pattern, None)
            yield from _walk(node.app, inner, pattern, above)
        elif isinstance(original, Host):
            yield from _walk(original.app, prefix, prefix_pattern, above)
        elif template is not None and endpoint is not None:
            methods = getattr(node, "methods", None)
            taken = None if methods is None else frozenset(methods)
            yield Routed(prefix + template, taken, endpoint, node, prefix, template, prefix_pattern, node.path_regex)


def _routes_of(app: Any) -> list[Any]:
    for _ in range(_DEEPEST):  # middleware around an app has the next one as `app`
        routes = getattr(app, "routes", None)
        if routes:
            return list(routes)
        app = getattr(app, "app", None)
        if app is None:
            break
    return []


def _mounted(pattern: str) -> str:
    """What a mount's own expression says of its prefix. Two levels may name their parameters alike, so no names."""
    text = pattern.removeprefix("^").removesuffix("$").removesuffix("/(?P<path>.*)")
    return _GROUP_NAME.sub("?:", text)


class _Place(NamedTuple):
    endpoint: Any  # kept, so that its id is not given to another object
    template: str
    prefix: str
    leaf: str
    prefix_pattern: re.Pattern[str] | None
    pattern: re.Pattern[str] | None


class Templates:
    """Templates of the routes that requests took, told from their scopes after the call.

    In most cases the scope says all. Else (mounts, and Starlette's routes where they leave no trace) an index is
    asked, which is made by one walk and made again when a request went somewhere that it does not know: at most once
    a second, and ever more rarely while that does not help.

    Parameters
    ----------
    app
        The instrumented app.
    clock
        Seconds, rising; any origin.

    Notes
    -----
    Threads: any number; the index is replaced as a whole. Processes: each has its own.
    """

    def __init__(self, app: Any, clock: Clock = time.monotonic) -> None:
        self._app = app
        self._clock = clock
        self._index: dict[int, list[_Place]] = {}
        self._due = clock()
        self._wait = _LEAST_WAIT

    def of(self, scope: Mapping[str, Any], root: str) -> str | None:
        """Template of the route that was taken; None without one, and where it cannot be told without guessing.

        Parameters
        ----------
        scope
            As the app left it.
        root
            Its `root_path` when it came in; mounts write theirs over it.
        """
        endpoint = scope.get("endpoint")
        if endpoint is None:
            return FRONTEND if serves_frontend(scope) else None
        leaf, path = leaf_of(scope, endpoint), scope.get("root_path", "")
        base = root if path.startswith(root) else scope.get("app_root_path", "")
        mounted = path.removeprefix(base)
        if not mounted and leaf is not None:
            return leaf
        found = self._find(endpoint, leaf, mounted, scope)
        if found is None and self._build():
            found = self._find(endpoint, leaf, mounted, scope)
            if found is not None:
                self._build_soon()
        return found

    def stands_once(self, endpoint: Any, template: str) -> bool:
        """Whether the endpoint has no other template than this one, so that it need not be asked for again."""
        places = self._index.get(id(endpoint), [])
        if all(place.template != template for place in places) and self._build():
            places = self._index.get(id(endpoint), [])
            if places:
                self._build_soon()
        return len(places) == 1 and places[0].template == template

    def _find(self, endpoint: Any, leaf: str | None, mounted: str, scope: Mapping[str, Any]) -> str | None:
        for place in self._index.get(id(endpoint), ()):
            if leaf is not None and place.leaf != leaf:
                continue
            if place.prefix_pattern is None:
                if place.prefix != mounted:
                    continue
            elif place.prefix_pattern.match(mounted) is None:
                continue
            if leaf is not None or place.pattern is None or place.pattern.match(path_below(scope)):
                return place.template
        return None

    def _build(self) -> bool:
        """Make the index anew, unless that was done just now; the next time is further away, see `_build_soon`."""
        now = self._clock()
        if now < self._due:
            return False
        index: dict[int, list[_Place]] = {}
        for routed in islice(walk(self._app), _MOST_ROUTES):
            pattern = re.compile(routed.prefix_pattern + r"\Z") if "{" in routed.prefix else None
            place = _Place(routed.endpoint, routed.template, routed.prefix, routed.leaf, pattern, routed.pattern)
            index.setdefault(id(routed.endpoint), []).append(place)
        self._index = index
        self._due = now + self._wait
        self._wait = min(2 * self._wait, _LONGEST_WAIT)
        return True

    def _build_soon(self) -> None:
        """What was missed is there now: routes are being added, so there may be more."""
        self._wait = _LEAST_WAIT
        self._due = self._clock() + _LEAST_WAIT


def path_below(scope: Mapping[str, Any]) -> str:
    """The path of a request below its root path: what routes are matched with.

    >>> path_below({"path": "/api/predict", "root_path": "/api"}), path_below({"path": "/apis", "root_path": "/api"})
    ('/predict', '/apis')
    """
    path, root = str(scope["path"]), scope.get("root_path")
    if not root or not path.startswith(root):
        return path
    below = path[len(root) :]
    return below if below[:1] in {"", "/"} else path


class Patterns:
    """Templates or paths, named by prefix or glob.

    Parameters
    ----------
    patterns
        Each begins with a slash or a star. With `*`, `?` or `[…]` it is a glob (a star goes over slashes too), without
        it stands for itself and for what lies below.
    exact
        Texts that stand for themselves only.

    Raises
    ------
    ConfigurationError
        A pattern begins with neither, or is no text.

    Notes
    -----
    Threads and processes: never changes, so any number.

    >>> patterns = Patterns(["/internal", "*/status"])
    >>> [text for text in ["/internal/jobs", "/internals", "/v1/status", "/v1"] if text in patterns]
    ['/internal/jobs', '/v1/status']
    """

    def __init__(self, patterns: Iterable[str] = (), exact: Iterable[str] = ()) -> None:
        if isinstance(patterns, str):
            patterns = [patterns]
        listed = list(patterns)
        for pattern in listed:
            if not isinstance(pattern, str) or pattern[:1] not in {"/", "*"}:
                raise ConfigurationError(
                    f"Expected routes as paths that begin with / or *, such as /v1 or */status, got {pattern!r}. "
                    "Write it as it stands in the app, with everything before it."
                )
        globs = [pattern for pattern in listed if _GLOB.search(pattern)]
        self._exact = frozenset(exact).union(pattern for pattern in listed if pattern not in globs)
        self._below = tuple(pattern.rstrip("/") + "/" for pattern in listed if pattern not in globs)
        self._glob = re.compile("|".join(map(translate, globs))) if globs else None

    def __contains__(self, text: object) -> bool:
        if not isinstance(text, str):
            return False
        if text in self._exact or (self._below and text.startswith(self._below)):
            return True
        return self._glob is not None and self._glob.match(text) is not None

    def and_exactly(self, exact: Iterable[str]) -> Container[str]:
        """These patterns and some more texts: a mere set where that is enough, as it is asked with every request."""
        if not self._below and self._glob is None:
            return self._exact.union(exact)
        more = Patterns(exact=self._exact.union(exact))
        more._below, more._glob = self._below, self._glob
        return more


USUALLY_EXCLUDED = Patterns(
    exact=(
        "/health", "/healthz", "/healthcheck", "/health/live", "/health/ready", "/live", "/livez", "/ready", "/readyz",
        "/ping", "/docs", "/docs/oauth2-redirect", "/redoc", "/openapi.json", "/favicon.ico",
    )
)  # fmt: skip
"""What is not recorded unless the user says so: probes, documentation, the browser's icon. Nothing below them: a model
may well be served at /health/risk."""
