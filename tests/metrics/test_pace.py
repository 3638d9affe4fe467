"""Long work in the background stands still now and then; short work does not."""

from __future__ import annotations

import pytest

from modelwatch.metrics.pace import NoPace, Pace


class Busy:
    """A clock that work turns, and the pauses that were made."""

    def __init__(self):
        self.now, self.pauses = 0.0, []

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.pauses.append(self.now)
        self.now += seconds

    def items(self, count, seconds):
        for number in range(count):
            self.now += seconds
            yield number


@pytest.fixture
def busy():
    return Busy()


def test_long_work_pauses_again_and_again(busy):
    """A second of work in small steps is interrupted hundreds of times, never more than 2 ms apart; no item is lost."""
    pace = Pace(busy, busy.sleep)
    assert list(pace.through(busy.items(20_000, 0.00005))) == list(range(20_000))
    gaps = [after - before for before, after in zip(busy.pauses, busy.pauses[1:], strict=False)]
    assert len(busy.pauses) > 300
    assert max(gaps) < 0.002


def test_short_work_does_not_pause(busy):
    """What takes less than half a millisecond is done in one go."""
    pace = Pace(busy, busy.sleep)
    assert len(list(pace.through(busy.items(400, 0.000001)))) == 400
    pace.look()
    assert busy.pauses == []


def test_it_pauses_at_most_half_of_the_time(busy):
    """However small the steps are, the work takes at most about twice as long."""
    pace = Pace(busy, busy.sleep)
    list(pace.through(busy.items(100_000, 0.00001)))
    assert busy.now < 2.1


def test_an_event_loop_is_never_paused(busy):
    """Where everybody would wait there is no pause, however long it takes."""
    pace = NoPace(busy, busy.sleep)
    assert len(list(pace.through(busy.items(1000, 0.1)))) == 1000
    assert busy.pauses == []
