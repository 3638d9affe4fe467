"""From collectors to text. Whatever one of them does, a user's own included, it costs only what it alone brings."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import InfoMetricFamily, Metric
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.registry import Collector, CollectorRegistry

from ..guard import Guard

_EOF = b"# EOF\n"


class Registry(CollectorRegistry):
    """A prometheus_client registry in which a collector that fails costs only what it alone brings.

    It holds the library's own collector and takes a user's too (`monitor.registry.register(…)`); a name that the
    library has is refused there.

    Parameters
    ----------
    guard
        Swallows the errors of collectors, at stage "scrape".

    Notes
    -----
    Threads: any number. Processes: each has its own.
    """

    def __init__(self, guard: Guard) -> None:
        super().__init__()
        self._guard = guard
        self._members: list[Collector] = []

    def register(self, collector: Collector) -> None:
        """Add a collector.

        Raises
        ------
        ValueError
            It brings a name that is there already.
        """
        super().register(collector)
        self._members.append(collector)

    def unregister(self, collector: Collector) -> None:
        """Remove a collector.

        Raises
        ------
        KeyError
            It is not there.
        """
        super().unregister(collector)
        self._members.remove(collector)

    def collect(self) -> Iterator[Metric]:
        """The families of all collectors that do not fail."""
        target = self.get_target_info()
        if target:
            yield InfoMetricFamily("target", "Target metadata", value=target)
        for collector in list(self._members):
            try:
                families = list(collector.collect())
            except Exception as error:  # noqa: BLE001 - a user's collector may raise anything
                self._guard.swallow("scrape", error)
                continue
            yield from families


def render(
    registry: CollectorRegistry, guard: Guard, *, openmetrics: bool = False, names: frozenset[str] = frozenset()
) -> bytes:
    """What a registry collects, in Prometheus' text format 0.0.4 or in OpenMetrics 1.0.0.

    Parameters
    ----------
    registry
        A `Registry` outlives collectors that fail; of any other what came before the failure is shown.
    guard
        Swallows the errors of collectors and of what they bring, at stage "scrape".
    names
        Names of samples or of families, as they stand in the text; nothing else is shown then. Empty for all.

    Notes
    -----
    A family that cannot be written, or whose name has been there before, is left out as a whole.
    """
    encode = generate_openmetrics if openmetrics else generate_latest
    texts, seen = [], set()
    for family in _collected(registry, guard):
        try:
            if family.name in seen:
                continue
            chosen = _restricted(family, names) if names else family
            if chosen is not None:
                text = encode(_Single(chosen))
                texts.append(text.removesuffix(_EOF) if openmetrics else text)
                seen.add(family.name)
        except Exception as error:  # noqa: BLE001 - a user's collector may bring anything
            guard.swallow("scrape", error)
    return b"".join([*texts, _EOF] if openmetrics else texts)


def _collected(registry: CollectorRegistry, guard: Guard) -> Iterator[Metric]:
    try:
        yield from registry.collect()
    except Exception as error:  # noqa: BLE001 - a user's collector may raise anything
        guard.swallow("scrape", error)


def _restricted(family: Metric, names: frozenset[str]) -> Metric | None:
    """The family with the samples that are named; with all if it is named itself; None if there is none."""
    if family.name in names:
        return family
    chosen = Metric(family.name, family.documentation, family.type, family.unit)
    chosen.samples = [sample for sample in family.samples if sample.name in names]
    return chosen if chosen.samples else None


class _Single(Collector):
    """What an encoder takes for a registry, of one family."""

    def __init__(self, family: Metric) -> None:
        self._family = family

    def collect(self) -> Iterable[Metric]:
        """That one."""
        return (self._family,)
