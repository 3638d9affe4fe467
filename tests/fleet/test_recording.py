"""The recording rules, evaluated by a real Prometheus: their numbers are those of numpy and of the library itself."""

from __future__ import annotations

import re
import subprocess
import time

import numpy as np
import pytest
from support.prometheus import configuration, prometheus
from support.promtool import run_tests, series

import modelwatch
from modelwatch import statistics
from modelwatch.fleet.options import RuleOptions, seconds
from modelwatch.fleet.recording import feature_labels, fleet_groups, recorded_names
from modelwatch.fleet.writing import to_yaml
from modelwatch.metrics.catalogue import CATALOGUE

OPTIONS = RuleOptions(statistics="all", interval="1s", psi=0.03)
STEP, AGE = 15, 3000
BINS = {
    "deciles": [f"{index:02d}" for index in range(10)],
    "few": ["00", "01", "_other"],
    "city": ["Aix", 'quo"te', "_rare", "_other"],
    "gap": [f"{index:02d}" for index in range(10)],  # with a bin that is empty on both sides, and one on each
    "noisy": [f"{index:02d}" for index in range(10)],
    "mild": ["00", "01", "_other"],
}
OF_THE_TRAINING = {
    "deciles": [100] * 10,
    "few": [300, 700, 0],
    "city": [600, 380, 20, 0],
    "gap": [0, 0, 125, 125, 125, 125, 125, 125, 125, 125],
    "noisy": [100] * 10,
    "mild": [300, 700, 0],
}
LIVE = {
    "deciles": [10, 30, 60, 90, 120, 150, 180, 210, 240, 270],
    "few": [375, 880, 5],
    "city": [300, 900, 30, 30],
    "gap": [0, 40, 0, 160, 160, 160, 160, 200, 240, 240],
    "noisy": [151, 101] * 5,  # PSI 0.04, and noise alone may have 0.05
    "mild": [475, 785, 0],  # more than noise, and less than is worth an alert
}
MISSING = dict.fromkeys(BINS, 0) | {"deciles": 90}
OLD = {"deciles": [500, *[0] * 9]}  # of another reference, which must not be added


def pages(end):
    """OpenMetrics of three replicas: one that restarted, one that has a second reference, and a job of its own."""
    families = {"model_feature_bin": [], "share": [], "rest": []}
    ages = range(-AGE, 1, STEP)
    for replica, part in (("a", 1), ("b", 2), ("c", 3)):
        who = f'job="bike",instance="{replica}",model_name="m",model_version="1"'
        for feature, bins in BINS.items():
            mine = f'{who},reference="new",feature="{feature}"'
            counts = [*LIVE[feature], MISSING[feature]]
            for name, count in zip([*bins, "_missing"], counts, strict=True):
                labels = f'{mine},bin="{escaped(name)}"'
                families["model_feature_bin"] += ramp(labels, part * count / 6, ages, end, restart=replica == "b")
            rows = sum(OF_THE_TRAINING[feature])
            for name, count in zip(bins, OF_THE_TRAINING[feature], strict=True):
                labels = f'{mine},bin="{escaped(name)}"'
                families["share"] += [f"model_reference_bin_share{{{labels}}} {count / rows} {end - STEP}",
                                      f"model_reference_bin_share{{{labels}}} {count / rows} {end}"]  # fmt: skip
            for at in (end - STEP, end):
                families["rest"] += [f'model_feature_reference_rows{{{who},feature="{feature}"}} {rows} {at}']
        for at in (end - STEP, end):
            families["rest"] += [f'model_reference_info{{{who},reference="new",source="file"}} 1 {at}']
    for name, count in zip(BINS["deciles"], OLD["deciles"], strict=True):
        labels = (
            f'job="bike",instance="c",model_name="m",model_version="1",reference="old",feature="deciles",bin="{name}"'
        )
        families["model_feature_bin"] += ramp(labels, count, ages, end)
        families["share"] += [f"model_reference_bin_share{{{labels}}} 0.1 {end}"]
    lines = ["# TYPE model_feature_bin counter", *families["model_feature_bin"]]
    lines += ["# TYPE model_reference_bin_share gauge", *families["share"]]
    for name in ("model_feature_reference_rows", "model_reference_info"):
        lines += [f"# TYPE {name} gauge", *(line for line in families["rest"] if line.startswith(f"{name}{{"))]
    return "\n".join([*lines, "# EOF\n"])


def escaped(name):
    """A label's value as the text format has it."""
    return name.replace("\\", "\\\\").replace('"', '\\"')


def ramp(labels, count, ages, end, *, restart=False):
    """A counter that rises evenly to `count` in the first half and then rests; it may start anew on its way."""
    half = AGE // 2
    for age in ages:
        done = min((age + AGE) / half, 1.0)
        value = count * done
        if restart and done > 0.5:
            value -= count * 0.5
        yield f"model_feature_bin_total{{{labels}}} {value!r} {end + age}"


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """Values of every rule, by name: {(feature, reference): {bin: value}}."""
    directory = tmp_path_factory.mktemp("recorded")
    (directory / "pages.txt").write_text(pages(int(time.time())), "utf-8")
    command = ["promtool", "tsdb", "create-blocks-from", "openmetrics", "pages.txt", "data"]
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    add_past_steps(directory, int(time.time()))
    rules = directory / "fleet.yml"
    # All at once and not in minutes; the steps of five minutes are there already.
    groups = [{**group, "interval": "1s"} for group in fleet_groups(OPTIONS)["groups"] if "steps" not in group["name"]]
    rules.write_text(to_yaml({"groups": groups}), "utf-8")
    with prometheus(directory, config=configuration({}, rules=[rules]), storage=directory / "data") as server:
        last = {window: f"modelwatch:feature_chi_square:{window}" for window in OPTIONS.windows}  # of each group
        server.until(lambda: all(map(server.query, last.values())), "the rules are evaluated")
        at = {window: max(point.value for point in server.query(f"timestamp({name})")) for window, name in last.items()}
        yield {name: by_bin(server.query(name, at["24h" if name.endswith("24h") else "1h"]))
               for name in recorded_names(OPTIONS)}  # fmt: skip


def add_past_steps(directory, end):
    """Evaluate for the past what windows of a day are made of: increases of five minutes."""
    [steps] = [group["rules"] for group in fleet_groups(OPTIONS)["groups"] if group["name"] == "modelwatch-steps"]
    (directory / "steps.yml").write_text(to_yaml({"groups": [{"name": "steps", "rules": steps}]}), "utf-8")
    with prometheus(directory / "past", config=configuration({}), storage=directory / "data") as server:
        command = ["promtool", "tsdb", "create-blocks-from", "rules", f"--url={server.url}", "--eval-interval=5m"]
        command += [f"--start={end - 2 * AGE}", f"--end={end - 300}", "--output-dir=data", "steps.yml"]
        done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def by_bin(points):
    """Values by feature and reference, and then by bin (None if there is none)."""
    found = {}
    for labels, value in points:
        key = labels.get("feature"), labels.get("reference")
        found.setdefault(key, {})[labels.get("bin")] = value
    return found


def vector(recorded, name, feature):
    """A recorded value of each bin, in the order of BINS."""
    values = recorded[f"modelwatch:{name}"][feature, "new"]
    return np.array([values[bin_] for bin_ in BINS[feature]])


def single(recorded, name, feature):
    """The recorded value of a feature."""
    [value] = recorded[f"modelwatch:{name}"][feature, "new"].values()
    return value


features = pytest.mark.parametrize("feature", BINS)


@features
def test_a_day_is_made_of_steps(recorded, feature):
    """A window of a day has the shares of all rows, though it never reads the counters for longer than five minutes."""
    live = np.array(LIVE[feature])
    np.testing.assert_allclose(vector(recorded, "feature_bin_share:24h", feature), live / live.sum(), rtol=1e-9)
    expected = statistics.psi(np.array(OF_THE_TRAINING[feature]), live)
    assert single(recorded, "feature_psi:24h", feature) == pytest.approx(expected, rel=1e-9)
    assert single(recorded, "feature_rows:24h", feature) == pytest.approx(sum(live), rel=0.02)


@features
def test_shares_are_those_of_all_replicas(recorded, feature):
    """The share of each bin is that of the rows of all replicas together, with a restart among them."""
    live = np.array(LIVE[feature])
    np.testing.assert_allclose(vector(recorded, "feature_bin_share:1h", feature), live / live.sum(), rtol=1e-9)


@features
@pytest.mark.parametrize(
    "name",
    ["psi", "js_divergence", "kl_divergence", "hellinger", "total_variation"],
)
def test_statistics_are_those_of_the_library(recorded, name, feature):
    """A statistic of shares is what the library says of the counts of all replicas."""
    expected = getattr(statistics, name)(np.array(OF_THE_TRAINING[feature]), np.array(LIVE[feature]))
    assert single(recorded, f"feature_{name}:1h", feature) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("feature", ["deciles", "gap", "noisy"])
def test_ks_is_that_of_the_library(recorded, feature):
    """The Kolmogorov-Smirnov statistic over the bins' edges is what the library says of the bins."""
    expected = statistics.ks_statistic(np.array(OF_THE_TRAINING[feature]), np.array(LIVE[feature]))
    assert single(recorded, "feature_ks_statistic:1h", feature) == pytest.approx(expected, rel=1e-9)


def test_ks_needs_an_order(recorded):
    """A feature with a bin for the rest has no Kolmogorov-Smirnov statistic: its bins have no order."""
    assert {feature for feature, _ in recorded["modelwatch:feature_ks_statistic:1h"]} == {"deciles", "gap", "noisy"}


@features
def test_smoothed_psi_and_its_noise_floor(recorded, feature):
    """Smoothed PSI and the floor are the library's formulas over the counts that Prometheus has."""
    counts, rows = vector(recorded, "feature_bin:increase1h", feature), single(recorded, "feature_rows:1h", feature)
    training = np.array(OF_THE_TRAINING[feature], dtype=float)
    used = counts + training > 0
    p = (counts[used] + 0.5) / (counts.sum() + 0.5 * used.sum())
    q = (training[used] + 0.5) / (training.sum() + 0.5 * used.sum())
    smoothed = ((p - q) * np.log(p / q)).sum()
    assert rows == pytest.approx(counts.sum(), rel=1e-12)
    assert single(recorded, "feature_psi_smoothed:1h", feature) == pytest.approx(smoothed, rel=1e-9)
    exact = statistics.psi_critical(training.astype(np.int64), np.rint(counts).astype(np.int64))
    assert single(recorded, "feature_psi_critical:1h", feature) == pytest.approx(exact, rel=0.035)


@features
def test_chi_square_is_that_of_two_samples(recorded, feature):
    """The chi-square statistic is scipy's for the contingency table of both samples."""
    from scipy.stats import chi2_contingency

    table = np.array([vector(recorded, "feature_bin:increase1h", feature), OF_THE_TRAINING[feature]])
    expected = chi2_contingency(table[:, table.sum(axis=0) > 0], correction=False).statistic
    assert single(recorded, "feature_chi_square:1h", feature) == pytest.approx(expected, rel=1e-9)


def test_rows_are_about_those_that_came(recorded):
    """The rows of the window are those that came but for what increase() extrapolates, which is 1 % here."""
    for feature, live in LIVE.items():
        assert single(recorded, "feature_rows:1h", feature) == pytest.approx(sum(live), rel=0.02)


def test_missing_values_are_told_apart(recorded):
    """The share of missing values is of all rows, and no statistic contains them."""
    assert single(recorded, "feature_missing_ratio:1h", "deciles") == pytest.approx(90 / (1360 + 90), rel=1e-9)
    assert single(recorded, "feature_missing_ratio:1h", "few") == 0


def test_bins_of_different_references_are_not_added(recorded):
    """The counts over another reference's bins stay apart, and have statistics of their own only when it is in use."""
    assert set(recorded["modelwatch:feature_bin_share:1h"]["deciles", "old"].values()) == {0.0, 1.0}
    assert ("deciles", "old") not in recorded["modelwatch:feature_psi_smoothed:1h"]


def test_verdict(recorded):
    """A feature has drifted if its smoothed PSI is above the threshold and above the noise."""
    found = {feature: single(recorded, "feature_drifted:1h", feature) for feature in BINS}
    assert found == {"deciles": 1, "few": 0, "city": 1, "gap": 1, "noisy": 0, "mild": 0}


def test_no_number_is_nan(recorded):
    """Bins that are empty on one side or on both make no NaN."""
    found = [value for values in recorded.values() for bins in values.values() for value in bins.values()]
    assert len(found) > 100
    assert np.isfinite(found).all()


@pytest.mark.parametrize("window", ["30m", "1h", "24h", "7d"])
def test_windows_have_their_own_group(window):
    """Each window has one group, in which no rule reads what only a later one writes."""
    options = RuleOptions(windows=(window,), statistics="all")
    groups = {group["name"]: group for group in fleet_groups(options)["groups"]}
    written = {rule["record"] for name in groups if "drift" not in name for rule in groups[name]["rules"]}
    group = groups[f"modelwatch-drift-{window}"]
    for rule in group["rules"]:
        read = {name for name in recorded_names(options) if name in rule["expr"]}
        assert read <= written, rule["record"]
        written.add(rule["record"])


def test_two_long_windows_share_their_steps():
    """No series is recorded twice."""
    rules = [rule for group in fleet_groups(RuleOptions(windows=("24h", "7d")))["groups"] for rule in group["rules"]]
    names = [rule["record"] for rule in rules]
    assert len(names) == len(set(names))
    assert "modelwatch:feature_bin:increase7d" in names


def test_steps_do_not_overlap():
    """What a long window adds up is recorded each five minutes, also beside a short window of the same length."""
    groups = fleet_groups(RuleOptions(windows=("5m", "24h"), interval="1m"))["groups"]
    recorded = {rule["record"]: (group["interval"], rule["expr"]) for group in groups[:-1] for rule in group["rules"]}
    summed = re.findall(r"sum_over_time\(([^\s\[]+)\[24h\]\)", "".join(expr for _, expr in recorded.values()))
    assert len(summed) == 3
    for name in summed:
        interval, expr = recorded[name]
        assert interval == "5m"
        assert "[5m])" in expr


@pytest.mark.parametrize("options", [RuleOptions(), RuleOptions(windows=("24h", "7d"), interval="2m")])
def test_what_is_recorded_is_there_until_the_next_evaluation(options):
    """Prometheus forgets a value after five minutes: one evaluation may fail, and what alerts read is still there."""
    for group in fleet_groups(options)["groups"]:
        if group["name"] != "modelwatch-steps":  # read over a range only
            assert 2 * seconds(group.get("interval", "1m")) < 300, group["name"]


def test_targets_may_share_an_instance(tmp_path):
    """Two pods of a node that have its name as their instance may have two references: each has its rows."""
    pods = [{"instance": "node", "pod": pod, "job": "bike", "model_name": "m", "model_version": "1"} for pod in "ab"]
    given = []
    for pod, reference_, rows in zip(pods, "rs", (100, 200), strict=True):
        given.append(series("model_feature_reference_rows", f"{rows}x10", feature="temp", **pod))
        given.append(series("model_reference_info", "1x10", reference=reference_, source="file", **pod))
    name = "modelwatch:feature_reference_rows:max"
    asked = {"expr": f"sum by (reference) ({name})", "eval_time": "5m", "exp_samples": [
        {"labels": f'{{reference="{reference_}"}}', "value": rows} for reference_, rows in (("r", 100), ("s", 200))
    ]}  # fmt: skip
    test = {"interval": "1m", "input_series": given, "promql_expr_test": [asked]}
    done = run_tests(tmp_path, fleet_groups(OPTIONS)["groups"][:1], [test])
    assert done.returncode == 0, done.stdout + done.stderr


def test_labels_can_be_chosen():
    """What tells services apart is kept by every rule, and nothing else is grouped by."""
    options = RuleOptions(by=("region",))
    assert feature_labels(options) == ("region", "model_name", "model_version", "reference", "feature")
    for group in fleet_groups(options)["groups"]:
        for rule in group["rules"]:
            assert "namespace" not in rule["expr"], rule
            assert "by (" not in rule["expr"] or "by (region, model_name" in rule["expr"], rule


def test_only_metrics_that_exist_are_read():
    """Every name in an expression is of the catalogue or recorded before."""
    from promql_parser import parse

    assert modelwatch.__version__
    known = recorded_names(OPTIONS) | set(CATALOGUE)
    known |= {f"{name}_{suffix}" for name in CATALOGUE for suffix in ("bucket", "count", "sum")}
    for group in fleet_groups(OPTIONS)["groups"]:
        for rule in group["rules"]:
            assert set(metrics_of(parse(rule["expr"]))) <= known, rule


def metrics_of(node):
    """The names of all selectors in a parsed expression."""
    if getattr(node, "name", None) and hasattr(node, "matchers"):
        yield node.name
    for part in ("expr", "lhs", "rhs", "param", "vector_selector", "vs"):
        inner = getattr(node, part, None)
        if inner is not None:
            yield from metrics_of(inner)
    for inner in getattr(node, "args", None) or ():
        yield from metrics_of(inner)
