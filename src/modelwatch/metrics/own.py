"""The library about itself, and the models' load state."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Iterator

from ..guard import Guard
from ..monitor import Monitor
from ..series import Sample, Series


class LibrarySource:
    """Reads what went wrong, what waits and what is loaded.

    Parameters
    ----------
    monitors
        Gives the monitors of the app.
    series, guard
        The app's.
    captures
        Tells whether rows can be found in requests by themselves.
    version
        Of modelwatch.

    Notes
    -----
    Threads: any number. Processes: each has its own.
    """

    def __init__(
        self,
        monitors: Callable[[], Iterable[Monitor]],
        series: Series,
        guard: Guard,
        captures: Callable[[], bool],
        version: str,
    ) -> None:
        self._monitors, self._series, self._guard, self._captures = monitors, series, guard, captures
        self._build = (version, platform.python_version())

    def __call__(self) -> Iterator[Sample]:
        """Samples of now."""
        yield Sample("modelwatch_build_info", self._build, 1)
        for stage, errors in self._guard.errors.items():
            yield Sample("modelwatch_internal_errors_total", (stage,), errors)
        for metric, folded in self._series.overflows.items():
            yield Sample("modelwatch_label_overflow_total", (metric,), folded)
        monitors = list(self._monitors())
        yield Sample("modelwatch_buffer_rows", (), sum(monitor.engine.buffer.waiting for monitor in monitors))
        yield Sample("modelwatch_capture_available", (), float(self._captures()))
        for monitor in monitors:
            for version, loaded in monitor.loads.states.items():
                yield Sample("model_loaded_info", (monitor.model_name, version), float(loaded))
            if monitor.loads.time is not None:
                model = (monitor.model_name, monitor.model_version)
                yield Sample("model_load_timestamp_seconds", model, monitor.loads.time)
