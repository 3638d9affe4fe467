"""What does not work is shown as long as it does not, and said once."""

from __future__ import annotations

import logging

from modelwatch.degraded import REASONS, Degraded


def test_reasons_begin_and_end():
    """A reason is 1 from when it begins until it ends, and the others are not touched."""
    degraded = Degraded()
    assert degraded.flags == dict.fromkeys(REASONS, 0)
    degraded.begin("space", "no room")
    degraded.begin("port", "no port")
    assert degraded.flags == {"directory": 0, "space": 1, "port": 1}
    degraded.end("space", "directory")
    assert degraded.flags == {"directory": 0, "space": 0, "port": 1}


def test_each_beginning_is_said_once(clock, caplog):
    """It is logged when it begins, not while it lasts, and again when it comes back a minute later, not each second."""
    degraded = Degraded(clock)
    with caplog.at_level(logging.DEBUG, "modelwatch"):
        for turn in range(2):
            for number in range(5):
                degraded.begin("space", "no room in %s, %d", f"turn {turn}", number)
            for _ in range(5):
                degraded.end("space")
                degraded.begin("space", "no room, again")
            degraded.end("space")
            clock.advance(60)
    assert [record.getMessage() for record in caplog.records] == [
        "modelwatch: no room in turn 0, 0", "modelwatch: no room in turn 1, 0",
    ]  # fmt: skip
    assert {record.levelname for record in caplog.records} == {"WARNING"}


def test_what_is_said_may_hold_anything(caplog):
    """Values are never taken for a format: percent signs and braces in a path stand in the log as they are."""
    with caplog.at_level(logging.DEBUG, "modelwatch"):
        Degraded().begin("directory", "cannot use %s", "/tmp/%s{}%d")
    assert caplog.messages == ["modelwatch: cannot use /tmp/%s{}%d"]
