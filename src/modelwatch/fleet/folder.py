"""Writes files into a folder of the user's: each whole or not at all, none outside of it, none over a stranger's."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Literal

from ..exceptions import ConfigurationError

Outcome = Literal["written", "replaced", "unchanged"]

_OURS = b"modelwatch"
"""What every file of ours has in it; a file without it is somebody else's."""

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


def write(directory: str | os.PathLike[str], files: Mapping[str, str]) -> dict[str, Outcome]:
    """Write files into a directory, which is made if it is not there.

    A file of ours is replaced; all others in the directory are left alone. The directory itself may be reached through
    a link, but no link is followed from there on. Before the first file is written all of them are looked at.

    Parameters
    ----------
    directory
        Where to.
    files
        Path below the directory, with slashes, to text. Not modified.

    Returns
    -------
    dict
        What became of each file.

    Raises
    ------
    ConfigurationError
        Nothing can be written there, or something that is not ours has the name of one of the files.
    """
    outcomes: dict[str, Outcome] = {}
    try:
        os.makedirs(directory, exist_ok=True)
        root = os.open(directory, _DIRECTORY)
    except FileExistsError as error:
        raise _unusable(directory, OSError("a file is there and no directory")) from error
    except (OSError, ValueError) as error:  # ValueError: a name with a NUL in it
        raise _unusable(directory, error) from error
    path = ""
    try:
        for path, text in files.items():
            outcomes[path] = _look(root, path, text.encode())
        for path, text in files.items():
            if outcomes[path] != "unchanged":
                _put(root, path, text.encode())
    except (OSError, ValueError) as error:  # ValueError: a text that UTF-8 does not have
        raise _unusable(os.path.join(directory, path), error) from error
    finally:
        os.close(root)
    return outcomes


def _look(root: int, path: str, content: bytes) -> Outcome:
    """What writing the file would be. Raises OSError if it must not be written."""
    name = PurePosixPath(path).name
    with contextlib.ExitStack() as stack:
        try:
            parent = stack.enter_context(_parent(root, path, make=False))
            found = os.stat(name, dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            return "written"
        if not stat.S_ISREG(found.st_mode):
            what = "a link" if stat.S_ISLNK(found.st_mode) else "no regular file"
            raise OSError(f"{what} is there, which is not replaced")
        with open(os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent), "rb") as file:
            there = file.read()
    if there == content:
        return "unchanged"
    if there.strip() and _OURS not in there:
        raise OSError("a file is there that modelwatch has not written")
    return "replaced"


def _put(root: int, path: str, content: bytes) -> None:
    """Write a file beside the one that it replaces, and then in its place: whoever reads meanwhile sees the old one."""
    name = PurePosixPath(path).name
    with _parent(root, path, make=True) as parent:
        temporary = f".{name}.{secrets.token_hex(8)}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            with open(os.open(temporary, flags, 0o666, dir_fd=parent), "wb") as file:
                file.write(content)
            os.replace(temporary, name, src_dir_fd=parent, dst_dir_fd=parent)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary, dir_fd=parent)
            raise


@contextlib.contextmanager
def _parent(root: int, path: str, *, make: bool) -> Iterator[int]:
    """A descriptor of the directory that a file is in, reached through no link."""
    descriptor = os.dup(root)
    try:
        for part in PurePosixPath(path).parts[:-1]:
            if make:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(part, dir_fd=descriptor)
            inner = os.open(part, _DIRECTORY | os.O_NOFOLLOW, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = inner
        yield descriptor
    finally:
        os.close(descriptor)


def _unusable(path: str | os.PathLike[str], error: OSError | ValueError) -> ConfigurationError:
    reason = getattr(error, "strerror", None) or str(error)
    return ConfigurationError(
        f"Expected to be able to write {os.fspath(path)!r}, but {reason}. Choose another directory, best a new one."
    )
