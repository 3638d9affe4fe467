"""The live page: what a newcomer without Grafana wants to see, in the browser, from the service itself.

::

    sharing.sight ─► snapshot.py ─► history.py     every 15 s: a few numbers, for an hour, of all workers
                └──► figures.py, distributions.py ─► state.py     the JSON: all models, worst features first
    assets/ ───────► document.py                   one HTML page with its style and script, and what a browser may do
    serving.py       who may read; ASGI and port; rendered in a thread, once for all who watch
"""

from __future__ import annotations

from .history import History
from .serving import LivePage
from .state import state_of

__all__ = ["History", "LivePage", "state_of"]
