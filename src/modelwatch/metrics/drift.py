"""The drift and data quality layers: gauges from the window, counters from the totals."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .._types import Counts
from ..cells import NumericCells
from ..epoch import Epoch
from ..monitor import Monitor
from ..report import DriftReport
from ..window import Content
from .families import Sample

_OF_FEATURES = {
    "drifted": "model_feature_drift_detected",
    "n": "model_feature_window_rows",
    "m": "model_feature_reference_rows",
    "mean": "model_feature_window_mean",
    "missing_share": "model_feature_window_missing_ratio",
    "alerting": "model_feature_alerting",
} | {
    name: f"model_feature_drift_{name}"
    for name in (
        "psi", "psi_smoothed", "psi_debiased", "psi_critical", "ks_statistic", "ks_pvalue", "chi_square_pvalue",
        "js_divergence", "total_variation", "kl_divergence", "hellinger", "wasserstein", "severity",
    )
}  # fmt: skip


class DriftSource:
    """Reads a monitor's window and compares it with the reference, at each scrape.

    Parameters
    ----------
    monitor
        Its window, reference and signals are read.

    Notes
    -----
    Threads: any number. Processes: each has its own.
    """

    def __init__(self, monitor: Monitor) -> None:
        self._monitor = monitor

    def __call__(self) -> Iterator[Sample]:
        """Samples of now; without a reference, that there is none."""
        monitor = self._monitor
        found = monitor.evaluate()
        if found is None:
            yield from _nothing(monitor)
            return
        report, (epoch, content, totals) = found
        model = (monitor.model_name, epoch.version)
        yield from _features(model, report)
        yield from _whole(model, report, epoch, content)
        yield from _reference(monitor, model, epoch)
        yield from _bins(model, epoch, totals)
        old = monitor.engine.previous
        if old is not None:
            yield from _bins((monitor.model_name, old.version), old, old.totals)
        yield from _detectors(monitor, model)
        for (version, feature, reason), rows in monitor.engine.violations().items():
            labels = (monitor.model_name, version, feature, reason)
            yield Sample("model_feature_violations_total", labels, rows)


def _nothing(monitor: Monitor) -> Iterator[Sample]:
    """What is always there, also without a reference."""
    model = (monitor.model_name, monitor.model_version)
    for metric in (
        "model_monitored_features",
        "model_drift_window_rows",
        "model_drift_window_seconds",
        "model_drift_reference_rows",
    ):
        yield Sample(metric, model, 0)
    yield Sample("model_drift_min_rows", model, monitor.settings.min_rows)
    labels = (*model, "", monitor.engine.source)
    yield Sample("model_reference_info", labels, 1)
    yield Sample("model_reference_reload_failed", labels, float(monitor.reload_failed))


def _features(model: tuple[str, str], report: DriftReport) -> Iterator[Sample]:
    columns = dict(report.columns)
    known = np.isfinite(columns["psi"])
    for field, metric in _OF_FEATURES.items():
        for name, value in zip(report.names, columns[field].tolist(), strict=True):
            yield Sample(metric, (*model, name), value)
    for name, value in zip(report.names, np.where(known, columns["floor"], np.nan).tolist(), strict=True):
        yield Sample("model_feature_drift_floor", (*model, name), value)


def _whole(model: tuple[str, str], report: DriftReport, epoch: Epoch, content: Content) -> Iterator[Sample]:
    judged = report.columns["drifted"]
    known = int(np.isfinite(judged).sum())
    drifted = float(np.nansum(judged)) if known else np.nan
    monitored = int((report.columns["alerting"] * report.columns["captured"]).sum())
    yield Sample("model_drifted_features", model, drifted)
    yield Sample("model_drifted_features_ratio", model, drifted / known if known else np.nan)
    yield Sample("model_monitored_features", model, monitored)
    yield Sample("model_drift_window_rows", model, content.rows)
    yield Sample("model_drift_window_seconds", model, content.seconds or 0.0)
    yield Sample("model_drift_min_rows", model, report.min_rows)
    yield Sample("model_drift_reference_rows", model, epoch.profile.rows)
    # Of one that has not arrived yet nothing is known before the others had `min_rows` rows.
    captured = np.where(epoch.seen, 1.0, 0.0 if epoch.rows >= report.min_rows else np.nan)
    for name, value in zip(report.names, captured.tolist(), strict=True):
        yield Sample("model_feature_captured", (*model, name), value)
    there = report.columns["captured"] > 0
    if content.rows >= report.min_rows and there.any():
        violating = sum(rows for (i, _), rows in epoch.profile.layout.violations(content.counts).items() if there[i])
        yield Sample("model_data_quality_score_ratio", model, 1 - violating / (content.rows * there.sum()))


def _reference(monitor: Monitor, model: tuple[str, str], epoch: Epoch) -> Iterator[Sample]:
    labels = (*model, epoch.profile.id, monitor.engine.source)
    yield Sample("model_reference_info", labels, 1)
    yield Sample("model_reference_loaded_timestamp_seconds", labels, monitor.engine.reference_time or np.nan)
    yield Sample("model_reference_reload_failed", labels, float(monitor.reload_failed))


def _bins(model: tuple[str, str], epoch: Epoch, totals: Counts) -> Iterator[Sample]:
    """Bin counters, and what the reference has in the same bins: two vectors that Prometheus can compare by itself."""
    profile = epoch.profile
    layout = profile.layout
    binned, missing = layout.binned(totals).tolist(), layout.missing_rows(totals).tolist()
    own = profile.binned
    for i, (feature, cells) in enumerate(zip(profile.features, layout.cells, strict=True)):
        labels = (*model, profile.id, feature.name)
        start = int(layout.bins.starts[i])
        rows = int(profile.value_rows[i])
        bounds = cells.bounds.tolist() if isinstance(cells, NumericCells) else []
        for j, name in enumerate(cells.bins):
            yield Sample("model_feature_bin_total", (*labels, name), binned[start + j])
            if rows:
                yield Sample("model_reference_bin_share", (*labels, name), int(own[start + j]) / rows)
            if bounds:
                yield Sample("model_reference_bin_upper_bound", (*labels, name), bounds[j])
        yield Sample("model_feature_bin_total", (*labels, "_missing"), missing[i])
        counted = int(profile.rows_of_features[i])
        if counted:
            yield Sample("model_reference_missing_share", (*labels, "_missing"), 1 - rows / counted)


def _detectors(monitor: Monitor, model: tuple[str, str]) -> Iterator[Sample]:
    for signal in monitor.engine.signals:
        labels = (*model, "page_hinkley", signal.name)
        detector = signal.detector
        yield Sample("model_detector_statistic", labels, detector.statistic)
        yield Sample("model_detector_threshold", labels, detector.threshold)
        yield Sample("model_detector_state", labels, detector.state)
        yield Sample("model_detector_alarms_total", labels, detector.alarms)
        if signal.last_alarm is not None:
            yield Sample("model_detector_last_alarm_timestamp_seconds", labels, signal.last_alarm)
