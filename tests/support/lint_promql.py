"""What a query of a dashboard must be: rules on its syntax tree, each with a name.

A query is looked at with Grafana's variables in their places, as something that Prometheus could read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import promql_parser as promql

from modelwatch.metrics.catalogue import CATALOGUE

# Written into queries in place of Grafana's own variables: lengths that nobody writes by hand, to be known again.
RATE_INTERVAL, RANGE, INTERVAL = "3601s", "7201s", "61s"
_BUILT_IN = {"__rate_interval": RATE_INTERVAL, "__range": RANGE, "__interval": INTERVAL}
_VARIABLE = re.compile(r"\$(?:(\w+)|\{(\w+)(?::\w+)?\})")
_PART = re.compile(r"_(?:bucket|sum|count)$")

OF_PROMETHEUS = {"up", "scrape_duration_seconds", "scrape_samples_scraped", "scrape_series_added"}
RISING = {"rate", "irate", "increase", "resets", "changes"}
SERVICE = {"job", "instance"}
ALERT = {"alertname", "alertstate", "severity", "category", "job", "model_name", "model_version", "feature"}
FEATURE = {"job", "model_name", "model_version", "reference", "feature", "bin"}


@dataclass(frozen=True)
class Context:
    """What a query is judged by.

    Attributes
    ----------
    recorded
        Names of the recording rules.
    custom
        Variables that stand for part of a name or a number, with a value to put there.
    several
        Variables of which several values can be chosen.
    instant
        Whether the query is asked for one moment.
    """

    recorded: frozenset[str]
    custom: Mapping[str, str] = field(default_factory=dict)
    several: frozenset[str] = frozenset()
    instant: bool = False


def filled(text: str, custom: Mapping[str, str]) -> str:
    """The query with lengths in place of Grafana's own variables, and values in place of custom ones.

    >>> filled("rate(x[$__rate_interval]) + y:$window", {"window": "1h"})
    'rate(x[3601s]) + y:1h'
    """
    values = {**_BUILT_IN, **custom}

    def value(found: re.Match[str]) -> str:
        return values.get(found[1] or found[2], found[0])

    return _VARIABLE.sub(value, text)


def variables(text: str) -> set[str]:
    """Names of the variables in a text, without those that Grafana brings itself."""
    found = {one or other for one, other in _VARIABLE.findall(text)}
    return {name for name in found if not name.startswith("__") and not name.isdigit()}


def judged(text: str, context: Context) -> Iterator[tuple[str, str]]:
    """(name of the rule, what is wrong) for all that is wrong with a query."""
    try:
        tree = promql.parse(filled(text, context.custom))
    except ValueError as error:
        yield "target-promql", f"{error}: {text}"
        return
    yield from _walk(tree, context, ())


def labels_of(tree: Any) -> set[str] | None:
    """Labels of the result, or None where a selector passes all of its own on."""
    found: set[str] | None = None
    match type(tree).__name__:
        case "ParenExpr":
            found = labels_of(tree.expr)
        case "AggregateExpr" if str(tree.op) in {"topk", "bottomk"}:
            found = labels_of(tree.expr)
        case "AggregateExpr":
            found = set(tree.modifier.labels) if tree.modifier else set()
        case "Call" if tree.func.name == "histogram_quantile":
            found = labels_of(tree.args[1])
            found = found - {"le"} if found is not None else None
        case "Call" if tree.func.name not in {"label_replace", "vector", "scalar"}:
            found = labels_of(tree.args[0]) if tree.args else set()
        case "BinaryExpr":
            number = type(tree.lhs).__name__ == "NumberLiteral" or str(tree.lhs) == "time()"
            found = labels_of(tree.rhs if number else tree.lhs)
    return found


def parsed(text: str, context: Context) -> Any:
    """The syntax tree; raises ValueError."""
    return promql.parse(filled(text, context.custom))


def _walk(tree: Any, context: Context, above: tuple[Any, ...]) -> Iterator[tuple[str, str]]:
    kind = type(tree).__name__
    if kind == "VectorSelector":
        yield from _selector(tree, context, above)
    elif kind == "MatrixSelector":
        yield from _length(tree, context, above)
        yield from _selector(tree.vector_selector, context, (*above, tree))
    else:
        yield from _operation(tree, context)
        for child in _children(tree):
            yield from _walk(child, context, (*above, tree))


def _children(tree: Any) -> list[Any]:
    kind = type(tree).__name__
    if kind == "Call":
        return list(tree.args)
    if kind == "BinaryExpr":
        return [tree.lhs, tree.rhs]
    if kind in {"AggregateExpr", "ParenExpr", "UnaryExpr", "SubqueryExpr"}:
        return [tree.expr]
    return []


def _operation(tree: Any, context: Context) -> Iterator[tuple[str, str]]:
    kind = type(tree).__name__
    if kind == "BinaryExpr" and str(tree.op) == "/" and not _guarded(tree.rhs):
        yield "ratio-guarded", f"a denominator that may be 0: {str(tree.rhs)[:100]}"
    elif kind == "Call" and tree.func.name == "histogram_quantile":
        argument = tree.args[1]
        if type(argument).__name__ != "AggregateExpr" or "le" not in (
            argument.modifier.labels if argument.modifier else ()
        ):
            yield "quantile-aggregated", f"buckets that are not added up by le: {str(argument)[:100]}"
    elif kind == "AggregateExpr" and str(tree.op) == "topk":
        most = str(tree.param)
        if not most.isdigit() or int(most) > 15:
            yield "few-series", f"more than 15 series: topk({most}, …)"
        if not context.instant and " @ " not in str(tree.expr):
            yield "steady-top", f"chooses anew at every point of a graph: {str(tree)[:100]}"
    elif kind == "AggregateExpr" and str(tree.op) in {"sum", "avg", "count"} and _has_bins(tree.expr):
        if tree.modifier is None or "reference" not in tree.modifier.labels:
            yield "bins-of-one-reference", f"bins of different references added up: {str(tree)[:100]}"
    elif kind == "SubqueryExpr":
        yield "no-subquery", f"a subquery, which Prometheus evaluates at every point: {str(tree)[:100]}"


def _has_bins(tree: Any) -> bool:
    """Whether the result has a series for each bin."""
    kind = type(tree).__name__
    if kind == "MatrixSelector":
        return _has_bins(tree.vector_selector)
    if kind == "VectorSelector":
        return "_bin_" in (tree.name or "") or "_bin:" in (tree.name or "")
    if (
        kind == "AggregateExpr"
        and str(tree.op) != "topk"
        and (tree.modifier is None or "bin" not in tree.modifier.labels)
    ):
        return False
    return any(_has_bins(child) for child in _children(tree))


def _guarded(tree: Any) -> bool:
    """Whether a denominator can't be 0: a number above 0, a power, something clipped, `… > 0` in each factor."""
    found = False
    match type(tree).__name__:
        case "ParenExpr":
            found = _guarded(tree.expr)
        case "NumberLiteral":
            found = tree.val > 0
        case "VectorSelector":
            found = tree.name.endswith(":budget")
        case "AggregateExpr":
            found = str(tree.op) in {"max", "min"} and _guarded(tree.expr)
        case "Call":
            found = tree.func.name == "clamp_min"
        case "BinaryExpr":
            left, right, operator = tree.lhs, tree.rhs, str(tree.op)
            if operator == ">":
                found = type(right).__name__ == "NumberLiteral" and right.val >= 0
            elif operator in {"*", "/"}:
                found = _guarded(left) and _guarded(right)
            elif operator == "+":
                found = _guarded(left) or _guarded(right)
            else:
                found = operator == "^" and _guarded(left)
    return bool(found)


def _length(tree: Any, context: Context, above: tuple[Any, ...]) -> Iterator[tuple[str, str]]:
    function = above[-1].func.name if above and type(above[-1]).__name__ == "Call" else ""
    steady = tree.vector_selector.at is not None
    chosen = tree.range
    if chosen == timedelta(seconds=7201):
        if not (context.instant or steady):
            yield "range-instant", f"$__range at every point of a graph: {function}(…)"
    elif function in {"rate", "irate"} and chosen != timedelta(seconds=3601):
        yield "target-rate-interval", f"{function}(…[{chosen}]) in place of $__rate_interval"
    elif function == "increase" and chosen < timedelta(hours=1):
        yield "target-rate-interval", f"increase(…[{chosen}]) in place of $__rate_interval"


def _selector(tree: Any, context: Context, above: tuple[Any, ...]) -> Iterator[tuple[str, str]]:
    name = tree.name
    if not name:
        yield "metric-known", f"a selector without a name: {tree}"
        return
    matchers = {matcher.name: (str(matcher.op).rpartition(".")[2], matcher.value) for matcher in tree.matchers.matchers}
    base = _PART.sub("", name)
    if name in CATALOGUE and CATALOGUE[name].kind != "histogram":
        labels, rising = {*CATALOGUE[name].labels, *SERVICE}, CATALOGUE[name].kind == "counter"
    elif base != name and base in CATALOGUE and CATALOGUE[base].kind == "histogram":
        bucket = {"le"} if name.endswith("_bucket") else set()
        labels, rising = {*CATALOGUE[base].labels, *SERVICE, *bucket}, True
    elif name in context.recorded:
        labels, rising = _of_recorded(name), False
    elif name in OF_PROMETHEUS or name == "ALERTS":
        labels, rising = ALERT if name == "ALERTS" else SERVICE, False
    else:
        yield "metric-known", f"{name} is neither in the catalogue nor recorded"
        return
    beside = [str(node.rhs) for node in above if type(node).__name__ == "BinaryExpr" and str(node.op) == "and"]
    if name in OF_PROMETHEUS and not any("modelwatch_build_info" in other for other in beside):
        yield "watched", f"{name} of all that Prometheus scrapes, also where there is no modelwatch"
    if unknown := set(matchers) - labels:
        yield "label-known", f"{name} has no label {', '.join(sorted(unknown))}"
    yield from _chosen(name, labels, matchers, context)
    functions = [node.func.name for node in above if type(node).__name__ == "Call"]
    inside = bool(above) and type(above[-1]).__name__ == "MatrixSelector"
    if rising and not (inside and functions and functions[-1] in RISING):
        yield "target-counter-agg", f"the counter {name} outside rate, increase, changes and resets"
    if not rising and inside and functions and functions[-1] in {"rate", "irate", "increase", "resets"}:
        yield "rate-of-counter", f"{functions[-1]} of {name}, which is no counter"


def _of_recorded(name: str) -> set[str]:
    if name.endswith(":budget"):
        return set()
    return {"job", "model_name"} if ":ratio_rate" in name else FEATURE


def _chosen(
    name: str, labels: set[str], matchers: Mapping[str, tuple[str, str]], context: Context
) -> Iterator[tuple[str, str]]:
    """What is chosen above the panels must choose in every selector that has the label."""
    for label in ("job", "instance"):
        operator, value = matchers.get(label, ("", ""))
        if label in labels and (operator != "Re" or value.removesuffix("|") != f"${label}"):
            yield f"target-{label}", f'{name} without {label}=~"${label}"'
    for label, (operator, value) in matchers.items():
        chosen = variables(value) & context.several
        if chosen and operator not in {"Re", "NotRe"}:
            yield "several-regex", f'{name}: {label}="{value}", of which several values can be chosen'
