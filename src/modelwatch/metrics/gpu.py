"""NVIDIA GPUs through NVML (extra `gpu`). Without the package, driver or permission: no metric, and no error."""

from __future__ import annotations

import logging
import math
import os
import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from .._types import Clock
from ..series import Sample
from .rising import Rising

_LOG = logging.getLogger("modelwatch")

_CACHE_SECONDS = 1.0  # some calls take milliseconds
_RETRY_SECONDS = 60.0
_FIRST_PID_NAMESPACE = "pid:[4026531836]"  # PROC_PID_INIT_INO, part of the kernel's interface


class Device(NamedTuple):
    """A GPU, or a MIG slice of one. `handle` is NVML's, None if NVML does not give it."""

    gpu_id: str
    uuid: str
    handle: Any


class GpuSource:
    """Reads the GPUs that this process may use: a source for `Collected`. What cannot be read is absent.

    The label `gpu_id` is NVML's index as text (that of `nvidia-smi`); a MIG slice has that of its GPU, a colon and its
    own ("0:2"). CUDA_VISIBLE_DEVICES is understood as CUDA does it with CUDA_DEVICE_ORDER=PCI_BUS_ID, which is also
    NVML's order.

    Parameters
    ----------
    nvml
        The module `pynvml`, or what looks like it; default: imported at the first call.
    environ, proc
        Where CUDA_VISIBLE_DEVICES and the namespace of process ids are looked up.
    clock
        Seconds, rising; any origin. Readings are kept for one of them; without a driver, the next look is after sixty.

    Notes
    -----
    Memory in use is the device's, that of the process is what NVML lists under its process id. NVML lists the host's
    ids: in a container with ids of its own the process is not looked for, rather than taken for another one.

    Threads: any number. Processes: a forked child starts anew.
    """

    def __init__(
        self,
        *,
        nvml: Any = None,
        environ: Mapping[str, str] | None = None,
        proc: Path = Path("/proc"),
        clock: Clock = time.monotonic,
    ) -> None:
        self._nvml, self._clock, self._proc = nvml, clock, proc
        self._environ: Mapping[str, str] = os.environ if environ is None else environ
        self._said = False
        self._state = _State()

    def __call__(self) -> list[Sample]:
        """The readings of all visible devices, at most a second old."""
        if self._state.pid != os.getpid():
            self._state = _State()  # with a lock of its own: the parent's may have been held at the fork
        state = self._state
        with state.lock:
            now = self._clock()
            if now >= state.until and not state.busy:  # else a signal handler has come in the middle of it
                state.busy = True
                try:
                    state.samples = self._read(state)
                finally:
                    state.busy = False
                state.until = now + (_CACHE_SECONDS if state.nvml is not None else _RETRY_SECONDS)
            return list(state.samples)

    def _read(self, state: _State) -> list[Sample]:
        if state.nvml is None:
            self._connect(state)
        samples = [
            sample
            for device in state.devices
            for sample in _samples(_Asked(state.nvml, device), state.energy, state.known_pid)
        ]
        if state.devices and not samples:
            state.nvml = None  # a driver that was reloaded knows nothing of us; start anew, later
        return samples

    def _connect(self, state: _State) -> None:
        state.devices = []
        try:
            nvml = self._nvml or _pynvml()
        except (ImportError, OSError):
            self._say("the package nvidia-ml-py is not installed; if there is a GPU, install modelwatch[gpu]")
            return
        try:
            nvml.nvmlInit()
            state.devices = visible(self._environ.get("CUDA_VISIBLE_DEVICES"), *_found(nvml))
        except _errors(nvml) as error:
            self._say(f"NVML answers: {error}")
            return
        state.nvml = nvml
        state.known_pid = state.pid if self._pids_are_the_hosts() else None

    def _pids_are_the_hosts(self) -> bool:
        try:
            return os.readlink(self._proc / "self" / "ns" / "pid") == _FIRST_PID_NAMESPACE
        except OSError:
            return False

    def _say(self, why: str) -> None:
        if not self._said:
            self._said = True
            _LOG.info("No GPU metrics: %s", why)


class _State:
    """What one process remembers between two readings."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.lock = threading.RLock()
        self.busy = False
        self.nvml: Any = None
        self.devices: list[Device] = []
        self.known_pid: int | None = None
        self.energy: dict[str, Rising] = {}
        self.samples: list[Sample] = []
        self.until = -math.inf


class _Asked:
    """One device, asked by the name of an NVML function; None is every answer that is none."""

    def __init__(self, nvml: Any, device: Device) -> None:
        self.nvml, self.device, self._errors = nvml, device, _errors(nvml)

    def __call__(self, function: str, *arguments: Any) -> Any:
        try:
            return getattr(self.nvml, function)(self.device.handle, *arguments)
        except self._errors:
            return None


def _pynvml() -> Any:
    import pynvml

    return pynvml


def visible(chosen: str | None, cards: Sequence[Device], slices: Sequence[Device]) -> list[Device]:
    """The devices that CUDA_VISIBLE_DEVICES leaves to a process.

    Parameters
    ----------
    chosen
        The variable: indexes, UUIDs or unique beginnings of them (GPU-…, MIG-…), with commas between. None if it is
        not set: all cards.
    cards, slices
        All GPUs, by index, and all MIG slices.

    Notes
    -----
    As in CUDA, the first entry that names no device ("-1", an index too large) ends the list, and one that names a
    device twice empties it.

    >>> cards = [Device("0", "GPU-aa", None), Device("1", "GPU-bb", None)]
    >>> [device.gpu_id for device in visible("GPU-b,0,-1", cards, [])]
    ['1', '0']
    """
    if chosen is None:
        return list(cards)
    found: list[Device] = []
    for entry in chosen.split(","):
        device = _named(entry.strip(), cards, slices)
        if device is None:
            break
        if device in found:
            return []
        found.append(device)
    return found


def _named(entry: str, cards: Sequence[Device], slices: Sequence[Device]) -> Device | None:
    if number := re.match(r"[0-9]{1,9}", entry):  # "1st" is 1 to CUDA
        index = int(number.group())
        return cards[index] if index < len(cards) else None
    if not entry.startswith(("GPU-", "MIG-")):
        return None
    matches = [device for device in (*cards, *slices) if device.uuid.startswith(entry)]
    return matches[0] if len(matches) == 1 else None


def _found(nvml: Any) -> tuple[list[Device], list[Device]]:
    """All cards, those that fail too (they keep their index), and all places for a MIG slice."""
    cards, slices = [], []
    for index in range(nvml.nvmlDeviceGetCount()):
        card = _device(nvml, str(index), nvml.nvmlDeviceGetHandleByIndex, index)
        cards.append(card)
        most = _Asked(nvml, card)("nvmlDeviceGetMaxMigDeviceCount") or 0
        for number in range(most):  # those that are empty have no UUID, so that nothing names them
            get = nvml.nvmlDeviceGetMigDeviceHandleByIndex
            slices.append(_device(nvml, f"{index}:{number}", get, card.handle, number))
    return cards, slices


def _device(nvml: Any, gpu_id: str, get: Any, *arguments: Any) -> Device:
    try:
        handle = get(*arguments)
    except _errors(nvml):
        return Device(gpu_id, "", None)
    return Device(gpu_id, _Asked(nvml, Device(gpu_id, "", handle))("nvmlDeviceGetUUID") or "", handle)


def _samples(ask: _Asked, energies: dict[str, Rising], pid: int | None) -> Iterator[Sample]:
    """All readings of one device. Each call fails alone."""
    if ask.device.handle is None:
        return
    labels = (ask.device.gpu_id,)
    if (memory := ask("nvmlDeviceGetMemoryInfo")) is not None:
        yield Sample("model_gpu_memory_bytes", labels, memory.used)
        yield Sample("model_gpu_memory_limit_bytes", labels, memory.total)
    if pid is not None:
        rows = ask("nvmlDeviceGetComputeRunningProcesses") or ()
        own = [row.usedGpuMemory for row in rows if row.pid == pid and row.usedGpuMemory is not None]
        if own:
            yield Sample("model_gpu_process_memory_bytes", labels, sum(own))
    if (rates := ask("nvmlDeviceGetUtilizationRates")) is not None:
        yield Sample("model_gpu_utilization_ratio", labels, rates.gpu / 100)
    if (celsius := ask("nvmlDeviceGetTemperature", 0)) is not None:  # NVML_TEMPERATURE_GPU
        yield Sample("model_gpu_temperature_celsius", labels, celsius)
    if (millijoules := ask("nvmlDeviceGetTotalEnergyConsumption")) is not None:
        rising = energies.setdefault(ask.device.gpu_id, Rising())
        yield Sample("model_gpu_energy_joules_total", labels, rising.add({"": millijoules / 1000}))


def _errors(nvml: Any) -> tuple[type[Exception], ...]:
    """NVML's own errors, and what a package and a driver of different ages raise."""
    return (getattr(nvml, "NVMLError", OSError), AttributeError, LookupError, OSError, TypeError, ValueError)
