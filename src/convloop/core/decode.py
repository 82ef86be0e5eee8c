"""From an image file to the pixels that a net sees: the one preprocessing for ingest and prediction alike."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

MAX_FILE_PIXEL_COUNT = 50_000_000
_MODES = {1: "L", 3: "RGB"}


def decode(file: Path, *, image_px: int, channel_count: int) -> tuple[NDArray[np.uint8], tuple[int, int]]:
    """Decode one image file, turn it upright, crop its middle square and resize it.

    Returns:
        uint8 pixels HWC of image_px by image_px, and height and width of the file in px.

    Raises:
        ValueError: the file is not an image, is damaged, has 32-bit pixels, or is larger than MAX_FILE_PIXEL_COUNT.
    """
    try:
        with Image.open(file) as opened:
            width_px, height_px = opened.size
            if width_px * height_px > MAX_FILE_PIXEL_COUNT:
                raise ValueError(f"{width_px}x{height_px} px is more than {MAX_FILE_PIXEL_COUNT:,} pixels")
            upright = _with_byte_pixels(ImageOps.exif_transpose(opened))
            if upright.mode in ("RGBA", "LA", "PA") or "transparency" in upright.info:
                upright = _on_white(upright)
            fitted = ImageOps.fit(upright.convert(_MODES[channel_count]), (image_px, image_px), Image.Resampling.BOX)
    except ValueError:
        raise
    except UnidentifiedImageError as error:
        raise ValueError("not an image") from error
    except Exception as error:  # Pillow raises a dozen kinds for a damaged file
        raise ValueError(f"damaged ({error})") from error
    pixels = np.array(fitted, np.uint8)
    return pixels.reshape(image_px, image_px, channel_count), (height_px, width_px)


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
