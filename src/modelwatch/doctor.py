"""`modelwatch doctor`: what would be watched of an app, told without serving anything."""

from __future__ import annotations

import contextlib
import difflib
import logging
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ._fastapi_endpoints import parameters_of
from .claims import endpoints_of
from .exceptions import ConfigurationError
from .extract import choose, leaves_at
from .fields import nearest, read
from .instrument import instrument, monitors_of, watched_endpoints
from .loading import app_at
from .monitor import Monitor
from .routes import walk
from .settings import Settings
from .watched import Watched

_PREFIX = "MODELWATCH_"
_MOST_PASSED_OVER = 20


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """What the doctor found. `print` shows it.

    Parameters
    ----------
    target
        The app, as it was asked for: "module:app".
    instrumented
        Whether its code calls `instrument`; else the doctor did, for this look only.
    disabled
        Whether MODELWATCH_DISABLED leaves it untouched.
    models
        Of each: name, and lines about it.
    endpoints, passed_over
        Endpoints that are watched, in the order of the routes; lines about those that might be and are not.
    metrics
        Where the metrics will be, in words.
    environment
        Settings that the environment changes: (variable, value, what the code made of it, "" if that is the same).
    notes
        What the library logged as a warning.
    """

    target: str
    instrumented: bool
    disabled: bool
    models: tuple[tuple[str, str], ...]
    endpoints: tuple[Watched, ...]
    passed_over: tuple[str, ...]
    metrics: str
    environment: tuple[tuple[str, str, str], ...]
    notes: tuple[str, ...]

    @property
    def feeding(self) -> bool:
        """Whether rows of any endpoint go into a window, as far as types tell."""
        return any(one.feeds and one.rows is not None for one in self.endpoints)

    def __str__(self) -> str:
        calls = (
            "left untouched" if self.disabled
            else "calls modelwatch.instrument" if self.instrumented
            else "does not call modelwatch.instrument when it is imported; the doctor did, to see"
        )  # fmt: skip
        parts = [_fields("", [("app", f"{self.target}, {calls}"), *self.models, ("metrics", self.metrics)])]
        parts += [_endpoint(one) for one in self.endpoints]
        if self.passed_over:
            parts.append("\n".join(["not watched:", *(_wrapped(line, "  ") for line in self.passed_over)]))
        if self.environment:
            lines = [f"  {name}={value}{f'  (the code says {own})' if own else ''}" for name, value, own in
                     self.environment]  # fmt: skip
            parts.append("\n".join(["from the environment:", *lines]))
        if self.notes:
            parts.append("\n".join(["notes:", *(_wrapped(note, "  ") for note in self.notes)]))
        return "\n\n".join([*parts, self._conclusion()])

    def _conclusion(self) -> str:
        if self.disabled:
            return f"{_PREFIX}DISABLED is set: nothing is watched."
        feeding = [one.template for one in self.endpoints if one.feeds and one.rows is not None]
        if feeding:
            return f"Rows of {' and '.join(feeding)} are watched."
        if any(not one.sure for one in self.endpoints):
            return "No endpoint is known to feed the window; requests will show it."
        return "No endpoint feeds the window."


def examine(target: str, *, reference: str | None = None, model_name: str | None = None) -> Diagnosis:
    """Import an app, and tell what would be watched.

    Parameters
    ----------
    target
        "module:app", with dots as Python has them; "module:create_app()" calls what makes the app. The current
        directory is looked in first.
    reference
        Path of a reference: of the model if the app is not instrumented, else to try in place of its own.
    model_name
        Of the model: its name if the app is not instrumented, else which one `reference` is for.

    Raises
    ------
    ConfigurationError
        There is no such module or app, importing it fails, or it has no such model.
    ReferenceFileError
        The reference cannot be read.
    """
    with _overheard() as said:
        app = app_at(target)
        monitors = monitors_of(app)
        instrumented = bool(monitors)
        environment = Settings()
        if instrumented:
            _try_reference(monitors, reference, model_name)
        else:
            instrument(app, model_name=model_name or "model", reference=reference)
            monitors = monitors_of(app)
        endpoints = watched_endpoints(app)
    told = {str(one) for one in endpoints}
    return Diagnosis(
        target=target,
        instrumented=instrumented,
        disabled=environment.disabled,
        models=tuple(("model", _model(monitor)) for monitor in monitors),
        endpoints=tuple(endpoints),
        passed_over=tuple(_passed_over(app, monitors, endpoints)),
        metrics=_metrics(app, monitors),
        environment=tuple(_environment(environment, monitors)),
        notes=tuple(dict.fromkeys(note for note in said if note not in told)),
    )


def _try_reference(monitors: Sequence[Monitor], reference: str | None, model_name: str | None) -> None:
    names = [monitor.model_name for monitor in monitors]
    if model_name is not None and model_name not in names:
        near = difflib.get_close_matches(model_name, names, n=1)
        hint = f"Did you mean {near[0]!r}?" if near else "Name one of these."
        raise ConfigurationError(f"Expected one of the app's models, {names}, got {model_name!r}. {hint}")
    if reference is None:
        return
    if model_name is None and len(names) > 1:
        raise ConfigurationError(
            f"Expected to know which model the reference is for, got several, {names}. Name one with --model-name."
        )
    monitors[0 if model_name is None else names.index(model_name)].reload(reference)


def _model(monitor: Monitor) -> str:
    name = f"{monitor.model_name} {monitor.model_version}".strip()
    epoch = monitor.engine.epoch
    if epoch is not None:
        profile = epoch.profile
        return f"{name}, reference {profile.id} ({profile.rows} rows, {len(profile.inputs)} features)"
    if monitor.engine.learner is not None:
        return f"{name}, learns its reference from the first {monitor.settings.learn_rows} rows"
    return f"{name}, no reference: no drift is watched"


def _metrics(app: Any, monitors: Sequence[Monitor]) -> str:
    if not monitors:
        return "nowhere"
    path = monitors[0].settings.metrics_path
    if any(routed.template == path for routed in walk(app)):
        return f"nowhere: {path} is a route of the app; choose another with Settings(metrics_path=…)"
    return f"{path}{' (bearer token)' if monitors[0].settings.metrics_token is not None else ''}"


def _endpoint(one: Watched) -> str:
    total = len(one.matched) + len(one.unmatched)
    told = f"{len(one.matched)} of {total}{': ' if one.matched else ''}{', '.join(one.matched)}"
    fields = [
        ("model", one.model_name),
        ("feeds the window", "yes" if one.feeds and one.rows else "no" if one.sure else "its requests will show"),
        ("rows in", one.rows or "not found: name them with @monitor.predict(features=…)"),
        ("features", told if one.matched or one.rows is None else "the first rows will show"),
    ]
    if one.unmatched and one.matched:
        fields.append(("not found", _nearest(one.unmatched.items())))
    fields += [("prediction", one.prediction or "the types do not tell"), ("confidence", one.confidence or "-")]
    return _fields(f"{' '.join(one.methods)} {one.template}", fields)


def _passed_over(app: Any, monitors: Sequence[Monitor], endpoints: Sequence[Watched]) -> Iterator[str]:
    """What endpoints carry that were not chosen, because it is too few features: most likely names differ."""
    known = {(one.template, one.methods) for one in endpoints}
    left = _MOST_PASSED_OVER
    for routed in endpoints_of(app):
        methods = tuple(sorted(routed.methods or ()))
        if (routed.template, methods) in known or not {"POST", "PUT"} & set(methods) or not left:
            continue
        shape = read(parameters_of(routed.route.dependant, dependencies=True))
        for monitor in monitors:
            inputs = monitor.inputs or ()
            source = choose(shape, inputs) if inputs else None
            names = () if source is None else source.names
            every = [*shape.leaves, *(leaf for rows in shape.lists for leaf in rows.leaves)]
            leaves = every if source is None else leaves_at(shape, source.path)
            if inputs and leaves:
                left -= 1
                lacking = nearest([name for name in inputs if name not in names], leaves)
                yield (
                    f"{' '.join(methods)} {routed.template}: {len(names)} of {len(inputs)} features of "
                    f"{monitor.model_name}; not found: {_nearest(lacking.items())}"
                )


def _environment(settings: Settings, monitors: Sequence[Monitor]) -> Iterator[tuple[str, str, str]]:
    """Of every variable that changes a setting its name, its value, and the code's where that is another."""
    for name, field in type(settings).model_fields.items():
        value = getattr(settings, name)
        if value != field.default:
            own = [getattr(monitor.settings, name) for monitor in monitors]
            yield f"{_PREFIX}{name.upper()}", str(value), ", ".join(str(x) for x in own if x != value)


class _Listener(logging.Handler):
    """Keeps what is logged as a warning or worse."""

    def __init__(self, said: list[str]) -> None:
        super().__init__(logging.WARNING)
        self._said = said

    def emit(self, record: logging.LogRecord) -> None:
        """Keep it."""
        self._said.append(record.getMessage())


@contextlib.contextmanager
def _overheard() -> Iterator[list[str]]:
    """What the library logs as a warning meanwhile: it goes into the diagnosis, and not to stderr too."""
    said: list[str] = []
    logger, listener = logging.getLogger("modelwatch"), _Listener(said)
    propagate, logger.propagate = logger.propagate, False
    logger.addHandler(listener)
    try:
        yield said
    finally:
        logger.removeHandler(listener)
        logger.propagate = propagate


def _nearest(found: Any) -> str:
    return ", ".join(f"{name} (nearest: {near})" if near else name for name, near in list(found)[:20])


def _fields(head: str, fields: Sequence[tuple[str, str]]) -> str:
    indent = "  " if head else ""
    width = max(len(name) for name, _ in fields)
    lines = [_wrapped(f"{name.ljust(width)}  {value}", indent, width + 2) for name, value in fields]
    return "\n".join([head, *lines] if head else lines)


def _wrapped(text: str, indent: str, hanging: int = 2) -> str:
    return textwrap.fill(
        text,
        100,
        initial_indent=indent,
        subsequent_indent=indent + " " * hanging,
        break_long_words=False,
        break_on_hyphens=False,
    )
