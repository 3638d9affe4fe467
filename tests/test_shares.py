"""What a worker has counted in one piece: series and samples laid together, totals added."""

from __future__ import annotations

import math

import numpy as np
import pytest
from support.shares import series_of

from modelwatch.series import Sample
from modelwatch.shares import EpochShare, Joiner, totals_of

KEYS = (("model_batch_size", ("m",), (1.0, 2.0)), ("model_rows_total", ("m", "1"), None))


def samples(*values):
    return [Sample(f"s{number}", ("x", "y")[: number % 2], value) for number, value in enumerate(values)]


def test_samples_follow_the_series():
    """Cells stay where they are, and each sample is one more, under its own key."""
    keys, values = Joiner().join(KEYS, np.array([1.0, 2.0, 3.0, 4.5, 7.0]), samples(1, 2.5, True))
    assert series_of(keys, values.tolist()) == {
        KEYS[0]: [1.0, 2.0, 3.0, 4.5], KEYS[1]: [7.0],
        ("s0", (), None): [1.0], ("s1", ("x",), None): [2.5], ("s2", (), None): [1.0],
    }  # fmt: skip
    assert values.dtype == np.float64


def test_samples_that_say_nothing_are_left_out():
    """NaN and infinity are in neither keys nor values."""
    keys, values = Joiner().join((), np.empty(0), samples(math.nan, 3, math.inf, -math.inf, 0))
    assert series_of(keys, values.tolist()) == {("s1", ("x",), None): [3.0], ("s4", (), None): [0.0]}


def test_the_same_keys_are_the_same_object():
    """As long as the same is counted keys are one tuple, whatever the numbers; something else makes another."""
    joiner, cells = Joiner(), np.zeros(5)
    first, _ = joiner.join(KEYS, cells, samples(1, 2))
    assert joiner.join(KEYS, cells + 1, samples(3, 4))[0] is first
    assert joiner.join(tuple(KEYS), cells, samples(3, 4))[0] is first
    assert joiner.join(KEYS, cells, samples(1, math.nan))[0] == first[:-1]
    assert joiner.join(KEYS[:1], cells[:4], samples(1, 2))[0] == (KEYS[0], *first[2:])
    assert joiner.join(KEYS, cells, [])[0] == KEYS
    assert joiner.join(KEYS, cells, samples(1, 2))[0] == first


def test_values_are_copied():
    """What is counted on later is not in what was taken."""
    cells = np.zeros(5)
    _, values = Joiner().join(KEYS, cells, [])
    cells += 1
    assert values.tolist() == [0.0] * 5


@pytest.mark.parametrize("shares", [1, 2, 5])
def test_totals_are_sums(shares):
    """Bins and missing rows of all shares are added up into new arrays; the shares stay as they are."""
    found = [
        EpochShare("1", "h", 0, np.zeros(2, bool), np.array([i, 2, 3]), np.array([10 * i, 1]), None)
        for i in range(shares)
    ]
    binned, missing = totals_of(iter(found))
    assert binned.tolist() == [sum(range(shares)), 2 * shares, 3 * shares]
    assert missing.tolist() == [10 * sum(range(shares)), shares]
    binned += 1
    missing += 1
    assert [(one.binned.tolist(), one.missing.tolist()) for one in found] == [
        ([i, 2, 3], [10 * i, 1]) for i in range(shares)
    ]
