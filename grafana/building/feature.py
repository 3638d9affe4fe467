"""One feature: how it has moved, whether one replica differs, which values do not fit."""

from __future__ import annotations

from grafana_foundation_sdk.models import units

from .frame import Line, Row
from .panels import CURRENT, GREY, LEAST_PSI, PSI, RED, REFERENCE, YELLOW, Query, graph, heat
from .queries import END, ONE_VERSION, RANGE, by, increase, labelled, of_fleet, of_replicas, rate, ratio, worst
from .tables import NO_ROWS, Column, distributions, table

BIN = "reference, bin"
REFERENCE_SHARE = by(BIN, of_fleet("reference_bin_share:max", feature=True), "max")
IN_USE = f"and on (reference) max by (reference) ({of_replicas('model_reference_info')})"
IN_USE_AT_THE_END = f"and on (reference) max by (reference) ({of_replicas('model_reference_info')}{END})"
EXPECTED = f"({REFERENCE_SHARE} {IN_USE})"
_COUNTS = of_fleet("feature_bin:increase$window", feature=True)
_ANY = f"{by(BIN, _COUNTS)} / on (reference) group_left () ({by('reference', _COUNTS)} > 0)"
SHARE = f"({_ANY} {IN_USE})"
BOUNDS = by(BIN, of_replicas("model_reference_bin_upper_bound", feature=True), "max")
_P, _Q = f"clamp_min({SHARE}, 1e-6)", f"clamp_min({EXPECTED}, 1e-6)"

reference_and_now = distributions(
    "$feature: reference and now",
    "Share of the rows in each bin: blue in the training data, orange in the window, over all replicas. Of a number "
    "most bins hold a tenth of the training data each, so all blue bars are near 10 %. Below a bin stands its upper "
    "bound, or the category; the last bin also holds what is above its bound, the largest value of the training data. "
    "`_rare` and `_other` are the known and the unknown rest.",
    ("reference", labelled(EXPECTED, BOUNDS)),
    ("now", labelled(SHARE, BOUNDS)),
)
bin_by_bin = table(
    "$feature: bin by bin",
    "Each bin's share in the reference and in the window, on one scale, and what it adds to the (not smoothed) PSI: "
    "there the feature has moved. Shares below one in a million count as that.",
    [
        Column("Bin", label="bin", width=90),
        Column("Upper bound", BOUNDS, unit=units.Short, width=100),
        Column("Reference", EXPECTED, unit=units.PercentUnit, decimals=1, bar=REFERENCE),
        Column("Now", SHARE, unit=units.PercentUnit, decimals=1, bar=CURRENT),
        Column(
            "Adds to PSI",
            f"({_P} - {_Q}) * ln({_P} / {_Q})",
            unit=units.NoUnit,
            decimals=3,
            steps=((0.02, YELLOW), (0.1, RED)),
            width=110,
        ),
    ],
    sort="Bin",
    descending=False,
    hidden=["reference"],
    empty=NO_ROWS,
)
share_of_each_bin_over_time = heat(
    "$feature: share of each bin over time",
    "Share of the window's rows in each bin, over all replicas: how it moved, gradually or at once, and whether it "
    "comes back every day. The bins are those of the reference in use at the end.",
    Query(f"{_ANY} {IN_USE_AT_THE_END}", "{{bin}}"),
    cells=units.PercentUnit,
    empty=NO_ROWS,
)
replicas_and_fleet = graph(
    "$feature: replicas and fleet",
    "Smoothed PSI over all replicas, in the window chosen (orange), and of each replica by itself, in its own window; "
    "the eight worst. The noise floor of the fleet is dashed, that of a replica is higher. With one replica and the "
    "same window both agree.",
    Query(f"max({of_fleet('feature_psi_smoothed:$window', feature=True)})", "fleet"),
    Query(f"max({of_fleet('feature_psi_critical:$window', feature=True)})", "noise floor"),
    Query(
        worst(8, of_replicas("model_feature_drift_psi_smoothed", feature=True), "instance"),
        "{{instance}}",
    ),
    unit=units.NoUnit,
    steps=PSI,
    low=LEAST_PSI,
    log=True,
    colours={"fleet": CURRENT, "noise floor": GREY},
    thick=["fleet"],
    dashed=["noise floor"],
    empty=NO_ROWS,
)

MOVED = Row(
    "$feature: how has it moved?",
    Line(12, (12, reference_and_now), (12, bin_by_bin)),
    Line(9, (12, share_of_each_bin_over_time), (12, replicas_and_fleet)),
)

_SELECTED = f'{ONE_VERSION}, feature="$feature"'


def _outlier(window: str, at: str = "") -> str:
    """Total variation between the rows of each replica and those of all."""

    def rows(labels: str) -> str:
        return increase("model_feature_bin_total", f'{_SELECTED}, bin!="_missing"', labels, window, at)

    own = f"{rows('instance, reference, bin')} / on (instance, reference) group_left () "
    own += f"({rows('instance, reference')} > 100)"
    fleet = f"{rows('reference, bin')} / on (reference) group_left () ({rows('reference')} > 0)"
    distance = f"0.5 * sum by (instance, reference) (abs({own} - on (reference, bin) group_left () ({fleet})))"
    return by("instance", distance, "max")


_ROWS = rate("model_rows_total", ONE_VERSION)
_MISSING = rate("model_feature_bin_total", f'{_SELECTED}, bin="_missing"', "reference")
_EVERY = rate("model_feature_bin_total", _SELECTED, "reference")

replicas_that_differ_from_the_fleet = graph(
    "Replicas that differ from the fleet",
    "Total variation between the rows of each replica and those of all, over an hour; the ten that differ most in the "
    "time shown. One line above the others is a replica that gets other traffic, or reads a feature otherwise. "
    "Replicas with at most 100 rows are left out: few rows always differ.",
    Query(f"{_outlier('1h')} and on (instance) topk(10, {_outlier(RANGE, END)})", "{{instance}}"),
    unit=units.PercentUnit,
    steps=((0.1, YELLOW), (0.25, RED)),
    empty="no rows in the last hour",
)
values_that_do_not_fit_by_reason = graph(
    "Values that do not fit, by reason",
    "Share of the rows whose value of the feature does not fit the reference, by reason, over the rate interval.",
    Query(
        f"{rate('model_feature_violations_total', _SELECTED, 'reason')} / on () group_left () ({_ROWS} > 0)",
        "{{reason}}",
    ),
    unit=units.PercentUnit,
    steps=((0.05, YELLOW),),
    empty="no rows",
)
missing_values = graph(
    "Missing values",
    "Share of the rows without a value of the feature, over the rate interval (orange), in the window of the worst "
    "replica, and in the training data (blue). Missing values are in no statistic of drift; their share has a test of "
    "its own.",
    Query(by("", ratio(_MISSING, _EVERY), "max"), "now"),
    Query(f"max({of_replicas('model_feature_window_missing_ratio', feature=True)})", "window, worst replica"),
    Query(f"max({of_fleet('reference_missing_share:max', feature=True)})", "reference"),
    unit=units.PercentUnit,
    colours={"now": CURRENT, "window, worst replica": "light-orange", "reference": REFERENCE},
    empty="no rows",
)

mean_of_each_replica = graph(
    "Mean",
    "Mean of a number in each replica's window, in the feature's own unit; the ten replicas with the largest.",
    Query(worst(10, of_replicas("model_feature_window_mean", feature=True), "instance"), "{{instance}}"),
    unit=units.Short,
    low=None,
    empty="not a number, or too few rows",
)

WHY = Row(
    "$feature: is it one replica, or bad values?",
    Line(
        8,
        (6, replicas_that_differ_from_the_fleet),
        (6, values_that_do_not_fit_by_reason),
        (6, missing_values),
        (6, mean_of_each_replica),
    ),
)
