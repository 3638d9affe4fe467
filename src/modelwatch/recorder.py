"""What the capture needs of a Monitor."""

from __future__ import annotations

from typing import Any, Protocol

from .extract import Names, Row
from .guard import Guard
from .series import Series
from .settings import Settings


class Recorder(Protocol):
    """A Monitor, as the capture sees it."""

    @property
    def model_name(self) -> str:
        """Label of its metrics."""

    @property
    def model_version(self) -> str:
        """Label of its metrics; another one after a reload."""

    @property
    def settings(self) -> Settings:
        """Its options."""

    @property
    def guard(self) -> Guard:
        """Who counts and logs errors of ours."""

    @property
    def series(self) -> Series:
        """The app's cells."""

    @property
    def inputs(self) -> Names | None:
        """Names of the reference's features, the same tuple until they change; None without a reference."""

    @property
    def prediction_column(self) -> str | None:
        """Name of the column of predictions in the training data, if there was one."""

    @property
    def confidence_column(self) -> str | None:
        """Name of the column of confidences in the training data, if there was one."""

    def ignoring(self) -> bool:
        """Whether what happens now is to stay out of the windows."""

    def commit(
        self,
        names: Names,
        rows: list[Row],
        predictions: list[Any] | None,
        confidences: list[Any] | None,
        ids: list[Any] | None,
        *,
        ignored: bool = False,
    ) -> None:
        """Take rows that were predicted. Keeps the lists; they are not touched again."""
