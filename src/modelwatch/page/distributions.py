"""One feature's distribution: reference and window in the same bins, with what an axis would say beside each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..cells import Cells, NumericCells
from ..reading import Reading
from ..series import clean
from .figures import rounded, shares

_DIGITS = 15  # that a float keeps: a time in milliseconds has 13
MOST_BINS = 60
"""A feature may have a thousand categories; so many are shown, the rest as one."""


class Distributions:
    """The bins of all features at one look.

    Parameters
    ----------
    reading
        What a report was made of. Not modified.

    Notes
    -----
    Threads: one. Processes: each makes its own.
    """

    def __init__(self, reading: Reading) -> None:
        profile = reading.epoch.profile
        self._cells = profile.layout.cells
        self._starts = profile.layout.bins.starts.tolist()
        self._own = profile.binned.tolist()
        self._window = profile.layout.binned(reading.content.counts).tolist()

    def of(self, i: int, *, known: bool) -> dict[str, Any]:
        """The bins of feature `i`: what they hold, and of reference and window the shares, None where nothing is known.

        Parameters
        ----------
        known
            Whether there are rows enough to say something of the window.
        """
        cells, start = self._cells[i], self._starts[i]
        end = start + len(cells.bins)
        own, window = self._own[start:end], self._window[start:end]
        shown = {
            "reference": shares(own) if sum(own) else None,
            "window": shares(window) if known and sum(window) else None,
        }
        kind, at = _axis(cells)
        if len(cells.bins) <= MOST_BINS:
            return {"kind": kind, "at": at, **shown}
        return {"kind": kind, **_shortened(at, shown)}


def _axis(cells: Cells) -> tuple[str, list[Any]]:
    """How the bins are told apart: by "edges" (one less), by "values" (one less, then `_other`), or by "names"."""
    if not isinstance(cells, NumericCells):
        return "names", [clean(name) for name in cells.bins]
    if cells.edges is not None:
        return "edges", [rounded(edge, _DIGITS) for edge in cells.edges.tolist()]
    return "values", [rounded(value, _DIGITS) for value in cells.bounds[:-1].tolist()]


def _shortened(names: list[str], shown: dict[str, list[float] | None]) -> dict[str, Any]:
    """The commonest bins in their order, with `_rare` and `_other`, which come last; the others added up."""
    weights = [max(pair) for pair in zip(*(_or_zeros(part, len(names)) for part in shown.values()), strict=True)]
    last = len(names) - 2
    kept = [*sorted(sorted(range(last), key=lambda i: -weights[i])[: MOST_BINS - 3]), last, last + 1]
    rest = sorted(set(range(last)) - set(kept))
    more: dict[str, Any] = {"bins": len(rest)}
    found: dict[str, Any] = {"at": [names[i] for i in kept], "more": more}
    for side, part in shown.items():
        found[side] = None if part is None else [part[i] for i in kept]
        more[side] = None if part is None else rounded(sum(part[i] for i in rest))
    return found


def _or_zeros(part: list[float] | None, size: int) -> Sequence[float]:
    return [0.0] * size if part is None else part
