"""The cells of all features laid end to end: one flat vector of counts for a whole profile or window."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ._types import Counts, Floats
from .cells import Cells, Indices, NumericCells
from .kernels import Segments

Column = npt.NDArray[Any] | Sequence[Any]
"""Values of one feature: an array, or any objects."""


class Layout:
    """Where each feature's cells and bins lie in flat vectors.

    Parameters
    ----------
    cells
        One for each feature, in order. Kept.

    Attributes
    ----------
    starts, size
        First cell of each feature, and cells in all.
    missing, wrong_type
        Flat position of these cells, shape (features,).
    bins
        Segments of the features in a flat vector of bins.
    numeric, categorical
        Which features are, by their numbers.
    ordered
        Segments of the numeric features' value cells, end to end.

    Notes
    -----
    Threads: any number; never modified. Processes: picklable.
    """

    def __init__(self, cells: Sequence[Cells]) -> None:
        self.cells = tuple(cells)
        sizes = np.array([c.size for c in self.cells], dtype=np.int64)
        self.size = int(sizes.sum())
        self.starts = np.cumsum(sizes) - sizes
        self.missing = self.starts + np.array([c.missing for c in self.cells], dtype=np.int64)
        self.wrong_type = self.missing + 1
        bins = np.array([len(c.bins) for c in self.cells], dtype=np.int64)
        first_bin = np.cumsum(bins) - bins
        self.bins = Segments(first_bin, int(bins.sum()))
        # Every bin has a cell. In the order of their bins, each bin's counts are one stretch of the cells'.
        bin_of = np.concatenate([offset + c.bin_of for offset, c in zip(first_bin, self.cells, strict=True)])
        at = np.concatenate([start + np.arange(c.values) for start, c in zip(self.starts, self.cells, strict=True)])
        order = np.argsort(bin_of, kind="stable")
        self._by_bin = at[order]
        self._bin_starts = np.searchsorted(bin_of[order], np.arange(int(bins.sum())))
        self.numeric = np.array([i for i, c in enumerate(self.cells) if c.kind == "numeric"], dtype=np.intp)
        self.categorical = np.setdiff1d(np.arange(len(self.cells)), self.numeric)
        lengths = np.array([self.cells[i].values for i in self.numeric], dtype=np.int64)
        self.ordered = Segments(np.cumsum(lengths) - lengths, int(lengths.sum()))
        spans = [self.starts[i] + np.arange(self.cells[i].values) for i in self.numeric]
        self._ordered_at = np.concatenate(spans) if spans else np.empty(0, dtype=np.int64)

    def binned(self, counts: Counts) -> Counts:
        """Counts per bin, flat, new."""
        binned: Counts = np.add.reduceat(counts[self._by_bin], self._bin_starts)
        return binned

    def in_order(self, counts: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The numeric features' value cells of a flat vector, end to end, new."""
        return counts[self._ordered_at]

    def missing_rows(self, counts: Counts) -> Counts:
        """Rows without a value per feature, those of a wrong type included: shape (features,), new."""
        missing: Counts = counts[self.missing] + counts[self.wrong_type]
        return missing

    def index(self, columns: Sequence[Column | None]) -> list[Indices | None]:
        """Flat cell of each value, column by column, new; None for a column that is None."""
        return [
            None if column is None else cells.index(column) + start
            for cells, column, start in zip(self.cells, columns, self.starts.tolist(), strict=True)
        ]

    def tally(self, indices: Sequence[Indices]) -> Counts:
        """Counts of what `index` returned: int64, shape (size,), new."""
        return np.bincount(np.concatenate(indices), minlength=self.size)

    def tally_columns(self, columns: Sequence[Column | None]) -> Counts:
        """Counts of the values of columns: int64, shape (size,), new; 0 for a column that is None."""
        return np.concatenate(
            [
                np.zeros(cells.size, dtype=np.int64) if column is None else cells.tally(column)
                for cells, column in zip(self.cells, columns, strict=True)
            ]
        )

    def slices(self) -> list[slice]:
        """Where each feature's cells lie in a flat vector."""
        return [slice(start, start + c.size) for start, c in zip(self.starts.tolist(), self.cells, strict=True)]

    def violations(self, counts: Counts) -> dict[tuple[int, str], int]:
        """Rows that break the profile, by (feature's number, reason), with a 0 where a reason applies and has none."""
        found = {}
        for i, (cells, at) in enumerate(zip(self.cells, self.slices(), strict=True)):
            own = counts[at]
            found[i, "missing"] = int(own[cells.missing])
            found[i, "type"] = int(own[cells.wrong_type])
            if cells.kind == "numeric":
                last = cells.values - 1
                found[i, "non_finite"] = int(own[0] + own[last])
                found[i, "out_of_range"] = int(own[1] + own[last - 1])
            else:
                found[i, "unseen_category"] = int(own[cells.values - 1])
        return found


def points_of(layout: Layout, stored: Sequence[Floats | None]) -> Floats:
    """The value at which each numeric value cell stands, laid end to end as `Layout.in_order` does."""
    parts = [c.means(stored[i]) for i, c in enumerate(layout.cells) if isinstance(c, NumericCells)]
    return np.concatenate(parts) if parts else np.empty(0)
