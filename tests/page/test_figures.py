"""Numbers of the page: quantiles that make nothing up, differences that know when they cannot be had."""

from __future__ import annotations

import math

import numpy as np
import pytest

from modelwatch.page.figures import Buckets, Found, rounded, shares
from modelwatch.series import Cell, Sample

BOUNDS = (0.1, 0.2, 0.5)


def buckets(*counts, total=1.0):
    return Buckets(BOUNDS, counts, total)


def test_quantiles_are_those_of_prometheus():
    """Between two bounds a quantile is interpolated, as histogram_quantile does it."""
    assert buckets(0, 4, 4, 0).quantile(0.5) == {"value": 0.2}
    assert buckets(0, 4, 4, 0).quantile(0.75) == {"value": 0.35}
    assert buckets(2, 4, 4, 0).quantile(0.3) == {"value": pytest.approx(0.125)}


def test_outside_the_bounds_only_a_bound_is_said():
    """In the first and the open last bucket no number is made up: it is said on which side of the bound it lies."""
    assert buckets(9, 1, 0, 0).quantile(0.5) == {"value": 0.1, "beyond": "below"}
    assert buckets(0, 1, 0, 9).quantile(0.5) == {"value": 0.5, "beyond": "above"}


@pytest.mark.parametrize("seed", range(20))
def test_a_quantile_lies_in_the_bucket_of_the_true_one(seed):
    """Of any numbers, the quantile of the buckets lies between the same bounds as the numbers' own."""
    rng = np.random.default_rng(seed)
    numbers = rng.gamma(1.0, 0.2, 200)
    counts = np.bincount(np.searchsorted(BOUNDS, numbers), minlength=4)
    for q in (0.01, 0.5, 0.95, 0.99, 1.0):
        found = Buckets(BOUNDS, tuple(counts), 1.0).quantile(q)
        true = float(np.quantile(numbers, q, method="inverted_cdf"))
        if found.get("beyond") == "below":
            assert true <= BOUNDS[0]
        elif found.get("beyond") == "above":
            assert true > BOUNDS[-1]
        else:
            i = np.searchsorted(BOUNDS, true)
            assert BOUNDS[i - 1] <= found["value"] <= BOUNDS[i]


def test_without_counts_nothing_is_said():
    """A histogram in which nothing is, or which has no bounds, has no quantile and no mean."""
    assert buckets(0, 0, 0, 0).quantile(0.5) is None
    assert buckets(0, 0, 0, 0).mean is None
    assert Buckets((), (3.0,), 1.0).quantile(0.5) is None


def test_what_came_since():
    """The difference of two histograms is a histogram of what came in between."""
    since = buckets(3, 4, 5, 6, total=9.0).since(buckets(1, 1, 1, 1, total=4.0))
    assert since == buckets(2, 3, 4, 5, total=5.0)
    assert since.mean == pytest.approx(5 / 14)


@pytest.mark.parametrize("before", [None, buckets(0, 5, 0, 0), Buckets((1.0,), (0.0, 0.0), 0.0)])
def test_a_new_beginning_is_no_difference(before):
    """What was not there, has fallen, or was counted in other bounds, is not subtracted."""
    assert buckets(1, 1, 1, 1).since(before) is None


def test_found_knows_what_is_known():
    """Numbers are found by metric and labels; NaN and what is not there are None; the first of two equals counts."""
    found = Found(
        [
            Sample("model_request_total", ("m", "1", "success"), 5),
            Sample("model_request_total", ("m", "1", "success"), 7),
            Cell("model_request_total", ("m", "1", "error"), None, [2.0]),
            Sample("model_request_total", ("m", "2", "error"), 9),
            Sample("model_workers", (), math.nan),
        ]
    )
    assert found.number("model_request_total", "m", "1", "success") == 5
    assert found.by_last("model_request_total", "m", "1") == {"success": 5, "error": 2}
    assert found.number("model_workers") is None
    assert found.number("model_rows_total", "m", "1") is None
    assert found.buckets("model_prediction_confidence", "m") is None


def test_histograms_of_all_classes_are_one():
    """Histograms that differ in a later label are added up; those in other bounds are left alone."""
    cells = [
        Cell("model_prediction_confidence", ("m", "a"), (0.5,), [1, 2, 1.5]),
        Cell("model_prediction_confidence", ("m", "b"), (0.5,), [3, 4, 4.5]),
        Cell("model_prediction_confidence", ("m", "c"), (0.7,), [9, 9, 9.0]),
        Cell("model_prediction_confidence", ("other", "a"), (0.5,), [9, 9, 9.0]),
    ]
    assert Found(cells).buckets("model_prediction_confidence", "m") == Buckets((0.5,), (4.0, 6.0), 6.0)


def test_what_is_shown_can_be_json():
    """What is no finite number becomes None, and the rest is cut to four digits."""
    assert [rounded(x) for x in (math.nan, math.inf, None, 0.0, 1e-300, 12345.6)] == [
        None,
        None,
        None,
        0.0,
        1e-300,
        12350.0,
    ]
    assert shares([1, 2, 0]) == [0.3333, 0.6667, 0.0]
