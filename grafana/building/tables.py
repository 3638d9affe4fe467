"""Tables: instant queries side by side, a row for each set of labels. And two distributions in one bar chart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Any

from grafana_foundation_sdk.builders import barchart
from grafana_foundation_sdk.builders import common as common_builders
from grafana_foundation_sdk.builders import table as tables
from grafana_foundation_sdk.models import common, dashboard, units

from .panels import CURRENT, REFERENCE, Query, Steps, Words, fixed, mapping, override, prepared, thresholds

NOTHING = "-"
NO_ROWS = "no reference, too few rows in the window, or the rules are not loaded"
_NARROWEST = 64


@dataclass(frozen=True)
class Column:
    """One column: what a query answers, or, without one, a label of the rows.

    Attributes
    ----------
    steps, words
        Colours of the cells from values on; words and colours in place of whole numbers.
    bar
        Colour of a bar in the cell, from 0 to `high`.
    link
        Title and address, for the cell.
    """

    title: str
    expr: str = ""
    label: str = ""
    unit: str = units.Short
    decimals: int | None = None
    steps: Steps = ()
    words: Words | None = None
    bar: str = ""
    high: float = 1
    link: tuple[str, str] | None = None
    width: int | None = None


def table(
    title: str,
    about: str,
    columns: Sequence[Column],
    *,
    sort: str,
    descending: bool = True,
    hidden: Sequence[str] = (),
    empty: str = "no data",
) -> Any:
    """A row for each set of labels; all queries must be by the same ones.

    `sort`: title of the column to go by; `hidden`: labels that tell rows apart, but are not shown.
    """
    asked = [column for column in columns if column.expr]
    panel = prepared(tables.Panel(), title, about, [Query(c.expr, kind="table") for c in asked], units.Short)
    fields = {f"Value #{letter}": column.title for letter, column in zip(ascii_uppercase, asked, strict=False)}
    if len(asked) == 1:  # Grafana adds the letter only where it must tell queries apart
        fields["Value"] = asked[0].title
    labels = {column.label: column.title for column in columns if column.label}
    names = labels | fields
    places = {column.title: place for place, column in enumerate(columns)}
    panel.with_transformation(dashboard.DataTransformerConfig(id_val="merge", options={}))
    panel.with_transformation(
        dashboard.DataTransformerConfig(
            id_val="organize",
            options={
                "excludeByName": dict.fromkeys(("Time", *hidden), True),
                "indexByName": {name: places[title] for name, title in names.items()},
                "renameByName": names,
            },
        )
    )
    # By the table itself: the transformation of that name puts what is not known above what is largest.
    panel.sort_by([common_builders.TableSortByFieldState().display_name(sort).desc(descending)])
    panel.show_header(True).cell_height(common.TableCellHeight.SM).align(common.FieldTextAlignment.AUTO)
    panel.thresholds(thresholds(())).no_value(empty).filterable(False).min_width(_NARROWEST)
    for column in columns:
        override(panel, column.title, **_look(column))
    return panel


def _look(column: Column) -> dict[str, Any]:
    """Properties of a column."""
    # Grafana reads a number in any text that looks like one, and shows version 2011.1 as 2.01 K.
    found: dict[str, Any] = {"unit": column.unit if column.expr else units.String, "noValue": NOTHING}
    if column.decimals is not None:
        found["decimals"] = column.decimals
    if column.bar:
        found |= {
            "min": 0,
            "max": column.high,
            "color": fixed(column.bar),
            "custom__cellOptions": {"type": "gauge", "mode": "basic", "valueDisplayMode": "text"},
        }
    elif column.steps or column.words:
        found["custom__cellOptions"] = {"type": "color-background", "mode": "basic"}
        found["color"] = {"mode": "thresholds"}
    if column.steps:
        found["thresholds"] = thresholds(column.steps, "transparent").build()
    if column.words:
        found["mappings"] = mapping(column.words)
        found.setdefault("thresholds", thresholds((), "transparent").build())
    if column.link:
        title, url = column.link
        found["links"] = [{"title": title, "url": url, "targetBlank": False}]
    if column.width is not None:
        found["custom__width"] = column.width
    return found


def distributions(
    title: str, about: str, reference: tuple[str, str], current: tuple[str, str], *, empty: str = NO_ROWS
) -> Any:
    """Two distributions over the same bins, side by side on one scale, so that no axis can mislead.

    `reference`, `current`: a name and a query each, whose answer has the labels `reference`, `bin`, which orders the
    bars, and `upto`, which stands below them.
    """
    names, axis = (reference[0], current[0]), "upper bound, or category"
    queries = [Query(expr, kind="table") for _, expr in (reference, current)]
    panel = prepared(barchart.Panel(), title, about, queries, units.PercentUnit)
    columns = {"Value #A": names[0], "Value #B": names[1], "upto": axis}
    panel.with_transformation(dashboard.DataTransformerConfig(id_val="merge", options={}))
    panel.with_transformation(
        dashboard.DataTransformerConfig(id_val="sortBy", options={"sort": [{"field": "bin", "desc": False}]})
    )
    panel.with_transformation(
        dashboard.DataTransformerConfig(
            id_val="organize",
            options={
                "excludeByName": dict.fromkeys(("Time", "reference", "bin"), True),
                "indexByName": {"upto": 0, "Value #A": 1, "Value #B": 2},
                "renameByName": columns,
            },
        )
    )
    legend = common_builders.VizLegendOptions().show_legend(True).display_mode(common.LegendDisplayMode.LIST)
    panel.legend(legend.placement(common.LegendPlacement.BOTTOM)).x_field(axis).fill_opacity(85).line_width(0)
    panel.orientation(common.VizOrientation.VERTICAL).show_value(common.VisibilityMode.NEVER).group_width(0.8)
    panel.bar_width(0.95).stacking(common.StackingMode.NONE).x_tick_label_max_length(12).x_tick_label_spacing(20)
    panel.tooltip(common_builders.VizTooltipOptions().mode(common.TooltipDisplayMode.MULTI))
    panel.min(0).thresholds(thresholds(())).no_value(empty).axis_label(axis)
    override(panel, axis, unit=units.String)
    override(panel, names[0], color=fixed(REFERENCE))
    override(panel, names[1], color=fixed(CURRENT))
    return panel
