"""The types that several rooms share: arrays of counts and of numbers, and what tells the time."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

import numpy as np
import numpy.typing as npt

Counts = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
Clock = Callable[[], float]


class Absent(Enum):
    """The one value that stands where a row has no such key: missing, and a hint that it may never come."""

    ABSENT = "absent"


ABSENT = Absent.ABSENT
