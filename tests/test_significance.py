"""The p-values: scipy and exact fractions as oracles."""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
from scipy import stats

from modelwatch.significance import benjamini_hochberg, kolmogorov_pvalue, share_change_pvalue

hypothesis = pytest.importorskip("hypothesis")
st = hypothesis.strategies


def test_kolmogorov_pvalues_are_near_the_exact_law():
    """P-values equal scipy's limit law at Stephens' argument, and the exact law within 2 % at nm/(n+m) = 200."""
    statistic, n, m = np.array([0.0, 0.05, 0.08, 0.12, 1.0]), 400, 400
    root = math.sqrt(200)
    got = kolmogorov_pvalue(statistic, n, m)
    limit = stats.kstwobign.sf((root + 0.12 + 0.11 / root) * statistic)
    assert got == pytest.approx(limit, rel=1e-12, abs=1e-12)
    assert got[1:4] == pytest.approx(stats.kstwo.sf(statistic[1:4], 200), rel=0.02)
    assert np.isnan(kolmogorov_pvalue([0.1, 0.1, math.nan], [0, 5, 5], [5, 0, 5])).all()


@pytest.mark.parametrize(("n", "m"), [(1, 1), (7, 5), (20, 30), (200, 1_000), (10_000, 10_000)])
def test_share_change_equals_scipy(n, m):
    """The two-sided tail equals scipy's hypergeometric to 1e-10, for small and large shares, same and changed."""
    rng = np.random.default_rng(n)
    share = rng.choice([0.0, 0.001, 0.01, 0.1, 0.5, 0.9, 1.0], 400)
    x, y = rng.binomial(n, share), rng.binomial(m, np.clip(share * rng.choice([0.5, 1, 1, 1.1], 400), 0, 1))
    law = stats.hypergeom(n + m, x + y, n)
    want = np.minimum(1, 2 * np.minimum(law.cdf(x), law.sf(x - 1)))
    usual = want > 1e-290
    got = share_change_pvalue(x, n, y, m)
    assert got[usual] == pytest.approx(want[usual], rel=1e-10)
    assert (got[~usual] <= 1e-289).all()


@pytest.mark.parametrize(("x", "y"), [(0, 1), (0, 25), (100, 150), (150, 60), (3_000, 3_200), (3_000, 3_001)])
def test_share_change_is_exact_at_ten_million_rows(x, y):
    """At n = m = 1e7, where log-factorials lose eight digits, the tail still equals exact fractions to 1e-10."""
    n = 10**7
    small, large = min(x, y), max(x, y)
    point = Fraction(math.comb(n, small) * math.comb(n, large), math.comb(2 * n, x + y))
    term = Decimal(point.numerator) / Decimal(point.denominator)
    tail = Decimal(0)
    for k in range(large, x + y + 1):  # the same law on both sides: the tail beyond the larger count
        tail += term
        term *= Decimal((n - k) * (x + y - k)) / Decimal((k + 1) * (n - (x + y) + k + 1))
    want = float(min(1, 2 * tail))
    assert share_change_pvalue(x, n, y, n) == pytest.approx(want, rel=1e-10)


def test_share_change_of_nothing():
    """Nothing on either side is no change (p = 1); without rows nothing is known (NaN); shapes broadcast."""
    got = share_change_pvalue([[0, 5, 0], [0, 5, 0]], [5, 5, 0], 0, [9, 9, 9])
    assert got.shape == (2, 3)
    assert got[0, 0] == 1
    assert got[0, 1] == pytest.approx(2 / math.comb(14, 5))
    assert np.isnan(got[:, 2]).all()
    assert share_change_pvalue(9, 9, 4, 4) == 1
    assert share_change_pvalue([], 9, 4, 4).shape == (0,)


@hypothesis.given(
    pvalues=st.lists(st.one_of(st.just(math.nan), st.floats(0, 1), st.floats(0, 0.01)), max_size=40),
    alpha=st.sampled_from([0.001, 0.01, 0.2]),
)
@hypothesis.settings(max_examples=100, deadline=None, derandomize=True)
def test_benjamini_hochberg_equals_scipy(pvalues, alpha):
    """The mask is that of scipy's adjusted p-values; NaN is never rejected and does not make the family larger."""
    pvalues = np.array(pvalues, dtype=float)
    real = ~np.isnan(pvalues)
    want = np.zeros(pvalues.size, dtype=bool)
    if real.any():
        adjusted = stats.false_discovery_control(pvalues[real])
        hypothesis.assume((np.abs(adjusted - alpha) > 1e-12).all())
        want[real] = adjusted <= alpha
    assert benjamini_hochberg(pvalues, alpha).tolist() == want.tolist()
