"""Files of several pieces: whatever is done to one, it is what was written, or an error, never anything in between."""

from __future__ import annotations

import errno
import gc
import os
import socket
import threading
import zlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.shares import START, descriptors, forged, told

from modelwatch.container import LAYOUT, MAGIC, Container, pack, piece
from modelwatch.exceptions import SegmentError

BODY = {"began": 7, "keys": 0}
PIECES = [b"abc", b"", b"\0\xff" * 4]
WHOLE = b"".join(pack(BODY, [piece(data) for data in PIECES]))

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@pytest.fixture
def path(tmp_path):
    """Where the file of a test is."""
    return tmp_path / "w.counts"


@pytest.fixture(autouse=True)
def all_closed():
    """Whatever a test reads, no descriptor stays open."""
    before = descriptors()
    yield
    if descriptors() > before:
        gc.collect()
    assert descriptors() <= before


def read_all(path):
    """(body, pieces), all of them read."""
    with Container(path) as file:
        return file.body, [file.read(number) for number in range(len(PIECES))]


def refusal(path):
    """The reason for which a file is refused, wherever in it that is seen."""
    with pytest.raises(SegmentError) as caught:
        read_all(path)
    assert str(caught.value).startswith("Expected a file of counts that a worker of this service shares, but ")
    return caught.value.reason


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(body=JSON, pieces=st.lists(st.binary(max_size=40), max_size=5))
def test_it_gives_what_it_was_given(path, body, pieces):
    """Body and pieces are read as they were packed, in any order; lengths and checksums are known before."""
    path.write_bytes(b"".join(pack(body, [piece(data) for data in pieces])))
    with Container(path) as file:
        assert file.body == body
        for number in reversed(range(len(pieces))):
            assert file.mark(number) == (len(pieces[number]), zlib.crc32(pieces[number]))
            assert file.read(number) == pieces[number]
        with pytest.raises(SegmentError):
            file.read(len(pieces))


def test_its_beginning_is_as_the_layout_says():
    """Magic, layout version, checksum and length of the head come first, in 24 bytes."""
    magic, layout, crc, length = START.unpack_from(WHOLE)
    head = WHOLE[START.size : START.size + length]
    assert (magic, layout, crc) == (MAGIC, LAYOUT, zlib.crc32(head))
    assert WHOLE[START.size + length :] == b"".join(PIECES)


def test_no_bit_can_be_turned(path):
    """A file with one wrong bit anywhere is refused: as foreign, of another layout, or damaged."""
    for at in range(len(WHOLE)):
        expected = "foreign" if at < 8 else "layout" if at < 12 else "damaged"
        for bit in range(8):
            data = bytearray(WHOLE)
            data[at] ^= 1 << bit
            path.write_bytes(data)
            assert refusal(path) == expected, (at, bit)


def test_nothing_can_be_cut_off_or_added(path):
    """A file that is shorter or longer than it was written is damaged, from no byte at all to a few too many."""
    for size in range(len(WHOLE)):
        path.write_bytes(WHOLE[:size])
        assert refusal(path) == "damaged", size
    for more in (b"\0", b"\0" * 4096, WHOLE):
        path.write_bytes(WHOLE + more)
        assert refusal(path) == "damaged"


def test_zeros_are_foreign(path):
    """A file of zeros, as a crash of the machine may leave one, is refused."""
    path.write_bytes(bytes(len(WHOLE)))
    assert refusal(path) == "foreign"


@pytest.mark.parametrize("layout", [0, 2, 2**32 - 1])
def test_other_layouts_are_told_apart(path, layout):
    """A file of another version of the library is no damage."""
    path.write_bytes(forged({"body": 1, "pieces": []}, layout=layout))
    assert refusal(path) == "layout"


@pytest.mark.parametrize("length", [2**20, 2**31, 2**63, 2**64 - 1])
def test_a_head_is_not_longer_than_its_file(path, length):
    """A length that points behind the end of the file is refused before anything of it is read."""
    path.write_bytes(forged({"body": 1, "pieces": []}, length=length))
    assert refusal(path) == "damaged"


def test_a_head_has_a_largest_length(path):
    """A head of more than 64 MiB is refused, although its file is as long."""
    path.write_bytes(forged({"body": 1, "pieces": []}, length=64 * 2**20 + 1))
    os.truncate(path, 80 * 2**20)
    assert refusal(path) == "damaged"


def test_a_file_has_a_largest_size(path):
    """What is larger than 4 GiB is nothing that a worker has written."""
    path.write_bytes(WHOLE)
    os.truncate(path, 2**32 + 1)
    assert refusal(path) == "foreign"


LIES = {
    "no JSON": b"{",
    "nothing": b"",
    "no UTF-8": b'{"body": "\xff", "pieces": []}',
    "a list": [1, 2],
    "a number": 5,
    "null": None,
    "text": "body",
    "no body": {"pieces": []},
    "no pieces": {"body": 1},
    "pieces are a number": {"body": 1, "pieces": 3},
    "pieces are null": {"body": 1, "pieces": None},
    "pieces are text": {"body": 1, "pieces": "ab"},
    "a piece is a number": {"body": 1, "pieces": [3]},
    "a piece is empty": {"body": 1, "pieces": [[]]},
    "a piece has three parts": {"body": 1, "pieces": [[3, 0, 0]]},
    "a length is null": {"body": 1, "pieces": [[None, 0]]},
    "a length is text": {"body": 1, "pieces": [["three", 0]]},
    "a length is infinite": b'{"body": 1, "pieces": [[Infinity, 0]]}',
    "a checksum is infinite": b'{"body": 1, "pieces": [[3, 1e999]]}',
    "a length is NaN": b'{"body": 1, "pieces": [[NaN, 0]]}',
    "a length is beyond all": {"body": 1, "pieces": [[10**30, 0]]},
    "a length has 5,000 digits": b'{"body": 1, "pieces": [[' + b"9" * 5000 + b", 0]]}",
    "a length is below zero": {"body": 1, "pieces": [[-3, 0], [6, 0]]},
    "lengths are short": {"body": 1, "pieces": [[2, zlib.crc32(b"ab")]]},
    "lengths are long": {"body": 1, "pieces": [[4, 0]]},
    "too deep": b'{"body": ' + b"[" * 100_000 + b"]" * 100_000 + b', "pieces": [[3, 0]]}',
}


@pytest.mark.parametrize("lie", LIES)
def test_heads_that_lie(path, lie):
    """A head whose checksum is right and that says nonsense is damage, and no other error."""
    path.write_bytes(forged(LIES[lie], [b"abc"]))
    with pytest.raises(SegmentError) as caught:
        Container(path)
    assert caught.value.reason == "damaged"


def test_a_checksum_of_something_else(path):
    """A piece that is not what the head says is damage when it is read; the others are read all the same."""
    path.write_bytes(forged({"body": 1, "pieces": told([b"abd", b"xyz"])}, [b"abc", b"xyz"]))
    with Container(path) as file:
        with pytest.raises(SegmentError) as caught:
            file.read(0)
        assert caught.value.reason == "damaged"
        assert file.read(1) == b"xyz"


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(head=JSON | st.fixed_dictionaries({"body": JSON, "pieces": JSON | st.lists(st.lists(JSON, max_size=3))}))
def test_any_head(path, head):
    """Whatever a head says, there is a container, or a segment error."""
    path.write_bytes(forged(head, PIECES))
    try:
        with Container(path) as file:
            for number in range(4):
                file.read(number)
    except SegmentError:
        pass


@pytest.mark.parametrize("number", [3, -1, -3, 10**30, None, "0", 0.5, [0]])
def test_pieces_that_are_not_there(path, number):
    """A piece that there is none of is a segment error, as the number may come from a file."""
    path.write_bytes(forged({"body": 1, "pieces": told([b"abc", b"xyz", b"uvw"])}, [b"abc", b"xyz", b"uvw"]))
    with Container(path) as file, pytest.raises(SegmentError):
        file.read(number)


def test_what_is_not_there(path, tmp_path):
    """A file that is gone, or whose directory is, is that and no damage."""
    for missing in (path, tmp_path / "gone" / "w.counts"):
        with pytest.raises(FileNotFoundError):
            Container(missing)


def link(path, beside):
    beside.write_bytes(WHOLE)
    path.symlink_to(beside)


def dangling(path, beside):
    path.symlink_to(beside)


def fifo(path, beside):
    os.mkfifo(path)


def device(path, beside):
    try:
        os.mknod(path, 0o600 | 0o020000, os.makedev(1, 5))  # as /dev/zero
    except PermissionError:
        pytest.skip("needs root, to make a device")


def unix_socket(path, beside):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.fspath(path))


def strangers(path, beside):
    path.write_bytes(WHOLE)
    try:
        os.chown(path, 54321, 54321)
    except PermissionError:
        pytest.skip("needs root, to give a file away")


@pytest.mark.parametrize("trap", [link, dangling, fifo, device, unix_socket, strangers, os.mkdir])
def test_only_regular_files_of_ones_own(tmp_path, trap):
    """Links, FIFOs, devices, sockets, directories and files of others are refused at once, whatever is in them."""
    path = tmp_path / "home" / "w.counts"
    path.parent.mkdir()
    trap(*[path, tmp_path / "beside"][: 1 if trap is os.mkdir else 2])
    assert refusal(path) == "foreign"


def test_a_fifo_that_somebody_fills(path):
    """Also a FIFO with a whole file in it is refused, and nothing is taken out of it."""
    os.mkfifo(path)
    descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    os.write(descriptor, WHOLE)
    assert refusal(path) == "foreign"
    assert os.read(descriptor, 65536) == WHOLE
    os.close(descriptor)


@pytest.mark.parametrize("call", ["open", "fstat", "pread"])
@pytest.mark.parametrize("error", [errno.EMFILE, errno.EACCES, errno.EIO, errno.ESTALE, errno.ENOTDIR])
@pytest.mark.parametrize("nth", [1, 2, 3])
def test_calls_that_fail(path, monkeypatch, call, error, nth):
    """Where the system fails, whatever is in the file, it is that error, or a segment error later; and it is closed."""
    path.write_bytes(WHOLE)
    calls = []
    before, real = descriptors(), getattr(os, call)

    def fails(*arguments, **options):
        calls.append(call)
        if len(calls) == nth:
            raise OSError(error, os.strerror(error))
        return real(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fails)
        if call != "pread" and nth > 1:
            assert read_all(path) == (BODY, PIECES)  # it is called once
        else:
            with pytest.raises(SegmentError if call == "pread" and nth == 3 else OSError) as caught:
                read_all(path)
            assert not isinstance(caught.value, FileNotFoundError)
    assert descriptors() == before


def test_a_file_that_is_gone_while_it_is_read(path, monkeypatch):
    """A file that is stale on its server when it is looked at counts as gone, and is closed."""
    path.write_bytes(WHOLE)
    before = descriptors()

    def gone(descriptor):
        raise FileNotFoundError(errno.ENOENT, "gone")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fstat", gone)
        with pytest.raises((FileNotFoundError, SegmentError)):
            Container(path)
    assert descriptors() == before


def test_what_happens_to_an_open_file(path):
    """One that is replaced or removed gives what it held; one that is cut or overwritten gives an error, no signal."""
    path.write_bytes(WHOLE)
    with Container(path) as file:
        path.with_suffix(".new").write_bytes(b"another")
        path.with_suffix(".new").replace(path)
        path.unlink()
        assert [file.read(number) for number in range(3)] == PIECES
    path.write_bytes(WHOLE)
    with Container(path) as file:
        os.truncate(path, len(WHOLE) - 1)
        assert file.read(0) == PIECES[0]
        with pytest.raises(SegmentError):
            file.read(2)
        os.truncate(path, 0)
        with pytest.raises(SegmentError):
            file.read(0)
        path.write_bytes(WHOLE.replace(b"abc", b"abd"))
        with pytest.raises(SegmentError):
            file.read(0)


def test_it_closes(path):
    """It closes at the end of `with`, when told, twice too, and when nobody knows it; then nothing can be read."""
    path.write_bytes(WHOLE)
    before = descriptors()
    file = Container(path)
    assert descriptors() == before + 1
    file.close()
    other = os.open(path, os.O_RDONLY)  # takes the number of the one that was closed
    file.close()
    assert os.fstat(other).st_size == len(WHOLE)
    with pytest.raises(SegmentError):
        file.read(0)
    os.close(other)
    file = Container(path)
    del file
    assert descriptors() == before


def test_refused_files_are_closed(path, tmp_path):
    """However often files are refused, none stays open, though the errors are kept."""
    path.write_bytes(WHOLE[:-1])
    heads = [b"{", LIES["a length is infinite"], {"body": 1, "pieces": None}, LIES["too deep"]]
    for number, head in enumerate(heads):
        (tmp_path / str(number)).write_bytes(forged(head))
    before, errors = descriptors(), []
    for refused in (path, tmp_path, *(tmp_path / str(number) for number in range(len(heads)))):
        for _ in range(3):
            try:
                Container(refused)
            except Exception as error:  # noqa: BLE001 - which one it is, is another test's claim
                errors.append(error)
    assert len(errors) == 3 * (2 + len(heads))
    assert descriptors() == before


def test_many_readers(path):
    """Threads that each open the file read it without disturbing one another, while it is replaced all the time."""
    path.write_bytes(WHOLE)
    wrong, over = [], threading.Event()

    def read():
        while not over.is_set():
            if read_all(path) != (BODY, PIECES):
                wrong.append(1)

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(200):
        path.with_suffix(".new").write_bytes(WHOLE)
        path.with_suffix(".new").replace(path)
    over.set()
    for thread in threads:
        thread.join(30)
    assert wrong == []
