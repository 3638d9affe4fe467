"""One HTTP request: an Exchange with what the middleware notes, and how it ended.

How a request ended is told in this order:

- *cancelled*: a cancellation came out of the app before the last byte;
- *disconnected*: the client was seen to be gone before the last byte, by `http.disconnect` or by an OSError of the
  server's `send`;
- *failed*: another exception came out before the last byte, or after that of a response with status 5xx (the one that
  Starlette makes of an exception), or the app returned before the last byte;
- *complete*: the last byte was handed to the server.

An exception after the last byte of any other response is that of a background task: the request stays complete. A
streamed response whose length nobody announced is judged when the app returns, as its last message may have been made
up by a middleware after the stream had failed.
"""

from __future__ import annotations

from types import CodeType
from typing import TYPE_CHECKING

from .exchange import CANCELLED, COMPLETE, DISCONNECTED, FAILED, Exchange

if TYPE_CHECKING:
    from starlette.types import Message, Send

UNRECORDED = "unrecorded"
"""Outcome of a request that was answered with the metrics of an instrumented app within this one."""

_NOT_BEGUN: Message = {"status": 0}
_DEEPEST = 10  # an exception may stand, through a group, in its own context


class Request(Exchange):
    """An Exchange with what only the middleware needs.

    Notes
    -----
    Threads and processes: as Exchange.
    """

    place: int = 0  # of its gauge of active requests
    begun: Message = _NOT_BEGUN  # http.response.start
    usual: bool = True  # until something happens that `Service.sent` does not look at
    root: str = ""  # root_path as it came in: mounts write theirs over it
    stopped: float = 0.0  # when the last byte was sent, where that alone does not tell how it ended
    first: float = 0.0  # when the first byte of a streamed response was sent
    size: int = 0  # bytes of the response, if it was not sent in one piece
    gone: bool = False  # the client
    own: float | None = None  # seconds that the library took at the beginning, of one request in 128
    route: str | None = None  # as it was counted


def judge(request: Request, error: BaseException | None) -> str:
    """Tell how a request ended; returns the value of the label `error_type`."""
    error = _innermost(error)
    request.status = status = int(request.begun["status"])
    cancelled = error is not None and not isinstance(error, Exception | KeyboardInterrupt | SystemExit)
    name = "" if error is None else type(error).__name__
    if cancelled and not request.stopped:
        request.outcome, request.error = CANCELLED, name
        return "cancelled"
    if request.gone:
        request.outcome, request.error = DISCONNECTED, name
        return "client_disconnect"
    if error is not None and not cancelled:
        request.outcome, request.error, request.status = FAILED, name, status or 500
        return name
    if not request.stopped:
        request.outcome, request.status = FAILED, status or 500
        return "incomplete_response"
    request.outcome = COMPLETE
    return str(status) if status >= 500 else ""


def in_vain(error: BaseException | None, send: Send | None) -> bool:
    """Whether it was the server's `send` that raised: so servers say, from ASGI 2.4 on, that the client is gone.

    Starlette makes a ClientDisconnect of it.
    """
    code: CodeType | None = getattr(getattr(send, "__func__", send), "__code__", None)
    for _ in range(_DEEPEST):
        error = _innermost(error)
        if error is None:
            return False
        if type(error).__name__ == "ClientDisconnect":
            return True
        step = error.__traceback__ if isinstance(error, OSError) and code is not None else None
        while step is not None:
            if step.tb_frame.f_code is code:
                return True
            step = step.tb_next
        error = error.__context__
    return False


def _innermost(error: BaseException | None) -> BaseException | None:
    """The exception itself, where task groups have put it into groups of one."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def announced(begun: Message) -> int | None:
    """Content-Length of a response; None without one, and where looking would take it from the server."""
    headers = begun.get("headers", ())
    if not isinstance(headers, list | tuple):  # an iterator is read once, and that is the server's to do
        return None
    for name, value in headers:
        if name.lower() == b"content-length":
            return int(value)
    return None
