"""CIFAR-100's own files, tiny ones written in its format."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from convloop.config import GenerateParams
from convloop.core.split import TEST, TRAIN
from convloop.errors import DataError
from convloop.sources import Source
from convloop.sources.cifar100 import read_cifar100

FINE = [f"fine{label}" for label in range(100)]
COARSE = [f"coarse{label}" for label in range(20)]
PLANES = np.random.default_rng(0).integers(0, 256, (2, 3072), dtype=np.uint8)


def _binary(folder: Path, coarse: int = 4) -> Path:
    for name, seed in (("train", 0), ("test", 1)):
        (folder / f"{name}.bin").write_bytes(bytes([coarse, 97 + seed]) + PLANES[seed].tobytes())
    (folder / "fine_label_names.txt").write_text("\n".join(FINE) + "\n")
    (folder / "coarse_label_names.txt").write_text("\n".join(COARSE) + "\n")
    return folder


def _python(folder: Path) -> Path:
    for name, seed in (("train", 0), ("test", 1)):
        tree = {b"fine_labels": [97 + seed], b"coarse_labels": [4], b"data": PLANES[seed : seed + 1]}
        (folder / name).write_bytes(pickle.dumps(tree, protocol=2))
    names = {b"fine_label_names": [name.encode() for name in FINE], b"coarse_label_names": COARSE}
    (folder / "meta").write_bytes(pickle.dumps(names, protocol=2))
    return folder


def _read(folder: Path) -> Source:
    return read_cifar100(GenerateParams(source="cifar100", path=str(folder)))


@pytest.mark.parametrize("write", [_binary, _python])
def test_both_versions_give_fine_labels_and_coarse_slices(tmp_path: Path, write: object) -> None:
    assert callable(write)
    source = _read(write(tmp_path))
    train, test = source.batches
    assert source.classes == tuple(FINE)
    assert (train.labels_N.tolist(), test.labels_N.tolist()) == ([97], [98])
    assert (train.splits_N.tolist(), test.splits_N.tolist()) == ([TRAIN], [TEST])
    assert train.slices_N is not None
    assert train.slices_N.tolist() == ['{"coarse": "coarse4"}']
    np.testing.assert_array_equal(train.images_NHWC[0], PLANES[0].reshape(3, 32, 32).transpose(1, 2, 0))


def test_classes_without_names_are_numbers(tmp_path: Path) -> None:
    (_binary(tmp_path) / "fine_label_names.txt").unlink()
    assert _read(tmp_path).classes == tuple(str(label) for label in range(100))


def test_a_label_out_of_range_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        list(_read(_binary(tmp_path, coarse=20)).batches)
    assert str(caught.value) == (
        f"{tmp_path}/train.bin holds the labels 97 (fine) and 20 (coarse); CIFAR-100 has 0 to 99 and 0 to 19. "
        "Fetch that file again."
    )


def test_names_that_are_too_few_are_refused(tmp_path: Path) -> None:
    (_binary(tmp_path) / "fine_label_names.txt").write_text("cat dog")
    with pytest.raises(DataError) as caught:
        _read(tmp_path)
    assert str(caught.value) == f"{tmp_path}/fine_label_names.txt names 2 fine classes, not 100. Fetch that file again."


def test_a_folder_without_the_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        _read(tmp_path)
    assert str(caught.value) == (
        f"params.yaml: generate.path is {tmp_path}, where train.bin and test.bin are missing. "
        "Unpack the binary or the python version of CIFAR-100 and set generate.path to that folder."
    )
