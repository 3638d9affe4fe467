"""Writes small PNG files: 256 colours of the picture's own, without a library for pictures."""

from __future__ import annotations

import struct
import zlib

import numpy as np

_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def written(pixels: np.ndarray) -> bytes:
    """A picture as PNG, with at most 256 colours.

    Parameters
    ----------
    pixels
        uint8, shape (height, width, 3): red, green, blue. Not modified.
    """
    whole = pixels.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], dtype=np.uint32)
    colours, index = np.unique(whole, return_inverse=True)
    palette, nearest = _palette(colours, np.bincount(index.ravel()))
    return _file(palette, nearest[index].reshape(whole.shape))


def _palette(colours: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """At most 256 colours, and for each colour of the picture the nearest of them.

    The space is cut where it is widest, weighted by how often its colours occur, but not only by that: a thin red line
    has few pixels and is what the picture is about.
    """
    rgb = np.stack([colours >> 16 & 255, colours >> 8 & 255, colours & 255], axis=1).astype(float)
    weight = counts.astype(float) ** 0.35
    boxes = [np.arange(len(rgb))]
    spread = [_spread(rgb, weight, boxes[0])]
    while len(boxes) < 256 and max(spread)[0] > 0:
        at = spread.index(max(spread))
        box, axis = boxes.pop(at), spread.pop(at)[1]
        order = box[np.argsort(rgb[box, axis], kind="stable")]
        along = rgb[order, axis]
        middle = np.average(along, weights=weight[order])
        cut = int(np.clip(np.searchsorted(along, middle, side="right"), 1, len(order) - 1))
        for part in (order[:cut], order[cut:]):
            boxes.append(part)
            spread.append(_spread(rgb, weight, part))
    palette = np.zeros((len(boxes), 3), np.uint8)
    nearest = np.zeros(len(rgb), np.uint8)
    for number, box in enumerate(boxes):
        # The commonest colour itself: areas keep exactly theirs.
        palette[number] = rgb[box[np.argmax(counts[box])]]
        nearest[box] = number
    return palette, nearest


def _spread(rgb: np.ndarray, weight: np.ndarray, box: np.ndarray) -> tuple[float, int]:
    if len(box) < 2:
        return 0.0, 0
    own, share = rgb[box], weight[box]
    mean = np.average(own, axis=0, weights=share)
    variance = (share[:, None] * (own - mean) ** 2).sum(axis=0)
    axis = int(np.argmax(variance))
    return float(variance[axis]), axis


def _file(palette: np.ndarray, pixels: np.ndarray) -> bytes:
    height, width = pixels.shape
    rows = np.zeros((height, width + 1), np.uint8)
    rows[:, 1:] = pixels
    parts = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)),
        (b"PLTE", palette.tobytes()),
        (b"IDAT", zlib.compress(rows.tobytes(), 9)),
        (b"IEND", b""),
    ]
    return _SIGNATURE + b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in parts
    )
