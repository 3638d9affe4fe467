"""What the replicas say by themselves: each over its own window, with the verdict of the library."""

from __future__ import annotations

from typing import Any

from grafana_foundation_sdk.models import units

from .frame import Line, Row
from .panels import GREEN, RED, YELLOW, Query, stat, unit_of
from .queries import ONE_VERSION, by, of_replicas, quantile, since
from .tables import Column, table

SEVERITIES = {0: ("ok", GREEN), 1: ("minor", YELLOW), 2: ("moderate", "dark-orange"), 3: ("major", RED)}
_VERDICTS = {0: ("no", GREEN), 1: ("yes", RED)}
_ALERTS = {0: ("muted", YELLOW), 1: ("yes", "transparent")}
_FEW = "no reference, or too few rows"
_UNKNOWN = "not known"


def _stat(title: str, about: str, expr: str, unit: str, **looks: Any) -> tuple[int, Any]:
    return 3, stat(title, about, Query(expr, "", "instant"), unit=unit, empty=_UNKNOWN, **looks)


def _of(function: str, metric: str) -> str:
    return f"{function}({of_replicas(metric)})"


WINDOW = Line(
    4,
    _stat(
        "Rows, least",
        "Rows in the window of the replica that has fewest.",
        _of("min", "model_drift_window_rows"),
        units.LocaleFormat,
    ),
    _stat(
        "Oldest row",
        "Age of the oldest row in the windows. Longer than the window of the settings: it was widened until there were "
        "enough rows.",
        _of("max", "model_drift_window_seconds"),
        unit_of("model_drift_window_seconds"),
    ),
    _stat(
        "Rows needed",
        "Rows of a feature below which a replica says nothing about it.",
        _of("max", "model_drift_min_rows"),
        units.LocaleFormat,
    ),
    _stat(
        "Reference rows",
        "Rows of the training data behind the reference.",
        _of("max", "model_drift_reference_rows"),
        units.LocaleFormat,
    ),
    _stat(
        "Features",
        "Features that are compared with the reference; muted ones and those that never arrived are not among them.",
        _of("max", "model_monitored_features"),
        units.LocaleFormat,
    ),
    _stat(
        "Drifted, share",
        "Share of the features with a verdict that have drifted, by the worst replica.",
        _of("max", "model_drifted_features_ratio"),
        units.PercentUnit,
        steps=((0.1, YELLOW), (0.3, RED)),
    ),
    _stat(
        "Compared, ago",
        "Time since the replica that is furthest behind compared its window with the reference; it does so at each "
        "scrape.",
        since(_of("min", "model_drift_last_evaluation_timestamp_seconds")),
        units.Seconds,
    ),
    _stat(
        "Time to compare",
        "99 % of the comparisons of window and reference take less, over the rate interval.",
        quantile(0.99, "model_drift_evaluation_duration_seconds", ONE_VERSION),
        unit_of("model_drift_evaluation_duration_seconds"),
        steps=((0.1, YELLOW), (1, RED)),
    ),
)


def _worst(title: str, metric: str, unit: str = units.NoUnit, function: str = "max", **looks: Any) -> Column:
    return Column(title, by("feature", of_replicas(metric), function), unit=unit, **looks)


features = table(
    "Statistics of the worst replica",
    "What the replica that is worst in each column says of each feature, over its own window. Drifted is what is "
    "significant and large: significant by the probabilities of all features together (the smallest is shown), large "
    "if KS (numbers) or TV reaches the floor, which is calibrated on the training data. This table needs no recording "
    "rules.",
    [
        Column("Feature", label="feature", width=240),
        _worst("Drifted", "model_feature_drift_detected", words=_VERDICTS),
        _worst("Severity", "model_feature_drift_severity", words=SEVERITIES),
        _worst("PSI", "model_feature_drift_psi", decimals=3),
        _worst("Debiased", "model_feature_drift_psi_debiased", decimals=3),
        _worst("Noise floor", "model_feature_drift_psi_critical", decimals=3),
        _worst("KS", "model_feature_drift_ks_statistic", decimals=3),
        _worst("TV", "model_feature_drift_total_variation", decimals=3),
        _worst("Floor", "model_feature_drift_floor", decimals=3),
        _worst("JS", "model_feature_drift_js_divergence", decimals=3),
        _worst("p (KS)", "model_feature_drift_ks_pvalue", units.ScientificNotation, "min", decimals=1),
        _worst("p (chi²)", "model_feature_drift_chi_square_pvalue", units.ScientificNotation, "min", decimals=1),
        _worst("Rows", "model_feature_window_rows", units.LocaleFormat, "min"),
        _worst("In reference", "model_feature_reference_rows", units.LocaleFormat),
        _worst("Alerts", "model_feature_alerting", function="min", words=_ALERTS),
    ],
    sort="PSI",
    empty=_FEW,
)

_LABELS = "instance, reference, source"
references = table(
    "Reference of each replica",
    "Which reference each replica compares with, where it comes from, when it was loaded, and whether the last attempt "
    "to replace it failed. Replicas with different references cannot be added up.",
    [
        Column("Replica", label="instance"),
        Column("Reference", label="reference"),
        Column("From", label="source"),
        Column(
            "Loaded, ago",
            since(by(_LABELS, of_replicas("model_reference_loaded_timestamp_seconds"), "max")),
            unit=units.Seconds,
        ),
        Column(
            "Reload",
            by(_LABELS, of_replicas("model_reference_reload_failed"), "max"),
            words={0: ("ok", "transparent"), 1: ("failed", RED)},
        ),
    ],
    sort="Replica",
    descending=False,
    empty="no reference",
)

ALONE = Row(
    "What do the replicas say by themselves?", WINDOW, Line(12, (24, features)), Line(6, (24, references)), closed=True
)
