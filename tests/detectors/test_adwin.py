"""ADWIN: river as the oracle, false alarms as figures, and what is left of the window."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from modelwatch.detectors import ADWIN


class TestADWIN:
    @pytest.mark.parametrize(
        "parameters",
        [{}, {"delta": 0.2, "clock": 1, "min_window_length": 1, "grace_period": 0, "max_buckets": 2}],
    )
    def test_alarms_as_river(self, parameters: dict[str, Any], oracle_stream) -> None:
        """Alarms, and the window at every row, are river's on 20 random streams."""
        river = pytest.importorskip("river.drift")
        alarms = 0
        for seed in range(20):
            own, other = ADWIN(**parameters), river.ADWIN(**parameters)
            for x in oracle_stream(seed):
                own.update(x)
                other.update(x)
                assert own.drift_detected == other.drift_detected
                assert (own.width, own.estimation) == (other.width, other.estimation)
            alarms += own.alarms
        assert alarms > 20

    def test_false_alarms(self, alarm_rows) -> None:
        """At most two false alarms in 200,000 rows of errors at a steady rate."""
        rng = np.random.default_rng(5)
        assert len(alarm_rows(ADWIN(), (rng.random(200_000) < 0.08).astype(float).tolist())) <= 2

    def test_window_begins_anew(self, alarm_rows) -> None:
        """After an alarm the default window holds only what comes next."""
        detector = ADWIN()
        row = alarm_rows(detector, [0.0] * 320 + [1.0] * 32)[0]
        detector.update(5.0)
        assert (row, detector.width, detector.estimation) == (351, 1, 5.0)

    def test_keep_newer(self, alarm_rows) -> None:
        """With keep_newer the window loses the older part only, and its mean comes to be that of the newer values."""
        detector = ADWIN(keep_newer=True)
        first = alarm_rows(detector, [0.0] * 320 + [1.0] * 32)
        width = detector.width
        detector.update(1.0)
        assert first == [351]
        assert detector.width == width + 1 > 32
        alarm_rows(detector, [1.0] * 1000)
        assert detector.estimation == pytest.approx(1.0, abs=0.02)

    def test_keep_newer_agrees_until_the_first_alarm(self, alarm_rows, steps) -> None:
        """Both variants find the first change at the same row; keep_newer then alarms more often."""
        stream = steps()
        default, newer = alarm_rows(ADWIN(), stream), alarm_rows(ADWIN(keep_newer=True), stream)
        assert default[0] == newer[0]
        assert len(newer) > len(default)

    def test_smallest_windows(self, alarm_rows) -> None:
        """Checks of windows down to one value neither alarm on equal values nor fail."""
        detector = ADWIN(clock=1, grace_period=0, min_window_length=1, max_buckets=2, keep_newer=True)
        assert alarm_rows(detector, [1.0] * 50) == []
        assert alarm_rows(detector, [1e6, -1e6] * 200 + [1e9] * 50) != []
        assert detector.width >= 1

    def test_rounding_of_the_variance(self, alarm_rows) -> None:
        """Levels of very different sizes, which can leave a variance just below zero, do not stop it."""
        for seed in range(40):
            rng = np.random.default_rng(seed)
            levels = rng.uniform(0, 1, 6) * 10.0 ** rng.integers(0, 9, 6)
            detector = ADWIN(clock=1, grace_period=0, keep_newer=True)
            assert alarm_rows(detector, np.repeat(levels, 40).tolist()) != []

    def test_empty(self) -> None:
        """An empty window has no mean, rather than a made-up one."""
        assert ADWIN().estimation is None
