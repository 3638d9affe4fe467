"""The JSON of the live page: what the service has counted, and for each model the report, worst feature first.

What is not known is null, never 0. Whatever comes from clients is text of at most 200 characters on one line; the page
puts it where it stays text.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from ..metrics.pace import NoPace, Pace
from ..monitor import Monitor
from ..reading import Reading
from ..report import DriftReport, FeatureReport
from ..series import clean
from ..sharing import Sight
from .distributions import Distributions
from .figures import Buckets, Found, rounded
from .history import STEP_SECONDS
from .snapshot import LATENCY, Snapshot, Span, snapshot_of

MOST_FEATURES = 500
"""So many features of a model are shown, the worst ones; how many are left out is said."""
RECENT_SECONDS = 60.0
_LEAST_SECONDS = 1.0  # in which a rate means something
_MOST_TREND = 60
_QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}


@dataclass(frozen=True)
class _Context:
    """What the parts of one page have in common."""

    found: Found
    points: Sequence[Snapshot]
    now: Snapshot
    pace: Pace


def state_of(
    sight: Sight, points: Sequence[Snapshot], now: float, *, version: str, pace: Pace | None = None
) -> dict[str, Any]:
    """Everything that the page shows, as `json.dumps` takes it.

    Parameters
    ----------
    sight
        What all workers have counted.
    points
        Snapshots of the last hour, oldest first.
    now
        Seconds since 1970.
    version
        Of modelwatch.
    pace
        Where to pause; default: nowhere.
    """
    context = _Context(Found(sight.items), points, snapshot_of(sight, now), pace or NoPace())
    return {
        "at": round(now, 3),
        "library": _library(context.found, version),
        "models": [_model(monitor, pair, context) for monitor, pair in sight.models],
    }


def _library(found: Found, version: str) -> dict[str, Any]:
    """About modelwatch itself: above all what does not work."""
    errors = found.by_last("modelwatch_internal_errors_total")
    degraded = found.by_last("modelwatch_degraded")
    return {
        "version": version,
        "workers": found.number("model_workers"),
        "degraded": [reason for reason, flag in degraded.items() if flag],
        "errors": {stage: count for stage, count in errors.items() if count},
        "dropped": found.by_last("modelwatch_rows_total").get("dropped"),
        "captures": found.number("modelwatch_capture_available"),
    }


def _model(monitor: Monitor, pair: tuple[DriftReport, Reading] | None, context: _Context) -> dict[str, Any]:
    found, name, version = context.found, clean(monitor.model_name), clean(monitor.model_version)
    loaded = found.number("model_loaded_info", name, version)
    return {
        "name": name,
        "version": version,
        "loaded": None if loaded is None else loaded > 0,
        "loaded_at": found.number("model_load_timestamp_seconds", name, version),
        "reference": _reference(monitor, pair),
        "learning": _learning(monitor, found.number("model_rows_total", name, version)),
        "service": _service(name, version, context),
        "rows": found.number("model_rows_total", name, version),
        "drift": None if pair is None else _drift(monitor, *pair, context),
        "predictions": _predictions(name, version, found),
        "confidence": _confidence(monitor, name, version, found),
        "detectors": [_detector(signal) for signal in monitor.engine.detection.signals],
        "history": _history(name, context),
    }


def _reference(monitor: Monitor, pair: tuple[DriftReport, Reading] | None) -> dict[str, Any] | None:
    if pair is None:
        return None
    profile = pair[1].epoch.profile
    return {
        "id": profile.id,
        "source": monitor.engine.source,
        "rows": profile.rows,
        "since": monitor.engine.reference_time,
        "reload_failed": monitor.reload_failed,
    }


def _learning(monitor: Monitor, rows: float | None) -> dict[str, Any] | None:
    if monitor.engine.learner is None:
        return None
    return {"rows": rows, "wanted": monitor.settings.learn_rows, "seconds": monitor.settings.learn_seconds}


def _service(name: str, version: str, context: _Context) -> dict[str, Any]:
    """Requests so far by how they ended; rate, errors and latency of the last minute or so."""
    found = context.found
    statuses = found.by_last("model_request_total", name, version)
    recent = _recent(context, name)
    return {
        "statuses": statuses,
        "requests": sum(statuses.values()) if statuses else None,
        "in_progress": found.number("model_requests_in_progress", name),
        "last": found.number("model_last_request_timestamp_seconds", name),
        "seconds": None if recent is None else rounded(recent.seconds, 3),
        "rate": None if recent is None else rounded(recent.rate),
        "row_rate": None if recent is None else rounded(recent.row_rate),
        "error_share": None if recent is None else rounded(recent.error_share),
        "latency": _times(None if recent is None else recent.latency),
        "latency_so_far": _times(found.buckets(LATENCY, name, version)),
    }


def _recent(context: _Context, name: str) -> Span | None:
    """From the newest snapshot that is a minute old, or the oldest there is, until now."""
    now = float(context.now["t"])
    old = [point for point in context.points if float(point["t"]) <= now - RECENT_SECONDS]
    before = old[-1] if old else context.points[0] if context.points else None
    if before is None or now - float(before["t"]) < _LEAST_SECONDS:
        return None
    return Span(before, context.now, name)


def _times(buckets: Buckets | None) -> dict[str, Any] | None:
    if buckets is None or buckets.size <= 0:
        return None
    times: dict[str, Any] = {name: buckets.quantile(q) for name, q in _QUANTILES.items()}
    return {**times, "mean": rounded(buckets.mean), "count": buckets.size}


def _drift(monitor: Monitor, report: DriftReport, reading: Reading, context: _Context) -> dict[str, Any]:
    features, settings = report.worst_first(), monitor.settings
    places = {name: i for i, name in enumerate(report.names)}
    bins, trends, shown = Distributions(reading), _trends(context, clean(monitor.model_name)), []
    for feature in features[:MOST_FEATURES]:
        i = places[feature.name]
        known = feature.captured and feature.psi is not None
        shown.append(
            {"id": i, **_feature(feature), "bins": bins.of(i, known=known), "trend": trends.get(clean(feature.name))}
        )
        context.pace.look()
    judged = [feature for feature in features if feature.drifted is not None]
    rows = "rows" if settings.window_rows is not None else "event time" if settings.event_time else "time"
    return {
        "rows": reading.content.rows,
        "seconds": rounded(reading.content.seconds),
        "min_rows": report.min_rows,
        "window": {"by": rows, "rows": settings.window_rows, "seconds": settings.window_seconds},
        "judged": len(judged),
        "drifted": len(report.drifted) if judged else None,
        "waiting": sum(feature.verdict == "waiting" for feature in features),
        "features": shown,
        "left_out": max(len(features) - MOST_FEATURES, 0),
    }


def _feature(feature: FeatureReport) -> dict[str, Any]:
    numbers = {
        "psi": feature.psi,
        "psi_smoothed": feature.psi_smoothed,
        "noise": feature.psi_critical,
        "distance": feature.distance,
        "floor": feature.floor,
        "pvalue": feature.ks_pvalue if feature.kind == "numeric" else feature.chi_square_pvalue,
        "js": feature.js_divergence,
        "missing": feature.missing_share,
        "reference_missing": feature.reference_missing_share,
        "other": feature.other_share,
        "mean": feature.mean,
        "reference_mean": feature.reference_mean,
    }
    return {
        "name": clean(feature.name),
        "kind": feature.kind,
        "verdict": feature.verdict,
        "drifted": feature.drifted,
        "reasons": list(feature.reasons),
        "n": feature.n,
        "m": feature.m,
        **{name: rounded(number) for name, number in numbers.items()},
    }


def _predictions(name: str, version: str, found: Found) -> dict[str, Any]:
    """What the model has returned so far: rows by class, or by value."""
    classes = found.by_last("model_predictions_total", name, version)
    values = found.buckets("model_prediction_value", name, version)
    return {
        "classes": sorted(classes.items(), key=lambda item: -item[1]) if classes else None,
        "values": _histogram(values),
    }


def _confidence(monitor: Monitor, name: str, version: str, found: Found) -> dict[str, Any] | None:
    """How sure the model was: all classes together, since the service began."""
    histogram = found.buckets("model_prediction_confidence", name)
    shown = _histogram(histogram)
    if shown is None or histogram is None:
        return None
    low = found.number("model_low_confidence_total", name, version)
    rows = found.number("model_rows_total", name, version)
    return {
        **shown,
        "low": monitor.settings.low_confidence,
        "low_share": rounded(low / rows) if low is not None and rows else None,
    }


def _histogram(buckets: Buckets | None) -> dict[str, Any] | None:
    if buckets is None or buckets.size <= 0:
        return None
    bounds = [rounded(bound, 6) for bound in buckets.bounds]
    return {"bounds": bounds, "counts": list(buckets.counts), "mean": rounded(buckets.mean), "count": buckets.size}


def _detector(signal: Any) -> dict[str, Any]:
    detector = signal.detector
    return {
        "signal": signal.name,
        "state": detector.state,
        "statistic": rounded(detector.statistic),
        "threshold": rounded(detector.threshold),
        "alarms": detector.alarms,
        "last_alarm": signal.last_alarm,
    }


def _history(name: str, context: _Context) -> dict[str, Any]:
    """Of each time the rates since the one before it, and how many features had drifted."""
    points = list(context.points)
    # Not so soon after the last one: the rate of a second or two would jump about.
    if not points or float(context.now["t"]) - float(points[-1]["t"]) >= STEP_SECONDS / 3:
        points.append(context.now)
    spans = [Span(before, after, name) for before, after in pairwise(points)]
    model = [point["models"].get(name, {}) for point in points[1:]]
    return {
        "t": [round(float(point["t"]), 1) for point in points[1:]],
        "rate": [rounded(span.rate, 3) for span in spans],
        "rows": [rounded(span.row_rate, 3) for span in spans],
        "errors": [rounded(span.error_share, 3) for span in spans],
        "latency": [rounded(None if (times := span.latency) is None else times.mean, 3) for span in spans],
        "drifted": [one.get("drifted") for one in model],
    }


def _trends(context: _Context, name: str) -> Mapping[str, list[float | None]]:
    """The smoothed PSI of the worst features over the last hour, at no more than 60 times, the last one now.

    Against the reference of now: what was measured against another one is on another scale.
    """
    points = [*context.points, context.now]
    step = math.ceil(len(points) / _MOST_TREND)
    models = [point["models"].get(name, {}) for point in points[::-step][::-1]]
    kept = [model["smoothed"] if model.get("reference") == models[-1]["reference"] else {} for model in models]
    names = {feature for psi in kept for feature in psi}
    return {feature: [psi.get(feature) for psi in kept] for feature in names} if len(kept) > 1 else {}
