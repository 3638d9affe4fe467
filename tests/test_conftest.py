"""The fixtures of conftest.py: what the library swallows, the tests see."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

PLANTED = """
import pytest
import modelwatch.guard

def swallow():
    for observe in list(modelwatch.guard.observers):
        observe("record", ValueError("planted"))

def test_unaware():
    swallow()

@pytest.mark.swallows
def test_aware(swallowed_errors):
    swallow()
    [(stage, error)] = swallowed_errors
    assert stage == "record"
    assert str(error) == "planted"

def test_calm(swallowed_errors):
    assert swallowed_errors == []
"""


@pytest.fixture
def outcome(pytester):
    """Result of a run of PLANTED under our conftest.py and our configuration."""
    here = Path(__file__).parent
    shutil.copy(here / "conftest.py", pytester.path)
    shutil.copy(here.parent / "pyproject.toml", pytester.path)
    pytester.makepyfile(test_planted=PLANTED)
    return pytester.runpytest_subprocess("test_planted.py", "-p", "no:cacheprovider")


def test_swallowed_error_fails_the_test(outcome):
    """An error that the guard swallowed is raised at the end of a test that does not expect it, and of no other."""
    outcome.assert_outcomes(passed=3, errors=1)
    assert outcome.ret == pytest.ExitCode.TESTS_FAILED
    outcome.stdout.fnmatch_lines(
        ["*ERROR at teardown of test_unaware*", "*ValueError: planted", "*swallowed at stage 'record'*"]
    )


def test_clock_stands_still_until_turned(clock):
    """The clock shows the same time until it is turned, then as much more."""
    before = clock()
    assert clock() == before
    clock.advance(2.5)
    assert clock() == clock.now == before + 2.5


def test_registry_is_fresh(registry):
    """Nothing is registered beforehand."""
    assert list(registry.collect()) == []
