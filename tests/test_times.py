"""Times in every form that users have, and what is none."""

from __future__ import annotations

import datetime
import time
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest

from modelwatch.times import seconds_of

MINUTE = datetime.datetime(1970, 1, 1, 0, 1)
BERLIN = datetime.timezone(datetime.timedelta(hours=1))


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (60, 60.0),
        (60.25, 60.25),
        (np.float32(60.5), 60.5),
        (np.int64(60), 60.0),
        (Decimal("60.5"), 60.5),
        (MINUTE, 60.0),
        (MINUTE.replace(tzinfo=datetime.UTC), 60.0),
        (MINUTE.replace(tzinfo=BERLIN), 60.0 - 3600.0),
        (pd.Timestamp("1970-01-01 00:01"), 60.0),
        (pd.Timestamp("1970-01-01 00:01", tz="Europe/Berlin"), 60.0 - 3600.0),
        (np.datetime64("1970-01-01T00:01"), 60.0),
        (np.datetime64("1970-01-01T00:01:00.5"), 60.5),
        (-60, -60.0),
    ],
    ids=repr,
)
def test_times_are_understood(monkeypatch, value, seconds):
    """Numbers are seconds, a datetime without a zone is UTC wherever the service runs, one with a zone what it says."""
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    monkeypatch.undo()
    assert seconds_of([value], default=7.0).tolist() == [seconds]


class Odd:
    def __float__(self):
        raise RuntimeError("no")


@pytest.mark.parametrize(
    "value",
    [None, "60", b"60", True, float("nan"), float("inf"), -float("inf"), pd.NaT, np.datetime64("NaT", "s"), 10**400,
     [60], {"t": 60}, object(), Odd(), pd.NA, datetime.date(1970, 1, 2), np.array([1.0, 2.0])],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_what_is_no_time_is_taken_for_the_default(value):
    """A value that tells no time costs nothing but its own time."""
    assert seconds_of([5.0, value, 6.0], default=7.0).tolist() == [5.0, 7.0, 6.0]


def test_arrays_of_times():
    """An array of datetime64 of any unit is read as a whole, and what is missing in it is the default."""
    for unit in ("s", "ms", "ns"):
        array = np.array(["1970-01-01T00:01:00", "NaT"], dtype=f"datetime64[{unit}]")
        assert seconds_of(array, default=7.0).tolist() == [60.0, 7.0]
    assert seconds_of(np.array([1.5, np.nan]), default=7.0).tolist() == [1.5, 7.0]
    assert seconds_of([], default=7.0).tolist() == []
