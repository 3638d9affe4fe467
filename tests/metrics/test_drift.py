"""The drift and data quality layers: what a scrape shows, what it leaves out, and what never falls."""

from __future__ import annotations

import itertools
import math
import threading
from collections import Counter

import numpy as np
import pytest

import modelwatch.engine
from modelwatch._types import ABSENT
from modelwatch.exceptions import ReferenceFileError
from modelwatch.files import ReferenceProfile
from modelwatch.guard import Guard
from modelwatch.metrics.catalogue import CATALOGUE
from modelwatch.metrics.drift import DriftSource, violations
from modelwatch.metrics.families import Collected
from modelwatch.monitor import Monitor
from modelwatch.settings import FeatureRule, Settings

ALWAYS = {
    "model_monitored_features", "model_drift_window_rows", "model_drift_window_seconds", "model_drift_min_rows",
    "model_drift_reference_rows", "model_reference_info", "model_reference_reload_failed",
}  # fmt: skip
STATISTICS = (
    "psi", "psi_smoothed", "psi_debiased", "psi_critical", "js_divergence", "total_variation", "kl_divergence",
    "hellinger", "ks_statistic", "ks_pvalue", "chi_square_pvalue", "wasserstein", "severity", "floor",
)  # fmt: skip
ODD = ['quo"te', "new\nline", "back\\slash", "ünïcode", " ", "_other", "_missing", "_rare"]


class Still:
    """A pulse that never beats: nothing happens in these tests but what they do."""

    generation = 1

    def know(self, ticked):
        pass

    add = know

    def wake(self):
        pass


@pytest.fixture(autouse=True)
def still(monkeypatch):
    """No background thread."""
    monkeypatch.setattr(modelwatch.engine, "PULSE", Still())


def table_of(seed=0, *, rows=1000, shift=0.0):
    random = np.random.default_rng(seed)
    return {
        "age": random.normal(shift, 1.0, rows),
        "plan": [f"k{i}" for i in random.integers(0, 4, rows)],
        "p": random.normal(size=rows),
        "q": random.random(rows),
    }


@pytest.fixture(scope="module")
def reference():
    """A numeric and a categorical feature, a prediction and a confidence."""
    return ReferenceProfile.fit(table_of(), prediction="p", confidence="q")


@pytest.fixture(scope="module")
def other():
    """Another reference of the same features."""
    return ReferenceProfile.fit(table_of(1, shift=1.0), prediction="p", confidence="q")


def watch(reference=None, version="1", **options):
    clock = options.pop("clock", lambda: 1e6)
    return Monitor("m", version, reference=reference, settings=Settings(**options), clock=clock, wall=clock)


def record(monitor, table, names=("age", "plan")):
    monitor.record({name: table[name] for name in names}, table["p"], table["q"])


def samples_of(*monitors):
    """{(metric, label values without the model's name): value}, each of which must come once."""
    found = {}
    for sample in itertools.chain.from_iterable(
        (*DriftSource(monitor)(), *violations(monitor)) for monitor in monitors
    ):
        assert sample.labels[0] == "m"
        key = (sample.metric, *sample.labels[1:])
        assert key not in found
        found[key] = sample.value
    return found


def known(samples):
    return {key: value for key, value in samples.items() if not math.isnan(value)}


def of(samples, metric):
    return {key[1:]: value for key, value in samples.items() if key[0] == metric}


def test_every_sample_is_in_the_catalogue(reference):
    """Metrics and numbers of labels are those of the catalogue, and every metric that stands for a column comes."""
    monitor = watch(reference)
    record(monitor, table_of(5))
    samples = samples_of(monitor)
    for metric, *labels in samples:
        assert len(labels) + 1 == len(CATALOGUE[metric].labels), metric
    shown = {key[0] for key in known(samples)}
    own = {name for name in CATALOGUE if name.startswith(("model_drift_", "model_feature_", "model_reference_"))}
    elsewhere = {
        "model_drift_evaluation_duration_seconds", "model_drift_last_evaluation_timestamp_seconds",
    }  # fmt: skip
    assert own - shown == elsewhere


def test_samples_are_the_report(reference):
    """Each gauge of a feature is the number that the report shows."""
    monitor = watch(reference)
    record(monitor, table_of(5, shift=0.7))
    report, samples = monitor.report(), samples_of(monitor)
    for feature in report.features.values():
        for field in STATISTICS:
            value = samples.get((f"model_feature_drift_{field}", "1", feature.name), math.nan)
            expected = getattr(feature, field)
            assert (None if math.isnan(value) else value) == expected, (feature.name, field)
        assert samples["model_feature_drift_detected", "1", feature.name] == feature.drifted
        assert samples["model_feature_window_rows", "1", feature.name] == feature.n == 1000
        assert samples["model_feature_reference_rows", "1", feature.name] == feature.m == 1000
        assert samples["model_feature_window_missing_ratio", "1", feature.name] == feature.missing_share == 0.0
    assert samples["model_feature_window_mean", "1", "age"] == report.features["age"].mean
    assert samples["model_drifted_features", "1"] == len(report.drifted) == 1
    assert samples["model_drifted_features_ratio", "1"] == 0.25
    assert samples["model_monitored_features", "1"] == 4
    assert samples["model_drift_window_rows", "1"] == samples["model_drift_reference_rows", "1"] == 1000
    assert samples["model_drift_min_rows", "1"] == 200


def test_without_a_reference_only_what_is_always_there():
    """Nothing is said of what is not known, but that nothing is known is said at 0, by whichever monitor."""
    for monitor, source in ((watch(), "none"), (watch("learn"), "none")):
        monitor.record([{"age": 0.5}] * 500)
        samples = samples_of(monitor)
        assert {key[0] for key in samples} == ALWAYS
        assert samples["model_reference_info", "1", "", source] == 1
        assert samples["model_drift_min_rows", "1"] == 200
        assert samples["model_drift_window_rows", "1"] == samples["model_monitored_features", "1"] == 0


def test_at_the_start(reference):
    """Before the first row bins, violations, alarms and the window's size are 0, and no statistic is there."""
    samples = known(samples_of(watch(reference)))
    assert {key[0] for key in samples} >= ALWAYS
    assert samples["model_drift_window_seconds", "1"] == 0
    bins = of(samples, "model_feature_bin_total")
    features = {"age": 10, "plan": 4 + 2, "prediction": 10, "confidence": 10}
    assert {(key[2], value) for key, value in bins.items()} == {(name, 0) for name in features}
    assert Counter(key[2] for key in bins) == {name: count + 1 for name, count in features.items()}
    assert {key[3] for key in bins if key[2] == "plan"} == {"k0", "k1", "k2", "k3", "_rare", "_other", "_missing"}
    assert set(of(samples, "model_detector_alarms_total").values()) == {0}
    broken = of(samples, "model_feature_violations_total")
    assert set(broken.values()) == {0}
    assert {reason for *_, reason in broken} == {"missing", "type", "non_finite", "out_of_range", "unseen_category"}
    for name in ("model_drifted_features", "model_drifted_features_ratio", "model_data_quality_score_ratio"):
        assert not of(samples, name)
    assert not [key for key in samples if key[0].startswith("model_feature_drift_")]
    assert not [key for key in samples if key[0].startswith("model_feature_window_m")]


def test_below_the_least_rows(reference):
    """With one row less than needed statistics and verdicts are absent, with that row they are there."""
    monitor = watch(reference)
    record(monitor, table_of(5, rows=199))
    samples = known(samples_of(monitor))
    assert samples["model_feature_window_rows", "1", "age"] == 199
    assert not [key for key in samples if "drift_psi" in key[0] or "detected" in key[0] or "quality" in key[0]]
    assert "model_drifted_features" not in {key[0] for key in samples}
    record(monitor, table_of(5, rows=1))
    samples = known(samples_of(monitor))
    assert samples["model_feature_drift_detected", "1", "age"] == 0
    assert samples["model_drifted_features", "1"] == 0
    assert samples["model_data_quality_score_ratio", "1"] > 0.99


def test_bins_are_the_rows(reference):
    """The bins of a feature add up to its rows, and their shares in the reference to 1."""
    monitor = watch(reference)
    table = table_of(5, rows=1000)
    table["plan"] = [*table["plan"][:900], *["new"] * 60, *[None] * 40]
    record(monitor, table)
    samples = samples_of(monitor)
    bins, shares = of(samples, "model_feature_bin_total"), of(samples, "model_reference_bin_share")
    for name in monitor.engine.epoch.profile.names:
        assert sum(value for key, value in bins.items() if key[2] == name) == 1000
        assert sum(value for key, value in shares.items() if key[2] == name) == pytest.approx(1.0)
        assert ("model_reference_missing_share", "1", reference.id, name, "_missing") in samples
    assert bins["1", reference.id, "plan", "_other"] == 60
    assert bins["1", reference.id, "plan", "_missing"] == 40
    assert samples["model_feature_violations_total", "1", "plan", "missing"] == 40
    assert samples["model_feature_violations_total", "1", "plan", "unseen_category"] == 60
    quality = 1 - sum(of(samples, "model_feature_violations_total").values()) / 4000
    assert samples["model_data_quality_score_ratio", "1"] == pytest.approx(quality)


def test_upper_bounds(reference):
    """Only numeric bins have one; they rise, and the last is what the reference reached."""
    bounds = of(samples_of(watch(reference)), "model_reference_bin_upper_bound")
    assert {key[2] for key in bounds} == {"age", "prediction", "confidence"}
    age = [bounds["1", reference.id, "age", f"{i:02}"] for i in range(10)]
    assert age == sorted(age)
    assert age[-1] == max(table_of()["age"])


def test_psi_from_the_exposed_bins(reference):
    """Whoever has only the two vectors of bins, as Prometheus does, computes the same PSI."""
    monitor = watch(reference)
    record(monitor, table_of(5, shift=0.5))
    samples = samples_of(monitor)
    bins, shares = of(samples, "model_feature_bin_total"), of(samples, "model_reference_bin_share")
    for name in ("age", "plan"):
        q = np.array([value for key, value in bins.items() if key[2] == name and key[3] != "_missing"], dtype=float)
        p = np.array([value for key, value in shares.items() if key[2] == name])
        p, q = np.maximum(p, 1e-6), np.maximum(q / q.sum(), 1e-6)
        assert samples["model_feature_drift_psi", "1", name] == pytest.approx(float(((q - p) * np.log(q / p)).sum()))


def test_before_the_first_rows_nothing_is_said_of_capture(reference):
    """Whether a feature will come is not known before `min_rows` rows came without it."""
    monitor = watch(reference)
    assert not [key for key in known(samples_of(monitor)) if key[0] == "model_feature_captured"]


def test_what_is_not_captured(reference):
    """A feature that never comes has no verdict, and is neither monitored nor a fault of the data."""
    monitor = watch(reference)
    record(monitor, table_of(5), names=("age",))
    samples = known(samples_of(monitor))
    assert samples["model_feature_captured", "1", "plan"] == 0
    assert samples["model_feature_captured", "1", "age"] == 1
    assert samples["model_monitored_features", "1"] == 3
    assert ("model_feature_drift_detected", "1", "plan") not in samples
    assert ("model_feature_window_missing_ratio", "1", "plan") not in samples
    assert samples["model_drifted_features", "1"] == 0
    assert samples["model_data_quality_score_ratio", "1"] > 0.99


def test_where_nothing_is_captured_nothing_is_said(reference):
    """Rows that bring none of the features are no good data."""
    monitor = watch(reference)
    monitor.record([{"unknown": 1}] * 500)
    samples = known(samples_of(monitor))
    assert samples["model_drift_window_rows", "1"] == 500
    assert samples["model_monitored_features", "1"] == 0
    for name in ("model_data_quality_score_ratio", "model_drifted_features", "model_drifted_features_ratio"):
        assert (name, "1") not in samples


def test_muted_features(reference):
    """A muted feature is measured and shown, and has no verdict."""
    monitor = watch(reference, features={"age": FeatureRule(alert=False)})
    record(monitor, table_of(5, shift=2.0))
    samples = known(samples_of(monitor))
    assert samples["model_feature_alerting", "1", "age"] == 0
    assert samples["model_feature_drift_psi", "1", "age"] > 1
    assert ("model_feature_drift_detected", "1", "age") not in samples
    assert (samples["model_drifted_features", "1"], samples["model_monitored_features", "1"]) == (0, 3)


def test_the_previous_reference(reference, other):
    """After a reload the bins of the reference before stay, as they ended, once; those before it are gone."""
    monitor = watch(reference)
    record(monitor, table_of(5))
    monitor.reload(other)
    record(monitor, table_of(6, rows=500))
    samples = samples_of(monitor)
    bins = of(samples, "model_feature_bin_total")
    rows = Counter()
    for (version, profile, feature, _), value in bins.items():
        rows[version, profile, feature] += value
    assert rows["1", reference.id, "age"] == 1000
    assert rows["1", other.id, "age"] == 500
    assert set(of(samples, "model_reference_info")) == {("1", other.id, "object")}
    monitor.reload(ReferenceProfile.fit({"z": [1.0, 2.0] * 100}), "2")
    profiles = {key[1] for key in of(samples_of(monitor), "model_feature_bin_total")}
    assert profiles == {other.id, monitor.engine.epoch.profile.id}


def test_a_failed_reload_is_shown(reference, tmp_path):
    """The gauge says so until a reload succeeds, also where there was no reference before."""
    for monitor, profile in ((watch(reference), reference.id), (watch(), "")):
        source = monitor.engine.source
        assert samples_of(monitor)["model_reference_reload_failed", "1", profile, source] == 0
        with pytest.raises(ReferenceFileError):
            monitor.reload(tmp_path / "missing.json")
        assert samples_of(monitor)["model_reference_reload_failed", "1", profile, source] == 1
        monitor.reload(reference)
        assert samples_of(monitor)["model_reference_reload_failed", "1", reference.id, "object"] == 0


def test_no_counter_falls(reference, other):
    """Whatever is recorded and reloaded, from however many threads, no counter that a scrape saw ever falls."""
    monitor = watch(reference, buffer_rows=256)  # nearly all rows are dropped: the threads never rest
    done = threading.Event()

    def work(seed):
        table = table_of(seed, rows=20, shift=1.0)
        table["plan"] = ["new", None] * 10
        while not done.is_set():
            record(monitor, table)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    before, steps = {}, [(other, "1"), (reference, "1"), (reference, "2"), (other, "2"), (other, "1")]
    try:
        for turn in range(30):
            monitor.reload(*steps[turn % len(steps)])
            for signal in monitor.engine.detection.signals:
                signal.detector.alarms += 1
            for _ in range(2):
                samples = samples_of(monitor)
                counters = {key: value for key, value in samples.items() if key[0].endswith("_total")}
                assert all(value >= before.get(key, 0) for key, value in counters.items())
                gone = before.keys() - counters.keys()
                before = {key: value for key, value in before.items() if key not in gone} | counters
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert max(before.values()) > 0


def test_nothing_that_is_no_number_escapes(reference):
    """Rows full of missing and odd values leave no NaN, no infinity and no error on the page."""
    nothing = ReferenceProfile.fit({"age": [1.0] * 50, "plan": ["k"] * 50, "p": [1.0] * 50}, prediction="p")
    odd = [None, ABSENT, float("nan"), float("inf"), "text", 10**400, [1], 1e308]
    for profile in (reference, nothing):
        for rows in (0, 1, 300):
            monitor = watch(profile)
            values = [odd[i % 8] for i in range(rows)]
            monitor.record([{"age": value, "plan": value} for value in values], values)
            collected = Collected(monitor.settings, Guard())
            collected.sources.append(DriftSource(monitor))
            for family in collected.collect():
                assert all(math.isfinite(sample.value) for sample in family.samples), family.name


def test_labels_are_clean():
    """Names of features and categories that need care stay apart, and are fit to be shown."""
    table = {"name\n": [1.0, 2.0] * 50 * len(ODD), "plan": [text for text in ODD for _ in range(100)]}
    monitor = watch(ReferenceProfile.fit(table))
    monitor.record({"name\n": [1.0] * len(ODD), "plan": list(ODD)})
    collected = Collected(monitor.settings, Guard())
    collected.sources.append(DriftSource(monitor))
    (family,) = (family for family in collected.collect() if family.name == "model_feature_bin")
    values = {(sample.labels["feature"], sample.labels["bin"]): sample.value for sample in family.samples}
    assert {feature for feature, _ in values} == {"name?", "plan"}
    own = {label: value for (feature, label), value in values.items() if feature == "plan"}
    assert len(own) == len(ODD) + 3
    assert Counter(own.values()) == {1: len(ODD), 0: 3}
    assert own["_other"] == own["_missing"] == own["_rare"] == 0
    assert all(label.isprintable() and len(label) <= 200 for label in own)


def test_hashed_categories_do_not_appear():
    """Names of categories that must not be told are in no sample, whether the reference knew them or not."""
    table = {"plan": ["secret-a", "secret-b"] * 100, "p": ["secret-yes", "secret-no"] * 100}
    reference = ReferenceProfile.fit(table, prediction="p", hash_categories=["plan", "p"])
    monitor = watch(reference)
    monitor.record({"plan": ["secret-a", "secret-new"] * 100}, ["secret-yes", "secret-other"] * 100, [0.5] * 200)
    shown = repr(samples_of(monitor)) + repr(list(monitor.series.cells()))
    assert "secret" not in shown
    bins = of(samples_of(monitor), "model_feature_bin_total")
    plan = {key[3]: value for key, value in bins.items() if key[2] == "plan"}
    assert sorted(plan.values()) == [0, 0, 0, 100, 100]
    assert plan["_other"] == 100


def test_detectors(reference, clock):
    """The streams of the reference are shown with statistic, threshold, state and alarms; an alarm has its time."""
    monitor = watch(reference, clock=clock)
    labels = ("1", "page_hinkley", "prediction")
    assert samples_of(monitor)["model_detector_state", *labels] == 0
    assert ("model_detector_last_alarm_timestamp_seconds", *labels) not in samples_of(monitor)
    random, ticks = np.random.default_rng(0), 0
    while not samples_of(monitor)["model_detector_alarms_total", *labels]:
        ticks += 1
        monitor.record({"age": [0.5] * 20}, random.normal(0.0 if ticks < 50 else 1.0, 1.0, 20))
        clock.advance(1.0)
        monitor.engine.tick()
        assert ticks < 200
    samples = samples_of(monitor)
    assert ticks > 50
    assert samples["model_detector_state", *labels] == 2
    assert samples["model_detector_last_alarm_timestamp_seconds", *labels] == clock()
    assert samples["model_detector_statistic", *labels] > samples["model_detector_threshold", *labels] == 50


def test_several_monitors(reference):
    """Each monitor of the app brings its own."""
    samples = samples_of(watch(reference), watch(None, "2"))
    assert {key[1] for key in samples} == {"1", "2"}
