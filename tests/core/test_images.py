"""Shards: what is written is what is read, and nothing else is read."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from convloop.core.images import (
    content_hashes,
    manifest_text,
    open_images,
    read_manifest,
    write_shard,
)
from convloop.core.modes import MODES
from convloop.core.phash import perceptual_hashes
from convloop.core.shards import write_shards
from convloop.errors import DataError

from .pictures import batch_of, random_pixels

CLASSES = ("cat", "dog", "owl")


def _filled(
    folder: Path, *, count: int = 5, side_px: int = 8, classes: tuple[str, ...] = CLASSES, seed: int = 0
) -> Path:
    folder.mkdir(parents=True)
    labels = [index % len(classes) for index in range(count)]
    write_shards(folder, [batch_of(random_pixels(count, side_px=side_px, seed=seed), labels)], classes, {})
    return folder


def _message(*folders: Path) -> str:
    with pytest.raises(DataError) as caught:
        open_images(*folders)
    return str(caught.value)


def _sha256_start(file: Path) -> str:
    entry = json.loads((file.parent / "manifest.json").read_text())["shards"][0]
    return str(entry["images_sha256" if ".images." in file.name else "facts_sha256"])[:12]


def _without(folder: Path, fact: str) -> Path:
    """Turn a data folder into an older one, whose shard has no such fact."""
    file, manifest = folder / "shard-00000.facts.npz", read_manifest(folder)
    with np.load(file) as archive:
        facts = {name: archive[name] for name in archive.files if name != fact}
    np.savez(file, **facts)
    manifest["shards"][0]["facts_sha256"] = hashlib.sha256(file.read_bytes()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def test_shards_give_back_every_fact_that_was_written(tmp_path: Path) -> None:
    written = batch_of(random_pixels(4), [2, 0, 1, 2], splits=[0, 2, -1, 1])

    count = write_shards(tmp_path, [written], CLASSES, {"source": "test"})
    images = open_images(tmp_path)

    assert count == len(images) == 4
    assert images.classes == CLASSES
    assert images.shape_HWC == (8, 8, 3)
    np.testing.assert_array_equal(images.take(np.arange(4)), written.images_NHWC)
    np.testing.assert_array_equal(images.labels_N, written.labels_N)
    np.testing.assert_array_equal(images.splits_N, written.splits_N)
    np.testing.assert_array_equal(images.names_N, written.names_N)
    np.testing.assert_array_equal(images.content_N, content_hashes(written.images_NHWC))
    assert images.slices_N is not None
    assert images.slices_N.tolist() == ["", "", "", ""]
    with np.load(tmp_path / "shard-00000.facts.npz") as facts:
        np.testing.assert_array_equal(facts["original_px"], written.original_px_N2)


def test_the_manifest_keeps_further_facts(tmp_path: Path) -> None:
    write_shards(tmp_path, [batch_of(random_pixels(1), [0])], CLASSES, {"source": "test"})
    assert read_manifest(tmp_path)["source"] == "test"


def test_pixels_stay_on_disk_until_taken(tmp_path: Path) -> None:
    assert isinstance(open_images(_filled(tmp_path / "raw")).shards[0], np.memmap)


def test_a_shard_from_before_slices_can_be_read(tmp_path: Path) -> None:
    slices_N = open_images(_without(_filled(tmp_path / "raw", count=3), "slices")).slices_N
    assert slices_N is not None
    assert slices_N.tolist() == ["", "", ""]


def test_an_array_without_a_mode_has_that_of_its_channels(tmp_path: Path) -> None:
    for channel_count, mode in ((1, "L"), (3, "RGB")):
        write_shards(tmp_path, [batch_of(random_pixels(2, channel_count=channel_count), [0, 1])], CLASSES, {})
        modes_N = open_images(tmp_path).modes_N
        assert modes_N is not None
        assert [MODES[code] for code in modes_N] == [mode, mode]


def test_a_shard_from_before_modes_does_not_know_them(tmp_path: Path) -> None:
    modes_N = open_images(_without(_filled(tmp_path / "raw", count=2), "modes")).modes_N
    assert modes_N is not None
    assert [MODES[code] for code in modes_N] == ["unknown", "unknown"]


def test_take_follows_the_order_asked_for_across_shards(tmp_path: Path) -> None:
    first, second = _filled(tmp_path / "raw", seed=1), _filled(tmp_path / "landed", seed=2)
    pixels_NHWC = np.concatenate([random_pixels(5, seed=1), random_pixels(5, seed=2)])
    wanted = np.array([9, 0, 4, 5, 0])
    np.testing.assert_array_equal(open_images(first, second).take(wanted), pixels_NHWC[wanted])


def test_equal_pixels_have_equal_hashes() -> None:
    pixels_NHWC = random_pixels(2)
    twice_NHWC = np.concatenate([pixels_NHWC, pixels_NHWC])
    content_N = content_hashes(twice_NHWC)
    assert content_N[0] == content_N[2]
    assert content_N[0] != content_N[1]


def test_the_same_bytes_in_another_shape_are_another_image() -> None:
    pixels_NHWC = random_pixels(1, side_px=8, channel_count=1)
    assert content_hashes(pixels_NHWC)[0] != content_hashes(pixels_NHWC.reshape(1, 4, 16, 1))[0]


def test_a_missing_manifest_is_named(tmp_path: Path) -> None:
    assert _message(tmp_path) == (
        f"{tmp_path}/manifest.json is missing. Make it: dvc repro generate (data/landed comes with git: git checkout)."
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "not json",
        "[]",
        "3",
        "\x00",
        "{}",
        '{"format": 2, "classes": [], "shards": []}',
        '{"format": 1, "classes": "cat", "shards": []}',
        '{"format": 1, "classes": [], "shards": 3}',
        '{"format": 1, "classes": [], "shards": [{"name": "shard-00000"}]}',
        '{"format": 1, "classes": [], "shards": [3]}',
        '<<<<<<< HEAD\n{"format": 1, "classes": [], "shards": []}',
    ],
)
def test_a_damaged_manifest_is_named(tmp_path: Path, text: str) -> None:
    raw = _filled(tmp_path / "raw")
    (raw / "manifest.json").write_text(text)
    assert _message(raw) == (
        f"{raw}/manifest.json is damaged: it is not a manifest. Make it again: dvc repro --force generate"
    )


def test_a_manifest_that_is_not_text_is_damaged(tmp_path: Path) -> None:
    raw = _filled(tmp_path / "raw")
    (raw / "manifest.json").write_bytes(b"\xff\xfe\x00")
    assert _message(raw) == (
        f"{raw}/manifest.json is damaged: it is not a manifest. Make it again: dvc repro --force generate"
    )


def test_a_damaged_manifest_of_landed_images_comes_back_from_git(tmp_path: Path) -> None:
    landed = _filled(tmp_path / "landed")
    (landed / "manifest.json").write_text("")
    assert _message(landed) == (
        f"{landed}/manifest.json is damaged: it is not a manifest. Restore it: git checkout {landed}/manifest.json"
    )


@pytest.mark.parametrize("name", ["shard-00000.images.npy", "shard-00000.facts.npz"])
def test_one_changed_byte_is_found_and_its_file_named(tmp_path: Path, name: str) -> None:
    file = _filled(tmp_path / "raw") / name
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    received = hashlib.sha256(content).hexdigest()[:12]
    assert _message(file.parent) == (
        f"{file} is damaged: its sha256 is {received}, the manifest says {_sha256_start(file)}. "
        "Make it again: dvc repro --force generate"
    )


def test_a_cut_off_shard_is_found(tmp_path: Path) -> None:
    file = _filled(tmp_path / "raw") / "shard-00000.images.npy"
    file.write_bytes(file.read_bytes()[:-10])
    assert _message(file.parent).startswith(f"{file} is damaged: its sha256 is ")


@pytest.mark.parametrize("name", ["shard-00000.images.npy", "shard-00000.facts.npz"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    raw = _filled(tmp_path / "raw")
    (raw / name).unlink()
    assert _message(raw) == (
        f"{raw}/{name} is missing, but {raw}/manifest.json lists it. Make it again: dvc repro --force generate"
    )


def test_a_missing_landed_file_comes_back_from_dvc(tmp_path: Path) -> None:
    landed = _filled(tmp_path / "landed")
    (landed / "shard-00000.images.npy").unlink()
    assert _message(landed) == (
        f"{landed}/shard-00000.images.npy is missing, but {landed}/manifest.json lists it. "
        "Fetch it: dvc checkout, or dvc pull where a remote is set."
    )


def test_folders_are_joined_with_classes_matched_by_name(tmp_path: Path) -> None:
    raw = _filled(tmp_path / "raw", count=3)
    landed = _filled(tmp_path / "landed", count=4, classes=("owl", "cat"), seed=1)

    images = open_images(raw, landed)

    assert images.classes == CLASSES
    assert [images.classes[label] for label in images.labels_N] == ["cat", "dog", "owl", "owl", "cat", "owl", "cat"]
    np.testing.assert_array_equal(images.take(np.arange(3, 7)), random_pixels(4, seed=1))


def test_images_of_the_first_folder_arrived_first_and_later_shards_one_by_one(tmp_path: Path) -> None:
    raw, landed = _filled(tmp_path / "raw", count=3), tmp_path / "landed"
    landed.mkdir()
    shards = [write_shard(landed, name, batch_of(random_pixels(2, seed=ord(name)), [0, 1])) for name in "ab"]
    (landed / "manifest.json").write_text(manifest_text(CLASSES, shards, {}))
    assert open_images(raw, landed).arrivals_N.tolist() == [0, 0, 0, 1, 1, 2, 2]


def test_a_shard_from_before_perceptual_hashes_gets_them_when_opened(tmp_path: Path) -> None:
    raw = _without(_filled(tmp_path / "raw"), "phash")
    np.testing.assert_array_equal(open_images(raw).phash_N, perceptual_hashes(random_pixels(5)))


def test_a_folder_without_shards_adds_nothing(tmp_path: Path) -> None:
    raw, landed = _filled(tmp_path / "raw"), tmp_path / "landed"
    landed.mkdir()
    (landed / "manifest.json").write_text('{"format": 1, "classes": [], "shards": []}')
    assert len(open_images(raw, landed)) == 5


def test_a_class_that_the_first_folder_does_not_know_is_refused(tmp_path: Path) -> None:
    raw = _filled(tmp_path / "raw")
    landed = _filled(tmp_path / "landed", classes=("cat", "emu"))
    assert _message(raw, landed) == (
        f"{landed} holds the class emu, which is not one of cat, dog, owl. "
        "Add images of it to the source, or take its shard out of that manifest."
    )


def test_images_of_another_size_are_refused(tmp_path: Path) -> None:
    raw = _filled(tmp_path / "raw", side_px=8)
    landed = _filled(tmp_path / "landed", side_px=9)
    assert _message(raw, landed) == (
        f"{landed}/shard-00000 holds images of 9x9x3, but {raw} of 8x8x3. "
        "Set generate.image_px back, or remove that shard's line from the manifest and its files."
    )
