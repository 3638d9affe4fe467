"""Calibrated floors: how far chunks of the reference's own time order differ from the rest of it.

Real streams are not shuffled. A feature with a daily or weekly rhythm, or one like the weather that stays for days,
differs in every window from the whole reference, significantly, though nothing has changed. So at the fit the
reference is cut into consecutive chunks, and what hardly any chunk exceeds is the least that counts as large.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ._types import Counts, Floats
from .cells import Cells, Indices

SIZES = (200, 1_000, 10_000)
"""Rows of a chunk."""
_LEAST_CHUNKS = 8  # that do not overlap
_OVERLAP = 4  # a chunk begins at every quarter of the one before: the extremes of few chunks say little
_MOST_CHUNKS = 1_000  # of a size, spread evenly: more only cost memory
_QUANTILE = 0.99
_BEYOND = 0.25


class Floor(NamedTuple):
    """What chunks of `rows` rows stay below: KS or total variation, and change of the missing share.

    That is their 99 % quantile and a quarter of its distance from their median more: where rows are alike for days
    there are few independent chunks, and the next one exceeds the quantile of few more often than 1 % of the time.
    """

    rows: int
    distance: float
    missing: float


Floors = tuple[Floor, ...]
"""By rising number of rows; empty if the reference is too short to tell."""


def calibrate(cells: Cells, index: Indices) -> Floors:
    """Floors of a feature from the cells of its rows in time order, shape (rows,), not modified."""
    floors = []
    for size in SIZES:
        if len(index) // size < _LEAST_CHUNKS:
            break
        chunks = np.lib.stride_tricks.sliding_window_view(index, size)[:: size // _OVERLAP]
        counts = _chunk_counts(cells, chunks)
        rest = np.bincount(index, minlength=cells.size) - counts
        floors.append(Floor(size, *(_bound(changes) for changes in _changes(cells, counts, rest))))
    return tuple(floors)


def _bound(changes: Floats) -> float:
    middle, high = np.quantile(changes, [0.5, _QUANTILE])
    return float(min(high + _BEYOND * (high - middle), 1.0))


def loosest(a: Floors, b: Floors) -> Floors:
    """The larger of both, size by size."""
    by_size: dict[int, Floor] = {}
    for floor in sorted((*a, *b)):
        known = by_size.get(floor.rows, floor)
        by_size[floor.rows] = Floor(floor.rows, max(known.distance, floor.distance), max(known.missing, floor.missing))
    return tuple(by_size.values())


class FloorTable:
    """The floors of many features, for looking them up by rows.

    Parameters
    ----------
    floors
        One entry for each feature.

    Notes
    -----
    Threads: any number; never modified. Processes: picklable.

    >>> table = FloorTable([(Floor(200, 0.1, 0.0), Floor(1_000, 0.05, 0.0)), ()])
    >>> distance, missing = table.at(np.array([10_000, 500]))
    >>> distance.tolist()
    [0.05, 0.0]
    """

    def __init__(self, floors: Sequence[Floors]) -> None:
        # Features of one table were calibrated with the same chunks: a few groups, not one turn for each feature.
        groups: dict[tuple[int, ...], list[int]] = {}
        for i, known in enumerate(floors):
            groups.setdefault(tuple(floor.rows for floor in known), []).append(i)
        self._groups = [
            (np.log(sizes), np.array(members), np.array([floors[i] for i in members]))  # (members, sizes, 3)
            for sizes, members in groups.items()
            if sizes
        ]

    def at(self, rows: Counts) -> tuple[Floats, Floats]:
        """Both floors of each feature for its window rows, interpolated in their logarithm; 0 where there are none.

        `rows` has one entry for each feature; so have the results, which are new.
        """
        distance, missing = np.zeros(len(rows)), np.zeros(len(rows))
        at = np.log(np.maximum(rows, 1))
        for knots, members, table in self._groups:
            x = np.clip(at[members], knots[0], knots[-1])
            right = np.minimum(np.searchsorted(knots, x), len(knots) - 1)
            left = np.maximum(right - 1, 0)
            width = np.where(right > left, knots[right] - knots[left], 1.0)
            share = np.where(right > left, (x - knots[left]) / width, 0.0)[:, None]
            own = np.arange(len(members))
            between = table[own, left] * (1 - share) + table[own, right] * share
            distance[members], missing[members] = between[:, 1], between[:, 2]
        return distance, missing


def _chunk_counts(cells: Cells, chunks: Indices) -> Counts:
    """Counts of each chunk: int64, shape (chunks, cells)."""
    if len(chunks) > _MOST_CHUNKS:
        chunks = chunks[np.linspace(0, len(chunks) - 1, _MOST_CHUNKS).round().astype(np.intp)]
    rows = np.arange(len(chunks))[:, None] * cells.size
    return np.bincount((rows + chunks).ravel(), minlength=len(chunks) * cells.size).reshape(len(chunks), cells.size)


def _changes(cells: Cells, counts: Counts, rest: Counts) -> tuple[Floats, Floats]:
    """Distance and change of the missing share of each chunk against the rest, shape (chunks,)."""
    value, other = counts[:, : cells.values], rest[:, : cells.values]
    n, m = value.sum(axis=1, keepdims=True), other.sum(axis=1, keepdims=True)
    with np.errstate(invalid="ignore"):
        if cells.kind == "numeric":
            gaps = np.abs(np.cumsum(value, axis=1) / n - np.cumsum(other, axis=1) / m)
            distance = gaps.max(axis=1)
        else:
            distance = np.abs(value / n - other / m).sum(axis=1) / 2
    missing = np.abs(1 - n[:, 0] / counts.sum(axis=1) - (1 - m[:, 0] / rest.sum(axis=1)))
    return np.nan_to_num(distance), np.nan_to_num(missing)
