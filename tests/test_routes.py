"""Route templates, told from what the router left in the scope: every way in which a route can come into an app."""

from __future__ import annotations

import asyncio

import pytest
from fastapi import APIRouter, FastAPI, WebSocket
from starlette.applications import Starlette
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import PlainTextResponse
from starlette.routing import Host, Mount, Route, Router, WebSocketRoute
from starlette.staticfiles import StaticFiles

from modelwatch.exceptions import ConfigurationError
from modelwatch.routes import FRONTEND, USUALLY_EXCLUDED, Patterns, Templates, path_below, walk


async def item(uid: str = ""):
    return {"uid": uid}


def plain(request):
    return PlainTextResponse("plain")


async def chat(websocket: WebSocket):
    await websocket.accept()
    await websocket.close()


class Callable:
    """An endpoint that is no function and cannot be hashed."""

    __hash__ = None

    def __call__(self, uid: str):
        return {"uid": uid}


class Copying:
    """Middleware that hands a copy of the scope on, as some do."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        await self.app(dict(scope), receive, send)


async def drive(app, path, *, method="GET", kind="http", host="t.local", root=""):
    """The scope that an app leaves behind."""
    scope = {
        "type": kind, "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1", "scheme": "http",
        "path": path, "raw_path": path.encode(), "query_string": b"", "root_path": root, "state": {},
        "headers": [(b"host", host.encode())], "client": ("c", 1), "server": ("s", 80),
    }  # fmt: skip
    if kind == "http":
        scope["method"] = method
        first = {"type": "http.request", "body": b"", "more_body": False}
    else:
        scope["subprotocols"] = []
        first = {"type": "websocket.connect"}
    incoming = [first]

    async def receive():
        if incoming:
            return incoming.pop()
        if kind == "websocket":
            return {"type": "websocket.disconnect", "code": 1000}
        return await asyncio.Event().wait()

    async def send(message):
        pass

    await app(scope, receive, send)
    return scope


def template(app, path, templates=None, root="", **request):
    """Template of one request to an app."""
    scope = asyncio.run(drive(app, path, root=root, **request))
    return (templates or Templates(app)).of(scope, root)


def routed(prefix="", paths=("/items/{uid}",)):
    router = APIRouter(prefix=prefix)
    for path in paths:
        router.get(path)(item)
    return router


def alone():
    app = FastAPI()
    app.get("/items/{uid}")(item)
    return app


def included():
    app = FastAPI()
    app.include_router(routed("/items", ["/{uid}"]), prefix="/api/v1")
    return app


def nested():
    inner, outer, app = routed("/in"), APIRouter(prefix="/out"), FastAPI()
    outer.include_router(inner, prefix="/mid")
    app.include_router(outer)
    return app


def twice():
    app, router = FastAPI(), routed()
    app.include_router(router, prefix="/a")
    app.include_router(router, prefix="/b/{tenant}")
    return app


def mounted():
    app = FastAPI()
    app.mount("/sub", alone())
    return app


def mounted_included():
    app = FastAPI()
    app.mount("/sub", included())
    return app


def mounted_by_template():
    app = FastAPI()
    app.mount("/tenants/{tenant}", alone())
    app.mount("/by/{x}/{y:int}", included())
    return app


def mounted_deep():
    app = FastAPI()
    app.mount("/one/{a}", mounted_by_template())
    return app


def mounted_alike():
    app, middle = FastAPI(), FastAPI()
    middle.mount("/in/{t}", alone())
    app.mount("/out/{t}", middle)
    return app


def mounted_thrice():
    app, sub = FastAPI(), alone()
    for prefix in ("/x", "/y", "/z/{n:int}"):
        app.mount(prefix, sub)
    return app


def mounted_at_root():
    app = FastAPI()
    app.mount("/", alone())
    return app


def mounted_wrapped():
    app = FastAPI()
    app.mount("/sub", CORSMiddleware(alone(), allow_origins=["*"]))
    return app


def of_starlette():
    return Starlette(routes=[
        Route("/plain/{uid}", plain), Route("/other/{uid}", plain), WebSocketRoute("/ws/{room}", chat),
        Mount("/inner/{a}", routes=[Route("/plain/{uid:int}", plain)]),
    ])  # fmt: skip


def starlette_in_fastapi():
    app = FastAPI()
    app.router.routes += [Route("/direct/{uid}", plain), Route("/straight/{uid}", plain)]
    app.mount("/star", of_starlette())
    return app


def fastapi_in_starlette():
    app = alone()
    app.router.routes.append(Route("/direct/{uid}", plain))
    return Starlette(routes=[Mount("/fast", app)])


def hosted():
    return Starlette(routes=[Host("{tenant}.t.local", alone()), Host("bare.example", Router([Route("/x/{n}", plain)]))])


def with_websockets():
    app, router = alone(), APIRouter()
    app.websocket("/ws/{room}")(chat)
    router.websocket("/ws/{room}")(chat)
    app.include_router(router, prefix="/api")
    return app


def with_callable():
    app, router = FastAPI(), APIRouter()
    app.get("/c/{uid}")(Callable())
    router.get("/c/{uid}")(Callable())
    app.include_router(router, prefix="/v2")
    return app


CASES = [
    (alone, "/items/5", {}, "/items/{uid}"),
    (alone, "/items/5", {"method": "DELETE"}, "/items/{uid}"),  # 405
    (alone, "/items/5", {"method": "BREW"}, "/items/{uid}"),
    (alone, "/docs", {}, "/docs"),
    (alone, "/openapi.json", {}, "/openapi.json"),
    (alone, "/nowhere", {}, None),
    (alone, "/items/5/", {}, None),  # a redirect
    (alone, "/api/items/5", {"root": "/api"}, "/items/{uid}"),
    (included, "/api/v1/items/5", {}, "/api/v1/items/{uid}"),
    (included, "/api/v1/items/5", {"method": "PUT"}, "/api/v1/items/{uid}"),
    (included, "/p/api/v1/items/5", {"root": "/p"}, "/api/v1/items/{uid}"),
    (nested, "/out/mid/in/items/5", {}, "/out/mid/in/items/{uid}"),
    (twice, "/a/items/5", {}, "/a/items/{uid}"),
    (twice, "/b/t1/items/5", {}, "/b/{tenant}/items/{uid}"),
    (mounted, "/sub/items/5", {}, "/sub/items/{uid}"),
    (mounted, "/sub/nowhere", {}, "/sub/{path}"),
    (mounted, "/p/sub/items/5", {"root": "/p"}, "/sub/items/{uid}"),
    (mounted_included, "/sub/api/v1/items/5", {}, "/sub/api/v1/items/{uid}"),
    (mounted_by_template, "/tenants/t42/items/5", {}, "/tenants/{tenant}/items/{uid}"),
    (mounted_by_template, "/by/a/7/api/v1/items/5", {}, "/by/{x}/{y}/api/v1/items/{uid}"),
    (mounted_by_template, "/tenants/t42/nowhere", {}, "/tenants/{tenant}/{path}"),
    (mounted_deep, "/one/1/tenants/t42/items/5", {}, "/one/{a}/tenants/{tenant}/items/{uid}"),
    (mounted_alike, "/out/1/in/2/items/5", {}, "/out/{t}/in/{t}/items/{uid}"),
    (mounted_thrice, "/x/items/5", {}, "/x/items/{uid}"),
    (mounted_thrice, "/y/items/5", {}, "/y/items/{uid}"),
    (mounted_thrice, "/z/8/items/5", {}, "/z/{n}/items/{uid}"),
    (mounted_at_root, "/items/5", {}, "/items/{uid}"),
    (mounted_wrapped, "/sub/items/5", {}, "/sub/items/{uid}"),
    (of_starlette, "/plain/5", {}, "/plain/{uid}"),
    (of_starlette, "/other/5", {}, "/other/{uid}"),  # the same function
    (of_starlette, "/plain/5", {"method": "POST"}, "/plain/{uid}"),
    (of_starlette, "/inner/q/plain/5", {}, "/inner/{a}/plain/{uid}"),
    (of_starlette, "/ws/r1", {"kind": "websocket"}, "/ws/{room}"),
    (starlette_in_fastapi, "/direct/5", {}, "/direct/{uid}"),
    (starlette_in_fastapi, "/straight/5", {}, "/straight/{uid}"),
    (starlette_in_fastapi, "/star/plain/5", {}, "/star/plain/{uid}"),
    (starlette_in_fastapi, "/star/other/5", {}, "/star/other/{uid}"),
    (starlette_in_fastapi, "/star/inner/q/plain/5", {}, "/star/inner/{a}/plain/{uid}"),
    (fastapi_in_starlette, "/fast/items/5", {}, "/fast/items/{uid}"),
    (fastapi_in_starlette, "/fast/direct/5", {}, "/fast/direct/{uid}"),
    (hosted, "/items/5", {"host": "a.t.local"}, "/items/{uid}"),
    (hosted, "/x/5", {"host": "bare.example"}, "/x/{n}"),
    (hosted, "/x/5", {"host": "evil.example"}, None),
    (with_websockets, "/ws/r1", {"kind": "websocket"}, "/ws/{room}"),
    (with_websockets, "/api/ws/r1", {"kind": "websocket"}, "/api/ws/{room}"),
    (with_callable, "/c/5", {}, "/c/{uid}"),
    (with_callable, "/v2/c/5", {}, "/v2/c/{uid}"),
]


@pytest.mark.parametrize(("make", "path", "request_", "expected"), CASES)
def test_the_template_is_that_of_the_route_that_was_taken(make, path, request_, expected):
    """Prefixes, nested and doubly included routers, mounts, hosts: the full template, never a raw value."""
    assert template(make(), path, **request_) == expected


@pytest.mark.parametrize(("make", "path", "request_", "expected"), CASES)
def test_a_template_is_told_again_and_again(make, path, request_, expected):
    """The second answer, from an index that is there already, is the first one."""
    app = make()
    templates = Templates(app)
    assert [template(app, path, templates, **request_) for _ in range(2)] == [expected] * 2


def test_mounts_within_included_routers(tmp_path):
    """Where FastAPI serves a mount within an included router, its template carries the router's prefix."""
    app, router = FastAPI(), APIRouter()
    router.mount("/m/{a}", alone())
    app.include_router(router, prefix="/api")
    scope = asyncio.run(drive(app, "/api/m/1/items/5"))
    expected = "/api/m/{a}/items/{uid}" if "endpoint" in scope else None  # older versions leave such mounts out
    assert Templates(app).of(scope, "") == expected


def test_files_have_the_template_of_their_mount(tmp_path):
    """Any file of StaticFiles, there or not, is one template."""
    (tmp_path / "a.txt").write_text("a")
    app = FastAPI()
    app.mount("/static", StaticFiles(directory=tmp_path))
    assert template(app, "/static/a.txt") == "/static/{path}"


@pytest.mark.skipif(not hasattr(FastAPI, "frontend"), reason="this FastAPI has no app.frontend()")
def test_a_frontend_is_one_template(tmp_path):
    """All files of `app.frontend()` together are one template."""
    (tmp_path / "index.html").write_text("a")
    app = FastAPI()
    app.frontend("/", directory=tmp_path)
    assert template(app, "/index.html") == FRONTEND


@pytest.mark.parametrize("prefix", ["", "/sub", "/ten/{t}"])
def test_routes_that_come_late_are_found(clock, prefix):
    """A route that is added while the app serves is told, though the index was made before."""
    inner = FastAPI()
    app = inner
    if prefix:
        app = FastAPI()
        app.mount(prefix, inner)
    inner.get("/first")(plain_route())
    templates, path = Templates(app, clock), prefix.replace("{t}", "7")
    assert template(app, f"{path}/first", templates) == f"{prefix}/first"
    late = plain_route()
    inner.get("/late/{n}")(late)
    clock.advance(1.1)
    assert template(app, f"{path}/late/5", templates) == f"{prefix}/late/{{n}}"


def plain_route():
    async def endpoint():
        return {}

    return endpoint


def test_the_index_is_made_at_most_once_a_second_and_ever_more_rarely(clock, monkeypatch):
    """Requests to what no walk can find cost a walk each 1, 2, 4 … 64 seconds, not one each."""
    walks = []
    monkeypatch.setattr("modelwatch.routes.walk", lambda app: walks.append(clock()) or iter(()))
    templates = Templates(FastAPI(), clock)
    begin = clock()
    for _ in range(400):
        assert templates.of({"endpoint": plain, "path": "/", "root_path": "/mounted"}, "") is None
        clock.advance(0.5)
    assert [int(at - begin) for at in walks] == [0, 1, 3, 7, 15, 31, 63, 127, 191]


def test_after_a_route_was_found_the_next_one_is_looked_for_soon(clock):
    """Waiting ever longer is for walks that do not help."""
    app = mounted()
    templates = Templates(app, clock)
    for _ in range(100):
        clock.advance(1)
        templates.of({"endpoint": plain, "path": "/", "root_path": "/mounted"}, "")
    clock.advance(64)
    assert template(app, "/sub/items/5", templates) == "/sub/items/{uid}"
    for path in ("/one", "/two"):
        app.mount(path, sub := FastAPI())
        sub.get("/late")(plain_route())
        clock.advance(64 if path == "/one" else 1)
        assert template(app, f"{path}/late", templates) == f"{path}/late"


def test_a_scope_that_was_copied_says_nothing():
    """Where a middleware copies the scope, no template is guessed."""
    app = alone()
    app.add_middleware(Copying)
    assert template(app, "/items/5") is None


def test_an_endpoint_that_stands_once_is_known_by_itself():
    """One place: once. Two places, or another template than the one asked for: not."""
    app = twice()
    app.get("/only")(plain_route())
    once = next(place for place in walk(app) if place.template == "/only")
    templates = Templates(app)
    assert templates.stands_once(once.endpoint, "/only")
    assert not templates.stands_once(once.endpoint, "/elsewhere")
    assert not templates.stands_once(item, "/a/items/{uid}")


def test_walk_lists_every_place_in_the_order_of_the_routes():
    """Full templates with methods, the mount before what is in it."""
    app = FastAPI(openapi_url=None)
    app.include_router(routed("/r"), prefix="/api")
    app.mount("/ten/{t}", of_starlette())
    found = [(place.template, place.methods and sorted(place.methods)) for place in walk(app)]
    assert found == [
        ("/api/r/items/{uid}", ["GET"]),
        ("/ten/{t}/{path}", None),
        ("/ten/{t}/plain/{uid}", ["GET", "HEAD"]),
        ("/ten/{t}/other/{uid}", ["GET", "HEAD"]),
        ("/ten/{t}/ws/{room}", None),
        ("/ten/{t}/inner/{a}/{path}", None),
        ("/ten/{t}/inner/{a}/plain/{uid}", ["GET", "HEAD"]),
    ]


def test_walk_brings_what_fastapi_knows_of_a_route():
    """The route of an included router has its function, its parameters and its whole path."""
    place = next(place for place in walk(included()) if place.endpoint is item)
    assert place.route.dependant.call is item
    assert place.route.path_format == "/api/v1/items/{uid}"


def test_walk_ends_in_apps_that_contain_themselves():
    """An app mounted in itself is walked once."""
    app = FastAPI(openapi_url=None)
    app.mount("/again", app)
    assert [place.template for place in walk(app)] == ["/again/{path}"]


def test_what_is_no_app_has_no_places():
    """Anything can be walked; what shows no routes has none."""
    assert list(walk(object())) == []


@pytest.mark.parametrize(
    ("path", "root", "expected"),
    [("/a/b", "", "/a/b"), ("/a/b", "/a", "/b"), ("/a", "/a", ""), ("/ab", "/a", "/ab"), ("/x", None, "/x")],
)
def test_the_path_below_the_root_path(path, root, expected):
    """The root path is taken off where it is a prefix of whole segments."""
    assert path_below({"path": path, "root_path": root}) == expected


@pytest.mark.parametrize(
    ("patterns", "text", "expected"),
    [
        (["/v1"], "/v1", True), (["/v1"], "/v1/predict", True), (["/v1"], "/v10", False), (["/v1/"], "/v1/x", True),
        (["/"], "/anything", True), (["*/status"], "/a/b/status", True), (["/v?/x"], "/v1/x", True),
        (["/v?/x"], "/v1/x/y", False), (["/items/{uid}"], "/items/{uid}", True), ([], "/", False),
        (["/a", "*.js", "*.css"], "/x.css", True), ("/v1", "/v1/x", True), (["/a.b"], "/axb", False),
    ],
)  # fmt: skip
def test_patterns_are_prefixes_and_globs(patterns, text, expected):
    """A prefix ends at a slash, a star goes over slashes, nothing is a regular expression."""
    assert (text in Patterns(patterns)) is expected
    assert (text in Patterns(patterns).and_exactly(["/more"])) is expected
    assert "/more" in Patterns(patterns).and_exactly(["/more"])


@pytest.mark.parametrize("pattern", ["v1", "", 5, "(/v1)"])
def test_patterns_that_can_match_nothing_are_refused(pattern):
    """The message says what came and how to write it."""
    with pytest.raises(ConfigurationError, match="begin with / or \\*"):
        Patterns([pattern])


def test_patterns_are_asked_for_texts_only():
    """Anything else is not among them."""
    assert 5 not in Patterns(["/"])


def test_a_model_may_live_below_a_probe():
    """By default /health is left out, and /health/risk is not."""
    assert "/health" in USUALLY_EXCLUDED
    assert "/docs" in USUALLY_EXCLUDED
    assert "/health/risk" not in USUALLY_EXCLUDED
    assert "/healthy" not in USUALLY_EXCLUDED
