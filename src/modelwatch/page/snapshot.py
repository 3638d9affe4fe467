"""What is kept of one instant: for each model what has been counted so far, and how far it has drifted.

Counters are kept as they are: the difference of any two snapshots tells a rate, whichever worker took them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..monitor import Monitor
from ..reading import Reading
from ..report import DriftReport
from ..series import clean
from ..sharing import Sight
from .figures import Buckets, Found, rounded

MOST_FEATURES = 50
"""Of so many features of a model, the worst ones, a snapshot keeps the PSI; of fewer where there are many models."""
_MOST_OF_ALL, _LEAST_FEATURES = 500, 5
FAILED, ANSWERED = ("error", "timeout"), ("success", "error", "timeout")
"""Statuses that count as errors, and those that they are a share of: what clients did wrong is in neither."""
LATENCY = "model_request_latency_seconds"
_SHORTEST_SECONDS = 0.05  # between two snapshots: of less no rate is made

Snapshot = Mapping[str, Any]
"""As JSON takes it: "t", seconds since 1970, and "models" by name."""


def snapshot_of(sight: Sight, now: float) -> dict[str, Any]:
    """What is kept of this instant."""
    found = Found(sight.items)
    most = min(MOST_FEATURES, max(_MOST_OF_ALL // max(len(sight.models), 1), _LEAST_FEATURES))
    return {
        "t": now,
        "models": {clean(monitor.model_name): _model(monitor, pair, found, most) for monitor, pair in sight.models},
    }


def _model(monitor: Monitor, pair: tuple[DriftReport, Reading] | None, found: Found, most: int) -> dict[str, Any]:
    model = (clean(monitor.model_name), clean(monitor.model_version))
    latency = found.buckets(LATENCY, *model)
    kept: dict[str, Any] = {
        "version": model[1],
        "reference": None if pair is None else pair[1].epoch.profile.id,
        "statuses": found.by_last("model_request_total", *model),
        "latency": None if latency is None else list(latency),
        "rows": found.number("model_rows_total", *model),
        "drifted": None,
        "smoothed": {},
    }
    if pair is not None:
        report = pair[0]
        if any(feature.drifted is not None for feature in report):
            kept["drifted"] = len(report.drifted)
        # Smoothed: the noise floor is a bound of that PSI, and not of the other one.
        known = [(one.name, one.psi_smoothed) for one in report.worst_first() if one.psi_smoothed is not None]
        kept["smoothed"] = {clean(name): rounded(psi, 3) for name, psi in known[:most]}
    return kept


class Span:
    """What happened to a model between two snapshots. What is not known is None.

    Parameters
    ----------
    before, after
        Snapshots, in the order of their times.
    name
        Of the model.
    """

    def __init__(self, before: Snapshot, after: Snapshot, name: str) -> None:
        self.seconds = float(after["t"]) - float(before["t"])
        then, now = before["models"].get(name), after["models"].get(name)
        alike = then is not None and now is not None and then["version"] == now["version"]
        self._then: Any
        self._now: Any
        self._then, self._now = (then, now) if alike and self.seconds >= _SHORTEST_SECONDS else (None, None)

    @property
    def statuses(self) -> dict[str, float] | None:
        """Requests by how they ended."""
        if self._now is None or self._then is None:
            return None
        then = self._then["statuses"]
        found = {status: count - then.get(status, 0) for status, count in self._now["statuses"].items()}
        return found if found and min(found.values()) >= 0 else None

    @property
    def rate(self) -> float | None:
        """Requests a second."""
        statuses = self.statuses
        return None if statuses is None else sum(statuses.values()) / self.seconds

    @property
    def error_share(self) -> float | None:
        """Errors and timeouts among the requests that were answered or should have been."""
        statuses = self.statuses or {}
        answered = sum(statuses.get(status, 0) for status in ANSWERED)
        return sum(statuses.get(status, 0) for status in FAILED) / answered if answered else None

    @property
    def latency(self) -> Buckets | None:
        """How long the requests took."""
        if self._now is None or self._then is None:
            return None
        now, then = (_buckets(side["latency"]) for side in (self._now, self._then))
        return None if now is None else now.since(then)

    @property
    def row_rate(self) -> float | None:
        """Rows a second."""
        if self._now is None or self._then is None or None in (self._now["rows"], self._then["rows"]):
            return None
        rows = self._now["rows"] - self._then["rows"]
        return rows / self.seconds if rows >= 0 else None


def _buckets(kept: Sequence[Any] | None) -> Buckets | None:
    return None if kept is None else Buckets(tuple(kept[0]), tuple(kept[1]), float(kept[2]))
