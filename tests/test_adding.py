"""Sums over workers: the same in any order and grouping to the last bit, each metric as its entry says."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from support.shares import series_of, share_of

from modelwatch.adding import Adder, counted, exact, outlives
from modelwatch.metrics.catalogue import CATALOGUE
from modelwatch.series import OTHER, width
from modelwatch.shares import Share

LIMIT = 4096
BOUNDS = (0.1, 1.0, 10.0)
LATENCY = "model_request_latency_seconds"
VALUE = "model_prediction_value"
CPU = "model_process_cpu_seconds_total"


def labels_of(metric, number=0):
    return tuple(f"{label}-{number}" for label in CATALOGUE[metric].labels)


def key_of(metric, number=0, bounds=BOUNDS):
    return metric, labels_of(metric, number), bounds if CATALOGUE[metric].kind == "histogram" else None


def added(*shares, limit=LIMIT):
    """What an adder that has not seen anything makes of shares: numbers by key."""
    return series_of(*Adder(limit).add(shares))


def bits(found):
    """Numbers by key, to the last bit."""
    return {key: np.array(numbers).tobytes() for key, numbers in found.items()}


def random_share(seed, *, alive=True, metrics=None, value_bounds=BOUNDS):
    """A share with odd fractions in everything that the catalogue knows, as a worker would publish it."""
    dice = np.random.default_rng(seed)
    series = {}
    for metric in metrics or CATALOGUE:
        for number in dice.choice(4, 2, replace=False).tolist():
            bounds = value_bounds if metric == VALUE else BOUNDS
            key = key_of(metric, number, bounds)
            cells = dice.integers(0, 2**30, width(key[2])).astype(float)
            cells[-1] = dice.exponential(1e3)
            if metric == VALUE:
                cells[-1] = dice.normal(0, 100 * max(map(abs, value_bounds)))
            series[key] = cells
    share = share_of(series, name=f"w{seed}", alive=alive)
    return Share(share.name, alive, share.keys, exact(share.keys, share.values), {})


def folded(shares):
    """Shares of the dead as one, as they are folded together."""
    return Share("past", False, *Adder(LIMIT).add([counted(share) for share in shares]), {})


SUMS = [metric for metric in CATALOGUE if outlives(metric)]


def test_what_outlives_a_worker():
    """Counters and histograms that are added up outlive their worker; gauges, and what any worker can tell, do not."""
    assert {"model_request_total", LATENCY, CPU, VALUE, "modelwatch_rows_total"} <= set(SUMS)
    assert [metric for metric in SUMS if CATALOGUE[metric].kind == "gauge"] == []
    assert not any(map(outlives, ["model_requests_in_progress", "model_loaded_info", "model_detector_alarms_total",
                                  "model_network_receive_bytes_total"]))  # fmt: skip


@pytest.mark.parametrize("value_bounds", [BOUNDS, (1e-9, 2e-9, 3e-9), (-5e12, -1.0, 7e11)])
@pytest.mark.parametrize("seed", range(5))
def test_order_and_grouping_do_not_matter(seed, value_bounds):
    """In whatever order workers are added up, and however many died and were folded, sums are equal to the last bit."""
    dice = random.Random(seed)
    shares = [random_share(100 * seed + i, metrics=SUMS, value_bounds=value_bounds) for i in range(7)]
    expected = bits(added(*shares))
    assert len(expected) >= 2 * len(SUMS)
    for _ in range(6):
        dice.shuffle(shares)
        assert bits(added(*shares)) == expected
        left, past = list(shares), []
        while len(left) > 1:
            dead = [left.pop() for _ in range(dice.randint(1, 3)) if left]
            past = [folded([*past, *dead])]
            assert bits(added(*past, *left)) == expected
            assert bits(added(*left, *past)) == expected


@pytest.mark.parametrize("seed", range(3))
def test_dead_or_alive_counters_are_the_same(seed):
    """When a worker dies nothing that it has counted changes, before it is folded and after."""
    shares = [random_share(i + 10 * seed, metrics=SUMS) for i in range(5)]
    expected = bits(added(*shares))
    for dead in range(6):
        found = [Share(s.name, i >= dead, s.keys, s.values, {}) for i, s in enumerate(shares)]
        assert bits(added(*found)) == expected
        assert bits(added(folded(found[:dead]), *found[dead:])) == expected


def test_a_long_life_changes_nothing():
    """An adder that has seen workers come and go gives what a new one does."""
    adder, shares = Adder(LIMIT), [random_share(i) for i in range(8)]
    for first in range(8):
        found = shares[first : first + 3]
        assert bits(series_of(*adder.add(found))) == bits(added(*found))
    assert series_of(*adder.add([])) == {}
    assert bits(series_of(*adder.add(shares[::-1]))) == bits(added(*shares[::-1]))


def test_shares_stay_as_they_are():
    """Adding, and folding, changes none of the shares, and what it gives is no view of them."""
    shares = [random_share(i) for i in range(3)]
    before = [(share.keys, share.values.copy()) for share in shares]
    adder = Adder(LIMIT)
    keys, values = adder.add(shares)
    kept = values.copy()
    folded(shares)
    adder.add(shares[:1])
    assert values.tolist() == kept.tolist()
    values[:] = -1
    for share, (keys, cells) in zip(shares, before, strict=True):
        assert share.keys is keys
        assert share.values.tolist() == cells.tolist()


GAUGES = {
    "live": "model_requests_in_progress",
    "max": "model_last_request_timestamp_seconds",
    "min": "modelwatch_capture_available",
}


@pytest.mark.parametrize(("merge", "expected"), [("live", 2 + 5 + 3), ("max", 5), ("min", 2)])
def test_gauges(merge, expected):
    """Gauges of the living are added, or the largest or the least counts; those of the dead never do."""
    assert CATALOGUE[GAUGES[merge]].merge == merge
    key = key_of(GAUGES[merge])
    shares = [share_of({key: number}) for number in (2, 5, 3)]
    dead = [share_of({key: number}, alive=False) for number in (-100, 100)]
    for found in (shares + dead, dead + shares, [dead[0], *shares[::-1], dead[1]]):
        assert added(*found) == {key: [expected]}
    assert added(*dead) == {}
    assert counted(shares[0]).keys == ()


@pytest.mark.parametrize("metric", [GAUGES["max"], GAUGES["min"], GAUGES["live"]])
@pytest.mark.parametrize("number", [0.0, -7.5, 1e300, -1e300])
def test_a_gauge_of_one_worker(metric, number):
    """One worker's gauge is what it says, whatever that is, also below zero."""
    key = key_of(metric)
    assert added(share_of({key: number}), share_of({}), share_of({key: 3}, alive=False)) == {key: [number]}


def test_gauges_go_and_counters_stay():
    """When a worker dies its gauges go, also the whole series if nobody else has it; its counters stay."""
    one = {key_of("model_request_total", 1): 4, key_of("http_server_active_requests", 1): 3, key_of(CPU): 1.5}
    two = {key_of("model_request_total", 2): 5, key_of("http_server_active_requests", 2): 7, key_of(CPU): 2.5}
    found = added(share_of(one, alive=False), share_of(two))
    assert found == {
        key_of("model_request_total", 1): [4], key_of("model_request_total", 2): [5],
        key_of("http_server_active_requests", 2): [7], key_of(CPU): [4.0],
    }  # fmt: skip


def test_a_number_that_is_none_spoils_only_itself():
    """NaN or infinity in one worker's cell are in the sum of that cell, and in no other."""
    spoilt = {key_of(LATENCY): [1, 2, 3, 4, math.nan], key_of(CPU): math.inf, key_of("model_rows_total"): 3}
    good = {key_of(LATENCY): [1, 2, 3, 4, 0.5], key_of(CPU): 1.0, key_of("model_rows_total"): 4}
    found = added(share_of(spoilt), share_of(good))
    assert found[key_of("model_rows_total")] == [7]
    assert found[key_of(LATENCY)][:4] == [2, 4, 6, 8]
    assert not math.isfinite(found[key_of(LATENCY)][4])
    assert not math.isfinite(found[key_of(CPU)][0])


def test_histograms_are_added_cell_by_cell():
    """Buckets and sums of the same bounds are added each by itself."""
    shares = [share_of({key_of(LATENCY): [i, 2 * i, 0, 1, 0.5 * i]}) for i in (1, 2, 3)]
    assert added(*shares) == {key_of(LATENCY): [6, 12, 0, 3, 3.0]}


def test_other_bounds_go_into_the_open_bucket():
    """Where workers have other buckets the series is shown once, and what is in the others is in its open bucket."""
    first, second = key_of(VALUE, bounds=(0.1, 1.0, 10.0)), key_of(VALUE, bounds=(0.5, 5.0))
    shares = [share_of({first: [1, 2, 3, 4, 2.5], key_of(CPU): 1}), share_of({second: [5, 6, 7, 4.5], key_of(CPU): 2})]
    expected = {first: [1, 2, 3, 4 + 18, 7.0], key_of(CPU): [3]}
    assert added(*shares) == added(*shares[::-1]) == expected
    assert added(shares[1]) == {second: [5, 6, 7, 4.5], key_of(CPU): [2]}
    adder = Adder(LIMIT)
    for _ in range(2):
        assert series_of(*adder.add(shares[1:])) == {second: [5, 6, 7, 4.5], key_of(CPU): [2]}
        assert series_of(*adder.add(shares)) == expected


@pytest.mark.parametrize("seed", range(3))
def test_of_other_bounds_all_workers_show_the_same(seed):
    """Whoever is asked, and however many are dead, buckets are the same, and the numbers in them to the last bit."""
    dice = random.Random(seed)
    bounds = [(0.1, 1.0, 10.0), (0.5, 5.0), (0.1, 1.0), (0.5, 5.0, 50.0)]
    shares = [random_share(seed * 10 + i, metrics=[VALUE, CPU], value_bounds=bounds[i % 4]) for i in range(7)]
    expected = bits(added(*shares))
    for _ in range(8):
        dice.shuffle(shares)
        assert bits(added(*shares)) == expected
        dead = dice.randint(1, 6)
        assert bits(added(folded(shares[:dead]), *shares[dead:])) == expected
        assert bits(added(*shares[dead:], folded([folded(shares[:1]), *shares[1:dead]]))) == expected


@pytest.mark.parametrize(
    "key",
    [
        ("nobody_knows_this_total", ("m",), None),
        ("model_request_total", ("m", "1"), None),
        ("model_request_total", ("m", "1", "success", "more"), None),
        ("model_request_total", (), None),
        ("model_request_total", ("m", "1", "success"), (1.0, 2.0)),
        (LATENCY, ("m", "1"), None),
        (LATENCY, ("m",), BOUNDS),
    ],
)
def test_what_another_version_may_have_written(key):
    """Unknown metrics, other labels and other kinds are passed over; what stands beside them is added."""
    good = key_of("model_rows_total")
    series = {key_of(CPU): 1.5, key: [7.0] * width(key[2]), good: 3}
    for shares in ([share_of(series), share_of({good: 4})], [share_of({good: 4}), share_of(series, alive=False)]):
        assert added(*shares) == {key_of(CPU): [1.5], good: [7]}
    assert counted(share_of(series)).keys == (key_of(CPU), good)


def test_beyond_the_limit_label_sets_fold():
    """Of one metric no more label sets than the limit, and one for all others; the total stays exact."""
    series = [{key_of("model_rows_total", 10 * w + i): 1 for i in range(10)} | {key_of(CPU): 1} for w in range(5)]
    adder = Adder(12)
    for _ in range(3):
        found = series_of(*adder.add([share_of(one) for one in series]))
        rows = {key: numbers for key, numbers in found.items() if key[0] == "model_rows_total"}
        assert len(rows) == 13
        assert rows["model_rows_total", (OTHER, OTHER), None] == [50 - 12]
        assert sum(number for (number,) in rows.values()) == 50
        assert found[key_of(CPU)] == [5]
    histograms = [{key_of(LATENCY, i): [1, 0, 2, 0, 0.5]} for i in range(5)]
    found = added(*map(share_of, histograms), limit=2)
    assert found[LATENCY, (OTHER, OTHER), BOUNDS] == [3, 0, 6, 0, 1.5]
    assert len(found) == 3


def test_what_is_folded_stays_folded():
    """A label set that one worker has folded away is added to what the others fold."""
    other = ("model_rows_total", (OTHER, OTHER), None)
    found = added(share_of({other: 5}), share_of({key_of("model_rows_total", i): 1 for i in range(4)}), limit=2)
    assert found[other] == [5 + 3]
    assert sum(number for (number,) in found.values()) == 9


def test_it_keeps_nothing_of_keys_that_nobody_has(monkeypatch):
    """Workers that come with other series again and again leave nothing behind but their series."""
    adder = Adder(LIMIT)
    for number in range(200):
        adder.add([share_of({key_of("model_rows_total", number % 3): number}), share_of({key_of(CPU): 1})])
        assert len(adder._plans) == 2
    assert len(adder._places) == 4


def test_keys_of_another_share_are_not_taken_for_these():
    """Series that come and go in memory are never taken for others that happen to lie in the same place."""
    adder = Adder(LIMIT)
    for number in range(300):
        key = key_of("model_rows_total", number % 7)
        assert series_of(*adder.add([share_of({key: number})])) == {key: [number]}


@pytest.mark.parametrize("seed", range(3))
def test_exact_numbers_are_near(seed):
    """What is added is what was counted, to a millionth, or to a millionth of the largest bound; whole numbers are."""
    share = random_share(seed)
    dice = np.random.default_rng(seed)
    values = share.values + dice.random(len(share.values))
    whole = np.floor(values)
    kept = values.copy()
    found, start = exact(share.keys, values), 0
    for key in share.keys:
        end = start + width(key[2])
        scale = 2 * max(key[2]) if key[0] == VALUE else 1.0
        assert np.all(values[start:end] - found[start:end] >= 0)
        assert np.all(values[start:end] - found[start:end] <= 1e-6 * max(scale, 1.0))
        start = end
    assert exact(share.keys, whole).tolist() == whole.tolist()
    assert values.tolist() == kept.tolist()


def test_exact_numbers_of_tiny_and_huge_values():
    """Sums of predictions keep about six digits of the largest bound, be that a billionth or a trillion."""
    for scale in (1e-260, 1e-9, 1.0, 1e12, 1e280):
        key = key_of(VALUE, bounds=(scale / 2, scale))
        values = np.array([1, 2, 3, 0.7654321 * scale])
        found = exact([key], values)
        assert found[:3].tolist() == [1, 2, 3]
        assert abs(found[3] - values[3]) <= 4e-6 * scale
        assert found.tobytes() == exact([key], found).tobytes()


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, 1.7e308, -1.7e308, 2.0**1000 + 1, -0.0, 5e-324])
def test_exact_numbers_that_are_hard_to_cut(number):
    """What cannot be cut stays as it is, without a warning, and a tiny one goes to zero."""
    for key in (key_of(CPU), key_of(VALUE)):
        values = np.array([number] * width(key[2]))
        found = exact([key], values)
        expected = np.where(np.abs(values) < 1e-300, 0.0, values)
        assert np.array_equal(found, expected, equal_nan=True)


def test_nothing_to_add():
    """No shares, and shares without series, make no series."""
    assert series_of(*Adder(LIMIT).add([])) == {}
    assert added(share_of({}), share_of({}, alive=False)) == {}
    assert counted(share_of({})).values.shape == (0,)


def test_counted_keeps_models_and_name():
    """What outlives a worker says whose it was, that it is dead, and has its windows."""
    share = share_of({key_of(CPU): 1.5}, name="somebody", models={"m": []})
    found = counted(share)
    assert (found.name, found.alive, found.models) == ("somebody", False, {"m": []})
