"""A real Alertmanager for tests: on a free port of the loopback interface, alone, with storage of its own.

with alertmanager(tmp_path, config=Path("grafana/alertmanager.yml")) as server:
    server.post([{"alertname": "Broken", "severity": "critical"}])
    server.alerts()
"""

from __future__ import annotations

import json
import shutil
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from support.prometheus import HOST, Server, free_port

START_SECONDS = 60.0
PATIENCE = 30.0
_TRIES = 3  # somebody else may take the port between the look and the start
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy would not find the way back


def program() -> str | None:
    """The program, by the name that Debian or its makers give it."""
    return shutil.which("prometheus-alertmanager") or shutil.which("alertmanager")


class Alertmanager(Server):
    """An Alertmanager that runs."""

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

    def ready(self) -> bool:
        """Whether it takes alerts."""
        with suppress(OSError), _DIRECT.open(f"{self.url}/-/ready", timeout=PATIENCE) as response:
            return bool(response.status == 200)
        return False


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
