"""References on disk: the only room that reads and writes them."""

from __future__ import annotations

import contextlib
import csv
import gzip
import os
import stat
import tempfile
import zlib
from pathlib import Path
from typing import Any, Self

from . import reference
from .exceptions import ReferenceFileError, TableError

MOST_BYTES = 64 * 2**20


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

        Raises
        ------
        ReferenceFileError
            The directory does not exist, or nothing can be written there.
        """
        target, text = Path(path), self.to_json()
        try:
            descriptor, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        except OSError as error:
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
        if found.st_size > max_bytes:
            raise ReferenceFileError(
                f"Expected the file {str(path)!r} to have at most {max_bytes} bytes, got {found.st_size}. "
                "A reference is small; raise `max_reference_bytes` if this is one."
            )
        return file.read(max_bytes + 1)


def _umask() -> int:
    current = os.umask(0o077)
    os.umask(current)
    return current


def _unwritable(path: Path, error: OSError) -> ReferenceFileError:
    return ReferenceFileError(
        f"Expected to be able to write {str(path)!r}, but {error.strerror}. Name a writable directory."
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
