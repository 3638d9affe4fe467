"""Which reference a model is compared with, and how it is replaced under traffic: by a call, its file or a worker."""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections.abc import Callable
from os import PathLike
from pathlib import Path

from .engine import Engine
from .exceptions import ConfigurationError, ReferenceFileError
from .files import ReferenceProfile
from .learning import Learner
from .loads import Loads
from .notices import Notice, Notices
from .origins import LEARN, Reference, learnt_before, taken
from .settings import Settings

_LOG = logging.getLogger("modelwatch")


class References:
    """The reference of one model, and the file that it came from.

    Parameters
    ----------
    engine, settings, loads
        Of the model.

    Attributes
    ----------
    watched
        Path of the reference; when the file changes it is taken anew. None: it came from elsewhere.
    failed
        Whether the last attempt to replace it failed.
    told
        Called when it was replaced by a call: tells the other workers, if there are any.

    Notes
    -----
    Threads: any number. Processes: each has its own; `take` makes them agree.
    """

    def __init__(self, engine: Engine, settings: Settings, loads: Loads) -> None:
        self._engine, self._settings, self._loads = engine, settings, loads
        self.watched: str | None = None
        self.failed = False
        self.told: Callable[[], object] = int  # nobody
        self._files = Notices()
        self._looking = threading.Lock()
        look = weakref.WeakMethod(self.look)  # the engine is kept by a thread, and must not keep us
        engine.ticked = lambda: (found := look()) is None or found()

    def begin(self, reference: Reference | None) -> None:
        """Take the first one, or learn one.

        Raises
        ------
        ReferenceFileError, ConfigurationError
            It cannot be read, or does not fit the settings.
        """
        learns = isinstance(reference, str) and reference == LEARN
        self._watch(None if learns else reference)
        if learns:
            reference = learnt_before(self._settings)
            if reference is None:
                self._engine.learner = Learner(self._settings.learn_rows, self._settings.learn_seconds)
        if reference is not None:
            self._engine.swap(*taken(reference, self._settings))

    def reload(self, reference: Reference, version: str | None) -> None:
        """Take another one, and version.

        Raises
        ------
        ReferenceFileError, ConfigurationError
            It cannot be read, or does not fit the settings: the old one stays.
        """
        watched = self.watched
        self._watch(reference)  # before it is read: a file that changes meanwhile is read once more
        try:
            self._swap(*taken(reference, self._settings), version)
        except Exception:
            self.failed, self.watched = True, watched
            raise
        self.failed = False
        self.told()

    def take(self, notice: Notice) -> None:
        """Take the one that another worker has taken; the window begins anew here as it did there."""
        self._swap(notice.profile, notice.source, notice.version)
        self.failed, self.watched = False, notice.path
        if notice.path is not None:  # it may have changed since the other worker took it
            self._files.forget(Path(notice.path))

    def look(self) -> None:
        """Take it anew if its file has changed since the last look. What cannot be read changes nothing."""
        path = self.watched
        if path is None or not self._looking.acquire(blocking=False):
            return
        try:
            if self._files.seen(Path(path)):
                self._take_anew(path)
        finally:
            self._looking.release()

    def _take_anew(self, path: str) -> None:
        try:
            profile, source = taken(path, self._settings)
        except (ReferenceFileError, ConfigurationError) as error:
            self.failed = True
            _LOG.warning("modelwatch: the reference has changed and cannot be taken; the old one stays. %s", error)
            return
        self.failed = False
        epoch = self._engine.epoch
        if epoch is None or epoch.profile != profile:
            self._swap(profile, source, None)
            _LOG.info("modelwatch: the reference has changed; it is %s now.", profile.id)

    def _swap(self, profile: ReferenceProfile, source: str, version: str | None) -> None:
        before = self._engine.version
        self._engine.swap(profile, source, version)
        if before != self._engine.version and before in self._loads.states:
            self._loads.turn(before, self._engine.version)

    def _watch(self, reference: Reference | None) -> None:
        """Look at the file of a reference from now on, unless it is no file, or the settings say otherwise."""
        self.watched = None
        if self._settings.watch_reference and isinstance(reference, str | PathLike):
            self.watched = os.fspath(reference)
            self._files.seen(Path(self.watched))

    def forked(self) -> None:
        """Renew the lock, in a process that has just been forked; the other workers are the parent's."""
        self._looking = threading.Lock()
        self.told = int
