"""Windows over a table: which rows are in each, and what these count."""

from __future__ import annotations

import numpy as np
import pytest

from modelwatch.exceptions import TableError
from modelwatch.spans import MOST_WINDOWS, contents, spans_of_rows, spans_of_time


def rows_in(spans):
    return [list(range(begin, end)) for begin, end in zip(spans.begins.tolist(), spans.ends.tolist(), strict=True)]


def test_windows_of_time_are_half_open():
    """A row that comes at the end of a window is in the next one."""
    spans = spans_of_time(np.array([0.0, 10.0, 20.0, 30.0]), seconds=20.0, step=10.0)
    assert rows_in(spans) == [[0, 1], [1, 2], [2, 3]]
    assert spans.at.tolist() == [20.0, 30.0, 40.0]


@pytest.mark.parametrize("seed", range(20))
def test_windows_of_time_hold_what_came_in_it(seed):
    """Every window holds the rows of its time and no others, and every row is in one."""
    random = np.random.default_rng(seed)
    times = np.sort(random.integers(0, 1000, size=random.integers(1, 60))).astype(np.float64)
    seconds = float(random.integers(1, 400))
    step = float(random.integers(1, int(seconds) + 1))
    spans = spans_of_time(times, seconds, step)
    for rows, at in zip(rows_in(spans), spans.at.tolist(), strict=True):
        assert rows == [i for i, t in enumerate(times.tolist()) if at - seconds <= t < at]
    assert set().union(*map(set, rows_in(spans))) == set(range(len(times)))


def test_a_table_shorter_than_the_window_is_one_window():
    """What is shorter than a window is looked at once, whole."""
    times = np.array([5.0, 6.0, 7.0])
    assert rows_in(spans_of_time(times, seconds=100.0, step=1.0)) == [[0, 1, 2]]
    assert rows_in(spans_of_rows(times, rows=100, step_rows=1)) == [[0, 1, 2]]
    assert rows_in(spans_of_rows(times, rows=100, step=1.0)) == [[0, 1, 2]]
    assert rows_in(spans_of_time(times[:1], seconds=1.0, step=1.0)) == [[0]]


def test_windows_of_rows_hold_as_many():
    """Windows of N rows hold N, move on by the step, and the last ends with the last row, moved on by less."""
    times = np.arange(10.0)
    assert rows_in(spans_of_rows(times, rows=4, step_rows=4)) == [[0, 1, 2, 3], [4, 5, 6, 7], [6, 7, 8, 9]]
    assert {len(rows) for rows in rows_in(spans_of_rows(times, rows=7))} == {7}
    assert len(rows_in(spans_of_rows(times, rows=7))) == 4


def test_windows_of_rows_by_time_skip_silence():
    """Where no row came in a step there is no new window."""
    times = np.array([0.0, 1.0, 2.0, 100.0, 101.0])
    spans = spans_of_rows(times, rows=2, step=1.0)
    assert rows_in(spans) == [[0, 1], [1, 2], [2, 3], [3, 4]]
    assert spans.at.tolist() == [1.0, 2.0, 100.0, 101.0]


def test_too_many_windows_are_refused():
    """A step that is far too short for the table, or one wrong time in it, is an error and no endless run."""
    times = np.array([0.0, MOST_WINDOWS * 10.0])
    for make in (
        lambda: spans_of_time(times, seconds=10.0, step=1.0),
        lambda: spans_of_rows(times, rows=1, step=1.0),
        lambda: spans_of_rows(np.zeros(MOST_WINDOWS + 5), rows=1, step_rows=1),
    ):
        with pytest.raises(TableError, match="Choose a longer step"):
            make()


@pytest.mark.parametrize("seed", range(20))
def test_contents_are_counts_of_the_rows(seed):
    """What slides is, in each window, what counting its rows afresh gives: also over gaps and empty windows."""
    random = np.random.default_rng(seed)
    cells = random.integers(0, 30, size=(200, 3), dtype=np.uint32)
    times = np.sort(random.choice([0.0, 1e4, 2e4], 200) + random.integers(0, 500, 200))
    for spans in (
        spans_of_time(times, 100.0, float(random.integers(20, 300))),
        spans_of_rows(times, 37, step_rows=int(random.integers(1, 80))),
    ):
        found = [counts.copy() for counts in contents(cells, 40, spans)]
        fresh = [np.bincount(cells[rows].ravel(), minlength=40) for rows in rows_in(spans)]
        assert [counts.tolist() for counts in found] == [counts.tolist() for counts in fresh]
