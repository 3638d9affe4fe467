"""The example: `modelwatch demo` serves it through two years of traffic, `modelwatch stack` as a fleet with alerts.

This is the door: it knows what they need besides the library, and says it if that is not there.
"""

from __future__ import annotations

import importlib.util
import sys

_NEEDED = {"httpx": "httpx", "rich": "rich", "sklearn": "scikit-learn", "uvicorn": "uvicorn"}  # module -> package


def run(keep: bool = False, days: int | None = None) -> int:
    """Play the demo in a temporary directory; nothing of it is left, neither files nor processes.

    Parameters
    ----------
    keep
        Go on serving after the story, until Ctrl-C.
    days
        How many days to serve; by default all, 641.

    Returns
    -------
    int
        The exit code: 0 if the service found what is in the data; 1 if not, or if something failed; 2 if a package is
        missing; 130 after Ctrl-C.
    """
    if not _has_packages("demo"):
        return 2
    from .play import play

    return play(keep, days)


def run_stack(once: bool = False) -> int:
    """Serve the example by three replicas, with a Prometheus and an Alertmanager, until Ctrl-C; nothing of it is left.

    Parameters
    ----------
    once
        End as soon as drift over the fleet was alerted from end to end, or after three minutes without that.

    Returns
    -------
    int
        The exit code: 0 if drift was found, and an alert over it reached Alertmanager; 1 if not, or if something
        failed; 2 if a package or a program is missing; 130 after Ctrl-C before it was found.
    """
    if not _has_packages("stack"):
        return 2
    from .stage import alertmanager_program, prometheus_program

    programs = {"prometheus": prometheus_program(), "prometheus-alertmanager": alertmanager_program()}
    missing = [package for package, program in programs.items() if program is None]
    if missing:
        print(
            f"The stack runs a Prometheus and an Alertmanager, and there is no {' and no '.join(missing)} on PATH. "
            f"Run `sudo apt-get install {' '.join(missing)}`, or take them from https://prometheus.io/download; then "
            "again `modelwatch stack`.",
            file=sys.stderr,
        )
        return 2
    from .stack import play

    return play(once)


def _has_packages(verb: str) -> bool:
    """Whether all packages are there; if not, it says which are missing."""
    missing = [package for module, package in _NEEDED.items() if importlib.util.find_spec(module) is None]
    if missing:
        print(
            f"The {verb} needs {', '.join(missing)}, which the library itself does not. "
            f'Run `pip install "modelwatch[demo]"`, then again `modelwatch {verb}`.',
            file=sys.stderr,
        )
    return not missing
