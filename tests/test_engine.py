"""From rows to counts: nothing is lost unseen, nothing is counted twice, whatever fails and whatever is swapped."""

from __future__ import annotations

import threading
from collections import Counter

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import modelwatch.engine
from modelwatch._types import ABSENT
from modelwatch.buffer import Batch
from modelwatch.engine import FOLD_ROWS, Engine
from modelwatch.epoch import Epoch
from modelwatch.files import ReferenceProfile
from modelwatch.guard import Guard
from modelwatch.learning import Learner
from modelwatch.monitor import Monitor
from modelwatch.series import Series
from modelwatch.settings import Settings

PATIENCE = 30


class Still:
    """A pulse that never beats: nothing happens in these tests but what they do."""

    def __init__(self):
        self.generation = 1
        self.wakes = 0

    def know(self, ticked):
        pass

    def add(self, ticked):
        pass

    def wake(self):
        self.wakes += 1


@pytest.fixture(autouse=True)
def still(monkeypatch):
    """No background thread."""
    pulse = Still()
    monkeypatch.setattr(modelwatch.engine, "PULSE", pulse)
    return pulse


def reference_of(seed=0, *, names=("a", "c"), shift=0.0, prediction="number"):
    random = np.random.default_rng(seed)
    own = {"a": random.normal(shift, 1.0, 400), "c": [f"k{i}" for i in random.integers(0, 4, 400)]}
    predictions = random.normal(size=400) if prediction == "number" else ["yes", "no"] * 200
    table = {name: own[name] for name in names} | {"p": predictions, "q": random.random(400)}
    return ReferenceProfile.fit(table, prediction="p", confidence="q")


REFERENCES = [reference_of(0), reference_of(1, names=("c", "a"), shift=1.0), reference_of(2, prediction="class")]


def outcomes(monitor):
    return {c.labels[0]: c.values[0] for c in monitor.series.cells() if c.metric == "modelwatch_rows_total"}


def totals_of(epoch):
    """Rows counted by each feature."""
    return [int(epoch.totals[at].sum()) for at in epoch.profile.layout.slices()]


def engine_of(clock, *, guard=None, wall=None, **options):
    engine = Engine(
        "m", "1", Settings(**options), Series(), guard or Guard(), bounds={}, clock=clock, wall=wall or clock
    )
    engine.announce()
    return engine


def batch_of(rows, names=("a", "c"), *, predictions=None, confidences=None, timestamps=None, ignored=False):
    return Batch(len(rows), names, rows, None, predictions, confidences, timestamps, "1", ignored)


def counted(engine):
    """{outcome: rows} of what is not 0."""
    cells = [cell for cell in engine._tally._series.cells() if cell.metric == "modelwatch_rows_total"]
    return {cell.labels[0]: cell.values[0] for cell in cells if cell.values[0]}


# Law 1.

VALUES = st.one_of(
    st.floats(allow_nan=True, allow_infinity=True),
    st.sampled_from([None, ABSENT, "k1", "text", True, 10**400, -1, b"x", [1], {"x": 1}, np.float32(1), np.int8(3),
                     np.bool_(1), object(), ABSENT, np.datetime64("NaT", "s"), np.array([1.0, 2.0])]),
)  # fmt: skip
ROW = st.dictionaries(st.sampled_from(["a", "c", "unknown"]), VALUES, max_size=3)
SIZES = st.sampled_from([0, 1, 2, 5, 60])


@st.composite
def handed_in(draw):
    """(features, rows, keyword arguments of record) in every shape, some of which cannot be read."""
    size = draw(SIZES)
    numbers = np.resize(np.array(draw(st.lists(st.floats(width=32), min_size=1, max_size=6))), (size, 2))
    rows = [draw(ROW) for _ in range(min(size, 4))]
    rows = [rows[i % len(rows)] for i in range(size)] if rows else []
    row = draw(ROW.filter(lambda row: not row or any(isinstance(v, float | str) or v is None for v in row.values())))
    features, size = draw(
        st.sampled_from(
            [
                (row, 1),
                (rows, size),
                (tuple(rows), size),
                ([tuple(line) for line in numbers.tolist()], size),
                (numbers, size),
                (numbers.astype(object), size),
                ({"a": numbers[:, 0], "c": ["k1"] * size}, size),
                ({"c": [None] * size}, size),
                (np.zeros((size, 7)), size),
                ([[1.0, "k1"], [1.0]], 2),
                ([{"a": 1.0}, None], 2),
                ({"a": [1.0, 2.0, 3.0], "c": ["k1"]}, 3),
                (7, 1),
            ]
        )
    )
    given = {}
    if draw(st.booleans()):
        wrong = draw(st.sampled_from([0, 0, 0, 0, 1]))
        given["predictions"] = [draw(VALUES)] * (size + wrong)
    if draw(st.booleans()):
        given["confidences"] = draw(st.sampled_from([[0.4] * size, ["high"] * size, np.full((size, 1), 0.7)]))
    if draw(st.booleans()):
        given["timestamps"] = [1e6 + draw(st.integers(-90_000, 9000))] * size
    if draw(st.booleans()):
        given["model_version"] = draw(st.sampled_from(["1", "2"]))
    return features, size, given


STEPS = st.lists(
    st.one_of(
        handed_in(),
        handed_in(),
        st.sampled_from(["fold", "turn", "reload", "report", "ignore", "fail", "mend", "tick"]),
    ),
    max_size=25,
)


@pytest.mark.swallows
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"buffer_rows": 256, "sample_rate": 0.3},
        {"event_time": True, "sample_rate": 0.7},
        {"window_rows": 300, "buffer_rows": 256},
    ],
    ids=["defaults", "sampled", "event time", "rows"],
)
@settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
@given(steps=STEPS)
def test_every_row_ends_somewhere(options, steps):
    """Of whatever is recorded each row waits, or has one outcome; and each feature has counted those recorded."""
    now = [1e6]
    monitor = Monitor(
        "m", "1", reference=REFERENCES[0], settings=Settings(**options), clock=lambda: now[0], wall=lambda: now[0]
    )
    handed, recorded_before, carried, reference = 0, 0, Counter(), 0
    add, failing = Epoch.add, False

    def fail(self, *arguments):
        raise RuntimeError("injected")

    try:
        for step in steps:
            if step == "fold":
                monitor.flush()
            elif step == "tick":
                monitor.engine.tick()
            elif step == "turn":
                monitor.flush()
                now[0] += 2000.0
            elif step == "report":
                monitor.report()
            elif step == "fail":
                monitor.flush()
                Epoch.add, failing = fail, True
            elif step == "mend":
                monitor.flush()
                Epoch.add, failing = add, False
            elif step == "reload":
                monitor.flush()
                carried[reference] = totals_of(monitor.engine.epoch)[0]
                recorded_before = outcomes(monitor)["recorded"]
                reference = (reference + 1) % 2
                monitor.reload(REFERENCES[reference])
            elif step == "ignore":
                with monitor.ignore():
                    monitor.record([{"a": 1.0}] * 3, predictions=[1, 2, 3])
                handed += 3
            else:
                features, size, given = step
                monitor.record(features, **given)
                handed += size
            found = outcomes(monitor)
            gone = sum(found.values()) - found["dropped"] + monitor.engine.buffer.dropped + monitor.engine.lost
            assert gone + monitor.engine.buffer.waiting == handed
        monitor.flush()
        found = outcomes(monitor)
        assert sum(found.values()) == handed
        expected = carried[reference] + found["recorded"] - recorded_before
        assert totals_of(monitor.engine.epoch) == [expected] * 4
        assert failing or monitor.engine.buffer.waiting == 0
    finally:
        Epoch.add = add


@pytest.mark.swallows
@pytest.mark.parametrize(
    ("where", "what"),
    [
        ("modelwatch.engine.gather", "gather"),
        ("modelwatch.tally.Tally.rows", "rows"),
        ("modelwatch.epoch.Epoch.add", "add"),
        ("modelwatch.window.TimeWindow.add", "window"),
        ("modelwatch.engine.seconds_of", "times"),
        ("modelwatch.signals.Signal.add", "signal"),
    ],
    ids=lambda text: text.rpartition(".")[2],
)
def test_a_failing_fold_loses_a_run_and_says_so(monkeypatch, clock, swallowed_errors, where, what):
    """Whatever of our own fails, fold does not raise: its rows are dropped, sampled ones too, and the next counted."""
    engine = engine_of(clock, sample_rate=0.5, event_time=True)
    engine.swap(REFERENCES[0], "object")

    def fail(*arguments, **keywords):
        raise RuntimeError(what)

    rows = batch_of([(1.0, "k1")] * 40, predictions=[1.0] * 40, confidences=[0.5] * 40, timestamps=[1e6] * 40)
    with monkeypatch.context() as patch:
        patch.setattr(where, fail)
        engine.append(rows)
        engine.append(batch_of([(1.0, "k1")] * 2, ignored=True))
        engine.fold()
    assert (swallowed_errors[0][0], str(swallowed_errors[0][1])) == ("fold", what)
    lost = {"gather": 42}.get(what, 40)
    assert counted(engine) == {"dropped": lost} | ({} if lost == 42 else {"ignored": 2})
    engine.append(rows)
    engine.fold()
    found = counted(engine)
    assert found["recorded"] + found["sampled_out"] == 40
    assert totals_of(engine.epoch) == [found["recorded"]] * 4


@pytest.mark.swallows
def test_a_failing_learner_counts_once(monkeypatch, clock):
    """Rows that could not be learnt from are dropped, not learnt from as well."""
    engine = engine_of(clock)
    engine.learner = Learner(200, 0.0)
    monkeypatch.setattr(Learner, "add", lambda *_: 1 / 0)
    engine.append(batch_of([(1.0, "k1")] * 3))
    engine.fold()
    assert counted(engine) == {"dropped": 3}


@pytest.mark.swallows
def test_captured_rows_that_do_not_fit(clock):
    """Ragged rows, and predictions that are not one for each row, are lost as a whole, and counted; others are not."""
    engine = engine_of(clock)
    engine.swap(REFERENCES[0], "object")
    engine.append(batch_of([(1.0, "k1"), (1.0,)]))
    engine.append(batch_of([(1.0, "k1")], names=("c", "a")))
    engine.append(batch_of([(1.0, "k1")], predictions=[1.0, 2.0]))
    engine.append(batch_of([(1.0, "k1")], names=("c", "a")))
    engine.fold()
    assert counted(engine) == {"dropped": 3, "recorded": 2}
    assert totals_of(engine.epoch) == [2] * 4


@pytest.mark.swallows
def test_a_failing_tick_is_swallowed(monkeypatch, clock, swallowed_errors):
    """The background thread never sees an error."""
    engine = engine_of(clock)
    monkeypatch.setattr(Engine, "fold", lambda self: 1 / 0)
    engine.tick()
    assert [stage for stage, _ in swallowed_errors] == ["tick"]


@pytest.mark.swallows
def test_no_thread_can_be_started(still, clock, swallowed_errors):
    """Rows are taken all the same, it is tried once, and a report folds them."""
    tries = []

    def refuse(ticked):
        tries.append(ticked)
        raise RuntimeError("can't start new thread")

    still.add = refuse
    engine = engine_of(clock)
    engine.swap(REFERENCES[0], "object")
    for _ in range(3):
        engine.append(batch_of([(1.0, "k1")]))
    assert (len(tries), len(swallowed_errors)) == (1, 1)
    assert engine.read().content.rows == 3


def test_the_thread_is_woken_when_rows_pile_up(still, clock):
    """One word for each pile of rows, not one for every row after it."""
    engine = engine_of(clock)
    engine.append(batch_of([(1.0, "k1")] * (FOLD_ROWS - 1)))
    assert still.wakes == 0
    for _ in range(FOLD_ROWS):
        engine.append(batch_of([(1.0, "k1")]))
    assert still.wakes == 1
    engine.fold()
    engine.append(batch_of([(1.0, "k1")] * FOLD_ROWS))
    assert still.wakes == 2


def test_it_joins_the_pulse_again_after_a_fork(still, clock):
    """It is added once, and once more in a child."""
    added = []
    still.add = added.append
    engine = engine_of(clock)
    for generation in (1, 1, 2, 2):
        still.generation = generation
        engine.append(batch_of([(1.0, "k1")]))
    assert added == [engine, engine]


# Time.


def test_event_time_ends_at_the_newest_row(clock):
    """With event time the window is that of the rows, whatever the clocks say, also after a look before the first."""
    clock.now = 2e9
    engine = engine_of(clock, event_time=True)
    engine.swap(REFERENCES[0], "object")
    assert engine.read().content[1:] == (0, None)
    for seconds in (0, 600, 1200, 3000):
        engine.append(batch_of([(1.0, "k1")], timestamps=[1e9 + seconds]))
        engine.fold()
        clock.advance(10_000)
    content = engine.read().content
    assert (content.rows, content.seconds) == (4, 3000.0)
    engine.append(batch_of([(1.0, "k1")], timestamps=[1e9 + 600 - 3600]))
    engine.append(batch_of([(1.0, "k1")], timestamps=[1e9 + 3000 - 3000]))
    engine.fold()
    assert counted(engine) == {"recorded": 5, "late": 1}


def test_rows_from_the_future_come_at_most_an_hour_early(clock):
    """A timestamp of another century does not make everybody else late."""
    engine = engine_of(clock, event_time=True)
    engine.swap(REFERENCES[0], "object")
    engine.append(batch_of([(1.0, "k1")] * 2, timestamps=[float("inf"), clock() + 1e12]))
    engine.append(batch_of([(1.0, "k1")], timestamps=[clock() + 600.0]))
    engine.fold()
    content = engine.read().content
    assert counted(engine) == {"recorded": 3}
    assert content.seconds == 3600.0
    engine.append(batch_of([(1.0, "k1")], timestamps=[clock() - 600.0]))
    engine.fold()
    assert counted(engine) == {"recorded": 3, "late": 1}


@pytest.mark.parametrize("odd", [-1e300, -1e18, 1e300, 10**400, -(10**400), None, "text", float("nan"), [1], ABSENT])
def test_odd_timestamps_cost_only_their_row(clock, odd):
    """Whatever a timestamp is, no other row is lost by it."""
    engine = engine_of(clock, event_time=True)
    engine.swap(REFERENCES[0], "object")
    times = [clock(), odd, clock()]
    engine.append(batch_of([(1.0, "k1")] * 3, timestamps=times))
    engine.append(batch_of([(1.0, "k1")]))
    engine.fold()
    found = counted(engine)
    assert found.get("recorded", 0) + found.get("late", 0) == 4
    assert found["recorded"] >= 2


def test_times_of_different_batches(clock):
    """Rows with a time and rows without stand in one buffer, and each has its own."""
    engine = engine_of(clock, event_time=True)
    engine.swap(REFERENCES[0], "object")
    engine.append(batch_of([(1.0, "k1")], timestamps=[clock() - 3000]))
    engine.append(batch_of([(1.0, "k1")]))
    engine.append(batch_of([(1.0, "k1")], timestamps=np.array([clock() - 100])))
    assert (engine.read().content.rows, engine.read().content.seconds) == (3, 3000.0)


def test_sampling_is_even_and_counted(clock):
    """Of many rows the rate enters the window; predictions, confidences and times stay with their rows."""
    engine = engine_of(clock, sample_rate=0.25, window_rows=10_000)
    engine.swap(REFERENCES[0], "object")
    values = np.random.default_rng(0).normal(size=8000)
    rows = [(value, "k1" if value > 0 else "k2") for value in values.tolist()]
    engine.append(batch_of(rows, predictions=values, confidences=(values > 0).astype(float)))
    engine.fold()
    found = counted(engine)
    assert found["recorded"] + found["sampled_out"] == 8000
    assert abs(found["recorded"] - 2000) < 200
    window = engine.epoch.window
    own, alike, certain = [], [], []
    names = engine.epoch.profile.names
    cells = [engine.epoch.profile.feature(name).cells for name in names]
    starts = engine.epoch.profile.layout.starts.tolist()
    for line in window._cells[: int(found["recorded"])].astype(int) - starts:
        at = dict(zip(names, line.tolist(), strict=True))
        own.append(at["a"])
        alike.append(at["c"] == cells[names.index("c")].categories.index("k1"))
        certain.append(cells[names.index("confidence")].lower[at["confidence"]] > 0.5)
    positive = [cells[names.index("a")].lower[cell] >= 0 for cell in own]
    assert np.mean(np.array(alike) == np.array(positive)) > 0.99
    assert alike == certain


def test_without_a_reference_rows_are_counted(clock):
    """Nothing is compared, and nothing is read; rows are recorded all the same."""
    engine = engine_of(clock)
    engine.append(batch_of([(1.0, "k1")] * 3))
    assert engine.read() is None
    assert counted(engine) == {"recorded": 3}


# Another reference.


def test_rows_captured_in_another_order(clock):
    """Rows that were captured in the order of the old reference go to the right features of the new one."""
    engine = engine_of(clock)
    engine.swap(REFERENCES[0], "object")
    engine.swap(REFERENCES[1], "object")
    engine.append(batch_of([(0.5, "k1")] * 5))
    engine.append(batch_of([("k1",)] * 2, names=("c",)))
    engine.append(batch_of([("z", 7)], names=("z", "y")))
    engine.fold()
    assert engine.epoch.violations() == dict.fromkeys(engine.epoch.violations(), 0) | {
        ("a", "missing"): 3, ("c", "missing"): 1, ("prediction", "missing"): 8, ("confidence", "missing"): 8,
    }  # fmt: skip


def test_waiting_rows_belong_to_the_old_reference(clock):
    """What was recorded before a swap is counted against what was in force then."""
    engine = engine_of(clock)
    engine.swap(REFERENCES[0], "object")
    engine.append(batch_of([(0.5, "k1")] * 5))
    engine.swap(REFERENCES[1], "object")
    assert (engine.epochs.previous.rows, engine.epoch.rows) == (5, 0)


def test_totals_go_on(clock):
    """Back to the reference before: its totals go on where they stood, its window begins anew."""
    engine = engine_of(clock)
    for reference, rows in ((0, 3), (1, 4), (0, 5), (0, 6), (1, 7)):
        engine.swap(REFERENCES[reference], "object")
        engine.append(batch_of([(None, "k1")] * rows))
        engine.fold()
    assert totals_of(engine.epoch) == [4 + 7] * 4
    assert totals_of(engine.epochs.previous) == [3 + 5 + 6] * 4
    assert engine.read().content.rows == 7
    assert engine.epochs.violations()["1", "a", "missing"] == 25


def test_a_rollback_goes_on_where_it_stood(clock):
    """Several versions later the first one comes back: its counters have not fallen; very old ones are gone."""
    engine = engine_of(clock)
    for version in ["1", "2", "3", "1"]:
        engine.swap(REFERENCES[0], "object", version)
        engine.append(batch_of([(None, "k1")] * 5))
    engine.fold()
    assert totals_of(engine.epoch)[0] == 10
    assert engine.epochs.violations()["1", "a", "missing"] == 10
    for version in range(100):
        engine.rename(f"v{version}")
    assert len(engine.epochs._left) <= 10
    assert len({key[0] for key in engine.epochs._violations}) <= 10


def test_versions_do_not_share_totals(clock):
    """The same reference for another version of the model counts from 0, and the version before stays as it was."""
    engine = engine_of(clock)
    engine.swap(REFERENCES[0], "object")
    engine.append(batch_of([(None, "k1")] * 3))
    engine.rename("2")
    engine.append(batch_of([(None, "k1")] * 4))
    engine.fold()
    assert (totals_of(engine.epoch)[0], totals_of(engine.epochs.previous)[0]) == (4, 3)
    violations = engine.epochs.violations()
    assert (violations["1", "a", "missing"], violations["2", "a", "missing"]) == (3, 4)


def test_renaming_without_a_reference(clock):
    """Rows that wait count for the old version, and the series of the new one are there at once."""
    engine = engine_of(clock)
    engine.rename("2")
    cells = {cell.labels for cell in engine._tally._series.cells() if cell.metric == "model_rows_total"}
    assert cells == {("m", "1"), ("m", "2")}


def test_alarms_survive_a_swap(clock):
    """The number of alarms of a version and signal never falls, whatever reference comes, and comes back."""
    engine = engine_of(clock)
    engine.swap(REFERENCES[0], "object")
    by_name = {signal.name: signal for signal in engine.detection.signals}
    by_name["prediction"].detector.alarms = 3
    by_name["prediction"].last_alarm = 5.0
    engine.swap(REFERENCES[1], "object")
    assert {signal.name: signal.detector.alarms for signal in engine.detection.signals} == {
        "prediction": 3,
        "confidence": 0,
    }
    engine.swap(REFERENCES[2], "object", "2")  # classes have no mean: no such signal
    assert {signal.name: signal.detector.alarms for signal in engine.detection.signals} == {"confidence": 0}
    engine.swap(REFERENCES[0], "object", "1")
    assert [(signal.detector.alarms, signal.last_alarm) for signal in engine.detection.signals] == [(3, 5.0), (0, None)]


def test_signals_get_one_value_a_second(clock):
    """The mean prediction since the last tick goes to the detector once a second, however often it is woken."""
    engine = engine_of(clock)
    engine.swap(REFERENCES[0], "object")
    (signal,) = (signal for signal in engine.detection.signals if signal.name == "prediction")
    seen = []
    signal.detector.update = seen.append
    mean, sd = (getattr(REFERENCES[0].feature("prediction"), name) for name in ("mean", "sd"))
    for value in (1.0, None, 2.0, float("nan")):
        engine.append(batch_of([(0.5, "k1")] * 2, predictions=[value] * 2))
        engine.tick()
        clock.advance(0.25)
    engine.tick()
    clock.advance(1.0)
    engine.tick()
    assert seen == [pytest.approx((1.5 - mean) * 2 / sd)]


def test_a_constant_prediction_has_no_signal(clock):
    """Where the reference has no spread, or no numbers, nothing can be standardised, and nothing is watched."""
    engine = engine_of(clock)
    table = {"a": [1.0, 2.0] * 50, "p": [5.0] * 100, "q": [0.5, 0.6] * 50}
    engine.swap(ReferenceProfile.fit(table, prediction="p", confidence="q"), "object")
    assert [signal.name for signal in engine.detection.signals] == ["confidence"]
    engine.swap(ReferenceProfile.fit({"a": [1.0, 2.0]}), "object")
    assert engine.detection.signals == []


# Learning.


def learning_of(clock, **options):
    engine = engine_of(clock, learn_rows=200, learn_seconds=0, **options)
    engine.learner = Learner(200, 0.0)
    return engine


def test_the_learnt_reference_takes_over(clock, tmp_path):
    """Rows before are "learning", rows after are recorded against what they made, which is written to its path."""
    path = tmp_path / "learnt.json"
    engine = learning_of(clock, learn_path=str(path))
    values = np.random.default_rng(0).normal(size=199).tolist()
    engine.append(batch_of([(value, "k1") for value in values]))
    engine.tick()
    assert (engine.epoch, counted(engine)) == (None, {"learning": 199})
    engine.append(batch_of([(0.0, "k1")]))
    engine.tick()
    assert (engine.source, engine.learner) == ("learned", None)
    engine.append(batch_of([(0.0, "k1")] * 2))
    engine.tick()
    assert counted(engine) == {"learning": 200, "recorded": 2}
    assert ReferenceProfile.load(path) == engine.epoch.profile


def test_a_reload_while_learning_wins(monkeypatch, clock):
    """A reference that somebody gives while the learnt one is being made is not replaced by it."""
    engine = learning_of(clock)
    fit = Learner.fit

    def fit_slowly(self):
        engine.swap(REFERENCES[0], "object")
        return fit(self)

    monkeypatch.setattr(Learner, "fit", fit_slowly)
    engine.append(batch_of([(float(i % 7), "k1") for i in range(200)]))
    engine.tick()
    assert (engine.epoch.profile, engine.source) == (REFERENCES[0], "object")


@pytest.mark.swallows
def test_a_path_that_cannot_be_written(clock, tmp_path, swallowed_errors):
    """The learnt reference is in force though it cannot be kept, and the loss is told."""
    engine = learning_of(clock, learn_path=str(tmp_path / "nowhere" / "learnt.json"))
    engine.append(batch_of([(float(i % 7), "k1") for i in range(200)]))
    engine.tick()
    assert engine.epoch is not None
    assert [stage for stage, _ in swallowed_errors] == ["reference"]


# Threads.


def test_swaps_under_traffic(clock):
    """Rows of eight threads are each counted against one reference, while references are swapped all the time."""
    engine = engine_of(clock)
    engine.swap(REFERENCES[0], "object")
    ended = threading.Semaphore(0)

    def work(seed):
        random = np.random.default_rng(seed)
        for _ in range(150):
            size = int(random.integers(1, 4))
            engine.append(batch_of([(0.5, "k1")] * size, predictions=[0.1] * size))
        ended.release()

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    swaps, before = 0, Counter()
    while any(thread.is_alive() for thread in threads) or swaps < 20:
        engine.swap(REFERENCES[swaps % 2], "object")
        swaps += 1
        found = {old.profile.id: totals_of(old)[0] for old in (engine.epochs.previous, engine.epoch) if old is not None}
        assert all(found.get(key, 0) >= rows for key, rows in before.items())
        before |= Counter(found)
    engine.fold()
    rows = engine.buffer.added
    assert counted(engine) == {"recorded": rows}
    assert totals_of(engine.epoch)[0] + totals_of(engine.epochs.previous)[0] == rows
