"""What is more than chance: p-values of changes, elementwise, and which tests of a family to believe.

They know numbers of rows, not cells; they trust their caller, and answer NaN where nothing is known.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ._types import Counts, Floats


def kolmogorov_pvalue(statistic: npt.ArrayLike, n: npt.ArrayLike, m: npt.ArrayLike) -> Floats:
    """P-values of KS statistics of n and m rows, elementwise: Kolmogorov's limit with a correction.

    The correction is that of M. A. Stephens, JRSS B 32 (1970). Against the exact law it is at most 2 % off for
    p > 1e-3 from nm/(n+m) >= 200 on. NaN where n or m is 0.

    >>> kolmogorov_pvalue([0.1, 0.2], 200, [1000, 1000]).round(5).tolist()
    [0.06674, 0.0]
    """
    from scipy import special

    rows = (np.asarray(a, dtype=np.float64) for a in (n, m))
    n, m = (np.where(a > 0, a, np.nan) for a in rows)  # dividing by NaN says 'unknown' without a warning
    root = np.sqrt(1 / (1 / n + 1 / m))
    return np.asarray(special.kolmogorov((root + 0.12 + 0.11 / root) * np.asarray(statistic)))


def share_change_pvalue(x: npt.ArrayLike, n: npt.ArrayLike, y: npt.ArrayLike, m: npt.ArrayLike) -> Floats:
    """P-values of x of n window rows against y of m reference rows, elementwise: the two-sided hypergeometric tail.

    That is min(1, 2 min(P(X <= x), P(X >= x))) for the x of n rows drawn from all n + m, of which x + y are special.
    It is exact, where the asymptotic test alarms falsely on shares near 0. NaN where n or m is 0; n (n + m) and
    m (n + m) must stay below 2**63. The point probability is computed as C. Loader does (Fast and accurate computation
    of binomial probabilities, 2000).

    >>> share_change_pvalue([0, 12], 200, [3, 3], [1000, 1000]).round(5).tolist()
    [1.0, 0.0]
    """
    arrays = np.broadcast_arrays(*(np.asarray(a, dtype=np.int64) for a in (x, n, y, m)))
    shape, (x, n, y, m) = arrays[0].shape, map(np.ravel, arrays)
    # The side with the larger share comes first, so that the tail to sum begins beyond the mode and falls from there.
    larger = x * m >= y * n
    x, n, y, m = (np.where(larger, a, b) for a, b in ((x, y), (n, m), (y, x), (m, n)))
    point = np.exp(_log_hypergeometric(x, n, y, m))
    tail = point * _tail_over_point(x, n, y, m)
    pvalues = np.minimum(2 * np.minimum(tail, 1 - tail + point), 1.0)
    return np.where((n > 0) & (m > 0), pvalues, np.nan).reshape(shape)


def benjamini_hochberg(pvalues: npt.ArrayLike, alpha: float) -> npt.NDArray[np.bool_]:
    """Which tests of a family are significant at false discovery rate `alpha`; NaN is no member of the family.

    Source: Y. Benjamini, Y. Hochberg, Controlling the false discovery rate, JRSS B 57 (1995).

    >>> benjamini_hochberg([0.04, 0.001, float("nan"), 0.02], alpha=0.04).tolist()
    [True, True, False, True]
    """
    pvalues = np.asarray(pvalues, dtype=np.float64)
    family = np.sort(pvalues[~np.isnan(pvalues)])
    below = family <= alpha * np.arange(1, family.size + 1) / max(family.size, 1)
    return pvalues <= (family[below].max() if below.any() else -1.0)


def _log_hypergeometric(x: Counts, n: Counts, y: Counts, m: Counts) -> Floats:
    """Log-probability of x of n and y of m, given the margins: Stirling remainders and deviances of the 2 x 2 table.

    The logarithms of the factorials themselves would lose eight digits at n = 1e7.
    """
    from scipy import special

    table = np.stack([x, n - x, y, m - y])
    hits, total = x + y, np.maximum(n + m, 1)
    misses = total - hits
    expected = np.stack([n * hits, n * misses, m * hits, m * misses]) / total
    deviation = np.multiply.outer([1, -1, -1, 1], (x * m - y * n) / total)  # whole numbers up to the division
    deviance: Floats = special.xlog1py(table, deviation / np.where(expected > 0, expected, 1.0)).sum(axis=0)
    remainders: Floats = _stirling(np.stack([n, m, hits, misses])).sum(axis=0) - _stirling(table).sum(axis=0)
    return remainders - _stirling(total) - deviance


def _stirling(k: Counts) -> Floats:
    """log(k!) - k log(k) + k for whole numbers >= 0, to 1e-11."""
    from scipy import special

    small, large = np.minimum(k, 16.0), np.maximum(k, 16.0)
    exact: Floats = special.gammaln(small + 1) - special.xlogy(small, small) + small
    square = large * large
    series = (1 / 12 - (1 / 360 - 1 / (1260 * square)) / square) / large
    return np.where(k < 16, exact, series + 0.5 * np.log(2 * np.pi * large))


def _tail_over_point(x: Counts, n: Counts, y: Counts, m: Counts) -> Floats:
    """P(X >= x) / P(X = x) of the hypergeometric where x/n >= y/m: 1 + the products of the ratios of neighbours."""
    result, last, todo = np.ones(x.size), np.ones(x.size), np.arange(x.size)
    first, block = 0, 32
    while todo.size:
        step = np.arange(first, first + block, dtype=np.float64)
        # Beyond the last possible value the ratios mean nothing, but the one before is 0, and so are all products.
        ratio = ((n - x)[todo, None] - step) * (y[todo, None] - step)
        ratio /= ((x + 1)[todo, None] + step) * ((m - y + 1)[todo, None] + step)
        terms = np.cumprod(ratio, axis=1)
        result[todo] += last[todo] * terms.sum(axis=1)
        last[todo] *= terms[:, -1]
        # Ratios fall, so what is left is less than a geometric series with the last one.
        left = last[todo] * ratio[:, -1] > 1e-12 * result[todo] * (1 - ratio[:, -1])
        todo, first, block = todo[left], first + block, min(2 * block, 4096)
    return result
