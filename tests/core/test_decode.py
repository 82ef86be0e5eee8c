"""From files of every kind to the pixels that a net sees."""

import csv
import io
import os
import random
import tarfile
import warnings
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from convloop.core.decode import MAX_FILE_BYTES, MAX_FILE_PIXEL_COUNT, decode
from tests.conftest import REPOSITORY

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
QUARTERS = np.array([[RED, GREEN], [BLUE, WHITE]], np.uint8).repeat(4, 0).repeat(4, 1)


def _saved(tmp_path: Path, image: Image.Image, name: str = "image.png", exif: Image.Exif | None = None) -> Path:
    file = tmp_path / name
    if exif is None:
        image.save(file)
    else:
        image.save(file, exif=exif)
    return file


def _pixels(file: Path, *, image_px: int = 8, channel_count: int = 3) -> NDArray[np.uint8]:
    return decode(file, image_px=image_px, channel_count=channel_count)[0]


def _message(file: Path) -> str:
    with pytest.raises(ValueError) as caught:
        decode(file, image_px=8, channel_count=3)
    return str(caught.value)


def test_an_rgb_image_of_the_right_size_keeps_its_pixels(tmp_path: Path) -> None:
    np.testing.assert_array_equal(_pixels(_saved(tmp_path, Image.fromarray(QUARTERS))), QUARTERS)


def test_pixels_are_bytes_with_a_channel_axis(tmp_path: Path) -> None:
    pixels_HWC = _pixels(_saved(tmp_path, Image.new("L", (20, 20))), image_px=5, channel_count=1)
    assert pixels_HWC.dtype == np.uint8
    assert pixels_HWC.shape == (5, 5, 1)


def test_height_and_width_of_the_file_are_told(tmp_path: Path) -> None:
    assert decode(_saved(tmp_path, Image.new("RGB", (30, 20))), image_px=8, channel_count=3)[1].size_px == (20, 30)


def test_a_gray_file_fills_all_three_channels(tmp_path: Path) -> None:
    pixels_HWC = _pixels(_saved(tmp_path, Image.new("L", (8, 8), 77)))
    np.testing.assert_array_equal(pixels_HWC, 77)


def test_a_colour_file_becomes_gray_by_its_luma(tmp_path: Path) -> None:
    pixels_HWC = _pixels(_saved(tmp_path, Image.new("RGB", (8, 8), (200, 100, 50))), channel_count=1)
    np.testing.assert_allclose(pixels_HWC, 0.299 * 200 + 0.587 * 100 + 0.114 * 50, atol=1)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparent_pixels_lie_on_white(tmp_path: Path, mode: str) -> None:
    clear = Image.new(mode, (8, 8))
    np.testing.assert_array_equal(_pixels(_saved(tmp_path, clear)), 255)


def test_half_transparent_pixels_mix_with_white(tmp_path: Path) -> None:
    file = _saved(tmp_path, Image.new("RGBA", (8, 8), (0, 0, 200, 128)))
    np.testing.assert_allclose(_pixels(file)[0, 0], np.array([0, 0, 200]) * 128 / 255 + 127, atol=1)


def test_a_palette_gives_its_colours(tmp_path: Path) -> None:
    file = _saved(tmp_path, Image.fromarray(QUARTERS).quantize(4), "image.gif")
    np.testing.assert_array_equal(_pixels(file), QUARTERS)


def test_the_transparent_entry_of_a_palette_lies_on_white(tmp_path: Path) -> None:
    image = Image.new("P", (8, 8), 1)
    image.putpalette([10, 10, 10, 20, 20, 20])
    image.save(tmp_path / "image.png", transparency=1)
    np.testing.assert_array_equal(_pixels(tmp_path / "image.png"), 255)


def test_one_bit_becomes_black_and_white(tmp_path: Path) -> None:
    image = Image.fromarray(QUARTERS[..., 0] > 0)
    np.testing.assert_array_equal(_pixels(_saved(tmp_path, image), channel_count=1)[..., 0], QUARTERS[..., 0])


def test_print_colours_become_screen_colours(tmp_path: Path) -> None:
    file = _saved(tmp_path, Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "image.tif")
    np.testing.assert_array_equal(_pixels(file)[0, 0], RED)


@pytest.mark.parametrize("name", ["image.png", "image.tif"])
def test_16_bit_gray_keeps_its_upper_byte(tmp_path: Path, name: str) -> None:
    values = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1024
    file = _saved(tmp_path, Image.fromarray(values), name)
    np.testing.assert_array_equal(_pixels(file, channel_count=1)[..., 0], values // 256)


@pytest.mark.parametrize("mode", ["I", "F"])
def test_32_bit_pixels_are_refused(tmp_path: Path, mode: str) -> None:
    assert _message(_saved(tmp_path, Image.new(mode, (8, 8)), "image.tif")) == (
        "pixels of 32 bits; save it with 8 or 16"
    )


@pytest.mark.parametrize(
    ("orientation", "turned"),
    [
        (1, QUARTERS),
        (2, QUARTERS[:, ::-1]),
        (3, QUARTERS[::-1, ::-1]),
        (4, QUARTERS[::-1]),
        (5, QUARTERS.transpose(1, 0, 2)),
        (6, np.rot90(QUARTERS, -1)),
        (7, np.rot90(QUARTERS, 2).transpose(1, 0, 2)),
        (8, np.rot90(QUARTERS, 1)),
    ],
)
def test_a_photo_is_turned_upright(tmp_path: Path, orientation: int, turned: NDArray[np.uint8]) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    np.testing.assert_array_equal(_pixels(_saved(tmp_path, Image.fromarray(QUARTERS), exif=exif)), turned)


def test_a_wide_image_is_cropped_to_its_middle(tmp_path: Path) -> None:
    wide = np.concatenate([np.zeros((8, 4, 3), np.uint8), QUARTERS, np.zeros((8, 4, 3), np.uint8)], 1)
    np.testing.assert_array_equal(_pixels(_saved(tmp_path, Image.fromarray(wide))), QUARTERS)


def _hamming_weights(small_px: int, large_px: int) -> NDArray[np.float64]:
    """Weigh the pixels of a row for each pixel of a smaller one, by a sinc in a Hamming window as wide as needed."""
    shrink = large_px / small_px
    places = (np.arange(large_px) + 0.5 - (np.arange(small_px)[:, None] + 0.5) * shrink) / shrink
    weights = np.where(abs(places) < 1, np.sinc(places) * (0.54 + 0.46 * np.cos(np.pi * places)), 0)
    normal: NDArray[np.float64] = weights / weights.sum(1, keepdims=True)
    return normal


def test_a_large_image_is_averaged_down(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 256, (32, 32), dtype=np.uint8)
    small_HWC = _pixels(_saved(tmp_path, Image.fromarray(values)), channel_count=1)
    weights = _hamming_weights(8, 32)
    np.testing.assert_allclose(small_HWC[..., 0], weights @ values @ weights.T, atol=1)


def _photo(side_px: int) -> Image.Image:
    """Draw soft random colours, as a photograph has them."""
    coarse = np.random.default_rng(0).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((side_px, side_px), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_the_fast_path_of_a_jpeg_gives_pillows_pixels(tmp_path: Path, mode: str) -> None:
    file = tmp_path / "image.jpg"
    _photo(40).convert(mode).save(file)
    with Image.open(file) as opened:
        expected = np.asarray(opened.convert("RGB"))
    np.testing.assert_array_equal(_pixels(file, image_px=40), expected)


def test_a_jpeg_that_is_halved_within_its_decoder_looks_the_same(tmp_path: Path) -> None:
    jpeg, png = tmp_path / "image.jpg", tmp_path / "image.png"
    _photo(400).save(jpeg, quality=95)
    with Image.open(jpeg) as opened:
        opened.save(png)
    np.testing.assert_allclose(_pixels(jpeg, image_px=32), _pixels(png, image_px=32), atol=6)


@pytest.mark.parametrize("size_px", [(79, 80), (80, 81), (163, 400), (321, 322), (641, 700)])
@pytest.mark.parametrize("subsampling", [0, 2])
def test_a_photo_with_exif_is_halved_by_the_same_rule(
    tmp_path: Path, size_px: tuple[int, int], subsampling: int
) -> None:
    upright = Image.Exif()
    upright[0x0112] = 1
    photo = _photo(64).resize(size_px)
    photo.save(tmp_path / "plain.jpg", subsampling=subsampling)
    photo.save(tmp_path / "exif.jpg", subsampling=subsampling, exif=upright)
    plain, with_exif = (_pixels(tmp_path / name, image_px=32) for name in ("plain.jpg", "exif.jpg"))
    np.testing.assert_array_equal(with_exif, plain)


def test_padding_keeps_all_of_a_wide_image_between_white(tmp_path: Path) -> None:
    file = _saved(tmp_path, Image.new("RGB", (16, 8), RED))
    pixels, original = decode(file, image_px=8, channel_count=3, fit="pad")
    np.testing.assert_array_equal(pixels[2:6], np.broadcast_to(RED, (4, 8, 3)))
    np.testing.assert_array_equal(pixels[[0, 1, 6, 7]], 255)
    assert original.size_px == (8, 16)


def test_stretching_keeps_all_of_a_wide_image_without_margins(tmp_path: Path) -> None:
    wide = QUARTERS.repeat(2, 1)
    pixels, _ = decode(_saved(tmp_path, Image.fromarray(wide)), image_px=8, channel_count=3, fit="stretch")
    np.testing.assert_array_equal(pixels[0, 0], RED)
    np.testing.assert_array_equal(pixels[-1, -1], WHITE)


def test_bytes_are_decoded_like_their_file(tmp_path: Path) -> None:
    file = _saved(tmp_path, Image.fromarray(QUARTERS))
    np.testing.assert_array_equal(decode(file.read_bytes(), image_px=8, channel_count=3)[0], QUARTERS)


def test_a_fifo_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert _message(tmp_path / "pipe") == "not a regular file"


def test_a_missing_file_is_a_value_error(tmp_path: Path) -> None:
    assert _message(tmp_path / "none") == "cannot be read (No such file or directory)"


def test_a_file_of_too_many_bytes_is_refused_unread(tmp_path: Path) -> None:
    with (tmp_path / "large").open("wb") as opened:
        opened.truncate(MAX_FILE_BYTES + 1)
    assert _message(tmp_path / "large") == "268,435,457 bytes is more than 268,435,456"


def test_a_format_that_would_start_another_program_is_no_image(tmp_path: Path) -> None:
    Image.fromarray(QUARTERS).save(tmp_path / "image.eps")
    assert _message(tmp_path / "image.eps") == "not an image"


def test_hostile_files_behave_as_their_manifest_says() -> None:
    packed = REPOSITORY.parent / "shared/data/bad_inputs_dev.tar"
    if not packed.is_file():
        pytest.skip(f"the hostile files are not here ({packed})")
    with tarfile.open(packed) as archive:
        content = {member.name: archive.extractfile(member) for member in archive.getmembers()}
        files = {name: opened.read() for name, opened in content.items() if opened is not None}
    rows = list(csv.DictReader(files["bad_inputs_dev/manifest.csv"].decode().splitlines()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns about odd headers
        usable = {row["name"]: _is_usable(files[f"bad_inputs_dev/{row['category']}/{row['name']}"]) for row in rows}
    assert usable == {row["name"]: row["pillow_13.0.0_result"] == "ok" for row in rows}


def _is_usable(content: bytes) -> bool:
    try:
        pixels, _ = decode(content, image_px=8, channel_count=3)
    except ValueError:
        return False
    return pixels.shape == (8, 8, 3)


def test_text_is_not_an_image(tmp_path: Path) -> None:
    file = tmp_path / "image.png"
    file.write_text("not pixels")
    assert _message(file) == "not an image"


def test_an_empty_file_is_not_an_image(tmp_path: Path) -> None:
    file = tmp_path / "image.png"
    file.write_bytes(b"")
    assert _message(file) == "not an image"


def test_a_cut_off_image_is_damaged(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    file = _saved(tmp_path, Image.fromarray(noise), "image.jpg")
    file.write_bytes(file.read_bytes()[:1000])
    assert _message(file).startswith("damaged (image file is truncated")


def test_an_image_of_too_many_pixels_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    side_px = 8_000
    assert side_px**2 > MAX_FILE_PIXEL_COUNT
    file = _saved(tmp_path, Image.new("1", (side_px, side_px)))
    assert _message(file) == "8000x8000 px is more than 50,000,000 pixels"


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "TIFF", "BMP"])
def test_random_damage_is_never_more_than_a_value_error(tmp_path: Path, kind: str) -> None:
    rng = random.Random(1)
    whole = io.BytesIO()
    Image.fromarray(QUARTERS).save(whole, kind)
    file = tmp_path / "image"
    for _ in range(150):
        damaged = bytearray(whole.getvalue())
        for _ in range(rng.randint(1, 4)):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        file.write_bytes(damaged[: rng.randint(len(damaged) // 2, len(damaged))])
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Pillow warns about odd headers
                pixels_HWC = _pixels(file)
        except ValueError:
            continue
        assert pixels_HWC.shape == (8, 8, 3)
