"""Forks, signals, collections of garbage and finalizers: they come in the middle of anything, and nothing hangs."""

from __future__ import annotations

import ast
import asyncio
import json
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from fastapi import FastAPI
from pydantic import BaseModel
from support.reentry import Interruption

import modelwatch
import modelwatch.capture
import modelwatch.series
from modelwatch.buffer import Batch, Buffer
from modelwatch.metrics.runtime import LoopProbe
from modelwatch.pulse import Pulse
from modelwatch.series import Series

# In the middle of making a series no other one is made: who asks is refused, and the guard counts what that costs.
REFUSED = repr(RuntimeError("a series was asked for in the middle of making one, by a signal or a finalizer"))
HERE = Path(__file__).parents[1]
SOURCE = Path(modelwatch.__file__).parent
REFERENCE = modelwatch.ReferenceProfile.fit({"a": np.random.default_rng(0).normal(size=300)})


def run(script, *arguments, timeout):
    """What a script of tests/support prints, as JSON."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(HERE / "support" / script), *map(str, arguments)],
        capture_output=True, text=True, timeout=timeout, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, ""), done.stderr[-3000:]
    return json.loads(done.stdout)


class TestReentry:
    """What interrupts the library uses it, in the same thread, and for all it knows while a lock is held."""

    @pytest.mark.parametrize(
        ("how", "tries", "seed"),
        [
            ("lines", 260, 0),
            ("signals", 100, 0),
            ("garbage", 200, 0),
            *(
                pytest.param(how, 10_000, seed, marks=pytest.mark.soak)
                for how in ("lines", "signals", "garbage")
                for seed in (1, 2)
            ),
        ],
    )
    def test_nothing_hangs_and_no_row_is_lost_unseen(self, how, tries, seed):
        """Rows, requests, folds, scrapes, reports, reloads in the middle of one another end, and all rows are counted.

        "lines": at any line of the library; "signals": from the handler of a real signal; "garbage": from a callback of
        the collector and from `__del__`, in whatever thread.
        """
        found = run("reentry.py", how, "--tries", tries, "--seed", seed, timeout=60 + tries / 10)
        assert found["problems"] == [], f"seed {seed}"
        assert found["tries"] > 0.7 * tries  # the others would have come when all was over
        assert found["status"] == 200

    def test_a_settler_that_is_interrupted_goes_on(self):
        """Who reads in the middle of settling sees what is counted so far; whom it interrupted counts the rest."""
        series, waiting, seen = Series(), [1, 1, 1], []
        place = series.counter("a")

        def settle():
            while waiting:
                series.values[place] += waiting.pop()
                seen.append([cell.values[0] for cell in series.cells()])  # a signal handler that scrapes

        series.settlers.append(settle)
        assert [cell.values for cell in series.cells()] == [[3]]
        assert seen == [[1], [2], [3]]

    def test_a_series_that_is_made_while_all_are_read(self):
        """Wherever a reader is interrupted by somebody who makes a series, it reads the others, each with its value."""

        def made():
            series = Series()
            for i in range(3):
                series.values[series.counter("a", (str(i),))] += i
            return series

        def read(series):
            return [(cell.labels, cell.values) for cell in series.cells()]

        looking = Interruption()
        looking(lambda: read(made()))
        assert len(looking.passed) > 20
        for place, times in looking.passed.items():
            for time in range(1, min(times, 4) + 1):
                series, seen = made(), []
                interruption = Interruption((place, time), lambda series=series: series.counter("a", ("late",)))
                interruption(lambda series=series, seen=seen: seen.extend(read(series)))
                assert interruption.raised in {"", REFUSED}, (place, time)
                assert seen[:3] == [((str(i),), [i]) for i in range(3)], (place, time)

    def test_a_buffer_that_is_taken_twice_at_once(self):
        """A handler that takes what waits, in the middle of taking it, loses nothing, and the room is free again."""

        class Interrupted(type(Buffer(1)._batches)):
            def popleft(self):
                if len(self) == 3:
                    taken.extend(super(Interrupted, self).popleft() for _ in range(2))
                    buffer.taken += 2
                return super().popleft()

        buffer, taken = Buffer(10), []
        buffer._batches = Interrupted()
        for i in range(4):
            buffer.append(Batch(1, ("a",), [(i,)], None, None, None, None, "1", False))
        taken += buffer.take()
        assert sorted(batch.rows[0][0] for batch in taken) == [0, 1, 2, 3]
        assert buffer.waiting == 0

    def test_the_background_thread_is_woken_in_the_middle_of_waking_it(self):
        """A handler that adds, and wakes, in the middle of adding and waking is not kept waiting."""

        class Ticked:
            def __init__(self, before=lambda: None):
                self.ticks, self.before = threading.Semaphore(0), before

            def __hash__(self):
                before, self.before = self.before, lambda: None
                before()
                return 1

            def tick(self):
                self.ticks.release()

            def forked(self):
                pass

        pulse, inner = Pulse(0.01), Ticked()

        def interrupt():
            pulse.add(inner)
            pulse.wake()

        def work():
            pulse.add(outer)
            pulse.wake()

        outer = Ticked(interrupt)
        thread = threading.Thread(target=work, daemon=True)  # should it wait for ever, only it does
        thread.start()
        thread.join(10)
        assert not thread.is_alive()
        assert outer.ticks.acquire(timeout=30)
        assert inner.ticks.acquire(timeout=30)

    def test_a_series_whose_making_was_broken_off(self, monkeypatch):
        """An exception out of a signal handler, in the middle of making a series, spoils no other one."""
        series = Series()
        first = series.counter("a", ("first",))

        class Interrupting(dict):
            def __setitem__(self, key, value):
                if key == ("a", ("broken",)) and not broken:
                    broken.append(key)
                    raise KeyboardInterrupt
                super().__setitem__(key, value)

        broken: list[object] = []
        monkeypatch.setattr(series, "_places", Interrupting(series._places))
        with pytest.raises(KeyboardInterrupt):
            series.counter("a", ("broken",))
        last = series.counter("a", ("last",))
        series.values[first] += 1
        series.values[last] += 2
        assert {cell.labels[0]: cell.values[0] for cell in series.cells()} == {"first": 1, "last": 2}
        series.values[series.counter("a", ("broken",))] += 3
        assert {cell.labels[0]: cell.values[0] for cell in series.cells()} == {"first": 1, "last": 2, "broken": 3}


class Row(BaseModel):
    a: float


async def ask(app, method, path, body=b"", messages=None):
    """Text of the answer to a request without a lifespan."""
    messages = []

    async def receive():
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message):
        messages.append(message)

    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "scheme": "http", "method": method,
        "path": path, "raw_path": path.encode(), "query_string": b"", "root_path": "", "state": {},
        "headers": [(b"content-type", b"application/json")], "client": ("c", 1), "server": ("s", 80),
    }  # fmt: skip
    await app(scope, receive, send)
    assert messages[0]["status"] == 200
    return b"".join(message.get("body", b"") for message in messages[1:]).decode()


def make_app():
    app = FastAPI()

    @app.post("/predict")
    def predict(row: Row):
        return {"score": 0.5}

    return app, modelwatch.instrument(app, model_name="m", reference=REFERENCE)


def test_a_reload_while_endpoints_are_decided(monkeypatch):
    """Whoever reloads at the moment at which it is decided what is watched takes no request's rows away for good."""
    app, monitor = make_app()
    real, reloads = modelwatch.capture.describe, []

    def describe(watch, routed):
        if not reloads:
            reloads.append(True)
            monitor.reload(REFERENCE)
        return real(watch, routed)

    monkeypatch.setattr(modelwatch.capture, "describe", describe)
    for _ in range(3):
        asyncio.run(ask(app, "POST", "/predict", b'{"a": 1.0}'))
    assert reloads
    assert monitor.report().rows == 3


class TestForks:
    def test_while_every_lock_is_held(self):
        """In a child of a process whose threads hold every lock of the library all apps work: used, fresh, new."""
        found = run("forking.py", "held", timeout=120)
        assert found["ends"] == [0, 0, 0]
        names = {name.rpartition(".")[2] for name in found["locks"]}
        assert names >= {"_lock", "lock", "_settling"}
        owners = {name.rpartition(".")[0].rpartition(".")[2] for name in found["locks"]}
        assert owners >= {"Engine", "Series", "Exposition", "Pulse", "Registry"}

    @pytest.mark.parametrize("forks", [20, pytest.param(150, marks=pytest.mark.soak)])
    def test_under_busy_threads(self, forks):
        """However often a process forks while its threads record, scrape, settle and reload, no child hangs or errs."""
        found = run("forking.py", "busy", "--forks", forks, timeout=60 + 2 * forks)
        assert found["ends"] == [0] * forks
        assert min(found["turns"]) > 0
        assert found["alive"] == []

    def test_files_of_parent_and_child(self, tmp_path):
        """A child shares what it counts in files of its own; those of its parent, and its locks, are left alone."""
        found = run("forking.py", "files", "--directory", tmp_path, timeout=60)
        assert found["ends"] == [0]
        assert found["gone"] == []
        for suffix in (".alive", ".counts"):
            assert [path for path in found["before"] if path.endswith(suffix)]
            assert [path for path in found["new"] if path.endswith(suffix)]
        assert found["held"] == [path for path in found["before"] if path.endswith(".lock")]


class TestNothingIsLeftToTheEnd:
    def test_no_hook_at_the_exit(self):
        """No module asks to be called when the interpreter ends or the service stops: SIGKILL calls nobody."""
        found = []
        for path in SOURCE.rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                names = {
                    ast.Import: lambda node: {alias.name for alias in node.names},
                    ast.ImportFrom: lambda node: {node.module or "", *(alias.name for alias in node.names)},
                    ast.Attribute: lambda node: {node.attr},
                    ast.Constant: lambda node: {node.value} if isinstance(node.value, str) else set(),
                }.get(type(node), lambda node: set())(node)
                found += [
                    (path.name, node.lineno, name)
                    for name in names & {"atexit", "finalize", "_register_atexit", "lifespan.shutdown"}
                ]
        assert found == []

    def test_without_lifespan(self):
        """An app that is never told to start, or to stop, is watched as one that is."""

        async def serve(lifespan):
            app, _ = make_app()
            ends = asyncio.Event()
            if lifespan:
                messages = iter([{"type": "lifespan.startup"}])

                async def receive():
                    for message in messages:
                        return message
                    await ends.wait()  # it is killed before it is told to stop
                    return None

                async def send(message):
                    started.set()

                started = asyncio.Event()
                task = asyncio.ensure_future(app({"type": "lifespan", "asgi": {}, "state": {}}, receive, send))
                await started.wait()
            for _ in range(3):
                await ask(app, "POST", "/predict", b'{"a": 1.0}')
            text = await ask(app, "GET", "/metrics")
            if lifespan:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
            counts = (
                "model_request_total",
                "model_rows_total",
                "modelwatch_rows_total",
                "http_server_request_duration_",
            )
            lines = [line for line in text.splitlines() if line.startswith(counts)]
            return [line for line in lines if "_sum" not in line and "_bucket" not in line]

        bare, whole = asyncio.run(serve(False)), asyncio.run(serve(True))
        assert bare == whole
        assert any(line.startswith("model_rows_total") and line.endswith(" 3.0") for line in bare)


def test_event_loops_of_many_threads_are_measured():
    """Loops that begin in several threads at once are all measured, and the closed ones are forgotten."""
    series = Series()
    probe = LoopProbe(series, (0.1, 1.0), guard=None, interval=0.001)
    together, found = threading.Barrier(8), []

    async def measured():
        together.wait(30)
        probe.ensure()
        await asyncio.sleep(0.005)
        found.append(any(beat.loop is asyncio.get_running_loop() for beat in probe._live()))

    threads = [threading.Thread(target=lambda: asyncio.run(measured())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert found == [True] * 8

    async def last():
        probe.ensure()
        return len(probe._beats)

    assert asyncio.run(last()) == 1
