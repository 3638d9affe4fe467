"""The queries that have nothing to say in the seeded Prometheus, each with the reason."""

from __future__ import annotations

SILENT: dict[tuple[str, str, str], str] = {
    (
        "modelwatch-infra",
        "Not counted, and why",
        "D",
    ): "its counter appears only once too many label values were folded",
}
"""(uid of the dashboard, title of the panel, refId) -> why. One that has data fails tests/grafana/test_queries.py."""
