"""Control groups of Linux, versions 1 and 2: what this process may use, and what it does.

Limits hold for a whole branch, so the one in force is the smallest from the process's own group up to the root.
What the file system does not show or what cannot be read is no limit, and no number.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_LONGEST = 65_536  # bytes; the kernel's files here have less than 8 KiB


class Branch(NamedTuple):
    """Where one controller (cpu, memory) has this process: its group first, then its parents up to the root."""

    version: int
    groups: tuple[Path, ...]


class Quota(NamedTuple):
    """Processors that a branch may use at a time (`inf`: no limit), and the group that says so."""

    cores: float
    group: Path


def find_branch(controller: str, proc: Path, root: Path) -> Branch | None:
    """The branch of a controller, None if there is none to be seen.

    Parameters
    ----------
    controller
        "cpu" or "memory".
    proc, root
        Usually /proc and /sys/fs/cgroup.

    Notes
    -----
    A kernel gives each controller to one of the two versions. A hybrid machine mounts both, and lists the controllers
    of version 1 with their own path.
    """
    unified = None
    for line in _text(proc / "self" / "cgroup").splitlines():
        number, _, rest = line.partition(":")
        names, _, path = rest.partition(":")
        if controller in names.split(","):
            # "cpu" alone is usually a link to the directory "cpu,cpuacct", but who mounts by hand may leave it out.
            for name in (names, controller):
                if groups := _visible(root / name, path):
                    return Branch(1, groups)
        elif number == "0" and not names:
            unified = path
    if unified is not None:
        mount = root if (root / "cgroup.controllers").exists() else root / "unified"
        if groups := _visible(mount, unified):
            return Branch(2, groups)
    return None


def cpu_quota(branch: Branch) -> Quota:
    """The tightest quota of a branch of the cpu controller."""
    quotas = [Quota(_cores(branch.version, group), group) for group in branch.groups]
    return min(quotas, key=lambda quota: quota.cores)


def throttled_seconds(branch: Branch, group: Path) -> float:
    """For how long a group's tasks had to wait for its next period, summed over processors; NaN if unknown."""
    name, per_second = ("throttled_usec", 1e6) if branch.version == 2 else ("throttled_time", 1e9)
    return _table(group / "cpu.stat").get(name, math.nan) / per_second


def memory_limit(branch: Branch) -> float:
    """The smallest limit of a branch of the memory controller, in bytes; `inf` without one.

    The largest page count of version 1 (9223372036854771712 bytes with pages of 4 KiB) comes as it is: a caller knows
    how much memory the machine has.
    """
    name = "memory.max" if branch.version == 2 else "memory.limit_in_bytes"
    limits = [_number(_text(group / name)) for group in branch.groups]
    if branch.version == 1:
        # It also knows the parents that a container does not see.
        limits.append(_table(branch.groups[0] / "memory.stat").get("hierarchical_memory_limit", math.nan))
    return min((limit for limit in limits if limit > 0), default=math.inf)


def working_set(branch: Branch) -> float:
    """Bytes of the process's own group that cannot be dropped under pressure; NaN if unknown.

    As the kubelet counts it: what is used, less the file cache that nobody has touched lately.
    """
    group = branch.groups[0]
    usage, inactive = "memory.usage_in_bytes", "total_inactive_file"
    if branch.version == 2:
        usage, inactive = "memory.current", "inactive_file"
    used = _number(_text(group / usage)) - _table(group / "memory.stat").get(inactive, math.nan)
    return used if math.isnan(used) else max(0.0, used)


def _visible(mount: Path, path: str) -> tuple[Path, ...]:
    """The directories from `path` up to `mount`; empty if not even the mount is there.

    Without a namespace of its own a container reads the host's path (/docker/abc/inner) while its mount begins
    somewhere on it (at abc): so leading parts are left out until the rest exists. A path with ".." lies above all that
    can be seen.
    """
    parts = [part for part in path.split("/") if part]
    if ".." in parts:
        parts = []
    for first in range(len(parts) + 1):
        below = parts[first:]
        if mount.joinpath(*below).is_dir():
            return tuple(mount.joinpath(*below[:depth]) for depth in range(len(below), -1, -1))
    return ()


def _cores(version: int, group: Path) -> float:
    if version == 2:
        quota, _, period = _text(group / "cpu.max").partition(" ")
    else:
        quota, period = _text(group / "cpu.cfs_quota_us"), _text(group / "cpu.cfs_period_us")
    numbers = _number(quota), _number(period)
    return numbers[0] / numbers[1] if min(numbers) > 0 and not math.isnan(sum(numbers)) else math.inf


def _table(path: Path) -> dict[str, float]:
    return dict(_pairs(_text(path)))


def _pairs(text: str) -> Iterator[tuple[str, float]]:
    for line in text.splitlines():
        name, _, value = line.partition(" ")
        yield name, _number(value)


def _number(text: str) -> float:
    """A finite number; NaN for "max", for nothing and for what is damaged."""
    try:
        number = float(text)
    except ValueError:
        return math.nan
    return number if math.isfinite(number) else math.nan


def _text(path: Path) -> str:
    """The content of a small file, empty if it cannot be read."""
    try:
        with open(path, "rb", buffering=0) as file:
            return os.fsdecode(file.read(_LONGEST) or b"").strip()
    except (OSError, ValueError):
        return ""
