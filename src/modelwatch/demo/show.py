"""How the demo looks: steps, a progress bar, the table of the features. Plain lines where there is no terminal."""

from __future__ import annotations

import math
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from .story import CONTROLS, SEVERITIES, Finding

_PLAIN_LINES = 5  # of progress, without a terminal
_GAP = 2


class Show:
    """Prints what the demo does.

    Parameters
    ----------
    console
        Where to; by default the standard output.

    Notes
    -----
    Threads: one. Processes: each has its own.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False)
        # FORCE_COLOR makes rich believe in a terminal; a bar that moves in a log file is no use all the same.
        self._moves = self._console.is_terminal and not self._console.is_dumb_terminal and self._console.file.isatty()

    def line(self, text: str = "", *, style: str = "") -> None:
        """One paragraph, wrapped at the terminal's width."""
        self._console.print(text, style=style, markup=False)

    def item(self, name: str, text: str, *, style: str = "") -> None:
        """A paragraph with its name before it."""
        grid = Table.grid(padding=(0, _GAP, 0, 0), pad_edge=False)
        grid.add_column(width=10, style="bold")
        grid.add_column(style=style, overflow="fold")
        grid.add_row(Text(name), Text(text))
        self._console.print(grid)

    def literal(self, text: str) -> None:
        """Something to copy: neither wrapped nor cut."""
        self._console.print(text, markup=False, soft_wrap=True)

    @contextmanager
    def progress(self, total: int) -> Iterator[Callable[[str], None]]:
        """A bar over `total` days; what is returned is called with the date after each."""
        done = 0
        if not self._moves:
            every = math.ceil(total / _PLAIN_LINES)

            def plain(date: str) -> None:
                nonlocal done
                done += 1
                if done % every == 0 or done == total:
                    self.item("", f"{date}  {done} of {total} days")

            yield plain
            return
        columns = (
            TextColumn(" " * 11 + "{task.description}"),
            BarColumn(),
            TextColumn("{task.completed} of {task.total} days"),
        )
        with Progress(*columns, TimeElapsedColumn(), console=self._console) as progress:
            task = progress.add_task("2011-04-01", total=total)
            yield lambda date: progress.update(task, advance=1, description=date)

    def table(self, found: Sequence[Finding]) -> None:
        """The findings, as many columns as the terminal has room for."""
        columns = [column._replace(cells=tuple(map(column.cell, found))) for column in _COLUMNS]
        while len(columns) > 2 and sum(column.width for column in columns) > self._console.width:
            columns.remove(max(columns, key=lambda column: column.rank))
        table = Table(box=None, padding=(0, _GAP, 0, 0), pad_edge=False, header_style="bold")
        for column in columns:
            table.add_column(column.title, justify="left" if column.text else "right", no_wrap=True)
        for i, finding in enumerate(found):
            style = "green" if finding.feature in CONTROLS else "red" if finding.drifted else ""
            table.add_row(*(column.cells[i] for column in columns), style=style)
        self._console.print(table)


def own_command() -> str:
    """How to call the command line from here."""
    script = Path(sys.executable).with_name("modelwatch")
    if shutil.which("modelwatch"):
        return "modelwatch"
    if not script.exists():
        return f"{os.path.basename(sys.executable)} -m modelwatch"
    return str(script.relative_to(Path.cwd())) if script.is_relative_to(Path.cwd()) else str(script)


class _Column(NamedTuple):
    """A column of the table; the one with the highest rank goes first where there is no room."""

    title: str
    rank: int
    text: bool
    cell: Callable[[Finding], str]
    cells: tuple[str, ...] = ()

    @property
    def width(self) -> int:
        return max(map(len, [*self.title.splitlines(), *self.cells])) + _GAP


def _number(value: float, digits: int = 2) -> str:
    return "-" if math.isnan(value) else f"{value:.{digits}f}"


_COLUMNS = (
    _Column("\nfeature", 0, True, lambda f: f.feature),
    _Column("drifted\nsince", 1, True, lambda f: f.since or "never"),
    _Column("on\ndays", 2, False, lambda f: str(f.drifted)),
    _Column("PSI in\nApril", 4, False, lambda f: _number(f.first_month_psi)),
    _Column("worst\nPSI", 3, False, lambda f: _number(f.worst.psi) if f.worst else "-"),
    _Column("KS or\nTV", 7, False, lambda f: _number(f.worst.distance) if f.worst else "-"),
    _Column("\non", 6, True, lambda f: f.worst_date or "-"),
    _Column("\nseverity", 5, True, lambda f: SEVERITIES[f.worst.severity] if f.worst else "-"),
)
