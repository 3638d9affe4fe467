"""The report: a table for people, a table for programs, and nothing made up in either."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from modelwatch.files import ReferenceProfile
from modelwatch.report import REASONS, SEVERITIES, DriftReport, FeatureReport
from modelwatch.settings import FeatureRule
from modelwatch.verdict import compare

ROWS = 1_400
REFERENCE = {
    "age": [20.0 + i % 50 for i in range(ROWS)],
    "price": [float(i % 700) for i in range(ROWS)],
    "plan": ["basic" if i % 3 else "pro" for i in range(ROWS)],
    "muted": [float(i % 4) for i in range(ROWS)],
    "absent": [float(i % 4) for i in range(ROWS)],
    "late": [float(i % 4) for i in range(ROWS)],
    "empty": [float(i % 4) for i in range(ROWS)],
}
PROFILE = ReferenceProfile.fit(REFERENCE)


def report(**options):
    live = {name: values[:600] for name, values in REFERENCE.items()}
    live["age"] = [40.0 + i % 50 for i in range(600)]
    live["price"] = [float(7 * i % 700) for i in range(600)]
    live["plan"] = ["team" if i % 12 == 0 else "pro" if i % 3 == 0 else "basic" for i in range(600)]
    live["muted"] = [3.0] * 600
    live["empty"] = [None if i % 4 == 0 else i % 3 for i in range(600)]
    counts = PROFILE.count(live)
    late = PROFILE.layout.slices()[5]
    counts[late] //= 4  # 150 rows are fewer than min_rows
    rules = {"muted": FeatureRule(alert=False)}
    captured = [name != "absent" for name in PROFILE.names]
    return compare(PROFILE, counts, features=rules, captured=captured, **options)


REPORT = report(rows=600, seconds=5_400.0, model_name="bikes", model_version="7")

# Worst first: by severity, then by how far beyond the floor; what is not known has no number.
GOLDEN = """\
bikes 7: 3 of 4 features drifted (600 rows of 90 min, reference REFERENCE)

feature  verdict                           psi  smoothed  noise  ks/tv  floor  missing  in ref.  rows
age      major                           5.249     2.538  0.066  0.400  0.050     0.0%     0.0%   600
empty    major (distribution, missing)   3.179     1.420  0.048  0.250  0.050    25.0%     0.0%   450
plan     major (distribution, other)     0.968     0.481  0.033  0.084  0.050     0.0%     0.0%   600
muted    muted                          10.362     5.301  0.039  0.750  0.050     0.0%     0.0%   600
price    ok                              0.000     0.000  0.066  0.009  0.050     0.0%     0.0%   600
absent   not captured                                                   0.050              0.0%   600
late     waiting                                                        0.050              0.0%   148
"""


def test_prints_a_table():
    """`print(report)` is an aligned table, worst first, with rows, floor and noise beside each number."""
    assert str(REPORT).replace(REPORT.reference, "REFERENCE") + "\n" == GOLDEN


def test_lines_of_the_table_are_aligned():
    """Every number ends below the end of its heading."""
    _, _, header, *lines = str(REPORT).splitlines()
    for word in ("psi", "floor", "rows"):
        end = header.index(word) + len(word)
        assert all(line[end : end + 1] in {"", " "} for line in lines)


def test_the_headline():
    """The first line says how many drifted of those with a verdict, in how many rows, how old, by which reference."""
    plain = report()
    assert str(plain).startswith(f"3 of 4 features drifted (600 rows, reference {PROFILE.id})\n")
    nothing = compare(PROFILE, np.zeros(PROFILE.layout.size, dtype=np.int64), model_name="m")
    assert str(nothing).startswith(f"m: nothing to say yet (0 rows, reference {PROFILE.id})\n")
    for seconds, words in ((0.0, "0 s"), (119, "119 s"), (120, "2 min"), (7_200, "2 h"), (200_000, "2 d")):
        assert f"(600 rows of {words}, " in str(report(seconds=seconds))


def test_a_feature_report_says_what_it_knows():
    """Features are read by name and in the reference's order, with their verdict in one word."""
    assert list(REPORT.features) == [feature.name for feature in REPORT] == list(PROFILE.names)
    assert len(REPORT) == 7
    assert {feature.name: feature.verdict for feature in REPORT} == {
        "age": "major", "price": "ok", "plan": "major", "muted": "muted", "absent": "not captured", "late": "waiting",
        "empty": "major",
    }  # fmt: skip
    assert REPORT["plan"].distance == REPORT["plan"].total_variation
    assert REPORT["age"].distance == REPORT["age"].ks_statistic
    with pytest.raises(KeyError):
        REPORT["none"]


def test_worst_first():
    """`drifted` and the table are in the order of severity, then of how far beyond the floor."""
    found = [feature for feature in REPORT.worst_first() if feature.drifted]
    assert REPORT.drifted == [feature.name for feature in found]
    keys = [(-feature.severity, -feature.distance / feature.floor) for feature in found]
    assert keys == sorted(keys)
    assert set(REPORT.drifted) == {"age", "plan", "empty"}
    profile = ReferenceProfile.fit({"minor": [0.0, 1.0] * 1_000, "major": [0.0, 1.0] * 1_000})
    counts = profile.count({"minor": [0.0] * 600 + [1.0] * 400, "major": [0.0] * 900 + [1.0] * 100})
    floors = {"minor": FeatureRule(floor=0.001), "major": FeatureRule(floor=0.3)}
    assert compare(profile, counts, features=floors).drifted == ["major", "minor"]


def test_to_dict_is_json():
    """`to_dict` holds everything as JSON takes it, None where nothing is known, and no NaN."""
    content = REPORT.to_dict()
    assert json.loads(REPORT.to_json()) == json.loads(json.dumps(content, allow_nan=False))
    assert content["drifted"] == REPORT.drifted
    assert (content["model_name"], content["model_version"], content["rows"]) == ("bikes", "7", 600)
    assert (content["min_rows"], content["seconds"], content["reference"]) == (200, 5_400.0, PROFILE.id)
    fields = {field.name for field in dataclasses.fields(FeatureReport)} | {"verdict"}
    assert {frozenset(feature) for feature in content["features"].values()} == {frozenset(fields)}
    late = content["features"]["late"]
    assert (late["n"], late["m"], late["verdict"]) == (148, 1_400, "waiting")
    assert {late[name] for name in ("psi", "ks_statistic", "drifted", "severity", "missing_share", "mean")} == {None}
    assert content["features"]["price"]["drifted"] is False
    assert content["features"]["price"]["severity"] == 0
    assert type(content["features"]["price"]["n"]) is int


def test_of_nothing():
    """An empty window has no verdict and no number, and still prints and travels."""
    nothing = compare(PROFILE, np.zeros(PROFILE.layout.size, dtype=np.int64))
    assert nothing.drifted == []
    assert {feature.verdict for feature in nothing} == {"waiting"}
    content = json.loads(nothing.to_json())
    known = {
        "name",
        "kind",
        "n",
        "m",
        "alerting",
        "captured",
        "floor",
        "reference_missing_share",
        "reference_mean",
        "reasons",
        "verdict",
    }
    for feature in content["features"].values():
        assert {name for name, value in feature.items() if value is not None} <= known
        assert feature["n"] == 0


def test_html_is_escaped():
    """A notebook shows the same table; names of features and models cannot smuggle markup into it."""
    profile = ReferenceProfile.fit({"<script>alert(1)</script>": [1.0, 2.0] * 200})
    counts = profile.count({"<script>alert(1)</script>": [1.0] * 300})
    html = compare(profile, counts, model_name="<b>&", model_version='"')._repr_html_()
    assert "<script>" not in html
    assert "<b>" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert html.count("<tr>") == html.count("</tr>") == 2
    assert "&lt;b&gt;&amp;" in html


def test_every_severity_has_a_word():
    """The verdict of a drift is the word of its severity; the reasons are a closed set."""
    assert SEVERITIES == ("none", "minor", "moderate", "major")
    assert REASONS == ("distribution", "missing", "other")
    for severity in (1, 2, 3):
        feature = FeatureReport(name="x", kind="numeric", n=1, m=1, drifted=True, severity=severity)
        assert feature.verdict == SEVERITIES[severity]


def test_frozen():
    """A report cannot be changed."""
    for frozen in (REPORT, REPORT["age"]):
        with pytest.raises(dataclasses.FrozenInstanceError):
            frozen.rows = 5
    assert isinstance(REPORT, DriftReport)
