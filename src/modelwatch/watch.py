"""One watched endpoint: what is taken from a request on its way through it, and what is made of it at the end."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from time import perf_counter
from typing import Any

from ._fastapi import is_answer, is_response, timed, with_call
from ._fastapi_endpoints import is_generator
from ._types import ABSENT
from .exchange import CANCELLED, COMPLETE, DISCONNECTED, Exchange, Parts
from .extract import Names, Row, Rows, Source, choose, follow, look, share
from .fields import Shape
from .metrics.model import ModelRequests, status_of
from .predictions import NOTHING, Outcome, Reader
from .recorder import Recorder

_LOG = logging.getLogger("modelwatch")
_MOST_LOOKS = 100
_OTHER_FIELD = "_other"


class Passage:
    """One request on its way through a watched endpoint. See `_fastapi.Passage`, which it is.

    Notes
    -----
    Threads: the event loop's, but `entered` and `left` of a sync endpoint come from its thread.
    """

    watch: Watch
    exchange: Exchange
    # Set by `Watch.begin`, not by an `__init__`; defaults of the class are for what a usual request never reads.
    rows: list[Row] | None
    counted: bool  # as a request to the model
    queued: bool  # until its function begins
    ignored: bool
    error: str
    due: bool
    names: Names = ()
    outcome: Outcome = NOTHING
    timed_out = False

    def arrived(self) -> None:
        """The request counts as one to the model."""
        self.counted = self.queued = True
        self.watch.requests.arrived()

    def solved(self, values: dict[str, Any]) -> None:
        """Copy the rows out, before the endpoint can change what it is given."""
        watch = self.watch
        source = watch.ready
        if source is not None:
            self.names, self.rows = source.names, source.rows(values)
        else:
            watch.take(self, values)

    def refused(self, errors: list[Any]) -> None:
        """Count which fields were not valid."""
        if self.counted:
            self.watch.refuse(errors)

    def entered(self) -> None:
        """The endpoint function begins."""
        self.exchange.entered = perf_counter()
        if self.queued:
            self.queued = False
            requests = self.watch.requests
            requests.values[requests.depth] -= 1

    def left(self) -> None:
        """The endpoint function has ended."""
        self.exchange.left = perf_counter()

    def returned(self, result: Any, on_loop: bool) -> None:
        """Copy the predictions out, before anything can change them. `on_loop`: `left` was not called."""
        if on_loop:
            self.exchange.left = perf_counter()
        rows = self.rows
        if rows is not None and (type(result) is dict or not is_response(result)):
            watch = self.watch
            self.outcome = outcome = watch.reader(result, len(rows))
            if outcome[3] is not None:
                watch.say(
                    "predictions",
                    f"the prediction is not captured: {outcome[3]}. Name it with @monitor.predict(prediction=…)",
                )

    def failed(self, error: Exception) -> None:
        """Keep the class of what the endpoint or a dependency raised, unless it is a way of answering."""
        if not is_answer(error):
            self.error = type(error).__name__
            self.timed_out = isinstance(error, TimeoutError)

    def in_thread(self, dependant: Any) -> Any:
        """A stand-in whose call tells when it begins and ends."""
        return self.watch.stand_in(dependant)

    def swallow(self, error: Exception) -> None:
        """Count and log an error of ours."""
        self.watch.swallow(error)

    def dropped(self) -> None:
        """The app was called again for the same request: this passage is void."""
        if self.counted:
            self.counted = False
            self.watch.requests.dropped(queued=self.queued)


class Watch:
    """A watched endpoint of one model; the `exchange.Endpoint` of its requests.

    Parameters
    ----------
    recorder
        The Monitor of its model.
    requests
        Cells of its model.
    template
        Of its route, for messages.
    call
        The endpoint function, as FastAPI calls it.
    shape
        What the types of its parameters tell.
    parts
        What `@monitor.predict` says, if it does.
    chosen
        Whether the user chose it: then its rows go into the window. Else `feeds` may be set later.
    sure
        False: its types do not tell whether it predicts; its first requests must show it.

    Notes
    -----
    Threads: the event loop's. Processes: each has its own.
    """

    def __init__(
        self,
        recorder: Recorder,
        requests: ModelRequests,
        *,
        template: str,
        call: Any,
        shape: Shape,
        parts: Parts | None,
        chosen: bool,
        sure: bool = True,
    ) -> None:
        self.recorder = recorder
        self.requests = requests
        self.template = template
        self.call = call
        self.shape = shape
        self.parts = parts
        self.chosen = chosen
        self.feeds = chosen
        self.ready: Source | None = None  # where the rows are, if that is all there is to know
        self.sure = sure
        self.hopeless = False
        self.became_sure: Callable[[], None] = _nothing
        self.generator = is_generator(call)
        self._looks = 0
        self._said: set[str] = set()
        self._standing: tuple[Any, Any] = (None, None)
        self._fields: frozenset[str] | None = None
        self.compile()

    def compile(self) -> None:
        """Find out where rows and results are, for the reference of now."""
        self.inputs = self.recorder.inputs
        self.reader = Reader(self.recorder.prediction_column, self.recorder.confidence_column, self.parts)
        self.source: Source | None = None
        self._feature_path: tuple[str, ...] | None = None
        features = None if self.parts is None else self.parts.features
        if isinstance(features, str):
            self._feature_path = path = tuple(features.split("."))
            leaves = tuple(leaf for leaf in self.shape.leaves if leaf.path[: len(path)] == path)
            lists = tuple(rows for rows in self.shape.lists if rows.path[: len(path)] == path)
            self.source = choose(Shape(leaves, lists, ()), self.inputs)
        elif features is None:
            self.source = choose(self.shape, self.inputs)
        takes = self.sure and self.feeds and self.recorder.settings.capture
        self.ready = self.source if takes else None

    def begin(self, exchange: Exchange) -> Passage | None:
        """A request has come to this endpoint. None if it has shown often enough that it does not predict."""
        recorder, requests, counted = self.recorder, self.requests, self.sure
        if self.hopeless:
            return None
        inputs = recorder.inputs
        if inputs is not self.inputs and inputs != self.inputs:
            self.compile()
        if recorder.model_version != requests.model_version:
            requests.turn(recorder.model_version)
        passage = Passage()
        passage.watch = self
        passage.exchange = exchange
        passage.rows = None
        passage.ignored = recorder.ignoring()
        passage.error = ""
        passage.due = True
        passage.counted = passage.queued = counted
        exchange.endpoint, exchange.passage = self, passage
        if counted:
            values = requests.values
            values[requests.in_progress] += 1
            values[requests.depth] += 1
        return passage

    def feed(self) -> None:
        """From now on its rows go into the window."""
        self.feeds = True
        self.compile()

    def take(self, passage: Passage, values: Mapping[str, Any]) -> None:
        """Copy the rows out of an endpoint's arguments, where types alone do not tell where they are."""
        if not self.sure:
            self._look(passage, values)
        elif self.feeds and self.recorder.settings.capture:
            found = self._rows(values)
            if found is None:
                self.say("rows", "no rows were found in a request, so only requests are counted. Name them with "
                                 "@monitor.predict(features=…), or call monitor.record()")  # fmt: skip
            else:
                passage.names, passage.rows = found

    def refuse(self, errors: Sequence[Any]) -> None:
        """Count validation errors by fields that the schema has; nothing of the request's goes into a label."""
        for error in errors[:100]:
            where = [part for part in error["loc"] if isinstance(part, str)]
            known = self._known_fields()
            # From the end: the leaf says more than the body. Keys and tags of unions that came with it are unknown.
            field = next((part for part in reversed(where) if part in known), None)
            if field is None:
                field = (
                    where[0] if where and where[0] in {"body", "query", "path", "header", "cookie"} else _OTHER_FIELD
                )
            self.requests.refused(field, str(error["type"]))

    def finish(self, exchange: Exchange) -> None:
        """Count the request, and commit its rows if it succeeded."""
        passage = exchange.passage
        if passage is None or not passage.counted:
            return
        exchange.passage = None
        status, rows, error = "success", passage.rows, passage.error
        if exchange.outcome != COMPLETE or exchange.status >= 400:
            status, rows = status_of(exchange, timed_out=passage.timed_out), None
            error = error or exchange.error
        count = None if rows is None else len(rows)
        self.requests.count(exchange, status, count, passage.queued)
        if error and exchange.outcome not in {CANCELLED, DISCONNECTED}:
            self.requests.failed(error)
        passage.rows = None  # a task that the endpoint started keeps the passage in its context
        if rows:
            predictions, confidences, ids, _ = passage.outcome
            commit = self.recorder.commit
            if passage.ignored:
                commit(passage.names, rows, predictions, confidences, ids, ignored=True)
            else:
                commit(passage.names, rows, predictions, confidences, ids)

    def unreached(self, exchange: Exchange) -> None:
        """Count a request that was routed here, but whose body could not even be read."""
        if not self.sure:
            return
        status = status_of(exchange)
        if status == "invalid":
            self.requests.refused("body", "json_invalid")
        self.requests.arrived()
        self.requests.count(exchange, status, None, True)

    def swallow(self, error: Exception) -> None:
        """Count and log an error of ours."""
        self.recorder.guard.swallow("capture", error)

    def stand_in(self, dependant: Any) -> Any:
        """The dependant with a call that tells its times; made once."""
        known, standing = self._standing
        if known is not dependant:
            standing = with_call(dependant, timed(self.call))
            self._standing = (dependant, standing)
        return standing

    def say(self, kind: str, text: str) -> None:
        """Log something about this endpoint once."""
        if kind not in self._said:
            self._said.add(kind)
            _LOG.warning("%s of model %r: %s.", self.template, self.recorder.model_name, text)

    def _rows(self, values: Mapping[str, Any]) -> Rows | None:
        if self.source is not None:
            return Rows(self.source.names, self.source.rows(values))
        told: str | Callable[[dict[str, Any]], Any] | None = None if self.parts is None else self.parts.features
        if callable(told):
            return look(told(dict(values)), self.inputs)
        if self._feature_path is not None:
            value = follow(values, self._feature_path)
            return look(value, self.inputs) if _may_hold_rows(value) else None
        return self._hidden_rows(values)

    def _hidden_rows(self, values: Mapping[str, Any]) -> Rows | None:
        """Rows in what only a request can show: of all dicts and untyped objects the one with most of the features."""
        best: Rows | None = None
        paths = [*self.shape.hidden, *(rows.path for rows in self.shape.lists if not rows.leaves)]
        for path in paths:
            value = follow(values, path)
            if not _may_hold_rows(value):
                continue
            rows = look(value, self.inputs)
            if share(rows) > (0.0 if best is None else share(best)):
                best = rows
        return best

    def _look(self, passage: Passage, values: Mapping[str, Any]) -> None:
        rows = self._hidden_rows(values)
        if rows is None or share(rows) < 0.5:
            self._looks += 1
            self.hopeless = self._looks >= _MOST_LOOKS
            return
        self.sure = True
        self.compile()
        self.became_sure()
        _LOG.info("%s is watched for model %r, by what it was sent.", self.template, self.recorder.model_name)
        passage.arrived()
        if self.feeds and self.recorder.settings.capture:
            passage.names, passage.rows = rows

    def _known_fields(self) -> frozenset[str]:
        if self._fields is None:
            leaves = [*self.shape.leaves, *(leaf for rows in self.shape.lists for leaf in rows.leaves)]
            paths = [*(leaf.path for leaf in leaves), *(rows.path for rows in self.shape.lists), *self.shape.hidden]
            names = {name for leaf in leaves for name in leaf.names} | {part for path in paths for part in path}
            self._fields = frozenset(names)
        return self._fields


def _may_hold_rows(value: Any) -> bool:
    """Whether a client has sent something there that can be looked at for rows."""
    simple = value is ABSENT or isinstance(value, str | bytes | int | float)
    return not simple and (hasattr(value, "__iter__") or hasattr(value, "__dict__"))


def _nothing() -> None:
    """Nobody wants to know."""
