"""How long a real Prometheus takes for the recording rules of one window, over a fleet that it has an hour of."""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from modelwatch.fleet.options import RuleOptions
from modelwatch.fleet.recording import fleet_groups
from modelwatch.fleet.writing import to_yaml

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))
from support.prometheus import configuration, prometheus

FEATURES, BINS, REPLICAS = 100, 10, 10
SECONDS, STEP = 3600, 15
EVALUATIONS = 7


def measure() -> dict[str, float] | None:
    """Median seconds of an evaluation, by group; None without a Prometheus."""
    if shutil.which("prometheus") is None or shutil.which("promtool") is None:
        return None
    with tempfile.TemporaryDirectory(prefix="modelwatch-bench-") as name:
        directory = Path(name)
        with open(directory / "fleet.txt", "w", encoding="ascii") as file:
            write_fleet(file, int(time.time()))
        command = ["promtool", "tsdb", "create-blocks-from", "openmetrics", "fleet.txt", "data"]
        subprocess.run(command, cwd=directory, check=True, capture_output=True)
        rules = directory / "fleet.yml"
        options = RuleOptions(windows=("1h",), statistics="all", interval="3s")
        rules.write_text(to_yaml(fleet_groups(options)), "utf-8")
        with prometheus(directory, config=configuration({}, rules=[rules]), storage=directory / "data") as server:
            found = evaluations(server)
            psi = "modelwatch:feature_psi:1h"
            assert len(server.query(psi)) == FEATURES, "the rules do not see the whole fleet"
            assert all(point.value < 0.01 for point in server.query(psi)), "every bin has its share"
    return {group: statistics.median(times) for group, times in found.items()}


def evaluations(server) -> dict[str, list[float]]:
    """Seconds of several evaluations of each group, but for the first ones, which read from a cold disk."""
    seen: dict[str, dict[str, float]] = {}

    def enough() -> bool:
        for group in server.api("rules")["groups"]:
            if not group["lastEvaluation"].startswith("0001"):
                seen.setdefault(group["name"], {})[group["lastEvaluation"]] = group["evaluationTime"]
        return bool(seen) and all(len(times) > EVALUATIONS for times in seen.values())

    server.until(enough, "the rules are evaluated", seconds=120)
    return {name: list(times.values())[1:] for name, times in seen.items()}


def write_fleet(file, end: int) -> None:
    """An hour of the counters of a fleet, as OpenMetrics: every bin gets a row in each step."""
    names = [
        f'job="bench",instance="replica-{replica}",model_name="bench",model_version="1",feature="feature_{feature:03}",'
        f'reference="0"'
        for replica in range(REPLICAS)
        for feature in range(FEATURES)
    ]
    bins = [f'bin="{index:02}"' for index in range(BINS)]
    file.write("# TYPE model_feature_bin counter\n")
    for name in names:
        for bin_ in bins:
            start = f"model_feature_bin_total{{{name},{bin_}}} "
            file.writelines(f"{start}{at // STEP} {end - SECONDS + at}\n" for at in range(0, SECONDS + 1, STEP))
    # Asked of Prometheus for the last five minutes only.
    last = range(end - 300, end + 1, STEP)
    for family, value in (("model_reference_bin_share", 1 / BINS), ("model_feature_reference_rows", 10_000)):
        file.write(f"# TYPE {family} gauge\n")
        for name in names:
            for labels in [f"{name},{bin_}" for bin_ in bins] if "bin" in family else [name.rpartition(",")[0]]:
                file.writelines(f"{family}{{{labels}}} {value} {at}\n" for at in last)
    file.write("# TYPE model_reference_info gauge\n")
    for replica in range(REPLICAS):
        labels = f'job="bench",instance="replica-{replica}",model_name="bench",model_version="1",reference="0"'
        file.writelines(f'model_reference_info{{{labels},source="file"}} 1 {at}\n' for at in last)
    file.write("# EOF\n")
