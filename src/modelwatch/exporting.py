"""`modelwatch grafana export`, `rules export` and `k8s export`: dashboards, rules and objects for a cluster, as files.

Each prints what became of which file, and the command that comes next.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import shlex
from collections.abc import Callable, Mapping
from typing import Any

from .fleet.kubernetes import KubernetesOptions
from .fleet.options import RuleOptions

RULE_FILES = {"fleet": "modelwatch-fleet.yml", "alerts": "modelwatch-alerts.yml"}

_GRAFANA = """\
The dashboards ask for the data source, the job and the model by themselves. Options are for the rules that come with
them, and as for `modelwatch rules export`; --window is for the dashboards too."""
_RULES = """\
Lengths of time are written as for Prometheus: 30m, 1h, 7d. The services and this command must agree on the buckets of
the latency, of which --latency is one."""
_K8S = """\
For the Prometheus operator and the sidecar of Grafana's chart. --label is for the objects, most often the label by
which Prometheus chooses what it takes; --alert-label is for the alerts."""


def add_export(parser: argparse.ArgumentParser, name: str) -> None:
    """Give a verb its `export`.

    Parameters
    ----------
    parser
        Of the verb. Modified.
    name
        The verb: "grafana", "rules" or "k8s".
    """
    more, options, run = {
        "grafana": (_GRAFANA, _own_rule_options, _grafana),
        "rules": (_RULES, _own_rule_options, _rules),
        "k8s": (_K8S, _k8s_options, _k8s),
    }[name]
    export = parser.add_subparsers(metavar="export", required=True).add_parser(
        "export", help="write them into a directory", description=parser.description, epilog=more
    )
    export.add_argument("directory", metavar="DIR", help="where to; it is made, and what is there of ours is replaced")
    options(export)
    export.set_defaults(verb=run)


def rule_files(options: RuleOptions) -> dict[str, str]:
    """The two rule files by name, as YAML."""
    from .fleet.writing import to_yaml

    head = "Written by `modelwatch rules export`, which replaces it: choose other options there."
    return {RULE_FILES[name]: to_yaml(groups, head=head) for name, groups in _groups(options).items()}


def _groups(options: RuleOptions) -> dict[str, dict[str, Any]]:
    from .fleet.alerts import alert_groups
    from .fleet.recording import fleet_groups

    return {"fleet": fleet_groups(options), "alerts": alert_groups(options)}


def _rule_options(parser: argparse.ArgumentParser, *label: str) -> None:
    default = RuleOptions()
    add = parser.add_argument_group("rules").add_argument
    text = f"lengths of time over which the fleet is compared; default: {','.join(default.windows)}"
    add("--window", dest="windows", metavar="A,B", type=_names, help=text)
    text = f"labels, besides the model's, that tell services apart; default: {','.join(default.by)}"
    add("--by", metavar="A,B", type=_names, help=text)
    text = "the statistics: default, or all there are"
    add("--statistics", metavar="WHICH", choices=("default", "all"), help=text)
    for option, name, kind, text in (
        ("--slo", "slo", float, "share of the requests that must not fail"),
        ("--latency", "latency", float, "seconds that a request may take"),
        ("--latency-slo", "latency_slo", float, "share of the requests that must not take longer"),
        ("--psi", "psi", float, "smoothed PSI from which a feature has drifted"),
        ("--min-rows", "min_rows", int, "rows below which nothing is said about a feature"),
        ("--alert-rows", "alert_rows", int, "rows below which no drift is an alert"),
        ("--pending", "pending", str, "how long drift lasts before it is an alert"),
        ("--evaluation-interval", "evaluation_interval", str, "how often drift is evaluated"),
        ("--runbook-url", "runbook_url", str, "where the runbook is"),
        ("--dashboard-url", "dashboard_url", str, "where Grafana is"),
    ):
        value = getattr(default, name.removeprefix("evaluation_"))
        add(option, dest=name, metavar="X", type=kind, help=f"{text}; default: {value}")
    text = "bounds of the services' buckets of the latency, if they have others than the default ones"
    add("--latency-bounds", metavar="A,B", type=_numbers, help=text)
    text = "label of every alert; may be given again"
    add(*label, "--alert-label", dest="alert_labels", metavar="NAME=VALUE", type=_pair, action="append", help=text)


def _own_rule_options(parser: argparse.ArgumentParser) -> None:
    _rule_options(parser, "--label")


def _k8s_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("objects").add_argument
    add("--namespace", metavar="NAME", required=True, help="of the objects and, unless said otherwise, of the pods")
    add("--name", metavar="NAME", help="what the objects' names begin with; default: modelwatch")
    text = "label of every object; may be given again"
    add("--label", dest="labels", metavar="NAME=VALUE", type=_pair, action="append", help=text)
    text = "label of the pods to scrape, may be given again; default: modelwatch=enabled"
    add("--selector", metavar="NAME=VALUE", type=_pair, action="append", help=text)
    add("--pods-namespace", dest="pods_namespaces", metavar="A,B", type=_names, help="of the pods, if another one")
    text = "of the dashboards, if another one: where the sidecar looks"
    add("--dashboards-namespace", metavar="NAME", help=text)
    add("--port", metavar="PORT", type=_port, help="name or number of the pods' port; default: http")
    add("--path", metavar="PATH", help="of the metrics; default: /metrics")
    add("--interval", metavar="TIME", help="between two scrapes; default: 15s")
    add("--token-secret", metavar="NAME:KEY", type=_secret, help="secret with the bearer token of the metrics")
    text = "label of the pods that becomes `job`; default: the first of --selector, else app.kubernetes.io/name"
    add("--job-label", metavar="NAME", help=text)
    text = "labels of the pods that their series get, to name in --by"
    add("--pod-label", dest="pod_labels", metavar="A,B", type=_names, help=text)
    add("--folder", metavar="NAME", help="of the dashboards in Grafana; default: modelwatch")
    _rule_options(parser)


def _grafana(arguments: argparse.Namespace) -> int:
    from .fleet.shipped import dashboards, shipped_files

    options = _chosen_rules(arguments)
    files = shipped_files()
    files |= {f"dashboards/{uid}.json": text for uid, text in dashboards(_windows(options)).items()}
    files |= {f"rules/{name}": text for name, text in rule_files(options).items()}
    files["alertmanager.yml"] = _grouped(files["alertmanager.yml"], options.by)
    where = _write(arguments.directory, files)
    _say(
        f"Try them with Docker:  docker compose -f {where('docker-compose.yml')} up",
        f"Or read how to bring them into your Grafana:  {where('README.md')}",
    )
    return 0


def _grouped(text: str, by: tuple[str, ...]) -> str:
    """The configuration of Alertmanager for services that are told apart by these labels."""
    default = f"[{', '.join(RuleOptions().by)}"
    # A target that is down always has a job, and must not silence what has none.
    of_targets = dict.fromkeys((*by, "job"))
    return text.replace(f"{default}]", f"[{', '.join(of_targets)}]").replace(default, f"[{', '.join(by)}")


def _rules(arguments: argparse.Namespace) -> int:
    options = _chosen_rules(arguments)
    files = rule_files(options)
    where = _write(arguments.directory, files)
    _say(
        f"Check them:  promtool check rules {' '.join(where(name) for name in files)}",
        "Then name them under rule_files in prometheus.yml, and reload Prometheus."
        + (" `modelwatch grafana export` makes dashboards for these windows." if _windows(options) else ""),
    )
    return 0


def _k8s(arguments: argparse.Namespace) -> int:
    from .fleet.kubernetes import manifests
    from .fleet.shipped import dashboards

    options, rules = KubernetesOptions(**_chosen(arguments, KubernetesOptions)), _chosen_rules(arguments)
    files = manifests(options, _groups(rules), dashboards(_windows(rules)))
    where = _write(arguments.directory, files)
    pods = ",".join(f"{key}={value}" for key, value in options.selector.items())
    namespaces = " and ".join(options.pods_namespaces or (options.namespace,))
    _say(
        f"Apply them:  kubectl apply --server-side -k {where('')}",
        f"Scraped are pods in {namespaces} with the label {pods}, at their port {options.port} and the path "
        f"{options.path}; their job is their label {options.job}.",
    )
    return 0


def _windows(options: RuleOptions) -> tuple[str, ...]:
    """Of the dashboards: nothing if they are as shipped."""
    return () if options.windows == RuleOptions().windows else options.windows


def _chosen_rules(arguments: argparse.Namespace) -> RuleOptions:
    return RuleOptions(**_chosen(arguments, RuleOptions, labels="alert_labels", interval="evaluation_interval"))


def _chosen(arguments: argparse.Namespace, options: type[Any], **renamed: str) -> dict[str, Any]:
    """What was given on the command line of the fields of some options: the defaults are those of their class."""
    names = [field.name for field in dataclasses.fields(options)]
    given = {name: getattr(arguments, renamed.get(name, name), None) for name in names}
    # A list holds the pairs of an option that was given several times.
    return {name: dict(value) if type(value) is list else value for name, value in given.items() if value is not None}


def _write(directory: str, files: Mapping[str, str]) -> Callable[[str], str]:
    """Write the files and list them. Returns how a path in the directory is written in a command."""
    from .aligned import aligned
    from .fleet.folder import write

    outcomes = write(directory, files)
    lines = [[os.path.join(directory, path), outcome] for path, outcome in outcomes.items()]
    print(aligned(lines, left=2))
    return lambda path: shlex.quote(os.path.join(directory, path))


def _say(*lines: str) -> None:
    print("\n" + "\n".join(lines))


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(number) for number in _names(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected numbers with commas between them, got {text!r}") from error


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals or not value:
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE, got {text!r}")
    return name, value


def _secret(text: str) -> tuple[str, str]:
    name, colon, key = text.partition(":")
    if not name or not colon or not key:
        raise argparse.ArgumentTypeError(f"expected NAME:KEY of a secret, got {text!r}")
    return name, key


def _port(text: str) -> str | int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 9 else text
