"""How far apart two count vectors are: pure functions, without a clock, a file or a threshold.

Throughout, `reference` and `counts` (of the window) are integer vectors of one shape, read and not modified; n and m
are the sums of `counts` and `reference`, u = 1/n + 1/m, B the bins with rows. Both are checked: CountsError for what
are no two count vectors of one shape, EmptyCountsError where one sums to zero. The mathematics is that of `kernels`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ._types import Counts, Floats
from .exceptions import ConfigurationError, CountsError, EmptyCountsError
from .kernels import (
    Segments,
    chi_square_by_feature,
    hellinger_by_feature,
    js_divergence_by_feature,
    kl_divergence_by_feature,
    ks_by_feature,
    psi_by_feature,
    psi_critical_by_feature,
    psi_debiased_by_feature,
    psi_smoothed_by_feature,
    total_variation_by_feature,
    wasserstein_by_feature,
)
from .significance import kolmogorov_pvalue


def psi(reference: Counts, counts: Counts) -> float:
    """Population stability index in nats, >= 0, symmetric: sum of (q - p) ln(q/p) over the shares, clipped at 1e-6.

    Without drift its mean is near (B - 1) u for B bins. An empty bin makes it large: use `psi_smoothed` for tests.
    Source: N. Siddiqi, Credit Risk Scorecards (2006).

    >>> round(psi(np.array([50, 50]), np.array([70, 30])), 5)
    0.16946
    """
    return _single(psi_by_feature, reference, counts)


def psi_smoothed(reference: Counts, counts: Counts) -> float:
    """PSI with half a count added to every used bin of both, without clipping: nats, >= 0, symmetric.

    Without drift, divided by u, it follows chi-square with B - 1 degrees of freedom, down to windows of 50 rows.
    Source of the law: B. Yurdakul, Statistical Properties of Population Stability Index (2018).

    >>> round(psi_smoothed(np.array([50, 50]), np.array([70, 30])), 5)
    0.16592
    """
    return _single(psi_smoothed_by_feature, reference, counts)


def psi_debiased(reference: Counts, counts: Counts) -> float:
    """What `psi_smoothed` exceeds its mean without drift by, (B - 1) u, and at least 0; nats, symmetric.

    >>> round(psi_debiased(np.array([50, 50]), np.array([70, 30])), 5)
    0.14592
    """
    return _single(psi_debiased_by_feature, reference, counts)


def psi_critical(reference: Counts, counts: Counts, alpha: float = 0.001) -> float:
    """The bound that `psi_smoothed` (never raw `psi`) exceeds with probability `alpha` without drift: chi-square · u.

    Raises ConfigurationError if `alpha` is not between 0 and 1.

    >>> round(psi_critical(np.array([50, 50]), np.array([70, 30])), 5)
    0.21655
    """
    if not 0 < alpha < 1:
        raise ConfigurationError(f"Expected alpha between 0 and 1, got {alpha!r}. Use 0.001 if in doubt.")
    return _single(lambda r, c, segments: psi_critical_by_feature(r, c, segments, alpha), reference, counts)


def js_divergence(reference: Counts, counts: Counts) -> float:
    """Jensen-Shannon divergence in bits, in [0, 1], symmetric; its root is a metric.

    Source: J. Lin, Divergence measures based on the Shannon entropy, IEEE Trans. Inf. Theory 37 (1991).

    >>> round(js_divergence(np.array([50, 50]), np.array([70, 30])), 5)
    0.03031
    """
    return _single(js_divergence_by_feature, reference, counts)


def kl_divergence(reference: Counts, counts: Counts) -> float:
    """Kullback-Leibler divergence of the window from the reference in nats, >= 0, with shares clipped as in `psi`.

    Source: S. Kullback, R. A. Leibler, On information and sufficiency, Ann. Math. Statist. 22 (1951).

    >>> round(kl_divergence(np.array([50, 50]), np.array([70, 30])), 5)
    0.08228
    """
    return _single(kl_divergence_by_feature, reference, counts)


def hellinger(reference: Counts, counts: Counts) -> float:
    """Hellinger distance in [0, 1], symmetric: the length of sqrt(q) - sqrt(p), over the root of 2.

    Source: L. Le Cam, G. L. Yang, Asymptotics in Statistics (2000), chapter 3.

    >>> round(hellinger(np.array([50, 50]), np.array([70, 30])), 5)
    0.14524
    """
    return _single(hellinger_by_feature, reference, counts)


def total_variation(reference: Counts, counts: Counts) -> float:
    """Total variation distance in [0, 1], symmetric: the share of the rows that would have to move to another bin.

    Source: D. A. Levin, Y. Peres, Markov Chains and Mixing Times (2017), chapter 4.

    >>> round(total_variation(np.array([50, 50]), np.array([70, 30])), 5)
    0.2
    """
    return _single(total_variation_by_feature, reference, counts)


def ks_statistic(reference: Counts, counts: Counts) -> float:
    """Kolmogorov-Smirnov statistic sup |F_ref - F_win| over ordered cells, in [0, 1], symmetric.

    Source: N. Smirnov, Table for estimating the goodness of fit, Ann. Math. Statist. 19 (1948).

    >>> round(ks_statistic(np.array([10, 40, 50]), np.array([20, 50, 30])), 5)
    0.2
    """
    return _single(ks_by_feature, reference, counts)


def ks_pvalue(reference: Counts, counts: Counts) -> float:
    """P-value of `ks_statistic`, see `kolmogorov_pvalue`. Conservative where values are few.

    >>> round(ks_pvalue(np.array([10, 40, 50]), np.array([20, 50, 30])), 5)
    0.03138
    """
    r, c = _checked(reference, counts)
    return float(kolmogorov_pvalue(ks_statistic(r, c), c.sum(), r.sum()))


def wasserstein(reference: Counts, counts: Counts, means: npt.ArrayLike, sd: float = 1.0) -> float:
    """Wasserstein-1 distance with the rows of each cell at its mean value: in units of `sd`, >= 0, symmetric.

    Source: S. S. Vallender, Calculation of the Wasserstein distance … on the line, Theory Probab. Appl. 18 (1974).

    Parameters
    ----------
    means
        Shape (cells,), in any order; finite where there are rows. Not modified.
    sd
        Usually the reference's standard deviation, > 0.

    Raises
    ------
    CountsError
        `means` has another shape than the counts, or a cell with rows has no finite mean.
    ConfigurationError
        `sd` is not a positive number.

    >>> round(wasserstein(np.array([50, 50]), np.array([70, 30]), means=[1.0, 3.0], sd=2.0), 5)
    0.2
    """
    r, c = _checked(reference, counts)
    at = np.asarray(means, dtype=np.float64)
    used = r + c > 0
    if at.shape != r.shape or not np.isfinite(at[used]).all():
        raise CountsError(
            f"Expected a finite mean for each of {r.size} cells, got {at!r}. Give every used cell its mean."
        )
    if not 0 < sd < np.inf:
        raise ConfigurationError(f"Expected a positive sd, got {sd!r}. Give the reference's standard deviation, or 1.")
    order = np.flatnonzero(used)[np.argsort(at[used], kind="stable")]
    return float(wasserstein_by_feature(r[order], c[order], Segments([0], order.size), at[order], sd)[0])


class ChiSquare(NamedTuple):
    """A chi-square test: statistic >= 0, p-value in [0, 1], degrees of freedom."""

    statistic: float
    pvalue: float
    dof: int


def chi_square(reference: Counts, counts: Counts) -> ChiSquare:
    """Two-sample chi-square test of homogeneity, symmetric; categories without rows are left out.

    It equals `scipy.stats.chi2_contingency(correction=False)`; with one category left, statistic 0 and p 1. It is not
    goodness of fit, which takes the reference for exact and alarms 30 % of the time where it should 5 %.

    >>> statistic, pvalue, dof = chi_square(np.array([50, 50, 0]), np.array([70, 30, 0]))
    >>> round(statistic, 5), round(pvalue, 5), dof
    (8.33333, 0.00389, 1)
    """
    r, c = _checked(reference, counts)
    statistic, pvalue = chi_square_by_feature(r, c, Segments([0], r.size))
    return ChiSquare(float(statistic[0]), float(pvalue[0]), int((r + c > 0).sum()) - 1)


def _single(kernel: Callable[[Counts, Counts, Segments], Floats], reference: Counts, counts: Counts) -> float:
    r, c = _checked(reference, counts)
    return float(kernel(r, c, Segments([0], r.size))[0])


def _checked(reference: npt.ArrayLike, counts: npt.ArrayLike) -> tuple[Counts, Counts]:
    vectors = np.asarray(reference), np.asarray(counts)
    if vectors[0].shape != vectors[1].shape or vectors[0].ndim != 1:
        raise CountsError(
            f"Expected two vectors of one length, got shapes {vectors[0].shape} and {vectors[1].shape}. "
            "Count both over the same cells."
        )
    for name, vector in zip(("reference", "counts"), vectors, strict=True):
        if vector.size and (vector.dtype.kind not in "iu" or vector.min() < 0):
            raise CountsError(
                f"Expected whole numbers >= 0 in {name}, got {np.array2string(vector, threshold=6)}. "
                "Give counts, not shares or raw values."
            )
        if not vector.any():
            raise EmptyCountsError(
                f"Expected at least one row in {name}, got none. Wait until there is one to compare."
            )
    return vectors[0].astype(np.int64, copy=False), vectors[1].astype(np.int64, copy=False)
