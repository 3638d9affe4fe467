"""A reference from live rows: which are kept, when there are enough, and what one bad row costs."""

from __future__ import annotations

import logging
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelwatch._types import ABSENT
from modelwatch.exceptions import TableError
from modelwatch.learning import Learner

NONE = ABSENT


def add(learner, columns, *, names=("t", "b"), now=0.0, predictions=None, confidences=None):
    size = len(columns[0])
    absent = [ABSENT] * size
    learner.add(names, columns, predictions or absent, confidences or absent, now)


def learnt(learner, name):
    """(rows, mean) of a feature of what it learnt."""
    profile = learner.fit()
    return profile.rows, profile.feature(name).mean


def test_ready():
    """There must be enough rows, and enough time between the first and the last of them."""
    learner = Learner(rows=4, seconds=10.0)
    add(learner, [[1, 2], [0, 0]], now=100.0)
    assert not learner.ready
    add(learner, [[3, 4], [0, 0]], now=109.0)
    assert not learner.ready
    add(learner, [[5], [0]], now=109.9)
    assert not learner.ready
    add(learner, [[6], [0]], now=110.0)
    assert not learner.ready  # it had forgotten every second one
    add(learner, [[7], [0]], now=110.0)
    assert learner.ready


def test_few_rows_over_much_time_are_not_enough():
    """However long it takes, it waits for its rows."""
    learner = Learner(rows=4, seconds=10.0)
    add(learner, [[1, 2, 3], [0] * 3], now=0.0)
    add(learner, [[], []], now=1e6)
    assert not learner.ready
    add(learner, [[4], [0]], now=1e6)
    assert learner.ready


@given(rate=st.integers(1, 400), rows=st.integers(50, 200))
def test_what_is_kept_spans_the_time(rate, rows):
    """However many rows come, those that are kept lie evenly over all the time, from the first on."""
    learner = Learner(rows=rows, seconds=100.0)
    second, taken = 0, 0
    while not learner.ready:
        times = np.arange(rate) / rate + second
        add(learner, [times.tolist(), times.tolist()], now=float(second))
        second, taken = second + 1, taken + rate
    assert second > 100
    profile = learner.fit()
    assert profile.rows == rows
    feature = profile.feature("t")
    kept = np.repeat(feature.cells.means(feature.means), feature.counts[: feature.cells.values])
    assert kept[0] == 0.0
    end = taken / rate
    assert np.abs(np.sort(kept) / end - np.arange(rows) / rows).max() < 0.52  # the last stride may be half done
    gaps = np.diff(np.sort(kept))
    assert gaps.max() < 2.5 * max(np.median(gaps), 1 / rate)


def test_memory_is_bounded():
    """A million rows in the time leave at most as many as wanted, and the stride finds them in little time."""
    learner = Learner(rows=200, seconds=1e9)
    for now in range(100):
        add(learner, [range(1000), range(1000)], now=float(now))
    assert not learner.ready
    add(learner, [range(10**6), range(10**6)], now=1e9)
    assert learner.ready
    assert learner.fit().rows == 200


def test_rows_of_other_features_are_passed_over():
    """The first row decides which features there are; rows of others do not get mixed in."""
    learner = Learner(rows=3, seconds=0.0)
    add(learner, [[1, 1], [5, 5]])
    add(learner, [[7.0], [7.0]], names=("b", "t"))
    add(learner, [[7.0]], names=("t",))
    add(learner, [[4], [5]])
    assert learnt(learner, "t") == (3, 2.0)


def test_predictions_and_confidences_are_features():
    """What the model returned becomes two more features; without any, none."""
    learner = Learner(rows=4, seconds=0.0)
    add(learner, [[1, 2, 3, 4], [0] * 4], predictions=["y", "n", "y", ABSENT], confidences=[0.5, None, 0.7, 0.9])
    profile = learner.fit()
    assert profile.names == ("t", "b", "prediction", "confidence")
    assert profile.inputs == ("t", "b")
    assert profile.feature("prediction").cells.kind == "categorical"
    other = Learner(rows=4, seconds=0.0)
    add(other, [[1, 2, 3, 4], [0] * 4])
    assert other.fit().names == ("t", "b")


def test_columns_that_cannot_be_profiled(caplog):
    """Lists, and ids, are left out with a word in the log; what never came, without; the others are learnt."""
    learner = Learner(rows=200, seconds=0.0)
    columns = [
        list(range(200)),
        [i % 7 for i in range(200)],
        [[1]] * 200,
        [f"id-{i}" for i in range(200)],
        [NONE] * 200,
    ]
    with caplog.at_level(logging.WARNING, "modelwatch"):
        add(learner, columns, names=("row", "good", "nested", "id", "never"))
        assert learner.fit().names == ("good",)
    said = [record.getMessage() for record in caplog.records]
    assert [any(f"column {name!r}" in text for text in said) for name in ("row", "nested", "id", "never", "good")] == [
        True, True, True, False, False,
    ]  # fmt: skip


def test_nothing_can_be_profiled():
    """If no column is left it says so."""
    learner = Learner(rows=2, seconds=0.0)
    add(learner, [[[1]], [[2]]])
    add(learner, [[[1]], [[2]]])
    with pytest.raises(TableError):
        learner.fit()


class Odd:
    def __float__(self):
        raise RuntimeError("no")


@pytest.mark.parametrize(
    "bad",
    [None, ABSENT, float("nan"), float("inf"), "text", b"bytes", True, 10**400, [1], {}, object(), Odd(), np.array([1]),
     Decimal("NaN"), Decimal("sNaN"), complex(1, 1), np.nan],
    ids=lambda bad: type(bad).__name__,
)  # fmt: skip
def test_one_bad_value_costs_no_feature(bad):
    """A column of numbers stays one, and one of texts too, whatever a single row brought in them."""
    learner = Learner(rows=200, seconds=0.0)
    numbers, texts = [float(i % 50) for i in range(199)], ["x", "y"] * 99 + ["x"]
    add(learner, [[*numbers, bad], [*texts, bad]])
    profile = learner.fit()
    assert [feature.cells.kind for feature in profile.features] == ["numeric", "categorical"]
    assert profile.feature("t").counts.sum() == profile.feature("b").counts.sum() == 200
    assert {"x", "y"} <= set(profile.feature("b").cells.categories)


def test_mixed_columns_stay_mixed():
    """A column that is half text and half numbers is one of categories."""
    learner = Learner(rows=200, seconds=0.0)
    add(learner, [[1, "a"] * 100, [0] * 200])
    assert learner.fit().feature("t").cells.categories == ("1", "a")


def test_numpy_columns():
    """Columns of arrays are learnt like those of lists."""
    learner = Learner(rows=200, seconds=0.0)
    random = np.random.default_rng(0)
    add(learner, [random.normal(size=200).astype(np.float32), np.array(["x", "y"] * 100)])
    assert [feature.cells.kind for feature in learner.fit().features] == ["numeric", "categorical"]
