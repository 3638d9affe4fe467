"""What a dashboard file must be so that it can be imported and provisioned, and so that people can read it.

    findings(json.loads(path.read_text()), Library(boards, recorded))

Each finding has the name of a rule. Those about queries are in `lint_promql.py`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

from grafana_foundation_sdk.models import units

from .lint_promql import Context, judged, labels_of, parsed, variables

UNITS = {value for name, value in vars(units).items() if isinstance(value, str) and not name.startswith("_")}
COLUMNS = 24
MOST_BYTES = 200_000
TYPES = {"row", "stat", "timeseries", "table", "bargauge", "barchart", "heatmap", "state-timeline"}
PROMETHEUS = {"type": "prometheus", "uid": "${datasource}"}
_UID = re.compile(r"[A-Za-z0-9_-]{1,40}")
_LABEL_VALUES = re.compile(r"label_values\((.+), (\w+)\)")
_PLACEHOLDER = re.compile(r"\{\{\s*(\w+)\s*\}\}")
_LINK = re.compile(r"/d/([\w-]+)\?(.*)")


class Finding(NamedTuple):
    """The name of a rule, where it is broken, and how."""

    rule: str
    where: str
    what: str


@dataclass(frozen=True)
class Library:
    """What a dashboard may refer to: others by uid with their variables, and names that are recorded."""

    boards: Mapping[str, frozenset[str]]
    recorded: frozenset[str]


def library(boards: Sequence[Mapping[str, Any]], recorded: frozenset[str]) -> Library:
    """The library that these dashboards are."""
    return Library({board["uid"]: frozenset(_names(board)) for board in boards}, recorded)


def findings(board: Mapping[str, Any], shelf: Library) -> list[Finding]:
    """All that is wrong with a dashboard."""
    if "dashboard" in board:
        return [Finding("no-wrapper", "file", "the dashboard is inside of a key, as only the HTTP API takes it")]
    found = list(_file(board))
    found += _variables(board, shelf)
    found += _grid(board)
    for panel in _panels(board):
        found += _panel(panel, board, shelf)
    found += _annotations(board, shelf)
    return found


def _names(board: Mapping[str, Any]) -> list[str]:
    return [variable["name"] for variable in board.get("templating", {}).get("list", [])]


def _panels(board: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [inner for panel in board.get("panels", []) for inner in (panel, *panel.get("panels", []))]


def _context(board: Mapping[str, Any], shelf: Library, *, instant: bool = False) -> Context:
    listed = board.get("templating", {}).get("list", [])
    custom = {variable["name"]: variable["current"]["value"] for variable in listed if variable["type"] == "custom"}
    several = frozenset(variable["name"] for variable in listed if variable.get("multi"))
    return Context(shelf.recorded, custom, several, instant)


def _file(board: Mapping[str, Any]) -> Iterator[Finding]:
    def found(rule: str, what: str) -> Finding:
        return Finding(rule, "file", what)

    if not 39 <= board.get("schemaVersion", 0) <= 42:
        yield found("schema-version", f"schemaVersion {board.get('schemaVersion')}")
    if board.get("id") is not None:
        yield found("no-id", "an id, which clashes with those of the Grafana that imports it")
    if not _UID.fullmatch(board.get("uid") or ""):
        yield found("uid", f"uid {board.get('uid')!r}")
    if {"__inputs", "__requires", "__elements"} & set(board):
        yield found("no-inputs", "inputs, which provisioning does not fill in")
    if not board.get("title") or len(board.get("description") or "") < 20:
        yield found("titled", "no title, or no description")
    if board.get("editable") is not False:
        yield found("uneditable", "can be edited, and loses it at the next provisioning")
    if "modelwatch" not in board.get("tags", ()):
        yield found("tagged", "without the tag that the drop-down goes by")
    if not board.get("time", {}).get("from") or not board.get("refresh") or board.get("timezone") != "browser":
        yield found("time", "no time, refresh or time zone")
    if board.get("graphTooltip") != 1:
        yield found("crosshair", "no shared crosshair")
    if not any(link.get("asDropdown") and link.get("includeVars") and link.get("keepTime") for link in board["links"]):
        yield found("drop-down", "no way to the other dashboards with what is chosen")
    if len(json.dumps(board, separators=(",", ":"))) > MOST_BYTES:
        yield found("size", "larger than a ConfigMap takes")


def _variables(board: Mapping[str, Any], shelf: Library) -> Iterator[Finding]:
    listed = {variable["name"]: variable for variable in board.get("templating", {}).get("list", [])}
    source = listed.get("datasource", {})
    if source.get("type") != "datasource" or source.get("query") != "prometheus":
        yield Finding("template-datasource", "datasource", "no variable for the data source")
    if "current" in source and not {"text", "value"} <= set(source["current"]):
        yield Finding("template-datasource", "datasource", "current without text and value")
    for name in ("job", "instance"):
        variable = listed.get(name, {})
        whole = variable.get("multi") and variable.get("includeAll") and variable.get("allValue") == ".+"
        if variable.get("type") != "query" or variable.get("label") != name.capitalize() or not whole:
            yield Finding(f"template-{name}", name, "not a query of which several, or all, can be chosen")
    known: set[str] = set()
    for name, variable in listed.items():
        if variable["type"] == "query":
            for rule, what in _asked(variable, known, _context(board, shelf)):
                yield Finding(rule, f"variable {name}", what)
        known.add(name)
    used = variables(json.dumps(board))
    for name in used - set(listed):
        yield Finding("variable-known", "file", f"${name} is no variable")
    for name, variable in listed.items():
        if name not in used and not variable.get("hide"):
            yield Finding("variable-used", f"variable {name}", "changes nothing")


def _asked(variable: Mapping[str, Any], known: set[str], context: Context) -> Iterator[tuple[str, str]]:
    """What is wrong with the query of a variable."""
    query = variable["query"]["query"]
    if variable.get("datasource") != PROMETHEUS:
        yield "variable-datasource", "not from the chosen data source"
    if variable.get("refresh") != 2:
        yield "template-on-time-change-reload", "does not follow the time shown"
    if later := variables(query) - known:
        yield "variable-order", f"asks by {', '.join(sorted(later))}, which comes later"
    found = _LABEL_VALUES.fullmatch(query)
    if found is None:
        yield "template-label-promql", f"no label_values(selector, label): {query}"
        return
    problems = [(rule, what) for rule, what in judged(found[1], context) if rule != "target-counter-agg"]
    if variable["name"] in {"job", "instance"}:  # they are what the others are chosen by
        problems = [(rule, what) for rule, what in problems if rule not in {"target-job", "target-instance"}]
    yield from (("template-label-promql", what) if rule == "target-promql" else (rule, what) for rule, what in problems)


def _grid(board: Mapping[str, Any]) -> Iterator[Finding]:
    places: dict[tuple[int, int], str] = {}
    bottom = 0
    for panel in board["panels"]:
        place, title = panel.get("gridPos"), panel.get("title", "")
        if not place or min(place.values()) < 0 or place["x"] + place["w"] > COLUMNS or not place["h"] * place["w"]:
            yield Finding("grid-place", title, f"no place in the grid: {place}")
            continue
        bottom = max(bottom, place["y"] + place["h"])
        cells = [(x, y) for x in range(place["x"], place["x"] + place["w"])
                 for y in range(place["y"], place["y"] + place["h"])]  # fmt: skip
        if taken := {places[cell] for cell in cells if cell in places}:
            yield Finding("grid-overlap", title, f"on top of {', '.join(sorted(taken))}")
        places |= dict.fromkeys(cells, title)
    if holes := COLUMNS * bottom - len(places):
        yield Finding("grid-holes", "grid", f"{holes} cells without a panel")
    numbers = [panel.get("id") for panel in _panels(board)]
    if len(set(numbers)) < len(numbers) or not all(isinstance(number, int) and number > 0 for number in numbers):
        yield Finding("panel-ids", "file", "ids that are not there or not unique")


def _panel(panel: Mapping[str, Any], board: Mapping[str, Any], shelf: Library) -> Iterator[Finding]:
    title = panel.get("title") or ""

    def found(rule: str, what: str) -> Finding:
        return Finding(rule, title or f"panel {panel.get('id')}", what)

    if panel.get("type") not in TYPES:
        yield found("panel-type", f"type {panel.get('type')!r}")
    if not title:
        yield found("panel-title-description", "no title")
    if panel.get("type") == "row":
        return
    if len(panel.get("description") or "") < 40:
        yield found("panel-title-description", "no description that says what, of which metric, in which window")
    if panel.get("datasource") != PROMETHEUS or any(
        t.get("datasource") != PROMETHEUS for t in panel.get("targets", ())
    ):
        yield found("panel-datasource", "not from the chosen data source")
    yield from (found(rule, what) for rule, what in _looks(panel))
    targets = panel.get("targets", [])
    if not targets or not all(target.get("expr") for target in targets):
        yield found("panel-no-targets", "no query")
    letters = [target.get("refId") for target in targets]
    if len(set(letters)) < len(letters) or not all(letters):
        yield found("ref-ids", f"refIds {letters}")
    for target in targets:
        context = _context(board, shelf, instant=bool(target.get("instant")))
        yield from (found(rule, what) for rule, what in judged(target.get("expr", ""), context))
        yield from (found(rule, what) for rule, what in _answer(panel, target, context))
    yield from (found(rule, what) for rule, what in _links(panel, shelf))


def _looks(panel: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Units, thresholds and what stands there when there is nothing."""
    config = panel.get("fieldConfig", {})
    defaults = config.get("defaults", {})
    properties = [one for override in config.get("overrides", ()) for one in override["properties"]]
    for unit in (defaults.get("unit"), *(one["value"] for one in properties if one["id"] == "unit")):
        if unit not in UNITS:
            yield "panel-units", f"unit {unit!r}"
    steps = [defaults.get("thresholds"), *(one["value"] for one in properties if one["id"] == "thresholds")]
    for threshold in (one for one in steps if one is not None):
        values = [step["value"] for step in threshold["steps"]]
        if values[:1] != [None] or None in values[1:] or any(a >= b for a, b in pairwise(values[1:])):
            yield "thresholds", f"steps {values}: the first must be null, the others rise"
    if not defaults.get("noValue"):
        yield "no-value", "says nothing when there is nothing"
    special = [one["options"] for one in defaults.get("mappings", ()) if one["type"] == "special"]
    if panel.get("type") == "stat" and not any(
        one["match"] == "null+nan" and one["result"]["color"] for one in special
    ):
        yield "unknown-colour", "nothing in the colour of a number: green where that is well"
    by_steps = defaults.get("color", {}).get("mode") == "thresholds"
    if panel.get("type") == "state-timeline" and defaults.get("mappings") and by_steps:
        yield "states-named", "bands named by thresholds, not by the words for their values"
    if panel.get("type") == "table" and any(one["id"] == "sortBy" for one in panel.get("transformations", ())):
        yield "table-sort", "sorted by a transformation, which puts what is not known first"
    if panel.get("type") == "bargauge" and not {"min", "max"} <= set(defaults):
        yield "bar-scale", "bars without a scale cannot be compared"


def _answer(panel: Mapping[str, Any], target: Mapping[str, Any], context: Context) -> Iterator[tuple[str, str]]:
    """How the answer comes, and what its series are called."""
    expr, legend, kind = target.get("expr", ""), target.get("legendFormat", ""), panel.get("type")
    if bool(target.get("instant")) == bool(target.get("range")):
        yield "instant-or-range", "neither or both of instant and range"
    if kind in {"table", "barchart"} and (target.get("format") != "table" or not target.get("instant")):
        yield "table-format", "a table that is not asked for as one, for one moment"
    if kind in {"heatmap", "bargauge"} and "_bucket" in expr and target.get("format") != "heatmap":
        yield "heatmap-format", "buckets that are not taken apart: each counts those below it too"
    try:
        labels = labels_of(parsed(expr, context))
    except ValueError:
        return
    if kind in {"table", "barchart"} or labels is None:
        return
    named = set(_PLACEHOLDER.findall(legend))
    if labels and not named and kind != "stat":
        yield "legend", f"no legend that tells {', '.join(sorted(labels))} apart"
    if named - labels:
        yield "legend", f"a legend with {', '.join(sorted(named - labels))}, which the answer does not have"
    if not labels and not legend and len(panel["targets"]) > 1:
        yield "legend", "no legend beside other queries"


def _links(panel: Mapping[str, Any], shelf: Library) -> Iterator[tuple[str, str]]:
    config = panel.get("fieldConfig", {})
    links = list(config.get("defaults", {}).get("links", ()))
    for override in config.get("overrides", ()):
        links += [link for one in override["properties"] if one["id"] == "links" for link in one["value"]]
    for link in links:
        found = _LINK.fullmatch(link["url"])
        if found is None or found[1] not in shelf.boards:
            yield "links", f"to a dashboard that there is not: {link['url']}"
            continue
        chosen = set(re.findall(r"var-(\w+)=", found[2])) | set(re.findall(r"\$\{(\w+):queryparam\}", found[2]))
        if lost := chosen - shelf.boards[found[1]]:
            yield "links", f"chooses {', '.join(sorted(lost))}, which {found[1]} does not have"
        if not link.get("title") or "${__url_time_range}" not in found[2] or "${datasource:queryparam}" not in found[2]:
            yield "links", f"loses the title, the time or the data source: {link['url']}"


def _annotations(board: Mapping[str, Any], shelf: Library) -> Iterator[Finding]:
    listed = {entry["name"]: entry for entry in board.get("annotations", {}).get("list", [])}
    for name in {"Deployments", "Firing alerts"} - set(listed):
        yield Finding("annotations", name, "is not drawn into the graphs")
    for name, entry in listed.items():
        if entry.get("builtIn"):
            continue
        if entry.get("datasource") != PROMETHEUS:
            yield Finding("annotations", name, "not from the chosen data source")
        for rule, what in judged(entry.get("expr", ""), _context(board, shelf)):
            yield Finding(rule, name, what)
