"""Forks of a process in which the library is at work: what the children can do, and that none of them hangs.

Run as a script, in a process of its own: `forking.py held` or `forking.py busy --forks 20`. It prints as JSON how the
children ended: 0, the number of a signal below zero (-14: it hung), or the exit code of a failure.
"""

from __future__ import annotations

import argparse
import asyncio
import faulthandler
import fcntl
import gc
import json
import logging
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import FastAPI
from pydantic import BaseModel

import modelwatch
import modelwatch.pulse

PATIENCE = 10  # seconds of a child, of which a few hundredths are needed
RNG = np.random.default_rng(0)
REFERENCE = modelwatch.ReferenceProfile.fit({"a": RNG.normal(size=300), "p": RNG.random(300)}, prediction="p")


class Row(BaseModel):
    """A row of the model."""

    a: float


def service(name: str) -> tuple[Any, modelwatch.Monitor]:
    """A watched app, and its monitor."""
    app = FastAPI()

    @app.post("/predict")
    def predict(row: Row) -> dict[str, float]:
        return {"p": 0.5}

    return app, modelwatch.instrument(app, model_name=name, reference=REFERENCE)


async def ask(app: Any, method: str, path: str, body: bytes = b"") -> tuple[int, str]:
    """Status and text of a request."""
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
    await app(scope, receive, send)
    return messages[0]["status"], b"".join(message.get("body", b"") for message in messages[1:]).decode()


def work(app: Any, monitor: modelwatch.Monitor, requests: int = 3, before: int = 0) -> None:
    """Everything that a service does, and that it is counted, in a process just forked from zero.

    Parameters
    ----------
    before
        Requests that the process has served already.
    """
    rows_before = monitor.report().rows

    async def serve() -> str:
        for _ in range(requests):
            status, _ = await ask(app, "POST", "/predict", b'{"a": 1.0}')
            assert status == 200, status
        monitor.record({"a": [1.0, 2.0]}, [0.5, 0.5])
        status, text = await ask(app, "GET", "/metrics")
        assert status == 200, status
        return text

    text = asyncio.run(serve())
    rows = monitor.report().rows
    assert rows == rows_before + requests + 2, (rows_before, rows)
    labels = f'model_name="{monitor.model_name}",model_version="",status="success"'
    line = f"model_request_total{{{labels}}} {before + requests}.0"
    assert line in text.splitlines(), [line for line in text.splitlines() if line.startswith("model_request_total")]
    monitor.reload(REFERENCE)
    assert monitor.report().rows == 0
    service(f"{monitor.model_name} again")


def child(function: Callable[[], object]) -> int:
    """Pid of a fork that calls a function and is gone: 0 if all went well, SIGALRM if it hung."""
    pid = os.fork()
    if pid:
        return pid
    faulthandler.dump_traceback_later(PATIENCE - 1)  # where it hangs
    signal.setitimer(signal.ITIMER_REAL, PATIENCE)
    try:
        function()
    except BaseException:  # noqa: BLE001 - the child must not go on with what its parent was about to do
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(3)
    os._exit(0)


def ended(pid: int) -> int:
    """How a child ended."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def locks() -> Iterator[tuple[str, Any]]:
    """Every lock that an object of the library holds, and that of the registry, which it inherits."""
    kinds = (type(threading.Lock()), type(threading.RLock()))
    seen: set[int] = set()
    for thing in gc.get_objects():
        if str(type(thing).__module__).startswith("modelwatch"):
            names = set(getattr(thing, "__dict__", ())) | {
                name for kind in type(thing).__mro__ for name in getattr(kind, "__slots__", ())
            }
            for name in names:
                lock = getattr(thing, name, None)
                if isinstance(lock, kinds) and id(lock) not in seen:
                    seen.add(id(lock))
                    yield f"{type(thing).__module__}.{type(thing).__name__}.{name}", lock


def held() -> dict[str, Any]:
    """Fork while another thread holds every lock of the library."""
    app, monitor = service("used")
    fresh = service("fresh")
    work(app, monitor)
    found = dict(locks())
    holding, done = threading.Event(), threading.Event()

    def hold() -> None:
        with ExitStack() as stack:
            for _, lock in locks():
                stack.enter_context(lock)
            holding.set()
            done.wait(2 * PATIENCE)

    holder = threading.Thread(target=hold)
    holder.start()
    holding.wait()
    pids = [child(lambda: work(app, monitor)), child(lambda: work(*fresh)), child(lambda: work(*service("new")))]
    ends = [ended(pid) for pid in pids]
    done.set()
    holder.join()
    work(app, monitor, before=3)
    return {"locks": sorted(found), "ends": ends}


def busy(forks: int) -> dict[str, Any]:
    """Fork again and again while threads record, fold, settle, scrape and reload."""
    app, monitor = service("busy")
    work(app, monitor, requests=1)
    over = threading.Event()
    turns = [0] * 4

    def again(number: int, function: Callable[[], object]) -> None:
        while not over.is_set():
            function()
            turns[number] += 1

    def request() -> None:
        asyncio.run(ask(app, "POST", "/predict", b'{"a": 1.0}'))

    def scrape() -> None:
        asyncio.run(ask(app, "GET", "/metrics"))

    def record() -> None:
        monitor.record({"a": [1.0] * 1_100})
        monitor.report()

    def reload() -> None:
        monitor.reload(REFERENCE)
        monitor.series.settle()

    threads = [threading.Thread(target=again, args=pair) for pair in enumerate([request, scrape, record, reload])]
    for thread in threads:
        thread.start()
    ends = []
    for number in range(forks):
        time.sleep(0.001 * (number % 7))  # so that forks come at other moments of the threads' work
        ends.append(ended(child(lambda: work(app, monitor, requests=1))))
    over.set()
    for thread in threads:
        thread.join(PATIENCE)
    return {"ends": ends, "turns": turns, "alive": [thread.name for thread in threads if thread.is_alive()]}


def files(directory: str) -> dict[str, Any]:
    """Fork a worker that shares what it counts: what the child leaves there, and what becomes of its parent's files."""
    os.environ.update(SERVER_SOFTWARE="gunicorn/23", MODELWATCH_DIR=directory)
    app, monitor = service("shared")
    work(app, monitor)
    before = there(directory)
    end = ended(child(lambda: work(app, monitor)))
    after = there(directory)
    work(app, monitor, before=3)  # nothing of the child's is in it, and nothing is lost
    return {
        "ends": [end],
        "before": sorted(before),
        "gone": sorted(before - after),
        "new": sorted(after - before),
        "held": [path for path in sorted(before) if path.endswith(".lock") and not free(Path(directory) / path)],
    }


def there(directory: str) -> set[str]:
    """The files in a directory, but for those that are being written."""
    paths = [path for path in Path(directory).rglob("*") if not path.is_dir() and not path.name.startswith(".")]
    return {str(path.relative_to(directory)) for path in paths}


def free(path: Path) -> bool:
    """Whether nobody holds a lock file."""
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser()
    parser.add_argument("how", choices=["held", "busy", "files"])
    parser.add_argument("--forks", type=int, default=10)
    parser.add_argument("--directory")
    arguments = parser.parse_args()
    logging.getLogger("modelwatch").addFilter(lambda record: False)
    how = {"held": held, "busy": lambda: busy(arguments.forks), "files": lambda: files(arguments.directory)}
    sys.stdout.write(json.dumps(how[arguments.how]()))


if __name__ == "__main__":
    main()
