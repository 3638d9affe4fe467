"""Whether rows are to be ignored: a mark on the context that calls, which async tasks and threads of it inherit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar

_IGNORING: ContextVar[tuple[int, ...]] = ContextVar("modelwatch_ignoring", default=())


@contextmanager
def ignoring(owner: object) -> Iterator[None]:
    """Within, `is_ignored(owner)` is true."""
    token = _IGNORING.set((*_IGNORING.get(), id(owner)))
    try:
        yield
    finally:
        with suppress(ValueError):  # a sync dependency of FastAPI's is left in another context than it was entered
            _IGNORING.reset(token)


def is_ignored(owner: object) -> bool:
    """Whether the caller is within `ignoring(owner)`."""
    owners = _IGNORING.get()
    return bool(owners) and id(owner) in owners
