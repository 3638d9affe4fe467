"""What two years of `/metrics` say: which features drifted, since when, how far, how often. Pure; the demo tells it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from prometheus_client.parser import text_string_to_metric_families

from ..statistics import psi

FOUND = "temp"
"""The feature that drifts in the demo's data, beyond any doubt."""
CONTROLS = ("hour", "weekday", "workingday")
"""Those that do not: what is said of them is a false alarm."""
SEVERITIES = ("none", "minor", "moderate", "major")
GAUGES = {
    name: f"model_feature_drift_{name}" for name in ("detected", "severity", "psi", "ks_statistic", "total_variation")
}
"""What is read after each day, by short name."""


class Page:
    """One scrape of `/metrics`.

    Parameters
    ----------
    text
        In Prometheus' text format.

    Notes
    -----
    Threads and processes: not modified, so any number.

    >>> Page('model_feature_drift_psi{feature="temp"} 5.1').by("model_feature_drift_psi", "feature")
    {'temp': 5.1}
    """

    def __init__(self, text: str) -> None:
        self._samples: dict[str, list[tuple[dict[str, str], float]]] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                self._samples.setdefault(sample.name, []).append((sample.labels, float(sample.value)))

    def by(self, name: str, label: str, **others: str) -> dict[str, float]:
        """Values of a metric by the value of one label; of several samples with the same one, the sum."""
        found: dict[str, float] = {}
        for labels, value in self._samples.get(name, ()):
            if label in labels and others.items() <= labels.items():
                found[labels[label]] = found.get(labels[label], 0.0) + value
        return found

    def total(self, name: str, **labels: str) -> float:
        """The sum over all samples with these labels."""
        return sum(value for own, value in self._samples.get(name, ()) if labels.items() <= own.items())


class Reading(NamedTuple):
    """What the service said of one feature on one day. `distance`: KS statistic, or total variation of categories."""

    drifted: bool
    severity: int
    psi: float
    distance: float


class Day(NamedTuple):
    """One evaluation of all features; one of which nothing was said, for too few rows, is not among them."""

    date: str
    features: Mapping[str, Reading]


@dataclass(frozen=True)
class Finding:
    """The story of one feature. `worst`: of the days on which it had drifted the one with the largest PSI."""

    feature: str
    evaluations: int
    drifted: int
    since: str | None
    worst: Reading | None
    worst_date: str | None
    first_month_psi: float

    @property
    def often(self) -> float:
        """Share of the evaluations in which it had drifted."""
        return self.drifted / self.evaluations if self.evaluations else 0.0


def day_of(date: str, page: Page) -> Day:
    """What a page says after a day."""
    by = {name: page.by(metric, "feature") for name, metric in GAUGES.items()}
    return Day(
        date,
        {
            feature: Reading(
                drifted == 1,
                int(by["severity"].get(feature, 0)),
                by["psi"].get(feature, math.nan),
                by["ks_statistic"].get(feature, by["total_variation"].get(feature, math.nan)),
            )
            for feature, drifted in by["detected"].items()
        },
    )


def psi_between(before: Page, after: Page) -> dict[str, float]:
    """PSI of the rows that came between two scrapes, by feature: from bin counters alone, as Prometheus does it.

    A feature without a row in between is not among them.
    """
    found = {}
    for feature, rows in after.by("model_feature_reference_rows", "feature").items():
        shares = after.by("model_reference_bin_share", "bin", feature=feature)
        late = after.by("model_feature_bin_total", "bin", feature=feature)
        early = before.by("model_feature_bin_total", "bin", feature=feature)
        reference = np.array([round(share * rows) for share in shares.values()], dtype=np.int64)
        came = np.array([int(late[name] - early.get(name, 0.0)) for name in shares], dtype=np.int64)
        if came.sum() > 0:
            found[feature] = psi(reference, came)
    return found


def findings(days: Sequence[Day], first_month: Mapping[str, float]) -> list[Finding]:
    """The story of every feature, most often drifted first."""
    names = dict.fromkeys(name for day in days for name in day.features)
    found = [_finding(name, days, first_month.get(name, math.nan)) for name in names]
    return sorted(found, key=lambda finding: (-finding.often, -(finding.worst.psi if finding.worst else 0.0)))


def _finding(name: str, days: Sequence[Day], first_month_psi: float) -> Finding:
    said = [(day.date, day.features[name]) for day in days if name in day.features]
    drifted = [(date, reading) for date, reading in said if reading.drifted]
    worst_date, worst = max(drifted, key=lambda pair: pair[1].psi, default=(None, None))
    since = drifted[0][0] if drifted else None
    return Finding(name, len(said), len(drifted), since, worst, worst_date, first_month_psi)


def objections(found: Sequence[Finding]) -> list[str]:
    """What is not as the data are: sentences; none if the story holds."""
    by_name = {finding.feature: finding for finding in found}
    said = [f"Nothing was said of {name}." for name in (FOUND, *CONTROLS) if name not in by_name]
    if FOUND in by_name and not by_name[FOUND].drifted:
        said.append(f"{FOUND} drifts in these data, and was not found in {by_name[FOUND].evaluations} evaluations.")
    for name in CONTROLS:
        if name in by_name and by_name[name].drifted:
            finding = by_name[name]
            said.append(f"{name} does not drift in these data, and was reported on {finding.drifted} days.")
    return said


def quantile(share: float, page: Page, name: str) -> float:
    """A quantile of a histogram in seconds, as PromQL's histogram_quantile has it; NaN without an observation."""
    buckets = sorted((float(bound), count) for bound, count in page.by(f"{name}_bucket", "le").items())
    if not buckets or buckets[-1][1] == 0:
        return math.nan
    rank = share * buckets[-1][1]
    lower, below = 0.0, 0.0
    for bound, count in buckets:
        if count >= rank:
            inside = (rank - below) / (count - below) if count > below else 1.0
            return lower if math.isinf(bound) else lower + (bound - lower) * inside
        lower, below = bound, count
    return lower
