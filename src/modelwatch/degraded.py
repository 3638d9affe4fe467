"""What of the library does not work although the service does: a gauge, and now and then a line in the log."""

from __future__ import annotations

import logging
import math
import time

from ._types import Clock

_LOG = logging.getLogger("modelwatch")
_QUIET_SECONDS = 60.0
REASONS = ("directory", "space", "port")
"""No directory to share in, no room to publish, no port; values of the label `reason`."""


class Degraded:
    """Which of the REASONS hold now.

    Parameters
    ----------
    clock
        Seconds, rising; any origin.

    Attributes
    ----------
    flags
        1 for those that do, else 0.

    Notes
    -----
    Threads: any number. Processes: each has its own.

    >>> degraded = Degraded()
    >>> degraded.end("port")
    >>> degraded.flags["port"]
    0
    """

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._said = dict.fromkeys(REASONS, -math.inf)
        self.flags = dict.fromkeys(REASONS, 0)

    def begin(self, reason: str, text: str, *values: object) -> None:
        """It holds from now on. What it means is logged when it begins, and at most once a minute."""
        now = self._clock()
        if not self.flags[reason] and now - self._said[reason] >= _QUIET_SECONDS:
            self._said[reason] = now
            _LOG.warning("modelwatch: " + text, *values)
        self.flags[reason] = 1

    def end(self, *reasons: str) -> None:
        """They hold no longer."""
        for reason in reasons:
            self.flags[reason] = 0
