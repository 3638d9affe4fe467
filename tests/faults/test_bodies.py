"""Real servers and the bytes that clients write to them: answers are those of the bare app, whatever comes and goes."""

from __future__ import annotations

import asyncio
import re
import socket
import struct
import sys
import threading
import time
from contextlib import suppress

import psutil
import pytest
from support import fuzz

KINDS = ("httptools", "h11", "hypercorn", "granian")
CASES = fuzz.cases()
ALL_OF = {"httptools", "h11"}  # the others see every eighth case, and all in the soak
PATIENCE = 20.0


class Pair:
    """The bare and the watched service under one kind of server."""

    def __init__(self, kind, bare, watched):
        self.kind, self.bare, self.watched = kind, bare, watched

    def ask(self, path, server=None):
        """The body of an answer."""
        case = fuzz.Case(path, fuzz.http(path, method="GET"))
        return asyncio.run(fuzz.answers((server or self.watched).port, [case]))[0].partition(b"\r\n\r\n")[2].decode()

    def agrees_on(self, case):
        """Whether both answer alike if there is time: one that had to wait for its turn may have been given up."""
        return len({asyncio.run(fuzz.answers(one.port, [case], 10))[0] for one in (self.bare, self.watched)}) == 1

    def counted(self, server=None, what="requests"):
        """How many requests the service saw, or how many are running."""
        return int(re.search(rf'"{what}":(\d+)', self.ask("/counted", server))[1])

    def samples(self):
        """(name, labels as text, value) of all that the watched service shows."""
        found = re.findall(r"^(\w+)(?:\{(.*)\})? (\S+)$", self.ask("/metrics"), re.MULTILINE)
        return [(name, labels, float(value)) for name, labels, value in found]

    def total(self, name, *parts):
        """Sum of the samples of a name whose labels hold these texts."""
        return sum(
            value for one, labels, value in self.samples() if one == name and all(part in labels for part in parts)
        )

    def own_errors(self):
        """Errors of the library, but for collections in the deepest recursion of a client's JSON: no room to count."""
        name = "modelwatch_internal_errors_total"
        return self.total(name) - self.total(name, "tick")

    def settled(self):
        """Whether what runs is what is shown to run, and no more than in the bare service: hypercorn forgets some."""
        names = ("http_server_active_requests", "http_server_active_websockets")
        shown = sum(value for name, _, value in self.samples() if name in names)
        running = self.counted(what="running")
        return shown == running == self.counted(self.bare, "running") and self.total("model_requests_in_progress") == 0

    def files(self):
        """How many files the watched server and its children have open."""
        process = psutil.Process(self.watched.process.pid)
        return sum(one.num_fds() for one in (process, *process.children(recursive=True)))


@pytest.fixture(scope="module", params=KINDS)
def pair(request, tmp_path_factory):
    """Two servers, started once for all tests of a kind."""
    directory = tmp_path_factory.mktemp("shared")
    with (
        fuzz.serving(request.param, directory, watched=False) as bare,
        fuzz.serving(request.param, directory, watched=True) as watched,
    ):
        yield Pair(request.param, bare, watched)


def until(found, what):
    """Wait until it is true."""
    deadline = time.monotonic() + PATIENCE
    while not found():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def compare(pair, cases):
    """Send cases to both; how many answers there were."""
    before = pair.counted(pair.bare), pair.counted()
    bare = asyncio.run(fuzz.answers(pair.bare.port, cases))
    watched = asyncio.run(fuzz.answers(pair.watched.port, cases))
    for case, expected, found in zip(cases, bare, watched, strict=True):
        assert found == expected or pair.agrees_on(case), (case, expected, found)
    until(pair.settled, "requests are in progress")
    came = pair.counted(pair.bare) - before[0]
    assert pair.counted() - before[1] == came
    assert came > 0.8 * len(cases)
    assert pair.own_errors() == 0, pair.watched.log.read_text("utf-8", "replace")[-3_000:]
    return sum(map(bool, bare)), came


def test_the_bare_service_knows_nothing_of_the_library(pair):
    """What we compare with has not even imported the library."""
    assert '"watched":false' in pair.ask("/counted", pair.bare)
    assert '"watched":true' in pair.ask("/counted")


def test_answers_are_those_of_the_bare_service(pair, capsys):
    """Bodies, headers, targets and methods of all kinds, and what is no HTTP: byte for byte, but for the date."""
    cases = CASES if pair.kind in ALL_OF else CASES[::8]
    assert len(CASES) >= 445
    answers, requests = compare(pair, cases)
    counted = pair.total("http_server_request_duration_seconds_count")
    assert counted >= requests - 4  # the documentation is not recorded
    with capsys.disabled():
        sys.stdout.write(f"\n{pair.kind}: {len(cases)} cases, {answers} answers, {requests} requests, 0 differ\n")


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(5))
def test_answers_to_random_bodies_are_those_of_the_bare_service(pair, seed):
    """The same for all cases with every kind of server, and 1,000 random bodies more for each seed."""
    compare(pair, fuzz.cases(1_000, seed=100 + seed))


POST = fuzz.http("/row", b'{"age": 41.5}')
HANDSHAKE = next(case for case in CASES if case.name == "raw: websocket").content.partition(b"\x81")[0]
AWAY = {  # what is written, how much is read before the client goes, and whether it goes with a reset
    "at once": (b"", 0, False),
    "in the request line": (b"POST /ro", 0, False),
    "in the headers": (POST[:60], 0, False),
    "in the body": (POST[:-3], 0, False),
    "in the body, by reset": (POST[:-3], 0, True),
    "before the response": (fuzz.http("/sleep/300", method="GET"), 0, False),
    "in the response": (fuzz.http("/drip", method="GET"), 100, False),
    "in the response, by reset": (fuzz.http("/drip", method="GET"), 100, True),
    "in a large response": (fuzz.http("/flood/500", method="GET"), 100_000, True),
    "in a websocket": (HANDSHAKE, 100, True),
    "after the response": (fuzz.http("/items/7", method="GET"), None, True),
}


async def go_away(port, content, read, reset):
    """Write, read so many bytes (None: all), and go."""
    reader, writer = await asyncio.open_connection(fuzz.HOST, port)
    with suppress(ConnectionError):
        writer.write(content)
        await writer.drain()
        if read is None:
            await reader.read()
        elif read:
            await reader.readexactly(read)
    if reset:
        linger = struct.pack("ii", 1, 0)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    writer.transport.abort() if reset else writer.close()


@pytest.mark.parametrize("count", [5, pytest.param(100, marks=pytest.mark.soak)])
def test_clients_that_go_are_no_errors_and_leave_nothing(pair, count):
    """Whenever clients go: each request counts once, none as an error of the service, and nothing stays open."""
    files, came = pair.files(), pair.counted()
    known = pair.total("http_server_request_duration_seconds_count")
    good = pair.total("http_server_request_duration_seconds_count", 'http_route="/items/{number}"', '_code="200"')
    failed = pair.total("http_server_request_duration_seconds_count", '_code="5')

    async def storm():
        for _ in range(count):
            await asyncio.gather(*(go_away(pair.watched.port, *how) for how in AWAY.values()))

    asyncio.run(storm())
    until(pair.settled, "requests are in progress")
    until(lambda: pair.files() <= files + 3, "files are open")
    requests = pair.counted() - came
    assert requests >= 3 * count
    assert pair.total("http_server_request_duration_seconds_count") - known == requests
    gone = pair.total("http_server_request_duration_seconds_count", '_code="5', 'error_type="client_disconnect"')
    assert pair.total("http_server_request_duration_seconds_count", '_code="5') - failed <= gone
    assert (
        pair.total("http_server_request_duration_seconds_count", 'http_route="/drip"', "client_disconnect") >= 2 * count
    )
    now_good = pair.total("http_server_request_duration_seconds_count", 'http_route="/items/{number}"', '_code="200"')
    assert now_good - good == count
    assert pair.own_errors() == 0, pair.watched.log.read_text("utf-8", "replace")[-3_000:]


def most_memory(process, done):
    """The most resident memory of a process and its children until it is done, in bytes."""
    most = 0
    while not done.wait(0.02):
        family = (process, *process.children(recursive=True))
        most = max(most, sum(one.memory_info().rss for one in family))
    return most


def transfer(server, direction, size):
    """(seconds, most memory) of moving so many bytes."""
    part, done, most = bytes(2**20), threading.Event(), []
    process = psutil.Process(server.process.pid)
    watcher = threading.Thread(target=lambda: most.append(most_memory(process, done)))
    with socket.create_connection((fuzz.HOST, server.port), timeout=120) as client:
        watcher.start()
        started = time.perf_counter()
        if direction == "up":
            client.sendall(
                b"POST /drain HTTP/1.1\r\nhost: t\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n"
            )
            for _ in range(size // len(part)):
                client.sendall(b"%x\r\n%s\r\n" % (len(part), part))
            client.sendall(b"0\r\n\r\n")
        else:
            client.sendall(fuzz.http(f"/flood/{size // 65_536}", method="GET"))
        received = 0
        while found := client.recv(2**20):
            received += len(found)
        seconds = time.perf_counter() - started
        done.set()
        watcher.join()
    assert direction == "up" or received > size
    return seconds, most[0]


@pytest.mark.soak
@pytest.mark.parametrize("direction", ["up", "down"])
def test_a_gibibyte_passes_as_through_the_bare_service(pair, direction, capsys):
    """1 GiB in chunks: at least seven tenths of the bare rate, and no more than 24 MiB of memory more than bare."""
    if pair.kind not in ALL_OF:
        pytest.skip("the rate is that of uvicorn")
    servers = {"bare": pair.bare, "watched": pair.watched}
    before, seconds, most = {}, dict.fromkeys(servers, float("inf")), dict.fromkeys(servers, 0)
    for name, server in servers.items():
        transfer(server, direction, 2**26)
        before[name] = psutil.Process(server.process.pid).memory_info().rss
    for name in [*servers] * 3:  # by turns, as others may work on this machine
        took, memory = transfer(servers[name], direction, 2**30)
        seconds[name], most[name] = min(seconds[name], took), max(most[name], memory - before[name])
    with capsys.disabled():
        rates = {name: f"{2**10 / took:.0f} MiB/s, {most[name] / 2**20:.1f} MiB more" for name, took in seconds.items()}
        sys.stdout.write(f"\n{pair.kind} {direction}: {rates}\n")
    assert most["watched"] <= most["bare"] + 24 * 2**20
    assert seconds["watched"] <= seconds["bare"] / 0.7
