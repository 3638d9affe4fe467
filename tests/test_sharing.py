"""One answer from several workers: nothing is shared by a single process, everything by workers, whatever fails."""

from __future__ import annotations

import errno
import fcntl
import gc
import os
import resource
import signal
import threading
import time
from collections import Counter

import pytest
from support.shares import PATIENCE, SERVICE, Still, child, descriptors, ended, head_of, reference_of, spoil, until

import modelwatch.engine
import modelwatch.pulse
import modelwatch.sharing
from modelwatch.guard import Guard
from modelwatch.lodging import answers
from modelwatch.metrics.families import Collected
from modelwatch.monitor import Monitor
from modelwatch.reentry import counting
from modelwatch.series import Sample, Series
from modelwatch.settings import Settings
from modelwatch.sharing import Sharing

REFERENCE = reference_of(rows=200)
OTHER = reference_of(1, rows=200)


class App:
    """What of an instrumented app shares."""

    def __init__(self, directory, *, models=("m",), reference=REFERENCE, **options):
        self.settings = Settings(dir=None if directory is None else str(directory), min_rows=1, **options)
        self.guard, self.series = Guard(), Series()
        self.models = []
        self.sharing = Sharing(self.settings, self.series, self.guard, lambda: list(self.models))
        self.collected = Collected(self.settings, self.guard, self.sharing.sources)
        for name in models:
            self.add(name, reference)

    def add(self, name, reference=REFERENCE):
        monitor = Monitor(name, "1", reference=reference, settings=self.settings, series=self.series, guard=self.guard)
        self.sharing.name(name)
        self.models.append(monitor)
        return monitor

    @property
    def monitor(self):
        return self.models[0]

    @property
    def workers(self):
        return self.sharing.publisher.workers

    @property
    def file(self):
        return self.workers.home / f"{self.workers.name}.counts"

    def record(self, rows, a=0.5):
        self.monitor.record({"a": [a] * rows, "c": ["k1"] * rows}, [0.5] * rows, [0.5] * rows)

    def count(self, requests):
        """Requests as the middleware counts them, and some that are under way."""
        self.series.values[self.series.counter("model_request_total", ("m", "1", "success"))] += requests
        self.series.values[self.series.counter("model_requests_in_progress", ("m",))] = requests

    def scrape(self):
        """Numbers by name and labels, as a page shows them."""
        return {
            (sample.name, *sample.labels.values()): sample.value
            for family in self.collected.collect()
            for sample in family.samples
        }

    def due(self):
        """Let the next turn do what is done once a second."""
        self.sharing._next_tick = 0.0


@pytest.fixture(autouse=True)
def still(monkeypatch):
    """No background thread but those of the sharing."""
    pulse = Still()
    monkeypatch.setattr(modelwatch.engine, "PULSE", pulse)
    return pulse


@pytest.fixture
def pulse(still, monkeypatch):
    """The real background thread, which knows of forks."""
    monkeypatch.setattr(modelwatch.engine, "PULSE", modelwatch.pulse.PULSE)


@pytest.fixture
def impatient(service, monkeypatch):
    """Scrapes do not wait for long: some worker will not answer."""
    monkeypatch.setattr(modelwatch.sharing, "_SCRAPE_PATIENCE", 0.05)


@pytest.fixture
def alone(monkeypatch):
    """A process that is nobody's worker."""
    monkeypatch.setattr(modelwatch.sharing, "service_key", lambda: None)


@pytest.fixture
def service(monkeypatch, tmp_path, caplog):
    """Makes apps, each of which takes itself for another worker of one service."""
    monkeypatch.setattr(modelwatch.sharing, "service_key", lambda: SERVICE)
    monkeypatch.setattr(modelwatch.sharing, "TICK_SECONDS", 0.2)
    monkeypatch.setattr(modelwatch.sharing, "_SCRAPE_PATIENCE", 20.0)  # this machine may be busy
    made = []

    def more(*, join=True, thread=True, **options):
        monkeypatch.setattr(modelwatch.sharing, "_APPS", Counter())
        app = App(tmp_path / "shared", **options)
        made.append(app)
        if not thread:
            app.sharing._start = lambda: None
        if join:
            app.sharing.ensure()
        return app

    more.made = made
    yield more
    kept = [app.workers for app in made if app.workers is not None]
    made.clear()
    caplog.get_records("call").clear()  # errors that were logged know the frames that they came through, and so the app
    until(lambda: over(kept), "all threads have ended")
    for workers in kept:
        workers.leave()


def over(kept):
    """Whether no thread runs any more; while one is in the middle of its turn the app cannot go."""
    gc.collect()
    for workers in kept:
        answers(workers.home / f"{workers.name}.alive", ask=True)  # so that its thread looks whether it is needed
    return not threads()


def threads():
    return [thread for thread in threading.enumerate() if thread.name == "modelwatch-share"]


REQUESTS = ("model_request_total", "m", "1", "success")
PROGRESS = ("model_requests_in_progress", "m")
WINDOW = ("model_drift_window_rows", "m", "1")


# A single process


def test_a_single_process_shares_nothing(alone, tmp_path):
    """Where there are no other workers nothing is written and no thread starts, and all is shown."""
    app, before = App(tmp_path / "shared"), threads()
    app.record(5)
    app.count(3)
    app.sharing.ensure()
    found = app.scrape()
    app.sharing.turn()
    assert threads() == before
    assert not (tmp_path / "shared").exists()
    assert (found[REQUESTS], found[PROGRESS], found[WINDOW]) == (3, 3, 5)
    assert found["model_workers",] == 1
    assert {reason: found["modelwatch_degraded", reason] for reason in ("directory", "space", "port")} == dict.fromkeys(
        ("directory", "space", "port"), 0
    )
    assert found["modelwatch_segments_skipped_total", "damaged"] == 0
    assert app.monitor.engine.alone


def test_nothing_happens_before_it_is_needed(service, tmp_path):
    """Neither making it nor naming it touches a file or starts a thread; `ensure` does, once."""
    app, before = service(join=False), (threads(), descriptors())
    assert (threads(), descriptors()) == before
    assert not (tmp_path / "shared").exists()
    app.sharing.ensure()
    until(lambda: app.workers._locks, "it leads")
    home, now = app.workers.home, (threads(), descriptors())
    for _ in range(5):
        app.sharing.ensure()
    assert threads() == now[0]
    until(lambda: descriptors() == now[1], "nothing more is open")
    assert len(threads()) == len(before[0]) + 1
    assert len([name for name in os.listdir(home) if name.endswith(".alive")]) == 1


def test_a_watched_reference_of_a_single_process(alone, tmp_path, monkeypatch):
    """A single process looks at its reference's file before its first row too, if it has one."""
    REFERENCE.save(tmp_path / "reference.json")
    added = []
    monkeypatch.setattr(modelwatch.sharing.PULSE, "add", added.append)
    watching, other = App(None, reference=tmp_path / "reference.json"), App(None)
    for app in (watching, other):
        app.sharing.ensure()
    assert added == [watching.monitor.engine]


def test_what_sources_bring(alone):
    """Each source is called when it is read, and one that fails costs what it alone brings."""
    app = App(None)
    app.sharing.publisher.local.append(lambda: iter([Sample("model_process_threads", (), 7)]))
    assert app.scrape()["model_process_threads",] == 7
    sources = list(app.sharing.sources())
    names = [{item.metric for item in source()} for source in sources]
    assert "model_feature_drift_psi" in names[0]
    assert not any("model_feature_drift_psi" in found for found in names[1:])
    assert {"model_rows_total"} <= set.union(*names[1:])


@pytest.mark.swallows
def test_a_source_that_fails(alone, swallowed_errors):
    """A layer that cannot be read is counted, and all others are shown."""
    app = App(None)
    app.sharing.publisher.local += [lambda: 1 / 0, lambda: iter([Sample("model_process_threads", (), 7)])]
    app.record(3)
    found = app.scrape()
    assert (found["model_process_threads",], found[WINDOW]) == (7, 3)
    assert [stage for stage, _ in swallowed_errors] == ["scrape"]


# Workers


def test_workers_give_one_answer(service):
    """Whoever is asked shows the sum of all: requests, rows, the window and its statistics; gauges of all that live."""
    apps = [service() for _ in range(3)]
    for number, app in enumerate(apps, 1):
        app.count(number)
        app.record(10 * number, a=0.1 * number)
    found = [app.scrape() for app in apps]
    for page in found:
        assert (page[REQUESTS], page[PROGRESS], page[WINDOW], page["model_workers",]) == (6, 6, 60, 3)
        assert page["model_rows_total", "m", "1"] == 60
    drift = [{key: value for key, value in page.items() if key[0].startswith("model_feature_")} for page in found]
    assert len(drift[0]) > 50
    assert drift[0] == drift[1] == drift[2]


def test_workers_show_what_one_process_would(service, monkeypatch):
    """Three workers show of rows, bins and statistics what one process shows that has had all rows."""
    apps = [service() for _ in range(3)]
    with monkeypatch.context() as patch:
        patch.setattr(modelwatch.sharing, "service_key", lambda: None)
        single = App(None)
        single.sharing.ensure()
    for number in range(30):
        for app in (apps[number % 3], single):
            app.record(number % 4, a=number / 10 - 1)
            app.record(1, a=None)
    expected = single.scrape()
    found = apps[1].scrape()
    drift = ("model_feature_", "model_drift", "model_rows", "model_data", "modelwatch_rows", "model_prediction")
    aside = {"model_drift_window_seconds", "model_drift_last_evaluation_timestamp_seconds"}
    keys = [key for key in expected if key[0].startswith(drift) and key[0] not in aside and "evaluation" not in key[0]]
    assert len(keys) > 100
    for key in keys:
        assert found[key] == pytest.approx(expected[key], rel=1e-9, abs=2e-6 if key[0].endswith("_sum") else 1e-12), key


def test_reports_are_of_all(service):
    """A report in any worker is of all rows, those that wait included, and folds what waits in the others."""
    apps = [service() for _ in range(2)]
    for app in apps:
        app.record(7)
    until(lambda: [app.monitor.report().rows for app in apps] == [14, 14], "both report all rows")
    until(lambda: apps[0].monitor.reference_from_window().rows == 14, "a new reference is of all rows")


def test_publication_comes_by_itself(service):
    """Once a second each worker publishes what has come, though nobody asks."""
    app = service()
    app.count(5)
    until(lambda: app.file.exists() and head_of(app.file)["body"]["began"] > 0, "it has published")
    first = head_of(app.file)["body"]["began"]
    until(lambda: head_of(app.file)["body"]["began"] > first, "it has published again")


def test_the_dead_are_counted(service):
    """When a worker is gone its counters stay and its gauges go, before it is folded and after."""
    apps = [service() for _ in range(2)]
    apps[1].count(5)
    apps[1].record(5)
    apps[1].scrape()
    dead = service(thread=False)
    dead.count(7)
    dead.record(7)
    dead.sharing.publisher.publish()
    dead.workers.leave()
    for _ in range(3):
        page = apps[0].scrape()
        assert (page[REQUESTS], page[PROGRESS], page[WINDOW], page["model_workers",]) == (12, 5, 12, 2)
    until(lambda: not dead.file.exists(), "the dead has been folded")
    page = apps[1].scrape()
    assert (page[REQUESTS], page[PROGRESS], page[WINDOW], page["model_workers",]) == (12, 5, 12, 2)


def test_an_app_that_is_dropped(service):
    """When nobody knows an app any more its thread ends, its descriptors are closed, and it is dead for the others."""
    other = service()
    until(lambda: other.workers._locks, "the other one leads")
    before, running = descriptors(), set(threads())
    app = service()
    app.count(4)
    app.scrape()
    (thread,) = set(threads()) - running
    assert os.fstat(app.workers.bell)
    service.made.remove(app)
    del app
    until(lambda: gc.collect() >= 0 and not thread.is_alive(), "its thread has ended")
    until(lambda: descriptors() <= before, "all that it had open is closed")  # the other's thread opens some at times
    page = other.scrape()
    assert (page["model_workers",], page[REQUESTS]) == (1, 4)


def test_a_thread_that_died_is_replaced(service, monkeypatch):
    """If the thread has ended, for whatever reason, the next request starts another one."""
    app = service(thread=False)
    app.sharing._thread = threading.Thread(target=int)
    del app.sharing._start
    app.sharing.ensure()
    assert app.sharing._thread.is_alive()
    assert app.sharing._thread.daemon


@pytest.mark.swallows
def test_no_thread_can_be_started(service, monkeypatch, swallowed_errors):
    """Where no thread can be had a worker still shows all, and publishes at its scrapes."""
    other = service()
    other.count(1)
    monkeypatch.setattr(threading.Thread, "start", lambda thread: (_ for _ in ()).throw(RuntimeError("no thread")))
    app = service()
    app.count(2)
    assert app.scrape()[REQUESTS] == 3
    monkeypatch.undo()
    assert app.file.exists()
    assert {stage for stage, _ in swallowed_errors} == {"tick"}
    swallowed_errors.clear()


def test_many_open_descriptors(service, monkeypatch):
    """A worker whose descriptors have high numbers, as with a thousand connections, serves as any other."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 1200:
        pytest.skip("needs 1,200 descriptors")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 1200), hard))
    try:
        app = service(thread=False)
        low, app.workers.bell = app.workers.bell, fcntl.fcntl(app.workers.bell, fcntl.F_DUPFD_CLOEXEC, 1100)
        os.close(low)
        del app.sharing._start
        app.sharing.ensure()
        other = service()
        for number in range(1, 4):
            app.count(1)
            assert other.scrape()[REQUESTS] == number
        assert app.sharing._thread.is_alive()
    finally:
        made = app.workers
        app.models.clear()
        del app
        assert made.bell >= 1100
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_models_that_come_later(service):
    """A second model that is added while the app serves is shared too."""
    apps = [service() for _ in range(2)]
    for app in apps:
        app.add("n", None)
    until(lambda: not any(app.models[1].engine.alone for app in apps), "none is alone")
    apps[0].models[1].reload(OTHER)
    until(lambda: all(app.models[1].engine.epoch is not None for app in apps), "both have it")
    for app in apps:
        app.models[1].record({"a": [0.5] * 3, "c": ["k1"] * 3})

    def shared():
        return [app.scrape().get(("model_drift_window_rows", "n", "1")) for app in apps] == [6, 6]

    until(shared, "both show the rows of both")


def test_a_reload_reaches_all(service):
    """After a reload in one worker all others have the reference, without a scrape."""
    apps = [service() for _ in range(3)]
    apps[1].monitor.reload(OTHER, "2")
    until(lambda: {app.monitor.model_version for app in apps} == {"2"}, "all have it")
    assert [app.monitor.engine.epoch.profile for app in apps] == [OTHER] * 3
    late = service()
    assert late.monitor.model_version == "2"


def test_apps_are_told_apart(service, tmp_path):
    """Two apps of one process share nothing with each other, also if their models have one name."""
    first = service()
    first.sharing.name("ignored")
    second = App(tmp_path / "shared")
    service.made.append(second)  # so that its thread is waited for
    second.sharing.ensure()
    assert first.workers.home != second.workers.home
    first.count(3)
    first.scrape()
    second.count(4)
    assert second.scrape()[REQUESTS] == 4


def test_without_a_name_nothing_is_shared(service, tmp_path):
    """Before it has a model an app is nobody's worker."""
    app = service(models=())
    assert app.workers is None
    assert not (tmp_path / "shared").exists()


# What may fail


def test_a_directory_that_cannot_be_used(service, tmp_path, caplog):
    """Without a directory a worker shows its own and says so; it is tried again, and then all are one."""
    (tmp_path / "shared").write_text("in the way")
    apps = [service(), service()]
    assert "MODELWATCH_DIR" in caplog.text
    assert len(caplog.records) == 2
    for number, app in enumerate(apps, 1):
        app.count(number)
        app.record(number)
        page = app.scrape()
        assert (page[REQUESTS], page[WINDOW], page["modelwatch_degraded", "directory"]) == (number, number, 1)
        assert page["model_workers",] == 1
    (tmp_path / "shared").unlink()
    for app in apps:
        app.sharing.ensure()
        assert app.workers is None
        assert 0 < app.sharing._next_try - time.monotonic() < 60
        app.sharing._next_try = 0.0
        app.sharing.ensure()
    for app in apps:
        app.scrape()
    for app in apps:
        page = app.scrape()
        assert (page[REQUESTS], page[WINDOW], page["modelwatch_degraded", "directory"]) == (3, 3, 0)
    assert len(caplog.records) == 2


def fails_to_write(app, error, only=""):
    """Let an app's files not be written any more."""
    real = app.workers.write

    def write(name, parts):
        if name.endswith(only):
            raise OSError(error, os.strerror(error))
        real(name, parts)

    app.workers.write = write


@pytest.mark.parametrize(("error", "reason"), [(errno.ENOSPC, "space"), (errno.EROFS, "directory")])
def test_a_disk_that_is_full(impatient, service, caplog, error, reason):
    """When nothing can be written it is shown and said once, the own numbers are shown, and it ends when it can be."""
    app, other = service(thread=False), service()
    other.count(5)
    fails_to_write(app, error)
    for number in range(1, 5):
        app.count(1)
        app.due()
        app.sharing.turn()
        page = app.scrape()
        assert page[REQUESTS] == number + 5
    page = app.scrape()
    assert page["modelwatch_degraded", reason] == 1
    assert len(caplog.records) == 1
    del app.workers.write
    app.sharing.turn()
    assert app.scrape()["modelwatch_degraded", reason] == 0
    assert other.scrape()[REQUESTS] == 9


def test_a_leader_whose_state_cannot_be_written(service, caplog):
    """Where the elected worker's state cannot be written it publishes all the same, and the log is not flooded."""
    app = service(thread=False)
    (app.workers.home / "elected.json").mkdir()
    began = []
    for number in range(6):
        app.count(1)
        if number % 2 == 0:
            app.due()
        app.sharing.turn()
        began.append(head_of(app.file)["body"]["began"] if app.file.exists() else 0)
    assert began == sorted(set(began))
    assert began[0] > 0
    assert len(caplog.records) <= 1


def test_the_dead_are_folded_though_the_state_cannot_be_written(service):
    """What the dead have left does not pile up because something else cannot be written."""
    app = service(thread=False)
    (app.workers.home / "elected.json").mkdir()
    dead = service(thread=False)
    dead.sharing.publisher.publish()
    dead.workers.leave()
    for _ in range(2):
        app.due()
        app.sharing.turn()
    assert not dead.file.exists()


def test_a_directory_that_disappears(service):
    """When somebody removes the directory the own numbers are shown, and it is said that they are one worker's."""
    import shutil

    apps = [service(), service()]
    for app in apps:
        app.count(2)
        app.scrape()
    shutil.rmtree(apps[0].workers.home)
    page = apps[0].scrape()
    assert page[REQUESTS] == 2
    until(lambda: apps[0].scrape()["modelwatch_degraded", "directory"] == 1, "it is said")


def test_damage_is_shown(impatient, service):
    """A damaged file of another worker is counted, everything else is shown, and the next publication mends it."""
    mine, good, bad = service(), service(), service(thread=False)
    for app in (mine, good, bad):
        app.count(1)
        app.sharing.publisher.publish()
    spoil(bad.file, 1)
    page = mine.scrape()
    assert (page[REQUESTS], page["model_workers",]) == (2, 2)
    assert mine.scrape()["modelwatch_segments_skipped_total", "damaged"] >= 1
    bad.sharing.publisher.publish()
    assert mine.scrape()[REQUESTS] == 3


def test_a_damaged_slot_costs_its_own_rows(impatient, service):
    """A slot that cannot be read costs its rows, not the drift layer."""
    mine, bad = service(), service(thread=False)
    for app in (mine, bad):
        app.count(1)
        app.record(5)
    bad.sharing.publisher.publish()
    spoil(bad.file, head_of(bad.file)["body"]["models"][0]["epochs"][0]["window"]["whole"][2])
    page = mine.scrape()
    assert (page[REQUESTS], page[WINDOW]) == (2, 5)
    assert mine.scrape()["modelwatch_segments_skipped_total", "damaged"] >= 1


@pytest.mark.swallows
def test_a_turn_never_raises(service, monkeypatch, swallowed_errors):
    """Whatever fails in a turn is counted, and the next turn does its work."""
    app = service(thread=False)
    with monkeypatch.context() as patch:
        patch.setattr(app.sharing.publisher, "publish", lambda: 1 / 0)
        app.sharing.turn()
    app.sharing.turn()
    assert app.file.exists()
    assert [stage for stage, _ in swallowed_errors] == ["tick"]


def test_turns_are_due_once_a_second(service):
    """What costs more is done once a second, publishing at every turn."""
    app = service(thread=False)
    looks = []
    app.monitor.references.look = lambda: looks.append(1)
    for _ in range(4):
        app.sharing.turn()
    assert len(looks) == 1
    assert 0 < app.sharing.until_tick() <= 1
    app.due()
    assert app.sharing.until_tick() == 0
    app.sharing.turn()
    assert len(looks) == 2


def test_a_silent_worker_costs_its_patience_once(impatient, service):
    """A worker that does not answer is shown as it was; scrapes after the first do not wait for it."""
    mine, silent = service(), service(thread=False)
    silent.count(3)
    silent.sharing.publisher.publish()
    assert mine.scrape()[REQUESTS] == 3
    times = []
    for _ in range(5):
        before = time.perf_counter()
        mine.scrape()
        times.append(time.perf_counter() - before)
    assert min(times) < modelwatch.sharing._SCRAPE_PATIENCE


def test_a_scrape_within_counting(service):
    """A signal handler that scrapes while another thread publishes gets what was published last, and does not wait."""
    app = service(thread=False)
    app.count(3)
    app.scrape()
    app.count(1)
    holding, done = threading.Event(), threading.Event()

    def hold():
        with app.sharing.publisher._lock:
            holding.set()
            done.wait(PATIENCE)

    thread = threading.Thread(target=hold)
    thread.start()
    assert holding.wait(PATIENCE)
    with counting():
        share, _ = app.sharing.publisher.publish()
    done.set()
    thread.join(PATIENCE)
    assert (
        dict(zip(share.keys, share.values.tolist(), strict=True))["model_request_total", ("m", "1", "success"), None]
        == 3
    )


# A port


class FakePort:
    """A port that can be opened, or not."""

    def __init__(self, problem=None):
        self.problem, self.opened = problem, 0

    def open(self):
        if self.problem is not None:
            raise self.problem
        self.opened += 1


def test_one_worker_has_the_port(service):
    """One of the workers opens the port, once, and another one when it is dead."""
    apps = [service(join=False, thread=False) for _ in range(3)]
    ports = []
    for app in apps:
        ports.append(FakePort())
        app.sharing.port = ports[-1]
        app.sharing.ensure()

    def turn():
        for app in apps:
            app.due()
            app.sharing.turn()
        return [port.opened for port in ports]

    assert turn() == turn() == [1, 0, 0]
    apps.pop(0).workers.leave()
    assert turn() == turn() == [1, 1, 0]


def test_a_single_process_has_its_port(alone):
    """A single process opens the port when it starts to serve."""
    app = App(None)
    app.sharing.port = port = FakePort()
    assert port.opened == 0
    for _ in range(3):
        app.sharing.ensure()
    assert port.opened == 1


@pytest.mark.parametrize("single", [True, False])
def test_a_port_that_is_taken(service, monkeypatch, caplog, single):
    """A port that cannot be opened is shown and said once, tried again, and then all is well."""
    if single:
        monkeypatch.setattr(modelwatch.sharing, "service_key", lambda: None)
    app = service(join=False, thread=False)
    app.sharing.port = port = FakePort(OSError(errno.EADDRINUSE, "Address already in use"))

    def again():
        app.sharing.ensure()
        app.due()
        app.sharing.turn()
        return app.scrape()["modelwatch_degraded", "port"]

    assert [again() for _ in range(3)] == [1, 1, 1]
    assert len(caplog.records) == 1
    assert "Address already in use" in caplog.text
    port.problem = None
    until(lambda: again() == 0, "the port is open")
    assert port.opened == 1


# A fork


def test_a_child_begins_anew(pulse, service):
    """A forked child counts from zero, joins with files of its own, and leaves files and locks of its parent alone."""
    parent = service()
    parent.count(3)
    parent.record(3)
    parent.scrape()
    until((parent.workers.home / "elected.lock").exists, "the parent leads")

    def work():
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        assert parent.workers is None
        assert parent.series.values == [0] * len(parent.series.values)
        parent.count(1)
        parent.record(2)
        page = parent.scrape()
        assert page[REQUESTS] == 3 + 1, page[REQUESTS]
        assert page[WINDOW] == 3 + 2, page[WINDOW]
        assert page["model_workers",] == 2
        assert parent.workers.name.startswith(f"{os.getpid()}-")
        assert not parent.workers.lock("elected")

    pid = child(work)
    assert ended(pid) == 0
    page = parent.scrape()
    assert (page[REQUESTS], page[WINDOW], page["model_workers",]) == (4, 5, 1)
    assert parent.workers.lock("elected")


def test_a_child_does_not_keep_its_parent_alive(impatient, pulse, service):
    """A child that lives on, of a worker that has died, is not taken for it, and holds none of its locks."""
    mine = service()
    ready, done = os.pipe()

    def worker():
        app = service(thread=False)
        app.sharing.publisher.publish()
        grandchild = os.fork()
        if grandchild == 0:
            os.write(done, b".")
            time.sleep(PATIENCE)
            os._exit(0)
        os.write(done, str(grandchild).encode())
        time.sleep(PATIENCE)

    pid = child(worker)
    told = b""
    while b"." not in told or len(told) < 2:
        told += os.read(ready, 100)
    assert until(lambda: mine.scrape()["model_workers",] == 2, "the worker is seen")
    os.kill(pid, signal.SIGKILL)
    assert ended(pid) == -9
    assert mine.scrape()["model_workers",] == 1
    os.kill(int(told.replace(b".", b"")), signal.SIGKILL)
    os.close(ready)
    os.close(done)


def test_a_child_tells_nobody(pulse, service):
    """A child that is nobody's worker yet reloads for itself alone."""
    parent = service()
    parent.scrape()

    def work():
        parent.monitor.reload(OTHER, "2")

    assert ended(child(work)) == 0
    parent.sharing.turn()
    assert parent.monitor.model_version == "1"


def test_forks_under_traffic(pulse, impatient, service):
    """Forked while threads scrape, publish and reload, no child hangs, and each counts from zero."""
    app, over = service(), threading.Event()
    app.count(1)

    def again(function):
        while not over.is_set():
            function()

    running = [threading.Thread(target=again, args=(function,)) for function in (app.scrape, app.sharing.turn)]
    for thread in running:
        thread.start()

    def work():
        app.count(2)
        assert app.series.values[app.series.counter("model_request_total", ("m", "1", "success"))] == 2
        assert app.scrape()[REQUESTS] >= 3

    try:
        ends = [ended(child(work)) for _ in range(6)]
    finally:
        over.set()
        for thread in running:
            thread.join(PATIENCE)
    assert ends == [0] * 6
    until(lambda: app.scrape()[REQUESTS] == 1 + 6 * 2, "all children are counted")


@pytest.mark.swallows
def test_a_turn_that_fails_is_not_repeated_at_once(service):
    """Whatever fails in the background, its thread rests until the next turn is due, and keeps no processor busy."""
    app = service(thread=False)
    app.monitor.references.look = lambda: 1 / 0
    app.sharing._next_tick = 0.0
    app.sharing.turn()
    assert app.monitor.guard.errors["tick"] == 1
    assert app.sharing.until_tick() > 0
