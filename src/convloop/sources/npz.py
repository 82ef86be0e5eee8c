"""Arrays of numpy: `images` and `labels`, and if wanted `classes` and `splits`, in one .npz or in .npy files.

Of the images only a batch of 32 MiB is in memory at a time, packed or not; labels and splits are read whole, and so are
images in Fortran order within an .npz.
"""

import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from convloop.core.images import NO_SPLIT, SPLITS, Batch
from convloop.errors import DataError
from convloop.sources import Source

if TYPE_CHECKING:
    from convloop.config import GenerateParams

_BATCH_BYTES = 2**25
_IMAGES = "images.npy"

Pieces = Callable[[int], Iterator[NDArray[np.uint8]]]  # so many images at a time, in their order


def read_npz(settings: "GenerateParams") -> Source:
    """Read uint8 `images` (N,H,W or N,H,W,C with 1 or 3 channels) and whole-number `labels` (N) from 0.

    `classes` (K texts) names the labels; `splits` (N texts: train, val, test) keeps a split that is given.

    Raises:
        DataError: the file is missing or damaged, or an array is absent, misshapen or of another type.
    """
    file = Path(str(settings.path)).expanduser()
    if not file.is_file():
        raise DataError(f"params.yaml: generate.path is {file}, which is not a file. Set it to an .npz file.")
    try:
        # numpy leaves a file open that it opened itself and could not read.
        with file.open("rb") as opened:
            archive = np.load(opened)
            if isinstance(archive, np.ndarray):
                raise ValueError("it is a single array")
            with archive:
                is_streamed = "images" in archive.files and _is_streamed(archive)
                arrays = {
                    name: _outline(archive) if name == "images" and is_streamed else archive[name]
                    for name in archive.files
                }
    except Exception as error:  # zipfile, zlib and numpy raise a dozen kinds for a damaged archive
        raise _damaged(file, error) from error

    def pieces(step: int) -> Iterator[NDArray[np.uint8]]:
        if is_streamed:
            return _streamed(file, step)
        images_NHWC = _images(file, arrays["images"])
        return (images_NHWC[start : start + step] for start in range(0, len(images_NHWC), step))

    return _source(file, arrays, pieces)


def _is_streamed(archive: Any) -> bool:
    with archive.zip.open(_IMAGES) as member:
        _, is_fortran, dtype = _header(member)
    return not is_fortran and not dtype.hasobject


def _outline(archive: Any) -> NDArray[Any]:
    """Give the images' shape and type without the memory."""
    with archive.zip.open(_IMAGES) as member:
        shape, _, dtype = _header(member)
    return np.broadcast_to(np.zeros((), dtype), shape)


def _streamed(file: Path, step: int) -> Iterator[NDArray[np.uint8]]:
    """Unpack so many images at a time."""
    try:
        with zipfile.ZipFile(file) as archive, archive.open(_IMAGES) as member:
            shape, _, _ = _header(member)
            image_bytes = int(np.prod(shape[1:]))
            for start in range(0, shape[0], step):
                count = min(step, shape[0] - start)
                content = member.read(count * image_bytes)
                if len(content) < count * image_bytes:
                    raise ValueError("images.npy ends too early")
                yield _images(file, np.frombuffer(content, np.uint8).reshape(count, *shape[1:]))
    except (zipfile.BadZipFile, OSError, ValueError, EOFError, zlib.error) as error:
        raise _damaged(file, error) from error


def _header(member: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Read shape, order and type of an .npy, up to where its values begin."""
    version = np.lib.format.read_magic(member)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return read(member)


def _damaged(file: Path, error: Exception) -> DataError:
    return DataError(f"{file} cannot be read as .npz without pickles: {error}. Write it again with numpy.savez.")


def read_npy(settings: "GenerateParams") -> Source:
    """Read a folder of images.npy and labels.npy, and if wanted classes.npy and splits.npy, each as in an .npz.

    Raises:
        DataError: the folder is missing, a file is damaged, or an array is absent, misshapen or of another type.
    """
    folder = Path(str(settings.path)).expanduser()
    if not folder.is_dir():
        raise DataError(
            f"params.yaml: generate.path is {folder}, which is not a folder. Set it to one of images.npy and labels.npy."
        )
    names = [name for name in ("images", "labels", "classes", "splits") if (folder / f"{name}.npy").is_file()]
    arrays = {name: _mapped(folder / f"{name}.npy") for name in names}

    def pieces(step: int) -> Iterator[NDArray[np.uint8]]:
        for start in range(0, len(arrays["images"]), step):
            # Mapped anew for each batch, since pages that were read stay in memory as long as their map does.
            yield np.array(_images(folder, _mapped(folder / "images.npy"))[start : start + step])

    return _source(folder, arrays, pieces)


def _mapped(file: Path) -> NDArray[Any]:
    try:
        array = np.load(file, mmap_mode="r")
        if not isinstance(array, np.ndarray):
            raise ValueError("it is an archive of arrays")
    except Exception as error:  # numpy raises several kinds for a damaged header
        raise DataError(
            f"{file} cannot be read as .npy without pickles: {error}. Write it again with numpy.save."
        ) from error
    return array


def _source(file: Path, arrays: dict[str, NDArray[Any]], pieces: Pieces) -> Source:
    for name in ("images", "labels"):
        if name not in arrays:
            raise DataError(
                f"{file} has no array `{name}`; it holds {', '.join(arrays) or 'nothing'}. Name them images and labels."
            )
    shape_NHWC = _images(file, arrays["images"]).shape
    labels_N = _labels(file, arrays["labels"], shape_NHWC[0])
    class_count = int(labels_N.max()) + 1
    classes = tuple(str(name) for name in np.ravel(arrays.get("classes", np.arange(class_count))))
    if len(classes) < class_count or len(set(classes)) < len(classes):
        raise DataError(
            f"{file}: classes names {len(set(classes))} classes, but labels go up to {class_count - 1}. Name each once."
        )
    splits_N = _splits(file, arrays.get("splits"), shape_NHWC[0])
    return Source(classes, _batches(file.stem, shape_NHWC, labels_N, splits_N, pieces), image_count=len(labels_N))


def _batches(
    name: str,
    shape_NHWC: tuple[int, ...],
    labels_N: NDArray[np.int64],
    splits_N: NDArray[np.int8],
    pieces: Pieces,
) -> Iterator[Batch]:
    image_count, *shape_HWC = shape_NHWC
    step = max(1, _BATCH_BYTES // int(np.prod(shape_HWC)))
    for start, images_NHWC in zip(range(0, image_count, step), pieces(step), strict=True):
        stop = start + len(images_NHWC)
        yield Batch(
            images_NHWC,
            labels_N[start:stop],
            splits_N[start:stop],
            np.tile(np.array(shape_HWC[:2], np.int32), (stop - start, 1)),
            np.array([f"{name}/{index:07d}" for index in range(start, stop)]),
        )


def _images(file: Path, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    if images.ndim == 3:
        images = images[..., None]
    if (
        images.dtype != np.uint8
        or images.ndim != 4
        or images.shape[-1] not in (1, 3)
        or images.shape[1] != images.shape[2]
    ):
        raise DataError(
            f"{file}: images is {images.dtype} of shape {images.shape}; it must be uint8 of shape (N, side, side, 1 or 3)."
        )
    return images


def _labels(file: Path, labels: NDArray[np.int64], image_count: int) -> NDArray[np.int64]:
    if (
        not np.issubdtype(labels.dtype, np.integer)
        or labels.shape != (image_count,)
        or not image_count
        or labels.min() < 0
        or labels.max() >= image_count
    ):
        raise DataError(
            f"{file}: labels is {labels.dtype} of shape {labels.shape}; it must hold whole numbers from 0 to "
            f"{max(image_count - 1, 0)}, one for each of {image_count} images."
        )
    return labels.astype(np.int64)


def _splits(file: Path, names: NDArray[np.str_] | None, image_count: int) -> NDArray[np.int8]:
    if names is None:
        return np.full(image_count, NO_SPLIT, np.int8)
    unknown = sorted({str(name) for name in np.ravel(names)} - set(SPLITS))
    if unknown or names.shape != (image_count,):
        raise DataError(
            f"{file}: splits holds {unknown or names.shape}; it must hold train, val or test for each image."
        )
    return np.array([SPLITS.index(str(name)) for name in names], np.int8)
