"""Whose worker a process is, and a directory that nobody else can look into, in its place, cleared of the past."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import shutil
import stat
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from support.shares import child, descriptors, ended

import modelwatch.lodging
from modelwatch.lodging import ALIVE, answers, lodge, names, service_key, started

HOST = "abcdef012345"
SERVICE = f"1-1-{HOST}"


def mode(path):
    return stat.S_IMODE(path.lstat().st_mode)


def own(base):
    return base / f"modelwatch-{os.geteuid()}"


@pytest.fixture
def base(tmp_path):
    """Where directories are made."""
    return tmp_path / "base"


# Whose worker


@pytest.fixture
def alone(monkeypatch):
    """A process that is nobody's worker."""
    monkeypatch.delenv("SERVER_SOFTWARE", raising=False)
    monkeypatch.setattr(multiprocessing, "parent_process", lambda: None)


def test_a_single_process_is_nobodys_worker(alone, monkeypatch):
    """Without a server that starts workers there is no service to share with; another server's name changes nothing."""
    assert service_key() is None
    for text in ("", "uvicorn/1", "gunicorn", "my gunicorn/20"):
        monkeypatch.setenv("SERVER_SOFTWARE", text)
        assert service_key() is None


def test_a_worker_of_gunicorn(alone, monkeypatch):
    """Under gunicorn the parent is whom the workers have in common, with the time at which it was started."""
    monkeypatch.setenv("SERVER_SOFTWARE", "gunicorn/23.0.0")
    pid, since, host = service_key().split("-")
    assert (int(pid), int(since)) == (os.getppid(), started(os.getppid()))
    assert len(host) == 12
    assert service_key() == f"{pid}-{since}-{host}"


def test_a_worker_of_multiprocessing(alone, monkeypatch):
    """What `multiprocessing` has started belongs to whoever started it, also under gunicorn."""
    monkeypatch.setattr(multiprocessing, "parent_process", lambda: SimpleNamespace(pid=os.getpid()))
    monkeypatch.setenv("SERVER_SOFTWARE", "gunicorn/23.0.0")
    assert service_key().startswith(f"{os.getpid()}-{started(os.getpid())}-")


def test_children_of_one_parent_have_one_key():
    """All workers that one process has started have the same key, and it is the one of that process."""
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    workers = [context.Process(target=lambda: queue.put(service_key())) for _ in range(2)]
    for worker in workers:
        worker.start()
    keys = [queue.get() for _ in workers]
    for worker in workers:
        worker.join(30)
    assert keys[0] == keys[1]
    assert keys[0].startswith(f"{os.getpid()}-{started(os.getpid())}-")


def test_what_tells_services_apart(alone, monkeypatch):
    """Another boot of the machine, and another world of pids, make another key although the pids are the same."""
    monkeypatch.setenv("SERVER_SOFTWARE", "gunicorn/23.0.0")
    keys, read, look = {service_key()}, Path.read_text, os.stat
    monkeypatch.setattr(
        Path, "read_text", lambda path, *rest: "another" if path.name == "boot_id" else read(path, *rest)
    )
    keys.add(service_key())

    def elsewhere(path, *rest, **more):
        return SimpleNamespace(st_ino=7) if path == "/proc/self/ns/pid" else look(path, *rest, **more)

    monkeypatch.setattr(os, "stat", elsewhere)
    keys.add(service_key())
    assert len(keys) == 3
    assert all(name.count("-") == 2 for name in keys)


def test_where_there_is_no_proc(alone, monkeypatch):
    """A system that tells nothing of processes gives a key all the same."""

    def nothing(*arguments, **options):
        raise FileNotFoundError(2, "no /proc")

    monkeypatch.setenv("SERVER_SOFTWARE", "gunicorn/23.0.0")
    monkeypatch.setattr(Path, "read_text", nothing)
    monkeypatch.setattr(Path, "read_bytes", nothing)
    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", nothing)
        key = service_key()
    assert key.startswith(f"{os.getppid()}-0-")


def test_started():
    """A process keeps its start time, a younger one has a later one, and one that is gone has none."""
    assert started(os.getpid()) == started(os.getpid())
    pid = child(lambda: os._exit(0))
    assert started(pid) >= started(os.getpid())
    assert ended(pid) == 0
    assert started(pid) is None
    assert started(2**30) is None


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can rename a process like this")
def test_names_of_processes_do_not_matter():
    """A process that calls itself `) 1 2 (` or the like is read as any other."""
    before = started(os.getpid())
    comm = Path("/proc/self/comm")
    name = comm.read_text()
    try:
        for odd in (") R 1 2 3", "a b) (c", "()"):
            comm.write_text(odd)
            assert started(os.getpid()) == before
    finally:
        comm.write_text(name)


@pytest.mark.parametrize("told", [b"", b"7", b"7 (x) S 1", b"7 (x) S " + b"1 " * 18 + b"x 3", b"\xff"])
def test_what_proc_may_say(told, monkeypatch):
    """Something unreadable in /proc means that nothing is known of the process."""
    monkeypatch.setattr(Path, "read_bytes", lambda path: told)
    assert started(7) is None


# The directory


def test_it_is_made_for_its_user_alone(base):
    """All directories below the base are made with mode 0700, whatever the umask is, and found again."""
    for umask in (0o000, 0o022, 0o077):
        before = os.umask(umask)
        try:
            home = lodge(str(base / oct(umask)), SERVICE, "app")
        finally:
            os.umask(before)
        assert home == own(base / oct(umask)) / SERVICE / "app"
        assert [mode(path) for path in (home, home.parent, home.parent.parent)] == [0o700] * 3
        assert lodge(str(base / oct(umask)), SERVICE, "app") == home


def test_apps_and_services_are_apart(base):
    """Each app of each service has a directory of its own."""
    homes = {lodge(str(base), service, app) for service in (SERVICE, f"2-1-{HOST}") for app in ("a", "b")}
    assert len(homes) == 4


def strangers(path):
    path.mkdir(mode=0o700)
    try:
        os.chown(path, 54321, 54321)
    except PermissionError:
        pytest.skip("needs root, to give a directory away")


def link(path):
    path.with_name("elsewhere").mkdir(mode=0o700)
    path.symlink_to(path.with_name("elsewhere"))


def dangling(path):
    path.symlink_to(path.with_name("nowhere"))


def of_mode(bits):
    def make(path):
        path.mkdir()
        path.chmod(bits)

    make.__name__ = oct(bits)
    return make


TRAPS = [strangers, link, dangling, os.mkfifo, Path.touch, *map(of_mode, (0o750, 0o701, 0o720, 0o704, 0o777, 0o1777))]


@pytest.mark.parametrize("level", range(3))
@pytest.mark.parametrize("trap", TRAPS, ids=lambda trap: trap.__name__)
def test_what_somebody_else_may_have_made(base, level, trap):
    """A link, another's, or what others can enter is refused at each level, and nothing is put into it."""
    path = own(base) / SERVICE / "app"
    path = [path.parent.parent, path.parent, path][level]
    path.parent.mkdir(parents=True, mode=0o700)
    if level:
        own(base).chmod(0o700)
    trap(path)
    before = sorted(base.rglob("*"))
    with pytest.raises(OSError, match="mode 0700") as caught:
        lodge(str(base), SERVICE, "app")
    assert caught.value.filename == str(path)
    assert sorted(base.rglob("*")) == before


def test_a_base_that_cannot_be_made(tmp_path):
    """A base that is a file, or below one, is said to be unusable."""
    (tmp_path / "file").write_text("x")
    for name in ("file", "file/below"):
        with pytest.raises(OSError, match=r"Not a directory|File exists"):
            lodge(str(tmp_path / name), SERVICE, "app")


def test_memory_first_then_disk(tmp_path, monkeypatch):
    """Without a base it is in memory; where that cannot be used, in the directory for temporary files; else nowhere."""
    memory, disk = tmp_path / "memory", tmp_path / "disk"
    for path in (memory, disk):
        path.mkdir()
    monkeypatch.setattr(modelwatch.lodging, "_MEMORY", memory)
    monkeypatch.setattr("tempfile.tempdir", str(disk))
    assert lodge(None, SERVICE, "app").is_relative_to(memory)
    shutil.rmtree(memory)
    assert lodge(None, SERVICE, "app").is_relative_to(disk)
    shutil.rmtree(disk)
    with pytest.raises(OSError, match="No such file"):
        lodge(None, SERVICE, "app")


def test_several_that_come_at_once(base):
    """Workers that start together all find the same directory."""
    pids = [child(lambda: [lodge(str(base), SERVICE, f"app{i}") for i in range(20)]) for _ in range(4)]
    assert [ended(pid) for pid in pids] == [0] * 4
    assert len(list((own(base) / SERVICE).iterdir())) == 20


# What others have left


def past_service(base, name, *, fifo=None, seconds=0.0):
    """What a service has left: a directory with a file, and the FIFO of a worker."""
    home = own(base) / name / "app"
    home.mkdir(parents=True, mode=0o700)
    own(base).chmod(0o700)
    (home / "1-x.counts").write_bytes(b"x")
    os.mkfifo(home / f"1-x{ALIVE}")
    before = time.time() - seconds
    os.utime(home.parent, (before, before))
    return home


def test_services_that_are_gone_are_removed(base):
    """A service whose process is gone, or whose pid is another process's by now, leaves nothing behind."""
    gone = [f"{2**30}-7-{HOST}", f"{os.getpid()}-7-{HOST}", f"1-{10**18}-{HOST}"]
    for name in gone:
        past_service(base, name)
    lodge(str(base), SERVICE, "app")
    assert [path.name for path in own(base).iterdir()] == [SERVICE]


def test_services_that_live_stay(base):
    """A service whose process lives keeps its directory, and so does one of which any worker lives."""
    alive = f"{os.getpid()}-{started(os.getpid())}-{HOST}"
    orphaned = past_service(base, f"{2**30}-7-{HOST}")
    past_service(base, alive)
    bell = os.open(orphaned / f"1-x{ALIVE}", os.O_RDWR | os.O_NONBLOCK)
    home = lodge(str(base), SERVICE, "app")
    assert {path.name for path in own(base).iterdir()} == {SERVICE, alive, orphaned.parent.name}
    assert (orphaned / "1-x.counts").exists()
    os.close(bell)
    assert lodge(str(base), SERVICE, "app") == home
    assert {path.name for path in own(base).iterdir()} == {SERVICE, alive}


def test_other_containers_are_left_alone_for_a_while(base):
    """Of another world of pids nothing can be asked: what has changed within the hour stays, also if no pid fits."""
    young = f"{2**30}-7-000000000000"
    old = f"{2**30}-8-000000000000"
    living = f"{2**30}-9-000000000000"
    past_service(base, young)
    past_service(base, old, seconds=4000)
    home = past_service(base, living, seconds=4000)
    bell = os.open(home / f"1-x{ALIVE}", os.O_RDWR | os.O_NONBLOCK)
    lodge(str(base), SERVICE, "app")
    assert {path.name for path in own(base).iterdir()} == {SERVICE, young, living}
    os.close(bell)


@pytest.mark.parametrize(
    "name",
    [
        "x",
        "1",
        "-",
        "--",
        "a-b-c",
        "7-x-y",
        "x-7-y",
        "\udcff-1-2",
        "1 -2-3",
        f"²-1-{HOST}",
        f"1-²-{HOST}",
        "1.5-2-x",
        "~",
    ],
)
def test_what_is_no_service_stays(base, name):
    """Whatever else the user keeps there is not touched."""
    (own(base) / name).mkdir(parents=True)
    own(base).chmod(0o700)
    os.utime(own(base) / name, (0, 0))
    lodge(str(base), SERVICE, "app")
    assert (own(base) / name).is_dir()


def test_links_are_not_followed(base, tmp_path):
    """A link that is named like a service that is gone leads nowhere: what it leads to stays."""
    victim = tmp_path / "victim"
    (victim / "app").mkdir(parents=True)
    (victim / "app" / "data").write_text("precious")
    own(base).mkdir(parents=True, mode=0o700)
    (own(base) / f"{2**30}-7-{HOST}").symlink_to(victim)
    inside = past_service(base, f"{2**30}-8-{HOST}")
    (inside / "leads").symlink_to(victim)
    lodge(str(base), SERVICE, "app")
    assert (victim / "app" / "data").read_text() == "precious"
    assert not inside.exists()


def test_clearing_may_fail(base, monkeypatch):
    """What cannot be removed stays, and costs nothing else."""
    past_service(base, f"{2**30}-7-{HOST}")

    def fails(*arguments, **options):
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "iterdir", fails)
        home = lodge(str(base), SERVICE, "app")
    assert home.is_dir()


# Who lives


def test_a_fifo_answers_while_somebody_reads_it(tmp_path):
    """It does from when it is opened until it is closed, and what it is asked arrives there."""
    fifo, before = tmp_path / "w.alive", descriptors()
    os.mkfifo(fifo)
    assert not answers(fifo)
    assert not answers(fifo, ask=True)
    bell = os.open(fifo, os.O_RDWR | os.O_NONBLOCK)
    assert answers(fifo)
    with pytest.raises(BlockingIOError):
        os.read(bell, 1)
    assert answers(fifo, ask=True)
    assert os.read(bell, 10) == b"?"
    os.close(bell)
    assert not answers(fifo, ask=True)
    assert descriptors() == before


def test_a_full_fifo_still_answers(tmp_path):
    """A worker that never looks lives all the same: asking it again and again neither waits nor fails."""
    fifo = tmp_path / "w.alive"
    os.mkfifo(fifo)
    bell = os.open(fifo, os.O_RDWR | os.O_NONBLOCK)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(bell, bytes(4096))
    assert answers(fifo, ask=True)
    assert answers(fifo)
    os.close(bell)


def test_a_killed_worker_does_not_answer(tmp_path):
    """After kill -9 nobody answers, from the moment at which the process is gone."""
    fifo = tmp_path / "w.alive"
    os.mkfifo(fifo)
    ready, done = os.pipe()

    def live():
        os.open(fifo, os.O_RDWR | os.O_NONBLOCK)
        os.write(done, b".")
        time.sleep(30)

    pid = child(live)
    assert os.read(ready, 1) == b"."
    assert answers(fifo)
    os.kill(pid, 9)
    assert ended(pid) == -9
    assert not answers(fifo)
    os.close(ready)
    os.close(done)


@pytest.mark.parametrize("trap", [Path.touch, Path.mkdir, link, dangling], ids=lambda trap: trap.__name__)
def test_what_is_no_fifo_does_not_answer(tmp_path, trap):
    """A file, a directory or a link in the place of the FIFO means that nobody lives, and is not written to."""
    path, before = tmp_path / "w.alive", descriptors()
    trap(path)
    assert not answers(path, ask=True)
    assert not answers(tmp_path / "gone", ask=True)
    assert path.is_symlink() or path.is_dir() or path.read_bytes() == b""
    assert descriptors() == before


def test_a_link_to_somebody_elses_fifo(tmp_path):
    """A link to a FIFO that somebody reads is not followed: nobody is asked."""
    os.mkfifo(tmp_path / "other")
    bell = os.open(tmp_path / "other", os.O_RDWR | os.O_NONBLOCK)
    (tmp_path / "w.alive").symlink_to(tmp_path / "other")
    assert not answers(tmp_path / "w.alive", ask=True)
    os.close(bell)


def test_names(tmp_path):
    """Names come sorted and without their ending, those that are hidden not at all, odd ones as they are."""
    for name in (
        "b.counts",
        "a.counts",
        ".c.counts",
        "d.alive",
        "counts",
        ".counts",
        "e.counts.new",
        "\udcff\n .counts",
    ):
        (tmp_path / name).touch()
    assert list(names(tmp_path, ".counts")) == ["a", "b", "\udcff\n "]
    with pytest.raises(FileNotFoundError):
        list(names(tmp_path / "gone", ".counts"))
