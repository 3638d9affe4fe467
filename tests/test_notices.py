"""Files that say something new by being another one: seen once, read whole, or refused."""

from __future__ import annotations

import json
import os
import threading

import pytest
from support.shares import descriptors, forged, reference_of, told

from modelwatch.exceptions import SegmentError
from modelwatch.notices import Notice, Notices, identity

REFERENCE = reference_of()


@pytest.fixture
def path(tmp_path):
    """Where the file of a test is."""
    return tmp_path / "m.reference"


@pytest.fixture(autouse=True)
def all_closed():
    """Whatever a test looks at, no descriptor stays open."""
    before = descriptors()
    yield
    assert descriptors() <= before


def replace(path, data):
    beside = path.with_name(".beside")
    beside.write_bytes(data)
    beside.replace(path)


def notice(reference=REFERENCE, version="1", source="object", watched=None):
    return b"".join(Notices.pack(Notice(reference, version, source, watched, "1-abc")))


def test_each_file_is_new_once(path):
    """A file is new at the first look, and after it was replaced, rewritten or touched; not otherwise, or gone."""
    notices = Notices()

    def looks():
        return [notices.seen(path) for _ in range(3)]

    assert looks() == [False] * 3
    path.write_bytes(b"a")
    assert looks() == [True, False, False]
    replace(path, b"a")
    assert looks() == [True, False, False]
    path.write_bytes(b"abc")
    assert looks() == [True, False, False]
    os.utime(path, ns=(5, 5))
    assert looks() == [True, False, False]
    beside = path.with_name(".beside")
    beside.write_bytes(b"xyz")
    os.utime(beside, ns=(5, 5))
    beside.replace(path)
    assert looks() == [True, False, False]
    path.unlink()
    assert looks() == [False] * 3
    path.write_bytes(b"abc")
    assert looks() == [True, False, False]


def test_a_file_can_be_forgotten(path):
    """A file that was forgotten is new at the next look, whatever was seen of it."""
    notices = Notices()
    path.write_bytes(b"a")
    assert notices.seen(path)
    notices.forget(path)
    notices.forget(path)
    assert [notices.seen(path) for _ in range(2)] == [True, False]


def test_looks_are_of_one_file_and_one_looker(path, tmp_path):
    """What is seen of one file says nothing of another, nor for another who looks."""
    notices, other = Notices(), tmp_path / "n.reference"
    path.write_bytes(b"a")
    other.write_bytes(b"a")
    assert notices.seen(path)
    assert notices.seen(other)
    assert Notices().seen(path)


def test_links_that_are_swapped(path, tmp_path):
    """A link that leads elsewhere is another file, however many links lead there: so a ConfigMap is replaced."""
    for version in ("one", "two"):
        (tmp_path / version).mkdir()
        (tmp_path / version / path.name).write_bytes(version.encode())
    data = tmp_path / "..data"
    data.symlink_to("one")
    path.symlink_to(data / path.name)
    notices = Notices()
    assert [notices.seen(path) for _ in range(2)] == [True, False]
    fresh = tmp_path / "..data_tmp"
    fresh.symlink_to("two")
    fresh.replace(data)
    assert [notices.seen(path) for _ in range(2)] == [True, False]
    (tmp_path / "two" / path.name).unlink()
    assert not notices.seen(path)
    assert identity(path) is None


@pytest.mark.parametrize("name", ["gone", "gone/below", "a" * 300, "nul\0"])
def test_what_is_not_there(tmp_path, name):
    """Whatever cannot be there is not, and that is no error."""
    assert identity(tmp_path / name) is None
    assert not Notices().seen(tmp_path / name)


def test_small_files(path):
    """What a small file holds is told once for each time that it is another one."""
    notices = Notices()
    assert notices.changed(path) is None
    path.write_bytes(b"first")
    assert [notices.changed(path) for _ in range(2)] == [b"first", None]
    replace(path, b"second")
    assert [notices.changed(path) for _ in range(2)] == [b"second", None]
    replace(path, b"")
    assert [notices.changed(path) for _ in range(2)] == [b"", None]


@pytest.mark.parametrize("trap", ["directory", "link", "fifo"])
def test_small_files_that_are_none(path, tmp_path, trap):
    """A directory, a link or a FIFO holds nothing, does not block, and leaves nothing open."""
    if trap == "directory":
        path.mkdir()
    elif trap == "link":
        (tmp_path / "elsewhere").write_bytes(b"secret")
        path.symlink_to("elsewhere")
    else:
        os.mkfifo(path)
    before = descriptors()
    assert Notices().changed(path) in {None, b""}
    assert descriptors() == before


def test_a_file_that_changes_while_it_is_read(path, monkeypatch):
    """What is replaced between the look and the reading is read again at the next look: nothing new is missed."""
    notices, real = Notices(), os.open
    path.write_bytes(b"first")

    def replaced_just_now(name, *rest, **more):
        monkeypatch.setattr(os, "open", real)
        replace(path, b"second")
        return real(name, *rest, **more)

    monkeypatch.setattr(os, "open", replaced_just_now)
    notices.changed(path)
    assert notices.changed(path) == b"second"


@pytest.mark.parametrize("watched", [None, "/x/ä\udcff.json"])
def test_references_come_back(path, watched):
    """A reference is read as it was told, with its version, where it comes from and what is watched."""
    path.write_bytes(notice(version="ä\n", source="learned", watched=watched))
    found = Notices().read(path)
    assert found == (REFERENCE, "ä\n", "learned", watched, "1-abc")
    assert found.profile.hash == REFERENCE.hash


def test_references_are_read_once(path):
    """The same file is no news; one that has just gone is none either, and that is no error."""
    notices = Notices()
    assert notices.read(path) is None
    path.write_bytes(notice())
    assert notices.read(path) is not None
    assert notices.read(path) is None
    replace(path, notice(version="2"))
    assert notices.read(path).version == "2"
    path.unlink()
    assert notices.read(path) is None


def test_a_reference_that_goes_meanwhile(path, monkeypatch):
    """A file that is gone between the look and the reading is as if it had never been there."""
    path.write_bytes(notice())
    real = os.open

    def gone(name, *rest, **more):
        if os.path.lexists(path):
            path.unlink()
        return real(name, *rest, **more)

    monkeypatch.setattr(os, "open", gone)
    assert Notices().read(path) is None


TEXT = REFERENCE.to_json().encode()
BODY = {"version": "1", "source": "object", "path": None}
BAD = {
    "empty": b"",
    "text": b"hello, this is no reference at all",
    "cut": notice()[:-1],
    "flipped": notice()[:-40] + bytes([notice()[-40] ^ 1]) + notice()[-39:],
    "no piece": forged({"body": BODY, "pieces": []}),
    "no body": forged({"body": None, "pieces": told([TEXT])}, [TEXT]),
    "a list": forged({"body": [1], "pieces": told([TEXT])}, [TEXT]),
    "no version": forged({"body": {"source": "x", "path": None}, "pieces": told([TEXT])}, [TEXT]),
    "no reference": forged({"body": BODY, "pieces": told([b"{}"])}, [b"{}"]),
    "no JSON": forged({"body": BODY, "pieces": told([b"\xff\0"])}, [b"\xff\0"]),
    "too deep": forged({"body": BODY, "pieces": told([b"[" * 100_000])}, [b"[" * 100_000]),
    "another reference": forged({"body": BODY, "pieces": told([TEXT[:-9]])}, [TEXT[:-9]]),
}


@pytest.mark.parametrize("what", BAD)
def test_references_that_are_none(path, what):
    """A damaged file is a segment error at the first look; at the next ones it is no news, until it is a good one."""
    path.write_bytes(BAD[what])
    notices = Notices()
    with pytest.raises(SegmentError):
        notices.read(path)
    assert notices.read(path) is None
    replace(path, notice())
    assert notices.read(path).profile == REFERENCE


def test_references_truncated_and_turned(path):
    """Cut anywhere, or with a wrong byte anywhere, it is a segment error: never another reference."""
    whole = notice()
    for at in range(0, len(whole), 97):
        wrong = bytearray(whole)
        wrong[at] ^= 1 << at % 8
        for data in (whole[:at], bytes(wrong)):
            replace(path, data)
            with pytest.raises(SegmentError):
                Notices().read(path)


def test_keys_lead_nowhere_else():
    """Whatever a model is called, its key is a short plain name, and no other model's."""
    names = ["m", "n", "", "../../etc/passwd", "a/b", "\0", "ä", "\udcff", "x" * 10_000, ".", "M"]
    keys = [Notices.key(name) for name in names]
    assert all(key.isalnum() and key.isascii() and len(key) == 16 for key in keys)
    assert len(set(keys)) == len(names)
    assert Notices.key("m") == keys[0]


def test_threads_that_look_at_once(path):
    """Of several threads that look at once at least one sees a change, and later none."""
    notices, path_seen = Notices(), []
    for turn in range(20):
        replace(path, str(turn).encode())
        barrier = threading.Barrier(3)

        def look(barrier=barrier):
            barrier.wait(30)
            path_seen.append(notices.seen(path))

        threads = [threading.Thread(target=look) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert any(path_seen)
        path_seen.clear()
        assert not notices.seen(path)
    assert json.loads(path.read_bytes()) == 19
