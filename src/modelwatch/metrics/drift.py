"""The drift and data quality layers: gauges from the window, counters from the totals."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from ..cells import NumericCells
from ..epoch import Epoch
from ..monitor import Monitor
from ..reading import Reading, Totals
from ..report import DriftReport
from ..series import Sample
from ..shares import EpochShare

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

    def __call__(self, others: Iterable[EpochShare] = ()) -> Iterator[Sample]:
        """Samples of now, with what other workers have counted; without a reference, that there is none."""
        monitor = self._monitor
        found = monitor.evaluate(others)
        if found is None:
            yield from _nothing(monitor)
            return
        report, reading = found
        model = (monitor.model_name, reading.epoch.version)
        yield from _features(model, report)
        yield from _whole(model, report, reading)
        yield from _reference(monitor, model, reading.epoch)
        for totals in reading.totals:
            yield from _bins((monitor.model_name, totals.epoch.version), totals)
        yield from _detectors(monitor, model)


def violations(monitor: Monitor) -> Iterator[Sample]:
    """What this worker has counted of values that break the reference."""
    with monitor.engine.lock:
        found = monitor.engine.epochs.violations()
    for (version, feature, reason), rows in found.items():
        yield Sample("model_feature_violations_total", (monitor.model_name, version, feature, reason), rows)


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


def _whole(model: tuple[str, str], report: DriftReport, reading: Reading) -> Iterator[Sample]:
    epoch, content = reading.epoch, reading.content
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
    captured = np.where(reading.seen, 1.0, 0.0 if reading.rows >= report.min_rows else np.nan)
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


def _bins(model: tuple[str, str], totals: Totals) -> Iterator[Sample]:
    """Bin counters, and what the reference has in the same bins: two vectors that Prometheus can compare by itself."""
    profile = totals.epoch.profile
    layout = profile.layout
    own, rows_of, missing_of = profile.binned, totals.binned.tolist(), totals.missing.tolist()
    for i, (feature, cells) in enumerate(zip(profile.features, layout.cells, strict=True)):
        labels = (*model, profile.id, feature.name)
        start = int(layout.bins.starts[i])
        rows = int(profile.value_rows[i])
        bounds = cells.bounds.tolist() if isinstance(cells, NumericCells) else []
        for j, name in enumerate(cells.bins):
            yield Sample("model_feature_bin_total", (*labels, name), rows_of[start + j])
            if rows:
                yield Sample("model_reference_bin_share", (*labels, name), int(own[start + j]) / rows)
            if bounds:
                yield Sample("model_reference_bin_upper_bound", (*labels, name), bounds[j])
        yield Sample("model_feature_bin_total", (*labels, "_missing"), missing_of[i])
        counted = int(profile.rows_of_features[i])
        if counted:
            yield Sample("model_reference_missing_share", (*labels, "_missing"), 1 - rows / counted)


def _detectors(monitor: Monitor, model: tuple[str, str]) -> Iterator[Sample]:
    for signal in monitor.engine.detection.signals:
        labels = (*model, "page_hinkley", signal.name)
        detector = signal.detector
        yield Sample("model_detector_statistic", labels, detector.statistic)
        yield Sample("model_detector_threshold", labels, detector.threshold)
        yield Sample("model_detector_state", labels, detector.state)
        yield Sample("model_detector_alarms_total", labels, detector.alarms)
        if signal.last_alarm is not None:
            yield Sample("model_detector_last_alarm_timestamp_seconds", labels, signal.last_alarm)
