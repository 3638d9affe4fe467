"""What all workers must agree on: the reference, the detectors' alarms, and who serves the port of the metrics."""

from __future__ import annotations

import itertools
import os
import signal
import socket
import threading
from pathlib import Path

import psutil
import pytest
from support.service_app import MODEL, customers, profile
from support.serving import HOST, falls, free_port, serve, until

ROWS = 2  # of each request
BATCHES = [customers(ROWS, seed) for seed in range(150)]
FEATURES = {"age", "income", "plan", "prediction", "confidence"}
FAST = {"SERVICE_TICK": "0.2"}  # seconds, so that what happens at each tick is seen soon


@pytest.fixture(scope="module")
def profiles():
    """Two references whose cells are not the same."""
    return profile(seed=1), profile(seed=2, shift=1)


def label(reference):
    """How a reference is called in the metrics."""
    return reference.hash[:8]


def in_force(scrape):
    """The references that a page says are in use."""
    return {name for name, value in scrape.by("model_reference_info", "reference").items() if value == 1}


def failed(scrape):
    """Whether a page says that the last attempt to take another reference failed."""
    return scrape.total("model_reference_reload_failed") > 0


def everywhere(server):
    """What each worker answers."""
    return [server.scrape(pin) for pin in server.reach_all().values()]


def rows_of(scrape, reference):
    """Rows in the bins of each feature that are counted for a reference."""
    found = dict.fromkeys(FEATURES, 0.0)
    for key, value in scrape.where("model_feature_bin_total", reference=label(reference)).items():
        found[dict(key[1])["feature"]] += value
    return found


def check_never_mixed(server, old, new, before, after):
    """All workers use the new reference; rows sent before count for the old one only, those sent after for the new."""
    for scrape in everywhere(server):
        assert in_force(scrape) == {label(new)}
        assert set(rows_of(scrape, old).values()) == {before}
        assert set(rows_of(scrape, new).values()) == {after}
        assert scrape.total("model_drift_window_rows") == after
        assert scrape.total("model_rows_total") == before + after
        assert not failed(scrape)


def replaced(path, text):
    """Put another file in the place of one, as careful people do."""
    new = path.with_name("new")
    new.write_text(text)
    os.replace(new, path)


class Traffic:
    """Threads that send requests all the time; `answered` counts those answered with 200, `wrong` has all others."""

    def __init__(self, server):
        self._server = server
        self._ends = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(3)]
        self._counts = [0, 0, 0]
        self.wrong: list[object] = []

    @property
    def answered(self):
        return sum(self._counts)

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._ends.set()
        for thread in self._threads:
            thread.join()

    def _run(self, number):
        connection = self._server.connect()
        rows = customers(ROWS, number)
        while not self._ends.wait(0.002):
            try:
                answer = connection.post("/predict", rows)
            except Exception as error:  # noqa: BLE001 - looked at by the test
                self.wrong.append(error)
                break
            if answer.status == 200:
                self._counts[number] += 1
            else:
                self.wrong.append(answer)
        connection.close()


def test_reload_in_one_worker_reaches_all(profiles, tmp_path):
    """`monitor.reload` in one worker gives all workers the reference and the version; the windows begin anew."""
    old, new = profiles
    old.save(tmp_path / "old.json")
    new.save(tmp_path / "new.json")
    with serve("gunicorn-preload", tmp_path / "server", tmp_path / "old.json", env=FAST) as server:
        server.send(BATCHES)
        assert {scrape.total("model_drift_window_rows") for scrape in everywhere(server)} == {ROWS * len(BATCHES)}
        early = everywhere(server)
        assert server.fresh(f"/reload?path={tmp_path / 'new.json'}&version=2", []).status == 204
        until(lambda: all(in_force(scrape) == {label(new)} for scrape in everywhere(server)), "all have taken it")
        server.send(BATCHES[:100])
        check_never_mixed(server, old, new, ROWS * len(BATCHES), ROWS * 100)
        for scrape in everywhere(server):
            assert scrape.total("model_request_total", model_version="1") == len(BATCHES)
            assert scrape.total("model_request_total", model_version="2") == 100
        # Detectors of another version are shown no longer, which no query takes for a fall.
        shown = [line for line in falls([*early, *everywhere(server)]) if "model_detector" not in line]
        assert shown == []
        assert server.fresh(f"/reload?path={tmp_path / 'none.json'}", []).status == 409
        assert any(failed(scrape) for scrape in everywhere(server))
        assert {label(new)} in [in_force(scrape) for scrape in everywhere(server)]


def config_map(directory, version, text):
    """Write a file as Kubernetes mounts a ConfigMap: behind two links, of which the second is swapped."""
    data = directory / f"..2026_{version}"
    data.mkdir(parents=True)
    (data / "reference.json").write_text(text)
    (directory / "..data_tmp").symlink_to(data.name)
    os.replace(directory / "..data_tmp", directory / "..data")
    if not (directory / "reference.json").is_symlink():
        (directory / "reference.json").symlink_to("..data/reference.json")


@pytest.mark.parametrize("how", ["file", "config map"])
def test_replaced_file_is_taken_by_all(profiles, tmp_path, how):
    """A reference file that is replaced under traffic is taken by all workers; no request fails, no row is mixed up."""
    old, new = profiles
    path = tmp_path / "mounted" / "reference.json"
    path.parent.mkdir()
    if how == "file":
        old.save(path)
    else:
        config_map(path.parent, 1, old.to_json())
    with serve("gunicorn-preload", tmp_path / "server", path, env=FAST) as server:
        server.send(BATCHES)
        first = server.scrape()
        assert in_force(first) == {label(old)}
        with Traffic(server) as traffic:
            until(lambda: traffic.answered > 50, "traffic")
            if how == "file":
                replaced(path, new.to_json())
            else:
                config_map(path.parent, 2, new.to_json())
            until(lambda: all(in_force(scrape) == {label(new)} for scrape in everywhere(server)), "all have taken it")
            enough = traffic.answered + 50
            until(lambda: traffic.answered > enough, "traffic against the new one")
        assert traffic.wrong == []
        rows = ROWS * (len(BATCHES) + traffic.answered)
        [before] = set(rows_of(server.scrape(), old).values())
        assert ROWS * (len(BATCHES) + 50) <= before < rows - ROWS * 50
        check_never_mixed(server, old, new, before, rows - before)
        assert falls([first, *everywhere(server)]) == []


def test_broken_file_changes_nothing_but_says_so(profiles, tmp_path):
    """A file that cannot be read leaves the old reference in force everywhere, and says so until a good one comes."""
    old, new = profiles
    path = tmp_path / "reference.json"
    old.save(path)
    with serve("gunicorn-preload", tmp_path / "server", path, env=FAST) as server:
        server.send(BATCHES)
        assert not any(map(failed, everywhere(server)))
        for broken in ("", old.to_json()[:-100], '{"format": "something else"}'):
            replaced(path, broken)
            until(lambda: all(map(failed, everywhere(server))), "all say that it failed")
            check_old = everywhere(server)
            assert [in_force(scrape) for scrape in check_old] == [{label(old)}] * 3
            assert {scrape.total("model_drift_window_rows") for scrape in check_old} == {ROWS * len(BATCHES)}
            replaced(path, old.to_json())
            until(lambda: not any(map(failed, everywhere(server))), "none says that it failed")
        assert {scrape.total("model_drift_window_rows") for scrape in everywhere(server)} == {ROWS * len(BATCHES)}
        replaced(path, "not JSON")
        until(lambda: all(map(failed, everywhere(server))), "all say that it failed")
        replaced(path, new.to_json())
        until(lambda: all(in_force(scrape) == {label(new)} for scrape in everywhere(server)), "all have taken it")
        server.send(BATCHES[:50])
        check_never_mixed(server, old, new, ROWS * len(BATCHES), ROWS * 50)


def test_new_workers_take_the_reference_in_force(profiles, tmp_path):
    """A worker that comes after a reload has the reference that the others have, not the one of the service's start."""
    old, new = profiles
    old.save(tmp_path / "old.json")
    new.save(tmp_path / "new.json")
    with serve("gunicorn-preload", tmp_path / "server", tmp_path / "old.json", env=FAST) as server:
        server.send(BATCHES)
        server.fresh(f"/reload?path={tmp_path / 'new.json'}", [])
        until(lambda: all(in_force(scrape) == {label(new)} for scrape in everywhere(server)), "all have taken it")
        assert server.scrape().total("model_rows_total") == ROWS * len(BATCHES)
        for pid in sorted(server.worker_pids()):
            server.kill_worker(pid=pid)
        until(lambda: all(in_force(scrape) == {label(new)} for scrape in everywhere(server)), "the new ones have it")
        server.send(BATCHES[:50])
        check_never_mixed(server, old, new, ROWS * len(BATCHES), ROWS * 50)


def holder(path: Path):
    """Which process holds the lock of a file, if any."""
    try:
        inode = path.stat().st_ino
    except FileNotFoundError:
        return None
    for line in Path("/proc/locks").read_text().splitlines():
        fields = line.split()
        if "FLOCK" in fields and fields[-3].split(":")[-1] == str(inode):
            return int(fields[-4])
    return None


def test_death_of_the_elected_worker_doubles_no_alarm(profiles, tmp_path):
    """Whoever counts for all is killed before and after an alarm: another one goes on, and the alarm is there once."""
    old, _ = profiles
    old.save(tmp_path / "reference.json")
    seeds = itertools.count()
    with serve(
        "gunicorn-preload", tmp_path / "server", tmp_path / "reference.json", env={"SERVICE_TICK": "0.1"}
    ) as server:
        elected = next(server.shared.rglob("elected.lock"))
        scrapes = []

        def alarms():
            scrapes.append(server.scrape())
            return scrapes[-1].by("model_detector_alarms_total", "signal")

        def ticks(number, shift):
            """Send rows, and let the detectors see so many further means."""
            for _ in range(number):
                before = elected.with_name("elected.json").stat().st_mtime_ns
                for _ in range(6):
                    server.fresh("/predict", customers(20, next(seeds), shift))

                def seen(before=before):
                    return elected.with_name("elected.json").stat().st_mtime_ns != before

                until(seen, "the detectors see what has come")

        def kill_elected():
            pid = until(lambda: holder(elected), "a worker is elected")
            server.kill_worker(pid=pid)
            until(lambda: holder(elected) not in {None, pid}, "another worker is elected", 5)

        ticks(20, 0.0)
        assert set(alarms().values()) == {0}
        kill_elected()
        ticks(5, 3.0)
        kill_elected()
        ticks(8, 3.0)
        until(lambda: alarms()["prediction"] >= 1, "the alarm")
        kill_elected()
        ticks(10, 3.0)
        kill_elected()
        ticks(3, 3.0)
        assert alarms()["prediction"] == 1
        assert alarms()["confidence"] <= 1
        assert falls(scrapes) == []
        assert server.scrape().by("model_detector_state", "signal")["prediction"] in {0, 1}


@pytest.fixture(scope="module")
def ported(profiles, tmp_path_factory):
    """A server whose metrics have a port of their own."""
    directory = tmp_path_factory.mktemp("ported")
    profiles[0].save(directory / "reference.json")
    env = {"MODELWATCH_METRICS_PORT": str(free_port()), "MODELWATCH_METRICS_HOST": HOST}
    with serve("gunicorn-preload", directory / "server", directory / "reference.json", env=env) as server:
        until(lambda: listener(server), "a worker listens")
        yield server


def listener(server):
    """Which worker listens on the port of the metrics, if any does."""
    for pid in server.worker_pids():
        for connection in psutil.Process(pid).net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr.port == server.metrics_port:
                return pid
    return None


def test_own_port_shows_all_workers_and_the_app_nothing(ported):
    """The metrics are those of all workers, on their own port only: the app has no such route any more."""
    before = ported.scrape().total("model_request_total")
    assert len(ported.send(BATCHES)) == 3
    assert ported.scrape().total("model_request_total", **MODEL) == before + len(BATCHES)
    assert {pin.get("/metrics").status for pin in ported.reach_all().values()} == {404}


def test_own_port_answers_while_every_event_loop_sleeps(ported):
    """While all workers are blocked in an endpoint, each by a call that never yields, a scrape is answered in full."""
    before = ported.scrape().total("model_request_total")
    ported.send(BATCHES[:30])
    pins = list(ported.reach_all().values())
    for pin in pins:
        pin.begin("/block?seconds=3")
    scrape = until(
        lambda: (scrape := ported.scrape()).total("http_server_active_requests") == 3 and scrape, "all blocked"
    )
    assert all(pin.open for pin in pins)  # no response yet: they are still blocked
    assert scrape.total("model_request_total", **MODEL) == before + 30
    assert [pin.end().status for pin in pins] == [200] * 3


def test_another_worker_takes_the_port_over(ported):
    """When the worker that serves the port is killed, another one does, with all that had been shown."""
    ported.send(BATCHES[:30])
    before = ported.scrape()
    victim = listener(ported)
    ported.kill_worker(signal.SIGKILL, victim)
    assert until(lambda: listener(ported), "another worker listens") != victim
    after = ported.scrape()
    assert after.total("model_request_total") == before.total("model_request_total")
    assert falls([before, after]) == []


def test_port_that_is_taken_is_tried_again(profiles, tmp_path):
    """If somebody else has the port the service starts all the same, and opens it as soon as it is free."""
    profiles[0].save(tmp_path / "reference.json")
    with socket.create_server((HOST, 0)) as stranger:
        port = stranger.getsockname()[1]
        env = {"MODELWATCH_METRICS_PORT": str(port), "MODELWATCH_METRICS_HOST": HOST}
        server_of = serve("gunicorn-preload", tmp_path / "server", tmp_path / "reference.json", env=env)
        with server_of as server:
            server.send(BATCHES[:30])
            assert listener(server) is None
            assert f"port {port} cannot be opened" in server.log
            stranger.close()
            until(lambda: listener(server), "a worker listens")
            scrape = server.scrape()
            assert scrape.total("model_request_total") == 30
            assert scrape.total("modelwatch_degraded", reason="port") == 0
