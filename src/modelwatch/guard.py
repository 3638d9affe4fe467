"""What goes wrong inside the library is counted and logged here, and never reaches the service.

Every call of ours on a request's way stands in a `try` whose `except Exception` hands the error to `Guard.swallow`.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable

from ._types import Clock

_LOG = logging.getLogger("modelwatch")
_QUIET_SECONDS = 60.0

STAGES = ("request", "capture", "record", "fold", "tick", "scrape", "reference", "page")
"""Where an own error can happen; the values of the label `stage`."""

observers: list[Callable[[str, BaseException], None]] = []
"""Called with the stage and every error that is swallowed. The library's own tests raise it again."""


class Guard:
    """Counts swallowed errors by stage and logs each stage at most once a minute.

    Parameters
    ----------
    clock
        Seconds, rising; any origin.

    Notes
    -----
    Threads: any number; the counts are single stores of whole numbers. Processes: each has its own.
    """

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._logged: dict[str, float] = {}
        self.errors = dict.fromkeys(STAGES, 0)

    def forget(self) -> None:
        """Begin at zero, in a process that has just been forked."""
        self._logged.clear()
        self.errors.update(dict.fromkeys(self.errors, 0))

    def swallow(self, stage: str, error: BaseException) -> None:
        """Count and log an error of our own. Never raises, except in tests that observe it.

        The text of the error is logged with `repr`, so that nothing of a client's can break a line of the log.
        """
        self.errors[stage] += 1
        # A clock, or a handler or filter of the service's logging, may fail as well.
        with contextlib.suppress(Exception):
            now = self._clock()
            if now - self._logged.get(stage, -math.inf) >= _QUIET_SECONDS:
                self._logged[stage] = now
                _LOG.error(
                    "modelwatch failed at stage %r; the service is not affected, telemetry was lost: %s "
                    "(further errors of this stage are only counted for a minute, "
                    "see modelwatch_internal_errors_total)",
                    stage,
                    _line(error),
                    exc_info=error if _LOG.isEnabledFor(logging.DEBUG) else None,
                )
        for observe in observers:
            observe(stage, error)


def _line(error: BaseException) -> str:
    """An error on one line: a `repr` may have several, and hold what a client sent."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in f"{error!r:.500}")
