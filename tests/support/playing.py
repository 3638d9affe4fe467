"""The demo or the stack in a process of its own, whose temporary files and descendants can be told from all others."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

END_SECONDS = 180.0


def lives(process: psutil.Process) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


class Played:
    """A process that runs statements, which leave an exit code in `code`.

    Attributes
    ----------
    process, lines
        What it is, and what it has printed so far.
    """

    def __init__(self, directory: Path, statements: str, warnings: Sequence[str] = ("error",)) -> None:
        self.directory = directory
        self.mark = uuid.uuid4().hex
        plain = {name: value for name, value in os.environ.items() if name not in {"FORCE_COLOR", "COLUMNS"}}
        options = (f"-W{action}" for action in warnings)
        self.process = subprocess.Popen(
            [sys.executable, *options, "-c", f"{statements}; raise SystemExit(code)"],
            env=plain | {"TMPDIR": str(directory), "PLAYED_MARK": self.mark, "COLUMNS": "100"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.lines: list[str] = []

    def read_until(self, text: str) -> None:
        """Read what it prints, as far as the line with this text."""
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))
            if text in line:
                return
        raise AssertionError(self.text)

    def end(self, number: int | None = None) -> int:
        """Wait for its end, after this signal if there is one; returns the exit code."""
        if number is not None:
            self.process.send_signal(number)
        rest, _ = self.process.communicate(timeout=END_SECONDS)
        self.lines += rest.splitlines()
        return self.process.returncode

    @property
    def text(self) -> str:
        """What it has printed."""
        return "\n".join(self.lines)

    @property
    def words(self) -> str:
        """The same, however it was wrapped."""
        return " ".join(self.text.split())

    @property
    def processes(self) -> list[psutil.Process]:
        """The processes that are still there, itself and all that it started."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("PLAYED_MARK") == self.mark and lives(process):
                    found.append(process)
            except psutil.Error:
                continue
        return found

    @property
    def left(self) -> list[Path | psutil.Process]:
        """Files and processes that are still there."""
        return [*self.directory.iterdir(), *self.processes]


@contextmanager
def playing(directory: Path) -> Iterator[Callable[..., Played]]:
    """Starts processes that keep their files in this directory; afterwards none of them is left."""
    started: list[Played] = []

    def play(statements: str, **options: Sequence[str]) -> Played:
        started.append(Played(directory, statements, **options))
        return started[-1]

    try:
        yield play
    finally:
        for one in started:
            one.process.kill()
            one.process.communicate()
            for process in one.processes:
                process.kill()
