"""The Page-Hinkley test: has the mean of a stream moved?"""

from __future__ import annotations

from typing import Self

from .base import LIMIT, StreamDetector, checked_direction, checked_real, checked_whole


class PageHinkley(StreamDetector):
    """Page-Hinkley test for a change of the mean, in both directions [1].

    Every value adds its distance from the running mean, less a tolerance, to a sum; the alarm comes when the sum
    has moved more than `threshold` away from its extreme. Alarms come at the same rows as those of
    `river.drift.PageHinkley` (whose `mode` is `direction` here).

    Parameters
    ----------
    delta
        Change of the mean to tolerate, in units of the stream, >= 0.
    threshold
        Alarm when the statistic exceeds it, in units of the stream, > 0.
    alpha
        Share of the sum kept at every value, in (0, 1]; 1 forgets nothing.
    min_instances
        Values needed, from the start or the last alarm, before there can be an alarm.
    direction
        "up", "down" or "both".

    Attributes
    ----------
    alarms, skipped
        Alarms so far; values that were NaN, infinite or beyond 1e100 in size, which change nothing else.

    Notes
    -----
    An alarm resets everything but the counts: the next value begins a new mean, so that a lasting change alarms once.

    Threads: one at a time; the caller holds a lock if there are several.
    Processes: one sees the whole stream; `to_state` and `from_state` move a detector to another.

    References
    ----------
    [1] E. S. Page, Continuous inspection schemes, Biometrika 41 (1954).

    >>> detector = PageHinkley.standardised()
    >>> for row, x in enumerate([0.0] * 100 + [2.0] * 100):
    ...     detector.update(x)
    ...     if detector.drift_detected:
    ...         print(row)
    130
    """

    _PARAMETERS = ("delta", "threshold", "alpha", "min_instances", "direction")

    def __init__(
        self,
        *,
        delta: float = 0.005,
        threshold: float = 50.0,
        alpha: float = 0.9999,
        min_instances: int = 30,
        direction: str = "both",
    ) -> None:
        super().__init__()
        self.delta = checked_real("delta", delta, "zero or a positive number", lambda v: v >= 0)
        self.threshold = checked_real("threshold", threshold, "a positive number", lambda v: v > 0)
        self.alpha = checked_real("alpha", alpha, "greater than 0 and at most 1", lambda v: 0 < v <= 1)
        self.min_instances = checked_whole("min_instances", min_instances, 1)
        self.direction = checked_direction(direction)
        self._restart()

    @classmethod
    def standardised(cls, *, min_instances: int = 30, direction: str = "both") -> Self:
        """For streams of unit standard deviation: delta 0.1, threshold 50, no leak.

        On independent rows no false alarm in 10,000; +0.25, +0.5 and +1 sd are found after about 300, 120 and 50.
        The mean is still learnt: were it taken as 0, the reference's own sampling error, multiplied by the square
        root of the rows behind each value, would alarm again and again although nothing changes.
        """
        return cls(delta=0.1, threshold=50.0, alpha=1.0, min_instances=min_instances, direction=direction)

    def _restart(self) -> None:
        # The first value is its own mean, so it takes the sums to -delta and +delta: 0 is as good an extreme as
        # infinity, and JSON can say it.
        self._n = 0
        self._mean = self._up = self._up_min = self._down = self._down_max = 0.0

    def update(self, x: float) -> None:
        """Take the next value of the stream; what is no number raises TypeError or ValueError and is not counted."""
        if self._drift:
            self._drift = False
            self._restart()
        x = float(x)  # a numpy float32 would drag the sums down to its precision
        if not -LIMIT < x < LIMIT:  # false for NaN too
            self.skipped += 1
            return
        self._n = n = self._n + 1
        # This order of operations is river's: another one rounds differently, and alarms at another row.
        self._mean = mean = self._mean + (1.0 / n) * (x - self._mean)
        deviation = x - mean
        alpha, delta = self.alpha, self.delta
        self._up = up = alpha * self._up + deviation - delta
        self._down = down = alpha * self._down + deviation + delta
        low, high, threshold = self._up_min, self._down_max, self.threshold
        if up < low:
            self._up_min = low = up
        if down > high:
            self._down_max = high = down
        # Only `statistic` knows which side is watched; it is not asked at every value.
        if (up - low > threshold or high - down > threshold) and n >= self.min_instances and self.statistic > threshold:
            self._drift = True
            self.alarms += 1

    @property
    def statistic(self) -> float:
        """The larger of the watched sides' distances from their extremes, in units of the stream, >= 0."""
        up = self._up - self._up_min
        down = self._down_max - self._down
        return max(up, down) if self.direction == "both" else up if self.direction == "up" else down

    @property
    def state(self) -> int:
        """0 ok, 1 warning (at least half the threshold, after `min_instances` values), 2 drift found just now."""
        if self._drift:
            return 2
        return int(self._n >= self.min_instances and self.statistic >= self.threshold / 2)
