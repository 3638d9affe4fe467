"""Finds what is shipped for Grafana, Prometheus and Alertmanager: in the wheel, else in the checkout."""

from __future__ import annotations

import importlib.resources
import json
from collections.abc import Iterator, Sequence
from importlib.resources.abc import Traversable
from pathlib import Path

from ..exceptions import ConfigurationError

_SUFFIXES = (".json", ".md", ".yaml", ".yml")
"""Of what is of use outside of the checkout: not the programs that the dashboards are built with."""


def shipped() -> Traversable:
    """Where the dashboards, the rules and the runbook are.

    Raises
    ------
    ConfigurationError
        Neither in the wheel nor in a checkout.
    """
    package = importlib.resources.files("modelwatch")
    for found in (package / "_grafana", Path(str(package)).parents[1] / "grafana"):
        if (found / "dashboards").is_dir():
            return found
    raise ConfigurationError(
        f"Expected the dashboards in {package}/_grafana, where the wheel has them; they are not there. "
        "Install modelwatch again."
    )


def shipped_files() -> dict[str, str]:
    """The text of each shipped file by its path, in order of the paths."""
    return dict(sorted(_files(shipped())))


def dashboards(windows: Sequence[str] = ()) -> dict[str, str]:
    """The JSON of each dashboard by its uid.

    Parameters
    ----------
    windows
        Those that are recorded, if not the default ones: they can be chosen, and the first is.
    """
    here = shipped() / "dashboards"
    found = {path.removesuffix(".json"): text for path, text in sorted(_files(here)) if path.endswith(".json")}
    return {uid: _with_windows(text, windows) for uid, text in found.items()} if windows else found


def _with_windows(text: str, windows: Sequence[str]) -> str:
    """A dashboard with other values of the variable that is a part of the names of what is recorded."""
    board = json.loads(text)
    for variable in board["templating"]["list"]:
        if variable["name"] == "window":
            options = [{"selected": name == windows[0], "text": name, "value": name} for name in windows]
            variable |= {"query": ",".join(windows), "options": options, "current": options[0]}
    return json.dumps(board, indent=2, ensure_ascii=False) + "\n"


def _files(directory: Traversable, prefix: str = "") -> Iterator[tuple[str, str]]:
    for found in directory.iterdir():
        if found.name.startswith((".", "_")):
            continue
        if found.is_dir():
            yield from _files(found, f"{prefix}{found.name}/")
        elif found.name.endswith(_SUFFIXES):
            yield f"{prefix}{found.name}", found.read_text("utf-8")
