"""From collectors to text. Whatever one of them does, a user's own included, it costs only what it alone brings."""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.metrics_core import InfoMetricFamily, Metric
from prometheus_client.registry import Collector, CollectorRegistry
from prometheus_client.samples import Sample

from ..guard import Guard
from .families import Collected
from .foreign import Foreign
from .pace import NoPace, Pace
from .text import Family, Form, Text, text_of

_EOF = b"# EOF\n"
_ALL: weakref.WeakSet[Registry] = weakref.WeakSet()


class Registry(CollectorRegistry):
    """A prometheus_client registry in which a collector that fails or hangs costs only what it alone brings.

    It holds the library's own collector and takes a user's too (`monitor.registry.register(…)`); a name that the
    library has is refused there.

    Parameters
    ----------
    guard
        Counts the collectors that bring nothing, at stage "scrape".
    collect_seconds
        How long a scrape waits for all collectors of the user's together.

    Notes
    -----
    Threads: any number. Processes: each has its own.
    """

    def __init__(self, guard: Guard, collect_seconds: float = 5.0) -> None:
        super().__init__()
        self._guard = guard
        self._own: list[Collected] = []
        self._users: list[Collector] = []
        self._foreign = Foreign(guard, collect_seconds)
        _ALL.add(self)

    def forked(self) -> None:
        """Renew the locks: in this process, just forked, nobody else can hold one."""
        self._foreign.forked()

    def register(self, collector: Collector) -> None:
        """Add a collector.

        Raises
        ------
        ValueError
            It brings a name that is there already.
        """
        super().register(collector)
        if isinstance(collector, Collected):
            self._own.append(collector)
        else:
            self._users.append(collector)

    def unregister(self, collector: Collector) -> None:
        """Remove a collector.

        Raises
        ------
        KeyError
            It is not there.
        """
        super().unregister(collector)
        if isinstance(collector, Collected):
            self._own.remove(collector)
        else:
            self._users.remove(collector)

    def set_target_info(self, labels: dict[str, str] | None) -> None:
        """Tell about the target, in a metric of its own; None takes that back.

        Raises
        ------
        ValueError
            A collector brings `target_info` already.
        """
        super().set_target_info(labels)
        self._target: Mapping[str, str] | None = labels  # read without the lock, which a fork may leave locked

    def collect(self) -> Iterator[Metric]:
        """The families of all collectors that do not fail: the library's own, then those of the user's."""
        yield from self._owned()
        for families in self._foreign.ask(list(self._users), lambda user: list(user.collect())):
            yield from families

    def _owned(self) -> Iterator[Metric]:
        if self._target:
            yield InfoMetricFamily("target", "Target metadata", value=dict(self._target))
        for own in list(self._own):
            try:
                yield from own.collect()
            except Exception as error:  # noqa: BLE001 - ours is to blame; the user's are shown
                self._guard.swallow("scrape", error)

    def written(self, form: Form, pace: Pace) -> Iterator[Text | Exception]:
        """The text of all families, or why one cannot be written.

        What a user's collector brings is written where it is asked too: whatever its parts may do, the scrape goes on.
        """
        yield from _written(self._owned(), form, pace)
        for texts in self._foreign.ask(list(self._users), lambda user: list(_written(_families(user), form, Pace()))):
            yield from texts


def render(
    registry: CollectorRegistry,
    guard: Guard,
    *,
    openmetrics: bool = False,
    names: frozenset[str] = frozenset(),
    pace: Pace | None = None,
) -> bytes:
    """What a registry collects, in Prometheus' text format 0.0.4 or in OpenMetrics 1.0.0.

    Parameters
    ----------
    registry
        A `Registry` outlives collectors that fail or hang; of any other what came before the failure is shown.
    guard
        Counts errors of the collectors and of what they bring, at stage "scrape".
    names
        Names of samples or of families, as they stand in the text; nothing else is shown then. Empty for all.
    pace
        Where to pause; default: nowhere, as it must be in the thread of an event loop.

    Notes
    -----
    A family that cannot be written, or whose name has been there before, is left out as a whole, and counted.
    """
    form, pace = Form(openmetrics, names), pace or NoPace()
    if isinstance(registry, Registry):
        written = registry.written(form, pace)
    else:
        written = _written(_collected(registry, guard), form, pace)
    texts: dict[str, bytes] = {}
    for one in written:
        if isinstance(one, Exception):
            guard.swallow("scrape", one)
        elif one.text and one.name in texts:
            guard.swallow("scrape", ValueError(f"expected each family once, got {one.name:.100} twice"))
        elif one.text:
            texts[one.name] = one.text
            if one.left_out:
                message = f"expected different labels in {one.name:.100}, left out {one.left_out} samples"
                guard.swallow("scrape", ValueError(message))
    return b"".join([*texts.values(), _EOF] if openmetrics else texts.values())


def _written(families: Iterable[Family], form: Form, pace: Pace) -> Iterator[Text | Exception]:
    """The text of each family, or why it cannot be written."""
    for family in families:
        try:
            yield text_of(family, form, pace)
        except Exception as error:  # noqa: BLE001 - a user's collector may bring anything
            yield error
        pace.look()


def _collected(registry: CollectorRegistry, guard: Guard) -> Iterator[Metric]:
    try:
        yield from registry.collect()
    except Exception as error:  # noqa: BLE001 - a user's collector may raise anything
        guard.swallow("scrape", error)


def _families(collector: Collector) -> Iterable[Family]:
    """What a collector brings; a metric of prometheus_client without making all of its samples first.

    To make 20,000 of them takes 50 ms in which nothing else gets on, and lets the garbage collector look at everything.
    """
    if isinstance(collector, MetricWrapperBase) and type(collector).collect is MetricWrapperBase.collect:
        [family] = collector.describe()
        return [
            _Streamed(family.name, family.documentation, family.type, family.unit, _Samples(collector, family.name))
        ]
    return collector.collect()


class _Samples:
    """The samples of a metric of prometheus_client, one after the other.

    That it has `_samples`, whose names are suffixes, is an inside of prometheus_client, the same from 0.12 on; a test
    compares this with `collect`.
    """

    def __init__(self, metric: MetricWrapperBase, name: str) -> None:
        self._metric, self._name = metric, name

    def __iter__(self) -> Iterator[Sample]:
        for sample in self._metric._samples():
            yield sample._replace(name=self._name + sample.name)


class _Streamed(NamedTuple):
    """A family whose samples are made while they are written."""

    name: str
    documentation: str
    type: str
    unit: str
    samples: _Samples


def _forked() -> None:
    for registry in list(_ALL):
        registry.forked()


os.register_at_fork(after_in_child=_forked)
