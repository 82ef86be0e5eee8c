"""prepare: the data gate lets nothing damaged, torn or scarce through."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convloop.config import Params, check
from convloop.core.folders import fresh_folder
from convloop.core.images import NO_SPLIT, Batch, write_shards
from convloop.errors import DataError, OutputError
from convloop.pipeline import STAGES
from convloop.reporting.publish import publish_training
from convloop.tracking import Tracker

_CLASSES = ("cat", "dog", "hen")


def run(word: str, project: Path, params: Params) -> None:
    STAGES[word].run(params, project, Tracker(project, params.tracking, publish_training))


def write_raw(project: Path, counts: tuple[int, ...], twin_of_other_class: bool = False) -> None:
    """Write random images, so many of each class."""
    labels_N = np.repeat(np.arange(len(counts)), counts)
    count = len(labels_N)
    images_NHWC = np.random.default_rng(7).integers(0, 256, (count, 8, 8, 1), np.uint8)
    if twin_of_other_class:
        images_NHWC[-1] = images_NHWC[0]
    names_N = np.array([f"image-{index:04d}" for index in range(count)])
    batch = Batch(images_NHWC, labels_N, np.full(count, NO_SPLIT, np.int8), np.full((count, 2), 8, np.int32), names_N)
    with fresh_folder(project / "data/raw") as folder:
        write_shards(folder, [batch], _CLASSES[: len(counts)], {})


@pytest.fixture
def other_params() -> Params:
    return check({"prepare": {"val_share": 0.2, "test_share": 0.2, "min_class_image_count": 5}})


def test_prepare_splits_all_images_and_says_so(
    project: Path, other_params: Params, capsys: pytest.CaptureFixture[str]
) -> None:
    write_raw(project, (300, 300))
    run("prepare", project, other_params)
    card: dict[str, Any] = json.loads((project / "data/prepared/card.json").read_text())
    splits_N = np.load(project / "data/prepared/splits.npy")
    train, val, test = (int((splits_N == split).sum()) for split in range(3))
    assert card["split_image_count"] == {"train": train, "val": val, "test": test}
    assert train + val + test == 600
    assert capsys.readouterr().out == (
        f"data/prepared splits 600 images: {train:,} train, {val:,} val, {test:,} test.\n"
    )


def test_preparing_twice_writes_the_same_bytes(trained: Path, params: Params) -> None:
    files = [trained / "data/prepared" / name for name in ("card.json", "splits.npy")]
    before = [file.read_bytes() for file in files]
    run("prepare", trained, params)
    assert [file.read_bytes() for file in files] == before


def test_prepare_needs_raw_data(project: Path, params: Params) -> None:
    with pytest.raises(DataError) as raised:
        run("prepare", project, params)
    assert str(raised.value) == (
        f"{project}/data/raw/manifest.json is missing. "
        "Make it: dvc repro generate (data/landed comes with git: git checkout)."
    )


def test_train_needs_raw_data(project: Path, params: Params) -> None:
    with pytest.raises(DataError) as raised:
        run("train", project, params)
    assert str(raised.value) == (
        f"{project}/data/raw/manifest.json is missing. "
        "Make it: dvc repro generate (data/landed comes with git: git checkout)."
    )


def test_train_needs_prepared_data(project: Path, other_params: Params) -> None:
    write_raw(project, (300, 300))
    with pytest.raises(DataError) as raised:
        run("train", project, other_params)
    assert str(raised.value) == f"{project}/data/prepared/card.json is missing. Make it: dvc repro prepare"


@pytest.mark.parametrize("word", ["prepare", "train"])
def test_damaged_shard_is_named_before_anything_is_done(project: Path, other_params: Params, word: str) -> None:
    write_raw(project, (300, 300))
    shard = project / "data/raw/shard-00000.images.npy"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 0xFF
    shard.write_bytes(bytes(content))
    with pytest.raises(DataError) as raised:
        run(word, project, other_params)
    said = str(raised.value)
    assert said.startswith(f"{shard} is damaged: its sha256 is ")
    assert said.endswith(". Make it again: dvc repro --force generate")
    assert not (project / "data/prepared").exists()
    assert not (project / "work/checkpoints").exists()


def test_missing_shard_is_named(project: Path, other_params: Params) -> None:
    write_raw(project, (300, 300))
    shard = project / "data/raw/shard-00000.facts.npz"
    shard.unlink()
    with pytest.raises(DataError) as raised:
        run("prepare", project, other_params)
    assert str(raised.value) == (
        f"{shard} is missing, but {project}/data/raw/manifest.json lists it. Make it again: dvc repro --force generate"
    )


def test_scarce_class_stops_the_pipeline(project: Path, other_params: Params) -> None:
    write_raw(project, (300, 300, 2))
    with pytest.raises(DataError) as raised:
        run("prepare", project, other_params)
    first, *findings, last = str(raised.value).splitlines()
    assert first == f"data/raw and data/landed: {len(findings)} findings stop the pipeline."
    assert last == "Mend the source or the key named, then run dvc repro"
    assert [finding.partition(" has ")[0] for finding in findings] == ["  - class hen"] * 3
    assert [finding.partition("images in ")[2] for finding in findings] == [
        f"{split}; prepare.min_class_image_count asks for 5" for split in ("train", "val", "test")
    ]
    assert not (project / "data/prepared").exists()


def test_same_pixels_under_two_labels_stop_the_pipeline(project: Path, other_params: Params) -> None:
    write_raw(project, (300, 300), twin_of_other_class=True)
    with pytest.raises(DataError) as raised:
        run("prepare", project, other_params)
    assert str(raised.value) == (
        "data/raw and data/landed: 1 findings stop the pipeline.\n"
        "  - identical pixels under different labels (1 times, first image-0000, image-0599)\n"
        "Mend the source or the key named, then run dvc repro"
    )


def test_blocked_data_leave_the_older_preparation(trained: Path, params: Params, other_params: Params) -> None:
    before = (trained / "data/prepared/card.json").read_bytes()
    write_raw(trained, (300, 300, 2))
    with pytest.raises(DataError):
        run("prepare", trained, other_params)
    assert (trained / "data/prepared/card.json").read_bytes() == before


def test_imbalance_warns_and_goes_on(project: Path, other_params: Params, capsys: pytest.CaptureFixture[str]) -> None:
    write_raw(project, (3000, 100))
    run("prepare", project, other_params)
    warning, _ = capsys.readouterr().out.splitlines()
    assert warning == "Warning: class cat has 30 times as many images as dog."
    assert json.loads((project / "data/prepared/card.json").read_text())["warnings"] == [
        "class cat has 30 times as many images as dog"
    ]


def test_file_in_the_way_is_named(project: Path, other_params: Params) -> None:
    write_raw(project, (300, 300))
    (project / "data/prepared").write_text("in the way")
    with pytest.raises(OutputError) as raised:
        run("prepare", project, other_params)
    assert str(raised.value) == (
        f"{project}/data/prepared cannot be written: Not a directory. Make it writable "
        f"(ls -ld {project}/data; df -h {project}/data), then run the same command again."
    )
