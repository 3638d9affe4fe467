"""A made-up NVIDIA driver, for services that are to show GPUs where there are none: two that follow the load."""

from __future__ import annotations

import os
import random
import sys
from types import SimpleNamespace
from typing import Any

import modelwatch.metrics.gpu

_MEMORY = 24 * 2**30


class Driver:
    """Stands for the module `pynvml`."""

    class NVMLError(Exception):
        """The root of its errors."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._busy = [0.0, 0.0]
        self._heat = [41.0, 38.0]
        self._joules = [0.0, 0.0]

    def advance(self, load: float, lived: float, worked: float) -> None:
        """Let time go by.

        Parameters
        ----------
        load
            Between 0 and 1.
        lived, worked
            Seconds since the driver was started, by whatever process, and the sum of the load over them.
        """
        for device, share in enumerate((0.8, 0.45)):
            self._busy[device] = min(max(share * load + self._chance.gauss(0, 0.03), 0.0), 1.0)
            self._heat[device] += 0.15 * (40 + 35 * self._busy[device] - self._heat[device])
            self._joules[device] = 60 * lived + 220 * share * worked

    def nvmlInit(self) -> None:  # noqa: N802
        """As of NVML; the others too."""

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return len(self._busy)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        return index

    def nvmlDeviceGetUUID(self, handle: int) -> str:  # noqa: N802
        return f"GPU-{handle}"

    def nvmlDeviceGetMaxMigDeviceCount(self, handle: int) -> int:  # noqa: N802
        return 0

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Any:  # noqa: N802
        return SimpleNamespace(used=int(_MEMORY * (0.3 + 0.25 * self._busy[handle])), total=_MEMORY)

    def nvmlDeviceGetComputeRunningProcesses(self, handle: int) -> list[Any]:  # noqa: N802
        return [SimpleNamespace(pid=os.getpid(), usedGpuMemory=int(_MEMORY * 0.25))]

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> Any:  # noqa: N802
        return SimpleNamespace(gpu=round(100 * self._busy[handle]), memory=20)

    def nvmlDeviceGetTemperature(self, handle: int, sensor: int) -> int:  # noqa: N802
        return round(self._heat[handle])

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: int) -> int:  # noqa: N802
        return int(1000 * self._joules[handle])


def install(driver: Driver) -> None:
    """Have the library find it, and ask it at each scrape: a step of compressed time is much less than a second."""
    sys.modules["pynvml"] = driver  # type: ignore[assignment]
    modelwatch.metrics.gpu._CACHE_SECONDS = 0.0
