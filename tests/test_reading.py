"""k workers are one worker: whoever is asked reads what a single process would that had seen all rows, bit for bit."""

from __future__ import annotations

import itertools
import math
import random

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.shares import Still, batch_of, head_of, plain, reference_of, share_of, spoil, through_file

import modelwatch.engine
from modelwatch.container import Container
from modelwatch.engine import Engine
from modelwatch.exceptions import SegmentError
from modelwatch.guard import Guard
from modelwatch.segments import Segments
from modelwatch.series import Series
from modelwatch.settings import Settings
from modelwatch.shares import Share

REFERENCE = reference_of(rows=200)
OTHER = reference_of(1, rows=200)
SECONDS, SLOTS, WIDE = 40.0, 4, 5
TIME = {"window_seconds": SECONDS, "window_slots": SLOTS, "max_window_seconds": WIDE * SECONDS}
ROWS = {"window_rows": 12, "max_age_seconds": 100.0}
KINDS = [(0.5, "k1"), (-3.0, "k2"), (None, "new"), ("text", None), (math.inf, 5), (1.25, "k0")]
PREDICTED = [0.1, None, math.nan, 7.0]


@pytest.fixture(autouse=True)
def still(monkeypatch):
    """No background thread."""
    monkeypatch.setattr(modelwatch.engine, "PULSE", Still())


class Turned:
    """A clock that stands still until it is turned."""

    def __init__(self):
        self.now = 1_000_000.0

    def __call__(self):
        return self.now


def engine_of(clock, reference=REFERENCE, **options):
    engine = Engine("m", "1", Settings(**options), Series(), Guard(), bounds={}, clock=clock, wall=clock)
    if reference is not None:
        engine.swap(reference, "object")
    return engine


def seen_by(reading):
    """All that a reading holds, to the last bit."""
    content = reading.content
    totals = [(one.epoch.key, one.binned.tolist(), one.missing.tolist()) for one in reading.totals]
    return {
        "counts": content.counts.tolist(),
        "window": (content.rows, content.seconds),
        "rows": (reading.rows, reading.seen.tolist(), reading.captured.tolist()),
        "totals": totals,
    }


class Service:
    """Several workers, and one that sees what all of them see."""

    def __init__(self, path, workers, **options):
        self.path, self.options, self.clock = path, options, Turned()
        self.files = itertools.count()
        self.single = engine_of(self.clock, **options)
        self.living = [engine_of(self.clock, **options) for _ in range(workers)]
        self.dead = []  # shares that were read from files
        self.latest = self.clock.now
        self.number = 0

    def row(self, worker, kind, ago=0.0):
        """A row that one of the workers gets; `ago` seconds before the newest one."""
        self.latest = max(self.latest, self.clock.now)
        rows = [KINDS[kind % len(KINDS)]]
        more = {"predictions": [PREDICTED[kind % len(PREDICTED)]], "confidences": [kind / 7]}
        if self.options.get("event_time"):
            more["timestamps"] = [self.latest - ago]
        for engine in (self.single, self.living[worker % len(self.living)]):
            engine.append(batch_of(rows, **more))
            engine.fold()
        self.clock.now += 1e-3  # no two rows come at the same instant

    def share(self, engine):
        """What others read of a worker."""
        engine.fold()
        name = str(next(self.files))
        return through_file(share_of({}, name=name, models={"m": engine.shares()}), self.path / name)

    def others(self, worker):
        shares = [self.share(engine) for engine in self.living if engine is not self.living[worker]]
        return [epoch for share in [*self.dead, *shares] for epoch in share.models["m"]]

    def die(self, worker):
        """One dies, and another one takes its place."""
        self.dead.append(self.share(self.living[worker % len(self.living)]))
        self.living[worker % len(self.living)] = engine_of(self.clock, self.single.epoch.profile, **self.options)

    def fold(self, worker):
        """The dead become one."""
        engine = self.living[worker % len(self.living)]
        epochs = engine.epochs.together([epoch for share in self.dead for epoch in share.models["m"]])
        past = Share("past", False, (), np.empty(0), {"m": epochs})
        self.dead = [through_file(past, self.path / str(next(self.files)))]

    def check(self, worker):
        """Whoever is asked says what the single one says."""
        found = seen_by(self.living[worker % len(self.living)].read(self.others(worker % len(self.living))))
        assert found == seen_by(self.single.read())

    def check_all(self):
        for worker in range(len(self.living)):
            self.check(worker)


WORKER = st.integers(0, 3)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("row"), WORKER, st.integers(0, 23), st.floats(0, SECONDS - SECONDS / SLOTS - 1)),
        st.tuples(st.just("row"), WORKER, st.integers(0, 23), st.just(0.0)),
        st.tuples(st.just("turn"), st.sampled_from([0.5, 3.0, 9.9, 10.0, 25.0, 41.0, 120.0, 300.0])),
        st.tuples(st.just("die"), WORKER),
        st.tuples(st.just("fold"), WORKER),
        st.tuples(st.just("check"), WORKER),
    ),
    max_size=60,
)


def play(service, steps):
    for what, *arguments in steps:
        if what == "turn":
            service.clock.now += arguments[0]
        elif what == "row" and not service.options.get("event_time"):
            service.row(*arguments[:2])
        else:
            getattr(service, what)(*arguments)
    service.check_all()


@pytest.mark.parametrize("options", [TIME, ROWS, {**TIME, "event_time": True}], ids=["time", "rows", "event time"])
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(steps=STEPS, workers=st.integers(1, 4), min_rows=st.sampled_from([1, 4, 10, 12]))
def test_workers_are_one_worker(options, tmp_path, steps, workers, min_rows):
    """Rows dealt to workers in any way, looked at at any time, some workers dead and folded: one would say the same."""
    play(Service(tmp_path, workers, min_rows=min_rows, **options), steps)


@pytest.mark.parametrize("options", [TIME, ROWS, {**TIME, "event_time": True}], ids=["time", "rows", "event time"])
@pytest.mark.parametrize("seed", range(2))
def test_a_long_life_of_many_workers(options, tmp_path, seed):
    """Over many slots, with deaths and folds all the time, and whoever is asked, it is what one would say."""
    dice = random.Random(seed)
    service = Service(tmp_path, 3, min_rows=8, **options)
    widened = 0
    for number in range(250):
        service.row(dice.randrange(3), number, dice.uniform(0, SECONDS - SECONDS / SLOTS - 1) * dice.randrange(2))
        if dice.random() < 0.3:
            service.clock.now += dice.expovariate(1 / 15)
        if dice.random() < 0.06:
            service.die(dice.randrange(3))
        if dice.random() < 0.04:
            service.fold(dice.randrange(3))
        if dice.random() < 0.2:
            service.check(dice.randrange(3))
            seconds = service.single.read().content.seconds or 0
            widened += seconds > SECONDS
    service.check_all()
    assert "window_rows" in options or widened > 3


@pytest.mark.soak
@pytest.mark.parametrize("options", [TIME, ROWS, {**TIME, "event_time": True}], ids=["time", "rows", "event time"])
@settings(max_examples=3000, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(steps=STEPS, workers=st.integers(1, 4), min_rows=st.sampled_from([1, 4, 10, 12]))
def test_workers_are_one_worker_at_length(options, tmp_path, steps, workers, min_rows):
    """The same over many more schedules."""
    play(Service(tmp_path, workers, min_rows=min_rows, **options), steps)


def test_workers_that_have_seen_nothing(tmp_path):
    """Whoever has seen nothing says all the same what the others have."""
    for options in (TIME, ROWS, {**TIME, "event_time": True}):
        service = Service(tmp_path, 3, min_rows=1, **options)
        service.check_all()
        for kind in range(5):
            service.row(0, kind)
        service.check_all()
        assert service.living[2].read(service.others(2)).content.rows == 5


def test_a_row_that_only_one_worker_has_is_wide(tmp_path):
    """When the window widens, wide slots of one worker, those that another dropped, and those of the dead add up."""
    service = Service(tmp_path, 3, min_rows=10, **TIME)
    for worker, wait in ((0, 45), (1, 45), (0, 45), (2, 30)):
        for kind in range(4):
            service.row(worker, kind)
        service.clock.now += wait
        service.check_all()
    assert service.single.read().content.rows == 12
    service.die(1)
    service.fold(0)
    for kind in range(6):
        service.row(0, kind)
        service.check_all()
    for _ in range(10):
        service.clock.now += 31
        service.check_all()
    assert service.single.read().content.rows == 0


def test_reading_leaves_its_arguments_alone(tmp_path):
    """What others have counted is not changed by being read, nor by being laid together, nor is what is ones own."""
    for options in (TIME, ROWS, {**TIME, "event_time": True}):
        service = Service(tmp_path, 3, min_rows=12, **options)
        for number in range(40):
            service.row(number % 3, number)
            service.clock.now += 4
        others, mine = service.others(0), service.living[0]
        mine.read([])
        before = plain(others), plain(mine.shares())
        first = seen_by(mine.read(others))
        assert seen_by(mine.read(others)) == first
        mine.epochs.together(others)
        assert (plain(others), plain(mine.shares())) == before


def test_what_was_read_is_copied(tmp_path):
    """Numbers that were read do not change when rows come, nor do they change what is counted."""
    for options in (TIME, ROWS):
        service = Service(tmp_path, 2, min_rows=1, **options)
        service.row(0, 1)
        service.row(1, 2)
        reading = service.living[0].read(service.others(0))
        before = seen_by(reading)
        service.row(0, 3)
        service.living[0].read(service.others(0))
        assert seen_by(reading) == before
        reading.content.counts[:] = -1
        reading.totals[0].binned[:] = -1
        reading.totals[0].missing[:] = -1
        reading.seen[:] = False
        service.check_all()


@pytest.mark.parametrize("options", [TIME, ROWS])
def test_other_references_and_versions_are_left_out(tmp_path, options):
    """Only what was counted against the same cells, for the same version, is added, in the totals of the last too."""
    service = Service(tmp_path, 2, min_rows=1, **options)
    service.row(0, 1)
    service.row(1, 2)
    mine, other = service.living
    other.swap(OTHER, "object")
    service.living[1].append(batch_of([KINDS[0]] * 5))
    found = mine.read(service.others(0))
    assert (found.content.rows, found.rows) == (1, 2)
    assert int(found.totals[0].missing[1] + found.totals[0].binned.sum()) > 0
    assert len(found.totals) == 1
    mine.swap(OTHER, "object")
    found = mine.read(service.others(0))
    assert (found.content.rows, found.rows) == (5, 5)
    assert [one.epoch.profile.hash for one in found.totals] == [OTHER.hash, REFERENCE.hash]
    rows_of_a = slice(0, len(REFERENCE.layout.cells[0].bins))
    assert [int(one.binned[rows_of_a].sum() + one.missing[0]) for one in found.totals] == [5, 2]
    other.swap(OTHER, "object", "2")
    assert mine.read(service.others(0)).content.rows == 0


def test_features_that_any_worker_has_seen_are_captured(tmp_path):
    """A feature is captured if any worker has seen it, and nothing is said before all together had enough rows."""
    service = Service(tmp_path, 2, min_rows=6, **TIME)
    only_a = [(0.5,)]
    for _ in range(3):
        for worker in service.living:
            worker.append(batch_of(only_a, ("a",)))
    found = service.living[0].read(service.others(0))
    assert (found.rows, found.captured.tolist()) == (6, [True, False, False, False])
    service.living[1].append(batch_of([("k1",)], ("c",)))
    for worker in range(2):
        found = service.living[worker].read(service.others(worker))
        assert found.captured.tolist() == [True, True, False, False]
    alone = service.living[0].read([])
    assert alone.captured.tolist() == [True] * 4


def test_without_a_reference_there_is_no_reading(tmp_path):
    """A worker without a reference reads nothing, whatever the others have."""
    service = Service(tmp_path, 2, **TIME)
    service.row(1, 1)
    assert engine_of(service.clock, None, **TIME).read(service.others(0)) is None


def test_event_time_ends_at_the_newest_row_of_all(tmp_path):
    """With event time the window ends at the largest timestamp that any worker has seen, dead or alive."""
    service = Service(tmp_path, 2, min_rows=1, event_time=True, **TIME)
    service.row(0, 1)
    service.clock.now += 35
    service.row(1, 2)
    service.check_all()
    service.clock.now += 30
    service.row(1, 3)
    service.die(1)
    service.check_all()
    service.fold(0)
    service.check_all()
    assert service.living[0].read(service.others(0)).content.seconds == pytest.approx(30, abs=0.1)


def test_the_newest_rows_of_all_are_the_window(tmp_path):
    """Of all workers' rows the newest N are the window, also when one worker has most of them, or all."""
    service = Service(tmp_path, 3, min_rows=1, **ROWS)
    for worker, rows in ((0, 5), (1, 20), (2, 3), (0, 2), (1, 30), (2, 1)):
        for number in range(rows):
            service.row(worker, number)
            service.check(number)
        service.check_all()
    service.clock.now += 99.99
    service.check_all()
    service.clock.now += 1
    service.check_all()
    assert service.single.read().content.rows == 0


def test_a_share_that_lies(tmp_path):
    """Counts that are not of the reference's size, whatever file they come from, are not added to any others."""
    service = Service(tmp_path, 2, min_rows=1, **TIME)
    service.row(0, 1)
    service.row(1, 2)
    for change in (
        lambda share: setattr(share, "missing", share.missing[:-1]),
        lambda share: setattr(share, "missing", np.zeros(1, np.int64)),
        lambda share: setattr(share, "binned", share.binned[:-1]),
        lambda share: setattr(share, "seen", share.seen[:-1]),
    ):
        share = service.living[1].shares()[0]
        change(share)
        found = service.living[0].read([share])
        assert (found.rows, found.content.rows) == (1, 1)


@pytest.mark.parametrize("part", ["fine", "coarse", "whole"])
@pytest.mark.parametrize("size", [0, 1, 7])
def test_slots_of_another_size(tmp_path, part, size):
    """A slot that does not have the reference's cells is never spread over all of them."""
    service = Service(tmp_path, 2, min_rows=50, **TIME)
    for number in range(12):
        service.row(number % 2, number)
        service.clock.now += 11
    share = service.living[1].shares()[0]
    mine = service.living[0].read([])
    window = share.window
    slots = [window.whole] if part == "whole" else list(getattr(window, part).values())
    assert slots
    for slot in slots:
        slot._counts = np.ones(size, np.uint32)
    try:
        found = service.living[0].read([share])
    except (SegmentError, ValueError):
        return
    assert found.content.counts.sum() <= 4 * found.content.rows
    assert found.content.rows >= mine.content.rows


def test_a_damaged_slot_costs_its_own_rows(tmp_path):
    """A slot whose checksum is wrong is left out with its rows, told each time, and the rest is what it was."""
    service = Service(tmp_path, 3, min_rows=1, **TIME)
    for number in range(9):
        service.row(number % 3, number)
    expected = seen_by(service.living[0].read(service.others(0)[1:]))["counts"]
    path, told = tmp_path / "bad", []
    through_file(share_of({}, models={"m": service.living[1].shares()}), path)
    spoil(path, head_of(path)["body"]["models"][0]["epochs"][0]["window"]["whole"][2])
    damaged = Segments().unpack(Container(path), "w", alive=True, bad=told.append).models["m"]
    found = service.living[0].read([*damaged, *service.others(0)[1:]])
    assert (found.content.counts.tolist(), found.content.rows, found.rows) == (expected, 6, 9)
    assert [type(error) for error in told] == [SegmentError]
    epochs = service.living[0].epochs.together([*damaged, *service.others(0)[1:]])
    assert (epochs[0].rows, epochs[0].window.whole.rows) == (6, 6)
