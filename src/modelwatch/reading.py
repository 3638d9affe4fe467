"""What a scrape or a report begins with: the epoch, and what all workers have counted against it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ._types import Counts, Flags
from .epoch import Epoch
from .epochs import Epochs
from .shares import EpochShare, totals_of
from .window import Content


@dataclass(frozen=True)
class Totals:
    """What was counted against one reference, for one version of the model.

    Attributes
    ----------
    epoch
        This worker's own.
    binned, missing
        Counts of all rows by bin, flat, and those without a value, shape (features,).
    """

    epoch: Epoch
    binned: Counts
    missing: Counts


@dataclass(frozen=True)
class Reading:
    """One look at the window.

    Attributes
    ----------
    epoch
        The reference in force.
    content
        What is in the window.
    rows, seen
        Rows so far, and which features any of them brought, shape (features,).
    totals
        Of the reference in force, and of the one before it if there was one.
    """

    epoch: Epoch
    content: Content
    rows: int
    seen: Flags
    totals: Sequence[Totals]

    @property
    def captured(self) -> Flags:
        """False for a feature that none of the first `min_rows` rows brought, shape (features,)."""
        return self.seen | (self.rows < self.epoch.min_rows)


def read(epochs: Epochs, others: Sequence[EpochShare], now: float) -> Reading | None:
    """Read the window at `now`, with what other workers have counted; None without a reference."""
    epoch = epochs.current
    if epoch is None:
        return None
    fitting = [share for share in others if epoch.fits(share)]
    shares = [epoch.share(), *fitting]
    totals = [Totals(epoch, *totals_of(shares))]
    if epochs.previous is not None:
        old = epochs.previous
        totals.append(Totals(old, *totals_of([old.share(), *(s for s in others if old.fits(s))])))
    return Reading(
        epoch,
        epoch.content(now, fitting),
        sum(share.rows for share in shares),
        np.any([share.seen for share in shares], axis=0),
        totals,
    )
