"""From what an endpoint returned to predictions, confidences and ids, one for each row; or why there are none."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ._types import ABSENT
from .exchange import Parts
from .extract import UNREADABLE, follow, tame
from .fields import fields_of

PREDICTIONS = (
    "prediction", "predictions", "label", "labels", "predicted_class", "score", "output",
)  # fmt: skip
"""Keys that may hold the prediction, if only one of them is there."""
CONFIDENCES = ("confidence", "confidences", "probability", "probabilities")
"""Keys that may hold the confidence, or the probabilities whose largest is the confidence; the first one counts."""

_MOST_KEPT = 64
_NUMBERS = {int, float, bool}
_BARE = _NUMBERS | {str}


Outcome = tuple[list[Any] | None, list[Any] | None, list[Any] | None, str | None]
"""Predictions, confidences and ids, each one for each row or None; and why there is no prediction, if one was expected.

A bare tuple: one is made for every request."""

NOTHING: Outcome = (None, None, None, None)


class Keys(NamedTuple):
    """Which keys of a result hold what; None if none does. `problem`: why there is no prediction."""

    prediction: str | None
    confidence: str | None
    problem: str | None = None


class Reader:
    """Reads the results of one endpoint.

    Parameters
    ----------
    prediction, confidence
        Names of these columns in the training data, if there is a reference that has them: they come before all others.
    parts
        What `@monitor.predict` says; None without it.

    Notes
    -----
    Threads: one, that of the event loop. Processes: each has its own. It remembers which keys it found in results of up
    to 64 forms, never a result.

    >>> Reader(None, None, None)({"label": "cat", "probability": [0.25, 0.75]}, 1)
    (['cat'], [0.75], None, None)
    """

    def __init__(self, prediction: str | None, confidence: str | None, parts: Parts | None) -> None:
        self._prediction = prediction
        self._confidence = confidence
        self._parts = parts
        self._told = parts is not None and (parts.prediction, parts.confidence, parts.id) != (None, None, None)
        self._known: dict[Any, Keys] = {}

    def __call__(self, result: Any, rows: int) -> Outcome:
        """What was returned for so many rows. Every list is new; no object of the user's is in it."""
        if self._told:
            return self._as_told(result, rows)
        if type(result) is dict:
            mapping: Mapping[str, Any] | None = result
        else:
            mapping = None if type(result) in _BARE else _mapping(result)
        if mapping is None:
            return self._unnamed(result, rows)
        form = tuple(mapping)
        prediction, confidence, problem = self._known.get(form) or self.keys(form)
        confidences = None if confidence is None else _confidences(mapping[confidence], rows)
        if prediction is None:
            return None, confidences, None, problem
        value = mapping[prediction]
        if rows == 1 and type(value) in _NUMBERS:  # what comes most often, in a tenth of the time
            return [value], confidences, None, None
        predictions, problem = _each(value, rows)
        return predictions, confidences, None, problem

    def _unnamed(self, result: Any, rows: int) -> Outcome:
        items = listed(result)
        if items is not None and len(items) == rows and rows and _mapping(items[0]) is not None:
            return self._each_mapping([_mapping(item) or {} for item in items])
        predictions, problem = _each(result if items is None else items, rows)
        return predictions, None, None, problem

    def keys(self, names: Iterable[str]) -> Keys:
        """Which keys of these hold the prediction and the confidence."""
        form = tuple(names)
        found = self._known.get(form)
        if found is None:
            found = self._find(form)
            if len(self._known) < _MOST_KEPT:
                self._known[form] = found
        return found

    def _find(self, names: tuple[str, ...]) -> Keys:
        confidence = next((key for key in (self._confidence, *CONFIDENCES) if key is not None and key in names), None)
        if self._prediction is not None and self._prediction in names and self._prediction != confidence:
            return Keys(self._prediction, confidence)
        usual = [key for key in PREDICTIONS if key in names and key != self._confidence]
        if len(usual) == 1:
            return Keys(usual[0], confidence)
        if usual:
            return Keys(None, confidence, f"any of {', '.join(usual)} may be the prediction")
        return Keys(None, confidence, f"none of its keys is called {', '.join(PREDICTIONS)}")

    def _each_mapping(self, results: list[Mapping[str, Any]]) -> Outcome:
        keys = self.keys(results[0])
        confidences = None
        if keys.confidence is not None:
            confidences = [_largest(result.get(keys.confidence)) for result in results]
        if keys.prediction is None:
            return None, confidences, None, keys.problem
        predictions, problem = _each([result.get(keys.prediction) for result in results], len(results))
        return predictions, confidences, None, problem

    def _as_told(self, result: Any, rows: int) -> Outcome:
        parts = self._parts
        if parts is None:
            return NOTHING
        problem: str | None = None
        if parts.prediction is None:
            predictions, confidences, _, problem = Reader(self._prediction, self._confidence, None)(result, rows)
        else:
            predictions, problem = _each(_told(parts.prediction, result), rows)
            confidences = None
        if parts.confidence is not None:
            confidences = _largest_each(_told(parts.confidence, result), rows)
            if confidences is None:
                problem = problem or f"the confidence is not one for each of {rows} rows"
        elif parts.prediction is not None:
            confidences = Reader(self._prediction, self._confidence, None)(result, rows)[1]
        ids = None
        if parts.id is not None:
            ids, wrong = _each(_told(parts.id, result), rows)
            problem = problem or (wrong and f"the id: {wrong}")
        return predictions, confidences, ids, problem


def keys_of_type(annotation: Any, reader: Reader) -> Keys | None:
    """Which fields of what an endpoint says it returns hold what; None if its type does not tell."""
    names = [field.name for field in fields_of(annotation)]
    return reader.keys(names) if names else None


def listed(value: Any) -> list[Any] | tuple[Any, ...] | None:
    """The value as a list if it is one, or an array or a column of a table; None for anything else."""
    if isinstance(value, list | tuple):
        return value
    to_list: Callable[[], Any] | None = getattr(value, "tolist", None) or getattr(value, "to_list", None)
    if to_list is None or isinstance(value, str | bytes | Mapping):
        return None
    items = to_list()
    return items if isinstance(items, list) else None  # a numpy scalar and an array without dimensions give a number


def _mapping(result: Any) -> Mapping[str, Any] | None:
    """The fields of a dict, a pydantic model or a dataclass; None for anything else."""
    kind = type(result)
    if hasattr(kind, "__pydantic_fields__"):
        fields: dict[str, Any] = result.__dict__
        return fields
    if isinstance(result, Mapping):
        return result
    if dataclasses.is_dataclass(kind):
        return {field.name: getattr(result, field.name, None) for field in dataclasses.fields(kind)}
    return None


def _each(value: Any, rows: int) -> tuple[list[Any] | None, str | None]:
    """One plain value for each row, or None and why."""
    items = listed(value)
    if items is None:
        items = [value]
    if len(items) != rows:
        return None, f"it holds {len(items)} {'value' if len(items) == 1 else 'values'} for {_counted(rows)}"
    inner = listed(items[0]) if items else None
    if inner is not None and len(inner) == 1:  # a column, as of a model that predicts in two dimensions
        items = [one[0] if (one := listed(item)) is not None and len(one) == 1 else UNREADABLE for item in items]
    found = list(tame(items))
    if UNREADABLE in found or ABSENT in found:
        return None, "it is no number, no text and no list of them"
    return found, None


def _confidences(value: Any, rows: int) -> list[Any] | None:
    return [value] if rows == 1 and type(value) is float else _largest_each(value, rows)


def _largest_each(value: Any, rows: int) -> list[Any] | None:
    """One confidence for each row: a number, or the largest of several; None if they are not as many as the rows."""
    items = listed(value)
    if items is not None and len(items) == rows:
        return [_largest(item) for item in items]
    return [_largest(value)] if rows == 1 else None


def _largest(value: Any) -> Any:
    """A number as it is, of a list or dict of numbers the largest; None for anything else."""
    several: Sequence[Any] | None = list(value.values()) if isinstance(value, Mapping) else listed(value)
    if several is None:
        number = tame([value])[0]
        return number if isinstance(number, int | float) else None
    numbers = [number for number in tame(several) if isinstance(number, int | float)]
    return max(numbers) if numbers and len(numbers) == len(several) else None


def _told(where: str | Callable[[Any], Any], result: Any) -> Any:
    return where(result) if callable(where) else follow(result, where.split("."))


def _counted(rows: int) -> str:
    return f"{rows} row" if rows == 1 else f"{rows} rows"
