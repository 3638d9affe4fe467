"""Unit tests of rules by `promtool test rules`: series go in, and what Prometheus says of them is compared."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from modelwatch.fleet.alerts import alert_groups
from modelwatch.fleet.options import RuleOptions
from modelwatch.fleet.recording import fleet_groups

Group = dict[str, Any]


def series(name: str, values: str, **labels: object) -> dict[str, str]:
    """One input series: `series("up", "1x10 0x20", job="bike")`; values as promtool reads them."""
    pairs = ",".join(f"{label}={json.dumps(str(value))}" for label, value in labels.items())
    return {"series": f"{name}{{{pairs}}}", "values": values}


def groups_of(options: RuleOptions) -> list[Group]:
    """All groups of rules, those that record before those that alert."""
    return [group for make in (fleet_groups, alert_groups) for group in make(options)["groups"]]


def only(groups: Sequence[Group], alert: str) -> list[Group]:
    """The groups without the rules that one alert does not need."""
    wanted = [rule["expr"] for group in groups for rule in group["rules"] if rule.get("alert") == alert]
    wanted += [rule["annotations"]["description"] for group in groups for rule in group["rules"]
               if rule.get("alert") == alert]  # fmt: skip
    kept: list[Group] = []
    for group in reversed(groups):
        rules = []
        for rule in reversed(group["rules"]):
            if rule.get("alert") == alert or any(rule.get("record", "-") in text for text in wanted):
                rules.insert(0, rule)
                wanted.append(rule["expr"])
        if rules:
            kept.insert(0, {**group, "rules": rules})
    return kept


def run_tests(
    directory: Path, groups: Sequence[Group], tests: Sequence[Mapping[str, Any]], *, every: str = "1m"
) -> subprocess.CompletedProcess[str]:
    """What `promtool test rules` says of some tests of some groups, evaluated in their order."""
    (directory / "rules.yml").write_text(json.dumps({"groups": groups}), "utf-8")  # JSON is YAML too
    whole = {
        "rule_files": ["rules.yml"],
        "evaluation_interval": every,
        "group_eval_order": [group["name"] for group in groups],
        "tests": list(tests),
    }
    (directory / "tests.yml").write_text(json.dumps(whole), "utf-8")
    return run(directory, "test", "rules", "tests.yml")


def run(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run promtool in a directory."""
    return subprocess.run([program(), *arguments], capture_output=True, text=True, check=False, cwd=directory)


@cache
def program() -> str:
    """Where promtool is."""
    found = shutil.which("promtool")
    assert found is not None, "Expected the `promtool` program on PATH. Run tools/ensure_programs.sh."
    return found
