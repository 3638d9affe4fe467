"""The kernels: many features at once are each feature alone, nothing is made up, and the law of pure noise."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from scipy import stats

from modelwatch import kernels, statistics
from modelwatch.exceptions import CountsError
from modelwatch.kernels import Segments

hypothesis = pytest.importorskip("hypothesis")
st = hypothesis.strategies

SEGMENTED = ["psi", "psi_smoothed", "psi_debiased", "psi_critical", "js_divergence", "kl_divergence", "hellinger"]
SEGMENTED += ["total_variation"]

count = st.one_of(st.integers(0, 3), st.integers(0, 2_000), st.integers(0, 2_000_000))
pairs = st.lists(st.tuples(count, count), min_size=1, max_size=30).map(
    lambda rows: np.array(rows, dtype=np.int64).T.copy()
)
pairs = pairs.filter(lambda pair: pair.sum(axis=1).all())
many = hypothesis.settings(max_examples=100, deadline=None, derandomize=True)


def close(got, want):
    """Equal to 1e-12: relative for large numbers, absolute for small ones."""
    return got == pytest.approx(want, rel=1e-12, abs=1e-12)


class TestSegments:
    @pytest.mark.parametrize("name", [*SEGMENTED, "ks_statistic"])
    @hypothesis.given(pair_list=st.lists(pairs, min_size=1, max_size=6))
    @hypothesis.settings(many, max_examples=40)
    def test_many_features_at_once_equal_one_by_one(self, name, pair_list):
        """Features laid end to end get the numbers they get alone, bit for bit in KS."""
        kernel = getattr(kernels, name.removesuffix("_statistic") + "_by_feature")
        lengths = [pair.shape[1] for pair in pair_list]
        segments = Segments(np.cumsum([0, *lengths[:-1]]), sum(lengths))
        got = kernel(*np.concatenate(pair_list, axis=1), segments)
        want = [getattr(statistics, name)(*pair) for pair in pair_list]
        assert got.dtype == np.float64
        assert got.tolist() == want if name == "ks_statistic" else close(got.tolist(), want)

    def test_a_feature_without_rows_is_unknown(self):
        """Where a side has no rows the numbers are NaN, without a warning, and the neighbours' are untouched."""
        reference, counts = np.array([5, 5, 0, 0, 5, 5, 0, 0, 5, 5]), np.array([1, 4, 3, 3, 0, 0, 0, 0, 4, 1])
        segments = Segments([0, 2, 4, 6, 8], 10)
        for name in [*SEGMENTED, "ks"]:
            got = getattr(kernels, f"{name}_by_feature")(reference, counts, segments)
            assert np.isnan(got).tolist() == [False, True, True, True, False], name
            assert got[0] == pytest.approx(got[4])
        assert kernels.bins_by_feature(reference, counts, segments).tolist() == [2, 2, 2, 0, 2]

    def test_wasserstein_steps_over_the_borders(self):
        """Each feature has means and a standard deviation of its own; the step to the next one does not count."""
        reference, counts, means = (
            np.array([5, 5, 1, 1, 1]),
            np.array([3, 7, 0, 2, 1]),
            np.array([0, 1.0, 100, 300, 500]),
        )
        got = kernels.wasserstein_by_feature(reference, counts, Segments([0, 2], 5), means, np.array([1.0, 100.0]))
        assert close(got[0], stats.wasserstein_distance([0, 1], [0, 1], [5, 5], [3, 7]))
        assert close(got[1], stats.wasserstein_distance([1, 3, 5], [1, 3, 5], [1, 1, 1], [0, 2, 1]))

    def test_no_features(self):
        """No features are no numbers, not an error."""
        nothing = np.array([], dtype=np.int64)
        for name in [*SEGMENTED, "ks", "bins"]:
            assert getattr(kernels, f"{name}_by_feature")(nothing, nothing, Segments([], 0)).shape == (0,)

    @pytest.mark.parametrize(("starts", "size"), [([1, 2], 4), ([0, 2, 2], 4), ([0, 3, 2], 4), ([0, 4], 4), ([], 4)])
    def test_refuses_empty_features(self, starts, size):
        """Starts that leave a feature empty or an element out are refused (reduceat would answer with nonsense)."""
        with pytest.raises(CountsError, match="Expected starts"):
            Segments(starts, size)

    def test_can_be_pickled(self):
        """Segments go to another process unchanged."""
        segments = pickle.loads(pickle.dumps(Segments([0, 2], 5)))
        assert segments.lengths.tolist() == [2, 3]


@pytest.mark.parametrize("n", [200, 1_000])
def test_pure_noise_follows_its_law(n):
    """Without drift psi_smoothed has mean (B-1)u, and exceeds its critical value as often as alpha says."""
    windows, bins, m = 4_000, 10, 10_000
    rng = np.random.default_rng(n)
    segments = Segments(np.arange(windows) * bins, windows * bins)
    reference, counts = (rng.multinomial(rows, [1 / bins] * bins, windows).ravel() for rows in (m, n))
    values = kernels.psi_smoothed_by_feature(reference, counts, segments)
    assert values.mean() == pytest.approx((bins - 1) * (1 / n + 1 / m), rel=0.05)
    alarms = values > kernels.psi_critical_by_feature(reference, counts, segments, alpha=0.05)
    assert 0.03 <= alarms.mean() <= 0.07


def test_chi_square_pools_rare_categories():
    """Categories that expect fewer than five window rows are tested as one; with nothing left to compare, p is 1."""
    reference = np.array([900, 500, 20, 10, 5, 0, 0, 9, 1, 3, 4])
    counts = np.array([80, 60, 0, 1, 0, 2, 0, 1, 2, 0, 0])
    segments = Segments([0, 7, 9], 11)
    expected = counts[:7].sum() * (reference + counts)[:7] / (reference + counts)[:7].sum()
    assert (expected < 5).tolist() == [False, False, True, True, True, True, True]
    want = stats.chi2_contingency([[900, 500, 35], [80, 60, 3]], correction=False)
    statistic, pvalue = kernels.chi_square_by_feature(reference, counts, segments, min_expected=5)
    assert close(statistic[0], want.statistic)
    assert close(pvalue[0], want.pvalue)
    assert pvalue[1] == 1  # all pooled into one
    assert np.isnan(pvalue[2])  # no rows in the window
    alone = statistics.chi_square(reference[:7], counts[:7])
    assert close(kernels.chi_square_by_feature(reference, counts, segments)[1][0], alone.pvalue)
