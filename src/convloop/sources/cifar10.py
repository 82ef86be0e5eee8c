"""CIFAR-10: a folder of data_batch_1..5 and test_batch, as .bin or as pickles of the python version.

Source of the format: A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from convloop.core.images import Batch
from convloop.core.split import TEST, TRAIN
from convloop.errors import DataError
from convloop.sources import Source
from convloop.sources.pickled import read_pickle

if TYPE_CHECKING:
    from convloop.config import GenerateParams

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SIDE_PX = 32
PIXEL_BYTES = 3 * SIDE_PX * SIDE_PX


def read_cifar10(settings: "GenerateParams") -> Source:
    """Read the official files of either version; test_batch becomes the test split.

    Raises:
        DataError: no such folder or files, or a file unreadable, of another length or with labels above 9.
    """
    folder = Path(str(settings.path)).expanduser()
    for ending in (".bin", ""):
        files = [*sorted(folder.glob(f"data_batch_[0-9]{ending}")), folder / f"test_batch{ending}"]
        if len(files) > 1 and files[-1].is_file():
            return Source(CLASSES, _batches(files))
    raise DataError(
        f"params.yaml: generate.path is {folder}, where data_batch_1.bin and test_batch.bin are missing. "
        "Unpack the binary or the python version of CIFAR-10 and set generate.path to that folder."
    )


def _batches(files: list[Path]) -> Iterator[Batch]:
    for file in files:
        if file.suffix == ".bin":
            labels_N1, planes_NP = read_records(file, 1)
            labels_N = labels_N1[:, 0]
        else:
            tree = read_pickle(file)
            labels_N, planes_NP = checked(file, tree.get("labels"), tree.get("data"))
        if labels_N.max() >= len(CLASSES):
            raise DataError(f"{file} holds the label {labels_N.max()}; CIFAR-10 has 0 to 9. Fetch that file again.")
        yield batch_of(file.stem, TEST if file.name.startswith("test") else TRAIN, labels_N, planes_NP)


def read_records(file: Path, label_count: int) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Read a binary file: for each image `label_count` bytes of labels, then three planes of pixels.

    Raises:
        DataError: it cannot be read or is of another length.
    """
    record_bytes = label_count + PIXEL_BYTES
    try:
        content = np.fromfile(file, np.uint8)
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}. Fetch that file again.") from error
    if not len(content) or len(content) % record_bytes:
        raise DataError(
            f"{file} holds {len(content):,} bytes, which is not a multiple of {record_bytes}. Fetch that file again."
        )
    records = content.reshape(-1, record_bytes)
    return records[:, :label_count].astype(np.int64), records[:, label_count:]


def checked(file: Path, labels: object, data: object) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Check what a pickle holds: a list of whole numbers, and uint8 of shape (N, 3072).

    Raises:
        DataError: it holds something else.
    """
    fits = (
        isinstance(labels, list)
        and all(type(label) is int and 0 <= label < 256 for label in labels)
        and isinstance(data, np.ndarray)
        and data.dtype == np.uint8
        and data.shape == (len(labels), PIXEL_BYTES)
        and len(labels) > 0
    )
    if not fits:
        raise DataError(
            f"{file} does not hold labels and data (uint8, N x {PIXEL_BYTES}) as CIFAR does. Fetch that file again."
        )
    assert isinstance(labels, list)
    assert isinstance(data, np.ndarray)
    return np.array(labels, np.int64), data


def batch_of(
    name: str,
    split: int,
    labels_N: NDArray[np.int64],
    planes_NP: NDArray[np.uint8],
    slices_N: NDArray[np.str_] | None = None,
) -> Batch:
    """Turn planes of pixels into images."""
    count = len(labels_N)
    return Batch(
        np.ascontiguousarray(planes_NP.reshape(-1, 3, SIDE_PX, SIDE_PX).transpose(0, 2, 3, 1)),
        labels_N,
        np.full(count, split, np.int8),
        np.full((count, 2), SIDE_PX, np.int32),
        np.array([f"{name}/{index:05d}" for index in range(count)]),
        slices_N,
    )
