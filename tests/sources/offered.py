"""Small image files for the tests of sources, and what a source offers of them."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from convloop.sources import Encoded, Refused, Source


def png(seed: int = 0, side_px: int = 8) -> bytes:
    """Draw random pixels as a PNG."""
    pixels = np.random.default_rng(seed).integers(0, 256, (side_px, side_px, 3), np.uint8)
    written = io.BytesIO()
    Image.fromarray(pixels).save(written, "PNG")
    return written.getvalue()


def put(folder: Path, *names: str) -> Path:
    """Write a small PNG under each name."""
    for seed, name in enumerate(names):
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(png(seed))
    return folder


def encoded(source: Source) -> list[Encoded]:
    assert source.items is not None
    return [item for item in source.items if isinstance(item, Encoded)]


def refused(source: Source) -> dict[str, str]:
    assert source.items is not None
    return {item.name: item.reason for item in source.items if isinstance(item, Refused)}
