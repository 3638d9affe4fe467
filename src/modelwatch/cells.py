"""Cells: a total map from any value to one index. Nothing falls off the edge.

A feature's indices are its value cells (numeric ones in rising order), then one cell for what is missing, then one for
what is of the wrong type. Numeric cells are half-open intervals between cuts, and a point is the interval from a number
to the next larger one; so one binary search finds the cell of every number, infinities and NaN included.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from ._types import Counts, Floats
from .values import OTHER, RARE, category, hidden, is_missing, numbers_of, spellings

MOST = 1024
"""Cells of a feature at most, those for missing and wrong type included."""
_DISTINCT_BINS = 20  # so few distinct values have a bin each
_DISTINCT_POINTS = 500  # so few have a cell each, and KS is exact
_LARGEST = np.finfo(np.float64).max

Indices = npt.NDArray[np.intp]


class NumericCells:
    """Cells of a numeric feature: -inf, below, the intervals between the cuts, above, +inf; missing; wrong type.

    Parameters
    ----------
    cuts
        Shape (k,), k >= 2, strictly rising, from the reference's least value to the number after its greatest. Copied.
        There are k + 5 cells.
    edges
        Where the bins divide, each also a cut; None: every point cell is a bin, and all else the bin `_other`.
    dtype
        Type of the training column; numbers are first rounded to it if it is a short float.

    Notes
    -----
    Threads: any number; never modified. Processes: picklable.
    """

    kind = "numeric"

    def __init__(self, cuts: npt.ArrayLike, edges: npt.ArrayLike | None, dtype: str = "float64") -> None:
        self.cuts = np.array(cuts, dtype=np.float64)
        self.edges = None if edges is None else np.array(edges, dtype=np.float64)
        self.dtype = dtype
        self._search = np.concatenate([[-_LARGEST], self.cuts, [np.inf, np.nan]])
        self.values = self.cuts.size + 3
        self.size = self.cuts.size + 5
        self.missing, self.wrong_type = self.values, self.values + 1

    @classmethod
    def fit(cls, column: Floats, dtype: str = "float64") -> NumericCells:
        """Cells of a training column, 1-d, not modified; only what `in_reach` says is used. At least one such value."""
        finite = np.sort(column[in_reach(column)])
        distinct, counts = np.unique(finite, return_counts=True)
        few = distinct.size <= _DISTINCT_BINS
        edges = None if few else np.unique(_quantiles(finite, 10))
        kept = [] if edges is None else [edges]
        if distinct.size <= _DISTINCT_POINTS:
            points, fine = distinct, np.empty(0)
        else:
            heavy = np.flatnonzero(counts * 1000 >= finite.size)
            # An atom needs two cuts. The heaviest come first if there is no room for all.
            heavy = heavy[np.argsort(-counts[heavy], kind="stable")][: (MOST - 16) // 2]
            points = distinct[heavy]
            fine = _quantiles(finite, 1000)
        ends = [distinct[[0]], np.nextafter(distinct[[-1]], np.inf)]
        needed = np.unique(np.concatenate([points, np.nextafter(points, np.inf), *kept, *ends]))
        spare = np.setdiff1d(fine, needed)
        room = MOST - 5 - needed.size
        if spare.size > room:
            spare = spare[np.linspace(0, spare.size - 1, max(room, 0)).round().astype(np.intp)]
        return cls(np.union1d(needed, spare), edges, dtype)

    @cached_property
    def lower(self) -> Floats:
        """Lower bound of each value cell, shape (values,); that of the first is -inf."""
        return np.concatenate([[-np.inf], self._search[:-1]])

    @cached_property
    def points(self) -> npt.NDArray[np.bool_]:
        """Which value cells hold one single number, shape (values,)."""
        upper = np.append(self.lower[1:], np.inf)
        points: npt.NDArray[np.bool_] = np.nextafter(self.lower, np.inf) == upper
        points[[0, -1]] = True  # infinities
        return points

    @cached_property
    def bins(self) -> tuple[str, ...]:
        """Names of the bins, "00", "01", …; where each point has one, `_other` comes last."""
        if self.edges is not None:
            return tuple(f"{i:02}" for i in range(self.edges.size + 1))
        return (*(f"{i:02}" for i in range(int(self.points[1:-1].sum()))), OTHER)

    @cached_property
    def bin_of(self) -> Indices:
        """Bin of each value cell, shape (values,)."""
        if self.edges is not None:
            return np.searchsorted(self.edges, self.lower, side="right")
        own = self.points.copy()
        own[[0, -1]] = False
        return np.where(own, np.cumsum(own) - 1, own.sum())

    @cached_property
    def bounds(self) -> Floats:
        """Upper bound of each bin, shape (bins,), as an axis would label it: the last is what the reference reached."""
        top = np.nextafter(self.cuts[-1], -np.inf)
        if self.edges is not None:
            return np.append(self.edges, max(top, self.edges[-1]))
        return np.append(self.lower[self.points][1:-1], np.nan)

    def means(self, stored: Floats | None = None) -> Floats:
        """A value for each value cell, finite and never falling: the mean of the rows in it, else its middle.

        `stored`: shape (values,), NaN where the reference has no rows. What lies beyond the reference's range is put at
        its ends, for nobody kept how far beyond it lay.
        """
        low, high = self.cuts[0], np.nextafter(self.cuts[-1], -np.inf)
        lower = np.clip(self.lower, low, high)
        upper = np.append(lower[1:], high)
        middle = np.where(self.points, lower, lower / 2 + upper / 2)
        if stored is not None:
            middle = np.where(np.isnan(stored), middle, np.clip(stored, lower, upper))
        return np.maximum.accumulate(middle)

    def index(self, column: npt.NDArray[Any] | Sequence[Any]) -> Indices:
        """Cell of each value, shape (rows,), new. Takes any objects; never raises for what they are."""
        numbers, wrong = numbers_of(column)
        found = self._search.searchsorted(self._rounded(numbers), side="right")
        if wrong is not None:
            found[wrong] = self.wrong_type
        return found

    def tally(self, column: npt.NDArray[Any] | Sequence[Any]) -> Counts:
        """Rows in each cell, shape (size,), new. Sorted first, which the search more than makes up for."""
        numbers, wrong = numbers_of(column)
        if wrong is not None:
            return np.bincount(self.index(column), minlength=self.size)
        found = self._search.searchsorted(np.sort(self._rounded(numbers)), side="right")
        return np.bincount(found, minlength=self.size)

    def _rounded(self, numbers: Floats) -> Floats:
        if self.dtype not in {"float32", "float16"}:
            return numbers
        with np.errstate(over="ignore"):
            return numbers.astype(self.dtype).astype(np.float64)

    def to_dict(self) -> dict[str, Any]:
        """Only what `from_dict` cannot derive, as JSON takes it."""
        edges = None if self.edges is None else self.edges.tolist()
        return {"cuts": self.cuts.tolist(), "edges": edges, "dtype": self.dtype}


class CategoricalCells:
    """Cells of a categorical feature: its categories, `_rare` (known, but too few rows), `_other`; missing; wrong type.

    Parameters
    ----------
    categories
        Texts of the categories with a cell of their own.
    rare
        Texts of those that share the cell `_rare`.
    hashed
        The texts are hashes of the categories' names (see `hidden`), which stand nowhere.

    Notes
    -----
    Threads: any number; never modified. Processes: picklable.
    """

    kind = "categorical"

    def __init__(self, categories: Iterable[str], rare: Iterable[str] = (), *, hashed: bool = False) -> None:
        self.categories = tuple(categories)
        self.rare = tuple(sorted(rare))
        self.hashed = hashed
        self.bins = (*self.categories, RARE, OTHER)
        self.values = len(self.bins)
        self.size = self.values + 2
        self.missing, self.wrong_type = self.values, self.values + 1
        self.unseen = self.values - 1
        self.bin_of: Indices = np.arange(self.values)
        self._cell_of = dict.fromkeys(self.rare, self.values - 2) | {c: i for i, c in enumerate(self.categories)}
        self._known: dict[Any, int] = {} if hashed else self._cell_of

    @classmethod
    def fit(
        cls, column: Sequence[Any], *, min_rows: int = 10, most: int = 50, hashed: bool = False
    ) -> CategoricalCells:
        """Cells of a training column: its at most `most` commonest categories that have at least `min_rows` rows."""
        counts: dict[str, int] = {}
        for value in column:
            text = category(value)
            if text is not None:
                text = hidden(text) if hashed else text
                counts[text] = counts.get(text, 0) + 1
        common = sorted((text for text, n in counts.items() if n >= min_rows), key=lambda text: (-counts[text], text))
        own = sorted(common[:most])
        return cls(own, counts.keys() - set(own), hashed=hashed)

    def index(self, column: npt.NDArray[Any] | Sequence[Any]) -> Indices:
        """Cell of each value, shape (rows,), new. Takes any objects; never raises for what they are."""
        values = column.tolist() if isinstance(column, np.ndarray) else column
        known = self._known.get
        try:
            found = [known(value, -1) for value in values]
        except Exception:  # noqa: BLE001 - something has no hash, or one of its own that raises
            found = [known(value, -1) if type(value) is str else -1 for value in values]
        if -1 in found:
            found = [self._cell(value) if cell < 0 else cell for cell, value in zip(found, values, strict=True)]
        return np.array(found, dtype=np.intp)

    def tally(self, column: npt.NDArray[Any] | Sequence[Any]) -> Counts:
        """Rows in each cell, shape (size,), new. Of plain texts each is looked up once."""
        # No dict of anything else: a client can choose numbers that have all the same hash.
        if isinstance(column, list) and column and {str}.issuperset(map(type, column)):
            rows = Counter(column)
            counts = np.zeros(self.size, dtype=np.int64)
            np.add.at(counts, self.index(list(rows)), list(rows.values()))
            return counts
        return np.bincount(self.index(column), minlength=self.size)

    def _cell(self, value: Any) -> int:
        if is_missing(value):
            return self.missing
        text = category(value)
        if text is None:
            return self.wrong_type
        for known in (text, *spellings(text)):
            cell = self._cell_of.get(hidden(known) if self.hashed else known)
            if cell is not None:
                return cell
        return self.unseen

    def to_dict(self) -> dict[str, Any]:
        """Only what `from_dict` cannot derive, as JSON takes it."""
        return {"categories": list(self.categories), "rare": list(self.rare), "hashed": self.hashed}


Cells = NumericCells | CategoricalCells


def in_reach(numbers: Floats) -> npt.NDArray[np.bool_]:
    """Which numbers make cells: the finite ones, but not the largest floats, for a cell must end beyond its numbers."""
    return np.abs(numbers) < _LARGEST


def _quantiles(numbers: Floats, parts: int) -> Floats:
    """Where sorted numbers divide into `parts` equal parts, shape (parts - 1,)."""
    # The range of huge numbers is infinite, that of their halves is not.
    scale = 1.0 if numbers[-1] / 2 - numbers[0] / 2 < _LARGEST / 2 else 0.5
    return np.quantile(numbers * scale, np.arange(1, parts) / parts) / scale
