"""What is watched at an endpoint, in words: the log line at the start and the table of `modelwatch doctor`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ._fastapi_endpoints import result_of
from .aligned import shown
from .extract import leaves_at
from .fields import alternatives, nearest
from .predictions import keys_of_type
from .routes import Routed
from .watch import Watch


@dataclass(frozen=True)
class Watched:
    """One watched endpoint.

    Attributes
    ----------
    template, methods
        Of its route.
    model_name
        The model it belongs to.
    feeds
        Whether its rows go into the window; else it only counts requests.
    sure
        False: only its first requests will show whether it predicts.
    rows
        Where the rows are found, in words; None if nowhere.
    matched
        Features that are found there.
    unmatched
        Features of the reference that are not, with the nearest name that is there.
    prediction, confidence
        Where they are found in what it returns; None if its types do not tell.
    """

    template: str
    methods: tuple[str, ...]
    model_name: str
    feeds: bool
    sure: bool
    rows: str | None
    matched: tuple[str, ...]
    unmatched: Mapping[str, str | None]
    prediction: str | None
    confidence: str | None

    def __str__(self) -> str:
        """One line for the log."""
        head = f"{' '.join(self.methods)} {self.template} is watched for model {self.model_name!r}"
        if not self.sure:
            return f"{head} if its first requests carry at least half of the features; its types do not tell."
        if self.rows is None:
            return (
                f"{head}, but no rows are found in it, so it only counts requests. Name them with "
                "@monitor.predict(features=…)."
            )
        total = len(self.matched) + len(self.unmatched)
        only = "" if self.feeds else " (requests only)"
        text = f"{head}{only}: rows in {self.rows}, {len(self.matched)} of {total} features"
        if self.unmatched:
            text += "; not found: " + ", ".join(
                f"{name} (nearest: {near})" if near else name for name, near in list(self.unmatched.items())[:20]
            )
        return shown(text) + "."


def describe(watch: Watch, routed: Routed) -> Watched:
    """What is known of a watch before its first request."""
    source, features = watch.source, watch.inputs
    matched = source.names if source is not None else ()
    missing = [name for name in features or () if name not in matched]
    leaves = leaves_at(watch.shape, None if source is None else source.path)
    rows = None if source is None else "the arguments" if source.path is None else f"the list {'.'.join(source.path)}"
    tops = {path[0] for path in source.paths if len(path) > 1} if source is not None and source.path is None else set()
    if len(tops) == 1:
        rows = tops.pop()
    if source is None and watch.parts is not None and watch.parts.features is not None:
        rows = "what @monitor.predict names"
    elif source is None and watch.shape.hidden:
        rows = f"{' or '.join('.'.join(path) for path in watch.shape.hidden[:5])}, as it comes"
    prediction, confidence = _results(watch, routed)
    return Watched(
        routed.template,
        tuple(sorted(routed.methods or ())),
        watch.recorder.model_name,
        watch.feeds,
        watch.sure,
        rows,
        matched,
        nearest(missing, leaves),
        prediction,
        confidence,
    )


def _results(watch: Watch, routed: Routed) -> tuple[str | None, str | None]:
    parts = watch.parts
    prediction = confidence = None
    for kind in alternatives(result_of(routed.route)):
        keys = keys_of_type(kind, watch.reader)
        if keys is not None:
            prediction, confidence = keys.prediction, keys.confidence
        elif kind in (bool, int, float, str):
            prediction = "what it returns"
    if parts is not None and parts.prediction is not None:
        prediction = parts.prediction if isinstance(parts.prediction, str) else "a function"
    if parts is not None and parts.confidence is not None:
        confidence = parts.confidence if isinstance(parts.confidence, str) else "a function"
    return prediction, confidence
