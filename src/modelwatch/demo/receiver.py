"""Somebody who is told: a webhook on the loopback interface that takes Alertmanager's messages."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Mapping
from typing import Any, NamedTuple

from .stage import HOST

_LONGEST = 4 * 2**20  # bytes of a message


class Message(NamedTuple):
    """One message: to whom, whether the alerts fire or are over, and their labels."""

    receiver: str
    firing: bool
    alerts: tuple[Mapping[str, str], ...]


class Receiver:
    """Takes messages in a thread, from when it is made until `close`.

    Attributes
    ----------
    url
        Where Alertmanager finds it.

    Notes
    -----
    Threads: any may ask for messages. Processes: one.
    """

    def __init__(self) -> None:
        self._messages: list[Message] = []
        taken = self._messages

        class Handler(http.server.BaseHTTPRequestHandler):
            timeout = 10  # whoever sends half a message does not keep a thread for ever

            def do_POST(self) -> None:
                length = self.headers.get("content-length", "")
                body = self.rfile.read(min(int(length), _LONGEST)) if length.isascii() and length.isdigit() else b""
                message = read(body)
                if message is not None:
                    taken.append(message)
                self.send_response(204 if message is not None else 400)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Nothing: it would be printed between the lines of the story."""

        self._server = http.server.ThreadingHTTPServer((HOST, 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://{HOST}:{self._server.server_address[1]}/"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    def take(self) -> list[Message]:
        """What has come since it was asked last."""
        count = len(self._messages)
        taken, self._messages[:count] = self._messages[:count], []
        return taken

    def close(self) -> None:
        """Take no more."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def read(body: bytes) -> Message | None:
    """A message of Alertmanager's, or None if it is none.

    >>> read(b'{"receiver": "on-call", "status": "firing", "alerts": [{"labels": {"alertname": "A"}}]}')
    Message(receiver='on-call', firing=True, alerts=({'alertname': 'A'},))
    """
    try:
        said: Any = json.loads(body)
        labels = tuple({str(k): str(v) for k, v in alert["labels"].items()} for alert in said["alerts"])
        return Message(str(said["receiver"]), said["status"] == "firing", labels)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
