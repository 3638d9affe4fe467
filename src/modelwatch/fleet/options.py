"""What can be chosen when rules are generated, in one frozen object. What could never work is refused."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from ..exceptions import ConfigurationError
from ..metrics.catalogue import CATALOGUE

LATENCY = "model_request_latency_seconds"
FASTEST_BURN = 14.4
"""The largest factor of the burn-rate alerts: the error budget of 30 days is gone in two."""

MODEL = ("model_name", "model_version")
_DAY = 86_400
_DURATION = re.compile(r"([1-9]\d{0,4})([smhdw])")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": _DAY, "w": 7 * _DAY}
_LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
_TAKEN = {
    *MODEL, "reference", "feature", "bin", "instance", "le", "status", "edge", "source", "reason", "stage", "detector",
    "signal", "gpu_id", "severity", "category", "alertname", "alertstate", "window",
}  # fmt: skip
RAREST = "2m"
"""Between two evaluations: Prometheus forgets a value after five minutes, and one evaluation may fail."""


@dataclass(frozen=True, kw_only=True)
class RuleOptions:
    """How the rules are made.

    Attributes
    ----------
    windows
        Lengths of time over which the fleet is compared with the reference, as Prometheus writes them. The alerts
        look at the first. From a day on, a window is made of increases of five minutes.
    by
        Labels, besides those of the model, that tell services apart: they are kept, and all others added up.
    statistics
        "default" for PSI, smoothed PSI, Jensen-Shannon and Kolmogorov-Smirnov, "all" for every one there is.
    slo
        Share of the requests that must not fail.
    latency, latency_slo
        Seconds, and the share of the requests that must not take longer.
    latency_bounds
        Bucket bounds that the services have, of which `latency` must be one: so its share is counted, not estimated.
    psi
        Smoothed PSI from which a feature has drifted.
    min_rows
        Rows below which nothing is said about a feature.
    alert_rows
        Rows below which no alert is raised over a feature's distribution.
    pending
        How long drift must last before it is an alert.
    interval
        How often drift is evaluated, at least each two minutes: Prometheus forgets a value after five, and one may come
        late or never. Windows from a day on are evaluated each two minutes whatever this says.
    labels
        Further labels of every alert, such as a team.
    runbook_url, dashboard_url
        Where the runbook and Grafana are. To the first a fragment with the alert's name is added, to the other a path.

    Raises
    ------
    ConfigurationError
        Something cannot be used. The message says what, and what would do.

    Notes
    -----
    Threads and processes: frozen, so any number.

    >>> RuleOptions(windows=("30m",)).windows
    ('30m',)
    """

    windows: tuple[str, ...] = ("1h", "24h")
    by: tuple[str, ...] = ("cluster", "namespace", "job")
    statistics: Literal["default", "all"] = "default"
    slo: float = 0.999
    latency: float = 0.25
    latency_slo: float = 0.99
    latency_bounds: tuple[float, ...] = CATALOGUE[LATENCY].buckets
    psi: float = 0.2
    min_rows: int = 200
    alert_rows: int = 1000
    pending: str = "15m"
    interval: str = "1m"
    labels: Mapping[str, str] = field(default_factory=dict)
    runbook_url: str = "runbook.md"
    dashboard_url: str = "http://localhost:3000"

    def __post_init__(self) -> None:
        for name in ("slo", "latency_slo"):
            self._check_objective(name, getattr(self, name))
        if self.latency not in self.latency_bounds:
            raise ConfigurationError(
                f"Expected the latency objective to be a bucket bound of {LATENCY}, so that its share is exact, got "
                f"{self.latency:g} s. Choose one of {', '.join(f'{bound:g}' for bound in self.latency_bounds)}; or "
                "give the services another bucket (MODELWATCH_BUCKETS) and name all here: --latency-bounds."
            )
        if self.statistics not in {"default", "all"}:
            raise ConfigurationError(f'Expected statistics "default" or "all", got {self.statistics!r}. Choose one.')
        if not (math.isfinite(self.psi) and self.psi > 0):
            raise ConfigurationError(f"Expected a PSI above 0, got {self.psi!r}. Use 0.2 if in doubt.")
        for name in ("min_rows", "alert_rows"):
            if getattr(self, name) < 1:
                raise ConfigurationError(
                    f"Expected `{name}` of at least 1, got {getattr(self, name)}. Use 200 and 1000."
                )
        self._check_lengths()
        self._check_labels()

    def _check_objective(self, name: str, objective: float) -> None:
        least = 1 - 1 / FASTEST_BURN
        if not least < objective < 1:
            raise ConfigurationError(
                f"Expected `{name}` below 1 and above {least:.3f}, where a burn of {FASTEST_BURN} times the budget is "
                f"still possible, got {objective!r}. Use 0.99 or 0.999."
            )

    def _check_lengths(self) -> None:
        for length in (*self.windows, self.pending, self.interval):
            seconds(length)
        if seconds(self.interval) > seconds(RAREST):
            raise ConfigurationError(
                f"Expected an interval of at most {RAREST}, as Prometheus forgets a value after five minutes and one "
                f"evaluation may fail, got {self.interval!r}. Use 1m."
            )
        if not self.windows or len(set(self.windows)) != len(self.windows):
            raise ConfigurationError(
                f"Expected one window or several different ones, got {self.windows}. Name each once."
            )

    def _check_labels(self) -> None:
        for name in (*self.by, *self.labels):
            if not _LABEL.fullmatch(name) or name.startswith("__") or name in _TAKEN:
                raise ConfigurationError(
                    f"Expected the name of a label that the rules do not set themselves, got {name!r}. "
                    "Choose another one."
                )
        if both := set(self.by) & set(self.labels):
            raise ConfigurationError(
                f"Expected labels of the alerts that are not grouped by, got {min(both)!r} in both. Leave one out."
            )


def seconds(length: str) -> int:
    """A length of time as Prometheus writes it, in seconds.

    Raises
    ------
    ConfigurationError
        It is none, or has several units.

    >>> seconds("30m")
    1800
    """
    found = _DURATION.fullmatch(length)
    if found is None:
        raise ConfigurationError(
            f"Expected a length of time in one unit, such as 30m, 1h or 7d, got {length!r}. Write it that way."
        )
    return int(found[1]) * _UNITS[found[2]]


def is_long(window: str) -> bool:
    """Whether a window is made of increases of five minutes, because its raw samples would be too many."""
    return seconds(window) >= _DAY
