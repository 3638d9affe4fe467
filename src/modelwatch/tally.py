"""Integers about rows: how many, which classes, which values, how sure. Written at the fold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ._types import ABSENT, Floats
from .cells import CategoricalCells, NumericCells
from .reference import PREDICTION, Profile
from .series import Series, add, observe
from .settings import Settings
from .values import category, hidden

OUTCOMES = ("recorded", "sampled_out", "ignored", "late", "learning", "dropped")
"""Where a row ended; the values of the label `outcome`."""
NO_CLASS = "_none"
EVALUATION = "model_drift_evaluation_duration_seconds"
_NUMBERS = {float, int, bool, type(None), np.float64, np.float32}

Column = npt.NDArray[Any] | Sequence[Any]


class Tally:
    """Counts the rows of one model into the series.

    Parameters
    ----------
    series
        Where to. Kept.
    model_name
        Of the model.
    settings
        `task`, `low_confidence`, `max_classes`.
    bounds
        Bucket bounds by name of a histogram; what has none is not counted.

    Notes
    -----
    Threads: one at a time; the caller holds a lock. Processes: each has its own.
    """

    def __init__(
        self, series: Series, model_name: str, settings: Settings, bounds: Mapping[str, tuple[float, ...]]
    ) -> None:
        self._series = series
        self._model = model_name
        self._settings = settings
        self._bounds = bounds
        self._classes: tuple[str, ...] = ()
        self._value_bounds: tuple[float, ...] = ()
        self._bounds_of: dict[str, tuple[float, ...]] = {}  # by version; they stay, whatever is loaded later
        self._hashed = False
        self._task = settings.task
        self._outcomes = {o: series.counter("modelwatch_rows_total", (o,)) for o in OUTCOMES}

    def adopt(self, profile: Profile) -> None:
        """Take classes, task and bounds of the prediction's values from a reference."""
        self._task, self._classes, self._value_bounds, self._hashed = self._settings.task, (), (), False
        if PREDICTION not in profile.names:
            return
        cells = profile.feature(PREDICTION).cells
        if isinstance(cells, CategoricalCells):
            self._task = self._settings.task or "classification"
            self._classes, self._hashed = cells.categories, cells.hashed
        elif isinstance(cells, NumericCells):
            self._task = self._settings.task or "regression"
            if cells.edges is not None:
                self._value_bounds = tuple(cells.edges.tolist())
            else:
                self._value_bounds = tuple(cells.bounds[:-1].tolist())

    def announce(self, version: str) -> None:
        """Make the series that every scrape shows from the start, at 0."""
        model = (self._model, version)
        self._series.counter("model_rows_total", model)
        self._series.counter("model_low_confidence_total", model)
        for name in self._classes[: self._settings.max_classes]:
            self._class_place(version, name)

    def evaluated(self, version: str, seconds: float, when: float) -> None:
        """Count a comparison of window and reference."""
        series, model = self._series, (self._model, version)
        bounds = self._bounds.get(EVALUATION)
        if bounds:
            observe(series.values, series.histogram(EVALUATION, model, bounds), bounds, seconds)
        series.values[series.counter("model_drift_last_evaluation_timestamp_seconds", model)] = when

    def count(self, outcome: str, rows: int) -> None:
        """Count rows by where they ended."""
        self._series.values[self._outcomes[outcome]] += rows

    def rows(self, version: str, size: int, predictions: Column | None, confidences: Floats | None) -> None:
        """Count `size` rows of a model version; `predictions` and `confidences` have shape (rows,) or are None."""
        values = self._series.values
        values[self._series.counter("model_rows_total", (self._model, version))] += size
        classes: list[str] | None = None
        if predictions is not None:
            task = self._task or _task_of(predictions)
            if task == "classification":
                classes = self._classes_of(predictions)
                for name, rows in Counter(classes).items():
                    if name != NO_CLASS:
                        values[self._class_place(version, name)] += rows
            elif task == "regression":
                self._values(version, numbers(predictions))
        if confidences is not None:
            # Others are none: a negative one would make the sum of a histogram fall, as if the service had begun anew.
            confidences = np.where((confidences >= 0) & (confidences <= 1), confidences, np.nan)
            low = int((confidences < self._settings.low_confidence).sum())
            values[self._series.counter("model_low_confidence_total", (self._model, version))] += low
            self._confidences(classes, confidences)

    def _classes_of(self, predictions: Column) -> list[str]:
        texts = map(category, _list(predictions))
        return [NO_CLASS if text is None else hidden(text) if self._hashed else text for text in texts]

    def _class_place(self, version: str, name: str) -> int:
        return self._series.counter(
            "model_predictions_total", (self._model, version, name), most=self._settings.max_classes
        )

    def _values(self, version: str, predictions: Floats) -> None:
        bounds = self._bounds_of.setdefault(version, self._bounds.get("model_prediction_value") or self._value_bounds)
        if bounds:
            self._observe("model_prediction_value", (self._model, version), bounds, predictions, None)

    def _confidences(self, classes: list[str] | None, confidences: Floats) -> None:
        bounds = self._bounds.get("model_prediction_confidence")
        if not bounds:
            return
        most = self._settings.max_classes
        if classes is None:
            self._observe("model_prediction_confidence", (self._model, NO_CLASS), bounds, confidences, most)
            return
        of_class = np.array(classes)
        for name in dict.fromkeys(classes):
            own = confidences[of_class == name]
            self._observe("model_prediction_confidence", (self._model, name), bounds, own, most)

    def _observe(
        self, metric: str, labels: tuple[str, ...], bounds: tuple[float, ...], numbers: Floats, most: int | None
    ) -> None:
        place = self._series.histogram(metric, labels, bounds, most)
        values = self._series.values
        finite = numbers[np.isfinite(numbers)]  # one NaN would stay in the sum for ever
        for bucket, rows in Counter(np.searchsorted(bounds, finite).tolist()).items():
            values[place + bucket] += rows
        with np.errstate(over="ignore"):
            add(values, place + len(bounds) + 1, float(finite.sum()))


def numbers(column: Column) -> Floats:
    """A column as float64, NaN where it holds no number, shape (rows,), new."""
    if isinstance(column, np.ndarray) and column.dtype.kind in "fiub":
        return column.astype(np.float64)
    if _NUMBERS.issuperset(map(type, column)):
        try:
            return np.array(column, dtype=np.float64)
        except OverflowError:
            pass  # 10**400: one by one
    found = np.full(len(column), np.nan)
    for i, value in enumerate(column):
        try:
            found[i] = np.nan if value is None or value is ABSENT or isinstance(value, str) else float(value)
        except Exception:  # noqa: BLE001, S112 - a user's object may raise anything; it is no number
            continue
    return found


def _task_of(predictions: Column) -> str | None:
    """By the type of the first one that is there: text, bool and whole numbers are classes, other numbers values."""
    for value in _list(predictions):
        if value is not None and value is not ABSENT:
            return "classification" if isinstance(value, str | bool | int | np.integer | np.bool_) else "regression"
    return None


def _list(column: Column) -> Sequence[Any]:
    return column.tolist() if isinstance(column, np.ndarray) else column
