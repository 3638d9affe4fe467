"""From what sources bring to families: types, buckets, switches, constant labels, and what must never be shown."""

from __future__ import annotations

import math
import shutil
import subprocess

import pytest
from prometheus_client import Gauge, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from modelwatch.exceptions import ConfigurationError
from modelwatch.guard import Guard
from modelwatch.metrics.catalogue import CATALOGUE, LAYERS
from modelwatch.metrics.families import Collected, bounds_of, check_settings, enabled
from modelwatch.metrics.registry import Registry, render
from modelwatch.series import Cell, Sample, Series, observe
from modelwatch.settings import Settings

M = ("bike", "1")


def collected(*sources, guard=None, **settings):
    """A `Collected` of sources, each a callable or a list of what it brings."""
    result = Collected(Settings(**settings), guard or Guard())
    result.sources += [source if callable(source) else source.copy for source in sources]
    return result


def samples_of(collected):
    """{(sample name, label values): value} of all that is collected."""
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in collected.collect()
        for sample in family.samples
    }


def something_of_each():
    """One sample or cell of every metric."""
    for name, entry in CATALOGUE.items():
        labels = tuple(f"a {label}" for label in entry.labels)
        if entry.kind == "histogram":
            bounds = entry.buckets or (0.5, 1.5)
            yield Cell(name, labels, bounds, [*range(len(bounds) + 1), 7.5])
        else:
            yield Sample(name, labels, 3)


def test_counters_keep_their_ending():
    """A counter is shown with `_total` at its end, once."""
    source = [Sample("model_rows_total", M, 7)]
    [family] = collected(source).collect()
    assert (family.type, family.name, family.samples[0].name) == ("counter", "model_rows", "model_rows_total")
    assert family.samples[0].labels == {"model_name": "bike", "model_version": "1"}
    assert family.samples[0].value == 7


def test_histograms_cumulate():
    """A histogram shows counts up to each bound, the open bucket as +Inf, count and sum."""
    series = Series()
    bounds = (1.0, 2.5)
    place = series.histogram("model_batch_size", ("bike",), bounds)
    for value in (1, 2, 2, 9):
        observe(series.values, place, bounds, value)
    assert samples_of(collected(series.cells)) == {
        ("model_batch_size_bucket", "bike", "1.0"): 1,
        ("model_batch_size_bucket", "bike", "2.5"): 3,
        ("model_batch_size_bucket", "bike", "+Inf"): 4,
        ("model_batch_size_count", "bike"): 4,
        ("model_batch_size_sum", "bike"): 14,
    }


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_unknown_is_left_out(value):
    """A number that is not finite is not shown, and a family without a sample is not there at all."""
    source = [
        Sample("model_drifted_features", M, value),
        Sample("model_feature_drift_psi", (*M, "temp"), value),
        Sample("model_feature_drift_psi", (*M, "hour"), 0.25),
    ]
    assert samples_of(collected(source)) == {("model_feature_drift_psi", *M, "hour"): 0.25}


@pytest.mark.parametrize("total", [math.nan, math.inf])
def test_a_spoilt_sum_is_left_out(total):
    """A sum that is not finite is not shown, and the buckets still are."""
    shown = samples_of(collected([Cell("model_batch_size", ("bike",), (1.0,), [2, 3, total])]))
    assert shown == {("model_batch_size_bucket", "bike", "1.0"): 2, ("model_batch_size_bucket", "bike", "+Inf"): 5}


def test_order_is_that_of_the_catalogue():
    """Families come in the order of the catalogue, whatever the order of the sources."""
    first, second = "model_rows_total", "model_drifted_features"
    families = collected([Sample(second, M, 1)], [Sample(first, M, 1)]).collect()
    assert [family.name for family in families] == ["model_rows", second]


def test_constant_labels_are_on_all():
    """Constant labels follow the metric's own, on every sample of every type, fit to be shown."""
    family_samples = [
        sample
        for family in collected(something_of_each, labels={"team": "a\nb", "zone": "eu"}).collect()
        for sample in family.samples
    ]
    assert len(family_samples) > len(CATALOGUE)
    assert {(sample.labels["team"], sample.labels["zone"]) for sample in family_samples} == {("a?b", "eu")}


def test_layers_are_switches():
    """A layer that is switched off is not shown, and one of its metrics can be asked for all the same."""
    shown = {name for name, *_ in samples_of(collected(something_of_each, metrics={"infra": False}))}
    assert "model_process_threads" not in shown
    assert "model_gpu_memory_bytes" in shown
    shown = {
        name
        for name, *_ in samples_of(
            collected(something_of_each, metrics={"infra": False, "model_process_threads": True})
        )
    }
    assert {"model_process_threads"} == shown & {"model_process_threads", "model_process_open_fds"}


def test_off_by_default_wants_to_be_named():
    """What is off by default comes when it is named, not with its layer."""
    entry = CATALOGUE["model_feature_drift_wasserstein"]
    assert not enabled(entry, Settings())
    assert not enabled(entry, Settings(metrics={"drift": True}))
    assert enabled(entry, Settings(metrics={entry.name: True, "drift": False}))


def test_bounds_of_settings_win():
    """Bucket bounds are those of the settings, else those of the catalogue."""
    assert bounds_of("model_batch_size", Settings(buckets={"model_batch_size": (1, 10)})) == (1, 10)
    assert bounds_of("model_batch_size", Settings()) == (1, 2, 4, 8, 16, 32, 64)


@pytest.mark.swallows
def test_a_failing_source_costs_its_own():
    """A source that fails, even halfway, brings nothing; the others are shown and the error is counted."""
    guard = Guard()

    def broken():
        yield Sample("model_drifted_features", M, 1)
        raise OSError("disk")

    shown = samples_of(collected(broken, [Sample("model_rows_total", M, 7)], guard=guard))
    assert shown == {("model_rows_total", *M): 7}
    assert guard.errors["scrape"] == 1


@pytest.mark.swallows
@pytest.mark.parametrize(
    "item",
    [
        Sample("model_no_such_metric", (), 1),
        Sample("model_rows_total", ("bike",), 1),
        Sample("model_rows_total", M, None),
        Sample("model_rows_total", M, 10**400),
        Sample("model_batch_size", ("bike",), 1),
        Cell("model_rows_total", M, (1.0,), [1, 2, 3]),
        Cell("model_batch_size", ("bike",), (1.0, 2.0), [1, 2]),
        Sample("model_rows_total", (None, "1"), 1),
    ],
    ids=repr,
)
def test_what_the_catalogue_does_not_know_is_not_shown(item):
    """A source that brings an unknown name, the wrong labels or the wrong kind of number is a failing source."""
    guard = Guard()
    shown = samples_of(collected([item], [Sample("model_drifted_features", M, 1)], guard=guard))
    assert shown == {("model_drifted_features", *M): 1}
    assert guard.errors["scrape"] == 1


def test_the_first_of_two_equals_counts():
    """Of two samples with the same labels, also after cleaning, from one source or two, the first is shown."""
    one = [Sample("model_drifted_features", ("a\n", "1"), 1), Sample("model_drifted_features", ("a\t", "1"), 2)]
    two = [Sample("model_drifted_features", ("a?", "1"), 3), Sample("model_drifted_features", M, 4)]
    assert samples_of(collected(one, two)) == {
        ("model_drifted_features", "a?", "1"): 1,
        ("model_drifted_features", *M): 4,
    }


def test_unknown_in_one_source_is_filled_by_another():
    """A source that knows nothing does not hide what the next one knows."""
    unknown = [Sample("model_drifted_features", M, math.nan)]
    known = [Sample("model_drifted_features", M, 2)]
    assert samples_of(collected(unknown, known)) == {("model_drifted_features", *M): 2}


def test_everything_parses_back(registry):
    """Both parsers read every metric of the catalogue with its type, help and value; there is no `_created`."""
    everything = dict.fromkeys(CATALOGUE, True)
    own = collected(something_of_each, metrics=everything)
    registry.register(own)
    text, open_text = generate_latest(registry).decode(), generate_openmetrics(registry).decode()
    assert "_created" not in text + open_text
    for parsed in (list(parse_text(text)), list(parse_openmetrics(open_text))):
        assert {(family.type, family.documentation) for family in parsed} == {
            (entry.kind, entry.help) for entry in CATALOGUE.values()
        }
        shown = {
            (sample.name, *sorted(sample.labels.items())): sample.value
            for family in parsed
            for sample in family.samples
        }
        assert shown == {
            (sample.name, *sorted(sample.labels.items())): sample.value
            for family in own.collect()
            for sample in family.samples
        }
    units = {family.name: family.unit for family in parse_openmetrics(open_text)}
    assert units["model_process_cpu_seconds"] == "seconds"
    assert units["model_drifted_features"] == ""


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool, which comes with Prometheus")
def test_prometheus_own_linter_is_content():
    """`promtool check metrics` finds nothing to say against any metric of the catalogue."""
    registry = Registry(Guard())
    registry.register(collected(something_of_each, metrics=dict.fromkeys(CATALOGUE, True)))
    page = render(registry, Guard())
    done = subprocess.run(["promtool", "check", "metrics"], input=page, capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


@pytest.mark.parametrize(
    "value", ["a\ud800b", 'say "no"', "back\\slash", "two\nlines", "nul\0", "café", "x" * 5000, ""]
)
def test_hostile_label_values(value, registry):
    """Whatever a feature is called, the page can be read, and a sane name comes back as it was."""
    registry.register(collected([Sample("model_feature_drift_psi", (*M, value), 0.5)]))
    for encode, parse in ((generate_latest, parse_text), (generate_openmetrics, parse_openmetrics)):
        [family] = parse(encode(registry).decode("utf-8"))
        [sample] = family.samples
        assert sample.value == 0.5
        assert len(sample.labels["feature"]) <= 200
        if value.isprintable() and len(value) < 200:
            assert sample.labels["feature"] == value


def test_registering_reads_nothing(registry):
    """A registry learns the names, so that a user's own metric cannot clash, without asking any source."""

    def never():
        raise AssertionError("asked")

    registry.register(collected(never, metrics={"gpu": False}))
    with pytest.raises(ValueError, match="model_loaded_info"):
        Gauge("model_loaded_info", "Mine.", registry=registry)
    Gauge("model_gpu_memory_bytes", "Free, as it is switched off.", registry=registry)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"metrics": {"gpus": False}}, "metric or layer in `metrics`, got 'gpus'. Did you mean 'gpu'?"),
        ({"metrics": {"model_row_total": True}}, "'model_row_total'. Did you mean 'model_rows_total'?"),
        ({"metrics": {"qqq": True}}, "got 'qqq'. Remove it."),
        ({"buckets": {"model_batch_sizes": (1,)}}, "'model_batch_sizes'. Did you mean 'model_batch_size'?"),
        ({"buckets": {"model_rows_total": (1,)}}, "of a histogram in `buckets`, got the counter 'model_rows_total'"),
        ({"labels": {"status": "x"}}, "got 'status', which is a label of model_request_total"),
        ({"labels": {"predicted_class": "x"}}, "got 'predicted_class', which is a label of"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, message):
    """What the settings name must exist, or the error says what does."""
    with pytest.raises(ConfigurationError) as caught:
        check_settings(Settings(**settings))
    assert message in str(caught.value)


def test_settings_that_fit_are_taken():
    """Every layer, every metric, every histogram and any other label may be set."""
    check_settings(Settings())
    check_settings(
        Settings(
            metrics=dict.fromkeys((*LAYERS, *CATALOGUE), True),
            buckets={entry.name: (1, 2) for entry in CATALOGUE.values() if entry.kind == "histogram"},
            labels={"team": "x", "environment": "y"},
        )
    )
