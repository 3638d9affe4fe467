"""The table of all metrics: Prometheus' rules for names, bounded labels, and what must never change."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from modelwatch.metrics.catalogue import CATALOGUE, LAYERS, UNITS

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"
ENTRIES = list(CATALOGUE.values())
HISTOGRAMS = [entry for entry in ENTRIES if entry.kind == "histogram"]

# Name -> (kind, labels, buckets). Users' dashboards stand on them: they never change.
SEED = {
    "model_request_total": ("counter", ("model_name", "model_version", "status"), ()),
    "model_request_latency_seconds": (
        "histogram",
        ("model_name", "model_version"),
        (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0),
    ),
    "model_prediction_confidence": (
        "histogram",
        ("model_name", "predicted_class"),
        (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99),
    ),
    "model_batch_size": ("histogram", ("model_name",), (1, 2, 4, 8, 16, 32, 64)),
    "model_gpu_memory_bytes": ("gauge", ("gpu_id",), ()),
    "model_loaded_info": ("gauge", ("model_name", "model_version"), ()),
}

# Label -> what bounds its values. A label that is not here has not been thought about.
BOUNDED = {
    "model_name": "configuration", "model_version": "configuration", "status": "closed", "exception_type": "most",
    "http_request_method": "closed", "http_route": "the service's routes", "http_response_status_code": "closed",
    "error_type": "most", "predicted_class": "most", "feature": "reference", "reason": "closed", "field": "schema",
    "reference": "two at a time", "source": "closed", "bin": "reference", "detector": "closed", "signal": "closed",
    "generation": "closed", "gpu_id": "machine", "version": "one", "python": "one", "outcome": "closed",
    "stage": "closed", "metric": "this table",
}  # fmt: skip

TYPES = {"counter", "gauge", "histogram", "summary", "untyped", "unknown", "info", "stateset"}
NOT_BASE = {
    "ms", "us", "ns", "s", "sec", "secs", "second", "milliseconds", "microseconds", "minutes", "hours", "days", "b",
    "kb", "mb", "gb", "kib", "mib", "gib", "kilobytes", "megabytes", "bits", "percent", "pct", "watts",
    "fahrenheit", "kelvin", "joule", "core",
}  # fmt: skip

every_entry = pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)


def family_name(entry):
    return entry.name.removesuffix("_total") if entry.kind == "counter" else entry.name


def sample_names(entry):
    suffixes = {"counter": ["_total"], "gauge": [""], "histogram": ["_bucket", "_count", "_sum"]}[entry.kind]
    return [family_name(entry) + suffix for suffix in suffixes]


@pytest.mark.parametrize("name", SEED)
def test_the_seed_never_changes(name):
    """The six names that dashboards were first built on keep their type, labels and default buckets."""
    entry = CATALOGUE[name]
    assert (entry.kind, entry.labels, entry.buckets) == SEED[name]
    assert entry.on


def test_names_are_keys():
    """Every metric is found by its own name, and none is there twice."""
    assert [entry.name for entry in ENTRIES] == list(CATALOGUE)


def test_entries_are_frozen():
    """Nobody can change a metric while the service runs."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        ENTRIES[0].help = "other"


@every_entry
def test_name_is_legal(entry):
    """A name is lower case, begins with one of three prefixes, and has no colon, which is for recording rules."""
    assert re.fullmatch(r"(model|modelwatch|http_server)(_[a-z0-9]+)+", entry.name)


@every_entry
def test_total_is_for_counters(entry):
    """`_total` stands at the end of all counters and nowhere else; other reserved endings are used nowhere."""
    assert entry.name.endswith("_total") == (entry.kind == "counter")
    assert not entry.name.endswith(("_count", "_sum", "_bucket", "_created"))


@every_entry
def test_type_is_not_in_the_name(entry):
    """No name says its type; `_info` is the one exception, on gauges that are 1."""
    assert not (TYPES & set(entry.name.removesuffix("_info").split("_")))
    assert not entry.name.endswith("_info") or entry.kind == "gauge"


@every_entry
def test_units_are_base_units(entry):
    """No unit is abbreviated, scaled or in the singular."""
    assert not (NOT_BASE & set(entry.name.split("_")))


@every_entry
def test_unit_is_the_ending(entry):
    """The unit is the last word of the name before `_total`, and a last word that is a unit is declared as one."""
    last = family_name(entry).rpartition("_")[2]
    assert entry.unit == (last if last in UNITS else "")


@every_entry
def test_help_is_a_sentence(entry):
    """Every metric says in one sentence what it is."""
    assert re.fullmatch(r"[A-Z0-9][^\n\\\"]*\.", entry.help)
    assert 3 <= len(entry.help.split()) <= 25


@pytest.mark.parametrize(
    ("unit", "word"), [("seconds", "seconds"), ("bytes", "bytes"), ("joules", "joules"), ("celsius", "Celsius")]
)
def test_help_names_the_unit(unit, word):
    """What has a physical unit says so in its help."""
    missing = [entry.name for entry in ENTRIES if entry.unit == unit and word.lower() not in entry.help.lower()]
    assert missing == []


@every_entry
def test_labels_are_bounded(entry):
    """Every label is legal, there once, and has a known bound; `most` is given where that is only a cap."""
    assert all(re.fullmatch(r"[a-z][a-z0-9_]*", label) for label in entry.labels)
    assert len(set(entry.labels)) == len(entry.labels)
    assert set(entry.labels) <= set(BOUNDED)
    assert not {"le", "quantile", "job", "instance"} & set(entry.labels)
    capped = bool(entry.labels) and BOUNDED[entry.labels[-1]] == "most"
    assert (entry.most is not None) == capped
    assert "most" not in {BOUNDED[label] for label in entry.labels[:-1]}


def test_every_bound_is_used():
    """The list of labels above is that of the catalogue."""
    assert {label for entry in ENTRIES for label in entry.labels} == set(BOUNDED)


@every_entry
def test_buckets_belong_to_histograms(entry):
    """Every histogram but one has buckets, finite ones that rise; nothing else has any."""
    assert bool(entry.buckets) == (entry.kind == "histogram" and entry.name != "model_prediction_value")
    assert list(entry.buckets) == sorted(set(entry.buckets))
    assert all(0 < bound < 1e9 for bound in entry.buckets)
    assert len(entry.buckets) <= 16


@every_entry
def test_workers_are_added_up_as_the_type_allows(entry):
    """Histograms are summed, counters summed or taken from one worker, and no gauge outlives its worker in a sum."""
    allowed = {
        "histogram": {"sum"},
        "counter": {"sum", "one", "elected"},
        "gauge": {"live", "max", "min", "merged", "one", "elected"},
    }
    assert entry.merge in allowed[entry.kind]


def test_families_do_not_clash():
    """No sample of a metric is named as another metric or a sample of it."""
    names = [name for entry in ENTRIES for name in {family_name(entry), *sample_names(entry)}]
    assert sorted(names) == sorted(set(names))


def test_layers_hang_together():
    """Every layer has metrics, they stand together and in the order of LAYERS."""
    assert list(dict.fromkeys(entry.layer for entry in ENTRIES)) == list(LAYERS)
    assert [entry.layer for entry in ENTRIES] == sorted((e.layer for e in ENTRIES), key=LAYERS.index)


def test_off_by_default():
    """Only three statistics that add little to the others are off by default."""
    off = {entry.name for entry in ENTRIES if not entry.on}
    assert off == {f"model_feature_drift_{name}" for name in ("kl_divergence", "hellinger", "wasserstein")}


def test_page_has_types_and_labels():
    """docs/metrics.md gives each metric the type and the labels that it has."""
    documented = {}
    for line in PAGE.read_text("utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if len(cells) == 4 and (name := cells[0].strip("`")) in CATALOGUE:
            assert name not in documented
            labels = re.sub(r"\bM\b", "`model_name`, `model_version`", cells[2])
            documented[name] = (cells[1], tuple(re.findall(r"`([^`]+)`", labels)))
    assert documented == {entry.name: (entry.kind, entry.labels) for entry in ENTRIES}


def test_queries_of_the_page_use_what_there_is():
    """Every metric that a query in docs/metrics.md names is in the catalogue, with an ending that its type has."""
    text = PAGE.read_text("utf-8")
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    code = "\n".join(re.findall(r"```promql\n(.*?)```", text, re.DOTALL) + re.findall(r"`([^`\n]+)`", prose))
    used = set(re.findall(r"\b(?:model|modelwatch|http_server)_\w+", code))
    known = {name for entry in ENTRIES for name in (entry.name, *sample_names(entry), *entry.labels)}
    assert len(used) > len(ENTRIES)
    assert used - known == set()
