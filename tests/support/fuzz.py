"""Fuzz cases, as the bytes that a client writes to a socket, and the servers that they are sent to."""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

HOST = "127.0.0.1"
_HERE = Path(__file__).parent
_START_SECONDS, _LONGEST_SECONDS = 60.0, 5.0
QUIET_SECONDS = 0.5
"""So long a client waits for more before it closes its side."""
_AT_ONCE = 24
_DATE = re.compile(rb"(?im)^date: [^\r\n]*\r\n")


class Case(NamedTuple):
    """What a client writes, in one connection."""

    name: str
    content: bytes


def http(
    path: str,
    body: bytes = b"",
    *,
    method: str = "POST",
    kind: str | None = "application/json",
    headers: tuple[str, ...] = (),
    chunks: int = 0,
) -> bytes:
    """A request, in chunks of that many bytes if that is not 0."""
    lines = [f"{method} {path} HTTP/1.1", "host: t.local", "connection: close", *headers]
    if kind is not None:
        lines.append(f"content-type: {kind}")
    lines.append("transfer-encoding: chunked" if chunks else f"content-length: {len(body)}")
    head = "\r\n".join(lines).encode("utf-8", "surrogateescape") + b"\r\n\r\n"
    if not chunks:
        return head + body
    parts = [body[at : at + chunks] for at in range(0, len(body), chunks)]
    return head + b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


BODIES: dict[str, bytes] = {
    "empty": b"",
    "white space": b" \r\n\t ",
    "null": b"null",
    "true": b"true",
    "number": b"5",
    "text": b'"text"',
    "empty list": b"[]",
    "empty dict": b"{}",
    "row": b'{"age": 41.5, "income": 20, "plan": "pro"}',
    "broken row": b'{"plan": "broken"}',
    "rows": b'[{"age": 41.5}, {"plan": "basic"}, {}]',
    "rows told": b'{"rows": [{"age": 1}, {"age": "x"}, 5, null], "was": [1, 2, 3, 4]}',
    "rows that are none": b'{"rows": "abc", "was": {"a": []}}',
    "arrays": b"[[41.5, 20, 3], [1, 2, 3]]",
    "ragged arrays": b"[[41.5], [], [1, 2, 3, 4]]",
    "deep list": b"[" * 100_000,
    "deep closed list": b"[" * 5_000 + b"]" * 5_000,
    "deep dict": b'{"a":' * 100_000,
    "nested 100": b'{"age":' + b"[" * 100 + b"]" * 100 + b"}",
    "nested dicts": b'{"age":' * 100 + b"1" + b"}" * 100,
    "4301 digits": b'{"age": ' + b"9" * 4_301 + b"}",
    "4300 digits": b'{"age": ' + b"9" * 4_300 + b"}",
    "400 digits": b'{"age": 1' + b"0" * 400 + b"}",
    "1e999": b'{"age": 1e999, "income": -1e999}',
    "1e-999": b'{"age": 1e-999}',
    "many decimals": b'{"age": 0.' + b"3" * 20_000 + b"}",
    "NaN": b'{"age": NaN}',
    "Infinity": b'{"age": Infinity, "income": -Infinity}',
    "minus zero": b'{"age": -0.0, "income": -0}',
    "duplicate keys": b'{"age": 1, "age": "two", "age": 3}',
    "unknown keys": json.dumps({f"k{n}": n for n in range(2_000)}).encode(),
    "long key": b'{"' + b"k" * 100_000 + b'": 1}',
    "long text": b'{"plan": "' + b"x" * 300_000 + b'"}',
    "lone surrogate": b'{"plan": "\\ud800", "age": 1}',
    "pair of surrogates": b'{"plan": "\\ud83d\\ude00"}',
    "reversed surrogates": b'{"plan": "\\ude00\\ud83d"}',
    "encoded surrogate": b'{"plan": "\xed\xa0\x80"}',
    "NUL in text": b'{"plan": "\\u0000", "age": 1}',
    "NUL byte": b'{"plan": "\x00"}',
    "line ends in text": b'{"plan": "a\\r\\nb: c"}',
    "raw line ends in text": b'{"plan": "a\r\nb"}',
    "latin-1": '{"plan": "Übergröße"}'.encode("latin-1"),
    "utf-8": '{"plan": "Übergröße"}'.encode(),
    "utf-16": '{"plan": "pro", "age": 3}'.encode("utf-16"),
    "utf-16-le": '{"plan": "pro", "age": 3}'.encode("utf-16-le"),
    "utf-32": '{"plan": "pro", "age": 3}'.encode("utf-32"),
    "byte order mark": b'\xef\xbb\xbf{"plan": "pro"}',
    "overlong utf-8": b'{"plan": "\xc0\xaf"}',
    "truncated utf-8": b'{"plan": "\xe2\x82"}',
    "random bytes": random.Random(1).randbytes(300),
    "gzip": b"\x1f\x8b\x08\x00" + random.Random(2).randbytes(60),
    "unfinished": b'{"age": 1',
    "too much": b'{"age": 1} {"age": 2}',
    "trailing comma": b'{"age": 1,}',
    "single quotes": b"{'age': 1}",
    "comment": b'{"age": 1 /* one */}',
    "wrong types": b'{"age": [], "income": {}, "plan": 5}',
    "numbers as text": b'{"age": "41.5", "income": "1e3", "plan": "3"}',
    "bools": b'{"age": true, "income": false, "plan": true}',
    "nulls": b'{"age": null, "income": null, "plan": null}',
    "hash of nothing": b'{"age": 2305843009213693951, "plan": 4611686018427387902}',
    "a thousand rows": b"[" + b",".join(b'{"age": %d}' % n for n in range(1_000)) + b"]",
    "rows with holes": b'[{"age": 1}, null, {"age": 2}, 5, "x", []]',
    "percent": b'{"plan": "%s %(x)s %n {} {0.__class__}"}',
    "markup": b'{"plan": "<script>alert(1)</script>\\u2028"}',
    "label text": b'{"plan": "a\\",b=\\"c\\\\"}',
    "form": b"name=a&size=2",
    "bad form": b"name=%zz&size=x&&&=",
    "multipart": b'--B\r\ncontent-disposition: form-data; name="name"\r\n\r\nx\r\n--B--\r\n',
    "cut multipart": b'--B\r\ncontent-disposition: form-data; name="name"\r\n\r\nx',
}
PATHS = ("/row", "/async", "/rows", "/any", "/dict", "/arrays", "/told", "/echo", "/raw")


_KINDS = (
    None, "", "text/plain", "application/json; charset=utf-16", "application/problem+json", "multipart/form-data",
    "application/x-www-form-urlencoded", "multipart/form-data; boundary=B",
)  # fmt: skip
_OF_KINDS = (
    "row", "empty", "utf-16", "byte order mark", "NUL byte", "1e999", "form", "multipart", "cut multipart",
)  # fmt: skip


def _body_cases() -> Iterator[Case]:
    for number, (name, body) in enumerate(BODIES.items()):
        for path in ("/row", "/any", PATHS[number % len(PATHS)]):
            yield Case(f"{name} to {path}", http(path, body))
    for name in _OF_KINDS:
        for kind in _KINDS:
            path = "/form" if "form" in (kind or "") else "/async"
            yield Case(f"{name} as {kind}", http(path, BODIES[name], kind=kind))
    for size in (1, 7, 1_000):
        for name in ("row", "rows", "unfinished", "lone surrogate", "empty"):
            path = "/rows" if name == "rows" else "/row"
            yield Case(f"{name} in chunks of {size}", http(path, BODIES[name], chunks=size))


def _random_cases(count: int, seed: int) -> Iterator[Case]:
    """Bodies with bytes changed, cut out, put in or doubled."""
    draw = random.Random(seed)
    known = [body for body in BODIES.values() if 0 < len(body) < 2_000]
    for number in range(count):
        body = bytearray(draw.choice(known))
        for _ in range(draw.randint(1, 4)):
            at = draw.randrange(len(body) + 1)
            change = draw.randrange(4)
            if change == 0:
                body[at:at] = draw.choice(
                    [b"\x00", b"\xff", b'"', b"{", b"]", b"9" * 50, b"\\u", b"e", draw.randbytes(5)]
                )
            elif change == 1:
                del body[at : at + draw.randint(1, 9)]
            elif change == 2:
                body[at : at + 1] = draw.randbytes(1)
            else:
                body[at:at] = body[at : at + draw.randint(1, 40)]
        path = draw.choice(PATHS)
        yield Case(f"random {number} to {path}", http(path, bytes(body), chunks=draw.choice([0, 0, 3])))


_CLOSE = b"connection: close\r\n\r\n"
_ITEM = b"GET /items/5 HTTP/1.1\r\nhost: t\r\n"
_GET = _ITEM + _CLOSE
_RAW_POST = b"POST /raw HTTP/1.1\r\nhost: t\r\n"
_CHUNKED = _RAW_POST + b"transfer-encoding: chunked\r\n" + _CLOSE
_HANDSHAKE = (
    b"host: t\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
    b"sec-websocket-version: 13\r\n\r\n"
)
_RAW: dict[str, bytes] = {
    "nothing": b"",
    "line ends": b"\r\n\r\n\r\n",
    "a word": b"HELO\r\n\r\n",
    "random": random.Random(3).randbytes(200),
    "tls": bytes.fromhex("1603010200010001fc0303") + random.Random(4).randbytes(100),
    "half a line": b"GET /items/5",
    "half the headers": _ITEM + b"x",
    "http 0.9": b"GET /items/5\r\n\r\n",
    "http 1.0": b"GET /items/5 HTTP/1.0\r\n\r\n",
    "http 1.0 alive": b"GET /items/5 HTTP/1.0\r\nconnection: keep-alive\r\n\r\n",
    "http 2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00" * 9,
    "http 9.9": b"GET /items/5 HTTP/9.9\r\nhost: t\r\n\r\n",
    "no host": b"GET /items/5 HTTP/1.1\r\n" + _CLOSE,
    "two hosts": _ITEM + b"host: b\r\n" + _CLOSE,
    "bare line feeds": _GET.replace(b"\r\n", b"\n"),
    "bare carriage returns": _GET.replace(b"\r\n", b"\r"),
    "folded header": _ITEM + b"x: a\r\n b\r\n" + _CLOSE,
    "space before colon": _ITEM + b"x : t\r\n" + _CLOSE,
    "no colon": _ITEM + b"x\r\n" + _CLOSE,
    "empty name": _ITEM + b": x\r\n" + _CLOSE,
    "NUL in header": _ITEM + b"x: a\x00b\r\n" + _CLOSE,
    "latin-1 header": _ITEM + b"x: \xe4\xf6\r\n" + _CLOSE,
    "long header": _ITEM + b"x: " + b"y" * 30_000 + b"\r\n" + _CLOSE,
    "huge header": _ITEM + b"x: " + b"y" * 200_000 + b"\r\n" + _CLOSE,
    "many headers": _ITEM + b"x: y\r\n" * 90 + _CLOSE,
    "absolute": b"GET http://other/items/5 HTTP/1.1\r\nhost: t\r\n" + _CLOSE,
    "star": b"OPTIONS * HTTP/1.1\r\nhost: t\r\n" + _CLOSE,
    "connect": b"CONNECT t:80 HTTP/1.1\r\nhost: t\r\n" + _CLOSE,
    "upgrade to h2c": _ITEM
    + b"connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABk\r\n\r\n",
    "odd upgrade": _ITEM + b"connection: upgrade\r\nupgrade: telepathy\r\n\r\n",
    "two lengths": _RAW_POST + b"content-length: 1\r\ncontent-length: 2\r\n" + _CLOSE + b"ab",
    "equal lengths": _RAW_POST + b"content-length: 2, 2\r\n" + _CLOSE + b"ab",
    "negative length": _RAW_POST + b"content-length: -1\r\n" + _CLOSE,
    "length in words": _RAW_POST + b"content-length: two\r\n" + _CLOSE + b"ab",
    "plus length": _RAW_POST + b"content-length: +2\r\n" + _CLOSE + b"ab",
    "huge length": _RAW_POST + b"content-length: 99999999999999999999\r\n" + _CLOSE + b"ab",
    "length and chunks": _RAW_POST + b"content-length: 3\r\ntransfer-encoding: chunked\r\n" + _CLOSE + b"0\r\n\r\n",
    "odd encoding": _RAW_POST + b"transfer-encoding: rot13\r\n" + _CLOSE + b"ab",
    "chunked twice": _RAW_POST + b"transfer-encoding: chunked, chunked\r\n" + _CLOSE + b"0\r\n\r\n",
    "body cut off": b"POST /row HTTP/1.1\r\nhost: t\r\ncontent-type: application/json\r\ncontent-length: 90\r\n\r\n{",
    "body too long": http("/row", b'{"age": 1}') + b"and more",
    "body of a get": http("/items/5", b'{"age": 1}', method="GET"),
    "body of a delete": http("/row", b"{}", method="DELETE"),
    "expect": http("/raw", b"abc", headers=("expect: 100-continue",)),
    "expect more": http("/raw", b"abc", headers=("expect: 200-ok",)),
    "chunk extension": _CHUNKED + b"3;a=b\r\nabc\r\n0\r\n\r\n",
    "chunk trailer": _CHUNKED + b"3\r\nabc\r\n0\r\nx: y\r\n\r\n",
    "chunk size in words": _CHUNKED + b"xyz\r\nabc\r\n",
    "chunk size negative": _CHUNKED + b"-3\r\nabc\r\n",
    "chunk size huge": _CHUNKED + b"FFFFFFFFFFFFFFFFF\r\nabc\r\n",
    "chunk cut off": _CHUNKED + b"9\r\nabc",
    "pipelined": (_ITEM + b"\r\n") * 2 + _GET,
    "pipelined with an error": _ITEM + b"\r\nGARBAGE\r\n\r\n",
    "websocket": b"GET /chat HTTP/1.1\r\n" + _HANDSHAKE + b"\x81\x85\x00\x00\x00\x00hello\x88\x80\x00\x00\x00\x00",
    "websocket to nowhere": b"GET /no HTTP/1.1\r\n" + _HANDSHAKE,
    "websocket without key": b"GET /chat HTTP/1.1\r\nhost: t\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
    "websocket by get": b"GET /chat HTTP/1.1\r\nhost: t\r\n" + _CLOSE,
}
_TARGETS = (
    "/items/5?q=1", "/items/x", "/items/", "/items/5/", "//items//5", "/items/%35", "/items/%ff", "/items/%zz",
    "/items/5%00", "/items/5%0d%0ax:y", "/../items/5", "/items/../items/5", "/items/5#f", "/items/5?", "/nowhere",
    "/items/5?q=%ff&q=%00", "/items/" + "9" * 5_000, "/" + "x" * 16_000, "/items/5?q=" + "y" * 16_000, "/docs",
    "/items/5?" + "&" * 1_000, "/openapi.json", "/Items/5", "/items/5;v=1", "/items/5?q=\udcff", "/items/\udce4", "",
    "items/5", "/ x", "/items/-5", "/items/1e3", "/metrics/",
)  # fmt: skip
_METHODS = ("HEAD", "OPTIONS", "PUT", "PATCH", "DELETE", "TRACE", "BREW", "get", "G" * 300, "GET\x00", "Ä")


def cases(count: int = 120, seed: int = 11) -> list[Case]:
    """All cases, with so many random ones."""
    found = [*_body_cases(), *_random_cases(count, seed)]
    found += [Case(f"raw: {name}", content) for name, content in _RAW.items()]
    found += [Case(f"target {target[:40]!r}", http(target, method="GET", kind=None)) for target in _TARGETS]
    for path in ("/items/5", "/row"):
        found += [Case(f"{method[:9]!r} {path}", http(path, BODIES["row"], method=method)) for method in _METHODS]
    return found


_UVICORN = ["uvicorn", "--ws", "websockets-sansio", "--log-level", "critical"]
COMMANDS = {
    "httptools": [*_UVICORN, "--http", "httptools", "--loop", "uvloop"],
    "h11": [*_UVICORN, "--http", "h11", "--loop", "asyncio"],
    "hypercorn": ["hypercorn", "--log-level", "CRITICAL"],
    "granian": ["granian", "--interface", "asgi", "--no-log"],
}
"""How each server is started."""


class Server(NamedTuple):
    """A server that runs."""

    port: int
    process: subprocess.Popen
    log: Path


def _free_port() -> int:
    with socket.socket() as one:
        one.bind((HOST, 0))
        return one.getsockname()[1]


@contextmanager
def serving(kind: str, directory: Path, *, watched: bool) -> Iterator[Server]:
    """The service, watched or bare, under a server of a kind; ended, with all its children, in the end."""
    port = _free_port()
    where = ["-b", f"{HOST}:{port}"] if kind == "hypercorn" else ["--host", HOST, "--port", str(port)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MODELWATCH_", "FUZZ_"))}
    environment |= {"FUZZ_SERVED": "1", "MODELWATCH_DIR": str(directory), "PYTHONWARNINGS": "ignore"}
    if "PYTHONPATH" in environment:  # it may be relative to where the tests run
        paths = environment["PYTHONPATH"].split(os.pathsep)
        environment["PYTHONPATH"] = os.pathsep.join(map(os.path.abspath, paths))
    if watched:
        environment["FUZZ_WATCHED"] = "1"
    log = directory / f"{kind}-{'watched' if watched else 'bare'}.log"
    with log.open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", *COMMANDS[kind], *where, "fuzz_service:app"],
            cwd=_HERE,
            env=environment,
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=errors,
        )
    try:
        _wait_for(port, process)
        yield Server(port, process, log)
    finally:
        for number in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            with suppress(subprocess.TimeoutExpired):
                process.wait(5)
                break
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # whatever of its children is left


def _wait_for(port: int, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        assert process.poll() is None, "the server has ended"
        assert time.monotonic() < deadline, "the server does not start"
        with suppress(OSError), socket.create_connection((HOST, port), timeout=1):
            return
        time.sleep(0.02)


async def _answer(port: int, content: bytes, quiet: float) -> bytes:
    """All that a server answers to what a client writes, until it closes, or the client as nothing more comes."""
    reader, writer = await asyncio.open_connection(HOST, port, limit=2**20)
    found, closing = b"", False
    try:
        with suppress(ConnectionError):
            writer.write(content)
            await writer.drain()
        while True:
            try:
                part = await asyncio.wait_for(reader.read(2**16), _LONGEST_SECONDS if closing else quiet)
            except TimeoutError:
                if closing:
                    return found + b"<still open>"
                closing = True
                with suppress(OSError):
                    writer.write_eof()
                continue
            if not part:
                return found
            found += part
    except ConnectionError:
        return found
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


def comparable(answer: bytes) -> bytes:
    """An answer without what differs from second to second: the date, which HTTP/2 writes in its own code."""
    if answer.startswith(b"HTTP/1.1 101") and b"h2c" in answer:
        answer = answer.partition(b"\r\n\r\n")[0]
    return _DATE.sub(b"", answer)


async def answers(port: int, asked: list[Case], quiet: float = QUIET_SECONDS) -> list[bytes]:
    """What a server answers to each case, some at once."""
    gate = asyncio.Semaphore(_AT_ONCE)

    async def one(case: Case) -> bytes:
        async with gate:
            return comparable(await _answer(port, case.content, quiet))

    return list(await asyncio.gather(*map(one, asked)))
