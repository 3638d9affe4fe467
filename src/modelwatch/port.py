"""The metrics on a port of their own: from a thread, so that no event loop needs to be awake for a scrape.

::

    client ─► accept (one thread) ─► a thread for each connection, at most eight ─► Exposition.answer ─► close
                     └ more: closed at once, counted

It is a small server on purpose: one request a connection, GET and HEAD of a few paths, and a bound on everything that a
client may choose: connections, bytes, time.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
import weakref
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Protocol

from .answering import Answer
from .guard import Guard

MOST_CONNECTIONS = 8
PATIENCE_SECONDS = 10.0
_LONGEST_HEAD = 16_384
_LINGER_SECONDS = 1.0
_AFTER_FAILURE_SECONDS = 0.5
_OPEN: weakref.WeakSet[Port] = weakref.WeakSet()


class Answering(Protocol):
    """What makes a page: an Exposition, or a part of the live page."""

    def answer(self, method: str, headers: Iterable[tuple[bytes, bytes]], query: bytes) -> Answer:
        """Answer one request; may take its time."""


class Port:
    """Serves the metrics from a thread of its own.

    Parameters
    ----------
    exposition
        Makes the pages, and asks for the token.
    host, port
        Where to listen; port 0 lets the system choose.
    path
        Of the metrics.
    guard
        Counts at stage "scrape": connections that are turned away, and errors of the server itself.
    pages
        What else answers, by path; all others are not found.
    patience
        Seconds that a client has to send its request, and again to take the answer.

    Notes
    -----
    Threads: `open` and `close` from one at a time. Processes: one listens; a child that it forks closes its copy of the
    sockets and leaves the parent's alone.
    """

    def __init__(
        self,
        exposition: Answering,
        host: str,
        port: int,
        path: str,
        guard: Guard,
        *,
        pages: Mapping[str, Answering] | None = None,
        patience: float = PATIENCE_SECONDS,
    ) -> None:
        self._guard, self._patience = guard, patience
        self._host, self._asked = host, port
        self._pages = {where.encode(): one for where, one in {path: exposition, **(pages or {})}.items()}
        self._forget()
        _OPEN.add(self)

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._listener: socket.socket | None = None
        self._thread: threading.Thread | None = None
        self._connections: set[socket.socket] = set()

    @property
    def port(self) -> int | None:
        """Where it listens; None while it does not."""
        listener = self._listener
        return None if listener is None else int(listener.getsockname()[1])

    def open(self) -> None:
        """Listen. A port that is open already stays so.

        Raises
        ------
        OSError
            The address cannot be bound: another process has it, or it is none of this machine.
        RuntimeError
            No thread can be started.
        """
        if self._listener is not None:
            return
        listener = _listening(self._host, self._asked)
        thread = threading.Thread(target=self._accept, args=(listener,), name="modelwatch-port", daemon=True)
        self._listener, self._thread = listener, thread
        try:
            thread.start()
        except RuntimeError:
            self._forget()
            listener.close()
            raise

    def close(self) -> None:
        """Listen no longer, and cut off who is connected. It may be opened again."""
        listener, thread, connections = self._listener, self._thread, list(self._connections)
        if listener is None:
            return
        self._forget()
        for one in (listener, *connections):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)  # wakes the thread that waits there; `close` alone does not
        listener.close()
        if thread is not None and thread is not threading.current_thread():
            thread.join(self._patience)

    def forked(self) -> None:
        """Close this process' copies of the parent's sockets: in a child that was just forked. The parent goes on."""
        sockets = [self._listener, *self._connections]
        self._forget()
        for one in sockets:
            if one is not None:
                with contextlib.suppress(OSError):
                    one.close()

    def _accept(self, listener: socket.socket) -> None:
        while listener is self._listener:
            try:
                connection, _ = listener.accept()
            except Exception as error:  # noqa: BLE001 - no file is free, say; the next one may be
                if listener is self._listener:
                    self._guard.swallow("scrape", error)
                    time.sleep(_AFTER_FAILURE_SECONDS)
                continue
            try:
                self._admit(connection)
            except Exception as error:  # noqa: BLE001 - one connection less
                self._guard.swallow("scrape", error)
                self._end(connection)

    def _admit(self, connection: socket.socket) -> None:
        with self._lock:
            if len(self._connections) >= MOST_CONNECTIONS:
                raise ConnectionError(f"{MOST_CONNECTIONS} scrapes are being answered; one more was turned away")
            self._connections.add(connection)
        threading.Thread(target=self._serve, args=(connection,), name="modelwatch-port-client", daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            head = _read(connection, self._patience)
            if head:
                connection.settimeout(self._patience)
                connection.sendall(self._response(head))
                _linger(connection)
        except OSError:
            pass  # the client has gone, or takes its time: there is nobody to tell
        except Exception as error:  # noqa: BLE001 - one answer less
            self._guard.swallow("scrape", error)
        finally:
            self._end(connection)

    def _end(self, connection: socket.socket) -> None:
        with self._lock:
            self._connections.discard(connection)
        connection.close()

    def _response(self, head: bytes) -> bytes:
        answer = self._answer(head)
        lines = [b"HTTP/1.1 %d %s" % (answer.status, HTTPStatus(answer.status).phrase.encode())]
        lines += [name + b": " + value for name, value in answer.headers]
        return b"\r\n".join([*lines, b"connection: close", b"", answer.body])

    def _answer(self, head: bytes) -> Answer:
        request = _parsed(head)
        if request is None and len(head) >= _LONGEST_HEAD:
            return _refusal(431, b"This request is too long.\n")
        if request is None:
            return _refusal(400, b"This is not a request of HTTP/1.1.\n")
        method, target, headers = request
        path, _, query = target.partition(b"?")
        page = self._pages.get(path)
        if page is None:
            return _refusal(404, b"Here is only " + b", ".join(self._pages) + b".\n", head=method == "HEAD")
        return page.answer(method, headers, query)


def _listening(host: str, port: int) -> socket.socket:
    """A socket that listens. Python marks it as not to be inherited by other programs."""
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, _, _, _, address = found[0]
    both = family == socket.AF_INET6 and address[0] == "::" and socket.has_dualstack_ipv6()
    return socket.create_server(address[:2], family=family, backlog=MOST_CONNECTIONS * 2, dualstack_ipv6=both)


def _read(connection: socket.socket, patience: float) -> bytes:
    """The head of a request; empty from who sends nothing, and the beginning of one that is too long."""
    deadline = time.monotonic() + patience
    head = b""
    while b"\r\n\r\n" not in head and len(head) < _LONGEST_HEAD:
        connection.settimeout(max(deadline - time.monotonic(), 0.001))
        more = connection.recv(4096)
        if not more:
            return head
        head += more
    return head


def _parsed(head: bytes) -> tuple[str, bytes, list[tuple[bytes, bytes]]] | None:
    """Method, target and headers; None if it is no whole head of a request."""
    whole, end, _ = head.partition(b"\r\n\r\n")
    first, *lines = whole.split(b"\r\n")
    parts = first.split(b" ")
    if not end or len(parts) != 3 or not parts[2].startswith(b"HTTP/1.") or not parts[0].isalpha():
        return None
    method, target, _ = parts
    headers = []
    for line in lines:
        name, colon, value = line.partition(b":")
        if not colon or not name or name != name.strip():
            return None
        headers.append((name.lower(), value.strip()))
    if target.lower().startswith(b"http://"):  # as a client sends it that takes us for a proxy
        target = b"/" + target[len(b"http://") :].partition(b"/")[2]
    return method.decode(), target, headers


def _linger(connection: socket.socket) -> None:
    """Say that this was all, and wait for the client to go: with bytes unread, closing would destroy the answer."""
    connection.shutdown(socket.SHUT_WR)
    deadline = time.monotonic() + _LINGER_SECONDS
    while (left := deadline - time.monotonic()) > 0:
        connection.settimeout(left)
        if not connection.recv(65_536):
            return


def _refusal(status: int, message: bytes, *, head: bool = False) -> Answer:
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"%d" % len(message))]
    return Answer(status, headers, b"" if head else message)


def _forked() -> None:
    for port in list(_OPEN):
        port.forked()


os.register_at_fork(after_in_child=_forked)
