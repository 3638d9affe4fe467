"""What must not come out: a token, in whatever is shown of the objects that know it; and forged lines of the log."""

from __future__ import annotations

import asyncio
import copy
import io
import json
import logging
import pickle
import pprint
import traceback

import numpy as np
import pytest
from fastapi import FastAPI, HTTPException
from prometheus_client.parser import text_string_to_metric_families
from pydantic import BaseModel, ValidationError

import modelwatch
from modelwatch.cli import main
from modelwatch.exceptions import ConfigurationError
from modelwatch.exposition import Exposition
from modelwatch.guard import Guard
from modelwatch.metrics.registry import Registry

TOKEN = "canary-5up3r-s3cret"
SETTINGS = modelwatch.Settings(metrics_token=TOKEN)
RNG = np.random.default_rng(0)
REFERENCE = modelwatch.ReferenceProfile.fit(
    {"age": RNG.normal(40, 10, 500), "plan": RNG.choice(["a", "b"], 500), "score": RNG.random(500)}, prediction="score"
)


class Row(BaseModel):
    age: float
    plan: str = "a"


def make_app(settings=SETTINGS):
    app = FastAPI()

    @app.post("/predict")
    def predict(row: Row):
        if row.plan == "unknown":
            raise HTTPException(409)
        return {"score": 0.5}

    return app, modelwatch.instrument(app, model_name="m", reference=REFERENCE, settings=settings)


async def ask(app, method, path, body=b"", *, headers=(), query=b""):
    """Status, headers and text of the answer to a request; of an exception that comes out, its text."""
    messages = []

    async def receive():
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message):
        messages.append(message)

    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "scheme": "http", "method": method,
        "path": path, "raw_path": path.encode("utf-8", "replace"), "query_string": query, "root_path": "", "state": {},
        "headers": [(b"content-type", b"application/json"), *headers], "client": ("c", 1), "server": ("s", 80),
    }  # fmt: skip
    try:
        await app(scope, receive, send)
    except Exception as error:  # noqa: BLE001 - as a server would
        return 500, [], str(error)
    text = b"".join(message.get("body", b"") for message in messages[1:]).decode("utf-8", "replace")
    return messages[0]["status"], messages[0]["headers"], text


def knowing():
    """(name, object) of all that knows the token: settings, and what is made with them."""
    app, monitor = make_app()
    guard = Guard()
    return {
        "settings": SETTINGS,
        "copied": copy.copy(SETTINGS),
        "deep copy": copy.deepcopy(SETTINGS),
        "model copy": SETTINGS.model_copy(),
        "monitor": monitor,
        "engine": monitor.engine,
        "app": app,
        "state": app.state,
        "exposition": Exposition(Registry(guard), SETTINGS, guard),
    }


SHOWN = {
    "repr": repr,
    "str": str,
    "format": "{}".format,
    "percent": lambda thing: "%s %r" % (thing, thing),  # noqa: UP031 - as loggers do
    "pprint": pprint.pformat,
    "vars": lambda thing: repr(vars(thing)),
    "dump": lambda thing: repr(thing.model_dump()) if hasattr(thing, "model_dump") else "",
    "json": lambda thing: thing.model_dump_json() if hasattr(thing, "model_dump_json") else "",
    "log": lambda thing: logging.LogRecord("a", 10, "b", 1, "%s %r", (thing, thing), None).getMessage(),
}


class TestToken:
    @pytest.mark.parametrize("how", SHOWN)
    def test_it_is_not_shown(self, how):
        """No way of showing an object that knows the token shows it."""
        leaks = [name for name, thing in knowing().items() if TOKEN in SHOWN[how](thing)]
        assert leaks == []

    def test_it_is_kept(self):
        """What is not shown is there all the same: copies of the settings let the same scrapes in."""
        for settings in (SETTINGS, copy.copy(SETTINGS), copy.deepcopy(SETTINGS)):
            app, _ = make_app(settings)
            right = [(b"authorization", b"Bearer " + TOKEN.encode())]
            assert asyncio.run(ask(app, "GET", "/metrics", headers=right))[0] == 200
            assert asyncio.run(ask(app, "GET", "/metrics"))[0] == 401

    def test_it_is_not_pickled(self):
        """Settings with a token are not pickled: it would be there in clear text, and a copy without it is open."""
        for name, thing in knowing().items():
            try:
                content = pickle.dumps(thing)
            except Exception as error:  # noqa: BLE001 - locks and the like cannot be pickled
                content = repr(error).encode()
            assert TOKEN.encode() not in content, name
        assert pickle.loads(pickle.dumps(modelwatch.Settings(min_rows=7))).min_rows == 7
        with pytest.raises(TypeError, match="MODELWATCH_METRICS_TOKEN"):
            pickle.dumps(SETTINGS)

    @pytest.mark.parametrize(
        "values",
        [
            {"min_rows": 0},
            {"alhpa": 1},
            {"window_rows": 100},
            {"window_rows": 1_000, "window_seconds": 5},
            {"max_age_seconds": 5},
            {"labels": {"le": "x"}},
        ],
    )
    def test_other_errors_do_not_tell_it(self, values):
        """An error about another setting, or about several, carries no token, nor does what it was raised from."""
        with pytest.raises(ConfigurationError) as caught:
            modelwatch.Settings(metrics_token=TOKEN, **values)
        assert TOKEN not in "".join(traceback.format_exception(caught.value))

    @pytest.mark.parametrize("token", [[TOKEN], {TOKEN: 1}, (TOKEN,), f"{TOKEN} x", f"{TOKEN}\n", f"{TOKEN}\0"])
    def test_errors_about_it_do_not_tell_it(self, token):
        """A token that cannot be used is refused without being repeated, in the message and in the frames of ours."""
        with pytest.raises(ConfigurationError, match="metrics_token") as caught:
            modelwatch.instrument(FastAPI(), model_name="m", settings=modelwatch.Settings(metrics_token=token))
        assert TOKEN not in "".join(traceback.format_exception(caught.value))
        for frame, _ in traceback.walk_tb(caught.value.__traceback__):
            if frame.f_globals.get("__name__") in {"modelwatch.exposition", "modelwatch.instrument"}:
                assert [name for name, value in frame.f_locals.items() if TOKEN in repr(value)] == []

    def test_the_environment_does_not_tell_it(self, monkeypatch, tmp_path, capsys):
        """`modelwatch doctor`, which lists what the environment sets, hides the token."""
        monkeypatch.setenv("MODELWATCH_METRICS_TOKEN", TOKEN)
        monkeypatch.setenv("MODELWATCH_MIN_ROWS", "77")
        monkeypatch.chdir(tmp_path)
        (tmp_path / "service_of_test_secrets.py").write_text("from fastapi import FastAPI\napp = FastAPI()\n")
        with pytest.raises(SystemExit):
            main(["doctor", "service_of_test_secrets:app"])
        out, err = capsys.readouterr()
        assert "MODELWATCH_METRICS_TOKEN" in out
        assert "77" in out
        assert TOKEN not in out + err

    def test_neither_page_nor_log_tells_it(self, caplog):
        """Scrapes with the right token and with wrong ones leave no token in answers and logs, at any level."""
        app, monitor = make_app()
        wrong = f"{TOKEN[:-1]}X"
        with caplog.at_level(logging.DEBUG):
            for value in (f"Bearer {TOKEN}", f"Bearer {wrong}", TOKEN, f"Basic {TOKEN}", f"Bearer {TOKEN} {TOKEN}"):
                for path in ("/metrics", "/predict"):
                    _, headers, text = asyncio.run(
                        ask(
                            app, "GET", path, headers=[(b"authorization", value.encode())], query=b"x=" + TOKEN.encode()
                        )
                    )
                    assert TOKEN not in text + repr(headers)
                    assert wrong not in text
            monitor.report()
        assert TOKEN not in caplog.text
        assert wrong not in caplog.text


HOSTILE = {
    "line breaks": "\r\nERROR modelwatch forged\n",
    "escapes": "\x1b[31mred\x1b[0m\x1b]0;title\x07",
    "percent": "%s %d %(name)s %n %",
    "braces": "{} {0} {x!r} {{",
    "NUL": "a\0b",
    "separators": "a\u2028b\u2029c\x85d\x0bE\x0c",
    "right to left": "\u202eabc",
    "surrogate": "\ud800",
    "long": "x" * 20_000,
}


class RudeError(Exception):
    """Its text and its representation are what a client sent."""

    def __repr__(self):
        return str(self)


class Reply(dict):
    """What an endpoint answers."""


@pytest.fixture
def lines():
    """A function that gives the lines of the log, as a file would have them, and how many there should be."""
    stream, broken = io.StringIO(), []
    logger = logging.getLogger("modelwatch")

    class Handler(logging.StreamHandler):
        records = 0

        def emit(self, record):
            Handler.records += 1
            super().emit(record)

        def handleError(self, record):  # noqa: N802 - logging's name
            broken.append(record)

    handler = Handler(stream)
    handler.setFormatter(logging.Formatter("LINE|%(levelname)s|%(message)s"))
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield lambda: (stream.getvalue(), Handler.records, broken)
    logger.removeHandler(handler)
    logger.setLevel(before)


@pytest.mark.swallows
@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_what_clients_send_breaks_no_line_of_the_log(text, lines):
    """Whatever a client, or what it makes fail, says: each record is one line, without controls, and not at length."""
    app = FastAPI()
    monitor = modelwatch.instrument(app, model_name="m", reference=REFERENCE, routes=["/predict", "/rude", "/any"])

    @app.post("/predict")
    async def predict(row: Row):
        return {row.plan: 1, "score": [0.5, 0.5], "label": row.plan}  # nothing that could be captured

    @app.post("/rude")
    @monitor.predict(features=lambda arguments: (_ for _ in ()).throw(RudeError(arguments["body"]["text"])))
    async def rude(body: dict):
        raise RudeError(body["text"])

    @app.post("/any")
    async def anything(body: dict):
        return body

    class Collector:
        def collect(self):
            raise RudeError(text)

        def describe(self):
            return []

    monitor.registry.register(Collector())

    async def all_of_it():
        def content(value):
            return json.dumps(value).encode()

        header = text.encode("utf-8", "replace")
        for path, value in (
            ("/predict", {"age": 1.0, "plan": text}),
            ("/predict", {"age": text}),
            ("/rude", {"text": text}),
            ("/any", {text: [{"age": 1.0, text: text}]}),
            ("/any", {"age": text, "plan": {text: text}}),
            (f"/predict/{text}", {}),
        ):
            await ask(app, "POST", path, content(value), headers=[(b"x-name", header)], query=header)
            await ask(app, "POST", path, text.encode("utf-8", "surrogatepass"), headers=[(b"host", header)])
        return await ask(app, "GET", "/metrics", query=b"name[]=" + header)

    asyncio.run(all_of_it())
    monitor.record({"age": text, "plan": text}, text, text)
    monitor.record({text: [1, 2], "age": [1]})
    monitor.record([text, text])
    monitor.record({"age": RudeError(text)})
    monitor.record({"age": [1.0]}, predictions=[text, text, text])
    monitor.flush()
    for error in (RudeError(text), ExceptionGroup(text, [RudeError(text)]), LookupError(text)):
        Guard().swallow("fold", error)
    with pytest.raises(ValidationError) as caught:
        Row.model_validate({"age": text})
    Guard().swallow("capture", caught.value)
    written, records, broken = lines()
    assert broken == []
    assert records >= 5
    printed = written.split("\n")
    assert printed.pop() == ""
    assert [line for line in printed if not line.startswith("LINE|")] == []
    assert len(printed) == records
    assert [line for line in printed if not line.isprintable()] == []
    assert max(map(len, printed)) < 2_000
    status, _, page = asyncio.run(ask(app, "GET", "/metrics"))
    assert status == 200
    assert list(text_string_to_metric_families(page))
    assert "forged" not in page or text not in page
