"""A real Prometheus for tests and tools: on a free port, with a configuration, rules and storage of its own.

    with prometheus(tmp_path, targets={"bike": ["127.0.0.1:8000"]}, rules=[path]) as server:
        server.value('up{job="bike"}')

Whatever an answer is waited for, is asked for again and again; nothing here trusts that a time is long enough.
"""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

HOST = "127.0.0.1"
START_SECONDS = 60.0
PATIENCE = 60.0
_TRIES = 3  # somebody else may take the port between the look and the start
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy would not find the way back

Labels = Mapping[str, str]


class Point(NamedTuple):
    """One series of an instant query."""

    labels: dict[str, str]
    value: float


class Line(NamedTuple):
    """One series of a range query: (seconds since 1970, value) in order."""

    labels: dict[str, str]
    points: list[tuple[float, float]]


class QueryError(AssertionError):
    """Prometheus refused a query; the message is what it said, with the query."""


class Server:
    """A program that runs and answers HTTP.

    Attributes
    ----------
    url
        Where it answers, without a slash at the end.
    process, log
        What it is, and the file that its output goes to.
    """

    def __init__(self, url: str, process: subprocess.Popen[bytes], log: Path) -> None:
        self.url, self.process, self.log = url, process, log

    def until(self, found: Callable[[], Any], what: str, seconds: float = PATIENCE) -> Any:
        """What `found` returns, as soon as that is true; fails with `what` and the log after so many seconds."""
        deadline = time.monotonic() + seconds
        while not (value := found()):
            assert self.process.poll() is None, f"{type(self).__name__} ended.\n{self.tail()}"
            assert time.monotonic() < deadline, f"{what}: not within {seconds:g} s\n{self.tail()}"
            time.sleep(0.05)
        return value

    def ready(self) -> bool:
        """Whether it does what it is asked."""
        with suppress(OSError), _DIRECT.open(f"{self.url}/-/ready", timeout=PATIENCE) as response:
            return bool(response.status == 200)
        return False

    def tail(self) -> str:
        """The end of its log."""
        return "\n".join(self.log.read_text("utf-8", errors="replace").splitlines()[-15:])

    def stop(self) -> None:
        """End it, and wait until it is gone."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.process.wait()


class Prometheus(Server):
    """A Prometheus that runs."""

    def api(self, path: str, *, post: bool = False, **parameters: Any) -> Any:
        """The `data` of an answer of the API: `server.api("rules", type="alert")`."""
        pairs = [(name.removesuffix("__"), value) for name, value in parameters.items() if value is not None]
        encoded = urllib.parse.urlencode(pairs, doseq=True)
        address = f"{self.url}/api/v1/{path}"
        asked = urllib.request.Request(address, encoded.encode()) if post else f"{address}?{encoded}"
        try:
            with _DIRECT.open(asked, timeout=PATIENCE) as response:
                answer = json.load(response)
        except urllib.error.HTTPError as error:
            with error:
                answer = json.loads(error.read().decode() or "{}")
        if answer.get("status") != "success":
            raise QueryError(f"{answer.get('errorType')}: {answer.get('error')}\n  {path} {dict(pairs)}")
        return answer["data"]

    def query(self, expression: str, at: float | None = None) -> list[Point]:
        """An instant query, at a time or now. A scalar is one point without labels."""
        data = self.api("query", post=True, query=expression, time=at)
        if data["resultType"] == "scalar":
            return [Point({}, float(data["result"][1]))]
        return [Point(one["metric"], float(one["value"][1])) for one in data["result"]]

    def value(self, expression: str, at: float | None = None) -> float:
        """The only value of an instant query."""
        [point] = self.query(expression, at)
        return point.value

    def values(self, expression: str, label: str, at: float | None = None) -> dict[str, float]:
        """The values of an instant query by one label."""
        return {point.labels.get(label, ""): point.value for point in self.query(expression, at)}

    def query_range(self, expression: str, start: float, end: float, step: float) -> list[Line]:
        """A range query."""
        data = self.api("query_range", post=True, query=expression, start=start, end=end, step=step)
        return [Line(one["metric"], [(at, float(value)) for at, value in one["values"]]) for one in data["result"]]

    def label_values(self, name: str, *match: str, start: float | None = None, end: float | None = None) -> list[str]:
        """The values of a label, of the series that match."""
        return list(self.api(f"label/{name}/values", start=start, end=end, **{"match[]": list(match)}))

    def series(self, *match: str, start: float | None = None, end: float | None = None) -> list[dict[str, str]]:
        """The labels of the series that match."""
        return list(self.api("series", start=start, end=end, **{"match[]": list(match)}))

    def alerts(self) -> list[dict[str, Any]]:
        """The alerts that are pending or firing now."""
        return list(self.api("alerts")["alerts"])

    def reload(self) -> None:
        """Let it read its configuration and rules anew."""
        with _DIRECT.open(urllib.request.Request(f"{self.url}/-/reload", b""), timeout=PATIENCE):
            pass

    def tail(self) -> str:
        """The end of its log."""
        return "\n".join(self.log.read_text("utf-8", errors="replace").splitlines()[-15:])


def configuration(
    targets: Mapping[str, Sequence[str]],
    *,
    rules: Sequence[Path] = (),
    interval: str = "1s",
    alertmanagers: Sequence[str] = (),
) -> str:
    """The text of a configuration: jobs with their targets, rule files, and who is told of alerts. It is JSON."""
    jobs = [
        {"job_name": job, "scrape_interval": interval, "scrape_timeout": interval,
         "static_configs": [{"targets": list(found)}]}
        for job, found in targets.items()
    ]  # fmt: skip
    whole: dict[str, Any] = {
        "global": {"scrape_interval": interval, "scrape_timeout": interval, "evaluation_interval": interval},
        "rule_files": [str(Path(path).resolve()) for path in rules],
        "scrape_configs": jobs,
    }
    if alertmanagers:
        whole["alerting"] = {"alertmanagers": [{"static_configs": [{"targets": list(alertmanagers)}]}]}
    return json.dumps(whole, indent=1)  # which is YAML too


@contextmanager
def prometheus(
    directory: Path,
    *,
    targets: Mapping[str, Sequence[str]] | None = None,
    rules: Sequence[Path] = (),
    interval: str = "1s",
    alertmanagers: Sequence[str] = (),
    config: str | None = None,
    storage: Path | None = None,
    options: Sequence[str] = (),
) -> Iterator[Prometheus]:
    """A Prometheus that is ready; afterwards it is gone.

    Parameters
    ----------
    directory
        Where its configuration, its log and, without `storage`, its data are.
    targets, rules, interval, alertmanagers
        As of `configuration`; or `config`, the whole text of it.
    storage
        Directory of data that are there already.
    options
        Further options of its command line.
    """
    server = start(
        directory,
        config=configuration(targets or {}, rules=rules, interval=interval, alertmanagers=alertmanagers)
        if config is None
        else config,
        storage=storage,
        options=options,
    )
    try:
        yield server
    finally:
        server.stop()


def start(directory: Path, *, config: str, storage: Path | None = None, options: Sequence[str] = ()) -> Prometheus:
    """Start a Prometheus that whoever starts it also stops; returns when it is ready."""
    program = shutil.which("prometheus")
    assert program is not None, "Expected the `prometheus` program on PATH. Run tools/ensure_programs.sh."
    directory.mkdir(parents=True, exist_ok=True)
    file, log = directory / "prometheus.yml", directory / "prometheus.log"
    file.write_text(config, "utf-8")
    for attempt in range(_TRIES):
        port = free_port()
        command = [
            program,
            f"--config.file={file}",
            f"--storage.tsdb.path={storage or directory / 'data'}",
            f"--web.listen-address={HOST}:{port}",
            "--storage.tsdb.retention.time=100y",  # what tests load may be of any year
            "--web.enable-lifecycle",
            "--log.level=info",
            *options,
        ]
        with open(log, "wb") as output:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches only us, and we end it
            )
        server = Prometheus(f"http://{HOST}:{port}", process, log)
        try:
            server.until(server.ready, "Prometheus starts", START_SECONDS)
        except BaseException:
            server.stop()
            if attempt + 1 < _TRIES and "address already in use" in server.tail():
                continue
            raise
        return server
    raise AssertionError("not reached")


def free_port() -> int:
    """A port of the loopback interface that nobody listens on."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])
