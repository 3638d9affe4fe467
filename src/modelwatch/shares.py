"""What one worker has counted, in the form in which it is added up with what the others have: a share."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from ._types import Counts, Flags, Floats
from .series import Key, Sample
from .slots import State


@dataclass
class EpochShare:
    """Rows counted against one reference, for one version of a model.

    Attributes
    ----------
    version, hash
        Of the model and of the reference's cells: only shares in which both are equal are added up.
    rows, seen
        Rows so far, and which features any of them brought, shape (features,).
    binned, missing
        Counts of all rows by bin, flat, and those without a value, shape (features,).
    window
        None if it is no longer the reference in force.
    streams
        By signal: rows so far, and the sum of their distances from the reference's mean.
    latest
        Largest timestamp seen, -inf without one.
    """

    version: str
    hash: str
    rows: int
    seen: Flags
    binned: Counts
    missing: Counts
    window: State | None
    streams: dict[str, tuple[int, float]] = field(default_factory=dict)
    latest: float = -np.inf


@dataclass
class Share:
    """Everything that one worker, or all that are dead together, have counted.

    Attributes
    ----------
    name
        Of the worker.
    alive
        False: what is of a living process only does not count.
    keys, values
        The series and what else is counted or read, and their cells laid end to end in that order, float64. The same
        keys are the same object.
    models
        By model: the epochs that can be asked for.
    """

    name: str
    alive: bool
    keys: tuple[Key, ...]
    values: Floats
    models: dict[str, list[EpochShare]]


class Joiner:
    """Lays series and samples together, so that both are added up in one way.

    Notes
    -----
    Threads: one at a time. Processes: each has its own.

    >>> joiner = Joiner()
    >>> keys, values = joiner.join((), np.empty(0), [Sample("model_workers", (), 1)])
    >>> keys, values.tolist()
    ((('model_workers', (), None),), [1.0])
    """

    def __init__(self) -> None:
        self._last: tuple[object, tuple[Key, ...]] = (None, ())

    def join(self, keys: tuple[Key, ...], values: Floats, samples: Iterable[Sample]) -> tuple[tuple[Key, ...], Floats]:
        """Keys and values of both, new; samples that say nothing are left out. The same keys are the same tuple."""
        known = [sample for sample in samples if math.isfinite(sample.value)]
        wanted = (keys, [sample[:2] for sample in known])
        if self._last[0] != wanted:
            self._last = wanted, (*keys, *((metric, labels, None) for metric, labels in wanted[1]))
        return self._last[1], np.concatenate([values, [float(sample.value) for sample in known]])


def totals_of(shares: Iterable[EpochShare]) -> tuple[Counts, Counts]:
    """Sums of `binned` and of `missing`, new; of at least one share."""
    found = list(shares)
    binned: Counts = np.sum([share.binned for share in found], axis=0)
    missing: Counts = np.sum([share.missing for share in found], axis=0)
    return binned, missing
