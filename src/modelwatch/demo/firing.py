"""What Prometheus and Alertmanager say of alerts, and what has changed since. Pure; the stack tells it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

Labels = Mapping[str, str]


class Alert(NamedTuple):
    """One alert. `feature`: empty for those that are of no feature; `state`: pending or firing."""

    name: str
    feature: str
    category: str
    state: str
    description: str = ""

    @property
    def key(self) -> tuple[str, str]:
        """What makes it the same alert later."""
        return self.name, self.feature


class Known(NamedTuple):
    """An alert that Alertmanager has. `silent`: another one says the same, and it is not told."""

    name: str
    feature: str
    silent: bool


def of_prometheus(data: Mapping[str, Any]) -> list[Alert]:
    """From `data` of the answer of `/api/v1/alerts`."""
    return sorted(
        Alert(
            one["labels"]["alertname"],
            one["labels"].get("feature", ""),
            one["labels"].get("category", ""),
            one["state"],
            one.get("annotations", {}).get("description", ""),
        )
        for one in data["alerts"]
    )


def of_alertmanager(alerts: Iterable[Mapping[str, Any]]) -> list[Known]:
    """From the answer of `/api/v2/alerts`."""
    return sorted(
        Known(
            one["labels"]["alertname"],
            one["labels"].get("feature", ""),
            bool(one["status"]["inhibitedBy"] or one["status"]["silencedBy"]),
        )
        for one in alerts
    )


def changes(before: Sequence[Alert], now: Sequence[Alert]) -> Iterator[tuple[str, str]]:
    """What became of which alerts, as a word and a text; the features of one alert together.

    >>> list(changes([], [Alert("Drift", "temp", "drift", "pending"), Alert("Drift", "hum", "drift", "pending")]))
    [('pending', 'Drift: hum, temp')]
    """
    was, is_ = {alert.key: alert.state for alert in before}, {alert.key: alert.state for alert in now}
    for word in ("pending", "firing"):
        yield from _each(word, [key for key, state in is_.items() if state == word and was.get(key) != word])
    yield from _each("over", [key for key, state in was.items() if state == "firing" and key not in is_])


def silenced(before: Sequence[Known], now: Sequence[Known]) -> str:
    """Names of the alerts that have become silent.

    >>> silenced([Known("Drift", "temp", False)], [Known("Drift", "temp", True)])
    'Drift: temp'
    """
    were = {(known.name, known.feature) for known in before if known.silent}
    are = [(known.name, known.feature) for known in now if known.silent]
    return "; ".join(text for _, text in _each("", [key for key in are if key not in were]))


def names(labels: Iterable[Labels]) -> str:
    """Alerts by their labels, the features of one together.

    >>> names([{"alertname": "Drift", "feature": "temp"}, {"alertname": "Down"}])
    'Down; Drift: temp'
    """
    keys = [(each["alertname"], each.get("feature", "")) for each in labels]
    return "; ".join(text for _, text in _each("", keys))


def _each(word: str, keys: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    features: dict[str, set[str]] = {}
    for name, feature in keys:
        features.setdefault(name, set()).update({feature} - {""})
    for name in sorted(features):
        yield word, f"{name}: {', '.join(sorted(features[name]))}" if features[name] else name
