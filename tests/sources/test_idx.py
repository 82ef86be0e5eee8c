"""The four idx files of the MNIST family."""

import gzip
import random
import struct
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from convloop.config import GenerateParams
from convloop.core.split import TEST, TRAIN
from convloop.errors import DataError
from convloop.sources import Source
from convloop.sources.idx import read_idx
from tests.conftest import REPOSITORY

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 28, 28), dtype=np.uint8)


def _write(folder: Path, *, packed: bool = False, labels: tuple[int, ...] = (7, 2, 1, 0, 4)) -> Path:
    for name, part in (("train", slice(0, 3)), ("t10k", slice(3, 5))):
        images, own = IMAGES[part], labels[part]
        contents = {
            f"{name}-images-idx3-ubyte": struct.pack(">4I", 0x803, *images.shape) + images.tobytes(),
            f"{name}-labels-idx1-ubyte": struct.pack(">2I", 0x801, len(own)) + bytes(own),
        }
        for file, content in contents.items():
            (folder / (file + ".gz" * packed)).write_bytes(gzip.compress(content) if packed else content)
    return folder


def _read(folder: Path) -> Source:
    return read_idx(GenerateParams(source="idx", path=str(folder)))


def _message(folder: Path) -> str:
    with pytest.raises(DataError) as caught:
        list(_read(folder).batches)
    return str(caught.value)


@pytest.mark.parametrize("packed", [False, True])
def test_plain_and_packed_files_give_the_same(tmp_path: Path, packed: bool) -> None:
    source = _read(_write(tmp_path, packed=packed))
    train, test = source.batches
    assert source.classes == ("0", "1", "2", "4", "7")
    np.testing.assert_array_equal(train.images_NHWC, IMAGES[:3, ..., None])
    np.testing.assert_array_equal(test.images_NHWC, IMAGES[3:, ..., None])
    assert (train.labels_N.tolist(), test.labels_N.tolist()) == ([4, 2, 1], [0, 3])
    assert (train.splits_N.tolist(), test.splits_N.tolist()) == ([TRAIN] * 3, [TEST] * 2)
    assert train.names_N.tolist() == ["train/00000", "train/00001", "train/00002"]


def test_a_list_of_names_names_the_classes(tmp_path: Path) -> None:
    _write(tmp_path)
    (tmp_path / "classes.txt").write_text("a\nb\nc\nd\ne\nf\ng\nh\n")
    source = _read(tmp_path)
    assert source.classes == ("a", "b", "c", "d", "e", "f", "g", "h")
    assert next(iter(source.batches)).labels_N.tolist() == [7, 2, 1]


def test_a_list_of_too_few_names_is_refused(tmp_path: Path) -> None:
    _write(tmp_path)
    (tmp_path / "classes.txt").write_text("a\nb\n")
    assert _message(tmp_path) == f"{tmp_path}/classes.txt names 2 classes; labels go up to 7. Name each once."


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    (_write(tmp_path) / "t10k-labels-idx1-ubyte").unlink()
    assert _message(tmp_path) == (
        f"params.yaml: generate.path is {tmp_path}, where t10k-labels-idx1-ubyte is missing (.gz or not). "
        "Put the four idx files there."
    )


def test_a_cut_off_file_is_named(tmp_path: Path) -> None:
    file = _write(tmp_path) / "train-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:-1])
    assert _message(tmp_path) == f"{file} cannot be read: it ends too early. Fetch that file again."


def test_another_magic_number_is_named(tmp_path: Path) -> None:
    file = _write(tmp_path) / "train-labels-idx1-ubyte"
    file.write_bytes(struct.pack(">2I", 0x802, 3) + bytes(3))
    assert _message(tmp_path) == f"{file} begins with 0x00000802, an idx file of bytes with 0x00000801. Fetch it again."


def test_images_that_do_not_fit_their_labels_are_named(tmp_path: Path) -> None:
    file = _write(tmp_path) / "train-images-idx3-ubyte"
    file.write_bytes(struct.pack(">4I", 0x803, 4_000_000_000, 28, 28))
    assert _message(tmp_path) == (
        f"{file} says that it holds 4,000,000,000 images of 28x28 px; it must be square ones up to 1024 px, "
        "one for each of 3 labels. Fetch that file again."
    )


def test_random_damage_is_never_more_than_a_data_error(tmp_path: Path) -> None:
    rng = random.Random(1)
    files = sorted(_write(tmp_path, packed=True).iterdir())
    whole = {file: file.read_bytes() for file in files}
    for _ in range(400):
        file = rng.choice(files)
        damaged = bytearray(whole[file])
        for _ in range(rng.randint(1, 4)):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        file.write_bytes(damaged[: rng.randint(1, len(damaged))])
        try:
            batches = list(_read(tmp_path).batches)
        except DataError:
            continue
        finally:
            file.write_bytes(whole[file])
        assert sum(len(batch.labels_N) for batch in batches) == 5


def test_fashion_mnist_is_read_whole(tmp_path: Path) -> None:
    data = REPOSITORY.parent / "shared/data"
    if not data.is_dir():
        pytest.skip(f"Fashion-MNIST is not here ({data})")
    for file in data.glob("*-ubyte.gz"):
        (tmp_path / file.name).symlink_to(file)
    counts = np.zeros((3, 10), np.int64)
    for batch in _read(tmp_path).batches:
        np.add.at(counts, (batch.splits_N, batch.labels_N), 1)
    expected: NDArray[np.int64] = np.array([[6000] * 10, [0] * 10, [1000] * 10])
    np.testing.assert_array_equal(counts, expected)
