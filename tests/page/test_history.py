"""The last hour: bounded, taken by one worker for all, carried on when that one dies, and never in anybody's way."""

from __future__ import annotations

import fcntl
import json
import os

import pytest
from support.shares import SERVICE, child, ended

from modelwatch.guard import Guard
from modelwatch.page.history import MOST_POINTS, STEP_SECONDS, History
from modelwatch.pulse import PULSE
from modelwatch.workers import Workers


def point(number):
    model = {
        "version": "1",
        "reference": "0123abcd",
        "statuses": {"success": 1.0},
        "latency": None,
        "rows": 1.0,
        "drifted": None,
        "smoothed": {"x": 0.1},
    }
    return {"t": float(number), "models": {"m": model}}


class Taker:
    """Takes snapshots that are numbered."""

    def __init__(self):
        self.taken = 0

    def __call__(self):
        self.taken += 1
        return point(self.taken)


@pytest.fixture
def guard():
    return Guard()


@pytest.fixture
def take():
    return Taker()


@pytest.fixture
def alone(take, guard, clock):
    """The history of a single process."""
    return History(take, lambda: None, guard, clock)


@pytest.fixture
def join(tmp_path):
    """Makes workers of one service."""
    made = []

    def joined():
        made.append(Workers.join(str(tmp_path), SERVICE, "app"))
        return made[-1]

    yield joined
    for workers in made:
        workers.leave()


def always(found):
    return lambda: found


def turn(history, clock, times=1):
    for _ in range(times):
        history.tick()
        clock.advance(STEP_SECONDS)


def times(history):
    return [point["t"] for point in history.points()]


def test_a_snapshot_every_step(alone, take, clock):
    """A snapshot is taken at once and then every 15 seconds, however often the pulse beats."""
    for _ in range(60):
        alone.tick()
        clock.advance(1.0)
    assert take.taken == 4
    assert times(alone) == [1.0, 2.0, 3.0, 4.0]


def test_it_is_bounded(alone, clock):
    """The history is that of an hour: the oldest point goes when a new one comes."""
    turn(alone, clock, MOST_POINTS + 7)
    assert times(alone) == [float(n) for n in range(8, MOST_POINTS + 8)]
    assert MOST_POINTS * STEP_SECONDS == 3600


def test_a_clock_that_is_set_back_begins_a_new_hour(join, guard, clock, take):
    """Of a time that comes again nobody knows how long it took: what was before is forgotten, by all workers."""
    first, second = join(), join()
    history = History(take, lambda: first, guard, clock)
    other = History(Taker(), lambda: second, guard, clock)
    take.taken = 100
    turn(history, clock, 3)
    take.taken = 50
    turn(history, clock, 2)
    assert times(history) == times(other) == [51.0, 52.0]


def test_a_point_is_written_by_itself(join, guard, clock, take, monkeypatch):
    """However many points and models there are, no call to write or read them is longer than that of one point."""
    first, second = join(), join()
    history = History(take, lambda: first, guard, clock)
    other = History(Taker(), lambda: second, guard, clock)
    turn(history, clock, 9)
    written, read = [], []
    dumps, loads = json.dumps, json.loads
    monkeypatch.setattr(json, "dumps", lambda value, **how: written.append(len(dumps(value))) or dumps(value, **how))
    monkeypatch.setattr(json, "loads", lambda text: read.append(len(text)) or loads(text))
    turn(history, clock)
    assert len(times(other)) == 10
    assert max(written + read) < 2 * len(dumps(point(10)))


def test_reading_takes_no_snapshot(alone, take):
    """Whoever looks changes nothing."""
    assert alone.points() == []
    assert take.taken == 0


@pytest.mark.swallows
def test_what_goes_wrong_costs_a_point(alone, take, guard, clock, monkeypatch):
    """A snapshot that cannot be taken is counted at stage "page"; the next one comes in its time."""
    turn(alone, clock)
    with monkeypatch.context() as patch:
        patch.setattr(alone, "_take", None)
        turn(alone, clock)
    turn(alone, clock)
    assert guard.errors["page"] == 1
    assert times(alone) == [1.0, 2.0]


def test_one_worker_takes_them_for_all(join, guard, clock):
    """Of several workers one takes the snapshots, and all tell the same, whichever is asked."""
    takers = [Taker(), Taker(), Taker()]
    histories = [History(take, always(join()), guard, clock) for take in takers]
    for _ in range(5):
        for history in histories:
            history.tick()
        clock.advance(STEP_SECONDS)
    assert [take.taken for take in takers] == [5, 0, 0]
    assert [times(history) for history in histories] == [[1.0, 2.0, 3.0, 4.0, 5.0]] * 3


def test_another_worker_goes_on(join, guard, clock):
    """When the worker that takes them dies, the next one goes on with what it has left."""
    first, second = join(), join()
    dying, heir = Taker(), Taker()
    heir.taken = 100
    history = History(dying, lambda: first, guard, clock)
    later = History(heir, lambda: second, guard, clock)
    turn(history, clock, 2)
    turn(later, clock)
    assert heir.taken == 100
    first.leave()  # as the kernel does it
    turn(later, clock)
    assert times(later) == [1.0, 2.0, 101.0]


@pytest.mark.swallows
@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"7", b"[7]", b'{"t": 1}', b'{"t": "x", "models": {}}', b'{"t": 1, "models": [1]}', b"\xff" * 100,
     json.dumps(point(1)).encode() + b"\n", json.dumps([point(1)]).encode(),
     json.dumps({"t": 1, "models": {"m": {**point(1)["models"]["m"], "latency": [[1], [1], 1]}}}).encode(),
     json.dumps({"t": 1, "models": {"m": {**point(1)["models"]["m"], "latency": [[1], ["x", 1], 1]}}}).encode(),
     json.dumps({"t": 1, "models": {"m": {**point(1)["models"]["m"], "statuses": [1]}}}).encode()],
)  # fmt: skip
def test_a_file_that_says_something_else_is_passed_over(join, guard, clock, take, content):
    """What is damaged, or of another version, is counted, and costs the history only."""
    workers = join()
    (workers.home / "page.jsonl").write_bytes(content)
    history = History(take, lambda: workers, guard, clock)
    assert history.points() == []
    assert guard.errors["page"] == 1
    turn(history, clock)
    assert times(history) == [1.0]


@pytest.mark.swallows
def test_a_full_disk_costs_the_others_their_history(join, guard, clock, take, monkeypatch):
    """A worker that cannot write its snapshots keeps them, and says so."""
    workers = join()
    monkeypatch.setattr(workers, "write", lambda name, parts: (_ for _ in ()).throw(OSError(28, "full")))
    history = History(take, lambda: workers, guard, clock)
    turn(history, clock, 2)
    assert times(history) == [1.0, 2.0]
    assert guard.errors["page"] == 2


def test_a_fork_begins_anew(alone, clock):
    """A forked child has no history of its parent's, and no lock that somebody holds there."""
    turn(alone, clock, 3)

    def in_child():
        assert alone.points() == []
        alone.tick()
        assert len(alone.points()) == 1

    with alone._lock:
        assert ended(child(in_child)) == 0
    assert len(alone.points()) == 3


def test_a_child_leaves_the_lock_to_its_parent(join, guard, clock, take):
    """A child that was forked from the worker that takes the snapshots does not take them too."""
    workers = join()
    history = History(take, lambda: workers, guard, clock)
    turn(history, clock)

    def in_child():
        own = os.open(workers.home / "page.lock", os.O_RDWR)
        with pytest.raises(BlockingIOError):
            fcntl.flock(own, fcntl.LOCK_EX | fcntl.LOCK_NB)

    assert ended(child(in_child)) == 0


def test_it_asks_the_pulse_once(alone, monkeypatch):
    """The pulse is asked to call it once in each process, on the event loop's way."""
    asked = []
    monkeypatch.setattr(PULSE, "add", asked.append)
    for _ in range(3):
        alone.ensure()
    assert asked == [alone]


@pytest.mark.swallows
def test_without_threads_there_is_no_history(alone, guard, monkeypatch):
    """Where no thread can be started the page goes without a history, and says so."""

    def refuse(ticked):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(PULSE, "add", refuse)
    alone.ensure()
    assert guard.errors["page"] == 1
