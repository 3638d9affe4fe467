"""Streams, and what a detector says to them: functions, as fixtures, for the test files of this directory."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest


def _steps(seed: int = 0, levels: Iterable[float] = (1, 4, 1, -2), each: int = 600) -> list[float]:
    """Gaussian noise of one standard deviation around one level after the other."""
    rng = np.random.default_rng(seed)
    return [x for level in levels for x in rng.normal(level, 1, each).tolist()]


def _alarm_rows(detector: Any, stream: Iterable[float]) -> list[int]:
    """The rows of the stream at which the detector alarmed."""
    rows = []
    for row, x in enumerate(stream):
        detector.update(x)
        if detector.drift_detected:
            rows.append(row)
    return rows


def _oracle_stream(seed: int) -> list[float]:
    """Gaussian steps, a ramp, a changing error rate or heavy tails, in turn."""
    rng, n = np.random.default_rng(seed), 2000
    if seed % 4 == 0:
        stream = rng.normal(0, 1, n) + np.repeat(rng.normal(0, 2, 5), n // 5)
    elif seed % 4 == 1:
        stream = rng.normal(0, 1, n) + np.linspace(0, rng.choice([-4, 4]), n)
    elif seed % 4 == 2:
        stream = (rng.random(n) < np.repeat(rng.uniform(0.02, 0.5, 4), n // 4)).astype(float)
    else:
        stream = rng.standard_t(2, n) + np.repeat([0, 1.5, -1, 0.5], n // 4)
    return stream.tolist()


@pytest.fixture
def steps() -> Callable[..., list[float]]:
    """Makes a stream of steps."""
    return _steps


@pytest.fixture
def alarm_rows() -> Callable[..., list[int]]:
    """Feeds a detector with a stream, and tells at which rows it alarmed."""
    return _alarm_rows


@pytest.fixture
def oracle_stream() -> Callable[..., list[float]]:
    """Makes the streams on which river is the oracle."""
    return _oracle_stream
