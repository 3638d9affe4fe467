"""The shares of several workers, added up: each metric as its entry of the catalogue says.

The sums do not depend on the order, and not on how many of the workers are still alive: a counter that fell by the last
bit of a float would be taken for one that began anew. So numbers with a fraction are cut to multiples of 2**-20 before
they are added, a millionth of a second at most: sums of those are exact as long as they stay below 2**33. Predicted
values, which may be of any size, are cut to such a part of the largest bound of their buckets.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import numpy.typing as npt

from ._types import Floats
from .metrics.catalogue import CATALOGUE
from .series import OTHER, Key, width
from .shares import Share

_GRID = 2.0**20
_OF_ANY_SIZE = "model_prediction_value"  # in the model's own unit
_PART = 2.0**24  # of the largest bound: exact for 500 million rows

Positions = npt.NDArray[np.intp]


class _Plan:
    """Where the cells of a share's series go in the sums of all: targets and sources, by how they are added up."""

    def __init__(self, keys: tuple[Key, ...], place: Callable[[Key], int]) -> None:
        self.keys = keys
        pairs: dict[str, list[tuple[int, int]]] = {"sum": [], "live": [], "max": [], "min": []}
        start = 0
        for key in keys:
            size = width(key[2])
            if is_known(key):
                merge = CATALOGUE[key[0]].merge
                kind = "sum" if outlives(key[0]) else merge if merge in {"max", "min"} else "live"
                pairs[kind].extend(enumerate(range(start, start + size), place(key)))
            start += size
        self.where = {kind: _positions(found) for kind, found in pairs.items()}


class Adder:
    """Adds up the series of shares, at every scrape anew.

    Parameters
    ----------
    limit
        Label sets of one metric, as of a worker's own series: others become the one whose values are all `_other`.

    Notes
    -----
    Threads: one at a time. Processes: each has its own.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._places: dict[Key, int] = {}
        self._sets: dict[str, int] = {}
        self._size = 0
        self._plans: dict[int, _Plan] = {}

    def add(self, shares: Sequence[Share]) -> tuple[tuple[Key, ...], Floats]:
        """All series that there are, and their cells, end to end; of the dead only those that outlive them."""
        plans = [self._plan(share.keys) for share in shares]
        self._plans = {id(plan.keys): plan for plan in plans}  # of keys that nobody has any more none is kept
        total, largest, least = (np.full(self._size, start) for start in (0.0, -np.inf, np.inf))
        there = np.zeros(self._size, dtype=bool)
        for share, plan in zip(shares, plans, strict=True):
            for kind, (target, source) in plan.where.items():
                if not share.alive and kind != "sum":
                    continue
                values = share.values[source]
                if kind == "max":
                    np.maximum.at(largest, target, values)
                elif kind == "min":
                    np.minimum.at(least, target, values)
                else:
                    np.add.at(total, target, values)
                there[target] = True
        total = np.where(np.isfinite(largest), largest, np.where(np.isfinite(least), least, total))
        shown = self._of_same_bounds([(key, start) for key, start in self._places.items() if there[start]], total)
        parts = [total[start : start + width(key[2])] for key, start in shown]
        return tuple(key for key, _ in shown), np.concatenate(parts) if parts else np.empty(0)

    @staticmethod
    def _of_same_bounds(found: list[tuple[Key, int]], total: Floats) -> list[tuple[Key, int]]:
        """Each label set once: what is counted in other bounds, as after a reload, goes into the open bucket."""
        kept: dict[tuple[str, tuple[str, ...]], tuple[Key, int]] = {}
        for one in sorted(found, key=lambda one: one[0][2] or ()):
            first, at = kept.setdefault(one[0][:2], one)
            if first is not one[0]:
                start, count, end = one[1], len(one[0][2] or ()) + 1, at + width(first[2])
                total[end - 2] += total[start : start + count].sum()
                total[end - 1] += total[start + count]
        return [one for one in found if kept[one[0][:2]] is one]

    def _plan(self, keys: tuple[Key, ...]) -> _Plan:
        known = self._plans.get(id(keys))
        return _Plan(keys, self._place) if known is None else known

    def _place(self, key: Key) -> int:
        metric, labels, bounds = key
        if key not in self._places and self._sets.get(metric, 0) >= self._limit:
            key = (metric, (OTHER,) * len(labels), bounds)
        if key not in self._places:
            self._sets[metric] = self._sets.get(metric, 0) + 1
            self._places[key] = self._size
            self._size += width(bounds)
        return self._places[key]


def outlives(metric: str) -> bool:
    """Whether what a worker has counted goes on to count when it is dead."""
    entry = CATALOGUE[metric]
    return entry.merge == "sum" and entry.kind != "gauge"


def is_known(key: Key) -> bool:
    """False for what another version of the library may have written."""
    metric, labels, bounds = key
    entry = CATALOGUE.get(metric)
    return (
        entry is not None and len(labels) == len(entry.labels) and (entry.kind == "histogram") == (bounds is not None)
    )


def _positions(pairs: list[tuple[int, int]]) -> tuple[Positions, Positions]:
    """Targets and sources."""
    found = np.array(pairs, dtype=np.intp).reshape(-1, 2)
    return found[:, 0], found[:, 1]


def exact(keys: Iterable[Key], values: Floats) -> Floats:
    """Cells whose sums do not depend on the order, new."""
    cut = _cut(values, _GRID)
    start = 0
    for metric, _, bounds in keys:
        end = start + width(bounds)
        if metric == _OF_ANY_SIZE and bounds is not None:
            largest = max(map(abs, bounds), default=0.0)
            exponent = math.frexp(largest)[1] if 0 < largest < math.inf else 1
            cut[end - 1] = _cut(values[end - 1], math.ldexp(_PART, min(-exponent, 900)))
        start = end
    return cut


def _cut(values: Floats, grid: float) -> Floats:
    with np.errstate(invalid="ignore", over="ignore"):
        cut: Floats = np.floor(values * grid) / grid
    return np.where(np.isfinite(cut), cut, values)


def counted(share: Share) -> Share:
    """What outlives a worker; the same sums of fewer series."""
    kept: list[Key] = []
    parts: list[Floats] = []
    start = 0
    for key in share.keys:
        end = start + width(key[2])
        if is_known(key) and outlives(key[0]):
            kept.append(key)
            parts.append(share.values[start:end])
        start = end
    values = np.concatenate(parts) if parts else np.empty(0)
    return Share(share.name, False, tuple(kept), values, share.models)
