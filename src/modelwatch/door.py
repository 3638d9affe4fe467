"""Who may read what the library shows: those who bring the token, if there is one."""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Iterable

from pydantic import SecretStr

from .answering import header
from .exceptions import ConfigurationError

BEARER = (b"www-authenticate", b"Bearer")
BASIC = (b"www-authenticate", b'Basic realm="modelwatch", charset="UTF-8"')
"""Headers that tell a client how to bring the token; by the second one a browser asks its user."""


class Door:
    """Asks for the token.

    Parameters
    ----------
    token
        None: everybody may read.

    Raises
    ------
    ConfigurationError
        The token is empty or has white space or control characters, so that no header can bring it.

    Notes
    -----
    Threads and processes: never changes, so any number.

    >>> Door(SecretStr("secret")).opens([(b"authorization", b"Bearer secret")])
    True
    """

    def __init__(self, token: SecretStr | None) -> None:
        if token is not None and not _is_word(token):
            raise ConfigurationError(
                "Expected `metrics_token` to be a word without white space, as an Authorization header brings it, got "
                "one that is empty or has other characters. Change it, or leave it out for open metrics."
            )
        self._token = token  # still wrapped up: so neither `vars` nor the frames of a traceback show it

    def opens(self, headers: Iterable[tuple[bytes, bytes]], *, basic: bool = False) -> bool:
        """Whether the headers bring the token, as a bearer does; with `basic` also as the password of anybody."""
        if self._token is None:
            return True
        scheme, _, credentials = header(headers, b"authorization").strip().partition(b" ")
        scheme, brought = scheme.lower(), credentials.strip()
        if basic and scheme == b"basic":
            brought = _password(brought)
        # Both are bytes: compare_digest refuses text that is not ASCII, and its time says nothing of the token.
        token = self._token.get_secret_value().encode()
        return hmac.compare_digest(brought, token) and (scheme == b"bearer" or (basic and scheme == b"basic"))


def _password(credentials: bytes) -> bytes:
    """The password of a Basic header; what is none equals no token, for no token is empty."""
    try:
        return base64.b64decode(credentials, validate=True).partition(b":")[2]
    except (binascii.Error, ValueError):
        return b""


def _is_word(token: SecretStr) -> bool:
    text = token.get_secret_value()
    return bool(text) and text.isprintable() and " " not in text
