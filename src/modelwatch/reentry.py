"""Whether this thread is in the middle of counting: a signal handler or a finalizer may come at any point of it.

Whoever comes so is on top of a thread that may hold locks. It must not wait for a lock that another thread holds, which
may be waiting for one of these.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

_INSIDE = threading.local()


@contextmanager
def counting() -> Iterator[None]:
    """Tell that the thread is in the middle of counting.

    >>> with counting():
    ...     interrupted()
    True
    """
    _INSIDE.counting = True
    try:
        yield
    finally:
        _INSIDE.counting = False


def interrupted() -> bool:
    """Whether it is, so that whoever asks has interrupted it."""
    return getattr(_INSIDE, "counting", False)


def forget() -> None:
    """It is not: in a process that has just been forked."""
    _INSIDE.counting = False
