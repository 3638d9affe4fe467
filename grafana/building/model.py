"""Model: what it predicts, how sure it is, what has changed, and whether a new version is like the old one."""

from __future__ import annotations

from grafana_foundation_sdk.models import units

from . import comparing, frame
from .frame import Board, Line, Row
from .panels import GREEN, GREY, PSI, RED, YELLOW, Query, graph, heat, link, stat, timeline, unit_of
from .queries import (
    END,
    FLEET_VERSIONS,
    ITS_VERSIONS,
    ONE_MODEL,
    RANGE,
    WINDOW,
    busiest,
    by,
    increase,
    mean,
    rate,
    ratio,
    shares,
    since,
    sure,
)
from .tables import NO_ROWS

ROWS = rate("model_rows_total", ITS_VERSIONS)
VALUE = "model_prediction_value"
STATES = {0: ("ok", GREEN), 1: ("warning", YELLOW), 2: ("drift", RED)}
SIGNAL = "model_version, detector, signal"
VERSION = "{{model_version}}"
NO_CLASSES = "no predicted classes: a regression, or no rows"
NO_CONFIDENCE = "no confidences: the service does not return any"


def _value(share: float) -> Query:
    """A quantile of the predicted values of each version; their buckets differ, so versions are never added up."""
    some = by("model_version", f'rate({VALUE}_bucket{{{ITS_VERSIONS}, le="+Inf"}}[{WINDOW}])')
    buckets = rate(f"{VALUE}_bucket", ITS_VERSIONS, "le, model_version")
    return Query(
        f"histogram_quantile({share}, {buckets}) and on (model_version) ({some} > 0)", f"{VERSION} p{share * 100:g}"
    )


rows = stat(
    "Rows",
    "Rows that were predicted per second, over the rate interval. A batch of n counts n.",
    Query(ROWS),
    unit=units.RowsPerSecond,
)
drift_of_the_predictions = stat(
    "Drift of the predictions",
    "Smoothed PSI of the predictions against those of the reference, over the last $window of all replicas; of several "
    "versions the worst.",
    Query(f'max(modelwatch:feature_psi_smoothed:$window{{{FLEET_VERSIONS}, feature="prediction"}})'),
    unit=units.NoUnit,
    decimals=3,
    steps=PSI,
    empty="not known",
    links=[link("Drift", "modelwatch-drift", model_name="$model_name", feature="prediction")],
)
mean_confidence = stat(
    "Mean confidence",
    "Mean confidence of the predictions of all classes, over the rate interval. All versions: the metric does not tell "
    "them apart.",
    Query(mean("model_prediction_confidence", ONE_MODEL)),
    unit=units.PercentUnit,
    empty="no confidences",
)
low_confidence = stat(
    "Low confidence",
    "Share of the rows whose confidence is below the threshold of the settings, over the rate interval.",
    Query(sure(ratio(rate("model_low_confidence_total", ITS_VERSIONS), ROWS), ONE_MODEL)),
    unit=units.PercentUnit,
    steps=((0.3, YELLOW),),
    empty="no confidences",
)
data_quality = stat(
    "Data quality",
    "Share of the window's values that fit the reference: not missing, of the right type, within its range, of known "
    "categories. The worst replica and version.",
    Query(f"min(model_data_quality_score_ratio{{{ITS_VERSIONS}}})"),
    unit=unit_of("model_data_quality_score_ratio"),
    base=RED,
    steps=((0.9, YELLOW), (0.99, GREEN)),
    empty="not known",
)
alarms_of_detectors = stat(
    "Alarms of detectors",
    "Alarms of the change detectors in the time shown, over all signals and replicas.",
    Query(f"sum(increase(model_detector_alarms_total{{{ITS_VERSIONS}}}[{RANGE}]))", "", "instant"),
    unit=units.Short,
    decimals=0,
    steps=((1, YELLOW),),
    empty="no detectors",
)
predictions_against_the_reference = graph(
    "Predictions against the reference",
    "Smoothed PSI of each version's predictions, over the last $window of all replicas, and the bound that noise alone "
    "rarely exceeds (dashed): below it a PSI says nothing.",
    Query(
        by(
            "model_version",
            f'modelwatch:feature_psi_smoothed:$window{{{FLEET_VERSIONS}, feature="prediction"}}',
            "max",
        ),
        VERSION,
    ),
    Query(
        f'max(modelwatch:feature_psi_critical:$window{{{FLEET_VERSIONS}, feature="prediction"}})',
        "noise floor",
    ),
    unit=units.NoUnit,
    steps=PSI,
    colours={"noise floor": GREY},
    dashed=["noise floor"],
    decimals=3,
    empty=NO_ROWS,
)
predicted_classes = graph(
    "Predicted classes",
    "Share of the rows by predicted class, stacked, over the rate interval and all versions chosen; the ten most "
    "frequent. For a classification.",
    Query(
        shares(
            f"({busiest(10, 'model_predictions_total', ITS_VERSIONS, 'predicted_class')})",
            rate("model_predictions_total", ITS_VERSIONS),
        ),
        "{{predicted_class}}",
    ),
    unit=units.PercentUnit,
    stacked=True,
    high=1,
    empty=NO_CLASSES,
)
predicted_values = graph(
    "Predicted values",
    "A tenth, half and nine tenths of each version's predicted values are below, over the rate interval. Estimated "
    "within buckets that are quantiles of the reference. For a regression or a score.",
    *(_value(share) for share in (0.1, 0.5, 0.9)),
    unit=units.Short,
    low=None,
    empty="no predicted values: a classification, or no rows",
)

PREDICTS = Row(
    "What does it predict?",
    Line(
        4,
        (4, rows),
        (4, drift_of_the_predictions),
        (4, mean_confidence),
        (4, low_confidence),
        (4, data_quality),
        (4, alarms_of_detectors),
    ),
    Line(8, (8, predictions_against_the_reference), (8, predicted_classes), (8, predicted_values)),
)

_MOST = rate("model_prediction_confidence_count", ONE_MODEL, "predicted_class", RANGE, END)

confidence = heat(
    "Confidence",
    "Predictions by their confidence, over all classes and versions. A band that moves down is a model that grows "
    "unsure.",
    Query(
        by("le", f"increase(model_prediction_confidence_bucket{{{ONE_MODEL}}}[{WINDOW}])"),
        "{{le}}",
        "heatmap",
    ),
    unit=units.PercentUnit,
    cells=units.Short,
    empty=NO_CONFIDENCE,
)
mean_confidence_by_class = graph(
    "Mean confidence by class",
    "Mean confidence of the ten most frequently predicted classes, over the rate interval.",
    Query(
        f"{mean('model_prediction_confidence', ONE_MODEL, 'predicted_class')} and on (predicted_class) "
        f"topk(10, {_MOST})",
        "{{predicted_class}}",
    ),
    unit=units.PercentUnit,
    low=None,
    high=1,
    empty=NO_CONFIDENCE,
)
low_confidence_by_version = graph(
    "Low confidence by version",
    "Share of each version's rows whose confidence is below the threshold of the settings, over the rate interval.",
    Query(
        sure(
            ratio(
                rate("model_low_confidence_total", ITS_VERSIONS, "model_version"),
                rate("model_rows_total", ITS_VERSIONS, "model_version"),
            ),
            ONE_MODEL,
        ),
        VERSION,
    ),
    unit=units.PercentUnit,
    steps=((0.3, YELLOW),),
    empty=NO_CONFIDENCE,
)

SURE = Row(
    "How sure is it?",
    Line(8, (8, confidence), (8, mean_confidence_by_class), (8, low_confidence_by_version)),
)

detectors = timeline(
    "Detectors",
    "State of each change detector: of a signal (mean prediction, mean confidence) that is watched row by row. Of "
    "several replicas the worst.",
    Query(by(SIGNAL, f"model_detector_state{{{ITS_VERSIONS}}}", "max"), f"{VERSION} {{{{signal}}}}"),
    unit=units.NoUnit,
    words=STATES,
    empty="no detectors: no reference with predictions",
)
how_near_to_an_alarm = graph(
    "How near to an alarm",
    "Statistic of each change detector as a share of the threshold at which it alarms; after an alarm it begins anew. "
    "Of several replicas the worst.",
    Query(
        f"{by(SIGNAL, f'model_detector_statistic{{{ITS_VERSIONS}}}', 'max')} "
        f"/ ({by(SIGNAL, f'model_detector_threshold{{{ITS_VERSIONS}}}', 'max')} > 0)",
        f"{VERSION} {{{{signal}}}}",
    ),
    unit=units.PercentUnit,
    steps=((1, RED),),
    empty="no detectors: no reference with predictions",
)
alarms = graph(
    "Alarms",
    "When change detectors alarmed, by signal. An alarm stands at every point of a rate interval: bars side by side "
    "are one.",
    Query(increase("model_detector_alarms_total", ITS_VERSIONS, SIGNAL), f"{VERSION} {{{{signal}}}}"),
    unit=units.Short,
    bars=True,
    empty="no detectors: no reference with predictions",
)
last_alarm = stat(
    "Since last alarm",
    "Time since a change detector last alarmed, by version and signal.",
    Query(
        since(by(SIGNAL, f"model_detector_last_alarm_timestamp_seconds{{{ITS_VERSIONS}}}", "max")),
        f"{VERSION} {{{{signal}}}}",
        "instant",
    ),
    unit=units.Seconds,
    names=True,
    empty="no alarm",
)

CHANGED = Row(
    "Has it changed suddenly?",
    Line(7, (7, detectors), (7, how_near_to_an_alarm), (6, alarms), (4, last_alarm)),
)

_REASONS = rate("model_feature_violations_total", ITS_VERSIONS, "reason")

data_quality_by_version = graph(
    "Data quality by version",
    "Share of the values in each version's window that fit the reference. Of several replicas the worst.",
    Query(by("model_version", f"model_data_quality_score_ratio{{{ITS_VERSIONS}}}", "min"), VERSION),
    unit=unit_of("model_data_quality_score_ratio"),
    low=None,
    bottom=0.9,
    high=1,
    empty="no reference, or too few rows",
)
values_that_do_not_fit_by_reason = graph(
    "Values that do not fit, by reason",
    "Values in a row that do not fit the reference, on average, by reason, over the rate interval.",
    Query(f"{_REASONS} / on () group_left () ({ROWS} > 0)", "{{reason}}"),
    unit=units.Short,
    top=0.01,
    empty="no reference, or no rows",
)
values_that_do_not_fit_by_feature = graph(
    "Values that do not fit, by feature",
    "Share of the rows in which a feature's value does not fit the reference, the ten worst, over the rate interval. "
    "Why: on the drift dashboard.",
    Query(
        f"({busiest(10, 'model_feature_violations_total', ITS_VERSIONS, 'feature')}) "
        f"/ on () group_left () ({ROWS} > 0)",
        "{{feature}}",
    ),
    unit=units.PercentUnit,
    links=[
        link(
            "Drift of this feature",
            "modelwatch-drift",
            model_name="$model_name",
            feature="${__field.labels.feature}",
        )
    ],
    empty="no reference, or no rows",
)

QUALITY = Row(
    "Does what comes in fit?",
    Line(
        7, (8, data_quality_by_version), (8, values_that_do_not_fit_by_reason), (8, values_that_do_not_fit_by_feature)
    ),
)

BOARD = Board(
    uid="modelwatch-model",
    title="modelwatch / Model",
    about="What a model predicts, how sure it is, what has changed, and whether a new version is like the old one.",
    variables=[
        *frame.variables(models="one"),
        frame.feature(ITS_VERSIONS),
        frame.window(),
        comparing.BASELINE,
        comparing.BEFORE,
    ],
    rows=[PREDICTS, SURE, CHANGED, QUALITY, comparing.ROLL_OUT, comparing.EARLIER],
    refresh="1m",
)
