"""The runbook has a section for each alert, and what it tells people to type works."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import promql_parser
import pytest

from modelwatch.fleet.alerts import alert_groups, alert_names
from modelwatch.fleet.options import RuleOptions
from modelwatch.fleet.recording import recorded_names
from modelwatch.metrics.catalogue import CATALOGUE

TEXT = (Path(__file__).parents[2] / "grafana" / "runbook.md").read_text("utf-8")
SECTIONS = dict(part.split("\n", 1) for part in re.split(r"^## ", TEXT, flags=re.MULTILINE)[1:])
PARTS = ["Means", "Matters", "Look", "Causes", "Do", "Mute"]
# Of the chapter on late labels, which the catalogue has as soon as labels can be recorded.
RESERVED = {
    "model_performance_score", "model_performance_reference", "model_performance_window_rows",
    "model_performance_label_coverage_ratio",
}  # fmt: skip
FROM_PROMETHEUS = {"up", "scrape_duration_seconds"}


def queries() -> list[tuple[str, str]]:
    """(section, expression) of each query; blank lines divide those of one block."""
    fence = re.compile(r"```promql\n(.*?)```", re.DOTALL)
    blocks = [(name, block) for name, text in SECTIONS.items() for block in fence.findall(text)]
    return [(name, query.strip()) for name, block in blocks for query in re.split(r"\n\s*\n", block)]


def selectors(tree: object) -> Iterator[tuple[str, set[str]]]:
    """(name, labels that are matched) of each selector in an expression."""
    if isinstance(tree, promql_parser.VectorSelector):
        yield tree.name, {matcher.name for matcher in tree.matchers.matchers}
    for part in ("vector_selector", "expr", "lhs", "rhs"):
        if (inner := getattr(tree, part, None)) is not None:
            yield from selectors(inner)
    for inner in getattr(tree, "args", None) or ():
        yield from selectors(inner)


def test_every_alert_has_a_section():
    """There is one section for each alert, in any order, and none for an alert that does not exist."""
    assert sorted(SECTIONS) == sorted(alert_names(RuleOptions()))


def test_links_lead_to_sections():
    """The link of an alert ends with the anchor that a page of Markdown makes of the heading."""
    anchors = {re.sub(r"[^\w-]", "", name.lower().replace(" ", "-")) for name in SECTIONS}
    for group in alert_groups(RuleOptions())["groups"]:
        for rule in group["rules"]:
            assert rule["annotations"]["runbook_url"].partition("#")[2] in anchors


@pytest.mark.parametrize("name", SECTIONS)
def test_every_section_has_all_parts(name):
    """A section says what it means, why it matters, what to look at, causes, what to do and how to mute it."""
    text = SECTIONS[name]
    assert re.findall(r"^\*\*(\w+)\.\*\*", text, re.MULTILINE) == PARTS
    look = text.partition("**Look.**")[2].partition("**Causes.**")[0]
    steps = re.split(r"^\d\. ", look, flags=re.MULTILINE)[1:]
    assert len(steps) == 3
    assert all(re.search(r"```(promql|console)\n", step) for step in steps)


@pytest.mark.parametrize(("name", "query"), queries(), ids=lambda value: value[:60])
def test_queries_can_be_typed(name, query):
    """Each query parses, and asks for what is there: in the catalogue, recorded by the rules, or Prometheus' own."""
    found = list(selectors(promql_parser.parse(query)))
    assert found
    for metric, labels in found:
        own = CATALOGUE.get(re.sub(r"_(bucket|sum|count)$", "", metric), CATALOGUE.get(metric))
        if own is not None:
            assert metric == own.name if own.kind != "histogram" else metric != own.name
            assert labels <= {*own.labels, "job", "instance"}, metric
        else:
            assert metric in {*recorded_names(RuleOptions()), *RESERVED, *FROM_PROMETHEUS}
            assert labels <= {"job", "instance", "model_name", "model_version", "reference", "feature", "bin"}, metric
