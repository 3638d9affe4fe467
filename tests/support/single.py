"""One uvicorn with one worker for tests that look closely: at its wire, and at how fast it answers."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from re import search

from . import serving
from .serving import HOST, PATIENCE


class Single:
    """A server that runs."""

    def __init__(self, port: int, process: subprocess.Popen, log: Path) -> None:
        self.port, self.process, self._log = port, process, log

    @property
    def log(self) -> str:
        """All that it has printed."""
        return self._log.read_text("utf-8", errors="replace")

    @property
    def resident(self) -> int:
        """Bytes of memory that it has in use."""
        status = Path(f"/proc/{self.process.pid}/status").read_text("ascii")
        return int(status.partition("VmRSS:")[2].split()[0]) * 1024

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> serving.Answer:
        """GET over a connection of its own."""
        connection = serving.Connection(self.port)
        try:
            return connection.get(path, headers)
        finally:
            connection.close()

    def scrape(self) -> serving.Scrape:
        """The metrics."""
        started = time.perf_counter()
        return serving.Scrape(self.get("/metrics"), time.perf_counter() - started)

    def raw(self, content: bytes) -> bytes:
        """What comes back over a connection on which just this is sent, until the server ends it."""
        with socket.create_connection((HOST, self.port), timeout=PATIENCE) as client:
            client.sendall(content)
            found = b""
            with suppress(ConnectionResetError):
                while more := client.recv(65_536):
                    found += more
        return found


@contextmanager
def uvicorn(app: str, directory: Path, *, http: str = "auto", env: Mapping[str, str] | None = None) -> Iterator[Single]:
    """A uvicorn that answers; `app` is a module of this directory. Afterwards it is gone."""
    options = ["--host", HOST, "--port", "0", "--http", http, "--no-access-log", "--timeout-keep-alive", "60"]
    log = directory / "uvicorn.log"
    with open(log, "wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "uvicorn", app, *options],
            cwd=directory,
            env=serving.environment(directory, "", env or {}),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    server = Single(0, process, log)
    try:

        def looked() -> int:
            assert process.poll() is None, server.log[-3000:]
            found = search(r"Uvicorn running on http://127\.0\.0\.1:(\d+)", server.log)
            return int(found[1]) if found else 0

        server.port = serving.until(looked, "uvicorn listens", serving.START_SECONDS)
        yield server
    finally:
        serving.end_group(process.pid)
        process.wait()


class Probe:
    """Asks for a small thing again and again over one connection, as a liveness probe does, and times the answers.

    Attributes
    ----------
    seconds
        How long each answer took.
    """

    def __init__(self, port: int, path: str = "/ping", pause: float = 0.005) -> None:
        self.seconds: list[float] = []
        self._pause, self._over = pause, threading.Event()
        self._client = socket.create_connection((HOST, port), timeout=PATIENCE)
        self._client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._request = f"GET {path} HTTP/1.1\r\nhost: {HOST}\r\n\r\n".encode()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Probe:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._client.close()

    def _run(self) -> None:
        while not self._over.is_set():
            started = time.perf_counter()
            self._client.sendall(self._request)
            answer = b""
            while not answer.endswith(b"true"):
                answer += self._client.recv(4096)
            self.seconds.append(time.perf_counter() - started)
            assert answer.startswith(b"HTTP/1.1 200 ")
            time.sleep(self._pause)


def quantile(numbers: list[float], share: float) -> float:
    """The smallest of the numbers that is not below so large a share of them."""
    return sorted(numbers)[min(int(share * len(numbers)), len(numbers) - 1)]
