"""The shipped rules over a fleet that lives: what Prometheus records is what numpy says of all rows served."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import yaml
from support import replica_app
from support.prometheus import HOST, prometheus

from modelwatch.demo.stage import free_ports

RULES = Path(__file__).parents[2] / "grafana" / "rules" / "modelwatch-fleet.yml"
REPLICAS = 3
SHIFTS = (0.2, 0.5, 0.8)  # of the replicas: that they differ is the hard case, see `weights`
REFERENCE = replica_app.customers(4000, seed=1)
BATCH = 100
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Replica:
    """One process of the service, which keeps its port when it is started anew."""

    def __init__(self, directory: Path, reference: Path, number: int, port: int) -> None:
        self.port, self.number, self.served = port, number, []
        self.target = f"{HOST}:{self.port}"
        self._log = directory / f"replica-{number}.log"
        paths = [str(Path(replica_app.__file__).parent), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
        plain = {name: value for name, value in os.environ.items() if not name.upper().startswith("MODELWATCH_")}
        self._environment = plain | {
            "PYTHONPATH": os.pathsep.join(os.path.abspath(path) for path in paths if path),
            "SERVICE_REFERENCE": str(reference),
            "MODELWATCH_DIR": str(directory / "shared"),
            "OMP_NUM_THREADS": "1",
        }
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "uvicorn", "replica_app:app", "--host", HOST, "--port", str(self.port)]
        with open(self._log, "wb") as output:
            self.process = subprocess.Popen(
                [*command, "--no-access-log"],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def restart(self) -> None:
        """Another process, which begins at 0."""
        self.stop()
        self.served = []
        self.start()

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def serve(self, rows: list[dict]) -> None:
        """Send rows, and keep which they were."""
        for first in range(0, len(rows), BATCH):
            batch = rows[first : first + BATCH]
            asked = urllib.request.Request(
                f"http://{self.target}/predict", json.dumps(batch).encode(), {"content-type": "application/json"}
            )
            with _DIRECT.open(asked, timeout=30) as response:
                assert response.status == 200
            self.served += batch


@pytest.fixture
def fleet(tmp_path):
    """Three replicas that have begun to start; a Prometheus that scrapes them each second, with the shipped rules."""
    reference = tmp_path / "reference.json"
    replica_app.profile(REFERENCE).save(reference)
    ports = free_ports([0] * REPLICAS)
    replicas = [Replica(tmp_path, reference, number, port) for number, port in enumerate(ports)]
    try:
        targets = {"shop": [replica.target for replica in replicas]}
        with prometheus(tmp_path / "prometheus", targets=targets, rules=[each_second(tmp_path)]) as server:
            yield replicas, server
    finally:
        for replica in replicas:
            replica.stop()


def each_second(directory):
    """A copy of the shipped rules that are evaluated each second, without those of a day."""
    rules = yaml.safe_load(RULES.read_text("utf-8"))
    rules["groups"] = [group | {"interval": "1s"} for group in rules["groups"] if "24h" not in group["name"]]
    path = directory / "rules.yml"
    path.write_text(yaml.safe_dump(rules), "utf-8")
    return path


def seen(server, replica, rows):
    """Wait until Prometheus has scraped so many rows from a replica; zero: until it has seen it begin."""
    counted = f'sum(model_feature_bin_total{{instance="{replica.target}", feature="plan"}})'
    server.until(
        lambda: (
            [point.value for point in server.query(counted)] == [rows]
            and server.value(f'up{{instance="{replica.target}"}}') == 1
        ),
        f"{rows} rows of replica {replica.number} are scraped",
    )


def distributions(rows):
    """By feature: the share of the reference in each bin, and how many of these rows, from the raw values."""
    ages, then = ([row["age"] for row in some if row["age"] is not None] for some in (rows, REFERENCE))
    edges = np.unique(np.quantile(then, [k / 10 for k in range(1, 10)]))
    cut = [np.bincount(np.searchsorted(edges, some, side="right"), minlength=len(edges) + 1) for some in (then, ages)]
    found = {"age": (cut[0] / len(then), cut[1])}
    for name in ("visits", "plan"):
        now, known = Counter(row[name] for row in rows), Counter(row[name] for row in REFERENCE)
        other = sum(count for value, count in now.items() if value not in known)
        shares = np.array([*known.values(), 0]) / len(REFERENCE)
        found[name] = (shares, np.array([*(now[value] for value in known), other]))
    return found


def statistics(p, q):
    """PSI, Jensen-Shannon divergence and Kolmogorov-Smirnov statistic of two vectors of shares."""
    clipped, against = np.maximum(p, 1e-6), np.maximum(q, 1e-6)
    middle = (p + q) / 2
    halves = [np.sum(x[x > 0] * np.log2(x[x > 0] / middle[x > 0])) for x in (p, q)]
    return {
        "psi": np.sum((against - clipped) * np.log(against / clipped)),
        "js_divergence": np.sum(halves) / 2,
        "ks_statistic": np.abs(np.cumsum(p) - np.cumsum(q)).max(),
    }


def weights(server, replicas, at):
    """By how much `increase` overstates the rows of each replica, in an evaluation at this time.

    It divides by the time between the first and the last sample of a series, and multiplies by the time of the window
    that it takes the series to have lived: here from the first sample, which is 0, to the end of the window. So all
    rows of a replica weigh the same, and none of its shares is off; but of two replicas the one whose last scrape is
    longer ago weighs more, by a scrape interval over the age of the fleet at most. At 15 s that is 0.4 % in an hour.
    """
    found = []
    for replica in replicas:
        samples = f'model_feature_bin_total{{instance="{replica.target}", feature="plan", bin="pro"}}[1h]'
        [series] = server.api("query", query=samples, time=at)["result"]
        times = [float(time) for time, _ in series["values"]]
        found.append((at - times[0]) / (times[-1] - times[0]) if len(times) > 1 else np.inf)
    return found


class Evaluation:
    """What the rules recorded last, and whether Prometheus had all rows by then."""

    def __init__(self, server, replicas):
        self.at = server.value("max(timestamp(modelwatch:feature_psi:1h))")
        # A second before: a scrape that was still under way is of that time too, and the rules did without it.
        counted = 'sum by (instance) (model_feature_bin_total{feature="plan"})'
        known = server.values(counted, "instance", self.at - 1)
        self.complete = all(known.get(replica.target) == len(replica.served) for replica in replicas)
        self.weights = weights(server, replicas, self.at)
        self.recorded = {
            (statistic, feature): value
            for statistic in ("psi", "js_divergence", "ks_statistic")
            for feature, value in server.values(f"modelwatch:feature_{statistic}:1h", "feature", self.at).items()
        }

    @property
    def spread(self):
        """By how much one replica outweighs another."""
        return max(self.weights) / min(self.weights) - 1


def expected(parts, weights):
    """The statistics of the union of some parts, each row of a part with its weight."""
    cut = [distributions(part) for part in parts]
    found = {}
    for feature, (then, _) in cut[0].items():
        union = sum(weight * one[feature][1] for weight, one in zip(weights, cut, strict=True))
        found |= {(name, feature): value for name, value in statistics(then, union / union.sum()).items()}
    # Bins of single values have a rest bin beside them, which has no place in an order.
    return {key: value for key, value in found.items() if key[0] != "ks_statistic" or key[1] == "age"}


def test_the_fleet_is_one_service(fleet):
    """PSI, JS and KS of three replicas, one of them started anew, are those of the union of the rows, within 1 %."""
    replicas, server = fleet
    _, middle, _ = replicas
    parts = []  # each the rows that one process has served

    def serve(rows, shifts):
        for replica, shift in zip(replicas, shifts, strict=True):
            replica.serve(replica_app.customers(rows, seed=len(parts), shift=shift))
            parts.append((replica.number, replica.served[-rows:]))

    for replica in replicas:
        seen(server, replica, 0)  # what came before its first scrape Prometheus cannot tell from what was always there
    serve(1500, SHIFTS)
    seen(server, middle, 1500)  # what a process counts after its last scrape is lost, whatever the rules do
    middle.restart()
    seen(server, middle, 0)
    serve(1000, SHIFTS[::-1])
    found = server.until(
        lambda: (last := Evaluation(server, replicas)).complete and last.spread < 0.05 and last, "an even evaluation"
    )
    union = expected([rows for _, rows in parts], [1.0] * len(parts))
    assert found.recorded.keys() == union.keys()
    off = {key: abs(found.recorded[key] - value) for key, value in union.items()}
    assert off.pop(("ks_statistic", "age")) < 0.005
    assert max(value / union[key] for key, value in off.items()) < 0.01, off

    def exact():
        last = Evaluation(server, replicas)
        weighed = expected([rows for _, rows in parts], [last.weights[number] for number, _ in parts])
        return last.recorded == pytest.approx(weighed, rel=1e-9)

    server.until(exact, "an evaluation that is off by the weights of the replicas and by nothing else")
