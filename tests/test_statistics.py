"""The statistics: one contract for all distances, plain numpy and scipy as oracles."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from scipy import spatial, stats

from modelwatch import statistics
from modelwatch.exceptions import ConfigurationError, CountsError, EmptyCountsError, ModelWatchError
from modelwatch.significance import kolmogorov_pvalue

hypothesis = pytest.importorskip("hypothesis")
st = hypothesis.strategies

DISTANCES = {
    "psi": statistics.psi,
    "psi_smoothed": statistics.psi_smoothed,
    "psi_debiased": statistics.psi_debiased,
    "js_divergence": statistics.js_divergence,
    "kl_divergence": statistics.kl_divergence,
    "hellinger": statistics.hellinger,
    "total_variation": statistics.total_variation,
    "ks_statistic": statistics.ks_statistic,
    "chi_square": lambda r, c: statistics.chi_square(r, c).statistic,
    "wasserstein": lambda r, c: statistics.wasserstein(r, c, np.arange(len(r)) ** 2.0, sd=3.0),
}
OTHERS = {
    "psi_critical": statistics.psi_critical,
    "ks_pvalue": statistics.ks_pvalue,
}
BOUNDED = ("js_divergence", "hellinger", "total_variation", "ks_statistic")

count = st.one_of(st.integers(0, 3), st.integers(0, 2_000), st.integers(0, 2_000_000))
pairs = st.lists(st.tuples(count, count), min_size=1, max_size=30).map(
    lambda rows: np.array(rows, dtype=np.int64).T.copy()
)
pairs = pairs.filter(lambda pair: pair.sum(axis=1).all())
each_distance = pytest.mark.parametrize("name", DISTANCES)  # a new one gets the contract by being listed above
many = hypothesis.settings(max_examples=100, deadline=None, derandomize=True)


def close(got, want):
    """Equal to 1e-12: relative for large numbers, absolute for small ones."""
    return got == pytest.approx(want, rel=1e-12, abs=1e-12)


def shares(pair, clip=0.0):
    return [np.maximum(counts / counts.sum(), clip) for counts in pair]


@hypothesis.given(pair=pairs, factor=st.integers(1, 1_000))
@many
@each_distance
def test_a_distance_is_zero_without_difference(name, pair, factor):
    """A vector is at distance exactly 0 from itself and (smoothed apart) from its multiples; nothing is below 0."""
    distance = DISTANCES[name]
    assert distance(pair[0], pair[0]) == 0
    if not name.startswith("psi_"):
        assert distance(pair[0], factor * pair[0]) == 0
    assert distance(*pair) >= 0


@hypothesis.given(pair=pairs)
@many
@each_distance
def test_a_distance_keeps_its_bounds_and_its_arguments(name, pair):
    """Bounded distances stay in [0, 1], all are finite, all but KL symmetric, and none touches its arguments."""
    distance = DISTANCES[name]
    before = pair.copy()
    pair.setflags(write=False)
    value = distance(*pair)
    assert isinstance(value, float)
    assert math.isfinite(value)
    assert value <= 1 or name not in BOUNDED
    if name != "kl_divergence":
        assert close(distance(pair[1], pair[0]), value)
    assert (pair == before).all()


@pytest.mark.parametrize("name", BOUNDED)
@pytest.mark.parametrize("n", [1, 3, 7, 49])
def test_disjoint_samples_are_at_distance_one(name, n):
    """Where no value is in both samples, the bounded distances are 1."""
    assert DISTANCES[name](np.array([n] * 49 + [0] * 3), np.array([0] * 49 + [1] * 3)) == pytest.approx(1, abs=1e-15)


@pytest.mark.parametrize("f", [*DISTANCES.values(), *OTHERS.values()], ids=[*DISTANCES, *OTHERS])
@pytest.mark.parametrize(
    ("reference", "counts", "error"),
    [
        ([0, 0], [1, 2], EmptyCountsError),
        ([1, 2], [0, 0], EmptyCountsError),
        ([], [], EmptyCountsError),
        ([1, 2], [1, 2, 3], CountsError),
        ([[1, 2]], [[1, 2]], CountsError),
        ([1, -1], [1, 2], CountsError),
        ([1, 2], [3, -1], CountsError),
        ([0.5, 0.5], [1, 2], CountsError),
        (["a", "b"], ["a", "b"], CountsError),
    ],
)
def test_refuses_what_are_no_counts(f, reference, counts, error):
    """Empty, unequal, nested, negative and fractional vectors are errors of the library's tree, in a full sentence."""
    with pytest.raises(error, match=r"^Expected .*\. .*\.$") as caught:
        f(np.array(reference), np.array(counts))
    assert isinstance(caught.value, ModelWatchError)
    assert isinstance(caught.value, ValueError)


@hypothesis.given(pair=pairs)
@many
def test_psi_and_kl_are_sums_over_clipped_shares(pair):
    """PSI and KL equal plain loops over shares clipped at 1e-6 and not renormalised; KL is that of the window."""
    p, q = shares(pair, clip=1e-6)
    assert close(statistics.psi(*pair), math.fsum((b - a) * math.log(b / a) for a, b in zip(p, q, strict=True)))
    assert close(
        statistics.kl_divergence(*pair), max(0, math.fsum(b * math.log(b / a) for a, b in zip(p, q, strict=True)))
    )
    if pair.all() and min(p.min(), q.min()) > 1e-6:
        assert close(statistics.kl_divergence(*pair), stats.entropy(pair[1], pair[0]))
        assert close(statistics.psi(*pair), stats.entropy(pair[1], pair[0]) + stats.entropy(pair[0], pair[1]))


@hypothesis.given(pair=pairs)
@many
def test_smoothed_psi_is_psi_of_counts_and_a_half(pair):
    """Smoothing adds half a count to each used bin; debiasing takes off (B - 1)u; the critical value is chi-square."""
    used = pair[:, pair.any(axis=0)] + 0.5
    p, q = shares(used)
    want = math.fsum((q - p) * np.log(q / p))
    dof, u = used.shape[1] - 1, 1 / pair[0].sum() + 1 / pair[1].sum()
    assert close(statistics.psi_smoothed(*pair), want)
    assert close(statistics.psi_debiased(*pair), max(0, want - dof * u))
    assert close(statistics.psi_critical(*pair, alpha=0.05), stats.chi2.isf(0.05, dof) * u if dof else 0)


@hypothesis.given(pair=pairs)
@many
def test_share_distances_equal_scipy(pair):
    """JS, Hellinger and total variation equal scipy's distances of the shares."""
    p, q = shares(pair)
    # Next to 0 scipy's root of a rounding error may be NaN; the square of a true one is then below 1e-15.
    with np.errstate(invalid="ignore"):
        assert close(statistics.js_divergence(*pair), np.nan_to_num(spatial.distance.jensenshannon(p, q, base=2)) ** 2)
    assert close(statistics.hellinger(*pair), spatial.distance.euclidean(p**0.5, q**0.5) / math.sqrt(2))
    assert close(statistics.total_variation(*pair), spatial.distance.cityblock(p, q) / 2)


@hypothesis.given(pair=pairs, seed=st.integers(0, 9))
@many
def test_wasserstein_equals_scipy(pair, seed):
    """Wasserstein equals scipy's with weights, for means in any order; the mean of a cell without rows may be NaN."""
    means = np.random.default_rng(seed).normal(size=pair.shape[1]).round(1)
    want = stats.wasserstein_distance(means, means, *pair) / 2.5
    means[~pair.any(axis=0)] = math.nan
    assert close(statistics.wasserstein(*pair, means, sd=2.5), want)


@hypothesis.given(pair=pairs)
@many
def test_chi_square_equals_contingency_table(pair):
    """Chi-square is scipy's homogeneity test of the table without empty columns; one column says nothing."""
    statistic, pvalue, dof = statistics.chi_square(*pair)
    want = stats.chi2_contingency(pair[:, pair.any(axis=0)], correction=False)
    assert statistic == pytest.approx(want.statistic, rel=1e-10, abs=1e-9)  # scipy subtracts rounded expectations
    assert pvalue == pytest.approx(stats.chi2.sf(statistic, dof) if dof else 1, rel=1e-12)
    assert dof == want.dof


@pytest.mark.parametrize("seed", range(20))
def test_ks_equals_ks_2samp(seed):
    """On values that are their own cells KS is the exact fraction, rounded once, and scipy's to its last bits."""
    rng = np.random.default_rng(seed)
    samples = rng.integers(0, 40, 1_000 + seed), rng.binomial(40, 0.5, 200 + seed)
    counts = [np.bincount(sample, minlength=41) for sample in samples]
    gaps = np.cumsum(counts[0]) * samples[1].size - np.cumsum(counts[1]) * samples[0].size
    exact = Fraction(int(np.abs(gaps).max()), samples[0].size * samples[1].size)
    assert statistics.ks_statistic(*counts) == float(exact)
    assert abs(statistics.ks_statistic(*counts) - stats.ks_2samp(*samples, method="exact").statistic) < 2e-16
    assert close(statistics.ks_statistic(*counts), stats.ks_2samp(*samples, method="asymp").statistic)


def test_ks_is_right_where_products_leave_64_bits():
    """With 1e12 rows on both sides (m n > 2**63) KS and Wasserstein equal exact fractions, but for the last bit."""
    reference, counts = np.array([7, 1, 5, 3]) * 123_456_789_013, np.array([4, 3, 2, 1]) * 98_765_432_109
    steps = np.abs(np.cumsum([Fraction(r, 16) - Fraction(c, 10) for r, c in ((7, 4), (1, 3), (5, 2), (3, 1))]))
    assert statistics.ks_statistic(reference, counts) == pytest.approx(float(max(steps)), rel=3e-16)
    assert statistics.wasserstein(reference, counts, range(4)) == pytest.approx(float(sum(steps)), rel=3e-16)


def test_ks_pvalue_is_kolmogorovs():
    """The p-value is Kolmogorov's, of the statistic and both numbers of rows."""
    reference, counts = np.array([10, 40, 50]), np.array([20, 50, 30])
    assert statistics.ks_pvalue(reference, counts) == kolmogorov_pvalue(0.2, 100, 100)


@pytest.mark.parametrize("alpha", [0, 1, -0.1, 5, math.nan])
def test_refuses_an_alpha_that_is_no_probability(alpha):
    """Alpha lies strictly between 0 and 1."""
    with pytest.raises(ConfigurationError, match="alpha between 0 and 1"):
        statistics.psi_critical(np.array([1, 2]), np.array([2, 1]), alpha)


@pytest.mark.parametrize(
    ("means", "sd", "error"),
    [
        ([1.0], 1, CountsError),
        ([1.0, math.nan], 1, CountsError),
        ([1.0, math.inf], 1, CountsError),
        ([1.0, 2.0], 0, ConfigurationError),
        ([1.0, 2.0], math.nan, ConfigurationError),
    ],
)
def test_wasserstein_refuses_unusable_means(means, sd, error):
    """Another number of means, no mean where there are rows, and a scale that is not positive are refused."""
    with pytest.raises(error, match=r"^Expected .*\. .*\.$"):
        statistics.wasserstein(np.array([1, 2]), np.array([2, 1]), means, sd)
