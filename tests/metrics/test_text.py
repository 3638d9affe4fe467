"""A family as text: that of prometheus_client where that is good, and readable where that is not."""

from __future__ import annotations

import random
import string

import pytest
from prometheus_client import generate_latest
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeHistogramMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
    StateSetMetricFamily,
    SummaryMetricFamily,
    UnknownMetricFamily,
)
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from prometheus_client.samples import Exemplar, Sample, Timestamp

from modelwatch.metrics.pace import NoPace
from modelwatch.metrics.text import LONGEST, Form, text_of

FORMS = {"text": Form(), "openmetrics": Form(openmetrics=True)}
each_form = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
FIT = string.ascii_letters + string.digits + " \"\\\n\t{}=,#'/:;é\u00a0\u200bß漢🚲"
HOSTILE = {
    "half of a surrogate pair": "a\ud800b",
    "the other half": "\udfff",
    "NUL": "a\x00b",
    "carriage return": "a\r\nforged_total 1\r\n",
    "line feed": "a\nforged_total 1\n",
    "quotes": 'a"} 1\nforged_total{b="',
    "backslash": "a\\",
    "backslash and quote": '\\"',
    "other ends of lines": "a\x0bforged_total 1\x0c\x1c\x1d\x1e\x85\u2028\u2029forged_total 1",
    "escape": "\x1b[31mred",
    "a mebibyte": "x" * 2**20,
    "a mebibyte of surrogates": "\udc80" * 2**20,
    "delete": "\x7f\x80\x9f",
}


class Single:
    """What an encoder takes for a registry, of one family."""

    def __init__(self, family):
        self.family = family

    def collect(self):
        return [self.family]


def theirs(family, form):
    if form.openmetrics:
        return generate_openmetrics(Single(family)).removesuffix(b"# EOF\n")
    return generate_latest(Single(family))


def written(family, form):
    return text_of(family, form, NoPace())


def parsed(text, form):
    """The families that a strict reader finds."""
    page = text.decode()
    return list(parse_openmetrics(page + "# EOF\n") if form.openmetrics else parse_text(page))


def gauge(values, label="label"):
    family = GaugeMetricFamily("depth", "Depth.", labels=[label])
    for number, value in enumerate(values):
        family.add_metric([value], number)
    return family


def random_families(rng):
    """One of each kind, with labels, numbers, times and exemplars drawn."""

    def word():
        return "".join(rng.choices(FIT, k=rng.randrange(12)))

    def values():
        return [word(), word() + str(next(numbers))]

    def number():
        return rng.choice(
            [0, 1, -2.5, 10**6, 123456789.125, 1e16, 3e-9, -7e22, float("inf"), float("nan"), rng.random()]
        )

    def time():
        return rng.choice([None, 0, 1700000000, 1700000000.5, Timestamp(1700000000, 7)])

    numbers = iter(range(1000))
    names, help_text = ["b_label", "a_label"], word() + "Help."
    counter = CounterMetricFamily("jobs", help_text, labels=names)
    depth = GaugeMetricFamily("depth_seconds", help_text, labels=names, unit="seconds")
    summary = SummaryMetricFamily("lengths", help_text, labels=names)
    sizes = HistogramMetricFamily("sizes", help_text, labels=names)
    waiting = GaugeHistogramMetricFamily("waiting", help_text, labels=names)
    info = InfoMetricFamily("build", help_text, labels=names)
    states = StateSetMetricFamily("phase", help_text, labels=names)
    unknown = UnknownMetricFamily("something", help_text, labels=names)
    for _ in range(5):
        exemplar = Exemplar({"trace": word()}, number(), rng.choice([None, 1700000000.25]))
        counter.add_metric(values(), abs(number()), created=rng.choice([None, 1700000000.5]), timestamp=time())
        counter.samples.append(Sample("jobs_total", dict(zip(names, values(), strict=True)), 1.0, time(), exemplar))
        depth.add_metric(values(), number(), timestamp=time())
        summary.add_metric(values(), 3, 4.5, timestamp=time())
        buckets = [("1.0", 2, exemplar), ("+Inf", 5)]
        sizes.add_metric(values(), buckets, sum_value=number(), timestamp=time())
        waiting.add_metric(values(), [("1.0", 2), ("+Inf", 5)], gsum_value=1.5, timestamp=time())
        info.add_metric(values(), {"version": word()}, timestamp=time())
        states.add_metric(values(), {"on": True, "off": False}, timestamp=time())
        unknown.add_metric(values(), number(), timestamp=time())
    sizes.add_sample("sizes_created", dict(zip(names, values(), strict=True)), 1700000000.5)
    empty = GaugeMetricFamily("nothing", "", labels=names)
    return [counter, depth, summary, sizes, waiting, info, states, unknown, empty]


@each_form
@pytest.mark.parametrize("seed", range(30))
def test_text_is_that_of_the_client_library(form, seed):
    """Families of all kinds, with hostile but legal labels, are byte for byte what prometheus_client writes."""
    for family in random_families(random.Random(seed)):
        text = written(family, form)
        assert text.text == theirs(family, form), family.name
        assert text.left_out == 0
        assert text.name == family.name


@each_form
@pytest.mark.parametrize("value", HOSTILE.values(), ids=HOSTILE)
def test_no_label_breaks_the_page(form, value):
    """Whatever a label holds, a strict reader finds the same samples, on as many lines, and nothing that was forged."""
    text = written(gauge(["fine", value, "last"]), form).text
    [family] = parsed(text, form)
    assert [sample.value for sample in family.samples] == [0, 1, 2]
    assert len(text.decode().splitlines()) == 5  # two of which say what it is
    assert all(len(sample.labels["label"]) <= LONGEST for sample in family.samples)
    assert len(text) < 5 * LONGEST


@each_form
@pytest.mark.parametrize("value", HOSTILE.values(), ids=HOSTILE)
def test_no_help_breaks_the_page(form, value):
    """The text that says what a metric is, is escaped or made fit as well."""
    text = written(GaugeMetricFamily("depth", value, 1), form).text
    [family] = parsed(text, form)
    assert family.samples[0].value == 1
    assert len(text.decode().splitlines()) == 3


@each_form
def test_what_is_legal_is_not_touched(form):
    """Line feeds, tabs, quotes, spaces of all kinds and other alphabets reach the reader as they are."""
    value = 'two\nlines\t"quoted" \\ \u00a0 \u200b Grüße 漢字 🚲'
    [family] = parsed(written(gauge([value]), form).text, form)
    assert family.samples[0].labels["label"] == value


@each_form
def test_labels_that_are_made_alike_are_shown_once(form):
    """Of samples whose labels are the same once they are fit, the first is shown and the others are told."""
    long = "x" * 2000
    text = written(gauge(["a\ud800", "fine", "a\udfff", long + "1", long + "2", "a?"]), form)
    [family] = parsed(text.text, form)
    assert [sample.value for sample in family.samples] == [0, 1, 3]
    assert text.left_out == 3


@each_form
@pytest.mark.parametrize(
    ("name", "shown"), [("http.method", "http_method"), ("2nd", "_nd"), ('a"} 1\n', "a___1_"), ("é", "_")]
)
def test_names_of_labels_are_made_fit(form, name, shown):
    """A label whose name is none has underscores, and its value is kept."""
    [family] = parsed(written(gauge(["v"], label=name), form).text, form)
    assert family.samples[0].labels == {shown: "v"}


@each_form
def test_names_of_samples_are_made_fit(form):
    """A sample whose name is none has underscores."""
    family = Metric("jobs", "Jobs.", "unknown")
    family.add_sample("jobs\nforged 1", {}, 2)
    assert b"\njobs_forged_1 2.0\n" in written(family, form).text


def labelled(labels):
    family = Metric("depth", "Depth.", "gauge")
    family.add_sample("depth", labels, 1)
    return family


def sampled(value=1.0, timestamp=None, exemplar=None, name="depth"):
    family = Metric("depth", "Depth.", "gauge")
    family.add_sample(name, {}, value, timestamp, exemplar)
    return family


class Odd:
    """A family that is none."""

    name, documentation, unit, type, samples = "odd", "Odd.", "", "gauge\n", ()


@each_form
@pytest.mark.parametrize(
    "family",
    [
        labelled({"": "v"}),
        labelled({"a.b": "v", "a-b": "v"}),
        labelled({"__name__": "other"}),
        labelled({"a": 1}),
        labelled({"a": None}),
        labelled({1: "a"}),
        sampled(value="text"),
        sampled(value=None),
        sampled(timestamp=float("nan")),
        sampled(timestamp=float("inf")),
        sampled(timestamp=1e300),
        sampled(name=""),
        Odd,
        None,
    ],
    ids=repr,
)
def test_what_no_reader_would_take_is_refused(form, family):
    """What cannot be written so that a page stays readable raises, and costs its family."""
    with pytest.raises((ValueError, TypeError, AttributeError, KeyError)):
        written(family, form)


def test_exemplars_stand_only_where_they_may():
    """OpenMetrics has exemplars of buckets and counters only; the text format has none and does not mind."""
    family = sampled(exemplar=Exemplar({"trace": "x"}, 1.0))
    with pytest.raises(ValueError, match="exemplars"):
        written(family, FORMS["openmetrics"])
    assert written(family, FORMS["text"]).text.endswith(b"\ndepth 1.0\n")


@pytest.mark.parametrize("value", HOSTILE.values(), ids=HOSTILE)
def test_no_exemplar_breaks_the_page(value):
    """The labels of an exemplar are made fit like all others."""
    family = CounterMetricFamily("jobs", "Jobs.")
    family.add_sample("jobs_total", {}, 3.0, None, Exemplar({"trace": value}, 1.0))
    text = written(family, FORMS["openmetrics"]).text
    assert len(text.decode().splitlines()) == 3
    assert text.decode().splitlines()[2].startswith('jobs_total 3.0 # {trace="')


@pytest.mark.skipif("native_histogram" not in Sample._fields, reason="this prometheus_client has none")
@each_form
def test_native_histograms_are_left_out(form):
    """A native histogram, which neither format has, leaves the other samples of its family alone."""
    from prometheus_client.samples import NativeHistogram

    family = HistogramMetricFamily("sizes", "Sizes.")
    family.samples.append(Sample("sizes", {}, None, None, None, NativeHistogram(1, 1.0, 0, 0.0, 0)))
    family.add_sample("sizes_count", {}, 5)
    assert written(family, form).text.splitlines()[2:] == [b"sizes_count 5.0"]


@each_form
def test_names_choose(form):
    """A name of a sample brings it alone, that of the family all of it, and any other name nothing at all."""
    family = SummaryMetricFamily("lengths", "Lengths.", 3, 4.5)
    for names, lines in (({"lengths_sum"}, 3), ({"lengths"}, 4), ({"lengths_sum", "lengths"}, 4), ({"other"}, 0)):
        text = written(family, form._replace(names=frozenset(names))).text
        assert len(text.splitlines()) == lines, names


@each_form
def test_samples_are_gone_through_with_pauses(form):
    """Each of many samples passes the pace, which may pause there."""
    looked = []

    class Counting(NoPace):
        def look(self):
            looked.append(True)

    text_of(gauge(map(str, range(10_000))), form, Counting())
    assert len(looked) == 400
