"""The reference in force and those before it: whatever is swapped and whoever dies, no counter ever falls."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
from support.shares import plain, reference_of

from modelwatch.epochs import Epochs
from modelwatch.reading import read
from modelwatch.settings import Settings

REFERENCES = [reference_of(seed, rows=200) for seed in range(12)]
NOW = 1000.0


def epochs_of(*turns, **options):
    """Epochs that have had these references: (number, version) or a number."""
    epochs = Epochs(Settings(**options))
    for one in turns:
        turn(epochs, one)
    return epochs


def turn(epochs, one):
    number, version = one if isinstance(one, tuple) else (one, "1")
    return epochs.turn(REFERENCES[number], version)


def add(epochs, rows, value=0.5, time=NOW):
    epochs.current.add([[value] * rows, ["k1"] * rows], [0.5] * rows, [0.5] * rows, np.full(rows, time))


def rows_of(share):
    """Rows by the first feature."""
    return int(share.binned[: len(REFERENCES[0].layout.cells[0].bins)].sum() + share.missing[0])


def shown(epochs, others=()):
    """Rows counted in all that a scrape shows, by version and cells."""
    reading = read(epochs, list(others), NOW)
    found = {}
    for totals in reading.totals:
        first = len(totals.epoch.profile.layout.cells[0].bins)
        found[totals.epoch.key] = int(totals.binned[:first].sum() + totals.missing[0])
    return found


def test_the_last_two_are_known():
    """The reference in force is the current one, that before it the previous one; the same again changes neither."""
    epochs = epochs_of()
    assert (epochs.current, epochs.previous, epochs.shares(NOW), epochs.versions()) == (None, None, [], set())
    first = turn(epochs, (0, "1"))
    assert (epochs.current, epochs.previous) == (first, None)
    again = turn(epochs, (0, "1"))
    assert (epochs.current, epochs.previous) == (again, None)
    second = turn(epochs, (1, "2"))
    assert (epochs.current, epochs.previous) == (second, again)
    third = turn(epochs, (1, "3"))
    assert (epochs.current, epochs.previous) == (third, second)


def test_the_window_begins_anew_and_totals_go_on():
    """Each turn begins with an empty window; totals go on where those of the same version and cells stood."""
    epochs = epochs_of(0)
    add(epochs, 3)
    turn(epochs, 0)
    assert (epochs.current.content(NOW).rows, epochs.current.rows) == (0, 0)
    assert rows_of(epochs.current.share()) == 3
    turn(epochs, 1)
    add(epochs, 5)
    turn(epochs, 0)
    add(epochs, 1)
    assert shown(epochs) == {("1", REFERENCES[0].hash): 4, ("1", REFERENCES[1].hash): 5}
    turn(epochs, (0, "2"))
    assert rows_of(epochs.current.share()) == 0


@pytest.mark.parametrize("seed", range(4))
def test_no_counter_falls(seed):
    """Over any sequence of few references and versions, what is shown of one never falls below what it was."""
    dice, epochs, before = random.Random(seed), epochs_of(), {}
    expected = {}
    for _ in range(60):
        now = (dice.randrange(3), dice.choice("12"))
        turn(epochs, now)
        key = epochs.current.key
        rows = dice.randint(1, 4)
        add(epochs, rows)
        expected[key] = expected.get(key, 0) + rows
        for shown_key, count in shown(epochs).items():
            assert count == expected[shown_key]
            assert count >= before.get(shown_key, 0)
            before[shown_key] = count


def test_what_is_kept_is_bounded():
    """Of many references few are kept; versions of which nothing is known any more are forgotten."""
    epochs = epochs_of()
    for number, version in itertools.product(range(12), "abc"):
        turn(epochs, (number, version))
        add(epochs, 1, value=None)
        assert len(epochs.shares(NOW)) <= 10
        assert len(epochs._violations) <= 4 * 3 * 5
        assert version in epochs.versions()


def test_violations_are_of_versions():
    """Violations are counted on under one version whatever its references are, and shown of the last two only."""
    epochs = epochs_of((0, "1"))
    add(epochs, 2, value=None)
    turn(epochs, (1, "1"))
    add(epochs, 3, value=None)
    assert epochs.violations()["1", "a", "missing"] == 5
    turn(epochs, (1, "2"))
    add(epochs, 1, value=None)
    assert {key[0] for key in epochs.violations()} == {"1", "2"}
    assert epochs.violations()["1", "a", "missing"] == 5
    turn(epochs, (1, "3"))
    assert {key[0] for key in epochs.violations()} == {"2", "3"}
    turn(epochs, (1, "1"))
    assert epochs.violations()["1", "a", "missing"] == 5


def test_the_window_is_shared_of_one():
    """What others read is the one in force with its window, and those before it without."""
    epochs = epochs_of(0)
    add(epochs, 3)
    assert [(share.hash, share.window is None) for share in epochs.shares(NOW)] == [(REFERENCES[0].hash, False)]
    turn(epochs, 1)
    add(epochs, 2)
    found = epochs.shares(NOW)
    assert [share.window is None for share in found] == [False, True]
    assert [rows_of(share) for share in found] == [2, 3]


def test_a_child_counts_from_zero():
    """In a child nothing is counted, nothing is carried, and there is none before."""
    epochs = epochs_of(0, 1, 0)
    add(epochs, 3, value=None)
    turn(epochs, 0)
    epochs.forked()
    assert epochs.previous is None
    assert not any(epochs.violations().values())
    (share,) = epochs.shares(NOW)
    assert (rows_of(share), share.rows, share.window.whole.rows) == (0, 0, 0)
    turn(epochs, 1)
    turn(epochs, 0)
    assert rows_of(epochs.current.share()) == 0


# Shares of the dead


def worker(turns, rows, *, value=0.5, time=NOW):
    """Shares of a worker that has had these references, with so many rows against the last."""
    epochs = epochs_of(*turns)
    for _ in range(rows):
        add(epochs, 1, value, time)
    return epochs.shares(NOW)


def test_the_dead_are_one():
    """Shares of the dead become one for each reference and version; numbers are sums, what any has seen is seen."""
    epochs = epochs_of(0)
    dead = [worker([(0, "1")], 2), worker([(1, "1"), (0, "1")], 3, value=None), worker([(0, "2")], 4)]
    dead[0][0].streams = {"prediction": (2, 0.5)}
    dead[1][0].streams = {"prediction": (3, 1.0), "confidence": (1, 2.0)}
    dead[1][0].latest = 77.0
    found = epochs.together([share for shares in dead for share in shares])
    by_key = {(share.version, share.hash): share for share in found}
    assert len(by_key) == len(found) == 3
    one = by_key["1", REFERENCES[0].hash]
    assert (one.rows, rows_of(one), int(one.missing[0])) == (5, 5, 3)
    assert one.streams == {"prediction": (5, 1.5), "confidence": (1, 2.0)}
    assert one.latest == 77.0
    assert one.seen.all()
    assert (one.window.whole.rows, one.window.whole.counts.sum()) == (5, 5 * 4)
    assert by_key["2", REFERENCES[0].hash].window is None
    assert rows_of(by_key["2", REFERENCES[0].hash]) == 4
    assert by_key["1", REFERENCES[1].hash].window is None


def test_the_dead_stay_as_they_are():
    """Laying shares together changes none of them."""
    epochs = epochs_of(0)
    dead = [share for i in range(3) for share in worker([1, 0], i + 1, time=NOW - 400.0 * i)]
    before = plain(dead)
    first = plain(epochs.together(dead))
    assert plain(epochs.together(dead)) == first
    assert plain(dead) == before


@pytest.mark.parametrize("seed", range(3))
def test_grouping_does_not_matter(seed):
    """Laid together at once or one after another, in any order, the dead are the same."""
    dice, epochs = random.Random(seed), epochs_of(0)
    dead = [
        share
        for i in range(6)
        for share in worker([i % 3, 0] if i % 2 else [0, 1], i, value=i / 3, time=NOW - 300.0 * dice.randrange(12))
    ]

    def told(shares):
        found = {}
        for share in shares:
            version, cells, rows, arrays, window, streams, latest = plain(share)
            if window is not None:
                shape, end, (fine, coarse), whole = window
                window = shape, end, {n: s for n, s in fine.items() if s[0]}, coarse, whole
            found[version, cells] = rows, arrays, window, streams, latest
        return found

    expected = told(epochs.together(dead))
    for _ in range(5):
        dice.shuffle(dead)
        past = []
        left = list(dead)
        while left:
            some = [left.pop() for _ in range(dice.randint(1, 3)) if left]
            past = epochs.together([*past, *some] if dice.random() < 0.5 else [*some, *past])
        assert told(past) == expected


def test_nobody_is_dead():
    """Without shares there is nothing to lay together, also without a reference."""
    assert epochs_of().together([]) == []
    assert epochs_of(0).together([]) == []


def test_without_a_reference_counters_of_the_dead_stay():
    """An elected worker that has no reference keeps what the dead have counted, but no window."""
    (one,) = epochs_of().together(worker([0], 3))
    assert (rows_of(one), one.window) == (3, None)


def test_windows_of_the_reference_in_force_are_kept():
    """A dead worker's window is kept if it is of the reference in force, and what it has counted in any case."""
    epochs = epochs_of(1)
    found = {share.hash: share for share in epochs.together([*worker([0], 3), *worker([0, 1], 2)])}
    assert found[REFERENCES[0].hash].window is None
    assert found[REFERENCES[1].hash].window.whole.rows == 2


def test_windows_of_other_settings_are_left_out():
    """Slots of another length are not added: the numbers of slots would mean other times."""
    epochs, other = epochs_of(0), epochs_of(0, window_seconds=60.0)
    for one in (epochs, other):
        add(one, 3)
    (found,) = epochs.together([*epochs.shares(NOW), *other.shares(NOW)])
    assert rows_of(found) == 6
    assert found.window.whole.rows == 3
    assert read(epochs, other.shares(NOW), NOW).content.rows == 3
    rows = epochs_of(0, window_rows=500)
    add(rows, 4)
    assert read(epochs, rows.shares(NOW), NOW).content.rows == 3
    assert read(rows, epochs.shares(NOW), NOW).content.rows == 4


def test_the_reference_in_force_is_never_dropped():
    """However many references the dead have had, counts against the one in force are kept, and the one before."""
    epochs = epochs_of(5, 0)
    dead = [*worker([0], 3), *worker([5], 2)]
    for number in range(1, 12):
        dead += worker([number], 1)
    past = epochs.together(dead)
    assert shown(epochs, past) == {("1", REFERENCES[0].hash): 3, ("1", REFERENCES[5].hash): 3}
    for number in range(1, 12):
        past = epochs.together([*past, *worker([number], 1)])
    assert shown(epochs, past)["1", REFERENCES[0].hash] == 3


def test_references_of_the_dead_are_bounded():
    """After many reloads and many deaths few references of the dead are kept."""
    epochs, past = epochs_of(0), []
    for number, version in itertools.product(range(12), "abc"):
        past = epochs.together([*past, *worker([(number, version)], 1)])
        assert len(past) <= 10


def test_a_reference_that_comes_back():
    """After a rollback the dead that have died meanwhile are still counted: what is shown does not fall."""
    epochs, dead = epochs_of(0), epochs_of(0)
    for one in (epochs, dead):
        add(one, 5)
    before = shown(epochs, dead.shares(NOW))["1", REFERENCES[0].hash]
    assert before == 10
    for number in (1, 2):
        turn(epochs, number)
        turn(dead, number)
    past = epochs.together(dead.shares(NOW))
    turn(epochs, 0)
    assert shown(epochs, past)["1", REFERENCES[0].hash] >= before
