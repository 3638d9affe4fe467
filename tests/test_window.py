"""Both windows against models that keep every row and look again at each question."""

from __future__ import annotations

import itertools
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelwatch.cells import CategoricalCells, NumericCells
from modelwatch.layout import Layout
from modelwatch.window import RowsWindow, TimeWindow

LAYOUT = Layout([CategoricalCells(["x", "y"]), NumericCells([0.0, 1.0, 2.0], None)])
LENGTH, SLOTS = 5.0, 4
SECONDS = LENGTH * SLOTS
KINDS = [("x", 0.0), ("y", 1.0), ("z", None), (None, 7.5)]


def indices_of(rows):
    """Flat cells of rows given as numbers of KINDS."""
    return LAYOUT.index([[KINDS[row][0] for row in rows], [KINDS[row][1] for row in rows]])


def counts_of(rows):
    return LAYOUT.tally(indices_of(rows)).tolist()


def time_window(*, max_seconds=SECONDS, min_rows=1):
    return TimeWindow(LAYOUT, seconds=SECONDS, slots=SLOTS, max_seconds=max_seconds, min_rows=min_rows)


def add(window, rows, times):
    return window.add(indices_of(rows), np.array(times, dtype=float))


class EveryRow:
    """The time window as its definition says, from all rows that ever came."""

    def __init__(self, *, max_seconds, min_rows):
        self.wide = max(int(max_seconds // SECONDS) - 1, 0)
        self.min_rows = min_rows
        self.rows = []  # (slot, time, kind) of all that were not late
        self.end = None

    def add(self, rows, times):
        late = 0
        for row, time in zip(rows, times, strict=True):
            slot = int(time // LENGTH)
            self.turn(slot)
            if slot <= self.end - SLOTS:
                late += 1
            else:
                self.rows.append((slot, time, row))
        return late

    def turn(self, slot):
        self.end = slot if self.end is None else max(self.end, slot)

    def content(self, now):
        self.turn(int(now // LENGTH))
        inside = [row for row in self.rows if row[0] > self.end - SLOTS]
        newest = (self.end - SLOTS) // SLOTS
        for wide in range(newest, newest - self.wide, -1):
            if len(inside) >= self.min_rows:
                break
            inside += [row for row in self.rows if row[0] <= self.end - SLOTS and row[0] // SLOTS == wide]
        age = max(now - min(row[1] for row in inside), 0.0) if inside else None
        return counts_of([row[2] for row in inside]), len(inside), age


STEPS = st.lists(
    st.one_of(
        # Rows that came together, each so many seconds before or after the clock: with event time, in any order.
        st.lists(st.tuples(st.integers(0, 3), st.integers(-90, 12)), max_size=6),
        st.integers(0, 55).map(float),  # seconds that pass, and then a look
    ),
    max_size=30,
)


@settings(max_examples=300, deadline=None)
@given(steps=STEPS, widths=st.integers(1, 5), min_rows=st.integers(1, 12))
def test_time_window_is_its_definition(steps, widths, min_rows):
    """Whatever comes in whatever order, slots, widening, pruning and lateness say what all rows together would say."""
    window = time_window(max_seconds=widths * SECONDS, min_rows=min_rows)
    model = EveryRow(max_seconds=widths * SECONDS, min_rows=min_rows)
    now = 1000.0
    for step in steps:
        if isinstance(step, float):
            now += step
            counts, rows, seconds = window.content(now)
            assert (counts.tolist(), rows, seconds) == model.content(now)
        else:
            kinds, times = [kind for kind, _ in step], [now + ago for _, ago in step]
            assert add(window, kinds, times)[1] == model.add(kinds, times)
    counts, rows, seconds = window.content(now)
    assert (counts.tolist(), rows, seconds) == model.content(now)


@given(
    rows=st.lists(st.tuples(st.integers(0, 3), st.integers(900, 1100)), max_size=40),
    cuts=st.lists(st.integers(0, 40), max_size=5),
)
def test_folds_do_not_matter(rows, cuts):
    """Rows are late, or counted, whichever of them happened to be folded together."""
    whole, parts = time_window(max_seconds=3 * SECONDS, min_rows=5), time_window(max_seconds=3 * SECONDS, min_rows=5)
    kinds, times = [kind for kind, _ in rows], [time for _, time in rows]
    counts, late = add(whole, kinds, times)
    edges = [0, *sorted(min(cut, len(rows)) for cut in cuts), len(rows)]
    found = [add(parts, kinds[a:b], times[a:b]) for a, b in itertools.pairwise(edges)]
    assert late == sum(part for _, part in found)
    assert counts.tolist() == np.sum([part for part, _ in found], axis=0).tolist()
    assert whole.content(1100)[0].tolist() == parts.content(1100)[0].tolist()


@pytest.mark.parametrize("widening", [True, False])
@given(steps=STEPS, workers=st.integers(2, 5))
def test_workers_add_up(widening, steps, workers):
    """The windows of several workers, added, are the window of one that saw all rows."""
    max_seconds = 4 * SECONDS if widening else SECONDS
    one = time_window(max_seconds=max_seconds, min_rows=10**9)
    several = [time_window(max_seconds=max_seconds, min_rows=10**9) for _ in range(workers)]
    now, turn = 1000.0, 0
    for step in steps:
        if isinstance(step, float):
            now += step
            continue
        for kind, ago in step:
            time = (now // LENGTH - ago % SLOTS) * LENGTH  # late for nobody, whatever each has seen
            add(one, [kind], [time])
            add(several[turn % workers], [kind], [time])
            turn += 1
    contents = [window.content(now) for window in several]
    assert one.content(now).counts.tolist() == np.sum([content.counts for content in contents], axis=0).tolist()
    assert one.content(now).rows == sum(content.rows for content in contents)


def test_the_window_moves_on_by_slots():
    """A row stays for the whole window's length and leaves with its slot."""
    window = time_window()
    add(window, [0], [1000.0])
    assert [window.content(1000.0 + s).rows for s in (0, LENGTH, SECONDS - 0.1, SECONDS, SECONDS + 1)] == [
        1, 1, 1, 0, 0,
    ]  # fmt: skip


def test_a_wide_slot_survives_while_its_span_still_fills():
    """Rows that leave for a wide slot join those of the same span that left before, though the window was full then."""
    window = time_window(max_seconds=3 * SECONDS, min_rows=2)
    add(window, [0], [1000.0])
    add(window, [1, 1], [1005.0, 1005.0])
    assert window.content(1020.0).rows == 2  # the first one has left, and is not needed now
    assert window.content(1025.0).rows == 3  # all three are of one wide slot


def test_widens_at_most_to_its_limit():
    """However few rows there are, none comes back from beyond `max_seconds`."""
    window = time_window(max_seconds=3 * SECONDS, min_rows=100)
    for slot in range(40):
        add(window, [0], [1000.0 + LENGTH * slot])
    content = window.content(1000.0 + LENGTH * 39)
    assert SECONDS < content.seconds < 3 * SECONDS
    assert content.rows < 3 * SLOTS + 1


def test_nothing_tells_the_time_at_first():
    """A look before the first row does not decide where the window ends: rows of long ago are not late then."""
    window = time_window()
    assert window.content(-np.inf)[1:] == (0, None)
    assert add(window, [0], [-5e9])[1] == 0
    assert window.content(-5e9).rows == 1


def test_a_row_ahead_makes_older_ones_late():
    """The window ends at the newest row; what is older than it then is told, not counted."""
    window = time_window()
    counts, late = add(window, [0, 1, 2], [1000.0, 1000.0 + SECONDS, 1000.0])
    assert late == 1
    assert counts.tolist() == counts_of([0, 1])
    assert window.content(1000.0 + SECONDS).rows == 1


def test_content_is_a_copy():
    """What a reader does with the counts does not reach the window."""
    for window in (time_window(), RowsWindow(LAYOUT, rows=5, max_age=10.0)):
        add(window, [0, 1], [0.0, 0.0])
        window.content(0.0).counts[:] = -7
        assert window.content(0.0).counts.tolist() == counts_of([0, 1])


@given(
    size=st.integers(1, 9),
    steps=st.lists(st.tuples(st.lists(st.integers(0, 3), max_size=25), st.integers(0, 40)), max_size=20),
)
def test_rows_window_is_the_last_rows(size, steps):
    """Exactly the last N rows are in it, none older than the greatest age, however they were batched."""
    window, rows, now = RowsWindow(LAYOUT, rows=size, max_age=50.0), [], 0.0
    for kinds, passed in steps:
        counts, late = add(window, kinds, [now] * len(kinds))
        assert (counts.tolist(), late) == (counts_of(kinds), 0)
        rows += [(now, kind) for kind in kinds]
        now += passed
        inside = [row for row in rows[-size:] if row[0] >= now - 50.0]
        content = window.content(now)
        assert content.counts.tolist() == counts_of([kind for _, kind in inside])
        assert content.rows == len(inside)
        assert content.seconds == (now - inside[0][0] if inside else None)


def test_memory_does_not_grow_with_rows():
    """A window that has been filled once takes the same memory after ten times as many rows."""
    now = 0.0
    windows = [time_window(max_seconds=3 * SECONDS, min_rows=50), RowsWindow(LAYOUT, rows=500, max_age=50.0)]

    def fill(seconds):
        nonlocal now
        for _ in range(seconds):
            now += 1.0
            for window in windows:
                add(window, [0, 1, 2, 3], [now] * 4)

    def held():  # threads of other tests may be at work
        own = [tracemalloc.Filter(True, f"*/{name}.py") for name in ("window", "slots", "layout")]
        return sum(trace.size for trace in tracemalloc.take_snapshot().filter_traces(own).traces)

    fill(200)
    tracemalloc.start()
    try:
        fill(200)
        before = held()
        fill(2000)
        grown = held() - before
    finally:
        tracemalloc.stop()
    assert before > 1000
    assert grown < 20_000
