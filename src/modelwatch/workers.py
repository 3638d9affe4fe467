"""The workers of one service: each publishes what it has counted, anyone reads what all have.

::

    <pid>-<nonce>.alive      FIFO: its worker lives as long as somebody reads it; a byte asks it to publish now
    <pid>-<nonce>.counts     what it has published last: written under another name, then renamed
    past.counts              what the dead have counted, folded together by the elected worker
    elected.lock             held by the elected worker

One writer for each file, no lock on the way of a request, nothing mapped: a full disk, a file that somebody damages or
cuts short, and SIGKILL at any point cost at most what has not been published yet.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from typing import NamedTuple

from .container import Container
from .exceptions import SegmentError
from .lodging import ALIVE, answers, lodge, names
from .segments import Segments
from .shares import Share

COUNTS = ".counts"
PAST = "past"
SKIPPED = ("damaged", "foreign", "layout", "unreadable")
"""Why a file cannot be used; values of the label `reason`."""
_POLL_SECONDS = 0.0005
_MOST_TRIES = 5
_MOST_KNOWN = 1000


class Published(NamedTuple):
    """What one worker, or all dead together, have published: open until it is closed."""

    name: str
    alive: bool
    file: Container


@dataclass
class Workers:
    """One worker among the others.

    Parameters
    ----------
    home
        Directory of the app; nobody else's.
    name
        Of this worker.
    bell
        Descriptor of its FIFO: readable when somebody asks it to publish.

    Attributes
    ----------
    skipped
        Files that could not be used, by reason; each is counted once, as long as it stays as it is.

    Notes
    -----
    Threads: any number. Processes: each has its own; a child forked from this one must call `leave`.
    """

    home: Path
    name: str
    bell: int
    skipped: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SKIPPED, 0))
    _writes: Iterator[int] = field(default_factory=count)
    _reading: threading.RLock = field(default_factory=threading.RLock)  # a signal handler may read as well
    _locks: dict[str, int] = field(default_factory=dict)
    _known_bad: dict[Path, tuple[int, int]] = field(default_factory=dict)
    _silent: dict[str, int] = field(default_factory=dict)

    @classmethod
    def join(cls, base: str | None, service: str, app: str) -> Workers:
        """Become one of them.

        Raises
        ------
        OSError
            No directory can be used.
        """
        home = lodge(base, service, app)
        name = f"{os.getpid()}-{secrets.token_hex(6)}"
        hidden = home / f".{name}"
        os.mkfifo(hidden, 0o600)
        bell = -1
        try:
            # For both: as a reader alone it would see an end whenever nobody asks.
            bell = os.open(hidden, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            os.rename(hidden, home / f"{name}{ALIVE}")
        except OSError:
            if bell >= 0:
                os.close(bell)
            with suppress(OSError):
                os.unlink(hidden)
            raise
        return cls(home, name, bell)

    def leave(self) -> None:
        """Give up the descriptors. In a child, too: what they hold is the parent's, and ends with the parent alone."""
        for descriptor in (self.bell, *self._locks.values()):
            with suppress(OSError):
                os.close(descriptor)  # never unlocked, which would take the lock from the parent
        self.bell = -1
        self._locks.clear()

    def rung(self) -> None:
        """Empty the FIFO: whoever asks from now on wants another publication."""
        with suppress(OSError):
            os.read(self.bell, 65536)

    def publish(self, parts: Sequence[bytes]) -> None:
        """Put the parts of a file in the place of what this worker has published before.

        Raises
        ------
        OSError
            There is no room, or the directory is gone: what was published before is still there, if that is.
        """
        if not os.path.lexists(self.home / f"{self.name}{ALIVE}"):
            raise FileNotFoundError(2, "somebody has removed what shows that this worker lives", str(self.home))
        self.write(f"{self.name}{COUNTS}", parts)

    def write(self, name: str, parts: Sequence[bytes]) -> None:
        """Write a file of the directory, whole or not at all.

        Raises
        ------
        OSError
            It cannot be written.
        """
        hidden = self.home / f".{self.name}-{next(self._writes)}-{name}"
        try:
            descriptor = os.open(hidden, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            with open(descriptor, "wb", buffering=0) as file:
                for part in parts:
                    view = memoryview(part)
                    while view:
                        view = view[file.write(view) or 0 :]
            os.rename(hidden, self.home / name)
        except OSError:
            with suppress(OSError):
                os.unlink(hidden)
            raise

    def lock(self, what: str) -> bool:
        """Whether this worker is the one that holds `<what>.lock`: from now on until it dies, if nobody else does."""
        if what in self._locks:
            return True
        try:
            descriptor = os.open(
                self.home / f"{what}.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, 0o600
            )
        except OSError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            return False
        self._locks[what] = descriptor
        return True

    def others(self, patience: float = 0.0) -> list[Published]:
        """What the others have published, sorted by name, the dead too.

        Parameters
        ----------
        patience
            Seconds that the living may take to publish anew, so that all is counted that had happened before the call.
            0 asks nobody.
        """
        asked = time.monotonic_ns()
        ringing = [name for name in names(self.home, ALIVE) if name != self.name]
        living = {name for name in ringing if answers(self.home / f"{name}{ALIVE}", ask=patience > 0)}
        if patience > 0:
            self._wait(living, asked, asked + int(patience * 1e9))
        found: list[Published] = []
        for _ in range(_MOST_TRIES):
            with self._reading:
                found, settled = self._read(living)
            if settled:
                break
        return found

    def _wait(self, living: set[str], asked: int, until: int) -> None:
        """Wait until all have published since `asked`; for who did not answer the last time, not again until it has."""
        waiting = dict.fromkeys(living, -1)
        while waiting:
            for name in list(waiting):
                began = self._began(name)
                if began >= asked or self._silent.get(name) == began:
                    del waiting[name]
                else:
                    waiting[name] = began
            if time.monotonic_ns() >= until:
                break
            if waiting:
                time.sleep(_POLL_SECONDS)
        self._silent = waiting | {name: began for name, began in self._silent.items() if self._began(name) == began}

    def _began(self, name: str) -> int:
        try:
            with Container(self.home / f"{name}{COUNTS}") as file:
                return int(file.body["began"])
        except (OSError, LookupError, OverflowError, TypeError, ValueError):
            return -1

    def _read(self, living: Collection[str], *, dead_only: bool = False) -> tuple[list[Published], bool]:
        """What is there; False if the dead were folded meanwhile, so that some may be missing, or be there twice."""
        past = self.home / f"{PAST}{COUNTS}"
        before = _identity(past)
        found: list[Published] = []
        folded: set[str] = set()
        first = self._open(PAST, alive=False, strict=dead_only)
        if first is not None:
            found.append(first)
            folded = _folded(first)
        for name in names(self.home, COUNTS):
            if name not in {PAST, self.name} and name not in folded and not (dead_only and name in living):
                # Asked once more: it may have joined only now, and nobody may fold what a living worker has counted.
                alive = name in living or answers(self.home / f"{name}{ALIVE}")
                one = self._open(name, alive=alive, strict=dead_only)
                if one is not None:
                    found.append(one)
        return found, _identity(past) == before

    def _open(self, name: str, *, alive: bool, strict: bool) -> Published | None:
        path = self.home / f"{name}{COUNTS}"
        try:
            found = Published(name, alive, Container(path))
            if name == PAST:
                _folded(found)
            return found
        except FileNotFoundError:
            return None
        except OSError as error:
            if strict:  # whoever folds must not go on without it
                raise
            self.skip(path, SegmentError(f"it cannot be read now: {error.strerror}", "unreadable"))
            return None
        except SegmentError as error:
            self.skip(path, error)
            return None

    def unpacked(self, segments: Segments, one: Published) -> Share | None:
        """What is in a file; None if it cannot be used, which is counted."""
        path = self.home / f"{one.name}{COUNTS}"
        try:
            return segments.unpack(one.file, one.name, alive=one.alive, bad=partial(self.skip, path))
        except SegmentError as error:
            self.skip(path, error)
            return None

    def skip(self, path: Path, error: SegmentError) -> None:
        """Count a file that cannot be used."""
        seen = _identity(path)
        if self._known_bad.get(path) != seen:
            if len(self._known_bad) >= _MOST_KNOWN:
                self._known_bad.clear()
            self._known_bad[path] = seen
            self.skipped[error.reason] = self.skipped.get(error.reason, 0) + 1

    def fold(self, together: Callable[[Sequence[Published], Sequence[str]], list[bytes] | None]) -> None:
        """Put what the dead have published into one file, and remove theirs. Only for the elected worker.

        Parameters
        ----------
        together
            Makes the parts of that file of those of the dead, the past first, to which it gives the names of those that
            are within; None if none is that was not before.

        Raises
        ------
        OSError
            It cannot be written: all stays as it is.
        """
        living = {name for name in names(self.home, ALIVE) if answers(self.home / f"{name}{ALIVE}")}
        with self._reading:
            found, _ = self._read(living, dead_only=True)
        dead = [one for one in found if not one.alive]
        # Of an earlier time, whose files are still there: whoever folded them was broken off.
        left = sorted(
            name
            for name in (_folded(dead[0]) if dead and dead[0].name == PAST else ())
            if os.path.lexists(self.home / f"{name}{COUNTS}")
        )
        if any(one.name != PAST for one in dead):
            parts = together(dead, left)
            if parts is not None:
                self.write(f"{PAST}{COUNTS}", parts)
        self._remove([*left, *(one.name for one in dead if one.name != PAST)])
        self._sweep(living)

    def _remove(self, dead: Sequence[str]) -> None:
        for name in dead:
            for suffix in (COUNTS, ALIVE):
                with suppress(OSError):
                    os.unlink(self.home / f"{name}{suffix}")

    def _sweep(self, living: set[str]) -> None:
        """Remove what a worker has left that died before it published, or while it wrote."""
        there = set(names(self.home, COUNTS))
        for name in names(self.home, ALIVE):
            # Asked once more: it may have joined only now, and has nothing to publish yet.
            if name not in living and name not in there and not answers(self.home / f"{name}{ALIVE}"):
                self._remove([name])
        for entry in os.listdir(self.home):
            owner = entry[1:].split(".")[0]
            if entry.startswith(".") and not any(owner.startswith(name) for name in living):
                with suppress(OSError):
                    if time.time() - os.lstat(self.home / entry).st_mtime > 10.0:  # it may be about to join
                        os.unlink(self.home / entry)


def _folded(past: Published) -> set[str]:
    """Names of the workers whose shares are in the past.

    Raises
    ------
    SegmentError
        It does not say.
    """
    try:
        return set(map(str, past.file.body["folded"]))
    except (LookupError, TypeError) as error:
        raise SegmentError("it does not say whose counts it has") from error


def _identity(path: Path) -> tuple[int, int]:
    try:
        found = os.lstat(path)
    except OSError:
        return (0, 0)
    return found.st_ino, found.st_mtime_ns
