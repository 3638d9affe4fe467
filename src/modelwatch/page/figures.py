"""Numbers of a page: looked up in what a scrape reads, subtracted, and cut to what is worth reading."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

from ..series import Cell, Sample

Bound = dict[str, Any]


class Buckets(NamedTuple):
    """A histogram: upper bounds, counts of the buckets (one more, not cumulated), and the sum of what was counted."""

    bounds: tuple[float, ...]
    counts: tuple[float, ...]
    total: float

    @property
    def size(self) -> float:
        """How many were counted."""
        return sum(self.counts)

    @property
    def mean(self) -> float | None:
        """Of what was counted; None if that is nothing."""
        return self.total / self.size if self.size > 0 else None

    def since(self, before: Buckets | None) -> Buckets | None:
        """What came after `before`; None if that is not known, as when the service has begun anew."""
        if before is None or before.bounds != self.bounds:
            return None
        counts = tuple(now - then for now, then in zip(self.counts, before.counts, strict=True))
        return Buckets(self.bounds, counts, self.total - before.total) if min(counts) >= 0 else None

    def quantile(self, q: float) -> Bound | None:
        """The value that a share `q` does not exceed, between two bounds by linear interpolation; None without counts.

        In the first and the last bucket there is one bound only: then it says so, and does not make up a number.

        >>> Buckets((0.1, 0.2), (0.0, 8.0, 2.0), 1.5).quantile(0.4)
        {'value': 0.15}
        >>> Buckets((0.1, 0.2), (0.0, 8.0, 2.0), 1.5).quantile(0.99)
        {'value': 0.2, 'beyond': 'above'}
        """
        if self.size <= 0 or not self.bounds:
            return None
        wanted = q * self.size
        upto = list(accumulate(self.counts))
        i = next(i for i, count in enumerate(self.counts) if count and upto[i] >= wanted * (1 - 1e-12))
        below = upto[i] - self.counts[i]
        if i == 0:
            return {"value": rounded(self.bounds[0]), "beyond": "below"}
        if i == len(self.bounds):
            return {"value": rounded(self.bounds[-1]), "beyond": "above"}
        low, high = self.bounds[i - 1], self.bounds[i]
        return {"value": rounded(low + (high - low) * (wanted - below) / self.counts[i])}


class Found:
    """What a scrape reads, by metric and label values. Of two equals the first one counts.

    >>> found = Found([Sample("model_rows_total", ("bike", "1"), 7), Sample("model_workers", (), math.nan)])
    >>> found.number("model_rows_total", "bike", "1"), found.number("model_workers"), found.number("model_rows_total")
    (7.0, None, None)
    """

    def __init__(self, items: Iterable[Sample | Cell]) -> None:
        self._items: dict[str, dict[tuple[str, ...], Sample | Cell]] = {}
        for item in items:
            self._items.setdefault(item.metric, {}).setdefault(item.labels, item)

    def number(self, metric: str, *labels: str) -> float | None:
        """One number; None if it is not known."""
        return _number(self._items.get(metric, {}).get(labels))

    def by_last(self, metric: str, *labels: str) -> dict[str, float]:
        """Numbers by the value of the last label, of those whose other labels are these."""
        found = {own[-1]: _number(item) for own, item in self._items.get(metric, {}).items() if own[:-1] == labels}
        return {name: number for name, number in found.items() if number is not None}

    def buckets(self, metric: str, *labels: str) -> Buckets | None:
        """A histogram, the sum of those whose first labels are these; None if there is none."""
        found = [
            item
            for own, item in self._items.get(metric, {}).items()
            if own[: len(labels)] == labels and isinstance(item, Cell) and item.bounds is not None
        ]
        alike = [item for item in found if item.bounds == found[0].bounds]
        if not alike or alike[0].bounds is None:
            return None
        sums = [float(sum(cells)) for cells in zip(*(item.values for item in alike), strict=True)]
        return Buckets(tuple(map(float, alike[0].bounds)), tuple(sums[:-1]), sums[-1])


def _number(item: Sample | Cell | None) -> float | None:
    if item is None:
        return None
    value = float(item.value) if isinstance(item, Sample) else float(item.values[0])
    return value if math.isfinite(value) else None


def rounded(x: float | None, digits: int = 4) -> float | None:
    """So many digits, as many as anybody reads; None for what is no number.

    >>> rounded(0.123456), rounded(1234567.0), rounded(math.nan)
    (0.1235, 1235000.0, None)
    """
    return None if x is None or not math.isfinite(x) else float(f"{x:.{digits}g}")


def shares(counts: Sequence[float]) -> list[float]:
    """Parts of a sum that is not 0."""
    total = sum(counts)
    return [rounded(count / total) or 0.0 for count in counts]
