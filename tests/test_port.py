"""The metrics' own port: what clients of all kinds get from it, and that it ends, forks and fails without harm."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gzip
import http.client
import os
import signal
import socket
import threading
import time

import pytest
from prometheus_client import Gauge
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics

from modelwatch.exposition import Answer, Exposition
from modelwatch.guard import Guard
from modelwatch.metrics.registry import Registry
from modelwatch.port import MOST_CONNECTIONS, Port
from modelwatch.settings import Settings

HOST = "127.0.0.1"
PATIENCE = 30.0


def until(found):
    deadline = time.monotonic() + PATIENCE
    while not found():
        assert time.monotonic() < deadline
        time.sleep(0.002)


@pytest.fixture
def guard():
    return Guard()


@pytest.fixture
def ours(guard):
    registry = Registry(guard)
    Gauge("depth", "Depth.", registry=registry).set(3)
    return registry


@pytest.fixture
def opened(guard):
    """Opens ports, and closes them when the test ends."""
    ports = []

    def open_port(exposition, host=HOST, port=0, **options):
        ports.append(Port(exposition, host, port, "/metrics", guard, **options))
        ports[-1].open()
        return ports[-1]

    yield open_port
    for port in ports:
        port.close()
    until(lambda: not threads())


@pytest.fixture
def port(ours, guard, opened):
    """A port that shows one gauge, `depth` 3."""
    return opened(Exposition(ours, Settings(), guard))


def threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("modelwatch-port")]


def get(port, target="/metrics", method="GET", **headers):
    connection = http.client.HTTPConnection(HOST, port.port, timeout=PATIENCE)
    try:
        connection.request(method, target, headers={name.replace("_", "-"): value for name, value in headers.items()})
        response = connection.getresponse()
        return response.status, response.headers, response.read()
    finally:
        connection.close()


def raw(port, content, *, end=True):
    """All that a client gets who sends just this."""
    with socket.create_connection((HOST, port.port), timeout=PATIENCE) as client:
        client.sendall(content)
        if end:
            client.shutdown(socket.SHUT_WR)
        return everything(client)


def everything(client):
    found = b""
    with contextlib.suppress(ConnectionResetError):
        while more := client.recv(65_536):
            found += more
    return found


def test_it_serves_the_page(port):
    """GET of the path gets the page, one response a connection."""
    status, headers, body = get(port)
    assert status == 200
    assert b"depth 3.0" in body
    assert headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert headers["connection"] == "close"


def test_it_negotiates_like_the_app(port, ours):
    """Format, compression and the filter of names are those of the exposition."""
    for number in range(60):
        Gauge(f"filler_{number}", "Makes the page long.", registry=ours)
    status, headers, body = get(port, accept="application/openmetrics-text", accept_encoding="gzip")
    assert status == 200
    assert headers["content-encoding"] == "gzip"
    assert len(list(parse_openmetrics(gzip.decompress(body).decode()))) == 61
    assert get(port, "/metrics?name[]=depth")[2].splitlines()[-1] == b"depth 3.0"


def test_head_has_no_body(port):
    """HEAD gets the headers of GET and no body."""
    status, headers, body = get(port, method="HEAD")
    assert (status, body) == (200, b"")
    assert headers["content-length"] == str(len(get(port)[2]))


@pytest.mark.parametrize(
    "target", ["/", "/metrics/", "/metricsx", "/Metrics", "/%6detrics", "*", "/a?/metrics", "/../metrics"]
)
def test_other_paths_are_not_found(port, target):
    """There is one path."""
    status, headers, body = get(port, target)
    assert status == 404
    assert b"depth" not in body
    assert int(headers["content-length"]) == len(body)
    assert get(port, "/other", method="HEAD")[0] == 404


@pytest.mark.parametrize("method", ["POST", "DELETE", "OPTIONS", "BREW"])
def test_other_methods_are_refused(port, method):
    """Only GET and HEAD are answered."""
    assert get(port, method=method)[0] == 405


def test_a_client_that_takes_it_for_a_proxy_is_served(port):
    """A whole address as target is the path in it."""
    assert get(port, "http://elsewhere/metrics?name[]=depth")[0] == 200
    assert get(port, "http://elsewhere/other")[0] == 404
    assert get(port, "http://elsewhere")[0] == 404


def test_the_token_is_asked_for(ours, guard, opened):
    """With a token in the settings the page wants it, here too."""
    port = opened(Exposition(ours, Settings(metrics_token="s3cret"), guard))
    for headers in ({}, {"authorization": "Bearer s3cres"}):
        status, shown, body = get(port, **headers)
        assert (status, shown["www-authenticate"]) == (401, "Bearer")
        assert b"depth" not in body
    assert get(port, authorization="Bearer s3cret")[0] == 200


@pytest.mark.parametrize(
    "content",
    [
        b"\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET /metrics\r\n\r\n",
        b"GET /metrics HTTP/2\r\n\r\n",
        b"GET  /metrics HTTP/1.1\r\n\r\n",
        b"G\x00T /metrics HTTP/1.1\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\nno colon\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\n: no name\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\na : b\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\na: b\r\n folded: c\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)) + b"\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
)
def test_what_is_no_request_is_refused(port, content):
    """Rubbish, TLS, HTTP/2 and half a request get 400, and the next client its page."""
    assert raw(port, content).startswith(b"HTTP/1.1 400 ")
    assert get(port)[0] == 200


def test_a_request_that_is_too_long_is_refused(port):
    """A head of more than 16 KiB is not read to its end."""
    assert raw(port, b"GET /metrics HTTP/1.1\r\nx: " + b"y" * 2**20, end=False).startswith(b"HTTP/1.1 431 ")
    assert get(port)[0] == 200


def test_a_second_request_on_a_connection_is_not_read(port):
    """What a client sends after its request is passed over: one response, then the connection ends."""
    request = b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n"
    assert raw(port, request * 3).count(b"HTTP/1.1 200 ") == 1


def test_a_request_may_come_in_parts(port):
    """A client that sends byte by byte is served."""
    with socket.create_connection((HOST, port.port), timeout=PATIENCE) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in b"GET /metrics HTTP/1.0\r\n\r\n":
            client.sendall(bytes([byte]))
        assert b"depth 3.0" in everything(client)


def test_a_client_that_says_nothing_is_left(ours, guard, opened):
    """Who has not sent a request in time is cut off, also one that sends a little again and again."""
    port = opened(Exposition(ours, Settings(), guard), patience=0.3)
    with socket.create_connection((HOST, port.port), timeout=PATIENCE) as silent:
        assert everything(silent) == b""
    with socket.create_connection((HOST, port.port), timeout=PATIENCE) as trickling:
        until(lambda: is_cut_off(trickling))
    assert get(port)[0] == 200
    until(lambda: not port._connections)


def is_cut_off(client):
    """Whether the other side has closed, seen by who sends one byte more."""
    try:
        client.sendall(b"x")
    except OSError:
        return True
    return False


class Held:
    """An exposition that answers once it is let go, with so many bytes."""

    def __init__(self, size=10, go=True):
        self.size, self.begun, self.go, self.threads = size, threading.Semaphore(0), threading.Event(), set()
        if go:
            self.go.set()

    def answer(self, method, headers, query):
        self.threads.add(threading.current_thread())
        self.begun.release()
        assert self.go.wait(PATIENCE)
        return Answer(200, [(b"content-length", b"%d" % self.size)], b"x" * self.size)


def test_a_body_does_no_harm(opened):
    """Who brings a body, which is not read, gets the whole answer, however long that is."""
    port = opened(Held(size=5_000_000))
    content = b"GET /metrics HTTP/1.1\r\ncontent-length: 50000\r\n\r\n" + b"x" * 50_000
    assert len(raw(port, content)) > 5_000_000


def test_a_client_that_does_not_read_is_left(opened):
    """Who does not take the answer in time is cut off, and the thread is free."""
    port = opened(Held(size=50_000_000), patience=0.3)
    with socket.create_connection((HOST, port.port), timeout=PATIENCE) as client:
        client.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        until(lambda: port._connections)
        until(lambda: not port._connections)


@pytest.mark.swallows
def test_connections_are_bounded(opened, guard):
    """Eight are served at once, the ninth is closed at once and counted, and when they end there is room again."""
    held = Held(go=False)
    port = opened(held)
    clients = [socket.create_connection((HOST, port.port), timeout=PATIENCE) for _ in range(MOST_CONNECTIONS)]
    try:
        for client in clients:
            client.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
            assert held.begun.acquire(timeout=PATIENCE)
        for turned_away in range(1, 21):
            assert raw(port, b"") == b""
            until(lambda n=turned_away: guard.errors["scrape"] == n)
        assert len(threads()) == MOST_CONNECTIONS + 1
        held.go.set()
        assert all(everything(client).startswith(b"HTTP/1.1 200 OK\r\n") for client in clients)
    finally:
        held.go.set()
        for client in clients:
            client.close()
    until(lambda: not port._connections)
    assert get(port)[0] == 200


def test_nobody_is_left_of_many(port):
    """Hundreds of clients, some of which leave at once, leave no thread and no open file."""
    get(port)
    files = len(os.listdir("/proc/self/fd"))
    for turn in range(200):
        if turn % 2:
            assert get(port)[0] == 200
        else:
            socket.create_connection((HOST, port.port), timeout=PATIENCE).close()
    until(lambda: len(threads()) == 1)
    until(lambda: len(os.listdir("/proc/self/fd")) <= files)


class Counting(Exposition):
    """An exposition that tells how many wait for a page."""

    def __init__(self, *args):
        super().__init__(*args)
        self.joined = threading.Semaphore(0)

    def _join(self, wish):
        future = super()._join(wish)
        self.joined.release()
        return future


def test_eight_at_once_cost_two_renderings(ours, guard, opened):
    """The first of eight scrapes is rendered, and the seven that come meanwhile share the next rendering."""
    go, begun, asked = threading.Event(), threading.Event(), []

    class Slow:
        def collect(self):
            asked.append(1)
            begun.set()
            assert go.wait(PATIENCE)
            return []

    ours.register(Slow())
    exposition = Counting(ours, Settings(), guard)
    port = opened(exposition)
    statuses = []
    clients = [threading.Thread(target=lambda: statuses.append(get(port)[0])) for _ in range(8)]
    clients[0].start()
    assert begun.wait(PATIENCE)
    for client in clients[1:]:
        client.start()
    for _ in clients:
        assert exposition.joined.acquire(timeout=PATIENCE)
    go.set()
    for client in clients:
        client.join(PATIENCE)
    assert statuses == [200] * 8
    assert len(asked) == 2


def test_it_works_while_the_event_loop_sleeps(port):
    """A scrape is answered while an event loop is held up, as by a model that computes in a coroutine."""
    blocked, go = threading.Event(), threading.Event()

    async def endpoint():
        blocked.set()
        assert go.wait(PATIENCE)

    loop = threading.Thread(target=lambda: asyncio.run(endpoint()))
    loop.start()
    assert blocked.wait(PATIENCE)
    try:
        assert b"depth 3.0" in get(port)[2]
        assert loop.is_alive()
    finally:
        go.set()
        loop.join(PATIENCE)


@pytest.mark.swallows
def test_an_error_of_the_exposition_costs_one_answer(opened, guard):
    """What goes wrong while a page is made is counted; that client gets nothing and the next one its page."""

    class Failing(Held):
        def answer(self, method, headers, query):
            if not self.threads:
                self.threads.add(1)
                raise ZeroDivisionError
            return super().answer(method, headers, query)

    port = opened(Failing())
    assert raw(port, b"GET /metrics HTTP/1.1\r\n\r\n") == b""
    assert guard.errors["scrape"] == 1
    assert get(port)[0] == 200


@pytest.mark.swallows
def test_without_threads_a_client_is_turned_away(port, guard, monkeypatch):
    """Where no thread can be started for a client it is turned away and counted, and the port goes on."""

    def refuse(thread):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        assert raw(port, b"") == b""
        until(lambda: guard.errors["scrape"] == 1)
    assert get(port)[0] == 200
    until(lambda: not port._connections)


@pytest.mark.swallows
def test_a_machine_without_files_is_waited_for(port, guard, monkeypatch):
    """When no connection can be accepted the port does not spin, and goes on once it can."""
    calls = []
    accept = socket.socket.accept

    def failing(listener):
        calls.append(time.monotonic())
        if len(calls) <= 2:
            raise OSError(errno.EMFILE, "Too many open files")
        return accept(listener)

    monkeypatch.setattr(socket.socket, "accept", failing)
    get(port)  # takes it out of the accept in which it waits
    assert get(port)[0] == 200
    assert guard.errors["scrape"] == 2
    assert calls[2] - calls[0] > 0.5


def test_a_port_that_is_taken_is_an_error(port, ours, guard):
    """A second one cannot listen where the first does, also in the same process, and the first goes on."""
    second = Port(Exposition(ours, Settings(), guard), HOST, port.port, "/metrics", guard)
    for _ in range(3):
        with pytest.raises(OSError, match="in use"):
            second.open()
        assert second.port is None
    second.close()
    assert get(port)[0] == 200


@pytest.mark.parametrize("host", ["192.0.2.1", "no such host", "host.invalid"])
def test_an_address_of_another_machine_is_an_error(host, guard):
    """An address that is none of this machine's is refused when it is opened."""
    with pytest.raises(OSError):  # noqa: PT011 - its text is the system's
        Port(Held(), host, 0, "/metrics", guard).open()


def test_without_threads_it_is_not_open(guard, monkeypatch):
    """Where the thread of the port cannot be started, `open` says so and nobody listens."""

    def refuse(thread):
        raise RuntimeError("can't start new thread")

    port = Port(Held(), HOST, 0, "/metrics", guard)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="thread"):
            port.open()
    assert port.port is None
    port.open()
    assert get(port)[0] == 200
    port.close()


def test_closing_ends_it(ours, guard):
    """After `close` nobody listens, no thread is left, and the same port can be opened at once."""
    port = Port(Exposition(ours, Settings(), guard), HOST, 0, "/metrics", guard)
    port.close()
    port.open()
    number = port.port
    port.open()
    assert port.port == number
    assert get(port)[0] == 200
    with socket.create_connection((HOST, number), timeout=PATIENCE) as waiting:
        until(lambda: port._connections)
        port.close()
        port.close()
        assert everything(waiting) == b""
    assert port.port is None
    until(lambda: not threads())
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((HOST, number), timeout=PATIENCE)
    again = Port(Exposition(ours, Settings(), guard), HOST, number, "/metrics", guard)
    again.open()
    assert get(again)[0] == 200
    again.close()
    assert guard.errors["scrape"] == 0


def test_version_6_serves_both_where_it_is_everything(ours, guard, opened):
    """On `::` clients of both versions of the internet protocol are served."""
    try:
        port = opened(Exposition(ours, Settings(), guard), host="::")
    except OSError:
        pytest.skip("this machine has no IPv6")
    assert get(port)[0] == 200
    with socket.create_connection(("::1", port.port), timeout=PATIENCE) as client:
        client.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        assert everything(client).startswith(b"HTTP/1.1 200 ")


def test_sockets_are_not_inherited(port):
    """A program that the service starts does not get the socket."""
    assert not port._listener.get_inheritable()


@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
def test_a_forked_child_leaves_the_port_to_its_parent(opened, guard):
    """A child closes its copies, has no port, and can wait for the number; the parent's clients notice nothing."""
    held = Held(go=False)
    port = opened(held)
    number, told = port.port, os.pipe()
    client = socket.create_connection((HOST, number), timeout=PATIENCE)
    client.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
    assert held.begun.acquire(timeout=PATIENCE)
    with port._lock:
        child = os.fork()
        if child == 0:  # pragma: no cover - another process
            code = 1
            try:
                code = 0 if port.port is None and not port._connections and sockets_to(number) == [] else 2
                port.close()
                try:
                    port._asked = number
                    port.open()
                    code = 3
                except OSError:
                    os.write(told[1], b"%d" % code)
                time.sleep(PATIENCE)  # it lives on while the parent serves
            finally:
                os._exit(code)
    try:
        assert os.read(told[0], 1) == b"0"
        held.go.set()
        assert everything(client).startswith(b"HTTP/1.1 200 ")
        client.close()
        assert get(port)[0] == 200
        port.close()
        until(lambda: refused(number))  # though the child, which had copies, is still there
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(told[0])
        os.close(told[1])


def refused(number):
    try:
        socket.create_connection((HOST, number), timeout=PATIENCE).close()
    except ConnectionRefusedError:
        return True
    return False


def sockets_to(number):
    """Open sockets of this process whose own end is that port."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError, ValueError), socket.socket(fileno=os.dup(int(name))) as one:
            if one.getsockname()[1:2] == (number,):
                found.append(name)
    return found


def test_a_child_of_a_closed_port_has_none(ours, guard):
    """`forked` does nothing where nothing is open, and may be called again."""
    port = Port(Exposition(ours, Settings(), guard), HOST, 0, "/metrics", guard)
    port.forked()
    port.forked()
    assert port.port is None
