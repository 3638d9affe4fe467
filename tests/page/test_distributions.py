"""The distributions of the page: the bins of the report, named by their real bounds, and no more than fit."""

from __future__ import annotations

import numpy as np

import modelwatch
from modelwatch.page.distributions import MOST_BINS, Distributions

RNG = np.random.default_rng(1)


def look(table, window, **fit):
    """The distributions of a window, and the reading behind them."""
    reference = modelwatch.ReferenceProfile.fit(table, **fit)
    monitor = modelwatch.Monitor("m", reference=reference)
    monitor.record(window)
    report, reading = monitor.evaluate()
    return Distributions(reading), report, reading


def test_numbers_have_their_edges():
    """A numeric feature has the reference's deciles as edges, and the shares that PSI is made of."""
    table = {"x": RNG.normal(10, 2, 5_000)}
    shift = RNG.normal(11, 2, 1_000)
    distributions, report, _ = look(table, {"x": shift})
    bins = distributions.of(0, known=True)
    assert bins["kind"] == "edges"
    assert np.allclose(bins["at"], np.quantile(table["x"], np.arange(1, 10) / 10), rtol=1e-5)
    counts = np.bincount(
        np.searchsorted(np.quantile(table["x"], np.arange(1, 10) / 10), shift, side="right"), minlength=10
    )
    assert np.allclose(bins["window"], counts / 1_000, atol=1e-4)
    p, q = np.array(bins["reference"]), np.array(bins["window"])
    assert abs(((q - p) * np.log(q / p)).sum() - report["x"].psi) < 2e-3


def test_few_values_are_named():
    """Of a feature with few values each is a bin of its own, and what the reference never saw the last one."""
    distributions, _, _ = look({"x": [1.0, 2.0, 4.0] * 500}, {"x": [1.0] * 150 + [3.0] * 150})
    bins = distributions.of(0, known=True)
    assert bins["kind"] == "values"
    assert bins["at"] == [1.0, 2.0, 4.0]
    assert bins["window"] == [0.5, 0.0, 0.0, 0.5]


def test_dates_as_numbers_keep_all_their_digits():
    """A value such as 20110401 is shown as it is, not rounded to what would be another one."""
    distributions, _, _ = look({"x": [20110401.0, 20110402.0] * 500}, {"x": [20110401.0] * 300})
    assert distributions.of(0, known=True)["at"] == [20110401.0, 20110402.0]
    values = [1_700_000_000_123.0, 1_700_000_000_124.0]
    distributions, _, _ = look({"x": values * 500}, {"x": values[:1] * 300})
    assert distributions.of(0, known=True)["at"] == values


def test_categories_are_named():
    """A categorical feature has its categories, `_rare` and `_other`."""
    distributions, _, _ = look({"x": ["a", "b"] * 500 + ["seldom"]}, {"x": ["a"] * 200 + ["new"] * 100})
    bins = distributions.of(0, known=True)
    assert (bins["kind"], bins["at"]) == ("names", ["a", "b", "_rare", "_other"])
    assert bins["window"] == [0.6667, 0.0, 0.0, 0.3333]


def test_nothing_is_shown_of_a_window_that_says_nothing():
    """Where too few rows are known the window has no shares, and the reference has its own."""
    distributions, _, _ = look({"x": ["a", "b"] * 500}, {"x": ["a"] * 3})
    assert distributions.of(0, known=False)["window"] is None
    assert distributions.of(0, known=False)["reference"] == [0.5, 0.5, 0.0, 0.0]


def test_very_many_categories_are_cut():
    """Of a thousand categories the commonest are shown, and the rest is one number; nothing is lost of the sum."""
    weights = np.arange(1, 301.0)
    names = np.array([f"c{i:03}" for i in range(300)])
    table = {"x": np.repeat(names, (weights * 2 + 20).astype(int))}
    distributions, _, _ = look(table, {"x": np.repeat(names, 2)}, max_categories=1000)
    bins = distributions.of(0, known=True)
    assert len(bins["at"]) == len(bins["reference"]) == len(bins["window"]) < MOST_BINS
    assert bins["at"][-2:] == ["_rare", "_other"]
    assert "c299" in bins["at"]
    assert "c000" not in bins["at"]
    assert bins["more"]["bins"] == 302 - len(bins["at"])
    for side in ("reference", "window"):
        assert abs(sum(bins[side]) + bins["more"][side] - 1) < 0.01


def test_names_are_short_and_on_one_line():
    """Whatever a category is called, its name on the page has at most 200 characters and no line break."""
    distributions, _, _ = look({"x": ["x" * 500, "a\nb"] * 500}, {"x": ["b"] * 300})
    names = distributions.of(0, known=True)["at"]
    assert max(map(len, names)) <= 200
    assert "a\\nb" in names
