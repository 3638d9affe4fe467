"""The pictures' own PNG files: small, and as good as what they are made of."""

from __future__ import annotations

import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest

PICTURES = Path(__file__).parents[1] / "tools" / "pictures"


@pytest.fixture
def written(monkeypatch):
    """The function that writes."""
    monkeypatch.syspath_prepend(PICTURES)
    from png import written

    yield written
    sys.modules.pop("png", None)


def read(png):
    """Colours of a PNG file with a palette and without filters, shape (height, width, 3)."""
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    at, parts = 8, {}
    while at < len(png):
        size, kind = struct.unpack_from(">I4s", png, at)
        content = png[at + 8 : at + 8 + size]
        assert struct.unpack_from(">I", png, at + 8 + size)[0] == zlib.crc32(kind + content)
        parts[kind], at = content, at + 12 + size
    width, height, depth, colour = struct.unpack_from(">IIBB", parts[b"IHDR"])
    assert (depth, colour, at) == (8, 3, len(png))
    rows = np.frombuffer(zlib.decompress(parts[b"IDAT"]), np.uint8).reshape(height, width + 1)
    assert not rows[:, 0].any()
    return np.frombuffer(parts[b"PLTE"], np.uint8).reshape(-1, 3)[rows[:, 1:]]


def test_few_colours_are_kept_exactly(written):
    """A picture of up to 256 colours is the same afterwards, pixel by pixel."""
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 256, (256, 3), dtype=np.uint8)[rng.integers(0, 256, (40, 70))]
    assert np.array_equal(read(written(pixels)), pixels)


def test_many_colours_become_near_ones(written):
    """Of more colours 256 are left: the great areas keep theirs exactly, and no pixel is far from what it was."""
    across, down = np.meshgrid(np.arange(200), np.arange(100))
    pixels = np.stack([across, down * 2, (across + down) // 2], axis=2).astype(np.uint8)
    pixels[:, :80] = (17, 18, 23)
    pixels[60, 20:60] = np.arange(17, 57)[:, None] // 20 + (17, 18, 23)  # as text is drawn on it
    pixels[50, :] = (242, 73, 92)
    found = read(written(pixels))
    assert len(np.unique(found.reshape(-1, 3), axis=0)) <= 256
    assert (found[:, :80][(np.arange(100) != 50) & (np.arange(100) != 60)] == (17, 18, 23)).all()
    assert (found[50] == (242, 73, 92)).all()
    assert np.abs(found.astype(int) - pixels.astype(int)).max() <= 24


def test_flat_pictures_are_small(written):
    """What is drawn with lines on areas takes a small part of its pixels' bytes."""
    pixels = np.full((400, 600, 3), 20, np.uint8)
    pixels[::40] = (90, 160, 250)
    assert len(written(pixels)) < pixels.size / 100
