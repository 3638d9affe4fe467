"""No background, no cache: what the page shows is what a test has done."""

from __future__ import annotations

import pytest

from modelwatch.pulse import PULSE


@pytest.fixture(autouse=True)
def no_history_by_itself(monkeypatch):
    """No snapshot is taken but those that a test takes."""
    monkeypatch.setattr(PULSE, "add", lambda ticked: None)


@pytest.fixture(autouse=True)
def always_fresh(monkeypatch):
    """What the page shows is made anew each time."""
    monkeypatch.setattr("modelwatch.page.serving.FRESH_SECONDS", 0.0)
