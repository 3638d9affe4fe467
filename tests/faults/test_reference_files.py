"""References that are cut, damaged, hostile or no references: refused in a sentence, or loaded as what they were."""

from __future__ import annotations

import copy
import gzip
import io
import json
import logging
import os
import pickle
import random
import stat
import subprocess
import sys
import time
import tracemalloc
import zipfile
from pathlib import Path

import joblib
import numpy as np
import pytest
from fastapi import FastAPI
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import create_model
from starlette.testclient import TestClient

import modelwatch
from modelwatch.cli import main
from modelwatch.exceptions import ReferenceFileError
from modelwatch.files import ReferenceProfile

RNG = np.random.default_rng(0)
TABLE = {
    "age": RNG.normal(40, 10, 3_000),
    "hour": RNG.integers(0, 24, 3_000),
    "plan": RNG.choice(["basic", "pro", "team"], 3_000),
    "city": RNG.choice([f"city {i}" for i in range(60)], 3_000),
    "score": RNG.random(3_000),
}
PROFILE = ReferenceProfile.fit(TABLE, prediction="score", hash_categories=["city"])
TEXT = PROFILE.to_json().encode()
CONTENT = json.loads(TEXT)
MANY = 2_002  # features that a file may have


def loaded(text):
    """The profile that was read; None if it was refused in a sentence. Whatever else is raised fails the test."""
    try:
        return ReferenceProfile.from_json(text, source="the file 'r.json'")
    except ReferenceFileError as error:
        message = str(error)
        assert message.startswith("Expected ")
        assert message.endswith(".")
        assert message.isprintable()
        assert len(message) < 700
        return None


def edited(change):
    """The file's text after `change` of its content."""
    content = copy.deepcopy(CONTENT)
    change(content)
    return json.dumps(content).encode()


class TestDamage:
    @pytest.mark.parametrize("most", [200, pytest.param(10**9, marks=pytest.mark.soak)])
    def test_truncated(self, most):
        """A file that was cut is refused, wherever it was cut: there is no part of a profile."""
        cuts = list(range(0, len(TEXT), 64))
        cuts = cuts[:: max(1, len(cuts) // most)]
        assert len(cuts) >= 200
        assert [cut for cut in cuts if loaded(TEXT[:cut]) is not None] == []

    @pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.soak) for seed in range(1, 5))])
    def test_flipped_bits(self, seed):
        """A file in which one bit is wrong is refused, or is loaded as the profile that was saved."""
        draw = random.Random(seed)
        refused = 0
        for _ in range(200):
            at, bit = draw.randrange(len(TEXT)), 1 << draw.randrange(8)
            found = loaded(TEXT[:at] + bytes([TEXT[at] ^ bit]) + TEXT[at + 1 :])
            refused += found is None
            assert found is None or found == PROFILE, (seed, at, bit)
        assert refused > 150  # the last digits of some numbers make no difference

    def test_damage_is_refused_no_slower_than_a_file_is_read(self):
        """It takes no longer to see that a file is damaged than to load a whole one, within a wide margin."""

        def seconds(text):
            taken = []
            for _ in range(3):
                started = time.process_time()
                loaded(text)
                taken.append(time.process_time() - started)
            return min(taken)

        whole = seconds(TEXT)
        assert max(seconds(TEXT[: len(TEXT) * i // 10]) for i in range(10)) < 5 * whole
        assert seconds(TEXT.replace(b'"rows":3000', b'"rows":3001')) < 5 * whole


class Canary:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def written(path, content):
    path.write_bytes(content)
    return path


def a_pickle(path, canary):
    return written(path, pickle.dumps(Canary(canary)))


def an_old_pickle(path, canary):
    return written(path, pickle.dumps(Canary(canary), protocol=0))


def a_joblib(path, canary):
    joblib.dump({"model": Canary(canary)}, path)
    return path


def an_npz(path, canary):
    with path.open("wb") as file:
        np.savez(file, cells=np.array([Canary(canary)], dtype=object))
    return path


def an_npy(path, canary):
    np.save(path.with_suffix(".npy"), np.array([Canary(canary)], dtype=object))
    return path.with_suffix(".npy")


def a_gzip_bomb(path, canary):
    return written(path, gzip.compress(bytes(32 * 2**20)))


def a_zip_bomb(path, canary):
    """A zip whose directory promises 10 GiB."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("reference.json", bytes(2**20))
    content = bytearray(buffer.getvalue())
    size = content.rindex(b"PK\x01\x02") + 24  # of what is within, as the directory has it
    content[size : size + 4] = (10 * 2**30 - 1 & 0xFFFFFFFF).to_bytes(4, "little")
    return written(path, bytes(content))


def a_link_to_zeros(path, canary):
    path.symlink_to("/dev/zero")
    return path


def a_dangling_link(path, canary):
    path.symlink_to(path.with_name("nothing"))
    return path


def a_link_in_a_circle(path, canary):
    path.symlink_to(path)
    return path


def a_fifo(path, canary):
    os.mkfifo(path)
    return path


def a_directory(path, canary):
    path.mkdir()
    return path


def a_sparse_file(path, canary):
    with path.open("wb") as file:
        file.truncate(10 * 2**30)
    return path


def what_cannot_be_read(path, canary):
    """A regular file whose first bytes are an input/output error."""
    path.symlink_to("/proc/self/mem")
    return path


HOSTILE = [
    a_pickle, an_old_pickle, a_joblib, an_npz, an_npy, a_gzip_bomb, a_zip_bomb, a_link_to_zeros, a_dangling_link,
    a_link_in_a_circle, a_fifo, a_directory, a_sparse_file, what_cannot_be_read,
]  # fmt: skip

# A process of its own that may have little more memory than its imports take, and an alarm that ends it when it hangs.
READS = """
import resource, signal, sys
from modelwatch.exceptions import ReferenceFileError
from modelwatch.files import ReferenceProfile
signal.alarm(60)
with open("/proc/self/statm") as file:
    size = int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + 64 * 2**20, resource.RLIM_INFINITY))
for path in sys.argv[1:]:
    try:
        ReferenceProfile.load(path)
    except ReferenceFileError as error:
        print(error)
    else:
        sys.exit(f"{path} was loaded")
"""


class TestHostile:
    def test_what_is_no_reference(self, tmp_path):
        """Archives, pickles, bombs, links, pipes and endless files are refused: nothing is run, and little is read."""
        canary = tmp_path / "canary"
        paths = [make(tmp_path / make.__name__, canary) for make in HOSTILE]
        assert not canary.exists()
        done = subprocess.run(
            [sys.executable, "-c", READS, *map(str, paths)], capture_output=True, text=True, timeout=120, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")
        lines = done.stdout.splitlines()
        assert len(lines) == len(HOSTILE)
        for path, line in zip(paths, lines, strict=True):
            assert line.startswith("Expected ")
            assert repr(str(path)) in line
        assert not canary.exists()

    def test_the_canary_sings(self, tmp_path):
        """The files above would have run code if anybody had unpickled them."""
        with a_pickle(tmp_path / "pickle", tmp_path / "canary").open("rb") as file:
            pickle.load(file)
        assert (tmp_path / "canary").exists()

    def test_a_pipe_that_somebody_holds_open(self, tmp_path):
        """A FIFO with a writer that writes nothing is refused, not waited for."""
        os.mkfifo(tmp_path / "fifo")
        reader = os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK)
        writer = os.open(tmp_path / "fifo", os.O_WRONLY)
        try:
            with pytest.raises(ReferenceFileError, match="regular file"):
                ReferenceProfile.load(tmp_path / "fifo")
        finally:
            os.close(reader)
            os.close(writer)

    def test_a_file_that_is_longer_than_it_says(self, tmp_path, monkeypatch):
        """A file that grows while it is read, or whose size says nothing, is read to the limit and then refused."""
        path = written(tmp_path / "r.json", TEXT)
        real = os.fstat

        def lying(descriptor):
            found = list(real(descriptor))
            found[stat.ST_SIZE] = 0
            return os.stat_result(found)

        monkeypatch.setattr(os, "fstat", lying)
        with pytest.raises(ReferenceFileError, match="at most 5000 bytes, got 5001"):
            ReferenceProfile.load(path, max_bytes=5_000)


def put(name, value):
    return lambda feature: feature.__setitem__(name, value(feature[name]) if callable(value) else value)


# What is changed of the first feature `age`, or another one, and what the message names.
SHAPES = {
    "cuts out of order": (0, put("cuts", lambda cuts: cuts[::-1]), ("'age'", "`cuts` must rise")),
    "equal cuts": (0, put("cuts", lambda cuts: [cuts[0]] * len(cuts)), ("'age'", "`cuts` must rise")),
    "a cut that is NaN": (0, put("cuts", lambda cuts: [*cuts[:-1], float("nan")]), ("'age'", "cuts")),
    "an infinite cut": (0, put("cuts", lambda cuts: [*cuts[:-1], float("inf")]), ("'age'", "cuts")),
    "edges out of order": (0, put("edges", lambda edges: edges[::-1]), ("'age'", "`edges` must rise")),
    "equal edges": (0, put("edges", lambda edges: [edges[0]] * 9), ("'age'", "`edges` must rise")),
    "an edge that is NaN": (0, put("edges", [float("nan")]), ("'age'", "edges.0")),
    "a negative count": (0, put("counts", lambda counts: [-1, *counts[1:]]), ("'age'", "counts.0")),
    "a count too large": (0, put("counts", lambda counts: [10**30, *counts[1:]]), ("'age'", "counts.0")),
    "a count that is NaN": (0, put("counts", lambda counts: [float("nan"), *counts[1:]]), ("'age'", "counts.0")),
    "too many cells": (0, put("counts", [0] * 100_000), ("'age'", "counts", "at most 1024")),
    "too many cuts": (0, put("cuts", list(range(100_000))), ("'age'", "cuts", "at most 1019")),
    "a number beyond all": (0, put("mean", 10**400), ("'age'", "mean")),
    "a list for a number": (1, put("sd", [1.0]), ("'hour'", "sd")),
    "a name that is there": (1, put("name", "age"), ("no two `features` may have one name", "'age'")),
    "a category twice": (2, put("categories", ["basic", "basic", "pro"]), ("'plan'", "no category may stand twice")),
    "too many categories": (2, put("categories", list(map(str, range(2_000)))), ("'plan'", "categories")),
    "another kind": (2, put("kind", "text"), ("'plan'", "kind", '"numeric" or "categorical"')),
    "a kind of no hash": (2, put("kind", ["numeric"]), ("'plan'", "kind")),
    "the fields of another kind": (2, put("kind", "numeric"), ("'plan'", "categories")),
    "a field too many": (0, lambda feature: feature.update({"more\nlines": 1}), ("'age'", "no such field")),
    "a field of endless name": (0, lambda feature: feature.update({"x" * 10_000: 1}), ("'age'", "no such field")),
    "no kind": (0, lambda feature: feature.pop("kind"), ("'age'", "kind")),
    "no counts": (0, lambda feature: feature.pop("counts"), ("'age'", "counts")),
    "a name with a line break": (0, lambda f: f.update(name="age\nERROR", dtype="x"), ("'age\\nERROR'", "dtype")),
    "a name that is none": (0, put("name", "\ud800"), ("features.0.name",)),
    "an endless name": (0, put("name", "age " * 10_000), ("features.0.name",)),
}  # fmt: skip


class TestShapes:
    @pytest.mark.parametrize("shape", SHAPES)
    def test_the_feature_is_named(self, shape):
        """What is wrong in a feature is told with its name and the field, on one line."""
        number, change, said = SHAPES[shape]
        with pytest.raises(ReferenceFileError) as caught:
            ReferenceProfile.from_json(edited(lambda content: change(content["features"][number])), source="it")
        message = str(caught.value)
        assert all(part in message for part in said), message
        assert message.isprintable()
        assert len(message) < 500

    @pytest.mark.parametrize("feature", [None, 5, "age", [], [1]])
    def test_a_feature_that_is_none(self, feature):
        """What stands among the features and is none is told by its number."""
        with pytest.raises(ReferenceFileError, match=r"`features\.3`"):
            ReferenceProfile.from_json(edited(lambda content: content["features"].__setitem__(3, feature)))

    def test_too_many_features(self):
        """A hundred thousand features are refused by their number, before one of them is looked at."""
        text = edited(lambda c: c.__setitem__("features", [{"name": "x"}] * 100_000))
        with pytest.raises(ReferenceFileError, match=r"`features` of .* at most 2002 items, got 100000"):
            ReferenceProfile.from_json(text)

    @pytest.mark.parametrize(
        "change",
        [
            lambda feature: feature.update(counts=["x"] * 1_024),
            lambda feature: feature.update({f"more {i}": i for i in range(1_000)}),
            lambda feature: feature.update(cuts=[None] * 1_000, means=["x"] * 1_000),
        ],
        ids=["counts", "fields", "cuts"],
    )
    def test_a_million_errors_cost_no_more_than_one(self, change):
        """A file in which everything is wrong is refused with the memory and the time of what is read of it."""

        def text_of(number):
            return edited(lambda content: change(content["features"][0]) or content.update(
                features=[content["features"][0]] * number))  # fmt: skip

        few, many = text_of(1), text_of(100)
        peaks, times = [], []
        for text in (few, many):
            json.loads(text)
            tracemalloc.start()
            assert loaded(text) is None
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
            started = time.process_time()
            loaded(text)
            times.append(time.process_time() - started)
            started = time.process_time()
            json.loads(text)
            times[-1] /= max(time.process_time() - started, 1e-4)
        assert peaks[1] < 12 * len(many)
        assert times[1] < 20  # times as long as to read the JSON

    @pytest.mark.parametrize("item", ["[]", "{}", "0", '"ab"', "[[[[]]]]", "1.5", "null"])
    def test_memory_is_in_proportion_to_the_file(self, item):
        """A file made of whatever is smallest takes at most 50 times its size while it is read and refused."""
        text = f'{{"format":"modelwatch reference","version":1,"features":[{",".join([item] * 100_000)}]}}'.encode()
        tracemalloc.start()
        assert loaded(text) is None
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 50 * len(text)


class TestAnotherSchema:
    """The service's endpoint and the reference do not agree: the start says in what."""

    REFERENCE = ReferenceProfile.fit(
        {"age": RNG.normal(40, 10, 2_000), "income": RNG.normal(3, 1, 2_000), "plan": RNG.choice(["a", "b"], 2_000),
         "tenure": RNG.normal(5, 1, 2_000)}
    )  # fmt: skip

    def serve(self, caplog, **fields):
        """Texts of the log at the start, and the monitor after 300 rows."""
        app = FastAPI()
        row = create_model("Row", **{name: (kind, ...) for name, kind in fields.items()})

        def predict(body):
            return {"score": 0.5}

        predict.__annotations__["body"] = row
        app.post("/predict")(predict)
        monitor = modelwatch.instrument(app, model_name="m", reference=self.REFERENCE)
        values = {float: 40.0, str: "a", int: 1}
        with caplog.at_level(logging.INFO, "modelwatch"), TestClient(app) as client:
            said = " ".join(record.getMessage() for record in caplog.records)
            for _ in range(300):
                response = client.post("/predict", json={name: values[kind] for name, kind in fields.items()})
                assert response.status_code == 200
        monitor.flush()
        return said, monitor

    def test_a_feature_that_is_missing(self, caplog):
        """A feature that the endpoint does not have is named at the start, and the others are watched."""
        said, monitor = self.serve(caplog, age=float, income=float, plan=str)
        assert "3 of 4 features; not found: tenure" in said
        report = monitor.report()
        assert report["age"].n == 300
        assert report["tenure"].drifted is None

    def test_a_feature_of_another_name(self, caplog):
        """A feature that was renamed is named with what is nearest to it."""
        said, _ = self.serve(caplog, age=float, incomes=float, plan=str, tenure=float)
        assert "not found: income (nearest: incomes)" in said

    def test_features_that_are_unknown(self, caplog):
        """What the endpoint has and the reference does not is passed over."""
        said, monitor = self.serve(caplog, age=float, income=float, plan=str, tenure=float, colour=str, size=int)
        assert "4 of 4 features" in said
        assert set(monitor.report().names) >= {"age", "income", "plan", "tenure"}
        assert "colour" not in monitor.report().names

    def test_a_feature_of_another_type(self, caplog):
        """Text where numbers belong counts as a wrong type of that feature; the others are watched as before."""
        _, monitor = self.serve(caplog, age=str, income=float, plan=str, tenure=float)
        labels = {"model_name": "m", "model_version": "", "feature": "age", "reason": "type"}
        assert monitor.registry.get_sample_value("model_feature_violations_total", labels) == 300
        assert monitor.report()["income"].n == 300


@pytest.fixture
def table(tmp_path):
    """The path of a table that can be profiled."""
    path = tmp_path / "train.csv"
    path.write_text("size,colour\n" + "".join(f"{i % 97 / 7},{'red' if i % 3 else 'blue'}\n" for i in range(400)))
    return path


def profile(table, output, capsys):
    """Exit code and stderr of `modelwatch profile TABLE -o OUTPUT`."""
    with pytest.raises(SystemExit) as exit_:
        main(["profile", str(table), "-o", str(output)])
    return exit_.value.code, capsys.readouterr().err


class TestOutput:
    """`modelwatch profile -o`: the user's own path, and nothing else is touched."""

    def test_where_the_user_says(self, table, tmp_path, capsys, monkeypatch):
        """Absolute paths, relative ones and those with dots are written exactly there, and nowhere else."""
        inner = tmp_path / "a" / "b"
        inner.mkdir(parents=True)
        monkeypatch.chdir(inner)
        for output in (tmp_path / "absolute.json", "here.json", "../up.json", "./x/../../there.json"):
            if "x/" in str(output):
                (inner / "x").mkdir()
            assert profile(table, output, capsys) == (0, "")
        found = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.json"))
        assert found == ["a/b/here.json", "a/there.json", "a/up.json", "absolute.json"]

    def test_a_reference_is_replaced(self, table, tmp_path, capsys):
        """A reference that is there is replaced by the new one, whole."""
        PROFILE.save(tmp_path / "r.json")
        assert profile(table, tmp_path / "r.json", capsys) == (0, "")
        assert ReferenceProfile.load(tmp_path / "r.json").names == ("size", "colour")
        (tmp_path / "empty.json").touch()  # as mktemp leaves it
        assert profile(table, tmp_path / "empty.json", capsys) == (0, "")

    @pytest.mark.parametrize("content", ["size,colour\n1,red\n", "{}", '{"format": "other"}', "\0"])
    def test_no_other_file_is_replaced(self, table, tmp_path, capsys, content):
        """A file that is no reference is left alone: exit code 2, and one sentence."""
        (tmp_path / "other").write_text(content)
        code, err = profile(table, tmp_path / "other", capsys)
        assert code == 2
        assert err.startswith("modelwatch: Expected to be able to write")
        assert "no reference" in err
        assert err.count("\n") == 1
        assert (tmp_path / "other").read_text() == content

    def test_the_table_is_never_replaced(self, table, capsys):
        """Who names the table for the output by mistake still has it."""
        before = table.read_bytes()
        assert profile(table, table, capsys)[0] == 2
        assert table.read_bytes() == before

    def test_a_link_is_not_followed(self, table, tmp_path, capsys):
        """Neither a link nor what it leads to is replaced, be it a reference, a missing file or a table."""
        PROFILE.save(tmp_path / "target.json")
        before = (tmp_path / "target.json").read_bytes()
        for name, target in (("live", "target.json"), ("dangling", "missing.json"), ("table", table)):
            link = tmp_path / name
            link.symlink_to(target)
            code, err = profile(table, link, capsys)
            assert code == 2
            assert "a link is there" in err
            assert link.is_symlink()
        assert (tmp_path / "target.json").read_bytes() == before
        assert not (tmp_path / "missing.json").exists()

    @pytest.mark.parametrize("make", [a_fifo, a_directory])
    def test_what_is_no_file_stays(self, table, tmp_path, capsys, make):
        """A pipe, a directory or a device is not replaced by a file, and not waited for."""
        before = stat.S_IFMT(make(tmp_path / "thing", None).stat().st_mode)
        code, err = profile(table, tmp_path / "thing", capsys)
        assert code == 2
        assert "no regular file is there" in err
        assert stat.S_IFMT((tmp_path / "thing").stat().st_mode) == before

    def test_a_device_stays(self, table, tmp_path, capsys):
        """A device such as /dev/null is what it was, even for root."""
        try:
            os.mknod(tmp_path / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))  # not the system's own, if this fails
        except PermissionError:
            pytest.skip("only root makes devices")
        assert profile(table, tmp_path / "null", capsys)[0] == 2
        assert stat.S_ISCHR((tmp_path / "null").stat().st_mode)
        assert sorted(os.listdir(tmp_path)) == ["null", "train.csv"]

    @pytest.mark.parametrize("output", ["a\0b.json", ""])
    def test_a_name_that_is_none(self, table, capsys, output):
        """A name with a NUL, or none at all, is exit code 2 and a sentence."""
        code, err = profile(table, output, capsys)
        assert code == 2
        assert err.startswith("modelwatch: Expected to be able to write")

    def test_a_table_whose_name_is_none(self, tmp_path, capsys):
        """So is the name of a table with a NUL in it."""
        code, err = profile("a\0b.csv", tmp_path / "r.json", capsys)
        assert code == 2
        assert err.startswith("modelwatch: Expected a table in")

    def test_a_name_that_is_no_text(self, table, tmp_path):
        """A name of bytes that are no UTF-8 is written, and printed as well as can be."""
        output = os.fsencode(tmp_path) + b"/r\xff.json"
        command = [sys.executable, "-m", "modelwatch", "profile", os.fsencode(table), "-o", output]
        done = subprocess.run(command, capture_output=True, check=False)
        assert (done.returncode, done.stderr) == (0, b"")
        assert b"\\udcff.json" in done.stdout
        assert os.path.exists(output)

    def test_the_umask_of_the_process_stays(self, tmp_path, monkeypatch):
        """A service that saves what it learnt creates no file of another thread's with other permissions meanwhile."""

        def changed(mask):
            raise AssertionError("the umask was changed")

        before = os.umask(0o027)
        try:
            with monkeypatch.context() as patch:
                patch.setattr(os, "umask", changed)
                PROFILE.save(tmp_path / "r.json")
        finally:
            os.umask(before)
        assert stat.S_IMODE((tmp_path / "r.json").stat().st_mode) == 0o640


def mutated(draw, text):
    """The text after some of what happens to files: bytes that change, go, come twice, or come from elsewhere."""
    content = bytearray(text)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(len(content) - 1, 0)))
        length = draw(st.integers(0, 40))
        what = draw(st.sampled_from(["cut", "twice", "other", "zeros"]))
        part = content[at : at + length]
        new = {"cut": b"", "twice": bytes(part) * 2, "zeros": bytes(length)}.get(what)
        content[at : at + length] = draw(st.binary(max_size=40)) if new is None else new
    return bytes(content)


SMALL = ReferenceProfile.fit({"age": [1.0, 2.0, 3.5] * 40, "plan": ["a", "b", "c"] * 40})
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
FUZZ = {"deadline": None, "suppress_health_check": list(HealthCheck), "derandomize": True, "database": None}
EXAMPLES = [
    pytest.param(150, id="sampled"),
    pytest.param(20_000, id="all", marks=pytest.mark.soak),
]


class TestFuzz:
    @pytest.mark.parametrize("examples", EXAMPLES)
    def test_bytes(self, examples):
        """Whatever bytes a file holds, it is refused in a sentence."""

        @settings(max_examples=examples, **FUZZ)
        @given(st.binary(max_size=200) | st.text(max_size=100).map(lambda text: text.encode("utf-8", "surrogatepass")))
        def run(content):
            assert loaded(content) is None

        run()

    @pytest.mark.parametrize("examples", EXAMPLES)
    def test_mutations(self, examples):
        """A file that was changed at a few places is refused, or is the profile that was saved."""
        text = SMALL.to_json().encode()

        @settings(max_examples=examples, **FUZZ)
        @given(st.data())
        def run(data):
            found = loaded(mutated(data.draw, text))
            assert found is None or found == SMALL

        run()

    @pytest.mark.parametrize("examples", EXAMPLES)
    def test_fields(self, examples):
        """Whatever JSON stands in a field, the file is refused, or is the profile that was saved."""
        content = json.loads(SMALL.to_json())
        paths = [(name,) for name in content] + [
            ("features", i, name) for i, feature in enumerate(content["features"]) for name in feature
        ]  # fmt: skip

        @settings(max_examples=examples, **FUZZ)
        @given(st.sampled_from(paths), JSON)
        def run(path, value):
            changed = copy.deepcopy(content)
            at = changed
            for step in path[:-1]:
                at = at[step]
            at[path[-1]] = value
            found = loaded(json.dumps(changed))
            assert found is None or found == SMALL

        run()
