"""The layout: many features' cells in one flat vector, and nothing lost on the way into it."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest

from modelwatch.cells import CategoricalCells, NumericCells
from modelwatch.layout import Layout, points_of

hypothesis = pytest.importorskip("hypothesis")
st = hypothesis.strategies

CELLS = [
    CategoricalCells(["a", "b"], ["c"]),
    NumericCells.fit(np.arange(30.0)),
    CategoricalCells(["x"]),
    NumericCells.fit(np.array([1.0, 2.0, 5.0])),
]
LAYOUT = Layout(CELLS)
value = st.sampled_from(
    ["a", "b", "c", "x", "y", None, 1, 2.0, 5, 7, -3, 29, 100, math.nan, math.inf, -math.inf, [], True]
)


@hypothesis.given(rows=st.lists(st.tuples(value, value, value, value), max_size=40))
@hypothesis.settings(max_examples=100, deadline=None, derandomize=True)
def test_conservation(rows):
    """Whatever the rows hold, each feature's cells count every row once; bins and missing rows add up to them."""
    columns = [[row[i] for row in rows] for i in range(4)]
    counts = LAYOUT.tally(LAYOUT.index(columns))
    assert counts.shape == (LAYOUT.size,)
    assert counts.dtype == np.int64
    assert [int(counts[at].sum()) for at in LAYOUT.slices()] == [len(rows)] * 4
    binned = LAYOUT.bins.sums(LAYOUT.binned(counts)) + LAYOUT.missing_rows(counts)
    assert binned.tolist() == [len(rows)] * 4


def test_each_feature_is_counted_as_alone():
    """A feature's part of the flat vectors of cells and bins is what it would be without the others."""
    columns = [["a", "c", "z", None, {}], [0, 29, 12.5, "x", math.nan], ["x"] * 5, [1, 2, 3, 5, math.inf]]
    counts = LAYOUT.tally(LAYOUT.index(columns))
    binned = LAYOUT.binned(counts)
    ends = [*LAYOUT.bins.starts[1:].tolist(), len(binned)]
    for cells, column, at, first, last in zip(CELLS, columns, LAYOUT.slices(), LAYOUT.bins.starts, ends, strict=True):
        alone = np.bincount(cells.index(column), minlength=cells.size)
        assert counts[at].tolist() == alone.tolist()
        bins = np.bincount(cells.bin_of, weights=alone[: cells.values], minlength=len(cells.bins))
        assert binned[first:last].tolist() == bins.tolist()
    assert LAYOUT.missing_rows(counts).tolist() == [2, 2, 0, 0]
    numeric = np.concatenate([counts[LAYOUT.slices()[i]][: CELLS[i].values] for i in (1, 3)])
    assert LAYOUT.in_order(counts).tolist() == numeric.tolist()
    assert LAYOUT.numeric.tolist() == [1, 3]
    assert LAYOUT.categorical.tolist() == [0, 2]


def test_violations_by_reason():
    """Each reason counts its own rows, and is there with 0 where it applies."""
    columns = [["a", "c", "z", None, {}, []], [0, 29, -5, 30, math.inf, "1"], ["x"] * 6, [1, 5, None, 9, -math.inf, 0]]
    found = LAYOUT.violations(LAYOUT.tally(LAYOUT.index(columns)))
    assert found == {
        (0, "missing"): 1, (0, "type"): 2, (0, "unseen_category"): 1,
        (1, "missing"): 0, (1, "type"): 1, (1, "non_finite"): 1, (1, "out_of_range"): 2,
        (2, "missing"): 0, (2, "type"): 0, (2, "unseen_category"): 0,
        (3, "missing"): 1, (3, "type"): 0, (3, "non_finite"): 1, (3, "out_of_range"): 2,
    }  # fmt: skip


def test_absent_columns_are_left_out():
    """A column that is None counts nothing for its feature, and does not disturb the others."""
    columns = [None, [1.0], None, [2.0]]
    assert [index is None for index in LAYOUT.index(columns)] == [True, False, True, False]
    counts = LAYOUT.tally_columns(columns)
    assert [int(counts[at].sum()) for at in LAYOUT.slices()] == [0, 1, 0, 1]
    assert LAYOUT.tally_columns([None] * 4).tolist() == [0] * LAYOUT.size


@pytest.mark.parametrize("cells", [CELLS[:1], CELLS[1:2]])
def test_features_of_one_kind_alone(cells):
    """A layout without numbers, or without categories, is a layout too."""
    layout = Layout(cells)
    counts = layout.tally(layout.index([[1, "a"]]))
    assert counts.sum() == 2
    assert layout.in_order(counts).size == (0 if layout.categorical.size else cells[0].values)
    assert points_of(layout, [None]).size == layout.in_order(counts).size


def test_can_be_pickled():
    """A layout goes to another process and counts the same there."""
    columns = [["a"], [3], [None], [math.inf]]
    other = pickle.loads(pickle.dumps(LAYOUT))
    assert other.tally(other.index(columns)).tolist() == LAYOUT.tally(LAYOUT.index(columns)).tolist()
