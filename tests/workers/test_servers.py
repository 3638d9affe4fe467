"""Several workers of real servers give one answer: whichever is asked, at once, and the same as a single process."""

from __future__ import annotations

import json
import shutil
import subprocess
import urllib.parse
import urllib.request
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
from fastapi import FastAPI
from prometheus_client import generate_latest
from support.service_app import MODEL, customers, profile, score
from support.serving import HOST, MODES, Answer, Scrape, end_group, falls, free_port, serve, until

import modelwatch
from modelwatch.metrics.catalogue import CATALOGUE

BATCHES = [customers(4, seed, shift=0.3) for seed in range(240)]
SCRAPES = {"hypercorn": 12, "granian": 12}  # smoke; the others get more
MERGED = {name for name, entry in CATALOGUE.items() if entry.merge == "merged"} - {"model_drift_window_seconds"}
# What rows alone decide, whatever the requests around them: a single process can be told them without a server.
OF_ROWS = {
    name
    for name, entry in CATALOGUE.items()
    if entry.layer in {"model", "quality", "drift"} and entry.merge == "sum" and "duration" not in name
}


@dataclass
class Seen:
    """What a server answered: how many requests each worker took, and all scrapes in order, first one at once."""

    mode: str
    answered: Counter
    scrapes: list[Scrape]


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """Path of the service's reference."""
    path = tmp_path_factory.mktemp("reference") / "reference.json"
    profile().save(path)
    return path


@pytest.fixture(scope="module")
def alone(reference):
    """What a single process shows that was told the same rows."""
    monitor = modelwatch.instrument(FastAPI(), **MODEL, reference=reference)
    for batch in BATCHES:
        scores = [score(row) for row in batch]
        monitor.record(batch, [prediction for prediction, _ in scores], [confidence for _, confidence in scores])
    return Scrape(Answer(200, generate_latest(monitor.registry), 0, {}), 0)


def watch(server, scrapes):
    """Send all batches, and scrape: at once, then by turns over new connections and from each worker."""
    answered: Counter = Counter()
    if MODES[server.mode].recycles:
        for start in range(0, len(BATCHES), 40):
            before = server.worker_pids()
            answered += server.send(BATCHES[start : start + 40])
            until(lambda before=before: before - server.worker_pids(), "a worker ends of age")
    else:
        answered += server.send(BATCHES)
    seen = [server.scrape()]
    pins = [None] if MODES[server.mode].recycles else [*server.reach_all().values()]
    while len(seen) < scrapes:
        seen.append(server.scrape(pins[len(seen) // 2 % len(pins)] if len(seen) % 2 else None))
    return Seen(server.mode, answered, seen)


@pytest.fixture(scope="module", params=list(MODES))
def seen(request, reference, tmp_path_factory):
    """What three workers of each kind of server answered."""
    with serve(request.param, tmp_path_factory.mktemp(request.param), reference) as server:
        return watch(server, SCRAPES.get(request.param, 40))


def check_totals(seen):
    """Every scrape shows every request, whoever took it."""
    totals = [
        (
            scrape.total("model_request_total", **MODEL),
            scrape.total("model_request_total", **MODEL, status="success"),
            scrape.total("http_server_request_duration_seconds_count", http_route="/predict"),
            scrape.total("model_rows_total", **MODEL),
        )
        for scrape in seen.scrapes
    ]
    requests, rows = len(BATCHES), sum(map(len, BATCHES))
    assert set(totals) == {(requests, requests, requests, rows)}


def test_every_scrape_shows_all_requests(seen):
    """Requests are spread over the workers, and each scrape of any of them, the first at once, shows them all."""
    assert len(seen.answered) >= 3
    assert len({scrape.pid for scrape in seen.scrapes}) >= 3
    check_totals(seen)


def test_no_counter_goes_backwards(seen):
    """Whichever workers answer one after the other, no counter, bucket or sum falls or disappears."""
    assert len(seen.scrapes[-1].cumulative) > 300
    assert falls(seen.scrapes) == []


def test_drift_is_bit_equal_whoever_answers(seen):
    """All workers compute the drift gauges of the same window: not one bit differs between any two scrapes."""
    first = seen.scrapes[0].named(MERGED)
    assert len({key[0] for key in first}) >= 20
    assert [scrape.pid for scrape in seen.scrapes if scrape.named(MERGED) != first] == []


def test_drift_is_that_of_a_single_process(seen, alone):
    """Three workers find the drift that one process finds in the same rows."""
    assert alone.by("model_feature_drift_detected", "feature")["age"] == 1
    assert alone.by("model_feature_drift_psi", "feature").keys() > {"age", "income", "plan", "prediction"}
    assert seen.scrapes[-1].named(MERGED) == pytest.approx(alone.named(MERGED), rel=1e-9, abs=1e-12)


def test_counters_of_rows_are_those_of_a_single_process(seen, alone):
    """Bins, violations, predictions and confidences add up over workers to what one process counts."""

    def of_rows(scrape):
        return {key: value for key, value in scrape.cumulative.items() if family(key[0]) in OF_ROWS}

    assert {name for name, _ in of_rows(alone)} >= {"model_feature_bin_total", "model_prediction_value_bucket"}
    # Sums with a fraction are cut to a millionth in each worker, so that the order in which they are added does not
    # matter; of those that end of age there are many.
    assert of_rows(seen.scrapes[-1]) == pytest.approx(of_rows(alone), rel=1e-9, abs=1e-4)


def family(name):
    """The metric that a sample belongs to."""
    for suffix in ("_bucket", "_count", "_sum"):
        if name.removesuffix(suffix) in CATALOGUE:
            return name.removesuffix(suffix)
    return name


def test_workers_are_counted(seen):
    """The page says how many workers there are, and that nothing is wrong with sharing."""
    expected = range(1, 7) if MODES[seen.mode].recycles else {3}  # old and new ones overlap
    for scrape in seen.scrapes:
        assert scrape.total("model_workers") in expected
        assert scrape.total("modelwatch_degraded") == 0
        assert scrape.total("modelwatch_segments_skipped_total") == 0
        assert scrape.total("modelwatch_internal_errors_total") == 0


def test_own_multiprocess_metrics_are_merged_too(reference, tmp_path):
    """With PROMETHEUS_MULTIPROC_DIR the service's own counters appear in the page, added up over the workers."""
    (tmp_path / "own").mkdir()
    env = {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path / "own")}
    with serve("gunicorn-preload", tmp_path / "server", reference, env=env) as server:
        seen = watch(server, 40)
    check_totals(seen)
    assert falls(seen.scrapes) == []
    assert {scrape.total("shop_orders_total") for scrape in seen.scrapes} == {len(BATCHES)}
    assert len({scrape.pid for scrape in seen.scrapes}) >= 3


class Prometheus:
    """A real one that scrapes a server each second."""

    def __init__(self, port):
        self.port = port

    def ask(self, query):
        """The values that a query finds."""
        url = f"http://{HOST}:{self.port}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
        try:
            with urllib.request.urlopen(url, timeout=10) as response:
                found = json.load(response)["data"]["result"]
        except OSError:
            return []
        return [float(one["value"][1]) for one in found]


@contextmanager
def prometheus(directory, target):
    """Start a Prometheus that scrapes a port of ours; afterwards it is gone."""
    directory.mkdir()
    config = directory / "prometheus.yml"
    config.write_text(
        "global: {scrape_interval: 1s, scrape_timeout: 1s}\n"
        f'scrape_configs: [{{job_name: workers, static_configs: [{{targets: ["{HOST}:{target}"]}}]}}]\n'
    )
    port = free_port()
    command = [shutil.which("prometheus"), f"--config.file={config}", f"--storage.tsdb.path={directory / 'data'}"]
    with open(directory / "prometheus.log", "wb") as log:
        process = subprocess.Popen(
            [*command, f"--web.listen-address={HOST}:{port}", "--log.level=warn"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        yield Prometheus(port)
    finally:
        end_group(process.pid)
        process.wait()


@pytest.mark.skipif(shutil.which("prometheus") is None, reason="needs the program prometheus; `make test` sees to it")
def test_prometheus_sees_no_reset(reference, tmp_path):
    """A real Prometheus sees no counter reset and every request, though each worker that it may ask is killed once.

    It keeps its connection, and so its worker, as long as that lives. The counts that a killed worker had not shown
    are lost; so all is shown before a kill.
    """
    with (
        serve("gunicorn-preload", tmp_path / "server", reference) as server,
        prometheus(tmp_path / "prometheus", server.port) as seen,
    ):
        until(lambda: seen.ask("sum(model_request_total)") == [0], "Prometheus scrapes")
        sent = 0
        for victim in [*sorted(server.worker_pids()), None]:
            server.send(BATCHES[:40])
            sent += 40
            assert server.scrape().total("model_request_total") == sent
            until(lambda sent=sent: seen.ask("sum(model_request_total)") == [sent], f"Prometheus knows {sent}")
            if victim is not None:
                server.kill_worker(pid=victim)
        names = {name for name, _ in server.scrape().cumulative}
        assert [name for name in names if seen.ask(f"sum(resets({name}[1h]))") != [0]] == []
        assert seen.ask("sum(model_request_total)") == [sent] == [160]
        assert seen.ask("model_workers") == [3]
