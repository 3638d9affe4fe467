"""What goes back to a client of a page of ours, and what is read of its headers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, NamedTuple

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

_PLAIN = b"text/plain; charset=utf-8"


class Answer(NamedTuple):
    """What goes back to a client. The names of the headers are in lower case."""

    status: int
    headers: Headers
    body: bytes  # empty for HEAD, whose `content-length` is that of GET

    async def send(self, send: Send) -> None:
        """Hand it to an ASGI server. A client that has gone is no error."""
        try:
            await send({"type": "http.response.start", "status": self.status, "headers": self.headers})
            await send({"type": "http.response.body", "body": self.body})
        except OSError:
            # So a server says that the client has gone (ASGI 2.4): nobody is left to answer.
            return


def made(method: str, status: int, kind: bytes, body: bytes, more: Iterable[tuple[bytes, bytes]] = ()) -> Answer:
    """An answer with a body of that content type."""
    headers = [(b"content-type", kind), (b"content-length", b"%d" % len(body)), *more]
    return Answer(status, headers, b"" if method == "HEAD" else body)


def refused(method: str, status: int, message: bytes, *more: tuple[bytes, bytes]) -> Answer:
    """An answer that says in a sentence why there is nothing else."""
    return made(method, status, _PLAIN, message, more)


def header(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> bytes:
    """All values of a header, with commas between them; empty without one."""
    return b",".join(value for key, value in headers if key == name)


def takes_gzip(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Whether the client reads what is compressed."""
    return any(coding == "gzip" and q > 0 for coding, q in qualities(header(headers, b"accept-encoding")))


def qualities(value: bytes) -> list[tuple[str, float]]:
    """The choices of an Accept or Accept-Encoding header with their weights.

    Of the parameters only the version is kept: the others change nothing that is shown.

    >>> qualities(b"gzip, br;q=0.5")
    [('gzip', 1.0), ('br', 0.5)]
    """
    found = []
    for choice in value.decode("latin-1").lower().split(","):
        kind, *parameters = ("".join(part.replace('"', "").split()) for part in choice.split(";"))
        values = dict(parameter.partition("=")[::2] for parameter in parameters)
        version = f";version={values['version']}" if "version" in values else ""
        try:
            quality = float(values.get("q", "1"))
        except ValueError:
            quality = 0.0
        found.append((kind + version, quality))
    return found
