"""grafana/dashboards: what the builder writes, what Grafana can import, and what the metrics can answer."""

from __future__ import annotations

import copy
import json
import re
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from support.dashboards import DASHBOARDS, load
from support.lint_dashboard import Finding, findings, library

from modelwatch.fleet.options import RuleOptions
from modelwatch.fleet.recording import recorded_names
from modelwatch.fleet.shipped import dashboards
from modelwatch.metrics.catalogue import CATALOGUE

with warnings.catch_warnings():  # it recommends the other format, which a Grafana before 12 does not read
    warnings.simplefilter("ignore", DeprecationWarning)
    from grafana_foundation_sdk.models.dashboard import Dashboard

GRAFANA = DASHBOARDS.parent
BOARDS = load()
LIBRARY = library(list(BOARDS.values()), recorded_names(RuleOptions()))
EXPECTED = [f"modelwatch-{name}" for name in ("drift", "infra", "model", "overview", "service")]

Board = dict[str, Any]


def panels(board: Board) -> list[dict[str, Any]]:
    """All panels and rows, with those of closed rows."""
    return [inner for found in board["panels"] for inner in (found, *found.get("panels", ()))]


def panel(board: Board, title: str) -> dict[str, Any]:
    """The panel with that title."""
    return next(found for found in panels(board) if found["title"] == title)


def queries(board: Board) -> list[str]:
    """All queries of a dashboard's panels."""
    return [target["expr"] for found in panels(board) for target in found.get("targets", ())]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """What the builder writes now."""
    directory = tmp_path_factory.mktemp("dashboards")
    subprocess.run([sys.executable, GRAFANA / "build.py", directory], check=True, capture_output=True)
    return directory


def test_the_five_dashboards_are_there():
    """There are five dashboards, and each file is called like the uid in it."""
    assert sorted(BOARDS) == EXPECTED
    assert [board["uid"] for board in BOARDS.values()] == list(BOARDS)


def test_committed_files_are_what_the_builder_writes(built):
    """The committed dashboards are, byte for byte, what the builder writes; there are no others."""
    assert {path.name for path in built.iterdir()} == {path.name for path in DASHBOARDS.iterdir()}
    for path in built.iterdir():
        assert (DASHBOARDS / path.name).read_bytes() == path.read_bytes(), f"Run {GRAFANA / 'build.py'}."


@pytest.mark.parametrize("name", EXPECTED)
def test_lint(name):
    """A dashboard has no finding of the linter."""
    assert findings(BOARDS[name], LIBRARY) == []


@pytest.mark.parametrize("name", EXPECTED)
def test_other_windows(name):
    """A dashboard that is exported for other windows asks only for what is recorded for those."""
    windows = ("30m", "7d")
    board = json.loads(dashboards(windows)[name])
    shelf = library(list(BOARDS.values()), recorded_names(RuleOptions(windows=windows)))
    assert findings(board, shelf) == []


def lost(before: Any, after: Any, path: str = "") -> list[str]:
    """Keys of `before` that `after` does not have, or has with another value."""
    if isinstance(before, dict):
        return [
            where
            for key, value in before.items()
            for where in (lost(value, after[key], f"{path}.{key}") if key in after else [f"{path}.{key}"])
        ]
    if isinstance(before, list):
        if len(before) != len(after):
            return [path]
        pairs = enumerate(zip(before, after, strict=True))
        return [where for i, pair in pairs for where in lost(*pair, f"{path}[{i}]")]
    return [] if before == after else [path]


def round_trip(board: Board) -> Board:
    """Read by Grafana's own schema, and written again."""
    register_default_plugins()
    return json.loads(json.dumps(Dashboard.from_json(copy.deepcopy(board)), cls=JSONEncoder))


@pytest.mark.parametrize("name", EXPECTED)
def test_grafana_knows_every_key(name):
    """Grafana's schema knows every key of a dashboard: nothing is lost when it is read and written again."""
    assert lost(BOARDS[name], round_trip(BOARDS[name])) == []


@pytest.mark.parametrize(
    "misspell",
    [
        lambda board: board["panels"][1].update(titel="x"),
        lambda board: board["panels"][1]["options"].update(colourMode="x"),
        lambda board: panel(board, "Requests by version")["fieldConfig"]["defaults"]["custom"].update(lineWith=1),
        lambda board: board["panels"][1]["targets"][0].update(exrp="x"),
        lambda board: board["templating"]["list"][1].update(allvalue=".+"),
    ],
    ids=["panel", "options", "custom", "target", "variable"],
)
def test_a_misspelled_key_is_lost(misspell):
    """A key that Grafana does not know, in a panel, its options, its fields, a query or a variable, is found."""
    board = copy.deepcopy(BOARDS["modelwatch-overview"])
    misspell(board)
    assert len(lost(board, round_trip(board))) == 1


def _set(*path: Any, value: Any) -> Callable[[Board], None]:
    def change(board: Board) -> None:
        inner = board
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = value

    return change


def _drop(*path: Any) -> Callable[[Board], None]:
    def change(board: Board) -> None:
        inner = board
        for key in path[:-1]:
            inner = inner[key]
        del inner[path[-1]]

    return change


def _ask(expr: str, **properties: Any) -> Callable[[Board], None]:
    """Another query in a graph whose answer needs no legend."""

    def change(board: Board) -> None:
        panel(board, "Requests")["targets"][0].update(expr=expr, **properties)

    return change


def _of(title: str, change: Callable[[dict[str, Any]], Any]) -> Callable[[Board], None]:
    def changed(board: Board) -> None:
        change(panel(board, title))

    return changed


S = 'job=~"$job", instance=~"$instance"'
REQUESTS = f"sum(rate(model_request_total{{{S}}}[$__rate_interval]))"
DEFAULTS = ("fieldConfig", "defaults")

BREACHES: list[tuple[str, str, Callable[[Board], None]]] = [
    ("schema-version", "unknown", _set("schemaVersion", value=43)),
    ("schema-version", "missing", _drop("schemaVersion")),
    ("no-id", "an id", _set("id", value=7)),
    ("uid", "a space", _set("uid", value="model watch")),
    ("uid", "41 characters", _set("uid", value="x" * 41)),
    ("no-inputs", "inputs", _set("__inputs", value=[])),
    ("titled", "no title", _set("title", value="")),
    ("uneditable", "editable", _set("editable", value=True)),
    ("tagged", "no tag", _set("tags", value=[])),
    ("time", "no time", _set("time", value={})),
    ("time", "no refresh", _set("refresh", value="")),
    ("crosshair", "no crosshair", _set("graphTooltip", value=0)),
    ("drop-down", "no links", _set("links", value=[])),
    ("drop-down", "without variables", _set("links", 0, "includeVars", value=False)),
    ("size", "too large", _set("description", value="x" * 200_000)),
    ("template-datasource", "another name", _set("templating", "list", 0, "name", value="DS_PROMETHEUS")),
    ("template-datasource", "another kind", _set("templating", "list", 0, "query", value="loki")),
    ("template-datasource", "empty current", _set("templating", "list", 0, "current", value={})),
    ("template-job", "only one", _set("templating", "list", 1, "multi", value=False)),
    ("template-job", "another label", _set("templating", "list", 1, "label", value="job")),
    ("template-instance", "no all", _set("templating", "list", 2, "allValue", value=".*")),
    ("template-on-time-change-reload", "once", _set("templating", "list", 3, "refresh", value=1)),
    ("variable-datasource", "another", _set("templating", "list", 3, "datasource", "uid", value="prometheus")),
    ("template-label-promql", "no query", _set("templating", "list", 3, "query", "query", value="models")),
    (
        "template-label-promql",
        "no PromQL",
        _set("templating", "list", 3, "query", "query", value="label_values(up{, job)"),
    ),
    (
        "variable-order",
        "asks by a later one",
        _set(
            "templating", "list", 3, "query", "query",
            value=f'label_values(model_loaded_info{{{S}, model_version=~"$model_version"}}, model_name)',
        ),
    ),
    (
        "metric-known",
        "a variable of another metric",
        _set("templating", "list", 3, "query", "query", value=f"label_values(model_info{{{S}}}, model_name)"),
    ),
    ("variable-known", "a variable that is not there", _set("description", value="All models of $team, and more.")),
    (
        "variable-used",
        "a variable that changes nothing",
        lambda board: board["templating"]["list"].append({"type": "textbox", "name": "team"}),
    ),
    ("grid-place", "none", _of("Requests", lambda found: found.pop("gridPos"))),
    ("grid-place", "too far right", _of("Requests", lambda found: found["gridPos"].update(x=22))),
    ("grid-overlap", "two in one place", _of("Requests", lambda found: found["gridPos"].update(x=0))),
    ("grid-holes", "a hole", _of("Requests", lambda found: found["gridPos"].update(w=2))),
    ("panel-ids", "twice the same", _of("Requests", lambda found: found.update(id=1))),
    ("panel-ids", "none", _of("Requests", lambda found: found.pop("id"))),
    ("panel-type", "of Angular", _of("Requests", lambda found: found.update(type="graph"))),
    ("panel-title-description", "no title", _of("Requests", lambda found: found.update(title=""))),
    ("panel-title-description", "no description", _of("Requests", lambda found: found.pop("description"))),
    ("panel-datasource", "a panel's", _of("Requests", lambda found: found.update(datasource=None))),
    ("panel-datasource", "a query's", _of("Requests", lambda found: found["targets"][0].pop("datasource"))),
    ("panel-no-targets", "no query", _of("Requests", lambda found: found.update(targets=[]))),
    ("ref-ids", "twice the same", _of("Replicas", lambda found: found["targets"][1].update(refId="A"))),
    ("panel-units", "unknown", _of("Requests", lambda found: found["fieldConfig"]["defaults"].update(unit="qps"))),
    ("panel-units", "none", _of("Requests", lambda found: found["fieldConfig"]["defaults"].pop("unit"))),
    (
        "panel-units",
        "of a column",
        _of("Alerts that fire", lambda found: found["fieldConfig"]["overrides"][0]["properties"][0].update(value="%")),
    ),
    (
        "thresholds",
        "first not null",
        _of("Requests", lambda found: found["fieldConfig"]["defaults"]["thresholds"]["steps"][0].update(value=0)),
    ),
    (
        "thresholds",
        "falling",
        _of("Failed requests", lambda found: found["fieldConfig"]["defaults"]["thresholds"]["steps"].reverse()),
    ),
    ("no-value", "nothing", _of("Requests", lambda found: found["fieldConfig"]["defaults"].pop("noValue"))),
    ("unknown-colour", "none", _of("Requests", lambda found: found["fieldConfig"]["defaults"].pop("mappings"))),
    (
        "states-named",
        "by thresholds",
        _of(
            "Worst PSI of each model and version",
            lambda found: found["fieldConfig"]["defaults"].update(mappings=[{"type": "value", "options": {}}]),
        ),
    ),
    (
        "table-sort",
        "before it is a table",
        _of("Alerts that fire", lambda found: found["transformations"].append({"id": "sortBy", "options": {}})),
    ),
    ("bar-scale", "no end", _of("Error budget left", lambda found: found["fieldConfig"]["defaults"].pop("max"))),
    ("instant-or-range", "both", _of("Replicas", lambda found: found["targets"][0].update(range=True))),
    ("table-format", "series", _of("Alerts that fire", lambda found: found["targets"][0].update(format="time_series"))),
    (
        "links",
        "nowhere",
        _of("Requests", lambda found: found["fieldConfig"]["defaults"]["links"][0].update(url="/d/model?x")),
    ),
    (
        "links",
        "loses the time",
        _of(
            "Requests",
            lambda found: found["fieldConfig"]["defaults"]["links"][0].update(
                url="/d/modelwatch-service?${datasource:queryparam}"
            ),
        ),
    ),
    (
        "links",
        "chooses what is not there",
        _of(
            "Requests",
            lambda found: found["fieldConfig"]["defaults"]["links"][0].update(
                url="/d/modelwatch-service?${datasource:queryparam}&var-feature=x&${__url_time_range}"
            ),
        ),
    ),
    ("annotations", "none", _set("annotations", "list", value=[])),
    ("target-promql", "an annotation's", _set("annotations", "list", 1, "expr", value="sum(")),
    ("target-promql", "no PromQL", _ask("sum(")),
    ("target-promql", "a wrong type", _ask(f"rate(model_request_total{{{S}}})")),
    ("target-rate-interval", "fixed", _ask(REQUESTS.replace("$__rate_interval", "5m"))),
    ("target-rate-interval", "the step", _ask(REQUESTS.replace("$__rate_interval", "$__interval"))),
    ("target-rate-interval", "a short increase", _ask(f"sum(increase(model_request_total{{{S}}}[5m]))")),
    ("range-instant", "in a graph", _ask(
        f"sum(increase(model_request_total{{{S}}}[$__range]))", instant=False, range=True)),
    ("bins-of-one-reference", "over all", _ask(
        f"sum by (bin) (increase(model_feature_bin_total{{{S}}}[$__rate_interval]))", legendFormat="{{bin}}")),
    ("bins-of-one-reference", "distances over all", _ask(
        "sum(abs(max by (reference, bin) (modelwatch:reference_bin_share:max{job=~'$job'}) - 1))")),
    ("target-job", "none", _ask(REQUESTS.replace('job=~"$job", ', ""))),
    ("target-job", "fixed", _ask(REQUESTS.replace("$job", "bike-demand"))),
    ("target-instance", "none", _ask(REQUESTS.replace(', instance=~"$instance"', ""))),
    ("several-regex", "only one", _ask(REQUESTS.replace("}", ', model_name="$model_name"}'))),
    ("target-counter-agg", "raw", _ask(f"sum(model_request_total{{{S}}})")),
    ("target-counter-agg", "raw buckets", _ask(f"sum(model_request_latency_seconds_bucket{{{S}}})")),
    ("target-counter-agg", "a mean of it", _ask(f"sum(avg_over_time(model_request_total{{{S}}}[$__rate_interval]))")),
    ("rate-of-counter", "a gauge", _ask(f"sum(rate(model_queue_depth{{{S}}}[$__rate_interval]))")),
    ("metric-known", "another one", _ask(f"sum(rate(model_requests_total{{{S}}}[$__rate_interval]))")),
    ("metric-known", "a histogram without its part", _ask(f"sum(rate(model_batch_size{{{S}}}[$__rate_interval]))")),
    ("metric-known", "a part of a counter", _ask(f"sum(rate(model_request_total_sum{{{S}}}[$__rate_interval]))")),
    ("metric-known", "not recorded", _ask('max(modelwatch:feature_psi:2h{job=~"$job"})')),
    ("metric-known", "no name", _ask(f"sum({{{S}}})")),
    ("label-known", "of another metric", _ask(REQUESTS.replace("}", ', feature="x"}'))),
    ("label-known", "of a replica", _ask(f"max(modelwatch:feature_psi:1h{{{S}}})")),
    ("ratio-guarded", "by what may be 0", _ask(f"{REQUESTS} / {REQUESTS}")),
    ("ratio-guarded", "by a part of it", _ask(f"{REQUESTS} / ({REQUESTS} > 0) / {REQUESTS}")),
    ("quantile-aggregated", "of each series", _ask(
        f"max(histogram_quantile(0.9, rate(model_batch_size_bucket{{{S}}}[$__rate_interval])))")),
    ("quantile-aggregated", "without le", _ask(
        f"histogram_quantile(0.9, sum(rate(model_batch_size_bucket{{{S}}}[$__rate_interval])))")),
    ("few-series", "too many", _ask(f"topk(50, {REQUESTS})")),
    ("steady-top", "anew at every point", _ask(
        f"topk(5, {REQUESTS.replace('sum', 'sum by (status) ')})",
        legendFormat="{{status}}", instant=False, range=True)),
    ("watched", "any target", _ask(f"count(up{{{S}}} == 0)")),
    ("watched", "beside something else", _ask(f"max(scrape_duration_seconds{{{S}}} and on (job) {REQUESTS})")),
    ("no-subquery", "a subquery", _ask(f"max(max_over_time({REQUESTS}[1h:1m]))")),
    ("legend", "none", _of("Requests by version", lambda found: found["targets"][0].pop("legendFormat"))),
    (
        "legend",
        "of what is not there",
        _of("Requests by version", lambda found: found["targets"][0].update(legendFormat="{{model_name}} {{code}}")),
    ),
    ("legend", "none beside others", _of("Replicas", lambda found: found["targets"][0].pop("legendFormat"))),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "mutate"), [pytest.param(r, m, id=f"{r}-{name}") for r, name, m in BREACHES])
def test_each_rule_finds_its_breach(rule, mutate):
    """A dashboard that breaks a rule of the linter has a finding of that rule."""
    board = copy.deepcopy(BOARDS["modelwatch-overview"])
    mutate(board)
    assert rule in {found.rule for found in findings(board, LIBRARY)}


def test_a_wrapped_dashboard_is_found():
    """A dashboard inside of the key that only the HTTP API takes is found."""
    assert findings({"dashboard": BOARDS["modelwatch-overview"]}, LIBRARY) == [
        Finding("no-wrapper", "file", "the dashboard is inside of a key, as only the HTTP API takes it")
    ]


def test_buckets_without_their_format_are_found():
    """A heatmap of buckets that are not taken apart is found."""
    board = copy.deepcopy(BOARDS["modelwatch-service"])
    panel(board, "Latency, all of it")["targets"][0]["format"] = "time_series"
    assert [found.rule for found in findings(board, LIBRARY)] == ["heatmap-format"]


def test_every_rule_of_the_linter_has_a_breach():
    """Each rule that the linter knows is shown to find something."""
    rooms = [Path(__file__).parents[1] / "support" / f"lint_{name}.py" for name in ("dashboard", "promql")]
    named = r'(?:found\(|Finding\(|yield )"([a-z]+(?:-[a-z]+)*)",'
    rules = {rule for room in rooms for rule in re.findall(named, room.read_text("utf-8"))}
    shown = {rule for rule, _, _ in BREACHES} | {"no-wrapper", "heatmap-format"}
    assert rules - shown == set()
    assert len(rules) > 30


def test_every_metric_is_shown_or_named():
    """Every metric of the catalogue that is shown by default is asked for by a panel, or is here with the reason."""
    elsewhere = {
        "model_reference_bin_share": "recorded as modelwatch:reference_bin_share:max",
        "model_reference_missing_share": "recorded as modelwatch:reference_missing_share:max",
        "modelwatch_buffer_rows": "rows wait for a second at most",
        "modelwatch_capture_available": "said in the log at the start, and by `modelwatch doctor`",
    }
    asked = {re.sub("_(bucket|sum|count)$", "", name) for board in BOARDS.values() for expr in queries(board)
             for name in re.findall(r"\w+", expr)}  # fmt: skip
    asked |= {name for board in BOARDS.values() for expr in queries(board) for name in re.findall(r"\w+", expr)}
    assert {name for name, entry in CATALOGUE.items() if entry.on} - asked == set(elsewhere)


def test_the_panels_of_the_specification_are_there():
    """Its four panels are there: rate by status, quantiles of the latency, share of errors, confidence as a heatmap."""
    service, model = BOARDS["modelwatch-service"], BOARDS["modelwatch-model"]
    assert "sum by (status) (rate(model_request_total" in panel(service, "Requests by status")["targets"][0]["expr"]
    assert [target["legendFormat"] for target in panel(service, "Latency")["targets"]] == ["p50", "p95", "p99"]
    assert " > 0)" in panel(service, "Failed")["targets"][0]["expr"]
    assert panel(model, "Confidence")["type"] == "heatmap"


def test_what_is_not_known_is_not_zero():
    """No query of a panel makes 0 of what is not known, but for counts of what fires, what is up and what is loaded."""
    for board in BOARDS.values():
        for expr in queries(board):
            if "vector(0)" in expr:
                assert re.match(r"count\((ALERTS|up|count by \([\w, ]+\) \(model_loaded_info)\{", expr), expr
