"""A real Alertmanager for tests: on a free port of the loopback interface, alone, with storage of its own.

with alertmanager(tmp_path, config=Path("grafana/alertmanager.yml")) as server:
    server.post([{"alertname": "Broken", "severity": "critical"}])
    server.alerts()
"""

from __future__ import annotations

import json
import shutil
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from support.prometheus import HOST, free_port

START_SECONDS = 60.0
PATIENCE = 30.0
_TRIES = 3  # somebody else may take the port between the look and the start
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy would not find the way back


def program() -> str | None:
    """The program, by the name that Debian or its makers give it."""
    return shutil.which("prometheus-alertmanager") or shutil.which("alertmanager")


class Alertmanager:
    """A server that runs.

    Attributes
    ----------
    url
        Where it answers, without a slash at the end.
    process, log
        What it is, and the file that its output goes to.
    """

    def __init__(self, url: str, process: subprocess.Popen[bytes], log: Path) -> None:
        self.url, self.process, self.log = url, process, log

    def post(self, alerts: Sequence[Mapping[str, str]]) -> None:
        """Let alerts with these labels fire from now on."""
        body = json.dumps([{"labels": dict(labels)} for labels in alerts]).encode()
        asked = urllib.request.Request(f"{self.url}/api/v2/alerts", body, {"content-type": "application/json"})
        with _DIRECT.open(asked, timeout=PATIENCE) as response:
            assert response.status == 200

    def alerts(self, **filters: str) -> list[dict[str, Any]]:
        """The alerts that it has, as its API tells them; `inhibited="false"` and the like leave some out."""
        with _DIRECT.open(f"{self.url}/api/v2/alerts?{urllib.parse.urlencode(filters)}", timeout=PATIENCE) as response:
            return list(json.load(response))

    def until(self, found: Callable[[], Any], what: str, seconds: float = PATIENCE) -> Any:
        """What `found` returns, as soon as that is true; fails with `what` and the log after so many seconds."""
        deadline = time.monotonic() + seconds
        while not (value := found()):
            assert self.process.poll() is None, f"Alertmanager ended.\n{self.tail()}"
            assert time.monotonic() < deadline, f"{what}: not within {seconds:g} s\n{self.tail()}"
            time.sleep(0.02)
        return value

    def ready(self) -> bool:
        """Whether it takes alerts."""
        with suppress(OSError), _DIRECT.open(f"{self.url}/-/ready", timeout=PATIENCE) as response:
            return bool(response.status == 200)
        return False

    def tail(self) -> str:
        """The end of its log."""
        return "\n".join(self.log.read_text("utf-8", errors="replace").splitlines()[-15:])

    def stop(self) -> None:
        """End it, and wait until it is gone."""
        self.process.terminate()
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@contextmanager
def alertmanager(directory: Path, *, config: Path) -> Iterator[Alertmanager]:
    """An Alertmanager that is ready; afterwards it is gone.

    Parameters
    ----------
    directory
        Where its log and its data are.
    config
        Its configuration.
    """
    name = program()
    assert name is not None, "Expected the program `prometheus-alertmanager` on PATH. Run tools/ensure_programs.sh."
    directory.mkdir(parents=True, exist_ok=True)
    for attempt in range(_TRIES):
        server = _started(name, directory, config)
        try:
            server.until(server.ready, "Alertmanager starts", START_SECONDS)
        except BaseException:
            server.stop()
            if attempt + 1 < _TRIES and "address already in use" in server.tail():
                continue
            raise
        break
    try:
        yield server
    finally:
        server.stop()


def _started(name: str, directory: Path, config: Path) -> Alertmanager:
    port, log = free_port(), directory / "alertmanager.log"
    command = [
        name,
        f"--config.file={config}",
        f"--storage.path={directory / 'alertmanager'}",
        f"--web.listen-address={HOST}:{port}",
        "--cluster.listen-address=",  # alone: without it, it looks for others
    ]
    with open(log, "wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches only us, and we end it
        )
    return Alertmanager(f"http://{HOST}:{port}", process, log)
