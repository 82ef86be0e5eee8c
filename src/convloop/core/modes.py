"""What the pixels of an original image were, before all images became gray or RGB bytes."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

UNKNOWN, SIXTEEN_BIT, OTHER = "unknown", "16-bit", "other"
# Shards keep the place in this list: it may only grow. Pillow's words, but for the three above.
MODES = (UNKNOWN, "1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", SIXTEEN_BIT, OTHER)


def mode_of(opened: "Image.Image") -> str:
    """Name the mode of an image that Pillow has opened but not loaded; 16 bits in a channel count before colours."""
    if opened.mode.startswith("I;16") or any(";16" in str(tile[3]) for tile in getattr(opened, "tile", ())):
        return SIXTEEN_BIT
    return opened.mode if opened.mode in MODES else OTHER
