"""From integers to metric families: one table of names, one file per layer.

::

    catalogue.py   CATALOGUE: every metric's name, type, labels, help, merge mode
    service.py  model.py  drift.py  infra.py  gpu.py     what is read, one layer a file
    families.py    Sample, Source, Collected: what is read becomes families; switches, buckets, constant labels
    registry.py    Registry, render: collectors become text, and one that fails or hangs costs only its own
    foreign.py  text.py  pace.py     users' collectors, asked for a bounded time; the text formats; pauses between
"""

from __future__ import annotations

from ..series import Sample
from .catalogue import CATALOGUE, LAYERS, UNITS, Entry
from .families import Collected, Source, bounds_of, check_settings, enabled
from .registry import Registry, render

__all__ = [
    "CATALOGUE",
    "LAYERS",
    "UNITS",
    "Collected",
    "Entry",
    "Registry",
    "Sample",
    "Source",
    "bounds_of",
    "check_settings",
    "enabled",
    "render",
]
