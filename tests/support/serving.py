"""Real servers for tests: start one with several workers, send requests, scrape, kill, and leave nothing behind.

Connections go to whichever worker takes them. So every response says in `x-worker` whose it is (see service_app.py),
and `Server.pins` holds one open connection to each worker.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import psutil
from prometheus_client.parser import text_string_to_metric_families

HOST = "127.0.0.1"
START_SECONDS = 60.0
PATIENCE = 30.0
_GUNICORN_CONF = """\
control_socket_disable = True  # a name that an older gunicorn passes over
graceful_timeout = 3
keepalive = 60
"""


class Mode(NamedTuple):
    """How a server is started: its command line, and where its log says the port (None: it cannot choose one)."""

    command: Callable[[int, int], list[str]]
    says: str | None
    env: Mapping[str, str] = {}
    recycles: bool = False  # workers end by themselves, and connections with them
    gives_up: bool = False  # when the worker that it has started last dies within some seconds


def _uvicorn(port: int, workers: int) -> list[str]:
    many = ["--workers", str(workers)] if workers > 1 else []
    options = ["--host", HOST, "--port", str(port), "--no-access-log", "--timeout-keep-alive", "60"]
    return ["-m", "uvicorn", "service_app:app", *options, *many]


def _gunicorn(*options: str) -> Callable[[int, int], list[str]]:
    def command(port: int, workers: int) -> list[str]:
        worker = ["-k", "uvicorn_worker.UvicornWorker", "-w", str(workers), "-b", f"{HOST}:{port}"]
        return ["-m", "gunicorn", "-c", "gunicorn.conf.py", *worker, *options, "service_app:app"]

    return command


def _hypercorn(port: int, workers: int) -> list[str]:
    return ["-m", "hypercorn", "-w", str(workers), "-b", f"{HOST}:{port}", "--keep-alive", "60", "service_app:app"]


def _granian(port: int, workers: int) -> list[str]:
    options = ["--interface", "asgi", "--workers", str(workers), "--host", HOST, "--port", str(port)]
    respawn = ["--respawn-failed-workers", "--respawn-interval", "0.2", "--workers-kill-timeout", "3s"]
    return ["-m", "granian", *options, *respawn, "service_app:app"]


MODES = {
    "uvicorn": Mode(_uvicorn, r"Uvicorn running on http://127\.0\.0\.1:(\d+)"),
    "gunicorn": Mode(_gunicorn(), r"Listening at: http://127\.0\.0\.1:(\d+)"),
    "gunicorn-preload": Mode(_gunicorn("--preload"), r"Listening at: http://127\.0\.0\.1:(\d+)"),
    "gunicorn-max-requests": Mode(
        _gunicorn("--preload"),
        r"Listening at: http://127\.0\.0\.1:(\d+)",
        env={"GUNICORN_CMD_ARGS": "--max-requests 10"},
        recycles=True,
    ),
    "hypercorn": Mode(_hypercorn, None),
    "granian": Mode(_granian, None, gives_up=True),
}


def until(found: Callable[[], Any], what: str, seconds: float = PATIENCE, pause: float = 0.05) -> Any:
    """What `found` returns, as soon as that is true; fails with `what` after so many seconds."""
    deadline = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < deadline, f"{what}: not within {seconds:g} s"
        time.sleep(pause)
    return value


class Answer(NamedTuple):
    """A response, and the process that gave it."""

    status: int
    body: bytes
    pid: int
    headers: Mapping[str, str]

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


class Connection:
    """One connection, which is opened with the first request and stays open; so it stays with one worker."""

    def __init__(self, port: int, timeout: float = PATIENCE) -> None:
        self._http = http.client.HTTPConnection(HOST, port, timeout=timeout)

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> Answer:
        """GET."""
        return self._ask("GET", path, None, dict(headers or {}))

    def post(self, path: str, rows: Any = None) -> Answer:
        """POST, with JSON."""
        self.begin(path, rows)
        return self.end()

    def begin(self, path: str, rows: Any = None) -> None:
        """Send a POST, or without rows a GET, and do not wait for the response."""
        body = None if rows is None else json.dumps(rows).encode()
        self._http.request("GET" if body is None else "POST", path, body, {"content-type": "application/json"})

    def end(self) -> Answer:
        """The response to what was begun."""
        response = self._http.getresponse()
        body = response.read()
        return Answer(response.status, body, int(response.headers.get("x-worker", 0)), response.headers)

    def _ask(self, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> Answer:
        self._http.request(method, path, body, headers)
        return self.end()

    @property
    def open(self) -> bool:
        """Whether it is open at both ends, while no response is awaited."""
        return self._http.sock is not None and not select.select([self._http.sock], [], [], 0)[0]

    def close(self) -> None:
        """Close it."""
        self._http.close()


Key = tuple[str, tuple[tuple[str, str], ...]]


class Scrape:
    """One answer of `/metrics`, parsed.

    Attributes
    ----------
    pid, text, seconds
        Which process answered, what, after how long.
    samples
        Value by name and labels.
    cumulative
        The samples that may only rise: counters, and the buckets, counts and sums of histograms.
    """

    def __init__(self, answer: Answer, seconds: float) -> None:
        assert answer.status == 200, f"/metrics answered {answer.status}: {answer.body[:300]!r}"
        self.pid, self.seconds = answer.pid, seconds
        self.text = answer.body.decode()
        self.samples: dict[Key, float] = {}
        self.cumulative: dict[Key, float] = {}
        for family in text_string_to_metric_families(self.text):
            for sample in family.samples:
                key = (sample.name, tuple(sorted(sample.labels.items())))
                assert key not in self.samples, f"{key} is there twice"
                self.samples[key] = sample.value
                if family.type in {"counter", "histogram"}:
                    self.cumulative[key] = sample.value

    def where(self, name: str, **labels: str) -> dict[Key, float]:
        """The samples of that name with these labels."""
        wanted = set(labels.items())
        return {key: value for key, value in self.samples.items() if key[0] == name and wanted <= set(key[1])}

    def total(self, name: str, **labels: str) -> float:
        """The sum of the samples of that name with these labels; 0 without any."""
        return sum(self.where(name, **labels).values())

    def by(self, name: str, label: str, **labels: str) -> dict[str, float]:
        """Values by the value of one label."""
        return {dict(key[1])[label]: value for key, value in self.where(name, **labels).items()}

    def named(self, names: Iterable[str]) -> dict[Key, float]:
        """All samples of these names."""
        chosen = set(names)
        return {key: value for key, value in self.samples.items() if key[0] in chosen}


def falls(scrapes: Sequence[Scrape]) -> list[str]:
    """What went backwards or away from one scrape to a later one, among all that may only rise."""
    highest: dict[Key, float] = {}
    found = []
    for number, scrape in enumerate(scrapes):
        gone = highest.keys() - scrape.cumulative.keys()
        found += [f"scrape {number} by {scrape.pid}: {key} is gone" for key in gone]
        for key, value in scrape.cumulative.items():
            if value < highest.get(key, value):
                found.append(f"scrape {number} by {scrape.pid}: {key} fell from {highest[key]!r} to {value!r}")
            highest[key] = max(value, highest.get(key, value))
    return found


@dataclass
class Server:
    """A server that runs.

    Attributes
    ----------
    mode, workers, port
        As it was started; `metrics_port` if that is another one.
    killing
        Whether workers are being killed, so that a connection may break.
    apart
        Whether it has pids of its own, so that ours and its own names for its workers differ.
    process
        The master; the workers are its children.
    directory
        Where it runs. `log` is in it, and `shared`, where its workers share what they count.
    """

    mode: str
    workers: int
    port: int
    process: subprocess.Popen
    directory: Path
    metrics_port: int | None = None
    killing: bool = False
    apart: bool = False
    pins: dict[int, Connection] = field(default_factory=dict)

    @property
    def log(self) -> str:
        """All that it has printed."""
        return (self.directory / "server.log").read_text("utf-8", errors="replace")

    @property
    def steady(self) -> bool:
        """Whether each worker can be reached: not where to reach them all would use some of them up."""
        return not MODES[self.mode].recycles and not self.apart

    @property
    def shared(self) -> Path:
        """The base directory of what workers share."""
        return self.directory / "shared"

    def complaints(self) -> list[str]:
        """Lines of the log in which modelwatch says that it failed."""
        return [line for line in self.log.splitlines() if "modelwatch failed" in line]

    def connect(self, timeout: float = PATIENCE) -> Connection:
        """A new connection, to whichever worker takes it."""
        return Connection(self.port, timeout)

    def fresh(self, path: str, rows: Any = None) -> Answer:
        """The response over a connection of its own: GET, or POST with rows."""
        connection = self.connect()
        try:
            connection.begin(path, rows)
            return connection.end()
        finally:
            connection.close()

    def worker_pids(self) -> set[int]:
        """The workers that live."""
        if self.workers == 1 and self.mode == "uvicorn":
            return {self.process.pid}
        found = set()
        for child in psutil.Process(self.process.pid).children():
            with suppress(psutil.NoSuchProcess):
                if child.status() != psutil.STATUS_ZOMBIE and "resource_tracker" not in " ".join(child.cmdline()):
                    found.add(child.pid)
        return found

    def mortal_pids(self) -> list[int]:
        """The workers that may be killed, and the server goes on; sorted."""
        pids = sorted(self.worker_pids())
        if MODES[self.mode].gives_up:
            pids.remove(max(pids, key=lambda pid: psutil.Process(pid).create_time()))
        return pids

    def scrape(self, pin: Connection | None = None, only: Sequence[str] = ()) -> Scrape:
        """Read `/metrics`, or some metrics, over a connection of its own, or over one that is given; it must succeed.

        Where workers end by themselves, a connection that breaks before the response is no failure.
        """
        path = "/metrics?" + "&".join(f"name[]={name}" for name in only) if only else "/metrics"
        deadline = time.monotonic() + PATIENCE
        while True:
            connection = pin or Connection(self.metrics_port or self.port)
            started = time.perf_counter()
            try:
                answer = connection.get(path)
            except (OSError, http.client.HTTPException):
                assert MODES[self.mode].recycles or self.killing, "the connection broke without a response"
                assert time.monotonic() < deadline, "no worker answers"
                connection.close()
            else:
                return Scrape(answer, time.perf_counter() - started)
            finally:
                if pin is None:
                    connection.close()

    def reach_all(self) -> dict[int, Connection]:
        """An open connection to each worker, by its pid; kept in `pins`."""
        deadline = time.monotonic() + START_SECONDS
        while True:
            living = self.worker_pids()
            for pid, pin in list(self.pins.items()):
                if pid not in living or not pin.open:
                    self.pins.pop(pid).close()
            if len(living) == self.workers and self.pins.keys() == living:
                return self.pins
            assert time.monotonic() < deadline, f"reached {set(self.pins)} of {living}\n{self.log[-3000:]}"
            self._reach_more()

    def _reach_more(self) -> None:
        """Open some connections at once: a worker that takes one has less time for the next."""
        opened = [self.connect() for _ in range(8)]
        try:
            for connection in opened:
                connection.begin("/pid")
            for connection in list(opened):
                pid = connection.end().pid
                if pid not in self.pins:
                    self.pins[pid] = connection
                    opened.remove(connection)
        except (OSError, http.client.HTTPException):
            time.sleep(0.05)  # it has not begun to listen, or the worker has just gone
        finally:
            for connection in opened:
                connection.close()

    def send(self, batches: Sequence[Any], path: str = "/predict", threads: int = 4) -> Counter:
        """POST each batch once: the first ones to each worker, then over open and fresh connections by turns.

        All must be answered with 200; where workers end by themselves, what got no response is sent again. Returns
        how many each worker answered.
        """
        answered: Counter = Counter()
        pins = self.reach_all() if self.steady else {}
        for batch, pin in zip(batches, list(pins.values()), strict=False):
            answered[self._posted(pin, path, batch)] += 1
        rest = iter(batches[len(pins) :])
        lock = threading.Lock()
        failed: list[BaseException] = []

        def work() -> None:
            kept = self.connect()
            try:
                for turn in range(len(batches)):
                    with lock:
                        batch = next(rest, None)
                    if batch is None:
                        return
                    pid = self._posted(kept, path, batch) if turn % 2 else self._posted(None, path, batch)
                    with lock:
                        answered[pid] += 1
            except BaseException as error:  # noqa: BLE001 - raised below, in the test's own thread
                failed.append(error)
            finally:
                kept.close()

        _together(work, threads)
        if failed:
            raise failed[0]
        return answered

    def _posted(self, connection: Connection | None, path: str, batch: Any) -> int:
        """Which worker took a batch."""
        for _ in range(20 if MODES[self.mode].recycles or self.killing else 0):
            with suppress(OSError, http.client.HTTPException):
                return _good(self.fresh(path, batch) if connection is None else connection.post(path, batch))
            if connection is not None:
                connection.close()  # the next request opens it anew
        return _good(self.fresh(path, batch) if connection is None else connection.post(path, batch))

    def kill_worker(self, number: int = signal.SIGKILL, pid: int | None = None) -> int:
        """Send a signal to a worker, by default to the one of the lowest pid; returns which, once it is gone.

        Gone is more than dead: a first thread that has ended is not the end of all, nor of what they have open.
        """
        pid = min(self.worker_pids()) if pid is None else pid
        os.kill(pid, number)
        until(lambda: not psutil.pid_exists(pid), f"worker {pid} ends", pause=0.002)
        if pid in self.pins:
            self.pins.pop(pid).close()
        return pid

    def close(self) -> None:
        """End it, politely first, and see that nothing is left of it."""
        for pin in self.pins.values():
            pin.close()
        self.pins.clear()
        if not self.apart:  # there the first process is not the server itself
            self.process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(8)
        end_group(self.process.pid)
        self.process.wait()
        left = until(lambda: not group(self.process.pid), "all processes of the server are gone", 10)
        assert left


def _answers(server: Server) -> bool:
    with suppress(OSError, http.client.HTTPException):
        return server.fresh("/pid").status == 200
    return False


def _good(answer: Answer) -> int:
    assert answer.status == 200, f"{answer.status}: {answer.body[:300]!r}"
    return answer.pid


def _together(work: Callable[[], None], threads: int) -> None:
    running = [threading.Thread(target=work) for _ in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()


def group(leader: int) -> list[int]:
    """The processes of a process group that are not dead."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess, ProcessLookupError):
            if os.getpgid(process.pid) == leader and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
    return found


def end_group(leader: int) -> None:
    """Kill a process group, if there is one."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)


def free_port() -> int:
    """A port of the loopback interface on which nobody listens now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def environment(directory: Path, reference: Path | str, more: Mapping[str, str]) -> dict[str, str]:
    """Ours without what belongs to modelwatch, with the service on the path and its reference; then `more`."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.upper().startswith("MODELWATCH_") and name != "PROMETHEUS_MULTIPROC_DIR"
    }
    paths = [str(Path(__file__).parent), *filter(None, kept.get("PYTHONPATH", "").split(os.pathsep))]
    return kept | {
        "PYTHONPATH": os.pathsep.join(map(os.path.abspath, paths)),
        "PYTHONUNBUFFERED": "1",
        "OMP_NUM_THREADS": "1",
        "SERVICE_REFERENCE": str(reference),
        "MODELWATCH_DIR": str(directory / "shared"),
        **more,
    }


def launch(
    mode: str,
    directory: Path,
    reference: Path | str,
    *,
    workers: int = 3,
    env: Mapping[str, str] | None = None,
    before: Sequence[str] = (),
    apart: bool = False,
) -> Server:
    """Start a server and return as soon as its port is known; the caller closes it.

    Parameters
    ----------
    mode
        One of MODES.
    directory
        Where it runs; made if it is not there.
    reference
        Path of the service's reference.
    env
        More of the environment: settings as MODELWATCH_…; an empty MODELWATCH_DIR is left out.
    before
        What the command line begins with, such as `unshare …`.
    apart
        Whether that gives it pids of its own.
    """
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "gunicorn.conf.py").write_text(_GUNICORN_CONF, "utf-8")
    started = MODES[mode]
    more = {**started.env, **(env or {})}
    variables = {name: value for name, value in environment(directory, reference, more).items() if value}
    for _ in range(5):
        port = 0 if started.says else free_port()
        with open(directory / "server.log", "wb") as log:
            process = subprocess.Popen(
                [*before, sys.executable, *started.command(port, workers)],
                cwd=directory,
                env=variables,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        own = variables.get("MODELWATCH_METRICS_PORT")
        server = Server(mode, workers, port, process, directory, int(own) if own else None, apart=apart)
        try:
            if _listens(server, started.says):
                return server
        except BaseException:
            server.close()
            raise
        server.close()
    raise AssertionError(f"{mode} found no free port\n{server.log[-3000:]}")


def _listens(server: Server, says: str | None) -> bool:
    """Wait for a server's port; False if another process has taken the one that was chosen."""

    def looked() -> int:
        ended = server.process.poll() is not None
        text = server.log
        if says is not None:
            if found := re.search(says, text):
                return int(found[1])
        elif not ended:
            with suppress(OSError), socket.create_connection((HOST, server.port), timeout=1):
                return server.port
        if ended:
            assert "in use" in text, f"{server.mode} did not start\n{text[-3000:]}"
            return -1
        return 0

    port = until(looked, f"{server.mode} listens", START_SECONDS)
    server.port = port
    return port > 0


@contextmanager
def serve(
    mode: str,
    directory: Path,
    reference: Path | str,
    *,
    workers: int = 3,
    env: Mapping[str, str] | None = None,
    before: Sequence[str] = (),
    apart: bool = False,
    may_fail: bool = False,
) -> Iterator[Server]:
    """A server whose workers all answer (see `launch`). Afterwards it is gone, and has logged no failure of ours."""
    server = launch(mode, directory, reference, workers=workers, env=env, before=before, apart=apart)
    try:
        if server.steady:
            server.reach_all()
        else:
            until(lambda: _answers(server), f"{mode} answers", START_SECONDS)
        yield server
        complaints = server.complaints()
        assert may_fail or not complaints, "\n".join(complaints)
    finally:
        server.close()
