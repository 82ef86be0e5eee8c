"""generate: any source becomes the same shards, and a source that cannot be read leaves the old ones."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from convloop.config import Params
from convloop.core.images import open_images
from convloop.core.modes import MODES
from convloop.errors import DataError, OutputError
from convloop.params_check import check
from convloop.pipeline import STAGES
from convloop.tracking import Tracker


def generate(project: Path, params: Params) -> None:
    STAGES["generate"].run(params, project, Tracker(project, params.tracking))


def params_of(source: str, **settings: Any) -> Params:
    return check({"generate": {"source": source, **settings}})


def test_generate_writes_shards_and_says_so(project: Path, params: Params, capsys: pytest.CaptureFixture[str]) -> None:
    generate(project, params)
    images = open_images(project / "data/raw")
    assert (len(images), images.shape_HWC, len(images.classes)) == (600, (16, 16, 3), 3)
    assert capsys.readouterr().out == "data/raw holds 600 images of 3 classes from synthetic.\n"
    assert json.loads((project / "data/raw/manifest.json").read_text())["source"] == "synthetic"


def test_generating_twice_writes_the_same_bytes(project: Path, params: Params) -> None:
    generate(project, params)
    before = {file.name: file.read_bytes() for file in (project / "data/raw").iterdir()}
    generate(project, params)
    assert {file.name: file.read_bytes() for file in (project / "data/raw").iterdir()} == before


def test_images_of_an_npz_file_arrive_unchanged(project: Path) -> None:
    images_NHWC = np.random.default_rng(7).integers(0, 256, (30, 8, 8, 3), np.uint8)
    labels_N = np.arange(30) % 3
    np.savez(project / "own.npz", images=images_NHWC, labels=labels_N, classes=np.array(["cat", "dog", "hen"]))
    generate(project, params_of("npz", path=str(project / "own.npz")))
    images = open_images(project / "data/raw")
    np.testing.assert_array_equal(images.take(np.arange(30)), images_NHWC)
    np.testing.assert_array_equal(images.labels_N, labels_N)
    assert images.classes == ("cat", "dog", "hen")


def test_source_without_its_file_is_named(project: Path) -> None:
    with pytest.raises(DataError) as raised:
        generate(project, params_of("npz", path=str(project / "absent.npz")))
    assert str(raised.value) == (
        f"params.yaml: generate.path is {project}/absent.npz, which is not a file. Set it to an .npz file."
    )
    assert not (project / "data/raw").exists()


def test_source_that_breaks_in_the_middle_leaves_the_older_shards(trained: Path, params: Params) -> None:
    before = {file.name: file.read_bytes() for file in (trained / "data/raw").iterdir()}
    folder = trained / "cifar"
    folder.mkdir()
    record = bytes(1 + 3 * 32 * 32)
    (folder / "data_batch_1.bin").write_bytes(record * 3)
    (folder / "test_batch.bin").write_bytes(record + b"half")
    with pytest.raises(DataError) as raised:
        generate(trained, params_of("cifar10", path=str(folder)))
    assert str(raised.value) == (
        f"{folder}/test_batch.bin holds 3,077 bytes, which is not a multiple of 3073. Fetch that file again."
    )
    assert {file.name: file.read_bytes() for file in (trained / "data/raw").iterdir()} == before
    assert not (trained / "data/raw.tmp").exists()


def test_file_in_the_way_of_the_shards_is_named(project: Path, params: Params) -> None:
    (project / "data/raw").write_text("in the way")
    with pytest.raises(OutputError) as raised:
        generate(project, params)
    assert str(raised.value) == (
        f"{project}/data/raw cannot be written: Not a directory. Make it writable "
        f"(ls -ld {project}/data; df -h {project}/data), then run the same command again."
    )


def test_file_in_the_way_of_the_data_folder_is_named(project: Path, params: Params) -> None:
    shutil.rmtree(project / "data")
    (project / "data").write_text("in the way")
    with pytest.raises(OutputError) as raised:
        generate(project, params)
    assert str(raised.value) == (
        f"{project}/data/raw cannot be written: Not a directory. Make it writable "
        f"(ls -ld {project}/data; df -h {project}/data), then run the same command again."
    )


def _random_pixels(seed: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (12, 12, 3), np.uint8)


def _pictures(folder: Path, count: int, broken_count: int = 0) -> Path:
    for index in range(count + broken_count):
        file = folder / ("cat", "dog")[index % 2] / f"{index:03d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        if index < broken_count:
            file.write_text("<html>not found</html>")
        else:
            Image.fromarray(_random_pixels(index)).save(file)
    return folder


def _tiny_pictures(folder: Path, count: int) -> Path:
    """Write so many gray pictures of one pixel, each by hand, since Pillow would take a minute."""
    for label, name in enumerate(("cat", "dog")):
        (folder / name).mkdir(parents=True)
        for index in range(label, count, 2):
            (folder / name / f"{index:05d}.ppm").write_bytes(b"P5 1 1 255\n" + bytes([index % 256]))
    return folder


def test_a_folder_of_pictures_becomes_shards(project: Path) -> None:
    generate(project, params_of("folder", path=str(_pictures(project / "own", 70)), image_px=12))
    images = open_images(project / "data/raw")
    assert images.classes == ("cat", "dog")
    assert images.names_N[:2].tolist() == ["cat/000.png", "cat/002.png"]
    assert images.labels_N.tolist() == [0] * 35 + [1] * 35
    np.testing.assert_array_equal(images.take(np.array([1]))[0], _random_pixels(2))
    assert (project / "data/raw/refused.csv").read_text() == "file,reason\n"
    assert json.loads((project / "data/raw/manifest.json").read_text())["refused_count"] == 0


def test_what_is_refused_is_listed_and_counted(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = _pictures(project / "own", 20, broken_count=2)
    (folder / "cat/a\nb,c.png").write_bytes(b"")
    (folder / "cat/Thumbs.db").write_bytes(b"")
    generate(project, params_of("folder", path=str(folder), image_px=12, max_refused_share=0.2))
    with (project / "data/raw/refused.csv").open(newline="") as opened:
        assert list(csv.reader(opened)) == [
            ["file", "reason"],
            ["cat/000.png", "not an image"],
            ["cat/Thumbs.db", "left by an operating system, not an image"],
            ["cat/a\nb,c.png", "not an image"],
            ["dog/001.png", "not an image"],
        ]
    assert json.loads((project / "data/raw/manifest.json").read_text())["refused_count"] == 4
    assert len(open_images(project / "data/raw")) == 20
    assert capsys.readouterr().out == (
        "data/raw holds 20 images of 2 classes from folder.\n"
        "Refused 4 files, listed with the reason in data/raw/refused.csv.\n"
    )


def test_too_many_refused_files_stop_the_stage_and_leave_the_older_shards(trained: Path) -> None:
    before = (trained / "data/raw/manifest.json").read_bytes()
    folder = _pictures(trained / "own", 3, broken_count=1)
    with pytest.raises(DataError) as raised:
        generate(trained, params_of("folder", path=str(folder), image_px=12, max_refused_share=0.2))
    assert str(raised.value) == (
        "1 of 4 files are refused, a share of 0.25; generate.max_refused_share allows 0.2. The first is cat/000.png "
        "(not an image); work/refused.csv lists all. Mend or remove them, or raise that key."
    )
    assert (trained / "work/refused.csv").read_text() == "file,reason\ncat/000.png,not an image\n"
    assert (trained / "data/raw/manifest.json").read_bytes() == before


def test_a_share_of_refused_files_just_allowed_passes(project: Path) -> None:
    folder = _pictures(project / "own", 3, broken_count=1)
    generate(project, params_of("folder", path=str(folder), image_px=12, max_refused_share=0.25))
    assert len(open_images(project / "data/raw")) == 3


def test_files_of_operating_systems_count_against_no_share(project: Path) -> None:
    folder = _pictures(project / "own", 4)
    (folder / "cat/.DS_Store").write_bytes(b"")
    generate(project, params_of("folder", path=str(folder), image_px=12, max_refused_share=0.0))
    assert len(open_images(project / "data/raw")) == 4


def _manifest(project: Path) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads((project / "data/raw/manifest.json").read_text())
    return manifest


def test_a_licence_at_the_top_of_a_folder_is_kept_and_counts_against_no_share(project: Path) -> None:
    folder = _pictures(project / "source", 6)
    (folder / "README.md").write_text("# Cats and dogs\n")
    (folder / "LICENSE").write_text("\n   CC BY 4.0\n\nYou may share.\n")
    generate(project, params_of("folder", path=str(folder), image_px=8, max_refused_share=0.0))
    assert _manifest(project)["licence"] == "LICENSE: CC BY 4.0"


def test_the_licence_in_params_counts_before_that_of_the_folder(project: Path) -> None:
    folder = _pictures(project / "source", 6)
    (folder / "LICENSE").write_text("CC BY 4.0\n")
    generate(project, params_of("folder", path=str(folder), image_px=8, licence="bought from A. Photographer"))
    assert _manifest(project)["licence"] == "bought from A. Photographer"


def test_without_a_word_on_the_licence_none_is_claimed(project: Path, params: Params) -> None:
    generate(project, params)
    assert "licence" not in _manifest(project)


def test_modes_of_decoded_images_are_kept(project: Path) -> None:
    folder = _pictures(project / "source", 4)
    Image.new("RGBA", (8, 8), "red").save(folder / "cat/zz.png")
    Image.new("CMYK", (8, 8)).save(folder / "dog/zz.jpg")
    generate(project, params_of("folder", path=str(folder), image_px=8))
    images = open_images(project / "data/raw")
    assert images.modes_N is not None
    modes = dict(zip(images.names_N.tolist(), (MODES[code] for code in images.modes_N), strict=True))
    assert modes["cat/zz.png"] == "RGBA"
    assert modes["dog/zz.jpg"] == "CMYK"
    assert set(modes.values()) == {"RGB", "RGBA", "CMYK"}


def test_a_file_added_in_the_middle_of_a_large_folder_changes_one_shard(project: Path) -> None:
    folder = _tiny_pictures(project / "source", 6_000)
    generate(project, params_of("folder", path=str(folder), image_px=8, channel_count=1))
    before = [(shard["images_sha256"], shard["facts_sha256"]) for shard in _manifest(project)["shards"]]
    Image.new("L", (1, 1)).save(folder / "cat/02500a.ppm")
    generate(project, params_of("folder", path=str(folder), image_px=8, channel_count=1))
    after = [(shard["images_sha256"], shard["facts_sha256"]) for shard in _manifest(project)["shards"]]
    assert len(before) > 2
    assert len(set(before) - set(after)) == 1
    assert len(set(after) - set(before)) == 1
