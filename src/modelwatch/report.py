"""The report: every statistic of every feature, with the rows and the noise floor beside it. It prints itself."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ._types import Flags, Floats

SEVERITIES = ("none", "minor", "moderate", "major")
REASONS = ("distribution", "missing", "other")
"""What can have changed in a feature."""


@dataclass(frozen=True, kw_only=True)
class FeatureReport:
    """One feature of a window against the reference. What is not known is None, never 0.

    Parameters
    ----------
    name, kind
        Its name, and "numeric" or "categorical".
    n, m
        Rows of window and reference that have a value.
    drifted, severity
        The verdict, and 0 none, 1 minor, 2 moderate, 3 major; None below the least number of rows.
    reasons
        What was both significant and large: "distribution", "missing", "other".
    alerting, captured
        False if muted by a FeatureRule; False if no row ever brought the feature. Then it has no verdict.
    psi, psi_smoothed, psi_debiased, psi_critical
        Population stability index in nats: raw; with half a count in every bin; that less its mean without drift; and
        the bound that `psi_smoothed` stays below without drift.
    ks_statistic, ks_pvalue, ks_error
        Kolmogorov-Smirnov, numeric features only; the true statistic is at most `ks_error` larger.
    chi_square_pvalue
        Two-sample homogeneity, categorical features only.
    js_divergence, kl_divergence, hellinger, total_variation, wasserstein
        In bits; in nats; in [0, 1]; in [0, 1]; in standard deviations of the reference.
    floor
        The least `ks_statistic` (numeric) or `total_variation` (categorical) that counts as large.
    missing_share, reference_missing_share
        Share of the rows without a value, in [0, 1].
    other_share
        Share of categories that the reference never saw, in [0, 1].
    mean, reference_mean
        Of a numeric feature, the window's with each cell at the reference's mean in it.
    """

    name: str
    kind: str
    n: int
    m: int
    drifted: bool | None = None
    severity: int | None = None
    reasons: tuple[str, ...] = ()
    alerting: bool = True
    captured: bool = True
    psi: float | None = None
    psi_smoothed: float | None = None
    psi_debiased: float | None = None
    psi_critical: float | None = None
    ks_statistic: float | None = None
    ks_pvalue: float | None = None
    ks_error: float | None = None
    chi_square_pvalue: float | None = None
    js_divergence: float | None = None
    kl_divergence: float | None = None
    hellinger: float | None = None
    total_variation: float | None = None
    wasserstein: float | None = None
    floor: float | None = None
    missing_share: float | None = None
    reference_missing_share: float | None = None
    other_share: float | None = None
    mean: float | None = None
    reference_mean: float | None = None

    @property
    def verdict(self) -> str:
        """In one word: "not captured", "muted", "waiting" (too few rows), "ok", or the severity of its drift."""
        if not self.captured:
            return "not captured"
        if not self.alerting:
            return "muted"
        if self.drifted is None:
            return "waiting"
        return SEVERITIES[self.severity or 0] if self.drifted else "ok"

    @property
    def distance(self) -> float | None:
        """What is held against `floor`: the KS statistic, or the total variation of categories."""
        return self.ks_statistic if self.kind == "numeric" else self.total_variation


@dataclass(frozen=True, kw_only=True, eq=False)
class DriftReport:
    """A window against the reference. `print(report)` is a table, worst feature first.

    Parameters
    ----------
    reference
        Id of the reference: the first 8 hex digits of the hash of its cells.
    names, kinds
        Of the features, in the order of the reference.
    columns
        The fields of FeatureReport as arrays over the features, float64, NaN where nothing is known. Read only.
    reasons
        Which of REASONS hold: bool, shape (3, features). Read only.
    rows, min_rows
        Rows in the window, and how many a feature needs before anything is said about it.
    seconds
        Age of the window's oldest row; None where there is no window (offline) or no row.
    model_name, model_version
        Of the model; empty offline.

    Notes
    -----
    Threads and processes: frozen, so any number.

    >>> import modelwatch
    >>> reference = modelwatch.ReferenceProfile.fit({"age": [31.0, 42.0, 57.0, 60.0] * 100})
    >>> report = modelwatch.compare(reference, reference.count({"age": [31.0, 42.0, 57.0, 60.0] * 50 + [99.0] * 200}))
    >>> report.drifted
    ['age']
    >>> report["age"].verdict
    'major'
    """

    reference: str
    names: tuple[str, ...]
    kinds: tuple[str, ...]
    columns: Mapping[str, Floats]
    reasons: Flags
    rows: int
    min_rows: int
    seconds: float | None = None
    model_name: str = ""
    model_version: str = ""

    @classmethod
    def unknown(cls, min_rows: int, model_name: str = "", model_version: str = "") -> DriftReport:
        """The report where there is no reference: without features."""
        reasons = np.zeros((len(REASONS), 0), dtype=bool)
        return cls(
            reference="", names=(), kinds=(), columns={}, reasons=reasons, rows=0, min_rows=min_rows,
            model_name=model_name, model_version=model_version,
        )  # fmt: skip

    @cached_property
    def features(self) -> dict[str, FeatureReport]:
        """One FeatureReport a feature, by name, in the order of the reference."""
        lists = {name: column.tolist() for name, column in self.columns.items()}
        whole = {"n", "m", "severity"}
        flags = {"drifted", "alerting", "captured"}
        found = {}
        for i, (name, kind) in enumerate(zip(self.names, self.kinds, strict=True)):
            numbers: dict[str, Any] = {}
            for column, values in lists.items():
                value = values[i]
                if math.isfinite(value):
                    numbers[column] = int(value) if column in whole else bool(value) if column in flags else value
            reasons = tuple(reason for reason, holds in zip(REASONS, self.reasons[:, i], strict=True) if holds)
            found[name] = FeatureReport(name=name, kind=kind, reasons=reasons, **numbers)
        return found

    @property
    def drifted(self) -> list[str]:
        """Names of the features that drifted, worst first."""
        return [feature.name for feature in self.worst_first() if feature.drifted]

    def __getitem__(self, name: str) -> FeatureReport:
        return self.features[name]

    def __iter__(self) -> Iterator[FeatureReport]:
        return iter(self.features.values())

    def __len__(self) -> int:
        return len(self.names)

    def worst_first(self) -> list[FeatureReport]:
        """The features by severity, then by how far they exceed their floor."""

        def badness(feature: FeatureReport) -> tuple[float, ...]:
            distance, floor = feature.distance, feature.floor
            beyond = -1.0 if distance is None or floor is None else distance / max(floor, 1e-9)
            return (-(feature.severity or 0), -bool(feature.drifted), -beyond)

        return sorted(self.features.values(), key=badness)

    def to_dict(self) -> dict[str, Any]:
        """Everything, as `json.dumps` takes it."""
        return {
            "reference": self.reference,
            "model_name": self.model_name,
            "model_version": self.model_version,
            "rows": self.rows,
            "min_rows": self.min_rows,
            "seconds": self.seconds,
            "drifted": self.drifted,
            "features": {name: {**asdict(f), "verdict": f.verdict} for name, f in self.features.items()},
        }

    def to_json(self) -> str:
        """`to_dict` as JSON text."""
        return json.dumps(self.to_dict(), allow_nan=False)

    def _headline(self) -> str:
        model = " ".join(filter(None, (self.model_name, self.model_version)))
        known = sum(feature.drifted is not None for feature in self)
        said = f"{len(self.drifted)} of {known} features drifted" if known else "nothing to say yet"
        age = "" if self.seconds is None else f" of {_duration(self.seconds)}"
        return f"{model + ': ' if model else ''}{said} ({self.rows} rows{age}, reference {self.reference})"

    def _table(self) -> tuple[list[str], list[list[str]]]:
        header = ["feature", "verdict", "psi", "smoothed", "noise", "ks/tv", "floor", "missing", "in ref.", "rows"]
        rows = []
        for f in self.worst_first():
            why = "" if f.reasons in {(), ("distribution",)} else f" ({', '.join(f.reasons)})"
            rows.append(
                [
                    f.name,
                    f.verdict + why,
                    *(_number(x) for x in (f.psi, f.psi_smoothed, f.psi_critical, f.distance, f.floor)),
                    *(_percent(x) for x in (f.missing_share, f.reference_missing_share)),
                    str(f.n),
                ]
            )
        return header, rows

    def __str__(self) -> str:
        header, rows = self._table()
        widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
        lines = [
            "  ".join(
                cell.ljust(width) if i < 2 else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in (header, *rows)
        ]
        return "\n".join([self._headline(), "", *lines])

    def _repr_html_(self) -> str:
        header, rows = self._table()
        head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
        body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in line) + "</tr>" for line in rows)
        return f"<p>{html.escape(self._headline())}</p><table><tr>{head}</tr>{body}</table>"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"


def _duration(seconds: float) -> str:
    for unit, size in (("d", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
