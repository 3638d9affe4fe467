"""One HTTP request on its way through the service: what the middleware opens and the capture finds again.

`asgi.py` makes an `Exchange` for each request, with the capture of its app, and puts it into the scope under `KEY`.
When the request comes to an endpoint of a model, the capture writes it into `endpoint`. When the response is complete
or has failed, `asgi.py` fills in the outcome and calls `endpoint.finish(exchange)`, once.
"""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from typing import Any, Protocol

KEY = "modelwatch"
"""Where a request's Exchange stands in its ASGI scope. It also stops nested instrumented apps from counting twice."""

COMPLETE, FAILED, DISCONNECTED, CANCELLED = "complete", "failed", "disconnected", "cancelled"
"""How a request ended: last byte sent · exception or aborted stream · client gone · task cancelled."""


class Endpoint(Protocol):
    """A route that predicts, as the middleware sees it."""

    def finish(self, exchange: Exchange) -> None:
        """Count the request and commit its rows if the response succeeded. Called once, on the event loop."""


class Capturer(Protocol):
    """The capture of an app, as the middleware sees it."""

    available: bool

    def start(self) -> object:
        """The app starts. Must not raise."""

    def unreached(self, exchange: Exchange, scope: MutableMapping[str, Any]) -> None:
        """Count a request that is over and came to no endpoint of a model, if only its body kept it from there."""


class Exchange:
    """What is known of one request. Times are those of `time.perf_counter`, in seconds.

    What a usual request never looks at are attributes of the class, and there is no `__init__`: setting fifteen of
    them, or a call, costs more than counting. Whoever makes one sets what every request looks at, for to read from the
    class costs, too.

    Notes
    -----
    Threads: written on the event loop only; of a sync endpoint's thread only `entered` and `left`.
    """

    started: float = 0.0
    ended: float = 0.0  # last body byte, or when it failed
    status: int = 0  # of the response; 0 while none has begun; 500 if an exception came before it
    outcome: str = ""
    error: str = ""  # class name of the exception that came out of the app
    capture: Any = None  # that of the innermost instrumented app, which its routes belong to
    endpoint: Endpoint | None = None
    passage: Any = None  # what the endpoint keeps until the end
    scope: Any = None  # that of the route while it runs: a middleware may have made a copy of the one that came in
    entered: float = 0.0  # when the endpoint function began, 0 if never
    left: float = 0.0  # when it returned, 0 if never


@dataclass(frozen=True)
class Parts:
    """Where an endpoint's parts are, as `@monitor.predict` says it; None: found by itself.

    Parameters
    ----------
    monitor
        The Monitor that the endpoint belongs to.
    features
        Name of the endpoint's parameter that holds the rows, with dots for what lies within ("payload.rows"), or a
        function of the dict of its arguments.
    prediction, confidence, id
        Key of what it returns, with dots for what lies within, or a function of what it returns.
    """

    monitor: Any
    features: str | Callable[[dict[str, Any]], Any] | None = None
    prediction: str | Callable[[Any], Any] | None = None
    confidence: str | Callable[[Any], Any] | None = None
    id: str | Callable[[Any], Any] | None = None
