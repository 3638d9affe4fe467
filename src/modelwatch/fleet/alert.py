"""One alert, and what its texts and links are made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from .options import RuleOptions

Severity = Literal["info", "warning", "critical"]


@dataclass(frozen=True, kw_only=True)
class Alert:
    """An alert rule.

    Attributes
    ----------
    name
        It begins with `Modelwatch`; the runbook has a heading of this name.
    severity
        "critical" wakes somebody, "warning" waits for the morning, "info" is for who looks.
    category
        What it is about; alerts of one category are told together.
    expr
        PromQL; its value is that of the summary.
    wait
        How long it must be true.
    summary, description
        Templates of Prometheus.
    dashboard
        What `of` returns.
    labels
        Further labels.
    """

    name: str
    severity: Severity
    category: Literal["service", "drift", "quality", "model", "staleness", "resources", "library"]
    expr: str
    wait: str
    summary: str
    description: str
    dashboard: str
    labels: Mapping[str, str] = field(default_factory=dict)

    def rule(self, options: RuleOptions) -> dict[str, Any]:
        """As a rule file has it."""
        chosen = f"{'&' if '?' in self.dashboard else '?'}var-job={_encoded('job')}"
        job = chosen if "job" in options.by else ""  # an empty one would choose nothing
        return {
            "alert": self.name,
            "expr": self.expr,
            "for": self.wait,
            "labels": {"severity": self.severity, "category": self.category, **self.labels, **options.labels},
            "annotations": {
                "summary": self.summary,
                "description": self.description,
                "runbook_url": f"{options.runbook_url}#{self.name.lower()}",
                "dashboard": f"{options.dashboard_url.rstrip('/')}/d/{self.dashboard}{job}",
            },
        }


def of(dashboard: str, *labels: str) -> str:
    """The path of a dashboard with its variables as the alert's labels say.

    >>> of("drift", "feature")
    'modelwatch-drift?var-feature={{ $labels.feature | urlquery }}'
    """
    chosen = "&".join(f"var-{label}={_encoded(label)}" for label in labels)
    return f"modelwatch-{dashboard}" + (f"?{chosen}" if chosen else "")


def asked(record: str, labels: tuple[str, ...], shape: str) -> str:
    """Another recorded value with the alert's labels, for a text; nothing where there is none.

    Names of features come from the reference and may hold anything: %q quotes them.
    """
    query = f"{record}{{{','.join(f'{label}=%q' for label in labels)}}}"
    values = " ".join(f"$labels.{label}" for label in labels)
    value = f"{{{{ . | first | value | printf `{shape}` }}}}"
    return f"{{{{ with printf `{query}` {values} | query }}}}{value}{{{{ end }}}}"


def _encoded(label: str) -> str:
    return f"{{{{ $labels.{label} | urlquery }}}}"
