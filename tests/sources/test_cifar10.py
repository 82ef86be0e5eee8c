"""CIFAR-10's own files, tiny ones written in its format."""

import pickle
import random
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from convloop.config import GenerateParams
from convloop.core.split import TEST, TRAIN
from convloop.errors import DataError
from convloop.sources import Source
from convloop.sources.cifar10 import read_cifar10


def _write(file: Path, labels: list[int], seed: int = 0) -> NDArray[np.uint8]:
    """Write records of a label and three planes of 32x32; give the images as N, 32, 32, 3."""
    rng = np.random.default_rng(seed)
    planes_NCHW = rng.integers(0, 256, (len(labels), 3, 32, 32), dtype=np.uint8)
    records = (bytes([label]) + planes.tobytes() for label, planes in zip(labels, planes_NCHW, strict=True))
    file.write_bytes(b"".join(records))
    return planes_NCHW.transpose(0, 2, 3, 1)


def _read(folder: Path) -> Source:
    return read_cifar10(GenerateParams(source="cifar10", path=str(folder)))


def _message(folder: Path) -> str:
    with pytest.raises(DataError) as caught:
        list(_read(folder).batches)
    return str(caught.value)


def test_every_file_is_a_batch_in_order(tmp_path: Path) -> None:
    expected = [
        _write(tmp_path / "data_batch_1.bin", [3, 9], 1),
        _write(tmp_path / "data_batch_2.bin", [0], 2),
        _write(tmp_path / "test_batch.bin", [5, 5, 1], 3),
    ]
    batches = list(_read(tmp_path).batches)
    assert [batch.labels_N.tolist() for batch in batches] == [[3, 9], [0], [5, 5, 1]]
    for batch, images_NHWC in zip(batches, expected, strict=True):
        np.testing.assert_array_equal(batch.images_NHWC, images_NHWC)


def test_the_test_file_becomes_the_test_split(tmp_path: Path) -> None:
    _write(tmp_path / "data_batch_1.bin", [3, 9])
    _write(tmp_path / "test_batch.bin", [5])
    assert [batch.splits_N.tolist() for batch in _read(tmp_path).batches] == [[TRAIN, TRAIN], [TEST]]


def test_images_are_named_by_file_and_place(tmp_path: Path) -> None:
    _write(tmp_path / "data_batch_1.bin", [3, 9])
    _write(tmp_path / "test_batch.bin", [5])
    names = [str(name) for batch in _read(tmp_path).batches for name in batch.names_N]
    assert names == ["data_batch_1/00000", "data_batch_1/00001", "test_batch/00000"]


def test_sizes_are_those_of_the_format(tmp_path: Path) -> None:
    _write(tmp_path / "data_batch_1.bin", [3])
    _write(tmp_path / "test_batch.bin", [5])
    assert [batch.original_px_N2.tolist() for batch in _read(tmp_path).batches] == [[[32, 32]], [[32, 32]]]


def test_classes_are_in_the_official_order(tmp_path: Path) -> None:
    _write(tmp_path / "data_batch_1.bin", [3])
    _write(tmp_path / "test_batch.bin", [5])
    assert " ".join(_read(tmp_path).classes) == "airplane automobile bird cat deer dog frog horse ship truck"


@pytest.mark.parametrize("present", [(), ("data_batch_1.bin",), ("test_batch.bin",)])
def test_a_folder_without_the_files_is_refused(tmp_path: Path, present: tuple[str, ...]) -> None:
    for name in present:
        _write(tmp_path / name, [3])
    assert _message(tmp_path) == (
        f"params.yaml: generate.path is {tmp_path}, where data_batch_1.bin and test_batch.bin are missing. "
        "Unpack the binary or the python version of CIFAR-10 and set generate.path to that folder."
    )


def test_a_cut_off_file_is_refused(tmp_path: Path) -> None:
    _write(tmp_path / "data_batch_1.bin", [3])
    _write(tmp_path / "test_batch.bin", [5, 5])
    file = tmp_path / "test_batch.bin"
    file.write_bytes(file.read_bytes()[:-1])
    assert _message(tmp_path) == (f"{file} holds 6,145 bytes, which is not a multiple of 3073. Fetch that file again.")


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    _write(tmp_path / "data_batch_1.bin", [])
    _write(tmp_path / "test_batch.bin", [5])
    assert _message(tmp_path) == (
        f"{tmp_path}/data_batch_1.bin holds 0 bytes, which is not a multiple of 3073. Fetch that file again."
    )


def test_a_label_beyond_nine_is_refused(tmp_path: Path) -> None:
    _write(tmp_path / "data_batch_1.bin", [3, 10])
    _write(tmp_path / "test_batch.bin", [5])
    assert _message(tmp_path) == (
        f"{tmp_path}/data_batch_1.bin holds the label 10; CIFAR-10 has 0 to 9. Fetch that file again."
    )


def _pickle(file: Path, labels: list[int], seed: int = 0) -> NDArray[np.uint8]:
    """Write a batch as the python version does, with keys of bytes; give the images as N, 32, 32, 3."""
    planes_NP = np.random.default_rng(seed).integers(0, 256, (len(labels), 3072), dtype=np.uint8)
    tree = {b"labels": labels, b"data": planes_NP, b"batch_label": b"training batch 1 of 5"}
    file.write_bytes(pickle.dumps(tree, protocol=2))
    return planes_NP.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)


def test_the_python_version_gives_the_same(tmp_path: Path) -> None:
    train_NHWC = _pickle(tmp_path / "data_batch_1", [3, 9], 1)
    test_NHWC = _pickle(tmp_path / "test_batch", [5], 2)
    first, last = _read(tmp_path).batches
    np.testing.assert_array_equal(first.images_NHWC, train_NHWC)
    np.testing.assert_array_equal(last.images_NHWC, test_NHWC)
    assert (first.labels_N.tolist(), last.labels_N.tolist()) == ([3, 9], [5])
    assert (first.splits_N.tolist(), last.splits_N.tolist()) == ([TRAIN, TRAIN], [TEST])
    assert first.names_N.tolist() == ["data_batch_1/00000", "data_batch_1/00001"]


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path) -> None:
    _pickle(tmp_path / "data_batch_1", [3])
    (tmp_path / "test_batch").write_bytes(b"cos\nsystem\n(S'touch " + bytes(tmp_path / "ran") + b"'\ntR.")
    assert _message(tmp_path) == (
        f"{tmp_path}/test_batch cannot be read as a pickle of arrays: it names os.system. Fetch that file again."
    )
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"labels": [1, 2]},
        {"labels": [True]},
        {"labels": [-1]},
        {"labels": "a"},
        {"data": [1]},
        {"data": np.zeros((1, 3071), np.uint8)},
        {"data": np.zeros((1, 3072), np.float32)},
    ],
)
def test_a_pickle_of_something_else_is_refused(tmp_path: Path, changes: dict[str, object]) -> None:
    _pickle(tmp_path / "data_batch_1", [3])
    _pickle(tmp_path / "test_batch", [3])
    tree = {"labels": [3], "data": np.zeros((1, 3072), np.uint8), **changes}
    (tmp_path / "test_batch").write_bytes(pickle.dumps(tree))
    assert _message(tmp_path) == (
        f"{tmp_path}/test_batch does not hold labels and data (uint8, N x 3072) as CIFAR does. Fetch that file again."
    )


def test_random_damage_in_a_pickle_is_never_more_than_a_data_error(tmp_path: Path) -> None:
    rng = random.Random(1)
    _pickle(tmp_path / "data_batch_1", [3])
    _pickle(tmp_path / "test_batch", [5, 1])
    whole = (tmp_path / "test_batch").read_bytes()
    head = len(whole) - 6144  # pixels may be anything
    for _ in range(1000):
        damaged = bytearray(whole)
        for _ in range(rng.randint(1, 4)):
            damaged[rng.choice((rng.randrange(head), rng.randrange(len(whole))))] = rng.randrange(256)
        (tmp_path / "test_batch").write_bytes(damaged)
        try:
            batches = list(_read(tmp_path).batches)
        except DataError:
            continue
        assert batches[1].images_NHWC.shape == (2, 32, 32, 3)


def test_a_pickle_whose_memo_reaches_for_gigabytes_is_read_in_little_memory(tmp_path: Path) -> None:
    _pickle(tmp_path / "data_batch_1", [3])
    (tmp_path / "test_batch").write_bytes(b"\x80\x02}r\xff\xff\xff\xff.")  # LONG_BINPUT 4,294,967,295
    tracemalloc.start()
    message = _message(tmp_path)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert message.startswith(f"{tmp_path}/test_batch does not hold labels and data")
    assert peak_bytes < 10_000_000


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data_batch_1.bin").mkdir()
    _write(tmp_path / "test_batch.bin", [5])
    assert _message(tmp_path) == (f"{tmp_path}/data_batch_1.bin cannot be read: Is a directory. Fetch that file again.")
