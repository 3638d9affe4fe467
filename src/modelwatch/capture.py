"""What went into and came out of the endpoints of an app, without parsing a body twice.

::

    request ── asgi.py: exchange.capture ── routed ── hooks of _fastapi.py ──► Capture.passage ──► Watch.begin
                                                       arguments, result ────► Passage: rows, predictions, times
    last byte ── asgi.py ──► Watch.finish: counts, and commits if the response succeeded
                          └► Capture.unreached, if it came to no endpoint of a model and was refused

Which endpoints are watched is decided by one walk over the routes at start, and by another one when a request comes to
a route that was not there then. Everything that is kept is kept by the app's `Capture`, so it goes when the app goes.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, MutableMapping
from typing import Any

from . import _fastapi
from ._fastapi_endpoints import dependant_in, tag_of
from .claims import MARK, MOST_ROUTES, Claim, claimed, endpoints_of
from .exchange import Exchange
from .metrics.model import ModelRequests
from .recorder import Recorder
from .routes import USUALLY_EXCLUDED, Patterns, Routed
from .tagging import noting, shape_of
from .watch import Watch
from .watched import Watched, describe

_LOG = logging.getLogger("modelwatch")
_MOST_TRIES = 3


class Capture:
    """The capture of one app: which of its endpoints are watched, and for which model.

    Parameters
    ----------
    app
        A FastAPI or Starlette app.
    hooked
        Whether FastAPI's functions are replaced; default: they are now, if they can be.

    Attributes
    ----------
    available
        Whether they are: the value of modelwatch_capture_available.
    watching
        By id of a dependant that requests came to: its watch, or None if nobody watches. For the hook.

    Notes
    -----
    Threads: the event loop's. Processes: each has its own.
    """

    def __init__(self, app: Any, *, hooked: bool | None = None) -> None:
        self._app = app
        self.available = _fastapi.hooks.install() if hooked is None else hooked
        self._claims: list[Claim] = []
        # By id of the dependant, which is one object for each route of the app and has no hash. Kept, so that its id
        # is not given to another one.
        self._watches: dict[int, tuple[Any, Watch | None]] = {}
        self.watching: dict[int, Watch | None] = {}
        self._wrapped: dict[int, tuple[Any, Watch | None]] = {}  # where FastAPI's functions are not replaced
        self._said: set[str] = set()
        self._refreshed = 0
        setattr(app, MARK, self)

    def add(
        self, recorder: Recorder, *, routes: Iterable[str] | None = None, exclude: Iterable[str] | None = None
    ) -> ModelRequests:
        """Watch the endpoints of a model. Its series are there, at 0, from now on.

        Parameters
        ----------
        routes
            Templates of its endpoints, by prefix or glob; default: found by what their bodies hold.
        exclude
            Templates that are never its endpoints; default: those of probes and documentation.

        Raises
        ------
        ConfigurationError
            A pattern is none.
        """
        requests = ModelRequests(
            recorder.series, recorder.settings, recorder.model_name, recorder.model_version, recorder.guard
        )
        chosen = None if routes is None else Patterns(routes)
        left_out = USUALLY_EXCLUDED if exclude is None else Patterns(exclude)
        self._claims.append(Claim(recorder, requests, chosen, left_out))
        self.refresh()
        return requests

    def refresh(self) -> None:
        """Decide anew, at the next request, what is watched: a model has another reference."""
        self._refreshed += 1
        self._watches.clear()
        self.watching.clear()

    def around(self, stack: Any) -> Any:
        """What is to be called in place of an app's middleware stack: the stack itself where the hooks are in place."""
        return stack if self.available else noting(stack)

    def start(self) -> list[Watched]:
        """Decide what is watched, and say it, once for each endpoint. Never raises."""
        found: list[Watched] = []
        try:
            self._decide()
            found = self.watched()
            for one in found:
                self._say(str(one), logging.INFO if one.rows is not None else logging.WARNING)
            self._say_unused()
        except Exception as error:  # noqa: BLE001 - routes of any framework
            self.swallow(error)
        return found

    def watched(self) -> list[Watched]:
        """What is watched, in the order of the routes, as far as it is decided: for logs and `modelwatch doctor`."""
        by_dependant = {key: watch for key, (_, watch) in self._watches.items() if watch is not None}
        found = []
        for routed in endpoints_of(self._app):
            watch = by_dependant.get(id(getattr(routed.route, "dependant", None)))
            if watch is not None:
                found.append(describe(watch, routed))
        return found

    def again(self, exchange: Exchange) -> None:
        """The app is called again for one request, which came to an endpoint before: its last call is what counts."""
        if exchange.passage is not None:
            exchange.passage.dropped()
        exchange.endpoint = exchange.passage = None

    def decided(self, dependant: Any) -> Watch | None:
        """The watch of an endpoint, None if nobody watches it. Called by the hook; may raise."""
        watch = None
        for _ in range(_MOST_TRIES):
            refreshed = self._refreshed
            watch = (self._watches.get(id(dependant)) or self._late(dependant))[1]
            if refreshed == self._refreshed:
                self.watching[id(dependant)] = watch
                break
            self._watches.pop(id(dependant), None)  # another thread has reloaded meanwhile: it may be decided otherwise
        return watch

    def unreached(self, exchange: Exchange, scope: MutableMapping[str, Any]) -> None:
        """Count a request that was meant for a watched endpoint, but whose body could not even be read."""
        dependant = dependant_in(scope)
        if dependant is not None:
            watch = self.decided(dependant)
            if watch is not None:
                watch.unreached(exchange)

    def watch_for(self, call: Any, parts: Any) -> Watch | None:
        """A watch made from a decorated function alone: for when FastAPI's functions are not replaced."""
        known = self._wrapped.get(id(call))
        if known is None:
            watch = None
            for claim in self._claims:
                if claim.recorder is parts.monitor:
                    where = getattr(call, "__qualname__", "an endpoint")
                    watch = Watch(
                        claim.recorder,
                        claim.requests,
                        template=where,
                        call=call,
                        shape=shape_of(call),
                        parts=parts,
                        chosen=True,
                    )
            known = self._wrapped[id(call)] = (call, watch)
        return known[1]

    def _late(self, dependant: Any) -> tuple[Any, Watch | None]:
        """Decide about a route that no walk has found yet: it is new, or hidden behind an app that shows no routes."""
        self.start()
        if len(self._watches) >= MOST_ROUTES:
            self.refresh()
        return self._watches.setdefault(id(dependant), (dependant, None))

    def _decide(self) -> None:
        refreshed = self._refreshed
        routes = endpoints_of(self._app)
        tagged = {id(tag.monitor) for routed in routes if (tag := tag_of(routed.route.dependant.call))}
        decided: dict[int, tuple[Any, Watch | None]] = {}
        for routed in routes:
            dependant = routed.route.dependant
            known = self._watches.get(id(dependant))
            if known is None or known[1] is None:
                known = (dependant, self._claim(routed, tagged))
            decided.setdefault(id(dependant), known)
        if refreshed != self._refreshed:  # another thread has reloaded: this is of the old reference
            return
        self._watches = decided
        self.watching.clear()
        for claim in self._claims:
            self._settle(claim)

    def _claim(self, routed: Routed, tagged: set[int]) -> Watch | None:
        found = claimed(routed, self._claims, tagged)
        if found is None:
            return None
        claim, watch = found
        watch.became_sure = lambda: self._settle(claim)
        return watch

    def _settle(self, claim: Claim) -> None:
        """Of the endpoints that were found for a model, choose the one that feeds the window."""
        recorder = claim.recorder
        self.watching.clear()
        watches = {
            key: watch
            for key, (_, watch) in self._watches.items()
            if watch is not None and watch.requests is claim.requests and watch.sure and not watch.chosen
        }
        names = ", ".join(watch.template for watch in watches.values())
        if len(watches) > 1 and recorder.inputs is None:
            self._say(
                f"There is no reference and {len(watches)} endpoints may belong to model "
                f"{recorder.model_name!r}: {names}. None is watched; name one with routes=[…] or @monitor.predict.",
                logging.WARNING,
            )
            for key in watches:
                self._watches[key] = (self._watches[key][0], None)
            return
        if watches and not any(watch.feeds for watch in watches.values()):
            next(iter(watches.values())).feed()
        if len(watches) > 1:
            feeding = next(watch.template for watch in watches.values() if watch.feeds)
            self._say(
                f"{len(watches)} endpoints carry the features of model {recorder.model_name!r}: {names}. "
                f"All count requests; only {feeding} feeds the window. Name those that shall with routes=[…] or "
                "@monitor.predict.",
                logging.WARNING,
            )

    def _say_unused(self) -> None:
        watching = {id(watch.requests) for _, watch in self._watches.values() if watch is not None}
        for claim in self._claims:
            if id(claim.requests) not in watching:
                remedy = (
                    "Name it with routes=[…] or @monitor.predict, or call monitor.record()"
                    if claim.routes is None
                    else "The routes given match no endpoint with a body that FastAPI reads: check them, or call "
                    "monitor.record()"
                )
                self._say(f"No endpoint of model {claim.recorder.model_name!r} was found. {remedy}.", logging.WARNING)

    def _say(self, text: str, level: int) -> None:
        if text not in self._said and len(self._said) < MOST_ROUTES:
            self._said.add(text)
            _LOG.log(level, "%s", text)

    def swallow(self, error: Exception) -> None:
        """Count and log an error of ours."""
        for claim in self._claims[:1]:
            claim.recorder.guard.swallow("capture", error)
