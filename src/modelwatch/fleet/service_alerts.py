"""Alerts about the service: what its users notice, what it runs on, and the library itself."""

from __future__ import annotations

from collections.abc import Iterator

from .alert import Alert, Severity, of
from .options import LATENCY, MODEL, RuleOptions
from .promql import total
from .recording import FAILED

# Of the alerts that a paid person is woken by: long window, short window, factor of the budget, wait. The pairs and
# factors are those of the Site Reliability Workbook (Google, 2018), chapter 5, with a budget for 30 days.
_BURNS: tuple[tuple[str, str, float, str, Severity], ...] = (
    ("1h", "5m", 14.4, "2m", "critical"),
    ("6h", "30m", 6, "15m", "critical"),
    ("1d", "2h", 3, "1h", "warning"),
    ("3d", "6h", 1, "3h", "warning"),
)

_INVALID_REQUESTS = 0.2


def burns(options: RuleOptions) -> Iterator[Alert]:
    """The error budget is spent too fast: by failures, and by slow answers."""
    by = (*options.by, "model_name")
    kinds = (
        ("ModelwatchErrorBudgetBurn", "request_errors", "fail", f"model_request_total{{{FAILED}}}", 10, options.slo),
        ("ModelwatchLatencyBudgetBurn", "slow_requests", f"take longer than {options.latency:g} s",
         f"{LATENCY}_count", 100, options.latency_slo),
    )  # fmt: skip
    for name, ratio, what, volume, least, objective in kinds:
        for long, short, factor, wait, severity in _BURNS:
            limit = f"{factor * (1 - objective):g}"
            yield Alert(
                name=name,
                severity=severity,
                category="service",
                expr=(
                    f"modelwatch:{ratio}:ratio_rate{long} > {limit}\n"
                    f"and modelwatch:{ratio}:ratio_rate{short} > {limit}\n"
                    # At night a single request must not wake anybody.
                    f"and {total(by, f'increase({volume}[{long}])')} > {least}"
                ),
                wait=wait,
                summary="{{ $labels.model_name }}: {{ $value | humanizePercentage }} of the requests " + what,
                description=f"Over {long} and over {short} too; {100 * factor * (1 - objective):g} % are too many.",
                dashboard=of("service", "model_name"),
                labels={"window": long},
            )


def traffic(options: RuleOptions) -> Iterator[Alert]:
    """Requests that do not come, or not as they should. They know models, not versions."""
    by = (*options.by, "model_name")
    labels = ", ".join(by)
    requests = "increase(model_request_total[15m]{shift})"
    now, before = (total(by, requests.format(shift=shift)) for shift in ("", " offset 1h"))
    yield Alert(
        name="ModelwatchNoTraffic",
        severity="info",
        category="staleness",
        expr=f"{now} == 0\nand {before} > 0",
        wait="10m",
        summary="{{ $labels.model_name }} gets no requests",
        description="No version of the model has had one for 15 minutes; an hour ago there were some.",
        dashboard=of("service", "model_name"),
    )
    yield Alert(
        name="ModelwatchModelAbsent",
        severity="critical",
        category="staleness",
        expr=(
            f"count by ({labels}) (max_over_time(model_loaded_info[1d]) == 1)\n"
            f"unless on ({labels}) (model_loaded_info == 1)"
        ),
        wait="10m",
        summary="{{ $labels.model_name }} is served by nobody",
        description="No replica has any version of the model loaded, and within the last day one had.",
        dashboard=of("overview", "model_name"),
    )
    job = ", ".join(dict.fromkeys((*options.by, "job")))
    yield Alert(
        name="ModelwatchTargetDown",
        severity="warning",
        category="staleness",
        # That another target of its job is one of ours is enough; but `up` lacks the labels that a service itself gives
        # to its metrics, and where these are grouped by, the target itself must have been one.
        expr=(
            f"up == 0\nand on ({job}) last_over_time(modelwatch_build_info[1d])\n"
            "or\nup == 0\nand on (job, instance) last_over_time(modelwatch_build_info[1d])"
        ),
        wait="5m",
        summary="{{ $labels.instance }} of {{ $labels.job }} cannot be scraped",
        description="Its metrics are lost as long as this lasts; whether it serves is not known.",
        dashboard=of("overview"),
    )
    invalid = total(by, 'increase(model_request_total{status="invalid"}[15m])')
    yield Alert(
        name="ModelwatchInvalidRequests",
        severity="warning",
        category="service",
        expr=f"{invalid}\n/ ({now} > 20) > {_INVALID_REQUESTS:g}",
        wait="15m",
        summary="{{ $labels.model_name }} refuses {{ $value | humanizePercentage }} of the requests as invalid",
        description="A client may have changed what it sends: the service page shows the fields.",
        dashboard=of("service", "model_name"),
    )


def library(options: RuleOptions) -> Iterator[Alert]:
    """Modelwatch itself does less than it should."""
    job = ", ".join(dict.fromkeys((*options.by, "instance")))
    model = ", ".join((*options.by, *MODEL))
    yield Alert(
        name="ModelwatchDegraded",
        severity="warning",
        category="library",
        expr=f"max by ({job}, reason) (modelwatch_degraded) == 1",
        wait="5m",
        summary="modelwatch does not do all it should on {{ $labels.instance }}: {{ $labels.reason }}",
        description="The service is not affected; what its metrics say of several workers may be that of one.",
        dashboard=of("infra"),
    )
    yield Alert(
        name="ModelwatchInternalErrors",
        severity="info",
        category="library",
        expr=f"sum by ({job}, stage) (increase(modelwatch_internal_errors_total[1h])) > 0",
        wait="0s",
        summary="modelwatch failed on {{ $labels.instance }} in stage {{ $labels.stage }}",
        description="It kept the error from the service and lost some telemetry: the log has it once.",
        dashboard=of("infra"),
    )
    yield Alert(
        name="ModelwatchRowsDropped",
        severity="warning",
        category="library",
        expr=f'sum by ({job}) (increase(modelwatch_rows_total{{outcome="dropped"}}[15m])) > 0',
        wait="5m",
        summary="Rows are not counted on {{ $labels.instance }}",
        description="They came faster than they could be counted, or more than buffer_rows in one batch: raise it.",
        dashboard=of("infra"),
    )
    yield Alert(
        name="ModelwatchEvaluationStale",
        severity="warning",
        category="staleness",
        expr=(
            f"time() - max by ({model}) (model_drift_last_evaluation_timestamp_seconds) > 900\n"
            f"and {total((*options.by, *MODEL), 'increase(model_rows_total[15m])')} > 0"
        ),
        wait="5m",
        summary="The drift of {{ $labels.model_name }} was last looked at {{ $value | humanizeDuration }} ago",
        description="Rows arrive, but window and reference are not compared: what the drift gauges say is old.",
        dashboard=of("drift", *MODEL),
    )


def resources(options: RuleOptions) -> Iterator[Alert]:
    """What the service runs on nears its limit."""
    by = tuple(dict.fromkeys((*options.by, "instance")))
    labels = ", ".join(by)
    used = f"max by ({labels}) (model_container_memory_working_set_bytes or model_process_resident_memory_bytes)"
    lag = total((*by, "le"), "rate(model_event_loop_lag_seconds_bucket[5m])")
    where, percent = " on {{ $labels.instance }}", "{{ $value | humanizePercentage }}"
    kinds: tuple[tuple[str, Severity, str, str, str, str], ...] = (
        ("ModelwatchMemoryNearLimit", "warning", f"{used}\n/ max by ({labels}) (model_memory_limit_bytes) > 0.9", "5m",
         percent + " of the memory is in use" + where, "Above its limit the service is killed."),
        ("ModelwatchCpuNearLimit", "warning",
         f"{total(by, 'rate(model_process_cpu_seconds_total[5m])')}\n/ max by ({labels}) (model_cpu_limit_cores) > 0.9",
         "15m", percent + " of the processors are in use" + where, "Requests will wait: add replicas or cores."),
        ("ModelwatchCpuThrottled", "info",
         f"max by ({labels}) (rate(model_container_cpu_throttled_seconds_total[5m])) > 0.25", "15m",
         "The container is throttled" + where,
         "It is denied the processor for {{ $value | printf `%.2f` }} s in each second, as its limit says."),
        ("ModelwatchEventLoopBlocked", "warning", f"histogram_quantile(0.99, {lag}) > 0.5", "15m",
         "The event loop is blocked" + where,
         "One timer in a hundred comes {{ $value | humanizeDuration }} late: the model may run inside `async def`."),
        ("ModelwatchGpuMemoryNearLimit", "warning",
         f"max by ({labels}, gpu_id) (model_gpu_memory_bytes)\n"
         f"/ max by ({labels}, gpu_id) (model_gpu_memory_limit_bytes) > 0.95", "15m",
         percent + " of the memory of GPU {{ $labels.gpu_id }} is in use" + where,
         "An allocation that does not fit fails the request."),
    )  # fmt: skip
    for name, severity, expr, wait, summary, description in kinds:
        yield Alert(
            name=name,
            severity=severity,
            category="resources",
            expr=expr,
            wait=wait,
            summary=summary,
            description=description,
            dashboard=of("infra", "instance"),
        )
