"""Live rows beside other live rows: versions beside each other, now beside an earlier time.

No training data is needed for it; it is done on the counts of the bins, which are added up only within one reference.
"""

from __future__ import annotations

from grafana_foundation_sdk.models import units

from . import frame
from .frame import Line, Row
from .panels import PSI, address
from .queries import FLEET_VERSIONS, ONE_MODEL, between, by, labelled, noise_between
from .tables import Column, distributions, table

BASELINE = frame.one(
    "baseline",
    "Baseline",
    f"label_values(model_loaded_info{{{ONE_MODEL}}}, model_version)",
    "Version that the others are compared with, in the row on roll-outs.",
)
BEFORE = frame.choice(
    "before",
    "Before",
    ("1h", "6h", "1d", "1w"),
    "How long ago that was with which now is compared. Whole days and weeks have the same hours in them.",
    chosen="1w",
)

_BINS = "modelwatch:feature_bin:increase$window"
_EACH = "model_version, reference, feature"
_SHARED = "reference, feature"
_LINK = address(
    "modelwatch-model",
    model_name="$model_name",
    baseline="$baseline",
    before="$before",
    window="$window",
    feature="${__data.fields.Feature}",
).replace("&var-", "&${model_version:queryparam}&var-", 1)
_FEATURE = Column("Feature", label="feature", link=("Look at this feature", _LINK), width=180)
_VERSION = Column("Version", label="model_version", width=90)
_OTHERS = f'{FLEET_VERSIONS}, model_version!="$baseline"'
_BASELINE = 'job=~"$job", model_name="$model_name", model_version="$baseline"'


def _psi(title: str, expr: str) -> Column:
    return Column(title, expr, unit=units.NoUnit, decimals=3, steps=PSI)


def _floor(expr: str) -> Column:
    return Column("Noise floor", expr, unit=units.NoUnit, decimals=3)


def _rows(title: str, expr: str) -> Column:
    return Column(title, expr, unit=units.LocaleFormat, decimals=0)


def _bounded(chosen: str, offset: str = "") -> str:
    """Shares of the bins of the feature chosen, labelled with their bounds."""
    counts = f'{_BINS}{{{chosen}, feature="$feature"}}{offset}'
    bounds = f'model_reference_bin_upper_bound{{{ONE_MODEL}, feature="$feature"}}'
    share = f"{by('reference, bin', counts)} / on (reference) group_left () ({by('reference', counts)} > 0)"
    return labelled(share, by("reference, bin", bounds, "max"))


_NEW = by(f"{_EACH}, bin", f"{_BINS}{{{_OTHERS}}}")
_OLD = by(f"{_SHARED}, bin", f"{_BINS}{{{_BASELINE}}}")

versions = table(
    "Each version beside $baseline: a row for each version and feature",
    "Smoothed PSI between the live rows of a version and those of the baseline in the last $window, of all replicas: "
    "do both get, and predict, the same? Not if it is large and above the noise floor. Only where both versions have "
    "the same bins: fit the new reference with `cells=` of the old one.",
    [
        _VERSION,
        _FEATURE,
        _psi("PSI", between(_NEW, _OLD, "model_version", _SHARED)),
        _floor(noise_between(_NEW, _OLD, "model_version", _SHARED)),
        _rows("Rows", by(_EACH, _NEW)),
        _rows("Rows of baseline", f"{by(_EACH, _NEW)} * 0 + on ({_SHARED}) group_left () {by(_SHARED, _OLD)}"),
    ],
    sort="PSI",
    hidden=["reference"],
    empty="nothing to compare: one version, or versions with different bins",
)
bins_of_versions = distributions(
    "$feature: $baseline beside the other versions chosen",
    "Share of the live rows in each bin in the last $window, of all replicas: blue the baseline, orange the other "
    "versions chosen, if they have the same bins. Below a bin stands its upper bound, or the category.",
    ("baseline", _bounded(_BASELINE)),
    ("other versions", _bounded(_OTHERS)),
    empty="nothing to compare: one version, or versions with different bins",
)

ROLL_OUT = Row("Roll-out: is a version like $baseline?", Line(9, (12, versions), (12, bins_of_versions)))

_NOW = by(f"{_EACH}, bin", f"{_BINS}{{{FLEET_VERSIONS}}}")
_THEN = by(f"{_EACH}, bin", f"{_BINS}{{{FLEET_VERSIONS}}} offset $before")

times = table(
    "Each feature now and $before ago: a row for each version and feature",
    "Smoothed PSI between the live rows of the last $window and those of the same time $before ago, of all replicas. A "
    "week ago the hours of the day and the days of the week are the same. Empty where the version, its reference or "
    "Prometheus is not that old.",
    [
        _VERSION,
        _FEATURE,
        _psi("PSI", between(_NOW, _THEN, "", _EACH)),
        _floor(noise_between(_NOW, _THEN, "", _EACH)),
        _rows("Rows", f"{by(_EACH, _NOW)} and on ({_EACH}) {by(_EACH, _THEN)}"),
        _rows("Rows then", by(_EACH, _THEN)),
    ],
    sort="PSI",
    hidden=["reference"],
    empty="nothing to compare: neither version nor rules are that old",
)
bins_of_times = distributions(
    "$feature: $before ago and now",
    "Share of the live rows in each bin, of all replicas and versions chosen: blue $before ago, orange now. Below a "
    "bin stands its upper bound, or the category.",
    ("before", _bounded(FLEET_VERSIONS, " offset $before")),
    ("now", _bounded(FLEET_VERSIONS)),
)

EARLIER = Row("Is now like $before ago?", Line(9, (12, times), (12, bins_of_times)))
