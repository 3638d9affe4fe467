"""The library's own paths in an app: answered there, unless the app turns out to have routes of its own at them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from .routes import walk

_LOG = logging.getLogger("modelwatch")


class Places:
    """Answers at some paths, or from the first look on leaves them to the app: routes may be added until then.

    Parameters
    ----------
    app, stack
        The app, and what stands in it below the middleware.
    pages
        What answers, by path.
    give_up
        Called when the app has a route at one of them: from then on all are the app's.
    what, setting
        What is then shown nowhere, and the setting that names its path.

    Notes
    -----
    Threads: event loops may share it. Processes: each has its own.
    """

    def __init__(
        self,
        app: Any,
        stack: Any,
        pages: Mapping[str, Any],
        *,
        give_up: Callable[[], object],
        what: str,
        setting: str,
    ) -> None:
        self._app, self._stack, self._pages = app, stack, pages
        self._give_up, self._what, self._setting = give_up, what, setting
        self._looked = self._taken = False

    def instead(self) -> dict[str, Any]:
        """What stands in for each of the pages."""
        return {path: partial(self._answer, path) for path in self._pages}

    async def _answer(self, path: str, scope: Any, receive: Any, send: Any) -> None:
        if not self._looked:
            self._looked = True
            self._look()
        await (self._stack if self._taken else self._pages[path])(scope, receive, send)

    def _look(self) -> None:
        taken = next((path for path in self._pages if _has_route(self._app, path)), None)
        if taken is not None:
            self._taken = True
            self._give_up()
            _LOG.warning(
                "modelwatch: the app has a route %s of its own, which is kept; %s shown nowhere. "
                "Choose another path with Settings(%s=…).",
                taken,
                self._what,
                self._setting,
            )


def _has_route(app: Any, path: str) -> bool:
    try:
        return any(path in {routed.template, routed.prefix if routed.pattern is None else None} for routed in walk(app))
    except Exception as error:  # noqa: BLE001 - routes of any framework; the page is then shown
        _LOG.debug("The routes could not be read: %r", error)
        return False
