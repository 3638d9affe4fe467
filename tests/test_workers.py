"""Workers among one another: who lives, what each has left, and that nothing is lost or counted twice when they die."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import threading
import time

import pytest
from support.shares import APP, SERVICE, child, descriptors, ended, forged, series_of, share_of, spoil

import modelwatch.workers
from modelwatch.container import Container
from modelwatch.segments import Segments
from modelwatch.workers import COUNTS, PAST, Workers

ROWS = ("model_rows_total", ("m", "1"), None)
PROGRESS = ("model_requests_in_progress", ("m",), None)


@pytest.fixture
def join(tmp_path):
    """Makes workers of one service; what they have open is closed at the end."""
    joined = []

    def more():
        joined.append(Workers.join(str(tmp_path), SERVICE, APP))
        return joined[-1]

    yield more
    for one in joined:
        one.leave()


def parts_of(number, *, began=None):
    share = share_of({ROWS: number, PROGRESS: 1})
    return Segments().pack(share, began=time.monotonic_ns() if began is None else began)


def publish(workers, number):
    workers.publish(parts_of(number))


def shares(workers, patience=0.0):
    segments = Segments()
    found = [workers.unpacked(segments, one) for one in workers.others(patience)]
    return [share for share in found if share is not None]


def total(workers):
    """What all others have counted together."""
    return sum_of(shares(workers))


def sum_of(found):
    return sum(series_of(share.keys, share.values)[ROWS][0] for share in found)


def together(workers):
    """What the elected worker makes of the dead: their sum, and who is within."""

    def fold(dead, left):
        segments = Segments()
        found = [share for one in dead if (share := workers.unpacked(segments, one)) is not None]
        within = [share.name for share in found if share.name != PAST]
        return segments.pack(share_of({ROWS: sum_of(found)}), began=0, folded=[*left, *within]) if within else None

    return fold


def files(workers):
    return sorted(os.listdir(workers.home))


def living(workers):
    return {one.name for one in workers.others() if one.alive}


# Joining, publishing, reading


def test_workers_see_one_another(join):
    """Each sees what the others have published last, sorted by name, and not itself."""
    first, second, third = join(), join(), join()
    for number, one in enumerate([first, second, third], 1):
        publish(one, 100 * number)
        publish(one, number)
    for one, expected in ((first, 2 + 3), (second, 1 + 3), (third, 1 + 2)):
        assert total(one) == expected
        found = [each.name for each in one.others()]
        assert found == sorted({first.name, second.name, third.name} - {one.name})
        assert living(one) == set(found)


def test_names_say_whose_they_are(join):
    """A worker is named by its pid and something that no other one has, also of the same pid."""
    found = {join().name for _ in range(5)}
    assert len(found) == 5
    assert {name.partition("-")[0] for name in found} == {str(os.getpid())}


def test_files_are_the_users_alone(tmp_path):
    """Whatever the umask is, all files have mode 0600."""
    before = os.umask(0)
    try:
        one = Workers.join(str(tmp_path), SERVICE, APP)
        publish(one, 1)
        one.write("elected.json", [b"x"])
        assert one.lock("elected")
        assert {path.lstat().st_mode & 0o777 for path in one.home.iterdir()} == {0o600}
        assert len(files(one)) == 4
    finally:
        os.umask(before)
        one.leave()


def test_one_that_has_joined_and_published_nothing(join):
    """A worker that has not published yet is nowhere in what others read."""
    first, _ = join(), join()
    assert first.others() == []
    assert first.others(0.001) == []


def test_other_services_are_not_seen(join, tmp_path):
    """Workers of another service, or another app, have nothing to do with these."""
    one = join()
    for service, app in (("2-2-here", APP), (SERVICE, "other")):
        other = Workers.join(str(tmp_path), service, app)
        publish(other, 5)
        assert one.others() == []
        other.leave()


def test_who_left_is_dead(join):
    """What a dead worker has published is there, and known to be of a dead one."""
    first, second = join(), join()
    publish(second, 7)
    second.leave()
    (one,) = first.others()
    assert (one.name, one.alive) == (second.name, False)
    assert total(first) == 7


def test_leaving_closes_all(join):
    """A worker that leaves keeps no descriptor: neither that of its FIFO nor those of its locks. Twice does no harm."""
    before = descriptors()
    one = join()
    assert one.lock("elected")
    assert one.lock("port")
    assert descriptors() == before + 3
    one.leave()
    other = os.open("/dev/null", os.O_RDONLY)
    one.leave()
    assert os.fstat(other)
    os.close(other)
    assert descriptors() == before


def test_nothing_stays_open(join):
    """Publishing, asking, reading and folding again and again leaves no descriptor open."""
    first, second, third = join(), join(), join()
    before = descriptors()
    for number in range(20):
        for one in (first, second, third):
            publish(one, number)
        assert total(first) == 2 * number
        first.others(0.001)
        first.fold(together(first))
        (first.home / "bad.counts").write_bytes(b"x" * number)
    assert descriptors() == before


def test_workers_in_processes_of_their_own(join):
    """What forked workers publish is read by all, while they live and after; being killed makes them dead at once."""
    mine = join()
    base = str(mine.home.parent.parent.parent)
    ready, done = os.pipe()

    def work(number):
        one = Workers.join(base, SERVICE, APP)
        publish(one, number)
        os.write(done, b".")
        time.sleep(30)

    pids = [child(lambda n=n: work(n)) for n in (1, 2, 4)]
    for _ in pids:
        assert os.read(ready, 1) == b"."
    assert total(mine) == 7
    assert len(living(mine)) == 3
    os.kill(pids[1], signal.SIGKILL)
    assert ended(pids[1]) == -9
    assert len(living(mine)) == 2
    assert total(mine) == 7
    mine.fold(together(mine))
    assert total(mine) == 7
    assert {one.name.partition("-")[0] for one in mine.others()} == {"past", str(pids[0]), str(pids[2])}
    for pid in (pids[0], pids[2]):
        os.kill(pid, signal.SIGKILL)
        assert ended(pid) == -9
    os.close(ready)
    os.close(done)


def test_a_child_that_leaves_takes_nothing_from_its_parent(join):
    """A forked child gives up what it has inherited; the parent lives on and keeps its locks, until it dies itself."""
    parent, other = join(), join()
    assert parent.lock("elected")
    pid = child(parent.leave)
    assert ended(pid) == 0
    assert not other.lock("elected")
    publish(parent, 3)
    assert living(other) == {parent.name}
    ready, done = os.pipe()

    def stay():
        parent.leave()
        os.write(done, b".")
        time.sleep(30)

    pid = child(stay)
    assert os.read(ready, 1) == b"."
    parent.leave()  # as the kernel does it; the child lives on
    assert living(other) == set()
    assert other.lock("elected")
    os.kill(pid, signal.SIGKILL)
    ended(pid)
    os.close(ready)
    os.close(done)


# Locks


def test_a_lock_is_held_by_one(join):
    """One worker holds a lock until it is gone; asking again, in vain or not, changes nothing; others are apart."""
    first, second = join(), join()
    before = descriptors()
    assert first.lock("elected")
    assert first.lock("elected")
    assert not any(second.lock("elected") for _ in range(5))
    assert descriptors() == before + 1
    assert second.lock("port")
    first.leave()
    assert second.lock("elected")


def test_a_killed_worker_loses_its_lock(join):
    """Kill -9 opens the lock at once."""
    mine = join()
    base = str(mine.home.parent.parent.parent)
    ready, done = os.pipe()

    def hold():
        assert Workers.join(base, SERVICE, APP).lock("elected")
        os.write(done, b".")
        time.sleep(30)

    pid = child(hold)
    assert os.read(ready, 1) == b"."
    assert not mine.lock("elected")
    os.kill(pid, signal.SIGKILL)
    ended(pid)
    assert mine.lock("elected")
    os.close(ready)
    os.close(done)


@pytest.mark.parametrize("trap", ["directory", "link", "fifo"])
def test_locks_that_cannot_be(join, trap):
    """Where something else stands in the place of the lock nobody holds it, and nobody waits."""
    one, before = join(), descriptors()
    path = one.home / "elected.lock"
    if trap == "directory":
        path.mkdir()
    elif trap == "link":
        path.symlink_to(one.home / "elsewhere")
    else:
        os.mkfifo(path)
        assert one.lock("elected") in {True, False}
        return
    assert not one.lock("elected")
    assert not (one.home / "elsewhere").exists()
    assert descriptors() == before


# Asking


def serve(workers, count, *, delay=0.0):
    """A thread that publishes whenever it is asked, until it is told to stop."""
    over = threading.Event()

    def run():
        os.set_blocking(workers.bell, True)
        while not over.is_set():
            os.read(workers.bell, 100)
            time.sleep(delay)
            if not over.is_set():
                publish(workers, count())

    thread = threading.Thread(target=run)
    thread.start()

    def stop():
        over.set()
        fifo = os.open(workers.home / f"{workers.name}.alive", os.O_WRONLY)
        os.write(fifo, b"!")
        os.close(fifo)
        thread.join(30)

    return stop


def test_who_is_asked_answers_with_what_is_now(join):
    """What had happened before a call with patience is in what it gives; without patience nobody is asked."""
    mine, asked = join(), [join(), join()]
    now = [1]
    stops = [serve(one, lambda: now[0]) for one in asked]
    try:
        for one in asked:
            publish(one, 0)
        assert total(mine) == 0
        for number in range(1, 20):
            now[0] = number
            assert sum_of(shares(mine, 20.0)) == 2 * number
    finally:
        for stop in stops:
            stop()


def test_a_bell_can_be_rung_many_times(join):
    """Any number of asks wake a worker at least once, and once it has looked none is left over."""
    first, second = join(), join()
    publish(second, 1)
    for _ in range(3):
        first.others(0.001)
    second.rung()
    with pytest.raises(BlockingIOError):
        os.read(second.bell, 1)
    second.rung()


class Clock:
    """A monotonic clock that only sleeping moves, and how long was slept."""

    def __init__(self, monkeypatch):
        self.slept = 0.0
        self.now = time.monotonic_ns()
        monkeypatch.setattr(modelwatch.workers.time, "monotonic_ns", lambda: self.now)
        monkeypatch.setattr(modelwatch.workers.time, "sleep", self.sleep)

    def sleep(self, seconds):
        self.slept += seconds
        self.now += int(seconds * 1e9)

    def waited(self, workers, patience=0.1):
        before = self.slept
        workers.others(patience)
        return self.slept - before


def test_nobody_waits_twice_for_a_silent_worker(join, monkeypatch):
    """A worker that does not answer costs its patience once; when it has published again it is waited for again."""
    mine, silent = join(), join()
    clock = Clock(monkeypatch)
    assert clock.waited(mine) == pytest.approx(0.1, abs=0.01)  # it has published nothing
    assert clock.waited(mine) == 0
    silent.publish(parts_of(1, began=clock.now - 10))
    assert clock.waited(mine) == pytest.approx(0.1, abs=0.01)
    assert [clock.waited(mine) for _ in range(3)] == [0, 0, 0]
    silent.publish(parts_of(1, began=clock.now - 5))
    assert clock.waited(mine) == pytest.approx(0.1, abs=0.01)
    assert clock.waited(mine) == 0


def test_a_silent_worker_does_not_hide_the_others(join, monkeypatch):
    """Who answers is waited for, although somebody else is silent."""
    mine, silent, good = join(), join(), join()
    clock = Clock(monkeypatch)
    publish(silent, 1)
    good.publish(parts_of(1, began=clock.now))
    clock.waited(mine)
    now = [0]
    real, count = clock.sleep, [0]

    def answers_after_three(seconds):
        real(seconds)
        count[0] += 1
        if count[0] == 3:
            now[0] += 1
            good.publish(parts_of(50 + now[0], began=clock.now))

    monkeypatch.setattr(modelwatch.workers.time, "sleep", answers_after_three)
    good.publish(parts_of(40, began=clock.now - 1))
    assert sum_of(shares(mine, 0.1)) == 1 + 51
    assert count[0] == 3


def test_who_has_just_published_is_not_waited_for(join, monkeypatch):
    """A publication that began after the question is an answer, whoever had asked for it."""
    mine, other = join(), join()
    clock = Clock(monkeypatch)
    other.publish(parts_of(1, began=clock.now))
    assert clock.waited(mine) == 0


def test_the_dead_are_not_waited_for(join, monkeypatch):
    """Nobody waits for a worker that cannot answer any more, be it dead before or only while it is waited for."""
    mine, dead, dying = join(), join(), join()
    clock = Clock(monkeypatch)
    publish(dead, 1)
    dead.leave()
    dying.publish(parts_of(1, began=clock.now))
    assert clock.waited(mine) == 0


def test_a_damaged_file_is_waited_for_once(join, monkeypatch):
    """A worker whose file cannot be read costs its patience once, whatever is in the file."""
    mine, other = join(), join()
    clock = Clock(monkeypatch)
    path = mine.home / f"{other.name}{COUNTS}"
    for body in ({}, {"began": None}, {"began": "x"}, {"began": []}, [1], None, {"began": 1e999}):
        path.write_bytes(forged({"body": body, "pieces": []}))
        clock.waited(mine)
        assert clock.waited(mine) == 0


# Publishing when the disk does not want to

CALLS = ["open", "write", "rename"]


@pytest.fixture
def failing(monkeypatch):
    """Lets the nth call that writes fail, once or from then on; gives how many failed."""

    def arm(nth, error, *, stuck):
        seen, failed = [0], [0]

        def guard():
            seen[0] += 1
            if seen[0] == nth or (stuck and seen[0] > nth):
                failed[0] += 1
                raise OSError(error, os.strerror(error))

        real_open, real_rename = os.open, os.rename

        class File:
            def __init__(self, file):
                self.file = file

            def __enter__(self):
                return self

            def __exit__(self, *error):
                self.file.close()

            def write(self, data):
                guard()
                return self.file.write(bytes(data)[:50])  # as a disk may that takes little at a time

        monkeypatch.setattr(os, "open", lambda *a, **k: (guard(), real_open(*a, **k))[1])
        monkeypatch.setattr(os, "rename", lambda *a, **k: (guard(), real_rename(*a, **k))[1])
        monkeypatch.setattr(modelwatch.workers, "open", lambda *a, **k: File(open(*a, **k)), raising=False)  # noqa: SIM115 - File closes it
        return failed

    return arm


@pytest.mark.parametrize("stuck", [False, True])
@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO, errno.EROFS])
def test_a_disk_that_fails_costs_nothing_published(join, failing, monkeypatch, error, stuck):
    """Whichever call fails, once or for ever, what was published stays, whole; nothing else stays; later it works."""
    mine, other = join(), join()
    publish(mine, 1)
    before, open_before, failures = files(mine), descriptors(), 0
    for nth in range(1, 40):
        with monkeypatch.context():
            failed = failing(nth, error, stuck=stuck)
            found = None
            try:
                publish(mine, 2)
            except OSError as caught:
                found = caught.errno
                failures += 1
            monkeypatch.undo()
        assert found in {None, error}
        if not failed[0]:
            break
        assert failures == nth
        assert files(mine) == before
        assert descriptors() == open_before
        assert total(other) == 1
    assert failures >= 6
    assert total(other) == 2


def test_writing_a_little_at_a_time(join, failing, monkeypatch):
    """A disk that takes a file in small pieces gets all of it."""
    mine, other = join(), join()
    parts = parts_of(5)
    failing(0, errno.EIO, stuck=False)
    mine.publish(parts)
    monkeypatch.undo()
    assert (mine.home / f"{mine.name}{COUNTS}").read_bytes() == b"".join(parts)
    assert total(other) == 5


def test_files_that_grow_too_large(join):
    """Under a limit for the size of files, as the kernel sets it, what was published stays, and the error is told."""
    import resource

    mine, other = join(), join()
    publish(mine, 1)
    size = sum(map(len, parts_of(2)))

    def limited():
        resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, size // 2))
        with pytest.raises(OSError, match="File too large"):
            publish(mine, 2)

    pid = child(limited)
    assert ended(pid) == 0
    assert total(other) == 1
    assert not [name for name in files(mine) if name.startswith(".")]


def test_a_directory_that_is_gone(join):
    """When somebody has removed the directory, or what shows that a worker lives, publishing says so."""
    import shutil

    mine, other = join(), join()
    publish(mine, 1)
    os.unlink(mine.home / f"{mine.name}.alive")
    with pytest.raises(FileNotFoundError):
        publish(mine, 2)
    shutil.rmtree(mine.home)
    with pytest.raises(FileNotFoundError):
        publish(other, 2)
    for patience in (0, 0.001):
        with pytest.raises(FileNotFoundError):
            other.others(patience)
    with pytest.raises(FileNotFoundError):
        other.fold(together(other))
    assert not other.lock("elected")


@pytest.mark.parametrize("nth", range(1, 6))
def test_joining_may_fail(tmp_path, failing, monkeypatch, nth):
    """If joining fails there is an error, and nothing stays: no file that shows a worker, no descriptor."""
    home = Workers.join(str(tmp_path), SERVICE, APP)
    before, names = descriptors(), files(home)
    failed = failing(nth, errno.ENOSPC, stuck=True)
    with contextlib.suppress(OSError):
        Workers.join(str(tmp_path), SERVICE, APP).leave()
    monkeypatch.undo()
    if failed[0]:
        assert files(home) == names
    assert descriptors() == before
    home.leave()


def test_two_threads_that_write_the_same(join):
    """Two threads that write a file of one name at once both succeed, and the file is that of one of them, whole."""
    mine, errors = join(), []
    contents = [[bytes([65 + number]) * 1000] * 50 for number in range(3)]

    def write(parts):
        try:
            for _ in range(50):
                mine.write("m.reference", parts)
        except OSError as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(parts,)) for parts in contents]
    for thread in threads:
        thread.start()
    seen = set()
    while any(thread.is_alive() for thread in threads):
        if (mine.home / "m.reference").exists():
            seen.add((mine.home / "m.reference").read_bytes())
    assert errors == []
    assert seen <= {b"".join(parts) for parts in contents}
    assert not [name for name in files(mine) if name.startswith(".")]


@pytest.mark.parametrize("error", [errno.EMFILE, errno.EIO, errno.EACCES])
def test_what_cannot_be_read_just_now_is_told(join, monkeypatch, error):
    """When a file of a worker cannot be opened that is no damage, and not passed over in silence."""
    mine, other = join(), join()
    publish(other, 3)
    real = os.open

    def fails(path, *rest, **more):
        if os.fspath(path).endswith(COUNTS):
            raise OSError(error, os.strerror(error))
        return real(path, *rest, **more)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", fails)
        try:
            found = total(mine)
        except OSError:
            pass
        else:
            assert found == 3 or sum(mine.skipped.values()) > 0
    assert total(mine) == 3


# Folding the dead together


def test_folding_keeps_the_total(join):
    """However often workers come and die, the total is theirs, in one file, and the dead leave nothing else."""
    mine = join()
    expected = 0
    for number in range(1, 15):
        one = join()
        publish(one, number)
        expected += number
        if number % 3:
            one.leave()
        assert total(mine) == expected
        mine.fold(together(mine))
        assert total(mine) == expected
    alive = len(living(mine))
    assert len(files(mine)) == 1 + 2 * alive + 1
    assert next(one.name for one in mine.others()) == PAST


def test_folding_waits_for_somebody_to_die(join):
    """As long as nobody has died since, nothing is written."""
    mine, other = join(), join()
    publish(other, 1)
    mine.fold(together(mine))
    assert not (mine.home / "past.counts").exists()
    other.leave()
    mine.fold(together(mine))
    before = (mine.home / "past.counts").stat()
    for _ in range(3):
        mine.fold(together(mine))
    after = (mine.home / "past.counts").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_the_living_are_never_folded(join):
    """A worker that lives keeps its files, and so does one that joins in the middle of it."""
    mine, dead, alive = join(), join(), join()
    for one in (dead, alive):
        publish(one, 1)
    dead.leave()
    fold, late = together(mine), []

    def joins_meanwhile(*found):
        late.append(join())
        publish(late[0], 1)
        return fold(*found)

    mine.fold(joins_meanwhile)
    assert {alive.name, late[0].name} <= living(mine)
    assert total(mine) == 3
    assert (mine.home / f"{late[0].name}.alive").exists()


def test_who_joins_while_the_dead_are_folded_stays(join):
    """A worker that joins while another one folds, and has nothing to publish yet, is not taken for a dead one."""
    mine, late = join(), []
    death(mine, join, 1)
    fold = together(mine)

    def joins_meanwhile(*found):
        late.append(join())
        return fold(*found)

    mine.fold(joins_meanwhile)
    publish(late[0], 2)
    assert living(mine) == {late[0].name}
    assert total(mine) == 3


def test_who_joins_while_others_are_read_is_alive(join, monkeypatch):
    """A worker that joins and publishes just after it was looked who lives is taken for alive, and is not folded."""
    mine, real = join(), modelwatch.workers.names

    def joins_now(home, suffix):
        if suffix == COUNTS:
            monkeypatch.setattr(modelwatch.workers, "names", real)
            publish(join(), 1)
        return real(home, suffix)

    monkeypatch.setattr(modelwatch.workers, "names", joins_now)
    assert [one.alive for one in mine.others()] == [True]
    monkeypatch.setattr(modelwatch.workers, "names", joins_now)
    mine.fold(together(mine))
    assert len(living(mine)) == total(mine) == 2


def death(mine, join, number):
    one = join()
    publish(one, number)
    one.leave()
    return one


def test_a_fold_that_was_interrupted(join, monkeypatch):
    """Killed between putting the past in its place and removing the files of the dead, nothing is counted twice."""
    mine, expected = join(), 0
    for number in (1, 2, 4, 8):
        death(mine, join, number)
        expected += number
        with monkeypatch.context() as patch:
            patch.setattr(os, "unlink", lambda path, **more: (_ for _ in ()).throw(OSError(errno.EIO, "no")))
            mine.fold(together(mine))
        assert total(mine) == expected
        for _ in range(2):
            mine.fold(together(mine))
            assert total(mine) == expected


@pytest.mark.parametrize("steps", range(8))
def test_an_interrupted_fold_is_finished(join, monkeypatch, steps):
    """Whichever file was the last that could be removed, later folds remove the rest, and the total stays."""
    mine, expected = join(), 0
    for turn in range(3):
        for number in (1, 2, 4):
            death(mine, join, number)
            expected += number
        left, real = [steps if turn == 0 else 1], os.unlink

        def unlink(path, real=real, left=left, **more):
            if left[0] <= 0:
                raise OSError(errno.EIO, "no")
            left[0] -= 1
            real(path, **more)

        with monkeypatch.context() as patch:
            patch.setattr(os, "unlink", unlink)
            mine.fold(together(mine))
            assert total(mine) == expected
    for _ in range(2):
        death(mine, join, 16)
        expected += 16
        mine.fold(together(mine))
        assert total(mine) == expected
    assert [name for name in files(mine) if mine.name not in name] == ["past.counts"]


def test_another_one_goes_on_with_an_interrupted_fold(join, monkeypatch):
    """Whoever is elected next finishes what the one that was killed in the middle has begun."""
    first, second = join(), join()
    for number in (1, 2):
        death(first, join, number)
    publish(first, 4)
    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", lambda path, **more: (_ for _ in ()).throw(OSError(errno.EIO, "no")))
        first.fold(together(first))
    first.leave()
    for _ in range(3):
        assert total(second) == 7
        second.fold(together(second))
    assert [name for name in files(second) if second.name not in name] == ["past.counts"]


def test_a_fold_that_cannot_write(join, monkeypatch):
    """When the past cannot be written all stays as it is, and the total too."""
    mine = join()
    death(mine, join, 1)
    mine.fold(together(mine))
    death(mine, join, 2)
    before = files(mine)

    def full(source, target):
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", full)
        with pytest.raises(OSError, match="full"):
            mine.fold(together(mine))
    assert files(mine) == before
    assert total(mine) == 3
    mine.fold(together(mine))
    assert total(mine) == 3


def test_the_past_is_not_forgotten_for_want_of_descriptors(join, monkeypatch):
    """A past that cannot be opened just now, but is not damaged, is not replaced by what has died since."""
    mine = join()
    death(mine, join, 5)
    mine.fold(together(mine))
    death(mine, join, 2)
    real = os.open

    def none_left(path, *rest, **more):
        if os.fspath(path) == str(mine.home / "past.counts"):
            raise OSError(errno.EMFILE, "Too many open files")
        return real(path, *rest, **more)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", none_left)
        with contextlib.suppress(OSError):
            mine.fold(together(mine))
    assert total(mine) == 7


@pytest.mark.parametrize("killed", range(3))
def test_kill_while_folding(join, killed):
    """A process that is killed while it folds leaves a total that is right, whoever reads and folds after it."""
    mine = join()
    base, expected = str(mine.home.parent.parent.parent), 0
    for number in range(1, 9):
        death(mine, join, number)
        expected += number

    def fold():
        one = Workers.join(base, SERVICE, APP)
        if killed == 0:
            os.unlink = lambda path: os.kill(os.getpid(), signal.SIGKILL)
        elif killed == 1:
            os.rename = lambda *paths: os.kill(os.getpid(), signal.SIGKILL)
        else:
            count, real = [0], os.unlink

            def third(path):
                count[0] += 1
                if count[0] == 3:
                    os.kill(os.getpid(), signal.SIGKILL)
                real(path)

            os.unlink = third
        one.fold(together(one))

    pid = child(fold)
    assert ended(pid) == -9
    for _ in range(3):
        assert total(mine) == expected
        death(mine, join, 1)
        expected += 1
        mine.fold(together(mine))
    assert total(mine) == expected


def test_readers_that_race_with_a_fold(join):
    """Whoever reads while the dead are folded sees neither less nor more than the total, however often."""
    mine, readers = join(), [join(), join()]
    publish(mine, 0)
    seen, over = set(), threading.Event()

    def read(workers):
        while not over.is_set():
            seen.add(total(workers))

    for _ in range(5):
        death(mine, join, 1)
    threads = [threading.Thread(target=read, args=(one,)) for one in readers]
    for thread in threads:
        thread.start()
    deadline, folds = time.monotonic() + 0.8, 0
    while time.monotonic() < deadline:
        mine.fold(together(mine))
        # One more that is dead but has counted nothing: so that there is something to fold, and the total stays.
        death(mine, join, 0)
        folds += 1
    over.set()
    for thread in threads:
        thread.join(30)
    assert folds > 3
    assert seen == {5.0}


def test_what_can_never_be_read_is_folded_around(join):
    """A dead worker whose file is spoilt is counted as skipped, once, and neither stops the fold nor repeats it."""
    mine = join()
    bad = join()
    publish(bad, 100)
    spoil(mine.home / f"{bad.name}{COUNTS}", 1)
    bad.leave()
    death(mine, join, 3)
    mine.fold(together(mine))
    before = (mine.home / "past.counts").stat()
    for _ in range(3):
        mine.fold(together(mine))
        assert total(mine) == 3
    after = (mine.home / "past.counts").stat()
    assert {reason for reason, files in mine.skipped.items() if files} == {"damaged"}
    assert mine.skipped["damaged"] == 1
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


# Damage


def damage(path):
    data = path.read_bytes()
    cut = {f"cut {n}": data[:n] for n in (0, 3, 24, len(data) // 2, len(data) - 1)}
    return cut | {
        "long": data + b"x",
        "zeros": bytes(len(data)),
        "text": b"hello" * 10,
        "layout": data[:8] + b"\2" + data[9:],
    }


def test_damaged_files_cost_their_own_counts(join):
    """Whatever a file has become, the others are counted, it is skipped and told, once for each thing that it was."""
    mine, good, bad = join(), join(), join()
    publish(good, 3)
    publish(bad, 100)
    path = mine.home / f"{bad.name}{COUNTS}"
    seen = 0
    for data in damage(path).values():
        path.with_name(".new").write_bytes(data)
        path.with_name(".new").replace(path)
        seen += 1
        for _ in range(3):
            assert total(mine) == 3
        assert sum(mine.skipped.values()) == seen
    assert mine.skipped["layout"] == 1
    assert mine.skipped["foreign"] == 2
    publish(bad, 4)
    assert total(mine) == 7
    assert sum(mine.skipped.values()) == seen


def put(path, what):
    if what == "fifo":
        os.mkfifo(path)
    elif what == "directory":
        path.mkdir()
    elif what == "link":
        path.symlink_to("/dev/zero")
    else:
        path.symlink_to("nowhere")


@pytest.mark.parametrize("name", ["x", "1-a", "\udcff\n", "past", "-", "a b", "..", "%s{}"])
@pytest.mark.parametrize("what", ["fifo", "directory", "link", "dangling"])
def test_what_is_no_file(join, name, what):
    """FIFOs, directories and links, by whatever name, are skipped as foreign, at once, and the rest is counted."""
    mine, other = join(), join()
    publish(other, 3)
    put(mine.home / f"{name}{COUNTS}" if name != ".." else mine.home / f"x..{COUNTS}", what)
    assert total(mine) == 3
    assert {reason: files for reason, files in mine.skipped.items() if files} == {"foreign": 1}
    mine.fold(together(mine))
    other.leave()
    if name != "past":
        mine.fold(together(mine))
        assert total(mine) == 3


@pytest.mark.parametrize("body", [None, [1], "x", 5, {}, {"folded": None}, {"folded": 5}, {"folded": [[1]]}])
def test_a_past_that_says_nonsense(join, body):
    """A past whose checksums are right and that is none costs what it held, and nothing else."""
    mine, other = join(), join()
    publish(other, 3)
    (mine.home / f"{PAST}{COUNTS}").write_bytes(forged({"body": body, "pieces": []}))
    assert total(mine) == 3
    assert mine.skipped["damaged"] == 1
    other.leave()
    mine.fold(together(mine))
    assert total(mine) == 3


def test_hidden_files_are_never_read(join):
    """What is being written, or was left in the middle of it, is nobody's count."""
    mine, other = join(), join()
    publish(other, 3)
    data = (mine.home / f"{other.name}{COUNTS}").read_bytes()
    for name in (f".{other.name}{COUNTS}", ".counts", ".x.counts", f".{other.name}-{other.name}{COUNTS}", "x.counts~"):
        (mine.home / name).write_bytes(data)
    assert [one.name for one in mine.others()] == [other.name]
    assert total(mine) == 3


def test_odd_names_do_no_harm(join):
    """A file with an odd name that holds a whole share is that of a worker that is dead: it is folded as any other."""
    mine, other = join(), join()
    publish(other, 3)
    data = (mine.home / f"{other.name}{COUNTS}").read_bytes()
    for name in ("\udcff\n \u202e", "a" * 200, "-", "%s{}", "$(x)", "~"):
        (mine.home / f"{name}{COUNTS}").write_bytes(data)
    assert total(mine) == 3 * 7
    for _ in range(2):
        mine.fold(together(mine))
        assert total(mine) == 3 * 7
    assert sorted(one.name for one in mine.others()) == sorted([PAST, other.name])


def test_leftovers_are_swept(join):
    """What the dead have left in the middle of something goes, once it is old; what anybody else has stays."""
    mine, other = join(), join()
    publish(other, 1)
    silent = join()
    silent.leave()  # has never published
    old = time.time() - 60
    hidden = {
        "dead": mine.home / f".1-abc-0-1-abc{COUNTS}",
        "joining": mine.home / ".1-def",
        "young": mine.home / f".1-abd-0-1-abd{COUNTS}",
        "mine": mine.home / f".{mine.name}-0-x{COUNTS}",
        "other": mine.home / f".{other.name}-7-x{COUNTS}",
    }
    for path in hidden.values():
        path.touch()
    for name in ("dead", "joining", "mine", "other"):
        os.utime(hidden[name], (old, old))
    (mine.home / ".directory").mkdir()
    os.utime(mine.home / ".directory", (old, old))
    (mine.home / "x.reference").touch()
    os.utime(mine.home / "x.reference", (old, old))
    mine.fold(together(mine))
    assert {name for name, path in hidden.items() if path.exists()} == {"young", "mine", "other"}
    assert not (mine.home / f"{silent.name}.alive").exists()
    assert (mine.home / "x.reference").exists()
    assert living(mine) == {other.name}


def test_what_is_skipped_is_bounded(join, monkeypatch):
    """However many files cannot be used, what is remembered of them is bounded."""
    monkeypatch.setattr(modelwatch.workers, "_MOST_KNOWN", 5)
    mine = join()
    for number in range(20):
        (mine.home / f"{number}{COUNTS}").write_bytes(b"x")
    mine.others()
    assert len(mine._known_bad) <= 5
    assert mine.skipped["damaged"] == 20


def test_an_open_file_is_of_its_moment(join):
    """What was found stays readable when it is replaced or folded meanwhile."""
    mine, other = join(), join()
    publish(other, 3)
    (one,) = mine.others()
    publish(other, 4)
    other.leave()
    mine.fold(together(mine))
    assert isinstance(one.file, Container)
    assert sum_of([mine.unpacked(Segments(), one)]) == 3
    assert total(mine) == 4


def test_many_generations_leave_no_files(join, tmp_path):
    """After many workers have come and gone there are as many files as after a few, and the total is exact."""
    mine, counts = join(), []
    for _number in range(60):
        one = Workers.join(str(tmp_path), SERVICE, APP)
        publish(one, 1)
        one.leave()
        mine.fold(together(mine))
        counts.append(len(files(mine)))
    assert set(counts) == {counts[0]}
    assert total(mine) == 60


def test_totals_are_read_by_threads_at_once(join):
    """Several threads of one worker that ask at once all get the whole."""
    mine, others = join(), [join() for _ in range(3)]
    for one in others:
        publish(one, 2)
    found = []
    threads = [threading.Thread(target=lambda: found.extend(total(mine) for _ in range(20))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert found == [6.0] * 80


@pytest.mark.parametrize("what", ["read", "fold"])
def test_a_signal_in_the_middle(join, monkeypatch, what):
    """A signal handler that asks for a report, in the middle of reading or folding, does not wait for itself."""
    mine, real, seen = join(), modelwatch.workers.Container, []
    death(mine, join, 1)
    publish(join(), 2)

    def interrupted(path):
        monkeypatch.setattr(modelwatch.workers, "Container", real)
        seen.append(total(mine))
        return real(path)

    monkeypatch.setattr(modelwatch.workers, "Container", interrupted)
    work = (lambda: total(mine)) if what == "read" else (lambda: mine.fold(together(mine)))
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(5)
    assert not thread.is_alive()
    assert seen == [3]
    assert total(mine) == 3
