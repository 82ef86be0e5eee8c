"""The list of pictures taken down: what is on it stays out, and without it nothing goes on."""

from pathlib import Path

import numpy as np
import pytest

from convloop.core.images import content_hashes, open_images
from convloop.core.shards import write_shards
from convloop.core.takedown_list import FILE, Allowed, Listed, read_takedown, refuse_listed, takedown_text
from convloop.errors import DataError

from .pictures import batch_of, random_pixels

PIXELS = random_pixels(6)
UTC = "2026-01-01T00:00:00+00:00"


def listed(place: int, *, folder: str = "raw", source: str = "folder", name: str = "") -> Listed:
    return Listed(bytes(content_hashes(PIXELS[place : place + 1])[0]).hex(), folder, source, name, UTC)


def write(project: Path, text: str) -> Path:
    file = project / FILE
    file.parent.mkdir(parents=True)
    file.write_text(text)
    return file


@pytest.mark.parametrize("name", ["cat/a.png", 'a "b", c.png', "line\nbreak.png", "cr\rx.png", "katze-ä.png", ""])
def test_list_gives_back_what_was_written(tmp_path: Path, name: str) -> None:
    entries = (listed(0, name=name), listed(1, folder="landed", source="march.csv"))
    (tmp_path / "data").mkdir()
    (tmp_path / FILE).write_text(takedown_text(entries), newline="")

    assert read_takedown(tmp_path) == entries


def test_missing_list_stops(tmp_path: Path) -> None:
    with pytest.raises(DataError) as raised:
        read_takedown(tmp_path)

    assert str(raised.value) == f"{tmp_path}/{FILE} is missing. It comes with git: git checkout {FILE}"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "not enough values to unpack (expected at least 1, got 0)"),
        ("name\nx\n", "its first line is not content_sha256,folder,source,name,utc"),
        ("content_sha256,folder,source,name,utc\nab,raw,x,y,z\n", "a hash has not 64 hex digits"),
    ],
)
def test_damaged_list_stops(tmp_path: Path, text: str, problem: str) -> None:
    file = write(tmp_path, text)

    with pytest.raises(DataError) as raised:
        read_takedown(tmp_path)

    assert str(raised.value) == f"{file} is damaged: {problem}. Restore it: git checkout {FILE}"


def test_listed_pixels_are_left_out_whatever_their_name(tmp_path: Path) -> None:
    batches = [batch_of(PIXELS[:3], [0, 1, 2], splits=[0, 1, 2]), batch_of(PIXELS[3:], [2, 1, 0])]

    allowed = Allowed(batches, (listed(1, name="other"), listed(5, folder="landed")), "folder")
    write_shards(tmp_path, allowed, ("a", "b", "c"), {})
    images = open_images(tmp_path)

    assert allowed.left_out_count == 2
    np.testing.assert_array_equal(images.take(np.arange(4)), PIXELS[[0, 2, 3, 4]])
    assert images.labels_N.tolist() == [0, 2, 2, 1]
    assert images.splits_N.tolist() == [0, 2, -1, -1]


def test_listed_names_are_left_out_at_any_size() -> None:
    batch = batch_of(random_pixels(3, side_px=16, seed=9), [0, 0, 0])

    (left,) = Allowed([batch], (listed(0, name=str(batch.names_N[1])),), "folder")

    assert left.names_N.tolist() == batch.names_N[[0, 2]].tolist()


@pytest.mark.parametrize(("folder", "source"), [("landed", "folder"), ("raw", "csv")])
def test_names_of_elsewhere_do_not_count(folder: str, source: str) -> None:
    batch = batch_of(random_pixels(3, side_px=16, seed=9), [0, 0, 0])

    (left,) = Allowed([batch], (listed(0, folder=folder, source=source, name=str(batch.names_N[1])),), "folder")

    assert len(left.labels_N) == 3


def test_batch_of_listed_images_alone_vanishes() -> None:
    assert list(Allowed([batch_of(PIXELS[:1], [0])], (listed(0),), "folder")) == []


def test_empty_list_passes_batches_on_untouched() -> None:
    batch = batch_of(PIXELS, [0] * 6)

    assert next(iter(Allowed([batch], (), "folder"))) is batch


def test_shard_that_holds_a_listed_image_is_refused(tmp_path: Path) -> None:
    write_shards(tmp_path, [batch_of(PIXELS, [0] * 6)], ("a",), {})
    images = open_images(tmp_path)

    with pytest.raises(DataError) as raised:
        refuse_listed(images, (listed(2), listed(4)))

    name = images.names_N[2]
    assert str(raised.value) == (
        f"data/raw and data/landed hold 2 images of {FILE}, such as {name}. "
        f'Leave them out: dvc repro generate, or convloop takedown "{name}" where it has landed.'
    )


def test_shards_without_listed_images_pass(tmp_path: Path) -> None:
    write_shards(tmp_path, [batch_of(PIXELS[:2], [0] * 2)], ("a",), {})

    refuse_listed(open_images(tmp_path), (listed(2), listed(4)))
