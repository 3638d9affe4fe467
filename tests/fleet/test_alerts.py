"""Every alert, evaluated by Prometheus' own program: it fires where it must, and is silent where it must not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from support.promtool import groups_of, only, run, run_tests, series

from modelwatch.fleet.alerts import alert_groups, alert_names
from modelwatch.fleet.options import RuleOptions
from modelwatch.fleet.writing import to_yaml

OPTIONS = RuleOptions(labels={"team": "risk"}, runbook_url="https://example.com/runbook.md")
REPLICA = {"job": "bike", "instance": "a"}
MODEL = {**REPLICA, "model_name": "m", "model_version": "1"}
HOUR = 60


@dataclass(frozen=True)
class Case:
    """Series, and of which label sets an alert fires at some minutes."""

    claim: str
    given: Sequence[dict[str, str]]
    firing: dict[int, Any]  # minute -> values of `by`, sorted
    by: str = "model_version"


def steady(name: str, per_step: float, steps: int = 5 * HOUR, start: float = 0, **labels: object) -> dict[str, str]:
    """A counter that rises evenly."""
    return series(name, f"{start:g}+{per_step:g}x{steps}", **(MODEL | labels))


def phased(name: str, *phases: tuple[float, int], **labels: object) -> dict[str, str]:
    """A counter that rises by so much in each of so many steps, phase by phase."""
    texts, value = [], 0.0
    for per_step, steps in phases:
        texts.append(f"{value:g}+{per_step:g}x{steps - 1}")
        value += per_step * steps
    return series(name, " ".join(texts), **(MODEL | labels))


def gauge(name: str, value: float, steps: int = 5 * HOUR, **labels: object) -> dict[str, str]:
    return series(name, f"{value:g}x{steps}", **(MODEL | labels))


def requests(failed: float, every_kind: float = 100, steps: int = 5 * HOUR, **labels: object) -> list[dict[str, str]]:
    """So many requests a step of which so many fail."""
    name, ok = "model_request_total", every_kind - failed
    return [
        steady(name, ok, steps, status="success", **labels),
        steady(name, failed / 2, steps, status="error", **labels),
        steady(name, failed / 2, steps, status="timeout", **labels),
    ]


def latency(slow: float, every_kind: float = 100, steps: int = 5 * HOUR) -> list[dict[str, str]]:
    name = "model_request_latency_seconds"
    return [
        steady(f"{name}_bucket", every_kind - slow, steps, le="0.25"),
        steady(f"{name}_bucket", every_kind, steps, le="+Inf"),
        steady(f"{name}_count", every_kind, steps),
    ]


def latency_until(end: int) -> list[dict[str, str]]:
    """Slow until a minute, and fast from then on."""
    name = "model_request_latency_seconds"
    return [
        phased(f"{name}_bucket", (60, end), (100, HOUR), le="0.25"),
        steady(f"{name}_bucket", 100, end + HOUR, le="+Inf"),
        steady(f"{name}_count", 100, end + HOUR),
    ]


FLAT = [1 / 10] * 10


def tilted(amount: float) -> list[float]:
    """Shares of ten bins that rise evenly: the more they do the larger the PSI to the flat ones."""
    return [0.1 * (1 + amount * (2 * i - 9) / 9) for i in range(10)]


def psi(shares: Sequence[float]) -> float:
    return sum((share - 0.1) * math.log(share / 0.1) for share in shares)


def of_psi(wanted: float) -> list[float]:
    """Shares of ten bins with this PSI to the flat ones."""
    low, high = 0.0, 0.999
    for _ in range(60):
        low, high = ((low + high) / 2, high) if psi(tilted((low + high) / 2)) < wanted else (low, (low + high) / 2)
    return tilted(low)


def feature(
    name: str = "temp",
    *phases: tuple[Sequence[float], int],
    rows: float = 100,
    missing: float = 0.0,
    missing_before: float = 0.0,
    m: int = 10_000,
    alerting: int = 1,
    detected: int | None = None,
    **labels: object,
) -> list[dict[str, str]]:
    """All series of a feature: in each phase so many rows a step fall into the bins as the shares say."""
    phases = phases or ((FLAT, 5 * HOUR),)
    steps = sum(length for _, length in phases)
    who = {"feature": name, **labels}
    found = [
        gauge("model_feature_reference_rows", m, steps, **who),
        gauge("model_feature_alerting", alerting, steps, **who),
        gauge("model_reference_missing_share", missing_before, steps, reference="r", bin="_missing", **who),
        steady("model_feature_bin_total", rows * missing, steps, reference="r", bin="_missing", **who),
    ]
    if detected is not None:
        found.append(gauge("model_feature_drift_detected", detected, steps, **who))
    for index in range(10):
        bins = {"reference": "r", "bin": f"{index:02d}", **who}
        found.append(gauge("model_reference_bin_share", 0.1, steps, **bins))
        moved = [(rows * (1 - missing) * shares[index], length) for shares, length in phases]
        found.append(phased("model_feature_bin_total", *moved, **bins))
    return found


def features(drifted: int, of: int, muted: int = 0, rows: float = 20, denied: int = 0) -> list[dict[str, str]]:
    """So many features, of which the first have drifted, and of these the first are muted, or denied by replicas."""
    found = reference()
    for index in range(of):
        shares = of_psi(0.4) if index < drifted else FLAT
        detected = 0 if index < denied else None
        found += feature(
            f"f{index}", (shares, 2 * HOUR), rows=rows, alerting=0 if index < muted else 1, detected=detected
        )
    return found


def drift_cases(name: str) -> list[Case]:
    """Where the drift of a feature is no alert, and how long it stays one."""
    drifted, muted = (of_psi(0.5), 2 * HOUR), {"alerting": 0}
    told = [(of_psi(0.25), 90), (of_psi(0.17), 120), (of_psi(0.12), 120)]
    firing = {80: [name], 180: [name], 200: [name], 300: []}
    return [
        Case("0.17 never begins it", [*reference(), *feature(name, (of_psi(0.17), 3 * HOUR))], {60: [], 170: []}),
        Case(
            "begun at 0.25 it stays at 0.17, and ends at 0.12", [*reference(), *feature(name, *told)], firing, "feature"
        ),
        Case("muted", [*reference(), *feature(name, drifted, **muted)], {60: [], 110: []}),
        Case("no replica finds it", [*reference(), *feature(name, drifted, detected=0)], {60: [], 110: []}),
        Case(
            "one of two replicas finds it",
            [*reference(), *feature(name, drifted, detected=0), *feature(name, drifted, detected=1, instance="b")],
            {110: [name]},
            "feature",
        ),
        Case("few rows", [*reference(), *feature(name, drifted, rows=15)], {60: [], 110: []}),
        Case("just enough rows", [*reference(), *feature(name, drifted, rows=25)], {110: [name]}, "feature"),
        Case("noise: a reference of few rows", [*reference(), *feature(name, (of_psi(0.25), 110), m=100)], {100: []}),
    ]


def reference(steps: int = 5 * HOUR, name: str = "r", source: str = "file", **labels: object) -> list[dict[str, str]]:
    return [gauge("model_reference_info", 1, steps, reference=name, source=source, **labels)]


def rows(per_step: float = 100, steps: int = 5 * HOUR, **labels: object) -> dict[str, str]:
    return steady("model_rows_total", per_step, steps, **labels)


def violations(reason: str, per_step: float, of: float = 100, alerting: int = 1) -> list[dict[str, str]]:
    """So many values of so many counted rows a step do not fit; a part of them have no usable value at all."""
    bins = {"feature": "city", "reference": "r"}
    return [
        steady("model_feature_violations_total", per_step, feature="city", reason=reason),
        gauge("model_feature_alerting", alerting, feature="city"),
        steady("model_feature_bin_total", 0.9 * of, bin="Aix", **bins),
        steady("model_feature_bin_total", 0.1 * of, bin="_missing", **bins),
    ]


def lag(late: float, steps: int = 2 * HOUR) -> list[dict[str, str]]:
    """So many timers of a hundred come between a half and one second late."""
    buckets = {"0.5": 100 - late, "1": 100, "+Inf": 100}
    name = "model_event_loop_lag_seconds_bucket"
    return [series(name, f"0+{count:g}x{steps}", le=le, **REPLICA) for le, count in buckets.items()]


def accuracy(now: float, trained: float = 0.9, labelled: int = 1000) -> list[dict[str, str]]:
    return [
        gauge("model_performance_score", now, metric="accuracy"),
        gauge("model_performance_reference", trained, metric="accuracy"),
        gauge("model_performance_window_rows", labelled),
    ]


GPU = {"gpu_id": "0"}
BURN = {"by": "window"}
FEATURE = {"by": "feature"}
RULES: dict[str, list[Case]] = {
    "ModelwatchErrorBudgetBurn": [
        # By then the slowest alert has waited its three hours.
        Case("fast", requests(2), {290: ["1d", "1h", "3d", "6h"]}, **BURN),
        Case("slower", requests(0.8), {290: ["1d", "3d", "6h"]}, **BURN),
        Case("slow", requests(0.4), {290: ["1d", "3d"]}, **BURN),
        Case("slowest", requests(0.15), {290: ["3d"]}, **BURN),
        Case("within the budget", requests(0.08), {60: [], 290: []}, **BURN),
        Case(
            "over: the last minutes are well",
            [phased("model_request_total", (1, 30), (0, 30), status="error"),
             steady("model_request_total", 20, 60, status="success")],
            {30: ["1h", "6h"], 50: ["6h"], 65: []},
            **BURN,
        ),
        Case("a few failed requests at night wake nobody", requests(0.1, 0.5), {60: []}, **BURN),
        Case(
            "a spike of five minutes in an hour is within the fastest alert's budget",
            [phased("model_request_total", (0, 60), (20, 5), (0, 30), status="error"),
             steady("model_request_total", 200, 95, status="success")],
            {65: [], 70: [], 85: []}, **BURN,
        ),
        Case(
            "over: the last hours are well",
            [phased("model_request_total", (0.4, 300), (0, 420), status="error"),
             steady("model_request_total", 99.6, 720, status="success")],
            {290: ["1d", "3d"], 480: ["3d"], 700: []}, **BURN,
        ),
        Case(
            "what clients got wrong or left is not the service's fault",
            [*requests(0), *(steady("model_request_total", 100, status=status)
                             for status in ("invalid", "rejected", "client_disconnect", "cancelled"))],
            {290: []}, **BURN,
        ),
        Case("no traffic", requests(0, 0), {60: [], 290: []}, **BURN),
    ],
    "ModelwatchLatencyBudgetBurn": [
        Case("fast", latency(20), {290: ["1d", "1h", "3d", "6h"]}, **BURN),
        Case("slower", latency(8), {290: ["1d", "3d", "6h"]}, **BURN),
        Case("slow", latency(4), {290: ["1d", "3d"]}, **BURN),
        Case("slowest", latency(1.5), {290: ["3d"]}, **BURN),
        Case("within the budget", latency(0.8), {60: [], 290: []}, **BURN),
        Case("a few slow requests at night", latency(0.2, 1), {60: []}, **BURN),
        Case("few requests, but enough", latency(0.8, 4), {60: ["1h", "6h"]}, **BURN),
        Case("over: the last minutes are well", latency_until(30), {30: ["1h", "6h"], 50: ["6h"], 65: ["1d"]}, **BURN),
        Case("no traffic", latency(0, 0), {60: [], 290: []}, **BURN),
    ],
    "ModelwatchNoTraffic": [
        Case("it stops", [phased("model_request_total", (10, 60), (0, 100), status="success")],
             {60: [], 80: [], 95: ["m"], 150: []}, by="model_name"),
        Case("a retired version of a model that goes on",
             [phased("model_request_total", (10, 60), (0, 100), status="success"),
              phased("model_request_total", (0, 60), (10, 100), status="success", model_version="2")],
             {80: [], 95: [], 150: []}),
        Case("there was none before", [phased("model_request_total", (0, 160), status="success")], {95: [], 150: []}),
    ],
    "ModelwatchModelAbsent": [
        Case("all replicas are gone", [series("model_loaded_info", "1x30 _x60", **MODEL)],
             {30: [], 40: [], 50: ["m"]}, by="model_name"),
        Case("it was unloaded", [series("model_loaded_info", "1x30 0x60", **MODEL)], {35: [], 45: ["m"]},
             by="model_name"),
        Case("a retired version of a model that goes on",
             [series("model_loaded_info", "1x30 0x60", **MODEL),
              series("model_loaded_info", "_x28 1x60", **(MODEL | {"model_version": "2"}))],
             {45: [], 80: []}),
        Case("a restart that takes five minutes",
             [series("model_loaded_info", "1x30 _x5 1x60", **MODEL)], {40: [], 45: []}),
        Case("one replica of two", [series("model_loaded_info", "1x30 _x60", **MODEL),
                                    series("model_loaded_info", "1x90", **(MODEL | {"instance": "b"}))], {60: []}),
    ],
    "ModelwatchTargetDown": [
        Case("a replica does not answer",
             [series("up", "1x10 0x30", **REPLICA), series("modelwatch_build_info", "1x10 _x30", **REPLICA)],
             {10: [], 13: [], 20: ["a"]}, by="instance"),
        Case("a service whose own constant labels are those that the rules group by",
             [series("up", "1x10 0x30", **REPLICA),
              series("modelwatch_build_info", "1x10 _x30", cluster="eu", namespace="ml", **REPLICA)],
             {10: [], 20: ["a"]}, by="instance"),
        Case("a replica that never answered, of a job that has others",
             [series("up", "0x40", **REPLICA),
              series("modelwatch_build_info", "1x40", job="bike", instance="b")], {20: ["a"]}, by="instance"),
        Case("a target that is no service of ours", [series("up", "0x40", **REPLICA)], {20: [], 40: []}),
        Case("one scrape was lost", [series("up", "1x10 0 1x30", **REPLICA), series("modelwatch_build_info", "1x40",
                                                                                     **REPLICA)], {12: [], 20: []}),
    ],
    "ModelwatchInvalidRequests": [
        Case("a third", [*requests(0), steady("model_request_total", 50, status="invalid")],
             {10: [], 40: ["m"]}, by="model_name"),
        Case("a tenth", [*requests(0), steady("model_request_total", 11, status="invalid")], {40: [], 90: []}),
        Case("half of a few", [*requests(0, 1), steady("model_request_total", 1, status="invalid")],
             {40: ["m"]}, by="model_name"),
        Case("half of very few", [*requests(0, 0.3), steady("model_request_total", 0.3, status="invalid")], {40: []}),
    ],
    "ModelwatchDegraded": [
        Case("degraded", [series("modelwatch_degraded", "0x5 1x20", reason="space", **REPLICA)],
             {5: [], 8: [], 15: ["space"]}, by="reason"),
        Case("well", [series("modelwatch_degraded", "0x30", reason="space", **REPLICA)], {20: []}),
        Case("for a moment", [series("modelwatch_degraded", "0x5 1 0x20", reason="space", **REPLICA)], {7: [], 15: []}),
    ],
    "ModelwatchInternalErrors": [
        Case("one", [series("modelwatch_internal_errors_total", "0x10 1x100", stage="scrape", **REPLICA)],
             {8: [], 20: ["scrape"], 90: []}, by="stage"),
        Case("long ago", [series("modelwatch_internal_errors_total", "5x100", stage="scrape", **REPLICA)], {30: []}),
    ],
    "ModelwatchRowsDropped": [
        Case("dropped", [series("modelwatch_rows_total", "0+5x60", outcome="dropped", **REPLICA)],
             {3: [], 20: ["a"]}, by="instance"),
        Case("long ago", [series("modelwatch_rows_total", "7x60", outcome="dropped", **REPLICA)], {20: [], 40: []}),
        Case("others are not lost", [series("modelwatch_rows_total", "0+5x60", outcome=outcome, **REPLICA)
                                     for outcome in ("recorded", "sampled_out", "ignored", "late", "learning")],
             {20: [], 40: []}),
    ],
    "ModelwatchEvaluationStale": [
        # promtool's time begins at 0, and so does the last evaluation.
        Case("rows and no evaluation", [gauge("model_drift_last_evaluation_timestamp_seconds", 0), rows()],
             {14: [], 18: [], 25: ["1"]}),
        Case("evaluated each minute", [steady("model_drift_last_evaluation_timestamp_seconds", 60), rows()], {60: []}),
        Case("no rows", [gauge("model_drift_last_evaluation_timestamp_seconds", 0), rows(0)], {60: []}),
    ],
    "ModelwatchMemoryNearLimit": [
        Case("container", [series("model_container_memory_working_set_bytes", "95x30", **REPLICA),
                           series("model_process_resident_memory_bytes", "20x30", **REPLICA),
                           series("model_memory_limit_bytes", "100x30", **REPLICA)], {2: [], 10: ["a"]}, by="instance"),
        Case("process", [series("model_process_resident_memory_bytes", "95x30", **REPLICA),
                         series("model_memory_limit_bytes", "100x30", **REPLICA)], {10: ["a"]}, by="instance"),
        Case("enough", [series("model_container_memory_working_set_bytes", "85x30", **REPLICA),
                        series("model_process_resident_memory_bytes", "95x30", **REPLICA),
                        series("model_memory_limit_bytes", "100x30", **REPLICA)], {10: []}),
        Case("of another replica", [series("model_process_resident_memory_bytes", "95x30", **REPLICA),
                                    series("model_memory_limit_bytes", "200x30", **REPLICA),
                                    series("model_memory_limit_bytes", "100x30", job="bike", instance="b")], {10: []}),
    ],
    "ModelwatchCpuNearLimit": [
        Case("at work", [series("model_process_cpu_seconds_total", "0+114x60", **REPLICA),
                         series("model_cpu_limit_cores", "2x60", **REPLICA)], {10: [], 30: ["a"]}, by="instance"),
        Case("half", [series("model_process_cpu_seconds_total", "0+60x60", **REPLICA),
                      series("model_cpu_limit_cores", "2x60", **REPLICA)], {30: []}),
    ],
    "ModelwatchCpuThrottled": [
        Case("a third", [series("model_container_cpu_throttled_seconds_total", "0+20x60", **REPLICA)],
             {10: [], 30: ["a"]}, by="instance"),
        Case("a tenth", [series("model_container_cpu_throttled_seconds_total", "0+6x60", **REPLICA)], {30: []}),
    ],
    "ModelwatchEventLoopBlocked": [
        Case("often late", lag(5), {10: [], 30: ["a"]}, by="instance"),
        Case("rarely late", lag(0.5), {30: []}),
        Case("no loop", lag(0, 0), {30: []}),
    ],
    "ModelwatchGpuMemoryNearLimit": [
        Case("full", [series("model_gpu_memory_bytes", "97x40", **REPLICA, **GPU),
                      series("model_gpu_memory_limit_bytes", "100x40", **REPLICA, **GPU)],
             {10: [], 30: ["0"]}, by="gpu_id"),
        Case("another one is full", [series("model_gpu_memory_bytes", "90x40", **REPLICA, **GPU),
                                     series("model_gpu_memory_limit_bytes", "100x40", **REPLICA, **GPU),
                                     series("model_gpu_memory_limit_bytes", "90x40", **REPLICA, gpu_id="1")], {30: []}),
    ],
    "ModelwatchFeatureDrift": [
        Case("0.25", [*reference(), *feature("temp", (of_psi(0.25), 2 * HOUR)), *feature("hour", (FLAT, 2 * HOUR))],
             {20: [], 60: ["temp"]}, **FEATURE),
        *drift_cases("temp"),
        Case("for ten minutes", [*reference(), *feature("temp", (of_psi(1.0), 10), (FLAT, 110))],
             {15: [], 30: [], 110: []}),
        Case("of the predictions is another alert", [*reference(), *feature("prediction", (of_psi(0.5), 2 * HOUR)),
                                                      *feature("confidence", (of_psi(0.5), 2 * HOUR))], {110: []}),
        Case("spread over two replicas, each with few rows",
             [*reference(), *reference(instance="b"), *feature("temp", (of_psi(0.4), 2 * HOUR), rows=10),
              *feature("temp", (of_psi(0.4), 2 * HOUR), rows=10, instance="b")], {110: ["temp"]}, **FEATURE),
    ],
    "ModelwatchPredictionDrift": [
        Case("prediction and confidence", [*reference(), *feature("prediction", (of_psi(0.3), 2 * HOUR)),
                                           *feature("confidence", (of_psi(0.3), 2 * HOUR))],
             {24: [], 80: ["confidence", "prediction"]}, **FEATURE),
        Case("a feature", [*reference(), *feature("temp", (of_psi(0.5), 2 * HOUR))], {110: []}),
        *drift_cases("prediction"),
    ],
    "ModelwatchDatasetDrift": [
        Case("three of ten, with a muted one beside them", features(4, 11, muted=1), {20: [], 60: [], 100: ["1"]}),
        Case("three of eleven, with two muted ones beside them", features(5, 13, muted=2), {100: []}),
        Case("two of four, with two muted ones beside them", features(4, 6, muted=2), {100: []}),
        Case("few rows", features(4, 4, rows=15), {100: []}),
        Case("one of five, and what the model makes of it",
             [*features(1, 5), *feature("prediction", (of_psi(0.4), 2 * HOUR)),
              *feature("confidence", (of_psi(0.4), 2 * HOUR))], {100: []}),
        Case("two of six, with two beside them that no replica finds", features(4, 6, denied=2), {100: []}),
        Case("three of ten, with one beside them that no replica finds", features(4, 10, denied=1), {100: ["1"]}),
    ],
    "ModelwatchDetectorAlarm": [
        Case("an alarm", [series("model_detector_alarms_total", "0x10 1x120", detector="page_hinkley",
                                 signal="prediction_mean", **MODEL)], {8: [], 20: ["prediction_mean"], 100: []},
             by="signal"),
        Case("none within the window", [series("model_detector_alarms_total", "3x100", detector="page_hinkley",
                                               signal="prediction_mean", **MODEL)], {20: [], 90: []}),
    ],
    "ModelwatchMissingValues": [
        Case("a tenth more", [*reference(), *feature(missing=0.2, missing_before=0.1)],
             {10: [], 60: ["temp"]}, **FEATURE),
        Case("a little more", [*reference(), *feature(missing=0.14, missing_before=0.1)], {60: [], 110: []}),
        Case("less", [*reference(), *feature(missing=0.0, missing_before=0.3)], {60: []}),
        Case("muted", [*reference(), *feature(missing=0.5, alerting=0)], {60: []}),
        Case("few rows", [*reference(), *feature(missing=0.5, rows=3)], {60: []}),
        Case("what never arrives is told by another alert",
             [*reference(), *feature(missing=1), gauge("model_feature_captured", 0, feature="temp")], {60: []}),
        Case("rows that were compared with the reference before",
             [*reference(name="s"), *feature(missing=0.5)], {60: []}),
    ],
    "ModelwatchUnseenCategories": [
        Case("a tenth", violations("unseen_category", 0.5, 5), {10: [], 45: [], 90: ["city"]}, **FEATURE),
        Case("a thirtieth", violations("unseen_category", 3), {40: [], 90: []}),
        Case("another reason", violations("out_of_range", 50), {40: [], 90: []}),
        Case("muted", violations("unseen_category", 10, alerting=0), {40: [], 90: []}),
        Case("one row in ten is looked at", [*violations("unseen_category", 1, 10), rows(100)],
             {10: [], 90: ["city"]}, **FEATURE),
        Case("few rows", violations("unseen_category", 2, 3), {40: [], 60: []}),
    ],
    "ModelwatchUnusableValues": [
        Case("wrong type", violations("type", 0.1, 5), {10: [], 45: [], 90: ["city"]}, **FEATURE),
        Case("not finite", violations("non_finite", 5), {40: ["city"]}, **FEATURE),
        Case("few rows", violations("type", 1, 2), {40: [], 90: []}),
        Case("half a percent", violations("type", 0.5), {40: [], 90: []}),
        Case("muted", violations("type", 5, alerting=0), {40: [], 90: []}),
        Case("one row in ten is looked at", [*violations("type", 0.2, 10), rows(100)],
             {10: [], 90: ["city"]}, **FEATURE),
    ],
    "ModelwatchFeatureNotCaptured": [
        Case("never came", [gauge("model_feature_captured", 0, feature="temp"),
                            gauge("model_feature_alerting", 1, feature="temp")], {5: [], 30: ["temp"]}, **FEATURE),
        Case("one replica has it", [gauge("model_feature_captured", 0, feature="temp"),
                                    gauge("model_feature_captured", 1, feature="temp", instance="b")], {30: []}),
        Case("muted", [gauge("model_feature_captured", 0, feature="temp"),
                       gauge("model_feature_alerting", 0, feature="temp")], {30: []}),
    ],
    "ModelwatchLowConfidence": [
        Case("four of ten", [steady("model_low_confidence_total", 2), rows(5)], {10: [], 45: [], 90: ["1"]}),
        Case("two of ten", [steady("model_low_confidence_total", 20), rows()], {40: [], 90: []}),
        Case("few rows", [steady("model_low_confidence_total", 2), rows(3)], {40: [], 90: []}),
    ],
    "ModelwatchAccuracyDrop": [
        Case("a tenth", accuracy(0.8), {20: [], 40: ["1"]}),
        Case("a hundredth", accuracy(0.89), {40: [], 90: []}),
        Case("just enough labels", accuracy(0.6, labelled=150), {40: ["1"]}),
        Case("few labels", accuracy(0.5, labelled=99), {40: [], 90: []}),
        Case("chance", accuracy(0.85, labelled=150), {40: [], 90: []}),
        Case("better", accuracy(0.95), {40: []}),
    ],
    "ModelwatchReferenceMissing": [
        Case("rows and none", [*reference(name="", source="none"), rows()], {50: [], 80: ["1"]}),
        Case("rows and one", [*reference(), rows()], {80: []}),
        Case("no rows", [*reference(name="", source="none"), rows(0)], {80: []}),
    ],
    "ModelwatchReferenceMismatch": [
        Case("two", [*reference(), *reference(name="s", instance="b")], {10: [], 30: ["1"]}),
        Case("one", [*reference(), *reference(instance="b")], {30: []}),
        Case("of two versions", [*reference(), *reference(name="s", instance="b", model_version="2")], {30: []}),
        Case("a roll-out of ten minutes", [*reference(), *reference(10, name="s", instance="b")], {10: [], 30: []}),
    ],
    "ModelwatchReferenceReloadFailed": [
        Case("failed", [gauge("model_reference_reload_failed", 1, reference="r", source="file")], {2: [], 10: ["1"]}),
        Case("well", [gauge("model_reference_reload_failed", 0, reference="r", source="file")], {10: []}),
    ],
}  # fmt: skip

# Rarely evaluated where nothing happens fast: a test takes as long as the rules are evaluated often. Not more rarely
# than each five minutes, after which Prometheus forgets a value.
EVERY = {"ModelwatchFeatureDrift": "2m", "ModelwatchPredictionDrift": "4m", "ModelwatchDatasetDrift": "5m",
         "ModelwatchMissingValues": "5m", "ModelwatchErrorBudgetBurn": "5m", "ModelwatchLatencyBudgetBurn": "5m",
         "ModelwatchAccuracyDrop": "5m", "ModelwatchUnseenCategories": "5m", "ModelwatchUnusableValues": "5m",
         }  # fmt: skip
SEVERITIES = {"info", "warning", "critical"}
CATEGORIES = {"service", "drift", "quality", "model", "staleness", "resources", "library"}


def asked(alert: str, case: Case) -> dict[str, Any]:
    """The case as promtool reads it: which of the values of `by` have a firing alert at which minutes."""
    firing = f'count by ({case.by}) (ALERTS{{alertname="{alert}", alertstate="firing"}}) ^ 0'
    return {
        "interval": "1m",
        "input_series": list(case.given),
        "promql_expr_test": [
            {
                "expr": f"{firing} # {case.claim}",  # so a failure tells which case it is
                "eval_time": f"{minute}m",
                "exp_samples": [{"labels": f'{{{case.by}="{value}"}}', "value": 1} for value in values],
            }
            for minute, values in case.firing.items()
        ],
    }


def rules(options: RuleOptions = OPTIONS) -> list[dict[str, Any]]:
    return [rule for group in alert_groups(options)["groups"] for rule in group["rules"]]


def test_every_alert_has_both_cases():
    """Each alert has a case in which it fires, and one in which it is silent all the time."""
    assert set(RULES) == set(alert_names(OPTIONS))
    for alert, cases in RULES.items():
        assert any(any(case.firing.values()) for case in cases), alert
        assert any(not any(case.firing.values()) for case in cases), alert


@pytest.mark.parametrize("alert", RULES)
def test_fires_where_it_must_and_is_silent_where_it_must_not(alert, tmp_path):
    """In each case exactly the alerts named fire, at each of the minutes named."""
    groups, tests = only(groups_of(OPTIONS), alert), [asked(alert, case) for case in RULES[alert]]
    done = run_tests(tmp_path, groups, tests, every=EVERY.get(alert, "1m"))
    assert done.returncode == 0, done.stdout + done.stderr


def healthy(replica: str) -> list[dict[str, str]]:
    """A replica in which all is well, with a feature that has drifted a little and one that is muted and far off."""
    steps, who = 3 * HOUR, {"instance": replica}
    found = [*reference(steps, **who), *requests(0.05, 100, steps, **who), rows(100, steps, **who)]
    found += feature("temp", (of_psi(0.1), steps), missing=0.02, missing_before=0.01, **who)
    found += feature("hour", (of_psi(0.9), steps), alerting=0, **who)
    found += feature("prediction", (FLAT, steps), **who)
    seconds = "model_request_latency_seconds"
    for le, rate in (("0.25", 99.6), ("+Inf", 100)):
        found.append(steady(f"{seconds}_bucket", rate, steps, le=le, **who))
        found.append(series("model_event_loop_lag_seconds_bucket", f"0+{rate:g}x{steps}", le=le, **(REPLICA | who)))
    found.append(steady(f"{seconds}_count", 100, steps, **who))
    for name, value in {
        "up": 1, "modelwatch_build_info": 1, "model_workers": 4, "model_cpu_limit_cores": 2,
        "model_memory_limit_bytes": 100, "model_container_memory_working_set_bytes": 50,
        "model_process_resident_memory_bytes": 40,
    }.items():  # fmt: skip
        found.append(series(name, f"{value}x{steps}", **(REPLICA | who)))
    found += [
        gauge("model_loaded_info", 1, steps, **who),
        gauge("model_reference_reload_failed", 0, steps, reference="r", source="file", **who),
        gauge("model_feature_captured", 1, steps, feature="temp", **who),
        steady("model_drift_last_evaluation_timestamp_seconds", 60, steps, **who),
        steady("model_low_confidence_total", 5, steps, **who),
        series("modelwatch_degraded", f"0x{steps}", reason="space", **(REPLICA | who)),
        series("modelwatch_internal_errors_total", f"0x{steps}", stage="scrape", **(REPLICA | who)),
        series("modelwatch_rows_total", f"0x{steps}", outcome="dropped", **(REPLICA | who)),
        series("model_process_cpu_seconds_total", f"0+60x{steps}", **(REPLICA | who)),
    ]
    return found


def test_a_healthy_service_is_silent(tmp_path):
    """Where all is well no alert fires, with all rules in place; nor is one about to."""
    test = {
        "interval": "1m",
        "input_series": [*healthy("a"), *healthy("b")],
        "promql_expr_test": [
            {"expr": "ALERTS", "eval_time": f"{minute}m", "exp_samples": []} for minute in (30, 90, 170)
        ] + [{"expr": "count(modelwatch:feature_psi_smoothed:1h)", "eval_time": "170m",
              "exp_samples": [{"labels": "{}", "value": 3}]}],
    }  # fmt: skip
    done = run_tests(tmp_path, groups_of(OPTIONS), [test], every="10m")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", ['quo"te', "back\\slash", "{{ .Value }}", "a&b=c d", "Größe", "two\nlines", "`tick`"])
def test_any_name_of_a_feature_can_be_told(tmp_path, name):
    """A feature's name may hold anything: the texts carry it as it is, with the rows and the floor looked up by it."""
    given = [*reference(), *feature(name, (of_psi(0.4), HOUR))]
    wanted = {"eval_time": "50m", "alertname": "ModelwatchFeatureDrift", "exp_alerts": []}
    test = {"interval": "1m", "input_series": given, "alert_rule_test": [wanted]}
    done = run_tests(tmp_path, only(groups_of(OPTIONS), "ModelwatchFeatureDrift"), [test], every="5m")
    said = done.stdout + done.stderr  # promtool was told to expect none, so it prints what there is
    assert "from 5000 rows; noise alone stays below 0.0" in said
    assert "has drifted" in said
    assert "error" not in said.lower()


def test_options_reach_the_alerts(tmp_path):
    """Window, threshold, rows, waiting time and grouping are those of the options."""
    options = RuleOptions(windows=("30m",), psi=0.4, alert_rows=300, pending="5m", by=("team",))
    given = []
    for team, shares, per_step in (("a", of_psi(0.5), 20), ("b", of_psi(0.3), 20), ("c", of_psi(0.5), 8)):
        given += reference(HOUR, team=team) + feature("temp", (shares, HOUR), rows=per_step, team=team)
    fires = {"expr": 'count by (team) (ALERTS{alertstate="firing"})', "eval_time": "40m"}
    test = {"interval": "1m", "input_series": given,
            "promql_expr_test": [{**fires, "exp_samples": [{"labels": '{team="a"}', "value": 1}]}]}  # fmt: skip
    done = run_tests(tmp_path, only(groups_of(options), "ModelwatchFeatureDrift"), [test])
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    "options",
    [
        RuleOptions(),
        RuleOptions(statistics="all", windows=("30m", "6h", "7d"), by=(), labels={"team": "risk"}, latency=1.0),
        RuleOptions(slo=0.99, latency_slo=0.95, by=("region", "job"), pending="1h", min_rows=1, alert_rows=1),
    ],
    ids=["default", "much", "loose"],
)
def test_promtool_takes_the_rules(options, tmp_path):
    """Whatever the options, Prometheus' own program finds nothing wrong with the rules and their templates."""
    (tmp_path / "rules.yml").write_text(to_yaml({"groups": groups_of(options)}), "utf-8")
    done = run(tmp_path, "check", "rules", "rules.yml")
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_says_what_it_must():
    """Each has a wait, a severity, a category, a summary, a description, a link to the runbook and to a dashboard."""
    for rule in rules():
        assert rule["alert"].startswith("Modelwatch")
        assert rule["for"]
        assert rule["labels"]["severity"] in SEVERITIES
        assert rule["labels"]["category"] in CATEGORIES
        assert rule["labels"]["team"] == "risk"
        said = rule["annotations"]
        assert set(said) == {"summary", "description", "runbook_url", "dashboard"}
        assert said["runbook_url"] == f"https://example.com/runbook.md#{rule['alert'].lower()}"
        assert said["dashboard"].startswith("http://localhost:3000/d/modelwatch-")


@pytest.mark.parametrize(("by", "expected"), [(("job",), True), (("team",), False), ((), False)])
def test_links_choose_a_job_only_if_the_alerts_have_one(by, expected):
    """Where alerts are not grouped by job, a link does not choose the job of no name, which has nothing to show."""
    assert all(("var-job=" in rule["annotations"]["dashboard"]) == expected for rule in rules(RuleOptions(by=by)))


def test_critical_is_rare():
    """What concerns one feature, or is about a version that may be retired, wakes nobody at night."""
    critical = {rule["alert"] for rule in rules() if rule["labels"]["severity"] == "critical"}
    assert critical == {
        "ModelwatchErrorBudgetBurn",
        "ModelwatchLatencyBudgetBurn",
        "ModelwatchModelAbsent",
        "ModelwatchDatasetDrift",
        "ModelwatchAccuracyDrop",
    }


def test_windows_of_days_are_not_denied():
    """What replicas say of an hour does not silence what the fleet says of a day."""
    for windows, expected in ((("1h", "24h"), 3), (("24h",), 0)):
        groups = alert_groups(RuleOptions(windows=windows))["groups"]
        exprs = [rule["expr"] for group in groups for rule in group["rules"]]
        assert sum("model_feature_drift_detected" in expr for expr in exprs) == expected


def test_muted_features_are_muted_everywhere():
    """Each alert that has a feature among its labels looks whether the feature is muted."""
    of_features = [rule for rule in rules() if "$labels.feature" in rule["annotations"]["summary"]]
    assert len(of_features) == 6
    assert all("model_feature_alerting == 0" in rule["expr"] for rule in of_features)
