"""The sliding window: numpy as the oracle, and the specification's example."""

from __future__ import annotations

import math

import numpy as np
import pytest

from modelwatch.detectors import SlidingWindowDetector


def accuracy_example() -> list[float]:
    """The specification's stream: accuracy 0.92 for 3,000 rows, then 0.85 for 2,000."""
    rng = np.random.default_rng(42)
    return np.concatenate([rng.normal(0.92, 0.02, 3000), rng.normal(0.85, 0.03, 2000)]).tolist()


def errors(seed: int, *rates: tuple[float, int]) -> list[float]:
    rng = np.random.default_rng(seed)
    return [float(x) for rate, n in rates for x in rng.random(n) < rate]


class TestSlidingWindowDetector:
    def test_specification_example(self, alarm_rows) -> None:
        """The specification's example gives exactly one alarm, soon after the drop, and the episode goes on."""
        detector = SlidingWindowDetector(window_size=500, reference_size=2000, threshold=0.03)
        rows = alarm_rows(detector, accuracy_example())
        assert len(rows) == 1
        assert 3100 < rows[0] < 3500
        assert (detector.active, detector.severity) == (True, "high")
        assert detector.change == pytest.approx((0.85 - 0.92) / 0.92, abs=0.003)

    def test_error_rate_doubles(self, alarm_rows) -> None:
        """A doubled error rate is found, though it goes up, about when the window is full of it."""
        detector = SlidingWindowDetector()
        stream = errors(1, (0.05, 8000), (0.10, 3000))
        rows = alarm_rows(detector, stream)
        assert len(rows) == 1
        assert 8500 < rows[0] < 9500
        assert detector.severity == "high"

    def test_slow_decay(self, alarm_rows) -> None:
        """A loss of 22 % over 40,000 rows is found once, before half of it is lost."""
        accuracy = np.linspace(0.92, 0.72, 40_000) + np.random.default_rng(2).normal(0, 0.02, 40_000)
        rows = alarm_rows(SlidingWindowDetector(), accuracy.tolist())
        assert len(rows) == 1
        assert 5000 < rows[0] < 20_000

    def test_drift_is_not_absorbed(self, alarm_rows) -> None:
        """However long the new level lasts, the episode lasts too."""
        detector = SlidingWindowDetector(window_size=200, reference_size=1000)
        rng = np.random.default_rng(4)
        rows = alarm_rows(detector, rng.normal(0.92, 0.02, 1500).tolist() + rng.normal(0.85, 0.02, 30_000).tolist())
        assert len(rows) == 1
        assert detector.active
        assert detector.change == pytest.approx(-0.076, abs=0.005)

    @pytest.mark.parametrize("rate", [0.003, 0.05, 0.5])
    def test_noise_is_no_drift(self, rate: float) -> None:
        """A steady error rate does not alarm, though its noise moves the window's mean by more than the threshold."""
        detector = SlidingWindowDetector(window_size=200, reference_size=1000)
        largest = 0.0
        for x in errors(6, (rate, 40_000)):
            detector.update(x)
            largest = max(largest, abs(detector.change or 0.0))
        assert detector.alarms == 0
        assert largest > 2 * detector.threshold

    def test_rearms_below_half(self, alarm_rows) -> None:
        """A new episode needs the change to have been below half the threshold in between."""
        parameters = {"window_size": 10, "reference": [1.0] * 10, "threshold": 0.1}
        up, between, home = [1.2] * 10, [1.06] * 10, [1.04] * 10
        assert len(alarm_rows(SlidingWindowDetector(**parameters), up + between + up)) == 1
        assert len(alarm_rows(SlidingWindowDetector(**parameters), up + home + up)) == 2

    def test_severity(self, alarm_rows) -> None:
        """An episode is high above twice the threshold, medium below; without one there is no severity."""
        detector = SlidingWindowDetector(window_size=4, reference=[1.0] * 4, threshold=0.1)
        seen = []
        for level in (1.09, 1.11, 1.21, 1.06, 1.0):
            alarm_rows(detector, [level] * 4)
            seen.append(detector.severity)
        assert seen == [None, "medium", "high", "medium", None]

    def test_direction(self, alarm_rows) -> None:
        """A one-sided detector takes no notice of the other direction."""
        stream = accuracy_example()
        assert alarm_rows(SlidingWindowDetector(reference_size=2000, direction="up"), stream) == []
        down = alarm_rows(SlidingWindowDetector(reference_size=2000, direction="down"), stream)
        assert down == alarm_rows(SlidingWindowDetector(reference_size=2000), stream) != []

    @pytest.mark.parametrize("reference", [None, [0.5, 1.25, 0.75] * 20])
    def test_change_is_exact(self, reference: list[float] | None, alarm_rows, steps) -> None:
        """At every row the change is that of numpy's means, from the first full window on."""
        detector = SlidingWindowDetector(window_size=37, reference_size=60, reference=reference)
        values = steps(8, (3, 5), 200)
        known = np.array(reference or values[:60])
        served = values if reference else values[60:]
        alarm_rows(detector, [] if reference else values[:60])
        for row, x in enumerate(served, start=1):
            detector.update(x)
            if row < 37:
                assert detector.change is None
            else:
                expected = (np.mean(served[row - 37 : row]) - known.mean()) / known.mean()
                assert detector.change == pytest.approx(expected, abs=1e-13)

    def test_huge_value_leaves_no_trace(self, alarm_rows, steps) -> None:
        """A huge value is forgotten to the last digit when it has left the window."""
        detector, twin = (SlidingWindowDetector(window_size=10, reference=[1.0, 2.0] * 10) for _ in range(2))
        values = steps(9, (1.5,), 40)
        alarm_rows(detector, [*values[:13], 1e99, -3e98, *values[13:23]])
        alarm_rows(twin, values[:23])
        assert detector.change == pytest.approx(twin.change, abs=1e-14)

    def test_signed_values_around_zero(self, alarm_rows) -> None:
        """Where the reference's mean may be zero, the change is in standard deviations, and noise does not alarm."""
        rng = np.random.default_rng(10)
        detector = SlidingWindowDetector(threshold=0.2)
        assert alarm_rows(detector, rng.normal(0, 3, 20_000).tolist()) == []
        assert len(alarm_rows(detector, rng.normal(-1.5, 3, 3000).tolist())) == 1
        assert detector.change == pytest.approx(-0.5, abs=0.1)

    def test_negative_mean(self, alarm_rows) -> None:
        """A rise from -2 to -1 is a change of +50 %, not of -50 %."""
        detector = SlidingWindowDetector(window_size=10, reference=[-2.0] * 20, direction="up")
        assert alarm_rows(detector, [-1.0] * 10) == [9]
        assert detector.change == 0.5

    def test_reference_of_zeros(self, alarm_rows) -> None:
        """Beside a reference without any error the change is absolute, and one error is no drift."""
        detector = SlidingWindowDetector(window_size=100, reference=[0.0] * 500, threshold=0.1)
        assert alarm_rows(detector, [0.0] * 99 + [1.0]) == []
        assert detector.change == 0.01
        assert len(alarm_rows(detector, [1.0] * 60)) == 1

    def test_given_reference(self, alarm_rows) -> None:
        """A reference that is given works as the same values learnt, and its unusable values are counted."""
        stream = accuracy_example()
        learnt = SlidingWindowDetector(window_size=500, reference_size=2000)
        given = SlidingWindowDetector(window_size=500, reference=[*stream[:2000], math.nan, math.inf])
        assert alarm_rows(learnt, stream) == [row + 2000 for row in alarm_rows(given, stream[2000:])] != []
        assert (given.skipped, given.change) == (2, learnt.change)

    def test_reset_and_the_reference(self, alarm_rows) -> None:
        """reset forgets a reference that was learnt and keeps one that was given."""
        learnt = SlidingWindowDetector(window_size=10, reference_size=20)
        given = SlidingWindowDetector(window_size=10, reference=[1.0] * 20)
        for detector, alarms in ((learnt, 1), (given, 2)):
            alarm_rows(detector, [1.0] * 30 + [2.0] * 10)
            detector.reset()
            assert (detector.active, detector.change) == (False, None)
            alarm_rows(detector, [2.0] * 50)
            assert detector.alarms == alarms
