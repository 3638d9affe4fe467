"""The registry and its text: what a foreign collector does costs only what it alone brings."""

from __future__ import annotations

import re

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics

from modelwatch.guard import Guard
from modelwatch.metrics.registry import Registry, render


class Foreign:
    """A user's collector that brings families, and then raises what it is given."""

    def __init__(self, *families, error=None):
        self.families, self.error = families, error

    def collect(self):
        yield from self.families
        if self.error is not None:
            raise self.error


@pytest.fixture
def guard():
    return Guard()


@pytest.fixture
def ours(guard):
    """A registry of the kind under test."""
    return Registry(guard)


def fill(registry):
    """One metric of each usual kind."""
    Counter("jobs", "Jobs.", ["kind"], registry=registry).labels('a "b"').inc(2)
    Gauge("depth", "Depth.", registry=registry).set(3)
    Histogram("size_bytes", "Size.", buckets=(1, 10), registry=registry).observe(5)


@pytest.mark.parametrize("encode", [generate_latest, generate_openmetrics])
def test_text_is_that_of_the_client_library(ours, guard, encode):
    """Without a failure the text is byte for byte what prometheus_client makes of the registry."""
    fill(ours)
    text = render(ours, guard, openmetrics=encode is generate_openmetrics)
    assert text == encode(ours)
    assert b"jobs_total" in text


def test_order_is_that_of_registration(ours):
    """Collectors are shown in the order in which they came, less those that were taken out."""
    first, second = Foreign(GaugeMetricFamily("b", "B", 1)), Foreign(GaugeMetricFamily("a", "A", 1))
    ours.register(first)
    ours.register(second)
    assert [family.name for family in ours.collect()] == ["b", "a"]
    ours.unregister(first)
    assert [family.name for family in ours.collect()] == ["a"]
    with pytest.raises(KeyError):
        ours.unregister(first)


def test_names_cannot_clash(ours):
    """A name that is taken is refused, and the refused collector is not shown."""
    Gauge("depth", "Depth.", registry=ours).set(1)
    with pytest.raises(ValueError, match="depth"):
        Gauge("depth", "Other.", registry=ours)
    assert [family.documentation for family in ours.collect()] == ["Depth."]


def test_target_info_is_shown(ours, guard):
    """What the user tells about the target is shown as with any registry."""
    ours.set_target_info({"env": "prod"})
    assert b'target_info{env="prod"} 1.0' in render(ours, guard)


@pytest.mark.swallows
@pytest.mark.parametrize("openmetrics", [False, True])
def test_a_failing_collector_costs_its_own(ours, guard, openmetrics):
    """A collector that raises, even after its first family, is left out; those before and after it are shown."""
    ours.register(Foreign(GaugeMetricFamily("before", "B", 1)))
    ours.register(Foreign(GaugeMetricFamily("half", "H", 1), error=ZeroDivisionError()))
    ours.register(Foreign(GaugeMetricFamily("after", "A", 1)))
    text = render(ours, guard, openmetrics=openmetrics).decode()
    assert "before 1.0" in text
    assert "after 1.0" in text
    assert "half" not in text
    assert guard.errors["scrape"] == 1


@pytest.mark.swallows
def test_another_registry_shows_what_came_before(registry, guard):
    """Of a registry that fails as a whole, what it brought before is shown."""
    registry.register(Foreign(GaugeMetricFamily("before", "B", 1), error=ZeroDivisionError()))
    assert b"before 1.0" in render(registry, guard)
    assert guard.errors["scrape"] == 1


def broken_families():
    wrong_value = Metric("wrong_value", "W", "gauge")
    wrong_value.add_sample("wrong_value", {}, "text")
    wrong_label = Metric("wrong_label", "W", "gauge")
    wrong_label.add_sample("wrong_label", {"a": 1}, 1)
    surrogate = GaugeMetricFamily("surrogate", "S", labels=["a"])
    surrogate.add_metric(["\ud800"], 1)
    return [wrong_value, wrong_label, surrogate, None, "no family"]


@pytest.mark.swallows
@pytest.mark.parametrize("openmetrics", [False, True])
@pytest.mark.parametrize("family", broken_families(), ids=repr)
def test_a_family_that_cannot_be_written_is_left_out(ours, guard, family, openmetrics):
    """What cannot be encoded costs its family, and not a byte of it is in the text."""
    ours.register(Foreign(GaugeMetricFamily("before", "B", 1), family, GaugeMetricFamily("after", "A", 1)))
    expected = CollectorRegistry()
    expected.register(Foreign(GaugeMetricFamily("before", "B", 1), GaugeMetricFamily("after", "A", 1)))
    encode = generate_openmetrics if openmetrics else generate_latest
    assert render(ours, guard, openmetrics=openmetrics) == encode(expected)
    assert guard.errors["scrape"] == 1


def test_a_family_comes_once(ours, guard):
    """A second family of a name is left out, so that the page stays valid."""
    ours.register(Foreign(GaugeMetricFamily("depth", "D", 1), GaugeMetricFamily("depth", "D", 2)))
    [family] = parse_openmetrics(render(ours, guard, openmetrics=True).decode())
    assert [sample.value for sample in family.samples] == [1]


@pytest.mark.parametrize(
    ("name", "samples"),
    [
        ("jobs_total", ["jobs_total"]),
        ("jobs", ["jobs_total", "jobs_created"]),
        ("depth", ["depth"]),
        ("size_bytes_sum", ["size_bytes_sum"]),
        ("size_bytes", ["size_bytes_bucket", "size_bytes_count", "size_bytes_sum", "size_bytes_created"]),
        ("size", []),
        ("", []),
    ],
)
def test_names_restrict(ours, guard, name, samples):
    """A name of a sample brings it alone, a name of a family all of it, any other name nothing."""
    fill(ours)
    text = render(ours, guard, openmetrics=True, names=frozenset({name})).decode()
    assert {re.match(r"\w+", line)[0] for line in text.splitlines() if line[0] != "#"} == set(samples)


def test_names_add_up(ours, guard):
    """Several names bring what each of them brings."""
    fill(ours)
    text = render(ours, guard, names=frozenset({"depth", "jobs_total", "nothing"})).decode()
    assert {re.match(r"\w+", line)[0] for line in text.splitlines() if line[0] != "#"} == {"depth", "jobs_total"}


def test_restricting_keeps_the_family_whole(ours, guard):
    """A restricted family keeps type, help and unit, and the collector's own object is left alone."""
    family = CounterMetricFamily("cpu_seconds", "Time.", 1, unit="seconds", created=5.0)
    ours.register(Foreign(family))
    text = render(ours, guard, openmetrics=True, names=frozenset({"cpu_seconds_created"})).decode()
    assert "# UNIT cpu_seconds seconds" in text
    assert "cpu_seconds_total" not in text
    assert len(family.samples) == 2
