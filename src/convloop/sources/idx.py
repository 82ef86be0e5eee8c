"""The MNIST family: a folder of four idx files, plain or .gz.

Source of the format: Y. LeCun, C. Cortes, C. J. C. Burges, The MNIST database of handwritten digits, 1998.
"""

import gzip
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from convloop.core.images import Batch
from convloop.core.split import TEST, TRAIN
from convloop.errors import DataError
from convloop.sources import Source

if TYPE_CHECKING:
    from convloop.config import GenerateParams

_BATCH_BYTES = 2**23
_MAX_SIDE_PX = 1024
_MAX_IMAGE_COUNT = 10_000_000
_LABELS_MAGIC, _IMAGES_MAGIC = 0x0801, 0x0803


class Part(NamedTuple):
    """The files of one split."""

    split: int
    images: Path
    labels: Path


def read_idx(settings: "GenerateParams") -> Source:
    """Read train-images-idx3-ubyte, train-labels-idx1-ubyte and their t10k (or test) twins, which become the test split.

    Classes are the numbers among the labels, or the lines of a classes.txt beside the files.

    Raises:
        DataError: a file is missing or damaged, or images and labels do not fit together.
    """
    folder = Path(str(settings.path)).expanduser()
    parts = [_part(folder, TRAIN, ("train",)), _part(folder, TEST, ("t10k", "test"))]
    labels = [_labels(part.labels) for part in parts]
    values = np.unique(np.concatenate(labels))
    if not len(values):
        raise DataError(f"{parts[0].labels} holds no labels. Fetch that file again.")
    names = folder / "classes.txt"
    if names.is_file():
        classes = tuple(names.read_text(encoding="utf-8", errors="replace").split("\n"))
        classes = tuple(name.strip() for name in classes if name.strip())
        if len(set(classes)) < len(classes) or len(classes) <= values[-1]:
            raise DataError(f"{names} names {len(set(classes))} classes; labels go up to {values[-1]}. Name each once.")
        values = np.arange(len(classes), dtype=np.uint8)
    else:
        classes = tuple(str(value) for value in values)
    count = sum(len(part) for part in labels)
    return Source(classes, _batches(parts, labels, values), image_count=count)


def _part(folder: Path, split: int, starts: tuple[str, ...]) -> Part:
    files = []
    for kind in ("images-idx3", "labels-idx1"):
        for start in starts:
            found = sorted(folder.glob(f"*{start}-{kind}-ubyte*")) or sorted(
                folder.glob(f"*{start}-{kind.replace('-', '.')}-ubyte*")
            )
            if found:
                break
        if not found:
            raise DataError(
                f"params.yaml: generate.path is {folder}, where {starts[0]}-{kind}-ubyte is missing (.gz or not). "
                "Put the four idx files there."
            )
        files.append(found[0])
    return Part(split, *files)


def _batches(parts: list[Part], labels: list[NDArray[np.uint8]], values: NDArray[np.uint8]) -> Iterator[Batch]:
    for part, labels_N in zip(parts, labels, strict=True):
        with _open(part.images) as opened:
            count, height_px, width_px = _header(part.images, opened, _IMAGES_MAGIC, 3)
            if count != len(labels_N) or height_px != width_px or not 0 < height_px <= _MAX_SIDE_PX:
                raise DataError(
                    f"{part.images} says that it holds {count:,} images of {height_px}x{width_px} px; it must be square "
                    f"ones up to {_MAX_SIDE_PX} px, one for each of {len(labels_N):,} labels. Fetch that file again."
                )
            step = _BATCH_BYTES // (height_px * width_px)
            for start in range(0, count, step):
                size = min(step, count - start)
                content = _read(part.images, opened, size * height_px * width_px)
                yield Batch(
                    np.frombuffer(content, np.uint8).reshape(size, height_px, width_px, 1),
                    np.searchsorted(values, labels_N[start : start + size]).astype(np.int64),
                    np.full(size, part.split, np.int8),
                    np.full((size, 2), height_px, np.int32),
                    np.array([f"{part.images.name.split('-')[0]}/{start + index:05d}" for index in range(size)]),
                )


def _labels(file: Path) -> NDArray[np.uint8]:
    with _open(file) as opened:
        (count,) = _header(file, opened, _LABELS_MAGIC, 1)
        if count > _MAX_IMAGE_COUNT:
            raise DataError(
                f"{file} says that it holds {count:,} labels, more than {_MAX_IMAGE_COUNT:,}. Fetch it again."
            )
        return np.frombuffer(_read(file, opened, count), np.uint8)


def _open(file: Path) -> IO[bytes]:
    try:
        with file.open("rb") as opened:
            packed = opened.read(2) == b"\x1f\x8b"
        return cast("IO[bytes]", gzip.open(file)) if packed else file.open("rb")
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}. Fetch that file again.") from error


def _header(file: Path, opened: IO[bytes], magic: int, dimension_count: int) -> tuple[int, ...]:
    received, *shape = struct.unpack(f">{1 + dimension_count}I", _read(file, opened, 4 + 4 * dimension_count))
    if received != magic:
        raise DataError(
            f"{file} begins with 0x{received:08x}, an idx file of bytes with 0x{magic:08x}. Fetch it again."
        )
    return tuple(shape)


def _read(file: Path, opened: IO[bytes], byte_count: int) -> bytes:
    """Read exactly so many bytes, in pieces, since a damaged header may ask for more than the memory holds."""
    pieces = []
    try:
        while byte_count:
            piece = opened.read(min(byte_count, 2**20))
            if not piece:
                raise EOFError("it ends too early")
            pieces.append(piece)
            byte_count -= len(piece)
    except Exception as error:  # gzip and zlib raise several kinds for a damaged file
        raise DataError(f"{file} cannot be read: {error}. Fetch that file again.") from error
    return b"".join(pieces)
