"""A share as a file, and back: what a worker publishes, and what the others read."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from .container import Container, Piece, pack, piece
from .exceptions import SegmentError
from .series import Key, width
from .shares import EpochShare, Share
from .slots import RowsState, Slot, State, TimeState

_MOST_KNOWN = 64
_Bad = Callable[[SegmentError], object]
_MOST_ROW_BYTES = 16 * 2**20  # of a window of rows: the newest ones that have room are shared


class Segments:
    """Writes shares and reads them.

    Notes
    -----
    Names of series are many and rarely change: they are made, and read, once.

    Threads: one at a time packs, any number unpack. Processes: any number read what one writes.
    """

    def __init__(self) -> None:
        self._written: tuple[tuple[Key, ...], Piece] = ((), piece(b"[]"))
        self._read: dict[tuple[int, int], tuple[Key, ...]] = {}

    def pack(self, share: Share, *, began: int, folded: Sequence[str] = ()) -> list[bytes]:
        """The parts of a file.

        Parameters
        ----------
        began
            When counting for it began, in nanoseconds of the monotonic clock.
        folded
            Names of workers whose shares are within this one.
        """
        pieces: list[Piece] = []

        def put(data: bytes | Piece) -> int:
            pieces.append(data if isinstance(data, tuple) else piece(data))
            return len(pieces) - 1

        if share.keys is not self._written[0]:
            self._written = (share.keys, piece(json.dumps(share.keys, separators=(",", ":")).encode()))
        body = {
            "began": began,
            "folded": list(folded),
            "keys": put(self._written[1]),
            "values": put(share.values.tobytes()),
            "models": [
                {"model": model, "epochs": [_epoch_to(epoch, put) for epoch in epochs]}
                for model, epochs in share.models.items()
            ],
        }
        return pack(body, pieces)

    def unpack(self, file: Container, name: str, *, alive: bool, bad: Callable[[SegmentError], object] = repr) -> Share:
        """What is in a file; slots are read when they are asked for.

        Parameters
        ----------
        bad
            Called if a slot cannot be read then; whoever asks for it gets the error as well.

        Raises
        ------
        SegmentError
            It is not what `pack` made.
        """
        try:
            body = file.body
            keys = self._keys(file, body["keys"])
            values = np.frombuffer(file.read(body["values"]), dtype=np.float64)
            if len(values) != sum(width(bounds) for _, _, bounds in keys):
                raise SegmentError(f"it has {len(values)} cells, not those of its series")
            models = {
                str(model["model"]): [_epoch_from(told, file, bad) for told in model["epochs"]]
                for model in body["models"]
            }
        except (AttributeError, LookupError, OverflowError, RecursionError, TypeError, ValueError) as error:
            if isinstance(error, SegmentError):
                raise
            raise SegmentError(f"its body cannot be read: {error!r:.100}") from error
        return Share(name, alive, keys, values, models)

    def _keys(self, file: Container, number: int) -> tuple[Key, ...]:
        mark = file.mark(number)
        known = self._read.get(mark)
        if known is None:
            known = tuple(
                (str(metric), tuple(map(str, labels)), None if bounds is None else tuple(map(float, bounds)))
                for metric, labels, bounds in json.loads(file.read(number))
            )
            if len(self._read) >= _MOST_KNOWN:
                self._read.clear()
            self._read[mark] = known
        return known


def _epoch_to(epoch: EpochShare, put: Callable[[bytes | Piece], int]) -> dict[str, Any]:
    return {
        "version": epoch.version,
        "hash": epoch.hash,
        "rows": epoch.rows,
        "seen": put(epoch.seen.tobytes()),
        "binned": put(epoch.binned.tobytes()),
        "missing": put(epoch.missing.tobytes()),
        "window": None if epoch.window is None else _window_to(epoch.window, put),
        "streams": {name: list(sums) for name, sums in epoch.streams.items() if math.isfinite(sums[1])},
        "latest": epoch.latest if math.isfinite(epoch.latest) else None,
    }


def _epoch_from(told: dict[str, Any], file: Container, bad: _Bad) -> EpochShare:
    return EpochShare(
        str(told["version"]),
        str(told["hash"]),
        int(told["rows"]),
        np.frombuffer(file.read(told["seen"]), dtype=np.bool_),
        np.frombuffer(file.read(told["binned"]), dtype=np.int64),
        np.frombuffer(file.read(told["missing"]), dtype=np.int64),
        None if told["window"] is None else _window_from(told["window"], file, bad),
        {str(name): (int(rows), float(total)) for name, (rows, total) in told["streams"].items()},
        -math.inf if told["latest"] is None else float(told["latest"]),
    )


def _window_to(window: State, put: Callable[[bytes | Piece], int]) -> dict[str, Any]:
    if isinstance(window, RowsState):
        features = window.cells.shape[1]
        newest = max(_MOST_ROW_BYTES // (4 * features), 1)
        times, cells = window.times[-newest:], window.cells[-newest:]
        return {
            "shape": window.shape,
            "times": put(times.tobytes()),
            "cells": put(cells.tobytes()),
            "features": features,
        }

    def slot_to(slot: Slot) -> list[Any]:
        if slot.sealed is None:
            slot.sealed = piece(slot.counts.tobytes())
        return [slot.rows, slot.first if slot.rows else None, put(slot.sealed)]

    return {
        "shape": window.shape,
        "end": window.end,
        "whole": None if window.whole is None else slot_to(window.whole),
        "fine": [[number, *slot_to(slot)] for number, slot in window.fine.items()],
        "coarse": [[number, *slot_to(slot)] for number, slot in window.coarse.items()],
    }


def _window_from(told: dict[str, Any], file: Container, bad: _Bad) -> State:
    shape = str(told["shape"])
    if "times" in told:
        times = np.frombuffer(file.read(told["times"]), dtype=np.float64)
        cells = np.frombuffer(file.read(told["cells"]), dtype=np.uint32)
        return RowsState(shape, times, cells.reshape(len(times), int(told["features"])))

    def slot_from(rows: Any, first: Any, number: Any) -> Slot:
        load = partial(_cells, file, number, bad)
        return Slot(rows=int(rows), first=math.inf if first is None else float(first), load=load)

    return TimeState(
        shape,
        int(told["end"]),
        {int(number): slot_from(*slot) for number, *slot in told["fine"]},
        {int(number): slot_from(*slot) for number, *slot in told["coarse"]},
        None if told["whole"] is None else slot_from(*told["whole"]),
    )


def _cells(file: Container, number: int, bad: _Bad) -> npt.NDArray[np.uint32]:
    try:
        return np.frombuffer(file.read(number), dtype=np.uint32)
    except (SegmentError, ValueError) as error:
        found = error if isinstance(error, SegmentError) else SegmentError(f"a slot cannot be read: {error}")
        bad(found)
        raise found from error
