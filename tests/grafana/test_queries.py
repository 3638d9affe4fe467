"""The PromQL that dashboards are made of: promtool evaluates it over series of which numpy knows the answer."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from scipy import stats
from support.dashboards import DASHBOARDS, load
from support.promtool import run_tests, series

import modelwatch

sys.path.insert(0, str(DASHBOARDS.parent))  # where build.py finds it too
from building import queries

BINS = ["00", "01", "02", "03"]
OLD, NEW = [40, 30, 20, 10], [20, 30, 30, 0]
OLDER = 'sum by (reference, feature, bin) (c{version="1"})'
NEWER = 'sum by (version, reference, feature, bin) (c{version="2"})'
BOARDS = load()
CHOSEN = {"job": "bike", "instance": ".+", "model_name": "m", "model_version": "1", "feature": "f", "window": "1h"}
SERVICE = {"job": "bike", "instance": "a", "model_name": "m", "model_version": "1"}
FLEET = {"job": "bike", "model_name": "m", "model_version": "1", "reference": "r", "feature": "f"}


def counts(name, rows, shape="{}x5", **labels):
    """A series for each bin."""
    return [series(name, shape.format(n), bin=bin_, **labels) for bin_, n in zip(BINS, rows, strict=True)]


def versions(new, old):
    """Rows of a new and an old version, each by bins of its reference."""
    labels = {"feature": "f"}
    rows = ((NEW, "2", new), (OLD, "1", old))
    return [line for n, version, r in rows for line in counts("c", n, version=version, reference=r, **labels)]


def query_of(uid, title, letter="A"):
    """The query of a panel, with something chosen, and an hour in place of Grafana's own lengths."""
    found = next(panel for panel in BOARDS[uid]["panels"] if panel["title"] == title)
    expr = next(target["expr"] for target in found["targets"] if target["refId"] == letter)
    for name, value in {**CHOSEN, "__rate_interval": "1h", "__range": "1h"}.items():
        expr = expr.replace(f"${name}", value)
    return expr


@pytest.fixture
def check(tmp_path):
    """Fails unless the expression has these values, to 1e-9, by the text of the labels of each; and no others."""

    def compared(inputs, expr, expected, at="5m"):
        names = [{"expr": f"0 * ({expr})", "eval_time": at,
                  "exp_samples": [{"labels": labels, "value": 0} for labels in expected]}]  # fmt: skip
        values = [
            {"expr": f"count(abs(({expr}) - ({value})) < 1e-9) >= bool {list(expected.values()).count(value)}",
             "eval_time": at, "exp_samples": [{"labels": "{}", "value": 1}]}
            for value in expected.values()
        ]  # fmt: skip
        test = {"interval": "1m", "input_series": inputs, "promql_expr_test": [*names, *values]}
        done = run_tests(tmp_path, [], [test])
        assert done.returncode == 0, done.stdout + done.stderr

    return compared


def smoothed(one, other):
    """Smoothed PSI of two vectors of counts."""
    p, q = (np.array(rows) + 0.5 for rows in (one, other))
    p, q = p / p.sum(), q / q.sum()
    return float(np.sum((p - q) * np.log(p / q)))


def test_two_versions_are_compared_over_their_bins(check):
    """The PSI between two versions is that of their counts with half a row in every bin."""
    inputs = versions("r", "r")
    expr = queries.between(NEWER, OLDER, "version", "reference, feature")
    check(inputs, expr, {'{version="2", reference="r", feature="f"}': smoothed(NEW, OLD)})


def test_versions_with_different_bins_are_not_compared(check):
    """Where two versions have different references nothing is said about them."""
    inputs = versions("s", "r")
    check(inputs, queries.between(NEWER, OLDER, "version", "reference, feature"), {})


def test_the_noise_of_a_comparison_is_that_of_both_samples(check):
    """The noise floor between two versions is, to 3 %, the 99.9 % quantile of chi-square by the rows of both."""
    inputs = versions("r", "r")
    exact = stats.chi2.ppf(0.999, len(BINS) - 1) * (1 / sum(NEW) + 1 / sum(OLD))
    expr = f"abs({queries.noise_between(NEWER, OLDER, 'version', 'reference, feature')} / {exact} - 1) < bool 0.03"
    check(inputs, expr, {'{version="2", reference="r", feature="f"}': 1})


@pytest.mark.parametrize(
    ("bound", "text"),
    [(0.3, "0.3"), (-1.41996, "-1.42"), (1234567, "1235000"), (0, "0"), (0.000123456, "0.0001235"), (5, "5")],
)
def test_bounds_are_labels_with_four_digits(check, bound, text):
    """The upper bound of a bin becomes a label with four significant digits, without a tail of binary fractions."""
    inputs = [
        series("share", "0.25x5", reference="r", bin="00"),
        series("bound", f"{bound}x5", reference="r", bin="00"),
    ]
    check(inputs, queries.labelled("share", "bound"), {f'{{reference="r", bin="00", upto="{text}"}}': 0.25})


def test_bins_without_a_bound_are_called_by_their_name(check):
    """A category, and the rest of a number with few values, are called by the name of their bin."""
    inputs = [
        series("share", "0.75x5", reference="r", bin="_other"),
        series("share", "0.25x5", reference="r", bin="00"),
        series("bound", "7x5", reference="r", bin="00"),
    ]
    expected = {'{reference="r", bin="00", upto="7"}': 0.25, '{reference="r", bin="_other", upto="_other"}': 0.75}
    check(inputs, queries.labelled("share", "bound"), expected)


def test_a_ratio_without_a_part_is_zero(check):
    """Nothing failed yet is 0, not unknown."""
    check([series("whole", "4x5", a="x")], queries.ratio("part", "whole"), {'{a="x"}': 0})


def test_a_ratio_without_a_whole_is_absent(check):
    """Without traffic there is no ratio, and no NaN."""
    inputs = [series("part", "0x5", a="x"), series("whole", "0x5", a="x")]
    check(inputs, queries.ratio("part", "whole"), {})


def test_a_quantile_without_observations_is_absent(check):
    """Without observations in the window there is no quantile, and no NaN."""
    inputs = [series("h_bucket", "9x90", le="1"), series("h_bucket", "9x90", le="+Inf"), series("h_count", "9x90")]
    check(inputs, queries.quantile(0.5, "h", "", "").replace("$__rate_interval", "30m"), {}, at="80m")


def test_what_bins_add_is_the_psi_of_all(check):
    """What the bins of a feature add to the PSI, one by one, is the library's PSI in all."""
    q = np.array(OLD) / sum(OLD)
    inputs = [
        *counts("modelwatch:feature_bin:increase1h", NEW, **FLEET),
        *counts("modelwatch:reference_bin_share:max", q.tolist(), **FLEET),
        series("model_reference_info", "1x5", **FLEET, instance="a", source="file"),
    ]
    expr = query_of("modelwatch-drift", "$feature: bin by bin", "D")
    check(inputs, f"sum({expr})", {"{}": modelwatch.psi(np.array(OLD), np.array(NEW))})


def test_a_replica_that_differs_stands_out(check):
    """The distance of a replica to the fleet is the total variation of its rows and those of all."""
    alike, other = [40, 30, 20, 10], [10, 20, 30, 40]
    labels = {**FLEET, "reference": "r"}
    inputs = [
        line
        for instance, rows in (("a", alike), ("b", alike), ("c", other))
        for line in counts("model_feature_bin_total", rows, "0+{}x70", instance=instance, **labels)
    ]
    fleet = (2 * np.array(alike) + np.array(other)) / 300
    expected = {
        f'{{instance="{name}"}}': float(np.abs(np.array(rows) / 100 - fleet).sum() / 2)
        for name, rows in (("a", alike), ("b", alike), ("c", other))
    }
    check(inputs, query_of("modelwatch-drift", "Replicas that differ from the fleet"), expected, at="65m")


def test_replicas_with_few_rows_do_not_stand_out(check):
    """A replica with at most 100 rows in the hour is left out: it would always differ."""
    inputs = [
        line
        for instance, rows in (("a", [40, 30, 20, 10]), ("b", [0, 0, 0, 1]))
        for line in counts("model_feature_bin_total", rows, "0+{}x70", instance=instance, **FLEET)
    ]
    expr = query_of("modelwatch-drift", "Replicas that differ from the fleet")
    check(inputs, f"count({expr})", {"{}": 1}, at="65m")


def test_targets_without_modelwatch_are_not_counted(check):
    """Replicas are those of jobs in which modelwatch ran within a day, also if none answers now; not other targets."""
    inputs = [
        series("up", "1x30 0x90", job="bike", instance="a"),
        series("up", "1x120", job="bike", instance="b"),
        series("up", "0x120", job="node", instance="c"),
        series("modelwatch_build_info", "1x30", job="bike", instance="a"),
        series("modelwatch_build_info", "1x30", job="bike", instance="b"),
    ]
    for letter, expected in (("A", 1), ("B", 1)):
        expr = query_of("modelwatch-overview", "Replicas", letter).replace('job=~"bike"', 'job=~".+"')
        check(inputs, expr, {"{}": expected}, at="2h")


def test_no_confidence_is_not_low(check):
    """Where predictions come without a confidence nothing is said about how many are low."""
    inputs = [
        series("model_low_confidence_total", "0x70", **SERVICE),
        series("model_rows_total", "0+60x70", **SERVICE),
        series("model_prediction_confidence_count", "0x70", job="bike", instance="a", model_name="m"),
    ]
    expr = query_of("modelwatch-model", "Low confidence")
    check(inputs, expr, {}, at="65m")
    sure = series("model_prediction_confidence_count", "0+60x70", job="bike", instance="a", model_name="m")
    check([*inputs[:2], sure], expr, {"{}": 0}, at="65m")


def test_bins_of_a_reference_that_was_replaced_are_not_shown(check):
    """After a reload the bins now are those of the reference in use, although the window has rows of both."""
    old, new = FLEET | {"reference": "old"}, FLEET | {"reference": "new"}
    inputs = [
        *counts("modelwatch:feature_bin:increase1h", OLD, **old),
        *counts("modelwatch:feature_bin:increase1h", NEW, **new),
        series("model_reference_info", "1x5", **new, instance="a", source="file"),
    ]
    expr = query_of("modelwatch-drift", "$feature: bin by bin", "C")
    expected = {f'{{reference="new", bin="{bin_}"}}': n / sum(NEW) for bin_, n in zip(BINS, NEW, strict=True)}
    check(inputs, expr, expected)


def test_severe_alerts_come_first(check):
    """An alert that fires with two severities is once in the list, as the worse; then warnings, then what is noted."""
    fires = {"alertname": "ModelwatchX", "alertstate": "firing", "job": "bike", "model_name": "m"}
    inputs = [
        series("ALERTS", "1x5", severity="critical", **fires),
        series("ALERTS", "1x5", severity="warning", **fires),
        series("ALERTS", "1x5", severity="info", **(fires | {"alertname": "ModelwatchY"})),
    ]
    expected = {'{alertname="ModelwatchX", model_name="m"}': 2, '{alertname="ModelwatchY", model_name="m"}': 0}
    check(inputs, query_of("modelwatch-overview", "Alerts that fire"), expected)


def test_the_share_of_errors_is_a_share(check):
    """The share of failed requests is over all statuses, not over the failed ones alone, and without refused ones."""
    rows = {"success": 97, "error": 2, "timeout": 1, "invalid": 50}
    inputs = [series("model_request_total", f"0+{n}x70", status=status, **SERVICE) for status, n in rows.items()]
    check(inputs, query_of("modelwatch-service", "Failed"), {"{}": 0.03}, at="65m")
