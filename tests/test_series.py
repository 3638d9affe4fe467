"""The cells that requests write: found by labels, copied by scrapes, and never more than they may be."""

from __future__ import annotations

import math
import sys
import threading
import tracemalloc

import pytest

from modelwatch.series import OTHER, Series, _forked, clean, observe, observe_all

BOUNDS = (0.1, 1.0, 10.0)


def labels_of(series):
    return [cell.labels for cell in series.cells()]


def test_a_place_is_found_again():
    """The same metric and label values have one place; other values or another metric have another."""
    series = Series()
    place = series.counter("a", ("x",))
    assert series.counter("a", ("x",)) == place
    assert len({place, series.counter("a", ("y",)), series.counter("b", ("x",)), series.counter("b")}) == 4


def test_cells_begin_at_zero():
    """What was asked for and never written is shown as 0."""
    series = Series()
    series.counter("a")
    series.histogram("b", (), BOUNDS)
    assert [(cell.metric, cell.bounds, cell.values) for cell in series.cells()] == [
        ("a", None, [0]),
        ("b", BOUNDS, [0, 0, 0, 0, 0]),
    ]


def test_cells_do_not_share():
    """A write to one cell is seen in that cell only, whatever was made before and after it."""
    series = Series()
    places = [
        series.counter("a", ("1",)),
        series.histogram("b", ("1",), BOUNDS),
        series.counter("a", ("2",)),
        series.histogram("b", ("2",), BOUNDS),
    ]
    series.values[places[0]] += 1
    observe(series.values, places[1], BOUNDS, 99)
    series.values[places[2]] += 2
    observe(series.values, places[3], BOUNDS, 0)
    assert [cell.values for cell in series.cells()] == [[1], [0, 0, 0, 1, 99], [2], [1, 0, 0, 0, 0]]


def test_cells_are_copies():
    """What a scrape holds does not change under it, and what it does with it does no harm."""
    series = Series()
    place = series.counter("a")
    [cell] = series.cells()
    series.values[place] += 1
    assert cell.values == [0]
    cell.values[0] = 9
    assert [cell.values for cell in series.cells()] == [[1]]


@pytest.mark.parametrize(
    ("x", "bucket"), [(-5, 0), (0, 0), (0.1, 0), (0.11, 1), (1, 1), (9.9, 2), (10, 2), (10.1, 3), (1e300, 3)]
)
def test_bounds_are_inclusive(x, bucket):
    """A value counts in the first bucket whose bound it does not exceed, as Prometheus has it, and in the sum."""
    series = Series()
    place = series.histogram("a", (), BOUNDS)
    observe(series.values, place, BOUNDS, x)
    [cell] = series.cells()
    assert [index for index, count in enumerate(cell.values[:-1]) if count] == [bucket]
    assert cell.values[-1] == x


@pytest.mark.parametrize(
    ("x", "counts"), [(math.inf, [0, 0, 0, 1]), (-math.inf, [1, 0, 0, 0]), (math.nan, [0, 0, 0, 0])]
)
def test_what_is_not_finite_does_not_spoil_the_sum(x, counts):
    """Infinite values count in the outer buckets and NaN nowhere; the sum goes on."""
    series = Series()
    place = series.histogram("a", (), BOUNDS)
    observe(series.values, place, BOUNDS, x)
    observe(series.values, place, BOUNDS, 0.5)
    [cell] = series.cells()
    counts[1] += 1
    assert cell.values == [*counts, 0.5]


def test_most_bounds_the_last_label():
    """The last label takes `most` values per set of the others; further ones fold into one, and are counted."""
    series = Series()
    for value in "abcd":
        series.counter("a", ("x", value), most=2)
    series.counter("a", ("y", "c"), most=2)
    assert labels_of(series) == [("x", "a"), ("x", "b"), ("x", OTHER), ("y", "c")]
    assert series.overflows == {"a": 2}


def test_what_was_there_first_stays():
    """A value that has its cell keeps it when the label is full."""
    series = Series()
    place = series.counter("a", ("b",), most=1)
    series.counter("a", ("c",), most=1)
    assert series.counter("a", ("b",), most=1) == place
    assert series.overflows == {"a": 1}


def test_limit_bounds_everything():
    """Beyond the limit of a metric a new set becomes its `_other`, and is counted; other metrics are left alone."""
    series = Series(limit=3)
    for number in range(1000):
        series.histogram("a", (f"route {number}", "GET"), BOUNDS)
        series.counter("b", (f"route {number}",), most=5)
    named = [(f"route {number}", "GET") for number in range(3)]
    assert [labels for labels in labels_of(series) if len(labels) == 2] == [*named, (OTHER, OTHER)]
    assert [labels for labels in labels_of(series) if len(labels) == 1] == [
        ("route 0",),
        ("route 1",),
        ("route 2",),
        (OTHER,),
    ]
    assert series.overflows == {"a": 997, "b": 997}
    assert len(series.values) == 4 * 5 + 4


def test_nothing_is_kept_of_what_is_folded_away():
    """Memory does not grow with the label sets that come when all places are taken."""
    series = Series(limit=3)

    def ask(numbers):
        for number in numbers:
            series.counter("a", (f"route {number}", "GET"), most=5)

    tracemalloc.start()
    try:
        ask(range(1000))
        before, _ = tracemalloc.get_traced_memory()
        ask(range(1000, 11_000))
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 100_000


def test_a_set_that_overflows_twice_is_counted_once():
    """A label set that is beyond both bounds is one that was folded away."""
    series = Series(limit=1)
    series.counter("a", ("x", "y"), most=1)
    assert labels_of(series) == [("x", "y")]
    series.counter("a", ("x", "z"), most=1)
    assert labels_of(series) == [("x", "y"), (OTHER, OTHER)]
    assert series.overflows == {"a": 1}


def test_metrics_without_labels_are_always_there():
    """The limit takes no metric away that has no labels."""
    series = Series(limit=1)
    for name in "abc":
        series.counter(name)
    assert [cell.metric for cell in series.cells()] == ["a", "b", "c"]


def test_label_values_are_cleaned():
    """Values that differ only in what cannot be shown share a cell, so that no page has it twice."""
    series = Series()
    assert series.counter("a", ("x\n",)) == series.counter("a", ("x\t",)) == series.counter("a", ("x?",))
    assert labels_of(series) == [("x?",)]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("", ""),
        ("café 模型", "café 模型"),
        ("a\nb\rc\0d\x7f", "a?b?c?d?"),
        ("\ud800", "?"),
        ("\u2028\u202e", "??"),
        ('"\\', '"\\'),
        ("x" * 200, "x" * 200),
        ("x" * 201, "x" * 199 + "…"),
        ("\n" * 300, "?" * 199 + "…"),
    ],
)
def test_clean(text, shown):
    """Clean text is one line of at most 200 characters of valid UTF-8, and cleaning it again changes nothing."""
    assert clean(text) == shown
    assert clean(shown) == shown
    shown.encode("utf-8")


def test_threads_agree_on_places():
    """Threads that ask for the same sets at once get the same places, and no cell is made twice."""
    series, start, found = Series(), threading.Barrier(4), []

    def ask():
        start.wait()
        found.append([series.histogram("a", (str(number),), BOUNDS) for number in range(2000)])

    threads = [threading.Thread(target=ask) for _ in range(4)]
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # so that threads meet between a look and a write, if nothing keeps them apart
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    assert len(found) == 4
    assert all(places == found[0] for places in found)
    assert len(series.values) == 2000 * 5


@pytest.mark.parametrize("count", [0, 1, 3, 4, 500])
def test_many_are_counted_like_each(count):
    """Numbers that are counted at one go fill the buckets and the sum that they fill one by one."""
    numbers = [(0.0, 0.1, 0.125, 1.0, 5.0, 10.0, 10.5, 99.0)[i % 8] for i in range(count)]
    each, together = Series(), Series()
    place = each.histogram("a", (), BOUNDS)
    together.histogram("a", (), BOUNDS)
    for x in numbers:
        observe(each.values, place, BOUNDS, x)
    for _ in range(2):
        observe_all(together.values, place, BOUNDS, numbers)
    assert together.values[:-1] == [2 * value for value in each.values[:-1]]
    assert together.values[-1] == pytest.approx(2 * each.values[-1], rel=1e-12)  # sum() rounds less from 3.12 on


@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_spoils_nothing_among_many(odd):
    """One number that is not finite among many is treated as it is alone."""
    each, together, numbers = Series(), Series(), [5.0, 0.5, odd, 0.25, 99.0]
    place = each.histogram("a", (), BOUNDS)
    together.histogram("a", (), BOUNDS)
    for x in numbers:
        observe(each.values, place, BOUNDS, x)
    observe_all(together.values, place, BOUNDS, numbers)
    assert together.values == each.values
    assert math.isfinite(together.values[-1])


def test_what_was_put_off_is_counted_before_it_is_read():
    """Whoever reads the cells sees what settlers had kept back, each time and in the cells that they make."""
    series, waiting = Series(), [1, 2]

    def settle():
        while waiting:
            series.values[series.counter("a", (str(waiting[0]),))] += waiting.pop(0)

    series.settlers.append(settle)
    assert [(cell.labels, cell.values) for cell in series.cells()] == [(("1",), [1]), (("2",), [2])]
    waiting.append(1)
    assert [cell.values for cell in series.cells()] == [[2], [2]]


def test_settlers_are_called_by_one_at_a_time():
    """Threads that read at once settle one after another, and none reads before what was put off is counted."""
    series, inside, most = Series(), [], []
    entered, leave = threading.Event(), threading.Event()

    def settle():
        inside.append(1)
        most.append(len(inside))
        entered.set()
        leave.wait(10)
        inside.pop()

    series.settlers.append(settle)
    threads = [threading.Thread(target=series.settle) for _ in range(3)]
    threads[0].start()
    assert entered.wait(10)
    for thread in threads[1:]:
        thread.start()
    assert not series._settling.acquire(blocking=False)
    leave.set()
    for thread in threads:
        thread.join(10)
    assert most == [1, 1, 1]


def test_a_forked_process_has_locks_of_its_own():
    """A lock that another thread held when the process was forked is not held in the child."""
    series = Series()
    with series._settling, series._lock:
        _forked()  # what the child calls
        assert series.counter("a") == 0
        assert [cell.values for cell in series.cells()] == [[0]]
