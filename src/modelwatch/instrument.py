"""`instrument(app, …)`: puts everything below together around one app."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.multiprocess import MultiProcessCollector
from starlette.applications import Starlette

from ._version import __version__
from .asgi import Middleware, install
from .capture import Capture
from .exceptions import ConfigurationError
from .exposition import Exposition
from .guard import Guard
from .metrics.catalogue import CATALOGUE
from .metrics.families import Collected, bounds_of, check_settings, enabled
from .metrics.gpu import GpuSource
from .metrics.infra import ProcessSource
from .metrics.own import LibrarySource
from .metrics.registry import Registry
from .metrics.runtime import LAG, PAUSE, GcPauses, LoopProbe
from .metrics.service import ServiceMetrics
from .monitor import Monitor
from .origins import Reference
from .page import LivePage
from .places import Places
from .port import Port
from .request import Service
from .routes import USUALLY_EXCLUDED, Patterns, Templates
from .series import Series
from .settings import Settings
from .sharing import Sharing
from .verdict import compare
from .watched import Watched

_LOG = logging.getLogger("modelwatch")
_STATE = "modelwatch"
_OF_A_MODEL = {  # what two models of one app may have different settings of
    "alpha", "features", "floor", "learn_path", "learn_rows", "learn_seconds", "low_confidence", "max_age_seconds",
    "max_window_seconds", "min_rows", "event_time", "sample_rate", "share_floor", "task", "window_rows",
    "window_seconds", "window_slots",
}  # fmt: skip


def instrument(
    app: Starlette,
    *,
    model_name: str,
    model_version: str = "",
    reference: Reference | None = None,
    routes: Sequence[str] | None = None,
    exclude: Sequence[str] | None = None,
    settings: Settings | None = None,
) -> Monitor:
    """Watch a FastAPI or Starlette app and the model in it: its metrics are at `/metrics` from now on.

    Call it once for each model, before or after the routes are added. It starts no thread and changes no response.

    Parameters
    ----------
    app
        The app. Its middleware stack is wrapped, nothing else.
    model_name, model_version
        Labels of the model's metrics.
    reference
        A ReferenceProfile or the path of one; "learn" makes the first rows of live traffic the reference; None watches
        no drift.
    routes
        Templates of the model's endpoints, by prefix or glob; by default they are found by what their bodies hold.
    exclude
        Templates or paths of requests that are not recorded; by default probes, docs and favicon.
    settings
        All options; by default those of the environment.

    Returns
    -------
    Monitor
        For rows that no endpoint sees, for reports, for reloads. The same one for the same app and model.

    Raises
    ------
    ReferenceFileError
        The reference cannot be read.
    ConfigurationError
        An argument cannot be used, or contradicts an earlier call for the same app.

    >>> import fastapi, modelwatch
    >>> app = fastapi.FastAPI()
    >>> monitor = modelwatch.instrument(app, model_name="bike-demand", model_version="2011.1")
    >>> monitor is modelwatch.instrument(app, model_name="bike-demand", model_version="2011.1")
    True
    """
    _check(app, model_name, model_version)
    settings = settings or Settings()
    if settings.disabled:
        monitor = Monitor(model_name, model_version, settings=settings)
        monitor.registry = CollectorRegistry()  # users may register their own; it is shown nowhere
        return monitor
    arguments = (model_version, reference, _listed(routes), _listed(exclude), settings)
    watched = getattr(app.state, _STATE, None)
    if watched is None:
        check_settings(settings)
        watched = _Watched(app, settings, exclude)
        setattr(app.state, _STATE, watched)
    return watched.monitor_of(model_name, arguments)


def monitors_of(app: Any) -> list[Monitor]:
    """The monitors of an app, one for each `instrument`ed model; none if it is not instrumented."""
    watched = getattr(getattr(app, "state", None), _STATE, None)
    return watched.monitors() if isinstance(watched, _Watched) else []


def watched_endpoints(app: Any) -> list[Watched]:
    """What is watched at each endpoint of an app, decided and logged as when it starts; for `modelwatch doctor`."""
    watched = getattr(getattr(app, "state", None), _STATE, None)
    return watched.start() if isinstance(watched, _Watched) else []


class _Watched:
    """Everything of one instrumented app.

    Notes
    -----
    Threads: `instrument` from one at a time. Processes: each has its own.
    """

    def __init__(self, app: Starlette, settings: Settings, exclude: Sequence[str] | None) -> None:
        self._settings = settings
        self._models: dict[str, tuple[Monitor, Any]] = {}
        self._guard = Guard()
        self._series = Series(settings.max_series)
        self._capture = Capture(app)
        self._registry = Registry(self._guard, settings.collect_seconds)
        self._pauses = GcPauses(self._series, bounds_of(PAUSE, settings), self._guard) if _on(PAUSE, settings) else None
        probe = LoopProbe(self._series, bounds_of(LAG, settings), self._guard) if _on(LAG, settings) else None
        sharing = self._sharing = Sharing(settings, self._series, self._guard, self.monitors)
        sharing.publisher.local.append(self._library())
        if settings.metrics.get("infra", True):
            sharing.publisher.local.append(ProcessSource())
        if settings.metrics.get("gpu", True):
            sharing.publisher.local.append(GpuSource())
        if probe is not None:
            sharing.publisher.local.append(probe.samples)
        self._registry.register(Collected(settings, self._guard, sharing.sources))
        self._exposition = Exposition(self._registry, settings, self._guard, series=self._series)
        page = self.page = LivePage(sharing, settings, self._guard, __version__) if settings.page else None
        in_app = settings.metrics_port is None
        if settings.metrics_port is not None:
            where = settings.metrics_host, settings.metrics_port, settings.metrics_path
            sharing.port = Port(self._exposition, *where, self._guard, pages=page.pages if page else None)
        on_loop = [sharing.ensure] if probe is None else [sharing.ensure, probe.ensure]
        service = Service(
            metrics=ServiceMetrics(self._series, settings),
            templates=Templates(app),
            guard=self._guard,
            metrics_path=settings.metrics_path,
            exposition=self._exposition if in_app else None,
            pages=page.pages if page and in_app else None,
            excluded=USUALLY_EXCLUDED if exclude is None else Patterns(exclude),
            on_loop=[*on_loop, page.history.ensure] if page else on_loop,
            on_end=sharing.turn,
            capture=self._capture,
        )
        if os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
            self._take_multiprocess()
        install(app, lambda stack: self._around(app, stack, service), self._guard)

    def _take_multiprocess(self) -> None:
        """Show the user's own metrics that prometheus_client shares between workers."""
        collector: Any = MultiProcessCollector  # it has no types; it registers itself
        try:
            collector(self._registry)
        except ValueError as error:
            _LOG.warning("modelwatch: PROMETHEUS_MULTIPROC_DIR is set, but its metrics cannot be shown: %s", error)

    def _around(self, app: Starlette, stack: Any, service: Service) -> Middleware:
        if service.exposition is not None:
            path = service.metrics_path
            metrics = Places(
                app,
                stack,
                {path: self._exposition},
                give_up=partial(setattr, service, "exposition", None),
                what="the metrics are",
                setting="metrics_path",
            )
            service.exposition = metrics.instead()[path]
        if service.pages:
            give_up = partial(setattr, service, "pages", {})
            page = Places(app, stack, service.pages, give_up=give_up, what="the live page is", setting="page_path")
            service.pages = page.instead()
        return Middleware(self._capture.around(stack), service)

    def _library(self) -> LibrarySource:
        return LibrarySource(self.monitors, self._series, self._guard, lambda: self._capture.available, __version__)

    def monitors(self) -> list[Monitor]:
        """The monitors, in the order in which they were asked for."""
        return [monitor for monitor, _ in list(self._models.values())]

    def start(self) -> list[Watched]:
        """Decide what is watched, before the app starts, by the references of now."""
        self._capture.refresh()
        return self._capture.start()

    def monitor_of(self, model_name: str, arguments: tuple[Any, ...]) -> Monitor:
        """The monitor of a model: the one that is there, or a new one."""
        version, reference, routes, exclude, settings = arguments
        if model_name in self._models:
            monitor, before = self._models[model_name]
            _refuse_changes(model_name, before, arguments)
            return monitor
        self._refuse_another_app(settings)
        if self._models and routes is None:
            raise ConfigurationError(
                f"Expected `routes` for model {model_name!r}, for model {next(iter(self._models))!r} is in this app "
                'too and a route belongs to one model; got none. Name its endpoints: routes=["/v2/predict"].'
            )
        monitor = Monitor(
            model_name,
            version,
            reference=reference,
            settings=settings,
            series=self._series,
            guard=self._guard,
            bounds={name: bounds_of(name, settings) for name, entry in CATALOGUE.items() if entry.kind == "histogram"},
        )
        monitor.registry = self._registry
        self._capture.add(monitor, routes=routes, exclude=exclude)
        monitor.engine.swapped = self._capture.refresh
        self._sharing.name(model_name)
        self._models[model_name] = monitor, arguments
        epoch = monitor.engine.epoch
        if epoch is not None:  # what a first comparison loads, it loads now and not under traffic
            compare(epoch.profile, epoch.totals)
        monitor.loaded()
        return monitor

    def _refuse_another_app(self, settings: Settings) -> None:
        for name in type(settings).model_fields:
            if name not in _OF_A_MODEL and getattr(settings, name) != getattr(self._settings, name):
                raise ConfigurationError(
                    f"Expected `{name}` to be the same for all models of an app, "
                    f"{getattr(self._settings, name)!r}, got {getattr(settings, name)!r}. Set it in the first call."
                )


def _on(name: str, settings: Settings) -> bool:
    return enabled(CATALOGUE[name], settings)


def _listed(patterns: Iterable[str] | None) -> tuple[str, ...] | None:
    if patterns is None:
        return None
    return (patterns,) if isinstance(patterns, str) else tuple(patterns)


def _check(app: Any, model_name: Any, model_version: Any) -> None:
    if not isinstance(app, Starlette):
        raise ConfigurationError(
            f"Expected a FastAPI or Starlette app, got {type(app).__name__}. Pass the app itself, before it is wrapped."
        )
    if not isinstance(model_name, str) or not model_name.strip() or len(model_name) > 100:
        raise ConfigurationError(
            f"Expected `model_name` to be a text of 1 to 100 characters, got {model_name!r:.120}. Name the model."
        )
    if not isinstance(model_version, str) or len(model_version) > 100:
        raise ConfigurationError(
            f"Expected `model_version` to be a text of at most 100 characters, got {model_version!r:.120}. "
            "Write it as text."
        )


def _refuse_changes(model_name: str, before: tuple[Any, ...], now: tuple[Any, ...]) -> None:
    for name, old, new in zip(
        ("model_version", "reference", "routes", "exclude", "settings"), before, now, strict=True
    ):
        if old != new:
            raise ConfigurationError(
                f"Expected the same `{name}` for model {model_name!r}, which this app has already, {old!r:.200}, got "
                f"{new!r:.200}. Use monitor.reload for another reference or version, or another model_name."
            )
