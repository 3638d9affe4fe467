"""The reference: the training data as counts over cells, frozen. The raw rows are not kept."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, Self

import numpy as np

from ._types import Counts, Floats
from .calibration import FloorTable
from .cells import NumericCells
from .exceptions import CellsError, ConfigurationError, ReferenceFileError, TableError
from .feature import Feature, fit_cells, fit_feature, from_file, refuse_ids, to_dict
from .layout import Layout, points_of
from .schema import parse
from .tables import check_names, check_texts, column_names, column_of, order_of, rows_of, values_of

PREDICTION, CONFIDENCE = "prediction", "confidence"
"""The names under which the prediction and the confidence are two more features."""
_MOST_FEATURES = 2_000
_MOST_CATEGORIES = 1_000  # of a feature with a bin each


class Profile:
    """The frozen profile of the training data: per feature its cells and counts. See `ReferenceProfile`, its subclass.

    Parameters
    ----------
    features
        In order; those called `prediction` and `confidence`, if any, at the end.
    rows
        Rows of the training data.
    target, time
        Names of the columns of labels and of times, if any.

    Notes
    -----
    Threads: any number; never modified. Processes: picklable; JSON is how a profile travels.
    """

    def __init__(
        self, features: Iterable[Feature], rows: int, target: str | None = None, time: str | None = None
    ) -> None:
        self.features = tuple(features)
        self.rows = rows
        self.target, self.time = target, time
        self.layout = Layout([feature.cells for feature in self.features])

    @classmethod
    def fit(
        cls,
        table: Any,
        *,
        features: Sequence[str] | None = None,
        categorical: Sequence[str] | None = None,
        prediction: str | None = None,
        confidence: str | None = None,
        target: str | None = None,
        time: str | None = None,
        hash_categories: Sequence[str] = (),
        min_category_rows: int = 10,
        max_categories: int = 50,
        cells: Profile | None = None,
    ) -> Self:
        """Profile a table: a dict of arrays, or anything with .columns and [name]: pandas, polars, pyarrow.

        Parameters
        ----------
        table
            At least one row. Not modified, not kept.
        features
            Columns to profile; by default all that are not named below.
        categorical
            Columns that hold categories whatever their dtype; by default text, booleans and categories do.
        prediction, confidence
            Columns of what a model returned for these rows: they become two more features.
        target
            Column of the true values; it is not profiled.
        time
            Column that orders the rows, by default as they come; for the calibrated floors. With
            `Settings(event_time=True)` the field of that name is the time of a live row.
        hash_categories
            Columns whose categories' names must not appear in the file, in labels or on pages.
        min_category_rows, max_categories
            Categories with fewer rows, or beyond that many, share the bin `_rare`.
        cells
            Profile whose cells to reuse, so that the two can be added.

        Raises
        ------
        TableError
            A column is missing, empty, holds lists or times, looks like an id, or has a reserved name.
        ConfigurationError
            A limit of the categories is out of its range.

        >>> import modelwatch
        >>> profile = modelwatch.ReferenceProfile.fit({"age": [31.0, 42.0, 57.0] * 100, "plan": ["a", "b", "a"] * 100})
        >>> profile.rows, profile.names
        (300, ('age', 'plan'))
        """
        _check_limits(min_category_rows, max_categories)
        there = column_names(table)
        named = {"prediction": prediction, "confidence": confidence, "target": target, "time": time}
        check_names(there, [*named.values(), *(features or ()), *(categorical or ()), *hash_categories])
        chosen = list(features) if features is not None else [c for c in there if c not in named.values()]
        columns = {name: name for name in chosen} | _specials(chosen, prediction, confidence)
        check_texts(name for name in (*columns.values(), target, time) if name is not None)
        if not columns:
            raise TableError("Expected at least one feature, got none. Name some with `features=`.")
        if len(columns) > _MOST_FEATURES:
            raise TableError(
                f"Expected at most {_MOST_FEATURES} features, got {len(columns)}. Choose with `features=`."
            )
        rows = rows_of(table, list(columns.values()))
        if not rows:
            raise TableError("Expected at least one row, got none. Give the training data.")
        order = None if time is None else order_of(table, time, rows)
        fitted = []
        for name, column in columns.items():
            data = column_of(table, column)
            if categorical is not None and column in categorical:
                data = data._replace(kind="categorical")
            hashed = column in hash_categories
            if cells is not None:
                own = cells.feature(name).cells
            else:
                if features is None and name == column:
                    refuse_ids(name, data, rows)
                own = fit_cells(name, data, min_category_rows, max_categories, hashed=hashed)
            fitted.append(fit_feature(name, column, data, own, order))
        return cls(fitted, rows, target, time)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all features, in order, the prediction and the confidence included."""
        return tuple(feature.name for feature in self.features)

    @cached_property
    def inputs(self) -> tuple[str, ...]:
        """Names of the features that come in: without prediction and confidence."""
        return tuple(name for name in self.names if name not in {PREDICTION, CONFIDENCE})

    @cached_property
    def counts(self) -> Counts:
        """Counts of the reference itself, flat: int64, shape (cells,). Read only."""
        counts = np.concatenate([feature.counts for feature in self.features])
        counts.setflags(write=False)
        return counts

    @cached_property
    def binned(self) -> Counts:
        """Counts of the reference per bin, flat. Read only."""
        return self.layout.binned(self.counts)

    @cached_property
    def in_order(self) -> Counts:
        """Counts of the numeric features' value cells, end to end. Read only."""
        counts: Counts = self.layout.in_order(self.counts)
        return counts

    @cached_property
    def rows_of_features(self) -> Counts:
        """Rows that were counted per feature, shape (features,): 0 for one that no merged table had. Read only."""
        return np.array([int(feature.counts.sum()) for feature in self.features], dtype=np.int64)

    @cached_property
    def value_rows(self) -> Counts:
        """Rows that have a value per feature, the m of the statistics, shape (features,). Read only."""
        return self.rows_of_features - self.layout.missing_rows(self.counts)

    def floors_at(self, rows: Counts) -> tuple[Floats, Floats]:
        """Calibrated floors of distance and missing share for each feature's `rows`, shape (features,), new."""
        return self._floors.at(rows)

    @cached_property
    def _floors(self) -> FloorTable:
        return FloorTable([feature.floors for feature in self.features])

    @cached_property
    def ks_error(self) -> Floats:
        """What each numeric feature's KS may be too small by: the largest share of a cell that is no point."""
        shares = []
        for i in self.layout.numeric.tolist():
            cells, counts = self.features[i].cells, self.features[i].counts
            wide = np.where(cells.points, 0, counts[: cells.values]) if isinstance(cells, NumericCells) else counts
            shares.append(float(wide.max()) / max(float(self.value_rows[i]), 1.0))
        return np.array(shares)

    @cached_property
    def points(self) -> Floats:
        """The value at which each numeric value cell stands, end to end. Read only."""
        return points_of(self.layout, [feature.means for feature in self.features])

    @cached_property
    def hash(self) -> str:
        """SHA-256 of the cells, in hex. Counts over cells of the same hash may be added."""
        cells = [[f.name, f.cells.kind, f.cells.to_dict(), list(f.cells.bins)] for f in self.features]
        return hashlib.sha256(_canonical(cells).encode()).hexdigest()

    @property
    def id(self) -> str:
        """The first 8 digits of `hash`: the label `reference`."""
        return self.hash[:8]

    def feature(self, name: str) -> Feature:
        """The feature of that name. Raises CellsError, with the nearest name, if there is none."""
        for feature in self.features:
            if feature.name == name:
                return feature
        raise CellsError(f"Expected the profile to have a feature {name!r}, got {list(self.names)}.{_near(name, self)}")

    def count(self, table: Any) -> Counts:
        """Counts of a table's rows over this profile's cells: int64, flat, new; vectors of many tables may be added.

        Columns that the profile does not know are left alone; those of the prediction and the confidence may be absent.

        Raises
        ------
        TableError
            A feature's column is missing, or the columns are not of one length.

        >>> import modelwatch
        >>> profile = modelwatch.ReferenceProfile.fit({"age": [31.0, 42.0, 57.0] * 100})
        >>> profile.count({"age": [31.0, None, 1e9]}).sum()
        np.int64(3)
        """
        there = column_names(table)
        needed = [f.column for f in self.features if f.name in self.inputs]
        check_names(there, needed)
        columns = [f.column if f.column in there else None for f in self.features]
        rows_of(table, [column for column in columns if column is not None])
        values = [None if column is None else values_of(table, column) for column in columns]
        return self.layout.tally_columns(values)

    @classmethod
    def from_counts(cls, profile: Profile, counts: Counts) -> Self:
        """A profile with the cells of `profile` and other counts, of which each feature has as many rows. Copied.

        The mean of each cell stays what it was; so do the calibrated floors, for counts have no order of time.
        """
        features = []
        for feature, own in zip(profile.features, profile.layout.slices(), strict=True):
            values = counts[own][: feature.cells.values].astype(np.float64)
            mean, sd = np.nan, np.nan
            if isinstance(feature.cells, NumericCells) and values.sum() > 0:
                points = feature.cells.means(feature.means)
                with np.errstate(over="ignore", invalid="ignore"):
                    mean = float(values @ points / values.sum())
                    sd = float(np.sqrt(values @ (points - mean) ** 2 / values.sum()))
                mean, sd = (x if np.isfinite(x) else np.nan for x in (mean, sd))
            features.append(replace(feature, counts=counts[own].copy(), mean=mean, sd=sd))
        return cls(features, int(counts[profile.layout.slices()[0]].sum()), profile.target, profile.time)

    def __add__(self, other: Profile) -> Self:
        if not isinstance(other, Profile):
            return NotImplemented
        if self.hash != other.hash:
            raise CellsError(
                f"Expected two profiles with the same cells, got {self.id} and {other.id}. "
                "Fit the second with `cells=first`."
            )
        features = [a.merged(b) for a, b in zip(self.features, other.features, strict=True)]
        target = self.target if self.target == other.target else None
        time = self.time if self.time == other.time else None
        return type(self)(features, self.rows + other.rows, target, time)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Profile) and self.to_json() == other.to_json()

    def __hash__(self) -> int:
        return hash(self.hash)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id}: {len(self.features)} features, {self.rows} rows>"

    def to_json(self) -> str:
        """The profile as JSON text, read by `from_json`. The same profile gives the same text."""
        content = {
            "format": "modelwatch reference",
            "version": 1,
            "rows": self.rows,
            "target": self.target,
            "time": self.time,
            "features": [to_dict(feature) for feature in self.features],
        }
        return _canonical({**content, "checksum": hashlib.sha256(_canonical(content).encode()).hexdigest()})

    @classmethod
    def from_json(cls, text: str | bytes, source: str = "the text") -> Self:
        """The profile that `to_json` wrote. `source` names it in errors.

        Raises
        ------
        ReferenceFileError
            The text is no reference, is damaged, or of another version; the message names source, field and remedy.
        """
        file = parse(text, source)
        content = file.model_dump(by_alias=True, exclude={"checksum"})
        if hashlib.sha256(_canonical(content).encode()).hexdigest() != file.checksum:
            raise ReferenceFileError(
                f"Expected {source} to be as `save` wrote it, but its field `checksum` does not fit its content: "
                "it was edited or damaged. Write it again from the training data."
            )
        return cls([from_file(feature) for feature in file.features], file.rows, file.target, file.time)


def _canonical(content: Any) -> str:
    return json.dumps(content, separators=(",", ":"), allow_nan=False, ensure_ascii=True)


def _near(name: str, profile: Profile) -> str:
    near = difflib.get_close_matches(name, profile.names, n=1)
    return f" Did you mean {near[0]!r}?" if near else ""


def _check_limits(min_category_rows: int, max_categories: int) -> None:
    if min_category_rows < 1:
        raise ConfigurationError(f"Expected min_category_rows of at least 1, got {min_category_rows!r}. Use 10.")
    if not 0 <= max_categories <= _MOST_CATEGORIES:
        raise ConfigurationError(
            f"Expected max_categories between 0 and {_MOST_CATEGORIES}, got {max_categories!r}. Use 50 if in doubt."
        )


def _specials(chosen: list[str], prediction: str | None, confidence: str | None) -> dict[str, str]:
    for name in (PREDICTION, CONFIDENCE):
        if name in chosen:
            raise TableError(
                f"Expected no feature to be called {name!r}, which is what the model returns. "
                f"Pass it as `{name}={name!r}`, or rename the column."
            )
    given = {PREDICTION: prediction, CONFIDENCE: confidence}
    return {name: column for name, column in given.items() if column is not None}
