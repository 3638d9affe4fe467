"""Recording rules: the statistics of drift over all replicas, and the error ratios that the alerts look at.

One group for each window, in which each rule reads what those above it have just written: rules of another group would
see the values of the last evaluation. Bins are added up only within one reference.
"""

from __future__ import annotations

from typing import Any

from . import promql
from .options import LATENCY, MODEL, RAREST, RuleOptions, is_long

BURN_WINDOWS = ("5m", "30m", "1h", "2h", "6h", "1d", "3d")
FAILED = 'status=~"error|timeout"'
ANSWERABLE = 'status=~"success|error|timeout"'
"""Requests that count for the objective: not those that the client got wrong or left."""

_STEP = "5m"

_Rule = dict[str, str]


def fleet_groups(options: RuleOptions) -> dict[str, Any]:
    """A rule file: `{"groups": […]}`, as Prometheus reads it.

    >>> [group["name"] for group in fleet_groups(RuleOptions(windows=("1h",)))["groups"]]
    ['modelwatch-reference', 'modelwatch-drift-1h', 'modelwatch-service']
    """
    groups = [_group("modelwatch-reference", _reference(options), options.interval)]
    if any(map(is_long, options.windows)):
        # All windows of days rest on the same steps, which follow each other without a gap and do not overlap.
        groups.append(_group("modelwatch-steps", _steps(options), _STEP))
    for window in options.windows:
        interval = RAREST if is_long(window) else options.interval
        groups.append(_group(f"modelwatch-drift-{window}", _drift(options, window), interval))
    groups.append(_group("modelwatch-service", _service(options)))
    return {"groups": groups}


def recorded_names(options: RuleOptions) -> frozenset[str]:
    """The names of all that is recorded."""
    return frozenset(rule["record"] for group in fleet_groups(options)["groups"] for rule in group["rules"])


def feature_labels(options: RuleOptions) -> tuple[str, ...]:
    """The labels of every statistic of a feature."""
    return (*options.by, *MODEL, "reference", "feature")


def _group(name: str, rules: list[_Rule], interval: str | None = None) -> dict[str, Any]:
    return {"name": name, **({"interval": interval} if interval else {}), "rules": rules}


def _rule(record: str, expr: str) -> _Rule:
    return {"record": f"modelwatch:{record}", "expr": expr}


def _reference(options: RuleOptions) -> list[_Rule]:
    """What the replicas say of their reference. Where they say the same it is kept once."""
    labels = ", ".join(feature_labels(options))
    return [
        _rule("reference_bin_share:max", f"max by ({labels}, bin) (model_reference_bin_share)"),
        _rule("reference_missing_share:max", f"max by ({labels}) (model_reference_missing_share)"),
        _rule(
            "feature_reference_rows:max",
            # One target has one reference, whatever other labels tell targets apart.
            f"max by ({labels}) (\n"
            f"  model_feature_reference_rows\n"
            f"* ignoring (feature, reference, source) group_left (reference) (model_reference_info == 1)\n"
            f")",
        ),
    ]


def _drift(options: RuleOptions, window: str) -> list[_Rule]:
    by = feature_labels(options)
    p, q = f"modelwatch:feature_bin_share:{window}", "modelwatch:reference_bin_share:max"
    counts, used = f"modelwatch:feature_bin:increase{window}", f"modelwatch:feature_bins:{window}"
    n, m = f"modelwatch:feature_rows:{window}", "modelwatch:feature_reference_rows:max"
    missing = f"modelwatch:feature_missing:increase{window}"
    smoothed, critical = f"modelwatch:feature_psi_smoothed:{window}", f"modelwatch:feature_psi_critical:{window}"
    # Of one window with few rows nothing is said; its counts are there all the same.
    enough = f"({n} >= {options.min_rows})"
    rules = [
        *_increases(options, window),
        _rule(f"feature_rows:{window}", promql.total(by, counts)),
        _rule(f"feature_missing_ratio:{window}", f"{missing} / ({n} + {missing} >= {options.min_rows})"),
        _rule(f"feature_bin_share:{window}", f"{counts} / ignoring (bin) group_left () {enough}"),
        _rule(f"feature_bins:{window}", f"count by ({', '.join(by)}) ({p} + {q} > 0)"),
        _rule(f"feature_psi:{window}", promql.psi(p, q, by)),
        _rule(f"feature_psi_smoothed:{window}", promql.psi_smoothed(counts, q, by, n=n, m=m, used=used)),
        _rule(f"feature_psi_critical:{window}", promql.psi_critical(n, m, used)),
        _rule(f"feature_js_divergence:{window}", promql.js_divergence(p, q, by)),
        _rule(f"feature_ks_statistic:{window}", promql.ks_statistic(p, q, by)),
        _rule(
            f"feature_drifted:{window}",
            f"({smoothed} >= bool {options.psi:g})\n* ({smoothed} > bool {critical})\nand {enough}",
        ),
    ]
    if options.statistics == "all":
        rules += [
            _rule(f"feature_kl_divergence:{window}", promql.kl_divergence(p, q, by)),
            _rule(f"feature_hellinger:{window}", promql.hellinger(p, q, by)),
            _rule(f"feature_total_variation:{window}", promql.total_variation(p, q, by)),
            _rule(f"feature_chi_square:{window}", promql.chi_square(p, n, q, m, by)),
        ]
    return rules


def _counted(options: RuleOptions) -> dict[str, tuple[tuple[str, ...], str]]:
    """Labels and series of what is counted: rows in each bin, rows without a value, values that do not fit."""
    by = feature_labels(options)
    return {
        "feature_bin": ((*by, "bin"), 'model_feature_bin_total{bin!="_missing"}'),
        "feature_missing": (by, 'model_feature_bin_total{bin="_missing"}'),
        "feature_violations": (
            (*options.by, *MODEL, "feature", "reason"),
            'model_feature_violations_total{reason=~"type|non_finite|unseen_category"}',
        ),
    }


def _steps(options: RuleOptions) -> list[_Rule]:
    """Increases of five minutes, each five minutes: what long windows are made of."""
    return [
        _rule(f"{name}:step{_STEP}", promql.total(labels, f"increase({series}[{_STEP}])"))
        for name, (labels, series) in _counted(options).items()
    ]


def _increases(options: RuleOptions, window: str) -> list[_Rule]:
    return [
        _rule(
            f"{name}:increase{window}",
            f"sum_over_time(modelwatch:{name}:step{_STEP}[{window}])"
            if is_long(window)
            else promql.total(labels, f"increase({series}[{window}])"),
        )
        for name, (labels, series) in _counted(options).items()
    ]


def _service(options: RuleOptions) -> list[_Rule]:
    rules = [
        _rule("request_errors:budget", f"vector({1 - options.slo:g})"),
        _rule("slow_requests:budget", f"vector({1 - options.latency_slo:g})"),
    ]
    by = (*options.by, "model_name")
    bound = bucket(options.latency)
    for window in BURN_WINDOWS:
        failed, answerable = (
            promql.total(by, f"rate(model_request_total{{{which}}}[{window}])") for which in (FAILED, ANSWERABLE)
        )
        within, every = (
            promql.total(by, f"rate({LATENCY}{series}[{window}])") for series in (f"_bucket{{{bound}}}", "_count")
        )
        rules += [
            _rule(f"request_errors:ratio_rate{window}", f"{failed}\n/ ({answerable} > 0)"),
            _rule(f"slow_requests:ratio_rate{window}", f"1 - {within}\n/ ({every} > 0)"),
        ]
    return rules


def bucket(bound: float) -> str:
    r"""The matcher of one bucket, however a Prometheus writes a whole number.

    >>> bucket(0.25), bucket(1.0)
    ('le="0.25"', 'le=~"1(\\\\.0)?"')
    """
    return f'le=~"{bound:g}(\\\\.0)?"' if bound == int(bound) else f'le="{bound:g}"'
