"""The two replaced functions of FastAPI: on every version, among other tools, and where they are not as expected."""

from __future__ import annotations

import asyncio
import functools
import gc
import importlib.util
import json
import logging
import os
import shutil
import subprocess
import sys
import sysconfig
import types
import weakref
from pathlib import Path

import fastapi.routing
import pytest
from fastapi import FastAPI, Request

import modelwatch
from modelwatch._fastapi import Hooks, hooks
from modelwatch.capture import Capture
from modelwatch.exchange import Parts
from modelwatch.tagging import tag

SCRIPT = Path(__file__).parent / "conformance.py"
spec = importlib.util.spec_from_file_location("conformance", SCRIPT)
conformance = importlib.util.module_from_spec(spec)
sys.modules["conformance"] = conformance  # FastAPI resolves annotations by the module's name
spec.loader.exec_module(conformance)
FakeMonitor, Point, ROW, call, watch = (
    conformance.FakeMonitor, conformance.Point, conformance.ROW, conformance.call, conformance.watch,
)  # fmt: skip


@pytest.fixture(autouse=True)
def functions_put_back():
    """Whatever a test does to FastAPI's functions is undone."""
    names = ("run_endpoint_function", "solve_dependencies", "get_request_handler")
    before = {name: getattr(fastapi.routing, name) for name in names}
    yield
    for name, function in before.items():
        setattr(fastapi.routing, name, function)


def requests(app, *calls):
    """Answers to requests that are sent one after another, in one loop and one task."""

    async def all_of_them():
        return [await call(app, *arguments) for arguments in calls]

    return asyncio.run(all_of_them())


@pytest.mark.parametrize("when", conformance.TIMES)
@pytest.mark.parametrize("style", conformance.STYLES)
def test_every_kind_of_endpoint_is_seen(style, when):
    """Each kind of endpoint is captured as it should, however it is mounted and whenever the app is watched."""
    seen = asyncio.run(conformance.see(style, when))
    assert seen == conformance.expected()


def other_fastapi(version: str) -> Path:
    """A folder with another version of FastAPI, installed once for this environment."""
    folder = Path(sys.prefix) / f"fastapi-{version}"
    if not folder.is_dir():
        fresh = folder.with_name(f"{folder.name}.{os.getpid()}")
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check"]
        done = subprocess.run(
            [*pip, "--target", str(fresh), f"fastapi=={version}", "python-multipart"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"pip could not install fastapi {version}: {done.stderr[-1000:]}"
        try:
            fresh.rename(folder)
        except OSError:  # another worker was faster
            shutil.rmtree(fresh)
    return folder


@pytest.mark.parametrize(
    "version",
    [
        "0.115.0",
        pytest.param("0.136.3", marks=pytest.mark.soak),
        pytest.param("0.150.0", marks=pytest.mark.soak),
    ],
)
def test_other_versions_of_fastapi_are_seen_alike(version):
    """The same is captured with other versions of FastAPI."""
    path = [other_fastapi(version), Path(modelwatch.__file__).parents[1], sysconfig.get_paths()["purelib"]]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path)), "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(SCRIPT)], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["version"] == version
    assert result["seen"] == dict.fromkeys(result["seen"], json.loads(json.dumps(conformance.expected())))
    assert len(result["seen"]) == len(conformance.STYLES) * len(conformance.TIMES)


def fake_routing(**functions):
    """A module like fastapi.routing with some functions replaced."""
    module = types.ModuleType("routing")
    for name in ("run_endpoint_function", "solve_dependencies", "get_request_handler"):
        setattr(module, name, inner(getattr(fastapi.routing, name)))
    for name, function in functions.items():
        setattr(module, name, function)
    return module


def inner(function):
    """FastAPI's own function, below whatever stands on it."""
    return getattr(function, "__wrapped__", function)


async def renamed(*, dependant, arguments, is_coroutine): ...


async def with_more(*, dependant, values, is_coroutine, limiter): ...


def no_coroutine(*, dependant, values, is_coroutine): ...


def calls_nothing(dependant): ...


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"run_endpoint_function": renamed}, "run_endpoint_function does not take"),
        ({"run_endpoint_function": with_more}, "run_endpoint_function does not take"),
        ({"solve_dependencies": None}, "no function solve_dependencies"),
    ],
)
def test_functions_that_differ_are_left_alone(changed, said, caplog):
    """If a function of FastAPI's is not as expected, nothing is replaced, and the log says so once."""
    routing = fake_routing(**changed)
    before = dict(vars(routing))
    other = Hooks(routing)
    assert not other.install()
    assert not other.install()
    assert vars(routing) == before
    assert len(caplog.records) == 1
    assert said in caplog.text


def test_what_fastapi_no_longer_calls_is_noticed(monkeypatch):
    """If the request handler would not call the replaced functions, they are not replaced."""
    monkeypatch.setattr("modelwatch._fastapi_expected._PLACE", str(Path(__file__).parent))
    assert "does not call" in Hooks(fake_routing(get_request_handler=calls_nothing)).problem()
    assert "not a coroutine" in Hooks(fake_routing(run_endpoint_function=no_coroutine)).problem()


def test_installing_again_changes_nothing():
    """The functions are replaced once per process, however many apps there are."""
    hooks.install()
    before = fastapi.routing.run_endpoint_function, fastapi.routing.solve_dependencies
    for _ in range(3):
        Capture(FastAPI())
    assert (fastapi.routing.run_endpoint_function, fastapi.routing.solve_dependencies) == before


def test_originals_that_were_put_back_are_replaced_again():
    """A tool that restores FastAPI's functions does not switch the capture off for later apps."""
    routing = fake_routing()
    originals = routing.run_endpoint_function, routing.solve_dependencies
    other = Hooks(routing)
    assert other.install()
    ours = routing.run_endpoint_function, routing.solve_dependencies
    routing.run_endpoint_function, routing.solve_dependencies = originals
    assert other.install()
    assert (routing.run_endpoint_function, routing.solve_dependencies) == ours


@pytest.mark.parametrize("order", ["theirs on ours", "ours on theirs"])
def test_others_may_replace_the_same_functions(order):
    """A tool that replaces the same functions, as Logfire does, sees every request, and so do we, once."""
    seen = []

    def replace(routing):
        solve, run = routing.solve_dependencies, routing.run_endpoint_function

        async def solving(*, request, **given):
            seen.append("solve")
            return await solve(request=request, **given)

        async def running(*, dependant, values, **given):
            seen.append(dependant.call.__qualname__)
            return await run(dependant=dependant, values=values, **given)

        routing.solve_dependencies, routing.run_endpoint_function = solving, running

    ours = fake_routing()
    if order == "ours on theirs":
        replace(ours)
    assert Hooks(ours).install()
    if order == "theirs on ours":
        replace(ours)
    for name in ("solve_dependencies", "run_endpoint_function"):
        setattr(fastapi.routing, name, getattr(ours, name))

    app, monitor = FastAPI(), FakeMonitor()
    conformance.endpoints(app)
    watch(app, monitor, hooked=True, routes=["*"])
    requests(app, ("/sync", ROW), ("/async", ROW))
    assert [rows for _, rows, *_ in monitor.committed] == [[(1.0, 2.0)]] * 2
    names = [name.rpartition(".")[2] for name in seen]
    assert names == ["solve", "synchronous", "solve", "asynchronous"]


def test_a_passage_is_for_one_call(monkeypatch):
    """A call of the same endpoint in the same task, but of another app's request, is none of the request before."""
    entered = []

    def enter(passage):
        entered.append(passage)

    monkeypatch.setattr("modelwatch.watch.Passage.entered", enter)
    watched, bare, monitor = FastAPI(), FastAPI(), FakeMonitor()

    async def endpoint(point: Point):
        return point.a

    for each in (watched, bare):
        each.post("/predict")(endpoint)
    watch(watched, monitor)

    async def both():
        await call(watched, "/predict", ROW)
        await call(bare, "/predict", ROW)

    asyncio.run(both())
    assert len(entered) == 1
    assert entered[0].rows is None


def test_defaults_are_those_of_the_original(monkeypatch):
    """Who leaves out what has a default in FastAPI's function gets that default, and gives more than we know of."""

    async def solve_dependencies(
        *, request, dependant, body=None, dependency_overrides_provider=None, async_exit_stack, embed_body_fields=True,
        limiter=None,
    ):  # fmt: skip
        return body, dependency_overrides_provider, embed_body_fields, limiter

    monkeypatch.setattr("modelwatch._fastapi_expected._PLACE", str(Path(__file__).parent))
    routing = fake_routing(solve_dependencies=solve_dependencies)
    monkeypatch.setattr("modelwatch._fastapi.looked_up", lambda handler: None)
    assert Hooks(routing).install()
    request = types.SimpleNamespace(scope={})
    given = {"request": request, "dependant": None, "async_exit_stack": None}
    assert asyncio.run(routing.solve_dependencies(**given)) == (None, None, True, None)
    assert asyncio.run(routing.solve_dependencies(**given, body=1, limiter=2)) == (1, None, True, 2)
    with pytest.raises(TypeError, match="async_exit_stack"):
        routing.solve_dependencies(request=request, dependant=None)


def test_a_busy_route_does_not_grow():
    """After 5,000 requests to one sync route the stack is as deep, and as much is kept, as after the first ones."""
    depths, app, monitor = [], FastAPI(), FakeMonitor()

    @app.post("/deep")
    def deep(point: Point):
        depths.append(len([*walk_stack()]))
        return point.a

    def walk_stack():
        frame = sys._getframe()
        while frame is not None:
            yield frame
            frame = frame.f_back

    capture = watch(app, monitor, routes=["*"])

    async def many(count):
        for _ in range(count):
            await call(app, "/deep", ROW)
            monitor.committed.clear()

    async def scenario():
        await many(50)
        gc.collect()
        objects = len(gc.get_objects())
        await many(5_000)
        gc.collect()
        return len(gc.get_objects()) - objects

    grown = asyncio.run(scenario())
    assert set(depths[-4_000:]) == set(depths[:50])
    assert grown - len(depths) < 500  # what is on the way, and caches; not one object per request
    assert len(capture._watches) == 1
    assert monitor.statuses() == {"success": 5_050}


def test_apps_leave_nothing_behind():
    """1,000 apps, each watched and asked once, are all gone when their users let go of them."""
    gone, functions = [], (fastapi.routing.run_endpoint_function, fastapi.routing.solve_dependencies)

    async def endpoint(point: Point):  # one function for all apps, as in a module that many tests import
        return point.a

    async def scenario():
        for _ in range(1_000):
            app, monitor = FastAPI(), FakeMonitor()
            app.add_api_route("/predict", endpoint, methods=["POST"])
            capture = watch(app, monitor)
            await call(app, "/predict", ROW)
            assert len(monitor.committed) == 1
            gone.extend(map(weakref.ref, (app, monitor, capture)))

    hooks.install()
    functions = (fastapi.routing.run_endpoint_function, fastapi.routing.solve_dependencies)
    asyncio.run(scenario())
    gc.collect()
    assert sum(reference() is not None for reference in gone) == 0
    assert (fastapi.routing.run_endpoint_function, fastapi.routing.solve_dependencies) == functions


def test_unwatched_requests_are_passed_on():
    """A route that is not watched, and an app that is not, are called as without us: no frame, no context."""
    depths = []

    def app_with_route():
        app = FastAPI()

        @app.get("/other")
        async def other():
            names = [frame.f_code.co_filename for frame in frames()]
            depths.append([name for name in names if "modelwatch" in name and "capture" not in name])
            return 1

        return app

    def frames():
        frame = sys._getframe(1)
        while frame is not None:
            yield frame
            frame = frame.f_back

    watched, bare, monitor = app_with_route(), app_with_route(), FakeMonitor()
    watch(watched, monitor, routes=["/predict"])

    async def scenario():
        await call(watched, "/other", method="GET")
        await call(bare, "/other", method="GET")

    asyncio.run(scenario())
    assert depths == [[], []]
    assert monitor.statuses() == {}


@pytest.mark.swallows
@pytest.mark.parametrize(
    "broken",
    [
        "capture.Capture.decided", "capture.Capture.unreached", "capture.Capture._decide", "watch.Watch.begin",
        "watch.Passage.solved", "watch.Passage.refused", "watch.Passage.entered", "watch.Passage.left",
        "watch.Passage.returned", "watch.Passage.failed", "watch.Passage.in_thread", "extract.Source.rows",
        "predictions.Reader.__call__",
    ],
)  # fmt: skip
def test_our_own_errors_change_no_response(broken, monkeypatch):
    """Whichever of our functions fails, answers are those of the bare app, and the error is counted."""

    def fail(*_arguments, **_named):
        raise RuntimeError("injected")

    bare, app, monitor = FastAPI(), FastAPI(), FakeMonitor()
    for each in (bare, app):
        conformance.endpoints(each)
    watch(app, monitor, routes=["*"])
    kinds = [(path, body) for path, body, *_ in conformance.KINDS.values() if body is not conformance.FORM]
    wanted = requests(bare, *kinds)
    monkeypatch.setattr(f"modelwatch.{broken}", fail)
    answers = requests(app, *kinds)
    assert [(status, body, type(error)) for status, body, error in answers] == [
        (status, body, type(error)) for status, body, error in wanted
    ]
    assert monitor.guard.errors["capture"] > 0


@pytest.fixture(params=["async", "sync"])
def decorated(request):
    """An app whose hooks cannot be installed, with one endpoint that @monitor.predict decorates."""
    app, monitor = FastAPI(), FakeMonitor()

    def predict(function):
        return tag(function, Parts(monitor=monitor, prediction="out.value"), hooked=False)

    if request.param == "async":

        @app.post("/predict")
        @predict
        async def endpoint(point: Point, request: Request):
            return {"out": {"value": point.a}}
    else:

        @app.post("/predict")
        @predict
        def endpoint(point: Point, request: Request):
            return {"out": {"value": point.a}}

    @app.post("/other")
    async def other(point: Point):
        return 1

    return app, monitor, endpoint


@pytest.fixture
def without_hooks():
    """FastAPI's functions as if they could not be replaced."""
    for name in ("run_endpoint_function", "solve_dependencies"):
        setattr(fastapi.routing, name, inner(getattr(fastapi.routing, name)))


def test_decorated_endpoints_are_captured_without_the_hooks(decorated, without_hooks):
    """Where FastAPI's functions differ, @monitor.predict still captures rows, predictions and times."""
    app, monitor, _ = decorated
    capture = watch(app, monitor, hooked=False)
    assert not capture.available
    (ok, bad, other) = requests(app, ("/predict", ROW), ("/predict", {"a": "x"}), ("/other", ROW))
    assert (ok[:2], bad[0], other[:2]) == ((200, b'{"out":{"value":1.0}}'), 422, (200, b"1"))
    assert monitor.committed == [(("a", "b"), [(1.0, 2.0)], [1.0], None, None, False)]
    assert monitor.statuses() == {"success": 1, "invalid": 1}
    assert sum(monitor.counts("model_inference_duration_seconds").values()) == 1


def test_decorated_functions_stay_functions(decorated):
    """A decorated function can be called directly, keeps its name and signature, and is then not recorded."""
    _, monitor, endpoint = decorated
    answer = endpoint(point=Point(a=1, b=2), request=None)
    assert (asyncio.run(answer) if asyncio.iscoroutine(answer) else answer) == {"out": {"value": 1.0}}
    assert endpoint.__name__ == "endpoint"
    assert endpoint.__signature__.parameters["point"].annotation is Point
    assert monitor.committed == []


def test_with_hooks_a_decorator_only_tags():
    """Where the hooks are in place, what is decorated is the same function."""

    def endpoint():
        return 1

    parts = Parts(monitor=FakeMonitor())
    assert tag(endpoint, parts) is endpoint
    assert endpoint.__modelwatch__ is parts


def test_only_functions_can_be_decorated():
    """What takes no attribute is refused with the remedy."""
    with pytest.raises(modelwatch.exceptions.ConfigurationError, match=r"below @app\.post"):
        tag(FakeMonitor().ignoring, Parts(monitor=None))


def test_wrapped_and_partial_functions_are_found(caplog):
    """A tag is found through partials and functools.wraps."""
    app, monitor = FastAPI(), FakeMonitor(inputs=("a", "b", "c", "d", "e"))

    def endpoint(scale: int, point: Point):
        return point.a * scale

    tag(endpoint, Parts(monitor=monitor))
    app.post("/partial")(functools.partial(endpoint, 2))
    watch(app, monitor)
    with caplog.at_level(logging.INFO):
        requests(app, ("/partial", ROW))
    assert [predictions for _, _, predictions, *_ in monitor.committed] == [[2.0]]
    assert "2 of 5 features; not found: c, d, e" in caplog.text
