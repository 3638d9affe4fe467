"""The demo, act by act: train, serve, replay, tell."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Sequence
from contextlib import closing, suppress
from typing import NamedTuple

import httpx

from .show import Show, own_command
from .stage import DemoError, Service, Stage, example, free_port, prometheus_program, stage
from .story import (
    CONTROLS,
    FOUND,
    GAUGES,
    SEVERITIES,
    Day,
    Finding,
    Page,
    day_of,
    findings,
    objections,
    psi_between,
    quantile,
)

_FIRST_MONTH = "2011-04"
_PROMETHEUS_SECONDS = 15.0


class Record(NamedTuple):
    """What was read from `/metrics`: after each day, over the first month, at the end."""

    days: list[Day]
    first_month_psi: dict[str, float]
    last: Page


def play(keep: bool, most_days: int | None = None) -> int:
    """Play the demo; returns the exit code. See `demo.run`."""
    show = Show()
    show.line("A model of bike rentals is trained in winter, and serves through two summers.\n", style="bold")
    try:
        with stage() as staged:
            code = _play(show, staged, keep, most_days)
    except DemoError as error:
        show.line(f"The demo stopped: {error}", style="red")
        return 1
    except KeyboardInterrupt:
        show.line("\nStopped. Nothing of it is left.")
        return 130
    if keep:
        show.line("\nStopped. Nothing of it is left.")
    return code


def _play(show: Show, staged: Stage, keep: bool, most_days: int | None) -> int:
    show.item("train", staged.train())
    service = staged.serve(free_port(8000 if keep else 0))
    show.item("serve", f"{service.url}, an ordinary FastAPI app with one added line.")
    prometheus = _prometheus(show, staged, service, free_port(9090 if keep else 0))
    show.item("replay", "A request for each day, over HTTP; after each, /metrics is read.")
    record = _replay(show, staged, service, most_days)
    found = findings(record.days, record.first_month_psi)
    _tell(show, found)
    _tell_traffic(show, record.last)
    if prometheus is not None:
        _tell_prometheus(show, prometheus, record.last)
    wrong = objections(found)
    for sentence in wrong:
        show.item("but", sentence, style="red")
    if keep:
        _keep(show, staged, service, prometheus)
    else:
        _next(show)
    return 1 if wrong else 0


def _prometheus(show: Show, staged: Stage, service: Service, port: int) -> Service | None:
    program = prometheus_program()
    if program is None:
        get = "apt-get install prometheus, or https://prometheus.io/download"
        show.item("prometheus", f"There is none on PATH, so none scrapes. To get it: {get}")
        return None
    try:
        prometheus = staged.prometheus(program, port, service.url)
    except DemoError as error:
        show.item("prometheus", str(error))
        return None
    show.item("prometheus", f"{prometheus.url} scrapes it each second.")
    return prometheus


def _replay(show: Show, staged: Stage, service: Service, most_days: int | None) -> Record:
    script = staged.script("replay.py")
    dates = [date for date, _ in script.days()][:most_days]
    month_ends = max(date for date in dates if date.startswith(_FIRST_MONTH))
    days: list[Day] = []
    try:
        start = month = _page(service)
        with show.progress(len(dates)) as advance, closing(script.replay(service.url)) as answered:
            for date, _ in itertools.islice(answered, len(dates)):
                days.append(day_of(date, _page(service, list(GAUGES.values()))))
                if date == month_ends:
                    month = _page(service)
                advance(date)
        return Record(days, psi_between(start, month), _page(service))
    except httpx.HTTPError as error:
        raise DemoError(service.report(f"stopped answering ({error})")) from error


def _page(service: Service, names: Sequence[str] = ()) -> Page:
    """`/metrics`, or of it only what is asked for."""
    response = service.get("/metrics", **({"name[]": list(names)} if names else {}))
    return Page(response.raise_for_status().text)


def _tell(show: Show, found: Sequence[Finding]) -> None:
    evaluations = max((finding.evaluations for finding in found), default=0)
    show.line(
        f"\nWhat the service said of itself in {evaluations} evaluations, one after each day, of the last two weeks "
        "against the training data:\n"
    )
    show.table(found)
    show.line(
        "\nPSI alone does not decide: a feature drifted if it changed significantly, and by more than the training "
        "data changed within themselves.\n"
    )
    by_name = {finding.feature: finding for finding in found}
    temp = by_name.get(FOUND)
    if temp is not None and temp.worst is not None:
        show.item(
            FOUND,
            f"Drifted since {temp.since}, in {temp.drifted} of {temp.evaluations} evaluations. PSI "
            f"{temp.first_month_psi:.1f} over April 2011, the first month of service; worst on {temp.worst_date}: "
            f"PSI {temp.worst.psi:.1f}, KS {temp.worst.distance:.2f}, {SEVERITIES[temp.worst.severity]}.",
        )
    controls = [by_name[name] for name in CONTROLS if name in by_name]
    if controls and not any(finding.drifted for finding in controls):
        names = ", ".join(finding.feature for finding in controls)
        each = min(finding.evaluations for finding in controls)
        show.item("control", f"{names} do not drift in these data, and never did in {each} evaluations.")


def _tell_traffic(show: Show, last: Page) -> None:
    for feature, rows in last.by("model_feature_violations_total", "feature", reason="unseen_category").items():
        if rows:
            show.item(feature, f"{rows:,.0f} rows brought a category that the training data did not have.")
    requests, succeeded = last.total("model_request_total"), last.total("model_request_total", status="success")
    within = quantile(0.95, last, "model_request_latency_seconds")
    show.item(
        "service",
        f"{last.total('model_rows_total'):,.0f} rows in {requests:,.0f} requests, of which {succeeded:,.0f} succeeded, "
        f"95 % within {within * 1000:.0f} ms.",
    )


def _tell_prometheus(show: Show, prometheus: Service, last: Page) -> None:
    """Wait for the scrape after the last day, which must show the same."""
    metric = GAUGES["psi"]
    expected = last.by(metric, "feature")
    if not expected:
        show.item("prometheus", "There are no drift gauges to scrape: too few rows were served.")
        return
    deadline = time.monotonic() + _PROMETHEUS_SECONDS
    while time.monotonic() < deadline and prometheus.process.poll() is None:
        with suppress(httpx.HTTPError):
            answered = _ask(prometheus, metric)
            if answered == expected:
                show.item(
                    "prometheus",
                    f"Its API returns the drift gauges of {len(answered)} features; "
                    f'{metric}{{feature="{FOUND}"}} is {answered.get(FOUND, math.nan):.2f}, there as here.',
                )
                return
        time.sleep(0.1)
    show.item("prometheus", prometheus.report("did not return the drift gauges"), style="red")


def _ask(prometheus: Service, metric: str) -> dict[str, float]:
    """An instant query: values by feature."""
    response = prometheus.get("/api/v1/query", query=metric).raise_for_status()
    return {one["metric"]["feature"]: float(one["value"][1]) for one in response.json()["data"]["result"]}


def _keep(show: Show, staged: Stage, service: Service, prometheus: Service | None) -> None:
    show.line("\nIt keeps serving. Open:", style="bold")
    show.literal(f"  {service.url}/metrics   all that it says of itself")
    show.literal(f"  {service.url}/docs      the service")
    if prometheus is not None:
        show.literal(f"  {prometheus.url}/graph?g0.expr={GAUGES['psi']}&g0.tab=0&g0.range_input=5m")
    show.literal(f"  {staged.directory}   model, reference.json, scripts and logs, as long as it serves")
    with suppress(KeyboardInterrupt):
        show.line("Ctrl-C ends it, and takes everything away.")
        service.process.wait()
        raise DemoError(service.report("ended by itself"))


def _next(show: Show) -> None:
    show.line("\nTry next:", style="bold")
    show.literal(f"  {own_command()} demo --keep   keep it serving, and look around in a browser")
    show.literal(f"  {example()}   the example: train.py, service.py, replay.py")
    show.literal(f"  {own_command()} profile TABLE -o reference.json   and, in your own service,")
    show.literal('  modelwatch.instrument(app, model_name="mine", reference="reference.json")')
