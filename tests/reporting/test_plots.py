"""Pictures are files that repeat and can be opened."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from convloop.reporting.plots import plot_confusion, plot_history, plot_images

ROWS = [
    {"epoch": epoch, "train/loss": 1 / epoch, "val/loss": 1.1 / epoch, "train/accuracy": 0.5, "val/accuracy": 0.4}
    for epoch in (1.0, 2.0, 3.0)
]


def test_history_is_drawn(tmp_path: Path) -> None:
    plot_history(ROWS, tmp_path / "history.png")

    assert np.asarray(Image.open(tmp_path / "history.png").convert("L")).std() > 5


def test_the_same_numbers_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one.png", "two.png"):
        plot_confusion(np.eye(3, dtype=np.int64), ("a", "b", "c"), tmp_path / name)

    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()


def test_confusion_shows_the_answers_in_its_columns(tmp_path: Path) -> None:
    """All images of class b are answered with a: the dark field lies left of the middle, below the top."""
    plot_confusion(np.array([[0, 0], [9, 0]]), ("a", "b"), tmp_path / "confusion.png")
    image_HWC = np.asarray(Image.open(tmp_path / "confusion.png").convert("RGB")).astype(int)
    dark_HW = (image_HWC[..., 2] - image_HWC[..., 0] > 80) & (image_HWC[..., 0] < 20)
    dark_HW[:, int(dark_HW.shape[1] * 0.75) :] = False  # the colour bar
    rows, columns = np.nonzero(dark_HW)

    assert rows.mean() > dark_HW.shape[0] * 0.5
    assert columns.mean() < dark_HW.shape[1] * 0.45


@pytest.mark.parametrize("channel_count", [1, 3])
@pytest.mark.parametrize("count", [0, 1, 9])
def test_any_number_of_images_of_any_kind_is_laid_out(tmp_path: Path, channel_count: int, count: int) -> None:
    images_NHWC = np.full((count, 8, 8, channel_count), 128, np.uint8)

    plot_images(images_NHWC, ["x"] * count, "title", tmp_path / "images.png")

    with Image.open(tmp_path / "images.png") as picture:
        assert picture.size[0] > 0
