"""The demo's processes and files: a temporary directory with the example in it, and what runs there. All goes again."""

from __future__ import annotations

import errno
import importlib.resources
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from importlib.resources.abc import Traversable
from pathlib import Path
from types import FrameType
from typing import Any

import httpx

from ..exceptions import ModelWatchError

HOST = "127.0.0.1"
_START_SECONDS = 60.0
_STOP_SECONDS = 5.0
_SCRAPES = """\
global: {{scrape_interval: 1s, scrape_timeout: 1s}}
scrape_configs:
  - job_name: bike-demand
    static_configs: [{{targets: ["{target}"]}}]
"""
_EVENT_TIME = {
    # The data are of 2011, so a row's time is what it says. Two whole weeks: hourly rows are not independent, and in
    # whole weeks night, day and weekend always have the same shares.
    "MODELWATCH_EVENT_TIME": "true",
    "MODELWATCH_WINDOW_SECONDS": str(14 * 86400),
    "MODELWATCH_WINDOW_SLOTS": "14",
}
# Little work, often on cores that others use too: threads that wait for each other make it ten times slower.
_ONE_THREAD = {"OMP_NUM_THREADS": "1"}
_ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

# Before a program begins: let it be killed with the thread that starts it, so that not even `kill -9` of us leaves it
# running. 1 is PR_SET_PDEATHSIG; that is Linux, and where it cannot be had the program runs all the same.
_LEASH = """\
import ctypes, os, signal, sys
try:
    ctypes.CDLL(None).prctl(1, int(signal.SIGKILL), 0, 0, 0)
except (OSError, AttributeError):
    pass
if os.getppid() == int(sys.argv[1]):
    os.execvp(sys.argv[2], sys.argv[2:])
"""


class DemoError(ModelWatchError):
    """Something that the demo needs did not work; the message says what, with the end of its log."""


class Stage:
    """A directory with the example in it, and the processes that run there. Use `stage()`, which takes all away again.

    Attributes
    ----------
    directory
        Where everything is.

    Notes
    -----
    Threads: one. Processes: those started here are in sessions of their own and end with `stop`.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._processes: list[subprocess.Popen[bytes]] = []
        self._services: list[Service] = []

    def train(self) -> str:
        """Run train.py; returns what it says."""
        log = self.directory / "train.log"
        if self._start([sys.executable, "train.py"], log).wait():
            raise DemoError(_with_log("train.py failed.", log))
        return log.read_text("utf-8", errors="replace").strip()

    def script(self, name: str) -> Any:
        """A script of the example as a module."""
        path = self.directory / name
        spec = importlib.util.spec_from_file_location(f"modelwatch_demo_{path.stem}", path)
        if spec is None or spec.loader is None:
            raise DemoError(f"Expected a script {path}, got none that can be loaded.")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    def serve(self, port: int) -> Service:
        """Start service.py under uvicorn, with windows by the rows' own time; returns when it answers."""
        return self._answering(self._uvicorn("service", port, _EVENT_TIME), "/metrics")

    def fleet(self, ports: Sequence[int], settings: Mapping[str, str]) -> list[Service]:
        """Start service.py on each of the ports, with these settings; returns when all answer."""
        started = [self._uvicorn(f"service-{number}", port, settings) for number, port in enumerate(ports, 1)]
        return [self._answering(service, "/metrics") for service in started]

    def prometheus(self, program: str, port: int, target: str, config: str | None = None) -> Service:
        """Start a Prometheus with data of its own; without a configuration it scrapes `target` each second."""
        file = self.directory / "prometheus.yml"
        file.write_text(config or _SCRAPES.format(target=target.removeprefix("http://")), "utf-8")
        command = [program, f"--config.file={file}", f"--storage.tsdb.path={self.directory / 'prometheus'}"]
        command += [f"--web.listen-address={HOST}:{port}", f"--web.external-url=http://{HOST}:{port}"]
        return self._answering(self._service([*command, "--log.level=warn"], "prometheus", port), "/-/ready")

    def alertmanager(self, program: str, port: int, config: str) -> Service:
        """Start an Alertmanager that knows of no others, with data of its own."""
        file = self.directory / "alertmanager.yml"
        file.write_text(config, "utf-8")
        command = [program, f"--config.file={file}", f"--storage.path={self.directory / 'alertmanager'}"]
        command += [f"--web.listen-address={HOST}:{port}", f"--web.external-url=http://{HOST}:{port}"]
        command += ["--cluster.listen-address=", "--log.level=warn"]
        return self._answering(self._service(command, "alertmanager", port), "/-/ready")

    def stop(self) -> None:
        """End what was started, with all that it started in turn."""
        for service in self._services:
            service.close()
        for process in self._processes:
            _signal(process, signal.SIGTERM)
        deadline = time.monotonic() + _STOP_SECONDS
        for process in self._processes:
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(deadline - time.monotonic(), 0.01))
        for process in self._processes:
            _signal(process, signal.SIGKILL)
            process.wait()
        self._processes.clear()

    def _uvicorn(self, name: str, port: int, settings: Mapping[str, str]) -> Service:
        command = [sys.executable, "-m", "uvicorn", "service:app", "--host", HOST, "--port", str(port)]
        return self._service([*command, "--no-access-log", "--no-use-colors"], name, port, settings)

    def _service(self, command: Sequence[str], name: str, port: int, settings: Mapping[str, str] = {}) -> Service:
        log = self.directory / f"{name}.log"
        service = Service(f"http://{HOST}:{port}", self._start(command, log, settings), log)
        self._services.append(service)
        return service

    def _answering(self, service: Service, probe: str) -> Service:
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline and service.process.poll() is None:
            with suppress(httpx.TransportError):
                if service.get(probe).status_code == 200:
                    return service
            time.sleep(0.05)
        raise DemoError(service.report("did not start"))

    def _start(self, command: Sequence[str], log: Path, settings: Mapping[str, str] = {}) -> subprocess.Popen[bytes]:
        try:
            if shutil.which(command[0]) is None:  # what is on the leash could not say so
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
            with open(log, "wb") as output:
                process = subprocess.Popen(  # noqa: S603 - our own commands, no shell
                    [sys.executable, "-I", "-S", "-c", _LEASH, str(os.getpid()), *command],
                    cwd=self.directory,
                    env=_environment(settings),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,  # Ctrl-C reaches only us, and we end it with its children
                )
        except OSError as error:
            raise DemoError(f"Expected to be able to start {command[0]}, but {error.strerror}.") from error
        self._processes.append(process)
        return process


class Service:
    """A process that answers HTTP.

    Attributes
    ----------
    url, process, log
        Where it answers, what it is, where its output goes.

    Notes
    -----
    Threads: one. Processes: stands for another one.
    """

    def __init__(self, url: str, process: subprocess.Popen[bytes], log: Path) -> None:
        self.url, self.process, self.log = url, process, log
        # Not by a proxy: it would not find the way back.
        self._client = httpx.Client(base_url=url, timeout=30, trust_env=False)

    def get(self, path: str, **parameters: str | list[str]) -> httpx.Response:
        """The response to GET."""
        return self._client.get(path, params=parameters or None)

    def post(self, path: str, body: object) -> httpx.Response:
        """The response to POST, of JSON."""
        return self._client.post(path, json=body)

    def close(self) -> None:
        """Close the connection; the process goes on."""
        self._client.close()

    def report(self, what: str) -> str:
        """A sentence on what went wrong, with the end of the log."""
        return _with_log(f"{self.log.stem} at {self.url} {what}.", self.log)


@contextmanager
def stage() -> Iterator[Stage]:
    """A temporary directory with a copy of the example. Afterwards, however that comes, all is gone and stopped."""
    with _on_signals(_leave, _ENDS[1:]):
        staged = Stage(Path(tempfile.mkdtemp(prefix="modelwatch-demo-")))
        try:
            _copy(example(), staged.directory)
            yield staged
        finally:
            with _on_signals(signal.SIG_IGN, _ENDS):  # whoever is impatient must not leave half of it behind
                staged.stop()
                shutil.rmtree(staged.directory, ignore_errors=True)


def example() -> Traversable:
    """Where the example is: in the wheel, or in the checkout of an editable install.

    Raises
    ------
    DemoError
        Neither there nor here.
    """
    package = importlib.resources.files("modelwatch")
    for found in (package / "_examples" / "bike_demand", Path(str(package)).parents[1] / "examples" / "bike_demand"):
        if (found / "service.py").is_file():
            return found
    raise DemoError(
        f"Expected the example in {package}/_examples/bike_demand, where the wheel has it; it is not there. "
        "Install modelwatch again."
    )


def free_port(wished: int = 0) -> int:
    """A port of the loopback interface that nobody listens on: the one wished for, or else any."""
    return free_ports([wished])[0]


def free_ports(wished: Sequence[int]) -> list[int]:
    """As many ports, all different: chosen one after the other, the system might name one twice."""
    with ExitStack() as held:
        return [_free_port(held, port) for port in wished]


def _free_port(held: ExitStack, wished: int) -> int:
    for port in (wished, 0):
        probe = held.enter_context(socket.socket())
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # it may have been used a moment ago
        with suppress(OSError):
            probe.bind((HOST, port))
            probe.listen()  # or the next one could be bound to it as well
            return int(probe.getsockname()[1])
    raise DemoError(f"Expected a free port on {HOST}, got none. Stop something that listens there.")


def prometheus_program() -> str | None:
    """The `prometheus` binary, if there is one."""
    return shutil.which("prometheus")


def alertmanager_program() -> str | None:
    """The Alertmanager's binary, by Debian's name or by its makers', if there is one."""
    return shutil.which("prometheus-alertmanager") or shutil.which("alertmanager")


def _copy(source: Traversable, target: Path) -> None:
    for entry in source.iterdir():
        if entry.is_file():
            (target / entry.name).write_bytes(entry.read_bytes())


def _environment(settings: Mapping[str, str] = {}) -> dict[str, str]:
    """Ours, with the settings of one of the demo's services instead of the user's own."""
    found = {name: value for name, value in os.environ.items() if not name.upper().startswith("MODELWATCH_")}
    if "PYTHONPATH" in found:  # relative to here, and the processes run elsewhere
        found["PYTHONPATH"] = os.pathsep.join(map(os.path.abspath, found["PYTHONPATH"].split(os.pathsep)))
    return found | _ONE_THREAD | dict(settings)


def _signal(process: subprocess.Popen[bytes], number: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def _with_log(sentence: str, log: Path) -> str:
    try:
        lines = log.read_text("utf-8", errors="replace").strip().splitlines()
    except OSError:
        lines = []
    return "\n".join([sentence, *(f"  {line}" for line in lines[-8:])])


def _leave(number: int, _frame: FrameType | None) -> None:
    """End as an exception ends us, so that what was started ends too."""
    raise SystemExit(128 + number)


@contextmanager
def _on_signals(
    handler: Callable[[int, FrameType | None], None] | signal.Handlers, numbers: Sequence[int]
) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield  # only there can it be set; whoever runs us in another thread sees to it
        return
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
