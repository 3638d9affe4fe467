"""Workers die at any moment, of SIGKILL or of age: counters stay, gauges of the dead go, files do not pile up."""

from __future__ import annotations

import http.client
import os
import random
import signal
import threading
import time
from dataclasses import dataclass, field

import pytest
from support.service_app import MODEL, customers, profile
from support.serving import MODES, Scrape, falls, serve, until

ROWS = 2  # of each request
BATCH = 512  # requests at most that a worker has taken and not yet published
LATE_SECONDS = 0.5  # it publishes at each tick, and on a loaded machine the next one may be late
IN_FLIGHT = 30
# Kills, and seconds of a tick: with short ones there is less to lose, and the dead are folded while others join.
KILLS = [("gunicorn-preload", 20, 0.05), ("uvicorn", 2, 0.2), ("granian", 2, 0.2)]
SOAKED = [("gunicorn", 200, 1.0), ("uvicorn", 100, 1.0), ("granian", 100, 1.0)]


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """Path of the service's reference."""
    path = tmp_path_factory.mktemp("reference") / "reference.json"
    profile().save(path)
    return path


class Load:
    """Threads that send requests all the time, each over one connection that it opens again when it breaks.

    Attributes
    ----------
    tried
        Requests sent, in all.
    answered
        When each 200 came, and from which worker.
    wrong
        Responses of another status.
    """

    def __init__(self, server, threads=4):
        self._server = server
        self._ends = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(threads)]
        self.tried = 0
        self.answered: list[tuple[float, int]] = []
        self.wrong: list[object] = []

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._ends.set()
        for thread in self._threads:
            thread.join()

    def _run(self, number):
        rows = customers(ROWS, number)
        connection = self._server.connect()
        while not self._ends.wait(0.002):  # pace, not synchronisation: others need the processor too
            with self._lock:
                self.tried += 1
            try:
                answer = connection.post("/predict", rows)
            except (OSError, http.client.HTTPException):
                connection.close()
                continue
            with self._lock:
                if answer.status == 200:
                    self.answered.append((time.monotonic(), answer.pid))
                else:
                    self.wrong.append(answer)
        connection.close()

    def of(self, pid, since):
        """How many of a worker's responses came since then."""
        with self._lock:
            return sum(1 for when, whose in self.answered if whose == pid and when >= since)


class Scraper:
    """A thread that scrapes all the time; what it saw is in `seen`, and in `failed` why it could not go on."""

    def __init__(self, server):
        self._server = server
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.seen: list[Scrape] = []
        self.failed: list[BaseException] = []

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._ends.set()
        self._thread.join()

    def _run(self):
        pause = random.Random(7)
        try:
            while not self._ends.wait(pause.uniform(0.02, 1.2)):  # also such that much is not yet shown at a kill
                self.seen.append(self._server.scrape())
        except BaseException as error:  # noqa: BLE001 - looked at by the test
            self.failed.append(error)


@dataclass
class Killed:
    """What was seen while workers were killed, and after."""

    mode: str
    kills: int
    tried: int = 0
    acknowledged: int = 0
    at_stake: int = 0  # what the victims may have taken since they last published
    wrong: list = field(default_factory=list)
    scrapes: list[Scrape] = field(default_factory=list)
    failed: list = field(default_factory=list)
    final: Scrape | None = None
    files: int = 0
    in_flight: list[tuple[int, Scrape]] = field(default_factory=list)  # requests that wait, and what the page says


def files_of(server):
    """All files of the workers, of whatever kind."""
    return [path for path in server.shared.rglob("*") if not path.is_dir()]


def is_quiet(server):
    """Whether no more files are left than the living have, and a few of all together."""
    return len(files_of(server)) <= 2 * server.workers + 4


def kill_under_load(server, kills, tick):
    """Kill workers drawn by lot while requests and scrapes come, then look at what is left."""
    killed = Killed(server.mode, kills)
    chance = random.Random(kills)
    server.killing = True
    with Load(server) as load, Scraper(server) as scraper:
        for number in range(kills):
            until(lambda: len(server.worker_pids()) == 3, "three workers live", 60)
            enough = len(load.answered) + chance.randrange(20, 400)
            until(lambda enough=enough: len(load.answered) >= enough, f"responses before kill {number}", 60)
            victim = chance.choice(server.mortal_pids())
            now = time.monotonic()
            server.kill_worker(pid=victim)
            killed.at_stake += min(BATCH, load.of(victim, now - 2 * tick - LATE_SECONDS))
        until(lambda: len(server.worker_pids()) == 3, "three workers live", 60)
        at_end = len(load.answered) + 50
        until(lambda: len(load.answered) >= at_end, "responses after the last kill", 60)
        until(lambda: scraper.failed or len(scraper.seen) >= 2 + kills // 10, "scrapes beside the requests", 60)
    until(lambda: server.scrape().total("model_workers") == 3, "three workers live and count", 60)
    killed.tried, killed.acknowledged, killed.wrong = load.tried, len(load.answered), load.wrong
    killed.failed = scraper.failed
    killed.final = server.scrape()
    killed.scrapes = [*scraper.seen, killed.final]
    until(lambda: is_quiet(server), f"the files of the dead go: {[path.name for path in files_of(server)]}", 15)
    killed.files = len(files_of(server))
    kill_in_flight(server, killed)
    return killed


def kill_in_flight(server, killed):
    """Kill workers, one after the other, while they answer requests that take for ever."""
    flying = [server.connect() for _ in range(IN_FLIGHT)]
    for connection in flying:
        connection.begin("/predict?wait=600", customers(ROWS, 1))
    until(lambda: in_flight(server.scrape())[0] >= IN_FLIGHT, "all requests are in progress")
    for pid in [0, *server.mortal_pids()]:
        if pid:
            server.kill_worker(pid=pid)
            until(lambda: server.scrape().total("model_workers") == 3, "three workers live and count", 60)
        killed.in_flight.append((sum(connection.open for connection in flying), server.scrape()))
    server.killing = False
    for connection in flying:
        connection.close()


def in_flight(scrape):
    """Requests that the page says are being answered: of the model, of all routes."""
    return scrape.total("model_requests_in_progress"), scrape.total("http_server_active_requests")


@pytest.fixture(
    scope="module",
    params=[
        *(pytest.param(one, id=f"{one[0]}-{one[1]}") for one in KILLS),
        *(pytest.param(one, id=f"{one[0]}-{one[1]}", marks=pytest.mark.soak) for one in SOAKED),
    ],
)
def killed(request, reference, tmp_path_factory):
    """What was seen while workers of a server were killed under load."""
    mode, kills, tick = request.param
    with serve(mode, tmp_path_factory.mktemp(mode), reference, env={"SERVICE_TICK": str(tick)}) as server:
        return kill_under_load(server, kills, tick)


def test_no_scrape_fails_while_workers_are_killed(killed):
    """Each scrape that a living worker takes is answered with 200 and can be read, and no request with an error."""
    assert killed.failed == []
    assert killed.wrong == []
    assert len(killed.scrapes) >= 2 + killed.kills // 10


def test_no_counter_falls_while_workers_are_killed(killed):
    """What a scrape has shown, no later one takes back: counters, and rows in the window."""
    assert falls(killed.scrapes) == []
    rows = [scrape.total("model_drift_window_rows") for scrape in killed.scrapes]
    assert rows == sorted(rows)


def test_a_kill_costs_at_most_what_was_not_yet_published(killed, capsys):
    """Of the requests that clients saw answered, a killed worker takes its last moment with it, at most one batch."""
    counted = killed.final.total("model_request_total", **MODEL)
    rows = killed.final.total("model_rows_total", **MODEL)
    window = killed.final.total("model_drift_window_rows", **MODEL)
    lost = killed.acknowledged - counted
    with capsys.disabled():
        print(  # noqa: T201 - what a kill costs is a number to be read
            f"\n{killed.mode}: {killed.kills} kills, {killed.acknowledged} requests acknowledged of {killed.tried}, "
            f"{lost:g} not counted ({lost / killed.kills:.1f} a kill; at stake {killed.at_stake}), "
            f"{len(killed.scrapes)} scrapes, {killed.files} files left"
        )
    assert killed.at_stake < killed.acknowledged  # or the next lines would say nothing
    assert killed.acknowledged - killed.at_stake <= counted <= killed.tried
    assert ROWS * (killed.acknowledged - killed.at_stake) <= rows <= ROWS * killed.tried
    assert ROWS * (killed.acknowledged - killed.at_stake) <= window <= ROWS * killed.tried


def test_features_stay_in_step_after_kills(killed):
    """What was lost was lost of all features alike: each has the same number of rows in its bins."""
    rows = dict.fromkeys(killed.final.by("model_feature_window_rows", "feature"), 0.0)
    assert len(rows) == 5
    for key, value in killed.final.where("model_feature_bin_total").items():
        rows[dict(key[1])["feature"]] += value
    assert set(rows.values()) == {killed.final.total("modelwatch_rows_total", outcome="recorded")}


def test_gauges_are_those_of_the_living(killed):
    """Three workers are counted, and of the requests in progress only those whose worker has not been killed."""
    assert killed.in_flight[0][0] == IN_FLIGHT
    for waiting, scrape in killed.in_flight:
        assert in_flight(scrape) == (waiting, waiting)
        assert scrape.total("model_workers") == 3
    assert falls([killed.final, *(scrape for _, scrape in killed.in_flight)]) == []
    left = killed.in_flight[-1][0]
    assert left == 0 or (MODES[killed.mode].gives_up and left < IN_FLIGHT)


def newer(server, when):
    """Whether every worker has published since then."""
    published = [path for path in files_of(server) if path.suffix == ".counts"]
    return len(published) >= 3 and all(path.stat().st_mtime >= when for path in published)


def test_nothing_is_needed_from_a_farewell(reference, tmp_path):
    """All workers killed at once, without a scrape before: a second after the last response everything is safe."""
    with serve("gunicorn-preload", tmp_path / "server", reference) as server:
        server.send([customers(ROWS, seed) for seed in range(150)])
        ended = time.time()
        until(lambda: newer(server, ended), "all workers have published")
        before = server.worker_pids()
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        until(lambda: len(server.worker_pids() - before) == 3, "three new workers live")
        scrape = server.scrape()
        assert scrape.total("model_request_total", **MODEL) == 150
        assert scrape.total("model_drift_window_rows", **MODEL) == 150 * ROWS


def age(server, generations):
    """Send requests until so many workers have come and gone; returns how many requests, and all pids."""
    pids, sent = set(), 0
    while len(pids) < generations + server.workers:
        pids |= set(server.send([customers(ROWS, seed) for seed in range(30)]))
        sent += 30
    return sent, pids


def cost(server):
    """The least time of some scrapes, in seconds: whatever else the machine does only adds to it."""
    return min(server.scrape().seconds for _ in range(15))


@pytest.mark.parametrize("generations", [15, pytest.param(60, marks=pytest.mark.soak)])
def test_workers_that_end_of_age_leave_only_counts(reference, tmp_path, generations):
    """Generations of `--max-requests` later the total is exact, files are few, and a scrape costs what it did."""
    with serve("gunicorn-max-requests", tmp_path / "server", reference) as server:
        before, early = cost(server), server.scrape()
        sent, pids = age(server, generations)
        until(lambda: is_quiet(server), "the files of the dead go", 15)
        late, after = server.scrape(), cost(server)
    assert late.total("model_request_total", **MODEL) == sent
    assert late.total("http_server_request_duration_seconds_count", http_route="/predict") == sent
    assert late.total("model_rows_total", **MODEL) == sent * ROWS
    assert falls([early, late]) == []
    assert after <= 3 * before
    texts = {value for _, labels in late.samples for _, value in labels}
    assert texts.isdisjoint(map(str, pids))


def bury(home, good, numbers):
    """Leave the file of a worker that has died, once for each number; returns the last one."""
    for number in numbers:
        hidden, path = home / f".90000-{number:012x}-new", home / f"{90000 + number}-{number:012x}.counts"
        hidden.write_bytes(good)
        hidden.rename(path)
    return path


def test_interrupted_fold_counts_nothing_twice(reference, tmp_path):
    """Who folds the dead may die before it has removed their files: they count once all the same, and then they go."""
    with serve("gunicorn-preload", tmp_path / "server", reference, env={"SERVICE_TICK": "0.1"}) as server:
        server.send([customers(ROWS, seed) for seed in range(90)])
        home = next(server.shared.rglob("*.alive")).parent
        first = server.scrape().total("model_request_total", **MODEL)
        good = next(path for path in home.iterdir() if path.suffix == ".counts" and path.name != "past.counts")
        bytes_of_one = good.read_bytes()
        shown = []
        for number in range(4):
            dead = bury(home, bytes_of_one, [number])
            until(lambda dead=dead: not dead.exists(), "the file of the dead goes")
            if number < 2:
                bury(home, bytes_of_one, [number])  # there again, as if it had never been removed
            shown += [server.scrape().total("model_request_total", **MODEL) for _ in range(5)]
        until(lambda: not list(home.glob("9*-00000000000?.counts")), "the files of all dead go")
    each = shown[0] - first
    assert each > 0
    assert shown == [first + number * each for number in (1, 2, 3, 4) for _ in range(5)]


def test_a_thousand_dead_workers_cost_no_more_than_ten(reference, tmp_path):
    """The dead are folded into one file: a scrape is as fast after a thousand as after ten, and all are counted."""
    with serve("gunicorn-preload", tmp_path / "server", reference) as server:
        server.send([customers(ROWS, seed) for seed in range(90)])
        assert server.scrape().total("model_request_total", **MODEL) == 90
        home = next(server.shared.rglob("*.alive")).parent
        good = next(path for path in home.iterdir() if path.suffix == ".counts" and path.name != "past.counts")
        bytes_of_one = good.read_bytes()
        scrapes, costs = [server.scrape()], []
        for numbers in (range(10), range(10, 1010)):
            bury(home, bytes_of_one, numbers)
            scrapes.append(server.scrape())
            until(lambda: is_quiet(server), "the files of the dead go")
            costs.append(cost(server))
            scrapes.append(server.scrape())
    shown = [scrape.total("model_request_total", **MODEL) for scrape in scrapes]
    each = (shown[1] - shown[0]) / 10
    assert each > 0
    assert shown == [90, 90 + 10 * each, 90 + 10 * each, 90 + 1010 * each, 90 + 1010 * each]
    assert falls(scrapes) == []
    assert costs[1] <= 2 * costs[0]
