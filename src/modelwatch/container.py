"""A file of several pieces, each with a checksum: what it was given, or an error; never anything in between.

::

    magic 8 bytes · layout version u32 · CRC-32 of the head u32 · length of the head u64
    head: JSON {"body": …, "pieces": [[length, CRC-32], …]}
    the pieces, end to end

It is written whole under another name and then renamed, so that a reader finds all of it or nothing; the checksums are
for disks, for truncations and for what others put there. Little-endian, as every machine that it runs on.
"""

from __future__ import annotations

import errno
import json
import os
import stat
import struct
import zlib
from collections.abc import Sequence
from itertools import accumulate
from types import TracebackType
from typing import Any, Self

from .exceptions import SegmentError

MAGIC = b"mwcounts"
LAYOUT = 1
_START = struct.Struct("<8sIIQ")
_NO_FILES = {errno.ELOOP, errno.ENXIO, errno.ENODEV, errno.EISDIR}  # links, sockets, devices, directories
_LONGEST_HEAD = 64 * 2**20
_LARGEST = 2**32

Piece = tuple[bytes, int]
"""Bytes and their CRC-32."""


def piece(data: bytes) -> Piece:
    """Bytes with their checksum."""
    return data, zlib.crc32(data)


def pack(body: Any, pieces: Sequence[Piece]) -> list[bytes]:
    """A file, as the parts that are to be written one after another. `body` is what JSON can say."""
    head = json.dumps(
        {"body": body, "pieces": [[len(data), crc] for data, crc in pieces]}, separators=(",", ":"), allow_nan=False
    ).encode()
    start = _START.pack(MAGIC, LAYOUT, zlib.crc32(head), len(head))
    return [start, head, *(data for data, _ in pieces)]


class Container:
    """A file that `pack` made, open for reading.

    Parameters
    ----------
    path
        A regular file of the user's own.

    Attributes
    ----------
    body
        As it was given to `pack`.

    Raises
    ------
    FileNotFoundError
        It is not there (any more).
    OSError
        It cannot be read just now.
    SegmentError
        It is anything else: another kind of file, another user's, damaged, of another layout.

    Notes
    -----
    Nothing is mapped: a file that is truncated while it is read gives an error, not a signal. Pieces are read and
    checked when they are asked for, so that large ones cost nothing until then.

    Threads: one at a time. Processes: any number read the same file.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._file = -1
        try:
            # Not blocking: a FIFO would wait for a writer for ever. No links: they lead out of the directory.
            self._file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
            self._open()
        except FileNotFoundError:
            raise
        except OSError as error:
            self.close()
            if error.errno not in _NO_FILES:
                raise  # nothing is wrong with the file: there are too many open ones, say
            raise SegmentError(f"it cannot be opened: {error.strerror}", "foreign") from error
        except SegmentError:
            self.close()
            raise

    def _open(self) -> None:
        found = os.fstat(self._file)
        if not stat.S_ISREG(found.st_mode):
            raise SegmentError("it is no regular file", "foreign")
        if found.st_uid != os.geteuid():
            raise SegmentError(f"it belongs to the user {found.st_uid}", "foreign")
        if found.st_size > _LARGEST:
            raise SegmentError(f"it has {found.st_size} bytes", "foreign")
        start = os.pread(self._file, _START.size, 0)
        if len(start) < _START.size:
            raise SegmentError(f"it has {len(start)} bytes only")
        magic, layout, crc, length = _START.unpack(start)
        if magic != MAGIC:
            raise SegmentError(f"it begins with {magic!r}", "foreign")
        if layout != LAYOUT:
            raise SegmentError(f"its layout is {layout}, not {LAYOUT}", "layout")
        if length > min(_LONGEST_HEAD, found.st_size):
            raise SegmentError(f"its head would have {length} bytes")
        head = os.pread(self._file, length, _START.size)
        if zlib.crc32(head) != crc:
            raise SegmentError("the checksum of its head is wrong")
        try:
            told = json.loads(head)
            self.body: Any = told["body"]
            self._pieces = [(int(size), int(sum_)) for size, sum_ in told["pieces"]]
        except (KeyError, OverflowError, TypeError, ValueError, RecursionError) as error:
            raise SegmentError(f"its head cannot be read: {error!r:.100}") from error
        sizes = [size for size, _ in self._pieces]
        self._starts = list(accumulate(sizes, initial=_START.size + length))
        if min(sizes, default=0) < 0 or self._starts[-1] != found.st_size:
            raise SegmentError(f"it has {found.st_size} bytes, not {self._starts[-1]}")

    def mark(self, number: int) -> tuple[int, int]:
        """Length and checksum of a piece, as the head tells them: what it is known by without reading it."""
        return self._pieces[number]

    def read(self, number: int) -> bytes:
        """A piece.

        Raises
        ------
        SegmentError
            There is none of this number, or its checksum is wrong.
        """
        try:
            size, crc = self._pieces[number]
            data = os.pread(self._file, size, self._starts[number])
        except (IndexError, OverflowError, TypeError, OSError) as error:
            raise SegmentError(f"piece {number!r:.20} cannot be read") from error
        if len(data) != size or zlib.crc32(data) != crc:
            raise SegmentError(f"the checksum of piece {number} is wrong")
        return data

    def close(self) -> None:
        """Close the file; what was not read cannot be read any more. It closes by itself when nobody knows it."""
        descriptor, self._file = self._file, -1
        if descriptor >= 0:
            os.close(descriptor)

    def __del__(self) -> None:
        self.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
