"""Fleet overview: is anything wrong, with which model, since when?"""

from __future__ import annotations

from grafana_foundation_sdk.models import units

from . import frame
from .frame import Board, Line, Row
from .panels import BLUE, GREEN, PSI, RED, YELLOW, Query, address, bars, graph, link, stat, timeline, unit_of
from .queries import (
    ANSWERABLE,
    FAILED,
    FLEET,
    MODEL,
    RECORDED,
    VERSION,
    budget,
    busiest,
    by,
    quantile,
    rate,
    ratio,
    sure,
    targets,
)
from .tables import NO_ROWS, Column, table

EACH = "job, model_name, model_version"
FIRING = (
    'ALERTS{{alertname=~"Modelwatch.*", alertstate="firing", severity="{}", job=~"$job|", model_name=~"$model_name|"}}'
)
MODELS = by("model_name", f"model_loaded_info{{{VERSION}}} == 1", "count")
VERSIONS = by("model_name, model_version", f"model_loaded_info{{{VERSION}}} == 1", "count")
VERDICTS = f"modelwatch:feature_drifted:$window{{{FLEET}}}"
REFERENCES = f"model_reference_info{{{VERSION}}}"
UNCOMPARED = by("model_name, model_version", f'model_reference_info{{{VERSION}, reference=""}}', "max")
ERRORS = ratio(
    rate("model_request_total", f"{VERSION}, {FAILED}"), rate("model_request_total", f"{VERSION}, {ANSWERABLE}")
)
SEVERITIES = {2: ("critical", RED), 1: ("warning", YELLOW), 0: ("info", BLUE)}
BUDGET = ((0.25, YELLOW), (0.5, GREEN))

firing_alerts = stat(
    "Firing alerts",
    "Alerts of modelwatch that fire now, by severity. Alerts that are about to fire do not count. Which ones: the list "
    "below.",
    Query(f"count({FIRING.format('critical')}) or vector(0)", "critical", "instant"),
    Query(f"count({FIRING.format('warning')}) or vector(0)", "warning", "instant"),
    unit=units.Short,
    colours={"critical": ((1, RED),), "warning": ((1, YELLOW),)},
    names=True,
)
replicas = stat(
    "Replicas",
    "Targets that Prometheus reaches (`up` is 1), and those that it does not: crashed, blocked, or refusing the token; "
    "of the jobs in which modelwatch ran within a day. A target that discovery no longer finds is in neither.",
    Query(targets(1), "up", "instant"),
    Query(targets(0), "down", "instant"),
    unit=units.Short,
    colours={"up": ((0, RED), (1, GREEN)), "down": ((1, RED),)},
    names=True,
    links=[link("Infrastructure", "modelwatch-infra")],
)
models_and_versions = stat(
    "Models",
    "Models that are loaded in at least one replica, and versions of them. More versions than models: a roll-out is "
    "under way, or was never finished.",
    Query(f"count({MODELS}) or vector(0)", "models", "instant"),
    Query(f"count({VERSIONS}) or vector(0)", "versions", "instant"),
    unit=units.Short,
    names=True,
)
requests = stat(
    "Requests",
    "Requests to the models' endpoints per second, all statuses, over the rate interval.",
    Query(rate("model_request_total", VERSION)),
    unit=units.RequestsPerSecond,
    links=[link("Service", "modelwatch-service")],
)
failed_requests = stat(
    "Failed requests",
    "Share of the requests that failed through the service's own fault (error or timeout), over the rate interval. "
    "What clients got wrong or left is in neither part.",
    Query(ERRORS),
    unit=units.PercentUnit,
    steps=((0.001, YELLOW), (0.01, RED)),
    empty="no traffic",
    links=[link("Service", "modelwatch-service")],
)
p95_latency = stat(
    "p95 latency",
    "95 % of the requests are answered faster, over the rate interval. Estimated within a bucket, so exact only at "
    "bucket bounds.",
    Query(quantile(0.95, "model_request_latency_seconds", VERSION)),
    unit=unit_of("model_request_latency_seconds"),
    steps=((0.25, YELLOW), (1, RED)),
    empty="no traffic",
    links=[link("Service", "modelwatch-service")],
)
drifted_features = stat(
    "Drifted features",
    "Features of all models and versions whose smoothed PSI of the last $window, over all replicas, is at least the "
    "threshold of the rules and above what noise alone gives. Features with fewer rows than the rules ask for have no "
    "verdict.",
    Query(f"count({by('model_name, model_version, feature', f'{VERDICTS} == 1', 'max')}) or max({VERDICTS}) * 0"),
    unit=units.Short,
    steps=((1, YELLOW), (3, RED)),
    empty="no verdict",
    links=[link("Drift", "modelwatch-drift")],
)
without_reference = stat(
    "No reference",
    "Versions of models that run without a reference, or are still learning it: of their drift nothing can be said.",
    Query(f"count({UNCOMPARED}) or max({REFERENCES}) * 0"),
    unit=units.Short,
    steps=((1, YELLOW),),
)

WRONG = Row(
    "Is anything wrong?",
    Line(
        4,
        (3, firing_alerts),
        (3, replicas),
        (3, models_and_versions),
        (3, requests),
        (3, failed_requests),
        (3, p95_latency),
        (3, drifted_features),
        (3, without_reference),
    ),
)


def _each(expression: str, function: str = "sum") -> str:
    return by(EACH, expression, function)


_REQUESTS = rate("model_request_total", VERSION, EACH)
_ROWS = rate("model_rows_total", VERSION, EACH)
_HERE = {
    "job": "${__data.fields.Job}",
    "model_name": "${__data.fields.Model}",
    "model_version": "${__data.fields.Version}",
}
_THERE = _HERE | {"window": "$window"}

models = table(
    "Models: a row for each version that is loaded",
    "Every version of every model that is loaded now, the worst PSI first; a model in a roll-out has several rows. "
    "Rates are over the rate interval, drift over the last $window of all replicas. Click a model for its service, a "
    "PSI for its drift. A dash: no traffic, no reference, or too few rows.",
    [
        Column("Job", label="job", width=150),
        Column("Model", label="model_name", link=("Model", address("modelwatch-model", **_THERE))),
        Column("Version", label="model_version", width=110),
        Column("Replicas", _each(f"model_loaded_info{{{VERSION}}} == 1", "count"), width=90),
        Column(
            "Requests",
            _REQUESTS,
            unit=units.RequestsPerSecond,
            link=("Service", address("modelwatch-service", **_HERE)),
        ),
        Column(
            "Failed",
            ratio(
                rate("model_request_total", f"{VERSION}, {FAILED}", EACH),
                rate("model_request_total", f"{VERSION}, {ANSWERABLE}", EACH),
            ),
            unit=units.PercentUnit,
            steps=((0.001, YELLOW), (0.01, RED)),
            link=("Service", address("modelwatch-service", **_HERE)),
        ),
        Column(
            "p95 latency",
            quantile(0.95, "model_request_latency_seconds", VERSION, EACH),
            unit=units.Seconds,
            steps=((0.25, YELLOW), (1, RED)),
        ),
        Column("Rows", _ROWS, unit=units.RowsPerSecond),
        Column(
            "Low confidence",
            sure(ratio(rate("model_low_confidence_total", VERSION, EACH), _ROWS), MODEL, "job, model_name"),
            unit=units.PercentUnit,
            steps=((0.3, YELLOW),),
        ),
        Column(
            "Data quality",
            _each(f"model_data_quality_score_ratio{{{VERSION}}}", "min"),
            unit=units.PercentUnit,
        ),
        Column(
            "Drifted",
            _each(by(f"{EACH}, feature", VERDICTS, "max")),
            steps=((1, YELLOW), (3, RED)),
            link=("Drift", address("modelwatch-drift", **_THERE)),
        ),
        Column(
            "Worst PSI",
            _each(f"modelwatch:feature_psi_smoothed:$window{{{FLEET}}}", "max"),
            unit=units.NoUnit,
            decimals=3,
            steps=PSI,
            link=("Drift", address("modelwatch-drift", **_THERE)),
        ),
    ],
    sort="Worst PSI",
    empty="no model is loaded",
)

WHICH = Row(
    "Which model, and which version of it?",
    Line(7, (24, models)),
)

worst_psi_of_each_model_and_version = timeline(
    "Worst PSI of each model and version",
    "The largest smoothed PSI among the features of a version, over the last $window of all replicas, point by point. "
    "Yellow from 0.1, red from 0.2, also where it is noise: with few rows, see the drift dashboard. Gaps: no rows, or "
    "too few.",
    Query(
        by("model_name, model_version", f"modelwatch:feature_psi_smoothed:$window{{{FLEET}}}", "max"),
        "{{model_name}} {{model_version}}",
    ),
    unit=units.NoUnit,
    steps=PSI,
    decimals=3,
    empty=NO_ROWS,
)
requests_by_version = graph(
    "Requests by version",
    "Requests per second by version, stacked: how far a roll-out is. The ten largest.",
    Query(
        busiest(10, "model_request_total", VERSION, "model_name, model_version"),
        "{{model_name}} {{model_version}}",
    ),
    unit=units.RequestsPerSecond,
    stacked=True,
)
_SEVERITY = " or ".join(
    f"{by('alertname, model_name, model_version, feature', FIRING.format(word), 'count')} * 0 + {rank}"
    for rank, (word, _) in SEVERITIES.items()
)

alerts_that_fire = table(
    "Alerts that fire",
    "Alerts of modelwatch that fire now, with what they are about. What to do about each is in the runbook, in the "
    "section with the alert's name.",
    [
        Column("Alert", label="alertname", width=260),
        Column("Severity", _SEVERITY, words=SEVERITIES, width=90),
        Column("Model", label="model_name"),
        Column("Version", label="model_version", width=100),
        Column("Feature", label="feature"),
    ],
    sort="Severity",
    empty="no alert fires",
)
error_budget_left = bars(
    "Error budget left",
    "What is left of each model's error budget if all days are like the last three: 100 % is all of it, below 0 the "
    "objective is missed.",
    Query(
        f"1 - modelwatch:request_errors:ratio_rate3d{{{RECORDED}}} / {budget('request_errors')}",
        "{{model_name}}",
        "instant",
    ),
    unit=units.PercentUnit,
    steps=BUDGET,
    base=RED,
    empty="no traffic in the last three days",
)
latency_budget_left = bars(
    "Latency budget left",
    "What is left of each model's share of slow requests if all days are like the last three: 100 % is all of it, "
    "below 0 the objective is missed. Slow is what takes longer than the objective of the rules.",
    Query(
        f"1 - modelwatch:slow_requests:ratio_rate3d{{{RECORDED}}} / {budget('slow_requests')}",
        "{{model_name}}",
        "instant",
    ),
    unit=units.PercentUnit,
    steps=BUDGET,
    base=RED,
    empty="no traffic in the last three days",
)

SINCE = Row(
    "Since when?",
    Line(8, (12, worst_psi_of_each_model_and_version), (12, requests_by_version)),
    Line(10, (12, alerts_that_fire), (6, error_budget_left), (6, latency_budget_left)),
)

BOARD = Board(
    uid="modelwatch-overview",
    title="modelwatch / Overview",
    about="All models of a fleet: is anything wrong, with which one, and since when?",
    variables=[*frame.variables(), frame.window()],
    rows=[WRONG, WHICH, SINCE],
)
