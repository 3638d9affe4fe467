"""A small service, and what can be seen of it from the outside, from its import on; run as a script, it prints JSON."""

from __future__ import annotations

import asyncio
import importlib
import json
import logging
import os
import sys
import threading
import time
from collections import Counter
from typing import Any

LOG = logging.getLogger("modelwatch")


def state() -> dict[str, Any]:
    """The threads and the open files of this process."""
    links = [f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd")]
    files = sorted(os.readlink(link) for link in links if os.path.exists(link))
    return {"threads": threading.active_count(), "files": files}


def make_app() -> Any:
    """An app with endpoints of both kinds."""
    from fastapi import FastAPI
    from pydantic import BaseModel

    class Row(BaseModel):
        a: float

    def sync(row: Any) -> dict[str, float]:
        return {"score": 0.5}

    async def coroutine(row: Any) -> dict[str, float]:
        if row.a > 900:
            raise LookupError("broken")
        return {"score": 0.5}

    app = FastAPI()
    for path, endpoint in (("/sync", sync), ("/async", coroutine)):
        endpoint.__annotations__["row"] = Row
        app.post(path)(endpoint)
    return app


def watch(app: Any) -> Any:
    """Instrument it."""
    import modelwatch

    reference = modelwatch.ReferenceProfile.fit({"a": [float(i % 50) for i in range(500)]})
    return modelwatch.instrument(app, model_name="m", reference=reference, routes=["/sync", "/async"])


async def ask(app: Any, method: str, path: str, body: bytes = b"") -> tuple[int, str]:
    """Status and text of a request; 500 if an exception comes out."""
    messages: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        messages.append(message)

    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "scheme": "http", "method": method,
        "path": path, "raw_path": path.encode(), "query_string": b"", "root_path": "", "state": {},
        "headers": [(b"content-type", b"application/json")], "client": ("c", 1), "server": ("s", 80),
    }  # fmt: skip
    try:
        await app(scope, receive, send)
    except LookupError:
        return 500, ""
    return messages[0]["status"], b"".join(message.get("body", b"") for message in messages[1:]).decode()


def sums(page: str) -> dict[str, float]:
    """The values of a page, added up by name."""
    found: Counter[str] = Counter()
    for line in page.splitlines():
        if not line.startswith("#"):
            name, _, value = line.rpartition(" ")
            found[name.partition("{")[0]] += float(value)
    return dict(found)


def outside(watched: bool) -> dict[str, Any]:
    """What a server, and a look at its attributes, can see of an app."""
    app = make_app()
    untouched = set(vars(app))
    if watched:
        watch(app)

    async def answers() -> list[Any]:
        return [
            await ask(app, "POST", "/sync", b'{"a": 1}'),
            await ask(app, "POST", "/async", b"{"),
            await ask(app, "GET", "/metrics"),
        ]

    status = [(status, text if "metrics" not in text else "") for status, text in asyncio.run(answers())]
    stack, layer = [], app.middleware_stack
    while layer is not None:
        stack.append(f"{type(layer).__module__}.{type(layer).__name__}")
        layer = getattr(layer, "app", None)
    import fastapi.routing

    functions = (fastapi.routing.solve_dependencies, fastapi.routing.run_endpoint_function)
    return {
        "answers": status,
        "stack": stack,
        "attributes": sorted(set(vars(app)) - untouched),
        "functions": [function.__code__.co_filename.rpartition("/")[2] for function in functions],
        "threads": sorted(thread.name for thread in threading.enumerate() if thread.name.startswith("modelwatch")),
    }


def before_use() -> list[Any]:
    """The state before the import, after `instrument`, and after a request and a scrape."""
    app = make_app()
    found = [state()]
    watch(app)
    found.append(state())

    async def use() -> dict[str, Any]:
        await ask(app, "POST", "/sync", b'{"a": 1}')
        await ask(app, "GET", "/metrics")
        return state()

    return [*found, asyncio.run(use())]


def imports() -> list[float]:
    """Processor seconds of importing fastapi, and then of importing the library."""
    times = []
    for name in ("fastapi", "modelwatch"):
        started = time.process_time()
        importlib.import_module(name)
        times.append(time.process_time() - started)
    return times


def reloads(how: str, rounds: int) -> list[Any]:
    """Load the package again and again, each time with a new app; then use some of them."""
    apps = []
    for _ in range(rounds + 1):
        app = make_app()
        watch(app)
        apps.append(app)
        if how == "reload":
            importlib.reload(sys.modules["modelwatch"])
        else:
            for name in [name for name in sys.modules if name.partition(".")[0] == "modelwatch"]:
                del sys.modules[name]
    pages = []
    for app in (apps[0], apps[rounds // 2], apps[-2], apps[-1]):
        for path in ("/sync", "/async", "/sync", "/async"):
            assert asyncio.run(ask(app, "POST", path, b'{"a": 1}'))[0] == 200
        pages.append(sums(asyncio.run(ask(app, "GET", "/metrics"))[1]))
    return pages


def several() -> list[Any]:
    """Five apps: the nth gets n requests, some before it is instrumented again and its stack built anew."""
    apps = [make_app() for _ in range(5)]
    for app in apps:
        watch(app)
    for number, app in enumerate(apps, 1):
        for turn in range(number):
            assert asyncio.run(ask(app, "POST", "/sync", b'{"a": 1}'))[0] == 200
            if turn == 0:
                app.middleware_stack = None
                watch(app)
    return [sums(asyncio.run(ask(app, "GET", "/metrics"))[1]) for app in apps]


async def thousand(app: Any) -> dict[str, Any]:
    """A thousand requests of all kinds, and a scrape now and then."""
    statuses: Counter[int] = Counter()
    for number in range(1_000):
        path = ("/sync", "/async")[number % 2]
        body = b"{" if number % 10 == 4 else b'{"a": 999}' if number % 20 == 9 else b'{"a": 1}'
        statuses[(await ask(app, "POST", path, body))[0]] += 1
        if number % 200 == 0:
            assert (await ask(app, "GET", "/metrics"))[0] == 200
    page = sums((await ask(app, "GET", "/metrics"))[1])
    return {
        "requests": sum(statuses.values()),
        "statuses": statuses,
        "errors": page["modelwatch_internal_errors_total"],
        "rows": page["model_rows_total"],
    }


def requests(loop: str) -> dict[str, Any]:
    """A thousand requests in an event loop of some kind."""
    app = make_app()
    watch(app)
    if loop == "trio":
        import trio

        return trio.run(thousand, app)
    factory = None
    if loop.startswith("uvloop"):
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(debug=loop.endswith("debug"), loop_factory=factory) as runner:
        return runner.run(thousand(app))


def first_page() -> str:
    """The page of a service that has done nothing but answer one scrape before."""
    app = make_app()
    watch(app)
    asyncio.run(ask(app, "GET", "/metrics"))
    return asyncio.run(ask(app, "GET", "/metrics"))[1]


def main(how: str, *more: str) -> None:
    """Do what the command line says."""
    ways = {
        "bare": lambda: outside(False),
        "watched": lambda: outside(True),
        "before": before_use,
        "imports": imports,
        "reloads": lambda: reloads(more[0], int(more[1])),
        "apps": several,
        "requests": lambda: requests(*more),
        "first page": first_page,
    }
    LOG.addHandler(logging.NullHandler())
    sys.stdout.write(json.dumps(ways[how]()))


if __name__ == "__main__":
    main(*sys.argv[1:])
