"""The page itself: style and script in one HTML document, and the headers that say what a browser may do with it."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib.resources import files
from typing import NamedTuple

from ..answering import Headers

_SCRIPTS = ("text.js", "draw.js", "feature.js", "page.js")
_ALWAYS: Headers = [
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
]


class Document(NamedTuple):
    """The HTML, and the headers that go with it."""

    html: bytes
    headers: Headers


@cache
def document() -> Document:
    """The page: it asks for nothing but its own JSON, and runs nothing but its own script, known by its hash."""
    style, script = _asset("page.css"), "\n".join(map(_asset, _SCRIPTS))
    html = _asset("page.html").replace("/* style */", style).replace("/* script */", script)
    policy = "; ".join(
        [
            "default-src 'none'",
            f"script-src {_hash(script)}",
            f"style-src {_hash(style)}",
            "img-src data:",  # its icon
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
            "require-trusted-types-for 'script'",  # text can nowhere become markup
        ]
    )
    return Document(html.encode(), [*_ALWAYS, (b"content-security-policy", policy.encode())])


def data_headers() -> Headers:
    """What goes with the JSON: whoever opens it as a document gets nothing that could run."""
    return [*_ALWAYS, (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'")]


def _asset(name: str) -> str:
    return files(__package__).joinpath("assets", name).read_text("utf-8").strip()


def _hash(text: str) -> str:
    """How a policy names a script or style: by the hash of what stands between its tags."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
