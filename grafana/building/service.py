"""Service: requests, errors and durations of the models' endpoints, and where they queue."""

from __future__ import annotations

from grafana_foundation_sdk.models import units

from modelwatch.metrics.catalogue import CATALOGUE

from . import frame, routes
from .frame import Board, Line, Row
from .panels import GREEN, GREY, ORANGE, PURPLE, RED, YELLOW, Query, bars, graph, heat, stat, unit_of
from .queries import (
    ANSWERABLE,
    FAILED,
    MODEL,
    RANGE,
    RECORDED,
    VERSION,
    budget,
    busiest,
    by,
    increase,
    quantile,
    rate,
    ratio,
    shares,
    since,
)

LATENCY = "model_request_latency_seconds"
ALL = rate("model_request_total", VERSION)
STATUSES = {
    "success": GREEN,
    "invalid": YELLOW,
    "rejected": "dark-yellow",
    "timeout": "dark-red",
    "error": RED,
    "client_disconnect": PURPLE,
    "cancelled": GREY,
}
MISSED = ((0.001, YELLOW), (0.01, RED))
SLOW = ((0.25, YELLOW), (1, RED))
WITHIN = ratio(
    rate(f"{LATENCY}_bucket", f'{VERSION}, le=~"$slo(\\\\.0)?"'),
    rate(f"{LATENCY}_count", VERSION),
)


def _failed(labels: str = "") -> str:
    return ratio(
        rate("model_request_total", f"{VERSION}, {FAILED}", labels),
        rate("model_request_total", f"{VERSION}, {ANSWERABLE}", labels),
    )


def _burn(kind: str, window: str) -> Query:
    return Query(f"max(modelwatch:{kind}:ratio_rate{window}{{{RECORDED}}}) / {budget(kind)}", window)


def _burns(title: str, kind: str, what: str) -> object:
    return graph(
        title,
        f"How many times faster than allowed the budget of {what} is used, by the window looked at; of several models "
        "the worst. 1 uses it up exactly at the end of its 30 days. The alerts fire at 14.4 (an hour and five minutes) "
        "and at 6 (six hours and half an hour).",
        *(_burn(kind, window) for window in ("1h", "6h", "3d")),
        unit=units.NoUnit,
        steps=((6, YELLOW), (14.4, RED)),
        empty="no traffic, or the rules are not loaded",
    )


requests = stat(
    "Requests",
    "Requests to the models' endpoints per second, all statuses, over the rate interval.",
    Query(ALL),
    unit=units.RequestsPerSecond,
)
failed = stat(
    "Failed",
    "Share that failed through the service's own fault: error or timeout, of success, error and timeout, over the rate "
    "interval.",
    Query(_failed()),
    unit=units.PercentUnit,
    steps=MISSED,
    empty="no traffic",
)
refused = stat(
    "Refused",
    "Share of all requests that was refused through the client's fault: invalid (422) or rejected (another 4xx), over "
    "the rate interval. It does not count against the error budget, but a rise often means that a client and the "
    "schema have come apart.",
    Query(ratio(rate("model_request_total", f'{VERSION}, status=~"invalid|rejected"'), ALL)),
    unit=units.PercentUnit,
    steps=((0.05, YELLOW),),
    empty="no traffic",
)
p95_latency = stat(
    "p95 latency",
    "95 % of the requests are answered faster, to the last byte, over the rate interval. Estimated within a bucket.",
    Query(quantile(0.95, LATENCY, VERSION)),
    unit=unit_of(LATENCY),
    steps=SLOW,
    empty="no traffic",
)
within_objective = stat(
    "Within $slo s",
    "Share of the requests that took at most the latency objective chosen above, over the rate interval. Counted, not "
    "estimated: the objective is a bucket bound.",
    Query(WITHIN),
    unit=units.PercentUnit,
    base=RED,
    steps=((0.9, YELLOW), (0.99, GREEN)),
    empty="no traffic",
)
in_progress = stat(
    "In progress",
    "Requests that are being answered now, over all replicas and models chosen.",
    Query(by("", f"model_requests_in_progress{{{MODEL}}}")),
    unit=unit_of("model_requests_in_progress"),
)
last_request = stat(
    "Idle for",
    "Time since the last request to one of the models chosen arrived.",
    Query(since(f"max(model_last_request_timestamp_seconds{{{MODEL}}})"), "", "instant"),
    unit=units.Seconds,
    empty="never",
)
last_load = stat(
    "Loaded for",
    "Time since one of the versions chosen was loaded, in any replica: a deployment, a reload or a restart.",
    Query(since(f"max(model_load_timestamp_seconds{{{VERSION}}})"), "", "instant"),
    unit=units.Seconds,
    empty="never",
)

requests_by_status = graph(
    "Requests by status",
    "Requests per second by how they ended, stacked. Green is answered, yellow the client's fault, red the service's, "
    "purple and grey given up by the client.",
    Query(rate("model_request_total", VERSION, "status"), "{{status}}"),
    unit=units.RequestsPerSecond,
    stacked=True,
    colours=STATUSES,
)
failed_requests_by_version = graph(
    "Failed requests by version",
    "Share of each version's requests that failed through the service's own fault (error or timeout), over the rate "
    "interval. 0 without a failure, absent without traffic.",
    Query(_failed("model_name, model_version"), "{{model_name}} {{model_version}}"),
    unit=units.PercentUnit,
    steps=MISSED,
)
error_budget_burn_rate = _burns("Error budget: burn rate", "request_errors", "failed requests")
latency_budget_burn_rate = _burns("Latency budget: burn rate", "slow_requests", "slow requests")

ERRORS = Row(
    "Does it answer?",
    Line(
        4,
        (3, requests),
        (3, failed),
        (3, refused),
        (3, p95_latency),
        (3, within_objective),
        (3, in_progress),
        (3, last_request),
        (3, last_load),
    ),
    Line(8, (12, requests_by_status), (12, failed_requests_by_version)),
    Line(8, (12, error_budget_burn_rate), (12, latency_budget_burn_rate)),
)

_REQUESTS = f"({rate(f'{LATENCY}_count', VERSION)} > 0)"
_QUEUE = rate("model_queue_duration_seconds_sum", VERSION)
_INFERENCE = rate("model_inference_duration_seconds_sum", VERSION)

latency = graph(
    "Latency",
    "Half, 95 % and 99 % of the requests are answered faster, over the rate interval. Added up over replicas and "
    "versions before the quantile is taken: quantiles themselves cannot be averaged.",
    *(Query(quantile(share, LATENCY, VERSION), f"p{share * 100:g}") for share in (0.5, 0.95, 0.99)),
    unit=unit_of(LATENCY),
)
latency_all_of_it = heat(
    "Latency, all of it",
    "Requests by how long they took. Two bands are two kinds of requests, which a quantile hides.",
    Query(
        by("le", f"increase({LATENCY}_bucket{{{VERSION}}}[$__rate_interval])"),
        "{{le}}",
        "heatmap",
    ),
    unit=unit_of(LATENCY),
    cells=units.Short,
)
p95_latency_by_version = graph(
    "p95 latency by version",
    "95 % of the requests to each version are answered faster, over the rate interval.",
    Query(
        quantile(0.95, LATENCY, VERSION, "model_name, model_version"),
        "{{model_name}} {{model_version}}",
    ),
    unit=unit_of(LATENCY),
)
where_the_time_goes = graph(
    "Where the time goes",
    "Mean time of a request, stacked: waiting for the endpoint to start, inside the endpoint, and the rest (reading "
    "the body, validation, writing the response).",
    Query(f"{_QUEUE} / {_REQUESTS}", "waiting"),
    Query(f"{_INFERENCE} / {_REQUESTS}", "inference"),
    Query(
        f"clamp_min({rate(f'{LATENCY}_sum', VERSION)} - {_QUEUE} - {_INFERENCE}, 0) / {_REQUESTS}",
        "rest",
    ),
    unit=unit_of(LATENCY),
    stacked=True,
    colours={"waiting": YELLOW, "inference": ORANGE, "rest": GREY},
)

DURATION = Row("How long does it take?", Line(8, (8, latency), (8, latency_all_of_it), (8, p95_latency_by_version)))
in_progress_and_waiting = graph(
    "In progress, and waiting",
    "Requests that are being answered, and those of them whose endpoint has not started: waiting for a thread, or for "
    "the event loop. A line that only rises is a service that cannot keep up.",
    Query(by("model_name", f"model_requests_in_progress{{{MODEL}}}"), "{{model_name}} in progress"),
    Query(by("model_name", f"model_queue_depth{{{MODEL}}}"), "{{model_name}} waiting"),
    unit=unit_of("model_queue_depth"),
)
time_waited_before_the_endpoint = graph(
    "Time waited before the endpoint",
    "Half and 99 % of the requests wait less, over the rate interval.",
    *(Query(quantile(share, "model_queue_duration_seconds", VERSION), f"p{share * 100:g}") for share in (0.5, 0.99)),
    unit=unit_of("model_queue_duration_seconds"),
)
given_up = graph(
    "Given up",
    "Requests per second that ended without an answer: timed out, or left by the client.",
    Query(
        rate(
            "model_request_total",
            f'{VERSION}, status=~"timeout|client_disconnect|cancelled"',
            "status",
        ),
        "{{status}}",
    ),
    unit=units.RequestsPerSecond,
    colours=STATUSES,
)
rows_in_a_request = bars(
    "Rows in a request",
    "Share of the requests by how many rows they brought, over the time shown. A bar counts those with more rows than "
    "the bar before, and at most its own. Clients that send rows one by one pay for it.",
    Query(
        shares(
            increase("model_batch_size_bucket", MODEL, "le", RANGE),
            increase("model_batch_size_count", MODEL, "", RANGE),
        ),
        "{{le}}",
        "bars",
    ),
    unit=units.PercentUnit,
    base=ORANGE,
    upright=True,
    decimals=0,
)
exceptions = graph(
    "Exceptions",
    "Exceptions per second that came out of the endpoints, by class, the ten most frequent.",
    Query(busiest(10, "model_exceptions_total", MODEL, "exception_type"), "{{exception_type}}"),
    unit=units.CountsPerSecond,
    stacked=True,
    empty="no exceptions",
)
refused_fields = graph(
    "Refused fields",
    "Validation errors per second by field of the schema and kind, the ten most frequent: what clients send that the "
    "schema does not allow.",
    Query(
        busiest(10, "model_input_validation_errors_total", MODEL, "field, error_type"),
        "{{field}}: {{error_type}}",
    ),
    unit=units.CountsPerSecond,
    stacked=True,
    empty="no validation errors",
)

QUEUES = Row(
    "Where does the time go, and where does it queue?",
    Line(
        8,
        (6, where_the_time_goes),
        (6, in_progress_and_waiting),
        (6, time_waited_before_the_endpoint),
        (6, rows_in_a_request),
    ),
)

WRONG = Row("What goes wrong?", Line(8, (8, given_up), (8, exceptions), (8, refused_fields)))


_BOUNDS = [f"{bound:g}" for bound in CATALOGUE[LATENCY].buckets]
OBJECTIVE = frame.choice(
    "slo",
    "Latency objective",
    _BOUNDS,
    "Seconds that an answer may take; the bucket bounds of the latency.",
    chosen="0.25",
)

BOARD = Board(
    uid="modelwatch-service",
    title="modelwatch / Service",
    about="Requests, errors and durations of the models' endpoints, and where requests queue.",
    variables=[*frame.variables(), OBJECTIVE],
    rows=[ERRORS, DURATION, QUEUES, WRONG, routes.ROUTES],
)
