"""One feature of a reference: how its cells are cut, counted, merged, written and read."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ._types import Counts, Floats
from .calibration import Floor, Floors, calibrate, loosest
from .cells import CategoricalCells, Cells, NumericCells, in_reach
from .exceptions import TableError
from .schema import CategoricalFeature, NumericFeature
from .tables import Column
from .values import category, numbers_of

_MOST_CATEGORIES = 10_000


@dataclass(frozen=True, eq=False)
class Feature:
    """One feature of a profile: cells, counts, and what counts cannot tell.

    Parameters
    ----------
    name, column
        Its name here, and that of the table's column: they differ for the prediction and the confidence only.
    cells
        Its total map from values to cells.
    counts
        Rows of the reference in each cell: int64, shape (cells.size,).
    means
        Mean of the rows in each value cell, NaN where there are none; None where the cells tell (points, categories).
    mean, sd
        Of the finite values; NaN if there are none, or it is categorical.
    floors
        Calibrated floors by number of rows, see `calibration`.
    """

    name: str
    column: str
    cells: Cells
    counts: Counts
    means: Floats | None
    mean: float
    sd: float
    floors: Floors

    def merged(self, other: Feature) -> Feature:
        """The feature as if fitted on the rows of both, which have the same cells."""
        a, b = (float(f.counts[1 : f.cells.values - 1].sum()) for f in (self, other))
        means, mean, sd = self.means, self.mean, self.sd
        if a + b > 0 and isinstance(self.cells, NumericCells):
            mean, sd = _pooled((a, self.mean, self.sd), (b, other.mean, other.sd))
        if isinstance(self.cells, NumericCells) and (self.means is not None or other.means is not None):
            # Without means all rows of that one are at points.
            at, to = (self.cells.means() if f.means is None else f.means for f in (self, other))
            n, m = (f.counts[: f.cells.values] for f in (self, other))
            with np.errstate(over="ignore", invalid="ignore"):
                sums = np.where(n > 0, at, 0) * n + np.where(m > 0, to, 0) * m
            means = np.divide(sums, n + m, out=np.full(sums.shape, np.nan), where=(n + m > 0) & np.isfinite(sums))
        counts = self.counts + other.counts
        return replace(self, counts=counts, means=means, mean=mean, sd=sd, floors=loosest(self.floors, other.floors))


def refuse_ids(name: str, data: Column, rows: int) -> None:
    """Raise TableError if nearly every row has a value of its own, as in a column of ids or row numbers."""
    if rows < 100:
        return
    distinct = len(set(map(category, data.values))) if data.kind == "categorical" else 0
    counted = False
    if data.kind == "numeric" and data.dtype.startswith(("int", "uint")):
        numbers = numbers_of(data.values)[0]
        counted = np.unique(numbers).size == rows and np.ptp(numbers) == rows - 1
    if distinct > rows / 2 or counted:
        raise TableError(
            f"Expected features, but column {name!r} looks like an id: nearly every row has a value of its own. "
            "Leave it out, or name it in `features=` if it is none."
        )


def fit_cells(name: str, data: Column, min_rows: int, most: int, *, hashed: bool) -> Cells:
    """Cells of a training column. Raises TableError if it has no value, or too many categories."""
    if data.kind == "categorical":
        values = data.values.tolist() if isinstance(data.values, np.ndarray) else data.values
        cells = CategoricalCells.fit(values, min_rows=min_rows, most=most, hashed=hashed)
        if len(cells.categories) + len(cells.rare) > _MOST_CATEGORIES:
            raise TableError(
                f"Expected at most {_MOST_CATEGORIES} categories in column {name!r}, got more. "
                "Group them before, or leave the column out."
            )
        return cells
    numbers = numbers_of(data.values)[0]
    if not in_reach(numbers).any():
        raise TableError(
            f"Expected column {name!r} to hold at least one finite number, got none. Leave it out with `features=`."
        )
    return NumericCells.fit(numbers, data.dtype)


def fit_feature(name: str, column: str, data: Column, cells: Cells, order: Any) -> Feature:
    """The feature of a training column, counted over `cells`. `order`: row numbers in the order of time, or None."""
    index = cells.index(data.values)
    counts = np.bincount(index, minlength=cells.size)
    means, mean, sd = None, np.nan, np.nan
    if isinstance(cells, NumericCells):
        numbers = numbers_of(data.values)[0]
        finite = np.isfinite(numbers)
        if finite.any():
            with np.errstate(over="ignore", invalid="ignore"):
                mean, sd = (float(f(numbers[finite])) for f in (np.mean, np.std))
        if not cells.points[(counts[: cells.values] > 0)].all():
            sums = np.bincount(index[finite], weights=numbers[finite], minlength=cells.size)[: cells.values]
            sizes = np.bincount(index[finite], minlength=cells.size)[: cells.values]
            # Sums of huge numbers may be infinite: then the middle of the cell has to do.
            usable = (sizes > 0) & np.isfinite(sums)
            means = np.divide(sums, sizes, out=np.full(sums.shape, np.nan), where=usable)
    floors = calibrate(cells, index if order is None else index[order])
    return Feature(name, column, cells, counts, means, _finite(mean), _finite(sd), floors)


def _pooled(one: tuple[float, float, float], two: tuple[float, float, float]) -> tuple[float, float]:
    """Mean and standard deviation of two groups of (rows, mean, sd) together; NaN if one of theirs is not known."""
    (a, low, low_sd), (b, high, high_sd) = sorted([one, two])
    if not a:
        return high, high_sd
    with np.errstate(over="ignore", invalid="ignore"):
        mean = (a * low + b * high) / (a + b)
        spread = (
            np.float64(low_sd) ** 2 * a + np.float64(high_sd) ** 2 * b + np.float64(high - low) ** 2 * (a * b / (a + b))
        )
        return _finite(mean), _finite(float(np.sqrt(spread / (a + b))))


def _finite(value: float) -> float:
    return value if np.isfinite(value) else np.nan


def to_dict(feature: Feature) -> dict[str, Any]:
    """The feature as JSON takes it, read by `from_file`."""
    common = {
        "name": feature.name,
        "column": feature.column,
        "kind": feature.cells.kind,
        **feature.cells.to_dict(),
        "counts": feature.counts.tolist(),
        "floors": [list(floor) for floor in feature.floors],
    }
    if feature.cells.kind == "categorical":
        return common
    means = None if feature.means is None else [_or_none(x) for x in feature.means.tolist()]
    return {**common, "means": means, "mean": _or_none(feature.mean), "sd": _or_none(feature.sd)}


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else value


def from_file(feature: NumericFeature | CategoricalFeature) -> Feature:
    """The feature that a checked file holds."""
    counts = np.array(feature.counts, dtype=np.int64)
    floors = tuple(Floor(*floor) for floor in feature.floors)
    if isinstance(feature, CategoricalFeature):
        cells = CategoricalCells(feature.categories, feature.rare, hashed=feature.hashed)
        return Feature(feature.name, feature.column, cells, counts, None, np.nan, np.nan, floors)
    numeric = NumericCells(feature.cuts, feature.edges, feature.dtype)
    means = None if feature.means is None else np.array(feature.means, dtype=np.float64)
    mean, sd = (np.nan if x is None else x for x in (feature.mean, feature.sd))
    return Feature(feature.name, feature.column, numeric, counts, means, mean, sd, floors)
