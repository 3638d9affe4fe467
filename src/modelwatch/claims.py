"""Which endpoints belong to which model: what the user chose, else what their bodies hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ._fastapi_endpoints import parameters_of, tag_of
from .extract import choose
from .fields import Shape, read
from .metrics.model import ModelRequests
from .recorder import Recorder
from .routes import Patterns, Routed, walk
from .watch import Watch

MARK = "__modelwatch_capture__"
"""Attribute by which an app is known to have a capture of its own."""
MOST_ROUTES = 10_000

_PREDICTING = {"POST", "PUT"}


@dataclass(frozen=True)
class Claim:
    """Which endpoints a model claims. `routes`: those of these templates; None: found by what their bodies hold."""

    recorder: Recorder
    requests: ModelRequests
    routes: Patterns | None
    exclude: Patterns

    def watch(self, routed: Routed, shape: Shape, parts: Any, *, chosen: bool, sure: bool = True) -> Watch:
        """A watch of one of its endpoints."""
        return Watch(
            self.recorder,
            self.requests,
            template=routed.template,
            call=routed.route.dependant.call,
            shape=shape,
            parts=parts,
            chosen=chosen,
            sure=sure,
        )


def endpoints_of(app: Any) -> list[Routed]:
    """An app's routes that FastAPI calls with parameters, but none of mounted apps that have a capture of their own."""
    found: list[Routed] = []
    foreign: str | None = None
    for routed in walk(app):
        if foreign is not None and (routed.prefix + "/").startswith(foreign + "/"):
            continue
        foreign = None
        if routed.pattern is None and _has_own(routed.endpoint):
            foreign = routed.prefix
        elif getattr(routed.route, "dependant", None) is not None:
            found.append(routed)
        if len(found) >= MOST_ROUTES:
            break
    return found


def claimed(routed: Routed, claims: Sequence[Claim], tagged: set[int]) -> tuple[Claim, Watch] | None:
    """The model that claims a route: first the one that the user chose for it, then one whose features it carries.

    Parameters
    ----------
    tagged
        Ids of the recorders for which an endpoint was chosen with `@monitor.predict`: no others are looked for.
    """
    dependant = routed.route.dependant
    parts = tag_of(dependant.call)
    for claim in claims:
        own = parts is not None and parts.monitor is claim.recorder
        named = claim.routes is not None and routed.template in claim.routes
        if own or (named and parts is None and routed.template not in claim.exclude):
            shape = read(parameters_of(dependant, dependencies=True, queries=True))
            return claim, claim.watch(routed, shape, parts, chosen=True)
    if parts is not None or not (routed.methods is None or routed.methods & _PREDICTING):
        return None
    for claim in claims:
        if claim.routes is None and id(claim.recorder) not in tagged and routed.template not in claim.exclude:
            inputs = claim.recorder.inputs
            shape = read(parameters_of(dependant, dependencies=inputs is not None))
            source = choose(shape, inputs)
            if source is not None and (inputs is None or 2 * len(source.names) >= len(inputs)):
                return claim, claim.watch(routed, shape, None, chosen=False)
            if inputs and _shows_later(shape):
                return claim, claim.watch(routed, shape, None, chosen=False, sure=False)
    return None


def _shows_later(shape: Shape) -> bool:
    """Whether a request may show features that types do not: in a dict near the top."""
    return any(len(path) <= 2 for path in (*shape.hidden, *(rows.path for rows in shape.lists if not rows.leaves)))


def _has_own(app: Any) -> bool:
    for _ in range(16):
        if app is None:
            break
        if hasattr(app, MARK):
            return True
        app = getattr(app, "app", None)
    return False
