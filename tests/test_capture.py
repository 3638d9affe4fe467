"""Which endpoints are watched, where rows, predictions and confidences are found, and what is left alone."""

import asyncio
import dataclasses
import importlib.util
import logging
import sys
import types
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pytest
from fastapi import APIRouter, Body, Depends, FastAPI, HTTPException
from fastapi.responses import StreamingResponse
from pydantic import AliasChoices, BaseModel, Field, RootModel
from typing_extensions import TypedDict

from modelwatch._types import ABSENT
from modelwatch.exceptions import ConfigurationError
from modelwatch.exchange import Parts
from modelwatch.extract import UNREADABLE
from modelwatch.tagging import tag

SCRIPT = Path(__file__).parent / "conformance.py"
spec = importlib.util.spec_from_file_location("capture_support", SCRIPT)
support = importlib.util.module_from_spec(spec)
sys.modules["capture_support"] = support
spec.loader.exec_module(support)
FakeMonitor, call, watch = support.FakeMonitor, support.call, support.watch


class Trip(BaseModel):
    distance: float
    hour: int
    city: str


TRIP = {"distance": 2.5, "hour": 7, "city": "Rome"}
NAMES = ("distance", "hour", "city")


def ask(endpoint, body, *, names=NAMES, method="post", path="/predict", parts=None, times=1, **claim):
    """The fake monitor after requests to an app with one endpoint."""
    app, monitor = FastAPI(), FakeMonitor(names)
    if parts is not None:
        endpoint = tag(copied(endpoint), Parts(monitor=monitor, **parts), hooked=True)
    getattr(app, method)(path)(endpoint)
    monitor.capture = watch(app, monitor, **claim)

    async def requests():
        for _ in range(times):
            monitor.status, monitor.body, monitor.error = await call(app, path, body, method=method.upper())

    asyncio.run(requests())
    return monitor


def copied(function):
    """A function of its own, as a tag stays on it."""
    fresh = types.FunctionType(function.__code__, function.__globals__, function.__name__, None, function.__closure__)
    fresh.__annotations__ = function.__annotations__
    return fresh


def rows(monitor):
    """All rows that were committed, as dicts."""
    return [dict(zip(names, row, strict=True)) for names, found, *_ in monitor.committed for row in found]


def returning(result):
    """An endpoint that takes one trip and returns `result`."""

    async def endpoint(trip: Trip):
        return result

    return endpoint


class Both(BaseModel):
    id: int
    trip: Trip


class Rows(BaseModel):
    note: str = ""
    trips: list[Trip]


class Named(BaseModel):
    d: float = Field(alias="distance")
    h: int = Field(validation_alias=AliasChoices("hour", "HOUR"))
    city: str


class Typed(TypedDict):
    distance: float
    hour: int
    city: str


@dataclasses.dataclass
class Data:
    distance: float
    hour: int
    city: str


async def one(trip: Trip): ...
async def optional(trip: Trip | None): ...
async def nested(both: Both): ...
async def aliased(named: Named): ...
async def typed(typed: Typed): ...
async def data(data: Data): ...
async def split(distance: Annotated[float, Body()], hour: Annotated[int, Body()], city: Annotated[str, Body()]): ...
async def in_dict(row: dict[str, Any]): ...
async def in_any(row: Annotated[Any, Body()]): ...
async def many(trips: list[Trip]): ...
async def wrapped(rows: Rows): ...
async def rooted(rows: RootModel[list[Trip]]): ...
async def dicts(rows: list[dict[str, Any]]): ...
async def many_data(rows: list[Data]): ...


@pytest.mark.parametrize(
    ("endpoint", "body", "count"),
    [
        (one, TRIP, 1),
        (optional, TRIP, 1),
        (nested, {"id": 1, "trip": TRIP}, 1),
        (aliased, TRIP, 1),
        (typed, TRIP, 1),
        (data, TRIP, 1),
        (split, TRIP, 1),
        (in_dict, TRIP, 1),
        (in_any, TRIP, 1),
        (many, [TRIP] * 3, 3),
        (wrapped, {"trips": [TRIP] * 2}, 2),
        (rooted, [TRIP] * 2, 2),
        (dicts, [TRIP] * 2, 2),
        (many_data, [TRIP] * 2, 2),
    ],
)
def test_rows_are_found_without_being_named(endpoint, body, count):
    """Single rows, lists, wrappers, nested models, aliases, dataclasses and dicts are found by the features' names."""
    monitor = ask(endpoint, body)
    assert monitor.status == 200
    assert rows(monitor) == [TRIP] * count
    assert monitor.committed[0][0] == NAMES


def test_two_bodies_make_one_row():
    """Features that are spread over several models of one request make one row."""

    class Where(BaseModel):
        distance: float
        city: str

    class When(BaseModel):
        hour: int

    async def endpoint(where: Where, when: When, other: Annotated[float, Body()]): ...

    body = {"where": {"city": "Rome", "distance": 2.5}, "when": {"hour": 7}, "other": 1}
    assert rows(ask(endpoint, body)) == [TRIP]


def test_a_model_from_a_dependency_is_found():
    """Features that come from a store, by a dependency that says what it returns, are captured."""

    def stored() -> Trip:
        return Trip(**TRIP)

    async def endpoint(trip: Annotated[Trip, Depends(stored)]): ...

    assert rows(ask(endpoint, b"")) == [TRIP]


def test_ambiguous_names_are_left_out():
    """A feature that two nested models have is not guessed; with dots it is found."""

    class Two(BaseModel):
        start: Trip
        end: Trip

    async def endpoint(two: Two): ...

    body = {"start": TRIP, "end": TRIP | {"city": "Oslo"}}
    monitor = ask(endpoint, body, names=("start.city", "end.city", "hour"))
    assert rows(monitor) == [{"start.city": "Rome", "end.city": "Oslo"}]


def test_what_is_missing_is_absent():
    """A feature that a row lacks is ABSENT, that of a nested model that is None too; None stays None."""

    class Maybe(BaseModel):
        distance: float | None = None
        place: Trip | None = None

    async def endpoint(body: Maybe): ...

    names = ("distance", "hour", "city")
    assert rows(ask(endpoint, {}, names=names)) == [{"distance": None, "hour": ABSENT, "city": ABSENT}]
    assert rows(ask(in_dict, {"distance": 1, "hour": 2})) == [{"distance": 1, "hour": 2, "city": ABSENT}]


def test_values_are_copied_as_plain_values():
    """What is kept is plain: enums by value, text cut at 1,000 characters, objects not at all."""

    class Kind(Enum):
        FAST = "fast"

    class Odd(BaseModel):
        kind: Kind
        size: Decimal
        text: str
        mode: Literal["a", "b"]
        nested: dict[str, int]
        items: Any

    async def endpoint(odd: Odd): ...

    body = {"kind": "fast", "size": "1.5", "text": "x" * 2_000, "mode": "a", "nested": {"a": 1}, "items": [1, 2]}
    (row,) = rows(ask(endpoint, body, names=("kind", "size", "text", "mode", "items")))
    assert row == {"kind": "fast", "size": Decimal("1.5"), "text": "x" * 1_000, "mode": "a", "items": UNREADABLE}


def test_rows_are_those_that_the_endpoint_was_given():
    """An endpoint that changes what it was given does not change what is recorded."""

    async def endpoint(trip: Trip):
        trip.distance = -1.0
        return {"prediction": [1.0], "trip": trip}

    assert rows(ask(endpoint, TRIP)) == [TRIP]


@pytest.mark.parametrize(
    ("names", "watched"), [(("distance", "hour", "x", "y"), True), (("distance", "w", "x", "y"), False)]
)
def test_half_of_the_features_make_an_endpoint(names, watched):
    """An endpoint is watched if its body has at least half of the features; only those are in the rows."""
    monitor = ask(one, TRIP, names=names)
    assert [found for found, *_ in monitor.committed] == ([("distance", "hour")] if watched else [])
    assert monitor.statuses() == ({"success": 1} if watched else {})


def test_a_dict_must_show_what_it_holds():
    """An endpoint that takes a dict is watched from the first request on that carries half of the features."""
    app, monitor = FastAPI(), FakeMonitor(NAMES)
    app.post("/predict")(in_dict)
    watch(app, monitor)

    async def requests():
        for body in ({"x": 1}, {"distance": 1, "hour": 2}, {"x": 1}):
            await call(app, "/predict", body)

    asyncio.run(requests())
    assert monitor.statuses() == {"success": 2}
    assert len(monitor.committed) == 1
    assert monitor.counts("model_requests_in_progress") == {("fake",): 0}


def test_a_dict_that_never_shows_it_is_left_alone():
    """After 100 requests without features an endpoint that takes a dict is not looked at any more."""

    def counted(useless):
        app, monitor = FastAPI(), FakeMonitor(NAMES)
        app.post("/predict")(in_dict)
        watch(app, monitor)

        async def requests():
            for body in [{"x": 1}] * useless + [TRIP]:
                await call(app, "/predict", body)

        asyncio.run(requests())
        return monitor.statuses()

    assert counted(useless=99) == {"success": 1}
    assert counted(useless=100) == {}


@pytest.mark.parametrize("method", ["get", "delete", "patch"])
def test_other_methods_are_not_endpoints(method):
    """Only POST and PUT are found by themselves."""
    assert ask(one, TRIP, method=method).statuses() == {}
    assert ask(one, TRIP, method=method, routes=["/predict"]).statuses() == {"success": 1}


def test_health_checks_are_not_endpoints():
    """What is excluded is not watched, unless the user says what is."""
    assert ask(one, TRIP, path="/health").statuses() == {}
    assert ask(one, TRIP, path="/health", exclude=[]).statuses() == {"success": 1}


def test_patterns_are_checked():
    """A route that cannot be one is refused when it is given."""
    with pytest.raises(ConfigurationError, match="begin with /"):
        ask(one, TRIP, routes=["predict"])


@pytest.fixture
def two():
    """An app with two endpoints that carry the features."""
    app = FastAPI()
    app.post("/first")(one)
    app.post("/second")(many)
    return app


def ask_two(app):
    """Send a request to each of them."""

    async def requests():
        await call(app, "/first", TRIP)
        await call(app, "/second", [TRIP])

    asyncio.run(requests())


def test_the_first_of_several_feeds(two, caplog):
    """Of several endpoints all count requests; the first in the order of the routes feeds, and a warning names them."""
    monitor = FakeMonitor(NAMES)
    watch(two, monitor)
    ask_two(two)
    assert monitor.statuses() == {"success": 2}
    assert len(monitor.committed) == 1
    warnings = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert [text for text in warnings if "/first, /second" in text and "only /first feeds" in text]


def test_all_that_are_chosen_feed(two, caplog):
    """Endpoints that the user names all feed the window, and nothing is warned of."""
    monitor = FakeMonitor(NAMES)
    watch(two, monitor, routes=["/first", "/sec*"])
    ask_two(two)
    assert len(monitor.committed) == 2
    assert [record for record in caplog.records if record.levelno == logging.WARNING] == []


def test_a_tag_chooses(two):
    """If one endpoint is decorated, others of that model are not looked for."""
    monitor = FakeMonitor(NAMES)
    app = FastAPI()

    async def chosen(trip: Trip): ...

    app.post("/first")(one)
    app.post("/chosen")(tag(chosen, Parts(monitor=monitor), hooked=True))
    watch(app, monitor)

    async def requests():
        await call(app, "/first", TRIP)
        await call(app, "/chosen", TRIP)

    asyncio.run(requests())
    assert monitor.statuses() == {"success": 1}


def test_without_a_reference_there_must_be_one(two, caplog):
    """Without a reference the only endpoint with a body is watched, with all its fields; of two none."""
    assert rows(ask(one, TRIP, names=None)) == [TRIP]
    monitor = FakeMonitor(None)
    watch(two, monitor)
    ask_two(two)
    assert monitor.statuses() == {}
    assert "None is watched; name one" in caplog.text


def test_two_models_have_their_own_routes(two):
    """A route belongs to one model: the one that names it, else the one that finds it."""
    found, named = FakeMonitor(NAMES), FakeMonitor(NAMES)
    capture = watch(two, found)
    capture.add(named, routes=["/second"])
    ask_two(two)
    assert found.statuses() == named.statuses() == {"success": 1}
    assert len(found.committed) == len(named.committed) == 1


def test_another_reference_is_matched_anew():
    """After a reload the rows are those of the new reference's features, under the new version."""
    app, monitor = FastAPI(), FakeMonitor(NAMES)
    app.post("/predict")(one)
    watch(app, monitor)

    async def requests():
        await call(app, "/predict", TRIP)
        monitor.inputs, monitor.model_version = ("city", "hour"), "2"
        await call(app, "/predict", TRIP)

    asyncio.run(requests())
    assert [names for names, *_ in monitor.committed] == [NAMES, ("city", "hour")]
    assert monitor.counts("model_request_total")["fake", "2", "success"] == 1


def test_a_route_that_comes_late_is_watched():
    """A router that is included after the first request is watched from its first request on."""
    app, monitor, router = FastAPI(), FakeMonitor(NAMES), APIRouter()
    app.post("/other")(in_any)
    router.post("/predict")(one)
    watch(app, monitor)

    async def requests():
        await call(app, "/other", {"x": 1})
        app.include_router(router, prefix="/v2")
        await call(app, "/v2/predict", TRIP)

    asyncio.run(requests())
    assert rows(monitor) == [TRIP]


def test_nested_apps_count_once():
    """Of two watched apps, one mounted in the other, the inner one takes its requests; none is counted twice."""
    outer, inner = FastAPI(), FastAPI()
    outside, inside = FakeMonitor(NAMES), FakeMonitor(NAMES)
    inner.post("/predict")(one)
    outer.post("/predict")(one)
    outer.mount("/inner", inner)
    further = FastAPI()
    further.post("/predict")(one)
    outer.mount("/innermost", further)
    watch(inner, inside)
    around = watch(outer, outside)

    async def requests():
        await call(outer, "/predict", TRIP)
        await call(outer, "/inner/predict", TRIP)
        await call(inner, "/predict", TRIP)

    asyncio.run(requests())
    assert outside.statuses() == {"success": 1}
    assert inside.statuses() == {"success": 2}
    assert [watched.template for watched in around.watched()] == ["/predict", "/innermost/predict"]


class Out(BaseModel):
    label: str
    probability: list[float]


@dataclasses.dataclass
class DataOut:
    score: float
    confidence: float


@pytest.mark.parametrize(
    ("result", "predictions", "confidences"),
    [
        (1.5, [1.5], None),
        ([1.5], [1.5], None),
        ([[1.5]], [1.5], None),
        ("cat", ["cat"], None),
        (True, [True], None),
        ({"prediction": 1, "confidence": 0.5}, [1], [0.5]),
        ({"predictions": [1], "probabilities": [[0.1, 0.9]]}, [1], [0.9]),
        ({"label": "cat", "probability": [0.25, 0.75]}, ["cat"], [0.75]),
        ({"predicted_class": "cat", "probability": {"cat": 0.75, "dog": 0.25}}, ["cat"], [0.75]),
        ({"output": 3, "confidence": "high"}, [3], [None]),
        ({"output": 3, "probability": [0.5, "high"]}, [3], [None]),
        ({"target": 4, "prediction": 5}, [4], None),  # as the reference calls it
        ([{"label": "cat", "confidence": 0.5}], ["cat"], [0.5]),
        (Out(label="cat", probability=[0.25, 0.75]), ["cat"], [0.75]),
        (DataOut(0.5, 0.25), [0.5], [0.25]),
    ],
)
def test_predictions_are_found_without_being_named(result, predictions, confidences):
    """Scalars, lists, dicts, models and dataclasses are read by the names that are usual."""
    app, monitor = FastAPI(), FakeMonitor(NAMES)
    monitor.prediction_column = "target"
    app.post("/predict")(returning(result))
    watch(app, monitor)
    asyncio.run(call(app, "/predict", TRIP))
    (((_, _, *found, ids, ignored)),) = monitor.committed
    assert found == [predictions, confidences]
    assert (ids, ignored) == (None, False)


@pytest.mark.parametrize(
    ("result", "said"),
    [
        ({"label": "cat", "score": 0.5}, "any of label, score may be"),
        ({"answer": 1}, "none of its keys"),
        ([1, 2], "2 values for 1 row"),
        ({"prediction": {"a": 1}}, "no number, no text"),
    ],
)
def test_what_is_ambiguous_is_not_captured(result, said, caplog):
    """What may be several things is no prediction, and that is said once; the rows are recorded all the same."""
    monitor = ask(returning(result), TRIP, times=3)
    assert [found[2] for found in monitor.committed] == [None] * 3
    assert sum(said in record.message for record in caplog.records) == 1


def test_arrays_are_read_as_lists():
    """What numpy returns is read as plain numbers, one for each row."""

    def endpoint(trips: list[Trip]) -> dict[str, Any]:
        held.append({"prediction": np.array([1.5, 2.5]), "probability": np.array([[0.25, 0.75], [0.5, 0.5]])})
        return {"prediction": np.array([1.5, 2.5]).tolist()}

    held: list[Any] = []
    monitor = ask(endpoint, [TRIP] * 2)
    reader = next(watch for _, watch in monitor.capture._watches.values()).reader
    assert reader(held[0], 2) == ([1.5, 2.5], [0.75, 0.5], None, None)
    assert reader(np.float32(0.5), 1) == ([0.5], None, None, None)
    assert type(reader(np.int64(3), 1)[0][0]) is int


@pytest.mark.parametrize(
    ("parts", "result", "found"),
    [
        ({"prediction": "out.value"}, {"out": {"value": 1}, "confidence": 0.5}, ([1], [0.5], None)),
        ({"prediction": "out.value", "confidence": "out.p", "id": "id"},
         {"out": {"value": 1, "p": [0.25, 0.75]}, "id": "x"}, ([1], [0.75], ["x"])),
        ({"prediction": lambda r: r["a"] + 1, "confidence": lambda r: 0.5}, {"a": 1}, ([2], [0.5], None)),
        ({"prediction": "items.label"}, {"items": [{"label": "cat"}]}, (["cat"], None, None)),
        ({"id": "id"}, {"prediction": 1, "id": 7}, ([1], None, [7])),
    ],
)  # fmt: skip
def test_parts_that_are_named(parts, result, found):
    """What @monitor.predict names is taken from there, by key, by path or by a function."""
    monitor = ask(returning(result), TRIP, parts=parts)
    assert monitor.committed == [(NAMES, [tuple(TRIP.values())], *found, False)]


@pytest.mark.parametrize("features", ["rows.trips", lambda given: [trip.model_dump() for trip in given["rows"].trips]])
def test_rows_that_are_named(features):
    """Rows are taken from where @monitor.predict says, by path or by a function of the arguments."""
    assert rows(ask(wrapped, {"trips": [TRIP] * 2}, parts={"features": features})) == [TRIP] * 2


def test_lists_of_numbers_are_in_the_order_of_the_reference():
    """Rows that are bare lists are read in the order of the reference's features."""

    async def endpoint(instances: Annotated[list[list[float]], Body(embed=True)]): ...

    monitor = ask(endpoint, {"instances": [[1, 2, 3], [4, 5]]}, parts={"features": "instances"})
    assert monitor.committed[0][:2] == (NAMES, [(1.0, 2.0, 3.0), (4.0, 5.0, ABSENT)])


@pytest.mark.swallows
def test_a_function_that_fails_costs_only_telemetry():
    """If the user's function for the rows raises, the response is as ever and the error is counted."""
    monitor = ask(one, TRIP, parts={"features": lambda given: given["nothing"]})
    assert monitor.status == 200
    assert monitor.guard.errors["capture"] == 1


def test_ignored_requests_are_marked():
    """What happens within `monitor.ignore()` is committed as ignored, and counted."""
    app, monitor = FastAPI(), FakeMonitor(NAMES)
    monitor.ignores = True
    app.post("/predict")(one)
    watch(app, monitor)
    asyncio.run(call(app, "/predict", TRIP))
    assert [ignored for *_, ignored in monitor.committed] == [True]
    assert monitor.statuses() == {"success": 1}


def test_capture_can_be_switched_off():
    """With `Settings(capture=False)` requests are counted and no row is taken."""
    app, monitor = FastAPI(), FakeMonitor(NAMES, capture=False)
    app.post("/predict")(one)
    watch(app, monitor)
    asyncio.run(call(app, "/predict", TRIP))
    assert monitor.statuses() == {"success": 1}
    assert monitor.committed == []


def test_rows_of_failed_responses_are_not_recorded():
    """An endpoint that returned, but whose response could not be made, has predicted nothing."""

    async def endpoint(trip: Trip) -> Out:
        return {"label": 1}  # type: ignore[return-value]

    monitor = ask(endpoint, TRIP)
    assert monitor.status == 500
    assert monitor.statuses() == {"error": 1}
    assert monitor.committed == []
    assert monitor.counts("model_exceptions_total") == {("fake", "ResponseValidationError"): 1}


def test_exceptions_of_endpoints_are_counted_by_class():
    """What comes out of an endpoint or a dependency is counted by its class, a TimeoutError as a timeout."""

    async def endpoint(trip: Trip):
        raise TimeoutError

    def dependency():
        raise LookupError

    async def dependent(trip: Trip, found: Annotated[int, Depends(dependency)]): ...

    monitor = ask(endpoint, TRIP)
    assert monitor.statuses() == {"timeout": 1}
    assert monitor.counts("model_exceptions_total") == {("fake", "TimeoutError"): 1}
    assert ask(dependent, TRIP).counts("model_exceptions_total") == {("fake", "LookupError"): 1}

    class SlowError(TimeoutError):
        pass

    async def slow(trip: Trip):
        raise SlowError

    async def refusing(trip: Trip):
        raise HTTPException(404)

    assert ask(slow, TRIP).statuses() == {"timeout": 1}
    assert ask(refusing, TRIP).counts("model_exceptions_total") == {}


def test_validation_errors_name_only_the_schema():
    """Fields of validation errors are the schema's: what a client made up is not in a label."""

    class Strict(BaseModel, extra="forbid"):
        distance: float
        hour: int

    async def endpoint(trip: Strict): ...

    def errors(body):
        found = ask(endpoint, body, names=("distance", "hour")).counts("model_input_validation_errors_total")
        return {labels[1:] for labels in found}

    assert errors({"distance": "x", "hour": 1}) == {("distance", "float_parsing")}
    assert errors({}) == {("distance", "missing"), ("hour", "missing")}
    assert errors({"distance": 1, "hour": 1, "made_up": 1}) == {("body", "extra_forbidden")}
    assert errors(b"") == {("body", "missing")}
    assert errors(b"{") == {("body", "json_invalid")}


def test_errors_in_lists_name_the_field():
    """An error within a list of rows names the field of the row, not its number."""
    found = ask(many, [TRIP, TRIP | {"hour": "x"}]).counts("model_input_validation_errors_total")
    assert set(found) == {("fake", "hour", "int_parsing")}


def test_times_of_a_request():
    """Waiting, inference and latency are there, also for an endpoint in a thread, and add up."""

    def endpoint(trip: Trip):
        return 1.0

    for each in (one, endpoint):
        monitor = ask(each, TRIP)
        sums = {cell.metric: cell.values[-1] for cell in monitor.series.cells() if cell.bounds is not None}
        queue, inference = sums["model_queue_duration_seconds"], sums["model_inference_duration_seconds"]
        assert 0 < inference < queue + inference < sums["model_request_latency_seconds"]


def test_generators_begin_and_are_not_timed():
    """A generator endpoint waits like any other; how long it runs is not the time of a prediction."""

    def endpoint(trip: Trip):
        yield "x"

    app, monitor = FastAPI(), FakeMonitor(NAMES)
    app.post("/predict", response_class=StreamingResponse)(endpoint)
    watch(app, monitor)
    asyncio.run(call(app, "/predict", TRIP))
    assert monitor.statuses() == {"success": 1}
    assert sum(monitor.counts("model_queue_duration_seconds").values()) == 1
    assert sum(monitor.counts("model_inference_duration_seconds").values()) == 0


def test_a_wrong_method_is_no_request_to_the_model():
    """What is answered with 405 was not routed to the endpoint."""
    app, monitor = FastAPI(), FakeMonitor(NAMES)
    app.post("/predict")(one)
    watch(app, monitor)
    assert asyncio.run(call(app, "/predict", method="GET"))[0] == 405
    assert monitor.statuses() == {}


def test_of_several_attempts_the_last_counts():
    """If a middleware calls the app again for one request, it is one request, with the rows of the last attempt."""
    app, monitor, attempts = FastAPI(), FakeMonitor(NAMES), []

    async def endpoint(trip: Trip):
        attempts.append(trip)
        if len(attempts) == 1:
            raise LookupError
        return len(attempts)

    class Again:
        def __init__(self, app):
            self.app = app

        async def __call__(self, scope, receive, send):
            if scope["type"] != "http":
                return await self.app(scope, receive, send)
            body = await receive()

            async def again():
                return body

            for _ in range(2):
                try:
                    return await self.app(scope, again, send)
                except LookupError:
                    pass
            return None

    app.add_middleware(Again)
    app.post("/predict")(endpoint)
    watch(app, monitor)
    asyncio.run(call(app, "/predict", TRIP))
    assert monitor.statuses() == {"success": 1}
    assert [predictions for _, _, predictions, *_ in monitor.committed] == [[2]]
    assert monitor.counts("model_requests_in_progress") == {("fake",): 0}
    assert monitor.counts("model_queue_depth") == {("fake",): 0}


def test_what_is_watched_is_said_once(caplog):
    """The log says what is watched, where rows are, how many features match, and what is nearest to the others."""

    class Near(BaseModel):
        Distance: float
        hour: int
        city: str

    async def endpoint(trips: list[Near]) -> list[float]:
        return [1.0] * len(trips)

    with caplog.at_level(logging.INFO):
        monitor = ask(endpoint, [TRIP | {"Distance": 1}], times=3)
    lines = [record.message for record in caplog.records if "is watched" in record.message]
    assert lines == [
        "POST /predict is watched for model 'fake': rows in the list trips, 2 of 3 features; "
        "not found: distance (nearest: Distance)."
    ]
    (watched,) = monitor.capture.watched()
    assert (watched.template, watched.methods, watched.feeds) == ("/predict", ("POST",), True)
    assert watched.matched == ("hour", "city")
    assert watched.unmatched == {"distance": "Distance"}


def test_results_are_described_from_their_type():
    """What an endpoint says it returns tells where prediction and confidence will be."""

    async def endpoint(trip: Trip) -> Out:
        return Out(label="a", probability=[1.0])

    (watched,) = ask(endpoint, TRIP).capture.watched()
    assert (watched.rows, watched.prediction, watched.confidence) == ("trip", "label", "probability")


def test_a_model_without_endpoints_is_said(caplog):
    """If nothing is found for a model, the log says so, with the remedy, once."""
    monitor = ask(one, TRIP, names=("x", "y"), times=2)
    assert monitor.committed == []
    assert sum("No endpoint of model 'fake' was found" in record.message for record in caplog.records) == 1
