"""What the seeded Prometheus is made by: rules in their order, alerts that wait, panels where Grafana puts them."""

from __future__ import annotations

import json

import pytest
from support.dashboards import Board
from support.prometheus import Line
from support.seeding import alerts_of, levels


def rule(name, expr):
    return {"record": name, "expr": expr}


def test_rules_come_after_what_they_use():
    """A rule is evaluated on a level above those of all that it uses; rules of one level do not use each other."""
    rules = [rule("b:x", "a:x + c:x"), rule("a:x", "sum(x)"), rule("c:x", "a:x * 2"), rule("a:x", "sum(y)")]
    found = [[one["expr"] for one in level] for level in levels(rules)]
    assert found == [["sum(x)", "sum(y)"], ["a:x * 2"], ["a:x + c:x"]]


def test_rules_in_a_circle_are_named():
    """Rules that need each other are no order at all."""
    with pytest.raises(AssertionError, match="a:x"):
        levels([rule("a:x", "b:x"), rule("b:x", "a:x")])


def states(times, **more):
    """(pending, firing) times of an alert whose expression has a value at these times."""
    lines = [Line({"feature": "temp"}, [(float(at), 1.0) for at in times])]
    found = {line.labels["alertstate"]: line for line in alerts_of({"alert": "A", **more}, lines, 60)}
    assert all(line.labels["feature"] == "temp" and line.labels["alertname"] == "A" for line in found.values())
    return tuple([int(at) for at, _ in found[name].points] if name in found else [] for name in ("pending", "firing"))


def test_alerts_wait_before_they_fire():
    """An alert is pending until its expression has had a value for as long as `for` says."""
    assert states([0, 60, 120, 180], **{"for": "2m"}) == ([0, 60], [120, 180])
    assert states([0, 60]) == ([], [0, 60])


def test_alerts_begin_anew_after_a_gap():
    """Where the expression has no value the alert ends, and waits again from the next one."""
    assert states([0, 60, 180, 240, 300], **{"for": "2m"}) == ([0, 60, 180, 240], [300])


def test_alerts_go_on_as_long_as_they_are_kept():
    """`keep_firing_for` bridges a gap of an alert that fires, not of one that is pending, and ends by itself."""
    kept = {"for": "1m", "keep_firing_for": "2m"}
    assert states([0, 60, 240], **kept) == ([0], [60, 120, 180, 240, 300, 360])
    assert states([0, 120], **kept) == ([0, 120], [])
    assert states([0, 60, 600], **kept) == ([0, 600], [60, 120, 180])


def board(panels, variables=()):
    return Board(
        {"uid": "u", "panels": panels, "templating": {"list": list(variables)}}, None, start=0, end=1, scrape=1
    )


def panel(name, x, y, w, h, **more):
    return {"title": name, "type": "stat", "gridPos": {"x": x, "y": y, "w": w, "h": h}} | more


def places(panels):
    return {one["title"]: (one["gridPos"]["x"], one["gridPos"]["y"], one["gridPos"]["w"]) for one in panels}


FEATURES = {"name": "feature", "type": "custom", "query": "a,b,c", "multi": True, "includeAll": True}


def test_repeated_panels_stand_beside_each_other():
    """A panel is repeated for each value, in as many lines as it takes; what is below moves down."""
    listed = [panel("one", 0, 0, 12, 4, repeat="feature", maxPerRow=2), panel("below", 0, 4, 24, 2)]
    found = board(listed, [FEATURES]).panels({})
    assert [(one["values"]["feature"], one["gridPos"]["x"], one["gridPos"]["y"]) for one in found[:3]] == [
        (["a"], 0, 0),
        (["b"], 12, 0),
        (["c"], 0, 4),
    ]
    assert places(found)["below"] == (0, 8, 24)


def test_closed_rows_are_opened_or_left():
    """What is in a closed row has a place of its own once it is opened, and shows nothing while it is not."""
    inside = panel("inside", 0, 1, 24, 5)
    row = panel("row", 0, 0, 24, 1, collapsed=True, panels=[inside]) | {"type": "row"}
    last = panel("last", 0, 1, 24, 1) | {"type": "row"}
    assert places(board([row, last]).panels({})) == {"row": (0, 0, 24), "inside": (0, 1, 24), "last": (0, 6, 24)}
    assert places(board([row, last]).panels({}, opened=False)) == {"row": (0, 0, 24), "last": (0, 1, 24)}


def test_several_values_are_an_alternation():
    """Several values become an alternation in which nothing is special; all of them are what the variable says."""
    job = {"name": "job", "type": "custom", "query": "a.b,c", "multi": True, "includeAll": True, "allValue": ".+"}
    one = {"name": "one", "type": "custom", "query": "a,b : c", "current": {"value": "c"}}
    looked = board([], [job, one])
    assert looked.values({}) == {"job": ".+", "one": "c"}
    text = 'x{job=~"$job", one="${one}"}[$__rate_interval] ${unknown} $$'
    several = looked.interpolate(text, looked.values({"job": ["a.b", "c"]}), looked.builtin(15))
    assert several == 'x{job=~"(a\\\\.b|c)", one="c"}[16s] ${unknown} $$'
    assert json.loads(looked.interpolate('"${job:csv}"', looked.values({"job": ["a", "c"]}))) == "a,c"
