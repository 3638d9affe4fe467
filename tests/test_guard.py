"""Errors of our own: counted, logged now and then, and never passed on."""

from __future__ import annotations

import logging

import pytest

from modelwatch.guard import STAGES, Guard

pytestmark = pytest.mark.swallows


class UnprintableError(Exception):
    def __repr__(self):
        raise RuntimeError("no text")


def test_stages_begin_at_zero():
    """Every stage has its count from the start, so that a rise from nothing can be seen."""
    assert Guard().errors == dict.fromkeys(STAGES, 0)


@pytest.mark.parametrize("stage", STAGES)
def test_every_error_is_counted(stage, clock):
    """Each error counts at its stage and at no other."""
    guard = Guard(clock)
    for _ in range(3):
        guard.swallow(stage, ValueError())
    assert guard.errors == {**dict.fromkeys(STAGES, 0), stage: 3}


@pytest.mark.parametrize("origin", [-1e9, 0.0, 5.0, 1e9])
def test_each_stage_logs_once_a_minute(clock, caplog, origin):
    """The first error of a stage is logged wherever the clock begins, further ones of the same minute are not."""
    clock.now = origin
    guard = Guard(clock)
    guard.swallow("fold", ValueError("one"))
    guard.swallow("fold", ValueError("two"))
    guard.swallow("tick", ValueError("three"))
    clock.advance(59)
    guard.swallow("fold", ValueError("four"))
    clock.advance(1)
    guard.swallow("fold", ValueError("five"))
    logged = [record.getMessage() for record in caplog.records]
    assert [word for line in logged for word in ("one", "two", "three", "four", "five") if word in line] == [
        "one",
        "three",
        "five",
    ]
    assert "'fold'" in logged[0]


def test_the_log_says_where_to_look(caplog):
    """The line names the stage, the error and the metric that counts the rest, at level ERROR."""
    Guard().swallow("capture", ZeroDivisionError("by zero"))
    [record] = caplog.records
    assert (record.name, record.levelno) == ("modelwatch", logging.ERROR)
    for part in ("capture", "ZeroDivisionError('by zero')", "modelwatch_internal_errors_total", "not affected"):
        assert part in record.getMessage()


def test_a_text_cannot_break_the_log(caplog):
    """A text of a client's stays on one line and within bounds."""
    Guard().swallow("record", ValueError("first\nsecond " + "x" * 10_000))
    [record] = caplog.records
    assert "\n" not in record.getMessage()
    assert len(record.getMessage()) < 1000


def test_the_traceback_is_for_debugging(caplog, clock):
    """The traceback is in the log where the level asks for it, also when the error is handed in later."""
    try:
        raise ValueError
    except ValueError as raised:
        error = raised
    guard = Guard(clock)
    guard.swallow("tick", error)
    clock.advance(60)
    with caplog.at_level(logging.DEBUG, "modelwatch"):
        guard.swallow("tick", error)
    first, second = caplog.records
    assert not first.exc_info
    assert second.exc_info[1] is error


def test_logging_that_fails_does_not_reach_the_service():
    """A filter of the service's logging that raises, or an error that cannot be printed, is no error of a request."""

    def refuse(record):
        raise RuntimeError("broken filter")

    logger, guard = logging.getLogger("modelwatch"), Guard()
    logger.addFilter(refuse)
    try:
        guard.swallow("request", ValueError())
    finally:
        logger.removeFilter(refuse)
    assert guard.errors["request"] == 1


def test_an_error_that_cannot_be_printed_is_counted(monkeypatch):
    """An error whose text raises is counted like any other."""
    monkeypatch.setattr(logging, "raiseExceptions", False)
    guard = Guard()
    guard.swallow("request", UnprintableError())
    assert guard.errors["request"] == 1


def test_a_clock_that_fails_does_not_reach_the_service():
    """A clock that raises costs the log line, not the count."""

    def stopped():
        raise OSError

    guard = Guard(stopped)
    guard.swallow("request", ValueError())
    assert guard.errors["request"] == 1


def test_observers_see_every_error(swallowed_errors, clock):
    """The library's own tests see each error, also those that are not logged."""
    guard, errors = Guard(clock), [ValueError(), KeyError()]
    for error in errors:
        guard.swallow("tick", error)
    assert swallowed_errors == [("tick", error) for error in errors]
