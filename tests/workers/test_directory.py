"""The directory that workers share may be damaged, full, forbidden, somebody else's or old: the service goes on."""

from __future__ import annotations

import os
import pickle
import shutil
import stat
import subprocess
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.service_app import MODEL, customers, profile, score
from support.serving import end_group, serve, until

ROWS = 2  # of each request
PROMPT_SECONDS = 5  # a scrape that takes longer has waited for something that never comes
STRANGER = 54321
SHOWN = (
    "model_drift_window_rows",
    "model_feature_window_rows",
    "model_request_total",
    "modelwatch_degraded",
    "modelwatch_internal_errors_total",
    "modelwatch_segments_skipped_total",
)
BATCHES = [customers(ROWS, seed) for seed in range(60)]

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to mount, to own or to be somebody else")


def mounts():
    """Whether file systems can be mounted here: containers usually forbid it, even to root."""
    return os.geteuid() == 0 and subprocess.run(
        ["unshare", "--mount", "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True, check=False
    ).returncode == 0  # fmt: skip


may_mount = pytest.mark.skipif(not mounts(), reason="needs root with the right to mount, for a tmpfs of its own")


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """Path of the service's reference."""
    path = tmp_path_factory.mktemp("reference") / "reference.json"
    profile().save(path)
    return path


def total(scrape):
    """All requests that a page shows."""
    return scrape.total("model_request_total", **MODEL)


def homes(base: Path):
    """The directories below in which workers have come together."""
    return sorted({path.parent for path in base.rglob("*.alive")})


def counts(home):
    """What workers have published there, and what the dead have left."""
    return sorted(path for path in home.iterdir() if path.suffix == ".counts")


def living(home):
    """What the living have published there."""
    return [path for path in counts(home) if path.with_suffix(".alive").exists()]


def everywhere(server):
    """What each worker answers, and each in good time."""
    scrapes = [server.scrape(pin, SHOWN) for pin in server.reach_all().values()]
    assert max(scrape.seconds for scrape in scrapes) < PROMPT_SECONDS
    return scrapes


def check_answers(server):
    """Each worker says what the model says, with status 200."""
    for pin in server.reach_all().values():
        answer = pin.post("/predict", BATCHES[0])
        assert answer.status == 200
        assert answer.json == [dict(zip(("prediction", "confidence"), score(row), strict=True)) for row in BATCHES[0]]


def remove(path):
    """Remove whatever is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def flipped(data, position):
    """The same bytes with one bit turned."""
    return data[:position] + bytes([data[position] ^ 4]) + data[position + 1 :]


# Each puts something at a path that is no whole file of a worker; `good` is one.
DAMAGE: dict[str, Callable[[Path, bytes], object]] = {
    "empty": lambda path, good: path.write_bytes(b""),
    "three bytes": lambda path, good: path.write_bytes(good[:3]),
    "cut in the head": lambda path, good: path.write_bytes(good[:100]),
    "cut in half": lambda path, good: path.write_bytes(good[: len(good) // 2]),
    "one byte short": lambda path, good: path.write_bytes(good[:-1]),
    "one byte more": lambda path, good: path.write_bytes(good + b"\0"),
    "bit turned at the start": lambda path, good: path.write_bytes(flipped(good, 9)),
    "bit turned in the head": lambda path, good: path.write_bytes(flipped(good, 60)),
    "bit turned in the middle": lambda path, good: path.write_bytes(flipped(good, len(good) // 2)),
    "bit turned at the end": lambda path, good: path.write_bytes(flipped(good, len(good) - 5)),
    "foreign magic": lambda path, good: path.write_bytes(b"SQLite f" + good[8:]),
    "another layout": lambda path, good: path.write_bytes(good[:8] + b"\xff\0\0\0" + good[12:]),
    "text": lambda path, good: path.write_text("model_request_total 12\n" * 200),
    "pickle": lambda path, good: path.write_bytes(pickle.dumps({"model_request_total": 12})),
    "zeros": lambda path, good: path.write_bytes(bytes(len(good))),
    "directory": lambda path, good: path.mkdir(),
    "link to nothing": lambda path, good: path.symlink_to("nowhere"),
    "link to zeros": lambda path, good: path.symlink_to("/dev/zero"),
    "link to a whole file": lambda path, good: path.symlink_to(counts(path.parent)[0].name),
    "FIFO": lambda path, good: os.mkfifo(path),
}


def damage(kind, path, good):
    """Put it there in place of what is there, though a worker may put that there again at any time."""
    made = path.with_name("made")
    DAMAGE[kind](made, good)
    while True:
        try:
            made.rename(path)
            return
        except OSError:  # a directory replaces nothing else
            remove(path)


PARTLY_WHOLE = {"bit turned in the middle", "bit turned at the end"}  # each part of a file has a checksum of its own
SAMPLED = {"three bytes", "bit turned at the end", "another layout", "directory", "link to zeros", "FIFO"}
sampled_damage = pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[] if kind in SAMPLED else pytest.mark.soak) for kind in DAMAGE]
)


@pytest.fixture(scope="module")
def damaged(reference, tmp_path_factory):
    """A server of three workers that has answered some requests, its directory, and a whole file of a worker.

    Every test leaves it as it was, and knows how many requests there have been from `everywhere`.
    """
    with serve("gunicorn-preload", tmp_path_factory.mktemp("damaged"), reference) as server:
        answered = server.send(BATCHES)
        assert {total(scrape) for scrape in everywhere(server)} == {len(BATCHES)}
        [home] = homes(server.shared)
        until(lambda: len(living(home)) == 3, "all workers have published")
        good = living(home)[0]
        yield server, home, good.read_bytes(), answered[int(good.name.partition("-")[0])]


def possible(kind, before, more):
    """What a worker may show: of a file that is damaged only in parts, the other parts may count."""
    return {before, before + more} if kind in PARTLY_WHOLE else {before}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_file_is_skipped(damaged, kind):
    """A file that is no whole file of a worker is passed over and counted; the counts of the others are all there."""
    server, home, good, total_of_good = damaged
    before = everywhere(server)[-1]
    strange = home / f"99999-{list(DAMAGE).index(kind):012x}.counts"  # no two workers have the same name
    damage(kind, strange, good)
    try:
        after = everywhere(server)
    finally:
        remove(strange)
    assert {total(scrape) for scrape in after} <= possible(kind, total(before), total_of_good)
    window = possible(kind, before.total("model_drift_window_rows"), ROWS * total_of_good)
    for scrape in after:
        assert scrape.total("model_drift_window_rows") in window
        # And no row is in the window of which not all is known: every row has a plan.
        assert scrape.total("model_drift_window_rows") == scrape.total("model_feature_window_rows", feature="plan")
    skipped = [scrape.total("modelwatch_segments_skipped_total") for scrape in (before, after[-1])]
    assert skipped[1] > skipped[0] or kind in PARTLY_WHOLE  # the part may be one that nobody needs
    assert {scrape.total("modelwatch_degraded") for scrape in after} == {0}
    assert {scrape.total("modelwatch_internal_errors_total") for scrape in after} == {0}


@sampled_damage
@pytest.mark.parametrize("name", ["past.counts", "99999-0123456789ab.alive", "elected.lock"])
def test_damage_of_other_files_hurts_nobody(damaged, name, kind):
    """Whatever stands in the place of any other file of the directory: scrapes are answered, and counts are whole."""
    server, home, good, total_of_good = damaged
    kept = home / "kept"
    if os.path.lexists(home / name):
        (home / name).rename(kept)
    before = total(everywhere(server)[-1])
    damage(kind, home / name, good)
    try:
        after = everywhere(server)
        check_answers(server)
    finally:
        remove(home / name)
        if kept.exists():
            kept.rename(home / name)
    assert {total(scrape) for scrape in after} <= possible(kind, before, total_of_good)


@sampled_damage
def test_damage_to_living_files_is_mended(damaged, kind):
    """The files of living workers are ruined: no worker dies, and soon each scrape shows all requests again."""
    server, home, good, _ = damaged
    before, pids = everywhere(server), server.worker_pids()
    for path in living(home):
        damage(kind, path, good)
    everywhere(server)
    check_answers(server)
    requests = total(before[0]) + len(pids)

    def mended():
        return {total(scrape) for scrape in everywhere(server)} == {requests}

    if kind == "directory":  # nothing can be put in its place, which all say until somebody takes it away
        until(lambda: all(degraded(server)), "each worker says that it counts alone")
        for path in living(home):
            remove(path)
    until(mended, f"{requests:g} requests again")
    assert not any(degraded(server))
    assert server.worker_pids() == pids


def test_directory_taken_away_is_outlived(reference, tmp_path):
    """Without its directory the service answers as before, and what it has counted comes back or it says what is."""
    with serve("gunicorn-preload", tmp_path / "server", reference) as server:
        server.send(BATCHES)
        assert total(server.scrape()) == len(BATCHES)
        shutil.rmtree(server.shared)
        everywhere(server)
        check_answers(server)

        def settled():
            scrapes = everywhere(server)
            return all(scrape.total("modelwatch_degraded") > 0 for scrape in scrapes) or {
                total(scrape) for scrape in scrapes
            } == {len(BATCHES) + 3}

        until(settled, "all is shown again, or said to be missing")


@contextmanager
def tmpfs(path, options="size=8m"):
    """A file system of its own in memory."""
    path.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", str(path)], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


def fill(path):
    """Leave not one byte free; returns the file that does it."""
    filler = path / "filler"
    with open(filler, "wb", buffering=0) as file:
        for size in (65536, 4096, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue
    assert shutil.disk_usage(path).free == 0
    return filler


def degraded(server):
    """The reasons that each worker gives for counting alone, if it does."""
    return [
        {reason for reason, value in scrape.by("modelwatch_degraded", "reason").items() if value == 1}
        for scrape in everywhere(server)
    ]


@may_mount
@pytest.mark.parametrize("when", ["at start", "while serving"])
def test_full_disk_costs_only_sharing(reference, tmp_path, when):
    """On a full tmpfs workers count alone and say so, no answer changes; with space again they show all of it."""
    with tmpfs(tmp_path / "small") as small:
        filler = fill(small) if when == "at start" else None
        env = {"MODELWATCH_DIR": str(small)}
        with serve("gunicorn-preload", tmp_path / "server", reference, env=env) as server:
            pids = server.worker_pids()
            if filler is None:
                server.send(BATCHES[:20])
                assert degraded(server) == [set()] * 3
                filler = fill(small)
            server.send(BATCHES[20:])
            check_answers(server)
            until(lambda: all(degraded(server)), "each worker says that it counts alone")
            check_answers(server)
            filler.unlink()
            until(lambda: not any(degraded(server)), "no worker counts alone any more")
            requests = total(everywhere(server)[0])
            assert requests == (len(BATCHES) if when == "while serving" else len(BATCHES) - 20) + 6
            assert {total(scrape) for scrape in everywhere(server)} == {requests}
            assert server.worker_pids() == pids


@may_mount
def test_no_room_for_a_name_costs_only_sharing(reference, tmp_path):
    """On a file system without an inode left workers count alone, say so, and answer as before."""
    with (
        tmpfs(tmp_path / "small", "size=8m,nr_inodes=2") as small,
        serve("gunicorn-preload", tmp_path / "server", reference, env={"MODELWATCH_DIR": str(small)}) as server,
    ):
        server.send(BATCHES)
        assert all(degraded(server))
        check_answers(server)
        assert sum(total(scrape) for scrape in everywhere(server)) == len(BATCHES) + 3


def own_directory(base):
    """The directory of this user that workers make in a base directory."""
    return base / f"modelwatch-{os.geteuid()}"


def writable_by_group(base, elsewhere):
    own_directory(base).mkdir(mode=0o700)
    own_directory(base).chmod(0o770)


def readable_by_all(base, elsewhere):
    own_directory(base).mkdir(mode=0o700)
    own_directory(base).chmod(0o755)


def link(base, elsewhere):
    own_directory(base).symlink_to(elsewhere)


def of_a_stranger(base, elsewhere):
    own_directory(base).mkdir(mode=0o700)
    os.chown(own_directory(base), STRANGER, STRANGER)


def a_file(base, elsewhere):
    own_directory(base).write_text("not a directory")


@pytest.mark.parametrize(
    "trap",
    [
        writable_by_group,
        link,
        pytest.param(readable_by_all, marks=pytest.mark.soak),
        pytest.param(a_file, marks=pytest.mark.soak),
        pytest.param(of_a_stranger, marks=as_root),
    ],
)
def test_directory_that_others_can_enter_is_refused(reference, tmp_path, trap):
    """A directory that somebody else may have prepared is not used: workers count alone, and say so."""
    base, elsewhere = tmp_path / "server" / "shared", tmp_path / "elsewhere"
    base.mkdir(parents=True)
    elsewhere.mkdir(mode=0o700)
    trap(base, elsewhere)
    with serve("gunicorn-preload", tmp_path / "server", reference, workers=2) as server:
        server.send(BATCHES)
        assert all(degraded(server))
        check_answers(server)
        assert sum(total(scrape) for scrape in everywhere(server)) == len(BATCHES) + 2
    assert list(elsewhere.iterdir()) == []
    assert [path for path in base.rglob("*") if path != own_directory(base)] == []


@may_mount
def test_read_only_directory_costs_only_sharing(reference, tmp_path):
    """Where nothing can be written workers count alone, say so, and answer as before."""
    with (
        tmpfs(tmp_path / "ro", "size=1m,ro") as read_only,
        serve("gunicorn-preload", tmp_path / "server", reference, workers=2, env={"MODELWATCH_DIR": str(read_only)})
        as server,
    ):  # fmt: skip
        server.send(BATCHES)
        assert all(degraded(server))
        check_answers(server)
        assert sum(total(scrape) for scrape in everywhere(server)) == len(BATCHES) + 2


# A container as careful people run it: a user without a name, and nothing to write to but 64 MiB of /dev/shm. To read
# this very Python, wherever it is installed, it keeps the capability to read.
def contained(more=""):
    """The beginning of a command line that runs the rest in such a container."""
    script = (
        "mount --make-rprivate / && mount --bind / / && mount -o remount,bind,ro / && "
        f"mount -t tmpfs -o size=64m,mode=1777{more} none /dev/shm && "
        f"exec setpriv --reuid {STRANGER} --regid {STRANGER} --clear-groups "
        '--inh-caps=-all,+dac_read_search --ambient-caps=-all,+dac_read_search "$@"'
    )
    return ["unshare", "--mount", "sh", "-c", script, "sh"]


@may_mount
@pytest.mark.parametrize("memory", ["can be written", "cannot"])
def test_container_of_a_random_user_with_a_read_only_root(reference, tmp_path, memory):
    """On a read-only root a nameless user's workers share in 64 MiB of /dev/shm; without it they say they can't."""
    env = {"MODELWATCH_DIR": "", "HOME": "/", "TMPDIR": "/tmp"}
    before = contained("" if memory == "can be written" else ",ro")
    with serve("uvicorn", tmp_path / "server", reference, env=env, before=before) as server:
        server.send(BATCHES)
        scrapes = everywhere(server)
        if memory == "can be written":
            assert {total(scrape) for scrape in scrapes} == {len(BATCHES)}
            assert degraded(server) == [set()] * 3
        else:
            assert all(degraded(server))
            assert sum(map(total, scrapes)) == len(BATCHES)
        check_answers(server)


def test_only_the_user_can_read_what_is_shared(reference, tmp_path):
    """Directories are 0700 and files 0600, also where the service's umask would allow all to everybody."""
    before = ["sh", "-c", 'umask 000; exec "$@"', "sh"]
    with serve("uvicorn", tmp_path / "server", reference, before=before) as server:
        server.send(BATCHES)
        server.kill_worker()
        server.reach_all()
        home = homes(server.shared)[0]
        until((home / "past.counts").exists, "the dead have been folded")
        modes = {}
        for path in own_directory(server.shared).rglob("*"):
            # Names that begin with a dot are being written, and soon gone.
            if not path.name.startswith("."):
                modes[path.name] = (path.is_dir(), stat.S_IMODE(path.lstat().st_mode))
        modes["own"] = (True, stat.S_IMODE(own_directory(server.shared).lstat().st_mode))
    assert set(modes.values()) == {(True, 0o700), (False, 0o600)}
    assert len(modes) >= 3 + 2 * 3


def test_no_configuration_is_needed(reference, tmp_path):
    """Without MODELWATCH_DIR workers come together in memory, in a directory of the user's own."""
    base = own_directory(Path("/dev/shm" if os.access("/dev/shm", os.W_OK) else tmp_path))
    env = {"MODELWATCH_DIR": "", "TMPDIR": str(tmp_path)}
    with serve("gunicorn-preload", tmp_path / "server", reference, env=env) as server:
        server.send(BATCHES)
        assert {total(scrape) for scrape in everywhere(server)} == {len(BATCHES)}
        own = [path for path in base.iterdir() if path.name.startswith(f"{server.process.pid}-")]
        assert len(own) == 1
    shutil.rmtree(own[0])


def test_single_process_shares_nothing(reference, tmp_path):
    """One process writes nothing anywhere, though a directory is named, and counts all the same."""
    with serve("uvicorn", tmp_path / "server", reference, workers=1) as server:
        server.send(BATCHES)
        assert total(server.scrape()) == len(BATCHES)
        assert server.scrape().total("modelwatch_degraded") == 0
        assert not server.shared.exists()


def test_stale_directory_is_ignored_and_removed(reference, tmp_path):
    """After a service has been killed with all workers, the next one begins at 0, and removes what that has left."""
    with serve("gunicorn-preload", tmp_path / "server", reference) as server:
        server.send(BATCHES)
        assert total(server.scrape()) == len(BATCHES)
        [old] = homes(server.shared)
        end_group(server.process.pid)
        server.process.wait()
    assert counts(old) != []
    with serve("gunicorn-preload", tmp_path / "server", reference) as server:
        assert {total(scrape) for scrape in everywhere(server)} == {0}
        server.send(BATCHES[:10])
        assert {total(scrape) for scrape in everywhere(server)} == {10}
        until(lambda: not old.exists(), "what the old service has left is gone")
        assert len(homes(server.shared)) == 1


def test_services_of_one_user_are_never_mixed(reference, tmp_path):
    """Two services that share a base directory, and a parent, show each only its own requests."""
    env = {"MODELWATCH_DIR": str(tmp_path / "common")}
    with (
        serve("gunicorn-preload", tmp_path / "one", reference, workers=2, env=env) as one,
        serve("gunicorn-preload", tmp_path / "two", reference, workers=2, env=env) as two,
        serve("uvicorn", tmp_path / "alone", reference, workers=1, env=env) as alone,
    ):
        one.send(BATCHES[:10])
        two.send(BATCHES[:20])
        alone.send(BATCHES[:30])
        assert [{total(scrape) for scrape in everywhere(server)} for server in (one, two, alone)] == [{10}, {20}, {30}]
        assert len(homes(tmp_path / "common")) == 2


def has_namespaces():
    """Whether processes with pids of their own can be started here."""
    command = ["unshare", "--pid", "--fork", "--mount-proc", "true"]
    return os.geteuid() == 0 and subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not has_namespaces(), reason="needs root with the right to make namespaces of pids")
def test_containers_on_one_volume_are_never_mixed(reference, tmp_path):
    """Two containers share a volume, and their processes have the same pids: each shows only its own requests.

    So does a third one, that comes when the first has been killed, with its pids, into what that has left.
    """
    env = {"MODELWATCH_DIR": str(tmp_path / "volume")}
    before = ["unshare", "--pid", "--fork", "--mount-proc"]

    def container(name):
        return serve("gunicorn-preload", tmp_path / name, reference, env=env, before=before, apart=True)

    def shown(server):
        return {total(server.scrape()) for _ in range(15)}

    with container("two") as two:
        with container("one") as one:
            first, second = one.send(BATCHES[:30]), two.send(BATCHES[:50])
            assert first.keys() & second.keys()  # the same pids, or this would show nothing
            assert (shown(one), shown(two)) == ({30}, {50})
        with container("three") as three:
            assert shown(three) == {0}
            third = three.send(BATCHES[:40])
            assert first.keys() & third.keys()
            assert (shown(three), shown(two)) == ({40}, {50})
