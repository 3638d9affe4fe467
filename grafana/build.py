"""Writes the five dashboards, as Grafana imports and provisions them, by `python grafana/build.py [DIRECTORY]`.

What they show is in `building/`, a file for each. The files are the same whenever they are written, so that a change
can be read in a diff; a test compares them with what is committed.
"""

from __future__ import annotations

import sys
from pathlib import Path

from building import drift, frame, infra, model, overview, service

BOARDS = (overview.BOARD, service.BOARD, infra.BOARD, model.BOARD, drift.BOARD)
DIRECTORY = Path(__file__).with_name("dashboards")


def write(directory: Path) -> list[Path]:
    """Write all dashboards into a directory, each under its uid; returns the paths."""
    directory.mkdir(parents=True, exist_ok=True)
    paths = [directory / f"{board.uid}.json" for board in BOARDS]
    for path, board in zip(paths, BOARDS, strict=True):
        path.write_text(frame.to_json(board), "utf-8")
    return paths


if __name__ == "__main__":
    for written in write(Path(sys.argv[1]) if len(sys.argv) > 1 else DIRECTORY):
        print(written)  # noqa: T201 - the script's own output
