"""The registry and its text: what a foreign collector does costs only what it alone brings."""

from __future__ import annotations

import os
import re
import signal
import threading
import time

import pytest
from prometheus_client import CollectorRegistry, Counter, Enum, Gauge, Histogram, Info, Summary, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics

from modelwatch.guard import Guard
from modelwatch.metrics.families import Collected
from modelwatch.metrics.pace import NoPace
from modelwatch.metrics.registry import Registry, render
from modelwatch.series import Sample
from modelwatch.settings import Settings


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
    return [wrong_value, wrong_label, None, "no family"]


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


@pytest.mark.swallows
def test_a_family_comes_once(ours, guard):
    """A second family of a name is left out, so that the page stays valid, and is counted."""
    ours.register(Foreign(GaugeMetricFamily("depth", "D", 1), GaugeMetricFamily("depth", "D", 2)))
    [family] = parse_openmetrics(render(ours, guard, openmetrics=True).decode())
    assert [sample.value for sample in family.samples] == [1]
    assert guard.errors["scrape"] == 1


@pytest.mark.swallows
def test_labels_that_are_made_alike_are_counted(ours, guard):
    """Samples that are left out, because their labels are the same once they can be read, are no silent loss."""
    family = GaugeMetricFamily("depth", "D", labels=["a"])
    for value in ("\ud800", "\udfff", "fine"):
        family.add_metric([value], 1)
    ours.register(Foreign(family))
    [shown] = parse_openmetrics(render(ours, guard, openmetrics=True).decode())
    assert [sample.labels["a"] for sample in shown.samples] == ["?", "fine"]
    assert guard.errors["scrape"] == 1


def own(guard):
    """The library's own collector, of one number."""
    collected = Collected(Settings(), guard)
    collected.sources.append(lambda: [Sample("model_rows_total", ("bike", "1"), 7)])
    return collected


def test_our_own_come_first(ours, guard):
    """Whoever registered first, the library's own families come before those of users."""
    fill(ours)
    ours.register(own(guard))
    names = [family.name for family in ours.collect()]
    assert names == ["model_rows", "jobs", "depth", "size_bytes"]
    page = render(ours, guard).decode()
    assert page.index("model_rows") < page.index("jobs_total")
    ours.unregister(ours._own[0])
    assert [family.name for family in ours.collect()] == ["jobs", "depth", "size_bytes"]


def test_our_own_are_written_with_pauses(ours, guard):
    """The library's own families pass the pace that is given, each of them."""
    looked = []

    class Counting(NoPace):
        def look(self):
            looked.append(True)

    ours.register(own(guard))
    assert render(ours, guard, pace=Counting()) == render(ours, guard)
    assert looked == [True]


class Hanging:
    """A collector that hangs until it is let go."""

    def __init__(self):
        self.go, self.asked = threading.Event(), 0

    def collect(self):
        self.asked += 1
        assert self.go.wait(30)
        return []


@pytest.mark.swallows
@pytest.mark.parametrize("read", [render, lambda registry, _: generate_latest(registry)])
def test_one_that_hangs_costs_its_own(guard, read):
    """A collector that hangs is absent, on our page as on one that prometheus_client makes; all others are there."""
    registry, hanging = Registry(guard, collect_seconds=0.2), Hanging()
    registry.register(hanging)
    registry.register(own(guard))
    fill(registry)
    try:
        for scrapes in range(1, 4):
            page = read(registry, guard)
            assert b"model_rows_total" in page
            assert b"jobs_total" in page
            assert guard.errors["scrape"] == scrapes
        assert hanging.asked == 1
    finally:
        hanging.go.set()


@pytest.mark.swallows
def test_what_a_family_does_while_it_is_written_costs_its_own(guard):
    """A family whose samples come late, or never, is of the collector that brought it: the page goes on without it."""
    registry, hanging = Registry(guard, collect_seconds=0.2), Hanging()

    class Lazy:
        name, documentation, type, unit = "lazy", "L.", "gauge", ""

        @property
        def samples(self):
            return hanging.collect()

    registry.register(Foreign(Lazy()))
    fill(registry)
    try:
        assert b"jobs_total" in render(registry, guard)
        assert guard.errors["scrape"] == 1
    finally:
        hanging.go.set()


@pytest.mark.swallows
def test_a_function_of_a_gauge_may_fail(ours, guard):
    """A gauge that asks a function of the user's, which raises, costs its own."""
    fill(ours)
    Gauge("asked", "A.", registry=ours).set_function(lambda: 1 / 0)
    page = render(ours, guard)
    assert b"jobs_total" in page
    assert b"asked" not in page
    assert guard.errors["scrape"] == 1


class Doubled(Gauge):
    """A metric of prometheus_client whose `collect` is a user's own."""

    def collect(self):
        return [GaugeMetricFamily("doubled", "D", 2 * family.samples[0].value) for family in super().collect()]


def test_a_collect_of_ones_own_is_used(ours, guard):
    """A class that is made of a metric of prometheus_client is asked in the way that it says."""
    Doubled("single", "S", registry=ours).set(3)
    assert b"\ndoubled 6.0\n" in render(ours, guard)


@pytest.mark.parametrize("openmetrics", [False, True])
def test_every_kind_of_metric_is_streamed_as_it_is_collected(ours, guard, openmetrics):
    """Metrics of prometheus_client, whose samples are made while they are written, are those that `collect` brings."""
    fill(ours)
    Summary("took", "T.", ["kind"], registry=ours, unit="seconds").labels("a").observe(2.0)
    Info("build", "B.", registry=ours).info({"version": "1", "odd": 'a "b" \n'})
    Enum("phase", "P.", states=["on", "off"], registry=ours).state("off")
    Counter("seen", "S.", registry=ours).inc(3, exemplar={"trace": "x"})
    Gauge("no_children", "N.", ["kind"], registry=ours)
    counter = Counter("emptied", "E.", ["kind"], namespace="shop", subsystem="cart", registry=ours)
    counter.labels("bad\ud800").inc()
    page = render(ours, guard, openmetrics=openmetrics)
    counter.remove("bad\ud800")
    counter.labels("bad?").inc()
    theirs = (generate_openmetrics if openmetrics else generate_latest)(ours)
    assert without_times(page) == without_times(theirs)


def without_times(page):
    """The page without what it says of when a metric was made."""
    return re.sub(rb"(_created\S* )\S+", rb"\1", page)


@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
def test_a_forked_child_needs_no_lock_of_its_parent(ours, guard):
    """A child forked while locks of the registry are held, as by a scrape, still renders."""
    fill(ours)
    ours.set_target_info({"env": "prod"})
    with ours._lock, ours._foreign._changed:
        child = os.fork()
        if child == 0:  # pragma: no cover - another process
            code = 1
            try:
                page = render(ours, guard)
                code = 0 if b"target_info" in page and b"jobs_total" in page else 2
            finally:
                os._exit(code)
    deadline, status = time.monotonic() + 30, (0, 0)
    while not status[0] and time.monotonic() < deadline:
        status = os.waitpid(child, os.WNOHANG)
        time.sleep(0.005)
    if not status[0]:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert status[0] == child
    assert os.waitstatus_to_exitcode(status[1]) == 0


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
