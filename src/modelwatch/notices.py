"""Files that say something new by being another one: references that a worker tells the others of, and those of users.

A file is known by its number, its size and its time, so that a look at it costs one system call; what it holds is read
when they have changed. A link is followed: that is how a ConfigMap is replaced.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import NamedTuple

from .container import Container, pack, piece
from .exceptions import ReferenceFileError, SegmentError
from .files import ReferenceProfile

Identity = tuple[int, int, int]
_LARGEST = 16 * 2**20


class Notice(NamedTuple):
    """A reference that a worker has taken: what is to be known of it.

    Attributes
    ----------
    path
        The file that it watches, if any.
    by
        Which worker tells it, and as which of its notices.
    """

    profile: ReferenceProfile
    version: str
    source: str
    path: str | None
    by: str


class Notices:
    """Files that were looked at.

    Notes
    -----
    Threads: any number; two at once may both see a change. Processes: each has its own.
    """

    def __init__(self) -> None:
        self._seen: dict[Path, Identity | None] = {}

    @staticmethod
    def key(model_name: str) -> str:
        """A name for files that cannot lead anywhere else."""
        return hashlib.blake2s(model_name.encode("utf-8", "replace"), digest_size=8).hexdigest()

    @staticmethod
    def pack(notice: Notice) -> list[bytes]:
        """The parts of a file that tells of a reference."""
        body = {"version": notice.version, "source": notice.source, "path": notice.path, "by": notice.by}
        return pack(body, [piece(notice.profile.to_json().encode())])

    def seen(self, path: Path) -> bool:
        """Look at a file; whether it is another one than at the last look. It is not new if it is gone."""
        now = identity(path)
        changed = now is not None and self._seen.get(path) != now
        self._seen[path] = now
        return changed

    def forget(self, path: Path) -> None:
        """Take a file for a new one at the next look."""
        self._seen.pop(path, None)

    def changed(self, path: Path) -> bytes | None:
        """What a small file holds, if it is another one than at the last look."""
        if not self.seen(path):
            return None
        try:
            with open(path, "rb", opener=_carefully) as file:
                return file.read(_LARGEST)
        except OSError:
            return None

    def read(self, path: Path) -> Notice | None:
        """The reference that a file tells of, if it is another one than at the last look.

        Raises
        ------
        SegmentError
            It is not what `pack` made.
        """
        if not self.seen(path):
            return None
        try:
            with Container(path) as file:
                text = file.read(0)
                version, source, where, by = (file.body[name] for name in ("version", "source", "path", "by"))
            profile = ReferenceProfile.from_json(text, source="what another worker has told")
        except FileNotFoundError:
            return None
        except (KeyError, TypeError, ValueError, ReferenceFileError) as error:
            if isinstance(error, SegmentError):
                raise
            raise SegmentError(f"the reference in it cannot be read: {error!r:.100}") from error
        return Notice(profile, str(version), str(source), None if where is None else str(where), str(by))


def _carefully(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOFOLLOW)


def identity(path: str | os.PathLike[str]) -> Identity | None:
    """What a file is known by: it changes when the file is replaced or written. None: it is not there."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns
