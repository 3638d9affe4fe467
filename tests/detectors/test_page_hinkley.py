"""Page-Hinkley: river as the oracle, and false alarms and delays as figures."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from modelwatch.detectors import PageHinkley


class TestPageHinkley:
    @pytest.mark.parametrize("direction", ["both", "up", "down"])
    @pytest.mark.parametrize("parameters", [{}, {"threshold": 8.0, "delta": 0.01}, {"alpha": 1.0, "min_instances": 5}])
    def test_alarms_as_river(self, direction: str, parameters: dict[str, Any], alarm_rows, oracle_stream) -> None:
        """Alarms come at the same rows as river's on 20 random streams."""
        river = pytest.importorskip("river.drift")
        alarms = 0
        for seed in range(20):
            stream = oracle_stream(seed)
            expected = alarm_rows(river.PageHinkley(mode=direction, **parameters), stream)
            assert alarm_rows(PageHinkley(direction=direction, **parameters), stream) == expected
            alarms += len(expected)
        assert alarms > 20

    def test_false_alarms_standardised(self, alarm_rows) -> None:
        """No false alarm in 20 streams of 10,000 rows without drift."""
        rng = np.random.default_rng(0)
        for _ in range(20):
            assert alarm_rows(PageHinkley.standardised(), rng.normal(size=10_000).tolist()) == []

    @pytest.mark.parametrize(("shift", "low", "high"), [(0.25, 200, 400), (0.5, 80, 200), (-0.5, 80, 200), (1, 40, 60)])
    def test_delay_standardised(self, shift: float, low: int, high: int, alarm_rows) -> None:
        """Shifts of 0.25, 0.5 and 1 sd are found in all of 40 streams, with the median delays of the design."""
        delays = []
        for seed in range(40):
            rng = np.random.default_rng(seed)
            detector = PageHinkley.standardised()
            assert alarm_rows(detector, rng.normal(size=2000).tolist()) == []
            delays.append(alarm_rows(detector, rng.normal(shift, 1, 2000).tolist())[0])
        assert low <= np.median(delays) <= high

    def test_offset_is_no_change(self, alarm_rows) -> None:
        """A standardised stream that is off by 0.3 sd from its first row on has not changed."""
        stream = np.random.default_rng(1).normal(0.3, 1, 10_000)
        assert alarm_rows(PageHinkley.standardised(), stream.tolist()) == []

    def test_full_reset(self, alarm_rows) -> None:
        """A lasting step alarms once, for the alarm also resets the mean."""
        stream = [0.0] * 200 + [3.0] * 5000
        assert len(alarm_rows(PageHinkley(), stream)) == 1

    def test_state_and_statistic(self) -> None:
        """The state is 0, then 1 from half the threshold on, 2 at the alarm alone, and 0 after it."""
        detector = PageHinkley(threshold=20.0)
        seen = []
        for x in [0.0] * 100 + [1.0] * 60:
            detector.update(x)
            seen.append((detector.state, detector.statistic))
        states = [state for state, _ in seen]
        assert states == sorted(states[: states.index(2)]) + [2] + [0] * (159 - states.index(2))
        assert 1 in states
        for state, statistic in seen:
            assert state == (2 if statistic > 20 else 1 if statistic >= 10 else 0)

    def test_warm_up(self, alarm_rows) -> None:
        """Nothing is said before min_instances values, however large the statistic."""
        detector = PageHinkley(min_instances=30)
        rows = alarm_rows(detector, [0.0] + [100.0] * 28)
        assert (rows, detector.state) == ([], 0)
        assert detector.statistic > detector.threshold
        detector.update(100.0)
        assert (detector.drift_detected, detector.state) == (True, 2)

    def test_direction(self, alarm_rows) -> None:
        """A one-sided detector takes no notice of the other side, neither in alarms nor in the statistic."""
        fall = [1.0] * 100 + [0.0] * 1000
        assert alarm_rows(PageHinkley(direction="up"), fall) == []
        assert alarm_rows(PageHinkley(direction="down"), fall) == alarm_rows(PageHinkley(), fall) != []
        blind = PageHinkley(direction="up")
        alarm_rows(blind, fall[:140])
        assert blind.statistic == 0.0
