"""generate: any source becomes the same shards, and a source that cannot be read leaves the old ones."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convloop.config import Params, check
from convloop.core.images import open_images
from convloop.errors import DataError, OutputError
from convloop.pipeline import STAGES
from convloop.reporting.publish import publish_training
from convloop.tracking import Tracker


def generate(project: Path, params: Params) -> None:
    STAGES["generate"].run(params, project, Tracker(project, params.tracking, publish_training))


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
    (project / "data/landed/manifest.json").unlink()
    (project / "data/landed").rmdir()
    (project / "data").rmdir()
    (project / "data").write_text("in the way")
    with pytest.raises(OutputError) as raised:
        generate(project, params)
    assert str(raised.value) == (
        f"{project}/data/raw cannot be written: Not a directory. Make it writable "
        f"(ls -ld {project}/data; df -h {project}/data), then run the same command again."
    )
