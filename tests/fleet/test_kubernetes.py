"""The objects for a cluster: they fit the schemas of the custom resource definitions, and do what their options say."""

from __future__ import annotations

import copy
import json

import jsonschema
import pytest
import yaml
from support.crd_schemas import schemas
from support.promtool import run

from modelwatch.exceptions import ConfigurationError
from modelwatch.fleet.alerts import alert_groups
from modelwatch.fleet.kubernetes import MOST_BYTES, KubernetesOptions, manifests, objects
from modelwatch.fleet.options import RuleOptions
from modelwatch.fleet.recording import fleet_groups

DASHBOARDS = {
    "modelwatch-overview": json.dumps({"uid": "modelwatch-overview", "title": "Größe ${datasource}"}, indent=2)
}
FULL = {
    "namespace": "models",
    "name": "bike-demand",
    "labels": {"release": "prometheus", "example.com/team": "risk"},
    "selector": {"app": "bike-demand", "tier": "serving"},
    "pods_namespaces": ("models", "models-canary"),
    "dashboards_namespace": "grafana",
    "port": 8000,
    "path": "/internal/metrics",
    "interval": "30s",
    "token_secret": ("bike-demand", "metrics-token"),
    "job_label": "tier",
    "pod_labels": ("team", "app.kubernetes.io/version"),
    "folder": "Model service",
}


@pytest.fixture(scope="module")
def validators():
    """A validator for each kind of object."""
    found = schemas()
    for schema in found.values():
        jsonschema.Draft202012Validator.check_schema(schema)
    return {kind: jsonschema.Draft202012Validator(schema) for kind, schema in found.items()}


def rules(**options):
    chosen = RuleOptions(**options)
    return {"fleet": fleet_groups(chosen), "alerts": alert_groups(chosen)}


def made(options, dashboards=DASHBOARDS, **of_rules):
    """The objects as a cluster would read them from the files, by the names of these."""
    files = manifests(KubernetesOptions(**options), rules(**of_rules), dashboards)
    return {name: yaml.safe_load(text) for name, text in files.items()}


def endpoint(**options):
    [found] = made({"namespace": "models"} | options)["podmonitor.yaml"]["spec"]["podMetricsEndpoints"]
    return found


@pytest.mark.parametrize("options", [{"namespace": "models"}, FULL], ids=["least", "full"])
def test_objects_fit_their_schemas(validators, options):
    """Every object, with the least options and with all, fits the schema of its kind, in which no field is unknown."""
    objects_ = made(options, statistics="all")
    assert sorted(objects_) == [
        "dashboard-overview.yaml", "kustomization.yaml", "podmonitor.yaml",
        "prometheusrule-alerts.yaml", "prometheusrule-fleet.yaml",
    ]  # fmt: skip
    for name, value in objects_.items():
        if name != "kustomization.yaml":
            problems = [error.message for error in validators[value["kind"]].iter_errors(value)]
            assert problems == [], name


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("podmonitor.yaml", lambda o: o["spec"]["podMetricsEndpoints"][0].update(scrapeTimout="10s")),
        ("podmonitor.yaml", lambda o: o["spec"]["podMetricsEndpoints"][0].update(portNumber="8000")),
        ("podmonitor.yaml", lambda o: o["spec"]["podMetricsEndpoints"][0].update(portNumber=70_000)),
        ("podmonitor.yaml", lambda o: o["spec"]["podMetricsEndpoints"][0].update(interval="half an hour")),
        ("podmonitor.yaml", lambda o: o["spec"]["podMetricsEndpoints"][0]["relabelings"][0].update(action="keep it")),
        ("podmonitor.yaml", lambda o: o["spec"]["podMetricsEndpoints"][0]["authorization"].update(token="x")),
        ("podmonitor.yaml", lambda o: o["spec"].update(jobLabels="app")),
        ("podmonitor.yaml", lambda o: o["spec"].pop("selector")),
        ("podmonitor.yaml", lambda o: o.pop("apiVersion")),
        ("podmonitor.yaml", lambda o: o["metadata"].update(nameSpace="models")),
        ("prometheusrule-alerts.yaml", lambda o: o["spec"]["groups"][0]["rules"][0].update(severity="info")),
        ("prometheusrule-alerts.yaml", lambda o: o["spec"]["groups"][0]["rules"][0].update({"for": 5})),
        ("prometheusrule-fleet.yaml", lambda o: o["spec"]["groups"][0].update(interval="often")),
        ("prometheusrule-fleet.yaml", lambda o: o["spec"]["groups"][0]["rules"][0].pop("expr")),
        ("dashboard-overview.yaml", lambda o: o["data"].update({"modelwatch-overview.json": {}})),
        ("dashboard-overview.yaml", lambda o: o["metadata"]["labels"].update(grafana_dashboard=1)),
        ("dashboard-overview.yaml", lambda o: o.update(spec={})),
    ],
)
def test_schemas_refuse_mistakes(validators, file, change):
    """A misspelt, unknown or missing field and a value of a wrong type do not fit: so the test above can fail."""
    value = copy.deepcopy(made(FULL)[file])
    assert validators[value["kind"]].is_valid(value)
    change(value)
    assert not validators[value["kind"]].is_valid(value)


def test_kustomization_lists_all():
    """`kubectl apply -k` applies every file that is written, and each object goes by a name of its own."""
    found = made({"namespace": "models"})
    listed = found.pop("kustomization.yaml")
    assert listed["kind"] == "Kustomization"
    assert listed["resources"] == list(found)
    names = {(value["kind"], value["metadata"]["namespace"], value["metadata"]["name"]) for value in found.values()}
    assert names == {
        ("PodMonitor", "models", "modelwatch"),
        ("PrometheusRule", "models", "modelwatch-fleet"),
        ("PrometheusRule", "models", "modelwatch-alerts"),
        ("ConfigMap", "models", "modelwatch-dashboard-overview"),
    }


def test_every_object_has_the_labels():
    """What a Prometheus selects by is on every object, and so is a label by which all of them can be found again."""
    found = made(FULL)
    del found["kustomization.yaml"]
    for value in found.values():
        assert (
            value["metadata"]["labels"].items()
            >= (FULL["labels"] | {"app.kubernetes.io/part-of": "modelwatch"}).items()
        )
    dashboard = found["dashboard-overview.yaml"]["metadata"]
    assert dashboard["labels"]["grafana_dashboard"] == "1"
    assert dashboard["annotations"] == {"grafana_folder": "Model service"}
    assert dashboard["namespace"] == "grafana"


def test_pod_monitor_does_what_the_options_say():
    """Selector, namespaces, job, labels, port, path, times and token go where the operator reads them."""
    spec = made(FULL)["podmonitor.yaml"]["spec"]
    [found] = spec.pop("podMetricsEndpoints")
    assert spec == {
        "jobLabel": "tier",
        "podTargetLabels": ["team", "app.kubernetes.io/version"],
        "namespaceSelector": {"matchNames": ["models", "models-canary"]},
        "selector": {"matchLabels": FULL["selector"]},
    }
    assert found["portNumber"] == 8000
    assert "port" not in found
    assert (found["path"], found["interval"], found["scrapeTimeout"]) == ("/internal/metrics", "30s", "10s")
    assert found["authorization"]["credentials"] == {"name": "bike-demand", "key": "metrics-token"}
    assert found["relabelings"][0]["targetLabel"] == "instance"


def test_pod_monitor_needs_no_options():
    """Without options pods are scraped that say so by a label, at their port named http; job is the app's name."""
    spec = made({"namespace": "models"})["podmonitor.yaml"]["spec"]
    assert spec["selector"] == {"matchLabels": {"modelwatch": "enabled"}}
    assert spec["jobLabel"] == "app.kubernetes.io/name"
    assert spec["podMetricsEndpoints"][0]["port"] == "http"
    assert "authorization" not in spec["podMetricsEndpoints"][0]
    own = made({"namespace": "models", "selector": {"app": "bike", "tier": "x"}})
    assert own["podmonitor.yaml"]["spec"]["jobLabel"] == "app"


@pytest.mark.parametrize(
    ("interval", "timeout"), [("1s", "1s"), ("5s", "3s"), ("15s", "10s"), ("30s", "10s"), ("1m", "10s")]
)
def test_timeout_is_within_the_interval(interval, timeout):
    """A scrape has most of the interval, never more than all of it, which the operator would refuse."""
    assert endpoint(interval=interval)["scrapeTimeout"] == timeout


def test_rules_are_those_of_the_files():
    """The rules in a cluster are those of a rule file, word for word; promtool takes them."""
    found = made({"namespace": "models"}, psi=0.3)
    assert found["prometheusrule-fleet.yaml"]["spec"] == rules(psi=0.3)["fleet"]
    assert found["prometheusrule-alerts.yaml"]["spec"] == rules(psi=0.3)["alerts"]
    groups = [group["name"] for value in found.values() for group in value.get("spec", {}).get("groups", [])]
    assert len(set(groups)) == len(groups)  # of two with one name the cluster refuses the object


def test_expressions_stay_readable():
    """An expression over several lines is one in the file too, and the templates of an alert stand as they are."""
    files = manifests(KubernetesOptions(namespace="models"), rules(), DASHBOARDS)
    assert "expr: |-\n" in files["prometheusrule-alerts.yaml"]
    assert "{{ $labels.model_name }}" in files["prometheusrule-alerts.yaml"]
    assert "action: drop" in files["podmonitor.yaml"]  # how to be rid of the bins


def test_dashboards_are_compact_and_unchanged():
    """A dashboard comes out of its object as it went in, without the white space."""
    found = made({"namespace": "models"})["dashboard-overview.yaml"]["data"]
    [(name, text)] = found.items()
    assert name == "modelwatch-overview.json"
    assert json.loads(text) == json.loads(DASHBOARDS["modelwatch-overview"])
    assert len(text) < len(DASHBOARDS["modelwatch-overview"])
    assert text.count("\n") == 1


def test_what_a_cluster_would_refuse_for_its_size_is_refused():
    """An object is small enough for `kubectl apply`, or its file is named and nothing is written."""
    large = {"modelwatch-large": json.dumps({"x": "y" * MOST_BYTES})}
    with pytest.raises(ConfigurationError, match=r"at most 200000 bytes.* in dashboard-large\.yaml"):
        objects(KubernetesOptions(namespace="models"), rules(), large)
    everything = objects(KubernetesOptions(**FULL), rules(statistics="all", windows=("30m", "1h", "6h", "24h")), {})
    assert max(len(json.dumps(value)) for value in everything.values()) < MOST_BYTES


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ({"namespace": "Models"}, "a namespace of small letters"),
        ({"namespace": "a.b"}, "a namespace of small letters"),
        ({"namespace": "x" * 64}, "a namespace of small letters"),
        ({"dashboards_namespace": "-x"}, "a namespace of small letters"),
        ({"pods_namespaces": ("a", "b_c")}, "a namespace of small letters"),
        ({"name": "Bike"}, "a name of small letters"),
        ({"name": "bike-"}, "a name of small letters"),
        ({"name": "a\nb"}, "a name of small letters"),
        ({"name": "bike\n"}, "a name of small letters"),
        ({"labels": {"release!": "x"}}, "the name of a label"),
        ({"labels": {"Example/team": "x"}}, "the prefix of a label"),
        ({"labels": {"team": "a b"}}, "the value of a label"),
        ({"labels": {"team": "x" * 64}}, "the value of a label"),
        ({"selector": {}}, "labels of the pods"),
        ({"selector": {"": "x"}}, "the name of a label"),
        ({"pod_labels": ("a b",)}, "the name of a label"),
        ({"job_label": "a/b/c"}, "the prefix of a label"),
        ({"port": 0}, "a port between"),
        ({"port": 65536}, "a port between"),
        ({"port": "metrics-of-this-service"}, "the name of a port"),
        ({"port": "Http"}, "the name of a port"),
        ({"port": "a--b"}, "the name of a port"),
        ({"path": "metrics"}, "a path that begins with a slash"),
        ({"interval": "5m"}, "at most 60s"),
        ({"interval": "soon"}, "a length of time"),
        ({"token_secret": ("Bike", "token")}, "the name of a secret"),
        ({"token_secret": ("bike", "a b")}, "the name of a secret"),
    ],
)
def test_what_a_cluster_would_refuse_is_refused(option, said):
    """A name, label, port or length of time that cannot be is refused in a sentence, before a file is written."""
    with pytest.raises(ConfigurationError, match=f"Expected .*{said}.*got "):
        KubernetesOptions(**({"namespace": "models"} | option))


def test_promtool_takes_the_rules(tmp_path):
    """The specification of each PrometheusRule is a rule file without a fault."""
    names = []
    for name, value in made(FULL, statistics="all").items():
        if value["kind"] == "PrometheusRule":
            (tmp_path / name).write_text(yaml.safe_dump(value["spec"]), "utf-8")
            names.append(name)
    done = run(tmp_path, "check", "rules", *names)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("SUCCESS") == 2
