"""One .npz file of arrays, whole and damaged."""

import io
import random
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from convloop.config import GenerateParams
from convloop.core.images import NO_SPLIT, Batch
from convloop.core.split import TEST, TRAIN, VAL
from convloop.errors import DataError
from convloop.sources import Source
from convloop.sources.npz import read_npy, read_npz

IMAGES: NDArray[np.uint8] = np.arange(4 * 8 * 8 * 3, dtype=np.uint16).astype(np.uint8).reshape(4, 8, 8, 3)
LABELS = np.array([1, 0, 2, 1])


def _read(file: Path) -> Source:
    return read_npz(GenerateParams(source="npz", path=str(file)))


def _saved(tmp_path: Path, **arrays: Any) -> Path:
    file = tmp_path / "pictures.npz"
    np.savez(file, **{"images": IMAGES, "labels": LABELS, **arrays})
    return file


def _batch(file: Path) -> Batch:
    (batch,) = _read(file).batches
    return batch


def _message(file: Path) -> str:
    with pytest.raises(DataError) as caught:
        _read(file)
    return str(caught.value)


def test_images_and_labels_come_through_unchanged(tmp_path: Path) -> None:
    batch = _batch(_saved(tmp_path))
    np.testing.assert_array_equal(batch.images_NHWC, IMAGES)
    np.testing.assert_array_equal(batch.labels_N, LABELS)


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.uint64])
def test_labels_of_any_whole_number_type_are_taken(tmp_path: Path, dtype: type) -> None:
    batch = _batch(_saved(tmp_path, labels=LABELS.astype(dtype)))
    assert batch.labels_N.dtype == np.int64
    np.testing.assert_array_equal(batch.labels_N, LABELS)


def test_gray_images_without_a_channel_axis_get_one(tmp_path: Path) -> None:
    np.testing.assert_array_equal(_batch(_saved(tmp_path, images=IMAGES[..., 0])).images_NHWC, IMAGES[..., :1])


def test_classes_are_numbered_where_none_are_named(tmp_path: Path) -> None:
    assert _read(_saved(tmp_path)).classes == ("0", "1", "2")


def test_classes_keep_their_names(tmp_path: Path) -> None:
    assert _read(_saved(tmp_path, classes=["cat", "dog", "owl", "emu"])).classes == ("cat", "dog", "owl", "emu")


def test_images_without_splits_are_free(tmp_path: Path) -> None:
    assert _batch(_saved(tmp_path)).splits_N.tolist() == [NO_SPLIT] * 4


def test_given_splits_are_kept(tmp_path: Path) -> None:
    batch = _batch(_saved(tmp_path, splits=["train", "test", "val", "train"]))
    assert batch.splits_N.tolist() == [TRAIN, TEST, VAL, TRAIN]


def test_images_are_named_by_file_and_place_and_know_their_size(tmp_path: Path) -> None:
    batch = _batch(_saved(tmp_path))
    assert batch.names_N.tolist() == [f"pictures/000000{index}" for index in range(4)]
    assert batch.original_px_N2.tolist() == [[8, 8]] * 4


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert _message(tmp_path / "none.npz") == (
        f"params.yaml: generate.path is {tmp_path}/none.npz, which is not a file. Set it to an .npz file."
    )


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04 cut off"])
def test_a_damaged_file_is_named(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "pictures.npz"
    file.write_bytes(content)
    message = _message(file)
    assert message.startswith(f"{file} cannot be read as .npz without pickles: ")
    assert message.endswith(". Write it again with numpy.savez.")


def test_a_single_array_is_not_an_archive(tmp_path: Path) -> None:
    file = tmp_path / "pictures.npz"
    with file.open("wb") as opened:
        np.save(opened, IMAGES)
    assert _message(file) == (
        f"{file} cannot be read as .npz without pickles: it is a single array. Write it again with numpy.savez."
    )


def test_random_damage_is_never_more_than_a_data_error(tmp_path: Path) -> None:
    rng = random.Random(1)
    file = tmp_path / "pictures.npz"
    np.savez_compressed(file, images=IMAGES, labels=LABELS)
    whole = file.read_bytes()
    for _ in range(400):
        damaged = bytearray(whole)
        for _ in range(rng.randint(1, 3)):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        file.write_bytes(damaged)
        try:
            source = _read(file)
        except DataError:
            continue
        assert len(source.classes) == 3


def test_a_changed_byte_in_the_pixels_is_found(tmp_path: Path) -> None:
    file = _saved(tmp_path)
    content = bytearray(file.read_bytes())
    content[300] ^= 1
    file.write_bytes(content)
    assert _message(file) == (
        f"{file} cannot be read as .npz without pickles: Bad CRC-32 for file 'images.npy'. "
        "Write it again with numpy.savez."
    )


def test_pickled_objects_are_refused(tmp_path: Path) -> None:
    file = _saved(tmp_path, labels=np.array([{}] * 4, object))
    assert _message(file) == (
        f"{file} cannot be read as .npz without pickles: Object arrays cannot be loaded when allow_pickle=False. "
        "Write it again with numpy.savez."
    )


@pytest.mark.parametrize("name", ["images", "labels"])
def test_a_missing_array_is_named_with_those_there(tmp_path: Path, name: str) -> None:
    file = tmp_path / "pictures.npz"
    other = {"images": "labels", "labels": "images"}[name]
    arrays: dict[str, Any] = {other: LABELS, "x": LABELS}
    np.savez(file, **arrays)
    assert _message(file) == (f"{file} has no array `{name}`; it holds {other}, x. Name them images and labels.")


def test_an_empty_archive_holds_nothing(tmp_path: Path) -> None:
    np.savez(tmp_path / "pictures.npz")
    assert _message(tmp_path / "pictures.npz") == (
        f"{tmp_path}/pictures.npz has no array `images`; it holds nothing. Name them images and labels."
    )


@pytest.mark.parametrize(
    ("images", "received"),
    [
        (IMAGES.astype(np.float32), "float32 of shape (4, 8, 8, 3)"),
        (IMAGES[..., :2], "uint8 of shape (4, 8, 8, 2)"),
        (IMAGES[:, :7], "uint8 of shape (4, 7, 8, 3)"),
        (IMAGES[0, 0], "uint8 of shape (8, 3)"),
        (IMAGES[None], "uint8 of shape (1, 4, 8, 8, 3)"),
        (np.uint8(3), "uint8 of shape ()"),
    ],
)
def test_images_of_another_form_are_refused(tmp_path: Path, images: Any, received: str) -> None:
    file = _saved(tmp_path, images=images)
    assert _message(file) == (f"{file}: images is {received}; it must be uint8 of shape (N, side, side, 1 or 3).")


@pytest.mark.parametrize(
    ("labels", "received"),
    [
        (LABELS.astype(np.float64), "float64 of shape (4,)"),
        (LABELS[:3], "int64 of shape (3,)"),
        (LABELS[:, None], "int64 of shape (4, 1)"),
        (LABELS - 1, "int64 of shape (4,)"),
        (LABELS + 2, "int64 of shape (4,)"),
        (LABELS * 10**15, "int64 of shape (4,)"),
        (LABELS > 0, "bool of shape (4,)"),
        (np.array(["a", "b", "c", "d"]), "<U1 of shape (4,)"),
    ],
)
def test_labels_of_another_form_are_refused(tmp_path: Path, labels: Any, received: str) -> None:
    file = _saved(tmp_path, labels=labels)
    assert _message(file) == (
        f"{file}: labels is {received}; it must hold whole numbers from 0 to 3, one for each of 4 images."
    )


def test_no_images_at_all_are_refused(tmp_path: Path) -> None:
    file = _saved(tmp_path, images=IMAGES[:0], labels=LABELS[:0])
    assert _message(file) == (
        f"{file}: labels is int64 of shape (0,); it must hold whole numbers from 0 to 0, one for each of 0 images."
    )


@pytest.mark.parametrize(
    ("classes", "count"), [(["cat", "dog"], 2), (["cat", "dog", "cat"], 2), ("cat", 1), ([["cat", "dog"]], 2)]
)
def test_classes_that_do_not_name_each_label_once_are_refused(tmp_path: Path, classes: Any, count: int) -> None:
    file = _saved(tmp_path, classes=classes)
    assert _message(file) == (f"{file}: classes names {count} classes, but labels go up to 2. Name each once.")


@pytest.mark.parametrize(
    ("splits", "received"),
    [
        (["train", "test", "valid", "dev"], "['dev', 'valid']"),
        (["train", "test"], "(2,)"),
        ("train", "()"),
        ([0, 1, 2, 0], "['0', '1', '2']"),
    ],
)
def test_other_splits_are_refused(tmp_path: Path, splits: Any, received: str) -> None:
    file = _saved(tmp_path, splits=splits)
    assert _message(file) == (f"{file}: splits holds {received}; it must hold train, val or test for each image.")


def _folder(tmp_path: Path, **arrays: Any) -> Path:
    for name, array in {"images": IMAGES, "labels": LABELS, **arrays}.items():
        np.save(tmp_path / f"{name}.npy", array)
    return tmp_path


def _read_npy(folder: Path) -> Source:
    return read_npy(GenerateParams(source="npy", path=str(folder)))


def _npy_message(folder: Path) -> str:
    with pytest.raises(DataError) as caught:
        list(_read_npy(folder).batches)
    return str(caught.value)


def test_files_of_a_folder_are_the_arrays_of_an_archive(tmp_path: Path) -> None:
    classes, splits = ["cat", "dog", "owl"], ["train", "test", "val", "train"]
    source = _read_npy(_folder(tmp_path, classes=classes, splits=splits))
    (batch,) = source.batches
    assert source.classes == tuple(classes)
    assert source.image_count == 4
    assert batch.splits_N.tolist() == [TRAIN, TEST, VAL, TRAIN]
    np.testing.assert_array_equal(batch.images_NHWC, IMAGES)
    np.testing.assert_array_equal(batch.labels_N, LABELS)


def test_many_images_of_a_folder_come_in_batches_in_their_order(tmp_path: Path) -> None:
    images_NHWC = np.arange(70, dtype=np.uint8)[:, None, None, None].repeat(1024, 1).repeat(1024, 2)
    batches = list(_read_npy(_folder(tmp_path, images=images_NHWC, labels=np.arange(70))).batches)
    assert [len(batch.labels_N) for batch in batches] == [32, 32, 6]
    assert [int(image[0, 0, 0]) for batch in batches for image in batch.images_NHWC] == list(range(70))
    assert [int(label) for batch in batches for label in batch.labels_N] == list(range(70))


def test_a_folder_without_an_array_is_named(tmp_path: Path) -> None:
    (_folder(tmp_path) / "labels.npy").unlink()
    assert _npy_message(tmp_path) == (
        f"{tmp_path} has no array `labels`; it holds images. Name them images and labels."
    )


def test_a_missing_folder_of_arrays_is_named(tmp_path: Path) -> None:
    assert _npy_message(tmp_path / "none") == (
        f"params.yaml: generate.path is {tmp_path}/none, which is not a folder. "
        "Set it to one of images.npy and labels.npy."
    )


def test_pickled_objects_in_a_folder_are_refused(tmp_path: Path) -> None:
    message = _npy_message(_folder(tmp_path, labels=np.array([{}] * 4, object)))
    assert message.startswith(f"{tmp_path}/labels.npy cannot be read as .npy without pickles: ")
    assert message.endswith(". Write it again with numpy.save.")


def test_random_damage_in_a_folder_is_never_more_than_a_data_error(tmp_path: Path) -> None:
    rng = random.Random(1)
    files = [_folder(tmp_path) / "images.npy", tmp_path / "labels.npy"]
    whole = {file: file.read_bytes() for file in files}
    for _ in range(400):
        file = rng.choice(files)
        damaged = bytearray(whole[file])
        for _ in range(rng.randint(1, 3)):
            damaged[rng.randrange(160)] = rng.randrange(256)  # the header, and some values
        file.write_bytes(damaged[: rng.randint(100, len(damaged))])
        try:
            batches = list(_read_npy(tmp_path).batches)
        except DataError:
            continue
        finally:
            file.write_bytes(whole[file])
        assert sum(len(batch.labels_N) for batch in batches) == 4


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_images_beyond_a_batch_come_in_pieces_and_unchanged(tmp_path: Path, save: Any) -> None:
    """40 MB, of which a batch is 32 MiB; labels and what zlib needs are small beside it."""
    images_NHW = np.repeat(np.arange(10_000 * 64) % 251, 64).astype(np.uint8).reshape(10_000, 64, 64)
    save(tmp_path / "large.npz", images=images_NHW, labels=np.arange(10_000) % 2)
    read_count = 0
    for batch in _read(tmp_path / "large.npz").batches:
        np.testing.assert_array_equal(
            batch.images_NHWC[..., 0], images_NHW[read_count : read_count + len(batch.labels_N)]
        )
        read_count += len(batch.labels_N)
        assert batch.images_NHWC.nbytes <= 2**25
    assert read_count == 10_000


def test_images_of_an_npz_are_never_all_in_memory(tmp_path: Path) -> None:
    np.savez_compressed(
        tmp_path / "large.npz", images=np.zeros((40_000, 64, 64), np.uint8), labels=np.arange(40_000) % 2
    )
    tracemalloc.start()
    count = sum(len(batch.labels_N) for batch in _read(tmp_path / "large.npz").batches)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 40_000
    assert peak_bytes < 110e6  # of 164 MB: two batches and a piece that is being unpacked


def test_images_in_fortran_order_come_through_unchanged(tmp_path: Path) -> None:
    np.testing.assert_array_equal(_batch(_saved(tmp_path, images=np.asfortranarray(IMAGES))).images_NHWC, IMAGES)


def test_pixels_that_end_too_early_are_a_data_error(tmp_path: Path) -> None:
    file = _saved(tmp_path)
    short = io.BytesIO()
    np.save(short, IMAGES)
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("images.npy", short.getvalue()[:-1])
        labels = io.BytesIO()
        np.save(labels, LABELS)
        archive.writestr("labels.npy", labels.getvalue())
    with pytest.raises(DataError) as caught:
        list(_read(file).batches)
    assert str(caught.value) == (
        f"{file} cannot be read as .npz without pickles: images.npy ends too early. Write it again with numpy.savez."
    )
