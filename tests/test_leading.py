"""What one worker does for all: detectors over all rows, learning, folding the dead; and who goes on when it dies."""

from __future__ import annotations

import errno
import json
import os
import signal
import time

import numpy as np
import pytest
from support.shares import Still, Worker, child, descriptors, ended, head_of, reference_of, series_of, spoil

import modelwatch.engine
import modelwatch.telling
from modelwatch.adding import Adder
from modelwatch.leading import epochs_of

REFERENCE = reference_of()
OTHER = reference_of(1)
ROWS = ("model_rows_total", ("m", "1"), None)


@pytest.fixture(autouse=True)
def still(monkeypatch):
    """No background thread, and nobody waits for one of another worker."""
    monkeypatch.setattr(modelwatch.engine, "PULSE", Still())
    monkeypatch.setattr(modelwatch.telling, "TICK_SECONDS", 0.001)


@pytest.fixture
def worker(tmp_path, clock):
    """Makes workers of one service; what they have open is closed at the end."""
    made = []

    def more(reference=REFERENCE, **options):
        made.append(Worker(tmp_path / "shared", reference=reference, clock=clock, **options))
        return made[-1]

    yield more
    for one in made:
        one.die()


def deal(workers, number, *, shift=0.0, rows=None):
    """Rows of one tick, dealt to workers; the same for the same number."""
    dice = np.random.default_rng(number)
    size = int(dice.integers(1, 25)) if rows is None else rows
    predictions, confidences = dice.normal(shift, 1.0, size), dice.random(size)
    owners = dice.integers(0, len(workers), size)
    for i, one in enumerate(workers):
        mine = owners == i
        one.add(
            [(0.5, "k1")] * int(mine.sum()),
            predictions=predictions[mine].tolist(),
            confidences=confidences[mine].tolist(),
        )
        one.engine.fold()
    return predictions.tolist(), confidences.tolist()


def prediction(one):
    return one.engine.detection.signals[0]


def total(one):
    """All rows, as a scrape of this worker shows them."""
    return series_of(*Adder(1000).add([one.share(), *one.gather()]))[ROWS][0]


def elected(one):
    return json.loads((one.home / "elected.json").read_bytes())


def files(one):
    return sorted(name for name in os.listdir(one.home))


# Detectors


@pytest.mark.parametrize("deaths", [(), (60,), (30, 99, 101), tuple(range(20, 220, 25))])
def test_detectors_go_on_whoever_leads(worker, clock, deaths):
    """The elected worker alarms where one process would; when it dies the next goes on, and no alarm comes twice."""
    single, workers = worker(name="single", app="single"), [worker() for _ in range(3)]
    alarms = {}
    workers[0].tick()
    for number in range(220):
        predictions, confidences = deal(workers, number, shift=1.0 if number >= 100 else 0.0)
        single.add([(0.5, "k1")] * len(predictions), predictions=predictions, confidences=confidences)
        single.engine.fold()
        single.engine.detect()
        for one in workers:
            one.publish()
        for one in workers:
            one.tick()
        leader = workers[0]
        assert prediction(leader).detector.alarms == prediction(single).detector.alarms
        assert prediction(leader).detector.statistic == pytest.approx(prediction(single).detector.statistic, rel=1e-6)
        assert prediction(leader).last_alarm == prediction(single).last_alarm
        for one in workers[1:]:
            one.leading.follow()
            assert prediction(one).detector.to_state() == prediction(leader).detector.to_state()
            assert prediction(one).last_alarm == prediction(leader).last_alarm
        if prediction(single).detector.drift_detected:
            alarms[number] = None
        clock.advance(1)
        if number in deaths:
            workers.pop(0).die()
            workers.append(worker())
    assert len(alarms) == 1
    assert prediction(single).detector.alarms == 1


def test_one_of_them_leads(worker):
    """One worker leads as long as it lives; then another one does; the others only follow."""
    workers = [worker() for _ in range(3)]

    def tick_all():
        for one in workers:
            one.publish()
        return [one.workers.lock("elected") for one in workers if one.tick() is None]

    assert tick_all() == [True, False, False]
    assert tick_all() == [True, False, False]
    workers.pop(0).die()
    assert tick_all() == [True, False]


def test_who_joins_late_shows_what_the_others_show(worker):
    """A new worker's detectors stand where the elected one's do as soon as it looks, before it ever leads."""
    leader = worker()
    for number in range(50):
        deal([leader], number)
        leader.publish()
        leader.tick()
    late = worker()
    late.leading.follow()
    assert prediction(late).detector.to_state() == prediction(leader).detector.to_state()
    assert (prediction(late).rows, prediction(leader).rows > 0) == (0, True)


def test_the_last_words_of_a_leader(worker, monkeypatch):
    """What the leader has left just before it died is where the next one goes on, also if that one had just looked."""
    leader, other = worker(), worker()
    for number in range(30):
        deal([leader], number)
        leader.publish()
        leader.tick()
    other.tick()
    real = other.workers.lock

    def dies_now(what):
        for number in (98, 99):
            deal([leader], number)
            leader.publish()
            leader.tick()
        leader.die()
        monkeypatch.setattr(other.workers, "lock", real)
        return real(what)

    monkeypatch.setattr(other.workers, "lock", dies_now)
    other.tick()
    assert prediction(other).detector.to_state() == prediction(leader).detector.to_state()
    assert prediction(other).detector.to_state()["_n"] == 32


def test_nothing_new_is_not_written(worker):
    """While no rows come the state is not written again."""
    leader = worker()
    deal([leader], 1)
    leader.publish()
    leader.tick()
    before = (leader.home / "elected.json").stat()
    for _ in range(3):
        leader.tick()
    after = (leader.home / "elected.json").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_another_reference_begins_anew(worker):
    """After a reload in all workers detectors begin anew in all, and alarms are counted on."""
    leader, other = worker(), worker()
    for number in range(40):
        deal([leader, other], number)
        for one in (leader, other):
            one.publish()
        leader.tick()
        other.tick()
    prediction(leader).detector.alarms = 3
    leader.tick()
    other.leading.follow()
    for one in (leader, other):
        one.engine.swap(OTHER, "object")
        one.publish()
    leader.tick()
    other.leading.follow()
    assert [prediction(one).detector.alarms for one in (leader, other)] == [3, 3]
    assert [prediction(one).detector.to_state()["_n"] for one in (leader, other)] == [0, 0]
    deal([leader, other], 7)
    for one in (leader, other):
        one.publish()
    leader.tick()
    assert prediction(leader).detector.to_state()["_n"] == 1


def test_state_of_another_reference_is_not_taken(worker):
    """A worker that has not reloaded yet does not take the state that belongs to the new reference."""
    leader, behind = worker(), worker()
    for number in range(40):
        deal([behind], number)
        behind.publish()
    leader.engine.swap(OTHER, "object")
    leader.tick()
    before = prediction(behind).to_state()
    behind.leading.follow()
    assert prediction(behind).to_state() == before
    leader.die()
    behind.engine.swap(OTHER, "object")
    behind.leading.follow()
    behind.tick()
    assert behind.workers.lock("elected")


@pytest.mark.swallows
@pytest.mark.parametrize(
    "text",
    [
        b"", b"{", b"\xff", b"null", b"5", b"[1]", b'"x"', b'{"m": null}', b'{"m": 5}', b'{"m": []}', b'{"m": {}}',
        b'{"m": {"against": %s, "signals": {"prediction": {}}}}',
        b'{"m": {"against": %s, "signals": {"prediction": {"detector": {}, "taken": [1, 2], "last_alarm": null}}}}',
        b'{"m": {"against": %s, "signals": {"prediction": {"detector": %d, "taken": [Infinity, 0], "last_alarm": 1}}}}',
        b'{"m": {"against": %s, "signals": 7}}', b"[" * 100_000, b"9" * 5000,
    ],
)  # fmt: skip
def test_a_broken_state_is_survived(worker, swallowed_errors, text):
    """Whatever elected.json has become, it is counted at most once, and the worker leads on from where it stands."""
    leader, other = worker(), worker()
    for number in range(40):
        deal([leader, other], number)
        for one in (leader, other):
            one.publish()
        leader.tick()
    other.leading.follow()
    expected = prediction(other).detector.to_state()
    against = json.dumps(elected(leader)["m"]["against"]).encode()
    detector = json.dumps(prediction(leader).detector.to_state()).encode()
    leader.die()
    (other.home / "elected.json").write_bytes(text.replace(b"%s", against).replace(b"%d", detector))
    other.leading.follow()
    assert prediction(other).detector.to_state() == expected
    other.tick()
    other.tick()
    assert prediction(other).detector.to_state() == expected
    assert [stage for stage, _ in swallowed_errors] in ([], ["tick"])
    assert json.dumps(elected(other))
    deal([other], 99)
    other.tick()
    assert prediction(other).detector.to_state()["_n"] == expected["_n"] + 1


@pytest.mark.parametrize("what", ["directory", "fifo", "link"])
def test_a_state_that_is_no_file(worker, what):
    """What stands in the place of the state is not read, and blocks nobody."""
    one, before = worker(), descriptors()
    path = one.home / "elected.json"
    if what == "directory":
        path.mkdir()
    elif what == "link":
        path.symlink_to("elsewhere")
    deal([one], 1)
    one.publish()
    if what == "directory":
        with pytest.raises(OSError, match="directory"):
            one.tick()
    else:
        one.tick()
        assert elected(one)["m"]["signals"]["prediction"]
    assert prediction(one).detector.to_state()["_n"] == 1
    assert descriptors() == before + 1  # the lock


def test_a_disk_that_is_full(worker, monkeypatch):
    """When the state cannot be written the detectors go on in this worker, and it is written when it can be."""
    one = worker()
    deal([one], 1)
    real = one.workers.write

    def full(name, parts):
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(one.workers, "write", full)
    for number in range(3):
        deal([one], number)
        with pytest.raises(OSError, match="full"):
            one.tick()
    assert prediction(one).detector.to_state()["_n"] == 3
    monkeypatch.setattr(one.workers, "write", real)
    one.tick()
    assert elected(one)["m"]["signals"]["prediction"]["detector"]["_n"] == 3


def test_kill_of_the_leader(worker, tmp_path, clock):
    """A leader that is killed -9 is followed at the next tick by another, which stands where it stood."""
    mine = worker()
    ready, done = os.pipe()

    def lead():
        one = Worker(tmp_path / "shared", reference=REFERENCE, clock=clock)
        for number in range(30):
            deal([one], number)
            one.publish()
            one.tick()
        os.write(done, json.dumps(prediction(one).detector.to_state()).encode())
        time.sleep(30)

    pid = child(lead)
    state = json.loads(os.read(ready, 10_000))
    mine.tick()
    assert not mine.workers.lock("elected")
    os.kill(pid, signal.SIGKILL)
    assert ended(pid) == -9
    mine.tick()
    assert mine.workers.lock("elected")
    assert prediction(mine).detector.to_state() == state
    assert state["_n"] == 30
    os.close(ready)
    os.close(done)


# Learning


def test_one_learns_and_all_have_it(worker):
    """The elected worker learns from its first rows and tells; the others count theirs as learning, and take it."""
    workers = [worker("learn", learn_rows=200, learn_seconds=0) for _ in range(3)]
    dice = np.random.default_rng(0)
    for one in workers:
        one.add([(float(x), f"k{i % 3}") for i, x in enumerate(dice.normal(size=300))], predictions=[0.5] * 300)
        one.publish()
    for one in workers:
        one.tick()
        one.telling.hear(one.monitor)
    hashes = {one.engine.epoch.profile.hash for one in workers}
    assert len(hashes) == 1
    assert [one.engine.source for one in workers] == ["learned"] * 3
    assert [one.engine.learner for one in workers] == [None] * 3


def test_learning_is_handed_on(worker):
    """When the learning worker dies before it has learnt, the next elected one learns."""
    first, second = (worker("learn", learn_rows=200, learn_seconds=0) for _ in range(2))
    for one in (first, second):
        one.add([(float(i % 50), f"k{i % 3}") for i in range(150)])
        one.publish()
        one.tick()
    assert first.engine.epoch is None
    first.die()
    second.add([(float(i % 50), f"k{i % 3}") for i in range(150)])
    second.publish()
    second.tick()
    assert second.engine.epoch is not None
    assert second.engine.source == "learned"


# The dead


def test_the_dead_are_folded(worker, tmp_path):
    """Workers that come and go leave one file, the total is exact, and whoever is asked says the same."""
    mine, expected = worker(), 0
    for number in range(12):
        one = worker()
        deal([mine, one], number, rows=10)
        expected += 10
        for each in (mine, one):
            each.publish()
        if number % 4 != 3:
            one.die()
        mine.tick()
        reading = mine.engine.read(epochs_of(mine.gather(), mine.monitor))
        assert (total(mine), reading.rows, reading.content.rows) == (expected, expected, expected)
    living = 1 + 3
    assert len(files(mine)) == 2 * living + 3  # the past, the state of the detectors and the lock
    other = worker()
    assert total(other) == expected


def test_gauges_of_the_dead_go(worker):
    """What a dead worker was doing is not in the past; what it had done is."""
    mine, dead = worker(), worker()
    place = dead.series.counter("model_requests_in_progress", ("m",))
    dead.series.values[place] = 7
    deal([dead], 1, rows=5)
    dead.publish()
    found = series_of(*Adder(1000).add([mine.share(), *mine.gather()]))
    assert found["model_requests_in_progress", ("m",), None] == [7]
    dead.die()
    mine.publish()
    mine.tick()
    found = series_of(*Adder(1000).add([mine.share(), *mine.gather()]))
    assert ("model_requests_in_progress", ("m",), None) not in found
    assert found[ROWS] == [5]


def test_counters_never_fall(worker, clock):
    """At each moment of a death, before the fold, after it and after the next, no counter is lower than before."""
    mine, before = worker(), {}

    def check():
        nonlocal before
        now = series_of(*Adder(1000).add([mine.share(), *mine.gather()]))
        for key, numbers in before.items():
            if key[0].endswith("_total") or key[2] is not None:
                cells = list(zip(now[key], numbers, strict=True))
                # The sum of predicted values, which may be below zero, is no counter.
                assert all(a >= b for a, b in cells[: -1 if key[0] == "model_prediction_value" else None]), key
        before = now

    for number in range(8):
        one = worker()
        deal([mine, one], number, rows=7)
        for each in (mine, one):
            each.engine.evaluated(0.1234567 * number)
            each.publish()
        check()
        one.die()
        check()
        mine.tick()
        check()
        clock.advance(100)


def test_a_damaged_file_of_the_dead(worker):
    """A damaged file of a dead worker costs its own counts; the others are folded, and it is told once."""
    mine, bad, good = worker(), worker(), worker()
    for one in (bad, good):
        deal([one], 1, rows=5)
        one.publish()
    spoil(bad.file, 1)
    for one in (bad, good):
        one.die()
    for _ in range(3):
        mine.tick()
        assert total(mine) == 5
    assert sum(mine.workers.skipped.values()) == 1
    assert len(mine.gather()) == 1


def test_a_damaged_slot_of_the_dead(worker):
    """A slot of a dead worker that is damaged costs its rows in the window, and neither counters nor the fold."""
    mine, bad, good = worker(), worker(), worker()
    for one in (bad, good):
        deal([one], 1, rows=5)
        one.publish()
    window = head_of(bad.file)["body"]["models"][0]["epochs"][0]["window"]
    for number in {window["whole"][2], *(slot[3] for slot in window["fine"])}:
        spoil(bad.file, number)
    for one in (bad, good):
        one.die()
    for _ in range(3):
        reading = mine.engine.read(epochs_of(mine.gather(), mine.monitor))
        assert (total(mine), reading.content.rows) == (10, 5)
        mine.tick()
    assert sum(mine.workers.skipped.values()) == 1


def test_other_files_of_the_directory_stay(worker):
    """Folding leaves alone what the living need: references that were told, the state, the locks."""
    mine, other = worker(), worker()
    other.telling.tell(other.monitor)
    deal([mine, other], 1, rows=5)
    for one in (mine, other):
        one.publish()
    mine.tick()
    other.die()
    mine.tick()
    assert len([name for name in files(mine) if name.endswith((".reference", ".json", ".lock"))]) == 3


def test_a_model_that_the_leader_does_not_have(worker):
    """What a dead worker has counted of a model that the elected one does not know costs nothing of the others."""
    mine, other = worker(), worker(name="n")
    for one in (mine, other):
        deal([one], 1, rows=5)
        one.publish()
    other.die()
    mine.tick()
    assert total(mine) == 5
    assert epochs_of(mine.gather(), other.monitor) == []
    assert ("model_rows_total", ("n", "1"), None) in series_of(*Adder(1000).add([mine.share(), *mine.gather()]))
