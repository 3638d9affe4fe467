"""Calibrated floors: what chunks of a drift-free stream in its own order stay below."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from modelwatch.calibration import SIZES, Floor, FloorTable, calibrate, loosest
from modelwatch.cells import CategoricalCells, NumericCells


def test_short_streams_have_no_floors():
    """A size has a floor once eight chunks of it fit: from 1,600, 8,000 and 80,000 rows on."""
    cells = NumericCells.fit(np.arange(5.0))
    assert SIZES == (200, 1_000, 10_000)
    for rows, sizes in ((1, []), (1_599, []), (1_600, [200]), (8_000, [200, 1_000]), (80_000, [200, 1_000, 10_000])):
        index = cells.index(np.arange(rows) % 5)
        assert [floor.rows for floor in calibrate(cells, index)] == sizes


def test_floors_are_what_chunks_reach():
    """The floor is the 99 % quantile of KS and of the missing change of chunks against the rest, and a quarter more."""
    rng = np.random.default_rng(0)
    column = np.sin(np.arange(2_400) / 200) + rng.normal(size=2_400)
    column[rng.random(2_400) < 0.1] = np.nan
    column = np.round(column, 1)
    cells = NumericCells.fit(column)
    distances, changes = [], []
    for start in range(0, 2_400 - 199, 50):
        inside = np.zeros(2_400, dtype=bool)
        inside[start : start + 200] = True
        chunk, rest = column[inside], column[~inside]
        gone = [np.isnan(part) for part in (chunk, rest)]
        distances.append(stats.ks_2samp(chunk[~gone[0]], rest[~gone[1]], method="asymp").statistic)
        changes.append(abs(gone[0].mean() - gone[1].mean()))
    (floor,) = calibrate(cells, cells.index(column))
    for got, found in ((floor.distance, distances), (floor.missing, changes)):
        middle, high = np.quantile(found, [0.5, 0.99])
        assert got == pytest.approx(high + 0.25 * (high - middle), rel=1e-12)


def test_categories_have_floors_of_total_variation():
    """For categories the floor is of the total variation."""
    values = ["a"] * 800 + ["b"] * 800
    cells = CategoricalCells.fit(values)
    (floor,) = calibrate(cells, cells.index(values))
    chunks = [values[start : start + 200] for start in range(0, 1_401, 50)]
    found = [abs(chunk.count("a") / 200 - (800 - chunk.count("a")) / 1_400) for chunk in chunks]
    middle, high = np.quantile(found, [0.5, 0.99])
    assert floor.distance == pytest.approx(min(high + 0.25 * (high - middle), 1), rel=1e-12)


def test_order_is_what_raises_a_floor():
    """The same rows shuffled have a low floor, a stream with a rhythm a high one, and none exceeds 1."""
    rng = np.random.default_rng(1)
    column = np.sin(np.arange(20_000) / 1_500) + rng.normal(scale=0.1, size=20_000)
    cells = NumericCells.fit(column)
    index = cells.index(column)
    rhythm, shuffled = calibrate(cells, index), calibrate(cells, rng.permutation(index))
    assert rhythm[0].distance > 0.5
    assert rhythm[1].distance > 0.4
    assert shuffled[0].distance < 0.15
    assert shuffled[1].distance < 0.06
    assert all(0 <= number <= 1 for floor in rhythm + shuffled for number in floor[1:])


def test_a_chunk_without_values_has_no_distance():
    """Where a whole chunk is missing there is nothing to compare, and the missing floor tells."""
    column = np.append(np.full(800, np.nan), np.arange(800.0))
    cells = NumericCells.fit(column)
    (floor,) = calibrate(cells, cells.index(column))
    assert math.isfinite(floor.distance)
    assert floor.missing > 0.5


def test_interpolates_in_the_logarithm_of_rows():
    """Between two sizes a floor goes with the logarithm, beyond them it stays; without any it is 0."""
    floors = (Floor(200, 0.3, 0.08), Floor(1_000, 0.1, 0.04), Floor(10_000, 0.02, 0.0))
    rows = np.array([0, 1, 200, 447, 1_000, 3_162, 10_000, 10**9])
    distance, missing = FloorTable([floors] * rows.size).at(rows)
    at = np.log(np.maximum(rows, 1))
    assert distance == pytest.approx(np.interp(at, np.log([200, 1_000, 10_000]), [0.3, 0.1, 0.02]), rel=1e-12)
    assert missing == pytest.approx(np.interp(at, np.log([200, 1_000, 10_000]), [0.08, 0.04, 0.0]), abs=1e-12)


def test_each_feature_has_its_own_floors():
    """Features with other sizes, or none, do not disturb each other."""
    one, two = (Floor(200, 0.3, 0.1),), (Floor(200, 0.5, 0.2), Floor(1_000, 0.1, 0.0))
    distance, missing = FloorTable([one, (), two, one]).at(np.array([50, 50, 1_000, 5_000]))
    assert distance.tolist() == [0.3, 0.0, 0.1, 0.3]
    assert missing.tolist() == [0.1, 0.0, 0.0, 0.1]
    assert FloorTable([]).at(np.array([], dtype=np.int64))[0].size == 0


def test_merging_takes_the_looser_floor():
    """Of two streams each floor is the larger one, size by size, in either order."""
    a = (Floor(200, 0.3, 0.1), Floor(1_000, 0.1, 0.1))
    for b, want in ((Floor(200, 0.2, 0.4), Floor(200, 0.3, 0.4)), (Floor(200, 0.5, 0.4), Floor(200, 0.5, 0.4))):
        assert loosest(a, (b,)) == loosest((b,), a) == (want, a[1])
    assert loosest(a, ()) == loosest((), a) == a
