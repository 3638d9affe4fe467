"""Times as users have them, brought into seconds since 1970."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import Any

import numpy as np

from ._types import Floats


def seconds_of(values: Sequence[Any], default: float) -> Floats:
    """Seconds since 1970 of numbers, datetimes, numpy's datetime64 or ISO 8601 text; `default` for what is none.

    Without a zone they are UTC.

    >>> seconds_of([1.5, datetime.datetime(1970, 1, 1, 0, 1), "1970-01-01T00:02", None], default=7.0).tolist()
    [1.5, 60.0, 120.0, 7.0]
    """
    if isinstance(values, np.ndarray) and values.dtype.kind == "M":
        seconds = values.astype("datetime64[us]").astype(np.float64) / 1e6
        return np.where(np.isnat(values), default, seconds)
    found = np.full(len(values), default)
    for i, value in enumerate(values):
        second = _second(value)
        if second is not None and np.isfinite(second):
            found[i] = second
    return found


def _second(value: Any) -> float | None:
    if isinstance(value, np.datetime64):
        return None if np.isnat(value) else float(value.astype("datetime64[us]").astype(np.float64) / 1e6)
    try:
        if isinstance(value, str):
            value = datetime.datetime.fromisoformat(value[:40])
        if hasattr(value, "timestamp"):
            aware = value if value.tzinfo is not None else value.replace(tzinfo=datetime.UTC)
            return float(aware.timestamp())
        return None if isinstance(value, bytes | bool) else float(value)
    except Exception:  # noqa: BLE001 - a user's object may raise anything; it tells no time
        return None
