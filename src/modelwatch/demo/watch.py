"""Looks at Prometheus, Alertmanager and the receiver again and again, and tells what has changed."""

from __future__ import annotations

import math
import time
from contextlib import suppress
from typing import Any

import httpx

from .firing import Alert, Known, changes, names, of_alertmanager, of_prometheus, silenced
from .receiver import Receiver
from .show import Show
from .stage import Service
from .story import FOUND

_DRIFT = "drift"


class Watch:
    """What is known of the fleet.

    Attributes
    ----------
    alerts, known
        What Prometheus and Alertmanager had when they were asked last.
    drifted
        The features that have drifted over the whole fleet.
    told
        Names of the drift alerts that the receiver was told of.

    Notes
    -----
    Threads: one. Processes: one.
    """

    def __init__(self, show: Show, prometheus: Service, alertmanager: Service, receiver: Receiver) -> None:
        self._show, self._prometheus, self._alertmanager = show, prometheus, alertmanager
        self._receiver = receiver
        self._started = time.monotonic()
        self.alerts: list[Alert] = []
        self.known: list[Known] = []
        self.drifted: set[str] = set()
        self.told: set[str] = set()
        self._drift_alerts: set[str] = set()

    @property
    def seconds(self) -> float:
        """Since it began."""
        return time.monotonic() - self._started

    def look(self) -> None:
        """Ask all of them, and tell what has changed. One that does not answer is asked again at the next look."""
        with suppress(httpx.HTTPError, KeyError, ValueError):
            self._look_at_prometheus()
        with suppress(httpx.HTTPError, KeyError, ValueError):
            self._look_at_alertmanager()
        for message in self._receiver.take():
            alerts = {labels.get("alertname", "") for labels in message.alerts}
            if message.firing:
                self.told |= alerts & self._drift_alerts
            verb = "told" if message.firing else "told: over"
            self._tell(verb, f"{message.receiver}, of {names(message.alerts)}", "cyan")

    def _look_at_prometheus(self) -> None:
        drifted = self.by_feature("modelwatch:feature_drifted:1h == 1")
        alerts = of_prometheus(self._prometheus.get("/api/v1/alerts").raise_for_status().json()["data"])
        if drifted.keys() - self.drifted:
            self._tell("drifted", ", ".join(sorted(drifted.keys() - self.drifted)), "yellow")
        for word, text in changes(self.alerts, alerts):
            self._tell(word, text, {"firing": "red"}.get(word, ""))
        self._drift_alerts |= {one.name for one in alerts if one.category == _DRIFT and one.state == "firing"}
        self.drifted, self.alerts = set(drifted), alerts

    def _look_at_alertmanager(self) -> None:
        known = of_alertmanager(self._alertmanager.get("/api/v2/alerts").raise_for_status().json())
        if silent := silenced(self.known, known):
            self._tell("silent", f"{silent}, as another alert says the same", "")
        self.known = known

    def missing(self) -> list[str]:
        """What has not come yet: a sentence each; none once drift is known from end to end."""
        firing = {alert.key for alert in self.alerts if alert.category == _DRIFT and alert.state == "firing"}
        said = []
        if FOUND not in self.drifted:
            said.append(f"{FOUND} drifts in these data, and Prometheus did not find it over the fleet.")
        if not firing:
            said.append("Expected an alert over drift to fire in Prometheus, got none.")
        elif not firing & {(known.name, known.feature) for known in self.known}:
            said.append("Expected Alertmanager to have an alert over drift that fires in Prometheus, it has none.")
        elif not self.told:
            said.append("Expected Alertmanager to tell its receiver of drift, it did not.")
        return said

    def value(self, query: str) -> float:
        """The only value of a query; NaN without one."""
        found = self.ask(query)
        return float(found[0]["value"][1]) if found else math.nan

    def by_feature(self, query: str) -> dict[str, float]:
        """Values of a query by feature."""
        return {one["metric"]["feature"]: float(one["value"][1]) for one in self.ask(query)}

    def ask(self, query: str) -> list[Any]:
        """An instant query."""
        response = self._prometheus.get("/api/v1/query", query=query).raise_for_status()
        return list(response.json()["data"]["result"])

    def _tell(self, word: str, text: str, style: str) -> None:
        self._show.item(f"{self.seconds:4.0f} s", f"{word:8} {text}", style=style)
