"""CIFAR-10 in its binary version: a folder of data_batch_1..5.bin and test_batch.bin.

Source of the format: A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from convloop.core.images import Batch
from convloop.core.split import TEST, TRAIN
from convloop.errors import DataError
from convloop.sources import Source

if TYPE_CHECKING:
    from convloop.config import GenerateParams

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_SIDE_PX = 32
_RECORD_BYTES = 1 + 3 * _SIDE_PX * _SIDE_PX


def read_cifar10(settings: "GenerateParams") -> Source:
    """Read the official files; test_batch.bin becomes the test split.

    Raises:
        DataError: no such folder or files, or a file unreadable, of another length or with labels above 9.
    """
    folder = Path(str(settings.path)).expanduser()
    files = [*sorted(folder.glob("data_batch_*.bin")), folder / "test_batch.bin"]
    if len(files) < 2 or not files[-1].is_file():
        raise DataError(
            f"params.yaml: generate.path is {folder}, where data_batch_1.bin and test_batch.bin are missing. "
            "Unpack the binary version of CIFAR-10 and set generate.path to that folder."
        )
    return Source(CLASSES, _batches(files))


def _batches(files: list[Path]) -> Iterator[Batch]:
    for file in files:
        try:
            content = np.fromfile(file, np.uint8)
        except OSError as error:
            raise DataError(f"{file} cannot be read: {error.strerror}. Fetch that file again.") from error
        if not len(content) or len(content) % _RECORD_BYTES:
            raise DataError(
                f"{file} holds {len(content):,} bytes, which is not a multiple of {_RECORD_BYTES}. Fetch that file again."
            )
        records = content.reshape(-1, _RECORD_BYTES)
        labels_N = records[:, 0].astype(np.int64)
        if labels_N.max() >= len(CLASSES):
            raise DataError(f"{file} holds the label {labels_N.max()}; CIFAR-10 has 0 to 9. Fetch that file again.")
        images_NCHW = records[:, 1:].reshape(-1, 3, _SIDE_PX, _SIDE_PX)
        count = len(records)
        yield Batch(
            np.ascontiguousarray(images_NCHW.transpose(0, 2, 3, 1)),
            labels_N,
            np.full(count, TEST if file.name.startswith("test") else TRAIN, np.int8),
            np.full((count, 2), _SIDE_PX, np.int32),
            np.array([f"{file.stem}/{index:05d}" for index in range(count)]),
        )
