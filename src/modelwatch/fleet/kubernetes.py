"""Objects for a cluster with the Prometheus operator and Grafana's sidecar: PodMonitor, PrometheusRules, ConfigMaps."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..exceptions import ConfigurationError
from .options import seconds
from .writing import to_yaml

MOST_BYTES = 200_000
"""Of one object: `kubectl apply` keeps a copy in an annotation, and all annotations together may have 262,144 bytes."""

_Object = dict[str, Any]

_PART = r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?"
_NAME = re.compile(_PART)
_SUBDOMAIN = re.compile(rf"{_PART}(?:\.{_PART})*")
_LABEL = re.compile(r"[A-Za-z0-9](?:[-A-Za-z0-9_.]*[A-Za-z0-9])?")
_KEY = re.compile(r"[-._a-zA-Z0-9]{1,253}")
_PORT = re.compile(r"(?=.*[a-z])[a-z0-9](?:-?[a-z0-9])*")
_LONGEST_INTERVAL = 60

_KILL_SWITCH = """\
If the series of the bins are too many for this Prometheus, add this to the endpoint. Drift over the fleet ends with
it, and so do its alerts; the gauges of each replica stay.
  metricRelabelings:
    - {action: drop, sourceLabels: [__name__], regex: model_feature_bin_total|model_reference_bin_.+}"""


@dataclass(frozen=True, kw_only=True)
class KubernetesOptions:
    """How the objects are made.

    Attributes
    ----------
    namespace
        Where the objects are made and, unless `pods_namespaces` says otherwise, the pods are.
    name
        What the names of the objects begin with.
    labels
        Labels of every object, such as those by which a Prometheus chooses what it takes.
    selector
        Labels of the pods to scrape.
    pods_namespaces
        Namespaces of the pods, if not `namespace`.
    dashboards_namespace
        Where the dashboards are made, if not in `namespace`: Grafana's sidecar may look in its own only.
    port
        Name or number of a port that the container declares. A number needs version 0.79 of the operator.
    path
        Where the metrics are.
    interval
        Time between two scrapes, at most a minute: the rules look at five minutes.
    token_secret
        (name, key) of a secret, in `namespace`, with the bearer token of the metrics.
    job_label
        Label of the pods that becomes `job`. None: the first of `selector`, if that is given, else
        `app.kubernetes.io/name`.
    pod_labels
        Labels of the pods that all their series get, to group the rules by.
    folder
        Folder of the dashboards in Grafana.

    Raises
    ------
    ConfigurationError
        Something cannot be used. The message says what, and what would do.

    Notes
    -----
    Threads and processes: frozen, so any number.

    >>> KubernetesOptions(namespace="models").selector
    {'modelwatch': 'enabled'}
    """

    namespace: str
    name: str = "modelwatch"
    labels: Mapping[str, str] = field(default_factory=dict)
    selector: Mapping[str, str] = field(default_factory=lambda: {"modelwatch": "enabled"})
    pods_namespaces: tuple[str, ...] = ()
    dashboards_namespace: str | None = None
    port: str | int = "http"
    path: str = "/metrics"
    interval: str = "15s"
    token_secret: tuple[str, str] | None = None
    job_label: str | None = None
    pod_labels: tuple[str, ...] = ()
    folder: str = "modelwatch"

    def __post_init__(self) -> None:
        if not _SUBDOMAIN.fullmatch(self.name) or len(self.name) > 63:
            raise _refused("a name of small letters, digits, - and .", self.name, "bike-demand")
        for namespace in (self.namespace, self.dashboards_namespace, *self.pods_namespaces):
            if namespace is not None and (not _NAME.fullmatch(namespace) or len(namespace) > 63):
                raise _refused("a namespace of small letters, digits and -", namespace, "models")
        for labels in (self.labels, self.selector):
            for key, value in labels.items():
                _check_label(key, value)
        for key in (*self.pod_labels, *([] if self.job_label is None else [self.job_label])):
            _check_label(key, "")
        if not self.selector:
            raise _refused("labels of the pods to scrape", "none", "app=bike-demand")
        self._check_endpoint()

    def _check_endpoint(self) -> None:
        if isinstance(self.port, int):
            if not 1 <= self.port <= 65535:
                raise _refused("a port between 1 and 65535", self.port, "8000")
        elif not _PORT.fullmatch(self.port) or len(self.port) > 15:
            raise _refused(
                "the name of a port, at most 15 small letters, digits and -, or its number", self.port, "http"
            )
        if not self.path.startswith("/"):
            raise _refused("a path that begins with a slash", self.path, "/metrics")
        if seconds(self.interval) > _LONGEST_INTERVAL:
            raise ConfigurationError(
                f"Expected an interval of at most {_LONGEST_INTERVAL}s, as the rules look at five minutes and need "
                f"some scrapes in them, got {self.interval!r}. Use 15s or 30s."
            )
        if self.token_secret is not None:
            name, key = self.token_secret
            if not _SUBDOMAIN.fullmatch(name) or not _KEY.fullmatch(key):
                raise _refused("the name of a secret and a key in it", f"{name}:{key}", "bike-demand:token")

    @property
    def job(self) -> str:
        """The label of the pods that becomes `job`."""
        if self.job_label is not None:
            return self.job_label
        if self.selector == {"modelwatch": "enabled"}:
            return "app.kubernetes.io/name"
        return next(iter(self.selector))


def objects(
    options: KubernetesOptions, rules: Mapping[str, Mapping[str, Any]], dashboards: Mapping[str, str]
) -> dict[str, _Object]:
    """The objects by the names of their files.

    Parameters
    ----------
    options
        How they are made.
    rules
        Rule files as Prometheus reads them, `{"groups": […]}`, by what the name of their object ends with.
    dashboards
        JSON of the dashboards by uid.

    Raises
    ------
    ConfigurationError
        An object would be larger than a cluster takes.
    """
    found: dict[str, _Object] = {"podmonitor.yaml": _pod_monitor(options)}
    for name, groups in rules.items():
        spec = {"groups": groups["groups"]}
        rule = _object(options, "monitoring.coreos.com/v1", "PrometheusRule", f"{options.name}-{name}")
        found[f"prometheusrule-{name}.yaml"] = {**rule, "spec": spec}
    for uid, text in dashboards.items():
        short = uid.removeprefix("modelwatch-")
        found[f"dashboard-{short}.yaml"] = _dashboard(options, uid, short, text)
    for file, value in found.items():
        if (size := len(json.dumps(value))) > MOST_BYTES:
            raise ConfigurationError(
                f"Expected an object of at most {MOST_BYTES} bytes, which `kubectl apply` takes, got {size} in "
                f"{file}. Leave something out: fewer windows, or statistics."
            )
    return found


def manifests(
    options: KubernetesOptions, rules: Mapping[str, Mapping[str, Any]], dashboards: Mapping[str, str]
) -> dict[str, str]:
    """The objects as YAML by the names of their files, with the kustomization that lists them."""
    head = "Written by `modelwatch k8s export`, which replaces it."
    made = objects(options, rules, dashboards)
    files = {
        file: to_yaml(value, head=f"{head}\n{_KILL_SWITCH}" if file == "podmonitor.yaml" else head)
        for file, value in made.items()
    }
    listed = {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", "resources": list(files)}
    return {**files, "kustomization.yaml": to_yaml(listed, head=head)}


def _object(
    options: KubernetesOptions, version: str, kind: str, name: str, *, labels: Mapping[str, str] | None = None
) -> _Object:
    own = {"app.kubernetes.io/part-of": "modelwatch", **(labels or {})}
    metadata = {"name": name, "namespace": options.namespace, "labels": {**own, **options.labels}}
    return {"apiVersion": version, "kind": kind, "metadata": metadata}


def _pod_monitor(options: KubernetesOptions) -> _Object:
    endpoint: _Object = {"portNumber" if isinstance(options.port, int) else "port": options.port, "path": options.path}
    length = seconds(options.interval)
    # Prometheus refuses a timeout that is longer than the interval.
    endpoint |= {"interval": options.interval, "scrapeTimeout": f"{max(1, min(10, length * 2 // 3))}s"}
    endpoint["honorLabels"] = False
    if options.token_secret is not None:
        name, key = options.token_secret
        endpoint["authorization"] = {"type": "Bearer", "credentials": {"name": name, "key": key}}
    # An address says nothing to a reader, and of the pod it is the only one: `instance` is the pod, as in kubectl.
    pod = {"action": "replace", "sourceLabels": ["__meta_kubernetes_pod_name"], "targetLabel": "instance"}
    endpoint["relabelings"] = [pod]
    spec: _Object = {"jobLabel": options.job}
    if options.pod_labels:
        spec["podTargetLabels"] = list(options.pod_labels)
    if options.pods_namespaces:
        spec["namespaceSelector"] = {"matchNames": list(options.pods_namespaces)}
    spec |= {"selector": {"matchLabels": dict(options.selector)}, "podMetricsEndpoints": [endpoint]}
    return {**_object(options, "monitoring.coreos.com/v1", "PodMonitor", options.name), "spec": spec}


def _dashboard(options: KubernetesOptions, uid: str, short: str, text: str) -> _Object:
    made = _object(options, "v1", "ConfigMap", f"{options.name}-dashboard-{short}", labels={"grafana_dashboard": "1"})
    made["metadata"]["annotations"] = {"grafana_folder": options.folder}
    if options.dashboards_namespace is not None:
        made["metadata"]["namespace"] = options.dashboards_namespace
    # Compact, and on a line of its own: a block, which needs no quoting.
    made["data"] = {f"{uid}.json": json.dumps(json.loads(text), separators=(",", ":")) + "\n"}
    return made


def _check_label(key: str, value: str) -> None:
    prefix, slash, name = key.rpartition("/")
    if slash and (not _SUBDOMAIN.fullmatch(prefix) or len(prefix) > 253):
        raise _refused("the prefix of a label to be a domain", prefix, "example.com")
    if not _LABEL.fullmatch(name) or len(name) > 63:
        raise _refused("the name of a label, of at most 63 letters, digits, -, _ and .", key, "release")
    if value and (not _LABEL.fullmatch(value) or len(value) > 63):
        raise _refused("the value of a label, of at most 63 letters, digits, -, _ and .", value, "prometheus")


def _refused(expected: str, got: object, example: str) -> ConfigurationError:
    return ConfigurationError(f"Expected {expected}, got {got!r}. Write it as in {example}.")
