"""Raw samples: binned by the reference, compared as counts."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from modelwatch import statistics
from modelwatch.exceptions import ConfigurationError, CountsError, EmptyCountsError
from modelwatch.samples import DriftDetector


class TestDriftDetector:
    """Two raw samples: 10,000 rows of reference, a window of 1,000 that has moved by half a standard deviation."""

    rng = np.random.default_rng(7)
    reference, current = rng.normal(size=10_000), rng.normal(0.5, size=1_000)

    def test_bins_are_the_reference_deciles(self):
        """PSI and JS are those of counts over ten quantile bins of the reference with open ends."""
        edges = np.quantile(self.reference, np.arange(1, 10) / 10)
        counts = [np.histogram(v, [-np.inf, *edges, np.inf])[0] for v in (self.reference, self.current)]
        assert counts[0].tolist() == [1_000] * 10
        assert DriftDetector.psi(self.reference, self.current) == statistics.psi(*counts)
        assert DriftDetector.js_divergence(self.reference, self.current) == statistics.js_divergence(*counts)
        assert 0.18 < statistics.psi(*counts) < 0.3

    def test_one_outlier_does_not_hide_the_drift(self):
        """One value of 1e6, or of infinity, is one row in an outer bin (joint bins: PSI falls from .51 to .001)."""
        clean = DriftDetector.psi(self.reference, self.current)
        for outlier in (1e6, -1e6, math.inf, -math.inf):
            assert DriftDetector.psi(self.reference, [*self.current, outlier]) == pytest.approx(clean, rel=0.03)
            assert DriftDetector.psi([*self.reference, outlier], self.current) == pytest.approx(clean, rel=0.03)
            assert DriftDetector.js_divergence(self.reference, [*self.current, outlier]) > 0.02

    @pytest.mark.parametrize("missing", [None, math.nan])
    def test_missing_values_change_nothing(self, missing):
        """None and NaN on either side are left out."""
        holey = [*self.current, missing, missing], [missing, *self.reference]
        for f in (DriftDetector.psi, DriftDetector.js_divergence, DriftDetector.ks_test):
            assert f(self.reference, holey[0]) == f(holey[1], self.current) == f(self.reference, self.current)
        got = DriftDetector.chi_square_test([*"aab", missing], [*"abb", missing, missing])
        assert got == DriftDetector.chi_square_test("aab", "abb")

    def test_few_values_have_bins_of_their_own(self):
        """At most 20 distinct values have one bin each; another value, like infinity, falls in one more."""
        counts = np.array([50, 50, 50, 0]), np.array([50, 30, 0, 20])
        samples = [0, 1, 2] * 50, [0] * 50 + [1] * 30 + [1.5, -1, 7, math.inf] * 5
        assert DriftDetector.psi(*samples) == statistics.psi(*counts)
        assert DriftDetector.psi([5.0] * 10, [6.0] * 10) == statistics.psi(np.array([10, 0]), np.array([0, 10])) > 20
        assert DriftDetector.psi(np.arange(20), np.arange(20) + 0.5) == pytest.approx(
            20 * 0.05 * math.log(5e4) + 13.8, abs=0.1
        )
        assert DriftDetector.psi(np.arange(21), np.arange(21) + 0.5) < 0.5

    def test_heavy_ties_give_fewer_bins(self):
        """Where one value spans several deciles its bins are one."""
        reference = np.append(np.zeros(650), np.arange(1, 351))
        counts = np.array([0, 700, 100, 100, 100]), np.array([1, 2, 0, 0, 1])
        assert DriftDetector.js_divergence(reference, [-1, 0, 1, 1e9]) == statistics.js_divergence(*counts)

    def test_many_infinities_leave_the_bins_alone(self):
        """However many rows are infinite, the quantiles are those of the finite ones."""
        edges = np.quantile(self.reference, np.arange(1, 10) / 10)
        endless = np.append(self.reference, [np.inf] * 3_000 + [-np.inf] * 2_000)
        counts = [np.bincount(np.digitize(v, edges), minlength=10) for v in (endless, self.current)]
        assert counts[0].tolist() == [3_000] + [1_000] * 8 + [4_000]
        assert DriftDetector.psi(endless, self.current) == statistics.psi(*counts)

    def test_bins_can_be_chosen(self):
        """With `bins=4` the quartiles cut; fewer than two are refused."""
        counts = [
            np.histogram(v, [-np.inf, *np.quantile(self.reference, [0.25, 0.5, 0.75]), np.inf])[0]
            for v in (self.reference, self.current)
        ]
        assert DriftDetector.psi(self.reference, self.current, bins=4) == statistics.psi(*counts)
        for bins in (1, 0, 2.5):
            with pytest.raises(ConfigurationError, match="at least 2 bins"):
                DriftDetector.psi(self.reference, self.current, bins=bins)

    def test_ks_is_scipys(self):
        """KS on raw samples is `scipy.stats.ks_2samp`, for short samples its exact p-value."""
        for rows in (30, 10_000):
            want = stats.ks_2samp(self.reference[:rows], self.current)
            assert DriftDetector.ks_test(self.reference[:rows], self.current) == (want.statistic, want.pvalue)

    def test_an_unseen_category_is_one_row(self):
        """One new value in 1,000 rows has p = .019 (goodness of fit: 0); the order of the rows does not matter."""
        reference, current = [*"abc"] * 4_000, [*"abc"] * 333 + ["new"]
        want = stats.chi2_contingency([[4_000] * 3 + [0], [333] * 3 + [1]], correction=False)
        for sample in (current, current[::-1], np.array(current), np.array(current, dtype=object)):
            got = DriftDetector.chi_square_test(reference, sample)
            assert got == pytest.approx((want.statistic, want.pvalue), rel=1e-12, abs=1e-12)
        assert 0.005 < want.pvalue < 0.02
        assert DriftDetector.chi_square_test(["a"] * 5, ["a"] * 3) == (0.0, 1.0)

    def test_takes_data_frame_columns(self):
        """Columns of pandas, polars and pyarrow work, with their own ways to say missing."""
        pandas, polars, arrow = (pytest.importorskip(name) for name in ("pandas", "polars", "pyarrow"))
        texts, numbers = [*"aabbb", None], [1.0, 2.0, 3.0, None]
        want = DriftDetector.chi_square_test("ab", texts), DriftDetector.psi([1, 2], numbers)
        columns = [pandas.Series, polars.Series, arrow.array, lambda values: pandas.Series(values, dtype="category")]
        for column in [*columns, lambda values: pandas.Series(values, dtype="string")]:
            assert DriftDetector.chi_square_test("ab", column(texts)) == want[0]
        for column in [*columns[:3], lambda values: pandas.Series(values, dtype="Float64")]:
            assert DriftDetector.psi([1, 2], column(numbers)) == want[1]

    @pytest.mark.parametrize("empty", [[], [math.nan], [None, None]])
    def test_refuses_samples_without_values(self, empty):
        """Nothing, or nothing but missing values, cannot be compared."""
        detector = DriftDetector()
        for f in (detector.psi, detector.js_divergence, detector.ks_test, detector.chi_square_test):
            for samples in ((empty, [1, 2]), ([1, 2], empty)):
                with pytest.raises(EmptyCountsError):
                    f(*samples)

    def test_refuses_what_is_no_sample(self):
        """Text, tables and too large numbers among the numbers, and lists among the categories, are refused."""
        for sample in (["a", "b"], [[1.0, 2.0]], [10**400], [{}]):
            with pytest.raises(CountsError, match=r"^Expected a "):
                DriftDetector.psi(sample, [1.0])
        with pytest.raises(CountsError, match=r"^Expected a 1-d sample of categories"):
            DriftDetector.chi_square_test([["a"], ["b"]], ["a"])

    def test_leaves_its_arguments_alone(self):
        """Samples are not sorted, filled or shortened in place."""
        samples = [np.array([3.0, math.nan, 1.0, 2.0]), np.array([2.0, 1.0, math.nan])]
        before = [sample.copy() for sample in samples]
        for f in (DriftDetector.psi, DriftDetector.js_divergence, DriftDetector.ks_test, DriftDetector.chi_square_test):
            f(*samples)
        np.testing.assert_array_equal(samples[0], before[0])
        np.testing.assert_array_equal(samples[1], before[1])
