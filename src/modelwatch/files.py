"""References on disk: the only room that reads and writes them."""

from __future__ import annotations

import contextlib
import csv
import errno
import gzip
import os
import re
import stat
import tempfile
import zlib
from pathlib import Path
from typing import Any, BinaryIO, Self

from . import reference
from .exceptions import ReferenceFileError, TableError

MOST_BYTES = 64 * 2**20
_PART_BYTES = 2**20
_BEGIN = re.compile(rb'\s*\{\s*"format"\s*:\s*"modelwatch reference"')


class ReferenceProfile(reference.Profile):
    """The frozen profile of the training data, what live data are compared with: per feature its cells and counts.

    It is made by `fit`, holds no raw rows, and is at most some 40 kB of JSON a feature. `a + b` is the profile of
    the rows of both, exactly, if both have the same cells.

    Notes
    -----
    Threads: any number; never modified. Processes: share the file.

    >>> import modelwatch, tempfile, pathlib
    >>> profile = modelwatch.ReferenceProfile.fit({"age": [31.0, 42.0, 57.0] * 100})
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "reference.json"
    >>> profile.save(path)
    >>> modelwatch.ReferenceProfile.load(path) == profile
    True
    """

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the profile as JSON, whole or not at all: whoever reads meanwhile sees the old file.

        A regular file of that name is replaced. What else stands there (a link, a directory, a device) is left alone.

        Raises
        ------
        ReferenceFileError
            The directory does not exist, nothing can be written there, or something other than a file is in the way.
        """
        target, text = Path(path), self.to_json()
        try:
            _refuse_others(target)
            descriptor, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        except (OSError, ValueError) as error:  # ValueError: a name with a NUL in it
            raise _unwritable(target, error) from error
        try:
            with open(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
                os.fchmod(file.fileno(), 0o666 & ~_umask())
            os.replace(temporary, target)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise _unwritable(target, error) from error

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, max_bytes: int = MOST_BYTES) -> Self:
        """Read a profile that `save` wrote.

        Raises
        ------
        ReferenceFileError
            The file is missing, no regular file, larger than `max_bytes`, damaged, of another version or no reference.
        """
        return cls.from_json(_read(Path(path), max_bytes), source=f"the file {str(path)!r}")


def _read(path: Path, max_bytes: int) -> bytes:
    try:
        # Not blocking: opening a FIFO would wait for a writer for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:  # ValueError: a name with a NUL in it
        raise ReferenceFileError(
            f"Expected a reference file {str(path)!r}, but {getattr(error, 'strerror', error)}. "
            "Make it with `modelwatch profile TABLE -o reference.json` or `ReferenceProfile.fit(...).save(path)`."
        ) from error
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):  # `open` itself raises for a directory
        os.close(descriptor)
        raise ReferenceFileError(f"Expected {str(path)!r} to be a regular file, got another thing. Name the JSON file.")
    with open(descriptor, "rb") as file:
        size = found.st_size
        if size <= max_bytes:
            try:
                content = _upto(file, max_bytes + 1)
            except OSError as error:
                raise ReferenceFileError(
                    f"Expected to be able to read {str(path)!r}, but {error.strerror}. Check the file and its disk."
                ) from error
            if len(content) <= max_bytes:
                return content
            size = len(content)  # it has grown, or is made as it is read
    raise ReferenceFileError(
        f"Expected the file {str(path)!r} to have at most {max_bytes} bytes, got {size}. "
        "A reference is small; raise `max_reference_bytes` if this is one."
    )


def _upto(file: BinaryIO, most: int) -> bytes:
    """The first bytes of a file, `most` at most; `read(most)` would take the memory for all of them at once."""
    parts: list[bytes] = []
    while most > 0 and (part := file.read(min(most, _PART_BYTES))):
        parts.append(part)
        most -= len(part)
    return b"".join(parts)


def check_output(path: str | os.PathLike[str]) -> None:
    """Refuse to write a reference over a file that is none, such as the table that it is made of.

    Raises
    ------
    ReferenceFileError
        Something is there that is neither a reference nor an empty file.
    """
    target = Path(path)
    try:
        _refuse_others(target)
        with contextlib.suppress(FileNotFoundError), target.open("rb") as file:
            begin = file.read(200)
            if begin and not _BEGIN.match(begin):
                raise OSError(errno.EEXIST, "a file is there that is no reference")
    except (OSError, ValueError) as error:
        raise _unwritable(target, error) from error


def _refuse_others(path: Path) -> None:
    """Raise OSError if something other than a regular file would be replaced: a link would, and no longer lead on."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISREG(found.st_mode):
        what = "a link" if stat.S_ISLNK(found.st_mode) else "no regular file"
        raise OSError(errno.EEXIST, f"{what} is there, which is not replaced")


def _umask() -> int:
    """The permissions that new files do not get. To ask by `os.umask` would change it meanwhile, for all threads."""
    with contextlib.suppress(OSError, ValueError, StopIteration), open("/proc/self/status", "rb") as lines:
        return int(next(line for line in lines if line.startswith(b"Umask:")).split()[1], 8)
    return 0o077


def _unwritable(path: Path, error: OSError | ValueError) -> ReferenceFileError:
    return ReferenceFileError(
        f"Expected to be able to write {str(path)!r}, but {getattr(error, 'strerror', error)}. "
        "Name a file in a writable directory."
    )


def read_table(path: str | os.PathLike[str]) -> Any:
    """A table from a file: CSV (also .gz) without further packages; Parquet where pyarrow is installed.

    In CSV an empty field is missing, and a column is numeric if every field that is not empty is a number.

    Raises
    ------
    TableError
        The file is missing, damaged, or of an unknown kind.
    """
    name = str(path)
    try:
        if "\0" in name:
            raise OSError(errno.EINVAL, "its name holds a NUL")
        if name.endswith((".parquet", ".pq")):
            return _read_parquet(name)
        if name.endswith((".csv", ".csv.gz", ".tsv", ".tsv.gz")):
            opener = gzip.open if name.endswith(".gz") else open
            with opener(name, "rt", newline="", encoding="utf-8-sig") as file:
                return _columns(csv.reader(file, dialect="excel-tab" if ".tsv" in name else "excel"), name)
    except (OSError, EOFError, UnicodeError, csv.Error, zlib.error) as error:
        raise TableError(f"Expected a table in {name!r}, but {error}. Check the path and the file.") from error
    raise TableError(f"Expected a file .csv, .csv.gz, .tsv or .parquet, got {name!r}. Convert it.")


def _read_parquet(name: str) -> Any:
    try:
        from pyarrow import lib, parquet
    except ImportError as error:
        raise TableError(f"Expected pyarrow, to read {name!r}. Run `pip install pyarrow`, or give CSV.") from error
    try:
        return parquet.read_table(name)
    except lib.ArrowException as error:
        raise TableError(f"Expected a Parquet file in {name!r}, but {error!s:.200}. Write it again.") from error


def _columns(rows: Any, name: str) -> dict[str, list[Any]]:
    header = next(rows, None)
    if not header:
        raise TableError(f"Expected {name!r} to begin with a line of column names, got nothing. Check the file.")
    if len(set(header)) < len(header):
        raise TableError(f"Expected every column of {name!r} once, got {header}. Rename or drop those that come twice.")
    columns: list[list[str]] = [[] for _ in header]
    for row in rows:
        if not row:
            continue
        if len(row) != len(header):
            raise TableError(
                f"Expected {len(header)} fields in line {rows.line_num} of {name!r}, got {len(row)}. Mend that line."
            )
        for column, field in zip(columns, row, strict=True):
            column.append(field)
    return {title: _typed(column) for title, column in zip(header, columns, strict=True)}


def _typed(column: list[str]) -> list[Any]:
    for kind in (int, float):  # whole numbers first: a column of ids is known by them
        try:
            return [kind(field) if field else None for field in column]
        except ValueError:
            continue
    return [field or None for field in column]
