"""Whoever takes another reference leaves it for the others: in the end all have the same, whatever comes between."""

from __future__ import annotations

import errno
import os
import threading

import pytest
from support.shares import Still, Worker, descriptors, forged, reference_of

import modelwatch.engine
import modelwatch.telling
from modelwatch.notices import Notices

FIRST, SECOND, THIRD = (reference_of(seed, rows=200) for seed in range(3))


@pytest.fixture(autouse=True)
def still(monkeypatch):
    """No background thread, and nobody waits for one of another worker."""
    monkeypatch.setattr(modelwatch.engine, "PULSE", Still())
    monkeypatch.setattr(modelwatch.telling, "TICK_SECONDS", 0.001)


@pytest.fixture
def worker(tmp_path):
    """Makes workers of one service; what they have open is closed at the end."""
    made = []

    def more(reference=FIRST, **options):
        one = Worker(tmp_path, reference=reference, **options)
        one.monitor.references.told = lambda: one.telling.tell(one.monitor)
        made.append(one)
        return one

    yield more
    for one in made:
        one.die()


def hear(*workers):
    for one in workers:
        one.telling.hear(one.monitor)


def in_force(one):
    return one.engine.epoch.profile, one.engine.version


def notice_of(one):
    return one.home / f"{Notices.key('m')}.reference"


def test_a_reload_reaches_all(worker):
    """Reference, version, source and load state of a reload in one worker are in all, as soon as they hear."""
    workers = [worker() for _ in range(3)]
    for one in workers:
        one.monitor.loaded("1")
    workers[1].monitor.reload(SECOND, "2")
    hear(*workers)
    assert [in_force(one) for one in workers] == [(SECOND, "2")] * 3
    assert [one.engine.source for one in workers] == ["object"] * 3
    assert [one.monitor.loads.states for one in workers] == [{"1": False, "2": True}] * 3
    assert [one.monitor.reload_failed for one in workers] == [False] * 3


def test_each_news_is_heard_once(worker):
    """Hearing again and again changes nothing, in the teller neither: windows go on."""
    first, second = worker(), worker()
    first.monitor.reload(SECOND)
    hear(first, second)
    epochs = [one.engine.epoch for one in (first, second)]
    for one in (first, second):
        one.add([(0.5, "k1")])
    for _ in range(3):
        hear(first, second)
    assert [one.engine.epoch for one in (first, second)] == epochs
    assert first.monitor.report().rows == 1


def test_an_equal_reference_begins_all_windows_anew(worker):
    """A reload of the reference that is in force empties the window of all workers, as that of a single one."""
    first, second = worker(SECOND), worker(SECOND)
    first.add([(0.5, "k1")])
    second.monitor.reload(SECOND)
    hear(first, second)
    assert [one.monitor.report().rows for one in (first, second)] == [0, 0]


def test_a_new_worker_hears_what_was_told_before(worker):
    """A worker that joins after a reload has its reference at once."""
    worker().monitor.reload(SECOND, "2")
    late = worker()
    hear(late)
    assert in_force(late) == (SECOND, "2")


def test_what_was_told_is_watched(worker, tmp_path):
    """After a reload of a file all workers watch that file."""
    path = tmp_path / "reference.json"
    SECOND.save(path)
    first, second = worker(), worker()
    first.monitor.reload(path)
    hear(second)
    assert in_force(second) == (SECOND, "1")
    THIRD.save(path)
    for one in (first, second):
        one.monitor.references.look()
        one.monitor.references.look()
        assert in_force(one) == (THIRD, "1")


def test_a_file_that_was_replaced_after_it_was_told(worker, tmp_path):
    """A worker that joins when the watched file has changed since the reload has what the others have: the file's."""
    path = tmp_path / "reference.json"
    FIRST.save(path)
    first = worker(path)
    SECOND.save(path)
    first.monitor.reload(path, "2")
    THIRD.save(path)
    first.monitor.references.look()
    assert in_force(first) == (THIRD, "2")
    late = worker(path)
    for _ in range(2):
        hear(late)
        late.monitor.references.look()
    assert in_force(late) == (THIRD, "2")


def test_a_reload_of_the_watched_file(worker, tmp_path):
    """When the file changes and one worker reloads it at once, all have it, whichever of both they learn of first."""
    path = tmp_path / "reference.json"
    FIRST.save(path)
    first, second, third = (worker(path) for _ in range(3))
    SECOND.save(path)
    second.monitor.references.look()
    first.monitor.reload(path)
    hear(second, third)
    for one in (first, second, third):
        one.monitor.references.look()
    assert [in_force(one)[0] for one in (first, second, third)] == [SECOND] * 3


def test_without_a_reference_there_is_nothing_to_tell(worker):
    """A worker without a reference tells nothing, and hears."""
    first, second = worker(None), worker(None)
    first.telling.tell(first.monitor)
    assert not notice_of(first).exists()
    second.monitor.reload(SECOND)
    hear(first)
    assert in_force(first)[0] == SECOND


def test_models_are_apart(worker, tmp_path):
    """What is told of one model is not heard by another one of the same app."""
    first, other = worker(), worker(name="n")
    first.monitor.reload(SECOND)
    hear(other)
    assert in_force(other)[0] == FIRST


def test_two_that_tell_one_after_the_other(worker):
    """Whoever tells last is heard by all, also by who had told just before."""
    workers = [worker() for _ in range(3)]
    workers[0].monitor.reload(SECOND, "2")
    workers[1].monitor.reload(THIRD, "3")
    hear(*workers)
    hear(*workers)
    assert [in_force(one) for one in workers] == [(THIRD, "3")] * 3


@pytest.mark.parametrize("when", ["before", "after"])
def test_two_that_tell_at_once(worker, monkeypatch, when):
    """When another worker tells in the middle of telling, all agree in the end, the two tellers too."""
    workers = [worker() for _ in range(3)]
    first, second, _ = workers
    real = first.workers.write

    def interrupted(name, parts):
        monkeypatch.setattr(first.workers, "write", real)
        if when == "after":
            real(name, parts)
        second.monitor.reload(THIRD, "3")
        if when == "before":
            real(name, parts)

    monkeypatch.setattr(first.workers, "write", interrupted)
    first.monitor.reload(SECOND, "2")
    for _ in range(2):
        hear(*workers)
    assert len({in_force(one)[1] for one in workers}) == 1
    assert in_force(workers[2]) == ((THIRD, "3") if when == "after" else (SECOND, "2"))


def test_a_reload_in_the_middle_of_telling(worker, monkeypatch):
    """When another thread of the same worker reloads in the middle of telling, all workers have the same in the end."""
    first, second = worker(), worker()
    real = first.workers.write

    def interrupted(name, parts):
        monkeypatch.setattr(first.workers, "write", real)
        first.monitor.reload(THIRD, "3")
        real(name, parts)

    monkeypatch.setattr(first.workers, "write", interrupted)
    first.monitor.reload(SECOND, "2")
    for _ in range(2):
        hear(first, second)
    assert in_force(first) == in_force(second)


def test_two_threads_that_tell_at_once(worker):
    """Reloads in several threads of one worker at once all succeed, and all workers have the same in the end."""
    workers = [worker() for _ in range(3)]
    errors = []

    def reload(reference, version):
        try:
            for _ in range(5):
                workers[0].monitor.reload(reference, version)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is what this test is about
            errors.append(error)

    threads = [threading.Thread(target=reload, args=pair) for pair in ((SECOND, "2"), (THIRD, "3"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    for _ in range(2):
        hear(*workers)
    assert errors == []
    assert len({in_force(one)[1] for one in workers}) == 1
    assert [in_force(one) for one in workers] == [in_force(workers[0])] * 3


@pytest.mark.parametrize(
    "data", [b"", b"hello" * 10, forged({"body": {}, "pieces": []}), forged({"body": 1, "pieces": [[2, 0]]}, [b"{}"])]
)
def test_what_is_damaged_is_skipped(worker, data):
    """A damaged file is counted once as skipped and changes nothing; the next good one is taken."""
    first, second = worker(), worker()
    first.monitor.reload(SECOND)
    hear(second)
    notice_of(first).with_name("beside").write_bytes(data)
    notice_of(first).with_name("beside").replace(notice_of(first))
    before = descriptors()
    for _ in range(3):
        hear(first, second)
    assert [sum(one.workers.skipped.values()) for one in (first, second)] == [1, 1]
    assert [in_force(one)[0] for one in (first, second)] == [SECOND] * 2
    assert descriptors() == before
    first.monitor.reload(THIRD)
    hear(second)
    assert in_force(second)[0] == THIRD


@pytest.mark.parametrize("what", ["directory", "fifo", "link"])
def test_what_is_no_file_is_skipped(worker, what):
    """What stands in the place of the file is skipped, without waiting; telling over it works where it can."""
    first, second = worker(), worker()
    path = notice_of(first)
    if what == "directory":
        path.mkdir()
    elif what == "fifo":
        os.mkfifo(path)
    else:
        path.with_name("elsewhere").write_bytes(b"x")
        path.symlink_to("elsewhere")
    hear(second)
    assert sum(second.workers.skipped.values()) == 1
    assert in_force(second)[0] == FIRST
    if what != "directory":
        first.monitor.reload(SECOND)
        hear(second)
        assert in_force(second)[0] == SECOND


@pytest.mark.swallows
@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EROFS])
def test_what_cannot_be_told(worker, monkeypatch, swallowed_errors, error):
    """Where nothing can be written the reload holds in its own worker, and a counter says that the others lack it."""
    first, second = worker(), worker()

    def full(name, parts):
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(first.workers, "write", full)
    first.monitor.reload(SECOND)
    hear(second)
    assert in_force(first)[0] == SECOND
    assert in_force(second)[0] == FIRST
    assert not first.monitor.reload_failed
    assert [stage for stage, _ in swallowed_errors] == ["reference"]
    assert first.guard.errors["reference"] == 1


@pytest.mark.swallows
def test_what_cannot_be_taken(worker, monkeypatch, swallowed_errors):
    """When taking it fails the old reference stays, and it is counted."""
    first, second = worker(), worker()
    first.monitor.reload(SECOND)
    monkeypatch.setattr(second.engine, "swap", lambda *arguments: 1 / 0)
    hear(second)
    assert in_force(second)[0] == FIRST
    assert [stage for stage, _ in swallowed_errors] == ["reference"]


def test_telling_waits_for_the_others(worker, monkeypatch):
    """A reload that returns was heard by all workers that answer in time."""
    monkeypatch.setattr(modelwatch.telling, "TICK_SECONDS", 30)
    first, second = worker(), worker()
    over = threading.Event()

    def serve():
        os.set_blocking(second.workers.bell, True)
        while not over.is_set():
            os.read(second.workers.bell, 100)
            hear(second)
            second.publish()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        for number, reference in enumerate([SECOND, THIRD] * 3):
            first.monitor.reload(reference, str(number))
            assert in_force(second) == (reference, str(number))
    finally:
        over.set()
        bell = os.open(second.home / f"{second.workers.name}.alive", os.O_WRONLY | os.O_NONBLOCK)
        os.write(bell, b"!")
        os.close(bell)
        thread.join(30)
