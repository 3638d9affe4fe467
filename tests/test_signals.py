"""Means under Page-Hinkley: quiet while nothing changes, loud when something does, and not led astray by odd values."""

from __future__ import annotations

import numpy as np
import pytest

from modelwatch.signals import Signal

MEAN, SD = 40.0, 12.0


def alarms_of(signal, batches):
    """The numbers of the ticks at which it alarmed."""
    found = []
    for i, values in enumerate(batches):
        signal.add(values)
        if signal.tick():
            found.append(i)
    return found


def batches_of(seed, ticks, *, shift=0.0):
    random = np.random.default_rng(seed)
    return [random.normal(MEAN + shift * SD, SD, random.integers(1, 30)) for _ in range(ticks)]


@pytest.mark.parametrize("seed", range(3))
def test_no_false_alarm(seed):
    """In 10,000 ticks without a change it never alarms, though the reference's mean is only that of a sample."""
    sample = np.random.default_rng(seed + 100).normal(MEAN, SD, 5000)
    signal = Signal("prediction", float(sample.mean()), float(sample.std()))
    assert alarms_of(signal, batches_of(seed, 10_000)) == []


@pytest.mark.parametrize("shift", [0.5, -0.5])
def test_a_shift_is_found(shift):
    """Half a standard deviation up or down is found soon after it came, and once."""
    signal = Signal("prediction", MEAN, SD)
    found = alarms_of(signal, [*batches_of(1, 1000), *batches_of(2, 1000, shift=shift)])
    assert len(found) == 1
    assert 1000 <= found[0] < 1200


def test_large_ticks_weigh_more():
    """A mean of many rows is found at once to be off where a single row says nothing."""

    def ticks_to_alarm(rows):
        random = np.random.default_rng(3)
        quiet = [random.normal(MEAN, SD, rows) for _ in range(100)]
        moved = [random.normal(MEAN + 0.2 * SD, SD, rows) for _ in range(2000)]
        return [*alarms_of(Signal("prediction", MEAN, SD), quiet + moved), 2100][0]

    assert ticks_to_alarm(400) < 130
    assert ticks_to_alarm(1) > 200


def test_ticks_without_rows_say_nothing():
    """An hour of silence is no change of the mean: the detector sees rows only."""
    busy, idle = Signal("prediction", MEAN, SD), Signal("prediction", MEAN, SD)
    for values in batches_of(4, 50):
        busy.add(values)
        busy.tick()
        idle.add(values)
        idle.tick()
        assert not idle.tick()
    assert idle.detector.statistic == busy.detector.statistic > 0


def test_what_is_not_finite_is_left_out():
    """NaN and infinite predictions neither count as rows nor spoil the stream; a tick of nothing else is skipped."""
    clean, dirty = Signal("prediction", MEAN, SD), Signal("prediction", MEAN, SD)
    for values in batches_of(5, 50):
        clean.add(values)
        clean.tick()
        dirty.add(np.concatenate([[np.nan, np.inf], values, [-np.inf]]))
        dirty.tick()
        dirty.add(np.array([np.nan, np.inf]))
        assert not dirty.tick()
    assert dirty.detector.statistic == clean.detector.statistic
    assert dirty.detector.skipped == 0


def test_enormous_values_do_not_blind_it():
    """After predictions whose sum overflows, a shift is still found."""
    signal = Signal("prediction", MEAN, SD)
    signal.add(np.full(10, 1e308))
    assert not signal.tick()
    assert len(alarms_of(signal, [*batches_of(1, 300), *batches_of(2, 500, shift=0.5)])) == 1


def test_alarms_go_on():
    """A stream that takes the place of another counts alarms from where that one stopped, and only those."""
    before, after = Signal("prediction", MEAN, SD), Signal("prediction", 0.0, 1.0)
    alarms_of(before, [*batches_of(1, 300), *batches_of(2, 500, shift=0.5)])
    before.last_alarm = 77.0
    after.go_on(before)
    assert (after.detector.alarms, after.last_alarm, after.detector.statistic) == (1, 77.0, 0.0)
