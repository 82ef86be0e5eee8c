"""The mode of an original image: what Pillow calls it, and 16 bits where Pillow hides them."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from convloop.core.decode import decode
from convloop.core.modes import MODES


def _saved(image: Image.Image, kind: str) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind)
    return stream.getvalue()


def _mode(content: bytes) -> str:
    return decode(content, image_px=8, channel_count=3)[1].mode


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def _png_of_16_bit_colours() -> bytes:
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 2, 16, 2, 0, 0, 0))
    rows = _chunk(b"IDAT", zlib.compress(2 * (b"\0" + 12 * b"\x80")))
    return b"\x89PNG\r\n\x1a\n" + header + rows + _chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("mode", "kind"),
    [("1", "PNG"), ("L", "PNG"), ("LA", "PNG"), ("P", "GIF"), ("RGB", "BMP"), ("RGBA", "PNG"), ("CMYK", "TIFF"),
     ("L", "JPEG"), ("RGB", "JPEG"), ("CMYK", "JPEG")],
)  # fmt: skip
def test_modes_are_those_of_pillow(mode: str, kind: str) -> None:
    assert _mode(_saved(Image.new(mode, (4, 4)), kind)) == mode


def test_sixteen_bits_of_gray_are_seen() -> None:
    assert _mode(_saved(Image.fromarray(np.zeros((4, 4), np.uint16)), "PNG")) == "16-bit"


def test_sixteen_bits_of_a_colour_are_seen() -> None:
    assert _mode(_png_of_16_bit_colours()) == "16-bit"


def test_every_place_in_the_list_keeps_its_mode() -> None:
    """Shards hold places: the list may only grow at its end."""
    assert MODES[:13] == (
        *("unknown", "1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "16-bit", "other"),
    )
