"""Headless Chromium for tests and pictures, driven by playwright; the system's own, never a download."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_PLACES = ("/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome")
# Without the background flags it looks up hosts of its maker's at every start.
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def program() -> str:
    """Path of Chromium.

    Raises
    ------
    AssertionError
        There is none.
    """
    found = next((place for place in _PLACES if shutil.which(place)), None) or shutil.which("chromium")
    assert found is not None, (
        "Expected Chromium, to look at pages as people do; it is not installed. Install Debian's package with "
        "`apt-get install chromium`, or let tools/ensure_programs.sh do it."
    )
    return found


@contextmanager
def opened() -> Iterator[Any]:
    """A browser of playwright's sync API, with an empty profile; closed at the end."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program(), headless=True, args=list(FLAGS))
        try:
            yield browser
        finally:
            browser.close()
