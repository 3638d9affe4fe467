"""Backtesting: how often the verdict would have alarmed, had it watched a table of the past.

::

    table ── seconds_of ──► rows in the order of time ── spans ──► first and last row of each window
      └──── layout.index ──► cells of each row, once ── contents ──► counts of each window ── compare ──► Backtest
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ._types import Floats
from .aligned import aligned
from .exceptions import TableError
from .reference import Profile
from .report import REASONS, DriftReport
from .spans import PARTS, contents, spans_of_rows, spans_of_time
from .tables import check_names, column_names, column_of, rows_of
from .times import seconds_of
from .verdict import compare

DAY = 86_400.0
_FIRST, _LAST = -62_135_596_800.0, 253_402_300_799.0  # what a calendar shows: the years 1 to 9999


@dataclass(frozen=True, kw_only=True)
class Worst:
    """The window in which a feature was at its worst: first by severity, then by how far it exceeded its floor."""

    at: float
    distance: float | None
    floor: float
    psi_smoothed: float | None


@dataclass(frozen=True, kw_only=True)
class FeatureBacktest:
    """How one feature fared.

    Parameters
    ----------
    name, kind
        Its name, and "numeric" or "categorical".
    evaluations, alarms
        Windows in which it had a verdict, and those in which it drifted.
    first
        When it first drifted, in seconds since 1970; None if it never did.
    reasons
        Alarms by what had changed: "distribution", "missing", "other".
    worst
        None if it never had a verdict.
    """

    name: str
    kind: str
    evaluations: int
    alarms: int
    first: float | None
    reasons: dict[str, int]
    worst: Worst | None

    @property
    def share(self) -> float | None:
        """Share of its evaluations that were alarms; None without any."""
        return self.alarms / self.evaluations if self.evaluations else None


@dataclass(frozen=True, kw_only=True)
class Backtest:
    """How often, and for which feature, the verdict would have alarmed. `print` shows a table, most alarms first.

    Parameters
    ----------
    reference
        Id of the reference.
    rows, untimed
        Rows that were watched, and those left out because their time could not be read.
    begin, end
        Times of the first and the last row, in seconds since 1970.
    windows, evaluations, alarms
        Windows in all, those with enough rows for a verdict on any feature, and those in which any feature drifted.
    min_rows
        Rows below which nothing is said of a feature.
    features
        One entry for each feature, in the order of the reference.
    """

    reference: str
    rows: int
    untimed: int
    begin: float
    end: float
    windows: int
    evaluations: int
    alarms: int
    min_rows: int
    features: tuple[FeatureBacktest, ...]

    @property
    def too_few(self) -> int:
        """Windows that had too few rows for any verdict."""
        return self.windows - self.evaluations

    def __getitem__(self, name: str) -> FeatureBacktest:
        return next(feature for feature in self.features if feature.name == name)

    def to_dict(self) -> dict[str, Any]:
        """Everything, as `json.dumps` takes it; times as ISO 8601 text, in UTC if they had a zone."""
        features = {}
        for feature in self.features:
            content = {**asdict(feature), "share": feature.share, "first": _iso(feature.first)}
            if feature.worst is not None:
                content["worst"] = {**asdict(feature.worst), "at": _iso(feature.worst.at)}
            features[feature.name] = content
        own = {name: getattr(self, name) for name in ("reference", "rows", "untimed", "windows", "evaluations")}
        return {
            **own,
            "begin": _iso(self.begin),
            "end": _iso(self.end),
            "too_few": self.too_few,
            "alarms": self.alarms,
            "min_rows": self.min_rows,
            "features": features,
        }

    def to_json(self) -> str:
        """`to_dict` as JSON text."""
        return json.dumps(self.to_dict(), allow_nan=False)

    def _headline(self) -> str:
        untimed = f", {self.untimed} more have no time" if self.untimed else ""
        share = f" ({self.alarms / self.evaluations:.1%})" if self.evaluations else ""
        few = f"; {self.too_few} had too few rows (below {self.min_rows})" if self.too_few else ""
        return (
            f"{self.rows} rows from {_day(self.begin)} to {_day(self.end)}{untimed}; reference {self.reference}\n"
            f"{self.alarms} of {self.evaluations} windows alarmed{share}{few}"
        )

    def __str__(self) -> str:
        lines = [["feature", "changed", "alarms", "share", "first alarm", "worst", "ks/tv", "floor", "psi"]]
        for f in sorted(self.features, key=lambda feature: (-feature.alarms, -_beyond(feature.worst))):
            found = [reason for reason in REASONS if f.reasons[reason]]
            shown = [_text(f.share, ".1%"), "" if f.first is None else _day(f.first)]
            if f.worst is None:
                shown += [""] * 4
            else:
                shown.append(_day(f.worst.at))
                shown += [_text(x, ".3f") for x in (f.worst.distance, f.worst.floor, f.worst.psi_smoothed)]
            lines.append([f.name, ", ".join(found), f"{f.alarms}/{f.evaluations}", *shown])
        return f"{self._headline()}\n\n{aligned(lines, left=2)}"


def backtest(
    reference: Profile,
    table: Any,
    *,
    time: str,
    window_seconds: float = 7 * DAY,
    window_rows: int | None = None,
    step_seconds: float | None = None,
    step_rows: int | None = None,
    alpha: float = 0.001,
    floor: float = 0.05,
    share_floor: float = 0.01,
    min_rows: int = 200,
) -> Backtest:
    """Slide a window over a table in the order of time, and ask for the verdict at each step.

    Parameters
    ----------
    reference
        What the windows are compared with.
    table
        As for `ReferenceProfile.count`. Not modified, not kept.
    time
        Column of times: seconds since 1970, datetimes or ISO 8601 text.
    window_seconds, window_rows
        Length of the window; or its number of rows, and then not a length.
    step_seconds, step_rows
        What it moves on by, the latter with `window_rows` only; by default a seventh of the window.
    alpha, floor, share_floor, min_rows
        As for `compare`.

    Raises
    ------
    TableError
        A column is missing, no time can be read, or there would be too many windows.

    >>> reference = Profile.fit({"age": [31.0, 42.0, 57.0, 60.0] * 100})
    >>> table = {"age": [31.0, 42.0, 57.0, 60.0] * 200 + [60.0] * 800, "second": list(range(1600))}
    >>> found = backtest(reference, table, time="second", window_seconds=400, step_seconds=400)
    >>> found.windows, found["age"].alarms, found["age"].first
    (4, 2, 1200.0)
    """
    times, order, untimed = _in_order(table, time)
    cells = _cells(reference, table, time)[order]
    if window_rows is None:
        spans = spans_of_time(times, window_seconds, step_seconds or window_seconds / PARTS)
    else:
        spans = spans_of_rows(times, window_rows, step_rows=step_rows, step=step_seconds)
    history = _History(reference)
    counted = contents(cells, reference.layout.size, spans)
    for at, counts, rows in zip(spans.at.tolist(), counted, (spans.ends - spans.begins).tolist(), strict=True):
        if rows >= min_rows:  # else nothing would be said of any feature
            report = compare(
                reference, counts, alpha=alpha, floor=floor, share_floor=share_floor, min_rows=min_rows, rows=rows
            )
            history.add(at, report)
    return history.result(times, untimed, len(spans.at), min_rows)


class _History:
    """What the reports so far said of each feature, as arrays over the features."""

    def __init__(self, reference: Profile) -> None:
        self._reference = reference
        size = len(reference.names)
        self._windows = self._alarming = 0
        self._evaluations = np.zeros(size, dtype=np.int64)
        self._reasons = np.zeros((len(REASONS), size), dtype=np.int64)
        self._alarms = np.zeros(size, dtype=np.int64)
        self._first = np.full(size, np.nan)
        self._badness = np.full(size, -np.inf)
        self._worst = np.full((4, size), np.nan)  # as the fields of Worst

    def add(self, at: float, report: DriftReport) -> None:
        """Take the report of the window at `at`."""
        columns = report.columns
        known = ~np.isnan(columns["drifted"])
        drifted = known & (columns["drifted"] > 0)
        self._windows += bool(known.any())
        self._alarming += bool(drifted.any())
        self._evaluations += known
        self._alarms += drifted
        self._reasons += drifted & report.reasons
        self._first = np.where(drifted & np.isnan(self._first), at, self._first)
        numeric = np.array([kind == "numeric" for kind in report.kinds])
        distance = np.where(numeric, columns["ks_statistic"], columns["total_variation"])
        beyond = np.nan_to_num(distance / np.maximum(columns["floor"], 1e-9))
        # No distance exceeds a floor a million times without being capped: severity always comes first.
        badness = np.where(known, 1e6 * np.nan_to_num(columns["severity"]) + np.minimum(beyond, 1e5), -np.inf)
        worse = badness > self._badness
        self._badness = np.maximum(badness, self._badness)
        now = [np.full(len(known), at), distance, columns["floor"], columns["psi_smoothed"]]
        self._worst = np.where(worse, np.stack(now), self._worst)

    def result(self, times: Floats, untimed: int, windows: int, min_rows: int) -> Backtest:
        """All of it; what it does not know itself is given."""
        return Backtest(
            reference=self._reference.id,
            rows=len(times),
            untimed=untimed,
            begin=float(times[0]),
            end=float(times[-1]),
            windows=windows,
            evaluations=self._windows,
            alarms=self._alarming,
            min_rows=min_rows,
            features=self._features(),
        )

    def _features(self) -> tuple[FeatureBacktest, ...]:
        found = []
        for i, feature in enumerate(self._reference.features):
            at, distance, floor, psi = self._worst[:, i].tolist()
            found.append(
                FeatureBacktest(
                    name=feature.name,
                    kind=feature.cells.kind,
                    evaluations=int(self._evaluations[i]),
                    alarms=int(self._alarms[i]),
                    first=_known(self._first[i]),
                    reasons=dict(zip(REASONS, self._reasons[:, i].tolist(), strict=True)),
                    worst=None
                    if np.isnan(at)
                    else Worst(at=at, distance=_known(distance), floor=floor, psi_smoothed=_known(psi)),
                )
            )
        return tuple(found)


def _in_order(table: Any, time: str) -> tuple[Floats, npt.NDArray[np.intp], int]:
    """Rising times of the rows that have one, the numbers of these rows, and how many have none."""
    check_names(column_names(table), [time])
    raw = table[time]
    times = seconds_of(raw.to_numpy() if hasattr(raw, "to_numpy") else raw, default=np.nan)
    timed = np.flatnonzero((times >= _FIRST) & (times <= _LAST))
    if not timed.size:
        came = "no rows" if not len(times) else f"{raw[0]!r:.60} in the first row"
        raise TableError(
            f"Expected times in column {time!r}, as ISO 8601 text or in seconds since 1970, got {came}. "
            "Name another column, or convert it."
        )
    order = timed[np.argsort(times[timed], kind="stable")]
    return times[order], order, len(times) - timed.size


def _cells(reference: Profile, table: Any, time: str) -> npt.NDArray[np.uint32]:
    """Flat cell of each feature of each row, those left out whose column may be absent and is: (rows, features)."""
    there = column_names(table)
    check_names(there, [feature.column for feature in reference.features if feature.name in reference.inputs])
    columns = [feature.column if feature.column in there else None for feature in reference.features]
    rows = rows_of(table, [time, *(column for column in columns if column is not None)])
    values = [None if column is None else column_of(table, column).values for column in columns]
    indices: Sequence[npt.NDArray[np.intp]] = [i for i in reference.layout.index(values) if i is not None]
    cells = np.empty((rows, len(indices)), dtype=np.uint32)
    for at, index in enumerate(indices):
        cells[:, at] = index
    return cells


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _beyond(worst: Worst | None) -> float:
    return -1.0 if worst is None or worst.distance is None else worst.distance / max(worst.floor, 1e-9)


def _text(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _moment(seconds: float) -> datetime.datetime:
    return datetime.datetime(1970, 1, 1) + datetime.timedelta(seconds=min(seconds, _LAST))


def _iso(seconds: float | None) -> str | None:
    return None if seconds is None else _moment(seconds).isoformat()


def _day(seconds: float) -> str:
    """The day, and the minute where it is no midnight."""
    return _moment(seconds).isoformat(" ", "minutes").removesuffix(" 00:00")
