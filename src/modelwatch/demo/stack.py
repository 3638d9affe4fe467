"""The stack, act by act: serve three times, scrape, replay, and tell what Prometheus and Alertmanager make of it."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from contextlib import closing, suppress
from typing import NamedTuple, NoReturn

import httpx
import yaml

from ..exporting import rule_files
from ..fleet.options import RuleOptions
from ..fleet.shipped import shipped_files
from .receiver import Receiver
from .show import Show, own_command
from .stage import DemoError, Service, Stage, alertmanager_program, free_ports, prometheus_program, stage
from .story import CONTROLS, FOUND
from .traffic import Traffic
from .watch import Watch

_REPLICAS = 3
_SETTINGS = {"MODELWATCH_PAGE": "true"}
_SCRAPES = "2s"
_PENDING = "10s"  # as shipped it is 15 minutes, and nobody would look on for so long
_LATENCY_SECONDS = 1.0  # replicas, Prometheus and all else share the cores of one machine
_TURN_SECONDS = 0.5
_SEEN_SECONDS = 60.0
_REPLICA = f'sum by (instance) (model_feature_bin_total{{feature="{FOUND}"}})'
_MOST_SECONDS = 180.0
_SILENT_RECEIVER = "nobody"


class Plant(NamedTuple):
    """What runs."""

    replicas: list[Service]
    prometheus: Service
    alertmanager: Service

    def check(self) -> None:
        """Raise DemoError if one of them has ended."""
        for service in (*self.replicas, self.prometheus, self.alertmanager):
            if service.process.poll() is not None:
                raise DemoError(service.report("ended by itself"))


def play(once: bool) -> int:
    """Play the stack; returns the exit code. See `demo.run_stack`."""
    show = Show()
    show.line("Three replicas serve one model; Prometheus adds them up, Alertmanager tells of drift.\n", style="bold")
    code = None
    try:
        with stage() as staged, closing(Receiver()) as receiver:
            plant = _build(show, staged, receiver, once)
            watch = Watch(show, plant.prometheus, plant.alertmanager, receiver)
            traffic = Traffic(plant.replicas, staged.script("replay.py").days)
            _winter(show, plant, watch, traffic)
            _summers(show, plant, watch, traffic)
            wrong = watch.missing()
            for sentence in wrong:
                show.item("but", sentence, style="red")
            code = 1 if wrong else 0
            _tell(show, watch, traffic)
            if not once:
                _addresses(show, plant)
                _keep(plant, watch, traffic)
    except (DemoError, httpx.HTTPError) as error:
        show.line(f"The stack stopped: {error}", style="red")
        return 1
    except KeyboardInterrupt:
        show.line("\nStopped. Nothing of it is left.")
        return 130 if code is None else code
    return code


def _build(show: Show, staged: Stage, receiver: Receiver, once: bool) -> Plant:
    show.item("train", staged.train())
    wished = [9090, 9093, *range(8000, 8000 + _REPLICAS)]
    at_prometheus, at_alertmanager, *at_replicas = free_ports([0] * len(wished) if once else wished)
    replicas = staged.fleet(at_replicas, _SETTINGS)
    show.item("serve", f"{', '.join(service.url for service in replicas)}: three replicas of the same FastAPI app.")
    shipped = shipped_files()["alertmanager.yml"]
    config = alertmanager_config(shipped, receiver.url)
    alertmanager = staged.alertmanager(alertmanager_program() or "", at_alertmanager, config)
    rules = rule_files(RuleOptions(pending=_PENDING, interval=_SCRAPES, latency=_LATENCY_SECONDS))
    for name, text in rules.items():
        (staged.directory / name).write_text(text, "utf-8")
    config = prometheus_config([service.url for service in replicas], list(rules), alertmanager.url)
    prometheus = staged.prometheus(prometheus_program() or "", at_prometheus, "", config)
    show.item(
        "prometheus",
        f"{prometheus.url} scrapes them every {_SCRAPES}, with the shipped rules. Here drift is an alert after "
        f"{_PENDING}, not after {RuleOptions().pending}.",
    )
    show.item(
        "alerts", f"{alertmanager.url} routes them as shipped, and tells a webhook in this process: {receiver.url}"
    )
    return Plant(replicas, prometheus, alertmanager)


def prometheus_config(replicas: list[str], rules: list[str], alertmanager: str) -> str:
    """The text of prometheus.yml; it is JSON, which is YAML too."""
    targets = [url.removeprefix("http://") for url in replicas]
    return json.dumps(
        {
            "global": {"scrape_interval": _SCRAPES, "scrape_timeout": _SCRAPES, "evaluation_interval": _SCRAPES},
            "rule_files": rules,
            "alerting": {"alertmanagers": [{"static_configs": [{"targets": [alertmanager.removeprefix("http://")]}]}]},
            "scrape_configs": [{"job_name": "bike-demand", "static_configs": [{"targets": targets}]}],
        },
        indent=2,
    )


def alertmanager_config(shipped: str, url: str) -> str:
    """The shipped configuration, with a webhook in each receiver that somebody listens to, and with less patience."""
    config = yaml.safe_load(shipped)
    for receiver in config["receivers"]:
        if receiver["name"] != _SILENT_RECEIVER:
            receiver["webhook_configs"] = [{"url": url, "send_resolved": True}]
    routes = [config["route"]]
    for route in routes:
        route |= {"group_wait": "2s", "group_interval": "10s"}
        routes += route.get("routes", ())
    return json.dumps(config, indent=2)


def _winter(show: Show, plant: Plant, watch: Watch, traffic: Traffic) -> None:
    """Serve what the model was trained on: then nothing has drifted, and the rules must say so."""
    # What a replica counts before its first scrape cannot be told from what was always there.
    _until(plant, lambda: watch.value(f"count({_REPLICA})") == _REPLICAS)
    days = traffic.winter()
    _until(plant, lambda: watch.value(f"sum({_REPLICA})") == traffic.rows)
    # Once more than there were: Prometheus takes counters to go on rising until now, and overstates those of a minute.
    _until(plant, lambda: watch.value(f'sum(modelwatch:feature_rows:1h{{feature="{FOUND}"}})') >= traffic.rows)
    watch.look()
    psi = watch.by_feature("modelwatch:feature_psi:1h")
    worst = max(psi, key=psi.__getitem__)
    firing = sorted({alert.name for alert in watch.alerts if alert.state == "firing"})
    show.item(
        "winter",
        f"{traffic.rows:,} rows of the {days} days that the model was trained on. The largest PSI over all three is "
        f"{psi[worst]:.3f}, of {worst}; {' and '.join(firing) or 'no alert'} fires.",
    )


def _until(plant: Plant, found: Callable[[], bool]) -> None:
    """Wait for what Prometheus has to see, in whatever time it takes it."""
    deadline = time.monotonic() + _SEEN_SECONDS
    while time.monotonic() < deadline:
        with suppress(httpx.HTTPError):
            if found():
                return
        plant.check()
        time.sleep(0.1)
    raise DemoError(plant.prometheus.report("did not see what the replicas served"))


def _summers(show: Show, plant: Plant, watch: Watch, traffic: Traffic) -> None:
    show.item("summer", "April 2011 to December 2012, each day to the next replica.")
    while watch.missing() and watch.seconds < _MOST_SECONDS:
        plant.check()
        traffic.go_on(_TURN_SECONDS)
        watch.look()


def _tell(show: Show, watch: Watch, traffic: Traffic) -> None:
    """What has come of it, from Prometheus."""
    fleet = watch.by_feature("modelwatch:feature_psi:1h")
    own = [f"{float(one['value'][1]):.2f}" for one in watch.ask(f'model_feature_drift_psi{{feature="{FOUND}"}}')]
    show.item(
        "fleet",
        f"{traffic.rows:,} rows until {traffic.date}. The PSI of {FOUND} over all three is "
        f"{fleet.get(FOUND, math.nan):.2f}; by themselves they say {', '.join(own) or 'nothing'}, each of its third.",
    )
    calm = [f"{name} {fleet[name]:.3f}" for name in CONTROLS if name in fleet and name not in watch.drifted]
    if calm:
        show.item("control", f"What does not drift in these data has not drifted: {', '.join(calm)}.")
    for alert in watch.alerts:
        if alert.feature == FOUND and alert.state == "firing" and alert.description:
            show.item("alert", f"{alert.name}: {alert.description}")


def _addresses(show: Show, plant: Plant) -> None:
    show.line("\nIt goes on. Open:", style="bold")
    query = "graph?g0.expr=modelwatch:feature_psi:1h&g0.tab=0&g0.range_input=5m"
    for address, text in (
        (f"{plant.replicas[0].url}/modelwatch", "what one replica says, as a page for people"),
        (f"{plant.replicas[0].url}/metrics", "the same, for Prometheus"),
        (f"{plant.prometheus.url}/{query}", "PSI over the fleet"),
        (_alerts_page(plant.prometheus), "the alerts"),
        (f"amtool alert --alertmanager.url={plant.alertmanager.url}", "those that are told"),
    ):
        show.literal(f"  {address}   {text}")
    show.line("With a Grafana of yours:", style="bold")
    show.literal(f"  {own_command()} grafana export DIR   then read DIR/README.md: Dashboards > New > Import,")
    show.literal(f"  with a Prometheus data source {plant.prometheus.url}, scrape interval {_SCRAPES}")
    show.line("Ctrl-C ends it, and takes everything away.\n")


def _alerts_page(prometheus: Service) -> str:
    """Where Prometheus shows its alerts: the one of Debian's has the old pages only, which are in another place."""
    for path in ("/alerts", "/classic/alerts"):
        if prometheus.get(path).status_code == 200:
            return prometheus.url + path
    return prometheus.url


def _keep(plant: Plant, watch: Watch, traffic: Traffic) -> NoReturn:
    while True:
        plant.check()
        traffic.go_on(_TURN_SECONDS)
        watch.look()
