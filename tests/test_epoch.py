"""One reference and what is counted against it."""

from __future__ import annotations

import numpy as np
import pytest

from modelwatch._types import ABSENT
from modelwatch.epoch import Epoch
from modelwatch.epochs import Epochs
from modelwatch.files import ReferenceProfile
from modelwatch.reading import read
from modelwatch.settings import Settings
from modelwatch.window import RowsWindow, TimeWindow


@pytest.fixture(scope="module")
def reference():
    """A numeric and a categorical feature, a prediction and a confidence."""
    random = np.random.default_rng(0)
    table = {
        "a": random.normal(size=500),
        "p": random.normal(size=500),
        "c": ["x", "y"] * 250,
        "q": random.random(500),
    }
    return ReferenceProfile.fit(table, prediction="p", confidence="q")


def add(epoch, rows, *, predictions=None, confidences=None, time=0.0):
    return epoch.add(list(zip(*rows, strict=True)), predictions, confidences, np.full(len(rows), time))


def of_feature(epoch, name, totals=None):
    at = epoch.profile.layout.slices()[epoch.profile.names.index(name)]
    return (epoch.totals if totals is None else totals)[at]


def test_every_feature_counts_every_row(reference):
    """Each feature has as many counts as there were rows, also the prediction that was not given."""
    epoch = Epoch(reference, Settings())
    add(epoch, [(0.5, "x"), (None, "z"), ("text", [1])], confidences=[0.5, 2.0, "high"])
    assert [int(of_feature(epoch, name).sum()) for name in reference.names] == [3, 3, 3, 3]
    assert epoch.rows == 3


def test_violations(reference):
    """Every broken value is counted by feature and reason; reasons that apply and have none are 0."""
    epoch = Epoch(reference, Settings())
    rows = [(None, "x"), (float("nan"), None), (float("inf"), "z"), ("text", [1]), (1e9, "x"), (10**400, ABSENT)]
    add(epoch, rows, predictions=[0.0, None, 1e9, "text", 0.0, 0.0], confidences=[0.5, "high", None, 0.5, 0.5, 9.0])
    assert epoch.violations() == {
        ("a", "missing"): 2, ("a", "non_finite"): 1, ("a", "type"): 2, ("a", "out_of_range"): 1,
        ("c", "missing"): 2, ("c", "type"): 1, ("c", "unseen_category"): 1,
        ("prediction", "missing"): 1, ("prediction", "non_finite"): 0, ("prediction", "type"): 1,
        ("prediction", "out_of_range"): 1,
        ("confidence", "missing"): 1, ("confidence", "non_finite"): 0, ("confidence", "type"): 1,
        ("confidence", "out_of_range"): 1,
    }  # fmt: skip


def captured(epoch):
    epochs = Epochs(Settings())
    epochs.current = epoch
    return read(epochs, [], 0.0).captured


def test_captured(reference):
    """A feature that none of the first rows brought is not captured; before there are enough, nothing is said."""
    epoch = Epoch(reference, Settings(min_rows=4))
    add(epoch, [(0.5, ABSENT)] * 3, predictions=[0.0] * 3)
    assert captured(epoch).tolist() == [True] * 4
    add(epoch, [(0.5, ABSENT)], predictions=[0.0])
    found = dict(zip(reference.names, captured(epoch).tolist(), strict=True))
    assert found == {"a": True, "c": False, "prediction": True, "confidence": False}
    add(epoch, [(0.5, "x")], confidences=[None])
    assert captured(epoch).tolist() == [True] * 4


def test_a_missing_value_is_not_an_absent_key(reference):
    """A feature that always comes as None is captured, and missing."""
    epoch = Epoch(reference, Settings(min_rows=2))
    add(epoch, [(None, None)] * 2, predictions=[None] * 2, confidences=[None] * 2)
    assert captured(epoch).all()


def test_confidences_that_are_all_absent(reference):
    """Rows that were laid together with others bring no confidence by that alone."""
    epoch = Epoch(reference, Settings(min_rows=2))
    add(epoch, [(0.5, "x")] * 2, predictions=[ABSENT] * 2, confidences=[ABSENT] * 2)
    found = dict(zip(reference.names, captured(epoch).tolist(), strict=True))
    assert (found["prediction"], found["confidence"]) == (False, False)


def test_late_rows(reference):
    """Rows that come too late are told, and are in neither window, totals nor rows."""
    epoch = Epoch(reference, Settings(event_time=True))
    add(epoch, [(0.5, "x")], time=1e6)
    assert add(epoch, [(0.5, "x")] * 2, time=1e6 - 3601) == 2
    assert (epoch.rows, int(of_feature(epoch, "a").sum()), epoch.content(1e6).rows) == (1, 1, 1)


def test_totals_stay_when_rows_leave(reference):
    """The window forgets, the totals never."""
    epoch = Epoch(reference, Settings())
    add(epoch, [(0.5, "x")] * 5)
    assert epoch.content(1e6).rows == 0
    assert int(of_feature(epoch, "a").sum()) == 5


def test_carried_totals(reference):
    """An epoch goes on from the totals of an earlier one, leaves those alone, and its violations are only its own."""
    before = Epoch(reference, Settings())
    add(before, [(None, "x")] * 3)
    kept = before.totals.copy()
    after = Epoch(reference, Settings(), "1", before.totals)
    add(after, [(None, "y")] * 2)
    assert int(of_feature(after, "a").sum()) == 5
    assert after.violations()["a", "missing"] == 2
    assert after.content(0.0).rows == after.rows == 2
    assert before.totals.tolist() == kept.tolist()


def test_which_window(reference):
    """The settings choose the window."""
    assert isinstance(Epoch(reference, Settings()).window, TimeWindow)
    assert isinstance(Epoch(reference, Settings(window_rows=500)).window, RowsWindow)


def test_a_long_window_is_not_widened(reference):
    """A window longer than the default limit is as long as was asked."""
    epoch = Epoch(reference, Settings(window_seconds=200_000))
    add(epoch, [(0.5, "x")], time=0.0)
    assert epoch.content(150_000.0).rows == 1
