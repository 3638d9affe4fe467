"""Whose worker this process is, and the directory that all workers of one service, and nobody else, share.

::

    <base>/modelwatch-<uid>/               0700, the user's own
        <parent>-<its start>-<host>/       one service: what was started by one process
            <app>/                         one app of it

All servers start their workers from one process, so no configuration is needed. That a process is a worker at all is
known from `multiprocessing`, which uvicorn, hypercorn and granian use, or from what gunicorn puts into the environment;
the parent alone would merge services that one shell or supervisor has started.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_MEMORY = Path("/dev/shm")  # noqa: S108 - what is put there is in a directory of the user's own, and checked
_ABANDONED_SECONDS = 3600.0
ALIVE = ".alive"
"""How the FIFO of a worker is named: somebody reads it as long as it lives."""


def service_key() -> str | None:
    """What the workers of one service have in common, and no others; None in a process that is no worker."""
    parent = multiprocessing.parent_process()
    if parent is not None and parent.pid is not None:
        pid = parent.pid
    elif os.environ.get("SERVER_SOFTWARE", "").startswith("gunicorn/"):
        pid = os.getppid()
    else:
        return None
    return f"{pid}-{started(pid) or 0}-{_host()}"


def started(pid: int) -> int | None:
    """When a process was started, in ticks since the machine was: with it a pid means one process only. None: gone."""
    try:
        told = Path(f"/proc/{pid}/stat").read_bytes()
        return int(told[told.rindex(b")") + 2 :].split()[19])  # the name may hold blanks and parentheses
    except (OSError, ValueError, IndexError):
        return None


def _host() -> str:
    """Which machine, since when it runs, and which of its worlds of pids: containers have their own."""
    found = []
    with suppress(OSError):
        found.append(Path("/proc/sys/kernel/random/boot_id").read_text("ascii"))
    with suppress(OSError):
        found.append(str(os.stat("/proc/self/ns/pid").st_ino))
    return hashlib.blake2s("|".join(found).encode(), digest_size=6).hexdigest()


def lodge(base: str | None, service: str, app: str) -> Path:
    """Make the directory of an app of a service; in memory, else on disk, unless `base` says where.

    Raises
    ------
    OSError
        There is none that can be used; `strerror` says why.
    """
    problem: OSError | None = None
    for candidate in _bases(base):
        try:
            if base is not None:
                candidate.mkdir(parents=True, exist_ok=True)
            own = _private(candidate / f"modelwatch-{os.geteuid()}")
            home = _private(_private(own / service) / app)
        except OSError as error:
            problem = error
            continue
        with suppress(OSError):
            _clear(own, service)
        return home
    raise problem or OSError("no directory is known")


def _bases(base: str | None) -> Iterator[Path]:
    if base is not None:
        yield Path(base)
        return
    yield _MEMORY
    with suppress(OSError):  # where nothing can be written there is none
        yield Path(tempfile.gettempdir())


def _private(path: Path) -> Path:
    """A directory that nobody else can look into, made if it is not there.

    Raises
    ------
    PermissionError
        It is a link, another user's, or open to others: somebody else may have made it.
    """
    with suppress(FileExistsError):
        path.mkdir(mode=0o700)
    found = os.lstat(path)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise PermissionError(1, "it is no directory of this user alone (mode 0700)", str(path))
    return path


def _clear(own: Path, service: str) -> None:
    """Remove what services have left that are no more."""
    host = service.rpartition("-")[2]
    for path in own.iterdir():
        pid, _, rest = path.name.partition("-")
        since, _, where = rest.partition("-")
        if path.name == service or not (path.name.isascii() and pid.isdecimal() and since.isdecimal()):
            continue
        if where == host:
            gone = str(started(int(pid)) or 0) != since
        else:  # another container, or this machine before it was started: nobody can ask for the process
            gone = time.time() - path.stat().st_mtime > _ABANDONED_SECONDS
        if gone and not any(answers(fifo) for fifo in path.glob(f"*/*{ALIVE}")):
            shutil.rmtree(path, ignore_errors=True)


def answers(fifo: Path, *, ask: bool = False) -> bool:
    """Whether the worker that a FIFO belongs to lives; `ask` it to publish now.

    The kernel closes what a process had open when it dies, in whatever way: then nobody reads the FIFO.
    """
    try:
        descriptor = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        if not stat.S_ISFIFO(os.fstat(descriptor).st_mode):
            return False
        if ask:
            with suppress(BlockingIOError):  # full: it has been asked often enough
                os.write(descriptor, b"?")
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def names(home: Path, suffix: str) -> Iterator[str]:
    """Names of what is in a directory with this suffix, without it, sorted; not of what is being written."""
    found = (entry for entry in os.listdir(home) if entry.endswith(suffix) and not entry.startswith("."))
    yield from sorted(entry.removesuffix(suffix) for entry in found)
