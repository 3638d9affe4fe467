"""The shipped Alertmanager configuration: who is told what, what comes in one message, and what keeps silent."""

from __future__ import annotations

import itertools
import re
import subprocess
from pathlib import Path

import pytest
import yaml
from support.alertmanager import alertmanager

CONFIG = Path(__file__).parents[2] / "grafana" / "alertmanager.yml"
ALERTS = CONFIG.with_name("rules") / "modelwatch-alerts.yml"
MATCHER = re.compile(r'(\w+)(=~|!~|=)"(.*)"')
MODEL = {"job": "shop", "model_name": "churn", "model_version": "1"}


@pytest.fixture(scope="module")
def config():
    """The configuration."""
    return yaml.safe_load(CONFIG.read_text("utf-8"))


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A real Alertmanager that has it."""
    with alertmanager(tmp_path_factory.mktemp("alertmanager"), config=CONFIG) as running:
        yield running


def amtool(*arguments):
    """What amtool prints; it must succeed."""
    done = subprocess.run(["amtool", *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


def test_alertmanager_takes_it():
    """Alertmanager's own tool finds nothing wrong."""
    assert "SUCCESS" in amtool("check-config", CONFIG)


TOLD = {
    ("info", "service"): "nobody",
    ("info", "drift"): "nobody",
    ("info", "staleness"): "nobody",
    ("info", "library"): "nobody",
    ("info", "model"): "nobody",
    ("info", "resources"): "nobody",
    ("warning", "service"): "service-team",
    ("warning", "resources"): "service-team",
    ("warning", "library"): "service-team",
    ("warning", "staleness"): "service-team",
    ("warning", "drift"): "model-team",
    ("warning", "quality"): "model-team",
    ("warning", "model"): "model-team",
    ("critical", "service"): "on-call",
    ("critical", "staleness"): "on-call",
    ("critical", "resources"): "on-call",
    ("critical", "library"): "on-call",
    ("critical", "drift"): "model-team",
    ("critical", "quality"): "model-team",
    ("critical", "model"): "model-team",
}


@pytest.mark.parametrize(("severity", "category"), TOLD)
def test_each_alert_goes_to_one_receiver(severity, category):
    """By severity and category: what breaks the service wakes somebody, drift goes to those who made the model."""
    labels = ("alertname=ModelwatchX", f"severity={severity}", f"category={category}", "job=shop")
    assert amtool("config", "routes", "test", f"--config.file={CONFIG}", *labels) == TOLD[severity, category]


@pytest.fixture(scope="module")
def shipped():
    """The labels of every shipped alert, by its name; some names are those of several."""
    groups = yaml.safe_load(ALERTS.read_text("utf-8"))["groups"]
    return [(rule["alert"], rule["labels"]) for group in groups for rule in group["rules"]]


def test_every_shipped_alert_has_a_place(shipped):
    """Each severity and category that the shipped alerts have is one whose receiver is tested here."""
    assert len(shipped) > 20
    assert {(labels["severity"], labels["category"]) for _, labels in shipped} <= TOLD.keys()


def test_inhibition_names_alerts_that_exist(shipped, config):
    """An alert that a rule of inhibition names is one of those that are shipped, and each rule applies to some."""
    for rule in config["inhibit_rules"]:
        for side in ("source_matchers", "target_matchers"):
            matchers = [MATCHER.fullmatch(matcher).groups() for matcher in rule[side]]
            assert any(
                all(matches({"alertname": name, **labels}, *one) for one in matchers) for name, labels in shipped
            )
            for label, operator, value in matchers:
                if label == "alertname" and not value.endswith(".+"):
                    head, _, many = value.partition("(")
                    names = [head + tail for tail in many.rstrip(")").split("|")] if many else [value]
                    assert set(names) <= {name for name, _ in shipped}, (operator, names)


def matches(labels, label, operator, value):
    """Whether labels match as Alertmanager would have it."""
    if operator == "=":
        return labels.get(label, "") == value
    found = re.fullmatch(value, labels.get(label, "")) is not None
    return found if operator == "=~" else not found


def test_alerts_of_others_are_left_alone(config):
    """An alert with another name takes the first route, and no rule of inhibition has to do with it."""
    labels = ("alertname=DiskFull", "severity=info", "category=drift")
    assert amtool("config", "routes", "test", f"--config.file={CONFIG}", *labels) == "service-team"
    for rule in config["inhibit_rules"]:
        for side in ("source_matchers", "target_matchers"):
            assert rule[side][0].startswith(('alertname="Modelwatch', 'alertname=~"Modelwatch'))


def test_alerts_of_one_model_in_one_respect_are_one_message(config):
    """Grouped is by model and category, not by feature or alert: twenty features that drift are one message."""
    [route] = config["route"]["routes"]
    assert route["group_by"] == ["cluster", "namespace", "job", "model_name", "model_version", "category"]
    assert all("group_by" not in nested for nested in route["routes"])


def test_every_receiver_is_used(config):
    """The receivers that are listed are those that alerts are sent to."""
    assert {receiver["name"] for receiver in config["receivers"]} == set(TOLD.values())


def alert(name, severity, category, **labels):
    """Labels of an alert of modelwatch's."""
    return {"alertname": f"Modelwatch{name}", "severity": severity, "category": category, **labels}


# What fires, what is therefore silent, and what is not for all that.
CASES = {
    "critical silences warning and info of the same model and category": (
        alert("ErrorBudgetBurn", "critical", "service", **MODEL),
        [alert("LatencyBudgetBurn", "warning", "service", **MODEL), alert("NoTraffic", "info", "service", **MODEL)],
        [
            alert("LatencyBudgetBurn", "critical", "service", **MODEL),
            alert("MemoryLimit", "warning", "resources", **MODEL),
            alert("LatencyBudgetBurn", "warning", "service", **(MODEL | {"model_name": "fraud"})),
            alert("LatencyBudgetBurn", "warning", "service", **(MODEL | {"model_version": "2"})),
            alert("LatencyBudgetBurn", "warning", "service", **(MODEL | {"job": "other"})),
            alert("LatencyBudgetBurn", "warning", "service", **MODEL, cluster="east"),
        ],
    ),
    "a critical one without a version does so too": (
        alert("ErrorBudgetBurn", "critical", "service", job="shop", model_name="churn"),
        [alert("LatencyBudgetBurn", "warning", "service", job="shop", model_name="churn")],
        [alert("LatencyBudgetBurn", "warning", "service", **MODEL)],
    ),
    "a data set silences its features": (
        # A warning here: so it is this rule that does it, and not that of the severities.
        alert("DatasetDrift", "warning", "drift", **MODEL),
        [alert("FeatureDrift", "warning", "drift", **MODEL, feature=name, reference="r") for name in ("age", "plan")],
        [
            alert("PredictionDrift", "warning", "drift", **MODEL),
            alert("MissingValues", "warning", "quality", **MODEL, feature="age"),
            alert("FeatureDrift", "warning", "drift", **(MODEL | {"model_version": "2"}), feature="age"),
        ],
    ),
    "a target that is gone silences what is said of the data of its job": (
        alert("TargetDown", "warning", "staleness", job="shop", instance="10.0.0.7:8000"),
        [
            alert("FeatureDrift", "warning", "drift", **MODEL, feature="age"),
            alert("DatasetDrift", "critical", "drift", **MODEL),
            alert("MissingValues", "warning", "quality", **MODEL, feature="age"),
            alert("AccuracyDrop", "critical", "model", **MODEL),
        ],
        [
            alert("ErrorBudgetBurn", "critical", "service", **MODEL),
            alert("CpuLimit", "warning", "resources", job="shop"),
            alert("FeatureDrift", "warning", "drift", **(MODEL | {"job": "other"}), feature="age"),
            alert("FeatureDrift", "warning", "drift", **MODEL, namespace="staging", feature="age"),
        ],
    ),
    "a model that is gone silences what is said of its data, in any version": (
        alert("ModelAbsent", "critical", "staleness", job="shop", model_name="churn"),
        [
            alert("FeatureDrift", "warning", "drift", **MODEL, feature="age"),
            alert("AccuracyDrop", "critical", "model", **(MODEL | {"model_version": "2"})),
        ],
        [
            alert("ErrorBudgetBurn", "critical", "service", **MODEL),
            alert("FeatureDrift", "warning", "drift", **(MODEL | {"model_name": "fraud"}), feature="age"),
        ],
    ),
    "no reference silences drift": (
        alert("ReferenceMissing", "info", "model", **MODEL),
        [alert("FeatureDrift", "warning", "drift", **MODEL), alert("DatasetDrift", "critical", "drift", **MODEL)],
        [
            alert("MissingValues", "warning", "quality", **MODEL),
            alert("FeatureDrift", "warning", "drift", **(MODEL | {"model_version": "2"})),
        ],
    ),
    "different references silence drift, whatever category they are counted to": (
        alert("ReferenceMismatch", "warning", "drift", **MODEL),
        [alert("FeatureDrift", "warning", "drift", **MODEL), alert("DatasetDrift", "critical", "drift", **MODEL)],
        [alert("MissingValues", "warning", "quality", **MODEL)],
    ),
}


@pytest.mark.parametrize("claim", CASES)
def test_what_one_alert_makes_silent(server, claim):
    """In a real Alertmanager one alert makes those silent that say the same again, and none besides."""
    source, silent, heard = CASES[claim]
    fired = [{**labels, "case": claim} for labels in (source, *silent, *heard)]
    # A case of its own in the job: what other cases fire must not silence anything here.
    fired = [{**labels, "job": f"{labels['job']} {list(CASES).index(claim)}"} for labels in fired]
    server.post(fired)

    def states():
        found = {key(one["labels"]): one["status"] for one in server.alerts() if one["labels"].get("case") == claim}
        return [found.get(key(labels), {"state": "not there"}) for labels in fired]

    # The alerts reach the inhibitor after the API has answered; once it has the source, it has all that it needs.
    expected = ["active", *["suppressed"] * len(silent), *["active"] * len(heard)]
    server.until(lambda: [one["state"] for one in states()[: 1 + len(silent)]] == expected[: 1 + len(silent)], claim)
    found = server.until(lambda: "unprocessed" not in {one["state"] for one in states()} and states(), claim)
    assert [one["state"] for one in found] == expected
    assert all(one["inhibitedBy"] for one in found[1 : 1 + len(silent)])
    assert not any(one["inhibitedBy"] for one in itertools.chain(found[:1], found[1 + len(silent) :]))


def key(labels):
    """Labels as a key."""
    return tuple(sorted(labels.items()))


def test_silent_alerts_are_told_apart(server):
    """The API leaves out what is inhibited if asked to: what a message is made of."""
    source, silent, _ = CASES["a data set silences its features"]
    server.post([{**labels, "job": "apart", "case": "apart"} for labels in (source, *silent)])

    def names(**filters):
        return sorted(
            one["labels"]["alertname"]
            for one in server.alerts(**filters)
            if one["labels"].get("case") == "apart" and one["status"]["state"] != "unprocessed"
        )

    server.until(lambda: names(inhibited="false") == ["ModelwatchDatasetDrift"], "its features are inhibited")
    assert len(names()) == 3
