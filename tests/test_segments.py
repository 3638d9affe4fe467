"""Shares as files: equal when they are read, whatever was in them; and what was tampered with is an error at most."""

from __future__ import annotations

import contextlib
import copy
import json
import math
import os

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.shares import (
    Still,
    batch_of,
    forged,
    head_of,
    plain,
    reference_of,
    share_of,
    spoil,
    state,
    through_file,
    told,
)

import modelwatch.engine
import modelwatch.segments
from modelwatch.container import Container
from modelwatch.engine import Engine
from modelwatch.exceptions import SegmentError
from modelwatch.guard import Guard
from modelwatch.segments import Segments
from modelwatch.series import Series
from modelwatch.settings import Settings
from modelwatch.shares import EpochShare
from modelwatch.slots import RowsState, Slot, TimeState

REFERENCES = [reference_of(0), reference_of(1, prediction=False)]
SERIES = {
    ("model_request_total", ("m", "1", "success"), None): 7,
    ("model_request_latency_seconds", ("m", "1"), (0.1, 1.0)): [1, 2, 3, 4.5],
    ("model_predictions_total", ("ä\U0001f600", '"\\\n\x7f', ""), None): 2**53,
    ("model_workers", (), None): 1,
}


@pytest.fixture(autouse=True)
def still(monkeypatch):
    """No background thread."""
    monkeypatch.setattr(modelwatch.engine, "PULSE", Still())


def engine_of(clock, reference=None, **options):
    engine = Engine("m", "1", Settings(**options), Series(), Guard(), bounds={}, clock=clock, wall=clock)
    if reference is not None:
        engine.swap(reference, "object")
    return engine


def filled(clock, **options):
    """An engine with rows in several slots, fine and coarse, and an epoch before that of now."""
    engine = engine_of(clock, REFERENCES[1], window_seconds=60, window_slots=4, max_window_seconds=600, **options)
    engine.append(batch_of([(0.5, "k1")] * 3))
    engine.swap(REFERENCES[0], "object", "2")
    for turn in range(8):
        engine.append(batch_of([(turn / 4 - 1, "k2"), (None, "new")], predictions=[0.5, None], confidences=[0.5, 1.0]))
        engine.fold()
        clock.advance(25)
    return engine


def rows_filled(clock, rows=11, **options):
    engine = engine_of(clock, REFERENCES[0], window_rows=10, min_rows=5, **options)
    for turn in range(rows):
        engine.append(batch_of([(turn / 4 - 1, "k2")], predictions=[0.5], confidences=[math.nan]))
        engine.fold()
        clock.advance(1)
    return engine


def bare(**other):
    """An epoch's share with as little as there can be."""
    fields = {
        "version": "", "hash": "", "rows": 0, "seen": np.zeros(0, bool), "binned": np.zeros(0, np.int64),
        "missing": np.zeros(0, np.int64), "window": None,
    }  # fmt: skip
    return EpochShare(**(fields | other))


def test_everything_comes_back(clock, tmp_path):
    """Series, several models, epochs with and without a window, slots fine and coarse: all is as it was."""
    time, rows = filled(clock), rows_filled(clock)
    engines = {"m": time, "n": rows, "none": engine_of(clock), "ä\U0001f600": engine_of(clock, REFERENCES[1])}
    share = share_of(SERIES, models={name: engine.shares() for name, engine in engines.items()})
    assert len(share.models["m"]) == 2
    assert share.models["none"] == []
    assert state(time).coarse
    assert len(state(rows).times) == 10
    before = plain(share)
    assert plain(through_file(share, tmp_path / "w")) == before
    assert plain(share) == before


def test_event_time_comes_back(clock, tmp_path):
    """With event time the largest timestamp, and slots before 1970, come back too."""
    engine = engine_of(clock, REFERENCES[0], event_time=True)
    engine.append(batch_of([(0.5, "k1")] * 2, timestamps=[-1e12, -1e12 + 0.3]))
    share = share_of(SERIES, models={"m": (engine.fold(), engine.shares())[1]})
    assert share.models["m"][0].latest == -1e12 + 0.3
    assert plain(through_file(share, tmp_path / "w")) == plain(share)


@pytest.mark.parametrize(
    "models",
    [
        {},
        {"m": []},
        {"": [bare()]},
        {"m": [bare(window=TimeState("", -(2**63), {}, {}))]},
        {"m": [bare(window=TimeState("x", 5, {5: Slot(0)}, {}, Slot(0)))]},
        {"m": [bare(window=RowsState("rows 5", np.zeros(0), np.zeros((0, 3), np.uint32)))]},
        {"m": [bare(streams={"prediction": (0, 0.0)}, latest=-math.inf)]},
        {"m": [bare(version="1", rows=2**62, latest=1e300), bare(version="2")]},
    ],
)
def test_empty_ones_come_back(models, tmp_path):
    """Shares with nothing in them, or nearly nothing, are no special case."""
    share = share_of({}, models=models)
    assert plain(through_file(share, tmp_path / "w")) == plain(share)


def test_an_engine_that_has_seen_nothing(clock, tmp_path):
    """A worker without rows shares an empty window, in both kinds of it."""
    for options in ({}, {"window_rows": 500}, {"event_time": True}):
        share = share_of({}, models={"m": engine_of(clock, REFERENCES[0], **options).shares()})
        assert plain(through_file(share, tmp_path / "w")) == plain(share)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 5e-324, 1.7e308, -0.0])
def test_odd_numbers(value, tmp_path):
    """Cells come back bit for bit, also those that are no numbers."""
    share = share_of({("model_workers", (), None): value})
    read = through_file(share, tmp_path / "w").values
    assert read.tobytes() == share.values.tobytes()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_spoilt_streams_are_not_shared(value, tmp_path):
    """A sum that is no number any more is kept from the others; the good one beside it is not."""
    epoch = bare(streams={"prediction": (3, value), "confidence": (4, 0.1)})
    read = through_file(share_of({}, models={"m": [epoch]}), tmp_path / "w")
    assert read.models["m"][0].streams == {"confidence": (4, 0.1)}


def test_who_it_is_of(tmp_path):
    """The reader says whose it is, and whether that one lives."""
    share = share_of(SERIES, name="somebody")
    dead = through_file(share, tmp_path / "w", alive=False)
    assert (dead.name, dead.alive) == ("somebody", False)


def test_body_says_what_readers_need_at_once(tmp_path):
    """When counting began, and who is within, stand in the body: nothing else needs to be read for them."""
    parts = Segments().pack(share_of(SERIES), began=2**62, folded=["1-a", "2-\udcff"])
    (tmp_path / "w").write_bytes(b"".join(parts))
    with Container(tmp_path / "w") as file:
        assert (file.body["began"], file.body["folded"]) == (2**62, ["1-a", "2-\udcff"])


def test_a_share_is_of_its_moment(clock, tmp_path):
    """Each file holds what was counted when it was packed, though slots are packed anew only if they have changed."""
    engine, segments = filled(clock), Segments()
    for turn in range(30):
        share = share_of(SERIES, models={"m": engine.shares()})
        before = plain(share)
        (tmp_path / "w").write_bytes(b"".join(segments.pack(share, began=turn)))
        engine.append(batch_of([(0.1 * turn, "k3")] * (turn % 3)))
        engine.fold()
        clock.advance(11.0 * (turn % 4))
        engine.read()
        read = Segments().unpack(Container(tmp_path / "w"), "w", alive=True)
        assert plain(read) == before


def test_slots_are_packed_once(clock):
    """Bytes of a slot that has not changed are those of the last time, as are those of the keys."""
    engine, segments = filled(clock), Segments()
    shares = [share_of(SERIES, models={"m": engine.shares()}) for _ in range(2)]
    shares[1].keys = shares[0].keys
    packed = [{id(part): part for part in segments.pack(share, began=0)} for share in shares]
    same = [part for number, part in packed[0].items() if number in packed[1]]
    window = shares[0].models["m"][0].window
    assert len(same) >= 1 + len(window.fine) + len(window.coarse)


def test_keys_are_read_once(tmp_path):
    """The same series from several workers, or at several times, are the same object; others are not."""
    writer, reader, read = Segments(), Segments(), []
    share = share_of(SERIES)
    more = share_of({**SERIES, ("model_rows_total", ("m", "1"), None): 3})
    for number, one in enumerate([share, share, more, share_of(SERIES)]):
        path = tmp_path / str(number)
        path.write_bytes(b"".join(writer.pack(one, began=0)))
        read.append(reader.unpack(Container(path), "w", alive=True))
    assert read[0].keys is read[1].keys is read[3].keys
    assert read[2].keys == more.keys
    assert read[0].keys == share.keys


def test_known_keys_are_bounded(tmp_path, monkeypatch):
    """A reader forgets series that it has not seen for long, and reads them again."""
    monkeypatch.setattr(modelwatch.segments, "_MOST_KNOWN", 3)
    reader, shares = Segments(), [share_of({("model_rows_total", ("m", str(i)), None): i}) for i in range(10)]
    for turn in range(2):
        for number, share in enumerate(shares):
            (tmp_path / "w").write_bytes(b"".join(Segments().pack(share, began=0)))
            assert reader.unpack(Container(tmp_path / "w"), "w", alive=True).keys == share.keys, (turn, number)
            assert len(reader._read) <= 3


def test_the_newest_rows_are_shared(clock, tmp_path, monkeypatch):
    """Of a window of rows that is too large the newest are shared, with their times; the window itself keeps all."""
    engine = rows_filled(clock)
    features = len(REFERENCES[0].names)
    monkeypatch.setattr(modelwatch.segments, "_MOST_ROW_BYTES", 4 * features * 3 + 5)
    share = share_of({}, models={"m": engine.shares()})
    whole = share.models["m"][0].window
    read = through_file(share, tmp_path / "w").models["m"][0].window
    assert read.times.tolist() == whole.times[-3:].tolist()
    assert read.cells.tolist() == whole.cells[-3:].tolist()
    assert len(state(engine).times) == 10
    monkeypatch.setattr(modelwatch.segments, "_MOST_ROW_BYTES", 1)
    assert len(through_file(share, tmp_path / "w").models["m"][0].window.times) == 1


def test_slots_are_read_when_they_are_asked_for(clock, tmp_path):
    """A slot that nobody asks for is not read, so damage in it harms nobody; one that is damaged is a segment error."""
    path = tmp_path / "w"
    share = share_of({}, models={"m": filled(clock).shares()})
    path.write_bytes(b"".join(Segments().pack(share, began=0)))
    window = head_of(path)["body"]["models"][0]["epochs"][0]["window"]
    number, _, _, piece = window["fine"][0]
    spoil(path, piece)
    read = Segments().unpack(Container(path), "w", alive=True).models["m"][0].window
    with pytest.raises(SegmentError):
        _ = read.fine[number].counts
    for other, slot in read.fine.items():
        if other != number:
            assert slot.counts.tolist() == share.models["m"][0].window.fine[other].counts.tolist()


def test_slots_can_be_added_to(clock, tmp_path):
    """A slot that was read can be counted on; the file stays as it is."""
    path = tmp_path / "w"
    share = share_of({}, models={"m": filled(clock).shares()})
    read = through_file(share, path)
    before = path.read_bytes()
    slot = next(iter(read.models["m"][0].window.fine.values()))
    counts, rows, first = slot.counts.copy(), slot.rows, slot.first
    slot.add(counts, 5, first - 1)
    assert (slot.counts.tolist(), slot.rows, slot.first) == ((2 * counts).tolist(), rows + 5, first - 1)
    assert path.read_bytes() == before


def opened(path):
    """How often this process has a file open."""
    links = [f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd")]
    return sum(os.readlink(link) == os.fspath(path) for link in links if os.path.lexists(link))


def test_files_close_with_their_shares(clock, tmp_path):
    """A file stays open as long as somebody may ask for its slots, and no longer."""
    path = tmp_path / "w"
    read = through_file(share_of({}, models={"m": filled(clock).shares()}), path)
    assert opened(path) == 1
    kept = read.models["m"][0].window.whole
    del read
    assert opened(path) == 1
    assert kept.counts.sum() > 0
    assert opened(path) == 0


# Only the user's own programs can write a file that is no share: it may cost its own counts, nothing else.

ODD = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 12) | st.floats() | st.just(10**400) | st.sampled_from(["", "1", "x"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("xy"), inner, max_size=2),
    max_leaves=4,
)


def places(node, way=()):
    """The way to every node of what JSON can say."""
    yield way
    inner = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in inner:
        yield from places(value, (*way, key))


def put(body, way, value):
    """The body with another value in one place."""
    if not way:
        return value
    body = copy.deepcopy(body)
    node = body
    for key in way[:-1]:
        node = node[key]
    node[way[-1]] = value
    return body


def look_at_all(share):
    """Ask for everything that a share holds."""
    for epochs in share.models.values():
        for epoch in epochs:
            if isinstance(epoch.window, TimeState):
                slots = [*epoch.window.fine.values(), *epoch.window.coarse.values(), epoch.window.whole]
                assert all(slot.counts.dtype == np.uint32 for slot in slots if slot is not None)


@pytest.fixture(scope="module")
def genuine():
    """(body, pieces) of files of both kinds of window."""
    from conftest import TurnedClock

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(modelwatch.engine, "PULSE", Still())
        found = []
        for engine in (filled(TurnedClock()), rows_filled(TurnedClock())):
            _start, head, *pieces = Segments().pack(share_of(SERIES, models={"m": engine.shares()}), began=1)
            found.append((json.loads(head)["body"], pieces))
    return found


@settings(max_examples=250, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_bodies_that_were_tampered_with(genuine, tmp_path, data):
    """Whatever stands in a body whose checksums are right, there is a share or a segment error."""
    body, pieces = data.draw(st.sampled_from(genuine))
    for _ in range(data.draw(st.integers(1, 2))):
        body = put(body, data.draw(st.sampled_from(list(places(body)))), data.draw(ODD))
    head = {"body": body, "pieces": told(pieces)}
    path = tmp_path / "w"
    path.write_bytes(forged(head, pieces))
    with contextlib.suppress(SegmentError):
        look_at_all(Segments().unpack(Container(path), "w", alive=True))


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(body=ODD)
def test_any_body(tmp_path, body):
    """A body that is nothing of the kind is a segment error."""
    (tmp_path / "w").write_bytes(forged({"body": body, "pieces": []}))
    with pytest.raises(SegmentError):
        Segments().unpack(Container(tmp_path / "w"), "w", alive=True)


@pytest.mark.parametrize(
    "keys",
    [
        b"", b"{", b"null", b"5", b'"ab"', b"[1]", b'[["a"]]', b'[["a", 5, null]]', b'[["a", [], ["x"]]]', b"\xff",
        b'[["a", [], [1e999, 10' + b"0" * 400 + b"]]]", b"[" * 100_000 + b"]" * 100_000,
        b'[["a", [], [' + b"9" * 5000 + b"]]]",
    ],
)  # fmt: skip
def test_keys_that_are_none(keys, tmp_path):
    """A piece of keys that holds something else is a segment error."""
    _start, head, _, *pieces = Segments().pack(share_of(SERIES), began=1)
    pieces = [keys, *pieces]
    (tmp_path / "w").write_bytes(forged({"body": json.loads(head)["body"], "pieces": told(pieces)}, pieces))
    with pytest.raises(SegmentError):
        Segments().unpack(Container(tmp_path / "w"), "w", alive=True)


@pytest.mark.parametrize("piece", ["values", "seen", "binned", "missing", "times", "cells"])
def test_pieces_of_another_size(piece, genuine, tmp_path):
    """Arrays that are no whole numbers of items, or not as many as there must be, are a segment error."""
    body, pieces = genuine[1]
    epoch = body["models"][0]["epochs"][0]
    number = {**body, **epoch, **epoch["window"]}[piece]
    pieces = list(pieces)
    for data in (pieces[number][:-1], b"", pieces[number] + bytes(8)):
        if (piece in {"seen", "binned", "missing"} and len(data) % 8 == 0) or (piece == "seen"):
            continue  # how many features and bins there are, only the reference knows
        wrong = [*pieces[:number], data, *pieces[number + 1 :]]
        (tmp_path / "w").write_bytes(forged({"body": body, "pieces": told(wrong)}, wrong))
        with pytest.raises(SegmentError):
            Segments().unpack(Container(tmp_path / "w"), "w", alive=True)
