"""What all dashboards share: variables, annotations, links, the grid, the look of the file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from grafana_foundation_sdk.builders import dashboard as builders
from grafana_foundation_sdk.builders import prometheus
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common, dashboard

from .panels import BLUE, DATASOURCE, RED

COLUMNS = 24
TAG = "modelwatch"
SCHEMA_VERSION = 42

_DEPLOYED = "count by (model_name, model_version, reference, source) ({})"
_REFERENCES = 'model_reference_info{job=~"$job", instance=~"$instance", model_name=~"$model_name"}'
_MINUTES_BEFORE = "max_over_time(" + _REFERENCES + "[15m] offset $__interval)"
_FIRING = (
    'ALERTS{alertname=~"Modelwatch.*", alertstate="firing", severity!="info", job=~"$job|", model_name=~"$model_name|"}'
)
_BEGUN = "count by (alertname, severity, model_name) ({})"


class Line:
    """Panels beside each other, of one height; each with its width. Together they fill the grid."""

    def __init__(self, height: int, *panels: tuple[int, Any]) -> None:
        self.height, self.panels = height, panels


class Row:
    """One question and the lines of panels that answer it. Nothing of a closed one is asked before it is opened."""

    def __init__(self, title: str, *lines: Line, closed: bool = False) -> None:
        self.title, self.lines, self.closed = title, lines, closed


@dataclass(frozen=True)
class Board:
    """A dashboard as data."""

    uid: str
    title: str
    about: str
    variables: Sequence[Any]
    rows: Sequence[Row]
    refresh: str = "30s"
    since: str = "now-6h"


def to_json(board: Board) -> str:
    """The file, the same for the same data: keys sorted, ids in the order of the panels."""
    built = (
        builders.Dashboard(board.title)
        .uid(board.uid)
        .description(board.about)
        .tags([TAG])
        .readonly()
        .tooltip(dashboard.DashboardCursorSync.CROSSHAIR)
        .time(board.since, "now")
        .timepicker(builders.TimePicker().refresh_intervals(["10s", "30s", "1m", "5m", "15m", "30m", "1h"]))
        .timezone(common.TimeZoneBrowser)
        .refresh(board.refresh)
        .version(1)
        .variables(list(board.variables))
        .annotations(_annotations())
        .links([_others()])
        .build()
    )
    built.schema_version = SCHEMA_VERSION
    built.panels = list(_placed(board.rows))
    content = json.loads(json.dumps(built, cls=JSONEncoder))
    for entry in (*content["links"], *content["annotations"]["list"]):
        # The SDK can only say "in the menu of controls": a drop-down and two switches are better in sight.
        entry.pop("placement", None)
    return json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def _placed(rows: Sequence[Row]) -> Iterator[Any]:
    """Rows and panels from top to bottom, with ids and places."""
    number, y = 1, 0
    for row in rows:
        title = builders.Row(row.title).collapsed(row.closed).id(number)
        title.grid_pos(dashboard.GridPos(x=0, y=y, w=COLUMNS, h=1))
        panels, height = _filled(row, number + 1, y + 1)
        built = title.build()
        if row.closed:
            built.panels = panels
        yield built
        if not row.closed:
            yield from panels
        number, y = number + 1 + len(panels), y + 1 + (0 if row.closed else height)


def _filled(row: Row, number: int, y: int) -> tuple[list[Any], int]:
    """The panels of a row, with ids from `number` and places from `y` on; and how high they are together."""
    found: list[Any] = []
    top = y
    for line in row.lines:
        widths = [width for width, _ in line.panels]
        if sum(widths) != COLUMNS:
            raise ValueError(f"Expected panels {COLUMNS} wide in a line of {row.title!r}, got {widths}. Change them.")
        x = 0
        for width, panel in line.panels:
            place = dashboard.GridPos(x=x, y=top, w=width, h=line.height)
            found.append(panel.id(number + len(found)).grid_pos(place).build())
            x += width
        top += line.height
    return found, top - y


def window() -> Any:
    """Length of the recorded windows: a part of the names of what is recorded."""
    return choice("window", "Window", ("1h", "24h"), "Length of the window of drift: one for which there are rules.")


def choice(name: str, label: str, values: Sequence[str], about: str, chosen: str = "") -> Any:
    """A variable with fixed values; at first the first, or the one that is `chosen`."""
    start = chosen or values[0]
    options = [dashboard.VariableOption(selected=value == start, text=value, value=value) for value in values]
    variable = builders.CustomVariable(name).label(label).description(about).values(",".join(values)).options(options)
    return variable.current(dashboard.VariableOption(selected=True, text=start, value=start))


def datasource() -> Any:
    """Which Prometheus. All else asks the one chosen here."""
    chosen = dashboard.VariableOption(selected=True, text="default", value="default")
    return builders.DatasourceVariable("datasource").label("Data source").type("prometheus").current(chosen)


def several(name: str, label: str, query: str, about: str) -> Any:
    """A variable of which several values, or all, can be chosen."""
    everything = dashboard.VariableOption(selected=True, text="All", value="$__all")
    return _query(name, label, query, about).multi(True).include_all(True).all_value(".+").current(everything)


def one(name: str, label: str, query: str, about: str, *, newest: bool = False) -> Any:
    """A variable of which one value is chosen: at first the one that comes first, or with `newest` last."""
    order = dashboard.VariableSort.NATURAL_DESC if newest else dashboard.VariableSort.NATURAL_ASC
    return _query(name, label, query, about).sort(order)


def _query(name: str, label: str, query: str, about: str) -> Any:
    variable = builders.QueryVariable(name).label(label).description(about).datasource(DATASOURCE)
    variable.query({"qryType": 1, "query": query, "refId": f"Variable-{name}"}).definition(query)
    return variable.refresh(dashboard.VariableRefresh.ON_TIME_RANGE_CHANGED).sort(dashboard.VariableSort.NATURAL_ASC)


def variables(*, models: str = "several", versions: str = "several", hidden: bool = False) -> list[Any]:
    """Data source, job, replica, model, version: each offers what the ones before it leave.

    `models`, `versions`: "several" or "one". `hidden`: the last two only travel along, to the next dashboard.
    """
    kinds = {"several": several, "one": one}
    replica = 'job=~"$job", instance=~"$instance"'
    model = f'{replica}, model_name=~"$model_name"'
    found = [
        datasource(),
        several("job", "Job", "label_values(modelwatch_build_info, job)", "Scrape job of the services."),
        several(
            "instance",
            "Instance",
            'label_values(modelwatch_build_info{job=~"$job"}, instance)',
            "Replica. What is recorded over the whole fleet does not change with it.",
        ),
        kinds[models]("model_name", "Model", f"label_values(model_loaded_info{{{replica}}}, model_name)", "Model."),
    ]
    query = f"label_values(model_loaded_info{{{model}}}, model_version)"
    about = "Version of the model; the newest first."
    if versions == "one":
        found.append(one("model_version", "Version", query, about, newest=True))
    else:
        found.append(several("model_version", "Version", query, about).sort(dashboard.VariableSort.NATURAL_DESC))
    if hidden:
        for variable in found[-2:]:
            variable.hide(dashboard.VariableHide.HIDE_VARIABLE)
    return found


def feature(matchers: str) -> Any:
    """The feature that is looked at."""
    query = f"label_values(model_feature_bin_total{{{matchers}}}, feature)"
    return one(
        "feature", "Feature", query, "Feature to look at closely; the prediction and the confidence are two more."
    )


def _annotations() -> list[Any]:
    """Grafana's own; where a model began to run with another version or reference; what fires."""
    own = (
        builders.AnnotationQuery()
        .name("Annotations & Alerts")
        .built_in(1)
        .hide(True)
        .icon_color("rgba(0, 211, 255, 1)")
    )
    own.type("dashboard").enable(True).datasource(common.DataSourceRef(type_val="grafana", uid="-- Grafana --"))
    now, before = _DEPLOYED.format(_REFERENCES), _DEPLOYED.format(_MINUTES_BEFORE)
    deployed = _annotation("Deployments", f"{now} unless {before}", BLUE)
    deployed.title_format("{{model_name}} {{model_version}}").text_format("reference {{reference}}, {{source}}")
    # When they begin, not all the time that they last: a week of drift would paint every graph red.
    begun = f"{_BEGUN.format(_FIRING)} unless {_BEGUN.format(_FIRING + ' offset $__interval')}"
    firing = _annotation("Firing alerts", begun, RED).tag_keys("severity")
    firing.title_format("{{alertname}}").text_format("{{model_name}}")
    return [own, deployed, firing]


def _annotation(name: str, expr: str, colour: str) -> Any:
    target = prometheus.Dataquery().ref_id(name.split(maxsplit=1)[0]).datasource(DATASOURCE).expr(expr).range()
    found = builders.AnnotationQuery().name(name).datasource(DATASOURCE).enable(True).hide(False).icon_color(colour)
    return found.target(target).expr(expr).step("60s")


def _others() -> Any:
    """A drop-down with the other dashboards; the choices made here go along."""
    found = builders.DashboardLink("modelwatch").type(dashboard.DashboardLinkType.DASHBOARDS).tags([TAG])
    return found.as_dropdown(True).include_vars(True).keep_time(True).icon("external link")
