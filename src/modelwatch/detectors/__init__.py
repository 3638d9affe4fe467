"""Change detectors: one value in, one question out: has the stream changed?

::

    stream ── update(x) ─┬─ PageHinkley            a sum that leaves its extreme: standardised signals
                         ├─ ADWIN                  a window cut where its halves differ: errors, in [0, 1]
                         └─ SlidingWindowDetector  a window against a reference that never moves: accuracy
                                    └── drift_detected, to_state ── from_state

Order matters to a detector, so two of them can never be added up. All three skip and count what is no usable number,
and alarm once, at the update that found the change.
"""

from __future__ import annotations

from .adwin import ADWIN
from .base import Detector
from .page_hinkley import PageHinkley
from .sliding_window import SlidingWindowDetector

__all__ = ["ADWIN", "Detector", "PageHinkley", "SlidingWindowDetector"]
