"""Alert rules. Each has a reason to be silent: a least number of rows or requests, a time to wait, the noise floor.

What tells that a model has gone or has no traffic knows models, not versions: a version that was retired is no alert.
"""

from __future__ import annotations

from typing import Any

from . import model_alerts, service_alerts
from .options import RuleOptions


def alert_groups(options: RuleOptions) -> dict[str, Any]:
    """A rule file: `{"groups": […]}`, as Prometheus reads it. It needs the recording rules of the same options.

    >>> [group["name"] for group in alert_groups(RuleOptions())["groups"]][:2]
    ['modelwatch-service-alerts', 'modelwatch-drift-alerts']
    """
    groups = {
        "service": (*service_alerts.burns(options), *service_alerts.traffic(options)),
        "drift": tuple(model_alerts.drift(options)),
        "quality": tuple(model_alerts.quality(options)),
        "model": tuple(model_alerts.model(options)),
        "library": tuple(service_alerts.library(options)),
        "resources": tuple(service_alerts.resources(options)),
    }
    return {
        "groups": [
            {"name": f"modelwatch-{name}-alerts", "rules": [alert.rule(options) for alert in alerts]}
            for name, alerts in groups.items()
        ]
    }


def alert_names(options: RuleOptions) -> tuple[str, ...]:
    """The names of all alerts, each once, in the order of the file."""
    rules = [rule for group in alert_groups(options)["groups"] for rule in group["rules"]]
    return tuple(dict.fromkeys(rule["alert"] for rule in rules))
