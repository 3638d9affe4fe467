"""Fixtures: few and honest. What the library swallows to protect a service, a test sees."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

import modelwatch.guard

# Tests are imported each by itself; so they find `support` from wherever they are run.
sys.path.insert(0, str(Path(__file__).parent))


class TurnedClock:
    """A clock that stands still until a test turns it."""

    def __init__(self, now: float = 1_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock():
    """Seconds that pass when the test says so: `clock.advance(2.5)`."""
    return TurnedClock()


@pytest.fixture
def registry():
    """A registry of the test's own, empty."""
    return CollectorRegistry()


@pytest.fixture(autouse=True)
def swallowed_errors(request):
    """(stage, error) of all that the guard swallowed in this test; raised again unless it is marked `swallows`."""
    found: list[tuple[str, BaseException]] = []

    def observe(stage, error):
        found.append((stage, error))

    modelwatch.guard.observers.append(observe)
    yield found
    modelwatch.guard.observers.remove(observe)
    if found and request.node.get_closest_marker("swallows") is None:
        stage, error = found[0]
        error.add_note(f"swallowed at stage {stage!r}")
        raise error
