"""`modelwatch grafana export`, `rules export`, `k8s export`: what is written, what is left alone, and what is said."""

from __future__ import annotations

import json
import os
import re
import shlex
import stat
from pathlib import Path

import pytest
import yaml
from support.promtool import run

from modelwatch.cli import main
from modelwatch.exporting import rule_files
from modelwatch.fleet.alerts import alert_groups
from modelwatch.fleet.folder import write
from modelwatch.fleet.kubernetes import MOST_BYTES
from modelwatch.fleet.options import RuleOptions
from modelwatch.fleet.recording import fleet_groups
from modelwatch.fleet.shipped import dashboards, shipped, shipped_files

CHECKOUT = Path(__file__).parents[1] / "grafana"


@pytest.fixture
def command(capsys):
    """Runs `modelwatch …` and returns its exit code, stdout and stderr."""

    def run_it(*arguments):
        with pytest.raises(SystemExit) as exit_:
            main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return exit_.value.code, out, err

    return run_it


def tree(directory):
    """The text of every file below a directory by its path."""
    return {
        str(path.relative_to(directory)): path.read_text("utf-8") for path in directory.rglob("*") if path.is_file()
    }


def test_rules_are_written_and_good(command, tmp_path):
    """`rules export` makes the directory and both files, which promtool takes, and says how to go on."""
    code, out, err = command("rules", "export", tmp_path / "a" / "rules")
    assert (code, err) == (0, "")
    files = tree(tmp_path / "a" / "rules")
    assert sorted(files) == ["modelwatch-alerts.yml", "modelwatch-fleet.yml"]
    assert yaml.safe_load(files["modelwatch-fleet.yml"]) == fleet_groups(RuleOptions())
    assert yaml.safe_load(files["modelwatch-alerts.yml"]) == alert_groups(RuleOptions())
    assert re.findall(r"rules/(\S+)\s+written$", out, re.MULTILINE) == ["modelwatch-fleet.yml", "modelwatch-alerts.yml"]
    [check] = re.findall(r"promtool (check .*)$", out, re.MULTILINE)
    assert run(tmp_path, *shlex.split(check)).returncode == 0
    assert "rule_files" in out


def test_every_option_of_the_rules_reaches_them(command, tmp_path):
    """The files are those of the same options in code."""
    options = RuleOptions(
        windows=("30m", "7d"), by=("region", "job"), statistics="all", slo=0.99, latency=0.5, latency_slo=0.95,
        latency_bounds=(0.1, 0.5), psi=0.25, min_rows=50, alert_rows=500, pending="10m", interval="30s",
        labels={"team": "risk", "tier": "1"}, runbook_url="https://example.com/runbook", dashboard_url="https://g",
    )  # fmt: skip
    code, _, err = command(
        "rules", "export", tmp_path, "--window=30m,7d", "--by", "region,job", "--statistics", "all", "--slo", "0.99",
        "--latency", "0.5", "--latency-slo", "0.95", "--latency-bounds", "0.1,0.5", "--psi", "0.25", "--min-rows", "50",
        "--alert-rows", "500", "--pending", "10m", "--evaluation-interval", "30s", "--label", "team=risk",
        "--label", "tier=1", "--runbook-url", "https://example.com/runbook", "--dashboard-url", "https://g",
    )  # fmt: skip
    assert (code, err) == (0, "")
    assert tree(tmp_path) == rule_files(options)


def test_grafana_is_written_whole(command, tmp_path):
    """`grafana export` writes all that is shipped, with the rules beside it, and no program."""
    code, out, err = command("grafana", "export", tmp_path)
    assert (code, err) == (0, "")
    files = tree(tmp_path)
    assert files == {**shipped_files(), **{f"rules/{name}": text for name, text in rule_files(RuleOptions()).items()}}
    assert set(files) >= {
        "README.md", "alertmanager.yml", "docker-compose.yml", "prometheus.yml", "runbook.md",
        "dashboards/modelwatch-drift.json", "rules/modelwatch-alerts.yml", "rules/modelwatch-fleet.yml",
    }  # fmt: skip
    assert len([name for name in files if name.startswith("provisioning/")]) >= 2
    assert {Path(name).suffix for name in files} == {".json", ".md", ".yml"}
    assert all(os.path.join(tmp_path, name) in out for name in files)


def test_alertmanager_groups_by_the_same_labels(command, tmp_path):
    """Where services are told apart by other labels, alerts are grouped and silenced by these, targets by their job."""
    assert command("grafana", "export", tmp_path, "--by", "region")[0] == 0
    configured = yaml.safe_load((tmp_path / "alertmanager.yml").read_text("utf-8"))
    [ours] = configured["route"]["routes"]
    assert ours["group_by"] == ["region", "model_name", "model_version", "category"]
    equal = {str(rule["source_matchers"]): rule["equal"] for rule in configured["inhibit_rules"]}
    assert equal.pop("['alertname=\"ModelwatchTargetDown\"']") == ["region", "job"]
    assert len(equal) == 4
    assert all(labels[:2] == ["region", "model_name"] for labels in equal.values())


def test_what_is_shipped_is_what_the_checkout_has():
    """The installed package carries the dashboards, rules and texts of the checkout, byte for byte, and no more."""
    assert (
        not [found for found in walk(shipped()) if found.endswith((".py", ".pyc"))] or Path(str(shipped())) == CHECKOUT
    )
    own = {
        str(path.relative_to(CHECKOUT)): path.read_text("utf-8")
        for path in CHECKOUT.rglob("*")
        if path.suffix in {".json", ".md", ".yml"}
    }
    assert shipped_files() == own
    assert all("modelwatch" in text for text in own.values())  # by which a file of ours is known


def walk(directory):
    for found in directory.iterdir():
        yield found.name
        if found.is_dir():
            yield from walk(found)


def test_shipped_rules_are_those_of_the_defaults():
    """The rule files in the checkout are what `rules export` writes without options."""
    for name, text in rule_files(RuleOptions()).items():
        assert (CHECKOUT / "rules" / name).read_text("utf-8") == text


def test_dashboards_ask_for_the_windows_that_are_recorded(command, tmp_path):
    """With other windows these can be chosen in the dashboards, and the first is; all else stays as it is."""
    code, _, err = command("grafana", "export", tmp_path, "--window", "30m,6h")
    assert (code, err) == (0, "")
    chosen = []
    for uid, text in dashboards().items():
        before, after = json.loads(text), json.loads((tmp_path / "dashboards" / f"{uid}.json").read_text("utf-8"))
        assert not re.search(r"modelwatch:feature_\w+:(increase)?\d", text)  # no query has a window of its own
        for variable, other in zip(before["templating"]["list"], after["templating"]["list"], strict=True):
            if variable["name"] == "window":
                chosen.append(other["query"])
                assert [option["value"] for option in other["options"]] == ["30m", "6h"]
                assert other["current"] == {"selected": True, "text": "30m", "value": "30m"}
                assert set(other) == set(variable)
                other.update(variable)
        assert after == before
    assert "30m,6h" in chosen
    assert ":30m" in (tmp_path / "rules" / "modelwatch-fleet.yml").read_text("utf-8")


def test_objects_for_a_cluster(command, tmp_path):
    """`k8s export` writes a file for each object, small enough for `kubectl apply`, and says how to apply them."""
    code, out, err = command(
        "k8s", "export", tmp_path, "--namespace", "models", "--label", "release=prometheus", "--selector", "app=bike",
        "--port", "8000", "--path", "/m", "--interval", "30s", "--token-secret", "bike:token", "--pod-label", "team",
        "--alert-label", "team=risk", "--folder", "Models", "--name", "bike", "--dashboards-namespace", "grafana",
        "--pods-namespace", "a,b", "--job-label", "tier", "--psi", "0.3",
    )  # fmt: skip
    assert (code, err) == (0, "")
    found = {name: yaml.safe_load(text) for name, text in tree(tmp_path).items()}
    names = {f"dashboard-{uid.removeprefix('modelwatch-')}.yaml" for uid in dashboards()}
    assert set(found) == names | {
        "kustomization.yaml", "podmonitor.yaml", "prometheusrule-fleet.yaml", "prometheusrule-alerts.yaml",
    }  # fmt: skip
    assert sorted(found["kustomization.yaml"]["resources"]) == sorted(set(found) - {"kustomization.yaml"})
    assert max(len(text.encode()) for text in tree(tmp_path).values()) < MOST_BYTES
    monitor = found["podmonitor.yaml"]
    assert monitor["metadata"]["labels"]["release"] == "prometheus"
    assert monitor["spec"]["podMetricsEndpoints"][0]["portNumber"] == 8000
    assert monitor["spec"]["namespaceSelector"] == {"matchNames": ["a", "b"]}
    assert monitor["spec"]["jobLabel"] == "tier"
    assert found["dashboard-drift.yaml"]["metadata"]["namespace"] == "grafana"
    options = RuleOptions(psi=0.3, labels={"team": "risk"})
    assert found["prometheusrule-alerts.yaml"]["spec"] == alert_groups(options)
    assert f"kubectl apply --server-side -k {tmp_path}" in out
    assert "app=bike" in out


def test_dashboards_in_a_cluster_are_those_of_grafana(command, tmp_path):
    """What a ConfigMap carries is the dashboard, and as a file the JSON is one line."""
    command("k8s", "export", tmp_path, "--namespace", "models")
    for uid, text in dashboards().items():
        made = yaml.safe_load((tmp_path / f"dashboard-{uid.removeprefix('modelwatch-')}.yaml").read_text("utf-8"))
        assert list(made["data"]) == [f"{uid}.json"]
        assert json.loads(made["data"][f"{uid}.json"]) == json.loads(text)


def test_again_is_as_once(command, tmp_path):
    """What is there of ours is replaced if it differs; other files stay, and no temporary one is left."""
    (tmp_path / "own.yml").write_text("mine")
    command("rules", "export", tmp_path)
    before = tree(tmp_path)
    _, out, _ = command("rules", "export", tmp_path)
    assert out.count("unchanged") == 2
    assert tree(tmp_path) == before
    _, out, _ = command("rules", "export", tmp_path, "--psi", "0.3")
    assert out.count("replaced") == 2
    assert sorted(tree(tmp_path)) == ["modelwatch-alerts.yml", "modelwatch-fleet.yml", "own.yml"]
    assert (tmp_path / "own.yml").read_text() == "mine"


def test_a_file_of_somebody_else_is_not_replaced(command, tmp_path):
    """Of a name of ours with a stranger's content nothing is written at all, and the file is named."""
    (tmp_path / "README.md").write_text("# My project\n")
    code, out, err = command("grafana", "export", tmp_path)
    assert (code, out) == (2, "")
    assert str(tmp_path / "README.md") in err
    assert tree(tmp_path) == {"README.md": "# My project\n"}


@pytest.mark.parametrize("inside", ["file", "directory"])
def test_no_link_leads_out(command, tmp_path, inside):
    """A link in the directory is neither followed nor replaced."""
    out, into = tmp_path / "elsewhere", tmp_path / "here"
    out.mkdir()
    into.mkdir()
    if inside == "directory":
        (into / "dashboards").symlink_to(out)
    else:
        (out / "file").write_text("modelwatch")
        (into / "alertmanager.yml").symlink_to(out / "file")
    code, _, err = command("grafana", "export", into)
    assert code == 2
    assert "Expected to be able to write" in err
    assert tree(out) == ({} if inside == "directory" else {"file": "modelwatch"})
    assert [path.name for path in into.iterdir()] == ["dashboards" if inside == "directory" else "alertmanager.yml"]


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_nothing_but_a_file_is_replaced(command, tmp_path, make):
    """A directory or a pipe by the name of a file of ours is left as it is, and not waited for."""
    make(tmp_path / "modelwatch-alerts.yml")
    code, _, err = command("rules", "export", tmp_path)
    assert code == 2
    assert "no regular file is there" in err
    assert [path.name for path in tmp_path.iterdir()] == ["modelwatch-alerts.yml"]


def test_the_directory_itself_may_be_a_link(command, tmp_path):
    """Who names a link means what it leads to."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert command("rules", "export", tmp_path / "link")[0] == 0
    assert len(tree(tmp_path / "real")) == 2


def test_files_can_be_read_by_others(tmp_path):
    """A file has the rights that the umask leaves, as if an editor had written it: Prometheus is another user."""
    before = os.umask(0o022)
    try:
        assert write(tmp_path / "new", {"a/b.yml": "modelwatch: 1\n"}) == {"a/b.yml": "written"}
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "new" / "a" / "b.yml").stat().st_mode) == 0o644


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["rules", "export", "DIR", "--latency", "0.3"], r"Expected the latency objective to be a bucket bound"),
        (["rules", "export", "DIR", "--slo", "1.5"], "Expected `slo`"),
        (["rules", "export", "DIR", "--window", "1h30m"], "Expected a length of time"),
        (["rules", "export", "DIR", "--by", "feature"], "Expected the name of a label"),
        (["rules", "export", "DIR", "--label", "team"], "expected NAME=VALUE, got 'team'"),
        (["rules", "export", "DIR", "--label", "=risk"], "expected NAME=VALUE, got '=risk'"),
        (["rules", "export", "DIR", "--psi", "much"], "argument --psi"),
        (["rules", "export", "DIR", "--latency-bounds", "1,b"], "expected numbers with commas"),
        (["rules", "export", "DIR", "--statistics", "some"], "argument --statistics"),
        (["k8s", "export", "DIR"], "--namespace"),
        (["k8s", "export", "DIR", "--namespace", "Models"], "Expected a namespace"),
        (["k8s", "export", "DIR", "--namespace", "m", "--token-secret", "bike"], "expected NAME:KEY"),
        (["k8s", "export", "DIR", "--namespace", "m", "--interval", "2m"], "at most 60s"),
        (["k8s", "export", "DIR", "--namespace", "m", "--port", "0"], "a port between 1 and 65535"),
        (["rules"], "export"),
        (["rules", "import", "DIR"], "export"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(command, tmp_path, arguments, said):
    """An option that cannot be used ends with exit code 2 and a sentence, and nothing is written."""
    code, out, err = command(*(tmp_path / "new" if word == "DIR" else word for word in arguments))
    assert (code, out) == (2, "")
    assert re.search(said, err)
    assert "Traceback" not in err
    assert not (tmp_path / "new").exists()


def test_a_directory_that_cannot_be_is_refused(command, tmp_path):
    """A file in the way, a directory without rights or a name that cannot be is a sentence too."""
    (tmp_path / "file").write_text("x")
    for directory in (tmp_path / "file", tmp_path / "file" / "below", "with\0nul", "x" * 300):
        code, out, err = command("rules", "export", directory)
        assert (code, out) == (2, "")
        assert err.startswith("modelwatch: Expected to be able to write ")
        assert err.rstrip().endswith("Choose another directory, best a new one.")
    assert "but a file is there and no directory." in command("rules", "export", tmp_path / "file")[2]


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    """What cannot be written whole is not written: the file that was there stays, and no half one beside it."""
    write(tmp_path, {"a.yml": "modelwatch: 1\n"})

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(ValueError, match="No space left on device"):
        write(tmp_path, {"a.yml": "modelwatch: 2\n"})
    assert tree(tmp_path) == {"a.yml": "modelwatch: 1\n"}


@pytest.mark.parametrize("verbs", [["grafana"], ["rules"], ["k8s"], ["grafana", "export"], ["rules", "export"],
                                   ["k8s", "export"]])  # fmt: skip
def test_help(command, verbs):
    """Every verb explains itself, and every option of it."""
    code, out, err = command(*verbs, "--help")
    assert (code, err) == (0, "")
    assert "usage: modelwatch" in out
    assert re.search(r"Writes .+\.", out)
