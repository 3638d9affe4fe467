"""From numbers to metric families: what all layers share.

A source reads one layer at a scrape; `Collected` builds the families of the catalogue from what all sources bring. What
is unknown (NaN) is left out, and nothing that a source brings can make the page unreadable.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate, chain

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from ..exceptions import ConfigurationError
from ..guard import Guard
from ..series import Cell, Sample, clean
from ..settings import Settings
from .catalogue import CATALOGUE, LAYERS, Entry

Source = Callable[[], Iterable[Sample | Cell]]
"""Reads one layer: called at every scrape, off the event loop; may fail, and then costs what it alone brings."""

_Buckets = tuple[list[tuple[str, float]], float | None]
_Found = dict[str, dict[tuple[str, ...], float | _Buckets]]


class Collected(Collector):
    """Turns what the sources read into families, in the order of the catalogue, for a prometheus_client registry.

    Where two sources bring the same metric with the same label values, the first one counts. No family carries a
    `_created` series.

    Parameters
    ----------
    settings
        Switches and constant labels. They are not checked here; see `check_settings`.
    guard
        Swallows the errors of sources, at stage "scrape".
    more
        Gives further sources, for each scrape anew.

    Attributes
    ----------
    sources
        Called in this order, after those. May be appended to at any time.

    Notes
    -----
    Threads: any number at once, as far as the sources allow it. Processes: each has its own.

    >>> collected = Collected(Settings(), Guard())
    >>> collected.sources.append(lambda: [Sample("model_drifted_features", ("bike", "1"), 2)])
    >>> [(family.name, family.samples[0].labels["model_name"]) for family in collected.collect()]
    [('model_drifted_features', 'bike')]
    """

    def __init__(self, settings: Settings, guard: Guard, more: Callable[[], Iterable[Source]] = tuple) -> None:
        self.sources: list[Source] = []
        self._more = more
        self._guard = guard
        self._entries = [entry for entry in CATALOGUE.values() if enabled(entry, settings)]
        self._constant = {name: clean(value) for name, value in settings.labels.items()}

    def describe(self) -> list[Metric]:
        """The families that may come, without samples: a registry refuses what would clash with them.

        It does not ask the sources: registering must not read the machine.
        """
        return [_empty(entry, ()) for entry in self._entries]

    def collect(self) -> Iterator[Metric]:
        """The families that have a sample."""
        found: _Found = {}
        for source in chain(self._more(), list(self.sources)):
            try:
                brought = _read(source)
            except Exception as error:  # noqa: BLE001 - whatever a layer's fault is, the others are shown
                self._guard.swallow("scrape", error)
                continue
            for name, values in brought.items():
                before = found.setdefault(name, values)
                for labels, value in values.items():
                    before.setdefault(labels, value)
        for entry in self._entries:
            if entry.name in found:
                yield _family(entry, found[entry.name], self._constant)


def enabled(entry: Entry, settings: Settings) -> bool:
    """Whether a metric is on: as its name is set, else as its layer is set, else as it is by default.

    A layer that is switched on does not bring the metrics that are off by default; they want to be named.
    """
    switches = settings.metrics
    return switches.get(entry.name, switches.get(entry.layer, True) and entry.on)


def bounds_of(name: str, settings: Settings) -> tuple[float, ...]:
    """Bucket bounds of a histogram: those of the settings, else those of the catalogue."""
    return tuple(settings.buckets.get(name, CATALOGUE[name].buckets))


def check_settings(settings: Settings) -> None:
    """Refuse switches, buckets and constant labels that do not fit the catalogue.

    Raises
    ------
    ConfigurationError
        `metrics` or `buckets` names what does not exist, `buckets` what is no histogram, or `labels` the label of a
        metric. The message names the key and the nearest name.

    >>> check_settings(Settings(metrics={"gpus": False}))
    Traceback (most recent call last):
    modelwatch.exceptions.ConfigurationError: Expected the name of a metric or layer in `metrics`, got 'gpus'. ...
    """
    histograms = [entry.name for entry in CATALOGUE.values() if entry.kind == "histogram"]
    for name in settings.metrics:
        _must_be(name, [*LAYERS, *CATALOGUE], "`metrics`", "the name of a metric or layer")
    for name in settings.buckets:
        _must_be(name, histograms, "`buckets`", "the name of a histogram")
    labels = {label: entry.name for entry in reversed(CATALOGUE.values()) for label in (*entry.labels, "le")}
    for name in settings.labels:
        if name in labels:
            raise ConfigurationError(
                f"Expected constant labels in `labels` that no metric has, got {name!r}, which is a label of "
                f"{labels[name]}. Choose another name."
            )


def _must_be(name: str, known: list[str], key: str, what: str) -> None:
    if name in known:
        return
    came = f"the {CATALOGUE[name].kind} {name!r}" if name in CATALOGUE else repr(name)
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"Did you mean {near[0]!r}?" if near else "Remove it."
    raise ConfigurationError(f"Expected {what} in {key}, got {came}. {hint}")


def _read(source: Source) -> _Found:
    """What a source brings, by metric and label values that are fit to be shown; the first of two equals counts.

    Raises
    ------
    KeyError, TypeError, ValueError
        The source brings what the catalogue does not know in this form: an error of ours that must not be shown.
    """
    found: _Found = {}
    for item in source():
        entry = CATALOGUE[item.metric]
        if len(item.labels) != len(entry.labels):
            raise ValueError(f"expected values of {entry.labels} for {entry.name}, got {len(item.labels)} values")
        value = _number(item) if entry.kind != "histogram" else _buckets(item)
        if value is not None:
            found.setdefault(entry.name, {}).setdefault(tuple(map(clean, item.labels)), value)
    return found


def _number(item: Sample | Cell) -> float | None:
    if isinstance(item, Cell):
        if item.bounds is not None:
            raise ValueError(f"expected one number for {item.metric}, got buckets")
        value = float(item.values[0])
    else:
        value = float(item.value)
    return value if math.isfinite(value) else None


def _buckets(item: Sample | Cell) -> _Buckets:
    """Cumulated buckets as they are shown, and the sum; None, which leaves out the count too, if that is no number.

    prometheus_client leaves both out where a bound is negative: a sum that may fall is no counter.
    """
    if not isinstance(item, Cell) or item.bounds is None:
        raise ValueError(f"expected buckets for {item.metric}, got one number")
    *cells, total = item.values
    counts = accumulate(map(float, cells))
    shown = [*(repr(float(bound)) for bound in item.bounds), "+Inf"]
    return list(zip(shown, counts, strict=True)), total if math.isfinite(total) else None


def _empty(entry: Entry, constant: Iterable[str]) -> CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily:
    labels = [*entry.labels, *constant]
    if entry.kind == "counter":
        return CounterMetricFamily(entry.name, entry.help, labels=labels, unit=entry.unit)
    if entry.kind == "gauge":
        return GaugeMetricFamily(entry.name, entry.help, labels=labels, unit=entry.unit)
    return HistogramMetricFamily(entry.name, entry.help, labels=labels, unit=entry.unit)


def _family(entry: Entry, found: dict[tuple[str, ...], float | _Buckets], constant: dict[str, str]) -> Metric:
    family, more = _empty(entry, constant), tuple(constant.values())
    for labels, value in found.items():
        if isinstance(family, HistogramMetricFamily):
            if isinstance(value, tuple):
                family.add_metric((*labels, *more), *value)
        elif isinstance(value, float):
            family.add_metric((*labels, *more), value)
    return family
