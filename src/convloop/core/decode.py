"""From an image file to the pixels that a net sees: the one preprocessing for generate, ingest and prediction alike.

The rules: upright by EXIF, of which nothing is kept; the first frame; alpha on white; CMYK, LAB, palettes and one bit
to RGB; the upper byte of 16 bits; 32-bit and float pixels refused, since their range is unknown; gray to three equal
channels, and colour to gray by ITU-R 601 luma.
"""

import io
import os
import stat
from pathlib import Path
from typing import NamedTuple

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from convloop.core.card import Fit
from convloop.core.modes import mode_of

MAX_FILE_PIXEL_COUNT = 50_000_000
MAX_FILE_BYTES = 256 * 2**20
# What Pillow may read: no format that starts another program (EPS) or that no camera, editor or browser writes.
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TGA", "TIFF", "WEBP")
_MODES = {1: "L", 3: "RGB"}
_APP1 = b"\xff\xe1"  # begins the segments that hold the next two
_MAY_BE_TURNED = (b"Exif\0\0", b"tiff:Orientation")  # where Pillow looks for the orientation
# A JPEG may be halved within its decoder down to this many times the wanted side. On flowers5 to 64 px the result
# lies 31.5 dB from a Lanczos resize of the whole image; a box filter on the whole image, the common choice, 32.4 dB.
_MIN_REDUCED = 1.25


class Original(NamedTuple):
    """What an image was in its file: height and width, and one of `modes.MODES`."""

    size_px: tuple[int, int]
    mode: str


def decode(
    file: Path | str | bytes, *, image_px: int, channel_count: int, fit: Fit = "crop"
) -> tuple[NDArray[np.uint8], Original]:
    """Decode one image, turn it upright, fit it into a square and resize it.

    Args:
        file: a regular file, or what is in one.
        fit: `crop` to the middle square, `pad` with white, or `stretch`.

    Returns:
        uint8 pixels HWC of image_px by image_px, and what the file held.

    Raises:
        ValueError: it is not an image, is damaged, has 32-bit pixels, is a folder or a FIFO, or is larger than
            MAX_FILE_PIXEL_COUNT or MAX_FILE_BYTES.
    """
    content = file if isinstance(file, bytes) else read_regular(file)
    try:
        plain = _plain_jpeg(content, image_px)
        if plain is not None:
            image, original = plain
            return _fitted(image, image_px, channel_count, fit), original
        with Image.open(io.BytesIO(content), formats=FORMATS) as opened:
            width_px, height_px = opened.size
            if width_px * height_px > MAX_FILE_PIXEL_COUNT:
                raise ValueError(f"{width_px}x{height_px} px is more than {MAX_FILE_PIXEL_COUNT:,} pixels")
            original = Original((height_px, width_px), mode_of(opened))
            divisor = _divisor(height_px, width_px, image_px)
            opened.draft(None, (width_px // divisor, height_px // divisor))  # only JPEG knows how
            ImageOps.exif_transpose(opened, in_place=True)  # else it copies all pixels
            upright = _with_byte_pixels(opened)
            if upright.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in upright.info:
                upright = _on_white(upright)
            return _fitted(upright, image_px, channel_count, fit), original
    except ValueError:
        raise
    except UnidentifiedImageError as error:
        raise ValueError("not an image") from error
    except Image.DecompressionBombError as error:
        raise ValueError(f"more than {MAX_FILE_PIXEL_COUNT:,} pixels") from error
    except Exception as error:  # Pillow raises a dozen kinds for a damaged file
        raise ValueError(f"damaged ({error})") from error


def read_regular(file: Path | str) -> bytes:
    """Read a file, but never wait for a FIFO or fill the memory.

    Raises:
        ValueError: it cannot be read, is no regular file, or is larger than MAX_FILE_BYTES.
    """
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise ValueError(f"cannot be read ({error.strerror})") from error
    with os.fdopen(descriptor, "rb", buffering=0) as opened:
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode):
            raise ValueError("not a regular file")
        if facts.st_size > MAX_FILE_BYTES:
            raise ValueError(f"{facts.st_size:,} bytes is more than {MAX_FILE_BYTES:,}")
        return opened.read(facts.st_size)


def _plain_jpeg(content: bytes, image_px: int) -> tuple[Image.Image, Original] | None:
    """Decode an upright gray or YCbCr JPEG twice as fast as Pillow, to the same pixels.

    None leaves the file to Pillow, as with all that libjpeg-turbo finds odd: Pillow's answer counts.
    """
    if not content.startswith(b"\xff\xd8\xff") or (
        _APP1 in content and any(mark in content for mark in _MAY_BE_TURNED)
    ):
        return None
    try:
        height_px, width_px, colours, _ = simplejpeg.decode_jpeg_header(content)
        if colours not in ("YCbCr", "Gray") or height_px * width_px > MAX_FILE_PIXEL_COUNT:
            return None
        divisor = _divisor(height_px, width_px, image_px)
        pixels = simplejpeg.decode_jpeg(
            content,
            "GRAY" if colours == "Gray" else "RGB",
            min_height=-(-height_px // divisor) if divisor > 1 else 0,
            min_width=-(-width_px // divisor) if divisor > 1 else 0,
        )
    except ValueError:
        return None
    image = Image.fromarray(pixels[..., 0] if colours == "Gray" else pixels)
    return image, Original((height_px, width_px), image.mode)


def _divisor(height_px: int, width_px: int, image_px: int) -> int:
    """Tell how much smaller a JPEG may be decoded, by the same rule whichever decoder takes it: 1, 2, 4 or 8."""
    divisor = 1
    while divisor < 8 and min(height_px, width_px) // (2 * divisor) >= _MIN_REDUCED * image_px:
        divisor *= 2
    return divisor


def _with_byte_pixels(image: Image.Image) -> Image.Image:
    """Keep the upper byte of 16-bit gray, which Pillow would clip to white."""
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError("pixels of 32 bits; save it with 8 or 16")
    return image


def _on_white(image: Image.Image) -> Image.Image:
    image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image).convert("RGB")


def _fitted(image: Image.Image, image_px: int, channel_count: int, fit: Fit) -> NDArray[np.uint8]:
    if image.mode != _MODES[channel_count]:
        image = image.convert(_MODES[channel_count])
    side, hamming = (image_px, image_px), Image.Resampling.HAMMING
    width_px, height_px = image.size
    if fit == "stretch":
        fitted = image.resize(side, hamming)
    elif fit == "pad":
        fitted = ImageOps.pad(image, side, hamming, color="white")
    else:
        middle_px = min(width_px, height_px)
        left, top = (width_px - middle_px) / 2, (height_px - middle_px) / 2
        fitted = image.resize(side, hamming, (left, top, left + middle_px, top + middle_px))
    return np.array(fitted, np.uint8).reshape(image_px, image_px, channel_count)
