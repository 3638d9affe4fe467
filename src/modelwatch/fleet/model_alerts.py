"""Alerts about the model: its inputs, its predictions, its quality and its reference.

Drift of one feature is never critical, and muted features never alert.
"""

from __future__ import annotations

from collections.abc import Iterator

from .alert import Alert, asked, of
from .options import MODEL, RuleOptions, is_long, seconds
from .promql import total
from .recording import feature_labels

_OUTPUTS = "prediction|confidence"
_LEAVE = 0.75
"""An alert over drift ends when the PSI is below this part of the threshold: so it does not flutter around it."""

_DRIFTED_SHARE, _DRIFTED_FEATURES = 0.3, 3
_MISSING, _UNSEEN, _UNUSABLE = 0.05, 0.05, 0.01
_LOW_CONFIDENCE = 0.3
_ACCURACY_DROP, _LABELLED_ROWS = 0.03, 100
_WHO = "{{ $labels.model_name }} {{ $labels.model_version }}: "


def drift(options: RuleOptions) -> Iterator[Alert]:
    """What the model sees and says is not what it was trained on."""
    window, model = options.windows[0], ", ".join((*options.by, *MODEL))
    twice = f"{2 * seconds(options.pending)}s"
    features, outputs = f'feature!~"{_OUTPUTS}"', f'feature=~"{_OUTPUTS}"'
    yield _feature_drift(options, "ModelwatchFeatureDrift", features, options.pending)
    yield _feature_drift(options, "ModelwatchPredictionDrift", outputs, twice)
    judged = (
        # What the model makes of its features is not one more of them.
        f"modelwatch:feature_drifted:{window}{{{features}}}\n  and modelwatch:feature_rows:{window} >= "
        f"{options.alert_rows}\n  {_unless_muted(options)}"
    )
    drifted = f"count by ({model}) (\n  (({judged}) == 1){_unless_denied(options)}\n)"
    yield Alert(
        name="ModelwatchDatasetDrift",
        severity="critical",
        category="drift",
        expr=(
            f"{drifted}\n/ count by ({model}) (\n  {judged}\n) >= {_DRIFTED_SHARE:g}\n"
            f"and {drifted} >= {_DRIFTED_FEATURES}"
        ),
        wait=twice,
        summary=_WHO + "{{ $value | humanizePercentage }} of the features drifted",
        description=f"At least {_DRIFTED_FEATURES} at once: the data come from elsewhere, or something upstream broke.",
        dashboard=of("drift", *MODEL),
    )
    yield Alert(
        name="ModelwatchDetectorAlarm",
        severity="warning",
        category="drift",
        expr=f"max by ({model}, detector, signal) (\n  increase(model_detector_alarms_total[{window}])\n) > 0",
        wait="0s",
        summary=_WHO + "{{ $labels.detector }} saw a change of {{ $labels.signal }}",
        description="A change detector looks at the order of events: it is sooner than a window, and knows no cause.",
        dashboard=of("model", *MODEL),
    )


def _feature_drift(options: RuleOptions, name: str, which: str, wait: str) -> Alert:
    window, by = options.windows[0], feature_labels(options)
    psi, rows = f"modelwatch:feature_psi_smoothed:{window}", f"modelwatch:feature_rows:{window}"
    critical = f"modelwatch:feature_psi_critical:{window}"
    firing = f'ALERTS{{alertname="{name}", alertstate="firing"}}'
    return Alert(
        name=name,
        severity="warning",
        category="drift",
        expr=(
            f"(\n  {psi}{{{which}}} >= {options.psi:g}\n"
            f"or\n  {psi}{{{which}}} >= {_LEAVE * options.psi:g} and on ({', '.join(by)}) {firing}\n)\n"
            f"and {rows} >= {options.alert_rows}\nand {psi} > {critical}\n"
            f"{_unless_muted(options)}{_unless_denied(options)}"
        ),
        wait=wait,
        summary=_WHO + "{{ $labels.feature }} has drifted",
        description=(
            f"PSI {{{{ $value | printf `%.3f` }}}} over {window} and all replicas, from {asked(rows, by, '%.0f')} "
            f"rows; noise alone stays below {asked(critical, by, '%.3f')}. "
            f"It is an alert from {options.psi:g}, until below {_LEAVE * options.psi:g}."
        ),
        dashboard=of("drift", *MODEL, "feature"),
    )


def _unless_muted(options: RuleOptions) -> str:
    labels = ", ".join((*options.by, *MODEL, "feature"))
    return f"unless on ({labels}) (model_feature_alerting == 0)"


def _unless_denied(options: RuleOptions) -> str:
    """What keeps a rhythm of the day from being an alert: the replicas know how much the training data moved within it.

    If all that have a verdict say "not drifted", that is believed. A window of whole days has no such rhythm, and its
    replicas look at less than it does.
    """
    if is_long(options.windows[0]):
        return ""
    labels = ", ".join((*options.by, *MODEL, "feature"))
    return f"\nunless on ({labels}) (max by ({labels}) (model_feature_drift_detected) == 0)"


def quality(options: RuleOptions) -> Iterator[Alert]:
    """Values that are missing, unknown or unusable, and predictions that are unsure."""
    window, muted = options.windows[0], _unless_muted(options)
    by, model = (*options.by, *MODEL, "feature"), (*options.by, *MODEL)
    on_feature, rows = ", ".join(by), total(model, f"increase(model_rows_total[{window}])")
    missing = f"modelwatch:feature_missing_ratio:{window} - modelwatch:reference_missing_share:max"
    page = of("drift", *MODEL, "feature")
    yield Alert(
        name="ModelwatchMissingValues",
        severity="warning",
        category="quality",
        expr=(
            f"{missing} > {_MISSING:g}\n"
            # Not of a reference that was replaced: its rows stay in the window, and would be an alert as long.
            "and modelwatch:feature_reference_rows:max\n"
            f"unless on ({on_feature}) (max by ({on_feature}) (model_feature_captured) == 0)\n{muted}"
        ),
        wait=options.pending,
        summary=_WHO + "{{ $labels.feature }} is missing more often than in training",
        description=f"{{{{ $value | humanizePercentage }}}} of the rows over {window} more than in the reference.",
        dashboard=page,
    )
    yield from _misfits(options)
    yield Alert(
        name="ModelwatchFeatureNotCaptured",
        severity="warning",
        category="quality",
        expr=f"max by ({', '.join(by)}) (model_feature_captured) == 0\n{muted}",
        wait=options.pending,
        summary=_WHO + "{{ $labels.feature }} never arrives",
        description="The reference has it, and no request brought it: so nothing is said about it. The log says more.",
        dashboard=page,
    )
    yield Alert(
        name="ModelwatchLowConfidence",
        severity="warning",
        category="quality",
        expr=(
            f"{total(model, f'increase(model_low_confidence_total[{window}])')}\n"
            f"/ ({rows} >= {options.min_rows}) > {_LOW_CONFIDENCE:g}"
        ),
        wait=options.pending,
        summary=_WHO + "{{ $value | humanizePercentage }} of the predictions are unsure",
        description=f"Their confidence over {window} is below the threshold of the settings.",
        dashboard=of("model", *MODEL),
    )


def _misfits(options: RuleOptions) -> Iterator[Alert]:
    """Values that were counted as not fitting the reference."""
    window, by = options.windows[0], (*options.by, *MODEL, "feature")
    # Of the rows that were looked at, which are fewer than were predicted where only a sample is.
    looked_at = total(by, f"modelwatch:feature_rows:{window} + modelwatch:feature_missing:increase{window}")
    kinds = (
        ("ModelwatchUnseenCategories", "unseen_category", _UNSEEN, "has categories that training never saw"),
        ("ModelwatchUnusableValues", "type|non_finite", _UNUSABLE, "has values that are no usable numbers"),
    )
    for name, reason, limit, what in kinds:
        found = total(by, f'modelwatch:feature_violations:increase{window}{{reason=~"{reason}"}}')
        yield Alert(
            name=name,
            severity="warning",
            category="quality",
            expr=f"{found}\n/ ({looked_at} >= {options.min_rows}) > {limit:g}\n{_unless_muted(options)}",
            wait=options.pending,
            summary=f"{_WHO}{{{{ $labels.feature }}}} {what}",
            description=f"{{{{ $value | humanizePercentage }}}} of the rows over {window}.",
            dashboard=of("drift", *MODEL, "feature"),
        )


def model(options: RuleOptions) -> Iterator[Alert]:
    """The model is worse than it was, or its reference is not what it should be."""
    model = ", ".join((*options.by, *MODEL))
    accuracy = f'max by ({model}) (model_performance_score{{metric="accuracy"}})'
    labelled = f"max by ({model}) (model_performance_window_rows)"
    trained = f'max by ({model}) (model_performance_reference{{metric="accuracy"}})'
    yield Alert(
        name="ModelwatchAccuracyDrop",
        severity="critical",
        category="model",
        # The upper end of the 95 % interval of a share: chance alone is rarely as bad.
        expr=(
            f"{accuracy}\nand {accuracy} + 1.96 * sqrt({accuracy} * (1 - {accuracy}) / {labelled})\n"
            f"  < {trained} - {_ACCURACY_DROP:g}\nand {labelled} >= {_LABELLED_ROWS}"
        ),
        wait=f"{2 * seconds(options.pending)}s",
        summary=_WHO + "accuracy fell to {{ $value | humanizePercentage }}",
        description=f"By more than {_ACCURACY_DROP:g} below what it was in training, and more than by chance.",
        dashboard=of("model", *MODEL),
    )
    yield Alert(
        name="ModelwatchReferenceMissing",
        severity="info",
        category="model",
        expr=(
            f"{total((*options.by, *MODEL), 'increase(model_rows_total[15m])')} > 0\n"
            f'unless on ({model}) (model_reference_info{{source!="none"}} == 1)'
        ),
        wait="1h",  # a reference that is learnt from traffic takes this long
        summary=_WHO + "rows arrive, and there is no reference",
        description="Without one no drift can be told.",
        dashboard=of("overview", "model_name"),
    )
    yield Alert(
        name="ModelwatchReferenceMismatch",
        severity="warning",
        category="model",
        expr=f"count by ({model}) (\n  count by ({model}, reference) (model_reference_info == 1)\n) > 1",
        wait="15m",
        summary=_WHO + "replicas have {{ $value }} different references",
        description="Their bins are never added up, so each reference sees only a part of the traffic.",
        dashboard=of("drift", *MODEL),
    )
    yield Alert(
        name="ModelwatchReferenceReloadFailed",
        severity="warning",
        category="model",
        expr=f"max by ({model}) (model_reference_reload_failed) == 1",
        wait="5m",
        summary=_WHO + "the new reference could not be read",
        description="The old one is still in use. The log of the service says why.",
        dashboard=of("drift", *MODEL),
    )
