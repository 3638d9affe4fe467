"""The kinds of panels, all with the same look, and descriptions that end with the catalogue's help texts.

The same colour means the same everywhere: the reference is blue, what is live orange, well is green, a warning yellow,
drift and failure red.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from string import ascii_uppercase
from typing import Any

from grafana_foundation_sdk.builders import (
    bargauge,
    heatmap,
    prometheus,
    statetimeline,
    timeseries,
)
from grafana_foundation_sdk.builders import (
    common as common_builders,
)
from grafana_foundation_sdk.builders import (
    dashboard as builders,
)
from grafana_foundation_sdk.builders import (
    stat as stats,
)
from grafana_foundation_sdk.models import common, dashboard, units
from grafana_foundation_sdk.models import heatmap as heatmap_models
from grafana_foundation_sdk.models.prometheus import PromQueryFormat, QueryEditorMode

from modelwatch.metrics.catalogue import CATALOGUE

GREEN, YELLOW, RED, BLUE, ORANGE, PURPLE, GREY = "green", "yellow", "red", "blue", "orange", "purple", "#8e8e8e"
REFERENCE, CURRENT = BLUE, ORANGE

Steps = tuple[tuple[float, str], ...]
"""Thresholds: from this value on this colour; below the first, green."""

PSI: Steps = ((0.1, YELLOW), (0.2, RED))
"""0.1 is where people begin to look, 0.2 where the shipped alert does."""

LEAST_PSI = 0.001
"""Where logarithmic axes begin: below it no window is large enough to tell."""

DATASOURCE = common.DataSourceRef(type_val="prometheus", uid="${datasource}")

_UNITS = {
    "seconds": units.Seconds,
    "bytes": units.BytesIEC,
    "celsius": units.Celsius,
    "joules": units.Joule,
    "ratio": units.PercentUnit,
    "cores": units.NoUnit,
    "rows": units.Short,
    "": units.Short,
}
_RECORDED = {
    "feature_bin": "rows of the window by bin.",
    "feature_drifted": "1 if the smoothed PSI is at least the threshold and above the noise floor, else 0.",
    "feature_js_divergence": "Jensen-Shannon divergence of window and reference, base 2, between 0 and 1.",
    "feature_ks_statistic": "Kolmogorov-Smirnov distance over the edges of the bins, between 0 and 1.",
    "feature_missing_ratio": "share of the window's rows without a value.",
    "feature_psi_critical": "what the smoothed PSI exceeds in one of 1,000 windows without drift, in nats.",
    "feature_psi_smoothed": "population stability index with half a row added to every bin, in nats.",
    "feature_reference_rows": "rows of the reference that have a value.",
    "feature_rows": "rows of the window that have a value.",
    "reference_bin_share": "share of each bin in the reference.",
    "reference_missing_share": "share of the reference's rows without a value.",
    "request_errors": "share of the requests that failed, and how large it may be.",
    "slow_requests": "share of the requests that took longer than the objective, and how large it may be.",
}
"""What the recording rules say, over all replicas; by the middle of their names."""

_NAMES = re.compile(r"\b(?:modelwatch:[\w:$]+|(?:model|modelwatch|http_server)_\w+)")
_REACHED = {units.PercentUnit: 0.1, units.Short: 1, units.CountsPerSecond: 0.01, units.RequestsPerSecond: 0.01}
_PARTS = re.compile(r"_(?:bucket|sum|count)$")


@dataclass(frozen=True)
class Query:
    """One query: PromQL, what its series are called, and how the answer comes: range, instant, table or heatmap."""

    expr: str
    legend: str = ""
    kind: str = "range"


def unit_of(metric: str) -> str:
    """Grafana's unit of a metric, by its unit in the catalogue."""
    return _UNITS[CATALOGUE[metric].unit]


def described(about: str, expressions: Sequence[str]) -> str:
    """What the panel shows, then each metric behind it with its help text."""
    found = {_PARTS.sub("", name): None for text in expressions for name in _NAMES.findall(text)}
    lines = [f"- `{name}`: {CATALOGUE[name].help}" for name in found if name in CATALOGUE]
    recorded = [name for name in found if name.startswith("modelwatch:")]
    lines += [f"- `{name}`, recorded over all replicas: {_RECORDED[name.split(':')[1]]}" for name in recorded]
    return about.strip() + ("\n\n" + "\n".join(lines) if lines else "")


def thresholds(steps: Steps, base: str = GREEN) -> builders.ThresholdsConfig:
    """Colours from values on; below the first one `base`."""
    found = [dashboard.Threshold(value=None, color=base)]
    found += [dashboard.Threshold(value=value, color=colour) for value, colour in steps]
    return builders.ThresholdsConfig().mode(dashboard.ThresholdsMode.ABSOLUTE).steps(found)


def fixed(colour: str) -> dict[str, str]:
    """One colour, whatever the value."""
    return {"mode": "fixed", "fixedColor": colour}


def link(title: str, uid: str, **values: str) -> builders.DashboardLink:
    """To another dashboard, with the choices made here, those in `values` replaced."""
    return builders.DashboardLink(title).url(address(uid, **values)).target_blank(False)


def address(uid: str, **values: str) -> str:
    """The address that `link` has."""
    kept = [f"${{{name}:queryparam}}" for name in ("datasource", "job", "instance") if name not in values]
    chosen = [f"var-{name}={value}" for name, value in values.items()]
    return f"/d/{uid}?{'&'.join([*kept, *chosen])}&${{__url_time_range}}"


Words = Mapping[int, tuple[str, str]]
"""A word and a colour in place of a whole number."""


def mapping(words: Words) -> list[Any]:
    """Words and colours in place of values."""
    results = {
        str(value): dashboard.ValueMappingResult(text=text, color=colour, index=place)
        for place, (value, (text, colour)) in enumerate(words.items())
    }
    return [dashboard.ValueMap(options=results)]


def _unknown(text: str) -> Any:
    """A grey text in place of a number that is not there."""
    result = dashboard.ValueMappingResult(text=text, color=GREY, index=0)
    options = dashboard.DashboardSpecialValueMapOptions(match=dashboard.SpecialValueMatch.NULL_AND_NAN, result=result)
    return dashboard.SpecialValueMap(options=options)


def prepared(panel: Any, title: str, about: str, queries: Sequence[Query], unit: str) -> Any:
    """What all kinds have: title, description, data source, queries, unit."""
    panel.title(title).description(described(about, [query.expr for query in queries]))
    panel.datasource(DATASOURCE).unit(unit)
    for letter, query in zip(ascii_uppercase, queries, strict=False):
        target = prometheus.Dataquery().ref_id(letter).datasource(DATASOURCE).expr(query.expr)
        target.editor_mode(QueryEditorMode.CODE)
        if query.legend:
            target.legend_format(query.legend)
        instant = query.kind in {"instant", "table", "bars"}
        target = target.instant() if instant else target.range()
        shape = {"table": PromQueryFormat.TABLE, "heatmap": PromQueryFormat.HEATMAP, "bars": PromQueryFormat.HEATMAP}
        panel.with_target(target.format(shape.get(query.kind, PromQueryFormat.TIME_SERIES)))
    return panel


def override(panel: Any, name: str, **properties: Any) -> Any:
    """Properties of one series or column, or of those that a pattern between slashes fits; `__` stands for a dot."""
    values = [
        dashboard.DynamicConfigValue(id_val=key.replace("__", "."), value=value) for key, value in properties.items()
    ]
    return panel.override_by_regexp(name, values) if name.startswith("/") else panel.override_by_name(name, values)


def stat(
    title: str,
    about: str,
    *queries: Query,
    unit: str,
    steps: Steps = (),
    base: str = GREEN,
    decimals: int | None = None,
    colours: Mapping[str, Steps] | None = None,
    empty: str = "no data",
    links: Sequence[Any] = (),
    names: bool = False,
) -> Any:
    """One number, or a few with `names`, as of the end of the time shown: of what is past it says nothing.

    `colours`: steps of some series, by name, in place of `steps`. Without a number it says `empty`, in grey: by itself
    Grafana paints it like the lowest number, green where that is well and red where it is not.
    """
    panel = prepared(stats.Panel(), title, about, [replace(query, kind="instant") for query in queries], unit)
    panel.graph_mode(common.BigValueGraphMode.NONE)
    panel.color_mode(common.BigValueColorMode.VALUE)
    panel.text_mode(common.BigValueTextMode.VALUE_AND_NAME if names else common.BigValueTextMode.VALUE)
    panel.justify_mode(common.BigValueJustifyMode.AUTO).orientation(common.VizOrientation.AUTO)
    panel.reduce_options(common_builders.ReduceDataOptions().calcs(["lastNotNull"]).values(False).fields(""))
    panel.thresholds(thresholds(steps, base if steps or colours else "text"))
    panel.no_value(empty).mappings([_unknown(empty)])
    panel.text(common_builders.VizTextDisplayOptions().title_size(16).value_size(30))
    if decimals is not None:
        panel.decimals(decimals)
    if links:
        panel.data_links(list(links))
    for name, own in (colours or {}).items():
        override(panel, name, thresholds=thresholds(own).build())
    return panel


def graph(
    title: str,
    about: str,
    *queries: Query,
    unit: str,
    steps: Steps = (),
    colours: Mapping[str, str] | None = None,
    dashed: Sequence[str] = (),
    thick: Sequence[str] = (),
    stacked: bool = False,
    bars: bool = False,
    low: float | None = 0,
    high: float | None = None,
    log: bool = False,
    decimals: int | None = None,
    bottom: float | None = None,
    top: float | None = None,
    empty: str = "no data",
    links: Sequence[Any] = (),
) -> Any:
    """Lines over time; with `steps` drawn as dashed lines.

    `colours`, `dashed` and `thick` go by the names of the series or, between slashes, by a pattern for them. `bottom`
    and `top`: what the axis reaches at least, so that a line at 0.1 % does not fill the panel; by itself it reaches
    the last step.
    """
    panel = prepared(timeseries.Panel(), title, about, queries, unit)
    legend = common_builders.VizLegendOptions().show_legend(True)
    panel.legend(legend.display_mode(common.LegendDisplayMode.LIST).placement(common.LegendPlacement.BOTTOM))
    tooltip = common_builders.VizTooltipOptions().mode(common.TooltipDisplayMode.MULTI)
    panel.tooltip(tooltip.sort(common.SortOrder.DESCENDING))
    panel.draw_style(common.GraphDrawStyle.BARS if bars else common.GraphDrawStyle.LINE)
    panel.line_width(0 if stacked else 1).fill_opacity(100 if bars else 70 if stacked else 0 if log else 8).show_points(
        common.VisibilityMode.AUTO
    )
    panel.thresholds(thresholds(steps)).no_value(empty)
    panel.color_scheme(builders.FieldColor().mode(dashboard.FieldColorModeId.PALETTE_CLASSIC))
    style = common.GraphThresholdsStyleMode.DASHED if steps else common.GraphThresholdsStyleMode.OFF
    panel.thresholds_style(common_builders.GraphThresholdsStyleConfig().mode(style))
    mode = common.StackingMode.NORMAL if stacked else common.StackingMode.NONE
    panel.stacking(common_builders.StackingConfig().mode(mode).group("A"))
    reached = top if top is not None else steps[-1][0] if steps else _REACHED.get(unit)
    _axis(panel, low, high, bottom, None if high is not None or log else reached, log=log)
    if decimals is not None:
        panel.decimals(decimals)
    if links:
        panel.data_links(list(links))
    for name, colour in (colours or {}).items():
        override(panel, name, color=fixed(colour))
    for name in thick:
        override(panel, name, custom__lineWidth=3)
    for name in dashed:
        override(panel, name, custom__lineStyle={"fill": "dash", "dash": [8, 6]}, custom__fillOpacity=0)
    return panel


def _axis(
    panel: Any, low: float | None, high: float | None, bottom: float | None, top: float | None, *, log: bool
) -> None:
    """From where to where an axis goes (`low`, `high`), or goes at least (`bottom`, `top`)."""
    scale = common_builders.ScaleDistributionConfig()
    panel.scale_distribution(
        scale.type(common.ScaleDistribution.LOG).log(10) if log else scale.type(common.ScaleDistribution.LINEAR)
    )
    for given, choose in (
        (low, panel.min),
        (high, panel.max),
        (bottom, panel.axis_soft_min),
        (top, panel.axis_soft_max),
    ):
        if given is not None:
            choose(given)


def heat(title: str, about: str, query: Query, *, unit: str = "", cells: str, empty: str = "no data") -> Any:
    """Density over time; `unit` is that of the axis, `cells` that of the colour.

    With any unit Grafana reads a number in a name that looks like one, and calls bin 00 0.
    """
    panel = prepared(heatmap.Panel(), title, about, [query], cells)
    panel.calculate(False).cell_gap(1).no_value(empty)
    colour = heatmap.HeatmapColorOptions().mode(heatmap_models.HeatmapColorMode.SCHEME).scheme("Oranges")
    panel.color(colour.exponent(0.5).steps(64).reverse(False).fill("dark-orange"))
    axis = heatmap.YAxisConfig().axis_placement(common.AxisPlacement.LEFT)
    panel.y_axis(axis.unit(unit) if unit else axis)
    panel.cell_values(heatmap.CellValues().unit(cells))
    panel.tooltip(heatmap.HeatmapTooltip().mode(common.TooltipDisplayMode.SINGLE).y_histogram(True))
    return panel.show_legend()


def timeline(
    title: str,
    about: str,
    *queries: Query,
    unit: str,
    steps: Steps = (),
    words: Words | None = None,
    decimals: int | None = None,
    empty: str = "no data",
    links: Sequence[Any] = (),
) -> Any:
    """A band for each series, coloured by its value: when was what how bad.

    With `steps` Grafana joins what lies between two of them, and calls it by them; with `words`, equal values.
    """
    panel = prepared(statetimeline.Panel(), title, about, queries, unit)
    mode = dashboard.FieldColorModeId.FIXED if words else dashboard.FieldColorModeId.THRESHOLDS
    panel.color_scheme(builders.FieldColor().mode(mode))
    panel.thresholds(thresholds(steps)).merge_values(True).show_value(common.VisibilityMode.NEVER)
    panel.row_height(0.85).fill_opacity(85).line_width(0).no_value(empty)
    legend = common_builders.VizLegendOptions().show_legend(True).display_mode(common.LegendDisplayMode.LIST)
    panel.legend(legend.placement(common.LegendPlacement.BOTTOM))
    panel.tooltip(common_builders.VizTooltipOptions().mode(common.TooltipDisplayMode.SINGLE))
    if words:
        panel.mappings(mapping(words))
    if decimals is not None:
        panel.decimals(decimals)
    if links:
        panel.data_links(list(links))
    return panel


def bars(
    title: str,
    about: str,
    query: Query,
    *,
    unit: str,
    steps: Steps = (),
    base: str = GREEN,
    low: float = 0,
    high: float = 1,
    upright: bool = False,
    decimals: int | None = None,
    empty: str = "no data",
) -> Any:
    """A bar for each series of an instant query, all on the scale from `low` to `high`."""
    panel = prepared(bargauge.Panel(), title, about, [query], unit)
    panel.orientation(common.VizOrientation.VERTICAL if upright else common.VizOrientation.HORIZONTAL)
    panel.display_mode(common.BarGaugeDisplayMode.BASIC).value_mode(common.BarGaugeValueMode.COLOR).show_unfilled(True)
    panel.reduce_options(common_builders.ReduceDataOptions().calcs(["lastNotNull"]).values(False).fields(""))
    panel.text(common_builders.VizTextDisplayOptions().title_size(14).value_size(18))
    if decimals is not None:
        panel.decimals(decimals)
    return panel.min(low).max(high).thresholds(thresholds(steps, base)).no_value(empty)
