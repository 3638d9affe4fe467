"""ADWIN: a window that grows as long as its stream does not change."""

from __future__ import annotations

import math

from .base import LIMIT, StreamDetector, checked_real, checked_whole, refusal


class ADWIN(StreamDetector):
    """Adaptive window: as long as its halves agree, whatever the cut, it grows; else there is an alarm [1].

    The window is kept as an exponential histogram: at most `max_buckets` + 1 sums of 2**i values for each i, so memory
    grows with the logarithm of the window. The bound it tests against is made for values in [0, 1], such as errors and
    probabilities: divide others by their range. Alarms come at the same rows as those of `river.drift.ADWIN`.

    Parameters
    ----------
    delta
        Bound on the false alarms of one check, in (0, 1).
    clock
        Check at every so many values.
    grace_period
        No check in a window of at most this many values.
    min_window_length
        Least number of values on either side of a cut.
    max_buckets
        Sums kept of each size; more cut finer, and cost more.
    keep_newer
        After an alarm go on with the newer part of the window, as in the paper. One step then alarms several times,
        for the window gives way piece by piece. By default the window begins anew, as in river.

    Attributes
    ----------
    width
        Values in the window.
    alarms, skipped
        Alarms so far; values that were NaN, infinite or beyond 1e100 in size, which change nothing else.

    Notes
    -----
    Threads: one at a time; the caller holds a lock if there are several.
    Processes: one sees the whole stream; `to_state` and `from_state` move a detector to another.

    References
    ----------
    [1] A. Bifet, R. Gavalda, Learning from time-changing data with adaptive windowing, SIAM SDM 2007; the variance of
    merged buckets is that of B. Babcock et al., PODS 2003.

    >>> detector = ADWIN()
    >>> for row, x in enumerate([0.0] * 320 + [1.0] * 320):
    ...     detector.update(x)
    ...     if detector.drift_detected:
    ...         print(row, detector.width)
    351 56
    """

    _PARAMETERS = ("delta", "clock", "grace_period", "min_window_length", "max_buckets", "keep_newer")

    def __init__(
        self,
        *,
        delta: float = 0.002,
        clock: int = 32,
        grace_period: int = 10,
        min_window_length: int = 5,
        max_buckets: int = 5,
        keep_newer: bool = False,
    ) -> None:
        super().__init__()
        self.delta = checked_real("delta", delta, "between 0 and 1", lambda v: 0 < v < 1)
        self.clock = checked_whole("clock", clock, 1)
        self.grace_period = checked_whole("grace_period", grace_period, 0)
        self.min_window_length = checked_whole("min_window_length", min_window_length, 1)
        self.max_buckets = checked_whole("max_buckets", max_buckets, 2)
        if not isinstance(keep_newer, bool):
            raise refusal("keep_newer", keep_newer, "True or False")
        self.keep_newer = keep_newer
        self._restart()

    def _restart(self) -> None:
        self.width = 0
        self._total = self._variance = 0.0  # _variance is the sum of squared deviations
        self._tick = 0
        # Row i: sums of 2**i values each, and the squared deviations within each, oldest first.
        self._rows: list[list[list[float]]] = [[[], []]]

    def update(self, x: float) -> None:
        """Take the next value of the stream; what is no number raises TypeError or ValueError and is not counted."""
        if self._drift:
            self._drift = False
            if not self.keep_newer:
                self._restart()
        x = float(x)
        if not -LIMIT < x < LIMIT:  # false for NaN too
            self.skipped += 1
            return
        before = self.width
        self.width = width = before + 1
        if before:
            step = x - self._total / before
            self._variance += before * step * step / width
        self._total += x
        totals, variances = self._rows[0]
        totals.append(x)
        variances.append(0.0)
        if len(totals) > self.max_buckets:
            self._compress()
        self._tick += 1
        if self._tick >= self.clock:
            self._tick = 0
            if width > self.grace_period:
                while self._cut():
                    self._drift = True
                self.alarms += self._drift

    def _compress(self) -> None:
        """Merge the two oldest buckets of every row that is too long into one of the next row."""
        size = 1
        for row, (totals, variances) in enumerate(self._rows):
            if len(totals) <= self.max_buckets:
                return
            if row + 1 == len(self._rows):
                self._rows.append([[], []])
            first, second = totals[0], totals[1]
            gap = first / size - second / size
            merged_totals, merged_variances = self._rows[row + 1]
            merged_totals.append(first + second)
            merged_variances.append(variances[0] + variances[1] + size * 0.5 * gap * gap)
            del totals[:2], variances[:2]
            size *= 2

    def _cut(self) -> bool:
        """Drop the oldest bucket if the means on both sides of any cut differ by too much; was one dropped?"""
        if self.width < 2:
            return False
        shortest, margin = self.min_window_length, self.min_window_length - 1
        scaled = math.log(2.0 * math.log(self.width) / self.delta)
        linear = 2.0 / 3.0 * scaled
        spread = max(0.0, self._variance) / self.width  # what many deletions leave may be a rounding below 0
        older, newer = 0.0, float(self.width)
        older_total, newer_total = 0.0, self._total
        for row in range(len(self._rows) - 1, -1, -1):
            size = float(1 << row)
            for total in self._rows[row][0]:
                older += size
                newer -= size
                older_total += total
                newer_total -= total
                if newer < shortest:
                    return False
                if older >= shortest:
                    # This order of operations is river's: another one rounds differently.
                    inverse = 1.0 / (older - margin) + 1.0 / (newer - margin)
                    bound = math.sqrt(2.0 * inverse * spread * scaled) + linear * inverse
                    if abs(older_total / older - newer_total / newer) > bound:
                        self._drop_oldest()
                        return True
        return False

    def _drop_oldest(self) -> None:
        size = 1 << (len(self._rows) - 1)
        totals, variances = self._rows[-1]
        total, variance = totals.pop(0), variances.pop(0)
        self.width -= size
        self._total -= total
        gap = total / size - self._total / self.width
        self._variance -= variance + size * self.width * gap * gap / (size + self.width)
        if not totals:
            self._rows.pop()

    @property
    def estimation(self) -> float | None:
        """Mean of the window; None while it is empty."""
        return self._total / self.width if self.width else None
