"""The mean of the last values against that of a reference."""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import accumulate

from ..exceptions import ConfigurationError
from .base import LIMIT, StreamDetector, checked_direction, checked_real, checked_whole


class SlidingWindowDetector(StreamDetector):
    """The mean of the last `window_size` values against the mean of a reference that never moves.

    The alarm comes when the change is large *and* more than chance: the relative change exceeds `threshold`, and the
    difference of the means exceeds four standard errors (so that a small error rate does not alarm by its own noise;
    without drift at most about one false alarm in 1,000 windows, if rows are independent). An episode then lasts until
    the change falls below half the threshold; no other alarm comes before that.

    Parameters
    ----------
    window_size
        Values in the window; nothing is said before they are there.
    reference_size
        The first so many values become the reference, unless `reference` is given.
    threshold
        Change to alarm at, > 0: 0.05 is 5 % of the reference's mean.
    direction
        "up", "down" or "both".
    reference
        Values of a time known to be good, at least two. Copied as mean, standard deviation and count.

    Attributes
    ----------
    alarms, skipped
        Alarms so far; values that were NaN, infinite or beyond 1e100 in size, which change nothing else.

    Notes
    -----
    `reset` also forgets a reference that was learnt from the stream, not one that was given.

    Threads: one at a time; the caller holds a lock if there are several.
    Processes: one sees the whole stream; `to_state` and `from_state` move a detector to another.

    >>> detector = SlidingWindowDetector(window_size=10, reference=[0.92, 0.94] * 50)
    >>> for row, accuracy in enumerate([0.93] * 20 + [0.85] * 20):
    ...     detector.update(accuracy)
    ...     if detector.drift_detected:
    ...         print(row, round(detector.change, 3), detector.severity)
    26 -0.06 medium
    """

    _PARAMETERS = ("window_size", "reference_size", "threshold", "direction")
    _NOISE = 4.0  # standard errors

    def __init__(
        self,
        *,
        window_size: int = 1000,
        reference_size: int = 5000,
        threshold: float = 0.05,
        direction: str = "both",
        reference: Iterable[float] | None = None,
    ) -> None:
        super().__init__()
        self.window_size = checked_whole("window_size", window_size, 1)
        self.reference_size = checked_whole("reference_size", reference_size, 2)
        self.threshold = checked_real("threshold", threshold, "a positive number", lambda v: v > 0)
        self.direction = checked_direction(direction)
        self._given = False
        self._restart()
        if reference is not None:
            self._take(reference)

    def _take(self, reference: Iterable[float]) -> None:
        try:
            given = [float(x) for x in reference]
        except (TypeError, ValueError, OverflowError) as error:
            raise ConfigurationError(
                f"Expected `reference` to be a sequence of numbers, but {error}. Pass the values themselves."
            ) from error
        kept = [x for x in given if -LIMIT < x < LIMIT]
        self.skipped += len(given) - len(kept)
        if len(kept) < 2:
            raise ConfigurationError(
                f"Expected at least two finite values in `reference`, but there are {len(kept)}. "
                "Pass more, or leave it out to learn it from the stream."
            )
        self._freeze(kept)
        self._given = True

    def _restart(self) -> None:
        if not self._given:
            self._count, self._mean, self._sd, self._scale = 0, 0.0, 0.0, 1.0
            self._learning: list[float] = []
        self._active = False
        # The window is, as differences from the reference's mean, the end of the last full round and all of the
        # round that has begun. Its sums are those of that end, known beforehand for every end, plus running ones:
        # nothing is ever subtracted, so no rounding error outlives the (perhaps huge) value that caused it.
        self._round: list[float] = []
        self._sum = self._squares = 0.0
        self._end_sums: list[float] = []
        self._end_squares: list[float] = []

    def _freeze(self, values: list[float]) -> None:
        self._count = len(values)
        self._mean = math.fsum(values) / self._count
        self._sd = math.sqrt(math.fsum((x - self._mean) ** 2 for x in values) / (self._count - 1))
        self._scale = abs(self._mean)
        if self._scale <= self._NOISE * self._sd / math.sqrt(self._count):
            self._scale = self._sd or 1.0
        self._learning = []

    def update(self, x: float) -> None:
        """Take the next value of the stream; what is no number raises TypeError or ValueError and is not counted."""
        self._drift = False
        x = float(x)
        if not -LIMIT < x < LIMIT:  # false for NaN too
            self.skipped += 1
        elif self._count:
            self._slide(x - self._mean)
            if self._end_sums:
                self._judge()
        else:
            self._learning.append(x)
            if len(self._learning) == self.reference_size:
                self._freeze(self._learning)

    def _slide(self, difference: float) -> None:
        self._round.append(difference)
        self._sum += difference
        self._squares += difference * difference
        if len(self._round) == self.window_size:
            self._round.reverse()
            self._end_sums = list(accumulate(self._round, initial=0.0))[::-1]
            self._end_squares = list(accumulate((d * d for d in self._round), initial=0.0))[::-1]
            self._round = []
            self._sum = self._squares = 0.0

    def _moments(self) -> tuple[float, float]:
        """Of the differences in the full window: their mean, and their mean square."""
        done = len(self._round)
        total, squares = self._end_sums[done] + self._sum, self._end_squares[done] + self._squares
        return total / self.window_size, squares / self.window_size

    def _judge(self) -> None:
        size = self._size()
        if self._active:
            self._active = size >= self.threshold / 2
        elif size > self.threshold:
            mean, square = self._moments()
            # The larger of both variances: neither a reference nor a window without errors is proof of no noise.
            variance = max(self._sd**2, square - mean * mean)
            if mean * mean > self._NOISE**2 * variance * (1 / self.window_size + 1 / self._count):
                self._active = True
                self._drift = True
                self.alarms += 1

    def _size(self) -> float:
        """The change in the watched direction, >= 0; 0 while there is none to speak of."""
        change = self.change or 0.0
        return abs(change) if self.direction == "both" else max(0.0, change if self.direction == "up" else -change)

    @property
    def active(self) -> bool:
        """Whether an episode lasts."""
        return self._active

    @property
    def change(self) -> float | None:
        """(mean of the window - mean of the reference) / scale; None before the window is full.

        The scale is the reference's absolute mean. Where that lies within four standard errors of 0 (signed errors),
        a change relative to it would be relative to chance: the scale is then the reference's standard deviation, and
        1 (the unit of the stream) if the reference is nothing but zeros.
        """
        if not self._end_sums:
            return None
        return self._moments()[0] / self._scale

    @property
    def severity(self) -> str | None:
        """None outside an episode, else "medium", or "high" while the change is over twice the threshold."""
        if not self._active:
            return None
        return "high" if self._size() > 2 * self.threshold else "medium"
