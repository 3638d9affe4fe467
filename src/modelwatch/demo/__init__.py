"""`modelwatch demo`: the example, from training through two years of traffic to what the service says of them.

This is the door: it knows what the demo needs besides the library, and says it if that is not there.
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
    missing = [package for module, package in _NEEDED.items() if importlib.util.find_spec(module) is None]
    if missing:
        print(
            f"The demo needs {', '.join(missing)}, which the library itself does not. "
            'Run `pip install "modelwatch[demo]"`, then again `modelwatch demo`.',
            file=sys.stderr,
        )
        return 2
    from .play import play

    return play(keep, days)
