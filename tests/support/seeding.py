"""A Prometheus with a past: some hours of three replicas of the example service, one more model, and all rules over it.

    with seeded(directory, TESTS) as past:
        past.server.query("sum(model_request_total)", past.end)

What happens, in shares of the time: all is well; at 0.4 one replica gets a new version (a canary); from 0.5 it gets
warmer than in the training data; at 0.6 one replica loses a column for a while; at 0.7 there are errors, timeouts and
slow answers for some minutes; at 0.8 another replica is restarted. What was scraped becomes blocks of a real
Prometheus (`promtool tsdb create-blocks-from openmetrics`), then each level of the recording rules is evaluated over
it and becomes blocks too, and so do `ALERTS`, from the expressions of the alert rules.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from .prometheus import Line, Prometheus, configuration, prometheus, start

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "bike_demand"
RULES = ROOT / "grafana" / "rules"
_METRIC = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_DURATION = re.compile(r"(\d+)([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_RELEASE = 0.4
_COMPARED = "modelwatch:feature_bin:increase1h{"
_BLOCK_SECONDS = 7200
_OPTIONS = ("--query.max-samples=500000000", "--query.timeout=5m")


@dataclass(frozen=True)
class Story:
    """How much past there is.

    Attributes
    ----------
    hours, step
        How long it is, and the seconds between scrapes.
    requests
        Of a replica between two scrapes, in the mean.
    failing
        Share of the requests that fail while many do.
    warm, ramp
        Share of the rows of spring and summer at the end, and in what share of the story that comes about.
    idle
        Whether there is also a service that nobody asks anything.
    end
        When it ends, in seconds since 1970.
    """

    hours: float
    step: int
    requests: float
    failing: float
    warm: float
    ramp: float
    idle: bool = False
    end: float = 1_772_463_300.0  # 2026-03-02 14:55 UTC, not on a line of any axis
    seed: int = 4

    @property
    def steps(self) -> int:
        """Scrapes of a replica."""
        return int(self.hours * 3600 / self.step)

    @property
    def start(self) -> float:
        """When it begins."""
        return self.end - (self.steps - 1) * self.step


PICTURES = Story(hours=12, step=90, requests=7, failing=0.03, warm=0.75, ramp=0.28)
TESTS = Story(hours=2.5, step=150, requests=3, failing=0.3, warm=1.0, ramp=0.1, idle=True)


class Past(NamedTuple):
    """A Prometheus that has one."""

    server: Prometheus
    story: Story
    rules: tuple[Path, ...]

    @property
    def start(self) -> float:
        """When it begins."""
        return self.story.start

    @property
    def end(self) -> float:
        """When it ends."""
        return self.story.end


@contextmanager
def seeded(directory: Path, story: Story, rules: Sequence[Path] | None = None) -> Iterator[Past]:
    """A Prometheus that has all of the story in it, by these rule files or by those of the checkout."""
    files = sorted(RULES.glob("*.yml")) if rules is None else list(rules)
    storage, done = directory / "data", directory / "seeded"
    if not done.exists():
        shutil.rmtree(storage, ignore_errors=True)  # of one that was stopped
        live(directory, story)
        storage.mkdir()
        _blocks(sorted(directory.glob("life*.om")), storage)
        record(directory, story, files)
        done.touch()
    with prometheus(directory, config=configuration({}), storage=storage, options=_OPTIONS) as server:
        yield Past(server, story, tuple(files))


def live(directory: Path, story: Story) -> None:
    """Let the services live through the story; afterwards there is a file `life*.om` for each life of a replica."""
    directory.mkdir(parents=True, exist_ok=True)
    for path in EXAMPLE.iterdir():
        if path.is_file():
            shutil.copy(path, directory)
    _run([sys.executable, "train.py"], directory)
    plan = {"seed": story.seed, "start": story.start, "step": story.step, "lives": _lives(story)}
    (directory / "plan.json").write_text(json.dumps(plan), "utf-8")
    _run([sys.executable, str(Path(__file__).with_name("replicas.py")), str(directory)], directory)


def _lives(story: Story) -> list[dict[str, Any]]:
    steps, found = story.steps, []
    worked = list(itertools.accumulate(story.step * _moment(story, n / steps, "")["load"] for n in range(steps)))

    def add(
        job: str, instance: str, first: int, last: int, version: str, *, service: str = "bike", **more: Any
    ) -> None:
        moments = [
            _moment(story, number / steps, instance) | {"lived": number * story.step, "worked": worked[number]} | more
            for number in range(first, last)
        ]
        life = {"job": job, "instance": instance, "first": first, "last": last, "version": version}
        found.append(life | {"service": service, "moments": moments})

    release, crash = int(_RELEASE * steps), int(0.8 * steps)
    add("bike-demand", "replica-a:8000", 0, steps, "2011.1")
    add("bike-demand", "replica-b:8000", 0, crash, "2011.1")
    add("bike-demand", "replica-b:8000", crash, steps, "2011.1")
    add("bike-demand", "replica-c:8000", 0, release, "2011.1")
    add("bike-demand", "replica-c:8000", release, steps, "2011.2")
    add("late-flights", "flights-a:8000", 0, steps, "7", service="flights")
    add("late-flights", "flights-b:8000", 0, release, "7", service="flights")
    add("late-flights", "flights-b:8000", release, steps, "8", service="flights")
    for restarted in (found[2], found[4], found[7]):
        restarted["moments"][0]["down"] = True
    if story.idle:
        add("idle", "idle-a:8000", steps // 3, steps, "2011.1", requests=0.0)
    return found


def _moment(story: Story, at: float, instance: str) -> dict[str, float]:
    """How the service of a replica fares, and what it is asked, at a share of the story."""
    rhythm = 1 + 0.35 * math.sin(2 * math.pi * (at * 1.5 - 0.2))
    burst = 0.70 <= at < 0.74
    return {
        "requests": story.requests * rhythm,
        "warm": story.warm * min(max((at - 0.5) / story.ramp, 0.0), 1.0),
        "gaps": 0.25 if instance.startswith("replica-a") and 0.6 <= at < 0.75 else 0.0,
        "invalid": 0.03,
        "load": min(0.1 * story.requests * rhythm, 1.0),
        "errors": 0.7 * story.failing if burst else 0.0002,
        "timeouts": 0.3 * story.failing if burst else 0.0,
        "slow": 0.015 if burst else 0.004,
    }


def record(directory: Path, story: Story, files: Iterable[Path]) -> None:
    """Evaluate recording and alert rules over the past, level by level, as if they had been evaluated in it."""
    rules = [
        rule for path in files for group in yaml.safe_load(path.read_text("utf-8"))["groups"] for rule in group["rules"]
    ]
    for number, level in enumerate(levels([rule for rule in rules if "record" in rule])):
        _evaluated(directory, story, f"level{number}", level)
    alerts = [rule for rule in rules if "alert" in rule]
    if alerts:
        _evaluated(directory, story, "alerts", alerts)


def levels(rules: Sequence[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    """Recording rules, so that each level uses only what levels before it record."""
    names = {rule["record"] for rule in rules}
    found: list[list[Mapping[str, Any]]] = []
    known: set[str] = set()
    left = list(rules)
    while left:
        ready = [rule for rule in left if not (set(_METRIC.findall(rule["expr"])) & names) - known]
        assert ready, f"rules that need each other: {[rule['record'] for rule in left]}"
        left = [rule for rule in left if rule not in ready]
        known |= {rule["record"] for rule in ready} - {rule["record"] for rule in left}
        found.append(ready)
    return found


def _evaluated(directory: Path, story: Story, name: str, rules: Sequence[Mapping[str, Any]]) -> None:
    """Evaluate rules at every step, and add what comes to the data."""
    path = directory / f"{name}.om"
    server = start(directory, config=configuration({}), storage=directory / "data", options=_OPTIONS)
    try:
        with open(path, "w", encoding="utf-8") as file:
            for rule in rules:
                lines = server.query_range(rule["expr"], story.start, story.end, story.step)
                for line in lines if "record" in rule else alerts_of(rule, lines, story.step):
                    labels = line.labels | {key: str(value) for key, value in (rule.get("labels") or {}).items()}
                    metric = rule.get("record", "ALERTS")
                    labels.pop("__name__", None)
                    text = ",".join(f"{key}={_quoted(value)}" for key, value in labels.items())
                    file.writelines(f"{metric}{{{text}}} {_number(value)} {at:.3f}\n" for at, value in line.points)
    finally:
        server.stop()
    before = directory / f"{name}-before.om"
    with open(path, encoding="utf-8") as source, open(before, "w", encoding="utf-8") as file:
        file.writelines(_before(source, story))
    _blocks([path, before], directory / "data")


def _before(lines: Iterable[str], story: Story) -> Iterator[str]:
    """What the panels compare now with: a day and a week ago the counts were as just before the release."""
    release = story.start + int(_RELEASE * story.steps) * story.step
    for line in lines:
        if line.startswith(_COMPARED):
            start, _, at = line.rpartition(" ")
            if release - 600 <= float(at) < release:
                for ago in (86_400, 7 * 86_400):
                    yield f"{start} {float(at) + story.end - release - ago + story.step:.3f}\n"


def alerts_of(rule: Mapping[str, Any], lines: Iterable[Line], step: float) -> Iterator[Line]:
    """When an alert was pending and firing, by when its expression had a value."""
    wait, keep = _seconds(rule.get("for", "0s")), _seconds(rule.get("keep_firing_for", "0s"))
    for line in lines:
        pending, firing = [], []
        since, seen, fires = None, -math.inf, False
        present = {at for at, _ in line.points}
        first, last = line.points[0][0], line.points[-1][0] + keep
        at = first
        while at <= last:
            if at in present:
                since, seen = at if since is None else since, at
                fires = fires or at - since >= wait
            elif not fires or at - seen > keep:
                since, fires = None, False
            if since is not None:
                (firing if fires else pending).append((at, 1.0))
            at += step
        labels = line.labels | {"alertname": rule["alert"]}
        for state, points in (("pending", pending), ("firing", firing)):
            if points:
                yield Line(labels | {"alertstate": state}, points)


def _seconds(duration: str) -> float:
    return sum(int(number) * _SECONDS[unit] for number, unit in _DURATION.findall(str(duration)))


def _quoted(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)


def _number(value: float) -> str:
    return "NaN" if math.isnan(value) else repr(value).replace("inf", "Inf")


def _blocks(parts: Iterable[Path], storage: Path) -> None:
    """Add what is in OpenMetrics files to the data of a Prometheus that does not run.

    A block is two hours. `promtool` reads the whole file for each of them, so each gets a file of its own.
    """
    spans: dict[int, Any] = {}
    for part in parts:
        with open(part, encoding="utf-8") as source:
            for line in source:
                span = int(float(line[line.rindex(" ") :]) // _BLOCK_SECONDS)
                if span not in spans:
                    spans[span] = open(storage.parent / f"block{span}.om", "w", encoding="utf-8")  # noqa: SIM115
                spans[span].write(line)
    for file in spans.values():
        file.write("# EOF\n")
        file.close()
        _run(["promtool", "tsdb", "create-blocks-from", "openmetrics", "--quiet", file.name, str(storage)], storage)
        Path(file.name).unlink()


def _run(command: Sequence[str], directory: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.upper().startswith("MODELWATCH_")}
    if "PYTHONPATH" in environment:  # relative to here, and what runs is elsewhere
        paths = environment["PYTHONPATH"].split(os.pathsep)
        environment["PYTHONPATH"] = os.pathsep.join(map(os.path.abspath, paths))
    environment |= {"OMP_NUM_THREADS": "1", "MODELWATCH_EVENT_TIME": "true"}
    done = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (
        f"{command[:4]} ended with {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    )
