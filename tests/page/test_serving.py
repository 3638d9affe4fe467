"""The page as a client gets it: who may read, by which method, in the app or on a port, and never in anybody's way."""

from __future__ import annotations

import asyncio
import gzip
import http.client
import json
import logging
import threading

import numpy as np
import pytest
from fastapi import FastAPI
from prometheus_client.parser import text_string_to_metric_families
from support.paging import REFERENCE, RNG, ask, basic, get, make_app
from support.service_app import customers, profile
from support.serving import serve, until

import modelwatch
from modelwatch.door import Door
from modelwatch.guard import Guard
from modelwatch.page.serving import Data
from modelwatch.pulse import PULSE
from modelwatch.settings import Settings

PATHS = ["/modelwatch", "/modelwatch/data.json"]
PATIENCE = 30.0


def counted(app, **headers):
    """Routes of the requests that /metrics counts."""
    found = set()
    for family in text_string_to_metric_families(get(app, "/metrics", **headers).text):
        found |= {sample.labels["http_route"] for sample in family.samples if "http_route" in sample.labels}
    return found


def test_it_is_off_by_default():
    """Without the setting nothing is added: no path, no thread, no series, no history."""
    app, _ = make_app(page=False)
    assert [get(app, path).status for path in PATHS] == [404, 404]
    assert app.state.modelwatch.page is None
    assert counted(app) == {"_unmatched"}
    plain = FastAPI()
    modelwatch.instrument(plain, model_name="m", reference=REFERENCE)
    assert [get(plain, path).status for path in PATHS] == [404, 404]


def test_the_environment_can_switch_it_on(monkeypatch):
    """MODELWATCH_PAGE=true is enough."""
    monkeypatch.setenv("MODELWATCH_PAGE", "true")
    app = FastAPI()
    modelwatch.instrument(app, model_name="m")
    assert get(app, "/modelwatch").status == 200


def test_page_and_data_are_served():
    """The page is HTML, its data are JSON, and both say how long they are and that nobody may keep them."""
    app, _ = make_app()
    page, data = (get(app, path) for path in PATHS)
    assert (page.status, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert page.text.startswith("<!doctype html>")
    assert (data.status, data.headers["content-type"]) == (200, "application/json")
    assert data.json["models"][0]["name"] == "churn"
    for answer in (page, data):
        assert int(answer.headers["content-length"]) == len(answer.raw)
        assert answer.headers["cache-control"] == "no-store"
        assert "default-src 'none'" in answer.headers["content-security-policy"]


@pytest.mark.parametrize("path", PATHS)
def test_who_takes_gzip_gets_it(path):
    """Both are compressed for those who read that, and the same."""
    app, _ = make_app()
    packed = get(app, path, accept_encoding="gzip")
    assert packed.headers["content-encoding"] == "gzip"
    plain = get(app, path)
    assert "content-encoding" not in plain.headers
    if path == "/modelwatch":
        assert gzip.decompress(packed.raw) == plain.raw


@pytest.mark.parametrize("path", PATHS)
def test_head_is_get_without_a_body(path):
    """HEAD has the status and kind of GET, and no body."""
    app, _ = make_app()
    head = get(app, path, method="HEAD")
    assert (head.status, head.raw) == (200, b"")
    assert int(head.headers["content-length"]) > 100


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "get"])
@pytest.mark.parametrize("path", PATHS)
def test_other_methods_are_refused(path, method):
    """Any other method gets 405 and is told which are allowed."""
    app, _ = make_app()
    answer = get(app, path, method=method)
    assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "authorization",
    ["Bearer s3cret", basic("s3cret"), basic("s3cret", ""), basic("s3cret", "me"), "basic " + basic("s3cret")[6:]],
)
def test_the_token_opens_as_bearer_and_as_password(path, authorization):
    """The metrics' token opens the page, as a scraper brings it, and as the password of any user of a browser."""
    app, _ = make_app(metrics_token="s3cret")
    assert get(app, path, authorization=authorization).status == 200


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "authorization",
    [
        None, "Basic", "Basic ", "Basic s3cret", "Basic !!!!", "Basic " + "A" * 4001, basic(""), basic("s3cre"),
        basic("s3cret2"), basic("", "s3cret"), basic("S3CRET"), basic("x:s3cret"), "Digest s3cret", "Bearer",
        "Bearer x", basic("s3cret") + ", Bearer s3cret", "Bearer " + basic("s3cret")[6:],
    ],
)  # fmt: skip
def test_anything_else_does_not(path, authorization):
    """Without the token the answer is 401, whatever came, and the browser is told to ask for a password."""
    app, _ = make_app(metrics_token="s3cret")
    headers = {} if authorization is None else {"authorization": authorization}
    for method in ("GET", "POST"):
        answer = get(app, path, method=method, **headers)
        assert answer.status == 401
        offered = [value for name, value in answer.all if name == "www-authenticate"]
        assert offered == ['Basic realm="modelwatch", charset="UTF-8"', "Bearer"]
        assert "churn" not in answer.text
        assert "s3cret" not in answer.text


def test_a_token_that_is_not_ascii_can_be_a_password():
    """A browser sends the password as UTF-8, which the answer has told it to."""
    app, _ = make_app(metrics_token="gehéim")
    assert get(app, authorization=basic("gehéim")).status == 200


def test_a_password_does_not_open_the_metrics():
    """Only the page takes the token as a password: /metrics is as it was."""
    app, _ = make_app(metrics_token="s3cret")
    answer = get(app, "/metrics", authorization=basic("s3cret"))
    assert (answer.status, answer.headers["www-authenticate"]) == (401, "Bearer")


def test_tokens_are_compared_in_constant_time(monkeypatch):
    """Whatever is brought goes through the one comparison whose time says nothing of the token."""
    seen = []

    def compare(a, b):
        seen.append((a, b))
        return a == b

    monkeypatch.setattr("modelwatch.door.hmac.compare_digest", compare)
    app, _ = make_app(metrics_token="s3cret")
    for authorization in (basic("s3cret"), basic("wrong"), "Basic !!", "Bearer wrong"):
        get(app, authorization=authorization)
    assert [a for a, _ in seen] == [b"s3cret", b"wrong", b"", b"wrong"]


def test_its_requests_are_not_counted():
    """Requests for the page are none to the service: no route, no status, no request of the model."""
    app, _ = make_app()
    for path in PATHS * 3:
        assert get(app, path).status == 200
    assert get(app, "/predict", body={"age": 1.0}).status == 200
    assert counted(app) == {"/predict"}
    assert get(app).json["models"][0]["service"]["requests"] == 1


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("taken", PATHS)
def test_a_route_of_the_users_is_kept(taken, late, caplog):
    """An app's own route at one of the paths answers on, also one that came later, and a warning names the setting."""
    app = FastAPI()
    if late:
        modelwatch.instrument(app, model_name="m", settings=modelwatch.Settings(page=True))

    @app.get(taken)
    def own():
        return "own"

    if not late:
        modelwatch.instrument(app, model_name="m", settings=modelwatch.Settings(page=True))
    with caplog.at_level(logging.WARNING, "modelwatch"):
        assert [get(app, path).status for path in PATHS] == [200 if path == taken else 404 for path in PATHS]
        assert get(app, taken).json == "own"
    assert caplog.text.count("page_path") == 1
    assert taken in counted(app)  # it is the app's own


def test_a_mount_of_the_users_is_kept(caplog):
    """An app that is mounted at the page's path stays there."""
    app, _ = make_app()
    inner = FastAPI()
    inner.get("/data.json")(lambda: "own")
    app.mount("/modelwatch", inner)
    with caplog.at_level(logging.WARNING, "modelwatch"):
        assert get(app).json == "own"
    assert "page_path" in caplog.text


def test_another_path():
    """The setting moves both."""
    app, _ = make_app(page_path="/internal/live")
    assert get(app, "/internal/live").status == get(app, "/internal/live/data.json").status == 200
    assert get(app, "/modelwatch").status == 404


@pytest.mark.parametrize(
    "settings",
    [
        {"page_path": "modelwatch"},
        {"page_path": "/x/"},
        {"page_path": "/metrics", "page": True},
        {"metrics_path": "/modelwatch/data.json", "page": True},
    ],
)
def test_paths_that_cannot_be_are_refused(settings):
    """A path that is none, or that the metrics have, is refused at the start, by name."""
    with pytest.raises(modelwatch.ModelWatchError, match="page_path"):
        modelwatch.Settings(**settings)


def test_a_nested_apps_page_is_its_own():
    """A mounted app that is watched by itself has its own page, which the outer one does not count."""
    inner, _ = make_app()
    outer = FastAPI()
    outer.mount("/inner", inner)
    modelwatch.instrument(outer, model_name="outer", settings=modelwatch.Settings(page=True))
    assert get(outer, "/inner/modelwatch/data.json").json["models"][0]["name"] == "churn"
    assert get(outer).json["models"][0]["name"] == "outer"
    assert counted(outer) == set()


@pytest.fixture
def guard():
    return Guard()


class Slow:
    """A state that stands still until it is let go, and counts how often it was made."""

    def __init__(self):
        self.made, self.threads, self.begun, self.go = 0, set(), threading.Semaphore(0), threading.Event()

    def __call__(self, pace):
        self.made += 1
        self.threads.add(threading.current_thread())
        number = self.made
        self.begun.release()
        assert self.go.wait(PATIENCE)
        return {"made": number}


def made_by(slow, guard, clock, fresh=0.0, monkeypatch=None):
    if monkeypatch is not None:
        monkeypatch.setattr("modelwatch.page.serving.FRESH_SECONDS", fresh)
    return Data(slow, Door(None), guard, clock)


def test_the_event_loop_goes_on_while_it_is_made(guard, clock):
    """The JSON is made in a thread of the library's: the event loop works on meanwhile."""
    slow = Slow()
    data = made_by(slow, guard, clock)

    async def scenario():
        look = asyncio.create_task(ask(data, "/"))
        assert await asyncio.to_thread(slow.begun.acquire, timeout=PATIENCE)
        assert not look.done()
        slow.go.set()
        return await look

    assert asyncio.run(scenario()).json == {"made": 1}
    assert {thread.name for thread in slow.threads} == {"modelwatch-page"}


def test_those_who_come_together_share_a_rendering(guard, clock):
    """Of ten who look at once the first costs a rendering, and all others together a second one."""
    slow = Slow()
    data = made_by(slow, guard, clock)

    async def scenario():
        looks = [asyncio.create_task(ask(data, "/", accept_encoding="gzip" if i % 2 else "")) for i in range(10)]
        assert await asyncio.to_thread(slow.begun.acquire, timeout=PATIENCE)
        slow.go.set()
        return await asyncio.gather(*looks)

    answers = asyncio.run(scenario())
    assert slow.made <= 2
    assert all(answer.status == 200 for answer in answers)


def test_however_many_look_it_is_made_once_a_second(guard, clock, monkeypatch):
    """What is less than a second old is given to everybody; then it is made anew."""
    slow = Slow()
    slow.go.set()
    data = made_by(slow, guard, clock, 1.0, monkeypatch)
    seen = []
    for _ in range(20):
        seen.append(get(data).json["made"])
        clock.advance(0.11)
    assert seen == [1] * 10 + [2] * 10
    assert json.loads(data.answer("GET", [], b"").body) == {"made": 3}


def test_those_who_waited_get_what_was_made_meanwhile(guard, clock, monkeypatch):
    """Who came while the JSON was made, and it is still fresh then, does not have it made once more."""
    slow = Slow()
    data = made_by(slow, guard, clock, 1.0, monkeypatch)

    async def scenario():
        first = asyncio.create_task(ask(data, "/"))
        assert await asyncio.to_thread(slow.begun.acquire, timeout=PATIENCE)
        others = [asyncio.create_task(ask(data, "/")) for _ in range(9)]
        await asyncio.sleep(0)  # every task runs up to where it waits
        slow.go.set()
        return await asyncio.gather(first, *others)

    assert [answer.json for answer in asyncio.run(scenario())] == [{"made": 1}] * 10


@pytest.mark.parametrize(
    "value",
    [{}, [], None, {"a": {"b": [{"c": [[{"d": [1, 2.5]}, {}, []], "x"]}]}}, [[[[[[[1]]]]]]], {"é\n\u2028": '"</'}],
)
def test_it_is_the_same_json_in_pieces(guard, clock, value):
    """What is made piece by piece, so that others go on meanwhile, is the JSON of the whole."""
    assert get(Data(lambda pace: value, Door(None), guard, clock)).text == json.dumps(value, separators=(",", ":"))


def test_others_go_on_between_the_pieces(guard, clock, monkeypatch):
    """While the JSON of many features is put together the thread lets others go first, again and again."""
    looks = []
    monkeypatch.setattr("modelwatch.metrics.pace.Pace.look", lambda pace: looks.append(1))
    features = [{"name": str(i)} for i in range(100)]
    get(Data(lambda pace: {"models": [{"drift": {"features": features}}]}, Door(None), guard, clock))
    assert len(looks) >= 100


def test_whoever_looks_begins_the_history(monkeypatch):
    """Where the server does not tell that the app has started, the history begins with the first look, once."""
    asked = []
    monkeypatch.setattr(PULSE, "add", asked.append)
    app, _ = make_app()
    for _ in range(3):
        assert get(app).status == 200
    assert asked.count(app.state.modelwatch.page.history) == 1


@pytest.mark.swallows
def test_what_cannot_be_made_is_a_500(guard, clock):
    """When the JSON cannot be made the client gets a sentence, the error is counted, and the next one is answered."""
    states = iter([ValueError("canary"), {"x": float("nan")}, {"x": 1}])

    def state(pace):
        found = next(states)
        if isinstance(found, Exception):
            raise found
        return found

    data = made_by(state, guard, clock)
    for number in (1, 2):
        answer = get(data)
        assert answer.status == 500
        assert answer.text.endswith("why.\n")
        assert "canary" not in answer.text
        assert guard.errors["page"] == number
    assert get(data).json == {"x": 1}


@pytest.mark.swallows
def test_an_error_of_the_page_leaves_the_service_alone(monkeypatch):
    """While the page fails the endpoint and /metrics answer, and a metric says where it failed."""
    app, _ = make_app()
    monkeypatch.setattr("modelwatch.page.serving.state_of", None)
    assert get(app).status == 500
    assert get(app, "/predict", body={"age": 1.0}).json == {"score": 0.25}
    assert 'modelwatch_internal_errors_total{stage="page"} 1.0' in get(app, "/metrics").text


@pytest.mark.swallows
def test_without_threads_it_is_made_at_once(monkeypatch):
    """Where no thread can be started who looks is answered all the same, also when the JSON cannot be made."""
    app, _ = make_app()

    def refuse(thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)

    async def scenario():
        return await ask(app, "/modelwatch/data.json")

    assert asyncio.run(scenario()).status == 200
    monkeypatch.setattr("modelwatch.page.serving.state_of", None)
    assert asyncio.run(scenario()).status == 500


def test_a_client_that_has_gone_is_no_error():
    """A server that says by OSError that nobody listens any more hears no complaint."""
    app, _ = make_app()

    async def send(message):
        raise OSError("gone")

    for path in PATHS:
        scope = {"type": "http", "method": "GET", "path": path, "query_string": b"", "headers": [], "root_path": ""}
        asyncio.run(app(scope, None, send))


def test_it_is_served_on_the_metrics_own_port(tmp_path):
    """With `metrics_port` both are on that port, by the same token, and no longer in the app."""
    from modelwatch.demo.stage import free_port

    number = free_port()
    app, monitor = make_app(metrics_port=number, metrics_host="127.0.0.1", metrics_token="s3cret")
    monitor.record({"age": RNG.normal(40, 10, 300)})
    port = app.state.modelwatch._sharing.port
    port.open()
    try:
        for path, headers, status in [
            (PATHS[0], {}, 401), (PATHS[1], {}, 401), (PATHS[0], {"authorization": basic("s3cret")}, 200),
            (PATHS[1], {"authorization": basic("s3cret")}, 200), ("/other", {}, 404),
            ("/metrics", {"authorization": "Bearer s3cret"}, 200),
        ]:  # fmt: skip
            connection = http.client.HTTPConnection("127.0.0.1", number, timeout=PATIENCE)
            connection.request("GET", path, headers=headers)
            response = connection.getresponse()
            body = response.read()
            connection.close()
            assert response.status == status, path
            if status == 200 and path == PATHS[1]:
                assert json.loads(body)["models"][0]["drift"]["rows"] == 300
        assert [get(app, path, authorization=basic("s3cret")).status for path in PATHS] == [404, 404]
    finally:
        port.close()


def test_every_worker_answers_for_all(tmp_path):
    """Under a real server with two workers each one's page shows the rows of both, and rates since the same moment."""
    path = tmp_path / "reference.json"
    profile().save(path)
    with serve("uvicorn", tmp_path, path, workers=2, env={"MODELWATCH_PAGE": "true"}) as server:
        pins = server.reach_all()
        for seed in range(40):
            list(pins.values())[seed % 2].post("/predict", customers(10, seed, shift=1.0))

        def looks():
            found = [pin.get("/modelwatch/data.json").json for pin in pins.values()]
            shown = [(data, data["models"][0]) for data in found]
            since = [data["at"] - model["service"]["seconds"] for data, model in shown if model["service"]["seconds"]]
            return len(since) == 2 and (shown, since)

        shown, since = until(looks, "both have a history")
        assert since[0] == pytest.approx(since[1], abs=0.2)
        for data, model in shown:
            assert data["library"]["workers"] == 2
            assert model["service"]["requests"] == 40
            assert model["drift"]["rows"] == 400
            assert model["drift"]["features"][0]["drifted"]
        assert np.ptp([model["drift"]["features"][0]["psi"] for _, model in shown]) == 0


def test_nothing_is_left_of_an_app():
    """Apps with a page that are looked at and dropped leave no thread."""
    before = set(threading.enumerate())
    for _ in range(20):
        app, _ = make_app()
        assert get(app).status == 200
    for thread in set(threading.enumerate()) - before:
        thread.join(PATIENCE)
    assert set(threading.enumerate()) - before == set()


def test_settings_must_agree():
    """A second model of the app cannot say otherwise about the page."""
    app, _ = make_app()
    with pytest.raises(modelwatch.ModelWatchError, match="Expected `page` to be the same"):
        modelwatch.instrument(app, model_name="two", routes=["/x"], settings=Settings(page=False))
