"""What is counted about rows: how many, which classes, which values, how sure."""

from __future__ import annotations

import numpy as np
import pytest

from modelwatch._types import ABSENT
from modelwatch.files import ReferenceProfile
from modelwatch.series import Series
from modelwatch.settings import Settings
from modelwatch.tally import NO_CLASS, OUTCOMES, Tally, numbers

BOUNDS = {"model_prediction_confidence": (0.5, 0.9), "model_prediction_value": (0.0, 10.0)}


@pytest.fixture
def series():
    """An empty series."""
    return Series()


def tally_of(series, bounds=BOUNDS, **settings):
    return Tally(series, "m", Settings(**settings), bounds)


def cells_of(series, metric):
    """{label values: number, or buckets and sum} of a metric."""
    return {
        cell.labels: cell.values[0] if cell.bounds is None else cell.values
        for cell in series.cells()
        if cell.metric == metric
    }


def reference_of(predictions, **options):
    return ReferenceProfile.fit({"x": [1.0] * len(predictions), "p": predictions}, prediction="p", **options)


def test_all_outcomes_are_there_from_the_start(series):
    """Every outcome is shown at 0 before any row came."""
    tally_of(series)
    assert cells_of(series, "modelwatch_rows_total") == {(outcome,): 0 for outcome in OUTCOMES}


def test_series_are_there_from_the_start(series):
    """Rows, unsure rows and the classes of the reference are shown at 0 before any row came."""
    tally = tally_of(series)
    tally.adopt(reference_of(["yes", "no"] * 50))
    tally.announce("1")
    assert cells_of(series, "model_rows_total") == cells_of(series, "model_low_confidence_total") == {("m", "1"): 0}
    assert cells_of(series, "model_predictions_total") == {("m", "1", "no"): 0, ("m", "1", "yes"): 0}


@pytest.mark.parametrize(
    ("predictions", "classes"),
    [
        (["yes", "no", "yes"], {"yes": 2, "no": 1}),
        ([True, False, True], {"true": 2, "false": 1}),
        ([1, 0, 1], {"1": 2, "0": 1}),
        (np.array([1, 0, 1]), {"1": 2, "0": 1}),
        (list(np.array([1, 0, 1])), {"1": 2, "0": 1}),
        (list(np.array([True, False, True])), {"true": 2, "false": 1}),
        ([None, ABSENT, "yes", [1], float("nan")], {"yes": 1}),
    ],
    ids=repr,
)
def test_classes_by_type(series, predictions, classes):
    """Without a reference text, bools and whole numbers are classes, in whatever container; what is none has none."""
    tally_of(series).rows("1", len(predictions), predictions, None)
    assert cells_of(series, "model_predictions_total") == {("m", "1", name): n for name, n in classes.items()}
    assert cells_of(series, "model_prediction_value") == {}


@pytest.mark.parametrize("predictions", [[0.5, 20.0, -1.0], np.array([0.5, 20.0, -1.0]), [np.float32(0.5), 20.0, -1]])
def test_values_by_type(series, predictions):
    """Without a reference other numbers are values, and go into buckets."""
    tally_of(series).rows("1", 3, predictions, None)
    assert cells_of(series, "model_prediction_value") == {("m", "1"): [1, 1, 1, 19.5]}
    assert cells_of(series, "model_predictions_total") == {}


def test_the_task_may_be_told(series):
    """What the settings say comes before what the reference and the type say."""
    tally = tally_of(series, task="regression")
    tally.adopt(reference_of(["1", "2"] * 50))
    tally.rows("1", 2, [1, 2], None)
    assert cells_of(series, "model_prediction_value") == {("m", "1"): [0, 2, 0, 3]}


def test_the_reference_decides(series):
    """With a reference of classes numbers are classes; with one of numbers whole numbers are values."""
    tally = tally_of(series)
    tally.adopt(reference_of(["1", "2"] * 50))
    tally.rows("1", 1, [1.0], None)
    tally.adopt(reference_of([1.5, 2.5] * 50))
    tally.rows("1", 1, [1], None)
    assert cells_of(series, "model_predictions_total") == {("m", "1", "1"): 1}
    assert cells_of(series, "model_prediction_value") == {("m", "1"): [0, 1, 0, 1]}


def test_a_reference_without_predictions_says_nothing(series):
    """Classes of an earlier reference are not announced for the model of a later one that knows none."""
    tally = tally_of(series)
    tally.adopt(reference_of(["yes", "no"] * 50))
    tally.adopt(ReferenceProfile.fit({"x": [1.0] * 50}))
    tally.announce("2")
    tally.rows("2", 1, [0.5], None)
    assert cells_of(series, "model_predictions_total") == {}
    assert cells_of(series, "model_prediction_value") == {("m", "2"): [0, 1, 0, 0.5]}


def test_buckets_stay_what_they_were(series):
    """Another reference does not change the buckets of a version, nor touch the cells beside them."""
    tally = tally_of(series, bounds={})
    tally.adopt(reference_of([1.5, 2.5] * 50))
    tally.rows("1", 1, [1.5], None)
    beside = series.counter("beside")
    tally.adopt(reference_of(np.random.default_rng(0).normal(size=1000)))
    tally.rows("1", 2, [1.0, 9.0], None)
    tally.rows("2", 1, [1.0], None)
    first, second = cells_of(series, "model_prediction_value").values()
    assert first == [2, 0, 1, 11.5]
    assert len(second) == 9 + 2
    assert sum(second[:-1]) == 1
    assert series.values[beside] == 0


def test_buckets_of_the_reference(series):
    """Without buckets in the settings the reference's deciles, or its few values, are the buckets."""
    tally = tally_of(series, bounds={})
    values = np.arange(1000.0)
    tally.adopt(reference_of(values[::-1]))
    tally.rows("1", 1000, values, None)
    cells = cells_of(series, "model_prediction_value")["m", "1"]
    assert cells == [100] * 10 + [values.sum()]


def test_hashed_classes_have_no_name(series):
    """Classes whose names must not appear are counted under their hashes, announced and unseen ones alike."""
    tally = tally_of(series)
    tally.adopt(reference_of(["secret", "hidden"] * 50, hash_categories=["p"]))
    tally.announce("1")
    tally.rows("1", 3, ["secret", "unseen", "secret"], np.array([0.4, 0.95, 0.6]))
    shown = repr(list(series.cells()))
    assert not any(name in shown for name in ("secret", "hidden", "unseen"))
    assert sorted(cells_of(series, "model_predictions_total").values()) == [0, 1, 2]
    assert all(name.startswith("#") for *_, name in cells_of(series, "model_predictions_total"))


def test_classes_are_bounded(series):
    """Beyond the greatest number of classes they fold into one, and no row is lost."""
    tally = tally_of(series, max_classes=3)
    tally.rows("1", 10, [f"c{i}" for i in range(10)], None)
    cells = cells_of(series, "model_predictions_total")
    assert len(cells) == 4
    assert cells["m", "1", "_other"] == 7


def test_confidences(series):
    """They go into the buckets of their class, or of none, and the low ones are counted apart."""
    tally = tally_of(series, low_confidence=0.6)
    tally.rows("1", 3, ["yes", "no", None], np.array([0.95, 0.55, 0.7]))
    tally.rows("1", 2, None, np.array([0.3, np.nan]))
    cells = cells_of(series, "model_prediction_confidence")
    assert cells == {
        ("m", "yes"): [0, 0, 1, 0.95],
        ("m", "no"): [0, 1, 0, 0.55],
        ("m", NO_CLASS): [1, 1, 0, pytest.approx(1.0)],
    }
    assert cells_of(series, "model_low_confidence_total") == {("m", "1"): 2}
    assert cells_of(series, "model_rows_total") == {("m", "1"): 5}


def test_what_is_not_finite_spoils_no_sum(series):
    """NaN and infinite values are left out of buckets and sum."""
    tally_of(series).rows(
        "1", 4, [1.5, float("nan"), float("inf"), -float("inf")], np.array([np.nan, np.inf, 0.7, 0.7])
    )
    assert cells_of(series, "model_prediction_value") == {("m", "1"): [0, 1, 0, 1.5]}
    assert cells_of(series, "model_prediction_confidence") == {("m", NO_CLASS): [0, 2, 0, 1.4]}


class Odd:
    def __float__(self):
        raise RuntimeError("no")


def test_numbers():
    """Anything becomes a number or NaN."""
    found = numbers([1, True, "2", None, ABSENT, 10**400, [1], Odd(), np.float32(0.5), float("inf")])
    assert found.tolist()[:2] == [1.0, 1.0]
    assert np.isnan(found[2:8]).all()
    assert found.tolist()[8:] == [0.5, np.inf]
    for array in (
        np.array([1, 2], dtype=np.int8),
        np.array([1.0, 2.0], dtype=np.float32),
        np.array([1, 2], dtype=object),
    ):
        assert numbers(array).tolist() == [1.0, 2.0]
        assert numbers(array).dtype == np.float64
