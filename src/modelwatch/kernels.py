"""The mathematics of drift, for many features at once: one number for each, from two flat count vectors.

The vectors of all features are laid end to end. `reference` and `counts` (of the window) are integer vectors of one
shape, read and not modified; n and m are a feature's sums of `counts` and `reference`, u = 1/n + 1/m, B its bins with
rows. The functions named `…_by_feature` give NaN where a feature has no rows on a side. They trust their caller: the
module `statistics` has the same for one feature, checked.

scipy.special is imported where it is used: it would be half of the time that `import modelwatch` takes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ._types import Counts, Floats
from .exceptions import CountsError

_CLIP = 1e-6


class Segments:
    """Where each feature lies in a flat vector: first element, number of elements, and sums over them.

    Parameters
    ----------
    starts
        First element of each feature, shape (features,): from 0, increasing. Copied.
    size
        Length of the flat vector.

    Raises
    ------
    CountsError
        A feature would be empty, or an element belong to none.

    Notes
    -----
    Threads: any number; never modified. Processes: picklable.
    """

    __slots__ = ("lengths", "starts")

    def __init__(self, starts: npt.ArrayLike, size: int) -> None:
        self.starts = np.array(starts, dtype=np.int64)
        self.lengths = np.diff(self.starts, append=size)
        if (self.starts[0] != 0 if self.starts.size else size != 0) or (self.lengths <= 0).any():
            raise CountsError(
                f"Expected starts of features that rise from 0 and stay below {size}, got {self.starts.tolist()}. "
                "Give every feature at least one element."
            )

    def sums(self, values: npt.NDArray[Any], dtype: type[np.float64] | None = None) -> npt.NDArray[Any]:
        """Sum over each feature, shape (features,)."""
        sums: npt.NDArray[Any] = np.add.reduceat(values, self.starts, dtype=dtype)
        return sums

    def spread(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """A number per feature, repeated for each of its elements: shape (size,)."""
        return np.repeat(values, self.lengths)


def psi_by_feature(reference: Counts, counts: Counts, segments: Segments) -> Floats:
    """See `psi`."""
    p, q = (np.maximum(share, _CLIP) for share in _shares(reference, counts, segments))
    return segments.sums((q - p) * np.log(q / p))  # a bin without rows adds exactly 0


def psi_smoothed_by_feature(reference: Counts, counts: Counts, segments: Segments) -> Floats:
    """See `psi_smoothed`."""
    used = reference + counts > 0
    added = 0.5 * segments.sums(used, np.float64)
    p = (reference + 0.5) / segments.spread(_or_nan(segments.sums(reference)) + added)
    q = (counts + 0.5) / segments.spread(_or_nan(segments.sums(counts)) + added)
    return segments.sums(used * (q - p) * np.log(q / p))


def bins_by_feature(reference: Counts, counts: Counts, segments: Segments) -> Floats:
    """Number of bins with n + m > 0: the B of DESIGN. Never NaN: an empty window leaves the reference's bins."""
    return segments.sums(reference + counts > 0, np.float64)


def psi_debiased_by_feature(reference: Counts, counts: Counts, segments: Segments) -> Floats:
    """See `psi_debiased`."""
    noise = (bins_by_feature(reference, counts, segments) - 1) * _unit(reference, counts, segments)
    return np.maximum(psi_smoothed_by_feature(reference, counts, segments) - noise, 0.0)


def psi_critical_by_feature(reference: Counts, counts: Counts, segments: Segments, alpha: float = 0.001) -> Floats:
    """See `psi_critical`."""
    from scipy import special

    dof = bins_by_feature(reference, counts, segments) - 1
    quantile = np.where(dof > 0, special.chdtri(np.maximum(dof, 1.0), alpha), 0.0)
    return quantile * _unit(reference, counts, segments)


def js_divergence_by_feature(reference: Counts, counts: Counts, segments: Segments) -> Floats:
    """See `js_divergence`."""
    from scipy import special

    p, q = _shares(reference, counts, segments)
    middle = (p + q) / 2
    nats = segments.sums(special.rel_entr(p, middle) + special.rel_entr(q, middle)) / 2
    bits: Floats = np.minimum(np.maximum(nats / np.log(2), 0.0), 1.0)
    return bits


def kl_divergence_by_feature(reference: Counts, counts: Counts, segments: Segments) -> Floats:
    """See `kl_divergence`."""
    p, q = (np.maximum(share, _CLIP) for share in _shares(reference, counts, segments))
    nats: Floats = np.maximum(segments.sums(q * np.log(q / p)), 0.0)
    return nats


def hellinger_by_feature(reference: Counts, counts: Counts, segments: Segments) -> Floats:
    """See `hellinger`."""
    p, q = _shares(reference, counts, segments)
    # sqrt(1 - sum sqrt(p q)) is the same on paper, but keeps only half of the digits near 0.
    return np.minimum(np.sqrt(segments.sums((np.sqrt(p) - np.sqrt(q)) ** 2) / 2), 1.0)


def total_variation_by_feature(reference: Counts, counts: Counts, segments: Segments) -> Floats:
    """See `total_variation`."""
    p, q = _shares(reference, counts, segments)
    return np.minimum(segments.sums(np.abs(p - q)) / 2, 1.0)


def chi_square_by_feature(
    reference: Counts, counts: Counts, segments: Segments, min_expected: float = 0.0
) -> tuple[Floats, Floats]:
    """Statistic and p-value, see `chi_square`; categories that expect fewer window rows are pooled into one."""
    from scipy import special

    r, c = reference.astype(np.float64), counts.astype(np.float64)
    m, n = _or_nan(segments.sums(reference)), _or_nan(segments.sums(counts))
    column = r + c
    used = column > 0
    small = used & (column * segments.spread(n / (n + m)) < min_expected)
    # (r/m - c/n)² over its variance, brought to whole numbers: c = k r then gives exactly 0.
    gaps = r * segments.spread(n) - c * segments.spread(m)
    terms = np.divide(gaps * gaps, column, out=np.zeros(column.shape), where=used & ~small)
    pooled, gap = segments.sums(column * small), segments.sums(gaps * small)
    rest = np.divide(gap * gap, pooled, out=np.zeros(pooled.shape), where=pooled > 0)
    statistic = (segments.sums(terms) + rest) / (n * m)
    dof = segments.sums(used & ~small, np.float64) + (pooled > 0) - 1
    pvalue = np.where(dof > 0, special.chdtrc(np.maximum(dof, 1.0), statistic), 1.0)
    return statistic, np.where(np.isnan(statistic), np.nan, pvalue)


def ks_by_feature(reference: Counts, counts: Counts, segments: Segments) -> Floats:
    """See `ks_statistic`."""
    return largest_gap(gaps_by_feature(reference, counts, segments), segments)


def wasserstein_by_feature(
    reference: Counts, counts: Counts, segments: Segments, means: Floats, sds: Floats | float = 1.0
) -> Floats:
    """See `wasserstein`; here the means are finite and do not fall within a feature."""
    return area_of_gaps(gaps_by_feature(reference, counts, segments), segments, means) / sds


class Gaps(NamedTuple):
    """Where two distributions are apart, for statistics that need it twice: see `gaps_by_feature`."""

    numerators: npt.NDArray[Any]
    scale: Floats


def gaps_by_feature(reference: Counts, counts: Counts, segments: Segments) -> Gaps:
    """For each cell m n |F_ref - F_win| as a whole number, and m n per feature (NaN for 0).

    A feature's differences add up to exactly 0, so one running sum over all features never has to be set back.
    """
    m, n = segments.sums(reference), segments.sums(counts)
    if float(m.max(initial=0)) * float(n.max(initial=0)) >= 2.0**62:  # slow, but right
        reference, counts, m, n = (a.astype(object) for a in (reference, counts, m, n))
    gaps = reference * segments.spread(n)
    gaps -= counts * segments.spread(m)
    np.cumsum(gaps, out=gaps)
    return Gaps(np.abs(gaps, out=gaps), _or_nan(m * n))


def largest_gap(gaps: Gaps, segments: Segments) -> Floats:
    """See `ks_statistic`."""
    largest: Floats = np.maximum.reduceat(gaps.numerators, segments.starts).astype(np.float64) / gaps.scale
    return largest


def area_of_gaps(gaps: Gaps, segments: Segments, means: Floats) -> Floats:
    """See `wasserstein`, in the unit of `means`, which are finite and do not fall within a feature."""
    # The gap after a feature's last cell is 0, so the step from there to the next feature does not count.
    areas = segments.sums(gaps.numerators * np.diff(means, append=means[-1:]))
    scaled: Floats = areas.astype(np.float64) / gaps.scale
    return scaled


def _or_nan(totals: npt.ArrayLike) -> Floats:
    """As float, NaN for 0: dividing by it says 'unknown' without a warning."""
    totals = np.asarray(totals, dtype=np.float64)
    return np.where(totals > 0, totals, np.nan)


def _shares(reference: Counts, counts: Counts, segments: Segments) -> tuple[Floats, Floats]:
    m, n = _or_nan(segments.sums(reference)), _or_nan(segments.sums(counts))
    return reference / segments.spread(m), counts / segments.spread(n)


def _unit(reference: Counts, counts: Counts, segments: Segments) -> Floats:
    return 1 / _or_nan(segments.sums(counts)) + 1 / _or_nan(segments.sums(reference))
