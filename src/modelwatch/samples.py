"""The statistics of two raw samples: what `statistics` says once both are counted over the reference's bins."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from ._types import Counts, Floats
from .exceptions import ConfigurationError, CountsError, EmptyCountsError
from .statistics import chi_square, js_divergence, psi

_DISTINCT = 20  # a reference with at most so many values gets one bin for each


class DriftDetector:
    """The statistics of two raw samples: 1-d arrays or lists. Missing values (None, NaN) are left out on both sides.

    The bins are the reference's, whatever the window holds: at most 20 distinct finite values have one bin each and one
    more for all others; else they are cut at the reference's quantiles, with open ends that take infinities in.
    All raise EmptyCountsError if a sample holds no value, and CountsError if it is none. Arguments are not modified.

    Threads: any number; there is no state.
    Processes: raw samples do not merge; count with a reference profile instead.
    """

    @staticmethod
    def psi(expected: npt.ArrayLike, actual: npt.ArrayLike, bins: int = 10) -> float:
        """Population stability index in nats, see the function `psi`; `expected` is the reference.

        >>> round(DriftDetector.psi([0, 1] * 50, [0] * 70 + [1] * 30 + [None]), 5)
        0.16946
        """
        return psi(*_binned(expected, actual, bins))

    @staticmethod
    def ks_test(reference: npt.ArrayLike, current: npt.ArrayLike) -> tuple[float, float]:
        """Statistic and p-value of `scipy.stats.ks_2samp`.

        >>> statistic, pvalue = DriftDetector.ks_test([1.0, 2.0, 3.0, float("nan")], [11.0, 12.0, 13.0])
        >>> round(statistic, 5), round(pvalue, 5)
        (1.0, 0.1)
        """
        from scipy import stats

        statistic, pvalue = stats.ks_2samp(_values(reference), _values(current))
        return float(statistic), float(pvalue)

    @staticmethod
    def chi_square_test(reference: Iterable[Any], current: Iterable[Any]) -> tuple[float, float]:
        """Statistic and p-value of `chi_square` over the union of the categories: strings or anything hashable.

        >>> statistic, pvalue = DriftDetector.chi_square_test(["a", "b"] * 50, ["a"] * 70 + ["b"] * 30)
        >>> round(statistic, 5), round(pvalue, 5)
        (8.33333, 0.00389)
        """
        before, after = _categories(reference), _categories(current)
        union = list(before | after)
        r, c = (np.array([side[key] for key in union], dtype=np.int64) for side in (before, after))
        return chi_square(r, c)[:2]

    @staticmethod
    def js_divergence(p: npt.ArrayLike, q: npt.ArrayLike, bins: int = 10) -> float:
        """Jensen-Shannon divergence in bits, in [0, 1], see the function `js_divergence`; `p` is the reference.

        >>> round(DriftDetector.js_divergence([0, 1] * 50, [0] * 70 + [1] * 30), 5)
        0.03031
        """
        return js_divergence(*_binned(p, q, bins))


def _values(sample: npt.ArrayLike) -> Floats:
    """The sample's numbers without the missing ones, copied."""
    try:
        values = np.asarray(sample, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise CountsError(f"Expected a sample of numbers, but {error}. Use chi_square_test for categories.") from error
    if values.ndim != 1:
        raise CountsError(f"Expected a 1-d sample, got shape {values.shape}. Give one feature at a time.")
    values = values[~np.isnan(values)]
    if not values.size:
        raise EmptyCountsError(
            "Expected at least one value in each sample, got none. Give samples that are not all missing."
        )
    return values


def _binned(reference: npt.ArrayLike, current: npt.ArrayLike, bins: int) -> tuple[Counts, Counts]:
    """Both samples counted over the reference's bins."""
    if bins < 2 or bins != int(bins):
        raise ConfigurationError(f"Expected at least 2 bins, as a whole number, got {bins!r}. Use 10 if in doubt.")
    before, after = _values(reference), _values(current)
    finite = before[np.isfinite(before)]
    cuts = np.unique(finite)
    if cuts.size > _DISTINCT:
        cuts = np.unique(np.quantile(finite, np.arange(1, bins) / bins))
        cells = [np.searchsorted(cuts, v, side="right") for v in (before, after)]
    else:
        known = np.append(cuts, np.nan)  # the bin at the end is for what equals none of them
        cells = [np.where(known[i := np.searchsorted(cuts, v)] == v, i, cuts.size) for v in (before, after)]
    return np.bincount(cells[0], minlength=cuts.size + 1), np.bincount(cells[1], minlength=cuts.size + 1)


def _categories(sample: Iterable[Any]) -> Counter[Any]:
    values = sample.tolist() if hasattr(sample, "tolist") else sample
    try:
        counted = Counter(values)
    except TypeError as error:
        raise CountsError(f"Expected a 1-d sample of categories, but {error}. Give strings or numbers.") from error
    return Counter({value: count for value, count in counted.items() if _known(value)})


def _known(value: Any) -> bool:
    try:
        return value is not None and bool(value == value)  # noqa: PLR0124 - NaN differs from itself
    except TypeError:  # pandas.NA will not say
        return False
