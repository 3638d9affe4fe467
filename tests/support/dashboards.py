"""What Grafana does with a dashboard before it draws: variables, repeated panels, intervals, queries.

    board = Board(json.loads(path.read_text()), past.server, start=past.start, end=past.end, scrape=60)
    for panel in board.panels({"job": ["bike-demand"]}):
        for answer in board.answers(panel):
            answer.lines

The classic JSON of a dashboard goes in; what comes back is what its panels would get, query by query. Only what the
dashboards of this project use is known here; anything else is an error, so that nothing is passed over in silence.
"""

from __future__ import annotations

import copy
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .prometheus import Line, Prometheus, QueryError

DASHBOARDS = Path(__file__).parents[2] / "grafana" / "dashboards"
_LABEL_VALUES = re.compile(r"label_values\((?:(?P<match>.+),\s*)?(?P<label>\w+)\)\s*$", re.DOTALL)
_QUERY_RESULT = re.compile(r"query_result\((?P<expression>.+)\)\s*$", re.DOTALL)
_REFERENCE = re.compile(r"\$(?P<plain>\w+)|\$\{(?P<name>\w+)(?:\.[\w.]+)?(?::(?P<format>[\w:]+))?\}")
_SPECIAL = re.compile(r"[\\^$*+?.()|\[\]{}']")
_NICE = (1, 2, 5, 10, 15, 20, 30, 60, 120, 300, 600, 900, 1200, 1800, 3600, 7200, 10800, 21600, 43200, 86400)
_POINTS_OF_24 = 1500  # about as many pixels as a panel of the whole width has

Values = Mapping[str, Sequence[str]]


def load(folder: Path = DASHBOARDS) -> dict[str, dict[str, Any]]:
    """The dashboards of a folder by the stem of their file."""
    return {path.stem: json.loads(path.read_text("utf-8")) for path in sorted(folder.glob("*.json"))}


@dataclass
class Answer:
    """What a query of a panel brought.

    Attributes
    ----------
    expression
        As it was sent.
    lines
        The series; of an instant query each has one point.
    error
        What Prometheus said instead.
    """

    target: Mapping[str, Any]
    expression: str
    instant: bool
    step: float
    lines: list[Line] = field(default_factory=list)
    error: str = ""

    @property
    def nans(self) -> int:
        """Values that are no number."""
        return sum(math.isnan(value) for line in self.lines for _, value in line.points)


class Board:
    """A dashboard, and the Prometheus that it looks at.

    Parameters
    ----------
    dashboard
        The classic JSON.
    start, end
        What is looked at, in seconds since 1970.
    scrape
        Seconds between scrapes, as the data source would be told.
    """

    def __init__(
        self, dashboard: Mapping[str, Any], server: Prometheus, *, start: float, end: float, scrape: float
    ) -> None:
        self.dashboard = dashboard
        self._server, self.start, self.end, self._scrape = server, start, end, scrape
        self._variables: list[dict[str, Any]] = list(dashboard.get("templating", {}).get("list", []))

    # -- variables

    def variable_queries(self, chosen: Values) -> list[tuple[str, str]]:
        """The variables that are asked for, with their query as it is sent."""
        values = self.values(chosen)
        return [
            (variable["name"], self.interpolate(_query_of(variable), values))
            for variable in self._variables
            if variable["type"] == "query"
        ]

    def values(self, chosen: Values) -> dict[str, list[str] | str]:
        """The value of every variable, each by those before it: as chosen, else all, else the first option."""
        found: dict[str, list[str] | str] = {}
        for variable in self._variables:
            name = variable["name"]
            if variable["type"] == "datasource":
                found[name] = "prometheus"
            elif variable["type"] == "adhoc":
                continue
            elif name in chosen:
                given = list(chosen[name])
                found[name] = given if variable.get("multi") or variable.get("includeAll") else given[0]
            elif variable.get("includeAll"):
                found[name] = variable["allValue"] if variable.get("allValue") else self.options(variable, found)
            else:
                options = self.options(variable, found)
                current = (variable.get("current") or {}).get("value")
                first = current if isinstance(current, str) and current in options else (options or [""])[0]
                found[name] = [first] if variable.get("multi") else first
        return found

    def options(self, variable: Mapping[str, Any], values: Mapping[str, Any]) -> list[str]:
        """What a variable may be set to."""
        kind = variable["type"]
        if kind == "query":
            found = self.asked(self.interpolate(_query_of(variable), values))
            if pattern := variable.get("regex"):
                searched = [re.search(pattern.strip("/"), text) for text in found]
                found = [match[1] if match.groups() else match[0] for match in searched if match]
            return _sorted(set(found), variable.get("sort", 0))
        if kind in {"custom", "interval"}:
            parts = [part.strip().replace("\\,", ",") for part in re.split(r"(?<!\\),", variable["query"])]
            return [part.split(" : ")[-1].strip() for part in parts]
        if kind in {"constant", "textbox"}:
            return [str(variable.get("query", ""))]
        raise AssertionError(f"A variable of type {kind!r}")

    def all_options(self, name: str, chosen: Values) -> list[str]:
        """What the variable of that name may be set to, with these chosen."""
        values: dict[str, Any] = {}
        for variable in self._variables:
            if variable["name"] == name:
                return self.options(variable, values)
            values = self.values({key: value for key, value in chosen.items() if key != name})
        raise LookupError(name)

    def asked(self, query: str) -> list[str]:
        """What the query of a variable brings."""
        if found := _LABEL_VALUES.match(query):
            match = [found["match"].strip()] if found["match"] else []
            return self._server.label_values(found["label"], *match, start=self.start, end=self.end)
        if found := _QUERY_RESULT.match(query):
            return [
                "{" + ",".join(f'{k}="{v}"' for k, v in point.labels.items()) + f"}} {point.value:g}"
                for point in self._server.query(found["expression"], self.end)
            ]
        raise AssertionError(f"A query of a variable that is not known here: {query!r}")

    def interpolate(self, text: str, values: Mapping[str, Any], builtin: Mapping[str, str] | None = None) -> str:
        """Put variables in their places, as the Prometheus data source does."""
        inner = dict(builtin or {})

        def put(match: re.Match[str]) -> str:
            name = match["plain"] or match["name"]
            if name in inner:
                return inner[name]
            if name not in values:
                return match[0]
            return self._put(name, values[name], match["format"] or "")

        return _REFERENCE.sub(put, text)

    def _put(self, name: str, value: list[str] | str, form: str) -> str:
        variable = next((one for one in self._variables if one["name"] == name), {})
        several = variable.get("multi") or variable.get("includeAll")
        if form == "raw" or (isinstance(value, str) and value == variable.get("allValue")):
            return value if isinstance(value, str) else ",".join(value)
        listed = [value] if isinstance(value, str) else list(value)
        if form == "pipe":
            return "|".join(listed)
        if form in {"csv", "text"}:
            return ", ".join(listed) if form == "text" else ",".join(listed)
        if form == "queryparam":
            return "&".join(f"var-{name}={one}" for one in listed)
        assert form in {"", "regex"}, f"The format {form!r} of ${name}"
        if not several:
            return listed[0]
        escaped = [_SPECIAL.sub(lambda found: "\\\\" + found[0], one) for one in listed]
        return escaped[0] if len(escaped) == 1 else f"({'|'.join(escaped)})"

    # -- panels

    def panels(self, chosen: Values, *, opened: bool = True) -> list[dict[str, Any]]:
        """All panels and rows in order, repeated ones as often as they are, with places that do not overlap.

        Each has a key `values`: the variables that hold for it. Closed rows are opened, or else show nothing.
        """
        values = self.values(chosen)
        placed: list[dict[str, Any]] = []
        shift = 0
        for row, members in _rows(self.dashboard["panels"]):
            base = row["gridPos"]["y"] if row is not None else min((m["gridPos"]["y"] for m in members), default=0)
            for own in self._each(row, values):
                top, bottom = base, base
                if row is not None:
                    placed.append(_moved(row, own, y=base + shift))
                    bottom = base + 1
                shown = members if opened or row is None or not row.get("collapsed") else []
                for copy_, y, height in self._members(shown, own):
                    placed.append(_moved(copy_, copy_["values"], y=y + shift))
                    bottom = max(bottom, y + height)
                shift += bottom - top
            kept = [] if row is not None and row.get("collapsed") else members  # closed, it has no place for them
            bottoms = [member["gridPos"]["y"] + member["gridPos"]["h"] for member in kept]
            shift -= max([*bottoms, base + (row is not None)]) - base
        return placed

    def _each(self, panel: Mapping[str, Any] | None, values: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The variables of each repetition of a panel or row."""
        name = (panel or {}).get("repeat")
        if not name:
            return [dict(values)]
        value = values[name]
        if isinstance(value, str):
            variable = next(one for one in self._variables if one["name"] == name)
            value = self.options(variable, values) if value == variable.get("allValue") else [value]
        return [{**values, name: [one]} for one in value]

    def _members(
        self, members: Iterable[Mapping[str, Any]], values: Mapping[str, Any]
    ) -> Iterator[tuple[dict[str, Any], int, int]]:
        extra = 0
        for panel in members:
            place = panel["gridPos"]
            each = self._each(panel, values)
            if len(each) == 1:
                yield {**panel, "values": each[0]}, place["y"] + extra, place["h"]
                continue
            across = min(panel.get("maxPerRow", 4), len(each)) if panel.get("repeatDirection", "h") == "h" else 1
            width = 24 // across if panel.get("repeatDirection", "h") == "h" else place["w"]
            for number, own in enumerate(each):
                grid = {**place, "x": (number % across) * width if across > 1 else place["x"], "w": width}
                y = place["y"] + extra + number // across * place["h"]
                yield {**panel, "gridPos": grid, "values": own}, y, place["h"]
            extra += (math.ceil(len(each) / across) - 1) * place["h"]

    # -- queries

    def answers(self, panel: Mapping[str, Any]) -> list[Answer]:
        """What the queries of a panel bring."""
        found = []
        for target in panel.get("targets", []):
            if target.get("hide"):
                continue
            kinds = [True] if target.get("instant") else [False]
            if target.get("instant") and target.get("range"):
                kinds = [False, True]
            found += [self._answer(panel, target, instant=instant) for instant in kinds]
        return found

    def _answer(self, panel: Mapping[str, Any], target: Mapping[str, Any], *, instant: bool) -> Answer:
        step = self.step(panel, target)
        expression = self.interpolate(target["expr"], panel["values"], self.builtin(step))
        answer = Answer(target, expression, instant, step)
        try:
            answer.lines = self._run(expression, step, instant=instant)
        except QueryError as error:
            answer.error = str(error)
        return answer

    def _run(self, expression: str, step: float, *, instant: bool) -> list[Line]:
        if instant:
            return [Line(p.labels, [(self.end, p.value)]) for p in self._server.query(expression, self.end)]
        # Grafana puts the points on multiples of the step.
        start, end = math.ceil(self.start / step) * step, math.floor(self.end / step) * step
        return self._server.query_range(expression, start, end, step)

    def step(self, panel: Mapping[str, Any], target: Mapping[str, Any]) -> float:
        """Seconds between the points of a panel's query."""
        points = panel.get("maxDataPoints") or _POINTS_OF_24 * panel["gridPos"]["w"] / 24
        least = max(_seconds(target.get("interval") or panel.get("interval")), self._scrape)
        wished = (self.end - self.start) / points
        return max(next((nice for nice in _NICE if nice >= wished * 0.75), _NICE[-1]), least)

    def builtin(self, step: float) -> dict[str, str]:
        """The variables that every dashboard has."""
        seconds = round(self.end - self.start)
        rate = max(step + self._scrape, 4 * self._scrape)
        return {
            "__interval": f"{step:g}s",
            "__interval_ms": f"{step * 1000:g}",
            "__rate_interval": f"{rate:g}s",
            "__range": f"{seconds}s",
            "__range_s": str(seconds),
            "__range_ms": str(seconds * 1000),
            "__from": str(round(self.start * 1000)),
            "__to": str(round(self.end * 1000)),
        }

    def annotations(self, chosen: Values) -> list[tuple[Mapping[str, Any], Answer]]:
        """The annotations that are queries, and what they bring."""
        values, found = self.values(chosen), []
        for annotation in self.dashboard.get("annotations", {}).get("list", []):
            if annotation.get("builtIn") or "expr" not in annotation:
                continue
            step = max(_seconds(annotation.get("step")), self._scrape)
            expression = self.interpolate(annotation["expr"], values, self.builtin(step))
            answer = Answer(annotation, expression, instant=False, step=step)
            try:
                answer.lines = self._run(expression, step, instant=False)
            except QueryError as error:
                answer.error = str(error)
            found.append((annotation, answer))
        return found


def _sorted(texts: Iterable[str], order: int) -> list[str]:
    """In the order that a variable says: even numbers are descending, 7 and 8 take digits as numbers."""
    found = sorted(
        texts,
        key=lambda text: (
            [
                (not part.isdigit(), int(part) if part.isdigit() else 0, part)
                for part in re.split(r"(\d+)", text)
                if part
            ]
            if order in {3, 4, 7, 8}
            else text
        ),
    )
    return found[::-1] if order and order % 2 == 0 else found


def _query_of(variable: Mapping[str, Any]) -> str:
    query = variable["query"]
    return query if isinstance(query, str) else query["query"]


def _rows(panels: Iterable[Mapping[str, Any]]) -> list[tuple[Mapping[str, Any] | None, list[Mapping[str, Any]]]]:
    """Rows with the panels below them; those of a closed row are opened."""
    found: list[tuple[Mapping[str, Any] | None, list[Mapping[str, Any]]]] = [(None, [])]
    for panel in sorted(panels, key=lambda one: (one["gridPos"]["y"], one["gridPos"]["x"])):
        if panel["type"] == "row":
            found.append((panel, list(panel.get("panels", []))))
        else:
            found[-1][1].append(panel)
    return [(row, members) for row, members in found if row is not None or members]


def _moved(panel: Mapping[str, Any], values: Mapping[str, Any], y: int) -> dict[str, Any]:
    return {**copy.deepcopy(dict(panel)), "gridPos": {**panel["gridPos"], "y": y}, "values": dict(values)}


def _seconds(duration: Any) -> float:
    """Seconds of what Grafana takes as a duration: "1m", ">30s", 15 or nothing."""
    if not duration:
        return 0.0
    found = re.fullmatch(r">?\s*([\d.]+)(ms|s|m|h|d)?", str(duration))
    assert found is not None, f"The duration {duration!r}"
    return float(found[1]) * {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, None: 1}[found[2]]
