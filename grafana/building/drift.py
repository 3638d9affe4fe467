"""Drift: which features differ from the reference, since when, and how."""

from __future__ import annotations

from grafana_foundation_sdk.models import units

from . import feature, frame, replicas
from .frame import Board, Line, Row
from .panels import GREEN, GREY, LEAST_PSI, PSI, RED, YELLOW, Query, address, graph, link, stat, timeline
from .queries import ONE_VERSION, by, of_fleet, of_replicas, worst
from .tables import NO_ROWS, Column, table

SMOOTHED = of_fleet("feature_psi_smoothed:$window")
DRIFTED = of_fleet("feature_drifted:$window")
TO_FEATURE = link("Look at this feature", "modelwatch-drift", model_name="$model_name", model_version="$model_version",
                  window="$window", feature="${__field.labels.feature}")  # fmt: skip
VERDICTS = {0: ("ok", GREEN), 1: ("drifted", RED)}

drifted_features = stat(
    "Drifted features",
    "Features whose smoothed PSI in the window, over all replicas, is at least the threshold of the rules and above "
    "what noise alone gives.",
    Query(f"count({by('feature', f'{DRIFTED} == 1', 'max')}) or max({DRIFTED}) * 0"),
    unit=units.Short,
    steps=((1, YELLOW), (3, RED)),
    empty="no verdict",
)
worst_feature_and_its_psi = stat(
    "Worst feature, and its PSI",
    "The feature with the largest smoothed PSI in the window, over all replicas. People begin to look at 0.1 and to "
    "act at 0.2; below the noise floor it says nothing.",
    Query(f"topk(1, {by('feature', SMOOTHED, 'max')})", "{{feature}}", "instant"),
    unit=units.NoUnit,
    decimals=3,
    steps=PSI,
    names=True,
    empty="not known",
)
rows = stat(
    "Rows",
    "Rows in the window that have a value, over all replicas; of the feature that has most. Below the least number of "
    "the rules nothing is said.",
    Query(f"max({of_fleet('feature_rows:$window')})"),
    unit=units.LocaleFormat,
    decimals=0,
    empty="not known",
)
noise_floor = stat(
    "Noise floor",
    "The bound that the smoothed PSI of an unchanged feature exceeds in one of 1,000 windows; of the feature for which "
    "it is highest. It falls with more rows in the window and in the reference.",
    Query(f"max({of_fleet('feature_psi_critical:$window')})"),
    unit=units.NoUnit,
    decimals=3,
    base="text",
    steps=((0.1, YELLOW), (0.2, RED)),
    empty="not known",
)
with_a_verdict = stat(
    "With a verdict",
    "Features that have enough rows in the window for a verdict, prediction and confidence included.",
    Query(f"count({by('feature', DRIFTED, 'max')})"),
    unit=units.Short,
    empty="none",
)
never_arrived = stat(
    "Never arrived",
    "Features of the reference that no row has brought: a client, or the schema, does not know them. They have no "
    "verdict.",
    Query(
        f"count({by('feature', of_replicas('model_feature_captured'), 'max')} == 0) "
        f"or max({of_replicas('model_feature_captured')}) * 0"
    ),
    unit=units.Short,
    steps=((1, YELLOW),),
    empty="not known",
)
drifted_say_the_replicas = stat(
    "Drifted (replicas)",
    "Features that have drifted by the verdict of the worst replica alone: over its own window, with significance over "
    "all features and calibrated floors. It sees less than the fleet and knows more about the training data.",
    Query(f"max({of_replicas('model_drifted_features')})"),
    unit=units.Short,
    steps=((1, YELLOW), (3, RED)),
    empty="not known",
)
psi_feature_x_time = timeline(
    "PSI: feature x time",
    "Smoothed PSI of the 15 features that were worst in the time shown, over all replicas and the window that ends at "
    "each point. Green below 0.1, yellow from 0.1, red from 0.2, also below the noise floor: few rows have colours by "
    "chance. Gaps: too few rows. Click a feature to see how it has moved.",
    Query(worst(15, SMOOTHED, "feature"), "{{feature}}"),
    unit=units.NoUnit,
    steps=PSI,
    decimals=3,
    links=[TO_FEATURE],
    empty=NO_ROWS,
)
the_features_that_drift_most = graph(
    "The features that drift most",
    "Smoothed PSI of the six features that were worst in the time shown, on a logarithmic axis, and the highest "
    "noise floor (dashed): below it a PSI says nothing.",
    Query(worst(6, SMOOTHED, "feature"), "{{feature}}"),
    Query(f"max({of_fleet('feature_psi_critical:$window')})", "noise floor"),
    unit=units.NoUnit,
    steps=PSI,
    low=LEAST_PSI,
    log=True,
    colours={"noise floor": GREY},
    dashed=["noise floor"],
    links=[TO_FEATURE],
    empty=NO_ROWS,
)

VERDICT = Row(
    "Has it drifted? $model_name $model_version, last $window of all replicas",
    Line(
        4,
        (3, drifted_features),
        (6, worst_feature_and_its_psi),
        (3, rows),
        (3, noise_floor),
        (3, with_a_verdict),
        (3, never_arrived),
        (3, drifted_say_the_replicas),
    ),
    Line(10, (12, psi_feature_x_time), (12, the_features_that_drift_most)),
)


def _fleets(title: str, name: str, **looks: object) -> Column:
    return Column(title, by("feature", of_fleet(name), "max"), **looks)  # type: ignore[arg-type]


def _worst_replica(title: str, name: str, **looks: object) -> Column:
    return Column(title, by("feature", of_replicas(name), "max"), **looks)  # type: ignore[arg-type]


all_features_of = table(
    "All features of $model_name $model_version",
    "Every feature with enough rows, the largest PSI first; click one to see how it has moved. PSI is smoothed. The "
    "Kolmogorov-Smirnov distance of the fleet exists for features without a rest bin. Fleet: over all replicas and the "
    "window chosen. Replicas: what the worst replica says by itself. Rows of several jobs or references: the largest "
    "of each column.",
    [
        Column(
            "Feature",
            label="feature",
            link=(
                "Look at this feature",
                address(
                    "modelwatch-drift",
                    model_name="$model_name",
                    model_version="$model_version",
                    window="$window",
                    feature="${__data.fields.Feature}",
                ),
            ),
            width=240,
        ),
        _fleets("Fleet", "feature_drifted:$window", words=VERDICTS, width=90),
        _worst_replica("Replicas", "model_feature_drift_severity", words=replicas.SEVERITIES, width=100),
        _fleets("PSI", "feature_psi_smoothed:$window", unit=units.NoUnit, decimals=3, steps=PSI),
        _fleets("Noise floor", "feature_psi_critical:$window", unit=units.NoUnit, decimals=3),
        _fleets("KS", "feature_ks_statistic:$window", unit=units.NoUnit, decimals=3),
        _fleets("JS", "feature_js_divergence:$window", unit=units.NoUnit, decimals=3),
        _worst_replica("Floor (KS, TV)", "model_feature_drift_floor", unit=units.NoUnit, decimals=3),
        _fleets("Missing", "feature_missing_ratio:$window", unit=units.PercentUnit, decimals=1),
        _fleets("Missing (ref.)", "reference_missing_share:max", unit=units.PercentUnit, decimals=1),
        _fleets("Rows", "feature_rows:$window", unit=units.LocaleFormat, decimals=0),
        _fleets("Rows (ref.)", "feature_reference_rows:max", unit=units.LocaleFormat, decimals=0),
    ],
    sort="PSI",
    empty=NO_ROWS,
)

ALL = Row(
    "Which features?",
    Line(13, (24, all_features_of)),
)


BOARD = Board(
    uid="modelwatch-drift",
    title="modelwatch / Drift",
    about="Which features of a model differ from its training data, since when, and how.",
    variables=[*frame.variables(models="one", versions="one"), frame.feature(ONE_VERSION), frame.window()],
    rows=[VERDICT, ALL, feature.MOVED, feature.WHY, replicas.ALONE],
    refresh="1m",
)
