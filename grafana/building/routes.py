"""All routes of the app, the models' and the others: who is asked, what is answered, how large, how many at once."""

from __future__ import annotations

from grafana_foundation_sdk.models import units

from .frame import Line, Row
from .panels import BLUE, GREEN, RED, YELLOW, Query, graph, unit_of
from .queries import SERVICE, busiest, by, quantile

CODES = {"/^2/": GREEN, "/^3/": BLUE, "/^4/": YELLOW, "/^5/": RED}

requests_by_route = graph(
    "Requests by route",
    "Requests per second of all routes of the app, the ten busiest. All requests, not only the models': the choice of "
    "a model does not matter here.",
    Query(
        busiest(10, "http_server_request_duration_seconds_count", SERVICE, "http_request_method, http_route"),
        "{{http_request_method}} {{http_route}}",
    ),
    unit=units.RequestsPerSecond,
)

responses_by_code = graph(
    "Responses by code",
    "Responses per second of all routes by HTTP status code, the ten most frequent.",
    Query(
        busiest(10, "http_server_request_duration_seconds_count", SERVICE, "http_response_status_code"),
        "{{http_response_status_code}}",
    ),
    unit=units.RequestsPerSecond,
    stacked=True,
    colours=CODES,
)

sizes_of_bodies = graph(
    "Sizes of bodies",
    "95 % of the bodies that were read (requests) and sent (responses) are smaller, all routes. Estimated within "
    "buckets that are ten times as wide as the one before: read it as an order of magnitude.",
    Query(quantile(0.95, "http_server_request_body_size_bytes", SERVICE), "requests"),
    Query(quantile(0.95, "http_server_response_body_size_bytes", SERVICE), "responses"),
    unit=unit_of("http_server_request_body_size_bytes"),
)

streams_first_byte_and_work_after_the_last = graph(
    "Streams: first byte, and work after the last",
    "95 % of the streamed responses begin sooner; 95 % of the background work after a response is over sooner.",
    Query(quantile(0.95, "http_server_first_byte_seconds", SERVICE), "first byte"),
    Query(quantile(0.95, "http_server_background_seconds", SERVICE), "after the last byte"),
    unit=unit_of("http_server_first_byte_seconds"),
    empty="no streams and no background work",
)

open_connections = graph(
    "Open connections",
    "Requests of all routes that are being answered now, and websockets that are open.",
    Query(by("", f"http_server_active_requests{{{SERVICE}}}"), "requests"),
    Query(by("", f"http_server_active_websockets{{{SERVICE}}}"), "websockets"),
    unit=unit_of("http_server_active_requests"),
)

ROUTES = Row(
    "All routes of the app",
    Line(8, (8, requests_by_route), (8, responses_by_code), (8, open_connections)),
    Line(8, (12, sizes_of_bodies), (12, streams_first_byte_and_work_after_the_last)),
)
