"""Which reference a model is compared with: replaced by a call, by its file or by another worker, and never lost."""

from __future__ import annotations

import gc
import logging
import os
import threading
import weakref

import pytest
from support.shares import Still, batch_of, descriptors, reference_of

import modelwatch.engine
import modelwatch.references
from modelwatch.exceptions import ConfigurationError, ReferenceFileError
from modelwatch.monitor import Monitor
from modelwatch.notices import Notice
from modelwatch.settings import FeatureRule, Settings

FIRST, SECOND, THIRD = (reference_of(seed, rows=200) for seed in range(3))


@pytest.fixture(autouse=True)
def still(monkeypatch):
    """No background thread."""
    monkeypatch.setattr(modelwatch.engine, "PULSE", Still())


@pytest.fixture
def path(tmp_path):
    """A reference file."""
    path = tmp_path / "reference.json"
    FIRST.save(path)
    return path


def monitor_of(reference, **options):
    return Monitor("m", "1", reference=reference, settings=Settings(**options))


def write(path, text):
    """Rewrite a file in place; its time certainly changes."""
    before = path.stat().st_mtime_ns
    path.write_text(text)
    os.utime(path, ns=(before + 10**9, before + 10**9))


def swap_link(link, target):
    fresh = link.with_name(link.name + "_tmp")
    fresh.symlink_to(target)
    fresh.replace(link)


def in_force(monitor):
    return monitor.engine.epoch.profile


def told(monitor):
    """Counts how often others are told."""
    found = []
    monitor.references.told = lambda: found.append(in_force(monitor))
    return found


# Its file


def test_a_file_that_is_replaced_is_taken(path, caplog):
    """When the file is another one it is taken at the next look: once, with an empty window, said in one line."""
    monitor = monitor_of(path)
    monitor.record({"a": 0.5, "c": "k1"})
    SECOND.save(path)
    assert in_force(monitor) == FIRST
    with caplog.at_level(logging.INFO, "modelwatch"):
        monitor.references.look()
        epoch = monitor.engine.epoch
        monitor.references.look()
    assert epoch.profile == SECOND
    assert monitor.engine.epoch is epoch
    assert monitor.engine.source == "file"
    assert monitor.report().rows == 0
    assert monitor.engine.epochs.previous.rows == 1
    assert [SECOND.id in message for message in caplog.messages] == [True]
    assert not monitor.reload_failed


def test_a_file_that_is_rewritten_in_place(path):
    """A file that is written into is taken too, also if it has the same size."""
    monitor = monitor_of(str(path))
    write(path, SECOND.to_json())
    monitor.references.look()
    assert in_force(monitor) == SECOND


def test_a_config_map(tmp_path):
    """A link to a link that is swapped, as Kubernetes replaces a ConfigMap, is another file."""
    for name, reference in (("v1", FIRST), ("v2", SECOND)):
        (tmp_path / name).mkdir()
        reference.save(tmp_path / name / "reference.json")
    (tmp_path / "..data").symlink_to("v1")
    (tmp_path / "reference.json").symlink_to("..data/reference.json")
    monitor = monitor_of(tmp_path / "reference.json")
    assert in_force(monitor) == FIRST
    swap_link(tmp_path / "..data", "v2")
    monitor.references.look()
    assert in_force(monitor) == SECOND
    swap_link(tmp_path / "..data", "v1")
    monitor.references.look()
    assert in_force(monitor) == FIRST


def test_an_equal_file_changes_nothing(path):
    """A file that was touched, or replaced by an equal one, leaves the epoch and its window as they are."""
    monitor = monitor_of(path)
    monitor.record({"a": 0.5, "c": "k1"})
    epoch = monitor.engine.epoch
    FIRST.save(path)
    monitor.references.look()
    os.utime(path, ns=(5, 5))
    monitor.references.look()
    path.unlink()
    monitor.references.look()
    FIRST.save(path)
    monitor.references.look()
    assert monitor.engine.epoch is epoch
    assert not monitor.reload_failed
    assert monitor.report().rows == 1


BROKEN = {
    "empty": "", "cut": FIRST.to_json()[:-20], "text": "hello", "another thing": '{"a": 1}', "NaN": "NaN",
    "other version": FIRST.to_json().replace('"version":1', '"version":99').replace('"version": 1', '"version": 99'),
}  # fmt: skip


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_file_changes_nothing(path, what, caplog):
    """A file that cannot be used is told, once, the old reference stays in force, and the next good one is taken."""
    monitor = monitor_of(path)
    monitor.record({"a": 0.5, "c": "k1"})
    epoch = monitor.engine.epoch
    write(path, BROKEN[what])
    with caplog.at_level(logging.INFO, "modelwatch"):
        for _ in range(3):
            monitor.references.look()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert monitor.reload_failed
    assert monitor.engine.epoch is epoch
    assert monitor.report().rows == 1
    SECOND.save(path)
    monitor.references.look()
    assert (in_force(monitor), monitor.reload_failed) == (SECOND, False)


def test_a_broken_file_that_is_mended(path):
    """When the file is what it was again nothing has failed any more, and the window is still the same."""
    monitor = monitor_of(path)
    epoch = monitor.engine.epoch
    write(path, "broken")
    monitor.references.look()
    assert monitor.reload_failed
    FIRST.save(path)
    monitor.references.look()
    assert not monitor.reload_failed
    assert monitor.engine.epoch is epoch


def test_a_file_that_is_gone(path):
    """A file that is not there is no failure: the old reference stays, and what comes in its place is taken."""
    monitor = monitor_of(path)
    path.unlink()
    for _ in range(2):
        monitor.references.look()
    assert (in_force(monitor), monitor.reload_failed) == (FIRST, False)
    path.mkdir()
    monitor.references.look()
    assert (in_force(monitor), monitor.reload_failed) == (FIRST, True)
    path.rmdir()
    SECOND.save(path)
    monitor.references.look()
    assert (in_force(monitor), monitor.reload_failed) == (SECOND, False)


def test_a_file_that_does_not_fit_the_settings(path):
    """A new file without a feature that a rule is about is refused; the old one stays."""
    monitor = monitor_of(path, features={"prediction": FeatureRule(alert=False)})
    before = descriptors()
    reference_of(5, prediction=False).save(path)
    monitor.references.look()
    assert (in_force(monitor), monitor.reload_failed) == (FIRST, True)
    assert descriptors() == before


def test_watching_can_be_switched_off(path):
    """With watch_reference=False, and for a reference that is no file, nobody looks."""
    for monitor in (monitor_of(path, watch_reference=False), monitor_of(FIRST), monitor_of(None)):
        SECOND.save(path)
        monitor.references.look()
        assert monitor.references.watched is None
        assert monitor.engine.epoch is None or in_force(monitor) == FIRST
        FIRST.save(path)


def test_the_tick_looks(path, clock):
    """The background thread looks once a second; a monitor that is gone is not kept by that."""
    monitor = Monitor("m", "1", reference=path, clock=clock, wall=clock)
    SECOND.save(path)
    monitor.engine.tick()
    assert in_force(monitor) == FIRST
    clock.advance(1)
    monitor.engine.tick()
    assert in_force(monitor) == SECOND
    engine, gone = monitor.engine, weakref.ref(monitor.references)
    del monitor
    gc.collect()
    assert gone() is None
    clock.advance(1)
    engine.tick()


def test_one_look_at_a_time(path, monkeypatch):
    """While one thread reads the new file another one that looks does not read it too, and does not wait."""
    monitor, reads = monitor_of(path), []
    started, go_on = threading.Event(), threading.Event()
    real = modelwatch.references.taken

    def slow(*arguments):
        reads.append(1)
        started.set()
        go_on.wait(30)
        return real(*arguments)

    monkeypatch.setattr(modelwatch.references, "taken", slow)
    SECOND.save(path)
    thread = threading.Thread(target=monitor.references.look)
    thread.start()
    assert started.wait(30)
    monitor.references.look()
    go_on.set()
    thread.join(30)
    assert len(reads) == 1
    assert in_force(monitor) == SECOND


def test_a_file_that_changes_while_it_is_read(path, monkeypatch):
    """What changes between the look and the reading, or just after it, is taken at the next look."""
    monitor, real = monitor_of(path), modelwatch.references.taken

    def changes(*arguments):
        monkeypatch.setattr(modelwatch.references, "taken", real)
        found = real(*arguments)
        THIRD.save(path)
        return found

    monkeypatch.setattr(modelwatch.references, "taken", changes)
    SECOND.save(path)
    monitor.references.look()
    assert in_force(monitor) == SECOND
    monitor.references.look()
    assert in_force(monitor) == THIRD


def test_a_child_can_look(path):
    """A fork in the middle of a look leaves the child able to look, and without anybody to tell."""
    monitor = monitor_of(path)
    found = told(monitor)
    monitor.references._looking.acquire()
    monitor.references.forked()
    SECOND.save(path)
    monitor.references.look()
    assert in_force(monitor) == SECOND
    monitor.reload(THIRD)
    assert found == []


# A call


def test_a_reload_tells_the_others(path):
    """A reload by a call is told, once, when it is done; what a look finds is not: all workers look by themselves."""
    monitor = monitor_of(path)
    found = told(monitor)
    monitor.reload(SECOND)
    assert found == [SECOND]
    FIRST.save(path)
    monitor.reload(path)
    THIRD.save(path)
    monitor.references.look()
    assert found == [SECOND, FIRST]
    assert in_force(monitor) == THIRD


def test_a_reload_that_fails(path, tmp_path):
    """A failed reload raises, changes nothing, tells nobody, is shown until a good one; the old file is watched."""
    monitor = monitor_of(path)
    found, epoch = told(monitor), monitor.engine.epoch
    (tmp_path / "bad.json").write_text("{")
    for reference in (tmp_path / "bad.json", tmp_path / "gone.json"):
        with pytest.raises(ReferenceFileError):
            monitor.reload(reference, "2")
    with pytest.raises(ConfigurationError):
        monitor.reload(5)
    assert (monitor.reload_failed, found, monitor.engine.epoch, monitor.model_version) == (True, [], epoch, "1")
    assert monitor.references.watched == str(path)
    SECOND.save(path)
    monitor.references.look()
    assert (in_force(monitor), monitor.reload_failed) == (SECOND, False)
    monitor.reload(THIRD)
    assert not monitor.reload_failed


def test_what_is_watched_after_a_reload(path, tmp_path):
    """After a reload its own file is watched, and no other; an object is not watched at all."""
    monitor, other = monitor_of(path), tmp_path / "other.json"
    SECOND.save(other)
    monitor.reload(other)
    THIRD.save(path)
    monitor.references.look()
    assert in_force(monitor) == SECOND
    FIRST.save(other)
    monitor.references.look()
    assert in_force(monitor) == FIRST
    monitor.reload(SECOND)
    THIRD.save(other)
    monitor.references.look()
    assert in_force(monitor) == SECOND


def test_a_reload_that_races_with_its_file(path, tmp_path, monkeypatch):
    """A file that changes while it is reloaded is taken at the next look."""
    monitor, other, real = monitor_of(path), tmp_path / "other.json", modelwatch.references.taken
    SECOND.save(other)

    def changes(*arguments):
        monkeypatch.setattr(modelwatch.references, "taken", real)
        found = real(*arguments)
        THIRD.save(other)
        return found

    monkeypatch.setattr(modelwatch.references, "taken", changes)
    monitor.reload(other)
    monitor.references.look()
    assert in_force(monitor) == THIRD


def test_versions_go_with_a_reload(path):
    """The version changes with the reload that says so, not with the file."""
    monitor = monitor_of(path)
    monitor.loaded("1")
    assert monitor.loads.states == {"1": True}
    monitor.reload(SECOND, "2")
    assert monitor.model_version == "2"
    assert monitor.loads.states == {"1": False, "2": True}
    monitor.reload(path)
    THIRD.save(path)
    monitor.references.look()
    assert monitor.model_version == "2"
    assert monitor.loads.states == {"1": False, "2": True}


def test_loads_that_were_never_told(path):
    """A model that was never said to be loaded is not by a reload."""
    monitor = monitor_of(path)
    monitor.reload(SECOND, "2")
    assert monitor.loads.states == {}
    assert monitor.loads.time is None


# Another worker


def notice(reference, version="1", path=None, source="object"):
    return Notice(reference, version, source, path, "1-abc")


def test_what_another_worker_has_taken_is_taken():
    """Reference, version and source are those of the other, and it is not told on."""
    monitor = monitor_of(FIRST)
    monitor.loaded("1")
    found = told(monitor)
    monitor.references.take(notice(SECOND, "2", source="learned"))
    assert (in_force(monitor), monitor.model_version, monitor.engine.source) == (SECOND, "2", "learned")
    assert monitor.loads.states == {"1": False, "2": True}
    assert found == []


@pytest.mark.parametrize("version", ["1", "2"])
def test_an_equal_one_begins_the_window_anew(version):
    """As in the worker that was told to reload it, so in the others: nobody goes on with the rows of before."""
    monitor = monitor_of(FIRST)
    monitor.record({"a": 0.5, "c": "k1"})
    monitor.references.take(notice(FIRST, version))
    assert (monitor.engine.epoch.version, monitor.report().rows) == (version, 0)


def test_a_failure_ends_when_another_worker_succeeds(path):
    """Whose own reload failed has a good reference again by another worker's, and looks where that one does."""
    monitor = monitor_of(path)
    with pytest.raises(ReferenceFileError):
        monitor.reload("gone.json")
    monitor.references.take(notice(FIRST, path=None))
    assert (monitor.reload_failed, monitor.references.watched) == (False, None)
    monitor.references.take(notice(SECOND, path=str(path)))
    assert monitor.references.watched == str(path)
    SECOND.save(path)
    monitor.references.look()
    THIRD.save(path)
    monitor.references.look()
    assert in_force(monitor) == THIRD


def test_a_learner_stops_when_it_is_told():
    """A worker that learns takes what another has learnt, and learns no longer."""
    monitor = monitor_of("learn")
    monitor.engine.append(batch_of([(0.5, "k1")] * 3))
    assert monitor.engine.learner is not None
    monitor.references.take(notice(SECOND, source="learned"))
    assert (in_force(monitor), monitor.engine.learner) == (SECOND, None)


def test_rows_that_wait_belong_to_the_old_one():
    """What was recorded before the other's reference arrives is counted against the old one."""
    monitor = monitor_of(FIRST)
    monitor.record({"a": 0.5, "c": "k1"})
    monitor.references.take(notice(SECOND))
    assert monitor.engine.epochs.previous.rows == 1
    assert monitor.report().rows == 0
