"""The object that users hold: rows go in, reports come out. It only wires what is below."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, TypeVar

from ._types import Clock
from .buffer import new_batch
from .engine import Engine
from .exceptions import RowsError
from .exchange import Parts
from .files import ReferenceProfile
from .guard import Guard
from .ignoring import ignoring, is_ignored
from .loads import Loads
from .origins import Reference
from .reading import Reading
from .reference import CONFIDENCE, PREDICTION
from .references import References
from .report import DriftReport
from .rows import Reader, names_of, size_of, values_of
from .series import Series
from .settings import Settings
from .shares import EpochShare
from .tagging import tag
from .verdict import compare

Function = TypeVar("Function", bound=Callable[..., Any])


class Monitor:
    """Watches one model. Made by `modelwatch.instrument`; every method may be called from any thread, at any time.

    Parameters
    ----------
    model_name, model_version
        The labels of its metrics.
    reference
        The profile, or its path; "learn" makes the first rows of live traffic the reference; None watches no drift.
    settings
        All options.
    series, guard
        Where integers and swallowed errors go; by default its own.
    bounds
        Bucket bounds by name of a histogram.
    clock, wall
        Seconds, monotonic and since 1970.

    Attributes
    ----------
    registry
        The prometheus_client CollectorRegistry behind `/metrics`; None before an app is instrumented.

    Raises
    ------
    ReferenceFileError
        The reference cannot be read.
    ConfigurationError
        `settings.features` names a feature that the reference does not have.

    Notes
    -----
    Threads: any number. Processes: what the workers of an instrumented app have counted is one window; of others, each
    has its own.

    >>> import modelwatch
    >>> reference = modelwatch.ReferenceProfile.fit({"age": [31.0, 42.0, 57.0] * 100})
    >>> monitor = modelwatch.Monitor("demo", reference=reference)
    >>> monitor.record({"age": [57.0, 60.0] * 150}, predictions=[1, 0] * 150)
    >>> monitor.report().drifted
    ['age']
    """

    def __init__(
        self,
        model_name: str,
        model_version: str = "",
        *,
        reference: Reference | None = None,
        settings: Settings | None = None,
        series: Series | None = None,
        guard: Guard | None = None,
        bounds: Mapping[str, tuple[float, ...]] | None = None,
        clock: Clock = time.monotonic,
        wall: Clock = time.time,
    ) -> None:
        self.model_name = model_name
        self.settings = settings or Settings()
        self.series = series or Series(self.settings.max_series)
        self.guard = guard or Guard()
        self.registry: Any = None
        bounds = dict(bounds or {})
        self.engine = Engine(
            model_name, model_version, self.settings, self.series, self.guard, bounds=bounds, clock=clock, wall=wall
        )
        self.loads = Loads(wall)
        self.references = References(self.engine, self.settings, self.loads)
        self._reader: Reader | None = None
        if not self.settings.disabled:
            self.references.begin(reference)
            self.engine.announce()

    @property
    def model_version(self) -> str:
        """Label of the model's metrics: as given, or as the last `reload` or `loaded` said."""
        return self.engine.version

    @property
    def reload_failed(self) -> bool:
        """Whether the last attempt to replace the reference failed."""
        return self.references.failed

    @property
    def inputs(self) -> tuple[str, ...] | None:
        """What to take from a row, in order: the reference's features, and with event time the column of its times.

        None while there is no reference.
        """
        return self.engine.wanted

    @property
    def prediction_column(self) -> str | None:
        """What the training data call the prediction: where to look in what an endpoint returns."""
        return self._column_of(PREDICTION)

    @property
    def confidence_column(self) -> str | None:
        """What the training data call the confidence."""
        return self._column_of(CONFIDENCE)

    def _column_of(self, name: str) -> str | None:
        epoch = self.engine.epoch
        return None if epoch is None or name not in epoch.profile.names else epoch.profile.feature(name).column

    def record(
        self,
        features: Any,
        predictions: Any = None,
        confidences: Any = None,
        *,
        ids: Any = None,
        timestamps: Any = None,
        model_version: str | None = None,
    ) -> None:
        """Record rows that the model was given and what it returned. Copies, appends, and never raises.

        Parameters
        ----------
        features
            A dict (one row), a list of dicts, a 2-d array in the reference's order, a dict of columns, or a data frame.
            Names that the reference does not know are passed over; those that are not there count as missing.
        predictions, confidences
            One for each row: a scalar for one row, else a sequence. Confidences are in [0, 1].
        ids
            Names of the rows, one for each. Not used before labels can be recorded.
        timestamps
            Seconds since 1970 or datetimes, one for each row; used if `Settings(event_time=True)`.
        model_version
            Of these rows; by default that of the monitor.
        """
        if self.settings.disabled:
            return
        try:
            engine, reader = self.engine, self._reader
            if reader is None or (reader.names is not engine.wanted and engine.wanted is not None):
                reader = self._reader = self._new_reader(features)
            size, rows, columns = reader.read(features)
            batch = new_batch(
                (
                    size,
                    reader.names,
                    rows,
                    columns,
                    None if predictions is None else values_of(predictions, size, "predictions"),
                    None if confidences is None else values_of(confidences, size, "confidences"),
                    None if timestamps is None else values_of(timestamps, size, "timestamps"),
                    engine.version if model_version is None else model_version,
                    is_ignored(self),
                )
            )
            if ids is not None:
                values_of(ids, size, "ids")
        except Exception as error:  # noqa: BLE001 - the guard counts and logs it
            self.engine.lose(size_of(features))
            self.guard.swallow("record", error)
            return
        try:
            engine.append(batch)
        except Exception as error:  # noqa: BLE001 - as above
            self.guard.swallow("record", error)

    def _new_reader(self, features: Any) -> Reader:
        epoch = self.engine.epoch
        if epoch is None:
            names = names_of(features)
            if not names and self.engine.learner is not None:
                raise RowsError(
                    "Expected rows with names to learn from, as there is no reference yet, got an array. "
                    "Pass a dict, a dict of columns or a data frame."
                )
            return Reader(names)
        return Reader(epoch.wanted, len(epoch.wanted) - len(epoch.profile.inputs))

    def commit(
        self,
        names: tuple[str, ...],
        rows: Sequence[tuple[Any, ...]],
        predictions: Sequence[Any] | None,
        confidences: Sequence[Any] | None,
        ids: Sequence[Any] | None = None,
        *,
        ignored: bool = False,
    ) -> None:
        """Take rows that were captured from a request: tuples in the order of `names`. Appends; the lists are kept."""
        if self.settings.disabled:
            return
        engine = self.engine
        engine.append(
            new_batch((len(rows), names, rows, None, predictions, confidences, None, engine.version, ignored))
        )

    def report(self) -> DriftReport:
        """The window against the reference, now. Without a reference a report without features.

        It folds what waits, and takes about a millisecond for each 25 features.
        """
        found = None if self.settings.disabled else self.evaluate()
        unknown = DriftReport.unknown(self.settings.min_rows, self.model_name, self.model_version)
        return unknown if found is None else found[0]

    def evaluate(self, others: Iterable[EpochShare] | None = None) -> tuple[DriftReport, Reading] | None:
        """The report, and what it was made of, with what `others` have counted; None without a reference."""
        started = time.perf_counter()
        reading = self.engine.read(others)
        if reading is None:
            return None
        epoch, content = reading.epoch, reading.content
        report = compare(
            epoch.profile,
            content.counts,
            alpha=self.settings.alpha,
            floor=self.settings.floor,
            share_floor=self.settings.share_floor,
            min_rows=self.settings.min_rows,
            features=self.settings.features,
            captured=reading.captured.tolist(),
            rows=content.rows,
            seconds=content.seconds,
            model_name=self.model_name,
            model_version=epoch.version,
        )
        self.engine.evaluated(time.perf_counter() - started)
        return report, reading

    async def areport(self) -> DriftReport:
        """`report` from a coroutine: computed in another thread."""
        return await asyncio.to_thread(self.report)

    def flush(self) -> None:
        """Fold what waits: every row recorded before is counted when this returns."""
        self.engine.fold()

    def reload(self, reference: Reference, model_version: str | None = None) -> None:
        """Take another reference, and version, under traffic, in all workers. The window begins anew.

        A path is watched from now on: when the file changes it is taken anew by itself.

        Raises
        ------
        ReferenceFileError
            It cannot be read: the old one stays, and `model_reference_reload_failed` is 1.
        """
        if self.settings.disabled:
            return
        self.references.reload(reference, model_version)

    def reference_from_window(self) -> ReferenceProfile:
        """A profile of what is in the window now, with the cells of the reference: "this is the new normal".

        Raises
        ------
        RowsError
            There is no reference, or the window is empty.
        """
        reading = self.engine.read()
        if reading is None or not reading.content.rows:
            raise RowsError("Expected rows in the window and a reference, got none. Record some first.")
        return ReferenceProfile.from_counts(reading.epoch.profile, reading.content.counts)

    def loaded(self, version: str | None = None) -> None:
        """Say that the model is loaded, and when; for code that loads it."""
        if self.settings.disabled:
            return
        before = self.model_version
        if version is not None and version != before:
            self.engine.rename(version)
        self.loads.turn(before, self.model_version)

    def unloaded(self) -> None:
        """Say that the model is no longer loaded."""
        if not self.settings.disabled:
            self.loads.states[self.model_version] = False

    def ignore(self) -> AbstractContextManager[None]:
        """Rows recorded within stay out of the window and are counted as ignored: warm-up, synthetic calls.

        For requests it must be entered before the app is called: around a client of the app in the same task, or in a
        middleware. Within an endpoint it holds for `record` only.
        """
        return ignoring(self)

    def ignoring(self) -> bool:
        """Whether the caller is within `ignore`."""
        return is_ignored(self)

    def predict(
        self,
        *,
        features: str | Callable[[dict[str, Any]], Any] | None = None,
        prediction: str | Callable[[Any], Any] | None = None,
        confidence: str | Callable[[Any], Any] | None = None,
        id: str | Callable[[Any], Any] | None = None,
    ) -> Callable[[Function], Function]:
        """Name an endpoint's parts where they cannot be inferred; above or below `@app.post`. Only marks the function.

        Parameters
        ----------
        features
            Name of the endpoint's parameter that holds the rows, with dots for what lies within ("payload.rows"), or a
            function of the dict of its arguments.
        prediction, confidence, id
            Key of what it returns, with dots for what lies within, or a function of what it returns.
        """
        parts = Parts(monitor=self, features=features, prediction=prediction, confidence=confidence, id=id)

        return lambda function: tag(function, parts)
