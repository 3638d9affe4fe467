"""Detectors over the sums of all workers: they alarm where one process would, once, and lose nothing on the way."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from support.shares import Still, batch_of, reference_of

import modelwatch.engine
from modelwatch.detection import Detection
from modelwatch.detectors import PageHinkley
from modelwatch.engine import Engine
from modelwatch.exceptions import ConfigurationError
from modelwatch.guard import Guard
from modelwatch.series import Series
from modelwatch.settings import Settings
from modelwatch.shares import EpochShare

REFERENCE = reference_of()
OTHER = reference_of(1)
PLAIN = reference_of(2, prediction=False)


@pytest.fixture(autouse=True)
def still(monkeypatch):
    """No background thread."""
    monkeypatch.setattr(modelwatch.engine, "PULSE", Still())


def engine_of(clock, reference=REFERENCE):
    engine = Engine("m", "1", Settings(), Series(), Guard(), bounds={}, clock=clock, wall=clock)
    engine.alone = False
    engine.swap(reference, "object")
    return engine


def batches(seed, ticks, *, shift=0.0, at=150):
    """Per tick predictions and confidences; from tick `at` on predictions have moved."""
    dice = np.random.default_rng(seed)
    for number in range(ticks):
        rows = int(dice.integers(0, 25))
        moved = shift if number >= at else 0.0
        yield dice.normal(moved, 1.0, rows).tolist(), dice.random(rows).tolist()


def feed(engines, predictions, confidences, dice):
    """Deal the rows of a tick to workers."""
    owners = dice.integers(0, len(engines), len(predictions))
    for number, engine in enumerate(engines):
        mine = [i for i, owner in enumerate(owners) if owner == number]
        engine.append(
            batch_of(
                [(0.5, "k1")] * len(mine),
                predictions=[predictions[i] for i in mine],
                confidences=[confidences[i] for i in mine],
            )
        )
        engine.fold()


def shares_of(engines):
    return [share for engine in engines for share in engine.shares()]


def stands(engine):
    return {
        signal.name: (signal.detector.alarms, signal.detector.statistic, signal.last_alarm)
        for signal in engine.detection.signals
    }


def agree(found, expected):
    assert found.keys() == expected.keys()
    for name, (alarms, statistic, last) in found.items():
        assert (alarms, last) == (expected[name][0], expected[name][2])
        assert statistic == pytest.approx(expected[name][1], rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("workers", [1, 2, 5])
@pytest.mark.parametrize("shift", [0.0, 1.0, -1.0])
def test_workers_alarm_where_one_would(clock, workers, shift):
    """Rows dealt to any number of workers make the detector alarm at the tick at which one process would."""
    single, several = engine_of(clock), [engine_of(clock) for _ in range(workers)]
    dice, alarms = np.random.default_rng(7), []
    several[0].detect(shares_of(several[1:]))
    for number, (predictions, confidences) in enumerate(batches(3, 400, shift=shift)):
        feed([single], predictions, confidences, dice)
        feed(several, predictions, confidences, dice)
        single.detect()
        several[0].detect(shares_of(several[1:]))
        agree(stands(several[0]), stands(single))
        if single.detection.signals[0].detector.drift_detected:
            alarms.append(number)
        clock.advance(1)
    assert len(alarms) == (1 if shift else 0)
    assert all(150 <= number < 350 for number in alarms)
    assert all(not any(alarms for alarms, *_ in stands(one).values()) for one in several[1:])


@pytest.mark.parametrize("at", [40, 170, 200])
def test_a_takeover_goes_on(clock, at):
    """Whoever takes over, with the state of the last and what that had counted, goes on as if nothing had happened."""
    single, several = engine_of(clock), [engine_of(clock) for _ in range(3)]
    dice, dead = np.random.default_rng(7), []
    several[0].detect(shares_of(several[1:]))
    for number, (predictions, confidences) in enumerate(batches(3, 400, shift=1.0)):
        feed([single], predictions, confidences, dice)
        feed(several, predictions, confidences, dice)
        single.detect()
        several[0].detect(dead + shares_of(several[1:]))
        agree(stands(several[0]), stands(single))
        if number == at:
            state = json.loads(json.dumps(several[0].detection.to_state(), allow_nan=False))
            dead = several[1].epochs.together(shares_of([several.pop(0)]))
            several[0].detection.adopt(state)
        clock.advance(1)
    assert stands(several[0])["prediction"][0] == 1


def test_rows_are_seen_once(clock):
    """What a new leader has counted before it was elected, and the old one has seen, it does not see again."""
    old, new = engine_of(clock), engine_of(clock)
    dice = np.random.default_rng(0)
    for predictions, confidences in batches(1, 50):
        feed([old, new], predictions, confidences, dice)
        old.detect(shares_of([new]))
    expected = stands(old)
    new.detection.adopt(old.detection.to_state())
    for _ in range(5):
        new.detect(shares_of([old]))
    agree(stands(new), expected)


def test_rows_that_were_lost(clock):
    """When the old leader had seen rows that it never published, the new one sees none twice, and goes on."""
    old, new = engine_of(clock), engine_of(clock)
    dice = np.random.default_rng(0)
    feed([old], [0.1] * 10, [0.5] * 10, dice)
    old.detect()
    new.detection.adopt(old.detection.to_state())
    expected = stands(new)
    feed([new], [9.0] * 5, [0.5] * 5, dice)
    new.detect()
    agree(stands(new), expected)
    for _ in range(3):
        feed([new], [0.1] * 5, [0.5] * 5, dice)
        new.detect()
    assert new.detection.signals[0].detector.to_state()["_n"] in {3, 4}


def test_rows_of_before_the_first_tick(clock):
    """What the others had counted before the detector saw anything is no news, what they count from then on is."""
    leader, other = engine_of(clock), engine_of(clock)
    dice = np.random.default_rng(0)
    feed([other], dice.normal(0.5, 1, 1000).tolist(), [0.5] * 1000, dice)
    leader.detect(shares_of([other]))
    assert leader.detection.signals[0].detector.to_state()["_n"] == 0
    feed([leader, other], [0.5] * 6, [0.5] * 6, dice)
    leader.detect(shares_of([other]))
    state = leader.detection.signals[0].detector.to_state()
    alone = engine_of(clock)
    alone.detect()
    feed([alone], [0.5] * 6, [0.5] * 6, dice)
    alone.detect()
    assert state["_mean"] == pytest.approx(alone.detection.signals[0].detector.to_state()["_mean"])


def test_a_worker_that_cannot_be_read_for_a_while(clock):
    """When the file of a worker cannot be read at one tick, its rows of long ago are not seen again at the next."""
    leader, undisturbed, other = engine_of(clock), engine_of(clock), engine_of(clock)
    for one in (leader, undisturbed):
        one.detect(shares_of([other]))
    dice, highest = np.random.default_rng(0), [0.0, 0.0]
    for number in range(60):
        feed([other], dice.normal(0.3, 1, 400).tolist(), [0.5] * 400, dice)
        leader.detect([] if number == 40 else shares_of([other]))
        undisturbed.detect(shares_of([other]))
        for i, one in enumerate((leader, undisturbed)):
            highest[i] = max(highest[i], one.detection.signals[0].detector.statistic)
    assert highest[0] < highest[1] + 10


def test_a_worker_that_begins_anew(clock):
    """When a worker's sums begin at zero, as after a reload of an equal reference, what comes is seen again soon."""
    leader, other = engine_of(clock), engine_of(clock)
    leader.detect(shares_of([other]))
    dice = np.random.default_rng(0)
    feed([other], [0.1] * 1000, [0.5] * 1000, dice)
    leader.detect(shares_of([other]))
    other.swap(REFERENCE, "object")
    for _ in range(10):
        feed([leader, other], [0.1] * 20, [0.5] * 20, dice)
        leader.detect(shares_of([other]))
    # The first one, and after four ticks in which the worker might have been unreadable all others.
    assert leader.detection.signals[0].detector.to_state()["_n"] == 1 + 10 - 5


def test_other_references_are_not_seen(clock):
    """Streams of another reference, or version, are no part of what the detector sees."""
    mine, other, version = engine_of(clock), engine_of(clock, OTHER), engine_of(clock)
    version.rename("2")
    dice = np.random.default_rng(0)
    for engine in (mine, other, version):
        feed([engine], [0.5] * 4, [0.5] * 4, dice)
    mine.detect(shares_of([other, version]))
    expected = engine_of(clock)
    feed([expected], [0.5] * 4, [0.5] * 4, dice)
    expected.detect()
    agree(stands(mine), stands(expected))


def test_a_share_without_streams(clock):
    """A worker whose share has no stream of a signal, as one without a number for it, adds nothing."""
    mine = engine_of(clock)
    feed([mine], [0.5] * 4, [0.5] * 4, np.random.default_rng(0))
    share = engine_of(clock).shares()[0]
    share.streams = {"confidence": (0, 0.0), "unknown": (5, 1.0)}
    mine.detect([share])
    assert mine.detection.signals[0].detector.to_state()["_n"] == 1


def test_what_was_counted_before_a_reload_is_not_new(clock):
    """After a reload to the same or an earlier reference, rows of workers that died long ago are not seen again."""
    leader, dead = engine_of(clock), engine_of(clock)
    dice = np.random.default_rng(0)
    for _ in range(40):
        feed([leader, dead], dice.normal(0.2, 1, 50).tolist(), [0.5] * 50, dice)
        leader.detect(shares_of([dead]))
    past = leader.epochs.together(shares_of([dead]))
    for reference in (OTHER, REFERENCE):
        leader.swap(reference, "object")
        leader.detect(past)
    assert leader.detection.signals[0].detector.to_state()["_n"] == 0
    leader.swap(REFERENCE, "object")
    leader.detect(past)
    assert leader.detection.signals[0].detector.to_state()["_n"] == 0


# State


def detection_of(reference=REFERENCE, version="1"):
    detection = Detection()
    detection.turn(reference, version, None, [])
    return detection


def test_which_signals_there_are():
    """Prediction and confidence are watched where the reference has them and they vary, nothing else."""
    assert [signal.name for signal in detection_of().signals] == ["prediction", "confidence"]
    assert detection_of(PLAIN).signals == []
    assert detection_of(PLAIN).to_state() == {"against": ["1", PLAIN.hash], "signals": {}}
    assert Detection().to_state()["against"] is None


def test_state_is_plain():
    """The state is what JSON can say, and adopting it gives the same state."""
    first, second = detection_of(), detection_of()
    dice = np.random.default_rng(0)
    for _ in range(50):
        first.signals[0].add(dice.normal(0, 1, 5))
        first.signals[1].add(dice.random(5))
        first.tick([], lambda: 7.0)
    for signal in first.signals:
        signal.last_alarm = 5.5
    state = json.loads(json.dumps(first.to_state(), allow_nan=False))
    second.adopt(state)
    assert json.loads(json.dumps(second.to_state())) == state
    assert second.to_state() == first.to_state()
    assert [signal.rows for signal in second.signals] == [0, 0]


def test_state_of_something_else_is_left():
    """A state of another reference or version changes nothing; nor does one before there is a reference."""
    first = detection_of()
    first.signals[0].detector.alarms = 5
    for detection in (detection_of(OTHER), detection_of(REFERENCE, "2"), detection_of(PLAIN), Detection()):
        before = detection.to_state()
        detection.adopt(first.to_state())
        assert detection.to_state() == before


GOOD = detection_of().to_state()


def broken(**changes):
    return {**GOOD, "signals": {"prediction": {**GOOD["signals"]["prediction"], **changes}}}


@pytest.mark.parametrize(
    "state",
    [
        {}, {"signals": {}}, {"against": GOOD["against"]}, {"against": GOOD["against"], "signals": None},
        {"against": GOOD["against"], "signals": {"prediction": None}},
        {"against": GOOD["against"], "signals": {"prediction": {}}},
        broken(detector=None), broken(detector={}), broken(detector=[]), broken(detector=5), broken(taken=5),
        broken(taken=[1]), broken(taken={}), broken(taken=["x", 1]), broken(taken=[math.inf, 0.0]),
        broken(taken=[math.nan, 0.0]), broken(taken=[10**400, 10**400]), broken(last_alarm="x"), broken(last_alarm=[]),
        broken(last_alarm=10**400), None, [], 5, "against",
        broken(detector={**PageHinkley.standardised().to_state(), "_mean": math.nan}),
        broken(detector={**PageHinkley.standardised().to_state(), "alarms": "many"}),
    ],
)  # fmt: skip
def test_states_that_are_none(state):
    """What is no state is refused with an error that is foreseen, and nothing has changed."""
    detection = detection_of()
    before = detection.to_state()
    with pytest.raises((ConfigurationError, LookupError, OverflowError, TypeError, ValueError)):
        detection.adopt(state)
    assert detection.to_state() == before


@pytest.mark.parametrize("taken", [[5, math.inf], [5, math.nan]])
def test_sums_that_are_no_numbers_do_not_spoil_the_detector(taken):
    """A sum in a state that is no number does not reach the detector: it goes on with numbers."""
    detection = detection_of()
    try:
        detection.adopt(broken(taken=taken))
    except ValueError:
        return
    for _ in range(20):
        detection.signals[0].add(np.array([0.5] * 10))
        detection.tick([], lambda: 0.0)
    assert detection.signals[0].detector.to_state()["_n"] > 0


def test_an_alarm_is_dated(clock):
    """When a detector alarms, the time is kept, and handed on with the state."""
    detection, other = detection_of(), detection_of()
    for number in range(200):
        detection.signals[0].add(np.full(20, 0.0 if number < 100 else 5.0))
        detection.tick([], lambda n=number: 1000.0 + n)
    assert detection.signals[0].detector.alarms >= 1
    assert 1100 <= detection.signals[0].last_alarm < 1200
    other.adopt(detection.to_state())
    assert other.signals[0].last_alarm == detection.signals[0].last_alarm


def test_alarms_go_on_over_references(clock):
    """After a reload alarms are counted on where those of the same version and signal stood."""
    engine = engine_of(clock)
    engine.detection.signals[0].detector.alarms = 3
    engine.detection.signals[0].last_alarm = 55.0
    engine.swap(OTHER, "object")
    assert stands(engine)["prediction"] == (3, 0.0, 55.0)
    engine.swap(PLAIN, "object")
    engine.swap(OTHER, "object")
    assert stands(engine)["prediction"] == (3, 0.0, 55.0)
    engine.swap(OTHER, "object", "2")
    assert stands(engine)["prediction"] == (0, 0.0, None)
    engine.swap(OTHER, "object", "1")
    assert stands(engine)["prediction"] == (3, 0.0, 55.0)


def test_a_child_sees_from_zero():
    """In a child neither sums nor detectors know what the parent has seen."""
    detection = detection_of()
    detection.signals[0].add(np.array([0.5] * 10))
    detection.tick([], lambda: 0.0)
    detection.forked()
    fresh = detection_of()
    assert detection.to_state() == fresh.to_state()
    assert detection.sums() == fresh.sums() == {"prediction": (0, 0.0), "confidence": (0, 0.0)}


def test_ticks_without_rows(clock):
    """Without new rows of anybody nothing happens, however often it is asked."""
    engine = engine_of(clock)
    feed([engine], [0.5] * 4, [math.nan] * 4, np.random.default_rng(0))
    engine.detect()
    before = engine.detection.to_state()
    for _ in range(3):
        engine.detect([EpochShare(*engine.epoch.key, 0, np.zeros(4, bool), np.zeros(1), np.zeros(4), None)])
        engine.detect()
    assert engine.detection.to_state() == before
    assert engine.detection.signals[1].detector.to_state()["_n"] == 0
