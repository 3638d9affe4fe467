"""The process and the machine: processor, memory, files, disk, network, and the limits of the container."""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

from .._types import Clock
from ..series import Sample
from .cgroups import Branch, cpu_quota, find_branch, memory_limit, throttled_seconds, working_set
from .rising import Rising

_LIMITS_SECONDS = 10.0

# What psutil and the system raise for what they may not or cannot read, or when a file of /proc is damaged (psutil
# asserts, and unpacks). A missing attribute is a function that psutil has on other systems only.
_UNREADABLE = (
    psutil.Error, OSError, ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError,
    ValueError,
)  # fmt: skip


class ProcessSource:
    """Reads this process and its container: a source for `Collected`. What cannot be read is absent.

    Parameters
    ----------
    proc, cgroups
        Where the control groups are looked up. All else is read through psutil and the system.
    clock
        Seconds, rising; any origin. Limits are read again after ten of them.

    Notes
    -----
    Network bytes are those of all interfaces of the process's network namespace but the loopback: within a container
    its own traffic, with host networking the machine's, bridges and virtual interfaces included. Disk bytes are what
    the process caused to be read from and written to storage. The working set and the throttled time are those of
    the control group that the process lives in, and of the one whose quota binds it.

    Threads: any number. Processes: a forked child starts anew.

    >>> {sample.metric: sample.value for sample in ProcessSource()()}["model_process_threads"] >= 1
    True
    """

    def __init__(
        self, *, proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup"), clock: Clock = time.monotonic
    ) -> None:
        self._proc, self._cgroups, self._clock = proc, cgroups, clock
        self._readings = self._anew()

    def _anew(self) -> _Readings:
        return _Readings(self._proc, self._cgroups, self._clock)

    def __call__(self) -> list[Sample]:
        """One reading of everything."""
        if self._readings.pid != os.getpid():
            self._readings = self._anew()  # with a lock of its own: the parent's may have been held at the fork
        readings = self._readings
        with readings.lock:
            if readings.busy:  # a signal handler or a finalizer has come in the middle of it, in the same thread
                return []
            readings.busy = True
            try:
                return list(readings.samples())
            finally:
                readings.busy = False


class _Readings:
    """What one process remembers between two readings."""

    def __init__(self, proc: Path, cgroups: Path, clock: Clock) -> None:
        self.pid = os.getpid()
        self.lock = threading.RLock()
        self.busy = False
        self._proc, self._cgroups, self._clock = proc, cgroups, clock
        self._received, self._sent, self._throttled = Rising(), Rising(), Rising()
        self._process: psutil.Process | None = None
        self._limits_until = -math.inf
        self._cpu: Branch | None = None
        self._memory: Branch | None = None
        self._cpu_group = cgroups
        self._limits: list[Sample] = []

    def samples(self) -> Iterator[Sample]:
        """Everything that can be read. Each group of numbers fails alone."""
        for read in (self._clocks, self._resident, self._files, self._threads, self._container, self._disk, self._net):
            yield from _readable(read)

    def _opened(self) -> psutil.Process:
        if self._process is None:
            self._process = psutil.Process(self.pid)
        return self._process

    def _clocks(self) -> Iterator[Sample]:
        yield Sample("model_process_cpu_seconds_total", (), time.process_time())  # finer than the ticks of psutil

    def _resident(self) -> Iterator[Sample]:
        yield Sample("model_process_resident_memory_bytes", (), self._opened().memory_info().rss)

    def _files(self) -> Iterator[Sample]:
        yield Sample("model_process_open_fds", (), self._opened().num_fds())

    def _threads(self) -> Iterator[Sample]:
        yield Sample("model_process_threads", (), self._opened().num_threads())

    def _disk(self) -> Iterator[Sample]:
        counters = self._opened().io_counters()
        yield Sample("model_disk_read_bytes_total", (), counters.read_bytes)
        yield Sample("model_disk_written_bytes_total", (), counters.write_bytes)

    def _net(self) -> Iterator[Sample]:
        # Without `nowrap`, which is one memory for the whole process: others who call psutil would share ours.
        counters = {
            name: counter
            for name, counter in psutil.net_io_counters(pernic=True, nowrap=False).items()
            if name not in {"lo", "lo0"}
        }
        received = self._received.add({name: counter.bytes_recv for name, counter in counters.items()})
        sent = self._sent.add({name: counter.bytes_sent for name, counter in counters.items()})
        yield Sample("model_network_receive_bytes_total", (), received)
        yield Sample("model_network_transmit_bytes_total", (), sent)

    def _container(self) -> Iterator[Sample]:
        now = self._clock()
        if now >= self._limits_until:
            self._read_limits()
            self._limits_until = now + _LIMITS_SECONDS
        yield from self._limits
        if self._memory is not None:
            yield from _known("model_container_memory_working_set_bytes", working_set(self._memory))
        if self._cpu is not None:
            throttled = throttled_seconds(self._cpu, self._cpu_group)
            if not math.isnan(throttled):
                total = self._throttled.add({str(self._cpu_group): throttled})
                yield Sample("model_container_cpu_throttled_seconds_total", (), total)

    def _read_limits(self) -> None:
        self._cpu = find_branch("cpu", self._proc, self._cgroups)
        self._memory = find_branch("memory", self._proc, self._cgroups)
        cores, limit = _processors(), _physical_memory()
        if self._cpu is not None:
            quota = cpu_quota(self._cpu)
            cores, self._cpu_group = min(cores, quota.cores), quota.group
        if self._memory is not None:
            limit = min(limit, memory_limit(self._memory))
        self._limits = [*_known("model_cpu_limit_cores", cores), *_known("model_memory_limit_bytes", limit)]


def _readable(read: Callable[[], Iterator[Sample]]) -> list[Sample]:
    try:
        return list(read())
    except _UNREADABLE:
        return []


def _known(metric: str, value: float) -> Iterator[Sample]:
    if math.isfinite(value):
        yield Sample(metric, (), value)


def _processors() -> float:
    """Processors that the process may run on; `inf` if the system does not say."""
    try:
        # Of the main thread: 0 would be the one that happens to render the scrape.
        return len(os.sched_getaffinity(os.getpid()))
    except (AttributeError, OSError):
        return os.cpu_count() or math.inf


def _physical_memory() -> float:
    """Bytes of memory that the machine has; `inf` if the system does not say."""
    try:
        pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return math.inf
    return float(pages) * size if pages > 0 and size > 0 else math.inf
