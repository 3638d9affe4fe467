"""References and tables on disk: written whole or not at all, and read only if they are what they should be."""

from __future__ import annotations

import errno
import gzip
import json
import os
import pickle
import resource
import socket
import stat
import threading
import tracemalloc

import numpy as np
import pytest

from modelwatch.exceptions import ReferenceFileError, TableError
from modelwatch.files import MOST_BYTES, ReferenceProfile, read_table

pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

PROFILE = ReferenceProfile.fit({"age": np.random.default_rng(0).normal(size=900), "plan": ["a", "b", "c"] * 300})
OTHER = ReferenceProfile.fit({"age": [1.0, 2.0] * 200})


def refused(path, said="", **options):
    with pytest.raises(ReferenceFileError) as caught:
        ReferenceProfile.load(path, **options)
    message = str(caught.value)
    assert message.startswith("Expected ")
    assert message.endswith(".")
    assert repr(str(path)) in message
    assert said in message
    return message


class TestRoundTrip:
    @pytest.mark.parametrize("as_text", [True, False])
    def test_what_was_saved_is_loaded(self, tmp_path, as_text):
        """A saved profile is read again as the same one, by path or by text, and leaves nothing else behind."""
        path = tmp_path / "reference.json"
        PROFILE.save(str(path) if as_text else path)
        again = ReferenceProfile.load(str(path) if as_text else path)
        assert again == PROFILE
        assert type(again) is ReferenceProfile
        assert os.listdir(tmp_path) == ["reference.json"]

    def test_is_readable_by_others_as_the_umask_says(self, tmp_path):
        """The file has the permissions that the umask leaves, not the private ones of temporary files."""
        path = tmp_path / "reference.json"
        before = os.umask(0o027)
        try:
            PROFILE.save(path)
            assert os.umask(0o027) == 0o027  # and is left as it was
        finally:
            os.umask(before)
        assert stat.S_IMODE(path.stat().st_mode) == 0o640

    def test_replaces_the_old_file_in_one_step(self, tmp_path):
        """Whoever has the old file open reads it to its end; whoever opens it sees old or new, never a part."""
        path = tmp_path / "reference.json"
        OTHER.save(path)
        seen = set()
        done = threading.Event()

        def read():
            while not done.is_set():
                seen.add(ReferenceProfile.load(path).id)

        reader = threading.Thread(target=read)
        with path.open() as old:
            reader.start()
            for _ in range(10):
                PROFILE.save(path)
                OTHER.save(path)
            done.set()
            reader.join()
            assert ReferenceProfile.from_json(old.read()) == OTHER
        assert seen <= {PROFILE.id, OTHER.id}


class TestUnwritable:
    def old_file(self, tmp_path):
        path = tmp_path / "reference.json"
        OTHER.save(path)
        return path

    def still_there(self, path):
        assert ReferenceProfile.load(path) == OTHER
        assert os.listdir(path.parent) == [path.name]  # no temporary file is left

    def test_a_directory_that_does_not_exist(self, tmp_path):
        """Saving where there is no directory is refused with the path and the remedy."""
        with pytest.raises(
            ReferenceFileError, match=r"Expected to be able to write '.*r\.json', but No such .*writable"
        ):
            PROFILE.save(tmp_path / "none" / "r.json")

    def test_a_directory_that_may_not_be_written(self, tmp_path, monkeypatch):
        """Without permission the error is of the library's tree, and the old file is whole."""
        path = self.old_file(tmp_path)

        def refuse(*_args, **_options):
            raise PermissionError(errno.EACCES, "Permission denied")

        with monkeypatch.context() as patched:  # root may write everywhere
            patched.setattr("tempfile.mkstemp", refuse)
            with pytest.raises(ReferenceFileError, match="Permission denied"):
                PROFILE.save(path)
        self.still_there(path)

    def test_a_full_disk(self, tmp_path):
        """When the disk is full half way the old file is whole, and what was written of the new one is gone."""
        path = self.old_file(tmp_path)
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))  # Python ignores the signal: writing fails
        try:
            with pytest.raises(ReferenceFileError, match="Expected to be able to write"):
                PROFILE.save(path)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        self.still_there(path)

    @pytest.mark.parametrize("step", ["fsync", "fchmod", "replace"])
    def test_a_failure_at_any_step(self, tmp_path, monkeypatch, step):
        """Whichever step fails, the old file is whole and nothing else is left."""
        path = self.old_file(tmp_path)

        def fail(*_args):
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patched:
            patched.setattr(os, step, fail)
            with pytest.raises(ReferenceFileError, match="No space left on device"):
                PROFILE.save(path)
        self.still_there(path)

    def test_a_directory_in_the_way(self, tmp_path):
        """A directory is not replaced by a file."""
        (tmp_path / "r.json").mkdir()
        with pytest.raises(ReferenceFileError, match="Expected to be able to write"):
            PROFILE.save(tmp_path / "r.json")
        assert os.listdir(tmp_path) == ["r.json"]


class TestUnreadable:
    def test_a_missing_file(self, tmp_path):
        """A missing file is refused with the command that makes one."""
        refused(tmp_path / "r.json", "`modelwatch profile TABLE -o reference.json`")
        refused("a\0b", "null")

    def test_what_is_no_regular_file(self, tmp_path):
        """A directory, a FIFO without writer, a socket and a device are refused at once, and none stays open."""
        os.mkfifo(tmp_path / "fifo")
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(tmp_path / "socket"))
        before = len(os.listdir("/proc/self/fd"))
        refused(tmp_path, "regular file")
        refused(tmp_path / "fifo", "regular file")
        refused(tmp_path / "socket")
        refused("/dev/zero", "regular file")
        assert len(os.listdir("/proc/self/fd")) == before
        listener.close()

    def test_a_file_without_permission(self, tmp_path, monkeypatch):
        """A file that may not be read is refused with the reason."""

        def refuse(*_args, **_options):
            raise PermissionError(errno.EACCES, "Permission denied")

        PROFILE.save(tmp_path / "r.json")
        with monkeypatch.context() as patched:
            patched.setattr(os, "open", refuse)
            refused(tmp_path / "r.json", "Permission denied")

    def test_a_huge_file_is_not_read(self, tmp_path):
        """A file of a gigabyte is refused by its size, without reading any of it."""
        path = tmp_path / "r.json"
        with path.open("wb") as file:
            file.truncate(2**30)
        tracemalloc.start()
        try:
            refused(path, f"at most {MOST_BYTES} bytes, got {2**30}")
            assert tracemalloc.get_traced_memory()[1] < 2**20
        finally:
            tracemalloc.stop()

    def test_the_limit_can_be_chosen(self, tmp_path):
        """`max_bytes` is the number of bytes that are still read."""
        path = tmp_path / "r.json"
        PROFILE.save(path)
        size = path.stat().st_size
        assert ReferenceProfile.load(path, max_bytes=size) == PROFILE
        refused(path, "`max_reference_bytes`", max_bytes=size - 1)

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            (b"", "truncated"),
            (PROFILE.to_json().encode()[:-20], "truncated"),
            (PROFILE.to_json().encode().replace(b'"version":1', b'"version":2'), "`version`"),
            (PROFILE.to_json().encode().replace(b'"rows":900', b'"rows":901'), "`checksum`"),
            (pickle.dumps({"format": "modelwatch reference"}), "pickle"),
            (gzip.compress(PROFILE.to_json().encode()), "no JSON"),
            (b'{"a": 1}', "`format`"),
            (b"[" * 200_000, "no JSON"),
        ],
        ids=["empty", "truncated", "version", "tampered", "pickle", "gzip", "other", "deep"],
    )
    def test_a_damaged_file(self, tmp_path, content, said):
        """A file that is cut, edited, of another version or no reference is refused by path, with what is wrong."""
        path = tmp_path / "r.json"
        path.write_bytes(content)
        refused(path, said)

    def test_any_single_change_is_noticed(self):
        """Whichever digit of the file is changed, it is refused, or makes no difference to the number."""
        text = OTHER.to_json()
        same = 0
        for at in (at for at, digit in enumerate(text) if digit.isdigit()):
            changed = text[:at] + str((int(text[at]) + 1) % 10) + text[at + 1 :]
            if json.loads(changed) == json.loads(text):
                same += 1
                continue
            with pytest.raises(ReferenceFileError):
                ReferenceProfile.from_json(changed)
        assert same < 5  # the last digits of 1.0000000000000002


class TestReadTable:
    def test_csv(self, tmp_path):
        """A column is numeric if all its fields are numbers or empty, which is missing; quotes and BOM are known."""
        text = '\ufeffa,b,c,"d,e"\r\n1,x,,"say ""hi"""\r\n2.5,,,1\r\n-3e2,y,,2\r\n\r\n'
        want = {"a": [1.0, 2.5, -300.0], "b": ["x", None, "y"], "c": [None] * 3, "d,e": ['say "hi"', "1", "2"]}
        for name, content in (("t.csv", text.encode()), ("t.csv.gz", gzip.compress(text.encode()))):
            (tmp_path / name).write_bytes(content)
            assert read_table(tmp_path / name) == want
        (tmp_path / "t.tsv").write_text("a\tb\n1\tx,y\n")
        assert read_table(tmp_path / "t.tsv") == {"a": [1.0], "b": ["x,y"]}

    def test_a_damaged_archive_is_refused(self, tmp_path):
        """Whichever byte of a compressed file is wrong, that is an error of the library's tree, or goes unnoticed."""
        whole = gzip.compress(b"a,b\n" + b"1,2\n3,x\n" * 40, mtime=0)
        refused = 0
        for at in range(len(whole)):
            (tmp_path / "t.csv.gz").write_bytes(whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :])
            try:
                read_table(tmp_path / "t.csv.gz")
            except TableError:
                refused += 1
        assert refused > len(whole) / 2

    def test_whole_numbers_stay_whole(self, tmp_path):
        """A column of row numbers is known as one, and refused as a feature."""
        (tmp_path / "t.csv").write_text("id,x\n" + "".join(f"{i},{i % 7 / 2}\n" for i in range(200)))
        table = read_table(tmp_path / "t.csv")
        assert type(table["id"][0]) is int
        with pytest.raises(TableError, match="'id' looks like an id"):
            ReferenceProfile.fit(table)

    def test_parquet(self, tmp_path):
        """Parquet is read by pyarrow, with its types."""
        parquet.write_table(pyarrow.table({"a": [1, None], "b": ["x", None]}), tmp_path / "t.parquet")
        table = read_table(tmp_path / "t.parquet")
        assert table["a"].to_pylist() == [1, None]

    @pytest.mark.parametrize(
        ("name", "content", "said"),
        [
            ("none.csv", None, "No such file"),
            ("t.csv", b"", "to begin with a line of column names"),
            ("t.csv", b"a,b\n1\n", r"Expected 2 fields in line 2 of .*, got 1"),
            ("t.csv", b"a,b\n1,2,3\n", "got 3"),
            ("t.csv", b"a,a\n1,2\n", r"Expected every column of .* once"),
            ("t.csv", b"a\n\xff\xfe\n", "utf-8"),
            ("t.csv.gz", b"a,b\n1,2\n", "gzip"),
            ("t.csv.gz", gzip.compress(b"a,b\n1,2\n" * 99, mtime=0)[:-10], "Expected a table in"),
            ("t.parquet", b"PAR1", "Expected a Parquet file"),
            ("t.xlsx", b"", r"Expected a file \.csv"),
        ],
    )
    def test_files_that_are_no_table(self, tmp_path, name, content, said):
        """A file that is missing, ragged, damaged or of an unknown kind is refused with its path and the reason."""
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(TableError, match=said) as caught:
            read_table(tmp_path / name)
        assert name in str(caught.value)
        assert str(caught.value).startswith("Expected ")

    def test_csv_and_json_agree(self, tmp_path):
        """Categories read from a CSV file are those that JSON brings: 1 and "1" are one, true and "true" too."""
        (tmp_path / "t.csv").write_text("x,y\n" + "1,true\n2,false\n" * 50)
        profile = ReferenceProfile.fit(read_table(tmp_path / "t.csv"), categorical=["x"])
        live = json.loads('{"x": [1, 2], "y": [true, false]}')
        assert profile.count(live)[:2].tolist() == [1, 1]
        assert profile.count(live).tolist() == profile.count({"x": ["1", "2"], "y": ["true", "false"]}).tolist()
